//! Binary Merkle roots over an ordered list of hashes: for the transactions of a block and the chunks of a model state;
//! and proofs that a hash stands in such a list.
//!
//! An odd node is carried up unchanged (never doubled, which would give two lists one root), and the number of leaves
//! is hashed into the root.

use crate::{
    Hash,
    canonical::{Decode, Encode},
    hash::Domain,
};

/// The root over `leaves`, in order; `Hash::ZERO` over none.
pub fn root(leaves: &[Hash]) -> Hash {
    if leaves.is_empty() {
        return Hash::ZERO;
    }
    let mut level = lowest(leaves);
    while level.len() > 1 {
        level = above(&level);
    }
    counted(leaves.len() as u64, &level[0])
}

/// Proves that the leaf at `index` stands there; `None` when there is no such leaf.
pub fn prove(leaves: &[Hash], index: usize) -> Option<Proof> {
    leaves.get(index)?;
    let (mut level, mut at, mut beside) = (lowest(leaves), index, Vec::new());
    while level.len() > 1 {
        beside.extend(level.get(at ^ 1));
        level = above(&level);
        at /= 2;
    }
    Some(Proof { index: index as u64, leaves: leaves.len() as u64, beside })
}

/// Proof that a leaf stands at a place of the list behind a root.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Proof {
    /// The leaf's place, from 0.
    pub index: u64,
    /// Leaves in the list.
    pub leaves: u64,
    /// Hashes beside the path, from the leaf up; none where the path is carried up.
    pub beside: Vec<Hash>,
}

impl Proof {
    /// No proof's canonical bytes are longer.
    pub const MAX_BYTES: usize = 24 + 64 * 32;

    /// Whether it proves that `leaf` stands at `index` of the list of `leaves` leaves behind `root`.
    pub fn verify(&self, root: &Hash, leaf: &Hash) -> bool {
        if self.index >= self.leaves {
            return false;
        }
        let (mut at, mut width, mut beside) = (self.index, self.leaves, self.beside.iter());
        let mut hash = leaf_hash(leaf);
        while width > 1 {
            if at ^ 1 < width {
                let Some(other) = beside.next() else { return false };
                hash = if at & 1 == 0 { pair_hash(&hash, other) } else { pair_hash(other, &hash) };
            }
            (at, width) = (at / 2, width.div_ceil(2));
        }
        beside.next().is_none() && counted(self.leaves, &hash) == *root
    }
}

fn leaf_hash(leaf: &Hash) -> Hash {
    Hash::of(Domain::MerkleLeaf, &leaf.0)
}

fn pair_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of_parts(Domain::MerkleNode, &[&left.0, &right.0])
}

fn counted(leaves: u64, top: &Hash) -> Hash {
    Hash::of_parts(Domain::MerkleNode, &[&leaves.to_le_bytes(), &top.0])
}

fn lowest(leaves: &[Hash]) -> Vec<Hash> {
    leaves.iter().map(leaf_hash).collect()
}

fn above(level: &[Hash]) -> Vec<Hash> {
    let pair = |pair: &[Hash]| match pair {
        [left, right] => pair_hash(left, right),
        _ => pair[0],
    };
    level.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::canonical;
    use proptest::prelude::*;

    #[test]
    fn lists_that_differ_in_order_length_or_content_have_different_roots() {
        let leaf = |i: u8| Hash([i; 32]);
        let lists: Vec<Vec<Hash>> = vec![
            vec![],
            vec![leaf(1)],
            vec![leaf(1), leaf(1)],
            vec![leaf(1), leaf(2)],
            vec![leaf(2), leaf(1)],
            vec![leaf(1), leaf(2), leaf(3)],
            vec![leaf(1), leaf(2), leaf(3), leaf(3)],
        ];
        for (i, a) in lists.iter().enumerate() {
            for (j, b) in lists.iter().enumerate() {
                assert_eq!(root(a) == root(b), i == j);
            }
        }
    }

    fn list(length: usize) -> Vec<Hash> {
        (0..length).map(|i| Hash::of(Domain::Blob, &i.to_le_bytes())).collect()
    }

    proptest! {
        #[test]
        fn every_leaf_is_proved_at_its_place_and_no_other_leaf_anywhere(length in 1usize..40, pick in 0usize..40) {
            let leaves = list(length);
            let (root, index) = (root(&leaves), pick % length);
            let proof = prove(&leaves, index).unwrap();
            for (place, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(proof.verify(&root, leaf), place == index);
            }
            prop_assert!(!proof.verify(&root, &root));
            prop_assert!(canonical::encode(&proof).len() <= Proof::MAX_BYTES);
            prop_assert!(prove(&leaves, length).is_none());
        }

        #[test]
        fn a_proof_with_anything_changed_proves_nothing(length in 1usize..40, pick in 0usize..40, flip in 0usize..4096) {
            let leaves = list(length);
            let index = pick % length;
            let mut forged = canonical::encode(&prove(&leaves, index).unwrap());
            let at = flip % (forged.len() * 8);
            forged[at / 8] ^= 1 << (at % 8);
            if let Ok(forged) = canonical::decode::<Proof>(&forged, Proof::MAX_BYTES) {
                prop_assert!(!forged.verify(&root(&leaves), &leaves[index]), "bit {} does not matter", at);
            }
        }
    }
}

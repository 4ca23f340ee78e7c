//! Binary Merkle roots over an ordered list of hashes: for the transactions of a block and the chunks of a model state.
//!
//! An odd node is carried up unchanged (never doubled, which would give two lists one root), and the number of leaves
//! is hashed into the root.

use crate::{Hash, hash::Domain};

/// The root over `leaves`, in order; `Hash::ZERO` over none.
pub fn root(leaves: &[Hash]) -> Hash {
    if leaves.is_empty() {
        return Hash::ZERO;
    }
    let mut level: Vec<Hash> = leaves.iter().map(|leaf| Hash::of(Domain::MerkleLeaf, &leaf.0)).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => Hash::of_parts(Domain::MerkleNode, &[&left.0, &right.0]),
                _ => pair[0],
            })
            .collect();
    }
    Hash::of_parts(Domain::MerkleNode, &[&(leaves.len() as u64).to_le_bytes(), &level[0].0])
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

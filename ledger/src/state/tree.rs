//! The state's commitment: a sparse binary Merkle tree over the hashes of the keys.
//!
//! A leaf lies where the bits of its key's hash, most significant first, lead to; a subtree that holds a single leaf
//! *is* that leaf, and one that holds none is the zero hash. So a tree has one shape and one root for one set of
//! entries, whatever the order of the changes that led there:
//!
//! ```text
//! leaf   = H(H(key) || H(value))
//! branch = H(left || right)
//! ```
//!
//! with a domain of its own for each of the four hashes.
//!
//! A proof holds the hashes beside the path from the root, and what stands at its end: the leaf itself (presence),
//! another leaf with the same first bits, or nothing (absence). A whole part of the tree, all leaves whose keys' hashes begin alike,
//! is proved by what stands beside the path to it.
//!
//! Trees are values: a changed copy shares every untouched subtree.

use ailo_protocol::{
    Hash,
    canonical::{Decode, Encode},
    hash::Domain,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// No proof's canonical bytes are longer.
pub const MAX_PROOF_BYTES: usize = 8 + 256 * 32 + 1 + 64;

/// A copy-on-write tree from key hashes to value hashes.
#[derive(Clone, Debug, Default)]
pub struct Tree(Subtree);

/// One change: the hash of a key, and the hash of its new value (`None` removes it).
pub type Change = (Hash, Option<Hash>);

/// Batches at least this large are split over threads.
const PARALLEL: usize = 1024;

/// Each kind is an allocation of its own size: there is a leaf and a branch for each entry of the state.
#[derive(Clone, Debug, Default)]
enum Subtree {
    #[default]
    Nothing,
    Leaf(Arc<Leaf>),
    Branch(Arc<Branch>),
}

#[derive(Debug)]
struct Leaf {
    key: Hash,
    value: Hash,
    hash: Hash,
}

#[derive(Debug)]
struct Branch {
    left: Tree,
    right: Tree,
    hash: Hash,
}

/// The hash under which a key's bytes stand in the tree.
pub fn key_hash(key: &[u8]) -> Hash {
    Hash::of(Domain::StateKey, key)
}

/// The hash under which an entry's bytes stand in the tree.
pub fn value_hash(value: &[u8]) -> Hash {
    Hash::of(Domain::StateValue, value)
}

fn leaf_hash(key: &Hash, value: &Hash) -> Hash {
    Hash::of_parts(Domain::MerkleLeaf, &[&key.0, &value.0])
}

fn branch_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of_parts(Domain::MerkleNode, &[&left.0, &right.0])
}

/// The bit of `key` that chooses the side at `depth`.
fn bit(key: &Hash, depth: usize) -> bool {
    key.0[depth / 8] >> (7 - depth % 8) & 1 == 1
}

impl Tree {
    /// The commitment; zero over nothing.
    pub fn root(&self) -> Hash {
        match &self.0 {
            Subtree::Nothing => Hash::ZERO,
            Subtree::Leaf(leaf) => leaf.hash,
            Subtree::Branch(branch) => branch.hash,
        }
    }

    /// The tree after `changes`; of two for one key the later counts.
    pub fn update(&self, mut changes: Vec<Change>) -> Tree {
        changes.sort_by_key(|(key, _)| *key);
        changes.reverse();
        changes.dedup_by_key(|(key, _)| *key); // Stable sort, then reversed: the later change stands first and stays.
        changes.reverse();
        self.updated(&changes, 0)
    }

    /// `changes` are ascending, distinct, and share their first `depth` bits.
    fn updated(&self, changes: &[Change], depth: usize) -> Tree {
        if changes.is_empty() {
            return self.clone();
        }
        match (&self.0, changes) {
            (Subtree::Nothing, [(_, None)]) => return Tree::default(),
            (Subtree::Nothing, [(key, Some(value))]) => return Tree::leaf(*key, *value),
            (Subtree::Leaf(leaf), [(changed, to)]) if *changed == leaf.key => {
                return to.map_or_else(Tree::default, |value| Tree::leaf(leaf.key, value));
            }
            _ => {}
        }
        let (left, right) = self.sides(depth);
        let (to_left, to_right) = changes.split_at(changes.partition_point(|(key, _)| !bit(key, depth)));
        let (left, right) = if changes.len() >= PARALLEL {
            rayon::join(|| left.updated(to_left, depth + 1), || right.updated(to_right, depth + 1))
        } else {
            (left.updated(to_left, depth + 1), right.updated(to_right, depth + 1))
        };
        Tree::branch(left, right)
    }

    /// The two sides below `depth`: a single leaf lies on one of them.
    fn sides(&self, depth: usize) -> (Tree, Tree) {
        match &self.0 {
            Subtree::Nothing => Default::default(),
            Subtree::Leaf(leaf) if bit(&leaf.key, depth) => (Tree::default(), self.clone()),
            Subtree::Leaf(_) => (self.clone(), Tree::default()),
            Subtree::Branch(branch) => (branch.left.clone(), branch.right.clone()),
        }
    }

    fn leaf(key: Hash, value: Hash) -> Tree {
        Tree(Subtree::Leaf(Arc::new(Leaf { key, value, hash: leaf_hash(&key, &value) })))
    }

    /// Two subtrees as one; a single leaf moves up.
    fn branch(left: Tree, right: Tree) -> Tree {
        match (&left.0, &right.0) {
            (Subtree::Nothing, Subtree::Nothing | Subtree::Leaf(_)) => right,
            (Subtree::Leaf(_), Subtree::Nothing) => left,
            _ => {
                let hash = branch_hash(&left.root(), &right.root());
                Tree(Subtree::Branch(Arc::new(Branch { left, right, hash })))
            }
        }
    }

    /// Proves what stands, or that nothing stands, under the hash `key`.
    pub fn prove(&self, key: &Hash) -> Proof {
        let mut beside = Vec::new();
        let mut tree = self;
        loop {
            match &tree.0 {
                Subtree::Nothing => return Proof { beside, end: None },
                Subtree::Leaf(leaf) => return Proof { beside, end: Some((leaf.key, leaf.value)) },
                Subtree::Branch(branch) => {
                    let Branch { left, right, .. } = &**branch;
                    let (on, off) = if bit(key, beside.len()) { (right, left) } else { (left, right) };
                    beside.push(off.root());
                    tree = on;
                }
            }
        }
    }
}

/// What stands beside the path to a part of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// A single leaf: the hashes of its key and value.
    Leaf(Hash, Hash),
    /// More than one leaf: their common hash.
    Branch(Hash),
}

impl Beside {
    fn hash(&self) -> Hash {
        match self {
            Beside::Nothing => Hash::ZERO,
            Beside::Leaf(key, value) => leaf_hash(key, value),
            Beside::Branch(hash) => *hash,
        }
    }

    /// Two neighbours as one, as [`Tree`] joins them; a leaf that moves up keeps its hash.
    fn join(left: Beside, right: Beside) -> Beside {
        match (left, right) {
            (Beside::Nothing, Beside::Nothing | Beside::Leaf(..)) => right,
            (Beside::Leaf(..), Beside::Nothing) => left,
            _ => Beside::Branch(branch_hash(&left.hash(), &right.hash())),
        }
    }
}

impl Tree {
    fn beside(&self) -> Beside {
        match &self.0 {
            Subtree::Nothing => Beside::Nothing,
            Subtree::Leaf(leaf) => Beside::Leaf(leaf.key, leaf.value),
            Subtree::Branch(branch) => Beside::Branch(branch.hash),
        }
    }

    /// What stands beside the path of the first `bits` bits of `prefix`, from the root down.
    pub fn beside_part(&self, prefix: &Hash, bits: usize) -> Vec<Beside> {
        let mut tree = self.clone();
        let mut beside = Vec::with_capacity(bits);
        for depth in 0..bits {
            let (left, right) = tree.sides(depth);
            let (on, off) = if bit(prefix, depth) { (right, left) } else { (left, right) };
            beside.push(off.beside());
            tree = on;
        }
        beside
    }

    /// Whether a tree of this root holds, under keys whose hashes begin as `prefix` does, just these leaves (key and value
    /// hashes, strictly ascending by key). As many bits count as there are entries in `beside`.
    pub fn is_part(root: &Hash, prefix: &Hash, leaves: &[(Hash, Hash)], beside: &[Beside]) -> bool {
        let bits = beside.len();
        let shares = |key: &Hash, bits: usize| (0..bits).all(|depth| bit(key, depth) == bit(prefix, depth));
        let in_place = |(depth, beside): (usize, &Beside)| match beside {
            Beside::Leaf(key, _) => shares(key, depth) && bit(key, depth) != bit(prefix, depth),
            _ => true,
        };
        let sound = bits <= 256
            && leaves.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && leaves.iter().all(|(key, _)| shares(key, bits))
            && beside.iter().enumerate().all(in_place);
        if !sound {
            return false;
        }
        let changes: Vec<Change> = leaves.iter().map(|(key, value)| (*key, Some(*value))).collect();
        let part = Tree::default().updated(&changes, bits).beside();
        let up = beside.iter().enumerate().rev().fold(part, |part, (depth, beside)| match bit(prefix, depth) {
            true => Beside::join(*beside, part),
            false => Beside::join(part, *beside),
        });
        up.hash() == *root
    }
}

/// Proof of what a root commits to under one key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Proof {
    /// Hashes beside the path, from the root down.
    pub beside: Vec<Hash>,
    /// Hashes of the key and value of the leaf at the path's end, if there is one.
    pub end: Option<(Hash, Hash)>,
}

impl Proof {
    /// Whether it proves that under `root` the bytes `value` (`None`: nothing) stand at the key bytes `key`.
    pub fn verify(&self, root: &Hash, key: &[u8], value: Option<&[u8]>) -> bool {
        let key = key_hash(key);
        let depth = self.beside.len();
        let shares_path = |other: &Hash| (0..depth).all(|d| bit(other, d) == bit(&key, d));
        let ends_well = match (&self.end, value) {
            _ if depth > 256 => false,
            (Some((found, hash)), Some(value)) => *found == key && *hash == value_hash(value),
            (Some((found, _)), None) => *found != key && shares_path(found),
            (None, value) => value.is_none(),
        };
        if !ends_well {
            return false;
        }
        let end = self.end.map_or(Hash::ZERO, |(key, value)| leaf_hash(&key, &value));
        let up = self.beside.iter().enumerate().rev().fold(end, |hash, (depth, beside)| {
            if bit(&key, depth) { branch_hash(beside, &hash) } else { branch_hash(&hash, beside) }
        });
        up == *root
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };
    use std::collections::BTreeMap;

    fn change(key: u16, value: Option<u8>) -> Change {
        (key_hash(&key.to_le_bytes()), value.map(|v| value_hash(&[v])))
    }

    fn tree_of(entries: &BTreeMap<u16, u8>) -> Tree {
        Tree::default().update(entries.iter().map(|(k, v)| change(*k, Some(*v))).collect())
    }

    #[test]
    fn roots_of_known_trees_never_change() {
        let roots: Vec<String> =
            [0u16, 1, 2, 100].map(|n| tree_of(&(0..n).map(|i| (i, i as u8)).collect()).root().to_string()).to_vec();
        assert_eq!(
            roots,
            [
                "0000000000000000000000000000000000000000000000000000000000000000",
                "7bac0729a12e98fba3c0d0703f61c12a8c9a3da5026f3690e15092e0027eec1e",
                "18cf4eaeb8858e18a4d959f9d3228d99d782824238996fd4ec0bb2336f2871b1",
                "9d95c38253d35db3342fcc6f8e6f985cae2282ed1744855b7ae87f41bdbea600",
            ]
        );
    }

    #[test]
    fn keys_that_share_many_bits_are_told_apart() {
        let mut near = [Hash([0; 32]), Hash([0; 32])];
        near[1].0[31] = 1; // They differ in the last bit alone.
        let value = value_hash(b"v");
        let tree = Tree::default().update(near.iter().map(|k| (*k, Some(value))).collect());
        assert_eq!(tree.prove(&near[0]).beside.len(), 256);
        let back = tree.update(vec![(near[1], None)]);
        assert_eq!(back.root(), leaf_hash(&near[0], &value), "a single leaf moves all the way up");
    }

    proptest! {
        #[test]
        fn the_root_depends_on_the_entries_alone(
            steps in vec((0u16..60, proptest::option::of(0u8..4)), 0..200),
            cut in 0usize..200,
        ) {
            let mut entries = BTreeMap::new();
            for (key, value) in &steps {
                match value {
                    Some(v) => drop(entries.insert(*key, *v)),
                    None => drop(entries.remove(key)),
                }
            }
            let (a, b) = steps.split_at(cut.min(steps.len()));
            let changes = |part: &[(u16, Option<u8>)]| part.iter().map(|(k, v)| change(*k, *v)).collect::<Vec<_>>();
            let tree = Tree::default().update(changes(a)).update(changes(b));
            prop_assert_eq!(tree.root(), tree_of(&entries).root());
        }

        #[test]
        fn a_proof_holds_for_the_truth_and_for_nothing_else(
            entries in btree_map(0u16..64, 0u8..4, 0..40),
            key in 0u16..64,
            flip in 0usize..1024,
        ) {
            let tree = tree_of(&entries);
            let (root, bytes) = (tree.root(), key.to_le_bytes());
            let proof = tree.prove(&key_hash(&bytes));
            for claim in [None, Some(0u8), Some(1), Some(2), Some(3)] {
                let holds = proof.verify(&root, &bytes, claim.as_ref().map(std::slice::from_ref));
                prop_assert_eq!(holds, claim == entries.get(&key).copied(), "claim {:?}", claim);
            }
            let truth = entries.get(&key).map(std::slice::from_ref);
            let mut forged = ailo_protocol::canonical::encode(&proof);
            let at = flip % (forged.len() * 8);
            forged[at / 8] ^= 1 << (at % 8);
            if let Ok(forged) = ailo_protocol::canonical::decode::<Proof>(&forged, 1 << 20) {
                prop_assert!(!forged.verify(&root, &bytes, truth), "bit {} of the proof does not matter", at);
            }
        }
    }
    proptest! {
        #[test]
        fn a_part_is_proved_whole_and_nothing_else_is(
            entries in btree_map(0u16..200, 0u8..4, 0..60),
            bits in 0usize..7,
            part in 0u8..128,
            break_at in 0usize..6,
        ) {
            let tree = tree_of(&entries);
            let prefix = Hash([part << 1; 32]);
            let inside = |key: &Hash| (0..bits).all(|depth| bit(key, depth) == bit(&prefix, depth));
            let mut leaves: Vec<(Hash, Hash)> =
                entries.iter().map(|(k, v)| (key_hash(&k.to_le_bytes()), value_hash(&[*v]))).collect();
            leaves.sort();
            leaves.retain(|(key, _)| inside(key));
            let beside = tree.beside_part(&prefix, bits);
            prop_assert!(Tree::is_part(&tree.root(), &prefix, &leaves, &beside));
            // Other leaves, another place, other neighbours.
            let (mut leaves, mut beside, mut prefix) = (leaves, beside, prefix);
            let stranger = (key_hash(b"stranger"), value_hash(b"x"));
            match break_at {
                0 => if leaves.pop().is_none() { leaves.push(stranger) },
                1 => match leaves.first_mut() {
                    Some(leaf) => leaf.1 = value_hash(b"other"),
                    None => leaves.push(stranger),
                },
                2 => { leaves.push(stranger); leaves.sort(); }
                3 => match leaves.first().copied() {
                    Some(first) => leaves.insert(0, first),
                    None => leaves.push(stranger),
                },
                4 => match beside.iter_mut().find(|beside| **beside != Beside::Nothing) {
                    Some(first) => *first = Beside::Nothing,
                    None => beside.push(Beside::Branch(Hash([1; 32]))),
                },
                _ => {
                    // The neighbour's place, of which something else is true, unless both hold nothing.
                    if bits == 0 { return Ok(()); }
                    prefix.0[0] ^= 1 << (8 - bits);
                    let other = tree.beside_part(&prefix, bits);
                    if leaves.is_empty() && other == beside { return Ok(()); }
                    if leaves.is_empty() && Tree::is_part(&tree.root(), &prefix, &[], &other) { return Ok(()); }
                    beside = if leaves.is_empty() { beside } else { other };
                }
            }
            prop_assert!(!Tree::is_part(&tree.root(), &prefix, &leaves, &beside), "break {}", break_at);
        }
    }
}

//! A state in parts, each of which can be proved on its own against the state root of a header: so it can be fetched from
//! several peers that nobody believes, and whoever sends a wrong part is known at once.
//!
//! With `bits` bits there are `2^bits` parts. Part `i` holds the entries whose keys' hashes begin with the bits of `i`, and what
//! stands beside the path to them in the state's tree. The tip is in none: it is the id of the header.

use super::{
    Key, RestoreError, State,
    entry::{Entry, MAX_ENTRY_BYTES, Record, Tip},
    tree::{Beside, Tree, key_hash, value_hash},
};
use crate::Header;
use ailo_protocol::{
    Genesis, Hash,
    canonical::{self, CodecError, Decode, Encode},
};

/// A state has at most `2^MAX_PART_BITS` parts.
pub const MAX_PART_BITS: u32 = 16;
/// A part's canonical bytes are at most this long; seats of the largest registry fit.
pub const MAX_PART_BYTES: usize = 7 << 20;
/// About how long parts are.
const PART_BYTES: usize = 512 << 10;
/// Where the entries of a part are longer together, all parts are cut once more; a single entry may be longer.
const LONG_PART_BYTES: usize = 1 << 20;

/// Entries of a state whose keys' hashes begin alike.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Canonical bytes of keys and entries, by the hash of the key.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// What stands beside the path to them, from the root down.
    pub beside: Vec<Beside>,
}

/// Why a part, or what parts make together, is not the state of a header.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A part that is none of this state's.
    #[error("part {0} is not of the state that the block commits to")]
    NotAPart(u32),
    /// Bytes that are no part.
    #[error("a part can't be read: {0}")]
    Codec(#[from] CodecError),
    /// Entries that are no state.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A state of another root, although every part fits.
    #[error("the state's root is not the block's")]
    Root,
}

/// The first bits of a hash, as a number: which of `2^bits` parts a key of this hash is in.
fn first_bits(hash: &Hash, bits: u32) -> u32 {
    let first = hash.0.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    first.checked_shr(u32::BITS - bits).unwrap_or(0)
}

/// A hash that begins with the bits of part `index`.
fn prefix(bits: u32, index: u32) -> Hash {
    let mut hash = Hash::ZERO;
    hash.0[..4].copy_from_slice(&index.checked_shl(u32::BITS - bits).unwrap_or(0).to_be_bytes());
    hash
}

/// A state's entries, in parts.
pub struct Parts<'a> {
    tree: &'a Tree,
    bits: u32,
    /// By the hash of the key.
    entries: Vec<(Hash, &'a Key, &'a Entry)>,
}

impl State {
    /// Cuts the state into parts of about half a megabyte.
    pub fn parts(&self) -> Parts<'_> {
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut lengths = Vec::with_capacity(self.entries.len());
        for (key, entry) in self.entries.iter().filter(|(key, _)| **key != Key::Tip) {
            let encoded = canonical::encode(key);
            let hash = key_hash(&encoded);
            lengths.push((hash, encoded.len() + canonical::encode(entry).len()));
            entries.push((hash, key, entry));
        }
        entries.sort_unstable_by_key(|(hash, ..)| *hash);
        Parts { tree: &self.tree, bits: bits_for(&mut lengths), entries }
    }

    /// The state after the block of `header`, of all its parts.
    pub fn assemble(
        genesis: &Genesis,
        header: &Header,
        parts: impl Iterator<Item = Part>,
    ) -> Result<State, SnapshotError> {
        let tip = (canonical::encode(&Key::Tip), canonical::encode(&Tip(header.id()).into_entry()));
        let state = State::restore(genesis, parts.flat_map(|part| part.entries).chain([tip]))?;
        match state.root() == header.state_root && state.height() == header.height {
            true => Ok(state),
            false => Err(SnapshotError::Root),
        }
    }
}

impl Parts<'_> {
    /// How many bits tell the parts apart.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Which part an entry at this key is in.
    pub fn place_of(bits: u32, key: &Key) -> u32 {
        first_bits(&key_hash(&canonical::encode(key)), bits)
    }

    /// Part `index`, below `2^bits`.
    pub fn part(&self, index: u32) -> Part {
        let from = self.entries.partition_point(|(hash, ..)| first_bits(hash, self.bits) < index);
        let inside = self.entries[from..].iter().take_while(|(hash, ..)| first_bits(hash, self.bits) == index);
        Part {
            entries: inside.map(|(_, key, entry)| (canonical::encode(*key), canonical::encode(*entry))).collect(),
            beside: self.tree.beside_part(&prefix(self.bits, index), self.bits as usize),
        }
    }
}

/// How many bits cut entries of these lengths into parts of the right one.
fn bits_for(lengths: &mut [(Hash, usize)]) -> u32 {
    lengths.sort_unstable();
    let bytes: usize = lengths.iter().map(|(_, length)| length).sum();
    let bits = bytes.div_ceil(PART_BYTES).next_power_of_two().ilog2();
    let is_long = |part: &[(Hash, usize)]| {
        part.len() > 1 && part.iter().map(|(_, length)| length).sum::<usize>() > LONG_PART_BYTES
    };
    let too_long =
        |bits: &u32| lengths.chunk_by(|(a, _), (b, _)| first_bits(a, *bits) == first_bits(b, *bits)).any(is_long);
    (bits..MAX_PART_BITS).find(|bits| !too_long(bits)).unwrap_or(MAX_PART_BITS)
}

impl Part {
    /// The entry that it holds at this key.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        let key = canonical::encode(key);
        let (_, entry) = self.entries.iter().find(|(at, _)| *at == key)?;
        canonical::decode(entry, MAX_ENTRY_BYTES).ok()
    }

    /// The state's age, milliseconds, if it is in this part.
    pub fn age_ms(&self) -> Option<u64> {
        match self.entry(&Key::Chain) {
            Some(Entry::Chain(chain)) => Some(chain.age),
            _ => None,
        }
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes part `index` of the state of this root, and verifies that it is that.
    pub fn decode(bytes: &[u8], root: &Hash, bits: u32, index: u32) -> Result<Part, SnapshotError> {
        let part: Part = canonical::decode(bytes, MAX_PART_BYTES)?;
        let leaves: Vec<(Hash, Hash)> =
            part.entries.iter().map(|(key, entry)| (key_hash(key), value_hash(entry))).collect();
        let fits = bits <= MAX_PART_BITS && index < 1 << bits && part.beside.len() == bits as usize;
        match fits && Tree::is_part(root, &prefix(bits, index), &leaves, &part.beside) {
            true => Ok(part),
            false => Err(SnapshotError::NotAPart(index)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::testing::Ledger;

    /// The ledger after a round, and its last header.
    fn ledger() -> (Ledger, Header) {
        let mut ledger = Ledger::new(4, |_| {});
        ledger.run_round(4, 1_000_000);
        let header = ledger.blocks.last().unwrap().header.clone();
        (ledger, header)
    }

    #[test]
    fn a_state_comes_back_from_its_parts_however_many_there_are() {
        let (ledger, header) = ledger();
        for bits in [0, 1, 3, 8] {
            let parts = Parts { bits, ..ledger.state.parts() };
            let parts = (0..1 << bits).map(|index| {
                let bytes = parts.part(index).encode();
                Part::decode(&bytes, &header.state_root, bits, index).unwrap()
            });
            let state = State::assemble(&ledger.genesis, &header, parts).unwrap();
            assert_eq!((state.root(), state.last_block()), (ledger.state.root(), ledger.state.last_block()));
            assert_eq!(state.entries().collect::<Vec<_>>(), ledger.state.entries().collect::<Vec<_>>());
        }
    }

    #[test]
    fn entries_that_crowd_in_one_place_are_cut_more_often() {
        let hash = |first: u16| Hash([first.to_be_bytes().as_slice(), &[0; 30]].concat().try_into().unwrap());
        let even: Vec<(Hash, usize)> = (0..64).map(|i| (hash(i << 10), 100_000)).collect();
        assert_eq!(bits_for(&mut even.clone()), 4, "sixteen parts of four entries");
        let crowd: Vec<(Hash, usize)> = (0..64).map(|i| (hash(i), 100_000)).collect();
        assert_eq!(bits_for(&mut crowd.clone()), 13, "eight entries that share thirteen bits");
        assert_eq!(bits_for(&mut [(hash(0), 5_000_000), (hash(1 << 15), 1)]), 4, "an entry is never cut");
        assert_eq!(bits_for(&mut vec![(hash(7), 100_000); 64]), MAX_PART_BITS);
        assert_eq!(bits_for(&mut []), 0);
    }

    #[test]
    fn a_part_of_another_place_state_or_content_is_refused_and_none_may_be_missing() {
        let (ledger, header) = ledger();
        let parts = Parts { bits: 2, ..ledger.state.parts() };
        let encoded: Vec<Vec<u8>> = (0..4).map(|index| parts.part(index).encode()).collect();
        let root = header.state_root;
        let refused = |bytes: &[u8], root, bits, index| Part::decode(bytes, root, bits, index).is_err();
        assert!(refused(&encoded[0], &root, 2, 1), "another part");
        assert!(refused(&encoded[0], &root, 3, 0) && refused(&encoded[0], &root, 1, 0), "another division");
        assert!(refused(&encoded[0], &Hash([1; 32]), 2, 0), "another state");
        assert!(refused(&encoded[0], &root, 2, 4) && refused(&encoded[0], &root, 40, 0), "no such part");
        let sums: Vec<usize> = (0..encoded[1].len())
            .filter(|at| {
                let mut bytes = encoded[1].clone();
                bytes[*at] ^= 1;
                !refused(&bytes, &root, 2, 1)
            })
            .collect();
        assert_eq!(sums, Vec::<usize>::new(), "bytes that do not matter");
        let some = encoded[..3].iter().zip(0..).map(|(bytes, index)| Part::decode(bytes, &root, 2, index).unwrap());
        assert!(State::assemble(&ledger.genesis, &header, some).is_err(), "a part is missing");
    }
}

//! Chains of lots: each link is the hash of the one before. A validator commits the last link, the *tip*, before any of
//! them counts, and its blocks reveal the others one by one, from the end on. So everybody can check what is revealed, and
//! nobody can choose it. `state/lots.rs` has the rules.
//!
//! ```text
//! key's secret, network, number -> x(0) -> x(1) -> ... -> x(n - 1) -> x(n), the tip
//!                                          revealed: <- ... x(n - 2) <- x(n - 1)
//! ```
//!
//! A chain follows from the node's key and a number that stands on the ledger: a restart needs nothing else. Of n links
//! `sqrt(n)` are kept, and `sqrt(n)` more of those that come next.

use crate::state::{LotChainLeft, State};
use ailo_protocol::{Hash, Keypair, hash::Domain};

/// The link that follows another one.
pub fn link(before: &Hash) -> Hash {
    Hash::of(Domain::LotLink, &before.0)
}

/// A node's own chain of lots.
pub struct LotChain {
    length: u32,
    /// Links from one kept one to the next.
    stride: u32,
    kept: Vec<Hash>,
    /// All links from the kept one with this number to the next.
    run: (u32, Vec<Hash>),
    tip: Hash,
}

impl LotChain {
    /// Computes all links of the chain with this number, of which a network uses each once a node.
    pub fn derive(network: &Hash, key: &Keypair, number: u64, length: u32) -> LotChain {
        let mut at = Hash::of_parts(Domain::LotSecret, &[&network.0, &*key.seed(), &number.to_le_bytes()]);
        let stride = length.isqrt().max(1);
        let mut kept = Vec::with_capacity(length.div_ceil(stride) as usize);
        for i in 0..length {
            if i % stride == 0 {
                kept.push(at);
            }
            at = link(&at);
        }
        LotChain { length, stride, kept, run: (0, Vec::new()), tip: at }
    }

    /// The last link.
    pub fn tip(&self) -> Hash {
        self.tip
    }

    /// What to reveal when `left` links are; none when none are.
    pub fn reveal(&mut self, left: u32) -> Option<Hash> {
        let index = left.checked_sub(1).filter(|index| *index < self.length)?;
        let (run, place) = (index / self.stride, index % self.stride);
        if self.run.0 != run || self.run.1.is_empty() {
            let first = *self.kept.get(run as usize)?;
            let links = std::iter::successors(Some(first), |before| Some(link(before)));
            self.run = (run, links.take(self.stride as usize).collect());
        }
        self.run.1.get(place as usize).copied()
    }
}

/// What a validator's blocks reveal, as the ledger asks for it.
#[derive(Default)]
pub struct Reveals(Option<(u64, LotChain)>);

impl Reveals {
    /// Derives the chain that counts now, unless it is here.
    pub fn prepare(&mut self, state: &State, key: &Keypair) {
        if let Some(due) = state.lot_due(key.public()) {
            self.chain(&due, state, key);
        }
    }

    /// What the next block of the node with this key reveals.
    pub fn next(&mut self, state: &State, key: &Keypair) -> Option<Hash> {
        let due = state.lot_due(key.public())?;
        self.chain(&due, state, key).reveal(due.left)
    }

    fn chain(&mut self, due: &LotChainLeft, state: &State, key: &Keypair) -> &mut LotChain {
        if self.0.as_ref().is_none_or(|(number, _)| *number != due.number) {
            self.0 = None;
        }
        let derive = || LotChain::derive(&state.network(), key, due.number, state.params().ledger.lot_chain);
        &mut self.0.get_or_insert_with(|| (due.number, derive())).1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_link_is_revealed_once_from_the_end_on_and_hashes_to_the_one_before() {
        for length in [1, 2, 3, 10, 16, 17, 100] {
            let mut chain = LotChain::derive(&Hash::ZERO, &Keypair::from_seed([1; 32]), 5, length);
            let mut tip = chain.tip();
            for left in (1..=length).rev() {
                let preimage = chain.reveal(left).unwrap();
                assert_eq!(link(&preimage), tip, "{left} of {length}");
                tip = preimage;
            }
            assert_eq!((chain.reveal(0), chain.reveal(length + 1)), (None, None));
        }
    }

    #[test]
    fn a_chain_belongs_to_one_network_key_and_number() {
        let tip = |network: u8, key: u8, number: u64| {
            LotChain::derive(&Hash([network; 32]), &Keypair::from_seed([key; 32]), number, 8).tip()
        };
        assert_eq!(tip(1, 1, 1), tip(1, 1, 1));
        assert!([tip(2, 1, 1), tip(1, 2, 1), tip(1, 1, 2)].iter().all(|other| *other != tip(1, 1, 1)));
    }
}

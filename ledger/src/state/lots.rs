//! Lots: the seed that everything is drawn by, and who makes it.
//!
//! - `CommitLots` puts the tip of a chain of `lot_chain` links (`crate::lots`) on the ledger, of a validator, a founder or a
//!   node with stake. The chain counts from `seat_delay_epochs` epochs later on, and after what is left of the one before:
//!   nobody picks a tip in the knowledge of what others reveal before it counts. A node has one chain waiting, commits
//!   it when a quarter or less is left, and can't take it back. So what a node will reveal is one sequence, and no link
//!   of it is ever skipped.
//! - A block reveals the next link of its proposer's chain: `seed = H(seed || link)`. Whatever transactions it holds, at
//!   whatever time and in whatever round it is proposed, the seed is the same. Whether a chain counts is asked of the
//!   state before the block, so that the block's own time does not decide it.
//! - Where no chain counts for the proposer the block reveals nothing and `seed = H(seed)`; as long as none counts for any
//!   validator, `seed = H(seed || parent)`.
//! - A node's chains go with its entry.

use super::{Event, Executor, Key, LotChainLeft, Lots, Node, Rejection, State};
use crate::{
    lots::link,
    plants::{self, Plant},
};
use ailo_protocol::{Amount, Hash, NodeId, hash::Domain};

/// What a block draws.
pub(super) struct Draw {
    pub seed: Hash,
    /// The proposer's chains after it, if they change.
    pub lots: Option<Lots>,
}

impl Lots {
    /// The chain that counts in `epoch`.
    fn due(&self, epoch: u64) -> Option<&LotChainLeft> {
        match &self.next {
            _ if self.chain.left > 0 => Some(&self.chain),
            Some((next, from)) if *from <= epoch => Some(next),
            _ => None,
        }
    }
}

impl State {
    /// A node's chains of lots.
    pub fn lots(&self, node: &NodeId) -> Option<&Lots> {
        self.get(&Key::Lots(*node))
    }

    /// The chain whose next link a block of `node` has to reveal now.
    pub fn lot_due(&self, node: &NodeId) -> Option<LotChainLeft> {
        self.lots(node)?.due(self.epoch()).copied()
    }

    /// Whether the node may, and should, commit its next chain of lots.
    pub fn may_commit_lots(&self, node: &NodeId) -> bool {
        self.lots_before_commit(node).is_ok()
    }

    fn lots_before_commit(&self, id: &NodeId) -> Result<Lots, Rejection> {
        let node = self.node(id).ok_or(Rejection::UnknownNode)?;
        if !node.founder && node.stake == Amount::ZERO && self.validators().power(id) == 0 {
            return Err(Rejection::LotsNotNeeded);
        }
        let lots = self.lots(id).cloned().unwrap_or_default();
        let (left, most) = (lots.chain.left, self.params().ledger.lot_chain / 4);
        if lots.next.is_some() {
            return Err(Rejection::LotsCommitted);
        }
        if left > most {
            return Err(Rejection::LotsLeft { left, most });
        }
        Ok(lots)
    }

    /// Whether a node's key was registered before anybody knew the lots of now.
    pub(super) fn has_old_key(&self, node: &NodeId) -> bool {
        let ledger = &self.params().ledger;
        let registered = |node: &Node| node.registered_age / ledger.epoch_ms;
        self.node(node).is_some_and(|node| registered(node).saturating_add(ledger.seat_delay_epochs) <= self.epoch())
    }

    /// What the next block draws if `proposer` makes it and reveals this.
    pub(super) fn draw(&self, proposer: &NodeId, reveal: Option<Hash>) -> Result<Draw, Rejection> {
        let next = |parts: &[&[u8]]| Hash::of_parts(Domain::Lot, parts);
        let seed = self.seed();
        match (self.lot_due(proposer), reveal) {
            (Some(due), Some(reveal)) => {
                if link(&reveal) != due.tip && !plants::on(Plant::LotUnchecked) {
                    return Err(Rejection::BadLot);
                }
                let waits = self.lots(proposer).filter(|lots| lots.chain.left > 0).and_then(|lots| lots.next);
                let lots = Lots { chain: LotChainLeft { tip: reveal, left: due.left - 1, ..due }, next: waits };
                Ok(Draw { seed: next(&[&seed.0, &reveal.0]), lots: Some(lots) })
            }
            (Some(_), None) => Err(Rejection::NoLot),
            (None, Some(_)) => Err(Rejection::LotNotDue),
            (None, None) => {
                let counts = self.validators().0.iter().any(|validator| self.lot_due(&validator.node).is_some());
                let seed = if counts { next(&[&seed.0]) } else { next(&[&seed.0, &self.last_block().0]) };
                Ok(Draw { seed, lots: None })
            }
        }
    }
}

impl Executor {
    pub(super) fn commit_lots(&mut self, node: NodeId, number: u64, tip: Hash) -> Result<(), Rejection> {
        let mut lots = self.state.lots_before_commit(&node)?;
        let ledger = &self.state.params().ledger;
        let epoch = self.state.epoch().saturating_add(ledger.seat_delay_epochs);
        lots.next = Some((LotChainLeft { number, tip, left: ledger.lot_chain }, epoch));
        self.set(Key::Lots(node), lots);
        self.events.push(Event::LotsCommitted { node, epoch });
        Ok(())
    }
}

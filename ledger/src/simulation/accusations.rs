//! Equivocation that honest members have seen, until the ledger has slashed for it (I15). A member's evidence is a
//! transaction of its own: heights count against it while no fault keeps the member from being heard, and no longer
//! when it fails, since only what is in a block outlives its maker.

use super::world::World;
use crate::{
    invariants::{Invariant, SLASHED_WITHIN, Violation},
    state::State,
};
use ailo_protocol::NodeId;
use std::collections::BTreeSet;

/// After a fault, own transactions are said again within this time.
const AGAIN_MS: u64 = 4_000;

/// One that stands open.
pub struct Accusation {
    accuser: usize,
    /// The accuser's life in which it was made.
    life: u64,
    node: NodeId,
    height: u64,
    /// From when on the accuser is heard.
    heard_from_ms: u64,
    /// The height that is counted from.
    since: Option<u64>,
}

impl World {
    /// A member has seen two rival ballots of a validator.
    pub fn denounce(&mut self, i: usize, height: u64, node: NodeId) -> Result<(), Violation> {
        self.trace.event(self.time, i, "equivocation", &[height]);
        let guilty = self.members.iter().any(|member| member.id() == node && !member.is_honest());
        let detail = || format!("member {i} saw two rival ballots of {} at height {height}", node.short());
        Invariant::FalselyAccused.check(guilty, detail)?;
        self.accused.insert(node);
        let covered = self.ledger.node(&node).is_none_or(|entry| entry.slashed_height >= height);
        if self.members[i].is_honest() && !covered {
            let life = self.members[i].life;
            let (heard_from_ms, since) = (self.time, None);
            self.accusations.push(Accusation { accuser: i, life, node, height, heard_from_ms, since });
        }
        Ok(())
    }

    /// Looks after what stands open, in the ledger after the chain's last block.
    pub fn follow_accusations(&mut self) -> Result<(), Violation> {
        let (ledger, now) = (self.ledger.clone(), self.time);
        let mut accusations = std::mem::take(&mut self.accusations);
        accusations.retain(|a| {
            let open = ledger.node(&a.node).is_some_and(|node| node.slashed_height < a.height);
            open && self.members[a.accuser].life == a.life
        });
        for accusation in &mut accusations {
            if !self.is_heard(accusation.accuser, &ledger) {
                (accusation.heard_from_ms, accusation.since) = (now + AGAIN_MS, None);
            } else if accusation.heard_from_ms <= now {
                accusation.since.get_or_insert(ledger.height());
            }
        }
        for Accusation { accuser, node, height, since, .. } in &accusations {
            let waited = since.map_or(0, |since| ledger.height() - since);
            Invariant::Slashed.check(waited <= SLASHED_WITHIN, || {
                format!(
                    "member {accuser} saw {} equivocate at height {height}; {waited} blocks later nothing",
                    node.short()
                )
            })?;
        }
        self.accusations = accusations;
        Ok(())
    }

    /// Whether no fault keeps a member from being heard by those who make blocks.
    fn is_heard(&self, i: usize, ledger: &State) -> bool {
        let network = &self.network;
        let clear = network.slow_ms[i] == 0 && network.loss_permille == network.usual_loss_permille;
        let on_time = self.members[i].skew_ms.unsigned_abs() < ledger.params().ledger.skew_ms;
        let together = (0..self.members.len()).filter(|other| network.connects(i, *other));
        let nodes: BTreeSet<NodeId> = together
            .filter(|other| self.members[*other].running.is_some())
            .map(|other| self.members[other].id())
            .collect();
        let validators = ledger.validators();
        clear && on_time && validators.is_quorum(nodes.iter().map(|node| validators.power(node)).sum())
    }
}

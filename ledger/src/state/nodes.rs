//! Nodes and their seats.
//!
//! - `RegisterNode` carries a proof-of-work stamp and binds the node to a wallet, which has signed its consent.
//!   Registrations are bounded a block and in all. The stamp is made for the lot that this epoch or the last one began
//!   with, and needs one more bit each time half of the places left is taken. In a full registry the node gives way
//!   that has no work in the window and the least stake, below `seat_stake`, the one registered first among equals;
//!   never a founder, who takes part in the open round, or whose slash evidence could repeat. What stands behind it
//!   unbonds. So nobody keeps others out by registering alone.
//! - `BindNode` binds it to another wallet that consents, once an epoch, unless the old one owes something, has stake or
//!   unbonding coins behind the node, or the node takes part in the open round. A seat counts for the wallet it was
//!   given to alone.
//! - `Heartbeat` says that a node is alive, whether it trains, and its determinism class; it is refused sooner than half of `heartbeat_ms`
//!   after the last one, and unless it was made after it (so an old one can't be sent again).
//! - A node that is silent for `lapse_ms` lapses: its entry goes, or, with stake behind it or as a founder's, stays
//!   without rights until the next heartbeat. So does that of a slashed node while evidence of before its slash is
//!   admissible: who came back under a fresh entry would be slashed twice, or out of jail for nothing.
//! - At the start of each epoch the seats are counted anew. A node *qualifies* with `seat_stake` behind it, or with
//!   `seat_rounds` accepted contributions in the last `seat_window_epochs`; the seat comes `seat_delay_epochs` after
//!   the epoch in which it began to qualify, the longest waiting first, then by lot, at most `max(seat_growth_min,
//!   seats / seat_growth_divisor)` new ones an epoch. It goes with the first epoch in which the node does not qualify.
//!   Founders need neither until `founder_seat_epochs`. Jailed nodes have no seat.
//! - At the end of each epoch its seats are paid for the time that their heartbeats cover, each at most `heartbeat_ms`
//!   back to the one before: `uptime_pay` a minute, within `uptime_cap` for all together.

use super::{
    Event, Executor, Key, Node, Rejection, RewardKind, Seat, Seats, State,
    entry::{EpochStart, Record},
};
use crate::transaction::{Consent, stamp_hash};
use ailo_protocol::{Address, Amount, Hash, NodeId, hash::Domain};
use std::ops::RangeInclusive;

const MINUTE_MS: u64 = 60_000;

impl State {
    /// Leading zero bits that the stamp of the next registration needs.
    pub fn stamp_bits(&self) -> u32 {
        let ledger = &self.params().ledger;
        let left = ledger.max_nodes.saturating_sub(self.node_count()).max(1);
        let halvings = (ledger.max_nodes / left).checked_ilog2().unwrap_or(0);
        (ledger.stamp_bits + halvings).min(ledger.stamp_bits_full)
    }

    /// The lots that the stamp of the next registration may be for, the latest first: those that this epoch and the last
    /// one began with. So nobody makes stamps for later.
    pub fn stamp_lots(&self) -> impl Iterator<Item = Hash> {
        let starts = self.entries.range(Key::EpochStart(0)..=Key::EpochStart(self.epoch())).rev().take(2);
        starts.filter_map(|(_, entry)| EpochStart::of(entry).map(|start| start.lot))
    }

    /// Whether a node's work needs no replay to be paid: it has come through probation, or is a founder who needs no reason
    /// for its seat yet.
    pub(super) fn is_proven(&self, node: &Node) -> bool {
        let standing = node.founder && node.void_through.is_none();
        let founder = standing && self.epoch() < self.params().ledger.founder_seat_epochs;
        founder || node.clean >= self.params().round.probation
    }

    /// Whether evidence of before the node's slash is admissible, or its jail goes on.
    fn answers_for_a_slash(&self, node: &Node) -> bool {
        node.slashed_height >= self.oldest_evidence() || node.jailed_until.is_some_and(|until| until > self.age_ms())
    }

    /// The node that gives way to the next one that registers. Each that it passes over on the way has coins worth a seat
    /// behind it or under way, has lost them to a slash, or takes part in the round.
    fn gives_way(&self) -> Option<NodeId> {
        let seat_stake = self.params().ledger.seat_stake;
        let stays = |id: &NodeId| {
            let Some(node) = self.node(id) else { return true };
            let coins = self.unbonding_from(&node.wallet, *id).map(|(_, amount)| amount).chain([node.stake]);
            coins.map(|amount| u128::from(amount.0)).sum::<u128>() >= u128::from(seat_stake.0)
                || self.answers_for_a_slash(node)
                || self.accusations_of(*id).next().is_some()
                || self.validators().power(id) > 0
                || self.round().participants.contains(id)
        };
        let poor = self.index.unproven.iter().take_while(|(stake, ..)| *stake < seat_stake);
        poor.map(|(.., id)| *id).find(|id| !stays(id))
    }
}

impl Executor {
    pub(super) fn register(
        &mut self,
        node: NodeId,
        wallet: Address,
        stamp: u64,
        consent: &Consent,
    ) -> Result<(), Rejection> {
        let ledger = &self.state.params().ledger;
        if self.state.node(&node).is_some() {
            return Err(Rejection::AlreadyRegistered);
        }
        let bits = self.state.stamp_bits();
        let network = self.state.network();
        let good = |lot: Hash| stamp_hash(&network, &lot, &node, &wallet, stamp).leading_zero_bits() >= bits;
        if !self.state.stamp_lots().any(good) {
            return Err(Rejection::BadStamp { bits });
        }
        let max = ledger.max_nodes;
        self.consents(wallet, consent)?;
        if self.state.node_count() >= max {
            let other = self.state.gives_way().ok_or(Rejection::TooManyNodes { max })?;
            self.crowd_out(other);
        }
        self.set(Key::Node(node), Node::new(wallet, false, self.state.age_ms()));
        self.events.push(Event::NodeRegistered { node, wallet });
        Ok(())
    }

    pub(super) fn bind(&mut self, id: NodeId, wallet: Address, consent: &Consent) -> Result<(), Rejection> {
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        self.consents(wallet, consent)?;
        if node.wallet == wallet {
            return Err(Rejection::AlreadyRegistered);
        }
        if self.state.account(&node.wallet).owes > Amount::ZERO {
            return Err(Rejection::InDebt);
        }
        let age = self.state.age_ms();
        let ready = node.bound_age.map_or(0, |bound| bound.saturating_add(self.state.params().ledger.epoch_ms));
        if age < ready {
            return Err(Rejection::BindTooSoon { wait_ms: ready - age });
        }
        let judged = self.state.challenges().any(|(_, accused, _)| accused == id)
            || self.state.accusations_of(id).next().is_some();
        let tied = node.stake > Amount::ZERO || self.state.unbonds_from(&node.wallet, &id) || judged;
        if tied || node.jailed_until.is_some() || self.state.round().participants.contains(&id) {
            return Err(Rejection::NodeTied);
        }
        (node.wallet, node.bound_age, node.qualified) = (wallet, Some(age), None);
        self.set(Key::Node(id), node);
        self.events.push(Event::NodeBound { node: id, wallet });
        Ok(())
    }

    /// Whether the consent, whose signature has been verified, is by the key that signs for the wallet.
    fn consents(&self, wallet: Address, consent: &Consent) -> Result<(), Rejection> {
        match self.state.signs_for(&consent.key)? == wallet {
            true => Ok(()),
            false => Err(Rejection::NoConsent),
        }
    }

    pub(super) fn heartbeat(&mut self, id: NodeId, time_ms: u64, trains: bool, class: Hash) -> Result<(), Rejection> {
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        let age = self.state.age_ms();
        let ready = node.seen_age.saturating_add(self.state.params().ledger.heartbeat_ms / 2);
        if node.heartbeat_time_ms != 0 && age < ready {
            return Err(Rejection::HeartbeatTooSoon { wait_ms: ready - age });
        }
        if time_ms <= node.heartbeat_time_ms {
            return Err(Rejection::StaleHeartbeat);
        }
        let covered = (age - node.seen_age).min(self.state.params().ledger.heartbeat_ms);
        node.up_ms = node.up_ms.saturating_add(covered);
        (node.seen_age, node.heartbeat_time_ms, node.trains) = (age, time_ms, trains);
        (node.missed, node.lapsed) = (false, false);
        // Amid a round it stays what it got its place as.
        if !self.state.round().participants.contains(&id) {
            node.class = class;
        }
        self.set(Key::Node(id), node);
        Ok(())
    }

    /// Ends the registration of nodes that were silent for too long, a bounded number a block.
    pub(super) fn sweep_nodes(&mut self) {
        let ledger = &self.state.params().ledger;
        let (age, lapse_ms) = (self.state.age_ms(), ledger.lapse_ms);
        let silent = self.state.index.seen.iter().take(ledger.sweep_per_block as usize);
        let silent: Vec<NodeId> =
            silent.take_while(|(seen, _)| seen.saturating_add(lapse_ms) <= age).map(|(_, node)| *node).collect();
        for id in silent {
            let Some(mut node) = self.state.node(&id).cloned() else { continue };
            self.events.push(Event::NodeLapsed { node: id, wallet: node.wallet });
            node.lapsed = true;
            self.keep_or_forget(id, node);
        }
    }

    /// Ends a registration; what stands behind the node unbonds.
    fn crowd_out(&mut self, id: NodeId) {
        let Some(Node { wallet, stake, .. }) = self.state.node(&id).cloned() else { return };
        if stake > Amount::ZERO {
            self.start_unbonding(wallet, id, stake);
        }
        self.forget(id);
        self.events.push(Event::NodeLapsed { node: id, wallet });
    }

    /// Stores a node, unless it has lapsed and nothing holds it any more.
    pub(super) fn keep_or_forget(&mut self, id: NodeId, node: Node) {
        let held = node.founder
            || node.stake > Amount::ZERO
            || self.state.unbonds_from(&node.wallet, &id)
            || self.state.answers_for_a_slash(&node)
            || self.state.accusations_of(id).next().is_some();
        match node.lapsed && !held {
            true => self.forget(id),
            false => self.set(Key::Node(id), node),
        }
    }

    /// Removes what stands under a node's name.
    fn forget(&mut self, id: NodeId) {
        self.remove(Key::Node(id));
        self.remove(Key::Lots(id));
    }

    /// Counts the seats of the epoch that the block begins.
    pub(super) fn change_epoch(&mut self) {
        let (epoch, seed) = (self.state.epoch(), self.state.seed());
        let ledger = self.state.params().ledger.clone();
        let before = self.state.seats(epoch).cloned().unwrap_or_default();
        let nodes: Vec<(NodeId, Node)> = self.state.nodes().map(|(id, node)| (id, node.clone())).collect();
        let start = EpochStart { height: self.context.height, lot: seed, nodes: self.state.node_count() };
        self.set(Key::EpochStart(epoch), start);
        let (mut seats, mut waiting, mut uptime) = (Vec::new(), Vec::new(), Vec::new());
        for (id, mut node) in nodes {
            let old = node.clone();
            node.work = node.work.split_off(&epoch.saturating_sub(ledger.seat_window_epochs));
            let rounds: u64 = node.work.values().map(|rounds| u64::from(*rounds)).sum();
            let earns = node.stake >= ledger.seat_stake || rounds >= u64::from(ledger.seat_rounds);
            let up_ms = std::mem::take(&mut node.up_ms).min(ledger.epoch_ms);
            if before.contains(&id) && up_ms > 0 && node.jailed_until.is_none() {
                uptime.push((id, up_ms));
            }
            let barred = node.lapsed || node.jailed_until.is_some();
            node.qualified = match node.qualified {
                _ if barred || !earns => None,
                Some(since) => Some(since),
                None => Some(epoch - 1), // It began to qualify in the epoch that just ended.
            };
            let seat = Seat { node: id, wallet: node.wallet };
            let founder = node.founder && !barred && epoch < ledger.founder_seat_epochs;
            match node.qualified {
                _ if founder => seats.push(seat),
                Some(_) if before.wallet(&id) == Some(seat.wallet) => seats.push(seat),
                Some(since) if since.saturating_add(ledger.seat_delay_epochs) <= epoch => {
                    waiting.push((since, Hash::of_parts(Domain::Lot, &[&seed.0, &id.0]), seat));
                }
                _ => {}
            }
            if node.lapsed || node != old {
                self.keep_or_forget(id, node); // a slash may be past answering for by now
            }
        }
        let growth = (before.0.len() / ledger.seat_growth_divisor as usize).max(ledger.seat_growth_min as usize);
        waiting.sort_unstable_by_key(|(since, lot, _)| (*since, *lot));
        seats.extend(waiting.into_iter().take(growth).map(|(_, _, seat)| seat));
        seats.sort_unstable_by_key(|seat| seat.node);
        self.events.push(Event::EpochChanged { epoch, seats: seats.len() as u32 });
        if seats != before.0 {
            self.set(Key::Seats(epoch), Seats(seats));
        }
        self.pay_uptime(&uptime);
        self.set_price();
        // Keep the snapshots that were in force at or after the inclusion of any transfer that is not final.
        let age = self.state.age_ms();
        let epoch_of = |since_ms: u64| age.saturating_sub(since_ms) / ledger.epoch_ms;
        self.keep_last(Key::Seats(0)..=Key::Seats(epoch_of(ledger.final_ms)));
        self.keep_last(Key::EpochStart(0)..=Key::EpochStart(epoch_of(ledger.evidence_ms).min(epoch - 1)));
    }

    /// Removes what stands in a range, but for the last entry.
    fn keep_last(&mut self, range: RangeInclusive<Key>) {
        let old: Vec<Key> = self.state.entries.range(range).map(|(key, _)| *key).rev().skip(1).collect();
        old.into_iter().for_each(|key| self.remove(key));
    }

    /// Mints the pay of an epoch's uptime, in milliseconds.
    fn pay_uptime(&mut self, uptime: &[(NodeId, u64)]) {
        let params = &self.state.params().round;
        let (pay, cap) = (params.uptime_pay, params.uptime_cap);
        let all: u64 = uptime.iter().map(|(_, up_ms)| up_ms).sum();
        let pot = pay.proportion(all, MINUTE_MS).unwrap_or(cap).min(cap);
        for (node, up_ms) in uptime {
            let share = pot.proportion(*up_ms, all).unwrap_or_default();
            self.mint(*node, share, RewardKind::Uptime, None);
        }
    }
}

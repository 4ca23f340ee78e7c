//! Transfers, their attestation, and their ends.
//!
//! ```text
//! PENDING --confirmations--> CONFIRMED --final_ms after inclusion--> FINAL
//!    |                           \------reports by 51 %------------> REVERSED
//!    |------reports by 51 %----------------------------------------> REVERSED
//!    \------pending_ms, or the sender's dispute--------------------> REFUNDED
//! ```
//!
//! - Inclusion takes the amount and the fee from the sender. Fewer seats that could confirm than are needed: refused.
//! - Only blocks that hold PENDING transfers can be attested. A lot draws `attest_drawn` seats that may do so at once,
//!   every seat may from `attest_open_blocks` blocks on; the seat must be one of the epoch of inclusion or of a later
//!   one. Nodes bound to the sender's or the recipient's wallet never count. A node attests a block once; what it
//!   excepts it abstains from.
//! - The sender may dispute for `dispute_ms` after inclusion, while the transfer is PENDING: it has the amount back in
//!   that block. It costs nothing more than the fee of the transfer, which is not given back.
//! - What has expired accepts nothing more, also before the bounded sweep at a block's end has come to it.
//! - REFUNDED, REVERSED and FINAL transfers leave the state; their events stay in the history.

use super::{
    Attestation, Event, Executor, Inclusion, Key, Rejection, Seats, State, Transfer, TransferStatus,
    entry::Expiry,
    money::{Pool, add, take},
};
use crate::plants::{self, Plant};
use ailo_protocol::{Address, Amount, Hash, NodeId, hash::Domain};
use std::{collections::BTreeSet, sync::Arc};

impl State {
    /// Whether an attestation by `node` of the block at `height` would be accepted in the next block.
    pub fn may_attest(&self, node: &NodeId, height: u64) -> bool {
        self.attestation(node, height, &[], self.height() + 1).is_ok()
    }

    /// The attestation by `node` of the block at `height`, in the block at `now`, if it helps to confirm a transfer.
    fn attestation(&self, id: &NodeId, height: u64, except: &[Hash], now: u64) -> Result<Attestation, Rejection> {
        let ledger = &self.params().ledger;
        let node = self.node(id).ok_or(Rejection::UnknownNode)?;
        let inclusion = self.inclusion(height).filter(|inclusion| inclusion.pending > 0 && height < now);
        let inclusion = inclusion.ok_or(Rejection::NothingPending { height })?;
        if let Some(until_age) = node.jailed_until {
            return Err(Rejection::Jailed { until_age });
        }
        if !self.held_seat_since(id, &node.wallet, inclusion.epoch) {
            return Err(Rejection::NoSeat { stake: ledger.seat_stake, rounds: ledger.seat_rounds });
        }
        let opens = height.saturating_add(ledger.attest_open_blocks);
        if now < opens && !inclusion.drawn.contains(id) {
            return Err(Rejection::NotDrawn { opens });
        }
        let attested = inclusion.attested.iter().any(|attestation| attestation.node == *id);
        if attested && !plants::on(Plant::AttestTwice) {
            return Err(Rejection::AlreadyAttested);
        }
        if !except.is_sorted_by(|a, b| a < b) {
            return Err(Rejection::BadExcept);
        }
        // What is not in the block is not kept.
        let except = except.iter().filter(|id| inclusion.transfers.binary_search(id).is_ok()).copied().collect();
        let attestation = Attestation { node: *id, wallet: node.wallet, except };
        let needed = |id: &Hash| self.pending(id).is_some_and(|transfer| attestation.counts(id, transfer));
        if !inclusion.transfers.iter().any(needed) {
            return Err(Rejection::NoneNeeded);
        }
        Ok(attestation)
    }

    /// A transfer that is PENDING and has not expired.
    fn pending(&self, id: &Hash) -> Option<&Transfer> {
        let alive = |transfer: &&Transfer| {
            transfer.status == TransferStatus::Pending
                && self.age_ms() < transfer.age.saturating_add(self.params().ledger.pending_ms)
        };
        self.transfer(id).filter(alive)
    }

    /// Whether coins may go from one wallet to another, as far as nonce and balance do not decide it; gives the fee.
    pub(super) fn may_transfer(
        &self,
        from: &Address,
        to: &Address,
        amount: Amount,
        memo: &str,
    ) -> Result<Amount, Rejection> {
        let ledger = &self.params().ledger;
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        if from == to {
            return Err(Rejection::SelfTransfer);
        }
        if memo.len() > ledger.memo_bytes as usize {
            return Err(Rejection::MemoTooLong { max: ledger.memo_bytes });
        }
        if self.entries.contains_key(&Key::Alias(*to)) {
            return Err(Rejection::KeyOfAnother { account: self.account_at(to) });
        }
        let needed = ledger.confirmations;
        let seats = self.seats(self.epoch()).map_or(&[][..], |seats| &seats.0);
        let eligible = seats.iter().filter(|seat| ![*from, *to].contains(&seat.wallet)).take(needed as usize);
        let eligible = eligible.count() as u32;
        if eligible < needed {
            return Err(Rejection::TooFewActive { eligible, needed });
        }
        Ok(ledger.fee)
    }

    /// Whether `node` holds, or held since `epoch`, a seat as a node of this wallet.
    fn held_seat_since(&self, node: &NodeId, wallet: &Address, epoch: u64) -> bool {
        let holds = |epoch: u64| self.seats(epoch).is_some_and(|seats: &Seats| seats.wallet(node) == Some(*wallet));
        let later = self.entries.range(Key::Seats(epoch)..=Key::Seats(self.epoch()));
        holds(epoch)
            || later.filter_map(|(key, _)| if let Key::Seats(epoch) = key { Some(*epoch) } else { None }).any(holds)
    }
}

impl Executor {
    pub(super) fn transfer(
        &mut self,
        id: Hash,
        from: Address,
        nonce: u64,
        to: Address,
        amount: Amount,
        memo: &str,
    ) -> Result<(), Rejection> {
        let fee = self.state.may_transfer(&from, &to, amount, memo)?;
        let needed = self.state.params().ledger.confirmations;
        self.charge(from, nonce, amount, fee)?;
        self.shift(Pool::Free, Pool::Pending, amount);
        self.shift(Pool::Free, Pool::Escrow, fee);
        self.account(to, |account| add(&mut account.incoming, amount));
        let transfer = Transfer {
            from,
            to,
            amount,
            fee,
            status: TransferStatus::Pending,
            height: self.context.height,
            age: self.state.age_ms(),
            proposer: self.context.proposer,
            reports: 0,
            confirmers: Arc::default(),
        };
        self.events.push(Event::TransferPending { id, from, to, amount, fee });
        match needed {
            0 => self.confirm(id, transfer, Arc::default()),
            _ => self.set(Key::Transfer(id), transfer),
        }
        Ok(())
    }

    pub(super) fn dispute(&mut self, wallet: Address, nonce: u64, id: &Hash) -> Result<(), Rejection> {
        let transfer = self.state.transfer(id).ok_or(Rejection::NoSuchTransfer)?;
        let until_age = transfer.age.saturating_add(self.state.params().ledger.dispute_ms);
        if transfer.from != wallet {
            return Err(Rejection::NotTheSender);
        }
        if self.state.pending(id).is_none() || self.state.age_ms() >= until_age {
            return Err(Rejection::DisputeClosed);
        }
        let transfer = transfer.clone();
        self.charge(wallet, nonce, Amount::ZERO, Amount::ZERO)?;
        self.refund(*id, &transfer);
        self.leave_block(transfer.height, &BTreeSet::from([*id]), true);
        Ok(())
    }

    /// Notes the block's own transfers, at its end: who may attest them, and when they end.
    pub(super) fn include_transfers(&mut self) {
        let height = self.context.height;
        let of_this_block = |key: &Key| match key {
            Key::Transfer(id) => self.state.transfer(id).filter(|t| t.height == height).map(|t| (*id, t.status)),
            _ => None,
        };
        let first = Key::Transfer(Hash::ZERO)..=Key::Transfer(Hash([0xff; 32]));
        let new: Vec<(Hash, TransferStatus)> = self.touched.range(first).filter_map(of_this_block).collect();
        if new.is_empty() {
            return;
        }
        let pending = new.iter().filter(|(_, status)| *status == TransferStatus::Pending).count() as u32;
        let ledger = &self.state.params().ledger;
        let age = self.state.age_ms();
        let ends = [age.saturating_add(ledger.pending_ms), age.saturating_add(ledger.final_ms)];
        let inclusion = Inclusion {
            epoch: self.state.epoch(),
            drawn: if pending > 0 { self.draw_seats() } else { BTreeSet::new() },
            attested: Vec::new(),
            transfers: new.into_iter().map(|(id, _)| id).collect(),
            pending,
        };
        self.set(Key::Inclusion(height), inclusion);
        ends.into_iter().for_each(|end| self.set(Key::Expiry(end, height), Expiry));
    }

    /// The seats that may attest this block at once.
    fn draw_seats(&self) -> BTreeSet<NodeId> {
        let seed = self.state.seed();
        let seats = self.state.seats(self.state.epoch()).map_or(&[][..], |seats| &seats.0);
        let mut lots: Vec<(Hash, NodeId)> =
            seats.iter().map(|seat| (Hash::of_parts(Domain::Lot, &[&seed.0, &seat.node.0]), seat.node)).collect();
        lots.sort_unstable();
        lots.into_iter().take(self.state.params().ledger.attest_drawn as usize).map(|(_, node)| node).collect()
    }

    pub(super) fn attest(&mut self, node: NodeId, height: u64, except: &[Hash]) -> Result<(), Rejection> {
        let attestation = self.state.attestation(&node, height, except, self.context.height)?;
        let needed = self.state.params().ledger.confirmations as usize;
        let Some(mut inclusion) = self.state.inclusion(height).cloned() else { return Ok(()) };
        let first = plants::on(Plant::NondeterministicOrder) && plants::turn().is_multiple_of(2);
        let place = if first { 0 } else { inclusion.attested.len() };
        inclusion.attested.insert(place, attestation);
        self.events.push(Event::Attested { node, height });
        let mut confirmed: Vec<(Hash, Transfer, Arc<[NodeId]>)> = Vec::new();
        for id in inclusion.transfers.iter().filter(|_| inclusion.attested.len() >= needed) {
            let Some(transfer) = self.state.pending(id) else { continue };
            let counting = inclusion.attested.iter().filter(|attestation| attestation.counts(id, transfer));
            let confirmers: Vec<NodeId> = counting.take(needed).map(|attestation| attestation.node).collect();
            if confirmers.len() == needed {
                let same = confirmed.last().filter(|(_, _, others)| **others == *confirmers);
                let confirmers = same.map_or_else(|| confirmers.into(), |(_, _, others)| others.clone());
                confirmed.push((*id, transfer.clone(), confirmers));
            }
        }
        inclusion.pending -= confirmed.len() as u32;
        self.set(Key::Inclusion(height), inclusion);
        confirmed.into_iter().for_each(|(id, transfer, confirmers)| self.confirm(id, transfer, confirmers));
        Ok(())
    }

    fn confirm(&mut self, id: Hash, mut transfer: Transfer, confirmers: Arc<[NodeId]>) {
        let Transfer { from, to, amount, fee, proposer, .. } = transfer;
        self.shift(Pool::Pending, Pool::Free, amount);
        self.events.push(Event::TransferConfirmed { id, from, to, amount });
        let mut owes = false;
        self.account(to, |account| {
            take(&mut account.incoming, amount);
            owes = account.owes > Amount::ZERO;
            if !owes {
                add(&mut account.free, amount);
            }
        });
        if owes {
            self.credit(to, amount);
        }
        self.settle_fee(Pool::Escrow, fee, proposer, &confirmers);
        (transfer.status, transfer.confirmers) = (TransferStatus::Confirmed, confirmers);
        self.set(Key::Transfer(id), transfer);
    }

    /// Ends a PENDING transfer in the sender's favour.
    pub(super) fn refund(&mut self, id: Hash, transfer: &Transfer) {
        let Transfer { from, to, amount, .. } = *transfer;
        self.events.push(Event::TransferRefunded { id, from, to, amount });
        self.give_back(id, transfer);
        self.return_reports(&id);
    }

    /// Gives the sender back what a PENDING transfer took, all but the fee, and forgets the transfer.
    pub(super) fn give_back(&mut self, id: Hash, transfer: &Transfer) {
        let Transfer { from, to, amount, fee, height, proposer, .. } = *transfer;
        self.shift(Pool::Pending, Pool::Free, amount);
        self.account(to, |account| take(&mut account.incoming, amount));
        self.credit(from, amount);
        let attested = self.state.inclusion(height).map_or(&[][..], |inclusion| &inclusion.attested);
        let confirmers: Vec<NodeId> = attested.iter().filter(|a| a.counts(&id, transfer)).map(|a| a.node).collect();
        self.settle_fee(Pool::Escrow, fee, proposer, &confirmers);
        self.remove(Key::Transfer(id));
    }

    /// Takes transfers that end off their block's list; `pending` says whether they are PENDING.
    pub(super) fn leave_block(&mut self, height: u64, ended: &BTreeSet<Hash>, pending: bool) {
        let Some(mut inclusion) = self.state.inclusion(height).cloned() else { return };
        inclusion.transfers.retain(|id| !ended.contains(id));
        if pending {
            inclusion.pending -= ended.len() as u32;
        }
        match inclusion.transfers.is_empty() {
            true => self.remove(Key::Inclusion(height)),
            false => self.set(Key::Inclusion(height), inclusion),
        }
    }

    /// Ends transfers whose time is over, in order of (expiry, height, id), a bounded number a block.
    pub(super) fn sweep_transfers(&mut self) {
        let ledger = &self.state.params().ledger;
        let (age, pending_ms, final_ms) = (self.state.age_ms(), ledger.pending_ms, ledger.final_ms);
        let mut left = ledger.sweep_per_block as usize;
        let due = Key::Expiry(0, 0)..=Key::Expiry(age, u64::MAX);
        let due: Vec<Key> = self.state.entries.range(due).take(left).map(|(key, _)| *key).collect();
        for key in due {
            let Key::Expiry(_, height) = key else { continue };
            let ids = self.state.inclusion(height).map(|inclusion| inclusion.transfers.clone()).unwrap_or_default();
            let over = |id: &Hash| {
                let transfer = self.state.transfer(id)?;
                let ends = match transfer.status {
                    TransferStatus::Pending => pending_ms,
                    TransferStatus::Confirmed => final_ms,
                };
                (transfer.age.saturating_add(ends) <= age).then(|| (*id, transfer.clone()))
            };
            let over: Vec<(Hash, Transfer)> = ids.iter().filter_map(over).take(left + 1).collect();
            if over.len() <= left {
                self.remove(key);
            }
            let (mut pending, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
            for (id, transfer) in over.into_iter().take(left) {
                left -= 1;
                match transfer.status {
                    TransferStatus::Pending => {
                        pending.insert(id);
                        self.refund(id, &transfer);
                    }
                    TransferStatus::Confirmed => {
                        confirmed.insert(id);
                        self.settle_reports(&id, &transfer);
                        self.remove(Key::Transfer(id));
                        self.events.push(Event::TransferFinal { id, from: transfer.from, to: transfer.to });
                    }
                }
            }
            self.leave_block(height, &pending, true);
            self.leave_block(height, &confirmed, false);
            if left == 0 {
                break;
            }
        }
    }
}

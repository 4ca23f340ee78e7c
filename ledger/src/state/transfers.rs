//! Transfers and their attestation.
//!
//! ```text
//! PENDING --confirmations--> CONFIRMED --final_ms after inclusion--> FINAL
//!    \------pending_ms-----> REFUNDED
//! ```
//!
//! - Inclusion takes the amount and the fee from the sender. Fewer seats that could confirm than are needed: refused.
//! - Only blocks that hold PENDING transfers can be attested. A lot draws `attest_drawn` seats that may do so at once,
//!   every seat may from `attest_open_blocks` blocks on; the seat must be one of the epoch of inclusion or of a later
//!   one. Nodes bound to the sender's or the recipient's wallet never count. A node attests a block once; what it
//!   excepts it abstains from.
//! - What has expired accepts nothing more, also before the bounded sweep at a block's end has come to it.
//! - REFUNDED and FINAL transfers leave the state; their events stay in the history.

use super::{
    Event, Executor, Inclusion, Key, Rejection, Seats, State, Transfer, TransferStatus,
    entry::Expiry,
    money::{Pool, add, take},
};
use crate::plants::{self, Plant};
use ailo_protocol::{Address, Amount, Hash, NodeId, hash::Domain};
use std::collections::BTreeSet;

impl State {
    /// Whether an attestation by `node` of the block at `height` would be accepted in the next block.
    pub fn may_attest(&self, node: &NodeId, height: u64) -> bool {
        self.confirmable(node, height, &[], self.height() + 1).is_ok()
    }

    /// The transfers of the block at `height` that an attestation by `node`, in the block at `now`, would help to
    /// confirm.
    fn confirmable(&self, node: &NodeId, height: u64, except: &[Hash], now: u64) -> Result<Vec<Hash>, Rejection> {
        let ledger = &self.params().ledger;
        let wallet = self.node(node).ok_or(Rejection::UnknownNode)?.wallet;
        let inclusion = self.inclusion(height).filter(|_| height < now).ok_or(Rejection::NothingPending { height })?;
        if !self.held_seat_since(node, inclusion.epoch) {
            return Err(Rejection::NoSeat { stake: ledger.seat_stake, rounds: ledger.seat_rounds });
        }
        let opens = height.saturating_add(ledger.attest_open_blocks);
        if now < opens && !inclusion.drawn.contains(node) {
            return Err(Rejection::NotDrawn { opens });
        }
        if inclusion.attested.contains(node) && !plants::on(Plant::AttestTwice) {
            return Err(Rejection::AlreadyAttested);
        }
        if !except.is_sorted_by(|a, b| a < b) {
            return Err(Rejection::BadExcept);
        }
        let counts = |id: &&Hash| {
            self.transfer(id).is_some_and(|transfer| {
                except.binary_search(id).is_err()
                    && ![transfer.from, transfer.to].contains(&wallet)
                    && self.age_ms() < transfer.age.saturating_add(ledger.pending_ms)
            })
        };
        let confirmable: Vec<Hash> = inclusion.pending.iter().filter(counts).copied().collect();
        if confirmable.is_empty() {
            return Err(Rejection::NoneNeeded);
        }
        Ok(confirmable)
    }

    /// Whether `node` holds, or held since `epoch`, a seat.
    fn held_seat_since(&self, node: &NodeId, epoch: u64) -> bool {
        let holds = |epoch: u64| self.seats(epoch).is_some_and(|seats: &Seats| seats.contains(node));
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
        let ledger = &self.state.params().ledger;
        let (fee, needed, pending_ms) = (ledger.fee, ledger.confirmations, ledger.pending_ms);
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        if from == to {
            return Err(Rejection::SelfTransfer);
        }
        if memo.len() > ledger.memo_bytes as usize {
            return Err(Rejection::MemoTooLong { max: ledger.memo_bytes });
        }
        let seats = self.state.seats(self.state.epoch()).map_or(&[][..], |seats| &seats.0);
        let eligible = seats.iter().filter(|seat| ![from, to].contains(&seat.wallet)).count() as u32;
        if eligible < needed {
            return Err(Rejection::TooFewActive { eligible, needed });
        }
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
            confirmers: Vec::new(),
        };
        self.set(Key::Expiry(transfer.age.saturating_add(pending_ms), id), Expiry);
        self.events.push(Event::TransferPending { id, from, to, amount, fee });
        if needed == 0 {
            self.confirm(id, transfer);
            return Ok(());
        }
        self.set(Key::Transfer(id), transfer);
        let mut inclusion = match self.state.inclusion(self.context.height) {
            Some(inclusion) => inclusion.clone(),
            None => Inclusion {
                epoch: self.state.epoch(),
                drawn: self.draw_seats(),
                pending: BTreeSet::new(),
                attested: BTreeSet::new(),
            },
        };
        inclusion.pending.insert(id);
        self.set(Key::Inclusion(self.context.height), inclusion);
        Ok(())
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
        let confirmable = self.state.confirmable(&node, height, except, self.context.height)?;
        let needed = self.state.params().ledger.confirmations as usize;
        if let Some(mut inclusion) = self.state.inclusion(height).cloned() {
            inclusion.attested.insert(node);
            self.set(Key::Inclusion(height), inclusion);
        }
        self.events.push(Event::Attested { node, height, transfers: confirmable.len() as u32 });
        for id in confirmable {
            let Some(mut transfer) = self.state.transfer(&id).cloned() else { continue };
            let first = plants::on(Plant::NondeterministicOrder) && plants::turn().is_multiple_of(2);
            transfer.confirmers.insert(if first { 0 } else { transfer.confirmers.len() }, node);
            match transfer.confirmers.len() >= needed {
                true => self.confirm(id, transfer),
                false => self.set(Key::Transfer(id), transfer),
            }
        }
        Ok(())
    }

    fn confirm(&mut self, id: Hash, mut transfer: Transfer) {
        let Transfer { from, to, amount, fee, height, age, proposer, .. } = transfer;
        let ledger = &self.state.params().ledger;
        let (pending_until, open_until) = (age.saturating_add(ledger.pending_ms), age.saturating_add(ledger.final_ms));
        self.no_longer_pending(&id, height, to, amount);
        self.account(to, |account| add(&mut account.free, amount));
        self.events.push(Event::TransferConfirmed { id, from, to, amount });
        self.settle_fee(Pool::Escrow, fee, proposer, &transfer.confirmers);
        transfer.status = TransferStatus::Confirmed;
        self.remove(Key::Expiry(pending_until, id));
        self.set(Key::Expiry(open_until, id), Expiry);
        self.set(Key::Transfer(id), transfer);
    }

    fn refund(&mut self, id: Hash, transfer: &Transfer) {
        let Transfer { from, to, amount, fee, height, proposer, .. } = *transfer;
        self.no_longer_pending(&id, height, to, amount);
        self.account(from, |account| add(&mut account.free, amount));
        self.events.push(Event::TransferRefunded { id, from, to, amount });
        self.settle_fee(Pool::Escrow, fee, proposer, &transfer.confirmers);
        self.remove(Key::Transfer(id));
    }

    fn no_longer_pending(&mut self, id: &Hash, height: u64, to: Address, amount: Amount) {
        self.shift(Pool::Pending, Pool::Free, amount);
        self.account(to, |account| take(&mut account.incoming, amount));
        let Some(mut inclusion) = self.state.inclusion(height).cloned() else { return };
        inclusion.pending.remove(id);
        match inclusion.pending.is_empty() {
            true => self.remove(Key::Inclusion(height)),
            false => self.set(Key::Inclusion(height), inclusion),
        }
    }

    /// Ends transfers whose time is over, in order of (expiry, id), a bounded number a block.
    pub(super) fn sweep_transfers(&mut self) {
        let due = Key::Expiry(0, Hash::ZERO)..=Key::Expiry(self.state.age_ms(), Hash([0xff; 32]));
        let bound = self.state.params().ledger.sweep_per_block as usize;
        let due: Vec<Key> = self.state.entries.range(due).take(bound).map(|(key, _)| *key).collect();
        for key in due {
            self.remove(key);
            let Key::Expiry(_, id) = key else { continue };
            let Some(transfer) = self.state.transfer(&id).cloned() else { continue };
            match transfer.status {
                TransferStatus::Pending => self.refund(id, &transfer),
                TransferStatus::Confirmed => {
                    self.remove(Key::Transfer(id));
                    self.events.push(Event::TransferFinal { id, from: transfer.from, to: transfer.to });
                }
            }
        }
    }
}

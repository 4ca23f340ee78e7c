//! Changes of network parameters by a vote of the stake.
//!
//! - A proposal names changes as `section.key=value`, each of a parameter in [`CHANGEABLE`], and binds `poll_deposit`. They
//!   must make sound parameters together with those in force.
//! - For `poll_ms` any wallet with stake votes, with all of it as it stands at that moment; a later vote replaces an
//!   earlier one. Stake unbonds for longer than a poll lasts, so no coin votes twice.
//! - Then, with `poll_quorum_ppm` of all stake voting (what unbonds counted in) and `poll_approval_ppm` of the votes for
//!   it, the changes come into force `poll_delay_blocks` later, at the start of that block. Without the quorum the
//!   deposit burns; otherwise it goes back, whatever the outcome.
//! - What decides who may take part, how many confirm, and what 51 % means is for no vote.

use super::{
    Event, Executor, Key, Poll, Rejection,
    entry::{Changes, PollVote},
    money::{Pool, add, take},
};
use ailo_protocol::{Address, Amount, amount::PPM, presets};

/// Parameters that votes may change: reward rates, slashing, fees, and the protocol's pace.
pub const CHANGEABLE: &[&str] = &[
    "ledger.fee",
    "ledger.fee_burn_ppm",
    "ledger.fee_proposer_ppm",
    "ledger.memo_bytes",
    "ledger.report_bond",
    "ledger.report_forfeit_ppm",
    "ledger.report_quota",
    "ledger.sweep_per_block",
    "ledger.attest_drawn",
    "ledger.attest_open_blocks",
    "ledger.slash_ppm",
    "ledger.fraud_slash_ppm",
    "ledger.bounty_ppm",
    "ledger.jail_ms",
    "ledger.challenge_bond",
    "ledger.challenge_ms",
    "ledger.challenge_rounds",
    "ledger.poll_deposit",
    "ledger.poll_delay_blocks",
    "ledger.block_bytes",
    "ledger.attest_quota_ppm",
    "ledger.heartbeat_ms",
    "ledger.alive_ms",
    "round.open_wait_ms",
    "round.min_train_ms",
    "round.max_train_ms",
    "round.train_mad_ppm",
    "round.verify_ms",
    "round.vote_ms",
    "round.committee",
    "round.pot",
    "round.epoch_cap",
    "round.best_loss_bonus",
    "round.best_loss_ppm",
    "round.quality_max_ppm",
    "round.quality_full_ppm",
    "round.quality_memory_ppm",
    "round.speed_min_ppm",
    "round.speed_max_ppm",
    "round.stake_bonus_ppm",
    "round.stake_bonus_unit",
    "round.uptime_pay",
    "round.uptime_cap",
    "inference.top_up",
    "inference.latency_bonus",
    "inference.receipt_min",
    "inference.receipt_quota",
    "inference.block_ppm",
    "inference.price_floor",
    "inference.price_max",
    "inference.price_memory_ppm",
    "inference.price_step_ppm",
    "inference.price_cap_ppm",
    "inference.capacity",
];

/// Changes of one proposal, at most, and bytes of each.
const MAX_CHANGES: usize = 16;
const MAX_CHANGE_BYTES: usize = 80;

impl Executor {
    pub(super) fn propose(
        &mut self,
        wallet: Address,
        nonce: u64,
        changes: &[String],
        why: &str,
    ) -> Result<(), Rejection> {
        let ledger = &self.state.params().ledger;
        if why.len() > ledger.memo_bytes as usize {
            return Err(Rejection::MemoTooLong { max: ledger.memo_bytes });
        }
        if changes.is_empty() || changes.len() > MAX_CHANGES || changes.iter().any(|c| c.len() > MAX_CHANGE_BYTES) {
            return Err(Rejection::BadChange { why: format!("name 1 to {MAX_CHANGES} changes, each short") });
        }
        for change in changes {
            let name = change.split('=').next().unwrap_or_default();
            if !CHANGEABLE.contains(&name) {
                return Err(Rejection::NotChangeable { name: name.into() });
            }
        }
        presets::change(self.state.params(), changes).map_err(|e| Rejection::BadChange { why: e.to_string() })?;
        let (deposit, max) = (ledger.poll_deposit, ledger.max_polls);
        let ends_age = self.state.age_ms().saturating_add(ledger.poll_ms);
        if self.state.polls().count() >= max as usize {
            return Err(Rejection::TooManyPolls { max });
        }
        self.charge(wallet, nonce, deposit, Amount::ZERO)?;
        self.shift(Pool::Free, Pool::Escrow, deposit);
        // The height and the place within the block make the number: unique, ascending, and no counter to keep.
        let (height, mut number) = (self.context.height, self.context.height << 16);
        while self.state.entries.contains_key(&Key::Poll(number)) {
            number += 1;
        }
        let (changes, why) = (changes.to_vec(), why.to_string());
        self.events.push(Event::Proposed { proposal: number, wallet, changes: changes.clone(), height });
        let poll = Poll {
            changes,
            why,
            proposer: wallet,
            deposit,
            ends_age,
            yes: Amount::ZERO,
            no: Amount::ZERO,
            activates: None,
        };
        self.set(Key::Poll(number), poll);
        Ok(())
    }

    pub(super) fn vote(&mut self, wallet: Address, nonce: u64, number: u64, approve: bool) -> Result<(), Rejection> {
        let poll = self.state.get::<Poll>(&Key::Poll(number)).filter(|poll| poll.activates.is_none());
        let mut poll = poll.filter(|p| self.state.age_ms() < p.ends_age).ok_or(Rejection::NoSuchPoll)?.clone();
        let weight = self.state.account(&wallet).staked;
        if weight == Amount::ZERO {
            return Err(Rejection::NoStake);
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        let key = Key::PollVote(number, wallet);
        if let Some(PollVote { approve, weight }) = self.state.get(&key).cloned() {
            take(if approve { &mut poll.yes } else { &mut poll.no }, weight);
        }
        add(if approve { &mut poll.yes } else { &mut poll.no }, weight);
        self.set(Key::Poll(number), poll);
        self.set(key, PollVote { approve, weight });
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.events.push(Event::Voted { proposal: number, wallet, approve, weight });
        Ok(())
    }

    /// Counts the votes of polls that are over, and sweeps the votes of ended ones, a bounded number a block.
    pub(super) fn count_polls(&mut self) {
        let age = self.state.age_ms();
        let over = self.state.polls().filter(|(_, poll)| poll.activates.is_none() && poll.ends_age <= age);
        let over: Vec<(u64, Poll)> = over.map(|(number, poll)| (number, poll.clone())).collect();
        for (number, mut poll) in over {
            let ledger = &self.state.params().ledger;
            let supply = self.totals.supply;
            // Whatever voted is staked or unbonds still: a quorum can't be made by leaving after the vote.
            let all = u128::from(supply.staked.0) + u128::from(supply.unbonding.0);
            let cast = u128::from(poll.yes.0) + u128::from(poll.no.0);
            let of = |part: u128, ppm: u64| part * u128::from(ppm);
            let quorum = cast > 0 && cast * u128::from(PPM) >= of(all, ledger.poll_quorum_ppm);
            let approved = quorum && u128::from(poll.yes.0) * u128::from(PPM) >= of(cast, ledger.poll_approval_ppm);
            let activates = approved.then(|| self.context.height.saturating_add(ledger.poll_delay_blocks.max(1)));
            let deposit = std::mem::take(&mut poll.deposit);
            match quorum {
                true => {
                    self.shift(Pool::Escrow, Pool::Free, deposit);
                    self.credit(poll.proposer, deposit);
                }
                false => self.burn(Pool::Escrow, deposit),
            }
            self.events.push(Event::Counted { proposal: number, yes: poll.yes, no: poll.no, quorum, activates });
            poll.activates = activates;
            match approved {
                true => self.set(Key::Poll(number), poll),
                false => self.remove(Key::Poll(number)),
            }
        }
        let bound = self.state.params().ledger.sweep_per_block as usize;
        let votes = Key::PollVote(0, Address([0; 20]))..=Key::PollVote(u64::MAX, Address([0xff; 20]));
        let votes = self.state.entries.range(votes).map(|(key, _)| *key);
        let open = |key: &Key| match key {
            Key::PollVote(number, _) => {
                self.state.get::<Poll>(&Key::Poll(*number)).is_some_and(|poll| poll.activates.is_none())
            }
            _ => false,
        };
        let ended: Vec<Key> = votes.take_while(|key| !open(key)).take(bound).collect();
        ended.into_iter().for_each(|key| self.remove(key));
    }

    /// Brings approved changes into force whose height has come.
    pub(super) fn activate_changes(&mut self) {
        let height = self.context.height;
        let due = self.state.polls().filter(|(_, poll)| poll.activates.is_some_and(|at| at <= height));
        let due: Vec<(u64, Poll)> = due.map(|(number, poll)| (number, poll.clone())).collect();
        for (number, poll) in due {
            self.remove(Key::Poll(number));
            // Other changes may have come in between that these do not go with.
            let sound = presets::change(self.state.params(), &poll.changes).is_ok();
            if sound {
                let name = |change: &str| change.split('=').next().unwrap_or_default().to_string();
                let mut changes = self.state.changes().to_vec();
                changes.retain(|old| !poll.changes.iter().any(|new| name(new) == name(old)));
                changes.extend(poll.changes.iter().cloned());
                self.set(Key::Changes, Changes(changes));
            }
            self.events.push(Event::Activated { proposal: number, changes: poll.changes, sound });
        }
    }
}

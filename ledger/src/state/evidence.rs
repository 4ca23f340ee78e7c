//! What lying costs: evidence, challenges, the jail.
//!
//! - *Evidence* is two signatures of one node that exclude each other: rival votes or proposals, or two attestations of
//!   one block that except different transfers. Signatures alone decide, so it slashes at once: `slash_ppm` of the stake
//!   behind the node and of what unbonds from behind it. It is admitted for `evidence_ms`; one slash covers whatever the
//!   node signed up to then. About a node that is jailed, or has neither seat, vote nor work, it must take a fee's worth:
//!   evidence is free, a key without stake could go on for ever, and what is slashed can't be forgotten for a while.
//! - A *challenge* calls an accepted contribution of the last `challenge_rounds` rounds forged, each once: nobody is
//!   slashed twice for one forgery, and no judgement counts in a second trial. Its bond is
//!   `challenge_bond` for the first, twice that for the second that is open, and so on: who fills all `max_challenges`
//!   places with nothing burns more than an epoch's rounds can pay. The validators of that moment replay the work and vote until
//!   `challenge_ms` are over, each with what it found. More than 2/3 of the power on one and the same other result
//!   slashes `fraud_slash_ppm`; otherwise the bond burns.
//! - Of what is slashed `bounty_ppm` goes to who showed it (nothing if that is the offender's own wallet), the rest burns.
//! - A slashed node is jailed: no seat, no vote, no part in rounds, its accrued work and score are gone. Its wallet may
//!   unjail it after `jail_ms`, for the fee. Should jailing leave too few validators, it stays in the set until there are
//!   enough (`stakes.rs`).

use super::{
    Challenge, Event, Executor, Key, Node, Rejection, State,
    entry::{Outcome, PastRound, Replay, Unbonding},
    money::{Pool, add, take},
};
use crate::{
    plants::{self, Plant},
    transaction::Evidence,
};
use ailo_protocol::{Address, Amount, Hash, NodeId};

impl Challenge {
    /// Counts what a validator found; whether it is upheld, once that is decided.
    pub(super) fn hear(&mut self, judge: NodeId, found: Hash, age: u64) -> Result<Option<bool>, Rejection> {
        let power = self.power.power(&judge);
        if power == 0 {
            return Err(Rejection::NotValidator);
        }
        if age >= self.deadline_age {
            return Err(Rejection::NoSuchChallenge);
        }
        if !self.judged.insert(judge) {
            return Err(Rejection::AlreadyJudged);
        }
        *self.found.entry(found).or_default() += power;
        let (total, forged) = (self.power.total_power(), self.forged());
        let missing = total - self.found.values().sum::<u64>();
        let half = plants::on(Plant::ForgedByHalf) && forged >= total.div_ceil(2);
        Ok(match self.power.is_quorum(forged) || half {
            true => Some(true),
            false => (!self.power.is_quorum(forged + missing)).then_some(false),
        })
    }
}

impl State {
    /// Evidence about blocks below this height is too old.
    pub fn oldest_evidence(&self) -> u64 {
        self.height_of_age(self.age_ms().saturating_sub(self.params().ledger.evidence_ms))
    }

    /// The height at which the epoch of this age began.
    pub(super) fn height_of_age(&self, age: u64) -> u64 {
        let epoch = age / self.params().ledger.epoch_ms;
        let kept = self.entries.range(Key::EpochStart(0)..=Key::EpochStart(epoch)).next_back();
        match kept.map(|(_, entry)| entry) {
            Some(super::Entry::EpochStart(start)) => start.height,
            _ => 1,
        }
    }

    /// Whether a transaction with this evidence would be accepted in the next block.
    pub fn may_accuse(&self, evidence: &Evidence) -> bool {
        self.accused(evidence, self.height() + 1).is_ok()
    }

    /// The node that `evidence` convicts in the block at `now`.
    fn accused(&self, evidence: &Evidence, now: u64) -> Result<&Node, Rejection> {
        let (height, oldest) = (evidence.height(), self.oldest_evidence());
        if !evidence.is_conflict() {
            return Err(Rejection::NoConflict);
        }
        if height < oldest {
            return Err(Rejection::EvidenceTooOld { oldest });
        }
        // What was signed at the running height may be shown at once.
        if height > now {
            return Err(Rejection::EvidenceFromFuture);
        }
        let node = self.node(&evidence.node()).ok_or(Rejection::UnknownNode)?;
        if height <= node.slashed_height {
            return Err(Rejection::SlashedAlready { height: node.slashed_height });
        }
        let ledger = &self.params().ledger;
        let (id, free) = (evidence.node(), node.jailed_until.is_none());
        let stands = free && (self.has_say(&id) || node.founder || !node.work.is_empty());
        if !stands && self.slashable(&id, node, ledger.slash_ppm) < ledger.fee {
            return Err(Rejection::NothingLeft);
        }
        Ok(node)
    }

    /// Whether the node holds a seat, or a vote on the next block.
    fn has_say(&self, id: &NodeId) -> bool {
        self.validators().power(id) > 0 || self.seats(self.epoch()).is_some_and(|seats| seats.contains(id))
    }

    /// What the next challenge binds.
    pub fn next_challenge_bond(&self) -> Amount {
        self.bond(self.bonded_challenges())
    }

    /// Challenges that somebody answers for; those that replayers bring about have places of their own.
    pub(super) fn bonded_challenges(&self) -> usize {
        self.challenges().filter(|(_, _, challenge)| challenge.bond > Amount::ZERO).count()
    }

    /// What a challenge or accusation binds beside so many open ones.
    pub(super) fn bond(&self, open: usize) -> Amount {
        Amount(self.params().ledger.challenge_bond.0.saturating_mul(open as u64 + 1))
    }

    /// What a slash of `ppm` takes of the stake behind a node and of what unbonds from behind it.
    fn slashable(&self, id: &NodeId, node: &Node, ppm: u64) -> Amount {
        let held = self.unbonding_from(&node.wallet, *id).map(|(_, held)| held).chain([node.stake]);
        Amount(held.map(|held| held.share(ppm).unwrap_or_default().0).sum())
    }
}

impl Executor {
    pub(super) fn evidence(&mut self, reporter: NodeId, evidence: &Evidence) -> Result<(), Rejection> {
        let reporter = self.state.node(&reporter).ok_or(Rejection::UnknownNode)?.wallet;
        self.state.accused(evidence, self.context.height)?;
        let ppm = self.state.params().ledger.slash_ppm;
        self.slash(evidence.node(), ppm, reporter);
        Ok(())
    }

    /// Takes a share of what stands behind a node, and jails it.
    pub(super) fn slash(&mut self, id: NodeId, ppm: u64, reporter: Address) {
        let Some(node) = self.state.node(&id).cloned() else { return };
        let wallet = node.wallet;
        let mut total = Amount::ZERO;
        let part = node.stake.share(ppm).unwrap_or_default();
        if part > Amount::ZERO {
            self.take_stake(id, part, Pool::Free);
            add(&mut total, part);
        }
        let unbonding: Vec<(Key, Amount)> = self.state.unbonding_from(&wallet, id).collect();
        for (key, held) in unbonding {
            let part = held.share(ppm).unwrap_or_default();
            self.take_unbonding(key, part, Pool::Free);
            add(&mut total, part);
        }
        let bounty = match reporter == wallet {
            true => Amount::ZERO,
            false => total.share(self.state.params().ledger.bounty_ppm).unwrap_or_default(),
        };
        self.burn(Pool::Free, Amount(total.0 - bounty.0));
        let until_age = self.state.age_ms().saturating_add(self.state.params().ledger.jail_ms);
        if let Some(mut node) = self.state.node(&id).cloned() {
            node.jailed_until = Some(until_age);
            node.slashed_height = self.context.height;
            node.work.clear();
            (node.qualified, node.score_ppm) = (None, 0);
            self.set(Key::Node(id), node);
        }
        self.events.push(Event::Slashed { node: id, wallet, amount: total, reporter, bounty, until_age });
        if bounty > Amount::ZERO {
            self.credit(reporter, bounty);
        }
    }

    pub(super) fn unjail(&mut self, wallet: Address, nonce: u64, id: NodeId) -> Result<(), Rejection> {
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        if node.wallet != wallet {
            return Err(Rejection::NotYourNode);
        }
        let until_age = node.jailed_until.ok_or(Rejection::NotJailed)?;
        if self.state.age_ms() < until_age {
            return Err(Rejection::Jailed { until_age });
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        node.jailed_until = None;
        self.set(Key::Node(id), node);
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.events.push(Event::Unjailed { node: id, wallet });
        Ok(())
    }

    /// Binds the bond of a challenge or an accusation that a wallet makes beside `open` others; the trial.
    pub(super) fn open_trial(
        &mut self,
        wallet: Address,
        nonce: u64,
        claimed: Hash,
        open: usize,
        fee: Amount,
    ) -> Result<Challenge, Rejection> {
        let ledger = &self.state.params().ledger;
        let (bond, max) = (self.state.bond(open), ledger.max_challenges);
        let deadline_age = self.state.age_ms().saturating_add(ledger.challenge_ms);
        if open >= max as usize {
            return Err(Rejection::TooManyChallenges { max });
        }
        self.charge(wallet, nonce, bond, fee)?;
        self.shift(Pool::Free, Pool::Escrow, bond);
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(Challenge::new(wallet, bond, deadline_age, self.state.validators().clone(), claimed))
    }

    pub(super) fn challenge(&mut self, wallet: Address, nonce: u64, round: u64, node: NodeId) -> Result<(), Rejection> {
        let past = self.state.get::<PastRound>(&Key::PastRound(round));
        let past = past.filter(|_| round >= self.state.oldest_challengeable());
        let mut past = past.ok_or(Rejection::RoundNotKept { round })?.clone();
        if !past.round.accepted().iter().any(|(accepted, _)| *accepted == node) {
            return Err(Rejection::NotAccepted);
        }
        if !past.challenged.insert(node) {
            return Err(Rejection::ChallengedAlready);
        }
        let claimed = past.round.contributions.get(&node).ok_or(Rejection::NotAccepted)?.contribution.result();
        let trial = self.open_trial(wallet, nonce, claimed, self.state.bonded_challenges(), Amount::ZERO)?;
        self.set(Key::PastRound(round), past);
        self.set(Key::Challenge(round, node), trial);
        self.events.push(Event::Challenged { round, node, challenger: wallet });
        Ok(())
    }

    pub(super) fn judge(&mut self, judge: NodeId, round: u64, node: NodeId, found: Hash) -> Result<(), Rejection> {
        let key = Key::Challenge(round, node);
        let mut challenge = self.state.get::<Challenge>(&key).ok_or(Rejection::NoSuchChallenge)?.clone();
        match challenge.hear(judge, found, self.state.age_ms())? {
            Some(true) => {
                self.remove(key);
                self.give_back_bond(&challenge);
                self.events.push(Event::ChallengeEnded { round, node, forged: true });
                self.end_replay(round, node, Outcome::Forged);
                self.void_promises(node);
                let ppm = self.state.params().ledger.fraud_slash_ppm;
                self.slash(node, ppm, challenge.challenger);
            }
            Some(false) => self.dismiss(round, node, &challenge),
            None => self.set(key, challenge),
        }
        Ok(())
    }

    pub(super) fn give_back_bond(&mut self, trial: &Challenge) {
        self.shift(Pool::Escrow, Pool::Free, trial.bond);
        self.credit(trial.challenger, trial.bond);
    }

    fn dismiss(&mut self, round: u64, node: NodeId, challenge: &Challenge) {
        self.remove(Key::Challenge(round, node));
        self.burn(Pool::Escrow, challenge.bond);
        self.events.push(Event::ChallengeEnded { round, node, forged: false });
        let replay = self.state.get::<Replay>(&Key::Replay(round, node));
        let accused = replay.filter(|replay| self.state.is_accused(&node, replay));
        let own: Option<u64> = accused.map(|replay| replay.accusers.iter().map(|id| challenge.power.power(id)).sum());
        match own {
            _ if challenge.is_cleared() => self.end_replay(round, node, Outcome::Clean),
            // Nobody found what its accusers found.
            Some(own) if challenge.forged() <= own => self.end_replay(round, node, Outcome::Unseen),
            Some(_) => self.end_replay(round, node, Outcome::Undecided),
            None => {} // nobody but the challenger has said a word against it
        }
    }

    /// What past rounds promised a convicted node is not minted, and it is in probation again.
    fn void_promises(&mut self, id: NodeId) {
        let Some(mut node) = self.state.node(&id).cloned() else { return };
        (node.void_through, node.clean) = (Some(self.state.round().number), 0);
        self.set(Key::Node(id), node);
    }

    /// Dismisses the challenges that were not upheld in time.
    pub(super) fn end_challenges(&mut self) {
        let age = self.state.age_ms();
        let over = self.state.challenges().filter(|(_, _, challenge)| challenge.deadline_age <= age);
        let over: Vec<(u64, NodeId, Challenge)> =
            over.map(|(round, node, challenge)| (round, node, challenge.clone())).collect();
        over.into_iter().for_each(|(round, node, challenge)| self.dismiss(round, node, &challenge));
    }

    /// Takes coins from what unbonds of a wallet; they are then in `pool`.
    pub(super) fn take_unbonding(&mut self, key: Key, amount: Amount, pool: Pool) {
        let (Key::Unbonding(_, wallet, _), Some(Unbonding(held))) = (key, self.state.get(&key).cloned()) else {
            return;
        };
        if amount == Amount::ZERO {
            return;
        }
        self.shift(Pool::Unbonding, pool, amount);
        self.account(wallet, |account| take(&mut account.unbonding, amount));
        match held == amount {
            true => self.remove(key),
            false => self.set(key, Unbonding(Amount(held.0 - amount.0))),
        }
    }

    /// Takes coins from behind a node; they are then in `pool`.
    pub(super) fn take_stake(&mut self, id: NodeId, amount: Amount, pool: Pool) {
        let Some(mut node) = self.state.node(&id).cloned() else { return };
        self.shift(Pool::Staked, pool, amount);
        self.account(node.wallet, |account| take(&mut account.staked, amount));
        take(&mut node.stake, amount);
        self.keep_or_forget(id, node);
    }
}

//! Replays: which contributions of a closed round are trained again, by whom, and what follows; and what the round pays.
//! `docs/proof.md` has the reasons.
//!
//! - The block after the one that closed the round *draws*, by its lot: all accepted work of the round's class whose maker
//!   has fewer than `probation` clean replays, all that a third of the power suspects, all of nodes whose updates gain no more on their own data than elsewhere
//!   (`own_ppm`), and each other piece with probability `replay_ppm` times its weight over the mean. Each goes to a
//!   validator of the class, of another wallet, with an old key, that has no other replay to do. The pot is shared out
//!   there and then, with an average share for each replay; that is a promise.
//! - `Replayed` carries the trace of the training, which shows that it was done, or none: another result. If the maker has `seat_stake` to
//!   lose, or a standing, an accusation makes a challenge without a bond: all validators decide, whatever accomplices say. Else two of three
//!   replayers do, and work that two accuse is *disowned*: unpaid, a miss, back to probation.
//! - Who says nothing within `replay_ms` is replaced, [`TRIES`] of them at most; then the work stays unlooked at. Silent
//!   and overruled replayers draw none before the next epoch but one.
//! - `vest_rounds` rounds or `vest_ms` later, when nothing of the round is open, it is *settled*: what was promised is
//!   minted, to the wallets of that day, but for what is disowned, forged, undecided, or void since its node was
//!   convicted. Unproven work that nobody looked at, and work of another class, gets `unverified_ppm` of its share. What
//!   is paid in full counts as work.

use super::{
    Challenge, Commit, Event, Executor, Key, Node, Rejection, RewardKind, Round, State,
    entry::{Outcome, PastRound, Record, Replay, Share},
    reward::{self, Work},
    rounds::by_lot,
};
use ailo_protocol::{Amount, Hash, NodeId, amount::PPM, contribution::trace_commitment, hash::Domain};
use std::collections::{BTreeMap, BTreeSet};

/// Replayers of one contribution that are silent, and that speak, at most.
const TRIES: u32 = 3;

impl State {
    /// Replays of rounds that are not settled: the round, the maker.
    pub fn replays(&self) -> impl Iterator<Item = (u64, NodeId, &Replay)> {
        let range = Key::Replay(0, super::FIRST_NODE)..=Key::Replay(u64::MAX, super::LAST_NODE);
        self.entries.range(range).filter_map(|(key, entry)| match key {
            Key::Replay(round, node) => Some((*round, *node, Replay::of(entry)?)),
            _ => None,
        })
    }

    /// The replays of one round, by maker.
    pub fn replays_of(&self, round: u64) -> impl Iterator<Item = (NodeId, &Replay)> {
        let range = Key::Replay(round, super::FIRST_NODE)..=Key::Replay(round, super::LAST_NODE);
        self.entries.range(range).filter_map(|(key, entry)| match key {
            Key::Replay(_, node) => Some((*node, Replay::of(entry)?)),
            _ => None,
        })
    }

    /// Whether a past round is to be drawn, or a replay or a challenge of it undecided.
    pub fn is_open(&self, number: u64) -> bool {
        self.past(number).is_some_and(|past| past.shares.is_none())
            || self.replays_of(number).any(|(_, replay)| replay.outcome.is_none())
            || self.challenges().any(|(round, ..)| round == number)
    }

    /// The determinism class of validators with more than 2/3 of the power.
    pub(super) fn class(&self) -> Option<Hash> {
        let mut powers: BTreeMap<Hash, u64> = BTreeMap::new();
        for validator in &self.validators().0 {
            let class = self.node(&validator.node).map_or(Hash::ZERO, |node| node.class);
            *powers.entry(class).or_default() += validator.power;
        }
        let most = powers.into_iter().find(|(_, power)| self.validators().is_quorum(*power));
        most.map(|(class, _)| class).filter(|class| *class != Hash::ZERO)
    }

    /// Whether a node may replay a contribution of this class and wallet now.
    fn may_replay(&self, id: &NodeId, class: &Hash, maker: &Node) -> bool {
        let Some(node) = self.node(id) else { return false };
        node.class == *class
            && node.wallet != maker.wallet
            && node.jailed_until.is_none()
            && !node.lapsed
            && node.idle_through.is_none_or(|epoch| epoch < self.epoch())
            && self.has_old_key(id)
    }

    /// Whether a trial is worth it: the node founded the network, came through probation, or has a seat's stake to lose.
    fn has_standing(&self, id: &NodeId) -> bool {
        self.node(id).is_some_and(|node| {
            node.founder
                || node.clean >= self.params().round.probation
                || self.at_stake(id, node) >= self.params().ledger.seat_stake
        })
    }

    /// Whether enough replayers got something else: one, if that leads to a trial by all validators; else two.
    pub(super) fn is_accused(&self, maker: &NodeId, replay: &Replay) -> bool {
        replay.outcome.is_none() && replay.accusers.len() >= if self.has_standing(maker) { 1 } else { 2 }
    }

    /// What could be taken from behind a node.
    fn at_stake(&self, id: &NodeId, node: &Node) -> Amount {
        let held = self.unbonding_from(&node.wallet, *id).map(|(_, held)| held).chain([node.stake]);
        held.fold(Amount::ZERO, |sum, held| Amount(sum.0.saturating_add(held.0)))
    }
}

impl Executor {
    /// Draws what is due, replaces who was silent, settles what is ripe, and forgets rounds that nothing needs any more.
    pub(super) fn advance_replays(&mut self) {
        let numbers: Vec<u64> = self.state.past_rounds().map(|round| round.number).collect();
        let Some(last) = numbers.len().checked_sub(1) else { return };
        for (i, number) in numbers.iter().copied().enumerate() {
            let age = self.state.age_ms();
            let Some(past) = self.state.past(number) else { continue };
            let (closed_age, settled, class) = (past.closed_age, past.settled, past.round.class);
            match past.shares {
                Some(_) if !settled => self.replace_replayers(number, class),
                None if closed_age < age => self.draw_replays(past.clone()),
                _ => {}
            }
            let round = &self.state.params().round;
            let vest_rounds = usize::try_from(round.vest_rounds).unwrap_or(usize::MAX);
            let ripe = last - i >= vest_rounds || age >= closed_age.saturating_add(round.vest_ms);
            // What the rounds up to then make of its makers concerns their pay too.
            let until = last.min(i.saturating_add(vest_rounds));
            if ripe && !settled && !numbers[i..=until].iter().any(|number| self.state.is_open(*number)) {
                self.settle(number);
            }
            self.forget_past_round(number);
        }
    }

    fn forget_past_round(&mut self, number: u64) {
        let settled = self.state.past(number).is_some_and(|past| past.settled);
        if settled && number < self.state.oldest_challengeable() && !self.state.is_open(number) {
            self.remove(Key::PastRound(number));
        }
    }

    /// Shares out what a closed round pays, and draws its replays.
    fn draw_replays(&mut self, mut past: PastRound) {
        let round = past.round.clone();
        let accepted: Vec<(NodeId, Commit)> = round.accepted().into_iter().map(|(id, c)| (id, c.clone())).collect();
        let weights = self.weigh(&accepted);
        let sum = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>();
        let mean = u64::try_from(sum / weights.len().max(1) as u128).unwrap_or(u64::MAX).max(1);
        let drawn = self.deal(&round, &accepted, &weights, mean);
        let total = sum + u128::from(mean) * drawn.len() as u128;
        let of_pot = |amount: Amount, weight: u64, total: u128| {
            Amount(u64::try_from(u128::from(amount.0) * u128::from(weight) / total.max(1)).unwrap_or(0))
        };
        let verified = |(id, commit): &(NodeId, Commit)| {
            let drawn = drawn.iter().any(|(maker, _)| maker == id);
            round.class == Some(commit.contribution.class) && (drawn || self.is_proven_now(id))
        };
        let share = |(work, weight): (&(NodeId, Commit), &u64)| {
            let wallet = self.state.node(&work.0)?.wallet;
            let training = of_pot(past.pot, *weight, total);
            let bonus = of_pot(past.bonus, *weight, sum);
            Some(Share { node: work.0, wallet, training, bonus, verified: verified(work) })
        };
        past.shares = Some(accepted.iter().zip(&weights).filter_map(share).collect());
        past.replay_share = of_pot(past.pot, mean, total);
        let deadline_age = self.state.age_ms().saturating_add(self.state.params().round.replay_ms);
        for (maker, replayer) in drawn {
            self.events.push(Event::ReplayDrawn { round: round.number, node: maker, replayer });
            self.set(Key::Replay(round.number, maker), Replay::dealt(replayer, deadline_age));
        }
        self.set(Key::PastRound(round.number), past);
    }

    fn is_proven_now(&self, id: &NodeId) -> bool {
        self.state.node(id).is_some_and(|node| self.state.is_proven(node))
    }

    /// Weights of accepted contributions; what they say about their nodes is noted.
    fn weigh(&mut self, accepted: &[(NodeId, Commit)]) -> Vec<u64> {
        let work = |(node, commit): &(NodeId, Commit)| Work {
            losses: commit.losses.clone(),
            after_ms: commit.after_ms,
            score_ppm: self.state.node(node).map_or(0, |node| node.score_ppm),
            stake: self.state.node(node).map_or(Amount::ZERO, |node| node.stake),
        };
        let params = &self.state.params().round.clone();
        let worths = reward::weigh(accepted.iter().map(work).collect(), params);
        let owns = accepted.iter().filter_map(|(id, commit)| Some((*id, reward::middle(commit.owns.clone())?)));
        let owns = reward::own_shares(owns.collect());
        for ((id, _), worth) in accepted.iter().zip(&worths) {
            let Some(mut node) = self.state.node(id).cloned() else { continue };
            node.score_ppm = worth.score_ppm;
            node.own_ppm = owns.get(id).map_or(node.own_ppm, |own| reward::remember_own(node.own_ppm, *own, params));
            // Of the others a replay has to say first that their work is some.
            if self.state.is_proven(&node) {
                (node.misses, node.rests_through) = (node.misses.saturating_sub(1), None);
            }
            self.set(Key::Node(*id), node);
        }
        worths.into_iter().map(|worth| worth.weight).collect()
    }

    /// Who replays whose contribution to a round.
    fn deal(&self, round: &Round, accepted: &[(NodeId, Commit)], weights: &[u64], mean: u64) -> Vec<(NodeId, NodeId)> {
        let Some(class) = round.class else { return Vec::new() };
        let lot = self.lot(b"replays", round.number);
        let sampled = |id: &NodeId, commit: &Commit, weight: u64| {
            let chance = u128::from(self.state.params().round.replay_ppm) * u128::from(weight) / u128::from(mean);
            let draw = Hash::of_parts(Domain::Lot, &[b"sample", &lot.0, &id.0]).stream().below(PPM);
            // Who did not train its slot gains no more there than elsewhere.
            let doubtful = self.state.node(id).is_some_and(|node| node.own_ppm < reward::DOUBTFUL_PPM);
            u128::from(draw) < chance || doubtful || round.is_suspect(commit)
        };
        let of_class = accepted
            .iter()
            .zip(weights)
            .filter(|((id, commit), _)| commit.contribution.class == class && self.state.node(id).is_some());
        let probation = self.state.params().round.probation;
        let through = |id: &NodeId| self.state.node(id).is_some_and(|node| node.clean >= probation);
        let (proven, new): (Vec<_>, Vec<_>) = of_class.partition(|((id, _), _)| through(id));
        // Founders are paid meanwhile: the others come first.
        let new: Vec<NodeId> = by_lot(&lot, new.into_iter().map(|((id, _), _)| *id));
        let (founders, others): (Vec<NodeId>, Vec<NodeId>) = new.into_iter().partition(|id| self.is_proven_now(id));
        let new = others.into_iter().chain(founders);
        let old =
            proven.into_iter().filter(|((id, commit), weight)| sampled(id, commit, **weight)).map(|((id, _), _)| *id);
        // Those that the chance takes are few, and none of them may hide behind a crowd of newcomers.
        let makers = by_lot(&lot, old).into_iter().chain(new);
        let busy: BTreeSet<NodeId> = self.state.replays().filter_map(|(_, _, replay)| replay.replayer).collect();
        let validators = self.state.validators().0.iter().map(|validator| validator.node);
        let mut free = by_lot(&lot, validators.filter(|id| !busy.contains(id)));
        let mut deal = |maker: NodeId| {
            let node = self.state.node(&maker)?;
            let at = free.iter().position(|id| self.state.may_replay(id, &class, node))?;
            Some((maker, free.remove(at)))
        };
        makers.filter_map(&mut deal).collect()
    }

    fn lot(&self, what: &[u8], number: u64) -> Hash {
        Hash::of_parts(Domain::Lot, &[what, &self.state.seed().0, &number.to_le_bytes()])
    }

    /// A replayer reports.
    pub(super) fn replayed(
        &mut self,
        judge: NodeId,
        round: u64,
        maker: NodeId,
        trace: Option<Hash>,
    ) -> Result<(), Rejection> {
        let key = Key::Replay(round, maker);
        let mut replay = self.state.get::<Replay>(&key).ok_or(Rejection::NoSuchReplay)?.clone();
        if replay.replayer != Some(judge) || replay.outcome.is_some() || self.state.age_ms() >= replay.deadline_age {
            return Err(Rejection::NoSuchReplay);
        }
        replay.replayer = None;
        match trace {
            Some(trace) => {
                let commit = self.state.past_round(round).and_then(|round| round.contributions.get(&maker));
                let commitment = commit.map(|commit| commit.contribution.trace).ok_or(Rejection::NoSuchReplay)?;
                if trace_commitment(&maker, &trace) != commitment {
                    return Err(Rejection::BadTrace);
                }
                replay.earned.push(judge);
                // Against an accuser it takes two.
                if replay.accusers.is_empty() || replay.earned.len() >= 2 {
                    self.clear(round, maker, replay);
                } else {
                    self.set(key, replay);
                }
            }
            None => {
                replay.accusers.push(judge);
                self.set(key, replay);
            }
        }
        self.events.push(Event::Replayed { round, node: maker, replayer: judge, same: trace.is_some() });
        Ok(())
    }

    /// The work is right, and who accused it is overruled.
    fn clear(&mut self, round: u64, maker: NodeId, mut replay: Replay) {
        let accusers = std::mem::take(&mut replay.accusers);
        self.decide(round, maker, replay, Outcome::Clean);
        accusers.into_iter().for_each(|accuser| self.overrule(accuser));
    }

    /// Brings a replay to its end.
    pub(super) fn decide(&mut self, round: u64, maker: NodeId, mut replay: Replay, outcome: Outcome) {
        replay.outcome = Some(outcome);
        if !matches!(outcome, Outcome::Clean | Outcome::Forged) {
            replay.earned.clear();
        }
        self.set(Key::Replay(round, maker), replay);
        self.events.push(Event::ReplayDecided { round, node: maker, outcome });
        let Some(mut node) = self.state.node(&maker).cloned() else { return };
        match outcome {
            Outcome::Clean => {
                node.clean = node.clean.saturating_add(1);
                node.own_ppm = node.own_ppm.max(PPM as i64);
                node.misses = node.misses.saturating_sub(1);
            }
            Outcome::Disowned => node.clean = 0,
            _ => {}
        }
        self.set(Key::Node(maker), node);
        if outcome == Outcome::Disowned {
            self.note_miss(maker, self.state.round().number, false);
        }
    }

    /// A replayer that was silent or wrong draws nothing for an epoch.
    pub(super) fn overrule(&mut self, id: NodeId) {
        let Some(mut node) = self.state.node(&id).cloned() else { return };
        node.idle_through = Some(self.state.epoch() + 1);
        self.set(Key::Node(id), node);
    }

    /// Draws other replayers where the last one accused or was silent, and ends what has enough of them.
    fn replace_replayers(&mut self, number: u64, class: Option<Hash>) {
        let Some(class) = class else { return };
        let age = self.state.age_ms();
        let open = self.state.replays_of(number).filter(|(_, replay)| {
            replay.outcome.is_none() && (replay.replayer.is_none() || replay.deadline_age <= age)
        });
        let open: Vec<(NodeId, Replay)> = open.map(|(maker, replay)| (maker, replay.clone())).collect();
        for (maker, mut replay) in open {
            if let Some(silent) = replay.replayer.take() {
                replay.silent.push(silent);
                self.overrule(silent);
            }
            if self.state.is_accused(&maker, &replay) {
                self.accuse(number, maker, replay);
                continue;
            }
            let spoke = replay.accusers.len() + replay.earned.len();
            let more = spoke.max(replay.silent.len()) < TRIES as usize;
            let before: Vec<NodeId> =
                replay.accusers.iter().chain(&replay.earned).chain(&replay.silent).copied().collect();
            let busy: BTreeSet<NodeId> = self.state.replays().filter_map(|(_, _, replay)| replay.replayer).collect();
            let validators = self.state.validators().0.iter().map(|validator| validator.node);
            let next = self.state.node(&maker).and_then(|node| {
                let may = |id: &NodeId| !before.contains(id) && self.state.may_replay(id, &class, node);
                let lot = Hash::of_parts(Domain::Lot, &[&self.lot(b"another replayer", number).0, &maker.0]);
                let able = by_lot(&lot, validators.filter(may));
                able.iter().find(|id| !busy.contains(id)).or(able.first()).copied()
            });
            match next.filter(|_| more) {
                Some(next) => {
                    replay.replayer = Some(next);
                    replay.deadline_age = age.saturating_add(self.state.params().round.replay_ms);
                    self.events.push(Event::ReplayDrawn { round: number, node: maker, replayer: next });
                    self.set(Key::Replay(number, maker), replay);
                }
                // Against one accuser somebody knew the trace.
                None if !replay.earned.is_empty() => self.clear(number, maker, replay),
                // One voice alone says nothing.
                None => self.decide(number, maker, replay, Outcome::Unseen),
            }
        }
    }

    /// Replayers got something else, and enough of them: see [`State::is_accused`].
    fn accuse(&mut self, number: u64, maker: NodeId, replay: Replay) {
        if !self.state.has_standing(&maker) {
            // Who said that it is right did not train it.
            replay.earned.iter().for_each(|id| self.overrule(*id));
            return self.decide(number, maker, replay, Outcome::Disowned);
        }
        let ledger = &self.state.params().ledger;
        let full = self.state.challenges().count() - self.state.bonded_challenges() >= ledger.max_challenges as usize;
        let deadline_age = self.state.age_ms().saturating_add(ledger.challenge_ms);
        let challenger = replay.accusers.iter().find_map(|id| self.state.node(id)).map(|node| node.wallet);
        let Some(mut past) = self.state.past(number).cloned() else { return };
        let tried = past.challenged.contains(&maker);
        let trial_runs = self.state.challenges().any(|(round, id, _)| (round, id) == (number, maker));
        let claimed = past.round.contributions.get(&maker).map(|commit| commit.contribution.result());
        match (challenger, claimed) {
            // Until the trial that runs is over, or there is a place for one.
            _ if trial_runs || (full && !tried) => self.set(Key::Replay(number, maker), replay),
            (Some(challenger), Some(claimed)) if !tried => {
                past.challenged.insert(maker);
                self.set(Key::PastRound(number), past);
                self.set(Key::Replay(number, maker), replay);
                let power = self.state.validators().clone();
                let trial = Challenge::new(challenger, Amount::ZERO, deadline_age, power, claimed);
                self.set(Key::Challenge(number, maker), trial);
                self.events.push(Event::Challenged { round: number, node: maker, challenger });
            }
            // It was tried before, or nobody is left who accuses.
            _ => self.decide(number, maker, replay, Outcome::Undecided),
        }
    }

    /// A trial has ended: so does the replay that brought it about, or that runs beside it.
    pub(super) fn end_replay(&mut self, round: u64, maker: NodeId, outcome: Outcome) {
        let Some(replay) = self.state.get::<Replay>(&Key::Replay(round, maker)) else { return };
        if replay.outcome == Some(outcome) {
            return;
        }
        let mut replay = replay.clone();
        replay.replayer = None;
        let accusers = replay.accusers.clone();
        match outcome {
            Outcome::Forged => replay.earned = accusers,
            Outcome::Clean | Outcome::Unseen => {
                replay.earned.retain(|id| !accusers.contains(id));
                accusers.into_iter().for_each(|accuser| self.overrule(accuser));
            }
            _ => {}
        }
        self.decide(round, maker, replay, outcome);
    }

    /// Whether what a round promised a node is void.
    fn is_void(&self, id: &NodeId, round: u64) -> bool {
        self.state.node(id).and_then(|node| node.void_through).is_some_and(|last| last >= round)
    }

    /// Mints what a round promised, as far as it is due.
    fn settle(&mut self, number: u64) {
        let Some(mut past) = self.state.past(number).cloned() else { return };
        let epoch = self.state.epoch();
        let unverified_ppm = self.state.params().round.unverified_ppm;
        let mut minted = Amount::ZERO;
        for Share { node: id, wallet, training, bonus, verified } in past.shares.iter().flatten().copied() {
            let outcome = self.state.get::<Replay>(&Key::Replay(number, id)).and_then(|replay| replay.outcome);
            let due = match outcome {
                _ if self.is_void(&id, number) => 0,
                Some(Outcome::Disowned | Outcome::Forged | Outcome::Undecided) => 0,
                Some(Outcome::Unseen) if !self.is_proven_now(&id) => unverified_ppm,
                _ if !verified => unverified_ppm,
                _ => PPM,
            };
            for (amount, kind) in [(training, RewardKind::Training), (bonus, RewardKind::BestLoss)] {
                let amount = amount.share(due).unwrap_or_default();
                super::money::add(&mut minted, self.mint_to(id, wallet, amount, kind, Some(number)));
            }
            let node = self.state.node(&id).filter(|node| due == PPM && node.jailed_until.is_none());
            if let Some(mut node) = node.cloned() {
                *node.work.entry(epoch).or_default() += 1;
                self.set(Key::Node(id), node);
            }
        }
        let replays: Vec<(NodeId, Replay)> =
            self.state.replays_of(number).map(|(maker, replay)| (maker, replay.clone())).collect();
        for (maker, replay) in replays {
            // One share for each replay: two accusers halve it.
            let each = past.replay_share.proportion(1, replay.earned.len().max(1) as u64).unwrap_or_default();
            for id in replay.earned.into_iter().filter(|id| !self.is_void(id, number)).collect::<Vec<_>>() {
                super::money::add(&mut minted, self.mint(id, each, RewardKind::Replay, Some(number)));
            }
            self.remove(Key::Replay(number, maker));
        }
        past.settled = true;
        self.set(Key::PastRound(number), past);
        self.events.push(Event::RoundSettled { round: number, minted });
    }
}

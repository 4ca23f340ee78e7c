//! The round: what its transactions may do, and how it moves on at the end of each block.
//!
//! - *Gather*: eligible are nodes seen within `alive_ms` whose last heartbeat says that they train, that missed no
//!   commit since, and that do not sit out. Those that have come through probation, or have a founder's standing, and are of the
//!   class that more than 2/3 of the power is of, get their places first; of all others (newcomers) no more than the round tolerates, `f`, but always one: should all of them be silent, what is
//!   left suffices. The round opens with `target_participants`, or after `open_wait_ms` (the first: from the first block on) with at least one, unless
//!   `rounds` rounds have closed. The lot says who takes part when there are too many, and gives the slots.
//! - A participant that commits nothing, or something that more than 1/3 of the power finds invalid, has *missed*. Who
//!   misses again and again sits out 0, 1, 3, 7... rounds, at most `max_rest_rounds`. [`MAKES_UP`] contributions that are accepted (of a newcomer:
//!   found right) make up for one miss, so who works now and then only rests all the same. Where most rest, they take part all the same.
//! - *Train*: one `Contribute` a participant. Two may name one payload: it names its maker itself, so the copy is found
//!   invalid, and who copies a hash from a waiting transaction does not keep its maker out. Ends when all have committed
//!   or at the deadline. Who missed it is not eligible until its next heartbeat. A round that aborts here doubles the
//!   time of the next.
//! - *Draw*: the next block draws the committee. Its proposer can't change the lot; who closed the commits, by the last of
//!   them or by the block's time, could have waited, and did not know it. Drawn are validators whose keys were registered
//!   `seat_delay_epochs` epochs before, so that nobody makes keys for a lot; all of them where there are none such.
//! - *Verify*: one `Verdict` a validator. Ends when nothing can change the accepted set and the committee has spoken,
//!   or at the deadline.
//! - *Vote*: one `ModelVote` a validator. More than 2/3 of the power on one root closes the round: the model's root is
//!   set and the work is paid. Aborts as soon as no root can get there, or at the deadline.
//!
//! Promised at the close: the pot, shared by weight (`reward.rs`), and once an epoch the best-loss bonus, shared alike,
//! when the voted loss is the lowest ever and at least `best_loss_ppm` below the one that earned the last bonus (so
//! that steady small steps earn it too). Both stay within `epoch_cap`. `replays.rs` shares them
//! out and mints what is due.

use super::{
    AbortReason, Commit, Event, Executor, Key, Model, Node, Phase, Rejection, RewardKind, Round, State, Vote,
    entry::PastRound, money, reward,
};
use crate::plants::{self, Plant};
use ailo_protocol::{
    Amount, Hash, NodeId,
    amount::PPM,
    contribution::{Contribution, Finding, MicroNats},
    hash::Domain,
};

/// Contributions that make up for a miss.
pub(super) const MAKES_UP: u32 = 4;
/// Doublings of the time that validators have, at most.
const MAX_PATIENCE: u32 = 6;
/// A phase of a round, at most: a week, as its parameters are.
const MAX_PHASE_MS: u64 = 7 * 86_400_000;

impl State {
    /// Nodes that may take part in a round that opened now; places may be fewer.
    pub fn eligible(&self) -> Vec<NodeId> {
        let oldest = self.age_ms().saturating_sub(self.params().ledger.alive_ms);
        let alive = self.index.seen.range((oldest, super::FIRST_NODE)..).map(|(_, node)| *node);
        let ready = |node: &Node| node.trains && !node.missed && node.jailed_until.is_none();
        let ready: Vec<NodeId> = alive.filter(|node| self.node(node).is_some_and(ready)).collect();
        let next = self.round().number + u64::from(self.round().phase != Phase::Gather);
        let rested = |id: &&NodeId| self.node(id).is_some_and(|node| node.rests_through.is_none_or(|last| last < next));
        let rested: Vec<NodeId> = ready.iter().filter(rested).copied().collect();
        // Where most rest there was an outage, and nobody is left alone with the model.
        if 2 * rested.len() < ready.len() { ready } else { rested }
    }
}

/// Places of a round for so many proven nodes and newcomers: at most `most` in all, and of newcomers no more than the
/// third that aggregation tolerates, but one at least.
pub(super) fn places(proven: usize, newcomers: usize, most: usize) -> (usize, usize) {
    let share = match proven.min(most) {
        0 => most,
        proven => ((proven - 1) / 2).min((most - 1) / 3).max(1).min(most - 1),
    };
    let newcomers = newcomers.min(share);
    (proven.min(most - newcomers), newcomers)
}

/// `nodes` in the order that the lot gives them.
pub(super) fn by_lot(seed: &Hash, nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut lots: Vec<(Hash, NodeId)> =
        nodes.map(|node| (Hash::of_parts(Domain::Lot, &[&seed.0, &node.0]), node)).collect();
    lots.sort_unstable();
    lots.into_iter().map(|(_, node)| node).collect()
}

impl Executor {
    /// The open round, if its number and phase are these.
    fn round_in(&self, number: u64, phase: Phase) -> Result<Round, Rejection> {
        let round = self.state.round();
        if round.number != number {
            return Err(Rejection::WrongRound { open: round.number, got: number });
        }
        if round.phase != phase {
            return Err(Rejection::WrongPhase { phase: round.phase });
        }
        Ok(round.clone())
    }

    pub(super) fn contribute(&mut self, node: NodeId, contribution: &Contribution) -> Result<(), Rejection> {
        let mut round = self.round_in(contribution.round, Phase::Train)?;
        let params = self.state.params();
        let (steps, tokens) = (params.training.inner_steps, params.training.tokens_per_round());
        let max = params.round.max_payload_bytes;
        let expected = round.slot(&node).ok_or(Rejection::NotParticipant)?;
        if contribution.base_root != round.base_root {
            return Err(Rejection::WrongBase);
        }
        if contribution.slot != expected {
            return Err(Rejection::WrongSlot { expected });
        }
        let class = self.state.node(&node).map_or(Hash::ZERO, |node| node.class);
        if contribution.class != class {
            return Err(Rejection::WrongClass { expected: class });
        }
        if (contribution.steps, contribution.tokens) != (steps, tokens) {
            return Err(Rejection::WrongWork { steps, tokens });
        }
        if !(1..=max).contains(&contribution.payload_bytes) {
            return Err(Rejection::BadPayloadSize { max });
        }
        if round.contributions.contains_key(&node) {
            return Err(Rejection::AlreadyContributed);
        }
        let after_ms = self.state.age_ms() - round.opened_age;
        let commit = Commit {
            contribution: contribution.clone(),
            after_ms,
            valid: 0,
            invalid: 0,
            suspected: 0,
            losses: Vec::new(),
            owns: Vec::new(),
        };
        self.events.push(Event::Contributed { round: round.number, node, payload: contribution.payload });
        round.contributions.insert(node, commit);
        self.set(Key::Round, round);
        Ok(())
    }

    pub(super) fn verdict(&mut self, judge: NodeId, number: u64, findings: &[Finding]) -> Result<(), Rejection> {
        let mut round = self.round_in(number, Phase::Verify)?;
        let power = round.power.power(&judge);
        if power == 0 {
            return Err(Rejection::NotValidator);
        }
        if !findings.iter().map(|finding| &finding.node).eq(round.contributions.keys()) {
            return Err(Rejection::BadFindings);
        }
        let measures = round.committee.contains(&judge);
        let odd = |finding: &Finding| {
            let measured = finding.loss.is_some() || finding.own.is_some();
            !finding.valid && finding.suspect || measured && !(measures && finding.valid)
        };
        if findings.iter().any(odd) {
            return Err(Rejection::BadFindings);
        }
        if !round.verdicts.insert(judge) {
            return Err(Rejection::AlreadyJudged);
        }
        let wallet = |node: &NodeId| self.state.node(node).map(|node| node.wallet);
        for (finding, (node, commit)) in findings.iter().zip(&mut round.contributions) {
            *if finding.valid { &mut commit.valid } else { &mut commit.invalid } += power;
            commit.suspected += if finding.suspect { power } else { 0 };
            if wallet(node) != wallet(&judge) {
                commit.losses.extend(finding.loss);
                commit.owns.extend(finding.own);
            }
        }
        self.set(Key::Round, round);
        Ok(())
    }

    pub(super) fn model_vote(
        &mut self,
        node: NodeId,
        number: u64,
        root: Hash,
        loss: MicroNats,
    ) -> Result<(), Rejection> {
        let mut round = self.round_in(number, Phase::Vote)?;
        if round.power.power(&node) == 0 {
            return Err(Rejection::NotValidator);
        }
        if round.votes.insert(node, Vote { root, loss }).is_some() {
            return Err(Rejection::AlreadyVoted);
        }
        self.set(Key::Round, round);
        Ok(())
    }

    /// Moves the round on as far as this block allows. It ends: a round that has opened waits for transactions.
    pub(super) fn advance_round(&mut self) {
        if self.state.height() == 1 {
            // The founding may be long ago: the first round waits from the first block on, so that it is not whose node is up first
            // that trains alone, unprotected, for the whole pot.
            let round = self.state.round();
            self.gather(round.number, round.base_root);
        }
        while self.advance_phase() {}
    }

    fn advance_phase(&mut self) -> bool {
        let round = self.state.round();
        let late = self.state.age_ms() >= round.deadline_age;
        match round.phase {
            Phase::Gather => {
                let class = self.state.class();
                // Where no class is verifiable, or nobody proven of it is there, who is proven comes first all the same.
                let proven = |id: &NodeId| self.state.node(id).is_some_and(|node| self.state.is_proven(node));
                let of_class = |id: &NodeId| {
                    proven(id) && class.is_none_or(|class| self.state.node(id).is_some_and(|node| node.class == class))
                };
                let eligible = self.state.eligible();
                let some = eligible.iter().any(of_class);
                let (proven, newcomers): (Vec<NodeId>, Vec<NodeId>) =
                    eligible.into_iter().partition(|id| if some { of_class(id) } else { proven(id) });
                // Whoever is new is replayed, so there are no more of them than replayers.
                let newcomers: Vec<NodeId> = match proven.is_empty() {
                    true => newcomers,
                    false => {
                        let most = self.state.validators().0.len();
                        by_lot(&self.round_lot(round.number), newcomers.into_iter()).into_iter().take(most).collect()
                    }
                };
                let params = &self.state.params().round;
                let over = params.rounds > 0 && self.state.model().steps >= params.rounds;
                let places = places(proven.len(), newcomers.len(), params.max_participants as usize);
                let count = places.0 + places.1;
                let enough = count >= params.target_participants as usize || (late && count > 0);
                let opens = enough && !over;
                if opens {
                    self.open_round([(proven, places.0), (newcomers, places.1)]);
                }
                opens
            }
            Phase::Train => {
                let ends = late || round.contributions.len() == round.participants.len();
                if ends {
                    self.end_training(round.clone());
                }
                ends
            }
            Phase::Draw => {
                let ends = self.state.age_ms() > round.phase_age; // in another block
                if ends {
                    self.draw_committee(round.clone());
                }
                ends
            }
            Phase::Verify => {
                let spoken = round.committee.is_subset(&round.verdicts);
                let ends = late || (spoken && round.is_decided());
                if ends {
                    self.end_verification(round.clone());
                }
                ends
            }
            Phase::Vote => self.count_votes(late),
        }
    }

    /// Opens a round with so many of each of these groups.
    fn open_round(&mut self, groups: [(Vec<NodeId>, usize); 2]) {
        let mut round = self.state.round().clone();
        let age = self.state.age_ms();
        round.phase = Phase::Train;
        round.seed = self.round_lot(round.number);
        let drawn = groups.map(|(nodes, places)| by_lot(&round.seed, nodes.into_iter()).into_iter().take(places));
        round.participants = by_lot(&round.seed, drawn.into_iter().flatten());
        round.f = (round.participants.len() as u32 - 1) / 3;
        round.protected = round.f > 0;
        round.class = self.state.class();
        (round.steps, round.opened_age, round.phase_age) = (self.state.model().steps, age, age);
        round.deadline_age = age.saturating_add(self.state.model().train_ms);
        round.power = self.state.validators().clone();
        self.events.push(Event::RoundOpened {
            round: round.number,
            participants: round.participants.clone(),
            f: round.f,
            protected: round.protected,
            deadline_age: round.deadline_age,
        });
        self.set(Key::Round, round);
    }

    /// A round's lot as of this block.
    fn round_lot(&self, number: u64) -> Hash {
        Hash::of_parts(Domain::Lot, &[&self.state.seed().0, &number.to_le_bytes()])
    }

    fn enter_phase(&mut self, mut round: Round, phase: Phase, time_ms: u64) {
        round.phase = phase;
        round.phase_age = self.state.age_ms();
        round.deadline_age = round.phase_age.saturating_add(time_ms);
        self.events.push(Event::RoundPhase { round: round.number, phase, deadline_age: round.deadline_age });
        self.set(Key::Round, round);
    }

    /// Notes that a participant gave nothing that counts.
    pub(super) fn note_miss(&mut self, id: NodeId, round: u64, silent: bool) {
        let Some(mut node) = self.state.node(&id).cloned() else { return };
        node.missed |= silent;
        let rest = 1u64.checked_shl(node.misses.div_ceil(MAKES_UP)).map_or(u64::MAX, |rounds| rounds - 1);
        node.rests_through = Some(round + rest.min(self.state.params().round.max_rest_rounds));
        node.misses = node.misses.saturating_add(MAKES_UP);
        self.set(Key::Node(id), node);
    }

    fn end_training(&mut self, round: Round) {
        let missed = round.participants.iter().filter(|node| !round.contributions.contains_key(node));
        missed.for_each(|id| self.note_miss(*id, round.number, true));
        let max_train_ms = self.state.params().round.max_train_ms;
        if round.contributions.len() < round.needed() {
            let mut model = self.state.model().clone();
            model.train_ms = model.train_ms.saturating_mul(2).min(max_train_ms);
            self.set(Key::Model, model);
            return self.abort(&round, AbortReason::TooFewCommits);
        }
        self.enter_phase(round, Phase::Draw, 0);
    }

    fn draw_committee(&mut self, mut round: Round) {
        let params = &self.state.params().round;
        let (members, verify_ms) = (params.committee as usize, self.patiently(params.verify_ms));
        let mut validators: Vec<NodeId> = round.power.0.iter().map(|validator| validator.node).collect();
        let old: Vec<NodeId> = validators.iter().copied().filter(|node| self.state.has_old_key(node)).collect();
        if !old.is_empty() {
            validators = old;
        }
        round.windows = self.round_lot(round.number);
        let drawn = by_lot(&round.windows, validators.into_iter());
        round.committee = drawn.into_iter().take(members).collect();
        self.enter_phase(round, Phase::Verify, verify_ms);
    }

    fn end_verification(&mut self, round: Round) {
        let total = round.power.total_power();
        let invalid = round.contributions.iter().filter(|(_, c)| !round.power.is_quorum(total - c.invalid));
        invalid.for_each(|(id, _)| self.note_miss(*id, round.number, false));
        if round.accepted().len() < round.needed() {
            if !round.is_decided() {
                self.be_patient();
            }
            return self.abort(&round, AbortReason::TooFewAccepted);
        }
        let vote_ms = self.patiently(self.state.params().round.vote_ms);
        self.enter_phase(round, Phase::Vote, vote_ms);
    }

    fn count_votes(&mut self, late: bool) -> bool {
        let round = self.state.round().clone();
        let tally = round.tally();
        let missing = round.power.total_power() - tally.values().sum::<u64>();
        if let Some((root, _)) = tally.iter().find(|(_, power)| round.power.is_quorum(**power)) {
            self.close(&round, *root);
        } else if !tally.values().chain([&0]).any(|power| round.power.is_quorum(power + missing)) {
            self.abort(&round, AbortReason::VoteSplit);
        } else if late {
            self.be_patient();
            self.abort(&round, AbortReason::VoteDeadline);
        } else {
            return false;
        }
        true
    }

    /// A deadline for validators, as often doubled as they were late.
    fn patiently(&self, ms: u64) -> u64 {
        ms.saturating_mul(1 << self.state.model().patience.min(MAX_PATIENCE)).min(MAX_PHASE_MS)
    }

    /// Validators were too late: they get more time from now on.
    fn be_patient(&mut self) {
        let mut model = self.state.model().clone();
        model.patience = (model.patience + 1).min(MAX_PATIENCE);
        self.set(Key::Model, model);
    }

    fn abort(&mut self, round: &Round, reason: AbortReason) {
        if plants::on(Plant::MintWithoutProof) {
            let (pot, count) = (self.state.params().round.pot, round.participants.len() as u64);
            let each = pot.proportion(1, count).unwrap_or_default();
            round.participants.iter().for_each(|node| {
                self.mint(*node, each, RewardKind::Training, Some(round.number));
            });
        }
        self.events.push(Event::RoundAborted { round: round.number, reason });
        self.gather(round.number + 1, round.base_root);
    }

    fn gather(&mut self, number: u64, root: Hash) {
        let open_wait_ms = self.state.params().round.open_wait_ms;
        self.set(Key::Round, Round::gathering(number, root, self.state.age_ms(), open_wait_ms));
    }

    fn close(&mut self, round: &Round, root: Hash) {
        let loss = round.voted_loss().unwrap_or(MicroNats::MAX);
        let accepted = round.accepted().iter().map(|(node, _)| *node).collect();
        self.events.push(Event::RoundClosed { round: round.number, root, accepted, loss });

        let (params, epoch) = (self.state.params().round.clone(), self.state.epoch());
        let mut model = self.state.model().clone();
        if model.minted_epoch != epoch {
            (model.minted_epoch, model.minted) = (epoch, Amount::ZERO);
        }
        // What is promised counts against the epoch's cap, whatever becomes of it.
        let left = |model: &Model| params.epoch_cap.checked_sub(model.minted).unwrap_or_default();
        let pot = params.pot.min(left(&model));
        money::add(&mut model.minted, pot);
        let record = model.best_loss.is_some_and(|best| loss < best);
        let far_enough = model.bonus_loss.is_some_and(|bar| {
            u128::from(loss) * u128::from(PPM) <= u128::from(bar) * u128::from(PPM - params.best_loss_ppm)
        });
        let mut bonus = Amount::ZERO;
        if record && far_enough && model.bonus_epoch != Some(epoch) {
            bonus = params.best_loss_bonus.min(left(&model));
            money::add(&mut model.minted, bonus);
            (model.bonus_loss, model.bonus_epoch) = (Some(loss), Some(epoch));
        }
        model.bonus_loss = model.bonus_loss.or(Some(loss));
        model.best_loss = Some(model.best_loss.map_or(loss, |best| best.min(loss)));
        model.loss = Some(loss);
        model.root = root;
        model.steps += 1;
        model.patience /= 2;
        model.train_ms = reward::train_ms(round.contributions.values().map(|c| c.after_ms).collect(), &params);
        self.set(Key::Model, model);
        let closed_age = self.state.age_ms();
        self.set(Key::PastRound(round.number), PastRound::closed(round.clone(), closed_age, pot, bonus));
        self.gather(round.number + 1, root);
    }
}

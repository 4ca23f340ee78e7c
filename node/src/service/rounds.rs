//! This node's part in the training rounds. It watches the ledger's head and does, phase by phase, what
//! `docs/architecture.md` ("A training round") asks of it:
//!
//! | the ledger says | this node |
//! | --- | --- |
//! | a model root that it does not hold | fetches the state from peers |
//! | Train, and it takes part (unless its operator lets it rest) | trains on its slot's slice, seals the payload, sends `Contribute` |
//! | Verify | fetches every payload; as a validator checks them (as a committee member measures losses), sends `Verdict` |
//! | Vote | aggregates, takes the outer step, keeps the result; as a validator sends `ModelVote` |
//!
//! Everything is derived from the ledger at every head, so a node that was killed goes on where the round now is.

use super::{
    chain::Head,
    models::Held,
    traced::Traced,
    work::{self, Next, RESEND, Setup, Task, take_finished},
};
use crate::{genesis::now_ms, inference::model::Model, logs::spans::traced};
use ailo_ledger::{
    Body, Transaction,
    state::{Phase, Round, State},
};
use ailo_protocol::{
    Hash,
    contribution::{Contribution, Finding},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What this node does right now, for status and the live line.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Round that it trains, or trained last.
    pub round: u64,
    /// Inner steps taken.
    pub step: u32,
    /// Speed of the last steps.
    pub tokens_per_s: f64,
    /// Training loss in nats a token.
    pub loss: Option<f64>,
    /// Rounds closed in the state that the node holds.
    pub local_rounds: Option<u64>,
    /// Root of that state.
    pub local_root: Option<Hash>,
}

/// The service.
pub struct Rounds {
    setup: Arc<Setup>,
    training: Option<Task<Training, Contribution>>,
    verifying: Option<Task<u64, Vec<Finding>>>,
    findings: Option<(u64, Vec<Finding>)>,
    computing: Option<Task<u64, Next>>,
    next: Option<Next>,
    fetching: Option<Task<Hash, Arc<Held>>>,
    sent: BTreeMap<&'static str, (u64, Instant)>,
    sealed: Option<(u64, Hash, Contribution)>,
    /// Work that failed is not begun again before this time.
    retry_at: Instant,
    traced: Traced,
}

struct Training {
    round: u64,
    base: Hash,
    stop: Arc<AtomicBool>,
}

impl Rounds {
    /// A service that has done nothing yet.
    pub fn new(setup: Arc<Setup>) -> Rounds {
        Rounds {
            setup,
            training: None,
            verifying: None,
            findings: None,
            computing: None,
            next: None,
            fetching: None,
            sent: BTreeMap::new(),
            sealed: None,
            retry_at: Instant::now(),
            traced: Traced::new(),
        }
    }

    /// Runs until `stop` changes.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut heads = self.setup.chain.heads();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            let head = heads.borrow_and_update().clone();
            self.collect().await;
            self.advance(&head).await;
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { break },
                _ = tick.tick() => {}
                _ = stop.changed() => break,
            }
        }
        self.abandon_training();
    }

    /// Does what the head asks for. Readable top to bottom: one round of one node.
    async fn advance(&mut self, head: &Head) {
        let state = &head.state;
        self.traced.see(state);
        let Some(base) = self.hold_model(state) else { return };
        let round = state.round();
        self.setup.payloads.prune(round.number.saturating_sub(self.setup.genesis.params.round.keep_rounds));
        if round.phase != Phase::Train
            || self.training.as_ref().is_some_and(|t| t.of.round != round.number || t.of.base != round.base_root)
        {
            self.abandon_training();
        }
        if self.next.as_ref().is_some_and(|next| next.round < round.number && next.steps > state.model().steps) {
            self.next = None; // its round was aborted
        }
        let left = Duration::from_millis(round.deadline_age.saturating_sub(state.age_ms()));
        match round.phase {
            Phase::Gather | Phase::Draw => {}
            Phase::Train => self.contribute(round, base).await,
            Phase::Verify => self.verify(round, base, Instant::now() + left / 2).await,
            Phase::Vote => self.vote(round, base, Instant::now() + left).await,
        }
    }

    /// The state that the ledger names, if it is here; else begins to fetch it.
    fn hold_model(&mut self, state: &State) -> Option<Arc<Held>> {
        let model = state.model();
        let held = self.setup.models.get(&model.root);
        let oldest = state.oldest_challengeable();
        let replayed = state.past_rounds().filter(|past| past.number >= oldest || state.is_open(past.number));
        let accused = |root: &Hash| {
            let id = Model::own_id(root);
            state.accusations().any(|open| open.charge.signed.statement.model == id)
        };
        self.setup.models.keep(model.root, replayed.map(|past| past.base_root), accused);
        if let Some(held) = held {
            let (rounds, root) = (Some(model.steps), Some(held.root));
            self.setup.progress.send_if_modified(|p| {
                let changed = (p.local_rounds, p.local_root) != (rounds, root);
                (p.local_rounds, p.local_root) = (rounds, root);
                changed
            });
            return Some(held);
        }
        if let Some(next) = self.next.take_if(|next| next.steps == model.steps) {
            tracing::error!(
                round = next.round, mine = %next.held.root, voted = %model.root,
                "this node computed another model than the network voted for: it stops training and fetches the state"
            );
        }
        if self.fetching.as_ref().is_none_or(|task| task.of != model.root) {
            let (setup, root) = (self.setup.clone(), model.root);
            let span = traced!(parent: self.traced.phase(), "fetch the model");
            self.fetching = Task::spawn(root, span, async move { work::fetch_model(&setup, root).await });
        }
        None
    }

    /// Takes in what background work has finished.
    async fn collect(&mut self) {
        if let Some((root, Some(_))) = take_finished(&mut self.fetching).await {
            tracing::info!(root = %root.short(), "model state is here");
        }
        let mut failed = false;
        if let Some((of, contribution)) = take_finished(&mut self.training).await {
            failed |= contribution.is_none();
            self.sealed = contribution.map(|contribution| (of.round, of.base, contribution));
        }
        if let Some((round, findings)) = take_finished(&mut self.verifying).await {
            failed |= findings.is_none();
            self.findings = findings.map(|findings| (round, findings));
        }
        if let Some((_, next)) = take_finished(&mut self.computing).await {
            failed |= next.is_none();
            self.next = next;
        }
        if failed {
            self.retry_at = Instant::now() + RESEND;
        }
    }

    /// Train: once a round and base, then the same contribution until the ledger shows it.
    async fn contribute(&mut self, round: &Round, base: Arc<Held>) {
        let me = *self.setup.key.public();
        if round.slot(&me).is_none() || round.contributions.contains_key(&me) {
            return;
        }
        let sealed =
            self.sealed.as_ref().filter(|(number, root, _)| *number == round.number && *root == round.base_root);
        if let Some((_, _, contribution)) = sealed {
            if let Some(contribution) = self.setup.contributor.commit(round, contribution) {
                self.send("contribute", round.number, Body::Contribute(contribution)).await;
            }
            return;
        }
        // A node that is told to train no more hands in what it has begun, and begins nothing.
        let trains = self.setup.operator.controls().training;
        if trains && self.training.is_none() && Instant::now() >= self.retry_at {
            let stop = Arc::new(AtomicBool::new(false));
            let of = Training { round: round.number, base: round.base_root, stop: stop.clone() };
            let span = traced!(parent: self.traced.phase(), "train a slot", round = round.number as i64);
            self.training = Task::spawn(of, span, work::train(self.setup.clone(), round.clone(), base, stop));
        }
    }

    fn abandon_training(&mut self) {
        if let Some(training) = self.training.take() {
            training.of.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Verify: every node fetches what it will aggregate; validators check it and say what they found.
    async fn verify(&mut self, round: &Round, base: Arc<Held>, give_up: Instant) {
        let me = *self.setup.key.public();
        if let Some((_, findings)) = self.findings.as_ref().filter(|(number, _)| *number == round.number) {
            if round.power.power(&me) > 0 && !round.verdicts.contains(&me) {
                let body = Body::Verdict { round: round.number, findings: findings.clone() };
                self.send("verdict", round.number, body).await;
            }
            return;
        }
        if self.verifying.as_ref().is_none_or(|task| task.of != round.number) && Instant::now() >= self.retry_at {
            let span = traced!(parent: self.traced.phase(), "check contributions", round = round.number as i64);
            let work = work::examine(self.setup.clone(), round.clone(), base, give_up);
            self.verifying = Task::spawn(round.number, span, work);
        }
    }

    /// Vote: the next state from the accepted set; validators say its root.
    async fn vote(&mut self, round: &Round, base: Arc<Held>, give_up: Instant) {
        let me = *self.setup.key.public();
        if let Some(next) = self.next.as_ref().filter(|next| next.round == round.number) {
            if round.power.power(&me) > 0 && !round.votes.contains_key(&me) {
                let body = Body::ModelVote { round: round.number, root: next.held.root, loss: next.loss };
                self.send("vote", round.number, body).await;
            }
            return;
        }
        if self.computing.as_ref().is_none_or(|task| task.of != round.number) && Instant::now() >= self.retry_at {
            let span = traced!(parent: self.traced.phase(), "make the next state", round = round.number as i64);
            let work = work::compute_next(self.setup.clone(), round.clone(), base, give_up);
            self.computing = Task::spawn(round.number, span, work);
        }
    }

    /// Signs and submits, not more often than every [`RESEND`].
    async fn send(&mut self, what: &'static str, round: u64, body: Body) {
        let recently = self.sent.get(what).is_some_and(|(number, at)| *number == round && at.elapsed() < RESEND);
        if recently {
            return;
        }
        self.sent.insert(what, (round, Instant::now()));
        let network = self.setup.genesis.id();
        let transaction = Transaction::sign(&network, &self.setup.key, 0, now_ms(), body);
        if let Err(e) = self.setup.chain.submit(transaction).await {
            tracing::info!(what, round, error = %e, "the ledger does not take this yet");
        }
    }
}

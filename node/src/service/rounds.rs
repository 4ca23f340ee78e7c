//! This node's part in the training rounds. It watches the ledger's head and does, phase by phase, what
//! `docs/architecture.md` ("A training round") asks of it:
//!
//! | the ledger says | this node |
//! | --- | --- |
//! | a model root that it does not hold | fetches the state from peers |
//! | Train, and it takes part | trains on its slot's slice, seals the payload, sends `Contribute` |
//! | Verify | fetches every payload; as a validator checks them (as a committee member measures losses), sends `Verdict` |
//! | Vote | aggregates, takes the outer step, keeps the result; as a validator sends `ModelVote` |
//!
//! Everything is derived from the ledger at every head, so a node that was killed goes on where the round now is.

use super::{
    chain::{Chain, Head},
    compute::Worker,
    fetch,
    models::{Held, Models},
    payloads::Payloads,
};
use crate::genesis::now_ms;
use ailo_ledger::{
    Body, Transaction,
    state::{Phase, Round, State},
};
use ailo_protocol::{
    Genesis, Hash, Keypair, NodeId,
    contribution::{Contribution, Finding, Payload},
    keys, net,
};
use ailo_training::{
    Device, aggregate, check, codec, dataset::Dataset, eval, inner, model::parameter_count, outer, state::ModelState,
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// A transaction that the ledger does not show yet is sent again after this time.
const RESEND: Duration = Duration::from_secs(3);

/// A payload that no peer gave is asked for again after this time, then after twice as long, and so on.
const REFETCH: Duration = Duration::from_millis(200);
/// Payloads that are fetched at once.
const FETCHES: usize = 4;

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

/// What the service works with.
pub struct Setup {
    /// The network.
    pub genesis: Arc<Genesis>,
    /// This node's key.
    pub key: Keypair,
    /// The ledger.
    pub chain: Chain,
    /// Peers.
    pub net: net::Handle,
    /// Model states.
    pub models: Models,
    /// Payloads.
    pub payloads: Payloads,
    /// Training data.
    pub data: Arc<Dataset>,
    /// Whether this node contributes.
    pub trains: bool,
    /// Share of the time that training may compute, in percent.
    pub power: u8,
    /// Where to compute.
    pub device: Device,
    /// Determinism class of this machine.
    pub class: Hash,
    /// Thread that trains.
    pub trainer: Worker,
    /// Thread for what others wait for.
    pub worker: Worker,
    /// Where progress is shown.
    pub progress: watch::Sender<Progress>,
}

/// The service.
pub struct Rounds {
    setup: Arc<Setup>,
    training: Option<Task<Training, Contribution>>,
    verifying: Option<Task<u64, Vec<Finding>>>,
    findings: Option<(u64, Vec<Finding>)>,
    computing: Option<Task<u64, Next>>,
    next: Option<Next>,
    fetching: Option<Task<Hash, ModelState>>,
    sent: BTreeMap<&'static str, (u64, Instant)>,
    sealed: Option<(u64, Hash, Contribution)>,
    /// Work that failed is not begun again before this time.
    retry_at: Instant,
}

/// Work in the background, and what it is for.
struct Task<K, T> {
    of: K,
    handle: JoinHandle<Option<T>>,
}

impl<K, T: Send + 'static> Task<K, T> {
    fn spawn(of: K, work: impl Future<Output = Option<T>> + Send + 'static) -> Option<Task<K, T>> {
        Some(Task { of, handle: tokio::spawn(work) })
    }
}

/// Empties the slot if its work has finished; the result is `None` if that failed.
async fn take_finished<K, T>(slot: &mut Option<Task<K, T>>) -> Option<(K, Option<T>)> {
    let task = slot.take_if(|task| task.handle.is_finished())?;
    Some((task.of, task.handle.await.ok().flatten()))
}

struct Training {
    round: u64,
    base: Hash,
    stop: Arc<AtomicBool>,
}

/// The state that a round leads to, as this node computed it.
struct Next {
    round: u64,
    /// Rounds closed once the network votes for it.
    steps: u64,
    held: Arc<Held>,
    loss: u64,
}

impl Rounds {
    /// A service that has done nothing yet.
    pub fn new(setup: Setup) -> Rounds {
        Rounds {
            setup: Arc::new(setup),
            training: None,
            verifying: None,
            findings: None,
            computing: None,
            next: None,
            fetching: None,
            sent: BTreeMap::new(),
            sealed: None,
            retry_at: Instant::now(),
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
            Phase::Train => self.contribute(round, base, state.model().steps).await,
            Phase::Verify => self.verify(round, base, Instant::now() + left / 2).await,
            Phase::Vote => self.vote(round, base, state.model().steps, Instant::now() + left).await,
        }
    }

    /// The state that the ledger names, if it is here; else begins to fetch it.
    fn hold_model(&mut self, state: &State) -> Option<Arc<Held>> {
        let model = state.model();
        let held = self.setup.models.get(&model.root);
        self.setup.models.pin(model.root);
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
            self.fetching = Task::spawn(root, async move {
                if root == setup.genesis.model_root {
                    return setup.worker.run(initial_state(&setup)).await.ok();
                }
                let fetched = fetch::model(&setup.net, &setup.models, root).await;
                fetched.inspect_err(|e| tracing::info!(error = %e, "the model state is not to be had yet")).ok()
            });
        }
        None
    }

    /// Takes in what background work has finished.
    async fn collect(&mut self) {
        if let Some((root, Some(state))) = take_finished(&mut self.fetching).await {
            match self.setup.models.put(state) {
                Ok(_) => tracing::info!(root = %root.short(), "model state is here"),
                Err(e) => tracing::error!(error = %e, "cannot keep the model state"),
            }
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
    async fn contribute(&mut self, round: &Round, base: Arc<Held>, steps: u64) {
        let me = *self.setup.key.public();
        let Some(slot) = round.slot(&me) else { return };
        if !self.setup.trains || round.contributions.contains_key(&me) {
            return;
        }
        let sealed =
            self.sealed.as_ref().filter(|(number, root, _)| *number == round.number && *root == round.base_root);
        if let Some((_, _, contribution)) = sealed {
            let body = Body::Contribute(contribution.clone());
            self.send("contribute", round.number, body).await;
            return;
        }
        if self.training.is_none() && Instant::now() >= self.retry_at {
            let stop = Arc::new(AtomicBool::new(false));
            let job = Job {
                round: round.number,
                steps,
                base_root: round.base_root,
                seed: round.seed,
                slot,
                slots: u32::try_from(round.participants.len()).unwrap_or(u32::MAX),
            };
            let of = Training { round: round.number, base: round.base_root, stop: stop.clone() };
            self.training = Task::spawn(of, train(self.setup.clone(), job, base, stop));
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
            self.verifying = Task::spawn(round.number, examine(self.setup.clone(), round.clone(), base, give_up));
        }
    }

    /// Vote: the next state from the accepted set; validators say its root.
    async fn vote(&mut self, round: &Round, base: Arc<Held>, steps: u64, give_up: Instant) {
        let me = *self.setup.key.public();
        if let Some(next) = self.next.as_ref().filter(|next| next.round == round.number) {
            if round.power.power(&me) > 0 && !round.votes.contains_key(&me) {
                let body = Body::ModelVote { round: round.number, root: next.held.root, loss: next.loss };
                self.send("vote", round.number, body).await;
            }
            return;
        }
        if self.computing.as_ref().is_none_or(|task| task.of != round.number) && Instant::now() >= self.retry_at {
            self.computing =
                Task::spawn(round.number, compute_next(self.setup.clone(), round.clone(), base, steps, give_up));
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

/// The initial state, which genesis determines.
fn initial_state(setup: &Setup) -> impl FnOnce() -> ModelState + Send + 'static {
    let (config, seed) = (setup.genesis.params.model, setup.genesis.seed);
    move || ModelState::initial(&config, seed)
}

struct Job {
    round: u64,
    /// Rounds closed before this one: where the learning-rate schedule stands.
    steps: u64,
    base_root: Hash,
    seed: Hash,
    slot: u32,
    slots: u32,
}

/// Trains a round on the training thread, seals the payload and gives the contribution; `None` when stopped or failed.
async fn train(setup: Arc<Setup>, job: Job, base: Arc<Held>, stop: Arc<AtomicBool>) -> Option<Contribution> {
    let params = setup.genesis.params.clone();
    let (data, device, power) = (setup.data.clone(), setup.device, setup.power);
    let (progress, number) = (setup.progress.clone(), job.round);
    let windows = data.windows(&params.training, &job.seed, job.slot, job.slots);
    let trained = setup.trainer.run(move || {
        let mut last = Instant::now();
        let mut control = |at: inner::Progress| {
            progress.send_modify(|p| {
                p.round = number;
                p.step = at.step;
                p.loss = Some(at.loss);
                p.tokens_per_s = at.tokens_per_s;
            });
            // The power setting: rest in proportion to the time that the step took.
            std::thread::sleep(last.elapsed() * u32::from(100 - power) / u32::from(power));
            last = Instant::now();
            if stop.load(Ordering::Relaxed) { inner::Control::Stop } else { inner::Control::Continue }
        };
        inner::train(&params.model, &params.training, job.steps, &base.state, &data, &windows, device, &mut control)
    });
    let local = match trained.await {
        Ok(Ok(local)) => local,
        Ok(Err(e)) => {
            tracing::info!(round = job.round, error = %e, "training ended early");
            return None;
        }
        Err(e) => {
            tracing::warn!(round = job.round, error = %e, "training could not run");
            return None;
        }
    };
    let salt = keys::random_bytes();
    let payload = Payload {
        network: setup.genesis.id(),
        round: job.round,
        base_root: job.base_root,
        node: *setup.key.public(),
        salt,
        update: codec::encode(&local.update)
            .inspect_err(|e| tracing::error!(error = %e, "this node's own update cannot be encoded"))
            .ok()?,
    };
    let (bytes, hash) = payload.seal();
    if let Err(e) = setup.payloads.put(job.round, hash, &bytes) {
        tracing::error!(error = %e, "cannot keep this node's own payload");
        return None;
    }
    Some(Contribution {
        round: job.round,
        base_root: job.base_root,
        payload: hash,
        payload_bytes: bytes.len() as u64,
        tokens: local.tokens,
        steps: local.steps,
        slot: job.slot,
        loss_first: local.loss_first,
        loss_last: local.loss_last,
        class: setup.class,
    })
}

/// The payload of a contribution, from here or from peers, which are asked again and again until `give_up`: a contributor
/// may see the block that unseals its payload a moment later than this node.
async fn payload_of(setup: Arc<Setup>, node: NodeId, contribution: Contribution, give_up: Instant) -> Option<Vec<u8>> {
    // There is one possible length; nothing else is worth fetching, because it could not be decoded.
    let expected = Payload::FRAME_BYTES + codec::encoded_len(parameter_count(&setup.genesis.params.model));
    if contribution.payload_bytes != expected as u64 {
        return None;
    }
    if let Some(bytes) = setup.payloads.get(&contribution.payload) {
        return Some(bytes);
    }
    let search = async {
        let mut pause = REFETCH;
        loop {
            if let Ok(bytes) = fetch::blob(&setup.net, contribution.payload, contribution.payload_bytes, node).await {
                return bytes;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESEND);
        }
    };
    let Ok(bytes) = tokio::time::timeout_at(give_up.into(), search).await else {
        tracing::info!(contributor = %node.short(), "a payload is not to be had");
        return None;
    };
    if let Err(e) = setup.payloads.put(contribution.round, contribution.payload, &bytes) {
        tracing::error!(error = %e, "cannot keep a payload");
    }
    Some(bytes)
}

/// Opens a payload and makes every cheap check: it names this round, base and node, decodes, is finite, and is not too large.
fn open_update(
    setup: &Setup,
    node: NodeId,
    contribution: &Contribution,
    bytes: &[u8],
    base: &ModelState,
) -> Option<Vec<f32>> {
    let params = &setup.genesis.params;
    let max = usize::try_from(params.round.max_payload_bytes).unwrap_or(usize::MAX);
    let payload = Payload::open(bytes, max).ok()?;
    let named = (payload.network, payload.round, payload.base_root, payload.node);
    if named != (setup.genesis.id(), contribution.round, contribution.base_root, node) {
        return None;
    }
    let update = codec::decode(&payload.update, base.weights.len()).ok()?;
    check::check_update(&update, base, &params.training).ok()?;
    Some(update)
}

/// Fetches and checks every contribution of a round, in the order of their nodes. `None` when this node is in no
/// position to judge.
async fn examine(setup: Arc<Setup>, round: Round, base: Arc<Held>, give_up: Instant) -> Option<Vec<Finding>> {
    let me = *setup.key.public();
    let measures = round.committee.contains(&me);
    let training = setup.genesis.params.training;
    let windows = setup.data.held_out_windows(training.sequence, Some(&round.seed), training.score_sequences);
    let windows = Arc::new(windows);
    let contributions: Vec<(NodeId, Contribution)> =
        round.contributions.iter().map(|(node, commit)| (*node, commit.contribution.clone())).collect();
    let made = contributions.into_iter().map(|(node, contribution)| {
        let setup = setup.clone();
        async move {
            let bytes = payload_of(setup, node, contribution.clone(), give_up).await;
            (node, contribution, bytes)
        }
    });
    // Several at once, so that a contributor that does not answer does not hold up the others; few, for memory.
    let mut made = stream::iter(made).buffered(FETCHES);
    let mut findings = Vec::new();
    while let Some((node, contribution, bytes)) = made.next().await {
        if bytes.is_none() && setup.net.peers().is_empty() {
            return None; // it is this node that is cut off
        }
        let (setup_, base, windows) = (setup.clone(), base.clone(), windows.clone());
        let finding = setup.worker.run(move || {
            let update = bytes.and_then(|bytes| open_update(&setup_, node, &contribution, &bytes, &base.state));
            let loss = update.as_ref().filter(|_| measures).and_then(|update| {
                let weights: Vec<f32> = base.state.weights.iter().zip(update).map(|(w, u)| w - u).collect();
                let (config, sequence) = (&setup_.genesis.params.model, training.sequence);
                eval::held_out_loss(config, &weights, &setup_.data, sequence, &windows, setup_.device).ok()
            });
            Finding { node, valid: update.is_some(), loss }
        });
        findings.push(finding.await.ok()?);
    }
    Some(findings)
}

/// Aggregates the accepted contributions in slot order, takes the outer step, keeps the state and measures it.
async fn compute_next(setup: Arc<Setup>, round: Round, base: Arc<Held>, steps: u64, give_up: Instant) -> Option<Next> {
    let accepted: Vec<(NodeId, Contribution)> =
        round.accepted().into_iter().map(|(node, commit)| (node, commit.contribution.clone())).collect();
    let fetches = accepted.iter().map(|(node, made)| payload_of(setup.clone(), *node, made.clone(), give_up));
    let payloads = futures::future::join_all(fetches).await;
    let missing = payloads.iter().filter(|bytes| bytes.is_none()).count();
    if missing > 0 {
        tracing::info!(round = round.number, missing, "accepted payloads are not to be had yet");
        return None;
    }
    let (setup_, number, f) = (setup.clone(), round.number, round.f as usize);
    let computed = setup.worker.run(move || {
        let params = &setup_.genesis.params;
        let updates: Option<Vec<Vec<f32>>> = accepted
            .iter()
            .zip(payloads.iter().flatten())
            .map(|((node, contribution), bytes)| open_update(&setup_, *node, contribution, bytes, &base.state))
            .collect();
        let updates = updates?;
        let views: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
        // f is the opening's; the ledger closes a round only with at least 2f + 1 accepted contributions.
        let mean = aggregate::trimmed_mean(&views, f).ok()?;
        let state = outer::outer_step(&base.state, &mean, &params.training).ok()?;
        let sequence = params.training.sequence;
        let windows = setup_.data.held_out_windows(sequence, None, params.training.eval_sequences);
        let loss =
            eval::held_out_loss(&params.model, &state.weights, &setup_.data, sequence, &windows, setup_.device).ok()?;
        Some((state, loss))
    });
    let (state, loss) = computed.await.ok()??;
    let held =
        setup.models.put(state).inspect_err(|e| tracing::error!(error = %e, "cannot keep the next state")).ok()?;
    Some(Next { round: number, steps: steps + 1, held, loss })
}

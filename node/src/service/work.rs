//! The work of a round, apart from when it is due (`rounds.rs`, `replays.rs`): training a slot, fetching and checking payloads,
//! measuring losses, replaying a contribution, making the next state.

use super::{
    chain::Chain,
    compute::{Busy, Worker},
    fetch,
    models::{Held, Models},
    payloads::Payloads,
    rounds::Progress,
};
use crate::{logs::spans::ended, operator::Operator};
use ailo_ledger::state::Round;
use ailo_protocol::{
    Genesis, Hash, Keypair, NodeId,
    contribution::{Contribution, Finding, Payload, trace_commitment, update_hash},
    keys, net,
};
use ailo_training::{
    Device, Result, TrainingError,
    dataset::Dataset,
    inner::{self, Control, Local},
    overlap::{self, Sketch},
    round::{Rules, Slot, lowered},
    state::ModelState,
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
use tracing::{Instrument, Span};

/// A transaction that the ledger does not show yet is sent again after this time.
pub(super) const RESEND: Duration = Duration::from_secs(3);
/// A payload that no peer gave is asked for again after this time, then after twice as long, and so on.
const REFETCH: Duration = Duration::from_millis(200);
/// Payloads that are fetched at once, beside those of attackers who do not serve theirs.
const FETCHES: usize = 4;

/// What the work needs.
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
    /// Whether this node contributes, and what share of the time that may take.
    pub operator: Arc<Operator>,
    /// What it contributes.
    pub contributor: Arc<dyn Contributor>,
    /// Where to compute.
    pub device: Device,
    /// Determinism class of this machine.
    pub class: Hash,
    /// Thread that trains.
    pub trainer: Worker,
    /// Thread that trains again what others have trained.
    pub replayer: Worker,
    /// Whether the training thread trains.
    pub training: Busy,
    /// Thread for what others wait for.
    pub worker: Worker,
    /// Where progress is shown.
    pub progress: watch::Sender<Progress>,
}

/// What a node makes of its slot of a round. Whoever keeps the rules is [`Honest`]; others are for tests, which attack a
/// network with nodes that are real in everything else.
pub trait Contributor: Send + Sync {
    /// The work to hand in; `control` stops it, and is to be asked after each step.
    fn contribute(&self, job: &Job<'_>, control: &mut dyn FnMut(inner::Progress) -> Control) -> Result<Local>;

    /// The update as it travels.
    fn encode(&self, job: &Job<'_>, local: &Local) -> Result<Vec<u8>> {
        job.rules.encode(&local.update, &job.slot.seed)
    }

    /// What to commit to of what was made; none to wait. The round shows what others have committed to.
    fn commit(&self, _round: &Round, made: &Contribution) -> Option<Contribution> {
        Some(made.clone())
    }
}

/// What a round asks of a node.
pub struct Job<'a> {
    /// How it is done.
    pub rules: Rules<'a>,
    /// The round.
    pub round: &'a Round,
    /// The node's part of it.
    pub slot: Slot,
    /// What it starts from.
    pub base: &'a ModelState,
}

/// Trains, and hands in what that gives.
pub struct Honest;

impl Contributor for Honest {
    fn contribute(&self, job: &Job<'_>, control: &mut dyn FnMut(inner::Progress) -> Control) -> Result<Local> {
        job.rules.train(&job.slot, job.base, control)
    }
}

/// Work in the background, and what it is for.
pub(super) struct Task<K, T> {
    /// What it is for.
    pub of: K,
    handle: JoinHandle<Option<T>>,
}

impl<K, T: Send + 'static> Task<K, T> {
    /// Begins it; a span shows it.
    pub fn spawn(of: K, span: Span, work: impl Future<Output = Option<T>> + Send + 'static) -> Option<Task<K, T>> {
        let work = async move {
            let made = work.await;
            ended(&Span::current(), if made.is_some() { "done" } else { "nothing" }, false);
            made
        };
        Some(Task { of, handle: tokio::spawn(work.instrument(span)) })
    }
}

/// Empties the slot if its work has finished; the result is `None` if that failed.
pub(super) async fn take_finished<K, T>(slot: &mut Option<Task<K, T>>) -> Option<(K, Option<T>)> {
    let task = slot.take_if(|task| task.handle.is_finished())?;
    Some((task.of, task.handle.await.ok().flatten()))
}

/// The state that a round leads to, as this node computed it.
pub(super) struct Next {
    /// Its number.
    pub round: u64,
    /// Rounds closed once the network votes for it.
    pub steps: u64,
    /// The state.
    pub held: Arc<Held>,
    /// Its held-out loss.
    pub loss: u64,
}

/// The state with this root, which genesis determines or peers have.
pub(super) async fn fetch_model(setup: &Arc<Setup>, root: Hash) -> Option<Arc<Held>> {
    let state = if root == setup.genesis.model_root {
        let (config, seed) = (setup.genesis.params.model, setup.genesis.seed);
        setup.worker.run(move || ModelState::initial(&config, seed)).await.ok()
    } else {
        let fetched = fetch::model(&setup.net, &setup.models, root).await;
        fetched.inspect_err(|e| tracing::info!(error = %e, "a model state is not to be had yet")).ok()
    };
    let kept = setup.models.put(state?);
    kept.inspect_err(|e| tracing::error!(error = %e, "cannot keep a model state")).ok()
}

impl Setup {
    /// What is done in a round, on this machine.
    fn rules(&self) -> Rules<'_> {
        let params = &self.genesis.params;
        Rules { model: &params.model, training: &params.training, data: &self.data, device: self.device }
    }
}

/// A slot of a round.
fn slot_of(round: &Round, slot: u32) -> Slot {
    let slots = u32::try_from(round.participants.len()).unwrap_or(u32::MAX);
    Slot { steps: round.steps, seed: round.seed, slot, slots }
}

/// Trains this node's slot on the training thread, seals the payload and gives the contribution; `None` when stopped or
/// failed.
pub(super) async fn train(
    setup: Arc<Setup>,
    round: Round,
    base: Arc<Held>,
    stop: Arc<AtomicBool>,
) -> Option<Contribution> {
    let node = *setup.key.public();
    let (number, base_root, slot) = (round.number, round.base_root, round.slot(&node)?);
    let setup_ = setup.clone();
    let trained = setup.trainer.run(move || {
        let mut last = Instant::now();
        let mut control = |at: inner::Progress| {
            setup_.progress.send_modify(|p| {
                p.round = number;
                p.step = at.step;
                p.loss = Some(at.loss);
                p.tokens_per_s = at.tokens_per_s;
            });
            // The power setting: rest in proportion to the time that the step took.
            let power = u32::from(setup_.operator.controls().power);
            std::thread::sleep(last.elapsed() * (100 - power) / power);
            last = Instant::now();
            if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
        };
        let _busy = setup_.training.begin();
        let job = Job { rules: setup_.rules(), round: &round, slot: slot_of(&round, slot), base: &base.state };
        let local = setup_.contributor.contribute(&job, &mut control)?;
        let encoded = setup_.contributor.encode(&job, &local)?;
        Ok::<_, TrainingError>((local, encoded))
    });
    let (local, encoded) = match trained.await {
        Ok(Ok(made)) => made,
        Ok(Err(e)) => {
            tracing::info!(round = number, error = %e, "training ended early");
            return None;
        }
        Err(e) => {
            tracing::warn!(round = number, error = %e, "training could not run");
            return None;
        }
    };
    let training = &setup.genesis.params.training;
    let (tokens, steps) = (training.tokens_per_round(), training.inner_steps);
    let update = update_hash(&encoded);
    let (network, salt) = (setup.genesis.id(), keys::random_bytes());
    let payload = Payload { network, round: number, base_root, node, salt, update: encoded };
    let (bytes, hash) = payload.seal();
    if let Err(e) = setup.payloads.put(number, hash, &bytes) {
        tracing::error!(error = %e, "cannot keep this node's own payload");
        return None;
    }
    Some(Contribution {
        round: number,
        base_root,
        payload: hash,
        payload_bytes: bytes.len() as u64,
        update,
        trace: trace_commitment(&node, &local.trace),
        tokens,
        steps,
        slot,
        loss_first: local.loss_first,
        loss_last: local.loss_last,
        class: setup.class,
    })
}

/// What a replay gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    /// What the contribution's [`Contribution::result`] should be.
    pub result: Hash,
    /// The trace of the training.
    pub trace: Hash,
}

/// Trains a contribution again, and once more if that does not give what it claims: memory fails, and an accusation is
/// no small thing. `None` when this node can't tell: its machine is of another class, or gives now this, now that; the
/// base is not to be had; or it was stopped. Until `rests_until` it rests while this node trains.
pub(super) async fn replay(
    setup: Arc<Setup>,
    round: Round,
    maker: NodeId,
    rests_until: Instant,
    stop: Arc<AtomicBool>,
) -> Option<Replayed> {
    let (slot, made) = (round.slot(&maker)?, round.contributions.get(&maker)?.contribution.clone());
    if made.class != setup.class {
        tracing::info!(round = round.number, maker = %maker.short(), "this machine can't replay the contributor's class");
        return None;
    }
    let base = match setup.models.get(&round.base_root) {
        Some(held) => held,
        None => fetch_model(&setup, round.base_root).await?,
    };
    let setup_ = setup.clone();
    let replayed = setup.replayer.run(move || {
        let mut control = |_: inner::Progress| {
            setup_.training.rest(rests_until, &stop);
            if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
        };
        let (rules, of) = (setup_.rules(), slot_of(&round, slot));
        let mut once = || match rules.train(&of, &base.state, &mut control) {
            Ok(local) => {
                let (update, trace) = (update_hash(&rules.encode(&local.update, &of.seed).ok()?), local.trace);
                let (loss_first, loss_last) = (local.loss_first, local.loss_last);
                let right = Contribution {
                    update,
                    trace: trace_commitment(&maker, &trace),
                    loss_first,
                    loss_last,
                    ..made.clone()
                };
                Some(Replayed { result: right.result(), trace })
            }
            // Nobody who trained this slot had anything to hand in.
            Err(TrainingError::Diverged { .. }) => Some(Replayed { result: Hash::ZERO, trace: Hash::ZERO }),
            Err(_) => None,
        };
        let first = once()?;
        if first.result == made.result() {
            return Some(first);
        }
        let second = once()?;
        if first != second {
            tracing::error!("this machine trains the same to different bits: its memory or processor may be failing");
        }
        (first == second).then_some(second)
    });
    replayed.await.ok().flatten()
}

/// The payload of a contribution, from here or from peers, which are asked again and again until `give_up`: a contributor
/// may see the block that unseals its payload a moment later than this node.
async fn payload_of(setup: Arc<Setup>, node: NodeId, contribution: Contribution, give_up: Instant) -> Option<Vec<u8>> {
    // There is one possible length; nothing else is worth fetching, because it could not be decoded.
    let expected = Payload::FRAME_BYTES + setup.rules().encoded_len();
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

/// Opens a payload and makes every cheap check: it names this round, base, node and update, which is admissible.
fn open_update(
    setup: &Setup,
    seed: &Hash,
    node: NodeId,
    made: &Contribution,
    bytes: &[u8],
    base: &ModelState,
) -> Option<Vec<f32>> {
    let max = usize::try_from(setup.genesis.params.round.max_payload_bytes).unwrap_or(usize::MAX);
    let payload = Payload::open(bytes, max).ok()?;
    let named = (payload.network, payload.round, payload.base_root, payload.node, update_hash(&payload.update));
    if named != (setup.genesis.id(), made.round, made.base_root, node, made.update) {
        return None;
    }
    setup.rules().admit(&payload.update, base, seed).ok()
}

/// Fetches and checks every contribution of a round; what it finds, in the order of their nodes. `None` when this node is in no
/// position to judge.
pub(super) async fn examine(
    setup: Arc<Setup>,
    round: Round,
    base: Arc<Held>,
    give_up: Instant,
) -> Option<Vec<Finding>> {
    let me = *setup.key.public();
    let measures = round.committee.contains(&me);
    let (seed, windows) = (round.seed, round.windows);
    let contributions: Vec<(NodeId, Contribution)> =
        round.contributions.iter().map(|(node, commit)| (*node, commit.contribution.clone())).collect();
    let made = contributions.into_iter().map(|(node, contribution)| {
        let setup = setup.clone();
        async move {
            let bytes = payload_of(setup, node, contribution.clone(), give_up).await;
            (node, contribution, bytes)
        }
    });
    // In the order in which they come, and some beside those that never will: who commits and does not serve holds up nobody. Few, for memory.
    let mut made = stream::iter(made).buffer_unordered(FETCHES + round.f as usize);
    let (setup_, base_) = (setup.clone(), base.clone());
    let before =
        setup.worker.run(move || setup_.rules().score_of_base(&base_.state, &windows).ok().filter(|_| measures));
    let before = before.await.ok()?;
    let mut found = BTreeMap::new();
    while let Some((node, contribution, bytes)) = made.next().await {
        if bytes.is_none() && setup.net.peers().is_empty() {
            return None; // it is this node that is cut off
        }
        let (setup_, base, slot) = (setup.clone(), base.clone(), slot_of(&round, round.slot(&node)?));
        let finding = setup.worker.run(move || {
            let update = bytes.and_then(|bytes| open_update(&setup_, &seed, node, &contribution, &bytes, &base.state));
            let measure = |update: &Vec<f32>| {
                let (rules, base) = (setup_.rules(), &base.state);
                let loss = rules.score(update, base, &windows).ok()?;
                Some((loss, rules.gain(&slot, base, update, &windows).ok()?.saturating_sub(lowered(before?, loss))))
            };
            let measured = update.as_ref().filter(|_| measures).and_then(measure);
            let (loss, own) = measured.unzip();
            let sketch = update.as_ref().map(|update| Sketch::of(update, &windows));
            (Finding { node, valid: update.is_some(), suspect: false, loss, own }, sketch)
        });
        found.insert(node, finding.await.ok()?);
    }
    let sketches: Vec<Sketch> = found.values_mut().filter_map(|(_, sketch)| sketch.take()).collect();
    let alike = setup.worker.run(move || overlap::alike(&sketches)).await.ok()?;
    let mut findings: Vec<Finding> = found.into_values().map(|(finding, _)| finding).collect();
    let valid = findings.iter_mut().filter(|finding| finding.valid);
    valid.zip(alike).for_each(|(finding, alike)| finding.suspect = alike);
    Some(findings)
}

/// Aggregates the accepted contributions in slot order, takes the outer step, keeps the state and measures it.
pub(super) async fn compute_next(setup: Arc<Setup>, round: Round, base: Arc<Held>, give_up: Instant) -> Option<Next> {
    let accepted: Vec<(NodeId, Contribution)> =
        round.accepted().into_iter().map(|(node, commit)| (node, commit.contribution.clone())).collect();
    let fetches = accepted.iter().map(|(node, made)| payload_of(setup.clone(), *node, made.clone(), give_up));
    let payloads = futures::future::join_all(fetches).await;
    let missing = payloads.iter().filter(|bytes| bytes.is_none()).count();
    if missing > 0 {
        tracing::info!(round = round.number, missing, "accepted payloads are not to be had yet");
        return None;
    }
    let (setup_, number, f, steps) = (setup.clone(), round.number, round.f as usize, round.steps + 1);
    let computed = setup.worker.run(move || {
        let (rules, seed) = (setup_.rules(), &round.seed);
        let updates: Option<Vec<Vec<f32>>> = accepted
            .iter()
            .zip(payloads.iter().flatten())
            .map(|((node, contribution), bytes)| open_update(&setup_, seed, *node, contribution, bytes, &base.state))
            .collect();
        // f is the opening's; the ledger closes a round only with at least 2f + 1 accepted contributions.
        let state = rules.next(&updates?, &base.state, f, seed).ok()?;
        let loss = rules.loss(&state.weights, rules.training.eval_sequences).ok()?;
        Some((state, loss))
    });
    let (state, loss) = computed.await.ok()??;
    let held =
        setup.models.put(state).inspect_err(|e| tracing::error!(error = %e, "cannot keep the next state")).ok()?;
    Some(Next { round: number, steps, held, loss })
}

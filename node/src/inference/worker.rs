//! What computes a stage: it reads what came, takes what all sessions have ready, and computes it in one pass over the weights. A thread
//! does so, or, where it is brief, whoever brings a frame.

use super::{
    draft::{Drafts, Guess},
    host::pass,
    hub::{Hub, Room},
    model::Model,
};
use ailo_proto::{Candidate, Failed, FailedWhy, Frame, Logprob, Pay, Sampling as Wire, frame::Body};
use ailo_protocol::{
    Amount, Hash, NodeId, canonical,
    inference::{
        MAX_ROOM, SessionId,
        stage::{Done, Draft, Effect, Input, Job, Served, Stage},
        tabs::{Service, Unpaid},
    },
    payment::SignedReceipt,
};
use ailo_training::{
    Result, TrainingError,
    checkpoint::Checkpoint,
    engine::{Cache, Engine, Part},
    sample::{Sampled, Sampling, sample},
};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread::Thread,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Positions of one pass, at most.
const BATCH: usize = 512;
/// A pass should take about so long, so that tokens of others do not wait longer for a piece of a prompt.
const PASS: Duration = Duration::from_millis(30);
/// What should take no longer is computed by whoever brings the frame: waking a thread takes as long as a small stage's token.
const BRIEF: Duration = Duration::from_millis(1);
/// Frames that are read before something is computed, at most.
const MAIL: usize = 256;
/// A session that nothing is heard of for twice as long is over.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a receipt, at most.
const MAX_RECEIPT: usize = 1024;
/// The least piece of a prompt.
const PIECE: usize = 4;

/// What a worker is sent.
#[allow(clippy::large_enum_variant)] // Nearly all of it is frames.
pub enum Inbound {
    /// A frame, and what it takes of its sender's room.
    Frame(NodeId, Frame, Room),
    /// A node is gone.
    Gone(NodeId),
    /// A stream to or from a node has ended.
    Broken(NodeId),
    /// No new sessions; it ends with the last one.
    Leave,
    /// The same, and clients should go elsewhere: there is not much time.
    Drain,
    /// It ends.
    Stop,
}

/// How a worker is made.
pub struct Setup {
    /// The model.
    pub model: Arc<Model>,
    /// Its layers that are served.
    pub layers: Range<usize>,
    /// Threads for large products.
    pub threads: usize,
    /// Bytes for sessions.
    pub memory: u64,
    /// How much less of a busy processor it gets, 0 to 19.
    pub niceness: i32,
    /// What follows is guessed by this.
    pub draft: Guess,
}

impl Setup {
    /// Guesses for the sessions that begin here.
    fn drafts(&self, engine: &Engine, one: Duration) -> Result<Drafts> {
        const SEVERAL: usize = 9;
        if self.draft == Guess::Never {
            return Ok(Drafts::none());
        }
        let shape = engine.shape();
        let more = pass(engine, SEVERAL).saturating_sub(one) / (SEVERAL as u32 - 1);
        let all = more * shape.layers as u32 / engine.layers().max(1) as u32;
        let (Guess::Model(folder), 0) = (&self.draft, self.layers.start) else {
            return Ok(Drafts::new(None, all, 0));
        };
        let checkpoint = Checkpoint::open(folder)?;
        let small = checkpoint.shape().clone();
        if small.vocabulary != shape.vocabulary {
            let (theirs, ours) = (small.vocabulary, shape.vocabulary);
            let what = format!("a draft of {theirs} tokens does not fit a model of {ours}: both need one vocabulary");
            return Err(TrainingError::Checkpoint(what));
        }
        let weights = checkpoint.load(0..small.layers, None, &mut |_, _| ())?.weights;
        Ok(Drafts::new(Some(Engine::new(small, weights, self.threads)?), all, self.memory / 2))
    }
}

/// What serves a stage; clones are the same one.
#[derive(Clone)]
pub struct Worker {
    /// Microseconds that it takes for a token and layer.
    pub layer_us: u32,
    /// Whether others than its thread may compute.
    brief: bool,
    mail: Arc<Mutex<VecDeque<Inbound>>>,
    computer: Arc<Mutex<Computer>>,
    over: watch::Receiver<bool>,
    thread: Thread,
}

impl Worker {
    /// Loads the layers and starts.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn start(setup: &Setup, hub: &Arc<Hub>) -> Result<Worker> {
        let engine = setup.model.load(setup.layers.clone(), setup.threads)?;
        let one = pass(&engine, 1);
        let layer_us = u32::try_from(one.as_micros() / engine.layers().max(1) as u128).unwrap_or(u32::MAX).max(1);
        let draft: Box<dyn Draft> = Box::new(setup.drafts(&engine, one)?);
        let computer = Arc::new(Mutex::new(Computer::new(setup, engine, layer_us, draft, Arc::downgrade(hub))));
        let (mail, (ends, over)) = (Arc::<Mutex<VecDeque<Inbound>>>::default(), watch::channel(false));
        let (own, own_mail, niceness) = (computer.clone(), mail.clone(), setup.niceness);
        let work = move || {
            // On Linux a thread has a niceness of its own; failing to lower it costs responsiveness only.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness);
            let _over = Over(ends);
            while let Ok(State::Idle | State::Busy) = own.lock().map(|mut computer| computer.work(&own_mail, None)) {
                // Mail that came since has left a token, and parks nothing. Without any, sessions are forgotten, too.
                std::thread::park_timeout(IDLE);
            }
        };
        let thread = std::thread::Builder::new().name("inference".into()).spawn(work);
        let thread = thread.map_err(|_| TrainingError::Generate("no thread can be started"))?.thread().clone();
        // A model that guesses takes as long as it takes.
        let brief = setup.niceness == 0 && !matches!(setup.draft, Guess::Model(_));
        Ok(Worker { layer_us, brief, mail, computer, over, thread })
    }

    /// Sends something; nothing happens once it has ended.
    pub fn send(&self, inbound: Inbound) {
        if self.ended() {
            return;
        }
        self.post().push_back(inbound);
        let mut state = if self.brief { State::Idle } else { State::Busy };
        while state == State::Idle && !self.post().is_empty() {
            // Who has it may have looked into the mail for the last time: the thread looks again.
            state = self.computer.try_lock().map_or(State::Busy, |mut computer| computer.work(&self.mail, Some(BRIEF)));
        }
        if state != State::Idle {
            self.thread.unpark();
        }
    }

    fn post(&self) -> MutexGuard<'_, VecDeque<Inbound>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        *self.over.borrow() || self.computer.is_poisoned()
    }

    /// Until its thread has ended.
    pub async fn end(&self) {
        let _ = self.over.clone().wait_for(|over| *over).await; // Who should say so is gone, then.
    }
}

/// Says that a thread has ended, however it did.
struct Over(watch::Sender<bool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Where work was left.
#[derive(PartialEq)]
enum State {
    /// There is nothing to do.
    Idle,
    /// There is more to do than was allowed.
    Busy,
    /// There is nothing to do any more.
    Over,
}

struct Computer {
    engine: Engine,
    model: Hash,
    stage: Stage,
    caches: HashMap<SessionId, Cache>,
    hub: Weak<Hub>,
    first: usize,
    /// Seconds that a pass takes, at the least.
    least: f64,
    /// Positions in a second, when there are several.
    speed: f64,
    leaving: bool,
    over: bool,
    swept: Instant,
}

impl Computer {
    fn new(setup: &Setup, engine: Engine, layer_us: u32, draft: Box<dyn Draft>, hub: Weak<Hub>) -> Computer {
        let shape = engine.shape();
        let paid_for = hub.upgrade().is_some_and(|hub| hub.price() > Amount::ZERO);
        let served = Served {
            model: setup.model.id,
            layers: setup.layers.start as u32..setup.layers.end as u32,
            total: shape.layers as u32,
            width: shape.width,
            cache_bytes: shape.cache_bytes(),
            vocabulary: shape.vocabulary as u32,
            context: shape.context.min(MAX_ROOM),
            memory: setup.memory,
            paid: paid_for,
        };
        let least = f64::from(layer_us) * engine.layers() as f64 / 1e6;
        Computer {
            model: setup.model.id,
            stage: Stage::new(served, draft),
            engine,
            caches: HashMap::new(),
            hub,
            first: setup.layers.start,
            least,
            speed: 1.0 / least,
            leaving: false,
            over: false,
            swept: Instant::now(),
        }
    }

    /// Reads and computes until there is nothing left, or what is left would take longer than `brief`.
    fn work(&mut self, mail: &Mutex<VecDeque<Inbound>>, brief: Option<Duration>) -> State {
        let started = Instant::now();
        loop {
            let mut read = 0;
            // Whoever floods does not stop the computing.
            while read < MAIL && !self.over {
                let next = mail.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(inbound) = next else { break };
                self.take(inbound);
                read += 1;
            }
            if self.swept.elapsed() > IDLE {
                self.swept = Instant::now();
                let effects = self.stage.sweep();
                self.act(effects);
            }
            if self.over || self.leaving && self.stage.sessions() == 0 {
                self.over = true;
                return State::Over;
            }
            let waiting = self.stage.waiting();
            if waiting == 0 {
                if read < MAIL {
                    return State::Idle;
                }
                continue;
            }
            let takes = self.least.max(waiting as f64 / self.speed);
            if brief.is_some_and(|brief| started.elapsed().as_secs_f64() + takes > brief.as_secs_f64()) {
                return State::Busy;
            }
            let piece = (self.speed * PASS.as_secs_f64()) as usize;
            let jobs = self.stage.batch(BATCH, piece.clamp(PIECE, BATCH));
            self.pass(&jobs);
        }
    }

    fn take(&mut self, inbound: Inbound) {
        let effects = match inbound {
            Inbound::Frame(from, Frame { session, body: Some(Body::Pay(pay)) }, _room) => {
                self.paid(from, &session, &pay)
            }
            Inbound::Frame(from, frame, _room) => {
                let own =
                    SessionId::try_from(&*frame.session).ok().filter(|_| matches!(frame.body, Some(Body::Open(_))));
                let effects = self.stage.handle(from, frame);
                // Nobody pays itself.
                if let (Some(id), Some(hub)) = (own, self.hub.upgrade())
                    && *hub.node() == from
                {
                    self.stage.pay(&id, usize::MAX);
                }
                effects
            }
            Inbound::Gone(node) => self.stage.gone(node),
            Inbound::Broken(node) => self.stage.broken(node),
            Inbound::Leave => {
                self.leaving = true;
                self.stage.leave();
                Vec::new()
            }
            Inbound::Drain => {
                self.leaving = true;
                self.stage.drain()
            }
            Inbound::Stop => {
                self.over = true;
                Vec::new()
            }
        };
        self.act(effects);
    }

    /// A client pays for positions.
    fn paid(&mut self, from: NodeId, session: &[u8], pay: &Pay) -> Vec<Effect> {
        let Ok(id) = SessionId::try_from(session) else { return Vec::new() };
        let (Some(hub), Some((layers, paid))) = (self.hub.upgrade(), self.stage.account(&from, &id)) else {
            return Vec::new();
        };
        let (Some(cashier), upto) = (&hub.cashier, pay.upto as usize) else { return Vec::new() };
        let Some(more) = upto.checked_sub(paid).filter(|more| *more > 0) else { return Vec::new() };
        let (total, model) = (self.engine.shape().layers as u32, self.model);
        let (node, price) = (*hub.node(), Amount::ZERO);
        let service = Service { node, model, first: layers.start, end: layers.end, total, price };
        let receipt = canonical::decode::<SignedReceipt>(&pay.receipt, MAX_RECEIPT);
        let taken = receipt.map_err(|_| Unpaid::Other).and_then(|receipt| cashier.take(service, &receipt, more as u64));
        match taken {
            Ok(()) => {
                self.stage.pay(&id, upto);
                Vec::new()
            }
            Err(e) => {
                let own = matches!(e, Unpaid::Deposit { .. } | Unpaid::Ledger(_));
                let why = if own { FailedWhy::Unpaid } else { FailedWhy::Full };
                let failed = Failed { why: why.into(), reason: e.to_string(), ..Failed::default() };
                vec![Effect::Send(from, Frame::of(id, failed))]
            }
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, frame) => {
                    if let Some(hub) = self.hub.upgrade() {
                        hub.send(to, frame);
                    }
                }
                Effect::Sign(to, epoch, statement) => {
                    let Some(hub) = self.hub.upgrade() else { continue };
                    let signed = hub.sign(statement);
                    let statement = &signed.statement;
                    let bytes = |hash: &Hash| hash.0.to_vec().into();
                    let frame = Frame::of(
                        statement.session,
                        ailo_proto::Signed {
                            epoch,
                            chunk: statement.chunk,
                            came: bytes(&statement.came),
                            gave: bytes(&statement.gave),
                            signature: signed.signature.0.to_vec().into(),
                            wrote: statement.next != Hash::ZERO,
                            height: statement.height,
                        },
                    );
                    to.into_iter().for_each(|to| hub.send(to, frame.clone()));
                }
                Effect::Cache(id, layers, room) => {
                    let layers = layers.start as usize - self.first..layers.end as usize - self.first;
                    self.caches.insert(id, self.engine.cache_of(layers, room));
                }
                Effect::Adopt(old, new, room) => {
                    if let Some(mut cache) = self.caches.remove(&old) {
                        cache.grow(room);
                        self.caches.insert(new, cache);
                    }
                }
                Effect::Free(id) => drop(self.caches.remove(&id)),
            }
        }
    }

    /// Computes all jobs, and takes what came of each.
    fn pass(&mut self, jobs: &[Job]) {
        let started = Instant::now();
        let outcomes = match self.compute(jobs) {
            Ok(done) => done.into_iter().map(Ok).collect(),
            // One text must not spoil the others'.
            Err(e) if jobs.len() == 1 => vec![Err(e.to_string())],
            Err(_) => jobs
                .iter()
                .map(|job| {
                    self.compute(std::slice::from_ref(job)).map(|mut done| done.remove(0)).map_err(|e| e.to_string())
                })
                .collect(),
        };
        for (job, outcome) in jobs.iter().zip(outcomes) {
            let effects = self.stage.computed(job, outcome);
            self.act(effects);
        }
        let width = self.engine.shape().width;
        let positions: usize = jobs.iter().map(|job| job.input.positions(width)).sum();
        let took = started.elapsed().as_secs_f64().max(1e-6);
        if positions >= PIECE {
            self.speed += 0.3 * (positions as f64 / took - self.speed);
        } else if positions > 0 {
            self.least += 0.1 * (took - self.least);
        }
    }

    fn compute(&mut self, jobs: &[Job]) -> Result<Vec<Done>> {
        let width = self.engine.shape().width;
        let mut x = Vec::new();
        for job in jobs {
            match &job.input {
                Input::Tokens(tokens) => x.extend(self.engine.embed(tokens, job.at)?),
                Input::Rows(rows) => x.extend_from_slice(rows),
            }
        }
        // The caches of the jobs leave the map for the time of the pass.
        let mut caches: Vec<(SessionId, Cache)> =
            jobs.iter().filter_map(|job| self.caches.remove_entry(&job.session)).collect();
        let computed = if caches.len() == jobs.len() {
            let parts = caches.iter_mut().zip(jobs).map(|((_, cache), job)| {
                cache.truncate(job.at);
                Part { cache, positions: job.input.positions(width) }
            });
            self.engine.forward(x, &mut parts.collect::<Vec<_>>())
        } else {
            Err(TrainingError::Generate("a session has no cache"))
        };
        self.caches.extend(caches);
        let x = computed?;

        let (mut wanted, mut at) = (Vec::new(), 0);
        for job in jobs {
            let end = at + job.input.positions(width) * width;
            wanted.extend_from_slice(&x[end - job.sample * width..end]);
            at = end;
        }
        let logits = if wanted.is_empty() { Vec::new() } else { self.engine.logits(&wanted)? };
        let mut logits = logits.chunks_exact(self.engine.shape().vocabulary);
        let mut at = 0;
        let done = jobs.iter().map(|job| {
            let end = at + job.input.positions(width) * width;
            let rows = x[at..end].to_vec();
            at = end;
            let own: Vec<&[f32]> = logits.by_ref().take(job.sample).collect();
            Done { rows, sampled: self.sample(job, &own) }
        });
        Ok(done.collect())
    }

    /// Tokens from logits: as long as the drafts are met, and one more.
    fn sample(&self, job: &Job, logits: &[&[f32]]) -> Vec<(u32, Option<Logprob>)> {
        let Some((wire, text, drafts)) = self.stage.sampling(job).filter(|_| job.sample > 0) else { return Vec::new() };
        let (sampling, mut text) = (sampling_of(wire), text.to_vec());
        let mut sampled = Vec::new();
        for (logits, draft) in logits.iter().zip(drafts.iter().map(Some).chain([None])) {
            let written = &text[(wire.prompt as usize).min(text.len())..];
            let Sampled { token, logprobs } = sample(logits, &sampling, written, text.len());
            let logprob = logprobs.map(|(logprob, top)| Logprob {
                logprob,
                top: top.into_iter().map(|(token, logprob)| Candidate { token, logprob }).collect(),
            });
            sampled.push((token, logprob));
            text.push(token);
            if wire.ends.contains(&token) || text.len() >= wire.limit as usize || draft != Some(&token) {
                break;
            }
        }
        sampled
    }
}

/// How the last stage chooses tokens, as the engine has it.
pub(super) fn sampling_of(wire: &Wire) -> Sampling {
    Sampling {
        // A zero has one sign.
        temperature: wire.temperature + 0.0,
        top_k: wire.top_k,
        top_p: wire.top_p,
        min_p: wire.min_p,
        presence: wire.presence + 0.0,
        frequency: wire.frequency + 0.0,
        biases: wire.biases.iter().map(|bias| (bias.token, (bias.bias + 0.0) as f32)).collect(),
        seed: wire.seed,
        logprobs: wire.logprobs.then_some(wire.top_logprobs.min(20)),
    }
}

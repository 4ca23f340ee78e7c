//! What computes a stage: it reads what came, takes what all sessions have ready, and computes it in one pass over the weights. A thread
//! does so, or, where it is brief, whoever brings a frame.

use super::{
    card,
    draft::{Drafts, Guess},
    hub::{Hub, Room},
    model::Model,
    speed::{Speed, pass},
};
use crate::progress;
use ailo_proto::{Candidate, Failed, FailedWhy, Frame, Logprob, Pay, Sampling as Wire, Wait, frame::Body};
use ailo_protocol::{
    Amount, Hash, NodeId, PublicKey, canonical,
    inference::{
        MAX_ROOM, SessionId,
        proof::{Signed, Statement},
        stage::{Done, Effect, Input, Job, Served, Stage},
        tabs::{Service, Unpaid},
    },
    payment::SignedReceipt,
};
use ailo_training::{
    Result, TrainingError,
    checkpoint::Checkpoint,
    engine::{Cache, Engine, NoGpu, Part},
    sample::{Sampled, Sampling, sample},
};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
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
/// How often peers are looked at that have more to read.
const READS: Duration = Duration::from_millis(2);
/// What was signed is signed anew where the ledger has got on by so many blocks: it is to be of now.
const OLD: u64 = 100;
/// How often sessions are looked at that nothing is heard of.
const SWEEP: Duration = Duration::from_secs(10);
/// What is asked while a pass is under way that takes longer is told to wait: the stage is not dead.
const LONG: Duration = Duration::from_millis(100);
/// Bytes of a receipt, at most.
const MAX_RECEIPT: usize = 1024;
/// Bytes that are copied in a second, at the least.
const COPIES: f64 = 5e8;
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
    /// Clients' next texts go elsewhere: nothing is kept for them any more.
    Forget,
    /// No new sessions; it ends with the last one.
    Leave,
    /// The same, and clients should go elsewhere: there is not much time.
    Drain,
    /// It ends; clients that have sessions here are told.
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
    /// Bytes for sessions, and for what drafts have read of them.
    pub memory: u64,
    /// How much less of a busy processor it gets, 0 to 19.
    pub niceness: i32,
    /// What follows is guessed by this.
    pub draft: Guess,
}

impl Setup {
    /// Bytes for sessions: where a card was to compute and does not, no more than is usual for a processor.
    fn sessions(&self, engine: &Engine) -> u64 {
        if engine.card().is_none() && self.model.wants_card() {
            self.memory.min(card::sessions_without())
        } else {
            self.memory
        }
    }

    /// Guesses for the sessions that begin here. What a model has read of them takes half of their memory at most.
    fn drafts(&self, engine: &Engine, one: Duration) -> Result<Drafts> {
        const SEVERAL: usize = 9;
        if self.draft == Guess::Never {
            return Ok(Drafts::none());
        }
        let shape = engine.shape();
        let more = pass(engine, SEVERAL).saturating_sub(one) / (SEVERAL as u32 - 1);
        let all = more.saturating_mul(shape.layers as u32) / engine.layers().max(1) as u32;
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
        Ok(Drafts::new(Some(Engine::new(small, weights, self.threads)?), all, self.sessions(engine) / 2))
    }
}

/// What serves a stage; clones are the same one.
#[derive(Clone)]
pub struct Worker {
    /// The model, and its layers that are served.
    pub model: Hash,
    /// See `model`.
    pub layers: Range<usize>,
    /// The graphics card that computes, if one does.
    pub card: Option<String>,
    /// What a token takes here, as measured at the start.
    pub speed: Speed,
    /// Whether others than its thread may compute.
    brief: bool,
    mail: Arc<Mutex<VecDeque<Inbound>>>,
    /// None once it has ended: what it held is free then.
    computer: Arc<Mutex<Option<Computer>>>,
    gauges: Arc<Gauges>,
    over: watch::Receiver<bool>,
    thread: Thread,
    hub: Weak<Hub>,
    long: Arc<Long>,
}

impl Worker {
    /// Loads the layers and starts.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn start(setup: &Setup, hub: &Arc<Hub>) -> Result<Worker> {
        let engine =
            setup.model.load(setup.layers.clone(), setup.threads, &mut progress::bytes("loading the model"))?;
        let engine = setup.model.moved(engine, setup.layers.start);
        let (speed, card) = (Speed::of(&engine), engine.card().map(|card| card.name().to_string()));
        let drafts = setup.drafts(&engine, pass(&engine, 1))?;
        let (gauges, long) = (Arc::<Gauges>::default(), Arc::<Long>::default());
        let shown = (Arc::downgrade(hub), gauges.clone(), long.clone());
        let computer = Computer::new(setup, engine, &speed, drafts, shown);
        let computer = Arc::new(Mutex::new(Some(computer)));
        let (mail, (ends, over)) = (Arc::<Mutex<VecDeque<Inbound>>>::default(), watch::channel(false));
        let (own, own_mail, niceness) = (computer.clone(), mail.clone(), setup.niceness);
        let work = move || {
            // On Linux a thread has a niceness of its own; failing to lower it costs responsiveness only.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness);
            let _over = Over(ends, own.clone());
            while let Ok(state @ (State::Idle | State::Busy | State::Behind)) =
                own.lock().map(|mut computer| work(&mut computer, &own_mail, None))
            {
                // Mail that came since has left a token, and parks nothing. Without any, sessions are forgotten, too.
                std::thread::park_timeout(if state == State::Behind { READS } else { SWEEP });
            }
        };
        let thread = std::thread::Builder::new().name("inference".into()).spawn(work);
        let thread = thread.map_err(|_| TrainingError::Generate("no thread can be started"))?.thread().clone();
        // A model that guesses takes as long as it takes.
        let brief = setup.niceness == 0 && !matches!(setup.draft, Guess::Model(_));
        let (model, layers) = (setup.model.id, setup.layers.clone());
        Ok(Worker {
            model,
            layers,
            card,
            speed,
            brief,
            mail,
            computer,
            gauges,
            over,
            thread,
            hub: Arc::downgrade(hub),
            long,
        })
    }

    /// Sends something; nothing happens once it has ended.
    pub fn send(&self, inbound: Inbound) {
        if self.ended() {
            return;
        }
        if let Inbound::Frame(from, Frame { session, body: Some(Body::Open(_) | Body::Where(_) | Body::End(_)) }, _) =
            &inbound
            && let (Some(ms), Some(hub)) = (self.long.left(), self.hub.upgrade())
            && let (Ok(session), true) = (SessionId::try_from(&**session), from != hub.node())
        {
            hub.send(*from, Frame::of(session, Wait { ms }));
        }
        self.post().push_back(inbound);
        let mut state = if self.brief { State::Idle } else { State::Busy };
        while state == State::Idle && !self.post().is_empty() {
            // Who has it may have looked into the mail for the last time: the thread looks again.
            state = self
                .computer
                .try_lock()
                .map_or(State::Busy, |mut computer| work(&mut computer, &self.mail, Some(BRIEF)));
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

    /// Bytes that no session has now, and microseconds that a single token took lately.
    pub fn now(&self) -> (u64, u32) {
        (self.gauges.room.load(Ordering::Relaxed), self.gauges.token_us.load(Ordering::Relaxed))
    }

    /// Until its thread has ended, and what it held is free.
    pub async fn end(&self) {
        let _ = self.over.clone().wait_for(|over| *over).await; // Who should say so is gone, then.
    }

    /// Until it has failed; for ever where it ends as it was told.
    pub async fn failed(&self) {
        self.end().await;
        if !self.gauges.failed.load(Ordering::Relaxed) && !self.computer.is_poisoned() {
            std::future::pending::<()>().await;
        }
    }
}

/// Until when a long pass that is under way may take, in milliseconds since it was made; 0: there is none.
struct Long(Instant, AtomicU64);

impl Default for Long {
    fn default() -> Long {
        Long(Instant::now(), AtomicU64::new(0))
    }
}

impl Long {
    /// A pass begins that should take so many seconds. Twice that is believed: later it hangs.
    fn begin(&self, seconds: f64) {
        let until = self.0.elapsed().as_secs_f64() + 2.0 * seconds;
        let until = if seconds > LONG.as_secs_f64() { (until * 1e3) as u64 } else { 0 };
        self.1.store(until, Ordering::Relaxed);
    }

    fn end(&self) {
        self.1.store(0, Ordering::Relaxed);
    }

    /// Milliseconds that are left of it.
    fn left(&self) -> Option<u32> {
        let left = self.1.load(Ordering::Relaxed).checked_sub(self.0.elapsed().as_millis() as u64)?;
        u32::try_from(left).ok().filter(|left| *left > 0)
    }
}

/// Says that a thread has ended, however it did, and that what it held is free.
struct Over(watch::Sender<bool>, Arc<Mutex<Option<Computer>>>);

impl Drop for Over {
    fn drop(&mut self) {
        drop(self.1.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.0.send_replace(true);
    }
}

/// What a worker shows of itself.
#[derive(Default)]
struct Gauges {
    room: AtomicU64,
    token_us: AtomicU32,
    /// It ends because its card has failed.
    failed: AtomicBool,
}

/// See [`Computer::work`]; nothing is left to do once it is gone.
fn work(computer: &mut Option<Computer>, mail: &Mutex<VecDeque<Inbound>>, brief: Option<Duration>) -> State {
    computer.as_mut().map_or(State::Over, |computer| computer.work(mail, brief))
}

/// Where work was left.
#[derive(PartialEq)]
enum State {
    /// There is nothing to do.
    Idle,
    /// The same, until others have read what they were sent.
    Behind,
    /// There is more to do than was allowed.
    Busy,
    /// There is nothing to do any more.
    Over,
}

struct Computer {
    engine: Arc<Engine>,
    model: Hash,
    stage: Stage,
    caches: HashMap<SessionId, Cache>,
    /// What each session's stage has signed, by chunks: after a new route all of it is sent again.
    signed: HashMap<SessionId, HashMap<u32, Signed>>,
    hub: Weak<Hub>,
    gauges: Arc<Gauges>,
    first: usize,
    /// Seconds that a pass takes, at the least.
    least: f64,
    /// Positions in a second, when there are several.
    speed: f64,
    leaving: bool,
    over: bool,
    swept: Instant,
    long: Arc<Long>,
    /// What is to be copied for a text that goes on with another one's beginning, or needs more room, before anything else is read.
    copy: Option<Effect>,
}

impl Computer {
    fn new(
        setup: &Setup,
        engine: Arc<Engine>,
        speed: &Speed,
        drafts: Drafts,
        (hub, gauges, long): (Weak<Hub>, Arc<Gauges>, Arc<Long>),
    ) -> Computer {
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
            memory: setup.sessions(&engine).saturating_sub(drafts.bytes()),
            owner: hub.upgrade().map_or(PublicKey([0; 32]), |hub| *hub.node()),
            paid: paid_for,
        };
        let least = f64::from(speed.token_us(engine.layers())) / 1e6;
        let computer = Computer {
            model: setup.model.id,
            stage: Stage::new(served, Box::new(drafts)),
            engine,
            caches: HashMap::new(),
            signed: HashMap::new(),
            hub,
            gauges,
            first: setup.layers.start,
            least,
            speed: 1.0 / least,
            leaving: false,
            over: false,
            swept: Instant::now(),
            long,
            copy: None,
        };
        computer.show();
        computer
    }

    /// What it has room for, and how fast it is, for all to see.
    fn show(&self) {
        self.gauges.room.store(self.stage.room(), Ordering::Relaxed);
        self.gauges.token_us.store((self.least * 1e6) as u32, Ordering::Relaxed);
    }

    /// Reads and computes until there is nothing left, or what is left would take longer than `brief`.
    fn work(&mut self, mail: &Mutex<VecDeque<Inbound>>, brief: Option<Duration>) -> State {
        let started = Instant::now();
        loop {
            let mut read = 0;
            // Whoever floods does not stop the computing.
            while read < MAIL && !self.over && self.copy.is_none() {
                let next = mail.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(inbound) = next else { break };
                self.take(inbound);
                read += 1;
            }
            // It takes about as long as a pass, so there is one at most between two of them, and none where only what is brief is done.
            let copies = self.copy.is_some();
            if copies && brief.is_some() {
                return State::Busy;
            }
            self.copies();
            if self.swept.elapsed() >= SWEEP {
                self.swept = Instant::now();
                let effects = self.stage.sweep();
                self.act(effects);
            }
            if self.over || self.leaving && self.stage.sessions() == 0 {
                self.over = true;
                return State::Over;
            }
            self.show();
            if self.stage.is_behind()
                && let Some(hub) = self.hub.upgrade()
            {
                let effects = self.stage.hand_on(|node| hub.reads(node));
                self.act(effects);
            }
            let waiting = self.stage.waiting();
            if waiting == 0 {
                if read < MAIL && !copies {
                    return if self.stage.is_behind() { State::Behind } else { State::Idle };
                }
                continue;
            }
            let takes = self.least.max(waiting as f64 / self.speed);
            if brief.is_some_and(|brief| started.elapsed().as_secs_f64() + takes > brief.as_secs_f64()) {
                return State::Busy;
            }
            let piece = (self.speed * PASS.as_secs_f64()) as usize;
            let jobs = self.stage.batch(BATCH, piece.clamp(PIECE, BATCH));
            self.long.begin(self.takes(&jobs));
            self.pass(&jobs);
            self.long.end();
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
            Inbound::Forget => self.stage.forget(),
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
                self.stage.end_all("it does not serve these layers any more")
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
        // None more: the request was answered sooner than the last receipt says.
        let Some(more) = upto.checked_sub(paid) else { return Vec::new() };
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
                let own = matches!(e, Unpaid::Deposit { .. });
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
                    let signed = self.sign(&hub, statement);
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
                Effect::Adopt(..) | Effect::Copy { .. } => {
                    self.copies();
                    self.copy = Some(effect);
                }
                Effect::Free(id) => {
                    // What is to be copied from it, or to it, is not kept for long.
                    self.copies();
                    self.caches.remove(&id);
                    self.signed.remove(&id);
                }
            }
        }
    }

    /// Signs a statement, unless it has been signed lately.
    fn sign(&mut self, hub: &Hub, statement: Statement) -> Signed {
        let (chunk, height) = (statement.chunk, hub.height());
        let signed = self.signed.entry(statement.session).or_default();
        let same = |known: &&Signed| {
            let at = known.statement.height;
            known.statement == Statement { height: at, ..statement.clone() } && height <= at.saturating_add(OLD)
        };
        if let Some(known) = signed.get(&chunk).filter(same) {
            return known.clone();
        }
        let fresh = hub.sign(statement);
        signed.insert(chunk, fresh.clone());
        fresh
    }

    /// Copies what is to be copied.
    fn copies(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        let (Effect::Adopt(from, ..) | Effect::Copy { from, .. }) = &copy else { return };
        let Some(mut cache) = self.caches.remove(from) else { return };
        let positions = if let Effect::Copy { positions, .. } = copy { positions } else { cache.len() };
        self.long.begin((positions * cache.position()) as f64 / COPIES);
        match copy {
            Effect::Adopt(from, to, room) => {
                self.signed.remove(&from);
                cache.grow(room);
                self.caches.insert(to, cache);
            }
            Effect::Copy { from, to, room, .. } => {
                self.caches.insert(to, cache.beginning(positions, room));
                self.caches.insert(from, cache);
            }
            _ => {}
        }
        self.long.end();
    }

    /// Seconds that a pass should take.
    fn takes(&self, jobs: &[Job]) -> f64 {
        let width = self.engine.shape().width;
        let positions: usize = jobs.iter().map(|job| job.input.positions(width)).sum();
        self.least.max(positions as f64 / self.speed)
    }

    /// Computes all jobs, and takes what came of each.
    fn pass(&mut self, jobs: &[Job]) {
        let started = Instant::now();
        let outcomes: Vec<Result<Done>> = match self.compute(jobs) {
            Ok(done) => done.into_iter().map(Ok).collect(),
            Err(e) if jobs.len() == 1 => vec![Err(e)],
            // One text must not spoil the others'.
            Err(_) => {
                let alone = |job| self.compute(std::slice::from_ref(job)).map(|mut done| done.remove(0));
                jobs.iter().map(alone).collect()
            }
        };
        let broken = |outcome: &Result<Done>| matches!(outcome, Err(TrainingError::Gpu(NoGpu::Driver { .. })));
        if let Some(Err(e)) = outcomes.iter().find(|outcome| broken(outcome)) {
            tracing::error!(error = %e, "the graphics card has failed: what it served ends");
            self.gauges.failed.store(true, Ordering::Relaxed);
            self.over = true;
            let effects = self.stage.end_all("its graphics card has failed");
            return self.act(effects);
        }
        for (job, outcome) in jobs.iter().zip(outcomes) {
            let effects = self.stage.computed(job, outcome.map_err(|e| e.to_string()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::tests::one_layer, *};
    use ailo_proto::{Close, Open, Route};
    use ailo_protocol::{
        Keypair,
        inference::{CHUNK, session_id},
    };

    /// What computes it for its own node.
    fn computer(hub: &Arc<Hub>, draft: Guess) -> Computer {
        let folder = one_layer();
        let model = Arc::new(Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap());
        let engine = model.load(0..1, 1, &mut |_, _| ()).unwrap();
        let setup = Setup { model, layers: 0..1, threads: 1, memory: 64 << 20, niceness: 0, draft };
        let (speed, shown) = (Speed::of(&engine), (Arc::downgrade(hub), Arc::default(), Arc::default()));
        let drafts = setup.drafts(&engine, pass(&engine, 1)).unwrap();
        Computer::new(&setup, Arc::new(engine), &speed, drafts, shown)
    }

    #[test]
    fn what_a_draft_keeps_of_texts_is_no_room_for_others() {
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        let small = one_layer();
        let room = |draft| computer(&hub, draft).stage.room();
        assert_eq!(room(Guess::Never), 64 << 20);
        // 64 texts of 512 positions, with 32 numbers of keys and of values each.
        assert_eq!(room(Guess::Model(small.path().into())), (64 << 20) - 64 * 512 * 2 * 32 * 4);
    }

    #[test]
    fn what_is_copied_for_a_text_is_copied_by_the_stages_thread_and_one_at_a_time() {
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        let (mut computer, mail, node) = (computer(&hub, Guess::Never), Mutex::new(VecDeque::new()), *hub.node());
        let send = |nonce, body: Body| {
            let frame = Frame::of(session_id(&node, nonce), body);
            mail.lock().unwrap().push_back(Inbound::Frame(node, frame, None));
        };
        let (model, chunk) = (computer.model, |i: u8| ailo_proto::Bytes::from(vec![i; 32]));
        let opens = |nonce, chunks: &[u8], room: u32| {
            let sampling = Wire { limit: room, prompt: 1, ..Wire::default() };
            let chunks = chunks.iter().map(|i| chunk(*i)).collect();
            let model = model.0.to_vec().into();
            send(nonce, Open { nonce, model, first: 0, end: 1, room, sampling: Some(sampling), chunks }.into());
        };
        let idle = |computer: &mut Computer| assert!(computer.work(&mail, None) == State::Idle);
        let length = |computer: &Computer, nonce| computer.caches.get(&session_id(&node, nonce)).map(Cache::len);
        // A text is read, and closed.
        opens(1, &[], 100);
        let me = || node.0.to_vec().into();
        let (tokens, from) = (vec![7; 98], 97);
        send(1, Route { epoch: 1, first: me(), last: me(), from, tokens, ..Route::default() }.into());
        idle(&mut computer);
        send(1, Close { chunks: [1, 2, 3].map(chunk).into() }.into());
        idle(&mut computer);
        assert_eq!(length(&computer, 1), Some(99));

        // Two go on with its beginning, and one with all of it, for which it needs more room.
        opens(2, &[1, 9], 100);
        opens(3, &[1, 2, 9], 100);
        opens(4, &[1, 2, 3], 300);
        let brief = Some(Duration::from_secs(1));
        for _ in 0..2 {
            assert!(computer.work(&mail, brief) == State::Busy, "who brings frames copies nothing");
            assert_eq!((mail.lock().unwrap().len(), length(&computer, 2)), (2, None), "and reads no more of them");
        }
        idle(&mut computer);
        let lengths = [1, 2, 3, 4].map(|nonce| length(&computer, nonce));
        assert_eq!(lengths, [None, Some(CHUNK), Some(2 * CHUNK), Some(99)]);
        // What ends before it was copied leaves nothing behind.
        send(2, Close::default().into());
        send(4, Close { chunks: [1, 2, 3].map(chunk).into() }.into());
        opens(5, &[1, 2, 3, 4], 300);
        send(5, Close::default().into());
        send(3, Close::default().into());
        idle(&mut computer);
        assert!(computer.caches.is_empty() && computer.signed.is_empty() && computer.stage.sessions() == 0);
    }
}

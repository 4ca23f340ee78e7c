//! The thread that computes a stage: it reads what came, takes what all sessions have ready, and computes it in one pass over the
//! weights.

use super::{
    host::measure,
    hub::{Hub, Room},
    model::Model,
};
use ailo_proto::{Candidate, Frame, Logprob, Sampling as Wire};
use ailo_protocol::{
    NodeId,
    inference::{
        MAX_ROOM, SessionId,
        stage::{Done, Effect, Input, Job, Served, Stage},
    },
};
use ailo_training::{
    Result,
    engine::{Cache, Engine, Part},
    sample::{Sampled, Sampling, sample},
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Weak, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Positions of one pass, at most.
const BATCH: usize = 512;
/// A pass should take about so long, so that tokens of others do not wait longer for a piece of a prompt.
const PASS: Duration = Duration::from_millis(30);
/// Frames that are read before something is computed, at most.
const MAIL: usize = 256;
/// The least piece of a prompt.
const PIECE: usize = 4;

/// What a worker is sent.
#[allow(clippy::large_enum_variant)] // Nearly all of it is frames.
pub enum Inbound {
    /// A frame, and what it takes of its sender's room.
    Frame(NodeId, Frame, Room),
    /// A node is gone.
    Gone(NodeId),
    /// No new sessions; the thread ends with the last one.
    Leave,
    /// The thread ends.
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
}

/// A running worker.
pub struct Worker {
    /// Microseconds that it takes for a token and layer.
    pub layer_us: u32,
    inbox: mpsc::Sender<Inbound>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Loads the layers and starts; returns once they are there.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn start(setup: Setup, hub: &Arc<Hub>) -> Result<Worker> {
        let (inbox, mail) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let hub = Arc::downgrade(hub);
        let work = move || {
            // On Linux a thread has a niceness of its own; failing to lower it costs responsiveness only.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), setup.niceness);
            setup.model.load(setup.layers.clone(), setup.threads, |engine| match engine {
                Ok(engine) => {
                    let layer_us = measure(engine);
                    let _ = ready.send(Ok(layer_us)); // Whoever started it waits for this.
                    Computer::new(&setup, engine, layer_us, hub).run(&mail);
                }
                Err(e) => drop(ready.send(Err(e))),
            });
        };
        let thread = std::thread::Builder::new().name("inference".into()).spawn(work);
        let thread = thread.map_err(|_| ailo_training::TrainingError::Generate("no thread can be started"))?;
        let layer_us = started
            .recv()
            .unwrap_or(Err(ailo_training::TrainingError::Generate("the thread that computes ended at once")))?;
        Ok(Worker { layer_us, inbox, thread })
    }

    /// Sends something; nothing happens once the thread has ended.
    pub fn send(&self, inbound: Inbound) {
        let _ = self.inbox.send(inbound);
    }

    /// Whether the thread has ended.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Computer<'a> {
    engine: &'a Engine<'a>,
    stage: Stage,
    caches: HashMap<SessionId, Cache>,
    hub: Weak<Hub>,
    first: usize,
    /// Positions in a second, when there are several.
    speed: f64,
    leaving: bool,
}

impl<'a> Computer<'a> {
    fn new(setup: &Setup, engine: &'a Engine<'a>, layer_us: u32, hub: Weak<Hub>) -> Computer<'a> {
        let shape = engine.shape();
        let served = Served {
            model: setup.model.id,
            layers: setup.layers.start as u32..setup.layers.end as u32,
            total: shape.layers as u32,
            width: shape.width,
            cache_bytes: shape.cache_bytes(),
            vocabulary: shape.vocabulary as u32,
            context: shape.context.min(MAX_ROOM),
            memory: setup.memory,
        };
        let stage = Stage::new(served, Box::new(|_| Vec::new()));
        Computer {
            engine,
            stage,
            caches: HashMap::new(),
            hub,
            first: setup.layers.start,
            speed: 1e6 / (f64::from(layer_us) * engine.layers() as f64),
            leaving: false,
        }
    }

    fn run(mut self, mail: &mpsc::Receiver<Inbound>) {
        let mut idle = true;
        loop {
            // Waits only while there is nothing to compute.
            let mut next = if idle { mail.recv().ok() } else { mail.try_recv().ok() };
            if idle && next.is_none() {
                return;
            }
            let mut read = 0;
            while let Some(inbound) = next {
                let effects = match inbound {
                    Inbound::Frame(from, frame, _room) => self.stage.handle(from, frame),
                    Inbound::Gone(node) => self.stage.gone(node),
                    Inbound::Leave => {
                        self.stage.leave();
                        self.leaving = true;
                        Vec::new()
                    }
                    Inbound::Stop => return,
                };
                self.act(effects);
                read += 1;
                // Whoever floods does not stop the computing.
                next = if read < MAIL { mail.try_recv().ok() } else { None };
            }
            if self.leaving && self.stage.sessions() == 0 {
                return;
            }
            let piece = (self.speed * PASS.as_secs_f64()) as usize;
            let jobs = self.stage.batch(BATCH, piece.clamp(PIECE, BATCH));
            idle = jobs.is_empty() && read < MAIL;
            if !idle {
                self.pass(&jobs);
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
        if positions >= PIECE {
            let speed = positions as f64 / started.elapsed().as_secs_f64().max(1e-6);
            self.speed += 0.3 * (speed - self.speed);
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
            Err(ailo_training::TrainingError::Generate("a session has no cache"))
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
            let rows = if job.sample > 0 { Vec::new() } else { x[at..end].to_vec() };
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

fn sampling_of(wire: &Wire) -> Sampling {
    Sampling {
        temperature: wire.temperature,
        top_k: wire.top_k,
        top_p: wire.top_p,
        min_p: wire.min_p,
        presence: wire.presence,
        frequency: wire.frequency,
        biases: wire.biases.iter().map(|bias| (bias.token, bias.bias as f32)).collect(),
        seed: wire.seed,
        logprobs: wire.logprobs.then_some(wire.top_logprobs.min(20)),
    }
}

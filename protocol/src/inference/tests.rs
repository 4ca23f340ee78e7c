//! Stages and clients against each other in virtual time: links with delays, nodes that die, hang and lie, several clients, drafts.
//! The model is a chain of hashes over all that a position may depend on, so any position that is lost, doubled or out of place changes
//! the text.

#![allow(clippy::unwrap_used)]

mod bounds;
mod frauds;

use super::{
    client::{self, Client, Failure, Request, Routes},
    stage::{self, Done, Draft, Input, Job, Served, Stage},
    *,
};
use crate::{
    PublicKey,
    hash::{Domain, Stream},
};
use ailo_proto::{Bytes, Finish, Frame, Sampling, frame::Body};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque},
    ops::Range,
};

const LAYERS: u32 = 6;
const WIDTH: usize = 2;
const VOCABULARY: u32 = 97;
const MODEL: Hash = Hash([9; 32]);

fn node(i: usize) -> NodeId {
    PublicKey([i as u8 + 1; 32])
}

fn mix(a: u64, b: u64) -> u64 {
    let mut x = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

/// For each layer the hash of all rows up to each position.
#[derive(Clone)]
struct ToyCache(BTreeMap<u32, Vec<u64>>);

impl ToyCache {
    fn new(layers: Range<u32>) -> ToyCache {
        ToyCache(layers.map(|layer| (layer, Vec::new())).collect())
    }
}

fn embed(token: u32) -> [f32; WIDTH] {
    [token as f32, (token * 7 % 1000) as f32]
}

fn row_of(hash: u64) -> [f32; WIDTH] {
    [(hash & 0xffff) as f32, (hash >> 16 & 0xffff) as f32]
}

fn hash_of(row: &[f32]) -> u64 {
    u64::from(row[0].to_bits()) << 32 | u64::from(row[1].to_bits())
}

fn forward(cache: &mut ToyCache, at: usize, rows: &[f32]) -> Vec<f32> {
    let mut rows: Vec<[f32; WIDTH]> = rows.as_chunks().0.to_vec();
    for (layer, seen) in &mut cache.0 {
        assert!(at <= seen.len(), "layer {layer} has a hole before {at}");
        seen.truncate(at);
        for row in &mut rows {
            let hash = mix(seen.last().copied().unwrap_or(0), mix(u64::from(*layer), hash_of(row)));
            seen.push(hash);
            *row = row_of(hash);
        }
    }
    rows.concat()
}

fn sample(row: &[f32], seed: u64, position: usize) -> u32 {
    (mix(hash_of(row), mix(seed, position as u64)) % u64::from(VOCABULARY)) as u32
}

/// What follows a text.
fn request(tokens: Vec<u32>) -> Request {
    let (layers, vocabulary, sampling) = (LAYERS, VOCABULARY, Sampling::default());
    Request { model: MODEL, layers, vocabulary, tokens, sampling, owner: Hash::ZERO }
}

/// What an undisturbed machine alone writes.
fn reference(prompt: &[u32], seed: u64, limit: usize) -> Vec<u32> {
    let (mut text, mut cache, mut at) = (prompt.to_vec(), ToyCache::new(0..LAYERS), 0);
    while text.len() < limit {
        let rows: Vec<f32> = text[at..].iter().flat_map(|token| embed(*token)).collect();
        let out = forward(&mut cache, at, &rows);
        at = text.len();
        text.push(sample(&out[out.len() - WIDTH..], seed, at));
    }
    text
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
enum Event {
    Frame { from: NodeId, to: NodeId, frame: Frame },
    Gone { who: NodeId, to: NodeId },
    Broken { who: NodeId, to: NodeId },
    Computed { node: usize },
    Tick,
    Nothing,
    Fault(Fault),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(usize),
    Hang(usize),
    Wake(usize),
    /// What is on its way between two of the machines, or a machine and the clients, is lost, but not the connection.
    Cut(usize, usize),
    /// It takes no new sessions, and ends before long.
    Leave(usize),
    /// Flips a number in what the node gives out next.
    Nan(usize),
    /// It computes something else from now on.
    Lie(usize),
    /// It sends other rows than it signs from now on.
    Swap(usize),
    /// It signs nothing from now on.
    Mute(usize),
}

struct Machine {
    stage: Stage,
    caches: HashMap<SessionId, ToyCache>,
    inbox: VecDeque<Event>,
    work: Option<Vec<Job>>,
    /// When that will be done.
    until: u64,
    alive: bool,
    hangs: bool,
    spoils: bool,
    lies: bool,
    swaps: bool,
    mute: bool,
    layers: Range<u32>,
}

struct Asker {
    node: NodeId,
    client: Client,
    expected: Vec<u32>,
    got: Vec<u32>,
    outcome: Option<Result<Finish, Failure>>,
    last: u64,
    slowest: u64,
    left_out: Vec<NodeId>,
    unsigned: Vec<NodeId>,
    signed: Vec<proof::Signed>,
    sampling: Sampling,
}

struct World {
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: HashMap<u64, Event>,
    count: u64,
    /// Links keep the order of their frames.
    links: HashMap<(NodeId, NodeId), u64>,
    machines: Vec<Machine>,
    askers: Vec<Asker>,
    draws: Stream,
    frames: u64,
    /// Milliseconds that a position takes.
    position: u64,
}

/// Chooses among the machines that are believed to be up.
struct Chooser<'a> {
    spans: Vec<(NodeId, Range<u32>)>,
    draws: &'a mut Stream,
}

impl Routes for Chooser<'_> {
    fn route(
        &mut self,
        layers: Range<u32>,
        _: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<Vec<(NodeId, Range<u32>)>> {
        let (mut at, mut route) = (layers.start, Vec::new());
        while at < layers.end {
            let fits = |(node, span): &&(NodeId, Range<u32>)| {
                !without.contains(node) && span.contains(&at) && !route.iter().any(|(known, _)| known == node)
            };
            let fitting: Vec<_> = self.spans.iter().filter(fits).collect();
            if fitting.is_empty() {
                return None;
            }
            let (node, span) = fitting[self.draws.below(fitting.len() as u64) as usize];
            let end = span.end.min(layers.end);
            route.push((*node, at..end));
            at = end;
        }
        Some(route)
    }

    fn gap(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Range<u32>> {
        let serve = self.spans.iter().filter(|(node, _)| !without.contains(node));
        routes::gap(layers, serve.map(|(_, span)| span.clone()))
    }
}

impl World {
    /// Machines with these layers, clients with prompts of these lengths; texts end at `limit`.
    fn new(seed: u8, spans: &[Range<u32>], prompts: &[usize], limit: usize, drafts: bool) -> World {
        let mut draws = Hash([seed; 32]).stream();
        let askers: Vec<Asker> = prompts
            .iter()
            .enumerate()
            .map(|(i, length)| {
                let tokens: Vec<u32> = (0..*length).map(|_| draws.below(u64::from(VOCABULARY)) as u32).collect();
                let (me, text_seed) = (node(100 + i), 1000 + i as u64);
                let (limit32, prompt) = (limit as u32, *length as u32);
                let sampling = Sampling { limit: limit32, seed: text_seed, prompt, ..Sampling::default() };
                let expected = reference(&tokens, text_seed, limit);
                let client = Client::new(&me, 5, Request { sampling: sampling.clone(), ..request(tokens) });
                Asker {
                    node: me,
                    client,
                    expected,
                    got: Vec::new(),
                    outcome: None,
                    last: 0,
                    slowest: 0,
                    left_out: Vec::new(),
                    unsigned: Vec::new(),
                    signed: Vec::new(),
                    sampling,
                }
            })
            .collect();
        let texts: Vec<Vec<u32>> = askers.iter().map(|asker| asker.expected.clone()).collect();
        let machine = |layers: &Range<u32>| {
            let served = Served {
                model: MODEL,
                layers: layers.clone(),
                total: LAYERS,
                width: WIDTH,
                cache_bytes: 8,
                vocabulary: VOCABULARY,
                context: 4096,
                memory: 1 << 20,
                owner: node(250),
                paid: false,
            };
            let stage =
                Stage::new(served, Box::new(Drafter::new(if drafts { texts.clone() } else { Vec::new() }, seed)));
            Machine {
                stage,
                caches: HashMap::new(),
                inbox: VecDeque::new(),
                work: None,
                until: 0,
                alive: true,
                hangs: false,
                spoils: false,
                lies: false,
                swaps: false,
                mute: false,
                layers: layers.clone(),
            }
        };
        let machines = spans.iter().map(machine).collect();
        let mut world = World {
            now: 0,
            events: BinaryHeap::new(),
            bodies: HashMap::new(),
            count: 0,
            links: HashMap::new(),
            machines,
            askers,
            draws,
            frames: 0,
            position: 0,
        };
        world.at(50, Event::Tick);
        for i in 0..world.askers.len() {
            world.ask(i, |client, now, routes| client.start(now, routes));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count)));
        self.bodies.insert(self.count, event);
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        self.frames += 1;
        let delay = 1 + self.draws.below(8);
        let link = self.links.entry((from, to)).or_default();
        *link = (*link).max(self.now + delay);
        let time = *link;
        self.at(time, Event::Frame { from, to, frame });
    }

    fn ask(&mut self, i: usize, act: impl FnOnce(&mut Client, u64, &mut dyn Routes) -> Vec<client::Effect>) {
        // A node that hangs is still announced; one that is dead is known to be gone.
        let up = self.machines.iter().enumerate().filter(|(_, machine)| machine.alive);
        let spans = up.map(|(i, machine)| (node(i), machine.layers.clone())).collect();
        let (asker, now) = (&mut self.askers[i], self.now);
        let effects = act(&mut asker.client, now, &mut Chooser { spans, draws: &mut self.draws });
        let from = asker.node;
        for effect in effects {
            let asker = &mut self.askers[i];
            match effect {
                client::Effect::Send(to, frame) => self.send(from, to, frame),
                client::Effect::Token(token, _) => {
                    asker.got.push(token);
                    asker.slowest = asker.slowest.max(now - asker.last);
                    asker.last = now;
                }
                client::Effect::Finished(finish) => asker.outcome = Some(Ok(finish)),
                client::Effect::Failed(why) => asker.outcome = Some(Err(why)),
                client::Effect::LeftOut(node, _) => asker.left_out.push(node),
                client::Effect::Unsigned(node) => asker.unsigned.push(node),
                client::Effect::Signed(signed) => {
                    asker.signed.retain(|known| known.statement.session == signed.statement.session);
                    asker.signed.push(signed);
                }
            }
        }
    }

    fn act(&mut self, i: usize, effects: Vec<stage::Effect>) {
        for effect in effects {
            let (mute, caches) = (self.machines[i].mute, &mut self.machines[i].caches);
            match effect {
                stage::Effect::Send(to, mut frame) => {
                    if let (true, Some(Body::Rows(rows))) = (self.machines[i].spoils, &mut frame.body) {
                        let mut bytes = rows.rows.to_vec();
                        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
                        rows.rows = bytes.into();
                        self.machines[i].spoils = false;
                    }
                    if let (true, Some(Body::Rows(rows))) = (self.machines[i].swaps, &mut frame.body) {
                        let values = rows.rows.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x) + 1.0);
                        rows.rows = values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into();
                    }
                    self.send(node(i), to, frame);
                }
                stage::Effect::Sign(..) if mute => {}
                stage::Effect::Sign(to, epoch, said) => {
                    let bytes = |hash: Hash| hash.0.to_vec().into();
                    let (came, gave, signature) = (bytes(said.came), bytes(said.gave), vec![0; 64].into());
                    for to in to {
                        let (came, gave) = (Clone::clone(&came), Clone::clone(&gave));
                        let signature = Clone::clone(&signature);
                        let wrote = said.next != Hash::ZERO;
                        let (chunk, height) = (said.chunk, said.height);
                        let signed = ailo_proto::Signed { epoch, chunk, came, gave, signature, wrote, height };
                        self.send(node(i), to, Frame::of(said.session, signed));
                    }
                }
                stage::Effect::Cache(id, layers, _) => drop(caches.insert(id, ToyCache::new(layers))),
                stage::Effect::Adopt(old, new, _) => {
                    let cache = caches.remove(&old).unwrap();
                    caches.insert(new, cache);
                }
                stage::Effect::Copy { from, to, positions, .. } => {
                    let mut copy = caches[&from].clone();
                    copy.0.values_mut().for_each(|seen| seen.truncate(positions));
                    caches.insert(to, copy);
                }
                stage::Effect::Free(id) => assert!(caches.remove(&id).is_some(), "freed twice"),
            }
        }
    }

    /// Whoever asks a machine while it computes for long is told so.
    fn asks_to_wait(&mut self, i: usize, event: &Event) {
        let Event::Frame {
            from,
            frame: Frame { session, body: Some(Body::Open(_) | Body::Where(_) | Body::End(_)) },
            ..
        } = event
        else {
            return;
        };
        let machine = &self.machines[i];
        let (left, session) = (machine.until.saturating_sub(self.now), SessionId::try_from(&**session).unwrap());
        if machine.work.is_some() && !machine.hangs && left > 100 {
            self.send(node(i), *from, Frame::of(session, ailo_proto::Wait { ms: left as u32 }));
        }
    }

    /// Lets a machine read its frames, and begin what is due.
    fn poke(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if !machine.alive || machine.hangs || machine.work.is_some() {
            return;
        }
        while let Some(event) = self.machines[i].inbox.pop_front() {
            let stage = &mut self.machines[i].stage;
            let effects = match event {
                Event::Frame { from, frame, .. } => stage.handle(from, frame),
                Event::Gone { who, .. } => stage.gone(who),
                Event::Broken { who, .. } => stage.broken(who),
                _ => Vec::new(),
            };
            self.act(i, effects);
        }
        while self.machines[i].stage.is_behind() {
            let effects = self.machines[i].stage.hand_on(|_| true);
            self.act(i, effects);
        }
        let piece = 1 + self.draws.below(40) as usize;
        let jobs = self.machines[i].stage.batch(64, piece);
        if !jobs.is_empty() {
            let positions: usize = jobs.iter().map(|job| job.input.positions(WIDTH)).sum();
            self.machines[i].work = Some(jobs);
            let time = self.now + 1 + self.draws.below(4) + self.position * positions as u64;
            self.machines[i].until = time;
            self.at(time, Event::Computed { node: i });
        }
    }

    fn compute(&mut self, i: usize) {
        let Some(jobs) = self.machines[i].work.take() else { return };
        for job in jobs {
            let machine = &mut self.machines[i];
            let Some(cache) = machine.caches.get_mut(&job.session) else { panic!("a job without a cache") };
            let rows: Vec<f32> = match &job.input {
                Input::Tokens(tokens) => tokens.iter().flat_map(|token| embed(*token)).collect(),
                Input::Rows(rows) => rows.clone(),
            };
            let mut out = forward(cache, job.at, &rows);
            if machine.lies {
                out.iter_mut().for_each(|x| *x += 1.0);
            }
            let mut done = Done { rows: out.clone(), sampled: Vec::new() };
            if job.sample > 0 {
                let (sampling, text, drafts) = machine.stage.sampling(&job).unwrap();
                assert_eq!(drafts.len() + 1, job.sample);
                let (limit, seed, mut position) = (sampling.limit as usize, sampling.seed, text.len());
                for (row, draft) in
                    out[out.len() - job.sample * WIDTH..].chunks(WIDTH).zip(drafts.iter().map(Some).chain([None]))
                {
                    let token = sample(row, seed, position);
                    done.sampled.push((token, None));
                    position += 1;
                    if position >= limit || draft != Some(&token) {
                        break;
                    }
                }
            }
            let effects = machine.stage.computed(&job, Ok(done));
            self.act(i, effects);
        }
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((time, id))) = self.events.pop() else { return false };
        self.now = time;
        let event = self.bodies.remove(&id).unwrap();
        match event {
            Event::Frame { to, .. } | Event::Gone { to, .. } | Event::Broken { to, .. } => {
                if let Some(i) = (0..self.machines.len()).find(|i| node(*i) == to) {
                    if self.machines[i].alive {
                        self.asks_to_wait(i, &event);
                        self.machines[i].inbox.push_back(event);
                        self.poke(i);
                    }
                } else if let Some(i) = self.askers.iter().position(|asker| asker.node == to) {
                    match event {
                        Event::Frame { from, frame, .. } => {
                            self.ask(i, |c, now, routes| c.handle(now, from, frame, routes))
                        }
                        Event::Gone { who, .. } => self.ask(i, |c, now, routes| c.gone(now, who, routes)),
                        Event::Broken { who, .. } => self.ask(i, |c, now, routes| c.broken(now, who, routes)),
                        _ => {}
                    }
                }
            }
            Event::Computed { node } => {
                if self.machines[node].alive {
                    if self.machines[node].hangs {
                        // It will go on where it was.
                        self.at(time + 50, Event::Computed { node });
                    } else {
                        self.compute(node);
                        self.poke(node);
                    }
                }
            }
            Event::Tick => {
                for i in 0..self.askers.len() {
                    self.ask(i, |c, now, routes| c.tick(now, routes));
                }
                self.at(time + 50, Event::Tick);
            }
            Event::Nothing => {}
            Event::Fault(Fault::Kill(i)) => {
                let machine = &mut self.machines[i];
                machine.alive = false;
                machine.inbox.clear();
                let others = (0..self.machines.len()).map(node).chain(self.askers.iter().map(|asker| asker.node));
                for to in others.collect::<Vec<_>>() {
                    let delay = self.draws.below(10);
                    self.at(time + delay, Event::Gone { who: node(i), to });
                }
            }
            Event::Fault(Fault::Hang(i)) => {
                self.machines[i].hangs = true;
                // Pings notice it.
                for to in self.askers.iter().map(|asker| asker.node).collect::<Vec<_>>() {
                    self.at(time + 700, Event::Gone { who: node(i), to });
                }
            }
            Event::Fault(Fault::Wake(i)) => {
                self.machines[i].hangs = false;
                self.poke(i);
            }
            Event::Fault(Fault::Cut(a, b)) => {
                let lost = |event: &Event| match event {
                    Event::Frame { from, to, .. } => {
                        (*from, *to) == (node(a), node(b)) || (*from, *to) == (node(b), node(a))
                    }
                    _ => false,
                };
                self.bodies.values_mut().filter(|event| lost(event)).for_each(|event| *event = Event::Nothing);
                for (who, to) in [(a, b), (b, a)] {
                    let delay = self.draws.below(10);
                    self.at(time + delay, Event::Broken { who: node(who), to: node(to) });
                }
            }
            Event::Fault(Fault::Leave(i)) => {
                let effects = self.machines[i].stage.drain();
                self.act(i, effects);
            }
            Event::Fault(Fault::Nan(i)) => self.machines[i].spoils = true,
            Event::Fault(Fault::Lie(i)) => self.machines[i].lies = true,
            Event::Fault(Fault::Swap(i)) => self.machines[i].swaps = true,
            Event::Fault(Fault::Mute(i)) => self.machines[i].mute = true,
        }
        true
    }

    /// Until all texts have ended.
    fn run(&mut self) {
        while self.askers.iter().any(|asker| asker.outcome.is_none()) {
            assert!(self.step() && self.now < 200_000, "the text hangs at {} ms", self.now);
        }
        // What is under way arrives.
        let end = self.now + 2000;
        while self.now < end && self.step() {}
    }

    /// All that was computed is signed, to the end.
    fn is_signed(&self, layers: Range<u32>) {
        for asker in &self.askers {
            let all = asker.signed.iter().map(|signed| &signed.statement);
            for chunk in 0..(asker.client.tokens().len() - 1).div_ceil(CHUNK) as u32 {
                let said: Vec<_> = all.clone().filter(|said| said.chunk == chunk).collect();
                let covered = |layer: u32| said.iter().any(|said| (said.first..said.end).contains(&layer));
                assert!(layers.clone().all(covered), "chunk {chunk} is signed by {said:?}");
            }
        }
    }

    fn check(&self, what: &str) {
        for (i, asker) in self.askers.iter().enumerate() {
            let prompt = asker.expected.len() - asker.got.len().min(asker.expected.len());
            assert_eq!(asker.outcome, Some(Ok(Finish::Length)), "{what}, client {i}");
            assert_eq!(asker.got, asker.expected[prompt..], "{what}, client {i}");
            assert_eq!(asker.client.tokens(), asker.expected, "{what}, client {i}");
            let liar = asker.liar();
            assert!(liar.is_none(), "{what}, client {i}: {liar:?} did not lie");
            // All stages have signed all chunks, but what came together with the end.
            for chunk in 0..(asker.expected.len() as u32 / CHUNK as u32).saturating_sub(2) {
                let of: Vec<_> =
                    asker.signed.iter().map(|signed| &signed.statement).filter(|said| said.chunk == chunk).collect();
                let covered = |layer: u32| of.iter().any(|said| (said.first..said.end).contains(&layer));
                assert!((0..LAYERS).all(covered), "{what}, client {i}: chunk {chunk} is signed by {of:?}");
            }
        }
        for machine in self.machines.iter().filter(|machine| machine.alive && !machine.hangs) {
            assert_eq!(machine.stage.sessions(), 0, "{what}: a session was left");
        }
    }
}

/// Guesses that are right four times of five, for texts that are known.
struct Drafter {
    texts: Vec<Vec<u32>>,
    draws: Stream,
}

impl Drafter {
    fn new(texts: Vec<Vec<u32>>, seed: u8) -> Drafter {
        Drafter { texts, draws: Hash([seed ^ 0x55; 32]).stream() }
    }
}

impl Draft for Drafter {
    fn draft(&mut self, _: &SessionId, text: &[u32], most: usize) -> Vec<u32> {
        let known = self.texts.iter().find(|known| known.starts_with(text));
        let next = known.map_or(&[][..], |known| &known[text.len()..]).iter().take(most.min(8));
        next.map(|token| if self.draws.below(5) > 0 { *token } else { (token + 1) % VOCABULARY }).collect()
    }

    fn end(&mut self, _: &SessionId) {}
}

impl Asker {
    /// Who signed something else than the model gives for the text that came, as somebody finds who reads it again.
    fn liar(&self) -> Option<NodeId> {
        let tokens = self.client.tokens();
        let mut rows: Vec<f32> = tokens[..tokens.len() - 1].iter().flat_map(|token| embed(*token)).collect();
        let mut boundaries = Vec::new();
        for layer in 0..LAYERS {
            rows = forward(&mut ToyCache::new(layer..layer + 1), 0, &rows);
            boundaries.push((layer + 1, proof::hashes(&rows, WIDTH)));
        }
        let prompt = tokens.len() - self.got.len();
        let seed = self.sampling.seed;
        let write = |at: usize| sample(&rows[(at - 1) * WIDTH..at * WIDTH], seed, at);
        let written: Vec<u32> = (0..tokens.len()).map(|at| if at < prompt { tokens[at] } else { write(at) }).collect();
        let truth =
            proof::Truth { tokens, sampling: &self.sampling, written: &written, rows: &boundaries, layers: LAYERS };
        truth.liar(&self.signed).map(|signed| signed.node)
    }
}

fn seeds() -> impl Iterator<Item = u8> {
    // A fixed set, and a few fresh ones, which are printed.
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let fresh = [fresh as u8, (fresh >> 8) as u8, (fresh >> 16) as u8];
    println!("fresh seeds {fresh:?}");
    (0..40).chain(fresh)
}

const PAIRS: [Range<u32>; 8] = [0..2, 2..4, 4..6, 0..3, 3..6, 0..6, 0..4, 2..6];

#[test]
fn who_computes_something_else_is_convicted_by_its_own_signature_and_nobody_else() {
    for seed in seeds() {
        for liar in 0..3 {
            let mut world = World::new(seed, &[0..2, 2..4, 4..6], &[1, 40], 200, seed % 2 == 0);
            let from = world.draws.below(100);
            world.at(from, Event::Fault(Fault::Lie(liar)));
            world.run();
            for asker in &world.askers {
                assert_eq!(asker.outcome, Some(Ok(Finish::Length)), "seed {seed}, liar {liar}");
                assert_eq!(asker.liar(), Some(node(liar)), "seed {seed}");
            }
        }
    }
}

#[test]
fn who_lies_about_a_text_of_less_than_a_chunk_is_convicted_like_others() {
    for seed in seeds() {
        for (liar, limit) in (0..3).zip([3, 20, 33]).chain((0..3).zip([34, 64, 65])) {
            let mut world = World::new(seed, &[0..2, 2..4, 4..6], &[1], limit, seed % 2 == 0);
            world.at(0, Event::Fault(Fault::Lie(liar)));
            world.run();
            let asker = &world.askers[0];
            assert_eq!(asker.outcome, Some(Ok(Finish::Length)), "seed {seed}, liar {liar}");
            assert_eq!(asker.liar(), Some(node(liar)), "seed {seed}, {limit} positions");
            world.is_signed(0..LAYERS);
        }
    }
}

#[test]
fn a_text_waits_for_its_last_signatures_a_little_and_who_does_not_give_them_is_known() {
    // Nobody knows whether the one before it has told it what it is to sign.
    for (mute, known) in [(None, vec![]), (Some(0), vec![0]), (Some(1), vec![1, 0]), (Some(2), vec![2, 1])] {
        let mut world = World::new(1, &[0..2, 2..4, 4..6], &[1], 20, false);
        if let Some(mute) = mute {
            world.at(0, Event::Fault(Fault::Mute(mute)));
        }
        while world.askers[0].outcome.is_none() {
            world.step();
        }
        // Whoever reads it has all of it, and nothing more is computed.
        let (ended, frames) = (world.now, world.askers[0].got.len());
        assert_eq!(frames, 19);
        while world.machines.iter().any(|machine| machine.stage.sessions() > 0) {
            world.step();
        }
        let took = world.now - ended;
        assert!(if mute.is_some() { (500..600).contains(&took) } else { took < 100 }, "{took} ms, mute: {mute:?}");
        assert_eq!(world.askers[0].left_out, []);
        assert_eq!(world.askers[0].unsigned, known.into_iter().map(node).collect::<Vec<_>>());
    }
}

#[test]
fn who_takes_its_time_over_a_long_prompt_is_not_left_out() {
    for seed in seeds() {
        let mut world = World::new(seed, &[0..2, 2..4, 4..6, 0..2, 2..4, 4..6], &[300], 360, seed % 2 == 0);
        world.position = 15;
        if seed % 3 == 0 {
            world.at(6000, Event::Fault(Fault::Kill(usize::from(seed % 6))));
        }
        world.run();
        world.check(&format!("seed {seed}"));
        assert!(
            world.askers[0].left_out.len() <= usize::from(seed % 3 == 0),
            "seed {seed}: {:?}",
            world.askers[0].left_out
        );
    }
}

#[test]
fn who_computes_for_seconds_for_others_is_waited_for_and_who_hangs_meanwhile_is_not() {
    for seed in seeds() {
        let mut world = World::new(seed, &[0..2, 2..4, 4..6, 2..4], &[40, 30, 20], 90, false);
        world.position = 50;
        let hangs = seed % 2 == 0;
        if hangs {
            world.at(5000, Event::Fault(Fault::Hang(1)));
        }
        world.run();
        world.check(&format!("seed {seed}"));
        let left_out: HashSet<NodeId> = world.askers.iter().flat_map(|asker| asker.left_out.clone()).collect();
        assert!(left_out.iter().all(|left| hangs && *left == node(1)), "seed {seed}: {left_out:?}");
        let unsigned: Vec<&NodeId> = world.askers.iter().flat_map(|asker| &asker.unsigned).collect();
        assert!(hangs || unsigned.is_empty(), "seed {seed}: {unsigned:?}");
    }
}

#[test]
fn who_sends_other_rows_than_it_signs_or_signs_nothing_is_left_out_and_the_text_goes_on() {
    for seed in seeds() {
        for (fault, bad) in
            [(Fault::Swap(0), 0), (Fault::Swap(1), 1), (Fault::Mute(0), 0), (Fault::Mute(1), 1), (Fault::Mute(2), 2)]
        {
            let spans = [0..2, 2..4, 4..6, 0..2, 2..4, 4..6];
            let mut world = World::new(seed, &spans, &[40], 900, seed % 2 == 0);
            let from = world.draws.below(100);
            world.at(from, Event::Fault(fault));
            world.run();
            let asker = &world.askers[0];
            assert_eq!(asker.outcome, Some(Ok(Finish::Length)), "seed {seed}, {fault:?}");
            assert!(asker.liar().is_none_or(|liar| liar == node(bad)), "seed {seed}, {fault:?}: {:?}", asker.liar());
        }
    }
}

#[test]
#[allow(clippy::single_range_in_vec_init)] // One stage has all layers.
fn a_text_through_stages_is_the_text_of_one_machine() {
    for spans in [&[0..6][..], &[0..2, 2..4, 4..6], &[0..1, 1..2, 2..3, 3..4, 4..5, 5..6], &[0..4, 2..6]] {
        for drafts in [false, true] {
            let mut world = World::new(1, spans, &[1, 40, 200], 260, drafts);
            world.run();
            world.check(&format!("{spans:?}, drafts: {drafts}"));
            world.is_signed(0..LAYERS);
            assert!(world.askers.iter().all(|asker| asker.unsigned.is_empty()));
        }
    }
}

#[test]
fn drafts_that_are_met_save_ways_around_the_ring() {
    let time = |drafts| {
        let mut world = World::new(3, &[0..2, 2..4, 4..6], &[20], 220, drafts);
        world.run();
        world.check("drafts");
        world.askers[0].last
    };
    let (without, with) = (time(false), time(true));
    assert!(with * 2 < without, "{with} ms with drafts, {without} without");
}

#[test]
fn texts_survive_the_deaths_of_stages() {
    for seed in seeds() {
        for drafts in [false, true] {
            let mut world = World::new(seed, &PAIRS, &[3, 90], 300, drafts);
            // Two of eight, such that all layers are served by somebody.
            let victims = [[0, 4], [3, 2], [6, 4], [1, 0], [7, 3], [5, 1]][world.draws.below(6) as usize];
            for victim in victims {
                let time = world.draws.below(2000);
                world.at(time, Event::Fault(Fault::Kill(victim)));
            }
            world.run();
            world.check(&format!("seed {seed}, drafts {drafts}, killed {victims:?}"));
        }
    }
}

#[test]
fn texts_survive_streams_that_end_though_nobody_else_could_take_over() {
    for seed in seeds() {
        let mut world = World::new(seed, &[0..2, 2..4, 4..6], &[3, 90], 300, seed % 2 == 0);
        // Once all are open; while they read the prompts, or later.
        while world.askers.iter().any(|asker| asker.client.open_stages().len() < 3) {
            world.step();
        }
        let mut when = world.now + 20;
        for _ in 0..2 {
            when += world.draws.below(500);
            let (a, b) = [(0, 1), (1, 2), (0, 2), (0, 100), (1, 100), (2, 100)][world.draws.below(6) as usize];
            world.at(when, Event::Fault(Fault::Cut(a, b)));
        }
        world.run();
        world.check(&format!("seed {seed}"));
        for asker in &world.askers {
            assert!(asker.left_out.is_empty(), "seed {seed}: {:?} was left out", asker.left_out);
            assert!(asker.slowest < 1000, "seed {seed}: a token took {} ms", asker.slowest);
        }
    }
}

#[test]
fn whose_streams_end_again_and_again_is_left_out() {
    for seed in 0..20 {
        let mut world = World::new(seed, &[0..2, 0..2, 2..4, 2..4, 4..6, 4..6], &[3, 90], 300, seed % 2 == 0);
        while world.askers.iter().any(|asker| asker.client.open_stages().len() < 3) {
            world.step();
        }
        let broken = world.askers[0].client.open_stages()[seed as usize % 3].0;
        let i = (0..6).find(|i| node(*i) == broken).unwrap();
        for times in 1..20 {
            let when = world.now + 30 * times;
            world.at(when, Event::Fault(Fault::Cut(i, 100)));
        }
        world.run();
        world.check(&format!("seed {seed}"));
        assert_eq!(world.askers[0].left_out, [broken], "seed {seed}");
    }
}

#[test]
fn who_leaves_is_left_at_once_where_others_have_its_layers_and_serves_to_the_end_where_not() {
    for seed in seeds() {
        for (spans, alone) in [(&[0..2, 0..2, 2..4, 2..4, 4..6, 4..6][..], false), (&[0..2, 2..4, 4..6], true)] {
            let mut world = World::new(seed, spans, &[3, 90], 300, seed % 2 == 0);
            while world.askers.iter().any(|asker| asker.got.is_empty()) {
                world.step();
            }
            let from = world.askers[0].client.open_stages()[seed as usize % 3].0;
            let leaves = (0..spans.len()).find(|i| node(*i) == from).unwrap();
            let when = world.now + world.draws.below(300);
            world.at(when, Event::Fault(Fault::Leave(leaves)));
            while world.now < when + 200 {
                world.step();
            }
            assert_eq!(world.machines[leaves].stage.sessions() > 0, alone, "seed {seed}: sessions after 200 ms");
            world.run();
            world.check(&format!("seed {seed}, alone {alone}"));
            let left: HashSet<&NodeId> = world.askers.iter().flat_map(|asker| &asker.left_out).collect();
            assert_eq!(left.contains(&from), !alone, "seed {seed}: {left:?}");
            assert!(world.askers.iter().all(|asker| asker.slowest < 500), "seed {seed}");
        }
    }
}

#[test]
fn texts_survive_stages_that_hang_and_come_back() {
    for seed in seeds() {
        let mut world = World::new(seed, &PAIRS, &[3, 90], 300, seed % 2 == 0);
        let mut when = 0;
        for victim in [seed as usize % 8, (seed as usize / 8 + 3) % 8] {
            when += world.draws.below(1500);
            world.at(when, Event::Fault(Fault::Hang(victim)));
            let back = when + world.draws.below(3000);
            world.at(back, Event::Fault(Fault::Wake(victim)));
        }
        world.run();
        world.check(&format!("seed {seed}"));
        assert!(world.askers.iter().all(|asker| asker.slowest < 3000), "seed {seed}");
    }
}

#[test]
fn a_stage_that_gives_out_what_is_no_number_is_left_out() {
    for seed in 0..20 {
        let mut world = World::new(seed, &[0..2, 0..2, 2..4, 2..4, 4..6, 4..6], &[30], 200, false);
        while world.askers[0].client.open_stages().len() < 3 {
            world.step();
        }
        let first = world.askers[0].client.open_stages()[0].0;
        let culprit = (0..2).find(|i| node(*i) == first).unwrap();
        world.at(300, Event::Fault(Fault::Nan(culprit)));
        world.run();
        world.check(&format!("seed {seed}"));
        assert_eq!(world.askers[0].left_out, [node(culprit)]);
    }
}

#[test]
fn without_a_replica_the_error_comes_within_two_seconds_and_names_the_layers() {
    let mut world = World::new(7, &[0..2, 2..4, 4..6], &[10], 4000, false);
    world.at(500, Event::Fault(Fault::Kill(1)));
    world.run();
    let Some(Err(why)) = &world.askers[0].outcome else { panic!("{:?}", world.askers[0].outcome) };
    assert!(matches!(why, Failure::Unserved { layers, .. } if *layers == (2..4)), "{why}");
    assert!(why.to_string().contains("layers 2 to 3"), "{why}");
    let asker = &world.askers[0];
    assert_eq!(asker.client.tokens(), &asker.expected[..asker.client.tokens().len()]);
    assert!(world.machines.iter().filter(|machine| machine.alive).all(|machine| machine.stage.sessions() == 0));

    // The same where they were missing from the beginning.
    let mut world = World::new(7, &[0..2, 4..6], &[10], 4000, false);
    world.run();
    let why = world.askers[0].outcome.clone();
    assert_eq!(why, Some(Err(Failure::Unserved { layers: 2..4, last: String::new() })));
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let mut world = World::new(8, &[0..3, 3..6], &[10], 4000, false);
    while world.now < 300 {
        world.step();
    }
    assert!(world.machines.iter().all(|machine| machine.stage.sessions() == 1));
    let asker = world.askers[0].node;
    for i in 0..2 {
        world.at(301, Event::Gone { who: asker, to: node(i) });
    }
    while world.now < 400 {
        world.step();
    }
    assert!(world.machines.iter().all(|machine| machine.stage.sessions() == 0 && machine.caches.is_empty()));
}

#[test]
fn the_next_text_of_a_client_begins_where_the_last_one_ended() {
    let mut world = World::new(9, &[0..3, 3..6], &[100], 300, false);
    world.run();
    world.check("first");
    let asker = &mut world.askers[0];
    let tokens = [asker.expected.clone(), vec![1, 2, 3]].concat();
    let sampling = Sampling { limit: 400, seed: 77, prompt: 303, ..Sampling::default() };
    asker.sampling = sampling.clone();
    asker.expected = reference(&tokens, 77, 400);
    asker.client = Client::new(&asker.node, 6, Request { sampling, ..request(tokens) });
    (asker.outcome, asker.last, asker.slowest) = (None, world.now, 0);
    asker.got.clear();
    let mut read = 0;
    world.ask(0, |client, now, routes| client.start(now, routes));
    while world.askers[0].got.is_empty() {
        for (_, event) in world.bodies.iter().filter(|(_, event)| matches!(event, Event::Frame { .. })) {
            if let Event::Frame { frame: Frame { body: Some(Body::Input(input)), .. }, .. } = event {
                read = input.tokens.len();
            }
        }
        world.step();
    }
    world.run();
    world.check("second");
    assert_eq!(read, 303 - 299 / CHUNK * CHUNK, "tokens that were read again");
}

/// A stage of the whole model that `owner` runs.
fn served(memory: u64, owner: NodeId, paid: bool) -> Served {
    Served {
        model: MODEL,
        layers: 0..LAYERS,
        total: LAYERS,
        width: WIDTH,
        cache_bytes: 8,
        vocabulary: VOCABULARY,
        context: 4096,
        memory,
        owner,
        paid,
    }
}

/// What a stage of the whole model says to a text's `Open`: the position that it goes on from, or why it does not.
fn opens_at(stage: &mut Stage, client: &NodeId, nonce: u64, owner: Hash, tokens: &[u32]) -> Result<u32, String> {
    let sampling = Sampling { limit: 512, seed: 1, prompt: tokens.len() as u32, ..Sampling::default() };
    let mut asker = Client::new(client, nonce, Request { sampling, owner, ..request(tokens.to_vec()) });
    let effects = asker.start(0, &mut Whole(vec![node(0)]));
    let opened = effects.into_iter().find_map(|effect| match effect {
        client::Effect::Send(_, frame) => Some(stage.handle(*client, frame)),
        _ => None,
    });
    let answer = opened.unwrap().into_iter().find_map(|effect| match effect {
        stage::Effect::Send(_, Frame { body: Some(Body::Opened(opened)), .. }) => Some(Ok(opened.have)),
        stage::Effect::Send(_, Frame { body: Some(Body::Failed(failed)), .. }) => Some(Err(failed.reason)),
        _ => None,
    });
    answer.unwrap()
}

/// Writes nothing but has the stage read a text, and closes it.
fn reads(stage: &mut Stage, client: &NodeId, nonce: u64, owner: Hash, tokens: &[u32]) {
    let chunks = reads_on(stage, client, nonce, owner, tokens);
    stage.handle(*client, Frame::of(session_id(client, nonce), ailo_proto::Close { chunks }));
}

/// The same without the end; gives what the text is found by.
fn reads_on(stage: &mut Stage, client: &NodeId, nonce: u64, owner: Hash, tokens: &[u32]) -> Vec<Bytes> {
    opens_at(stage, client, nonce, owner, tokens).unwrap();
    let id = session_id(client, nonce);
    let me: Bytes = node(0).0.to_vec().into();
    let (first, last) = (Clone::clone(&me), me);
    let from = tokens.len() as u32 - 1;
    let route = ailo_proto::Route { epoch: 1, first, last, from, tokens: tokens.to_vec(), ..Default::default() };
    stage.handle(*client, Frame::of(id, route));
    loop {
        let jobs = stage.batch(512, 512);
        let Some(job) = jobs.first() else { break };
        let done = Done { rows: vec![1.0; job.input.positions(WIDTH) * WIDTH], sampled: vec![(1, None)] };
        stage.computed(job, Ok(done));
        if job.sample > 0 {
            break;
        }
    }
    let owned = |hash: &Hash| Hash::of_parts(Domain::Session, &[b"owned", &owner.0, &hash.0]).0.to_vec().into();
    chunks(tokens).iter().map(owned).collect()
}

#[test]
fn who_goes_on_with_a_text_that_has_ended_need_not_wait_until_it_is_closed() {
    let mut stage = Stage::new(served(1 << 20, node(0), false), Box::new(Drafter::new(Vec::new(), 1)));
    let (client, a) = (node(7), Hash([1; 32]));
    let text: Vec<u32> = (0..100).map(|i| i % VOCABULARY).collect();
    let chunks = reads_on(&mut stage, &client, 1, a, &text);
    let longer = [&text[..], &[2; 40]].concat();
    assert_eq!(opens_at(&mut stage, &client, 2, a, &longer), Ok(0), "it is being written");
    let id = session_id(&client, 1);
    stage.handle(client, Frame::of(id, ailo_proto::End { epoch: 1, positions: 100, chunks: chunks.clone() }));
    let other = [&text[..70], &[3; 60]].concat();
    assert_eq!(opens_at(&mut stage, &client, 3, a, &other), Ok(0), "what shares its beginning alone leaves it open");
    assert_eq!(opens_at(&mut stage, &client, 4, a, &longer), Ok(96));
    let sessions = stage.sessions();
    stage.handle(client, Frame::of(id, ailo_proto::Close { chunks }));
    assert_eq!(stage.sessions(), sessions, "its end comes late and is nothing");
}

#[test]
fn a_text_that_shares_only_its_beginning_with_another_leaves_the_other_as_it_is() {
    let mut stage = Stage::new(served(1 << 20, node(0), false), Box::new(Drafter::new(Vec::new(), 1)));
    let (client, a) = (node(7), Hash([1; 32]));
    let text: Vec<u32> = (0..200).collect::<Vec<u32>>().iter().map(|i| i % VOCABULARY).collect();
    let other: Vec<u32> = text[..70].iter().copied().chain(std::iter::repeat_n(3, 60)).collect();
    reads(&mut stage, &client, 1, a, &text);
    assert_eq!(opens_at(&mut stage, &client, 2, a, &other), Ok(64), "two chunks are shared");
    assert_eq!(opens_at(&mut stage, &client, 4, a, &text[..64]), Ok(32), "the last position is computed again");
    assert_eq!(opens_at(&mut stage, &client, 3, a, &text), Ok(192), "and the first text is there as a whole");
    // Without memory for both, the last one goes on with what there is.
    let mut small = Stage::new(served(512 * 80, node(0), false), Box::new(Drafter::new(Vec::new(), 1)));
    reads(&mut small, &client, 1, a, &text);
    assert_eq!(opens_at(&mut small, &client, 2, a, &other), Ok(64));
    assert!(opens_at(&mut small, &client, 3, a, &text).is_err_and(|why| why.contains("memory")));
}

#[test]
fn texts_of_different_owners_share_nothing() {
    let mut stage = Stage::new(served(1 << 20, node(0), false), Box::new(Drafter::new(Vec::new(), 1)));
    let (client, text) = (node(7), vec![5; 100]);
    reads(&mut stage, &client, 1, Hash([1; 32]), &text);
    assert_eq!(opens_at(&mut stage, &client, 2, Hash([2; 32]), &text), Ok(0));
    assert_eq!(opens_at(&mut stage, &client, 3, Hash([1; 32]), &text), Ok(96));
}

#[test]
fn one_client_takes_half_of_a_stage_at_most_but_who_runs_it_all_and_who_does_not_pay_nothing_for_long() {
    let (owner, greedy, other) = (node(0), node(7), node(8));
    // A text of 512 positions takes 512 x (6 x 8 + 16) bytes.
    let mut stage = Stage::new(served(8 * 512 * 64, owner, true), Box::new(Drafter::new(Vec::new(), 1)));
    let open = |stage: &mut Stage, client, nonce| opens_at(stage, client, nonce, Hash::ZERO, &[1; 10]);
    let took = (0..10).filter(|nonce| open(&mut stage, &greedy, *nonce).is_ok()).count();
    assert_eq!(took, 4);
    assert_eq!(open(&mut stage, &other, 1), Ok(0));
    let all = (0..10).filter(|nonce| open(&mut stage, &owner, *nonce).is_ok()).count();
    assert_eq!(all, 3, "what is left");
    // The second client pays.
    (0..10).for_each(|nonce| stage.pay(&session_id(&owner, nonce), usize::MAX));
    stage.pay(&session_id(&other, 1), 10);
    assert_eq!((stage.sweep().len(), stage.sessions()), (0, 8));
    stage.sweep();
    assert_eq!(stage.sessions(), 4, "those that nobody paid for are over");
}

#[test]
fn a_session_that_its_client_has_forgotten_ends_after_two_minutes() {
    let mut world = World::new(11, &[0..3, 3..6], &[50], 200, false);
    while world.machines[0].stage.sessions() == 0 {
        world.step();
    }
    let stage = &mut world.machines[0].stage;
    // Strangers' frames are nothing to it.
    let id = world.askers[0].client.id();
    for _ in 0..11 {
        assert_eq!((stage.sweep(), stage.sessions()), (Vec::new(), 1));
        stage.handle(node(200), Frame::of(id, ailo_proto::Where {}));
    }
    let ended = stage.sweep();
    let failed =
        |effect: &stage::Effect| matches!(effect, stage::Effect::Send(_, Frame { body: Some(Body::Failed(_)), .. }));
    assert!(ended.iter().any(failed) && stage.sessions() == 0, "{ended:?}");
}

#[test]
fn a_stage_that_must_end_tells_its_clients_and_holds_nothing_any_more() {
    let mut world = World::new(10, &[0..3, 3..6], &[50, 20], 200, false);
    while world.now < 200 {
        world.step();
    }
    let clients: HashSet<NodeId> = world.askers.iter().map(|asker| asker.node).collect();
    let stage = &mut world.machines[0].stage;
    let free = stage.room();
    let told = |effect: &stage::Effect| match effect {
        stage::Effect::Send(to, Frame { body: Some(Body::Failed(failed)), .. }) => {
            (failed.why() == ailo_proto::FailedWhy::Full).then_some(*to)
        }
        _ => None,
    };
    let effects = stage.end_all("it must");
    assert_eq!(effects.iter().filter_map(told).collect::<HashSet<_>>(), clients);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, stage::Effect::Free(_))).count(), 2);
    assert!(stage.sessions() == 0 && stage.room() > free);
}

#[test]
fn strangers_change_nothing_and_floods_are_refused() {
    let mut world = World::new(10, &[0..3, 3..6], &[50], 200, false);
    while world.now < 200 {
        world.step();
    }
    let (victim, id) = (world.askers[0].node, world.askers[0].client.id());
    let stranger = node(200);
    let bodies: Vec<Body> = vec![
        ailo_proto::Close::default().into(),
        ailo_proto::Route { epoch: 99, from: 1, ..Default::default() }.into(),
        ailo_proto::Have { epoch: 1, have: 0 }.into(),
        ailo_proto::Input { epoch: 1, at: 0, tokens: vec![1] }.into(),
        ailo_proto::Tokens { epoch: 1, at: 5, tokens: vec![1], ..Default::default() }.into(),
        ailo_proto::Rows { epoch: 1, at: 0, rows: vec![0; 8].into(), drafts: vec![] }.into(),
        ailo_proto::Open { nonce: 5, model: MODEL.0.to_vec().into(), first: 0, end: 3, room: 10, ..Default::default() }
            .into(),
        ailo_proto::Where {}.into(),
    ];
    for body in bodies {
        for i in 0..2 {
            world.send(stranger, node(i), Frame::of(id, body.clone()));
        }
    }
    world.run();
    world.check(&format!("{victim:?}"));
    // Memory is for so many sessions, and then no more.
    let stage = &mut world.machines[0].stage;
    let mut refused = 0;
    for nonce in 0..200 {
        let open = ailo_proto::Open {
            nonce,
            model: MODEL.0.to_vec().into(),
            first: 0,
            end: 3,
            room: 4096,
            ..Default::default()
        };
        let effects = stage.handle(stranger, Frame::of(session_id(&stranger, nonce), open));
        refused += usize::from(effects.iter().any(|effect| {
            matches!(effect, stage::Effect::Send(_, Frame { body: Some(Body::Failed(failed)), .. }) if failed.reason.contains("memory"))
        }));
    }
    assert!(refused > 150 && stage.sessions() > 2, "{refused} of 200 refused, {} open", stage.sessions());
    stage.gone(stranger);
    assert_eq!(stage.sessions(), 0);
}

/// Whole models, the first of them first.
struct Whole(Vec<NodeId>);

impl Routes for Whole {
    fn route(
        &mut self,
        layers: Range<u32>,
        _: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<client::Stages> {
        let node = self.0.iter().find(|node| !without.contains(node))?;
        Some(vec![(*node, layers)])
    }

    fn gap(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Range<u32>> {
        self.0.iter().all(|node| without.contains(node)).then_some(layers)
    }
}

/// Nodes that a client opens a session at.
fn opens(effects: &[client::Effect]) -> Vec<NodeId> {
    let open = |effect: &client::Effect| match effect {
        client::Effect::Send(to, Frame { body: Some(Body::Open(_)), .. }) => Some(*to),
        _ => None,
    };
    effects.iter().filter_map(open).collect()
}

fn asker() -> Client {
    let sampling = Sampling { limit: 100, prompt: 1, ..Sampling::default() };
    Client::new(&node(100), 7, Request { sampling, ..request(vec![1]) })
}

#[test]
fn of_two_that_seem_gone_who_was_lost_first_is_asked_again_first() {
    let mut client = asker();
    let (first, second) = (node(1), node(2));
    assert_eq!(opens(&client.start(0, &mut Whole(vec![first]))), [first]);
    // Another one is nearer, and has come meanwhile; then it hangs.
    let mut both = Whole(vec![second, first]);
    assert_eq!(opens(&client.gone(10, first, &mut both)), [second]);
    assert_eq!(opens(&client.gone(20, second, &mut both)), []);
    assert_eq!(opens(&client.tick(120, &mut both)), [first]);
}

fn failed(client: &Client, why: ailo_proto::FailedWhy, reason: &str) -> Frame {
    Frame::of(client.id(), ailo_proto::Failed { why: why.into(), reason: reason.into(), ..Default::default() })
}

/// Why a text fails whose stages all say the same of it.
fn fails(why: ailo_proto::FailedWhy) -> Failure {
    fails_through(&mut Whole((1..5).map(node).collect()), |_| Some(why))
}

/// Why a text fails whose stages say this of it when they are opened, and "so it is"; nothing: it is opened.
fn fails_through(nodes: &mut dyn Routes, says: impl Fn(NodeId) -> Option<ailo_proto::FailedWhy>) -> Failure {
    let mut client = asker();
    let mut effects = client.start(0, nodes);
    for now in (0..).step_by(50) {
        let (asked, mut said) = (opens(&effects), Vec::new());
        for node in asked {
            let opened = || Frame::of(client.id(), ailo_proto::Opened { have: 0 });
            let answer = says(node).map_or_else(opened, |why| failed(&client, why, "so it is"));
            said.extend(client.handle(now, node, answer, nodes));
        }
        said.extend(client.tick(now, nodes));
        effects = said;
        if let Some(why) = failure(&effects) {
            assert!(now <= client::REPAIR_MS + 50 && why.to_string().contains("so it is"), "{why} after {now} ms");
            return why;
        }
    }
    unreachable!("it goes on for ever")
}

fn failure(effects: &[client::Effect]) -> Option<Failure> {
    effects.iter().find_map(|effect| match effect {
        client::Effect::Failed(why) => Some(why.clone()),
        _ => None,
    })
}

#[test]
fn one_stage_that_refuses_a_text_does_not_end_it_and_a_second_one_does() {
    use ailo_proto::FailedWhy::{Client as Refuses, Compute};
    for (first, then) in [(Refuses, Refuses), (Compute, Refuses), (Refuses, Compute)] {
        let (mut client, mut nodes) = (asker(), Whole((1..4).map(node).collect()));
        client.start(0, &mut nodes);
        let frame = failed(&client, first, "it says so");
        let effects = client.handle(1, node(1), frame.clone(), &mut nodes);
        assert_eq!((opens(&effects), failure(&effects)), (vec![node(2)], None));
        assert_eq!(client.handle(2, node(1), frame, &mut nodes), [], "it says so once");
        let frame = failed(&client, then, "so does another");
        let why = failure(&client.handle(3, node(2), frame, &mut nodes)).unwrap();
        assert!(why.to_string().contains("so does another"), "{why}");
        assert_eq!(matches!(why, Failure::Refused(_)), then == Refuses, "{why}");
    }
    // Where a token came between them, they are two matters.
    let (mut client, mut nodes) = (asker(), Whole((1..4).map(node).collect()));
    client.start(0, &mut nodes);
    let frame = failed(&client, Refuses, "it says so");
    client.handle(1, node(1), frame.clone(), &mut nodes);
    client.handle(2, node(2), Frame::of(client.id(), ailo_proto::Opened { have: 0 }), &mut nodes);
    let tokens = ailo_proto::Tokens { epoch: 1, at: 1, tokens: vec![7], ..Default::default() };
    client.handle(3, node(2), Frame::of(client.id(), tokens), &mut nodes);
    assert_eq!(opens(&client.handle(4, node(2), frame.clone(), &mut nodes)), [node(3)]);
    // This node's own stage is believed at once.
    let (mut client, mut own) = (asker(), Whole(vec![node(100), node(1)]));
    client.start(0, &mut own);
    assert!(matches!(failure(&client.handle(1, node(100), frame, &mut own)), Some(Failure::Refused(_))));
}

#[test]
fn a_text_fails_for_what_is_missing_and_then_for_what_is_refused() {
    use ailo_proto::FailedWhy::{Full, Unpaid};
    let mut draws = Hash([3; 32]).stream();
    let mut fails = |spans: &[(usize, Range<u32>)], says: &dyn Fn(NodeId) -> Option<ailo_proto::FailedWhy>| {
        let spans = spans.iter().map(|(i, span)| (node(*i), span.clone())).collect();
        fails_through(&mut Chooser { spans, draws: &mut draws }, says)
    };
    let last = || String::from(" (so it is)");
    let halves = [(1, 0..3), (2, 3..6)];
    let first = |why| move |from| (from == node(1)).then_some(why);
    // What all who have some layers refuse to be paid for is the cause, whatever others say.
    assert_eq!(fails(&halves, &first(Unpaid)), Failure::Unpaid { layers: 0..3, last: last() });
    assert_eq!(fails(&halves, &first(Full)), Failure::Full { layers: 0..3, last: last() });
    let both = |from| Some(if from == node(1) { Full } else { Unpaid });
    assert_eq!(fails(&halves, &both), Failure::Unpaid { layers: 3..6, last: last() });
    // Somebody would take what is paid, once it has room.
    assert_eq!(fails(&[(1, 0..6), (2, 0..6)], &both), Failure::Full { layers: 0..6, last: last() });

    // One refuses the payment, and nobody has the other layers any more: that is not a matter of money.
    let (mut client, mut draws) = (asker(), Hash([4; 32]).stream());
    let spans = vec![(node(1), 0..3), (node(2), 3..6)];
    client.start(0, &mut Chooser { spans, draws: &mut draws });
    let mut left = Chooser { spans: vec![(node(1), 0..3)], draws: &mut draws };
    let unpaid = failed(&client, Unpaid, "no deposit");
    client.gone(1, node(2), &mut left);
    client.handle(2, node(1), unpaid, &mut left);
    let why = (50..).step_by(50).find_map(|now| failure(&client.tick(now, &mut left))).unwrap();
    assert!(matches!(why, Failure::Unserved { ref layers, .. } if *layers == (3..6)), "{why}");

    // Who opens, and takes no payment then, is asked three times; that nobody else is there makes it no matter of replicas.
    let (mut client, mut nodes) = (asker(), Whole(vec![node(1)]));
    let mut effects = client.start(0, &mut nodes);
    let why = (0..).step_by(50).find_map(|now| {
        if !opens(&effects).is_empty() {
            client.handle(now, node(1), Frame::of(client.id(), ailo_proto::Opened { have: 0 }), &mut nodes);
            let frame = failed(&client, Unpaid, "no deposit");
            client.handle(now, node(1), frame, &mut nodes);
        }
        effects = client.tick(now, &mut nodes);
        failure(&effects)
    });
    assert_eq!(why, Some(Failure::Unpaid { layers: 0..LAYERS, last: " (no deposit)".into() }));
}

#[test]
fn a_last_stage_can_t_make_the_first_one_look_as_if_the_client_were_wrong() {
    let mut stage =
        Stage::new(Served { layers: 0..3, ..served(1 << 20, node(0), false) }, Box::new(Drafter::new(vec![], 1)));
    let (client, last) = (node(7), node(2));
    let id = session_id(&client, 1);
    let mut send = |from, body: Body| stage.handle(from, Frame::of(id, body));
    let open =
        ailo_proto::Open { nonce: 1, model: MODEL.0.to_vec().into(), first: 0, end: 3, room: 99, ..Default::default() };
    send(client, open.into());
    let bytes = |node: NodeId| Bytes::from(node.0.to_vec());
    let route = ailo_proto::Route {
        epoch: 1,
        after: bytes(last),
        first: bytes(node(0)),
        last: bytes(last),
        from: 3,
        ..Default::default()
    };
    send(client, route.into());
    let says = |effects: &[stage::Effect]| {
        effects.iter().find_map(|effect| match effect {
            stage::Effect::Send(to, Frame { body: Some(Body::Failed(failed)), .. }) => {
                Some((*to, failed.why(), failed.node.to_vec()))
            }
            _ => None,
        })
    };
    let input = |tokens: &[u32]| ailo_proto::Input { epoch: 1, at: 0, tokens: tokens.to_vec() }.into();
    let tokens = |at, token| ailo_proto::Tokens { epoch: 1, at, tokens: vec![token], ..Default::default() }.into();
    // Before the client's own words have come it says others.
    send(client, input(&[5, 6]));
    let blamed = Some((client, ailo_proto::FailedWhy::Neighbour, last.0.to_vec()));
    assert_eq!(says(&send(last, tokens(2, 9))), blamed);
    // It tells the client one token and the first stage another one: who computes takes the last stage's word.
    assert_eq!(says(&send(client, input(&[5, 6, 7, 8]))), None);
    assert_eq!(says(&send(last, tokens(4, 1))), None);
    assert_eq!(says(&send(client, input(&[5, 6, 7, 8, 2]))), None);
    assert_eq!(says(&send(last, tokens(4, 3))), blamed);
}

#[test]
fn why_a_text_fails_is_what_its_stages_say() {
    use ailo_proto::FailedWhy as Why;
    assert!(matches!(fails(Why::Unknown), Failure::Unserved { .. }));
    assert!(matches!(fails(Why::Full), Failure::Full { .. }));
    assert!(matches!(fails(Why::Unpaid), Failure::Unpaid { .. }));
    assert!(matches!(fails(Why::Client), Failure::Refused(_)));
    assert!(matches!(fails(Why::Compute), Failure::Compute(_)));

    // Nobody is full any more where a token came meanwhile.
    let (mut client, mut nodes) = (asker(), Whole(vec![node(1), node(2)]));
    let frame = |client: &Client, body: Body| Frame::of(client.id(), body);
    client.start(0, &mut nodes);
    let full = ailo_proto::Failed { why: Why::Full.into(), ..Default::default() };
    assert_eq!(opens(&client.handle(1, node(1), frame(&client, full.into()), &mut nodes)), [node(2)]);
    client.handle(2, node(2), frame(&client, ailo_proto::Opened { have: 0 }.into()), &mut nodes);
    let tokens = ailo_proto::Tokens { epoch: 1, at: 1, tokens: vec![7], ..Default::default() };
    client.handle(3, node(2), frame(&client, tokens.into()), &mut nodes);
    assert_eq!(client.tokens(), [1, 7]);
    let mut nobody = Whole(Vec::new());
    client.gone(4, node(2), &mut nobody);
    assert!(matches!(failure(&client.tick(2000, &mut nobody)), Some(Failure::Unserved { .. })));

    // Whoever takes it over is lost, too.
    let (mut client, mut nodes) = (asker(), Whole((1..30).map(node).collect()));
    let mut effects = client.start(0, &mut nodes);
    let hangs = (1..30).find_map(|now| {
        let asked = *opens(&effects).first()?;
        let opened = client.handle(now, asked, frame(&client, ailo_proto::Opened { have: 0 }.into()), &mut nodes);
        effects = client.gone(now, asked, &mut nodes);
        failure(&opened)
    });
    assert!(matches!(hangs, Some(Failure::Hangs(_))), "{hangs:?}");
}

//! A stage: what a node does for the sessions that pass through it. Frames come in, frames go out, and [`Stage::batch`] says what is
//! to be computed next.
//!
//! A session's positions fall into three: `sure` ones, which nothing but a new epoch takes back; drafts, which the next frame may take back;
//! and those that came and are not computed yet. What was given out is kept (`log`), so that whoever comes after this stage can
//! get it again.

use super::{
    CHUNK, MAX_ROOM, SessionId, chunk_after,
    proof::{self, Book, Differs, Statement},
    session_id,
};
use crate::{Hash, NodeId, PublicKey};
use ailo_proto::{
    Bytes, Failed, FailedWhy, Finish, Frame, Have, Logprob, Open, Opened, Place, Route, Rows, Sampling, Tokens,
    frame::Body,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
};

/// Sessions at once, at most.
const MAX_SESSIONS: usize = 1024;
/// Bytes of rows in one frame, at most: a token's frame never waits long behind it.
const ROWS_BYTES: usize = 64 << 10;
/// Positions that new epochs take back in one session, at most.
const MAX_REWINDS: usize = 16 * 2 * CHUNK;
/// Epochs of a session, at most, beside one for each chunk of the text: in each of them all is signed again.
const MAX_ROUTES: usize = 32;
/// Times that all rows of a session are sent again, at most.
const MAX_RESENT: usize = 16;
/// Bytes of rows that are handed on at once: what is left waits until those who read it take more.
const HAND_ON: usize = 1 << 20;
/// Words of stages behind that wait for an epoch, at most, and how far ahead that may be.
const MAX_EARLY: usize = 4;
const EPOCHS_AHEAD: u64 = 16;
/// Of sessions and their memory one client has so large a part at most, once it has a session.
const OF_CLIENT: u64 = 2;
/// Sweeps after which a session ends that nothing was heard of, one that goes on no more, whatever is heard of it, and one that nothing was paid for
/// where that is asked.
const FORGOTTEN: u8 = 12;
const STILL: u8 = 60;
const UNPAID: u8 = 2;
/// Bytes that are copied from one text to another, at most: others wait for it.
const MAX_COPY: usize = 64 << 20;
/// Drafts behind a token, at most.
pub const MAX_DRAFTS: usize = 32;
/// Drafts that are not met, which nobody pays for: so many for each token of an epoch, beside [`MAX_DRAFTS`]. Where one is met with probability p,
/// this leaves 5 / (1 - p) of them to each token, and more would be reached by less than a hundredth of the passes.
const MISSED: usize = 4;

/// What a stage serves.
#[derive(Clone, Debug)]
pub struct Served {
    /// The model.
    pub model: Hash,
    /// Layers that are here.
    pub layers: Range<u32>,
    /// Layers of the whole model.
    pub total: u32,
    /// Numbers in a row.
    pub width: usize,
    /// Bytes that a cache takes for a position and layer.
    pub cache_bytes: usize,
    /// Tokens that there are.
    pub vocabulary: u32,
    /// Longest text.
    pub context: usize,
    /// Bytes that all sessions together may take.
    pub memory: u64,
    /// Who runs the stage: its own sessions may take all of it.
    pub owner: NodeId,
    /// Whether positions are computed only once they are paid for: see [`Stage::pay`].
    pub paid: bool,
}

/// Guesses what follows a text, where the first layer is.
pub trait Draft: Send {
    /// At most `most` tokens that may follow the text of a session.
    fn draft(&mut self, session: &SessionId, text: &[u32], most: usize) -> Vec<u32>;

    /// A session has ended.
    fn end(&mut self, session: &SessionId);
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // Nearly all of them are frames.
pub enum Effect {
    /// Send a frame.
    Send(NodeId, Frame),
    /// Sign what was computed, and send it to these, in this epoch.
    Sign(Vec<NodeId>, u64, Statement),
    /// Make a cache for layers and positions.
    Cache(SessionId, Range<u32>, usize),
    /// The cache of one session is another's from now on, with room for so many positions at least.
    Adopt(SessionId, SessionId, usize),
    /// A session's cache begins as another's does, with so many of its positions and room for so many: what follows `positions` stays the other's.
    Copy {
        /// Whose cache is copied.
        from: SessionId,
        /// Whose cache it becomes.
        to: SessionId,
        /// Positions that both share.
        positions: usize,
        /// Positions that there is to be room for.
        room: usize,
    },
    /// Drop a cache.
    Free(SessionId),
}

/// Positions of one session that are to be computed; its cache is cut to `at` before.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The session.
    pub session: SessionId,
    /// The first position.
    pub at: usize,
    /// What there is of them.
    pub input: Input,
    /// How many of the last positions are to give a token: none, or one and the drafts.
    pub sample: usize,
}

/// What positions are computed from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Tokens, before the first layer.
    Tokens(Vec<u32>),
    /// The residual stream.
    Rows(Vec<f32>),
}

/// What became of a [`Job`].
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The residual stream after the session's layers.
    pub rows: Vec<f32>,
    /// Tokens that were sampled: as long as the drafts were met, and one more.
    pub sampled: Vec<(u32, Option<Logprob>)>,
}

/// Sessions and what they wait for.
pub struct Stage {
    served: Served,
    sessions: HashMap<SessionId, Session>,
    /// Closed sessions, oldest first, for the same client's next text.
    kept: VecDeque<Kept>,
    reserved: u64,
    turn: u64,
    passes: u64,
    leaving: bool,
    /// Other texts go to another model: none goes on with one of these.
    forgets: bool,
    effects: Vec<Effect>,
    /// What may follow a text.
    draft: Box<dyn Draft>,
}

struct Session {
    client: NodeId,
    layers: Range<u32>,
    room: usize,
    bytes: u64,
    sampling: Sampling,
    route: Option<Placed>,
    /// Stages behind that said where they stand in an epoch that has not begun here.
    early: Vec<(NodeId, Have)>,
    /// The text, as far as the first and the last stage know it.
    tokens: Vec<u32>,
    /// Hashes of its chunks, as far as the last stage has signed them in this epoch.
    texts: Vec<Hash>,
    /// Pieces that came and are not computed.
    pieces: VecDeque<Piece>,
    /// The position after the last that came, and after the last of them that is no draft.
    received: usize,
    confirmed: usize,
    /// The position after the last that is computed, and after the last of them that is no draft.
    computed: usize,
    sure: usize,
    /// Tokens of the computed positions that are drafts.
    drafts: Vec<u32>,
    /// Drafts of this epoch that were not met.
    missed: usize,
    /// Rows of the computed positions.
    log: Vec<f32>,
    /// What is signed of them.
    book: Book,
    ended: bool,
    /// Positions of the text, once the client has said that it is written.
    end: Option<usize>,
    /// What it is found by then, until it is closed.
    offered: Vec<Hash>,
    turn: u64,
    /// Positions that are paid for.
    paid: usize,
    /// The first token that was chosen here, of those after which all were.
    wrote: usize,
    /// Positions that new epochs took back, and epochs that there were.
    rewound: usize,
    routes: usize,
    /// Positions that were computed when a stage behind asked for them.
    resent: usize,
    /// The most positions that were sure.
    farthest: usize,
    /// Sweeps since anything was heard of it, since it went on or more was paid, and since it began.
    idle: u8,
    still: u8,
    age: u8,
}

/// A session's place in its route.
struct Placed {
    epoch: u64,
    before: Option<NodeId>,
    after: Option<NodeId>,
    first: NodeId,
    last: NodeId,
    from: usize,
    /// What the stage behind was sent up to, once it has said where it stands.
    cursor: Option<usize>,
}

struct Piece {
    at: usize,
    rows: Vec<f32>,
    drafts: Vec<u32>,
}

struct Kept {
    id: SessionId,
    chunks: Vec<Hash>,
    session: Session,
}

/// Why a frame is not followed.
struct Refusal {
    why: FailedWhy,
    reason: String,
    node: Option<NodeId>,
    /// It is this stage's own part that can't go on.
    own: bool,
}

fn refusal(why: FailedWhy, reason: impl Into<String>) -> Refusal {
    Refusal { why, reason: reason.into(), node: None, own: false }
}

/// What came is not what the stage before has signed.
fn wrong_rows(before: Option<NodeId>, differs: &Differs) -> Refusal {
    match differs {
        Differs::Before => {
            Refusal { node: before, ..refusal(FailedWhy::Neighbour, "it gave out other rows than it signed") }
        }
        // Nothing of it is any good, and nobody who is here now is to blame.
        Differs::Old => {
            Refusal { own: true, ..refusal(FailedWhy::Full, "what came before is not what the others have") }
        }
    }
}

fn client_error(reason: impl Into<String>) -> Refusal {
    refusal(FailedWhy::Client, reason)
}

fn node_of(bytes: &[u8]) -> Result<Option<NodeId>, Refusal> {
    match bytes.len() {
        0 => Ok(None),
        32 => Ok(bytes.try_into().ok().map(PublicKey)),
        _ => Err(client_error("a node is named by 32 bytes")),
    }
}

impl Stage {
    /// A stage without sessions.
    pub fn new(served: Served, draft: Box<dyn Draft>) -> Stage {
        Stage {
            served,
            sessions: HashMap::new(),
            kept: VecDeque::new(),
            reserved: 0,
            turn: 0,
            passes: 0,
            leaving: false,
            forgets: false,
            effects: Vec::new(),
            draft,
        }
    }

    /// A frame that `from` sent. What names no session that is here, or does not come from where it should, is dropped.
    pub fn handle(&mut self, from: NodeId, frame: Frame) -> Vec<Effect> {
        if let (Ok(id), Some(body)) = (SessionId::try_from(&*frame.session), frame.body) {
            let outcome = match body {
                Body::Open(open) => self.open(from, id, open),
                body => self.route(from, id, body),
            };
            if let Err(refusal) = outcome {
                self.fail(from, id, refusal);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// A node is gone: its own sessions end, and the clients of others that it was a neighbour in are told.
    pub fn gone(&mut self, node: NodeId) -> Vec<Effect> {
        for id in self.which(|session| session.client == node) {
            self.end(id, Vec::new());
        }
        for id in self.which(|session| session.is_beside(&node)) {
            self.blame(id, node, "the connection to it is lost");
        }
        std::mem::take(&mut self.effects)
    }

    /// A stream to or from a node has ended, but not the connection: what was on its way may be lost.
    pub fn broken(&mut self, node: NodeId) -> Vec<Effect> {
        for id in self.which(|session| session.client == node || session.is_beside(&node)) {
            let Some(client) = self.sessions.get(&id).map(|session| session.client) else { continue };
            self.fail(client, id, Refusal { node: Some(node), ..refusal(FailedWhy::Stream, "a stream has ended") });
        }
        std::mem::take(&mut self.effects)
    }

    fn which(&self, is: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, session)| is(session)).map(|(id, _)| *id).collect()
    }

    /// Frees what is kept for clients' next texts, and keeps no more.
    pub fn forget(&mut self) -> Vec<Effect> {
        self.forgets = true;
        self.frees(self.served.memory, None); // Open sessions stay.
        std::mem::take(&mut self.effects)
    }

    /// Takes no new sessions from now on.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// The same, and tells clients to go elsewhere if they can.
    pub fn drain(&mut self) -> Vec<Effect> {
        self.leave();
        for id in self.which(|_| true) {
            let Some(client) = self.sessions.get(&id).map(|session| session.client) else { continue };
            self.fail(client, id, refusal(FailedWhy::Leaving, "it is leaving"));
        }
        std::mem::take(&mut self.effects)
    }

    /// Ends all sessions, and tells their clients why.
    pub fn end_all(&mut self, reason: &str) -> Vec<Effect> {
        self.leave();
        for id in self.which(|_| true) {
            let Some(client) = self.sessions.get(&id).map(|session| session.client) else { continue };
            self.fail(client, id, Refusal { own: true, ..refusal(FailedWhy::Full, reason) });
        }
        std::mem::take(&mut self.effects)
    }

    /// Bytes that no open session has.
    pub fn room(&self) -> u64 {
        let open = self.sessions.values().map(|session| session.bytes).sum();
        self.served.memory.saturating_sub(open)
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// To be called every ten seconds. Ends sessions that nothing was heard of for two minutes: a client that has forgotten one does not hold memory
    /// for ever; and those that nothing was paid for, where that is asked.
    pub fn sweep(&mut self) -> Vec<Effect> {
        let mut over = Vec::new();
        for (id, session) in &mut self.sessions {
            session.age = session.age.saturating_add(1);
            // What waits for this stage is not late.
            let waits = session.waiting(&self.served) > 0;
            session.idle = if waits { 0 } else { session.idle + 1 };
            session.still = if waits { 0 } else { session.still + 1 };
            if session.paid == 0 && session.age >= UNPAID {
                over.push((*id, session.client, "nothing was paid for the session"));
            } else if session.idle >= FORGOTTEN {
                over.push((*id, session.client, "nothing was heard of the session for too long"));
            } else if session.still >= STILL {
                over.push((*id, session.client, "the session did not go on for too long"));
            }
        }
        for (id, client, why) in over {
            self.fail(client, id, refusal(FailedWhy::Full, why));
        }
        std::mem::take(&mut self.effects)
    }

    /// Positions of a session are paid for, up to `upto`.
    pub fn pay(&mut self, id: &SessionId, upto: usize) {
        if let Some(session) = self.sessions.get_mut(id)
            && upto > session.paid
        {
            (session.paid, session.idle, session.still) = (upto, 0, 0);
        }
    }

    /// Of a session of `client`: its layers, and up to where it is paid for.
    pub fn account(&self, client: &NodeId, id: &SessionId) -> Option<(Range<u32>, usize)> {
        let session = self.sessions.get(id).filter(|session| session.client == *client)?;
        Some((session.layers.clone(), session.paid))
    }

    /// Positions that could be computed.
    pub fn waiting(&self) -> usize {
        self.sessions.values().map(|session| session.waiting(&self.served)).sum()
    }

    /// Hands on more of what stages behind have to read, to those that take it now.
    pub fn hand_on(&mut self, takes: impl Fn(&NodeId) -> bool) -> Vec<Effect> {
        let mut readers = HashSet::new();
        for (id, session) in &mut self.sessions {
            // Once each: what waits for them is known when this is sent.
            if session.reader().is_some_and(|reader| takes(&reader) && readers.insert(reader)) {
                session.hand_on(&self.served, *id, &mut self.effects);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Whether stages behind have more to read than they were handed.
    pub fn is_behind(&self) -> bool {
        self.sessions.values().any(|session| session.reader().is_some())
    }

    /// What to compute next: at most `positions` in all and `piece` of one session, all through the same layers. Whoever waited longest comes first, but
    /// single tokens before pieces of prompts, of which one at most is in a batch; and one that has waited longer than all has its part before them.
    pub fn batch(&mut self, positions: usize, piece: usize) -> Vec<Job> {
        let (mut ready, mut short): (Vec<(bool, u64, SessionId)>, _) = (Vec::new(), 0);
        for (id, session) in &self.sessions {
            let waiting = session.waiting(&self.served);
            if waiting > 0 {
                let long = waiting > 1 + MAX_DRAFTS;
                short += if long { 0 } else { waiting };
                ready.push((long, session.turn, *id));
            }
        }
        ready.sort_unstable();
        // Who has waited longest says which layers.
        let oldest = (0..ready.len()).min_by_key(|i| ready[*i].1);
        let layers = oldest.and_then(|i| self.sessions.get(&ready[i].2)).map_or(0..0, |session| session.layers.clone());
        let (mut left, mut jobs, mut long) = (positions, Vec::new(), false);
        // A prompt does not wait for ever behind single tokens.
        let first = oldest.filter(|i| ready[*i].0).map(|i| ready.remove(i));
        for (i, (is_long, _, id)) in first.into_iter().chain(ready).enumerate() {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if left == 0 || layers != session.layers || is_long && long {
                continue;
            }
            let part = if i == 0 && is_long { (positions / 4).max(positions.saturating_sub(short)) } else { left };
            if let Some(job) = session.job(&self.served, id, part.min(piece), &mut *self.draft) {
                left -= job.input.positions(self.served.width).min(left);
                self.turn += 1;
                session.turn = self.turn;
                jobs.push(job);
            }
            long |= is_long;
        }
        self.passes += u64::from(!jobs.is_empty());
        jobs
    }

    /// For a job of the last stage: how to sample, the text so far, and what the drafts say follows.
    pub fn sampling(&self, job: &Job) -> Option<(&Sampling, &[u32], &[u32])> {
        let session = self.sessions.get(&job.session)?;
        let drafts = session.pieces.front().map_or(session.drafts.as_slice(), |piece| &piece.drafts);
        Some((&session.sampling, &session.tokens, drafts))
    }

    /// A job is done, or why it is not.
    pub fn computed(&mut self, job: &Job, done: Result<Done, String>) -> Vec<Effect> {
        if let Some(session) = self.sessions.get_mut(&job.session) {
            let client = session.client;
            let outcome = match done {
                Ok(done) => session.computed(&self.served, job, done, &mut self.effects),
                Err(reason) => Err(refusal(FailedWhy::Compute, reason)),
            };
            if let Err(refusal) = outcome {
                self.fail(client, job.session, refusal);
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn open(&mut self, from: NodeId, id: SessionId, open: Open) -> Result<(), Refusal> {
        let served = &self.served;
        if id != session_id(&from, open.nonce) {
            return Err(client_error("the session is not named after its client"));
        }
        let (layers, room) = (open.first..open.end, open.room as usize);
        if open.model != served.model.0[..]
            || layers.is_empty()
            || layers.start < served.layers.start
            || layers.end > served.layers.end
        {
            return Err(refusal(FailedWhy::Unknown, "these layers of the model are not here"));
        }
        if room == 0 || room > served.context.min(MAX_ROOM) {
            return Err(client_error(format!("a text has 1 to {} positions", served.context.min(MAX_ROOM))));
        }
        let sampling = open.sampling.unwrap_or_default();
        if open.chunks.iter().any(|chunk| chunk.len() != 32) {
            return Err(client_error("a chunk is named by 32 bytes"));
        }
        if layers.end == served.total && !proof::Choice::of(&sampling).is_sane() {
            return Err(client_error(
                "tokens can't be chosen so: a number is out of range, there are too many, or there is no prompt",
            ));
        }
        if open.chunks.len() > room / CHUNK {
            return Err(client_error("too many chunks"));
        }
        if self.leaving || self.sessions.len() >= MAX_SESSIONS {
            return Err(refusal(FailedWhy::Full, "no sessions are taken now"));
        }
        // A client that begins again has lost sight of this stage, which may have missed it.
        self.end(id, Vec::new());
        if let Some(place) = self.kept.iter().position(|kept| kept.id == id) {
            self.reserved -= self.kept.remove(place).map_or(0, |kept| kept.session.bytes);
            self.effects.push(Effect::Free(id));
        }
        // Who goes on with a text that it has ended does not wait for what stages sign of it.
        let goes_on = |session: &Session| {
            let shared = session.offered.iter().zip(&open.chunks).take_while(|(a, b)| a.0[..] == b[..]).count();
            session.client == from && shared > 0 && shared == session.offered.len()
        };
        for ended in self.which(goes_on) {
            let offered = self.sessions.get(&ended).map(|session| session.offered.clone());
            self.end(ended, offered.unwrap_or_default());
        }
        let bytes = (self.position(&layers) * room) as u64;
        let own = self.sessions.values().filter(|session| session.client == from);
        let (count, held) = own.fold((0, 0), |(count, held), session| (count + 1, held + session.bytes));
        // Who is alone may have one text that takes more.
        let alone = self.sessions.is_empty();
        let much =
            count + 1 > MAX_SESSIONS / OF_CLIENT as usize || held + bytes > self.served.memory / OF_CLIENT && !alone;
        if much && from != self.served.owner {
            return Err(refusal(FailedWhy::Full, "one client's sessions take half of the memory at most"));
        }
        let kept = self.take_kept(from, id, &layers, &open.chunks, (room, bytes));
        let bytes = bytes.max(kept.as_ref().map_or(0, |kept| kept.bytes));
        if !self.frees(bytes, None) {
            if kept.is_some() {
                self.effects.push(Effect::Free(id));
            }
            return Err(refusal(FailedWhy::Full, "no memory is left for a session of this length"));
        }
        let mut session = kept.unwrap_or_else(|| {
            self.effects.push(Effect::Cache(id, layers.clone(), room));
            Session::new(from, layers.clone())
        });
        self.reserved += bytes;
        self.turn += 1;
        (session.room, session.bytes, session.sampling, session.turn) = (room, bytes, sampling, self.turn);
        session.paid = if self.served.paid { 0 } else { usize::MAX };
        (session.idle, session.still, session.age) = (0, 0, 0);
        self.effects.push(Effect::Send(from, Frame::of(id, Opened { have: session.sure as u32 })));
        self.sessions.insert(id, session);
        Ok(())
    }

    /// Bytes of a position: keys and values, rows that came, and rows that are given out.
    fn position(&self, layers: &Range<u32>) -> usize {
        self.served.cache_bytes * layers.len() + 2 * 4 * self.served.width
    }

    /// Makes room for so many bytes, by closed sessions, oldest first, but not the one that is `spared`; whether there is room then.
    fn frees(&mut self, bytes: u64, spared: Option<SessionId>) -> bool {
        while self.reserved + bytes > self.served.memory {
            let oldest = self.kept.iter().position(|kept| Some(kept.id) != spared);
            let Some(oldest) = oldest.and_then(|place| self.kept.remove(place)) else { return false };
            self.reserved -= oldest.session.bytes;
            self.effects.push(Effect::Free(oldest.id));
        }
        true
    }

    /// What begins as the closed session of the same client does whose text begins most as this one's. If that goes on with all of it, it is that
    /// session; else a copy of what both share, as long as there is memory for both: the other text may be gone on with, too.
    fn take_kept(
        &mut self,
        client: NodeId,
        id: SessionId,
        layers: &Range<u32>,
        chunks: &[Bytes],
        (room, bytes): (usize, u64),
    ) -> Option<Session> {
        let common = |kept: &Kept| kept.chunks.iter().zip(chunks).take_while(|(a, b)| a.0[..] == b[..]).count();
        let fits = |kept: &Kept| kept.session.client == client && kept.session.layers == *layers;
        let candidates = self.kept.iter().enumerate().filter(|(_, kept)| fits(kept)).map(|(i, kept)| (common(kept), i));
        let (shared, place) = candidates.max().filter(|(shared, _)| *shared > 0)?;
        let Kept { id: from, chunks: all, .. } = &self.kept[place];
        let (from, whole) = (*from, shared == all.len());
        // The text's last position is computed again: of a part of another text what came before it must be known, too.
        let shared = if !whole && shared == chunks.len() { shared - 1 } else { shared };
        if shared == 0 {
            return None;
        }
        let (positions, width) = (shared * CHUNK, self.served.width);
        let size = self.position(layers) * positions;
        if !whole && size <= MAX_COPY && self.frees(bytes, Some(from)) {
            let kept = self.kept.iter().find(|kept| kept.id == from)?;
            self.effects.push(Effect::Copy { from, to: id, positions, room });
            return Some(kept.session.beginning(positions, width));
        }
        let place = self.kept.iter().position(|kept| kept.id == from)?;
        let mut session = self.kept.remove(place)?.session;
        self.reserved -= session.bytes;
        self.effects.push(Effect::Adopt(from, id, room));
        (session.route, session.ended, session.wrote) = (None, false, 0);
        (session.rewound, session.routes, session.resent, session.farthest) = (0, 0, 0, positions);
        (session.end, session.offered) = (None, Vec::new());
        session.early.clear();
        session.rewind(positions, width);
        session.book.reset(positions);
        Some(session)
    }

    /// All frames but `Open`.
    fn route(&mut self, from: NodeId, id: SessionId, body: Body) -> Result<(), Refusal> {
        let served = &self.served;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let by_client = from == session.client;
        if by_client || session.is_beside(&from) {
            session.idle = 0;
        }
        let epoch = session.route.as_ref().map(|route| route.epoch);
        match body {
            Body::Route(route) if by_client => session.reroute(served, id, route, &mut self.effects),
            Body::End(end) if by_client && Some(end.epoch) == epoch => {
                session.end(served, end.positions as usize);
                session.offered = named(&end.chunks, session.sure);
                session.sign(served, id, &mut self.effects)
            }
            Body::Close(close) if by_client => {
                let chunks = named(&close.chunks, session.sure);
                self.end(id, chunks);
                Ok(())
            }
            Body::Where(_) if by_client => {
                let sent = session.route.as_ref().and_then(|route| route.cursor).unwrap_or(0);
                let place = Place {
                    epoch: epoch.unwrap_or(0),
                    received: if session.is_first() { session.tokens.len() } else { session.received } as u32,
                    computed: session.computed as u32,
                    sent: sent as u32,
                    passes: self.passes,
                };
                self.effects.push(Effect::Send(from, Frame::of(id, place)));
                Ok(())
            }
            Body::Have(have) => session.told(served, id, from, have, &mut self.effects),
            Body::Signed(signed) if Some(signed.epoch) == epoch => {
                let right = session.route.as_ref().is_some_and(|route| route.before == Some(from));
                match <[u8; 32]>::try_from(&signed.gave[..]) {
                    Ok(gave) if right => session.book.hear(signed.chunk as usize, Hash(gave), session.room),
                    _ => {}
                }
                session.sign(served, id, &mut self.effects)
            }
            // What the text was when the route was laid the client says, and the last stage what follows: neither can make the other one look wrong.
            Body::Input(input) if by_client && Some(input.epoch) == epoch => {
                let known = session.route.as_ref().map_or(0, |route| route.from + 1);
                let own = input.tokens.len().min(known.saturating_sub(input.at as usize));
                session.learn(served, input.at, &input.tokens[..own], false)?;
                session.sign(served, id, &mut self.effects)
            }
            Body::Tokens(tokens) if Some(tokens.epoch) == epoch => {
                let right = session.route.as_ref().filter(|route| route.last == from);
                let finished = tokens.finish != i32::from(Finish::None);
                let blamed = |refusal| Refusal { why: FailedWhy::Neighbour, node: Some(from), ..refusal };
                if right.is_some_and(|route| tokens.at as usize <= route.from) {
                    return Err(blamed(client_error("it chooses tokens that were known")));
                }
                if right.is_some() {
                    session.learn(served, tokens.at, &tokens.tokens, finished).map_err(blamed)?;
                }
                session.sign(served, id, &mut self.effects)
            }
            Body::Rows(rows) if Some(rows.epoch) == epoch => {
                let right = session.route.as_ref().is_some_and(|route| route.before == Some(from));
                if right { session.receive(served, from, rows) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Says why, and ends what can't go on.
    fn fail(&mut self, to: NodeId, id: SessionId, refusal: Refusal) {
        // Who breaks the rules hears of it alone, unless it is the client itself.
        let session = self.sessions.get(&id).filter(|session| refusal.why != FailedWhy::Client || session.client == to);
        let epoch = session.and_then(|session| session.route.as_ref()).map_or(0, |route| route.epoch);
        let client = session.map_or(to, |session| session.client);
        let node = refusal.node.map(|node| node.0.to_vec().into()).unwrap_or_default();
        let failed = Failed { epoch, why: refusal.why.into(), reason: refusal.reason, node };
        self.effects.push(Effect::Send(client, Frame::of(id, failed)));
        // A stranger's frame ends nobody's session, and a neighbour's death does not end this stage's part.
        let ends = refusal.own || session.is_some_and(|session| session.client == to);
        let goes_on = matches!(refusal.why, FailedWhy::Neighbour | FailedWhy::Stream | FailedWhy::Leaving);
        if !goes_on && ends {
            self.end(id, Vec::new());
        }
    }

    fn blame(&mut self, id: SessionId, node: NodeId, reason: &str) {
        let Some(client) = self.sessions.get(&id).map(|session| session.client) else { return };
        self.fail(client, id, Refusal { node: Some(node), ..refusal(FailedWhy::Neighbour, reason) });
    }

    /// Ends a session; what has `chunks` stays as long as its memory is not needed.
    fn end(&mut self, id: SessionId, chunks: Vec<Hash>) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        self.draft.end(&id);
        if chunks.is_empty() || self.leaving || self.forgets {
            self.reserved -= session.bytes;
            self.effects.push(Effect::Free(id));
        } else {
            session.pieces.clear();
            self.kept.push_back(Kept { id, chunks, session });
        }
    }
}

/// The names of as many chunks as so many positions have.
fn named(chunks: &[Bytes], positions: usize) -> Vec<Hash> {
    let chunks = chunks.iter().filter_map(|hash| Some(Hash((**hash).try_into().ok()?)));
    chunks.take(positions / CHUNK).collect()
}

impl Input {
    /// How many positions they are, with `width` numbers in a row.
    pub fn positions(&self, width: usize) -> usize {
        match self {
            Input::Tokens(tokens) => tokens.len(),
            Input::Rows(rows) => rows.len() / width,
        }
    }
}

impl Session {
    fn new(client: NodeId, layers: Range<u32>) -> Session {
        Session {
            client,
            layers,
            room: 0,
            bytes: 0,
            sampling: Sampling::default(),
            route: None,
            early: Vec::new(),
            tokens: Vec::new(),
            texts: Vec::new(),
            pieces: VecDeque::new(),
            received: 0,
            confirmed: 0,
            computed: 0,
            sure: 0,
            drafts: Vec::new(),
            missed: 0,
            log: Vec::new(),
            book: Book::default(),
            ended: false,
            end: None,
            offered: Vec::new(),
            turn: 0,
            paid: 0,
            wrote: 0,
            rewound: 0,
            routes: 0,
            resent: 0,
            farthest: 0,
            idle: 0,
            still: 0,
            age: 0,
        }
    }

    /// A session of the same client that begins with the first `positions` of this one, whole chunks of them.
    fn beginning(&self, positions: usize, width: usize) -> Session {
        let mut session = Session {
            tokens: self.tokens[..positions.min(self.tokens.len())].to_vec(),
            log: self.log[..(positions * width).min(self.log.len())].to_vec(),
            book: self.book.clone(),
            received: self.received,
            confirmed: self.confirmed,
            computed: self.computed,
            sure: self.sure,
            ..Session::new(self.client, self.layers.clone())
        };
        session.rewind(positions, width);
        session.book.reset(positions);
        session
    }

    /// Whether frames of the session come from a node, or go to it, by its route.
    fn is_beside(&self, node: &NodeId) -> bool {
        self.route.as_ref().is_some_and(|route| {
            let ring = self.is_first() && route.last == *node || route.after.is_none() && route.first == *node;
            ring || route.before == Some(*node) || route.after == Some(*node)
        })
    }

    fn is_first(&self) -> bool {
        self.layers.start == 0
    }

    fn is_last(&self, served: &Served) -> bool {
        self.layers.end == served.total
    }

    /// Forgets positions from `at` on.
    fn rewind(&mut self, at: usize, width: usize) {
        self.pieces.retain(|piece| piece.at < at);
        if let Some(piece) = self.pieces.back_mut() {
            let keep = (at - piece.at).min(piece.rows.len() / width);
            piece.rows.truncate(keep * width);
            piece.drafts.clear();
        }
        self.received = self.received.min(at);
        self.confirmed = self.confirmed.min(at);
        self.computed = self.computed.min(at);
        self.sure = self.sure.min(at);
        self.drafts.truncate(self.computed - self.sure);
        self.log.truncate(self.computed * width);
        self.book.rewind(self.computed, width);
        if let Some(cursor) = self.route.as_mut().and_then(|route| route.cursor.as_mut()) {
            *cursor = (*cursor).min(at);
        }
    }

    /// A new epoch: takes its place, and says where it stands.
    fn reroute(
        &mut self,
        served: &Served,
        id: SessionId,
        route: Route,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.route.as_ref().is_some_and(|known| route.epoch <= known.epoch) {
            // It was late, on a stream that has ended meanwhile.
            return Ok(());
        }
        let (before, after) = (node_of(&route.before)?, node_of(&route.after)?);
        let (Some(first), Some(last)) = (node_of(&route.first)?, node_of(&route.last)?) else {
            return Err(client_error("a route has a first and a last stage"));
        };
        let from = route.from as usize;
        if before.is_none() != self.is_first() || after.is_none() != self.is_last(served) {
            return Err(client_error("the first stage has nobody before it, the last one nobody behind"));
        }
        if from >= self.room || self.is_last(served) && route.tokens.len() != from + 1 {
            return Err(client_error("the text does not fit, or is not the one that is known"));
        }
        let (sure, known) = (self.sure.min(from), self.tokens.len().min(from));
        let have = self.book.rewound(sure);
        // It signs what it computes of this text, and would have computed it of another one.
        if self.is_first() && self.is_last(served) && !route.tokens.starts_with(&self.tokens[..known.min(have)]) {
            return Err(client_error("the text is not the one that was computed"));
        }
        // Nor does it answer for tokens that it chose of other rows than those that come now.
        if self.is_last(served) && have < sure {
            let reason = "too much of the text is taken back";
            return Err(Refusal { own: true, ..refusal(FailedWhy::Full, reason) });
        }
        // A route is laid anew for nothing a few times; then the client begins anew, also with what it pays.
        self.rewound += self.sure.saturating_sub(have);
        self.routes += 1;
        if self.rewound > MAX_REWINDS || self.routes > MAX_ROUTES + self.farthest / CHUNK {
            let reason = "its route is laid anew again and again";
            return Err(Refusal { own: true, ..refusal(FailedWhy::Full, reason) });
        }
        self.route = Some(Placed { epoch: route.epoch, before, after, first, last, from, cursor: None });
        self.rewind(have, served.width);
        self.book.reset(have);
        self.pieces.clear();
        (self.received, self.confirmed) = (self.computed, self.computed);
        (self.ended, self.end, self.missed) = (false, None, 0);
        if self.is_last(served) {
            // What another one has chosen it does not answer for.
            if !self.tokens.starts_with(&route.tokens) || self.wrote == 0 {
                self.wrote = route.tokens.len();
            }
            self.tokens = route.tokens;
            self.texts.clear();
        } else {
            self.tokens.truncate(have);
        }
        let told = Have { epoch: route.epoch, have: have as u32 };
        effects.push(Effect::Send(before.unwrap_or(self.client), Frame::of(id, told)));
        for (node, have) in std::mem::take(&mut self.early) {
            self.told(served, id, node, have, effects)?;
        }
        Ok(())
    }

    /// The stage behind says where it stands.
    fn told(
        &mut self,
        served: &Served,
        id: SessionId,
        from: NodeId,
        have: Have,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Some(route) = self.route.as_mut().filter(|route| route.epoch >= have.epoch) else {
            if self.route.as_ref().is_some_and(|route| have.epoch > route.epoch + EPOCHS_AHEAD) {
                return Ok(());
            }
            self.early.retain(|(node, _)| *node != from);
            if self.early.len() >= MAX_EARLY {
                // Whose epoch comes last is least likely to be a neighbour.
                self.early.sort_by_key(|(_, have)| have.epoch);
                self.early.pop();
            }
            self.early.push((from, have));
            return Ok(());
        };
        if have.epoch == route.epoch && route.after == Some(from) && route.cursor.is_none() {
            if have.have as usize > route.from {
                let reason = "it claims what it can't have";
                return Err(Refusal { node: Some(from), ..refusal(FailedWhy::Neighbour, reason) });
            }
            route.cursor = Some(have.have as usize);
            self.resent += self.computed.saturating_sub(have.have as usize);
            if self.resent > MAX_RESENT * self.room {
                let reason = "its rows are asked for again and again";
                return Err(Refusal { own: true, ..refusal(FailedWhy::Full, reason) });
            }
            self.hand_on(served, id, effects);
            self.sign(served, id, effects)?;
        }
        Ok(())
    }

    /// Tokens at the first stage: from the client, or around the ring.
    fn learn(&mut self, served: &Served, at: u32, tokens: &[u32], finished: bool) -> Result<(), Refusal> {
        let at = at as usize;
        if !self.is_first() || at > self.tokens.len() || at + tokens.len() > self.room {
            return Err(client_error("tokens that do not follow what is there"));
        }
        if tokens.iter().any(|token| *token >= served.vocabulary) {
            return Err(client_error("a token is not in the vocabulary"));
        }
        for (position, token) in (at..).zip(tokens) {
            match self.tokens.get(position) {
                Some(known) if known == token => {}
                Some(_) => return Err(client_error("two different tokens at one position")),
                // What it was not told of by a route it has chosen.
                None if self.is_last(served) => return Err(client_error("the last stage chooses what follows")),
                None => self.tokens.push(*token),
            }
        }
        self.ended |= finished;
        self.settle(served.width);
        if self.ended {
            // As a draft it may have been computed here, and by nobody else.
            self.rewind(self.tokens.len().saturating_sub(1), served.width);
        }
        Ok(())
    }

    /// The text is written: nothing is computed behind its end, and between the first and the last stage nobody else says which drafts were met.
    fn end(&mut self, served: &Served, positions: usize) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(positions);
        if !self.is_first() && !self.is_last(served) {
            let met = positions.saturating_sub(self.sure).min(self.drafts.len());
            self.sure += met;
            self.drafts.drain(..met);
        }
    }

    /// Drafts that were met are sure, and from the first that was not on all is forgotten.
    fn settle(&mut self, width: usize) {
        let known = self.tokens.get(self.sure..).unwrap_or_default();
        let met = self.drafts.iter().zip(known).take_while(|(draft, token)| draft == token).count();
        if met < self.drafts.len().min(known.len()) {
            self.missed += self.drafts.len() - met;
            self.rewind(self.sure + met, width);
        }
        self.sure += met;
        self.drafts.drain(..met.min(self.drafts.len()));
    }

    /// Drafts that there may be behind the token before `sure`. All stages count alike, so who keeps to it is refused by nobody.
    fn spare(&self, sure: usize) -> usize {
        let from = self.route.as_ref().map_or(0, |route| route.from);
        (MAX_DRAFTS + MISSED * sure.saturating_sub(from)).saturating_sub(self.missed).min(MAX_DRAFTS)
    }

    /// Rows from the stage before.
    fn receive(&mut self, served: &Served, from: NodeId, rows: Rows) -> Result<(), Refusal> {
        let wrong = |reason: &str| Refusal { node: Some(from), ..refusal(FailedWhy::Neighbour, reason) };
        let (at, size) = (rows.at as usize, 4 * served.width);
        let positions = rows.rows.len() / size;
        if positions == 0 || !rows.rows.len().is_multiple_of(size) || rows.drafts.len() > MAX_DRAFTS.min(positions - 1)
        {
            return Err(wrong("its rows have a wrong shape"));
        }
        // Drafts follow one token each time, behind the prompt; the last stage knows the text as far as it is sure.
        let (sure, from_text) = (at + positions - rows.drafts.len(), self.route.as_ref().map_or(0, |route| route.from));
        let odd = !rows.drafts.is_empty() && (positions != rows.drafts.len() + 1 || sure <= from_text);
        if odd || self.is_last(served) && sure > self.tokens.len() {
            return Err(wrong("its rows are not those of the text"));
        }
        if at > self.received {
            // A stream of its may have ended, and taken some along.
            return Err(Refusal { node: Some(from), ..refusal(FailedWhy::Stream, "rows are missing") });
        }
        if at < self.confirmed || at + positions > self.room {
            return Err(wrong("its rows are not those that should come"));
        }
        let values: Vec<f32> = rows.rows.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        if !values.iter().all(|x| x.is_finite()) {
            return Err(wrong("its rows hold numbers that are not finite"));
        }
        if at < self.received {
            self.missed += self.received - at;
            self.rewind(at, served.width);
        }
        if rows.drafts.len() > self.spare(sure) {
            return Err(wrong("too few of its drafts are met"));
        }
        self.received = at + positions;
        self.confirmed = self.received - rows.drafts.len();
        self.pieces.push_back(Piece { at, rows: values, drafts: rows.drafts });
        Ok(())
    }

    /// Positions that could be computed.
    fn waiting(&self, served: &Served) -> usize {
        let over = self.is_first() && self.ended || self.end.is_some();
        if self.route.is_none() || over || self.computed >= self.paid {
            0
        } else if self.is_first() {
            self.tokens.len().saturating_sub(self.computed)
        } else {
            self.pieces.iter().map(|piece| piece.rows.len() / served.width).sum()
        }
    }

    /// The next piece of work, of at most `most` positions.
    fn job(&mut self, served: &Served, id: SessionId, most: usize, draft: &mut dyn Draft) -> Option<Job> {
        let from = self.route.as_ref()?.from;
        let most = most.min(self.paid.saturating_sub(self.computed)).max(1);
        if self.is_first() {
            let (at, end) = (self.computed, self.tokens.len().min(self.computed + most.max(1)));
            let mut tokens = self.tokens.get(at..end)?.to_vec();
            self.drafts.clear();
            if end == self.tokens.len() && end > from && most > tokens.len() {
                let free = (self.room - end).min(most - tokens.len()).min(self.spare(end));
                self.drafts = draft.draft(&id, &self.tokens, free);
                self.drafts.truncate(free);
                self.drafts.retain(|token| *token < served.vocabulary);
                tokens.extend(&self.drafts);
            }
            let sample =
                if self.is_last(served) && end == self.tokens.len() && end > from { 1 + self.drafts.len() } else { 0 };
            return Some(Job { session: id, at, input: Input::Tokens(tokens), sample });
        }
        let piece = self.pieces.front_mut()?;
        let positions = piece.rows.len() / served.width;
        // Drafts stay with the token that they follow.
        if positions > most && piece.drafts.is_empty() {
            let rest = piece.rows.split_off(most * served.width);
            let later = Piece { at: piece.at + most, rows: rest, drafts: Vec::new() };
            self.pieces.insert(1, later);
        }
        let piece = self.pieces.front()?;
        let end = piece.at + piece.rows.len() / served.width;
        let sure = end - piece.drafts.len();
        let sample = if self.is_last(served) && sure > from { 1 + piece.drafts.len() } else { 0 };
        Some(Job { session: id, at: piece.at, input: Input::Rows(piece.rows.clone()), sample })
    }

    /// Takes in what was computed, and hands it on.
    fn computed(&mut self, served: &Served, job: &Job, done: Done, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let positions = job.input.positions(served.width);
        let behind = self.reader().is_some();
        if let Some(piece) = self.pieces.pop_front() {
            self.drafts = piece.drafts;
        }
        self.computed = job.at + positions;
        self.sure = self.computed - self.drafts.len();
        self.idle = 0;
        if self.sure > self.farthest {
            (self.farthest, self.still) = (self.sure, 0);
        }
        if let Input::Rows(rows) = &job.input {
            self.book.take(job.at, rows, served.width);
        }
        if done.rows.len() != positions * served.width || !done.rows.iter().all(|x| x.is_finite()) {
            return Err(refusal(FailedWhy::Compute, "numbers that are not finite came out here"));
        }
        self.log.truncate(job.at * served.width);
        self.log.extend(done.rows);
        if job.sample == 0 || !self.is_last(served) {
            if !behind {
                self.hand_on(served, job.session, effects);
            }
            return self.sign(served, job.session, effects);
        }
        let Some(route) = &self.route else { return Ok(()) };
        let (at, first, last, epoch) = (self.tokens.len(), route.first, route.last, route.epoch);
        let sampled: Vec<u32> = done.sampled.iter().map(|(token, _)| *token).collect();
        if at != self.sure || sampled.is_empty() {
            return Err(refusal(FailedWhy::Compute, "there is no text to go on with"));
        }
        self.tokens.extend(&sampled);
        // Positions of drafts that were met are sure, all others are forgotten.
        let met = self.drafts.iter().zip(&sampled).take_while(|(draft, token)| draft == token).count();
        let met = met.min(sampled.len() - 1);
        let end = self.sure + met;
        self.missed += self.drafts.len() - met;
        self.drafts.clear();
        self.pieces.clear();
        (self.received, self.confirmed, self.computed, self.sure) = (end, end, end, end);
        self.log.truncate(end * served.width);
        let finish = match sampled.last() {
            Some(token) if self.sampling.ends.contains(token) => Finish::Stop,
            _ if self.tokens.len() >= (self.sampling.limit as usize).min(self.room) => Finish::Length,
            _ => Finish::None,
        };
        self.ended = finish != Finish::None;
        let logprobs = done.sampled.into_iter().filter_map(|(_, logprob)| logprob).collect();
        let tokens = Tokens { epoch, at: at as u32, tokens: sampled, finish: finish.into(), logprobs };
        // A client that is the first stage, too, gets it once, for both.
        if first != last && first != self.client {
            effects
                .push(Effect::Send(first, Frame::of(job.session, Tokens { logprobs: Vec::new(), ..tokens.clone() })));
        }
        effects.push(Effect::Send(self.client, Frame::of(job.session, tokens)));
        self.sign(served, job.session, effects)
    }

    /// The hash of the text up to a position, at the last stage.
    fn text(&mut self, end: usize) -> Hash {
        let whole = end / CHUNK;
        while let (at, true) = (self.texts.len() * CHUNK, self.texts.len() < whole) {
            let last = self.texts.last().copied().unwrap_or_default();
            self.texts.push(chunk_after(&last, &self.tokens[at..at + CHUNK]));
        }
        let last = whole.checked_sub(1).map_or(Hash::ZERO, |last| self.texts[last]);
        let rest = &self.tokens[whole * CHUNK..end];
        if rest.is_empty() { last } else { chunk_after(&last, rest) }
    }

    /// Signs all whole chunks that nothing takes back, and what is left at the text's end, once the stage before has signed what came, and there
    /// is one behind that hears it.
    fn sign(&mut self, served: &Served, id: SessionId, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(route) = &self.route else { return Ok(()) };
        let (epoch, before, after, heard) = (route.epoch, route.before, route.after, route.cursor.is_some());
        let (first, last, width) = (self.is_first(), self.is_last(served), served.width);
        while (self.book.chunks() + 1) * CHUNK <= self.sure {
            let (start, end) = (self.book.chunks() * CHUNK, (self.book.chunks() + 1) * CHUNK);
            let text = first.then(|| chunk_after(&self.book.last().0, &self.tokens[start..end]));
            self.book.close(text, &self.log[start * width..end * width], width);
        }
        let start = self.book.chunks() * CHUNK;
        // Less than a chunk is left, so this is where the text ends.
        if let Some(end) = self.end.filter(|end| (start + 1..=self.sure).contains(end)) {
            let text = first.then(|| chunk_after(&self.book.last().0, &self.tokens[start..end]));
            self.book.end(text, &self.log[start * width..end * width], width);
        }
        if after.is_some() && !heard {
            return Ok(());
        }
        loop {
            let chunk = self.book.signed();
            let whole = chunk < self.book.chunks();
            let end = if whole { (chunk + 1) * CHUNK } else { self.end.unwrap_or(usize::MAX) };
            // After the last layer it signs the tokens that follow, too.
            if last && self.tokens.len() <= end {
                return Ok(());
            }
            let wrong = |differs| wrong_rows(before, &differs);
            let Some((chunk, came, gave)) = self.book.next(first).map_err(wrong)? else { return Ok(()) };
            let next = match last && proof::answers(chunk, self.wrote, &self.sampling) {
                true => {
                    let text = self.text(end);
                    proof::next(&self.sampling, &text, self.tokens[end])
                }
                false => Hash::ZERO,
            };
            let (Range { start: first, end }, chunk) = (self.layers.clone(), chunk as u32);
            // Who signs knows the height.
            let (session, model, height) = (id, served.model, 0);
            let statement = Statement { session, model, first, end, chunk, came, gave, next, height };
            let to = [Some(self.client), after].into_iter().flatten().collect();
            effects.push(Effect::Sign(to, epoch, statement));
        }
    }

    /// The stage behind, if it was not sent all that is computed.
    fn reader(&self) -> Option<NodeId> {
        self.route.as_ref().filter(|route| route.cursor.is_some_and(|at| at < self.computed))?.after
    }

    /// Sends the stage behind what it does not have, or a part of it.
    fn hand_on(&mut self, served: &Served, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(route) = &mut self.route else { return };
        let (Some(after), Some(cursor)) = (route.after, route.cursor.as_mut()) else { return };
        let most = (ROWS_BYTES / (4 * served.width)).max(1);
        // Drafts travel with the token that they follow.
        let alone = if self.drafts.is_empty() { self.computed } else { self.sure - 1 };
        let most_of_all = *cursor + most.max(HAND_ON / (4 * served.width));
        while *cursor < self.computed && *cursor < most_of_all {
            let end = if *cursor < alone { alone.min(*cursor + most) } else { self.computed };
            let rows = &self.log[*cursor * served.width..end * served.width];
            let rows: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
            let drafts = if end > self.sure { self.drafts.clone() } else { Vec::new() };
            let frame = Rows { epoch: route.epoch, at: *cursor as u32, rows: rows.into(), drafts };
            effects.push(Effect::Send(after, Frame::of(id, frame)));
            *cursor = end;
        }
    }
}

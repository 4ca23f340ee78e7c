//! A client: how a node that asks opens a session, keeps it going while stages die, and ends it.
//!
//! It holds the text, so whatever is lost elsewhere can be computed again; and it alone changes the route. Times are milliseconds of any clock
//! that goes on.

use super::{
    CHUNK, SessionId, chunk_after,
    proof::{self, Signed, Statement},
    session_id,
    stage::MAX_DRAFTS,
};
use crate::{Hash, NodeId, Signature, hash::Domain};
use ailo_proto::{
    Bytes, Close, End, FailedWhy, Finish, Frame, Have, Input, Logprob, Open, Place, Route, Sampling, Tokens, Where,
    frame::Body,
};
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

/// A stage says within this time whether it has room.
pub const OPEN_MS: u64 = 500;
/// From the loss of a stage on, a new route stands within this time, or the session ends.
pub const REPAIR_MS: u64 = 1500;
/// Without a token for so long, the stages are asked how far they are...
pub const STALL_MS: u64 = 400;
/// ...and once more after this; who has not moved is the one.
pub const WHERE_MS: u64 = 600;
/// Who signs nothing for so long that others wait for is left out.
const UNSIGNED_MS: u64 = 1500;
/// When a text has ended its stages sign what is left of it within this time, or they do not.
pub const LAST_MS: u64 = 500;
/// Positions before a token that counts as computed, signed or not.
const UNSIGNED: usize = 4 * CHUNK;
/// Statements of one stage that are ahead of the text, at most.
const MAX_EARLY: usize = 64;
/// Tokens in one frame, at most.
const INPUT: usize = 1 << 16;
/// Who seemed gone is asked again after about so long, then twice as long, and so on four times.
const AGAIN_MS: u64 = 50;
/// A text whose stages move goes on without a token for so long, and so much longer for each of its positions: whoever creeps holds it no longer.
const READS_MS: u64 = 30_000;
const READS_EACH_MS: u64 = 250;
/// Times that a stage blames another one in a text, before it is left out, too.
const MAX_BLAMES: u32 = 2;
/// Why a node is left out whose streams end.
const ENDED: &str = "its streams end again and again";
/// Why a node is left out that is asked for something and does not do it.
const LATE: &str = "it did not answer in time";
const SILENT: &str = "it does not say where it is";
const STUCK: &str = "the text hangs there";
const UNSIGNS: &str = "it does not sign what it computes";
const KEPT: &str = "the one behind it does not sign";
/// The same: whoever did so is likely to do so again.
pub const HANGS: [&str; 5] = [LATE, SILENT, STUCK, UNSIGNS, KEPT];
/// Nodes that asked to wait and then did not open, that cost the others no time.
const MAX_DELAYS: u32 = 4;
/// Times that a node is opened without a text getting on by [`OPENED_FOR`] tokens, before it is left out for good: each time it is paid ahead anew.
const MAX_OPENED: u32 = 3;
const OPENED_FOR: usize = 64;
/// Routes without a token between them, at most.
const MAX_REROUTES: u32 = 16;
/// A stage that computes for others may let a text wait so long.
const BUSY_MS: u64 = 10_000;
/// Streams of a node that end in one text before the node is left out.
const MAX_BREAKS: u32 = 3;
/// What both ends, and those behind them, say of one end comes within this time.
const BREAK_MS: u64 = 200;
/// Stages that can't go on at one place of the text, or say that nobody may ask so, before it is the text's fault: one may be lying.
const MAX_FAILURES: usize = 2;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub model: Hash,
    /// Its layers.
    pub layers: u32,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Tokens that there are.
    pub vocabulary: u32,
    /// How tokens are chosen, and where the text ends.
    pub sampling: Sampling,
    /// Whose text it is, among those whom this node asks for: stages go on with what they have of one's texts for no one else.
    pub owner: Hash,
}

/// Stages one behind the other, with the layers of each.
pub type Stages = Vec<(NodeId, Range<u32>)>;

/// Who knows which nodes serve what.
pub trait Routes {
    /// Stages for these layers, without some nodes; `between` two that are there already, or as a ring.
    fn route(
        &mut self,
        layers: Range<u32>,
        between: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<Stages>;

    /// The first of these layers that nobody serves, without some nodes, up to the next that somebody does.
    fn gap(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Range<u32>>;
}

/// Why a text can't go on, for people. The client's text and seed go on elsewhere, or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody who can be reached serves these layers.
    #[error("no node that can be reached serves layers {} to {} of the model{last}", .layers.start, .layers.end.saturating_sub(1))]
    Unserved {
        /// Which.
        layers: Range<u32>,
        /// Why the last node was left out, in brackets; empty if none was.
        last: String,
    },
    /// Whoever serves these layers takes no more texts.
    #[error("the nodes that serve layers {} to {} of the model take no more texts now{last}", .layers.start, .layers.end.saturating_sub(1))]
    Full {
        /// Which.
        layers: Range<u32>,
        /// As above.
        last: String,
    },
    /// Whoever serves these layers does not take what is paid.
    #[error("the nodes that serve layers {} to {} of the model do not take the payment{last}", .layers.start, .layers.end.saturating_sub(1))]
    Unpaid {
        /// Which.
        layers: Range<u32>,
        /// As above.
        last: String,
    },
    /// The route is laid again and again, and no token comes.
    #[error("the text hangs, whoever serves it ({0})")]
    Hangs(String),
    /// Whoever is asked says that nobody may ask so.
    #[error("the stages refuse the text: {0}")]
    Refused(String),
    /// It fails wherever it is computed.
    #[error("the model can't go on with this text: {0}")]
    Compute(String),
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // Nearly all of them are frames.
pub enum Effect {
    /// Send a frame.
    Send(NodeId, Frame),
    /// The text goes on.
    Token(u32, Option<Logprob>),
    /// It has ended.
    Finished(Finish),
    /// It can't go on: why.
    Failed(Failure),
    /// This node was left out because of what it did, or did not do.
    LeftOut(NodeId, String),
    /// The text has ended, and this node has not signed the last of it, or may have kept its word from the one behind it.
    Unsigned(NodeId),
    /// A stage says what it computed: keep it, and tell [`Client::lied`] if its signature is none.
    Signed(Signed),
}

/// A session, seen from who asked.
pub struct Client {
    /// This node, whose own stage is not watched: what it does not do now it does later.
    me: NodeId,
    id: SessionId,
    nonce: u64,
    request: Request,
    hops: Vec<Hop>,
    epoch: u64,
    tokens: Vec<u32>,
    /// All stages are open and have been told the route.
    running: bool,
    /// Nodes that are left out: for good, or only as long as others have their layers.
    without: HashMap<NodeId, bool>,
    /// Who was left out last.
    lost: Option<NodeId>,
    /// Since when stages are being opened.
    opening: Option<u64>,
    /// Since when a stage is missing.
    broken: Option<u64>,
    /// When something was heard of the text, and when it last went on: since then stages may read it.
    heard: u64,
    went: u64,
    asked: Option<Asked>,
    /// At which length of the text how many stages could not go on, and who was before the last of them.
    failures: (usize, usize, Option<NodeId>),
    /// How often each stage has blamed another one.
    blames: HashMap<NodeId, u32>,
    /// The last epoch in which the first stage was sent the text.
    fed: u64,
    /// Streams of each node that have ended, and when the last did.
    breaks: HashMap<NodeId, (u32, u64)>,
    /// Why the last node was left out.
    last: String,
    /// Who has said since the last token that it has no room, or is not paid, and in which words.
    refused: HashMap<NodeId, (FailedWhy, String)>,
    /// The text's chunks.
    texts: Vec<Hash>,
    /// Who signed what for a chunk and layers: the hashes of what came and of what was given out.
    signed: HashMap<(u32, u32, u32), (NodeId, Hash, Hash)>,
    /// The text's length when the last stage began.
    wrote: usize,
    /// Whose signature is missing, for how long while the text went on, and until when that was counted.
    unsigned: Option<(NodeId, u64, u64)>,
    /// What was signed of a text that has not come yet.
    early: Vec<(NodeId, ailo_proto::Signed)>,
    /// How far all stages have come since the last token, as they said when they were last asked.
    moved: usize,
    /// Nodes since the last token that asked to wait for nothing.
    delays: u32,
    /// How often a node was opened, and how long the text was the first time.
    opened: HashMap<NodeId, (u32, usize)>,
    /// Routes since the last token.
    reroutes: u32,
    /// When a node that seemed gone may be asked again: each time without a token in between, a while later.
    again: u64,
    /// The text is written, and until when its stages may sign the last of it.
    closing: Option<u64>,
    ended: bool,
    effects: Vec<Effect>,
}

struct Hop {
    node: NodeId,
    layers: Range<u32>,
    open: bool,
    /// The first epoch of its session.
    since: u64,
    /// It has said that it will end.
    leaves: bool,
    /// Until when it has asked to wait: it computes, for others.
    waits: u64,
    /// Chunks that it has signed, without a gap.
    proven: u32,
}

/// A question where all are.
struct Asked {
    at: u64,
    answers: HashMap<NodeId, Place>,
    before: Option<HashMap<NodeId, Place>>,
}

impl Client {
    /// A session of `client`; of two with the same `nonce` a stage takes one.
    pub fn new(client: &NodeId, nonce: u64, request: Request) -> Client {
        Client {
            me: *client,
            id: session_id(client, nonce),
            nonce,
            tokens: request.tokens.clone(),
            request,
            hops: Vec::new(),
            epoch: 0,
            running: false,
            without: HashMap::new(),
            lost: None,
            opening: None,
            broken: None,
            heard: 0,
            went: 0,
            asked: None,
            failures: (0, 0, None),
            blames: HashMap::new(),
            fed: 0,
            breaks: HashMap::new(),
            last: String::new(),
            refused: HashMap::new(),
            texts: Vec::new(),
            signed: HashMap::new(),
            wrote: 0,
            unsigned: None,
            early: Vec::new(),
            moved: 0,
            delays: 0,
            opened: HashMap::new(),
            reroutes: 0,
            again: 0,
            closing: None,
            ended: false,
            effects: Vec::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The text so far, with the prompt.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The stages that are open, in their order.
    pub fn open_stages(&self) -> Vec<(NodeId, Range<u32>)> {
        let open = self.hops.iter().filter(|hop| hop.open && !self.ended);
        open.map(|hop| (hop.node, hop.layers.clone())).collect()
    }

    /// Positions that a stage has computed, as far as its signatures show it, and tokens, which come before these; none before all stages have
    /// been told the route.
    pub fn proven(&self, node: &NodeId) -> Option<usize> {
        let hop = self.hops.iter().find(|hop| hop.node == *node && self.running && !self.is_over())?;
        let signed = hop.proven as usize * CHUNK;
        Some(if self.reroutes == 0 { self.tokens.len().min(signed + UNSIGNED) } else { signed })
    }

    /// Whether the text is written, and its stages still sign the last of it.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether the text has ended.
    fn is_over(&self) -> bool {
        self.ended || self.closing.is_some()
    }

    /// Opens the session.
    pub fn start(&mut self, now: u64, routes: &mut dyn Routes) -> Vec<Effect> {
        self.broken = Some(now);
        self.repair(now, true, routes);
        std::mem::take(&mut self.effects)
    }

    /// A frame of this session.
    pub fn handle(&mut self, now: u64, from: NodeId, frame: Frame, routes: &mut dyn Routes) -> Vec<Effect> {
        let hop = self.hops.iter().position(|hop| hop.node == from);
        if let (Some(hop), false, Some(body)) = (hop, self.ended, frame.body) {
            let last = self.hops[hop].layers.end == self.request.layers;
            // What a node said before it was opened anew is of another session.
            let since = self.hops[hop].since;
            match body {
                // Once the text is written nothing else matters.
                body if self.closing.is_some() && !matches!(body, Body::Signed(_) | Body::Wait(_)) => drop(body),
                Body::Opened(_) if !self.hops[hop].open => {
                    self.hops[hop].open = true;
                    self.refused.remove(&from);
                    let at = self.tokens.len();
                    let (count, since) = self.opened.get(&from).copied().unwrap_or((0, at));
                    let known = if at < since + OPENED_FOR { (count + 1, since) } else { (1, at) };
                    self.opened.insert(from, known);
                    self.proceed(now);
                }
                Body::Have(have) if hop == 0 => self.feed(&have),
                Body::Tokens(tokens) if last && tokens.epoch >= since => {
                    self.learn(now, from, tokens, routes);
                    for (node, signed) in std::mem::take(&mut self.early) {
                        if let Some(hop) = self.hops.iter().position(|hop| hop.node == node) {
                            self.take(now, hop, signed, routes);
                        }
                    }
                }
                Body::Failed(failed) => self.failed(now, hop, failed, routes),
                Body::Signed(signed) if signed.epoch >= since => self.take(now, hop, signed, routes),
                Body::Place(place) => {
                    if let Some(asked) = self.asked.as_mut().filter(|_| place.epoch == self.epoch) {
                        asked.answers.insert(from, place);
                    }
                }
                Body::Wait(wait) => self.hops[hop].waits = now + u64::from(wait.ms).min(BUSY_MS),
                _ => {}
            }
            self.closes(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// The connection to a node is lost, or it does not answer.
    pub fn gone(&mut self, now: u64, node: NodeId, routes: &mut dyn Routes) -> Vec<Effect> {
        if !self.ended && self.hops.iter().any(|hop| hop.node == node) {
            self.lose(now, node, "it is gone", false, routes);
        }
        std::mem::take(&mut self.effects)
    }

    /// A stream to or from a node has ended, but not the connection. What was on its way may be lost: with a new epoch all send it again.
    pub fn broken(&mut self, now: u64, node: NodeId, routes: &mut dyn Routes) -> Vec<Effect> {
        match self.hops.iter().find(|hop| hop.node == node && !self.is_over()).map(|hop| hop.open) {
            // Whether it was asked, or has answered, nobody knows.
            Some(false) => self.lose(now, node, "its stream has ended", false, routes),
            Some(true) if self.running => self.again(now, &[node], routes),
            _ => {}
        }
        std::mem::take(&mut self.effects)
    }

    /// Lays the route anew, as a stream between these nodes has ended. Where that goes on, they are left out: they break, or do so to
    /// gain time.
    fn again(&mut self, now: u64, between: &[NodeId], routes: &mut dyn Routes) {
        let mut often = Vec::new();
        for node in between.iter().filter(|node| **node != self.me) {
            let (breaks, last) = self.breaks.entry(*node).or_default();
            if *breaks == 0 || now >= *last + BREAK_MS {
                (*breaks, *last) = (*breaks + 1, now);
            }
            often.extend((*breaks >= MAX_BREAKS || self.reroutes > MAX_REROUTES / 2).then_some(*node));
        }
        if often.is_empty() {
            return self.proceed(now);
        }
        often.into_iter().for_each(|node| self.lose(now, node, ENDED, false, routes));
    }

    /// What a node signed, it did not.
    pub fn lied(&mut self, now: u64, node: NodeId, routes: &mut dyn Routes) -> Vec<Effect> {
        self.lose(now, node, "its signature is none", true, routes);
        std::mem::take(&mut self.effects)
    }

    /// Time passes.
    pub fn tick(&mut self, now: u64, routes: &mut dyn Routes) -> Vec<Effect> {
        // Who computes for others answers later, but not much.
        let waits = |hop: &Hop, since: u64| !hop.open && now < hop.waits.min(since + BUSY_MS);
        let waited = |since: u64| self.hops.iter().any(|hop| waits(hop, since));
        let late = self.opening.is_some_and(|since| now >= since + OPEN_MS);
        let since = self.opening.unwrap_or(now);
        let slow = |hop: &&Hop| late && !hop.open && hop.node != self.me && !waits(hop, since);
        let slow: Vec<NodeId> = self.hops.iter().filter(slow).map(|hop| hop.node).collect();
        let over = slow.is_empty() && self.broken.is_some_and(|since| now >= since + REPAIR_MS && !waited(since));
        if self.is_over() {
            self.closes(now);
        } else if over {
            let why = self.unserved(routes);
            self.end(why);
        } else {
            for node in slow {
                self.lose(now, node, LATE, false, routes);
            }
            if self.broken.is_some() && self.opening.is_none() {
                self.repair(now, now >= self.again, routes);
            } else if self.running && !self.is_unsigned(now, routes) {
                self.watch(now, routes);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Ends the session; the stages may keep what they have for the client's next text.
    pub fn close(&mut self) -> Vec<Effect> {
        if !self.ended {
            self.finish();
        }
        std::mem::take(&mut self.effects)
    }

    /// Finds stages for what is missing, and opens them: first among those that were never left out, then, if `again`, among those that
    /// only seemed gone. Where only nodes are left that have other parts of the route, all of it is laid anew. What is not found now may be found later.
    fn repair(&mut self, now: u64, again: bool, routes: &mut dyn Routes) {
        let all: HashSet<NodeId> = self.without.keys().copied().collect();
        let bad: HashSet<NodeId> =
            self.without.iter().filter(|(_, for_good)| **for_good).map(|(node, _)| *node).collect();
        // Of those that only seem gone, who was lost last is asked last: another one may have been there all the time.
        let others = bad.iter().copied().chain(self.lost).collect();
        let found = [Some(&all), again.then_some(&others), again.then_some(&bad)]
            .into_iter()
            .flatten()
            .find_map(|without| self.gaps(without, routes));
        let Some((anew, stages)) = found else { return };
        if anew {
            for hop in std::mem::take(&mut self.hops) {
                self.effects.push(Effect::Send(hop.node, Frame::of(self.id, Close::default())));
            }
        }
        stages.into_iter().for_each(|(node, layers)| self.open(node, layers));
        self.hops.sort_by_key(|hop| hop.layers.start);
        self.opening = Some(now);
        self.proceed(now);
    }

    /// Stages for the layers that no hop has, or for all layers; which of the two comes first.
    fn gaps(&self, without: &HashSet<NodeId>, routes: &mut dyn Routes) -> Option<(bool, Stages)> {
        let mut used: HashSet<NodeId> = without.iter().copied().chain(self.hops.iter().map(|hop| hop.node)).collect();
        let (mut at, mut stages) = (0, Some(Vec::new()));
        let ends = self.hops.iter().map(|hop| hop.layers.clone());
        let node = |hop: Option<&Hop>| hop.map(|hop| hop.node);
        for (i, next) in ends.chain(std::iter::once(self.request.layers..self.request.layers)).enumerate() {
            if at < next.start
                && let Some(some) = stages.as_mut()
            {
                // The last one's tokens go to the first.
                let before = node(i.checked_sub(1).and_then(|i| self.hops.get(i)).or(self.hops.last()));
                let after = node(self.hops.get(i).or(self.hops.first()));
                match routes.route(at..next.start, before.zip(after), &used) {
                    Some(route) => {
                        used.extend(route.iter().map(|(node, _)| *node));
                        some.extend(route);
                    }
                    None => stages = None,
                }
            }
            at = next.end;
        }
        if let Some(stages) = stages {
            return Some((false, stages));
        }
        if self.hops.is_empty() {
            return None;
        }
        routes.route(0..self.request.layers, None, without).map(|stages| (true, stages))
    }

    /// The first layers that no open stage has.
    fn missing(&self) -> Range<u32> {
        let mut at = 0;
        for hop in self.hops.iter().filter(|hop| hop.open) {
            if hop.layers.start > at {
                return at..hop.layers.start;
            }
            at = hop.layers.end;
        }
        at..self.request.layers
    }

    /// Why the missing layers have no stages. Who refuses serves them, however often it was asked; so the first cause is that nobody does, then that
    /// nobody does for what is paid, and only then that there is no room, which is a matter of time.
    fn unserved(&self, routes: &mut dyn Routes) -> Failure {
        let missing = self.missing();
        let said = |node: &NodeId| self.refused.get(node).map(|(why, _)| *why);
        let gone = self.without.iter().filter(|(node, for_good)| **for_good && said(node).is_none());
        let mut without: HashSet<NodeId> = gone.map(|(node, _)| *node).collect();
        let brackets = |text: &str| if text.is_empty() { String::new() } else { format!(" ({text})") };
        if let Some(layers) = routes.gap(missing.clone(), &without) {
            return Failure::Unserved { layers, last: brackets(&self.last) };
        }
        for why in [FailedWhy::Unpaid, FailedWhy::Full] {
            let so = self.refused.iter().filter(|(node, _)| said(node) == Some(why));
            let words = so.clone().min_by_key(|(node, _)| **node).map_or("", |(_, (_, words))| words);
            without.extend(so.map(|(node, _)| *node));
            let last = brackets(words);
            match routes.gap(missing.clone(), &without) {
                Some(layers) if why == FailedWhy::Unpaid => return Failure::Unpaid { layers, last },
                Some(layers) => return Failure::Full { layers, last },
                None => {}
            }
        }
        Failure::Unserved { layers: missing, last: brackets(&self.last) }
    }

    fn open(&mut self, node: NodeId, layers: Range<u32>) {
        let last = layers.end == self.request.layers;
        if last {
            self.wrote = self.tokens.len();
        }
        let open = Open {
            nonce: self.nonce,
            model: self.request.model.0.to_vec().into(),
            first: layers.start,
            end: layers.end,
            room: self.request.sampling.limit,
            sampling: last.then(|| self.request.sampling.clone()),
            chunks: self.chunks(),
        };
        self.effects.push(Effect::Send(node, Frame::of(self.id, open)));
        self.signed.retain(|_, (known, ..)| *known != node);
        self.hops.push(Hop { node, layers, open: false, since: self.epoch + 1, leaves: false, waits: 0, proven: 0 });
    }

    /// Tells everybody the route, once all are open.
    fn proceed(&mut self, now: u64) {
        if self.hops.iter().any(|hop| !hop.open) || !self.missing().is_empty() {
            return;
        }
        self.epoch += 1;
        self.reroutes += 1;
        if self.reroutes > MAX_REROUTES {
            self.end(Failure::Hangs(self.last.clone()));
            return;
        }
        (self.running, self.opening, self.broken, self.asked) = (true, None, None, None);
        (self.heard, self.went, self.moved) = (now, now, 0);
        self.unsigned = self.unsigned.map(|(node, waited, _)| (node, waited, now));
        self.early.clear();
        let nodes: Vec<NodeId> = self.hops.iter().map(|hop| hop.node).collect();
        let bytes = |node: Option<&NodeId>| node.map(|node| node.0.to_vec().into()).unwrap_or_default();
        for (i, node) in nodes.iter().enumerate() {
            let last = i + 1 == nodes.len();
            let route = Route {
                epoch: self.epoch,
                before: bytes(i.checked_sub(1).and_then(|i| nodes.get(i))),
                after: bytes(nodes.get(i + 1)),
                first: bytes(nodes.first()),
                last: bytes(nodes.last()),
                from: self.tokens.len() as u32 - 1,
                tokens: if last { self.tokens.clone() } else { Vec::new() },
            };
            self.effects.push(Effect::Send(*node, Frame::of(self.id, route)));
        }
    }

    /// The first stage says where it stands, once in an epoch.
    fn feed(&mut self, have: &Have) {
        let (Some(hop), Some(rest)) = (self.hops.first(), self.tokens.get(have.have as usize..)) else { return };
        if have.epoch != self.epoch || self.fed == self.epoch {
            return;
        }
        self.fed = self.epoch;
        for (i, tokens) in rest.chunks(INPUT).enumerate() {
            let at = have.have + (i * INPUT) as u32;
            let input = Input { epoch: self.epoch, at, tokens: tokens.to_vec() };
            self.effects.push(Effect::Send(hop.node, Frame::of(self.id, input)));
        }
    }

    /// The last stage goes on with the text. Where that ends is no matter of its own.
    fn learn(&mut self, now: u64, from: NodeId, tokens: Tokens, routes: &mut dyn Routes) {
        if tokens.epoch != self.epoch || tokens.at as usize != self.tokens.len() {
            return;
        }
        let Some(finish) = self.ends_with(&tokens) else {
            return self.lose(now, from, "its tokens are none, or the text does not end so", true, routes);
        };
        (self.heard, self.went, self.asked, self.reroutes) = (now, now, None, 0);
        (self.delays, self.moved) = (0, 0);
        self.refused.clear();
        let mut logprobs = tokens.logprobs.into_iter();
        for token in tokens.tokens {
            self.tokens.push(token);
            self.effects.push(Effect::Token(token, logprobs.next()));
        }
        if finish != Finish::None {
            self.effects.push(Effect::Finished(finish));
            // The last token is not computed any more.
            let (epoch, positions) = (self.epoch, self.tokens.len() as u32 - 1);
            let others = self.hops.iter().any(|hop| hop.node != self.me);
            let chunks = if others { self.chunks() } else { Vec::new() };
            for hop in self.hops.iter().filter(|_| others) {
                let end = End { epoch, positions, chunks: chunks.clone() };
                self.effects.push(Effect::Send(hop.node, Frame::of(self.id, end)));
            }
            self.closing = Some(if others { now + LAST_MS } else { now });
        }
    }

    /// How the text ends with these tokens, if they are what a stage may choose.
    fn ends_with(&self, tokens: &Tokens) -> Option<Finish> {
        let (sampling, is_one) = (&self.request.sampling, |token: u32| token < self.request.vocabulary);
        let (last, others) = tokens.tokens.split_last()?;
        let length = self.tokens.len() + tokens.tokens.len();
        let finish = match sampling.ends.contains(last) {
            true => Finish::Stop,
            false if length >= sampling.limit as usize => Finish::Length,
            false => Finish::None,
        };
        let told = tokens.logprobs.iter().flat_map(|logprob| &logprob.top).all(|one| is_one(one.token));
        let follow = others.iter().all(|token| is_one(*token) && !sampling.ends.contains(token));
        let right = is_one(*last) && follow && told && length <= sampling.limit as usize && tokens.finish() == finish;
        right.then_some(finish)
    }

    /// A stage says what came to it and what it gave out. What came must be what the one before gave, and the text at both ends.
    fn take(&mut self, now: u64, hop: usize, signed: ailo_proto::Signed, routes: &mut dyn Routes) {
        let (node, layers, chunk) = (self.hops[hop].node, self.hops[hop].layers.clone(), signed.chunk);
        let (Ok(came), Ok(gave), Ok(signature)) = (
            <[u8; 32]>::try_from(&signed.came[..]),
            <[u8; 32]>::try_from(&signed.gave[..]),
            <[u8; 64]>::try_from(&signed.signature[..]),
        ) else {
            return self.lose(now, node, "it signs what can't be read", false, routes);
        };
        let (came, gave, last) = (Hash(came), Hash(gave), layers.end == self.request.layers);
        let whole = (chunk as usize + 1) * CHUNK;
        let end = if self.closing.is_some() { whole.min(self.tokens.len() - 1) } else { whole };
        let (Some(text), Some(token)) = (self.text_to(chunk as usize, end), self.tokens.get(end).copied()) else {
            // It may be faster than the token that makes the chunk whole, but not by much.
            if signed.epoch == self.epoch && self.early.iter().filter(|(known, _)| *known == node).count() < MAX_EARLY {
                self.early.push((node, signed));
            }
            return;
        };
        let next = proof::next(&self.request.sampling, &text, token);
        // Who has chosen all tokens that were not given answers for them.
        let answers = proof::answers(chunk as usize, self.wrote, &self.request.sampling);
        if last && signed.wrote != answers {
            return self.lose(now, node, "it does not answer for what it wrote", false, routes);
        }
        if layers.start == 0 && came != text {
            // It computes another text, or was told of other tokens than the client was.
            let last = self.hops[self.hops.len() - 1].node;
            self.lose(now, node, "it signs another text", false, routes);
            return self.lose(now, last, "the first stage signs another text than it gave", false, routes);
        }
        let key = (chunk, layers.start, layers.end);
        let known = self.signed.get(&key).filter(|(known, ..)| *known == node);
        if known.is_some_and(|(_, known_came, known_gave)| (*known_came, *known_gave) != (came, gave)) {
            return self.lose(now, node, "it signs two different things", true, routes);
        }
        let of = |hop: &Hop| {
            self.signed.get(&(chunk, hop.layers.start, hop.layers.end)).filter(|(node, ..)| *node == hop.node)
        };
        // Where a stage is missing, those beside it are no neighbours.
        let before = hop.checked_sub(1).map(|before| &self.hops[before]).filter(|hop| hop.layers.end == layers.start);
        let behind = self.hops.get(hop + 1).filter(|hop| hop.layers.start == layers.end);
        let other = before.filter(|hop| of(hop).is_some_and(|(_, _, gave)| *gave != came));
        let other = other.or(behind.filter(|hop| of(hop).is_some_and(|(_, came, _)| *came != gave)));
        if let Some(other) = other.map(|hop| hop.node) {
            // One of them signs two different things, and nobody knows which.
            self.lose(now, node, "its neighbour signs something else", false, routes);
            return self.lose(now, other, "its neighbour signs something else", false, routes);
        }
        if self.signed.insert(key, (node, came, gave)) != Some((node, came, gave)) {
            let (session, model) = (self.id, self.request.model);
            let next = if last && answers { next } else { Hash::ZERO };
            let (first, end, height) = (layers.start, layers.end, signed.height);
            let statement = Statement { session, model, first, end, chunk, came, gave, next, height };
            self.effects.push(Effect::Signed(Signed { node, statement, signature: Signature(signature) }));
        }
        let signs = |chunk| self.signed.get(&(chunk, layers.start, layers.end)).is_some_and(|(by, ..)| *by == node);
        let proven = (self.hops[hop].proven..).find(|chunk| !signs(*chunk));
        self.hops[hop].proven = proven.unwrap_or_default();
    }

    /// Leaves out who has not signed what is written long since.
    fn is_unsigned(&mut self, now: u64, routes: &mut dyn Routes) -> bool {
        // Until a token comes the stages may have a long text to read; a token shows that they have.
        if self.reroutes > 0 {
            self.unsigned = self.unsigned.map(|(node, waited, _)| (node, waited, now));
            return false;
        }
        let due = (self.tokens.len() / CHUNK).checked_sub(3);
        let Some((node, before)) = due.and_then(|chunk| self.silent(chunk)) else {
            self.unsigned = None;
            return false;
        };
        let waited = self.unsigned.filter(|(known, ..)| *known == node).map_or(0, |(_, waited, at)| waited + now - at);
        self.unsigned = Some((node, waited, now));
        if waited < UNSIGNED_MS {
            return false;
        }
        self.unsigned = None;
        self.lose(now, node, UNSIGNS, false, routes);
        if let Some(before) = before {
            self.lose(now, before, KEPT, false, routes);
        }
        true
    }

    /// The first stage that has not signed a chunk, and the one before it, which may have kept its own word from it.
    fn silent(&self, chunk: usize) -> Option<(NodeId, Option<NodeId>)> {
        let signs = |hop: &Hop| {
            let by = self.signed.get(&(chunk as u32, hop.layers.start, hop.layers.end)).map(|(node, ..)| *node);
            hop.node == self.me || by == Some(hop.node)
        };
        let at = self.hops.iter().position(|hop| !signs(hop))?;
        let before = at.checked_sub(1).map(|before| self.hops[before].node).filter(|node| *node != self.me);
        Some((self.hops[at].node, before))
    }

    /// The hash of the text up to a chunk's end, if it is written.
    fn text(&mut self, chunk: usize) -> Option<Hash> {
        while self.texts.len() <= chunk {
            let start = self.texts.len() * CHUNK;
            let tokens = self.tokens.get(start..start + CHUNK)?;
            self.texts.push(chunk_after(self.texts.last().unwrap_or(&Hash::ZERO), tokens));
        }
        self.texts.get(chunk).copied()
    }

    /// The same up to a place in the chunk.
    fn text_to(&mut self, chunk: usize, end: usize) -> Option<Hash> {
        if end == (chunk + 1) * CHUNK {
            return self.text(chunk);
        }
        let before = chunk.checked_sub(1).map_or(Some(Hash::ZERO), |before| self.text(before))?;
        let rest = self.tokens.get(chunk * CHUNK..end).filter(|rest| !rest.is_empty())?;
        Some(chunk_after(&before, rest))
    }

    fn failed(&mut self, now: u64, hop: usize, failed: ailo_proto::Failed, routes: &mut dyn Routes) {
        let why = failed.why();
        // At most what a person can read.
        let reason: String = failed.reason.chars().take(200).collect();
        let sender = self.hops[hop].node;
        // Each stage knows those beside it alone; the last one's tokens go to the first.
        let beside = |(at, _): &(usize, &Hop)| *at != hop && [1, self.hops.len() - 1].contains(&at.abs_diff(hop));
        let beside = self.hops.iter().enumerate().filter(beside).map(|(_, hop)| hop.node);
        let named = beside.into_iter().find(|node| node.0[..] == failed.node[..]);
        match why {
            FailedWhy::Neighbour => {
                if let Some(node) = named.filter(|_| failed.epoch == self.epoch) {
                    let blames = self.blames.entry(sender).or_default();
                    *blames += 1;
                    let often = *blames >= MAX_BLAMES && sender != self.me;
                    self.lose(now, node, &reason, false, routes);
                    if often {
                        self.lose(now, sender, "it blames others again and again", false, routes);
                    }
                }
            }
            FailedWhy::Stream => {
                if failed.epoch == self.epoch && self.running {
                    let between: Vec<NodeId> = std::iter::once(sender).chain(named).collect();
                    self.again(now, &between, routes);
                }
            }
            // What is computed here has time.
            FailedWhy::Leaving if sender == self.me || std::mem::replace(&mut self.hops[hop].leaves, true) => {}
            FailedWhy::Leaving => {
                // It goes on for a while, if nobody can take over.
                let leaving = self.hops.remove(hop);
                let without = self.without.keys().copied().chain([sender]).collect();
                let others = self.gaps(&without, routes).is_some();
                self.hops.insert(hop, leaving);
                if others {
                    self.lose(now, sender, &reason, false, routes);
                }
            }
            // Who says so is asked no more, so the second one is another stage. This node's own does not lie about what it is asked.
            FailedWhy::Client | FailedWhy::Compute => {
                // What can't be computed may be the fault of who gave it out, if that is not this node: then neither is left out for good.
                let layers = &self.hops[hop].layers;
                let before = hop.checked_sub(1).map(|before| &self.hops[before]);
                let gave = before.filter(|before| why == FailedWhy::Compute && before.layers.end == layers.start);
                let before = gave.map(|before| before.node).filter(|before| *before != self.me);
                let for_good = before.is_none() && (why == FailedWhy::Client || layers.start == 0 || gave.is_some());
                let (at, (known, count, last)) = (self.tokens.len(), self.failures);
                let (count, last) = if known == at { (count, last) } else { (0, None) };
                // The same one's rows show nothing new.
                let news = before.is_none() || before != last;
                self.failures = (at, count + usize::from(news), before);
                let ends = self.failures.1 >= MAX_FAILURES && news;
                match why {
                    FailedWhy::Client if ends || sender == self.me => self.end(Failure::Refused(reason)),
                    FailedWhy::Compute if ends => self.end(Failure::Compute(reason)),
                    _ => {
                        self.lose(now, sender, &reason, for_good, routes);
                        if let Some(before) = before {
                            self.lose(now, before, "the one behind it can't compute what it gave out", false, routes);
                        }
                    }
                }
            }
            FailedWhy::Full | FailedWhy::Unpaid => {
                self.refused.insert(sender, (why, reason.clone()));
                self.lose(now, sender, &reason, false, routes);
            }
            FailedWhy::Unknown => self.lose(now, sender, &reason, false, routes),
        }
    }

    /// Goes on without a node.
    fn lose(&mut self, now: u64, node: NodeId, why: &str, for_good: bool, routes: &mut dyn Routes) {
        if self.is_over() || !self.hops.iter().any(|hop| hop.node == node) {
            return;
        }
        self.effects.push(Effect::LeftOut(node, why.into()));
        // In case that it lives and only seems dead.
        self.effects.push(Effect::Send(node, Frame::of(self.id, Close::default())));
        // What somebody asked to wait for is not time that the others had.
        if self.delays < MAX_DELAYS && self.hops.iter().any(|hop| hop.node == node && !hop.open && hop.waits > 0) {
            (self.delays, self.broken) = (self.delays + 1, Some(now));
        }
        let again = self.opened.get(&node).is_some_and(|(count, _)| *count >= MAX_OPENED);
        *self.without.entry(node).or_default() |= for_good || again;
        self.lost = Some(node);
        self.hops.retain(|hop| hop.node != node);
        (self.running, self.asked, self.opening) = (false, None, None);
        self.broken.get_or_insert(now);
        self.last = why.into();
        self.again = now + (AGAIN_MS << self.reroutes.min(4)) / 2;
        self.repair(now, false, routes);
    }

    /// Asks where the text hangs, when nothing has come for a while.
    fn watch(&mut self, now: u64, routes: &mut dyn Routes) {
        if self.hops.iter().all(|hop| hop.node == self.me) {
            return;
        }
        let Some(asked) = &mut self.asked else {
            if now >= self.heard + STALL_MS {
                self.ask(now, None);
            }
            return;
        };
        if now < asked.at + WHERE_MS {
            return;
        }
        // Who computes for others says where it is when it has done so.
        if self.hops.iter().any(|hop| now < hop.waits) && now < self.heard + BUSY_MS {
            self.asked = None;
            return;
        }
        let answers = std::mem::take(&mut asked.answers);
        let Some(before) = asked.before.take() else {
            self.ask(now, Some(answers));
            return;
        };
        let nodes: Vec<NodeId> = self.hops.iter().map(|hop| hop.node).collect();
        if let Some(silent) = nodes.iter().find(|node| !answers.contains_key(node) && !before.contains_key(node)) {
            self.lose(now, *silent, SILENT, false, routes);
            return;
        }
        // It moves, if slowly: farther than ever since the last token, and no farther than the text is long; but not for ever.
        let most = self.tokens.len() + MAX_DRAFTS + 1;
        let place = |place: &Place| [place.received, place.computed, place.sent].map(|at| (at as usize).min(most));
        let moved: usize = answers.values().flat_map(place).sum();
        if moved > self.moved && now < self.went + READS_MS + READS_EACH_MS * self.tokens.len() as u64 {
            (self.heard, self.moved) = (now, moved);
            self.asked = None;
            return;
        }
        // The first that did not do what it had; or that did not get what was sent, and who says that it sent it; or the last one, which is silent.
        let mut sent = self.tokens.len() as u32;
        let (mut stuck, mut before_it, mut last) = (nodes[nodes.len() - 1], None, None);
        for node in &nodes {
            let Some(place) = answers.get(node) else { break };
            let received = if *node == nodes[0] { sent } else { place.received };
            if received < sent || place.computed < received {
                let computes = before.get(node).is_some_and(|before| before.passes != place.passes);
                if received >= sent && computes && now < self.heard + BUSY_MS {
                    // For others, at the moment.
                    self.asked = None;
                    return;
                }
                (stuck, before_it) = (*node, last.filter(|last| received < sent && *last != self.me));
                break;
            }
            (sent, last) = (place.sent, Some(*node));
        }
        self.lose(now, stuck, STUCK, false, routes);
        if let Some(before) = before_it {
            self.lose(now, before, STUCK, false, routes);
        }
    }

    fn ask(&mut self, now: u64, before: Option<HashMap<NodeId, Place>>) {
        for hop in &self.hops {
            self.effects.push(Effect::Send(hop.node, Frame::of(self.id, Where {})));
        }
        self.asked = Some(Asked { at: now, answers: HashMap::new(), before });
    }

    /// What the text's beginnings are found by.
    fn chunks(&mut self) -> Vec<Bytes> {
        let whole = self.tokens.len() / CHUNK;
        let _ = whole.checked_sub(1).and_then(|last| self.text(last)); // Makes them, up to the last.
        let owned = |hash: &Hash| Hash::of_parts(Domain::Session, &[b"owned", &self.request.owner.0, &hash.0]);
        self.texts[..whole].iter().map(|hash| owned(hash).0.to_vec().into()).collect()
    }

    fn end(&mut self, why: Failure) {
        self.ended = true;
        // What a stage that failed may have spoilt is not kept.
        for hop in &self.hops {
            self.effects.push(Effect::Send(hop.node, Frame::of(self.id, Close::default())));
        }
        self.effects.push(Effect::Failed(why));
    }

    /// Closes a text that is written, once all have signed to its end, or the time for it is over, also for who computes for others.
    fn closes(&mut self, now: u64) {
        let Some(until) = self.closing else { return };
        let silent = self.silent(self.tokens.len().saturating_sub(2) / CHUNK);
        let waits = self.hops.iter().any(|hop| now < hop.waits.min(until + BUSY_MS));
        if silent.is_some() && (now < until || waits) {
            return;
        }
        let silent = silent.into_iter().flat_map(|(node, before)| [Some(node), before]).flatten();
        self.effects.extend(silent.map(Effect::Unsigned));
        self.finish();
    }

    fn finish(&mut self) {
        (self.ended, self.closing) = (true, None);
        let chunks = self.chunks();
        for hop in &self.hops {
            self.effects.push(Effect::Send(hop.node, Frame::of(self.id, Close { chunks: chunks.clone() })));
        }
    }
}

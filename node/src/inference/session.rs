//! One text that this node asks for: drives the client's core, and gives tokens as they come.

use super::{
    check,
    hub::{Hub, News},
    model::Model,
};
use ailo_proto::{Finish, Logprob, Sampling};
use ailo_protocol::{
    Hash, NodeId,
    inference::{
        client::{Client, Effect, Request, Routes},
        proof::Signed,
    },
    keys,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Receiver;

/// How often a session looks at the clock.
const TICK: Duration = Duration::from_millis(50);

/// What a session gives.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The next token.
    Token(u32, Option<Logprob>),
    /// The text has ended.
    Finished(Finish),
    /// It can't go on: why.
    Failed(String),
}

/// A text that is being written. Dropping it ends it everywhere.
pub struct Session {
    hub: Arc<Hub>,
    client: Client,
    news: Receiver<News>,
    /// Round trips that this node has measured, in microseconds.
    near: HashMap<NodeId, u32>,
    model: Arc<Model>,
    sampling: Sampling,
    started: Instant,
    events: VecDeque<Event>,
    /// What stages signed.
    signed: Vec<Signed>,
    over: bool,
}

/// What is known when a route is looked for.
struct Now<'a> {
    hub: &'a Hub,
    model: Hash,
    near: &'a HashMap<NodeId, u32>,
}

impl Routes for Now<'_> {
    fn route(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Vec<(NodeId, Range<u32>)>> {
        let without = without | &self.hub.liars();
        self.hub.known().routes(self.model, *self.hub.node(), self.near).route(layers, &without)
    }
}

impl Session {
    /// Asks for what follows `tokens`, which are one at least.
    pub fn start(
        hub: &Arc<Hub>,
        model: &Arc<Model>,
        near: HashMap<NodeId, u32>,
        tokens: Vec<u32>,
        sampling: Sampling,
    ) -> Session {
        let nonce = Hash(keys::random_bytes()).stream().next_u64();
        let request = Request { model: model.id, layers: model.shape.layers as u32, tokens, sampling };
        let (limit, sampling) = (request.sampling.limit as usize, request.sampling.clone());
        let client = Client::new(hub.node(), nonce, request);
        let mut session = Session {
            news: hub.listen(client.id(), limit),
            hub: hub.clone(),
            client,
            near,
            model: model.clone(),
            sampling,
            started: Instant::now(),
            events: VecDeque::new(),
            signed: Vec::new(),
            over: false,
        };
        let effects = session.client.start(0, &mut Now { hub, model: model.id, near: &session.near });
        session.act(effects);
        session
    }

    /// What comes next; none after the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.over |= !matches!(event, Event::Token(..));
                return Some(event);
            }
            if self.over {
                return None;
            }
            let news = tokio::time::timeout(TICK, self.news.recv()).await;
            let now = self.started.elapsed().as_millis() as u64;
            let mut routes = Now { hub: &self.hub, model: self.model.id, near: &self.near };
            let effects = match news {
                Ok(Some(News::Frame(from, frame))) => self.client.handle(now, from, frame, &mut routes),
                Ok(Some(News::Gone(node))) => self.client.gone(now, node, &mut routes),
                // The thread that computes here is not watched by the session's core.
                _ if !self.hub.computes() => self.client.gone(now, *self.hub.node(), &mut routes),
                _ => Vec::new(),
            };
            let later = self.client.tick(now, &mut routes);
            self.act(effects);
            self.act(later);
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, frame) => self.hub.send(to, frame),
                Effect::Token(token, logprob) => self.events.push_back(Event::Token(token, logprob)),
                Effect::Finished(finish) => {
                    self.events.push_back(Event::Finished(finish));
                    let signed = std::mem::take(&mut self.signed);
                    check::perhaps(&self.hub, &self.model, self.client.tokens(), &self.sampling, signed);
                }
                Effect::Failed(why) => self.events.push_back(Event::Failed(why)),
                Effect::LeftOut(node, why) => tracing::info!(node = %node.short(), why, "a stage was left out"),
                Effect::Signed(signed) if signed.verify(self.hub.network()) => self.signed.push(signed),
                Effect::Signed(signed) => {
                    let now = self.started.elapsed().as_millis() as u64;
                    let mut routes = Now { hub: &self.hub, model: self.model.id, near: &self.near };
                    let effects = self.client.lied(now, signed.node, &mut routes);
                    self.act(effects);
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let effects = self.client.close();
        self.act(effects);
    }
}

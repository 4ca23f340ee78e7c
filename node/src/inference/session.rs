//! One text that this node asks for: drives the client's core, and gives tokens as they come.

use super::{
    check,
    court::{Court, Untaken},
    hub::{Hub, News},
    model::Model,
    payment::{Budget, Pays, Unpayable},
};
use crate::logs::spans::{ended, traced};
use ailo_proto::{Finish, Frame, Logprob, Pay, Sampling, frame::Body};
use ailo_protocol::{
    Amount, Hash, NodeId, canonical,
    inference::{
        client::{self, Client, Effect, Request, Routes},
        pace::Pace,
        proof::Signed,
        routes::Wanted,
        tabs::Service,
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
use tracing::{Span, field::Empty};

/// Positions that are paid for beyond those that a stage has proven to have computed, and the part of these that may be more.
const AHEAD: u32 = 64;
const AHEAD_PART: u32 = 4;
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
    Failed(Failure),
}

/// Why a text can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody writes it.
    #[error(transparent)]
    Text(#[from] client::Failure),
    /// Nobody pays for it.
    #[error(transparent)]
    Money(#[from] Unpayable),
}

/// A text that is being written. Dropping it ends it everywhere; but one that is written waits for what its stages sign last.
pub struct Session(Option<Asking>);

/// The same, as long as anything is to be done for it.
struct Asking {
    hub: Arc<Hub>,
    client: Client,
    news: Receiver<News>,
    reach: Reach,
    model: Arc<Model>,
    sampling: Sampling,
    started: Instant,
    events: VecDeque<Event>,
    /// What stages signed.
    signed: Vec<Signed>,
    /// What each stage asked for a unit, positions that it is paid for, and what says so.
    paid: HashMap<NodeId, (Amount, u32, Option<Pay>)>,
    /// From the request to the first token, and who was told.
    latency_ms: u32,
    attested: HashSet<NodeId>,
    /// How fast tokens come.
    pace: Pace,
    over: bool,
    /// What traces tell of it, until it ends; tokens that were written.
    span: Span,
    written: i64,
}

/// Whom a text may go through, and for how much.
#[derive(Default)]
pub struct Reach {
    /// What whoever asks may spend; none: whatever the node may.
    pub budget: Option<Arc<dyn Budget>>,
    /// Round trips that this node has measured, in microseconds.
    pub near: HashMap<NodeId, u32>,
    /// Who is left out if there is a way without them. Such a text is a spot check, and read again by whoever asked for it.
    pub avoid: HashSet<NodeId>,
    /// Whose text it is, among those whom this node answers: only theirs are gone on with.
    pub owner: Hash,
}

/// What is known when a route is looked for.
struct Now<'a> {
    hub: &'a Hub,
    wanted: Wanted<'a>,
    avoid: &'a HashSet<NodeId>,
}

/// What a text of so many positions asks for.
fn wanted<'a>(hub: &Hub, model: &Model, reach: &'a Reach, positions: u32) -> Wanted<'a> {
    let bytes = |bytes: usize| bytes as u64 * u64::from(positions);
    // As a stage counts: keys and values of each layer, rows that come, and rows that it gives out.
    let rows = 2 * size_of::<f32>() * model.shape.width;
    let bytes = (bytes(rows), bytes(model.shape.cache_bytes()));
    Wanted { model: model.id, client: *hub.node(), near: &reach.near, bytes }
}

impl Now<'_> {
    /// What a unit may cost.
    fn most(&self) -> Amount {
        self.hub.pays.as_ref().map_or(Amount::ZERO, Pays::most)
    }

    /// Some nodes, and whoever has lied, is jailed by the ledger, or costs more than `most`.
    fn without(&self, some: &HashSet<NodeId>, most: Amount) -> HashSet<NodeId> {
        let mut without = some | &self.hub.liars();
        without.extend(self.hub.court.iter().flat_map(Court::jailed));
        without.extend(self.hub.known().all().filter(|known| known.price > most).map(|known| known.node));
        // Its own price is nothing to it; but it may have been left out.
        if !some.contains(self.hub.node()) {
            without.remove(self.hub.node());
        }
        without
    }

    /// Stages of all others.
    fn find(
        &self,
        layers: &Range<u32>,
        between: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
        most: Amount,
    ) -> Option<client::Stages> {
        let without = self.without(without, most);
        let route =
            |without: &HashSet<NodeId>| self.hub.known().routes(self.wanted).route(layers.clone(), between, without);
        let only = (!self.avoid.is_empty()).then(|| route(&(&without | self.avoid))).flatten();
        only.or_else(|| route(&without))
    }

    /// Whether it is only their price for which these layers are served by nobody.
    fn dear(&self, layers: &Range<u32>) -> Option<Unpayable> {
        let most = self.hub.pays.as_ref().map(Pays::most);
        if self.find(layers, None, &HashSet::new(), self.most()).is_some() {
            return None;
        }
        let stages = self.find(layers, None, &HashSet::new(), Amount(u64::MAX))?;
        let others = stages.iter().filter(|(node, _)| node != self.hub.node());
        let prices = others.filter_map(|(node, _)| self.hub.known().price(node));
        let price = prices.max().filter(|price| *price > most.unwrap_or(Amount::ZERO))?;
        Some(Unpayable::Dear { layers: layers.clone(), price, most })
    }
}

impl Routes for Now<'_> {
    fn route(
        &mut self,
        layers: Range<u32>,
        between: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<client::Stages> {
        self.find(&layers, between, without, self.most())
    }

    fn gap(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Range<u32>> {
        let without = self.without(without, self.most());
        self.hub.known().routes(self.wanted).gap(layers, &without)
    }
}

/// Up to where a stage is paid that is paid for `paid` positions and has proven so many, of a text that is `known` so far.
fn ahead(known: u32, proven: u32, paid: u32, limit: u32) -> u32 {
    let more = AHEAD.max(proven / AHEAD_PART);
    let upto = |ahead: u32| (proven + more / ahead).min(known + AHEAD / ahead).min(limit);
    // A few large payments are as good as many small ones.
    if paid >= upto(2) { paid } else { upto(1) }
}

impl Session {
    /// Asks for what follows `tokens`, which are one at least.
    pub fn start(hub: &Arc<Hub>, model: &Arc<Model>, reach: Reach, tokens: Vec<u32>, sampling: Sampling) -> Session {
        Session(Some(Asking::start(hub, model, reach, tokens, sampling)))
    }

    /// What comes next; none after the end, when the stages have signed all of it, or had the time to.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.as_mut()?.next().await
    }

    /// Who computes the text now, and which layers.
    pub fn stages(&self) -> Vec<(NodeId, Range<u32>)> {
        self.0.as_ref().map(|asking| asking.client.open_stages()).unwrap_or_default()
    }

    /// The text so far, and what stages have signed of it.
    pub fn evidence(&mut self) -> (Vec<u32>, Vec<Signed>) {
        self.0.as_mut().map(Asking::evidence).unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever reads the text does not wait for it.
        if let Some(mut asking) = self.0.take_if(|asking| asking.client.is_closing())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { while asking.next().await.is_some() {} });
        }
    }
}

impl Asking {
    fn start(hub: &Arc<Hub>, model: &Arc<Model>, reach: Reach, tokens: Vec<u32>, sampling: Sampling) -> Asking {
        hub.texts.begin();
        let nonce = Hash(keys::random_bytes()).stream().next_u64();
        let (layers, vocabulary) = (model.shape.layers as u32, model.shape.vocabulary as u32);
        let span = traced!(
            "text",
            tokens_read = tokens.len() as i64,
            tokens_written = Empty,
            first_token_ms = Empty,
            stages = Empty
        );
        let request = Request { model: model.id, layers, vocabulary, tokens, sampling, owner: reach.owner };
        let (limit, sampling) = (request.sampling.limit as usize, request.sampling.clone());
        let client = Client::new(hub.node(), nonce, request);
        let mut session = Asking {
            news: hub.listen(client.id(), limit),
            hub: hub.clone(),
            client,
            reach,
            model: model.clone(),
            sampling,
            started: Instant::now(),
            events: VecDeque::new(),
            signed: Vec::new(),
            paid: HashMap::new(),
            latency_ms: u32::MAX,
            attested: HashSet::new(),
            pace: Pace::default(),
            over: false,
            span,
            written: 0,
        };
        let wanted = wanted(hub, model, &session.reach, session.sampling.limit);
        let mut routes = Now { hub, wanted, avoid: &session.reach.avoid };
        let effects = session.client.start(0, &mut routes);
        session.act(effects);
        session.settle();
        session
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                let ends = !matches!(event, Event::Token(..));
                if ends && !self.over {
                    let finished = matches!(event, Event::Finished(_));
                    self.hub.texts.end(finished);
                    self.tell(if finished { "finished" } else { "failed" }, !finished);
                }
                self.over |= ends;
                return Some(event);
            }
            if self.over && !self.client.is_closing() {
                return None;
            }
            match tokio::time::timeout(TICK, self.news.recv()).await {
                Ok(Some(news)) => {
                    self.take(news);
                    // Whoever was not asked for long did not hear: what has come is no late answer.
                    for _ in 0..self.news.len() {
                        let Ok(news) = self.news.try_recv() else { break };
                        self.take(news);
                    }
                }
                // The thread that computes here is not watched by the session's core.
                _ if !self.hub.computes() => self.take(News::Gone(*self.hub.node())),
                _ => {}
            }
            let now = self.started.elapsed().as_millis() as u64;
            let wanted = wanted(&self.hub, &self.model, &self.reach, self.sampling.limit);
            let mut routes = Now { hub: &self.hub, wanted, avoid: &self.reach.avoid };
            let effects = self.client.tick(now, &mut routes);
            self.act(effects);
            self.settle();
        }
    }

    /// Something has come for the session.
    fn take(&mut self, news: News) {
        let now = self.started.elapsed().as_millis() as u64;
        let wanted = wanted(&self.hub, &self.model, &self.reach, self.sampling.limit);
        let mut routes = Now { hub: &self.hub, wanted, avoid: &self.reach.avoid };
        let effects = match news {
            News::Frame(from, frame, at) => {
                let effects = self.client.handle(now, from, frame, &mut routes);
                self.measure(at, &effects);
                effects
            }
            News::Gone(node) => self.client.gone(now, node, &mut routes),
            News::Broken(node) => {
                let effects = self.client.broken(now, node, &mut routes);
                // Payment may be lost, too; a receipt that came counts once.
                if let Some((_, _, Some(pay))) = self.paid.get(&node) {
                    self.hub.send(node, Frame::of(self.client.id(), pay.clone()));
                }
                effects
            }
        };
        self.act(effects);
    }

    /// Remembers how long tokens take by the route that they came by.
    fn measure(&mut self, came: Instant, effects: &[Effect]) {
        let tokens = effects.iter().filter(|effect| matches!(effect, Effect::Token(..))).count();
        if tokens > 0 {
            let (now, route) = ((came - self.started).as_micros() as u64, self.client.open_stages());
            if let Some(took_us) = self.pace.came(now, tokens as u32, &route) {
                self.hub.saw(&route, took_us, wanted(&self.hub, &self.model, &self.reach, self.sampling.limit));
            }
        }
    }

    fn now(&self) -> Now<'_> {
        let wanted = wanted(&self.hub, &self.model, &self.reach, self.sampling.limit);
        Now { hub: &self.hub, wanted, avoid: &self.reach.avoid }
    }

    /// Pays all stages ahead of what they have proven, once all are open. What can't be paid ends the text.
    fn settle(&mut self) {
        let (known, limit) = (self.client.tokens().len() as u32, self.sampling.limit);
        for (node, layers) in self.client.open_stages() {
            let Some(pays) = self.hub.pays.as_ref().filter(|_| node != *self.hub.node()) else { continue };
            let Some(proven) = self.client.proven(&node) else { continue };
            // The price is that of the session's beginning.
            let asked = || self.hub.known().price(&node).unwrap_or_default();
            let (price, paid) = self.paid.get(&node).map_or_else(|| (asked(), 0), |(price, paid, _)| (*price, *paid));
            // The first token tells how fast the request was answered: that is attested at once.
            let news = self.latency_ms < u32::MAX && self.attested.insert(node);
            let upto = ahead(known, proven as u32, paid, limit);
            if price == Amount::ZERO || upto == paid && !(news && paid > 0) {
                continue;
            }
            if price > pays.most() {
                let now = self.started.elapsed().as_millis() as u64;
                let wanted = wanted(&self.hub, &self.model, &self.reach, self.sampling.limit);
                let mut routes = Now { hub: &self.hub, wanted, avoid: &self.reach.avoid };
                let effects = self.client.gone(now, node, &mut routes);
                return self.act(effects);
            }
            let (model, total) = (self.model.id, self.model.shape.layers as u32);
            let service = Service { node, model, first: layers.start, end: layers.end, total, price };
            match pays.pay(service, u64::from(upto - paid), self.latency_ms, self.reach.budget.as_deref()) {
                Ok(receipt) => {
                    let pay = Pay { receipt: canonical::encode(&receipt).into(), upto };
                    self.hub.send(node, Frame::of(self.client.id(), pay.clone()));
                    self.paid.insert(node, (price, upto, Some(pay)));
                }
                Err(why) => {
                    let effects = self.client.close();
                    self.act(effects);
                    self.events.push_back(Event::Failed(why.into()));
                    return;
                }
            }
        }
    }

    /// Says who computes it, once the first token has come.
    fn tell_of_stages(&self, waited_ms: u32) {
        let stage = |(node, layers): (NodeId, Range<u32>)| format!("{} {}..{}", node.short(), layers.start, layers.end);
        let stages: Vec<String> = self.client.open_stages().into_iter().map(stage).collect();
        self.span.record("stages", stages.join(", "));
        self.span.record("first_token_ms", i64::from(waited_ms));
    }

    /// Says how it has ended, which is said once.
    fn tell(&mut self, outcome: &str, failed: bool) {
        let span = std::mem::replace(&mut self.span, Span::none());
        span.record("tokens_written", self.written);
        ended(&span, outcome, failed);
    }

    fn evidence(&mut self) -> (Vec<u32>, Vec<Signed>) {
        (self.client.tokens().to_vec(), std::mem::take(&mut self.signed))
    }

    /// Reads the text again, if the lot says so.
    fn check(&mut self) {
        if self.reach.avoid.is_empty() {
            let (tokens, signed) = self.evidence();
            check::perhaps(&self.hub, &self.model, &tokens, &self.sampling, signed);
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, frame) => {
                    // A stage that begins anew has been paid for nothing.
                    match &frame.body {
                        Some(Body::Open(open)) => {
                            self.paid.remove(&to);
                            self.hub.goes_on(&open.chunks);
                            self.hub.attend(&self.client.id(), to, true);
                        }
                        Some(Body::End(end)) => self.hub.ends(&self.client.id(), end),
                        Some(Body::Close(_)) => self.hub.attend(&self.client.id(), to, false),
                        _ => {}
                    }
                    self.hub.send(to, frame);
                }
                Effect::Token(token, logprob) => {
                    let waited = self.started.elapsed();
                    self.hub.texts.token((self.latency_ms == u32::MAX).then_some(waited));
                    let waited = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
                    if self.latency_ms == u32::MAX && !self.span.is_disabled() {
                        self.tell_of_stages(waited);
                    }
                    self.latency_ms = self.latency_ms.min(waited);
                    self.written += 1;
                    self.events.push_back(Event::Token(token, logprob));
                }
                Effect::Finished(finish) => self.events.push_back(Event::Finished(finish)),
                Effect::Failed(why) => {
                    let dear = match &why {
                        client::Failure::Unserved { layers, .. } => self.now().dear(layers),
                        _ => None,
                    };
                    self.events.push_back(Event::Failed(dear.map_or_else(|| why.into(), Failure::Money)));
                }
                Effect::LeftOut(node, why) => {
                    if client::HANGS.contains(&why.as_str()) {
                        self.hub.hung(node);
                    }
                    tracing::info!(node = %node.short(), why, "a stage was left out");
                }
                Effect::Unsigned(node) => {
                    if self.hub.owed(&self.client.id()) {
                        self.hub.hung(node);
                        tracing::info!(node = %node.short(), "a text's end is not signed");
                    }
                }
                Effect::Signed(signed) => {
                    let now = self.started.elapsed().as_millis() as u64;
                    let wanted = wanted(&self.hub, &self.model, &self.reach, self.sampling.limit);
                    let mut routes = Now { hub: &self.hub, wanted, avoid: &self.reach.avoid };
                    let effects = match self.hub.takes(&signed) {
                        Ok(()) => {
                            self.signed.push(signed);
                            continue;
                        }
                        // Its ledger, or this node's, may only be behind.
                        Err(Untaken::Height) => self.client.gone(now, signed.node, &mut routes),
                        Err(Untaken::Signature) => self.client.lied(now, signed.node, &mut routes),
                    };
                    self.act(effects);
                }
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.tell("left", false);
        // A text that was broken off is looked at, too.
        self.check();
        let effects = self.client.close();
        self.act(effects);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{
            draft::Guess,
            host::{Hosting, start},
            tests::one_layer,
        },
        *,
    };
    use ailo_proto::{Opened, Tokens};
    use ailo_protocol::{
        Keypair,
        inference::{CHUNK, announce::Announce, known::Rank},
    };

    #[tokio::test]
    async fn who_does_not_sign_a_texts_end_counts_for_slow_unless_the_next_text_went_on_with_it() {
        let folder = one_layer();
        let model = Arc::new(Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap());
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        // Another node serves what was served here, and signs nothing.
        let hosting = Hosting { threads: 1, memory: 1 << 20, niceness: 0, draft: Guess::Never };
        let own = start(&hub, &model, 0..1, &hosting).await.unwrap();
        hub.stop();
        hub.known().forget(hub.node());
        let node = *Keypair::generate().public();
        assert!(hub.known().hear(0, Rank::Connected, Announce { node, at_ms: 1, ..own }));

        let mut tokens: Vec<u32> = (0..3 * CHUNK as u32).collect();
        let asks = |tokens: &[u32]| {
            let prompt = tokens.len() as u32;
            let sampling = Sampling { limit: prompt + 1, prompt, top_p: 1.0, ..Sampling::default() };
            Session::start(&hub, &model, Reach::default(), tokens.to_vec(), sampling)
        };
        let writes = async |session: &mut Session, at: usize| {
            let id = session.0.as_ref().unwrap().client.id();
            hub.take(node, Frame::of(id, Opened::default()), None);
            let (epoch, at, finish) = (1, at as u32, Finish::Length.into());
            hub.take(node, Frame::of(id, Tokens { epoch, at, tokens: vec![7], finish, logprobs: Vec::new() }), None);
            assert_eq!(session.next().await, Some(Event::Token(7, None)));
            assert_eq!(session.next().await, Some(Event::Finished(Finish::Length)));
        };
        let slow = || hub.known().slow.of(&node);
        let mut first = asks(&tokens);
        writes(&mut first, tokens.len()).await;
        tokens.push(7);
        let mut second = asks(&tokens);
        assert_eq!(first.next().await, None);
        assert_eq!(slow(), 0, "what there was of the text was given to the next one");
        writes(&mut second, tokens.len()).await;
        // The next one begins otherwise.
        tokens[0] = 9;
        let _third = asks(&tokens);
        assert_eq!(second.next().await, None);
        assert!(slow() >= 1_000_000, "{}", slow());
    }

    #[test]
    fn a_stage_is_paid_a_little_beyond_what_it_has_proven_and_does_not_wait_for_ever() {
        for prompt in [1, 31, 32, 33, 63, 64, 65, 100, 5000] {
            let (limit, chunk) = (prompt + 300, CHUNK as u32);
            let (mut known, mut paid, mut computed) = (prompt, 0, 0);
            while known < limit {
                // It signs chunks that it has computed, once the token behind is known.
                let signed = ((known - 1) / chunk * chunk).min(computed / chunk * chunk);
                let proven = if known > prompt { known.min(signed + 4 * chunk) } else { signed };
                paid = ahead(known, proven, paid, limit);
                assert!(
                    paid <= limit && paid <= proven + AHEAD.max(proven / AHEAD_PART),
                    "{prompt}: {paid} of {proven}"
                );
                let before = std::mem::replace(&mut computed, known.min(paid));
                assert!(computed > before, "a text of {prompt} waits at {computed}");
                known += u32::from(computed == known);
            }
        }
    }
}

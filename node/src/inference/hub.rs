//! Where frames change hands: between the sessions that this node asks in, the worker that serves here, and other nodes; and what
//! this node knows of who serves what.

use super::{
    court::{Court, Untaken},
    links::Links,
    payment::{Cashier, Pays},
    worker::{Inbound, Worker},
};
use crate::metrics::Texts;
use ailo_proto::{Bytes, Close, End, Frame, Message, frame::Body};
use ailo_protocol::{
    Amount, Hash, Keypair, NodeId,
    inference::{
        CHUNK, SessionId,
        announce::Announce,
        client::Stages,
        known::{CLOCKS_MS, Known, Rank},
        proof::{Signed, Statement},
        routes::Wanted,
    },
};
use futures::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{
    OwnedSemaphorePermit,
    mpsc::{Receiver, Sender, channel},
};

/// What a hang counts, in microseconds a token.
const HUNG_US: u64 = 1_000_000;
/// Bytes of a frame for a session, at most: a token for each draft, with probabilities.
const MAX_NEWS: usize = 32 << 10;
/// Nodes that are left out, at most.
const MAX_LIARS: usize = 4096;
/// Frames for a session that are no tokens, at most.
const OTHER_NEWS: usize = 256;

/// A part of what a peer's frames may take until they are computed; given back when it is dropped.
pub type Room = Option<Arc<OwnedSemaphorePermit>>;

/// The hub of a node.
pub struct Hub {
    key: Keypair,
    node: NodeId,
    network: Hash,
    /// Sessions that this node asks in. What waits for one of them is bounded by its text's length.
    clients: Mutex<HashMap<SessionId, Listens>>,
    /// Who serves here: the newest, maybe the one before it, and those that leave.
    workers: Mutex<Vec<Worker>>,
    links: OnceLock<Arc<Links>>,
    known: Mutex<Known>,
    /// Who was found to have signed what it did not compute.
    liars: Mutex<HashSet<NodeId>>,
    /// The share of texts that are read again.
    pub checks: f64,
    /// What is paid here, and what this node pays.
    pub cashier: Option<Arc<Cashier>>,
    /// See `cashier`.
    pub pays: Option<Pays>,
    /// Where wrong statements go; none without a ledger.
    pub court: Option<Court>,
    /// What has been written for those who ask here.
    pub texts: Texts,
    started: Instant,
}

/// A session that this node asks in.
struct Listens {
    news: Sender<News>,
    /// Its stages: nobody else can fill what waits for it.
    stages: HashSet<NodeId>,
    /// What names the text once it is written, as long as its stages owe what they sign last: none of them does once a text goes on with it.
    owed: Option<Bytes>,
}

/// What a session hears.
#[allow(clippy::large_enum_variant)] // Nearly all of it is frames.
pub enum News {
    /// A frame, and when it came.
    Frame(NodeId, Frame, Instant),
    /// A node can't be reached, or does not answer.
    Gone(NodeId),
    /// A stream to or from a node has ended, but not the connection.
    Broken(NodeId),
}

impl Hub {
    /// A hub without workers, that reaches nobody else. `checks` is the share of texts that are read again to see who lies.
    pub fn new(
        key: Keypair,
        network: Hash,
        checks: f64,
        (cashier, pays): (Option<Arc<Cashier>>, Option<Pays>),
        court: Option<Court>,
    ) -> Arc<Hub> {
        Arc::new(Hub {
            node: *key.public(),
            key,
            network,
            liars: Mutex::default(),
            checks,
            cashier,
            pays,
            court,
            clients: Mutex::default(),
            workers: Mutex::default(),
            links: OnceLock::new(),
            known: Mutex::default(),
            texts: Texts::default(),
            started: Instant::now(),
        })
    }

    /// Reaches others through these from now on.
    pub fn connect(&self, links: Arc<Links>) {
        let _ = self.links.set(links); // Once is enough.
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// What a unit costs here.
    pub fn price(&self) -> Amount {
        self.cashier.as_ref().map_or(Amount::ZERO, |cashier| cashier.price())
    }

    /// The ledger's height.
    pub fn height(&self) -> u64 {
        self.court.as_ref().map_or(0, Court::height)
    }

    /// Signs what was computed here.
    pub fn sign(&self, statement: Statement) -> Signed {
        Statement { height: self.height(), ..statement }.sign(&self.network, &self.key)
    }

    /// Whether a node has read so much of what it was sent that it may be sent what has time.
    pub fn reads(&self, node: &NodeId) -> bool {
        *node == self.node || self.links.get().is_none_or(|links| links.takes(node))
    }

    /// Whether a statement is signed, and of now.
    ///
    /// # Errors
    ///
    /// Which of these it is not.
    pub fn takes(&self, signed: &Signed) -> Result<(), Untaken> {
        if !signed.verify(&self.network) {
            return Err(Untaken::Signature);
        }
        let now = self.court.as_ref().is_none_or(|court| court.is_now(&signed.node, signed.statement.height));
        now.then_some(()).ok_or(Untaken::Height)
    }

    /// A node is left out from now on.
    pub fn distrust(&self, node: NodeId) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        if liars.len() < MAX_LIARS {
            liars.insert(node);
        }
    }

    /// Who is left out.
    pub fn liars(&self) -> HashSet<NodeId> {
        self.liars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The network that announcements are signed for.
    pub fn network(&self) -> &Hash {
        &self.network
    }

    /// Lets a worker serve. The one before it still takes sessions of its own model: a text that began with that has no other place to go on. The
    /// others take none, and end with those that they have.
    pub fn serve(&self, worker: Worker) {
        let (before, old) = {
            let mut workers = self.workers();
            workers.retain(|old| !old.ended());
            workers.insert(0, worker);
            let stay = 1 + usize::from(before(&workers).is_some());
            (workers[1..stay].to_vec(), workers[stay..].to_vec())
        };
        before.iter().for_each(|before| before.send(Inbound::Forget));
        old.iter().for_each(|old| old.send(Inbound::Leave));
    }

    /// The model whose texts are still taken beside the newest one's, through the same layers.
    pub fn before(&self) -> Option<Hash> {
        before(&self.workers()).map(|worker| worker.model)
    }

    /// Who serves here. Nothing is sent to them under this lock: who computes sends, too.
    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what should compute here has not ended.
    pub fn computes(&self) -> bool {
        !self.workers().first().is_some_and(Worker::ended)
    }

    /// Until what computes here has failed; for ever where nothing does.
    pub async fn failed(&self) {
        let worker = self.workers().first().cloned();
        match worker {
            Some(worker) => worker.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Takes no new sessions, and waits until those that are here have gone elsewhere, have ended, or the time is over.
    pub async fn drain(&self, within: Duration) {
        let workers = self.workers().clone();
        workers.iter().for_each(|worker| worker.send(Inbound::Drain));
        let _ = tokio::time::timeout(within, join_all(workers.iter().map(Worker::end))).await; // The rest is broken off.
    }

    /// Stops serving: takes no new sessions, waits for those that are here as [`Hub::drain`] does, and tells the clients of the rest. What the workers
    /// held is free then.
    pub async fn leave(&self, within: Duration) {
        self.known().forget(&self.node);
        self.drain(within).await;
        let workers = std::mem::take(&mut *self.workers());
        workers.iter().for_each(|worker| worker.send(Inbound::Stop));
        join_all(workers.iter().map(Worker::end)).await;
    }

    /// Bytes that no session has now, and microseconds that a single token took lately, where something is served.
    pub fn now(&self) -> Option<(u64, u32)> {
        self.workers().first().filter(|worker| !worker.ended()).map(Worker::now)
    }

    /// The graphics card that computes what is served, if one does.
    pub fn card(&self) -> Option<String> {
        self.workers().first().and_then(|worker| worker.card.clone())
    }

    /// Ends all workers.
    pub fn stop(&self) {
        let workers = std::mem::take(&mut *self.workers());
        workers.iter().for_each(|worker| worker.send(Inbound::Stop));
    }

    /// What comes for a session of so many tokens that this node asks in, until the receiver is dropped.
    pub fn listen(&self, session: SessionId, tokens: usize) -> Receiver<News> {
        let (sender, receiver) = channel(2 * tokens + OTHER_NEWS);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, client| !client.news.is_closed());
        clients.insert(session, Listens { news: sender, stages: HashSet::new(), owed: None });
        receiver
    }

    /// A node becomes a stage of a session that this node asks in, or is none any more: of stages alone a session hears.
    pub fn attend(&self, session: &SessionId, node: NodeId, is_stage: bool) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(client) = clients.get_mut(session) else { return };
        if is_stage {
            client.stages.insert(node);
        } else {
            client.stages.remove(&node);
        }
    }

    /// A text of this node's own is written: its stages owe their last signatures.
    pub fn ends(&self, session: &SessionId, end: &End) {
        let last = (end.positions as usize / CHUNK).checked_sub(1).and_then(|last| end.chunks.get(last));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get_mut(session) {
            client.owed = Some(last.cloned().unwrap_or_default());
        }
    }

    /// A text of this node's own begins with these chunks: what it goes on with is given to it as it is.
    pub fn goes_on(&self, chunks: &[Bytes]) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for client in clients.values_mut() {
            client.owed.take_if(|last| chunks.contains(last));
        }
    }

    /// Whether the stages of a text of this node's own owe their last signatures.
    pub fn owed(&self, session: &SessionId) -> bool {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(session).is_some_and(|client| client.owed.is_some())
    }

    /// Whether sessions of this node's own are under way.
    pub fn waits(&self) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, client| !client.news.is_closed());
        !clients.is_empty()
    }

    /// Takes an announcement; whether it is news.
    pub fn hear(&self, announce: Announce) -> bool {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        if announce.node == self.node || announce.at_ms.abs_diff(clock) > CLOCKS_MS {
            return false;
        }
        let (node, rank, addresses) = (announce.node, self.rank(&announce.node), announce.addresses.clone());
        let news = self.known().hear(self.now_ms(), rank, announce);
        if let Some(links) = self.links.get().filter(|_| news) {
            links.learn(node, &addresses);
        }
        news
    }

    /// How well a node is known here.
    fn rank(&self, node: &NodeId) -> Rank {
        if self.court.as_ref().is_some_and(|court| court.knows(node)) {
            Rank::Registered
        } else if self.links.get().is_some_and(|links| links.reaches(node)) {
            Rank::Connected
        } else {
            Rank::Stranger
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// What a token took that came by this route, all stages together.
    pub fn saw(&self, route: &Stages, took_us: u64, wanted: Wanted<'_>) {
        let (mut known, now) = (self.known(), self.now_ms());
        let Some(expected) = known.routes(wanted).ring(route) else { return };
        // Its own stage may be slower than it was, too.
        let stages: Vec<NodeId> = route.iter().map(|(node, _)| *node).collect();
        if stages.iter().any(|node| *node != self.node) {
            known.slow.saw(now, &stages, took_us, expected);
        }
    }

    /// A text hung at a node, or is not signed by it: for a while it counts for slow, so that the next one goes elsewhere.
    pub fn hung(&self, node: NodeId) {
        let now = self.now_ms();
        self.known().slow.saw(now, &[node], HUNG_US, 0);
    }

    /// What this node itself serves from now on.
    pub fn announce(&self, announce: Announce) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).serve(announce);
    }

    /// Who serves what, as this node knows it now.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is given up.
    pub fn gone(&self, node: NodeId) {
        let workers = self.workers().clone();
        workers.iter().for_each(|worker| worker.send(Inbound::Gone(node)));
        self.hangs(node);
    }

    /// A stream to or from a node has ended. Where two connections were made at once and one is closed, the node is still there.
    pub fn broken(&self, node: NodeId) {
        if self.links.get().is_none_or(|links| !links.reaches(&node)) {
            return self.gone(node);
        }
        let workers = self.workers().clone();
        workers.iter().for_each(|worker| worker.send(Inbound::Broken(node)));
        self.tell(&node, || News::Broken(node));
    }

    /// The connection to a node is lost: it serves nothing until it says so again.
    pub fn disconnected(&self, node: NodeId) {
        if let Some(links) = self.links.get() {
            // The news may be late, and the node there again.
            if links.reaches(&node) {
                return;
            }
            links.forget(node);
        }
        self.known().forget(&node);
        self.gone(node);
    }

    /// A node does not answer; it may come back.
    pub fn hangs(&self, node: NodeId) {
        self.tell(&node, || News::Gone(node));
    }

    /// Tells those sessions that a node is a stage of.
    fn tell(&self, node: &NodeId, news: impl Fn() -> News) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for client in clients.values().filter(|client| client.stages.contains(node)) {
            let _ = client.news.try_send(news()); // Over already.
        }
    }

    /// Sends a frame of this node's own.
    pub fn send(self: &Arc<Hub>, to: NodeId, frame: Frame) {
        if to == self.node {
            self.take(to, frame, None);
        } else if let Some(links) = self.links.get() {
            links.send(self, to, frame);
        }
    }

    /// Takes a frame for this node. What nobody waits for is dropped, and so is what exceeds all that a text can bring.
    pub fn take(self: &Arc<Hub>, from: NodeId, frame: Frame, room: Room) {
        let (Some(body), Ok(session)) = (&frame.body, SessionId::try_from(&*frame.session)) else { return };
        // Some kinds go both ways; who they are not for drops them.
        let (client, stage) = match body {
            Body::Opened(_) | Body::Failed(_) | Body::Place(_) | Body::Wait(_) => (true, false),
            Body::Tokens(_) | Body::Have(_) | Body::Signed(_) => (true, true),
            _ => (false, true),
        };
        if client && frame.encoded_len() <= MAX_NEWS {
            let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let open = clients.get(&session).filter(|client| !client.news.is_closed() && client.stages.contains(&from));
            if let Some(client) = open {
                let _ = client.news.try_send(News::Frame(from, frame.clone(), Instant::now())); // What is too much is dropped.
            }
            // What a stage goes on with, though nobody here does, may be what a lost frame was to end.
            let forgotten = open.is_none() && matches!(body, Body::Failed(_));
            drop(clients);
            if forgotten && from != self.node {
                self.send(from, Frame::of(session, Close::default()));
            }
        }
        if stage {
            let workers = self.workers().clone();
            // A new session goes to the newest, unless the one before has its model; of all else each worker knows whether it is its own.
            let some = match body {
                Body::Open(open) => {
                    let has = |worker: &Worker| worker.model.0[..] == open.model[..];
                    let at = usize::from(before(&workers).is_some_and(has));
                    workers.get(at..=at).unwrap_or_default()
                }
                _ => &workers[..],
            };
            for worker in some {
                worker.send(Inbound::Frame(from, frame.clone(), room.clone()));
            }
        }
    }
}

/// Of those who serve, who did so before the newest: the same layers of another model.
fn before(workers: &[Worker]) -> Option<&Worker> {
    let [newest, before, ..] = workers else { return None };
    (before.model != newest.model && before.layers == newest.layers && !before.ended()).then_some(before)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_proto::Wait;

    #[test]
    fn a_session_hears_of_its_stages_alone() {
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        let [stage, other] = [(); 2].map(|()| *Keypair::generate().public());
        let mut news = hub.listen([1; 16], 10);
        let mut hears = |from: NodeId| {
            hub.take(from, Frame::of([1; 16], Wait { ms: 1 }), None);
            hub.hangs(from);
            std::iter::from_fn(|| news.try_recv().ok()).count()
        };
        assert_eq!(hears(stage), 0);
        hub.attend(&[1; 16], stage, true);
        assert_eq!((hears(stage), hears(other)), (2, 0));
        hub.attend(&[1; 16], stage, false);
        assert_eq!(hears(stage), 0);
    }
}

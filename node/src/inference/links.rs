//! Frames between nodes: a long-lived stream for each direction, in which each frame comes after its length. What is asked for by others
//! waits in a queue of bounded size for each of them, so nobody's slow reading holds up another.

use super::hub::Hub;
use ailo_proto::{Frame, Message, Ping, Pong, frame::Body};
use ailo_protocol::{
    NodeId,
    inference::MAX_FRAME,
    net::{self, Stream},
};
use futures::{AsyncReadExt, AsyncWriteExt, io::BufReader};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
};

/// Bytes that wait for a peer, at most; then the connection is given up.
const MAX_WAITING: usize = 256 << 20;
/// How often peers are asked whether they run, while this node waits for them.
const PING: Duration = Duration::from_millis(200);
/// Who says nothing for so long hangs.
const HUNG: Duration = Duration::from_millis(750);
/// The news that a connection has ended comes within this time of the end of its streams. If it comes later, the route is laid twice.
const SETTLES: Duration = Duration::from_millis(20);
/// Bytes that are written together.
const TOGETHER: usize = 64 << 10;

/// The streams of a node.
pub struct Links {
    net: net::Handle,
    /// Frames come from threads that are not the runtime's, too.
    runtime: Handle,
    peers: Mutex<HashMap<NodeId, Peer>>,
}

struct Peer {
    queue: UnboundedSender<Frame>,
    waiting: Arc<AtomicUsize>,
    /// Since when it is asked and nothing comes.
    asked: Option<Instant>,
}

impl Links {
    /// Takes streams that peers open, until the node stops.
    pub fn start(net: net::Handle, hub: &Arc<Hub>, mut stop: watch::Receiver<bool>) -> Arc<Links> {
        let links = Arc::new(Links { net: net.clone(), runtime: Handle::current(), peers: Mutex::default() });
        let (hub, own) = (Arc::downgrade(hub), Arc::downgrade(&links));
        let mut rooms: HashMap<NodeId, Weak<Semaphore>> = HashMap::new();
        tokio::spawn(async move {
            let Some(mut incoming) = net.incoming() else { return };
            let mut ping = tokio::time::interval(PING);
            loop {
                tokio::select! {
                    next = incoming.next() => match next {
                        Some((node, stream)) => {
                            rooms.retain(|_, room| room.strong_count() > 0);
                            let room = rooms.get(&node).and_then(Weak::upgrade);
                            let room = room.unwrap_or_else(|| Arc::new(Semaphore::new(2 * MAX_FRAME)));
                            rooms.insert(node, Arc::downgrade(&room));
                            tokio::spawn(read(hub.clone(), own.clone(), node, stream, room));
                        }
                        None => return,
                    },
                    _ = ping.tick() => {
                        let (Some(hub), Some(links)) = (hub.upgrade(), own.upgrade()) else { return };
                        links.ask_around(&hub);
                    }
                    _ = stop.changed() => return,
                }
            }
        });
        links
    }

    /// Queues a frame for a peer, and opens a stream to it if there is none.
    pub fn send(self: &Arc<Links>, hub: &Arc<Hub>, to: NodeId, frame: Frame) {
        let size = cost(&frame);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.entry(to).or_insert_with(|| {
            let (queue, frames) = unbounded_channel();
            let waiting = Arc::new(AtomicUsize::new(0));
            let (hub, own) = (Arc::downgrade(hub), Arc::downgrade(self));
            self.runtime.spawn(write(hub, own, self.net.clone(), to, frames, waiting.clone()));
            Peer { queue, waiting, asked: None }
        });
        if peer.waiting.fetch_add(size, Ordering::Relaxed) + size > MAX_WAITING {
            tracing::info!(peer = %to.short(), "it reads too slowly: its streams are closed");
            peers.remove(&to);
            // Not from here: who sends may hold what this tells.
            let hub = hub.clone();
            self.runtime.spawn(async move { hub.gone(to) });
            return;
        }
        let _ = peer.queue.send(frame); // Its task has ended, then, and says so.
    }

    /// Asks peers whether they run, and tells the hub of those that do not answer.
    fn ask_around(self: &Arc<Links>, hub: &Arc<Hub>) {
        if !hub.waits() {
            return;
        }
        let (mut ask, mut hung) = (Vec::new(), Vec::new());
        let now = Instant::now();
        for (node, peer) in self.peers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let asked = *peer.asked.get_or_insert(now);
            ask.push(*node);
            if now.duration_since(asked) > HUNG {
                hung.push(*node);
            }
        }
        for node in ask {
            self.send(hub, node, Frame { body: Some(Ping { number: 0 }.into()), ..Frame::default() });
        }
        for node in hung {
            hub.hangs(node);
        }
    }

    fn heard(&self, node: NodeId) {
        if let Some(peer) = self.peers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&node) {
            peer.asked = None;
        }
    }

    /// Where a node says that it listens, in case it has to be dialled.
    pub fn learn(&self, node: NodeId, addresses: &[String]) {
        if !self.reaches(&node) {
            self.net.learn(node, addresses.iter().filter_map(|address| address.parse().ok()).collect());
        }
    }

    /// Whether a node is connected.
    pub fn reaches(&self, node: &NodeId) -> bool {
        self.net.peers().iter().any(|peer| peer.node == *node)
    }

    /// A stream of a node that is connected has ended: if its connection has, too, that is known before long.
    async fn hear_of(&self, node: &NodeId) {
        if self.reaches(node) {
            tokio::time::sleep(SETTLES).await;
        }
    }

    /// A node is gone: what waits for it is dropped, and the next frame opens a new stream.
    pub fn forget(&self, node: NodeId) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// A stream has failed, which may not be the one that is used now.
    fn failed(&self, node: NodeId, waiting: &Arc<AtomicUsize>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.get(&node).is_some_and(|peer| Arc::ptr_eq(&peer.waiting, waiting)) {
            peers.remove(&node);
        }
    }
}

/// What a frame counts while it waits: its bytes, and the memory that it takes beside them.
fn cost(frame: &Frame) -> usize {
    frame.encoded_len() + size_of::<Frame>()
}

/// Writes frames to a peer until it, or the queue, is gone.
async fn write(
    hub: Weak<Hub>,
    links: Weak<Links>,
    net: net::Handle,
    to: NodeId,
    mut frames: UnboundedReceiver<Frame>,
    waiting: Arc<AtomicUsize>,
) {
    let written = async {
        let mut stream = net.open_stream(to).await.map_err(|e| std::io::Error::other(e.to_string()))?;
        let mut bytes = Vec::new();
        while let Some(frame) = frames.recv().await {
            let mut next = Some(frame);
            bytes.clear();
            while let Some(frame) = next {
                let size = frame.encoded_len();
                waiting.fetch_sub(cost(&frame), Ordering::Relaxed);
                bytes.extend((size as u32).to_le_bytes());
                // Growing memory never fails to take a message.
                let _ = frame.encode(&mut bytes);
                next = if bytes.len() < TOGETHER { frames.try_recv().ok() } else { None };
            }
            stream.write_all(&bytes).await?;
            stream.flush().await?;
        }
        stream.close().await
    };
    let outcome: std::io::Result<()> = written.await;
    // Where the queue has ended, whoever ended it has told the others.
    let Err(e) = outcome else { return };
    tracing::debug!(peer = %to.short(), error = %e, "a stream to it ended");
    if let Some(links) = links.upgrade() {
        links.failed(to, &waiting);
        links.hear_of(&to).await;
    }
    if let Some(hub) = hub.upgrade() {
        hub.broken(to);
    }
}

/// Reads a peer's frames until its stream ends. What is not computed yet takes of the peer's room, and no more is read than fits.
async fn read(hub: Weak<Hub>, links: Weak<Links>, from: NodeId, stream: Stream, room: Arc<Semaphore>) {
    let mut stream = BufReader::with_capacity(TOGETHER, stream);
    let mut bytes = Vec::new();
    let readable = loop {
        let mut size = [0; 4];
        if stream.read_exact(&mut size).await.is_err() {
            break true;
        }
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_FRAME {
            tracing::info!(peer = %from.short(), size, "a frame from it is too long");
            break false;
        }
        bytes.resize(size, 0);
        if stream.read_exact(&mut bytes).await.is_err() {
            break true;
        }
        let (Ok(frame), Some(hub), Some(links)) = (Frame::decode(bytes.as_slice()), hub.upgrade(), links.upgrade())
        else {
            break false;
        };
        links.heard(from);
        match frame.body {
            // Answered here, whatever is being computed.
            Some(Body::Ping(Ping { number })) => {
                links.send(&hub, from, Frame { body: Some(Pong { number }.into()), ..Frame::default() });
            }
            Some(Body::Pong(_)) => {}
            _ => {
                let size = u32::try_from(size + size_of::<Frame>()).unwrap_or(u32::MAX);
                let Ok(taken) = room.clone().acquire_many_owned(size).await else { break false };
                hub.take(from, frame, Some(Arc::new(taken)));
            }
        }
    };
    if let Some(links) = links.upgrade() {
        links.hear_of(&from).await;
    }
    match hub.upgrade() {
        Some(hub) if readable => hub.broken(from),
        Some(hub) => hub.gone(from),
        None => {}
    }
}

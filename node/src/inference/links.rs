//! Frames between nodes: a long-lived stream for each direction, in which each frame comes after its length. What is asked for by others
//! waits in a queue of bounded size for each of them, and of a bounded size for all together, so nobody's slow reading holds up another.

use super::hub::Hub;
use ailo_proto::{Frame, Message, Ping, Pong, frame::Body};
use ailo_protocol::{
    NodeId,
    inference::MAX_FRAME,
    net::{self, Stream},
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, io::BufReader};
use std::{
    collections::HashMap,
    io::{Error, ErrorKind},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot, watch,
    },
};

/// Bytes that wait for a peer, at most; then its streams are closed.
const MAX_WAITING: usize = 64 << 20;
/// Bytes that wait for all peers together, at most; then those of the peer are closed for which most waits.
const MAX_ALL: usize = 1 << 30;
/// What can wait is sent to a peer for which less waits.
const FEW: usize = 1 << 20;
/// A peer that takes nothing for so long, or breaks off within a frame, reads or writes nothing any more.
const STALLS: Duration = Duration::from_secs(30);
/// Frames up to this length are read before there is room for them: that this node runs is told at any time.
const SHORT: usize = 1 << 10;
/// Streams of one peer that are read at once, at most: two connections have one each, and some may be dead.
const MAX_STREAMS: usize = 8;
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
    /// Bytes that wait for all peers.
    all: Arc<AtomicUsize>,
}

struct Peer {
    queue: UnboundedSender<Frame>,
    waiting: Arc<Waiting>,
    /// Ends its task, and with it what waits.
    ends: oneshot::Sender<()>,
    /// Since when it is asked and nothing comes.
    asked: Option<Instant>,
}

/// What waits for a peer. What is left when nobody writes any more waits no longer.
struct Waiting {
    bytes: AtomicUsize,
    all: Arc<AtomicUsize>,
    /// It is to be told that this node runs.
    pong: AtomicBool,
}

impl Waiting {
    fn new(all: &Arc<AtomicUsize>) -> Arc<Waiting> {
        Arc::new(Waiting { bytes: AtomicUsize::new(0), all: all.clone(), pong: AtomicBool::new(false) })
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that wait for the peer, and for all, with so many more.
    fn add(&self, bytes: usize) -> (usize, usize) {
        let sum = |counted: &AtomicUsize| counted.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (sum(&self.bytes), sum(&self.all))
    }

    fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// What a peer has of this node's memory: room for its frames, as long as some of them are there, and streams that are read.
#[derive(Default)]
struct Reading {
    room: Weak<Semaphore>,
    streams: Weak<()>,
}

impl Reading {
    /// For one more stream, if there may be one.
    fn begin(&mut self) -> Option<(Arc<Semaphore>, Arc<()>)> {
        if self.streams.strong_count() >= MAX_STREAMS {
            return None;
        }
        let room = self.room.upgrade().unwrap_or_else(|| Arc::new(Semaphore::new(2 * MAX_FRAME)));
        let stream = self.streams.upgrade().unwrap_or_default();
        (self.room, self.streams) = (Arc::downgrade(&room), Arc::downgrade(&stream));
        Some((room, stream))
    }

    fn is_over(&self) -> bool {
        self.room.strong_count() == 0 && self.streams.strong_count() == 0
    }
}

impl Links {
    /// Takes streams that peers open, until the node stops.
    pub fn start(net: net::Handle, hub: &Arc<Hub>, mut stop: watch::Receiver<bool>) -> Arc<Links> {
        let (peers, all) = (Mutex::default(), Arc::default());
        let links = Arc::new(Links { net: net.clone(), runtime: Handle::current(), peers, all });
        let (hub, own) = (Arc::downgrade(hub), Arc::downgrade(&links));
        let mut readings: HashMap<NodeId, Reading> = HashMap::new();
        tokio::spawn(async move {
            let Some(mut incoming) = net.incoming() else { return };
            let mut ping = tokio::time::interval(PING);
            loop {
                tokio::select! {
                    next = incoming.next() => match next {
                        Some((node, stream)) => {
                            readings.retain(|_, reading| !reading.is_over());
                            match readings.entry(node).or_default().begin() {
                                Some(room) => drop(tokio::spawn(read(hub.clone(), own.clone(), node, stream, room))),
                                None => tracing::info!(peer = %node.short(), "it opens too many streams"),
                            }
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
            let ((queue, frames), (ends, ended)) = (unbounded_channel(), oneshot::channel());
            let waiting = Waiting::new(&self.all);
            let (hub, own) = (Arc::downgrade(hub), Arc::downgrade(self));
            self.runtime.spawn(write(hub, own, self.net.clone(), to, (frames, waiting.clone(), ended)));
            Peer { queue, waiting, ends, asked: None }
        });
        let (own, all) = peer.waiting.add(size);
        let _ = peer.queue.send(frame); // Its task has ended, then, and says so.
        let slowest = || peers.iter().max_by_key(|(_, peer)| peer.waiting.bytes()).map(|(node, _)| *node);
        let over = if own > MAX_WAITING { Some(to) } else { (all > MAX_ALL).then(slowest).flatten() };
        if let Some(slow) = over {
            tracing::info!(peer = %slow.short(), "it reads too slowly: its streams are closed");
            drop(peers);
            self.forget(slow);
            // Not from here: who sends may hold what this tells.
            let hub = hub.clone();
            self.runtime.spawn(async move { hub.gone(slow) });
        }
    }

    /// Whether so little waits for a peer that what has time may be sent to it, too.
    pub fn takes(&self, to: &NodeId) -> bool {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(to).is_none_or(|peer| peer.waiting.bytes() < FEW)
    }

    /// Tells a peer that this node runs, if that is not under way already.
    fn runs(self: &Arc<Links>, hub: &Arc<Hub>, to: NodeId, number: u64) {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let told = peers.get(&to).is_some_and(|peer| peer.waiting.pong.swap(true, Ordering::Relaxed));
        drop(peers);
        if !told {
            self.send(hub, to, Frame { body: Some(Pong { number }.into()), ..Frame::default() });
        }
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
        if let Some(peer) = self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&node) {
            let _ = peer.ends.send(()); // It has ended, then.
        }
    }

    /// A stream has failed, which may not be the one that is used now.
    fn failed(&self, node: NodeId, waiting: &Arc<Waiting>) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.get(&node).is_some_and(|peer| Arc::ptr_eq(&peer.waiting, waiting)) {
            peers.remove(&node);
        }
    }
}

/// Does something that takes this long at most.
async fn within<T>(most: Duration, work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(most, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Writes frames to a peer until it, or the queue, is gone.
async fn write(
    hub: Weak<Hub>,
    links: Weak<Links>,
    net: net::Handle,
    to: NodeId,
    (frames, waiting, ended): (UnboundedReceiver<Frame>, Arc<Waiting>, oneshot::Receiver<()>),
) {
    let written = async {
        let opened = async { net.open_stream(to).await.map_err(|e| Error::other(e.to_string())) };
        let mut stream = within(STALLS, opened).await?;
        pour(&mut stream, frames, &waiting, STALLS).await?;
        within(STALLS, stream.close()).await
    };
    // Where the queue has ended, whoever ended it has told the others.
    let outcome: std::io::Result<()> = tokio::select! {
        outcome = written => outcome,
        Ok(()) = ended => Ok(()),
    };
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

/// Writes frames until their queue ends, or none of them goes on for so long.
async fn pour(
    stream: &mut (impl AsyncWrite + Unpin),
    mut frames: UnboundedReceiver<Frame>,
    waiting: &Waiting,
    stalls: Duration,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(frame) = frames.recv().await {
        let (mut next, mut cost_of_all) = (Some(frame), 0);
        bytes.clear();
        bytes.shrink_to(2 * TOGETHER);
        while let Some(frame) = next {
            cost_of_all += cost(&frame);
            if let Some(Body::Pong(_)) = frame.body {
                waiting.pong.store(false, Ordering::Relaxed);
            }
            bytes.extend((frame.encoded_len() as u32).to_le_bytes());
            // Growing memory never fails to take a message.
            let _ = frame.encode(&mut bytes);
            next = if bytes.len() < TOGETHER { frames.try_recv().ok() } else { None };
        }
        for part in bytes.chunks(TOGETHER) {
            within(stalls, stream.write_all(part)).await?;
        }
        within(stalls, stream.flush()).await?;
        waiting.written(cost_of_all);
    }
    Ok(())
}

/// Reads a peer's frames until its stream ends. What is not computed yet takes of the peer's room, and no more is read than fits.
async fn read(
    hub: Weak<Hub>,
    links: Weak<Links>,
    from: NodeId,
    stream: Stream,
    (room, _stream): (Arc<Semaphore>, Arc<()>),
) {
    let mut stream = BufReader::with_capacity(TOGETHER, stream);
    let mut bytes = Vec::new();
    let readable = loop {
        let (frame, taken) = match next(&mut stream, &mut bytes, &room, STALLS).await {
            Ok(next) => next,
            Err(e) => {
                tracing::debug!(peer = %from.short(), error = %e, "a stream of it ended");
                break e.kind() != ErrorKind::InvalidData;
            }
        };
        let (Some(hub), Some(links)) = (hub.upgrade(), links.upgrade()) else { break false };
        links.heard(from);
        match frame.body {
            // Answered here, whatever is being computed.
            Some(Body::Ping(Ping { number })) => links.runs(&hub, from, number),
            Some(Body::Pong(_)) => {}
            _ => {
                let taken = match taken {
                    Some(taken) => Ok(taken),
                    None => take(&room, bytes.len()).await,
                };
                let Ok(taken) = taken else { break false };
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

/// Takes room for a frame of so many bytes, once there is some.
async fn take(room: &Arc<Semaphore>, size: usize) -> std::io::Result<OwnedSemaphorePermit> {
    let size = u32::try_from(size + size_of::<Frame>()).unwrap_or(u32::MAX);
    room.clone().acquire_many_owned(size).await.map_err(Error::other)
}

/// The next frame of a stream, and the room that it takes, unless it is short. A peer may be silent between frames, but not within one.
async fn next(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    room: &Arc<Semaphore>,
    stalls: Duration,
) -> std::io::Result<(Frame, Option<OwnedSemaphorePermit>)> {
    bytes.clear();
    bytes.shrink_to(TOGETHER);
    let mut size = [0; 4];
    stream.read_exact(&mut size).await?;
    let size = u32::from_le_bytes(size) as usize;
    if size > MAX_FRAME {
        return Err(Error::new(ErrorKind::InvalidData, "a frame is too long"));
    }
    let taken = if size > SHORT { Some(take(room, size).await?) } else { None };
    bytes.resize(size, 0);
    for part in bytes.chunks_mut(TOGETHER) {
        within(stalls, stream.read_exact(part)).await?;
    }
    let frame = Frame::decode(bytes.as_slice()).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    Ok((frame, taken))
}

/// What a frame counts while it waits: its bytes, and the memory that it takes beside them.
fn cost(frame: &Frame) -> usize {
    frame.encoded_len() + size_of::<Frame>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::{FutureExt, io::Cursor};
    use std::{
        io::Result,
        pin::Pin,
        task::{Context, Poll},
    };

    const SOON: Duration = Duration::from_millis(20);

    /// A peer that takes nothing and gives nothing.
    struct Silent;

    impl AsyncWrite for Silent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }
    }

    fn frame(length: usize) -> Frame {
        Frame { session: vec![7; length].into(), ..Frame::default() }
    }

    /// A frame as it travels.
    fn sent(frame: &Frame) -> Vec<u8> {
        [&(frame.encoded_len() as u32).to_le_bytes()[..], &frame.encode_to_vec()].concat()
    }

    #[tokio::test]
    async fn who_reads_nothing_is_given_up_and_nothing_waits_for_it_then() {
        let all = Arc::default();
        let waiting = Waiting::new(&all);
        let (queue, frames) = unbounded_channel();
        for _ in 0..3 {
            waiting.add(cost(&frame(100)));
            queue.send(frame(100)).unwrap();
        }
        let outcome = pour(&mut Silent, frames, &waiting, SOON).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(all.load(Ordering::Relaxed), 3 * cost(&frame(100)));
        drop(waiting);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_written_waits_no_longer() {
        let waiting = Waiting::new(&Arc::default());
        let (queue, frames) = unbounded_channel();
        for length in [100, 3 * TOGETHER] {
            waiting.add(cost(&frame(length)));
            queue.send(frame(length)).unwrap();
        }
        drop(queue);
        let mut stream = Cursor::new(Vec::new());
        pour(&mut stream, frames, &waiting, SOON).await.unwrap();
        assert_eq!(waiting.bytes(), 0);
        assert_eq!(stream.into_inner(), [sent(&frame(100)), sent(&frame(3 * TOGETHER))].concat());
    }

    #[tokio::test]
    async fn a_frame_takes_memory_once_there_is_room_for_it_and_may_not_break_off() {
        let room = Arc::new(Semaphore::new(2 * MAX_FRAME));
        let all = room.clone().acquire_many_owned(2 * MAX_FRAME as u32).await.unwrap();
        let (mut bytes, mut long) = (Vec::new(), Cursor::new(sent(&frame(MAX_FRAME / 2))));
        assert!(next(&mut long, &mut bytes, &room, SOON).now_or_never().is_none());
        assert!(bytes.capacity() <= TOGETHER, "{}", bytes.capacity());
        let ping = Frame { body: Some(Ping { number: 3 }.into()), ..Frame::default() };
        let (short, taken) = next(&mut Cursor::new(sent(&ping)), &mut bytes, &room, SOON).await.unwrap();
        assert!(short == ping && taken.is_none(), "what is short is read at any time");
        drop(all);
        long.set_position(0);
        let (read, taken) = next(&mut long, &mut bytes, &room, SOON).await.unwrap();
        assert!(read == frame(MAX_FRAME / 2) && taken.is_some());
        let mut broken = Cursor::new(5000_u32.to_le_bytes()).chain(Silent);
        let outcome = next(&mut broken, &mut bytes, &room, SOON).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        let mut longer = Cursor::new((MAX_FRAME as u32 + 1).to_le_bytes());
        let outcome = next(&mut longer, &mut bytes, &room, SOON).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_peer_has_a_few_streams_and_one_room_as_long_as_its_frames_are_there() {
        let mut reading = Reading::default();
        let mut streams: Vec<_> = (0..MAX_STREAMS).map(|_| reading.begin().unwrap()).collect();
        assert!(reading.begin().is_none());
        let taken = streams[0].0.clone().try_acquire_many_owned(2 * MAX_FRAME as u32).unwrap();
        streams.clear();
        assert_eq!(reading.begin().unwrap().0.available_permits(), 0);
        drop(taken);
        assert!(reading.is_over());
        assert_eq!(reading.begin().unwrap().0.available_permits(), 2 * MAX_FRAME);
    }
}

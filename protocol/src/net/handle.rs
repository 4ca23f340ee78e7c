//! The swarm's front: commands in, answers out.

use super::{
    Multiaddr, NetError, NetLimits, Offence, Reachability,
    book::split_peer,
    identity::{node_id, peer_id},
    task::Answer,
};
use crate::NodeId;
use ailo_proto::{Gossip, Message, Refused, Request, Response, response};
use futures::StreamExt;
use libp2p::{
    PeerId, Stream, StreamProtocol,
    gossipsub::{MessageAcceptance, MessageId},
    metrics::Registry,
    request_response::ResponseChannel,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::{mpsc, oneshot, watch};

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its key.
    pub node: NodeId,
    /// The other end of the connection.
    pub address: Multiaddr,
    /// Last round trip time; none before the first ping came back.
    pub rtt: Option<Duration>,
    /// Name and version of its software, as it says.
    pub agent: String,
    /// When it was ready.
    pub connected_since: SystemTime,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gossip messages handed to the consumer.
    pub gossip_received: u64,
    /// Gossip messages dropped because the consumer is slow.
    pub gossip_dropped: u64,
    /// Gossip messages that could not be sent because the queues to all peers were full.
    pub gossip_unsent: u64,
    /// Gossip messages rejected, by the consumer or because they do not decode.
    pub gossip_rejected: u64,
    /// Requests handed to the consumer.
    pub requests_received: u64,
    /// Requests refused because of a bound.
    pub requests_refused: u64,
    /// Peers banned.
    pub bans: u64,
    /// Connections of others that this node carried as their relay.
    pub relayed: u64,
    /// Connections and places that it refused as a relay.
    pub relay_refused: u64,
    /// Direct connections that took the place of one through a relay.
    pub punched: u64,
    /// Those through a relay that could not become direct.
    pub not_punched: u64,
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(super) struct Counters {
    pub gossip_received: AtomicU64,
    pub gossip_dropped: AtomicU64,
    pub gossip_unsent: AtomicU64,
    pub gossip_rejected: AtomicU64,
    pub requests_received: AtomicU64,
    pub requests_refused: AtomicU64,
    pub bans: AtomicU64,
    pub relayed: AtomicU64,
    pub relay_refused: AtomicU64,
    pub punched: AtomicU64,
    pub not_punched: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why a message was not published. Having no peers is no error: there is just nobody to tell.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Above the bound of the wire.
    #[error("a gossip message of {bytes} bytes exceeds the bound of {max} bytes")]
    TooLong {
        /// Encoded length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A gossip without a body.
    #[error("a gossip message without a body")]
    Empty,
    /// The swarm has stopped.
    #[error("the network layer has stopped")]
    Closed,
}

/// Why a request has no response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Above the bound of the wire, or without a body.
    #[error("the request is empty or longer than {max} bytes")]
    BadRequest {
        /// The bound.
        max: usize,
    },
    /// Too many requests to this peer are under way: await some of them first.
    #[error("too many requests to this peer are under way")]
    Busy,
    /// No connection, and no address known or none that answers.
    #[error("the peer can't be reached: {0}")]
    Unreachable(String),
    /// Not in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The peer says no.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// What came back is no response.
    #[error("the peer's response is invalid: {0}")]
    BadResponse(String),
    /// The swarm has stopped.
    #[error("the network layer has stopped")]
    Closed,
}

pub(super) enum Command {
    Publish(Gossip),
    Request { node: NodeId, request: Request, answer: oneshot::Sender<Result<response::Body, RequestError>> },
    Report(NodeId, Offence),
    Learn(NodeId, Vec<Multiaddr>),
    Shutdown,
}

/// The way to talk to the swarm. The swarm stops when it is told to, or when all handles or the event queue are gone.
#[derive(Clone)]
pub struct Handle {
    pub(super) node: NodeId,
    pub(super) limits: Arc<NetLimits>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) peers: watch::Receiver<Arc<[PeerInfo]>>,
    pub(super) listeners: watch::Receiver<Arc<[Multiaddr]>>,
    pub(super) reachability: watch::Receiver<Reachability>,
    pub(super) traffic: Arc<Registry>,
    pub(super) counters: Arc<Counters>,
    pub(super) streams: Streams,
}

/// What opens and takes streams of inference.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) control: libp2p_stream::Control,
    pub(super) protocol: StreamProtocol,
}

/// Streams that peers open.
pub struct Incoming {
    streams: libp2p_stream::IncomingStreams,
    peers: watch::Receiver<Arc<[PeerInfo]>>,
}

impl Incoming {
    /// The next one, of a peer that is connected and ready; none once the swarm has stopped.
    pub async fn next(&mut self) -> Option<(NodeId, Stream)> {
        loop {
            let (peer, stream) = self.streams.next().await?;
            let node = node_id(&peer).ok();
            let known = node.filter(|node| self.peers.borrow().iter().any(|peer| peer.node == *node));
            if let Some(node) = known {
                return Some((node, stream));
            }
        }
    }
}

impl Handle {
    /// Opens a stream for frames of inference to a peer; it is theirs to read and ours to write.
    pub async fn open_stream(&self, node: NodeId) -> Result<Stream, RequestError> {
        let unreachable = |e: &dyn std::fmt::Display| RequestError::Unreachable(e.to_string());
        let peer = peer_id(&node).map_err(|e| unreachable(&e))?;
        let mut control = self.streams.control.clone();
        let opening = control.open_stream(peer, self.streams.protocol.clone());
        let opened = tokio::time::timeout(self.limits.handshake_timeout, opening).await;
        opened.map_err(|_| RequestError::Timeout)?.map_err(|e| unreachable(&e))
    }

    /// Where a node says that it listens: used when it is dialled next. Forgotten if the command queue is full.
    pub fn learn(&self, node: NodeId, addresses: Vec<Multiaddr>) {
        let _ = self.commands.try_send(Command::Learn(node, addresses)); // It will be said again.
    }

    /// The streams that peers open from now on; one caller has them.
    pub fn incoming(&self) -> Option<Incoming> {
        let streams = self.streams.control.clone().accept(self.streams.protocol.clone()).ok()?;
        Some(Incoming { streams, peers: self.peers.clone() })
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Sends gossip to all peers. Bytes that travelled within the last minute do not travel again: to repeat a message
    /// on purpose, change its nonce. Waits only while the command queue is full.
    pub async fn publish(&self, message: impl Into<Gossip>) -> Result<(), PublishError> {
        let (message, max) = (message.into(), self.limits.gossip_bytes);
        if message.body.is_none() {
            return Err(PublishError::Empty);
        }
        let bytes = message.encoded_len();
        if bytes > max {
            return Err(PublishError::TooLong { bytes, max });
        }
        self.commands.send(Command::Publish(message)).await.map_err(|_| PublishError::Closed)
    }

    /// Asks a peer; dials it first when it is not connected but its address is known. [`response::Body::Refused`]
    /// comes back as [`RequestError::Refused`].
    pub async fn request(&self, node: NodeId, request: impl Into<Request>) -> Result<response::Body, RequestError> {
        let (request, max) = (request.into(), self.limits.request_bytes);
        if request.body.is_none() || request.encoded_len() > max {
            return Err(RequestError::BadRequest { max });
        }
        let (answer, response) = oneshot::channel();
        let exchange = async {
            let command = Command::Request { node, request, answer };
            self.commands.send(command).await.map_err(|_| RequestError::Closed)?;
            response.await.map_err(|_| RequestError::Closed)?
        };
        // The swarm bounds the exchange itself; dialling comes on top.
        let limit = self.limits.request_timeout + self.limits.handshake_timeout * 2;
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(RequestError::Timeout))
    }

    /// The peers that are connected and ready.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.peers.borrow().to_vec()
    }

    /// The same as they change: whoever comes or goes, and every round trip.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<[PeerInfo]>> {
        self.peers.clone()
    }

    /// How others reach this node, as far as is known.
    pub fn reachability(&self) -> Reachability {
        self.reachability.borrow().clone()
    }

    /// Bytes that went over the wire, as metrics that a scraper reads.
    pub fn traffic(&self) -> &Registry {
        &self.traffic
    }

    /// The addresses this node is reached at, the best first, each with `/p2p/<peer id>`: what another node may bootstrap from. Those
    /// through a relay are among them.
    pub fn listeners(&self) -> Vec<Multiaddr> {
        self.listeners.borrow().to_vec()
    }

    /// The same addresses without its own name.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.listeners.borrow().iter().map(|address| split_peer(address).0).collect()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            gossip_received: get(&self.counters.gossip_received),
            gossip_dropped: get(&self.counters.gossip_dropped),
            gossip_unsent: get(&self.counters.gossip_unsent),
            gossip_rejected: get(&self.counters.gossip_rejected),
            requests_received: get(&self.counters.requests_received),
            requests_refused: get(&self.counters.requests_refused),
            bans: get(&self.counters.bans),
            relayed: get(&self.counters.relayed),
            relay_refused: get(&self.counters.relay_refused),
            punched: get(&self.counters.punched),
            not_punched: get(&self.counters.not_punched),
        }
    }

    /// Blames a peer; too many offences disconnect and ban it for a while.
    pub async fn report(&self, node: NodeId, offence: Offence) -> Result<(), NetError> {
        self.commands.send(Command::Report(node, offence)).await.map_err(|_| NetError::Closed)
    }

    /// Returns once the swarm has stopped, whatever stopped it.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }

    /// Stops the swarm and closes all connections; returns once that is done.
    pub async fn shutdown(&self) {
        // Either the command arrives or the task has ended; in both cases its receiver closes.
        let _ = self.commands.send(Command::Shutdown).await;
        self.closed().await;
    }
}

/// The duty to judge one gossip message; dropping it ignores the message.
pub struct Verdict {
    pub(super) message: MessageId,
    pub(super) peer: PeerId,
    pub(super) bytes: usize,
    pub(super) acceptance: MessageAcceptance,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
}

impl Verdict {
    /// Valid and new: hand it on.
    pub fn accept(mut self) {
        self.acceptance = MessageAcceptance::Accept;
    }

    /// Not worth handing on, but nobody's fault.
    pub fn ignore(self) {}

    /// Invalid beyond doubt: do not hand it on, and blame the peer that did.
    pub fn reject(mut self) {
        self.acceptance = MessageAcceptance::Reject;
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        let acceptance = std::mem::replace(&mut self.acceptance, MessageAcceptance::Ignore);
        let (message, peer, bytes) = (self.message.clone(), self.peer, self.bytes);
        // An error means that the swarm has stopped: nothing is left to tell.
        let _ = self.answers.send(Answer::Verdict { message, peer, bytes, acceptance });
    }
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verdict({})", self.message)
    }
}

/// The duty to answer one request; dropping it refuses.
pub struct Reply {
    pub(super) channel: Option<ResponseChannel<Response>>,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
}

impl Reply {
    /// Answers. A response above the bound of the wire is replaced by a refusal.
    pub fn send(mut self, response: impl Into<Response>) {
        self.answer(response.into());
    }

    /// Refuses, with a reason for people.
    pub fn refuse(self, reason: impl Into<String>) {
        self.send(Refused { reason: reason.into() });
    }

    fn answer(&mut self, response: Response) {
        if let Some(channel) = self.channel.take() {
            let _ = self.answers.send(Answer::Response { channel, response });
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Refused { reason: "not answered, try again later".into() }.into());
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

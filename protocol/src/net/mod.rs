//! The peer-to-peer swarm: one task owns it, everybody else talks to it through a cloneable [`Handle`] and one queue
//! of [`Event`]s. The messages are those of `ailo-proto`; nothing here knows what they mean.
//!
//! **Identity.** A node's ed25519 key is its libp2p key; [`NodeId`] and peer id convert into each other.
//!
//! **Networks do not mix.** Gossip, requests and kademlia negotiate under `/ailo/<first 16 hex of the network id>/...`,
//! and identify announces the whole id. A peer that announces another one is disconnected as soon as both sides know
//! ([`Event::WrongNetwork`], one warning a peer); it never enters kademlia or the gossip mesh. A peer that does not
//! finish the handshake (identify, then its gossip subscriptions) in time is disconnected too. So
//! [`Event::Connected`] means: same network, and both requests and gossip reach the peer.
//!
//! **Finding each other.** Addresses given at the start are dialled, and dialled again with a
//! growing pause, while there are fewer than `target_connections` peers. What identified peers say about their
//! addresses goes into kademlia and an address book. Walks through kademlia (often while the network is new, later
//! once a minute) and the book keep connecting until the target is reached: a network of up to 32 nodes becomes a full
//! mesh. A peer says its addresses anew whenever it connects, so a node that restarts is found under its new ones.
//!
//! **Gossip.** A message's id is the BLAKE3 hash of its bytes. It is handed on only after its [`Verdict`]: `accept`
//! forwards, `ignore` drops it without blame (a duplicate, too old, no room), `reject` drops and blames the peer that
//! sent it. A verdict that is dropped ignores.
//!
//! **Requests.** One request and one response on a stream; both bounded in size, number and time. A [`Reply`] that is
//! dropped refuses. A request to a peer that is not connected dials it first, when its address is known.
//!
//! **Misbehaviour.** [`Handle::report`] and rejected gossip add points that fade; a hundred points disconnect and ban
//! for a while. Points also lower the peer's gossip score.
//!
//! **NAT.** A node finds out whether peers elsewhere reach it ([`Reachability`]); those that are reached serve as relays, those that are not
//! are reached through them, at first (`nat`).
//!
//! **A slow consumer** never blocks the swarm: the event queue is bounded, gossip is dropped first (and counted),
//! then requests are refused; connections and disconnections are never lost, nor are responses, which go straight to
//! whoever asked.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use ailo_proto::{Head, HeadRequest};
//! use ailo_protocol::{net::{self, Event, NetConfig}, Hash, Keypair};
//!
//! let (a, b) = (Keypair::generate(), Keypair::generate());
//! let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
//! let config = |key| NetConfig { listen: listen.clone(), ..NetConfig::new(key, Hash([7; 32])) };
//! let (alice, _events) = net::start(config(a)).await?;
//! let (bob, mut events) = net::start(NetConfig { bootstrap: alice.listeners(), ..config(b) }).await?;
//! tokio::spawn({
//!     let alice = *alice.node();
//!     async move { bob.request(alice, HeadRequest {}).await }
//! });
//! while let Some(event) = events.recv().await {
//!     if let Event::Connected(node) = event {
//!         assert_eq!(node, *alice.node());
//!         break;
//!     }
//! }
//! alice.publish(Head { height: 1, block: vec![0; 32].into() }).await?;
//! alice.shutdown().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
mod behaviour;
mod book;
mod codec;
mod handle;
mod identity;
mod limits;
mod nat;
mod offence;
mod outbox;
mod task;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use codec::decode_response;
pub use handle::{Handle, Incoming, PeerInfo, PublishError, Reply, RequestError, Stats, Verdict};
pub use identity::{IdentityError, node_id, peer_id};
pub use libp2p::{Multiaddr, PeerId, Stream};
pub use limits::NetLimits;
pub use nat::Reachability;
pub use offence::Offence;
pub use task::start;

use crate::{Hash, Keypair, NodeId};
use ailo_proto::{gossip, request};

/// What a swarm needs to start.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The node's key.
    pub key: Keypair,
    /// Network id; peers of another network are refused.
    pub network: Hash,
    /// Addresses to listen on: `/ip4/.../tcp/...` or `/ip6/...`; port 0 picks a free one.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where they differ from its own (behind a port forwarding).
    pub announce: Vec<Multiaddr>,
    /// Ask the router to let others in (UPnP), where this node listens beyond its own machine.
    pub upnp: bool,
    /// Nodes to find the network through; a trailing `/p2p/<peer id>` is checked when it is there.
    pub bootstrap: Vec<Multiaddr>,
    /// Every bound of the swarm.
    pub limits: NetLimits,
    /// Name and version of the software, which peers see.
    pub agent: String,
}

impl NetConfig {
    /// Listens nowhere, knows nobody, default limits.
    pub fn new(key: Keypair, network: Hash) -> NetConfig {
        NetConfig {
            key,
            network,
            listen: Vec::new(),
            announce: Vec::new(),
            upnp: false,
            bootstrap: Vec::new(),
            limits: NetLimits::default(),
            agent: concat!("ailo/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Why a swarm does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Another program listens there.
    #[error("port {port} is in use at {address}: is another node running? stop it, or choose another listen address")]
    PortBusy {
        /// What was asked for.
        address: Multiaddr,
        /// Its TCP port.
        port: u16,
    },
    /// The system refuses the address.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// What was asked for.
        address: Multiaddr,
        /// The system's reason.
        reason: String,
    },
    /// Not an address of the one transport there is.
    #[error("'{0}' is not usable here: write /ip4/<address>/tcp/<port> or /ip6/<address>/tcp/<port>")]
    Address(Multiaddr),
    /// libp2p refuses its own configuration or the key.
    #[error("the network layer can't be set up: {0}")]
    Setup(String),
    /// The swarm has stopped.
    #[error("the network layer has stopped by itself: the log above says why; start the node again")]
    Closed,
}

/// What the swarm tells its owner.
#[derive(Debug)]
pub enum Event {
    /// Gossip that awaits its verdict.
    Gossip {
        /// The peer that handed it on; not necessarily its author.
        from: NodeId,
        /// The message.
        message: gossip::Body,
        /// Must be answered.
        verdict: Verdict,
    },
    /// A request that awaits its response.
    Request {
        /// Who asks.
        from: NodeId,
        /// What for.
        request: request::Body,
        /// Must be answered.
        reply: Reply,
    },
    /// A peer of this network is there and ready.
    Connected(NodeId),
    /// It is gone.
    Disconnected(NodeId),
    /// A peer of another network was met and disconnected.
    WrongNetwork {
        /// Its key.
        node: NodeId,
        /// Where it was met.
        address: Multiaddr,
        /// The network that it announced: an id, or whatever else it said (at most 80 characters).
        network: String,
    },
}

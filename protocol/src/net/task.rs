//! The task that owns the swarm: turns its events into those of [`super::Event`], keeps the peers' sessions, and dials.

mod reach;

use super::{
    Event, Handle, NetConfig, NetError, NetLimits, Offence, PeerInfo, Reachability, Reply, RequestError, Verdict,
    behaviour::{Behaviour, BehaviourEvent, Topics, VERSION_PREFIX, protocol, protocol_version},
    book::{Book, Target, ip_and_port, split_peer, usable},
    handle::{Command, Counters, Streams, count},
    identity::{node_id, peer_id},
    nat::{Standing, far_end, is_relayed},
    offence::{Consequence, Offences},
    outbox::Outbox,
};
use crate::NodeId;
use ailo_proto::{Gossip, Message, Refused, Request, Response, response};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    gossipsub::{self, MessageAcceptance, MessageId},
    identify, identity,
    metrics::Registry,
    noise, ping, relay,
    request_response::{self, InboundRequestId, OutboundFailure, OutboundRequestId, ResponseChannel},
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use reach::Place;
use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

/// How often time-outs, redials and walks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Addresses that are taken at a node's word, at most.
const MAX_TOLD: usize = 4;
/// Dials begun at one look, at most.
const DIALS_PER_TICK: usize = 8;
/// Pause between two walks through kademlia: the first, and the longest.
const WALK_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A peer of another network may learn ours for so long before it is disconnected.
const FAREWELL: Duration = Duration::from_secs(2);
/// Addresses of this node that are told to others, at most.
const MAX_LISTED: usize = 16;
/// A listener reports its address within this time.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one connection, at most.
const MAX_STREAMS: usize = 128;
/// Peers of other networks about whom a warning was logged, remembered at most.
const MAX_WARNED: usize = 1024;

/// What holders of a [`Verdict`] or a [`Reply`] send back. There are never more than were handed out.
pub(super) enum Answer {
    Verdict { message: MessageId, peer: PeerId, bytes: usize, acceptance: MessageAcceptance },
    Response { channel: ResponseChannel<Response>, response: Response },
}

/// A peer with at least one connection.
struct Session {
    node: NodeId,
    connections: HashMap<ConnectionId, Multiaddr>,
    since: Instant,
    /// It announced our network...
    verified: bool,
    /// ...and subscribed to our gossip; both make it ready.
    subscribed: bool,
    ready: Option<SystemTime>,
    agent: String,
    /// It serves as a relay.
    relays: bool,
    /// Where it sees this node.
    sees: Option<IpAddr>,
    rtt: Option<Duration>,
    last_used: Instant,
    /// It has been told our network.
    told: bool,
    /// It is of another network and goes at the latest now.
    foreign: Option<Instant>,
}

struct Pending {
    peer: PeerId,
    answer: oneshot::Sender<Result<response::Body, RequestError>>,
}

struct Task {
    swarm: Swarm<Behaviour>,
    topics: Topics,
    version: String,
    limits: Arc<NetLimits>,
    outbox: Outbox,
    book: Book,
    offences: Offences,
    sessions: HashMap<PeerId, Session>,
    /// Addresses given by people that are being dialled.
    dials: HashMap<ConnectionId, Multiaddr>,
    asked: HashMap<OutboundRequestId, Pending>,
    serving: HashMap<InboundRequestId, PeerId>,
    verdicts: usize,
    verdict_bytes: usize,
    warned: HashSet<PeerId>,
    walk_pause: Duration,
    next_walk: Instant,
    walks: u64,
    answers: mpsc::UnboundedSender<Answer>,
    peers: watch::Sender<Arc<[PeerInfo]>>,
    listeners: watch::Sender<Arc<[Multiaddr]>>,
    /// Addresses that the operator gave.
    announced: Vec<Multiaddr>,
    standing: Standing,
    /// What the router forwards.
    mapped: Option<Multiaddr>,
    places: HashMap<ListenerId, Place>,
    /// Relays that are not asked for a place before this time.
    refused: HashMap<PeerId, Instant>,
    reachability: watch::Sender<Reachability>,
    counters: Arc<Counters>,
}

/// Refuses what is not TCP over an IP address.
fn check_address(address: &Multiaddr) -> Result<(), NetError> {
    ip_and_port(address).map(drop).ok_or_else(|| NetError::Address(address.clone()))
}

/// Starts a swarm inside the current tokio runtime; returns once it listens.
pub async fn start(config: NetConfig) -> Result<(Handle, mpsc::Receiver<Event>), NetError> {
    for address in config.listen.iter().chain(&config.announce).chain(&config.bootstrap) {
        check_address(address)?;
    }
    let setup = |e: &dyn std::fmt::Display| NetError::Setup(e.to_string());
    let key = identity::Keypair::ed25519_from_bytes(*config.key.seed()).map_err(|e| setup(&e))?;
    let topics = Topics::new(&config.network);
    let infer = protocol(&config.network, "infer/1").map_err(|e| setup(&e))?;
    let mux = || {
        let mut mux = yamux::Config::default();
        mux.set_max_num_streams(MAX_STREAMS);
        mux
    };
    let mut traffic = Registry::default();
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, mux)
        .map_err(|e| setup(&e))?
        .with_relay_client(noise::Config::new, mux)
        .map_err(|e| setup(&e))?
        .with_bandwidth_metrics(&mut traffic)
        .with_behaviour(|key, relayed| {
            Behaviour::new(key, &config, &topics, relayed).map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        })
        .map_err(|e| setup(&e))?
        // Connections last until somebody closes them; `Task::trim` closes those that are too many.
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(u64::from(u32::MAX))))
        .with_connection_timeout(config.limits.handshake_timeout)
        .build();
    let announced: Vec<Multiaddr> = config.announce.iter().map(|address| split_peer(address).0).collect();
    for address in &announced {
        swarm.add_external_address(address.clone());
    }
    let streams = Streams { control: swarm.behaviour().streams.new_control(), protocol: infer };

    let limits = Arc::new(config.limits);
    let (events, event_receiver) = mpsc::channel(limits.event_queue.max(1));
    let (commands, command_receiver) = mpsc::channel(limits.command_queue.max(1));
    let (answers, answer_receiver) = mpsc::unbounded_channel();
    let (peers, peer_receiver) = watch::channel(Arc::from([]));
    let (listeners, listener_receiver) = watch::channel(Arc::from([]));
    let (reachability, reachability_receiver) = watch::channel(Reachability::STARTING);
    let now = Instant::now();
    let mut book = Book::new(*swarm.local_peer_id(), limits.known_peers);
    for address in &config.bootstrap {
        if !book.add_seed(address, now) {
            warn!(%address, "too many bootstrap addresses, this one is left out");
        }
    }
    let mut task = Task {
        version: protocol_version(&config.network),
        offences: Offences::new(limits.ban),
        outbox: Outbox::new(events),
        limits: limits.clone(),
        book,
        swarm,
        topics,
        sessions: HashMap::new(),
        dials: HashMap::new(),
        asked: HashMap::new(),
        serving: HashMap::new(),
        verdicts: 0,
        verdict_bytes: 0,
        warned: HashSet::new(),
        walk_pause: WALK_PAUSE.0,
        next_walk: now,
        walks: 0,
        answers,
        peers,
        listeners,
        announced,
        standing: Standing::default(),
        mapped: None,
        places: HashMap::new(),
        refused: HashMap::new(),
        reachability,
        counters: Arc::default(),
    };
    task.listen(&config.listen).await?;
    let handle = Handle {
        node: *config.key.public(),
        limits,
        commands,
        peers: peer_receiver,
        listeners: listener_receiver,
        reachability: reachability_receiver,
        traffic: Arc::new(traffic),
        counters: task.counters.clone(),
        streams,
    };
    tokio::spawn(task.run(command_receiver, answer_receiver));
    Ok((handle, event_receiver))
}

impl Task {
    /// Opens the listeners and waits until each has an address.
    async fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), NetError> {
        for address in addresses {
            // libp2p listens with SO_REUSEPORT, which lets two nodes share a port without an error and then splits
            // their connections at random. A plain bind tells.
            let Some((ip, port)) = ip_and_port(address) else { continue };
            match std::net::TcpListener::bind((ip, port)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    return Err(NetError::PortBusy { address: address.clone(), port });
                }
                Err(e) => return Err(NetError::Listen { address: address.clone(), reason: e.to_string() }),
            }
        }
        let failed = |address: &Multiaddr, reason: String| NetError::Listen { address: address.clone(), reason };
        let mut waiting: HashMap<ListenerId, &Multiaddr> = HashMap::new();
        for address in addresses {
            let id = self.swarm.listen_on(split_peer(address).0).map_err(|e| failed(address, e.to_string()))?;
            waiting.insert(id, address);
        }
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        while let Some(address) = waiting.values().next().copied() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some())
                .await
                .map_err(|_| failed(address, "the system reports no address for it".into()))?;
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(e), .. } => {
                    if let Some(address) = waiting.get(listener_id) {
                        return Err(failed(address, e.to_string()));
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(())
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut answers: mpsc::UnboundedReceiver<Answer>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = commands.recv() => match command {
                    Some(Command::Shutdown) | None => break,
                    Some(command) => self.on_command(command),
                },
                // Never ends: `self` keeps a sender.
                Some(answer) = answers.recv() => self.on_answer(answer),
                _ = tick.tick() => self.on_tick(Instant::now()),
                () = self.outbox.run() => break,
            }
        }
        debug!("network layer stops");
        // The sockets close before the command queue, whose end tells `Handle::shutdown` that all is done.
        drop(self);
        drop(commands);
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Requests(event)) => self.on_request(event),
            SwarmEvent::Behaviour(BehaviourEvent::Probes(event)) => self.on_probe(event),
            SwarmEvent::Behaviour(BehaviourEvent::Upnp(event)) => self.on_router(event),
            SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.on_relay(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Relayed(event)) => self.on_place(event),
            SwarmEvent::Behaviour(BehaviourEvent::Punch(event)) => self.on_punched(&event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if let Some(address) = self.dials.remove(&connection_id) {
                    self.book.answered(&address, peer_id);
                }
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                info!(%address, "listening");
                self.on_place_address(listener_id, &address);
                self.publish_listeners();
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.publish_listeners(),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let place = self.on_listener_closed(listener_id, &reason);
                if let Err(reason) = reason
                    && !place
                {
                    error!(?addresses, %reason, "no longer listening");
                }
                self.publish_listeners();
            }
            _ => {}
        }
    }

    // ---- Connections

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let (address, _) = split_peer(far_end(endpoint));
        let node = match node_id(&peer) {
            Ok(node) => node,
            Err(reason) => {
                debug!(%reason, %address, "peer disconnected");
                return self.disconnect(peer);
            }
        };
        let session = self.sessions.entry(peer).or_insert_with(|| Session {
            node,
            connections: HashMap::new(),
            since: Instant::now(),
            verified: false,
            subscribed: false,
            ready: None,
            agent: String::new(),
            relays: false,
            sees: None,
            rtt: None,
            last_used: Instant::now(),
            told: false,
            foreign: None,
        });
        session.connections.insert(connection, address);
        // What goes through a relay is somebody else's to carry: it ends once there is a direct way.
        if session.connections.values().any(|address| !is_relayed(address)) {
            for (id, _) in session.connections.iter().filter(|(_, address)| is_relayed(address)) {
                self.swarm.close_connection(*id);
            }
        }
        if session.ready.is_some() {
            self.publish_peers(); // the way to it may be another one
        }
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.connections.remove(&connection);
        if !session.connections.is_empty() {
            return self.publish_peers();
        }
        if let Some(session) = self.sessions.remove(&peer).filter(|s| s.ready.is_some()) {
            debug!(node = %session.node, "peer disconnected");
            self.book.disconnected(&peer, Instant::now());
            self.publish_peers();
            self.outbox.connection(session.node, false);
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        // An error means that it is not connected, which is what is wanted.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: DialError) {
        let seed = self.dials.remove(&connection);
        match (&error, seed) {
            (DialError::LocalPeerId { .. }, Some(address)) => self.book.remove_seed(&address),
            (DialError::WrongPeerId { obtained, .. }, Some(address)) => {
                warn!(%address, %obtained, "another node than the expected one answers at a bootstrap address");
            }
            (_, seed) => debug!(?peer, address = ?seed, %error, "dial failed"),
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { peer_id, info, .. } if info.protocol_version == self.version => {
                self.on_verified(peer_id, info);
            }
            identify::Event::Received { peer_id, info, .. } => self.on_foreign(peer_id, &info.protocol_version),
            identify::Event::Sent { peer_id, .. } => {
                let Some(session) = self.sessions.get_mut(&peer_id) else { return };
                session.told = true;
                if session.foreign.is_some() {
                    self.disconnect(peer_id);
                }
            }
            identify::Event::Error { peer_id, error, .. } => debug!(peer = %peer_id, %error, "identify failed"),
            identify::Event::Pushed { .. } => {}
        }
    }

    fn on_verified(&mut self, peer: PeerId, info: identify::Info) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.verified = true;
        session.agent = printable(&info.agent_version, 80);
        session.relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        if let Some((ip, _)) = ip_and_port(&info.observed_addr) {
            session.sees = Some(ip);
        }
        let over_loopback =
            session.connections.values().any(|a| ip_and_port(a).is_some_and(|(ip, _)| ip.is_loopback()));
        let addresses = usable(&info.listen_addrs, over_loopback);
        let kad = &mut self.swarm.behaviour_mut().kad;
        for old in self.book.learn(peer, addresses.clone(), Instant::now()) {
            kad.remove_address(&peer, &old);
        }
        for address in addresses {
            kad.add_address(&peer, address);
        }
        self.warned.remove(&peer);
        self.look_at_probes(false); // what was doubted may be seen by another one
        self.check_ready(peer);
    }

    fn on_foreign(&mut self, peer: PeerId, version: &str) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        session.foreign.get_or_insert(Instant::now() + FAREWELL);
        let (node, told) = (session.node, session.told);
        let address = session.connections.values().next().cloned().unwrap_or_else(Multiaddr::empty);
        if self.warned.len() >= MAX_WARNED {
            self.warned.clear();
        }
        if self.warned.insert(peer) {
            let network = printable(version.strip_prefix(VERSION_PREFIX).unwrap_or(version), 80);
            warn!(
                %node, %address, theirs = %network, ours = self.version.trim_start_matches(VERSION_PREFIX),
                "a node of another network was refused: both need the same genesis to work together"
            );
            self.outbox.note(Event::WrongNetwork { node, address, network });
        }
        if told {
            self.disconnect(peer);
        }
    }

    /// A peer that is verified and subscribed is announced, once.
    fn check_ready(&mut self, peer: PeerId) {
        let now = Instant::now();
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if !session.verified || !session.subscribed || session.ready.is_some() || session.foreign.is_some() {
            return;
        }
        session.ready = Some(SystemTime::now());
        session.last_used = now;
        let node = session.node;
        debug!(%node, agent = session.agent, "peer connected");
        self.book.connected(&peer, now);
        // Whoever is new may know others.
        self.walk_pause = WALK_PAUSE.0;
        self.next_walk = self.next_walk.min(now + WALK_PAUSE.0);
        self.publish_peers();
        self.outbox.connection(node, true);
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => {
                if let Some(session) = self.sessions.get_mut(&event.peer) {
                    session.rtt = Some(rtt);
                    self.publish_peers();
                }
            }
            Err(ping::Failure::Unsupported) => {}
            Err(failure) => {
                debug!(peer = %event.peer, %failure, "connection is dead");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn publish_peers(&self) {
        let mut peers: Vec<PeerInfo> = self.sessions.values().filter_map(Session::info).collect();
        peers.sort_by_key(|p| p.node);
        self.peers.send_replace(peers.into());
    }

    // ---- Gossip

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_message(propagation_source, message_id, message);
            }
            gossipsub::Event::Subscribed { peer_id, topic } if topic == self.topics.consensus.hash() => {
                if let Some(session) = self.sessions.get_mut(&peer_id) {
                    session.subscribed = true;
                }
                self.check_ready(peer_id);
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                debug!(peer = %peer_id, ?failed_messages, "peer is too slow for gossip");
            }
            _ => {}
        }
    }

    fn on_message(&mut self, peer: PeerId, id: MessageId, message: gossipsub::Message) {
        let bytes = message.data.len();
        let body = Gossip::decode(ailo_proto::Bytes::from(message.data)).ok().and_then(|gossip| gossip.body);
        let body = body.filter(|body| self.topics.of(body).hash() == message.topic);
        let (Some(body), Ok(from)) = (body, node_id(&peer)) else {
            return self.judge(id, peer, MessageAcceptance::Reject);
        };
        if self.verdicts >= self.limits.verdicts || self.verdict_bytes + bytes > self.limits.verdict_bytes {
            count(&self.counters.gossip_dropped);
            return self.judge(id, peer, MessageAcceptance::Ignore);
        }
        self.verdicts += 1;
        self.verdict_bytes += bytes;
        let acceptance = MessageAcceptance::Ignore;
        let verdict = Verdict { message: id, peer, bytes, acceptance, answers: self.answers.clone() };
        // Without room the event is dropped, and with it the verdict, which ignores.
        let queued = self.outbox.gossip(Event::Gossip { from, message: body, verdict });
        count(if queued { &self.counters.gossip_received } else { &self.counters.gossip_dropped });
    }

    fn judge(&mut self, id: MessageId, peer: PeerId, acceptance: MessageAcceptance) {
        let rejected = matches!(acceptance, MessageAcceptance::Reject);
        self.swarm.behaviour_mut().gossip.report_message_validation_result(&id, &peer, acceptance);
        if rejected {
            count(&self.counters.gossip_rejected);
            self.offend(peer, Offence::Invalid);
        }
    }

    fn publish(&mut self, message: Gossip) {
        let Some(body) = &message.body else { return };
        let topic = self.topics.of(body).hash();
        match self.swarm.behaviour_mut().gossip.publish(topic, message.encode_to_vec()) {
            Ok(_) | Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {}
            Err(error) => {
                count(&self.counters.gossip_unsent);
                debug!(%error, "gossip not sent");
            }
        }
    }

    // ---- Requests

    fn on_request(&mut self, event: request_response::Event<Request, Response>) {
        use request_response::{Event as E, Message as M};
        match event {
            E::Message { peer, message: M::Request { request_id, request, channel }, .. } => {
                self.serve(peer, request_id, request, channel);
            }
            E::Message { message: M::Response { request_id, response }, .. } => {
                let result = match response.body {
                    Some(response::Body::Refused(r)) => Err(RequestError::Refused(printable(&r.reason, 256))),
                    Some(body) => Ok(body),
                    None => Err(RequestError::BadResponse("it has no body".into())),
                };
                self.answered(request_id, result);
            }
            E::OutboundFailure { request_id, error, .. } => {
                let error = match error {
                    OutboundFailure::Timeout => RequestError::Timeout,
                    OutboundFailure::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
                        RequestError::BadResponse(e.to_string())
                    }
                    OutboundFailure::DialFailure => RequestError::Unreachable("no known address answers".into()),
                    error => RequestError::Unreachable(error.to_string()),
                };
                self.answered(request_id, Err(error));
            }
            E::InboundFailure { request_id, .. } | E::ResponseSent { request_id, .. } => {
                self.serving.remove(&request_id);
            }
        }
    }

    fn serve(&mut self, peer: PeerId, id: InboundRequestId, request: Request, channel: ResponseChannel<Response>) {
        self.touch(&peer);
        let (Some(request), Ok(from)) = (request.body, node_id(&peer)) else {
            self.respond(channel, Refused { reason: "not a request that this version knows".into() }.into());
            return self.offend(peer, Offence::Invalid);
        };
        // Who is not ready counts with all others that are not: a peer may be ready for this node, and ask, a moment before this one is for it.
        let is_ready = |peer: &PeerId| self.sessions.get(peer).is_some_and(|session| session.ready.is_some());
        let is_like = |other: &PeerId| if is_ready(&peer) { *other == peer } else { !is_ready(other) };
        let of_peer = self.serving.values().filter(|other| is_like(other)).count();
        let free = self.limits.requests_in.saturating_sub(self.serving.len());
        if of_peer >= self.limits.requests_per_peer.min(free) {
            count(&self.counters.requests_refused);
            return self.respond(channel, Refused { reason: "busy, try again later".into() }.into());
        }
        self.serving.insert(id, peer);
        let reply = Reply { channel: Some(channel), answers: self.answers.clone() };
        // Without room the event is dropped, and with it the reply, which refuses.
        let queued = self.outbox.request(Event::Request { from, request, reply });
        count(if queued { &self.counters.requests_received } else { &self.counters.requests_refused });
    }

    fn respond(&mut self, channel: ResponseChannel<Response>, response: Response) {
        // An error means that the connection has gone in the meantime.
        let _ = self.swarm.behaviour_mut().requests.send_response(channel, response);
    }

    fn ask(&mut self, node: NodeId, request: Request, answer: oneshot::Sender<Result<response::Body, RequestError>>) {
        // Whoever asked may have stopped waiting: then nobody hears the error, and nobody needs to.
        let peer = match peer_id(&node) {
            Ok(peer) if peer != *self.swarm.local_peer_id() => peer,
            Ok(_) => return drop(answer.send(Err(RequestError::Unreachable("it is this node itself".into())))),
            Err(e) => return drop(answer.send(Err(RequestError::Unreachable(e.to_string())))),
        };
        if self.asked.values().filter(|p| p.peer == peer).count() >= self.limits.requests_per_peer {
            return drop(answer.send(Err(RequestError::Busy)));
        }
        self.touch(&peer);
        let addresses = self.book.addresses(&peer);
        let id = self.swarm.behaviour_mut().requests.send_request_with_addresses(&peer, request, addresses);
        self.asked.insert(id, Pending { peer, answer });
    }

    fn answered(&mut self, id: OutboundRequestId, result: Result<response::Body, RequestError>) {
        let Some(Pending { peer, answer }) = self.asked.remove(&id) else { return };
        if matches!(result, Err(RequestError::BadResponse(_))) {
            self.offend(peer, Offence::Invalid);
        }
        let _ = answer.send(result);
    }

    fn touch(&mut self, peer: &PeerId) {
        if let Some(session) = self.sessions.get_mut(peer) {
            session.last_used = Instant::now();
        }
    }

    // ---- Commands and time

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish(message) => self.publish(message),
            Command::Request { node, request, answer } => self.ask(node, request, answer),
            Command::Report(node, offence) => {
                if let Ok(peer) = peer_id(&node) {
                    self.offend(peer, offence);
                }
            }
            Command::Learn(node, addresses) => {
                let Ok(peer) = peer_id(&node) else { return };
                let local = |a: &Multiaddr| ip_and_port(a).is_some_and(|(ip, _)| ip.is_loopback());
                let on_loopback = self.swarm.listeners().any(local);
                for address in usable(&addresses, on_loopback).into_iter().take(MAX_TOLD) {
                    self.swarm.add_peer_address(peer, address);
                }
            }
            // Ends the loop in `run`.
            Command::Shutdown => {}
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Verdict { message, peer, bytes, acceptance } => {
                self.verdicts = self.verdicts.saturating_sub(1);
                self.verdict_bytes = self.verdict_bytes.saturating_sub(bytes);
                self.judge(message, peer, acceptance);
            }
            Answer::Response { channel, mut response } => {
                let (bytes, max) = (response.encoded_len(), self.limits.response_bytes);
                if bytes > max {
                    warn!(bytes, max, "a response exceeds the bound of the wire and was replaced by a refusal");
                    response = Refused { reason: "the response would exceed the bound".into() }.into();
                }
                self.respond(channel, response);
            }
        }
    }

    fn offend(&mut self, peer: PeerId, offence: Offence) {
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        match self.offences.add(peer, offence, Instant::now()) {
            Consequence::Points(points) => {
                self.swarm.behaviour_mut().gossip.set_application_score(&peer, -points);
            }
            Consequence::Known => {}
            Consequence::Ban { forgiven } => {
                count(&self.counters.bans);
                warn!(%peer, ?offence, for_seconds = self.limits.ban.as_secs(), "peer banned for misbehaviour");
                let blocked = &mut self.swarm.behaviour_mut().blocked;
                blocked.block_peer(peer);
                forgiven.map(|peer| blocked.unblock_peer(peer));
            }
        }
    }

    fn on_tick(&mut self, now: Instant) {
        for peer in self.offences.expire(now) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        for (peer, points) in self.offences.all(now) {
            self.swarm.behaviour_mut().gossip.set_application_score(&peer, -points);
        }
        let late = |s: &Session| s.ready.is_none() && now.duration_since(s.since) > self.limits.handshake_timeout;
        let over = |s: &Session| s.foreign.is_some_and(|deadline| deadline <= now);
        let gone: Vec<PeerId> = self.sessions.iter().filter(|(_, s)| late(s) || over(s)).map(|(p, _)| *p).collect();
        for peer in gone {
            debug!(%peer, "peer did not finish the handshake");
            self.disconnect(peer);
        }
        self.dial(now);
        self.walk(now);
        self.trim();
        self.seek_relay(now);
    }

    /// Dials while there are too few peers.
    fn dial(&mut self, now: Instant) {
        let pending = self.swarm.network_info().connection_counters().num_pending_outgoing() as usize;
        let missing = self.limits.target_connections.saturating_sub(self.sessions.len() + pending);
        let sessions = &self.sessions;
        for target in self.book.due(now, missing.min(DIALS_PER_TICK), |p| sessions.contains_key(p)) {
            let (options, seed) = match target {
                Target::Seed(address, None) => {
                    (DialOpts::unknown_peer_id().address(address.clone()).build(), Some(address))
                }
                Target::Seed(address, Some(peer)) => (dial_peer(peer, vec![address.clone()]), Some(address)),
                Target::Peer(peer, addresses) => (dial_peer(peer, addresses), None),
            };
            let id = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => {
                    seed.map(|address| self.dials.insert(id, address));
                }
                Err(error) => debug!(%error, "dial failed"),
            }
        }
    }

    /// Looks for peers near this node, then near random points, in turn: kademlia connects to whomever it meets.
    fn walk(&mut self, now: Instant) {
        if now < self.next_walk || self.sessions.values().all(|s| s.ready.is_none()) {
            return;
        }
        self.walks += 1;
        let target = if self.walks % 2 == 1 { *self.swarm.local_peer_id() } else { PeerId::random() };
        self.swarm.behaviour_mut().kad.get_closest_peers(target);
        self.walk_pause = (self.walk_pause * 2).min(WALK_PAUSE.1);
        self.next_walk = now + self.walk_pause;
    }

    /// Lets go of peers above the bound: outside every gossip mesh, without requests, idle for longest.
    fn trim(&mut self) {
        let excess = self.sessions.len().saturating_sub(self.limits.max_peers);
        if excess == 0 {
            return;
        }
        let mut busy: HashSet<PeerId> = self.swarm.behaviour().gossip.all_mesh_peers().copied().collect();
        busy.extend(self.places.values().map(|place| place.relay));
        busy.extend(self.asked.values().map(|p| p.peer).chain(self.serving.values().copied()));
        let idle = self.sessions.iter().filter(|(peer, s)| s.ready.is_some() && !busy.contains(peer));
        let mut idle: Vec<(Instant, PeerId)> = idle.map(|(peer, s)| (s.last_used, *peer)).collect();
        idle.sort();
        for (_, peer) in idle.into_iter().take(excess) {
            debug!(%peer, "peer let go: enough others");
            self.disconnect(peer);
        }
    }
}

impl Session {
    fn info(&self) -> Option<PeerInfo> {
        Some(PeerInfo {
            node: self.node,
            address: self.connections.values().min_by_key(|address| is_relayed(address))?.clone(),
            rtt: self.rtt,
            agent: self.agent.clone(),
            connected_since: self.ready?,
        })
    }
}

fn dial_peer(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses).build()
}

/// At most `max` characters of what a peer says, without those that could garble a terminal or a log.
fn printable(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

//! Real swarms on 127.0.0.1. Every wait is for an event or a state, bounded by one generous time-out.
#![allow(clippy::unwrap_used)]

use super::*;
use ailo_proto::{
    BlobRequest, BlobResponse, Gossip, Head, HeadRequest, Message, ModelChunkRequest, Transactions, response,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{
    StreamProtocol, Swarm, gossipsub, identify, noise, request_response,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use std::{
    io,
    sync::Once,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const NETWORK: Hash = Hash([7; 32]);
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    key: Keypair,
    handle: Handle,
    events: mpsc::Receiver<Event>,
}

fn config(seed: u8) -> NetConfig {
    static LOG: Once = Once::new();
    LOG.call_once(|| println!("keys are from_seed([n; 32]) with n from 1"));
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    NetConfig { listen, ..NetConfig::new(Keypair::from_seed([seed; 32]), NETWORK) }
}

async fn start_node(config: NetConfig) -> Node {
    let key = config.key.clone();
    let (handle, events) = start(config).await.unwrap();
    Node { key, handle, events }
}

async fn node(seed: u8, bootstrap: &[&Node]) -> Node {
    let bootstrap = bootstrap.iter().flat_map(|n| n.handle.listeners()).collect();
    start_node(NetConfig { bootstrap, ..config(seed) }).await
}

impl Node {
    fn id(&self) -> NodeId {
        *self.key.public()
    }

    /// The first event for which `pick` gives something; others are dropped (which ignores gossip, refuses requests).
    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the swarm is alive");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    async fn connected(&mut self, to: NodeId) {
        self.until("a connection", |e| matches!(e, Event::Connected(n) if n == to).then_some(())).await;
    }

    async fn disconnected(&mut self, from: NodeId) {
        self.until("a disconnection", |e| matches!(e, Event::Disconnected(n) if n == from).then_some(())).await;
    }

    async fn gossip(&mut self) -> (NodeId, gossip::Body, Verdict) {
        self.until("gossip", |e| match e {
            Event::Gossip { from, message, verdict } => Some((from, message, verdict)),
            _ => None,
        })
        .await
    }

    /// Waits until it has exactly these peers.
    async fn peers_are(&mut self, mut expected: Vec<NodeId>) {
        expected.sort();
        let mut peers = self.handle.peers.clone();
        let reached = peers.wait_for(|peers| peers.iter().map(|p| p.node).eq(expected.iter().copied()));
        let reached = tokio::time::timeout(PATIENCE, reached).await.is_ok_and(|r| r.is_ok());
        assert!(reached, "{:?} must have the peers {expected:?}, has {:?}", self.id(), self.handle.peers());
    }

    /// Answers every request for a blob with its offset, until the swarm stops.
    fn serve(mut self) -> Handle {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                match event {
                    Event::Request { request: request::Body::Blob(BlobRequest { offset, .. }), reply, .. } => {
                        reply.send(BlobResponse { total: offset, ..Default::default() });
                    }
                    Event::Request { request: request::Body::ModelChunk(r), reply, .. } => {
                        reply.send(BlobResponse { data: vec![0; r.index as usize].into(), ..Default::default() });
                    }
                    _ => {}
                }
            }
        });
        handle
    }
}

fn transaction(bytes: &[u8]) -> Transactions {
    Transactions { canonical: vec![bytes.to_vec().into()] }
}

#[tokio::test]
async fn two_nodes_gossip_and_answer_each_other() {
    let mut a = node(1, &[]).await;
    let mut b = node(2, &[&a]).await;
    a.connected(b.id()).await;
    b.connected(a.id()).await;

    // Ready means that gossip sent at once arrives; a copy does not travel, a deliberate repetition does.
    let (ab, message) = (a.handle.clone(), transaction(b"one"));
    ab.publish(message.clone()).await.unwrap();
    ab.publish(message.clone()).await.unwrap();
    ab.publish(Gossip { nonce: 1, ..message.clone().into() }).await.unwrap();
    ab.publish(Head { height: 9, ..Default::default() }).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (from, body, verdict) = b.gossip().await;
        assert_eq!(from, a.id());
        verdict.accept();
        seen.push(body);
    }
    let count = |body: gossip::Body| seen.iter().filter(|b| **b == body).count();
    assert_eq!(count(message.into()), 2);
    assert_eq!(count(Head { height: 9, ..Default::default() }.into()), 1);

    let (a_id, b_id, b_handle) = (a.id(), b.id(), b.handle.clone());
    let asking = tokio::spawn(async move { b_handle.request(a_id, HeadRequest {}).await });
    let (from, request, reply) = a
        .until("a request", |e| match e {
            Event::Request { from, request, reply } => Some((from, request, reply)),
            _ => None,
        })
        .await;
    assert_eq!((from, request), (b_id, HeadRequest {}.into()));
    let head = Head { height: 3, block: vec![1; 32].into() };
    reply.send(head.clone());
    assert_eq!(asking.await.unwrap(), Ok(head.into()));

    // A reply that is dropped refuses.
    let b_handle = b.handle.clone();
    let asking = tokio::spawn(async move { b_handle.request(a_id, HeadRequest {}).await });
    a.until("a request", |e| matches!(e, Event::Request { .. }).then_some(())).await;
    assert_eq!(asking.await.unwrap(), Err(RequestError::Refused("not answered, try again later".into())));
    assert!(b.handle.peers().iter().any(|p| p.node == a_id && p.agent.starts_with("ailo/")));
}

#[tokio::test]
async fn five_nodes_that_know_one_become_a_full_mesh() {
    let mut nodes = vec![node(1, &[]).await];
    for seed in 2..=5 {
        let next = node(seed, &[&nodes[0]]).await;
        nodes.push(next);
    }
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    for node in &mut nodes {
        let others = ids.iter().filter(|id| **id != node.id()).copied().collect();
        node.peers_are(others).await;
    }
}

#[tokio::test]
async fn twelve_nodes_in_a_chain_become_a_full_mesh_and_gossip_reaches_all() {
    let mut nodes: Vec<Node> = vec![node(1, &[]).await];
    for seed in 2..=12 {
        let next = node(seed, &[nodes.last().unwrap()]).await;
        nodes.push(next);
    }
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    for node in &mut nodes {
        let others = ids.iter().filter(|id| **id != node.id()).copied().collect();
        node.peers_are(others).await;
    }
    nodes[0].handle.publish(transaction(b"to all")).await.unwrap();
    join_all(nodes.iter_mut().skip(1).map(|node| async {
        let (_, body, verdict) = node.gossip().await;
        assert_eq!(body, transaction(b"to all").into());
        verdict.accept();
    }))
    .await;
}

#[tokio::test]
async fn both_sides_refuse_another_network() {
    let other = Hash([8; 32]);
    let mut a = node(1, &[]).await;
    let bootstrap = a.handle.listeners();
    let mut b = start_node(NetConfig { network: other, bootstrap, ..config(2) }).await;
    let (a_id, b_id) = (a.id(), b.id());
    let wrong = |expected: NodeId| {
        move |e: Event| match e {
            Event::WrongNetwork { node, network, .. } if node == expected => Some(network),
            Event::Connected(node) => panic!("{node:?} must not be accepted"),
            _ => None,
        }
    };
    let (seen_by_a, seen_by_b) =
        tokio::join!(a.until("the wrong one", wrong(b_id)), b.until("the wrong one", wrong(a_id)));
    assert_eq!((seen_by_a, seen_by_b), (other.to_string(), NETWORK.to_string()));

    // It enters neither gossip nor kademlia, and gets no answer: a third node that asks around does not find it.
    let mut c = node(3, &[&a]).await;
    c.peers_are(vec![a_id]).await;
    b.handle.publish(transaction(b"foreign")).await.unwrap();
    assert!(b.handle.request(a_id, HeadRequest {}).await.is_err());
    a.handle.publish(transaction(b"ours")).await.unwrap();
    assert_eq!(c.gossip().await.1, transaction(b"ours").into());
    a.peers_are(vec![c.id()]).await;
}

#[tokio::test]
async fn rejected_and_ignored_gossip_is_not_forwarded_and_accepted_gossip_is() {
    // a - b - c: a and c have banned each other, so all that passes between them passes through b.
    let mut a = node(1, &[]).await;
    let mut c = node(3, &[]).await;
    let (a_id, c_id) = (a.id(), c.id());
    a.handle.report(c_id, Offence::Attack).await.unwrap();
    c.handle.report(a_id, Offence::Attack).await.unwrap();
    let mut b = node(2, &[&a, &c]).await;
    let b_id = b.id();
    a.connected(b_id).await;
    c.connected(b_id).await;
    b.peers_are(vec![a_id, c_id]).await;

    for (text, judge) in
        [("bad", Verdict::reject as fn(Verdict)), ("stale", Verdict::ignore), ("good", Verdict::accept)]
    {
        a.handle.publish(transaction(text.as_bytes())).await.unwrap();
        judge(b.gossip().await.2);
    }
    let (from, body, _verdict) = c.gossip().await;
    assert_eq!((from, body), (b_id, transaction(b"good").into()), "only what was accepted comes through");
    assert_eq!(b.handle.stats().gossip_rejected, 1);
}

#[tokio::test]
async fn a_restarted_node_is_found_again_at_its_old_and_at_a_new_port() {
    let mut a = node(1, &[]).await;
    let mut b = node(2, &[&a]).await;
    let c = node(3, &[&a]).await;
    let (a_id, b_id, c_id) = (a.id(), b.id(), c.id());
    a.peers_are(vec![b_id, c_id]).await;
    b.peers_are(vec![a_id, c_id]).await;

    // New port: the restarted node knows its bootstrap node, the others hear of it.
    c.handle.shutdown().await;
    drop(c);
    a.disconnected(c_id).await;
    let mut c = node(3, &[&a]).await;
    c.peers_are(vec![a_id, b_id]).await;
    a.peers_are(vec![b_id, c_id]).await;
    b.peers_are(vec![a_id, c_id]).await;

    // Old port: the restarted bootstrap node knows nobody, the others dial it again.
    let listen: Vec<Multiaddr> = a.handle.listeners();
    let begin = Instant::now();
    a.handle.shutdown().await;
    assert!(begin.elapsed() < Duration::from_secs(1), "shutdown is prompt");
    drop(a);
    b.disconnected(a_id).await;
    c.disconnected(a_id).await;
    let mut a = start_node(NetConfig { listen, ..config(1) }).await;
    a.peers_are(vec![b_id, c_id]).await;
    b.peers_are(vec![a_id, c_id]).await;
}

#[tokio::test]
async fn a_busy_port_is_an_error_that_names_it() {
    let a = node(1, &[]).await;
    let listen = a.handle.listeners();
    let error = start(NetConfig { listen: listen.clone(), ..config(2) }).await.err().unwrap();
    let NetError::PortBusy { port, .. } = error else { panic!("{error}") };
    assert!(listen[0].to_string().contains(&port.to_string()));
    assert!(error.to_string().contains("stop it, or choose another"));
    // Free again once the first has gone.
    a.handle.shutdown().await;
    start(NetConfig { listen, ..config(2) }).await.unwrap();
}

#[tokio::test]
async fn addresses_that_can_not_work_are_refused_at_the_start() {
    for bad in ["/dns4/example.com/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4"] {
        let bootstrap = vec![bad.parse().unwrap()];
        let error = start(NetConfig { bootstrap, ..config(1) }).await.err().unwrap();
        assert!(matches!(error, NetError::Address(_)) && error.to_string().contains(bad), "{error}");
    }
}

#[tokio::test]
async fn a_request_to_a_known_peer_that_is_not_connected_dials_it_and_to_an_unknown_one_fails() {
    let server = node(1, &[]).await;
    let (server_id, address) = (server.id(), server.handle.listeners()[0].clone());
    let server = server.serve();
    let limits = NetLimits { target_connections: 0, ..NetLimits::default() };
    let asker = start_node(NetConfig { limits, bootstrap: vec![address], ..config(2) }).await;
    assert!(asker.handle.peers().is_empty());
    let blob = BlobRequest { offset: 5, ..Default::default() };
    let answer = asker.handle.request(server_id, blob).await;
    assert_eq!(answer, Ok(BlobResponse { total: 5, ..Default::default() }.into()));

    let nobody = *Keypair::from_seed([99; 32]).public();
    assert!(matches!(asker.handle.request(nobody, HeadRequest {}).await, Err(RequestError::Unreachable(_))));
    assert!(matches!(asker.handle.request(asker.id(), HeadRequest {}).await, Err(RequestError::Unreachable(_))));
    server.shutdown().await;
    assert!(asker.handle.request(server_id, HeadRequest {}).await.is_err());
    assert_eq!(server.publish(transaction(b"x")).await, Err(PublishError::Closed));
    assert_eq!(server.request(asker.id(), HeadRequest {}).await, Err(RequestError::Closed));
}

#[tokio::test]
async fn what_exceeds_a_bound_is_refused_where_it_starts() {
    let mut a = node(1, &[]).await;
    let server = node(2, &[&a]).await;
    let server_id = server.id();
    let limits = server.handle.limits.clone();
    let _server = server.serve();
    a.connected(server_id).await;

    let too_long = transaction(&vec![0; limits.gossip_bytes]);
    assert!(matches!(a.handle.publish(too_long).await, Err(PublishError::TooLong { .. })));
    let too_long = BlobRequest { hash: vec![0; limits.request_bytes].into(), ..Default::default() };
    assert!(matches!(a.handle.request(server_id, too_long).await, Err(RequestError::BadRequest { .. })));

    let chunk = |bytes: usize| ModelChunkRequest { index: bytes as u32, ..Default::default() };
    let largest = limits.response_bytes - 10;
    let Ok(response::Body::Blob(blob)) = a.handle.request(server_id, chunk(largest)).await else { panic!() };
    assert_eq!(blob.data.len(), largest);
    let answer = a.handle.request(server_id, chunk(limits.response_bytes)).await;
    assert!(matches!(answer, Err(RequestError::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_and_those_within_it_are_answered() {
    let limits = NetLimits { requests_per_peer: 2, ..NetLimits::default() };
    let mut server = start_node(NetConfig { limits, ..config(1) }).await;
    let mut asker = node(2, &[&server]).await;
    let server_id = server.id();
    asker.connected(server_id).await;
    let requests: Vec<_> = (0..5)
        .map(|offset| {
            let handle = asker.handle.clone();
            tokio::spawn(async move { handle.request(server_id, BlobRequest { offset, ..Default::default() }).await })
        })
        .collect();
    // The consumer is slow: it answers only after it has two, and after all others were refused.
    let mut replies = Vec::new();
    while replies.len() < 2 {
        replies.push(
            server
                .until("a request", |e| match e {
                    Event::Request { reply, .. } => Some(reply),
                    _ => None,
                })
                .await,
        );
    }
    let (mut refused, mut open) = (0, requests);
    while refused < 3 {
        let (result, _, rest) = futures::future::select_all(open).await;
        assert!(matches!(result.unwrap(), Err(RequestError::Refused(reason)) if reason.contains("busy")));
        (refused, open) = (refused + 1, rest);
    }
    replies.into_iter().for_each(|reply| reply.send(BlobResponse::default()));
    for result in join_all(open).await {
        assert_eq!(result.unwrap(), Ok(BlobResponse::default().into()));
    }
    assert_eq!(server.handle.stats().requests_refused, 3);
}

#[tokio::test]
async fn a_consumer_that_sleeps_loses_gossip_first_and_neither_responses_nor_connections() {
    let limits = NetLimits { event_queue: 8, ..NetLimits::default() };
    let mut slow = start_node(NetConfig { limits, ..config(1) }).await;
    let mut server = node(2, &[&slow]).await;
    let server_id = server.id();
    server.connected(slow.id()).await;
    let server = server.serve();
    slow.peers_are(vec![server_id]).await;
    for i in 0..100u32 {
        server.publish(transaction(&i.to_le_bytes())).await.unwrap();
    }
    // Nobody reads `slow.events`, and yet the swarm lives and answers come back.
    for offset in 0..20 {
        let answer = slow.handle.request(server_id, BlobRequest { offset, ..Default::default() }).await;
        assert_eq!(answer, Ok(BlobResponse { total: offset, ..Default::default() }.into()));
    }
    let dropped = async {
        while slow.handle.stats().gossip_dropped + slow.handle.stats().gossip_received < 100 {
            slow.handle.request(server_id, BlobRequest::default()).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, dropped).await.unwrap();
    assert!(slow.handle.stats().gossip_received < 8);
    let others = [node(3, &[&slow]).await, node(4, &[&slow]).await];
    slow.peers_are(vec![server_id, others[0].id(), others[1].id()]).await;
    let mut expected = vec![server_id, others[0].id(), others[1].id()];
    while !expected.is_empty() {
        let node = slow.until("a connection", |e| if let Event::Connected(n) = e { Some(n) } else { None }).await;
        expected.retain(|n| *n != node);
    }
}

#[tokio::test]
async fn a_reported_peer_is_banned_and_let_in_again_after_the_ban() {
    let limits = NetLimits { ban: Duration::from_secs(2), ..NetLimits::default() };
    let mut a = start_node(NetConfig { limits, ..config(1) }).await;
    let mut b = node(2, &[&a]).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.connected(b_id).await;
    let begin = Instant::now();
    a.handle.report(b_id, Offence::Attack).await.unwrap();
    a.disconnected(b_id).await;
    b.disconnected(a_id).await;
    assert_eq!(a.handle.stats().bans, 1);
    a.connected(b_id).await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "not before the ban is over");
}

// ---- Peers that break the rules: libp2p swarms of their own, without this crate's code

#[derive(NetworkBehaviour)]
struct Evil {
    identify: identify::Behaviour,
    gossip: gossipsub::Behaviour,
    requests: request_response::Behaviour<RawCodec>,
}

/// Sends and answers whatever bytes it is given.
#[derive(Clone)]
struct RawCodec;

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        self.read_response(&StreamProtocol::new("/"), io).await
    }
    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }
    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
}

/// A peer that speaks the network's protocols and announces `version`.
fn evil(seed: u8, version: &str) -> Swarm<Evil> {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    let prefix = format!("/ailo/{}", &NETWORK.to_string()[..16]);
    let requests = StreamProtocol::try_from_owned(format!("{prefix}/req/1")).unwrap();
    let gossip = gossipsub::ConfigBuilder::default()
        .protocol_id(format!("{prefix}/gossip/1"), gossipsub::Version::V1_1)
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|m| gossipsub::MessageId::from(m.data.clone()))
        .build()
        .unwrap();
    let mut gossip = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, gossip).unwrap();
    for topic in ["transactions", "consensus", "heads"] {
        gossip.subscribe(&gossipsub::IdentTopic::new(format!("{prefix}/{topic}"))).unwrap();
    }
    let behaviour = Evil {
        identify: identify::Behaviour::new(identify::Config::new(version.into(), key.public())),
        gossip,
        requests: request_response::Behaviour::with_codec(
            RawCodec,
            [(requests, request_response::ProtocolSupport::Full)],
            request_response::Config::default(),
        ),
    };
    libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

fn our_version() -> String {
    format!("ailo/1/{NETWORK}")
}

#[tokio::test]
async fn garbage_requests_do_no_harm_and_in_the_end_ban() {
    let a = node(1, &[]).await;
    let a_peer = peer_id(&a.id()).unwrap();
    let mut evil = evil(66, &our_version());
    evil.dial(a.handle.listeners()[0].clone()).unwrap();
    let attack = async {
        loop {
            match evil.select_next_some().await {
                SwarmEvent::Behaviour(EvilEvent::Gossip(gossipsub::Event::Subscribed { topic, .. }))
                    if topic.as_str().ends_with("consensus") =>
                {
                    // Not protobuf; a request above the bound; a request without a body.
                    for garbage in [vec![0xff; 100], vec![0; 100_000], vec![]].into_iter().cycle().take(9) {
                        evil.behaviour_mut().requests.send_request(&a_peer, garbage);
                    }
                }
                SwarmEvent::ConnectionClosed { .. } => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, attack).await.expect("the attacker is thrown out");
    assert_eq!(a.handle.stats().bans, 1);
    // The node is as good as before.
    let mut b = node(2, &[&a]).await;
    b.connected(a.id()).await;
}

#[tokio::test]
async fn a_response_above_the_bound_or_of_garbage_is_an_error_for_the_asker_alone() {
    let mut a = node(1, &[]).await;
    let mut evil = evil(66, &our_version());
    let evil_id = node_id(evil.local_peer_id()).unwrap();
    evil.dial(a.handle.listeners()[0].clone()).unwrap();
    let mut answers = vec![vec![0xff; 50], vec![0; 9 << 20]];
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(EvilEvent::Requests(request_response::Event::Message {
                message: request_response::Message::Request { channel, .. },
                ..
            })) = evil.select_next_some().await
            {
                let answer = answers.pop().unwrap();
                let _ = evil.behaviour_mut().requests.send_response(channel, answer);
            }
        }
    });
    a.connected(evil_id).await;
    let error = a.handle.request(evil_id, HeadRequest {}).await.unwrap_err();
    assert!(matches!(&error, RequestError::BadResponse(m) if m.contains("bound")), "{error}");
    let error = a.handle.request(evil_id, HeadRequest {}).await.unwrap_err();
    assert!(matches!(error, RequestError::BadResponse(_)), "{error}");
    let mut b = node(2, &[&a]).await;
    b.connected(a.id()).await;
}

#[tokio::test]
async fn garbage_gossip_never_reaches_the_consumer_and_bans() {
    let mut a = node(1, &[]).await;
    let mut evil = evil(66, &our_version());
    evil.dial(a.handle.listeners()[0].clone()).unwrap();
    let topic = |name: &str| gossipsub::IdentTopic::new(format!("/ailo/{}/{name}", &NETWORK.to_string()[..16]));
    let attack = async {
        loop {
            match evil.select_next_some().await {
                SwarmEvent::Behaviour(EvilEvent::Gossip(gossipsub::Event::Subscribed { topic: t, .. }))
                    if t == topic("heads").hash() =>
                {
                    let misplaced = Gossip::from(transaction(b"on the wrong topic")).encode_to_vec();
                    evil.behaviour_mut().gossip.publish(topic("heads"), misplaced).unwrap();
                    for i in 0..20u8 {
                        evil.behaviour_mut().gossip.publish(topic("heads"), vec![0xff, i]).unwrap();
                    }
                }
                SwarmEvent::ConnectionClosed { .. } => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, attack).await.expect("the attacker is thrown out");
    while let Ok(event) = a.events.try_recv() {
        assert!(!matches!(event, Event::Gossip { .. }), "garbage came through");
    }
    assert_eq!(a.handle.stats().bans, 1);
    assert!(a.handle.stats().gossip_rejected >= 5);
}

#[tokio::test]
async fn a_peer_that_speaks_our_protocols_but_announces_another_network_is_refused() {
    let mut a = node(1, &[]).await;
    let mut evil = evil(66, "some/other/thing\u{7}");
    evil.dial(a.handle.listeners()[0].clone()).unwrap();
    let attacked = a.until("the wrong network", |e| match e {
        Event::WrongNetwork { network, .. } => Some(network),
        Event::Connected(_) => panic!("must not be accepted"),
        _ => None,
    });
    let thrown_out = async {
        loop {
            if let SwarmEvent::ConnectionClosed { .. } = evil.select_next_some().await {
                break;
            }
        }
    };
    let (network, ()) = tokio::join!(attacked, thrown_out);
    assert_eq!(network, "some/other/thing", "without control characters");
}

//! Which libp2p protocols a node speaks, and with which parameters.

use super::{
    NetConfig,
    book::ip_and_port,
    codec::Codec,
    nat::{Probes, relay_config},
};
use ailo_proto::gossip;
use libp2p::{
    StreamProtocol,
    allow_block_list::{self, BlockedPeers},
    connection_limits::{self, ConnectionLimits},
    dcutr,
    gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds},
    identify, identity,
    kad::{self, store::MemoryStore},
    ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};
use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub limits: connection_limits::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub kad: kad::Behaviour<MemoryStore>,
    pub gossip: gossipsub::Behaviour,
    pub requests: request_response::Behaviour<Codec>,
    pub streams: libp2p_stream::Behaviour,
    pub probes: Probes,
    pub upnp: Toggle<upnp::tokio::Behaviour>,
    /// Serving others as a relay.
    pub relay: relay::Behaviour,
    /// Reaching others, and being reached, through relays.
    pub relayed: relay::client::Behaviour,
    pub punch: dcutr::Behaviour,
}

/// The gossip topics of one network.
#[derive(Clone)]
pub(super) struct Topics {
    pub transactions: IdentTopic,
    pub consensus: IdentTopic,
    pub heads: IdentTopic,
    pub serving: IdentTopic,
}

impl Topics {
    pub(super) fn new(network: &crate::Hash) -> Topics {
        let topic = |name: &str| IdentTopic::new(format!("{}/{name}", prefix(network)));
        Topics {
            transactions: topic("transactions"),
            consensus: topic("consensus"),
            heads: topic("heads"),
            serving: topic("serving"),
        }
    }

    /// The one topic on which such a message may travel.
    pub(super) fn of(&self, body: &gossip::Body) -> &IdentTopic {
        match body {
            gossip::Body::Transactions(_) => &self.transactions,
            gossip::Body::Consensus(_) => &self.consensus,
            gossip::Body::Head(_) => &self.heads,
            gossip::Body::Serving(_) => &self.serving,
        }
    }

    fn all(&self) -> [&IdentTopic; 4] {
        [&self.transactions, &self.consensus, &self.heads, &self.serving]
    }
}

/// The start of every protocol name.
fn prefix(network: &crate::Hash) -> String {
    format!("/ailo/{}", &network.to_string()[..16])
}

pub(super) fn protocol(network: &crate::Hash, name: &str) -> Result<StreamProtocol, String> {
    StreamProtocol::try_from_owned(format!("{}/{name}", prefix(network))).map_err(|e| e.to_string())
}

/// What identify announces: the whole network id.
pub(super) fn protocol_version(network: &crate::Hash) -> String {
    format!("{VERSION_PREFIX}{network}")
}

pub(super) const VERSION_PREFIX: &str = "ailo/1/";

impl Behaviour {
    pub(super) fn new(
        key: &identity::Keypair,
        config: &NetConfig,
        topics: &Topics,
        relayed: relay::client::Behaviour,
    ) -> Result<Behaviour, String> {
        let limits = &config.limits;
        let local = key.public().to_peer_id();
        // A router is asked to let in what may come from beyond this machine only.
        let beyond = |address| ip_and_port(address).is_some_and(|(ip, _)| !ip.is_loopback());
        let ask_router = config.upnp && config.listen.iter().any(beyond);
        let mut relay = relay::Behaviour::new(local, relay_config(limits));
        relay.set_status(Some(relay::Status::Disable)); // until somebody has reached this node
        let connections = ConnectionLimits::default()
            .with_max_pending_incoming(Some(limits.connections_pending))
            .with_max_pending_outgoing(Some(limits.connections_pending))
            .with_max_established_incoming(Some(limits.connections_in))
            .with_max_established_outgoing(Some(limits.connections_out))
            .with_max_established_per_peer(Some(limits.connections_per_peer));
        let identify = identify::Config::new(protocol_version(&config.network), key.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            // Addresses of strangers must not enter through a cache: the book keeps those of our own network.
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(Duration::from_secs(10)).with_timeout(Duration::from_secs(20));
        let requests = request_response::Config::default()
            .with_request_timeout(limits.request_timeout)
            // In both directions, and one more each way to refuse what exceeds the bound.
            .with_max_concurrent_streams(2 * limits.requests_per_peer + 2);
        Ok(Behaviour {
            blocked: allow_block_list::Behaviour::default(),
            limits: connection_limits::Behaviour::new(connections),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            kad: kademlia(key, config)?,
            gossip: gossip(config, topics)?,
            requests: request_response::Behaviour::with_codec(
                Codec::new(limits),
                [(protocol(&config.network, "req/1")?, ProtocolSupport::Full)],
                requests,
            ),
            streams: libp2p_stream::Behaviour::new(),
            probes: Probes::new(local, config),
            upnp: ask_router.then(upnp::tokio::Behaviour::default).into(),
            relay,
            relayed,
            punch: dcutr::Behaviour::new(local),
        })
    }
}

/// Kademlia only finds peers: nobody can store a record here, and only identified peers enter the routing table.
fn kademlia(key: &identity::Keypair, config: &NetConfig) -> Result<kad::Behaviour<MemoryStore>, String> {
    let peer = key.public().to_peer_id();
    let mut kad = kad::Config::new(protocol(&config.network, "kad/1")?);
    kad.set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_periodic_bootstrap_interval(None)
        .set_query_timeout(Duration::from_secs(20));
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), kad);
    kad.set_mode(Some(kad::Mode::Server));
    Ok(kad)
}

fn gossip(config: &NetConfig, topics: &Topics) -> Result<gossipsub::Behaviour, String> {
    let gossip = gossipsub::ConfigBuilder::default()
        .protocol_id(format!("{}/gossip/1", prefix(&config.network)), gossipsub::Version::V1_1)
        // Objects are signed themselves; a second signature by whoever publishes would tell nothing.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::from(blake3::hash(&message.data).as_bytes().as_slice()))
        // The envelope around the message: topic, lengths.
        .max_transmit_size(config.limits.gossip_bytes + 1024)
        .flood_publish(true)
        // Up to `mesh_n_high` peers may all be mesh neighbours; six of them reach hundreds of nodes in four hops.
        .mesh_n_low(4)
        .mesh_n(6)
        .mesh_n_high(10)
        .mesh_outbound_min(2)
        .heartbeat_initial_delay(Duration::from_millis(500))
        .heartbeat_interval(Duration::from_millis(700))
        // A message waits in the cache for its verdict: 20 heartbeats are 14 seconds.
        .history_length(20)
        .history_gossip(5)
        .connection_handler_queue_len(1024)
        // A machine that trains on all cores, or a slow link, may need some seconds.
        .publish_queue_duration(Duration::from_secs(10))
        .forward_queue_duration(Duration::from_secs(5))
        .iwant_followup_time(Duration::from_secs(10))
        .build()
        .map_err(|e| e.to_string())?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, gossip)?;
    let (params, thresholds) = scores(topics);
    gossip.with_peer_score(params, thresholds)?;
    for topic in topics.all() {
        gossip.subscribe(topic).map_err(|e| e.to_string())?;
    }
    Ok(gossip)
}

/// Offences ([`super::Offence`]), invalid messages among them, count point for point: at forty a peer gets no gossip
/// about gossip, at sixty no published messages, at a hundred it is banned. What traffic is normal varies too much here
/// to expect a rate of deliveries (P3), so that is switched off.
fn scores(topics: &Topics) -> (PeerScoreParams, PeerScoreThresholds) {
    let topic = gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.05,
        first_message_deliveries_decay: 0.99,
        first_message_deliveries_cap: 100.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: 0.0,
        ..Default::default()
    };
    let params = PeerScoreParams {
        topics: topics.all().into_iter().map(|t| (t.hash(), topic.clone())).collect(),
        topic_score_cap: 10.0,
        app_specific_weight: 1.0,
        // A laboratory or a provider's NAT may well hold thirty nodes; whole networks run on one machine.
        ip_colocation_factor_weight: -1.0,
        ip_colocation_factor_threshold: 32.0,
        ip_colocation_factor_whitelist: HashSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.9,
        slow_peer_weight: 0.0,
        ..Default::default()
    };
    let thresholds = PeerScoreThresholds {
        gossip_threshold: -40.0,
        publish_threshold: -60.0,
        graylist_threshold: -100.0,
        accept_px_threshold: 10.0,
        opportunistic_graft_threshold: 1.0,
    };
    (params, thresholds)
}

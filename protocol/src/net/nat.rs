//! How others reach this node, and what is done where they can't.
//!
//! **Finding out.** Peers elsewhere are asked, now and then, to dial this node back from a port that it has never sent to (AutoNAT). Its first
//! version: a server dials nothing but the address that it sees the asker at, a few times a second, where the second version's here dials whatever
//! a peer names; and what could not be reached is asked about again. A server that lies can say that a node is not reached, which the next ones,
//! drawn among all peers, correct; but not where it is: that has a port of this node's, and an IP address of its own or that two peers see it at.
//!
//! **Opening the door.** Where the router speaks UPnP, the port is mapped.
//!
//! **Going through relays.** Who is reached serves others as a relay: it says so through identify, so that relays are found without anybody
//! who knows them all. A node behind a NAT reserves a place at [`RELAYS`] of its peers and says their addresses as its own. A connection
//! through a relay is the beginning of a direct one: both sides dial each other at the same moment (DCUtR). Where that fails, too, the relay carries
//! gossip and requests, within [`super::NetLimits`], so a relay gives a bounded share of itself away.

use super::{NetConfig, NetLimits, book::ip_and_port};
use crate::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    autonat::v1::{self as autonat, NatStatus},
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    multiaddr::Protocol,
    relay,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Relays at which a node behind a NAT reserves a place.
pub(super) const RELAYS: usize = 2;
/// A relay that refused or went is not asked again for so long.
pub(super) const RELAY_PAUSE: Duration = Duration::from_secs(60);
/// Connections through this node that a peer may begin at once, and how soon another one on top; an address of several peers as many times that.
const CIRCUITS_TOGETHER: NonZeroU32 = NonZeroU32::new(64).expect("not zero");
const CIRCUIT_PAUSE: Duration = Duration::from_secs(20);
const MACHINES: NonZeroU32 = NonZeroU32::new(4).expect("not zero");
/// One that gives other addresses than a relay has, or many, is not asked again for so long...
pub(super) const RELAY_BAN: Duration = Duration::from_secs(24 * 3600);
/// ...than this many: each is told to all peers.
pub(super) const PLACE_ADDRESSES: usize = 4;
/// Peers that must see this node at an IP address which none of its interfaces has.
const WITNESSES: usize = 2;
/// Relays that are remembered for having refused, at most.
pub(super) const MAX_REFUSED: usize = 256;
/// The first question whether others reach this node, the next ones until the answers agree, and those after that.
const ASK_FIRST: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_secs(5);
const ASK_LATER: Duration = Duration::from_secs(600);
/// One server is asked so often at most.
const SERVER_PAUSE: Duration = Duration::from_secs(20);

/// How others reach this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// A peer elsewhere has reached it here.
    Public {
        /// Address.
        address: Multiaddr,
    },
    /// Peers elsewhere can't: it is behind a NAT or a firewall.
    Nat {
        /// Through whom they come; none while no peer serves as a relay.
        relay: Option<NodeId>,
        /// What would open the door, as far as that is known.
        advice: &'static str,
    },
    /// Nobody has tried.
    Unknown {
        /// Why not.
        why: &'static str,
    },
}

impl Reachability {
    pub(super) const STARTING: Reachability = Reachability::Unknown { why: "no peer has been asked yet" };
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reachability::Public { address } => write!(f, "reachable at {address}"),
            Reachability::Nat { relay: Some(relay), advice } => {
                write!(f, "behind a NAT or firewall, reached through the relay {}: {advice}", relay.short())
            }
            Reachability::Nat { relay: None, advice } => {
                write!(f, "behind a NAT or firewall, and no peer serves as a relay: {advice}")
            }
            Reachability::Unknown { why } => write!(f, "not known: {why}"),
        }
    }
}

/// What is known of it; pure.
#[derive(Default)]
pub(super) struct Standing {
    /// What dialling back showed.
    pub probed: Probed,
    /// What the router said, if it was asked.
    pub router: Router,
    /// Where this node listens at all.
    pub listens: Listens,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Probed {
    /// Nobody was asked.
    #[default]
    Not,
    /// There is nobody who could be asked.
    Nobody,
    /// A peer says it has reached an address that may not be this node's.
    Doubted,
    /// Of each IP family one address, that of version 4 first.
    Public(Vec<Multiaddr>),
    Private,
}

impl Probed {
    /// With an address that was reached, in the place of the one of its family.
    pub(super) fn with(&self, address: Multiaddr) -> Probed {
        let is_v6 = |address: &Multiaddr| ip_and_port(address).is_some_and(|(ip, _)| ip.is_ipv6());
        let mut all = if let Probed::Public(all) = self { all.clone() } else { Vec::new() };
        all.retain(|other| is_v6(other) != is_v6(&address));
        all.push(address);
        all.sort_by_key(is_v6);
        Probed::Public(all)
    }
}

/// Whether an address that a peer says it has reached can be this node's, which listens at `own`, has them forwarded or announces them, and which
/// peers see at the IP addresses `seen`.
pub(super) fn is_ours(address: &Multiaddr, own: &[Multiaddr], seen: impl Iterator<Item = IpAddr>) -> bool {
    let Some((ip, port)) = ip_and_port(address).filter(|(ip, _)| is_global(*ip)) else { return false };
    let own = || own.iter().filter_map(ip_and_port);
    own().any(|(_, own)| own == port)
        && (own().any(|(own, _)| own == ip) || seen.filter(|seen| *seen == ip).count() >= WITNESSES)
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Router {
    /// It was not asked, or has not answered.
    #[default]
    Silent,
    /// It mapped the port.
    Mapped,
    /// It is behind another one.
    Inner,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Listens {
    #[default]
    Nowhere,
    OnLoopback,
    Beyond,
}

impl Standing {
    pub(super) fn reachability(&self, relay: Option<NodeId>) -> Reachability {
        match (&self.probed, self.listens) {
            (_, Listens::Nowhere) => Reachability::Unknown { why: "it listens nowhere" },
            (_, Listens::OnLoopback) => Reachability::Unknown { why: "it listens for this machine alone" },
            (Probed::Public(all), _) => match all.first() {
                Some(address) => Reachability::Public { address: address.clone() },
                None => Reachability::STARTING,
            },
            (Probed::Private, _) => Reachability::Nat {
                relay,
                advice: match self.router {
                    Router::Silent => {
                        "forward its port to this machine (the router does not answer UPnP), or allow it in the firewall"
                    }
                    Router::Inner => {
                        "the router is itself behind another NAT, as providers have it: ask yours for a public address"
                    }
                    Router::Mapped => {
                        "the router has mapped the port, so a firewall keeps others out: allow the port there"
                    }
                },
            },
            (Probed::Not, _) => Reachability::STARTING,
            (Probed::Doubted, _) => Reachability::Unknown {
                why: "one peer says that it has reached it, under an address that no interface has: two must see it there, or `announce` name it",
            },
            (Probed::Nobody, _) => {
                Reachability::Unknown { why: "no peer outside of private networks is connected, who could try" }
            }
        }
    }
}

/// AutoNAT that asks about the addresses this node listens at and is announced under, and leaves what follows to the swarm's task. Its own
/// list of candidates would take what any peer claims to see, without a bound.
pub(super) struct Probes(autonat::Behaviour);

impl Probes {
    pub(super) fn new(local: PeerId, config: &NetConfig) -> Probes {
        let mut probes = autonat::Behaviour::new(
            local,
            autonat::Config {
                timeout: config.limits.handshake_timeout + Duration::from_secs(10),
                boot_delay: ASK_FIRST,
                retry_interval: ASK_AGAIN,
                refresh_interval: ASK_LATER,
                throttle_server_period: SERVER_PAUSE,
                confidence_max: 2,
                max_peer_addresses: 4,
                throttle_clients_global_max: 8,
                throttle_clients_peer_max: 2,
                throttle_clients_period: Duration::from_secs(10),
                ..autonat::Config::default()
            },
        );
        config.announce.iter().for_each(|address| probes.probe_address(address.clone()));
        Probes(probes)
    }

    /// Has an address looked at soon, which the router or a person gave.
    pub(super) fn ask_about(&mut self, address: Multiaddr) {
        self.0.probe_address(address);
    }

    /// What dialling back has shown so far.
    pub(super) fn status(&self) -> NatStatus {
        self.0.nat_status()
    }
}

impl NetworkBehaviour for Probes {
    type ConnectionHandler = THandler<autonat::Behaviour>;
    type ToSwarm = autonat::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.0.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if !matches!(event, FromSwarm::NewExternalAddrCandidate(_)) {
            self.0.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.0.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match ready!(self.0.poll(cx)) {
                ToSwarm::ExternalAddrConfirmed(_) => {} // the task looks at the status
                other => return Poll::Ready(other),
            }
        }
    }
}

/// What a node gives as a relay, at most.
pub(super) fn relay_config(limits: &NetLimits) -> relay::Config {
    let config = relay::Config {
        max_reservations: limits.relay_reservations,
        max_reservations_per_peer: 2, // an old connection may not have ended yet
        // A place ends with its connection and not before: one that ran out while it is renewed would end the swarm with a panic in the
        // library, which also refuses renewals once all places are given.
        reservation_duration: Duration::from_secs(u64::from(u32::MAX)),
        max_circuits: limits.relay_circuits,
        max_circuits_per_peer: limits.relay_circuits_per_peer,
        max_circuit_duration: limits.relay_circuit_time,
        max_circuit_bytes: limits.relay_circuit_bytes,
        circuit_src_rate_limiters: Vec::new(),
        // How often a peer and an IP address may ask for a place, the library bounds well.
        ..relay::Config::default()
    };
    // Two peers that have no other way begin anew whenever their connection has carried what it may.
    config
        .circuit_src_per_peer(CIRCUITS_TOGETHER, CIRCUIT_PAUSE)
        .circuit_src_per_ip(CIRCUITS_TOGETHER.saturating_mul(MACHINES), CIRCUIT_PAUSE / MACHINES.get())
}

pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Where the other end of a connection is: of one through a relay the way through that.
pub(super) fn far_end(endpoint: &ConnectedPoint) -> &Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
        endpoint => endpoint.get_remote_address(),
    }
}

/// Where a relay is asked for a place, if it is somewhere that others reach, too.
pub(super) fn place_at(relay: PeerId, address: &Multiaddr) -> Option<Multiaddr> {
    let (ip, port) = ip_and_port(address).filter(|(ip, _)| is_global(*ip))?;
    let address = Multiaddr::from(ip).with(Protocol::Tcp(port));
    Some(address.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit))
}

/// Whether an address leads to the same machine from everywhere.
pub(super) fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let own = ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared;
            !own && !ip.is_documentation() && a != 0 && a < 224
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_known_becomes_one_sentence_that_says_what_to_do() {
        let public = address("/ip4/5.6.7.8/tcp/8646");
        let relay = Some(crate::PublicKey([7; 32]));
        let said =
            |probed: Probed, router, listens| Standing { probed, router, listens }.reachability(relay).to_string();
        assert_eq!(
            said(Probed::Public(vec![public]), Router::Silent, Listens::Beyond),
            "reachable at /ip4/5.6.7.8/tcp/8646"
        );
        let behind = said(Probed::Private, Router::Inner, Listens::Beyond);
        assert!(behind.contains("relay 07070707") && behind.contains("ask yours for a public address"), "{behind}");
        assert!(said(Probed::Private, Router::Silent, Listens::Beyond).contains("forward its port"));
        assert!(said(Probed::Nobody, Router::Mapped, Listens::Beyond).contains("no peer outside"));
        assert!(said(Probed::Nobody, Router::Silent, Listens::OnLoopback).contains("this machine alone"));
        let alone = Standing { probed: Probed::Private, listens: Listens::Beyond, ..Standing::default() };
        assert!(alone.reachability(None).to_string().contains("no peer serves as a relay"));
    }

    #[test]
    fn a_peers_word_alone_moves_no_node() {
        let own = ["/ip4/192.168.1.2/tcp/8646", "/ip4/5.6.7.8/tcp/8646", "/ip4/9.9.9.9/tcp/443"].map(address);
        let seen = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>().into_iter();
        let ours = |text, ips: &[&str]| is_ours(&address(text), &own, seen(ips));
        assert!(ours("/ip4/5.6.7.8/tcp/8646", &[]), "an interface has it");
        assert!(ours("/ip4/9.9.9.9/tcp/8646", &[]), "it is announced");
        assert!(ours("/ip4/1.2.3.4/tcp/8646", &["1.2.3.4", "4.3.2.1", "1.2.3.4"]), "two see it there");
        assert!(!ours("/ip4/1.2.3.4/tcp/8646", &["1.2.3.4", "4.3.2.1"]), "one does");
        assert!(!ours("/ip4/5.6.7.8/tcp/80", &["5.6.7.8", "5.6.7.8"]), "it does not listen there");
        assert!(!ours("/ip4/192.168.1.2/tcp/8646", &["192.168.1.2"; 3]), "others can't go there");
        assert!(!ours("/ip4/5.6.7.8/udp/8646/quic-v1", &["5.6.7.8"; 3]));
    }

    #[test]
    fn a_node_has_one_address_of_each_family() {
        let [v6, v4, other] = ["/ip6/2a01:4f8::1/tcp/1", "/ip4/5.6.7.8/tcp/1", "/ip4/1.2.3.4/tcp/1"].map(address);
        let probed = Probed::Private.with(v6.clone()).with(v4.clone());
        assert!(probed == Probed::Public(vec![v4, v6.clone()]));
        assert!(probed.with(other.clone()) == Probed::Public(vec![other, v6]));
    }

    #[test]
    fn a_place_lasts_as_long_as_its_connection_and_circuits_follow_each_other() {
        let mut config = relay_config(&NetLimits::default());
        assert!(config.reservation_duration >= Duration::from_secs(100 * 365 * 86_400));
        let (peer, from) = (PeerId::random(), address("/ip4/5.6.7.8/tcp/9"));
        let now = std::time::Instant::now();
        let mut begins =
            |peer, at| config.circuit_src_rate_limiters.iter_mut().all(|limiter| limiter.try_next(peer, &from, at));
        let together = (0..100).filter(|_| begins(peer, now)).count();
        assert_eq!(together, CIRCUITS_TOGETHER.get() as usize);
        assert!(begins(PeerId::random(), now), "another one behind the same address");
        assert!(begins(peer, now + CIRCUIT_PAUSE) && !begins(peer, now + CIRCUIT_PAUSE));
    }

    #[test]
    fn a_place_is_asked_for_only_where_others_find_it() {
        let relay = PeerId::random();
        let place = place_at(relay, &address("/ip4/5.6.7.8/tcp/9")).unwrap();
        assert_eq!(place, address(&format!("/ip4/5.6.7.8/tcp/9/p2p/{relay}/p2p-circuit")));
        for inner in
            ["10.0.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "169.254.1.1", "0.0.0.0", "203.0.113.1", "224.0.0.1"]
        {
            assert_eq!(place_at(relay, &address(&format!("/ip4/{inner}/tcp/9"))), None, "{inner}");
        }
        assert!(place_at(relay, &address("/ip6/2a01:4f8::1/tcp/9")).is_some());
        assert_eq!(place_at(relay, &address("/ip6/fe80::1/tcp/9")), None);
        assert_eq!(place_at(relay, &place), None, "no relay behind a relay");
    }
}

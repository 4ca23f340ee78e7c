//! Whom to dial: addresses given by people (kept for ever), and those that identified peers said about themselves
//! (bounded; forgotten after many failures). Each is tried again after a pause that doubles from half a second up to a
//! minute, jittered so that two peers do not keep dialling each other at the same moment.

use super::nat::is_global;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A peer is forgotten after this many dials in a row have failed (about ten minutes).
const MAX_FAILURES: u32 = 16;
/// Addresses of one peer, at most.
const MAX_ADDRESSES: usize = 8;
/// Addresses given by people, at most.
const MAX_SEEDS: usize = 256;

/// When to dial next.
#[derive(Clone, Debug)]
struct Schedule {
    failures: u32,
    next: Instant,
}

impl Schedule {
    fn now(now: Instant) -> Schedule {
        Schedule { failures: 0, next: now }
    }

    /// Another dial begins: the next one is due after a pause.
    fn dialled(&mut self, local: &PeerId, target: &impl Hash, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LAST_PAUSE);
        let mut hasher = DefaultHasher::new();
        (local, target, self.failures).hash(&mut hasher);
        self.next = now + pause + pause.mul_f64(hasher.finish() as f64 / u64::MAX as f64 / 2.0);
        self.failures = self.failures.saturating_add(1);
    }
}

struct Seed {
    /// Without `/p2p`.
    address: Multiaddr,
    /// The peer that must answer there.
    expected: Option<PeerId>,
    /// The peer that did answer.
    found: Option<PeerId>,
    schedule: Schedule,
}

struct Known {
    addresses: Vec<Multiaddr>,
    schedule: Schedule,
}

/// One dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An address given by a person, with the peer that must answer there, if it is known.
    Seed(Multiaddr, Option<PeerId>),
    /// A peer at the addresses that it announced.
    Peer(PeerId, Vec<Multiaddr>),
}

pub(super) struct Book {
    local: PeerId,
    max_known: usize,
    seeds: Vec<Seed>,
    known: HashMap<PeerId, Known>,
}

impl Book {
    pub(super) fn new(local: PeerId, max_known: usize) -> Book {
        Book { local, max_known, seeds: Vec::new(), known: HashMap::new() }
    }

    /// Adds an address that a person gave; it is due at once. Says whether there was room for it.
    pub(super) fn add_seed(&mut self, address: &Multiaddr, now: Instant) -> bool {
        let (address, expected) = split_peer(address);
        if expected == Some(self.local) {
            return true;
        }
        if let Some(seed) = self.seeds.iter_mut().find(|s| s.address == address) {
            seed.expected = expected;
            seed.schedule = Schedule::now(now);
            return true;
        }
        if self.seeds.len() < MAX_SEEDS {
            self.seeds.push(Seed { address, expected, found: None, schedule: Schedule::now(now) });
            return true;
        }
        false
    }

    /// Forgets an address at which this node meets itself.
    pub(super) fn remove_seed(&mut self, address: &Multiaddr) {
        self.seeds.retain(|s| s.address != *address);
    }

    /// Notes who answers at an address.
    pub(super) fn answered(&mut self, address: &Multiaddr, peer: PeerId) {
        let (address, _) = split_peer(address);
        self.seeds.iter_mut().filter(|s| s.address == address).for_each(|s| s.found = Some(peer));
    }

    /// Notes what a peer announced, and returns the addresses of before that no longer hold.
    pub(super) fn learn(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>, now: Instant) -> Vec<Multiaddr> {
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() || peer == self.local {
            return Vec::new();
        }
        if self.known.len() >= self.max_known && !self.known.contains_key(&peer) {
            let worst = self.known.iter().max_by_key(|(_, k)| k.schedule.failures).map(|(peer, _)| *peer);
            worst.map(|worst| self.known.remove(&worst));
        }
        let old = self.known.insert(peer, Known { addresses: addresses.clone(), schedule: Schedule::now(now) });
        old.map_or(Vec::new(), |k| k.addresses.into_iter().filter(|a| !addresses.contains(a)).collect())
    }

    /// Known addresses of a peer.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let seeds = self.seeds.iter().filter(|s| s.expected.or(s.found) == Some(*peer)).map(|s| s.address.clone());
        self.known.get(peer).into_iter().flat_map(|k| k.addresses.clone()).chain(seeds).collect()
    }

    /// The peer is connected: its pauses start over.
    pub(super) fn connected(&mut self, peer: &PeerId, now: Instant) {
        for seed in self.seeds.iter_mut().filter(|s| s.expected.or(s.found) == Some(*peer)) {
            seed.schedule = Schedule::now(now);
        }
        if let Some(known) = self.known.get_mut(peer) {
            known.schedule = Schedule::now(now);
        }
    }

    /// The connection to the peer has ended: it is due after the first pause.
    pub(super) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        let local = self.local;
        self.connected(peer, now);
        for seed in self.seeds.iter_mut().filter(|s| s.expected.or(s.found) == Some(*peer)) {
            seed.schedule.dialled(&local, peer, now);
        }
        if let Some(known) = self.known.get_mut(peer) {
            known.schedule.dialled(&local, peer, now);
        }
    }

    /// Up to `count` dials that are due to peers that are not connected; each is due again only after its pause.
    pub(super) fn due(&mut self, now: Instant, count: usize, connected: impl Fn(&PeerId) -> bool) -> Vec<Target> {
        let (local, mut targets, mut chosen) = (self.local, Vec::new(), Vec::new());
        // The newest first: what a person has just added is dialled at once.
        for seed in self.seeds.iter_mut().rev() {
            let peer = seed.expected.or(seed.found);
            if targets.len() < count && seed.schedule.next <= now && !peer.is_some_and(|p| connected(&p)) {
                seed.schedule.dialled(&local, &seed.address, now);
                targets.push(Target::Seed(seed.address.clone(), seed.expected));
                chosen.extend(peer);
            }
        }
        for (peer, known) in &mut self.known {
            if targets.len() < count && known.schedule.next <= now && !connected(peer) {
                known.schedule.dialled(&local, peer, now);
                if !chosen.contains(peer) {
                    targets.push(Target::Peer(*peer, known.addresses.clone()));
                }
            }
        }
        self.known.retain(|peer, k| k.schedule.failures <= MAX_FAILURES || connected(peer));
        targets
    }
}

/// Splits a trailing `/p2p/<peer id>` off.
pub(super) fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut bare = address.clone();
    match bare.pop() {
        Some(Protocol::P2p(peer)) => (bare, Some(peer)),
        _ => (address.clone(), None),
    }
}

/// Address and port of `/ip4|ip6/.../tcp/...`, with or without `/p2p` at the end; none for anything else.
pub(super) fn ip_and_port(address: &Multiaddr) -> Option<(IpAddr, u16)> {
    let (bare, _) = split_peer(address);
    let mut parts = bare.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None) => Some((ip, port)),
        _ => None,
    }
}

/// The relay's address in one through a relay: `/ip4|ip6/.../tcp/.../p2p/<relay>/p2p-circuit`.
pub(super) fn relay_of(address: &Multiaddr) -> Option<Multiaddr> {
    let (mut way, _) = split_peer(address);
    let relayed = way.pop() == Some(Protocol::P2pCircuit) && split_peer(&way).1.is_some();
    relayed.then_some(way)
}

/// How much an address is worth to others: one that everybody can dial most, then one through a relay, then the others; none at all
/// what is neither.
pub(super) fn rank(address: &Multiaddr) -> u8 {
    match (ip_and_port(address), relay_of(address)) {
        (Some((ip, _)), _) if is_global(ip) => 3,
        (Some(_), _) => 1,
        (None, Some(relay)) if ip_and_port(&relay).is_some() => 2,
        _ => 0,
    }
}

/// Which of the addresses that a peer announced are worth trying, the best first: TCP over a concrete IP address, directly or through a
/// relay, and loopback only when the peer was met over loopback (elsewhere 127.0.0.1 is somebody else: this machine).
pub(super) fn usable(announced: &[Multiaddr], met_over_loopback: bool) -> Vec<Multiaddr> {
    let usable = |address: &Multiaddr| {
        let way = relay_of(address);
        ip_and_port(way.as_ref().unwrap_or(address))
            .is_some_and(|(ip, port)| port != 0 && !ip.is_unspecified() && (met_over_loopback || !ip.is_loopback()))
    };
    let mut announced: Vec<&Multiaddr> = announced.iter().filter(|address| usable(address)).collect();
    announced.sort_by_key(|address| Reverse(rank(address)));
    let mut addresses: Vec<Multiaddr> = Vec::new();
    for address in announced.into_iter().map(|a| split_peer(a).0) {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_dead_seed_is_dialled_for_ever_with_growing_pauses() {
        let (mut book, start) = (Book::new(PeerId::random(), 8), Instant::now());
        assert!(book.add_seed(&address("/ip4/1.2.3.4/tcp/5"), start));
        let (mut now, mut dials) = (start, Vec::new());
        while now < start + Duration::from_secs(3600) {
            if !book.due(now, 8, |_| false).is_empty() {
                dials.push(now);
            }
            now += Duration::from_millis(250);
        }
        let pauses: Vec<Duration> = dials.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(pauses[0] <= Duration::from_secs(1) && pauses.iter().all(|p| *p <= Duration::from_secs(91)));
        assert!(pauses[20..].iter().all(|p| *p >= Duration::from_secs(60)));
        assert!(dials.len() > 40);
    }

    #[test]
    fn a_peer_that_never_answers_is_forgotten_and_one_that_returns_is_dialled_at_once() {
        let (mut book, mut now, peer) = (Book::new(PeerId::random(), 8), Instant::now(), PeerId::random());
        let (old, new) = (address("/ip4/1.2.3.4/tcp/5"), address("/ip4/1.2.3.4/tcp/6"));
        assert!(book.learn(peer, vec![old.clone()], now).is_empty());
        assert_eq!(book.due(now, 8, |_| false), [Target::Peer(peer, vec![old.clone()])]);
        assert!(book.due(now, 8, |_| false).is_empty(), "not due again before its pause");
        assert_eq!(book.learn(peer, vec![new.clone()], now), [old], "the old address no longer holds");
        assert_eq!(book.due(now, 8, |_| false), [Target::Peer(peer, vec![new])]);
        for _ in 0..100 {
            now += Duration::from_secs(120);
            book.due(now, 8, |_| false);
        }
        assert!(book.addresses(&peer).is_empty());
    }

    #[test]
    fn the_book_is_bounded() {
        let (mut book, now) = (Book::new(PeerId::random(), 8), Instant::now());
        for _ in 0..100 {
            book.learn(PeerId::random(), vec![address("/ip4/1.2.3.4/tcp/5"); 100], now);
        }
        assert_eq!(book.known.len(), 8);
        assert!(book.known.values().all(|k| k.addresses.len() <= MAX_ADDRESSES));
        for port in 0..2 * MAX_SEEDS {
            let added = book.add_seed(&address(&format!("/ip4/1.2.3.4/tcp/{port}")), now);
            assert_eq!(added, port < MAX_SEEDS);
        }
    }

    #[test]
    fn only_addresses_that_can_lead_to_the_peer_are_kept() {
        let good = address("/ip4/10.0.0.1/tcp/4000");
        let announced = [
            good.clone(),
            good.clone().with(Protocol::P2p(PeerId::random())),
            address("/ip4/127.0.0.1/tcp/4000"),
            address("/ip4/0.0.0.0/tcp/4000"),
            address("/ip4/10.0.0.1/tcp/0"),
            address("/ip4/10.0.0.1/udp/4000/quic-v1"),
            address("/dns4/example.com/tcp/4000"),
        ];
        assert_eq!(usable(&announced, false), std::slice::from_ref(&good));
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let (public, relayed) =
            (address("/ip4/5.6.7.8/tcp/4000"), address(&format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit")));
        let announced_too = [good.clone(), relayed.clone().with(Protocol::P2p(peer)), public.clone()];
        assert_eq!(usable(&announced_too, false), [public, relayed.clone(), good.clone()], "the best first");
        for wrong in ["/ip4/9.9.9.9/tcp/1/p2p-circuit", "/p2p-circuit", "/ip4/127.0.0.1/tcp/1"] {
            assert!(usable(&[address(wrong)], false).is_empty(), "{wrong}");
        }
        assert!(
            usable(&[relayed.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)], false).is_empty(),
            "one relay, not two"
        );
        assert_eq!(usable(&announced, true), [good, address("/ip4/127.0.0.1/tcp/4000")]);
    }
}

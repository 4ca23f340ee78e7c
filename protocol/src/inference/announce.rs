//! What nodes say of what they serve, signed, and the routes through it.

use super::client::Routes;
use crate::{
    Amount, Hash, Keypair, NodeId, Signature,
    canonical::{self, Decode, Encode},
    hash::Domain,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

/// What counts of an announcement, in milliseconds: later it is forgotten, unless it came anew.
pub const VALID_MS: u64 = 15_000;
/// The least time between two of one node.
const PAUSE_MS: u64 = 400;
/// Announcements that are kept, at most.
const MAX_KNOWN: usize = 4096;
/// Round trip times in one, and characters of a model's name, at most.
const MAX_NEAR: usize = 32;
const MAX_NAME: usize = 100;
/// Addresses, and characters of one, at most.
pub const MAX_ADDRESSES: usize = 4;
const MAX_ADDRESS: usize = 128;
/// Bytes of a signed announcement, at most.
const MAX_BYTES: usize = 4096;
/// What is taken for a round trip that nobody has measured, in microseconds.
const UNKNOWN_RTT: u32 = 100_000;

/// What a node serves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Announce {
    /// Who.
    pub node: NodeId,
    /// Its clock, in milliseconds since 1970; a later one replaces it.
    pub at_ms: u64,
    /// The model, and its name for people.
    pub model: Hash,
    /// See `model`.
    pub name: String,
    /// Layers first .. end of `total`.
    pub first: u32,
    /// See `first`.
    pub end: u32,
    /// See `first`.
    pub total: u32,
    /// Microseconds that it takes for a token and layer.
    pub layer_us: u32,
    /// Bytes that are left for sessions.
    pub room: u64,
    /// What a unit of positions through all layers costs; nothing: it is free.
    pub price: Amount,
    /// Round trip times to other nodes, in microseconds.
    pub near: Vec<(NodeId, u32)>,
    /// Multiaddrs that it listens on.
    pub addresses: Vec<String>,
}

/// The same, signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Signed {
    announce: Announce,
    signature: Signature,
}

/// What is signed.
fn bytes_of(network: &Hash, announce: &Announce) -> Hash {
    Hash::of_parts(Domain::Session, &[b"announce", &network.0, &canonical::encode(announce)])
}

impl Announce {
    /// Its bytes for gossip.
    pub fn sign(&self, network: &Hash, key: &Keypair) -> Vec<u8> {
        let signature = key.sign(&bytes_of(network, self).0);
        canonical::encode(&Signed { announce: self.clone(), signature })
    }

    /// Reads and checks gossip.
    pub fn open(network: &Hash, bytes: &[u8]) -> Option<Announce> {
        let Signed { announce, signature } = canonical::decode(bytes, MAX_BYTES).ok()?;
        let addresses = &announce.addresses;
        let listens = addresses.len() <= MAX_ADDRESSES && addresses.iter().all(|one| one.len() <= MAX_ADDRESS);
        let bounded = announce.near.len() <= MAX_NEAR && announce.name.len() <= MAX_NAME && listens;
        let sane = announce.first < announce.end && announce.end <= announce.total && announce.total <= 512;
        let signed = || announce.node.verify(&bytes_of(network, &announce).0, &signature).is_ok();
        (bounded && sane && signed()).then_some(announce)
    }
}

/// All that is known of who serves what.
#[derive(Clone, Debug, Default)]
pub struct Known {
    nodes: HashMap<NodeId, (u64, Arc<Announce>)>,
}

impl Known {
    /// Takes an announcement that was heard at `now`; whether it is news.
    pub fn hear(&mut self, now: u64, announce: Announce) -> bool {
        self.nodes.retain(|_, (heard, _)| *heard + VALID_MS > now);
        let known = self.nodes.get(&announce.node);
        let news = known.map_or(self.nodes.len() < MAX_KNOWN, |(_, known)| announce.at_ms >= known.at_ms + PAUSE_MS);
        if news {
            self.nodes.insert(announce.node, (now, Arc::new(announce)));
        }
        news
    }

    /// What this node itself serves, until it says otherwise.
    pub fn serve(&mut self, announce: Announce) {
        self.nodes.insert(announce.node, (u64::MAX / 2, Arc::new(announce)));
    }

    /// A node is gone.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// What a node asks for a unit.
    pub fn price(&self, node: &NodeId) -> Option<Amount> {
        self.nodes.get(node).map(|(_, announce)| announce.price)
    }

    /// Who serves something.
    pub fn all(&self) -> impl Iterator<Item = &Announce> {
        self.nodes.values().map(|(_, announce)| &**announce)
    }

    /// A span of `size` layers of a model that is served least: where the summed speed of those that have it is lowest.
    pub fn weakest(&self, model: &Hash, total: u32, size: u32) -> Range<u32> {
        let speeds: Vec<u64> = (0..total).map(|layer| self.speed(model, layer)).collect();
        let size = size.clamp(1, total);
        let weakest = (0..=total - size).min_by_key(|first| {
            let mut span: Vec<u64> = speeds[*first as usize..(first + size) as usize].to_vec();
            span.sort_unstable();
            span
        });
        let first = weakest.unwrap_or(0);
        first..first + size
    }

    /// Where `node`, which serves `span`, would be needed at least twice as much, if it can be spared where it is: all layers of `span` are
    /// served by others, and some span of that size is served half as fast as what would be left here.
    pub fn needs(&self, node: &NodeId, model: &Hash, total: u32, span: &Range<u32>) -> Option<Range<u32>> {
        let mut others = self.clone();
        others.forget(node);
        let least = |span: &Range<u32>| span.clone().map(|layer| others.speed(model, layer)).min().unwrap_or(0);
        let weakest = others.weakest(model, total, span.len() as u32);
        let (here, there) = (least(span), least(&weakest));
        (here > 0 && there <= here / 2 && weakest != *span).then_some(weakest)
    }

    /// Tokens a second that all who serve a layer compute of it together.
    fn speed(&self, model: &Hash, layer: u32) -> u64 {
        let has = self.all().filter(|known| known.model == *model && (known.first..known.end).contains(&layer));
        has.map(|known| 1_000_000 / u64::from(known.layer_us.max(1))).sum()
    }

    /// The ways through a model for a client that has measured some round trips, in microseconds.
    pub fn routes<'a>(&'a self, model: Hash, client: NodeId, near: &'a HashMap<NodeId, u32>) -> Ways<'a> {
        Ways { known: self, model, client, near }
    }
}

/// Layers done, and who did the last of them; nobody at the beginning.
type Stop = (u32, Option<NodeId>);

/// Finds the fastest chains.
pub struct Ways<'a> {
    known: &'a Known,
    model: Hash,
    client: NodeId,
    near: &'a HashMap<NodeId, u32>,
}

impl Ways<'_> {
    /// Half a round trip, as either end has measured it.
    fn way(&self, from: &NodeId, to: &NodeId) -> u64 {
        if from == to {
            return 0;
        }
        let of = |a: &NodeId, b: &NodeId| {
            if *a == self.client {
                return self.near.get(b).copied();
            }
            let near = &self.known.nodes.get(a)?.1.near;
            near.iter().find(|(node, _)| node == b).map(|(_, rtt)| *rtt)
        };
        u64::from(of(from, to).or_else(|| of(to, from)).unwrap_or(UNKNOWN_RTT)) / 2
    }
}

impl Routes for Ways<'_> {
    /// Dijkstra over (layers done, node): an edge costs the way to the next node and its time for the layers that it takes; a node may
    /// take a part of what it serves.
    fn route(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Vec<(NodeId, Range<u32>)>> {
        let here = |known: &&Announce| known.model == self.model && !without.contains(&known.node);
        let nodes: Vec<&Announce> = self.known.all().filter(here).collect();
        let bounds = nodes.iter().flat_map(|known| [known.first, known.end]).chain([layers.end]);
        let mut cuts: Vec<u32> = bounds.filter(|cut| (layers.start + 1..=layers.end).contains(cut)).collect();
        cuts.sort_unstable();
        cuts.dedup();
        // The best way to each place; the client's own is before the first layer.
        let mut best: BTreeMap<Stop, (u64, Option<Stop>)> = BTreeMap::new();
        let mut open = BinaryHeap::from([Reverse((0u64, layers.start, None))]);
        best.insert((layers.start, None), (0, None));
        while let Some(Reverse((cost, at, node))) = open.pop() {
            if best.get(&(at, node)).is_some_and(|(known, _)| *known < cost) {
                continue;
            }
            if at == layers.end {
                let mut route = Vec::new();
                let mut place = (at, node);
                while let Some((_, Some(before))) = best.get(&place) {
                    route.push((place.1?, before.0..place.0));
                    place = *before;
                }
                route.reverse();
                // A node has one part of a route. Where the fastest way comes to one twice, it goes without it.
                let twice =
                    route.iter().enumerate().find(|(i, (node, _))| route[..*i].iter().any(|(known, _)| known == node));
                let Some((_, (node, _))) = twice else { return Some(route) };
                let without = without.iter().copied().chain([*node]).collect();
                return self.route(layers, &without);
            }
            // Who has a part of the way already gets no second one.
            let mut on_way = HashSet::new();
            let mut place = (at, node);
            while let (Some(known), Some((_, Some(before)))) = (place.1, best.get(&place)) {
                on_way.insert(known);
                place = *before;
            }
            for next in nodes.iter().filter(|next| next.first <= at && at < next.end && !on_way.contains(&next.node)) {
                let way = cost + self.way(&node.unwrap_or(self.client), &next.node);
                for end in cuts.iter().filter(|end| **end > at && **end <= next.end) {
                    let cost = way + u64::from(end - at) * u64::from(next.layer_us);
                    let place = (*end, Some(next.node));
                    if best.get(&place).is_none_or(|(known, _)| cost < *known) {
                        best.insert(place, (cost, Some((at, node))));
                        open.push(Reverse((cost, *end, Some(next.node))));
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MODEL: Hash = Hash([1; 32]);

    fn announce(i: u8, layers: Range<u32>, layer_us: u32, near: &[(u8, u32)]) -> Announce {
        Announce {
            node: node(i),
            at_ms: 1,
            model: MODEL,
            name: "model".into(),
            first: layers.start,
            end: layers.end,
            total: 8,
            layer_us,
            room: 0,
            price: Amount::ZERO,
            addresses: Vec::new(),
            near: near.iter().map(|(i, rtt)| (node(*i), *rtt)).collect(),
        }
    }

    fn node(i: u8) -> NodeId {
        *Keypair::from_seed([i; 32]).public()
    }

    fn known(all: &[Announce]) -> Known {
        let mut known = Known::default();
        all.iter().for_each(|one| assert!(known.hear(0, one.clone())));
        known
    }

    fn route(known: &Known, near: &[(u8, u32)], without: &[u8]) -> Option<Vec<(NodeId, Range<u32>)>> {
        let near = near.iter().map(|(i, rtt)| (node(*i), *rtt)).collect();
        let without = without.iter().map(|i| node(*i)).collect();
        known.routes(MODEL, node(0), &near).route(0..8, &without)
    }

    #[test]
    fn the_fastest_chain_is_taken_and_parts_of_spans_are_used() {
        let all = [
            announce(1, 0..4, 100, &[(2, 1000), (3, 50_000)]),
            announce(2, 3..8, 110, &[]),
            announce(3, 4..8, 10, &[]),
            announce(4, 0..8, 20_000, &[]),
        ];
        let known = known(&all);
        let near = [(1, 1000), (2, 1000), (3, 1000), (4, 1000)];
        assert_eq!(route(&known, &near, &[]).unwrap(), [(node(1), 0..4), (node(2), 4..8)]);
        assert_eq!(route(&known, &near, &[2]).unwrap(), [(node(1), 0..4), (node(3), 4..8)]);
        assert_eq!(route(&known, &near, &[1]).unwrap(), [(node(4), 0..3), (node(2), 3..8)]);
        assert_eq!(route(&known, &near, &[1, 4]), None);
        // Far away is slow, too.
        assert_eq!(route(&known, &[(1, 900_000), (4, 1000)], &[2, 3]).unwrap(), [(node(4), 0..8)]);
    }

    #[test]
    fn the_weakest_span_is_the_one_that_fewest_serve() {
        let known = known(&[announce(1, 0..4, 100, &[]), announce(2, 2..6, 100, &[])]);
        assert_eq!(known.weakest(&MODEL, 8, 2), 6..8);
        assert_eq!(known.weakest(&MODEL, 8, 100), 0..8);
        assert_eq!(Known::default().weakest(&MODEL, 8, 3), 0..3);
    }

    #[test]
    fn announcements_are_signed_newer_ones_count_and_old_ones_are_forgotten() {
        let (network, key) = (Hash([5; 32]), Keypair::from_seed([1; 32]));
        let one = announce(1, 0..4, 100, &[]);
        let bytes = one.sign(&network, &key);
        assert_eq!(Announce::open(&network, &bytes).unwrap(), one);
        assert!(Announce::open(&Hash([6; 32]), &bytes).is_none());
        assert!(Announce::open(&network, &one.sign(&network, &Keypair::from_seed([2; 32]))).is_none());
        assert!(Announce::open(&network, &announce(1, 4..4, 1, &[]).sign(&network, &key)).is_none());
        let mut known = Known::default();
        assert!(known.hear(0, Announce { at_ms: 5000, ..one.clone() }));
        assert!(
            !known.hear(0, Announce { at_ms: 5100, ..one.clone() })
                && known.hear(0, Announce { at_ms: 5400, ..one.clone() })
        );
        known.hear(VALID_MS, announce(2, 0..1, 1, &[]));
        assert_eq!(known.all().map(|known| known.node).collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn a_node_moves_to_where_fewer_serve_and_never_leaves_layers_that_nobody_else_has() {
        let mut known = Known::default();
        for (i, layers) in [(1, 0..4), (2, 0..4), (3, 0..4), (4, 4..8)] {
            known.hear(0, announce(i, layers, 100, &[]));
        }
        // Three here, one there: one of the three moves, and then there are two of each.
        assert_eq!(known.needs(&node(1), &MODEL, 8, &(0..4)), Some(4..8));
        assert_eq!(known.needs(&node(4), &MODEL, 8, &(4..8)), None);
        known.forget(&node(1));
        assert_eq!(known.needs(&node(2), &MODEL, 8, &(0..4)), None, "two of three");
        known.forget(&node(4));
        assert_eq!(known.needs(&node(2), &MODEL, 8, &(0..4)), Some(4..8), "nobody is there");
        known.forget(&node(3));
        assert_eq!(known.needs(&node(2), &MODEL, 8, &(0..4)), None, "nobody else is here");
    }
}

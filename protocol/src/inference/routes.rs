//! Ways through a model. A token goes around a ring: through all stages and from the last one back to the first, so the ring is what is made short.
//!
//! The spans' ends cut the model into segments. From the last segment to the first, `Search::chain` finds for each node that has a segment the fastest way
//! from there to the end, as Dijkstra would: only that layers come in their order, so nothing has to be sorted. It closes the ring for one first stage at a time.

use super::{
    announce::Announce,
    client::{Routes, Stages},
    known::{Known, Rank},
};
use crate::{Hash, NodeId};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    ops::Range,
};

/// What is taken for a round trip that nobody has measured, in microseconds.
const UNKNOWN_RTT: u32 = 100_000;
/// Nodes that a route is looked for among, at most: each has a bit.
const MAX_NODES: usize = 64;
/// First stages that a ring is closed for, at most.
const MAX_FIRSTS: usize = 16;
/// The way from the client to the first stage and from the last one to the client counts once in so many tokens.
const ONCE: u64 = 64;

/// What a client asks for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The model.
    pub model: Hash,
    /// Who asks.
    pub client: NodeId,
    /// Round trips that it has measured, in microseconds.
    pub near: &'a HashMap<NodeId, u32>,
    /// Bytes that a stage needs for the text, and for each layer beside.
    pub bytes: (u64, u64),
}

/// Finds the fastest routes.
pub struct Ways<'a> {
    known: &'a Known,
    wanted: Wanted<'a>,
}

impl Known {
    /// The ways through a model.
    pub fn routes<'a>(&'a self, wanted: Wanted<'a>) -> Ways<'a> {
        Ways { known: self, wanted }
    }
}

impl Ways<'_> {
    /// Half a round trip: the longer of what both ends say, since one might like to be near.
    fn way(&self, from: &NodeId, to: &NodeId) -> u64 {
        if from == to {
            return 0;
        }
        let of = |a: &NodeId, b: &NodeId| {
            if *a == self.wanted.client {
                return self.wanted.near.get(b).copied();
            }
            self.known.get(a)?.near.iter().find(|(node, _)| node == b).map(|(_, rtt)| *rtt)
        };
        u64::from(of(from, to).max(of(to, from)).unwrap_or(UNKNOWN_RTT)) / 2
    }

    /// Microseconds that a token should take around a ring, by what is said and what was seen; none if one of the stages says nothing any more.
    pub fn ring(&self, route: &Stages) -> Option<u64> {
        let mut ring = 0;
        for (i, (node, layers)) in route.iter().enumerate() {
            let next = &route[(i + 1) % route.len()].0;
            ring += self.known.get(node)?.takes_us(layers) + self.known.slow.of(node) + self.way(node, next);
        }
        Some(ring)
    }

    /// The fastest route: a ring, or a piece of one `between` two stages.
    fn fastest(
        &self,
        layers: &Range<u32>,
        between: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
        only_with_room: bool,
    ) -> Option<Stages> {
        let (known, client) = (self.known, &self.wanted.client);
        let search = Search::new(self, layers, without, only_with_room);
        let node = |n: usize| &search.nodes[n].node;
        if let Some((before, after)) = between {
            let steps = search.chain(|n| self.way(node(n), &after));
            let cost = |n: usize| Some(steps.first()?[n]?.cost + self.way(&before, node(n)));
            let first = (0..search.nodes.len()).filter_map(|n| Some((cost(n)?, n))).min()?.1;
            return Some(search.stages(&steps, first));
        }
        // No ring that begins at a node is faster than the way from there that does not close.
        let open = search.chain(|_| 0);
        let least = |n: usize| Some((open.first()?[n]?.cost + known.slow.of(node(n)), n));
        let mut firsts: Vec<(u64, usize)> = (0..search.nodes.len()).filter_map(least).collect();
        firsts.sort_unstable();
        let mut best: Option<(u64, Stages)> = None;
        for (least, first) in firsts.into_iter().take(MAX_FIRSTS) {
            if best.as_ref().is_some_and(|(cost, _)| *cost <= least) {
                break;
            }
            let steps = search.chain(|n| self.way(node(n), node(first)) + self.way(node(n), client) / ONCE);
            let Some(step) = steps.first().and_then(|steps| steps[first]) else { continue };
            let cost = step.cost + known.slow.of(node(first)) + self.way(client, node(first)) / ONCE;
            if best.as_ref().is_none_or(|(known, _)| cost < *known) {
                best = Some((cost, search.stages(&steps, first)));
            }
        }
        best.map(|(_, stages)| stages)
    }
}

impl Routes for Ways<'_> {
    /// Through nodes that have room for the text, if there is such a route.
    fn route(
        &mut self,
        layers: Range<u32>,
        between: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<Stages> {
        let fastest = |only_with_room| self.fastest(&layers, between, without, only_with_room);
        fastest(true).or_else(|| fastest(false))
    }

    fn gap(&mut self, layers: Range<u32>, without: &HashSet<NodeId>) -> Option<Range<u32>> {
        let serves = |known: &&Announce| known.has(&self.wanted.model) && !without.contains(&known.node);
        gap(layers, self.known.all().filter(serves).map(Announce::layers))
    }
}

/// The first of some layers that no span has, up to the next that one has.
pub(super) fn gap(layers: Range<u32>, spans: impl Iterator<Item = Range<u32>>) -> Option<Range<u32>> {
    let mut spans: Vec<Range<u32>> = spans.filter(|span| !span.is_empty()).collect();
    spans.sort_unstable_by_key(|span| span.start);
    let mut at = layers.start;
    for span in spans {
        if span.start > at {
            return (at < layers.end).then(|| at..span.start.min(layers.end));
        }
        at = at.max(span.end);
    }
    (at < layers.end).then_some(at..layers.end)
}

/// The best that follows once a node computes a segment.
#[derive(Clone, Copy)]
struct Step {
    /// Microseconds from the node's beginning of the segment on.
    cost: u64,
    /// Who computes the next segment; none after the last.
    next: Option<usize>,
    /// Who takes part from here on, one bit each: a node has one part of a route.
    used: u64,
}

/// For each segment and node: the best that follows.
type Steps = Vec<Vec<Option<Step>>>;

/// What a route is looked for among.
struct Search<'a> {
    nodes: Vec<&'a Announce>,
    /// Layers between two ends of spans.
    segments: Vec<Range<u32>>,
    /// Microseconds from one node to the next, with what that one takes beyond what it says.
    ways: Vec<Vec<u64>>,
}

impl<'a> Search<'a> {
    fn new(ways: &'a Ways<'_>, layers: &Range<u32>, without: &HashSet<NodeId>, only_with_room: bool) -> Search<'a> {
        let (each, layer) = ways.wanted.bytes;
        let fits = |announce: &Announce| {
            let taken = announce.end.min(layers.end).saturating_sub(announce.first.max(layers.start));
            let needs = each.saturating_add(layer.saturating_mul(u64::from(taken)));
            taken > 0
                && announce.has(&ways.wanted.model)
                && !without.contains(&announce.node)
                && (!only_with_room || announce.room >= needs)
        };
        let mut all: Vec<(Rank, &Announce)> = ways.known.ranked().filter(|(_, announce)| fits(announce)).collect();
        // The same order everywhere, whatever the table's is: who is known well, then who is fast.
        all.sort_unstable_by_key(|(rank, announce)| {
            (Reverse(*rank), u64::from(announce.layer_us) + ways.known.slow.of(&announce.node), announce.node)
        });
        let nodes = some(&all.into_iter().map(|(_, announce)| announce).collect::<Vec<_>>(), layers);
        let segments = segments(&nodes, layers);
        let way = |from: &Announce, to: &Announce| ways.way(&from.node, &to.node) + ways.known.slow.of(&to.node);
        let ways = nodes.iter().map(|from| nodes.iter().map(|to| way(from, to)).collect()).collect();
        Search { nodes, segments, ways }
    }

    /// The best from each segment and node to the end, after which `closing` microseconds follow.
    fn chain(&self, closing: impl Fn(usize) -> u64) -> Steps {
        let mut steps: Steps = Vec::new();
        for segment in self.segments.iter().rev() {
            let step = |n: usize| {
                let node = self.nodes[n];
                if !(node.first <= segment.start && segment.end <= node.end) {
                    return None;
                }
                let (own, bit) = (node.takes_us(segment), 1_u64 << n);
                let Some(after) = steps.last() else {
                    return Some(Step { cost: own + closing(n), next: None, used: bit });
                };
                // Who goes on needs no way; whoever comes back later can't take it from others.
                let follows = |(m, step): (usize, &Option<Step>)| {
                    let step = step.filter(|step| m == n || step.used & bit == 0)?;
                    let way = if m == n { 0 } else { self.ways[n][m] };
                    Some(Step { cost: own + way + step.cost, next: Some(m), used: step.used | bit })
                };
                after.iter().enumerate().filter_map(follows).min_by_key(|step| (step.cost, step.next))
            };
            let all = (0..self.nodes.len()).map(step).collect();
            steps.push(all);
        }
        steps.reverse();
        steps
    }

    /// The stages of the best way that begins at `first`.
    fn stages(&self, steps: &Steps, first: usize) -> Stages {
        let (mut stages, mut at): (Stages, _) = (Vec::new(), Some(first));
        for (segment, steps) in self.segments.iter().zip(steps) {
            let Some(n) = at else { break };
            match stages.last_mut() {
                Some((node, layers)) if *node == self.nodes[n].node => layers.end = segment.end,
                _ => stages.push((self.nodes[n].node, segment.clone())),
            }
            at = steps[n].and_then(|step| step.next);
        }
        stages
    }
}

/// Layers between two ends of spans.
fn segments(nodes: &[&Announce], layers: &Range<u32>) -> Vec<Range<u32>> {
    let ends = nodes.iter().flat_map(|node| [node.first, node.end]).chain([layers.start, layers.end]);
    let mut cuts: Vec<u32> = ends.filter(|cut| (layers.start..=layers.end).contains(cut)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
}

/// Of more nodes than a route is looked for among: for each segment the first that has it, then the second, and so on.
fn some<'a>(all: &[&'a Announce], layers: &Range<u32>) -> Vec<&'a Announce> {
    if all.len() <= MAX_NODES {
        return all.to_vec();
    }
    let (mut segments, mut taken, mut some) = (segments(all, layers), vec![false; all.len()], Vec::new());
    // Each time around takes one at least.
    while some.len() < MAX_NODES {
        segments.retain(|segment| {
            let has = |n: &usize| !taken[*n] && all[*n].first <= segment.start && segment.end <= all[*n].end;
            let next = (0..all.len()).find(has);
            if let Some(n) = next.filter(|_| some.len() < MAX_NODES) {
                taken[n] = true;
                some.push(all[n]);
            }
            next.is_some()
        });
    }
    some
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
    use super::{
        super::announce::tests::{MODEL, announce, node},
        *,
    };
    use crate::PublicKey;

    fn known(all: &[Announce]) -> Known {
        let mut known = Known::default();
        all.iter().for_each(|one| assert!(known.hear(0, Rank::Connected, one.clone())));
        known
    }

    fn wanted(near: &HashMap<NodeId, u32>) -> Wanted<'_> {
        Wanted { model: MODEL, client: node(0), near, bytes: (1000, 100) }
    }

    fn route(known: &Known, near: &[(u8, u32)], without: &[u8]) -> Option<Stages> {
        let near = near.iter().map(|(i, rtt)| (node(*i), *rtt)).collect();
        let without = without.iter().map(|i| node(*i)).collect();
        known.routes(wanted(&near)).route(0..8, None, &without)
    }

    #[test]
    fn the_fastest_ring_is_taken_and_parts_of_spans_are_used() {
        let all = [
            announce(1, 0..4, 100, &[(2, 1000), (3, 50_000), (4, 1000)]),
            announce(2, 3..8, 110, &[(4, 1000)]),
            announce(3, 4..8, 10, &[]),
            announce(4, 0..8, 20_000, &[]),
        ];
        let known = known(&all);
        let near = [(1, 1000), (2, 1000), (3, 1000), (4, 1000)];
        assert_eq!(route(&known, &near, &[]).unwrap(), [(node(1), 0..4), (node(2), 4..8)]);
        assert_eq!(route(&known, &near, &[2]).unwrap(), [(node(1), 0..4), (node(3), 4..8)]);
        assert_eq!(route(&known, &near, &[1]).unwrap(), [(node(4), 0..3), (node(2), 3..8)]);
        assert_eq!(route(&known, &near, &[1, 4]), None);
    }

    #[test]
    fn a_ring_of_near_nodes_far_from_the_client_beats_one_near_the_client_but_far_between() {
        // 1 and 2 are 100 ms from the client and 1 ms from each other; 3 and 4 the other way round.
        let known = known(&[
            announce(1, 0..4, 100, &[(2, 1000)]),
            announce(2, 4..8, 100, &[(1, 1000)]),
            announce(3, 0..4, 100, &[(4, 100_000)]),
            announce(4, 4..8, 100, &[(3, 100_000)]),
        ]);
        let near = [(1, 100_000), (2, 100_000), (3, 1000), (4, 1000)];
        assert_eq!(route(&known, &near, &[]).unwrap(), [(node(1), 0..4), (node(2), 4..8)]);
        // The way back counts: of two that are as near to the first, the one from which it is near.
        let known = self::known(&[
            announce(1, 0..4, 100, &[(2, 2000), (3, 2000), (4, 2000)]),
            announce(2, 4..6, 100, &[(3, 2000), (4, 2000)]),
            announce(3, 6..8, 100, &[(1, 80_000)]),
            announce(4, 6..8, 100, &[]),
        ]);
        assert_eq!(route(&known, &near, &[]).unwrap(), [(node(1), 0..4), (node(2), 4..6), (node(4), 6..8)]);
    }

    #[test]
    fn texts_of_the_model_before_find_who_still_has_it() {
        let next = Hash([2; 32]);
        let moved = |before| Announce { model: next, before, ..announce(1, 0..8, 100, &[]) };
        let (old, gone) = (known(&[moved(Some(MODEL))]), known(&[moved(None)]));
        assert_eq!(route(&old, &[], &[]).unwrap(), [(node(1), 0..8)]);
        assert_eq!(route(&gone, &[], &[]), None);
        let (near, nobody) = (HashMap::new(), HashSet::new());
        let gap = |known: &Known, model| known.routes(Wanted { model, ..wanted(&near) }).gap(0..8, &nobody);
        assert_eq!([gap(&old, MODEL), gap(&old, next), gap(&gone, MODEL)], [None, None, Some(0..8)]);
    }

    #[test]
    fn of_rings_that_are_alike_the_one_near_the_client_is_taken() {
        let known = known(&[announce(1, 0..8, 100, &[]), announce(2, 0..8, 100, &[])]);
        assert_eq!(route(&known, &[(1, 50_000), (2, 1000)], &[]).unwrap(), [(node(2), 0..8)]);
    }

    #[test]
    fn what_the_last_stage_computes_for_a_token_counts() {
        let near = [(2, 1000)];
        let slow_head = Announce { head_us: 5000, ..announce(2, 4..8, 100, &near) };
        let known = known(&[announce(1, 0..4, 100, &[(2, 1000), (3, 1000)]), slow_head, announce(3, 4..8, 900, &[])]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..4), (node(3), 4..8)]);
        // Layers before the last are taken where they are fast, whatever the head takes there.
        let slow_head = Announce { head_us: 5000, ..announce(1, 0..8, 100, &[(2, 100)]) };
        let known = self::known(&[slow_head, announce(2, 6..8, 300, &[])]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..6), (node(2), 6..8)]);
    }

    #[test]
    fn who_was_slower_than_it_says_is_taken_for_what_it_was() {
        let mut known = known(&[announce(1, 0..8, 0, &[]), announce(2, 0..8, 1000, &[])]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..8)]);
        let near = HashMap::new();
        let expected = known.routes(wanted(&near)).ring(&vec![(node(1), 0..8)]).unwrap();
        known.slow.saw(0, &[node(1)], 20_000, expected);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(2), 0..8)]);
        assert_eq!(known.routes(wanted(&near)).ring(&vec![(node(1), 0..8)]), Some(20_000));
        assert_eq!(known.routes(wanted(&near)).ring(&vec![(node(3), 0..8)]), None);
    }

    #[test]
    fn a_liar_draws_the_first_text_and_no_other() {
        // Node 1 takes 50 ms and says nothing at all; who is beside it is the only one that has the second half.
        let near = [(3, 1000)];
        let mut known =
            known(&[announce(1, 0..4, 0, &near), announce(2, 0..4, 100, &near), announce(3, 4..8, 100, &[])]);
        for text in 0..10 {
            let stages = route(&known, &[], &[]).unwrap();
            let first = if text == 0 { 1 } else { 2 };
            assert_eq!(stages, [(node(first), 0..4), (node(3), 4..8)], "text {text}");
            let took = 1000 + 400 + if first == 1 { 50_000 } else { 400 };
            let near = HashMap::new();
            let expected = known.routes(wanted(&near)).ring(&stages).unwrap();
            known.slow.saw(text, &stages.iter().map(|(node, _)| *node).collect::<Vec<_>>(), took, expected);
        }
        assert!(known.slow.of(&node(1)) > 20_000 && known.slow.of(&node(3)) < 1000, "who was beside it is cleared");
    }

    #[test]
    fn who_has_room_is_preferred_and_who_has_none_is_asked_where_nobody_else_is() {
        // Whoever takes eight layers of this text needs 1800 bytes.
        let full = Announce { room: 1799, ..announce(1, 0..8, 10, &[]) };
        let known = known(&[full.clone(), announce(2, 0..8, 1000, &[])]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(2), 0..8)]);
        assert_eq!(route(&known, &[], &[2]).unwrap(), [(node(1), 0..8)]);
        let known = self::known(&[Announce { room: 1800, ..full }, announce(2, 0..8, 1000, &[])]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..8)]);
    }

    #[test]
    fn a_gap_is_what_nobody_serves_up_to_who_serves_again() {
        let known = known(&[announce(1, 0..3, 100, &[]), announce(2, 2..4, 100, &[]), announce(3, 6..7, 100, &[])]);
        let near = HashMap::new();
        let gap = |layers, without: &[u8]| {
            known.routes(wanted(&near)).gap(layers, &without.iter().map(|i| node(*i)).collect())
        };
        assert_eq!([gap(0..8, &[]), gap(0..4, &[]), gap(5..8, &[])], [Some(4..6), None, Some(5..6)]);
        assert_eq!([gap(1..8, &[1]), gap(6..8, &[]), gap(0..2, &[1, 2, 3])], [Some(1..2), Some(7..8), Some(0..2)]);
        let near = HashMap::new();
        let other = Wanted { model: Hash::ZERO, ..wanted(&near) };
        assert_eq!(known.routes(other).gap(0..4, &HashSet::new()), Some(0..4));
    }

    #[test]
    fn a_piece_is_found_between_its_neighbours() {
        let known = known(&[
            announce(1, 2..4, 100, &[(8, 1000), (9, 90_000)]),
            announce(2, 2..4, 200, &[(8, 1000), (9, 1000)]),
        ]);
        let near = HashMap::new();
        let between = Some((node(8), node(9)));
        let piece = known.routes(wanted(&near)).route(2..4, between, &HashSet::new());
        assert_eq!(piece.unwrap(), [(node(2), 2..4)]);
    }

    #[test]
    fn both_ends_have_a_say_in_how_near_they_are() {
        // Node 3 says that it is near to all, and node 1 knows better.
        let known = known(&[
            announce(1, 0..4, 100, &[(2, 10_000), (3, 300_000)]),
            announce(2, 4..8, 100, &[]),
            announce(3, 4..8, 0, &[(1, 0)]),
        ]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..4), (node(2), 4..8)]);
    }

    #[test]
    fn no_node_has_two_parts_of_a_route() {
        // The middle is fast elsewhere; both ends are here alone.
        let known = known(&[announce(1, 0..8, 10_000, &[(2, 10)]), announce(2, 3..5, 1, &[])]);
        let found = route(&known, &[], &[]).unwrap();
        assert_eq!(found, [(node(1), 0..8)]);
        let known = self::known(&[
            announce(1, 0..8, 10_000, &[(2, 10), (3, 10)]),
            announce(2, 3..5, 1, &[(3, 10)]),
            announce(3, 5..8, 9000, &[]),
        ]);
        assert_eq!(route(&known, &[], &[]).unwrap(), [(node(1), 0..3), (node(2), 3..5), (node(3), 5..8)]);
    }

    #[test]
    fn among_thousands_of_strangers_who_is_known_is_found_in_time() {
        let mut known = known(&[announce(1, 0..4, 100, &[]), announce(2, 4..8, 100, &[])]);
        for i in 0..4000_u64 {
            let node = PublicKey(std::array::from_fn(|at| (i >> (8 * (at % 8))) as u8));
            let first = (i % 8) as u32;
            known.hear(
                0,
                Rank::Stranger,
                Announce { node, ..announce(9, first..(first + 1 + i as u32 % 5).min(8), 0, &[]) },
            );
        }
        let near = HashMap::new();
        let ways = known.routes(wanted(&near));
        let search = Search::new(&ways, &(0..8), &HashSet::new(), false);
        assert_eq!(search.nodes.len(), MAX_NODES);
        assert!([1, 2].map(node).iter().all(|node| search.nodes.iter().any(|known| known.node == *node)));
        assert!(route(&known, &[], &[]).is_some());
    }
}

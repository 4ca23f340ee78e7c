//! What tokens really take: a client measures it, and remembers who was in a ring that took longer than it should.
//!
//! A client sees whole rings only. So what a ring took beyond what was expected of it is laid upon all its stages alike, and what it took less is taken off
//! them again. Who is slow gets it from each ring that it is in; who was only beside it is cleared by the next ring without it. (This is Kaczmarz' way
//! to solve equations, one at a time, of which each sums up some of the unknowns.)

use super::client::Stages;
use crate::NodeId;
use std::collections::HashMap;

/// Tokens between two measurements.
const TOKENS: u32 = 32;
/// What was seen of a node counts so long.
const KEPT_MS: u64 = 600_000;
/// Nodes of which something is remembered, at most.
const MAX_SLOW: usize = 1024;
/// More than this, in microseconds, nobody is held for slow.
const MAX_US: i64 = 10_000_000;

/// Measures what a token takes on a route.
#[derive(Debug, Default)]
pub struct Pace {
    route: Stages,
    /// When the last token came, in microseconds.
    last: Option<u64>,
    tokens: u32,
    gaps: u32,
    sum: u64,
    longest: u64,
}

impl Pace {
    /// So many tokens came at once, by a route. What one takes, in microseconds, each time that enough have come: the mean, without the longest pause.
    pub fn came(&mut self, now_us: u64, tokens: u32, route: &Stages) -> Option<u64> {
        if self.route != *route {
            *self = Pace { route: route.clone(), ..Pace::default() };
        }
        let gap = self.last.replace(now_us).map(|last| now_us.saturating_sub(last))?;
        self.tokens += tokens;
        self.gaps += 1;
        self.sum += gap;
        self.longest = self.longest.max(gap);
        if self.tokens < TOKENS {
            return None;
        }
        // Tokens that came together after one pause are one part of `gaps`.
        let tokens = u64::from(self.tokens) * u64::from(self.gaps - 1) / u64::from(self.gaps);
        let mean = (self.sum - self.longest).checked_div(tokens);
        (self.tokens, self.gaps, self.sum, self.longest) = (0, 0, 0, 0);
        mean
    }
}

/// How much longer than they say nodes take, for each token that passes.
#[derive(Debug, Default)]
pub struct Slow {
    nodes: HashMap<NodeId, (i64, u64)>,
}

impl Slow {
    /// Microseconds beyond what a node says.
    pub fn of(&self, node: &NodeId) -> u64 {
        self.nodes.get(node).map_or(0, |(slow, _)| u64::try_from(*slow).unwrap_or(0))
    }

    /// A ring through these stages, which are not this node's own, took `took_us` where it was expected to take `expected_us`.
    pub fn saw(&mut self, now_ms: u64, stages: &[NodeId], took_us: u64, expected_us: u64) {
        self.nodes.retain(|_, (_, seen)| *seen + KEPT_MS > now_ms);
        let whole = i64::try_from(took_us).unwrap_or(MAX_US).min(MAX_US);
        let more = whole.saturating_sub(i64::try_from(expected_us).unwrap_or(MAX_US));
        let each = more / i64::try_from(stages.len().max(1)).unwrap_or(1);
        for node in stages {
            if !self.nodes.contains_key(node) && self.nodes.len() >= MAX_SLOW {
                let oldest = self.nodes.iter().min_by_key(|(_, (_, seen))| *seen).map(|(node, _)| *node);
                oldest.and_then(|node| self.nodes.remove(&node));
            }
            let (slow, seen) = self.nodes.entry(*node).or_insert((0, now_ms));
            (*slow, *seen) = ((*slow + each).clamp(0, MAX_US), now_ms);
        }
        self.nodes.retain(|_, (slow, _)| *slow > 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)]
    use super::*;
    use crate::PublicKey;

    fn node(i: u8) -> NodeId {
        PublicKey([i; 32])
    }

    #[test]
    fn a_pause_and_tokens_that_come_together_do_not_spoil_the_mean() {
        let (mut pace, route) = (Pace::default(), vec![(node(1), 0..8)]);
        let mut came = |now, tokens| pace.came(now, tokens, &route);
        let mut now = 1_000_000;
        assert_eq!(came(now, 1), None, "what the prompt took does not count");
        let mut told = Vec::new();
        for i in 0..64 {
            // Twice a second of nothing; some tokens wait for the next.
            now += if i % 32 == 5 { 1_000_000 } else { 100 };
            told.extend(came(now, 1));
        }
        assert_eq!(told, [100, 100]);
        // Four together, four times as rarely, are as fast.
        for i in 0..16 {
            now += if i == 3 { 777_777 } else { 400 };
            told.extend(came(now, 4));
        }
        assert_eq!(told, [100; 4]);
        // Another route begins anew.
        let other = vec![(node(2), 0..8)];
        assert!((0..33).all(|i| pace.came(now + i * 900, 1, &other).is_none_or(|us| us == 900)));
    }

    #[test]
    fn who_is_slow_keeps_it_and_who_was_beside_it_is_cleared() {
        // Each says 1000; node 1 takes 90,000 more.
        let (mut slow, rings) = (Slow::default(), [[1, 2, 3], [2, 3, 4], [1, 4, 5], [3, 4, 5], [2, 4, 5]]);
        let truth = |i: u8| if i == 1 { 91_000 } else { 1000 };
        for round in 0..20 {
            for ring in rings {
                let took = ring.iter().map(|i| truth(*i)).sum();
                let expected = ring.iter().map(|i| 1000 + slow.of(&node(*i))).sum();
                slow.saw(round, &ring.map(node), took, expected);
            }
        }
        assert!(slow.of(&node(1)) > 80_000, "{slow:?}");
        assert!((2..=5).all(|i| slow.of(&node(i)) < 5000), "{slow:?}");
        // One look is enough that the sum is right.
        let mut slow = Slow::default();
        slow.saw(0, &[node(1), node(2)], 93_000, 3000);
        assert_eq!([slow.of(&node(1)), slow.of(&node(2))], [45_000, 45_000]);
        // After a while it is forgotten.
        slow.saw(KEPT_MS, &[node(7)], 0, 0);
        assert_eq!(slow.of(&node(1)), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut slow = Slow::default();
        for i in 0..2 * MAX_SLOW as u64 {
            let node = PublicKey(std::array::from_fn(|at| (i >> (8 * (at % 8))) as u8));
            slow.saw(i, &[node], u64::MAX, 0);
            assert_eq!(slow.of(&node), MAX_US as u64);
        }
        assert_eq!(slow.nodes.len(), MAX_SLOW);
    }
}

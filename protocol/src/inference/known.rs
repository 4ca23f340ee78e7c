//! Who serves what, as far as a node knows: what others announced, by how well they are known, and where more of it is needed.

use super::{announce::Announce, pace::Slow};
use crate::{Amount, Hash, NodeId};
use std::{collections::HashMap, ops::Range, sync::Arc};

/// What counts of an announcement, in milliseconds: later it is forgotten, unless it came anew.
pub const VALID_MS: u64 = 15_000;
/// The least time between two of one node, but for the one that says that it leaves.
const PAUSE_MS: u64 = 400;
/// Where it is decided which layers to serve, nobody counts for more nodes like this one.
const MUCH: u32 = 4;
/// Announcements that are kept, at most.
const MAX_KNOWN: usize = 4096;

/// How well a node is known; who is better known keeps its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A key, which costs nothing.
    Stranger,
    /// It is connected.
    Connected,
    /// The ledger knows it, which costs work or coins.
    Registered,
}

/// An announcement that counts.
#[derive(Clone, Debug)]
struct Entry {
    heard: u64,
    rank: Rank,
    announce: Arc<Announce>,
}

/// All that is known of who serves what.
#[derive(Debug, Default)]
pub struct Known {
    nodes: HashMap<NodeId, Entry>,
    /// How much slower than they say nodes have been.
    pub slow: Slow,
}

impl Known {
    /// Takes an announcement that was heard at `now`; whether others should hear of it. Where there is no place left, one of those that are known least
    /// goes, the oldest first; the words of strangers are not handed on then.
    pub fn hear(&mut self, now: u64, rank: Rank, announce: Announce) -> bool {
        self.nodes.retain(|_, entry| entry.heard + VALID_MS > now);
        let mut crowded = false;
        match self.nodes.get(&announce.node) {
            Some(Entry { announce: known, .. }) => {
                let pause = if announce.withdraws() && !known.withdraws() { 1 } else { PAUSE_MS };
                if announce.at_ms < known.at_ms.saturating_add(pause) {
                    return false;
                }
            }
            None if self.nodes.len() >= MAX_KNOWN => {
                let least = self.nodes.iter().min_by_key(|(_, entry)| (entry.rank, entry.heard));
                let Some(node) = least.filter(|(_, entry)| entry.rank <= rank).map(|(node, _)| *node) else {
                    return false;
                };
                self.nodes.remove(&node);
                crowded = rank == Rank::Stranger;
            }
            None => {}
        }
        self.nodes.insert(announce.node, Entry { heard: now, rank, announce: Arc::new(announce) });
        !crowded
    }

    /// What this node itself serves, until it says otherwise.
    pub fn serve(&mut self, announce: Announce) {
        let entry = Entry { heard: u64::MAX / 2, rank: Rank::Registered, announce: Arc::new(announce) };
        self.nodes.insert(entry.announce.node, entry);
    }

    /// A node is gone.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// What a node asks for a unit.
    pub fn price(&self, node: &NodeId) -> Option<Amount> {
        self.get(node).map(|announce| announce.price)
    }

    /// What a node serves.
    pub fn get(&self, node: &NodeId) -> Option<&Announce> {
        self.nodes.get(node).map(|entry| &*entry.announce).filter(|announce| !announce.withdraws())
    }

    /// Who serves something.
    pub fn all(&self) -> impl Iterator<Item = &Announce> {
        self.ranked().map(|(_, announce)| announce)
    }

    /// The same, with how well each is known.
    pub(super) fn ranked(&self) -> impl Iterator<Item = (Rank, &Announce)> {
        let entries = self.nodes.values().map(|entry| (entry.rank, &*entry.announce));
        entries.filter(|(_, announce)| !announce.withdraws())
    }

    /// Of some spans, of which none lies in another, the one that is served least, but for what `me` serves: it begins as late as it can and
    /// has the first of the layers for which the summed speed of those that serve them is least. So the spans of nodes that come one after
    /// another lie end to end. None if there are none.
    pub fn weakest(&self, me: &NodeId, model: &Hash, spans: &[Range<u32>]) -> Option<Range<u32>> {
        let layers = spans.iter().map(|span| span.start).min()?..spans.iter().map(|span| span.end).max()?;
        let reached = layers.filter(|layer| spans.iter().any(|span| span.contains(layer)));
        let weakest = reached.min_by_key(|layer| (self.speed(me, model, *layer), *layer))?;
        spans.iter().filter(|span| span.contains(&weakest)).max_by_key(|span| span.start).cloned()
    }

    /// Where `me`, which serves `span`, would be needed at least twice as much, if it can be spared where it is: all layers of `span` are
    /// served by others, and one of these spans is served half as fast as what would be left here.
    pub fn needs(&self, me: &NodeId, model: &Hash, span: &Range<u32>, spans: &[Range<u32>]) -> Option<Range<u32>> {
        let least = |span: &Range<u32>| span.clone().map(|layer| self.speed(me, model, layer)).min().unwrap_or(0);
        let weakest = self.weakest(me, model, spans)?;
        let (here, there) = (least(span), least(&weakest));
        (here > 0 && there <= here / 2 && weakest != *span).then_some(weakest)
    }

    /// Tokens a second that all who serve a layer compute of it together, but for `me`. Strangers count nothing: with made-up keys somebody could keep others
    /// from layers that nobody serves.
    fn speed(&self, me: &NodeId, model: &Hash, layer: u32) -> u64 {
        let counts = |rank, known: &Announce| {
            rank > Rank::Stranger && known.node != *me && known.model == *model && known.layers().contains(&layer)
        };
        // Nobody counts for much more than this node: who says so would empty its layers of honest nodes.
        let least = self.get(me).map_or(1, |own| own.layer_us) / MUCH;
        let has = self.ranked().filter(|(rank, known)| counts(*rank, known));
        has.map(|(_, known)| 1_000_000 / u64::from(known.layer_us.max(least).max(1))).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)]
    use super::{
        super::announce::tests::{MODEL, announce, node},
        *,
    };
    use crate::PublicKey;

    fn known(all: &[(u8, Range<u32>)]) -> Known {
        let mut known = Known::default();
        for (i, layers) in all {
            assert!(known.hear(0, Rank::Connected, announce(*i, layers.clone(), 100, &[])));
        }
        known
    }

    /// All spans of a size.
    fn spans(size: u32) -> Vec<Range<u32>> {
        (0..=8 - size).map(|first| first..first + size).collect()
    }

    #[test]
    fn the_weakest_span_begins_where_fewest_serve() {
        let known = known(&[(1, 0..4), (2, 2..6)]);
        let nobody = node(9);
        assert_eq!(known.weakest(&nobody, &MODEL, &spans(2)), Some(6..8));
        assert_eq!(known.weakest(&nobody, &MODEL, &spans(8)), Some(0..8));
        assert_eq!(Known::default().weakest(&nobody, &MODEL, &spans(3)), Some(0..3));
        assert_eq!(known.weakest(&nobody, &MODEL, &[]), None);
    }

    #[test]
    fn spans_of_different_sizes_lie_end_to_end() {
        // The ends of the model take room, too: in the middle more layers fit.
        let (mut known, fit) = (Known::default(), [0..2, 1..5, 2..6, 3..7, 5..8]);
        for (i, expected) in [(1, 0..2), (2, 2..6), (3, 5..8)] {
            let span = known.weakest(&node(i), &MODEL, &fit);
            assert_eq!(span, Some(expected.clone()));
            known.hear(0, Rank::Connected, announce(i, expected, 100, &[]));
        }
        // Layers that no span reaches are for others.
        assert_eq!(Known::default().weakest(&node(1), &MODEL, &[1..5, 3..7]), Some(1..5));
    }

    #[test]
    fn a_node_moves_to_where_fewer_serve_and_never_leaves_layers_that_nobody_else_has() {
        let mut known = known(&[(1, 0..4), (2, 0..4), (3, 0..4), (4, 4..8)]);
        let needs = |known: &Known, i, span| known.needs(&node(i), &MODEL, &span, &spans(4));
        // Three here, one there: one of the three moves, and then there are two of each.
        assert_eq!(needs(&known, 1, 0..4), Some(4..8));
        assert_eq!(needs(&known, 4, 4..8), None);
        known.forget(&node(1));
        assert_eq!(needs(&known, 2, 0..4), None, "two of three");
        known.forget(&node(4));
        assert_eq!(needs(&known, 2, 0..4), Some(4..8), "nobody is there");
        known.forget(&node(3));
        assert_eq!(needs(&known, 2, 0..4), None, "nobody else is here");
        // A thousand keys that nobody knows are nobody.
        for i in 0..1000_u16 {
            let [a, b] = i.to_le_bytes();
            let node = PublicKey(std::array::from_fn(|at| if at % 2 == 0 { a } else { b }));
            known.hear(0, Rank::Stranger, Announce { node, ..announce(9, 0..8, 0, &[]) });
        }
        assert_eq!(needs(&known, 2, 0..4), None, "strangers do not make it go");
        assert_eq!(known.weakest(&node(5), &MODEL, &spans(4)), Some(4..8), "nor keep it away");
    }

    #[test]
    fn newer_announcements_count_old_ones_are_forgotten_and_who_leaves_is_gone_at_once() {
        let (mut known, one) = (Known::default(), announce(1, 0..4, 100, &[]));
        let mut hear = |now, announce| known.hear(now, Rank::Connected, announce);
        assert!(hear(0, Announce { at_ms: 5000, ..one.clone() }));
        assert!(!hear(0, Announce { at_ms: 5100, ..one.clone() }));
        assert!(hear(0, Announce { at_ms: 5400, ..one.clone() }));
        // It leaves, and its older word that comes late changes nothing.
        let left = Announce { at_ms: 5401, first: 4, ..one.clone() };
        assert!(hear(0, left.clone()) && !hear(0, Announce { at_ms: 5402, ..left }));
        assert!(!hear(0, Announce { at_ms: 5400, ..one.clone() }));
        assert_eq!((known.all().count(), known.price(&node(1))), (0, None));
        assert!(known.hear(0, Rank::Connected, Announce { at_ms: 6000, ..one }));
        known.hear(VALID_MS, Rank::Connected, announce(2, 0..1, 1, &[]));
        assert_eq!(known.all().map(|known| known.node).collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn made_up_keys_fill_no_table() {
        let stranger = |i: u64, time| {
            let node = PublicKey(std::array::from_fn(|at| (i >> (8 * (at % 8))) as u8));
            (time, Announce { node, at_ms: time, ..announce(9, 0..8, 0, &[]) })
        };
        let mut known = known(&[(1, 0..4)]);
        for i in 0..MAX_KNOWN as u64 - 1 {
            let (time, announce) = stranger(i, 1 + i % 7);
            assert!(known.hear(time, Rank::Stranger, announce));
        }
        // The table is full. Another stranger takes an older one's place, and nobody hears of it from here.
        let (time, announce_) = stranger(1 << 40, 10);
        let last = announce_.node;
        assert!(!known.hear(time, Rank::Stranger, announce_) && known.get(&last).is_some());
        // Who is known has a place in any case, and keeps it.
        for (i, rank) in [(2, Rank::Registered), (3, Rank::Connected)] {
            assert!(known.hear(11, rank, announce(i, 0..4, 100, &[])));
        }
        for i in 0..2 * MAX_KNOWN as u64 {
            let (time, announce) = stranger((1 << 41) + i, 12);
            known.hear(time, Rank::Stranger, announce);
        }
        assert_eq!(known.all().count(), MAX_KNOWN);
        assert!((1..=3).all(|i| known.get(&node(i)).is_some()));
    }
}

//! Who serves what, as far as a node knows: what others announced, by how well they are known, and where more of it is needed.

use super::{announce::Announce, pace::Slow, routes::gap};
use crate::{Amount, Hash, NodeId};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

/// What counts of an announcement, in milliseconds: later it is forgotten, unless it came anew.
pub const VALID_MS: u64 = 15_000;
/// The least time between two of one node, but for the one that says that it leaves.
pub const PAUSE_MS: u64 = 400;
/// What another node's clock may be off; who takes announcements takes none that are off by more.
pub const CLOCKS_MS: u64 = 600_000;
/// Where it is decided which layers to serve, nobody counts for more nodes like this one.
const MUCH: u32 = 4;
/// Announcements that are kept, at most, and nodes whose last one is remembered.
const MAX_KNOWN: usize = 4096;
const MAX_SAID: usize = 2 * MAX_KNOWN;

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

/// A model of which somebody serves each layer.
#[derive(Clone, Debug)]
pub struct Offered<'a> {
    /// Its id.
    pub model: Hash,
    /// What whoever is known best calls it.
    pub name: &'a str,
    /// Its layers.
    pub total: u32,
    /// Who serves them, the best known first.
    pub stages: Vec<&'a Announce>,
}

/// What a node has said last, whether or not it still counts: anybody could say its older words again.
#[derive(Clone, Copy, Debug)]
struct Said {
    heard: u64,
    rank: Rank,
    at_ms: u64,
    leaves: bool,
}

/// All that is known of who serves what.
#[derive(Debug, Default)]
pub struct Known {
    nodes: HashMap<NodeId, Entry>,
    said: HashMap<NodeId, Said>,
    /// How much slower than they say nodes have been.
    pub slow: Slow,
}

impl Known {
    /// Takes an announcement that was heard at `now`, by a clock that goes on; whether others should hear of it. Where there is no place left, one of those
    /// that are known least goes, the oldest first; the words of strangers are not handed on then.
    pub fn hear(&mut self, now: u64, rank: Rank, announce: Announce) -> bool {
        let (node, said) =
            (announce.node, Said { heard: now, rank, at_ms: announce.at_ms, leaves: announce.withdraws() });
        let news = |known: &Said| {
            let pause = if said.leaves && !known.leaves { 1 } else { PAUSE_MS };
            said.at_ms >= known.at_ms.saturating_add(pause)
        };
        self.nodes.retain(|_, entry| entry.heard + VALID_MS > now);
        // It was no more than so much ahead of its time.
        self.said.retain(|_, known| known.heard + 2 * CLOCKS_MS > now);
        if !self.said.get(&node).is_none_or(news) {
            return false;
        }
        // What can't be remembered could be said again and again.
        let Some(forgot) = make_room(&mut self.said, (&node, MAX_SAID), rank, |said| (said.rank, said.heard)) else {
            return false;
        };
        self.said.insert(node, said);
        if said.leaves {
            return self.nodes.remove(&node).is_some() || rank > Rank::Stranger;
        }
        let Some(lost) = make_room(&mut self.nodes, (&node, MAX_KNOWN), rank, |entry| (entry.rank, entry.heard)) else {
            return false;
        };
        self.nodes.insert(node, Entry { heard: now, rank, announce: Arc::new(announce) });
        rank > Rank::Stranger || !(lost || forgot)
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
        self.nodes.get(node).map(|entry| &*entry.announce)
    }

    /// Who serves something.
    pub fn all(&self) -> impl Iterator<Item = &Announce> {
        self.ranked().map(|(_, announce)| announce)
    }

    /// The same, with how well each is known.
    pub(super) fn ranked(&self) -> impl Iterator<Item = (Rank, &Announce)> {
        self.nodes.values().map(|entry| (entry.rank, &*entry.announce))
    }

    /// Models that are served as a whole: those first that nodes serve who are known best, and then those that most serve. Of several of one name it is one.
    pub fn models(&self) -> Vec<Offered<'_>> {
        let mut all: HashMap<(Hash, u32), Vec<(Rank, &Announce)>> = HashMap::new();
        for (rank, announce) in self.ranked() {
            all.entry((announce.model, announce.total)).or_default().push((rank, announce));
        }
        let whole = all.into_iter().filter_map(|((model, total), mut nodes)| {
            nodes.sort_unstable_by_key(|(rank, announce)| (Reverse(*rank), announce.node));
            // Who adds a node to others' is not known better for it.
            let ranks = [Rank::Registered, Rank::Connected, Rank::Stranger];
            let rank = ranks.into_iter().find(|least| {
                let known = nodes.iter().filter(|(rank, _)| rank >= least);
                gap(0..total, known.map(|(_, announce)| announce.layers())).is_none()
            })?;
            let stages: Vec<&Announce> = nodes.into_iter().map(|(_, announce)| announce).collect();
            Some((rank, Offered { model, name: &stages.first()?.name, total, stages }))
        });
        let mut models: Vec<(Rank, Offered<'_>)> = whole.collect();
        models.sort_unstable_by_key(|(rank, one)| (Reverse((*rank, one.stages.len())), one.model, one.total));
        let mut names = HashSet::new();
        models.into_iter().map(|(_, one)| one).filter(|one| names.insert(one.name)).collect()
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

/// A place for a node in a full table: the oldest goes of those that are known least, none better than `rank`. Whether one had to go; none: there is none.
fn make_room<T>(
    table: &mut HashMap<NodeId, T>,
    (node, most): (&NodeId, usize),
    rank: Rank,
    order: impl Fn(&T) -> (Rank, u64),
) -> Option<bool> {
    if table.len() < most || table.contains_key(node) {
        return Some(false);
    }
    let least = table.iter().map(|(node, known)| (order(known), *node)).min_by_key(|(order, _)| *order);
    let (_, node) = least.filter(|((known, _), _)| *known <= rank)?;
    table.remove(&node);
    Some(true)
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
    fn models_are_listed_that_are_served_as_a_whole_and_strangers_take_nobody_s_name() {
        let mut known = Known::default();
        let mut hear = |rank, i, layers, model: u8, name: &str| {
            let announce = Announce { model: Hash([model; 32]), name: name.into(), ..announce(i, layers, 100, &[]) };
            assert!(known.hear(0, rank, announce));
        };
        // In parts, the whole of it, and a part alone.
        hear(Rank::Registered, 1, 0..5, 1, "parts");
        hear(Rank::Connected, 2, 4..8, 1, "parts");
        hear(Rank::Registered, 3, 0..8, 2, "whole");
        hear(Rank::Registered, 4, 0..7, 3, "most of it");
        // A stranger's completes one, and others' are called like those of who is known; one who joins renames nothing.
        hear(Rank::Stranger, 5, 7..8, 3, "completed");
        hear(Rank::Stranger, 6, 0..8, 4, "whole");
        hear(Rank::Stranger, 7, 0..8, 2, "renamed");
        let models = known.models();
        let listed: Vec<_> = models.iter().map(|one| (one.name, one.model.0[0], one.stages.len(), one.total)).collect();
        assert_eq!(listed, [("whole", 2, 2, 8), ("parts", 1, 2, 8), ("most of it", 3, 2, 8)]);
        assert!(Known::default().models().is_empty());
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
    fn a_node_s_older_words_count_no_more_whoever_says_them_again() {
        let (mut known, one) = (Known::default(), announce(1, 0..4, 100, &[]));
        let at = |at_ms| Announce { at_ms, ..one.clone() };
        let hear = |known: &mut Known, now, announce| known.hear(now, Rank::Connected, announce);
        assert!(hear(&mut known, 0, at(5000)) && hear(&mut known, 0, at(6000)));
        // It was disconnected, and what it said has expired.
        known.forget(&node(1));
        for now in [0, VALID_MS, 2 * CLOCKS_MS - 1] {
            assert!(!hear(&mut known, now, at(5000)) && !hear(&mut known, now, at(6000)), "after {now} ms");
        }
        assert!(hear(&mut known, VALID_MS, at(7000)));
        // The word that it leaves is its last one, too.
        let left = Announce { first: 4, ..at(7001) };
        assert!(hear(&mut known, VALID_MS, left.clone()));
        known.forget(&node(1));
        assert!(!hear(&mut known, VALID_MS, at(7000)) && !hear(&mut known, VALID_MS, left));
        assert!(hear(&mut known, VALID_MS, at(7500)));

        // Strangers' words push out nobody's but strangers'.
        for i in 0..MAX_SAID as u64 + 100 {
            let node = PublicKey(std::array::from_fn(|at| (i >> (8 * (at % 8))) as u8));
            known.hear(VALID_MS + 1, Rank::Stranger, Announce { node, ..announce(9, 0..8, 0, &[]) });
        }
        assert_eq!(known.said.len(), MAX_SAID);
        assert!(!hear(&mut known, 2 * VALID_MS, at(7500)));
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

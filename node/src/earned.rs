//! What this node was paid, by what for: sums of the last hour by the minute, of two days by the hour, of two months by the day. They are counted as
//! blocks are executed, and kept in a file across restarts; of blocks before, a bounded part of the node's history tells.

use crate::{
    datadir::write_atomically,
    service::chain::{Chain, Unreadable},
};
use ailo_ledger::{
    Block,
    state::{Event, RewardKind, State},
    store::{Cursor, MAX_PAGE, Subject},
};
use ailo_protocol::{Amount, NodeId, canonical};
use std::{
    collections::{BTreeMap, btree_map::Range},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Milliseconds of an hour.
pub const HOUR_MS: u64 = 3_600_000;
/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * HOUR_MS;
/// What is summed: spans of so many milliseconds, and how many of them are kept.
const SPANS: [(u64, u64); 3] = [(60_000, 60), (HOUR_MS, 48), (DAY_MS, 60)];
/// Their places.
const MINUTES: usize = 0;
const HOURS: usize = 1;
const DAYS: usize = 2;
/// Pages of the node's history that are read at its start, at most: mostly it is a minute that is not in the file.
const PAGES: usize = 500;
/// How often the sums are written to the file.
const WRITTEN: Duration = Duration::from_secs(60);
/// Bytes of the file, at most.
const MAX_BYTES: usize = 256 << 10;

/// Units by what they were paid for.
pub type Kinds = BTreeMap<RewardKind, u64>;
/// The same by spans of time, numbered since 1970.
type Slots = BTreeMap<u64, Kinds>;
/// Whose they are, the height up to which blocks are counted, and the sums.
type File = (NodeId, u64, (u64, bool, Kinds, [Slots; SPANS.len()]));

/// What happened paid a node so much, for this.
pub fn paid(event: &Event, node: &NodeId) -> Option<(RewardKind, Amount)> {
    match event {
        Event::Reward { node: whose, amount, kind, .. } if whose == node => Some((*kind, *amount)),
        // What comes on top is a reward of its own.
        Event::ReceiptPaid { node: whose, amount, burned, .. } if whose == node => {
            Some((RewardKind::Inference, Amount(amount.0.saturating_sub(burned.0))))
        }
        _ => None,
    }
}

fn add(kinds: &mut Kinds, kind: RewardKind, units: u64) {
    let sum = kinds.entry(kind).or_default();
    *sum = sum.saturating_add(units);
}

/// Adds to a span, and forgets those that are too long before the newest.
fn add_in(slots: &mut Slots, (slot, kept): (u64, u64), kinds: impl IntoIterator<Item = (RewardKind, u64)>) {
    let sums = slots.entry(slot).or_default();
    kinds.into_iter().for_each(|(kind, units)| add(sums, kind, units));
    let newest = slots.last_key_value().map_or(slot, |(newest, _)| *newest);
    while slots.first_key_value().is_some_and(|(slot, _)| slot + kept <= newest) {
        slots.pop_first();
    }
}

/// What a node was paid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// From this time on.
    pub since_ms: u64,
    /// Which is the network's beginning.
    pub whole: bool,
    all: Kinds,
    slots: [Slots; SPANS.len()],
}

impl Sums {
    /// None yet, of what comes from a time on.
    pub fn since(since_ms: u64, whole: bool) -> Sums {
        Sums { since_ms, whole, ..Sums::default() }
    }

    fn add(&mut self, time_ms: u64, (kind, amount): (RewardKind, Amount)) {
        add(&mut self.all, kind, amount.0);
        for ((span, kept), slots) in SPANS.into_iter().zip(&mut self.slots) {
            add_in(slots, (time_ms / span, kept), [(kind, amount.0)]);
        }
    }

    /// Puts those of the time before in front of these.
    fn follow(&mut self, before: Sums) {
        (self.since_ms, self.whole) = (before.since_ms, before.whole);
        before.all.into_iter().for_each(|(kind, units)| add(&mut self.all, kind, units));
        for (((_, kept), slots), before) in SPANS.into_iter().zip(&mut self.slots).zip(before.slots) {
            before.into_iter().for_each(|(slot, kinds)| add_in(slots, (slot, kept), kinds));
        }
    }

    /// Of what is in a file, nothing that would not fit.
    fn sound(&self) -> bool {
        let fits = |((span, kept), slots): ((u64, u64), &Slots)| {
            slots.len() as u64 <= kept && slots.keys().all(|slot| *slot <= u64::MAX / span)
        };
        SPANS.into_iter().zip(&self.slots).all(fits)
    }

    /// What a node's history tells of blocks above the first height and up to the second, read back over so many pages at most; and whether that is
    /// all of it.
    pub fn told(
        chain: &Chain,
        node: NodeId,
        (above, height): (u64, u64),
        (pages, now_ms): (usize, u64),
    ) -> Result<(Sums, bool), Unreadable> {
        let mut sums = Sums::since(now_ms, false);
        let mut before = Some(Cursor { height: height.saturating_add(1), event: 0 });
        for _ in 0..pages {
            let page = chain.history(&Subject::Node(node), before, MAX_PAGE)?;
            for item in &page.items {
                if item.at.height <= above {
                    return Ok((sums, true));
                }
                sums.since_ms = item.time_ms;
                if let Some(paid) = paid(&item.event, &node) {
                    sums.add(item.time_ms, paid);
                }
            }
            before = page.next;
            if before.is_none() {
                // Who began with a snapshot has no history of what came before.
                return Ok((sums, chain.first() <= above.saturating_add(1)));
            }
        }
        Ok((sums, false))
    }

    /// The newest spans up to a time, of those that are kept.
    fn last(&self, place: usize, count: u64, now_ms: u64) -> Range<'_, u64, Kinds> {
        let first = (now_ms / SPANS[place].0 + 1).saturating_sub(count);
        self.slots[place].range(first..)
    }

    /// Units by kind: of the last hour (to the minute), of the last day (to the hour), of all the time.
    pub fn kinds(&self, now_ms: u64) -> BTreeMap<RewardKind, [u64; 3]> {
        let mut kinds: BTreeMap<_, _> = self.all.iter().map(|(kind, units)| (*kind, [0, 0, *units])).collect();
        let parts = [self.last(MINUTES, 60, now_ms), self.last(HOURS, 24, now_ms)];
        for (part, slots) in parts.into_iter().enumerate() {
            for (kind, units) in slots.flat_map(|(_, slot)| slot) {
                let sum = &mut kinds.entry(*kind).or_default()[part];
                *sum = sum.saturating_add(*units);
            }
        }
        kinds
    }

    /// The hours that are kept and in which something was paid, by when they began, the oldest first.
    pub fn hours(&self, now_ms: u64) -> impl Iterator<Item = (u64, &Kinds)> {
        let (span, kept) = SPANS[HOURS];
        self.last(HOURS, kept, now_ms).map(move |(slot, kinds)| (slot * span, kinds))
    }

    /// The days, as above.
    pub fn days(&self, now_ms: u64) -> impl Iterator<Item = (u64, &Kinds)> {
        let (span, kept) = SPANS[DAYS];
        self.last(DAYS, kept, now_ms).map(move |(slot, kinds)| (slot * span, kinds))
    }
}

/// The sums of this node.
pub struct Earned {
    node: NodeId,
    path: PathBuf,
    /// Height of the ledger at the start.
    from: u64,
    /// The height up to which blocks are counted, and the sums.
    counted: Mutex<(u64, Sums)>,
}

impl Earned {
    /// Of a node whose ledger stands at `state`; the file at `path` is read by [`Earned::run`].
    pub fn new(path: PathBuf, node: NodeId, state: &State) -> Earned {
        let from = state.height();
        Earned { node, path, from, counted: Mutex::new((from, Sums::since(state.time_ms(), false))) }
    }

    fn counted(&self) -> MutexGuard<'_, (u64, Sums)> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums by now.
    pub fn sums(&self) -> Sums {
        self.counted().1.clone()
    }

    /// A block stands, with what happened in it.
    pub fn block(&self, block: &Block, events: &[Event]) {
        let mut counted = self.counted();
        counted.0 = block.header.height;
        events.iter().filter_map(|event| paid(event, &self.node)).for_each(|paid| {
            counted.1.add(block.header.time_ms, paid);
        });
    }

    /// What the file holds, if it can be read: a damaged one loses the past alone.
    fn kept(&self) -> Option<(u64, Sums)> {
        let bytes = std::fs::read(&self.path).ok().filter(|bytes| bytes.len() <= MAX_BYTES)?;
        let (node, height, (since_ms, whole, all, slots)) = canonical::decode::<File>(&bytes, MAX_BYTES).ok()?;
        let sums = Sums { since_ms, whole, all, slots };
        // What is above this ledger is another one's past.
        (node == self.node && sums.sound() && height <= self.from).then_some((height, sums))
    }

    /// What was paid before the start: by the file, and by the history of what came after it. Where that does not reach back so far, it stands alone.
    fn before(&self, chain: &Chain, genesis_ms: u64) -> Result<Sums, Unreadable> {
        let now_ms = self.counted().1.since_ms;
        let (height, kept) = self.kept().unwrap_or_else(|| (0, Sums::since(genesis_ms, true)));
        let (mut sums, all) = Sums::told(chain, self.node, (height, self.from), (PAGES, now_ms))?;
        if all {
            sums.follow(kept);
        }
        Ok(sums)
    }

    fn write(&self) {
        let (height, Sums { since_ms, whole, all, slots }) = self.counted().clone();
        let file: File = (self.node, height, (since_ms, whole, all, slots));
        if let Err(e) = write_atomically(&self.path, &canonical::encode(&file)) {
            tracing::debug!(error = %e, "what was earned is not kept");
        }
    }

    /// Reads what was paid before, then keeps the sums until `stop`.
    pub async fn run(self: Arc<Earned>, chain: Chain, genesis_ms: u64, mut stop: watch::Receiver<bool>) {
        let own = self.clone();
        let reads = tokio::task::spawn_blocking(move || {
            let before = own.before(&chain, genesis_ms)?;
            own.counted().1.follow(before);
            Ok::<_, Unreadable>(())
        });
        let read = tokio::select! {
            read = reads => read,
            _ = stop.changed() => return,
        };
        if !matches!(read, Ok(Ok(()))) {
            tracing::warn!("what was earned before this start can't be read: what is shown begins with it");
            return; // The file stays as it is: the next start reads on from there.
        }
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(WRITTEN) => false,
                _ = stop.changed() => true,
            };
            let own = self.clone();
            // What fails has said so.
            let _ = tokio::task::spawn_blocking(move || own.write()).await;
            if last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use RewardKind::{Inference, Training, Uptime};

    /// A day that is long over.
    const START: u64 = 20_000 * DAY_MS;

    fn sums_of(paid: &[(u64, RewardKind, u64)]) -> Sums {
        let mut sums = Sums::since(START, false);
        paid.iter().for_each(|(at, kind, units)| sums.add(START + at, (*kind, Amount(*units))));
        sums
    }

    #[test]
    fn an_hour_rolls_over_and_so_does_a_day() {
        let mut sums = sums_of(&[(0, Training, 5), (HOUR_MS - 1, Uptime, 1)]);
        let kinds = |sums: &Sums, at: u64| sums.kinds(START + at);
        assert_eq!(kinds(&sums, HOUR_MS - 1)[&Training], [5, 5, 5]);
        sums.add(START + HOUR_MS, (Uptime, Amount(2)));
        assert_eq!(kinds(&sums, HOUR_MS)[&Training], [0, 5, 5], "the minute is an hour ago");
        assert_eq!(kinds(&sums, HOUR_MS)[&Uptime], [3, 3, 3], "an hour goes over the end of one");
        let listed: Vec<_> = sums.hours(START + HOUR_MS).map(|(at, kinds)| (at - START, kinds.clone())).collect();
        assert_eq!(listed, [(0, [(Training, 5), (Uptime, 1)].into()), (HOUR_MS, [(Uptime, 2)].into())]);

        sums.add(START + DAY_MS, (Inference, Amount(7)));
        let listed: Vec<_> = sums.days(START + DAY_MS).map(|(at, kinds)| (at - START, kinds.clone())).collect();
        assert_eq!(listed, [(0, [(Training, 5), (Uptime, 3)].into()), (DAY_MS, [(Inference, 7)].into())]);
        assert_eq!(kinds(&sums, DAY_MS)[&Training], [0, 0, 5], "the hour is a day ago");
        assert_eq!(kinds(&sums, DAY_MS)[&Uptime], [0, 2, 3]);
        assert_eq!(sums.hours(START + 3 * DAY_MS).count(), 0, "where nothing is paid time goes on, too");
    }

    #[test]
    fn however_long_it_is_paid_and_in_whatever_order_so_many_spans_are_kept() {
        let mut sums = Sums::since(START, false);
        for minute in 0..100 * 24 * 60 {
            sums.add(START + minute * 60_000, (Uptime, Amount(1)));
        }
        sums.add(START, (Training, Amount(u64::MAX)));
        sums.add(START, (Training, Amount(1)));
        for ((_, kept), slots) in SPANS.into_iter().zip(&sums.slots) {
            assert_eq!(slots.len() as u64, kept);
        }
        let end = START + 100 * DAY_MS - 1;
        assert_eq!(sums.kinds(end)[&Uptime], [60, 24 * 60, 100 * 24 * 60]);
        assert_eq!(sums.kinds(end)[&Training], [0, 0, u64::MAX], "a sum that is full stays full");
        assert_eq!((sums.hours(end).count(), sums.days(end).count()), (48, 60));
        assert!(sums.days(end).all(|(_, kinds)| kinds[&Uptime] == 24 * 60));
    }

    #[test]
    fn what_came_before_goes_in_front() {
        let before = sums_of(&[(0, Training, 5), (DAY_MS, Uptime, 1)]);
        let mut sums = Sums::since(START + DAY_MS, false);
        sums.add(START + DAY_MS + 1, (Uptime, Amount(2)));
        sums.follow(Sums { whole: true, ..before });
        let all = sums_of(&[(0, Training, 5), (DAY_MS, Uptime, 1), (DAY_MS + 1, Uptime, 2)]);
        assert_eq!(sums, Sums { whole: true, ..all });
    }

    #[test]
    fn the_sums_survive_in_their_file_and_damage_or_another_ledger_only_loses_the_past() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earned");
        let earned = |from: u64| Earned {
            node: ailo_protocol::PublicKey([1; 32]),
            path: path.clone(),
            from,
            counted: Mutex::new((from, Sums::default())),
        };
        let (first, sums) = (earned(7), sums_of(&[(0, Training, 5), (DAY_MS, Inference, 1)]));
        assert_eq!(first.kept(), None, "there is none at first");
        *first.counted() = (9, sums.clone());
        first.write();
        assert_eq!(earned(9).kept(), Some((9, sums.clone())));
        assert_eq!(earned(8).kept(), None, "a ledger that does not go so far is another one");
        let mut wide = sums;
        wide.slots[MINUTES] = (0..100).map(|slot| (slot, Kinds::new())).collect();
        *first.counted() = (9, wide);
        first.write();
        assert_eq!(earned(9).kept(), None, "more than fits");
        std::fs::write(&path, b"damaged").unwrap();
        assert_eq!(earned(9).kept(), None);
    }
}

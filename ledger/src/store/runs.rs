//! A table of sorted runs in a sled tree: a log-structured merge tree (O'Neil and others, 1996). What is added together
//! becomes one sorted run, in pages of some kilobytes, and [`FAN_IN`] runs of a level are merged into one of the next. An
//! entry then costs its share of a few page writes, where a B-tree looks for the place of each by itself.
//!
//! ```text
//! run's number, first key of the page -> page
//! page: (key's length u32, value's length u32 or REMOVED, key, value)*, in order of keys
//! ```
//!
//! The table does not keep which runs it has; its owner does, so that this changes at once with what else must.

use ailo_protocol::canonical::{Decode, Encode};
use sled::{IVec, Tree};
use std::ops::Range;

/// Runs of a level that are merged.
pub const FAN_IN: usize = 16;
/// A page is closed when it is this long: sled copies a leaf of up to sixteen pages whenever one is added.
const PAGE_BYTES: usize = 4096;
const REMOVED: u32 = u32::MAX;

/// A table of sorted runs.
pub struct Table {
    tree: Tree,
    /// Runs of more entries together are not merged.
    merge_limit: u64,
}

/// The runs of a table, the oldest first; of several entries with one key, the newest run's holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Runs(Vec<Run>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Run {
    number: u64,
    level: u32,
    entries: u64,
}

impl Table {
    /// The table in a tree.
    pub fn new(tree: Tree, merge_limit: u64) -> Table {
        Table { tree, merge_limit }
    }

    /// Writes a run of entries, which are in order of their keys; `None` removes a key. `number` was never used before.
    pub fn add<'a>(
        &self,
        runs: &mut Runs,
        number: u64,
        entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), sled::Error> {
        let mut writer = Writer::new(&self.tree, number);
        for (key, value) in entries {
            writer.push(key, value)?;
        }
        runs.0.extend(writer.finish(0)?);
        Ok(())
    }

    /// Merges the newest runs under the next number while there are enough of their level; `runs` are then those that
    /// hold, and the ones that are given back can be removed once nobody reads them.
    pub fn merge(&self, runs: &mut Runs, mut number: impl FnMut() -> u64) -> Result<Vec<u64>, sled::Error> {
        let mut merged = Vec::new();
        while let Some(from) = self.due(&runs.0) {
            let level = runs.0[from].level + 1;
            let mut writer = Writer::new(&self.tree, number());
            self.newest(&runs.0[from..], |key, value| {
                // Below the oldest run there is nothing left that a removal could hide.
                if from > 0 || value.is_some() { writer.push(key, value) } else { Ok(()) }
            })?;
            merged.extend(runs.0.drain(from..).map(|run| run.number));
            runs.0.extend(writer.finish(level)?);
        }
        Ok(merged)
    }

    fn due(&self, runs: &[Run]) -> Option<usize> {
        let from = runs.len().checked_sub(FAN_IN)?;
        let group = &runs[from..];
        let same = group.iter().all(|run| run.level == group[0].level);
        let entries: u64 = group.iter().map(|run| run.entries).sum();
        (same && entries <= self.merge_limit).then_some(from)
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<(), sled::Error> {
        self.tree.clear()
    }

    /// Removes a run's pages.
    pub fn remove(&self, number: u64) -> Result<(), sled::Error> {
        for page in self.tree.scan_prefix(number.to_be_bytes()).keys() {
            self.tree.remove(page?)?;
        }
        Ok(())
    }

    /// Removes what is no run's of `runs`: a stop between writing a run and making it hold left it.
    pub fn remove_others(&self, runs: &Runs) -> Result<(), sled::Error> {
        let mut from = 0u64;
        while let Some(page) = self.tree.range(from.to_be_bytes()..).keys().next() {
            let Some(number) = page?.first_chunk().copied().map(u64::from_be_bytes) else { break };
            if !runs.0.iter().any(|run| run.number == number) {
                self.remove(number)?;
            }
            let Some(next) = number.checked_add(1) else { break };
            from = next;
        }
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, runs: &Runs, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error> {
        for run in runs.0.iter().rev() {
            let first = run.number.to_be_bytes();
            let last = [&first[..], key].concat();
            let Some(page) = self.tree.range(&first[..]..=&last[..]).next_back() else { continue };
            let (_, page) = page?;
            let found = entries(&page).find(|(at, _)| page[at.clone()] >= *key);
            if let Some((_, value)) = found.filter(|(at, _)| page[at.clone()] == *key) {
                return Ok(value.map(|value| page[value].to_vec()));
            }
        }
        Ok(None)
    }

    /// Shows the entries of a range of keys from the last back, until `each` says false. For keys that come in their own
    /// order and once: whatever is in a newer run is greater than what is in an older one.
    pub fn back(
        &self,
        runs: &Runs,
        keys: Range<&[u8]>,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), sled::Error> {
        for run in runs.0.iter().rev() {
            let prefix = run.number.to_be_bytes();
            let end = [&prefix[..], keys.end].concat();
            for page in self.tree.range(&prefix[..]..&end[..]).rev() {
                let (first, page) = page?;
                let inside: Vec<Range<usize>> =
                    entries(&page).map(|(key, _)| key).filter(|key| keys.contains(&&page[key.clone()])).collect();
                if inside.into_iter().rev().any(|key| !each(&page[key])) {
                    return Ok(());
                }
                if first[prefix.len()..] <= *keys.start {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Shows every key with its newest value, in order.
    pub fn all(&self, runs: &Runs, each: impl FnMut(&[u8], Option<&[u8]>) -> Outcome) -> Outcome {
        self.newest(&runs.0, each)
    }

    fn newest(&self, runs: &[Run], mut each: impl FnMut(&[u8], Option<&[u8]>) -> Outcome) -> Outcome {
        let mut cursors = Vec::with_capacity(runs.len());
        for run in runs.iter().rev() {
            cursors.push(Cursor::new(&self.tree, run.number)?);
        }
        loop {
            // Of equal keys the first cursor's counts, which is the newest.
            let least = cursors.iter().filter_map(Cursor::current).reduce(|a, b| if b.0 < a.0 { b } else { a });
            let Some((key, value)) = least else { return Ok(()) };
            each(key, value)?;
            let key = key.to_vec();
            for cursor in &mut cursors {
                if cursor.current().is_some_and(|(at, _)| at == key) {
                    cursor.advance()?;
                }
            }
        }
    }
}

type Outcome = Result<(), sled::Error>;

/// Where key and value of an entry are in its page.
type Entry = (Range<usize>, Option<Range<usize>>);

/// The entries of a page, up to the first that is not readable.
fn entries(page: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (entry, next) = entry_at(page, at)?;
        at = next;
        Some(entry)
    })
}

fn entry_at(page: &[u8], at: usize) -> Option<(Entry, usize)> {
    let number = |at: usize| page.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (key_len, value_len) = (number(at)? as usize, number(at + 4)?);
    let key = at + 8..(at + 8).checked_add(key_len)?;
    let value = (value_len != REMOVED).then_some(key.end..key.end.checked_add(value_len as usize)?);
    let end = value.as_ref().map_or(key.end, |value| value.end);
    (end <= page.len()).then_some(((key, value), end))
}

/// Goes through a run.
struct Cursor {
    pages: sled::Iter,
    page: IVec,
    /// The entry it stands at, and where the next one begins.
    entry: Option<Entry>,
    next: usize,
}

impl Cursor {
    fn new(tree: &Tree, number: u64) -> Result<Cursor, sled::Error> {
        let pages = tree.scan_prefix(number.to_be_bytes());
        let mut cursor = Cursor { pages, page: IVec::default(), entry: None, next: 0 };
        cursor.advance()?;
        Ok(cursor)
    }

    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let (key, value) = self.entry.clone()?;
        Some((&self.page[key], value.map(|value| &self.page[value])))
    }

    fn advance(&mut self) -> Outcome {
        loop {
            if let Some((entry, next)) = entry_at(&self.page, self.next) {
                (self.entry, self.next) = (Some(entry), next);
                return Ok(());
            }
            self.entry = None;
            let Some(page) = self.pages.next() else { return Ok(()) };
            (self.page, self.next) = (page?.1, 0);
        }
    }
}

/// Writes a run.
struct Writer<'a> {
    tree: &'a Tree,
    number: u64,
    entries: u64,
    /// Where the page will stand, and the page.
    place: Vec<u8>,
    page: Vec<u8>,
}

impl Writer<'_> {
    fn new(tree: &Tree, number: u64) -> Writer<'_> {
        Writer { tree, number, entries: 0, place: Vec::new(), page: Vec::with_capacity(2 * PAGE_BYTES) }
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Outcome {
        if self.page.is_empty() {
            self.place = [&self.number.to_be_bytes(), key].concat();
        }
        let value_len = value.map_or(REMOVED, |value| value.len() as u32);
        self.page.extend_from_slice(&(key.len() as u32).to_be_bytes());
        self.page.extend_from_slice(&value_len.to_be_bytes());
        self.page.extend_from_slice(key);
        self.page.extend_from_slice(value.unwrap_or_default());
        self.entries += 1;
        if self.page.len() >= PAGE_BYTES { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Outcome {
        self.tree.insert(&self.place, self.page.as_slice())?;
        self.page.clear();
        Ok(())
    }

    /// The run, unless it is empty.
    fn finish(mut self, level: u32) -> Result<Option<Run>, sled::Error> {
        if !self.page.is_empty() {
            self.close()?;
        }
        Ok((self.entries > 0).then_some(Run { number: self.number, level, entries: self.entries }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    fn table(merge_limit: u64) -> (Table, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Table::new(sled::open(dir.path()).unwrap().open_tree("table").unwrap(), merge_limit), dir)
    }

    fn numbers(runs: &Runs) -> Vec<u64> {
        runs.0.iter().map(|run| run.number).collect()
    }

    /// What a table says of itself.
    fn content(table: &Table, runs: &Runs) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut last = Vec::new();
        table
            .all(runs, |key, value| {
                assert!(last.is_empty() || last.as_slice() < key, "in order and once");
                last = key.to_vec();
                all.extend(value.map(|value| (key.to_vec(), value.to_vec())));
                Ok(())
            })
            .unwrap();
        all
    }

    /// Additions, overwritings and removals over hundreds of runs: the table holds what a map does.
    #[test]
    fn a_table_of_runs_holds_what_a_map_holds() {
        let (table, _dir) = table(u64::MAX);
        let (mut runs, mut map) = (Runs::default(), BTreeMap::new());
        let (mut seed, mut number) = (7u64, 0);
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let mut batch: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            for _ in 0..random(60) {
                let key = random(500).to_be_bytes()[6..].to_vec();
                let value = (random(3) > 0).then(|| vec![random(256) as u8; random(300) as usize]);
                batch.insert(key, value);
            }
            number += 1;
            table.add(&mut runs, number, batch.iter().map(|(k, v)| (k.as_slice(), v.as_deref()))).unwrap();
            for (key, value) in batch {
                match value {
                    Some(value) => drop(map.insert(key, value)),
                    None => drop(map.remove(&key)),
                }
            }
            let next = || {
                number += 1;
                number
            };
            for old in table.merge(&mut runs, next).unwrap() {
                table.remove(old).unwrap();
            }
            assert!(runs.0.len() <= 4 * FAN_IN);
        }
        assert_eq!(content(&table, &runs), map);
        for key in 0..500u64 {
            let key = &key.to_be_bytes()[6..];
            assert_eq!(table.get(&runs, key).unwrap().as_ref(), map.get(key));
        }
        let pages = table.tree.iter().keys().map(|page| u64::from_be_bytes(*page.unwrap().first_chunk().unwrap()));
        assert!(pages.into_iter().all(|page| numbers(&runs).contains(&page)), "merged runs are gone");
    }

    #[test]
    fn what_grows_is_read_from_its_end_back() {
        let (table, _dir) = table(1000);
        let mut runs = Runs::default();
        let key = |group: u8, i: u64| [&[group][..], &i.to_be_bytes()].concat();
        let mut number = 0;
        for batch in 0..100u64 {
            let mut keys: Vec<Vec<u8>> =
                (batch * 30..batch * 30 + 30).flat_map(|i| [key(1, i), key(2, i), key(3, i)]).collect();
            keys.sort();
            number += 1;
            table.add(&mut runs, number, keys.iter().map(|key| (key.as_slice(), Some(&[][..])))).unwrap();
            let next = || {
                number += 1;
                number
            };
            table.merge(&mut runs, next).unwrap();
        }
        assert!(runs.0.iter().all(|run| run.entries <= 1000) && runs.0.len() > 8, "{runs:?}");
        let mut seen = Vec::new();
        let range = |from, to| (key(2, from), key(2, to));
        let (start, end) = range(10, 2900);
        table
            .back(&runs, &start..&end, |key| {
                seen.push(key.to_vec());
                true
            })
            .unwrap();
        let expected: Vec<Vec<u8>> = (10..2900).rev().map(|i| key(2, i)).collect();
        assert_eq!(seen, expected);
        let mut count = 0;
        table
            .back(&runs, &start..&end, |_| {
                count += 1;
                count < 5
            })
            .unwrap();
        assert_eq!(count, 5);
    }

    #[test]
    fn a_run_that_never_came_to_hold_is_removed() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        for number in [3, 5, 9] {
            table.add(&mut runs, number, [(&b"key"[..], Some(&b"value"[..]))].into_iter()).unwrap();
        }
        runs.0.remove(1);
        table.remove_others(&runs).unwrap();
        assert_eq!(table.tree.len(), 2);
        assert_eq!(numbers(&runs), [3, 9]);
    }

    #[test]
    fn a_page_that_is_cut_off_anywhere_is_read_as_far_as_it_goes() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        let both = [(&b"a"[..], Some(&b"1"[..])), (&b"b"[..], None)];
        table.add(&mut runs, 1, both.into_iter()).unwrap();
        let (place, page) = table.tree.first().unwrap().unwrap();
        for len in 0..page.len() {
            table.tree.insert(&place, &page[..len]).unwrap();
            assert_eq!(content(&table, &runs).len(), usize::from(len >= 10));
        }
    }
}

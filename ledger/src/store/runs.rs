//! A table of sorted runs, a file each (`runfile.rs`): a log-structured merge tree (O'Neil and others, 1996). What is added
//! together becomes one sorted run, and [`FAN_IN`] runs of a level are merged into one of the next. An entry then costs its
//! share of a few page writes, where a B-tree looks for the place of each by itself.
//!
//! The table does not keep which runs it has; its owner does, so that this changes at once with what else must. An owner who
//! keeps some on disk syncs the folder before, and removes the files of others only once they are no longer kept there.
//! Whoever reads holds runs of its own: their files stay readable until it is done, whatever is merged or removed meanwhile.

pub use super::runfile::Entry;
use super::runfile::{RunFile, Writer, merged};
use ailo_protocol::canonical::{Decode, Encode};
use std::{
    fs, io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Runs of a level that are merged.
pub const FAN_IN: usize = 16;

/// A table of sorted runs.
pub struct Table {
    folder: PathBuf,
    /// Runs of more entries together are not merged.
    merge_limit: u64,
}

/// The runs of a table, the oldest first; of several entries with one key, the newest run's holds.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<OpenRun>);

#[derive(Clone, Debug)]
struct OpenRun {
    run: Run,
    file: Arc<RunFile>,
}

/// A run as its owner keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    number: u64,
    level: u32,
    entries: u64,
    /// Heights of the first and of the last block that it is of.
    lowest: u64,
    highest: u64,
}

impl Runs {
    /// What is kept of them.
    pub fn list(&self) -> Vec<Run> {
        self.0.iter().map(|open| open.run).collect()
    }

    fn files(runs: &[OpenRun]) -> Vec<&RunFile> {
        runs.iter().rev().map(|open| &*open.file).collect()
    }
}

impl Run {
    /// Its number, which is its file's name.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Table {
    /// A table whose runs are in a folder, which it may share with other tables.
    pub fn new(folder: &Path, merge_limit: u64) -> Table {
        Table { folder: folder.into(), merge_limit }
    }

    /// Opens runs that were kept; fails if one is missing, or damaged elsewhere than in its pages.
    pub fn open(&self, kept: Vec<Run>) -> io::Result<Runs> {
        let open = |run: Run| {
            let file = RunFile::open(&path(&self.folder, run.number), run.number)?;
            if file.entries() != run.entries {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("run {} is another", run.number)));
            }
            Ok(OpenRun { run, file: Arc::new(file) })
        };
        Ok(Runs(kept.into_iter().map(open).collect::<io::Result<_>>()?))
    }

    /// Writes a run of entries, which are in order of their keys and of the blocks of these heights; `None` removes a key.
    /// `number` is no other run's.
    pub fn add<'a>(
        &self,
        runs: &mut Runs,
        number: u64,
        heights: RangeInclusive<u64>,
        mut entries: impl Iterator<Item = Entry<'a>>,
    ) -> io::Result<()> {
        let mut writer = Writer::create(&path(&self.folder, number), number)?;
        entries.try_for_each(|entry| writer.push(entry))?;
        runs.0.extend(finish(
            writer,
            Run { number, level: 0, entries: 0, lowest: *heights.start(), highest: *heights.end() },
        )?);
        Ok(())
    }

    /// Merges the newest runs under the next number while there are enough of their level; `runs` are then those that
    /// hold, and the numbers that are given back are of those that do so no more.
    pub fn merge(&self, runs: &mut Runs, mut number: impl FnMut() -> u64) -> io::Result<Vec<u64>> {
        let mut old = Vec::new();
        while let Some(from) = self.due(&runs.0) {
            let number = number();
            let mut writer = Writer::create(&path(&self.folder, number), number)?;
            merged(&Runs::files(&runs.0[from..]), |key, value| {
                // Below the oldest run there is nothing left that a removal could hide.
                if from > 0 || value.is_some() { writer.push((key, value)) } else { Ok(()) }
            })?;
            let group: Vec<Run> = runs.0.drain(from..).map(|open| open.run).collect();
            let level = group.iter().map(|run| run.level + 1).max().unwrap_or_default();
            let lowest = group.iter().map(|run| run.lowest).min().unwrap_or_default();
            let highest = group.iter().map(|run| run.highest).max().unwrap_or_default();
            old.extend(group.iter().map(Run::number));
            runs.0.extend(finish(writer, Run { number, level, entries: 0, lowest, highest })?);
        }
        Ok(old)
    }

    fn due(&self, runs: &[OpenRun]) -> Option<usize> {
        let from = runs.len().checked_sub(FAN_IN)?;
        let group = &runs[from..];
        let same = group.iter().all(|open| open.run.level == group[0].run.level);
        let entries: u64 = group.iter().map(|open| open.run.entries).sum();
        (same && entries <= self.merge_limit).then_some(from)
    }

    /// Drops the oldest runs, as many as are of blocks below a height alone; gives their numbers.
    pub fn drop_before(&self, runs: &mut Runs, height: u64) -> Vec<u64> {
        let count = runs.0.iter().take_while(|open| open.run.highest < height).count();
        runs.0.drain(..count).map(|open| open.run.number).collect()
    }

    /// The value of a key; where the key is of one block alone, only runs of that block's height are looked into.
    pub fn get(&self, runs: &Runs, key: &[u8], height: Option<u64>) -> io::Result<Option<Vec<u8>>> {
        for OpenRun { run, file } in runs.0.iter().rev() {
            if height.is_some_and(|height| !(run.lowest..=run.highest).contains(&height)) {
                continue;
            }
            let Some((_, page)) = file.find(key)? else { continue };
            if let Some((_, value)) = page.entries().find(|(at, _)| *at >= key).filter(|(at, _)| *at == key) {
                return Ok(value.map(<[u8]>::to_vec));
            }
        }
        Ok(None)
    }

    /// Shows the entries of a range of keys from the last back, until `each` says false. For keys that come in their own
    /// order and once: whatever is in a newer run is greater than what is in an older one.
    pub fn back(&self, runs: &Runs, keys: Range<&[u8]>, mut each: impl FnMut(Entry<'_>) -> bool) -> io::Result<()> {
        for OpenRun { file, .. } in runs.0.iter().rev() {
            let mut found = file.find(keys.end)?;
            while let Some((number, page)) = found {
                let inside: Vec<Entry<'_>> = page.entries().filter(|(key, _)| keys.contains(key)).collect();
                if inside.into_iter().rev().any(|entry| !each(entry)) {
                    return Ok(());
                }
                let before = number.checked_sub(1).filter(|_| page.first_key() > keys.start);
                found = before.map(|before| file.page(before).map(|page| (before, page))).transpose()?;
            }
        }
        Ok(())
    }

    /// The same from the first on; runs of blocks below a height alone are not looked into.
    pub fn forward(
        &self,
        runs: &Runs,
        height: u64,
        keys: Range<&[u8]>,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> io::Result<()> {
        for OpenRun { file, .. } in runs.0.iter().filter(|open| open.run.highest >= height) {
            let first = file.find(keys.start)?;
            let mut next = if first.is_some() { first } else { Some((0, file.page(0)?)) };
            while let Some((number, page)) = next.filter(|(_, page)| page.first_key() < keys.end) {
                if page.entries().filter(|(key, _)| keys.contains(key)).any(|entry| !each(entry)) {
                    return Ok(());
                }
                let after = (number + 1 < file.pages()).then_some(number + 1);
                next = after.map(|after| file.page(after).map(|page| (after, page))).transpose()?;
            }
        }
        Ok(())
    }

    /// Shows every key with its newest value, in order.
    pub fn all(&self, runs: &Runs, each: impl FnMut(&[u8], Option<&[u8]>) -> io::Result<()>) -> io::Result<()> {
        merged(&Runs::files(&runs.0), each)
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(number.to_string())
}

/// The run that was written, unless it is empty.
fn finish(writer: Writer, run: Run) -> io::Result<Option<OpenRun>> {
    let file = writer.finish()?;
    Ok(file.map(|file| OpenRun { run: Run { entries: file.entries(), ..run }, file: Arc::new(file) }))
}

/// Removes a run's file from a folder.
pub fn remove(folder: &Path, number: u64) -> io::Result<()> {
    fs::remove_file(path(folder, number))
}

/// The numbers of all files of a folder: of runs that are kept, and of what a stop before keeping them has left.
pub fn found(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    fn table(merge_limit: u64) -> (Table, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Table::new(dir.path(), merge_limit), dir)
    }

    fn numbers(runs: &Runs) -> Vec<u64> {
        runs.list().iter().map(Run::number).collect()
    }

    fn files(table: &Table) -> Vec<u64> {
        let mut files = found(&table.folder).unwrap();
        files.sort_unstable();
        files
    }

    /// Adds a run of one entry.
    fn add_one(table: &Table, runs: &mut Runs, number: u64, heights: RangeInclusive<u64>, key: &[u8]) {
        table.add(runs, number, heights, [(key, Some(&b"value"[..]))].into_iter()).unwrap();
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
            table.add(&mut runs, number, 0..=0, batch.iter().map(|(k, v)| (k.as_slice(), v.as_deref()))).unwrap();
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
                remove(&table.folder, old).unwrap();
            }
            assert!(runs.0.len() <= 4 * FAN_IN);
        }
        assert_eq!(content(&table, &runs), map);
        for key in 0..500u64 {
            let key = &key.to_be_bytes()[6..];
            assert_eq!(table.get(&runs, key, None).unwrap().as_ref(), map.get(key));
        }
        assert_eq!(files(&table), numbers(&runs), "merged runs are gone");
        let again = table.open(runs.list()).unwrap();
        assert_eq!((again.list(), content(&table, &again)), (runs.list(), map));
    }

    #[test]
    fn what_grows_is_read_from_its_end_back_and_from_its_beginning_on() {
        let (table, _dir) = table(1000);
        let mut runs = Runs::default();
        let key = |group: u8, i: u64| [&[group][..], &i.to_be_bytes()].concat();
        let mut number = 0;
        for batch in 0..100u64 {
            let mut keys: Vec<Vec<u8>> =
                (batch * 30..batch * 30 + 30).flat_map(|i| [key(1, i), key(2, i), key(3, i)]).collect();
            keys.sort();
            number += 1;
            table
                .add(&mut runs, number, batch..=batch, keys.iter().map(|key| (key.as_slice(), Some(&[][..]))))
                .unwrap();
            let next = || {
                number += 1;
                number
            };
            table.merge(&mut runs, next).unwrap();
        }
        assert!(runs.list().iter().all(|run| run.entries <= 1000) && runs.0.len() > 8, "{runs:?}");
        let mut seen = Vec::new();
        let range = |from, to| (key(2, from), key(2, to));
        let (start, end) = range(10, 2900);
        table
            .back(&runs, &start..&end, |(key, _)| {
                seen.push(key.to_vec());
                true
            })
            .unwrap();
        let expected: Vec<Vec<u8>> = (10..2900).rev().map(|i| key(2, i)).collect();
        assert_eq!(seen, expected);
        seen.clear();
        table
            .forward(&runs, 0, &start..&end, |(key, _)| {
                seen.push(key.to_vec());
                true
            })
            .unwrap();
        assert!(seen.iter().rev().eq(&expected));
        seen.clear();
        table
            .forward(&runs, 50, &key(2, 50 * 30)..&end, |(key, _)| {
                seen.push(key.to_vec());
                seen.len() < 70
            })
            .unwrap();
        assert_eq!(seen, (1500..1570).map(|i| key(2, i)).collect::<Vec<_>>());
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
    fn who_reads_goes_on_while_runs_are_merged_and_removed() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        for number in 0..FAN_IN as u64 {
            add_one(&table, &mut runs, number, 0..=0, &number.to_be_bytes());
        }
        let mut merging = runs.clone();
        let mut seen = Vec::new();
        let each = |key: &[u8], _: Option<&[u8]>| {
            seen.push(u64::from_be_bytes(*key.first_chunk().unwrap()));
            if seen.len() == 3 {
                for old in table.merge(&mut merging, || 100).unwrap() {
                    remove(&table.folder, old).unwrap();
                }
            }
            Ok(())
        };
        table.all(&runs, each).unwrap();
        assert_eq!(seen, (0..FAN_IN as u64).collect::<Vec<u64>>());
        assert_eq!((files(&table), numbers(&merging)), (vec![100], vec![100]));
        assert!(table.get(&runs, &7u64.to_be_bytes(), None).unwrap().is_some());
        assert_eq!(content(&table, &merging), content(&table, &runs));
    }

    #[test]
    fn the_oldest_runs_are_dropped_by_height() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        for number in 1..=20 {
            add_one(&table, &mut runs, number, number * 10..=number * 10 + 9, &number.to_be_bytes());
            table.merge(&mut runs, || 100).unwrap();
        }
        let heights = |runs: &Runs| runs.list().iter().map(|run| (run.lowest, run.highest)).collect::<Vec<_>>();
        assert_eq!(heights(&runs), [(10, 169), (170, 179), (180, 189), (190, 199), (200, 209)]);
        assert!(table.drop_before(&mut runs, 169).is_empty());
        assert_eq!(table.drop_before(&mut runs, 185), [100, 17]);
        assert_eq!(heights(&runs), [(180, 189), (190, 199), (200, 209)]);
        assert_eq!(table.get(&runs, &17u64.to_be_bytes(), None).unwrap(), None);
        assert!(table.get(&runs, &18u64.to_be_bytes(), None).unwrap().is_some());
        assert!(table.get(&runs, &18u64.to_be_bytes(), Some(185)).unwrap().is_some());
        assert_eq!(table.get(&runs, &18u64.to_be_bytes(), Some(195)).unwrap(), None, "looked into no other run");
        assert_eq!(table.drop_before(&mut runs, u64::MAX), [18, 19, 20]);
        assert_eq!(content(&table, &runs).len(), 0);
    }

    /// Keys that begin alike for longer than the directory tells, shorter ones, and such that are not there.
    #[test]
    fn a_key_is_found_whatever_page_it_is_on() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        let mut keys: Vec<Vec<u8>> = (0..3000u64)
            .flat_map(|i| [[&[1; 20][..], &i.to_be_bytes()].concat(), [&i.to_be_bytes()[5..], &[7; 30]].concat()])
            .collect();
        keys.extend((0..24).map(|length| vec![1; length]));
        keys.extend((0..24).map(|length| [&[1; 8][..], &vec![0; length]].concat()));
        keys.sort();
        keys.dedup();
        table.add(&mut runs, 1, 0..=0, keys.iter().map(|key| (key.as_slice(), Some(key.as_slice())))).unwrap();
        for key in &keys {
            assert_eq!(table.get(&runs, key, None).unwrap().as_ref(), Some(key));
            let other = [key.as_slice(), &[0, 0]].concat();
            let expected = keys.binary_search(&other).ok().map(|_| other.clone());
            assert_eq!(table.get(&runs, &other, None).unwrap(), expected);
        }
        let mut seen = Vec::new();
        let (from, to) = (vec![1; 20], vec![1; 21]);
        let each = |(key, _): Entry<'_>| {
            seen.push(key.to_vec());
            true
        };
        table.forward(&runs, 0, &from..&to, each).unwrap();
        assert!(seen.iter().eq(keys.iter().filter(|key| **key >= from && **key < to)));
    }

    /// Whatever byte of a run is another, and wherever it is cut off: at opening, or when the page is read, it is said.
    #[test]
    fn a_damaged_run_is_an_error_and_never_read() {
        let (table, _dir) = table(u64::MAX);
        let mut runs = Runs::default();
        let keys: Vec<[u8; 8]> = (0..200u64).map(u64::to_be_bytes).collect();
        let value = [7; 100];
        table.add(&mut runs, 5, 0..=0, keys.iter().map(|key| (&key[..], Some(&value[..])))).unwrap();
        let (file, kept) = (path(&table.folder, 5), runs.list());
        let good = fs::read(&file).unwrap();
        let read = || {
            let runs = table.open(kept.clone())?;
            table.all(&runs, |_, _| Ok(()))
        };
        read().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, bad).unwrap();
            assert_eq!(read().unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        for len in (0..good.len()).step_by(7) {
            fs::write(&file, &good[..len]).unwrap();
            assert!(table.open(kept.clone()).is_err(), "cut off at {len}");
        }
        fs::write(&file, &good).unwrap();
        fs::rename(&file, path(&table.folder, 6)).unwrap();
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(table.open(vec![Run { number: 6, ..kept[0] }]).is_err(), "another run's file");
        // Damage that comes after the opening.
        let mut bad = good.clone();
        fs::write(&file, &good).unwrap();
        let open = table.open(kept.clone()).unwrap();
        bad[100] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert_eq!(table.get(&open, &keys[1], None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(table.back(&open, &keys[0]..&keys[9], |_| true).is_err());
    }
}

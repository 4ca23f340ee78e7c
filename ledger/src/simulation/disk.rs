//! A disk that fails as disks do. Writes are visible at once and certain only after a sync: a process that is killed
//! loses nothing that it wrote, a power loss drops what was not synced, or keeps it, or tears it: some sectors arrive,
//! others do not, and the file has any length between. A trap ends the node's life inside an operation.

use crate::disk::{Disk, DiskFile};
use ailo_protocol::hash::Stream;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Smaller than real ones, so that short frames tear too.
const SECTOR: usize = 64;

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process dies; the machine goes on.
    Kill,
    /// The machine dies.
    PowerLoss,
}

/// Where in an operation a trap springs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it has happened.
    Before,
    /// A part of what is written has arrived.
    Amid,
    /// All has happened, and nobody hears of it.
    After,
}

/// Ends the node in one of its next operations.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Operations until then.
    pub operations: u64,
    /// Where in that one.
    pub moment: Moment,
    /// How.
    pub end: End,
}

/// A simulated disk; copies are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    trap: Option<Trap>,
    /// The node's life ended in an operation; all that follow fail until it starts again.
    sprung: Option<End>,
}

#[derive(Debug, Default)]
struct File {
    contents: Vec<u8>,
    synced: Vec<u8>,
}

/// One file of it.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    file: usize,
}

/// What to do with the operation at hand.
enum Go {
    On,
    Amid,
    Stop,
    ThenStop,
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a trap, or takes it away.
    pub fn set_trap(&self, trap: Option<Trap>) {
        self.lock().trap = trap;
    }

    /// How the node's life has ended in an operation, if it has.
    pub fn sprung(&self) -> Option<End> {
        self.lock().sprung
    }

    /// Whether this is a file.
    pub fn has(&self, path: &Path) -> bool {
        self.lock().names.contains_key(path)
    }

    /// The node's life is over; the disk is as the next one finds it.
    pub fn end(&self, end: End, random: &mut Stream) {
        let mut inner = self.lock();
        (inner.trap, inner.sprung) = (None, None);
        if end == End::PowerLoss {
            inner.lose_power(random);
        }
    }
}

#[cfg(test)]
impl SimDisk {
    /// Whether a trap is set that has not sprung.
    pub fn has_trap(&self) -> bool {
        self.lock().trap.is_some()
    }

    /// Removes a file for good, as an operator may.
    pub fn lose(&self, path: &Path) {
        let mut inner = self.lock();
        inner.names.remove(path);
        inner.synced_names.remove(path);
    }

    /// All synced files.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let inner = self.lock();
        inner.synced_names.iter().map(|(path, file)| (path.clone(), inner.files[*file].synced.clone())).collect()
    }

    /// Puts a file in place, synced.
    pub fn restore(&self, path: &Path, contents: Vec<u8>) {
        let mut inner = self.lock();
        inner.files.push(File { synced: contents.clone(), contents });
        let file = inner.files.len() - 1;
        inner.names.insert(path.into(), file);
        inner.synced_names.insert(path.into(), file);
    }
}

impl Inner {
    fn lose_power(&mut self, random: &mut Stream) {
        let paths: Vec<PathBuf> = self.names.keys().chain(self.synced_names.keys()).cloned().collect();
        for path in paths {
            let (new, old) = (self.names.get(&path).copied(), self.synced_names.get(&path).copied());
            if new != old && random.below(2) == 0 {
                match old {
                    Some(old) => self.names.insert(path, old),
                    None => self.names.remove(&path),
                };
            }
        }
        self.synced_names = self.names.clone();
        for file in &mut self.files {
            file.lose_power(random);
        }
    }

    fn operation(&mut self) -> Go {
        if self.sprung.is_some() {
            return Go::Stop;
        }
        let Some(trap) = &mut self.trap else { return Go::On };
        if trap.operations > 0 {
            trap.operations -= 1;
            return Go::On;
        }
        let Trap { moment, end, .. } = *trap;
        (self.trap, self.sprung) = (None, Some(end));
        match moment {
            Moment::Before => Go::Stop,
            Moment::Amid => Go::Amid,
            Moment::After => Go::ThenStop,
        }
    }
}

impl File {
    fn lose_power(&mut self, random: &mut Stream) {
        if self.contents != self.synced {
            match random.below(4) {
                0 => self.contents = self.synced.clone(),
                1 => {}
                _ => self.tear(random),
            }
        }
        self.synced = self.contents.clone();
    }

    /// Some of the sectors that differ arrive, and the file has a length between what was synced and what was written.
    fn tear(&mut self, random: &mut Stream) {
        let (old, new) = (self.synced.len(), self.contents.len());
        if new < old {
            return; // a cut is one operation: it has happened or not
        }
        // A file's length may arrive before what stands in it.
        let length = if random.below(2) == 0 { new } else { old + random.below((new - old) as u64 + 1) as usize };
        let mut torn = self.synced.clone();
        torn.resize(length, 0);
        for (sector, arrives) in (0..length).step_by(SECTOR).map(|at| (at, random.below(2) == 0)) {
            let end = (sector + SECTOR).min(length);
            if arrives {
                torn[sector..end].copy_from_slice(&self.contents[sector..end]);
            }
        }
        self.contents = torn;
    }
}

fn ended() -> io::Error {
    io::Error::other("the node's life ended here")
}

impl Handle {
    /// Makes a change, unless the node's life ends before it; `part` makes a part of it.
    fn change(&self, whole: impl Fn(&mut File), part: impl Fn(&mut File)) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let go = inner.operation();
        let file = &mut inner.files[self.file];
        match go {
            Go::Stop => Err(ended()),
            Go::Amid => {
                part(file);
                Err(ended())
            }
            Go::ThenStop => {
                whole(file);
                Err(ended())
            }
            Go::On => {
                whole(file);
                Ok(())
            }
        }
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.file].contents.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.lock();
        let contents = &inner.files[self.file].contents;
        let left = contents.get(offset as usize..).unwrap_or_default();
        let n = left.len().min(buffer.len());
        buffer[..n].copy_from_slice(&left[..n]);
        Ok(n)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |file: &mut File, bytes: &[u8]| {
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            if file.contents.len() < end {
                file.contents.resize(end, 0);
            }
            file.contents[start..end].copy_from_slice(bytes);
        };
        self.change(|file| write(file, bytes), |file| write(file, &bytes[..bytes.len() / 2]))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|file| file.contents.resize(length as usize, 0), |_| {})
    }

    fn sync(&self) -> io::Result<()> {
        self.change(
            |file| {
                // Most syncs follow one append.
                let kept = file.synced.len();
                if file.contents.len() > kept && file.contents[..kept] == file.synced[..] {
                    file.synced.extend_from_slice(&file.contents[kept..]);
                } else {
                    file.synced = file.contents.clone();
                }
            },
            |_| {},
        )
    }
}

impl Disk for SimDisk {
    fn exists(&self, path: &Path) -> bool {
        self.has(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.lock().names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Handle { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.lock();
        let go = inner.operation();
        if matches!(go, Go::Stop | Go::Amid) {
            return Err(ended());
        }
        inner.files.push(File::default());
        let file = inner.files.len() - 1;
        inner.names.insert(path.into(), file);
        if matches!(go, Go::ThenStop) {
            return Err(ended());
        }
        drop(inner);
        Ok(Box::new(Handle { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let go = inner.operation();
        if matches!(go, Go::Stop | Go::Amid) {
            return Err(ended());
        }
        let file = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.into(), file);
        if matches!(go, Go::ThenStop) { Err(ended()) } else { Ok(()) }
    }

    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(()) // folders are parts of names here
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.lock().names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let go = inner.operation();
        if matches!(go, Go::Stop | Go::Amid) {
            return Err(ended());
        }
        inner.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if matches!(go, Go::ThenStop) { Err(ended()) } else { Ok(()) }
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let go = inner.operation();
        if matches!(go, Go::Stop | Go::Amid) {
            return Err(ended());
        }
        inner.synced_names = inner.names.clone();
        if matches!(go, Go::ThenStop) { Err(ended()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::{Hash, hash::Domain};

    fn random(seed: u64) -> Stream {
        Hash::of(Domain::Lot, &seed.to_le_bytes()).stream()
    }

    fn contents(disk: &SimDisk) -> Vec<u8> {
        let file = disk.open(Path::new("f")).unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// A file with 1000 synced bytes and 1000 that are not.
    fn half_synced() -> SimDisk {
        let disk = SimDisk::default();
        let file = disk.create(Path::new("f")).unwrap();
        disk.sync_folder(Path::new("")).unwrap();
        file.write_all_at(&[1; 1000], 0).unwrap();
        file.sync().unwrap();
        file.write_all_at(&[2; 1000], 1000).unwrap();
        disk
    }

    #[test]
    fn a_killed_process_loses_nothing_and_a_power_loss_only_what_was_not_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let disk = half_synced();
            disk.end(End::Kill, &mut random(seed));
            assert_eq!(contents(&disk), [[1; 1000], [2; 1000]].concat());
            disk.end(End::PowerLoss, &mut random(seed));
            let left = contents(&disk);
            assert_eq!(left[..1000], [1; 1000]);
            assert!(left[1000..].iter().all(|byte| [0, 2].contains(byte)));
            seen.insert(match &left[1000..] {
                [] => "dropped",
                rest if rest == [2; 1000] => "kept",
                _ => "torn",
            });
            disk.end(End::PowerLoss, &mut random(seed + 1000));
            assert_eq!(contents(&disk), left, "what was found after the loss stays");
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }

    #[test]
    fn a_new_name_may_be_lost_until_the_folder_is_synced() {
        let lost = (0..20).filter(|seed| {
            let disk = half_synced();
            disk.rename(Path::new("f"), Path::new("g")).unwrap();
            disk.end(End::PowerLoss, &mut random(*seed));
            !disk.has(Path::new("g"))
        });
        assert!((1..20).contains(&lost.count()));
        let disk = half_synced();
        disk.rename(Path::new("f"), Path::new("g")).unwrap();
        disk.sync_folder(Path::new("")).unwrap();
        disk.end(End::PowerLoss, &mut random(0));
        assert!(disk.has(Path::new("g")) && !disk.has(Path::new("f")));
    }

    #[test]
    fn a_trap_ends_the_node_before_amid_or_after_an_operation() {
        for (moment, written) in [(Moment::Before, 0), (Moment::Amid, 500), (Moment::After, 1000)] {
            let disk = half_synced();
            disk.set_trap(Some(Trap { operations: 1, moment, end: End::Kill }));
            let file = disk.open(Path::new("f")).unwrap();
            file.sync().unwrap();
            assert!(file.write_all_at(&[3; 1000], 2000).is_err());
            assert!(file.sync().is_err() && disk.sprung() == Some(End::Kill));
            disk.end(End::Kill, &mut random(1));
            assert_eq!(contents(&disk).len(), 2000 + written);
        }
    }
}

//! The index: what of the log is where, what happened to whom, and the state's entries. Blocks are added several at once:
//! first a run to each table, then, as one batch of sled that makes them hold, what stands below.
//!
//! ```text
//! "m3"                           -> Kept: head, and the runs that hold
//! "h" height                     -> offset in the block log, block id
//! "b" block id                   -> height
//! "v" validator set's hash       -> validator set, for every one that ever was
//!
//! table of the state:    state key                         -> state entry
//! table of the archive:  "e" height, first number           -> a page of the block's events: block's time, events
//!                        "t" transaction id                -> height, position
//!                        "w" wallet, height, event's number -> what it could spend after that block, if the block says
//!                        "n" node, height, event's number   -> nothing
//!                        "r" transfer, height, event's number -> nothing
//! ```
//!
//! Integers in keys are big-endian, so that order of keys is order of heights.
//!
//! **Durability.** A run's file and its name are on disk before sled hears of it, and it is deleted only after sled has on disk
//! that it is not needed: a power loss loses the last blocks of the index, never a file that the rest of it names.
//!
//! **Descriptors.** Every run is an open file: of the state some dozens, of the archive at most 16 of each of its few levels and
//! beyond those one for more than [`ARCHIVE_RUN`]` / 16` entries on average (a transfer makes about six).

use super::{
    IndexHead as Head, StoreError,
    runs::{self, Run, Runs, Table},
};
use crate::{
    Block, Transaction,
    block::{MAX_VALIDATORS, ValidatorSet},
    state::{
        Entry, Event, Executed, Key, State,
        entry::{MAX_ENTRY_BYTES, MAX_KEY_BYTES},
    },
};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, NodeId,
    canonical::{self, Decode, Encode},
};
use sled::{Batch, Db};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Items of one page of history, at most.
pub const MAX_PAGE: usize = 100;
/// sled's cache: what is read is mostly new.
const CACHE_BYTES: u64 = 1 << 20;
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// A validator takes 40 bytes.
const MAX_SET_BYTES: usize = 8 + 40 * MAX_VALIDATORS;
/// Runs of the archive with more entries are not merged any more: a merge holds up the index for about a second.
const ARCHIVE_RUN: u64 = 1 << 20;
/// Rows of blocks that go at one time.
const FORGOTTEN: usize = 1024;
const EVENTS_PER_PAGE: usize = 32;
const MAX_EVENTS_BYTES: usize = 64 << 20;
/// Another one than that of indexes of other runs, which are made anew.
const MANIFEST: &[u8] = b"m3";

/// Whose history it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A wallet's.
    Wallet(Address),
    /// A node's.
    Node(NodeId),
    /// A transfer's: reports, what became of them, and an end other than being final ([`Event::transfer`]).
    Transfer(Hash),
}

/// A place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Height of the block.
    pub height: u64,
    /// Number of the event in that block.
    pub event: u32,
}

/// Something that happened to a wallet, a node or a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryItem {
    /// Where it stands.
    pub at: Cursor,
    /// The block's time, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
    /// In a wallet's history: what it could spend after that block, where the block changed its account.
    pub free: Option<Amount>,
}

/// A part of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The latest first.
    pub items: Vec<HistoryItem>,
    /// What to ask for next; `None` at the end.
    pub next: Option<Cursor>,
}

pub(super) struct Index {
    db: Db,
    /// sled's folder, and the runs' in it.
    folder: PathBuf,
    runs: PathBuf,
    state: Table,
    archive: Table,
    /// Height of the first block that is asked for.
    first: AtomicU64,
    /// Who reads takes what holds, and keeps it until it is done.
    manifest: RwLock<Arc<Manifest>>,
}

/// Where the index stands, and which runs make it up.
#[derive(Clone, Debug)]
struct Manifest {
    head: Head,
    state: Runs,
    archive: Runs,
    /// The last run's number.
    last: u64,
}

/// A manifest in sled.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
struct Kept {
    head: Head,
    state: Vec<Run>,
    archive: Vec<Run>,
    last: u64,
}

impl Manifest {
    fn keep(&self) -> Kept {
        Kept { head: self.head, state: self.state.list(), archive: self.archive.list(), last: self.last }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind][..], &parts.concat()].concat()
}

fn history_key(subject: &Subject, at: Cursor) -> Vec<u8> {
    let (kind, id): (u8, &[u8]) = match subject {
        Subject::Wallet(address) => (b'w', &address.0),
        Subject::Node(node) => (b'n', &node.0),
        Subject::Transfer(id) => (b'r', &id.0),
    };
    key(kind, &[id, &at.height.to_be_bytes(), &at.event.to_be_bytes()])
}

/// The place in a history that a key names, and what is kept there.
fn history_place((key, kept): runs::Entry<'_>) -> Option<(Cursor, Option<Amount>)> {
    let (rest, event) = key.split_last_chunk()?;
    let height = rest.last_chunk()?;
    let at = Cursor { height: u64::from_be_bytes(*height), event: u32::from_be_bytes(*event) };
    Some((at, value(kept, MAX_VALUE_BYTES)))
}

fn events_key(at: Cursor) -> Vec<u8> {
    key(b'e', &[&at.height.to_be_bytes(), &at.event.to_be_bytes()])
}

/// A value that this module wrote; `None` if it is not readable, as if it were not there.
fn value<T: Decode<()> + Encode>(bytes: Option<impl AsRef<[u8]>>, max: usize) -> Option<T> {
    bytes.and_then(|bytes| canonical::decode(bytes.as_ref(), max).ok())
}

/// A block as the index keeps it.
pub(super) struct Addition {
    block: Block,
    offset: u64,
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    events: Vec<Event>,
    /// The next height's validators, where they are others.
    validators: Option<ValidatorSet>,
    /// Made by whoever asks first.
    names: OnceLock<Names>,
}

/// What of a block is asked for by name.
struct Names {
    id: Hash,
    /// Where its transactions stand.
    transactions: BTreeMap<Hash, u32>,
    /// The numbers of a subject's events.
    histories: BTreeMap<Subject, Vec<u32>>,
    /// What wallets can spend after it, whose accounts it changed.
    free: BTreeMap<Address, Amount>,
}

impl Names {
    /// What the wallet can spend after the block whose history it is.
    fn free(&self, subject: &Subject) -> Option<Amount> {
        match subject {
            Subject::Wallet(address) => self.free.get(address).copied(),
            Subject::Node(_) | Subject::Transfer(_) => None,
        }
    }
}

/// What the wallet can spend whose account was written.
fn free((key, entry): &(Vec<u8>, Option<Vec<u8>>)) -> Option<(Address, Amount)> {
    let Ok(Key::Account(address)) = canonical::decode::<Key>(key, MAX_KEY_BYTES) else { return None };
    match canonical::decode::<Entry>(entry.as_deref()?, MAX_ENTRY_BYTES).ok()? {
        Entry::Account(account) => Some((address, account.free)),
        _ => None,
    }
}

impl Addition {
    /// What `block`, which stands at `offset` of the log, adds.
    pub fn new(block: &Block, offset: u64, executed: &Executed) -> Addition {
        let changed = block.header.next_validators != block.header.validators;
        Addition {
            block: block.clone(),
            offset,
            writes: executed.writes.clone(),
            events: executed.events.clone(),
            validators: changed.then(|| executed.state.validators().clone()),
            names: OnceLock::new(),
        }
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let transactions = self.block.transactions.iter().map(Transaction::id).zip(0..).collect();
            let mut histories: BTreeMap<Subject, Vec<u32>> = BTreeMap::new();
            for (number, event) in (0..).zip(&self.events) {
                let wallets = event.addresses().into_iter().map(Subject::Wallet);
                let nodes = event.nodes().into_iter().map(Subject::Node);
                for subject in wallets.chain(nodes).chain(event.transfer().copied().map(Subject::Transfer)) {
                    let numbers = histories.entry(subject).or_default();
                    if numbers.last() != Some(&number) {
                        numbers.push(number); // an event may name a wallet twice
                    }
                }
            }
            Names { id: self.block.id(), transactions, histories, free: self.writes.iter().filter_map(free).collect() }
        })
    }

    /// Where the block stands in the log.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The block's id.
    pub fn id(&self) -> Hash {
        self.names().id
    }

    /// Where a transaction stands.
    pub fn position_of(&self, transaction: &Hash) -> Option<(u64, u32)> {
        self.names().transactions.get(transaction).map(|position| (self.height(), *position))
    }

    /// The next height's validators, if they are others and have this hash.
    pub fn validators(&self, hash: &Hash) -> Option<ValidatorSet> {
        self.validators.clone().filter(|_| self.block.header.next_validators == *hash)
    }

    /// What the block adds to a history, in order.
    fn history(&self, subject: &Subject) -> impl DoubleEndedIterator<Item = HistoryItem> {
        let (height, time_ms) = (self.height(), self.block.header.time_ms);
        let numbers = self.names().histories.get(subject).map_or(&[][..], Vec::as_slice);
        let free = self.names().free(subject);
        let item = move |event: &u32| {
            let happened = self.events.get(*event as usize)?.clone();
            Some(HistoryItem { at: Cursor { height, event: *event }, time_ms, event: happened, free })
        };
        numbers.iter().filter_map(item)
    }

    /// The block's height.
    pub fn height(&self) -> u64 {
        self.block.header.height
    }

    /// Number of the block's transactions.
    pub fn transactions(&self) -> usize {
        self.block.transactions.len()
    }
}

impl Index {
    /// Opens an index that is there; `None` if what is there is none.
    pub fn open(folder: &Path) -> Result<Option<Index>, StoreError> {
        let (db, runs) = Index::parts(folder)?;
        let Some(kept) = value::<Kept>(db.get(MANIFEST)?, MAX_MANIFEST_BYTES) else { return Ok(None) };
        let (state, archive) = Index::tables(&runs);
        let open = |table: &Table, kept| table.open(kept).map_err(sled::Error::from);
        let manifest = Manifest {
            head: kept.head,
            state: open(&state, kept.state)?,
            archive: open(&archive, kept.archive)?,
            last: kept.last,
        };
        let index = Index {
            db,
            folder: folder.into(),
            runs,
            state,
            archive,
            first: AtomicU64::new(0),
            manifest: RwLock::new(Arc::new(manifest)),
        };
        index.remove_others()?;
        Ok(Some(index))
    }

    /// Makes an index, in an empty folder, that stands at the state that the log goes on from.
    pub fn create(folder: &Path, base: &State) -> Result<Index, StoreError> {
        let (db, runs) = Index::parts(folder)?;
        let (state, archive) = Index::tables(&runs);
        let head = Head::before(base);
        let mut manifest = Manifest { head, state: Runs::default(), archive: Runs::default(), last: 0 };
        let entries: BTreeMap<Vec<u8>, Vec<u8>> = base.entries().collect();
        let run = entries.iter().map(|(key, entry)| (key.as_slice(), Some(entry.as_slice())));
        let number = manifest.number();
        state.add(&mut manifest.state, number, head.height..=head.height, run).map_err(sled::Error::from)?;
        let mut batch = Batch::default();
        let set = base.validators();
        batch.insert(key(b'v', &[&set.hash().0]), canonical::encode(set));
        let nothing = RwLock::new(Arc::new(manifest.clone()));
        let index =
            Index { db, folder: folder.into(), runs, state, archive, first: AtomicU64::new(0), manifest: nothing };
        index.hold(manifest, batch)?;
        Ok(index)
    }

    /// sled, and the folder of the runs.
    fn parts(folder: &Path) -> Result<(Db, PathBuf), sled::Error> {
        let db = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).open()?;
        let runs = folder.join("runs");
        fs::create_dir_all(&runs)?;
        File::open(folder)?.sync_all()?;
        Ok((db, runs))
    }

    fn tables(runs: &Path) -> (Table, Table) {
        (Table::new(runs, u64::MAX), Table::new(runs, ARCHIVE_RUN))
    }

    /// Removes what is no run that holds: a stop between writing a run and making it hold, or after that, left it.
    fn remove_others(&self) -> Result<(), sled::Error> {
        let kept = self.manifest().keep();
        let hold: BTreeSet<u64> = kept.state.iter().chain(&kept.archive).map(Run::number).collect();
        let others: Vec<u64> = runs::found(&self.runs)?.into_iter().filter(|number| !hold.contains(number)).collect();
        if others.is_empty() {
            return Ok(());
        }
        // A process that was killed may have written a manifest that it never synced.
        self.sync()?;
        Ok(others.into_iter().try_for_each(|number| runs::remove(&self.runs, number))?)
    }

    /// Returns once sled's rows are on disk; sled itself only starts to write them, or leaves the device's cache to itself.
    fn sync(&self) -> Result<(), sled::Error> {
        self.db.flush()?;
        Ok(File::open(self.folder.join("db"))?.sync_all()?)
    }

    /// Head and state, if both are there and readable.
    pub fn load(&self, genesis: &Genesis) -> Option<(Head, State)> {
        let manifest = self.manifest();
        let mut entries = Vec::new();
        let each = |key: &[u8], entry: Option<&[u8]>| {
            entries.extend(entry.map(|entry| (key.to_vec(), entry.to_vec())));
            Ok(())
        };
        self.state.all(&manifest.state, each).ok()?;
        let state = State::restore(genesis, entries.into_iter()).ok()?;
        // Whoever asks what a node vouches for needs its set.
        self.validators(&state.validators().hash()).ok()??;
        Some((manifest.head, state))
    }

    fn manifest(&self) -> Arc<Manifest> {
        self.manifest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets runs, whose files are on disk, and a batch hold, at once.
    fn hold(&self, manifest: Manifest, mut batch: Batch) -> Result<(), sled::Error> {
        File::open(&self.runs)?.sync_all()?;
        batch.insert(MANIFEST, canonical::encode(&manifest.keep()));
        self.db.apply_batch(batch)?;
        *self.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manifest);
        Ok(())
    }

    /// Adds blocks, in order. One thread does.
    pub fn add(&self, together: &[Arc<Addition>]) -> Result<(), sled::Error> {
        let (Some(first), Some(last)) = (together.first(), together.last()) else { return Ok(()) };
        let heights = first.height()..=last.height();
        let mut manifest = Manifest::clone(&self.manifest());
        let mut batch = Batch::default();
        let mut state: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        let mut archive: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for addition in together {
            let Addition { block, offset, writes, events, validators, .. } = &**addition;
            let header = &block.header;
            let height = header.height;
            state.extend(writes.iter().map(|(key, entry)| (key.as_slice(), entry.as_deref())));
            let names @ Names { id, transactions, histories, .. } = addition.names();
            batch.insert(key(b'h', &[&height.to_be_bytes()]), canonical::encode(&(*offset, *id)));
            batch.insert(key(b'b', &[&id.0]), canonical::encode(&height));
            for (transaction, position) in transactions {
                archive.push((key(b't', &[&transaction.0]), canonical::encode(&(height, *position))));
            }
            for (first, page) in (0u32..).step_by(EVENTS_PER_PAGE).zip(events.chunks(EVENTS_PER_PAGE)) {
                let page_key = events_key(Cursor { height, event: first });
                archive.push((page_key, canonical::encode(&(header.time_ms, page.to_vec()))));
            }
            for (subject, events) in histories {
                let place = |event: &u32| history_key(subject, Cursor { height, event: *event });
                let free = names.free(subject).map_or_else(Vec::new, |free| canonical::encode(&free));
                archive.extend(events.iter().map(|event| (place(event), free.clone())));
            }
            if let Some(set) = validators {
                batch.insert(key(b'v', &[&header.next_validators.0]), canonical::encode(set));
            }
            manifest.head = Head { height, root: header.state_root, offset: *offset };
        }
        // Of what several blocks wrote to one key the last holds: a stable sort leaves it behind the others.
        state.sort_by_key(|(key, _)| *key);
        let last_of_key = state.iter().zip(state.iter().skip(1).map(|(key, _)| Some(*key)).chain([None]));
        let written = last_of_key.filter(|((key, _), next)| *next != Some(*key)).map(|(write, _)| *write);
        archive.sort_unstable();
        let (first, second) = (manifest.number(), manifest.number());
        self.state.add(&mut manifest.state, first, heights.clone(), written)?;
        let archived = archive.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        self.archive.add(&mut manifest.archive, second, heights, archived)?;
        self.hold(manifest, batch)?;
        self.merge()
    }

    /// From now on nobody asks for blocks below this height: what is of them alone goes, bit by bit.
    pub fn forget_before(&self, height: u64) {
        self.first.fetch_max(height, Ordering::AcqRel);
    }

    /// Removes the rows of blocks that nobody asks for, a bounded number.
    fn forget(&self, first: u64) -> Result<Batch, sled::Error> {
        let mut batch = Batch::default();
        for row in self.db.range(key(b'h', &[&[]])..key(b'h', &[&first.to_be_bytes()])).take(FORGOTTEN) {
            let (height, found) = row?;
            if let Some((_, id)) = value::<(u64, Hash)>(Some(found), MAX_VALUE_BYTES) {
                batch.remove(key(b'b', &[&id.0]));
            }
            batch.remove(height);
        }
        Ok(batch)
    }

    /// Merges runs where there are enough, and drops what is of blocks that nobody asks for.
    fn merge(&self) -> Result<(), sled::Error> {
        let first = self.first.load(Ordering::Acquire);
        if first > 0 {
            self.db.apply_batch(self.forget(first)?)?;
        }
        let mut manifest = Manifest::clone(&self.manifest());
        let Manifest { state, archive, last, .. } = &mut manifest;
        let mut number = || {
            *last += 1;
            *last
        };
        let mut old = self.archive.drop_before(archive, first);
        old.extend(self.state.merge(state, &mut number)?);
        old.extend(self.archive.merge(archive, &mut number)?);
        if old.is_empty() {
            return Ok(());
        }
        self.hold(manifest, Batch::default())?;
        self.sync()?;
        Ok(old.into_iter().try_for_each(|run| runs::remove(&self.runs, run))?)
    }

    pub fn offset(&self, height: u64) -> Result<Option<u64>, StoreError> {
        let found: Option<(u64, Hash)> = value(self.db.get(key(b'h', &[&height.to_be_bytes()]))?, MAX_VALUE_BYTES);
        Ok(found.map(|(offset, _)| offset))
    }

    pub fn height_of(&self, block: &Hash) -> Result<Option<u64>, StoreError> {
        Ok(value(self.db.get(key(b'b', &[&block.0]))?, MAX_VALUE_BYTES))
    }

    pub fn position_of(&self, transaction: &Hash) -> Result<Option<(u64, u32)>, StoreError> {
        let manifest = self.manifest();
        let found =
            self.archive.get(&manifest.archive, &key(b't', &[&transaction.0]), None).map_err(sled::Error::from)?;
        Ok(value(found, MAX_VALUE_BYTES))
    }

    pub fn validators(&self, hash: &Hash) -> Result<Option<ValidatorSet>, StoreError> {
        Ok(value(self.db.get(key(b'v', &[&hash.0]))?, MAX_SET_BYTES))
    }

    /// A part of a history; `recent` is what is not in the index yet, the oldest first.
    pub fn history(
        &self,
        recent: &[Arc<Addition>],
        subject: &Subject,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (limit, manifest) = (limit.clamp(1, MAX_PAGE), self.manifest());
        let before = before.unwrap_or(Cursor { height: u64::MAX, event: u32::MAX });
        let recent = recent.iter().rev().filter(|addition| addition.height() > manifest.head.height);
        let recent = recent.flat_map(|addition| addition.history(subject).rev()).filter(|item| item.at < before);
        let mut items: Vec<HistoryItem> = recent.take(limit + 1).collect();
        let (mut places, wanted) = (Vec::new(), limit + 1 - items.len());
        if wanted > 0 {
            let first = history_key(subject, Cursor { height: 0, event: 0 });
            let end = history_key(subject, before);
            let each = |entry: runs::Entry<'_>| {
                places.extend(history_place(entry));
                places.len() < wanted
            };
            self.archive.back(&manifest.archive, &first..&end, each).map_err(sled::Error::from)?;
        }
        let more = items.len() + places.len() > limit;
        items.truncate(limit);
        places.truncate(limit - items.len());
        let last = places.last().map(|(at, _)| *at).or_else(|| items.last().map(|item| item.at));
        items.extend(self.items(&manifest.archive, places)?);
        Ok(Page { items, next: last.filter(|_| more) })
    }

    /// What comes after a place of a history, the oldest first.
    pub fn history_after(
        &self,
        recent: &[Arc<Addition>],
        subject: &Subject,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, StoreError> {
        let (limit, manifest) = (limit.clamp(1, MAX_PAGE), self.manifest());
        let after_key = history_key(subject, after);
        let end = history_key(subject, Cursor { height: u64::MAX, event: u32::MAX });
        let mut places = Vec::new();
        let each = |entry: runs::Entry<'_>| {
            places.extend(history_place(entry).filter(|(at, _)| *at > after));
            places.len() < limit
        };
        let range = &after_key[..]..&end[..];
        self.archive.forward(&manifest.archive, after.height, range, each).map_err(sled::Error::from)?;
        let left = limit - places.len();
        let mut items = self.items(&manifest.archive, places)?;
        let recent = recent.iter().filter(|addition| addition.height() > manifest.head.height);
        items.extend(recent.flat_map(|addition| addition.history(subject)).filter(|item| item.at > after).take(left));
        Ok(items)
    }

    /// What stands at places of a history. Those that follow each other are often on one page of events, which is read once.
    fn items(&self, archive: &Runs, places: Vec<(Cursor, Option<Amount>)>) -> Result<Vec<HistoryItem>, sled::Error> {
        let (mut items, mut first, mut page) = (Vec::with_capacity(places.len()), None, None);
        for (at, free) in places {
            let number = at.event % EVENTS_PER_PAGE as u32;
            let begin = Cursor { event: at.event - number, ..at };
            if first.replace(begin) != Some(begin) {
                page = self.events(archive, begin)?;
            }
            let event = page.as_ref().and_then(|(time_ms, events)| Some((*time_ms, events.get(number as usize)?)));
            items.extend(event.map(|(time_ms, event)| HistoryItem { at, time_ms, event: event.clone(), free }));
        }
        Ok(items)
    }

    /// A page of a block's events, and the block's time.
    fn events(&self, archive: &Runs, first: Cursor) -> Result<Option<(u64, Vec<Event>)>, sled::Error> {
        Ok(value(self.archive.get(archive, &events_key(first), Some(first.height))?, MAX_EVENTS_BYTES))
    }
}

//! The index in sled: what of the log is where, what happened to whom, and the state's entries. Blocks are added several
//! at once: first the pages of the tables, then, as one batch that makes them hold, what stands below.
//!
//! ```text
//! "m"                            -> Manifest: head, and the runs that hold
//! "h" height                     -> offset in the block log
//! "b" block id                   -> height
//! "e" height, first number       -> a page of the block's events: block's time, events
//! "v" validator set's hash       -> validator set, for every one that ever was
//!
//! table "state":    state key                         -> state entry
//! table "archive":  "t" transaction id                -> height, position
//!                   "w" wallet, height, event's number -> nothing
//!                   "n" node, height, event's number   -> nothing
//! ```
//!
//! Integers in keys are big-endian, so that order of keys is order of heights.

use super::{
    IndexHead as Head, StoreError,
    runs::{Runs, Table},
};
use crate::{
    Block,
    block::{MAX_VALIDATORS, ValidatorSet},
    state::{Event, Executed, State},
};
use ailo_protocol::{
    Address, Genesis, Hash, NodeId,
    canonical::{self, Decode, Encode},
};
use sled::{Batch, Db};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

/// Items of one page of history, at most.
pub const MAX_PAGE: usize = 100;
/// sled's cache: what is read is mostly new.
const CACHE_BYTES: u64 = 16 << 20;
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// A validator takes 40 bytes.
const MAX_SET_BYTES: usize = 8 + 40 * MAX_VALIDATORS;
/// Runs of the archive with more entries are not merged any more: a merge holds up the index for about a second.
const ARCHIVE_RUN: u64 = 1 << 20;
const EVENTS_PER_PAGE: usize = 32;
const MAX_EVENTS_BYTES: usize = 64 << 20;
const MANIFEST: &[u8] = b"m";

/// Whose history it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A wallet's.
    Wallet(Address),
    /// A node's.
    Node(NodeId),
}

/// A place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Height of the block.
    pub height: u64,
    /// Number of the event in that block.
    pub event: u32,
}

/// Something that happened to a wallet or a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryItem {
    /// Where it stands.
    pub at: Cursor,
    /// The block's time, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
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
    state: Table,
    archive: Table,
    /// As in sled; who reads a table holds it, so that no run goes away meanwhile.
    manifest: RwLock<Manifest>,
}

/// Where the index stands, and which runs make it up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Manifest {
    head: Head,
    state: Runs,
    archive: Runs,
    /// The next run's number.
    next: u64,
}

impl Manifest {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind][..], &parts.concat()].concat()
}

fn history_key(subject: &Subject, at: Cursor) -> Vec<u8> {
    let (kind, id): (u8, &[u8]) = match subject {
        Subject::Wallet(address) => (b'w', &address.0),
        Subject::Node(node) => (b'n', &node.0),
    };
    key(kind, &[id, &at.height.to_be_bytes(), &at.event.to_be_bytes()])
}

/// The place in a history that a key names.
fn history_place(key: &[u8]) -> Option<Cursor> {
    let (rest, event) = key.split_last_chunk()?;
    let height = rest.last_chunk()?;
    Some(Cursor { height: u64::from_be_bytes(*height), event: u32::from_be_bytes(*event) })
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
        }
    }

    /// The block's height.
    pub fn height(&self) -> u64 {
        self.block.header.height
    }
}

impl Index {
    /// Opens an index that is there, or makes one that stands at the state that the log goes on from.
    pub fn open(path: &Path, base: &State) -> Result<Index, StoreError> {
        let db = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open()?;
        let state = Table::new(db.open_tree("state")?, u64::MAX);
        let archive = Table::new(db.open_tree("archive")?, ARCHIVE_RUN);
        let head = Head::before(base);
        let empty = Manifest { head, state: Runs::default(), archive: Runs::default(), next: 0 };
        let found: Option<Manifest> = value(db.get(MANIFEST)?, MAX_MANIFEST_BYTES);
        let is_new = found.is_none();
        let index = Index { db, state, archive, manifest: RwLock::new(found.unwrap_or(empty)) };
        if is_new {
            // What an interrupted start or another version left is of no use.
            index.db.clear()?;
            index.state.clear()?;
            index.archive.clear()?;
            index.found(base)?;
        }
        index.state.remove_others(&index.manifest().state)?;
        index.archive.remove_others(&index.manifest().archive)?;
        Ok(index)
    }

    /// Writes the state into an empty index.
    fn found(&self, state: &State) -> Result<(), StoreError> {
        let mut manifest = self.manifest().clone();
        let entries: BTreeMap<Vec<u8>, Vec<u8>> = state.entries().collect();
        let run = entries.iter().map(|(key, entry)| (key.as_slice(), Some(entry.as_slice())));
        let number = manifest.number();
        self.state.add(&mut manifest.state, number, run)?;
        let mut batch = Batch::default();
        let set = state.validators();
        batch.insert(key(b'v', &[&set.hash().0]), canonical::encode(set));
        Ok(self.hold(manifest, batch)?)
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
        // An index of an older version holds no sets.
        self.validators(&state.validators().hash()).ok()??;
        Some((manifest.head, state))
    }

    fn manifest(&self) -> RwLockReadGuard<'_, Manifest> {
        self.manifest.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets runs and a batch hold, at once.
    fn hold(&self, manifest: Manifest, mut batch: Batch) -> Result<(), sled::Error> {
        batch.insert(MANIFEST, canonical::encode(&manifest));
        self.db.apply_batch(batch)?;
        *self.manifest.write().unwrap_or_else(PoisonError::into_inner) = manifest;
        Ok(())
    }

    /// Adds blocks, in order. One thread does.
    pub fn add(&self, together: &[Addition]) -> Result<(), sled::Error> {
        let mut manifest = self.manifest().clone();
        let mut batch = Batch::default();
        let mut state: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        let mut archive: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for Addition { block, offset, writes, events, validators } in together {
            let header = &block.header;
            let height = header.height;
            state.extend(writes.iter().map(|(key, entry)| (key.as_slice(), entry.as_deref())));
            batch.insert(key(b'h', &[&height.to_be_bytes()]), canonical::encode(offset));
            batch.insert(key(b'b', &[&block.id().0]), canonical::encode(&height));
            for (position, transaction) in (0u32..).zip(&block.transactions) {
                archive.push((key(b't', &[&transaction.id().0]), canonical::encode(&(height, position))));
            }
            for (first, page) in (0u32..).step_by(EVENTS_PER_PAGE).zip(events.chunks(EVENTS_PER_PAGE)) {
                let page_key = events_key(Cursor { height, event: first });
                batch.insert(page_key, canonical::encode(&(header.time_ms, page.to_vec())));
                for (event, happened) in (first..).zip(page) {
                    let wallets = happened.addresses().into_iter().map(Subject::Wallet);
                    let subjects = wallets.chain(happened.nodes().into_iter().map(Subject::Node));
                    let places = subjects.map(|subject| history_key(&subject, Cursor { height, event }));
                    archive.extend(places.map(|place| (place, Vec::new())));
                }
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
        archive.dedup(); // an event names a wallet twice
        let (first, second) = (manifest.number(), manifest.number());
        self.state.add(&mut manifest.state, first, written)?;
        let archived = archive.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        self.archive.add(&mut manifest.archive, second, archived)?;
        self.hold(manifest, batch)?;
        self.merge()
    }

    /// Merges runs where there are enough.
    fn merge(&self) -> Result<(), sled::Error> {
        let mut manifest = self.manifest().clone();
        let Manifest { state, archive, next, .. } = &mut manifest;
        let mut number = || {
            *next += 1;
            *next
        };
        let old_state = self.state.merge(state, &mut number)?;
        let old_archive = self.archive.merge(archive, &mut number)?;
        if old_state.is_empty() && old_archive.is_empty() {
            return Ok(());
        }
        self.hold(manifest, Batch::default())?;
        // Nobody reads these any more: whoever held the manifest before has given it back.
        old_state.into_iter().try_for_each(|run| self.state.remove(run))?;
        old_archive.into_iter().try_for_each(|run| self.archive.remove(run))
    }

    pub fn offset(&self, height: u64) -> Result<Option<u64>, StoreError> {
        Ok(value(self.db.get(key(b'h', &[&height.to_be_bytes()]))?, MAX_VALUE_BYTES))
    }

    pub fn height_of(&self, block: &Hash) -> Result<Option<u64>, StoreError> {
        Ok(value(self.db.get(key(b'b', &[&block.0]))?, MAX_VALUE_BYTES))
    }

    pub fn position_of(&self, transaction: &Hash) -> Result<Option<(u64, u32)>, StoreError> {
        let manifest = self.manifest();
        let found = self.archive.get(&manifest.archive, &key(b't', &[&transaction.0]))?;
        Ok(value(found, MAX_VALUE_BYTES))
    }

    pub fn validators(&self, hash: &Hash) -> Result<Option<ValidatorSet>, StoreError> {
        Ok(value(self.db.get(key(b'v', &[&hash.0]))?, MAX_SET_BYTES))
    }

    pub fn history(&self, subject: &Subject, before: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let first = history_key(subject, Cursor { height: 0, event: 0 });
        let end = history_key(subject, before.unwrap_or(Cursor { height: u64::MAX, event: u32::MAX }));
        let limit = limit.clamp(1, MAX_PAGE);
        let mut places = Vec::new();
        let manifest = self.manifest();
        self.archive.back(&manifest.archive, &first..&end, |key| {
            places.extend(history_place(key));
            places.len() <= limit
        })?;
        let more = places.len() > limit;
        places.truncate(limit);
        let mut page = Page { items: Vec::new(), next: places.last().copied().filter(|_| more) };
        for at in places {
            page.items.extend(self.event(at)?.map(|(time_ms, event)| HistoryItem { at, time_ms, event }));
        }
        Ok(page)
    }

    /// An event and its block's time.
    fn event(&self, at: Cursor) -> Result<Option<(u64, Event)>, StoreError> {
        let first = Cursor { event: at.event - at.event % EVENTS_PER_PAGE as u32, ..at };
        let page: Option<(u64, Vec<Event>)> = value(self.db.get(events_key(first))?, MAX_EVENTS_BYTES);
        Ok(page
            .and_then(|(time_ms, events)| Some((time_ms, events.into_iter().nth((at.event - first.event) as usize)?))))
    }
}

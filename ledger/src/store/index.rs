//! The index: one sled tree, one batch a block, so that a block's entries are there together or not at all.
//!
//! ```text
//! "m"                            -> Head
//! "s" state key                  -> state entry
//! "h" height                     -> offset in the block log
//! "b" block id                   -> height
//! "t" transaction id             -> height, position
//! "v" validator set's hash       -> validator set, for every one that ever was
//! "w" wallet, height, number     -> time, event
//! ```
//!
//! Integers in keys are big-endian, so that order of keys is order of heights.

use super::{IndexHead as Head, StoreError};
use crate::{
    Block,
    block::{MAX_VALIDATORS, ValidatorSet},
    state::{Event, Executed, State},
};
use ailo_protocol::{
    Address, Genesis, Hash,
    canonical::{self, Decode, Encode},
};
use sled::{Batch, Db, IVec};
use std::{collections::BTreeMap, path::Path};

/// Items of one page of history, at most.
pub const MAX_PAGE: usize = 100;
const CACHE_BYTES: u64 = 64 << 20;
const MAX_VALUE_BYTES: usize = 64 << 10;
/// A validator takes 40 bytes.
const MAX_SET_BYTES: usize = 8 + 40 * MAX_VALIDATORS;
const HEAD: &[u8] = b"m";

/// A place in a wallet's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Height of the block.
    pub height: u64,
    /// Number of the event in that block.
    pub event: u32,
}

/// Something that happened to a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryItem {
    /// Where it stands.
    pub at: Cursor,
    /// The block's time, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// A part of a wallet's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The latest first.
    pub items: Vec<HistoryItem>,
    /// What to ask for next; `None` at the end.
    pub next: Option<Cursor>,
}

pub(super) struct Index {
    db: Db,
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind][..], &parts.concat()].concat()
}

fn history_key(wallet: &Address, at: Cursor) -> Vec<u8> {
    key(b'w', &[&wallet.0, &at.height.to_be_bytes(), &at.event.to_be_bytes()])
}

/// A value that this module wrote; `None` if it is not readable, as if it were not there.
fn value<T: Decode<()> + Encode>(bytes: Option<IVec>) -> Option<T> {
    bytes.and_then(|bytes| canonical::decode(&bytes, MAX_VALUE_BYTES).ok())
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
    pub fn open(path: &Path) -> Result<Index, StoreError> {
        Ok(Index { db: sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open()? })
    }

    /// Head and state, if both are there and readable.
    pub fn load(&self, genesis: &Genesis) -> Option<(Head, State)> {
        let head = self.head().ok()??;
        let entries =
            self.db.scan_prefix(b"s").map(|item| item.map(|(key, entry)| (key[1..].to_vec(), entry.to_vec())));
        let entries: Vec<_> = entries.collect::<Result<_, _>>().ok()?;
        let state = State::restore(genesis, entries.into_iter()).ok()?;
        // An index of an older version holds no sets.
        self.validators(&state.validators().hash()).ok()??;
        Some((head, state))
    }

    /// Writes the state before the first block into an empty index.
    pub fn found(&self, state: &State) -> Result<Head, StoreError> {
        let head = Head::genesis(state);
        let mut batch = Batch::default();
        for (state_key, entry) in state.entries() {
            batch.insert(key(b's', &[&state_key]), entry);
        }
        let set = state.validators();
        batch.insert(key(b'v', &[&set.hash().0]), canonical::encode(set));
        batch.insert(HEAD, canonical::encode(&head));
        self.db.apply_batch(batch)?;
        Ok(head)
    }

    pub fn head(&self) -> Result<Option<Head>, StoreError> {
        Ok(value(self.db.get(HEAD)?))
    }

    /// Adds blocks, in order, as one batch.
    pub fn add(&self, together: &[Addition]) -> Result<(), sled::Error> {
        let mut batch = Batch::default();
        let mut state: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for Addition { block, offset, writes, events, validators } in together {
            let header = &block.header;
            let height = header.height;
            state.extend(writes.iter().map(|(key, entry)| (key.as_slice(), entry.as_deref())));
            batch.insert(key(b'h', &[&height.to_be_bytes()]), canonical::encode(offset));
            batch.insert(key(b'b', &[&block.id().0]), canonical::encode(&height));
            for (position, transaction) in (0u32..).zip(&block.transactions) {
                batch.insert(key(b't', &[&transaction.id().0]), canonical::encode(&(height, position)));
            }
            for (number, event) in (0u32..).zip(events) {
                let item = canonical::encode(&(header.time_ms, event));
                for wallet in event.addresses() {
                    batch.insert(history_key(&wallet, Cursor { height, event: number }), item.as_slice());
                }
            }
            if let Some(set) = validators {
                batch.insert(key(b'v', &[&header.next_validators.0]), canonical::encode(set));
            }
            batch.insert(HEAD, canonical::encode(&Head { height, root: header.state_root, offset: *offset }));
        }
        for (state_key, entry) in state {
            match entry {
                Some(entry) => batch.insert(key(b's', &[state_key]), entry),
                None => batch.remove(key(b's', &[state_key])),
            }
        }
        self.db.apply_batch(batch)
    }

    pub fn offset(&self, height: u64) -> Result<Option<u64>, StoreError> {
        Ok(value(self.db.get(key(b'h', &[&height.to_be_bytes()]))?))
    }

    pub fn height_of(&self, block: &Hash) -> Result<Option<u64>, StoreError> {
        Ok(value(self.db.get(key(b'b', &[&block.0]))?))
    }

    pub fn position_of(&self, transaction: &Hash) -> Result<Option<(u64, u32)>, StoreError> {
        Ok(value(self.db.get(key(b't', &[&transaction.0]))?))
    }

    pub fn validators(&self, hash: &Hash) -> Result<Option<ValidatorSet>, StoreError> {
        let bytes = self.db.get(key(b'v', &[&hash.0]))?;
        Ok(bytes.and_then(|bytes| canonical::decode(&bytes, MAX_SET_BYTES).ok()))
    }

    pub fn history(&self, wallet: &Address, before: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let first = history_key(wallet, Cursor { height: 0, event: 0 });
        let end = history_key(wallet, before.unwrap_or(Cursor { height: u64::MAX, event: u32::MAX }));
        let limit = limit.clamp(1, MAX_PAGE);
        let mut page = Page::default();
        for item in self.db.range(first..end).rev() {
            let (item_key, item) = item?;
            let Some((time_ms, event)) = value::<(u64, Event)>(Some(item)) else { continue };
            let number = |range| item_key.get(range).unwrap_or_default();
            let height = number(21..29).try_into().map(u64::from_be_bytes).unwrap_or_default();
            let event_number = number(29..33).try_into().map(u32::from_be_bytes).unwrap_or_default();
            if page.items.len() == limit {
                page.next = page.items.last().map(|last: &HistoryItem| last.at);
                break;
            }
            page.items.push(HistoryItem { at: Cursor { height, event: event_number }, time_ms, event });
        }
        Ok(page)
    }
}

//! Blocks on disk. The block log is the truth: a frame for each block with its certificate, on disk before anybody is
//! told that the block is final. The index (sled, and sorted runs beside it) answers questions and holds the state's entries; it
//! may lag, lose writes or be deleted.
//!
//! At opening, the index's height and state root are compared with the log. An index that stands at an earlier block is
//! brought up by executing the rest; one that does not fit, or can't be read, is built anew from the first block that is kept.
//!
//! Who reads the log does so beside the one who appends: what is on disk is published, and no lock is held while the disk syncs.
//!
//! With the first block of an epoch goes a snapshot of the state. Segments of the log whose blocks are all older than
//! `unbonding_ms` may go, once a snapshot stands right before what is left: the index then begins with that.
//!
//! ```text
//! <dir>/blocks/    block log, in segments (see `framelog`): block, certificate
//! <dir>/snapshots/ states, in parts
//! <dir>/index/     sled: small rows, and which runs hold
//! <dir>/index/runs/NUMBER   a sorted run (see `runfile`): what of transactions, histories and the state was added together
//! <dir>/wal        write-ahead log of the running height   (see `ConsensusFiles`)
//! <dir>/journal    what this node has signed
//! ```

mod blocks;
mod consensus;
mod index;
mod indexer;
mod light;
mod runfile;
mod runs;
mod snapshots;

pub use blocks::{BlockLog, IndexHead};
pub use consensus::ConsensusFiles;
pub use index::{Cursor, HistoryItem, MAX_PAGE, Page, Subject};
pub use indexer::lower_priority;
pub use snapshots::{MAX_HEAD_BYTES, Snapshot, SnapshotHead, SnapshotWriter, Snapshots, is_begun};

use crate::{
    Transaction,
    block::{Block, Certificate, MAX_CERTIFICATE_BYTES},
    disk::RealDisk,
    framelog::LogError,
    participant::Blocks,
    state::{Executed, State},
};
use ailo_protocol::{
    Genesis, Hash,
    canonical::{self, CodecError},
};
use blocks::Readers;
use index::{Addition, Index};
use indexer::Indexer;
use std::{
    fs,
    io::ErrorKind,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

/// A segment of the log covers at least this part of the time that blocks are kept.
const SEGMENTS: u64 = 4;
/// So many of the newest snapshots are kept for newcomers: who began with the last but one may finish.
const OFFERED: usize = 2;

/// Block log, snapshots and index; shared by reference between one writer and many readers.
pub struct Store {
    tail: Mutex<Tail>,
    /// The same log for those who read, who never wait for the disk to sync.
    readers: RwLock<Readers>,
    index: Indexer,
    snapshots: Snapshots,
}

/// The block log, and what decides where its next segment begins.
struct Tail {
    log: BlockLog,
    /// Epoch after the last block.
    epoch: u64,
    /// Age at which the last segment began.
    begun_ms: u64,
}

/// Canonical bytes of a block and of its certificate, as peers get them.
pub type EncodedBlock = (Vec<u8>, Vec<u8>);

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index failed.
    #[error(
        "the index failed ({0}): stop the node and delete ledger/index in its data folder, and nothing else; it is built anew from the block log"
    )]
    Index(#[from] sled::Error),
    /// The folder can't be made or cleared.
    #[error("cannot use the folder {folder}: {source}")]
    Folder {
        /// Which.
        folder: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Bytes in the block log that are no block.
    #[error(
        "the block log can't be read ({0}): was it written by another version? move it away and sync again from peers"
    )]
    Codec(#[from] CodecError),
    /// A block in the log that does not follow.
    #[error(
        "block {height} of the block log is refused ({reason}): was it written by another version? move the log away and sync again from peers"
    )]
    Invalid {
        /// Its height.
        height: u64,
        /// Why.
        reason: String,
    },
    /// A snapshot that is not the state that its block commits to.
    #[error("the snapshot after block {height} can't be used ({reason}): remove it, or sync again from peers")]
    Snapshot {
        /// Height of the block.
        height: u64,
        /// Why not.
        reason: String,
    },
    /// The log does not begin with the first block, and no snapshot stands before it.
    #[error(
        "the block log begins with block {first}, and the snapshot of the state before it is missing: bring it back, or \
         move blocks, snapshots and index away (not journal and wal) and start with --checkpoint"
    )]
    NoBase {
        /// The first block that is there.
        first: u64,
    },
    /// A block that is not the next one.
    #[error("block {got} can't be appended: the log ends at {last}")]
    NotNext {
        /// Height of the last block.
        last: u64,
        /// Height of the block given.
        got: u64,
    },
    /// A validator without its journal might sign what it has signed otherwise before.
    #[error(
        "the signing journal {path} is missing, and this node's key may have signed: bring it back, or restore a backup with \
         `ailo-node restore --network-height`; only if the key surely signed nothing since the last block here, start once with \
         --allow-new-journal"
    )]
    NoJournal {
        /// Where it should be.
        path: String,
    },
    /// The same of one whose journal can't be read.
    #[error(
        "the signing journal {path} is damaged at byte {offset}: do not remove it, or this node's key may sign again what it has \
         signed otherwise; check the disk, then restore a backup, be it one of now, with `ailo-node restore --network-height`, or go on \
         with another node key"
    )]
    DamagedJournal {
        /// The journal.
        path: String,
        /// Where the damage begins.
        offset: u64,
    },
}

impl Store {
    /// Opens the store in `dir`, or makes one; the state is the one after the log's last block.
    pub fn open(dir: &Path, genesis: &Genesis) -> Result<(Store, State), StoreError> {
        let folder = |source| StoreError::Folder { folder: dir.display().to_string(), source };
        fs::create_dir_all(dir).map_err(folder)?;
        let disk = RealDisk::shared();
        let snapshots = Snapshots::open(disk.clone(), &dir.join("snapshots"), genesis.id())?;
        // A snapshot that was fetched is where an empty log begins.
        let first = snapshots.newest().map_or(1, |newest| newest.head.height() + 1);
        let mut log = BlockLog::open(disk, &dir.join("blocks"), genesis.id(), first)?;
        let path = dir.join("index");
        let is_new = !path.exists();
        // A new index is opened once: sled gives up its lock only some time after it was closed.
        let found = if is_new { None } else { usable(Index::open(&path))? };
        let opened = found.and_then(|index| {
            let (head, state) = index.load(genesis)?;
            log.fits(&head, &state).then_some((index, head, state))
        });
        let (index, head, state) = match opened {
            Some(opened) => opened,
            None => {
                if !is_new {
                    tracing::warn!("the index does not fit the block log; building it anew");
                    fs::remove_dir_all(&path).map_err(folder)?;
                }
                let base = base(&mut log, &snapshots, genesis)?;
                (Index::create(&path, &base)?, IndexHead::before(&base), base)
            }
        };
        let mut together = Vec::with_capacity(indexer::MAX_TOGETHER);
        let state = log.execute_after(&head, state, |block, offset, executed| {
            together.push(Arc::new(Addition::new(block, offset, executed)));
            if together.len() == indexer::MAX_TOGETHER {
                index.add(&together)?;
                together.clear();
            }
            if block.header.height.is_multiple_of(10_000) {
                tracing::info!(height = block.header.height, "indexing the block log");
            }
            Ok(())
        })?;
        index.add(&together)?;
        let before = log.segments().last().and_then(|first| snapshots.get(first - 1));
        let tail = Tail { log, epoch: state.epoch(), begun_ms: before.map_or(0, |before| before.age_ms) };
        let index = Indexer::start(index, state.height())?;
        let readers = RwLock::new(tail.log.readers());
        Ok((Store { tail: Mutex::new(tail), readers, index, snapshots }, state))
    }

    /// Appends the next block. When this returns, the block is on disk.
    pub fn append(&self, block: &Block, certificate: &Certificate, executed: &Executed) -> Result<(), StoreError> {
        let mut tail = self.tail();
        let offset = tail.log.append(block, certificate)?;
        let (state, epoch) = (&executed.state, executed.state.epoch());
        if epoch > tail.epoch {
            tail.epoch = epoch;
            if state.age_ms() >= tail.begun_ms.saturating_add(state.params().ledger.unbonding_ms / SEGMENTS) {
                tail.begun_ms = state.age_ms();
                tail.log.roll()?;
                self.show(&tail.log);
            }
        }
        drop(tail);
        self.index.add(Addition::new(block, offset, executed))
    }

    /// Takes a snapshot of the state after the first block of an epoch, and removes what is of no more use: all blocks older than
    /// `unbonding_ms`, as far as whole segments hold them, unless this is an `archive`. Takes a while.
    pub fn keep(&self, state: &State, archive: bool) -> Result<(), StoreError> {
        let Some(block) = self.light_block(state.height())? else { return Ok(()) };
        self.snapshots.write(state, block)?;
        let old = state.age_ms().saturating_sub(state.params().ledger.unbonding_ms);
        let segments: Vec<u64> = self.tail().log.segments().collect();
        let is_old = |first: &u64| self.snapshots.get(first - 1).is_some_and(|base| base.age_ms <= old);
        let first = match segments.iter().rev().find(|first| is_old(first)) {
            Some(first) if !archive => *first,
            _ => segments.first().copied().unwrap_or(1),
        };
        let mut tail = self.tail();
        let taken = tail.log.take_before(first);
        self.show(&tail.log);
        drop(tail);
        taken.remove()?;
        self.index.forget_before(first);
        let heights = self.snapshots.heights();
        let offered = heights.len().saturating_sub(OFFERED);
        let is_base = |height: &u64| match archive {
            true => height + 1 == first,
            false => height + 1 >= first && segments.contains(&(height + 1)),
        };
        heights[..offered].iter().filter(|height| !is_base(height)).try_for_each(|old| self.snapshots.remove(*old))
    }

    /// Snapshots of the state.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Height of the first block that is kept.
    pub fn first(&self) -> u64 {
        self.readers().first()
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> RwLockReadGuard<'_, Readers> {
        self.readers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who reads sees the log's segments as they are now.
    fn show(&self, log: &BlockLog) {
        *self.readers.write().unwrap_or_else(PoisonError::into_inner) = log.readers();
    }

    /// Height of the last block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.index.height()
    }

    /// Canonical bytes of the block at `height` and of its certificate.
    pub fn encoded(&self, height: u64) -> Result<Option<EncodedBlock>, StoreError> {
        if height > self.height() || height < self.first() {
            return Ok(None);
        }
        let recent = |addition: &Addition| (addition.height() == height).then(|| addition.offset());
        let Some(offset) = self.index.find(recent, |index| index.offset(height))? else { return Ok(None) };
        let segment = self.readers().holder(height);
        segment.map(|segment| blocks::encoded(&segment, offset)).transpose()
    }

    /// The block at `height`.
    pub fn block(&self, height: u64) -> Result<Option<Block>, StoreError> {
        Ok(self.encoded(height)?.map(|(block, _)| Block::decode(&block)).transpose()?)
    }

    /// The height of the block with this id, if it is kept.
    pub fn height_of(&self, id: &Hash) -> Result<Option<u64>, StoreError> {
        let recent = |addition: &Addition| (addition.id() == *id).then(|| addition.height());
        let found = self.index.find(recent, |index| index.height_of(id))?;
        Ok(found.filter(|height| *height >= self.first()))
    }

    /// The block at `height`, and what finalised it.
    pub fn certified(&self, height: u64) -> Result<Option<(Block, Certificate)>, StoreError> {
        let Some((block, certificate)) = self.encoded(height)? else { return Ok(None) };
        Ok(Some((Block::decode(&block)?, canonical::decode(&certificate, MAX_CERTIFICATE_BYTES)?)))
    }

    /// The transaction with this id, the height of its block, and its position there.
    pub fn transaction(&self, id: &Hash) -> Result<Option<(Transaction, u64, u32)>, StoreError> {
        let Some((height, position)) = self.position_of(id)? else { return Ok(None) };
        let Some(block) = self.block(height)? else { return Ok(None) };
        Ok(block.transactions.into_iter().nth(position as usize).map(|transaction| (transaction, height, position)))
    }

    fn position_of(&self, transaction: &Hash) -> Result<Option<(u64, u32)>, StoreError> {
        self.index.find(|addition| addition.position_of(transaction), |index| index.position_of(transaction))
    }

    /// What happened to a wallet, a node or a transfer, the latest first; `limit` is at most [`MAX_PAGE`]. The page's cursor asks for the next.
    pub fn history(&self, subject: &Subject, before: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let (recent, index) = self.index.now();
        index.history(&recent, subject, before, limit)
    }

    /// The same after a place of the history, the oldest first.
    pub fn history_after(
        &self,
        subject: &Subject,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, StoreError> {
        let (recent, index) = self.index.now();
        index.history_after(&recent, subject, after, limit)
    }
}

/// The state that the log goes on from; segments without one before them are of no use, if a later one has one.
fn base(log: &mut BlockLog, snapshots: &Snapshots, genesis: &Genesis) -> Result<State, StoreError> {
    for first in log.segments().collect::<Vec<_>>() {
        let state = match snapshots.get(first - 1) {
            _ if first == 1 => State::genesis(genesis),
            Some(snapshot) => match snapshot.state(genesis) {
                Err(e @ (StoreError::Snapshot { .. } | StoreError::Log(LogError::Damaged { .. }))) => {
                    tracing::warn!(error = %e, "the ledger can't go on from this snapshot");
                    continue;
                }
                state => state?,
            },
            None => continue,
        };
        log.take_before(first).remove()?;
        return Ok(state);
    }
    Err(StoreError::NoBase { first: log.first() })
}

/// What was opened, unless it is damaged. Where the machine refuses (no right, no descriptor left), nothing would be better if
/// it were built anew.
fn usable(opened: Result<Option<Index>, StoreError>) -> Result<Option<Index>, StoreError> {
    match opened {
        Err(StoreError::Index(sled::Error::Io(e))) if e.raw_os_error().is_some() && e.kind() != ErrorKind::NotFound => {
            Err(StoreError::Index(sled::Error::Io(e)))
        }
        opened => Ok(opened.ok().flatten()),
    }
}

impl Blocks for Arc<Store> {
    fn append(&mut self, block: &Block, certificate: &Certificate, executed: &Executed) -> Result<(), StoreError> {
        Store::append(self, block, certificate, executed)
    }
}

#[cfg(test)]
mod tests;

//! Snapshots on disk: the state after the first block of an epoch, in parts that anybody can check against that block's
//! header ([`crate::state::snapshot`]). Newcomers start from them, and so does a block log whose first blocks have gone.
//!
//! ```text
//! <dir>/HEIGHT    frame log: SnapshotHead, part 0, part 1, ...
//! ```
//!
//! A snapshot is written under another name and then renamed, so one that is there is whole.

use super::StoreError;
use crate::{
    disk::Disk,
    framelog::{Format, FrameLog, LogError},
    light::{LightBlock, MAX_LIGHT_BLOCK_BYTES},
    state::{
        Key, State,
        snapshot::{MAX_PART_BITS, MAX_PART_BYTES, Part, Parts, SnapshotError},
    },
};
use ailo_protocol::{
    Genesis, Hash,
    canonical::{self, CodecError, Decode, Encode},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A head's canonical bytes are at most this long.
pub const MAX_HEAD_BYTES: usize = MAX_LIGHT_BLOCK_BYTES + 64;

const UNFINISHED: &str = "unfinished";

/// The height that a file of blocks or of a snapshot is named by.
pub(super) fn numbered(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str().filter(|name| name.len() == 20)?;
    name.parse().ok().filter(|height| *height > 0)
}

/// Whether a folder holds such a file.
pub fn is_begun(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut files| files.any(|file| file.is_ok_and(|f| numbered(&f.path()).is_some())))
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotHead {
    /// The block that the state came from, with all that verifies it.
    pub block: LightBlock,
    /// There are `2^bits` parts.
    pub bits: u32,
}

impl SnapshotHead {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_HEAD_BYTES`], and no head of more parts than there can be.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHead, CodecError> {
        let head: SnapshotHead = canonical::decode(bytes, MAX_HEAD_BYTES)?;
        if head.bits > MAX_PART_BITS { Err(CodecError::NotCanonical) } else { Ok(head) }
    }

    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.block.header.height
    }

    /// Number of parts.
    pub fn parts(&self) -> u32 {
        1 << self.bits
    }
}

/// The snapshots in a folder.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    network: Hash,
    held: Mutex<BTreeMap<u64, Arc<Snapshot>>>,
}

/// A snapshot that is whole.
pub struct Snapshot {
    /// What it is of.
    pub head: SnapshotHead,
    /// Age of the state, milliseconds.
    pub age_ms: u64,
    log: FrameLog,
    /// Where its parts stand.
    parts: Vec<u64>,
}

/// A snapshot that is being written.
pub struct SnapshotWriter<'a> {
    snapshots: &'a Snapshots,
    head: SnapshotHead,
    log: FrameLog,
    path: PathBuf,
}

impl Snapshots {
    /// Opens the folder, or makes it; what was not finished is removed.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, network: Hash) -> Result<Snapshots, StoreError> {
        let io = |what, path: &Path, source| StoreError::Log(LogError::io(what, path, source));
        disk.make_folder(folder).map_err(|e| io("make", folder, e))?;
        let snapshots =
            Snapshots { disk: disk.clone(), folder: folder.into(), network, held: Mutex::new(BTreeMap::new()) };
        for path in disk.list(folder).map_err(|e| io("read", folder, e))? {
            match numbered(&path).map(|height| snapshots.read(height)) {
                Some(Ok(snapshot)) => drop(snapshots.held().insert(snapshot.head.height(), Arc::new(snapshot))),
                Some(Err(StoreError::Log(e @ LogError::Io { .. }))) => return Err(e.into()),
                Some(Err(e)) => tracing::warn!(error = %e, "a snapshot is damaged, and not used: remove it"),
                None if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED)) => {
                    disk.remove(&path).map_err(|e| io("remove", &path, e))?;
                }
                None => {}
            }
        }
        Ok(snapshots)
    }

    fn format(&self) -> Format {
        Format { kind: *b"SNAP", network: self.network, max_frame: MAX_PART_BYTES.max(MAX_HEAD_BYTES) }
    }

    fn path(&self, height: u64) -> PathBuf {
        self.folder.join(format!("{height:020}"))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Snapshot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, height: u64) -> Result<Snapshot, StoreError> {
        let path = self.path(height);
        let log = FrameLog::open_on(self.disk.clone(), &path, self.format())?;
        let mut frames = Vec::new();
        let mut head = None;
        for frame in log.frames(0) {
            let (offset, bytes) = frame?;
            match head {
                None => head = Some(SnapshotHead::decode(&bytes)?),
                Some(_) => frames.push(offset),
            }
        }
        let damaged = || LogError::Damaged { path: path.clone(), offset: 0 };
        let is_whole = |head: &SnapshotHead| head.height() == height && head.parts() as usize == frames.len();
        let head = head.filter(is_whole).ok_or_else(damaged)?;
        let at = Parts::place_of(head.bits, &Key::Chain);
        let bytes = log.read(*frames.get(at as usize).ok_or_else(damaged)?)?;
        let part = Part::decode(&bytes, &head.block.header.state_root, head.bits, at).ok();
        let age_ms = part.and_then(|part| part.age_ms()).ok_or_else(damaged)?;
        Ok(Snapshot { head, age_ms, log, parts: frames })
    }

    /// Heights of the snapshots that are there.
    pub fn heights(&self) -> Vec<u64> {
        self.held().keys().copied().collect()
    }

    /// The snapshot of this height.
    pub fn get(&self, height: u64) -> Option<Arc<Snapshot>> {
        self.held().get(&height).cloned()
    }

    /// The newest one.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.held().values().next_back().cloned()
    }

    /// Writes the snapshot of `state`, which came from `block`.
    pub fn write(&self, state: &State, block: LightBlock) -> Result<(), StoreError> {
        let parts = state.parts();
        let mut writer = self.begin(SnapshotHead { block, bits: parts.bits() })?;
        for index in 0..writer.head.parts() {
            writer.add(&parts.part(index).encode())?;
        }
        writer.finish()
    }

    /// Begins to write a snapshot.
    pub fn begin(&self, head: SnapshotHead) -> Result<SnapshotWriter<'_>, StoreError> {
        let path = self.folder.join(UNFINISHED);
        let log = FrameLog::create_on(self.disk.clone(), &path, self.format(), &[&head.encode()])?;
        Ok(SnapshotWriter { snapshots: self, head, log, path })
    }

    /// Removes a snapshot; who reads it goes on reading.
    pub fn remove(&self, height: u64) -> Result<(), StoreError> {
        let path = self.path(height);
        self.held().remove(&height);
        Ok(self.disk.remove(&path).map_err(|e| LogError::io("remove", &path, e))?)
    }
}

impl SnapshotWriter<'_> {
    /// Adds the next part, which was verified if it is not this node's own.
    pub fn add(&mut self, part: &[u8]) -> Result<(), StoreError> {
        self.log.append(part).map(drop).map_err(StoreError::Log)
    }

    /// All parts are there: from now on the snapshot is.
    pub fn finish(self) -> Result<(), StoreError> {
        let SnapshotWriter { snapshots, head, path, .. } = self;
        let to = snapshots.path(head.height());
        snapshots.disk.rename(&path, &to).map_err(|e| LogError::io("rename", &path, e))?;
        snapshots.disk.sync_folder(&snapshots.folder).map_err(|e| LogError::io("sync", &snapshots.folder, e))?;
        let snapshot = snapshots.read(head.height())?;
        snapshots.held().insert(head.height(), Arc::new(snapshot));
        Ok(())
    }
}

impl Snapshot {
    /// Canonical bytes of a part.
    pub fn part(&self, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.parts.get(index as usize).map(|offset| Ok(self.log.read(*offset)?)).transpose()
    }

    /// The state, every part of it verified against the block's header.
    pub fn state(&self, genesis: &Genesis) -> Result<State, StoreError> {
        let header = &self.head.block.header;
        let invalid = |e: SnapshotError| StoreError::Snapshot { height: header.height, reason: e.to_string() };
        let mut parts = Vec::with_capacity(self.parts.len());
        for (index, offset) in (0..).zip(&self.parts) {
            let part = Part::decode(&self.log.read(*offset)?, &header.state_root, self.head.bits, index);
            parts.push(part.map_err(invalid)?);
        }
        State::assemble(genesis, header, parts.into_iter()).map_err(invalid)
    }
}

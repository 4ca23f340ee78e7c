//! The block log: a frame for each block with its certificate. It alone says what is final; whoever keeps an index beside it
//! compares the two at opening, and executes what the index lacks.
//!
//! It lies in segments, files that are named by the height of their first block and follow each other without a gap. Whole
//! segments leave at the old end, once nobody needs their blocks.

use super::{EncodedBlock, StoreError, snapshots::numbered};
use crate::{
    Block, Certificate,
    block::{MAX_BLOCK_BYTES, MAX_CERTIFICATE_BYTES},
    disk::Disk,
    framelog::{Format, FrameLog, Frames, LogError},
    state::{Executed, State, execute_block},
};
use ailo_protocol::{
    Hash,
    canonical::{self, CodecError, Decode, Encode},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const MAX_RECORD_BYTES: usize = MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES + 16;

/// The log of final blocks.
pub struct BlockLog {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    format: Format,
    /// In order, at least one.
    segments: Vec<Segment>,
}

struct Segment {
    /// Height of the first block in it.
    first: u64,
    log: FrameLog,
}

/// Who reads blocks beside whoever appends them; segments that are taken out meanwhile stay readable.
pub struct Readers(Vec<(u64, Arc<Frames>)>);

impl Readers {
    /// Height of the first block that the log holds, or will hold.
    pub fn first(&self) -> u64 {
        self.0.first().map_or(1, |(first, _)| *first)
    }

    /// The segment that holds the block at `height`, or will.
    pub fn holder(&self, height: u64) -> Option<Arc<Frames>> {
        let after = self.0.partition_point(|(first, _)| *first <= height);
        self.0[..after].last().map(|(_, frames)| frames.clone())
    }
}

/// Canonical bytes of the block at `offset` of a segment, and of its certificate.
pub fn encoded(segment: &Frames, offset: u64) -> Result<EncodedBlock, StoreError> {
    let record = Record::decode(&segment.read(offset)?)?;
    Ok((record.block, record.certificate))
}

/// Segments that are of the log no more.
#[must_use]
pub struct Taken {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    paths: Vec<PathBuf>,
}

impl Taken {
    /// Removes their files, which takes a while; the oldest first, so that a stop in between leaves no gap.
    pub fn remove(self) -> Result<(), StoreError> {
        for path in &self.paths {
            self.disk.remove(path).map_err(|e| LogError::io("remove", path, e))?;
            self.disk.sync_folder(&self.folder).map_err(|e| LogError::io("sync", &self.folder, e))?;
        }
        Ok(())
    }
}

impl Segment {
    /// Height of the first block that is not in it.
    fn end(&self) -> u64 {
        self.first + self.log.count()
    }
}

/// A frame of the log.
#[derive(Encode, Decode)]
struct Record {
    block: Vec<u8>,
    certificate: Vec<u8>,
}

impl Record {
    fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
        canonical::decode(bytes, MAX_RECORD_BYTES)
    }
}

/// Where an index says that it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IndexHead {
    /// Height of the last block in it; 0 for none.
    pub height: u64,
    /// Root of the state after that block.
    pub root: Hash,
    /// The block's offset in its segment of the log; 0 for none.
    pub offset: u64,
}

impl BlockLog {
    /// Opens the log in `folder`; where there is none, makes one whose first block will be that at height `first`.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, network: Hash, first: u64) -> Result<BlockLog, StoreError> {
        let format = Format { kind: *b"BLKS", network, max_frame: MAX_RECORD_BYTES };
        disk.make_folder(folder).map_err(|e| LogError::io("make", folder, e))?;
        let files = disk.list(folder).map_err(|e| LogError::io("read", folder, e))?;
        let mut log = BlockLog { disk, folder: folder.into(), format, segments: Vec::new() };
        let segments: Vec<(u64, &PathBuf)> = files.iter().filter_map(|path| Some((numbered(path)?, path))).collect();
        for (i, (first, path)) in segments.iter().enumerate() {
            let (first, is_last) = (*first, i + 1 == segments.len());
            if let Some(before) = log.segments.last().filter(|before| before.end() != first) {
                return Err(LogError::Damaged { path: log.path(before.first), offset: before.log.end() }.into());
            }
            let open = if is_last { FrameLog::open_on } else { FrameLog::open_closed };
            log.segments.push(Segment { first, log: open(log.disk.clone(), path, format)? });
        }
        if log.segments.is_empty() {
            log.begin_segment(first)?;
        }
        Ok(log)
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}"))
    }

    fn begin_segment(&mut self, first: u64) -> Result<(), StoreError> {
        let log = FrameLog::open_on(self.disk.clone(), &self.path(first), self.format)?;
        self.segments.push(Segment { first, log });
        Ok(())
    }

    fn last(&self) -> &Segment {
        self.segments.last().expect("`open` makes a segment, and none but older ones are removed")
    }

    /// Height of the first block that the log holds, or will hold.
    pub fn first(&self) -> u64 {
        self.segments.first().map_or(1, |segment| segment.first)
    }

    /// Height of the last block; that before the first while there is none.
    pub fn height(&self) -> u64 {
        self.last().end() - 1
    }

    /// Heights at which segments begin.
    pub fn segments(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().map(|segment| segment.first)
    }

    /// What reads blocks while this one appends, until it begins another segment.
    pub fn readers(&self) -> Readers {
        Readers(self.segments.iter().map(|segment| (segment.first, Arc::new(segment.log.reader()))).collect())
    }

    /// Lets the next block begin a segment.
    pub fn roll(&mut self) -> Result<(), StoreError> {
        if self.last().log.is_empty() { Ok(()) } else { self.begin_segment(self.height() + 1) }
    }

    /// Takes out the segments before the one that begins at height `first`; their files are the caller's to remove.
    pub fn take_before(&mut self, first: u64) -> Taken {
        let count = self.segments.iter().take_while(|segment| segment.first < first).count();
        let count = count.min(self.segments.len() - 1);
        let paths = self.segments.drain(..count).map(|segment| segment.first).collect::<Vec<_>>();
        let paths = paths.into_iter().map(|first| self.path(first)).collect();
        Taken { disk: self.disk.clone(), folder: self.folder.clone(), paths }
    }

    /// Appends the next block; gives its offset in its segment once it is on disk.
    pub fn append(&mut self, block: &Block, certificate: &Certificate) -> Result<u64, StoreError> {
        let (last, got) = (self.height(), block.header.height);
        if got != last + 1 || certificate.height != got {
            return Err(StoreError::NotNext { last, got });
        }
        let record = Record { block: block.encode(), certificate: canonical::encode(certificate) };
        let segment = self.segments.last_mut().expect("`open` makes a segment, and none but older ones are removed");
        Ok(segment.log.append(&canonical::encode(&record))?)
    }

    /// The segment that holds the block at `height`.
    fn holder(&self, height: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.first <= height);
        self.segments[..after].last().filter(|segment| height < segment.end())
    }

    /// Canonical bytes of the block at `height`, which stands at `offset` of its segment, and of its certificate.
    pub fn encoded(&self, height: u64, offset: u64) -> Result<Option<EncodedBlock>, StoreError> {
        let Some(segment) = self.holder(height) else { return Ok(None) };
        let record = Record::decode(&segment.log.read(offset)?)?;
        Ok(Some((record.block, record.certificate)))
    }

    /// Whether an index whose head and state are these stands at a block of the log, or right before its first.
    pub fn fits(&self, head: &IndexHead, state: &State) -> bool {
        if state.height() != head.height || state.root() != head.root {
            return false;
        }
        if head.height + 1 == self.first() {
            return true;
        }
        let encoded = self.encoded(head.height, head.offset).ok().flatten();
        let block = encoded.and_then(|(block, _)| Block::decode(&block).ok());
        block.is_some_and(|block| {
            block.header.height == head.height
                && block.header.state_root == head.root
                && block.id() == state.last_block()
        })
    }

    /// Executes the blocks after `head`, which fits and whose state is given, and shows each to `each`; gives the last state.
    pub fn execute_after(
        &self,
        head: &IndexHead,
        mut state: State,
        mut each: impl FnMut(&Block, u64, &Executed) -> Result<(), StoreError>,
    ) -> Result<State, StoreError> {
        for segment in self.segments.iter().filter(|segment| segment.end() > head.height + 1) {
            let known = segment.first <= head.height;
            let from = if known { head.offset } else { 0 };
            for frame in segment.log.frames(from).skip(usize::from(known)) {
                let (offset, bytes) = frame?;
                let block = Block::decode(&Record::decode(&bytes)?.block)?;
                let height = block.header.height;
                let executed = execute_block(&state, &block)
                    .map_err(|reason| StoreError::Invalid { height, reason: reason.to_string() })?;
                each(&block, offset, &executed)?;
                state = executed.state;
            }
        }
        Ok(state)
    }
}

impl IndexHead {
    /// Before the first block of a log that begins with the one after this state.
    pub fn before(state: &State) -> IndexHead {
        IndexHead { height: state.height(), root: state.root(), offset: 0 }
    }
}

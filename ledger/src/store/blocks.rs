//! The block log: a frame for each block with its certificate. It alone says what is final; whoever keeps an index beside it
//! compares the two at opening, and executes what the index lacks.

use super::{EncodedBlock, StoreError};
use crate::{
    Block, Certificate,
    block::{MAX_BLOCK_BYTES, MAX_CERTIFICATE_BYTES},
    disk::Disk,
    framelog::{Format, FrameLog},
    state::{Executed, State, execute_block},
};
use ailo_protocol::{
    Hash,
    canonical::{self, CodecError, Decode, Encode},
};
use std::{path::Path, sync::Arc};

const MAX_RECORD_BYTES: usize = MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES + 16;

/// The log of all final blocks.
pub struct BlockLog {
    log: FrameLog,
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
    /// The block's offset in the log; 0 for none.
    pub offset: u64,
}

impl BlockLog {
    /// Opens the log at `path`, or makes an empty one.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, network: Hash) -> Result<BlockLog, StoreError> {
        let format = Format { kind: *b"BLKS", network, max_frame: MAX_RECORD_BYTES };
        Ok(BlockLog { log: FrameLog::open_on(disk, path, format)? })
    }

    /// Appends the block that follows the one at `last`; gives its offset once it is on disk.
    pub fn append(&mut self, last: u64, block: &Block, certificate: &Certificate) -> Result<u64, StoreError> {
        let got = block.header.height;
        if got != last + 1 || certificate.height != got {
            return Err(StoreError::NotNext { last, got });
        }
        let record = Record { block: block.encode(), certificate: canonical::encode(certificate) };
        Ok(self.log.append(&canonical::encode(&record))?)
    }

    /// Canonical bytes of the block at `offset` and of its certificate.
    pub fn encoded(&self, offset: u64) -> Result<EncodedBlock, StoreError> {
        let record = Record::decode(&self.log.read(offset)?)?;
        Ok((record.block, record.certificate))
    }

    /// Whether an index whose head and state are these stands at a block of the log.
    pub fn fits(&self, head: &IndexHead, state: &State) -> bool {
        if state.height() != head.height || state.root() != head.root {
            return false;
        }
        if head.height == 0 {
            return true;
        }
        let block = self.encoded(head.offset).ok().and_then(|(block, _)| Block::decode(&block).ok());
        block.is_some_and(|block| {
            block.header.height == head.height
                && block.header.state_root == head.root
                && block.id() == state.last_block()
        })
    }

    /// Executes the blocks after `head`, whose state is given, and shows each to `each`; gives the last state.
    pub fn execute_after(
        &self,
        head: &IndexHead,
        mut state: State,
        mut each: impl FnMut(&Block, u64, &Executed) -> Result<(), StoreError>,
    ) -> Result<State, StoreError> {
        for frame in self.log.frames(head.offset).skip(usize::from(head.height > 0)) {
            let (offset, bytes) = frame?;
            let block = Block::decode(&Record::decode(&bytes)?.block)?;
            let height = block.header.height;
            let executed = execute_block(&state, &block)
                .map_err(|reason| StoreError::Invalid { height, reason: reason.to_string() })?;
            each(&block, offset, &executed)?;
            state = executed.state;
        }
        Ok(state)
    }
}

impl IndexHead {
    /// Before the first block.
    pub fn genesis(state: &State) -> IndexHead {
        IndexHead { height: 0, root: state.root(), offset: 0 }
    }
}

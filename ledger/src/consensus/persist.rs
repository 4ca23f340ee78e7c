//! What the host keeps on disk: the write-ahead log of the running height and the journal of everything signed.
//!
//! Two rules make a crash harmless. What led to a ballot is in the log before the ballot is in the journal, so replay
//! derives the ballot again; and the ballot is in the journal before the signature leaves the node, so whatever replay
//! derives, no rival ballot is ever signed.

use super::codec::Ballot;
use crate::framelog::LogError;

/// Storage of the host. The node's is [`crate::store::ConsensusFiles`].
pub trait Persist {
    /// Remembers an entry of the height's write-ahead log. Durable once [`Persist::sign`] has returned.
    fn append(&mut self, height: u64, entry: Vec<u8>) -> Result<(), LogError>;

    /// Makes the entries durable, then the fact that this ballot is signed.
    fn sign(&mut self, ballot: &Ballot) -> Result<(), SignError>;

    /// The height's block is in the block log: drops the entries, and ballots that no longer matter.
    fn finish(&mut self, height: u64) -> Result<(), LogError>;
}

/// What the write-ahead log held when the node started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The height that was running.
    pub height: u64,
    /// Its entries, in order.
    pub entries: Vec<Vec<u8>>,
}

/// Why a ballot is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A rival was signed before; signing both would be equivocation.
    #[error("another ballot of this height, round and step was signed before: {0:?}")]
    Conflict(Ballot),
    /// The height is final.
    #[error("height {0} and all below are final: nothing more is signed there")]
    Final(u64),
    /// The disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

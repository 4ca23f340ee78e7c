//! Contributions' payloads on disk, by hash: this node's own, sealed until the round's commits have closed, and those of
//! others that it fetched.

use crate::{datadir::write_atomically, error::NodeError};
use ailo_protocol::{hash::Domain, Hash};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Payloads {
    dir: PathBuf,
    /// Round of each payload that this process knows.
    known: Arc<Mutex<BTreeMap<Hash, u64>>>,
}

impl Payloads {
    /// Opens the folder; files of earlier runs are found again by hash.
    pub fn open(dir: PathBuf) -> Payloads {
        Payloads { dir, known: Arc::default() }
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    /// Keeps the payload of a round.
    pub fn put(&self, round: u64, hash: Hash, bytes: &[u8]) -> Result<(), NodeError> {
        write_atomically(&self.path(&hash), bytes)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, round);
        Ok(())
    }

    /// The round that a payload belongs to, as far as this process knows.
    pub fn round_of(&self, hash: &Hash) -> Option<u64> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(hash).copied()
    }

    /// The payload's bytes, if they are here and whole.
    pub fn get(&self, hash: &Hash) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path(hash)).ok()?;
        (Hash::of(Domain::Blob, &bytes) == *hash).then_some(bytes)
    }

    /// Total length and the bytes from `offset`, at most `length` of them.
    pub fn read(&self, hash: &Hash, offset: u64, length: usize) -> Option<(u64, Vec<u8>)> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(self.path(hash)).ok()?;
        let total = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(offset.min(total))).ok()?;
        let mut bytes = Vec::new();
        file.take(length as u64).read_to_end(&mut bytes).ok()?;
        Some((total, bytes))
    }

    /// Forgets payloads of rounds before `oldest`, and files that no round of this process claims.
    pub fn prune(&self, oldest: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, round| *round >= oldest);
        let Ok(files) = std::fs::read_dir(&self.dir) else { return };
        for file in files.flatten() {
            let name = file.file_name();
            let hash = name.to_str().and_then(|name| name.parse::<Hash>().ok());
            if hash.is_none_or(|hash| !known.contains_key(&hash)) {
                if let Err(e) = std::fs::remove_file(file.path()) {
                    tracing::debug!(error = %e, "cannot remove an old payload");
                }
            }
        }
    }
}

//! Contributions' payloads on disk, by hash: this node's own, sealed until the round's commits have closed, and those of
//! others that it fetched.

use crate::{datadir::write_atomically, error::NodeError};
use ailo_protocol::{Hash, hash::Domain};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Payloads {
    dir: PathBuf,
    /// Round of each payload; it stands in the file's name too, so that a restart knows it.
    known: Arc<Mutex<BTreeMap<Hash, u64>>>,
}

impl Payloads {
    /// Opens the folder and finds what earlier runs left there.
    pub fn open(dir: PathBuf) -> Payloads {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let known = files.filter_map(|file| {
            let name = file.file_name();
            let (round, hash) = name.to_str()?.split_once('-')?;
            Some((hash.parse().ok()?, round.parse().ok()?))
        });
        let known = known.collect();
        Payloads { dir, known: Arc::new(Mutex::new(known)) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Hash, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, round: u64, hash: &Hash) -> PathBuf {
        self.dir.join(format!("{round}-{hash}"))
    }

    fn path(&self, hash: &Hash) -> Option<PathBuf> {
        self.round_of(hash).map(|round| self.file(round, hash))
    }

    /// Keeps the payload of a round.
    pub fn put(&self, round: u64, hash: Hash, bytes: &[u8]) -> Result<(), NodeError> {
        write_atomically(&self.file(round, &hash), bytes)?;
        self.known().insert(hash, round);
        Ok(())
    }

    /// The round that a payload belongs to, as far as this process knows.
    pub fn round_of(&self, hash: &Hash) -> Option<u64> {
        self.known().get(hash).copied()
    }

    /// The payload's bytes, if they are here and whole.
    pub fn get(&self, hash: &Hash) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path(hash)?).ok()?;
        (Hash::of(Domain::Blob, &bytes) == *hash).then_some(bytes)
    }

    /// Total length and the bytes from `offset`, at most `length` of them.
    pub fn read(&self, hash: &Hash, offset: u64, length: usize) -> Option<(u64, Vec<u8>)> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(self.path(hash)?).ok()?;
        let total = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(offset.min(total))).ok()?;
        let mut bytes = Vec::new();
        file.take(length as u64).read_to_end(&mut bytes).ok()?;
        Some((total, bytes))
    }

    /// Forgets payloads of rounds before `oldest`.
    pub fn prune(&self, oldest: u64) {
        self.known().retain(|hash, round| {
            let keep = *round >= oldest;
            if !keep && let Err(e) = std::fs::remove_file(self.file(*round, hash)) {
                tracing::debug!(error = %e, "cannot remove an old payload");
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn payloads_survive_a_restart_and_go_with_their_round() {
        let dir = tempfile::tempdir().unwrap();
        let hash = |bytes: &[u8]| Hash::of(Domain::Blob, bytes);
        let first = Payloads::open(dir.path().into());
        first.put(3, hash(b"three"), b"three").unwrap();
        first.put(4, hash(b"four"), b"four").unwrap();
        let again = Payloads::open(dir.path().into());
        assert_eq!((again.get(&hash(b"three")).unwrap(), again.round_of(&hash(b"four"))), (b"three".to_vec(), Some(4)));
        assert_eq!(again.read(&hash(b"four"), 1, 2), Some((4, b"ou".to_vec())));
        again.prune(4);
        assert_eq!((again.get(&hash(b"three")), std::fs::read_dir(dir.path()).unwrap().count()), (None, 1));
        std::fs::write(again.path(&hash(b"four")).unwrap(), b"FOUR").unwrap();
        assert_eq!(again.get(&hash(b"four")), None, "a damaged payload is none");
    }
}

//! A node's folder: its layout, its lock against a second process, and small files written atomically.
//!
//! ```text
//! lock            held while a node runs
//! network.toml    the network's founding document
//! node.json       node key (0600)         wallet.json   wallet key (0600)
//! ledger/         block log, snapshots, consensus WAL, signature journal, index, anchor
//! model/          model states by root    payloads/     contributions by hash
//! logs/           what the node has logged (0600), bounded
//! api-keys.json   hashes of API keys (0600)
//! rpc             address of JSON-RPC while a node runs
//! operator.token  what tells its operator from others meanwhile (0600)
//! ```

use crate::error::NodeError;
use ailo_protocol::{
    Address, Keypair,
    keystore::{self, Kind},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// A node's folder that this process holds the lock of.
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// Where a node's folder lies when none is named: `${XDG_DATA_HOME:-~/.local/share}/ailo/NAME`.
pub fn default_dir(name: &str) -> Result<PathBuf, NodeError> {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .ok_or_else(|| {
            NodeError::Usage("neither HOME nor XDG_DATA_HOME is set: name a folder with --data-dir".into())
        })?;
    Ok(base.join("ailo").join(name))
}

impl DataDir {
    /// Creates the folder where needed and locks it.
    pub fn open(root: &Path) -> Result<DataDir, NodeError> {
        for dir in [root.to_path_buf(), root.join("ledger"), root.join("model"), root.join("payloads")] {
            fs::create_dir_all(&dir).map_err(|e| NodeError::file("create the folder", &dir, e))?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).map_err(|e| NodeError::file("create", &path, e))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            NodeError::Usage(format!(
                "another ailo-node runs in {}: stop it first, or choose another folder with --data-dir",
                root.display()
            ))
        })?;
        // What a killed process left half written; nobody else writes here while the lock is held.
        for dir in [root.to_path_buf(), root.join("model"), root.join("payloads")] {
            let parts = fs::read_dir(&dir).into_iter().flatten().flatten().map(|file| file.path());
            for part in parts.filter(|path| path.extension().is_some_and(|e| e == "part")) {
                fs::remove_file(&part).map_err(|e| NodeError::file("remove", &part, e))?;
            }
        }
        Ok(DataDir { root: root.to_path_buf(), _lock: lock })
    }

    /// The node's or the wallet's key, made if there is none yet.
    pub fn key(&self, kind: Kind) -> Result<Keypair, NodeError> {
        let path = self.path(match kind {
            Kind::Node => "node.json",
            Kind::Wallet => "wallet.json",
        });
        if path.exists() {
            return Ok(keystore::load(&path, kind)?);
        }
        let key = match kind {
            Kind::Node => Keypair::generate(),
            Kind::Wallet => keystore::key_from_phrase(&keystore::new_phrase())?,
        };
        keystore::create(&path, kind, &key)?;
        Ok(key)
    }

    /// The wallet that the node works for: the one named, or the folder's, made if there is none; with its key if that
    /// lies here.
    pub fn wallet(&self, named: Option<Address>) -> Result<(Address, Option<Keypair>), NodeError> {
        if let Some(named) = named.filter(|_| !self.path("wallet.json").exists()) {
            return Ok((named, None));
        }
        let key = self.key(Kind::Wallet)?;
        let own = Address::from(key.public());
        Ok(match named {
            Some(other) if other != own => (other, None),
            _ => (own, Some(key)),
        })
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Writes a file so that a crash leaves the old one or the new one, never a part.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    ailo_protocol::file::write_atomically(path, [bytes]).map_err(|e| NodeError::file("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains("another ailo-node runs") && refused.contains("--data-dir"), "{refused}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }
}

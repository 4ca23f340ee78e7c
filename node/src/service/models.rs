//! Model states that this node holds: the network's head and a few before it, in memory for serving and on disk for the
//! next start, each under its Merkle root.

use crate::error::NodeError;
use ailo_protocol::{Hash, params::ModelConfig};
use ailo_training::state::ModelState;
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

/// States kept, the head included.
const KEPT: usize = 3;

/// A state with what serving it needs.
pub struct Held {
    /// Merkle root.
    pub root: Hash,
    /// Weights and momentum.
    pub state: ModelState,
    /// Hashes of its chunks, in order.
    pub chunk_hashes: Vec<Hash>,
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Models {
    dir: PathBuf,
    config: ModelConfig,
    held: Arc<RwLock<VecDeque<Arc<Held>>>>,
}

impl Models {
    /// Opens the folder; nothing is loaded before it is asked for.
    pub fn open(dir: PathBuf, config: ModelConfig) -> Models {
        Models { dir, config, held: Arc::default() }
    }

    /// Shape of the network's model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn path(&self, root: &Hash) -> PathBuf {
        self.dir.join(format!("{root}.state"))
    }

    /// The state with this root, from memory or disk.
    pub fn get(&self, root: &Hash) -> Option<Arc<Held>> {
        let in_memory =
            self.held.read().unwrap_or_else(PoisonError::into_inner).iter().find(|h| h.root == *root).cloned();
        in_memory.or_else(|| {
            let state = ModelState::load(&self.config, &self.path(root), root).ok()?;
            Some(self.remember(Held::new(state)))
        })
    }

    fn remember(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|h| h.root != held.root);
        all.push_back(held.clone());
        while all.len() > KEPT {
            all.pop_front();
        }
        held
    }

    /// Keeps a state in memory and on disk, and drops the oldest.
    pub fn put(&self, state: ModelState) -> Result<Arc<Held>, NodeError> {
        let held = self.remember(Held::new(state));
        held.state.save(&self.path(&held.root))?;
        let kept: Vec<PathBuf> = {
            let all = self.held.read().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|h| self.path(&h.root)).collect()
        };
        if let Ok(files) = std::fs::read_dir(&self.dir) {
            let states =
                files.flatten().map(|f| f.path()).filter(|path| path.extension().is_some_and(|e| e == "state"));
            for file in states.filter(|path| !kept.contains(path)) {
                if let Err(e) = std::fs::remove_file(&file) {
                    tracing::debug!(error = %e, "cannot remove an old model state");
                }
            }
        }
        Ok(held)
    }
}

impl Held {
    fn new(state: ModelState) -> Held {
        let chunk_hashes = state.chunk_hashes();
        Held { root: ailo_protocol::merkle::root(&chunk_hashes), state, chunk_hashes }
    }
}

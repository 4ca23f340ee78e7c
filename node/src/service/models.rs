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
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The oldest first.
    held: VecDeque<Arc<Held>>,
    /// The network's head: never dropped, however many states were computed that nobody voted for.
    head: Option<Hash>,
}

impl Models {
    /// Opens the folder; nothing is loaded before it is asked for.
    pub fn open(dir: PathBuf, config: ModelConfig) -> Models {
        Models { dir, config, inner: Arc::default() }
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
        let in_memory = self.read().held.iter().find(|h| h.root == *root).cloned();
        in_memory.or_else(|| {
            let state = ModelState::load(&self.config, &self.path(root), root).ok()?;
            Some(self.remember(Held::new(state)))
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which state is the network's head.
    pub fn pin(&self, root: Hash) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).head = Some(root);
    }

    fn remember(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.held.retain(|h| h.root != held.root);
        inner.held.push_back(held.clone());
        while inner.held.len() > KEPT {
            // The newest is at the end, so one of the others goes: the oldest that is not the head.
            let oldest = inner.held.iter().position(|h| Some(h.root) != inner.head).unwrap_or(0);
            inner.held.remove(oldest);
        }
        held
    }

    /// Keeps a state in memory and on disk, and drops the oldest.
    pub fn put(&self, state: ModelState) -> Result<Arc<Held>, NodeError> {
        let held = self.remember(Held::new(state));
        held.state.save(&self.path(&held.root))?;
        let kept: Vec<PathBuf> = self.read().held.iter().map(|h| self.path(&h.root)).collect();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn states_that_nobody_voted_for_never_push_out_the_head() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            ModelConfig { layers: 1, width: 8, heads: 1, kv_heads: 1, ffn: 8, ..ailo_protocol::presets::dev().model };
        let models = Models::open(dir.path().into(), config);
        let head = models.put(ModelState::initial(&config, 0)).unwrap().root;
        models.pin(head);
        for seed in 1..10 {
            models.put(ModelState::initial(&config, seed)).unwrap();
        }
        assert!(models.get(&head).is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), KEPT);
        assert!(Models::open(dir.path().into(), config).get(&head).is_some(), "it is on disk too");
    }
}

//! Model states that this node holds, each under its Merkle root: the network's head and a few more in memory for serving,
//! the same on disk for the next start, and there the bases of past rounds too, whose contributions may be replayed.

use crate::error::NodeError;
use ailo_protocol::{Hash, params::ModelConfig};
use ailo_training::state::ModelState;
use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

/// States in memory, the head included.
const IN_MEMORY: usize = 3;

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
    /// States that stay on disk, in memory or not.
    bases: BTreeSet<Hash>,
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

    /// Says which state is the network's head, and which others are to stay on disk: `bases`, and what is there and `asked` for.
    pub fn keep(&self, head: Hash, bases: impl Iterator<Item = Hash>, asked: impl Fn(&Hash) -> bool) {
        let here = self.roots().into_iter().filter(asked);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        (inner.head, inner.bases) = (Some(head), bases.chain(here).collect());
    }

    /// Roots of the states that are here.
    pub fn roots(&self) -> BTreeSet<Hash> {
        let inner = self.read();
        let held = inner.held.iter().map(|held| held.root);
        held.chain(inner.bases.iter().copied()).chain(inner.head).collect()
    }

    fn remember(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.held.retain(|h| h.root != held.root);
        inner.held.push_back(held.clone());
        while inner.held.len() > IN_MEMORY {
            // The newest is at the end, so one of the others goes: the oldest that is not the head.
            let oldest = inner.held.iter().position(|h| Some(h.root) != inner.head).unwrap_or(0);
            inner.held.remove(oldest);
        }
        held
    }

    /// Keeps a state in memory and on disk, and drops what need not be kept any more.
    pub fn put(&self, state: ModelState) -> Result<Arc<Held>, NodeError> {
        let held = self.remember(Held::new(state));
        held.state.save(&self.path(&held.root))?;
        let kept: Vec<PathBuf> = {
            let inner = self.read();
            let roots = inner.held.iter().map(|h| &h.root).chain(&inner.bases).chain(&inner.head);
            roots.map(|root| self.path(root)).collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn states_that_nobody_voted_for_never_push_out_the_head_nor_the_bases_of_past_rounds() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            ModelConfig { layers: 1, width: 8, heads: 1, kv_heads: 1, ffn: 8, ..ailo_protocol::presets::dev().model };
        let models = Models::open(dir.path().into(), config);
        let [base, head] = [0, 1].map(|seed| models.put(ModelState::initial(&config, seed)).unwrap().root);
        models.keep(head, [base].into_iter(), |_| false);
        for seed in 2..10 {
            models.put(ModelState::initial(&config, seed)).unwrap();
        }
        assert!(models.get(&head).is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), IN_MEMORY + 1);
        let again = Models::open(dir.path().into(), config);
        assert!(again.get(&head).is_some() && again.get(&base).is_some(), "they are on disk too");
        again.keep(head, std::iter::empty(), |root| *root == base);
        (30..32).for_each(|seed| drop(again.put(ModelState::initial(&config, seed)).unwrap()));
        assert!(again.get(&base).is_some(), "somebody is accused over it");
        again.keep(head, std::iter::empty(), |_| false);
        (10..12).for_each(|seed| drop(again.put(ModelState::initial(&config, seed)).unwrap()));
        assert!(again.get(&base).is_none(), "no round needs it any more");
    }
}

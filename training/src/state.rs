//! The state that all nodes of a network share: the model's weights and the outer optimiser's momentum.
//!
//! *Canonical bytes* are the weights, then the momentum, as little-endian f32. They travel in chunks of
//! [`CHUNK_BYTES`]; the Merkle root over the chunks' hashes is what the ledger names.
//!
//! *The initial state* follows from the model's shape and the genesis seed, bit for bit on every machine: the
//! randomness is a hash's, and only correctly rounded operations touch a float. Norms start at 1, biases at 0,
//! everything else with a standard deviation of 0.02, divided by sqrt(2 layers) where it adds into the residual stream
//! (as GPT-2 does).

use crate::{
    error::{Result, TrainingError},
    file,
    model::{Init, layout, parameter_count},
};
use ailo_protocol::{Hash, hash::Domain, merkle, params::ModelConfig};
use rayon::prelude::*;
use std::path::Path;

/// Bytes of a chunk; the last one may be shorter.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Values in a chunk.
const CHUNK_VALUES: usize = CHUNK_BYTES / 4;
/// Standard deviation of the initial weights (GPT-2's).
const INIT_STD: f64 = 0.02;

/// Weights and outer momentum, in the order of [`layout`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelState {
    /// The weights.
    pub weights: Vec<f32>,
    /// The outer optimiser's momentum.
    pub momentum: Vec<f32>,
}

/// Number of chunks of a state of this shape.
pub fn chunk_count(cfg: &ModelConfig) -> usize {
    (2 * parameter_count(cfg)).div_ceil(CHUNK_VALUES)
}

impl ModelState {
    /// The state that a network starts from.
    pub fn initial(cfg: &ModelConfig, seed: u64) -> ModelState {
        let residual_std = INIT_STD / (2.0 * f64::from(cfg.layers)).sqrt();
        let weights: Vec<f32> = layout(cfg)
            .par_iter()
            .enumerate()
            .map(|(i, parameter)| match parameter.init {
                Init::Zeros => vec![0.0; parameter.len()],
                Init::Ones => vec![1.0; parameter.len()],
                Init::Normal => random(seed, i as u64, INIT_STD, parameter.len()),
                Init::Residual => random(seed, i as u64, residual_std, parameter.len()),
            })
            .flatten_iter()
            .collect();
        ModelState { momentum: vec![0.0; weights.len()], weights }
    }

    /// Canonical bytes of chunk `index`; none beyond the last.
    pub fn chunk(&self, index: usize) -> Option<Vec<u8>> {
        let (count, total) = (self.weights.len(), self.weights.len() + self.momentum.len());
        let start = index.checked_mul(CHUNK_VALUES).filter(|&start| start < total)?;
        let end = total.min(start + CHUNK_VALUES);
        // A chunk may hold the end of the weights and the start of the momentum.
        let weights = &self.weights[start.min(count)..end.min(count)];
        let momentum = &self.momentum[start.saturating_sub(count)..end.saturating_sub(count)];
        Some(weights.iter().chain(momentum).flat_map(|x| x.to_le_bytes()).collect())
    }

    /// The canonical bytes, chunk by chunk.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        (0..).map_while(|index| self.chunk(index))
    }

    /// Hashes of the chunks, in order.
    pub fn chunk_hashes(&self) -> Vec<Hash> {
        let count = (self.weights.len() + self.momentum.len()).div_ceil(CHUNK_VALUES);
        (0..count).into_par_iter().filter_map(|i| self.chunk(i)).map(|bytes| chunk_hash(&bytes)).collect()
    }

    /// The Merkle root that names this state.
    pub fn root(&self) -> Hash {
        merkle::root(&self.chunk_hashes())
    }

    /// All canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.weights.iter().chain(&self.momentum).flat_map(|x| x.to_le_bytes()).collect()
    }

    /// The state of these canonical bytes, if they are as many as the model needs and every number is finite.
    pub fn from_bytes(cfg: &ModelConfig, bytes: &[u8]) -> Result<ModelState> {
        let count = parameter_count(cfg);
        if bytes.len() != 8 * count {
            return Err(TrainingError::State { reason: "its length is not that of weights and momentum" });
        }
        let mut weights: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if !weights.iter().all(|x| x.is_finite()) {
            return Err(TrainingError::State { reason: "it holds a number that is not finite" });
        }
        let momentum = weights.split_off(count);
        Ok(ModelState { weights, momentum })
    }

    /// Writes the canonical bytes to `path`, atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::write_atomically(path, self.chunks())
    }

    /// Reads the state that `root` names from `path`.
    pub fn load(cfg: &ModelConfig, path: &Path, root: &Hash) -> Result<ModelState> {
        let bytes = file::read(path, 8 * parameter_count(cfg) as u64)?;
        let state = ModelState::from_bytes(cfg, &bytes).map_err(|_| TrainingError::StateRoot { path: path.into() })?;
        if state.root() == *root { Ok(state) } else { Err(TrainingError::StateRoot { path: path.into() }) }
    }
}

/// The hash of one chunk's bytes: what a fetched chunk is checked against.
pub fn chunk_hash(bytes: &[u8]) -> Hash {
    Hash::of(Domain::ModelChunk, bytes)
}

/// `len` nearly normal numbers of mean 0 for parameter `index`: sums of four uniform 16-bit numbers (Irwin-Hall).
fn random(seed: u64, index: u64, std: f64, len: usize) -> Vec<f32> {
    let seed = Hash::of_parts(Domain::Lot, &[b"initial weights", &seed.to_le_bytes(), &index.to_le_bytes()]);
    let mut stream = seed.stream();
    // Four uniform numbers in 0..2^16 have the variance 4 (2^32 - 1) / 12 together, and the mean 2 (2^16 - 1).
    let scale = std / (4.0 * (f64::from(u32::MAX)) / 12.0).sqrt();
    (0..len)
        .map(|_| {
            let bits = stream.next_u64();
            let sum = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum::<u64>() as i64;
            ((sum - 2 * 0xffff) as f64 * scale) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::params::{Style, Tokenizer};

    fn cfg(style: Style) -> ModelConfig {
        let kv_heads = if style == Style::Gpt2 { 4 } else { 2 };
        ModelConfig {
            style,
            tokenizer: Tokenizer::Bytes,
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads,
            ffn: 128,
            context: 32,
        }
    }

    #[test]
    fn the_initial_state_has_the_same_bits_on_every_machine() {
        let root = |style, seed| ModelState::initial(&cfg(style), seed).root().to_string();
        assert_eq!(root(Style::Gpt2, 1), "f95ea99a81eed9cb04357bb0810068740604693a8e0a40ab7ff3a16ae411d328");
        assert_eq!(root(Style::Modern, 1), "05a3ed0c43659e053b4ea2c4c22f31115a1e1f241e079a4fc623d3c5ab58a683");
        assert_ne!(root(Style::Modern, 1), root(Style::Modern, 2));
    }

    #[test]
    fn initial_weights_are_spread_as_gpt2_s() {
        let cfg = cfg(Style::Gpt2);
        let state = ModelState::initial(&cfg, 1);
        let mut rest = state.weights.as_slice();
        for parameter in layout(&cfg) {
            let (values, after) = rest.split_at(parameter.len());
            rest = after;
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let std = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
            let (want_mean, want_std) = match parameter.init {
                Init::Zeros => (0.0, 0.0),
                Init::Ones => (1.0, 0.0),
                Init::Normal => (0.0, 0.02),
                Init::Residual => (0.0, 0.01),
            };
            assert!(
                (mean - want_mean).abs() < 0.002 && (std - want_std).abs() < 0.001,
                "{}: {mean} {std}",
                parameter.name
            );
        }
        assert!(rest.is_empty() && state.momentum.iter().all(|&x| x == 0.0));
    }

    #[test]
    fn chunks_are_the_canonical_bytes_and_the_root_is_theirs() {
        let cfg = ModelConfig { layers: 3, ..cfg(Style::Gpt2) };
        let mut state = ModelState::initial(&cfg, 1);
        state.momentum[0] = 0.5;
        let chunks: Vec<Vec<u8>> = state.chunks().collect();
        assert_eq!(chunks.len(), chunk_count(&cfg));
        assert!(chunks.len() > 2 && chunks.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK_BYTES));
        assert_eq!(chunks.concat(), state.to_bytes());
        assert_eq!(merkle::root(&chunks.iter().map(|c| chunk_hash(c)).collect::<Vec<_>>()), state.root());
        assert_eq!(state.chunk(chunks.len()), None);
        assert_eq!(ModelState::from_bytes(&cfg, &chunks.concat()).unwrap(), state);
    }

    #[test]
    fn bytes_of_another_length_or_with_infinities_are_no_state() {
        let cfg = cfg(Style::Modern);
        let mut bytes = ModelState::initial(&cfg, 1).to_bytes();
        assert!(ModelState::from_bytes(&cfg, &bytes[4..]).is_err());
        bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(ModelState::from_bytes(&cfg, &bytes).is_err());
    }

    #[test]
    fn a_saved_state_loads_under_its_own_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let cfg = cfg(Style::Modern);
        let state = ModelState::initial(&cfg, 1);
        state.save(&path).unwrap();
        assert_eq!(ModelState::load(&cfg, &path, &state.root()).unwrap(), state);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
        assert!(matches!(ModelState::load(&cfg, &path, &Hash::ZERO), Err(TrainingError::StateRoot { .. })));
        assert!(matches!(
            ModelState::load(&cfg, folder.path().join("none").as_path(), &Hash::ZERO),
            Err(TrainingError::File { .. })
        ));
    }
}

//! A model that is served: where its weights are, what it is called, and how it reads text.

use crate::service::models::Held;
use ailo_protocol::{
    Hash,
    hash::Domain,
    inference::MAX_ROOM,
    params::{ModelConfig, Tokenizer},
};
use ailo_training::{
    Result, TrainingError,
    checkpoint::Checkpoint,
    engine::{Dtype, Engine, Shape, Weights},
    text::Text,
};
use std::{
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

/// Tokens that end a text, at most.
const MAX_ENDS: usize = 64;

/// A model.
pub struct Model {
    /// What names it: its weights, their type and its tokenizer have one part each.
    pub id: Hash,
    /// For people.
    pub name: String,
    /// What it looks like.
    pub shape: Shape,
    /// How it reads text.
    pub text: Text,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// Bytes of all weights.
    bytes: u64,
    source: Source,
    /// All of it, for checks.
    whole: OnceLock<Option<Engine>>,
}

enum Source {
    /// With what the layers hold.
    Folder(Box<Checkpoint>, Option<Dtype>, Vec<Hash>),
    Own(ModelConfig, Arc<Held>),
}

/// The weights of a state.
struct Values(Arc<Held>);

impl AsRef<[f32]> for Values {
    fn as_ref(&self) -> &[f32] {
        &self.0.state.weights
    }
}

/// How products with weights of a type are made. Who computes other bits serves another model: with a golden hash of the engine's tests
/// changes a name here.
fn arithmetic(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
        Dtype::Int8 => "int8 by int16",
    }
}

impl Model {
    /// A checkpoint's folder, with its matrices in `dtype`, or as they are. All weights are read once for the model's id; `progress` is told bytes
    /// done and in all.
    ///
    /// # Errors
    ///
    /// [`TrainingError::File`] and [`TrainingError::Checkpoint`], as the folder has it.
    pub fn open(folder: &Path, dtype: Option<Dtype>, progress: &mut dyn FnMut(u64, u64)) -> Result<Model> {
        let checkpoint = Checkpoint::open(folder)?;
        let text = Text::open(folder)?;
        let shape = checkpoint.shape().clone();
        let mut read = 0;
        let mut progress = |done, total| {
            read = total;
            progress(done, total);
        };
        let hashes = checkpoint.hashes(&mut progress)?;
        let mut known = format!("{shape:?} {}", dtype.map_or("as it is", arithmetic)).into_bytes();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).unwrap_or_default(); // The second may be missing.
            known.extend(Hash::of(Domain::Blob, &bytes).0);
        }
        known.extend(hashes.iter().flat_map(|hash| hash.0));
        let mut ends = checkpoint.ends().to_vec();
        ends.extend(text.ends());
        ends.sort_unstable();
        ends.dedup();
        ends.truncate(MAX_ENDS);
        let name = folder
            .canonicalize()
            .ok()
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
        Ok(Model {
            id: Hash::of(Domain::Model, &known),
            name: name.unwrap_or_else(|| "model".into()),
            shape,
            text,
            ends,
            bytes: read,
            source: Source::Folder(Box::new(checkpoint), dtype, hashes),
            whole: OnceLock::new(),
        })
    }

    /// What names the state of the network's own model with this root.
    pub fn own_id(root: &Hash) -> Hash {
        Hash::of_parts(Domain::Model, &[b"own", &root.0])
    }

    /// A state of the network's own model.
    pub fn own(config: ModelConfig, held: Arc<Held>) -> Model {
        let text = Text::Own(config.tokenizer);
        // Each round brings another state; clients need not follow its name.
        let name = "ailo".to_string();
        let ends = if config.tokenizer == Tokenizer::Gpt2 { text.ends() } else { Vec::new() };
        let id = Model::own_id(&held.root);
        let bytes = 4 * held.state.weights.len() as u64;
        Model {
            id,
            name,
            shape: Shape::of(&config),
            text,
            ends,
            bytes,
            source: Source::Own(config, held),
            whole: OnceLock::new(),
        }
    }

    /// Bytes that a layer takes, about: what is kept in smaller numbers takes less.
    pub fn layer_bytes(&self) -> u64 {
        self.bytes / self.shape.layers as u64
    }

    /// Longest text.
    pub fn context(&self) -> usize {
        self.shape.context.min(MAX_ROOM)
    }

    /// All of it on one thread, where it lies, loaded when it is first asked for; none where it would take memory of its own.
    /// [`check`](super::check) reads it layer by layer then.
    pub fn whole(&self) -> Option<&Engine> {
        let lies = !matches!(self.source, Source::Folder(_, Some(_), _));
        let log = |e: &TrainingError| tracing::warn!(error = %e, "the model can't be loaded as a whole");
        self.whole
            .get_or_init(|| lies.then(|| self.load(0..self.shape.layers, 1).inspect_err(log).ok()).flatten())
            .as_ref()
    }

    /// Loads some of its layers, which compute on up to `threads` threads.
    ///
    /// # Errors
    ///
    /// As [`Model::open`]; the network's own model is there as a whole.
    pub fn load(&self, layers: Range<usize>, threads: usize) -> Result<Engine> {
        let weights = match &self.source {
            Source::Folder(checkpoint, dtype, hashes) => {
                let loaded = checkpoint.load(layers.clone(), *dtype, &mut |_, _| ())?;
                // A single layer's, as they were told: of several, a tied head is not told twice.
                if layers.len() == 1 && loaded.hashes != hashes[layers] {
                    return Err(TrainingError::Checkpoint(
                        "the model's files have changed: start the node again".into(),
                    ));
                }
                loaded.weights
            }
            Source::Own(config, held) if layers == (0..self.shape.layers) => {
                Weights::own(config, Values(held.clone()))?
            }
            Source::Own(..) => {
                return Err(TrainingError::Generate("the network's own model is served as a whole"));
            }
        };
        Engine::new(self.shape.clone(), weights, threads)
    }
}

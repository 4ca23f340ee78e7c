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
    engine::{Dtype, Engine, Gpu, Shape, Weights},
    text::Text,
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

/// So long layers wait for the card's memory that others leave.
const LET_GO: Duration = Duration::from_secs(10);
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
    /// Bytes that each layer takes alone, with what belongs to it at an end of the model.
    sizes: Vec<u64>,
    /// Whether all of it lies in files, or in memory that is used anyway.
    lies: bool,
    source: Source,
    /// All of it, for checks.
    whole: OnceLock<Option<Engine>>,
    /// Computes what is served of it, if it can.
    card: Option<Gpu>,
    /// What a card computes of it now, and the first of its layers: checks use it, too.
    there: Mutex<(usize, Weak<Engine>)>,
}

enum Source {
    Folder(Box<Folder>),
    Own(ModelConfig, Arc<Held>),
}

struct Folder {
    checkpoint: Checkpoint,
    dtype: Option<Dtype>,
    /// What the layers hold.
    hashes: Vec<Hash>,
    /// Where these are kept.
    kept: Option<PathBuf>,
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
    /// A checkpoint's folder, with its matrices in `dtype`, or as they are. All weights are read once for the model's id, and then no more, if what they
    /// hold can be `kept` in a folder; `progress` is told bytes done and in all.
    ///
    /// # Errors
    ///
    /// [`TrainingError::File`] and [`TrainingError::Checkpoint`], as the folder has it.
    pub fn open(
        folder: &Path,
        dtype: Option<Dtype>,
        kept: Option<&Path>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let checkpoint = Checkpoint::open(folder)?;
        let text = Text::open(folder)?;
        let shape = checkpoint.shape().clone();
        let hashes = match kept {
            Some(dir) => checkpoint.hashes_kept(dir, progress)?,
            None => checkpoint.hashes(progress)?,
        };
        let layers = 0..shape.layers;
        let sizes = layers.clone().map(|layer| Ok(checkpoint.size(&(layer..layer + 1), dtype)?.kept));
        let sizes = sizes.collect::<Result<Vec<u64>>>()?;
        let lies = checkpoint.size(&layers, dtype)?.copied == 0;
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
            sizes,
            lies,
            source: Source::Folder(Box::new(Folder { checkpoint, dtype, hashes, kept: kept.map(Path::to_path_buf) })),
            whole: OnceLock::new(),
            card: None,
            there: Mutex::default(),
        })
    }

    /// The same where the first layer takes so many bytes more, for what guesses there.
    #[must_use]
    pub fn with_draft(mut self, bytes: u64) -> Model {
        self.sizes.iter_mut().take(1).for_each(|first| *first = first.saturating_add(bytes));
        self
    }

    /// The same, whose layers are served by a card, where they fit and it computes their bits.
    #[must_use]
    pub fn on_card(self, card: Option<Gpu>) -> Model {
        Model { card, ..self }
    }

    /// What names the state of the network's own model with this root.
    pub fn own_id(root: &Hash) -> Hash {
        Hash::of_parts(Domain::Model, &[b"own", &root.0])
    }

    /// A state of the network's own model.
    ///
    /// # Errors
    ///
    /// [`TrainingError::WeightCount`] if it is none of a model of this shape.
    pub fn own(config: ModelConfig, held: Arc<Held>) -> Result<Model> {
        let text = Text::Own(config.tokenizer);
        let shape = Shape::of(&config);
        let layer = |layer| Ok(Weights::own(&config, Values(held.clone()), layer..layer + 1)?.bytes());
        Ok(Model {
            id: Model::own_id(&held.root),
            // Each round brings another state; clients need not follow its name.
            name: "ailo".into(),
            ends: if config.tokenizer == Tokenizer::Gpt2 { text.ends() } else { Vec::new() },
            sizes: (0..shape.layers).map(layer).collect::<Result<_>>()?,
            lies: true,
            shape,
            text,
            source: Source::Own(config, held),
            whole: OnceLock::new(),
            card: None,
            there: Mutex::default(),
        })
    }

    /// Bytes that the smallest piece of it takes: one layer.
    pub fn least_bytes(&self) -> u64 {
        self.sizes.iter().copied().min().unwrap_or(0)
    }

    /// Spans that fit into so many bytes, of which none lies in another: from each layer on as many as fit.
    pub fn spans(&self, bytes: u64) -> Vec<Range<u32>> {
        let longest = |first: usize| {
            let mut left = bytes;
            let fits = |size: &&u64| {
                let rest = left.checked_sub(**size);
                left = rest.unwrap_or(0);
                rest.is_some()
            };
            first..first + self.sizes[first..].iter().take_while(fits).count()
        };
        let mut spans: Vec<Range<u32>> = Vec::new();
        for span in (0..self.sizes.len()).map(longest).filter(|span| !span.is_empty()) {
            if spans.last().is_none_or(|last| last.end < span.end as u32) {
                spans.push(span.start as u32..span.end as u32);
            }
        }
        spans
    }

    /// Longest text.
    pub fn context(&self) -> usize {
        self.shape.context.min(MAX_ROOM)
    }

    /// All of it on one thread, where it lies, loaded when it is first asked for; none where it would take memory of its own, because it is kept
    /// in another type than the files', or transposed. [`check`](super::check) reads it layer by layer then.
    pub fn whole(&self) -> Option<&Engine> {
        let log = |e: &TrainingError| tracing::warn!(error = %e, "the model can't be loaded as a whole");
        let load = || self.load(0..self.shape.layers, 1, &mut |_, _| ()).inspect_err(log).ok();
        self.whole.get_or_init(|| self.lies.then(load).flatten()).as_ref()
    }

    /// Loads some of its layers, which compute on up to `threads` threads. `progress` is told bytes done and in all.
    ///
    /// # Errors
    ///
    /// As [`Model::open`], and [`TrainingError::Checkpoint`] if it has no such layers, or they are not what they were.
    pub fn load(&self, layers: Range<usize>, threads: usize, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        let weights = match &self.source {
            Source::Folder(folder) => {
                let loaded = folder.checkpoint.load(layers.clone(), folder.dtype, progress)?;
                if loaded.hashes != folder.hashes[layers] {
                    folder.kept.iter().for_each(|dir| folder.checkpoint.forget_hashes(dir));
                    return Err(TrainingError::Checkpoint(
                        "the model's files have changed: start the node again".into(),
                    ));
                }
                loaded.weights
            }
            Source::Own(config, held) => Weights::own(config, Values(held.clone()), layers)?,
        };
        Engine::new(self.shape.clone(), weights, threads)
    }

    /// Whether a card is to serve it.
    pub fn wants_card(&self) -> bool {
        self.card.is_some()
    }

    /// Loaded layers, the first of which is `first`, on the card that serves them; where there is none, or it can't, as they are.
    pub fn moved(&self, engine: Engine, first: usize) -> Arc<Engine> {
        let Some(card) = &self.card else { return Arc::new(engine) };
        // A check may still use what was there before: for the time of a few passes.
        let since = Instant::now();
        while self.there().1.strong_count() > 0 && since.elapsed() < LET_GO {
            std::thread::sleep(Duration::from_millis(20));
        }
        let engine = Arc::new(engine.on_card(card).unwrap_or_else(|refused| {
            let (engine, why) = *refused;
            tracing::warn!(error = %why, "layers are computed by the processor");
            engine
        }));
        if engine.card().is_some() {
            *self.there() = (first, Arc::downgrade(&engine));
        }
        engine
    }

    /// What a card has that serves a layer, and where the layer is in it.
    pub fn on_its_card(&self, layer: usize) -> Option<(Arc<Engine>, Range<usize>)> {
        let (first, engine) = &*self.there();
        let (engine, at) = (engine.upgrade()?, layer.checked_sub(*first)?);
        (at < engine.layers()).then_some((engine, at..at + 1))
    }

    fn there(&self) -> MutexGuard<'_, (usize, Weak<Engine>)> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The type in which most of it is kept.
    pub fn dtype(&self) -> Dtype {
        match &self.source {
            Source::Folder(folder) => folder.dtype.unwrap_or_else(|| folder.checkpoint.dtype()),
            Source::Own(..) => Dtype::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
    use super::*;
    use ailo_training::checkpoint::random;
    use serde_json::json;

    fn model(kind: &str, layers: usize, dtype: Option<Dtype>) -> (tempfile::TempDir, Model) {
        let config = match kind {
            "gpt2" => {
                json!({ "model_type": "gpt2", "n_embd": 64, "n_layer": layers, "n_head": 4, "n_positions": 64, "vocab_size": 262 })
            }
            _ => {
                json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers,
                         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 64,
                         "tie_word_embeddings": true, "rms_norm_eps": 1e-6 })
            }
        };
        let folder = tempfile::tempdir().unwrap();
        random::write(folder.path(), &config, &random::tensors(&config), 2).unwrap();
        random::write_tokenizer(folder.path(), None).unwrap();
        let model = Model::open(folder.path(), dtype, None, &mut |_, _| ()).unwrap();
        (folder, model)
    }

    #[test]
    fn as_many_layers_fit_as_their_type_lets_and_the_ends_take_more() {
        for dtype in [None, Some(Dtype::Bf16), Some(Dtype::Int8)] {
            let (_folder, model) = model("llama", 6, dtype);
            let (layer, end) = (model.sizes[1], model.sizes[0]);
            // Queries, keys and values, the way out, and three maps of the inner width; each row of integers has a scale.
            let (numbers, rows) = (64 * (64 + 32 + 32 + 64 + 160 + 160) + 160 * 64, 64 + 32 + 32 + 64 + 160 + 160 + 64);
            let matrices = match dtype {
                Some(Dtype::Int8) => numbers + 4 * rows,
                Some(Dtype::Bf16) => 2 * numbers,
                _ => 4 * numbers,
            };
            assert_eq!(layer, matrices + 2 * 4 * 64, "{dtype:?}");
            assert!(end > layer && model.least_bytes() == layer);
            assert_eq!(model.spans(3 * layer), [0..2, 1..4, 2..5, 4..6], "{dtype:?}");
            assert_eq!(model.spans(layer - 1), []);
            assert_eq!(model.spans(u64::MAX), [0..6]);
            // A draft leaves less room beside the first layer.
            assert_eq!(model.with_draft(2 * layer).spans(4 * layer), [0..1, 1..5, 3..6], "{dtype:?}");
        }
    }

    #[test]
    fn only_what_lies_in_the_files_as_it_is_needed_is_loaded_as_a_whole_for_checks() {
        for (kind, dtype, whole) in [
            ("llama", None, true),
            ("llama", Some(Dtype::F32), true),
            ("llama", Some(Dtype::Int8), false),
            ("gpt2", None, false),
        ] {
            assert_eq!(model(kind, 2, dtype).1.whole().is_some(), whole, "{kind} {dtype:?}");
        }
    }
}

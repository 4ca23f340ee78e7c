//! What can go wrong in training, in words that tell a person what to do.

use std::{io, path::PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A file that cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A dataset file that is none.
    #[error("{path} is not a packed dataset: {reason}; name the text itself instead")]
    Packed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file beyond the bound.
    #[error("{path} has {bytes} bytes, and at most {max} are read: split it")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Too little text.
    #[error("dataset {name} has {tokens} tokens; at least {min} are needed: give it more text")]
    DatasetTooSmall {
        /// The dataset.
        name: String,
        /// Its tokens.
        tokens: usize,
        /// The least.
        min: usize,
    },
    /// Bytes where text is needed.
    #[error(
        "dataset {name} is not UTF-8 (first bad byte at {offset}), which the gpt2 tokenizer needs: \
         convert the file, or use the tokenizer \"bytes\""
    )]
    NotUtf8 {
        /// The dataset.
        name: String,
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// A dataset packed for another tokenizer.
    #[error("dataset {name} was packed with another tokenizer than the model's: name the text itself instead")]
    OtherTokenizer {
        /// The dataset.
        name: String,
    },
    /// Windows that do not lie within the dataset or are not as many as a round needs.
    #[error("the training windows do not fit dataset {name}: {reason}")]
    Windows {
        /// The dataset.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Bytes that are no model state of this shape.
    #[error("not a state of this model: {reason}")]
    State {
        /// What is wrong.
        reason: &'static str,
    },
    /// A state file whose root is not the expected one.
    #[error("{path} holds another model state than the one asked for: delete it and fetch the state from peers")]
    StateRoot {
        /// The file.
        path: PathBuf,
    },
    /// A number of weights that does not fit the model's shape.
    #[error("{got} weights do not fit a model of {want} parameters")]
    WeightCount {
        /// Weights given.
        got: usize,
        /// Parameters of the model.
        want: usize,
    },
    /// An encoded update that breaks the codec's rules.
    #[error("not a canonical encoded update: {0}")]
    Codec(&'static str),
    /// Updates that cannot be aggregated.
    #[error("cannot aggregate: {0}")]
    Aggregate(String),
    /// An update that the cheap checks refuse.
    #[error("update refused: {0}")]
    Update(String),
    /// Training that left the finite numbers.
    #[error("training diverged at inner step {step}: the loss is not finite; lower training.lr")]
    Diverged {
        /// The step.
        step: u32,
    },
    /// A simulation that cannot be.
    #[error("cannot simulate: {0}")]
    Simulation(String),
    /// The caller asked to stop.
    #[error("training was stopped")]
    Stopped,
    /// A prompt that cannot be continued.
    #[error("cannot generate: {0}")]
    Generate(&'static str),
    /// A model's folder or weights that are not what they should be.
    #[error("{0}")]
    Checkpoint(String),
    /// A failure inside libtorch.
    #[error("libtorch failed (out of memory?): {0}")]
    Torch(#[from] tch::TchError),
    /// A graphics card that fails.
    #[error("{0}")]
    Gpu(#[from] ailo_gpu::GpuError),
    /// A graphics card that rounds in its own way.
    #[error("the card {0} computes other bits than a processor")]
    OtherBits(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, TrainingError>;

//! What training did, and does again: `round`, `replay`, `class`, `aggregate`.

use super::ClientArgs;
use ailo_protocol::{
    PublicKey,
    aggregation::{Aggregation, Pre, Rule},
};
use clap::Args;
use std::path::PathBuf;

pub(super) const AGGREGATE_HELP: &str = "\
Of the n updates in IN.safetensors (a float32 tensor named `updates`, of shape [n, d]) up to F may be attackers'. The result is
a float32 tensor named `aggregate`, of shape [d]; docs/training.md says what each rule guarantees. Rules need n > 2 F.";

/// Flags of `aggregate`.
#[derive(Debug, Args)]
pub struct AggregateArgs {
    /// Rule: trimmed-mean, median, krum, multi-krum, centered-clipping or geometric-median.
    #[arg(long, value_name = "NAME")]
    pub rule: Rule,
    /// Attackers that the rule withstands; 0 for none.
    #[arg(long, value_name = "F")]
    pub f: u32,
    /// What is done before it: nnm (nearest-neighbour mixing) or bucketing.
    #[arg(long, value_name = "NAME")]
    pub pre: Option<Pre>,
    /// With nnm: let updates count by what they have in common with the others, and copies as one.
    #[arg(long)]
    pub weighted: bool,
    /// Give the aggregate the length that the updates have in common.
    #[arg(long)]
    pub restore_length: bool,
    /// Draws the buckets of bucketing, which are printed.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Updates of a bucket.
    #[arg(long, value_name = "SIZE", default_value_t = Aggregation::DEFAULT.bucket)]
    pub bucket: u32,
    /// Centred clipping: the length that an update is clipped to.
    #[arg(long, value_name = "LENGTH", default_value_t = Aggregation::DEFAULT.clip_radius)]
    pub clip_radius: f64,
    /// Centred clipping: steps.
    #[arg(long, value_name = "STEPS", default_value_t = Aggregation::DEFAULT.clip_steps)]
    pub clip_steps: u32,
    /// Geometric median: the least distance that is divided by.
    #[arg(long, value_name = "LENGTH", default_value_t = Aggregation::DEFAULT.smoothing)]
    pub smoothing: f64,
    /// Geometric median: steps.
    #[arg(long, value_name = "STEPS", default_value_t = Aggregation::DEFAULT.weiszfeld_steps)]
    pub weiszfeld_steps: u32,
    /// Where the updates are.
    #[arg(value_name = "IN.safetensors")]
    pub input: PathBuf,
    /// Where the result goes.
    #[arg(value_name = "OUT.safetensors")]
    pub output: PathBuf,
}

/// Flags of `round`.
#[derive(Debug, Args)]
pub struct RoundArgs {
    /// The round [default: the open one].
    pub round: Option<u64>,
    /// Show this node's part [default: with a round, that of the node in the data folder; without, everybody's].
    #[arg(long, value_name = "NODE")]
    pub node: Option<PublicKey>,
    /// Train this node's slot of the open round and check it as the others would, before anything is handed in; nothing is.
    #[arg(long, conflicts_with = "round")]
    pub dry_run: bool,
    /// For --dry-run: train on the CPU even when a GPU is there.
    #[arg(long)]
    pub cpu: bool,
    /// For --dry-run: the network's dataset (repeatable) [default: the embedded corpus].
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Write all that `ailo-node replay FOLDER` needs but the data: the record, the network, and the model that the round started
    /// from, of which nodes keep only the last ones.
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run")]
    pub save: Option<PathBuf>,
    /// Which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `class`.
#[derive(Debug, Args)]
pub struct ClassArgs {
    /// Of the CPU, even when a GPU is there.
    #[arg(long)]
    pub cpu: bool,
}

pub(super) const REPLAY_HELP: &str = "\
Training is bit-exact on machines of one class, so whoever has the record, the model and the data can tell an honest contribution
from a forged one, and compute the round's model. The record is believed as it is (seed, slots, commitments, votes): take it from a
node of your own, or check it by `ailo-node verify`. Fails if a result differs.";

/// Flags of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recorded round: the folder that `ailo-node round N --save` made, or what `ailo-node round N --json` prints.
    #[arg(value_name = "RECORD")]
    pub record: PathBuf,
    /// The network file [default: that in the folder].
    #[arg(long, value_name = "FILE")]
    pub network: Option<PathBuf>,
    /// The model state that the round started from [default: that in the folder; the first one of a network is made here].
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The network's dataset (repeatable) [default: the embedded corpus].
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Only this node's contribution [default: everybody's, and the round's model].
    #[arg(long, value_name = "NODE")]
    pub node: Option<PublicKey>,
    /// Threads of libtorch, which decide the class of results.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Compute on the GPU, if there is one.
    #[arg(long)]
    pub gpu: bool,
}

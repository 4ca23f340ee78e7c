//! `simulate ...`: whole networks in virtual time.

use ailo_ledger::plants::Plant;
use ailo_protocol::{
    aggregation::{Pre, Rule},
    compression::Codec,
};
use ailo_training::simulation::Attack;
use clap::{Args, Subcommand};
use std::{path::PathBuf, str::FromStr};

/// `simulate ...`
#[derive(Debug, Subcommand)]
pub enum SimulateCommand {
    /// The ledger: consensus, blocks, transactions, block sync and disk.
    Ledger(SimulateLedgerArgs),
    /// List the faults that `simulate ledger --plant` knows, one a line.
    Plants,
    /// Training with attackers among the nodes, beside the honest nodes alone.
    #[command(after_help = SIMULATE_TRAINING_HELP)]
    Training(SimulateTrainingArgs),
}

const SIMULATE_TRAINING_HELP: &str = "\
Attackers see all honest updates of a round before they send theirs, know the rule and f, and are never excluded; what each attack
sends is in training/src/simulation/attack.rs. A line of the table compares the loss over all held-out text with that of the
honest nodes alone and a plain mean (to plain), and with that of the same rule without attackers (to quiet).";

/// Attacks to simulate.
#[derive(Clone, Copy, Debug)]
pub enum AttackChoice {
    /// Each of them.
    All,
    /// This one.
    One(Attack),
}

impl FromStr for AttackChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<AttackChoice, String> {
        if name == "all" { Ok(AttackChoice::All) } else { name.parse().map(AttackChoice::One) }
    }
}

/// Flags of `simulate training`.
#[derive(Debug, Clone, Args)]
pub struct SimulateTrainingArgs {
    /// Nodes.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Nodes that attack.
    #[arg(long, default_value_t = 2)]
    pub byzantine: u32,
    /// What they do: all, or some of withhold, zero, random, sign-flip, ipm, ipm-opt, alie, alie-opt, mimic, collude, lonely, stale,
    /// label-flip, infinity, nan.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "all")]
    pub attack: Vec<AttackChoice>,
    /// Rules of aggregation: trimmed-mean, median, krum, multi-krum, centered-clipping, geometric-median.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "trimmed-mean")]
    pub rule: Vec<Rule>,
    /// What is done before the rule: nnm or bucketing.
    #[arg(long, value_name = "NAME")]
    pub pre: Option<Pre>,
    /// With nnm: let updates count by what they have in common with the others, and copies as one.
    #[arg(long)]
    pub weighted: bool,
    /// Give the aggregate the length that the updates have in common.
    #[arg(long)]
    pub restore_length: bool,
    /// Attackers that the rule is told to withstand [default: a third of the nodes, or as many as attack if they are more].
    #[arg(long)]
    pub f: Option<u32>,
    /// How updates are packed: int8, int4, top-k or mask.
    #[arg(long, value_name = "NAME", default_value = "int8")]
    pub codec: Codec,
    /// How unequal the nodes' data are: alpha of a Dirichlet distribution over as many parts of the text as there are nodes; small is
    /// unequal [default: all draw from all data].
    #[arg(long, value_name = "ALPHA", value_parser = positive)]
    pub skew: Option<f64>,
    /// Rounds.
    #[arg(long, default_value_t = 20)]
    pub rounds: u64,
    /// Inner steps of a round.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Text to train on (repeatable) [default: the embedded corpus].
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Seed of the weights and of every draw.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only the runs asked for, without those that they are compared with.
    #[arg(long)]
    pub alone: bool,
    /// Say how every round went, on standard error.
    #[arg(long)]
    pub verbose: bool,
    /// Keep rows in this file, and take from it what has been run.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Draw the losses as an SVG picture.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Score every update as a committee does, and draw what thresholds of the scores would find, as an SVG picture.
    #[arg(long, value_name = "FILE")]
    pub roc: Option<PathBuf>,
    /// Threads that train [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Change a parameter, such as training.lr=0.006 or model.width=96 (repeatable).
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("a positive number is needed".into()) }
}

/// Flags of `simulate ledger`.
#[derive(Debug, Clone, Args)]
pub struct SimulateLedgerArgs {
    /// Seeds to run; each is a whole network with its faults.
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Validators of each network.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub validators: u32,
    /// Validators that break the rules; with more than a network tolerates, they cut it in two and fork it [default: as
    /// many as it tolerates, in a third of the seeds].
    #[arg(long)]
    pub byzantine: Option<u32>,
    /// Switch on a known fault, which the seeds are to find (only in a build with the feature `plants`).
    #[arg(long, value_name = "FAULT")]
    pub plant: Option<Plant>,
    /// Seeds that run at a time [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

//! Making keys and networks: `keys`, `genesis`, `localnet`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `genesis`.
#[derive(Debug, Args)]
pub struct GenesisArgs {
    /// Network file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Name of the network.
    #[arg(long, default_value = "ailo")]
    pub name: String,
    /// A founder: node key, wallet, and `validator` if it validates (repeatable).
    #[arg(long = "founder", value_name = "NODE,WALLET[,validator]", required = true)]
    pub founders: Vec<String>,
    /// The network's dataset: texts (joined in order) or one packed dataset [default: the embedded corpus, for byte-level models].
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Parameters: those of a real, a public test or a one-machine network, or a file that states what differs from a
    /// real one's (config/*.toml are such files).
    #[arg(long, default_value = "main", value_name = "main|test|dev|FILE")]
    pub params: String,
    /// Change a parameter, such as round.committee=8 (repeatable).
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of the initial weights.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Flags of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Folder of the node's keys; `run` takes the same one.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Flags of `localnet`.
#[derive(Debug, Clone, Args)]
pub struct LocalnetArgs {
    /// Nodes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Training rounds to run.
    #[arg(long, default_value_t = 5)]
    pub rounds: u64,
    /// Founders that validate [default: min(nodes, 4)].
    #[arg(long)]
    pub validators: Option<u32>,
    /// Text or packed dataset to train on (repeatable) [default: the embedded corpus].
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Confirmations that a transfer needs.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    pub confirmations: u32,
    /// Folder for the nodes' folders [default: a new temporary folder, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Afterwards train one plain process with as many times the batch as there are nodes, at three rates, and compare.
    #[arg(long)]
    pub baseline: bool,
    /// Nodes that attack: the last ones. They run the program `attacker`, which is built beside this one.
    #[arg(long, default_value_t = 0, requires = "attack")]
    pub byzantine: u32,
    /// What they do, such as sign-flip, alie, label-flip or copy; tests/attacker.rs has all attacks.
    #[arg(long, value_name = "NAME")]
    pub attack: Option<String>,
    /// Kill -9 a validator at random times, this many times, while transfers are sent.
    #[arg(long, default_value_t = 0)]
    pub kills: u32,
    /// Kill at the steps of a round in turn instead: gathering, early and late in the training, after it, at the draw, at the
    /// verdict, at the vote; no phase may last beyond its deadline.
    #[arg(long, requires = "kills")]
    pub kill_at_steps: bool,
    /// Seed of the kill times, and of the network's initial weights.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Send transfers from node to node while it runs, and follow each to its end.
    #[arg(long)]
    pub transfers: bool,
    /// After the rounds, let people use their coins, once in each way: names, stakes, transfers, one that is taken back, a fraud that is
    /// reversed, a vote, a node that is slashed, a prompt that is paid for.
    #[arg(long)]
    pub story: bool,
    /// Write the loss curve as an SVG picture.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Keep the network running after the last round, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 3600)]
    pub timeout: u64,
    /// Change a parameter of the network, such as training.inner_steps=10 (repeatable).
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

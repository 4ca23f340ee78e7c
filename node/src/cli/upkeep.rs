//! Looking after a node's machine and folder: `doctor`, `config`, `backup`, `restore`; and the shell's completions and pages.

use super::RunArgs;
use clap::{Args, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

pub(super) const BACKUP_HELP: &str = "\
Kept are node.json and wallet.json as they are (locked if they are locked), the network file, API keys' hashes, what the node is owed and
has found, and the journal of what it has signed. The file has mode 0600, and a manifest with the hash of each part. A backup ages as soon as the node
runs again: `restore` says what that means for a validator.";
pub(super) const RESTORE_HELP: &str = "\
A validator that signs two ballots of one height is slashed, and a backup's journal knows nothing of what was signed after it. So
stop the old node for good, then name the height that the network is at now (`ailo-node status --rpc` of a node you trust): the restored
one follows the chain, and signs nothing up to a little above that height, also where the backup has no journal. docs/upgrading.md says
why that is enough.";

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Config file (TOML), as `run` takes it.
    #[arg(long, env = "AILO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The network's file, or `dev` [default: what the config file or the data folder holds].
    #[arg(long, env = "AILO_NETWORK", value_name = "FILE|dev")]
    pub network: Option<String>,
    /// Folder of the node's keys, ledger and model.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address that the node is to listen on for peers (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Option<Vec<String>>,
    /// Peer to join the network through (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Option<Vec<String>>,
    /// Address of JSON-RPC.
    #[arg(long, env = "AILO_HTTP", value_name = "ADDR")]
    pub http: Option<String>,
    /// The node is to compute on the CPU.
    #[arg(long, env = "AILO_CPU", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub cpu: Option<bool>,
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what `run` would run with, and where each value comes from: flag, environment, file or default.
    Show(Box<RunArgs>),
    /// Check the values, as `run` does before it touches anything.
    Check(Box<RunArgs>),
}

/// Flags of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Folder of the node, which must not run.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The ledger's blocks and snapshots too; without them a restored node fetches them from its peers.
    #[arg(long)]
    pub ledger: bool,
    /// The file to write. It holds the keys as they are: keep it as you keep them.
    #[arg(value_name = "OUT.tar")]
    pub out: PathBuf,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `backup` wrote.
    #[arg(value_name = "IN.tar")]
    pub input: PathBuf,
    /// Folder to restore into, which must be new or empty.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The height that the network is at now; the old node has stopped for good.
    #[arg(long, value_name = "HEIGHT", conflicts_with_all = ["not_run_since", "without_node_key"])]
    pub network_height: Option<u64>,
    /// The node has not run since the backup, nor will it: take its journal as it is.
    #[arg(long, conflicts_with = "without_node_key")]
    pub not_run_since: bool,
    /// Leave the node's key out, and make it another node with a new one: wherever it is not sure that the old one has stopped.
    #[arg(long)]
    pub without_node_key: bool,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    pub shell: Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder that gets a page for each command [default: the first page, on standard output].
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

//! `verify ...`: what is asked of a node that is not believed.

use ailo_ledger::light::Checkpoint;
use ailo_protocol::{Address, Hash, PublicKey};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `verify ...`
#[derive(Debug, Subcommand)]
pub enum VerifyCommand {
    /// A wallet's account, or that the ledger has none.
    Account {
        /// The wallet's address.
        address: Address,
        /// Against what.
        #[command(flatten)]
        against: VerifyArgs,
    },
    /// A registered node, or that the ledger knows none.
    Node {
        /// The node's key.
        key: PublicKey,
        /// Against what.
        #[command(flatten)]
        against: VerifyArgs,
    },
    /// A transaction in a block and, for a transfer, how it stands.
    Transaction {
        /// The transaction's id.
        id: Hash,
        /// Against what.
        #[command(flatten)]
        against: VerifyArgs,
    },
    /// The network's model: the root of its weights and momentum.
    Model(VerifyArgs),
}

/// What `verify` asks, and what it starts from.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// JSON-RPC address of the node to ask, which is not believed [default: what the node in the data folder serves].
    #[arg(long, env = "AILO_RPC", value_name = "URL")]
    pub rpc: Option<String>,
    /// The network: its network file, or `dev` for the network in the data folder.
    #[arg(long, env = "AILO_NETWORK", value_name = "FILE|dev", default_value = "dev")]
    pub network: String,
    /// Data folder of a node on this machine.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A block that you know to be the network's; without one, or with one that is older than the trust period, what is
    /// verified is UNANCHORED. Every `verify` shows one to keep.
    #[arg(long, env = "AILO_CHECKPOINT", value_name = "HEIGHT:ID")]
    pub checkpoint: Option<Checkpoint>,
}

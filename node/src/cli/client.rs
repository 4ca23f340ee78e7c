//! How a command finds the node and the wallet that it is about.

use ailo_protocol::Hash;
use clap::Args;
use std::path::PathBuf;

/// How a command finds the node that it talks to.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Data folder of the node on this machine; its JSON-RPC address and wallet are read there.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// JSON-RPC address of the node to ask [default: what the node in the data folder serves].
    #[arg(long, env = "AILO_RPC", value_name = "URL")]
    pub rpc: Option<String>,
    /// Wallet file [default: wallet.json in the data folder].
    #[arg(long, env = "AILO_WALLET_FILE", value_name = "FILE")]
    pub wallet_file: Option<PathBuf>,
    /// The network's id, as `status --json` shows it: nothing is signed where the node is of another network.
    #[arg(long, env = "AILO_NETWORK_ID", value_name = "ID")]
    pub network_id: Option<Hash>,
}

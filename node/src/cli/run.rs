//! The flags of `run`, which may come from the environment and a config file too.

use ailo_protocol::Address;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Config file (TOML); flags and environment win over it.
    #[arg(long, env = "AILO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the config file may hold too.
    #[command(flatten)]
    pub options: RunOptions,
    /// Stop when standard input closes (for a parent process that must not leave nodes behind).
    #[arg(long, hide = true)]
    pub stop_on_eof: bool,
}

/// Options of `run`, from flags, environment and config file alike.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunOptions {
    /// Network to join: a network file, or `dev` for a network of this node alone.
    #[arg(long, env = "AILO_NETWORK", value_name = "FILE|dev")]
    pub network: Option<String>,
    /// Folder of the node's keys, ledger and model [default: ~/.local/share/ailo/NAME, by the network file's name].
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Validate: vote on blocks and check contributions, once the stake (or the genesis) allows it [default: only on dev].
    #[arg(long, env = "AILO_VALIDATOR", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub validator: Option<bool>,
    /// Answer prompts, but do not train.
    #[arg(long, env = "AILO_INFERENCE_ONLY", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub inference_only: Option<bool>,
    /// A checkpoint's folder: serve (a part of) this model to the network, and answer the API with it [default: the network's own model].
    #[arg(long, env = "AILO_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    /// Which layers of the model to serve, as in 0..12; 0..0 serves none and only asks [default: where the network has fewest; of the network's own
    /// model, all].
    #[arg(long, env = "AILO_LAYERS", value_name = "A..B")]
    pub layers: Option<String>,
    /// Memory for the layers that are served, in the type in which they are kept, in MiB; texts take up to a quarter as much beside [default: half of the
    /// machine's, or of what its control group leaves; for the network's own model what it takes].
    #[arg(long, env = "AILO_MEMORY", value_name = "MIB")]
    pub memory: Option<u64>,
    /// Threads that compute what is served, 1 to 256 [default: one for each core; for the network's own model one].
    #[arg(long, env = "AILO_THREADS", value_name = "COUNT")]
    pub threads: Option<u32>,
    /// With --model: how to keep the weights: f32, f16, bf16 or int8 [default: as they are in the files].
    #[arg(long, env = "AILO_DTYPE", value_name = "TYPE")]
    pub dtype: Option<String>,
    /// How often layers are chosen anew, in milliseconds: for tests.
    #[arg(long, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub look_around_ms: Option<u64>,
    /// With --model, where its first layer is served: the folder of a small checkpoint with the same vocabulary, which guesses what follows;
    /// or none [default: what followed before].
    #[arg(long, env = "AILO_DRAFT", value_name = "FOLDER|none")]
    pub draft: Option<PathBuf>,
    /// What a unit of inference costs here: free, market, or ALC [default: market, and free on a development network].
    #[arg(long, env = "AILO_PRICE", value_name = "free|market|ALC")]
    pub price: Option<String>,
    /// What this node's wallet may pay in a day for the texts asked for here, in ALC, out of what it has deposited [default: 0].
    #[arg(long, env = "AILO_SPEND", value_name = "ALC")]
    pub spend: Option<String>,
    /// Share of the texts asked for here that this node reads again, to find stages that did not compute what they signed, 0 to 1
    /// [default: 0.05].
    #[arg(long, env = "AILO_CHECKS", value_name = "SHARE")]
    pub checks: Option<f64>,
    /// Texts an hour that this node asks of others to find stages that did not compute what they signed; it accuses them on the ledger
    /// [default: 6 for a validator, else 0].
    #[arg(long, env = "AILO_AUDITS", value_name = "COUNT")]
    pub audits: Option<f64>,
    /// The network's dataset: a packed dataset or a text (repeatable; joined in order). Must match the dataset root.
    #[arg(long, value_name = "PATH")]
    pub data: Option<Vec<PathBuf>>,
    /// Wallet that rewards go to [default: a wallet made in the data folder].
    #[arg(long, env = "AILO_WALLET", value_name = "ADDRESS")]
    pub wallet: Option<Address>,
    /// The wallet's consent to this node, where its key is not in the data folder: what `wallet consent` prints.
    #[arg(long, env = "AILO_CONSENT", value_name = "CODE")]
    pub consent: Option<String>,
    /// Address to listen on for peers (repeatable) [default: /ip4/0.0.0.0/tcp/8646; for dev /ip4/127.0.0.1/tcp/0].
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Option<Vec<String>>,
    /// Address that others reach this node at, where it is none of its own, such as that of a port forwarding (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Option<Vec<String>>,
    /// Ask the router by UPnP to forward the port [default: true].
    #[arg(long, env = "AILO_UPNP", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub upnp: Option<bool>,
    /// Peer to join the network through (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Option<Vec<String>>,
    /// Address of JSON-RPC, loopback unless told otherwise [default: 127.0.0.1:8645].
    #[arg(long, env = "AILO_HTTP", value_name = "ADDR")]
    pub http: Option<String>,
    /// Answer the API on loopback to whoever has an API key alone; elsewhere it always needs one.
    #[arg(long, env = "AILO_REQUIRE_API_KEY", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub require_api_key: Option<bool>,
    /// A name that the API may be called by on loopback, beside localhost and 127.0.0.1: that of a proxy before it (repeatable).
    #[arg(long, value_name = "NAME")]
    pub allow_host: Option<Vec<String>>,
    /// Address of an OpenTelemetry collector that traces are sent to, by OTLP over plain HTTP, like http://127.0.0.1:4318 [default: none].
    #[arg(long, env = "AILO_OTLP", value_name = "URL")]
    pub otlp: Option<String>,
    /// A block that somebody you trust vouches for, younger than the trust period: a node without a ledger starts from a
    /// snapshot near it, and any node stops when its history is another one. `ailo-node status` of theirs shows one.
    #[arg(long, env = "AILO_CHECKPOINT", value_name = "HEIGHT:ID")]
    pub checkpoint: Option<String>,
    /// Keep all blocks, not only those younger than the unbonding period [default: on a network of this node alone].
    #[arg(long, env = "AILO_ARCHIVE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub archive: Option<bool>,
    /// Start without the journal of what this node's key has signed, which was made elsewhere: only where it surely signed nothing since
    /// the last block here, for whoever signs twice is slashed.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip)] // for one start, so never in a file
    pub allow_new_journal: Option<bool>,
    /// Share of the time, in percent, that training may compute [default: 90].
    #[arg(long, env = "AILO_POWER", value_name = "20..90", value_parser = clap::value_parser!(u8).range(20..=90))]
    pub power: Option<u8>,
    /// Compute on the CPU even when a GPU is there.
    #[arg(long, env = "AILO_CPU", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub cpu: Option<bool>,
}

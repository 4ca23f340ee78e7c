//! Texts from a model: `chat`, `generate`, `serve`, and the keys of an API.

use super::ClientArgs;
use crate::logs::otlp::Collector;
use ailo_protocol::Amount;
use ailo_training::engine::Dtype;
use clap::{Args, Subcommand};
use std::{
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
};

pub(super) const API_KEYS_HELP: &str = "\
A running node sees a change within a second. Programs send a key as `Authorization: Bearer KEY`; `ailo-node chat` takes it from the
environment, AILO_API_KEY.";

/// `api-keys ...`
#[derive(Debug, Subcommand)]
pub enum ApiKeysCommand {
    /// Make a key and print it, this once.
    Create {
        /// Whose it is, for `list` and `revoke`.
        #[arg(long)]
        name: String,
        /// Requests a minute, at most.
        #[arg(long, value_name = "R")]
        requests_per_minute: Option<NonZeroU32>,
        /// Tokens a day (UTC), read and written, at most.
        #[arg(long, value_name = "T")]
        tokens_per_day: Option<NonZeroU64>,
        /// Texts at once, at most.
        #[arg(long, value_name = "C")]
        concurrent: Option<NonZeroU32>,
        /// What its texts may cost a day (UTC), like 0.5 [default: whatever the node may spend].
        #[arg(long, value_name = "ALC")]
        alc_per_day: Option<Amount>,
        /// Where it goes.
        #[command(flatten)]
        file: KeyFileArgs,
    },
    /// List keys by name, with their limits.
    List {
        /// Of which node.
        #[command(flatten)]
        file: KeyFileArgs,
    },
    /// Revoke a key.
    Revoke {
        /// Its name.
        name: String,
        /// Of which node.
        #[command(flatten)]
        file: KeyFileArgs,
    },
}

/// Where API keys are kept.
#[derive(Debug, Args)]
pub struct KeyFileArgs {
    /// Data folder of the node [default: that of `run --network dev`].
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The file itself, as `serve --api-keys` takes it [default: api-keys.json in the data folder].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

pub(super) const CHAT_HELP: &str = "\
The machines that answer can read what is said. What fails in a terminal is shown, and can be asked again; elsewhere it ends the conversation.";

/// Flags of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Say this and end with the answer [default: talk line by line].
    pub message: Option<String>,
    /// What the model is told beforehand.
    #[arg(long)]
    pub system: Option<String>,
    /// Address of the API, such as of `serve` [default: that of the node in the data folder].
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
    /// Tokens of an answer at most [default: what the model's context holds].
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// Randomness; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f64,
    /// Seed; the same seed, model and words give the same answer.
    #[arg(long)]
    pub seed: Option<i64>,
    /// What an answer may cost at most, like 0.25 [default: whatever the node may spend].
    #[arg(long, value_name = "ALC")]
    pub max_alc: Option<Amount>,
    /// Which node.
    #[command(flatten)]
    pub client: ClientArgs,
}

pub(super) const SERVE_HELP: &str = "\
FOLDER holds config.json, tokenizer.json and *.safetensors, as Hugging Face writes them: GPT-2, Llama 2 and 3, Qwen 1.5, 2 and 3.
The model is called by the folder's name. Programs ask it as they ask OpenAI:
  curl http://127.0.0.1:8650/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Who are you?\"}]}'";

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The checkpoint's folder.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// How to keep the weights: f32, f16, bf16 or int8 [default: as they are in the files].
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
    /// Address of the API.
    #[arg(long, default_value = "127.0.0.1:8650", value_name = "ADDRESS")]
    pub http: std::net::SocketAddr,
    /// The file of API keys, which `ailo-node api-keys create --file` makes. Elsewhere than on loopback it is needed.
    #[arg(long, value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// Answer on loopback to whoever has an API key alone.
    #[arg(long, requires = "api_keys")]
    pub require_api_key: bool,
    /// A name that the API may be called by on loopback, beside localhost and 127.0.0.1: that of a proxy before it (repeatable).
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Address of an OpenTelemetry collector that traces are sent to, by OTLP over plain HTTP, like http://127.0.0.1:4318 [default: none].
    #[arg(long, value_name = "URL")]
    pub otlp: Option<Collector>,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Compute on the CPU even when a GPU is there.
    #[arg(long)]
    pub cpu: bool,
    /// Memory for texts that are being written, in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub memory: u64,
    /// The folder of a small checkpoint with the same vocabulary, which guesses what follows; or none [default: what followed before].
    #[arg(long, value_name = "FOLDER|none")]
    pub draft: Option<PathBuf>,
}

pub(super) const GENERATE_HELP: &str = "The machines that answer can read the text.";

/// Flags of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Text to continue.
    pub prompt: String,
    /// Tokens at most.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,
    /// Randomness; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Consider only this many of the likeliest tokens; 0 considers all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Seed; the same seed, model and prompt give the same text.
    #[arg(long)]
    pub seed: Option<u64>,
    /// What the text may cost at most, like 0.25 [default: whatever the node may spend].
    #[arg(long, value_name = "ALC")]
    pub max_alc: Option<Amount>,
    /// Address of the API, like http://127.0.0.1:8650/v1 [default: that of the node].
    #[arg(long, value_name = "URL")]
    pub api: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub client: ClientArgs,
}

//! The command line: every command and flag of `ailo-node`, with its help.

use crate::logs::{self, command::LogsArgs};
use ailo_ledger::{light::Checkpoint, plants::Plant};
use ailo_protocol::{
    Address, Amount, Hash, PublicKey, Username,
    address::AddressError,
    aggregation::{Aggregation, Pre, Rule},
    compression::Codec,
    username::BadUsername,
};
use ailo_training::{engine::Dtype, simulation::Attack};
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::{
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    str::FromStr,
};

/// Train and serve one language model together, with no coordinator.
#[derive(Debug, Parser)]
#[command(name = "ailo-node", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log filter on standard error, such as info or ailo_node=debug,warn.
    #[arg(long, global = true, env = "AILO_LOG", default_value = logs::DEFAULT, value_name = "FILTER")]
    pub log: String,
    /// How the log is written on standard error.
    #[arg(long, global = true, env = "AILO_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: logs::Format,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: keep the ledger, train, answer JSON-RPC.
    Run(Box<RunArgs>),
    /// Make a network file: parameters, founders, model, dataset root.
    Genesis(Box<GenesisArgs>),
    /// Make the keys of a node's folder where they are missing, and show what `genesis --founder` takes.
    Keys(KeysArgs),
    /// Make, list and revoke the keys with which programs ask a node's API for texts.
    #[command(subcommand, after_help = API_KEYS_HELP)]
    ApiKeys(ApiKeysCommand),
    /// Make and use a wallet.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Bond coins to a node (a validator, or a seat that confirms transfers).
    Stake(StakeArgs),
    /// Start to free coins that were bonded to a node.
    Unstake(StakeArgs),
    /// Let a jailed node back in, after its time.
    Unjail(NodeArgs),
    /// Let the node in the data folder work for another wallet, which has consented (`wallet consent`).
    Bind(BindArgs),
    /// Call an accepted contribution forged; all validators replay it and vote. Binds coins.
    Challenge(ChallengeArgs),
    /// Accuse a stage of having signed what it did not compute; all validators that have the model read the text and vote. Binds coins,
    /// and shows the beginning of the text to everybody.
    Accuse(AccuseArgs),
    /// Propose other values of network parameters. Binds coins.
    Propose(ProposeArgs),
    /// Vote on a proposal with all the wallet's stake.
    Vote(VoteArgs),
    /// List what is voted on.
    Proposals(ClientArgs),
    /// Show what inference costs now.
    Market(ClientArgs),
    /// List who decides the next block, or show what one node did and earned.
    Validators(ValidatorsArgs),
    /// Show a round, or what became of a node's contribution to it, and why: checks, losses, replay, pay.
    Round(RoundArgs),
    /// Print this machine's determinism class: whoever has the same gets the same bits from the same training.
    Class(ClassArgs),
    /// Train the contributions to a recorded round again, offline, and compare.
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArgs),
    /// Show what a running node knows: height, round, model, peers, balance.
    Status(ClientArgs),
    /// Let the node that runs in the data folder train, or rest, until it stops.
    Training(TrainingArgs),
    /// Set the share of the time that training may compute in the node that runs in the data folder, until it stops.
    Power(PowerArgs),
    /// Show what a node has logged, from the files in its folder.
    #[command(after_help = logs::command::HELP)]
    Logs(LogsArgs),
    /// Check what a node says of the ledger by certificates and proofs, without believing the node.
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// Talk with a model in the terminal.
    #[command(after_help = CHAT_HELP)]
    Chat(ChatArgs),
    /// Serve a checkpoint on this machine through the API that OpenAI's clients speak, with no network.
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Continue a text with the network's model.
    #[command(after_help = GENERATE_HELP)]
    Generate(GenerateArgs),
    /// Make one update of the updates in a file, by a rule that withstands attackers.
    #[command(after_help = AGGREGATE_HELP)]
    Aggregate(Box<AggregateArgs>),
    /// Found a network of several nodes on this machine, train with it, and check it.
    Localnet(Box<LocalnetArgs>),
    /// Run whole networks in virtual time, with every fault that a seed brings, and check what always holds.
    #[command(subcommand)]
    Simulate(SimulateCommand),
}

const AGGREGATE_HELP: &str = "\
Of the n updates in IN.safetensors (a float32 tensor named `updates`, of shape [n, d]) up to F may be attackers'. The result is
a float32 tensor named `aggregate`, of shape [d]; docs/training.md says what each rule guarantees. Rules need n > 2 F.

Example:
  ailo-node aggregate --rule trimmed-mean --f 3 --pre nnm updates.safetensors mean.safetensors";

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
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunOptions {
    /// Network to join: a network file, or `dev` for a network of this node alone.
    #[arg(long, env = "AILO_NETWORK", value_name = "FILE|dev")]
    pub network: Option<String>,
    /// Folder of the node's keys, ledger and model.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Validate: vote on blocks and check contributions, once the stake (or the genesis) allows it.
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
    /// Peer to join the network through (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Option<Vec<String>>,
    /// Address that others reach this node at, where it is none of its own, such as that of a port forwarding (repeatable).
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Option<Vec<String>>,
    /// Ask the router by UPnP to forward the port [default: true].
    #[arg(long, env = "AILO_UPNP", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub upnp: Option<bool>,
    /// Address of JSON-RPC, loopback unless told otherwise [default: 127.0.0.1:8645].
    #[arg(long, env = "AILO_HTTP", value_name = "ADDR")]
    pub http: Option<String>,
    /// Answer the API on loopback to whoever has an API key alone; elsewhere it always needs one.
    #[arg(long, env = "AILO_REQUIRE_API_KEY", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub require_api_key: Option<bool>,
    /// A name that the API may be called by on loopback, beside localhost and 127.0.0.1: that of a proxy before it (repeatable).
    #[arg(long, value_name = "NAME")]
    pub allow_host: Option<Vec<String>>,
    /// A block that somebody you trust vouches for, younger than the trust period: a node without a ledger starts from a
    /// snapshot near it, and any node stops when its history is another one. `ailo-node status` of theirs shows one.
    #[arg(long, env = "AILO_CHECKPOINT", value_name = "HEIGHT:ID")]
    pub checkpoint: Option<String>,
    /// Keep all blocks, not only those younger than the unbonding period [default: on a network of this node alone].
    #[arg(long, env = "AILO_ARCHIVE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub archive: Option<bool>,
    /// Start without the journal of what this node's key has signed: only where it surely signed nothing since the last
    /// block here, for whoever signs twice is slashed.
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

const API_KEYS_HELP: &str = "\
A running node sees a change within a second. Programs send a key as `Authorization: Bearer KEY`; `ailo-node chat` takes it from the
environment, AILO_API_KEY.

Examples:
  ailo-node api-keys create --data-dir mine --name ann --requests-per-minute 60 --tokens-per-day 1000000 --concurrent 4
  ailo-node api-keys revoke --data-dir mine ann";

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
        /// Print JSON.
        #[arg(long)]
        json: bool,
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
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which node of this machine a command operates.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Data folder of the node; the token of its operator lies there.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `training`.
#[derive(Debug, Args)]
pub struct TrainingArgs {
    /// Whether it trains. A node that is told to rest hands in what it has begun.
    #[arg(value_parser = ["on", "off"])]
    pub state: String,
    /// Which node.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Flags of `power`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// Percent of the time.
    #[arg(value_name = "20..90", value_parser = clap::value_parser!(u8).range(20..=90))]
    pub percent: u8,
    /// Which node.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// `wallet ...`
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// Make a wallet file, and show the 24 words that restore it.
    New {
        /// Restore from 24 words (read from standard input) instead of making a new key.
        #[arg(long)]
        restore: bool,
        /// Where it goes.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show address and balance.
    Show(ClientArgs),
    /// Print the address alone.
    Address(ClientArgs),
    /// Send coins.
    Send {
        /// Recipient: an address, or @ and a user name.
        #[arg(value_name = "ADDRESS|@NAME")]
        to: Recipient,
        /// Amount in ALC, such as 1.5.
        amount: Amount,
        /// Text that goes with it.
        #[arg(long, default_value = "")]
        memo: String,
        /// Return as soon as the node has taken it, without waiting for a block.
        #[arg(long)]
        no_wait: bool,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a pending transfer back.
    Dispute {
        /// The transfer's id.
        transfer: Hash,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Call a transfer a fraud; it is reversed once 51 % of the seats have said so. Binds coins.
    Report(ReportArgs),
    /// Take a report back, and the coins that it binds.
    WithdrawReport(ReportArgs),
    /// Deposit coins that nodes are paid from for serving this wallet's requests.
    Deposit {
        /// Amount in ALC.
        amount: Amount,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take coins of the deposit back; they are free after a time.
    WithdrawDeposit {
        /// Amount in ALC.
        amount: Amount,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a user name, instead of the last one.
    Username {
        /// The name, or none to give the last one up.
        name: Option<Username>,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print a wallet's consent to a node that works for it; `run` and `bind` take it as --consent.
    Consent {
        /// The node's key (`ailo-node status` shows it).
        node: PublicKey,
        /// Which wallet, which node to ask for the network.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Name a recovery key, once, and show the 24 words that it is made of.
    ProtectWithRecovery(ClientArgs),
    /// Give an account a new key with its recovery words (read from standard input); makes a new wallet file.
    Recover {
        /// The account's address.
        account: Address,
        /// Where the new wallet file goes, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List what happened to the wallet's coins.
    History {
        /// Entries at most.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Which wallet, which node.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Who coins go to.
#[derive(Debug, Clone, Copy)]
pub enum Recipient {
    /// A wallet.
    Address(Address),
    /// Whoever has this user name.
    Name(Username),
}

impl FromStr for Recipient {
    type Err = String;
    fn from_str(text: &str) -> Result<Recipient, String> {
        match text.strip_prefix('@') {
            Some(name) => name.parse().map(Recipient::Name).map_err(|e: BadUsername| e.to_string()),
            None => text.parse().map(Recipient::Address).map_err(|e: AddressError| e.to_string()),
        }
    }
}

/// Flags of `stake` and `unstake`.
#[derive(Debug, Args)]
pub struct StakeArgs {
    /// Amount in ALC.
    pub amount: Amount,
    /// Node that the stake stands behind [default: the node in the data folder].
    #[arg(long, value_name = "KEY")]
    pub node: Option<PublicKey>,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

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

/// Flags of `wallet report` and `wallet withdraw-report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The transfer's id.
    pub transfer: Hash,
    /// The wallet's node that held a seat when the transfer was included [default: the node in the data folder].
    #[arg(long, value_name = "KEY")]
    pub node: Option<PublicKey>,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `unjail`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node [default: the one in the data folder].
    #[arg(long, value_name = "KEY")]
    pub node: Option<PublicKey>,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// The wallet.
    pub wallet: Address,
    /// Its consent: what `wallet consent` prints.
    #[arg(long, value_name = "CODE")]
    pub consent: String,
    /// Which node.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `challenge`.
#[derive(Debug, Args)]
pub struct ChallengeArgs {
    /// The round.
    pub round: u64,
    /// The contribution's maker.
    pub node: PublicKey,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `accuse`.
#[derive(Debug, Args)]
pub struct AccuseArgs {
    /// What a node kept that found a liar: a file of `charges` in its data folder.
    #[arg(value_name = "FILE")]
    pub charge: PathBuf,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
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

const REPLAY_HELP: &str = "\
Training is bit-exact on machines of one class, so whoever has the record, the model and the data can tell an honest contribution
from a forged one, and compute the round's model. The record is believed as it is (seed, slots, commitments, votes): take it from a
node of your own, or check it by `ailo-node verify`. Fails if a result differs.

Examples:
  ailo-node round 12 --save round-12
  ailo-node replay round-12 --data text.txt
  ailo-node replay round-12.json --network network.toml --model model/ROOT.state     (what `round 12 --json` printed)";

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

/// Flags of `propose`.
#[derive(Debug, Args)]
pub struct ProposeArgs {
    /// A change, such as round.pot=2 (repeatable).
    #[arg(required = true, value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Why, in a few words.
    #[arg(long, default_value = "")]
    pub why: String,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `validators`.
#[derive(Debug, Args)]
pub struct ValidatorsArgs {
    /// Show the history of this node instead.
    pub node: Option<PublicKey>,
    /// Entries of its history, at most.
    #[arg(long, default_value_t = 20, requires = "node", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,
    /// Which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `vote`.
#[derive(Debug, Args)]
pub struct VoteArgs {
    /// The proposal's number (`proposals` lists them).
    pub proposal: u64,
    /// For or against.
    #[arg(value_parser = ["yes", "no"])]
    pub vote: String,
    /// Which wallet, which node to ask.
    #[command(flatten)]
    pub client: ClientArgs,
}

const CHAT_HELP: &str = "\
The machines that answer can read what is said. What fails in a terminal is shown, and can be asked again; elsewhere it ends the conversation.

Examples:
  ailo-node chat                                             (the node in the data folder)
  ailo-node chat --api http://127.0.0.1:8650/v1 'Who are you?'";

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

const SERVE_HELP: &str = "\
FOLDER holds config.json, tokenizer.json and *.safetensors, as Hugging Face writes them: GPT-2, Llama 2 and 3, Qwen 1.5, 2 and 3.
The model is called by the folder's name.

Examples:
  ailo-node serve --model models/Qwen3-0.6B
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
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Memory for texts that are being written, in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub memory: u64,
    /// The folder of a small checkpoint with the same vocabulary, which guesses what follows; or none [default: what followed before].
    #[arg(long, value_name = "FOLDER|none")]
    pub draft: Option<PathBuf>,
}

const GENERATE_HELP: &str = "The machines that answer can read the text.";

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
    /// reversed, a vote, a node that is slashed.
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
honest nodes alone and a plain mean (to plain), and with that of the same rule without attackers (to quiet).

Examples:
  ailo-node simulate training --nodes 8 --byzantine 2 --data text.txt --table runs.jsonl
  ailo-node simulate training --nodes 16 --byzantine 6 --attack alie-opt,ipm-opt --rule trimmed-mean,median --pre nnm --plot curves.svg
  ailo-node simulate training --nodes 8 --byzantine 2 --attack ipm --f 0     (a plain mean under attack)";

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
    /// Rows as JSON lines.
    #[arg(long)]
    pub json: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_every_flag_has_help() {
        Cli::command().debug_assert();
        fn visit(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        let mut command = Cli::command();
        command.build();
        visit(&command);
    }
}

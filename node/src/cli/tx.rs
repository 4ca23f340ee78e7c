//! `tx ...`: transactions that are made, signed and sent in three places, for keys that are off-line or in hardware.

use ailo_protocol::{Address, Amount, Hash, PublicKey, Signature, Username};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `tx ...`
#[derive(Debug, Subcommand)]
pub enum TxCommand {
    /// Make a transaction to be signed, without any secret.
    Build(Box<BuildArgs>),
    /// Show what a transaction does, and the bytes that its signature is over. Asks nobody.
    Show {
        /// What `tx build` wrote.
        file: PathBuf,
    },
    /// Sign a transaction with a wallet's key, and keep the signature in the file. Asks nobody.
    Sign {
        /// What `tx build` wrote.
        file: PathBuf,
        /// The wallet file.
        #[arg(long, env = "AILO_WALLET_FILE", value_name = "FILE")]
        wallet: PathBuf,
    },
    /// Keep a signature in the file that was made elsewhere, if it holds. Asks nobody.
    Attach {
        /// What `tx build` wrote.
        file: PathBuf,
        /// The ed25519 signature over the bytes that `tx show` names.
        #[arg(long, value_name = "HEX")]
        signature: Signature,
    },
    /// Send a signed transaction, and wait for its block.
    Submit {
        /// What `tx sign` or `tx attach` completed.
        file: PathBuf,
        /// Which node.
        #[command(flatten)]
        client: super::ClientArgs,
    },
}

/// Flags of `tx build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// What it does.
    #[command(subcommand)]
    pub body: BodyCommand,
    /// The key that will sign, as `wallet address` shows it [default: that of the wallet file].
    #[arg(long, global = true, value_name = "KEY")]
    pub from: Option<PublicKey>,
    /// The wallet's running number [default: what the node says].
    #[arg(long, global = true)]
    pub nonce: Option<u64>,
    /// The network's id, as `status --json` shows it [default: the node's].
    #[arg(long, global = true, env = "AILO_NETWORK_ID", value_name = "ID")]
    pub network_id: Option<Hash>,
    /// When it is made, milliseconds since 1970 (UTC): real networks take it from 30 s before that to 10 minutes after [default: now].
    #[arg(long, global = true, value_name = "MS")]
    pub time_ms: Option<u64>,
    /// Where it goes [default: standard output].
    #[arg(long, global = true, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Data folder of the node on this machine.
    #[arg(long, global = true, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// JSON-RPC address of the node to ask [default: what the node in the data folder serves].
    #[arg(long, global = true, env = "AILO_RPC", value_name = "URL")]
    pub rpc: Option<String>,
    /// Wallet file, whose public key is read [default: wallet.json in the data folder].
    #[arg(long, global = true, env = "AILO_WALLET_FILE", value_name = "FILE")]
    pub wallet_file: Option<PathBuf>,
}

/// What a wallet can sign.
#[derive(Debug, Subcommand)]
pub enum BodyCommand {
    /// Send coins.
    Transfer {
        /// Recipient.
        #[arg(long, value_name = "ADDRESS")]
        to: Address,
        /// Amount in ALC, such as 1.5.
        #[arg(long, value_name = "ALC")]
        amount: Amount,
        /// Text that goes with it.
        #[arg(long, default_value = "")]
        memo: String,
    },
    /// Take a pending transfer back.
    Dispute {
        /// The transfer's id.
        transfer: Hash,
    },
    /// Call a transfer a fraud.
    Report {
        /// The transfer's id.
        transfer: Hash,
        /// The wallet's node that holds a seat.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Take a report back.
    WithdrawReport {
        /// The transfer's id.
        transfer: Hash,
        /// The node that reported.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Bond coins to a node.
    Stake {
        /// Amount in ALC.
        amount: Amount,
        /// The node.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Start to free coins that were bonded to a node.
    Unstake {
        /// Amount in ALC.
        amount: Amount,
        /// The node.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Let a jailed node back in.
    Unjail {
        /// The node.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Name a recovery key, once.
    Protect {
        /// Its public key: what `wallet address --json` shows of a wallet file that is kept apart, whose 24 words `wallet recover` takes.
        #[arg(long, value_name = "KEY")]
        recovery: PublicKey,
    },
    /// Give an account another key, signed by its recovery key (--from). The new key has to agree: without --agreed, this says what it is to sign.
    Recover {
        /// The account's address.
        account: Address,
        /// The account's new public key.
        #[arg(long, value_name = "KEY")]
        key: PublicKey,
        /// The new key's signature over the bytes that this command names without it.
        #[arg(long, value_name = "HEX")]
        agreed: Option<Signature>,
        /// The next recovery key's public key.
        #[arg(long, value_name = "KEY")]
        next: PublicKey,
        /// How many recoveries the account has had [default: what the node says].
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Deposit coins that nodes are paid from.
    Deposit {
        /// Amount in ALC.
        amount: Amount,
    },
    /// Take coins of the deposit back.
    WithdrawDeposit {
        /// Amount in ALC.
        amount: Amount,
    },
    /// Take a user name.
    Username {
        /// The name, or none to give the last one up.
        name: Option<Username>,
    },
    /// Call a contribution forged.
    Challenge {
        /// The round.
        round: u64,
        /// The contribution's maker.
        #[arg(long, value_name = "KEY")]
        node: PublicKey,
    },
    /// Accuse a stage of having signed what it did not compute. Shows the beginning of the text to everybody.
    Accuse {
        /// What a node kept that found a liar: a file of `charges` in its data folder.
        #[arg(value_name = "FILE")]
        charge: PathBuf,
    },
    /// Propose other values of network parameters.
    Propose {
        /// A change, such as round.pot=2 (repeatable).
        #[arg(required = true, value_name = "SECTION.KEY=VALUE")]
        changes: Vec<String>,
        /// Why, in a few words.
        #[arg(long, default_value = "")]
        why: String,
    },
    /// Vote on a proposal.
    Vote {
        /// The proposal's number.
        proposal: u64,
        /// For or against.
        #[arg(value_parser = ["yes", "no"])]
        vote: String,
    },
}

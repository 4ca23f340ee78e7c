//! Stake and what it answers for: bonds, challenges, votes.

use super::ClientArgs;
use ailo_protocol::{Address, Amount, PublicKey};
use clap::Args;
use std::path::PathBuf;

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

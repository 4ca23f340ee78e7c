//! Flags of the commands that operate a running node of this machine.

use clap::Args;
use std::path::PathBuf;

/// Which node of this machine a command operates.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Data folder of the node; the token of its operator lies there.
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
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

//! `ailo-node`: trains and serves one language model together with its peers. See `ailo-node --help`.

use ailo_node::{cli::Cli, commands, error::NodeError};
use clap::Parser;
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(|e| NodeError::io("start the runtime", e)).and_then(|runtime| {
        let outcome = runtime.block_on(commands::dispatch(cli));
        // A blocking task that still runs (a slow disk, a long step) must not hold up the exit.
        runtime.shutdown_timeout(Duration::from_millis(500));
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

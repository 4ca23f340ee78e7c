//! `ailo-node logs`: what a node that runs or has run has logged, from the files in its folder.

use super::{Level, Record, files::Reader};
use crate::{datadir, error::NodeError, output::is_json};
use clap::Args;
use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
    time::Duration,
};

/// How often a follower looks for more.
const LOOK: Duration = Duration::from_millis(250);

/// Flags of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Folder of the node [default: that of `run --network dev`].
    #[arg(long, env = "AILO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// Show only what is at least as grave.
    #[arg(long, value_enum, default_value = "trace", value_name = "LEVEL")]
    pub level: Level,
    /// Show only lines that hold this text, in any case of letters.
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
}

/// Prints the records that are asked for.
pub async fn command(args: LogsArgs) -> Result<(), NodeError> {
    let folder = match args.data_dir {
        Some(folder) => folder,
        None => datadir::default_dir("dev")?,
    };
    let mut reader = Reader::open(&folder.join("logs"))?;
    let text = args.grep.map(|text| text.to_lowercase());
    let asked = |record: &Record| {
        record.level >= args.level
            && text.as_ref().is_none_or(|text| record.to_string().to_lowercase().contains(text.as_str()))
    };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    loop {
        while let Some(record) = reader.read().map_err(|e| NodeError::io("read the log", e))? {
            if !asked(&record) {
                continue;
            }
            let written = match is_json() {
                true => out.write_all(&record.json()),
                false => writeln!(out, "{record}"),
            };
            if let Some(done) = ended(written) {
                return done;
            }
        }
        if let Some(done) = ended(out.flush()) {
            return done;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether there is nobody to write to any more; `head` is no failure.
fn ended(written: std::io::Result<()>) -> Option<Result<(), NodeError>> {
    match written {
        Ok(()) => None,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Some(Ok(())),
        Err(e) => Some(Err(NodeError::io("write to standard output", e))),
    }
}

//! The live line: on a terminal one line, redrawn; elsewhere a line every few seconds.

use crate::rpc::{Context, types::*};
use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Shows the node's state until `stop` changes.
pub async fn run(context: Arc<Context>, url: String, mut stop: watch::Receiver<bool>) {
    let live = std::io::stdout().is_terminal();
    let mut tick = tokio::time::interval(if live { Duration::from_millis(500) } else { Duration::from_secs(5) });
    let status = context.status();
    println!("network {} ({})", status.value.network_name, status.value.network.short());
    println!("wallet {}", status.value.wallet);
    println!("page at {}", url.trim_end_matches("rpc"));
    println!("JSON-RPC at {url}");
    for note in &status.value.notes {
        println!("note: {note}");
    }
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let line = line(&context.status());
                let mut out = std::io::stdout();
                // A closed terminal loses the line, nothing else.
                let _ = if live { write!(out, "\r\x1b[2K{line}") } else { writeln!(out, "{line}") };
                let _ = out.flush();
            }
            _ = stop.changed() => break,
        }
    }
    if live {
        println!();
    }
}

fn line(status: &At<Status>) -> String {
    let s = &status.value;
    let loss = |loss: Option<f64>| loss.map_or("-".into(), |l| format!("{l:.3}"));
    format!(
        "round {} {} | step {}/{} | {:.0} tokens/s | loss {} | held-out {} | balance {} ALC | peers {} | height {}",
        s.round.number,
        s.round.phase,
        s.round.step,
        s.round.steps,
        s.round.tokens_per_s,
        loss(s.round.loss),
        loss(s.model.held_out_loss),
        s.account.free,
        s.peers,
        status.height
    )
}

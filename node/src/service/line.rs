//! The live line: on a terminal one line, redrawn; elsewhere a line every few seconds.

use crate::{
    error::NodeError,
    output,
    rpc::{Context, types::*},
};
use serde_json::json;
use std::{fmt::Write, io::IsTerminal, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Shows the node's state until `stop` changes.
pub async fn run(context: Arc<Context>, url: String, mut stop: watch::Receiver<bool>) {
    let live = std::io::stdout().is_terminal() && !output::is_json();
    let mut tick = tokio::time::interval(if live { Duration::from_millis(500) } else { Duration::from_secs(5) });
    let status = context.status();
    let _ = started(&status.value, &url); // a closed terminal loses the lines, nothing else
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let status = context.status();
                let line = line(&status);
                // The same.
                let _ = if live { output::piece(&format!("\r\x1b[2K{line}")) } else { output::say(&status, line) };
            }
            _ = stop.changed() => break,
        }
    }
    if live {
        let _ = output::piece("\n"); // The same.
    }
}

/// What a person needs who has just started it.
fn started(status: &Status, url: &str) -> Result<(), NodeError> {
    let Status { network_name: name, network, wallet, notes, .. } = status;
    let page = url.trim_end_matches("rpc");
    let said = json!({ "network": network, "name": name, "wallet": wallet, "page": page, "rpc": url, "notes": notes });
    output::show(&said, |out| {
        writeln!(out, "network {name} ({})\nwallet {wallet}\npage at {page}\nJSON-RPC at {url}", network.short())?;
        notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    })
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

//! The live line: on a terminal one line, redrawn, or a bar while blocks of others come; elsewhere a line every few seconds.

use crate::{
    error::NodeError,
    output,
    progress::Progress,
    rpc::{Context, types::*},
};
use serde_json::json;
use std::{fmt::Write, io::IsTerminal, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How blocks come is shown from so many on that peers are ahead.
const FAR: u64 = 16;

/// How blocks come that others have, while these are many.
#[derive(Default)]
struct Catching(Option<(u64, Progress)>);

impl Catching {
    /// Whether a bar stands on the terminal, where `clear` has made room for it.
    fn show(&mut self, status: &At<Status>, clear: impl FnOnce()) -> bool {
        let Some(behind) = status.value.sync.behind.filter(|behind| *behind >= FAR) else {
            self.0 = None;
            return false;
        };
        let (from, progress) = self.0.get_or_insert_with(|| {
            clear();
            (status.height, Progress::count("blocks from peers", behind))
        });
        let done = status.height.saturating_sub(*from);
        progress.set_of(done, done.saturating_add(behind));
        progress.is_shown()
    }
}

/// Shows the node's state until `stop` changes.
pub async fn run(context: Arc<Context>, url: String, mut stop: watch::Receiver<bool>) {
    let live = std::io::stdout().is_terminal() && !output::is_json();
    let mut tick = tokio::time::interval(if live { Duration::from_millis(500) } else { Duration::from_secs(5) });
    let status = context.status();
    let _ = started(&status.value, &url); // a closed terminal loses the lines, nothing else
    let mut catching = Catching::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let status = context.status();
                let clear = || if live { let _ = output::piece("\r\x1b[2K"); }; // The same.
                if catching.show(&status, clear) && live {
                    continue; // there is one terminal
                }
                let line = line(&status);
                // The same.
                let _ = if live { output::piece(&format!("\r\x1b[2K{line}")) } else { output::say(&status, line) };
            }
            _ = stop.changed() => break,
        }
    }
    drop(catching); // the bar goes before the line ends
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

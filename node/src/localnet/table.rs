//! The live table of a localnet: on a terminal redrawn in place, elsewhere a line whenever a round closes.

use super::net::Net;
use crate::{error::NodeError, output, rpc::types::*};
use serde_json::json;
use std::io::{IsTerminal, Write};

/// The table.
pub struct Table {
    live: bool,
    drawn: usize,
    rounds: u64,
}

impl Table {
    /// A table on standard output.
    pub fn new() -> Table {
        Table { live: std::io::stdout().is_terminal() && !output::is_json(), drawn: 0, rounds: 0 }
    }

    /// Shows what the nodes say.
    pub fn show(&mut self, statuses: &[Option<At<Status>>], net: &Net) -> Result<(), NodeError> {
        if self.live {
            self.draw(statuses, net);
        } else if let Some(best) = statuses.iter().flatten().max_by_key(|s| s.value.model.rounds)
            && best.value.model.rounds > self.rounds
        {
            self.rounds = best.value.model.rounds;
            let speed: f64 = statuses.iter().flatten().map(|s| s.value.round.tokens_per_s).sum();
            let (rounds, height, model) = (self.rounds, best.height, &best.value.model);
            let (answer, nodes) = (statuses.iter().flatten().count(), statuses.len());
            let closed = json!({ "round": rounds, "height": height, "model": model.root, "answer": answer,
                                 "held_out_loss": model.held_out_loss, "tokens_per_s": speed });
            output::say(
                &closed,
                format_args!(
                    "round {rounds:>3} closed at height {height:>5}: model {}, held-out {}, {speed:.0} tokens/s, {answer} of \
                     {nodes} nodes answer",
                    model.root.short(),
                    loss(model.held_out_loss),
                ),
            )?;
        }
        Ok(())
    }

    fn draw(&mut self, statuses: &[Option<At<Status>>], net: &Net) {
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        out.push_str(
            "\x1b[2K node  height  round  phase   step     model     held-out  loss    tokens/s  peers  balance\n",
        );
        for (i, status) in statuses.iter().enumerate() {
            let row = match status {
                None => {
                    if net.is_up(i) {
                        "starting".to_string()
                    } else {
                        "killed".to_string()
                    }
                }
                Some(s) => format!(
                    "{:<7} {:<6} {:<7} {:>3}/{:<4} {}  {:<8}  {:<6}  {:<8.0}  {:<5}  {}",
                    s.height,
                    s.value.round.number,
                    s.value.round.phase,
                    s.value.round.step,
                    s.value.round.steps,
                    s.value.model.local_root.map_or("-       ".into(), |r| r.short()),
                    loss(s.value.model.held_out_loss),
                    loss(s.value.round.loss),
                    s.value.round.tokens_per_s,
                    s.value.peers,
                    s.value.account.free
                ),
            };
            out.push_str(&format!("\x1b[2K {i:>4}  {row}\n"));
        }
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "{out}").and_then(|()| stdout.flush()); // a closed terminal loses the table, nothing else
        self.drawn = statuses.len() + 1;
    }

    /// Leaves the table as it stands.
    pub fn finish(&mut self) {
        self.drawn = 0;
    }
}

fn loss(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.4}"))
}

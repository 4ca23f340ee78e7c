//! How far the reading of a model is: a line that changes on a terminal, some lines in the log elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Percent from one line of the log to the next, and the least time between two.
const STEP: u64 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Tells people what is done, given bytes done and in all.
pub fn progress(what: &'static str) -> impl FnMut(u64, u64) {
    let (terminal, mut shown, mut told) = (std::io::stderr().is_terminal(), None, Instant::now());
    move |done, total| {
        let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100) as u64;
        let (megabytes, step) = (total >> 20, if terminal { 1 } else { STEP });
        if shown == Some(percent / step) {
            return;
        }
        if terminal {
            shown = Some(percent / step);
            let end = if done >= total { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{what} the model: {percent} % of {megabytes} MB{end}"); // It is for show.
        } else if told.elapsed() >= PAUSE {
            (shown, told) = (Some(percent / step), Instant::now());
            tracing::info!(percent, megabytes, "{what} the model");
        }
    }
}

//! How far something is that takes more than a second: a bar on a terminal, a line of the log now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// From one line of the log to the next, at least.
const PAUSE: Duration = Duration::from_secs(5);
/// From one picture of a bar without an end to the next.
const TICK: Duration = Duration::from_millis(120);

const COUNT: &str = "{msg} {wide_bar} {pos}/{len} {eta}";
const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {eta}";
const WAIT: &str = "{spinner} {msg} {elapsed}";

/// Something that goes on. What is over before `PAUSE` leaves no line in the log; a bar goes when it is dropped.
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, bar: ProgressBar, template: &str) -> Progress {
        // The templates are this file's: a wrong one gives a plain bar.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Progress { what, bar, told: Instant::now() }
    }

    /// So many of `total` things.
    pub fn count(what: &'static str, total: u64) -> Progress {
        Progress::new(what, ProgressBar::new(total), COUNT)
    }

    /// Something whose end nobody knows.
    pub fn wait(what: &'static str) -> Progress {
        let progress = Progress::new(what, ProgressBar::new_spinner(), WAIT);
        if !progress.bar.is_hidden() {
            progress.bar.enable_steady_tick(TICK);
        }
        progress
    }

    /// So much is done of what may have become more.
    pub fn set_of(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.set(done);
    }

    /// Whether a bar stands on the terminal.
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            tracing::info!(done, total = self.bar.length(), "{}", self.what);
        }
    }

    /// What is said meanwhile goes above the bar.
    pub fn beside<T>(&self, say: impl FnOnce() -> T) -> T {
        self.bar.suspend(say)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Tells people what is done of a file, given bytes done and in all.
pub fn bytes(what: &'static str) -> impl FnMut(u64, u64) {
    let mut progress = Progress::new(what, ProgressBar::new(0), BYTES);
    move |done, total| progress.set_of(done, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in [COUNT, BYTES, WAIT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}

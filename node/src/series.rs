//! What was seen over time, for charts and whoever asks: a sample for each block, thinned out so that all of the past fits, kept in a file across restarts.

use crate::{datadir::write_atomically, rpc::Context};
use ailo_protocol::canonical;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Samples that are kept, at most.
const KEPT: usize = 1024;
/// Blocks from one sample to the next, at most.
const MAX_STRIDE: u64 = 1 << 40;
/// How often they are written to the file.
const WRITTEN: Duration = Duration::from_secs(60);
/// Bytes of the file, at most.
const MAX_BYTES: usize = 1 << 20;

/// What is seen at a block. Amounts are units, losses millionths of a nat a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Height of the block.
    pub height: u64,
    /// Its time, in milliseconds since 1970.
    pub time_ms: u64,
    /// Coins minted so far.
    pub minted: u64,
    /// Coins burned so far.
    pub burned: u64,
    /// What this node's wallet has, spendable and behind nodes.
    pub owned: u64,
    /// Rounds closed.
    pub rounds: u64,
    /// Held-out loss of the model; 0 before the first.
    pub loss: u64,
    /// Tokens a second that this node trains with.
    pub speed: u32,
    /// Peers of this node.
    pub peers: u32,
}

impl Sample {
    /// Its numbers, for the file.
    fn numbers(&self) -> [u64; 9] {
        let Sample { height, time_ms, minted, burned, owned, rounds, loss, speed, peers } = *self;
        [height, time_ms, minted, burned, owned, rounds, loss, speed.into(), peers.into()]
    }

    fn of([height, time_ms, minted, burned, owned, rounds, loss, speed, peers]: [u64; 9]) -> Sample {
        let (speed, peers) = (speed as u32, peers as u32);
        Sample { height, time_ms, minted, burned, owned, rounds, loss, speed, peers }
    }
}

/// Samples of all of the past: the older half is thinned whenever there are too many.
#[derive(Default)]
struct Samples {
    all: Vec<Sample>,
    /// One of so many blocks is kept.
    stride: u64,
}

impl Samples {
    fn take(&mut self, sample: Sample) {
        self.stride = self.stride.max(1);
        if self.all.last().is_some_and(|last| last.height > sample.height) {
            return;
        }
        match self.all.last() {
            // The newest stands whatever the stride.
            Some(last) if last.height == sample.height => {}
            Some(last) if self.all.len() >= 2 && last.height / self.stride == sample.height / self.stride => {
                self.all.pop();
            }
            _ => {}
        }
        if self.all.last().is_some_and(|last| last.height >= sample.height) {
            return;
        }
        self.all.push(sample);
        if self.all.len() > KEPT {
            self.stride *= 2;
            let (stride, last) = (self.stride, sample.height);
            let mut before = None;
            self.all.retain(|sample| {
                let place = sample.height / stride;
                sample.height == last || before.replace(place) != Some(place)
            });
        }
    }
}

/// The samples of a node.
pub struct Series {
    samples: Mutex<Samples>,
    path: PathBuf,
}

impl Series {
    /// Those in the file at `path`, if it can be read.
    pub fn open(path: PathBuf) -> Arc<Series> {
        let bytes = std::fs::read(&path).ok().filter(|bytes| bytes.len() <= MAX_BYTES).unwrap_or_default();
        let kept = canonical::decode::<(u64, Vec<[u64; 9]>)>(&bytes, MAX_BYTES);
        // A damaged one is made anew: it only shows the past.
        let sound = |(stride, all): &(u64, Vec<[u64; 9]>)| {
            *stride <= MAX_STRIDE && all.len() <= KEPT && all.is_sorted_by(|a, b| a[0] < b[0])
        };
        let (stride, all) = kept.ok().filter(sound).unwrap_or_default();
        Arc::new(Series {
            samples: Mutex::new(Samples { all: all.into_iter().map(Sample::of).collect(), stride }),
            path,
        })
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All samples, the oldest first.
    pub fn all(&self) -> Vec<Sample> {
        self.samples().all.clone()
    }

    fn write(&self) {
        let bytes = {
            let samples = self.samples();
            canonical::encode(&(samples.stride, samples.all.iter().map(Sample::numbers).collect::<Vec<_>>()))
        };
        if let Err(e) = write_atomically(&self.path, &bytes) {
            tracing::debug!(error = %e, "what was seen over time is not kept");
        }
    }

    /// Looks at each new head until `stop`.
    pub async fn run(self: Arc<Series>, context: Arc<Context>, mut stop: watch::Receiver<bool>) {
        let mut heads = context.chain.heads();
        let mut written = Instant::now();
        // What another ledger's past was is not this one's.
        let top = heads.borrow().state.height();
        self.samples().all.retain(|sample| sample.height <= top);
        loop {
            let head = heads.borrow_and_update().clone();
            let (state, supply) = (&head.state, head.state.supply());
            let account = state.account(&state.account_at(&context.wallet));
            self.samples().take(Sample {
                height: state.height(),
                time_ms: state.time_ms(),
                minted: supply.minted.0,
                burned: supply.burned.0,
                owned: account.free.0.saturating_add(account.staked.0),
                rounds: state.model().steps,
                loss: state.model().loss.unwrap_or(0),
                speed: context.progress.borrow().tokens_per_s as u32,
                peers: u32::try_from(context.net.peers().len()).unwrap_or(u32::MAX),
            });
            if written.elapsed() > WRITTEN {
                written = Instant::now();
                let own = self.clone();
                // What fails has said so.
                let _ = tokio::task::spawn_blocking(move || own.write()).await;
            }
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { break },
                _ = stop.changed() => break,
            }
        }
        self.write();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_of_the_past_fits_evenly_and_the_newest_sample_is_there() {
        let mut samples = Samples::default();
        for height in 1..=50_000u64 {
            samples.take(Sample { height, ..Sample::default() });
            assert_eq!(samples.all.last().unwrap().height, height);
            assert!(samples.all.len() <= KEPT);
        }
        let heights: Vec<u64> = samples.all.iter().map(|sample| sample.height).collect();
        assert!(heights.is_sorted_by(|a, b| a < b) && heights[0] == 1 && heights.len() > KEPT / 4, "{heights:?}");
        let widest = heights.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest <= 2 * samples.stride, "{widest} with a stride of {}", samples.stride);
        samples.take(Sample { height: 7, ..Sample::default() });
        samples.take(Sample { height: 49_999, ..Sample::default() });
        assert_eq!(samples.all.last().unwrap().height, 50_000, "a head that is older than what is known is nothing");
    }

    #[test]
    fn what_was_seen_is_there_after_a_restart_and_damage_only_loses_the_past() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series");
        let series = Series::open(path.clone());
        (1..=5).for_each(|height| series.samples().take(Sample { height, minted: height, ..Sample::default() }));
        series.write();
        assert_eq!(Series::open(path.clone()).all(), series.all());
        std::fs::write(&path, b"damaged").unwrap();
        assert_eq!(Series::open(path).all(), []);
    }
}

//! Many seeds, on several threads. Each thread has a thread pool of itself alone, so that what the ledger does in
//! parallel happens in the seed's own thread, in order.

use super::{Options, Outcome, faults::Kind, run};
use ailo_protocol::Hash;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What many seeds did together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run to their end.
    pub seeds: u64,
    /// Blocks.
    pub heights: u64,
    /// Transfers.
    pub transfers: u64,
    /// Training rounds.
    pub rounds: u64,
    /// Events.
    pub events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Processes killed and machines without power, whatever fault did it.
    pub ends: [u64; 2],
    /// What the rules of the ledger did, by name.
    pub happened: BTreeMap<&'static str, u64>,
    /// Seeds with validators that broke the rules, and those in which one of them was reported.
    pub byzantine_seeds: u64,
    /// See above.
    pub reported_seeds: u64,
    /// Signatures verified by arithmetic.
    pub verified: u64,
    /// Signatures known to be good, because the same had been verified before.
    pub remembered: u64,
    /// The traces of all seeds, whatever their order, as one number.
    pub traces: Hash,
    /// The failing seed with the least number.
    pub failure: Option<Outcome>,
    /// The last seed that was run, by number.
    pub last: Option<Outcome>,
    /// Real time.
    pub took: Duration,
}

impl Summary {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.heights += outcome.heights;
        self.transfers += outcome.transfers;
        self.rounds += outcome.rounds;
        self.events += outcome.events;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (name, count) in &outcome.happened {
            *self.happened.entry(name).or_default() += count;
        }
        self.ends[0] += outcome.ends[0];
        self.ends[1] += outcome.ends[1];
        self.byzantine_seeds += u64::from(!outcome.byzantine.is_empty());
        self.reported_seeds += u64::from(!outcome.reported.is_empty());
        self.verified += outcome.signatures.verified;
        self.remembered += outcome.signatures.remembered;
        for (sum, byte) in self.traces.0.iter_mut().zip(outcome.trace.0) {
            *sum ^= byte;
        }
        if outcome.violation.is_some() && self.failure.as_ref().is_none_or(|known| outcome.seed < known.seed) {
            self.failure = Some(outcome.clone());
        }
        if self.last.as_ref().is_none_or(|last| last.seed < outcome.seed) {
            self.last = Some(outcome);
        }
    }
}

/// Runs the seeds `from..from + count` until one fails; `each` sees every outcome.
pub fn sweep(from: u64, count: u64, threads: usize, options: &Options, each: impl Fn(&Outcome) + Sync) -> Summary {
    let (next, stop, start) = (AtomicU64::new(from), AtomicBool::new(false), Instant::now());
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from.saturating_add(count) {
                return;
            }
            let outcome = run(seed, options);
            each(&outcome);
            if outcome.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            summary.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                alone(|| tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), work))
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.took = start.elapsed();
    summary
}

/// Runs `work` in a thread pool of one thread.
pub(super) fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread can be started").install(work)
}

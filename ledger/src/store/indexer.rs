//! Brings the index up behind the block log, on a thread of its own: what has gathered for a while goes into the next
//! batch together, so that of an entry which many blocks change only the last value is written, and the disk is asked to
//! sync once for many blocks. The log alone decides what is final; readers get what is not in the index yet from what waits for it.

use super::{
    StoreError,
    index::{Addition, Index},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Blocks that wait for the index, at most; then the log waits too.
const MAX_WAITING: usize = 64;
/// Blocks gather for so long, unless there is enough for a batch.
const GATHER: Duration = Duration::from_secs(1);
/// Transactions that are enough.
const ENOUGH: usize = 512;
/// How much lower the thread's priority is: what readers wait for comes first, and the log waits only for what lags far behind.
const NICENESS: i32 = 5;
/// Blocks of one batch, at most.
pub const MAX_TOGETHER: usize = 32;

/// The index and the thread that writes it.
pub struct Indexer {
    index: Arc<Index>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    waiting: VecDeque<Arc<Addition>>,
    /// What is being written: it stands before what waits.
    writing: Vec<Arc<Addition>>,
    /// Height of the last block that was handed in.
    appended: u64,
    /// When the next batch is written at the latest.
    due: Option<Instant>,
    failure: Option<sled::Error>,
    stops: bool,
}

impl Queue {
    /// Until the next batch is to be written; nothing where there is none.
    fn time_left(&self) -> Option<Duration> {
        let due = self.due.filter(|_| !self.waiting.is_empty())?;
        let enough = || self.waiting.iter().map(|addition| addition.transactions()).sum::<usize>() >= ENOUGH;
        let many = self.waiting.len() >= MAX_TOGETHER || enough();
        let at_once = self.stops || many;
        Some(if at_once { Duration::ZERO } else { due.saturating_duration_since(Instant::now()) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Indexer {
    /// An indexer of an index that stands at the block at `height`.
    pub fn start(index: Index, height: u64) -> Result<Indexer, StoreError> {
        let queue = Queue {
            waiting: VecDeque::new(),
            writing: Vec::new(),
            appended: height,
            due: None,
            failure: None,
            stops: false,
        };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        let index = Arc::new(index);
        let (writes, written) = (index.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("indexer".into()).spawn(move || run(&writes, &written));
        let thread = thread.map_err(|e| StoreError::Index(sled::Error::Io(e)))?;
        Ok(Indexer { index, shared, thread: Some(thread) })
    }

    /// Height of the last block that was handed in.
    pub fn height(&self) -> u64 {
        self.shared.lock().appended
    }

    /// Hands in the next block; waits only while too many wait.
    pub fn add(&self, addition: Addition) -> Result<(), StoreError> {
        let mut queue = self.shared.lock();
        while queue.waiting.len() >= MAX_WAITING && queue.failure.is_none() {
            queue = self.shared.wait(queue);
        }
        if let Some(failure) = &queue.failure {
            return Err(StoreError::Index(failure.clone()));
        }
        queue.appended = addition.height();
        queue.waiting.push_back(Arc::new(addition));
        queue.due.get_or_insert_with(|| Instant::now() + GATHER);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Looks something up: in what is not in the index yet, the newest first, and then in the index.
    pub fn find<T>(
        &self,
        recent: impl Fn(&Addition) -> Option<T>,
        look: impl Fn(&Index) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let (waiting, index) = self.now();
        match waiting.iter().rev().find_map(|addition| recent(addition)) {
            Some(found) => Ok(Some(found)),
            None => look(index),
        }
    }

    /// The index as it stands, and what was handed in before and may not be in it yet, the oldest first.
    pub fn now(&self) -> (Vec<Arc<Addition>>, &Index) {
        let queue = self.shared.lock();
        (queue.writing.iter().chain(&queue.waiting).cloned().collect(), &self.index)
    }

    /// From now on nobody asks for blocks below this height.
    pub fn forget_before(&self, height: u64) {
        self.index.forget_before(height);
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.shared.lock().stops = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it panicked: what it did not write is brought up at the next start
        }
    }
}

/// Lowers the calling thread's share of a busy processor: on Linux a thread has a niceness of its own. Failing to costs responsiveness only.
pub fn lower_priority(niceness: i32) {
    if let Err(e) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness) {
        tracing::debug!(error = %e, "cannot lower the priority of a thread");
    }
}

fn run(index: &Index, shared: &Shared) {
    lower_priority(NICENESS);
    loop {
        let mut queue = shared.lock();
        loop {
            match queue.time_left() {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = shared.changed.wait_timeout(queue, left);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None if queue.stops => return,
                None => queue = shared.wait(queue),
            }
        }
        let count = queue.waiting.len().min(MAX_TOGETHER);
        let together: Vec<Arc<Addition>> = queue.waiting.drain(..count).collect();
        queue.writing.clone_from(&together);
        queue.due = (!queue.waiting.is_empty()).then(|| Instant::now() + GATHER);
        drop(queue);
        let outcome = index.add(&together);
        let mut queue = shared.lock();
        match outcome {
            Ok(()) => queue.writing.clear(),
            Err(e) => queue.failure = Some(e),
        }
        let failed = queue.failure.is_some();
        drop(queue);
        shared.changed.notify_all();
        if failed {
            return;
        }
    }
}

//! Threads that compute: long-lived, because libtorch keeps state in each thread that used it, and apart from the
//! runtime, so that network and RPC stay responsive. Four of them: one trains, one trains again what others have trained, one
//! does what the network waits for (evaluation, aggregation), one writes text for whoever asks.

use ailo_ledger::store::lower_priority;
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for one thread.
const QUEUE: usize = 64;
/// Who rests sees that it is to stop within this time.
const LOOK_UP: Duration = Duration::from_millis(200);

/// A thread that runs jobs one after the other.
#[derive(Clone)]
pub struct Worker {
    jobs: SyncSender<Job>,
    stopping: Arc<AtomicBool>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// The worker's queue is full, or its thread is gone.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Too many jobs wait.
    #[error("the compute thread is busy: try again in a moment")]
    Busy,
    /// The job panicked.
    #[error("a computation failed, perhaps for want of memory: the log says more")]
    Failed,
}

impl Worker {
    /// Starts the thread; `niceness` 0 to 19 lowers its share of a busy processor.
    pub fn spawn(name: &str, niceness: i32) -> std::io::Result<Worker> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            lower_priority(niceness);
            ailo_training::set_threads(1);
            while let Ok(job) = queue.recv() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                job();
            }
        })?;
        Ok(Worker { jobs, stopping, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Ends the thread after the job that it runs, and waits for that: a thread that computes while the process exits
    /// finds libtorch's globals gone, and crashes.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.jobs.try_send(Box::new(|| ())); // wakes an idle thread; one with a full queue is awake
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.map(JoinHandle::join);
    }

    /// Runs `work` on the thread and returns what it returns; a job that panics is an error here, not the thread's end.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unavailable> {
        let (send, receive) = oneshot::channel();
        let job: Job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Ok(value) = outcome {
                let _ = send.send(value); // nobody waits any more: the caller was cancelled
            }
        });
        self.jobs.try_send(job).map_err(|_| Unavailable::Busy)?;
        receive.await.map_err(|_| Unavailable::Failed)
    }
}

/// Whether a thread has something to do that others are to give way to.
#[derive(Default)]
pub struct Busy {
    busy: Mutex<bool>,
    changed: Condvar,
}

/// Ends what [`Busy::begin`] began.
pub struct Begun<'a>(&'a Busy);

impl Busy {
    fn set(&self, busy: bool) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = busy;
        self.changed.notify_all();
    }

    /// From now on, until what this gives is dropped.
    pub fn begin(&self) -> Begun<'_> {
        self.set(true);
        Begun(self)
    }

    /// Waits until the other thread has nothing to do, at most until `until`, or until `stop` is set.
    pub fn rest(&self, until: Instant, stop: &AtomicBool) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while *busy && !stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now()).min(LOOK_UP);
            if left.is_zero() {
                break;
            }
            busy = self.changed.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_and_a_panic_does_not_end_the_thread() {
        let worker = Worker::spawn("test", 10).unwrap();
        assert_eq!(worker.run(|| 1 + 1).await.unwrap(), 2);
        assert!(worker.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(worker.run(|| 3).await.unwrap(), 3);
        worker.stop();
        assert!(worker.run(|| 4).await.is_err());
    }

    #[test]
    fn who_gives_way_waits_for_the_end_of_work_its_time_or_the_stop() {
        let (busy, stop) = (Busy::default(), AtomicBool::new(false));
        let far = Instant::now() + Duration::from_secs(3600);
        busy.rest(far, &stop); // nothing is done
        let begun = busy.begin();
        busy.rest(Instant::now(), &stop);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| busy.rest(far, &stop));
            drop(begun);
            waiting.join().unwrap();
        });
        let _begun = busy.begin();
        stop.store(true, Ordering::Relaxed);
        busy.rest(far, &stop);
    }
}

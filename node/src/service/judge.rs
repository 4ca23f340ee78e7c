//! Judges challenged contributions: a validator trains them again, and tells the ledger what its machine got. One
//! after another, on a thread of their own beside this node's training; what can't be replayed here (another determinism
//! class, a base that nobody has any more) is left to others.
//!
//! Everything is derived from the ledger at every head, so a node that was killed begins again with what is still open.

use super::{
    chain::Head,
    work::{self, RESEND, Setup, Task, take_finished},
};
use crate::genesis::now_ms;
use ailo_ledger::{Body, Transaction};
use ailo_protocol::{Hash, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What can't be judged now is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// A challenged contribution: its round and its maker.
type Case = (u64, NodeId);

/// The service.
pub struct Judge {
    setup: Arc<Setup>,
    replaying: Option<Task<Case, Hash>>,
    /// What this node has found, and when it last said so.
    found: BTreeMap<Case, (Hash, Option<Instant>)>,
    /// When it failed to find out.
    failed: BTreeMap<Case, Instant>,
    stopping: Arc<AtomicBool>,
}

impl Judge {
    /// A service that has judged nothing yet.
    pub fn new(setup: Arc<Setup>) -> Judge {
        Judge { setup, replaying: None, found: BTreeMap::new(), failed: BTreeMap::new(), stopping: Arc::default() }
    }

    /// Runs until `stop` changes.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut heads = self.setup.chain.heads();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            let head = heads.borrow_and_update().clone();
            self.advance(&head).await;
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { break },
                _ = tick.tick() => {}
                _ = stop.changed() => break,
            }
        }
        self.stopping.store(true, Ordering::Relaxed);
    }

    async fn advance(&mut self, head: &Head) {
        let me = *self.setup.key.public();
        let open = head.state.challenges();
        let owed = open.filter(|(_, _, trial)| trial.power.power(&me) > 0 && !trial.judged.contains(&me));
        let owed: BTreeSet<Case> = owed.map(|(round, maker, _)| (round, maker)).collect();
        self.found.retain(|case, _| owed.contains(case));
        self.failed.retain(|case, _| owed.contains(case));
        match take_finished(&mut self.replaying).await {
            Some((case, Some(found))) => {
                tracing::info!(round = case.0, contributor = %case.1.short(), "a challenged contribution is replayed");
                self.found.insert(case, (found, None));
            }
            Some((case, None)) => drop(self.failed.insert(case, Instant::now())),
            None => {}
        }
        for case in owed {
            match self.found.get(&case) {
                Some((_, said)) if said.is_some_and(|at| at.elapsed() < RESEND) => {}
                Some((found, _)) => self.say(case, *found).await,
                None if self.failed.get(&case).is_some_and(|at| at.elapsed() < RETRY) => {}
                None if self.replaying.is_none() => {
                    let Some(round) = head.state.past_round(case.0) else { continue };
                    let (setup, round, stop) = (self.setup.clone(), round.clone(), self.stopping.clone());
                    self.replaying = Task::spawn(case, work::replay(setup, round, case.1, stop));
                }
                None => {}
            }
        }
    }

    async fn say(&mut self, (round, node): Case, found: Hash) {
        self.found.insert((round, node), (found, Some(Instant::now())));
        let body = Body::Judge { round, node, found };
        let transaction = Transaction::sign(&self.setup.genesis.id(), &self.setup.key, 0, now_ms(), body);
        if let Err(e) = self.setup.chain.submit(transaction).await {
            tracing::info!(round, error = %e, "the ledger does not take this judgement yet");
        }
    }
}

//! Trains again what others have trained, where the ledger asks this validator to: contributions that the lot gave it, and
//! those that are challenged. It tells the ledger what its machine got (`docs/proof.md`).
//!
//! One after another, on a thread of their own that rests while this node trains, unless half of the time for it is over.
//! What can't be replayed here (another determinism class, a base that nobody has any more) is left to others. All is
//! derived from the ledger at every head, so a node that was killed begins again with what is still open.

use super::{
    chain::Head,
    work::{self, RESEND, Replayed, Setup, Task, take_finished},
};
use crate::{genesis::now_ms, logs::spans::traced};
use ailo_ledger::{Body, Transaction, state::State};
use ailo_protocol::NodeId;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What can't be replayed now is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// A contribution: its round and its maker.
type Case = (u64, NodeId);

/// Why it is replayed.
#[derive(Clone, Copy)]
enum Why {
    /// The lot gave it to this node.
    Drawn,
    /// It is challenged.
    Challenged,
}

/// The service.
pub struct Replays {
    setup: Arc<Setup>,
    replaying: Option<Task<Case, Replayed>>,
    /// What this node has found.
    found: BTreeMap<Case, Replayed>,
    /// When it last said so.
    said: BTreeMap<Case, Instant>,
    /// When it failed to find out.
    failed: BTreeMap<Case, Instant>,
    stopping: Arc<AtomicBool>,
}

/// What the ledger wants to know of this node, and the time until it no longer does.
fn owed(state: &State, me: &NodeId) -> BTreeMap<Case, (Why, Duration)> {
    let left = |deadline: u64| Duration::from_millis(deadline.saturating_sub(state.age_ms()));
    let drawn = state.replays().filter(|(_, _, replay)| replay.replayer == Some(*me) && replay.outcome.is_none());
    let drawn = drawn.map(|(round, maker, replay)| ((round, maker), (Why::Drawn, left(replay.deadline_age))));
    let judged = state.challenges().filter(|(_, _, trial)| trial.power.power(me) > 0 && !trial.judged.contains(me));
    let judged = judged.map(|(round, maker, trial)| ((round, maker), (Why::Challenged, left(trial.deadline_age))));
    drawn.chain(judged).collect()
}

impl Replays {
    /// A service that has replayed nothing yet.
    pub fn new(setup: Arc<Setup>) -> Replays {
        Replays {
            setup,
            replaying: None,
            found: BTreeMap::new(),
            said: BTreeMap::new(),
            failed: BTreeMap::new(),
            stopping: Arc::default(),
        }
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
        match take_finished(&mut self.replaying).await {
            Some((case, Some(found))) => drop(self.found.insert(case, found)),
            Some((case, None)) => drop(self.failed.insert(case, Instant::now())),
            None => {}
        }
        let owed = owed(&head.state, self.setup.key.public());
        self.found.retain(|case, _| owed.contains_key(case));
        self.said.retain(|case, _| owed.contains_key(case));
        self.failed.retain(|case, _| owed.contains_key(case));
        // What is asked for soonest comes first. A trial may begin at any time, so nothing rests for longer than one lasts.
        let mut owed: Vec<(Case, (Why, Duration))> = owed.into_iter().collect();
        owed.sort_by_key(|(_, (_, left))| *left);
        let trial = Duration::from_millis(head.state.params().ledger.challenge_ms);
        for (case, (why, left)) in owed {
            if let Some(found) = self.found.get(&case).copied() {
                if self.said.get(&case).is_none_or(|at| at.elapsed() >= RESEND) {
                    self.said.insert(case, Instant::now());
                    self.say(head, case, why, found).await;
                }
                continue;
            }
            let rests = self.failed.get(&case).is_some_and(|at| at.elapsed() < RETRY);
            if let Some(round) = head.state.past_round(case.0).filter(|_| self.replaying.is_none() && !rests) {
                let (setup, stop) = (self.setup.clone(), self.stopping.clone());
                let rests_until = Instant::now() + left.min(trial) / 2;
                let span = traced!("replay", round = case.0 as i64, maker = case.1.short());
                self.replaying = Task::spawn(case, span, work::replay(setup, round.clone(), case.1, rests_until, stop));
            }
        }
    }

    async fn say(&mut self, head: &Head, (round, node): Case, why: Why, found: Replayed) {
        let made = head.state.past_round(round).and_then(|past| past.contributions.get(&node));
        let Some(claimed) = made.map(|commit| commit.contribution.result()) else { return };
        let same = found.result == claimed;
        if !same {
            tracing::warn!(round, maker = %node.short(), "a replay gives another result than the contribution claims");
        }
        let body = match why {
            Why::Drawn => Body::Replayed { round, node, trace: same.then_some(found.trace) },
            Why::Challenged => Body::Judge { round, node, found: found.result },
        };
        let transaction = Transaction::sign(&self.setup.genesis.id(), &self.setup.key, 0, now_ms(), body);
        if let Err(e) = self.setup.chain.submit(transaction).await {
            tracing::info!(round, error = %e, "the ledger does not take what a replay gave yet");
        }
    }
}

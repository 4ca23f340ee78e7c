//! A node's part in the ledger, without threads, sockets and clocks: host, mempool and store put together, what to
//! propose when, and block sync. The daemon's ledger thread and the simulation are shells around this one piece.
//!
//! The shell calls in with what came and what time it is, and then settles: it carries out the actions that have
//! gathered, lets what is decided be committed, and lets what is due be done, until nothing is left
//! ([`Participant::settle`] says in which order). It sleeps until [`Participant::next_wake`] or the next message.
//!
//! - *Commit*: block log first, then the mempool moves on, then the new head is shown.
//! - *Proposing*: as soon as transactions wait or a training round waits for its lot, though not at once after a block
//!   of many, and after `idle_block_ms` when none do; in later rounds at once.
//! - *Sync*: who lags, or does not validate, asks peers for blocks with their certificates.
//! - *Own transactions* that still wait are said again: gossip may be lost, and a peer that was a block behind has not
//!   passed them on.

use crate::{
    Block, Body, Certificate, Transaction,
    consensus::{Decision, Host, HostError, Input, Message, Output, Persist, TimeoutId, Verdict},
    mempool::{AdmissionError, Mempool},
    plants::{self, Plant},
    state::{Event, Executed, Phase, State},
    store::StoreError,
    transaction::Evidence,
    witness::{Witness, attests},
};
use ailo_protocol::{Hash, NodeId};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// An own transaction that still waits is said again after this time.
const REPEAT: Duration = Duration::from_secs(3);
/// Claims of blocks further ahead than this are not passed on: nothing supports them.
const CLAIMS_AHEAD: u64 = 16;
/// Transactions that arrive within this time of the first go into the same block.
const GATHER: Duration = Duration::from_millis(20);
/// After a block of many transactions, at least so many, the next one is not proposed before this time: its votes and writes cost all validators
/// the same whether it holds one more or a thousand.
const REST: Duration = Duration::from_millis(60);
const MANY: usize = 16;
/// Block sync leaves consensus this long to get there by itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where final blocks go.
pub trait Blocks {
    /// Appends the next block; when this returns, it is on disk.
    fn append(&mut self, block: &Block, certificate: &Certificate, executed: &Executed) -> Result<(), StoreError>;
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the shell started, by a clock that only goes forward.
    pub elapsed: Duration,
    /// Milliseconds since 1970 (UTC), by a clock that may be wrong.
    pub clock_ms: u64,
}

/// What the shell is to do, in order.
pub enum Action {
    /// Send it to all peers.
    Publish(Gossip),
    /// Ask a peer how far it is, and tell by [`Participant::claim`].
    AskHead(NodeId),
    /// Ask for blocks from a height on, first the peer that claims to have them, then others; answer by
    /// [`Participant::synced`].
    AskBlocks {
        /// Who claims to have them.
        first: Option<NodeId>,
        /// The first height that is wanted.
        from: u64,
    },
    /// This peer sent a block that nobody honest sends.
    Distrust(NodeId),
    /// A block is final and on disk: the ledger stands after it.
    Head(Box<Head>),
    /// A node signed two things that exclude each other.
    Equivocation {
        /// Height.
        height: u64,
        /// Who.
        node: NodeId,
    },
}

/// What is sent to all peers.
#[derive(Clone, Debug)]
pub enum Gossip {
    /// Canonical bytes of a [`Message`].
    Consensus {
        /// The bytes.
        bytes: Vec<u8>,
        /// They have been sent before, and are to reach those who lack them still.
        again: bool,
    },
    /// A transaction.
    Transaction {
        /// The transaction.
        transaction: Box<Transaction>,
        /// As above.
        again: bool,
    },
    /// "I have this block."
    Head {
        /// Its height.
        height: u64,
        /// Its id.
        block: Hash,
    },
}

/// The ledger after a new block.
pub struct Head {
    /// The block.
    pub block: Arc<Block>,
    /// What finalised it.
    pub certificate: Certificate,
    /// The state after it.
    pub state: State,
    /// What happened in it.
    pub events: Vec<Event>,
}

/// Why a participant stopped; it is then of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ParticipantError {
    /// Consensus.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node's part in the ledger.
pub struct Participant<P, B> {
    host: Host<P>,
    blocks: B,
    mempool: Mempool,
    actions: Vec<Action>,
    decided: Option<Box<Decision>>,
    timers: BTreeMap<TimeoutId, Duration>,
    /// It is this node's turn to propose, since when.
    wanted: Option<Wanted>,
    /// Transactions wait that a block should be made for at once, since when.
    urgent: Option<Duration>,
    /// Until when it proposes nothing, after a block of many transactions.
    rests_until: Duration,
    /// This node's own transactions, by the time at which each is said again if it waits still.
    own: BTreeSet<(Duration, Hash)>,
    /// Evidence that this node has and the ledger lacks, each with the transaction that shows it.
    evidence: Vec<(Evidence, Hash)>,
    witness: Witness,
    ahead: Ahead,
}

#[derive(Clone, Copy)]
struct Wanted {
    height: u64,
    round: u32,
    since: Duration,
}

/// What is known of blocks above the own head.
#[derive(Default)]
struct Ahead {
    /// The highest block that somebody claims to have.
    height: u64,
    /// Who claims it.
    peer: Option<NodeId>,
    /// Since when this node has been behind.
    since: Option<Duration>,
    /// A request is under way.
    asking: bool,
}

impl<P: Persist, B: Blocks> Participant<P, B> {
    /// A participant whose host stands after the last block of `blocks`. The shell gives it [`Participant::start`] next.
    pub fn new(host: Host<P>, blocks: B) -> Participant<P, B> {
        Participant {
            host,
            blocks,
            mempool: Mempool::default(),
            actions: Vec::new(),
            decided: None,
            timers: BTreeMap::new(),
            wanted: None,
            urgent: None,
            rests_until: Duration::ZERO,
            own: BTreeSet::new(),
            evidence: Vec::new(),
            witness: Witness::default(),
            ahead: Ahead::default(),
        }
    }

    /// The node is up; once, and first.
    pub fn start(&mut self, now: Now) -> Result<(), ParticipantError> {
        self.feed(Input::Start, now).map(drop)
    }

    /// The consensus host.
    pub fn host(&self) -> &Host<P> {
        &self.host
    }

    /// Transactions that wait.
    pub fn mempool(&self) -> &Mempool {
        &self.mempool
    }

    /// Where final blocks are.
    pub fn blocks(&self) -> &B {
        &self.blocks
    }

    /// Height of the last block.
    pub fn height(&self) -> u64 {
        self.host.state().height()
    }

    /// What is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Commits what is decided, else does one thing that is due; whether there was any. The shell carries out the
    /// actions before and after each call, also after one that fails, so that what was sent first arrives first.
    pub fn settle(&mut self, now: Now) -> Result<bool, ParticipantError> {
        Ok(self.commit(now)?
            || self.run_out_timer(now)?
            || self.propose_when_due(now)?
            || self.repeat_own(now)
            || self.sync_when_behind(now))
    }

    /// When something will be due.
    pub fn next_wake(&self) -> Option<Duration> {
        let timers = self.timers.values().copied();
        let propose = self.wanted.as_ref().map(|wanted| self.propose_at(wanted));
        let sync = self.ahead.since.filter(|_| !self.ahead.asking).map(|since| since + self.patience());
        timers.chain(propose).chain(sync).chain(self.own.first().map(|(at, _)| *at)).min()
    }

    /// Takes in a transaction of this node's own, or of who hands it in here, and sends it on.
    pub fn submit(&mut self, transaction: &Transaction, now: Now) -> Result<Hash, AdmissionError> {
        let id = self.take(transaction, now)?;
        self.own.insert((now.elapsed + REPEAT, id));
        let transaction = Box::new(transaction.clone());
        self.actions.push(Action::Publish(Gossip::Transaction { transaction, again: false }));
        Ok(id)
    }

    /// Takes in a transaction that a peer sent on.
    pub fn on_transaction(&mut self, transaction: &Transaction, now: Now) -> Verdict {
        match self.take(transaction, now) {
            Ok(_) => Verdict::Accept,
            Err(AdmissionError::Signature(_)) => Verdict::Reject,
            Err(_) => Verdict::Ignore,
        }
    }

    /// Takes in transactions that a peer sent on together, and thinks of the peer as the worst of them deserves; useful
    /// are they if one is.
    pub fn on_transactions(&mut self, transactions: &[Transaction], now: Now) -> Verdict {
        self.verify_ahead(transactions);
        let mut verdict = Verdict::Ignore;
        for transaction in transactions {
            match self.on_transaction(transaction, now) {
                Verdict::Reject => return Verdict::Reject,
                Verdict::Accept => verdict = Verdict::Accept,
                Verdict::Ignore => {}
            }
        }
        verdict
    }

    /// Checks signatures on all cores, so that taking the transactions in one by one finds them checked; but none for which
    /// there is no room.
    pub fn verify_ahead(&self, transactions: &[Transaction]) {
        let state = self.host.state();
        let wanted = transactions.iter().filter(|transaction| self.mempool.may_take(transaction));
        wanted.collect::<Vec<_>>().into_par_iter().for_each(|transaction| drop(state.verify(transaction)));
    }

    /// Takes in a message of consensus.
    pub fn on_consensus(&mut self, message: Message, now: Now) -> Result<Verdict, ParticipantError> {
        Ok(self.feed(Input::Message(message), now)?.unwrap_or(Verdict::Ignore))
    }

    /// A peer says to everybody that it has a block.
    pub fn on_head(&mut self, peer: NodeId, height: u64, now: Now) -> Verdict {
        let news = self.height().max(self.ahead.height) < height;
        let verdict = if news && height <= self.height() + CLAIMS_AHEAD { Verdict::Accept } else { Verdict::Ignore };
        self.claim(peer, height, now);
        verdict
    }

    /// A peer is there: perhaps it is ahead, and perhaps it lacks the own transactions.
    pub fn connected(&mut self, peer: NodeId, now: Now) {
        self.actions.push(Action::AskHead(peer));
        let soon = now.elapsed + GATHER;
        self.own = std::mem::take(&mut self.own).into_iter().map(|(at, id)| (at.min(soon), id)).collect();
    }

    /// A peer claims to have a block.
    pub fn claim(&mut self, peer: NodeId, height: u64, now: Now) {
        self.claim_height(Some(peer), height, now);
    }

    /// Blocks that a peer sent for sync; none when nobody had any.
    pub fn synced(
        &mut self,
        peer: Option<NodeId>,
        blocks: Vec<(Arc<Block>, Certificate)>,
        now: Now,
    ) -> Result<(), ParticipantError> {
        self.ahead.asking = false;
        let before = self.height();
        for (block, certificate) in blocks {
            self.commit(now)?;
            if block.header.height != self.height() + 1 {
                continue; // consensus got there in the meantime
            }
            if self.feed(Input::Synced(block, certificate), now)? == Some(Verdict::Reject) {
                self.actions.extend(peer.map(Action::Distrust));
                break;
            }
        }
        self.commit(now)?;
        if peer.is_some() && peer != self.ahead.peer {
            // Another peer had to help: whoever claimed more is forgotten, with its claim.
            self.ahead.peer = peer;
            self.ahead.height = self.height() + 1;
        }
        self.ahead.since = if self.height() == before {
            // Whoever claimed more could not show it: nothing is believed until it is said again.
            self.ahead = Ahead::default();
            None
        } else {
            (self.ahead.height > self.height()).then_some(now.elapsed)
        };
        Ok(())
    }

    fn take(&mut self, transaction: &Transaction, now: Now) -> Result<Hash, AdmissionError> {
        if attests(transaction) && self.host.state().verify(transaction).is_ok() {
            self.compare(transaction, now);
        }
        let id = self.mempool.add(transaction.clone(), self.host.state(), now.clock_ms)?;
        if is_urgent(transaction) {
            self.urgent.get_or_insert(now.elapsed);
        }
        Ok(id)
    }

    /// Gives the host an input; a verdict, if it has one, is returned.
    fn feed(&mut self, input: Input, now: Now) -> Result<Option<Verdict>, ParticipantError> {
        let (mut opinion, mut rivals) = (None, Vec::new());
        for output in self.host.handle(input, now.clock_ms)? {
            match output {
                Output::Verdict(verdict) => opinion = opinion.or(Some(verdict)),
                Output::Broadcast { bytes, again } => {
                    self.actions.push(Action::Publish(Gossip::Consensus { bytes, again }));
                }
                Output::SetTimeout(id, after) => drop(self.timers.insert(id, now.elapsed + after)),
                Output::CancelTimeout(id) => drop(self.timers.remove(&id)),
                Output::CancelAllTimeouts => self.timers.clear(),
                Output::WantBlock { height, round } => {
                    self.wanted = Some(Wanted { height, round, since: now.elapsed });
                }
                Output::Decided(decision) => self.decided = Some(decision),
                Output::Behind { height } => self.claim_height(None, height.saturating_sub(1), now),
                Output::Equivocation(evidence) => rivals.push(evidence),
            }
        }
        for evidence in rivals {
            let (height, node) = (evidence.height(), evidence.node());
            self.actions.push(Action::Equivocation { height, node });
            if !plants::on(Plant::EvidenceDropped) {
                self.accuse(*evidence, now);
            }
        }
        Ok(opinion)
    }

    /// Accuses who attested the same block otherwise.
    fn compare(&mut self, transaction: &Transaction, now: Now) {
        let known = self.host.state().node(&transaction.unsigned.signer).is_some();
        if let Some(evidence) = known.then(|| self.witness.see(transaction)).flatten() {
            let (height, node) = (evidence.height(), evidence.node());
            // The rival may pass by again, or others of the node: one slash covers them all.
            if !self.evidence.iter().any(|(shown, _)| shown.node() == node) {
                self.actions.push(Action::Equivocation { height, node });
                if !plants::on(Plant::AttestationsDropped) {
                    self.accuse(evidence, now);
                }
            }
        }
    }

    /// Shows evidence to the ledger, and keeps it until the ledger has it.
    fn accuse(&mut self, evidence: Evidence, now: Now) {
        let Some(transaction) = self.host.accuse(evidence.clone(), now.clock_ms) else { return };
        let _ = self.submit(&transaction, now); // what is refused now is said again after the next block
        self.evidence.push((evidence, transaction.id()));
    }

    /// Evidence that neither stands on the ledger nor waits (a wrong clock had dated it, or its time had passed) is said
    /// again.
    fn accuse_again(&mut self, now: Now) {
        for (evidence, id) in std::mem::take(&mut self.evidence) {
            match self.mempool.contains(&id) {
                true => self.evidence.push((evidence, id)),
                false => self.accuse(evidence, now),
            }
        }
    }

    /// Commits the block that is decided, if one is: to disk first, then to everybody here.
    fn commit(&mut self, now: Now) -> Result<bool, ParticipantError> {
        let Some(decision) = self.decided.take() else { return Ok(false) };
        if plants::on(Plant::StaleHead) {
            self.show(&decision);
        }
        self.blocks.append(&decision.block, &decision.certificate, &decision.executed)?;
        self.wanted = None;
        let many = decision.block.transactions.len() >= MANY;
        self.rests_until = now.elapsed + if many { REST } else { Duration::ZERO };
        self.mempool.update(&decision.block, &decision.executed.state, now.clock_ms);
        let draws = decision.executed.state.round().phase == Phase::Draw;
        self.urgent = (draws || self.mempool.ready().any(is_urgent)).then_some(now.elapsed);
        let (height, block) = (decision.block.header.height, decision.block.id());
        if height >= self.ahead.height {
            self.ahead = Ahead { height, asking: self.ahead.asking, ..Ahead::default() };
        }
        self.show(&decision);
        if self.host.is_voting() {
            self.actions.push(Action::Publish(Gossip::Head { height, block }));
        }
        self.feed(Input::Committed { height }, now)?;
        decision.block.transactions.iter().filter(|t| attests(t)).for_each(|t| self.compare(t, now));
        self.accuse_again(now);
        Ok(true)
    }

    fn show(&mut self, decision: &Decision) {
        self.actions.push(Action::Head(Box::new(Head {
            block: decision.block.clone(),
            certificate: decision.certificate.clone(),
            state: decision.executed.state.clone(),
            events: decision.executed.events.clone(),
        })));
    }

    fn run_out_timer(&mut self, now: Now) -> Result<bool, ParticipantError> {
        let due = self.timers.iter().find(|(_, at)| **at <= now.elapsed).map(|(id, _)| *id);
        let Some(id) = due else { return Ok(false) };
        self.timers.remove(&id);
        self.feed(Input::Timeout(id), now)?;
        Ok(true)
    }

    /// In round 0 at once when transactions wait, else when the idle time is over; in later rounds everybody waits already.
    fn propose_at(&self, wanted: &Wanted) -> Duration {
        let idle = wanted.since + Duration::from_millis(self.host.state().params().ledger.idle_block_ms);
        match self.urgent {
            _ if wanted.round > 0 => wanted.since,
            Some(urgent) => idle.min((urgent + GATHER).max(wanted.since).max(self.rests_until)),
            None => idle,
        }
    }

    fn propose_when_due(&mut self, now: Now) -> Result<bool, ParticipantError> {
        let due = self.wanted.as_ref().is_some_and(|wanted| self.propose_at(wanted) <= now.elapsed);
        let Some(Wanted { height, round, .. }) = self.wanted.take_if(|_| due) else { return Ok(false) };
        let candidates = self.mempool.candidates(self.host.state());
        self.feed(Input::Propose { height, round, candidates }, now)?;
        Ok(true)
    }

    fn repeat_own(&mut self, now: Now) -> bool {
        let mut said = false;
        while let Some((_, id)) = self.own.first().copied().filter(|(at, _)| *at <= now.elapsed) {
            self.own.pop_first();
            let Some(transaction) = self.mempool.get(&id).cloned().map(Box::new) else { continue };
            self.own.insert((now.elapsed + REPEAT, id));
            self.actions.push(Action::Publish(Gossip::Transaction { transaction, again: true }));
            said = true;
        }
        said
    }

    fn claim_height(&mut self, peer: Option<NodeId>, height: u64, now: Now) {
        if height > self.height() {
            self.ahead.since.get_or_insert(now.elapsed);
            if height >= self.ahead.height {
                self.ahead.height = height;
                self.ahead.peer = peer.or(self.ahead.peer);
            }
        }
    }

    /// A voting node mostly gets there by consensus itself; the others know blocks from sync alone.
    fn patience(&self) -> Duration {
        if self.host.is_voting() { PATIENCE } else { Duration::ZERO }
    }

    fn sync_when_behind(&mut self, now: Now) -> bool {
        let due = self.ahead.since.is_some_and(|since| since + self.patience() <= now.elapsed);
        let asks = due && !self.ahead.asking;
        if asks {
            self.ahead.asking = true;
            self.actions.push(Action::AskBlocks { first: self.ahead.peer, from: self.height() + 1 });
        }
        asks
    }
}

/// Whether a block should be made for it at once; heartbeats can wait for the next.
fn is_urgent(transaction: &Transaction) -> bool {
    !matches!(transaction.unsigned.body, Body::Heartbeat { .. })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{consensus::tests::NoFiles, state::testing};

    impl Blocks for NoFiles {
        fn append(&mut self, _: &Block, _: &Certificate, _: &Executed) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_right_after_a_block_of_many_transactions_shares_the_next_one() {
        let ms = Duration::from_millis;
        // Many nodes, of which the first alone validates.
        let mut genesis = testing::genesis(MANY as u8, |_| {});
        genesis.founders[1..].iter_mut().for_each(|founder| founder.validator = false);
        let state = State::genesis(&genesis);
        let (idle, founded) = (ms(state.params().ledger.idle_block_ms), state.time_ms());
        let now = |elapsed: Duration| Now { elapsed, clock_ms: founded + 1 + elapsed.as_millis() as u64 };
        let host = Host::new(state, testing::node_key(0), Some(NoFiles), None).unwrap();
        let mut alone = Participant::new(host, NoFiles);
        let proposes = |alone: &Participant<_, _>| alone.propose_at(&alone.wanted.unwrap());
        alone.start(now(ms(0))).unwrap();
        while alone.settle(now(ms(0))).unwrap() {}
        assert_eq!((alone.height(), proposes(&alone)), (0, idle), "nothing waits");
        while alone.settle(now(idle)).unwrap() {}
        assert_eq!((alone.height(), proposes(&alone)), (1, 2 * idle));
        // That block was empty.
        alone.urgent = Some(idle);
        assert_eq!(proposes(&alone), idle + ms(20));
        let network = alone.host().state().network();
        for i in 0..MANY as u8 {
            let beat = Body::Heartbeat { trains: false, class: testing::CLASS };
            let beat = Transaction::sign(&network, &testing::node_key(i), 0, now(idle).clock_ms, beat);
            alone.submit(&beat, now(idle)).unwrap();
        }
        let idle = 2 * idle;
        while alone.settle(now(idle)).unwrap() {}
        assert_eq!(alone.height(), 2);
        for (after, proposed) in [(0, 60), (30, 60), (45, 65), (1_000, 1_020)] {
            alone.urgent = Some(idle + ms(after));
            assert_eq!(proposes(&alone), idle + ms(proposed), "{after} ms after it");
        }
        // Whoever proposes in a later round has been waited for.
        let wanted = Wanted { round: 1, ..alone.wanted.unwrap() };
        assert_eq!(alone.propose_at(&wanted), wanted.since);
    }
}

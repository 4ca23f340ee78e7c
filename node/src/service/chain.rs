//! The ledger as a service: one thread owns the consensus host, the store and the mempool; everybody else talks to it
//! through a cloneable [`Chain`].
//!
//! The thread carries out what the host asks for, in order: broadcasts, timers, commits (block log fsynced first, then
//! the index, then the new head is shown). It proposes as soon as transactions wait, and after `idle_block_ms` when none do.
//! A node that lags, or does not validate, asks peers for blocks with their certificates; that is all of block sync.

use super::sync;
use crate::{error::NodeError, genesis::now_ms};
use ailo_ledger::{
    Block, Body, Certificate, Header, Transaction,
    consensus::{Decision, Host, Input, Message, Output, TimeoutId, Verdict as Opinion},
    light::LightBlock,
    mempool::{AdmissionError, Mempool},
    state::{Event, State},
    store::{ConsensusFiles, Cursor, Page, Store, StoreError},
};
use ailo_proto::{Consensus, gossip};
use ailo_protocol::{
    Address, Genesis, Hash, Keypair, NodeId, merkle,
    net::{self, Offence, Verdict},
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// Commands that wait for the thread, at most; then callers wait.
const QUEUE: usize = 1024;
/// An own transaction that still waits is said again after this time.
const REPEAT: Duration = Duration::from_secs(3);
/// Claims of blocks further ahead than this are not passed on: nothing supports them.
const CLAIMS_AHEAD: u64 = 16;
/// Transactions that arrive within this time of the first go into the same block.
const GATHER: Duration = Duration::from_millis(20);

/// The ledger after the newest block.
pub struct Head {
    /// Its state.
    pub state: State,
}

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The mempool refuses it.
    #[error("{0}")]
    Refused(#[from] AdmissionError),
    /// The service has stopped.
    #[error("the node is stopping")]
    Stopped,
}

/// What the thread is asked to do.
pub(super) enum Command {
    Submit(Box<Transaction>, oneshot::Sender<Result<Hash, SubmitError>>),
    Waiting(Hash, oneshot::Sender<Option<Transaction>>),
    Gossip(NodeId, gossip::Body, Verdict),
    Connected(NodeId),
    Head(NodeId, u64),
    Synced(Option<NodeId>, Vec<(Arc<Block>, Certificate)>),
    Stop(oneshot::Sender<()>),
}

/// A handle to the ledger.
#[derive(Clone)]
pub struct Chain {
    commands: mpsc::Sender<Command>,
    head: watch::Receiver<Arc<Head>>,
    store: Arc<Store>,
}

impl Chain {
    /// Opens the ledger's folder and starts its thread. The second value ends with the thread.
    pub fn start(
        dir: &Path,
        genesis: Arc<Genesis>,
        key: Keypair,
        validator: bool,
        net: net::Handle,
    ) -> Result<(Chain, oneshot::Receiver<NodeError>), NodeError> {
        let (store, state) = Store::open(dir, &genesis)?;
        let (files, recovered) = ConsensusFiles::open(dir, genesis.id(), state.height(), false)?;
        // The journal is made before the first block whatever the node's role, so that it may validate later.
        let host = Host::new(state.clone(), key, validator.then_some(files), recovered)?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let (head_sender, head) = watch::channel(Arc::new(Head { state: state.clone() }));
        let store = Arc::new(store);
        let (ended, end) = oneshot::channel();
        let ledger = Ledger {
            host,
            store: store.clone(),
            mempool: Mempool::default(),
            net,
            head: head_sender,
            commands: commands.clone(),
            timers: BTreeMap::new(),
            wanted: None,
            urgent: None,
            own: BTreeMap::new(),
            ahead: Ahead::default(),
            idle: Duration::from_millis(genesis.params.ledger.idle_block_ms),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| NodeError::io("start the ledger's runtime", e))?;
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                if let Err(e) = runtime.block_on(ledger.run(queue)) {
                    tracing::error!(error = %e, "the ledger service ended");
                    let _ = ended.send(e); // nobody waits for it any more when the node is stopping
                }
            })
            .map_err(|e| NodeError::io("start the ledger's thread", e))?;
        Ok((Chain { commands, head, store }, end))
    }

    /// The newest head, and a way to wait for the next.
    pub fn heads(&self) -> watch::Receiver<Arc<Head>> {
        self.head.clone()
    }

    /// The newest head.
    pub fn head(&self) -> Arc<Head> {
        self.head.borrow().clone()
    }

    /// Hands in a transaction: into this node's mempool, and to all peers.
    pub async fn submit(&self, transaction: Transaction) -> Result<Hash, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Submit(Box::new(transaction), reply);
        self.commands.send(command).await.map_err(|_| SubmitError::Stopped)?;
        answer.await.map_err(|_| SubmitError::Stopped)?
    }

    /// A transaction that waits in the mempool.
    pub async fn waiting(&self, id: &Hash) -> Option<Transaction> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Waiting(*id, reply)).await.ok()?;
        answer.await.ok()?
    }

    /// What a peer sent on; the verdict is answered here.
    pub async fn gossip(&self, from: NodeId, message: gossip::Body, verdict: Verdict) {
        let _ = self.commands.send(Command::Gossip(from, message, verdict)).await; // stopping: the verdict ignores
    }

    /// A peer is there: perhaps it is ahead.
    pub async fn peer_connected(&self, node: NodeId) {
        let _ = self.commands.send(Command::Connected(node)).await; // stopping
    }

    /// Stops the thread after what it does right now.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = done.await; // the thread ended otherwise
        }
    }

    /// A block and its certificate.
    pub fn block(&self, height: u64) -> Option<(Block, Certificate)> {
        Some((known(self.store.block(height))?, known(self.store.certificate(height))?))
    }

    /// The same as canonical bytes.
    pub fn block_bytes(&self, height: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        known(self.store.encoded(height))
    }

    /// The height of a block.
    pub fn height_of(&self, block: &Hash) -> Option<u64> {
        known(self.store.block_by_hash(block)).map(|block| block.header.height)
    }

    /// A transaction in a block, and that block's height.
    pub fn transaction(&self, id: &Hash) -> Option<(Transaction, u64)> {
        known(self.store.transaction(id)).map(|(transaction, height, _)| (transaction, height))
    }

    /// The header of a block.
    pub fn header(&self, height: u64) -> Option<Header> {
        known(self.store.header(height))
    }

    /// A header with its certificate and validators.
    pub fn light_block(&self, height: u64) -> Option<LightBlock> {
        known(self.store.light_block(height))
    }

    /// A transaction in a block, that block's height, and the proof of it.
    pub fn transaction_proof(&self, id: &Hash) -> Option<(Transaction, u64, merkle::Proof)> {
        known(self.store.transaction_proof(id))
    }

    /// What happened to a wallet, the latest first.
    pub fn history(&self, wallet: &Address, before: Option<Cursor>, limit: usize) -> Page {
        known(self.store.history(wallet, before, limit).map(Some)).unwrap_or_default()
    }
}

/// What the store holds; a store that cannot be read is said, and answers like one that lacks it.
fn known<T>(read: Result<Option<T>, StoreError>) -> Option<T> {
    read.unwrap_or_else(|e| {
        tracing::error!(error = %e, "the block store cannot be read");
        None
    })
}

/// The thread's own side.
struct Ledger {
    host: Host<ConsensusFiles>,
    store: Arc<Store>,
    mempool: Mempool,
    net: net::Handle,
    head: watch::Sender<Arc<Head>>,
    commands: mpsc::Sender<Command>,
    timers: BTreeMap<TimeoutId, Instant>,
    /// It is this node's turn to propose, since when.
    wanted: Option<Wanted>,
    /// Transactions wait that a block should be made for at once, since when.
    urgent: Option<Instant>,
    /// This node's own transactions that wait, and when each is said again: gossip may be lost, and a peer that was a
    /// block behind has not passed it on.
    own: BTreeMap<Hash, Instant>,
    /// What is known of blocks above the own head.
    ahead: Ahead,
    idle: Duration,
}

struct Wanted {
    height: u64,
    round: u32,
    since: Instant,
}

#[derive(Default)]
struct Ahead {
    /// The highest block that somebody claims to have.
    height: u64,
    /// Who claims it.
    peer: Option<NodeId>,
    /// Since when this node has been behind; block sync leaves consensus a moment to get there by itself.
    since: Option<Instant>,
    /// A request is under way.
    asking: bool,
}

impl Ledger {
    fn height(&self) -> u64 {
        self.host.state().height()
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Command>) -> Result<(), NodeError> {
        self.feed(Input::Start).await?;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = queue.recv() => match command {
                    None => return Ok(()),
                    Some(Command::Stop(done)) => {
                        let _ = done.send(()); // whoever asked may have gone
                        return Ok(());
                    }
                    Some(command) => self.command(command).await?,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            self.run_out_timers().await?;
            self.propose_when_due().await?;
            self.repeat_own().await;
            self.sync_when_behind();
        }
    }

    fn next_wake(&self) -> Instant {
        let timers = self.timers.values().copied();
        let propose = self.wanted.as_ref().map(|wanted| self.propose_at(wanted));
        let sync = self.ahead.since.filter(|_| !self.ahead.asking).map(|since| since + self.patience());
        let far = Instant::now() + Duration::from_secs(3600);
        timers.chain(propose).chain(sync).chain(self.own.values().copied()).min().unwrap_or(far)
    }

    async fn command(&mut self, command: Command) -> Result<(), NodeError> {
        match command {
            Command::Submit(transaction, reply) => {
                let outcome = self.take(&transaction);
                if let Ok(id) = outcome {
                    self.own.insert(id, Instant::now() + REPEAT);
                    self.publish(transaction_gossip(&transaction), 0).await;
                }
                let _ = reply.send(outcome.map_err(SubmitError::Refused)); // whoever asked may have gone
            }
            Command::Waiting(id, reply) => {
                let _ = reply.send(self.mempool.get(&id).cloned()); // whoever asked may have gone
            }
            Command::Gossip(from, body, verdict) => self.gossip(from, body, verdict).await?,
            Command::Connected(peer) => {
                sync::ask_head(self.net.clone(), peer, self.commands.clone());
                let soon = Instant::now() + GATHER;
                self.own.values_mut().for_each(|at| *at = (*at).min(soon));
            }
            Command::Head(peer, height) => self.claim(peer, height),
            Command::Synced(peer, blocks) => self.synced(peer, blocks).await?,
            Command::Stop(_) => {} // handled by the loop
        }
        Ok(())
    }

    fn take(&mut self, transaction: &Transaction) -> Result<Hash, AdmissionError> {
        let id = self.mempool.add(transaction.clone(), self.host.state(), now_ms())?;
        if is_urgent(transaction) {
            self.urgent.get_or_insert_with(Instant::now);
        }
        Ok(id)
    }

    async fn gossip(&mut self, from: NodeId, body: gossip::Body, verdict: Verdict) -> Result<(), NodeError> {
        match body {
            gossip::Body::Transaction(transaction) => match Transaction::decode(&transaction.canonical) {
                Err(_) => verdict.reject(),
                Ok(transaction) => match self.take(&transaction) {
                    Ok(_) => verdict.accept(),
                    Err(AdmissionError::Signature(_)) => verdict.reject(),
                    Err(_) => verdict.ignore(),
                },
            },
            gossip::Body::Consensus(message) => match Message::decode(&message.canonical) {
                Err(_) => verdict.reject(),
                Ok(message) => match self.feed(Input::Message(message)).await? {
                    Some(Opinion::Accept) => verdict.accept(),
                    Some(Opinion::Reject) => verdict.reject(),
                    Some(Opinion::Ignore) | None => verdict.ignore(),
                },
            },
            gossip::Body::Head(head) => {
                let news = self.height().max(self.ahead.height) < head.height;
                if news && head.height <= self.height() + CLAIMS_AHEAD {
                    verdict.accept();
                } else {
                    verdict.ignore();
                }
                self.claim(from, head.height);
            }
        }
        Ok(())
    }

    /// Gives the host an input and carries out what it asks for; a verdict, if it has one, is returned.
    async fn feed(&mut self, input: Input) -> Result<Option<Opinion>, NodeError> {
        let mut inputs = std::collections::VecDeque::from([input]);
        let mut opinion = None;
        while let Some(input) = inputs.pop_front() {
            for output in self.host.handle(input, now_ms())? {
                match output {
                    Output::Verdict(verdict) => opinion = opinion.or(Some(verdict)),
                    Output::Broadcast { bytes, again } => {
                        let nonce = if again { now_ms() } else { 0 };
                        self.publish(gossip::Body::Consensus(Consensus { canonical: bytes.into() }), nonce).await;
                    }
                    Output::SetTimeout(id, after) => drop(self.timers.insert(id, Instant::now() + after)),
                    Output::CancelTimeout(id) => drop(self.timers.remove(&id)),
                    Output::CancelAllTimeouts => self.timers.clear(),
                    Output::WantBlock { height, round } => {
                        self.wanted = Some(Wanted { height, round, since: Instant::now() });
                    }
                    Output::Decided(decision) => {
                        let height = decision.certificate.height;
                        self.commit(*decision).await?;
                        inputs.push_back(Input::Committed { height });
                    }
                    Output::Behind { height } => self.claim_height(None, height.saturating_sub(1)),
                    Output::Equivocation { height, node } => {
                        tracing::warn!(height, validator = %node.short(), "a validator signed two rival ballots");
                    }
                }
            }
        }
        Ok(opinion)
    }

    /// The block is final: to disk first, then to everybody here.
    async fn commit(&mut self, decision: Decision) -> Result<(), NodeError> {
        let Decision { block, certificate, executed } = decision;
        self.store.append(&block, &certificate, &executed)?;
        self.wanted = None;
        self.mempool.update(&block, &executed.state, now_ms());
        self.urgent = self.mempool.ready().any(is_urgent).then(Instant::now);
        log_events(block.header.height, &executed.events);
        let height = block.header.height;
        self.head.send_replace(Arc::new(Head { state: executed.state }));
        if height >= self.ahead.height {
            self.ahead = Ahead { height, asking: self.ahead.asking, ..Ahead::default() };
        }
        if self.host.is_voting() {
            let head = ailo_proto::Head { height, block: block.id().0.to_vec().into() };
            self.publish(gossip::Body::Head(head), 0).await;
        }
        Ok(())
    }

    async fn publish(&self, body: gossip::Body, nonce: u64) {
        if let Err(e) = self.net.publish(ailo_proto::Gossip { nonce, body: Some(body) }).await {
            tracing::debug!(error = %e, "gossip was not sent");
        }
    }

    async fn repeat_own(&mut self) {
        let now = Instant::now();
        self.own.retain(|id, _| self.mempool.contains(id));
        let due: Vec<Hash> = self.own.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.own.insert(id, now + REPEAT);
            if let Some(transaction) = self.mempool.get(&id) {
                self.publish(transaction_gossip(transaction), now_ms()).await;
            }
        }
    }

    async fn run_out_timers(&mut self) -> Result<(), NodeError> {
        let now = Instant::now();
        while let Some(id) = self.timers.iter().find(|(_, at)| **at <= now).map(|(id, _)| *id) {
            self.timers.remove(&id);
            self.feed(Input::Timeout(id)).await?;
        }
        Ok(())
    }

    /// In round 0 at once when transactions wait, else when the idle time is over; in later rounds everybody waits already.
    fn propose_at(&self, wanted: &Wanted) -> Instant {
        let idle = wanted.since + self.idle;
        match self.urgent {
            _ if wanted.round > 0 => wanted.since,
            Some(urgent) => idle.min((urgent + GATHER).max(wanted.since)),
            None => idle,
        }
    }

    async fn propose_when_due(&mut self) -> Result<(), NodeError> {
        let due = self.wanted.as_ref().is_some_and(|wanted| self.propose_at(wanted) <= Instant::now());
        if let Some(Wanted { height, round, .. }) = self.wanted.take_if(|_| due) {
            let candidates = self.mempool.candidates(self.host.state());
            self.feed(Input::Propose { height, round, candidates }).await?;
        }
        Ok(())
    }

    fn claim(&mut self, peer: NodeId, height: u64) {
        self.claim_height(Some(peer), height);
    }

    fn claim_height(&mut self, peer: Option<NodeId>, height: u64) {
        if height > self.height() {
            self.ahead.since.get_or_insert_with(Instant::now);
            if height >= self.ahead.height {
                self.ahead.height = height;
                self.ahead.peer = peer.or(self.ahead.peer);
            }
        }
    }

    /// A voting node mostly gets there by consensus itself; the others know blocks from sync alone.
    fn patience(&self) -> Duration {
        if self.host.is_voting() { Duration::from_millis(500) } else { Duration::ZERO }
    }

    fn sync_when_behind(&mut self) {
        let due = self.ahead.since.is_some_and(|since| since + self.patience() <= Instant::now());
        if due && !self.ahead.asking {
            self.ahead.asking = true;
            sync::ask_blocks(self.net.clone(), self.ahead.peer, self.height() + 1, self.commands.clone());
        }
    }

    /// Blocks that a peer sent for sync; none when nobody had any.
    async fn synced(&mut self, peer: Option<NodeId>, blocks: Vec<(Arc<Block>, Certificate)>) -> Result<(), NodeError> {
        self.ahead.asking = false;
        let before = self.height();
        for (block, certificate) in blocks {
            if block.header.height != self.height() + 1 {
                continue; // consensus got there in the meantime
            }
            if self.feed(Input::Synced(block, certificate)).await? == Some(Opinion::Reject) {
                if let Some(peer) = peer {
                    let _ = self.net.report(peer, Offence::WrongData).await; // the swarm has stopped
                }
                break;
            }
        }
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
            (self.ahead.height > self.height()).then(Instant::now)
        };
        Ok(())
    }
}

fn transaction_gossip(transaction: &Transaction) -> gossip::Body {
    gossip::Body::Transaction(ailo_proto::Transaction { canonical: transaction.encode().into() })
}

/// Whether a block should be made for it at once; heartbeats can wait for the next.
fn is_urgent(transaction: &Transaction) -> bool {
    !matches!(transaction.unsigned.body, Body::Heartbeat { .. })
}

/// What a person who follows the log wants to know.
fn log_events(height: u64, events: &[Event]) {
    for event in events {
        match event {
            Event::RoundOpened { round, participants, f, protected, .. } => {
                tracing::info!(height, round, participants = participants.len(), f, protected, "round opened");
            }
            Event::RoundClosed { round, root, accepted, loss } => {
                tracing::info!(height, round, root = %root.short(), accepted = accepted.len(), loss, "round closed");
            }
            Event::RoundAborted { round, reason } => tracing::warn!(height, round, %reason, "round aborted"),
            Event::ValidatorsChanged { count, total_power, .. } => {
                tracing::info!(height, count, total_power, "validators changed");
            }
            _ => tracing::debug!(height, ?event, "event"),
        }
    }
}

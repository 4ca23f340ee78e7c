//! The ledger as a service: one thread owns the consensus host, the store and the mempool; everybody else talks to it
//! through a cloneable [`Chain`].
//!
//! What the thread does, and when, is decided by the ledger's own [`Participant`], which the simulation runs as well. Here
//! are its clock, its peers and its disk: actions are carried out in order, and a block is in the block log (fsynced) and in
//! the index before its head is shown.
//!
//! What keeps blocks coming (votes, heads, sync) and this node's own transactions, which are few, go before what is due by the clock, and both
//! before transactions and questions of others: those can be many, and each kind has a bounded queue of its own. Signatures of what clients hand
//! in are checked before it queues.

use super::sync;
use crate::{datadir::DataDir, earned::Earned, error::NodeError, genesis::now_ms, metrics::Counts};
use ailo_ledger::{
    Block, Certificate, Header, Transaction,
    consensus::{Host, Message, Verdict as Opinion},
    light::LightBlock,
    mempool::AdmissionError,
    participant::{Action, Gossip, Now, Participant},
    state::{Event, State},
    store::{ConsensusFiles, Cursor, HistoryItem, Page, SnapshotHead, Store, StoreError, Subject, lower_priority},
};
use ailo_proto::{Consensus, Transactions, gossip};
use ailo_protocol::{
    Genesis, Hash, Keypair, NodeId, PublicKey,
    keys::BadSignature,
    merkle,
    net::{self, Offence, Verdict},
};
use bytes::Bytes;
use rayon::prelude::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::Instant,
};

/// Transactions in one message, at most; and their bytes.
const MAX_TOGETHER: usize = 1024;
const TOGETHER_BYTES: usize = 128 << 10;
/// What waits in each of the thread's queues, at most: then consensus and sync wait, gossiped transactions are dropped, and clients are refused.
const QUEUE: usize = 256;

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
    /// Too many others ask.
    #[error("the node has too much to do: try again in a moment")]
    Busy,
    /// The service has stopped.
    #[error("the node is stopping")]
    Stopped,
}

/// Canonical bytes of a block and of its certificate.
pub type Encoded = (Vec<u8>, Vec<u8>);

/// The store can't be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node can't read its ledger's files: its log says why")]
pub struct Unreadable;

/// What the thread is asked to do.
pub(super) enum Command {
    Submit(Vec<Transaction>, oneshot::Sender<Vec<Result<Hash, AdmissionError>>>),
    Waiting(Hash, oneshot::Sender<Option<Transaction>>),
    AllWaiting(usize, oneshot::Sender<(usize, Vec<Transaction>)>),
    NextNonce(PublicKey, oneshot::Sender<u64>),
    Gossip(NodeId, gossip::Body, Verdict),
    Connected(NodeId),
    Head(NodeId, u64),
    Synced(Option<NodeId>, Vec<(Arc<Block>, Certificate)>),
    Stop(oneshot::Sender<()>),
}

/// What this node does for the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Role {
    /// It votes when it has power.
    pub validator: bool,
    /// It keeps all blocks.
    pub archive: bool,
    /// Its operator swears that its key has signed nothing above its last block.
    pub allow_new_journal: bool,
}

/// A handle to the ledger.
#[derive(Clone)]
pub struct Chain {
    counts: Arc<Counts>,
    earned: Arc<Earned>,
    unshown: watch::Receiver<Option<u64>>,
    commands: mpsc::Sender<Command>,
    gossiped: mpsc::Sender<Command>,
    asked: mpsc::Sender<Command>,
    head: watch::Receiver<Arc<Head>>,
    store: Arc<Store>,
}

/// The thread's queues, the first before the others.
struct Queues {
    commands: mpsc::Receiver<Command>,
    gossiped: mpsc::Receiver<Command>,
    asked: mpsc::Receiver<Command>,
}

impl Queues {
    /// The ways into them, in the same order.
    fn new() -> ([mpsc::Sender<Command>; 3], Queues) {
        let [(commands, first), (gossiped, second), (asked, third)] = std::array::from_fn(|_| mpsc::channel(QUEUE));
        ([commands, gossiped, asked], Queues { commands: first, gossiped: second, asked: third })
    }
}

impl Chain {
    /// Opens the ledger in the node's folder and starts its thread. The second value ends with the thread.
    pub fn start(
        dir: &DataDir,
        genesis: Arc<Genesis>,
        key: Keypair,
        role: Role,
        net: net::Handle,
    ) -> Result<(Chain, oneshot::Receiver<NodeError>), NodeError> {
        let ledger = dir.path("ledger");
        let (store, state) = Store::open(&ledger, &genesis)?;
        // A new key's journal is made at its first start whatever the node's role, so that it may validate later.
        let allow_new_journal = role.allow_new_journal || dir.is_unused(key.public());
        let (files, recovered) = ConsensusFiles::open(&ledger, genesis.id(), state.height(), allow_new_journal)?;
        dir.note_use()?;
        let host = Host::new(state.clone(), key, role.validator.then_some(files), recovered)?;
        let ([commands, gossiped, asked], queues) = Queues::new();
        let (head_sender, head) = watch::channel(Arc::new(Head { state: state.clone() }));
        let store = Arc::new(store);
        let counts = Arc::new(Counts::default());
        let node = *net.node();
        let earned = Arc::new(Earned::new(dir.path("earned"), node, &state));
        let (unshown_sender, unshown) = watch::channel(None);
        let (ended, end) = oneshot::channel();
        let ledger = Ledger {
            participant: Participant::new(host, store.clone()),
            keeper: Keeper { store: store.clone(), archive: role.archive, epoch: state.epoch(), works: Arc::default() },
            counts: counts.clone(),
            earned: earned.clone(),
            node,
            contributed: None,
            net,
            head: head_sender,
            unshown: unshown_sender,
            commands: commands.clone(),
            started: Instant::now(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| NodeError::io("start the ledger's runtime", e))?;
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                if let Err(e) = runtime.block_on(ledger.run(queues)) {
                    tracing::error!(error = %e, "the ledger service ended");
                    let _ = ended.send(e); // nobody waits for it any more when the node is stopping
                }
            })
            .map_err(|e| NodeError::io("start the ledger's thread", e))?;
        Ok((Chain { counts, earned, unshown, commands, gossiped, asked, head, store }, end))
    }

    /// What has happened since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What this node was paid.
    pub fn earned(&self) -> &Arc<Earned> {
        &self.earned
    }

    /// The height after which no peer could show a block when this node looked for it last.
    pub fn unshown(&self) -> Option<u64> {
        *self.unshown.borrow()
    }

    /// The newest head, and a way to wait for the next.
    pub fn heads(&self) -> watch::Receiver<Arc<Head>> {
        self.head.clone()
    }

    /// The newest head.
    pub fn head(&self) -> Arc<Head> {
        self.head.borrow().clone()
    }

    /// Waits until there is a head at this height, which the store may have a moment before; on a thread that may wait.
    pub fn head_at(&self, height: u64) -> Result<Arc<Head>, SubmitError> {
        let mut heads = self.heads();
        let shown = tokio::runtime::Handle::current().block_on(heads.wait_for(|head| head.state.height() >= height));
        shown.map(|head| head.clone()).map_err(|_| SubmitError::Stopped)
    }

    /// Hands in a transaction of this node itself, into its mempool and to all peers; waits for its turn.
    pub async fn submit(&self, transaction: Transaction) -> Result<Hash, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Submit(vec![transaction], reply)).await.map_err(|_| SubmitError::Stopped)?;
        let outcome = answer.await.map_err(|_| SubmitError::Stopped)?.pop();
        Ok(outcome.ok_or(SubmitError::Stopped)??)
    }

    /// Checks signatures on all cores.
    pub fn verify(&self, transactions: Vec<Transaction>) -> Vec<Result<Transaction, BadSignature>> {
        let head = self.head();
        let check = |transaction: Transaction| head.state.verify(&transaction).map(|()| transaction);
        transactions.into_par_iter().map(check).collect()
    }

    /// Hands in transactions of clients that were checked; the outcomes are in their order.
    pub async fn offer(
        &self,
        checked: Vec<Result<Transaction, BadSignature>>,
    ) -> Result<Vec<Result<Hash, AdmissionError>>, SubmitError> {
        let sound: Vec<Transaction> = checked.iter().flatten().cloned().collect();
        self.counts.refuse(checked.len() - sound.len());
        let mut outcomes = self.ask(|reply| Command::Submit(sound, reply)).await?.into_iter();
        let outcome = |checked: Result<Transaction, BadSignature>| match checked {
            Ok(_) => outcomes.next(),
            Err(e) => Some(Err(e.into())),
        };
        Ok(checked.into_iter().filter_map(outcome).collect())
    }

    /// A transaction that waits in the mempool.
    pub async fn waiting(&self, id: &Hash) -> Result<Option<Transaction>, SubmitError> {
        self.ask(|reply| Command::Waiting(*id, reply)).await
    }

    /// How many transactions wait in the mempool, and the first `limit` of them.
    pub async fn all_waiting(&self, limit: usize) -> Result<(usize, Vec<Transaction>), SubmitError> {
        self.ask(|reply| Command::AllWaiting(limit, reply)).await
    }

    /// The number of a wallet's next transaction, behind what it has waiting in the mempool.
    pub async fn next_nonce(&self, wallet: &PublicKey) -> Result<u64, SubmitError> {
        self.ask(|reply| Command::NextNonce(*wallet, reply)).await
    }

    /// Asks the thread, unless too many do.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.asked.try_send(command(reply)).map_err(|e| match e {
            TrySendError::Full(_) => SubmitError::Busy,
            TrySendError::Closed(_) => SubmitError::Stopped,
        })?;
        answer.await.map_err(|_| SubmitError::Stopped)
    }

    /// What a peer sent on; the verdict is answered here. Transactions for which there is no room are dropped, which ignores them.
    pub async fn gossip(&self, from: NodeId, message: gossip::Body, verdict: Verdict) {
        let transactions = matches!(message, gossip::Body::Transactions(_));
        let command = Command::Gossip(from, message, verdict);
        match transactions {
            true => drop(self.gossiped.try_send(command)),
            false => drop(self.commands.send(command).await), // stopping: the verdict ignores
        }
    }

    /// A peer is there: perhaps it is ahead.
    pub async fn peer_connected(&self, node: NodeId) {
        let _ = self.commands.send(Command::Connected(node)).await; // stopping
    }

    /// A peer tells how far it is.
    pub async fn peer_tells(&self, node: NodeId, height: u64) {
        let _ = self.commands.send(Command::Head(node, height)).await; // stopping
    }

    /// Stops the thread after what it does right now.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = done.await; // the thread ended otherwise
        }
    }

    /// What the newest snapshot of the state is of.
    pub fn snapshot(&self) -> Option<SnapshotHead> {
        self.store.snapshots().newest().map(|snapshot| snapshot.head.clone())
    }

    /// Canonical bytes of a part of the snapshot after the block at `height`.
    pub fn snapshot_part(&self, height: u64, index: u32) -> Result<Option<Vec<u8>>, Unreadable> {
        self.store.snapshots().get(height).map_or(Ok(None), |snapshot| read(snapshot.part(index)))
    }

    /// Height of the first block that is kept.
    pub fn first(&self) -> u64 {
        self.store.first()
    }

    /// A block and its certificate.
    pub fn block(&self, height: u64) -> Result<Option<(Block, Certificate)>, Unreadable> {
        read(self.store.certified(height))
    }

    /// The same as canonical bytes.
    pub fn block_bytes(&self, height: u64) -> Result<Option<Encoded>, Unreadable> {
        read(self.store.encoded(height))
    }

    /// A block's transactions, and how many bytes were read for them.
    pub fn transactions(&self, height: u64) -> Result<Option<(Vec<Transaction>, usize)>, Unreadable> {
        let Some((bytes, _)) = self.block_bytes(height)? else { return Ok(None) };
        let block = read(Block::decode(&bytes).map_err(StoreError::from))?;
        Ok(Some((block.transactions, bytes.len())))
    }

    /// The height of a block.
    pub fn height_of(&self, block: &Hash) -> Result<Option<u64>, Unreadable> {
        read(self.store.height_of(block))
    }

    /// A transaction in a block, and that block's height.
    pub fn transaction(&self, id: &Hash) -> Result<Option<(Transaction, u64)>, Unreadable> {
        Ok(read(self.store.transaction(id))?.map(|(transaction, height, _)| (transaction, height)))
    }

    /// The header of a block, the number of its transactions, and how many bytes were read for that.
    pub fn summary(&self, height: u64) -> Result<Option<(Header, u64, usize)>, Unreadable> {
        read(self.store.summary(height))
    }

    /// The header of a block.
    pub fn header(&self, height: u64) -> Result<Option<Header>, Unreadable> {
        read(self.store.header(height))
    }

    /// A header with its certificate and validators.
    pub fn light_block(&self, height: u64) -> Result<Option<LightBlock>, Unreadable> {
        read(self.store.light_block(height))
    }

    /// A transaction in a block, that block's height, and the proof of it.
    pub fn transaction_proof(&self, id: &Hash) -> Result<Option<(Transaction, u64, merkle::Proof)>, Unreadable> {
        read(self.store.transaction_proof(id))
    }

    /// What happened to a wallet, a node or a transfer after a place of its history, the oldest first.
    pub fn history_after(
        &self,
        subject: &Subject,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, Unreadable> {
        read(self.store.history_after(subject, after, limit))
    }

    /// What happened to a wallet, a node or a transfer, the latest first.
    pub fn history(&self, subject: &Subject, before: Option<Cursor>, limit: usize) -> Result<Page, Unreadable> {
        read(self.store.history(subject, before, limit))
    }
}

/// What the store holds; why it can't be read is said in the log.
fn read<T>(found: Result<T, StoreError>) -> Result<T, Unreadable> {
    found.map_err(|e| {
        tracing::error!(error = %e, "the block store cannot be read");
        Unreadable
    })
}

/// The thread's own side.
struct Ledger {
    participant: Participant<ConsensusFiles, Arc<Store>>,
    keeper: Keeper,
    counts: Arc<Counts>,
    earned: Arc<Earned>,
    node: NodeId,
    /// The round that this node last contributed to.
    contributed: Option<u64>,
    net: net::Handle,
    head: watch::Sender<Arc<Head>>,
    unshown: watch::Sender<Option<u64>>,
    commands: mpsc::Sender<Command>,
    started: Instant,
}

/// How much lower the priority of the thread is that writes a snapshot: nobody waits for it.
const SNAPSHOT_NICENESS: i32 = 10;

/// Takes a snapshot with each epoch, and lets the store remove what is old.
struct Keeper {
    store: Arc<Store>,
    archive: bool,
    /// Epoch after the last block.
    epoch: u64,
    /// A snapshot is being taken.
    works: Arc<AtomicBool>,
}

impl Keeper {
    /// On a thread of its own, which a stop of the process may end at any point.
    fn on_head(&mut self, state: &State) {
        let before = std::mem::replace(&mut self.epoch, state.epoch());
        if state.epoch() == before || self.works.swap(true, Ordering::AcqRel) {
            return; // where the last snapshot takes longer than an epoch, one is left out
        }
        let (store, works, state, archive) = (self.store.clone(), self.works.clone(), state.clone(), self.archive);
        let keep = move || {
            lower_priority(SNAPSHOT_NICENESS);
            if let Err(e) = store.keep(&state, archive) {
                tracing::error!(error = %e, "no snapshot of the state was taken");
            }
            works.store(false, Ordering::Release);
        };
        if let Err(e) = std::thread::Builder::new().name("snapshot".into()).spawn(keep) {
            tracing::error!(error = %e, "no snapshot of the state was taken");
            self.works.store(false, Ordering::Release);
        }
    }
}

impl Ledger {
    async fn run(mut self, mut queues: Queues) -> Result<(), NodeError> {
        self.participant.start(self.now())?;
        self.settle().await?;
        loop {
            let far = Duration::from_secs(3600);
            let wake = self.participant.next_wake().map_or(Instant::now() + far, |at| self.started + at);
            let Queues { commands, gossiped, asked } = &mut queues;
            let less_urgent = async {
                tokio::select! {
                    command = gossiped.recv() => command,
                    command = asked.recv() => command,
                }
            };
            let command = tokio::select! {
                biased;
                command = commands.recv() => command,
                () = tokio::time::sleep_until(wake) => {
                    self.settle().await?;
                    continue;
                }
                command = less_urgent => command,
            };
            match command {
                None => return Ok(()),
                Some(Command::Stop(done)) => {
                    let _ = done.send(()); // whoever asked may have gone
                    return Ok(());
                }
                Some(command) => self.command(command).await?,
            }
            self.settle().await?;
        }
    }

    fn now(&self) -> Now {
        Now { elapsed: self.started.elapsed(), clock_ms: now_ms() }
    }

    /// Carries out what is asked for and lets what is due be done, until nothing is left.
    async fn settle(&mut self) -> Result<(), NodeError> {
        loop {
            self.carry_out().await;
            self.counts.wait(self.participant.mempool().len());
            let more = self.participant.settle(self.now());
            if !more? {
                return Ok(());
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), NodeError> {
        let now = self.now();
        match command {
            Command::Submit(transactions, reply) => {
                self.participant.verify_ahead(&transactions);
                let outcomes = transactions.iter().map(|transaction| self.participant.submit(transaction, now));
                let outcomes: Vec<_> = outcomes.collect();
                self.counts.refuse(outcomes.iter().filter(|outcome| outcome.is_err()).count());
                let _ = reply.send(outcomes); // whoever asked may have gone
            }
            Command::Waiting(id, reply) => {
                let _ = reply.send(self.participant.mempool().get(&id).cloned()); // whoever asked may have gone
            }
            Command::AllWaiting(limit, reply) => {
                let mempool = self.participant.mempool();
                let first = mempool.ready().take(limit).cloned().collect();
                let _ = reply.send((mempool.len(), first)); // whoever asked may have gone
            }
            Command::NextNonce(wallet, reply) => {
                let state = self.participant.host().state();
                let _ = reply.send(self.participant.mempool().next_nonce(state, &wallet)); // whoever asked may have gone
            }
            Command::Gossip(from, body, verdict) => {
                let opinion = match body {
                    gossip::Body::Transactions(all) if all.canonical.len() > MAX_TOGETHER => Opinion::Reject,
                    gossip::Body::Transactions(all) => {
                        match all
                            .canonical
                            .iter()
                            .map(|bytes| Transaction::decode(bytes))
                            .collect::<Result<Vec<_>, _>>()
                        {
                            Err(_) => Opinion::Reject,
                            Ok(transactions) => self.participant.on_transactions(&transactions, now),
                        }
                    }
                    gossip::Body::Consensus(message) => match Message::decode(&message.canonical) {
                        Err(_) => Opinion::Reject,
                        Ok(message) => self.participant.on_consensus(message, now)?,
                    },
                    gossip::Body::Head(head) => self.participant.on_head(from, head.height, now),
                    // The hub's, which never hands it on to here.
                    gossip::Body::Serving(_) => Opinion::Ignore,
                };
                match opinion {
                    Opinion::Accept => verdict.accept(),
                    Opinion::Reject => verdict.reject(),
                    Opinion::Ignore => verdict.ignore(),
                }
            }
            Command::Connected(peer) => self.participant.connected(peer, now),
            Command::Head(peer, height) => self.participant.claim(peer, height, now),
            Command::Synced(peer, blocks) => {
                let before = self.participant.height();
                self.participant.synced(peer, blocks, now)?;
                if self.participant.height() == before {
                    self.unshown.send_replace(Some(before));
                }
            }
            Command::Stop(_) => {} // handled by the loop
        }
        Ok(())
    }

    async fn carry_out(&mut self) {
        let mut together = Together::default();
        for action in self.participant.take_actions() {
            match action {
                Action::Publish(Gossip::Transaction { transaction, again }) => {
                    if let Some(full) = together.add(&transaction, again) {
                        self.publish(full, again).await;
                    }
                }
                Action::Publish(Gossip::Consensus { bytes, again }) => {
                    self.publish(gossip::Body::Consensus(Consensus { canonical: bytes.into() }), again).await;
                }
                Action::Publish(Gossip::Head { height, block }) => {
                    let head = ailo_proto::Head { height, block: block.0.to_vec().into() };
                    self.publish(gossip::Body::Head(head), false).await;
                }
                Action::AskHead(peer) => sync::ask_head(self.net.clone(), peer, self.commands.clone()),
                Action::AskBlocks { first, from } => {
                    sync::ask_blocks(self.net.clone(), first, from, self.commands.clone());
                }
                Action::Distrust(peer) => {
                    let _ = self.net.report(peer, Offence::WrongData).await; // the swarm has stopped
                }
                Action::Head(head) => {
                    log_events(head.block.header.height, &head.events);
                    self.count(&head.block, &head.events);
                    self.keeper.on_head(&head.state);
                    self.head.send_replace(Arc::new(Head { state: head.state }));
                }
                Action::Equivocation { height, node } => {
                    tracing::warn!(height, node = %node.short(), "a node signed two things that exclude each other");
                }
            }
        }
        for (again, rest) in together.rest() {
            self.publish(rest, again).await;
        }
    }

    fn count(&mut self, block: &Block, events: &[Event]) {
        self.counts.block(block, events, &self.node);
        self.earned.block(block, events);
        for event in events {
            match event {
                Event::Contributed { round, node, .. } if *node == self.node => self.contributed = Some(*round),
                Event::RoundClosed { round, accepted, .. }
                    if self.contributed == Some(*round) && !accepted.contains(&self.node) =>
                {
                    self.counts.left_out();
                }
                _ => {}
            }
        }
    }

    async fn publish(&self, body: gossip::Body, again: bool) {
        // What is said again has to differ, or peers take it for what they have heard.
        let nonce = if again { now_ms() } else { 0 };
        if let Err(e) = self.net.publish(ailo_proto::Gossip { nonce, body: Some(body) }).await {
            tracing::debug!(error = %e, "gossip was not sent");
        }
    }
}

/// Transactions that go out in one message: those said for the first time, and those said again.
#[derive(Default)]
struct Together([Vec<Bytes>; 2], [usize; 2]);

impl Together {
    /// Adds one; gives a message that is full without it.
    fn add(&mut self, transaction: &Transaction, again: bool) -> Option<gossip::Body> {
        let (Together(lists, sizes), i) = (self, usize::from(again));
        let bytes = transaction.encode();
        let full = lists[i].len() >= MAX_TOGETHER || sizes[i] + bytes.len() > TOGETHER_BYTES;
        let before = full.then(|| {
            sizes[i] = 0;
            gossip::Body::Transactions(Transactions { canonical: std::mem::take(&mut lists[i]) })
        });
        sizes[i] += bytes.len();
        lists[i].push(bytes.into());
        before
    }

    /// What is left, and whether it is said again.
    fn rest(self) -> impl Iterator<Item = (bool, gossip::Body)> {
        let filled = [false, true].into_iter().zip(self.0).filter(|(_, list)| !list.is_empty());
        filled.map(|(again, canonical)| (again, gossip::Body::Transactions(Transactions { canonical })))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_protocol::{Address, genesis::Founder};
    use futures::{future::join_all, poll};

    /// A handle whose thread does not run.
    fn chain() -> (Chain, Queues, tempfile::TempDir) {
        let (dir, key) = (tempfile::tempdir().unwrap(), Keypair::from_seed([1; 32]));
        let founder = Founder { node: *key.public(), wallet: Address::from(key.public()), validator: true };
        let data = ailo_training::dataset::Dataset::embedded();
        let params = crate::genesis::local_params(1, 0);
        let genesis = crate::genesis::found("test", 1, vec![founder], &data, params).unwrap();
        let (store, state) = Store::open(dir.path(), &genesis).unwrap();
        let ([commands, gossiped, asked], queues) = Queues::new();
        let earned = Arc::new(Earned::new(dir.path().join("earned"), *key.public(), &state));
        let ((_, head), (_, unshown)) = (watch::channel(Arc::new(Head { state })), watch::channel(None));
        let (counts, store) = (Arc::default(), Arc::new(store));
        let chain = Chain { counts, earned, unshown, commands, gossiped, asked, head, store };
        (chain, queues, dir)
    }

    #[tokio::test]
    async fn who_comes_to_a_full_queue_is_told_so_and_stands_in_nobodys_way() {
        let (chain, mut queues, _dir) = chain();
        let mut asked = join_all((0..QUEUE).map(|_| chain.all_waiting(1)));
        assert!(poll!(&mut asked).is_pending());
        assert!(matches!(chain.all_waiting(1).await, Err(SubmitError::Busy)));
        chain.peer_connected(*Keypair::from_seed([2; 32]).public()).await;
        assert!(matches!(queues.commands.try_recv(), Ok(Command::Connected(_))));
        drop(queues);
        assert!(asked.await.iter().all(|answer| matches!(answer, Err(SubmitError::Stopped))));
        assert!(matches!(chain.waiting(&Hash([1; 32])).await, Err(SubmitError::Stopped)));
    }

    #[tokio::test]
    async fn what_is_wrongly_signed_never_comes_to_the_ledgers_thread() {
        let (chain, mut queues, _dir) = chain();
        let key = Keypair::from_seed([1; 32]);
        let body = ailo_ledger::Body::Transfer {
            to: Address::from(key.public()),
            amount: ailo_protocol::Amount(1),
            memo: String::new(),
        };
        let sign = |network: &Hash| Transaction::sign(network, &key, 0, 1, body.clone());
        let (good, bad) = (sign(&chain.head().state.network()), sign(&Hash([9; 32])));
        let checked = chain.verify(vec![bad, good.clone()]);
        assert!(checked[0].is_err() && checked[1].as_ref().is_ok_and(|checked| *checked == good));
        let answer = async {
            let Some(Command::Submit(sound, reply)) = queues.asked.recv().await else { panic!("it is handed in") };
            assert_eq!(sound, std::slice::from_ref(&good));
            reply.send(vec![Ok(good.id())]).unwrap();
        };
        let (outcomes, ()) = tokio::join!(chain.offer(checked), answer);
        let outcomes = outcomes.unwrap();
        assert!(matches!(outcomes[..], [Err(AdmissionError::Signature(_)), Ok(id)] if id == good.id()));
    }
}

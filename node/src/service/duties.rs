//! What a node owes the ledger beside training: its registration, heartbeats, and attestations of blocks with transfers.

use super::chain::{Chain, Head, SubmitError};
use crate::genesis::now_ms;
use ailo_ledger::{
    Body, Transaction,
    mempool::AdmissionError,
    state::Rejection,
    transaction::{Consent, stamp_hash},
};
use ailo_protocol::{Address, Genesis, Hash, Keypair};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A transaction that the ledger does not show yet is sent again after this time.
const RESEND: Duration = Duration::from_secs(5);

/// The service.
pub struct Duties {
    genesis: Arc<Genesis>,
    network: Hash,
    key: Keypair,
    wallet: Address,
    consent: Option<Consent>,
    trains: bool,
    chain: Chain,
    stamp: Option<u64>,
    registered: Option<Instant>,
    heartbeat: Option<Instant>,
    attested: BTreeMap<u64, Instant>,
}

impl Duties {
    /// A service that has done nothing yet.
    pub fn new(
        genesis: Arc<Genesis>,
        key: Keypair,
        (wallet, consent): (Address, Option<Consent>),
        trains: bool,
        chain: Chain,
    ) -> Duties {
        let network = genesis.id();
        Duties {
            genesis,
            network,
            key,
            wallet,
            consent,
            trains,
            chain,
            stamp: None,
            registered: None,
            heartbeat: None,
            attested: BTreeMap::new(),
        }
    }

    /// Runs until `stop` changes.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut heads = self.chain.heads();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            let head = heads.borrow_and_update().clone();
            self.register(&head).await;
            self.beat(&head).await;
            self.attest(&head).await;
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { break },
                _ = tick.tick() => {}
                _ = stop.changed() => break,
            }
        }
    }

    async fn register(&mut self, head: &Head) {
        let me = *self.key.public();
        if head.state.node(&me).is_some() || self.registered.is_some_and(|at| at.elapsed() < RESEND) {
            return;
        }
        let Some(consent) = self.consent else {
            if self.registered.is_none() {
                let (wallet, node) = (self.wallet, me);
                tracing::warn!("the wallet {wallet} has to consent before this node can register: run `ailo-node wallet consent {node}` where its key lies, and start the node with --consent and what that prints");
                self.registered = Some(Instant::now());
            }
            return;
        };
        let stamp = match self.stamp {
            Some(stamp) => stamp,
            None => {
                let (network, wallet, bits) = (self.network, self.wallet, self.genesis.params.ledger.stamp_bits);
                // Seconds of work at most at the largest setting in use; off the runtime all the same.
                let found = tokio::task::spawn_blocking(move || {
                    (0..u64::MAX).find(|stamp| stamp_hash(&network, &me, &wallet, *stamp).leading_zero_bits() >= bits)
                });
                let Ok(Some(stamp)) = found.await else { return };
                self.stamp = Some(stamp);
                stamp
            }
        };
        self.registered = Some(Instant::now());
        self.send(Body::RegisterNode { wallet: self.wallet, stamp, consent }).await;
    }

    async fn beat(&mut self, head: &Head) {
        let Some(node) = head.state.node(self.key.public()) else { return };
        let params = &self.genesis.params.ledger;
        let age = head.state.age_ms().saturating_sub(node.seen_age);
        // A node that the ledger believes absent says at once that it is not.
        let due = age >= params.heartbeat_ms
            || node.heartbeat_time_ms == 0
            || node.missed
            || node.lapsed
            || node.trains != self.trains;
        if due
            && self
                .heartbeat
                .is_none_or(|at| at.elapsed() >= Duration::from_millis(params.heartbeat_ms / 2).min(RESEND))
        {
            self.heartbeat = Some(Instant::now());
            self.send(Body::Heartbeat { trains: self.trains }).await;
        }
    }

    async fn attest(&mut self, head: &Head) {
        self.attested.retain(|_, at| at.elapsed() < RESEND);
        for height in head.state.pending_blocks() {
            if head.state.may_attest(self.key.public(), height) && !self.attested.contains_key(&height) {
                self.attested.insert(height, Instant::now());
                // This node executed the block itself, which verified each of its transfers.
                self.send(Body::Attest { height, except: vec![] }).await;
            }
        }
    }

    async fn send(&self, body: Body) {
        let transaction = Transaction::sign(&self.network, &self.key, 0, now_ms(), body);
        match self.chain.submit(transaction).await {
            Ok(_) => {}
            // Said aloud: such a node stays out of the network until somebody sets its clock.
            Err(SubmitError::Refused(AdmissionError::Rejected(
                e @ (Rejection::FromFuture { .. } | Rejection::Expired { .. }),
            ))) => tracing::warn!(error = %e, "the ledger refuses what this node signs: is its clock right?"),
            Err(e) => tracing::debug!(error = %e, "the ledger does not take this yet"),
        }
    }
}

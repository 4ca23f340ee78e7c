//! What a node owes the ledger beside training: its registration, heartbeats, chains of lots, and attestations of
//! blocks with transfers.

use super::chain::{Chain, Head, SubmitError};
use crate::{genesis::now_ms, operator::Operator};
use ailo_ledger::{
    Body, Transaction,
    lots::LotChain,
    mempool::AdmissionError,
    state::{Rejection, State},
    transaction::{Consent, stamp_hash},
};
use ailo_protocol::{Address, Amount, Hash, Keypair, NodeId};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A transaction that the ledger does not show yet is sent again after this time.
const RESEND: Duration = Duration::from_secs(5);

/// What a node that wants to validate waits for, in one sentence.
pub fn waits_for(state: &State, node: &NodeId, wallet: &Address) -> String {
    let (stake, jailed) = state.node(node).map_or((Amount::ZERO, None), |node| (node.stake, node.jailed_until));
    let (needed, free) = (state.stake_to_validate(), state.account(wallet).free);
    if let Some(age) = jailed {
        return format!(
            "jailed: `ailo-node unjail` lets the node back in from ledger age {age} on (it is {} now)",
            state.age_ms()
        );
    }
    match stake >= needed {
        true if state.founders_are_latched_out() => "staked, and in the validator set within an epoch or so".into(),
        true => "staked; the founders validate until enough others have staked".into(),
        false => format!(
            "not validating yet: {needed} ALC must stand behind this node and {stake} do; its wallet has {free} and bonds by itself once it has enough (where its key is in the data folder; else use `ailo-node stake`)"
        ),
    }
}

/// The service.
pub struct Duties {
    network: Hash,
    key: Keypair,
    wallet: Address,
    consent: Option<Consent>,
    /// A validator's wallet key, where it lies here: the node bonds by itself.
    bonds: Option<Keypair>,
    operator: Arc<Operator>,
    class: Hash,
    chain: Chain,
    bonded: Option<Instant>,
    /// A stamp, the lot that it is for, and the zero bits that it has at least.
    stamp: Option<(u64, Hash, u32)>,
    registered: Option<Instant>,
    heartbeat: Option<Instant>,
    lots: Option<PromisedLots>,
    attested: BTreeMap<u64, Instant>,
}

/// A chain of lots that the ledger does not have yet.
struct PromisedLots {
    number: u64,
    tip: Hash,
    sent: Instant,
}

impl Duties {
    /// A service that has done nothing yet.
    pub fn new(
        network: Hash,
        key: Keypair,
        (wallet, consent): (Address, Option<Consent>),
        bonds: Option<Keypair>,
        (operator, class): (Arc<Operator>, Hash),
        chain: Chain,
    ) -> Duties {
        Duties {
            network,
            key,
            wallet,
            consent,
            bonds,
            operator,
            class,
            chain,
            bonded: None,
            stamp: None,
            registered: None,
            heartbeat: None,
            lots: None,
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
            self.commit_lots(&head).await;
            self.attest(&head).await;
            self.bond(&head).await;
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
                tracing::warn!(
                    "the wallet {wallet} has to consent before this node can register: run `ailo-node wallet consent {node}` where its key lies, and start the node with --consent and what that prints"
                );
                self.registered = Some(Instant::now());
            }
            return;
        };
        let bits = head.state.stamp_bits();
        let Some(lot) = head.state.stamp_lots().next() else { return };
        let stamp = match self.stamp {
            Some((stamp, of, found)) if found >= bits && head.state.stamp_lots().any(|lot| lot == of) => stamp,
            _ => {
                let (network, wallet) = (self.network, self.wallet);
                // A minute of work at most at the largest setting in use; off the runtime all the same.
                let found = tokio::task::spawn_blocking(move || {
                    let good =
                        |stamp: &u64| stamp_hash(&network, &lot, &me, &wallet, *stamp).leading_zero_bits() >= bits;
                    (0..u64::MAX).find(good)
                });
                let Ok(Some(stamp)) = found.await else { return };
                self.stamp = Some((stamp, lot, bits));
                stamp
            }
        };
        self.registered = Some(Instant::now());
        self.send(Body::RegisterNode { wallet: self.wallet, stamp, consent }).await;
    }

    async fn beat(&mut self, head: &Head) {
        let Some(node) = head.state.node(self.key.public()) else { return };
        let (params, trains) = (&head.state.params().ledger, self.operator.controls().training);
        let age = head.state.age_ms().saturating_sub(node.seen_age);
        // A node that the ledger believes absent says at once that it is not.
        let due = age >= params.heartbeat_ms
            || node.heartbeat_time_ms == 0
            || node.missed
            || node.lapsed
            || node.trains != trains
            || (node.class != self.class && !head.state.round().participants.contains(self.key.public()));
        if due
            && self
                .heartbeat
                .is_none_or(|at| at.elapsed() >= Duration::from_millis(params.heartbeat_ms / 2).min(RESEND))
        {
            self.heartbeat = Some(Instant::now());
            self.send(Body::Heartbeat { trains, class: self.class }).await;
        }
    }

    /// Commits the node's next chain of lots once little is left of the last one.
    async fn commit_lots(&mut self, head: &Head) {
        if !head.state.may_commit_lots(self.key.public()) {
            self.lots = None;
            return;
        }
        if self.lots.as_ref().is_some_and(|lots| lots.sent.elapsed() < RESEND) {
            return;
        }
        let (number, tip) = match &self.lots {
            Some(lots) => (lots.number, lots.tip),
            None => {
                let (network, key, number) = (self.network, self.key.clone(), head.state.height());
                let length = head.state.params().ledger.lot_chain;
                let chain = tokio::task::spawn_blocking(move || LotChain::derive(&network, &key, number, length));
                let Ok(chain) = chain.await else { return };
                (number, chain.tip())
            }
        };
        self.lots = Some(PromisedLots { number, tip, sent: Instant::now() });
        self.send(Body::CommitLots { number, tip }).await;
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

    /// Stakes what the node lacks to validate, once its wallet has it.
    async fn bond(&mut self, head: &Head) {
        let Some(wallet) = &self.bonds else { return };
        let Some(node) = head.state.node(self.key.public()) else { return };
        let lacks = head.state.stake_to_validate().0.saturating_sub(node.stake.0);
        let account = head.state.account(&self.wallet);
        let fee = head.state.params().ledger.fee.0;
        let waiting = self.bonded.is_some_and(|at| at.elapsed() < RESEND);
        if lacks == 0 || waiting || node.jailed_until.is_some() || account.free.0 < lacks.saturating_add(fee) {
            return;
        }
        // Behind what waits, or it would take the place of that; and not again while this waits itself.
        if self.chain.next_nonce(wallet.public()).await.ok() != Some(account.nonce) {
            return;
        }
        self.bonded = Some(Instant::now());
        let amount = Amount(lacks);
        tracing::info!(%amount, "staking behind this node, to validate");
        let body = Body::Stake { node: *self.key.public(), amount };
        let transaction = Transaction::sign(&self.network, wallet, account.nonce, now_ms(), body);
        self.submit(transaction).await;
    }

    async fn send(&self, body: Body) {
        self.submit(Transaction::sign(&self.network, &self.key, 0, now_ms(), body)).await;
    }

    async fn submit(&self, transaction: Transaction) {
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

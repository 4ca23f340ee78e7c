//! Transactions that wait for a block. Pure: the caller passes state and clock.
//!
//! *Admission.* The signature verifies, and the transaction would be accepted in the next block after what the same
//! signer already has waiting. A wallet's transaction whose nonce is a few ahead is held until the gap is filled. Where
//! the signer's own fill the block already, a node's transaction must be acceptable alone in it. Transfers after
//! transfers, which are most of all, are tried by their wallet's balance alone; anything else by doing it in a begun
//! block.
//!
//! *Order.* First what nodes sign (contributions, verdicts, votes, attestations, heartbeats: few, free of fee, and the
//! state limits each node), in order of arrival; then what wallets sign, of each wallet the first, then of each the
//! second and so on, so that who sends much does not make others wait. Attestations, claims
//! and registrations get no more than their quotas of a block, and what does not fit lets the next one pass.
//!
//! *Bounds.* Number and bytes for nodes' and wallets' transactions apart, so that neither can crowd out the other; and
//! number for each signer. What is held for its nonce has a quarter of that for itself: nobody has tried it, it may never
//! come to pay, and must not keep out what does. Nothing that was admitted is dropped for a newcomer.
//!
//! *Replacement.* A wallet's waiting transaction gives way to a newer one of the same nonce that was made at least
//! [`REPLACE_AFTER_MS`] later.
//!
//! *After a block* [`Mempool::update`] tries everything again on the new state and drops what has become impossible:
//! included, expired, superseded, no longer covered.

use crate::{
    Block, Body, Transaction,
    state::{Executor, Purse, Rejection, State},
};
use ailo_protocol::{Hash, PublicKey, amount::PPM, keys::BadSignature};
use std::collections::{BTreeMap, BTreeSet};

/// Transactions of nodes that wait, at most; and as many of wallets.
pub const MAX_COUNT: usize = 4096;
/// Their bytes, at most; and as many of wallets.
pub const MAX_BYTES: usize = 8 << 20;
/// Transactions of one signer, at most.
pub const MAX_PER_SIGNER: usize = 64;
/// A wallet's nonce may be this far ahead of its next one.
pub const MAX_NONCE_GAP: u64 = 16;

/// A waiting transaction gives way to one of the same nonce that was made this much later.
pub const REPLACE_AFTER_MS: u64 = 10_000;

/// Why a transaction does not wait here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The same one waits already.
    #[error("the transaction is waiting already")]
    Duplicate,
    /// Another one of this nonce waits.
    #[error("another transaction with nonce {0} is waiting: use the next one, or wait until it is in a block")]
    NonceTaken(u64),
    /// Too far ahead.
    #[error("the nonce is {got}, the wallet's next one is {expected}: send what comes between first")]
    NonceGap {
        /// The next one.
        expected: u64,
        /// The transaction's.
        got: u64,
    },
    /// No room at all.
    #[error("the node has too many waiting transactions: try again after the next blocks")]
    Full,
    /// No room for this signer.
    #[error("the signer has {MAX_PER_SIGNER} waiting transactions: try again after the next blocks")]
    SignerFull,
    /// Not the signer's.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The ledger would refuse it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl AdmissionError {
    /// A code that does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            AdmissionError::Rejected(reason) => reason.code(),
            AdmissionError::Duplicate => "DUPLICATE",
            AdmissionError::NonceTaken(_) => "NONCE_TAKEN",
            AdmissionError::NonceGap { .. } => "NONCE_GAP",
            AdmissionError::Full => "MEMPOOL_FULL",
            AdmissionError::SignerFull => "SIGNER_FULL",
            AdmissionError::Signature(_) => "BAD_SIGNATURE",
        }
    }

    /// The codes beside those of [`Rejection`], with what they mean.
    pub const TABLE: &[(&str, &str)] = &[
        ("DUPLICATE", "the transaction is waiting already"),
        ("NONCE_TAKEN", "another transaction with this nonce is waiting"),
        ("NONCE_GAP", "the nonce is too far ahead of the wallet's next one"),
        ("MEMPOOL_FULL", "the node has too many waiting transactions"),
        ("SIGNER_FULL", "the signer has too many waiting transactions"),
        ("BAD_SIGNATURE", "a signature does not verify: wrong key, changed content, or another network's"),
        ("MALFORMED", "the bytes are not the canonical encoding of a transaction"),
    ];
}

/// Transactions that wait.
#[derive(Default)]
pub struct Mempool {
    /// Ready for the next block, in order.
    ready: BTreeMap<Place, Entry>,
    /// Ahead of their wallet's nonce.
    held: BTreeMap<(PublicKey, u64), Entry>,
    ids: BTreeMap<Hash, Where>,
    signers: BTreeMap<PublicKey, Vec<Place>>,
    lanes: [Usage; 3],
    arrivals: u64,
    /// The block after the head, begun and empty, to try transactions in.
    trial: Option<Trial>,
}

struct Trial {
    head: Hash,
    made_ms: u64,
    block: Executor,
}

/// How transactions of one signer are tried, one after the other.
enum Tries<'a> {
    /// Transfers, by what the wallet can pay.
    Balance(&'a Executor, Purse),
    /// Anything, by doing it.
    Doing(Box<Executor>),
}

impl Tries<'_> {
    fn next(&mut self, transaction: &Transaction, state: &State, now_ms: u64) -> Result<(), Rejection> {
        match (self, &transaction.unsigned.body) {
            (Tries::Balance(block, purse), Body::Transfer { to, amount, memo }) => {
                block.would_transfer(purse, transaction, to, *amount, memo)
            }
            (Tries::Balance(block, _), _) => fits(&mut block.clone(), transaction, state, now_ms),
            (Tries::Doing(block), _) => fits(block, transaction, state, now_ms),
        }
    }
}

/// A begun block serves trials this long; then its time is too far from the clock's.
const TRIAL_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    lane: Lane,
    arrival: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Nodes,
    Wallets,
    Held,
}

#[derive(Clone, Copy)]
enum Where {
    Ready(Place),
    Held(PublicKey, u64),
}

#[derive(Clone, Copy, Default)]
struct Usage {
    count: usize,
    bytes: usize,
}

struct Entry {
    id: Hash,
    transaction: Transaction,
    bytes: usize,
}

impl Mempool {
    /// Takes a transaction in and returns its id; `now_ms` is the clock, in milliseconds since 1970 (UTC).
    pub fn add(&mut self, transaction: Transaction, state: &State, now_ms: u64) -> Result<Hash, AdmissionError> {
        let id = transaction.id();
        if self.ids.contains_key(&id) {
            return Err(AdmissionError::Duplicate);
        }
        let (signer, nonce) = (transaction.unsigned.signer, transaction.unsigned.nonce);
        let bytes = transaction.encode().len();
        let lane = lane_of(&transaction);
        if !self.has_room(lane, bytes) {
            return Err(AdmissionError::Full);
        }
        let held = self.held.range((signer, 0)..=(signer, u64::MAX)).count();
        if self.signers.get(&signer).map_or(0, Vec::len) + held >= MAX_PER_SIGNER {
            return Err(AdmissionError::SignerFull);
        }
        state.verify(&transaction)?;
        self.refresh(state, now_ms)?;
        let entry = Entry { id, transaction, bytes };
        if lane == Lane::Wallets {
            let expected = self.next_nonce(state, &signer);
            let gap = nonce.checked_sub(expected);
            if let Some(rival) = self.rival(&signer, nonce) {
                let later = entry.transaction.unsigned.time_ms >= rival.1.saturating_add(REPLACE_AFTER_MS);
                return if later {
                    self.replace(entry, rival.0, state, now_ms)
                } else {
                    Err(AdmissionError::NonceTaken(nonce))
                };
            }
            if gap.is_none() && nonce >= account_nonce(state, &signer) {
                return Err(AdmissionError::NonceTaken(nonce));
            }
            if gap.is_some_and(|gap| gap > MAX_NONCE_GAP) {
                return Err(AdmissionError::NonceGap { expected, got: nonce });
            }
            if gap.is_some_and(|gap| gap > 0) {
                let (free, needed) = (state.account(&state.account_of(&signer)).free, state.params().ledger.fee);
                if free < needed {
                    return Err(Rejection::Insufficient { free, needed }.into());
                }
                if !self.has_room(Lane::Held, bytes) {
                    return Err(AdmissionError::Full);
                }
                self.count(&entry, Lane::Held, Where::Held(signer, nonce));
                self.held.insert((signer, nonce), entry);
                return Ok(id);
            }
        }
        self.fits_behind(&entry.transaction, None, state, now_ms)?;
        self.push(entry, lane);
        // What was held behind it may follow now.
        let mut next = nonce.saturating_add(1);
        while let Some(follower) = (lane == Lane::Wallets).then(|| self.held.remove(&(signer, next))).flatten() {
            self.uncount(&follower, Lane::Held);
            let room = self.has_room(lane, follower.bytes);
            if !room || self.fits_behind(&follower.transaction, None, state, now_ms).is_err() {
                break;
            }
            self.push(follower, lane);
            next = next.saturating_add(1);
        }
        Ok(id)
    }

    /// Begins the trial anew where it is of another head or too old.
    fn refresh(&mut self, state: &State, now_ms: u64) -> Result<(), Rejection> {
        let head = state.last_block();
        let usable = |trial: &Trial| trial.head == head && (trial.made_ms..trial.made_ms + TRIAL_MS).contains(&now_ms);
        if !self.trial.as_ref().is_some_and(usable) {
            self.trial = Some(Trial { head, made_ms: now_ms, block: begun(state, now_ms)? });
        }
        Ok(())
    }

    /// Whether a transaction could follow what its signer has waiting, up to a place.
    fn fits_behind(
        &self,
        transaction: &Transaction,
        until: Option<Place>,
        state: &State,
        now_ms: u64,
    ) -> Result<(), Rejection> {
        let signer = &transaction.unsigned.signer;
        let places = self.signers.get(signer).into_iter().flatten().take_while(|place| Some(**place) != until);
        let own: Vec<&Transaction> =
            places.filter_map(|place| self.ready.get(place)).map(|entry| &entry.transaction).collect();
        let Some(mut tries) = self.tries(signer, own.iter().copied().chain([transaction])) else { return Ok(()) };
        for earlier in own {
            let _ = tries.next(earlier, state, now_ms); // dropped after the next block
        }
        tries.next(transaction, state, now_ms)
    }

    /// Which of a signer's waiting transactions do not go any more.
    fn impossible(&self, signer: &PublicKey, places: &[Place], state: &State, now_ms: u64) -> Vec<Hash> {
        let own: Vec<&Entry> = places.iter().filter_map(|place| self.ready.get(place)).collect();
        let Some(mut tries) = self.tries(signer, own.iter().map(|entry| &entry.transaction)) else { return Vec::new() };
        let refused = own.into_iter().filter(|entry| tries.next(&entry.transaction, state, now_ms).is_err());
        refused.map(|entry| entry.id).collect()
    }

    /// How these transactions of a signer are tried.
    fn tries<'a>(
        &self,
        signer: &PublicKey,
        mut transactions: impl Iterator<Item = &'a Transaction>,
    ) -> Option<Tries<'_>> {
        let block = &self.trial.as_ref()?.block;
        let transfers = transactions.all(|t| matches!(t.unsigned.body, Body::Transfer { .. }));
        let purse = if transfers { block.purse(signer).ok() } else { None };
        Some(purse.map_or_else(|| Tries::Doing(Box::new(block.clone())), |purse| Tries::Balance(block, purse)))
    }

    /// What waits with this nonce: its id and time.
    fn rival(&self, signer: &PublicKey, nonce: u64) -> Option<(Hash, u64)> {
        let held = self.held.get(&(*signer, nonce));
        let places = self.signers.get(signer).into_iter().flatten();
        let ready = places.filter_map(|place| self.ready.get(place));
        let mut same =
            ready.filter(|e| e.transaction.unsigned.nonce == nonce && lane_of(&e.transaction) == Lane::Wallets);
        let entry = held.or_else(|| same.next())?;
        Some((entry.id, entry.transaction.unsigned.time_ms))
    }

    /// Puts a transaction in the place of another one of its wallet and nonce, if it could follow what the wallet has
    /// waiting before it. What waits behind it is tried again when the next block comes.
    fn replace(&mut self, entry: Entry, rival: Hash, state: &State, now_ms: u64) -> Result<Hash, AdmissionError> {
        let (id, signer) = (entry.id, entry.transaction.unsigned.signer);
        let at = match self.ids.get(&rival) {
            Some(Where::Ready(place)) => Where::Ready(*place),
            _ => Where::Held(signer, entry.transaction.unsigned.nonce),
        };
        if let Where::Ready(place) = at {
            self.fits_behind(&entry.transaction, Some(place), state, now_ms)?;
        }
        let lane = if matches!(at, Where::Ready(_)) { Lane::Wallets } else { Lane::Held };
        if !self.has_room(lane, entry.bytes) {
            return Err(AdmissionError::Full);
        }
        if let Some(old) = match at {
            Where::Ready(place) => self.ready.remove(&place),
            Where::Held(signer, nonce) => self.held.remove(&(signer, nonce)),
        } {
            self.uncount(&old, lane);
        }
        self.count(&entry, lane, at);
        match at {
            Where::Ready(place) => drop(self.ready.insert(place, entry)),
            Where::Held(signer, nonce) => drop(self.held.insert((signer, nonce), entry)),
        }
        Ok(id)
    }

    /// Goes on to the state after `block`.
    pub fn update(&mut self, block: &Block, state: &State, now_ms: u64) {
        for transaction in &block.transactions {
            self.remove(&transaction.id());
        }
        let stale: Vec<Hash> = self
            .held
            .iter()
            .filter(|((signer, nonce), entry)| {
                let oldest = now_ms.saturating_sub(state.params().ledger.transaction_ttl_ms);
                *nonce < account_nonce(state, signer) || entry.transaction.unsigned.time_ms < oldest
            })
            .map(|(_, entry)| entry.id)
            .collect();
        let mut dropped = stale;
        let oldest = now_ms.saturating_sub(state.params().ledger.transaction_ttl_ms);
        let expired = self.ready.values().filter(|entry| entry.transaction.unsigned.time_ms < oldest);
        dropped.extend(expired.map(|entry| entry.id));
        for id in &dropped {
            self.remove(id);
        }
        if self.refresh(state, now_ms).is_err() {
            return;
        }
        let tried = self.signers.iter().map(|(signer, places)| self.impossible(signer, places, state, now_ms));
        let dropped: Vec<Hash> = tried.flatten().collect();
        for id in &dropped {
            self.remove(id);
        }
        // A wallet's next transaction may have been included without having waited here.
        let due = self.held.iter().filter(|((signer, nonce), _)| *nonce == self.next_nonce(state, signer));
        let due: Vec<Hash> = due.map(|(_, entry)| entry.id).collect();
        for id in due {
            if let Some(entry) = self.remove(&id) {
                let _ = self.add(entry.transaction, state, now_ms); // one that is refused now is of no use
            }
        }
    }

    /// What the block after `state` may hold, in order of preference and within its quotas.
    pub fn candidates(&self, state: &State) -> Vec<Transaction> {
        let ledger = &state.params().ledger;
        let mut bytes = u64::from(ledger.block_bytes);
        let mut attest_bytes = bytes * ledger.attest_quota_ppm / PPM;
        let mut claim_bytes = state.params().claim_bytes();
        let mut registrations = u64::from(ledger.registrations_per_block);
        let mut passed_over = BTreeSet::new();
        let mut chosen = Vec::new();
        for (place, Entry { transaction, bytes: size, .. }) in self.in_turn() {
            let (signer, size) = (transaction.unsigned.signer, *size as u64);
            let (quota, share) = match transaction.unsigned.body {
                Body::Attest { .. } => (Some(&mut attest_bytes), size),
                Body::InferenceReceipt { .. } => (Some(&mut claim_bytes), size),
                Body::RegisterNode { .. } => (Some(&mut registrations), 1),
                _ => (None, 0),
            };
            if size > bytes || quota.as_ref().is_some_and(|left| share > **left) || passed_over.contains(&signer) {
                // A wallet's later nonces can't go without this one; what a node signs stands alone.
                if place.lane == Lane::Wallets {
                    passed_over.insert(signer);
                }
                continue;
            }
            bytes -= size;
            if let Some(left) = quota {
                *left -= share;
            }
            chosen.push(transaction.clone());
        }
        chosen
    }

    /// Ready transactions in order of preference: the nodes' as they came; then of each wallet the first, of each the
    /// second and so on, so that who sends much does not make others wait.
    fn in_turn(&self) -> impl Iterator<Item = (&Place, &Entry)> {
        let mut turns: BTreeMap<&PublicKey, u64> = BTreeMap::new();
        let mut in_turn: Vec<(u64, &Place, &Entry)> = Vec::with_capacity(self.ready.len());
        for (place, entry) in &self.ready {
            let turn = match place.lane {
                Lane::Nodes => 0,
                Lane::Wallets | Lane::Held => {
                    let turn = turns.entry(&entry.transaction.unsigned.signer).or_default();
                    *turn += 1;
                    *turn
                }
            };
            in_turn.push((turn, place, entry));
        }
        in_turn.sort_by_key(|(turn, place, _)| (*turn, **place));
        in_turn.into_iter().map(|(_, place, entry)| (place, entry))
    }

    /// Whether there is room for another transaction of this kind.
    pub fn may_take(&self, transaction: &Transaction) -> bool {
        self.has_room(lane_of(transaction), 0)
    }

    /// Whether this transaction waits.
    pub fn contains(&self, id: &Hash) -> bool {
        self.ids.contains_key(id)
    }

    /// A transaction that waits.
    pub fn get(&self, id: &Hash) -> Option<&Transaction> {
        let entry = match self.ids.get(id)? {
            Where::Ready(place) => self.ready.get(place),
            Where::Held(signer, nonce) => self.held.get(&(*signer, *nonce)),
        };
        entry.map(|entry| &entry.transaction)
    }

    /// Everything that is ready for a block, in order.
    pub fn ready(&self) -> impl Iterator<Item = &Transaction> {
        self.ready.values().map(|entry| &entry.transaction)
    }

    /// Number of transactions, the held ones included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The nonce that follows what the wallet has in the ledger and ready here.
    pub fn next_nonce(&self, state: &State, wallet: &PublicKey) -> u64 {
        let last = self.signers.get(wallet).and_then(|places| places.last()).and_then(|place| self.ready.get(place));
        let after = last.filter(|e| e.transaction.unsigned.body.is_wallets()).map(|e| e.transaction.unsigned.nonce + 1);
        account_nonce(state, wallet).max(after.unwrap_or(0))
    }

    fn push(&mut self, entry: Entry, lane: Lane) {
        let place = Place { lane, arrival: self.arrivals };
        self.arrivals += 1;
        self.count(&entry, lane, Where::Ready(place));
        self.signers.entry(entry.transaction.unsigned.signer).or_default().push(place);
        self.ready.insert(place, entry);
    }

    fn remove(&mut self, id: &Hash) -> Option<Entry> {
        let at = *self.ids.get(id)?;
        let entry = match at {
            Where::Held(signer, nonce) => self.held.remove(&(signer, nonce)),
            Where::Ready(place) => {
                let entry = self.ready.remove(&place);
                if let Some(signer) = entry.as_ref().map(|entry| entry.transaction.unsigned.signer) {
                    let places = self.signers.entry(signer).or_default();
                    places.retain(|p| *p != place);
                    if places.is_empty() {
                        self.signers.remove(&signer);
                    }
                }
                entry
            }
        }?;
        let lane = if let Where::Ready(place) = at { place.lane } else { Lane::Held };
        self.uncount(&entry, lane);
        Some(entry)
    }

    fn has_room(&self, lane: Lane, bytes: usize) -> bool {
        let share = if lane == Lane::Held { 4 } else { 1 };
        let usage = &self.lanes[lane as usize];
        usage.count < MAX_COUNT / share && usage.bytes + bytes <= MAX_BYTES / share
    }

    fn count(&mut self, entry: &Entry, lane: Lane, at: Where) {
        let usage = &mut self.lanes[lane as usize];
        usage.count += 1;
        usage.bytes += entry.bytes;
        self.ids.insert(entry.id, at);
    }

    fn uncount(&mut self, entry: &Entry, lane: Lane) {
        let usage = &mut self.lanes[lane as usize];
        usage.count -= 1;
        usage.bytes -= entry.bytes;
        self.ids.remove(&entry.id);
    }
}

fn lane_of(transaction: &Transaction) -> Lane {
    if transaction.unsigned.body.is_wallets() { Lane::Wallets } else { Lane::Nodes }
}

fn account_nonce(state: &State, wallet: &PublicKey) -> u64 {
    state.account(&state.account_of(wallet)).nonce
}

/// The block after `state`, to try transactions in.
fn begun(state: &State, now_ms: u64) -> Result<Executor, Rejection> {
    Executor::trial(state, now_ms.max(state.time_ms().saturating_add(1)))
}

/// Applies a transaction to the signer's trial. A full block is no reason against it: it waits for the next one. But
/// quotas are checked before the rules, so a node's transaction must then pass alone, or it might never be checked. A
/// wallet's can't be tried without the nonces before it; its turn comes when they are included.
fn fits(waiting: &mut Executor, transaction: &Transaction, state: &State, now_ms: u64) -> Result<(), Rejection> {
    match waiting.apply(transaction) {
        Err(Rejection::BlockFull | Rejection::AttestQuota | Rejection::RegistrationQuota) => {
            match lane_of(transaction) {
                Lane::Nodes => begun(state, now_ms)?.apply(transaction),
                Lane::Wallets | Lane::Held => Ok(()),
            }
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        Body,
        state::testing::{Ledger, node_key, register_body, wallet, wallet_key},
    };
    use ailo_protocol::{Address, Amount, Keypair, params::LedgerParams};

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(4, |_| {});
        ledger.fund(wallet(0), Amount::alc(100));
        ledger
    }

    /// A stake of `units` behind the wallet's own node, which needs nobody's confirmation.
    fn stake(ledger: &Ledger, key: &Keypair, nonce: u64, units: u64) -> Transaction {
        let i = (0..4).find(|i| wallet_key(*i).public() == key.public()).unwrap();
        let body = Body::Stake { node: *node_key(i).public(), amount: Amount(units) };
        Transaction::sign(&ledger.state.network(), key, nonce, ledger.state.time_ms(), body)
    }

    /// A ledger with 100 ALC in the first wallet and a pending transfer at the height that it returns.
    fn with_pending(founders: u8, edit: impl FnOnce(&mut LedgerParams)) -> (Ledger, u64) {
        let mut ledger = Ledger::new(founders, |params| edit(&mut params.ledger));
        (0..2).for_each(|i| ledger.fund(wallet(i), Amount::alc(100)));
        ledger.block(vec![ledger.transfer(0, 1, Amount::alc(1))]);
        let height = ledger.state.height();
        (ledger, height)
    }

    /// An attestation that makes exceptions of `except` transfers which do not exist, 32 bytes each.
    fn attest(ledger: &Ledger, key: &Keypair, height: u64, except: u16) -> Transaction {
        let hash = |i: u16| {
            let mut bytes = [7; 32];
            bytes[..2].copy_from_slice(&i.to_be_bytes());
            Hash(bytes)
        };
        ledger.sign(key, Body::Attest { height, except: (0..except).map(hash).collect() })
    }

    fn nonces(pool: &Mempool) -> Vec<u64> {
        pool.ready().map(|transaction| transaction.unsigned.nonce).collect()
    }

    #[test]
    fn a_wallets_transactions_come_out_in_order_of_nonces_however_they_came_in() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms());
        let mut pool = Mempool::default();
        for nonce in [2, 1, 4, 0, 5, 3] {
            pool.add(stake(&ledger, &wallet_key(0), nonce, 1), state, now).unwrap();
        }
        assert_eq!(nonces(&pool), [0, 1, 2, 3, 4, 5]);
        assert_eq!(pool.next_nonce(state, wallet_key(0).public()), 6);
        let block = Ledger { genesis: ledger.genesis.clone(), state: state.clone(), events: vec![], blocks: vec![] }
            .block(pool.candidates(state));
        assert_eq!(block.transactions.len(), 6);
    }

    #[test]
    fn what_the_ledger_would_refuse_does_not_wait() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms());
        let mut pool = Mempool::default();
        let mut add = |transaction| pool.add(transaction, state, now);
        let good = stake(&ledger, &wallet_key(0), 0, 1);
        let mut forged = good.clone();
        forged.unsigned.time_ms += 1;
        assert_eq!(add(forged), Err(AdmissionError::Signature(BadSignature)));
        assert_eq!(add(good.clone()), Ok(good.id()));
        assert_eq!(add(good), Err(AdmissionError::Duplicate));
        assert_eq!(add(stake(&ledger, &wallet_key(0), 0, 2)), Err(AdmissionError::NonceTaken(0)));
        add(stake(&ledger, &wallet_key(0), 2, 1)).unwrap();
        assert_eq!(add(stake(&ledger, &wallet_key(0), 2, 2)), Err(AdmissionError::NonceTaken(2)));
        let gap = AdmissionError::NonceGap { expected: 1, got: 18 };
        assert_eq!(add(stake(&ledger, &wallet_key(0), 18, 1)), Err(gap));
        // Together with what waits, 100 ALC are exceeded.
        let all = stake(&ledger, &wallet_key(0), 1, Amount::alc(99).0 + 99_000_000);
        assert!(matches!(add(all), Err(AdmissionError::Rejected(Rejection::Insufficient { .. }))));
        for nonce in [0, 3] {
            let poor = add(stake(&ledger, &wallet_key(1), nonce, 1));
            assert!(matches!(poor, Err(AdmissionError::Rejected(Rejection::Insufficient { .. }))));
        }
        let old = Transaction::sign(
            &state.network(),
            &node_key(0),
            0,
            5,
            Body::Heartbeat { trains: true, class: Hash::ZERO },
        );
        assert!(matches!(add(old), Err(AdmissionError::Rejected(Rejection::Expired { .. }))));
    }

    #[test]
    fn nodes_go_before_wallets_and_each_in_order_of_arrival() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms() + 1000);
        let mut pool = Mempool::default();
        let [a, b] = [1, 2].map(|i| ledger.sign(&node_key(i), Body::Heartbeat { trains: true, class: Hash::ZERO }));
        let [c, d] = [0, 1].map(|nonce| stake(&ledger, &wallet_key(0), nonce, 1));
        let ids = [&c, &b, &d, &a].map(|transaction| pool.add(transaction.clone(), state, now).unwrap());
        assert_eq!(pool.candidates(state), [b, a, c, d]);
        assert!(ids.iter().all(|id| pool.contains(id) && pool.get(id).unwrap().id() == *id));
    }

    #[test]
    fn after_a_block_what_is_included_superseded_or_expired_is_gone_and_what_was_held_follows() {
        let mut ledger = ledger();
        let mut pool = Mempool::default();
        let now = ledger.state.time_ms() + 1000;
        let [first, rival] = [1, 2].map(|units| stake(&ledger, &wallet_key(0), 0, units));
        let [second, fourth] = [1, 3].map(|nonce| stake(&ledger, &wallet_key(0), nonce, 1));
        let heartbeat = ledger.sign(&node_key(1), Body::Heartbeat { trains: true, class: Hash::ZERO });
        for transaction in [&first, &second, &fourth, &heartbeat] {
            pool.add(transaction.clone(), &ledger.state, now).unwrap();
        }
        // A block with the heartbeat, and with another first transaction than the one that waits.
        let block = ledger.block(vec![heartbeat, rival]);
        pool.update(&block, &ledger.state, now);
        assert_eq!(nonces(&pool), [1]);
        assert_eq!(pool.len(), 2);
        // The second and a third that never waited here.
        let block = ledger.block(vec![second, stake(&ledger, &wallet_key(0), 2, 1)]);
        pool.update(&block, &ledger.state, now);
        assert_eq!(nonces(&pool), [3]);
        let block = ledger.block(vec![]);
        let much_later = now + ledger.genesis.params.ledger.transaction_ttl_ms + 10_000;
        pool.update(&block, &ledger.state, much_later);
        assert!(pool.is_empty());
        assert!(pool.lanes.iter().all(|usage| usage.count == 0 && usage.bytes == 0) && pool.signers.is_empty());
    }

    #[test]
    fn one_signer_can_fill_only_its_own_share() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms());
        let mut pool = Mempool::default();
        for nonce in 0..MAX_PER_SIGNER as u64 {
            pool.add(stake(&ledger, &wallet_key(0), nonce, 1), state, now).unwrap();
        }
        let next = stake(&ledger, &wallet_key(0), MAX_PER_SIGNER as u64, 1);
        assert_eq!(pool.add(next, state, now), Err(AdmissionError::SignerFull));
    }

    #[test]
    fn a_full_lane_leaves_the_other_open_and_drops_nothing() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms() + 1000);
        let mut pool = Mempool::default();
        let first = stake(&ledger, &wallet_key(0), 0, 1);
        pool.add(first.clone(), state, now).unwrap();
        pool.lanes[Lane::Wallets as usize].count = MAX_COUNT;
        assert_eq!(pool.add(stake(&ledger, &wallet_key(0), 1, 1), state, now), Err(AdmissionError::Full));
        pool.add(ledger.sign(&node_key(1), Body::Heartbeat { trains: true, class: Hash::ZERO }), state, now).unwrap();
        assert!(pool.contains(&first.id()));
    }

    #[test]
    fn what_is_held_for_its_nonce_does_not_keep_out_what_pays() {
        let mut ledger = ledger();
        let fee = ledger.state.params().ledger.fee;
        let mut pool = Mempool::default();
        let hoarders: Vec<Keypair> =
            (0..200u8).map(|i| Keypair::from_seed([[i; 16], [0; 16]].concat().try_into().unwrap())).collect();
        hoarders.iter().for_each(|key| ledger.fund(Address::from(key.public()), fee));
        let (state, now) = (&ledger.state, ledger.state.time_ms());
        // Nobody looks at their memos before their turn, which never comes.
        let body = Body::Transfer { to: wallet(1), amount: Amount(1), memo: "x".repeat(60_000) };
        let hoard = |key, nonce| Transaction::sign(&state.network(), key, nonce, now, body.clone());
        let held = hoarders.iter().filter(|key| pool.add(hoard(key, 1), state, now).is_ok()).count();
        assert_eq!(held, MAX_BYTES / 4 / hoard(&hoarders[0], 1).encode().len());
        pool.add(stake(&ledger, &wallet_key(0), 0, 1), state, now).unwrap();
        assert_eq!(pool.candidates(state).len(), 1);
    }

    #[test]
    fn a_quota_hides_no_transaction_of_a_node_from_the_rules() {
        let (mut ledger, height) = with_pending(6, |_| {});
        let mut pool = Mempool::default();
        let now = ledger.state.time_ms() + 1000;
        // Alone above the attestations' share of a block, whoever signs it; and twice within it, of no registered node.
        let stranger = Keypair::from_seed([200; 32]);
        for key in [&stranger, &node_key(2)] {
            let large = attest(&ledger, key, height, 1900);
            assert!(large.encode().len() > 60_000);
            assert_eq!(pool.add(large, &ledger.state, now), Err(Rejection::AttestQuota.into()));
        }
        for except in [1200, 1201] {
            let refused = pool.add(attest(&ledger, &stranger, height, except), &ledger.state, now);
            assert_eq!(refused, Err(Rejection::UnknownNode.into()));
        }
        // One that is refused behind what its node has waiting is refused alone too, or waits for its turn...
        ledger.block(vec![ledger.transfer(0, 1, Amount::alc(1))]);
        let later = attest(&ledger, &node_key(4), height + 1, 1200);
        pool.add(later.clone(), &ledger.state, now).unwrap();
        let wrong = attest(&ledger, &node_key(4), height + 9, 1200);
        let nothing = Rejection::NothingPending { height: height + 9 };
        assert_eq!(pool.add(wrong, &ledger.state, now), Err(nothing.into()));
        let first = attest(&ledger, &node_key(4), height, 1200);
        pool.add(first.clone(), &ledger.state, now).unwrap();
        // ...and goes when others have left it nothing to attest.
        let block = ledger.block([2, 3].map(|i| attest(&ledger, &node_key(i), height, 0)).into());
        pool.update(&block, &ledger.state, now);
        assert!(pool.contains(&later.id()) && !pool.contains(&first.id()));
    }

    #[test]
    fn what_does_not_fit_a_block_lets_pass_what_does_but_not_its_wallets_later_nonces() {
        let (ledger, height) = with_pending(4, |ledger| {
            (ledger.block_bytes, ledger.attest_quota_ppm) = (64 << 10, PPM);
        });
        let (state, now) = (&ledger.state, ledger.state.time_ms() + 1000);
        let [large, too_large] = [2, 3].map(|i| attest(&ledger, &node_key(i), height, 2033));
        let heartbeat = ledger.sign(&node_key(1), Body::Heartbeat { trains: true, class: Hash::ZERO });
        let body = Body::Transfer { to: wallet(1), amount: Amount(1), memo: "x".repeat(128) };
        let transfer = ledger.sign(&wallet_key(0), body);
        let follower = stake(&ledger, &wallet_key(0), transfer.unsigned.nonce + 1, 1);
        let other = stake(&ledger, &wallet_key(1), 0, 1);
        let left = (64 << 10) - large.encode().len() - heartbeat.encode().len();
        assert!((other.encode().len()..transfer.encode().len()).contains(&left), "{left} bytes are left");
        assert_eq!(follower.encode().len(), other.encode().len());
        let mut pool = Mempool::default();
        for transaction in [&large, &too_large, &heartbeat, &transfer, &follower, &other] {
            pool.add(transaction.clone(), state, now).unwrap();
        }
        let ids: Vec<Hash> = pool.candidates(state).iter().map(Transaction::id).collect();
        assert_eq!(ids, [&large, &heartbeat, &other].map(Transaction::id));
    }

    #[test]
    fn attestations_and_registrations_leave_a_block_to_the_others() {
        let (ledger, height) = with_pending(8, |ledger| {
            (ledger.attest_quota_ppm, ledger.registrations_per_block) = (2_000, 2);
        });
        let (state, now) = (&ledger.state, ledger.state.time_ms() + 1000);
        let attests: Vec<Transaction> = (2..8).map(|i| attest(&ledger, &node_key(i), height, 10)).collect();
        let bits = state.params().ledger.stamp_bits;
        let register = |i: u8| {
            let node = Keypair::from_seed([200 + i; 32]);
            ledger.sign(&node, register_body(state, &node, &wallet_key(0), bits))
        };
        let registrations: Vec<Transaction> = (0..4).map(register).collect();
        let heartbeat = ledger.sign(&node_key(1), Body::Heartbeat { trains: true, class: Hash::ZERO });
        let mut pool = Mempool::default();
        for transaction in attests.iter().chain(&registrations).chain([&heartbeat]) {
            pool.add(transaction.clone(), state, now).unwrap();
        }
        let fit = (512 << 10) / 500 / attests[0].encode().len();
        assert!(0 < fit && fit < attests.len(), "the test needs more attestations than fit");
        let expected = [&attests[..fit], &registrations[..2], &[heartbeat]].concat();
        assert_eq!(pool.candidates(state), expected);
    }

    #[test]
    fn a_wallet_that_sends_much_makes_no_other_wait() {
        let mut ledger = ledger();
        ledger.fund(wallet(1), Amount::alc(100));
        let (state, now) = (&ledger.state, ledger.state.time_ms());
        let mut pool = Mempool::default();
        for nonce in 0..5 {
            pool.add(stake(&ledger, &wallet_key(0), nonce, 1), state, now).unwrap();
        }
        let other = stake(&ledger, &wallet_key(1), 0, 1);
        pool.add(other.clone(), state, now).unwrap();
        let ids: Vec<Hash> = pool.candidates(state).iter().map(Transaction::id).collect();
        assert_eq!(ids.iter().position(|id| *id == other.id()), Some(1), "one of each wallet first");
    }

    #[test]
    fn a_waiting_transaction_gives_way_to_a_later_one_of_its_nonce() {
        let ledger = ledger();
        let (state, now) = (&ledger.state, ledger.state.time_ms() + 20_000);
        let mut pool = Mempool::default();
        let at = |nonce: u64, after: u64, units: u64| {
            let body = Body::Stake { node: *node_key(0).public(), amount: Amount(units) };
            Transaction::sign(&state.network(), &wallet_key(0), nonce, state.time_ms() + after, body)
        };
        for nonce in [0, 1, 3] {
            pool.add(at(nonce, 0, 1), state, now).unwrap();
        }
        assert_eq!(pool.add(at(0, 9_999, 2), state, now), Err(AdmissionError::NonceTaken(0)), "too soon");
        for nonce in [0, 3] {
            let newer = at(nonce, 10_000, 2);
            assert_eq!(pool.add(newer.clone(), state, now), Ok(newer.id()));
            assert!(pool.contains(&newer.id()) && !pool.contains(&at(nonce, 0, 1).id()));
        }
        let poor = at(1, 10_000, Amount::alc(1000).0);
        assert!(
            matches!(pool.add(poor, state, now), Err(AdmissionError::Rejected(_))),
            "one that does not go replaces none"
        );
        assert_eq!(nonces(&pool), [0, 1]);
        assert_eq!(pool.len(), 3);
    }
}

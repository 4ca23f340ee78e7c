//! Payment in a node that runs: what it pays for the texts that it asks for, what it takes for those it serves, and the claims of it.
//! The arithmetic of tabs is in `ailo_protocol::inference::tabs`; what a receipt is worth only the ledger says.

use crate::{
    error::NodeError,
    genesis::now_ms,
    service::chain::{Chain, Head},
};
use ailo_ledger::{
    Body, Transaction,
    state::State,
    transaction::{Claim, MAX_CLAIMS},
};
use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId, PublicKey, canonical,
    inference::tabs::{Ledger, Purse, Service, Tab, Till, Unpaid},
    keys,
    payment::{Receipt, SignedReceipt},
};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Milliseconds.
const DAY_MS: u64 = 86_400_000;
/// What is written down ahead of a day's limit is one part of so many.
const AHEAD: u64 = 64;
/// How often receipts are kept, and claims considered.
const TURN: Duration = Duration::from_secs(2);
/// Claims go out this long before an epoch ends, at the latest.
const BEFORE_END_MS: u64 = 20_000;
/// Claims of one turn, at most: the dearest.
const MOST_CLAIMS: usize = 4 * MAX_CLAIMS;
/// Prices that are remembered.
const ASKED: usize = 60;
/// A claim is sent again after so many turns.
const AGAIN: u32 = 5;
/// Bytes of the file of receipts, at most.
const MAX_FILE: usize = 16 << 20;

/// What a node asks for its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    Free,
    /// What the ledger's market says.
    Market,
    /// So much a unit.
    Fixed(Amount),
}

impl std::str::FromStr for Ask {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Ask, NodeError> {
        match text {
            "free" => Ok(Ask::Free),
            "market" => Ok(Ask::Market),
            text => text.parse().map(Ask::Fixed).map_err(|_| {
                NodeError::Usage(format!(
                    "--price {text}: write free, market, or what a unit costs in ALC, like 0.0002"
                ))
            }),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ledger as its head has it, for this node.
struct At<'a>(&'a State, NodeId);

impl Ledger for At<'_> {
    fn worth(&self, receipt: &Receipt, units: u64) -> Result<Amount, String> {
        let payer = self.0.check_receipt(&self.1, receipt).map_err(|e| e.to_string())?;
        self.0.claim_worth(&payer, receipt, units).map_err(|e| e.to_string())
    }

    fn trusts(&self, payer: &PublicKey, unclaimed: Amount) -> Amount {
        self.0.trusts(payer, &self.1, unclaimed)
    }

    fn lasts(&self, expires_age: u64) -> bool {
        expires_age > self.0.age_ms().saturating_add(self.0.params().inference.receipt_ms / 3)
    }
}

/// Why nothing more is paid for a text, for the person who asks: nothing of it was paid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpayable {
    /// Whoever serves a part of the model takes more than is paid here.
    #[error("{}", dear(.layers, .price, .most.as_ref()))]
    Dear {
        /// The part.
        layers: Range<u32>,
        /// What a unit costs at the least.
        price: Amount,
        /// What is paid for one at most; none without `--spend`.
        most: Option<Amount>,
    },
    /// The wallet's deposit is too small.
    #[error("{left} ALC are deposited for inference and {asked} are asked for: `ailo-node wallet deposit` adds to it")]
    Deposit {
        /// What is left of it.
        left: Amount,
        /// What is to be paid.
        asked: Amount,
    },
    /// The node has spent what it may in a day.
    #[error("{spent} ALC were spent today of {limit}, and {asked} are asked for: --spend sets the limit")]
    Day {
        /// What was spent.
        spent: Amount,
        /// What may be.
        limit: Amount,
        /// What is to be paid.
        asked: Amount,
    },
    /// The request has cost what it may.
    #[error("{spent} ALC were spent on this request of {most} that it may cost, and {asked} are asked for")]
    Request {
        /// What was spent.
        spent: Amount,
        /// What it may cost.
        most: Amount,
        /// What is to be paid.
        asked: Amount,
    },
    /// The API key has cost what it may in a day.
    #[error("{spent} ALC were spent today with this key of {limit}, and {asked} are asked for")]
    Key {
        /// What was spent.
        spent: Amount,
        /// What may be.
        limit: Amount,
        /// What is to be paid.
        asked: Amount,
    },
    /// The price is no number that can be paid.
    #[error("the price can't be paid")]
    Price,
    /// What is spent can't be written down.
    #[error("what is spent can't be written down, so nothing is: {0}")]
    Disk(String),
}

fn dear(layers: &Range<u32>, price: &Amount, most: Option<&Amount>) -> String {
    let (first, last) = (layers.start, layers.end.saturating_sub(1));
    let who = format!("whoever serves layers {first} to {last} of the model asks {price} ALC for a unit");
    match most {
        Some(most) => format!("{who}, and the ledger lets {most} count: wait until somebody serves them for less"),
        None => format!("{who}, and this node pays nothing: `--spend ALC` sets what it may spend in a day"),
    }
}

/// What may be spent for somebody, beside what the node itself may spend.
pub trait Budget: Send + Sync {
    /// Takes a cost out of it.
    ///
    /// # Errors
    ///
    /// [`Unpayable`]; nothing is taken then.
    fn spend(&self, cost: Amount) -> Result<(), Unpayable>;
}

/// What this node pays.
pub struct Pays {
    chain: Chain,
    purse: Mutex<Purse>,
    allowance: Mutex<Allowance>,
}

impl Pays {
    /// Pays with `key`, at most `limit` a day; what was spent is kept in the file at `path`.
    pub fn new(chain: Chain, network: Hash, key: Keypair, (limit, path): (Amount, PathBuf)) -> Pays {
        let unit = chain.head().state.params().inference.unit_tokens.into();
        let allowance = Mutex::new(Allowance::open(path, limit));
        Pays { chain, purse: Mutex::new(Purse::new(key, network, unit)), allowance }
    }

    /// What a unit may cost: what the ledger lets count.
    pub fn most(&self) -> Amount {
        let head = self.chain.head();
        let cap = head.state.params().inference.price_cap_ppm;
        head.state.market().price.share(cap).unwrap_or(Amount(u64::MAX))
    }

    /// Pays for `more` positions, out of the node's allowance and the asker's `budget`.
    ///
    /// # Errors
    ///
    /// [`Unpayable`]; nothing is paid then.
    pub fn pay(
        &self,
        service: Service,
        more: u64,
        latency_ms: u32,
        budget: Option<&dyn Budget>,
    ) -> Result<SignedReceipt, Unpayable> {
        let head = self.chain.head();
        let (state, params) = (&head.state, &head.state.params().inference);
        let mut purse = locked(&self.purse);
        let age = state.age_ms();
        let from = age + params.receipt_ms / 2;
        let units = purse.adds(&service, more, from);
        let random = keys::random_bytes();
        let fresh = std::array::from_fn(|i| random[i]);
        let receipt = service.receipt(*purse.payer(), fresh, units, age, latency_ms);
        let cost = receipt.worth(units, service.price, params).ok_or(Unpayable::Price)?;
        let wallet = Address::from(purse.payer());
        let deposit = state.deposit(&wallet);
        let left = Amount(deposit.amount.0.saturating_sub(deposit.leaving.0));
        if cost > left {
            return Err(Unpayable::Deposit { left, asked: cost });
        }
        locked(&self.allowance).spend(now_ms() / DAY_MS, cost, budget)?;
        // Half of the time is left at least for who serves to claim.
        Ok(purse.pay(service, more, latency_ms, (fresh, from, age + params.receipt_ms * 9 / 10)))
    }
}

/// What may be spent in a day. It counts across restarts: a little more than is spent is written down ahead.
struct Allowance {
    path: PathBuf,
    limit: Amount,
    day: u64,
    spent: Amount,
    /// What the file says was spent.
    kept: Amount,
}

impl Allowance {
    /// Of the file's day, what it says was spent.
    fn open(path: PathBuf, limit: Amount) -> Allowance {
        let bytes = std::fs::read(&path).unwrap_or_default(); // There is none at first.
        let (day, kept) = match canonical::decode::<(u64, Amount)>(&bytes, 64) {
            Ok(known) => known,
            Err(_) if bytes.is_empty() => (0, Amount::ZERO),
            Err(e) => {
                let day = now_ms() / DAY_MS;
                tracing::warn!(path = %path.display(), error = %e, "what was spent today can't be read: nothing more is spent");
                (day, limit)
            }
        };
        Allowance { path, limit, day, spent: kept, kept }
    }

    /// Takes a cost out of it, and out of the asker's `budget`.
    ///
    /// # Errors
    ///
    /// [`Unpayable`]; nothing is taken then.
    fn spend(&mut self, day: u64, cost: Amount, budget: Option<&dyn Budget>) -> Result<(), Unpayable> {
        // A clock that goes back begins no day again.
        if day > self.day {
            (self.day, self.spent, self.kept) = (day, Amount::ZERO, Amount::ZERO);
        }
        let (all, limit) = (Amount(self.spent.0.saturating_add(cost.0)), self.limit);
        if all > limit {
            return Err(Unpayable::Day { spent: self.spent, limit, asked: cost });
        }
        if all > self.kept {
            let kept = Amount(all.0.saturating_add(limit.0 / AHEAD)).min(limit);
            crate::datadir::write_atomically(&self.path, &canonical::encode(&(day, kept)))
                .map_err(|e| Unpayable::Disk(e.to_string()))?;
            self.kept = kept;
        }
        budget.map_or(Ok(()), |budget| budget.spend(cost))?;
        self.spent = all;
        Ok(())
    }
}

/// What this node is paid.
pub struct Cashier {
    chain: Chain,
    key: Keypair,
    network: Hash,
    ask: Ask,
    till: Mutex<Till>,
    path: PathBuf,
    /// Prices that were asked in the last hour, one a minute: who began a text then goes on at that price.
    asked: Mutex<VecDeque<Amount>>,
}

impl Cashier {
    /// Takes `ask`; what it holds is kept in the file at `path`.
    pub fn new(chain: Chain, (key, network): (Keypair, Hash), ask: Ask, path: PathBuf) -> Arc<Cashier> {
        let mut till = Till::new(network, chain.head().state.params().inference.unit_tokens.into());
        till.restore(kept(&path));
        Arc::new(Cashier { chain, key, network, ask, till: Mutex::new(till), path, asked: Mutex::default() })
    }

    /// What a unit costs now.
    pub fn price(&self) -> Amount {
        match self.ask {
            Ask::Free => Amount::ZERO,
            Ask::Fixed(price) => price,
            Ask::Market => self.chain.head().state.market().price,
        }
    }

    /// Takes a receipt for `more` positions.
    ///
    /// # Errors
    ///
    /// [`Unpaid`], for who asks.
    pub fn take(&self, service: Service, receipt: &SignedReceipt, more: u64) -> Result<(), Unpaid> {
        let head = self.chain.head();
        let least = locked(&self.asked).iter().copied().fold(self.price(), Amount::min);
        let ledger = At(&head.state, *self.key.public());
        locked(&self.till).take(&Service { price: least, ..service }, receipt, more, &ledger)
    }

    /// Claims what is due and keeps what is held, until `stop`.
    pub async fn run(self: Arc<Cashier>, mut stop: watch::Receiver<bool>) {
        let (mut tick, mut turn, mut sent, mut old) = (tokio::time::interval(TURN), 0u32, None, Vec::new());
        loop {
            let last = tokio::select! {
                _ = tick.tick() => false,
                _ = stop.changed() => true,
            };
            turn = turn.wrapping_add(1);
            let head = self.chain.head();
            let (due, tabs) = {
                let mut till = locked(&self.till);
                till.forget(head.state.age_ms());
                let tabs: Vec<_> = till.tabs().map(|tab| (tab.receipt, tab.used)).collect();
                (self.due(&till, &head), tabs)
            };
            if turn.is_multiple_of(30) {
                let mut asked = locked(&self.asked);
                asked.push_back(self.price());
                if asked.len() > ASKED {
                    asked.pop_front();
                }
            }
            let again = sent.is_none_or(|at| turn.wrapping_sub(at) >= AGAIN);
            if !due.is_empty() && again {
                sent = Some(turn);
                for claims in due.chunks(MAX_CLAIMS) {
                    let body = Body::InferenceReceipt { claims: claims.to_vec() };
                    let transaction = Transaction::sign(&self.network, &self.key, 0, now_ms(), body);
                    match self.chain.submit(transaction).await {
                        Ok(_) => tracing::info!(receipts = claims.len(), "claimed what inference has earned"),
                        Err(e) => tracing::debug!(error = %e, "the ledger does not take the claim yet"),
                    }
                }
            }
            if tabs != old {
                let (path, bytes) = (self.path.clone(), canonical::encode(&tabs));
                let kept = tokio::task::spawn_blocking(move || crate::datadir::write_atomically(&path, &bytes)).await;
                if let Ok(Err(e)) = kept {
                    tracing::warn!(error = %e, "receipts can't be kept: what is not claimed is lost when the node ends");
                }
                old = tabs;
            }
            if last {
                return;
            }
        }
    }

    /// What is claimed now: whatever is worth a claim, as far as the node's part of each deposit goes.
    fn due(&self, till: &Till, head: &Head) -> Vec<Claim> {
        let (state, me) = (&head.state, *self.key.public());
        let params = &state.params().inference;
        let (age, ends) = (state.age_ms(), state.epoch_ends().saturating_sub(state.age_ms()) < BEFORE_END_MS);
        let ledger = At(state, me);
        let (mut left, mut claims) = (HashMap::new(), Vec::new());
        let all = |receipt: &SignedReceipt| ledger.worth(&receipt.receipt, receipt.receipt.units).unwrap_or_default();
        let mut due = till.due(params.receipt_min, &ledger);
        // One that expires on its way would void the others of its transaction.
        due.retain(|receipt| receipt.receipt.expires_age > age.saturating_add(BEFORE_END_MS));
        due.sort_by_key(|receipt| std::cmp::Reverse(all(receipt)));
        for receipt in due.into_iter().take(MOST_CLAIMS) {
            let ends = ends || receipt.receipt.expires_age < age.saturating_add(5 * BEFORE_END_MS);
            let Ok(payer) = state.check_receipt(&me, &receipt.receipt) else { continue };
            let part = left.entry(payer).or_insert_with(|| state.drawable(&payer, &me));
            let worth = |units| ledger.worth(&receipt.receipt, units).unwrap_or_default();
            // As many units as the part is worth; what is over waits for the next epoch.
            let (mut low, mut high) = (0, receipt.receipt.units);
            while low < high {
                let middle = high - (high - low) / 2;
                if worth(middle) <= *part { low = middle } else { high = middle - 1 }
            }
            // Seldom, if nothing presses: each claim takes a place in a block.
            let least = if ends { params.receipt_min } else { Amount(part.0 / 10).max(params.receipt_min) };
            if worth(low) >= least.max(Amount(1)) {
                part.0 -= worth(low).0;
                claims.push(Claim { units: low, receipt });
            }
        }
        claims
    }
}

/// What was held when the node last ended.
fn kept(path: &Path) -> Vec<Tab> {
    let bytes = std::fs::read(path).unwrap_or_default(); // There is none at first.
    if bytes.is_empty() {
        return Vec::new();
    }
    match canonical::decode::<Vec<(SignedReceipt, u64)>>(&bytes, MAX_FILE) {
        Ok(tabs) => tabs.into_iter().map(|(receipt, used)| Tab { receipt, used }).collect(),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "the receipts that were kept can't be read");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_days_limit_holds_across_restarts_and_the_next_day_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Allowance::open(dir.path().join("spent"), Amount(6400));
        let mut allowance = open();
        for _ in 0..40 {
            allowance.spend(7, Amount(100), None).unwrap();
        }
        // Nothing that was spent is forgotten, and a hundredth at the most is lost.
        let mut again = open();
        assert!((4000..=4100).contains(&again.spent.0), "{}", again.spent.0);
        assert!(again.spend(7, Amount(2401), None).unwrap_err().to_string().contains("--spend"));
        again.spend(7, Amount(2300), None).unwrap();
        assert!(open().spend(7, Amount(101), None).is_err());
        open().spend(8, Amount(6400), None).unwrap();

        // What the asker's budget refuses costs the node nothing.
        struct Never;
        impl Budget for Never {
            fn spend(&self, _: Amount) -> Result<(), Unpayable> {
                Err(Unpayable::Price)
            }
        }
        let mut full = open();
        assert_eq!(full.spend(9, Amount(6400), Some(&Never)), Err(Unpayable::Price));
        assert_eq!(full.spend(9, Amount(6400), None), Ok(()));

        std::fs::write(dir.path().join("spent"), b"damaged").unwrap();
        assert!(
            open().spend(now_ms() / DAY_MS, Amount(1), None).is_err(),
            "who can't read what was spent spends nothing"
        );
    }
}

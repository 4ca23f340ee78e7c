//! Who owes whom for which positions: the two sides of a tab, without a ledger and without a network. `docs/inference.md` (*Payment*) has the
//! protocol, `docs/ledger.md` (*Inference*) what a receipt is worth.
//!
//! A requester pays ahead, for some positions of a text at a time. Positions of all its texts through the same layers of a node add up on one
//! tab, whose units are cumulative; so both sides count alike, and a text of ten tokens costs no whole unit.

use super::SessionId;
use crate::{
    Amount, Hash, Keypair, NodeId, PublicKey,
    payment::{Receipt, SignedReceipt},
};
use std::collections::HashMap;

/// Tabs of one node, at most.
const MAX_TABS: usize = 4096;

/// Tabs of one requester at a node, at most: one for each part of a model that it asks for, and those that go over into others.
const MAX_OF_PAYER: usize = 32;

/// What is served of a model, and for how much a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Who serves.
    pub node: NodeId,
    /// The model.
    pub model: Hash,
    /// Layers first .. end of `total`.
    pub first: u32,
    /// See `first`.
    pub end: u32,
    /// See `first`.
    pub total: u32,
    /// Of a unit through all layers.
    pub price: Amount,
}

impl Service {
    /// What `payer` signs for so many units of it.
    pub fn receipt(
        &self,
        payer: PublicKey,
        session: SessionId,
        units: u64,
        expires_age: u64,
        latency_ms: u32,
    ) -> Receipt {
        let Service { node, model, first, end, total, price } = *self;
        Receipt { payer, node, session, model, first, end, total, units, price, expires_age, latency_ms }
    }
}

/// The requester's side.
pub struct Purse {
    key: Keypair,
    network: Hash,
    /// Positions of a unit.
    unit: u64,
    tabs: HashMap<Service, Open>,
}

struct Open {
    session: SessionId,
    expires_age: u64,
    positions: u64,
    units: u64,
    /// The shortest time from a request to its first token.
    latency_ms: u32,
}

impl Purse {
    /// A purse that signs with `key`, on a ledger whose units have `unit` positions.
    pub fn new(key: Keypair, network: Hash, unit: u64) -> Purse {
        Purse { key, network, unit: unit.max(1), tabs: HashMap::new() }
    }

    /// Who pays.
    pub fn payer(&self) -> &PublicKey {
        self.key.public()
    }

    /// Units that `more` positions add to a tab, where those that expire before `from` are over.
    pub fn adds(&mut self, service: &Service, more: u64, from: u64) -> u64 {
        self.tabs.retain(|_, tab| tab.expires_age > from);
        let (positions, units) = self.tabs.get(service).map_or((0, 0), |tab| (tab.positions, tab.units));
        (positions + more).div_ceil(self.unit).saturating_sub(units)
    }

    /// Pays for `more` positions: the tab's receipt, which attests the shortest `latency_ms` of its requests. A new tab has the session `fresh`, and expires at age `until`; one that expires before
    /// `from` is not gone on with.
    pub fn pay(
        &mut self,
        service: Service,
        more: u64,
        latency_ms: u32,
        (fresh, from, until): (SessionId, u64, u64),
    ) -> SignedReceipt {
        self.tabs.retain(|_, tab| tab.expires_age > from);
        if self.tabs.len() >= MAX_TABS {
            self.tabs.clear(); // What was paid ahead on them is lost: less than a unit on each.
        }
        let new = || Open { session: fresh, expires_age: until, positions: 0, units: 0, latency_ms };
        let tab = self.tabs.entry(service).or_insert_with(new);
        tab.positions += more;
        tab.units = tab.units.max(tab.positions.div_ceil(self.unit));
        tab.latency_ms = tab.latency_ms.min(latency_ms);
        service
            .receipt(*self.key.public(), tab.session, tab.units, tab.expires_age, tab.latency_ms)
            .sign(&self.network, &self.key)
    }
}

/// Why a receipt is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpaid {
    /// It is not of what is served.
    #[error("the receipt is not for these layers of this model, or not signed")]
    Other,
    /// It offers too little.
    #[error("a unit costs {ask} ALC here, and {offered} are offered")]
    Price {
        /// What is asked.
        ask: Amount,
        /// What is offered.
        offered: Amount,
    },
    /// It pays for fewer positions than are asked for.
    #[error("the receipt's {units} units do not pay for the positions that are asked for")]
    Units {
        /// Units of the receipt.
        units: u64,
    },
    /// The ledger would not pay it: why.
    #[error("the ledger would not pay the receipt: {0}")]
    Ledger(String),
    /// The deposit does not cover it.
    #[error("the deposit covers {covered} ALC more for this node, and {asked} are asked for: deposit more")]
    Deposit {
        /// What is trusted.
        covered: Amount,
        /// What the receipt adds.
        asked: Amount,
    },
    /// It expires too early to be claimed.
    #[error("the receipt expires too early to be claimed: begin a new tab")]
    Short,
    /// There are too many tabs.
    #[error("too many requesters have a tab here: try again later")]
    Full,
}

/// What the ledger says of receipts, to whoever serves.
pub trait Ledger {
    /// What units up to `units` are worth beyond what was claimed, if the ledger pays the receipt at all.
    fn worth(&self, receipt: &Receipt, units: u64) -> Result<Amount, String>;
    /// How much more may be taken on trust of a payer of whom `unclaimed` is held.
    fn trusts(&self, payer: &PublicKey, unclaimed: Amount) -> Amount;
    /// Whether a receipt that expires at this age is good for long enough to be claimed.
    fn lasts(&self, expires_age: u64) -> bool;
}

/// The side of who serves.
pub struct Till {
    network: Hash,
    unit: u64,
    tabs: HashMap<TabId, Tab>,
}

/// Payer, session, and the age at which it expires.
type TabId = (PublicKey, SessionId, u64);

/// What is held of a requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tab {
    /// The newest receipt.
    pub receipt: SignedReceipt,
    /// Positions that it was used for.
    pub used: u64,
}

impl Till {
    /// A till that holds nothing, on a ledger whose units have `unit` positions.
    pub fn new(network: Hash, unit: u64) -> Till {
        Till { network, unit: unit.max(1), tabs: HashMap::new() }
    }

    /// Takes a receipt that pays for `more` positions of a text through `service`; for none, it may attest a shorter time to the first token.
    ///
    /// # Errors
    ///
    /// [`Unpaid`], for the requester; nothing is changed then.
    pub fn take(
        &mut self,
        service: &Service,
        signed: &SignedReceipt,
        more: u64,
        ledger: &dyn Ledger,
    ) -> Result<(), Unpaid> {
        let receipt = &signed.receipt;
        let Receipt { payer, session, units, price, expires_age, latency_ms, .. } = *receipt;
        let of_this = Service { price, ..*service }.receipt(payer, session, units, expires_age, latency_ms);
        if *receipt != of_this || signed.verify(&self.network).is_err() {
            return Err(Unpaid::Other);
        }
        if price < service.price {
            return Err(Unpaid::Price { ask: service.price, offered: price });
        }
        let key = (payer, session, expires_age);
        let known = self.tabs.get(&key);
        // One tab has one kind of receipt, or its units would be worth something else later.
        let alike = |tab: &Tab| Receipt { units, latency_ms, ..tab.receipt.receipt } == *receipt;
        if known.is_some_and(|tab| !alike(tab)) {
            return Err(Unpaid::Other);
        }
        let (used, held) = known.map_or((0, 0), |tab| (tab.used, tab.receipt.receipt.units));
        let used = used.checked_add(more).filter(|used| used.div_ceil(self.unit) <= units.max(held));
        let used = used.ok_or(Unpaid::Units { units })?;
        if units > held {
            if !ledger.lasts(expires_age) {
                return Err(Unpaid::Short);
            }
            // Many small tabs would be worth no claim each, and take the place of others'. What is claimed does not count.
            let others: Vec<Amount> = self.unclaimed(&payer, &key, ledger).collect();
            if known.is_none() && (self.tabs.len() >= MAX_TABS || others.len() >= MAX_OF_PAYER) {
                return Err(Unpaid::Full);
            }
            let asked = self.worth(receipt, ledger).map_err(Unpaid::Ledger)?;
            let others = Amount(others.iter().fold(0, |sum, worth| worth.0.saturating_add(sum)));
            let covered = ledger.trusts(&payer, others);
            if asked > covered {
                return Err(Unpaid::Deposit { covered, asked });
            }
            self.tabs.insert(key, Tab { receipt: *signed, used });
        } else if let Some(tab) = self.tabs.get_mut(&key) {
            tab.used = used;
            if units == held && latency_ms < tab.receipt.receipt.latency_ms {
                tab.receipt = *signed;
            }
        }
        Ok(())
    }

    fn worth(&self, receipt: &Receipt, ledger: &dyn Ledger) -> Result<Amount, String> {
        ledger.worth(receipt, receipt.units)
    }

    /// What each tab of a payer is worth that is not claimed, without one. What the ledger would not pay is claimed, or worth nothing.
    fn unclaimed(&self, payer: &PublicKey, without: &TabId, ledger: &dyn Ledger) -> impl Iterator<Item = Amount> {
        let of = self.tabs.iter().filter(move |(key, _)| key.0 == *payer && *key != without);
        of.filter_map(move |(_, tab)| self.worth(&tab.receipt.receipt, ledger).ok())
    }

    /// Receipts that are worth at least `least` now.
    pub fn due(&self, least: Amount, ledger: &dyn Ledger) -> Vec<SignedReceipt> {
        let worth =
            |tab: &&Tab| self.worth(&tab.receipt.receipt, ledger).is_ok_and(|worth| worth >= least.max(Amount(1)));
        self.tabs.values().filter(worth).map(|tab| tab.receipt).collect()
    }

    /// Forgets what expires at age `age` or before.
    pub fn forget(&mut self, age: u64) {
        self.tabs.retain(|(_, _, expires), _| *expires > age);
    }

    /// All tabs, to be kept.
    pub fn tabs(&self) -> impl Iterator<Item = &Tab> {
        self.tabs.values()
    }

    /// Takes back what was kept.
    pub fn restore(&mut self, tabs: impl IntoIterator<Item = Tab>) {
        for tab in tabs.into_iter().take(MAX_TABS) {
            let Receipt { payer, session, expires_age, .. } = tab.receipt.receipt;
            self.tabs.insert((payer, session, expires_age), tab);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NETWORK: Hash = Hash([7; 32]);

    /// Pays 100 a unit, and trusts so much.
    struct Book {
        trust: u64,
        claimed: u64,
    }

    impl Ledger for Book {
        fn worth(&self, receipt: &Receipt, units: u64) -> Result<Amount, String> {
            let fresh = units.checked_sub(self.claimed).filter(|fresh| *fresh > 0).ok_or("claimed")?;
            Ok(Amount(fresh * receipt.price.0))
        }

        fn trusts(&self, _: &PublicKey, unclaimed: Amount) -> Amount {
            Amount(self.trust.saturating_sub(unclaimed.0))
        }

        fn lasts(&self, expires_age: u64) -> bool {
            expires_age > 5
        }
    }

    fn service(price: u64) -> Service {
        let node = *Keypair::from_seed([2; 32]).public();
        Service { node, model: Hash([1; 32]), first: 0, end: 4, total: 8, price: Amount(price) }
    }

    fn purse(seed: u8) -> Purse {
        Purse::new(Keypair::from_seed([seed; 32]), NETWORK, 256)
    }

    fn pay(purse: &mut Purse, service: Service, more: u64) -> SignedReceipt {
        purse.pay(service, more, 500, ([3; 16], 0, 1000))
    }

    #[test]
    fn short_texts_add_up_to_units_and_both_sides_count_alike() {
        let (mut purse, mut till, book) = (purse(1), Till::new(NETWORK, 256), Book { trust: 1000, claimed: 0 });
        let mut all = 0;
        for more in [10, 100, 146, 1, 255, 600, 3] {
            let adds = purse.adds(&service(100), more, 0);
            let receipt = pay(&mut purse, service(100), more);
            all += more;
            assert_eq!(receipt.receipt.units, u64::div_ceil(all, 256), "{all}");
            assert!(adds <= u64::div_ceil(more, 256));
            till.take(&service(100), &receipt, more, &book).unwrap();
        }
        assert_eq!(till.tabs().map(|tab| tab.used).sum::<u64>(), all);
        // A unit is used once: the same receipt again pays for what is left of it, and for nothing more.
        let last = till.tabs().next().unwrap().receipt;
        let left = 256 * last.receipt.units - all;
        till.take(&service(100), &last, left, &book).unwrap();
        let units = last.receipt.units;
        assert_eq!(till.take(&service(100), &last, 1, &book), Err(Unpaid::Units { units }));
    }

    #[test]
    fn what_is_not_for_this_service_or_not_signed_or_too_little_is_refused_and_changes_nothing() {
        let (mut purse, mut till, book) = (purse(1), Till::new(NETWORK, 256), Book { trust: 1000, claimed: 0 });
        let good = pay(&mut purse, service(100), 10);
        let forged = SignedReceipt { receipt: Receipt { units: 9, ..good.receipt }, ..good };
        let other = Service { end: 5, ..service(100) };
        assert_eq!(till.take(&service(100), &forged, 10, &book), Err(Unpaid::Other));
        assert_eq!(till.take(&other, &good, 10, &book), Err(Unpaid::Other));
        assert!(matches!(till.take(&service(101), &good, 10, &book), Err(Unpaid::Price { .. })));
        assert!(matches!(till.take(&service(100), &good, 257, &book), Err(Unpaid::Units { .. })));
        assert_eq!(till.take(&service(100), &good, u64::MAX, &book), Err(Unpaid::Units { units: 1 }));
        assert_eq!(till.tabs().count(), 0);
        till.take(&service(100), &good, 10, &book).unwrap();
        let short =
            Receipt { session: [9; 16], expires_age: 5, ..good.receipt }.sign(&NETWORK, &Keypair::from_seed([1; 32]));
        assert_eq!(till.take(&service(100), &short, 10, &book), Err(Unpaid::Short));
        // A dearer receipt of the same tab would make its first units dearer, too.
        let key = Keypair::from_seed([1; 32]);
        let dearer = Receipt { units: 2, price: Amount(200), ..good.receipt }.sign(&NETWORK, &key);
        assert_eq!(till.take(&service(100), &dearer, 10, &book), Err(Unpaid::Other));
    }

    #[test]
    fn no_more_is_taken_on_trust_than_the_ledger_says_on_all_tabs_together() {
        let (mut till, book) = (Till::new(NETWORK, 256), Book { trust: 250, claimed: 0 });
        let key = Keypair::from_seed([1; 32]);
        let receipt =
            |session: u8, units| service(100).receipt(*key.public(), [session; 16], units, 9, 0).sign(&NETWORK, &key);
        till.take(&service(100), &receipt(1, 1), 256, &book).unwrap();
        till.take(&service(100), &receipt(2, 1), 256, &book).unwrap();
        let refused = till.take(&service(100), &receipt(3, 1), 1, &book);
        assert_eq!(refused, Err(Unpaid::Deposit { covered: Amount(50), asked: Amount(100) }));
        assert!(matches!(till.take(&service(100), &receipt(1, 2), 1, &book), Err(Unpaid::Deposit { .. })));
        // What was claimed is held no more.
        let later = Book { trust: 150, claimed: 1 };
        till.take(&service(100), &receipt(1, 2), 1, &later).unwrap();
        assert_eq!(till.due(Amount(100), &later), [receipt(1, 2)]);
        assert_eq!(till.due(Amount(101), &later), []);
        till.forget(9);
        assert_eq!(till.tabs().count(), 0);
    }

    #[test]
    fn the_time_to_the_first_token_is_attested_once_it_is_known_and_the_shortest_counts() {
        let (mut purse, mut till, book) = (purse(1), Till::new(NETWORK, 256), Book { trust: 1000, claimed: 0 });
        let mut pays = |more, latency| purse.pay(service(100), more, latency, ([3; 16], 0, 1000));
        let (ahead, then, other) = (pays(10, u32::MAX), pays(0, 700), pays(10, 900));
        assert_eq!(other.receipt.latency_ms, 700);
        for (receipt, more) in [(ahead, 10), (then, 0), (ahead, 0), (other, 10)] {
            till.take(&service(100), &receipt, more, &book).unwrap();
        }
        let held = till.tabs().next().unwrap();
        assert_eq!((held.receipt.receipt.latency_ms, held.receipt.receipt.units, held.used), (700, 1, 20));
    }

    #[test]
    fn what_is_kept_comes_back() {
        let (mut purse, mut till, book) = (purse(1), Till::new(NETWORK, 256), Book { trust: 1000, claimed: 0 });
        till.take(&service(100), &pay(&mut purse, service(100), 300), 300, &book).unwrap();
        let mut again = Till::new(NETWORK, 256);
        again.restore(till.tabs().cloned());
        assert!(again.tabs().eq(till.tabs()));
        let receipt = pay(&mut purse, service(100), 212);
        again.take(&service(100), &receipt, 212, &book).unwrap();
        assert!(again.take(&service(100), &receipt, 1, &book).is_err());
    }
}

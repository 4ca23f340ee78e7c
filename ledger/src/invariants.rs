//! What always holds, whatever fails: each claim once, with its number. The simulation checks them at every step, the
//! local network of real processes where they can be seen from outside, and debug assertions inside the ledger.

use crate::{
    Block, Body, Certificate, Header,
    block::ValidatorSet,
    consensus::{Ballot, Step, verify_certificate},
    state::{Event, State, SupplyViolation},
    transaction::Claim,
};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey, hash::Domain, inference::SessionId};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

/// Blocks that a provable equivocation may go without its slash (I15).
pub const SLASHED_WITHIN: u64 = 20;

macro_rules! invariants {
    ($($name:ident $number:literal $claim:literal,)*) => {
        /// A claim that always holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant {
            $(#[doc = $claim] $name,)*
        }

        impl Invariant {
            /// All of them, in order of their numbers.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$name),*];

            /// Its number, for good.
            pub fn number(self) -> u8 {
                match self { $(Invariant::$name => $number,)* }
            }

            /// The claim.
            pub fn claim(self) -> &'static str {
                match self { $(Invariant::$name => $claim,)* }
            }
        }
    };
}

invariants! {
    NoFork 1 "no two nodes have different blocks at one height",
    NoDoubleSpend 2 "a wallet's nonces run 0, 1, 2, and no transaction is in two places",
    SupplyLaw 3 "minted = free + pending + staked + unbonding + escrow + burned",
    NoDoubleSign 4 "no honest validator signs two rival ballots, and its journal holds what left the node",
    AcknowledgedSurvives 5 "a block that a node has shown as final is still there after it fails",
    Liveness 6 "when the faults are over, all nodes go on",
    SameState 7 "the same blocks lead to the same state root on every node",
    Certified 8 "every block has precommits of more than two thirds of the power of its height's validators",
    Recovery 9 "a node ends only by a fault, and starts again after it",
    Lock 10 "no honest validator prevotes against its lock",
    Memory 11 "a restarted validator goes on from the round that it had signed in",
    Minted 12 "coins are made by rounds that close, epochs that end and claims that are paid, and no more than pot, bonus, the cap on uptime and half of what a claim burns",
    Confirmed 13 "a transfer is confirmed by enough different nodes that hold a seat",
    FalselyAccused 14 "nobody honest is accused of equivocation, and no message of the honest is rejected",
    Slashed 15 "every provable equivocation is slashed within 20 blocks",
    LifeCycle 16 "a transfer is PENDING, then CONFIRMED and FINAL, or ends REFUNDED or REVERSED, and never changes again",
    RotatedKey 17 "a key that a recovery has replaced signs no transaction and no consent",
    Reversed 18 "a transfer is reversed by reports of enough different nodes, none of them its sender's or recipient's",
    Judged 19 "a contribution or a stage's statement is found forged by more than two thirds of the power, and only if it is",
    Drawn 20 "a block reveals what its proposer had committed before, link by link, and the seed follows from that",
    Receipts 21 "a node is paid for a unit that a requester signed for once, and no more than it signed for; and nobody draws what another node was promised",
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I{} ({})", self.number(), self.claim())
    }
}

/// A claim that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken: {invariant}: {detail}")]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl Invariant {
    /// The claim does not hold, as `detail` shows.
    pub fn broken(self, detail: impl Into<String>) -> Violation {
        Violation { invariant: self, detail: detail.into() }
    }

    /// `Ok` if it holds.
    pub fn check(self, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
        if holds { Ok(()) } else { Err(self.broken(detail())) }
    }
}

/// Checks in builds with debug assertions.
///
/// # Panics
/// When the claim does not hold.
pub(crate) fn debug_check(claim: impl FnOnce() -> Result<(), Violation>) {
    if cfg!(debug_assertions)
        && let Err(violation) = claim()
    {
        panic!("{violation}");
    }
}

/// I1, of two blocks at one height.
pub fn one_block(height: u64, one: &Hash, other: &Hash) -> Result<(), Violation> {
    Invariant::NoFork.check(one == other, || format!("{one:?} and {other:?} at height {height}"))
}

/// I3, by all entries.
pub fn supply_law(state: &State) -> Result<(), Violation> {
    supply(state, state.check_supply())
}

/// I3, by the sums that are kept while entries change: at every block, whatever the state's size.
pub fn kept_supply_law(state: &State) -> Result<(), Violation> {
    supply(state, state.check_kept_supply())
}

fn supply(state: &State, checked: Result<(), SupplyViolation>) -> Result<(), Violation> {
    checked.map_err(|e| Invariant::SupplyLaw.broken(format!("at height {}: {e}", state.height())))
}

/// I7, of the roots that two nodes computed.
pub fn same_state(height: u64, one: &Hash, other: &Hash) -> Result<(), Violation> {
    Invariant::SameState.check(one == other, || format!("roots {one:?} and {other:?} after height {height}"))
}

/// I8; `validators` is the set that the state before the block names.
pub fn certified(
    network: &Hash,
    validators: &ValidatorSet,
    block: &Block,
    certificate: &Certificate,
) -> Result<(), Violation> {
    let height = block.header.height;
    let names = (certificate.height, certificate.block) == (height, block.id());
    Invariant::Certified.check(names, || format!("the certificate of block {height} names another"))?;
    verify_certificate(network, validators, certificate)
        .map_err(|e| Invariant::Certified.broken(format!("block {height}: {e}")))
}

/// I12 and I13, of what a block did to the state before it.
pub fn coins_and_confirmations(before: &State, after: &State, events: &[Event]) -> Result<(), Violation> {
    // Voted changes come into force as a block begins.
    let (old, round) = (&before.params().round, &after.params().round);
    let uptime = if after.epoch() > before.epoch() { old.uptime_cap.max(round.uptime_cap).0 } else { 0 };
    let settled = events.iter().filter_map(|event| match event {
        Event::RoundSettled { round, .. } => Some(before.promised(*round)),
        _ => None,
    });
    let topped_up = events.iter().map(|event| match event {
        Event::ReceiptPaid { burned, .. } => burned.0 / 2,
        _ => 0,
    });
    let topped_up = topped_up.map(u128::from).sum::<u128>() + u128::from(after.params().inference.subsidy_cap.0);
    let most = settled.map(|promised| u128::from(promised.0)).sum::<u128>() + u128::from(uptime) + topped_up;
    let minted =
        u128::from(after.supply().minted.0) - u128::from(before.supply().minted.0.min(after.supply().minted.0));
    Invariant::Minted.check(minted <= most && after.supply().minted >= before.supply().minted, || {
        format!("{} minted after {} in block {}", after.supply().minted, before.supply().minted, after.height())
    })?;
    for event in events {
        let Event::TransferConfirmed { id, from, to, .. } = event else { continue };
        let Some(transfer) = after.transfer(id) else { continue };
        let distinct: BTreeSet<&NodeId> = transfer.confirmers.iter().collect();
        let stranger = |node: &&&NodeId| after.node(node).is_none_or(|node| [from, to].contains(&&node.wallet));
        let counted = distinct.len() - distinct.iter().filter(stranger).count();
        let needed = after.params().ledger.confirmations as usize;
        Invariant::Confirmed
            .check(counted >= needed, || format!("transfer {id:?} by {counted} nodes where {needed} are needed"))?;
    }
    Ok(())
}

/// I2 and I17, over a chain of blocks from the first on.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    nonces: BTreeMap<Address, u64>,
    seen: BTreeMap<Hash, u64>,
    /// The present keys of accounts that were recovered.
    keys: BTreeMap<Address, PublicKey>,
    /// The accounts of keys that a recovery named.
    accounts: BTreeMap<PublicKey, Address>,
}

impl Spending {
    /// Takes in the next block.
    pub fn add(&mut self, block: &Block) -> Result<(), Violation> {
        let height = block.header.height;
        for transaction in &block.transactions {
            let (id, unsigned) = (transaction.id(), &transaction.unsigned);
            if let Some(earlier) = self.seen.insert(id, height) {
                return Err(Invariant::NoDoubleSpend.broken(format!("{id:?} is in blocks {earlier} and {height}")));
            }
            if let Body::Recover { account, key, .. } = unsigned.body {
                self.keys.insert(account, key);
                self.accounts.insert(key, account);
            }
            if let Body::RegisterNode { consent, .. } | Body::BindNode { consent, .. } = &unsigned.body {
                self.signs(&consent.key, height)?;
            }
            if !unsigned.body.is_wallets() {
                continue;
            }
            let account = self.signs(&unsigned.signer, height)?;
            let next = self.nonces.entry(account).or_default();
            Invariant::NoDoubleSpend.check(unsigned.nonce == *next, || {
                format!("nonce {} of {account} follows {} in block {height}", unsigned.nonce, *next)
            })?;
            *next += 1;
        }
        Ok(())
    }

    /// The account that a key signs for in the block at `height`.
    fn signs(&self, key: &PublicKey, height: u64) -> Result<Address, Violation> {
        let account = self.accounts.get(key).copied().unwrap_or_else(|| Address::from(key));
        let present = self.keys.get(&account);
        Invariant::RotatedKey.check(present.is_none_or(|present| present == key), || {
            format!("{} signs for {account} in block {height}, whose key is another by now", key.short())
        })?;
        Ok(account)
    }

    /// Where a transaction is.
    pub fn height_of(&self, id: &Hash) -> Option<u64> {
        self.seen.get(id).copied()
    }
}

/// I16 and I18, over the events of a chain from the first block on.
#[derive(Clone, Debug, Default)]
pub struct Lives(BTreeMap<Hash, Life>);

#[derive(Clone, Debug)]
struct Life {
    stage: Stage,
    parties: [Address; 2],
    reports: BTreeSet<NodeId>,
    seats: u32,
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Confirmed,
    Refunded,
    Reversed,
    Final,
}

impl Lives {
    /// Takes in what happened in the next block, where `percent` of the seats reverse a transfer.
    pub fn add(&mut self, events: &[Event], percent: u32) -> Result<(), Violation> {
        use Stage::{Confirmed, Final, Pending, Refunded, Reversed};
        for event in events {
            match event {
                Event::TransferPending { id, from, to, .. } => {
                    let life = Life { stage: Pending, parties: [*from, *to], reports: BTreeSet::new(), seats: 0 };
                    let earlier = self.0.insert(*id, life);
                    Invariant::LifeCycle.check(earlier.is_none(), || format!("{id:?} begins a second time"))?;
                }
                Event::TransferConfirmed { id, .. } => self.goes(id, &[Pending], Confirmed)?,
                Event::TransferRefunded { id, .. } => self.goes(id, &[Pending], Refunded)?,
                Event::TransferFinal { id, .. } => self.goes(id, &[Confirmed], Final)?,
                Event::TransferReversed { id, .. } => {
                    self.goes(id, &[Pending, Confirmed], Reversed)?;
                    let (reports, seats) =
                        self.0.get(id).map_or((0, 0), |life| (life.reports.len() as u64, life.seats));
                    Invariant::Reversed.check(100 * reports >= u64::from(percent) * u64::from(seats), || {
                        format!("{id:?} is reversed by {reports} of {seats} seats")
                    })?;
                }
                Event::TransferReported { id, node, wallet, seats, .. } => {
                    let life = self.alive(id)?;
                    life.seats = *seats;
                    let stranger = !life.parties.contains(wallet);
                    Invariant::Reversed.check(life.reports.insert(*node) && stranger, || {
                        format!("{id:?} is reported by {} again, or by a party", node.short())
                    })?;
                }
                Event::ReportWithdrawn { id, node, .. } => drop(self.alive(id)?.reports.remove(node)),
                _ => {}
            }
        }
        Ok(())
    }

    fn alive(&mut self, id: &Hash) -> Result<&mut Life, Violation> {
        let life = self.0.get_mut(id).filter(|life| matches!(life.stage, Stage::Pending | Stage::Confirmed));
        life.ok_or_else(|| Invariant::LifeCycle.broken(format!("{id:?} has ended, and is reported")))
    }

    fn goes(&mut self, id: &Hash, from: &[Stage], to: Stage) -> Result<(), Violation> {
        let Some(life) = self.0.get_mut(id) else {
            return Err(Invariant::LifeCycle.broken(format!("{id:?} is {to:?} and never began")));
        };
        let before = std::mem::replace(&mut life.stage, to);
        Invariant::LifeCycle.check(from.contains(&before), || format!("{id:?} goes from {before:?} to {to:?}"))
    }
}

/// I19, over a chain of blocks from the first on: by whom each challenge and each accusation was upheld.
#[derive(Clone, Debug, Default)]
pub struct Trials(BTreeMap<Case, VecDeque<Trial>>);

/// What is called forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// The contribution of a node to a round.
    Work(u64, NodeId),
    /// A stage's statement, by its charge's id.
    Stage(Hash),
}

#[derive(Clone, Debug)]
struct Trial {
    power: ValidatorSet,
    claimed: Hash,
    found: BTreeMap<Hash, BTreeSet<NodeId>>,
}

impl Trials {
    /// Takes in the next block, after `before`, and what happened in it.
    pub fn add(&mut self, before: &State, after: &State, block: &Block, events: &[Event]) -> Result<(), Violation> {
        let bodies = || block.transactions.iter().map(|transaction| &transaction.unsigned.body);
        for event in events {
            let (case, power, claimed) = match event {
                Event::Challenged { round, node, .. } => {
                    let commit = before.past_round(*round).and_then(|round| round.contributions.get(node));
                    let asked = Body::Challenge { round: *round, node: *node };
                    // Two replayers accuse at the end of a block, when the next validators are known.
                    let power =
                        if bodies().any(|body| *body == asked) { before.validators() } else { after.validators() };
                    (Case::Work(*round, *node), power, commit.map(|commit| commit.contribution.result()))
                }
                Event::Accused { charge: id, .. } => {
                    let shown = bodies().find_map(|body| match body {
                        Body::Accuse(charge) if charge.id() == *id => Some(charge.claimed()),
                        _ => None,
                    });
                    (Case::Stage(*id), before.validators(), shown)
                }
                _ => continue,
            };
            let claimed = claimed.ok_or_else(|| Invariant::Judged.broken("what is not there is challenged"))?;
            let trial = Trial { power: power.clone(), claimed, found: BTreeMap::new() };
            self.0.entry(case).or_default().push_back(trial);
        }
        for transaction in &block.transactions {
            let (case, found) = match transaction.unsigned.body {
                Body::Judge { round, node, found } => (Case::Work(round, node), found),
                Body::JudgeStage { charge, found, .. } => (Case::Stage(charge), found),
                _ => continue,
            };
            let trial = self.0.get_mut(&case).and_then(VecDeque::back_mut);
            let trial = trial.ok_or_else(|| Invariant::Judged.broken("nothing is challenged, and judged"))?;
            trial.found.entry(found).or_default().insert(transaction.unsigned.signer);
        }
        for event in events {
            let (case, upheld) = match event {
                Event::ChallengeEnded { round, node, forged } => (Case::Work(*round, *node), *forged),
                Event::AccusationEnded { charge, guilty, .. } => (Case::Stage(*charge), *guilty),
                _ => continue,
            };
            let trial = self.0.get_mut(&case).and_then(VecDeque::pop_front);
            let trial = trial.ok_or_else(|| Invariant::Judged.broken("nothing is challenged, and decided"))?;
            let others = trial.found.iter().filter(|(found, _)| **found != trial.claimed);
            let powers = others.map(|(_, judges)| judges.iter().map(|judge| trial.power.power(judge)).sum::<u64>());
            let power = powers.max().unwrap_or(0);
            Invariant::Judged.check(trial.power.is_quorum(power) == upheld, || {
                format!("upheld is {upheld} by {power} of {}", trial.power.total_power())
            })?;
        }
        Ok(())
    }
}

/// I20, over a chain of blocks from the first on: the chains of lots, as the transactions alone tell of them.
#[derive(Clone, Debug, Default)]
pub struct Draws(BTreeMap<NodeId, VecDeque<Promise>>);

/// Links that a node has yet to reveal, up to a tip; they count from an epoch on.
#[derive(Clone, Copy, Debug)]
struct Promise {
    tip: Hash,
    left: u32,
    from: u64,
}

impl Draws {
    fn due(&self, node: &NodeId, epoch: u64) -> Option<Promise> {
        self.0.get(node)?.front().filter(|promise| promise.from <= epoch).copied()
    }

    /// Takes in the next block, between the states before and after it.
    pub fn add(&mut self, before: &State, after: &State, block: &Block) -> Result<(), Violation> {
        let Header { height, proposer, reveal, parent, .. } = block.header;
        let seed = before.seed().0;
        let next = |parts: &[&[u8]]| Hash::of_parts(Domain::Lot, &[&[&seed[..]], parts].concat());
        let expected = match (self.due(&proposer, before.epoch()), reveal) {
            (Some(promise), Some(lot)) if Hash::of(Domain::LotLink, &lot.0) == promise.tip => {
                let rest = Promise { tip: lot, left: promise.left - 1, ..promise };
                let promises = self.0.entry(proposer).or_default();
                promises.pop_front();
                if rest.left > 0 {
                    promises.push_front(rest);
                }
                next(&[&lot.0])
            }
            (None, None) => {
                let mut validators = before.validators().0.iter();
                match validators.any(|validator| self.due(&validator.node, before.epoch()).is_some()) {
                    true => next(&[]),
                    false => next(&[&parent.0]),
                }
            }
            (due, got) => {
                let detail = format!("block {height} of {} reveals {got:?} where {due:?} is due", proposer.short());
                return Err(Invariant::Drawn.broken(detail));
            }
        };
        Invariant::Drawn
            .check(after.seed() == expected, || format!("the seed after block {height} is not what it reveals"))?;
        let ledger = &after.params().ledger;
        for transaction in &block.transactions {
            let node = transaction.unsigned.signer;
            match transaction.unsigned.body {
                Body::CommitLots { tip, .. } => {
                    let from = after.epoch() + ledger.seat_delay_epochs;
                    self.0.entry(node).or_default().push_back(Promise { tip, left: ledger.lot_chain, from });
                }
                Body::RegisterNode { .. } => drop(self.0.remove(&node)),
                _ => {}
            }
        }
        self.0.retain(|node, _| after.node(node).is_some());
        let waiting = self.0.values().map(VecDeque::len).max().unwrap_or(0);
        Invariant::Drawn.check(waiting <= 2, || format!("a node has {waiting} chains after block {height}"))
    }
}

/// I21, over a chain of blocks from the first on, as the transactions tell of it. Nodes are trusted with so much of each other's
/// promises as [`State::trusts`] says, so what is left of a deposit must always reach for what others may still draw.
#[derive(Clone, Debug, Default)]
pub struct Receipts {
    /// By payer, session, expiry and node: units claimed.
    units: BTreeMap<(Address, SessionId, u64, NodeId), u64>,
    /// By payer, in the epoch: what there was to draw, and what each node drew.
    drawn: BTreeMap<Address, (Amount, BTreeMap<NodeId, Amount>)>,
    epoch: u64,
}

impl Receipts {
    /// Takes in the next block, between the states before and after it.
    pub fn add(&mut self, before: &State, after: &State, block: &Block, events: &[Event]) -> Result<(), Violation> {
        let height = block.header.height;
        let mut paid = events.iter().filter_map(|event| match event {
            Event::ReceiptPaid { payer, amount, .. } => Some((*payer, *amount)),
            _ => None,
        });
        if after.epoch() != self.epoch {
            (self.epoch, self.drawn) = (after.epoch(), BTreeMap::new());
        }
        let there = |wallet: &Address| before.deposit(wallet).amount;
        for event in events {
            let Event::Deposited { wallet, amount } = event else { continue };
            let (basis, _) = self.drawn.entry(*wallet).or_insert_with(|| (there(wallet), BTreeMap::new()));
            basis.0 = basis.0.saturating_add(amount.0);
        }
        for transaction in &block.transactions {
            let Body::InferenceReceipt { claims } = &transaction.unsigned.body else { continue };
            for Claim { units, receipt } in claims {
                let (receipt, node) = (&receipt.receipt, transaction.unsigned.signer);
                let Some((payer, amount)) = paid.next() else {
                    return Err(Invariant::Receipts.broken(format!("a claim in block {height} is not paid")));
                };
                let known = self.units.entry((payer, receipt.session, receipt.expires_age, node)).or_default();
                let fresh = units.saturating_sub(*known);
                let worth = receipt.worth(fresh, receipt.price, &after.params().inference).unwrap_or_default();
                let good = fresh > 0 && *units <= receipt.units && amount <= worth && receipt.node == node;
                Invariant::Receipts.check(good, || {
                    format!(
                        "{amount} for {fresh} units of {} in block {height}, which are worth {worth}",
                        receipt.units
                    )
                })?;
                *known = *units;
                let (basis, of) = self.drawn.entry(payer).or_insert_with(|| (there(&payer), BTreeMap::new()));
                let all = of.entry(node).or_default();
                all.0 = all.0.saturating_add(amount.0);
                // Half of it is for seats, the other half for all: nobody has more than its part of both.
                let seats = after.seats(self.epoch).map_or(0, |seats| seats.0.len());
                let least = seats.min(after.node_count() as usize).max(1) as u64;
                Invariant::Receipts.check(u128::from(all.0) * u128::from(least) <= u128::from(basis.0), || {
                    format!("{} drew {all} of {basis} in block {height}, with {seats} seats", node.short())
                })?;
            }
        }
        self.units.retain(|(_, _, expires_age, _), _| *expires_age > after.age_ms());
        Invariant::Receipts.check(paid.next().is_none(), || format!("a payment in block {height} is nobody's claim"))
    }
}

/// I4 and I10, over all that the validators of a network ever signed.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    /// Of honest validators, at heights that are not over.
    ballots: BTreeMap<NodeId, BTreeSet<Ballot>>,
    /// Who prevoted what, of all validators.
    prevotes: BTreeMap<(u64, u32, Hash), BTreeSet<NodeId>>,
}

impl Signatures {
    /// Takes in a prevote of anybody, honest or not.
    pub fn saw_prevote(&mut self, node: NodeId, ballot: &Ballot) {
        if let (Step::Prevote, Some(block)) = (ballot.step, ballot.block) {
            self.prevotes.entry((ballot.height, ballot.round, block)).or_default().insert(node);
        }
    }

    /// Takes in a ballot that an honest validator sends, where `validators` decide; `remembers` is false for one whose
    /// write-ahead log was taken away, which may have forgotten its lock.
    pub fn add(
        &mut self,
        node: NodeId,
        ballot: &Ballot,
        validators: &ValidatorSet,
        remembers: bool,
    ) -> Result<(), Violation> {
        self.saw_prevote(node, ballot);
        let signed = self.ballots.entry(node).or_default();
        if !signed.insert(*ballot) {
            return Ok(());
        }
        if let Some(rival) = signed.iter().find(|signed| signed.is_rival(ballot)) {
            return Err(Invariant::NoDoubleSign.broken(format!("{} signed {rival:?} and {ballot:?}", node.short())));
        }
        let Some(block) = ballot.block.filter(|_| ballot.step == Step::Prevote && remembers) else { return Ok(()) };
        let locked = |other: &&Ballot| {
            other.step == Step::Precommit && other.height == ballot.height && other.round < ballot.round
        };
        let Some(lock) = signed.iter().filter(locked).filter(|other| other.block.is_some()).max_by_key(|b| b.round)
        else {
            return Ok(());
        };
        let polka = |round: u32| {
            let voters = self.prevotes.get(&(ballot.height, round, block));
            voters.is_some_and(|v| validators.is_quorum(v.iter().map(|node| validators.power(node)).sum()))
        };
        Invariant::Lock.check(lock.block == Some(block) || (lock.round..ballot.round).any(polka), || {
            format!("{} is locked by {lock:?} and signs {ballot:?}", node.short())
        })
    }

    /// What an honest validator signed above `height`.
    pub fn above(&self, node: &NodeId, height: u64) -> impl Iterator<Item = &Ballot> {
        self.ballots.get(node).into_iter().flatten().filter(move |ballot| ballot.height > height)
    }

    /// Forgets what is over everywhere.
    pub fn finish(&mut self, height: u64) {
        self.ballots.values_mut().for_each(|ballots| ballots.retain(|ballot| ballot.height > height));
        self.prevotes.retain(|(at, ..), _| *at > height);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_order_and_each_once() {
        let numbers: Vec<u8> = Invariant::ALL.iter().map(|invariant| invariant.number()).collect();
        assert_eq!(numbers, (1..=Invariant::ALL.len() as u8).collect::<Vec<u8>>());
    }
}

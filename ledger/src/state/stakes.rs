//! Stake, and the validators that it makes.
//!
//! - A wallet's stake stands behind a registered node that works for it; on the way back it unbonds for `unbonding_ms`.
//!   Both ways cost the fee. At most `max_unbonding` ways back of a wallet are open.
//! - Candidates are the nodes with stake that have not lapsed and are not jailed, by (stake descending, key). Validators
//!   are the first `k` of them for the largest `k` whose `k`-th stake meets `tier(k)`: a tier never empties the set, and
//!   zero stake never enters. Power is the stake in whole ALC, at least 1.
//! - Founders hold power, 1 each, until `k >= handover_validators` and those stakes reach `handover_stake` together;
//!   from then on they are latched out for good. After that an unstake that would leave fewer than
//!   `handover_validators` is refused. Should others fall silent, go to jail or be seized instead, the members stay until
//!   there are enough again, each with the power of the stake that it still has: whom nothing is left has 1. Before the
//!   handover jailed founders wait outside, as long as enough others are left.
//! - After the handover the powers change, all changes together, by less than a `power_change_divisor`-th of the whole in
//!   an epoch: losses first, then gains, each in order of the nodes (gains first where losses
//!   would leave too few validators); what is left waits for the next epoch.

use super::{
    Event, Executor, FIRST_NODE, Key, LAST_NODE, Rejection, State, Validators,
    entry::Unbonding,
    money::{Pool, add},
};
use crate::block::{MAX_VALIDATORS, Validator, ValidatorSet};
use ailo_protocol::{Address, Amount, NodeId, PublicKey, amount::UNITS_PER_ALC};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

impl State {
    /// Stake asked of each of `k` validators.
    fn tier(&self, k: usize) -> Amount {
        let tiers = &self.params().ledger.stake_tiers;
        let tier = tiers.iter().find(|tier| k <= tier.up_to as usize).or(tiers.last());
        tier.map_or(Amount::ZERO, |tier| tier.stake)
    }

    /// Stake that makes one more node a validator, or keeps a node one: the tier of the set with it, and never less than
    /// that of the set that founders hand over to.
    pub fn stake_to_validate(&self) -> Amount {
        let k = self.staked_validators().0.0.len().saturating_add(1);
        self.tier(k.max(self.params().ledger.handover_validators as usize)).max(Amount(1))
    }

    /// The founders that validate before the handover: those not jailed, unless fewer than `min` would be left.
    fn founding_validators(&self, min: usize) -> ValidatorSet {
        let all = &self.constants.founding_validators;
        let jailed = |v: &&Validator| self.node(&v.node).is_some_and(|node| node.jailed_until.is_some());
        let free: Vec<Validator> = all.0.iter().filter(|v| !jailed(v)).copied().collect();
        if free.len() >= min { ValidatorSet(free) } else { all.clone() }
    }

    /// What unbonds of a wallet, the earliest first: key and amount.
    pub(super) fn unbonding(&self, wallet: &Address) -> Vec<(Key, Amount)> {
        let range = (*wallet, 0, FIRST_NODE)..=(*wallet, u64::MAX, LAST_NODE);
        let keys = self.index.unbonding_of.range(range).map(|(wallet, due, node)| Key::Unbonding(*due, *wallet, *node));
        keys.filter_map(|key| self.get(&key).map(|Unbonding(amount)| (key, *amount))).collect()
    }

    /// What of it unbonds from behind `node`.
    pub(super) fn unbonding_from(&self, wallet: &Address, node: NodeId) -> impl Iterator<Item = (Key, Amount)> {
        let from = move |key: &Key| matches!(key, Key::Unbonding(_, _, from) if *from == node);
        self.unbonding(wallet).into_iter().filter(move |(key, _)| from(key))
    }

    /// Whether coins of `wallet` unbond from behind `node`.
    pub(super) fn unbonds_from(&self, wallet: &Address, node: &NodeId) -> bool {
        self.unbonding_from(wallet, *node).next().is_some()
    }

    /// Who may become a validator by its stake, the largest first.
    fn candidates(&self) -> impl Iterator<Item = (NodeId, Amount)> {
        let staked = self.index.staked.iter().map(|(Reverse(stake), node)| (*node, *stake));
        let free = |node: &NodeId| self.node(node).is_some_and(|node| !node.lapsed && node.jailed_until.is_none());
        staked.filter(move |(node, _)| free(node)).take(MAX_VALIDATORS)
    }

    /// Whether the stakes make at least `min` validators; looks no further than it must, since every unstake asks.
    fn makes_validators(&self, min: usize) -> bool {
        let mut stakes = self.candidates().enumerate().skip(min.saturating_sub(1));
        stakes.any(|(before, (_, stake))| stake >= self.tier(before + 1))
    }

    /// The validators that the stakes make, and their stake in all.
    fn staked_validators(&self) -> (ValidatorSet, u128) {
        let candidates: Vec<(NodeId, Amount)> = self.candidates().collect();
        let meets = |k: &usize| candidates[*k - 1].1 >= self.tier(*k);
        let k = (1..=candidates.len()).rev().find(meets).unwrap_or(0);
        let total = candidates[..k].iter().map(|(_, stake)| u128::from(stake.0)).sum();
        (by_stake(candidates[..k].iter().copied()), total)
    }

    /// The present validators with the power of the stake that they have now.
    fn remaining_validators(&self) -> ValidatorSet {
        let members = self.validators().0.iter().map(|validator| validator.node);
        by_stake(members.map(|id| (id, self.node(&id).map_or(Amount::ZERO, |node| node.stake))))
    }
}

/// Validators with the power of their stake: whole ALC, at least 1; the most powerful first.
fn by_stake(members: impl Iterator<Item = (NodeId, Amount)>) -> ValidatorSet {
    let power = |stake: Amount| (stake.0 / UNITS_PER_ALC).max(1);
    let mut set: Vec<Validator> = members.map(|(node, stake)| Validator { node, power: power(stake) }).collect();
    set.sort_unstable_by_key(|validator| (Reverse(validator.power), validator.node));
    ValidatorSet(set)
}

impl Executor {
    pub(super) fn stake(&mut self, wallet: Address, nonce: u64, id: NodeId, amount: Amount) -> Result<(), Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        if node.wallet != wallet {
            return Err(Rejection::NotYourNode);
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, amount, fee)?;
        self.shift(Pool::Free, Pool::Staked, amount);
        self.account(wallet, |account| add(&mut account.staked, amount));
        add(&mut node.stake, amount);
        self.set(Key::Node(id), node);
        self.events.push(Event::Staked { wallet, node: id, amount });
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(())
    }

    pub(super) fn unstake(&mut self, wallet: Address, nonce: u64, id: NodeId, amount: Amount) -> Result<(), Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        let node = self.state.node(&id).ok_or(Rejection::UnknownNode)?;
        if node.wallet != wallet {
            return Err(Rejection::NotYourNode);
        }
        if node.stake < amount {
            return Err(Rejection::InsufficientStake { staked: node.stake, asked: amount });
        }
        let ledger = &self.state.params().ledger;
        let (fee, min, max) = (ledger.fee, ledger.handover_validators, ledger.max_unbonding);
        let key = Key::Unbonding(self.state.age_ms().saturating_add(ledger.unbonding_ms), wallet, id);
        let joins = self.state.entries.contains_key(&key);
        if !joins && self.state.unbonding(&wallet).len() >= max as usize {
            return Err(Rejection::TooManyUnstakes { max });
        }
        let before = self.state.clone();
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        self.start_unbonding(wallet, id, amount);
        if self.state.founders_are_latched_out() && !self.state.makes_validators(min as usize) {
            let fewer = self.state.staked_validators().0.0.len() < before.staked_validators().0.0.len();
            if fewer || self.state.validators().power(&id) > 0 {
                return Err(Rejection::TooFewValidators { min });
            }
        }
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(())
    }

    /// Moves coins from behind a node to what unbonds.
    pub(super) fn start_unbonding(&mut self, wallet: Address, id: NodeId, amount: Amount) {
        let due_age = self.state.age_ms().saturating_add(self.state.params().ledger.unbonding_ms);
        let key = Key::Unbonding(due_age, wallet, id);
        let mut unbonding = self.state.get(&key).map_or(Amount::ZERO, |Unbonding(amount)| *amount);
        add(&mut unbonding, amount);
        self.account(wallet, |account| add(&mut account.unbonding, amount));
        self.set(key, Unbonding(unbonding));
        self.take_stake(id, amount, Pool::Unbonding);
        self.events.push(Event::Unstaked { wallet, node: id, amount, due_age });
    }

    /// Frees what has unbonded, in order of time, a bounded number a block.
    pub(super) fn sweep_unbonding(&mut self) {
        let last = (Address([0xff; 20]), PublicKey([0xff; 32]));
        let due = Key::Unbonding(0, Address([0; 20]), PublicKey([0; 32]))
            ..=Key::Unbonding(self.state.age_ms(), last.0, last.1);
        let bound = self.state.params().ledger.sweep_per_block as usize;
        let due: Vec<Key> = self.state.entries.range(due).take(bound).map(|(key, _)| *key).collect();
        for key in due {
            let (Key::Unbonding(_, wallet, node), Some(Unbonding(amount))) = (key, self.state.get(&key)) else {
                continue;
            };
            let amount = *amount;
            self.take_unbonding(key, amount, Pool::Free);
            self.events.push(Event::Unbonded { wallet, node, amount });
            self.credit(wallet, amount);
            if let Some(entry) = self.state.node(&node).cloned() {
                self.keep_or_forget(node, entry);
            }
        }
    }

    /// The validators of the next height.
    pub(super) fn choose_validators(&mut self) {
        let ledger = &self.state.params().ledger;
        let (min, handover_stake) = (ledger.handover_validators as usize, u128::from(ledger.handover_stake.0));
        let divisor = u64::from(ledger.power_change_divisor);
        let (staked, total) = self.state.staked_validators();
        let enough = staked.0.len() >= min;
        let before = self.state.get::<Validators>(&Key::Validators).cloned();
        let Some(mut validators) = before.clone() else { return };
        if validators.epoch != self.state.epoch() {
            (validators.epoch, validators.reference) = (self.state.epoch(), validators.set.clone());
        }
        match validators.latched {
            true => {
                let wanted = if enough { staked } else { self.state.remaining_validators() };
                validators.set = limited(&validators.reference, &wanted, divisor, min);
            }
            false if enough && total >= handover_stake => {
                (validators.set, validators.reference, validators.latched) = (staked.clone(), staked, true);
            }
            false => validators.set = self.state.founding_validators(min),
        }
        if validators.set != *self.state.validators() {
            let (set, latched) = (&validators.set, validators.latched);
            let (hash, count, total_power) = (set.hash(), set.0.len() as u32, set.total_power());
            self.events.push(Event::ValidatorsChanged { hash, count, total_power, latched });
        }
        if before.as_ref() != Some(&validators) {
            self.set(Key::Validators, validators);
        }
    }
}

/// The set nearest to `wanted` whose powers differ from those of `reference` by less than a `divisor`-th of their total,
/// all differences together. Losses come first, unless that would leave fewer than `min` validators.
fn limited(reference: &ValidatorSet, wanted: &ValidatorSet, divisor: u64, min: usize) -> ValidatorSet {
    let powers = |set: &ValidatorSet| set.0.iter().map(|v| (v.node, v.power)).collect::<BTreeMap<NodeId, u64>>();
    let (old, new) = (powers(reference), powers(wanted));
    let nodes: BTreeSet<NodeId> = old.keys().chain(new.keys()).copied().collect();
    let change = |order: [bool; 2]| {
        let mut left = reference.total_power().saturating_sub(1) / divisor;
        let mut result = old.clone();
        for (gains, node) in order.into_iter().flat_map(|gains| nodes.iter().map(move |node| (gains, node))) {
            let (from, to) = (old.get(node).copied().unwrap_or(0), new.get(node).copied().unwrap_or(0));
            if (to > from) == gains {
                let step = from.abs_diff(to).min(left);
                left -= step;
                result.insert(*node, if gains { from + step } else { from - step });
            }
        }
        result.retain(|_, power| *power > 0);
        result
    };
    let losses_first = change([false, true]);
    let result = if losses_first.len() < min { change([true, false]) } else { losses_first };
    let mut set: Vec<Validator> = result.into_iter().map(|(node, power)| Validator { node, power }).collect();
    set.sort_unstable_by_key(|validator| (Reverse(validator.power), validator.node));
    ValidatorSet(set)
}

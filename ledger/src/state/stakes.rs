//! Stake, and the validators that it makes.
//!
//! - A wallet's stake stands behind one registered node; on the way back it unbonds for `unbonding_ms`. Both ways cost
//!   the fee.
//! - Candidates are the nodes with stake that have not lapsed, by (stake descending, key). Validators are the first `k`
//!   of them for the largest `k` whose `k`-th stake meets `tier(k)`: a tier never empties the set, and zero stake never
//!   enters. Power is the stake in whole ALC, at least 1.
//! - Founders hold power, 1 each, until `k >= handover_validators` and those stakes reach `handover_stake` together;
//!   from then on they are latched out for good. After that an unstake that would leave fewer than
//!   `handover_validators` is refused, and should others fall silent instead, the set stays as it is until there are
//!   enough again.

use super::{
    Event, Executor, Key, Rejection, State, Validators,
    entry::{Stake, Unbonding},
    money::{Pool, add, take},
};
use crate::block::{MAX_VALIDATORS, Validator, ValidatorSet};
use ailo_protocol::{Address, Amount, NodeId, PublicKey, amount::UNITS_PER_ALC};
use std::cmp::Reverse;

impl State {
    /// The validators that the stakes make, and their stake in all.
    fn staked_validators(&self) -> (ValidatorSet, u128) {
        let candidates = self.index.staked.iter().map(|(Reverse(stake), node)| (*node, *stake));
        let candidates = candidates.filter(|(node, _)| self.node(node).is_some_and(|node| !node.lapsed));
        let candidates: Vec<(NodeId, Amount)> = candidates.take(MAX_VALIDATORS).collect();
        let tiers = &self.params().ledger.stake_tiers;
        let tier =
            |k: usize| tiers.iter().find(|tier| k <= tier.up_to as usize).or(tiers.last()).map(|tier| tier.stake);
        let meets = |k: &usize| tier(*k).is_some_and(|tier| candidates[*k - 1].1 >= tier);
        let k = (1..=candidates.len()).rev().find(meets).unwrap_or(0);
        let total = candidates[..k].iter().map(|(_, stake)| u128::from(stake.0)).sum();
        let power = |stake: Amount| (stake.0 / UNITS_PER_ALC).max(1);
        let mut set: Vec<Validator> =
            candidates[..k].iter().map(|(node, stake)| Validator { node: *node, power: power(*stake) }).collect();
        set.sort_unstable_by_key(|validator| (Reverse(validator.power), validator.node));
        (ValidatorSet(set), total)
    }
}

impl Executor {
    pub(super) fn stake(&mut self, wallet: Address, nonce: u64, id: NodeId, amount: Amount) -> Result<(), Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, amount, fee)?;
        self.shift(Pool::Free, Pool::Staked, amount);
        self.account(wallet, |account| add(&mut account.staked, amount));
        let mut stake = self.state.stake(&wallet, &id);
        add(&mut stake, amount);
        self.set(Key::Stake(wallet, id), Stake(stake));
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
        let mut stake = self.state.stake(&wallet, &id);
        if stake < amount {
            return Err(Rejection::InsufficientStake { staked: stake, asked: amount });
        }
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        let ledger = &self.state.params().ledger;
        let (fee, min) = (ledger.fee, ledger.handover_validators);
        let due_age = self.state.age_ms().saturating_add(ledger.unbonding_ms);
        let validators_before = self.state.staked_validators().0.0.len();
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        self.shift(Pool::Staked, Pool::Unbonding, amount);
        self.account(wallet, |account| {
            take(&mut account.staked, amount);
            add(&mut account.unbonding, amount);
        });
        take(&mut stake, amount);
        match stake == Amount::ZERO {
            true => self.remove(Key::Stake(wallet, id)),
            false => self.set(Key::Stake(wallet, id), Stake(stake)),
        }
        let key = Key::Unbonding(due_age, wallet, id);
        let mut unbonding = self.state.get(&key).map_or(Amount::ZERO, |Unbonding(amount)| *amount);
        add(&mut unbonding, amount);
        self.set(key, Unbonding(unbonding));
        take(&mut node.stake, amount);
        self.keep_or_forget(id, node);
        let validators = self.state.staked_validators().0.0.len();
        let its_doing = validators < validators_before || self.state.validators().power(&id) > 0;
        if self.state.founders_are_latched_out() && validators < min as usize && its_doing {
            return Err(Rejection::TooFewValidators { min });
        }
        self.events.push(Event::Unstaked { wallet, node: id, amount, due_age });
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(())
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
            self.remove(key);
            self.shift(Pool::Unbonding, Pool::Free, amount);
            self.account(wallet, |account| {
                take(&mut account.unbonding, amount);
                add(&mut account.free, amount);
            });
            self.events.push(Event::Unbonded { wallet, node, amount });
        }
    }

    /// The validators of the next height.
    pub(super) fn choose_validators(&mut self) {
        let ledger = &self.state.params().ledger;
        let (min, handover_stake) = (ledger.handover_validators as usize, u128::from(ledger.handover_stake.0));
        let (staked, total) = self.state.staked_validators();
        let enough = staked.0.len() >= min;
        let latched = self.state.founders_are_latched_out();
        let (set, latched) = match latched {
            true if enough => (staked, true),
            true => return,
            false if enough && total >= handover_stake => (staked, true),
            false => (self.state.constants.founding_validators.clone(), false),
        };
        if set != *self.state.validators() {
            let (hash, count, total_power) = (set.hash(), set.0.len() as u32, set.total_power());
            self.events.push(Event::ValidatorsChanged { hash, count, total_power, latched });
        }
        self.set(Key::Validators, Validators { set, latched });
    }
}

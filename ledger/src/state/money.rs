//! Moves coins. Every change of a balance goes through here, and moves as much between the totals of [`Supply`].
//!
//! A fee: `fee_burn_ppm` burn, `fee_proposer_ppm` go to the block's proposer, and the rest in `confirmations` equal
//! shares to the nodes that attested; shares without a taker, and what rounding leaves, burn.

use super::{Account, Event, Executor, Key, Rejection, RewardKind, Supply};
use crate::plants::{self, Plant};
use ailo_protocol::{Address, Amount, NodeId};

/// Where coins can be.
#[derive(Clone, Copy)]
pub(super) enum Pool {
    Free,
    Pending,
    Staked,
    Unbonding,
    Escrow,
    Burned,
}

impl Supply {
    fn pool(&mut self, pool: Pool) -> &mut Amount {
        match pool {
            Pool::Free => &mut self.free,
            Pool::Pending => &mut self.pending,
            Pool::Staked => &mut self.staked,
            Pool::Unbonding => &mut self.unbonding,
            Pool::Escrow => &mut self.escrow,
            Pool::Burned => &mut self.burned,
        }
    }
}

/// Adds to a holding.
pub(super) fn add(holding: &mut Amount, amount: Amount) {
    *holding = holding.checked_add(amount).expect("no holding exceeds what was minted, and that fits");
}

/// Takes from a holding that was checked to be large enough.
pub(super) fn take(holding: &mut Amount, amount: Amount) {
    *holding = holding.checked_sub(amount).expect("callers take what they checked or put there before");
}

impl Executor {
    /// Moves `amount` between two totals.
    pub(super) fn shift(&mut self, from: Pool, to: Pool, amount: Amount) {
        let mut supply = self.state.supply();
        take(supply.pool(from), amount);
        add(supply.pool(to), amount);
        self.set(Key::Supply, supply);
    }

    /// Changes an account; one that is all zero again is forgotten.
    pub(super) fn account(&mut self, wallet: Address, change: impl FnOnce(&mut Account)) {
        let mut account = self.state.account(&wallet);
        change(&mut account);
        match account == Account::default() {
            true => self.remove(Key::Account(wallet)),
            false => self.set(Key::Account(wallet), account),
        }
    }

    /// Uses up a wallet's nonce and takes `amount` and `fee` from its free coins; where they go is the caller's to say.
    pub(super) fn charge(&mut self, wallet: Address, nonce: u64, amount: Amount, fee: Amount) -> Result<(), Rejection> {
        let account = self.state.account(&wallet);
        if nonce != account.nonce && !plants::on(Plant::DoubleSpend) {
            return Err(Rejection::BadNonce { expected: account.nonce, got: nonce });
        }
        let needed = amount.checked_add(fee).unwrap_or(Amount(u64::MAX));
        if account.free < needed || amount.checked_add(fee).is_none() {
            return Err(Rejection::Insufficient { free: account.free, needed });
        }
        self.account(wallet, |account| {
            account.nonce += 1;
            take(&mut account.free, needed);
        });
        Ok(())
    }

    /// Makes new coins for the wallet of `node`, if the node is still known; returns how many.
    pub(super) fn mint(&mut self, node: NodeId, amount: Amount, kind: RewardKind, round: u64) -> Amount {
        let Some(wallet) = self.state.node(&node).map(|node| node.wallet) else { return Amount::ZERO };
        let mut supply = self.state.supply();
        let Some(minted) = supply.minted.checked_add(amount) else { return Amount::ZERO };
        if amount == Amount::ZERO {
            return amount;
        }
        supply.minted = minted;
        add(&mut supply.free, amount);
        self.set(Key::Supply, supply);
        self.account(wallet, |account| add(&mut account.free, amount));
        self.events.push(Event::Reward { node, wallet, amount, kind, round: Some(round) });
        amount
    }

    /// Splits a fee that lies in `pool`.
    pub(super) fn settle_fee(&mut self, pool: Pool, fee: Amount, proposer: NodeId, confirmers: &[NodeId]) {
        let ledger = &self.state.params().ledger;
        let to_proposer = fee.share(ledger.fee_proposer_ppm).unwrap_or_default();
        let to_burn = fee.share(ledger.fee_burn_ppm).unwrap_or_default();
        let to_confirmers = Amount(fee.0 - to_proposer.0 - to_burn.0);
        let each = to_confirmers.proportion(1, u64::from(ledger.confirmations)).unwrap_or_default();
        let mut left = fee;
        let takers = std::iter::once((proposer, to_proposer, RewardKind::Proposer))
            .chain(confirmers.iter().map(|node| (*node, each, RewardKind::Confirmer)));
        for (node, amount, kind) in takers {
            let Some(wallet) = self.state.node(&node).map(|node| node.wallet) else { continue };
            if amount == Amount::ZERO {
                continue;
            }
            take(&mut left, amount);
            self.shift(pool, Pool::Free, amount);
            self.account(wallet, |account| add(&mut account.free, amount));
            self.events.push(Event::Reward { node, wallet, amount, kind, round: None });
        }
        if left > Amount::ZERO {
            let lost = plants::on(Plant::LostFee);
            self.shift(pool, Pool::Burned, if lost { Amount(left.0 - 1) } else { left });
            self.events.push(Event::Burned { amount: left });
        }
    }
}

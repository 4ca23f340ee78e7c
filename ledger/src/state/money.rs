//! Moves coins. Whatever comes in pays the wallet's debts first, the oldest first. Every change of a balance goes through here, and moves as much between the totals of [`Supply`].
//!
//! A fee: `fee_burn_ppm` burn, `fee_proposer_ppm` go to the block's proposer, and the rest in `confirmations` equal
//! shares to the nodes that attested; shares without a taker, and what rounding leaves, burn.

use super::{Account, Event, Executor, Iou, Key, Rejection, RewardKind, Supply, entry::Record};
use crate::Transaction;
use crate::plants::{self, Plant};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey};
use std::collections::BTreeMap;

/// The totals while a block is executed: they change with every coin that moves, and are set at its end.
#[derive(Clone, Copy)]
pub(super) struct Totals {
    pub supply: Supply,
    /// Burned in this block.
    pub burned: Amount,
}

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

/// What a wallet can pay with, while its transactions are tried one after the other.
pub(crate) struct Purse {
    wallet: Address,
    nonce: u64,
    free: Amount,
}

impl Purse {
    /// Uses up a nonce and pays; gives the sum.
    fn pay(&mut self, nonce: u64, amount: Amount, fee: Amount) -> Result<Amount, Rejection> {
        if nonce != self.nonce && !plants::on(Plant::DoubleSpend) {
            return Err(Rejection::BadNonce { expected: self.nonce, got: nonce });
        }
        let needed = amount.checked_add(fee).filter(|needed| *needed <= self.free);
        let Some(needed) = needed else {
            let needed = amount.checked_add(fee).unwrap_or(Amount(u64::MAX));
            return Err(Rejection::Insufficient { free: self.free, needed });
        };
        self.nonce += 1;
        take(&mut self.free, needed);
        Ok(needed)
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
        take(self.totals.supply.pool(from), amount);
        add(self.totals.supply.pool(to), amount);
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

    /// Gives a wallet free coins, which pay its debts first; and so on for those who get them. The caller has moved the
    /// total into [`Pool::Free`]. It ends: each step after the first uses up an IOU or the coins.
    pub(super) fn credit(&mut self, wallet: Address, amount: Amount) {
        let mut due = vec![(wallet, amount)];
        while let Some((wallet, mut left)) = due.pop() {
            while left > Amount::ZERO && self.state.account(&wallet).owes > Amount::ZERO {
                let first = Key::Iou(wallet, 0, Hash::ZERO)..=Key::Iou(wallet, u64::MAX, Hash([0xff; 32]));
                let Some((key, iou)) = self
                    .state
                    .entries
                    .range(first)
                    .next()
                    .and_then(|(key, entry)| Some((*key, Iou::of(entry)?.clone())))
                else {
                    break;
                };
                let Key::Iou(_, _, transfer) = key else { break };
                let paid = left.min(iou.amount);
                take(&mut left, paid);
                match paid == iou.amount {
                    true => self.remove(key),
                    false => self.set(key, Iou { amount: Amount(iou.amount.0 - paid.0), ..iou }),
                }
                self.account(wallet, |account| take(&mut account.owes, paid));
                let (debtor, creditor) = (wallet, iou.creditor);
                self.events.push(Event::DebtPaid { debtor, creditor, amount: paid, transfer });
                due.push((creditor, paid));
            }
            if left > Amount::ZERO {
                self.account(wallet, |account| add(&mut account.free, left));
            }
        }
    }

    /// Takes up to `amount` from a wallet against its will: free coins, then what unbonds, then stake, and at last the
    /// deposit, which others have served for already. The total is in [`Pool::Free`] afterwards.
    pub(super) fn seize(&mut self, wallet: Address, amount: Amount) -> Amount {
        let mut left = amount;
        let free = self.state.account(&wallet).free.min(left);
        if free > Amount::ZERO {
            self.account(wallet, |account| take(&mut account.free, free));
            take(&mut left, free);
        }
        for (key, held) in self.state.unbonding(&wallet) {
            let part = held.min(left);
            self.take_unbonding(key, part, Pool::Free);
            take(&mut left, part);
        }
        let stakes: Vec<(NodeId, Amount)> = self.state.stakes(&wallet).collect();
        for (node, held) in stakes {
            let part = held.min(left);
            if part > Amount::ZERO {
                self.take_stake(node, part, Pool::Free);
                take(&mut left, part);
            }
        }
        let part = self.seize_deposit(wallet, left);
        take(&mut left, part);
        Amount(amount.0 - left.0)
    }

    /// Uses up a wallet's nonce and takes `amount` and `fee` from its free coins; where they go is the caller's to say.
    pub(super) fn charge(&mut self, wallet: Address, nonce: u64, amount: Amount, fee: Amount) -> Result<(), Rejection> {
        let account = self.state.account(&wallet);
        let mut purse = Purse { wallet, nonce: account.nonce, free: account.free };
        let needed = purse.pay(nonce, amount, fee)?;
        self.account(wallet, |account| {
            account.nonce += 1;
            take(&mut account.free, needed);
        });
        Ok(())
    }

    /// What the wallet of `signer` can pay with.
    pub(crate) fn purse(&self, signer: &PublicKey) -> Result<Purse, Rejection> {
        let wallet = self.state.signs_for(signer)?;
        let account = self.state.account(&wallet);
        Ok(Purse { wallet, nonce: account.nonce, free: account.free })
    }

    /// Whether a transfer could stand in the block, were it empty, and be paid from `purse`, from which it is taken: what
    /// [`Executor::apply`] would say of it, without doing it.
    pub(crate) fn would_transfer(
        &self,
        purse: &mut Purse,
        transaction: &Transaction,
        to: &Address,
        amount: Amount,
        memo: &str,
    ) -> Result<(), Rejection> {
        self.admit(transaction)?;
        let fee = self.state.may_transfer(&purse.wallet, to, amount, memo)?;
        purse.pay(transaction.unsigned.nonce, amount, fee).map(drop)
    }

    /// Makes new coins for the wallet of `node`, if the node is still known; returns how many.
    pub(super) fn mint(&mut self, node: NodeId, amount: Amount, kind: RewardKind, round: Option<u64>) -> Amount {
        let Some(wallet) = self.state.node(&node).map(|node| node.wallet) else { return Amount::ZERO };
        self.mint_to(node, wallet, amount, kind, round)
    }

    /// Makes new coins for the wallet that `node` worked for; returns how many.
    pub(super) fn mint_to(
        &mut self,
        node: NodeId,
        wallet: Address,
        amount: Amount,
        kind: RewardKind,
        round: Option<u64>,
    ) -> Amount {
        let supply = &mut self.totals.supply;
        let Some(minted) = supply.minted.checked_add(amount) else { return Amount::ZERO };
        if amount == Amount::ZERO {
            return amount;
        }
        supply.minted = minted;
        add(&mut supply.free, amount);
        self.events.push(Event::Reward { node, wallet, amount, kind, round });
        self.credit(wallet, amount);
        amount
    }

    /// Splits a fee that lies in `pool`. Who gets a share has it at the block's end, with all others of the block.
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
            if amount > Amount::ZERO {
                take(&mut left, amount);
                self.fees.push((node, kind, amount));
            }
        }
        self.shift(pool, Pool::Free, Amount(fee.0 - left.0));
        self.burn(pool, left);
    }

    /// Gives out the shares of the block's fees.
    pub(super) fn pay_fees(&mut self) {
        let mut sums: BTreeMap<(NodeId, RewardKind), Amount> = BTreeMap::new();
        for (node, kind, amount) in std::mem::take(&mut self.fees) {
            add(sums.entry((node, kind)).or_default(), amount);
        }
        for ((node, kind), amount) in sums {
            match self.state.node(&node).map(|node| node.wallet) {
                Some(wallet) => {
                    self.events.push(Event::Reward { node, wallet, amount, kind, round: None });
                    self.credit(wallet, amount);
                }
                None => self.burn(Pool::Free, amount), // a node that is known no more
            }
        }
    }

    /// Sets the block's totals.
    pub(super) fn set_totals(&mut self) {
        let Totals { supply, burned } = self.totals;
        if supply != self.state.supply() {
            self.set(Key::Supply, supply);
        }
        if burned > Amount::ZERO {
            self.events.push(Event::Burned { amount: burned });
        }
    }

    /// Destroys coins.
    pub(super) fn burn(&mut self, pool: Pool, amount: Amount) {
        if amount > Amount::ZERO {
            let lost = plants::on(Plant::LostFee);
            self.shift(pool, Pool::Burned, if lost { Amount(amount.0 - 1) } else { amount });
            add(&mut self.totals.burned, amount);
        }
    }
}

//! Payment for inference: deposits, the claims that are paid out of them, and the market price.
//!
//! - A wallet deposits coins for all nodes that serve it. What it withdraws is free `withdraw_ms` later, and not in the same
//!   epoch; a further withdrawal makes all that is leaving wait anew. Both cost the fee.
//! - A node claims units of receipts that wallets have signed for it. Of each session's receipts (`expires_age` belongs to
//!   the session) the state remembers how many units a node has claimed, until they have expired: only more than that is
//!   paid. A receipt of the node's own wallet is refused, one that is over, and one that lasts longer than `receipt_ms`.
//! - In an epoch a node draws no more of a deposit than its part (`ailo_protocol::payment::part`) of what the deposit was when
//!   the epoch began, with what came in since, without what will leave in it. The parts of all nodes that may claim, those
//!   registered before the epoch, fit into the deposit. So nobody draws what another one was promised, and a claim within
//!   the part is paid whatever all others do; only a reversal that seizes from the deposit can take it away. Such a
//!   deposit is marked `short`.
//! - Units are paid at the receipt's price, up to `price_cap_ppm` of the market's. `burn_ppm` burn, the rest is the node's
//!   wallet's; what is minted on top is less than what burns, unless the network subsidises.
//! - The market price changes with each epoch, by what was paid in it and by how many nodes with a seat were paid.

use super::{
    Deposit, Event, Executor, Key, Market, Node, Rejection, RewardKind, State,
    entry::{Claimed, Drawn, EpochStart, Withdrawal},
    money::{Pool, add, take},
};
use crate::transaction::{Claim, MAX_CLAIMS};
use ailo_protocol::{
    Address, Amount, NodeId, PublicKey,
    inference::SessionId,
    payment::{self, Receipt},
};

impl State {
    /// What inference costs.
    pub fn market(&self) -> &Market {
        self.singleton(&Key::Market)
    }

    /// What a wallet has deposited for inference.
    pub fn deposit(&self, wallet: &Address) -> Deposit {
        self.get(&Key::Deposit(*wallet)).copied().unwrap_or_default()
    }

    /// Units that `node` has claimed of a session of `payer`.
    pub fn claimed(&self, payer: &Address, session: SessionId, expires_age: u64, node: &NodeId) -> u64 {
        self.get(&Key::Claimed(expires_age, *payer, session, *node)).map_or(0, |Claimed { units }| *units)
    }

    /// What `node` has drawn of a deposit in this epoch.
    fn drawn(&self, wallet: &Address, node: &NodeId) -> Amount {
        self.get(&Key::Drawn(self.epoch(), *wallet, *node)).map_or(Amount::ZERO, |Drawn(amount)| *amount)
    }

    /// The age at which the next epoch begins: what is taken on trust is to be claimed before.
    pub fn epoch_ends(&self) -> u64 {
        self.epoch().saturating_add(1).saturating_mul(self.params().ledger.epoch_ms)
    }

    /// A deposit with its basis in this epoch.
    fn deposit_now(&self, wallet: &Address) -> Deposit {
        let mut deposit = self.deposit(wallet);
        if deposit.epoch != self.epoch() {
            let leaves = if deposit.due_age < self.epoch_ends() { deposit.leaving.0 } else { 0 };
            (deposit.epoch, deposit.basis) = (self.epoch(), Amount(deposit.amount.0.saturating_sub(leaves)));
        }
        deposit
    }

    /// Whether a node was registered before this epoch.
    fn may_claim(&self, node: &Node) -> bool {
        node.founder || node.registered_age / self.params().ledger.epoch_ms < self.epoch()
    }

    /// What `node` may draw of a deposit with this basis, in this epoch all together.
    fn part(&self, basis: Amount, node: &NodeId) -> Amount {
        let nodes = self.get::<EpochStart>(&Key::EpochStart(self.epoch())).map_or(u32::MAX, |start| start.nodes);
        let seats = self.seats(self.epoch());
        let seated = seats.is_some_and(|seats| seats.contains(node));
        payment::part(basis, nodes, seats.map_or(0, |seats| seats.0.len() as u32), seated)
    }

    /// What `node` may claim now of a wallet's deposit.
    pub fn drawable(&self, wallet: &Address, node: &NodeId) -> Amount {
        let deposit = self.deposit_now(wallet);
        let part = self.part(deposit.basis, node).0;
        Amount(part.saturating_sub(self.drawn(wallet, node).0).min(deposit.amount.0))
    }

    /// How much more `node` takes on trust of the wallet that `payer` signs for, while it holds receipts for `unclaimed` that it
    /// has not claimed: what it may still draw in this epoch, without what is leaving. What it takes so and claims before
    /// [`State::epoch_ends`] is covered, whatever the wallet promises to others.
    pub fn trusts(&self, payer: &PublicKey, node: &NodeId, unclaimed: Amount) -> Amount {
        let (Ok(wallet), Some(entry)) = (self.signs_for(payer), self.node(node)) else { return Amount::ZERO };
        let deposit = self.deposit_now(&wallet);
        if deposit.short || entry.wallet == wallet || !self.may_claim(entry) {
            return Amount::ZERO;
        }
        let leaving = if deposit.due_age < self.epoch_ends() { 0 } else { deposit.leaving.0 };
        let basis = Amount(deposit.basis.0.saturating_sub(leaving));
        let used = self.drawn(&wallet, node).0.saturating_add(unclaimed.0);
        Amount(self.part(basis, node).0.saturating_sub(used))
    }

    /// Whether the ledger would pay `node` for a receipt, whose signature has been verified; by which wallet.
    pub fn check_receipt(&self, node: &NodeId, receipt: &Receipt) -> Result<Address, Rejection> {
        let (age, max_ms) = (self.age_ms(), self.params().inference.receipt_ms);
        if receipt.node != *node || !receipt.is_sound() {
            return Err(Rejection::BadClaim { max: MAX_CLAIMS });
        }
        if receipt.expires_age <= age {
            return Err(Rejection::ReceiptExpired { age });
        }
        if receipt.expires_age > age.saturating_add(max_ms) {
            return Err(Rejection::ReceiptTooLong { max_ms });
        }
        let payer = self.pays_for(&receipt.payer, receipt.expires_age)?;
        let entry = self.node(node).ok_or(Rejection::UnknownNode)?;
        if entry.wallet == payer {
            return Err(Rejection::OwnReceipt);
        }
        match receipt.expires_age <= entry.unpaid_until {
            true => Err(Rejection::ReceiptVoid),
            false => Ok(payer),
        }
    }

    /// What units up to `units` of a receipt are worth now, beyond those that are claimed: at its price, up to the market's cap.
    pub fn claim_worth(&self, payer: &Address, receipt: &Receipt, units: u64) -> Result<Amount, Rejection> {
        let params = &self.params().inference;
        let before = self.claimed(payer, receipt.session, receipt.expires_age, &receipt.node);
        let fresh = units.checked_sub(before).filter(|fresh| *fresh > 0);
        let fresh = fresh.ok_or(Rejection::AlreadyClaimed { units: before })?;
        let cap = self.market().price.share(params.price_cap_ppm).unwrap_or(Amount(u64::MAX));
        receipt.worth(fresh, receipt.price.min(cap), params).ok_or(Rejection::BadClaim { max: MAX_CLAIMS })
    }
}

impl Executor {
    /// Stores a deposit, as long as there is anything in it.
    fn set_deposit(&mut self, wallet: Address, deposit: Deposit) {
        match deposit.amount == Amount::ZERO && deposit.leaving == Amount::ZERO {
            true => self.remove(Key::Deposit(wallet)),
            false => self.set(Key::Deposit(wallet), deposit),
        }
    }

    pub(super) fn deposit(&mut self, wallet: Address, nonce: u64, amount: Amount) -> Result<(), Rejection> {
        if amount == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, amount, fee)?;
        self.shift(Pool::Free, Pool::Escrow, amount);
        let mut deposit = self.state.deposit_now(&wallet);
        add(&mut deposit.amount, amount);
        deposit.basis = Amount(deposit.basis.0.saturating_add(amount.0));
        deposit.short = false;
        self.set_deposit(wallet, deposit);
        self.events.push(Event::Deposited { wallet, amount });
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(())
    }

    pub(super) fn withdraw_deposit(&mut self, wallet: Address, nonce: u64, asked: Amount) -> Result<(), Rejection> {
        if asked == Amount::ZERO {
            return Err(Rejection::ZeroAmount);
        }
        let mut deposit = self.state.deposit_now(&wallet);
        let deposited = Amount(deposit.amount.0.saturating_sub(deposit.leaving.0));
        if asked > deposited {
            return Err(Rejection::NotDeposited { deposited, asked });
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        if deposit.leaving > Amount::ZERO {
            self.remove(Key::Withdrawal(deposit.due_age, wallet));
        }
        add(&mut deposit.leaving, asked);
        let wait = self.state.params().inference.withdraw_ms;
        deposit.due_age = self.state.age_ms().saturating_add(wait).max(self.state.epoch_ends());
        self.set(Key::Withdrawal(deposit.due_age, wallet), Withdrawal);
        self.set_deposit(wallet, deposit);
        let (amount, due_age) = (deposit.leaving, deposit.due_age);
        self.events.push(Event::DepositLeaving { wallet, amount, due_age });
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        Ok(())
    }

    /// Takes up to `amount` of a deposit against its wallet's will, into [`Pool::Free`].
    pub(super) fn seize_deposit(&mut self, wallet: Address, amount: Amount) -> Amount {
        let mut deposit = self.state.deposit_now(&wallet);
        let part = deposit.amount.min(amount);
        if part > Amount::ZERO {
            take(&mut deposit.amount, part);
            (deposit.short, deposit.basis) = (true, deposit.basis.min(deposit.amount));
            deposit.leaving = deposit.leaving.min(deposit.amount);
            self.shift(Pool::Escrow, Pool::Free, part);
            self.set_deposit(wallet, deposit);
        }
        part
    }

    pub(super) fn claim(&mut self, id: NodeId, claims: &[Claim]) -> Result<(), Rejection> {
        let mut node = self.state.node(&id).ok_or(Rejection::UnknownNode)?.clone();
        if !(1..=MAX_CLAIMS).contains(&claims.len()) {
            return Err(Rejection::BadClaim { max: MAX_CLAIMS });
        }
        if !self.state.may_claim(&node) {
            return Err(Rejection::NodeTooNew);
        }
        let (epoch, quota) = (self.state.epoch(), self.state.params().inference.receipt_quota);
        let before = if node.receipts.0 == epoch { node.receipts.1 } else { 0 };
        let count = before.saturating_add(claims.len() as u32);
        if count > quota {
            return Err(Rejection::ClaimQuota { quota });
        }
        node.receipts = (epoch, count);
        let wallet = node.wallet;
        self.set(Key::Node(id), node);
        if before == 0 && self.state.seats(epoch).is_some_and(|seats| seats.contains(&id)) {
            let market = *self.state.market();
            self.set(Key::Market, Market { servers: market.servers.saturating_add(1), ..market });
        }
        claims.iter().try_for_each(|claim| self.pay(id, wallet, claim))
    }

    fn pay(&mut self, node: NodeId, wallet: Address, claim: &Claim) -> Result<(), Rejection> {
        let receipt = &claim.receipt.receipt;
        let payer = self.state.check_receipt(&node, receipt)?;
        if claim.units > receipt.units {
            return Err(Rejection::BadClaim { max: MAX_CLAIMS });
        }
        let amount = self.state.claim_worth(&payer, receipt, claim.units)?;
        let params = &self.state.params().inference;
        let min = params.receipt_min.max(Amount(1));
        if amount < min {
            return Err(Rejection::ClaimTooSmall { worth: amount, min });
        }
        let left = self.state.drawable(&payer, &node);
        if amount > left {
            return Err(Rejection::OverPart { left, worth: amount });
        }
        let before = self.state.claimed(&payer, receipt.session, receipt.expires_age, &node);
        let mut market = *self.state.market();
        let subsidy_left = Amount(params.subsidy_cap.0.saturating_sub(market.subsidy.0));
        let split = payment::split(params, amount, (before == 0).then_some(receipt.latency_ms), subsidy_left);
        market.paid = Amount(market.paid.0.saturating_add(amount.0));
        market.subsidy = Amount(market.subsidy.0.saturating_add(split.subsidy.0));
        self.set(Key::Market, market);
        let mut deposit = self.state.deposit_now(&payer);
        take(&mut deposit.amount, amount);
        // What is leaving is never more than what is there: else it would take of what comes in later.
        deposit.leaving = deposit.leaving.min(deposit.amount);
        self.set_deposit(payer, deposit);
        let drawn = Amount(self.state.drawn(&payer, &node).0.saturating_add(amount.0));
        self.set(Key::Drawn(self.state.epoch(), payer, node), Drawn(drawn));
        let key = Key::Claimed(receipt.expires_age, payer, receipt.session, node);
        self.set(key, Claimed { units: claim.units });
        self.burn(Pool::Escrow, split.burned);
        self.shift(Pool::Escrow, Pool::Free, split.paid);
        self.credit(wallet, split.paid);
        let top_up = Amount(split.top_up.0.saturating_add(split.subsidy.0));
        let minted = self.mint_to(node, wallet, top_up, RewardKind::Inference, None);
        self.events.push(Event::ReceiptPaid {
            payer,
            node,
            wallet,
            session: receipt.session,
            model: receipt.model,
            units: claim.units - before,
            amount,
            burned: split.burned,
            minted,
        });
        Ok(())
    }

    /// Frees what has left deposits, and forgets claims that can't come again, in order of time, a bounded number a block of each.
    pub(super) fn sweep_deposits(&mut self) {
        let (age, epoch) = (self.state.age_ms(), self.state.epoch());
        let bound = self.state.params().ledger.sweep_per_block as usize;
        let first = (Address([0; 20]), PublicKey([0; 32]));
        let last = (Address([0xff; 20]), PublicKey([0xff; 32]));
        let due = self.state.entries.range(Key::Withdrawal(0, first.0)..=Key::Withdrawal(age, last.0));
        let due: Vec<Key> = due.take(bound).map(|(key, _)| *key).collect();
        let expired = Key::Claimed(0, first.0, [0; 16], first.1)..=Key::Claimed(age, last.0, [0xff; 16], last.1);
        let drawn = Key::Drawn(0, first.0, first.1)..Key::Drawn(epoch, first.0, first.1);
        let expired = self.state.entries.range(expired).take(bound);
        let drawn = self.state.entries.range(drawn).take(bound);
        let over: Vec<Key> = expired.chain(drawn).map(|(key, _)| *key).collect();
        over.into_iter().for_each(|key| self.remove(key));
        for key in due {
            let Key::Withdrawal(due_age, wallet) = key else { continue };
            self.remove(key);
            let mut deposit = self.state.deposit_now(&wallet);
            if deposit.due_age != due_age {
                continue; // the mark of a deposit that was used up
            }
            let amount = deposit.leaving.min(deposit.amount);
            take(&mut deposit.amount, amount);
            deposit.leaving = Amount::ZERO;
            self.set_deposit(wallet, deposit);
            self.shift(Pool::Escrow, Pool::Free, amount);
            self.events.push(Event::DepositReturned { wallet, amount });
            self.credit(wallet, amount);
        }
    }

    /// The market price of the epoch that the block begins.
    pub(super) fn set_price(&mut self) {
        let Market { price: old, paid, servers, .. } = *self.state.market();
        let price = payment::next_price(&self.state.params().inference, old, paid, servers);
        if price != old || paid > Amount::ZERO {
            let epoch = self.state.epoch();
            self.events.push(Event::MarketPrice { epoch, price, paid, servers });
            self.set(Key::Market, Market { price, paid: Amount::ZERO, servers: 0, subsidy: Amount::ZERO });
        }
    }
}

//! Who an account is: its signing key, its recovery key, its user name.
//!
//! - An account names a recovery key once (`SetRecovery`: a commitment, so that the key stays unknown until used).
//!   `Recover`, signed by that key, gives the account another signing key and the commitment to the next recovery key;
//!   each works once. A thief of the signing key can't replace the recovery key. The new key has signed that it agrees.
//! - `Recover` has no nonce of the account's, which a thief could run away with, but the number of recoveries so far. It
//!   costs the fee, or what there is, and comes once an epoch.
//! - The address stays. The old key signs for nothing any more, but what it signed of receipts before is still paid; the new one signs for the account, and its own address
//!   takes no coins, which nobody could move.
//! - A user name is unique and free again when its owner takes another one or gives it up.

use super::{
    Event, Executor, Key, Rejection, State,
    entry::{Alias, Owner},
    money::{Pool, take},
};
use crate::{
    plants::{self, Plant},
    transaction::recovery_commitment,
};
use ailo_protocol::{Address, Amount, Hash, PublicKey, Username};

impl State {
    /// The account that `address` is but a key of since a recovery; else itself.
    pub fn account_at(&self, address: &Address) -> Address {
        self.get(&Key::Alias(*address)).map_or(*address, |Alias(account)| *account)
    }

    /// The account that `key` may sign for.
    pub(super) fn signs_for(&self, key: &PublicKey) -> Result<Address, Rejection> {
        let account = self.account_of(key);
        let present = self.account(&account).key;
        match present.is_none_or(|present| present == *key) || plants::on(Plant::RotatedKey) {
            true => Ok(account),
            false => Err(Rejection::KeyRotated { account }),
        }
    }
}

impl State {
    /// The account that a receipt of `key` is paid by: the one that it signs for. What the key before the last recovery signed is paid
    /// too, as far as it may be of before: else a requester would void all that it has promised by recovering its account.
    pub(super) fn pays_for(&self, key: &PublicKey, expires_age: u64) -> Result<Address, Rejection> {
        self.signs_for(key).or_else(|reason| {
            let wallet = self.account_of(key);
            let account = self.account(&wallet);
            let own = Address::from(key) == wallet;
            let was_key = account.replaced.map_or(own, |replaced| replaced == *key);
            let newest = account.recovered_age.saturating_add(self.params().inference.receipt_ms);
            if was_key && expires_age <= newest { Ok(wallet) } else { Err(reason) }
        })
    }
}

impl Executor {
    pub(super) fn set_recovery(&mut self, wallet: Address, nonce: u64, commitment: Hash) -> Result<(), Rejection> {
        if self.state.account(&wallet).recovery.is_some() {
            return Err(Rejection::RecoverySet);
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        self.account(wallet, |account| account.recovery = Some(commitment));
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.events.push(Event::RecoverySet { wallet });
        Ok(())
    }

    pub(super) fn recover(
        &mut self,
        signer: PublicKey,
        wallet: Address,
        count: u64,
        key: PublicKey,
        next: Hash,
    ) -> Result<(), Rejection> {
        let account = self.state.account(&wallet);
        let ledger = &self.state.params().ledger;
        let used = recovery_commitment(&self.state.network(), &signer);
        if account.recovery != Some(used) {
            return Err(Rejection::NotTheRecoveryKey);
        }
        if count != account.recoveries {
            return Err(Rejection::BadNonce { expected: account.recoveries, got: count });
        }
        if next == used {
            return Err(Rejection::RecoveryKeyUsed);
        }
        let ready = account.recovered_age.saturating_add(ledger.epoch_ms);
        if account.recoveries > 0 && self.state.age_ms() < ready {
            return Err(Rejection::RecoveryTooSoon { wait_ms: ready - self.state.age_ms() });
        }
        let own = Address::from(&key);
        let taken = self.state.entries.contains_key(&Key::Account(own)) || self.state.account_at(&own) != own;
        if own != wallet && self.state.account_at(&own) != wallet && taken {
            return Err(Rejection::KeyTaken);
        }
        let fee = ledger.fee.min(account.free);
        let age = self.state.age_ms();
        self.account(wallet, |account| {
            account.replaced = account.key;
            account.key = Some(key);
            account.recovery = Some(next);
            account.recoveries += 1;
            account.recovered_age = age;
            take(&mut account.free, fee);
        });
        if own != wallet {
            self.set(Key::Alias(own), Alias(wallet));
        }
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.events.push(Event::Recovered { wallet, key });
        Ok(())
    }

    pub(super) fn register_username(
        &mut self,
        wallet: Address,
        nonce: u64,
        name: Option<Username>,
    ) -> Result<(), Rejection> {
        if name.is_some_and(|name| !name.is_valid()) {
            return Err(Rejection::BadUsername);
        }
        if name.is_some_and(|name| self.state.owner(&name).is_some()) {
            return Err(Rejection::UsernameTaken);
        }
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        if let Some(old) = self.state.account(&wallet).name {
            self.remove(Key::Owner(old));
        }
        if let Some(name) = name {
            self.set(Key::Owner(name), Owner(wallet));
        }
        self.account(wallet, |account| account.name = name);
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.events.push(Event::UsernameChanged { wallet, name });
        Ok(())
    }
}

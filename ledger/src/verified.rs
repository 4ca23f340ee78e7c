//! Which transactions have been verified: signatures are the dearest part of a transaction, and each is checked when it
//! comes, when its block comes, and by a trial or two. The memory is bounded and may forget; it decides nothing.

use crate::Transaction;
use ailo_protocol::{Hash, hash::Domain, keys::BadSignature};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// Transactions remembered at least; twice as many at most.
const REMEMBERED: usize = 1 << 16;

/// Transactions whose signatures hold on one network, the fresh ones and those before them.
#[derive(Default)]
pub struct Verified(Mutex<[HashSet<Hash>; 2]>);

impl Verified {
    /// Checks a transaction's signatures, unless these very bytes were checked before.
    pub fn check(&self, network: &Hash, transaction: &Transaction) -> Result<(), BadSignature> {
        let id = Hash::of(Domain::Transaction, &transaction.encode());
        let known = |sets: &[HashSet<Hash>; 2]| sets.iter().any(|set| set.contains(&id));
        if known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        transaction.verify(network)?;
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sets[0].len() >= REMEMBERED {
            sets.swap(0, 1);
            sets[0].clear();
        }
        sets[0].insert(id);
        Ok(())
    }
}

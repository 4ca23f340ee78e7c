//! Notices a node that signs two different attestations of one block, from all the attestations that pass by: each by
//! itself is in order, and the ledger takes one at most. What is remembered is bounded; when it is full, the oldest
//! heights are forgotten first.

use crate::{
    Body, Transaction,
    transaction::{Evidence, SignedAttest},
};
use ailo_protocol::NodeId;
use std::collections::BTreeMap;

/// Attestations remembered, at most; and the transfers that they except, all together.
const MAX_COUNT: usize = 4096;
const MAX_EXCEPTED: usize = 1 << 16;

/// The attestations that passed by.
#[derive(Default)]
pub struct Witness {
    seen: BTreeMap<(u64, NodeId), SignedAttest>,
    excepted: usize,
}

impl Witness {
    /// Sees a transaction whose signature has been verified, of a node that is registered; gives the evidence if its
    /// signer has attested the same block otherwise.
    pub fn see(&mut self, transaction: &Transaction) -> Option<Evidence> {
        let Body::Attest { height, except } = &transaction.unsigned.body else { return None };
        let (node, time_ms) = (transaction.unsigned.signer, transaction.unsigned.time_ms);
        let attest = || SignedAttest { time_ms, except: except.clone(), signature: transaction.signature };
        if let Some(first) = self.seen.get(&(*height, node)) {
            let rival = || Evidence::Attestations { node, height: *height, first: first.clone(), second: attest() };
            return (first.except != *except).then(rival);
        }
        self.excepted += except.len();
        self.seen.insert((*height, node), attest());
        while self.seen.len() > MAX_COUNT || self.excepted > MAX_EXCEPTED {
            let Some((_, oldest)) = self.seen.pop_first() else { break };
            self.excepted -= oldest.except.len();
        }
        None
    }
}

/// Whether a transaction is an attestation.
pub fn attests(transaction: &Transaction) -> bool {
    matches!(transaction.unsigned.body, Body::Attest { .. })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::testing::node_key;
    use ailo_protocol::Hash;

    fn attest(node: u8, height: u64, except: Vec<Hash>, time_ms: u64) -> Transaction {
        Transaction::sign(&Hash([9; 32]), &node_key(node), 0, time_ms, Body::Attest { height, except })
    }

    #[test]
    fn who_attests_one_block_in_two_ways_is_noticed_and_nobody_else() {
        let mut witness = Witness::default();
        let other = || vec![Hash([1; 32])];
        for passed in
            [attest(0, 5, vec![], 1), attest(0, 5, vec![], 2), attest(0, 6, other(), 3), attest(1, 5, other(), 4)]
        {
            assert_eq!(witness.see(&passed), None);
        }
        let evidence = witness.see(&attest(0, 5, other(), 5)).unwrap();
        assert_eq!((evidence.node(), evidence.height()), (*node_key(0).public(), 5));
        assert!(evidence.is_conflict());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut witness = Witness::default();
        let large: Vec<Hash> = (0..2000u64).map(|i| Hash([i as u8; 32])).collect();
        for height in 0..100 {
            witness.see(&attest(0, height, large.clone(), 1));
        }
        assert!(witness.excepted <= MAX_EXCEPTED && witness.seen.len() == MAX_EXCEPTED / 2000);
        assert!(witness.see(&attest(0, 99, vec![], 2)).is_some() && witness.see(&attest(0, 1, vec![], 2)).is_none());
    }
}

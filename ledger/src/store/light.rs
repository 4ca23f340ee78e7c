//! What light clients ask the store for: headers with all that verifies them, and proofs of inclusion.

use super::{Store, StoreError};
use crate::{
    Header, Transaction,
    block::{MAX_CERTIFICATE_BYTES, prove_transaction},
    light::LightBlock,
};
use ailo_protocol::{Hash, canonical, merkle};

impl Store {
    /// The header at `height`, the number of transactions of its block, and how many bytes were read for that: all of the block's.
    pub fn summary(&self, height: u64) -> Result<Option<(Header, u64, usize)>, StoreError> {
        let Some((block, certificate)) = self.encoded(height)? else { return Ok(None) };
        let (header, transactions) = Header::of_block(&block)?;
        Ok(Some((header, transactions, block.len() + certificate.len())))
    }

    /// The header at `height`.
    pub fn header(&self, height: u64) -> Result<Option<Header>, StoreError> {
        let header = self.summary(height)?.map(|(header, ..)| header);
        // The log goes on from a snapshot, whose block is known by this alone.
        Ok(header.or_else(|| Some(self.snapshots.get(height)?.head.block.header.clone())))
    }

    /// The header at `height` with its certificate and validators.
    pub fn light_block(&self, height: u64) -> Result<Option<LightBlock>, StoreError> {
        let Some((block, certificate)) = self.encoded(height)? else {
            return Ok(self.snapshots.get(height).map(|snapshot| snapshot.head.block.clone()));
        };
        let (header, _) = Header::of_block(&block)?;
        let certificate = canonical::decode(&certificate, MAX_CERTIFICATE_BYTES)?;
        let set = |hash: &Hash| self.index.find(|addition| addition.validators(hash), |index| index.validators(hash));
        let sets = (set(&header.validators)?, set(&header.next_validators)?);
        let (Some(validators), Some(next_validators)) = sets else { return Ok(None) };
        Ok(Some(LightBlock { header, certificate, validators, next_validators }))
    }

    /// The transaction with this id, the height of its block, and the proof against that header's `transactions_root`.
    pub fn transaction_proof(&self, id: &Hash) -> Result<Option<(Transaction, u64, merkle::Proof)>, StoreError> {
        let Some((height, position)) = self.position_of(id)? else { return Ok(None) };
        let Some(block) = self.block(height)? else { return Ok(None) };
        let proof = prove_transaction(&block.transactions, position as usize);
        let transaction = block.transactions.into_iter().nth(position as usize);
        Ok(transaction.zip(proof).map(|(transaction, proof)| (transaction, height, proof)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        Body, Certificate,
        consensus::{Ballot, Step},
        light::{Advance, LightClient},
        state::{
            State, execute_block,
            testing::{Ledger, node_key, wallet_key},
        },
    };

    use ailo_protocol::Amount;

    /// A client follows everything that the store of such a ledger serves, also when the index was built anew.
    #[test]
    fn light_blocks_and_proofs_are_served_for_every_height_over_a_change_of_validators() {
        let mut ledger = Ledger::new(4, |params| {
            (params.ledger.handover_validators, params.ledger.handover_stake) = (1, Amount(1));
        });
        ledger.run_round(4, 1_000_000);
        let stake = Body::Stake { node: *node_key(2).public(), amount: Amount(1_000_000) };
        let stake = ledger.sign(&wallet_key(2), stake);
        ledger.block(vec![stake.clone()]);
        ledger.pass(3000);

        let (dir, network) = (tempfile::tempdir().unwrap(), ledger.state.network());
        let (store, mut state) = Store::open(dir.path(), &ledger.genesis).unwrap();
        for block in &ledger.blocks {
            let Header { height, .. } = block.header;
            let ballot = Ballot { height, round: 0, step: Step::Precommit, block: Some(block.id()) };
            let signer = |i: &u8| state.validators().power(node_key(*i).public()) > 0;
            let sign = |i| (*node_key(i).public(), ballot.sign(&network, &node_key(i)).signature);
            let mut signatures: Vec<_> = (0..4).filter(signer).map(sign).collect();
            signatures.sort();
            let certificate = Certificate { height, round: 0, block: block.id(), signatures };
            let executed = execute_block(&state, block).unwrap();
            store.append(block, &certificate, &executed).unwrap();
            state = executed.state;
        }
        drop(store);
        let serve = || {
            let (store, _): (Store, State) = Store::open(dir.path(), &ledger.genesis).unwrap();
            let mut client = LightClient::from_genesis(&ledger.genesis);
            for height in 1..=ledger.state.height() {
                let block = store.light_block(height).unwrap().unwrap();
                assert_eq!(client.advance(&block, block.header.time_ms).unwrap(), Advance::Reached);
            }
            let last = store.light_block(ledger.state.height()).unwrap().unwrap();
            assert_eq!(last.validators.0.len(), 1, "the founders have handed over");
            assert_eq!(store.light_block(ledger.state.height() + 1).unwrap(), None);
            let (transaction, height, proof) = store.transaction_proof(&stake.id()).unwrap().unwrap();
            let header = store.header(height).unwrap().unwrap();
            assert!(matches!(store.summary(height).unwrap(), Some((found, 1, _)) if found == header));
            let leaf = crate::block::transaction_leaf(&transaction.encode());
            assert!(transaction == stake && proof.verify(&header.transactions_root, &leaf));
            assert_eq!(store.transaction_proof(&Hash([1; 32])).unwrap(), None);
        };
        serve();
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        serve();
    }
}

//! The methods for light clients (`ailo_ledger::light`): headers with all that verifies them, and proofs. What is hashed or
//! signed travels as its canonical bytes in hexadecimal, so that a client checks the very bytes.
//!
//! | method | parameters | answer |
//! | --- | --- | --- |
//! | `ailo_lightBlock` | `height`? (else the head) | [`LightBlockView`] |
//! | `ailo_headers` | `from`, `limit`? | [`HeadersView`]: what a block's parents are, the newest first |
//! | `ailo_proof` | one of `account`, `node`, `model: true`, `key` | [`ProofView`] of the state after block `height` |
//! | `ailo_transactionProof` | `id` | [`TransactionProofView`] |

use super::{Answer, Context, code, error, invalid, params::*, parse};
use ailo_ledger::light::LightBlock;
use ailo_protocol::canonical;
use jsonrpsee::{
    server::{RegisterMethodError, RpcModule},
    types::Params,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `ailo_lightBlock`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LightBlockView {
    /// Canonical bytes of a [`LightBlock`], in hexadecimal.
    pub light_block: String,
}

/// `ailo_headers`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeadersView {
    /// Canonical bytes of [`Header`](ailo_ledger::Header)s, in hexadecimal, each the parent of the one before.
    pub headers: Vec<String>,
}

/// `ailo_proof`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProofView {
    /// Canonical bytes of the [`Key`](ailo_ledger::state::Key), in hexadecimal.
    pub key: String,
    /// Canonical bytes of the [`Entry`](ailo_ledger::state::Entry) there, in hexadecimal; null when there is none.
    pub entry: Option<String>,
    /// Canonical bytes of the [`Proof`](ailo_ledger::state::tree::Proof), in hexadecimal, against the reply's `state_root`.
    pub proof: String,
}

/// `ailo_transactionProof`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransactionProofView {
    /// Height of the block that it stands in.
    pub block_height: u64,
    /// Canonical bytes of the transaction, in hexadecimal.
    pub transaction: String,
    /// Canonical bytes of the [`Proof`](ailo_protocol::merkle::Proof), in hexadecimal, against that header's
    /// `transactions_root`.
    pub proof: String,
}

pub(super) fn register(module: &mut RpcModule<Arc<Context>>) -> Result<(), RegisterMethodError> {
    module.register_blocking_method("ailo_lightBlock", |p, c, _| c.light_block(&p))?;
    module.register_blocking_method("ailo_headers", |p, c, _| c.headers(&p))?;
    module.register_method("ailo_proof", |p, c, _| c.proof(&p))?;
    module.register_blocking_method("ailo_transactionProof", |p, c, _| c.transaction_proof(&p))?;
    Ok(())
}

impl Context {
    fn light_block(&self, params: &Params<'_>) -> Answer<LightBlockView> {
        let LightBlockParams { height } = parse(params)?;
        let head = self.chain.head();
        let block: LightBlock = self
            .chain
            .light_block(height.unwrap_or(head.state.height()))
            .ok_or_else(|| error(code::NOT_FOUND, "there is no such block here"))?;
        Ok(self.at(&head, LightBlockView { light_block: hex::encode(block.encode()) }))
    }

    fn headers(&self, params: &Params<'_>) -> Answer<HeadersView> {
        let heights = parse::<HeadersParams>(params)?.heights().rev();
        let headers = heights.map_while(|height| self.chain.header(height));
        let headers = headers.map(|header| hex::encode(canonical::encode(&header))).collect();
        Ok(self.at(&self.chain.head(), HeadersView { headers }))
    }

    fn proof(&self, params: &Params<'_>) -> Answer<ProofView> {
        let key = parse::<ProofParams>(params)?.key().map_err(invalid)?;
        let head = self.chain.head();
        if head.state.height() == 0 {
            return Err(error(code::UNAVAILABLE, "there is no block yet that a proof could hold against"));
        }
        let (entry, proof) = head.state.prove(&key);
        let hex = |bytes: Vec<u8>| hex::encode(bytes);
        let entry = entry.map(|entry| hex(canonical::encode(entry)));
        let view = ProofView { key: hex(canonical::encode(&key)), entry, proof: hex(canonical::encode(&proof)) };
        Ok(self.at(&head, view))
    }

    fn transaction_proof(&self, params: &Params<'_>) -> Answer<TransactionProofView> {
        let TransactionParams { id } = parse(params)?;
        let unknown = || error(code::NOT_FOUND, "this node knows no such transaction in a block");
        let (transaction, block_height, proof) = self.chain.transaction_proof(&id).ok_or_else(unknown)?;
        let (transaction, proof) = (hex::encode(transaction.encode()), hex::encode(canonical::encode(&proof)));
        Ok(self.at(&self.chain.head(), TransactionProofView { block_height, transaction, proof }))
    }
}

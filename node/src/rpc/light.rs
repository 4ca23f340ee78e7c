//! The methods for light clients (`ailo_ledger::light`): headers with all that verifies them, and proofs. What is hashed or
//! signed travels as its canonical bytes in hexadecimal, so that a client checks the very bytes.

use super::{
    Answer, Context, MAX_READ_BYTES,
    errors::{Code, invalid},
    ledger::no_block,
    params::*,
};
use ailo_ledger::light::LightBlock;
use ailo_protocol::canonical;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `ailo_lightBlock`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LightBlockView {
    /// Canonical bytes of a [`LightBlock`], in hexadecimal.
    pub light_block: String,
}

/// `ailo_headers`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HeadersView {
    /// Canonical bytes of headers, in hexadecimal, each the parent of the one before.
    pub headers: Vec<String>,
}

/// `ailo_proof`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProofView {
    /// Canonical bytes of the `Key`, in hexadecimal.
    pub key: String,
    /// Canonical bytes of the `Entry` there, in hexadecimal; null when there is none.
    pub entry: Option<String>,
    /// Canonical bytes of the `Proof`, in hexadecimal, against the reply's `state_root`.
    pub proof: String,
}

/// `ailo_transactionProof`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TransactionProofView {
    /// Height of the block that it stands in.
    pub block_height: u64,
    /// Canonical bytes of the transaction, in hexadecimal.
    pub transaction: String,
    /// Canonical bytes of the `Proof`, in hexadecimal, against that header's
    /// `transactions_root`.
    pub proof: String,
}

impl Context {
    /// `ailo_lightBlock`
    pub fn light_block(&self, LightBlockParams { height }: LightBlockParams) -> Answer<LightBlockView> {
        let head = self.chain.head();
        let block: LightBlock = self.chain.light_block(height.unwrap_or(head.state.height()))?.ok_or_else(no_block)?;
        Ok(self.at(&head, LightBlockView { light_block: hex::encode(block.encode()) }))
    }

    /// `ailo_headers`
    pub fn headers(&self, params: HeadersParams) -> Answer<HeadersView> {
        let (mut headers, mut read) = (Vec::new(), 0);
        for height in params.heights().rev() {
            let (header, bytes) = match self.chain.summary(height)? {
                Some((header, _, bytes)) => (Some(header), bytes),
                None => (self.chain.header(height)?, 0), // that before the first block, perhaps
            };
            let Some(header) = header else { break };
            headers.push(hex::encode(canonical::encode(&header)));
            read += bytes;
            if read >= MAX_READ_BYTES {
                break;
            }
        }
        Ok(self.at(&self.chain.head(), HeadersView { headers }))
    }

    /// `ailo_proof`
    pub fn proof(&self, params: ProofParams) -> Answer<ProofView> {
        let key = params.key().map_err(invalid)?;
        let head = self.chain.head();
        if head.state.height() == 0 {
            return Err(Code::Unavailable.says("there is no block yet that a proof could hold against"));
        }
        let (entry, proof) = head.state.prove(&key);
        let hex = |bytes: Vec<u8>| hex::encode(bytes);
        let entry = entry.map(|entry| hex(canonical::encode(entry)));
        let view = ProofView { key: hex(canonical::encode(&key)), entry, proof: hex(canonical::encode(&proof)) };
        Ok(self.at(&head, view))
    }

    /// `ailo_transactionProof`
    pub fn transaction_proof(&self, IdParams { id }: IdParams) -> Answer<TransactionProofView> {
        let unknown = || Code::NotFound.says("this node knows no such transaction in a block");
        let (transaction, block_height, proof) = self.chain.transaction_proof(&id)?.ok_or_else(unknown)?;
        let (transaction, proof) = (hex::encode(transaction.encode()), hex::encode(canonical::encode(&proof)));
        Ok(self.at(&self.chain.head(), TransactionProofView { block_height, transaction, proof }))
    }
}

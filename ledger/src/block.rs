//! Blocks, and the certificates that finalise them.

use ailo_protocol::{
    Hash, NodeId, Signature,
    canonical::{self, CodecError, Decode, Encode},
    hash::Domain,
    merkle,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Transaction;

/// A block's canonical bytes are at most this long.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;
/// No height has more validators.
pub const MAX_VALIDATORS: usize = 4096;
/// A certificate's canonical bytes are at most this long ([`MAX_VALIDATORS`] signatures).
pub const MAX_CERTIFICATE_BYTES: usize = 512 << 10;

/// What a block commits to. Its hash is the block's id and the value that consensus decides on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    /// Network id.
    pub network: Hash,
    /// Height, from 1.
    pub height: u64,
    /// Id of the block before; zero for the first.
    pub parent: Hash,
    /// Milliseconds since 1970 (UTC); later than the parent's.
    pub time_ms: u64,
    /// The validator that made the block.
    pub proposer: NodeId,
    /// The next link of its chain of lots, where it has one.
    pub reveal: Option<Hash>,
    /// Merkle root over the transactions' canonical bytes.
    pub transactions_root: Hash,
    /// Root of the ledger's state after the block.
    pub state_root: Hash,
    /// Hash of the validator set that decides this height.
    pub validators: Hash,
    /// Hash of the validator set that decides the next height.
    pub next_validators: Hash,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Block {
    /// What is hashed and decided.
    pub header: Header,
    /// In the order of execution.
    pub transactions: Vec<Transaction>,
}

/// A header's canonical bytes are at most this long.
const MAX_HEADER_BYTES: usize = 512;

impl Header {
    /// The header of a block's canonical bytes, and how many transactions the block has, which are not looked at.
    pub fn of_block(bytes: &[u8]) -> Result<(Header, u64), CodecError> {
        let (header, rest) = canonical::decode_first(bytes, MAX_HEADER_BYTES)?;
        let (transactions, _) = canonical::decode_first(rest, 8)?;
        Ok((header, transactions))
    }

    /// The block's id.
    pub fn id(&self) -> Hash {
        Hash::of_value(Domain::Block, self)
    }
}

impl Block {
    /// The block's id: its header's hash.
    pub fn id(&self) -> Hash {
        self.header.id()
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_BLOCK_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Block, CodecError> {
        canonical::decode(bytes, MAX_BLOCK_BYTES)
    }
}

/// The Merkle root that a header commits to for these transactions.
pub fn transactions_root(transactions: &[Transaction]) -> Hash {
    merkle::root(&transaction_leaves(transactions))
}

/// Proves against a header's `transactions_root` that a transaction stands at `index`; `None` when none does.
pub fn prove_transaction(transactions: &[Transaction], index: usize) -> Option<merkle::Proof> {
    merkle::prove(&transaction_leaves(transactions), index)
}

/// The leaf of that tree for a transaction's canonical bytes.
pub fn transaction_leaf(transaction: &[u8]) -> Hash {
    Hash::of(Domain::Transaction, transaction)
}

fn transaction_leaves(transactions: &[Transaction]) -> Vec<Hash> {
    transactions.iter().map(|transaction| transaction_leaf(&transaction.encode())).collect()
}

/// A validator and its weight in votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Validator {
    /// Node key; signs votes and proposals.
    pub node: NodeId,
    /// Voting power; positive.
    pub power: u64,
}

/// The validators of one height, in their canonical order (power descending, then key).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct ValidatorSet(pub Vec<Validator>);

impl ValidatorSet {
    /// What headers commit to.
    pub fn hash(&self) -> Hash {
        Hash::of_value(Domain::ValidatorSet, self)
    }

    /// Power of all validators together.
    pub fn total_power(&self) -> u64 {
        self.0.iter().map(|v| v.power).sum()
    }

    /// Power of `node`; 0 when it does not validate.
    pub fn power(&self, node: &NodeId) -> u64 {
        self.0.iter().find(|v| v.node == *node).map_or(0, |v| v.power)
    }

    /// Whether `power` is more than two thirds of the whole.
    pub fn is_quorum(&self, power: u64) -> bool {
        u128::from(power) * 3 > u128::from(self.total_power()) * 2
    }
}

/// Proof that a block is final: precommits of more than two thirds of the power.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// Height decided.
    pub height: u64,
    /// Consensus round in which it was decided.
    pub round: u32,
    /// Id of the block.
    pub block: Hash,
    /// Precommit signatures, in order of the validators' keys.
    pub signatures: Vec<(NodeId, Signature)>,
}

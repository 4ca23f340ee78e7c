//! The genesis: what founds a network. Its hash is the network's id, and a node of another id is refused at the handshake.

use crate::{
    Address, Hash, PublicKey,
    canonical::{Decode, Encode},
    hash::Domain,
    params::{ParamError, Params},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A founder's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founder {
    /// Node key.
    pub node: PublicKey,
    /// Wallet that the node works for.
    pub wallet: Address,
    /// Whether it validates until stakes take over.
    pub validator: bool,
}

/// The data that the network trains on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// A name for people: the file's name.
    pub name: String,
    /// Root of the packed dataset: the hash of its tokens, tokenizer and split.
    pub root: Hash,
    /// Tokens in all.
    pub tokens: u64,
    /// Tokens at the end that are held out from training.
    pub held_out: u64,
}

/// A network's founding document; the text form is TOML.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// A name for people.
    pub name: String,
    /// Founding time, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Seed of the initial weights and of the first lot.
    pub seed: u64,
    /// Founders; at least one validates.
    pub founders: Vec<Founder>,
    /// Training data.
    pub dataset: Dataset,
    /// Merkle root of the initial model state, which `seed` and the model's shape determine; every node checks it.
    pub model_root: Hash,
    /// All numbers.
    pub params: Params,
}

/// Why a genesis founds no network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// A number out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// Nobody to make the first block.
    #[error("no founder validates: set validator = true for at least one")]
    NoValidator,
    /// One node twice.
    #[error("two founders have the same node key")]
    DuplicateFounder,
    /// More founders than a network can seat.
    #[error("more founders than params.ledger.max_nodes")]
    TooManyFounders,
    /// The data cannot fill a sequence.
    #[error(
        "the dataset is too small: training and held-out part must each hold more than one sequence of {sequence} tokens"
    )]
    DatasetTooSmall {
        /// Tokens of a sequence.
        sequence: u32,
    },
    /// A sequence longer than the model reads.
    #[error("params.training.sequence exceeds params.model.context")]
    SequenceTooLong,
    /// A name beyond its bound.
    #[error("the names of network and dataset are 1 to 64 bytes long")]
    Name,
}

impl Genesis {
    /// The network's id: the hash of the canonical bytes.
    pub fn id(&self) -> Hash {
        Hash::of_value(Domain::Genesis, self)
    }

    /// Checks that a network can be founded on this.
    pub fn validate(&self) -> Result<(), GenesisError> {
        self.params.validate()?;
        if !self.founders.iter().any(|f| f.validator) {
            return Err(GenesisError::NoValidator);
        }
        if self.founders.iter().map(|f| f.node).collect::<BTreeSet<_>>().len() != self.founders.len() {
            return Err(GenesisError::DuplicateFounder);
        }
        if self.founders.len() > self.params.ledger.max_nodes as usize {
            return Err(GenesisError::TooManyFounders);
        }
        let sequence = self.params.training.sequence;
        if sequence > self.params.model.context {
            return Err(GenesisError::SequenceTooLong);
        }
        let train = self.dataset.tokens.saturating_sub(self.dataset.held_out);
        if train <= u64::from(sequence) || self.dataset.held_out <= u64::from(sequence) {
            return Err(GenesisError::DatasetTooSmall { sequence });
        }
        if [&self.name, &self.dataset.name].iter().any(|n| n.is_empty() || n.len() > 64) {
            return Err(GenesisError::Name);
        }
        Ok(())
    }
}

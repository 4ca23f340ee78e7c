//! A contribution to a training round: the commitment that goes onto the ledger (proof of neural work), and the payload
//! that it commits to. The payload names network, round, base, node and salt itself, so neither its hash nor its bytes
//! can be handed in by somebody else.

use crate::{
    Hash, NodeId,
    canonical::{self, CodecError, Decode, Encode},
    hash::Domain,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Losses travel as integers: millionths of a nat a token.
pub type MicroNats = u64;

/// The commitment to one node's work in one round; signed as the transaction that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Contribution {
    /// Round number.
    pub round: u64,
    /// Merkle root of the model state that training started from.
    pub base_root: Hash,
    /// Hash of the payload's canonical bytes.
    pub payload: Hash,
    /// Length of the payload's canonical bytes.
    pub payload_bytes: u64,
    /// [`update_hash`] of the encoded update in the payload.
    pub update: Hash,
    /// [`trace_commitment`] to what only who trained knows.
    pub trace: Hash,
    /// Tokens trained on.
    pub tokens: u64,
    /// Inner steps taken.
    pub steps: u32,
    /// Position in the round's drawn order: decides the data slice.
    pub slot: u32,
    /// Mean training loss of the first tenth of the steps.
    pub loss_first: MicroNats,
    /// Mean training loss of the last tenth of the steps.
    pub loss_last: MicroNats,
    /// Determinism class of the machine (the hash of a probe training).
    pub class: Hash,
}

impl Contribution {
    /// All that whoever trains the slot again must find, as one hash.
    pub fn result(&self) -> Hash {
        let losses = [self.loss_first.to_le_bytes(), self.loss_last.to_le_bytes()];
        Hash::of_parts(Domain::Work, &[&self.update.0, &self.trace.0, &losses[0], &losses[1]])
    }
}

/// The hash of an encoded update.
pub fn update_hash(encoded: &[u8]) -> Hash {
    Hash::of(Domain::Work, encoded)
}

/// What a contributor commits to beside its update: `trace` is the hash of the losses of all its steps, which nobody knows
/// who did not train. Who replays the work shows `trace` itself, and thereby that it did.
pub fn trace_commitment(maker: &NodeId, trace: &Hash) -> Hash {
    Hash::of_parts(Domain::Training, &[&maker.0, &trace.0])
}

/// What a contribution's hash commits to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Payload {
    /// Network id.
    pub network: Hash,
    /// Round number.
    pub round: u64,
    /// Merkle root of the model state that training started from.
    pub base_root: Hash,
    /// The contributor.
    pub node: NodeId,
    /// Random bytes, so that equal updates have different hashes.
    pub salt: [u8; 32],
    /// The encoded update (see `training/src/codec.rs`).
    pub update: Vec<u8>,
}

impl Payload {
    /// Canonical bytes of everything but the update's own: so a payload's length is known before it is fetched.
    pub const FRAME_BYTES: usize = 32 + 8 + 32 + 32 + 32 + 8;

    /// Canonical bytes, and the hash that a [`Contribution`] commits to.
    pub fn seal(&self) -> (Vec<u8>, Hash) {
        let bytes = canonical::encode(self);
        let hash = Hash::of(Domain::Blob, &bytes);
        (bytes, hash)
    }

    /// Decodes a payload of at most `max` bytes. Updates of large models exceed what [`canonical::decode`] takes, so the
    /// frame is decoded by itself and the update is what follows its length: as canonical as the whole.
    pub fn open(bytes: &[u8], max: usize) -> Result<Payload, CodecError> {
        if bytes.len() > max {
            return Err(CodecError::TooLong { len: bytes.len(), max });
        }
        let (frame, update) = bytes.split_at_checked(Payload::FRAME_BYTES).ok_or(CodecError::NotCanonical)?;
        let (network, round, base_root, node, salt, length): (_, _, _, _, _, u64) =
            canonical::decode(frame, Payload::FRAME_BYTES)?;
        if length != update.len() as u64 {
            return Err(CodecError::NotCanonical);
        }
        Ok(Payload { network, round, base_root, node, salt, update: update.to_vec() })
    }
}

/// A validator's finding about one contribution.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The contributor.
    pub node: NodeId,
    /// "I hold the payload, and every cheap check passes."
    pub valid: bool,
    /// "It has more in common with another one than independent work has." No reason to refuse it, but to train it again.
    pub suspect: bool,
    /// Held-out loss of base minus update; only drawn committee members measure it.
    pub loss: Option<MicroNats>,
    /// How much more the update lowers the loss on its own slot's data than on held-out text; measured with the loss.
    pub own: Option<i64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::PublicKey;

    #[test]
    fn a_payload_is_its_frame_and_its_update() {
        let update = vec![1, 2, 3];
        let payload = Payload {
            network: Hash([1; 32]),
            round: 2,
            base_root: Hash([3; 32]),
            node: PublicKey([4; 32]),
            salt: [5; 32],
            update: update.clone(),
        };
        let (bytes, hash) = payload.seal();
        assert_eq!(bytes.len(), Payload::FRAME_BYTES + update.len());
        assert_eq!(Payload::open(&bytes, bytes.len()).unwrap(), payload);
        assert_eq!(hash, Hash::of(Domain::Blob, &bytes));
        assert!(Payload::open(&bytes, bytes.len() - 1).is_err());
        assert_eq!(canonical::decode::<Payload>(&bytes, bytes.len()).unwrap(), payload);
        for bad in [&bytes[..bytes.len() - 1], &bytes[..Payload::FRAME_BYTES - 1], &[bytes.as_slice(), &[0]].concat()] {
            assert!(Payload::open(bad, usize::MAX).is_err());
        }
    }

    #[test]
    fn a_large_models_payload_can_be_opened() {
        let update = vec![7; canonical::MAX_OBJECT_BYTES + 1];
        let payload = Payload {
            network: Hash::ZERO,
            round: 0,
            base_root: Hash::ZERO,
            node: PublicKey([0; 32]),
            salt: [0; 32],
            update,
        };
        let (bytes, _) = payload.seal();
        assert!(Payload::open(&bytes, bytes.len()).unwrap() == payload);
    }
}

//! What Malachite's core is generic over, in terms of this ledger.
//!
//! - The *value* decided on is a block's id; the block travels beside the proposal.
//! - A validator's *address* and public key are its node key. Signatures are ed25519, over [`super::codec::Ballot`]s.
//! - *Proposers* rotate: height plus round is multiplied by the golden ratio, and the fraction picks a point on the
//!   line of all powers laid end to end (a Weyl sequence). So everybody proposes in proportion to power, whoever holds
//!   less than 38 % never twice in a row, and each node computes it from height, round and set alone.

use crate::block;
use ailo_protocol::{Hash, Keypair, NodeId, Signature};
use arc_malachitebft_core_types as types;
use std::{fmt, sync::Arc};
use types::{NilOrVal, Round, SignedExtension, VoteType, VotingPower};

/// This ledger, as the core's context.
#[derive(Clone, Copy, Debug)]
pub struct Ledger;

/// A block's height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(pub u64);

/// A validator's node key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub NodeId);

/// A block's id: both the value and its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockId(pub Hash);

/// Proposals come in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoParts {}

/// ed25519 with this project's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ed25519;

/// A prevote or precommit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The core's terms.
pub struct Vote {
    pub kind: VoteType,
    pub height: Height,
    pub round: Round,
    pub value: NilOrVal<BlockId>,
    pub validator: Address,
}

/// A proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The core's terms.
pub struct Proposal {
    pub height: Height,
    pub round: Round,
    pub value: BlockId,
    pub pol_round: Round,
    pub proposer: Address,
}

/// A validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    address: Address,
    power: u64,
}

/// The validators of a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    members: Arc<[Validator]>,
    total: u64,
}

/// A set that the core can't count with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the validator set is empty, or its power exceeds what can be counted")]
pub struct UncountableSet;

impl TryFrom<&block::ValidatorSet> for ValidatorSet {
    type Error = UncountableSet;

    fn try_from(set: &block::ValidatorSet) -> Result<ValidatorSet, UncountableSet> {
        let members: Arc<[Validator]> =
            set.0.iter().map(|v| Validator { address: Address(v.node), power: v.power }).collect();
        let total = members.iter().try_fold(0u64, |sum, v| sum.checked_add(v.power)).ok_or(UncountableSet)?;
        // The core compares thrice the power with twice the total, in 64 bits.
        if members.is_empty() || total.checked_mul(3).is_none() {
            return Err(UncountableSet);
        }
        Ok(ValidatorSet { members, total })
    }
}

impl ValidatorSet {
    /// Who proposes at `height` in `round`.
    pub fn proposer(&self, height: u64, round: u32) -> &Validator {
        const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15; // its fraction, times 2^64
        let fraction = height.wrapping_add(u64::from(round)).wrapping_mul(GOLDEN_RATIO);
        let mut point = ((u128::from(fraction) * u128::from(self.total)) >> 64) as u64;
        for member in self.members.iter() {
            match point.checked_sub(member.power) {
                Some(left) => point = left,
                None => return member,
            }
        }
        &self.members[0] // only a set without any power comes here
    }
}

impl types::Context for Ledger {
    type Address = Address;
    type Height = Height;
    type ProposalPart = NoParts;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = ValidatorSet;
    type Timeouts = types::LinearTimeouts;
    type Value = BlockId;
    type Vote = Vote;
    type Extension = bytes::Bytes;
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(&self, set: &'a ValidatorSet, height: Height, round: Round) -> &'a Validator {
        set.proposer(height.0, round.as_u32().unwrap_or(0))
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: BlockId,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal { height, round, value, pol_round, proposer }
    }

    fn new_prevote(&self, height: Height, round: Round, value: NilOrVal<BlockId>, validator: Address) -> Vote {
        Vote { kind: VoteType::Prevote, height, round, value, validator }
    }

    fn new_precommit(&self, height: Height, round: Round, value: NilOrVal<BlockId>, validator: Address) -> Vote {
        Vote { kind: VoteType::Precommit, height, round, value, validator }
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl types::Height for Height {
    const ZERO: Height = Height(0);
    const INITIAL: Height = Height(1);

    fn increment_by(&self, n: u64) -> Height {
        Height(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Height> {
        self.0.checked_sub(n).map(Height)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl types::Address for Address {}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl types::Value for BlockId {
    type Id = BlockId;

    fn id(&self) -> BlockId {
        *self
    }
}

impl types::ProposalPart<Ledger> for NoParts {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

impl types::Validator<Ledger> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &NodeId {
        &self.address.0
    }

    fn voting_power(&self) -> VotingPower {
        self.power
    }
}

impl types::ValidatorSet<Ledger> for ValidatorSet {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.total
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.members.iter().find(|v| v.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.members.get(index)
    }
}

impl types::Proposal<Ledger> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockId {
        &self.value
    }

    fn take_value(self) -> BlockId {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// Votes carry no extensions.
impl types::Vote<Ledger> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BlockId> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockId> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.validator
    }

    fn extension(&self) -> Option<&SignedExtension<Ledger>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ledger>> {
        None
    }

    fn extend(self, _: SignedExtension<Ledger>) -> Vote {
        self
    }
}

impl types::SigningScheme for Ed25519 {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = NodeId;
    type PrivateKey = Keypair;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature).map_err(|_| "a signature has 64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<NodeId, &'static str> {
        bytes.try_into().map(ailo_protocol::PublicKey).map_err(|_| "a public key has 32 bytes")
    }

    fn encode_public_key(key: &NodeId) -> Vec<u8> {
        key.0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::PublicKey;

    fn set(powers: &[u64]) -> ValidatorSet {
        let validator = |(i, power): (usize, &u64)| block::Validator { node: PublicKey([i as u8; 32]), power: *power };
        (&block::ValidatorSet(powers.iter().enumerate().map(validator).collect())).try_into().unwrap()
    }

    fn proposers(set: &ValidatorSet, heights: std::ops::Range<u64>) -> Vec<u8> {
        heights.map(|height| set.proposer(height, 0).address.0.0[0]).collect()
    }

    #[test]
    fn proposers_take_turns_in_proportion_to_power() {
        for powers in [&[1, 1, 1, 1][..], &[5, 3, 1, 1], &[1 << 60, 1 << 59, 1 << 59], &[7]] {
            let turns = proposers(&set(powers), 0..10_000);
            let total: u64 = powers.iter().sum();
            for (i, power) in powers.iter().enumerate() {
                let share = turns.iter().filter(|turn| **turn == i as u8).count() as f64 / 10_000.0;
                assert!((share - *power as f64 / total as f64).abs() < 0.002, "{powers:?}: {i} has {share}");
            }
        }
    }

    #[test]
    fn nobody_below_three_eighths_of_the_power_proposes_twice_in_a_row() {
        for powers in [&[1, 1, 1][..], &[1; 12], &[3, 3, 2]] {
            let turns = proposers(&set(powers), 0..10_000);
            assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{powers:?}");
        }
    }

    #[test]
    fn rounds_continue_the_rotation_and_the_order_is_pinned() {
        let set = set(&[1, 1, 1, 1]);
        assert_eq!(set.proposer(5, 3), set.proposer(8, 0));
        assert_eq!(proposers(&set, 1..13), [2, 0, 3, 1, 0, 2, 1, 3, 2, 0, 3, 1]);
        assert_eq!(set.proposer(u64::MAX, u32::MAX), set.proposer(u64::from(u32::MAX) - 1, 0));
    }

    #[test]
    fn a_set_that_would_overflow_the_core_is_refused() {
        let validator = |power| block::Validator { node: PublicKey([0; 32]), power };
        for powers in [&[][..], &[u64::MAX / 2], &[u64::MAX, 1]] {
            let set = block::ValidatorSet(powers.iter().map(|power| validator(*power)).collect());
            assert_eq!(ValidatorSet::try_from(&set), Err(UncountableSet));
        }
    }
}

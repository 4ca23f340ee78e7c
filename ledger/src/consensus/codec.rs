//! The canonical bytes of consensus: what validators sign, what they send each other, and what the write-ahead log
//! keeps. Signed bytes bind the network id and cover a [`Ballot`]; the key that verifies them names the validator.

use super::context::{Address, BlockId, Height, Ledger, Proposal, Vote};
use crate::{Block, block::Certificate};
use ailo_protocol::{
    Hash, Keypair, NodeId, Signature,
    canonical::{self, CodecError, Decode, Encode},
    keys::signing_bytes,
};
use arc_malachitebft_core_types as types;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use types::{
    CommitCertificate, NilOrVal, PolkaCertificate, PolkaSignature, Round, RoundCertificate, RoundCertificateType,
    RoundSignature, SignedMessage, SignedProposal, SignedVote, VoteType,
};

/// A message's canonical bytes are at most this long: a block with its proposal fits, and so does a gossip message.
pub const MAX_MESSAGE_BYTES: usize = (1 << 20) - (1 << 10);
/// The same for an entry of the write-ahead log.
pub const MAX_WAL_ENTRY_BYTES: usize = 1 << 20;

/// What a validator signs: one ballot a height, round and step, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Ballot {
    /// Height.
    pub height: u64,
    /// Round.
    pub round: u32,
    /// What the ballot is.
    pub step: Step,
    /// The block's id; `None` votes for nothing.
    pub block: Option<Hash>,
}

/// The kinds of ballots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A proposal; of a block that had a polka in an earlier round, or of a fresh one.
    Propose {
        /// The round of that polka.
        pol_round: Option<u32>,
    },
    /// "I executed the block and found it valid."
    Prevote,
    /// "I saw two thirds prevote it."
    Precommit,
}

/// A ballot with its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SignedBallot")]
pub struct Signed {
    /// What is signed.
    pub ballot: Ballot,
    /// By whom.
    pub node: NodeId,
    /// Over network id and ballot.
    pub signature: Signature,
}

/// What validators send each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// A prevote or precommit.
    Vote(Signed),
    /// A proposal with its block.
    Proposal(Signed, Arc<Block>),
    /// The prevotes of more than two thirds of the power for one block (a certificate of prevotes).
    Polka(Certificate),
    /// Why a round was entered.
    Round(RoundProof),
}

/// Votes of one height and round that justify to enter a round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RoundProof {
    /// Height.
    pub height: u64,
    /// Round of the votes.
    pub round: u32,
    /// Precommits of two thirds of the power end a round; else any votes of one third lead into it.
    pub ends: bool,
    /// Whether a precommit (else a prevote), for what, by whom.
    pub votes: Vec<(bool, Option<Hash>, NodeId, Signature)>,
}

/// What the write-ahead log keeps of a height: the core's inputs, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WalEntry {
    /// A vote, of this node or another.
    Vote(Signed),
    /// A proposal; its block stands in an entry of its own.
    Proposal(Signed),
    /// A polka that came as a certificate.
    Polka(Certificate),
    /// A timeout of the propose (0), prevote (1) or precommit (2) step.
    Timeout(u8, u32),
    /// A block that was found valid.
    Block(Arc<Block>),
    /// The verdict on a proposed block.
    Value {
        /// Its id.
        block: Hash,
        /// Round it was proposed in.
        round: u32,
        /// Round of its polka.
        pol_round: Option<u32>,
        /// Who proposed it.
        proposer: NodeId,
        /// Whether to vote for it.
        valid: bool,
    },
}

impl Ballot {
    /// The bytes that a signature covers.
    pub fn signing_bytes(&self, network: &Hash) -> Vec<u8> {
        signing_bytes(network, "consensus", self)
    }

    /// Signs it; the caller has made sure that no other ballot of this height, round and step was ever signed.
    pub fn sign(self, network: &Hash, key: &Keypair) -> Signed {
        Signed { ballot: self, node: *key.public(), signature: key.sign(&self.signing_bytes(network)) }
    }

    /// Whether `other` stands for the same decision, which may be made only once.
    pub fn is_rival(&self, other: &Ballot) -> bool {
        let kind = |step| match step {
            Step::Propose { .. } => 0,
            Step::Prevote => 1,
            Step::Precommit => 2,
        };
        self != other && (self.height, self.round, kind(self.step)) == (other.height, other.round, kind(other.step))
    }
}

impl Signed {
    /// Whether the signature is the node's.
    pub fn verifies(&self, network: &Hash) -> bool {
        self.node.verify(&self.ballot.signing_bytes(network), &self.signature).is_ok()
    }
}

impl Message {
    /// Height that the message belongs to.
    pub fn height(&self) -> u64 {
        match self {
            Message::Vote(signed) | Message::Proposal(signed, _) => signed.ballot.height,
            Message::Polka(certificate) => certificate.height,
            Message::Round(proof) => proof.height,
        }
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_MESSAGE_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Message, CodecError> {
        canonical::decode(bytes, MAX_MESSAGE_BYTES)
    }
}

impl WalEntry {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_WAL_ENTRY_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<WalEntry, CodecError> {
        canonical::decode(bytes, MAX_WAL_ENTRY_BYTES)
    }
}

// To and from the core's types. The core never gives an undefined round of a vote, proposal or certificate away.

fn round_number(round: Round) -> u32 {
    round.as_u32().unwrap_or(0)
}

fn value(block: Option<Hash>) -> NilOrVal<BlockId> {
    block.map_or(NilOrVal::Nil, |block| NilOrVal::Val(BlockId(block)))
}

fn block(value: &NilOrVal<BlockId>) -> Option<Hash> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(id) => Some(id.0),
    }
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Ballot {
        let step = match vote.kind {
            VoteType::Prevote => Step::Prevote,
            VoteType::Precommit => Step::Precommit,
        };
        Ballot { height: vote.height.0, round: round_number(vote.round), step, block: block(&vote.value) }
    }
}

impl From<&Proposal> for Ballot {
    fn from(proposal: &Proposal) -> Ballot {
        let step = Step::Propose { pol_round: proposal.pol_round.as_u32() };
        Ballot { height: proposal.height.0, round: round_number(proposal.round), step, block: Some(proposal.value.0) }
    }
}

impl From<&SignedVote<Ledger>> for Signed {
    fn from(vote: &SignedVote<Ledger>) -> Signed {
        Signed { ballot: (&vote.message).into(), node: vote.message.validator.0, signature: vote.signature }
    }
}

impl From<&SignedProposal<Ledger>> for Signed {
    fn from(proposal: &SignedProposal<Ledger>) -> Signed {
        Signed { ballot: (&proposal.message).into(), node: proposal.message.proposer.0, signature: proposal.signature }
    }
}

impl Signed {
    /// As the core's vote, if it is one.
    pub fn to_vote(&self) -> Option<SignedVote<Ledger>> {
        let kind = match self.ballot.step {
            Step::Prevote => VoteType::Prevote,
            Step::Precommit => VoteType::Precommit,
            Step::Propose { .. } => return None,
        };
        let vote = Vote {
            kind,
            height: Height(self.ballot.height),
            round: Round::new(self.ballot.round),
            value: value(self.ballot.block),
            validator: Address(self.node),
        };
        Some(SignedMessage::new(vote, self.signature))
    }

    /// As the core's proposal, if it is one.
    pub fn to_proposal(&self) -> Option<SignedProposal<Ledger>> {
        let Step::Propose { pol_round } = self.ballot.step else { return None };
        let proposal = Proposal {
            height: Height(self.ballot.height),
            round: Round::new(self.ballot.round),
            value: BlockId(self.ballot.block?),
            pol_round: pol_round.into(),
            proposer: Address(self.node),
        };
        Some(SignedMessage::new(proposal, self.signature))
    }
}

impl From<&CommitCertificate<Ledger>> for Certificate {
    fn from(certificate: &CommitCertificate<Ledger>) -> Certificate {
        let signatures = certificate.commit_signatures.iter().map(|s| (s.address.0, s.signature));
        certificate_of(certificate.height, certificate.round, certificate.value_id, signatures)
    }
}

/// As a certificate of prevotes.
impl From<&PolkaCertificate<Ledger>> for Certificate {
    fn from(certificate: &PolkaCertificate<Ledger>) -> Certificate {
        let signatures = certificate.polka_signatures.iter().map(|s| (s.address.0, s.signature));
        certificate_of(certificate.height, certificate.round, certificate.value_id, signatures)
    }
}

fn certificate_of(
    height: Height,
    round: Round,
    block: BlockId,
    signatures: impl Iterator<Item = (NodeId, Signature)>,
) -> Certificate {
    let mut signatures: Vec<_> = signatures.collect();
    signatures.sort_unstable();
    Certificate { height: height.0, round: round_number(round), block: block.0, signatures }
}

/// A certificate of prevotes as the core's.
pub fn to_polka(certificate: &Certificate) -> PolkaCertificate<Ledger> {
    let signature = |(node, signature): &(NodeId, Signature)| PolkaSignature::new(Address(*node), *signature);
    PolkaCertificate {
        height: Height(certificate.height),
        round: Round::new(certificate.round),
        value_id: BlockId(certificate.block),
        polka_signatures: certificate.signatures.iter().map(signature).collect(),
    }
}

impl From<&RoundCertificate<Ledger>> for RoundProof {
    fn from(certificate: &RoundCertificate<Ledger>) -> RoundProof {
        let vote = |s: &RoundSignature<Ledger>| {
            (s.vote_type == VoteType::Precommit, block(&s.value_id), s.address.0, s.signature)
        };
        RoundProof {
            height: certificate.height.0,
            round: round_number(certificate.round),
            ends: certificate.cert_type == RoundCertificateType::Precommit,
            votes: certificate.round_signatures.iter().map(vote).collect(),
        }
    }
}

impl From<&RoundProof> for RoundCertificate<Ledger> {
    fn from(proof: &RoundProof) -> RoundCertificate<Ledger> {
        let signature = |(precommit, block, node, signature): &(bool, Option<Hash>, NodeId, Signature)| {
            let kind = if *precommit { VoteType::Precommit } else { VoteType::Prevote };
            RoundSignature::new(kind, value(*block), Address(*node), *signature)
        };
        RoundCertificate {
            height: Height(proof.height),
            round: Round::new(proof.round),
            cert_type: if proof.ends { RoundCertificateType::Precommit } else { RoundCertificateType::Skip },
            round_signatures: proof.votes.iter().map(signature).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{State, build_block, testing};

    const NETWORK: Hash = Hash([1; 32]);

    fn ballot(step: Step, block: Option<Hash>) -> Ballot {
        Ballot { height: 7, round: 2, step, block }
    }

    fn messages() -> Vec<Message> {
        let key = testing::node_key(0);
        let state = State::genesis(&testing::genesis(1, |_| {}));
        let (block, _) = build_block(&state, *key.public(), 0, None, std::iter::empty()).unwrap();
        let signed = |step| ballot(step, Some(block.id())).sign(&NETWORK, &key);
        let vote = signed(Step::Prevote);
        let polka =
            Certificate { height: 7, round: 2, block: block.id(), signatures: vec![(vote.node, vote.signature)] };
        let votes = vec![(true, None, vote.node, vote.signature), (false, Some(block.id()), vote.node, vote.signature)];
        vec![
            Message::Vote(vote),
            Message::Vote(ballot(Step::Precommit, None).sign(&NETWORK, &key)),
            Message::Proposal(signed(Step::Propose { pol_round: Some(1) }), Arc::new(block)),
            Message::Polka(polka),
            Message::Round(RoundProof { height: 7, round: 2, ends: false, votes }),
        ]
    }

    #[test]
    fn messages_survive_the_wire_and_nothing_else_decodes_to_them() {
        for message in messages() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            assert_eq!(message.height(), 7);
            for cut in 0..bytes.len() {
                assert!(Message::decode(&bytes[..cut]).is_err());
            }
            assert!(Message::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(matches!(Message::decode(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(CodecError::TooLong { .. })));
    }

    #[test]
    fn the_cores_types_and_ours_say_the_same() {
        for message in messages() {
            match message {
                Message::Vote(signed) => assert_eq!(Signed::from(&signed.to_vote().unwrap()), signed),
                Message::Proposal(signed, _) => assert_eq!(Signed::from(&signed.to_proposal().unwrap()), signed),
                Message::Polka(polka) => assert_eq!(Certificate::from(&to_polka(&polka)), polka),
                Message::Round(proof) => {
                    assert_eq!(RoundProof::from(&RoundCertificate::<Ledger>::from(&proof)), proof)
                }
            }
        }
    }

    #[test]
    fn what_is_signed_is_pinned() {
        let prevote = ballot(Step::Prevote, Some(Hash([9; 32])));
        let expected = "0700000000000000020000000100000001".to_owned() + &"09".repeat(32);
        assert_eq!(hex(&canonical::encode(&prevote)), expected);
        let fresh = ballot(Step::Propose { pol_round: None }, Some(Hash([9; 32])));
        assert_eq!(
            hex(&canonical::encode(&fresh)),
            "070000000000000002000000000000000001".to_owned() + &"09".repeat(32)
        );
        assert_eq!(hex(&prevote.signing_bytes(&NETWORK)), PREVOTE_DIGEST);
        let others = [
            ballot(Step::Precommit, prevote.block),
            ballot(Step::Prevote, None),
            Ballot { height: 8, ..prevote },
            Ballot { round: 3, ..prevote },
            ballot(Step::Propose { pol_round: Some(0) }, prevote.block),
            fresh,
        ];
        assert!(others.iter().all(|other| other.signing_bytes(&NETWORK) != prevote.signing_bytes(&NETWORK)));
        assert_ne!(prevote.signing_bytes(&Hash([2; 32])), prevote.signing_bytes(&NETWORK));
    }

    const PREVOTE_DIGEST: &str = "d5cd8dfc7c70efc2a010c68864318e0a01945427158a39061a378c8607f422a7";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

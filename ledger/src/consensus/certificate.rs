//! Proofs made of votes: who may have signed, how often, and with how much power.

use super::codec::{Ballot, RoundProof, Step};
use crate::block::{Certificate, ValidatorSet};
use ailo_protocol::{Hash, NodeId, Signature};
use std::collections::BTreeMap;

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Signed by somebody who has no vote.
    #[error("{0} is not a validator of this height")]
    Stranger(NodeId),
    /// Not in ascending order of the keys, each once.
    #[error("the signatures are not in order of the validators' keys, each once")]
    Order,
    /// A signature that does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(NodeId),
    /// Too little power.
    #[error("the signers hold {signed} of {total} votes, which is not enough")]
    Power {
        /// Power that signed.
        signed: u64,
        /// Power of all.
        total: u64,
    },
    /// A prevote where only precommits count.
    #[error("a prevote of {0} stands among precommits")]
    Prevote(NodeId),
}

/// Checks that more than two thirds of the power of `set` precommitted the certificate's block.
pub fn verify_certificate(network: &Hash, set: &ValidatorSet, certificate: &Certificate) -> Result<(), BadCertificate> {
    verify_votes(network, set, certificate, Step::Precommit)
}

/// The same for prevotes.
pub(super) fn verify_polka(network: &Hash, set: &ValidatorSet, polka: &Certificate) -> Result<(), BadCertificate> {
    verify_votes(network, set, polka, Step::Prevote)
}

fn verify_votes(
    network: &Hash,
    set: &ValidatorSet,
    certificate: &Certificate,
    step: Step,
) -> Result<(), BadCertificate> {
    let Certificate { height, round, block, signatures } = certificate;
    let ballot = Ballot { height: *height, round: *round, step, block: Some(*block) };
    if !signatures.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(BadCertificate::Order);
    }
    let signed = power(network, set, signatures.iter().map(|(node, signature)| (node, signature, ballot)))?;
    if set.is_quorum(signed) { Ok(()) } else { Err(BadCertificate::Power { signed, total: set.total_power() }) }
}

/// Checks the votes that justify to enter a round.
pub(super) fn verify_round(network: &Hash, set: &ValidatorSet, proof: &RoundProof) -> Result<(), BadCertificate> {
    let total = set.total_power();
    let mut voters: Vec<&NodeId> = proof.votes.iter().map(|(_, _, node, _)| node).collect();
    voters.sort_unstable();
    if !voters.is_sorted_by(|a, b| a < b) {
        return Err(BadCertificate::Order);
    }
    if let Some((_, _, node, _)) = proof.votes.iter().find(|(precommit, ..)| proof.ends && !precommit) {
        return Err(BadCertificate::Prevote(*node));
    }
    let votes = proof.votes.iter().map(|(precommit, block, node, signature)| {
        let step = if *precommit { Step::Precommit } else { Step::Prevote };
        (node, signature, Ballot { height: proof.height, round: proof.round, step, block: *block })
    });
    let signed = power(network, set, votes)?;
    let enough = if proof.ends { set.is_quorum(signed) } else { u128::from(signed) * 3 > u128::from(total) };
    if enough { Ok(()) } else { Err(BadCertificate::Power { signed, total }) }
}

/// The power behind votes of distinct nodes, all of which must be known and verify. Strangers are found before any
/// signature is verified, so the work is bounded by the set.
fn power<'a>(
    network: &Hash,
    set: &ValidatorSet,
    votes: impl Iterator<Item = (&'a NodeId, &'a Signature, Ballot)> + Clone,
) -> Result<u64, BadCertificate> {
    let powers: BTreeMap<&NodeId, u64> = set.0.iter().map(|v| (&v.node, v.power)).collect();
    let mut signed = 0u64;
    for (node, ..) in votes.clone() {
        let power = powers.get(node).ok_or(BadCertificate::Stranger(*node))?;
        signed = signed.saturating_add(*power);
    }
    for (node, signature, ballot) in votes {
        node.verify(&ballot.signing_bytes(network), signature).map_err(|_| BadCertificate::Signature(*node))?;
    }
    Ok(signed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::Validator;
    use ailo_protocol::Keypair;

    const NETWORK: Hash = Hash([1; 32]);

    fn keys(n: u8) -> Vec<Keypair> {
        let mut keys: Vec<Keypair> = (0..n).map(|i| Keypair::from_seed([i; 32])).collect();
        keys.sort_by_key(|key| *key.public());
        keys
    }

    fn set(keys: &[Keypair]) -> ValidatorSet {
        ValidatorSet(keys.iter().map(|key| Validator { node: *key.public(), power: 5 }).collect())
    }

    fn certificate(keys: &[Keypair], step: Step) -> Certificate {
        let ballot = Ballot { height: 3, round: 1, step, block: Some(Hash([9; 32])) };
        let signatures = keys.iter().map(|key| (*key.public(), ballot.sign(&NETWORK, key).signature)).collect();
        Certificate { height: 3, round: 1, block: Hash([9; 32]), signatures }
    }

    #[test]
    fn three_of_four_are_enough_and_two_are_not() {
        let keys = keys(4);
        let verify = |certificate| verify_certificate(&NETWORK, &set(&keys), &certificate);
        assert_eq!(verify(certificate(&keys, Step::Precommit)), Ok(()));
        assert_eq!(verify(certificate(&keys[1..], Step::Precommit)), Ok(()));
        let too_few = Err(BadCertificate::Power { signed: 10, total: 20 });
        assert_eq!(verify(certificate(&keys[2..], Step::Precommit)), too_few);
        assert_eq!(verify(certificate(&[], Step::Precommit)), Err(BadCertificate::Power { signed: 0, total: 20 }));
    }

    #[test]
    fn a_certificate_with_anything_changed_proves_nothing() {
        let keys = keys(5);
        let set = set(&keys[..4]);
        let good = certificate(&keys[..4], Step::Precommit);
        let node = good.signatures[0].0;
        let changed = |change: &dyn Fn(&mut Certificate)| {
            let mut certificate = good.clone();
            change(&mut certificate);
            verify_certificate(&NETWORK, &set, &certificate)
        };
        let forged = Err(BadCertificate::Signature(node));
        assert_eq!(changed(&|c| c.height += 1), forged);
        assert_eq!(changed(&|c| c.round += 1), forged);
        assert_eq!(changed(&|c| c.block = Hash([8; 32])), forged);
        assert_eq!(changed(&|c| c.signatures[0].1.0[5] ^= 1), forged);
        assert_eq!(changed(&|c| c.signatures.swap(0, 1)), Err(BadCertificate::Order));
        assert_eq!(changed(&|c| c.signatures[1] = c.signatures[0]), Err(BadCertificate::Order));
        assert_eq!(verify_certificate(&NETWORK, &set, &certificate(&keys[..4], Step::Prevote)), forged);
        assert_eq!(verify_certificate(&Hash([2; 32]), &set, &good), forged);
        let with_stranger = verify_certificate(&NETWORK, &set, &certificate(&keys, Step::Precommit));
        assert!(matches!(with_stranger, Err(BadCertificate::Stranger(_))));
    }

    #[test]
    fn a_round_ends_by_two_thirds_precommits_and_is_skipped_to_by_a_third_of_any_votes() {
        let keys = keys(4);
        let proof = |ends, keys: &[Keypair], precommit| {
            let step = if precommit { Step::Precommit } else { Step::Prevote };
            let ballot = Ballot { height: 3, round: 1, step, block: None };
            let vote = |key: &Keypair| (precommit, None, *key.public(), ballot.sign(&NETWORK, key).signature);
            RoundProof { height: 3, round: 1, ends, votes: keys.iter().map(vote).collect() }
        };
        let verify = |proof: RoundProof| verify_round(&NETWORK, &set(&keys), &proof);
        assert_eq!(verify(proof(true, &keys[..3], true)), Ok(()));
        assert_eq!(verify(proof(false, &keys[..2], false)), Ok(()));
        assert!(matches!(verify(proof(true, &keys[..3], false)), Err(BadCertificate::Prevote(_))));
        assert!(matches!(verify(proof(true, &keys[..2], true)), Err(BadCertificate::Power { .. })));
        assert!(matches!(verify(proof(false, &keys[..1], false)), Err(BadCertificate::Power { .. })));
        let twice = [keys[0].clone(), keys[0].clone()];
        assert_eq!(verify(proof(false, &twice, false)), Err(BadCertificate::Order));
    }
}

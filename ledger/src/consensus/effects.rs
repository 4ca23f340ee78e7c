//! What the core asks for: sign, send, wait, remember. Effects become the host's outputs, entries of the write-ahead log
//! and, once durable, signatures.

use super::{
    certificate::{BadCertificate, verify_polka, verify_round},
    codec::{self, Ballot, Message, Signed, WalEntry},
    context::{Address, BlockId, Height, Ledger},
    host::{Decision, Output, TimeoutId, TimeoutKind},
    persist::{Persist, SignError},
};
use crate::{
    block::{Block, Certificate},
    framelog::LogError,
    invariants,
    plants::{self, Plant},
    state::{Executed, State, execute_block},
    transaction::Evidence,
};
use ailo_protocol::{Hash, Keypair, NodeId, Signature};
use arc_malachitebft_core_consensus as malachite;
use arc_malachitebft_core_types as types;
use malachite::{
    ConsensusMsg, Effect, LivenessMsg, MisbehaviorEvidence, ProposedValue, Resumable, Resume, SignedConsensusMsg,
    VoteExtensionError,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use types::{CertificateError, Round, SignedMessage, Timeout, Validity, ValueOrigin};

/// A proposer's time to build, send and have executed its block, beside the time it may wait for transactions.
const PROPOSE: Duration = Duration::from_millis(3000);
/// Time for the votes of the others, once two thirds have voted without agreeing.
const VOTE: Duration = Duration::from_millis(1000);
/// Votes are sent again after this long without progress.
const REBROADCAST: Duration = Duration::from_millis(2000);
/// Every timeout grows by this much a round, up to the bound.
const GROWTH: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// No signature: marks what was not signed, and so is not sent.
const UNSIGNED: Signature = Signature([0; 64]);

/// Everything but the core; what the core's effects act on.
pub(super) struct Node<P> {
    pub key: Keypair,
    pub network: Hash,
    pub files: Option<P>,
    /// After the last committed block.
    pub state: State,
    pub phase: Phase,
    /// Blocks proposed at the running height.
    pub blocks: BTreeMap<Hash, Held>,
    /// Set while this node is to propose and has not.
    pub wanted: Option<(u64, u32)>,
    /// This node's proposal in the current round.
    pub proposed: Option<Vec<u8>>,
    /// Inputs are remembered for replay: a validator's are.
    pub keeps_log: bool,
    pub replaying: bool,
    pub certificate: Option<Certificate>,
    pub failure: Option<LogError>,
    pub outputs: Vec<Output>,
}

pub(super) enum Phase {
    /// Not started.
    Idle,
    /// The height after the state's runs.
    Running,
    /// It is decided; the shell writes it down.
    Committing(Box<State>),
}

/// A valid block and what it does.
pub(super) struct Held {
    pub block: Arc<Block>,
    pub executed: Executed,
    pub round: u32,
}

impl<P: Persist> Node<P> {
    /// The running height.
    pub fn height(&self) -> u64 {
        self.state.height() + 1
    }

    pub fn decide(&mut self, block: Arc<Block>, certificate: Certificate, executed: Executed) {
        let validators = self.state.validators();
        invariants::debug_check(|| invariants::certified(&self.network, validators, &block, &certificate));
        self.phase = Phase::Committing(Box::new(executed.state.clone()));
        self.blocks.clear();
        self.wanted = None;
        self.proposed = None;
        self.outputs.push(Output::CancelAllTimeouts);
        self.outputs.push(Output::Decided(Box::new(Decision { block, certificate, executed })));
    }

    /// The core's inputs in the log's entries, and this node's own blocks by round. Valid blocks are executed again.
    pub fn inputs_of(&mut self, entries: Vec<WalEntry>) -> (Vec<malachite::Input<Ledger>>, BTreeMap<u32, Hash>) {
        let height = Height(self.height());
        let (mut inputs, mut own) = (Vec::new(), BTreeMap::new());
        for entry in entries {
            match entry {
                WalEntry::Vote(signed) => inputs.extend(signed.to_vote().map(malachite::Input::Vote)),
                WalEntry::Proposal(signed) => inputs.extend(signed.to_proposal().map(malachite::Input::Proposal)),
                WalEntry::Polka(polka) => inputs.push(malachite::Input::PolkaCertificate(codec::to_polka(&polka))),
                WalEntry::Timeout(step, round) => {
                    let kind = match step {
                        0 => types::TimeoutKind::Propose,
                        1 => types::TimeoutKind::Prevote,
                        _ => types::TimeoutKind::Precommit,
                    };
                    inputs.push(malachite::Input::TimeoutElapsed(Timeout::new(Round::new(round), kind)));
                }
                WalEntry::Block(block) => match execute_block(&self.state, &block) {
                    Ok(executed) => drop(self.blocks.insert(block.id(), Held { block, executed, round: 0 })),
                    Err(reason) => tracing::error!(%reason, "a block in the write-ahead log is invalid"),
                },
                WalEntry::Value { block, round, pol_round, proposer, valid } => {
                    let value = ProposedValue {
                        height,
                        round: Round::new(round),
                        valid_round: pol_round.into(),
                        proposer: Address(proposer),
                        value: BlockId(block),
                        validity: Validity::from_bool(valid && self.blocks.contains_key(&block)),
                    };
                    if valid && proposer == *self.key.public() && pol_round.is_none() {
                        own.insert(round, block);
                    }
                    inputs.push(malachite::Input::ProposedValue(value, ValueOrigin::Consensus));
                }
            }
        }
        (inputs, own)
    }

    /// Adds to the write-ahead log, unless the entry comes from there.
    pub fn remember(&mut self, height: u64, entry: impl FnOnce() -> WalEntry) {
        if let Some(files) = self.files.as_mut().filter(|_| self.keeps_log && !self.replaying && self.failure.is_none())
        {
            self.failure = files.append(height, entry().encode()).err();
        }
    }

    fn remember_input(&mut self, height: Height, input: malachite::Input<Ledger>) {
        let entry = match input {
            malachite::Input::Vote(vote) => WalEntry::Vote((&vote).into()),
            malachite::Input::Proposal(proposal) => WalEntry::Proposal((&proposal).into()),
            malachite::Input::PolkaCertificate(polka) => WalEntry::Polka((&polka).into()),
            malachite::Input::TimeoutElapsed(timeout) => {
                let step = match timeout.kind {
                    types::TimeoutKind::Propose => 0,
                    types::TimeoutKind::Prevote => 1,
                    types::TimeoutKind::Precommit => 2,
                    types::TimeoutKind::Rebroadcast | types::TimeoutKind::FinalizeHeight(_) => return,
                };
                WalEntry::Timeout(step, timeout.round.as_u32().unwrap_or(0))
            }
            malachite::Input::ProposedValue(value, _) => WalEntry::Value {
                block: value.value.0,
                round: value.round.as_u32().unwrap_or(0),
                pol_round: value.valid_round.as_u32(),
                proposer: value.proposer.0,
                valid: value.validity.is_valid(),
            },
            // The core never asks for these to be kept.
            malachite::Input::StartHeight(..)
            | malachite::Input::RoundCertificate(_)
            | malachite::Input::Propose(_)
            | malachite::Input::SyncValueResponse(_) => return,
        };
        self.remember(height.0, || entry);
    }

    /// Signs a ballot once it is durable; [`UNSIGNED`] if it must not be signed.
    fn sign(&mut self, ballot: Ballot) -> Signature {
        let Some(files) = self.files.as_mut().filter(|_| self.failure.is_none()) else { return UNSIGNED };
        match files.sign(&ballot) {
            Ok(()) => ballot.sign(&self.network, &self.key).signature,
            Err(SignError::Log(e)) => {
                self.failure = Some(e);
                UNSIGNED
            }
            Err(refused) => {
                tracing::error!(?ballot, %refused, "the journal forbids this ballot; it is not signed");
                UNSIGNED
            }
        }
    }

    fn broadcast(&mut self, message: &Message, again: bool) {
        let unsigned = matches!(message, Message::Vote(s) | Message::Proposal(s, _) if s.signature == UNSIGNED);
        if !unsigned && self.failure.is_none() {
            self.outputs.push(Output::Broadcast { bytes: message.encode(), again });
        }
    }

    fn broadcast_proposal(&mut self, signed: Signed) {
        let held = signed.ballot.block.and_then(|id| self.blocks.get(&id));
        let Some(block) = held.map(|held| held.block.clone()) else { return };
        let message = Message::Proposal(signed, block);
        self.broadcast(&message, false);
        if signed.node == *self.key.public() && signed.signature != UNSIGNED {
            self.proposed = Some(message.encode());
        }
    }

    fn timeout_id(&self, timeout: &Timeout) -> TimeoutId {
        let kind = match timeout.kind {
            types::TimeoutKind::Propose => TimeoutKind::Propose,
            types::TimeoutKind::Prevote => TimeoutKind::Prevote,
            types::TimeoutKind::Precommit => TimeoutKind::Precommit,
            // Heights have no target time, so the core never waits to finalise one.
            types::TimeoutKind::Rebroadcast | types::TimeoutKind::FinalizeHeight(_) => TimeoutKind::Rebroadcast,
        };
        TimeoutId { height: self.height(), round: timeout.round.as_u32().unwrap_or(0), kind }
    }

    fn duration(&self, id: &TimeoutId) -> Duration {
        let base = match id.kind {
            TimeoutKind::Propose => PROPOSE,
            TimeoutKind::Prevote | TimeoutKind::Precommit => VOTE,
            TimeoutKind::Rebroadcast => REBROADCAST,
        };
        let idle = Duration::from_millis(self.state.params().ledger.idle_block_ms);
        let waits = id.kind == TimeoutKind::Propose && id.round == 0;
        (base + GROWTH.saturating_mul(id.round)).min(MAX_TIMEOUT) + if waits { idle } else { Duration::ZERO }
    }

    /// Shows who signed rival ballots: for each of them the first two that were seen.
    fn report(&mut self, evidence: &MisbehaviorEvidence<Ledger>) {
        let votes = evidence.votes.iter().filter_map(|(_, pairs)| pairs.first());
        let votes = votes.map(|(a, b)| (Signed::from(a), Signed::from(b)));
        let proposals = evidence.proposals.iter().filter_map(|(_, pairs)| pairs.first());
        let proposals = proposals.map(|(a, b)| (Signed::from(a), Signed::from(b)));
        let rivals: BTreeMap<NodeId, (Signed, Signed)> =
            proposals.chain(votes).map(|(first, second)| (first.node, (first, second))).collect();
        let evidence = rivals.into_values().map(|(first, second)| Evidence::Ballots { first, second });
        self.outputs
            .extend(evidence.filter(Evidence::is_conflict).map(|evidence| Output::Equivocation(Box::new(evidence))));
    }

    /// Carries out one effect of the core.
    pub fn effect(&mut self, effect: Effect<Ledger>) -> Resume<Ledger> {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.outputs.push(Output::CancelAllTimeouts);
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.outputs.push(Output::CancelTimeout(self.timeout_id(&timeout)));
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                let id = self.timeout_id(&timeout);
                self.outputs.push(Output::SetTimeout(id, self.duration(&id)));
                r.resume_with(())
            }
            Effect::StartRound(height, round, proposer, role, r) => {
                self.wanted = None;
                self.proposed = None;
                tracing::debug!(%height, %round, %proposer, ?role, "round");
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                match message {
                    SignedConsensusMsg::Vote(vote) => self.broadcast(&Message::Vote((&vote).into()), false),
                    SignedConsensusMsg::Proposal(proposal) => self.broadcast_proposal((&proposal).into()),
                }
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                match message {
                    LivenessMsg::Vote(vote) => self.broadcast(&Message::Vote((&vote).into()), true),
                    LivenessMsg::PolkaCertificate(polka) => self.broadcast(&Message::Polka((&polka).into()), false),
                    LivenessMsg::SkipRoundCertificate(votes) => self.broadcast(&Message::Round((&votes).into()), false),
                }
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.broadcast(&Message::Vote((&vote).into()), true);
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(votes, r) => {
                self.broadcast(&Message::Round((&votes).into()), true);
                r.resume_with(())
            }
            // The core sends the proposal right after it asks for this, and its block travels with it.
            Effect::RestreamProposal(_, _, _, _, _, r) => r.resume_with(()),
            Effect::GetValue(height, round, _, r) => {
                let round = round.as_u32().unwrap_or(0);
                self.wanted = Some((height.0, round));
                self.outputs.push(Output::WantBlock { height: height.0, round });
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.certificate = Some((&certificate).into());
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                self.report(&evidence);
                r.resume_with(())
            }
            Effect::SignVote(mut vote, r) => {
                if plants::on(Plant::ForgottenLock) && vote.kind == types::VoteType::Prevote {
                    // What was proposed last is as good as what two thirds had prevoted.
                    let round = vote.round.as_u32().unwrap_or(0);
                    let proposed = self.blocks.iter().find(|(_, held)| held.round == round).map(|(id, _)| *id);
                    vote.value = proposed.map_or(vote.value, |id| types::NilOrVal::Val(BlockId(id)));
                }
                let signature = self.sign((&vote).into());
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = self.sign((&proposal).into());
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(message, node, r) => {
                let ballot: Ballot = match &message.message {
                    ConsensusMsg::Vote(vote) => vote.into(),
                    ConsensusMsg::Proposal(proposal) => proposal.into(),
                };
                r.resume_with(Signed { ballot, node, signature: message.signature }.verifies(&self.network))
            }
            // Made by the core of votes that were verified one by one; `feed` checks it again before anything follows.
            Effect::VerifyCommitCertificate(_, _, _, r) => r.resume_with(Ok(())),
            Effect::VerifyPolkaCertificate(polka, _, _, r) => {
                let result = verify_polka(&self.network, self.state.validators(), &(&polka).into());
                r.resume_with(result.map_err(refusal))
            }
            Effect::VerifyRoundCertificate(votes, _, _, r) => {
                let result = verify_round(&self.network, self.state.validators(), &(&votes).into());
                r.resume_with(result.map_err(refusal))
            }
            Effect::WalAppend(height, input, r) => {
                self.remember_input(height, input);
                r.resume_with(())
            }
            // Blocks are synced past the core, and votes have no extensions.
            Effect::CertVerifiedSyncValue(_, _, r) => r.resume_with(()),
            Effect::CertRejectedSyncValue(_, _, _, r) => r.resume_with(()),
            Effect::VerifyExtendedCommitCertificate(_, _, _, _, r) => {
                r.resume_with(Err(CertificateError::VerificationError(None)))
            }
            Effect::ExtendVote(_, _, _, _, r) => r.resume_with(None),
            Effect::VerifyVoteExtension(_, _, _, _, _, _, r) => {
                r.resume_with(Err(VoteExtensionError::InvalidVoteExtension))
            }
        }
    }
}

fn refusal(reason: BadCertificate) -> CertificateError<Ledger> {
    CertificateError::VerificationError(Some(types::BoxError(Box::new(reason))))
}

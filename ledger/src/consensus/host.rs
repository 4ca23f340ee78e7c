//! The consensus host: drives Malachite's core for one node. It owns the state after the last committed block, executes
//! what is proposed, and tells its shell what to send, when to wake it, and what was decided.
//!
//! ```text
//! shell                                   host
//! Start                              ->   replays the write-ahead log, starts the next height
//! Message, Timeout                   ->   Verdict; Broadcast, SetTimeout, CancelTimeout, CancelAllTimeouts
//!                                    <-   WantBlock    (this node's turn)
//! Propose                            ->   Broadcast, ...
//! Synced                             ->   Verdict
//!                                    <-   Decided      (the shell appends it to the block log)
//! Committed                          ->   starts the next height
//! ```
//!
//! Outputs are to be carried out in order. Every error is final: the host is then of no more use.
//!
//! **Prevoting.** A block is given to the core only after it has been executed against the state; an invalid one is
//! given as invalid, which prevotes nil. A header's time may lie `skew_ms` ahead of the clock when the block is fresh;
//! one that two thirds have prevoted in an earlier round is no longer asked for its time, nor is anything replayed or
//! synced.
//!
//! **Restart.** With the last block at height L and a write-ahead log of height W: W = L + 1 is replayed; W <= L is
//! dropped; with W > L + 1 the node signs nothing until it has synced to W - 1, and then replays.
//!
//! **Lagging.** A message of a later height shows that the network is ahead ([`Output::Behind`]); the shell fetches
//! blocks with certificates and gives them as [`Input::Synced`]. Messages of the very next height wait here, bounded.
//!
//! **Bounds.** Proposals a round: two (the core's). Rounds ahead: ten (the core's). Blocks a height: [`MAX_BLOCKS`].
//! Waiting messages: [`super::ahead::MAX_AHEAD_BYTES`].

use super::{
    ahead::Ahead,
    certificate::{BadCertificate, verify_certificate, verify_polka, verify_round},
    codec::{self, Message, RoundProof, Signed, Step, WalEntry},
    context::{Address, BlockId, Height, Ledger, UncountableSet, ValidatorSet},
    effects::{Held, Node, Phase},
    persist::{Persist, Recovered},
};
use crate::{
    Body, Transaction,
    block::{Block, Certificate, transactions_root},
    framelog::LogError,
    lots::Reveals,
    plants::{self, Plant},
    state::{Executed, State, build_block, execute_block},
    transaction::Evidence,
};
use ailo_protocol::{Hash, Keypair, NodeId, canonical::CodecError};
use arc_malachitebft_core_consensus as malachite;
use arc_malachitebft_core_types as types;
use arc_malachitebft_metrics::Metrics;
use malachite::{LocallyProposedValue, ProposedValue};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use types::{Round, Timeout, Validity, ValueOrigin, VoteExtensionPolicy};

/// Blocks of one height that are kept, at most.
pub const MAX_BLOCKS: usize = 32;
/// Rounds above the current one whose messages are looked at; the core has the same bound.
const MAX_ROUNDS_AHEAD: u32 = 10;

/// What a timeout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutKind {
    /// A proposal did not come.
    Propose,
    /// The prevotes do not agree.
    Prevote,
    /// The precommits do not agree.
    Precommit,
    /// Nothing happens: say it again.
    Rebroadcast,
}

/// Names a timeout; setting one that is set already restarts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeoutId {
    /// Height.
    pub height: u64,
    /// Round.
    pub round: u32,
    /// What it is for.
    pub kind: TimeoutKind,
}

/// What the shell tells the host.
#[derive(Clone, Debug)]
pub enum Input {
    /// The node is up; once, and first.
    Start,
    /// A message of another node (or an own one that came back). Answered by a [`Output::Verdict`].
    Message(Message),
    /// A timeout that was set and not cancelled has run out.
    Timeout(TimeoutId),
    /// What to make the wanted block of.
    Propose {
        /// As wanted.
        height: u64,
        /// As wanted.
        round: u32,
        /// Transactions whose signatures have been verified, in order of preference; those that do not fit are left out.
        candidates: Vec<Transaction>,
    },
    /// A block that others decided. Answered by a [`Output::Verdict`] on the peer that sent it.
    Synced(Arc<Block>, Certificate),
    /// The decided block of this height is on disk.
    Committed {
        /// Its height.
        height: u64,
    },
}

/// What the host asks of the shell.
#[derive(Debug)]
pub enum Output {
    /// What to think of the message or the synced block that was given.
    Verdict(Verdict),
    /// Send these canonical bytes of a [`Message`] to everybody.
    Broadcast {
        /// The bytes.
        bytes: Vec<u8>,
        /// The same bytes have been sent before, and others may lack them still.
        again: bool,
    },
    /// Give [`Input::Timeout`] after this time.
    SetTimeout(TimeoutId, Duration),
    /// Forget that timeout.
    CancelTimeout(TimeoutId),
    /// Forget all timeouts.
    CancelAllTimeouts,
    /// It is this node's turn: give [`Input::Propose`]. In round 0 the shell may wait for transactions, at most
    /// `idle_block_ms`; in later rounds the network is waiting.
    WantBlock {
        /// Height to propose at.
        height: u64,
        /// Round to propose in.
        round: u32,
    },
    /// The next block is final: append it to the block log, then give [`Input::Committed`].
    Decided(Box<Decision>),
    /// Somebody votes at this height already, above the one that runs here. Where that lasts, sync.
    Behind {
        /// The height seen.
        height: u64,
    },
    /// A validator signed two ballots that exclude each other.
    Equivocation(Box<Evidence>),
}

/// Whether to pass a message on, and what to think of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Useful: pass it on.
    Accept,
    /// Of no use here: late, early or known.
    Ignore,
    /// Nobody honest sends this.
    Reject,
}

/// A block that is final.
pub struct Decision {
    /// The block.
    pub block: Arc<Block>,
    /// The precommits that decided it.
    pub certificate: Certificate,
    /// What it did.
    pub executed: Executed,
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decision({}, {:?})", self.certificate.height, self.certificate.block)
    }
}

/// Why the host stopped. Nothing is signed after it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Bytes in the write-ahead log that are no entry.
    #[error(
        "the write-ahead log holds an entry that can't be read ({0}): was it written by another version? move ledger/wal in the data folder away to go on without it"
    )]
    Entry(#[from] CodecError),
    /// Replay came to another vote than before the crash.
    #[error(
        "replaying the write-ahead log led to another ballot than before: the software is not deterministic here; nothing is signed ({0})"
    )]
    Diverged(String),
    /// The network certified a block that this node finds invalid.
    #[error(
        "two thirds of the power certified block {block} at height {height}, which is invalid here ({reason}): is this node's version the network's?"
    )]
    Fork {
        /// Height.
        height: u64,
        /// Block.
        block: Hash,
        /// What is wrong with it.
        reason: String,
    },
    /// The core decided without proof.
    #[error("the core decided a block without enough votes: {0}")]
    Certificate(#[from] BadCertificate),
    /// Validators that can't be counted.
    #[error(transparent)]
    Validators(#[from] UncountableSet),
    /// The host failed before.
    #[error("the consensus host has stopped after an earlier error")]
    Stopped,
}

/// Drives consensus for one node.
pub struct Host<P> {
    core: malachite::State<Ledger>,
    metrics: Metrics,
    node: Node<P>,
    recovered: Option<Recovered>,
    ahead: Ahead,
    reveals: Reveals,
    stopped: bool,
}

impl<P: Persist> Host<P> {
    /// A host whose last committed block led to `state`. With its files the node votes whenever it is a validator;
    /// without, it only follows. `recovered` is what the write-ahead log held.
    pub fn new(
        state: State,
        key: Keypair,
        files: Option<P>,
        recovered: Option<Recovered>,
    ) -> Result<Host<P>, HostError> {
        let params = malachite::Params {
            address: Address(*key.public()),
            threshold_params: Default::default(),
            value_payload: types::ValuePayload::ProposalAndParts,
            enabled: files.is_some(),
        };
        let height = Height(state.height() + 1);
        let validators = ValidatorSet::try_from(state.validators())?;
        // The core's own queue of early messages stays empty: they wait in `ahead`.
        let core = malachite::State::new(Ledger, height, validators, params, 1, 1);
        let node = Node {
            network: state.network(),
            key,
            files,
            state,
            phase: Phase::Idle,
            blocks: BTreeMap::new(),
            wanted: None,
            proposed: None,
            keeps_log: false,
            replaying: false,
            certificate: None,
            failure: None,
            outputs: Vec::new(),
        };
        let metrics = Metrics::default();
        let (ahead, reveals) = (Ahead::default(), Reveals::default());
        Ok(Host { core, metrics, node, recovered, ahead, reveals, stopped: false })
    }

    /// The state after the last committed block.
    pub fn state(&self) -> &State {
        &self.node.state
    }

    /// The round that runs, and its proposer.
    pub fn round(&self) -> (u32, NodeId) {
        let round = self.core.round().as_u32().unwrap_or(0);
        (round, self.core.get_proposer(self.core.height(), Round::new(round)).0)
    }

    /// The transaction that shows `evidence` to the ledger, if that would still convict somebody.
    pub fn accuse(&self, evidence: Evidence, now_ms: u64) -> Option<Transaction> {
        let Node { state, key, network, .. } = &self.node;
        let useful = state.node(key.public()).is_some() && state.may_accuse(&evidence);
        useful.then(|| Transaction::sign(network, key, 0, now_ms, Body::Evidence(evidence)))
    }

    /// Whether this node votes at the running height.
    pub fn is_voting(&self) -> bool {
        self.core.is_active_validator()
    }

    /// Takes one input; `now_ms` is the clock, in milliseconds since 1970 (UTC).
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Result<Vec<Output>, HostError> {
        if self.stopped {
            return Err(HostError::Stopped);
        }
        if let Err(e) = self.dispatch(input, now_ms) {
            self.stopped = true;
            return Err(e);
        }
        Ok(std::mem::take(&mut self.node.outputs))
    }

    fn dispatch(&mut self, input: Input, now_ms: u64) -> Result<(), HostError> {
        let running = matches!(self.node.phase, Phase::Running);
        let height = self.node.height();
        match input {
            Input::Start if matches!(self.node.phase, Phase::Idle) => self.start_height(now_ms),
            Input::Start => Ok(()),
            Input::Message(message) => self.on_message(message, now_ms),
            Input::Timeout(id) if running && id.height == height => self.on_timeout(id),
            Input::Timeout(_) => Ok(()),
            Input::Propose { height, round, candidates } => self.on_propose(height, round, candidates, now_ms),
            Input::Synced(block, certificate) => self.on_synced(block, certificate),
            Input::Committed { height: committed } => match std::mem::replace(&mut self.node.phase, Phase::Running) {
                Phase::Committing(next) if committed == height => {
                    if let Some(files) = &mut self.node.files {
                        files.finish(height)?;
                    }
                    self.node.state = *next;
                    self.start_height(now_ms)
                }
                phase => {
                    self.node.phase = phase;
                    Ok(())
                }
            },
        }
    }

    /// Starts the height after the state's: replays what a crash left of it, then takes the messages that waited.
    fn start_height(&mut self, now_ms: u64) -> Result<(), HostError> {
        let height = self.node.height();
        self.node.phase = Phase::Running;
        self.node.blocks.clear();
        self.node.wanted = None;
        self.node.proposed = None;
        self.node.certificate = None;

        let entries = match self.recovered.take() {
            Some(recovered) if recovered.height == height => recovered.entries,
            Some(later) if later.height > height => {
                self.recovered = Some(later);
                Vec::new()
            }
            _ => Vec::new(),
        };
        let entries: Vec<WalEntry> =
            entries.iter().map(|bytes| WalEntry::decode(bytes)).collect::<Result<_, CodecError>>()?;
        self.core.params.enabled = self.node.files.is_some() && self.recovered.is_none();
        let validators = ValidatorSet::try_from(self.node.state.validators())?;
        let is_member = self.node.state.validators().power(self.node.key.public()) > 0;
        self.node.keeps_log = self.core.params.enabled && is_member;
        if is_member {
            self.reveals.prepare(&self.node.state, &self.node.key); // not when the network waits for the block
        }

        let (inputs, own) = self.node.inputs_of(entries);
        self.node.replaying = !inputs.is_empty();
        if self.node.replaying {
            self.core.index_wal_entries(&inputs);
        }
        let policy = VoteExtensionPolicy::Disabled;
        self.feed(malachite::Input::StartHeight(Height(height), validators, self.node.replaying, None, policy))?;
        for input in inputs {
            self.feed(input)?;
        }
        self.core.reset_entries_index();
        self.node.replaying = false;
        // A block that was made before the crash is proposed again, instead of another one.
        if let Some(block) = self.node.wanted.and_then(|(_, round)| own.get(&round)) {
            self.propose(*block)?;
        }
        for message in self.ahead.take(height) {
            // Decided meanwhile, or not good enough for its own height: nobody waits for a verdict any more.
            if matches!(self.node.phase, Phase::Running) && self.judge(&message, height) == Verdict::Accept {
                self.process(message, now_ms)?;
            }
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message, now_ms: u64) -> Result<(), HostError> {
        let height = self.node.height();
        let running = matches!(self.node.phase, Phase::Running);
        let verdict = if message.height() == height && running {
            self.judge(&message, height)
        } else if message.height() > height {
            self.judge_ahead(message.clone(), height)
        } else {
            Verdict::Ignore
        };
        self.node.outputs.push(Output::Verdict(verdict));
        if verdict == Verdict::Accept && message.height() == height {
            self.process(message, now_ms)?;
        }
        Ok(())
    }

    /// Checks a message of the running height: all that can be said without executing a block. Whose vote counts and whose
    /// turn it is can't be known one height behind, so what fails only there is ignored: who passed it on is honest.
    fn judge(&self, message: &Message, height: u64) -> Verdict {
        let round = self.core.round().as_u32().unwrap_or(0);
        let (set, votes) = (self.node.state.validators(), self.core.driver.votes());
        let too_far = |r: u32| r > round.saturating_add(MAX_ROUNDS_AHEAD);
        let proof = |known: bool, verify: &dyn Fn() -> Result<(), BadCertificate>| match known {
            true => Verdict::Ignore,
            false if verify().is_ok() => Verdict::Accept,
            false => Verdict::Reject,
        };
        match message {
            Message::Vote(signed) => match signed.to_vote() {
                None => Verdict::Reject,
                Some(_) if too_far(signed.ballot.round) => Verdict::Ignore,
                Some(vote) if votes.has_vote(&vote) || votes.is_saturated_conflict(&vote) => Verdict::Ignore,
                Some(_) if !signed.verifies(&self.node.network) => Verdict::Reject,
                Some(_) if set.power(&signed.node) == 0 => Verdict::Ignore,
                Some(_) => Verdict::Accept,
            },
            Message::Proposal(signed, block) => {
                let Some(proposal) = signed.to_proposal() else { return Verdict::Reject };
                let (r, id) = (signed.ballot.round, proposal.message.value);
                let proposer = self.core.get_proposer(Height(height), Round::new(r)).0;
                let known = self.core.full_proposal_at_round_and_value(&Height(height), Round::new(r), &id).is_some();
                if known || too_far(r) || self.core.exceeds_per_round_cap(Height(height), Round::new(r), &id) {
                    Verdict::Ignore
                } else if !is_sound(signed, block, &self.node.network) {
                    Verdict::Reject
                } else if signed.node != proposer {
                    Verdict::Ignore
                } else {
                    Verdict::Accept
                }
            }
            Message::Polka(polka) => {
                let known = self.core.polka_certificate(Round::new(polka.round), &BlockId(polka.block)).is_some();
                proof(known || too_far(polka.round), &|| verify_polka(&self.node.network, set, polka))
            }
            Message::Round(votes) => {
                let superseded = if votes.ends { votes.round < round } else { votes.round <= round };
                let same = |known: &RoundProof| (known.round, known.ends) == (votes.round, votes.ends);
                let entered = self.core.round_certificate().map(|entered| RoundProof::from(&entered.certificate));
                proof(superseded || entered.as_ref().is_some_and(same), &|| {
                    verify_round(&self.node.network, set, votes)
                })
            }
        }
    }

    /// Keeps a message of the next height; says so where the network is ahead.
    fn judge_ahead(&mut self, message: Message, height: u64) -> Verdict {
        let (next, committing) = match &self.node.phase {
            Phase::Committing(next) => (next.validators(), true),
            _ => (self.node.state.validators(), false),
        };
        let signed = match &message {
            Message::Vote(signed) if signed.to_vote().is_some() => *signed,
            Message::Proposal(signed, block) if is_sound(signed, block, &self.node.network) => *signed,
            _ => return Verdict::Ignore,
        };
        // Validators change little from height to height: who is unknown here is heard again later.
        if next.power(&signed.node) == 0 || !signed.verifies(&self.node.network) {
            return Verdict::Ignore;
        }
        let at = message.height();
        if at > height + 1 || !committing {
            self.node.outputs.push(Output::Behind { height: at });
        }
        // What is not kept here is not passed on either, so nobody can flood the network with votes of the far future.
        if at == height + 1 && self.ahead.keep(signed, message) { Verdict::Accept } else { Verdict::Ignore }
    }

    /// Gives an accepted message of the running height to the core; with a proposal, its block first executed.
    fn process(&mut self, message: Message, now_ms: u64) -> Result<(), HostError> {
        match message {
            Message::Vote(signed) => match signed.to_vote() {
                Some(vote) => self.feed(malachite::Input::Vote(vote)),
                None => Ok(()),
            },
            Message::Proposal(signed, block) => {
                let Some(proposal) = signed.to_proposal() else { return Ok(()) };
                let validity = Validity::from_bool(self.accepts(&signed, block, now_ms));
                let value = ProposedValue {
                    height: proposal.message.height,
                    round: proposal.message.round,
                    valid_round: proposal.message.pol_round,
                    proposer: proposal.message.proposer,
                    value: proposal.message.value,
                    validity,
                };
                self.feed(malachite::Input::Proposal(proposal))?;
                self.feed(malachite::Input::ProposedValue(value, ValueOrigin::Consensus))
            }
            Message::Polka(polka) => self.feed(malachite::Input::PolkaCertificate(codec::to_polka(&polka))),
            Message::Round(votes) => self.feed(malachite::Input::RoundCertificate((&votes).into())),
        }
    }

    /// Executes a proposed block; whether to vote for it.
    fn accepts(&mut self, signed: &Signed, block: Arc<Block>, now_ms: u64) -> bool {
        let Step::Propose { pol_round } = signed.ballot.step else { return false };
        let (id, header) = (block.id(), &block.header);
        let had_polka = pol_round.is_some_and(|r| self.core.polka_certificate(Round::new(r), &BlockId(id)).is_some());
        let latest = now_ms.saturating_add(self.node.state.params().ledger.skew_ms);
        if !had_polka && (header.time_ms > latest || header.proposer != signed.node) {
            return false;
        }
        if !self.node.blocks.contains_key(&id) {
            match execute_block(&self.node.state, &block) {
                Ok(executed) => self.hold(id, Held { block, executed, round: signed.ballot.round }),
                Err(reason) => {
                    tracing::warn!(proposer = %signed.node.short(), height = header.height, %reason, "invalid proposal");
                    return false;
                }
            }
        }
        true
    }

    /// Keeps a block for its decision. Where there are too many, the oldest goes that the core has not seen a polka of;
    /// should it be decided all the same, it is synced.
    fn hold(&mut self, id: Hash, held: Held) {
        if self.node.blocks.len() >= MAX_BLOCKS {
            let valid = self.core.driver.valid_value().map(|v| v.value.0);
            let oldest = self.node.blocks.iter().filter(|(id, _)| Some(**id) != valid).min_by_key(|(_, h)| h.round);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.node.blocks.remove(&oldest);
            }
        }
        self.node.remember(held.block.header.height, || WalEntry::Block(held.block.clone()));
        self.node.blocks.insert(id, held);
    }

    fn on_timeout(&mut self, id: TimeoutId) -> Result<(), HostError> {
        let kind = match id.kind {
            TimeoutKind::Propose => types::TimeoutKind::Propose,
            TimeoutKind::Prevote => types::TimeoutKind::Prevote,
            TimeoutKind::Precommit => types::TimeoutKind::Precommit,
            TimeoutKind::Rebroadcast => types::TimeoutKind::Rebroadcast,
        };
        if id.kind == TimeoutKind::Rebroadcast && Some(id.round) == self.core.round().as_u32() {
            // The core sends its votes again; a proposal that was lost would be missed just as much.
            if let Some(bytes) = self.node.proposed.clone() {
                self.node.outputs.push(Output::Broadcast { bytes, again: true });
            }
        }
        self.feed(malachite::Input::TimeoutElapsed(Timeout::new(Round::new(id.round), kind)))
    }

    fn on_propose(
        &mut self,
        height: u64,
        round: u32,
        candidates: Vec<Transaction>,
        now_ms: u64,
    ) -> Result<(), HostError> {
        if self.node.wanted != Some((height, round)) || !matches!(self.node.phase, Phase::Running) {
            return Ok(());
        }
        let me = *self.node.key.public();
        let reveal = self.reveals.next(&self.node.state, &self.node.key);
        match build_block(&self.node.state, me, now_ms, reveal, candidates.into_iter()) {
            Ok((block, executed)) => {
                let id = block.id();
                self.hold(id, Held { block: Arc::new(block), executed, round });
                self.propose(id)
            }
            Err(reason) => {
                tracing::error!(height, %reason, "can't build a block");
                Ok(())
            }
        }
    }

    fn propose(&mut self, id: Hash) -> Result<(), HostError> {
        let Some((height, round)) = self.node.wanted.take() else { return Ok(()) };
        let value = LocallyProposedValue::new(Height(height), Round::new(round), BlockId(id));
        self.feed(malachite::Input::Propose(value))
    }

    /// A block with its certificate: neither rounds nor votes are needed, so it passes the core by.
    fn on_synced(&mut self, block: Arc<Block>, certificate: Certificate) -> Result<(), HostError> {
        let height = self.node.height();
        let header = &block.header;
        if certificate.height != height || !matches!(self.node.phase, Phase::Running) {
            self.node.outputs.push(Output::Verdict(Verdict::Ignore));
            return Ok(());
        }
        let id = header.id();
        let sound = certificate.block == id && header.transactions_root == transactions_root(&block.transactions);
        let checked = verify_certificate(&self.node.network, self.node.state.validators(), &certificate).is_ok();
        if !sound || !(checked || plants::on(Plant::CertificateUnchecked)) {
            self.node.outputs.push(Output::Verdict(Verdict::Reject));
            return Ok(());
        }
        self.node.outputs.push(Output::Verdict(Verdict::Accept));
        let executed = match self.node.blocks.remove(&id) {
            Some(held) => held.executed,
            None => execute_block(&self.node.state, &block).map_err(|reason| HostError::Fork {
                height,
                block: id,
                reason: reason.to_string(),
            })?,
        };
        self.node.decide(block, certificate, executed);
        Ok(())
    }

    /// Gives one input to the core and carries out its effects.
    fn feed(&mut self, input: malachite::Input<Ledger>) -> Result<(), HostError> {
        let Host { core, metrics, node, .. } = self;
        let result: Result<(), malachite::Error<Ledger>> = malachite::process!(
            input: input,
            state: core,
            metrics: metrics,
            with: effect => Ok::<_, LogError>(node.effect(effect))
        );
        if let Some(failure) = node.failure.take() {
            return Err(failure.into());
        }
        match result {
            Err(e @ malachite::Error::ReplayDivergence(..)) => return Err(HostError::Diverged(e.to_string())),
            Err(e) => tracing::error!(error = %e, "the consensus core refused an input"),
            Ok(()) => {}
        }
        let Some(certificate) = self.node.certificate.take() else { return Ok(()) };
        verify_certificate(&self.node.network, self.node.state.validators(), &certificate)?;
        match self.node.blocks.remove(&certificate.block) {
            Some(held) => self.node.decide(held.block, certificate, held.executed),
            None => self.node.outputs.push(Output::Behind { height: certificate.height + 1 }),
        }
        Ok(())
    }
}

/// Whether a proposal is a validator's word for this block, and the block's parts belong together.
fn is_sound(signed: &Signed, block: &Block, network: &Hash) -> bool {
    let Step::Propose { pol_round } = signed.ballot.step else { return false };
    let header = &block.header;
    pol_round.is_none_or(|r| r < signed.ballot.round)
        && header.network == *network
        && header.height == signed.ballot.height
        && signed.ballot.block == Some(header.id())
        && header.transactions_root == transactions_root(&block.transactions)
        && signed.verifies(network)
}

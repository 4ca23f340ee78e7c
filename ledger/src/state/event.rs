//! What happened in a block: for history, subscribers and services. Events follow from the block; they decide nothing.

use super::{entry::Outcome, round::Phase};
use ailo_protocol::{
    Address, Amount, Hash, NodeId, PublicKey, Username,
    canonical::{Decode, Encode},
    contribution::MicroNats,
    inference::SessionId,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a reward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// A share of a round's pot.
    Training,
    /// A share of the bonus for a new best loss.
    BestLoss,
    /// A share of a fee, for making the block.
    Proposer,
    /// A share of a fee, for attesting.
    Confirmer,
    /// For training somebody's contribution again.
    Replay,
    /// For being up while holding a seat.
    Uptime,
    /// On top of what a requester paid for inference.
    Inference,
}

/// Why a round ended without a new model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// Fewer than `2f + 1` commits.
    TooFewCommits,
    /// Fewer than `2f + 1` contributions were found held and valid.
    TooFewAccepted,
    /// No root can reach two thirds of the power any more.
    VoteSplit,
    /// The vote's deadline passed.
    VoteDeadline,
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AbortReason::TooFewCommits => "too few participants committed in time",
            AbortReason::TooFewAccepted => "too few contributions were found held and valid",
            AbortReason::VoteSplit => "validators computed different models",
            AbortReason::VoteDeadline => "too few validators voted in time",
        })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)] // Fields are what their names and types say.
pub enum Event {
    /// A transfer was included: the sender is debited.
    TransferPending { id: Hash, from: Address, to: Address, amount: Amount, fee: Amount },
    /// A transfer has its confirmations: the recipient is credited.
    TransferConfirmed { id: Hash, from: Address, to: Address, amount: Amount },
    /// A transfer was not confirmed in time: the sender has the amount back, without the fee.
    TransferRefunded { id: Hash, from: Address, to: Address, amount: Amount },
    /// A confirmed transfer can't be reported any more.
    TransferFinal { id: Hash, from: Address, to: Address },
    /// A transfer was reported; so many of the seats stand against it now.
    TransferReported { id: Hash, node: NodeId, wallet: Address, reports: u32, seats: u32 },
    /// A report was taken back.
    ReportWithdrawn { id: Hash, node: NodeId, wallet: Address },
    /// A transfer ended with too few reports: the bond of one burned.
    ReportForfeited { id: Hash, wallet: Address, bond: Amount },
    /// Enough reports stand against a transfer; its reversal follows in the same block.
    TransferDisputed { id: Hash, from: Address, to: Address, reports: u32 },
    /// The REVERSAL: the sender has back what there was; the rest the recipient owes.
    TransferReversed { id: Hash, from: Address, to: Address, amount: Amount, returned: Amount, owed: Amount },
    /// Income of a debtor paid for a reversed transfer.
    DebtPaid { debtor: Address, creditor: Address, amount: Amount, transfer: Hash },
    /// A node attested a block's transfers.
    Attested { node: NodeId, height: u64 },
    /// Coins were bonded.
    Staked { wallet: Address, node: NodeId, amount: Amount },
    /// Coins started unbonding; free at ledger age `due_age`.
    Unstaked { wallet: Address, node: NodeId, amount: Amount, due_age: u64 },
    /// Unbonded coins are free.
    Unbonded { wallet: Address, node: NodeId, amount: Amount },
    /// Coins were put where a wallet's requests are paid from.
    Deposited { wallet: Address, amount: Amount },
    /// Coins of a deposit are on their way back, all together free at ledger age `due_age`.
    DepositLeaving { wallet: Address, amount: Amount, due_age: u64 },
    /// They are free.
    DepositReturned { wallet: Address, amount: Amount },
    /// A node was paid for inference: `amount` of the payer's deposit, of which `burned` burned; `minted` came on top.
    ReceiptPaid {
        payer: Address,
        node: NodeId,
        wallet: Address,
        session: SessionId,
        model: Hash,
        units: u64,
        amount: Amount,
        burned: Amount,
        minted: Amount,
    },
    /// What a unit of inference costs in the epoch that begins; in the last one so much was paid, to nodes of which so many hold seats.
    MarketPrice { epoch: u64, price: Amount, paid: Amount, servers: u32 },
    /// A node is known.
    NodeRegistered { node: NodeId, wallet: Address },
    /// A node committed its next chain of lots, which counts from an epoch on.
    LotsCommitted { node: NodeId, epoch: u64 },
    /// A node works for another wallet.
    NodeBound { node: NodeId, wallet: Address },
    /// A node lost stake for what it signed or forged, and is jailed until its wallet unjails it, not before that age.
    Slashed { node: NodeId, wallet: Address, amount: Amount, reporter: Address, bounty: Amount, until_age: u64 },
    /// A jailed node is back.
    Unjailed { node: NodeId, wallet: Address },
    /// A contribution was called forged.
    Challenged { round: u64, node: NodeId, challenger: Address },
    /// A challenge was decided.
    ChallengeEnded { round: u64, node: NodeId, forged: bool },
    /// A stage was said to have signed what it did not compute.
    Accused { charge: Hash, node: NodeId, accuser: Address },
    /// That was decided.
    AccusationEnded { charge: Hash, node: NodeId, guilty: bool },
    /// An account has a recovery key.
    RecoverySet { wallet: Address },
    /// An account has another signing key.
    Recovered { wallet: Address, key: PublicKey },
    /// A wallet took a user name, or gave it up.
    UsernameChanged { wallet: Address, name: Option<Username> },
    /// Other parameters were proposed.
    Proposed { proposal: u64, wallet: Address, changes: Vec<String>, height: u64 },
    /// A wallet voted on a proposal.
    Voted { proposal: u64, wallet: Address, approve: bool, weight: Amount },
    /// The votes on a proposal were counted; it was approved if it activates at a height.
    Counted { proposal: u64, yes: Amount, no: Amount, quorum: bool, activates: Option<u64> },
    /// Approved changes came into force, unless they no longer went with the others.
    Activated { proposal: u64, changes: Vec<String>, sound: bool },
    /// A node lost its registration, or its rights: it was silent for too long, or gave way in a full registry.
    NodeLapsed { node: NodeId, wallet: Address },
    /// A round opened for training.
    RoundOpened { round: u64, participants: Vec<NodeId>, f: u32, protected: bool, deadline_age: u64 },
    /// A round went on to another phase.
    RoundPhase { round: u64, phase: Phase, deadline_age: u64 },
    /// A node committed to its work.
    Contributed { round: u64, node: NodeId, payload: Hash },
    /// A round made a new model.
    RoundClosed { round: u64, root: Hash, accepted: Vec<NodeId>, loss: MicroNats },
    /// A contribution is to be trained again.
    ReplayDrawn { round: u64, node: NodeId, replayer: NodeId },
    /// It was; with the same result, or another.
    Replayed { round: u64, node: NodeId, replayer: NodeId, same: bool },
    /// What came of it.
    ReplayDecided { round: u64, node: NodeId, outcome: Outcome },
    /// What a round had promised is paid, as far as it was due.
    RoundSettled { round: u64, minted: Amount },
    /// A round ended without one.
    RoundAborted { round: u64, reason: AbortReason },
    /// A wallet was paid.
    Reward { node: NodeId, wallet: Address, amount: Amount, kind: RewardKind, round: Option<u64> },
    /// Coins were destroyed: all of the block's together.
    Burned { amount: Amount },
    /// The next height has other validators.
    ValidatorsChanged { hash: Hash, count: u32, total_power: u64, latched: bool },
    /// A new epoch began.
    EpochChanged { epoch: u64, seats: u32 },
}

impl Event {
    /// The round that it belongs to.
    pub fn round(&self) -> Option<u64> {
        match self {
            Event::Challenged { round, .. }
            | Event::ChallengeEnded { round, .. }
            | Event::RoundOpened { round, .. }
            | Event::RoundPhase { round, .. }
            | Event::Contributed { round, .. }
            | Event::RoundClosed { round, .. }
            | Event::RoundAborted { round, .. }
            | Event::ReplayDrawn { round, .. }
            | Event::Replayed { round, .. }
            | Event::ReplayDecided { round, .. }
            | Event::RoundSettled { round, .. } => Some(*round),
            Event::Reward { round, .. } => *round,
            _ => None,
        }
    }

    /// The nodes whose history it belongs to.
    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Event::TransferReported { node, .. }
            | Event::ReportWithdrawn { node, .. }
            | Event::Attested { node, .. }
            | Event::Staked { node, .. }
            | Event::Unstaked { node, .. }
            | Event::Unbonded { node, .. }
            | Event::NodeRegistered { node, .. }
            | Event::LotsCommitted { node, .. }
            | Event::NodeBound { node, .. }
            | Event::NodeLapsed { node, .. }
            | Event::Slashed { node, .. }
            | Event::Unjailed { node, .. }
            | Event::Challenged { node, .. }
            | Event::ChallengeEnded { node, .. }
            | Event::Accused { node, .. }
            | Event::AccusationEnded { node, .. }
            | Event::Contributed { node, .. }
            | Event::ReplayDecided { node, .. }
            | Event::ReceiptPaid { node, .. }
            | Event::Reward { node, .. } => vec![*node],
            Event::ReplayDrawn { node, replayer, .. } | Event::Replayed { node, replayer, .. } => {
                vec![*node, *replayer]
            }
            Event::RoundClosed { accepted, .. } => accepted.clone(),
            _ => vec![],
        }
    }

    /// The transfer whose own history it belongs to: what does not happen to every transfer, of which its parties' histories have all.
    pub fn transfer(&self) -> Option<&Hash> {
        match self {
            Event::TransferRefunded { id, .. }
            | Event::TransferReported { id, .. }
            | Event::ReportWithdrawn { id, .. }
            | Event::ReportForfeited { id, .. }
            | Event::TransferDisputed { id, .. }
            | Event::TransferReversed { id, .. }
            | Event::DebtPaid { transfer: id, .. } => Some(id),
            _ => None,
        }
    }

    /// The wallets whose history it belongs to.
    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Event::TransferPending { from, to, .. }
            | Event::TransferConfirmed { from, to, .. }
            | Event::TransferRefunded { from, to, .. }
            | Event::TransferDisputed { from, to, .. }
            | Event::TransferReversed { from, to, .. }
            | Event::TransferFinal { from, to, .. } => vec![*from, *to],
            Event::DebtPaid { debtor, creditor, .. } => vec![*debtor, *creditor],
            Event::ReceiptPaid { payer, wallet, .. } => vec![*payer, *wallet],
            Event::Slashed { wallet, reporter, .. } => match wallet == reporter {
                true => vec![*wallet],
                false => vec![*wallet, *reporter],
            },
            Event::Staked { wallet, .. }
            | Event::Unstaked { wallet, .. }
            | Event::Unbonded { wallet, .. }
            | Event::NodeRegistered { wallet, .. }
            | Event::NodeLapsed { wallet, .. }
            | Event::NodeBound { wallet, .. }
            | Event::TransferReported { wallet, .. }
            | Event::ReportWithdrawn { wallet, .. }
            | Event::ReportForfeited { wallet, .. }
            | Event::Unjailed { wallet, .. }
            | Event::Challenged { challenger: wallet, .. }
            | Event::Accused { accuser: wallet, .. }
            | Event::RecoverySet { wallet }
            | Event::Recovered { wallet, .. }
            | Event::UsernameChanged { wallet, .. }
            | Event::Proposed { wallet, .. }
            | Event::Voted { wallet, .. }
            | Event::Deposited { wallet, .. }
            | Event::DepositLeaving { wallet, .. }
            | Event::DepositReturned { wallet, .. }
            | Event::Reward { wallet, .. } => vec![*wallet],
            Event::Attested { .. }
            | Event::LotsCommitted { .. }
            | Event::ChallengeEnded { .. }
            | Event::AccusationEnded { .. }
            | Event::Counted { .. }
            | Event::Activated { .. }
            | Event::RoundOpened { .. }
            | Event::RoundPhase { .. }
            | Event::Contributed { .. }
            | Event::RoundClosed { .. }
            | Event::ReplayDrawn { .. }
            | Event::Replayed { .. }
            | Event::ReplayDecided { .. }
            | Event::RoundSettled { .. }
            | Event::RoundAborted { .. }
            | Event::Burned { .. }
            | Event::MarketPrice { .. }
            | Event::ValidatorsChanged { .. }
            | Event::EpochChanged { .. } => vec![],
        }
    }
}

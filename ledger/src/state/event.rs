//! What happened in a block: for history, subscribers and services. Events follow from the block; they decide nothing.

use super::round::Phase;
use ailo_protocol::{
    Address, Amount, Hash, NodeId,
    canonical::{Decode, Encode},
    contribution::MicroNats,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a reward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
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
}

/// Why a round ended without a new model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
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
    /// A node attested a block's transfers.
    Attested { node: NodeId, height: u64, transfers: u32 },
    /// Coins were bonded.
    Staked { wallet: Address, node: NodeId, amount: Amount },
    /// Coins started unbonding; free at ledger age `due_age`.
    Unstaked { wallet: Address, node: NodeId, amount: Amount, due_age: u64 },
    /// Unbonded coins are free.
    Unbonded { wallet: Address, node: NodeId, amount: Amount },
    /// A node is known.
    NodeRegistered { node: NodeId, wallet: Address },
    /// A node was silent for too long.
    NodeLapsed { node: NodeId, wallet: Address },
    /// A round opened for training.
    RoundOpened { round: u64, participants: Vec<NodeId>, f: u32, protected: bool, deadline_age: u64 },
    /// A round went on to another phase.
    RoundPhase { round: u64, phase: Phase, deadline_age: u64 },
    /// A node committed to its work.
    Contributed { round: u64, node: NodeId, payload: Hash },
    /// A round made a new model.
    RoundClosed { round: u64, root: Hash, accepted: Vec<NodeId>, loss: MicroNats },
    /// A round ended without one.
    RoundAborted { round: u64, reason: AbortReason },
    /// A wallet was paid.
    Reward { node: NodeId, wallet: Address, amount: Amount, kind: RewardKind, round: Option<u64> },
    /// Coins were destroyed.
    Burned { amount: Amount },
    /// The next height has other validators.
    ValidatorsChanged { hash: Hash, count: u32, total_power: u64, latched: bool },
    /// A new epoch began.
    EpochChanged { epoch: u64, seats: u32 },
}

impl Event {
    /// The wallets whose history it belongs to.
    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Event::TransferPending { from, to, .. }
            | Event::TransferConfirmed { from, to, .. }
            | Event::TransferRefunded { from, to, .. }
            | Event::TransferFinal { from, to, .. } => vec![*from, *to],
            Event::Staked { wallet, .. }
            | Event::Unstaked { wallet, .. }
            | Event::Unbonded { wallet, .. }
            | Event::NodeRegistered { wallet, .. }
            | Event::NodeLapsed { wallet, .. }
            | Event::Reward { wallet, .. } => vec![*wallet],
            Event::Attested { .. }
            | Event::RoundOpened { .. }
            | Event::RoundPhase { .. }
            | Event::Contributed { .. }
            | Event::RoundClosed { .. }
            | Event::RoundAborted { .. }
            | Event::Burned { .. }
            | Event::ValidatorsChanged { .. }
            | Event::EpochChanged { .. } => vec![],
        }
    }
}

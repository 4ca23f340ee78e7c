//! What JSON-RPC replies hold; the server fills these, the command line and localnet read them.
//! Amounts are decimal strings in ALC, hashes and keys hexadecimal, losses nats a token, times milliseconds since 1970.

use ailo_ledger::{
    Certificate, Header, Transaction,
    state::{Event, Poll, Replay, Round, Share},
};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey, Username, net::Reachability};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every reply names the block that it was read at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct At<T> {
    /// Height of the newest block here.
    pub height: u64,
    /// Root of the ledger's state after it.
    pub state_root: Hash,
    /// The reply itself.
    #[serde(flatten)]
    pub value: T,
}

/// `ailo_status`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Software version.
    pub version: String,
    /// Network id.
    pub network: Hash,
    /// Network's name.
    pub network_name: String,
    /// This node.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Address,
    /// Whether it is in the validator set that decides the next block.
    pub validating: bool,
    /// Whether it trains.
    pub training: bool,
    /// Time of the newest block.
    pub block_time_ms: u64,
    /// Id of the newest block.
    pub block: Hash,
    /// Epoch of the ledger.
    pub epoch: u64,
    /// Connected peers.
    pub peers: u32,
    /// Addresses that peers can reach this node at, the best first.
    pub listen: Vec<String>,
    /// How peers elsewhere reach it.
    pub reachability: ReachabilityView,
    /// Attesting nodes that make a transfer spendable here.
    pub confirmations: u32,
    /// Validators of the next height.
    pub validators: u32,
    /// Nodes that hold a seat in this epoch.
    pub seats: u32,
    /// The open round.
    pub round: RoundStatus,
    /// The model's head.
    pub model: ModelStatus,
    /// Who serves text, as far as this node has heard: itself first.
    pub serving: Vec<ServingView>,
    /// The node's wallet.
    pub account: AccountView,
    /// Coins.
    pub supply: SupplyView,
    /// What a person should know: few confirmations, an unprotected round, waiting for stake.
    pub notes: Vec<String>,
}

/// How peers elsewhere reach a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReachabilityView {
    /// `public`, `nat` or `unknown`.
    pub state: String,
    /// Where, if they do.
    pub address: Option<String>,
    /// Behind a NAT: the relay through which they come.
    pub relay: Option<NodeId>,
    /// The same in a sentence, with what to do.
    pub note: String,
}

impl From<Reachability> for ReachabilityView {
    fn from(known: Reachability) -> ReachabilityView {
        let note = known.to_string();
        let (state, address, relay) = match known {
            Reachability::Public { address } => ("public", Some(address.to_string()), None),
            Reachability::Nat { relay, .. } => ("nat", None, relay),
            Reachability::Unknown { .. } => ("unknown", None, None),
        };
        ReachabilityView { state: state.into(), address, relay, note }
    }
}

/// A node that serves layers of a model, by its own word.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServingView {
    /// Who.
    pub node: NodeId,
    /// The model's name.
    pub name: String,
    /// Its id.
    pub model: Hash,
    /// The first of the layers that are served.
    pub first: u32,
    /// The one after the last.
    pub end: u32,
    /// Layers of the whole model.
    pub total: u32,
    /// The type in which the weights are kept.
    pub dtype: String,
    /// Tokens a second of one text through these layers.
    pub tokens_per_s: f64,
    /// Bytes for texts.
    pub memory: u64,
    /// Of these, bytes that no text has now.
    pub room: u64,
    /// What a unit of positions through all layers costs.
    pub price: Amount,
}

/// The open round, and this node's part in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Number, from 0.
    pub number: u64,
    /// gather, train, verify or vote.
    pub phase: String,
    /// Nodes that take part.
    pub participants: u32,
    /// Byzantine participants that aggregation tolerates.
    pub tolerates: u32,
    /// Contributions committed so far.
    pub committed: u32,
    /// Fewer than four participants: nothing protects the model from a liar.
    pub unprotected: bool,
    /// Inner steps that this node has taken.
    pub step: u32,
    /// Inner steps of a round.
    pub steps: u32,
    /// This node's speed.
    pub tokens_per_s: f64,
    /// This node's training loss.
    pub loss: Option<f64>,
}

/// The model that the ledger names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Rounds closed.
    pub rounds: u64,
    /// Merkle root of weights and momentum.
    pub root: Hash,
    /// Held-out loss that the validators voted for.
    pub held_out_loss: Option<f64>,
    /// Rounds closed in the state that this node itself holds and trains from.
    pub local_rounds: Option<u64>,
    /// Merkle root of that state.
    pub local_root: Option<Hash>,
    /// Parameters.
    pub parameters: u64,
}

/// `ailo_account`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountView {
    /// Address.
    pub address: Address,
    /// Spendable.
    pub free: Amount,
    /// On the way to this account, not yet spendable.
    pub pending: Amount,
    /// Bonded to nodes.
    pub staked: Amount,
    /// On its way back from a stake.
    pub unbonding: Amount,
    /// Deposited for inference.
    pub deposit: DepositView,
    /// Number of the next transaction.
    pub nonce: u64,
    /// Owed for reversed transfers; whatever comes in pays it first.
    pub owes: Amount,
    /// What that is made of, the oldest first.
    pub debts: Vec<DebtView>,
    /// Stake by node.
    pub stakes: Vec<StakeView>,
    /// User name.
    pub name: Option<Username>,
    /// The key that signs for it, if a recovery has changed that.
    pub key: Option<PublicKey>,
    /// Whether it has a recovery key.
    pub recoverable: bool,
    /// How many recoveries it has had.
    pub recoveries: u64,
}

/// What an account has deposited for inference.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DepositView {
    /// All of it.
    pub amount: Amount,
    /// What of it is on its way back.
    pub leaving: Amount,
    /// Time until that is free, by the ledger's age, in milliseconds.
    pub free_in_ms: u64,
    /// A reversal has seized from it: no node serves for it until the next deposit.
    pub short: bool,
}

/// `ailo_market`: what inference costs now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MarketView {
    /// Market price of a unit, through all layers.
    pub price: Amount,
    /// Positions of a text that make a unit.
    pub unit_tokens: u32,
    /// The most that a receipt's unit is paid.
    pub most: Amount,
    /// Epoch that the price is of.
    pub epoch: u64,
    /// Paid for inference in this epoch so far.
    pub paid: Amount,
    /// Nodes with a seat that were paid in it.
    pub servers: u32,
    /// Ledger age: what receipts expire by.
    pub age_ms: u64,
}

/// A debt of an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DebtView {
    /// The reversed transfer.
    pub transfer: Hash,
    /// Who gets it.
    pub creditor: Address,
    /// How much.
    pub amount: Amount,
}

/// A wallet's stake behind a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StakeView {
    /// The node.
    pub node: NodeId,
    /// How much.
    pub amount: Amount,
}

/// `ailo_validators`: who decides the next block, and who stands behind a stake beside them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ValidatorsView {
    /// Founders still hold the power.
    pub founders: bool,
    /// All power together.
    pub total_power: u64,
    /// Stake that one more validator needs.
    pub stake_to_validate: Amount,
    /// Ledger age.
    pub age_ms: u64,
    /// Validators, the most powerful first.
    pub validators: Vec<ValidatorView>,
}

/// A validator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ValidatorView {
    /// Node.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Option<Address>,
    /// Its weight in votes.
    pub power: u64,
    /// Stake behind it.
    pub stake: Amount,
    /// Jailed until this ledger age at least.
    pub jailed_until: Option<u64>,
    /// Lots left of its chain, once one counts.
    pub lots: Option<u32>,
}

/// `ailo_proposals`: what is voted on, or approved and not in force yet; and what votes have changed so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProposalsView {
    /// Proposals.
    pub proposals: Vec<ProposalView>,
    /// Changed parameters, each as `section.key=value`.
    pub changed: Vec<String>,
    /// Stake in all, what unbonds counted in: what a quorum is measured against.
    pub staked: Amount,
    /// Share of it that must vote, in ppm.
    pub quorum_ppm: u64,
    /// Ledger age.
    pub age_ms: u64,
}

/// A proposal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProposalView {
    /// Number, for votes.
    pub number: u64,
    /// The proposal.
    #[serde(flatten)]
    pub poll: Poll,
}

/// Where all coins are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SupplyView {
    pub minted: Amount,
    pub free: Amount,
    pub pending: Amount,
    pub staked: Amount,
    pub unbonding: Amount,
    pub escrow: Amount,
    pub burned: Amount,
    /// Whether the parts sum to what was minted, recomputed from all entries.
    pub law_holds: bool,
}

/// `ailo_block`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockView {
    /// Id.
    pub hash: Hash,
    /// Header.
    pub header: Header,
    /// Transactions with their ids.
    pub transactions: Vec<TransactionInBlock>,
    /// The certificate that makes it final.
    pub certificate: Certificate,
}

/// A transaction as it stands in a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransactionInBlock {
    /// Id.
    pub id: Hash,
    /// Content.
    pub transaction: Transaction,
}

/// `ailo_transaction`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransactionView {
    /// Id.
    pub id: Hash,
    /// Where it stands: waiting, included, or for transfers pending, confirmed, refunded, reversed, final.
    pub status: String,
    /// Height of its block; none while it waits.
    pub block_height: Option<u64>,
    /// Nodes that attested it so far.
    pub attested_by: Vec<NodeId>,
    /// REPORTED: nodes that call the transfer a fraud.
    pub reported_by: Vec<NodeId>,
    /// Content.
    pub transaction: Transaction,
}

/// A page of `ailo_history`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryView {
    /// Newest first.
    pub entries: Vec<HistoryEntry>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// Something that touched a wallet or a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Height of the block.
    pub height: u64,
    /// Time of the block.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// `ailo_round`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoundView {
    /// The round as the ledger holds it.
    pub round: Round,
    /// What came after its close.
    pub past: Option<PastView>,
    /// What rounds up to now say of its participants.
    pub scores: BTreeMap<NodeId, Scores>,
}

/// What rounds up to now say of a node, in millionths: `ledger/src/state/reward.rs` has the formulas.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Scores {
    /// What its losses earn beyond plain work.
    pub quality_ppm: u64,
    /// How much more its updates gain on their own data than elsewhere, as a share of what is usual in a round.
    pub own_ppm: i64,
}

/// What comes after a round's close.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastView {
    /// Ledger age at the close.
    pub closed_age: u64,
    /// Paid for its work and replays, at most.
    pub pot: Amount,
    /// Paid for a new best loss, at most.
    pub bonus: Amount,
    /// What is promised for each contribution, once the replays are drawn.
    pub shares: Option<Vec<Share>>,
    /// What is promised for each replay.
    pub replay_share: Amount,
    /// Whether all that was due is minted.
    pub settled: bool,
    /// Replays by the maker of the work, until the round is settled.
    pub replays: BTreeMap<NodeId, Replay>,
}

/// A peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    /// Node.
    pub node: NodeId,
    /// Address.
    pub address: String,
    /// Round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// `ailo_peers`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeersView {
    /// Connected peers.
    pub peers: Vec<PeerView>,
}

/// `ailo_submit`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submitted {
    /// The transaction's id.
    pub id: Hash,
}

/// `ailo_submitMany`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmittedMany {
    /// One for each transaction, in their order.
    pub outcomes: Vec<SubmitOutcome>,
}

/// What became of a transaction: an id, or a stable code and a sentence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SubmitOutcome {
    pub id: Option<Hash>,
    pub code: Option<String>,
    pub message: Option<String>,
}

/// Data of the error when a transaction is refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusalView {
    /// Stable code; docs/ledger.md lists them.
    pub code: String,
}

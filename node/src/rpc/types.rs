//! What JSON-RPC replies hold; the server fills these, the command line and localnet read them.
//! Amounts are decimal strings in ALC, hashes and keys hexadecimal, losses nats a token, times milliseconds since 1970.

use ailo_ledger::{
    Certificate, Header, Transaction,
    state::{Event, Phase, Poll, Replay, RewardKind, Round, Share},
};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey, Username, net::Reachability};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every reply names the block that it was read at.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "At_{T}")]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// How far the ledger has come elsewhere.
    pub sync: SyncStatus,
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

/// How far behind its peers a node is: behind the median of what they tell, so that a few that lie move nothing. Where none could show the next block they
/// are believed for as many more as have come since.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct SyncStatus {
    /// The newest block that peers tell of, or the newest one here; null where no peer has told, or none can show what it tells of.
    pub highest: Option<u64>,
    /// Blocks from the newest one here to that: 0 is in step.
    pub behind: Option<u64>,
}

/// How peers elsewhere reach a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DebtView {
    /// The reversed transfer.
    pub transfer: Hash,
    /// Who gets it.
    pub creditor: Address,
    /// How much.
    pub amount: Amount,
}

/// A wallet's stake behind a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StakeView {
    /// The node.
    pub node: NodeId,
    /// How much.
    pub amount: Amount,
}

/// `ailo_validators`: who decides the next block, and who stands behind a stake beside them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// Nodes in jail that do not validate; of many, some.
    pub jailed: Vec<NodeView>,
}

/// A validator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// Time that its heartbeats cover in the running epoch.
    pub up_ms: u64,
    /// Height of its last slash; 0 for none.
    pub slashed_height: u64,
}

/// `ailo_node`: a node as the ledger knows it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// Its key.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Address,
    /// Named in the genesis.
    pub founder: bool,
    /// Stake behind it.
    pub stake: Amount,
    /// Its weight in votes on the next block; 0 when it does not validate.
    pub power: u64,
    /// Whether it holds a seat in this epoch.
    pub seated: bool,
    /// Whether its last heartbeat said that it wants to train.
    pub trains: bool,
    /// Determinism class of its machine.
    pub class: Hash,
    /// Ledger age of its last heartbeat, or of its registration.
    pub seen_age: u64,
    /// It was silent for too long, and has no rights until its next heartbeat.
    pub lapsed: bool,
    /// Time that its heartbeats cover in the running epoch.
    pub up_ms: u64,
    /// Replays that found its work right.
    pub clean: u32,
    /// What its losses earn beyond plain work, in millionths.
    pub quality_ppm: u64,
    /// Jailed until this ledger age at least.
    pub jailed_until: Option<u64>,
    /// Height of its last slash; 0 for none.
    pub slashed_height: u64,
    /// Ledger age.
    pub age_ms: u64,
}

/// A page of `ailo_nodes`, in order of their keys.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NodesView {
    /// Registered nodes in all.
    pub count: u32,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// `ailo_proposals`: what is voted on, or approved and not in force yet; and what votes have changed so far.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProposalView {
    /// Number, for votes.
    pub number: u64,
    /// The proposal.
    #[serde(flatten)]
    pub poll: Poll,
}

/// Where all coins are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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

/// A page of `ailo_series`: what this node saw over time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SeriesView {
    /// The oldest first. Of the past only some are kept, evenly.
    pub samples: Vec<SampleView>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// What was seen at a block.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SampleView {
    /// Height of the block.
    pub height: u64,
    /// Its time.
    pub time_ms: u64,
    /// Coins minted so far.
    pub minted: Amount,
    /// Coins burned so far.
    pub burned: Amount,
    /// What the node's wallet has, spendable and behind nodes.
    pub owned: Amount,
    /// Rounds closed.
    pub rounds: u64,
    /// Held-out loss of the model; none before the first.
    pub loss: Option<f64>,
    /// Tokens a second that the node trains with.
    pub tokens_per_s: u32,
    /// Peers of the node.
    pub peers: u32,
}

/// A page of `ailo_richList`, the richest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RichView {
    /// Place of the first one, from 1.
    pub first: u32,
    /// Wallets; the first thousand at most are listed.
    pub wallets: Vec<RichWallet>,
    /// Minted in all.
    pub minted: Amount,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// A wallet of that list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RichWallet {
    /// Whose.
    pub address: Address,
    /// Spendable, behind nodes, and unbonding, together.
    pub owned: Amount,
}

/// `ailo_earnings`: what a node was paid.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EarningsView {
    /// The node.
    pub node: NodeId,
    /// Sums by what they are for.
    pub kinds: Vec<EarningView>,
    /// By the hour (UTC), of the last 48 those in which something was paid, the oldest first.
    pub hours: Vec<EarnedView>,
    /// By the day (UTC), of the last 60, as above.
    pub days: Vec<EarnedView>,
    /// When what is summed begins: the node that is asked has counted from then on; of another node's long history the end is read.
    pub since_ms: u64,
    /// The time from then to the newest block.
    pub covers_ms: u64,
    /// Whether that is all since the network's beginning.
    pub whole: bool,
}

/// What a node was paid in an hour or a day.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EarnedView {
    /// When it begins.
    pub from_ms: u64,
    /// Sums by what they are for.
    pub kinds: Vec<PaidView>,
}

/// What was paid for one kind of work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PaidView {
    /// What for.
    pub kind: RewardKind,
    /// How much.
    pub amount: Amount,
}

/// What a node was paid for one kind of work, up to the newest block.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EarningView {
    /// What for.
    pub kind: RewardKind,
    /// In the last 60 minutes, the running one included.
    pub hour: Amount,
    /// In the last 24 hours, the running one included.
    pub day: Amount,
    /// In all that is summed.
    pub all: Amount,
}

/// `ailo_search`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SearchView {
    /// What has that name; null for nothing.
    pub found: Option<Found>,
}

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)] // Fields are what their names and types say.
pub enum Found {
    /// A block.
    Block { height: u64 },
    /// A transaction.
    Transaction { id: Hash },
    /// A wallet, whether or not it holds anything.
    Wallet { address: Address },
    /// A node.
    Node { node: NodeId },
    /// A round.
    Round { number: u64 },
}

/// A page of `ailo_blocks`, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BlocksView {
    /// Blocks.
    pub blocks: Vec<BlockSummary>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// A block in a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BlockSummary {
    /// Id.
    pub hash: Hash,
    /// Its header.
    pub header: Header,
    /// Transactions in it.
    pub transactions: u64,
}

/// A page of `ailo_pending`: PENDING transfers, the oldest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PendingView {
    /// Confirmations that a transfer needs.
    pub needed: u32,
    /// Transfers.
    pub transfers: Vec<PendingTransfer>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// A transfer that waits for confirmations.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PendingTransfer {
    /// Its id.
    pub id: Hash,
    /// Height of its block.
    pub block_height: u64,
    /// Who sends.
    pub from: Address,
    /// Who gets it.
    pub to: Address,
    /// How much.
    pub amount: Amount,
    /// Confirmations so far.
    pub confirmations: u32,
}

/// A page of `ailo_recent`, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RecentView {
    /// Transactions.
    pub transactions: Vec<RecentTransaction>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// A transaction of that list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RecentTransaction {
    /// Its id.
    pub id: Hash,
    /// Height of its block.
    pub block_height: u64,
    /// Content.
    pub transaction: Transaction,
}

/// `ailo_waiting`: transactions in this node's mempool, in the order in which a block would take them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WaitingView {
    /// How many there are.
    pub count: u32,
    /// The first of them.
    pub transactions: Vec<TransactionInBlock>,
}

/// `ailo_block`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TransactionInBlock {
    /// Id.
    pub id: Hash,
    /// Content.
    pub transaction: Transaction,
}

impl From<Transaction> for TransactionInBlock {
    fn from(transaction: Transaction) -> TransactionInBlock {
        TransactionInBlock { id: transaction.id(), transaction }
    }
}

/// `ailo_transaction`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TransactionView {
    /// Id.
    pub id: Hash,
    /// Where it stands: waiting, included, or for transfers pending, confirmed, refunded, reversed, final, or ended
    /// where its sender has done so much since that this was not read to its end.
    pub status: String,
    /// Height of its block; none while it waits.
    pub block_height: Option<u64>,
    /// Nodes whose attestations of it count so far. Of a transfer that has ended they are looked for in some of the blocks after its own: late
    /// ones may be missing.
    pub attested_by: Vec<NodeId>,
    /// REPORTED: nodes that call the transfer a fraud.
    pub reported_by: Vec<NodeId>,
    /// Of a transfer: confirmations that it needs.
    pub needed: Option<u32>,
    /// Of a transfer: seats of its time, of which `report_percent` reverse it.
    pub seats: Option<u32>,
    /// Of a transfer: see `seats`.
    pub report_percent: Option<u32>,
    /// Content.
    pub transaction: Transaction,
}

/// `ailo_transactionEvents`: what happened to a transfer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TransactionEventsView {
    /// The oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Whether these are all up to now: of a sender that does much, only so much is read.
    pub whole: bool,
}

/// A page of `ailo_history`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HistoryView {
    /// Newest first.
    pub entries: Vec<HistoryEntry>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// Something that touched a wallet or a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Height of the block.
    pub height: u64,
    /// Time of the block.
    pub time_ms: u64,
    /// Its place in the history: a subscription goes on from here, a page with what is older.
    pub cursor: String,
    /// In a wallet's history: what it could spend after that block, where the block changed its account.
    pub free: Option<Amount>,
    /// What happened.
    pub event: Event,
}

/// What `ailo_subscribeHistory` tells.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EntryView {
    /// The next entry.
    pub entry: HistoryEntry,
}

/// A page of `ailo_rounds`, the newest first: those that the ledger keeps.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RoundsView {
    /// The open round.
    pub open: RoundChange,
    /// Closed rounds.
    pub rounds: Vec<RoundSummary>,
    /// Pass this as `cursor` for the next page; none at the end.
    pub next: Option<String>,
}

/// Where the open round stands; what `ailo_subscribeRounds` tells whenever it moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoundChange {
    /// Number.
    pub number: u64,
    /// What it waits for.
    pub phase: Phase,
    /// Nodes that take part.
    pub participants: u32,
    /// Contributions committed so far.
    pub committed: u32,
    /// Ledger age at which the phase ends whatever came in.
    pub deadline_age: u64,
    /// Ledger age.
    pub age_ms: u64,
    /// Rounds closed.
    pub rounds: u64,
    /// Root of the model.
    pub model: Hash,
}

/// A closed round in a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RoundSummary {
    /// Number.
    pub number: u64,
    /// Nodes that took part.
    pub participants: u32,
    /// Contributions accepted.
    pub accepted: u32,
    /// Whether it tolerated a liar.
    pub protected: bool,
    /// Its determinism class.
    pub class: Option<Hash>,
    /// Held-out loss that was voted.
    pub held_out_loss: Option<f64>,
    /// Paid for its work and replays, at most.
    pub pot: Amount,
    /// Whether all that was due is minted.
    pub settled: bool,
}

/// `ailo_round`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RoundView {
    /// The round as the ledger holds it.
    pub round: Round,
    /// Root of the model that it made, which won the vote; none while it is open.
    pub root: Option<Hash>,
    /// What came after its close.
    pub past: Option<PastView>,
    /// What rounds up to now say of its participants.
    pub scores: BTreeMap<NodeId, Scores>,
}

/// What rounds up to now say of a node, in millionths: `ledger/src/state/reward.rs` has the formulas.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub struct Scores {
    /// What its losses earn beyond plain work.
    pub quality_ppm: u64,
    /// How much more its updates gain on their own data than elsewhere, as a share of what is usual in a round.
    pub own_ppm: i64,
}

/// What comes after a round's close.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PeerView {
    /// Node.
    pub node: NodeId,
    /// Address.
    pub address: String,
    /// Round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Nodes that it is connected to, as it said less than a minute ago; 64 at most.
    pub peers: Vec<NodeId>,
}

/// `ailo_peers`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PeersView {
    /// Connected peers.
    pub peers: Vec<PeerView>,
}

/// `ailo_nextNonce`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NextNonce {
    /// The number.
    pub nonce: u64,
}

/// `ailo_submit`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// The transaction's id.
    pub id: Hash,
}

/// `ailo_submitMany`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SubmittedMany {
    /// One for each transaction, in their order.
    pub outcomes: Vec<SubmitOutcome>,
}

/// What became of a transaction: an id, or a stable code and a sentence.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct SubmitOutcome {
    pub id: Option<Hash>,
    pub code: Option<String>,
    pub message: Option<String>,
}

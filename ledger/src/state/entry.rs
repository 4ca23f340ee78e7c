//! What the ledger remembers. The state is one ordered map from [`Key`] to [`Entry`], both with canonical bytes;
//! whatever decides anything stands here and nowhere else.
//!
//! Times named `*_age` are *ledger age*: block time with gaps capped (`max_gap_ms`), in milliseconds from genesis.

use super::round::Round;
use crate::block::ValidatorSet;
use ailo_protocol::{
    Address, Amount, Hash, NodeId, PublicKey, Username,
    canonical::{Decode, Encode},
    contribution::MicroNats,
    inference::{SessionId, proof::Charge},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// No entry's canonical bytes are longer.
pub const MAX_ENTRY_BYTES: usize = 64 << 20;
/// No key's canonical bytes are longer.
pub const MAX_KEY_BYTES: usize = 128;

/// Names an entry. The order of the variants and of their fields is the order of the map, so queues are ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Key {
    /// [`Chain`].
    Chain,
    /// [`Supply`].
    Supply,
    /// [`Validators`].
    Validators,
    /// [`Model`].
    Model,
    /// [`Round`]: the one open round.
    Round,
    /// [`PastRound`]: a closed round that is not settled, or whose contributions can still be challenged.
    PastRound(u64),
    /// [`Replay`] of a contribution to a past round, by the round and the maker.
    Replay(u64, NodeId),
    /// [`Changes`]: parameters that differ from the genesis'.
    Changes,
    /// [`Account`] of a wallet.
    Account(Address),
    /// [`Alias`]: the account that a key signs for since a recovery, by the key's own address.
    Alias(Address),
    /// [`Owner`] of a user name.
    Owner(Username),
    /// [`Iou`]: what a wallet owes for a reversed transfer, by the height of the reversal.
    Iou(Address, u64, Hash),
    /// [`Node`].
    Node(NodeId),
    /// [`Lots`] of a node.
    Lots(NodeId),
    /// [`Transfer`] that has not ended, by the id of its transaction.
    Transfer(Hash),
    /// [`Report`] of a transfer by a node.
    Report(Hash, NodeId),
    /// [`Inclusion`]: the transfers of the block at a height.
    Inclusion(u64),
    /// [`Expiry`]: the age at which transfers of the block at a height are refunded or final.
    Expiry(u64, u64),
    /// [`Unbonding`]: the age at which a wallet's coins, once behind a node, are free.
    Unbonding(u64, Address, NodeId),
    /// [`Challenge`] of a contribution, by its round and maker.
    Challenge(u64, NodeId),
    /// [`Accusation`] of a stage, over a model.
    Accusation(NodeId, Hash),
    /// [`Poll`] on a proposal, by its number.
    Poll(u64),
    /// [`PollVote`] of a wallet.
    PollVote(u64, Address),
    /// [`EpochStart`] of an epoch that evidence or stamps may still be of.
    EpochStart(u64),
    /// [`Seats`] in force from an epoch on, until the next such entry.
    Seats(u64),
    /// [`Market`].
    Market,
    /// [`Deposit`] of a wallet.
    Deposit(Address),
    /// [`Withdrawal`]: the age at which coins of a wallet's deposit are free.
    Withdrawal(u64, Address),
    /// [`Claimed`] of a wallet's session by a node, by the age at which its receipts expire.
    Claimed(u64, Address, SessionId, NodeId),
    /// [`Drawn`] in an epoch, of a wallet's deposit, by a node.
    Drawn(u64, Address, NodeId),
    /// [`Tip`]. The root leaves it out, because the root stands in the block that it names.
    Tip,
}

macro_rules! entries {
    ($($kind:ident),* $(,)?) => {
        /// An entry of the state; shared, because copies of the map share what did not change.
        #[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
        #[allow(missing_docs)]
        pub enum Entry { $($kind(Arc<$kind>)),* }

        impl Entry {
            /// Whether an entry of this kind may stand at `key`.
            pub fn belongs_at(&self, key: &Key) -> bool {
                matches!((self, key), $((Entry::$kind(_), Key::$kind { .. }))|*)
            }
        }

        $(impl Record for $kind {
            fn of(entry: &Entry) -> Option<&Self> {
                match entry {
                    Entry::$kind(record) => Some(record),
                    _ => None,
                }
            }
            fn into_entry(self) -> Entry {
                Entry::$kind(Arc::new(self))
            }
        })*
    };
}

/// One kind of [`Entry`].
pub(super) trait Record: Sized + Clone {
    fn of(entry: &Entry) -> Option<&Self>;
    fn into_entry(self) -> Entry;
}

entries!(
    Chain, Supply, Validators, Model, Round, PastRound, Replay, Changes, Account, Alias, Owner, Iou, Node, Lots,
    Transfer, Report, Inclusion, Expiry, Unbonding, Challenge, Accusation, Poll, PollVote, EpochStart, Seats, Market,
    Deposit, Withdrawal, Claimed, Drawn, Tip,
);

/// Where the chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Chain {
    /// Height of the last block; 0 at genesis.
    pub height: u64,
    /// Time of the last block, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Ledger age.
    pub age: u64,
    /// Id of the block before the last one.
    pub parent: Hash,
    /// What lots are drawn by; each block makes the next one.
    pub seed: Hash,
}

/// How much of a chain of lots is left to reveal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LotChainLeft {
    /// What the node derives the chain from, beside its key.
    pub number: u64,
    /// The link that was revealed last, or the chain's end.
    pub tip: Hash,
    /// Links before it.
    pub left: u32,
}

/// A node's chains of lots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Lots {
    /// The chain in use; nothing is left of it before the first.
    pub chain: LotChainLeft,
    /// The one that comes after it, and the epoch from which on it counts.
    pub next: Option<(LotChainLeft, u64)>,
}

/// The id of the block that the state came from; zero at genesis.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tip(pub Hash);

/// Where every coin is: `minted = free + pending + staked + unbonding + escrow + burned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Supply {
    /// Ever made.
    pub minted: Amount,
    /// Spendable.
    pub free: Amount,
    /// On the way in PENDING transfers.
    pub pending: Amount,
    /// Behind nodes.
    pub staked: Amount,
    /// On the way back from behind nodes.
    pub unbonding: Amount,
    /// Fees of PENDING transfers, what reports, challenges and proposals bind, and deposits for inference.
    pub escrow: Amount,
    /// Gone.
    pub burned: Amount,
}

/// A wallet's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Account {
    /// The nonce of the wallet's next transaction.
    pub nonce: u64,
    /// Spendable.
    pub free: Amount,
    /// Coming in by PENDING transfers.
    pub incoming: Amount,
    /// Behind nodes.
    pub staked: Amount,
    /// Leaving stake.
    pub unbonding: Amount,
    /// Owed for reversed transfers: whatever comes in pays it first.
    pub owes: Amount,
    /// The key that signs for it, once a recovery has replaced the one that the address is made of.
    pub key: Option<PublicKey>,
    /// The key before that, if it is not the one that the address is made of: receipts that it signed are still paid.
    pub replaced: Option<PublicKey>,
    /// Commitment to the recovery key.
    pub recovery: Option<Hash>,
    /// Recoveries so far.
    pub recoveries: u64,
    /// Age of the last one.
    pub recovered_age: u64,
    /// User name.
    pub name: Option<Username>,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Node {
    /// The wallet it works for.
    pub wallet: Address,
    /// Named in the genesis; such an entry is never removed.
    pub founder: bool,
    /// Age of registration.
    pub registered_age: u64,
    /// Age when it was last bound to another wallet.
    pub bound_age: Option<u64>,
    /// Age of registration or of the last heartbeat, whichever is later.
    pub seen_age: u64,
    /// Time that the last heartbeat was made, so that it can't be sent again; 0 before the first.
    pub heartbeat_time_ms: u64,
    /// The last heartbeat said that it wants to train.
    pub trains: bool,
    /// Determinism class of its machine, as the last heartbeat said that did not come amid a round of its; zero before.
    pub class: Hash,
    /// Replays that found its work to be what it should be, since it registered, was disowned or convicted.
    pub clean: u32,
    /// It draws no replays up to this epoch: it was silent over one, or wrong.
    pub idle_through: Option<u64>,
    /// What rounds up to this one promised it is void: it was convicted.
    pub void_through: Option<u64>,
    /// It missed a commit after its last heartbeat.
    pub missed: bool,
    /// Contributions that it owes: some for each round in which it took a place and gave nothing that counts.
    pub misses: u32,
    /// It sits out up to this round, after the one that it missed.
    pub rests_through: Option<u64>,
    /// It was silent for too long: no seat, no part in rounds, no vote of its stake, until its next heartbeat.
    pub lapsed: bool,
    /// Stake behind it, of its wallet.
    pub stake: Amount,
    /// Time that its heartbeats cover in the running epoch.
    pub up_ms: u64,
    /// Reports made in the epoch that is named.
    pub reports: (u64, u32),
    /// Receipts claimed in the epoch that is named.
    pub receipts: (u64, u32),
    /// Slashed: without rights until its wallet unjails it, not before this age.
    pub jailed_until: Option<u64>,
    /// Receipts that expire up to this age are worth nothing to it: it signed what it did not compute.
    pub unpaid_until: u64,
    /// Height of the last verdict that it did: it covers all that it had signed as a stage.
    pub convicted_height: u64,
    /// Height of the last slash: it covers everything signed before. While evidence of that time is admissible the entry
    /// stays, whatever lapses.
    pub slashed_height: u64,
    /// Running average of its quality bonus, in ppm above 1.
    pub score_ppm: u64,
    /// Running average of how much more its updates gain on their own data than elsewhere, in ppm of what is usual in a round.
    pub own_ppm: i64,
    /// Accepted contributions by epoch, inside the activity window.
    pub work: BTreeMap<u64, u32>,
    /// The epoch in which it last began to qualify for a seat by stake or work, while it still does.
    pub qualified: Option<u64>,
}

impl Node {
    /// A node that has just registered.
    pub(super) fn new(wallet: Address, founder: bool, age: u64) -> Node {
        Node {
            wallet,
            founder,
            registered_age: age,
            bound_age: None,
            seen_age: age,
            heartbeat_time_ms: 0,
            trains: false,
            class: Hash::ZERO,
            clean: 0,
            idle_through: None,
            void_through: None,
            missed: false,
            misses: 0,
            rests_through: None,
            lapsed: false,
            stake: Amount::ZERO,
            up_ms: 0,
            reports: (0, 0),
            receipts: (0, 0),
            jailed_until: None,
            unpaid_until: 0,
            convicted_height: 0,
            slashed_height: 0,
            score_ppm: 0,
            own_ppm: ailo_protocol::amount::PPM as i64,
            work: BTreeMap::new(),
            qualified: None,
        }
    }
}

/// A closed round.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PastRound {
    /// As it was at the close.
    pub round: Round,
    /// Age at the close.
    pub closed_age: u64,
    /// Minted for its work, at most.
    pub pot: Amount,
    /// Minted for a new best loss, at most.
    pub bonus: Amount,
    /// What is promised, once the replays are drawn.
    pub shares: Option<Vec<Share>>,
    /// What is promised for each replay.
    pub replay_share: Amount,
    /// Whether all that was due is minted.
    pub settled: bool,
    /// Makers of contributions that are, or were, challenged.
    pub challenged: BTreeSet<NodeId>,
}

impl PastRound {
    /// A round that has just closed, and pays so much at most.
    pub(super) fn closed(round: Round, closed_age: u64, pot: Amount, bonus: Amount) -> PastRound {
        let (replay_share, challenged) = (Amount::ZERO, BTreeSet::new());
        PastRound { round, closed_age, pot, bonus, shares: None, replay_share, settled: false, challenged }
    }
}

/// What a round promises for a contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// The maker.
    pub node: NodeId,
    /// The wallet that it worked for.
    pub wallet: Address,
    /// Of the pot.
    pub training: Amount,
    /// Of the bonus for a new best loss.
    pub bonus: Amount,
    /// Whether it is of the round's class, and its maker proven or a replay of it drawn.
    pub verified: bool,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The same bits.
    Clean,
    /// Nobody said anything.
    Unseen,
    /// Others than two replayers got, and the maker has nothing to lose.
    Disowned,
    /// Others than the validators got, all the same.
    Forged,
    /// Accused, and neither convicted nor cleared.
    Undecided,
}

/// A contribution that is trained again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Replay {
    /// Who has to report; none while another one is to be drawn.
    pub replayer: Option<NodeId>,
    /// Age at which another one is drawn.
    pub deadline_age: u64,
    /// Replayers that got something else.
    pub accusers: Vec<NodeId>,
    /// Replayers that said nothing in time.
    pub silent: Vec<NodeId>,
    /// Replayers that are paid, once it is over.
    pub earned: Vec<NodeId>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

impl Replay {
    /// One that has just been drawn.
    pub(super) fn dealt(replayer: NodeId, deadline_age: u64) -> Replay {
        Replay { replayer: Some(replayer), deadline_age, ..Replay::default() }
    }
}

/// Parameters that votes have changed, each as `section.key=value`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Changes(pub Vec<String>);

/// The account that a key signs for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Alias(pub Address);

/// Who has a user name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Owner(pub Address);

/// What is owed for a reversed transfer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Iou {
    /// To whom.
    pub creditor: Address,
    /// How much, still.
    pub amount: Amount,
}

/// A report of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Report {
    /// Whose bond it is.
    pub wallet: Address,
    /// What it binds.
    pub bond: Amount,
}

/// A stage's statement that somebody calls wrong.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Accusation {
    /// Who judges it, and what was found.
    pub trial: Challenge,
    /// What it takes to judge it.
    pub charge: Charge,
}

/// What somebody calls forged: a contribution, or a stage's statement.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Challenge {
    /// Whose bond it is.
    pub challenger: Address,
    /// What it binds.
    pub bond: Amount,
    /// Age at which it is dismissed.
    pub deadline_age: u64,
    /// Who judges: the validators when it was made.
    pub power: ValidatorSet,
    /// What the contribution says that its training gave, or the stage its computation.
    pub claimed: Hash,
    /// What was found to be given by it, and the power that found so.
    pub found: BTreeMap<Hash, u64>,
    /// Who has judged.
    pub judged: BTreeSet<NodeId>,
}

impl Challenge {
    /// One that nobody has judged yet.
    pub(super) fn new(
        challenger: Address,
        bond: Amount,
        deadline_age: u64,
        power: ValidatorSet,
        claimed: Hash,
    ) -> Challenge {
        let (found, judged) = (BTreeMap::new(), BTreeSet::new());
        Challenge { challenger, bond, deadline_age, power, claimed, found, judged }
    }

    /// Power that found one and the same other result than the one claimed. Machines that differ among themselves
    /// convict nobody.
    pub(super) fn forged(&self) -> u64 {
        let others = self.found.iter().filter(|(found, _)| **found != self.claimed);
        others.map(|(_, power)| *power).max().unwrap_or(0)
    }

    /// Whether more than a third of the power, and so somebody honest, got what is claimed.
    pub(super) fn is_cleared(&self) -> bool {
        let total = self.power.total_power();
        !self.power.is_quorum(total - self.found.get(&self.claimed).copied().unwrap_or(0))
    }
}

/// A proposal to change parameters, and the votes on it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Poll {
    /// Each as `section.key=value`.
    pub changes: Vec<String>,
    /// Why, as the proposer says.
    pub why: String,
    /// Who proposed.
    pub proposer: Address,
    /// What it binds; none once the votes are counted.
    pub deposit: Amount,
    /// Age at which the votes are counted.
    pub ends_age: u64,
    /// Stake for it.
    pub yes: Amount,
    /// Stake against it.
    pub no: Amount,
    /// Approved: the height that the change comes with.
    pub activates: Option<u64>,
}

/// A wallet's vote.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PollVote {
    /// For or against.
    pub approve: bool,
    /// Stake that it carries.
    pub weight: Amount,
}

/// An epoch's first block.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EpochStart {
    /// Its height.
    pub height: u64,
    /// The seed after it, which stamps are made for.
    pub lot: Hash,
    /// Nodes that were registered when it began: those that share deposits in this epoch.
    pub nodes: u32,
}

/// A transfer's standing on the ledger; REFUNDED, REVERSED and FINAL ones have none left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferStatus {
    /// Debited from the sender, not yet the recipient's.
    Pending,
    /// The recipient's.
    Confirmed,
}

/// A transfer that is PENDING or CONFIRMED.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Transfer {
    /// Sender.
    pub from: Address,
    /// Recipient.
    pub to: Address,
    /// Coins moved.
    pub amount: Amount,
    /// Fee; in escrow while PENDING.
    pub fee: Amount,
    /// Standing.
    pub status: TransferStatus,
    /// Height of the block that it came in.
    pub height: u64,
    /// Age of that block.
    pub age: u64,
    /// Who made that block.
    pub proposer: NodeId,
    /// Reports that stand.
    pub reports: u32,
    /// Nodes that confirmed it, in order; none while PENDING (see [`Inclusion::attested`]). Shared with the block's other
    /// transfers, which mostly have the same.
    #[serde(with = "shared")]
    pub confirmers: Arc<[NodeId]>,
}

/// A shared list in serde's terms: as the list.
mod shared {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(list: &Arc<[NodeId]>, serializer: S) -> Result<S::Ok, S::Error> {
        list.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[NodeId]>, D::Error> {
        Vec::deserialize(deserializer).map(Into::into)
    }
}

/// The transfers of one block that have not ended, and who has attested them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Inclusion {
    /// Epoch of the block.
    pub epoch: u64,
    /// Seats that may attest at once.
    pub drawn: BTreeSet<NodeId>,
    /// Attestations while any transfer was PENDING, in order.
    pub attested: Vec<Attestation>,
    /// The transfers, in order of their ids.
    pub transfers: Vec<Hash>,
    /// How many of them are PENDING.
    pub pending: u32,
}

/// A node's attestation of one block.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Attestation {
    /// The node.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Address,
    /// Transfers that it abstains from, in order.
    pub except: Vec<Hash>,
}

impl Attestation {
    /// Whether it counts for this transfer.
    pub fn counts(&self, id: &Hash, transfer: &Transfer) -> bool {
        self.wallet != transfer.from && self.wallet != transfer.to && self.except.binary_search(id).is_err()
    }
}

/// A mark in the queue of transfers that end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Expiry;

/// Coins that leave stake.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unbonding(pub Amount);

/// What inference costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Market {
    /// Market price of a unit.
    pub price: Amount,
    /// Paid out of deposits in the running epoch: the demand.
    pub paid: Amount,
    /// Nodes with a seat that were paid in the running epoch: the capacity.
    pub servers: u32,
    /// Minted in the running epoch beyond the share of what burned.
    pub subsidy: Amount,
}

/// Coins of a wallet that pay for inference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Deposit {
    /// All of them.
    pub amount: Amount,
    /// Those on their way back; they pay until then.
    pub leaving: Amount,
    /// Age at which those are free.
    pub due_age: u64,
    /// A reversal has seized from it: what nodes were promised may not be covered. Until the next deposit.
    pub short: bool,
    /// Epoch of `basis`.
    pub epoch: u64,
    /// What the parts of all nodes in that epoch are parts of.
    pub basis: Amount,
}

/// A mark in the queue of withdrawals.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Withdrawal;

/// What a node has claimed of a session's receipts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Claimed {
    /// Units.
    pub units: u64,
}

/// What a node has had of a deposit in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Drawn(pub Amount);

/// A node that confirms transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Seat {
    /// The node.
    pub node: NodeId,
    /// The wallet that it is bound to.
    pub wallet: Address,
}

/// A snapshot of the seats, in order of the node keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Seats(pub Vec<Seat>);

impl Seats {
    /// Whether `node` holds a seat.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.wallet(node).is_some()
    }

    /// The wallet that `node` worked for when it got the seat.
    pub fn wallet(&self, node: &NodeId) -> Option<Address> {
        self.0.binary_search_by_key(node, |seat| seat.node).ok().map(|at| self.0[at].wallet)
    }
}

/// Who decides the next height.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Validators {
    /// The set.
    pub set: ValidatorSet,
    /// The founders have handed over, for good.
    pub latched: bool,
    /// Epoch of `reference`.
    pub epoch: u64,
    /// The set when that epoch began: what the set may change against.
    pub reference: ValidatorSet,
}

/// The model that the network has, and what its making has paid.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Model {
    /// Merkle root of the model state.
    pub root: Hash,
    /// Rounds closed: outer steps taken.
    pub steps: u64,
    /// Held-out loss that was voted with the root.
    pub loss: Option<MicroNats>,
    /// Lowest loss ever voted.
    pub best_loss: Option<MicroNats>,
    /// The loss that the next best-loss bonus is measured against: the first one voted, then those that earned it.
    pub bonus_loss: Option<MicroNats>,
    /// Epoch of the last best-loss bonus.
    pub bonus_epoch: Option<u64>,
    /// Epoch that `minted` counts.
    pub minted_epoch: u64,
    /// Promised by rounds that closed in `minted_epoch`, whatever became of it.
    pub minted: Amount,
    /// Time that the next round's participants have to commit.
    pub train_ms: u64,
    /// How often the time for verdicts and votes is doubled: once more for each round that they came too late for, half as often after each that closed.
    pub patience: u32,
}

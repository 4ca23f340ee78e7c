//! What the ledger remembers. The state is one ordered map from [`Key`] to [`Entry`], both with canonical bytes;
//! whatever decides anything stands here and nowhere else.
//!
//! Times named `*_age` are *ledger age*: block time with gaps capped (`max_gap_ms`), in milliseconds from genesis.

use super::round::Round;
use crate::block::ValidatorSet;
use ailo_protocol::{
    Address, Amount, Hash, NodeId,
    canonical::{Decode, Encode},
    contribution::MicroNats,
};
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
    /// [`Account`] of a wallet.
    Account(Address),
    /// [`Node`].
    Node(NodeId),
    /// [`Stake`] of a wallet behind a node.
    Stake(Address, NodeId),
    /// [`Transfer`] that is not final yet, by the id of its transaction.
    Transfer(Hash),
    /// [`Inclusion`]: the PENDING transfers of the block at a height.
    Inclusion(u64),
    /// [`Expiry`]: the age at which a transfer is refunded or final.
    Expiry(u64, Hash),
    /// [`Unbonding`]: the age at which a wallet's coins, once behind a node, are free.
    Unbonding(u64, Address, NodeId),
    /// [`Seats`] in force from an epoch on, until the next such entry.
    Seats(u64),
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
    Chain, Supply, Validators, Model, Round, Account, Node, Stake, Transfer, Inclusion, Expiry, Unbonding, Seats, Tip
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
    /// The lot: `H(seed || parent)` at each block.
    pub seed: Hash,
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
    /// Fees of PENDING transfers.
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
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Node {
    /// The wallet it works for, for good.
    pub wallet: Address,
    /// Named in the genesis; such an entry is never removed.
    pub founder: bool,
    /// Age of registration.
    pub registered_age: u64,
    /// Age of registration or of the last heartbeat, whichever is later.
    pub seen_age: u64,
    /// Time that the last heartbeat was made, so that it can't be sent again; 0 before the first.
    pub heartbeat_time_ms: u64,
    /// The last heartbeat said that it wants to train.
    pub trains: bool,
    /// It missed a commit after its last heartbeat.
    pub missed: bool,
    /// It was silent for too long: no seat, no part in rounds, no vote of its stake, until its next heartbeat.
    pub lapsed: bool,
    /// All stake behind it.
    pub stake: Amount,
    /// Running average of its quality bonus, in ppm above 1.
    pub score_ppm: u64,
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
            seen_age: age,
            heartbeat_time_ms: 0,
            trains: false,
            missed: false,
            lapsed: false,
            stake: Amount::ZERO,
            score_ppm: 0,
            work: BTreeMap::new(),
            qualified: None,
        }
    }
}

/// A wallet's stake behind one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stake(pub Amount);

/// A transfer's standing on the ledger; REFUNDED and FINAL ones have none left.
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
    /// Nodes that attested it, in order.
    pub confirmers: Vec<NodeId>,
}

/// The PENDING transfers of one block, and who has attested them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Inclusion {
    /// Epoch of the block.
    pub epoch: u64,
    /// Seats that may attest at once.
    pub drawn: BTreeSet<NodeId>,
    /// Transfers still PENDING.
    pub pending: BTreeSet<Hash>,
    /// Nodes that have attested the block.
    pub attested: BTreeSet<NodeId>,
}

/// A mark in the queue of transfers that end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Expiry;

/// Coins that leave stake.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unbonding(pub Amount);

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
        self.0.binary_search_by_key(node, |seat| seat.node).is_ok()
    }
}

/// Who decides the next height.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Validators {
    /// The set.
    pub set: ValidatorSet,
    /// The founders have handed over, for good.
    pub latched: bool,
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
    /// Minted by rounds in `minted_epoch`.
    pub minted: Amount,
    /// Time that the next round's participants have to commit.
    pub train_ms: u64,
}

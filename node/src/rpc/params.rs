//! What the methods take, and all that can be checked of it without a node: pure, so that any input can be tried on it.
//! A refusal is a sentence for whoever asked.

use ailo_ledger::{
    Transaction,
    state::{Key, entry::MAX_KEY_BYTES},
    store::{Cursor, MAX_PAGE, Subject},
};
use ailo_protocol::{Address, Hash, NodeId, PublicKey, Username, canonical};
use schemars::JsonSchema;
use serde::Deserialize;
use std::ops::RangeInclusive;

/// Transactions in one call, at most.
const MAX_SUBMITTED: usize = 256;
/// Headers in one answer, at most.
pub const MAX_HEADERS: u32 = 256;
/// Entries of a page, unless told otherwise.
const USUAL_PAGE: usize = 50;
/// Characters of what is searched for, at most.
pub const MAX_QUERY: usize = 200;

/// Methods that take nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// `ailo_block`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockParams {
    /// Its height.
    height: Option<u64>,
    /// Or its id.
    hash: Option<Hash>,
}

/// How a block is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockName {
    /// By its height.
    Height(u64),
    /// By its id.
    Id(Hash),
}

impl BlockParams {
    /// Which block is asked for.
    pub fn name(&self) -> Result<BlockName, &'static str> {
        match self {
            BlockParams { height: Some(height), hash: None } => Ok(BlockName::Height(*height)),
            BlockParams { height: None, hash: Some(hash) } => Ok(BlockName::Id(*hash)),
            _ => Err("name the block by height or by hash"),
        }
    }
}

/// How far a transfer has come. What was refunded or reversed has come to its end as well: nothing changes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MinStatus {
    /// It is in a block.
    Pending,
    /// It has its confirmations: the recipient can spend it.
    Confirmed,
    /// It has ended.
    Final,
}

/// `ailo_transaction`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransactionParams {
    /// The transaction's id.
    pub id: Hash,
    /// Answer only once it has come so far; what is no transfer is final with its block.
    #[serde(rename = "minStatus")]
    pub min_status: Option<MinStatus>,
}

/// `ailo_transactionEvents`, `ailo_transactionProof`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdParams {
    /// The transaction's id.
    pub id: Hash,
}

/// Methods that answer page by page.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// What the page before gave as `next`; none for the first page.
    #[serde(default)]
    cursor: Option<String>,
    /// Entries at most; a page has its own bound, too.
    #[serde(default)]
    limit: Option<u32>,
}

impl PageParams {
    /// The page of the usual length that begins at a cursor.
    pub fn after(cursor: Option<String>) -> PageParams {
        PageParams { cursor, limit: None }
    }

    /// Where the page begins, for pages whose cursors are numbers; `None` for the first.
    pub fn from(&self) -> Result<Option<u64>, &'static str> {
        let number = |text: &String| text.parse().map_err(|_| NOT_OURS);
        self.cursor.as_ref().map(number).transpose()
    }

    /// The same for pages that begin at a place of what stood at a height.
    pub fn place(&self) -> Result<Option<(u64, usize)>, &'static str> {
        let place = |text: &String| {
            let (height, place) = text.split_once('-')?;
            Some((height.parse().ok()?, place.parse().ok()?))
        };
        self.cursor.as_ref().map(|text| place(text).ok_or(NOT_OURS)).transpose()
    }

    /// The same for pages that begin after a node.
    pub fn after_node(&self) -> Result<Option<NodeId>, &'static str> {
        let node = |text: &String| text.parse().map_err(|_| NOT_OURS);
        self.cursor.as_ref().map(node).transpose()
    }

    /// The same for pages that begin after a transfer, which is named by the height of its block and its id.
    pub fn after_transfer(&self) -> Result<Option<(u64, Hash)>, &'static str> {
        let place = |text: &String| {
            let (height, id) = text.split_once('-')?;
            Some((height.parse().ok()?, id.parse().ok()?))
        };
        self.cursor.as_ref().map(|text| place(text).ok_or(NOT_OURS)).transpose()
    }

    /// Entries wanted, at most `most`.
    pub fn limit(&self, most: usize) -> usize {
        page(self.limit, most)
    }
}

fn page(limit: Option<u32>, most: usize) -> usize {
    limit.map_or(USUAL_PAGE, |limit| limit as usize).clamp(1, most)
}

/// `ailo_node`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeParams {
    /// The node's key.
    pub node: NodeId,
}

/// `ailo_earnings`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarningsParams {
    /// The node; the one that is asked, if none is named.
    #[serde(default)]
    pub node: Option<NodeId>,
}

/// `ailo_search`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchParams {
    /// An id, an address, a @name, a node's key, a height, or a round like "round 7"; 200 characters at most.
    pub query: String,
}

/// `ailo_round`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoundParams {
    /// The round; the open one, if none is named.
    #[serde(default)]
    pub number: Option<u64>,
}

/// `ailo_account`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountParams {
    /// The wallet.
    pub address: Address,
}

/// `ailo_nextNonce`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyParams {
    /// The key that will sign.
    pub key: PublicKey,
}

/// `ailo_history`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    /// A wallet's.
    address: Option<Address>,
    /// Or a node's.
    node: Option<NodeId>,
    /// Or a transfer's: reports, and how it ended if not as most do.
    transfer: Option<Hash>,
    /// What the page before gave as `next`; none for the newest.
    cursor: Option<String>,
    /// Entries at most, up to 100; 50 unless told otherwise.
    limit: Option<u32>,
    /// Leave out what happened to transfers that have not come so far by now.
    #[serde(rename = "minStatus")]
    pub min_status: Option<MinStatus>,
}

/// `ailo_subscribeHistory`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FollowParams {
    /// A wallet's.
    address: Option<Address>,
    /// Or a node's.
    node: Option<NodeId>,
    /// Or a transfer's: reports, and how it ended if not as most do.
    transfer: Option<Hash>,
    /// The cursor of the last entry that was seen: what comes after it is told; none for what comes from now on.
    cursor: Option<String>,
}

impl FollowParams {
    /// Whose history.
    pub fn subject(&self) -> Result<Subject, &'static str> {
        subject(self.address, self.node, self.transfer)
    }

    /// After what; `None` from now on.
    pub fn after(&self) -> Result<Option<Cursor>, &'static str> {
        self.cursor.as_deref().map(cursor).transpose()
    }
}

fn subject(address: Option<Address>, node: Option<NodeId>, transfer: Option<Hash>) -> Result<Subject, &'static str> {
    match (address, node, transfer) {
        (Some(address), None, None) => Ok(Subject::Wallet(address)),
        (None, Some(node), None) => Ok(Subject::Node(node)),
        (None, None, Some(id)) => Ok(Subject::Transfer(id)),
        _ => Err("a history is that of an `address`, of a `node` or of a `transfer`: give one of them"),
    }
}

impl HistoryParams {
    /// Whose history.
    pub fn subject(&self) -> Result<Subject, &'static str> {
        subject(self.address, self.node, self.transfer)
    }

    /// Before what; `None` for the newest page.
    pub fn before(&self) -> Result<Option<Cursor>, &'static str> {
        self.cursor.as_deref().map(cursor).transpose()
    }

    /// Entries wanted, within a page's bound.
    pub fn limit(&self) -> usize {
        page(self.limit, MAX_PAGE)
    }
}

const NOT_OURS: &str = "the cursor is not one that this node gave";

/// The cursor of a text that [`cursor_text`] gave.
pub fn cursor(text: &str) -> Result<Cursor, &'static str> {
    let cursor = text.split_once('-').and_then(|(height, event)| {
        let (height, event) = (height.parse().ok()?, event.parse().ok()?);
        Some(Cursor { height, event })
    });
    cursor.ok_or(NOT_OURS)
}

/// The text form of a cursor.
pub fn cursor_text(cursor: Cursor) -> String {
    format!("{}-{}", cursor.height, cursor.event)
}

/// `ailo_submit`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitParams {
    /// Its canonical bytes, in hexadecimal.
    transaction: String,
}

impl SubmitParams {
    /// The transaction, whose signature nobody has verified yet.
    pub fn transaction(&self) -> Result<Transaction, String> {
        let malformed = |why: String| format!("the transaction is malformed: {why}");
        let bytes = hex::decode(&self.transaction).map_err(|e| malformed(e.to_string()))?;
        Transaction::decode(&bytes).map_err(|e| malformed(e.to_string()))
    }
}

/// `ailo_submitMany`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitManyParams {
    /// At most 256 of them, each as its canonical bytes in hexadecimal.
    transactions: Vec<String>,
}

impl SubmitManyParams {
    /// The transactions; `None` for one that is malformed.
    pub fn transactions(&self) -> Result<Vec<Option<Transaction>>, String> {
        if self.transactions.len() > MAX_SUBMITTED {
            return Err(format!("at most {MAX_SUBMITTED} transactions at once"));
        }
        let decode = |text: &String| hex::decode(text).ok().and_then(|bytes| Transaction::decode(&bytes).ok());
        Ok(self.transactions.iter().map(decode).collect())
    }
}

/// `ailo_setTraining`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTrainingParams {
    /// Whether the node trains.
    pub on: bool,
}

/// `ailo_setPower`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPowerParams {
    /// Share of the time that training may compute, 20 to 90.
    pub percent: u8,
}

/// `ailo_owner`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerParams {
    /// The user name.
    pub name: Username,
}

/// `ailo_lightBlock`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LightBlockParams {
    /// Its height; the head's, if none is named.
    pub height: Option<u64>,
}

/// `ailo_headers`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadersParams {
    /// Height of the newest.
    from: u64,
    /// How many at most, up to 256.
    limit: Option<u32>,
}

impl HeadersParams {
    /// The heights asked for.
    pub fn heights(&self) -> RangeInclusive<u64> {
        let limit = u64::from(self.limit.unwrap_or(MAX_HEADERS).clamp(1, MAX_HEADERS));
        self.from.saturating_sub(limit - 1)..=self.from
    }
}

/// `ailo_proof`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProofParams {
    /// A wallet's account.
    account: Option<Address>,
    /// Or a node.
    node: Option<NodeId>,
    /// Or the model.
    #[serde(default)]
    model: bool,
    /// Or the canonical bytes of any key that the state root covers, in hexadecimal.
    key: Option<String>,
}

impl ProofParams {
    /// The key asked for, which the state root covers.
    pub fn key(&self) -> Result<Key, &'static str> {
        match self {
            ProofParams { account: Some(account), node: None, model: false, key: None } => Ok(Key::Account(*account)),
            ProofParams { account: None, node: Some(node), model: false, key: None } => Ok(Key::Node(*node)),
            ProofParams { account: None, node: None, model: true, key: None } => Ok(Key::Model),
            ProofParams { account: None, node: None, model: false, key: Some(key) } => hex::decode(key)
                .ok()
                .and_then(|bytes| canonical::decode(&bytes, MAX_KEY_BYTES).ok())
                .filter(|key| *key != Key::Tip)
                .ok_or("these are not the canonical bytes of a key that the state root covers"),
            _ => Err("name one of account, node, model and key"),
        }
    }
}

//! What the methods take, and all that can be checked of it without a node: pure, so that any input can be tried on it.
//! A refusal is a sentence for whoever asked.

use ailo_ledger::{
    Transaction,
    state::{Key, entry::MAX_KEY_BYTES},
    store::{Cursor, MAX_PAGE, Subject},
};
use ailo_protocol::{Address, Hash, NodeId, Username, canonical};
use serde::Deserialize;
use std::ops::RangeInclusive;

/// Transactions in one call, at most.
const MAX_SUBMITTED: usize = 256;
/// Headers in one answer, at most.
pub const MAX_HEADERS: u32 = 256;

/// `ailo_block`
#[derive(Debug, Deserialize)]
pub struct BlockParams {
    height: Option<u64>,
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

/// `ailo_transaction`, `ailo_transactionProof`
#[derive(Debug, Deserialize)]
pub struct TransactionParams {
    /// The transaction's id.
    pub id: Hash,
}

/// `ailo_round`
#[derive(Debug, Default, Deserialize)]
pub struct RoundParams {
    /// The round; the open one, if none is named.
    #[serde(default)]
    pub number: Option<u64>,
}

/// `ailo_account`
#[derive(Debug, Deserialize)]
pub struct AccountParams {
    /// The wallet.
    pub address: Address,
}

/// `ailo_history`
#[derive(Debug, Deserialize)]
pub struct HistoryParams {
    address: Option<Address>,
    node: Option<NodeId>,
    transfer: Option<Hash>,
    cursor: Option<String>,
    limit: Option<u32>,
}

impl HistoryParams {
    /// Whose history.
    pub fn subject(&self) -> Result<Subject, &'static str> {
        match (self.address, self.node, self.transfer) {
            (Some(address), None, None) => Ok(Subject::Wallet(address)),
            (None, Some(node), None) => Ok(Subject::Node(node)),
            (None, None, Some(id)) => Ok(Subject::Transfer(id)),
            _ => Err("a history is that of an `address`, of a `node` or of a `transfer`: give one of them"),
        }
    }

    /// Before what; `None` for the newest page.
    pub fn before(&self) -> Result<Option<Cursor>, &'static str> {
        self.cursor.as_deref().map(cursor).transpose()
    }

    /// Entries wanted, within a page's bound.
    pub fn limit(&self) -> usize {
        self.limit.map_or(50, |limit| limit as usize).clamp(1, MAX_PAGE)
    }
}

/// The cursor of a text that [`cursor_text`] gave.
pub fn cursor(text: &str) -> Result<Cursor, &'static str> {
    let cursor = text.split_once('-').and_then(|(height, event)| {
        let (height, event) = (height.parse().ok()?, event.parse().ok()?);
        Some(Cursor { height, event })
    });
    cursor.ok_or("the cursor is not one that this node gave")
}

/// The text form of a cursor.
pub fn cursor_text(cursor: Cursor) -> String {
    format!("{}-{}", cursor.height, cursor.event)
}

/// `ailo_submit`
#[derive(Debug, Deserialize)]
pub struct SubmitParams {
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
#[derive(Debug, Deserialize)]
pub struct SubmitManyParams {
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

/// `ailo_owner`
#[derive(Debug, Deserialize)]
pub struct OwnerParams {
    /// The user name.
    pub name: Username,
}

/// `ailo_lightBlock`
#[derive(Debug, Deserialize)]
pub struct LightBlockParams {
    /// Its height; `None` for the head.
    pub height: Option<u64>,
}

/// `ailo_headers`
#[derive(Debug, Deserialize)]
pub struct HeadersParams {
    from: u64,
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
#[derive(Debug, Deserialize)]
pub struct ProofParams {
    account: Option<Address>,
    node: Option<NodeId>,
    #[serde(default)]
    model: bool,
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

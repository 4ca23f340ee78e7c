//! Light verification: what a client can know of the ledger without executing it. It starts from the genesis and, if it
//! has one, a checkpoint (the height and id of a block that somebody vouches for), follows certificates to newer
//! headers, and checks Merkle proofs against the headers that it has reached. Whoever answers its questions is believed
//! nothing.
//!
//! A newer block is believed when
//!
//! - it belongs to the network, is later than the trusted one, and not further ahead of the clock than `skew_ms`;
//! - its validators are those that its header names, and more than two thirds of their power signed its certificate;
//! - it is *adjacent*: its parent is the trusted block, and its validators are those that the trusted header names as the
//!   next; or it is *skipped to*: more than a third of the power of those next validators signed too, so at least one of
//!   them is honest. Where fewer did, a block between the two has to be believed first.
//!
//! Validators can sign anything once their stake is free, so a checkpoint counts for `trust_ms` from its block's time (which is
//! shorter than `unbonding_ms`). Without one the founders are where trust starts; whatever is verified then is marked
//! UNANCHORED: it holds unless old validators, who have nothing left to lose, wrote another history.
//!
//! Pure: blocks and proofs come from the caller, and so does the time (milliseconds since 1970, UTC).

use crate::{
    Certificate, Header, Transaction,
    block::{MAX_CERTIFICATE_BYTES, MAX_VALIDATORS, ValidatorSet, transaction_leaf},
    consensus::{BadCertificate, verify_certificate},
    state::{
        Account, Entry, Key, Model, Node, State, Transfer,
        entry::MAX_ENTRY_BYTES,
        tree::{self, MAX_PROOF_BYTES},
    },
    transaction::MAX_TRANSACTION_BYTES,
};
use ailo_protocol::{
    Address, Genesis, Hash, NodeId,
    canonical::{self, CodecError, Decode, Encode},
    merkle,
};
use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

/// A light block's canonical bytes are at most this long.
pub const MAX_LIGHT_BLOCK_BYTES: usize = MAX_CERTIFICATE_BYTES + 2 * MAX_VALIDATORS * 40 + (4 << 10);

/// A block that somebody vouches for. Text form: `HEIGHT:ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Height, from 1.
    pub height: u64,
    /// The block's id.
    pub block: Hash,
}

/// A text that is no checkpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a checkpoint: write HEIGHT:ID, the height of a block and the 64 hexadecimal digits of its id")]
pub struct NotACheckpoint(String);

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.height, self.block)
    }
}

impl FromStr for Checkpoint {
    type Err = NotACheckpoint;
    fn from_str(text: &str) -> Result<Checkpoint, NotACheckpoint> {
        let parse = || {
            let (height, block) = text.split_once(':')?;
            let height = height.parse().ok().filter(|height| *height > 0)?;
            Some(Checkpoint { height, block: block.parse().ok()? })
        };
        parse().ok_or_else(|| NotACheckpoint(text.into()))
    }
}

/// What is asked of a node about a height: everything that a certificate is checked with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LightBlock {
    /// The header.
    pub header: Header,
    /// What finalised it.
    pub certificate: Certificate,
    /// The validators that decided this height.
    pub validators: ValidatorSet,
    /// The validators that decide the next height.
    pub next_validators: ValidatorSet,
}

impl LightBlock {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_LIGHT_BLOCK_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<LightBlock, CodecError> {
        canonical::decode(bytes, MAX_LIGHT_BLOCK_BYTES)
    }

    /// Checks that sets and certificate are those of the header. The header itself is the caller's to trust.
    pub fn check(&self) -> Result<(), LightError> {
        let (header, height) = (&self.header, self.header.height);
        check_set(height, "validators", &self.validators, &header.validators)?;
        check_set(height, "next validators", &self.next_validators, &header.next_validators)?;
        if self.certificate.height != height || self.certificate.block != header.id() {
            return Err(LightError::OtherCertificate { height });
        }
        verify_certificate(&header.network, &self.validators, &self.certificate)
            .map_err(|reason| LightError::Certificate { height, reason })
    }
}

/// Why something is not believed. Whatever a node sent that leads here is worth nothing: ask another node.
#[derive(Debug, thiserror::Error)]
pub enum LightError {
    /// A header of another network.
    #[error("block {height} belongs to network {got}: ask a node of this network, or name the other's network file")]
    Network {
        /// Its height.
        height: u64,
        /// Its network.
        got: Hash,
    },
    /// Another block stands at the checkpoint's height.
    #[error(
        "the block {got} is not the checkpoint {checkpoint}: ask another node, or, if every node says so, check where \
         the checkpoint came from"
    )]
    NotTheCheckpoint {
        /// What was vouched for.
        checkpoint: Checkpoint,
        /// What the node has.
        got: Checkpoint,
    },
    /// A block no newer than what is trusted.
    #[error("block {got} is not newer than block {trusted}, which is verified already")]
    NotNewer {
        /// Height of the block given.
        got: u64,
        /// Height that was reached.
        trusted: u64,
    },
    /// A block of an earlier or equal time.
    #[error("block {height} claims a time that is not later than that of block {trusted}: ask another node")]
    NotLater {
        /// Its height.
        height: u64,
        /// Height that was reached.
        trusted: u64,
    },
    /// A block from the future.
    #[error("block {height} lies {ahead_ms} ms ahead of this machine's clock: set the clock, or ask another node")]
    FromFuture {
        /// Its height.
        height: u64,
        /// How far.
        ahead_ms: u64,
    },
    /// Validators that are not those that the header names.
    #[error("the {which} given for block {height} are not those that its header names: ask another node")]
    Validators {
        /// Height of the block.
        height: u64,
        /// Which set.
        which: &'static str,
    },
    /// A set that no ledger makes.
    #[error(
        "the validators of block {height} are no proper set (empty, one twice, or without power): ask another node"
    )]
    ImproperSet {
        /// Height of the block.
        height: u64,
    },
    /// A certificate of another block.
    #[error("the certificate given for block {height} is that of another block: ask another node")]
    OtherCertificate {
        /// Height of the block.
        height: u64,
    },
    /// A certificate that proves nothing.
    #[error("the certificate of block {height} proves nothing: {reason}; ask another node")]
    Certificate {
        /// Height of the block.
        height: u64,
        /// Why.
        reason: BadCertificate,
    },
    /// Two blocks that do not follow each other.
    #[error("block {height} does not follow block {parent}, which is verified: ask another node")]
    NotTheChild {
        /// Height of the upper block.
        height: u64,
        /// Height of the lower block.
        parent: u64,
    },
    /// A proof that proves something else.
    #[error("the proof does not show {what} in block {height}: ask another node")]
    Proof {
        /// What was to be shown.
        what: &'static str,
        /// Height of the block.
        height: u64,
    },
    /// The one key that no root covers.
    #[error("the ledger's tip stands beside the state, not in it: the block's id is in its header's certificate")]
    Tip,
    /// Bytes that are nothing.
    #[error("the node's reply can't be read ({0}): ask another node")]
    Codec(#[from] CodecError),
}

/// Where the trust in what is verified comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// From this checkpoint, inside the trust period.
    Anchored(Checkpoint),
    /// From the genesis alone.
    NoCheckpoint,
    /// From a checkpoint that had been outside the trust period for so many milliseconds.
    Expired(Checkpoint, u64),
}

/// What became of a block that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Advance {
    /// It is verified, and trusted from here on.
    Reached,
    /// Too few of the validators that are trusted signed it: offer the block of this height first, then this one again.
    TooFar {
        /// Half way.
        between: u64,
    },
}

/// A header that is believed; only [`LightClient`] makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    header: Header,
    id: Hash,
}

/// Follows the ledger by its certificates.
#[derive(Clone, Debug)]
pub struct LightClient {
    network: Hash,
    trust_ms: u64,
    skew_ms: u64,
    standing: Standing,
    trusted: Trusted,
}

/// What the next block is measured against.
#[derive(Clone, Debug)]
struct Trusted {
    height: u64,
    block: Hash,
    time_ms: u64,
    next_validators: ValidatorSet,
    /// None at the genesis.
    head: Option<Verified>,
}

impl LightClient {
    /// Starts at the genesis, UNANCHORED.
    pub fn from_genesis(genesis: &Genesis) -> LightClient {
        let trusted = Trusted {
            height: 0,
            block: Hash::ZERO,
            time_ms: genesis.time_ms,
            next_validators: State::genesis(genesis).validators().clone(),
            head: None,
        };
        let ledger = &genesis.params.ledger;
        let (trust_ms, skew_ms) = (ledger.trust_ms, ledger.skew_ms);
        LightClient { network: genesis.id(), trust_ms, skew_ms, standing: Standing::NoCheckpoint, trusted }
    }

    /// Starts at the checkpoint, whose block somebody who is not believed has given; its certificate needs no check.
    pub fn from_checkpoint(
        genesis: &Genesis,
        checkpoint: Checkpoint,
        block: &LightBlock,
        now_ms: u64,
    ) -> Result<LightClient, LightError> {
        let mut client = LightClient::from_genesis(genesis);
        let head = Verified::new(block.header.clone());
        if head.checkpoint() != checkpoint {
            return Err(LightError::NotTheCheckpoint { checkpoint, got: head.checkpoint() });
        }
        client.check_frame(&block.header, now_ms)?;
        check_set(checkpoint.height, "next validators", &block.next_validators, &block.header.next_validators)?;
        client.trust(head, block.next_validators.clone());
        client.standing = Standing::Anchored(checkpoint);
        client.look_at_the_clock(now_ms);
        Ok(client)
    }

    /// Height of the newest header that is believed; 0 at the genesis.
    pub fn height(&self) -> u64 {
        self.trusted.height
    }

    /// That header; none at the genesis.
    pub fn head(&self) -> Option<&Verified> {
        self.trusted.head.as_ref()
    }

    /// Where the trust in it comes from.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Verifies a newer block, and trusts it from here on.
    pub fn advance(&mut self, block: &LightBlock, now_ms: u64) -> Result<Advance, LightError> {
        self.look_at_the_clock(now_ms);
        let (header, trusted) = (&block.header, &self.trusted);
        let height = header.height;
        if height <= trusted.height {
            return Err(LightError::NotNewer { got: height, trusted: trusted.height });
        }
        self.check_frame(header, now_ms)?;
        if header.time_ms <= trusted.time_ms {
            return Err(LightError::NotLater { height, trusted: trusted.height });
        }
        block.check()?;
        let verified = Verified::new(header.clone());
        if height == trusted.height + 1 {
            if header.parent != trusted.block {
                return Err(LightError::NotTheChild { height, parent: trusted.height });
            }
            if block.validators != trusted.next_validators {
                return Err(LightError::Validators { height, which: "validators" });
            }
        } else if !self.vouched_for(&block.certificate) {
            return Ok(Advance::TooFar { between: trusted.height + (height - trusted.height) / 2 });
        }
        self.trust(verified, block.next_validators.clone());
        Ok(Advance::Reached)
    }

    /// Whether more than a third of the power of the validators that are trusted stands behind a certificate whose
    /// signatures have been verified.
    fn vouched_for(&self, certificate: &Certificate) -> bool {
        let signers: BTreeSet<&NodeId> = certificate.signatures.iter().map(|(node, _)| node).collect();
        let trusted = &self.trusted.next_validators;
        let signed: u128 =
            trusted.0.iter().filter(|v| signers.contains(&v.node)).map(|validator| u128::from(validator.power)).sum();
        signed * 3 > u128::from(trusted.total_power())
    }

    fn check_frame(&self, header: &Header, now_ms: u64) -> Result<(), LightError> {
        let height = header.height;
        if header.network != self.network {
            return Err(LightError::Network { height, got: header.network });
        }
        let ahead_ms = header.time_ms.saturating_sub(now_ms);
        if ahead_ms > self.skew_ms {
            return Err(LightError::FromFuture { height, ahead_ms });
        }
        Ok(())
    }

    fn trust(&mut self, verified: Verified, next_validators: ValidatorSet) {
        let Header { height, time_ms, .. } = verified.header;
        self.trusted = Trusted { height, block: verified.id, time_ms, next_validators, head: Some(verified) };
    }

    /// A header that was inside the trust period may be so no longer.
    fn look_at_the_clock(&mut self, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.trusted.time_ms);
        if let Standing::Anchored(checkpoint) = self.standing
            && age_ms >= self.trust_ms
        {
            self.standing = Standing::Expired(checkpoint, age_ms - self.trust_ms);
        }
    }
}

/// Checks that `set` is the one that `hash` stands for, and proper, so that counting its power is safe.
fn check_set(height: u64, which: &'static str, set: &ValidatorSet, hash: &Hash) -> Result<(), LightError> {
    if set.hash() != *hash {
        return Err(LightError::Validators { height, which });
    }
    let distinct: BTreeSet<&NodeId> = set.0.iter().map(|validator| &validator.node).collect();
    let power = set.0.iter().try_fold(0u64, |sum, v| sum.checked_add(v.power).filter(|_| v.power > 0));
    if set.0.is_empty() || set.0.len() > MAX_VALIDATORS || distinct.len() != set.0.len() || power.is_none() {
        return Err(LightError::ImproperSet { height });
    }
    Ok(())
}

impl Verified {
    fn new(header: Header) -> Verified {
        Verified { id: header.id(), header }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Height and id: what to start from the next time.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { height: self.header.height, block: self.id }
    }

    /// The header before this one: the way back to blocks older than a checkpoint.
    pub fn parent(&self, header: Header) -> Result<Verified, LightError> {
        let parent = Verified::new(header);
        if parent.id != self.header.parent || parent.header.height.checked_add(1) != Some(self.header.height) {
            return Err(LightError::NotTheChild { height: self.header.height, parent: parent.header.height });
        }
        Ok(parent)
    }

    /// What the state after this block holds at `key`: `entry`, or nothing, as canonical bytes with their proof.
    pub fn entry(&self, key: &Key, entry: Option<&[u8]>, proof: &[u8]) -> Result<Option<Entry>, LightError> {
        self.shown(key, entry, proof, "this entry")
    }

    /// A wallet's account; `None` when the ledger has none.
    pub fn account(
        &self,
        wallet: &Address,
        entry: Option<&[u8]>,
        proof: &[u8],
    ) -> Result<Option<Arc<Account>>, LightError> {
        match self.shown(&Key::Account(*wallet), entry, proof, "this account")? {
            Some(Entry::Account(account)) => Ok(Some(account)),
            _ => Ok(None),
        }
    }

    /// A registered node; `None` when the ledger knows none of this key.
    pub fn node(&self, node: &NodeId, entry: Option<&[u8]>, proof: &[u8]) -> Result<Option<Arc<Node>>, LightError> {
        match self.shown(&Key::Node(*node), entry, proof, "this node")? {
            Some(Entry::Node(node)) => Ok(Some(node)),
            _ => Ok(None),
        }
    }

    /// A transfer that is PENDING or CONFIRMED; `None` for one that is refunded, final, or was never there.
    pub fn transfer(&self, id: &Hash, entry: Option<&[u8]>, proof: &[u8]) -> Result<Option<Arc<Transfer>>, LightError> {
        match self.shown(&Key::Transfer(*id), entry, proof, "this transfer's standing")? {
            Some(Entry::Transfer(transfer)) => Ok(Some(transfer)),
            _ => Ok(None),
        }
    }

    /// The model, which every state has.
    pub fn model(&self, entry: &[u8], proof: &[u8]) -> Result<Arc<Model>, LightError> {
        match self.shown(&Key::Model, Some(entry), proof, "this model")? {
            Some(Entry::Model(model)) => Ok(model),
            _ => Err(LightError::Proof { what: "a model", height: self.header.height }),
        }
    }

    /// The transaction `id`, whose canonical bytes stand in this block.
    pub fn transaction(&self, id: &Hash, transaction: &[u8], proof: &[u8]) -> Result<Transaction, LightError> {
        let refused = LightError::Proof { what: "this transaction", height: self.header.height };
        let proof: merkle::Proof = canonical::decode(proof, merkle::Proof::MAX_BYTES)?;
        let decoded: Transaction = canonical::decode(transaction, MAX_TRANSACTION_BYTES)?;
        let stands = proof.verify(&self.header.transactions_root, &transaction_leaf(transaction));
        if stands && decoded.id() == *id { Ok(decoded) } else { Err(refused) }
    }

    fn shown(
        &self,
        key: &Key,
        entry: Option<&[u8]>,
        proof: &[u8],
        what: &'static str,
    ) -> Result<Option<Entry>, LightError> {
        if *key == Key::Tip {
            return Err(LightError::Tip);
        }
        let refused = || LightError::Proof { what, height: self.header.height };
        let proof: tree::Proof = canonical::decode(proof, MAX_PROOF_BYTES)?;
        if !proof.verify(&self.header.state_root, &canonical::encode(key), entry) {
            return Err(refused());
        }
        let Some(bytes) = entry else { return Ok(None) };
        let entry: Entry = canonical::decode(bytes, MAX_ENTRY_BYTES)?;
        if entry.belongs_at(key) { Ok(Some(entry)) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests;

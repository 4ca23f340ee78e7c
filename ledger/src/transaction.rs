//! Transactions: what wallets and nodes ask of the ledger, and how they sign it.

use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId, PublicKey, Signature,
    canonical::{self, CodecError, Decode, Encode},
    contribution::{Contribution, Finding, MicroNats},
    hash::Domain,
    keys::{BadSignature, signing_bytes},
};
use serde::{Deserialize, Serialize};

/// A transaction's canonical bytes are at most this long.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 10;

/// What a transaction does. The signer of the first three is a wallet, of the others a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// Moves coins; PENDING until enough nodes have attested it.
    Transfer {
        /// Recipient.
        to: Address,
        /// Coins moved, the fee not included.
        amount: Amount,
        /// Free text, bounded by `memo_bytes`.
        memo: String,
    },
    /// Bonds coins of the signer's to a node.
    Stake {
        /// The node that the stake stands behind.
        node: NodeId,
        /// Coins bonded.
        amount: Amount,
    },
    /// Starts the unbonding of a stake.
    Unstake {
        /// The node that the stake stood behind.
        node: NodeId,
        /// Coins to free.
        amount: Amount,
    },
    /// Makes the signing node known and names the wallet it works for.
    RegisterNode {
        /// The wallet that the node's rewards go to.
        wallet: Address,
        /// Proof of work: see [`stamp_hash`].
        stamp: u64,
    },
    /// "This node is alive."
    Heartbeat {
        /// Whether it holds the model and wants to take part in training.
        trains: bool,
    },
    /// "I verified the transfers of this block, except these."
    Attest {
        /// The block's height.
        height: u64,
        /// Transfers that the node abstains from.
        except: Vec<Hash>,
    },
    /// Proof of neural work: the commitment to a round's update.
    Contribute(Contribution),
    /// A validator's findings about a round's contributions.
    Verdict {
        /// Round number.
        round: u64,
        /// One finding for each contribution, in the order of their nodes.
        findings: Vec<Finding>,
    },
    /// A validator's vote on the model state that a round leads to.
    ModelVote {
        /// Round number.
        round: u64,
        /// Merkle root of the next model state.
        root: Hash,
        /// Its held-out loss.
        loss: MicroNats,
    },
}

/// The signed part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Unsigned {
    /// Who signs: a wallet's or a node's key.
    pub signer: PublicKey,
    /// A wallet's running number, counted from 0; always 0 for nodes, whose transactions are unique by their content.
    pub nonce: u64,
    /// When it was made, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What it does.
    pub body: Body,
}

/// A signed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Transaction {
    /// The signed part.
    #[serde(flatten)]
    pub unsigned: Unsigned,
    /// Over the network id and the signed part.
    pub signature: Signature,
}

impl Transaction {
    /// Signs `body` as `key` for the network `network`.
    pub fn sign(network: &Hash, key: &Keypair, nonce: u64, time_ms: u64, body: Body) -> Transaction {
        let unsigned = Unsigned { signer: *key.public(), nonce, time_ms, body };
        let signature = key.sign(&signing_bytes(network, "transaction", &unsigned));
        Transaction { unsigned, signature }
    }

    /// Checks the signature for the network `network`.
    pub fn verify(&self, network: &Hash) -> Result<(), BadSignature> {
        self.unsigned.signer.verify(&signing_bytes(network, "transaction", &self.unsigned), &self.signature)
    }

    /// The transaction's id: a hash of the signed part alone, so that it does not change with the signature's bytes.
    pub fn id(&self) -> Hash {
        Hash::of_value(Domain::Transaction, &self.unsigned)
    }

    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Decodes at most [`MAX_TRANSACTION_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Transaction, CodecError> {
        canonical::decode(bytes, MAX_TRANSACTION_BYTES)
    }
}

impl Body {
    /// Whether a wallet signs it (with a running nonce), not a node.
    pub fn is_wallets(&self) -> bool {
        matches!(self, Body::Transfer { .. } | Body::Stake { .. } | Body::Unstake { .. })
    }
}

/// The hash whose leading zero bits are a registration's proof of work.
pub fn stamp_hash(network: &Hash, node: &NodeId, wallet: &Address, stamp: u64) -> Hash {
    Hash::of_parts(Domain::Stamp, &[&network.0, &node.0, &wallet.0, &stamp.to_le_bytes()])
}

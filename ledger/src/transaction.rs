//! Transactions: what wallets and nodes ask of the ledger, and how they sign it.

use crate::consensus::codec::Signed;
use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId, PublicKey, Signature, Username,
    canonical::{self, CodecError, Decode, Encode},
    contribution::{Contribution, Finding, MicroNats},
    hash::Domain,
    inference::proof::Charge,
    keys::{BadSignature, signing_bytes},
    payment::SignedReceipt,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A transaction's canonical bytes are at most this long.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 10;

/// What a transaction does. [`Body::is_wallets`] says which a wallet signs; the others a node signs, but for
/// [`Body::Recover`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
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
    /// The sender takes a PENDING transfer back.
    Dispute {
        /// The transfer.
        transfer: Hash,
    },
    /// "This transfer is a fraud": reverses it once 51 % of the seats have said so. Binds `report_bond`.
    Report {
        /// The transfer.
        transfer: Hash,
        /// The signer's node that holds the seat.
        node: NodeId,
    },
    /// Takes a report back, and its bond with it.
    WithdrawReport {
        /// The transfer.
        transfer: Hash,
        /// The node that reported.
        node: NodeId,
    },
    /// Bonds coins of the signer's to a node that works for it.
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
    /// Lets a jailed node back in, after its time.
    Unjail {
        /// The signer's node.
        node: NodeId,
    },
    /// Takes a free user name, instead of the wallet's last one; `None` gives that up.
    RegisterUsername {
        /// The name.
        name: Option<Username>,
    },
    /// Names a recovery key, once.
    SetRecovery {
        /// See [`recovery_commitment`].
        commitment: Hash,
    },
    /// Proposes other values of network parameters.
    Propose {
        /// Each as `section.key=value`.
        changes: Vec<String>,
        /// Why, in a few words; bounded by `memo_bytes`.
        why: String,
    },
    /// Votes on a proposal with all the wallet's stake; a later vote replaces an earlier one.
    Vote {
        /// Its number.
        proposal: u64,
        /// For or against.
        approve: bool,
    },
    /// "This contribution is forged": all validators replay it and vote. Binds `challenge_bond`.
    Challenge {
        /// Its round.
        round: u64,
        /// Its maker.
        node: NodeId,
    },
    /// "This stage signed what it did not compute": all validators that have the model read the text and vote. Binds
    /// `challenge_bond`.
    Accuse(Charge),
    /// Puts coins where nodes that serve the wallet's requests are paid from.
    Deposit {
        /// Coins moved, the fee not included.
        amount: Amount,
    },
    /// Takes coins of the deposit back, after a time.
    WithdrawDeposit {
        /// How many.
        amount: Amount,
    },
    /// Makes the signing node known and names the wallet it works for.
    RegisterNode {
        /// The wallet that the node's rewards go to.
        wallet: Address,
        /// Proof of work: see [`stamp_hash`].
        stamp: u64,
        /// The wallet's consent.
        consent: Consent,
    },
    /// Lets the signing node work for another wallet.
    BindNode {
        /// That wallet.
        wallet: Address,
        /// Its consent.
        consent: Consent,
    },
    /// "This node is alive."
    Heartbeat {
        /// Whether it holds the model and wants to take part in training.
        trains: bool,
        /// Determinism class of its machine.
        class: Hash,
    },
    /// The end of the signing node's next chain of lots: see [`crate::lots`].
    CommitLots {
        /// What the node derives the chain from, beside its key.
        number: u64,
        /// The last link.
        tip: Hash,
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
    /// Two signatures of one node that exclude each other.
    Evidence(Evidence),
    /// What the signing node has coming for inference: see [`Claim`]. 1 to [`MAX_CLAIMS`].
    InferenceReceipt {
        /// Of one requester, or of several.
        claims: Vec<Claim>,
    },
    /// A drawn replayer's report on a contribution that it trained again.
    Replayed {
        /// Round of the contribution.
        round: u64,
        /// Its maker.
        node: NodeId,
        /// The trace of the training, where it gave what the contribution claims; none where it gave something else.
        trace: Option<Hash>,
    },
    /// What a validator found that trained a challenged contribution again.
    Judge {
        /// Round of the challenged contribution.
        round: u64,
        /// Its maker.
        node: NodeId,
        /// What the contribution's [`Contribution::result`] should be.
        found: Hash,
    },
    /// What a validator found that read the text of an [`Body::Accuse`].
    JudgeStage {
        /// Who is accused.
        node: NodeId,
        /// [`Charge::id`].
        charge: Hash,
        /// [`Charge::found`].
        found: Hash,
    },
    /// Gives an account another signing key. Signed by the account's recovery key, which is used up.
    Recover {
        /// The account.
        account: Address,
        /// How many recoveries the account has had, so that none can be sent again.
        count: u64,
        /// The account's key from now on.
        key: PublicKey,
        /// That key's word that it is meant: see [`recovery_agreement`].
        agreed: Signature,
        /// The commitment to the next recovery key.
        next: Hash,
    },
}

/// Claims of one transaction, at most.
pub const MAX_CLAIMS: usize = 32;

/// What a node claims of a receipt now. What the deposit does not let it have yet it claims later, of the same receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// Units since the session's first, those claimed before included; at most the receipt's.
    pub units: u64,
    /// The requester's word for it.
    pub receipt: SignedReceipt,
}

/// A wallet's word that a node works for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Consent {
    /// The wallet's present key.
    pub key: PublicKey,
    /// Over network, node and wallet.
    pub signature: Signature,
}

impl Consent {
    /// What a wallet's key signs to consent that `node` works for the wallet `wallet`.
    pub fn signing_bytes(network: &Hash, node: &NodeId, wallet: &Address) -> Vec<u8> {
        signing_bytes(network, "node binding", &(*node, *wallet))
    }

    /// The consent of the wallet `wallet`, whose key is `key`, to work that `node` does for it.
    pub fn sign(network: &Hash, node: &NodeId, wallet: &Address, key: &Keypair) -> Consent {
        let signature = key.sign(&Consent::signing_bytes(network, node, wallet));
        Consent { key: *key.public(), signature }
    }

    /// Whether its key signed it; whether that key signs for the wallet, the ledger knows.
    pub fn verify(&self, network: &Hash, node: &NodeId, wallet: &Address) -> Result<(), BadSignature> {
        self.key.verify(&Consent::signing_bytes(network, node, wallet), &self.signature)
    }
}

/// What signatures alone prove: nobody honest signs both.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Evidence {
    /// Two rival votes or proposals of consensus.
    Ballots {
        /// The one.
        first: Signed,
        /// The other.
        second: Signed,
    },
    /// Two attestations of one block that except different transfers.
    Attestations {
        /// Who signed them.
        node: NodeId,
        /// The block's height.
        height: u64,
        /// The one.
        first: SignedAttest,
        /// The other.
        second: SignedAttest,
    },
}

/// What of an attestation is its own.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct SignedAttest {
    /// When it was made.
    pub time_ms: u64,
    /// What it excepts.
    pub except: Vec<Hash>,
    /// Over the transaction that it was.
    pub signature: Signature,
}

impl Evidence {
    /// Who is accused.
    pub fn node(&self) -> NodeId {
        match self {
            Evidence::Ballots { first, .. } => first.node,
            Evidence::Attestations { node, .. } => *node,
        }
    }

    /// The height that both signatures are about.
    pub fn height(&self) -> u64 {
        match self {
            Evidence::Ballots { first, .. } => first.ballot.height,
            Evidence::Attestations { height, .. } => *height,
        }
    }

    /// Whether the two exclude each other, if the signatures hold.
    pub fn is_conflict(&self) -> bool {
        match self {
            Evidence::Ballots { first, second } => first.node == second.node && first.ballot.is_rival(&second.ballot),
            Evidence::Attestations { first, second, .. } => first.except != second.except,
        }
    }

    fn verify(&self, network: &Hash) -> Result<(), BadSignature> {
        match self {
            Evidence::Ballots { first, second } => match first.verifies(network) && second.verifies(network) {
                true => Ok(()),
                false => Err(BadSignature),
            },
            Evidence::Attestations { node, height, first, second } => {
                let verify = |attest: &SignedAttest| {
                    let body = Body::Attest { height: *height, except: attest.except.clone() };
                    let unsigned = Unsigned { signer: *node, nonce: 0, time_ms: attest.time_ms, body };
                    node.verify(&unsigned.signing_bytes(network), &attest.signature)
                };
                verify(first).and_then(|()| verify(second))
            }
        }
    }
}

/// The signed part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
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

impl Unsigned {
    /// The 32 bytes that the signature is over.
    pub fn signing_bytes(&self, network: &Hash) -> Vec<u8> {
        signing_bytes(network, "transaction", self)
    }
}

/// A signed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
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
        let signature = key.sign(&unsigned.signing_bytes(network));
        Transaction { unsigned, signature }
    }

    /// Checks the signature for the network `network`, and those that the body carries.
    pub fn verify(&self, network: &Hash) -> Result<(), BadSignature> {
        let Unsigned { signer, body, .. } = &self.unsigned;
        signer.verify(&self.unsigned.signing_bytes(network), &self.signature)?;
        match body {
            Body::RegisterNode { wallet, consent, .. } | Body::BindNode { wallet, consent } => {
                consent.verify(network, signer, wallet)
            }
            Body::Evidence(evidence) => evidence.verify(network),
            Body::Accuse(charge) => match charge.signed.verify(network) {
                true => Ok(()),
                false => Err(BadSignature),
            },
            Body::InferenceReceipt { claims } => claims.iter().try_for_each(|claim| claim.receipt.verify(network)),
            Body::Recover { account, count, key, agreed, .. } => {
                key.verify(&recovery_agreement(network, account, *count), agreed)
            }
            _ => Ok(()),
        }
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
    /// Whether a wallet signs it (with a running nonce).
    pub fn is_wallets(&self) -> bool {
        match self {
            Body::Transfer { .. }
            | Body::Dispute { .. }
            | Body::Report { .. }
            | Body::WithdrawReport { .. }
            | Body::Stake { .. }
            | Body::Unstake { .. }
            | Body::Unjail { .. }
            | Body::RegisterUsername { .. }
            | Body::SetRecovery { .. }
            | Body::Propose { .. }
            | Body::Vote { .. }
            | Body::Challenge { .. }
            | Body::Accuse(_)
            | Body::Deposit { .. }
            | Body::WithdrawDeposit { .. } => true,
            Body::RegisterNode { .. }
            | Body::BindNode { .. }
            | Body::Heartbeat { .. }
            | Body::CommitLots { .. }
            | Body::Attest { .. }
            | Body::Contribute(_)
            | Body::Verdict { .. }
            | Body::ModelVote { .. }
            | Body::Evidence(_)
            | Body::InferenceReceipt { .. }
            | Body::Replayed { .. }
            | Body::Judge { .. }
            | Body::JudgeStage { .. }
            | Body::Recover { .. } => false,
        }
    }
}

/// What a key signs to say that it is to sign for `account` after this many recoveries. Without that word a stranger could make
/// somebody's key, known from a consent, the key of another account, and what its own address earns would be stuck.
pub fn recovery_agreement(network: &Hash, account: &Address, count: u64) -> Vec<u8> {
    signing_bytes(network, "recovered key", &(*account, count))
}

/// What an account keeps of its recovery key until the key is used.
pub fn recovery_commitment(network: &Hash, key: &PublicKey) -> Hash {
    Hash::of_parts(Domain::Recovery, &[&network.0, &key.0])
}

/// The hash whose leading zero bits are a registration's proof of work; `lot` is one of [`crate::state::State::stamp_lots`].
pub fn stamp_hash(network: &Hash, lot: &Hash, node: &NodeId, wallet: &Address, stamp: u64) -> Hash {
    Hash::of_parts(Domain::Stamp, &[&network.0, &lot.0, &node.0, &wallet.0, &stamp.to_le_bytes()])
}

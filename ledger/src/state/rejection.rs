//! Why the ledger refuses a transaction: each reason has a stable code for programs and a sentence for people.

use super::round::Phase;
use ailo_protocol::Amount;

macro_rules! rejections {
    ($($(#[$doc:meta])* $code:literal $variant:ident $({ $($field:ident: $type:ty),* })?),* $(,)?) => {
        /// Why a transaction or a block's frame is refused; a refused transaction has changed nothing.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[allow(missing_docs)] // The message of each variant is its documentation.
        pub enum Rejection { $($(#[$doc])* $variant $({ $($field: $type),* })?),* }

        impl Rejection {
            /// A code that does not change between versions.
            pub fn code(&self) -> &'static str {
                match self { $(Rejection::$variant { .. } => $code),* }
            }
        }
    };
}

rejections! {
    // The block's frame.
    #[error("the block's height is {got}; the next one is {expected}")]
    "BAD_HEIGHT" BadHeight { expected: u64, got: u64 },
    #[error("the block's time must be later than its parent's, {parent_ms}")]
    "BAD_TIME" NotLater { parent_ms: u64 },
    #[error("the proposer is not a validator of this height")]
    "NOT_PROPOSER" NotProposer,
    #[error("the block is full: the transaction waits for the next one")]
    "BLOCK_FULL" BlockFull,
    #[error("the block's share for attestations is full: the attestation waits for the next one")]
    "ATTEST_QUOTA" AttestQuota,
    #[error("the block has its number of registrations: this one waits for the next block")]
    "REGISTRATION_QUOTA" RegistrationQuota,

    // Every transaction.
    #[error("the transaction is longer than {max} bytes")]
    "TOO_LARGE" TooLarge { max: usize },
    #[error("the transaction is too old (ledger time is {now_ms}): sign it again with the current time")]
    "EXPIRED" Expired { now_ms: u64 },
    #[error("the transaction is from the future (ledger time is {now_ms}): set the clock and sign it again")]
    "FROM_FUTURE" FromFuture { now_ms: u64 },
    #[error("the nonce is {got}, the account's next one is {expected}")]
    "BAD_NONCE" BadNonce { expected: u64, got: u64 },
    #[error("{free} ALC are free, {needed} ALC are needed (fee included)")]
    "INSUFFICIENT" Insufficient { free: Amount, needed: Amount },
    #[error("the amount must be more than zero")]
    "ZERO_AMOUNT" ZeroAmount,

    // Transfers and attestations.
    #[error("sender and recipient are the same wallet")]
    "SELF_TRANSFER" SelfTransfer,
    #[error("the memo is longer than {max} bytes: shorten it")]
    "MEMO_TOO_LONG" MemoTooLong { max: u32 },
    #[error("{eligible} nodes could confirm this transfer, {needed} are needed: wait until more nodes hold a seat")]
    "TOO_FEW_ACTIVE" TooFewActive { eligible: u32, needed: u32 },
    #[error("block {height} has no pending transfers: there is nothing to attest")]
    "NOTHING_PENDING" NothingPending { height: u64 },
    #[error("the node holds no seat: a seat comes with {stake} ALC of stake or {rounds} accepted rounds")]
    "NO_SEAT" NoSeat { stake: Amount, rounds: u32 },
    #[error("the node was not drawn for this block: every seat may attest it from height {opens}")]
    "NOT_DRAWN" NotDrawn { opens: u64 },
    #[error("the node has attested this block already")]
    "ALREADY_ATTESTED" AlreadyAttested,
    #[error("the attestation adds no confirmation that is needed")]
    "NONE_NEEDED" NoneNeeded,
    #[error("the exceptions must be in ascending order, each once")]
    "BAD_EXCEPT" BadExcept,

    // Nodes and stake.
    #[error("the node is not registered: send RegisterNode first")]
    "UNKNOWN_NODE" UnknownNode,
    #[error("the node is registered already, for good")]
    "ALREADY_REGISTERED" AlreadyRegistered,
    #[error("the registration's stamp needs {bits} leading zero bits: search for another one")]
    "BAD_STAMP" BadStamp { bits: u32 },
    #[error("the network has its number of nodes, {max}: wait until one lapses")]
    "TOO_MANY_NODES" TooManyNodes { max: u32 },
    #[error("the node's last heartbeat is too recent: wait {wait_ms} ms")]
    "HEARTBEAT_TOO_SOON" HeartbeatTooSoon { wait_ms: u64 },
    #[error("the heartbeat is not newer than the node's last one")]
    "STALE_HEARTBEAT" StaleHeartbeat,
    #[error("{staked} ALC of this wallet stand behind the node, {asked} ALC are asked")]
    "INSUFFICIENT_STAKE" InsufficientStake { staked: Amount, asked: Amount },
    #[error("the unstake would leave fewer than {min} validators: it has to wait until others have staked")]
    "TOO_FEW_VALIDATORS" TooFewValidators { min: u32 },

    // Rounds.
    #[error("the open round is {open}, not {got}")]
    "WRONG_ROUND" WrongRound { open: u64, got: u64 },
    #[error("the round is in its {phase} phase: this comes at another time")]
    "WRONG_PHASE" WrongPhase { phase: Phase },
    #[error("the node takes no part in this round: send heartbeats that say it trains, and wait for the next one")]
    "NOT_PARTICIPANT" NotParticipant,
    #[error("the contribution starts from another model: fetch the current one and train the next round")]
    "WRONG_BASE" WrongBase,
    #[error("the node's slot in this round is {expected}")]
    "WRONG_SLOT" WrongSlot { expected: u32 },
    #[error("a contribution is {steps} steps on {tokens} tokens, no more and no less")]
    "WRONG_WORK" WrongWork { steps: u32, tokens: u64 },
    #[error("the payload may have 1 to {max} bytes")]
    "BAD_PAYLOAD_SIZE" BadPayloadSize { max: u64 },
    #[error("another node has committed to the same payload")]
    "DUPLICATE_PAYLOAD" DuplicatePayload,
    #[error("the node has contributed to this round already")]
    "ALREADY_CONTRIBUTED" AlreadyContributed,
    #[error("only a validator as of the round's opening may send this")]
    "NOT_VALIDATOR" NotValidator,
    #[error("the validator has sent its verdict already")]
    "ALREADY_JUDGED" AlreadyJudged,
    #[error("findings name each contribution once, in order of the nodes; only the committee adds losses, of valid ones")]
    "BAD_FINDINGS" BadFindings,
    #[error("the validator has voted already")]
    "ALREADY_VOTED" AlreadyVoted,
}

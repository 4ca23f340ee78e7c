//! Why the ledger refuses a transaction: each reason has a stable code for programs and a sentence for people.

use super::round::Phase;
use ailo_protocol::{Address, Amount};

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

    #[error("this address is but a key of the account {account}: send to that")]
    "KEY_OF_ANOTHER" KeyOfAnother { account: Address },
    #[error("no such transfer stands on the ledger: only a transfer that is neither refunded, reversed nor final can be disputed or reported")]
    "NO_SUCH_TRANSFER" NoSuchTransfer,
    #[error("only the sender may dispute a transfer: others report it")]
    "NOT_THE_SENDER" NotTheSender,
    #[error("the transfer can't be disputed any more: it is confirmed, or its time is over")]
    "DISPUTE_CLOSED" DisputeClosed,
    #[error("the transfer can't be reported any more: its time is over")]
    "REPORTS_CLOSED" ReportsClosed,
    #[error("sender and recipient have no say in the reports of their transfer")]
    "PARTY_TO_TRANSFER" PartyToTransfer,
    #[error("the node held no seat for this wallet when the transfer was included: only such nodes may report it")]
    "NO_SEAT_THEN" NoSeatThen,
    #[error("the node has reported this transfer already")]
    "ALREADY_REPORTED" AlreadyReported,
    #[error("the node has made its {quota} reports of this epoch: wait for the next one")]
    "REPORT_QUOTA" ReportQuota { quota: u32 },
    #[error("this wallet has no such report")]
    "NO_SUCH_REPORT" NoSuchReport,

    // Accounts.
    #[error("this key no longer signs for {account}: a recovery gave it another one")]
    "KEY_ROTATED" KeyRotated { account: Address },
    #[error("the account has a recovery key: only that key can name another one")]
    "RECOVERY_SET" RecoverySet,
    #[error("this is not the account's recovery key")]
    "NOT_THE_RECOVERY_KEY" NotTheRecoveryKey,
    #[error("a recovery key works once: name a fresh one as the next")]
    "RECOVERY_KEY_USED" RecoveryKeyUsed,
    #[error("the account was recovered in this epoch already: wait {wait_ms} ms")]
    "RECOVERY_TOO_SOON" RecoveryTooSoon { wait_ms: u64 },
    #[error("the new key has an account of its own: make a fresh one")]
    "KEY_TAKEN" KeyTaken,
    #[error("a user name is 3 to 24 of a-z, 0-9, - and _, a letter first")]
    "BAD_USERNAME" BadUsername,
    #[error("the user name is taken: choose another one")]
    "USERNAME_TAKEN" UsernameTaken,

    // Nodes and stake.
    #[error("the node works for another wallet")]
    "NOT_YOUR_NODE" NotYourNode,
    #[error("the consent is not signed by the wallet that is named")]
    "NO_CONSENT" NoConsent,
    #[error("the node's wallet owes for a reversed transfer: its nodes stay with it until that is paid")]
    "IN_DEBT" InDebt,
    #[error("the node has stake or unbonding coins behind it, is jailed or accused, or takes part in the open round: it stays with its wallet until that is over")]
    "NODE_TIED" NodeTied,
    #[error("the node is jailed until ledger age {until_age} at least, and until its wallet unjails it")]
    "JAILED" Jailed { until_age: u64 },
    #[error("the node is not jailed")]
    "NOT_JAILED" NotJailed,
    #[error("the wallet has {max} unstakes under way: wait until one is free")]
    "TOO_MANY_UNSTAKES" TooManyUnstakes { max: u32 },
    #[error("the node is not registered: send RegisterNode first")]
    "UNKNOWN_NODE" UnknownNode,
    #[error("the node is registered for a wallet already: BindNode names another one")]
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

    // Evidence and challenges.
    #[error("the two signatures do not exclude each other")]
    "NO_CONFLICT" NoConflict,
    #[error("the evidence is of a block below {oldest}: it is too old")]
    "EVIDENCE_TOO_OLD" EvidenceTooOld { oldest: u64 },
    #[error("the evidence is of a height that the chain has not come to")]
    "EVIDENCE_FROM_FUTURE" EvidenceFromFuture,
    #[error("the node was slashed at height {height}, which covers all that it signed before")]
    "SLASHED_ALREADY" SlashedAlready { height: u64 },
    #[error("round {round} is not one of those that can be challenged")]
    "ROUND_NOT_KEPT" RoundNotKept { round: u64 },
    #[error("the node has no accepted contribution in that round")]
    "NOT_ACCEPTED" NotAccepted,
    #[error("this contribution is challenged already")]
    "CHALLENGED_ALREADY" ChallengedAlready,
    #[error("{max} challenges are open: wait until one is decided")]
    "TOO_MANY_CHALLENGES" TooManyChallenges { max: u32 },
    #[error("there is no such challenge to judge")]
    "NO_SUCH_CHALLENGE" NoSuchChallenge,

    // Proposals.
    #[error("{name} is for no vote: docs/ledger.md lists what may be changed")]
    "NOT_CHANGEABLE" NotChangeable { name: String },
    #[error("the changes can't be made: {why}")]
    "BAD_CHANGE" BadChange { why: String },
    #[error("{max} proposals are open: wait until one is counted")]
    "TOO_MANY_POLLS" TooManyPolls { max: u32 },
    #[error("there is no such proposal to vote on")]
    "NO_SUCH_POLL" NoSuchPoll,
    #[error("the wallet has no stake to vote with")]
    "NO_STAKE" NoStake,

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

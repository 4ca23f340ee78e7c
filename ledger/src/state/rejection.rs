//! Why the ledger refuses a transaction: each reason has a stable code for programs and a sentence for people.

use super::round::Phase;
use ailo_protocol::{Address, Amount, Hash};

macro_rules! rejections {
    ($($code:literal: $message:literal, $variant:ident $({ $($field:ident: $type:ty),* })?;)*) => {
        /// Why a transaction or a block's frame is refused; a refused transaction has changed nothing.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[allow(missing_docs)] // The message of each variant is its documentation.
        pub enum Rejection { $(#[error($message)] $variant $({ $($field: $type),* })?),* }

        impl Rejection {
            /// A code that does not change between versions.
            pub fn code(&self) -> &'static str {
                match self { $(Rejection::$variant { .. } => $code),* }
            }

            /// Every code with its message.
            pub const TABLE: &[(&str, &str)] = &[$(($code, $message)),*];
        }
    };
}

rejections! {
    // The block's frame.
    "BAD_HEIGHT": "the block's height is {got}; the next one is {expected}",
        BadHeight { expected: u64, got: u64 };
    "BAD_TIME": "the block's time must be later than its parent's, {parent_ms}",
        NotLater { parent_ms: u64 };
    "NOT_PROPOSER": "the proposer is not a validator of this height",
        NotProposer;
    "NO_LOT": "the proposer's chain of lots counts: the block must reveal its next link",
        NoLot;
    "BAD_LOT": "what the block reveals is not the next link of the proposer's chain of lots",
        BadLot;
    "LOT_NOT_DUE": "no chain of lots counts for the proposer: the block must reveal nothing",
        LotNotDue;
    "BLOCK_FULL": "the block is full: the transaction waits for the next one",
        BlockFull;
    "ATTEST_QUOTA": "the block's share for attestations is full: the attestation waits for the next one",
        AttestQuota;
    "CLAIM_SPACE": "the block's share for claims of receipts is full: the claim waits for the next one",
        ClaimSpace;
    "REGISTRATION_QUOTA": "the block has its number of registrations: this one waits for the next block",
        RegistrationQuota;

    // Every transaction.
    "TOO_LARGE": "the transaction is longer than {max} bytes",
        TooLarge { max: usize };
    "EXPIRED": "the transaction is too old (ledger time is {now_ms}): sign it again with the current time",
        Expired { now_ms: u64 };
    "FROM_FUTURE": "the transaction is from the future (ledger time is {now_ms}): set the clock and sign it again",
        FromFuture { now_ms: u64 };
    "BAD_NONCE": "the nonce is {got}, the account's next one is {expected}",
        BadNonce { expected: u64, got: u64 };
    "INSUFFICIENT": "{free} ALC are free, {needed} ALC are needed (fee included)",
        Insufficient { free: Amount, needed: Amount };
    "ZERO_AMOUNT": "the amount must be more than zero",
        ZeroAmount;

    // Transfers and attestations.
    "SELF_TRANSFER": "sender and recipient are the same wallet",
        SelfTransfer;
    "MEMO_TOO_LONG": "the memo is longer than {max} bytes: shorten it",
        MemoTooLong { max: u32 };
    "TOO_FEW_ACTIVE": "{eligible} nodes could confirm this transfer, {needed} are needed: wait until more nodes hold a seat",
        TooFewActive { eligible: u32, needed: u32 };
    "NOTHING_PENDING": "block {height} has no pending transfers: there is nothing to attest",
        NothingPending { height: u64 };
    "NO_SEAT": "the node holds no seat: a seat comes with {stake} ALC of stake or {rounds} accepted rounds",
        NoSeat { stake: Amount, rounds: u32 };
    "NOT_DRAWN": "the node was not drawn for this block: every seat may attest it from height {opens}",
        NotDrawn { opens: u64 };
    "ALREADY_ATTESTED": "the node has attested this block already",
        AlreadyAttested;
    "NONE_NEEDED": "the attestation adds no confirmation that is needed",
        NoneNeeded;
    "BAD_EXCEPT": "the exceptions must be in ascending order, each once",
        BadExcept;

    "KEY_OF_ANOTHER": "this address is but a key of the account {account}: send to that",
        KeyOfAnother { account: Address };
    "NO_SUCH_TRANSFER": "no such transfer stands on the ledger: only a transfer that is neither refunded, reversed nor final can be disputed or reported",
        NoSuchTransfer;
    "NOT_THE_SENDER": "only the sender may dispute a transfer: others report it",
        NotTheSender;
    "DISPUTE_CLOSED": "the transfer can't be disputed any more: it is confirmed, or its time is over",
        DisputeClosed;
    "REPORTS_CLOSED": "reports of the transfer are closed: its time is over",
        ReportsClosed;
    "PARTY_TO_TRANSFER": "sender and recipient have no say in the reports of their transfer",
        PartyToTransfer;
    "NO_SEAT_THEN": "the node held no seat for this wallet when the transfer was included: only such nodes may report it",
        NoSeatThen;
    "ALREADY_REPORTED": "the node has reported this transfer already",
        AlreadyReported;
    "REPORT_QUOTA": "the node has made its {quota} reports of this epoch: wait for the next one",
        ReportQuota { quota: u32 };
    "NO_SUCH_REPORT": "this wallet has no such report",
        NoSuchReport;

    // Accounts.
    "KEY_ROTATED": "this key no longer signs for {account}: a recovery gave it another one",
        KeyRotated { account: Address };
    "RECOVERY_SET": "the account has a recovery key: only that key can name another one",
        RecoverySet;
    "NOT_THE_RECOVERY_KEY": "this is not the account's recovery key",
        NotTheRecoveryKey;
    "RECOVERY_KEY_USED": "a recovery key works once: name a fresh one as the next",
        RecoveryKeyUsed;
    "RECOVERY_TOO_SOON": "the account was recovered in this epoch already: wait {wait_ms} ms",
        RecoveryTooSoon { wait_ms: u64 };
    "KEY_TAKEN": "the new key has an account of its own: make a fresh one",
        KeyTaken;
    "BAD_USERNAME": "a user name is 3 to 24 of a-z, 0-9, - and _, a letter first",
        BadUsername;
    "USERNAME_TAKEN": "the user name is taken: choose another one",
        UsernameTaken;

    // Nodes and stake.
    "NOT_YOUR_NODE": "the node works for another wallet",
        NotYourNode;
    "NO_CONSENT": "the consent is not signed by the wallet that is named",
        NoConsent;
    "IN_DEBT": "the node's wallet owes for a reversed transfer: its nodes stay with it until that is paid",
        InDebt;
    "BIND_TOO_SOON": "the node was bound to another wallet in this epoch already: wait {wait_ms} ms",
        BindTooSoon { wait_ms: u64 };
    "NODE_TIED": "the node has stake or unbonding coins behind it, is jailed or accused, or takes part in the open round: it stays with its wallet until that is over",
        NodeTied;
    "JAILED": "the node is jailed until ledger age {until_age} at least, and until its wallet unjails it",
        Jailed { until_age: u64 };
    "NOT_JAILED": "the node is not jailed",
        NotJailed;
    "TOO_MANY_UNSTAKES": "the wallet has {max} unstakes under way: wait until one is free",
        TooManyUnstakes { max: u32 };
    "UNKNOWN_NODE": "the node is not registered: send RegisterNode first",
        UnknownNode;
    "ALREADY_REGISTERED": "the node is registered for a wallet already: BindNode names another one",
        AlreadyRegistered;
    "BAD_STAMP": "the registration's stamp needs {bits} leading zero bits with the lot that this epoch or the last one began with: search for another one",
        BadStamp { bits: u32 };
    "TOO_MANY_NODES": "the network has its number of nodes, {max}, and each has stake or work: wait until one lapses",
        TooManyNodes { max: u32 };
    "HEARTBEAT_TOO_SOON": "the node's last heartbeat is too recent: wait {wait_ms} ms",
        HeartbeatTooSoon { wait_ms: u64 };
    "STALE_HEARTBEAT": "the heartbeat is not newer than the node's last one",
        StaleHeartbeat;
    "INSUFFICIENT_STAKE": "{staked} ALC of this wallet stand behind the node, {asked} ALC are asked",
        InsufficientStake { staked: Amount, asked: Amount };
    "TOO_FEW_VALIDATORS": "the unstake would leave fewer than {min} validators: it has to wait until others have staked",
        TooFewValidators { min: u32 };
    "LOTS_NOT_NEEDED": "only validators, founders and nodes with stake commit a chain of lots",
        LotsNotNeeded;
    "LOTS_COMMITTED": "the node's next chain of lots is committed already, and can't be changed",
        LotsCommitted;
    "LOTS_LEFT": "{left} lots of the node's chain are left: the next chain is committed when {most} or fewer are",
        LotsLeft { left: u32, most: u32 };

    // Evidence and challenges.
    "NO_CONFLICT": "the two signatures do not exclude each other",
        NoConflict;
    "EVIDENCE_TOO_OLD": "the evidence is of a block below {oldest}: it is too old",
        EvidenceTooOld { oldest: u64 };
    "EVIDENCE_FROM_FUTURE": "the evidence is of a height that the chain has not come to",
        EvidenceFromFuture;
    "SLASHED_ALREADY": "the node was slashed at height {height}, which covers all that it signed before",
        SlashedAlready { height: u64 };
    "NOTHING_LEFT": "there is nothing to take: the node is jailed already, or has no seat, vote or work and not a fee's worth of stake",
        NothingLeft;
    "ROUND_NOT_KEPT": "round {round} is not one of those that can be challenged",
        RoundNotKept { round: u64 };
    "NOT_ACCEPTED": "the node has no accepted contribution in that round",
        NotAccepted;
    "CHALLENGED_ALREADY": "this contribution is, or was, challenged: each is judged once",
        ChallengedAlready;
    "BAD_CHARGE": "the statement is not about this text, or the text is too long to be shown",
        BadCharge;
    "ACCUSED_ALREADY": "the node is accused already: wait until that is decided",
        AccusedAlready;
    "TOO_MANY_CHALLENGES": "{max} challenges are open: wait until one is decided",
        TooManyChallenges { max: u32 };
    "WRONG_CLASS": "the node's heartbeats name the determinism class {expected}, and the contribution another one",
        WrongClass { expected: Hash };
    "NO_SUCH_REPLAY": "no replay of this contribution is owed by this node now",
        NoSuchReplay;
    "BAD_TRACE": "this is not the trace that the contribution commits to",
        BadTrace;
    "NO_SUCH_CHALLENGE": "there is no such challenge to judge",
        NoSuchChallenge;

    // Proposals.
    "NOT_CHANGEABLE": "{name} is for no vote: docs/ledger.md lists what may be changed",
        NotChangeable { name: String };
    "BAD_CHANGE": "the changes can't be made: {why}",
        BadChange { why: String };
    "TOO_MANY_POLLS": "{max} proposals are open: wait until one is counted",
        TooManyPolls { max: u32 };
    "NO_SUCH_POLL": "there is no such proposal to vote on",
        NoSuchPoll;
    "NO_STAKE": "the wallet has no stake to vote with",
        NoStake;

    // Inference.
    "NOT_DEPOSITED": "{deposited} ALC of the wallet's deposit are not on their way back yet, {asked} ALC are asked",
        NotDeposited { deposited: Amount, asked: Amount };
    "BAD_CLAIM": "claim 1 to {max} receipts, each made out to this node for layers that there are, and no more units than each promises",
        BadClaim { max: usize };
    "NODE_TOO_NEW": "the node registered in this epoch: it is paid from the next one on",
        NodeTooNew;
    "CLAIM_QUOTA": "the node has claimed its {quota} receipts of this epoch: wait for the next one",
        ClaimQuota { quota: u32 };
    "RECEIPT_EXPIRED": "the receipt has expired (ledger age is {age})",
        ReceiptExpired { age: u64 };
    "RECEIPT_TOO_LONG": "the receipt expires more than {max_ms} ms ahead: ask for another one, or wait",
        ReceiptTooLong { max_ms: u64 };
    "OWN_RECEIPT": "the payer is the node's own wallet: nobody is paid for serving itself",
        OwnReceipt;
    "RECEIPT_VOID": "the node was convicted of signing what it did not compute: what it had not claimed by then is void",
        ReceiptVoid;
    "ALREADY_CLAIMED": "{units} units of this receipt's session are claimed already",
        AlreadyClaimed { units: u64 };
    "CLAIM_TOO_SMALL": "the claim is worth {worth} ALC, the least is {min}: let units add up",
        ClaimTooSmall { worth: Amount, min: Amount };
    "OVER_PART": "the node may have {left} ALC more of this deposit in this epoch, the claim is worth {worth}: claim fewer units now, and the others later",
        OverPart { left: Amount, worth: Amount };

    // Rounds.
    "WRONG_ROUND": "the open round is {open}, not {got}",
        WrongRound { open: u64, got: u64 };
    "WRONG_PHASE": "the round is in its {phase} phase: this comes at another time",
        WrongPhase { phase: Phase };
    "NOT_PARTICIPANT": "the node takes no part in this round: send heartbeats that say it trains, and wait for the next one",
        NotParticipant;
    "WRONG_BASE": "the contribution starts from another model: fetch the current one and train the next round",
        WrongBase;
    "WRONG_SLOT": "the node's slot in this round is {expected}",
        WrongSlot { expected: u32 };
    "WRONG_WORK": "a contribution is {steps} steps on {tokens} tokens, no more and no less",
        WrongWork { steps: u32, tokens: u64 };
    "BAD_PAYLOAD_SIZE": "the payload may have 1 to {max} bytes",
        BadPayloadSize { max: u64 };
    "ALREADY_CONTRIBUTED": "the node has contributed to this round already",
        AlreadyContributed;
    "NOT_VALIDATOR": "only a validator as of the round's opening may send this",
        NotValidator;
    "ALREADY_JUDGED": "the validator has sent its verdict already",
        AlreadyJudged;
    "BAD_FINDINGS": "findings name each contribution once, in order of the nodes; only the committee adds losses, and only valid ones are suspected or measured",
        BadFindings;
    "ALREADY_VOTED": "the validator has voted already",
        AlreadyVoted;
}

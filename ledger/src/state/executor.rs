//! Executes blocks: the frame around the rules of the other files.

use super::{
    entry::{Record, Tip},
    lots::Draw,
    money::Totals,
    *,
};
use crate::{
    Body, Transaction,
    block::{Block, Header, transactions_root},
    invariants,
    transaction::{MAX_TRANSACTION_BYTES, Unsigned},
};
use ailo_protocol::amount::PPM;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// What a block's transactions may know of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockContext {
    /// Height.
    pub height: u64,
    /// Time, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Who made it.
    pub proposer: NodeId,
    /// The lot that it reveals.
    pub reveal: Option<Hash>,
}

/// Makes the next state, transaction by transaction.
#[derive(Clone)]
pub struct Executor {
    pub(super) parent: State,
    pub(super) state: State,
    pub(super) context: BlockContext,
    pub(super) events: Vec<Event>,
    pub(super) touched: BTreeSet<Key>,
    pub(super) totals: Totals,
    /// What the running transaction has changed, as it was before.
    undo: Vec<(Key, Option<Entry>)>,
    /// Shares of fees that are due at the block's end.
    pub(super) fees: Vec<(NodeId, RewardKind, Amount)>,
    used: Used,
}

/// How much of the block's bounds is used.
#[derive(Clone, Copy, Default)]
pub(super) struct Used {
    bytes: u64,
    attest_bytes: u64,
    registrations: u32,
    claim_bytes: u64,
}

/// A block's outcome.
pub struct Executed {
    /// The ledger after the block.
    pub state: State,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Changed entries as canonical bytes of key and entry (`None`: removed), for the index.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Executed {
    /// Tells the state which block it came from, so that it can be the next one's parent. The block names the state's
    /// root, so the root can't cover the block's id; the next block's state does, as its parent.
    pub fn seal(mut self, block: Hash) -> Executed {
        self.state.set(Key::Tip, Tip(block));
        self.writes.extend(self.state.commit(vec![Key::Tip]));
        self
    }
}

/// Why a block can't follow a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBlock {
    /// Of another network.
    #[error("the block belongs to network {0}")]
    Network(Hash),
    /// Follows another block.
    #[error("the block's parent is {got}, the ledger stands at {expected}")]
    Parent {
        /// The last block here.
        expected: Hash,
        /// What the header says.
        got: Hash,
    },
    /// Height, time or proposer.
    #[error("the block's frame is wrong: {0}")]
    Frame(Rejection),
    /// A header's hash that does not match.
    #[error("the header's {what} is {got}, here it is {expected}")]
    Mismatch {
        /// Which field.
        what: &'static str,
        /// As computed here.
        expected: Hash,
        /// What the header says.
        got: Hash,
    },
    /// A signature.
    #[error("the signature of transaction {0} does not verify")]
    Signature(usize),
    /// A transaction.
    #[error("transaction {index} is refused: {reason}")]
    Transaction {
        /// Its position.
        index: usize,
        /// Why.
        reason: Rejection,
    },
}

/// Makes the block that follows `state` out of the candidates that are accepted, in their order. The time is moved past
/// the parent's if it must be. `reveal` is the lot that is due ([`State::lot_due`]). Candidates' signatures have been
/// verified.
pub fn build_block(
    state: &State,
    proposer: NodeId,
    time_ms: u64,
    reveal: Option<Hash>,
    candidates: impl Iterator<Item = Transaction>,
) -> Result<(Block, Executed), Rejection> {
    let time_ms = time_ms.max(state.time_ms().saturating_add(1));
    let context = BlockContext { height: state.height() + 1, time_ms, proposer, reveal };
    let mut executor = Executor::begin(state, context)?;
    let transactions: Vec<Transaction> = candidates.filter(|tx| executor.apply(tx).is_ok()).collect();
    let executed = executor.finish();
    let header = Header {
        network: state.network(),
        height: context.height,
        parent: state.last_block(),
        time_ms,
        proposer,
        reveal,
        transactions_root: transactions_root(&transactions),
        state_root: executed.state.root(),
        validators: state.validators().hash(),
        next_validators: executed.state.validators().hash(),
    };
    let executed = executed.seal(header.id());
    Ok((Block { header, transactions }, executed))
}

/// Executes a block with every check that the state allows; only the certificate is the caller's to verify.
pub fn execute_block(state: &State, block: &Block) -> Result<Executed, InvalidBlock> {
    let header = &block.header;
    if header.network != state.network() {
        return Err(InvalidBlock::Network(header.network));
    }
    if header.parent != state.last_block() {
        return Err(InvalidBlock::Parent { expected: state.last_block(), got: header.parent });
    }
    let Header { height, time_ms, proposer, reveal, .. } = *header;
    let context = BlockContext { height, time_ms, proposer, reveal };
    let mut executor = Executor::begin(state, context).map_err(InvalidBlock::Frame)?;
    let same = |what, expected, got| {
        if expected == got { Ok(()) } else { Err(InvalidBlock::Mismatch { what, expected, got }) }
    };
    same("validator set", state.validators().hash(), header.validators)?;
    same("transaction root", transactions_root(&block.transactions), header.transactions_root)?;
    let forged = block.transactions.par_iter().position_any(|tx| state.verify(tx).is_err());
    if let Some(index) = forged {
        return Err(InvalidBlock::Signature(index));
    }
    for (index, transaction) in block.transactions.iter().enumerate() {
        executor.apply(transaction).map_err(|reason| InvalidBlock::Transaction { index, reason })?;
    }
    let executed = executor.finish();
    same("next validator set", executed.state.validators().hash(), header.next_validators)?;
    same("state root", executed.state.root(), header.state_root)?;
    Ok(executed.seal(header.id()))
}

impl Executor {
    /// Starts the block that follows `state`.
    pub fn begin(state: &State, context: BlockContext) -> Result<Executor, Rejection> {
        let Chain { height, time_ms: parent_ms, .. } = *state.chain();
        if context.height != height + 1 {
            return Err(Rejection::BadHeight { expected: height + 1, got: context.height });
        }
        if context.time_ms <= parent_ms {
            return Err(Rejection::NotLater { parent_ms });
        }
        if state.validators().power(&context.proposer) == 0 {
            return Err(Rejection::NotProposer);
        }
        let draw = state.draw(&context.proposer, context.reveal)?;
        Ok(Executor::start(state, context, draw))
    }

    /// Starts a block that is nobody's, to try transactions in: it draws no lot.
    pub fn trial(state: &State, time_ms: u64) -> Result<Executor, Rejection> {
        let proposer = state.validators().0.first().ok_or(Rejection::NotProposer)?.node;
        let context = BlockContext { height: state.height() + 1, time_ms, proposer, reveal: None };
        Ok(Executor::start(state, context, Draw { seed: state.seed(), lots: None }))
    }

    fn start(state: &State, context: BlockContext, draw: Draw) -> Executor {
        let chain = state.chain();
        let parent = state.last_block();
        let gap = (context.time_ms - chain.time_ms).min(state.params().ledger.max_gap_ms);
        let next = Chain {
            height: context.height,
            time_ms: context.time_ms,
            age: chain.age.saturating_add(gap),
            parent,
            seed: draw.seed,
        };
        let mut executor = Executor {
            parent: state.clone(),
            state: state.clone(),
            context,
            events: Vec::new(),
            touched: BTreeSet::new(),
            totals: Totals { supply: state.supply(), burned: Amount::ZERO },
            undo: Vec::new(),
            fees: Vec::new(),
            used: Used::default(),
        };
        executor.set(Key::Chain, next);
        if let Some(lots) = draw.lots {
            executor.set(Key::Lots(context.proposer), lots);
        }
        executor.activate_changes();
        if executor.state.epoch() > state.epoch() {
            executor.change_epoch();
        }
        executor
    }

    /// The ledger with the transactions applied so far; its root is that of the parent until [`Executor::finish`].
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Applies a transaction whose signature has been verified: all of it, or nothing.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Rejection> {
        let (events, fees, totals) = (self.events.len(), self.fees.len(), self.totals);
        self.undo.clear();
        match self.admit(transaction).and_then(|used| self.dispatch(transaction).map(|()| used)) {
            Ok(used) => {
                self.used = used;
                Ok(())
            }
            Err(reason) => {
                while let Some((key, entry)) = self.undo.pop() {
                    self.state.put(key, entry);
                }
                self.events.truncate(events);
                self.fees.truncate(fees);
                self.totals = totals;
                Err(reason)
            }
        }
    }

    /// The bounds of time and space; what of the block's space is used with the transaction in.
    pub(super) fn admit(&self, transaction: &Transaction) -> Result<Used, Rejection> {
        let ledger = &self.state.params().ledger;
        let (now_ms, time_ms) = (self.context.time_ms, transaction.unsigned.time_ms);
        if time_ms > now_ms.saturating_add(ledger.skew_ms) {
            return Err(Rejection::FromFuture { now_ms });
        }
        if time_ms < now_ms.saturating_sub(ledger.transaction_ttl_ms) {
            return Err(Rejection::Expired { now_ms });
        }
        let mut used = self.used;
        let bytes = transaction.encode().len() as u64;
        if bytes > MAX_TRANSACTION_BYTES as u64 {
            return Err(Rejection::TooLarge { max: MAX_TRANSACTION_BYTES });
        }
        used.bytes += bytes;
        if used.bytes > u64::from(ledger.block_bytes) {
            return Err(Rejection::BlockFull);
        }
        match transaction.unsigned.body {
            Body::Attest { .. } => {
                used.attest_bytes += bytes;
                let quota = u128::from(ledger.block_bytes) * u128::from(ledger.attest_quota_ppm) / u128::from(PPM);
                if u128::from(used.attest_bytes) > quota {
                    return Err(Rejection::AttestQuota);
                }
            }
            Body::InferenceReceipt { .. } => {
                used.claim_bytes += bytes;
                if used.claim_bytes > self.state.params().claim_bytes() {
                    return Err(Rejection::ClaimSpace);
                }
            }
            Body::RegisterNode { .. } => {
                used.registrations += 1;
                if used.registrations > ledger.registrations_per_block {
                    return Err(Rejection::RegistrationQuota);
                }
            }
            _ => {}
        }
        Ok(used)
    }

    fn dispatch(&mut self, transaction: &Transaction) -> Result<(), Rejection> {
        let Unsigned { signer, nonce, time_ms, ref body } = transaction.unsigned;
        if !body.is_wallets() {
            if nonce != 0 {
                return Err(Rejection::BadNonce { expected: 0, got: nonce });
            }
            return self.dispatch_nodes(signer, time_ms, body);
        }
        let wallet = self.state.signs_for(&signer)?;
        match body {
            Body::Transfer { to, amount, memo } => self.transfer(transaction.id(), wallet, nonce, *to, *amount, memo),
            Body::Dispute { transfer } => self.dispute(wallet, nonce, transfer),
            Body::Report { transfer, node } => self.report(wallet, nonce, transfer, *node),
            Body::WithdrawReport { transfer, node } => self.withdraw_report(wallet, nonce, transfer, *node),
            Body::Stake { node, amount } => self.stake(wallet, nonce, *node, *amount),
            Body::Unstake { node, amount } => self.unstake(wallet, nonce, *node, *amount),
            Body::Unjail { node } => self.unjail(wallet, nonce, *node),
            Body::RegisterUsername { name } => self.register_username(wallet, nonce, *name),
            Body::SetRecovery { commitment } => self.set_recovery(wallet, nonce, *commitment),
            Body::Propose { changes, why } => self.propose(wallet, nonce, changes, why),
            Body::Vote { proposal, approve } => self.vote(wallet, nonce, *proposal, *approve),
            Body::Challenge { round, node } => self.challenge(wallet, nonce, *round, *node),
            Body::Accuse(charge) => self.accuse_stage(wallet, nonce, charge),
            Body::Deposit { amount } => self.deposit(wallet, nonce, *amount),
            Body::WithdrawDeposit { amount } => self.withdraw_deposit(wallet, nonce, *amount),
            _ => unreachable!("Body::is_wallets names exactly the kinds above"),
        }
    }

    fn dispatch_nodes(&mut self, signer: PublicKey, time_ms: u64, body: &Body) -> Result<(), Rejection> {
        match body {
            Body::RegisterNode { wallet, stamp, consent } => self.register(signer, *wallet, *stamp, consent),
            Body::BindNode { wallet, consent } => self.bind(signer, *wallet, consent),
            Body::Heartbeat { trains, class } => self.heartbeat(signer, time_ms, *trains, *class),
            Body::CommitLots { number, tip } => self.commit_lots(signer, *number, *tip),
            Body::Attest { height, except } => self.attest(signer, *height, except),
            Body::Contribute(contribution) => self.contribute(signer, contribution),
            Body::Verdict { round, findings } => self.verdict(signer, *round, findings),
            Body::ModelVote { round, root, loss } => self.model_vote(signer, *round, *root, *loss),
            Body::Evidence(evidence) => self.evidence(signer, evidence),
            Body::InferenceReceipt { claims } => self.claim(signer, claims),
            Body::Replayed { round, node, trace } => self.replayed(signer, *round, *node, *trace),
            Body::Judge { round, node, found } => self.judge(signer, *round, *node, *found),
            Body::JudgeStage { node, charge, found } => self.judge_stage(signer, *node, *charge, *found),
            Body::Recover { account, count, key, next, .. } => self.recover(signer, *account, *count, *key, *next),
            _ => unreachable!("Body::is_wallets names all the others"),
        }
    }

    /// Ends the block: what time brings about, then the next validators and the round, which counts with them.
    pub fn finish(mut self) -> Executed {
        self.include_transfers();
        self.sweep_transfers();
        self.sweep_unbonding();
        self.sweep_deposits();
        self.sweep_nodes();
        self.end_challenges();
        self.end_accusations();
        self.count_polls();
        self.pay_fees();
        self.choose_validators();
        self.advance_replays();
        self.advance_round();
        self.set_totals();
        let changed = |key: &Key| self.state.entries.get(key) != self.parent.entries.get(key);
        let keys: Vec<Key> = self.touched.iter().filter(|key| changed(key)).copied().collect();
        let writes = self.state.commit(keys);
        invariants::debug_check(|| invariants::kept_supply_law(&self.state));
        Executed { state: self.state, events: self.events, writes }
    }

    pub(super) fn set<T: Record>(&mut self, key: Key, record: T) {
        self.put(key, Some(record.into_entry()));
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.put(key, None);
    }

    fn put(&mut self, key: Key, entry: Option<Entry>) {
        self.touched.insert(key);
        let old = self.state.put(key, entry);
        self.undo.push((key, old));
    }
}

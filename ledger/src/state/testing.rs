//! A ledger to try rules on: founders with known keys, driven block by block. Every block is built, executed again from
//! its bytes, and compared, so each test also shows that execution is deterministic.

use super::{BlockContext, Event, Executor, Phase, Rejection, State, build_block, execute_block};
use crate::{
    Block, Body, Transaction,
    lots::LotChain,
    transaction::{Consent, stamp_hash},
};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, Keypair, NodeId,
    aggregation::Aggregation,
    compression::Codec,
    contribution::{Contribution, Finding, trace_commitment},
    genesis::{Dataset, Founder},
    params::{InferenceParams, LedgerParams, ModelConfig, Params, RoundParams, Style, Tokenizer, TrainingParams},
};

/// The key of the founder `i`'s node.
pub fn node_key(i: u8) -> Keypair {
    Keypair::from_seed([i + 1; 32])
}

/// The determinism class of everybody's machine.
pub const CLASS: Hash = Hash([3; 32]);

/// The trace of the founder `i`'s training.
pub fn trace(i: u8) -> Hash {
    Hash([i + 201; 32])
}

/// The key of the founder `i`'s wallet.
pub fn wallet_key(i: u8) -> Keypair {
    Keypair::from_seed([i + 101; 32])
}

/// The address of the founder `i`'s wallet.
pub fn wallet(i: u8) -> Address {
    Address::from(wallet_key(i).public())
}

/// A genesis with `founders` founders, all of them validators, and short times; `edit` changes its numbers.
pub fn genesis(founders: u8, edit: impl FnOnce(&mut Params)) -> Genesis {
    let ledger = LedgerParams {
        confirmations: 2,
        pending_ms: 100_000,
        final_ms: 200_000,
        epoch_ms: 60_000,
        stamp_bits: 4,
        handover_stake: Amount::alc(450),
        lot_chain: 16,
        dispute_ms: 100_000,
        unbonding_ms: 100_000,
        evidence_ms: 100_000,
        jail_ms: 30_000,
        challenge_ms: 20_000,
        poll_ms: 50_000,
        poll_delay_blocks: 3,
        trust_ms: 60_000,
        heartbeat_ms: 10_000,
        alive_ms: 30_000,
        lapse_ms: 1_000_000,
        ..ailo_protocol::presets::main().ledger
    };
    let round = RoundParams {
        target_participants: u32::from(founders),
        open_wait_ms: 5_000,
        min_train_ms: 1_000,
        max_train_ms: 60_000,
        verify_ms: 10_000,
        vote_ms: 10_000,
        // Paid in the block after the close, unless a test is about replays.
        replay_ppm: 0,
        replay_ms: 10_000,
        vest_rounds: 0,
        ..ailo_protocol::presets::main().round
    };
    let model = ModelConfig {
        style: Style::Gpt2,
        tokenizer: Tokenizer::Bytes,
        layers: 1,
        width: 16,
        heads: 2,
        kv_heads: 2,
        ffn: 32,
        context: 16,
    };
    let training = TrainingParams {
        inner_steps: 4,
        batch: 2,
        sequence: 16,
        lr: 0.01,
        lr_floor: 0.1,
        lr_rounds: 10,
        warmup_steps: 1,
        beta1: 0.9,
        beta2: 0.95,
        weight_decay: 0.1,
        clip: 1.0,
        outer_lr: 0.7,
        outer_momentum: 0.9,
        max_update_norm: 1.0,
        eval_sequences: 1,
        score_sequences: 1,
        codec: Codec::Int8,
        aggregation: Aggregation::DEFAULT,
    };
    let inference =
        InferenceParams { receipt_ms: 100_000, withdraw_ms: 120_000, ..ailo_protocol::presets::main().inference };
    let mut params = Params { ledger, round, inference, model, training };
    edit(&mut params);
    let founder = |i| Founder { node: *node_key(i).public(), wallet: wallet(i), validator: true };
    let genesis = Genesis {
        name: "test".into(),
        time_ms: 1_000_000_000,
        seed: 7,
        founders: (0..founders).map(founder).collect(),
        dataset: Dataset { name: "none".into(), root: Hash::ZERO, tokens: 1000, held_out: 100 },
        model_root: Hash([9; 32]),
        params,
    };
    genesis.validate().expect("the test genesis is valid");
    genesis
}

/// Puts coins into a wallet as if they had been earned.
pub fn fund(state: &mut State, wallet: Address, amount: Amount) {
    super::endow(state, wallet, amount);
}

/// A stamp that registers `node` for `wallet` in the block after `state`.
pub fn stamp(state: &State, node: &NodeId, wallet: &Address, bits: u32) -> u64 {
    let lot = state.stamp_lots().next().expect("every epoch has begun");
    let good = |stamp: &u64| {
        let hash = stamp_hash(&state.network(), &lot, node, wallet, *stamp);
        u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| hash.0[i])).leading_zeros() >= bits
    };
    (0..).find(good).expect("some stamp is good")
}

/// The registration of `node` for the wallet of `wallet`, with a stamp of `bits` zero bits.
pub fn register_body(state: &State, node: &Keypair, wallet: &Keypair, bits: u32) -> Body {
    let address = Address::from(wallet.public());
    let stamp = stamp(state, node.public(), &address, bits);
    let network = &state.network();
    Body::RegisterNode { wallet: address, stamp, consent: Consent::sign(network, node.public(), &address, wallet) }
}

/// A ledger that tests drive.
pub struct Ledger {
    /// Its genesis.
    pub genesis: Genesis,
    /// Where it stands.
    pub state: State,
    /// What the last block brought about.
    pub events: Vec<Event>,
    /// All blocks so far.
    pub blocks: Vec<Block>,
}

impl Ledger {
    /// A ledger at genesis: see [`genesis`].
    pub fn new(founders: u8, edit: impl FnOnce(&mut Params)) -> Ledger {
        let genesis = genesis(founders, edit);
        Ledger { state: State::genesis(&genesis), genesis, events: Vec::new(), blocks: Vec::new() }
    }

    /// Puts coins into a wallet as if they had been earned.
    pub fn fund(&mut self, wallet: Address, amount: Amount) {
        fund(&mut self.state, wallet, amount);
    }

    /// Signs with the next nonce, one second after the last block.
    pub fn sign(&self, key: &Keypair, body: Body) -> Transaction {
        let nonce = if body.is_wallets() { self.state.account(&self.state.account_of(key.public())).nonce } else { 0 };
        Transaction::sign(&self.state.network(), key, nonce, self.state.time_ms() + 1000, body)
    }

    /// A transfer between founders' wallets.
    pub fn transfer(&self, from: u8, to: u8, amount: Amount) -> Transaction {
        self.sign(&wallet_key(from), Body::Transfer { to: wallet(to), amount, memo: String::new() })
    }

    fn context(&self, after_ms: u64) -> BlockContext {
        let proposer = self.state.validators().0[0].node;
        self.context_of(proposer, after_ms)
    }

    /// The block that `proposer` makes after so much time.
    pub fn context_of(&self, proposer: NodeId, after_ms: u64) -> BlockContext {
        let reveal = self.state.lot_due(&proposer).and_then(|due| {
            let key = (0..=254).map(node_key).find(|key| *key.public() == proposer)?;
            self.lots_of(&key, due.number).reveal(due.left)
        });
        BlockContext { height: self.state.height() + 1, time_ms: self.state.time_ms() + after_ms, proposer, reveal }
    }

    /// A node's chain of lots with this number.
    pub fn lots_of(&self, key: &Keypair, number: u64) -> LotChain {
        LotChain::derive(&self.state.network(), key, number, self.state.params().ledger.lot_chain)
    }

    /// What commits that chain.
    pub fn commit_lots(&self, key: &Keypair, number: u64) -> Transaction {
        self.sign(key, Body::CommitLots { number, tip: self.lots_of(key, number).tip() })
    }

    /// Makes a block one second after the last one; every transaction must be accepted.
    pub fn block(&mut self, transactions: Vec<Transaction>) -> Block {
        for (i, transaction) in transactions.iter().enumerate() {
            let mut executor = Executor::begin(&self.state, self.context(1000)).expect("the frame is right");
            for earlier in &transactions[..i] {
                executor.apply(earlier).expect("accepted above");
            }
            if let Err(reason) = executor.apply(transaction) {
                panic!("transaction {i} is refused: {reason}");
            }
        }
        self.block_of_accepted(1000, transactions)
    }

    /// Makes a block of the transactions that are accepted; where that closes a round or its commits, also the one that
    /// draws.
    pub fn block_of_accepted(&mut self, after_ms: u64, transactions: Vec<Transaction>) -> Block {
        let block = self.one_block(after_ms, transactions);
        let undrawn =
            |past: &crate::state::Round| self.state.past(past.number).is_some_and(|past| past.shares.is_none());
        if self.state.round().phase == Phase::Draw || self.state.past_rounds().any(undrawn) {
            let events = std::mem::take(&mut self.events);
            self.one_block(1, Vec::new());
            self.events.splice(0..0, events);
        }
        block
    }

    /// Makes a block of the transactions that are accepted.
    pub fn one_block(&mut self, after_ms: u64, transactions: Vec<Transaction>) -> Block {
        let context = self.context(after_ms);
        let (block, built) =
            build_block(&self.state, context.proposer, context.time_ms, context.reveal, transactions.into_iter())
                .expect("a block");
        let block = Block::decode(&block.encode()).expect("canonical");
        let executed = execute_block(&self.state, &block).expect("what was built can be executed");
        assert_eq!(executed.state.root(), built.state.root());
        assert_eq!(executed.state.check_supply(), Ok(()));
        (self.state, self.events) = (executed.state, executed.events);
        self.blocks.push(block.clone());
        block
    }

    /// Makes empty blocks, each as far from the last as counts in full, until `ms` of age have passed.
    pub fn pass(&mut self, ms: u64) {
        let until = self.state.age_ms() + ms;
        let mut events = Vec::new();
        while self.state.age_ms() < until {
            let gap = (until - self.state.age_ms()).min(self.state.params().ledger.max_gap_ms);
            self.block_of_accepted(gap, Vec::new());
            events.append(&mut self.events);
        }
        self.events = events;
    }

    /// Why the transaction is refused in the next block; checks that it leaves no trace.
    pub fn refusal(&self, transaction: &Transaction) -> Rejection {
        let mut executor = Executor::begin(&self.state, self.context(1000)).expect("the frame is right");
        let untouched = Executor::begin(&self.state, self.context(1000)).expect("the frame is right").finish();
        let reason = executor.apply(transaction).expect_err("the ledger must refuse this transaction");
        let executed = executor.finish();
        assert_eq!(executed.state.root(), untouched.state.root(), "a refused transaction left a trace");
        assert_eq!(executed.events, untouched.events);
        reason
    }

    /// Heartbeats of these founders, which say that they train.
    pub fn heartbeats(&self, founders: std::ops::Range<u8>) -> Vec<Transaction> {
        founders.map(|i| self.sign(&node_key(i), Body::Heartbeat { trains: true, class: CLASS })).collect()
    }

    /// What the founder `i` has to contribute to the open round.
    pub fn contribution(&self, i: u8) -> Contribution {
        let round = self.state.round();
        let training = &self.genesis.params.training;
        Contribution {
            round: round.number,
            base_root: round.base_root,
            payload: Hash([i + 1; 32]),
            payload_bytes: 1000,
            update: Hash([i + 101; 32]),
            trace: trace_commitment(node_key(i).public(), &trace(i)),
            tokens: training.tokens_per_round(),
            steps: training.inner_steps,
            slot: round.slot(node_key(i).public()).unwrap_or(0),
            loss_first: 3_000_000,
            loss_last: 2_000_000,
            class: CLASS,
        }
    }

    /// The founder `i`'s commit to the open round.
    pub fn commit(&self, i: u8) -> Transaction {
        self.sign(&node_key(i), Body::Contribute(self.contribution(i)))
    }

    /// The founder `i`'s verdict, which finds everything valid; `loss` of each contributor, if it sits in the
    /// committee.
    pub fn verdict(&self, i: u8, loss: impl Fn(&NodeId) -> u64) -> Transaction {
        let findings = self.findings(i, loss);
        self.sign(&node_key(i), Body::Verdict { round: self.state.round().number, findings })
    }

    /// What that verdict says.
    pub fn findings(&self, i: u8, loss: impl Fn(&NodeId) -> u64) -> Vec<Finding> {
        let round = self.state.round();
        let measures = round.committee.contains(node_key(i).public());
        let finding = |node: &NodeId| {
            let loss = measures.then(|| loss(node));
            Finding { node: *node, valid: true, suspect: false, loss, own: None }
        };
        round.contributions.keys().map(finding).collect()
    }

    /// The founder `i`'s vote.
    pub fn vote(&self, i: u8, root: Hash, loss: u64) -> Transaction {
        self.sign(&node_key(i), Body::ModelVote { round: self.state.round().number, root, loss })
    }

    /// Opens a round with these founders.
    pub fn open_round(&mut self, founders: std::ops::Range<u8>) {
        self.block_of_accepted(1000, self.heartbeats(founders));
        if self.state.round().phase == Phase::Gather {
            self.pass(self.state.params().round.open_wait_ms);
        }
        assert_eq!(self.state.round().phase, Phase::Train);
    }

    /// Runs a whole round of all `n` founders, each a participant and validator, to a model of held-out loss `loss`.
    pub fn run_round(&mut self, n: u8, loss: u64) {
        if self.state.round().phase == Phase::Gather {
            self.pass(self.state.params().ledger.heartbeat_ms / 2);
            self.open_round(0..n);
        }
        self.block((0..n).map(|i| self.commit(i)).collect());
        self.block((0..n).map(|i| self.verdict(i, |_| loss)).collect());
        let root = Hash([self.state.round().number as u8 + 10; 32]);
        self.block((0..n).map(|i| self.vote(i, root, loss)).collect());
        self.report_replays();
    }

    /// Founders report the replays of founders' work that they owe: all is as it should be.
    pub fn report_replays(&mut self) {
        let founder = |id: &NodeId| (0..self.genesis.founders.len() as u8).find(|i| node_key(*i).public() == id);
        let owed = self.state.replays().filter_map(|(round, maker, replay)| {
            let (by, of) = (founder(&replay.replayer?)?, founder(&maker)?);
            Some(self.sign(&node_key(by), Body::Replayed { round, node: maker, trace: Some(trace(of)) }))
        });
        let reports: Vec<Transaction> = owed.collect();
        if !reports.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.block(reports);
            self.events.splice(0..0, events);
        }
    }
}

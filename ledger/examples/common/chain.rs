//! Makes a ledger's history without a network, for benchmarks: blocks that the state machine builds from signed
//! transactions, each with a certificate that all validators signed. Nothing is left out but the exchange of messages.
//!
//! The coins come from a round of training, as there are no others. The round's model is the one that it began with, so
//! that a node which follows this history has the model already.

use ailo_ledger::{
    Block, Body, Certificate, Transaction,
    consensus::{Ballot, Step},
    disk::RealDisk,
    state::{Account, Entry, Key, Phase, State, Supply, build_block},
    store::BlockLog,
};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, Keypair, PublicKey, canonical,
    contribution::{Contribution, Finding},
    genesis::{Dataset, Founder},
    params::Params,
    presets,
};
use rayon::prelude::*;
use std::{error::Error, path::Path, sync::Arc};

/// The determinism class of all machines.
const CLASS: Hash = Hash([3; 32]);

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Founders, each of which validates and takes part in the round.
pub const VALIDATORS: u8 = 4;
/// Attestations that confirm a transfer.
pub const CONFIRMATIONS: u32 = 2;
/// What each wallet begins with.
pub const PURSE: Amount = Amount::alc(100);

/// Wallets of an endowed ledger that send, at most.
const SENDERS: usize = 10_000;

/// A ledger, and the keys of everybody who acts in it.
pub struct Chain {
    /// After the last block.
    pub state: State,
    network: Hash,
    nodes: Vec<Keypair>,
    founders: Vec<Keypair>,
    senders: Vec<Sender>,
    addresses: Vec<Address>,
    transfers: usize,
    gap_ms: u64,
}

struct Sender {
    key: Keypair,
    nonce: u64,
}

fn node_key(i: u8) -> Keypair {
    Keypair::from_seed([i + 1; 32])
}

fn founder_key(i: u8) -> Keypair {
    Keypair::from_seed([i + 101; 32])
}

fn sender_key(i: usize) -> Keypair {
    Keypair::from_seed(sender_seed(i))
}

fn sender_seed(i: usize) -> [u8; 32] {
    let mut seed = [255; 32];
    seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
    seed
}

/// The founders that [`Chain::new`] has the keys of.
pub fn founders() -> Vec<Founder> {
    let founder =
        |i| Founder { node: *node_key(i).public(), wallet: Address::from(founder_key(i).public()), validator: true };
    (0..VALIDATORS).map(founder).collect()
}

/// A development network's numbers with a single round, which mints enough for every wallet.
pub fn params() -> Params {
    let mut params = presets::dev();
    params.ledger.confirmations = CONFIRMATIONS;
    params.round.target_participants = u32::from(VALIDATORS);
    (params.round.rounds, params.round.pot, params.round.epoch_cap) =
        (1, Amount::alc(1_000_000), Amount::alc(10_000_000));
    params
}

/// A genesis of these founders that no machine trains on.
pub fn genesis() -> Genesis {
    Genesis {
        name: "bench".into(),
        time_ms: 1_800_000_000_000,
        seed: 1,
        founders: founders(),
        dataset: Dataset { name: "none".into(), root: Hash::ZERO, tokens: 1000, held_out: 100 },
        model_root: Hash([9; 32]),
        params: params(),
    }
}

impl Chain {
    /// A ledger at its genesis. Its blocks will be `gap_ms` milliseconds of ledger time apart, and transfers go on
    /// between `wallets` wallets.
    pub fn new(genesis: &Genesis, wallets: usize, gap_ms: u64) -> Chain {
        let senders: Vec<Sender> = (0..wallets).map(|i| Sender { key: sender_key(i), nonce: 0 }).collect();
        Chain {
            state: State::genesis(genesis),
            network: genesis.id(),
            nodes: (0..VALIDATORS).map(node_key).collect(),
            founders: (0..VALIDATORS).map(founder_key).collect(),
            addresses: senders.iter().map(|sender| Address::from(sender.key.public())).collect(),
            senders,
            transfers: 0,
            gap_ms,
        }
    }

    /// A ledger whose state has this many wallets with coins that nobody earned, as if it had been long in use, put
    /// together from its entries; some of the wallets send, and any of them receives.
    pub fn endowed(genesis: &Genesis, wallets: usize, gap_ms: u64) -> Outcome<Chain> {
        let mut chain = Chain::new(genesis, wallets.min(SENDERS), gap_ms);
        let others = chain.senders.len()..wallets;
        chain.addresses.extend(others.map(|i| Address::from(&PublicKey(sender_seed(i)))));
        let account = Account { free: PURSE, ..Account::default() };
        let account = canonical::encode(&Entry::Account(Arc::new(account)));
        let coins = Amount(PURSE.0 * wallets as u64);
        let supply = Supply { minted: coins, free: coins, ..Supply::default() };
        let supply = (canonical::encode(&Key::Supply), canonical::encode(&Entry::Supply(Arc::new(supply))));
        let entries = chain.state.entries().filter(|(key, _)| *key != supply.0).chain([supply.clone()]);
        let accounts =
            chain.addresses.iter().map(|address| (canonical::encode(&Key::Account(*address)), account.clone()));
        let state = State::restore(genesis, entries.chain(accounts))?;
        state.check_supply()?;
        chain.state = state;
        Ok(chain)
    }

    /// Trains the round and gives every wallet its coins; `each` is shown the blocks.
    pub fn found(&mut self, mut each: impl FnMut(&Block, &Certificate) -> Outcome<()>) -> Outcome<()> {
        let mut next = |chain: &mut Chain, transactions| {
            let (block, certificate) = chain.block(transactions)?;
            each(&block, &certificate)
        };
        let all = |chain: &Chain, body: &dyn Fn(&Keypair) -> Body| -> Vec<Transaction> {
            chain.nodes.iter().map(|key| chain.sign(key, 0, body(key))).collect()
        };
        let beats = all(self, &|_| Body::Heartbeat { trains: true, class: CLASS });
        next(self, beats)?;
        let commits = all(self, &|key| Body::Contribute(self.contribution(key)));
        next(self, commits)?;
        next(self, Vec::new())?; // draws the committee
        let verdicts = all(self, &|key| self.verdict(key));
        next(self, verdicts)?;
        let round = self.state.round();
        let (number, root) = (round.number, round.base_root);
        let votes = all(self, &|_| Body::ModelVote { round: number, root, loss: 2_000_000 });
        next(self, votes)?;
        next(self, Vec::new())?; // shares out what the round pays: no key is old enough to replay
        if self.state.supply().minted == Amount::ZERO {
            return Err("the round was not paid".into());
        }
        let purse = |(i, to): (usize, &Address)| {
            let (founder, nonce) = (&self.founders[i % self.founders.len()], i / self.founders.len());
            self.sign(founder, nonce as u64, Body::Transfer { to: *to, amount: PURSE, memo: String::new() })
        };
        let purses: Vec<Transaction> = self.addresses.iter().enumerate().map(purse).collect();
        for some in purses.chunks(1000) {
            next(self, some.to_vec())?;
        }
        next(self, Vec::new()) // the last of them are attested
    }

    /// The next transfers, each of one unit: the wallets send in turn.
    pub fn transfers(&mut self, count: usize) -> Vec<Transaction> {
        let mut plans = Vec::with_capacity(count);
        for _ in 0..count {
            self.transfers += 1;
            let (from, mut to) = (self.transfers % self.senders.len(), self.transfers * 7919 % self.addresses.len());
            if from == to {
                to = (to + 1) % self.addresses.len();
            }
            plans.push((from, to, self.senders[from].nonce));
            self.senders[from].nonce += 1;
        }
        let sign = |(from, to, nonce): (usize, usize, u64)| {
            let body = Body::Transfer { to: self.addresses[to], amount: Amount(1), memo: String::new() };
            self.sign(&self.senders[from].key, nonce, body)
        };
        plans.into_par_iter().map(sign).collect()
    }

    /// The next block of these transactions and of the attestations that are due, with its certificate.
    pub fn block(&mut self, transactions: Vec<Transaction>) -> Outcome<(Block, Certificate)> {
        let height = self.state.height() + 1;
        let proposer = *self.nodes[height as usize % self.nodes.len()].public();
        // All seats say so at once, as in a network: the builder leaves out who adds nothing.
        let mut due = Vec::new();
        for height in self.state.pending_blocks() {
            let seats = self.nodes.iter().filter(|key| self.state.may_attest(key.public(), height));
            due.extend(seats.map(|key| self.sign(key, 0, Body::Attest { height, except: vec![] })));
        }
        let (asked, candidates) = (transactions.len(), due.into_iter().chain(transactions));
        // No validator here commits lots, so there are none to reveal.
        let (block, executed) = build_block(&self.state, proposer, self.next_ms(), None, candidates)?;
        let is_attestation = |transaction: &&Transaction| matches!(transaction.unsigned.body, Body::Attest { .. });
        let taken = block.transactions.len() - block.transactions.iter().filter(is_attestation).count();
        if taken != asked {
            return Err(format!("block {height} took {taken} of {asked} transactions").into());
        }
        self.state = executed.state;
        let certificate = self.certify(&block);
        Ok((block, certificate))
    }

    fn next_ms(&self) -> u64 {
        self.state.time_ms() + self.gap_ms
    }

    fn sign(&self, key: &Keypair, nonce: u64, body: Body) -> Transaction {
        Transaction::sign(&self.network, key, nonce, self.next_ms(), body)
    }

    fn certify(&self, block: &Block) -> Certificate {
        let (height, id) = (block.header.height, block.id());
        let ballot = Ballot { height, round: 0, step: Step::Precommit, block: Some(id) };
        let sign = |key: &Keypair| (*key.public(), ballot.sign(&self.network, key).signature);
        let mut signatures: Vec<_> = self.nodes.iter().map(sign).collect();
        signatures.sort_by_key(|(node, _)| *node);
        Certificate { height, round: 0, block: id, signatures }
    }

    fn contribution(&self, key: &Keypair) -> Contribution {
        let (round, training) = (self.state.round(), &self.state.params().training);
        debug_assert_eq!(round.phase, Phase::Train);
        Contribution {
            round: round.number,
            base_root: round.base_root,
            payload: Hash(key.public().0),
            payload_bytes: 1000,
            update: Hash::ZERO,
            trace: Hash::ZERO,
            tokens: training.tokens_per_round(),
            steps: training.inner_steps,
            slot: round.slot(key.public()).unwrap_or(0),
            loss_first: 3_000_000,
            loss_last: 2_000_000,
            class: CLASS,
        }
    }

    fn verdict(&self, key: &Keypair) -> Body {
        let round = self.state.round();
        let loss = round.committee.contains(key.public()).then_some(2_000_000);
        let findings = round
            .contributions
            .keys()
            .map(|node| Finding { node: *node, valid: true, suspect: false, loss, own: None })
            .collect();
        Body::Verdict { round: round.number, findings }
    }
}

/// What [`write_log`] has written.
pub struct Written {
    /// Blocks.
    pub blocks: u64,
    /// Transfers between wallets.
    pub transfers: usize,
    /// Offsets of the blocks in the log.
    pub offsets: Vec<u64>,
}

/// Writes a history of `blocks` blocks of `each` transfers into an empty block log, after the blocks that found it.
pub fn write_log(path: &Path, genesis: &Genesis, chain: &mut Chain, blocks: usize, each: usize) -> Outcome<Written> {
    let mut log = BlockLog::open(RealDisk::shared(), path, genesis.id(), 1)?;
    let mut offsets = Vec::new();
    let mut append = |block: &Block, certificate: &Certificate| -> Outcome<()> {
        offsets.push(log.append(block, certificate)?);
        Ok(())
    };
    chain.found(&mut append)?;
    for _ in 0..blocks {
        let transfers = chain.transfers(each);
        let (block, certificate) = chain.block(transfers)?;
        append(&block, &certificate)?;
    }
    Ok(Written { blocks: chain.state.height(), transfers: blocks * each, offsets })
}

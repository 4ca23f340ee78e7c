//! Whole networks of hosts in one thread and virtual time: messages are delayed, lost, repeated and cut off, nodes crash
//! at every place that could hurt and come back with what was durable. Whatever happens, no two nodes commit different
//! blocks and no honest node signs two rival ballots; and when the network heals, all go on.
//!
//! A seed decides everything. Tests run fixed seeds and a fresh one; a failure prints its seed.

#![allow(clippy::unwrap_used)]
use super::{codec::Signed, *};
use crate::{
    Block, Body, Certificate, Transaction,
    framelog::LogError,
    state::{State, testing},
};
use ailo_protocol::{Address, Amount, Hash, Keypair, NodeId, hash::Stream};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

/// What survives a crash.
struct Disk {
    /// After each block, the genesis first.
    states: Vec<State>,
    blocks: Vec<(Arc<Block>, Certificate)>,
    wal: Option<Recovered>,
    journal: Vec<Ballot>,
    /// Where the node is to crash next.
    trap: Option<Trap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    BeforeFlush,
    BeforeJournal,
    AfterJournal,
    BeforeAppend,
    AfterAppend,
}

impl Disk {
    fn state(&self) -> &State {
        self.states.last().unwrap()
    }
}

struct Files {
    disk: Rc<RefCell<Disk>>,
    pending: Vec<Vec<u8>>,
    height: u64,
}

impl Files {
    fn trap(&self, trap: Trap) -> Result<(), LogError> {
        let mut disk = self.disk.borrow_mut();
        if disk.trap == Some(trap) {
            disk.trap = None;
            return Err(LogError::Failed { path: format!("{trap:?}").into() });
        }
        Ok(())
    }
}

impl Persist for Files {
    fn append(&mut self, height: u64, entry: Vec<u8>) -> Result<(), LogError> {
        if height != self.height {
            self.pending.clear();
        }
        self.height = height;
        self.pending.push(entry);
        Ok(())
    }

    fn sign(&mut self, ballot: &Ballot) -> Result<(), SignError> {
        self.trap(Trap::BeforeFlush)?;
        if !self.pending.is_empty() {
            let wal = &mut self.disk.borrow_mut().wal;
            match wal {
                Some(wal) if wal.height == self.height => wal.entries.append(&mut self.pending),
                _ => *wal = Some(Recovered { height: self.height, entries: std::mem::take(&mut self.pending) }),
            }
        }
        self.trap(Trap::BeforeJournal)?;
        {
            let mut disk = self.disk.borrow_mut();
            if let Some(rival) = disk.journal.iter().find(|signed| signed.is_rival(ballot)) {
                return Err(SignError::Conflict(*rival));
            }
            disk.journal.push(*ballot);
        }
        self.trap(Trap::AfterJournal)?;
        Ok(())
    }

    fn finish(&mut self, _: u64) -> Result<(), LogError> {
        self.pending.clear();
        Ok(())
    }
}

enum Event {
    Deliver(usize, Vec<u8>),
    Timer(usize, u64, TimeoutId),
    Propose(usize, u64, u64, u32),
    Sync(usize),
    Restart(usize),
}

struct Node {
    key: Keypair,
    clock_ms: u64,
    disk: Rc<RefCell<Disk>>,
    host: Option<Host<Files>>,
    timers: BTreeMap<TimeoutId, u64>,
    /// Counts starts and timers, so that what belongs to an earlier life is recognised.
    life: u64,
    behind: u64,
    syncing: bool,
    votes: bool,
    equivocates: bool,
}

struct World {
    seed: u64,
    random: Stream,
    time: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    nodes: Vec<Node>,
    delay_ms: u64,
    loss_permille: u64,
    /// Nodes in different parts do not hear each other.
    parts: Vec<u8>,
    chain: BTreeMap<u64, Hash>,
    signed: BTreeSet<(usize, Ballot)>,
    rounds: u32,
    accused: BTreeSet<NodeId>,
    nonce: u64,
    conflicts_expected: bool,
    /// What goes into blocks instead of the usual.
    stakes: Option<Vec<Transaction>>,
}

impl World {
    /// `validators` founders, then `followers` without a vote.
    fn new(seed: u64, validators: u8, followers: u8) -> World {
        let genesis = testing::genesis(validators, |_| {});
        let mut state = State::genesis(&genesis);
        (0..validators).for_each(|i| testing::fund(&mut state, testing::wallet(i), Amount::alc(1_000_000)));
        let mut random = Hash::of(ailo_protocol::hash::Domain::Lot, &seed.to_le_bytes()).stream();
        let node = |i: u8| Node {
            key: testing::node_key(i),
            clock_ms: 1_000_000_000 + random.below(3000),
            disk: Rc::new(RefCell::new(Disk {
                states: vec![state.clone()],
                blocks: Vec::new(),
                wal: None,
                journal: Vec::new(),
                trap: None,
            })),
            host: None,
            timers: BTreeMap::new(),
            life: 0,
            behind: 0,
            syncing: false,
            votes: i < validators,
            equivocates: false,
        };
        let nodes: Vec<Node> = (0..validators + followers).map(node).collect();
        let parts = vec![0; nodes.len()];
        World {
            seed,
            random,
            time: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            delay_ms: 100,
            loss_permille: 0,
            parts,
            chain: BTreeMap::new(),
            signed: BTreeSet::new(),
            rounds: 0,
            accused: BTreeSet::new(),
            nonce: 0,
            conflicts_expected: false,
            stakes: None,
        }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.time + delay, self.sequence), event);
    }

    fn chance(&mut self, permille: u64) -> bool {
        self.random.below(1000) < permille
    }

    fn start_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.start(i);
        }
    }

    fn start(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.life += 1;
        node.timers.clear();
        node.behind = 0;
        node.syncing = false;
        let (state, recovered) = {
            let disk = node.disk.borrow();
            (disk.state().clone(), disk.wal.clone())
        };
        let files = node.votes.then(|| Files { disk: node.disk.clone(), pending: Vec::new(), height: 0 });
        node.host = Some(Host::new(state, node.key.clone(), files, recovered).unwrap());
        self.give(i, Input::Start);
    }

    fn crash(&mut self, i: usize) {
        self.nodes[i].host = None;
        self.nodes[i].life += 1;
        let pause = 100 + self.random.below(8000);
        self.at(pause, Event::Restart(i));
    }

    /// Gives an input and carries out the outputs, unless the node crashes.
    fn give(&mut self, i: usize, input: Input) {
        let now = self.nodes[i].clock_ms + self.time;
        let Some(host) = &mut self.nodes[i].host else { return };
        let outputs = match host.handle(input, now) {
            Ok(outputs) => outputs,
            Err(HostError::Log(LogError::Failed { .. })) => return self.crash(i),
            Err(e) => panic!("seed {}: node {i}: {e}", self.seed),
        };
        self.rounds = self.rounds.max(host.round().0);
        let life = self.nodes[i].life;
        for output in outputs {
            if self.nodes[i].life != life {
                return;
            }
            self.carry_out(i, output);
        }
    }

    fn carry_out(&mut self, i: usize, output: Output) {
        match output {
            Output::Broadcast { bytes, .. } => {
                self.check_ballot(i, &bytes);
                self.broadcast(i, &bytes);
            }
            Output::SetTimeout(id, duration) => {
                self.sequence += 1;
                let token = self.sequence;
                self.nodes[i].timers.insert(id, token);
                self.at(duration.as_millis() as u64, Event::Timer(i, token, id));
            }
            Output::CancelTimeout(id) => drop(self.nodes[i].timers.remove(&id)),
            Output::CancelAllTimeouts => self.nodes[i].timers.clear(),
            Output::WantBlock { height, round } => {
                let wait = if round == 0 { self.random.below(5000) } else { 0 };
                let life = self.nodes[i].life;
                self.at(wait, Event::Propose(i, life, height, round));
            }
            Output::Decided(decision) => {
                if self.trap(i, Trap::BeforeAppend) {
                    return self.crash(i);
                }
                let (height, id) = (decision.block.header.height, decision.block.id());
                let network = decision.block.header.network;
                {
                    let mut disk = self.nodes[i].disk.borrow_mut();
                    let checked = verify_certificate(&network, disk.state().validators(), &decision.certificate);
                    assert_eq!(checked, Ok(()), "seed {}", self.seed);
                    assert_eq!((disk.blocks.len() as u64 + 1, decision.certificate.block), (height, id));
                    disk.blocks.push((decision.block, decision.certificate));
                    disk.states.push(decision.executed.state);
                }
                let first = *self.chain.entry(height).or_insert(id);
                assert_eq!(first, id, "seed {}: two blocks at height {height}", self.seed);
                if self.trap(i, Trap::AfterAppend) {
                    return self.crash(i);
                }
                self.give(i, Input::Committed { height });
            }
            Output::Behind { height } => {
                let node = &mut self.nodes[i];
                node.behind = node.behind.max(height);
                if !node.syncing {
                    node.syncing = true;
                    self.at(200, Event::Sync(i));
                }
            }
            Output::Equivocation { node, .. } => drop(self.accused.insert(node)),
            Output::Verdict(verdict) => {
                let honest = self.nodes.iter().all(|node| !node.equivocates);
                assert!(!honest || verdict != Verdict::Reject, "seed {}: an honest message was rejected", self.seed);
            }
        }
    }

    fn trap(&mut self, i: usize, trap: Trap) -> bool {
        let mut disk = self.nodes[i].disk.borrow_mut();
        let sprung = disk.trap == Some(trap);
        if sprung {
            disk.trap = None;
        }
        sprung
    }

    /// No ballot that leaves a node has a rival that left before, in this life or an earlier one.
    fn check_ballot(&mut self, i: usize, bytes: &[u8]) {
        let signed = match Message::decode(bytes).unwrap() {
            Message::Vote(signed) | Message::Proposal(signed, _) => signed,
            _ => return,
        };
        let me = *self.nodes[i].key.public();
        if signed.node != me || self.conflicts_expected {
            return;
        }
        let rival = self.signed.iter().find(|(node, ballot)| *node == i && ballot.is_rival(&signed.ballot));
        assert!(rival.is_none(), "seed {}: node {i} signed {:?} and {:?}", self.seed, signed.ballot, rival);
        self.signed.insert((i, signed.ballot));
    }

    fn broadcast(&mut self, i: usize, bytes: &[u8]) {
        let mut sent = vec![bytes.to_vec()];
        if self.nodes[i].equivocates {
            sent.extend(self.rival(i, bytes).map(|message| message.encode()));
        }
        for bytes in sent {
            for to in (0..self.nodes.len()).filter(|to| *to != i) {
                let copies = 1 + u64::from(self.chance(30));
                for _ in 0..copies {
                    if self.parts[i] == self.parts[to] && !self.chance(self.loss_permille) {
                        let delay = 1 + self.random.below(self.delay_ms);
                        self.at(delay, Event::Deliver(to, bytes.clone()));
                    }
                }
            }
        }
    }

    /// The same vote for something else.
    fn rival(&self, i: usize, bytes: &[u8]) -> Option<Message> {
        let Ok(Message::Vote(Signed { ballot, node, .. })) = Message::decode(bytes) else { return None };
        let key = &self.nodes[i].key;
        let network = self.nodes[i].disk.borrow().state().network();
        (node == *key.public())
            .then(|| Message::Vote(Ballot { block: Some(Hash([0xee; 32])), ..ballot }.sign(&network, key)))
    }

    /// A transaction that follows the chain of the node.
    fn transactions(&mut self, i: usize) -> Vec<Transaction> {
        if let Some(stakes) = &self.stakes {
            return stakes.clone();
        }
        let state = self.nodes[i].disk.borrow().state().clone();
        let key = testing::wallet_key(0);
        let nonce = state.account(&Address::from(key.public())).nonce;
        self.nonce += 1;
        let body = Body::Stake { node: *testing::node_key(0).public(), amount: Amount(self.nonce) };
        vec![Transaction::sign(&state.network(), &key, nonce, self.nodes[i].clock_ms + self.time, body)]
    }

    fn sync(&mut self, i: usize) {
        self.nodes[i].syncing = false;
        let Some(host) = &self.nodes[i].host else { return };
        let next = host.state().height() + 1;
        if next >= self.nodes[i].behind {
            return;
        }
        let peers = (0..self.nodes.len()).filter(|peer| *peer != i && self.parts[*peer] == self.parts[i]);
        let holds = |peer: &usize| self.nodes[*peer].disk.borrow().blocks.len() as u64 >= next;
        let peers: Vec<usize> = peers.filter(holds).collect();
        if !peers.is_empty() && !self.chance(self.loss_permille) {
            let peer = peers[self.random.below(peers.len() as u64) as usize];
            let (block, certificate) = self.nodes[peer].disk.borrow().blocks[next as usize - 1].clone();
            self.give(i, Input::Synced(block, certificate));
        }
        self.nodes[i].syncing = true;
        self.at(50, Event::Sync(i));
    }

    fn step(&mut self) {
        let Some(((time, _), event)) = self.queue.pop_first() else { panic!("seed {}: nothing left to do", self.seed) };
        self.time = time;
        match event {
            Event::Deliver(i, bytes) => {
                let message = Message::decode(&bytes).unwrap();
                self.give(i, Input::Message(message));
            }
            Event::Timer(i, token, id) => {
                if self.nodes[i].timers.get(&id) == Some(&token) {
                    self.nodes[i].timers.remove(&id);
                    self.give(i, Input::Timeout(id));
                }
            }
            Event::Propose(i, life, height, round) => {
                if self.nodes[i].life == life {
                    let candidates = self.transactions(i);
                    self.give(i, Input::Propose { height, round, candidates });
                }
            }
            Event::Sync(i) => self.sync(i),
            Event::Restart(i) => self.start(i),
        }
    }

    fn height(&self, i: usize) -> u64 {
        self.nodes[i].disk.borrow().blocks.len() as u64
    }

    /// Runs until every one of these nodes has the height.
    fn run_to(&mut self, nodes: &[usize], height: u64) {
        let limit = self.time + 3_600_000;
        while nodes.iter().any(|i| self.height(*i) < height) {
            let heights: Vec<u64> = (0..self.nodes.len()).map(|i| self.height(i)).collect();
            assert!(self.time < limit, "seed {}: no progress in an hour, heights {heights:?}", self.seed);
            self.step();
        }
    }

    fn run_for(&mut self, ms: u64) {
        let until = self.time + ms;
        while self.queue.first_key_value().is_some_and(|((time, _), _)| *time <= until) {
            self.step();
        }
        self.time = until;
    }

    fn all(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// Every node has the same state after the same blocks.
    fn check_agreement(&self) {
        for node in &self.nodes {
            let disk = node.disk.borrow();
            for (i, (block, _)) in disk.blocks.iter().enumerate() {
                assert_eq!(self.chain[&(i as u64 + 1)], block.id(), "seed {}", self.seed);
            }
            if let Some((block, _)) = disk.blocks.last() {
                assert_eq!((disk.state().root(), disk.state().last_block()), (block.header.state_root, block.id()));
            }
        }
    }
}

/// Some fixed seeds and fresh ones: one, or as many as AILO_FRESH_SEEDS says.
fn seeds(fixed: u64) -> impl Iterator<Item = u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let fresh = std::env::var("AILO_FRESH_SEEDS").map_or(1, |n| n.parse().unwrap());
    println!("fresh seeds: {now} and on, {fresh} of them");
    (1..=fixed).chain(now..now + fresh)
}

#[test]
fn one_validator_alone_makes_blocks_with_transactions() {
    let mut world = World::new(1, 1, 0);
    world.start_all();
    world.run_to(&[0], 30);
    world.check_agreement();
    assert_eq!(world.rounds, 0);
    assert!(world.nodes[0].disk.borrow().blocks.iter().all(|(block, _)| block.transactions.len() == 1));
}

#[test]
fn four_and_twelve_validators_agree_in_the_first_round_on_a_good_network() {
    for validators in [4, 12] {
        let mut world = World::new(2, validators, 1);
        world.start_all();
        world.run_to(&world.all(), 10);
        world.check_agreement();
        assert_eq!(world.rounds, 0);
        let proposers: BTreeSet<NodeId> =
            world.nodes[0].disk.borrow().blocks.iter().map(|(block, _)| block.header.proposer).collect();
        assert!(proposers.len() >= 4, "proposers take turns");
    }
}

#[test]
fn a_lossy_slow_network_costs_time_but_neither_agreement_nor_progress() {
    for seed in seeds(6) {
        let mut world = World::new(seed, 4, 1);
        (world.delay_ms, world.loss_permille) = (2000, 100);
        world.start_all();
        world.run_to(&world.all(), 12);
        world.check_agreement();
    }
}

#[test]
fn while_the_network_is_cut_in_half_nothing_is_decided_and_afterwards_all_go_on() {
    for seed in seeds(6) {
        let mut world = World::new(seed, 4, 1);
        world.start_all();
        world.run_to(&world.all(), 3);
        world.parts = vec![0, 0, 1, 1, 1];
        world.run_for(500); // what was decided before the cut may still arrive
        let before = world.chain.len();
        world.run_for(120_000);
        assert!(world.chain.len() <= before + 1, "seed {seed}: half of the power decided");
        world.parts = vec![0; 5];
        world.run_to(&world.all(), 10);
        world.check_agreement();
    }
}

#[test]
fn a_third_cut_off_stops_nobody_else_and_catches_up_by_syncing() {
    for seed in seeds(3) {
        let mut world = World::new(seed, 4, 0);
        world.start_all();
        world.run_to(&world.all(), 2);
        world.parts = vec![0, 0, 0, 1];
        world.run_to(&[0, 1, 2], 20);
        assert!(world.height(3) < 5);
        world.parts = vec![0; 4];
        world.run_to(&world.all(), 25);
        world.check_agreement();
    }
}

#[test]
fn a_node_that_comes_late_syncs_all_blocks() {
    let mut world = World::new(3, 4, 1);
    for i in 0..4 {
        world.start(i);
    }
    world.run_to(&[0, 1, 2, 3], 15);
    world.start(4);
    world.run_to(&world.all(), 18);
    world.check_agreement();
}

#[test]
fn crashes_at_every_dangerous_place_never_make_a_node_sign_twice_or_lose_a_block() {
    const TRAPS: [Trap; 5] =
        [Trap::BeforeFlush, Trap::BeforeJournal, Trap::AfterJournal, Trap::BeforeAppend, Trap::AfterAppend];
    for seed in seeds(6) {
        let mut world = World::new(seed, 4, 0);
        (world.delay_ms, world.loss_permille) = (300, 30);
        world.start_all();
        for round in 0..25 {
            let victim = world.random.below(4) as usize;
            let trap = TRAPS[(seed as usize + round) % TRAPS.len()];
            world.nodes[victim].disk.borrow_mut().trap = Some(trap);
            if world.chance(200) {
                // And all at once.
                for i in 0..4 {
                    if world.nodes[i].host.is_some() {
                        world.crash(i);
                    }
                }
            }
            let pause = world.random.below(6000);
            world.run_for(pause);
        }
        let height = world.chain.len() as u64 + 5;
        world.run_to(&world.all(), height);
        world.check_agreement();
    }
}

#[test]
fn a_single_validator_survives_crashes_at_every_dangerous_place() {
    for trap in [Trap::BeforeFlush, Trap::BeforeJournal, Trap::AfterJournal, Trap::BeforeAppend, Trap::AfterAppend] {
        for nth in 0..6 {
            let mut world = World::new(nth, 1, 0);
            world.start_all();
            world.run_to(&[0], 2);
            world.nodes[0].disk.borrow_mut().trap = Some(trap);
            for _ in 0..nth {
                // The trap springs at the next occasion; set it again for the one after.
                while world.nodes[0].disk.borrow().trap.is_some() {
                    world.step();
                }
                world.nodes[0].disk.borrow_mut().trap = Some(trap);
            }
            while world.nodes[0].disk.borrow().trap.is_some() {
                world.step();
            }
            world.run_to(&[0], 8);
            world.check_agreement();
        }
    }
}

#[test]
fn an_equivocating_validator_stops_nobody_and_is_reported() {
    let mut accused = BTreeSet::new();
    for seed in seeds(4) {
        let mut world = World::new(seed, 4, 0);
        world.conflicts_expected = true;
        world.nodes[3].equivocates = true;
        world.start_all();
        world.run_to(&[0, 1, 2], 10);
        world.check_agreement();
        accused.append(&mut world.accused);
    }
    assert_eq!(accused, BTreeSet::from([*testing::node_key(3).public()]));
}

#[test]
fn a_validator_whose_log_is_lost_signs_no_rival_and_comes_back_with_the_next_height() {
    for seed in seeds(8) {
        let mut world = World::new(seed, 4, 0);
        world.delay_ms = 300;
        world.start_all();
        for _ in 0..10 {
            let pause = world.random.below(5000);
            world.run_for(pause);
            if world.nodes[2].host.is_some() {
                world.crash(2);
                world.nodes[2].disk.borrow_mut().wal = None;
            }
        }
        let height = world.chain.len() as u64 + 3;
        world.run_to(&world.all(), height);
        world.check_agreement();
    }
}

#[test]
fn a_validator_whose_blocks_are_lost_syncs_before_it_votes_again() {
    for seed in seeds(8) {
        let mut world = World::new(seed, 4, 0);
        world.start_all();
        world.run_to(&world.all(), 6);
        let pause = world.random.below(5000);
        world.run_for(pause);
        if world.nodes[1].host.is_some() {
            world.crash(1);
        }
        {
            // An older copy of the block log, with a write-ahead log and a journal that are further on.
            let mut disk = world.nodes[1].disk.borrow_mut();
            let kept = disk.blocks.len() - 4;
            disk.blocks.truncate(kept);
            disk.states.truncate(kept + 1);
        }
        let height = world.chain.len() as u64 + 4;
        world.run_to(&world.all(), height);
        world.check_agreement();
        assert!(world.nodes[1].host.as_ref().unwrap().is_voting());
    }
}

#[test]
fn a_node_that_stakes_becomes_a_validator_and_its_vote_counts() {
    let mut world = World::new(4, 4, 1);
    world.nodes[4].votes = true; // it has its files, but no power yet
    let network = world.nodes[0].disk.borrow().state().network();
    let node = testing::node_key(4);
    let time_ms = 1_000_000_000;
    let registration = testing::register_body(&network, &node, &testing::wallet_key(0), 4);
    let mut transactions = vec![Transaction::sign(&network, &node, 0, time_ms, registration)];
    for i in 0..5u8 {
        // The newcomer works for the first founder's wallet, the founders for their own.
        let (wallet, nonce) = if i == 4 { (0, 1) } else { (i, 0) };
        let body = Body::Stake { node: *testing::node_key(i).public(), amount: Amount::alc(250) };
        transactions.push(Transaction::sign(&network, &testing::wallet_key(wallet), nonce, time_ms, body));
    }
    world.stakes = Some(transactions);
    world.start_all();
    world.run_to(&world.all(), 5);
    assert_eq!(world.nodes[0].disk.borrow().state().validators().0.len(), 5);
    // Without one of the five, the newcomer's vote is needed.
    world.parts = vec![0, 0, 0, 1, 0];
    world.run_to(&[0, 1, 2, 4], 15);
    let disk = world.nodes[0].disk.borrow();
    let signers: BTreeSet<NodeId> =
        disk.blocks.iter().flat_map(|(_, certificate)| &certificate.signatures).map(|(node, _)| *node).collect();
    assert!(signers.contains(node.public()));
    drop(disk);
    world.check_agreement();
}

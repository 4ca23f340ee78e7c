//! Members, network and clock: takes one event after another and checks every claim that can be checked then. The seed
//! decides everything; nothing here looks at the real clock, the system's randomness or an unordered map.

use super::{
    accusations::Accusation,
    byzantine, cast,
    disk::{End, Moment, Trap},
    member::{Conduct, Member, StartError},
    network::Network,
    trace::Trace,
    wallets::{self, Wallet},
    workload::{self, Duties},
};
use crate::{
    Block, Body, Certificate, Transaction,
    consensus::{HostError, Message, Verdict},
    invariants::{self, Draws, Invariant, Lives, Receipts, Signatures, Spending, Trials, Violation},
    participant::{Action, Gossip, Head, ParticipantError},
    state::{Event as LedgerEvent, State, execute_block},
    store::StoreError,
};
use ailo_protocol::{Genesis, Hash, NodeId, hash::Domain, hash::Stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

/// Blocks that one answer of block sync holds.
const BATCH: u64 = 128;
/// Peers asked before giving up, and how long each has to answer.
const TRIES: usize = 4;
const ANSWER_MS: u64 = 5_000;
/// A member looks at its duties this often, and after every block.
const DUTIES_MS: u64 = 2_000;

/// What is sent.
#[derive(Debug)]
pub enum Packet {
    /// Canonical bytes of a message of consensus.
    Consensus(Vec<u8>),
    /// Canonical bytes of a transaction.
    Transaction(Vec<u8>),
    /// "I have a block of this height."
    Head(u64),
}

/// What happens at some time.
pub enum Event {
    /// A packet arrives.
    Arrive { to: usize, from: usize, packet: Rc<Packet> },
    /// A member wanted to be woken.
    Wake { member: usize, life: u64 },
    /// A member looks at its duties.
    Duties { member: usize, life: u64 },
    /// The answer of a peer that was asked how far it is.
    HeadAnswer { to: usize, life: u64, peer: usize },
    /// Block sync asks the next of these peers.
    AskBlocks { to: usize, life: u64, peers: Vec<usize>, from: u64 },
    /// Block sync comes to its end.
    Blocks { to: usize, life: u64, peer: Option<usize>, blocks: Vec<(Arc<Block>, Certificate)> },
    /// A member starts again.
    Start { member: usize, life: u64 },
    /// A wallet's owner does something.
    Wallet(usize),
    /// A wallet's owner sends a transaction once more.
    Again(Box<Transaction>),
    /// A fault ends.
    Heal(usize),
}

/// A whole network.
pub struct World {
    /// Follows from the seed, and decides everything.
    pub random: Stream,
    /// Milliseconds since the beginning.
    pub time: u64,
    /// What comes.
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// Network id.
    pub network_id: Hash,
    /// Who takes part.
    pub members: Vec<Member>,
    /// What each owes the ledger beside consensus.
    pub duties: Vec<Duties>,
    /// Those of clients, who send transfers, then those that the members work for.
    pub wallets: Vec<Wallet>,
    /// Whether the members' wallets stake, so that founders hand over.
    pub staking: bool,
    /// What is between them.
    pub network: Network,
    /// All that happened.
    pub trace: Trace,
    /// Ids and state roots by height, as the first honest member had them; genesis first.
    pub chain: Vec<(Hash, Hash)>,
    /// The ledger after its last block.
    pub ledger: State,
    /// Transfers that nodes do not attest, by the height of their block.
    pub doubtful: BTreeMap<u64, Vec<Hash>>,
    /// Contributions that are not the work that they should be, by round and maker.
    pub forged: BTreeSet<(u64, NodeId)>,
    /// Transfers of the chain's last blocks, and from which heights on.
    pub recent: Vec<(u64, Hash)>,
    /// Validators by height, of that chain.
    sets: Vec<crate::block::ValidatorSet>,
    spending: Spending,
    lives: Lives,
    trials: Trials,
    draws: Draws,
    receipts: Receipts,
    signatures: Signatures,
    /// Transfers in the chain.
    pub transfers: u64,
    /// Rounds of training that closed.
    pub rounds_closed: u64,
    /// The last round of consensus seen.
    pub highest_round: u32,
    /// Who was caught with two rival ballots.
    pub accused: BTreeSet<NodeId>,
    /// What of it no slash covers yet.
    pub accusations: Vec<Accusation>,
    /// What the rules of the ledger did, by name.
    pub happened: BTreeMap<&'static str, u64>,
    /// Processes that were killed, and machines that lost their power.
    pub ends: [u64; 2],
    /// Members whose machine fails soon after they have started again, of a thousand.
    pub relapse_permille: u64,
    /// Faults that go on, each with what ends it.
    pub faults: Vec<super::faults::Ongoing>,
    /// What goes into blocks instead of the usual work, for tests.
    pub script: Option<Vec<Transaction>>,
}

impl World {
    /// `validators` founders that validate, then `followers` that do not, and `clients`. Members of `twins` are there
    /// twice: the second comes after all others.
    pub fn new(
        seed: u64,
        validators: usize,
        followers: usize,
        clients: usize,
        byzantine: &[(usize, Conduct)],
    ) -> World {
        World::of(seed, &cast::genesis(validators, followers), validators, clients, byzantine)
    }

    fn of(seed: u64, genesis: &Genesis, validators: usize, clients: usize, byzantine: &[(usize, Conduct)]) -> World {
        let mut random = Hash::of(Domain::Lot, &seed.to_le_bytes()).stream();
        let first = cast::first_state(genesis, clients);
        let founders = genesis.founders.len();
        let mut members: Vec<Member> = (0..founders).map(|i| Member::new(i, &first, i < validators)).collect();
        for (member, conduct) in byzantine {
            members[*member].conduct = *conduct;
            if let Conduct::Twin(_) = conduct {
                let mut twin = Member::new(*member, &first, true);
                twin.conduct = Conduct::Twin(1);
                members.push(twin);
            }
        }
        for member in &mut members {
            member.skew_ms = random.below(3000) as i64 - 1500;
        }
        World {
            time: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            network_id: genesis.id(),
            duties: members.iter().map(|_| Duties::default()).collect(),
            wallets: (0..clients)
                .map(Wallet::of_client)
                .chain((0..founders).map(|i| Wallet::of_member(clients, i)))
                .collect(),
            staking: false,
            network: Network::new(members.len()),
            members,
            trace: Trace::default(),
            chain: vec![(first.last_block(), first.root())],
            sets: vec![first.validators().clone()],
            ledger: first,
            doubtful: BTreeMap::new(),
            forged: BTreeSet::new(),
            recent: Vec::new(),
            spending: Spending::default(),
            lives: Lives::default(),
            trials: Trials::default(),
            draws: Draws::default(),
            receipts: Receipts::default(),
            signatures: Signatures::default(),
            transfers: 0,
            rounds_closed: 0,
            highest_round: 0,
            accused: BTreeSet::new(),
            accusations: Vec::new(),
            happened: BTreeMap::new(),
            ends: [0; 2],
            relapse_permille: 0,
            faults: Vec::new(),
            script: None,
            random,
        }
    }

    /// Makes something happen after a delay.
    pub fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.time + delay, self.sequence), event);
    }

    /// Whether something of this probability happens now.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.random.below(1000) < permille
    }

    /// The honest members.
    pub fn honest(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| self.members[*i].is_honest()).collect()
    }

    /// Height of the longest honest chain.
    pub fn height(&self) -> u64 {
        self.chain.len() as u64 - 1
    }

    /// Whether a transaction is in the chain.
    pub fn includes(&self, id: &Hash) -> bool {
        self.spending.height_of(id).is_some()
    }

    /// Starts everybody.
    pub fn start_all(&mut self) -> Result<(), Violation> {
        for member in 0..self.members.len() {
            self.start(member)?;
        }
        for wallet in 0..self.wallets.len() {
            let wait = self.random.below(1000);
            self.at(wait, Event::Wallet(wallet));
        }
        Ok(())
    }

    /// Starts a member on what its disk holds.
    pub fn start(&mut self, i: usize) -> Result<(), Violation> {
        let kept = self.members[i].index.borrow().heads.len() as u64 - 1;
        // The index may be complete, lag behind, or be lost.
        let indexed = if self.chance(500) { kept } else { self.random.below(kept + 1) };
        let member = &mut self.members[i];
        member.life += 1;
        member.wakes = None;
        let life = member.life;
        self.trace.event(self.time, i, "start", &[kept, indexed]);
        let member = &self.members[i];
        let signed: Vec<_> = self.signatures.above(&member.id(), 0).copied().collect();
        let opened = match member.open(self.network_id, indexed, &signed) {
            Ok(opened) => opened,
            Err(_) if member.disk.sprung().is_some() => return self.end_by_trap(i),
            Err(e) => {
                let executes = !matches!(e, StartError::Store(StoreError::Invalid { .. }));
                let invariant = if executes { Invariant::Recovery } else { Invariant::SameState };
                return Err(invariant.broken(format!("member {i} does not start: {e}")));
            }
        };
        let mut participant = opened.participant;
        let height = participant.height();
        if member.is_honest() {
            if member.shown > height {
                let detail = format!("member {i} has shown block {} and starts at {height}", member.shown);
                return Err(Invariant::AcknowledgedSurvives.broken(detail));
            }
            if let Some(ballot) = opened.unguarded {
                let detail = format!("the journal of member {i} lacks {ballot:?}, which has left the node");
                return Err(Invariant::NoDoubleSign.broken(detail));
            }
        }
        let now = member.now(self.time);
        let result = participant.start(now);
        let running = participant.host().state().height() + 1;
        let (round, _) = participant.host().round();
        let remembers = member.is_honest() && !member.forgot;
        let last = signed.iter().filter(|ballot| ballot.height == running).map(|ballot| ballot.round).max();
        self.members[i].running = Some(participant);
        if self.members[i].is_honest() {
            self.observe_unshown(i, height)?;
        }
        if let Err(e) = result {
            return self.failed(i, &e);
        }
        if remembers && last.is_some_and(|last| last > round) {
            let detail = format!("member {i} signed in round {last:?} of height {running} and starts in round {round}");
            return Err(Invariant::Memory.broken(detail));
        }
        for peer in 0..self.members.len() {
            self.connect(i, peer);
        }
        if self.chance(self.relapse_permille) && life > 1 {
            let operations = self.random.below(16);
            let trap = Trap { operations, moment: Moment::Before, end: End::PowerLoss };
            self.members[i].disk.set_trap(Some(trap));
        }
        self.at(1, Event::Duties { member: i, life });
        self.settle(i)
    }

    /// The two have a connection again.
    pub fn connect(&mut self, a: usize, b: usize) {
        if a == b || !self.network.connects(a, b) {
            return;
        }
        for (to, peer) in [(a, b), (b, a)] {
            let (id, now) = (self.members[peer].id(), self.members[to].now(self.time));
            let Some(participant) = &mut self.members[to].running else { continue };
            participant.connected(id, now);
            let (life, wait) = (self.members[to].life, 2 + self.random.below(2 * self.network.delay_ms.max(1)));
            self.at(wait, Event::HeadAnswer { to, life, peer });
        }
    }

    /// Ends a member's life; it starts again after `pause_ms`.
    pub fn end(&mut self, i: usize, end: End, pause_ms: u64) {
        self.trace.event(self.time, i, "end", &[u64::from(end == End::PowerLoss), pause_ms]);
        self.ends[usize::from(end == End::PowerLoss)] += 1;
        let member = &mut self.members[i];
        member.running = None;
        member.life += 1;
        member.disk.end(end, &mut self.random);
        let life = member.life;
        self.duties[i] = Duties::default();
        self.at(pause_ms, Event::Start { member: i, life });
    }

    fn end_by_trap(&mut self, i: usize) -> Result<(), Violation> {
        let end = self.members[i].disk.sprung().unwrap_or(End::Kill);
        let pause = 100 + self.random.below(6000);
        self.end(i, end, pause);
        Ok(())
    }

    fn failed(&mut self, i: usize, error: &ParticipantError) -> Result<(), Violation> {
        self.carry_out(i)?; // what happened before the error did happen
        if self.members[i].disk.sprung().is_some() {
            return self.end_by_trap(i);
        }
        let invariant = match error {
            _ if !self.members[i].is_honest() => {
                // Whoever breaks the rules may break itself; it is of no more use.
                self.members[i].running = None;
                return Ok(());
            }
            ParticipantError::Host(HostError::Fork { .. }) => Invariant::SameState,
            ParticipantError::Host(HostError::Diverged(_)) => Invariant::Memory,
            _ => Invariant::Recovery,
        };
        Err(invariant.broken(format!("member {i} stops: {error}")))
    }

    /// Carries out what a member asks for and lets it do what is due, until nothing is left.
    pub fn settle(&mut self, i: usize) -> Result<(), Violation> {
        loop {
            self.carry_out(i)?;
            let now = self.members[i].now(self.time);
            let Some(participant) = &mut self.members[i].running else { return Ok(()) };
            match participant.settle(now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return self.failed(i, &e),
            }
        }
        let member = &mut self.members[i];
        let Some(participant) = &member.running else { return Ok(()) };
        self.highest_round = self.highest_round.max(participant.host().round().0);
        let wake = participant.next_wake().map(|at| (at.as_millis() as u64).max(self.time + 1));
        if let Some(at) = wake.filter(|at| member.wakes.is_none_or(|known| *at < known || known <= self.time)) {
            member.wakes = Some(at);
            let life = member.life;
            self.at(at - self.time, Event::Wake { member: i, life });
        }
        Ok(())
    }

    fn carry_out(&mut self, i: usize) -> Result<(), Violation> {
        loop {
            let Some(participant) = &mut self.members[i].running else { return Ok(()) };
            let actions = participant.take_actions();
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                self.act(i, action)?;
            }
        }
    }

    fn act(&mut self, i: usize, action: Action) -> Result<(), Violation> {
        match action {
            Action::Publish(Gossip::Consensus { bytes, .. }) => {
                self.check_ballot(i, &bytes)?;
                if self.members[i].is_honest() {
                    self.broadcast(i, Packet::Consensus(bytes));
                } else {
                    byzantine::broadcast(self, i, bytes);
                }
            }
            Action::Publish(Gossip::Transaction { transaction, .. }) => {
                self.broadcast(i, Packet::Transaction(transaction.encode()));
            }
            Action::Publish(Gossip::Head { height, .. }) => self.broadcast(i, Packet::Head(height)),
            Action::AskHead(_) => {} // `connect` has sent the question along
            Action::AskBlocks { first, from } => self.ask_blocks(i, first, from),
            Action::Distrust(peer) => {
                let liar = self.members.iter().any(|member| member.id() == peer && !member.is_honest());
                let detail = || format!("member {i} distrusts {}, who sent what it had", peer.short());
                Invariant::FalselyAccused.check(liar || !self.members[i].is_honest(), detail)?;
            }
            Action::Head(head) => {
                self.on_head(i, &head)?;
                self.do_duties(i);
            }
            Action::Equivocation { height, node } => self.denounce(i, height, node)?,
        }
        Ok(())
    }

    /// A block is final and durable at a member.
    fn on_head(&mut self, i: usize, head: &Head) -> Result<(), Violation> {
        let (block, id) = (&head.block, head.block.id());
        let height = block.header.height;
        self.trace.event(self.time, i, "head", &[height, word(&id), word(&head.state.root())]);
        if !self.members[i].is_honest() {
            return Ok(());
        }
        self.members[i].shown = self.members[i].shown.max(height);
        self.observe(i, block, &head.certificate, &head.events)
    }

    /// An honest member has a block, with the state after it in its index.
    fn observe(
        &mut self,
        i: usize,
        block: &Block,
        certificate: &Certificate,
        events: &[LedgerEvent],
    ) -> Result<(), Violation> {
        let (height, id) = (block.header.height, block.id());
        let state = |height: u64| {
            let index = self.members[i].index.borrow();
            index.heads.get(height as usize).map(|(_, state)| state.clone())
        };
        let (Some(before), Some(after)) = (state(height - 1), state(height)) else {
            // Only a block that is shown before it is stored is not in the index.
            return Ok(());
        };
        invariants::certified(&self.network_id, before.validators(), block, certificate)?;
        if let Some((first, root)) = self.chain.get(height as usize) {
            invariants::one_block(height, first, &id)?;
            return invariants::same_state(height, root, &after.root());
        }
        // The first to have it: members show or bring along one block after another.
        self.chain.push((id, after.root()));
        self.sets.push(after.validators().clone());
        invariants::supply_law(&after)?;
        self.spending.add(block)?;
        invariants::coins_and_confirmations(&before, &after, events)?;
        self.lives.add(events, after.params().ledger.report_percent)?;
        self.trials.add(&before, &after, block, events)?;
        if block.header.reveal.is_some() {
            *self.happened.entry("lots revealed").or_default() += 1;
        }
        self.draws.add(&before, &after, block)?;
        self.receipts.add(&before, &after, block, events)?;
        self.forged.extend(block.transactions.iter().filter_map(|transaction| workload::forgery(&before, transaction)));
        for event in events {
            let LedgerEvent::ChallengeEnded { round, node, forged: true } = event else { continue };
            let guilty = self.forged.contains(&(*round, *node));
            Invariant::Judged.check(guilty, || format!("{} forged nothing in round {round}", node.short()))?;
        }
        for event in events {
            let LedgerEvent::AccusationEnded { node, guilty: true, .. } = event else { continue };
            let guilty = self.members.iter().any(|member| member.id() == *node && !member.works_honestly());
            Invariant::Judged.check(guilty, || format!("{} computed what it signed", node.short()))?;
        }
        for event in events {
            let LedgerEvent::TransferReversed { id, .. } = event else { continue };
            // One node alone is more than half of the seats.
            let wanted = wallets::is_fraud(id) || after.node_count() == 1;
            Invariant::Reversed.check(wanted, || format!("nobody honest wants {id:?} reversed"))?;
        }
        self.ledger = after;
        let is_transfer = |transaction: &&Transaction| matches!(transaction.unsigned.body, Body::Transfer { .. });
        let transfers: Vec<Hash> = block.transactions.iter().filter(is_transfer).map(Transaction::id).collect();
        self.transfers += transfers.len() as u64;
        self.note_transfers(height, transfers);
        for name in events.iter().filter_map(workload::name) {
            *self.happened.entry(name).or_default() += 1;
        }
        self.follow_accusations()?;
        let closes = |event: &&LedgerEvent| matches!(event, LedgerEvent::RoundClosed { .. });
        self.rounds_closed += events.iter().filter(closes).count() as u64;
        let over = self.honest().iter().map(|i| self.members[*i].height()).min().unwrap_or(0);
        self.signatures.finish(over);
        Ok(())
    }

    /// Takes in what a member has in its log and nobody has shown: it failed between the two.
    fn observe_unshown(&mut self, i: usize, upto: u64) -> Result<(), Violation> {
        for height in self.height() + 1..=upto {
            let block = self.members[i].running.as_ref().and_then(|participant| participant.blocks().block(height));
            let before = self.members[i].index.borrow().heads.get(height as usize - 1).map(|(_, state)| state.clone());
            let (Some((block, certificate)), Some(before)) = (block, before) else { continue };
            let events = execute_block(&before, &block).map(|executed| executed.events).unwrap_or_default();
            self.observe(i, &block, &certificate, &events)?;
        }
        Ok(())
    }

    /// Nothing that an honest member signs has a rival or goes against its lock.
    fn check_ballot(&mut self, i: usize, bytes: &[u8]) -> Result<(), Violation> {
        let Ok(Message::Vote(signed) | Message::Proposal(signed, _)) = Message::decode(bytes) else { return Ok(()) };
        let member = &self.members[i];
        if !member.is_honest() {
            self.signatures.saw_prevote(signed.node, &signed.ballot);
            return Ok(());
        }
        if signed.node != member.id() {
            return Ok(());
        }
        let validators = &self.sets[(signed.ballot.height as usize - 1).min(self.sets.len() - 1)];
        self.signatures.add(signed.node, &signed.ballot, validators, !member.forgot)
    }

    /// Sends a packet to everybody.
    pub fn broadcast(&mut self, from: usize, packet: Packet) {
        let packet = Rc::new(packet);
        for to in 0..self.members.len() {
            self.send(from, to, &packet);
        }
    }

    /// Sends a packet to one member.
    pub fn send(&mut self, from: usize, to: usize, packet: &Rc<Packet>) {
        if from == to || !byzantine::hears(self, from, to) {
            return;
        }
        for delay in self.network.send(from, to, &mut self.random) {
            self.at(delay, Event::Arrive { to, from, packet: packet.clone() });
        }
    }

    /// Notes that the prevote of a byzantine member is on its way.
    pub fn saw(&mut self, message: &Message) {
        if let Message::Vote(signed) = message {
            self.signatures.saw_prevote(signed.node, &signed.ballot);
        }
    }

    /// Hands a transaction in at a member, as its owner does.
    pub fn submit(&mut self, i: usize, transaction: &Transaction) -> bool {
        let now = self.members[i].now(self.time);
        let Some(participant) = &mut self.members[i].running else { return false };
        participant.submit(transaction, now).is_ok()
    }

    fn arrive(&mut self, to: usize, from: usize, packet: &Packet) -> Result<(), Violation> {
        let now = self.members[to].now(self.time);
        let (peer, honest) = (self.members[from].id(), self.members[from].is_honest());
        let Some(participant) = &mut self.members[to].running else { return Ok(()) };
        let verdict = match packet {
            Packet::Consensus(bytes) => match Message::decode(bytes) {
                Err(_) => Verdict::Reject,
                Ok(message) => match participant.on_consensus(message, now) {
                    Ok(verdict) => verdict,
                    Err(e) => return self.failed(to, &e),
                },
            },
            Packet::Transaction(bytes) => match Transaction::decode(bytes) {
                Err(_) => Verdict::Reject,
                Ok(transaction) => participant.on_transaction(&transaction, now),
            },
            Packet::Head(height) => participant.on_head(peer, *height, now),
        };
        let reports = honest && self.members[to].is_honest();
        Invariant::FalselyAccused.check(!reports || verdict != Verdict::Reject, || {
            format!("member {to} rejects what member {from} sent: {packet:?}")
        })?;
        self.settle(to)
    }

    fn ask_blocks(&mut self, to: usize, first: Option<NodeId>, from: u64) {
        let mut others: Vec<usize> = (0..self.members.len()).filter(|peer| *peer != to).collect();
        self.random.shuffle(&mut others);
        let first = others.iter().position(|peer| Some(self.members[*peer].id()) == first);
        if let Some(first) = first {
            let peer = others.remove(first);
            others.insert(0, peer);
        }
        others.truncate(TRIES);
        let life = self.members[to].life;
        let wait = 1 + self.random.below(self.network.delay_ms.max(1));
        self.at(wait, Event::AskBlocks { to, life, peers: others, from });
    }

    fn answer_blocks(&mut self, to: usize, mut peers: Vec<usize>, from: u64) {
        let life = self.members[to].life;
        if peers.is_empty() {
            return self.at(1, Event::Blocks { to, life, peer: None, blocks: Vec::new() });
        }
        let peer = peers.remove(0);
        let arrives = byzantine::hears(self, peer, to)
            .then(|| self.network.send(peer, to, &mut self.random).next())
            .flatten()
            .filter(|_| self.members[peer].running.is_some());
        let Some(delay) = arrives else {
            return self.at(ANSWER_MS, Event::AskBlocks { to, life, peers, from });
        };
        let blocks = match byzantine::forged_blocks(self, peer, from) {
            Some(forged) => forged,
            None => {
                let participant = self.members[peer].running.as_ref();
                (from..from + BATCH).map_while(|height| participant?.blocks().block(height)).collect()
            }
        };
        if blocks.is_empty() {
            return self.at(delay, Event::AskBlocks { to, life, peers, from });
        }
        self.at(delay, Event::Blocks { to, life, peer: Some(peer), blocks });
    }

    /// Takes the next event.
    pub fn step(&mut self) -> Result<(), Violation> {
        let Some(((time, _), event)) = self.queue.pop_first() else {
            return Err(Invariant::Liveness.broken("nothing is left to happen"));
        };
        self.time = time;
        match event {
            Event::Arrive { to, from, packet } => {
                let (kind, hash) = match &*packet {
                    Packet::Consensus(bytes) => ("consensus", u64::from(crc32fast::hash(bytes))),
                    Packet::Transaction(bytes) => ("transaction", u64::from(crc32fast::hash(bytes))),
                    Packet::Head(height) => ("heads", *height),
                };
                self.trace.event(time, to, kind, &[from as u64, hash]);
                self.arrive(to, from, &packet)
            }
            Event::Wake { member, life } => {
                if self.members[member].life != life || self.members[member].wakes != Some(time) {
                    return Ok(());
                }
                self.trace.event(time, member, "wake", &[]);
                self.members[member].wakes = None;
                self.settle(member)
            }
            Event::Duties { member, life } => {
                if self.members[member].life != life {
                    return Ok(());
                }
                self.do_duties(member);
                self.at(DUTIES_MS, Event::Duties { member, life });
                self.settle(member)
            }
            Event::HeadAnswer { to, life, peer } => {
                let height = self.members[peer].running.as_ref().map(|participant| participant.height());
                let (id, now) = (self.members[peer].id(), self.members[to].now(time));
                let reaches = self.members[to].life == life && byzantine::hears(self, peer, to);
                if let (Some(height), Some(participant), true) = (height, &mut self.members[to].running, reaches) {
                    participant.claim(id, height, now);
                }
                self.settle(to)
            }
            Event::AskBlocks { to, life, peers, from } => {
                if self.members[to].life == life {
                    self.answer_blocks(to, peers, from);
                }
                Ok(())
            }
            Event::Blocks { to, life, peer, blocks } => {
                if self.members[to].life != life {
                    return Ok(());
                }
                self.trace.event(time, to, "blocks", &[blocks.len() as u64]);
                let (id, now) = (peer.map(|peer| self.members[peer].id()), self.members[to].now(time));
                let Some(participant) = &mut self.members[to].running else { return Ok(()) };
                match participant.synced(id, blocks, now) {
                    Ok(()) => self.settle(to),
                    Err(e) => self.failed(to, &e),
                }
            }
            Event::Start { member, life } => match self.members[member].life == life {
                true => self.start(member),
                false => Ok(()),
            },
            Event::Wallet(wallet) => {
                self.wallet_acts(wallet)?;
                let wait = 100 + self.random.below(600);
                self.at(wait, Event::Wallet(wallet));
                Ok(())
            }
            Event::Again(transaction) => {
                let member = self.random.below(self.members.len() as u64) as usize;
                self.submit(member, &transaction);
                self.settle(member)
            }
            Event::Heal(fault) => self.heal(fault),
        }
    }

    /// Runs until every one of these members has the height; all must within `limit_ms`.
    pub fn run_to(&mut self, members: &[usize], height: u64, limit_ms: u64) -> Result<(), Violation> {
        let until = self.time + limit_ms;
        while members.iter().any(|i| self.members[*i].running.is_none() || self.members[*i].height() < height) {
            if self.time >= until {
                let heights: Vec<u64> = self.members.iter().map(Member::height).collect();
                let detail = format!("heights are {heights:?} after {limit_ms} ms, not {height}");
                return Err(Invariant::Liveness.broken(detail));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Runs for a time.
    pub fn run_for(&mut self, ms: u64) -> Result<(), Violation> {
        let until = self.time + ms;
        while self.queue.first_key_value().is_some_and(|((time, _), _)| *time <= until) {
            self.step()?;
        }
        self.time = until;
        Ok(())
    }

    /// Every honest member holds the chain in its log, block by block, and the state that it leads to.
    pub fn check_chains(&self) -> Result<(), Violation> {
        for i in self.honest() {
            let Some(participant) = &self.members[i].running else { continue };
            for height in 1..=participant.height() {
                let Some((block, certificate)) = participant.blocks().block(height) else {
                    let detail = format!("member {i} has lost block {height}");
                    return Err(Invariant::AcknowledgedSurvives.broken(detail));
                };
                invariants::one_block(height, &self.chain[height as usize].0, &block.id())?;
                invariants::certified(&self.network_id, &self.sets[height as usize - 1], &block, &certificate)?;
            }
            let state: &State = participant.host().state();
            invariants::same_state(state.height(), &self.chain[state.height() as usize].1, &state.root())?;
        }
        Ok(())
    }
}

fn word(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

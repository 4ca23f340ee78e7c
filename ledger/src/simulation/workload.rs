//! What keeps the ledger busy: clients that send transfers and send them again when they see nothing of them, now and
//! then two different ones with one nonce; and what nodes owe the ledger: heartbeats, attestations, and the
//! commits, verdicts and votes of training rounds (of a model that nobody trains).

use super::{HEIGHTS, TRANSFERS, cast, world::World};
use crate::{
    Body, Transaction,
    invariants::Violation,
    state::{Phase, State},
};
use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId,
    contribution::{Contribution, Finding},
    hash::Domain,
};
use std::collections::BTreeMap;

/// Transfers that a client has under way at most.
const UNDER_WAY: u64 = 6;
/// What is not in a block by then is sent again, by clients and nodes.
const AGAIN_MS: u64 = 4_000;

/// Somebody with a wallet.
pub struct Client {
    key: Keypair,
    next: u64,
    /// What was sent with each nonce that is in no block yet, and when it is sent again.
    under_way: BTreeMap<u64, (Vec<Transaction>, u64)>,
}

impl Client {
    /// A client that has sent nothing.
    pub fn new(number: usize) -> Client {
        Client { key: cast::client_key(number), next: 0, under_way: BTreeMap::new() }
    }
}

/// When a node last sent what it owes, by what that was.
#[derive(Default)]
pub struct Duties(BTreeMap<Duty, u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    Heartbeat,
    Attest(u64),
    Contribute(u64),
    Verdict(u64),
    Vote(u64),
}

impl Duties {
    /// Whether this is to be sent now; notes that it is.
    fn due(&mut self, duty: Duty, now: u64) -> bool {
        let due = self.0.get(&duty).is_none_or(|sent| sent + AGAIN_MS <= now);
        if due {
            self.0.insert(duty, now);
        }
        due
    }
}

impl World {
    /// A client looks after its transfers.
    pub fn client_acts(&mut self, number: usize) -> Result<(), Violation> {
        let wallet = *self.clients[number].key.public();
        let next = self.next_nonce(&wallet);
        // As many as the seed asks for, in step with the chain; a little faster, so that nobody waits for them.
        let wanted = TRANSFERS * (self.height() + 2) / (HEIGHTS - 1) + 8;
        let sent: u64 = self.clients.iter().map(|client| client.next).sum();
        let client = &mut self.clients[number];
        client.under_way.retain(|nonce, _| *nonce >= next);
        client.next = client.next.max(next);
        let mut to_send = Vec::new();
        for (transactions, again) in client.under_way.values_mut().filter(|(_, again)| *again <= self.time) {
            *again = self.time + AGAIN_MS;
            to_send.extend(transactions.iter().cloned());
        }
        let under_way = client.under_way.len() as u64;
        if under_way < UNDER_WAY && sent < wanted && self.script.is_none() {
            let nonce = client.next;
            client.next += 1;
            let rivals = 1 + u64::from(self.chance(40));
            let transactions: Vec<Transaction> = (0..rivals).map(|_| self.transfer(number, nonce)).collect();
            to_send.extend(transactions.iter().cloned());
            self.clients[number].under_way.insert(nonce, (transactions, self.time + AGAIN_MS));
        }
        // A transfer that is in a block already is sent again now and then, as by a client that missed it.
        for transaction in to_send {
            let member = self.random.below(self.members.len() as u64) as usize;
            self.submit(member, &transaction);
            self.settle(member)?;
            if self.chance(50) {
                let late = 500 + self.random.below(3000);
                self.at(late, super::world::Event::Again(Box::new(transaction)));
            }
        }
        Ok(())
    }

    fn transfer(&mut self, number: usize, nonce: u64) -> Transaction {
        let other = (number as u64 + 1 + self.random.below(self.clients.len().max(2) as u64 - 1)) as usize;
        let to = Address::from(cast::client_key(other % self.clients.len().max(2)).public());
        let amount = Amount(1 + self.random.below(1_000_000));
        let body = Body::Transfer { to, amount, memo: String::new() };
        let time_ms = cast::GENESIS_MS + self.time;
        Transaction::sign(&self.network_id, &self.clients[number].key, nonce, time_ms, body)
    }

    /// A member sends what it owes the ledger after its last block.
    pub fn do_duties(&mut self, i: usize) {
        let now = self.time;
        let member = &self.members[i];
        let Some(participant) = &member.running else { return };
        let (state, key, clock_ms) = (participant.host().state().clone(), member.key.clone(), member.now(now).clock_ms);
        let bodies = match &self.script {
            Some(_) => Vec::new(),
            None => owed(&state, key.public(), member.is_honest(), &mut self.duties[i], now),
        };
        let mut transactions: Vec<Transaction> =
            bodies.into_iter().map(|body| Transaction::sign(&self.network_id, &key, 0, clock_ms, body)).collect();
        transactions.extend(self.script.iter().flatten().filter(|t| !self.includes(&t.id())).cloned());
        for transaction in &transactions {
            self.submit(i, transaction); // what is refused now is owed again later
        }
    }
}

/// What a node owes now.
fn owed(state: &State, node: &NodeId, honest: bool, duties: &mut Duties, now: u64) -> Vec<Body> {
    let mut bodies = Vec::new();
    let params = state.params();
    if let Some(entry) = state.node(node) {
        let age = state.age_ms().saturating_sub(entry.seen_age);
        let due = age >= params.ledger.heartbeat_ms || entry.heartbeat_time_ms == 0 || entry.missed || entry.lapsed;
        if due && duties.due(Duty::Heartbeat, now) {
            bodies.push(Body::Heartbeat { trains: true });
        }
    }
    for height in state.pending_blocks() {
        // Whoever breaks the rules attests as often as it is let.
        if state.may_attest(node, height) && (!honest || duties.due(Duty::Attest(height), now)) {
            bodies.push(Body::Attest { height, except: Vec::new() });
        }
    }
    let round = state.round();
    let votes = round.power.power(node) > 0;
    match round.phase {
        Phase::Train if !round.contributions.contains_key(node) => {
            if let Some(slot) = round.slot(node).filter(|_| duties.due(Duty::Contribute(round.number), now)) {
                bodies.push(Body::Contribute(Contribution {
                    round: round.number,
                    base_root: round.base_root,
                    payload: Hash::of_parts(Domain::Blob, &[&node.0, &round.number.to_le_bytes()]),
                    payload_bytes: 1000,
                    tokens: params.training.tokens_per_round(),
                    steps: params.training.inner_steps,
                    slot,
                    loss_first: 3_000_000,
                    loss_last: 2_000_000,
                    class: Hash::ZERO,
                }));
            }
        }
        Phase::Verify if votes && !round.verdicts.contains(node) && duties.due(Duty::Verdict(round.number), now) => {
            let measures = round.committee.contains(node);
            let loss = |other: &NodeId| 2_000_000 - round.number * 10_000 + u64::from(other.0[0]);
            let finding = |n: &NodeId| Finding { node: *n, valid: true, loss: measures.then(|| loss(n)) };
            let findings = round.contributions.keys().map(finding).collect();
            bodies.push(Body::Verdict { round: round.number, findings });
        }
        Phase::Vote if votes && !round.votes.contains_key(node) && duties.due(Duty::Vote(round.number), now) => {
            let root = Hash::of_parts(Domain::ModelChunk, &[&round.base_root.0, &round.number.to_le_bytes()]);
            bodies.push(Body::ModelVote { round: round.number, root, loss: 2_000_000 - round.number * 10_000 });
        }
        _ => {}
    }
    bodies
}

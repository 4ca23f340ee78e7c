//! What nodes owe the ledger: heartbeats, attestations, the commits, verdicts and votes of training rounds (of a model
//! that nobody trains), and judgements of what is challenged. Nodes doubt some transfers, and except them when they
//! attest. Whoever breaks the rules forges every second contribution, which passes as valid until it is replayed, and
//! judges falsely.

use super::{
    stages,
    world::{Packet, World},
};
use crate::{
    Body, Transaction,
    lots::LotChain,
    state::{Event, Outcome, Phase, Round, State},
};
use ailo_protocol::{
    Hash, Keypair, NodeId,
    contribution::{Contribution, Finding, trace_commitment},
    hash::Domain,
};
use std::collections::BTreeMap;

/// What is not in a block by then is sent again.
const AGAIN_MS: u64 = 4_000;

/// When a node last sent what it owes, by what that was.
#[derive(Default)]
pub struct Duties(BTreeMap<Duty, u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    Heartbeat,
    Lots,
    Attest(u64),
    Contribute(u64),
    Verdict(u64),
    Vote(u64),
    Replay(u64, NodeId),
    Judge(u64, NodeId),
    JudgeStage(Hash),
    Claim(u64),
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
    /// A member sends what it owes the ledger after its last block.
    pub fn do_duties(&mut self, i: usize) {
        let now = self.time;
        let member = &self.members[i];
        let Some(participant) = &member.running else { return };
        let (state, key, clock_ms) = (participant.host().state().clone(), member.key.clone(), member.now(now).clock_ms);
        let bodies = match &self.script {
            Some(_) => Vec::new(),
            None => {
                let knows = Knowledge {
                    honest: member.works_honestly(),
                    perjures: !member.is_honest(),
                    doubtful: &self.doubtful,
                };
                let mut bodies = owed(&state, &key, knows, &mut self.duties[i], now);
                if self.duties[i].due(Duty::Claim(state.height()), now) {
                    bodies.extend(self.claims(i, &state));
                }
                bodies
            }
        };
        let mut transactions: Vec<Transaction> =
            bodies.into_iter().map(|body| Transaction::sign(&self.network_id, &key, 0, clock_ms, body)).collect();
        transactions.extend(self.script.iter().flatten().filter(|t| !self.includes(&t.id())).cloned());
        for transaction in &transactions {
            match &transaction.unsigned.body {
                // Its own program would keep it back, and accuse it.
                Body::Attest { except, .. } if *except == RIVAL => {
                    self.broadcast(i, Packet::Transaction(transaction.encode()));
                }
                _ => drop(self.submit(i, transaction)), // what is refused now is owed again later
            }
        }
    }
}

/// What a node goes by, beside the ledger.
struct Knowledge<'a> {
    /// Whether it trains and judges by the rules.
    honest: bool,
    /// Whether it attests as it likes.
    perjures: bool,
    doubtful: &'a BTreeMap<u64, Vec<Hash>>,
}

/// What a rival attestation excepts: no transfer that there is.
const RIVAL: [Hash; 1] = [Hash([7; 32])];
/// The determinism class of all machines.
const CLASS: Hash = Hash([3; 32]);

/// The trace of a node's training.
fn trace(node: &NodeId, round: u64) -> Hash {
    Hash::of_parts(Domain::Training, &[&node.0, &round.to_le_bytes()])
}

/// What a node hands in for its slot of a round: its work, or something else that looks like it.
fn contribution(state: &State, node: &NodeId, round: &Round, slot: u32, forged: bool) -> Contribution {
    let training = &state.params().training;
    let hash = |what: &[u8]| Hash::of_parts(Domain::Blob, &[what, &node.0, &round.number.to_le_bytes()]);
    Contribution {
        round: round.number,
        base_root: round.base_root,
        payload: hash(b"payload"),
        payload_bytes: 1000,
        update: hash(if forged { b"another update" } else { b"update" }),
        trace: trace_commitment(node, &trace(node, round.number)),
        tokens: training.tokens_per_round(),
        steps: training.inner_steps,
        slot,
        loss_first: 3_000_000,
        loss_last: 2_000_000,
        class: CLASS,
    }
}

/// What a replay of a node's slot in a round gives.
fn replay(state: &State, node: &NodeId, round: &Round) -> Option<Hash> {
    Some(contribution(state, node, round, round.slot(node)?, false).result())
}

/// The round and maker of what a transaction contributes, if it is not the work that it should be.
pub fn forgery(before: &State, transaction: &Transaction) -> Option<(u64, NodeId)> {
    let (maker, body) = (transaction.unsigned.signer, &transaction.unsigned.body);
    let Body::Contribute(made) = body else { return None };
    (replay(before, &maker, before.round()) != Some(made.result())).then_some((made.round, maker))
}

/// What a node owes now.
fn owed(state: &State, key: &Keypair, knows: Knowledge<'_>, duties: &mut Duties, now: u64) -> Vec<Body> {
    let Knowledge { honest, perjures, doubtful } = knows;
    let node = key.public();
    let mut bodies = Vec::new();
    let params = state.params();
    if let Some(entry) = state.node(node) {
        let age = state.age_ms().saturating_sub(entry.seen_age);
        let due = age >= params.ledger.heartbeat_ms || entry.heartbeat_time_ms == 0 || entry.missed || entry.lapsed;
        if due && duties.due(Duty::Heartbeat, now) {
            bodies.push(Body::Heartbeat { trains: true, class: CLASS });
        }
    }
    if state.may_commit_lots(node) && duties.due(Duty::Lots, now) {
        let number = state.height();
        let tip = LotChain::derive(&state.network(), key, number, params.ledger.lot_chain).tip();
        bodies.push(Body::CommitLots { number, tip });
    }
    for height in state.pending_blocks() {
        // Whoever breaks the rules attests all that it is let, as often as it is let.
        if perjures && state.may_attest(node, height) {
            bodies.push(Body::Attest { height, except: Vec::new() });
            // Now and then it attests the same block in another way too; always, if it does nothing else.
            if honest || height % 16 == 3 {
                bodies.push(Body::Attest { height, except: RIVAL.to_vec() });
            }
        }
        // All of the block's doubtful ones, also those that have ended: what a node signs of a block is always the same.
        let Some(except) = doubtful.get(&height).cloned() else { continue };
        let left = || state.inclusion(height).is_some_and(|i| i.transfers.iter().any(|id| !except.contains(id)));
        if !perjures && left() && state.may_attest(node, height) && duties.due(Duty::Attest(height), now) {
            bodies.push(Body::Attest { height, except });
        }
    }
    let round = state.round();
    let votes = round.power.power(node) > 0;
    match round.phase {
        Phase::Train if !round.contributions.contains_key(node) => {
            if let Some(slot) = round.slot(node).filter(|_| duties.due(Duty::Contribute(round.number), now)) {
                let forged = !honest && round.number % 2 == 1;
                bodies.push(Body::Contribute(contribution(state, node, round, slot, forged)));
            }
        }
        Phase::Verify if votes && !round.verdicts.contains(node) && duties.due(Duty::Verdict(round.number), now) => {
            let measures = round.committee.contains(node);
            let loss = |other: &NodeId| 2_000_000 - round.number * 10_000 + u64::from(other.0[0]);
            let finding = |n: &NodeId| Finding {
                node: *n,
                valid: true,
                suspect: false,
                own: None,
                loss: measures.then(|| loss(n)),
            };
            let findings = round.contributions.keys().map(finding).collect();
            bodies.push(Body::Verdict { round: round.number, findings });
        }
        Phase::Vote if votes && !round.votes.contains_key(node) && duties.due(Duty::Vote(round.number), now) => {
            let root = Hash::of_parts(Domain::ModelChunk, &[&round.base_root.0, &round.number.to_le_bytes()]);
            bodies.push(Body::ModelVote { round: round.number, root, loss: 2_000_000 - round.number * 10_000 });
        }
        _ => {}
    }
    for (number, maker, drawn) in state.replays() {
        if drawn.replayer != Some(*node) || drawn.outcome.is_some() {
            continue;
        }
        let Some(round) = state.past_round(number) else { continue };
        let claimed = round.contributions.get(&maker).map(|commit| commit.contribution.result());
        let same = replay(state, &maker, round) == claimed;
        // Whoever lies vouches for forgeries, whose makers tell it the trace, and accuses honest work or is silent.
        let says = if honest == same { Some(Some(trace(&maker, number))) } else { Some(None) };
        let says = says.filter(|_| honest || number % 2 == 0);
        if let Some(trace) = says.filter(|_| duties.due(Duty::Replay(number, maker), now)) {
            bodies.push(Body::Replayed { round: number, node: maker, trace });
        }
    }
    for (number, maker, challenge) in state.challenges() {
        let owes = challenge.power.power(node) > 0 && !challenge.judged.contains(node);
        let Some(truth) = state.past_round(number).and_then(|round| replay(state, &maker, round)) else { continue };
        if owes && duties.due(Duty::Judge(number, maker), now) {
            // Whoever lies shields forgeries, and calls honest work one.
            let lie = if truth == challenge.claimed { Hash::ZERO } else { challenge.claimed };
            bodies.push(Body::Judge { round: number, node: maker, found: if honest { truth } else { lie } });
        }
    }
    for accusation in state.accusations() {
        let (accused, charge) = (accusation.charge.signed.node, accusation.charge.id());
        let trial = &accusation.trial;
        let owes = trial.power.power(node) > 0 && !trial.judged.contains(node);
        if owes && duties.due(Duty::JudgeStage(charge), now) {
            let truth = stages::found(&accusation.charge);
            let lie = if truth == trial.claimed { Hash::ZERO } else { trial.claimed };
            bodies.push(Body::JudgeStage { node: accused, charge, found: if honest { truth } else { lie } });
        }
    }
    bodies
}

/// What is counted of what happens on the ledger.
pub fn name(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::TransferConfirmed { .. } => "confirmed",
        Event::TransferRefunded { .. } => "refunded",
        Event::TransferFinal { .. } => "final",
        Event::TransferReversed { .. } => "reversed",
        Event::TransferReported { .. } => "reports",
        Event::ReportWithdrawn { .. } => "reports withdrawn",
        Event::ReportForfeited { .. } => "bonds forfeited",
        Event::DebtPaid { .. } => "debts paid",
        Event::Staked { .. } => "stakes",
        Event::Unstaked { .. } => "unstakes",
        Event::Unbonded { .. } => "unbonded",
        Event::Slashed { .. } => "slashes",
        Event::Unjailed { .. } => "unjailed",
        Event::Challenged { .. } => "challenges",
        Event::ChallengeEnded { forged: true, .. } => "forgeries found",
        Event::ChallengeEnded { forged: false, .. } => "challenges dismissed",
        Event::Accused { .. } => "accusations",
        Event::AccusationEnded { guilty: true, .. } => "stages convicted",
        Event::AccusationEnded { guilty: false, .. } => "stages acquitted",
        Event::Replayed { same: true, .. } => "clean replays",
        Event::Replayed { same: false, .. } => "accusing replays",
        Event::ReplayDecided { outcome: Outcome::Disowned, .. } => "works disowned",
        Event::ReplayDecided { outcome: Outcome::Unseen, .. } => "works unseen",
        Event::RoundSettled { .. } => "rounds settled",
        Event::ValidatorsChanged { .. } => "changes of the validators",
        Event::Recovered { .. } => "recoveries",
        Event::UsernameChanged { .. } => "user names",
        Event::Voted { .. } => "votes",
        Event::Counted { .. } => "polls",
        Event::Activated { .. } => "changed parameters",
        Event::LotsCommitted { .. } => "chains of lots",
        Event::Deposited { .. } => "deposits",
        Event::DepositReturned { .. } => "deposits returned",
        Event::ReceiptPaid { .. } => "receipts paid",
        Event::MarketPrice { .. } => "prices",
        _ => return None,
    })
}

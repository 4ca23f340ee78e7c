//! Trouble on purpose: validators killed with -9 at seeded random times or at the steps of a round in turn, and transfers that are
//! sent meanwhile and must all still be there at the end.

use super::{checks::holds, net::Net};
use crate::{error::NodeError, output::say, rpc::types::*};
use ailo_ledger::{Body, state::Phase as RoundPhase};
use ailo_protocol::{Address, Amount, Hash, hash::Domain, hash::Stream};
use serde_json::json;
use std::time::{Duration, Instant};

/// A killed node must be back at the others' height within this time of its restart.
const CATCH_UP: Duration = Duration::from_secs(60);
/// While one node is dead, the others must make a block within this time.
const PROGRESS: Duration = Duration::from_secs(60);
/// A step of a round that is not seen within this time is passed over.
const STEP_COMES: Duration = Duration::from_secs(10);
/// A phase may last so much longer than its deadline: until the next block is made, by others if its proposer is dead, and
/// seen here.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// A step of a round, and whether a node is there.
type Step = (&'static str, fn(&RoundStatus) -> bool);

/// Where nodes are killed in turn. Gathering lasts no longer than a block, unless somebody is missing.
const STEPS: [Step; 7] = [
    ("the round gathers", |round| round.phase == "gather"),
    ("its training begins", |round| round.phase == "train" && 4 * round.step < round.steps),
    ("its training is half done", |round| {
        round.phase == "train" && (round.steps / 2..round.steps).contains(&round.step)
    }),
    ("it has trained", |round| round.phase == "train" && round.step == round.steps),
    ("the committee is drawn", |round| round.phase == "draw"),
    ("it verifies", |round| round.phase == "verify"),
    ("it votes", |round| round.phase == "vote"),
];

enum Phase {
    /// All run; the next kill comes at this time.
    Calm { until: Instant },
    /// A node is dead; it restarts at this time, once the others have made a block above `height`.
    Dead { node: usize, until: Instant, height: u64, since: Instant },
    /// A node was restarted and catches up.
    Rejoining { node: usize, since: Instant },
}

/// Kills one validator after the other.
pub struct Faults {
    left: u32,
    done: u32,
    random: Stream,
    validators: u32,
    phase: Phase,
    slowest: Duration,
    /// Kills at each of [`STEPS`], if that is asked for.
    at_steps: Option<[u32; STEPS.len()]>,
    /// The step that is waited for.
    turn: usize,
    phases: Phases,
}

/// The phases of rounds as they pass, and by how much one lasted longer than its deadline.
#[derive(Default)]
struct Phases {
    now: Option<(u64, RoundPhase, Instant, Duration)>,
    seen: u32,
    late: Duration,
}

impl Phases {
    fn see(&mut self, view: &RoundView) -> Result<(), NodeError> {
        let (number, phase) = (view.round.number, view.round.phase);
        let allowed = Duration::from_millis(view.round.deadline_age.saturating_sub(view.round.phase_age));
        if let Some((last, before, since, allowed)) = self.now {
            // Nobody is obliged to take part, so gathering has no end.
            let over = since.elapsed().saturating_sub(allowed);
            if before != RoundPhase::Gather && over > SEEN_WITHIN {
                let text = format!("round {last} stalls: {before} is {:.1} s over its deadline", over.as_secs_f64());
                return Err(NodeError::Check(text));
            }
            if (last, before) == (number, phase) {
                return Ok(());
            }
            self.seen += 1;
            if before != RoundPhase::Gather {
                self.late = self.late.max(over);
            }
        }
        self.now = Some((number, phase, Instant::now(), allowed));
        Ok(())
    }
}

fn stream(seed: u64, name: &str) -> Stream {
    Hash::of_parts(Domain::Lot, &[name.as_bytes(), &seed.to_le_bytes()]).stream()
}

fn top(statuses: &[Option<At<Status>>], except: usize) -> u64 {
    let others = statuses.iter().enumerate().filter(|(i, _)| *i != except);
    others.filter_map(|(_, s)| s.as_ref().map(|s| s.height)).max().unwrap_or(0)
}

impl Faults {
    /// `kills` of them, of nodes and at times that `seed` decides, or at the steps of a round in turn.
    pub fn new(kills: u32, seed: u64, validators: u32, at_steps: bool) -> Faults {
        let mut random = stream(seed, "kills");
        let until = Instant::now() + Duration::from_millis(8_000 + random.below(4_000));
        if kills > 0 {
            eprintln!("{kills} kills with seed {seed}");
        }
        let at_steps = at_steps.then_some([0; STEPS.len()]);
        let (phase, slowest) = (Phase::Calm { until }, Duration::ZERO);
        Faults {
            left: kills,
            done: 0,
            random,
            validators,
            phase,
            slowest,
            at_steps,
            turn: 0,
            phases: Phases::default(),
        }
    }

    /// Whether every kill is done and survived.
    pub fn done(&self) -> bool {
        self.left == 0 && matches!(self.phase, Phase::Calm { .. })
    }

    /// Does what is due, and checks what is owed by now.
    pub async fn step(&mut self, net: &mut Net, statuses: &[Option<At<Status>>]) -> Result<(), NodeError> {
        let now = Instant::now();
        if self.at_steps.is_some() {
            self.watch(net, statuses).await?;
        }
        match self.phase {
            Phase::Calm { until } if self.left > 0 && now >= until => {
                let node = self.random.below(u64::from(self.validators)) as usize;
                if !self.is_the_moment(node, statuses, now - until) {
                    return Ok(());
                }
                let height = top(statuses, node);
                net.kill(node).await?;
                self.left -= 1;
                // Within a round or two, if it is about steps of rounds.
                let longest = if self.at_steps.is_some() { 1_500 } else { 4_000 };
                let until = now + Duration::from_millis(500 + self.random.below(longest));
                self.phase = Phase::Dead { node, until, height, since: now };
            }
            Phase::Dead { node, until, height, since } => {
                let progressed = top(statuses, node) > height;
                if progressed && now >= until {
                    net.start(node)?;
                    self.phase = Phase::Rejoining { node, since: now };
                } else if !progressed && since.elapsed() > PROGRESS && self.validators > 3 {
                    return Err(NodeError::Check(format!("the others made no block while node {node} was dead")));
                } else if self.validators <= 3 && now >= until {
                    // Three or fewer cannot go on without one; it only has to come back.
                    net.start(node)?;
                    self.phase = Phase::Rejoining { node, since: now };
                }
            }
            Phase::Rejoining { node, since } => {
                let here = statuses[node].as_ref().map_or(0, |s| s.height);
                if here > 0 && here + 2 >= top(statuses, node) {
                    self.done += 1;
                    self.slowest = self.slowest.max(since.elapsed());
                    let longest = if self.at_steps.is_some() { 500 } else { 6_000 };
                    let until = now + Duration::from_millis(longest / 6 + self.random.below(longest));
                    self.phase = Phase::Calm { until };
                } else if since.elapsed() > CATCH_UP {
                    return Err(NodeError::Check(format!(
                        "node {node} did not catch up within {} s: at height {here} of {}",
                        CATCH_UP.as_secs(),
                        top(statuses, node)
                    )));
                }
            }
            Phase::Calm { .. } => {}
        }
        Ok(())
    }

    /// Whether a node is at the step whose turn it is; none is waited for without end.
    fn is_the_moment(&mut self, node: usize, statuses: &[Option<At<Status>>], waited: Duration) -> bool {
        let Some(kills) = &mut self.at_steps else { return true };
        let (_, is_there) = STEPS[self.turn];
        let there = statuses[node].as_ref().is_some_and(|status| is_there(&status.value.round));
        if there {
            kills[self.turn] += 1;
        }
        if there || waited > STEP_COMES {
            self.turn = (self.turn + 1) % STEPS.len();
        }
        if waited > STEP_COMES {
            self.phase = Phase::Calm { until: Instant::now() };
        }
        there
    }

    /// Looks at the round through a node that runs.
    async fn watch(&mut self, net: &mut Net, statuses: &[Option<At<Status>>]) -> Result<(), NodeError> {
        let furthest = (0..statuses.len()).max_by_key(|i| statuses[*i].as_ref().map_or(0, |status| status.height));
        let Some(client) = furthest.and_then(|node| net.client(node)) else { return Ok(()) };
        match client.round(None).await {
            Ok(Some(At { value: view, .. })) => self.phases.see(&view),
            _ => Ok(()), // it has just died
        }
    }

    /// How often to look.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(if self.at_steps.is_some() { 25 } else { 300 })
    }

    /// Says what was done.
    pub fn report(&self) -> Result<(), NodeError> {
        if let Some(kills) = self.at_steps {
            let each: Vec<String> =
                STEPS.iter().zip(kills).map(|((step, _), kills)| format!("{kills} when {step}")).collect();
            say(&json!({ "kills": each }), format_args!("kills: {}", each.join(", ")))?;
            let late = self.phases.late.as_secs_f64();
            holds(format!(
                "of {} phases of rounds none lasted more than {late:.1} s beyond its deadline",
                self.phases.seen
            ))?;
        }
        if self.done > 0 {
            let slowest = self.slowest.as_secs_f64();
            holds(format!("the network survived {} kills (slowest return {slowest:.1} s)", self.done))?;
        }
        Ok(())
    }
}

struct Sent {
    id: Hash,
    /// Height of the final block that a node said it stands in.
    acknowledged: Option<u64>,
}

/// Small transfers from node to node.
pub struct Transfers {
    sent: Vec<Sent>,
    random: Stream,
    next: Instant,
}

impl Transfers {
    /// None yet; `seed` decides who sends to whom.
    pub fn new(seed: u64) -> Transfers {
        Transfers { sent: Vec::new(), random: stream(seed, "transfers"), next: Instant::now() }
    }

    /// Sends one a second where a wallet can pay for it, and notes what was acknowledged.
    pub async fn step(&mut self, net: &mut Net, statuses: &[Option<At<Status>>]) {
        for sent in self.sent.iter_mut().filter(|s| s.acknowledged.is_none()) {
            for i in 0..net.nodes.len() {
                let Some(client) = net.client(i) else { continue };
                if let Ok(seen) = client.transaction(&sent.id).await {
                    sent.acknowledged = seen.value.block_height;
                    break;
                }
            }
        }
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Duration::from_secs(1);
        let n = net.nodes.len() as u64;
        let (from, to) = (self.random.below(n) as usize, self.random.below(n) as usize);
        let amount = Amount(1_000 + self.random.below(1_000_000));
        let enough = statuses[from].as_ref().is_some_and(|s| s.value.account.free > Amount(20_000_000));
        if from == to || !enough {
            return;
        }
        let to = Address::from(net.nodes[to].wallet.public());
        let key = net.nodes[from].wallet.clone();
        let Some(client) = net.client(from) else { return };
        let body = Body::Transfer { to, amount, memo: format!("localnet {}", self.sent.len()) };
        // A node that dies meanwhile, or a nonce that is already taken, refuses: then nothing was promised.
        if let Ok(transaction) = crate::commands::sign(&client, &key, body).await
            && let Ok(id) = client.submit(&transaction).await
        {
            self.sent.push(Sent { id, acknowledged: None });
        }
    }

    /// Every transfer that any node acknowledged stands in the same block of every node, once all are at that height.
    pub async fn check(&self, net: &mut Net) -> Result<(), NodeError> {
        let acknowledged: Vec<(Hash, u64)> = self.sent.iter().filter_map(|s| Some((s.id, s.acknowledged?))).collect();
        let last = acknowledged.iter().map(|(_, height)| *height).max().unwrap_or(0);
        let there = |all: &[Option<At<Status>>]| all.iter().all(|s| s.as_ref().is_some_and(|s| s.height >= last));
        net.wait_until(&format!("every node reaches height {last}"), CATCH_UP, there).await?;
        for (id, height) in &acknowledged {
            for i in 0..net.nodes.len() {
                let client = net.client(i).ok_or_else(|| NodeError::Check(format!("node {i} does not answer")))?;
                let lost = |e| NodeError::Check(format!("node {i} lost the acknowledged transaction {id}: {e}"));
                let here = client.transaction(id).await.map_err(lost)?.value.block_height;
                if here != Some(*height) {
                    return Err(NodeError::Check(format!(
                        "transaction {id} was acknowledged in block {height}, and stands in {here:?} at node {i}"
                    )));
                }
            }
        }
        let (kept, sent) = (acknowledged.len(), self.sent.len());
        holds(format!("all {kept} acknowledged transfers (of {sent} sent) are in every node's ledger"))
    }
}

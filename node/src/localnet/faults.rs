//! Trouble on purpose: validators killed with -9 at seeded random times, and transfers that are sent meanwhile and must
//! all still be there at the end.

use super::net::Net;
use crate::{error::NodeError, rpc::types::*};
use ailo_ledger::Body;
use ailo_protocol::{Address, Amount, Hash, hash::Domain, hash::Stream};
use std::time::{Duration, Instant};

/// A killed node must be back at the others' height within this time of its restart.
const CATCH_UP: Duration = Duration::from_secs(60);
/// While one node is dead, the others must make a block within this time.
const PROGRESS: Duration = Duration::from_secs(60);

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
}

fn stream(seed: u64, name: &str) -> Stream {
    Hash::of_parts(Domain::Lot, &[name.as_bytes(), &seed.to_le_bytes()]).stream()
}

fn top(statuses: &[Option<At<Status>>], except: usize) -> u64 {
    let others = statuses.iter().enumerate().filter(|(i, _)| *i != except);
    others.filter_map(|(_, s)| s.as_ref().map(|s| s.height)).max().unwrap_or(0)
}

impl Faults {
    /// `kills` of them, at times and of nodes that `seed` decides.
    pub fn new(kills: u32, seed: u64, validators: u32) -> Faults {
        let mut random = stream(seed, "kills");
        let until = Instant::now() + Duration::from_millis(8_000 + random.below(4_000));
        if kills > 0 {
            println!("{kills} kills with seed {seed}");
        }
        Faults { left: kills, done: 0, random, validators, phase: Phase::Calm { until }, slowest: Duration::ZERO }
    }

    /// Whether every kill is done and survived.
    pub fn done(&self) -> bool {
        self.left == 0 && matches!(self.phase, Phase::Calm { .. })
    }

    /// Does what is due, and checks what is owed by now.
    pub async fn step(&mut self, net: &mut Net, statuses: &[Option<At<Status>>]) -> Result<(), NodeError> {
        let now = Instant::now();
        match self.phase {
            Phase::Calm { until } if self.left > 0 && now >= until => {
                let node = self.random.below(u64::from(self.validators)) as usize;
                let height = top(statuses, node);
                net.kill(node).await?;
                self.left -= 1;
                let until = now + Duration::from_millis(500 + self.random.below(4_000));
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
                    let until = now + Duration::from_millis(1_000 + self.random.below(5_000));
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

    /// Says what was done.
    pub fn report(&self) {
        if self.done > 0 {
            println!(
                "holds: the network survived {} kills (slowest return {:.1} s)",
                self.done,
                self.slowest.as_secs_f64()
            );
        }
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
        println!("holds: all {kept} acknowledged transfers (of {sent} sent) are in every node's ledger");
        Ok(())
    }
}

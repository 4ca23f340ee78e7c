//! Whole networks in one thread: the daemon's own state machine, consensus, mempool, block sync and logs, over a virtual
//! clock, a virtual network and virtual disks. A seed decides everything that happens, so what it finds can be looked
//! at again. `docs/simulation.md` says what is real, what is virtual, and what was found with it.
//!
//! A seed is at least [`HEIGHTS`] blocks, [`TRANSFERS`] transfers and [`FAULTS`] faults. Then everything is healed, and
//! all must go on. The claims that are checked on the way are those of [`crate::invariants`].

mod accusations;
mod byzantine;
mod cast;
mod disk;
mod faults;
mod member;
mod network;
mod receipts;
mod stages;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;
mod wallets;
mod workload;
mod world;

pub use faults::Kind;
pub use sweep::{Summary, sweep};

use crate::{
    invariants::{Invariant, Violation},
    plants::{self, Plant},
};
use ailo_protocol::{Hash, NodeId, keys};
use member::Conduct;
use std::collections::{BTreeMap, BTreeSet};
use world::World;

/// Blocks of a seed, at least.
pub const HEIGHTS: u64 = 30;
/// Transfers of a seed, at least.
pub const TRANSFERS: u64 = 100;
/// Faults of a seed, at least.
pub const FAULTS: u64 = 3;
/// Clients that send transfers.
const CLIENTS: usize = 8;
/// Blocks that everybody must get beyond what there was when the faults were over.
const MORE: u64 = 3;
/// Virtual time in which that must happen, and in which the faults must be over.
const LIVENESS_MS: u64 = 600_000;
const FAULTS_MS: u64 = 3_600_000;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Founders that validate.
    pub validators: usize,
    /// Validators that break the rules; drawn by the seed, within what the network tolerates, when it is not said.
    pub byzantine: Option<usize>,
    /// A fault in the program, if this build has them.
    pub plant: Option<Plant>,
}

/// What a seed did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// All that happened, in one hash.
    pub trace: Hash,
    /// Events.
    pub events: u64,
    /// Blocks.
    pub heights: u64,
    /// Transfers included.
    pub transfers: u64,
    /// Training rounds closed.
    pub rounds: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Processes killed and machines without power, whatever fault did it.
    pub ends: [u64; 2],
    /// What the rules of the ledger did, by name.
    pub happened: BTreeMap<&'static str, u64>,
    /// Validators that broke the rules, and those of them whose rival ballots were seen.
    pub byzantine: BTreeSet<NodeId>,
    /// Those of them that an honest node saw sign two rival ballots.
    pub reported: BTreeSet<NodeId>,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Signatures verified, and those known to be good because they had been.
    pub signatures: keys::Verified,
    /// What does not hold.
    pub violation: Option<Violation>,
}

/// Validators that `validators` of equal power tolerate.
pub fn tolerated(validators: usize) -> usize {
    validators.saturating_sub(1) / 3
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    plants::plant(options.plant);
    let (outcome, signatures) = keys::remembering(|| run_here(seed, options));
    plants::plant(None);
    Outcome { signatures, ..outcome }
}

fn run_here(seed: u64, options: &Options) -> Outcome {
    let mut run = Run::new(seed, options);
    // A panic is a finding like any other: an assertion of the ledger, or worse.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.play()));
    let violation = caught.map_err(|panic| from_panic(panic.as_ref())).and_then(|result| result).err();
    let world = run.world;
    let byzantine = world.members.iter().filter(|member| !member.is_honest()).map(|member| member.id());
    Outcome {
        seed,
        trace: world.trace.hash(),
        events: world.trace.events(),
        heights: world.height(),
        transfers: world.transfers,
        rounds: world.rounds_closed,
        byzantine: byzantine.collect(),
        reported: world.accused.clone(),
        faults: run.faults,
        ends: world.ends,
        happened: world.happened,
        virtual_ms: world.time,
        signatures: keys::Verified::default(),
        violation,
    }
}

fn from_panic(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("a panic without a message");
    let named = Invariant::ALL.iter().find(|invariant| text.contains(&invariant.to_string()));
    named.copied().unwrap_or(Invariant::Recovery).broken(format!("panic: {text}"))
}

/// One seed while it runs.
struct Run {
    world: World,
    plans: Vec<faults::Plan>,
    faults: BTreeMap<Kind, u64>,
    tolerable: bool,
}

impl Run {
    fn new(seed: u64, options: &Options) -> Run {
        let mut random = Hash::of_parts(ailo_protocol::hash::Domain::Trace, &[&seed.to_le_bytes()]).stream();
        let most = tolerated(options.validators);
        let count = match options.byzantine {
            Some(count) => count.min(options.validators),
            None if random.below(3) == 0 => most,
            None => 0,
        };
        let tolerable = count <= most;
        let mut numbers: Vec<usize> = (0..options.validators).collect();
        random.shuffle(&mut numbers);
        let conducts = [Conduct::Rivals, Conduct::Withholds, Conduct::Perjures, Conduct::Twin(0)];
        let byzantine: Vec<(usize, Conduct)> = numbers[..count]
            .iter()
            .map(|member| (*member, if tolerable { conducts[random.below(4) as usize] } else { Conduct::Twin(0) }))
            .collect();
        let followers = usize::from(random.below(4) == 0);
        let mut world = World::new(seed, options.validators, followers, CLIENTS, &byzantine);
        world.staking = tolerable && most > 0 && random.below(2) == 0;
        // With stake behind it, also who founded no validator becomes one.
        let staking = world.staking;
        world.members.iter_mut().for_each(|member| member.votes |= staking);
        world.network.delay_ms = [30, 100, 300, 1000][random.below(4) as usize];
        world.network.usual_loss_permille = [0, 0, 20, 80][random.below(4) as usize];
        world.network.loss_permille = world.network.usual_loss_permille;
        world.relapse_permille = 400;
        let count_faults = FAULTS + random.below(5);
        let plans = world.draw_faults(count_faults, HEIGHTS - 2);
        let mut faults = BTreeMap::new();
        if count > 0 {
            faults.insert(Kind::Byzantine, count as u64);
        }
        Run { world, plans, faults, tolerable }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let world = &mut self.world;
        world.start_all()?;
        if !self.tolerable {
            return self.collude();
        }
        let mut plans = std::mem::take(&mut self.plans).into_iter().peekable();
        loop {
            while let Some(plan) = plans.next_if(|plan| plan.height <= world.height()) {
                *self.faults.entry(plan.kind).or_default() += 1;
                world.begin(plan.kind)?;
            }
            let done = plans.peek().is_none() && world.height() >= HEIGHTS && world.transfers >= TRANSFERS;
            if done {
                break;
            }
            if world.time > FAULTS_MS {
                let detail = format!("height {} and {} transfers after an hour", world.height(), world.transfers);
                return Err(Invariant::Liveness.broken(detail));
            }
            world.step()?;
        }
        world.heal_all()?;
        let (honest, height) = (world.honest(), world.height() + MORE);
        world.run_to(&honest, height, LIVENESS_MS)?;
        world.check_chains()
    }

    /// More break the rules than the network tolerates: it is cut in two, and each twin serves its own part. There is no
    /// telling what will hold, so the claims that are broken are what this is for.
    fn collude(&mut self) -> Result<(), Violation> {
        let world = &mut self.world;
        let mut side = 0;
        for i in 0..world.members.len() {
            world.network.parts[i] = match world.members[i].conduct {
                Conduct::Twin(twin) => twin,
                _ => {
                    side = 1 - side;
                    side
                }
            };
        }
        world.faults.clear();
        *self.faults.entry(Kind::Partition).or_default() += 1;
        world.run_for(60_000)?;
        world.network.parts.fill(0);
        world.run_for(60_000)?;
        world.check_chains()
    }
}

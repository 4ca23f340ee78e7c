//! A node that breaks the rules of training in one way and is the real thing in everything else; tests and experiments
//! run it in place of `ailo-node`.
//!
//!     AILO_ATTACK=noise attacker run --network net.toml ...
//!
//! | attack | hands in |
//! | --- | --- |
//! | `zero` | an update of nothing |
//! | `random` | noise as long as an update usually is |
//! | `noise` | what it trained, with noise of a hundredth of its length |
//! | `residual` | what it trained, and what earlier rounds have left over, as it says: always the same direction |
//! | `twin` | what the next slot asks for: somebody else's work under its own name |
//! | `scale` | what it trained, ten times as far |
//! | `stale` | what it trained once in an earlier round, again and again |
//! | `copy` | what somebody else has committed to, under its own name |
//! | `boast` | what it trained, with a loss that it did not reach |
//! | `withhold` | nothing |
//! | `split` | what it trained, but only where it is the first of the attackers in the round: one machine behind several identities |
//! | `hide` | the hash of something that it serves to nobody |
//! | `sign-flip`, `ipm` | what it trained, backwards, once and three times as far |
//! | `alie` | the mean of its own slot's update and the next one's, less one and a half of their deviations |
//! | `label-flip` | a training on wrong targets |
//! | `infinity`, `nan` | an encoding with such a scale |
//! | `ipm-opt`, `alie-opt`, `mimic`, `collude`, `lonely` | as in `simulate training`: it trains the slots of all honest nodes, too, since data and seeds are public, and so knows their updates before they come. The attackers' ids stand in `AILO_ATTACKERS` |

use ailo_ledger::state::Round;
use ailo_node::{
    cli::{Cli, Command},
    commands,
    config::Settings,
    error::NodeError,
    logs,
    service::{
        self,
        work::{Contributor, Job},
    },
};
use ailo_protocol::{Hash, NodeId, contribution::Contribution};
use ailo_training::{
    Control, Local, Progress, Result, TrainingError,
    check::norm,
    round::Slot,
    simulation::{
        Attack,
        attack::{self, View, train_on_wrong_targets},
        craft::{deviation, mean, plus, scaled},
    },
};
use clap::Parser;
use std::sync::{Arc, Mutex, PoisonError};

/// Attacks of which [`KNOWING`] know all honest updates.
const ATTACKS: [&str; 23] = [
    "withhold",
    "split",
    "hide",
    "residual",
    "twin",
    "zero",
    "random",
    "noise",
    "scale",
    "sign-flip",
    "ipm",
    "alie",
    "label-flip",
    "stale",
    "copy",
    "boast",
    "infinity",
    "nan",
    "ipm-opt",
    "alie-opt",
    "mimic",
    "collude",
    "lonely",
];
const KNOWING: usize = 5;

struct Attacker {
    attack: String,
    /// What it trained first, and in which round.
    first: Mutex<Option<(u64, Local)>>,
    /// All attackers of the network, where they act as one.
    all: Vec<NodeId>,
    /// What they remember, and what this one sends.
    together: Mutex<(Option<attack::Attacker>, Vec<u8>)>,
}

impl Attacker {
    fn is_knowing(&self) -> bool {
        ATTACKS[ATTACKS.len() - KNOWING..].contains(&self.attack.as_str())
    }

    /// Trains all honest slots, and makes of that what all attackers send: each of them finds the same, and sends its part.
    fn forge(&self, job: &Job<'_>, control: &mut dyn FnMut(Progress) -> Control) -> Result<Local> {
        let Job { rules, round, slot, base } = job;
        let of = |i: usize| Slot { slot: i as u32, ..*slot };
        let (theirs, honest): (Vec<usize>, Vec<usize>) =
            (0..round.participants.len()).partition(|i| self.all.contains(&round.participants[*i]));
        let mut updates = Vec::new();
        let mut local = None;
        for i in honest {
            let trained = rules.train(&of(i), base, control)?;
            updates.push(rules.admit(&rules.encode(&trained.update, &slot.seed)?, base, &slot.seed)?);
            local = Some(trained);
        }
        let windows = |slot: &Slot| rules.data.windows(rules.training, &slot.seed, slot.slot, slot.slots);
        let slots: Vec<_> = theirs.iter().map(|i| (of(*i), windows(&of(*i)))).collect();
        let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let threads = threads.map_err(|e| TrainingError::Simulation(e.to_string()))?;
        let view = View { rules, base, honest: &updates, f: round.f as usize, slots: &slots, threads: &threads };
        let mut together = self.together.lock().unwrap_or_else(PoisonError::into_inner);
        let attack: Attack = self.attack.parse().map_err(TrainingError::Simulation)?;
        let sent =
            together.0.get_or_insert_with(|| attack::Attacker::new(attack, self.all.len())).forge(&view, &slot.seed)?;
        let mine = theirs.iter().position(|i| *i == slot.slot as usize).unwrap_or_default();
        together.1 = sent.into_iter().nth(mine).ok_or(TrainingError::Stopped)?;
        local.ok_or(TrainingError::Stopped)
    }
}

/// Noise of this length.
fn noise(seed: Hash, count: usize, length: f64) -> Vec<f32> {
    let mut stream = seed.stream();
    let noise: Vec<f32> = (0..count).map(|_| stream.below(2_000_001) as f32 * 1e-6 - 1.0).collect();
    let factor = (length / norm(&noise)) as f32;
    noise.into_iter().map(|x| x * factor).collect()
}

/// Work that took no training, with losses that look like some.
fn untrained(update: Vec<f32>, round: &Round) -> Local {
    Local { update, loss_first: 5_000_000, loss_last: 4_000_000, trace: round.seed, tokens: 0, steps: 0 }
}

impl Contributor for Attacker {
    fn contribute(&self, job: &Job<'_>, control: &mut dyn FnMut(Progress) -> Control) -> Result<Local> {
        let Job { rules, round, slot, base } = job;
        let count = base.weights.len();
        if self.is_knowing() {
            return self.forge(job, control);
        }
        let mut train = |slot: Slot| rules.train(&slot, base, control);
        let mut changed = |change: &dyn Fn(Vec<f32>) -> Vec<f32>| {
            let local = train(*slot)?;
            Ok(Local { update: change(local.update), ..local })
        };
        match self.attack.as_str() {
            "withhold" => Err(TrainingError::Stopped),
            "zero" => Ok(untrained(vec![0.0; count], round)),
            "random" => Ok(untrained(noise(round.seed, count, norm(&base.weights) * 0.05), round)),
            "noise" => changed(&|update| plus(&update, &noise(round.seed, count, norm(&update) * 0.01), 1.0)),
            "residual" => changed(&|update| {
                let left = (0..round.number.min(20)).map(|round| 0.95f64.powi(round as i32)).sum::<f64>();
                plus(&update, &noise(Hash::ZERO, count, norm(&update) * 0.01), left)
            }),
            "twin" => train(Slot { slot: (slot.slot + 1) % slot.slots, ..*slot }),
            "split" => match round.participants.iter().find(|node| self.all.contains(node)) {
                Some(first) if *first == round.participants[slot.slot as usize] => train(*slot),
                _ => Err(TrainingError::Stopped),
            },
            "hide" => train(*slot),
            "scale" => changed(&|update| scaled(&update, 10.0)),
            "sign-flip" => changed(&|update| scaled(&update, -1.0)),
            "ipm" => changed(&|update| scaled(&update, -3.0)),
            "alie" => {
                // Nobody sees the others' updates in time, but all data are public: another slot shows how updates differ.
                let local = train(*slot)?;
                let both = [local.update.clone(), train(Slot { slot: (slot.slot + 1) % slot.slots, ..*slot })?.update];
                let update = plus(&mean(&both), &deviation(&both), -1.5);
                Ok(Local { update, ..local })
            }
            "label-flip" => train_on_wrong_targets(rules, slot, base, control),
            "stale" => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.is_none() {
                    *first = Some((round.number, train(*slot)?));
                }
                // Not handed in while it is new: for that it would be paid.
                let old = first.clone().filter(|(trained, _)| *trained < round.number);
                old.map(|(_, local)| local).ok_or(TrainingError::Stopped)
            }
            "copy" | "infinity" | "nan" => Ok(untrained(vec![0.0; count], round)),
            "boast" => {
                let local = train(*slot)?;
                Ok(Local { loss_last: local.loss_last / 2, ..local })
            }
            other => unreachable!("{other} is none of the attacks above"),
        }
    }

    fn encode(&self, job: &Job<'_>, local: &Local) -> Result<Vec<u8>> {
        if self.is_knowing() {
            return Ok(self.together.lock().unwrap_or_else(PoisonError::into_inner).1.clone());
        }
        let mut encoded = job.rules.encode(&local.update, &job.slot.seed)?;
        let scale = match self.attack.as_str() {
            "infinity" => f32::INFINITY,
            "nan" => f32::NAN,
            _ => return Ok(encoded),
        };
        encoded[16..20].copy_from_slice(&scale.to_le_bytes());
        Ok(encoded)
    }

    fn commit(&self, round: &Round, made: &Contribution) -> Option<Contribution> {
        match self.attack.as_str() {
            "copy" => {
                let other = round.contributions.values().next()?.contribution.clone();
                Some(Contribution { slot: made.slot, ..other })
            }
            // It keeps the payload that has this hash, if there is one, to itself.
            "hide" => Some(Contribution { payload: made.update, ..made.clone() }),
            _ => Some(made.clone()),
        }
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), NodeError> {
    let cli = Cli::parse();
    let Command::Run(args) = cli.command else { return commands::dispatch(cli).await };
    logs::start(&cli.log, cli.log_format)?;
    let attack = std::env::var("AILO_ATTACK").unwrap_or_default();
    if !ATTACKS.contains(&attack.as_str()) {
        return Err(NodeError::Usage(format!("'{attack}' is no attack; there are {}", ATTACKS.join(", "))));
    }
    let all = std::env::var("AILO_ATTACKERS").unwrap_or_default();
    let all = all.split(',').filter_map(|id| id.parse().ok()).collect();
    let attacker = Attacker { attack, first: Mutex::new(None), all, together: Mutex::default() };
    service::run_with(Settings::resolve(&args)?, args.stop_on_eof, Arc::new(attacker)).await
}

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
//! | `scale` | what it trained, ten times as far |
//! | `stale` | what it trained in its first round, again and again |
//! | `copy` | what somebody else has committed to, under its own name |
//! | `boast` | what it trained, with a loss that it did not reach |

use ailo_ledger::state::Round;
use ailo_node::{
    cli::{Cli, Command},
    commands::start_log,
    config::Settings,
    error::NodeError,
    service::{self, work::Contributor},
};
use ailo_protocol::{Hash, contribution::Contribution};
use ailo_training::{Local, ModelState, Result, check::norm};
use clap::Parser;
use std::sync::{Arc, Mutex, PoisonError};

struct Attacker {
    attack: String,
    first: Mutex<Option<Local>>,
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
    fn contribute(&self, round: &Round, base: &ModelState, train: &mut dyn FnMut() -> Result<Local>) -> Result<Local> {
        let count = base.weights.len();
        match self.attack.as_str() {
            "zero" => Ok(untrained(vec![0.0; count], round)),
            "random" => Ok(untrained(noise(round.seed, count, norm(&base.weights) * 0.05), round)),
            "noise" => {
                let mut local = train()?;
                let noise = noise(round.seed, count, norm(&local.update) * 0.01);
                local.update.iter_mut().zip(&noise).for_each(|(x, noise)| *x += noise);
                Ok(local)
            }
            "scale" => {
                let mut local = train()?;
                local.update.iter_mut().for_each(|x| *x *= 10.0);
                Ok(local)
            }
            "stale" => {
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.is_none() {
                    *first = Some(train()?);
                }
                first.clone().map_or_else(train, Ok)
            }
            "copy" => Ok(untrained(vec![0.0; count], round)),
            "boast" => {
                let local = train()?;
                Ok(Local { loss_last: local.loss_last / 2, ..local })
            }
            other => panic!("AILO_ATTACK={other} is no attack: see the head of this file"),
        }
    }

    fn commit(&self, round: &Round, made: &Contribution) -> Option<Contribution> {
        if self.attack != "copy" {
            return Some(made.clone());
        }
        let other = round.contributions.values().next()?.contribution.clone();
        Some(Contribution { slot: made.slot, ..other })
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), NodeError> {
    let cli = Cli::parse();
    start_log(&cli.log)?;
    let Command::Run(args) = cli.command else { return Err(NodeError::Usage("an attacker only runs".into())) };
    let attack = std::env::var("AILO_ATTACK").unwrap_or_default();
    let attacker = Attacker { attack, first: Mutex::new(None) };
    service::run_with(Settings::resolve(&args)?, args.stop_on_eof, Arc::new(attacker)).await
}

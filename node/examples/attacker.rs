//! A node that breaks the rules of training in one way and is the real thing in everything else; tests and experiments
//! run it in place of `ailo-node`.
//!
//!     AILO_ATTACK=noise attacker run --network net.toml ...
//!
//! Attacks: `zero` (an update of nothing), `noise` (trained, then noise a hundredth as long as the update on top),
//! `scale` (trained, then ten times as far), `boast` (trained, but with a loss that it did not reach).

use ailo_ledger::state::Round;
use ailo_node::{
    cli::{Cli, Command},
    commands::start_log,
    config::Settings,
    error::NodeError,
    service::{self, work::Contributor},
};
use ailo_protocol::Hash;
use ailo_training::{Local, ModelState, Result, check::norm};
use clap::Parser;
use std::sync::Arc;

struct Attacker(String);

impl Contributor for Attacker {
    fn contribute(&self, round: &Round, base: &ModelState, train: &mut dyn FnMut() -> Result<Local>) -> Result<Local> {
        match self.0.as_str() {
            "zero" => Ok(Local {
                update: vec![0.0; base.weights.len()],
                loss_first: 5_000_000,
                loss_last: 4_000_000,
                ..train()?
            }),
            "noise" => {
                let mut local = train()?;
                let mut stream = Hash(round.seed.0).stream();
                let mut noise: Vec<f32> =
                    local.update.iter().map(|_| stream.below(2_000_001) as f32 * 1e-6 - 1.0).collect();
                let factor = (norm(&local.update) / norm(&noise) * 0.01) as f32;
                noise.iter_mut().for_each(|x| *x *= factor);
                local.update.iter_mut().zip(&noise).for_each(|(x, noise)| *x += noise);
                Ok(local)
            }
            "scale" => {
                let mut local = train()?;
                local.update.iter_mut().for_each(|x| *x *= 10.0);
                Ok(local)
            }
            "boast" => {
                let local = train()?;
                Ok(Local { loss_last: local.loss_last / 2, ..local })
            }
            other => panic!("AILO_ATTACK={other} is no attack: see the head of this file"),
        }
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), NodeError> {
    let cli = Cli::parse();
    start_log(&cli.log)?;
    let Command::Run(args) = cli.command else { return Err(NodeError::Usage("an attacker only runs".into())) };
    let attack = std::env::var("AILO_ATTACK").unwrap_or_default();
    service::run_with(Settings::resolve(&args)?, args.stop_on_eof, Arc::new(Attacker(attack))).await
}

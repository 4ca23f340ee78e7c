//! Tunes a network's training parameters: simulates W workers over R rounds in one process, with the very code that
//! nodes run (training, codec, aggregation, outer step), or trains the data-parallel equivalent to compare with.
//!
//!     cargo run -p ailo-training --example tune -- diloco   data=tinyshakespeare.txt
//!     cargo run -p ailo-training --example tune -- baseline data=tinyshakespeare.txt training.lr=0.003
//!
//! `diloco` prints the held-out loss of the aggregated model after every round. `baseline` trains one model with W
//! times the batch on the same tokens in the same order, for the same R * H steps, with an optimiser that is never
//! reset.
//!
//! Settings are `name=value`; what is not set comes from `config/dev.toml`:
//!   data=FILE            text to train on (the embedded corpus)
//!   workers=4 faulty=1 rounds=20 seed=1 every=5 (rounds between evaluations on a sample; the last is over all held-out text)
//!   model.KEY=VALUE and training.KEY=VALUE as in that file, such as model.width=96 or training.lr=0.006

use ailo_protocol::{
    params::{ModelConfig, Params, Tokenizer, TrainingParams},
    presets,
};
use ailo_training::{
    Control, Dataset, Device, ModelState, check,
    model::parameter_count,
    reference::Setup,
    round::{Rules, Slot},
    set_threads,
};
use std::{error::Error, path::Path, time::Instant};

struct Experiment {
    cfg: ModelConfig,
    params: TrainingParams,
    data: Dataset,
    workers: u32,
    rounds: u64,
    seed: u64,
    every: u64,
    faulty: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((mode, settings)) = args.split_first().filter(|(mode, _)| ["diloco", "baseline"].contains(&mode.as_str()))
    else {
        return Err(
            "usage: tune diloco|baseline [name=value...]; the settings are listed at the top of examples/tune.rs"
                .into(),
        );
    };
    set_threads(1);
    let experiment = Experiment::parse(settings)?;
    let started = Instant::now();
    let weights = if mode == "diloco" { experiment.diloco()? } else { experiment.baseline()? };
    let seconds = started.elapsed().as_secs_f64();
    let Experiment { params, workers, rounds, cfg, .. } = &experiment;
    let tokens = params.tokens_per_round() * u64::from(*workers) * rounds;
    println!(
        "{mode} {} | held-out {:.4} | {tokens} tokens, {} parameters, {seconds:.0} s, {:.0} tokens/s",
        settings.join(" "),
        experiment.loss(&weights, u32::MAX)?,
        parameter_count(cfg),
        tokens as f64 / seconds,
    );
    Ok(())
}

impl Experiment {
    fn parse(settings: &[String]) -> Result<Experiment, Box<dyn Error>> {
        let (numbers, settings): (Vec<String>, Vec<String>) =
            settings.iter().cloned().partition(|s| s.split('=').next().is_some_and(|name| name.contains('.')));
        let Params { model: cfg, training: params, .. } = presets::change(&presets::dev(), &numbers)?;
        let (mut workers, mut rounds, mut seed, mut every, mut faulty, mut path) = (4, 20, 1, 5, 1, None);
        for setting in &settings {
            let (name, value) = setting.split_once('=').ok_or_else(|| format!("{setting}: settings are name=value"))?;
            match name {
                "data" => path = Some(value),
                "workers" => workers = value.parse()?,
                "rounds" => rounds = value.parse()?,
                "seed" => seed = value.parse()?,
                "faulty" => faulty = value.parse()?,
                "every" => every = value.parse()?,
                _ => return Err(format!("unknown setting {name}").into()),
            }
        }
        let data = match path {
            Some(path) => Dataset::open(Path::new(path), Tokenizer::Bytes)?,
            None => Dataset::embedded(),
        };
        Ok(Experiment { cfg, params, data, workers, rounds, seed, every, faulty })
    }

    fn diloco(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let (rules, mut state) = (self.rules(), ModelState::initial(&self.cfg, self.seed));
        for round in 0..self.rounds {
            let (mut updates, mut losses) = (Vec::new(), (0, 0));
            for slot in 0..self.workers {
                let slot = Slot { steps: round, seed: self.setup().round_seed(round), slot, slots: self.workers };
                let local = rules.train(&slot, &state, &mut |_| Control::Continue)?;
                updates.push(rules.admit(&rules.encode(&local.update, &slot.seed)?, &state, &slot.seed)?);
                losses = (losses.0 + local.loss_first, losses.1 + local.loss_last);
            }
            let norms: f64 = updates.iter().map(|update| check::norm(update)).sum();
            let ratio = norms / updates.len() as f64 / check::norm(&state.weights);
            state = rules.next(&updates, &state, self.faulty, &self.setup().round_seed(round))?;
            let mean_loss = |sum: u64| sum as f64 / 1e6 / f64::from(self.workers);
            let note =
                format!("workers {:.3} to {:.3}, update norm {ratio:.3}", mean_loss(losses.0), mean_loss(losses.1));
            self.report(round, &state.weights, &note)?;
        }
        Ok(state.weights)
    }

    fn baseline(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let run = self.setup().data_parallel(self.params.lr)?;
        for (round, loss) in run.curve.iter().filter(|(round, _)| (*round as u64).is_multiple_of(self.every)) {
            println!("  round {round:3}: held-out {loss:.4}");
        }
        Ok(run.weights)
    }

    fn rules(&self) -> Rules<'_> {
        Rules { model: &self.cfg, training: &self.params, data: &self.data, device: Device::Cpu }
    }

    fn setup(&self) -> Setup<'_> {
        let Experiment { cfg, params, data, seed, workers, rounds, .. } = self;
        Setup { model: cfg, training: params, data, seed: *seed, workers: *workers, rounds: *rounds }
    }

    fn loss(&self, weights: &[f32], count: u32) -> ailo_training::Result<f64> {
        Ok(self.setup().loss(weights, count)? as f64 / 1e6)
    }

    fn report(&self, round: u64, weights: &[f32], note: &str) -> Result<(), Box<dyn Error>> {
        if (round + 1).is_multiple_of(self.every) && round + 1 < self.rounds {
            println!("  round {:3}: held-out {:.4} {note}", round + 1, self.loss(weights, self.params.eval_sequences)?);
        }
        Ok(())
    }
}

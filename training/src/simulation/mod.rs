//! Training under attack: whole runs in one process, round by round through the code that nodes run ([`crate::round`]), with
//! attackers that know everything: all honest updates of the round before they send their own, the rule, and f. Nobody replays
//! anything here and nobody is excluded, so this shows what a rule of aggregation withstands by itself.

pub mod attack;
pub mod craft;
mod skew;
#[cfg(test)]
mod tests;

pub use attack::Attack;

use crate::{
    Control, ModelState, Result, TrainingError, check,
    overlap::{self, Sketch},
    round::{Rules, Slot, lowered},
};
use ailo_protocol::{Hash, contribution::MicroNats, hash::Domain};
use attack::{Attacker, View};
use craft::mean;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use skew::Skew;

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Nodes, each of which has a slot of every round.
    pub nodes: u32,
    /// Those of them that attack: the last ones.
    pub byzantine: u32,
    /// How.
    pub attack: Attack,
    /// What the rule of aggregation is told to withstand.
    pub f: usize,
    /// How unequal the nodes' data are: the Dirichlet distribution's alpha (`skew.rs`); none for slots drawn from all data.
    pub skew: Option<f64>,
    /// Rounds.
    pub rounds: u64,
    /// Seed of the initial weights and of every draw.
    pub seed: u64,
    /// Whether every update is scored, as a committee does.
    pub scores: bool,
    /// Threads that train.
    pub threads: usize,
}

/// A round that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Its number, from 1.
    pub number: u64,
    /// Held-out loss after it, in nats a token.
    pub loss: f64,
    /// Bytes of all updates.
    pub bytes: u64,
    /// Attackers' updates that were refused or did not come.
    pub refused: u32,
    /// The f that the rule withstood: the one asked for, or as many as the updates that came allow.
    pub f: usize,
    /// Mean length of the honest updates.
    pub norm: f64,
    /// How far the step went from what the honest updates' mean would have done, in lengths of that.
    pub astray: f64,
    /// What validators can measure of each single update, if asked for: of honest nodes, then of attackers.
    pub scores: Vec<Option<Score>>,
}

/// What validators can measure of one update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Held-out loss of the base with it.
    pub loss: MicroNats,
    /// How much more it gains on its own slot's data than on held-out text, in millionths of a nat a token.
    pub own: i64,
    /// Whether it is suspiciously like another one.
    pub alike: bool,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Every round.
    pub rounds: Vec<Round>,
    /// Loss over all held-out text at the end, in nats a token.
    pub loss: f64,
    /// Root of the last state.
    pub root: Hash,
}

/// Runs it; `seen` hears of every round.
///
/// # Errors
///
/// [`TrainingError::Diverged`] if an honest node's training leaves the finite numbers, which an attack can bring about.
pub fn run(rules: &Rules<'_>, options: &Options, mut seen: impl FnMut(&Round)) -> Result<Outcome> {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads.max(1)).build();
    let threads = threads.map_err(|e| TrainingError::Simulation(e.to_string()))?;
    let honest = options.nodes.saturating_sub(options.byzantine);
    if honest == 0 {
        return Err(TrainingError::Simulation("somebody must be honest".into()));
    }
    let skew = options.skew.map(|alpha| Skew::new(options, alpha));
    let mut attacker = Attacker::new(options.attack, options.byzantine as usize);
    let mut state = ModelState::initial(rules.model, options.seed);
    let mut rounds = Vec::new();
    for steps in 0..options.rounds {
        let seed = Hash::of_parts(Domain::Lot, &[&options.seed.to_le_bytes(), &steps.to_le_bytes()]);
        let slot = |node: u32| Slot { steps, seed, slot: node, slots: options.nodes };
        let windows = |node: u32| match &skew {
            Some(skew) => skew.windows(rules, node, &seed),
            None => rules.data.windows(rules.training, &seed, node, options.nodes),
        };
        // What honest nodes send.
        let train = |node: u32| -> Result<Vec<u8>> {
            let local = rules.train_on(&slot(node), &state, &windows(node), &mut |_| Control::Continue)?;
            rules.encode(&local.update, &seed)
        };
        let sent = threads.install(|| (0..honest).into_par_iter().map(train).collect::<Result<Vec<_>>>())?;
        let updates = sent.iter().map(|bytes| rules.admit(bytes, &state, &seed)).collect::<Result<Vec<_>>>()?;
        // What attackers send, who have seen that.
        let theirs: Vec<(Slot, Vec<usize>)> = (honest..options.nodes).map(|node| (slot(node), windows(node))).collect();
        let view = View { rules, base: &state, honest: &updates, f: options.f, slots: &theirs, threads: &threads };
        let forged = attacker.forge(&view, &seed)?;
        let bytes = sent.iter().chain(&forged).map(|bytes| bytes.len() as u64).sum();
        let admitted: Vec<Vec<f32>> =
            forged.iter().filter_map(|bytes| rules.admit(bytes, &state, &seed).ok()).collect();
        let refused = options.byzantine - admitted.len() as u32;
        let scores = if options.scores { scores(&view, &slot, &forged)? } else { Vec::new() };
        // What everybody makes of it.
        let (honest_mean, norm) = (mean(&updates), mean_norm(&updates));
        let all = [updates, admitted].concat();
        let f = options.f.min((all.len() - 1) / 2);
        let next = rules.next(&all, &state, f, &seed)?;
        let astray = astray(rules, &state, &next, &honest_mean)?;
        state = next;
        let loss = rules.loss(&state.weights, rules.training.eval_sequences)? as f64 / 1e6;
        let round = Round { number: steps + 1, loss, bytes, refused, f, norm, astray, scores };
        seen(&round);
        rounds.push(round);
    }
    let loss = rules.loss(&state.weights, u32::MAX)? as f64 / 1e6;
    Ok(Outcome { rounds, loss, root: state.root() })
}

fn mean_norm(updates: &[Vec<f32>]) -> f64 {
    updates.iter().map(|update| check::norm(update)).sum::<f64>() / updates.len() as f64
}

/// See [`Round::scores`].
fn scores(view: &View<'_>, slot: &(dyn Fn(u32) -> Slot + Sync), forged: &[Vec<u8>]) -> Result<Vec<Option<Score>>> {
    let View { rules, base, honest, threads, .. } = view;
    let seed = slot(0).seed;
    let forged = forged.iter().map(|bytes| rules.admit(bytes, base, &seed).ok());
    let updates: Vec<Option<Vec<f32>>> = honest.iter().cloned().map(Some).chain(forged).collect();
    let sketches: Vec<Sketch> = updates.iter().flatten().map(|update| Sketch::of(update, &seed)).collect();
    let mut alike = overlap::alike(&sketches).into_iter();
    let alike: Vec<bool> = updates.iter().map(|update| update.is_some() && alike.next() == Some(true)).collect();
    let before = rules.score_of_base(base, &seed)?;
    let score = |(node, (update, alike)): (usize, (&Option<Vec<f32>>, bool))| -> Result<Option<Score>> {
        let Some(update) = update else { return Ok(None) };
        let loss = rules.score(update, base, &seed)?;
        let own = rules.gain(&slot(node as u32), base, update, &seed)? - lowered(before, loss);
        Ok(Some(Score { loss, own, alike }))
    };
    threads.install(|| updates.par_iter().zip(alike).enumerate().map(score).collect())
}

/// See [`Round::astray`].
fn astray(rules: &Rules<'_>, base: &ModelState, next: &ModelState, honest: &[f32]) -> Result<f64> {
    let right = crate::outer::outer_step(base, honest, rules.training)?;
    let between = |a: &[f32], b: &[f32]| check::norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>());
    Ok(between(&next.weights, &right.weights) / between(&base.weights, &right.weights).max(f64::MIN_POSITIVE))
}

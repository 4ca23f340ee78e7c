//! Attacks on training, by name, and the attackers that carry them out.
//!
//! With m and s the mean and the standard deviation of the honest updates, coordinate by coordinate:
//!
//! | attack | every attacker sends | source |
//! | --- | --- | --- |
//! | `withhold` | nothing | |
//! | `zero` | zeros | |
//! | `random` | noise as long as an honest update | |
//! | `sign-flip` | -m | Li et al. 2019 |
//! | `ipm` | -3 m, against the inner product of aggregate and m | Xie et al. 2020, factor of ByzFL |
//! | `ipm-opt` | -e m, with the e that does most harm; e may be negative, as what points back least is the least noticed | |
//! | `alie` | m - 1.5 s: a little is enough | Baruch et al. 2019, factor of ByzFL |
//! | `alie-opt` | m - z s, m + z s or m - z s sign(m), with the z that does most harm | |
//! | `mimic` | what one honest node sends, the one that is furthest out, always the same | Karimireddy et al. 2022 |
//! | `collude` | of each coordinate the honest value that is furthest from where m points | after Fang et al. 2020 |
//! | `lonely` | large values, where no more than f honest nodes send anything | |
//! | `stale` | what the honest nodes sent in the first round | |
//! | `label-flip` | an honest training on wrong targets: the token t is the vocabulary's last but t | |
//! | `infinity`, `nan` | an encoding with a scale of that kind | |
//!
//! "Most harm" is a line search against the rule in force: each candidate goes through codec, checks, aggregation and outer step as it
//! would in the round, and what it leaves is measured on a sample of the training text. Each is tried in some ways: all send the same,
//! or each adds more or less noise of its own.

use super::{craft, skew::normal};
use crate::{
    Control, Local, ModelState, Progress, Result, TrainingError, check, inner,
    model::Model,
    round::{Rules, Slot},
};
use ailo_protocol::{Hash, hash::Domain};
use rayon::{ThreadPool, prelude::*};
use std::str::FromStr;
use tch::Tensor;

/// Windows of the training text that the line search measures harm with.
const PROBE_WINDOWS: usize = 32;
/// Deviations of noise of their own that the line search tries: with none all send the same; with 0.74 two of them are 1.1 times the
/// variance apart, of two that honest ones are, where weights begin to see copies at one.
const OWN_NOISE: [f64; 4] = [0.0, 0.5, 0.74, 0.9];

/// What attackers do; the head of this file says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Attack {
    Withhold,
    Zero,
    Random,
    SignFlip,
    Ipm,
    IpmOpt,
    Alie,
    AlieOpt,
    Mimic,
    Collude,
    Lonely,
    Stale,
    LabelFlip,
    Infinity,
    Nan,
}

impl Attack {
    /// Every attack, and its name.
    pub const ALL: [(Attack, &'static str); 15] = [
        (Attack::Withhold, "withhold"),
        (Attack::Zero, "zero"),
        (Attack::Random, "random"),
        (Attack::SignFlip, "sign-flip"),
        (Attack::Ipm, "ipm"),
        (Attack::IpmOpt, "ipm-opt"),
        (Attack::Alie, "alie"),
        (Attack::AlieOpt, "alie-opt"),
        (Attack::Mimic, "mimic"),
        (Attack::Collude, "collude"),
        (Attack::Lonely, "lonely"),
        (Attack::Stale, "stale"),
        (Attack::LabelFlip, "label-flip"),
        (Attack::Infinity, "infinity"),
        (Attack::Nan, "nan"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Attack::ALL.iter().find(|(attack, _)| *attack == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Attack, String> {
        let known = Attack::ALL.iter().find(|(_, known)| *known == name).map(|(attack, _)| *attack);
        known.ok_or_else(|| {
            let names: Vec<&str> = Attack::ALL.iter().map(|(_, name)| *name).collect();
            format!("{name} is no attack; there are {}", names.join(", "))
        })
    }
}

/// What attackers know of a round. All of it is public before a commit to whoever trains the honest nodes' slots, too.
pub struct View<'a> {
    /// How the round is done.
    pub rules: &'a Rules<'a>,
    /// What it starts from.
    pub base: &'a ModelState,
    /// Honest updates, as everybody decodes them.
    pub honest: &'a [Vec<f32>],
    /// What the rule withstands.
    pub f: usize,
    /// Their own slots and data windows.
    pub slots: &'a [(Slot, Vec<usize>)],
    /// Threads of theirs.
    pub threads: &'a ThreadPool,
}

/// All attackers together, with what they remember.
pub struct Attacker {
    attack: Attack,
    count: usize,
    /// What honest nodes sent in the first round.
    first: Vec<Vec<f32>>,
    /// Whom `mimic` copies.
    target: Option<usize>,
}

impl Attacker {
    /// So many of them.
    pub fn new(attack: Attack, count: usize) -> Attacker {
        Attacker { attack, count, first: Vec::new(), target: None }
    }

    /// What each of them sends.
    ///
    /// # Errors
    ///
    /// [`TrainingError`] if there is nothing to make it of.
    pub fn forge(&mut self, view: &View<'_>, seed: &Hash) -> Result<Vec<Vec<u8>>> {
        let encode = |update: Vec<f32>| view.rules.encode(&within_bound(view, update), seed);
        let all_send = |update: Vec<f32>| Ok(vec![encode(update)?; self.count]);
        let (mean, deviation) = (craft::mean(view.honest), craft::deviation(view.honest));
        match self.attack {
            Attack::Withhold => Ok(Vec::new()),
            Attack::Zero => all_send(vec![0.0; mean.len()]),
            Attack::Random => {
                let length = super::mean_norm(view.honest);
                let noise = |i: usize| {
                    let noise = noise(mean.len(), seed, i);
                    let factor = length / check::norm(&noise);
                    encode(craft::scaled(&noise, factor))
                };
                (0..self.count).map(noise).collect()
            }
            Attack::SignFlip => all_send(craft::scaled(&mean, -1.0)),
            Attack::Ipm => all_send(craft::scaled(&mean, -3.0)),
            Attack::IpmOpt => self.most_harmful(view, seed, &deviation, craft::ipm_candidates(&mean)),
            Attack::Alie => all_send(craft::plus(&mean, &deviation, -1.5)),
            Attack::AlieOpt => self.most_harmful(view, seed, &deviation, craft::alie_candidates(&mean, &deviation)),
            Attack::Mimic => {
                let target = *self.target.get_or_insert_with(|| craft::furthest_out(view.honest, &mean));
                all_send(view.honest.get(target).cloned().unwrap_or(mean))
            }
            Attack::Collude => all_send(craft::against(&mean, view.honest)),
            Attack::Lonely => all_send(craft::where_nobody_sends(view.honest, view.f)),
            Attack::Stale => {
                if self.first.is_empty() {
                    self.first = view.honest.to_vec();
                }
                self.first.iter().cycle().take(self.count).map(|update| encode(update.clone())).collect()
            }
            Attack::LabelFlip => {
                let train = |(slot, windows): &(Slot, Vec<usize>)| -> Result<Vec<u8>> {
                    let local = towards_wrong_targets(view.rules, slot, view.base, windows, &mut |_| Control::Continue);
                    view.rules.encode(&within_bound(view, local?.update), seed)
                };
                view.threads.install(|| view.slots.par_iter().map(train).collect())
            }
            Attack::Infinity => self.with_scales(encode(mean)?, f32::INFINITY),
            Attack::Nan => self.with_scales(encode(mean)?, f32::NAN),
        }
    }

    /// The first block's scale becomes this number.
    fn with_scales(&self, mut encoded: Vec<u8>, scale: f32) -> Result<Vec<Vec<u8>>> {
        encoded[16..20].copy_from_slice(&scale.to_le_bytes());
        Ok(vec![encoded; self.count])
    }

    /// The candidate that leaves the worst model, sent by all as it is or with noise of their own.
    fn most_harmful(
        &self,
        view: &View<'_>,
        seed: &Hash,
        deviation: &[f32],
        candidates: Vec<Vec<f32>>,
    ) -> Result<Vec<Vec<u8>>> {
        let windows = view.rules.data.windows(view.rules.training, &Hash::of(Domain::Lot, &seed.0), 0, 1);
        let probe = &windows[..windows.len().min(PROBE_WINDOWS)];
        let encode = |update: Vec<f32>| view.rules.encode(&within_bound(view, update), seed);
        let own = |i: usize| {
            let noise = noise(deviation.len(), seed, i);
            noise.iter().zip(deviation).map(|(x, deviation)| x * deviation).collect::<Vec<f32>>()
        };
        let own: Vec<Vec<f32>> = (0..self.count).map(own).collect();
        let harm = |(candidate, noise): (&Vec<f32>, f64)| -> Result<(u64, Vec<Vec<u8>>)> {
            let sent = match noise {
                0.0 => vec![encode(candidate.clone())?; self.count],
                _ => own.iter().map(|own| encode(craft::plus(candidate, own, noise))).collect::<Result<Vec<_>>>()?,
            };
            // What is refused (rounding has made it too long) does no harm.
            let admitted = sent.iter().map(|bytes| view.rules.admit(bytes, view.base, seed));
            let Ok(forged) = admitted.collect::<Result<Vec<_>>>() else { return Ok((0, sent)) };
            let all = [view.honest.to_vec(), forged].concat();
            let next = view.rules.next(&all, view.base, view.f, seed);
            // A model that is not finite is the worst of all.
            let loss = next.and_then(|next| view.rules.loss_over(&next.weights, probe)).unwrap_or(u64::MAX);
            Ok((loss, sent))
        };
        let ways = candidates.iter().flat_map(|one| OWN_NOISE.map(|noise| (one, noise))).collect::<Vec<_>>();
        let tried = view.threads.install(|| ways.into_par_iter().map(harm).collect::<Result<Vec<_>>>())?;
        let worst = tried.into_iter().max_by_key(|(loss, _)| *loss);
        worst.map(|(_, sent)| sent).ok_or_else(|| TrainingError::Simulation("there is no candidate".into()))
    }
}

/// Standard normal numbers of the attacker `i`.
fn noise(len: usize, seed: &Hash, i: usize) -> Vec<f32> {
    let mut stream = Hash::of_parts(Domain::Lot, &[b"noise", &seed.0, &i.to_le_bytes()]).stream();
    (0..len).map(|_| normal(&mut stream) as f32).collect()
}

/// What the checks would refuse for its length, as long as they allow.
fn within_bound(view: &View<'_>, update: Vec<f32>) -> Vec<f32> {
    let bound = 0.999 * check::norm(&view.base.weights) * f64::from(view.rules.training.max_update_norm);
    let norm = check::norm(&update);
    if norm <= bound { update } else { craft::scaled(&update, bound / norm) }
}

/// Trains a slot on wrong targets: the token t becomes the vocabulary's last but t.
pub fn train_on_wrong_targets(
    rules: &Rules<'_>,
    slot: &Slot,
    base: &ModelState,
    control: &mut dyn FnMut(Progress) -> Control,
) -> Result<Local> {
    let windows = rules.data.windows(rules.training, &slot.seed, slot.slot, slot.slots);
    towards_wrong_targets(rules, slot, base, &windows, control)
}

fn towards_wrong_targets(
    rules: &Rules<'_>,
    slot: &Slot,
    base: &ModelState,
    windows: &[usize],
    control: &mut dyn FnMut(Progress) -> Control,
) -> Result<Local> {
    let Rules { model, training, data, device } = *rules;
    inner::train_towards(model, training, slot.steps, base, data, windows, device, control, &flipped_loss)
}

fn flipped_loss(model: &Model, windows: &Tensor) -> Tensor {
    let time = windows.size()[1] - 1;
    let targets = windows.narrow(1, 1, time);
    let flipped = model.vocabulary() - 1 - targets;
    model.loss_of(&windows.narrow(1, 0, time), &flipped)
}

//! A round's inner training: H steps of AdamW from the shared weights on the slot's windows.
//!
//! The optimiser starts from zero in every round, so that the update follows from public inputs alone: within one
//! determinism class the same arguments give the same bits. Step s of round r (t = r H + s over the whole run) uses the
//! rate
//!
//! `lr * cosine(t) * min(1, (t + 1) / warmup_steps)`,
//!
//! where cosine falls from 1 to `lr_floor` over `lr_rounds` rounds. Gradients are clipped by their global norm; weight
//! decay is decoupled and spares biases and norms (Loshchilov and Hutter 2019). Of Adam's two bias corrections only the
//! variance's is made: the mean grows from zero, so that the first steps after a reset, when a single batch decides, are
//! small. With it corrected they are the largest of the round, and undo part of the last one.

use crate::{
    dataset::Dataset,
    error::{Result, TrainingError},
    model::{Model, layout},
    state::ModelState,
};
use ailo_protocol::{
    Hash,
    contribution::MicroNats,
    hash::Domain,
    params::{ModelConfig, TrainingParams},
};
use std::time::Instant;
use tch::{Device, Tensor};

/// AdamW's guard against a division by zero.
const EPSILON: f64 = 1e-8;

/// How far an inner training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub steps: u32,
    /// Loss of the last step, in nats a token.
    pub loss: f64,
    /// Tokens trained on in a second, on average so far.
    pub tokens_per_s: f64,
}

/// What a callback wants to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop here.
    Stop,
}

/// What a worker got out of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Base weights minus local weights.
    pub update: Vec<f32>,
    /// Mean training loss of the first tenth of the steps.
    pub loss_first: MicroNats,
    /// Mean training loss of the last tenth of the steps.
    pub loss_last: MicroNats,
    /// Hash of the losses of all steps, bit for bit.
    pub trace: Hash,
    /// Tokens trained on.
    pub tokens: u64,
    /// Inner steps taken.
    pub steps: u32,
}

/// Trains round `round` from `base` on `windows` (see [`Dataset::windows`]); `control` hears of every step and may
/// stop.
#[allow(clippy::too_many_arguments)] // each is an independent input of the protocol's "train" step
pub fn train(
    cfg: &ModelConfig,
    params: &TrainingParams,
    round: u64,
    base: &ModelState,
    data: &Dataset,
    windows: &[usize],
    device: Device,
    control: &mut dyn FnMut(Progress) -> Control,
) -> Result<Local> {
    train_towards(cfg, params, round, base, data, windows, device, control, &Model::loss)
}

/// The same, to lower another loss than the model's.
#[allow(clippy::too_many_arguments)]
pub(crate) fn train_towards(
    cfg: &ModelConfig,
    params: &TrainingParams,
    round: u64,
    base: &ModelState,
    data: &Dataset,
    windows: &[usize],
    device: Device,
    control: &mut dyn FnMut(Progress) -> Control,
    loss_of: &dyn Fn(&Model, &Tensor) -> Tensor,
) -> Result<Local> {
    let (steps, batch, sequence) = (params.inner_steps, params.batch as usize, params.sequence as usize);
    data.check_windows(sequence, windows)?;
    if windows.len() != steps as usize * batch {
        let reason = "a round needs inner_steps * batch of them";
        return Err(TrainingError::Windows { name: data.name.clone(), reason });
    }
    if data.tokenizer != cfg.tokenizer {
        return Err(TrainingError::OtherTokenizer { name: data.name.clone() });
    }
    let model = Model::new(cfg, &base.weights, device, true)?;
    let mut optimiser = AdamW::new(cfg, &model, params);
    let mut losses = Vec::with_capacity(steps as usize);
    let started = Instant::now();
    for (step, windows) in (0..steps).zip(windows.chunks(batch)) {
        let loss = loss_of(&model, &batch_tensor(data, windows, sequence, device)?);
        let gradients = Tensor::f_run_backward(&[&loss], model.parameters(), false, false)?;
        optimiser.step(&gradients, learning_rate(params, round, step));
        let loss = loss.double_value(&[]);
        if !loss.is_finite() {
            return Err(TrainingError::Diverged { step });
        }
        losses.push(loss);
        let tokens = (step as usize + 1) * batch * sequence;
        let tokens_per_s = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        if control(Progress { step: step + 1, steps, loss, tokens_per_s }) == Control::Stop {
            return Err(TrainingError::Stopped);
        }
    }
    let local: Vec<f32> = Vec::try_from(model.flat())?;
    let update: Vec<f32> = base.weights.iter().zip(&local).map(|(base, local)| base - local).collect();
    if !update.iter().all(|x| x.is_finite()) {
        return Err(TrainingError::Diverged { step: steps });
    }
    let tenth = losses.len().div_ceil(10);
    Ok(Local {
        update,
        loss_first: micro_nats(mean(&losses[..tenth])),
        loss_last: micro_nats(mean(&losses[losses.len() - tenth..])),
        trace: Hash::of(Domain::Training, &losses.iter().flat_map(|loss| loss.to_le_bytes()).collect::<Vec<u8>>()),
        tokens: params.tokens_per_round(),
        steps,
    })
}

/// The learning rate of inner step `step` of round `round`.
pub fn learning_rate(params: &TrainingParams, round: u64, step: u32) -> f64 {
    let steps = u64::from(params.inner_steps);
    let t = round.saturating_mul(steps).saturating_add(u64::from(step)) as f64;
    let progress = (t / (params.lr_rounds as f64 * steps as f64)).min(1.0);
    let cosine = params.lr_floor + (1.0 - params.lr_floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    params.lr * cosine * ((t + 1.0) / f64::from(params.warmup_steps.max(1))).min(1.0)
}

/// AdamW over the flat parameters of a model: a few operations on large tensors instead of many on small ones.
pub struct AdamW {
    flat: Tensor,
    decaying: Vec<Tensor>,
    mean: Tensor,
    variance: Tensor,
    steps: i32,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
    clip: f64,
}

impl AdamW {
    /// An optimiser that has seen nothing yet.
    pub fn new(cfg: &ModelConfig, model: &Model, params: &TrainingParams) -> AdamW {
        let decays = layout(cfg).into_iter().map(|parameter| parameter.decays());
        let parameters = model.parameters().iter().map(|p| p.detach());
        AdamW {
            flat: model.flat().shallow_clone(),
            decaying: parameters.zip(decays).filter_map(|(p, decays)| decays.then_some(p)).collect(),
            mean: model.flat().zeros_like(),
            variance: model.flat().zeros_like(),
            steps: 0,
            beta1: params.beta1,
            beta2: params.beta2,
            weight_decay: params.weight_decay,
            clip: params.clip,
        }
    }

    /// One step down `gradients` (in the order of the model's parameters) at the rate `lr`.
    pub fn step(&mut self, gradients: &[Tensor], lr: f64) {
        self.steps = self.steps.saturating_add(1);
        let gradients: Vec<Tensor> = gradients.iter().map(|g| g.reshape([-1])).collect();
        let mut g = Tensor::cat(&gradients, 0);
        let norm = g.norm();
        g *= self.clip / norm.clamp_min(self.clip);
        for parameter in &mut self.decaying {
            *parameter *= 1.0 - lr * self.weight_decay;
        }
        let _ = self.mean.lerp_(&g, 1.0 - self.beta1);
        let _ = self.variance.lerp_(&g.square_(), 1.0 - self.beta2);
        // w -= lr * mean / (sqrt(variance / c) + epsilon), with everything but the division folded into the divisor.
        let c = 1.0 - self.beta2.powi(self.steps);
        let mut divisor = self.variance.sqrt();
        divisor *= -1.0 / (lr * c.sqrt());
        divisor += -EPSILON / lr;
        let _ = self.flat.addcdiv_(&self.mean, &divisor);
    }
}

/// Windows [B, T + 1] of tokens on `device`.
pub fn batch_tensor(data: &Dataset, windows: &[usize], sequence: usize, device: Device) -> Result<Tensor> {
    let tokens: Vec<i64> =
        windows.iter().flat_map(|&offset| &data.tokens[offset..=offset + sequence]).map(|&t| i64::from(t)).collect();
    let shape = [windows.len() as i64, sequence as i64 + 1];
    Ok(Tensor::f_from_slice(&tokens)?.f_view(shape)?.f_to(device)?)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A loss in nats as millionths, for the ledger.
pub fn micro_nats(nats: f64) -> MicroNats {
    (nats.max(0.0) * 1e6).round() as MicroNats
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{aggregate, codec, eval, outer};
    use ailo_protocol::{compression::Codec, params::Style, presets};

    fn small(style: Style) -> ModelConfig {
        let kv_heads = if style == Style::Gpt2 { 4 } else { 2 };
        ModelConfig { style, layers: 2, width: 64, heads: 4, kv_heads, ffn: 128, context: 64, ..presets::dev().model }
    }

    fn params() -> TrainingParams {
        // A few short rounds: momentum, which pays over many, would only overshoot.
        let base = TrainingParams { outer_lr: 1.0, outer_momentum: 0.0, ..presets::dev().training };
        TrainingParams { inner_steps: 10, batch: 8, sequence: 64, lr: 3e-3, warmup_steps: 5, ..base }
    }

    fn go(
        cfg: &ModelConfig,
        params: &TrainingParams,
        base: &ModelState,
        data: &Dataset,
        slot: u32,
        round: u64,
    ) -> Local {
        let windows = data.windows(params, &Hash([round as u8; 32]), slot, 4);
        train(cfg, params, round, base, data, &windows, Device::Cpu, &mut |_| Control::Continue).unwrap()
    }

    #[test]
    fn the_same_arguments_give_the_same_bits() {
        crate::set_threads(1);
        let data = Dataset::embedded();
        for style in [Style::Gpt2, Style::Modern] {
            let (cfg, params) = (small(style), params());
            let base = ModelState::initial(&cfg, 1);
            let first = go(&cfg, &params, &base, &data, 0, 0);
            assert_eq!(first, go(&cfg, &params, &base, &data, 0, 0));
            assert_ne!(first.update, go(&cfg, &params, &base, &data, 1, 0).update);
            assert!(first.loss_last < first.loss_first);
        }
    }

    #[test]
    fn real_rounds_of_four_workers_lower_the_held_out_loss() {
        crate::set_threads(1);
        let (data, params) = (Dataset::embedded(), params());
        for style in [Style::Gpt2, Style::Modern] {
            let cfg = small(style);
            let windows = data.held_out_windows(64, None, 64);
            let loss = |state: &ModelState| {
                eval::held_out_loss(&cfg, &state.weights, &data, 64, &windows, Device::Cpu).unwrap()
            };
            let mut state = ModelState::initial(&cfg, 1);
            let mut losses = vec![loss(&state)];
            for round in 0..3 {
                let updates: Vec<Vec<f32>> = (0..4)
                    .map(|slot| {
                        let local = go(&cfg, &params, &state, &data, slot, round);
                        codec::decode(
                            Codec::Int8,
                            &Hash::ZERO,
                            &codec::encode(Codec::Int8, &Hash::ZERO, &local.update).unwrap(),
                            state.weights.len(),
                        )
                        .unwrap()
                    })
                    .collect();
                let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
                let mean = aggregate::aggregate(&updates, &params.aggregation, 1, &Hash::ZERO).unwrap();
                state = outer::outer_step(&state, &mean, &params).unwrap();
                losses.push(loss(&state));
            }
            assert!(losses.is_sorted_by(|a, b| a > b), "{style:?}: {losses:?}");
            assert!(losses[3] + 1_000_000 < losses[0], "{style:?}: {losses:?}");
        }
    }

    #[test]
    fn a_callback_can_stop_and_bad_windows_are_refused() {
        let (cfg, params, data) = (small(Style::Gpt2), params(), Dataset::embedded());
        let base = ModelState::initial(&cfg, 1);
        let windows = data.windows(&params, &Hash::ZERO, 0, 1);
        let mut steps = 0;
        let mut control = |p: Progress| {
            steps = p.step;
            if p.step == 2 { Control::Stop } else { Control::Continue }
        };
        let stopped = train(&cfg, &params, 0, &base, &data, &windows, Device::Cpu, &mut control);
        assert!(matches!(stopped, Err(TrainingError::Stopped)) && steps == 2);
        for bad in [&windows[1..], &[], &vec![data.tokens.len() - 64; windows.len()]] {
            let refused = train(&cfg, &params, 0, &base, &data, bad, Device::Cpu, &mut |_| Control::Continue);
            assert!(matches!(refused, Err(TrainingError::Windows { .. })));
        }
        let short = ModelState { weights: vec![0.0; 3], momentum: vec![0.0; 3] };
        let refused = train(&cfg, &params, 0, &short, &data, &windows, Device::Cpu, &mut |_| Control::Continue);
        assert!(matches!(refused, Err(TrainingError::WeightCount { .. })));
    }

    #[test]
    fn the_rate_warms_up_once_and_falls_to_the_floor() {
        let p = TrainingParams {
            inner_steps: 10,
            lr: 1.0,
            lr_floor: 0.1,
            lr_rounds: 4,
            warmup_steps: 5,
            ..presets::dev().training
        };
        assert_eq!(learning_rate(&p, 0, 0), 0.2); // a fifth of the warm-up
        assert!(
            (learning_rate(&p, 2, 1) - (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * 21.0 / 40.0).cos()))).abs() < 1e-12
        );
        assert!((learning_rate(&p, 2, 0) - 0.55).abs() < 1e-12);
        assert!((learning_rate(&p, 99, 5) - 0.1).abs() < 1e-12 && learning_rate(&p, u64::MAX, u32::MAX) > 0.0);
    }

    #[test]
    fn adamw_is_the_published_one_but_for_the_correction_of_the_mean() {
        // One parameter tensor is checked against the textbook formulas in f64, over three steps.
        let cfg = small(Style::Modern);
        let params = TrainingParams { clip: 1e9, ..params() };
        let base = ModelState::initial(&cfg, 1);
        let model = Model::new(&cfg, &base.weights, Device::Cpu, false).unwrap();
        let mut optimiser = AdamW::new(&cfg, &model, &params);
        let (mut w, mut m, mut v) = (f64::from(base.weights[0]), 0.0, 0.0);
        for step in 1..=3 {
            let g = 0.1 * f64::from(step);
            let gradients: Vec<Tensor> = model.parameters().iter().map(|p| p.full_like(g)).collect();
            optimiser.step(&gradients, 0.01);
            w *= 1.0 - 0.01 * params.weight_decay;
            m = params.beta1 * m + (1.0 - params.beta1) * g;
            v = params.beta2 * v + (1.0 - params.beta2) * g * g;
            w -= 0.01 * m / ((v / (1.0 - params.beta2.powi(step))).sqrt() + EPSILON);
        }
        assert!((model.flat().double_value(&[0]) - w).abs() < 1e-6);
    }
}

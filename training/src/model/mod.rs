//! One decoder from a [`ModelConfig`]: GPT-2 style, or modern style (RMSNorm, rotary positions, grouped-query
//! attention, SwiGLU). [`Model::forward`] is the whole of it, to be read from top to bottom.
//!
//! Shapes: B sequences, T tokens, C = width, H heads and K key-value heads of width D, F = inner width, V = vocabulary.

mod layout;

pub(crate) use layout::{Block, Part, Parts};
pub use layout::{Init, Parameter, head_width, layout, parameter_count};

use crate::error::{Result, TrainingError};
use ailo_protocol::params::{ModelConfig, Style};
use tch::{Device, Kind, Tensor};

/// Added to a variance before its root is taken.
pub(crate) const EPSILON: f64 = 1e-5;
/// Base of the rotary frequencies (Su et al. 2021, RoFormer).
pub(crate) const ROPE_BASE: f64 = 10_000.0;

/// A decoder whose parameters are views of one flat tensor.
pub struct Model {
    cfg: ModelConfig,
    flat: Tensor,
    parameters: Vec<Tensor>,
    parts: Parts<Tensor>,
    rotation: Option<(Tensor, Tensor)>,
}

impl Model {
    /// Logits [B, T, V] of `tokens` [B, T].
    pub fn forward(&self, tokens: &Tensor) -> Tensor {
        let time = tokens.size()[1];
        let mut x = Tensor::embedding(&self.parts.embedding, tokens, -1, false, false); // [B, T, C]
        if let Some(positions) = &self.parts.positions {
            x += positions.narrow(0, 0, time);
        }
        let rotation = self.rotation.as_ref().map(|(cos, sin)| (cos.narrow(0, 0, time), sin.narrow(0, 0, time)));
        for block in &self.parts.blocks {
            x = &x + self.attention(block, &block.norm1.norm(&x), rotation.as_ref());
            x = &x + self.feed_forward(block, &block.norm2.norm(&x));
        }
        self.parts.norm.norm(&x).linear(&self.parts.embedding, None::<&Tensor>) // [B, T, V]
    }

    /// Causal self-attention, [B, T, C] to [B, T, C].
    fn attention(&self, block: &Block<Tensor>, x: &Tensor, rotation: Option<&(Tensor, Tensor)>) -> Tensor {
        let (batch, time) = (x.size()[0], x.size()[1]);
        let (heads, kv_heads, head) = (i64::from(self.cfg.heads), i64::from(self.cfg.kv_heads), head_width(&self.cfg));
        let qkv = block.qkv.linear(x).view([batch, time, heads + 2 * kv_heads, head]).transpose(1, 2); // [B, H + 2 K, T, D]
        let mut qk = qkv.narrow(1, 0, heads + kv_heads);
        if let Some((cos, sin)) = rotation {
            qk = rotate(&qk, cos, sin);
        }
        let q = qk.narrow(1, 0, heads); // [B, H, T, D]
        let k = qk.narrow(1, heads, kv_heads); // [B, K, T, D]
        let v = qkv.narrow(1, heads + kv_heads, kv_heads); // [B, K, T, D]
        // Token t sees tokens 0 ..= t.
        let (mask, causal) = (None::<&Tensor>, time > 1);
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, heads != kv_heads);
        block.out.linear(&y.transpose(1, 2).reshape([batch, time, heads * head]))
    }

    /// GELU or SwiGLU between two linear maps, [B, T, C] to [B, T, C].
    fn feed_forward(&self, block: &Block<Tensor>, x: &Tensor) -> Tensor {
        let up = block.up.linear(x); // [B, T, F], or [B, T, 2 F] with a gate
        block.down.linear(&match self.cfg.style {
            Style::Gpt2 => up.gelu("tanh"),
            Style::Modern => {
                let halves = up.chunk(2, -1);
                halves[0].silu() * &halves[1]
            }
        })
    }

    /// Mean cross-entropy, in nats a token, of windows [B, T + 1]: every token but the first is a target.
    pub fn loss(&self, windows: &Tensor) -> Tensor {
        let time = windows.size()[1] - 1;
        self.loss_of(&windows.narrow(1, 0, time), &windows.narrow(1, 1, time))
    }

    /// Number of tokens that there are.
    pub fn vocabulary(&self) -> i64 {
        i64::from(self.cfg.tokenizer.vocabulary())
    }

    /// The same of inputs [B, T] and targets [B, T].
    pub fn loss_of(&self, inputs: &Tensor, targets: &Tensor) -> Tensor {
        let (logits, targets) = (self.forward(inputs), targets.reshape([-1]));
        logits.view([-1, logits.size()[2]]).cross_entropy_loss(
            &targets,
            None::<&Tensor>,
            tch::Reduction::Mean,
            -100,
            0.0,
        )
    }

    /// A model on `device` with these weights (in the order of [`layout`]); `train` records gradients.
    pub fn new(cfg: &ModelConfig, weights: &[f32], device: Device, train: bool) -> Result<Model> {
        let layout = layout(cfg);
        let want = layout.iter().map(Parameter::len).sum();
        if weights.len() != want {
            return Err(TrainingError::WeightCount { got: weights.len(), want });
        }
        let flat = Tensor::f_from_slice(weights)?.f_to(device)?;
        let mut offset = 0;
        let mut parameters = Vec::with_capacity(layout.len());
        for parameter in &layout {
            let len = parameter.len() as i64;
            let view = flat.f_narrow(0, offset, len)?.f_view(parameter.shape.as_slice())?.f_detach()?;
            parameters.push(view.set_requires_grad(train));
            offset += len;
        }
        let parts = Parts::new(cfg, parameters.iter().map(Tensor::shallow_clone));
        let rotation = (cfg.style == Style::Modern).then(|| rotation(cfg, device));
        Ok(Model { cfg: *cfg, flat, parameters, parts, rotation })
    }

    /// The flat tensor of all parameters, which the model's own are views of.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The parameters in the order of [`layout`].
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }
}

impl Part<Tensor> {
    /// A linear map, with or without bias.
    fn linear(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// LayerNorm with a bias, RMSNorm without one.
    fn norm(&self, x: &Tensor) -> Tensor {
        let shape = self.weight.size();
        match &self.bias {
            Some(bias) => x.layer_norm(shape, Some(&self.weight), Some(bias), EPSILON, false),
            None => x.rms_norm(shape, Some(&self.weight), EPSILON),
        }
    }
}

/// Cosines and sines [context, D / 2] of the rotary positions.
fn rotation(cfg: &ModelConfig, device: Device) -> (Tensor, Tensor) {
    let head = head_width(cfg);
    let exponents = Tensor::arange(head / 2, (Kind::Double, device)) * (-2.0 / head as f64);
    let frequencies = (exponents * ROPE_BASE.ln()).exp();
    let angles = Tensor::arange(i64::from(cfg.context), (Kind::Double, device)).outer(&frequencies);
    (angles.cos().to_kind(Kind::Float), angles.sin().to_kind(Kind::Float))
}

/// Turns each pair (i, i + D / 2) of x [B, H, T, D] by its angle.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    let (a, b) = (&halves[0], &halves[1]);
    Tensor::cat(&[a * cos - b * sin, b * cos + a * sin], -1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ModelState;
    use ailo_protocol::presets;

    fn model(style: Style, kv_heads: u32) -> Model {
        crate::set_threads(1);
        let cfg = ModelConfig {
            style,
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads,
            ffn: 128,
            context: 32,
            ..presets::dev().model
        };
        let weights: Vec<f32> = ModelState::initial(&cfg, 1).weights.iter().map(|x| x * 8.0).collect();
        Model::new(&cfg, &weights, Device::Cpu, false).unwrap()
    }

    fn logits(model: &Model, tokens: &[i64]) -> Vec<Vec<f32>> {
        Vec::try_from(model.forward(&Tensor::from_slice(tokens).view([1, -1])).get(0)).unwrap()
    }

    #[test]
    fn no_token_sees_the_future_and_every_token_sees_its_past() {
        for (style, kv_heads) in [(Style::Gpt2, 4), (Style::Modern, 4), (Style::Modern, 2), (Style::Modern, 1)] {
            let model = model(style, kv_heads);
            let a = logits(&model, &[1, 2, 3, 4, 5, 6]);
            let b = logits(&model, &[1, 2, 3, 9, 5, 6]);
            assert_eq!(a[..3], b[..3], "{style:?}: the future leaks");
            assert!((3..6).all(|t| a[t] != b[t]), "{style:?}: the past is lost");
        }
    }

    #[test]
    fn order_matters() {
        for style in [Style::Gpt2, Style::Modern] {
            let model = model(style, 4);
            assert_ne!(logits(&model, &[1, 2, 3])[2], logits(&model, &[2, 1, 3])[2], "{style:?}");
        }
    }

    #[test]
    fn rotary_attention_depends_on_distance_alone() {
        let cfg = model(Style::Modern, 4).cfg;
        let (cos, sin) = rotation(&cfg, Device::Cpu);
        let row = |seed: f64| (Tensor::arange(16, (Kind::Float, Device::Cpu)) * seed).sin().view([1, 1, 1, 16]);
        let at = |x: &Tensor, position| rotate(x, &cos.narrow(0, position, 1), &sin.narrow(0, position, 1));
        let score = |q, k| (at(&row(1.3), q) * at(&row(0.7), k)).sum(Kind::Float).double_value(&[]);
        assert!((score(5, 2) - score(25, 22)).abs() < 1e-4);
        assert!((score(5, 2) - score(5, 4)).abs() > 1e-2);
    }

    #[test]
    fn an_untrained_model_knows_nothing() {
        let cfg = presets::dev().model;
        let model = Model::new(&cfg, &ModelState::initial(&cfg, 1).weights, Device::Cpu, false).unwrap();
        let tokens: Vec<i64> = (0..66).map(|i| i * 37 % 256).collect();
        let loss = model.loss(&Tensor::from_slice(&tokens).view([2, 33])).double_value(&[]);
        assert!((loss - 256f64.ln()).abs() < 0.2, "{loss}");
    }
}

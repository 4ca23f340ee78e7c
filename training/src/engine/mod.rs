//! The decoder without libtorch, for generation: [`Engine::forward`] is the whole of it, to be read from top to bottom.
//!
//! Its results, as long as they are finite, have the same bits on every machine, and a token's do not depend on how many are read at
//! once: each number is made by the same operations in the same order (`product.rs`, `math.rs`), whatever the instructions that the
//! machine has. So text goes on the same after what a cache held was lost and is read again, and anybody can check what another machine computed.
//! They agree with [`crate::model::Model`], which trains, up to rounding.
//!
//! Shapes: T tokens, C = width, H heads and K key-value heads of width D, F = inner width, V = vocabulary.

mod attention;
mod math;
mod product;
#[cfg(test)]
mod tests;

use crate::{
    error::{Result, TrainingError},
    model::{EPSILON, Parameter, Part, Parts, ROPE_BASE, head_width, layout},
};
use ailo_protocol::params::{ModelConfig, Style};
use attention::{Attention, Seen};
use pulp::Arch;
use std::ops::Range;

/// A decoder that reads its weights where they are.
pub struct Engine<'a> {
    cfg: ModelConfig,
    arch: Arch,
    parts: Parts<&'a [f32]>,
    rotation: Option<Rotation>,
}

impl<'a> Engine<'a> {
    /// What the last norm gives, [T, C], for `tokens` that continue what the cache holds.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Generate`] if a token is not in the vocabulary, or they do not fit into the context.
    pub fn forward(&self, tokens: &[u16], cache: &mut Cache) -> Result<Vec<f32>> {
        let (arch, width, past) = (self.arch, self.width(), cache.len);
        let positions = past..past + tokens.len();
        let mut x = self.embed(tokens, positions.clone())?; // [T, C]
        for (block, seen) in self.parts.blocks.iter().zip(&mut cache.blocks) {
            let mut qkv = block.qkv.linear(arch, &block.norm1.norm(arch, &x), width); // [T, (H + 2 K) D]
            if let Some(rotation) = &self.rotation {
                rotation.turn(&mut qkv, past, &self.cfg);
            }
            let y = arch.dispatch(Attention { cfg: &self.cfg, qkv: &qkv, past, seen }); // [T, C]
            add(&mut x, &block.out.linear(arch, &y, width));
            let up = block.up.linear(arch, &block.norm2.norm(arch, &x), width); // [T, F], or [T, 2 F] with a gate
            let ffn = self.cfg.ffn as usize;
            let inner = arch.dispatch(math::Activation { style: self.cfg.style, width: ffn, up: &up }); // [T, F]
            add(&mut x, &block.down.linear(arch, &inner, ffn));
        }
        cache.len = positions.end;
        Ok(self.parts.norm.norm(arch, &x))
    }

    /// Logits `[V]` of the token that follows a token whose row of [`Engine::forward`] this is.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Generate`] if they are not finite, as in a model that training has broken.
    pub fn logits(&self, row: &[f32]) -> Result<Vec<f32>> {
        let logits = product::product(self.arch, row, self.parts.embedding, self.width());
        let finite = logits.iter().all(|x| x.is_finite());
        finite.then_some(logits).ok_or(TrainingError::Generate("the model computes numbers that are not finite"))
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.cfg.width as usize
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache {
        Cache { len: 0, blocks: self.parts.blocks.iter().map(|_| Seen::new(&self.cfg)).collect() }
    }

    /// A decoder with these weights (in the order of [`layout`]).
    ///
    /// # Errors
    ///
    /// [`TrainingError::WeightCount`] if they are not as many as the model has.
    pub fn new(cfg: &ModelConfig, weights: &'a [f32]) -> Result<Engine<'a>> {
        Engine::on(Arch::new(), cfg, weights)
    }

    /// The same with the instructions of `arch`.
    fn on(arch: Arch, cfg: &ModelConfig, weights: &'a [f32]) -> Result<Engine<'a>> {
        let layout = layout(cfg);
        let want = layout.iter().map(Parameter::len).sum();
        if weights.len() != want {
            return Err(TrainingError::WeightCount { got: weights.len(), want });
        }
        let mut rest = weights;
        let parameters = layout.iter().map(|parameter| {
            let (this, after) = rest.split_at(parameter.len());
            rest = after;
            this
        });
        let parts = Parts::new(cfg, parameters);
        let rotation = (cfg.style == Style::Modern).then(|| Rotation::new(cfg));
        Ok(Engine { cfg: *cfg, arch, parts, rotation })
    }

    /// Rows of the embedding, and learned positions.
    fn embed(&self, tokens: &[u16], positions: Range<usize>) -> Result<Vec<f32>> {
        if positions.end > self.cfg.context as usize {
            return Err(TrainingError::Generate("the text is longer than the model's context"));
        }
        let mut x = Vec::with_capacity(tokens.len() * self.width());
        for token in tokens {
            let row = self.parts.embedding.chunks_exact(self.width()).nth(usize::from(*token));
            x.extend_from_slice(row.ok_or(TrainingError::Generate("a token is not in the model's vocabulary"))?);
        }
        if let Some(learned) = self.parts.positions {
            add(&mut x, &learned[positions.start * self.width()..positions.end * self.width()]);
        }
        Ok(x)
    }
}

fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

/// Keys and values of the tokens seen so far, for each block.
pub struct Cache {
    len: usize,
    blocks: Vec<Seen>,
}

impl Cache {
    /// Tokens seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Part<&[f32]> {
    /// A linear map, with or without bias: `[T, width]` to `[T, out]`.
    fn linear(&self, arch: Arch, x: &[f32], width: usize) -> Vec<f32> {
        let mut y = product::product(arch, x, self.weight, width);
        if let Some(bias) = self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        }
        y
    }

    /// LayerNorm with a bias, RMSNorm without one.
    fn norm(&self, arch: Arch, x: &[f32]) -> Vec<f32> {
        arch.dispatch(math::Norm { weight: self.weight, bias: self.bias, epsilon: EPSILON as f32, x })
    }
}

/// What turns queries and keys by their position: a frequency for each pair (i, i + D / 2).
struct Rotation {
    frequencies: Vec<f64>,
}

impl Rotation {
    fn new(cfg: &ModelConfig) -> Rotation {
        let head = head_width(cfg) as u32;
        let frequency = |i: u32| libm::exp(-2.0 / f64::from(head) * f64::from(i) * libm::log(ROPE_BASE));
        Rotation { frequencies: (0..head / 2).map(frequency).collect() }
    }

    /// Turns each pair of queries and keys by its angle.
    fn turn(&self, qkv: &mut [f32], past: usize, cfg: &ModelConfig) {
        let (head, heads, kv_heads) = (head_width(cfg) as usize, cfg.heads as usize, cfg.kv_heads as usize);
        for (at, row) in (past..).zip(qkv.chunks_exact_mut((heads + 2 * kv_heads) * head)) {
            let angles = self.frequencies.iter().map(|frequency| at as f64 * frequency);
            let turns: Vec<(f32, f32)> = angles.map(|x| (libm::cos(x) as f32, libm::sin(x) as f32)).collect();
            for turned in row[..(heads + kv_heads) * head].chunks_exact_mut(head) {
                let (left, right) = turned.split_at_mut(head / 2);
                for ((a, b), (cos, sin)) in left.iter_mut().zip(right).zip(&turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

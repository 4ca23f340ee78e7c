//! The decoder without libtorch, for generation: [`Engine::forward`] is the whole of it, to be read from top to bottom.
//!
//! Its results, as long as they are finite, have the same bits on every machine, and a token's do not depend on how many are read at
//! once, nor on what other sequences are: each number is made by the same operations in the same order (`product.rs`, `math.rs`),
//! whatever the instructions that the machine has. So text goes on the same after what a cache held was lost and is read again, and anybody can check
//! what another machine computed. They agree with [`crate::model::Model`], which trains, up to rounding.
//!
//! An engine may hold some of a model's layers: what enters the first of them comes from another machine, and what leaves the last goes to one.
//!
//! Shapes: T tokens, C = width, H heads and K key-value heads of width D, F = inner width, V = vocabulary.

mod attention;
mod gpu;
mod ints;
mod math;
mod matrix;
pub(crate) mod pages;
mod product;
mod shape;
#[cfg(test)]
mod tests;
mod weights;

pub use ailo_gpu::{Gpu, GpuError as NoGpu};
pub(crate) use math::weigh;
pub use matrix::{Dtype, Matrix};
pub(crate) use shape::frequencies;
pub use shape::{Activation, Norm, Shape};
pub use weights::{Block, Linear, NormWeights, Weights};

use crate::error::{Result, TrainingError};
#[cfg(test)]
use ailo_protocol::params::ModelConfig;
use attention::{Attention, Seen};
use pulp::Arch;
use std::ops::Range;

/// What an engine says that has not the last layer.
const NO_HEAD: TrainingError = TrainingError::Generate("the last layer is not here");

/// Layers of a decoder, which reads its weights where they are.
pub struct Engine {
    shape: Shape,
    layers: usize,
    weights: Weights,
    /// Where the layers are, if they are not among the weights.
    card: Option<gpu::Layers>,
    arch: Arch,
    threads: usize,
}

/// Positions of one sequence that are to be computed.
pub struct Part<'c> {
    /// What the sequence has seen; they follow it.
    pub cache: &'c mut Cache,
    /// How many they are.
    pub positions: usize,
}

impl Engine {
    /// The residual stream `x` [T, C] of all positions of `parts`, one after another, after the layers that their caches are of, which are the
    /// same for all.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Generate`] if a cache has no room for its positions or is of other layers, or `x` is not as long as they need; nothing is changed then.
    pub fn forward(&self, x: Vec<f32>, parts: &mut [Part<'_>]) -> Result<Vec<f32>> {
        self.check(&x, parts)?;
        if let Some(card) = &self.card {
            return card.forward(&self.shape, &x, &self.turns(parts).unwrap_or_default(), parts);
        }
        let largest = parts.iter().map(|part| part.positions).sum::<usize>() * self.shape.width * self.shape.ffn;
        if self.threads > 1 && largest >= 2 * product::SHARE {
            // On a thread of the pool: from any other, each product would wake one of these, and wait to be woken.
            return Ok(rayon::scope(|_| self.compute(x, parts)));
        }
        Ok(self.compute(x, parts))
    }

    fn compute(&self, mut x: Vec<f32>, parts: &mut [Part<'_>]) -> Vec<f32> {
        let (arch, threads, shape) = (self.arch, self.threads, &self.shape);
        let turns = self.turns(parts);
        let first = parts.first().map_or(0, |part| part.cache.first);
        for (layer, block) in self.weights.blocks.iter().skip(first).take(self.depth(parts)).enumerate() {
            let mut qkv = block.qkv.apply(arch, threads, &self.norm(&block.norm1, &x)); // [T, (H + 2 K) D]
            if let Some((queries, keys)) = &block.head_norms {
                arch.dispatch(math::HeadNorms { shape, queries, keys, qkv: &mut qkv });
            }
            if let Some(turns) = &turns {
                arch.dispatch(math::Turn { shape, turns, qkv: &mut qkv });
            }
            let mut rest = qkv.as_slice();
            let mut y = Vec::with_capacity(x.len()); // [T, H D]
            for part in parts.iter_mut() {
                let (own, others) = rest.split_at(part.positions * shape.qkv());
                let Kept::Here(seen) = &mut part.cache.kept else { continue }; // As `check` has seen.
                y.extend(arch.dispatch(Attention { shape, qkv: own, past: part.cache.len, seen: &mut seen[layer] }));
                rest = others;
            }
            add(&mut x, &block.out.apply(arch, threads, &y));
            let up = block.up.apply(arch, threads, &self.norm(&block.norm2, &x)); // [T, F], or [T, 2 F] with a gate
            let inner = arch.dispatch(math::Activate { activation: shape.activation, width: shape.ffn, up: &up }); // [T, F]
            add(&mut x, &block.down.apply(arch, threads, &inner));
        }
        parts.iter_mut().for_each(|part| part.cache.len += part.positions);
        x
    }

    /// What enters the first layer for `tokens` from position `at` on: [T, C].
    ///
    /// # Errors
    ///
    /// [`TrainingError::Generate`] if a token is not in the vocabulary, a position is beyond the context, or the embedding is not here.
    pub fn embed(&self, tokens: &[u32], at: usize) -> Result<Vec<f32>> {
        let embedding = self.weights.embedding.as_ref();
        let embedding = embedding.ok_or(TrainingError::Generate("the first layer is not here"))?;
        if at + tokens.len() > self.shape.context {
            return Err(TrainingError::Generate("the text is longer than the model's context"));
        }
        let mut x = Vec::with_capacity(tokens.len() * self.shape.width);
        for (position, token) in (at..).zip(tokens) {
            if *token as usize >= embedding.outs() {
                return Err(TrainingError::Generate("a token is not in the model's vocabulary"));
            }
            let mut row = embedding.row(*token as usize);
            if let Some(learned) = &self.weights.positions {
                add(&mut row, &learned.row(position));
            }
            x.extend(row);
        }
        Ok(x)
    }

    /// Logits [T, V] of the tokens that follow those after whose last layer the residual stream is `x` [T, C].
    ///
    /// # Errors
    ///
    /// [`TrainingError::Generate`] if they are not finite, as in a model that training has broken, or the last layer is not here.
    pub fn logits(&self, x: &[f32]) -> Result<Vec<f32>> {
        let logits = match (&self.card, &self.weights.norm, self.weights.head()) {
            (Some(card), ..) => card.logits(&self.shape, x)?,
            (None, Some(norm), Some(head)) => product::product(self.arch, self.threads, &self.norm(norm, x), head),
            _ => return Err(NO_HEAD),
        };
        let finite = logits.iter().all(|x| x.is_finite());
        finite.then_some(logits).ok_or(TrainingError::Generate("the model computes numbers that are not finite"))
    }

    /// The shape of the whole model.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Layers that are here.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// An empty cache for `room` positions and all layers that are here. Memory is taken as they come.
    pub fn cache(&self, room: usize) -> Cache {
        self.cache_of(0..self.layers(), room)
    }

    /// The same for some of the layers, of which 0 is the first that is here.
    pub fn cache_of(&self, layers: Range<usize>, room: usize) -> Cache {
        let (room, first) = (room.min(self.shape.context), layers.start);
        let kept = match &self.card {
            Some(card) => Kept::Card(gpu::Seen::new(card.gpu(), &self.shape, layers.len(), room)),
            None => Kept::Here(layers.map(|_| Seen::new(&self.shape, room)).collect()),
        };
        Cache { len: 0, room, first, kept }
    }

    fn depth(&self, parts: &[Part<'_>]) -> usize {
        parts.first().map_or(0, |part| part.cache.depth())
    }

    /// How far the positions of `parts` turn queries and keys, if they do.
    fn turns(&self, parts: &[Part<'_>]) -> Option<Vec<(f32, f32)>> {
        let positions = parts.iter().flat_map(|part| part.cache.len..part.cache.len + part.positions);
        self.shape.frequencies.as_ref().map(|frequencies| math::turns(frequencies, positions))
    }

    fn norm(&self, norm: &NormWeights, x: &[f32]) -> Vec<f32> {
        self.arch.dispatch(math::Normalise { kind: self.shape.norm, norm, epsilon: self.shape.epsilon, x })
    }

    fn check(&self, x: &[f32], parts: &[Part<'_>]) -> Result<()> {
        if x.len() != parts.iter().map(|part| part.positions).sum::<usize>() * self.shape.width {
            return Err(TrainingError::Generate("these are not the rows of the positions"));
        }
        let (first, depth) = (parts.first().map_or(0, |part| part.cache.first), self.depth(parts));
        let card = self.card.is_some();
        let other = |cache: &Cache| {
            (cache.first, cache.depth()) != (first, depth) || matches!(cache.kept, Kept::Card(_)) != card
        };
        if parts.iter().any(|part| other(part.cache)) || first + depth > self.layers() {
            return Err(TrainingError::Generate("the caches are of other layers"));
        }
        if parts.iter().any(|part| part.positions > part.cache.room - part.cache.len) {
            return Err(TrainingError::Generate("the text is longer than the room that was kept for it"));
        }
        Ok(())
    }
}

impl Engine {
    /// Layers with these weights, on up to `threads` threads at once.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] if a weight has another form than the shape asks for.
    pub fn new(shape: Shape, weights: Weights, threads: usize) -> Result<Engine> {
        weights.check(&shape)?;
        let layers = weights.blocks.len();
        Ok(Engine { shape, layers, weights, card: None, arch: Arch::new(), threads: threads.max(1) })
    }

    /// The same layers on a graphics card, once it has shown that it computes the same bits. Only what embeds tokens stays in this machine's memory.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Gpu`] if the card has too little memory or fails, [`TrainingError::OtherBits`] if it computes something else; with the
    /// engine as it was.
    pub fn on_card(mut self, gpu: &Gpu) -> std::result::Result<Engine, Box<(Engine, TrainingError)>> {
        let moved = gpu::Layers::new(gpu, &self.weights).and_then(|card| {
            let weights = Weights { embedding: None, positions: None, blocks: Vec::new(), norm: None, head: None };
            let Engine { ref shape, layers, arch, threads, .. } = self;
            let other = Engine { shape: shape.clone(), layers, weights, card: Some(card), arch, threads };
            if gpu::same(&self, &other)? { Ok(other.card) } else { Err(TrainingError::OtherBits(gpu.name().into())) }
        });
        match moved {
            Ok(card) => {
                self.card = card;
                let weights = &mut self.weights;
                (weights.blocks, weights.norm, weights.head) = (Vec::new(), None, None);
                Ok(self)
            }
            Err(e) => Err(Box::new((self, e))),
        }
    }

    /// The card that it is on.
    pub fn card(&self) -> Option<&Gpu> {
        self.card.as_ref().map(gpu::Layers::gpu)
    }

    /// The network's own model, whole, with weights in the order of [`crate::model::layout`], on one thread.
    ///
    /// # Errors
    ///
    /// [`TrainingError::WeightCount`] if they are not as many as the model has.
    #[cfg(test)]
    pub(crate) fn own(cfg: &ModelConfig, weights: impl AsRef<[f32]> + Send + 'static) -> Result<Engine> {
        Engine::new(Shape::of(cfg), Weights::own(cfg, weights, 0..cfg.layers as usize)?, 1)
    }

    /// The same with the instructions of `arch`.
    #[cfg(test)]
    fn on(self, arch: Arch) -> Engine {
        Engine { arch, ..self }
    }
}

fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

/// Keys and values of the positions that a sequence has seen, for each layer.
pub struct Cache {
    len: usize,
    room: usize,
    /// The first layer.
    first: usize,
    kept: Kept,
}

/// Where a cache is.
enum Kept {
    /// One for each layer.
    Here(Vec<Seen>),
    Card(gpu::Seen),
}

impl Cache {
    /// Positions seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a position.
    pub fn position(&self) -> usize {
        match &self.kept {
            Kept::Here(layers) => layers.iter().map(Seen::position).sum(),
            Kept::Card(seen) => seen.position(),
        }
    }

    fn depth(&self) -> usize {
        match &self.kept {
            Kept::Here(layers) => layers.len(),
            Kept::Card(seen) => seen.layers(),
        }
    }

    /// What it has on a card.
    fn on_card(&mut self) -> Result<&mut ailo_gpu::Seen> {
        match &mut self.kept {
            Kept::Card(seen) => seen.kept(),
            Kept::Here(_) => Err(TrainingError::Generate("the caches are of other layers")),
        }
    }

    /// Makes room for so many positions, if there is less.
    pub fn grow(&mut self, room: usize) {
        if room > self.room {
            *self = self.beginning(self.len, room);
        }
    }

    /// The first `positions` of it, with room for so many.
    pub fn beginning(&self, positions: usize, room: usize) -> Cache {
        let (len, room) = (self.len.min(positions), room.max(positions));
        let kept = match &self.kept {
            Kept::Here(layers) => Kept::Here(layers.iter().map(|seen| seen.beginning(len, room)).collect()),
            Kept::Card(seen) => Kept::Card(seen.beginning(len, room)),
        };
        Cache { len, room, first: self.first, kept }
    }

    /// Forgets positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

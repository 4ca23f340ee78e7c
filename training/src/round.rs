//! What a node does in a round, from top to bottom: train a slot, pack the update, admit what others sent, score it, make the next
//! state and measure it. The daemon, its replays and the simulation of attacks all call this.

use crate::{
    Dataset, Device, ModelState, Result, aggregate, check, codec, eval,
    inner::{self, Control, Local, Progress},
    model::parameter_count,
    outer,
};
use ailo_protocol::{
    Hash,
    contribution::MicroNats,
    params::{ModelConfig, TrainingParams},
};

/// What all rounds of a network have in common.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The model's shape.
    pub model: &'a ModelConfig,
    /// Inner and outer optimisation.
    pub training: &'a TrainingParams,
    /// What is trained on, and measured with.
    pub data: &'a Dataset,
    /// Where to compute.
    pub device: Device,
}

/// One participant's part of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Rounds closed before, which the learning rate follows.
    pub steps: u64,
    /// The round's seed, which deals out the data.
    pub seed: Hash,
    /// Which slot.
    pub slot: u32,
    /// Slots of the round.
    pub slots: u32,
}

/// By how much a loss fell.
pub fn lowered(before: MicroNats, after: MicroNats) -> i64 {
    let signed = |loss: MicroNats| i64::try_from(loss).unwrap_or(i64::MAX);
    signed(before).saturating_sub(signed(after))
}

impl Rules<'_> {
    /// Trains a slot from `base`: the same bits on every machine of a class.
    pub fn train(&self, slot: &Slot, base: &ModelState, control: &mut dyn FnMut(Progress) -> Control) -> Result<Local> {
        let windows = self.data.windows(self.training, &slot.seed, slot.slot, slot.slots);
        self.train_on(slot, base, &windows, control)
    }

    /// The same on other data windows than the slot's.
    pub fn train_on(
        &self,
        slot: &Slot,
        base: &ModelState,
        windows: &[usize],
        control: &mut dyn FnMut(Progress) -> Control,
    ) -> Result<Local> {
        inner::train(self.model, self.training, slot.steps, base, self.data, windows, self.device, control)
    }

    /// An update as it travels.
    pub fn encode(&self, update: &[f32], seed: &Hash) -> Result<Vec<u8>> {
        codec::encode(self.training.codec, seed, update)
    }

    /// Bytes of any encoded update.
    pub fn encoded_len(&self) -> usize {
        codec::encoded_len(self.training.codec, parameter_count(self.model))
    }

    /// Unpacks an update and makes every cheap check: it decodes, is finite, and is not too large.
    pub fn admit(&self, encoded: &[u8], base: &ModelState, seed: &Hash) -> Result<Vec<f32>> {
        let update = codec::decode(self.training.codec, seed, encoded, base.weights.len())?;
        check::check_update(&update, base, self.training)?;
        Ok(update)
    }

    /// Held-out loss of the base after one update, over windows that the seed draws.
    pub fn score(&self, update: &[f32], base: &ModelState, seed: &Hash) -> Result<MicroNats> {
        let (sequence, count) = (self.training.sequence, self.training.score_sequences);
        let windows = self.data.held_out_windows(sequence, Some(seed), count);
        let weights: Vec<f32> = base.weights.iter().zip(update).map(|(w, u)| w - u).collect();
        self.loss_over(&weights, &windows)
    }

    /// How much an update lowers the loss on a slot's data, in millionths of a nat a token: on half as many windows as a score has, which
    /// `lot` draws. Who has trained the slot gains more there than on held-out text, which two scores tell.
    pub fn gain(&self, slot: &Slot, base: &ModelState, update: &[f32], lot: &Hash) -> Result<i64> {
        let mut windows = self.data.windows(self.training, &slot.seed, slot.slot, slot.slots);
        lot.stream().shuffle(&mut windows);
        windows.truncate(self.training.score_sequences.div_ceil(2) as usize);
        let weights: Vec<f32> = base.weights.iter().zip(update).map(|(w, u)| w - u).collect();
        Ok(lowered(self.loss_over(&base.weights, &windows)?, self.loss_over(&weights, &windows)?))
    }

    /// The [`Rules::score`] of no update at all.
    pub fn score_of_base(&self, base: &ModelState, seed: &Hash) -> Result<MicroNats> {
        let windows = self.data.held_out_windows(self.training.sequence, Some(seed), self.training.score_sequences);
        self.loss_over(&base.weights, &windows)
    }

    /// The state after a round: its updates, in the order of their slots, become one, along which the base moves. A round has
    /// more than 2 `f` of them.
    pub fn next(&self, updates: &[Vec<f32>], base: &ModelState, f: usize, seed: &Hash) -> Result<ModelState> {
        let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
        let mean = aggregate::aggregate(&updates, &self.training.aggregation, f, seed)?;
        outer::outer_step(base, &mean, self.training)
    }

    /// Loss of a state over `count` held-out windows, evenly spread; `u32::MAX` for all.
    pub fn loss(&self, weights: &[f32], count: u32) -> Result<MicroNats> {
        self.loss_over(weights, &self.data.held_out_windows(self.training.sequence, None, count))
    }

    /// Loss over these windows.
    pub fn loss_over(&self, weights: &[f32], windows: &[usize]) -> Result<MicroNats> {
        eval::held_out_loss(self.model, weights, self.data, self.training.sequence, windows, self.device)
    }
}

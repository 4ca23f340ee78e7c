//! The data-parallel equivalent of a network's training, to compare it with: one plain process, one optimiser that is
//! never reset, the batches of all workers together, the same number of steps, and so the same tokens.

use crate::{
    Dataset, Device, ModelState, Result, eval,
    inner::{AdamW, batch_tensor, learning_rate},
    model::Model,
};
use ailo_protocol::{
    Hash,
    contribution::MicroNats,
    hash::Domain,
    params::{ModelConfig, TrainingParams},
};
use tch::Tensor;

/// What is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The model's shape.
    pub model: &'a ModelConfig,
    /// Inner optimisation; `batch` is one worker's.
    pub training: &'a TrainingParams,
    /// Training data.
    pub data: &'a Dataset,
    /// Seed of the initial weights and of the data's order.
    pub seed: u64,
    /// Workers whose batches are put together.
    pub workers: u32,
    /// Rounds of `inner_steps` steps.
    pub rounds: u64,
}

/// A finished training.
#[derive(Clone, Debug)]
pub struct Run {
    /// Peak learning rate.
    pub lr: f64,
    /// Loss over all held-out tokens.
    pub loss: MicroNats,
    /// Rounds and held-out loss in nats a token, on the sample that rounds are measured with.
    pub curve: Vec<(f64, f64)>,
    /// Final weights.
    pub weights: Vec<f32>,
}

impl Setup<'_> {
    /// Data windows of a worker in a round.
    pub fn windows(&self, round: u64, slot: u32) -> Vec<usize> {
        self.data.windows(self.training, &self.round_seed(round), slot, self.workers)
    }

    /// Seed of a round.
    pub fn round_seed(&self, round: u64) -> Hash {
        Hash::of_parts(Domain::Lot, &[&self.seed.to_le_bytes(), &round.to_le_bytes()])
    }

    /// Held-out loss over `count` windows (`u32::MAX` for all).
    pub fn loss(&self, weights: &[f32], count: u32) -> Result<MicroNats> {
        let sequence = self.training.sequence;
        let windows = self.data.held_out_windows(sequence, None, count);
        eval::held_out_loss(self.model, weights, self.data, sequence, &windows, Device::Cpu)
    }

    /// Trains the data-parallel equivalent with peak learning rate `lr`.
    pub fn data_parallel(&self, lr: f64) -> Result<Run> {
        let sequence = self.training.sequence as usize;
        let training = TrainingParams { lr, ..*self.training };
        let model = Model::new(self.model, &ModelState::initial(self.model, self.seed).weights, Device::Cpu, true)?;
        let mut optimiser = AdamW::new(self.model, &model, &training);
        let mut curve = Vec::new();
        for round in 0..self.rounds {
            let slots: Vec<Vec<usize>> = (0..self.workers).map(|slot| self.windows(round, slot)).collect();
            for step in 0..training.inner_steps {
                let batch = training.batch as usize;
                let first = step as usize * batch;
                let windows: Vec<usize> = slots.iter().flat_map(|slot| &slot[first..first + batch]).copied().collect();
                let loss = model.loss(&batch_tensor(self.data, &windows, sequence, Device::Cpu)?);
                let gradients = Tensor::f_run_backward(&[&loss], model.parameters(), false, false)?;
                optimiser.step(&gradients, learning_rate(&training, round, step));
            }
            let weights: Vec<f32> = Vec::try_from(model.flat())?;
            let loss = self.loss(&weights, training.eval_sequences)?;
            curve.push((round as f64 + 1.0, loss as f64 / 1e6));
        }
        let weights: Vec<f32> = Vec::try_from(model.flat())?;
        Ok(Run { lr, loss: self.loss(&weights, u32::MAX)?, curve, weights })
    }
}

//! Held-out loss.

use crate::{
    dataset::Dataset,
    error::{Result, TrainingError},
    inner::{batch_tensor, micro_nats},
    model::Model,
};
use ailo_protocol::{contribution::MicroNats, params::ModelConfig};
use tch::{Device, no_grad};

/// Tokens of one forward pass, about: large enough to be fast, small enough for any machine.
const TOKENS_AT_ONCE: usize = 2048;

/// Mean loss of `weights` over `windows` of `sequence` tokens (see [`Dataset::held_out_windows`]).
pub fn held_out_loss(
    cfg: &ModelConfig,
    weights: &[f32],
    data: &Dataset,
    sequence: u32,
    windows: &[usize],
    device: Device,
) -> Result<MicroNats> {
    let sequence = sequence as usize;
    data.check_windows(sequence, windows)?;
    let model = Model::new(cfg, weights, device, false)?;
    let mut sum = 0.0;
    for windows in windows.chunks((TOKENS_AT_ONCE / sequence).max(1)) {
        let batch = batch_tensor(data, windows, sequence, device)?;
        sum += no_grad(|| model.loss(&batch)).double_value(&[]) * windows.len() as f64;
    }
    let loss = sum / windows.len() as f64;
    if loss.is_finite() { Ok(micro_nats(loss)) } else { Err(TrainingError::State { reason: "its loss is not finite" }) }
}

//! The determinism class of a machine: the hash of what a small fixed training leaves here.
//!
//! Machines of one class get the same bits from the same training, so they can replay each other's. Library version,
//! thread count and instruction set decide it; the probe runs both model styles, so that it meets the kernels that real
//! training does.

use crate::{
    dataset::Dataset,
    error::Result,
    inner::{Control, train},
    state::ModelState,
};
use ailo_protocol::{
    Hash,
    aggregation::Aggregation,
    compression::Codec,
    hash::Domain,
    params::{ModelConfig, Style, Tokenizer, TrainingParams},
};
use tch::Device;

/// What the probe trains with; a change of any number changes every class.
const PROBE: TrainingParams = TrainingParams {
    inner_steps: 4,
    batch: 4,
    sequence: 64,
    lr: 4e-3,
    lr_floor: 0.1,
    lr_rounds: 20,
    warmup_steps: 80,
    beta1: 0.8,
    beta2: 0.95,
    weight_decay: 0.1,
    clip: 1.0,
    outer_lr: 1.0,
    outer_momentum: 0.7,
    max_update_norm: 2.0,
    eval_sequences: 1,
    score_sequences: 1,
    codec: Codec::Int8,
    aggregation: Aggregation::DEFAULT,
};

/// The class of this machine with training on `device`.
pub fn determinism_class(device: Device) -> Result<Hash> {
    let mut stream = Hash::of(Domain::Lot, b"determinism probe").stream();
    let text: Vec<u8> = (0..20_000).map(|_| b'a' + stream.below(26) as u8).collect();
    let data = Dataset::from_text("determinism probe", &text, Tokenizer::Bytes)?;
    let windows = data.windows(&PROBE, &Hash::ZERO, 0, 1);
    let mut roots = Vec::new();
    for style in [Style::Gpt2, Style::Modern] {
        let (heads, kv_heads) = if style == Style::Gpt2 { (4, 4) } else { (4, 2) };
        let cfg = ModelConfig {
            style,
            tokenizer: Tokenizer::Bytes,
            layers: 2,
            width: 128,
            heads,
            kv_heads,
            ffn: 512,
            context: 64,
        };
        let base = ModelState::initial(&cfg, 0);
        let local = train(&cfg, &PROBE, 0, &base, &data, &windows, device, &mut |_| Control::Continue)?;
        roots.extend(ModelState { weights: local.update, momentum: Vec::new() }.root().0);
    }
    Ok(Hash::of_parts(Domain::ModelChunk, &[b"determinism class", &roots]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_machine_is_of_one_class() {
        crate::set_threads(1);
        assert_eq!(determinism_class(Device::Cpu).unwrap(), determinism_class(Device::Cpu).unwrap());
    }
}

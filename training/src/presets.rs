//! Model and training of the development network; `docs/training.md` says how they were tuned.

use ailo_protocol::params::{ModelConfig, Style, Tokenizer, TrainingParams};

/// A decoder of about a million parameters that reads bytes.
pub fn dev_model() -> ModelConfig {
    ModelConfig {
        style: Style::Gpt2,
        tokenizer: Tokenizer::Bytes,
        layers: 4,
        width: 128,
        heads: 4,
        kv_heads: 4,
        ffn: 512,
        context: 128,
    }
}

/// Inner and outer optimisation for it.
pub fn dev_training() -> TrainingParams {
    TrainingParams {
        inner_steps: 50,
        batch: 8,
        sequence: 64,
        lr: 3e-3,
        lr_floor: 0.1,
        lr_rounds: 20,
        warmup_steps: 50,
        rewarm_steps: 5,
        beta1: 0.9,
        beta2: 0.98,
        weight_decay: 0.1,
        clip: 1.0,
        outer_lr: 1.0,
        outer_momentum: 0.0,
        max_update_norm: 2.0,
        eval_sequences: 256,
        score_sequences: 64,
    }
}

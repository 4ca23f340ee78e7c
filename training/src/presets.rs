//! Model and training of the development network; `docs/training.md` says how they were tuned.

use ailo_protocol::params::{ModelConfig, Style, Tokenizer, TrainingParams};

/// A decoder of about a million parameters that reads bytes.
pub fn dev_model() -> ModelConfig {
    ModelConfig {
        style: Style::Gpt2,
        tokenizer: Tokenizer::Bytes,
        layers: 2,
        width: 192,
        heads: 6,
        kv_heads: 6,
        ffn: 768,
        context: 64,
    }
}

/// Inner and outer optimisation for it.
pub fn dev_training() -> TrainingParams {
    TrainingParams {
        inner_steps: 25,
        batch: 32,
        sequence: 64,
        lr: 4e-3,
        lr_floor: 0.1,
        lr_rounds: 20,
        warmup_steps: 80,
        rewarm_steps: 3,
        beta1: 0.8,
        beta2: 0.95,
        weight_decay: 0.1,
        clip: 1.0,
        outer_lr: 1.0,
        outer_momentum: 0.7,
        max_update_norm: 2.0,
        eval_sequences: 256,
        score_sequences: 64,
    }
}

//! Training: models, tokenizers, datasets, inner training, the codec of updates, robust aggregation, the outer step,
//! evaluation and generation. It knows nothing of the ledger; what both share are types of `ailo-protocol`.
//!
//! What all nodes must agree on (the initial state, decoding, aggregation, the outer step, roots) is plain Rust in a
//! fixed order and has the same bits on every machine; what libtorch computes has the same bits within one [`class`].
//!
//! A round with two workers:
//!
//! ```
//! use ailo_protocol::{Hash, params::TrainingParams, presets};
//! use ailo_training::{round::{Rules, Slot}, *};
//!
//! set_threads(1);
//! let (data, dev) = (Dataset::embedded(), presets::dev());
//! let training = TrainingParams { inner_steps: 2, batch: 2, sequence: 32, ..dev.training };
//! let rules = Rules { model: &dev.model, training: &training, data: &data, device: device(false) };
//! let (base, seed) = (ModelState::initial(rules.model, 7), Hash::ZERO);
//!
//! let mut updates = Vec::new();
//! for slot in 0..2 {
//!     let slot = Slot { steps: 0, seed, slot, slots: 2 };
//!     let local = rules.train(&slot, &base, &mut |_| Control::Continue)?;
//!     let sent = rules.encode(&local.update, &seed)?;
//!     updates.push(rules.admit(&sent, &base, &seed)?);
//! }
//! let next = rules.next(&updates, &base, 0, &seed)?;
//! println!("M_1 is {}", next.root());
//! # Ok::<(), TrainingError>(())
//! ```

pub mod aggregate;
pub mod check;
pub mod checkpoint;
pub mod class;
pub mod codec;
pub mod dataset;
pub mod engine;
pub mod error;
pub mod eval;
mod file;
pub mod inner;
pub mod model;
pub mod outer;
pub mod overlap;
pub mod reference;
pub mod round;
pub mod sample;
pub mod simulation;
pub mod state;
pub mod text;
pub mod tokenizer;

pub use dataset::Dataset;
pub use error::{Result, TrainingError};
pub use inner::{Control, Local, Progress};
pub use state::ModelState;
pub use tch::Device;

/// Fixes the number of libtorch's threads in this process; the number is part of the determinism class. The pool
/// between operators has one thread always. Call it once, before any other use of this crate.
pub fn set_threads(threads: u32) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // libtorch allows the second pool to be sized once only.
    ONCE.call_once(|| tch::set_num_interop_threads(1));
    tch::set_num_threads(threads.clamp(1, 1024) as i32);
}

/// The device to train on: a GPU if there is one and it is wanted.
pub fn device(gpu: bool) -> Device {
    if gpu { Device::cuda_if_available() } else { Device::Cpu }
}

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
//! use ailo_training::*;
//!
//! set_threads(1);
//! let data = Dataset::embedded();
//! let cfg = presets::dev().model;
//! let params = TrainingParams { inner_steps: 2, batch: 2, sequence: 32, ..presets::dev().training };
//! let base = ModelState::initial(&cfg, 7);
//!
//! let mut updates = Vec::new();
//! for slot in 0..2 {
//!     let windows = data.windows(&params, &Hash::ZERO, slot, 2);
//!     let local = inner::train(&cfg, &params, 0, &base, &data, &windows, device(false), &mut |_| Control::Continue)?;
//!     let bytes = codec::encode(&local.update)?;
//!     let update = codec::decode(&bytes, base.weights.len())?;
//!     check::check_update(&update, &base, &params)?;
//!     updates.push(update);
//! }
//! let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
//! let mean = aggregate::aggregate(&updates, &params.aggregation, 0, &Hash::ZERO)?;
//! let next = outer::outer_step(&base, &mean, &params)?;
//! println!("M_1 is {}", next.root());
//! # Ok::<(), TrainingError>(())
//! ```

pub mod aggregate;
pub mod check;
pub mod class;
pub mod codec;
pub mod dataset;
pub mod error;
pub mod eval;
mod file;
pub mod generate;
pub mod inner;
pub mod model;
pub mod outer;
pub mod reference;
pub mod state;
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

//! What libFuzzer runs: the targets of `targets.rs`, with a meter on what each input allocates.
//!
//! Code of the node that has no part in libtorch is taken in by its path, so that this crate links none of it.

#[path = "../../training/src/codec.rs"]
pub mod codec;
#[path = "../../node/src/rpc/params.rs"]
pub mod params;
pub mod targets;
#[path = "../../node/src/rpc/types.rs"]
pub mod types;

/// What `codec.rs` knows of the errors of its crate.
pub mod error {
    /// An update that is not one.
    #[derive(Debug)]
    pub enum TrainingError {
        /// What is wrong with it.
        Codec(&'static str),
    }
    /// As in the training crate.
    pub type Result<T> = std::result::Result<T, TrainingError>;
}

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs the target of this name.
pub fn check(name: &str, data: &[u8]) {
    let target = targets::ALL.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no target {name}"));
    targets::check(target, data, || ALLOCATOR.stats().bytes_allocated);
}

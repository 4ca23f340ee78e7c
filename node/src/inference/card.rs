//! The graphics card that computes what is served, if there is one.

use super::run::SESSIONS;
use crate::machine;
use ailo_training::{
    TrainingError,
    engine::{Gpu, NoGpu},
};
use std::sync::OnceLock;

/// Of the card's free memory, so many tenths are for layers, unless told otherwise: texts take a quarter as much beside.
const LAYERS: u64 = 7;
/// Layers come to it through this machine's memory, and are computed there if it fails: of that they take so many quarters at most.
const MACHINE: u64 = 3;

/// This machine's card; looked for once.
pub fn find() -> Option<Gpu> {
    static FOUND: OnceLock<Option<Gpu>> = OnceLock::new();
    let look = || match Gpu::find() {
        Ok(card) => {
            tracing::debug!(card = card.name(), "there is a graphics card");
            Some(card)
        }
        Err(NoGpu::None) => None,
        Err(e) => {
            tracing::warn!(error = %TrainingError::from(e), "layers are computed by the processor");
            None
        }
    };
    FOUND.get_or_init(look).clone()
}

/// Bytes for sessions, unless told otherwise, where the processor has to do.
pub fn sessions_without() -> u64 {
    machine::memory() / 2 / SESSIONS
}

/// Bytes for layers on it, unless told otherwise.
pub fn room(card: &Gpu) -> Option<u64> {
    Some((card.memory().ok()?.0 / 10 * LAYERS).min(machine::memory() / 4 * MACHINE))
}

//! The graphics card that computes what is served, if there is one.

use ailo_training::{
    TrainingError,
    engine::{Gpu, NoGpu},
};
use std::sync::OnceLock;

/// Of the card's free memory, so many tenths are for layers, unless told otherwise: texts take a quarter as much beside.
const LAYERS: u64 = 7;

/// This machine's card; looked for once.
pub fn find() -> Option<Gpu> {
    static FOUND: OnceLock<Option<Gpu>> = OnceLock::new();
    let look = || match Gpu::find() {
        Ok(card) => {
            tracing::info!(card = card.name(), "layers are computed by a graphics card");
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

/// Bytes for layers on it, unless told otherwise.
pub fn room(card: &Gpu) -> Option<u64> {
    Some(card.memory().ok()?.0 / 10 * LAYERS)
}

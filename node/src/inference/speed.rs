//! How fast layers are on this machine.

use ailo_training::{
    engine::{Engine, Part},
    sample::{Sampling, sample},
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Passes that measure it.
const PROBE: usize = 4;

/// Microseconds that a single text's token takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// In a layer.
    pub layer_us: u32,
    /// Before the first layer, if that is here.
    pub embed_us: u32,
    /// After the last one, if that is here: logits, and the choice of a token.
    pub head_us: u32,
}

impl Speed {
    /// Measures it.
    pub fn of(engine: &Engine) -> Speed {
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let (row, sampling) = (vec![0.01; engine.shape().width], Sampling::default());
        let head = || engine.logits(&row).map(|logits| black_box(sample(&logits, &sampling, &[], 0))).is_ok();
        Speed {
            layer_us: us(pass(engine, 1) / engine.layers().max(1) as u32).max(1),
            embed_us: best(|| engine.embed(&[0], 0).is_ok()).map_or(0, us),
            head_us: best(head).map_or(0, us),
        }
    }

    /// In all that is here, of so many layers.
    pub fn token_us(&self, layers: usize) -> u32 {
        let layers = self.layer_us.saturating_mul(u32::try_from(layers).unwrap_or(u32::MAX));
        layers.saturating_add(self.embed_us).saturating_add(self.head_us)
    }
}

/// How long a pass over all layers that are here takes for so many positions: the best of a few.
pub fn pass(engine: &Engine, positions: usize) -> Duration {
    let row = vec![0.01; engine.shape().width * positions];
    let mut cache = engine.cache(positions * PROBE);
    let mut once = || engine.forward(row.clone(), &mut [Part { cache: &mut cache, positions }]).is_ok();
    best(&mut once).unwrap_or(Duration::MAX)
}

/// The shortest time of a few; none if it can't be done.
fn best(mut once: impl FnMut() -> bool) -> Option<Duration> {
    let timed = || {
        let started = Instant::now();
        once().then(|| started.elapsed())
    };
    std::iter::repeat_with(timed).take(PROBE).flatten().min()
}

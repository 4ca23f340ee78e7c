//! Centred clipping (Karimireddy et al. 2021).
//!
//! From v = 0 on, each step adds to v the mean of `(x_i - v) * min(1, radius / |x_i - v|)`: a row moves the result by
//! `radius / n` a step at most, however long it is. Rounds share no v, as nothing hidden may shape an aggregate.

use super::{point, rows::Rows};
use crate::error::Result;

/// Centred clipping to `radius` in `steps` steps.
pub(super) fn centered_clipping(rows: &Rows, radius: f64, steps: u32) -> Result<Vec<f32>> {
    let n = rows.count() as f64;
    let mut weights = vec![0.0; rows.count()];
    for _ in 0..steps {
        let distances = point::distances(rows, &weights)?;
        let factors: Vec<f64> = distances.iter().map(|d| if *d <= radius { 1.0 } else { radius / d }).collect();
        let left = 1.0 - factors.iter().sum::<f64>() / n;
        for (weight, factor) in weights.iter_mut().zip(&factors) {
            *weight = *weight * left + factor / n;
        }
    }
    point::point(rows, &weights)
}

//! The geometric median by the smoothed Weiszfeld algorithm (RFA; Pillutla et al. 2022).
//!
//! From z = 0 on, each step makes z the mean of the rows weighted by `1 / max(smoothing, |x_i - z|)`.

use super::{point, rows::Rows};
use crate::error::Result;

/// The geometric median after `steps` steps, no distance counting as less than `smoothing`.
pub(super) fn geometric_median(rows: &Rows, smoothing: f64, steps: u32) -> Result<Vec<f32>> {
    let mut weights = vec![0.0; rows.count()];
    for _ in 0..steps {
        let distances = point::distances(rows, &weights)?;
        let inverses: Vec<f64> = distances.iter().map(|d| 1.0 / d.max(smoothing)).collect();
        let total: f64 = inverses.iter().sum();
        weights = inverses.iter().map(|inverse| inverse / total).collect();
    }
    point::point(rows, &weights)
}

//! Cheap checks of a received update, with the same verdict on every machine: shape, finiteness, and a norm that is
//! plausible beside the base's. Norms are summed in f64 in a fixed order.

use crate::{
    error::{Result, TrainingError},
    state::ModelState,
};
use ailo_protocol::params::TrainingParams;
use rayon::prelude::*;

/// Values summed by themselves before the partial sums are added up; fixed, so that the sum is too.
const RUN: usize = 1 << 16;

/// The Euclidean norm.
pub fn norm(values: &[f32]) -> f64 {
    let runs: Vec<f64> =
        values.par_chunks(RUN).map(|run| run.iter().fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x))).collect();
    runs.iter().fold(0.0, |sum, run| sum + run).sqrt()
}

/// Checks a decoded update against its base.
pub fn check_update(update: &[f32], base: &ModelState, params: &TrainingParams) -> Result<()> {
    if update.len() != base.weights.len() {
        return Err(TrainingError::Update(format!("{} values for {} weights", update.len(), base.weights.len())));
    }
    if !update.iter().all(|x| x.is_finite()) {
        return Err(TrainingError::Update("a value is not finite".into()));
    }
    let (norm, bound) = (norm(update), norm(&base.weights) * f64::from(params.max_update_norm));
    if norm > bound {
        return Err(TrainingError::Update(format!("its norm is {norm:.3}, and at most {bound:.3} is plausible")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let values: Vec<f32> = (0..300_000).map(|i| (i % 977) as f32 * 0.013 - 5.0).collect();
        let norms = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| norm(&values)).to_bits()
        });
        assert!(norms.iter().all(|&bits| bits == norms[0]));
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
    }

    #[test]
    fn updates_of_wrong_length_size_or_kind_are_refused() {
        let base = ModelState { weights: vec![1.0; 4], momentum: vec![0.0; 4] };
        let params = TrainingParams { max_update_norm: 0.5, ..ailo_protocol::presets::dev().training };
        assert!(check_update(&[0.5; 4], &base, &params).is_ok());
        for bad in [vec![0.0; 3], vec![0.6; 4], vec![0.0, 0.0, 0.0, f32::NAN], vec![f32::INFINITY; 4]] {
            assert!(check_update(&bad, &base, &params).is_err(), "{bad:?}");
        }
    }
}

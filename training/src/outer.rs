//! The outer step: the shared state moves along the aggregated update by SGD with Nesterov momentum, as PyTorch's
//! `SGD(nesterov=True)` does: m' = mu m + g, w' = w - lr (g + mu m').
//!
//! Plain f32 in a fixed order, multiplication and addition apart (Rust never fuses them on its own), so that every
//! machine gets the same bits.

use crate::{
    error::{Result, TrainingError},
    state::ModelState,
};
use ailo_protocol::params::TrainingParams;

/// The state after `aggregate` was applied to `base`.
pub fn outer_step(base: &ModelState, aggregate: &[f32], params: &TrainingParams) -> Result<ModelState> {
    if aggregate.len() != base.weights.len() || base.momentum.len() != base.weights.len() {
        return Err(TrainingError::Aggregate("the aggregate's length is not the model's".into()));
    }
    let (lr, mu) = (params.outer_lr, params.outer_momentum);
    let momentum: Vec<f32> = base.momentum.iter().zip(aggregate).map(|(m, g)| mu * m + g).collect();
    let steps = aggregate.iter().zip(&momentum).map(|(g, m)| lr * (g + mu * m));
    let weights: Vec<f32> = base.weights.iter().zip(steps).map(|(w, step)| w - step).collect();
    if !weights.iter().chain(&momentum).all(|x| x.is_finite()) {
        return Err(TrainingError::Aggregate("the outer step left the finite numbers".into()));
    }
    Ok(ModelState { weights, momentum })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::Hash;

    fn params(outer_lr: f32, outer_momentum: f32) -> TrainingParams {
        TrainingParams { outer_lr, outer_momentum, ..ailo_protocol::presets::dev().training }
    }

    #[test]
    fn two_steps_are_those_of_pytorch() {
        // torch.optim.SGD([w], lr=0.5, momentum=0.5, nesterov=True) with w = 1 and gradients 1, then -2.
        let mut state = ModelState { weights: vec![1.0], momentum: vec![0.0] };
        state = outer_step(&state, &[1.0], &params(0.5, 0.5)).unwrap();
        assert_eq!((state.weights[0], state.momentum[0]), (0.25, 1.0));
        state = outer_step(&state, &[-2.0], &params(0.5, 0.5)).unwrap();
        assert_eq!((state.weights[0], state.momentum[0]), (1.625, -1.5));
    }

    #[test]
    fn rate_one_without_momentum_is_the_average_of_the_workers() {
        let state = ModelState { weights: vec![1.0, 2.0], momentum: vec![0.0; 2] };
        assert_eq!(outer_step(&state, &[0.25, -1.0], &params(1.0, 0.0)).unwrap().weights, [0.75, 3.0]);
    }

    #[test]
    fn the_bits_are_pinned() {
        let mut stream = Hash([3; 32]).stream();
        let mut numbers = || -> Vec<f32> { (0..1000).map(|_| stream.next_u64() as i64 as f32 * 1e-20).collect() };
        let mut state = ModelState { weights: numbers(), momentum: numbers() };
        for _ in 0..3 {
            state = outer_step(&state, &numbers(), &params(0.7, 0.9)).unwrap();
        }
        assert_eq!(state.root().to_string(), "55ae892bd4b5c3ca49b21a0312f4109e8f39e449eb9d799d3fc0fd106da77290");
    }

    #[test]
    fn an_aggregate_that_does_not_fit_is_an_error() {
        let state = ModelState { weights: vec![1.0], momentum: vec![0.0] };
        assert!(outer_step(&state, &[], &params(1.0, 0.0)).is_err());
        assert!(outer_step(&state, &[f32::INFINITY], &params(1.0, 0.0)).is_err());
    }
}

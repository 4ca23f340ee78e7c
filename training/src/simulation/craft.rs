//! Vectors that attacks are made of.

use std::cmp::Ordering;

/// Factors that inner-product manipulation tries.
const IPM_FACTORS: [f64; 12] = [-0.5, -0.25, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];
/// Deviations that "a little is enough" tries.
const ALIE_FACTORS: [f64; 8] = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
/// Steps of the power iteration.
const POWER_STEPS: usize = 64;

/// The plain mean.
pub fn mean(updates: &[Vec<f32>]) -> Vec<f32> {
    let count = updates.len() as f64;
    let columns = 0..updates.first().map_or(0, Vec::len);
    columns.map(|i| (updates.iter().map(|u| f64::from(u[i])).sum::<f64>() / count) as f32).collect()
}

/// `x * factor`.
pub fn scaled(x: &[f32], factor: f64) -> Vec<f32> {
    x.iter().map(|x| (f64::from(*x) * factor) as f32).collect()
}

/// `x + y * factor`.
pub fn plus(x: &[f32], y: &[f32], factor: f64) -> Vec<f32> {
    x.iter().zip(y).map(|(x, y)| (f64::from(*x) + f64::from(*y) * factor) as f32).collect()
}

/// The standard deviation of each coordinate (of a population, as ByzFL takes it when there are few).
pub fn deviation(updates: &[Vec<f32>]) -> Vec<f32> {
    let (mean, count) = (mean(updates), updates.len() as f64);
    let of = |i: usize| {
        let squares = updates.iter().map(|update| (f64::from(update[i]) - f64::from(mean[i])).powi(2));
        (squares.sum::<f64>() / count).sqrt() as f32
    };
    (0..mean.len()).map(of).collect()
}

/// What inner-product manipulation tries.
pub fn ipm_candidates(mean: &[f32]) -> Vec<Vec<f32>> {
    IPM_FACTORS.iter().map(|factor| scaled(mean, -factor)).collect()
}

/// What "a little is enough" tries.
pub fn alie_candidates(mean: &[f32], deviation: &[f32]) -> Vec<Vec<f32>> {
    let towards: Vec<f32> = mean.iter().zip(deviation).map(|(m, s)| if *m < 0.0 { -s } else { *s }).collect();
    let each = |z: &f64| [plus(mean, deviation, -z), plus(mean, deviation, *z), plus(mean, &towards, -z)];
    ALIE_FACTORS.iter().flat_map(each).collect()
}

/// Of each coordinate the honest value that is furthest from where the mean points: no rule that looks at single
/// coordinates can call it an outlier.
pub fn against(mean: &[f32], updates: &[Vec<f32>]) -> Vec<f32> {
    let of = |(i, mean): (usize, &f32)| {
        let values = updates.iter().map(|update| update[i]);
        match mean.partial_cmp(&0.0) {
            Some(Ordering::Less) => values.fold(f32::NEG_INFINITY, f32::max),
            _ => values.fold(f32::INFINITY, f32::min),
        }
    };
    mean.iter().enumerate().map(of).collect()
}

/// The largest honest magnitude, tenfold, in every coordinate for which at most `few` honest updates have a value.
pub fn where_nobody_sends(updates: &[Vec<f32>], few: usize) -> Vec<f32> {
    let largest = updates.iter().flatten().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let senders = |i: usize| updates.iter().filter(|update| update[i] != 0.0).count();
    let columns = 0..updates.first().map_or(0, Vec::len);
    columns.map(|i| if senders(i) <= few { 10.0 * largest } else { 0.0 }).collect()
}

/// The update with the largest part in the principal direction of their differences.
pub fn furthest_out(updates: &[Vec<f32>], mean: &[f32]) -> usize {
    let centred: Vec<Vec<f32>> = updates.iter().map(|update| plus(update, mean, -1.0)).collect();
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let gram: Vec<Vec<f64>> = centred.iter().map(|a| centred.iter().map(|b| product(a, b)).collect()).collect();
    let mut direction: Vec<f64> = (0..updates.len()).map(|i| 1.0 + i as f64).collect();
    for _ in 0..POWER_STEPS {
        let next: Vec<f64> = gram.iter().map(|row| row.iter().zip(&direction).map(|(a, b)| a * b).sum()).collect();
        let length = next.iter().map(|x: &f64| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        direction = next.iter().map(|x| x / length).collect();
    }
    let furthest = (0..direction.len()).max_by(|a, b| direction[*a].abs().total_cmp(&direction[*b].abs()));
    furthest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_against_the_mean_stays_within_the_honest_range() {
        let updates = [vec![1.0, -2.0, 0.5], vec![3.0, -1.0, -0.5], vec![2.0, -6.0, 0.3]];
        let mean = mean(&updates);
        assert_eq!(against(&mean, &updates), [1.0, -1.0, -0.5]);
    }

    #[test]
    fn the_one_who_differs_is_furthest_out() {
        let updates = [vec![1.0, 0.0], vec![1.1, 0.1], vec![0.9, -0.1], vec![-4.0, 3.0], vec![1.0, 0.05]];
        assert_eq!(furthest_out(&updates, &mean(&updates)), 3);
    }

    #[test]
    fn lonely_values_lie_where_few_send_any() {
        let updates = [vec![1.0, 0.0, 0.0], vec![-2.0, 0.5, 0.0], vec![1.0, 0.0, 0.0]];
        assert_eq!(where_nobody_sends(&updates, 1), [0.0, 20.0, 20.0]);
        assert_eq!(where_nobody_sends(&updates, 0), [0.0, 0.0, 20.0]);
    }

    #[test]
    fn deviations_are_a_populations() {
        assert_eq!(deviation(&[vec![1.0], vec![3.0]]), [1.0]);
    }
}

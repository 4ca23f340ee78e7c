//! What honest updates have in common, and what follows from it: the length that an aggregate should have, and how much each update
//! should count in neighbours' means.
//!
//! Updates of honest workers are a common part m and noise of their own, and in many dimensions the noise of one is nearly at
//! right angles to everything else: the inner product of any two of them is about |m|^2, the squared distance of any two about
//! `2 v`, where v is the squared length of the noise, and the mean over k of them is long
//!
//! `sqrt(|m|^2 + v / k)`.
//!
//! Attackers that send little, or something backwards, mostly shorten an aggregate, which costs progress in every round; the
//! products tell how long it should be.
//!
//! They also tell who points elsewhere: an update whose products with the others have the median p counts `2 p / q`, between 0 and 1,
//! where q is the f + 1-st smallest p: attackers cannot make it larger than an honest update's. What has no part in common with the
//! others, or one that points back, counts nothing.
//!
//! And copies count once. Attackers that all send one vector near the middle are everybody's nearest neighbours, and nearer each other than
//! honest updates can be. So what an update counts is divided by `1 + sum of r`, with `r = (1 - d^2 / 2 v - 0.3) / 0.7`, between 0 and 1, of its
//! squared distances d^2 to the others: honest updates keep what they count, also where they share a third of their noise. Who makes an honest
//! update count less must be near it, and counts less for it.
//!
//! |m|^2 is the median over updates of those medians p, 2 v that of the medians of their squared distances to the others. From n = 2 f + 2 on
//! each of these medians lies between the least and the greatest value of honest updates; with fewer, half of what an honest update is
//! compared with are attackers, and nothing is estimated.

use super::{distances::Distances, point, rows::Rows};
use crate::{check::norm, error::Result};

/// No aggregate is made longer than by this factor: what is so much too short is mostly not the common part.
const MOST: f64 = 4.0;
/// The share of their noise that honest updates may have in common before they count less.
const FREE: f64 = 0.3;

/// The shape that honest updates have.
pub(super) struct Common {
    /// Squared length of the common part; more than 0.
    part: f64,
    /// Squared length of an update's own part.
    noise: f64,
    /// The median of each update's products with the others.
    products: Vec<f64>,
    /// What such a median should be at least.
    least: f64,
}

impl Common {
    /// Nothing where the rows have nothing in common, or there are fewer than three or than 2 `f` + 2.
    pub(super) fn of(rows: &Rows, distances: &Distances, f: usize) -> Result<Option<Common>> {
        let count = rows.count();
        if count < 3.max(2 * f + 2) {
            return Ok(None);
        }
        let lengths = point::squares(rows, &vec![0.0; count])?;
        let medians = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let of_row = |i: usize| median((0..count).filter(|j| *j != i).map(|j| of(i, j)).collect());
            (0..count).map(of_row).collect()
        };
        let products = medians(&|i, j| 0.5 * (lengths[i] + lengths[j] - distances.square(i, j)));
        let noise = 0.5 * median(medians(&|i, j| distances.square(i, j)));
        let part = median(products.clone());
        let least = sorted(products.clone())[f].max(f64::MIN_POSITIVE);
        Ok((part > 0.0).then_some(Common { part, noise, products, least }))
    }

    /// The length that the mean of `count` honest rows has.
    pub(super) fn length(&self, count: usize) -> f64 {
        (self.part + self.noise / count as f64).sqrt()
    }

    /// How much each row counts: 1 if it points where the others do and is no nearer to another than honest rows are. More than half
    /// of them count something: those whose median is not below the median of these.
    pub(super) fn weights(&self, distances: &Distances) -> Vec<f64> {
        let rows = 0..self.products.len();
        let copied = |i: usize, j: usize| {
            let apart = distances.square(i, j) / (2.0 * self.noise);
            // Without noise all are copies, and alike.
            if self.noise > 0.0 { ((1.0 - apart - FREE) / (1.0 - FREE)).clamp(0.0, 1.0) } else { 0.0 }
        };
        let copies = |i: usize| rows.clone().filter(|j| *j != i).map(|j| copied(i, j)).sum::<f64>();
        rows.clone().map(|i| (2.0 * self.products[i] / self.least).clamp(0.0, 1.0) / (1.0 + copies(i))).collect()
    }
}

/// The lower median.
fn median(values: Vec<f64>) -> f64 {
    let middle = (values.len() - 1) / 2;
    sorted(values)[middle]
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The aggregate in that length.
pub(super) fn stretched(mut aggregate: Vec<f32>, length: f64) -> Vec<f32> {
    let own = norm(&aggregate);
    if own > 0.0 {
        // What leaves float32's range is for the outer step to refuse.
        let factor = (length / own).min(MOST);
        aggregate.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
    aggregate
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pulp::Arch;

    /// A common part 3 long, and noise of about the length 6, of 9 honest rows.
    fn honest() -> Vec<Vec<f32>> {
        let width = 4096;
        let row = |i: u64| {
            let mut stream = ailo_protocol::Hash([i as u8; 32]).stream();
            let noise = (0..width)
                .map(|_| (stream.below(2_000_001) as f32 * 1e-6 - 1.0) * 6.0 * (3.0f32 / width as f32).sqrt());
            noise.map(|x| x + 3.0 / (width as f32).sqrt()).collect()
        };
        (1..10).map(row).collect()
    }

    fn common(rows: &[Vec<f32>], f: usize) -> Option<(Common, Distances)> {
        let views: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let rows = Rows::new(&views, Arch::new());
        let distances = Distances::between(&rows).unwrap();
        Common::of(&rows, &distances, f).unwrap().map(|common| (common, distances))
    }

    fn length_of(rows: &[Vec<f32>], f: usize) -> Option<f64> {
        common(rows, f).map(|(common, _)| common.length(rows.len() - f))
    }

    fn weights_of(rows: &[Vec<f32>], f: usize) -> Vec<f64> {
        common(rows, f).map(|(common, distances)| common.weights(&distances)).unwrap()
    }

    #[test]
    fn it_is_the_length_of_the_honest_mean_whatever_a_minority_sends() {
        let honest = honest();
        let right = norm(&crate::simulation::craft::mean(&honest));
        let near = |found: Option<f64>| (found.unwrap() / right - 1.0).abs() < 0.05;
        assert!(near(length_of(&honest, 0)), "{:?} and {right}", length_of(&honest, 0));
        let backwards: Vec<f32> = honest[0].iter().map(|x| -x).collect();
        let long: Vec<f32> = honest[0].iter().map(|x| 100.0 * x).collect();
        for bad in [vec![0.0; 4096], backwards, long] {
            let all = [honest.clone(), vec![bad.clone(); 4]].concat();
            assert!(near(length_of(&all, 4)), "{:?} and {right}", length_of(&all, 4));
            // As many as can be, and one more.
            let most = [honest.clone(), vec![bad.clone(); 7]].concat();
            assert!((length_of(&most, 7).unwrap() / right - 1.0).abs() < 0.15, "{:?} and {right}", length_of(&most, 7));
            assert_eq!(length_of(&[honest.clone(), vec![bad; 8]].concat(), 8), None);
        }
    }

    #[test]
    fn honest_updates_count_in_full_and_copies_once_together() {
        let honest = honest();
        assert_eq!(weights_of(&honest, 0), [1.0; 9]);
        let with = |bad: Vec<Vec<f32>>| weights_of(&[honest.clone(), bad].concat(), 5);
        let total = |weights: &[f64]| weights.iter().sum::<f64>();
        // Copies of one of them: it counts as before, and they with it.
        let copied = with(vec![honest[0].clone(); 5]);
        assert!((total(&copied[9..]) + copied[0] - 1.0).abs() < 1e-3, "{copied:?}");
        assert_eq!(copied[1..9], [1.0; 8]);
        // Copies that lean on some of the honest, and copies near the middle: as near each other as before.
        let sum_of = |few: usize, share: f32| {
            (0..4096)
                .map(|c| honest[..few].iter().map(|x| share * (x[c] - 3.0 / 64.0)).sum::<f32>())
                .collect::<Vec<f32>>()
        };
        for (few, share) in [(4, 0.45), (9, 0.1), (2, 0.5)] {
            let weights = with(vec![sum_of(few, share); 5]);
            assert!(total(&weights[9..]) < 0.2 * total(&weights[..9]), "{few} x {share}: {weights:?}");
        }
        // Far ones change nothing for those who are near each other, whatever they lean on.
        let far = |k: usize| sum_of(9, 100.0 + k as f32);
        assert_eq!(with((0..5).map(far).collect())[..9], [1.0; 9]);
        // Honest updates that share a quarter of their noise are no copies of each other.
        let mixed = |i: usize| honest[i].iter().zip(&honest[8]).map(|(x, y)| 0.866 * x + 0.5 * y).collect::<Vec<f32>>();
        assert!(weights_of(&(0..8).map(mixed).collect::<Vec<_>>(), 2).iter().all(|weight| *weight > 0.99));
    }

    #[test]
    fn what_points_nowhere_or_back_counts_nothing() {
        let honest = honest();
        let mean = crate::simulation::craft::mean(&honest);
        let of = |share: f64| {
            let bad = crate::simulation::craft::scaled(&mean, share);
            let weights = weights_of(&[honest.clone(), vec![bad]].concat(), 3);
            assert!(weights[..9].iter().all(|weight| *weight > 0.8), "{weights:?}");
            weights[9]
        };
        assert_eq!([of(0.0), of(-0.3), of(-10.0)], [0.0; 3]);
        assert!((0.2..0.3).contains(&of(0.25)), "{}", of(0.25)); // Near all of them, too.
        assert!(of(10.0) == 1.0);
    }

    #[test]
    fn updates_that_are_all_alike_count_alike() {
        assert_eq!(weights_of(&vec![vec![1.0, 2.0]; 4], 1), [1.0; 4]);
    }

    #[test]
    fn it_is_none_where_nothing_is_in_common() {
        let one = |at: usize| (0..8).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        assert_eq!(length_of(&[one(0), one(1), one(2), one(3)], 1), None);
        assert_eq!(length_of(&[one(0), one(0)], 0), None);
    }

    #[test]
    fn an_aggregate_is_stretched_so_far_and_no_further() {
        assert_eq!(stretched(vec![3.0, 4.0], 10.0), [6.0, 8.0]);
        assert_eq!(stretched(vec![3.0, 4.0], 2.5), [1.5, 2.0]);
        assert_eq!(stretched(vec![3.0, 4.0], 1e9), [12.0, 16.0]);
        assert_eq!(stretched(vec![0.0, 0.0], 1.0), [0.0, 0.0]);
    }
}

//! The length that an aggregate should have, and aggregates of that length.
//!
//! Updates of honest workers are a common part m and noise of their own, and in many dimensions the noise of one is nearly at
//! right angles to everything else: the inner product of any two of them is about |m|^2, and their mean over k of them is long
//!
//! `sqrt(|m|^2 + (|x|^2 - |m|^2) / k)`.
//!
//! Attackers that send little, or something backwards, mostly shorten an aggregate, which costs progress in every round; the
//! products tell how long it should be. |m|^2 is estimated by medians: for each update that of its products with the others, and of
//! these the median; |x|^2 by that of the squared lengths; k is n - f. From n = 2 f + 2 on each of these medians lies between the
//! least and the greatest value of honest updates; with fewer, half of an honest update's products are with attackers, and the
//! aggregate stays as it is.

use super::{distances::Distances, point, rows::Rows};
use crate::{check::norm, error::Result};

/// No aggregate is made longer than by this factor: what is so much too short is mostly not the common part.
const MOST: f64 = 4.0;

/// The length that the mean of the honest rows has; none where the rows have nothing in common, or there are fewer than three
/// or than 2 `f` + 2.
pub(super) fn common(rows: &Rows, distances: &Distances, f: usize) -> Result<Option<f64>> {
    let count = rows.count();
    if count < 3.max(2 * f + 2) {
        return Ok(None);
    }
    let lengths = point::squares(rows, &vec![0.0; count])?;
    let product = |i: usize, j: usize| 0.5 * (lengths[i] + lengths[j] - distances.square(i, j));
    let of_row = |i: usize| median((0..count).filter(|j| *j != i).map(|j| product(i, j)).collect());
    let common = median((0..count).map(of_row).collect());
    let noise = (median(lengths.clone()) - common).max(0.0);
    let square = common + noise / (count - f) as f64;
    Ok((common > 0.0).then(|| square.sqrt()))
}

/// The lower median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
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

    fn common_of(rows: &[Vec<f32>], f: usize) -> Option<f64> {
        let views: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let rows = Rows::new(&views, Arch::new());
        common(&rows, &Distances::between(&rows).unwrap(), f).unwrap()
    }

    #[test]
    fn it_is_the_length_of_the_honest_mean_whatever_a_minority_sends() {
        let honest = honest();
        let right = norm(&crate::simulation::craft::mean(&honest));
        let near = |found: Option<f64>| (found.unwrap() / right - 1.0).abs() < 0.05;
        assert!(near(common_of(&honest, 0)), "{:?} and {right}", common_of(&honest, 0));
        let backwards: Vec<f32> = honest[0].iter().map(|x| -x).collect();
        let long: Vec<f32> = honest[0].iter().map(|x| 100.0 * x).collect();
        for bad in [vec![0.0; 4096], backwards, long] {
            let all = [honest.clone(), vec![bad.clone(); 4]].concat();
            assert!(near(common_of(&all, 4)), "{:?} and {right}", common_of(&all, 4));
            // As many as can be, and one more.
            let most = [honest.clone(), vec![bad.clone(); 7]].concat();
            assert!((common_of(&most, 7).unwrap() / right - 1.0).abs() < 0.15, "{:?} and {right}", common_of(&most, 7));
            assert_eq!(common_of(&[honest.clone(), vec![bad; 8]].concat(), 8), None);
        }
    }

    #[test]
    fn it_is_none_where_nothing_is_in_common() {
        let one = |at: usize| (0..8).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        assert_eq!(common_of(&[one(0), one(1), one(2), one(3)], 1), None);
        assert_eq!(common_of(&[one(0), one(0)], 0), None);
    }

    #[test]
    fn an_aggregate_is_stretched_so_far_and_no_further() {
        assert_eq!(stretched(vec![3.0, 4.0], 10.0), [6.0, 8.0]);
        assert_eq!(stretched(vec![3.0, 4.0], 2.5), [1.5, 2.0]);
        assert_eq!(stretched(vec![3.0, 4.0], 1e9), [12.0, 16.0]);
        assert_eq!(stretched(vec![0.0, 0.0], 1.0), [0.0, 0.0]);
    }
}

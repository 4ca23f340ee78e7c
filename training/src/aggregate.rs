//! Robust aggregation: the coordinate-wise trimmed mean (Yin et al. 2018).
//!
//! Of the n values of a coordinate the f largest and the f smallest are dropped; the rest is summed from the smallest
//! up in f32 and divided by n - 2f. The result does not depend on the updates' order, nor on the number of threads. f =
//! 0 is the plain mean, and has to be asked for.
//!
//! Work goes tile by tile: a tile of every update fits a core's cache, and a sorting network over whole rows of the
//! tile (Batcher's merge exchange; Knuth, TAOCP 3, 5.2.2 M) compares many coordinates at once.

use crate::error::{Result, TrainingError};
use rayon::prelude::*;

/// Coordinates of a tile.
const TILE: usize = 1024;

/// The trimmed mean of `updates` with the `f` largest and the `f` smallest values of each coordinate dropped.
pub fn trimmed_mean(updates: &[&[f32]], f: usize) -> Result<Vec<f32>> {
    let n = updates.len();
    let len = updates.first().map_or(0, |update| update.len());
    if updates.iter().any(|update| update.len() != len) {
        return Err(TrainingError::Aggregate("the updates differ in length"));
    }
    if f >= n || n - f <= f {
        return Err(TrainingError::Aggregate("too few updates: more than 2 f are needed"));
    }
    let network = sorting_network(n);
    let mut mean = vec![0.0; len];
    mean.par_chunks_mut(TILE).enumerate().try_for_each_init(Vec::new, |rows, (i, mean)| {
        let start = i * TILE;
        rows.clear();
        for update in updates {
            let tile = &update[start..start + mean.len()];
            if !tile.iter().all(|x| x.is_finite()) {
                return Err(TrainingError::Aggregate("an update holds a number that is not finite"));
            }
            rows.extend_from_slice(tile);
        }
        trimmed_mean_of_tile(rows, &network, n, f, mean);
        Ok(())
    })?;
    Ok(mean)
}

/// Sorts the columns of `rows` (n rows, each as long as `mean`) and averages the middle of each into `mean`.
fn trimmed_mean_of_tile(rows: &mut [f32], network: &[(usize, usize)], n: usize, f: usize, mean: &mut [f32]) {
    let width = mean.len();
    for &(low, high) in network {
        let (head, tail) = rows.split_at_mut(high * width);
        for (a, b) in head[low * width..][..width].iter_mut().zip(&mut tail[..width]) {
            // Finite numbers only; which of 0 and -0 comes first cannot change a sum that starts at 0.
            (*a, *b) = if *b < *a { (*b, *a) } else { (*a, *b) };
        }
    }
    mean.fill(0.0);
    for row in rows.chunks_exact(width).skip(f).take(n - 2 * f) {
        for (sum, x) in mean.iter_mut().zip(row) {
            *sum += x;
        }
    }
    let kept = (n - 2 * f) as f32;
    for sum in mean {
        *sum /= kept;
    }
}

/// Pairs (low, high) of rows to compare and exchange, in order, that sort n rows.
fn sorting_network(n: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            pairs.extend((0..n.saturating_sub(d)).filter(|i| i & p == r).map(|i| (i, i + d)));
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    pairs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::Hash;
    use proptest::prelude::*;

    /// The definition, coordinate by coordinate.
    fn reference(updates: &[&[f32]], f: usize) -> Vec<f32> {
        (0..updates[0].len())
            .map(|i| {
                let mut column: Vec<f32> = updates.iter().map(|u| u[i]).collect();
                column.sort_by(f32::total_cmp);
                let kept = &column[f..column.len() - f];
                kept.iter().fold(0.0, |sum, x| sum + x) / kept.len() as f32
            })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn golden_vectors() {
        let updates: [&[f32]; 5] =
            [&[1.0, -1.0, 0.1], &[2.0, -2.0, 0.2], &[3.0, -3.0, 0.3], &[4.0, -4.0, 0.4], &[1e9, 1e9, -1e9]];
        assert_eq!(trimmed_mean(&updates, 1).unwrap(), [3.0, -2.0, 0.2]);
        assert_eq!(trimmed_mean(&updates, 2).unwrap(), [3.0, -2.0, 0.2]);
        assert_eq!(trimmed_mean(&updates[..4], 0).unwrap(), [2.5, -2.5, 0.25]);
    }

    #[test]
    fn too_few_or_unequal_updates_are_an_error() {
        let (a, b): (&[f32], &[f32]) = (&[1.0, 2.0], &[1.0]);
        assert!(trimmed_mean(&[], 0).is_err());
        assert!(trimmed_mean(&[a, a], 1).is_err());
        assert!(trimmed_mean(&[a, b], 0).is_err());
        assert!(trimmed_mean(&[a], usize::MAX).is_err());
        assert!(trimmed_mean(&[&[f32::NAN]], 0).is_err());
    }

    #[test]
    fn the_network_sorts_every_zero_one_input() {
        for n in 1..=12 {
            let network = sorting_network(n);
            for input in 0..1u32 << n {
                let mut bits: Vec<bool> = (0..n).map(|i| input >> i & 1 == 1).collect();
                for &(low, high) in &network {
                    if bits[low] && !bits[high] {
                        bits.swap(low, high);
                    }
                }
                assert!(bits.is_sorted(), "n = {n}, input {input:b}");
            }
        }
    }

    #[test]
    fn f_attackers_of_any_size_cannot_move_the_mean_beyond_the_honest_values() {
        let honest: Vec<Vec<f32>> = (0..5).map(|i| vec![i as f32 * 0.1; 7]).collect();
        for lie in [f32::MAX, f32::MIN, 0.25] {
            let lies = vec![lie; 7];
            let updates: Vec<&[f32]> = honest.iter().map(Vec::as_slice).chain([lies.as_slice(), &lies]).collect();
            assert!(trimmed_mean(&updates, 2).unwrap().iter().all(|x| (0.0..=0.4).contains(x)), "lie {lie}");
        }
    }

    #[test]
    fn threads_and_order_do_not_change_a_bit() {
        let mut stream = Hash([7; 32]).stream();
        let updates: Vec<Vec<f32>> =
            (0..7).map(|_| (0..5000).map(|_| stream.next_u64() as i64 as f32 * 1e-20).collect()).collect();
        let mut order: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
        let expected = bits(&reference(&order, 2));
        for threads in [1, 2, 5] {
            stream.shuffle(&mut order);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(bits(&pool.install(|| trimmed_mean(&order, 2)).unwrap()), expected, "{threads} threads");
        }
    }

    proptest! {
        #[test]
        fn it_is_its_definition(
            updates in (1usize..20, 1usize..40).prop_flat_map(|(n, len)| prop::collection::vec(prop::collection::vec(-10f32..10.0, len), n)),
            f in 0usize..9,
        ) {
            let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
            match trimmed_mean(&updates, f) {
                Ok(mean) => prop_assert_eq!(bits(&mean), bits(&reference(&updates, f))),
                Err(_) => prop_assert!(updates.len() <= 2 * f),
            }
        }
    }
}

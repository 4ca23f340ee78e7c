//! Krum and multi-Krum (Blanchard et al. 2017; El Mhamdi et al. 2018).
//!
//! A row's score is the sum of its squared distances to the n - f - 1 nearest others, and the lowest score is the best. The
//! first paper sums one distance less and then needs n > 2 f + 2; with this many, n > 2 f is enough (Allouah et al.
//! 2023).

use super::{distances::Distances, point::point, rows::Rows};
use crate::error::Result;

/// The row with the best score; of equal ones the first.
pub(super) fn krum(rows: &Rows, f: usize) -> Result<Vec<f32>> {
    mean_of_best(rows, f, 1)
}

/// The mean of the n - f rows with the best scores; of equal ones the first.
pub(super) fn multi_krum(rows: &Rows, f: usize) -> Result<Vec<f32>> {
    mean_of_best(rows, f, rows.count() - f)
}

fn mean_of_best(rows: &Rows, f: usize, best: usize) -> Result<Vec<f32>> {
    let distances = Distances::between(rows)?;
    let n = rows.count();
    // From the nearest on, so that equal distances give equal scores. The first is the row itself.
    let score = |i| distances.nearest(i).take(n - f).skip(1).fold(0.0, |sum, (square, _)| sum + square);
    let mut order: Vec<(f64, usize)> = (0..n).map(|i| (score(i), i)).collect();
    order.sort_by(|(a, i), (b, j)| a.total_cmp(b).then(i.cmp(j)));
    let mut weights = vec![0.0; n];
    for (_, i) in &order[..best] {
        weights[*i] = 1.0 / best as f64;
    }
    point(rows, &weights)
}

//! Weighted sums of the rows: points that are given by one weight a row, and the rows' distances from them.
//!
//! All rules but the order statistics come down to such weights, so that between two passes n numbers are kept instead
//! of a vector as long as the model.

use super::{
    distances::squared_distance,
    rows::{Aligned, Columns, Row, Rows, Sums, TILE, Wide},
};
use crate::error::Result;
use pulp::Simd;

/// The point itself.
pub(super) fn point(rows: &Rows, weights: &[f64]) -> Result<Vec<f32>> {
    rows.each_column(&Point(weights))
}

/// The distance of each row from the point.
pub(super) fn distances(rows: &Rows, weights: &[f64]) -> Result<Vec<f64>> {
    Ok(squares(rows, weights)?.into_iter().map(f64::sqrt).collect())
}

/// The same, squared.
pub(super) fn squares(rows: &Rows, weights: &[f64]) -> Result<Vec<f64>> {
    rows.sum(&Point(weights))
}

struct Point<'a>(&'a [f64]);

impl Point<'_> {
    /// A tile of the point: the weighted rows are added up in their order.
    #[inline(always)]
    fn at(&self, rows: &[&Row], point: &mut Wide) {
        point.fill(0.0);
        for (row, weight) in rows.iter().zip(self.0) {
            for (sum, x) in point.iter_mut().zip(*row) {
                *sum += weight * f64::from(*x);
            }
        }
    }
}

impl Columns for Point<'_> {
    #[inline(always)]
    fn tile<S: Simd>(&self, _: S, rows: &[&Row], _: &mut [Aligned<Row>], values: &mut Row) {
        let mut point = Aligned([0.0; TILE]);
        self.at(rows, &mut point.0);
        for (value, x) in values.iter_mut().zip(&point.0) {
            *value = *x as f32;
        }
    }
}

impl Sums for Point<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, _: S, rows: &[&Row], _: &mut [Aligned<Row>], sums: &mut [f64]) {
        let mut point = Aligned([0.0; TILE]);
        self.at(rows, &mut point.0);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum += squared_distance(row, &point.0);
        }
    }
}

//! Squared Euclidean distances between all rows, as sums of squared differences: products of whole rows would cancel
//! where rows are near each other.
//!
//! Differences and squares are float32, added up over a tile's columns in [`LANES`] lanes of float32 and from there on in
//! double precision. That is off by a few millionths of a distance at most, unless squares leave float32's range: the
//! distances for which they may have are measured again in double precision.

use super::rows::{Aligned, Row, Rows, Sums, TILE, Wide};
use crate::error::Result;
use pulp::Simd;

/// Columns of a tile that are added up side by side.
const LANES: usize = 16;

/// The squared distance of each two rows.
pub(super) struct Distances {
    count: usize,
    /// Row after row; the one of rows i <= j stands at `i * count + j`.
    squares: Vec<f64>,
}

impl Distances {
    /// Those between all of `rows`.
    pub(super) fn between(rows: &Rows) -> Result<Distances> {
        let count = rows.count();
        let mut squares = rows.sum(&Quick(count))?;
        // Each square that is too small for float32 is off by less than this one's share of a millionth.
        let least = rows.len() as f64 * f64::from(f32::MIN_POSITIVE);
        let pairs = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
        let doubtful = |&(i, j): &(usize, usize)| !(least..f64::INFINITY).contains(&squares[i * count + j]);
        let doubtful: Vec<(usize, usize)> = pairs.filter(doubtful).collect();
        if !doubtful.is_empty() {
            let exact = rows.sum(&Exact(&doubtful))?;
            doubtful.iter().zip(exact).for_each(|((i, j), square)| squares[i * count + j] = square);
        }
        Ok(Distances { count, squares })
    }

    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The squared distance of two rows.
    pub(super) fn square(&self, i: usize, j: usize) -> f64 {
        if i == j { 0.0 } else { self.squares[i.min(j) * self.count + i.max(j)] }
    }

    /// Squared distance and number of each row, nearest to row `i` first: itself, then the others, of equally near ones
    /// the one with the lower number.
    pub(super) fn nearest(&self, i: usize) -> impl Iterator<Item = (f64, usize)> {
        let mut all: Vec<(f64, usize)> = (0..self.count).map(|j| (self.square(i, j), j)).collect();
        all.sort_by(|(a, j), (b, k)| (*j != i).cmp(&(*k != i)).then(a.total_cmp(b)).then(j.cmp(k)));
        all.into_iter()
    }
}

/// Squared distances of all pairs of so many rows.
struct Quick(usize);

impl Sums for Quick {
    fn count(&self) -> usize {
        self.0 * self.0
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, simd: S, rows: &[&Row], room: &mut [Aligned<Row>], sums: &mut [f64]) {
        for (aligned, row) in room.iter_mut().zip(rows) {
            aligned.0 = **row;
        }
        // Two rows against two: each value that is loaded serves twice. The last of an odd number is taken twice.
        let (n, last) = (self.0, self.0 - 1);
        for i in (0..n).step_by(2) {
            for j in (i..n).step_by(2) {
                let squares =
                    squares(simd, [&room[i].0, &room[last.min(i + 1)].0], [&room[j].0, &room[last.min(j + 1)].0]);
                for (i, squares) in (i..n).zip(squares) {
                    for (sum, square) in sums[i * n..][j..n].iter_mut().zip(squares) {
                        *sum += f64::from(square);
                    }
                }
            }
        }
    }
}

/// Squared distances of each of `a` to each of `b`.
#[inline(always)]
fn squares<S: Simd>(simd: S, a: [&Row; 2], b: [&Row; 2]) -> [[f32; 2]; 2] {
    let mut lanes = [[[0.0; LANES]; 2]; 2];
    let vectors = LANES / S::F32_LANES;
    for vector in 0..vectors {
        let mut sums = [[simd.splat_f32s(0.0); 2]; 2];
        for strip in (vector..TILE / S::F32_LANES).step_by(vectors) {
            for i in 0..2 {
                let x = S::as_simd_f32s(a[i]).0[strip];
                for j in 0..2 {
                    let difference = simd.sub_f32s(x, S::as_simd_f32s(b[j]).0[strip]);
                    sums[i][j] = simd.add_f32s(sums[i][j], simd.mul_f32s(difference, difference));
                }
            }
        }
        for i in 0..2 {
            for j in 0..2 {
                S::as_mut_simd_f32s(&mut lanes[i][j]).0[vector] = sums[i][j];
            }
        }
    }
    [[across(lanes[0][0]), across(lanes[0][1])], [across(lanes[1][0]), across(lanes[1][1])]]
}

/// The sum of the lanes: halves are added until one is left.
#[inline(always)]
fn across(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Squared distances of some pairs of rows.
struct Exact<'a>(&'a [(usize, usize)]);

impl Sums for Exact<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, _: S, rows: &[&Row], _: &mut [Aligned<Row>], sums: &mut [f64]) {
        let mut wide = [0.0; TILE];
        for (sum, &(i, j)) in sums.iter_mut().zip(self.0) {
            widen(rows[j], &mut wide);
            *sum += squared_distance(rows[i], &wide);
        }
    }
}

/// A row in double precision.
#[inline(always)]
pub(super) fn widen(row: &Row, wide: &mut Wide) {
    for (wide, x) in wide.iter_mut().zip(row) {
        *wide = f64::from(*x);
    }
}

/// The squared distance of a row and a point, in double precision: halves of the tile are added until one is left.
#[inline(always)]
pub(super) fn squared_distance(row: &Row, point: &Wide) -> f64 {
    let mut squares = Aligned([0.0; TILE]).0;
    for ((square, x), y) in squares.iter_mut().zip(row).zip(point) {
        let difference = f64::from(*x) - y;
        *square = difference * difference;
    }
    let mut half = TILE / 2;
    while half > 0 {
        let (low, high) = squares.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    squares[0]
}

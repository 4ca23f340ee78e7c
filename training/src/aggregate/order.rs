//! Order statistics of each coordinate: trimmed mean and median (Yin et al. 2018).
//!
//! The values in the middle are added up in double precision from the smallest up, so that the updates' order changes no
//! bit. Which of 0 and -0 counts as smaller is left open: a sum that starts at 0 shows no difference.

use super::{
    network::{CROSSED, INNER, Pattern, SORT, Step, sorting},
    rows::{Aligned, Columns, Row, Rows, TILE},
};
use crate::error::Result;
use pulp::Simd;

/// The mean of each coordinate's values without the `f` smallest and the `f` largest.
pub(super) fn trimmed_mean(rows: &Rows, f: usize) -> Result<Vec<f32>> {
    rows.each_column(&Middle::new(rows.count(), f))
}

/// The middle value of each coordinate, or the mean of the two middle ones.
pub(super) fn median(rows: &Rows) -> Result<Vec<f32>> {
    trimmed_mean(rows, (rows.count() - 1) / 2)
}

/// The mean of what remains of n sorted rows without the first and the last `cut`.
struct Middle {
    cut: usize,
    /// Steps that have rows that none before them had; they read the updates themselves.
    first: Vec<Step>,
    /// Rows that are in none of these.
    others: Vec<usize>,
    /// The other steps.
    then: Vec<Step>,
}

impl Middle {
    fn new(n: usize, cut: usize) -> Middle {
        let mut first = sorting(n, cut..n - cut);
        let mut others: Vec<usize> = (0..n).collect();
        let fresh = first.iter().take_while(|step| {
            let fresh = step.rows().iter().all(|row| others.contains(row));
            others.retain(|row| !fresh || !step.rows().contains(row));
            fresh
        });
        let then = first.split_off(fresh.count());
        Middle { cut, first, others, then }
    }
}

impl Columns for Middle {
    #[inline(always)]
    fn tile<S: Simd>(&self, simd: S, rows: &[&Row], room: &mut [Aligned<Row>], values: &mut Row) {
        for row in &self.others {
            room[*row].0 = *rows[*row];
        }
        for step in &self.first {
            compare(simd, Some(rows), room, step);
        }
        for step in &self.then {
            compare(simd, None, room, step);
        }
        let middle = &room[self.cut..rows.len() - self.cut];
        let mut sums = Aligned([0.0; TILE]);
        let (fours, rest) = middle.as_chunks::<4>();
        for [a, b, c, d] in fours {
            for (sum, (((a, b), c), d)) in sums.0.iter_mut().zip(a.0.iter().zip(&b.0).zip(&c.0).zip(&d.0)) {
                *sum = *sum + f64::from(*a) + f64::from(*b) + f64::from(*c) + f64::from(*d);
            }
        }
        for row in rest {
            for (sum, x) in sums.0.iter_mut().zip(&row.0) {
                *sum += f64::from(*x);
            }
        }
        let share = 1.0 / middle.len() as f64;
        for (value, sum) in values.iter_mut().zip(&sums.0) {
            *value = (sum * share) as f32;
        }
    }
}

/// Makes the comparisons of a step on rows of `room`, or on those of `fresh` into it.
#[inline(always)]
fn compare<S: Simd>(simd: S, fresh: Option<&[&Row]>, room: &mut [Aligned<Row>], step: &Step) {
    match *step {
        Step::Two(rows) => exchange(simd, fresh, room, rows, [[0, 1]]),
        Step::Four(rows, Pattern::Sort) => exchange(simd, fresh, room, rows, SORT),
        Step::Four(rows, Pattern::Inner) => exchange(simd, fresh, room, rows, INNER),
        Step::Four(rows, Pattern::Crossed) => exchange(simd, fresh, room, rows, CROSSED),
    }
}

/// The same for known comparisons among the step's rows: each value is loaded and stored once.
#[inline(always)]
fn exchange<S: Simd, const ROWS: usize, const PAIRS: usize>(
    simd: S,
    fresh: Option<&[&Row]>,
    room: &mut [Aligned<Row>],
    rows: [usize; ROWS],
    pairs: [[usize; 2]; PAIRS],
) {
    let fresh = fresh.map(|fresh| rows.map(|row| fresh[row]));
    let Ok(places) = room.get_disjoint_mut(rows) else { return };
    for i in 0..TILE / S::F32_LANES {
        let mut x = [simd.splat_f32s(0.0); ROWS];
        for row in 0..ROWS {
            let from = match fresh {
                Some(fresh) => fresh[row],
                None => &places[row].0,
            };
            x[row] = S::as_simd_f32s(from).0[i];
        }
        for [low, high] in pairs {
            (x[low], x[high]) = (simd.min_f32s(x[low], x[high]), simd.max_f32s(x[low], x[high]));
        }
        for row in 0..ROWS {
            S::as_mut_simd_f32s(&mut places[row].0).0[i] = x[row];
        }
    }
}

//! The rows that a rule reads, and the passes over them.
//!
//! A pass goes tile by tile: a tile holds the same [`TILE`] columns of every row and stays in a core's first cache.
//! Blocks of tiles are what threads share out. Where something is summed over columns, the sums of tiles are added up
//! within a block and those of blocks after it, always in the same order, so the number of threads changes nothing.
//!
//! Each block runs with the widest instructions that the machine has (`pulp` chooses among copies of the same code).
//! They compute the same bits: the code says in which order and in how many lanes it adds, and neither fuses nor
//! reorders anything.

use super::mix::{Means, Mix};
use crate::error::{Result, TrainingError};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a tile: sixteen rows of them take half of a first cache of 32 KiB.
pub(super) const TILE: usize = 256;
/// Columns that are read of one update on end: memory is faster so than by tiles, which then come from the second cache.
const BURST: usize = 8 * TILE;
/// Columns of a block.
const BLOCK: usize = 256 * TILE;

/// A row of a tile.
pub(super) type Row = [f32; TILE];
/// A row of a tile in double precision.
pub(super) type Wide = [f64; TILE];

/// Something that starts with a cache line, as what is read and written often should.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Aligned<T>(pub(super) T);

/// n updates of one length, or n means of some of them each.
pub(super) struct Rows<'a> {
    updates: &'a [&'a [f32]],
    mix: Option<Mix>,
    arch: Arch,
}

/// Something that has one value for each column.
pub(super) trait Columns: Sync {
    /// Computes it for the columns of a tile; `room` is room for as many rows.
    fn tile<S: Simd>(&self, simd: S, rows: &[&Row], room: &mut [Aligned<Row>], values: &mut Row);
}

/// Some sums over all columns.
pub(super) trait Sums: Sync {
    /// Their number.
    fn count(&self) -> usize;
    /// Adds those of a tile; `room` is room for as many rows.
    fn tile<S: Simd>(&self, simd: S, rows: &[&Row], room: &mut [Aligned<Row>], sums: &mut [f64]);
}

impl<'a> Rows<'a> {
    /// The updates, with the instructions of `arch`.
    pub(super) fn new(updates: &'a [&'a [f32]], arch: Arch) -> Rows<'a> {
        Rows { updates, mix: None, arch }
    }

    /// Means of the updates in place of the updates.
    pub(super) fn mixed(self, mix: Mix) -> Rows<'a> {
        Rows { mix: Some(mix), ..self }
    }

    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.mix.as_ref().map_or(self.updates.len(), Mix::count)
    }

    /// Number of columns.
    pub(super) fn len(&self) -> usize {
        self.updates.first().map_or(0, |update| update.len())
    }

    /// What `columns` is, column by column.
    pub(super) fn each_column(&self, columns: &impl Columns) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.len()];
        values.par_chunks_mut(BLOCK).enumerate().try_for_each(|(block, values)| {
            self.arch.dispatch(ColumnsOfBlock { rows: self, columns, start: block * BLOCK, values })
        })?;
        Ok(values)
    }

    /// What `sums` are over all columns.
    pub(super) fn sum(&self, sums: &impl Sums) -> Result<Vec<f64>> {
        let blocks = (0..self.len().div_ceil(BLOCK)).into_par_iter();
        let blocks = blocks.map(|block| self.arch.dispatch(SumsOfBlock { rows: self, sums, start: block * BLOCK }));
        let mut total = vec![0.0; sums.count()];
        for block in blocks.collect::<Result<Vec<_>>>()? {
            total.iter_mut().zip(block).for_each(|(total, sum)| *total += sum);
        }
        Ok(total)
    }

    fn tiles(&self) -> Tiles {
        Tiles { last: vec![[0.0; TILE]; self.updates.len()], means: self.mix.as_ref().map(Mix::room) }
    }

    /// Whether the numbers of these columns are finite.
    #[inline(always)]
    fn finite(&self, columns: Range<usize>) -> bool {
        let mut sums = [0.0; BURST];
        for update in self.updates {
            for (sum, x) in sums.iter_mut().zip(&update[columns.clone()]) {
                *sum += x;
            }
        }
        // A finite sum has finite terms alone; one that is not may have overflowed.
        sums.iter().fold(true, |finite, sum| finite & sum.is_finite())
            || self.updates.iter().all(|update| update[columns.clone()].iter().all(|x| x.is_finite()))
    }

    /// The columns from `start` on.
    #[inline(always)]
    fn tile<'t, S: Simd>(&'t self, simd: S, start: usize, tiles: &'t mut Tiles) -> Result<Vec<&'t Row>> {
        let len = self.len();
        if start.is_multiple_of(BURST) && !self.finite(start..len.min(start + BURST)) {
            return Err(TrainingError::Aggregate("an update holds a number that is not finite".into()));
        }
        if len - start < TILE {
            for (row, update) in tiles.last.iter_mut().zip(self.updates) {
                row[..len - start].copy_from_slice(&update[start..]);
            }
        }
        let row = |(update, last): (&&'t [f32], &'t Row)| update[start..].first_chunk().unwrap_or(last);
        let updates: Vec<&Row> = self.updates.iter().zip(&tiles.last).map(row).collect();
        Ok(match (&self.mix, &mut tiles.means) {
            (Some(mix), Some(means)) => mix.tile(simd, &updates, means).iter().map(|row| &row.0).collect(),
            _ => updates,
        })
    }
}

/// Room for the updates' last tile, which zeros fill up, and for the means of a tile.
struct Tiles {
    last: Vec<Row>,
    means: Option<Means>,
}

struct ColumnsOfBlock<'a, C> {
    rows: &'a Rows<'a>,
    columns: &'a C,
    start: usize,
    values: &'a mut [f32],
}

impl<C: Columns> WithSimd for ColumnsOfBlock<'_, C> {
    type Output = Result<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Result<()> {
        let mut tiles = self.rows.tiles();
        let mut room = vec![Aligned([0.0; TILE]); self.rows.count()];
        for (i, values) in self.values.chunks_mut(TILE).enumerate() {
            let rows = self.rows.tile(simd, self.start + i * TILE, &mut tiles)?;
            match <&mut Row>::try_from(&mut *values) {
                Ok(values) => self.columns.tile(simd, &rows, &mut room, values),
                Err(_) => {
                    let mut whole = [0.0; TILE];
                    self.columns.tile(simd, &rows, &mut room, &mut whole);
                    values.copy_from_slice(&whole[..values.len()]);
                }
            }
        }
        Ok(())
    }
}

struct SumsOfBlock<'a, S> {
    rows: &'a Rows<'a>,
    sums: &'a S,
    start: usize,
}

impl<S: Sums> WithSimd for SumsOfBlock<'_, S> {
    type Output = Result<Vec<f64>>;

    #[inline(always)]
    fn with_simd<V: Simd>(self, simd: V) -> Result<Vec<f64>> {
        let mut tiles = self.rows.tiles();
        let mut room = vec![Aligned([0.0; TILE]); self.rows.count()];
        let mut sums = vec![0.0; self.sums.count()];
        for start in (self.start..self.rows.len().min(self.start + BLOCK)).step_by(TILE) {
            let rows = self.rows.tile(simd, start, &mut tiles)?;
            self.sums.tile(simd, &rows, &mut room, &mut sums);
        }
        Ok(sums)
    }
}

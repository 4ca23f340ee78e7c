//! Means of sets of updates, weighted or not, which a rule reads in place of the updates: nearest-neighbour mixing (Allouah et al. 2023)
//! and bucketing (Karimireddy et al. 2022).
//!
//! The means are made tile by tile when they are read, so there is no copy of them. They are float32, their sums double
//! precision. As neighbours have much the same neighbours, the sum of one set, the core, is taken once, and each set
//! adds and subtracts what it has more or less. The core is the set of the update that has its neighbours nearest, so its sum holds no
//! update that is far from all others and would take the last digits of the sum with it.

use super::{
    distances::Distances,
    rows::{Aligned, Row, TILE},
};
use ailo_protocol::Hash;
use pulp::Simd;

/// Columns whose numbers are in double precision at once.
const SPAN: usize = 128;
/// Columns whose sums are added up at once.
const STRIP: usize = 32;

/// How far a set with weights reaches, in squared distances of its `n - f`-th nearest.
const REACH: f64 = 1.5;

/// Some sets of updates.
pub(super) struct Mix {
    /// How much each update counts.
    weights: Vec<f64>,
    core: Vec<usize>,
    sets: Vec<Set>,
}

/// A set, by what distinguishes it from the core.
struct Set {
    more: Vec<usize>,
    less: Vec<usize>,
    /// One divided by the sum of its weights.
    share: f64,
}

impl Mix {
    fn new(weights: Vec<f64>, core: &[usize], sets: &[Vec<usize>]) -> Mix {
        let without = |a: &[usize], b: &[usize]| {
            let mut left: Vec<usize> = a.iter().copied().filter(|i| !b.contains(i)).collect();
            left.sort_unstable();
            left
        };
        let set = |set: &Vec<usize>| {
            let (more, less) = (without(set, core), without(core, set));
            Set { more, less, share: 1.0 / set.iter().map(|i| weights[*i]).sum::<f64>() }
        };
        let sets = sets.iter().map(set).collect();
        Mix { core: without(core, &[]), sets, weights }
    }

    /// For each update the `n - f` nearest to it: itself and the nearest others, of equally near ones the first. With weights also
    /// the next nearest, until the set weighs `(n - f) / n` of all, but none much further than those.
    ///
    /// So what stands for an honest update is a mean of what is hardly further from it than honest updates are, whatever the weights.
    pub(super) fn nearest(distances: &Distances, f: usize, weights: Option<&[f64]>) -> Mix {
        let n = distances.count();
        let weights = weights.map_or_else(|| vec![1.0; n], <[f64]>::to_vec);
        let enough = (n - f) as f64 * weights.iter().sum::<f64>() / n as f64;
        let set = |i: usize| -> (f64, Vec<usize>) {
            let nearest: Vec<(f64, usize)> = distances.nearest(i).collect();
            let (reach, mut weight) = (REACH * nearest[n - f - 1].0, 0.0);
            let belongs = |(place, (square, j)): &(usize, (f64, usize))| {
                let lacking = weight < enough && *square <= reach;
                weight += weights[*j];
                *place < n - f || lacking
            };
            let mut set: Vec<usize> =
                nearest.into_iter().enumerate().take_while(belongs).map(|(_, (_, j))| j).collect();
            set.sort_unstable(); // The same set has the same mean, whoever it is the set of.
            (reach, set)
        };
        let (reaches, sets): (Vec<f64>, Vec<Vec<usize>>) = (0..n).map(set).unzip();
        let core = reaches.iter().zip(&sets).min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, set)| set.as_slice());
        Mix::new(weights, core.unwrap_or_default(), &sets)
    }

    /// The [`buckets`] of `n` updates.
    pub(super) fn buckets(n: usize, size: usize, seed: &Hash) -> Mix {
        Mix::new(vec![1.0; n], &[], &buckets(n, size, seed))
    }

    /// Number of sets.
    pub(super) fn count(&self) -> usize {
        self.sets.len()
    }

    /// Room for the means of a tile.
    pub(super) fn room(&self) -> Means {
        let sum = Aligned([0.0; SPAN]);
        Means { rows: vec![Aligned([0.0; TILE]); self.count()], wide: vec![sum; self.weights.len()], core: sum, sum }
    }

    /// The means of a tile.
    #[inline(always)]
    pub(super) fn tile<'m, S: Simd>(&self, simd: S, updates: &[&Row], means: &'m mut Means) -> &'m [Aligned<Row>] {
        let Means { rows, wide, core, sum } = means;
        for span in 0..TILE / SPAN {
            for ((wide, update), weight) in wide.iter_mut().zip(updates).zip(&self.weights) {
                for (wide, x) in wide.0.iter_mut().zip(&update.as_chunks::<SPAN>().0[span]) {
                    *wide = f64::from(*x) * weight;
                }
            }
            add(simd, &Aligned([0.0; SPAN]), wide, &self.core, &[], core);
            for (row, set) in rows.iter_mut().zip(&self.sets) {
                add(simd, core, wide, &set.more, &set.less, sum);
                for (mean, sum) in row.0.as_chunks_mut::<SPAN>().0[span].iter_mut().zip(&sum.0) {
                    *mean = (sum * set.share) as f32;
                }
            }
        }
        rows
    }
}

/// `sum = base + more - less`, one after another.
#[inline(always)]
#[allow(clippy::needless_range_loop, clippy::manual_memcpy)] // With indices alone the total stays in registers.
fn add<S: Simd>(simd: S, base: &Span, updates: &[Span], more: &[usize], less: &[usize], sum: &mut Span) {
    let vectors = STRIP / S::F64_LANES;
    for strip in 0..SPAN / STRIP {
        let mut total = [simd.splat_f64s(0.0); STRIP];
        for i in 0..vectors {
            total[i] = vectors_of::<S>(base, strip)[i];
        }
        for update in more {
            for i in 0..vectors {
                total[i] = simd.add_f64s(total[i], vectors_of::<S>(&updates[*update], strip)[i]);
            }
        }
        for update in less {
            for i in 0..vectors {
                total[i] = simd.sub_f64s(total[i], vectors_of::<S>(&updates[*update], strip)[i]);
            }
        }
        let sum = S::as_mut_simd_f64s(&mut sum.0.as_chunks_mut::<STRIP>().0[strip]).0;
        for i in 0..vectors {
            sum[i] = total[i];
        }
    }
}

/// A strip of `span`.
#[inline(always)]
fn vectors_of<S: Simd>(span: &Span, strip: usize) -> &[S::f64s] {
    S::as_simd_f64s(&span.0.as_chunks::<STRIP>().0[strip]).0
}

type Span = Aligned<[f64; SPAN]>;

/// Room for a tile's means, for a span of the updates in double precision, and for sums of it.
pub(super) struct Means {
    rows: Vec<Aligned<Row>>,
    wide: Vec<Span>,
    core: Span,
    sum: Span,
}

/// The numbers 0 to `n` - 1 in the order that `seed` draws, cut into buckets of `size`, of which the last may be smaller.
pub fn buckets(n: usize, size: usize, seed: &Hash) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    seed.stream().shuffle(&mut order);
    order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

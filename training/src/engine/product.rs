//! Matrix products whose every number is the same, whatever else is computed beside it.
//!
//! The product of a row x and a row w of weights is made so: both are filled up with zeros to a multiple of [`SPAN`]. Floats of
//! each span are put in the order of the weights' type ([`Float::place`]); lane l of [`LANES`] adds up `x[k] * w[k]` for all places k = l modulo
//! [`LANES`], in ascending order, each by one fused multiplication and addition. Integers (`ints.rs`) are multiplied and added exactly within a span,
//! and each lane adds that, times the span's scale, by one. Then halves of the lanes are added until one is left,
//! which a row of integers multiplies with its scale. A fused operation rounds once, so a machine without such an instruction
//! computes the same, slowly.
//!
//! Some rows of x meet some rows of w at once, so that each number that is loaded serves often, and threads take rows of w each; that changes no sum.

use super::{
    ints::Int8,
    matrix::{Dtype, F16_BIAS, Matrix},
};
use pulp::{
    Arch, Simd, WithSimd,
    bytemuck::{self, Pod},
};
use rayon::prelude::*;
use std::borrow::Cow;

/// Numbers that are added up side by side.
pub(super) const LANES: usize = 16;
/// Columns that are taken at once.
pub(super) const SPAN: usize = 64;
/// What is added to the same lanes of a span, one after another.
const GROUPS: usize = SPAN / LANES;
/// Numbers of weights that meet all rows of x before the next do: they stay in a second cache.
const BLOCK: usize = 1 << 16;
/// Multiplications that are worth another thread.
pub(super) const SHARE: usize = 1 << 20;

/// One row of lanes.
pub(super) type Lanes = [f32; LANES];

/// `x` [T, width] times the transpose of `weights` [outs, width], on up to `threads` threads: [T, outs].
pub(super) fn product(arch: Arch, threads: usize, x: &[f32], weights: &Matrix) -> Vec<f32> {
    match weights.dtype() {
        Dtype::F32 => shared::<F32>(arch, threads, x, weights),
        Dtype::F16 => shared::<F16>(arch, threads, x, weights),
        Dtype::Bf16 => shared::<Bf16>(arch, threads, x, weights),
        Dtype::Int8 => shared::<Int8>(arch, threads, x, weights),
    }
}

/// The product by as many threads as it is worth.
fn shared<E: Element>(arch: Arch, threads: usize, x: &[f32], weights: &Matrix) -> Vec<f32> {
    let (rows, outs) = (x.len() / weights.width(), weights.outs());
    // No thread is to have less than eight rows of weights.
    let shares = threads.min(rows * outs * weights.width() / SHARE).min(outs.div_ceil(8)).max(1);
    let x = E::given(x, weights.width());
    let share = |from: usize, to: usize| {
        let size = weights.bytes().len() / outs;
        let mut y = vec![0.0; rows * (to - from)];
        arch.dispatch(Product::<E> { x: &x, weights: &weights.bytes()[from * size..to * size], size, y: &mut y });
        if let Some(scales) = weights.scales() {
            let scales = &scales[from..to];
            y.chunks_exact_mut(to - from).for_each(|row| row.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale));
        }
        y
    };
    if shares == 1 {
        return share(0, outs);
    }
    let cuts: Vec<usize> = (0..=shares).map(|i| (outs * i / shares).next_multiple_of(8).min(outs)).collect();
    let parts: Vec<Vec<f32>> = cuts.par_windows(2).map(|cut| share(cut[0], cut[1])).collect();
    if rows == 1 {
        return parts.concat();
    }
    let mut y = Vec::with_capacity(rows * outs);
    for row in 0..rows {
        for (part, cut) in parts.iter().zip(cuts.windows(2)) {
            let width = cut[1] - cut[0];
            y.extend_from_slice(&part[row * width..][..width]);
        }
    }
    y
}

/// A type of weights in the inner loop.
pub(super) trait Element {
    /// A span of weights as it lies in memory.
    type Span: Pod;
    /// What it meets of x.
    type Given: Clone + Send + Sync;
    /// Lanes of a span in registers.
    type Loaded<S: Simd>: Copy;

    /// Rows of x, each of so many spans as its `width` numbers and some zeros are.
    fn given(x: &[f32], width: usize) -> Cow<'_, [Self::Given]>;

    /// Lanes `vector * F32_LANES ..` of each [`LANES`] places of a span. All at once, so that bytes that hold several numbers are loaded once, and
    /// nothing is decided in the inner loop.
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> Self::Loaded<S>;

    /// `sum` and the products of these lanes.
    fn meet<S: Simd>(simd: S, sum: S::f32s, x: &Self::Given, weights: Self::Loaded<S>, vector: usize) -> S::f32s;
}

/// A type of floats.
pub(super) trait Float {
    /// A span of weights as it lies in memory.
    type Span: Pod;

    /// Where the k-th number of a span is taken.
    fn place(k: usize) -> usize;

    /// As [`Element::load`], as float32.
    fn widen<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS];
}

impl<F: Float> Element for F {
    type Span = F::Span;
    type Given = [f32; SPAN];
    type Loaded<S: Simd> = [S::f32s; GROUPS];

    fn given(x: &[f32], width: usize) -> Cow<'_, [[f32; SPAN]]> {
        let places: [usize; SPAN] = std::array::from_fn(F::place);
        if places.is_sorted() && width.is_multiple_of(SPAN) {
            return Cow::Borrowed(x.as_chunks().0);
        }
        let mut given = vec![[0.0; SPAN]; x.len() / width * width.div_ceil(SPAN)];
        for (x, given) in x.chunks_exact(width).zip(given.chunks_exact_mut(width.div_ceil(SPAN))) {
            for (x, given) in x.chunks(SPAN).zip(given) {
                x.iter().zip(&places).for_each(|(x, place)| given[*place] = *x);
            }
        }
        Cow::Owned(given)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &F::Span, vector: usize) -> [S::f32s; GROUPS] {
        F::widen(simd, span, vector)
    }

    #[inline(always)]
    fn meet<S: Simd>(simd: S, sum: S::f32s, x: &[f32; SPAN], weights: [S::f32s; GROUPS], vector: usize) -> S::f32s {
        let (x, vectors) = (S::as_simd_f32s(x).0, LANES / S::F32_LANES);
        let sum = simd.mul_add_f32s(x[vector], weights[0], sum);
        let sum = simd.mul_add_f32s(x[vectors + vector], weights[1], sum);
        let sum = simd.mul_add_f32s(x[2 * vectors + vector], weights[2], sum);
        simd.mul_add_f32s(x[3 * vectors + vector], weights[3], sum)
    }
}

struct F32;
struct F16;
struct Bf16;

/// Lanes `vector * F32_LANES ..` of the `at`-th 16 words.
#[inline(always)]
fn words<S: Simd>(bytes: &[u8], at: usize, vector: usize) -> S::u32s {
    bytemuck::pod_read_unaligned(&bytes[(at * LANES + vector * S::U32_LANES) * 4..][..S::U32_LANES * 4])
}

/// The lower and the upper halves of the first sixteen words of a span, and of the second ones, each as upper half of a word.
#[inline(always)]
fn halves<S: Simd>(simd: S, span: &[u8], vector: usize) -> [S::u32s; GROUPS] {
    let (first, second) = (words::<S>(span, 0, vector), words::<S>(span, 1, vector));
    let (shift, upper) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
    [
        simd.wrapping_dyn_shl_u32s(first, shift),
        simd.and_u32s(first, upper),
        simd.wrapping_dyn_shl_u32s(second, shift),
        simd.and_u32s(second, upper),
    ]
}

/// A float16 that is the upper half of a word, as [`Matrix::row`] widens it.
#[inline(always)]
fn widened<S: Simd>(simd: S, upper: S::u32s) -> S::f32s {
    let sign = simd.and_u32s(upper, simd.splat_u32s(0x8000_0000));
    let size = simd.and_u32s(simd.wrapping_dyn_shr_u32s(upper, simd.splat_u32s(3)), simd.splat_u32s(0x0fff_ffff));
    simd.mul_f32s(simd.transmute_f32s_u32s(simd.or_u32s(sign, size)), simd.splat_f32s(F16_BIAS))
}

impl Float for F32 {
    type Span = [u8; SPAN * 4];

    #[inline(always)]
    fn place(k: usize) -> usize {
        k
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        [
            simd.transmute_f32s_u32s(words::<S>(span, 0, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 1, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 2, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 3, vector)),
        ]
    }
}

impl Float for Bf16 {
    type Span = [u8; SPAN * 2];

    /// The lower halves of sixteen words, then the upper ones.
    #[inline(always)]
    fn place(k: usize) -> usize {
        k / 32 * 32 + k % 32 / 2 + k % 2 * 16
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        let [a, b, c, d] = halves(simd, span, vector);
        [
            simd.transmute_f32s_u32s(a),
            simd.transmute_f32s_u32s(b),
            simd.transmute_f32s_u32s(c),
            simd.transmute_f32s_u32s(d),
        ]
    }
}

impl Float for F16 {
    type Span = [u8; SPAN * 2];

    #[inline(always)]
    fn place(k: usize) -> usize {
        Bf16::place(k)
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        let [a, b, c, d] = halves(simd, span, vector);
        [widened(simd, a), widened(simd, b), widened(simd, c), widened(simd, d)]
    }
}

struct Product<'a, E: Element> {
    x: &'a [E::Given],
    weights: &'a [u8],
    size: usize,
    y: &'a mut [f32],
}

impl<E: Element> WithSimd for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        all::<S, E>(simd, self.x, self.weights, self.size, self.y);
    }
}

/// The product of one row of float32 and rows of `width` into `y`, where the instructions are chosen already.
#[inline(always)]
pub(super) fn into<S: Simd>(simd: S, x: &[[f32; SPAN]], weights: &[f32], width: usize, y: &mut [f32]) {
    all::<S, F32>(simd, x, bytemuck::cast_slice(weights), width * 4, y);
}

/// All rows of `x`, and all of `weights`, `size` bytes each.
#[inline(always)]
fn all<S: Simd, E: Element>(simd: S, x: &[E::Given], weights: &[u8], size: usize, y: &mut [f32]) {
    let (outs, spans) = (weights.len() / size, size.div_ceil(size_of::<E::Span>()));
    let block = if x.len() == spans { outs } else { (BLOCK / SPAN / spans).max(1).next_multiple_of(8) };
    for (i, weights) in weights.chunks(block * size).enumerate() {
        // As many sums as there are registers for them.
        let done = match S::F32_LANES {
            LANES => rows::<S, E, 4, 4>(simd, x, spans, weights, size, y, outs, i * block),
            _ => rows::<S, E, 2, 4>(simd, x, spans, weights, size, y, outs, i * block),
        };
        rows::<S, E, 1, 4>(simd, &x[done * spans..], spans, weights, size, &mut y[done * outs..], outs, i * block);
    }
}

/// All whole groups of R rows of x, and all of `weights` (`size` bytes a row), whose first is row `at` of `outs`; gives the number of rows.
/// C parts of the weights are read side by side, each from its beginning to its end: memory is faster so than with C neighbouring rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rows<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    x: &[E::Given],
    spans: usize,
    weights: &[u8],
    size: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) -> usize {
    let count = weights.len() / size;
    let part = count / C;
    for (x, y) in x.chunks_exact(R * spans).zip(y.chunks_exact_mut(R * outs)) {
        for row in 0..part {
            tile::<S, E, R, C>(simd, x, spans, &weights[row * size..], size, part, y, outs, at + row);
        }
        for row in part * C..count {
            tile::<S, E, R, 1>(simd, x, spans, &weights[row * size..], size, part, y, outs, at + row);
        }
    }
    x.len() / spans / R * R
}

/// R rows times C rows, which are `part` rows apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // With indices alone the sums stay in registers.
fn tile<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    x: &[E::Given],
    spans: usize,
    w: &[u8],
    size: usize,
    part: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) {
    let mut lanes = [[[0.0; LANES]; C]; R];
    let whole = size / size_of::<E::Span>();
    let mut all_x: [&[E::Given]; R] = [&[]; R];
    let mut all_w: [&[E::Span]; C] = [&[]; C];
    let mut last_w: [E::Span; C] = [bytemuck::Zeroable::zeroed(); C];
    for r in 0..R {
        all_x[r] = &x[r * spans..][..spans];
    }
    for c in 0..C {
        let (spans, rest) = w[c * part * size..][..size].split_at(whole * size_of::<E::Span>());
        all_w[c] = &bytemuck::cast_slice(spans)[..whole];
        bytemuck::bytes_of_mut(&mut last_w[c])[..rest.len()].copy_from_slice(rest);
    }
    for vector in 0..LANES / S::F32_LANES {
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        for span in 0..whole {
            for c in 0..C {
                let loaded = E::load(simd, &all_w[c][span], vector);
                for r in 0..R {
                    sums[r][c] = E::meet(simd, sums[r][c], &all_x[r][span], loaded, vector);
                }
            }
        }
        if whole < spans {
            for c in 0..C {
                let loaded = E::load(simd, &last_w[c], vector);
                for r in 0..R {
                    sums[r][c] = E::meet(simd, sums[r][c], &all_x[r][whole], loaded, vector);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                S::as_mut_simd_f32s(&mut lanes[r][c]).0[vector] = sums[r][c];
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            y[r * outs + at + c * part] = reduced(simd, &lanes[r][c]);
        }
    }
}

/// [`across`], by instructions that add halves.
#[inline(always)]
fn reduced<S: Simd>(simd: S, lanes: &Lanes) -> f32 {
    // Other machines' add neighbours.
    if cfg!(not(target_arch = "x86_64")) || S::F32_LANES == 1 {
        return across(*lanes);
    }
    match S::as_simd_f32s(lanes).0 {
        [all] => simd.reduce_sum_f32s(*all),
        [lower, upper] => simd.reduce_sum_f32s(simd.add_f32s(*lower, *upper)),
        _ => across(*lanes),
    }
}

/// Fewer than [`LANES`] numbers, and zeros.
#[inline(always)]
fn padded(rest: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// The sum of the lanes: halves are added until one is left.
#[inline(always)]
pub(super) fn across(mut lanes: Lanes) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The sum of `values` and that of their squares, lane by lane and then across.
#[inline(always)]
pub(super) fn sums(values: &[f32]) -> (f32, f32) {
    let (whole, rest) = values.as_chunks::<LANES>();
    let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
    for chunk in whole {
        both(&mut sums, &mut squares, chunk);
    }
    both(&mut sums, &mut squares, &padded(rest));
    (across(sums), across(squares))
}

#[inline(always)]
fn both(sums: &mut Lanes, squares: &mut Lanes, chunk: &Lanes) {
    for l in 0..LANES {
        sums[l] += chunk[l];
        squares[l] = chunk[l].mul_add(chunk[l], squares[l]);
    }
}

/// The largest of `values`, none of which is NaN.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in whole {
        for l in 0..LANES {
            lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u8) -> Vec<f32> {
        let mut stream = ailo_protocol::Hash([seed; 32]).stream();
        (0..count).map(|_| stream.below(2001) as f32 * 1e-3 - 1.0).collect()
    }

    fn halved(mut lanes: Lanes) -> f32 {
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
    }

    /// One number by the definition at the head of the file.
    fn defined(x: &[f32], w: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (k, (x, w)) in x.iter().zip(w).enumerate() {
            lanes[k % LANES] = x.mul_add(*w, lanes[k % LANES]);
        }
        halved(lanes)
    }

    /// The same of integers, of which two neighbours share a lane.
    fn defined_of_ints(x: &[f32], w: &[u8]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (x, w) in x.chunks(SPAN).zip(w.chunks(SPAN)) {
            let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (lane, sum) in lanes.iter_mut().enumerate() {
                let places =
                    [2 * lane, 2 * lane + 1, 32 + 2 * lane, 33 + 2 * lane].into_iter().filter(|k| *k < x.len());
                let term =
                    |k: usize| (x[k] * (32767.0 / largest)).round_ties_even() as i32 * i32::from(w[k].cast_signed());
                *sum = (largest / 32767.0).mul_add(places.map(term).sum::<i32>() as f32, *sum);
            }
        }
        halved(lanes)
    }

    fn in_order<F: Float>(x: &[f32]) -> Vec<f32> {
        F::given(x, x.len()).concat()
    }

    #[test]
    fn every_number_is_the_defined_one_whatever_stands_beside_it() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8] {
            for (rows, outs, width) in [
                (1, 1, 1),
                (1, 9, 16),
                (3, 33, 40),
                (4, 64, 128),
                (9, 70, 100),
                (6, 5, 15),
                (5, 70, 8192),
                (2, 1030, 2048),
                (1, 1030, 2100),
            ] {
                let (x, w) = (values(rows * width, 1), values(outs * width, 2));
                let w = Matrix::of(w.clone(), width).to(dtype);
                let right = |x: &[f32], o: usize| match dtype {
                    Dtype::F32 => defined(x, &w.row(o)),
                    Dtype::F16 | Dtype::Bf16 => defined(&in_order::<Bf16>(x), &in_order::<Bf16>(&w.row(o))),
                    Dtype::Int8 => defined_of_ints(x, &w.bytes()[o * width..][..width]) * w.scales().unwrap()[o],
                };
                for (arch, threads) in
                    crate::engine::tests::arches().into_iter().flat_map(|arch| [(arch, 1), (arch, 3), (arch, 40)])
                {
                    let y = product(arch, threads, &x, &w);
                    for (r, x) in x.chunks(width).enumerate() {
                        for o in (0..outs).step_by(1 + outs / 20) {
                            let (is, right) = (y[r * outs + o], right(x, o));
                            assert_eq!(is.to_bits(), right.to_bits(), "{dtype} {rows} {outs} {width}: {is} {right}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sums_are_products_with_ones_and_with_themselves() {
        for count in [0, 1, 15, 16, 17, 100] {
            let x = values(count, 3);
            assert_eq!(sums(&x), (defined(&x, &vec![1.0; count]), defined(&x, &x)));
            assert_eq!(largest(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

//! Matrix products whose every number is the same, whatever else is computed beside it.
//!
//! The product of a row x and a row w of weights is made so: both are filled up with zeros to a multiple of [`SPAN`], and the numbers of
//! each span are put in the order of the weights' type ([`Element::place`]). Lane l of [`LANES`] adds up `x[k] * w[k]` for all places k = l modulo
//! [`LANES`], in ascending order, each by one fused multiplication and addition; then halves of the lanes are added until one is left,
//! which a row of integers multiplies with its scale. A fused operation rounds once, so a machine without such an instruction
//! computes the same, slowly.
//!
//! Some rows of x meet some rows of w at once, so that each number that is loaded serves often, and threads take rows of w each; that changes no sum.

use super::matrix::{Dtype, F16_BIAS, Matrix};
use pulp::{
    Arch, Simd, WithSimd,
    bytemuck::{self, Pod},
};
use rayon::prelude::*;
use std::borrow::Cow;

/// Numbers that are added up side by side.
pub(super) const LANES: usize = 16;
/// Columns that are taken at once.
const SPAN: usize = 64;
/// What is added to the same lanes of a span, one after another.
const GROUPS: usize = SPAN / LANES;
/// Numbers of weights that meet all rows of x before the next do: they stay in a second cache.
const BLOCK: usize = 1 << 16;
/// Multiplications that are worth another thread.
const SHARE: usize = 1 << 20;

/// One row of lanes.
pub(super) type Lanes = [f32; LANES];

/// `x` [T, width] times the transpose of `weights` [outs, width], on up to `threads` threads: [T, outs].
pub(super) fn product(arch: Arch, threads: usize, x: &[f32], weights: &Matrix) -> Vec<f32> {
    let (rows, outs) = (x.len() / weights.width(), weights.outs());
    // No thread is to have less than eight rows of weights.
    let shares = threads.min(rows * outs * weights.width() / SHARE).min(outs.div_ceil(8)).max(1);
    let dtype = weights.dtype();
    let (x, x_width) = arranged(dtype, x, weights.width());
    let share = |from: usize, to: usize| {
        let size = weights.width() * dtype.bytes();
        let mut y = vec![0.0; rows * (to - from)];
        let (bytes, outs) = (&weights.bytes()[from * size..to * size], to - from);
        let work = Product { x: &x, x_width, bytes, width: weights.width(), dtype, y: &mut y, outs };
        arch.dispatch(work);
        if dtype == Dtype::Int8 {
            let scaled =
                |row: &mut [f32]| row.iter_mut().zip(&weights.scales()[from..to]).for_each(|(y, scale)| *y *= scale);
            y.chunks_exact_mut(outs).for_each(scaled);
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

/// `x` as the type of the weights wants it, and the length of its rows.
fn arranged(dtype: Dtype, x: &[f32], width: usize) -> (Cow<'_, [f32]>, usize) {
    let place = match dtype {
        Dtype::F32 => return (Cow::Borrowed(x), width),
        Dtype::F16 | Dtype::Bf16 => Bf16::place,
        Dtype::Int8 => Int8::place,
    };
    let places: [usize; SPAN] = std::array::from_fn(place);
    let filled = width.next_multiple_of(SPAN);
    let mut y = vec![0.0; x.len() / width * filled];
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(filled)) {
        for (x, y) in x.chunks(SPAN).zip(y.as_chunks_mut::<SPAN>().0) {
            x.iter().zip(&places).for_each(|(x, place)| y[*place] = *x);
        }
    }
    (Cow::Owned(y), filled)
}

/// A type of weights in the inner loop.
trait Element {
    /// The bytes of a span.
    type Span: Pod;

    /// Where the k-th number of a span is taken.
    fn place(k: usize) -> usize;

    /// Lanes `vector * F32_LANES ..` of each [`LANES`] places of a span. All at once, so that bytes that hold several numbers are loaded once, and
    /// nothing is decided in the inner loop.
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS];
}

struct F32;
struct F16;
struct Bf16;
struct Int8;

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

/// The byte of each word that begins at bit `at`, as a signed number. A byte b becomes the last place of 2^23 + 128 + b, which is exact, and so
/// is the difference.
#[inline(always)]
fn number<S: Simd>(simd: S, words: S::u32s, at: u32) -> S::f32s {
    let byte = simd.and_u32s(simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(at)), simd.splat_u32s(0xff));
    let float = simd.xor_u32s(byte, simd.splat_u32s(0x4b00_0080));
    simd.sub_f32s(simd.transmute_f32s_u32s(float), simd.splat_f32s(8_388_736.0))
}

impl Element for F32 {
    type Span = [u8; SPAN * 4];

    #[inline(always)]
    fn place(k: usize) -> usize {
        k
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        [
            simd.transmute_f32s_u32s(words::<S>(span, 0, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 1, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 2, vector)),
            simd.transmute_f32s_u32s(words::<S>(span, 3, vector)),
        ]
    }
}

impl Element for Bf16 {
    type Span = [u8; SPAN * 2];

    /// The lower halves of sixteen words, then the upper ones.
    #[inline(always)]
    fn place(k: usize) -> usize {
        k / 32 * 32 + k % 32 / 2 + k % 2 * 16
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        let [a, b, c, d] = halves(simd, span, vector);
        [
            simd.transmute_f32s_u32s(a),
            simd.transmute_f32s_u32s(b),
            simd.transmute_f32s_u32s(c),
            simd.transmute_f32s_u32s(d),
        ]
    }
}

impl Element for F16 {
    type Span = [u8; SPAN * 2];

    #[inline(always)]
    fn place(k: usize) -> usize {
        Bf16::place(k)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        let [a, b, c, d] = halves(simd, span, vector);
        [widened(simd, a), widened(simd, b), widened(simd, c), widened(simd, d)]
    }
}

impl Element for Int8 {
    type Span = [u8; SPAN];

    /// The first bytes of sixteen words, then the second ones, and so on.
    #[inline(always)]
    fn place(k: usize) -> usize {
        k / 4 + k % 4 * LANES
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &Self::Span, vector: usize) -> [S::f32s; GROUPS] {
        let all = words::<S>(span, 0, vector);
        [number(simd, all, 0), number(simd, all, 8), number(simd, all, 16), number(simd, all, 24)]
    }
}

struct Product<'a> {
    x: &'a [f32],
    x_width: usize,
    bytes: &'a [u8],
    width: usize,
    dtype: Dtype,
    y: &'a mut [f32],
    outs: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { x, x_width, bytes, width, dtype, y, outs } = self;
        match dtype {
            Dtype::F32 => all::<S, F32>(simd, x, x_width, bytes, width, y, outs),
            Dtype::F16 => all::<S, F16>(simd, x, x_width, bytes, width, y, outs),
            Dtype::Bf16 => all::<S, Bf16>(simd, x, x_width, bytes, width, y, outs),
            Dtype::Int8 => all::<S, Int8>(simd, x, x_width, bytes, width, y, outs),
        }
    }
}

/// The product of rows of float32 into `y`, where the instructions are chosen already.
#[inline(always)]
pub(super) fn into<S: Simd>(simd: S, x: &[f32], weights: &[f32], width: usize, y: &mut [f32]) {
    all::<S, F32>(simd, x, width, bytemuck::cast_slice(weights), width, y, weights.len() / width);
}

#[inline(always)]
fn all<S: Simd, E: Element>(
    simd: S,
    x: &[f32],
    x_width: usize,
    weights: &[u8],
    width: usize,
    y: &mut [f32],
    outs: usize,
) {
    let block = (BLOCK / width).next_multiple_of(8);
    let size = width * size_of::<E::Span>() / SPAN;
    for (i, weights) in weights.chunks(block * size).enumerate() {
        // As many sums as there are registers for them.
        let done = match S::F32_LANES {
            LANES => rows::<S, E, 4, 4>(simd, x, x_width, weights, size, y, outs, i * block),
            _ => rows::<S, E, 2, 4>(simd, x, x_width, weights, size, y, outs, i * block),
        };
        rows::<S, E, 1, 8>(simd, &x[done * x_width..], x_width, weights, size, &mut y[done * outs..], outs, i * block);
    }
}

/// All whole groups of R rows of x, and all of `weights` (`size` bytes a row), whose first is row `at` of `outs`; gives the number of rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rows<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    x_width: usize,
    weights: &[u8],
    size: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) -> usize {
    for (x, y) in x.chunks_exact(R * x_width).zip(y.chunks_exact_mut(R * outs)) {
        let mut place = at;
        let several = weights.chunks_exact(C * size);
        let rest = several.remainder();
        for several in several {
            tile::<S, E, R, C>(simd, x, x_width, several, size, y, outs, place);
            place += C;
        }
        for one in rest.chunks_exact(size) {
            tile::<S, E, R, 1>(simd, x, x_width, one, size, y, outs, place);
            place += 1;
        }
    }
    x.len() / x_width / R * R
}

/// R rows times C rows.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // With indices alone the sums stay in registers.
fn tile<S: Simd, E: Element, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    x_width: usize,
    w: &[u8],
    size: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) {
    let mut lanes = [[[0.0; LANES]; C]; R];
    let span_size = size_of::<E::Span>();
    let (mut last_x, mut last_w) = ([[0.0; SPAN]; R], [bytemuck::Zeroable::zeroed(); C]);
    let mut all_x: [&[[f32; SPAN]]; R] = [&[]; R];
    let mut all_w: [&[E::Span]; C] = [&[]; C];
    for r in 0..R {
        let rest;
        (all_x[r], rest) = x[r * x_width..][..x_width].as_chunks();
        last_x[r][..rest.len()].copy_from_slice(rest);
    }
    for c in 0..C {
        let (whole, rest) = w[c * size..][..size].split_at(size / span_size * span_size);
        all_w[c] = bytemuck::cast_slice(whole);
        bytemuck::bytes_of_mut(&mut last_w[c])[..rest.len()].copy_from_slice(rest);
    }
    let vectors = LANES / S::F32_LANES;
    for vector in 0..vectors {
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        for span in 0..size.div_ceil(span_size) {
            let (mut xs, mut ws) = ([&[0.0; SPAN]; R], [&last_w[0]; C]);
            for r in 0..R {
                xs[r] = all_x[r].get(span).unwrap_or(&last_x[r]);
            }
            for c in 0..C {
                ws[c] = all_w[c].get(span).unwrap_or(&last_w[c]);
            }
            for c in 0..C {
                let [w0, w1, w2, w3] = E::load(simd, ws[c], vector);
                for r in 0..R {
                    let x = S::as_simd_f32s(xs[r]).0;
                    let sum = simd.mul_add_f32s(x[vector], w0, sums[r][c]);
                    let sum = simd.mul_add_f32s(x[vectors + vector], w1, sum);
                    let sum = simd.mul_add_f32s(x[2 * vectors + vector], w2, sum);
                    sums[r][c] = simd.mul_add_f32s(x[3 * vectors + vector], w3, sum);
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
            y[r * outs + at + c] = across(lanes[r][c]);
        }
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

    /// One number by the definition at the head of the file.
    fn defined(x: &[f32], w: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (k, (x, w)) in x.iter().zip(w).enumerate() {
            lanes[k % LANES] = x.mul_add(*w, lanes[k % LANES]);
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
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
            ] {
                let (x, w) = (values(rows * width, 1), values(outs * width, 2));
                let w = Matrix::of(w.clone(), width).to(dtype);
                let raw = |o: usize| match dtype {
                    Dtype::Int8 => w.bytes()[o * width..][..width].iter().map(|b| f32::from(b.cast_signed())).collect(),
                    _ => w.row(o),
                };
                for (arch, threads) in
                    crate::engine::tests::arches().into_iter().flat_map(|arch| [(arch, 1), (arch, 3), (arch, 40)])
                {
                    let y = product(arch, threads, &x, &w);
                    for (r, x) in x.chunks(width).enumerate() {
                        let x = arranged(dtype, x, width).0;
                        for o in (0..outs).step_by(1 + outs / 20) {
                            let scale = w.scales().get(o).unwrap_or(&1.0);
                            let right = defined(&x, &arranged(dtype, &raw(o), width).0) * scale;
                            assert_eq!(y[r * outs + o].to_bits(), right.to_bits(), "{dtype} {rows} {outs} {width}");
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

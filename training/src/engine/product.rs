//! Matrix products whose every number is the same, whatever else is computed beside it.
//!
//! The product of a row x and a row w of weights is made so: lane l of [`LANES`] adds up `x[k] * w[k]` for all k = l modulo [`LANES`],
//! in ascending order, each by one fused multiplication and addition, after zeros have filled both up to a multiple of [`SPAN`]; then
//! halves of the lanes are added until one is left. A fused operation rounds once, so a machine without such an instruction
//! computes the same, slowly.
//!
//! Some rows of x meet some rows of w at once, so that each number that is loaded serves often; that changes no sum.

use pulp::{Arch, Simd, WithSimd};

/// Numbers that are added up side by side.
pub(super) const LANES: usize = 16;
/// Columns that are taken at once.
const SPAN: usize = 64;
/// Weights that meet all rows of x before the next do: they stay in a second cache.
const BLOCK: usize = 1 << 16;

/// One row of lanes.
pub(super) type Lanes = [f32; LANES];

/// `x` [T, width] times the transpose of `weights` [outs, width]: [T, outs].
pub(super) fn product(arch: Arch, x: &[f32], weights: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / width * (weights.len() / width)];
    arch.dispatch(Product { x, weights, width, y: &mut y });
    y
}

struct Product<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    width: usize,
    y: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        into(simd, self.x, self.weights, self.width, self.y);
    }
}

/// The same into `y`, where the instructions are chosen already.
#[inline(always)]
pub(super) fn into<S: Simd>(simd: S, x: &[f32], weights: &[f32], width: usize, y: &mut [f32]) {
    let outs = weights.len() / width;
    let block = (BLOCK / width).next_multiple_of(8);
    for (i, weights) in weights.chunks(block * width).enumerate() {
        // As many sums as there are registers for them.
        let done = match S::F32_LANES {
            LANES => rows::<S, 4, 4>(simd, x, weights, width, y, outs, i * block),
            _ => rows::<S, 2, 4>(simd, x, weights, width, y, outs, i * block),
        };
        rows::<S, 1, 8>(simd, &x[done * width..], weights, width, &mut y[done * outs..], outs, i * block);
    }
}

/// All whole groups of R rows of x, and all of `weights`, whose first is row `at` of `outs`; gives the number of rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rows<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    weights: &[f32],
    width: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) -> usize {
    for (x, y) in x.chunks_exact(R * width).zip(y.chunks_exact_mut(R * outs)) {
        let mut place = at;
        let several = weights.chunks_exact(C * width);
        let rest = several.remainder();
        for several in several {
            tile::<S, R, C>(simd, x, several, width, y, outs, place);
            place += C;
        }
        for one in rest.chunks_exact(width) {
            tile::<S, R, 1>(simd, x, one, width, y, outs, place);
            place += 1;
        }
    }
    x.len() / width / R * R
}

/// R rows times C rows.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // With indices alone the sums stay in registers.
fn tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    width: usize,
    y: &mut [f32],
    outs: usize,
    at: usize,
) {
    let mut lanes = [[[0.0; LANES]; C]; R];
    let (whole, rest) = (width / SPAN, width % SPAN);
    let (mut last_x, mut last_w) = ([[0.0; SPAN]; R], [[0.0; SPAN]; C]);
    if rest > 0 {
        for r in 0..R {
            last_x[r][..rest].copy_from_slice(&x[r * width + whole * SPAN..][..rest]);
        }
        for c in 0..C {
            last_w[c][..rest].copy_from_slice(&w[c * width + whole * SPAN..][..rest]);
        }
    }
    let vectors = LANES / S::F32_LANES;
    for vector in 0..vectors {
        let mut sums = [[simd.splat_f32s(0.0); C]; R];
        for span in 0..width.div_ceil(SPAN) {
            let (mut xs, mut ws) = ([&[0.0; SPAN]; R], [&[0.0; SPAN]; C]);
            for r in 0..R {
                xs[r] = x[r * width..][..width].as_chunks().0.get(span).unwrap_or(&last_x[r]);
            }
            for c in 0..C {
                ws[c] = w[c * width..][..width].as_chunks().0.get(span).unwrap_or(&last_w[c]);
            }
            let mut strip = vector;
            while strip < SPAN / S::F32_LANES {
                for c in 0..C {
                    let w = S::as_simd_f32s(ws[c]).0[strip];
                    for r in 0..R {
                        sums[r][c] = simd.mul_add_f32s(S::as_simd_f32s(xs[r]).0[strip], w, sums[r][c]);
                    }
                }
                strip += vectors;
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
        for (rows, outs, width) in
            [(1, 1, 1), (1, 9, 16), (3, 33, 40), (4, 64, 128), (9, 70, 100), (6, 5, 15), (5, 70, 8192)]
        {
            let (x, w) = (values(rows * width, 1), values(outs * width, 2));
            for arch in crate::engine::tests::arches() {
                let y = product(arch, &x, &w, width);
                for (r, x) in x.chunks(width).enumerate() {
                    for (o, w) in w.chunks(width).enumerate() {
                        assert_eq!(y[r * outs + o].to_bits(), defined(x, w).to_bits(), "{rows} {outs} {width}");
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

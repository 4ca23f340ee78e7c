//! Norms, activations and the exponential function, with the same bits everywhere: additions, multiplications, divisions, roots and
//! fused multiplications and additions alone, which IEEE 754 defines to the last bit.

use super::{
    product::sums,
    shape::{Activation, Norm, Shape},
    weights::NormWeights,
};
use pulp::{Arch, Simd, WithSimd};

/// LayerNorm or RMSNorm of rows as long as the weights.
pub(super) struct Normalise<'a> {
    pub kind: Norm,
    pub norm: &'a NormWeights,
    pub epsilon: f32,
    pub x: &'a [f32],
}

impl WithSimd for Normalise<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let Normalise { kind, norm, epsilon, x } = self;
        let mut y = x.to_vec();
        for row in y.chunks_exact_mut(norm.weight.len()) {
            if kind == Norm::Layer {
                let mean = sums(row).0 / row.len() as f32;
                row.iter_mut().for_each(|x| *x -= mean);
            }
            scale(row, &norm.weight, epsilon);
            if let Some(bias) = &norm.bias {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        }
        y
    }
}

/// Divides a row by the root of its mean square, and multiplies it with the weights.
#[inline(always)]
fn scale(row: &mut [f32], weights: &[f32], epsilon: f32) {
    let factor = 1.0 / (sums(row).1 / row.len() as f32 + epsilon).sqrt();
    row.iter_mut().zip(weights).for_each(|(x, weight)| *x = *x * factor * weight);
}

/// RMSNorm of each head of queries and keys.
pub(super) struct HeadNorms<'a> {
    pub shape: &'a Shape,
    pub queries: &'a NormWeights,
    pub keys: &'a NormWeights,
    pub qkv: &'a mut [f32],
}

impl WithSimd for HeadNorms<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let HeadNorms { shape, queries, keys, qkv } = self;
        for row in qkv.chunks_exact_mut(shape.qkv()) {
            let (query, rest) = row.split_at_mut(shape.heads * shape.head_width);
            let key = &mut rest[..shape.kv_heads * shape.head_width];
            query.chunks_exact_mut(shape.head_width).for_each(|head| scale(head, &queries.weight, shape.epsilon));
            key.chunks_exact_mut(shape.head_width).for_each(|head| scale(head, &keys.weight, shape.epsilon));
        }
    }
}

/// Cosines and sines [T, D / 2] of the angles at `positions`.
pub(super) fn turns(frequencies: &[f64], positions: impl Iterator<Item = usize>) -> Vec<(f32, f32)> {
    let angles = positions.flat_map(|at| frequencies.iter().map(move |frequency| at as f64 * frequency));
    angles.map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32)).collect()
}

/// Turns each pair (i, i + D / 2) of queries and keys by its angle.
pub(super) struct Turn<'a> {
    pub shape: &'a Shape,
    pub turns: &'a [(f32, f32)],
    pub qkv: &'a mut [f32],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Turn { shape, turns, qkv } = self;
        let (head, half) = (shape.head_width, shape.head_width / 2);
        let turned = (shape.heads + shape.kv_heads) * head;
        for (row, turns) in qkv.chunks_exact_mut(shape.qkv()).zip(turns.chunks_exact(half)) {
            for one in row[..turned].chunks_exact_mut(head) {
                let (left, right) = one.split_at_mut(half);
                for ((a, b), (cos, sin)) in left.iter_mut().zip(right).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// GELU, or SwiGLU of rows that hold the gates and then what they gate; `width` is that of the result.
pub(super) struct Activate<'a> {
    pub activation: Activation,
    pub width: usize,
    pub up: &'a [f32],
}

impl WithSimd for Activate<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let Activate { activation, width, up } = self;
        match activation {
            Activation::Gelu => {
                let mut y = up.to_vec();
                y.iter_mut().for_each(|y| *y = gelu(*y));
                y
            }
            Activation::SwiGlu => {
                let mut y = vec![0.0; up.len() / 2];
                for (y, row) in y.chunks_exact_mut(width).zip(up.chunks_exact(2 * width)) {
                    let (gates, values) = row.split_at(width);
                    for ((y, gate), value) in y.iter_mut().zip(gates).zip(values) {
                        *y = gate / (1.0 + exp(-gate)) * value;
                    }
                }
                y
            }
        }
    }
}

/// Makes each value `exp((value - most) * sharpness)`.
pub(crate) fn weigh(values: &mut [f32], most: f32, sharpness: f32) {
    Arch::new().dispatch(Weigh { values, most, sharpness });
}

struct Weigh<'a> {
    values: &'a mut [f32],
    most: f32,
    sharpness: f32,
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Weigh { values, most, sharpness } = self;
        values.iter_mut().for_each(|value| *value = exp((*value - most) * sharpness));
    }
}

/// GELU by the hyperbolic tangent, as GPT-2 has it: `x / (1 + exp(-2 z))` with `z = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * z))
}

/// The exponential function, off by less than 2.4e-7 of it; 0 below -87, and from 88 on what it is at 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// What rounds to whole numbers when it is added: its last place is 1.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.0, 88.0);
    let rounded = bounded.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = rounded - ROUND;
    // ln 2 in two parts, so that the product with `whole` is exact to more than float32's places.
    let rest = whole.mul_add(-0.693_359_4, bounded);
    let rest = whole.mul_add(2.121_944_4e-4, rest);
    let mut power: f32 = 1.0 / 720.0;
    for term in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power.mul_add(rest, term);
    }
    // The last places of `rounded` hold the whole number, and go where an exponent stands.
    let scaled = power * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_function_is_nearly_exact() {
        let mut worst = 0.0f64;
        for i in -86_999..=87_999 {
            let x = i as f32 * 1e-3;
            let (got, right) = (f64::from(exp(x)), libm::exp(f64::from(x)));
            worst = worst.max((got / right - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst}");
        assert_eq!([exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(exp(f32::INFINITY).is_finite() && exp(1000.0) > 1e38);
    }

    #[test]
    fn weights_have_the_same_bits_everywhere() {
        let values: Vec<f32> = (0..1001).map(|i| i as f32 * -0.1237).collect();
        for sharpness in [1.0, 0.7, 3.0] {
            let mut weights = values.clone();
            weigh(&mut weights, 0.25, sharpness);
            assert_eq!(weights, values.iter().map(|value| exp((value - 0.25) * sharpness)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn activations_are_their_formulas() {
        for i in -200..200 {
            let x = i as f32 * 0.05;
            let (wide, z) = (f64::from(x), 0.797_884_560_8 * (f64::from(x) + 0.044_715 * f64::from(x).powi(3)));
            let right = 0.5 * wide * (1.0 + libm::tanh(z));
            assert!((f64::from(gelu(x)) - right).abs() < 1e-6 * (1.0 + wide.abs()), "{x}");
        }
    }
}

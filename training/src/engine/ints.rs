//! Products with 8-bit weights: x in 16-bit integers with a scale for each span, so that sums within a span are exact, and the
//! processor multiplies 32 numbers at once.
//!
//! x is off by `1 / 65534` of the largest of its span at most, hundreds of times less than the weights are. Lane l adds up the products at
//! places 2 l, 2 l + 1, 32 + 2 l and 33 + 2 l of a span: at most `4 * 32767 * 127 < 2^24`, which a float32 holds exactly.

use super::product::{Element, LANES, SPAN};
use pulp::{Simd, bytemuck};
use std::borrow::Cow;

/// 8-bit integers.
pub(super) struct Int8;

/// A span of x.
#[derive(Clone, Copy)]
#[repr(C, align(64))] // No load of numbers crosses a line of the cache.
pub(super) struct Ints {
    /// Pairs of neighbours, the lower one in the lower half.
    pairs: [u32; SPAN / 2],
    /// What each number is worth; NaN if one of the span was not finite.
    scale: f32,
}

/// The largest of [`Ints`]' numbers.
const LARGEST: f32 = 32767.0;
/// Spans of smaller numbers count as zeros: their scale could not be divided by.
const SMALLEST: f32 = 1e-30;
/// Added to a small number, it rounds it to an integer, ties to even, which its last bits are then.
const ROUND: f32 = 12_582_912.0;

impl Ints {
    /// Up to [`SPAN`] numbers, and zeros.
    fn of(x: &[f32]) -> Ints {
        let mut filled = [0.0; SPAN];
        filled[..x.len()].copy_from_slice(x);
        let largest = f32::from_bits(filled.iter().fold(0, |most, x| most.max(x.abs().to_bits())));
        if !largest.is_finite() {
            return Ints { pairs: [0; SPAN / 2], scale: f32::NAN };
        } else if largest < SMALLEST {
            return Ints { pairs: [0; SPAN / 2], scale: 0.0 };
        }
        let whole = LARGEST / largest;
        let bits = filled.map(|x| (x * whole + ROUND).to_bits());
        Ints { pairs: std::array::from_fn(|i| bits[2 * i] & 0xffff | bits[2 * i + 1] << 16), scale: largest / LARGEST }
    }
}

impl Element for Int8 {
    type Span = [u8; SPAN];
    type Given = Ints;
    /// Of each half of the span, pairs of 16-bit integers.
    type Loaded<S: Simd> = (S::u32s, S::u32s);

    fn given(x: &[f32], width: usize) -> Cow<'_, [Ints]> {
        Cow::Owned(x.chunks_exact(width).flat_map(|x| x.chunks(SPAN)).map(Ints::of).collect())
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, span: &[u8; SPAN], vector: usize) -> (S::u32s, S::u32s) {
        #[cfg(target_arch = "x86_64")]
        if let Some(pairs) = x86::load(simd, span, vector) {
            return pairs;
        }
        let _ = simd; // Its type alone tells how many lanes there are.
        let number = |k: usize| u32::from(i16::from(span[k].cast_signed()).cast_unsigned());
        let pairs: [u32; SPAN / 2] = std::array::from_fn(|i| number(2 * i) | number(2 * i + 1) << 16);
        let (pairs, vectors) = (S::as_simd_u32s(&pairs).0, LANES / S::U32_LANES);
        (pairs[vector], pairs[vectors + vector])
    }

    #[inline(always)]
    fn meet<S: Simd>(simd: S, sum: S::f32s, x: &Ints, weights: (S::u32s, S::u32s), vector: usize) -> S::f32s {
        let (pairs, vectors) = (S::as_simd_u32s(&x.pairs).0, LANES / S::U32_LANES);
        let exact = products(simd, (pairs[vector], pairs[vectors + vector]), weights);
        simd.mul_add_f32s(simd.splat_f32s(x.scale), exact, sum)
    }
}

/// For each word the sum of four products: of the pairs that it holds in both halves of x and w.
#[inline(always)]
fn products<S: Simd>(simd: S, x: (S::u32s, S::u32s), w: (S::u32s, S::u32s)) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some(sums) = x86::products(simd, x, w) {
        return sums;
    }
    let mut sums = simd.splat_f32s(0.0);
    let words = [&x.0, &w.0, &x.1, &w.1].map(|words| bytemuck::cast_slice::<_, u32>(std::slice::from_ref(words)));
    for (lane, sum) in bytemuck::cast_slice_mut::<_, f32>(std::slice::from_mut(&mut sums)).iter_mut().enumerate() {
        let upper = |word: u32| word.cast_signed() >> 16;
        let both = |x: u32, w: u32| upper(x) * upper(w) + upper(x << 16) * upper(w << 16);
        *sum = (both(words[0][lane], words[1][lane]) + both(words[2][lane], words[3][lane])) as f32;
    }
    sums
}

/// What processors of this kind do with 16-bit integers; none where `simd` is not theirs, which the compiler decides.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SPAN;
    use pulp::{
        Simd, cast, f32x8, f32x16, u32x8, u32x16,
        x86::{V3, V4},
    };

    #[inline(always)]
    pub fn load<S: Simd>(simd: S, span: &[u8; SPAN], vector: usize) -> Option<(S::u32s, S::u32s)> {
        if let Some(simd) = same::<S, V4>(simd) {
            let [first, second]: [[u8; 32]; 2] = cast(*span);
            let pairs = |bytes: [u8; 32]| -> u32x16 { cast(simd.avx512bw._mm512_cvtepi8_epi16(cast(bytes))) };
            Some((same(pairs(first))?, same(pairs(second))?))
        } else {
            let simd = same::<S, V3>(simd)?;
            let quarters: [[u8; 16]; 4] = cast(*span);
            let pairs = |bytes: [u8; 16]| -> u32x8 { cast(simd.avx2._mm256_cvtepi8_epi16(cast(bytes))) };
            Some((same(pairs(quarters[vector]))?, same(pairs(quarters[2 + vector]))?))
        }
    }

    #[inline(always)]
    pub fn products<S: Simd>(simd: S, x: (S::u32s, S::u32s), w: (S::u32s, S::u32s)) -> Option<S::f32s> {
        if let Some(simd) = same::<S, V4>(simd) {
            let sums = |x: u32x16, w: u32x16| simd.avx512bw._mm512_madd_epi16(cast(x), cast(w));
            let (first, second) = (sums(same(x.0)?, same(w.0)?), sums(same(x.1)?, same(w.1)?));
            same::<f32x16, _>(cast(simd.avx512f._mm512_cvtepi32_ps(simd.avx512f._mm512_add_epi32(first, second))))
        } else {
            let simd = same::<S, V3>(simd)?;
            let sums = |x: u32x8, w: u32x8| simd.avx2._mm256_madd_epi16(cast(x), cast(w));
            let (first, second) = (sums(same(x.0)?, same(w.0)?), sums(same(x.1)?, same(w.1)?));
            same::<f32x8, _>(cast(simd.avx._mm256_cvtepi32_ps(simd.avx2._mm256_add_epi32(first, second))))
        }
    }

    /// A value as what it is.
    #[inline(always)]
    fn same<T: 'static, U: Copy + 'static>(value: T) -> Option<U> {
        (&value as &dyn std::any::Any).downcast_ref().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ints: &Ints) -> Vec<i16> {
        ints.pairs.iter().flat_map(|pair| [*pair as u16, (pair >> 16) as u16]).map(u16::cast_signed).collect()
    }

    #[test]
    fn numbers_are_off_by_half_a_step_and_what_is_not_finite_stays_so() {
        let x: Vec<f32> = (0..60).map(|i| (i * 37 % 61) as f32 * 0.01 - 0.3).collect();
        let ints = Ints::of(&x);
        for (number, x) in numbers(&ints).iter().zip(&x) {
            assert!((f32::from(*number) * ints.scale - x).abs() <= ints.scale * 0.501, "{number} {x}");
        }
        assert_eq!(numbers(&ints)[60..], [0; 4]);
        assert_eq!(numbers(&Ints::of(&[-2.0, 2.0, 0.0]))[..3], [-32767, 32767, 0]);
        assert_eq!((Ints::of(&[1e-38]).scale, Ints::of(&[]).pairs), (0.0, [0; SPAN / 2]));
        assert!([f32::NAN, f32::INFINITY, -f32::INFINITY].iter().all(|x| Ints::of(&[0.5, *x, 1.0]).scale.is_nan()));
    }
}

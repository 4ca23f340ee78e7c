//! Matrices of weights as they lie in memory or in a mapped file: float32, float16, bfloat16, or 8-bit integers with a scale a row.
//! Each type is widened to float32 exactly, wherever it is used.

use super::pages::Room;
use crate::error::{Result, TrainingError};
use bytes::Bytes;
use pulp::bytemuck;

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// -127 to 127, times a scale that all numbers of a row share.
    Int8,
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::Int8 => 1,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Dtype {
    type Err = TrainingError;

    fn from_str(name: &str) -> Result<Dtype> {
        let known = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8].into_iter().find(|dtype| dtype.name() == name);
        known
            .ok_or_else(|| TrainingError::Checkpoint(format!("'{name}' is no type of weights: f32, f16, bf16 or int8")))
    }
}

/// A matrix [outs, width], row by row.
#[derive(Clone, Debug)]
pub struct Matrix {
    dtype: Dtype,
    bytes: Bytes,
    /// One a row for [`Dtype::Int8`], else none.
    scales: Vec<f32>,
    width: usize,
}

impl Matrix {
    /// A matrix whose little-endian numbers lie in `bytes`.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] if they are no whole rows, or integers: those come from [`Matrix::to`] alone.
    pub fn new(dtype: Dtype, bytes: impl Into<Bytes>, width: usize) -> Result<Matrix> {
        let bytes = bytes.into();
        if dtype == Dtype::Int8 || width == 0 || !bytes.len().is_multiple_of(width * dtype.bytes()) {
            return Err(TrainingError::Checkpoint(format!("{} bytes of {dtype} are no rows of {width}", bytes.len())));
        }
        Ok(Matrix { dtype, bytes, scales: Vec::new(), width })
    }

    /// A matrix of these numbers.
    pub fn of(values: Vec<f32>, width: usize) -> Matrix {
        Matrix::lying(floats(values), width)
    }

    /// A matrix of what [`floats`] gave.
    pub(super) fn lying(bytes: Bytes, width: usize) -> Matrix {
        Matrix { dtype: Dtype::F32, bytes, scales: Vec::new(), width }
    }

    /// The same numbers as near as `dtype` holds them; where it is theirs already, nothing is copied.
    pub fn to(self, dtype: Dtype) -> Matrix {
        if self.dtype == dtype {
            return self;
        }
        let size = self.width * dtype.bytes();
        let (mut room, mut scales) = (Room::of(self.outs() * size), Vec::new());
        for (out, bytes) in room.as_mut().chunks_exact_mut(size).enumerate() {
            let row = self.row(out);
            let mut fill = |narrow: fn(f32) -> u16| {
                let halves = bytes.as_chunks_mut().0.iter_mut().zip(&row);
                halves.for_each(|(half, x)| *half = narrow(*x).to_le_bytes());
            };
            match dtype {
                Dtype::F32 => bytes.as_chunks_mut().0.iter_mut().zip(&row).for_each(|(to, x)| *to = x.to_le_bytes()),
                Dtype::F16 => fill(narrow_f16),
                Dtype::Bf16 => fill(narrow_bf16),
                Dtype::Int8 => {
                    let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let scale = largest / 127.0;
                    let whole = |x: &f32| if scale > 0.0 { (x / scale).round_ties_even() as i8 } else { 0 };
                    bytes.iter_mut().zip(&row).for_each(|(to, x)| *to = whole(x).to_le_bytes()[0]);
                    scales.push(scale);
                }
            }
        }
        Matrix { dtype, bytes: room.into(), scales, width: self.width }
    }

    /// Bytes that it takes.
    pub fn size(&self) -> u64 {
        self.size_in(self.dtype, self.outs())
    }

    /// Bytes that its numbers take in a type, where they lie in so many rows: integers have a scale for each.
    pub fn size_in(&self, dtype: Dtype, outs: usize) -> u64 {
        let numbers = self.bytes.len() / self.dtype.bytes();
        let scales = if dtype == Dtype::Int8 { outs * size_of::<f32>() } else { 0 };
        (numbers * dtype.bytes() + scales) as u64
    }

    /// The transpose of float32, float16 or bfloat16 numbers.
    pub fn transposed(&self) -> Matrix {
        let (outs, size) = (self.outs(), self.dtype.bytes());
        let mut room = Room::of(self.bytes.len());
        let bytes = room.as_mut();
        for (i, number) in self.bytes.chunks_exact(size).enumerate() {
            let (row, column) = (i / self.width, i % self.width);
            bytes[(column * outs + row) * size..][..size].copy_from_slice(number);
        }
        Matrix { dtype: self.dtype, bytes: room.into(), scales: Vec::new(), width: outs }
    }

    /// One row, widened.
    pub fn row(&self, out: usize) -> Vec<f32> {
        let size = self.width * self.dtype.bytes();
        let bytes = &self.bytes[out * size..][..size];
        let halves = || bytes.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
        match self.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            Dtype::F16 => halves().map(widen_f16).collect(),
            Dtype::Bf16 => halves().map(|half| f32::from_bits(u32::from(half) << 16)).collect(),
            Dtype::Int8 => bytes.iter().map(|x| f32::from(i8::from_le_bytes([*x])) * self.scales[out]).collect(),
        }
    }

    /// Rows.
    pub fn outs(&self) -> usize {
        self.bytes.len() / self.dtype.bytes() / self.width
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The numbers as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What each row of integers is multiplied with.
    pub(super) fn scales(&self) -> Option<&[f32]> {
        (self.dtype == Dtype::Int8).then_some(&self.scales)
    }
}

/// Numbers as bytes where they lie, for as long as somebody needs them.
pub(super) fn floats(values: impl AsRef<[f32]> + Send + 'static) -> Bytes {
    struct Floats<T>(T);
    impl<T: AsRef<[f32]>> AsRef<[u8]> for Floats<T> {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(self.0.as_ref())
        }
    }
    Bytes::from_owner(Floats(values))
}

/// The nearest bfloat16, ties to even.
fn narrow_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// What a float16 is worth: its exponent and fraction shifted to where float32 has them, times what their biases differ by. Infinities
/// and NaN, which no weight is, come out as large numbers.
fn widen_f16(half: u16) -> f32 {
    let half = u32::from(half);
    f32::from_bits((half & 0x7fff) << 13 | (half & 0x8000) << 16) * F16_BIAS
}

/// 2^112: 127 - 15 powers of two.
pub(super) const F16_BIAS: f32 = f32::from_bits((112 + 127) << 23);

/// The nearest float16, ties to even; what is too large becomes the largest.
fn narrow_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let size = x.abs().min(65_504.0);
    // Added to a number whose last place is that of the float16, it rounds there: 2^-24 at the least.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-14);
    let magic = f32::from_bits(((exponent + 13 + 127) as u32) << 23);
    let rounded = (size + magic) - magic;
    let bits = (rounded / F16_BIAS).to_bits() >> 13;
    sign | bits as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_float16_survives_widening_and_narrowing() {
        for half in (0..=0xffff_u16).filter(|half| half & 0x7c00 != 0x7c00) {
            assert_eq!(narrow_f16(widen_f16(half)), half, "{half:04x}");
        }
        assert_eq!([widen_f16(0x3c00), widen_f16(0xc000), widen_f16(1)], [1.0, -2.0, 2f32.powi(-24)]);
        // 1 + 2^-11 lies between two: the even one. Slightly more goes up.
        assert_eq!([narrow_f16(1.0 + 2f32.powi(-11)), narrow_f16(1.0 + 2f32.powi(-11) + 1e-6)], [0x3c00, 0x3c01]);
        assert_eq!([narrow_f16(1e9), narrow_f16(-1e-9)], [0x7bff, 0x8000]);
    }

    #[test]
    fn bfloat16_rounds_to_the_nearest_and_ties_to_even() {
        let narrow = |bits| narrow_bf16(f32::from_bits(bits));
        assert_eq!([narrow(0x3f80_7fff), narrow(0x3f80_8000), narrow(0x3f81_8000)], [0x3f80, 0x3f80, 0x3f82]);
        assert!(f32::from_bits(u32::from(narrow_bf16(f32::NAN)) << 16).is_nan());
    }

    #[test]
    fn integers_are_off_by_half_a_step_at_most() {
        let values: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5).collect();
        let matrix = Matrix::of(values.clone(), 100).to(Dtype::Int8);
        for out in 0..3 {
            for (x, y) in values[out * 100..].iter().zip(matrix.row(out)) {
                assert!((x - y).abs() <= matrix.scales[out] * 0.5001, "{x} {y}");
            }
        }
        assert_eq!(Matrix::of(vec![0.0; 8], 8).to(Dtype::Int8).row(0), [0.0; 8]);
    }

    #[test]
    fn a_transpose_and_rows_that_are_none() {
        let matrix = Matrix::of(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3);
        assert_eq!(matrix.transposed().row(1), [2.0, 5.0]);
        assert!(Matrix::new(Dtype::F32, vec![0; 10], 2).is_err());
        assert!("q4".parse::<Dtype>().unwrap_err().to_string().contains("int8"));
    }
}

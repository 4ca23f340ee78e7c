//! How an update travels: dense blocks of 8-bit integers.
//!
//! `"AILOUPD1"`, the number of values (u64), then for every 64 values (the last block may be shorter) a scale (f32) and
//! one i8 for each value; all little-endian. A value is `i8 * scale`.
//!
//! The scale is the block's largest magnitude / 127, rounded up to 16 significant bits; so `i8 * scale` is exact in
//! f32, and encoding what was decoded gives the same bytes. Values round half to even. A block whose scale would be
//! subnormal is all zero.
//!
//! Decoding takes canonical encodings only: exact length, a scale that is zero (with a block of zeros) or normal,
//! positive, of 16 significant bits and at most [`MAX_SCALE`], no -128, and some value of magnitude 127 in every block
//! that is not zero.

use crate::error::{Result, TrainingError};
use rayon::prelude::*;

/// Values that share a scale.
pub const BLOCK: usize = 64;
/// No scale is larger, and so no value exceeds 127 times this: far beyond any sane update, far below f32's range.
pub const MAX_SCALE: f32 = (1u64 << 63) as f32;

const MAGIC: &[u8; 8] = b"AILOUPD1";
const HEADER: usize = 16;
const BLOCK_BYTES: usize = 4 + BLOCK;
/// Blocks that one task of the thread pool handles.
const TASK: usize = 1024;
/// The bits of an f32 below its 16 most significant ones (of which the first is implied).
const LOW_BITS: u32 = 0xff;

/// Length of the encoding of `count` values, in bytes.
pub fn encoded_len(count: usize) -> usize {
    HEADER + count.div_ceil(BLOCK) * 4 + count
}

/// Encodes an update.
pub fn encode(update: &[f32]) -> Result<Vec<u8>> {
    let mut out = vec![0; encoded_len(update.len())];
    out[..8].copy_from_slice(MAGIC);
    out[8..HEADER].copy_from_slice(&(update.len() as u64).to_le_bytes());
    out[HEADER..].par_chunks_mut(TASK * BLOCK_BYTES).zip(update.par_chunks(TASK * BLOCK)).try_for_each(
        |(out, values)| {
            out.chunks_mut(BLOCK_BYTES)
                .zip(values.chunks(BLOCK))
                .try_for_each(|(out, values)| encode_block(values, out))
        },
    )?;
    Ok(out)
}

/// Decodes an update of `count` values.
pub fn decode(bytes: &[u8], count: usize) -> Result<Vec<f32>> {
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err(TrainingError::Codec("the header is missing"));
    }
    if bytes[8..HEADER] != (count as u64).to_le_bytes() || bytes.len() != encoded_len(count) {
        return Err(TrainingError::Codec("the length is not that of this model's update"));
    }
    let mut out = vec![0.0; count];
    bytes[HEADER..].par_chunks(TASK * BLOCK_BYTES).zip(out.par_chunks_mut(TASK * BLOCK)).try_for_each(
        |(bytes, out)| {
            bytes.chunks(BLOCK_BYTES).zip(out.chunks_mut(BLOCK)).try_for_each(|(bytes, out)| decode_block(bytes, out))
        },
    )?;
    Ok(out)
}

fn encode_block(values: &[f32], out: &mut [u8]) -> Result<()> {
    if !values.iter().all(|x| x.is_finite()) {
        return Err(TrainingError::Codec("the update holds a number that is not finite"));
    }
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let exact = largest / 127.0;
    let scale = f32::from_bits((exact.to_bits() + LOW_BITS) & !LOW_BITS);
    if scale > MAX_SCALE {
        return Err(TrainingError::Codec("the update holds a number beyond the codec's range"));
    }
    if exact < f32::MIN_POSITIVE {
        return Ok(()); // all zero, as `out` already is
    }
    out[..4].copy_from_slice(&scale.to_le_bytes());
    for (out, x) in out[4..].iter_mut().zip(values) {
        *out = (x / scale).round_ties_even() as i8 as u8;
    }
    Ok(())
}

fn decode_block(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let (scale, values) = (f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), &bytes[4..]);
    let largest = values.iter().map(|&b| (b as i8).unsigned_abs()).max().unwrap_or(0);
    let canonical = match scale.to_bits() {
        0 => largest == 0,
        bits => bits & LOW_BITS == 0 && (f32::MIN_POSITIVE..=MAX_SCALE).contains(&scale) && largest == 127,
    };
    if !canonical {
        return Err(TrainingError::Codec("a block is not the one encoding of its values"));
    }
    for (out, &b) in out.iter_mut().zip(values) {
        *out = f32::from(b as i8) * scale;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_encoding_is_pinned_byte_for_byte() {
        let bytes = encode(&[1.0, -0.5, 0.25, 0.0]).unwrap();
        let scale = f32::from_bits(0x3c01_0300); // 1 / 127 rounded up to 16 significant bits
        assert_eq!(
            bytes,
            [b"AILOUPD1".as_slice(), &4u64.to_le_bytes(), &scale.to_le_bytes(), &[127, 193, 32, 0]].concat()
        );
        assert_eq!(decode(&bytes, 4).unwrap(), [127.0 * scale, -63.0 * scale, 32.0 * scale, 0.0]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let good = encode(&vec![0.5; 65]).unwrap();
        assert!(decode(&good, 65).is_ok());
        assert!(decode(&good, 64).is_err() && decode(&good, 66).is_err());
        assert!(decode(&good[..good.len() - 1], 65).is_err() && decode(&[], 0).is_err());
        for (at, patch) in [
            (0, vec![b'X']),
            (8, vec![66]),
            (16, f32::NAN.to_le_bytes().to_vec()),
            (16, f32::INFINITY.to_le_bytes().to_vec()),
            (16, (-1.0f32).to_le_bytes().to_vec()),
            (16, 0.0f32.to_le_bytes().to_vec()),
            (16, (-0.0f32).to_le_bytes().to_vec()),
            (16, 1e-40f32.to_le_bytes().to_vec()),
            (16, (2.0 * MAX_SCALE).to_le_bytes().to_vec()),
            (16, vec![1]),
            (20, vec![128]),
            (20, vec![1; 64]),
        ] {
            let mut bad = good.clone();
            bad[at..at + patch.len()].copy_from_slice(&patch);
            assert!(decode(&bad, 65).is_err(), "byte {at} := {patch:?}");
        }
    }

    #[test]
    fn numbers_that_no_update_holds_are_not_encoded() {
        assert!(encode(&[f32::NAN]).is_err() && encode(&[f32::INFINITY]).is_err() && encode(&[f32::MAX]).is_err());
        assert_eq!(decode(&encode(&[f32::MIN_POSITIVE, -1e-44]).unwrap(), 2).unwrap(), [0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn decoding_errs_by_at_most_half_a_step_and_re_encodes_to_the_same_bytes(
            values in prop::collection::vec(-1e3f32..1e3, 0..300),
            shrink in -120i32..0,
        ) {
            let values: Vec<f32> = values.iter().map(|x| x * 2f32.powi(shrink)).collect();
            let bytes = encode(&values).unwrap();
            let decoded = decode(&bytes, values.len()).unwrap();
            for (values, decoded) in values.chunks(BLOCK).zip(decoded.chunks(BLOCK)) {
                let largest = values.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                let step = (largest / 127.0 * 1.0001).max(130.0 * f32::MIN_POSITIVE);
                prop_assert!(values.iter().zip(decoded).all(|(a, b)| (a - b).abs() <= 0.501 * step));
            }
            prop_assert_eq!(encode(&decoded).unwrap(), bytes);
        }

        #[test]
        fn whatever_decodes_is_canonical(noise in prop::collection::vec(any::<u8>(), 4 + 64 + 4 + 3)) {
            let bytes = [MAGIC.as_slice(), &67u64.to_le_bytes(), &noise].concat();
            if let Ok(decoded) = decode(&bytes, 67) {
                prop_assert_eq!(encode(&decoded).unwrap(), bytes);
            }
        }
    }
}

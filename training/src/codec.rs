//! How an update travels: blocks of 64 values, each with a scale and small integers.
//!
//! `"AILOUPD"` and a digit that names the packing (`1` int8, `2` int4, `3` top-k, `4` mask), the number of values (u64), then the
//! blocks (the last may be shorter); all numbers little-endian. A value is its integer times its block's scale.
//!
//! | packing | a block holds | integers to |
//! | --- | --- | --- |
//! | int8 | the scale (f32), one i8 for each value | 127 |
//! | int4 | the scale (f32), one half byte (two's complement) for each value, the lower half first | 7 |
//! | top-k | the scale (f32), for each of the 8 largest magnitudes its place (u8, ascending) and its i8 | 127 |
//! | mask | int8's, but only a quarter of the blocks is there: the first quarter of an order that the round's seed draws, in the order of their places | 127 |
//!
//! What is not there is zero. The scale is the block's largest magnitude / 127 (or 7), rounded up to 16 significant bits; so
//! integer * scale is exact in f32, and encoding what was decoded gives the same bytes. Values round half to even; of equal
//! magnitudes top-k takes the first. A block whose scale would be subnormal is all zero.
//!
//! Decoding takes canonical encodings only: exact length, a scale that is zero (with a block of zeros) or normal, positive, of 16
//! significant bits and at most [`MAX_SCALE`], no integer beyond the packing's, and one of the largest magnitude in every block that
//! is not zero; places ascend, and zeros among the largest are the block's first ones.

use crate::error::{Result, TrainingError};
use ailo_protocol::{Hash, compression::Codec, hash::Domain};
use rayon::prelude::*;

/// Values that share a scale.
pub const BLOCK: usize = 64;
/// No scale is larger, and so no value exceeds 127 times this: far beyond any sane update, far below f32's range.
pub const MAX_SCALE: f32 = (1u64 << 63) as f32;

/// Values of a block that top-k keeps.
const KEPT: usize = 8;
/// Of so many blocks mask keeps one.
const MASKED: usize = 4;
const HEADER: usize = 16;
/// Blocks that one task of the thread pool handles.
const TASK: usize = 1024;
/// The bits of an f32 below its 16 most significant ones (of which the first is implied).
const LOW_BITS: u32 = 0xff;
/// A block's scale and integers.
type Integers = (f32, [i8; BLOCK]);

fn magic(codec: Codec) -> &'static [u8; 8] {
    match codec {
        Codec::Int8 => b"AILOUPD1",
        Codec::Int4 => b"AILOUPD2",
        Codec::TopK => b"AILOUPD3",
        Codec::Mask => b"AILOUPD4",
    }
}

/// Bytes of a block of `len` values.
fn block_bytes(codec: Codec, len: usize) -> usize {
    4 + match codec {
        Codec::Int8 | Codec::Mask => len,
        Codec::Int4 => len.div_ceil(2),
        Codec::TopK => 2 * len.min(KEPT),
    }
}

/// Length of the encoding of `count` values, in bytes. A mask that leaves out the last, shorter block takes another block
/// instead: its length is that of the longest.
pub fn encoded_len(codec: Codec, count: usize) -> usize {
    let (whole, rest) = (count / BLOCK, count % BLOCK);
    HEADER
        + match codec {
            Codec::Mask => (whole + usize::from(rest > 0)).div_ceil(MASKED) * block_bytes(codec, BLOCK),
            _ if rest == 0 => whole * block_bytes(codec, BLOCK),
            _ => whole * block_bytes(codec, BLOCK) + block_bytes(codec, rest),
        }
}

/// The blocks that a round's mask keeps, in ascending order.
pub fn mask(seed: &Hash, count: usize) -> Vec<usize> {
    let mut blocks: Vec<usize> = (0..count.div_ceil(BLOCK)).collect();
    Hash::of_parts(Domain::Lot, &[&seed.0, b"mask"]).stream().shuffle(&mut blocks);
    blocks.truncate(blocks.len().div_ceil(MASKED));
    blocks.sort_unstable();
    blocks
}

/// Encodes an update; `seed`, the round's, draws the mask.
pub fn encode(codec: Codec, seed: &Hash, update: &[f32]) -> Result<Vec<u8>> {
    let mut out = vec![0; encoded_len(codec, update.len())];
    out[..8].copy_from_slice(magic(codec));
    out[8..HEADER].copy_from_slice(&(update.len() as u64).to_le_bytes());
    let masked = (codec == Codec::Mask).then(|| gather(seed, update));
    let values = masked.as_deref().unwrap_or(update);
    let bytes = block_bytes(codec, BLOCK);
    let tasks = out[HEADER..].par_chunks_mut(TASK * bytes).zip(values.par_chunks(TASK * BLOCK));
    tasks.try_for_each(|(out, values)| -> Result<()> {
        let mut blocks = out.chunks_mut(bytes).zip(values.chunks(BLOCK));
        blocks.try_for_each(|(out, values)| {
            let limit = if codec == Codec::Int4 { 7 } else { 127 };
            pack(codec, &integers(values, limit)?, values.len(), out);
            Ok(())
        })
    })?;
    Ok(out)
}

/// Decodes an update of `count` values.
pub fn decode(codec: Codec, seed: &Hash, bytes: &[u8], count: usize) -> Result<Vec<f32>> {
    if bytes.len() < HEADER || &bytes[..8] != magic(codec) {
        return Err(TrainingError::Codec("the header is missing, or of another codec"));
    }
    if bytes[8..HEADER] != (count as u64).to_le_bytes() || bytes.len() != encoded_len(codec, count) {
        return Err(TrainingError::Codec("the length is not that of this model's update"));
    }
    let (bytes, each) = (&bytes[HEADER..], block_bytes(codec, BLOCK));
    let kept = if codec == Codec::Mask { bytes.len() / each * BLOCK } else { count };
    let mut out = vec![0.0; kept];
    let tasks = bytes.par_chunks(TASK * each).zip(out.par_chunks_mut(TASK * BLOCK));
    tasks.try_for_each(|(bytes, out)| {
        let mut blocks = bytes.chunks(each).zip(out.chunks_mut(BLOCK));
        blocks.try_for_each(|(bytes, out)| unpack(codec, bytes, out))
    })?;
    if codec == Codec::Mask { scatter(seed, &out, count) } else { Ok(out) }
}

/// The blocks of the mask, one after another; a short one is filled up with zeros.
fn gather(seed: &Hash, update: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(update.len().div_ceil(MASKED) + BLOCK);
    for block in mask(seed, update.len()) {
        let values = &update[block * BLOCK..update.len().min((block + 1) * BLOCK)];
        out.extend_from_slice(values);
        out.resize(out.len().next_multiple_of(BLOCK), 0.0);
    }
    out
}

fn scatter(seed: &Hash, kept: &[f32], count: usize) -> Result<Vec<f32>> {
    let mut out = vec![0.0; count];
    for (block, kept) in mask(seed, count).into_iter().zip(kept.chunks(BLOCK)) {
        let values = &mut out[block * BLOCK..count.min((block + 1) * BLOCK)];
        let (kept, filling) = kept.split_at(values.len());
        if filling.iter().any(|x| *x != 0.0) {
            return Err(TrainingError::Codec("a value lies beyond the last one"));
        }
        values.copy_from_slice(kept);
    }
    Ok(out)
}

/// Scale and integers of a block's values; all zero if the scale would be subnormal.
fn integers(values: &[f32], limit: u8) -> Result<Integers> {
    let mut integers = [0; BLOCK];
    if !values.iter().all(|x| x.is_finite()) {
        return Err(TrainingError::Codec("the update holds a number that is not finite"));
    }
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let exact = largest / f32::from(limit);
    let scale = f32::from_bits((exact.to_bits() + LOW_BITS) & !LOW_BITS);
    if scale > MAX_SCALE {
        return Err(TrainingError::Codec("the update holds a number beyond the codec's range"));
    }
    if exact < f32::MIN_POSITIVE {
        return Ok((0.0, integers));
    }
    for (integer, x) in integers.iter_mut().zip(values) {
        *integer = (x / scale).round_ties_even() as i8;
    }
    Ok((scale, integers))
}

/// Where top-k's values are: the largest magnitudes, of equal ones the first, in ascending order.
fn largest(integers: &[i8]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..integers.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(integers[*place].unsigned_abs()));
    places.truncate(KEPT);
    places.sort_unstable();
    places
}

fn pack(codec: Codec, (scale, integers): &Integers, len: usize, out: &mut [u8]) {
    out[..4].copy_from_slice(&scale.to_le_bytes());
    let (integers, out) = (&integers[..len], &mut out[4..]);
    match codec {
        Codec::Int8 | Codec::Mask => out.iter_mut().zip(integers).for_each(|(out, x)| *out = *x as u8),
        Codec::Int4 => {
            let half = |x: i8| x as u8 & 0xf;
            let pairs = out.iter_mut().zip(integers.chunks(2));
            pairs.for_each(|(out, pair)| *out = half(pair[0]) | half(pair.get(1).copied().unwrap_or(0)) << 4);
        }
        Codec::TopK => {
            for (out, place) in out.chunks_mut(2).zip(largest(integers)) {
                out.copy_from_slice(&[place as u8, integers[place] as u8]);
            }
        }
    }
}

fn unpack(codec: Codec, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let wrong = || TrainingError::Codec("a block is not the one encoding of its values");
    let scale = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (mut integers, len, bytes) = ([0i8; BLOCK], out.len(), &bytes[4..]);
    match codec {
        Codec::Int8 | Codec::Mask => integers.iter_mut().zip(bytes).for_each(|(x, b)| *x = *b as i8),
        Codec::Int4 => {
            let whole = |half: u8| (half << 4) as i8 >> 4;
            let pairs = integers.chunks_mut(2).zip(bytes);
            pairs.for_each(|(pair, b)| pair.copy_from_slice(&[whole(*b), whole(*b >> 4)]));
            if integers[len..].iter().any(|x| *x != 0) {
                return Err(wrong());
            }
        }
        Codec::TopK => {
            let places = bytes.chunks(2).map(|pair| usize::from(pair[0]));
            for (place, pair) in places.clone().zip(bytes.chunks(2)) {
                *integers[..len].get_mut(place).ok_or_else(wrong)? = pair[1] as i8;
            }
            if !places.eq(largest(&integers[..len])) {
                return Err(wrong());
            }
        }
    }
    let (largest, limit) =
        (integers.iter().map(|x| x.unsigned_abs()).max(), if codec == Codec::Int4 { 7 } else { 127 });
    let canonical = match scale.to_bits() {
        0 => largest == Some(0),
        bits => bits & LOW_BITS == 0 && (f32::MIN_POSITIVE..=MAX_SCALE).contains(&scale) && largest == Some(limit),
    };
    if !canonical {
        return Err(wrong());
    }
    out.iter_mut().zip(&integers).for_each(|(out, x)| *out = f32::from(*x) * scale);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SEED: Hash = Hash([7; 32]);

    fn encoded(codec: Codec, values: &[f32]) -> Vec<u8> {
        encode(codec, &SEED, values).unwrap()
    }

    /// Header and one block.
    fn pinned(digit: u8, count: u64, scale: f32, rest: &[u8]) -> Vec<u8> {
        [b"AILOUPD".as_slice(), &[digit], &count.to_le_bytes(), &scale.to_le_bytes(), rest].concat()
    }

    #[test]
    fn every_encoding_is_pinned_byte_for_byte() {
        let values = [1.0, -0.5, 0.25, 0.0];
        let scale = f32::from_bits(0x3c01_0300); // 1 / 127 rounded up to 16 significant bits
        assert_eq!(encoded(Codec::Int8, &values), pinned(b'1', 4, scale, &[127, 193, 32, 0]));
        assert_eq!(
            decode(Codec::Int8, &SEED, &encoded(Codec::Int8, &values), 4).unwrap(),
            [127.0 * scale, -63.0 * scale, 32.0 * scale, 0.0]
        );
        let seventh = f32::from_bits(0x3e12_4a00); // 1 / 7 rounded up
        assert_eq!(encoded(Codec::Int4, &values), pinned(b'2', 4, seventh, &[0xd7, 0x02]));
        assert_eq!(encoded(Codec::Int4, &values[..3]), pinned(b'2', 3, seventh, &[0xd7, 0x02]));
        assert_eq!(encoded(Codec::TopK, &values), pinned(b'3', 4, scale, &[0, 127, 1, 193, 2, 32, 3, 0]));
        let ten = [0.0, 1.0, 0.25, 0.25, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25];
        let kept = [1, 127, 2, 32, 3, 32, 4, 63, 5, 32, 6, 32, 7, 32, 8, 32];
        assert_eq!(encoded(Codec::TopK, &ten), pinned(b'3', 10, scale, &kept));
        let rest = [&[127, 193, 32, 0], [0; 60].as_slice()].concat();
        assert_eq!(encoded(Codec::Mask, &values), pinned(b'4', 4, scale, &rest));
        assert_eq!(mask(&SEED, 1000), [2, 8, 11, 12], "of 16 blocks");
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for (codec, patches) in [
            (Codec::Int8, vec![(20, vec![128]), (20, vec![1; 64])]),
            (Codec::Int4, vec![(20, vec![0x88]), (20, vec![0x11; 32]), (56, vec![0x17])]),
            // A place beyond the block, one twice, in another order, and zeros that are not the first.
            (Codec::TopK, vec![(20, vec![64]), (22, vec![0]), (20, vec![1, 127, 0, 127]), (34, vec![9, 0])]),
            (Codec::Mask, vec![(20, vec![128]), (20, vec![1; 64])]),
        ] {
            let good = encoded(codec, &vec![0.5; 65]);
            let read = |bytes: &[u8], count| decode(codec, &SEED, bytes, count);
            assert!(read(&good, 65).is_ok());
            assert!(read(&good, 64).is_err() && read(&good, 66).is_err());
            assert!(read(&good[..good.len() - 1], 65).is_err() && read(&[], 0).is_err());
            let common = [
                (0, vec![b'X']),
                (7, vec![b'5']),
                (8, vec![66]),
                (16, f32::NAN.to_le_bytes().to_vec()),
                (16, f32::INFINITY.to_le_bytes().to_vec()),
                (16, (-1.0f32).to_le_bytes().to_vec()),
                (16, 0.0f32.to_le_bytes().to_vec()),
                (16, (-0.0f32).to_le_bytes().to_vec()),
                (16, 1e-40f32.to_le_bytes().to_vec()),
                (16, (2.0 * MAX_SCALE).to_le_bytes().to_vec()),
                (16, vec![1]),
            ];
            for (at, patch) in common.into_iter().chain(patches) {
                let mut bad = good.clone();
                bad[at..at + patch.len()].copy_from_slice(&patch);
                assert!(read(&bad, 65).is_err(), "{codec:?}: byte {at} := {patch:?}");
            }
        }
    }

    #[test]
    fn nothing_lies_beyond_the_last_value_of_a_masked_block() {
        let last_is_kept = (0..99u8).map(|i| Hash([i; 32])).find(|seed| mask(seed, 65) == [1]).unwrap();
        let mut bytes = encode(Codec::Mask, &last_is_kept, &[0.5; 65]).unwrap();
        assert_eq!(decode(Codec::Mask, &last_is_kept, &bytes, 65).unwrap()[..64], [0.0; 64]);
        bytes[21] = 1;
        assert!(decode(Codec::Mask, &last_is_kept, &bytes, 65).is_err());
    }

    #[test]
    fn numbers_that_no_update_holds_are_not_encoded() {
        for codec in Codec::ALL {
            assert!([f32::NAN, f32::INFINITY, f32::MAX].iter().all(|x| encode(codec, &SEED, &[*x]).is_err()));
            assert_eq!(decode(codec, &SEED, &encoded(codec, &[f32::MIN_POSITIVE, -1e-44]), 2).unwrap(), [0.0, 0.0]);
        }
    }

    /// What the codec is to keep of `values`.
    fn kept(codec: Codec, values: &[f32]) -> Vec<bool> {
        match codec {
            Codec::Int8 | Codec::Int4 => vec![true; values.len()],
            Codec::Mask => {
                let mask = mask(&SEED, values.len());
                (0..values.len()).map(|i| mask.contains(&(i / BLOCK))).collect()
            }
            Codec::TopK => {
                let least = |block: &[f32]| {
                    let mut sizes: Vec<f32> = block.iter().map(|x| x.abs()).collect();
                    sizes.sort_by(|a, b| b.total_cmp(a));
                    sizes[KEPT.min(sizes.len()) - 1]
                };
                // Those that are not among the largest by far may stand for zero or not.
                values
                    .chunks(BLOCK)
                    .flat_map(|b| b.iter().map(|x| x.abs() > least(b) * 1.02).collect::<Vec<_>>())
                    .collect()
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_errs_by_at_most_half_a_step_and_re_encodes_to_the_same_bytes(
            values in prop::collection::vec(-1e3f32..1e3, 0..300),
            shrink in -120i32..0,
        ) {
            let values: Vec<f32> = values.iter().map(|x| x * 2f32.powi(shrink)).collect();
            for codec in Codec::ALL {
                let bytes = encoded(codec, &values);
                prop_assert_eq!(bytes.len(), encoded_len(codec, values.len()));
                let decoded = decode(codec, &SEED, &bytes, values.len()).unwrap();
                let kept = kept(codec, &values);
                for ((values, decoded), kept) in values.chunks(BLOCK).zip(decoded.chunks(BLOCK)).zip(kept.chunks(BLOCK)) {
                    let largest = values.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                    let limit = if codec == Codec::Int4 { 7.0 } else { 127.0 };
                    let step = (largest / limit * 1.0001).max(130.0 * f32::MIN_POSITIVE);
                    let near = |a: f32, b: f32| (a - b).abs() <= 0.501 * step;
                    for ((value, decoded), kept) in values.iter().zip(decoded).zip(kept) {
                        prop_assert!(near(*value, *decoded) || (!kept && *decoded == 0.0), "{codec:?}: {value} {decoded}");
                    }
                }
                prop_assert_eq!(encoded(codec, &decoded), bytes);
            }
        }
    }

    /// Valid encodings with a few bytes changed: what still decodes is the one encoding of its values. Many do.
    #[test]
    fn whatever_decodes_is_canonical() {
        let mut stream = Hash([9; 32]).stream();
        for codec in Codec::ALL {
            let (mut decoded, count) = (0, 67);
            for _ in 0..20_000 {
                let values: Vec<f32> = (0..count).map(|_| stream.below(2001) as f32 - 1000.0).collect();
                let mut bytes = encoded(codec, &values);
                for _ in 0..=stream.below(3) {
                    let at = HEADER as u64 + stream.below((bytes.len() - HEADER) as u64);
                    // The least bits of a value, or anything.
                    let change = if stream.below(2) == 0 { 1 << stream.below(8) } else { stream.below(256) };
                    bytes[at as usize] ^= change as u8;
                }
                if let Ok(values) = decode(codec, &SEED, &bytes, count) {
                    decoded += 1;
                    assert_eq!(encoded(codec, &values), bytes, "{codec:?}");
                }
            }
            assert!(decoded > 1000, "{codec:?}: {decoded}");
        }
    }
}

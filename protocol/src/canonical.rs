//! The one canonical encoding of everything that is hashed or signed, and of everything at rest.
//!
//! bincode 2 with fixed-width little-endian integers: a value has exactly one encoding, because decoding refuses
//! trailing bytes, over-long input and any input that does not re-encode to itself. Only ordered containers
//! (`Vec`, `BTreeMap`, `BTreeSet`) may appear in an encoded type.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
pub use bincode::{Decode, Encode};

/// No canonical object is larger than this, in bytes; it also bounds what a decode may allocate.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;
/// What shorter inputs may allocate: at least 16 times their length, which is more than any of our types takes in memory.
const SMALL: (usize, usize) = (16 << 10, 256 << 10);
const MEDIUM: (usize, usize) = (256 << 10, 4 << 20);

const fn config<const LIMIT: usize>() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT>()
}

/// Why bytes are not the canonical encoding of a value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than the caller's bound.
    #[error("{len} bytes exceed the bound of {max} bytes")]
    TooLong {
        /// Length of the input, in bytes.
        len: usize,
        /// The bound, in bytes.
        max: usize,
    },
    /// Not decodable at all.
    #[error("not a valid encoding: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// Decodable, but not the one encoding that the value has.
    #[error("not the canonical encoding of its value")]
    NotCanonical,
}

/// The canonical bytes of `value`.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    // Encoding into a growable vector fails only for types whose own `Encode` fails; ours are derived and cannot.
    bincode::encode_to_vec(value, config::<0>().with_no_limit())
        .unwrap_or_else(|e| unreachable!("derived Encode failed: {e}"))
}

/// Decodes the value that canonical bytes begin with, which takes `max` bytes at most, and gives the rest.
pub fn decode_first<T: Decode<()> + Encode>(bytes: &[u8], max: usize) -> Result<(T, &[u8]), CodecError> {
    let (value, used) = bincode::decode_from_slice::<T, _>(&bytes[..bytes.len().min(max)], config::<{ SMALL.1 }>())?;
    match bytes.split_at_checked(used) {
        Some((first, rest)) if encode(&value) == first => Ok((value, rest)),
        _ => Err(CodecError::NotCanonical),
    }
}

/// Decodes canonical bytes; `max` bounds the input, in bytes.
pub fn decode<T: Decode<()> + Encode>(bytes: &[u8], max: usize) -> Result<T, CodecError> {
    let max = max.min(MAX_OBJECT_BYTES);
    if bytes.len() > max {
        return Err(CodecError::TooLong { len: bytes.len(), max });
    }
    // A few bytes that claim to be millions must not make room for millions.
    let (value, used) = match bytes.len() {
        len if len <= SMALL.0 => bincode::decode_from_slice::<T, _>(bytes, config::<{ SMALL.1 }>()),
        len if len <= MEDIUM.0 => bincode::decode_from_slice(bytes, config::<{ MEDIUM.1 }>()),
        _ => bincode::decode_from_slice(bytes, config::<MAX_OBJECT_BYTES>()),
    }?;
    if used != bytes.len() || encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

//! 32-byte BLAKE3 hashes, always under a domain, so that no object can be taken for one of another kind.

use crate::canonical::{Decode, Encode};
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use std::{fmt, str::FromStr, sync::OnceLock};

/// A BLAKE3 hash. Text form: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Hash(pub [u8; 32]);

macro_rules! domains {
    ($($name:ident $context:literal,)*) => {
        /// What a hash is a hash of; the string is BLAKE3's key-derivation context.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Domain { $($name),* }

        const CONTEXTS: &[&str] = &[$($context),*];
    };
}

domains! {
    Address "ailo v1 address",
    Blob "ailo v1 blob",
    Block "ailo v1 block header",
    Dataset "ailo v1 dataset",
    Genesis "ailo v1 genesis",
    Lot "ailo v1 lot",
    LotLink "ailo v1 link of a chain of lots",
    LotSecret "ailo v1 secret of a chain of lots",
    MerkleLeaf "ailo v1 merkle leaf",
    MerkleNode "ailo v1 merkle node",
    Model "ailo v1 model that is served",
    ModelChunk "ailo v1 model chunk",
    Recovery "ailo v1 recovery key",
    Session "ailo v1 inference session",
    Signing "ailo v1 signed bytes",
    StateKey "ailo v1 state key",
    StateValue "ailo v1 state value",
    Stamp "ailo v1 proof-of-work stamp",
    Stream "ailo v1 stream",
    Trace "ailo v1 simulation trace",
    Training "ailo v1 trace of a training",
    Transaction "ailo v1 transaction",
    ValidatorSet "ailo v1 validator set",
    Work "ailo v1 result of a training",
}

impl Domain {
    /// A hasher under this domain; the context is hashed once for the whole process.
    fn hasher(self) -> blake3::Hasher {
        static KEYS: [OnceLock<ContextKey>; CONTEXTS.len()] = [const { OnceLock::new() }; CONTEXTS.len()];
        let key = KEYS[self as usize].get_or_init(|| hash_derive_key_context(CONTEXTS[self as usize]));
        blake3::Hasher::new_from_context_key(key)
    }
}

impl Hash {
    /// All zero: "nothing yet" (the parent of the first block).
    pub const ZERO: Hash = Hash([0; 32]);

    /// Zero bits before the first one: what a proof-of-work stamp is measured in.
    pub fn leading_zero_bits(&self) -> u32 {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        8 * zeros as u32 + self.0.get(zeros).map_or(0, |byte| byte.leading_zeros())
    }

    /// The hash of `bytes` under `domain`.
    pub fn of(domain: Domain, bytes: &[u8]) -> Hash {
        Hash::of_parts(domain, &[bytes])
    }

    /// The hash of the concatenation of `parts` under `domain`; callers keep parts fixed in width or number.
    pub fn of_parts(domain: Domain, parts: &[&[u8]]) -> Hash {
        let mut hasher = domain.hasher();
        for part in parts {
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// The hash of a value's canonical bytes under `domain`.
    pub fn of_value<T: Encode>(domain: Domain, value: &T) -> Hash {
        Hash::of(domain, &crate::canonical::encode(value))
    }

    /// An endless stream of pseudo-random bytes that everybody who knows this hash can repeat.
    pub fn stream(&self) -> Stream {
        let mut hasher = Domain::Stream.hasher();
        hasher.update(&self.0);
        Stream { reader: hasher.finalize_xof() }
    }

    /// First eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// Pseudo-random numbers from a hash; the same on every machine.
pub struct Stream {
    reader: blake3::OutputReader,
}

impl Stream {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.reader.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A uniform number in `0..bound` (`bound` > 0), without modulo bias.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no number");
        let zone = u64::MAX - u64::MAX % bound;
        loop {
            let x = self.next_u64();
            if x < zone {
                return x % bound;
            }
        }
    }

    /// Fisher-Yates: a uniform permutation in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Writes up to 64 bytes in hexadecimal, without the heap: an answer of JSON-RPC has hundreds of such texts.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut digits = [0; 128];
    let digits = digits.get_mut(..2 * bytes.len()).ok_or(fmt::Error)?;
    hex::encode_to_slice(bytes, digits).map_err(|_| fmt::Error)?;
    f.pad(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Hash {
    type Err = hex::FromHexError;
    fn from_str(s: &str) -> Result<Hash, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(s, &mut bytes)?;
        Ok(Hash(bytes))
    }
}

/// Serde as the text form of `Display` and `FromStr`, and that form's description and pattern in JSON Schema.
macro_rules! serde_as_text {
    ($t:ty, $about:literal, $pattern:literal) => {
        impl schemars::JsonSchema for $t {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($t).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "description": $about, "pattern": $pattern})
            }
        }
        impl serde::Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
serde_as_text!(Hash, "A hash: 32 bytes in hexadecimal.", "^[0-9a-f]{64}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_hashes_as_blake3_derives_its_key() {
        for (domain, context) in [(Domain::Address, "ailo v1 address"), (Domain::Lot, "ailo v1 lot")] {
            for _ in 0..2 {
                assert_eq!(Hash::of(domain, b"bytes").0, blake3::derive_key(context, b"bytes"));
            }
        }
        let distinct: std::collections::BTreeSet<&&str> = CONTEXTS.iter().collect();
        assert_eq!(distinct.len(), CONTEXTS.len());
    }

    #[test]
    fn leading_zero_bits_count_across_bytes() {
        let mut hash = Hash([0xff; 32]);
        assert_eq!(hash.leading_zero_bits(), 0);
        hash.0[0] = 0;
        hash.0[1] = 0b0001_0000;
        assert_eq!(hash.leading_zero_bits(), 11);
        assert_eq!(Hash::ZERO.leading_zero_bits(), 256);
    }
}

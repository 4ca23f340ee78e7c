//! User names: short, unique on the ledger, and optional. They hold no personal data but what their owner puts there.

use crate::canonical::Encode;
use bincode::{
    de::{Decode, Decoder},
    error::DecodeError,
};
use std::{fmt, str::FromStr};

/// Bytes of a name, at most.
pub const MAX_NAME_BYTES: usize = 24;
const MIN_NAME_BYTES: usize = 3;

/// A user name: 3 to 24 of `a-z`, `0-9`, `-` and `_`, a letter first, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct Username(pub [u8; MAX_NAME_BYTES]);

/// Why a text is no user name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no user name: take 3 to 24 of a-z, 0-9, - and _, a letter first")]
pub struct BadUsername(String);

/// Only names decode: any other bytes would have a text form that means something else.
impl<Context> Decode<Context> for Username {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Username, DecodeError> {
        let name = Username(Decode::decode(decoder)?);
        name.is_valid().then_some(name).ok_or(DecodeError::Other("these bytes are no user name"))
    }
}
bincode::impl_borrow_decode!(Username);

impl Username {
    /// Whether the bytes are a name.
    pub fn is_valid(&self) -> bool {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(MAX_NAME_BYTES);
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        len >= MIN_NAME_BYTES
            && self.0[0].is_ascii_lowercase()
            && self.0[..len].iter().all(allowed)
            && self.0[len..].iter().all(|b| *b == 0)
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
        f.pad(&text)
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Username {
    type Err = BadUsername;
    fn from_str(s: &str) -> Result<Username, BadUsername> {
        let mut bytes = [0; MAX_NAME_BYTES];
        let slot = bytes.get_mut(..s.len()).ok_or_else(|| BadUsername(s.into()))?;
        slot.copy_from_slice(s.as_bytes());
        let name = Some(Username(bytes)).filter(|name| name.is_valid() && !s.contains('\0'));
        name.ok_or_else(|| BadUsername(s.into()))
    }
}

crate::hash::serde_as_text!(
    Username,
    "A user name, without @: 3 to 24 of a-z, 0-9, - and _, a letter first.",
    "^[a-z][a-z0-9_-]{2,23}$"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_start_with_a_letter() {
        for good in ["ada", "a-1", "ada_lovelace", &"z".repeat(24)] {
            assert_eq!(good.parse::<Username>().map(|name| name.to_string()), Ok(good.to_string()));
        }
        for bad in ["", "ab", "Ada", "1ada", "-ada", "a da", "ad\u{e4}", "ada\0", &"z".repeat(25)] {
            assert!(bad.parse::<Username>().is_err(), "{bad:?}");
        }
        assert!(!Username([0; 24]).is_valid());
        let mut gap = "ada".parse::<Username>().unwrap_or(Username([0; 24]));
        gap.0[5] = b'x';
        assert!(!gap.is_valid(), "one name has one encoding");
        assert!(crate::canonical::decode::<Username>(&gap.0, 24).is_err(), "and nothing else decodes");
    }
}

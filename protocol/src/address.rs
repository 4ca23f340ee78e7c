//! Wallet addresses: 20 bytes of a public key's hash, written in bech32m with the prefix `ailo`, so that a mistyped
//! address is refused instead of losing coins.

use crate::{
    Hash, PublicKey,
    canonical::{Decode, Encode},
    hash::Domain,
};
use bech32::{Bech32m, Hrp};
use std::{fmt, str::FromStr};

const HRP: Hrp = Hrp::parse_unchecked("ailo");

/// A wallet's address. Text form: bech32m, `ailo1...`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Address(pub [u8; 20]);

/// Why a text is not an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Checksum or characters are wrong.
    #[error("'{0}' is not an address: check it for a typing error (addresses start with ailo1)")]
    Malformed(String),
    /// Valid bech32, but of another system or length.
    #[error("'{0}' is not an ailo address: it must start with ailo1 and hold 20 bytes")]
    Foreign(String),
}

impl From<&PublicKey> for Address {
    fn from(key: &PublicKey) -> Address {
        let hash = Hash::of(Domain::Address, &key.0);
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&hash.0[..20]);
        Address(bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 20 bytes never exceed bech32's length, the only error there is.
        f.pad(&bech32::encode::<Bech32m>(HRP, &self.0).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(s: &str) -> Result<Address, AddressError> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(s)
            .map_err(|_| AddressError::Malformed(s.into()))?;
        let bytes: Vec<u8> = checked.byte_iter().collect();
        match (checked.hrp() == HRP, <[u8; 20]>::try_from(bytes)) {
            (true, Ok(bytes)) => Ok(Address(bytes)),
            _ => Err(AddressError::Foreign(s.into())),
        }
    }
}

crate::hash::serde_as_text!(Address, "A wallet's address, in bech32m.", "^ailo1[02-9ac-hj-np-z]{38}$");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypair;

    #[test]
    fn one_changed_character_is_always_refused() {
        let text = Address::from(Keypair::from_seed([7; 32]).public()).to_string();
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        for i in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[i] = if bytes[i] == b'q' { b'p' } else { b'q' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed.parse::<Address>().is_err(), "{changed} must be refused");
        }
    }
}

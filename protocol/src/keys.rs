//! ed25519 keys and signatures. Verification is always `verify_strict`: one signature at a time, no small-order keys,
//! the same answer on every machine (batch verification can differ and would fork a ledger).

mod memo;

pub use memo::{Verified, remembering};

use crate::{
    Hash,
    canonical::{Decode, Encode},
    hash::{Domain, serde_as_text},
};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// An ed25519 public key. Text form: hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PublicKey(pub [u8; 32]);

/// An ed25519 signature. Text form: hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

/// The signature does not belong to this key and these bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// Strict ed25519 verification of `signature` over `bytes`.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        memo::verify(self, bytes, signature)
    }

    fn decompress(&self) -> Result<VerifyingKey, BadSignature> {
        VerifyingKey::from_bytes(&self.0).map_err(|_| BadSignature)
    }

    /// First eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// A signing key with its public key. The secret is wiped from memory on drop.
#[derive(Clone)]
pub struct Keypair {
    secret: SigningKey,
    public: PublicKey,
}

/// 32 bytes of the system's randomness.
///
/// # Panics
/// When the operating system has no randomness to give; nothing secret can be done then.
pub fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap_or_else(|e| panic!("the system's random source failed: {e}"));
    bytes
}

impl Keypair {
    /// A new key from [`random_bytes`].
    pub fn generate() -> Keypair {
        Keypair::from_seed(*Zeroizing::new(random_bytes()))
    }

    /// The key that a 32-byte secret determines.
    pub fn from_seed(seed: [u8; 32]) -> Keypair {
        let secret = SigningKey::from_bytes(&seed);
        let public = PublicKey(secret.verifying_key().to_bytes());
        Keypair { secret, public }
    }

    /// The 32-byte secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.secret.sign(bytes).to_bytes())
    }
}

/// The bytes that a signature over `value` covers: the network id first, so that no signature is valid elsewhere, then
/// a word for the kind of object, then its canonical bytes.
pub fn signing_bytes<T: Encode>(network: &Hash, kind: &str, value: &T) -> Vec<u8> {
    let body = crate::canonical::encode(value);
    Hash::of_parts(Domain::Signing, &[&network.0, &(kind.len() as u64).to_le_bytes(), kind.as_bytes(), &body])
        .0
        .to_vec()
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", self.public.short())
    }
}

macro_rules! hex_text {
    ($t:ident, $n:literal, $about:literal, $pattern:literal) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::hash::write_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0[..4]))
            }
        }
        impl FromStr for $t {
            type Err = hex::FromHexError;
            fn from_str(s: &str) -> Result<$t, Self::Err> {
                let mut bytes = [0; $n];
                hex::decode_to_slice(s, &mut bytes)?;
                Ok($t(bytes))
            }
        }
        serde_as_text!($t, $about, $pattern);
    };
}
hex_text!(PublicKey, 32, "An ed25519 public key, 32 bytes in hexadecimal: names a node, too.", "^[0-9a-f]{64}$");
hex_text!(Signature, 64, "An ed25519 signature: 64 bytes in hexadecimal.", "^[0-9a-f]{128}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_bound_to_key_bytes_network_and_kind() {
        let (a, b) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
        let (net, other) = (Hash([1; 32]), Hash([2; 32]));
        let bytes = signing_bytes(&net, "transfer", &5u64);
        let signature = a.sign(&bytes);
        assert!(a.public().verify(&bytes, &signature).is_ok());
        assert!(b.public().verify(&bytes, &signature).is_err());
        for wrong in [
            signing_bytes(&other, "transfer", &5u64),
            signing_bytes(&net, "stake", &5u64),
            signing_bytes(&net, "transfer", &6u64),
        ] {
            assert!(a.public().verify(&wrong, &signature).is_err());
        }
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(PublicKey(identity).verify(b"anything", &Signature(signature)).is_err());
    }
}

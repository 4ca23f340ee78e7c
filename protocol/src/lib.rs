//! What every part of an ailo network agrees on before anything is stored or trained: hashes, canonical bytes,
//! keys and addresses, amounts, Merkle roots, the genesis parameters, contributions, payment for inference, and the peer-to-peer swarm.
//!
//! ```
//! use ailo_protocol::{canonical, keys::Keypair, Hash};
//! let key = Keypair::generate();
//! let message = canonical::encode(&(7u64, Hash::ZERO));
//! let signature = key.sign(&message);
//! assert!(key.public().verify(&message, &signature).is_ok());
//! ```
/// Text forms of these types: those of configuration files.
macro_rules! named_as_in_files {
    ($($t:ty),*) => { $(
        impl std::str::FromStr for $t {
            type Err = serde::de::value::Error;
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                <$t as serde::Deserialize>::deserialize(serde::de::IntoDeserializer::into_deserializer(name))
            }
        }
    )* };
}

pub mod address;
pub mod aggregation;
pub mod amount;
pub mod canonical;
pub mod compression;
pub mod contribution;
pub mod file;
pub mod genesis;
pub mod hash;
pub mod inference;
pub mod keys;
pub mod keystore;
pub mod merkle;
pub mod net;
pub mod params;
pub mod payment;
pub mod presets;
pub mod username;

pub use address::Address;
pub use amount::Amount;
pub use genesis::Genesis;
pub use hash::Hash;
pub use keys::{Keypair, PublicKey, Signature};
pub use username::Username;

/// A node is named by its ed25519 public key; its libp2p peer id is derived from the same key.
pub type NodeId = PublicKey;

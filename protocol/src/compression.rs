//! How an update is packed for its way through the network, a network parameter (`training.codec`); `ailo_training::codec`
//! packs and unpacks, and `docs/training.md` says what each costs and loses.

use crate::canonical::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How an update is packed. None keeps what it leaves out for a later round: nothing hidden shapes an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// Every value in 8 bits, and a scale for 64 of them: 8.5 bits a value.
    Int8,
    /// Every value in 4 bits, and a scale for 64 of them: 4.5 bits a value.
    Int4,
    /// Of each 64 values the 8 largest, in 8 bits, and where they are: 2.5 bits a value.
    TopK,
    /// A quarter of all blocks of 64 values, the same for everybody, drawn anew each round, as `int8`: 2.1 bits a value.
    Mask,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Codec; 4] = [Codec::Int8, Codec::Int4, Codec::TopK, Codec::Mask];
}

named_as_in_files!(Codec);

//! What a node says of what it serves, signed. Who believes how much of it is `known.rs`' matter.

use crate::{
    Amount, Hash, Keypair, NodeId, Signature,
    canonical::{self, Decode, Encode},
    hash::Domain,
};
use std::ops::Range;

/// Round trip times in one, at most.
pub const MAX_NEAR: usize = 32;
/// Bytes of a model's name, and of its type, at most.
pub const MAX_NAME: usize = 100;
const MAX_TYPE: usize = 8;
/// Layers of a model, at most.
const MAX_LAYERS: u32 = 512;
/// Addresses, and characters of one, at most.
pub const MAX_ADDRESSES: usize = 4;
const MAX_ADDRESS: usize = 128;
/// Bytes of a signed announcement, at most.
const MAX_BYTES: usize = 4096;

/// What a node serves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Announce {
    /// Who.
    pub node: NodeId,
    /// Its clock, in milliseconds since 1970; a later one replaces it.
    pub at_ms: u64,
    /// The model, and its name for people.
    pub model: Hash,
    /// See `model`.
    pub name: String,
    /// The model before it, of which it has the same layers: texts that began with that one may go on here.
    pub before: Option<Hash>,
    /// The type in which its matrices are kept, as people write it.
    pub dtype: String,
    /// Layers first .. end of `total`. None: it serves nothing any more.
    pub first: u32,
    /// See `first`.
    pub end: u32,
    /// See `first`.
    pub total: u32,
    /// Microseconds that it takes for a token and layer,
    pub layer_us: u32,
    /// for what comes before the first layer, if that is here,
    pub embed_us: u32,
    /// and for what comes after the last one: logits, and the choice of a token.
    pub head_us: u32,
    /// Microseconds that a single text's token takes here in all, as it was measured lately.
    pub token_us: u32,
    /// Bytes for sessions.
    pub memory: u64,
    /// Of these, bytes that no session has now.
    pub room: u64,
    /// What a unit of positions through all layers costs; nothing: it is free.
    pub price: Amount,
    /// Round trip times to other nodes, in microseconds.
    pub near: Vec<(NodeId, u32)>,
    /// Multiaddrs that it listens on.
    pub addresses: Vec<String>,
}

/// The same, signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Signed {
    announce: Announce,
    signature: Signature,
}

/// What is signed.
fn bytes_of(network: &Hash, announce: &Announce) -> Hash {
    Hash::of_parts(Domain::Session, &[b"announce", &network.0, &canonical::encode(announce)])
}

impl Announce {
    /// Its bytes for gossip.
    pub fn sign(&self, network: &Hash, key: &Keypair) -> Vec<u8> {
        let signature = key.sign(&bytes_of(network, self).0);
        canonical::encode(&Signed { announce: self.clone(), signature })
    }

    /// The layers that it serves.
    pub fn layers(&self) -> Range<u32> {
        self.first..self.end
    }

    /// Whether texts of a model are written here.
    pub fn has(&self, model: &Hash) -> bool {
        self.model == *model || self.before.as_ref() == Some(model)
    }

    /// Whether it serves nothing any more.
    pub fn withdraws(&self) -> bool {
        self.first == self.end
    }

    /// Microseconds that it says a token takes it through some of its layers.
    pub fn takes_us(&self, layers: &Range<u32>) -> u64 {
        let embed = if layers.start == 0 { self.embed_us } else { 0 };
        let head = if layers.end == self.total { self.head_us } else { 0 };
        u64::from(layers.end - layers.start) * u64::from(self.layer_us) + u64::from(embed) + u64::from(head)
    }

    /// Reads and checks gossip.
    pub fn open(network: &Hash, bytes: &[u8]) -> Option<Announce> {
        let Signed { announce, signature } = canonical::decode(bytes, MAX_BYTES).ok()?;
        let addresses = &announce.addresses;
        let listens = addresses.len() <= MAX_ADDRESSES && addresses.iter().all(|one| one.len() <= MAX_ADDRESS);
        let named = announce.name.len() <= MAX_NAME && announce.dtype.len() <= MAX_TYPE;
        let texts = [&announce.name, &announce.dtype].into_iter().chain(addresses);
        let plain = texts.flat_map(|text| text.chars()).all(|c| !c.is_control()); // people read them
        let bounded = announce.near.len() <= MAX_NEAR && named && listens && plain;
        let sane = announce.first <= announce.end && announce.end <= announce.total && announce.total <= MAX_LAYERS;
        let signed = || announce.node.verify(&bytes_of(network, &announce).0, &signature).is_ok();
        (bounded && sane && signed()).then_some(announce)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub const MODEL: Hash = Hash([1; 32]);

    pub fn node(i: u8) -> NodeId {
        *Keypair::from_seed([i; 32]).public()
    }

    /// Of a model of eight layers.
    pub fn announce(i: u8, layers: Range<u32>, layer_us: u32, near: &[(u8, u32)]) -> Announce {
        Announce {
            node: node(i),
            at_ms: 1,
            model: MODEL,
            name: "model".into(),
            before: None,
            dtype: "f32".into(),
            first: layers.start,
            end: layers.end,
            total: 8,
            layer_us,
            embed_us: 0,
            head_us: 0,
            token_us: 0,
            memory: 1 << 30,
            room: 1 << 30,
            price: Amount::ZERO,
            addresses: Vec::new(),
            near: near.iter().map(|(i, rtt)| (node(*i), *rtt)).collect(),
        }
    }

    #[test]
    fn announcements_are_signed_for_a_network_and_bounded() {
        let (network, key) = (Hash([5; 32]), Keypair::from_seed([1; 32]));
        let one = announce(1, 0..4, 100, &[]);
        assert_eq!(Announce::open(&network, &one.sign(&network, &key)).unwrap(), one);
        assert!(Announce::open(&Hash([6; 32]), &one.sign(&network, &key)).is_none());
        assert!(Announce::open(&network, &one.sign(&network, &Keypair::from_seed([2; 32]))).is_none());
        for bad in [
            Announce { first: 5, ..one.clone() },
            Announce { end: 9, ..one.clone() },
            Announce { total: 513, ..one.clone() },
            Announce { name: "x".repeat(101), ..one.clone() },
            Announce { dtype: "x".repeat(9), ..one.clone() },
            Announce { name: "\u{1b}[2Jmodel".into(), ..one.clone() },
            Announce { dtype: "f32\n".into(), ..one.clone() },
            Announce { near: vec![(node(2), 1); 33], ..one.clone() },
            Announce { addresses: vec![String::new(); 5], ..one.clone() },
            Announce { addresses: vec!["x".repeat(129)], ..one.clone() },
        ] {
            assert!(Announce::open(&network, &bad.sign(&network, &key)).is_none(), "{bad:?}");
        }
        let left = Announce { first: 4, ..one };
        assert!(Announce::open(&network, &left.sign(&network, &key)).unwrap().withdraws());
    }

    #[test]
    fn what_the_ends_of_a_model_take_counts_where_they_are() {
        let ends = Announce { embed_us: 7, head_us: 1000, ..announce(1, 0..8, 100, &[]) };
        assert_eq!([0..8, 0..7, 1..8, 2..4].map(|layers| ends.takes_us(&layers)), [1807, 707, 1700, 200]);
    }
}

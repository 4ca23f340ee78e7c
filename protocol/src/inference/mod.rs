//! Inference sessions without sockets, clocks and tensors: what a stage ([`stage`]) and a client ([`client`]) do on each frame.
//! `docs/inference.md` is the specification; `tests.rs` runs both cores against each other under faults.

pub mod announce;
pub mod client;
pub mod known;
pub mod pace;
pub mod proof;
pub mod routes;
pub mod stage;
pub mod tabs;
#[cfg(test)]
mod tests;

use crate::{Hash, NodeId, hash::Domain};

/// Bytes of a frame on the wire, at most.
pub const MAX_FRAME: usize = 4 << 20;
/// Tokens whose rows are hashed, kept and found again together.
pub const CHUNK: usize = 32;
/// Positions of a session, at most.
pub const MAX_ROOM: usize = 1 << 20;

/// A session of one client.
pub type SessionId = [u8; 16];

/// The session that a client calls `nonce`. Nobody else can open it: a stage makes the id from whom the frame came from.
pub fn session_id(client: &NodeId, nonce: u64) -> SessionId {
    let hash = Hash::of_parts(Domain::Session, &[&client.0, &nonce.to_le_bytes()]);
    std::array::from_fn(|i| hash.0[i])
}

/// What each whole chunk of a text is found by: the hash of all tokens up to its end.
pub fn chunks(tokens: &[u32]) -> Vec<Hash> {
    all_chunks(&tokens[..tokens.len() / CHUNK * CHUNK])
}

/// The same of all chunks, the last of which may be shorter.
pub fn all_chunks(tokens: &[u32]) -> Vec<Hash> {
    let mut last = Hash::ZERO;
    let link = |chunk: &[u32]| {
        last = chunk_after(&last, chunk);
        last
    };
    tokens.chunks(CHUNK).map(link).collect()
}

/// What a text is found by that goes on with a chunk.
fn chunk_after(last: &Hash, chunk: &[u32]) -> Hash {
    let bytes: Vec<u8> = chunk.iter().flat_map(|token| token.to_le_bytes()).collect();
    Hash::of_parts(Domain::Session, &[b"text", &last.0, &bytes])
}

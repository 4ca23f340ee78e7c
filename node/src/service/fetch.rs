//! Fetching from peers: blobs by hash and model states by root, in pieces, from several peers at once, every piece checked.

use super::models::Models;
use ailo_proto::{BlobRequest, ModelChunkRequest, ModelManifestRequest, Request, request, response};
use ailo_protocol::{
    Hash, NodeId,
    hash::Domain,
    merkle,
    net::{Handle, Offence},
};
use ailo_training::state::{self, ModelState};
use futures::{StreamExt, stream};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// Bytes asked for in one request.
const PIECE: u32 = 4 << 20;
/// Chunk requests under way at once.
const IN_FLIGHT: usize = 8;
/// A peer that does not give a piece within this time is passed over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a hash.
const HASH: usize = 32;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No peer gave it.
    #[error("no connected peer has {0}")]
    NoPeer(Hash),
    /// What came together is not what was asked for.
    #[error("peers gave {0} in pieces that do not belong together")]
    Mismatch(Hash),
}

/// Asks a peer; `None` when it fails, or takes too long.
pub(super) async fn ask(net: &Handle, peer: NodeId, body: request::Body) -> Option<response::Body> {
    match tokio::time::timeout(PATIENCE, net.request(peer, Request::from(body))).await {
        Ok(Ok(response)) => Some(response),
        Err(_) => {
            tracing::debug!(peer = %peer.short(), "a peer was too slow and is passed over");
            None
        }
        Ok(Err(e)) => {
            tracing::debug!(peer = %peer.short(), error = %e, "a request failed");
            None
        }
    }
}

async fn blame(net: &Handle, peer: NodeId) {
    if net.report(peer, Offence::WrongData).await.is_err() {
        tracing::debug!("the network layer has stopped");
    }
}

/// The connected peers, `first` before all others.
fn providers(net: &Handle, first: Option<NodeId>) -> Vec<NodeId> {
    let connected = net.peers().into_iter().map(|peer| peer.node).filter(|node| Some(*node) != first);
    first.into_iter().chain(connected).collect()
}

/// A blob of exactly `bytes` bytes with this hash, from its maker or from whoever has it.
pub async fn blob(net: &Handle, hash: Hash, bytes: u64, maker: NodeId) -> Result<Vec<u8>, FetchError> {
    for peer in providers(net, Some(maker)) {
        if let Some(blob) = blob_from(net, peer, hash, bytes).await {
            if Hash::of(Domain::Blob, &blob) == hash {
                return Ok(blob);
            }
            blame(net, peer).await;
        }
    }
    Err(FetchError::NoPeer(hash))
}

async fn blob_from(net: &Handle, peer: NodeId, hash: Hash, bytes: u64) -> Option<Vec<u8>> {
    let mut blob: Vec<u8> = Vec::new();
    while (blob.len() as u64) < bytes {
        let left = bytes - blob.len() as u64;
        let length = PIECE.min(u32::try_from(left).unwrap_or(PIECE));
        let request = BlobRequest { hash: hash.0.to_vec().into(), offset: blob.len() as u64, length };
        match ask(net, peer, request::Body::Blob(request)).await? {
            response::Body::Blob(piece)
                if piece.total == bytes && !piece.data.is_empty() && piece.data.len() <= length as usize =>
            {
                blob.extend_from_slice(&piece.data);
            }
            _ => return None,
        }
    }
    Some(blob)
}

/// The model state with this Merkle root: the list of chunk hashes from one peer, the chunks from all of them.
pub async fn model(net: &Handle, models: &Models, root: Hash) -> Result<ModelState, FetchError> {
    let peers = providers(net, None);
    let count = state::chunk_count(models.config());
    let (mut hashes, mut moved) = (Vec::new(), 0);
    for peer in &peers {
        let request = ModelManifestRequest { root: root.0.to_vec().into() };
        if let Some(response::Body::ModelManifest(manifest)) =
            ask(net, *peer, request::Body::ModelManifest(request)).await
        {
            moved += manifest.chunks.len();
            let list: Vec<Hash> =
                manifest.chunks.chunks_exact(HASH).filter_map(|c| c.try_into().ok().map(Hash)).collect();
            if manifest.chunks.len() == count * HASH && merkle::root(&list) == root {
                hashes = list;
                break;
            }
            blame(net, *peer).await;
        }
    }
    if hashes.len() != count {
        return Err(FetchError::NoPeer(root));
    }
    let fetches = hashes.into_iter().enumerate().map(|(i, hash)| {
        // Each chunk starts its search at another peer, so that the load is spread.
        let mut order: VecDeque<NodeId> = peers.iter().copied().collect();
        order.rotate_left(i % peers.len().max(1));
        chunk(net.clone(), order, root, u32::try_from(i).unwrap_or(u32::MAX), hash)
    });
    let chunks: Vec<Option<Piece>> = stream::iter(fetches).buffered(IN_FLIGHT).collect().await;
    let (mut bytes, mut sources) = (Vec::new(), BTreeSet::new());
    for chunk in chunks {
        let chunk = chunk.ok_or(FetchError::NoPeer(root))?;
        bytes.extend(chunk.data);
        moved += chunk.moved;
        sources.insert(chunk.from);
    }
    tracing::info!(bytes = bytes.len(), moved, peers = sources.len(), "a model state has come");
    ModelState::from_bytes(models.config(), &bytes).map_err(|_| FetchError::Mismatch(root))
}

/// A part of a model state.
struct Piece {
    data: Vec<u8>,
    from: NodeId,
    /// Bytes that came, those of wrong pieces too.
    moved: usize,
}

async fn chunk(net: Handle, peers: VecDeque<NodeId>, root: Hash, index: u32, hash: Hash) -> Option<Piece> {
    let mut moved = 0;
    for peer in peers {
        let request = ModelChunkRequest { root: root.0.to_vec().into(), index };
        if let Some(response::Body::ModelChunk(chunk)) = ask(&net, peer, request::Body::ModelChunk(request)).await {
            moved += chunk.data.len();
            if Hash::of(Domain::ModelChunk, &chunk.data) == hash {
                return Some(Piece { data: chunk.data.to_vec(), from: peer, moved });
            }
            blame(&net, peer).await;
        }
    }
    None
}

//! Answers peers' requests: blocks and headers with what verifies them, snapshots, payloads, model states, whom this node is connected to.

use super::{chain::Chain, models::Models, neighbours::MAX_NEIGHBOURS, payloads::Payloads};
use ailo_ledger::{Block, state::Phase};
use ailo_proto::{
    BlobResponse, BlockWithCertificate, BlocksResponse, Head, HeadersResponse, LightBlockResponse, ModelChunkResponse,
    ModelManifestResponse, PeersResponse, SnapshotPartResponse, SnapshotResponse, request, response,
};
use ailo_protocol::{
    Hash, NodeId, canonical,
    net::{Handle, Reply},
};

/// Blocks in one answer, at most, by number and by bytes.
const MAX_BLOCKS: u32 = 256;
const MAX_BLOCKS_BYTES: usize = 4 << 20;
/// Headers in one answer, at most.
pub const MAX_HEADERS: u32 = 256;
/// Bytes of a blob in one answer, at most.
const MAX_PIECE: u32 = 4 << 20;

/// What can be served.
#[derive(Clone)]
pub struct Serve {
    /// The ledger.
    pub chain: Chain,
    /// Model states.
    pub models: Models,
    /// Payloads.
    pub payloads: Payloads,
    /// This node.
    pub node: NodeId,
    /// Its peers.
    pub net: Handle,
}

fn hash(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok().map(Hash)
}

impl Serve {
    /// Answers one request; reads files, so it runs where blocking is allowed.
    pub fn answer(&self, request: request::Body, reply: Reply) {
        match self.find(request) {
            Ok(body) => reply.send(body),
            Err(reason) => reply.refuse(reason),
        }
    }

    fn find(&self, request: request::Body) -> Result<response::Body, &'static str> {
        const LACKING: &str = "not here";
        let unreadable = |_| "can't be read here";
        match request {
            request::Body::Head(_) => {
                let head = self.chain.head();
                let block = head.state.last_block().0.to_vec().into();
                Ok(response::Body::Head(Head { height: head.state.height(), block }))
            }
            request::Body::Blocks(request) => {
                let mut blocks = Vec::new();
                let mut bytes = 0;
                for height in
                    (0..u64::from(request.max_count.min(MAX_BLOCKS))).map_while(|i| request.from_height.checked_add(i))
                {
                    let Some((block, certificate)) = self.chain.block_bytes(height).map_err(unreadable)? else { break };
                    bytes += block.len() + certificate.len();
                    if bytes > MAX_BLOCKS_BYTES && !blocks.is_empty() {
                        break;
                    }
                    blocks.push(BlockWithCertificate { block: block.into(), certificate: certificate.into() });
                }
                Ok(response::Body::Blocks(BlocksResponse { blocks, first_height: self.chain.first() }))
            }
            request::Body::LightBlock(request) => {
                let block = self.chain.light_block(request.height).map_err(unreadable)?.ok_or(LACKING)?;
                Ok(response::Body::LightBlock(LightBlockResponse { canonical: block.encode().into() }))
            }
            request::Body::Headers(request) => {
                let mut read = 0; // a header is read with its block
                let heights = (0..u64::from(request.max_count.min(MAX_HEADERS)))
                    .map_while(|i| request.from_height.checked_sub(i));
                let headers = heights.map_while(|height| {
                    let (block, _) = self.chain.block_bytes(height).ok()?.filter(|_| read < MAX_BLOCKS_BYTES)?;
                    read += block.len();
                    Some(canonical::encode(&Block::decode(&block).ok()?.header).into())
                });
                Ok(response::Body::Headers(HeadersResponse { canonical: headers.collect() }))
            }
            request::Body::Snapshot(_) => {
                let head = self.chain.snapshot().ok_or(LACKING)?;
                Ok(response::Body::Snapshot(SnapshotResponse { head: head.encode().into() }))
            }
            request::Body::SnapshotPart(request) => {
                let part =
                    self.chain.snapshot_part(request.height, request.index).map_err(unreadable)?.ok_or(LACKING)?;
                Ok(response::Body::SnapshotPart(SnapshotPartResponse { part: part.into() }))
            }
            request::Body::Peers(_) => {
                let peers = self.net.peers().into_iter().take(MAX_NEIGHBOURS);
                let nodes: Vec<u8> = peers.flat_map(|peer| peer.node.0).collect();
                Ok(response::Body::Peers(PeersResponse { nodes: nodes.into() }))
            }
            request::Body::Blob(request) => {
                let hash = hash(&request.hash).ok_or("malformed hash")?;
                if self.is_sealed(&hash) {
                    return Err("sealed until the round's commits have closed");
                }
                let length = request.length.min(MAX_PIECE) as usize;
                let (total, data) = self.payloads.read(&hash, request.offset, length).ok_or(LACKING)?;
                Ok(response::Body::Blob(BlobResponse { total, data: data.into() }))
            }
            request::Body::ModelManifest(request) => {
                let held = hash(&request.root).and_then(|root| self.models.get(&root)).ok_or(LACKING)?;
                let chunks: Vec<u8> = held.chunk_hashes.iter().flat_map(|hash| hash.0).collect();
                Ok(response::Body::ModelManifest(ModelManifestResponse { chunks: chunks.into() }))
            }
            request::Body::ModelChunk(request) => {
                let held = hash(&request.root).and_then(|root| self.models.get(&root)).ok_or(LACKING)?;
                let data = held.state.chunk(request.index as usize).ok_or(LACKING)?;
                Ok(response::Body::ModelChunk(ModelChunkResponse { data: data.into() }))
            }
        }
    }

    /// A payload of the open round stays sealed while commits may still come: this node's own, committed or not.
    fn is_sealed(&self, payload: &Hash) -> bool {
        let head = self.chain.head();
        let round = head.state.round();
        let revealed = round.phase == Phase::Verify || round.phase == Phase::Vote;
        let committed = round.contributions.get(&self.node).is_some_and(|c| c.contribution.payload == *payload);
        let unknown_yet = self.payloads.round_of(payload) == Some(round.number);
        !revealed && (committed || unknown_yet)
    }
}

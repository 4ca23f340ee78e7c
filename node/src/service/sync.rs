//! Block sync, the asking side: the newest height of a peer, and blocks with their certificates from whoever has them.
//! Each question is a task of its own that ends by telling the ledger's thread what came of it.

use super::chain::Command;
use ailo_ledger::{Block, Certificate, block::MAX_CERTIFICATE_BYTES};
use ailo_proto::{BlocksRequest, BlocksResponse, HeadRequest, request, response};
use ailo_protocol::{
    Hash, NodeId, canonical, keys,
    net::{Handle, Offence},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc::Sender;

/// Blocks asked for at once.
const BATCH: u32 = 128;
/// Peers asked before giving up.
const TRIES: usize = 4;

/// A peer that does not answer within this time is passed over.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks a peer how far it is.
pub(super) fn ask_head(net: Handle, peer: NodeId, ledger: Sender<Command>) {
    tokio::spawn(async move {
        if let Ok(response::Body::Head(head)) = net.request(peer, request::Body::Head(HeadRequest {})).await {
            let _ = ledger.send(Command::Head(peer, head.height)).await; // stopping
        }
    });
}

/// Asks for blocks from `height` on: `first`, which claims to have them, then others.
pub(super) fn ask_blocks(net: Handle, first: Option<NodeId>, height: u64, ledger: Sender<Command>) {
    tokio::spawn(async move {
        let mut others: Vec<NodeId> = net.peers().into_iter().map(|peer| peer.node).collect();
        others.retain(|node| Some(*node) != first);
        Hash(keys::random_bytes()).stream().shuffle(&mut others);
        let (mut found, mut asked, mut removed) = ((None, Vec::new()), 0, 0);
        for peer in first.into_iter().chain(others).take(TRIES) {
            let request = request::Body::Blocks(BlocksRequest { from_height: height, max_count: BATCH });
            let answer = tokio::time::timeout(PATIENCE, net.request(peer, request)).await;
            let Ok(Ok(response::Body::Blocks(answer))) = answer else { continue };
            asked += 1;
            match decode(&answer) {
                Some(blocks) if !blocks.is_empty() => {
                    found = (Some(peer), blocks);
                    break;
                }
                Some(_) => removed += u32::from(answer.first_height > height), // else it is not that far itself
                None => drop(net.report(peer, Offence::Invalid).await),
            }
        }
        // One peer alone may lie.
        if found.0.is_none() && removed > 0 && (removed > 1 || asked == 1) {
            tracing::error!(
                height,
                "peers keep this block no more: stop the node, move blocks, snapshots and index out of its ledger folder \
                 (not journal and wal, or a validator may sign what it has signed otherwise before), and start it with --checkpoint"
            );
        }
        let _ = ledger.send(Command::Synced(found.0, found.1)).await; // stopping
    });
}

fn decode(answer: &BlocksResponse) -> Option<Vec<(Arc<Block>, Certificate)>> {
    let decode = |pair: &ailo_proto::BlockWithCertificate| {
        let block = Block::decode(&pair.block).ok()?;
        let certificate = canonical::decode(&pair.certificate, MAX_CERTIFICATE_BYTES).ok()?;
        Some((Arc::new(block), certificate))
    };
    answer.blocks.iter().take(BATCH as usize).map(decode).collect()
}

//! How a node without a ledger joins by a checkpoint: it takes over the state of a snapshot instead of executing every block
//! since the first. Peers are believed nothing: the header that the snapshot belongs to is verified from the checkpoint (by
//! certificates if it is newer, by parents if it is older), and each part of the state against that header.

use super::{fetch::ask, serve::MAX_HEADERS};
use crate::{error::NodeError, genesis::now_ms};
use ailo_ledger::{
    Header,
    disk::RealDisk,
    light::{Advance, Checkpoint, LightBlock, LightClient, LightError, Standing, Verified},
    state::snapshot::{Part, SnapshotError},
    store::{ConsensusFiles, SnapshotHead, Snapshots, StoreError},
};
use ailo_proto::{HeadersRequest, LightBlockRequest, SnapshotPartRequest, SnapshotRequest, request, response};
use ailo_protocol::{
    Genesis, NodeId,
    canonical::{self, CodecError},
    net::{Event, Handle, Offence},
};
use futures::{StreamExt, stream};
use std::{path::Path, time::Duration};
use tokio::sync::mpsc;

/// A header's canonical bytes are at most this long.
const MAX_HEADER_BYTES: usize = 1 << 10;
/// Parts that are asked for at once.
const IN_FLIGHT: usize = 4;
const SNAPSHOT: &str = "a snapshot";
/// Until it is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a peer's snapshot is not taken.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    /// It has none of what is asked for, or is gone.
    #[error("it does not give {0}")]
    Lacking(&'static str),
    /// What it sends does not hold.
    #[error(transparent)]
    Light(#[from] LightError),
    /// The same of a part.
    #[error(transparent)]
    Part(#[from] SnapshotError),
    /// Bytes that are nothing.
    #[error("what it sends can't be read: {0}")]
    Codec(#[from] CodecError),
    /// The snapshot is of another block than the one at its height.
    #[error("its snapshot is not of the network's block")]
    OtherBlock,
    /// This machine's disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether the ledger's folder holds nothing to go on from yet.
pub fn is_due(dir: &Path) -> bool {
    let is_empty = |name: &str| std::fs::read_dir(dir.join(name)).map_or(true, |mut files| files.next().is_none());
    is_empty("blocks") && is_empty("snapshots")
}

/// Fetches a snapshot into the ledger's folder. Comes back when it is there, or when the network is too young to have one.
pub async fn join(
    net: &Handle,
    events: &mut mpsc::Receiver<Event>,
    dir: &Path,
    genesis: &Genesis,
    checkpoint: Checkpoint,
) -> Result<(), NodeError> {
    // Before there is a block, as every node's: later a node does not start without its journal.
    drop(ConsensusFiles::open(dir, genesis.id(), 0, false)?);
    let snapshots = Snapshots::open(RealDisk::shared(), &dir.join("snapshots"), genesis.id())?;
    tracing::info!(%checkpoint, "looking for a snapshot of the ledger to start from");
    tokio::select! {
        joined = ask_around(net, &snapshots, genesis, checkpoint) => joined,
        () = refuse(events) => Err(NodeError::Check("the network layer has stopped: start the node again".into())),
    }
}

/// Answers what peers send while there is no ledger to answer from, until the network layer stops.
async fn refuse(events: &mut mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Gossip { verdict, .. } => verdict.ignore(),
            Event::Request { reply, .. } => reply.refuse("this node has no ledger yet"),
            _ => {}
        }
    }
}

async fn ask_around(
    net: &Handle,
    snapshots: &Snapshots,
    genesis: &Genesis,
    checkpoint: Checkpoint,
) -> Result<(), NodeError> {
    let mut again = tokio::time::interval(PAUSE);
    loop {
        again.tick().await;
        for peer in net.peers().into_iter().map(|peer| peer.node) {
            match from_peer(net, peer, snapshots, genesis, checkpoint).await {
                Ok(height) => {
                    tracing::info!(height, "the ledger starts from a snapshot");
                    return Ok(());
                }
                Err(JoinError::Store(e)) => return Err(e.into()),
                Err(JoinError::Lacking(SNAPSHOT)) if is_young(net, peer).await => return Ok(()),
                Err(e) => {
                    tracing::warn!(peer = %peer.short(), reason = %e, "no snapshot from this peer");
                    // Of headers it may be the checkpoint, or this machine's clock, that is wrong.
                    if !matches!(e, JoinError::Lacking(_) | JoinError::Light(_)) {
                        let _ = net.report(peer, Offence::WrongData).await; // the swarm has stopped
                    }
                }
            }
        }
    }
}

/// Whether the peer still has the first block: then everything can be executed.
async fn is_young(net: &Handle, peer: NodeId) -> bool {
    let first = LightBlockRequest { height: 1 };
    matches!(ask(net, peer, request::Body::LightBlock(first)).await, Some(response::Body::LightBlock(_)))
}

async fn from_peer(
    net: &Handle,
    peer: NodeId,
    snapshots: &Snapshots,
    genesis: &Genesis,
    checkpoint: Checkpoint,
) -> Result<u64, JoinError> {
    let vouched = light_block(net, peer, checkpoint.height).await?;
    let light = LightClient::from_checkpoint(genesis, checkpoint, &vouched, now_ms())?;
    if let Standing::Expired(_, by_ms) = light.standing() {
        tracing::warn!(days = by_ms / 86_400_000, "the checkpoint is older than the trust period: UNANCHORED");
    }
    let answer = ask(net, peer, request::Body::Snapshot(SnapshotRequest {})).await;
    let Some(response::Body::Snapshot(answer)) = answer else { return Err(JoinError::Lacking(SNAPSHOT)) };
    let head = SnapshotHead::decode(&answer.head)?;
    head.block.check()?;
    let verified = match head.height() >= checkpoint.height {
        true => forward(net, peer, light, &head.block).await?,
        false => back(net, peer, light, head.height()).await?,
    };
    if *verified.header() != head.block.header {
        return Err(JoinError::OtherBlock);
    }
    let (height, root, bits) = (head.height(), head.block.header.state_root, head.bits);
    let mut writer = snapshots.begin(head.clone())?;
    let mut parts = stream::iter((0..head.parts()).map(|index| part(net, peer, height, index))).buffered(IN_FLIGHT);
    for index in 0..head.parts() {
        let bytes = parts.next().await.unwrap_or(Err(JoinError::Lacking("a part")))?;
        Part::decode(&bytes, &root, bits, index)?;
        writer.add(&bytes)?;
    }
    drop(parts);
    writer.finish()?;
    Ok(height)
}

/// Follows the certificates from the checkpoint up to a block.
async fn forward(
    net: &Handle,
    peer: NodeId,
    mut light: LightClient,
    block: &LightBlock,
) -> Result<Verified, JoinError> {
    let mut waiting = match light.height() < block.header.height {
        true => vec![block.clone()], // halves each time, so it never holds more than 64
        false => Vec::new(),
    };
    while let Some(block) = waiting.last() {
        match light.advance(block, now_ms())? {
            Advance::Reached => drop(waiting.pop()),
            Advance::TooFar { between } => {
                let block = light_block(net, peer, between).await?;
                if block.header.height != between {
                    return Err(JoinError::OtherBlock);
                }
                waiting.push(block);
            }
        }
    }
    light.head().cloned().ok_or(JoinError::OtherBlock)
}

/// Follows the parents from the checkpoint down to a height.
async fn back(net: &Handle, peer: NodeId, light: LightClient, height: u64) -> Result<Verified, JoinError> {
    let mut from = light.head().cloned().ok_or(JoinError::OtherBlock)?;
    while from.header().height > height {
        let top = from.header().height - 1;
        let max_count = u32::try_from(top - height + 1).unwrap_or(MAX_HEADERS).min(MAX_HEADERS);
        let request = HeadersRequest { from_height: top, max_count };
        let answer = ask(net, peer, request::Body::Headers(request)).await;
        let Some(response::Body::Headers(answer)) = answer else { return Err(JoinError::Lacking("headers")) };
        if answer.canonical.is_empty() || answer.canonical.len() > max_count as usize {
            return Err(JoinError::Lacking("headers"));
        }
        for bytes in answer.canonical {
            let header: Header = canonical::decode(&bytes, MAX_HEADER_BYTES)?;
            from = from.parent(header)?;
        }
    }
    Ok(from)
}

async fn light_block(net: &Handle, peer: NodeId, height: u64) -> Result<LightBlock, JoinError> {
    match ask(net, peer, request::Body::LightBlock(LightBlockRequest { height })).await {
        Some(response::Body::LightBlock(answer)) => Ok(LightBlock::decode(&answer.canonical)?),
        _ => Err(JoinError::Lacking("a block's header")),
    }
}

async fn part(net: &Handle, peer: NodeId, height: u64, index: u32) -> Result<Vec<u8>, JoinError> {
    match ask(net, peer, request::Body::SnapshotPart(SnapshotPartRequest { height, index })).await {
        Some(response::Body::SnapshotPart(answer)) => Ok(answer.part.to_vec()),
        _ => Err(JoinError::Lacking("a part")),
    }
}

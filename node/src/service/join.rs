//! How a node without a ledger joins by a checkpoint: it takes over the state of a snapshot instead of executing every block
//! since the first. Peers are believed nothing: the header that the snapshot belongs to is verified from the checkpoint (by
//! certificates if it is newer, by parents if it is older), and each part of the state against that header.

use super::{anchor, fetch::ask, serve::MAX_HEADERS};
use crate::{error::NodeError, genesis::now_ms, progress::Progress};
use ailo_ledger::{
    Header,
    disk::RealDisk,
    light::{Advance, Checkpoint, LightBlock, LightClient, LightError, Standing, Verified},
    state::snapshot::{Part, SnapshotError},
    store::{SnapshotHead, SnapshotWriter, Snapshots, StoreError, is_begun},
};
use ailo_proto::{HeadersRequest, LightBlockRequest, SnapshotPartRequest, SnapshotRequest, request, response};
use ailo_protocol::{
    Genesis, NodeId,
    canonical::{self, CodecError},
    net::{Event, Handle, Offence},
};
use futures::{StreamExt, stream};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A header's canonical bytes are at most this long.
const MAX_HEADER_BYTES: usize = 1 << 10;
/// Parts that are asked for at once.
const IN_FLIGHT: usize = 4;
/// A part is asked for so often.
const TRIES: usize = 3;
/// A snapshot may be so many epochs older than the checkpoint.
const STALE_EPOCHS: u64 = 6;
/// From then on a peer gives at least so many bytes or parts a second, or another one is asked.
const GRACE: Duration = Duration::from_secs(30);
const LEAST_BYTES: u64 = 16 << 10;
const LEAST_PARTS: u64 = 4;
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
    /// A snapshot of long before the checkpoint.
    #[error("its snapshot is much older than the checkpoint")]
    Stale,
    /// A peer that gives neither many parts a second nor many bytes.
    #[error("it gives its snapshot too slowly")]
    Slow,
    /// This machine's disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same.
    #[error(transparent)]
    Anchor(NodeError),
}

/// Whether the ledger's folder holds nothing to go on from yet.
pub fn is_due(dir: &Path) -> bool {
    !is_begun(&dir.join("blocks")) && !is_begun(&dir.join("snapshots"))
}

/// Who joins, and by what.
pub struct Join<'a> {
    /// The ledger's folder.
    pub dir: &'a Path,
    /// The network.
    pub genesis: &'a Genesis,
    /// What its user vouches for.
    pub checkpoint: Checkpoint,
}

impl Join<'_> {
    /// Fetches a snapshot into the ledger's folder. Comes back when it is there, or when the network is too young to have one.
    pub async fn run(&self, net: &Handle, events: &mut mpsc::Receiver<Event>) -> Result<(), NodeError> {
        let snapshots = Snapshots::open(RealDisk::shared(), &self.dir.join("snapshots"), self.genesis.id())?;
        tracing::info!(checkpoint = %self.checkpoint, "looking for a snapshot of the ledger to start from");
        tokio::select! {
            joined = self.ask_around(net, &snapshots) => joined,
            () = refuse(events) => Err(NodeError::Check("the network layer has stopped: start the node again".into())),
        }
    }

    async fn ask_around(&self, net: &Handle, snapshots: &Snapshots) -> Result<(), NodeError> {
        let mut again = tokio::time::interval(PAUSE);
        loop {
            again.tick().await;
            for peer in net.peers().into_iter().map(|peer| peer.node) {
                match self.ask_peer(net, peer, snapshots).await {
                    Ok(Some(height)) => {
                        tracing::info!(height, "the ledger starts from a snapshot");
                        return Ok(());
                    }
                    Ok(None) => return Ok(()),
                    Err(JoinError::Store(e)) => return Err(e.into()),
                    Err(JoinError::Anchor(e)) => return Err(e),
                    Err(e) => {
                        tracing::warn!(peer = %peer.short(), reason = %e, "no snapshot from this peer");
                        // Of headers it may be the checkpoint, or this machine's clock, that is wrong.
                        if matches!(e, JoinError::Part(_) | JoinError::Codec(_) | JoinError::OtherBlock) {
                            let _ = net.report(peer, Offence::WrongData).await; // the swarm has stopped
                        }
                    }
                }
            }
        }
    }

    /// Gives the height that the ledger starts from; nothing in a network that can have no snapshot yet.
    async fn ask_peer(&self, net: &Handle, peer: NodeId, snapshots: &Snapshots) -> Result<Option<u64>, JoinError> {
        let vouched = light_block(net, peer, self.checkpoint.height).await?;
        let light = LightClient::from_checkpoint(self.genesis, self.checkpoint, &vouched, now_ms())?;
        let anchored = matches!(light.standing(), Standing::Anchored(_));
        if !anchored {
            tracing::warn!("the checkpoint is older than the trust period: UNANCHORED");
        }
        let (time_ms, epoch_ms) = (vouched.header.time_ms, self.genesis.params.ledger.epoch_ms);
        let answer = ask(net, peer, request::Body::Snapshot(SnapshotRequest {})).await;
        let Some(response::Body::Snapshot(answer)) = answer else {
            return match time_ms.saturating_sub(self.genesis.time_ms) < 2 * epoch_ms {
                true => Ok(None),
                false => Err(JoinError::Lacking("a snapshot")),
            };
        };
        let head = SnapshotHead::decode(&answer.head)?;
        head.block.check()?;
        let (height, header) = (head.height(), &head.block.header);
        if height < self.checkpoint.height && time_ms.saturating_sub(header.time_ms) > STALE_EPOCHS * epoch_ms {
            return Err(JoinError::Stale); // what follows it may be kept no more
        }
        let verified = match height >= self.checkpoint.height {
            true => forward(net, peer, light, &head.block).await?,
            false => back(net, peer, light, height).await?,
        };
        if verified.header() != header {
            return Err(JoinError::OtherBlock);
        }
        let fetched = fetch(net, peer, snapshots.begin(head.clone())?, &head).await?;
        if anchored {
            anchor::write(self.dir, verified.checkpoint()).map_err(JoinError::Anchor)?;
        }
        fetched.finish()?;
        Ok(Some(height))
    }
}

/// Fetches the parts of a snapshot whose header is verified.
async fn fetch<'a>(
    net: &Handle,
    peer: NodeId,
    mut writer: SnapshotWriter<'a>,
    head: &SnapshotHead,
) -> Result<SnapshotWriter<'a>, JoinError> {
    let root = head.block.header.state_root;
    let (started, mut bytes) = (Instant::now(), 0);
    let asked = (0..head.parts()).map(|index| part(net, peer, head.height(), index));
    let mut parts = stream::iter(asked).buffered(IN_FLIGHT);
    let mut progress = Progress::count("parts of the ledger's state", head.parts().into());
    for index in 0..head.parts() {
        let encoded = parts.next().await.unwrap_or(Err(JoinError::Lacking("a part")))?;
        Part::decode(&encoded, &root, head.bits, index)?;
        writer.add(&encoded)?;
        bytes += encoded.len() as u64;
        progress.set(u64::from(index) + 1);
        let least = started.elapsed().saturating_sub(GRACE).as_secs();
        if bytes < least * LEAST_BYTES && u64::from(index) < least * LEAST_PARTS {
            return Err(JoinError::Slow);
        }
    }
    Ok(writer)
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
    for _ in 0..TRIES {
        let request = SnapshotPartRequest { height, index };
        if let Some(response::Body::SnapshotPart(answer)) = ask(net, peer, request::Body::SnapshotPart(request)).await {
            return Ok(answer.part.to_vec());
        }
    }
    Err(JoinError::Lacking("a part"))
}

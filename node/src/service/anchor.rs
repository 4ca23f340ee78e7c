//! What the trust in this node's history rests on. Validators whose stake is free again can write another history at no
//! cost, so a node that has none yet, or was away for longer than the trust period, cannot tell by certificates alone: it
//! needs a checkpoint. Without one it works all the same, and says UNANCHORED.
//!
//! - A checkpoint that the operator names counts if its block was younger than `trust_ms` when the node started. If this
//!   node's block at that height is another one, the node stops.
//! - So does the genesis: whoever had power at the start still has its stake to lose.
//! - A node that is anchored writes down, epoch by epoch, where it stands; after a restart that counts in the same way.

use super::chain::Chain;
use crate::{datadir::write_atomically, error::NodeError, genesis::now_ms};
use ailo_ledger::light::{Checkpoint, NotACheckpoint};
use ailo_protocol::Genesis;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

const FILE: &str = "anchor";

/// Writes down in the ledger's folder where an anchored node stands.
pub fn write(dir: &Path, here: Checkpoint) -> Result<(), NodeError> {
    write_atomically(&dir.join(FILE), here.to_string().as_bytes())
}

/// What was written down; what can't be read is said, and counts as nothing.
pub fn read(dir: &Path) -> Option<Checkpoint> {
    let path = dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        text => text.map_err(|e| e.to_string()),
    };
    let read = text.and_then(|text| text.trim().parse().map_err(|e: NotACheckpoint| e.to_string()));
    read.inspect_err(|e| tracing::warn!(path = %path.display(), error = %e, "where this node stood can't be read")).ok()
}

/// What the trust rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The genesis is young enough.
    Genesis,
    /// This block.
    Block(Checkpoint),
    /// Nothing yet: the ledger has not come to this block.
    Awaiting(Checkpoint),
    /// Nothing.
    None,
}

/// What stands in the ledger where a checkpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Its block, of the trust period.
    Young,
    /// Its block, older, or no block any more.
    Old,
    /// Another block.
    Other,
}

/// Follows the ledger.
pub struct Watch {
    chain: Chain,
    genesis: Arc<Genesis>,
    /// The ledger's folder, where it is written down.
    dir: PathBuf,
    named: Option<Checkpoint>,
    /// Since then this node has seen for itself what came.
    started_ms: u64,
    sender: watch::Sender<Anchor>,
}

impl Watch {
    /// Looks at what the operator names and at what was written down in the ledger's folder `dir`; fails where the history is another one.
    pub fn start(
        chain: Chain,
        genesis: Arc<Genesis>,
        dir: PathBuf,
        named: Option<Checkpoint>,
    ) -> Result<(Watch, watch::Receiver<Anchor>), NodeError> {
        let (sender, receiver) = watch::channel(Anchor::None);
        let watch = Watch { chain, genesis, dir, named, started_ms: now_ms(), sender };
        let found = read(&watch.dir).map(|written| (written, watch.find(&written)));
        let anchor = match (watch.look()?, found) {
            (_, Some((written, Found::Other))) => return Err(other_history(written)),
            (Anchor::None, Some((written, Found::Young))) => Anchor::Block(written),
            (anchor, _) => anchor,
        };
        watch.sender.send_replace(anchor);
        Ok((watch, receiver))
    }

    /// What the named checkpoint and the genesis are worth now.
    fn look(&self) -> Result<Anchor, NodeError> {
        let genesis = if self.is_young(self.genesis.time_ms) { Anchor::Genesis } else { Anchor::None };
        let Some(named) = self.named else { return Ok(genesis) };
        if self.chain.head().state.height() < named.height {
            return Ok(Anchor::Awaiting(named));
        }
        match self.find(&named) {
            Found::Young => Ok(Anchor::Block(named)),
            Found::Old => Ok(genesis),
            Found::Other => Err(other_history(named)),
        }
    }

    /// Whether a block of this time was of the trust period when the node started; one of the future says that the clock is wrong.
    fn is_young(&self, time_ms: u64) -> bool {
        let ledger = &self.genesis.params.ledger;
        let range = self.started_ms.saturating_sub(ledger.trust_ms)..=self.started_ms.saturating_add(ledger.skew_ms);
        range.contains(&time_ms)
    }

    fn find(&self, checkpoint: &Checkpoint) -> Found {
        match self.chain.header(checkpoint.height).ok().flatten() {
            Some(header) if header.id() != checkpoint.block => Found::Other,
            Some(header) if self.is_young(header.time_ms) => Found::Young,
            _ => Found::Old, // a block that is kept no more is older than the trust period
        }
    }

    /// Until `stop` changes, or the history turns out to be another one.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), NodeError> {
        let mut heads = self.chain.heads();
        let (mut epoch, mut seen_ms) = (None, self.started_ms);
        loop {
            let anchor = *self.sender.borrow();
            let state = heads.borrow_and_update().state.clone();
            let away_ms = now_ms().saturating_sub(std::mem::replace(&mut seen_ms, now_ms()));
            if away_ms >= self.genesis.params.ledger.trust_ms && matches!(anchor, Anchor::Genesis | Anchor::Block(_)) {
                // No block has come for so long, or the machine was suspended: as after a start without a checkpoint.
                self.sender.send_replace(Anchor::None);
                continue;
            }
            if let Anchor::Awaiting(named) = anchor
                && state.height() >= named.height
            {
                self.sender.send_replace(self.look()?);
                continue;
            }
            let anchored = matches!(anchor, Anchor::Genesis | Anchor::Block(_));
            if anchored && state.height() > 0 && epoch.replace(state.epoch()) != Some(state.epoch()) {
                let here = Checkpoint { height: state.height(), block: state.last_block() };
                if let Err(e) = write(&self.dir, here) {
                    tracing::warn!(error = %e, "where this node stands was not written down");
                }
            }
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { return Ok(()) },
                _ = stop.changed() => return Ok(()),
            }
        }
    }
}

fn other_history(named: Checkpoint) -> NodeError {
    NodeError::Check(format!(
        "this node's ledger is not the one of the checkpoint {named}: if the checkpoint is right, move blocks, snapshots, \
         index and anchor out of the ledger folder (not journal and wal) and start again; if not, leave --checkpoint out"
    ))
}

impl Anchor {
    /// What a person should know of it.
    pub fn note(&self) -> Option<String> {
        match self {
            Anchor::Genesis | Anchor::Block(_) => None,
            Anchor::Awaiting(named) => Some(format!("UNANCHORED until block {} has come", named.height)),
            Anchor::None => Some(
                "UNANCHORED: no checkpoint of the trust period stands behind this ledger; start with --checkpoint \
                 HEIGHT:ID, of a node that you trust, to be sure that it is the network's"
                    .into(),
            ),
        }
    }
}

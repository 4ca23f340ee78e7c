//! One node: the daemon's own participant, block log, write-ahead log and journal, on a simulated disk and clock. The
//! index stands in memory and outlives crashes as sled does: it may have lost its last writes.

use super::{cast, disk::SimDisk};
use crate::{
    Block, Certificate,
    consensus::{Ballot, Host, HostError, Persist, SignError},
    framelog::LogError,
    participant::{Blocks, Now, Participant},
    state::{Executed, State},
    store::{BlockLog, ConsensusFiles, IndexHead, StoreError},
};
use ailo_protocol::{Hash, Keypair, NodeId};
use std::{cell::RefCell, path::Path, rc::Rc, sync::Arc, time::Duration};

/// How a member behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// By the rules.
    Honest,
    /// Sends rival votes and proposals.
    Rivals,
    /// Keeps proposals and votes from some or all.
    Withholds,
    /// Votes by the rules, and attests blocks in two ways.
    Perjures,
    /// Is one of two nodes that sign with one key and do not hear each other.
    Twin(u8),
}

/// A node.
pub struct Member {
    /// Signs for it.
    pub key: Keypair,
    /// How it behaves.
    pub conduct: Conduct,
    /// Whether it votes when it has power.
    pub votes: bool,
    /// Its files.
    pub disk: SimDisk,
    /// What it does while it runs.
    pub running: Option<Participant<Files, LoggedBlocks>>,
    /// Counts its lives, so that what belongs to an earlier one is recognised.
    pub life: u64,
    /// When it wakes by itself.
    pub wakes: Option<u64>,
    /// How far its clock is off.
    pub skew_ms: i64,
    /// The highest block that it has shown as final.
    pub shown: u64,
    /// Its write-ahead log was taken away, so it may have forgotten its lock.
    pub forgot: bool,
    /// The index.
    pub index: Rc<RefCell<SimIndex>>,
}

/// What the index holds of each height.
pub struct SimIndex {
    /// Heads and states, genesis first.
    pub heads: Vec<(IndexHead, State)>,
}

/// The block log with its index.
pub struct LoggedBlocks {
    log: BlockLog,
    index: Rc<RefCell<SimIndex>>,
}

impl LoggedBlocks {
    /// The block at `height` with its certificate, from the log.
    pub fn block(&self, height: u64) -> Option<(Arc<Block>, Certificate)> {
        let offset = self.index.borrow().heads.get(height as usize)?.0.offset;
        let (block, certificate) = self.log.encoded(height, offset).ok()??;
        let certificate = ailo_protocol::canonical::decode(&certificate, crate::block::MAX_CERTIFICATE_BYTES).ok()?;
        Some((Arc::new(Block::decode(&block).ok()?), certificate))
    }
}

impl Blocks for LoggedBlocks {
    fn append(&mut self, block: &Block, certificate: &Certificate, executed: &Executed) -> Result<(), StoreError> {
        let offset = self.log.append(block, certificate)?;
        let before = self.index.borrow().heads.last().map_or(0, |(_, state)| state.epoch());
        if executed.state.epoch() > before {
            self.log.roll()?;
        }
        let head = IndexHead { height: block.header.height, root: block.header.state_root, offset };
        self.index.borrow_mut().heads.push((head, executed.state.clone()));
        Ok(())
    }
}

/// A validator's files; one that breaks the rules keeps none.
pub enum Files {
    /// As the daemon's.
    Kept(Box<ConsensusFiles>),
    /// Nothing is remembered, anything is signed.
    Lawless,
}

impl Persist for Files {
    fn append(&mut self, height: u64, entry: Vec<u8>) -> Result<(), LogError> {
        match self {
            Files::Kept(files) => files.append(height, entry),
            Files::Lawless => Ok(()),
        }
    }

    fn sign(&mut self, ballot: &Ballot) -> Result<(), SignError> {
        match self {
            Files::Kept(files) => files.sign(ballot),
            Files::Lawless => Ok(()),
        }
    }

    fn finish(&mut self, height: u64) -> Result<(), LogError> {
        match self {
            Files::Kept(files) => files.finish(height),
            Files::Lawless => Ok(()),
        }
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A node that has opened its files and not started yet.
pub struct Opened {
    /// What it will do.
    pub participant: Participant<Files, LoggedBlocks>,
    /// Ballots that the journal does not guard, of those that were asked for.
    pub unguarded: Option<Ballot>,
}

impl Member {
    /// A member that has never run, whose ledger begins with `first`.
    pub fn new(number: usize, first: &State, votes: bool) -> Member {
        let index = SimIndex { heads: vec![(IndexHead::before(first), first.clone())] };
        Member {
            key: cast::node_key(number),
            conduct: Conduct::Honest,
            votes,
            disk: SimDisk::default(),
            running: None,
            life: 0,
            wakes: None,
            skew_ms: 0,
            shown: 0,
            forgot: false,
            index: Rc::new(RefCell::new(index)),
        }
    }

    /// Its name among peers.
    pub fn id(&self) -> NodeId {
        *self.key.public()
    }

    /// Whether it keeps to the rules.
    pub fn is_honest(&self) -> bool {
        self.conduct == Conduct::Honest
    }

    /// Whether it votes and trains by the rules.
    pub fn works_honestly(&self) -> bool {
        matches!(self.conduct, Conduct::Honest | Conduct::Perjures)
    }

    /// Its clocks at the virtual time `time`.
    pub fn now(&self, time: u64) -> Now {
        let clock_ms = (cast::GENESIS_MS + time).saturating_add_signed(self.skew_ms);
        Now { elapsed: Duration::from_millis(time), clock_ms }
    }

    /// Height of the last block while it runs; as its index has it otherwise.
    pub fn height(&self) -> u64 {
        self.running.as_ref().map_or(self.index.borrow().heads.len() as u64 - 1, |p| p.height())
    }

    /// The state after its last block.
    pub fn state(&self) -> State {
        let index = self.index.borrow();
        index.heads.last().map(|(_, state)| state.clone()).expect("the index has the genesis")
    }

    /// Opens the files as the daemon does. The index has lost all above `indexed`; `signed` is what has left the node.
    pub fn open(&self, network: Hash, indexed: u64, signed: &[Ballot]) -> Result<Opened, StartError> {
        let log = BlockLog::open(Arc::new(self.disk.clone()), Path::new("blocks"), network, 1)?;
        let state = {
            let mut index = self.index.borrow_mut();
            index.heads.truncate(indexed as usize + 1);
            let fits = index.heads.last().is_some_and(|(head, state)| log.fits(head, state));
            if !fits {
                index.heads.truncate(1);
            }
            let (head, state) = index.heads.last().cloned().expect("the index has the genesis");
            log.execute_after(&head, state, |block, offset, executed| {
                let head = IndexHead { height: block.header.height, root: block.header.state_root, offset };
                index.heads.push((head, executed.state.clone()));
                Ok(())
            })?
        };
        let height = state.height();
        let disk = Arc::new(self.disk.clone());
        let (files, recovered) = ConsensusFiles::open_on(disk, Path::new(""), network, height, signed.is_empty())?;
        let unguarded = signed.iter().find(|ballot| !files.guards(ballot)).copied();
        let (files, recovered) = match self.works_honestly() {
            true => (Files::Kept(Box::new(files)), recovered),
            false => (Files::Lawless, None),
        };
        let host = Host::new(state, self.key.clone(), self.votes.then_some(files), recovered)?;
        let blocks = LoggedBlocks { log, index: self.index.clone() };
        Ok(Opened { participant: Participant::new(host, blocks), unguarded })
    }
}

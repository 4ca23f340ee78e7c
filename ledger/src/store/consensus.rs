//! A validator's two files: the write-ahead log of the running height, and the journal of what it has signed.
//!
//! *Write-ahead log*: a frame for each time that entries had to be durable; it holds the height and the entries since
//! the frame before. The first frame of a height replaces the file of the height before, whose block is in the log by
//! then.
//!
//! *Journal*: a frame for each ballot, after a frame with the last final height. It refuses a rival of what it holds,
//! and anything at a height that is final. It is rewritten from time to time with what still matters.

use super::StoreError;
use crate::{
    consensus::{Ballot, Persist, Recovered, SignError, codec::MAX_WAL_ENTRY_BYTES},
    disk::{Disk, RealDisk},
    framelog::{Format, FrameLog, LogError},
    plants::{self, Plant},
};
use ailo_protocol::{
    Hash,
    canonical::{self, Decode, Encode},
};
use std::{path::Path, sync::Arc};

/// Entries are written early, before any signature, when they come to this many bytes.
const MAX_PENDING_BYTES: usize = 4 << 20;
/// A frame holds that, one more entry, and lengths; entries are never shorter than their length.
const MAX_WAL_FRAME: usize = 2 * MAX_PENDING_BYTES + 2 * MAX_WAL_ENTRY_BYTES;
const MAX_JOURNAL_FRAME: usize = 256;
/// The journal is rewritten when it is longer than this.
const JOURNAL_BYTES: u64 = 64 << 10;

/// The files of a validator's consensus.
pub struct ConsensusFiles {
    wal: Wal,
    journal: Journal,
}

struct Wal {
    log: FrameLog,
    /// Height of what the file holds.
    height: u64,
    pending: Vec<Vec<u8>>,
    pending_bytes: usize,
    pending_height: u64,
}

struct Journal {
    log: FrameLog,
    last_final: u64,
    ballots: Vec<Ballot>,
}

#[derive(Encode, Decode)]
enum JournalFrame {
    Final(u64),
    Ballot(Ballot),
}

impl ConsensusFiles {
    /// Opens the files in `dir`, where the block log's last block has the height `last_height`. A missing journal is made
    /// only with `allow_new_journal`: whoever sets that swears that this key has signed nothing above `last_height`. That
    /// there are no blocks here tells nothing of that.
    pub fn open(
        dir: &Path,
        network: Hash,
        last_height: u64,
        allow_new_journal: bool,
    ) -> Result<(ConsensusFiles, Option<Recovered>), StoreError> {
        ConsensusFiles::open_on(RealDisk::shared(), dir, network, last_height, allow_new_journal)
    }

    /// The same on another disk than the machine's.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        network: Hash,
        last_height: u64,
        allow_new_journal: bool,
    ) -> Result<(ConsensusFiles, Option<Recovered>), StoreError> {
        let journal = Journal::open(disk.clone(), &dir.join("journal"), network, last_height, allow_new_journal)?;
        let (wal, recovered) = Wal::open(disk, &dir.join("wal"), network)?;
        let forgets = plants::on(Plant::WalNotReplayed) || plants::on(Plant::Amnesia);
        Ok((ConsensusFiles { wal, journal }, recovered.filter(|_| !forgets)))
    }

    /// Makes the journal forbid this key everything at `height` and below, whatever it has signed there: for one that may have
    /// missed something. The journal is made where there is none.
    pub fn forbid_to(dir: &Path, network: Hash, height: u64) -> Result<(), StoreError> {
        let mut journal = Journal::open(RealDisk::shared(), &dir.join("journal"), network, 0, true)?;
        Ok(journal.log.append(&canonical::encode(&JournalFrame::Final(height))).map(drop)?)
    }

    /// The highest height that the journal in `dir` tells of.
    pub fn last_signed(dir: &Path, network: Hash) -> Result<u64, StoreError> {
        let journal = Journal::open(RealDisk::shared(), &dir.join("journal"), network, 0, true)?;
        Ok(journal.ballots.iter().map(|ballot| ballot.height).fold(journal.last_final, u64::max))
    }

    /// Whether the journal forbids every rival of this ballot, as it does once the ballot is signed.
    pub fn guards(&self, ballot: &Ballot) -> bool {
        ballot.height <= self.journal.last_final || self.journal.ballots.contains(ballot)
    }
}

impl Persist for ConsensusFiles {
    fn append(&mut self, height: u64, entry: Vec<u8>) -> Result<(), LogError> {
        self.wal.append(height, entry)
    }

    fn sign(&mut self, ballot: &Ballot) -> Result<(), SignError> {
        self.wal.flush()?;
        self.journal.sign(ballot)
    }

    fn finish(&mut self, height: u64) -> Result<(), LogError> {
        self.wal.pending.clear();
        self.wal.pending_bytes = 0;
        self.journal.finish(height)
    }
}

impl Wal {
    fn open(disk: Arc<dyn Disk>, path: &Path, network: Hash) -> Result<(Wal, Option<Recovered>), StoreError> {
        let log = FrameLog::open_on(disk, path, Format { kind: *b"WAL ", network, max_frame: MAX_WAL_FRAME })?;
        let mut recovered: Option<Recovered> = None;
        for frame in log.frames(0) {
            let (height, entries): (u64, Vec<Vec<u8>>) = canonical::decode(&frame?.1, MAX_WAL_FRAME)?;
            match &mut recovered {
                Some(recovered) if recovered.height == height => recovered.entries.extend(entries),
                _ => recovered = Some(Recovered { height, entries }),
            }
        }
        let height = recovered.as_ref().map_or(0, |recovered| recovered.height);
        Ok((Wal { log, height, pending: Vec::new(), pending_bytes: 0, pending_height: height }, recovered))
    }

    fn append(&mut self, height: u64, entry: Vec<u8>) -> Result<(), LogError> {
        if height != self.pending_height {
            self.pending.clear();
            self.pending_bytes = 0;
            self.pending_height = height;
        }
        self.pending_bytes += entry.len();
        self.pending.push(entry);
        if self.pending_bytes > MAX_PENDING_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let frame = canonical::encode(&(self.pending_height, entries));
        if self.pending_height == self.height {
            self.log.append(&frame)?;
        } else {
            self.log.replace(&[&frame])?;
            self.height = self.pending_height;
        }
        Ok(())
    }
}

impl Journal {
    fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        network: Hash,
        last_height: u64,
        allow_new: bool,
    ) -> Result<Journal, StoreError> {
        if !disk.exists(path) && !allow_new {
            return Err(StoreError::NoJournal { path: path.display().to_string() });
        }
        let damaged = |offset| StoreError::DamagedJournal { path: path.display().to_string(), offset };
        let failed = |e| match e {
            LogError::Damaged { offset, .. } => damaged(offset),
            other => other.into(),
        };
        let format = Format { kind: *b"JRNL", network, max_frame: MAX_JOURNAL_FRAME };
        let log = FrameLog::open_on(disk, path, format).map_err(failed)?;
        let (mut last_final, mut ballots) = (last_height, Vec::new());
        for frame in log.frames(0) {
            let (offset, frame) = frame.map_err(failed)?;
            match canonical::decode(&frame, MAX_JOURNAL_FRAME).map_err(|_| damaged(offset))? {
                JournalFrame::Final(height) => last_final = last_final.max(height),
                JournalFrame::Ballot(ballot) => ballots.push(ballot),
            }
        }
        ballots.retain(|ballot: &Ballot| ballot.height > last_final);
        Ok(Journal { log, last_final, ballots })
    }

    fn sign(&mut self, ballot: &Ballot) -> Result<(), SignError> {
        if ballot.height <= self.last_final {
            return Err(SignError::Final(self.last_final));
        }
        let rival = self.ballots.iter().find(|signed| signed.is_rival(ballot));
        if let Some(rival) = rival.filter(|_| !plants::on(Plant::Amnesia)) {
            return Err(SignError::Conflict(*rival));
        }
        if !self.ballots.contains(ballot) {
            self.log.append(&canonical::encode(&JournalFrame::Ballot(*ballot)))?;
            self.ballots.push(*ballot);
        }
        Ok(())
    }

    fn finish(&mut self, height: u64) -> Result<(), LogError> {
        self.last_final = self.last_final.max(height);
        self.ballots.retain(|ballot| ballot.height > height);
        if self.log.end() <= JOURNAL_BYTES {
            return Ok(());
        }
        let ballots = self.ballots.iter().map(|ballot| JournalFrame::Ballot(*ballot));
        let frames: Vec<Vec<u8>> = std::iter::once(JournalFrame::Final(self.last_final))
            .chain(ballots)
            .map(|f| canonical::encode(&f))
            .collect();
        self.log.replace(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::consensus::Step;

    const NETWORK: Hash = Hash([7; 32]);

    fn open(dir: &Path, last_height: u64) -> (ConsensusFiles, Option<Recovered>) {
        ConsensusFiles::open(dir, NETWORK, last_height, true).unwrap()
    }

    fn ballot(height: u64, round: u32, step: Step, block: u8) -> Ballot {
        Ballot { height, round, step, block: (block > 0).then_some(Hash([block; 32])) }
    }

    #[test]
    fn a_rival_ballot_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = open(dir.path(), 0);
        let fresh = Step::Propose { pol_round: None };
        let signed = [ballot(1, 0, fresh, 1), ballot(1, 0, Step::Prevote, 1), ballot(1, 0, Step::Precommit, 0)];
        let rivals = [
            ballot(1, 0, fresh, 2),
            ballot(1, 0, Step::Propose { pol_round: Some(0) }, 1),
            ballot(1, 0, Step::Prevote, 0),
            ballot(1, 0, Step::Precommit, 1),
        ];
        for ballot in &signed {
            files.sign(ballot).unwrap();
        }
        for _ in 0..2 {
            for rival in &rivals {
                assert!(matches!(files.sign(rival), Err(SignError::Conflict(_))), "{rival:?}");
            }
            for ballot in &signed {
                files.sign(ballot).unwrap();
            }
            drop(files);
            (files, _) = open(dir.path(), 0);
        }
        files.sign(&ballot(1, 1, Step::Prevote, 2)).unwrap();
        files.sign(&ballot(2, 0, Step::Prevote, 2)).unwrap();
    }

    #[test]
    fn nothing_is_signed_at_a_final_height_and_the_journal_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = open(dir.path(), 0);
        for height in 1..=1000 {
            files.sign(&ballot(height, 0, Step::Prevote, 1)).unwrap();
            files.sign(&ballot(height, 0, Step::Precommit, 1)).unwrap();
            files.finish(height).unwrap();
        }
        assert!(files.journal.log.end() <= JOURNAL_BYTES + 1000);
        drop(files);
        let (mut files, _) = open(dir.path(), 0); // even if the block log were gone
        assert!(files.journal.last_final > 500);
        assert!(matches!(files.sign(&ballot(500, 0, Step::Prevote, 1)), Err(SignError::Final(_))));
        drop(files);
        let (mut files, _) = open(dir.path(), 1000);
        assert!(matches!(files.sign(&ballot(1000, 5, Step::Prevote, 1)), Err(SignError::Final(1000))));
        files.sign(&ballot(1001, 0, Step::Prevote, 1)).unwrap();
    }

    #[test]
    fn without_its_journal_a_validator_does_not_start_whatever_its_height_unless_it_is_told_to() {
        for height in [0, 5] {
            let dir = tempfile::tempdir().unwrap();
            let open = |allow| ConsensusFiles::open(dir.path(), NETWORK, height, allow);
            assert!(matches!(open(false), Err(StoreError::NoJournal { .. })));
            drop(open(true).unwrap());
            open(false).unwrap();
        }
    }

    #[test]
    fn nobody_is_told_to_remove_a_damaged_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = open(dir.path(), 0).0;
        (1..=9).for_each(|height| files.sign(&ballot(height, 0, Step::Prevote, 1)).unwrap());
        drop(files);
        let path = dir.path().join("journal");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let refused = ConsensusFiles::open(dir.path(), NETWORK, 0, true).err().unwrap();
        assert!(matches!(refused, StoreError::DamagedJournal { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("do not remove it") && said.contains("--network-height"), "{said}");
    }

    #[test]
    fn what_a_journal_may_have_missed_is_forbidden_with_all_below() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 0).0.sign(&ballot(4, 0, Step::Prevote, 1)).unwrap();
        assert_eq!(ConsensusFiles::last_signed(dir.path(), NETWORK).unwrap(), 4);
        ConsensusFiles::forbid_to(dir.path(), NETWORK, 9).unwrap();
        assert_eq!(ConsensusFiles::last_signed(dir.path(), NETWORK).unwrap(), 9);
        let (mut files, _) = open(dir.path(), 3);
        for height in [4, 5, 9] {
            assert!(matches!(files.sign(&ballot(height, 7, Step::Precommit, 2)), Err(SignError::Final(9))));
        }
        files.finish(4).unwrap();
        assert!(matches!(files.sign(&ballot(5, 0, Step::Prevote, 2)), Err(SignError::Final(9))));
        files.sign(&ballot(10, 0, Step::Prevote, 2)).unwrap();
    }

    #[test]
    fn the_log_gives_back_what_was_flushed_of_the_last_height() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, recovered) = open(dir.path(), 0);
        assert_eq!(recovered, None);
        files.append(1, vec![1]).unwrap();
        files.append(1, vec![2, 2]).unwrap();
        files.sign(&ballot(1, 0, Step::Prevote, 1)).unwrap();
        files.append(1, vec![3]).unwrap();
        files.sign(&ballot(1, 0, Step::Precommit, 1)).unwrap();
        files.append(1, vec![4]).unwrap(); // nothing depended on it
        drop(files);
        let (mut files, recovered) = open(dir.path(), 0);
        assert_eq!(recovered, Some(Recovered { height: 1, entries: vec![vec![1], vec![2, 2], vec![3]] }));
        files.append(1, vec![5]).unwrap();
        files.sign(&ballot(1, 1, Step::Prevote, 0)).unwrap();
        files.finish(1).unwrap();
        files.append(2, vec![6]).unwrap();
        files.sign(&ballot(2, 0, Step::Prevote, 1)).unwrap();
        drop(files);
        let (_, recovered) = open(dir.path(), 1);
        assert_eq!(recovered, Some(Recovered { height: 2, entries: vec![vec![6]] }));
    }

    #[test]
    fn many_large_entries_go_to_disk_before_any_signature() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = open(dir.path(), 0);
        for _ in 0..9 {
            files.append(1, vec![7; MAX_WAL_ENTRY_BYTES]).unwrap();
        }
        drop(files);
        assert_eq!(open(dir.path(), 0).1.unwrap().entries.len(), 5);
    }
}

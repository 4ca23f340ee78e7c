//! The log's files: `node.jsonl`, and behind it `node.1.jsonl` (the youngest) to the oldest one that is kept. Each has a bound, and so have
//! all of them together.

use super::Record;
use crate::error::NodeError;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Bytes of a file, at most.
const MAX_BYTES: u64 = 8 << 20;
/// Files, at most.
const MAX_FILES: u32 = 8;
/// Bytes of a line that is read, at most.
const MAX_LINE: u64 = 64 << 10;

fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(if number == 0 { "node.jsonl".into() } else { format!("node.{number}.jsonl") })
}

/// Where a running node writes.
pub struct Files {
    folder: PathBuf,
    /// None while it can't be opened: then records are in memory alone.
    file: Option<File>,
    bytes: u64,
    max_bytes: u64,
    /// The last line was not written whole.
    torn: bool,
}

impl Files {
    /// Goes on with the newest file in this folder.
    pub fn open(folder: &Path) -> Result<Files, NodeError> {
        fs::create_dir_all(folder).map_err(|e| NodeError::file("create the folder", folder, e))?;
        let path = path(folder, 0);
        let (file, bytes) = append(&path).map_err(|e| NodeError::file("write the log", &path, e))?;
        // What a kill left half written ends here.
        Ok(Files { folder: folder.into(), file: Some(file), bytes, max_bytes: MAX_BYTES, torn: bytes > 0 })
    }

    /// Writes a line. A full disk must not stop a node for its log: what can't be written is left out, and older files stay.
    pub fn write(&mut self, line: &[u8]) {
        if self.file.is_some() && self.bytes + line.len() as u64 > self.max_bytes {
            self.turn();
        }
        if self.file.is_none() {
            let Ok((file, bytes)) = append(&path(&self.folder, 0)) else { return };
            (self.file, self.bytes) = (Some(file), bytes);
        }
        let Some(file) = self.file.as_mut() else { return };
        let end: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = file.write_all(end).and_then(|()| file.write_all(line));
        self.torn = written.is_err();
        self.bytes += if self.torn { 0 } else { (end.len() + line.len()) as u64 };
    }

    /// Each file gets the name of the next older one; the oldest goes.
    fn turn(&mut self) {
        for number in (0..MAX_FILES - 1).rev() {
            let _ = fs::rename(path(&self.folder, number), path(&self.folder, number + 1)); // there may be fewer
        }
        self.file = None;
    }
}

/// What a log says may be nobody else's business.
fn append(path: &Path) -> std::io::Result<(File, u64)> {
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Reads the files of a node that runs or has run, the oldest line first.
pub struct Reader {
    folder: PathBuf,
    file: Option<BufReader<File>>,
    /// Numbers of older files that are still to be read.
    older: Vec<u32>,
    line: Vec<u8>,
}

impl Reader {
    /// From the oldest line on.
    pub fn open(folder: &Path) -> Result<Reader, NodeError> {
        if !path(folder, 0).exists() {
            return Err(NodeError::Usage(format!(
                "there is no log in {}: name the folder of a node that has run with --data-dir",
                folder.display()
            )));
        }
        let older = (1..MAX_FILES).filter(|number| path(folder, *number).exists()).collect();
        Ok(Reader { folder: folder.into(), file: None, older, line: Vec::new() })
    }

    /// The next record; none at the end, where there may be more later. What is no record is passed over.
    pub fn read(&mut self) -> std::io::Result<Option<Record>> {
        loop {
            let Some(file) = self.file.as_mut() else {
                let number = self.older.pop().unwrap_or(0);
                match File::open(path(&self.folder, number)) {
                    Ok(file) => self.file = Some(BufReader::new(file)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && number > 0 => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(e),
                }
                continue;
            };
            let read = file
                .by_ref()
                .take(MAX_LINE.saturating_sub(self.line.len() as u64))
                .read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') || self.line.len() as u64 >= MAX_LINE {
                match serde_json::from_slice(&std::mem::take(&mut self.line)) {
                    Ok(record) => return Ok(Some(record)),
                    Err(_) => continue,
                }
            }
            if read > 0 {
                continue; // a line that is being written
            }
            // At the end of a file that has another name by now, the next ones begin; one that has none is no more.
            let own = file.get_ref().metadata()?.ino();
            let is_own = |number: &u32| fs::metadata(path(&self.folder, *number)).is_ok_and(|m| m.ino() == own);
            let number = (0..MAX_FILES).find(is_own);
            if number == Some(0) {
                return Ok(None);
            }
            // What came between the last look and the turn is still in it.
            if file.fill_buf()?.is_empty() {
                self.line.clear();
                self.file = None;
                self.older = (1..number.unwrap_or(MAX_FILES)).filter(|n| path(&self.folder, *n).exists()).collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::logs::Level;

    fn record(number: u32) -> Record {
        let (time, target, message) = ("2026-05-01T12:00:00.000Z".into(), "test".into(), number.to_string());
        Record { time, level: Level::Info, target, message, fields: Vec::new() }
    }

    fn read(reader: &mut Reader) -> Vec<u32> {
        std::iter::from_fn(|| reader.read().unwrap()).map(|record| record.message.parse().unwrap()).collect()
    }

    #[test]
    fn files_turn_within_their_bounds_and_a_reader_follows_through_the_turn() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files { max_bytes: 1000, ..Files::open(folder.path()).unwrap() };
        (0..5).for_each(|number| files.write(&record(number).json()));
        let mut follower = Reader::open(folder.path()).unwrap();
        assert_eq!(read(&mut follower), [0, 1, 2, 3, 4]);
        (5..25).for_each(|number| files.write(&record(number).json()));
        assert_eq!(read(&mut follower), (5..25).collect::<Vec<_>>(), "across a turn");
        assert_eq!(read(&mut Reader::open(folder.path()).unwrap()), (0..25).collect::<Vec<_>>(), "from the oldest on");

        (25..5000).for_each(|number| files.write(&record(number).json()));
        let all: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap()).collect();
        assert_eq!(all.len(), MAX_FILES as usize);
        assert!(all.iter().all(|file| file.len() <= 1000 && file.mode() & 0o777 == 0o600));
        let kept = read(&mut Reader::open(folder.path()).unwrap());
        assert_eq!(*kept.last().unwrap(), 4999);
        assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "{kept:?}");
    }

    #[test]
    fn damage_is_passed_over_and_a_half_line_waits_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::open(folder.path()).unwrap();
        files.write(b"damaged\n{}\n");
        files.write(&record(1).json());
        let (begin, end) = (record(2).json(), record(2).json().split_off(20));
        files.write(&begin[..20]);
        let mut reader = Reader::open(folder.path()).unwrap();
        assert_eq!(read(&mut reader), [1]);
        files.write(&end);
        assert_eq!(read(&mut reader), [2]);
        drop(files);
        let mut again = Files::open(folder.path()).unwrap();
        again.write(&record(3).json());
        assert_eq!(read(&mut reader), [3], "a restart goes on in the same file");
    }
}

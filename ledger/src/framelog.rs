//! An append-only file of frames: the one format of block log, consensus WAL and signing journal.
//!
//! ```text
//! file     = "AILOLOG1" | kind (4 bytes) | network id (32) | CRC-32 of the above | frame*
//! frame    = length (u32) | CRC-32 of offset and length | CRC-32 of the bytes | bytes (1 to the log's bound)
//! ```
//!
//! Integers are little-endian; the offset is the frame's position in the file (u64).
//!
//! **Durability.** [`FrameLog::append`] returns after the frame is on disk (fdatasync), so a crash can hurt the last
//! frame only. [`FrameLog::open`] syncs what it finds before anybody builds on it: a killed process may have written what
//! it never synced. At opening, whatever stands after the last good frame is cut off if it is no longer than one frame and
//! holds no frame's head. Otherwise something that was once durable is damaged: that is an error, never a truncation.
//! After a failed write or sync the log refuses further appends, because the kernel may have dropped what it could not
//! write. Files are made and replaced under another name and then renamed, so a log always has its whole head.

use crate::{
    disk::{Disk, DiskFile, RealDisk},
    plants::{self, Plant},
};
use ailo_protocol::Hash;
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const MAGIC: &[u8; 8] = b"AILOLOG1";
const FILE_HEAD: usize = 8 + 4 + 32 + 4;
const FRAME_HEAD: usize = 12;
const READ_AHEAD: usize = 1 << 20;

/// What a log is and how long its frames may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Four letters that tell one kind of log from another.
    pub kind: [u8; 4],
    /// Network id.
    pub network: Hash,
    /// A frame's bytes, at most.
    pub max_frame: usize,
}

/// An open log.
#[derive(Debug)]
pub struct FrameLog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    format: Format,
    end: u64,
    /// The same for those who read beside: set once a frame is on disk.
    durable: Arc<AtomicU64>,
    /// Frames.
    count: u64,
    failed: bool,
}

/// Reads frames of a log beside whoever appends to it.
#[derive(Debug)]
pub struct Frames {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    format: Format,
    end: Arc<AtomicU64>,
}

impl Frames {
    /// The frame at `offset`.
    pub fn read(&self, offset: u64) -> Result<Vec<u8>, LogError> {
        read_frame((&*self.file, &self.path), &self.format, self.end.load(Ordering::Acquire), offset)
    }
}

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The log.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A frame that was once on disk is broken.
    #[error("{path} is damaged at byte {offset}: check the disk, then move the file away and sync again from peers")]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
    },
    /// Of another kind or another network.
    #[error(
        "{path} is not this network's: {reason}; move it away, or start the node on the network that it belongs to"
    )]
    Foreign {
        /// The log.
        path: PathBuf,
        /// What differs.
        reason: &'static str,
    },
    /// More than the log's bound, or nothing.
    #[error("a frame of {len} bytes does not fit: {path} takes 1 to {max}")]
    Length {
        /// The log.
        path: PathBuf,
        /// Bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// An earlier write failed.
    #[error("an earlier write to {path} failed: check the disk and restart the node")]
    Failed {
        /// The log.
        path: PathBuf,
    },
}

impl LogError {
    /// The operating system refused to do this with `path`.
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> LogError {
        LogError::Io { what, path: path.into(), source }
    }
}

impl FrameLog {
    /// Opens the log at `path`, or makes an empty one; every frame's checksum is verified.
    pub fn open(path: &Path, format: Format) -> Result<FrameLog, LogError> {
        FrameLog::open_on(RealDisk::shared(), path, format)
    }

    /// The same on another disk than the machine's.
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path, format: Format) -> Result<FrameLog, LogError> {
        match disk.exists(path) {
            true => FrameLog::open_there(disk, path, format, false),
            false => FrameLog::create_on(disk, path, format, &[]),
        }
    }

    /// Opens a log that nobody appends to any more: its last frame was finished, so an incomplete one is damage.
    pub fn open_closed(disk: Arc<dyn Disk>, path: &Path, format: Format) -> Result<FrameLog, LogError> {
        FrameLog::open_there(disk, path, format, true)
    }

    fn open_there(disk: Arc<dyn Disk>, path: &Path, format: Format, closed: bool) -> Result<FrameLog, LogError> {
        let file = disk.open(path).map_err(|e| LogError::io("open", path, e))?;
        let mut log = FrameLog::of((disk, path), file, format, (FILE_HEAD as u64, 0));
        log.check_head()?;
        let len = log.file.length().map_err(|e| LogError::io("read", path, e))?;
        let mut frames = log.scan(FILE_HEAD as u64, len);
        let (mut end, mut count) = (FILE_HEAD as u64, 0);
        while let Some(frame) = frames.next_frame()? {
            (end, count) = (frame.end, count + 1);
        }
        if end < len {
            if closed {
                return Err(LogError::Damaged { path: path.into(), offset: end });
            }
            log.check_tail(end, len)?;
            log.file.set_length(end).map_err(|e| LogError::io("truncate", path, e))?;
        }
        // A process that was killed may have written, or renamed, what it never synced: it can be read, and is not safe yet.
        if !plants::on(Plant::UnsyncedOpen) {
            log.file.sync().map_err(|e| LogError::io("sync", path, e))?;
            sync_folder_of(&*log.disk, path)?;
        }
        (log.end, log.count) = (end, count);
        log.durable.store(end, Ordering::Release);
        Ok(log)
    }

    fn of(
        (disk, path): (Arc<dyn Disk>, &Path),
        file: Box<dyn DiskFile>,
        format: Format,
        (end, count): (u64, u64),
    ) -> FrameLog {
        let durable = Arc::new(AtomicU64::new(end));
        FrameLog { disk, path: path.into(), file: file.into(), format, end, durable, count, failed: false }
    }

    /// Makes a log of these frames, in the place of whatever is at `path`.
    pub fn create(path: &Path, format: Format, frames: &[&[u8]]) -> Result<FrameLog, LogError> {
        FrameLog::create_on(RealDisk::shared(), path, format, frames)
    }

    /// The same on another disk than the machine's.
    pub fn create_on(disk: Arc<dyn Disk>, path: &Path, format: Format, frames: &[&[u8]]) -> Result<FrameLog, LogError> {
        let mut bytes = head(&format);
        for frame in frames {
            push_frame(&mut bytes, path, &format, frame)?;
        }
        let new = path.with_extension("new");
        let file = disk.create(&new).map_err(|e| LogError::io("make", &new, e))?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync()).map_err(|e| LogError::io("write", &new, e))?;
        disk.rename(&new, path).map_err(|e| LogError::io("rename", &new, e))?;
        if !plants::on(Plant::UnsyncedRename) {
            sync_folder_of(&*disk, path)?;
        }
        Ok(FrameLog::of((disk, path), file, format, (bytes.len() as u64, frames.len() as u64)))
    }

    /// Replaces the log, atomically and durably, by one of these frames.
    pub fn replace(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        self.check_usable()?;
        match FrameLog::create_on(self.disk.clone(), &self.path, self.format, frames) {
            Ok(log) => *self = log,
            Err(e) => {
                self.failed = true;
                return Err(e);
            }
        }
        Ok(())
    }

    /// Appends a frame and returns its offset once it is on disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, LogError> {
        self.check_usable()?;
        let mut frame = Vec::with_capacity(FRAME_HEAD + bytes.len());
        push_frame_at(&mut frame, &self.path, &self.format, self.end, bytes)?;
        if let Err(e) = self.file.write_all_at(&frame, self.end).and_then(|()| self.sync()) {
            self.failed = true;
            return Err(LogError::io("write", &self.path, e));
        }
        let offset = self.end;
        self.end += frame.len() as u64;
        self.durable.store(self.end, Ordering::Release);
        self.count += 1;
        Ok(offset)
    }

    /// The frame at `offset`.
    pub fn read(&self, offset: u64) -> Result<Vec<u8>, LogError> {
        read_frame((&*self.file, &self.path), &self.format, self.end, offset)
    }

    /// What reads frames while this one appends.
    pub fn reader(&self) -> Frames {
        let (path, file, format) = (self.path.clone(), self.file.clone(), self.format);
        Frames { path, file, format, end: self.durable.clone() }
    }

    /// All frames from `offset` on (0 for the first), with their offsets.
    pub fn frames(&self, offset: u64) -> impl Iterator<Item = Result<(u64, Vec<u8>), LogError>> + '_ {
        let mut frames = self.scan(offset.max(FILE_HEAD as u64), self.end);
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let at = frames.offset;
            let item = match frames.next_frame() {
                Ok(Some(frame)) => return Some(Ok((frame.offset, frame.bytes))),
                Ok(None) if at == self.end => None,
                Ok(None) => Some(Err(LogError::Damaged { path: self.path.clone(), offset: at })),
                Err(e) => Some(Err(e)),
            };
            over = true;
            item
        })
    }

    /// Where the next frame will stand: the length of the file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Number of frames.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn sync(&self) -> io::Result<()> {
        let planted = match &self.format.kind {
            b"BLKS" => plants::on(Plant::UnsyncedAppend),
            b"JRNL" => plants::on(Plant::UnsyncedJournal),
            b"WAL " => plants::on(Plant::UnsyncedWal),
            _ => false,
        };
        if planted { Ok(()) } else { self.file.sync() }
    }

    fn check_usable(&self) -> Result<(), LogError> {
        if self.failed { Err(LogError::Failed { path: self.path.clone() }) } else { Ok(()) }
    }

    fn check_head(&self) -> Result<(), LogError> {
        let mut found = [0; FILE_HEAD];
        let foreign = |reason| Err(LogError::Foreign { path: self.path.clone(), reason });
        let damaged = || LogError::Damaged { path: self.path.clone(), offset: 0 };
        self.file.read_exact_at(&mut found, 0).map_err(|_| damaged())?;
        if found[..] == head(&self.format)[..] {
            Ok(())
        } else if crc32fast::hash(&found[..FILE_HEAD - 4]).to_le_bytes() != found[FILE_HEAD - 4..] {
            Err(damaged())
        } else if found[..8] != MAGIC[..] || found[8..12] != self.format.kind {
            foreign("it is a file of another kind")
        } else {
            foreign("it belongs to another network")
        }
    }

    /// Whether what stands between `end` and `len` can be one torn append.
    fn check_tail(&self, end: u64, len: u64) -> Result<(), LogError> {
        let damaged = LogError::Damaged { path: self.path.clone(), offset: end };
        if len - end > (FRAME_HEAD + self.format.max_frame) as u64 {
            return Err(damaged);
        }
        let mut tail = vec![0; (len - end) as usize];
        self.file.read_exact_at(&mut tail, end).map_err(|e| LogError::io("read", &self.path, e))?;
        let is_head = |(i, w): (usize, &[u8])| i > 0 && parse_head(w, end + i as u64, &self.format).is_some();
        if tail.windows(FRAME_HEAD).enumerate().any(is_head) { Err(damaged) } else { Ok(()) }
    }

    fn scan(&self, offset: u64, end: u64) -> Scan<'_> {
        let capacity = (end.saturating_sub(offset) as usize).clamp(1, READ_AHEAD);
        Scan { log: self, reader: io::BufReader::with_capacity(capacity, Reader(&*self.file, offset)), offset, end }
    }
}

struct Frame {
    offset: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// Reads frame after frame, up to the first that is not one.
struct Scan<'a> {
    log: &'a FrameLog,
    reader: io::BufReader<Reader<'a>>,
    offset: u64,
    end: u64,
}

/// Reads a file from a position on, whatever others do with it.
struct Reader<'a>(&'a dyn DiskFile, u64);

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

impl Scan<'_> {
    fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        let failed = |e| LogError::io("read", &self.log.path, e);
        let left = self.end - self.offset;
        if left < FRAME_HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; FRAME_HEAD];
        self.reader.read_exact(&mut head).map_err(failed)?;
        let Some((len, crc)) = parse_head(&head, self.offset, &self.log.format) else { return Ok(None) };
        if left < (FRAME_HEAD + len) as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).map_err(failed)?;
        if crc32fast::hash(&bytes) != crc && !plants::on(Plant::TornFrame) {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += (FRAME_HEAD + len) as u64;
        Ok(Some(Frame { offset, end: self.offset, bytes }))
    }
}

/// The frame at `offset` of a log that ends at `end`.
fn read_frame(
    (file, path): (&dyn DiskFile, &Path),
    format: &Format,
    end: u64,
    offset: u64,
) -> Result<Vec<u8>, LogError> {
    let mut head = [0; FRAME_HEAD];
    let damaged = || LogError::Damaged { path: path.into(), offset };
    if offset < FILE_HEAD as u64 || offset.saturating_add(FRAME_HEAD as u64) > end {
        return Err(damaged());
    }
    file.read_exact_at(&mut head, offset).map_err(|e| LogError::io("read", path, e))?;
    let (len, crc) = parse_head(&head, offset, format).ok_or_else(damaged)?;
    let start = offset + FRAME_HEAD as u64;
    if start + len as u64 > end {
        return Err(damaged());
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start).map_err(|e| LogError::io("read", path, e))?;
    if crc32fast::hash(&bytes) != crc { Err(damaged()) } else { Ok(bytes) }
}

fn sync_folder_of(disk: &dyn Disk, path: &Path) -> Result<(), LogError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_folder(folder).map_err(|e| LogError::io("sync", folder, e))
}

fn head(format: &Format) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &format.kind, &format.network.0].concat();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn head_crc(offset: u64, len: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    hasher.finalize()
}

/// Length and checksum of the frame that begins with `head` at `offset`, if one does.
fn parse_head(head: &[u8], offset: u64, format: &Format) -> Option<(usize, u32)> {
    let word = |i: usize| head.get(i..i + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let len = word(0)?;
    let valid = len > 0 && len as usize <= format.max_frame && word(4)? == head_crc(offset, len);
    valid.then_some((len as usize, word(8)?))
}

fn push_frame(out: &mut Vec<u8>, path: &Path, format: &Format, bytes: &[u8]) -> Result<(), LogError> {
    let offset = out.len() as u64;
    push_frame_at(out, path, format, offset, bytes)
}

fn push_frame_at(out: &mut Vec<u8>, path: &Path, format: &Format, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
    let max = format.max_frame;
    let length = || LogError::Length { path: path.into(), len: bytes.len(), max };
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len > 0 && bytes.len() <= max).ok_or_else(length)?;
    out.extend(len.to_le_bytes());
    out.extend(head_crc(offset, len).to_le_bytes());
    out.extend(crc32fast::hash(bytes).to_le_bytes());
    out.extend(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::{self, File, OpenOptions};

    const FORMAT: Format = Format { kind: *b"TEST", network: Hash([7; 32]), max_frame: 100 };

    fn frames(log: &FrameLog) -> Vec<Vec<u8>> {
        log.frames(0).map(|frame| frame.unwrap().1).collect()
    }

    /// A log of the frames 1, 22.., 333.. and the offsets where they begin and end.
    fn three(path: &Path) -> (Vec<Vec<u8>>, Vec<u64>) {
        let contents: Vec<Vec<u8>> = vec![vec![1], vec![2; 22], vec![3; 33]];
        let mut log = FrameLog::open(path, FORMAT).unwrap();
        let mut offsets: Vec<u64> = contents.iter().map(|bytes| log.append(bytes).unwrap()).collect();
        offsets.push(log.end());
        (contents, offsets)
    }

    #[test]
    fn what_was_appended_is_read_back_in_order_and_by_offset_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (contents, offsets) = three(&path);
        let mut log = FrameLog::open(&path, FORMAT).unwrap();
        assert_eq!(frames(&log), contents);
        assert_eq!(log.read(offsets[1]).unwrap(), contents[1]);
        assert_eq!(log.frames(offsets[2]).map(|f| f.unwrap()).collect::<Vec<_>>(), [(offsets[2], contents[2].clone())]);
        assert!(log.read(offsets[1] + 1).is_err());
        assert!(log.read(u64::MAX).is_err());
        assert!(matches!(log.append(&[]), Err(LogError::Length { .. })));
        assert!(matches!(log.append(&[0; 101]), Err(LogError::Length { .. })));
        log.append(&[0; 100]).unwrap();
        assert_eq!(frames(&FrameLog::open(&path, FORMAT).unwrap()).len(), 4);
    }

    #[test]
    fn a_write_torn_at_any_byte_of_the_last_frame_loses_that_frame_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (contents, offsets) = three(&path);
        let whole = fs::read(&path).unwrap();
        for cut in offsets[2] as usize..whole.len() {
            // The file ends early, or has its full length and the rest was never written.
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            for torn in [whole[..cut].to_vec(), zeroed] {
                fs::write(&path, &torn).unwrap();
                let mut log = FrameLog::open(&path, FORMAT).unwrap();
                assert_eq!(frames(&log), contents[..2], "torn at {cut}");
                log.append(&contents[2]).unwrap();
                assert_eq!(fs::read(&path).unwrap(), whole, "torn at {cut}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_frame_is_damage_and_nothing_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (_, offsets) = three(&path);
        let whole = fs::read(&path).unwrap();
        for byte in 0..offsets[2] as usize {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[byte] ^= 1 << bit;
                fs::write(&path, &flipped).unwrap();
                let error = FrameLog::open(&path, FORMAT).unwrap_err();
                assert!(matches!(error, LogError::Damaged { .. }), "byte {byte}, bit {bit}: {error}");
                assert_eq!(fs::read(&path).unwrap(), flipped);
            }
        }
    }

    #[test]
    fn a_tail_longer_than_any_frame_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        three(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([0xee; FRAME_HEAD + 101]);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(FrameLog::open(&path, FORMAT), Err(LogError::Damaged { .. })));
    }

    #[test]
    fn a_log_of_another_network_or_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        three(&path);
        for format in [Format { network: Hash([8; 32]), ..FORMAT }, Format { kind: *b"ELSE", ..FORMAT }] {
            assert!(matches!(FrameLog::open(&path, format), Err(LogError::Foreign { .. })));
        }
    }

    #[test]
    fn replacing_leaves_the_new_frames_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        three(&path);
        let mut log = FrameLog::open(&path, FORMAT).unwrap();
        log.replace(&[b"kept"]).unwrap();
        log.append(b"more").unwrap();
        drop(log);
        let mut log = FrameLog::open(&path, FORMAT).unwrap();
        assert_eq!(frames(&log), [b"kept", b"more"]);
        log.replace(&[]).unwrap();
        assert!(FrameLog::open(&path, FORMAT).unwrap().is_empty());
    }

    #[test]
    fn after_a_failed_write_the_log_refuses_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        three(&path);
        let mut log = FrameLog::open(&path, FORMAT).unwrap();
        log.file = Arc::new(File::open(&path).unwrap()); // read-only: the write fails
        assert!(matches!(log.append(b"x"), Err(LogError::Io { .. })));
        log.file = Arc::new(OpenOptions::new().read(true).write(true).open(&path).unwrap());
        assert!(matches!(log.append(b"x"), Err(LogError::Failed { .. })));
        assert!(matches!(log.replace(&[]), Err(LogError::Failed { .. })));
    }
}

//! The file of a sorted run: entries in order of their keys, in pages. It is written once, from its first entry to its last,
//! and then only read or deleted. Of an open one its directory is in memory, 24 bytes for each page of 4 KiB, so that a key is found with one read
//! of the file wherever 16 bytes tell its page from others.
//!
//! ```text
//! file    = head | page* | directory | foot
//! head    = "AILORUN2" | the run's number (u64)
//! page    = CRC-32 of its number (u64) and its entries | entry*
//! entry   = key's length (u32) | value's length (u32) or REMOVED | key | value
//! directory = (offset of a page (u64) | the first 16 bytes of its first key, or zeros behind a shorter one)* | end of the last page (u64)
//! foot    = pages (u64) | entries (u64) | CRC-32 of head, directory and both counts
//! ```
//!
//! Integers are little-endian. Head, directory and foot are checked at opening, a page whenever it is read.

use std::{
    cmp::Ordering,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"AILORUN2";
const HEAD: u64 = 8 + 8;
const FOOT: u64 = 8 + 8 + 4;
const OFFSET: u64 = 8;
/// Bytes of a page's first key that the directory has.
const PREFIX: usize = 16;
const IN_DIRECTORY: u64 = OFFSET + PREFIX as u64;
/// A page is closed when it is this long.
const PAGE_BYTES: usize = 4096;
const PAGE_HEAD: usize = 4;
const ENTRY_HEAD: usize = 8;
/// Key and value of an entry together, at most: the largest page of events and its key.
const MAX_ENTRY_BYTES: usize = (64 << 20) + 1024;
const MAX_PAGE_BYTES: u64 = (PAGE_BYTES + ENTRY_HEAD + MAX_ENTRY_BYTES) as u64;
const REMOVED: u32 = u32::MAX;
const BUFFER: usize = 64 << 10;

/// An open run.
#[derive(Debug)]
pub struct RunFile {
    file: File,
    path: PathBuf,
    entries: u64,
    pages: Vec<PageAt>,
    /// Where the last page ends.
    end: u64,
}

/// What the directory has of a page.
#[derive(Clone, Copy, Debug)]
struct PageAt {
    offset: u64,
    first: [u8; PREFIX],
}

/// The beginning of a key: of two keys with different ones it says which is less.
fn prefix(key: &[u8]) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    let length = key.len().min(PREFIX);
    prefix[..length].copy_from_slice(&key[..length]);
    prefix
}

/// A page and its entries.
#[derive(Debug, Default)]
pub struct Page(Vec<u8>);

/// Where key and value of an entry are in its page.
type Place = (Range<usize>, Option<Range<usize>>);

/// An entry: its key, and its value unless it removes the key.
pub type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

impl RunFile {
    /// Opens a run that was finished, and checks all of it but its pages.
    pub fn open(path: &Path, number: u64) -> io::Result<RunFile> {
        let file = File::open(path)?;
        let damaged = |what| damaged(path, what);
        let length = file.metadata()?.len();
        let Some(foot_at) = length.checked_sub(FOOT) else { return Err(damaged("it has no foot")) };
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0)?;
        if head != head_of(number) {
            return Err(damaged("its head is another's"));
        }
        let mut foot = [0; FOOT as usize];
        file.read_exact_at(&mut foot, foot_at)?;
        let (counts, checksum) = foot.split_at(16);
        let (pages, entries) = counts.split_at(8);
        let (pages, entries) = (integer(pages), integer(entries));
        let directory = pages.checked_mul(IN_DIRECTORY).and_then(|all| all.checked_add(OFFSET));
        let start = directory.and_then(|all| foot_at.checked_sub(all)).filter(|start| *start >= HEAD);
        let Some(start) = start.filter(|_| pages > 0) else { return Err(damaged("it is not as long as it says")) };

        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        let mut reader = BufReader::with_capacity(BUFFER, &file);
        reader.seek(SeekFrom::Start(start))?;
        let mut found: Vec<PageAt> = Vec::with_capacity(pages as usize);
        for i in 0..=pages {
            let (mut offset, mut first) = ([0; OFFSET as usize], [0; PREFIX]);
            reader.read_exact(&mut offset)?;
            hasher.update(&offset);
            let offset = u64::from_le_bytes(offset);
            let fits = match found.last() {
                None => offset == HEAD,
                Some(last) => {
                    offset.checked_sub(last.offset).is_some_and(is_page_length) && (i < pages || offset == start)
                }
            };
            if !fits {
                return Err(damaged("its pages are not where they should be"));
            }
            if i < pages {
                reader.read_exact(&mut first)?;
                hasher.update(&first);
                found.push(PageAt { offset, first });
            }
        }
        hasher.update(counts);
        if hasher.finalize().to_le_bytes() != checksum {
            return Err(damaged("its foot's checksum is another"));
        }
        Ok(RunFile { file, path: path.into(), entries, pages: found, end: start })
    }

    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// The page with this number, from 0 on.
    pub fn page(&self, number: u64) -> io::Result<Page> {
        let mut page = Page::default();
        self.read(number, &mut page)?;
        Ok(page)
    }

    fn read(&self, number: u64, page: &mut Page) -> io::Result<()> {
        let at = |number: u64| self.pages.get(number as usize).map(|page| page.offset);
        let Some(start) = at(number) else { return Err(damaged(&self.path, "a page is not where it should be")) };
        page.0.resize((at(number + 1).unwrap_or(self.end) - start) as usize, 0);
        self.file.read_exact_at(&mut page.0, start)?;
        let (checksum, entries) = page.0.split_at(PAGE_HEAD);
        if page_checksum(number, entries) != checksum {
            return Err(damaged(&self.path, &format!("the checksum of page {number} is another")));
        }
        Ok(())
    }

    /// The last page that begins at `key` or before it, with its number.
    pub fn find(&self, key: &[u8]) -> io::Result<Option<(u64, Page)>> {
        let prefix = prefix(key);
        let less = self.pages.partition_point(|page| page.first < prefix) as u64;
        // Only pages that begin alike have to be looked at.
        let (mut found, mut from) = (None, less);
        let mut to = self.pages.partition_point(|page| page.first <= prefix) as u64;
        while from < to {
            let middle = from + (to - from) / 2;
            let page = self.page(middle)?;
            if page.first_key() <= key {
                (found, from) = (Some((middle, page)), middle + 1);
            } else {
                to = middle;
            }
        }
        let before = less.checked_sub(1).filter(|_| found.is_none());
        before.map_or(Ok(found), |before| Ok(Some((before, self.page(before)?))))
    }
}

impl Page {
    /// Its entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut at = PAGE_HEAD;
        std::iter::from_fn(move || {
            let (place, next) = self.place(at)?;
            at = next;
            Some(self.entry(&place))
        })
    }

    /// The key of its first entry: no page is empty.
    pub fn first_key(&self) -> &[u8] {
        self.entries().next().map_or(&[], |(key, _)| key)
    }

    fn entry(&self, (key, value): &Place) -> Entry<'_> {
        (&self.0[key.clone()], value.clone().map(|value| &self.0[value]))
    }

    /// Where the entry at `at` is, and where the next one begins.
    fn place(&self, at: usize) -> Option<(Place, usize)> {
        let number = |at: usize| self.0.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (key_len, value_len) = (number(at)? as usize, number(at + 4)?);
        let key = at + ENTRY_HEAD..(at + ENTRY_HEAD).checked_add(key_len)?;
        let value = (value_len != REMOVED).then_some(key.end..key.end.checked_add(value_len as usize)?);
        let end = value.as_ref().map_or(key.end, |value| value.end);
        (end <= self.0.len()).then_some(((key, value), end))
    }
}

/// Goes through a run from its first entry on.
pub struct Cursor<'a> {
    run: &'a RunFile,
    /// The number of the next page.
    page_number: u64,
    page: Page,
    /// The entry it stands at, and where the next one begins.
    place: Option<Place>,
    next: usize,
}

impl Cursor<'_> {
    /// At the first entry of a run.
    pub fn new(run: &RunFile) -> io::Result<Cursor<'_>> {
        let mut cursor = Cursor { run, page_number: 0, page: Page::default(), place: None, next: 0 };
        cursor.advance()?;
        Ok(cursor)
    }

    /// The entry that it stands at; `None` after the last.
    pub fn current(&self) -> Option<Entry<'_>> {
        self.place.as_ref().map(|place| self.page.entry(place))
    }

    /// Goes to the next entry.
    pub fn advance(&mut self) -> io::Result<()> {
        loop {
            if let Some((place, next)) = self.page.place(self.next) {
                (self.place, self.next) = (Some(place), next);
                return Ok(());
            }
            self.place = None;
            if self.page_number == self.run.pages() {
                return Ok(());
            }
            self.run.read(self.page_number, &mut self.page)?;
            (self.page_number, self.next) = (self.page_number + 1, PAGE_HEAD);
        }
    }
}

/// Shows each key of several runs, the newest first, with the value of the newest that has it, in order.
pub fn merged(runs: &[&RunFile], mut each: impl FnMut(&[u8], Option<&[u8]>) -> io::Result<()>) -> io::Result<()> {
    let mut cursors = runs.iter().map(|run| Cursor::new(run)).collect::<io::Result<Vec<_>>>()?;
    let mut least = Vec::with_capacity(cursors.len());
    loop {
        let mut first: Option<Entry> = None;
        least.clear();
        for (i, cursor) in cursors.iter().enumerate() {
            let Some(entry) = cursor.current() else { continue };
            match first.map_or(Ordering::Less, |(key, _)| entry.0.cmp(key)) {
                Ordering::Less => {
                    first = Some(entry);
                    least.clear();
                    least.push(i);
                }
                Ordering::Equal => least.push(i),
                Ordering::Greater => {}
            }
        }
        let Some((key, value)) = first else { return Ok(()) };
        each(key, value)?;
        for i in &least {
            cursors[*i].advance()?;
        }
    }
}

/// Writes a run.
pub struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    number: u64,
    entries: u64,
    page: Vec<u8>,
    /// The pages that are closed, and where the next one begins.
    pages: Vec<PageAt>,
    end: u64,
    /// How the page's first key begins.
    first: [u8; PREFIX],
}

impl Writer {
    /// Begins a run in the place of whatever is there.
    pub fn create(path: &Path, number: u64) -> io::Result<Writer> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let mut file = BufWriter::with_capacity(BUFFER, file);
        file.write_all(&head_of(number))?;
        let (page, pages, first) = (vec![0; PAGE_HEAD], Vec::new(), [0; PREFIX]);
        Ok(Writer { file, path: path.into(), number, entries: 0, page, pages, end: HEAD, first })
    }

    /// Adds an entry, whose key is greater than all before it.
    pub fn push(&mut self, (key, value): Entry) -> io::Result<()> {
        if key.len() + value.map_or(0, <[u8]>::len) > MAX_ENTRY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry of the index is too long"));
        }
        if self.page.len() == PAGE_HEAD {
            self.first = prefix(key);
        }
        let value_len = value.map_or(REMOVED, |value| value.len() as u32);
        self.page.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.page.extend_from_slice(&value_len.to_le_bytes());
        self.page.extend_from_slice(key);
        self.page.extend_from_slice(value.unwrap_or_default());
        self.entries += 1;
        if self.page.len() >= PAGE_BYTES { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        let checksum = page_checksum(self.pages.len() as u64, &self.page[PAGE_HEAD..]);
        self.page[..PAGE_HEAD].copy_from_slice(&checksum);
        self.file.write_all(&self.page)?;
        self.pages.push(PageAt { offset: self.end, first: self.first });
        self.end += self.page.len() as u64;
        self.page.truncate(PAGE_HEAD);
        Ok(())
    }

    /// The run, once its bytes are on disk; its name is when its folder has been synced. Without entries there is none.
    pub fn finish(mut self) -> io::Result<Option<RunFile>> {
        if self.entries == 0 {
            drop(self.file);
            fs::remove_file(&self.path)?;
            return Ok(None);
        }
        if self.page.len() > PAGE_HEAD {
            self.close()?;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head_of(self.number));
        let end = self.end.to_le_bytes();
        let parts = self.pages.iter().flat_map(|page| [page.offset.to_le_bytes().to_vec(), page.first.to_vec()]);
        for bytes in parts.chain([end.to_vec()]) {
            hasher.update(&bytes);
            self.file.write_all(&bytes)?;
        }
        let counts = [(self.pages.len() as u64).to_le_bytes(), self.entries.to_le_bytes()].concat();
        hasher.update(&counts);
        self.file.write_all(&counts)?;
        self.file.write_all(&hasher.finalize().to_le_bytes())?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        let file = File::open(&self.path)?;
        Ok(Some(RunFile { file, path: self.path, entries: self.entries, pages: self.pages, end: self.end }))
    }
}

fn head_of(number: u64) -> [u8; HEAD as usize] {
    let mut head = [0; HEAD as usize];
    head[..8].copy_from_slice(MAGIC);
    head[8..].copy_from_slice(&number.to_le_bytes());
    head
}

fn page_checksum(number: u64, entries: &[u8]) -> [u8; PAGE_HEAD] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(entries);
    hasher.finalize().to_le_bytes()
}

fn is_page_length(length: u64) -> bool {
    length >= (PAGE_HEAD + ENTRY_HEAD) as u64 && length <= MAX_PAGE_BYTES
}

/// Eight bytes as an integer.
fn integer(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {what}", path.display()))
}

//! The data that a network trains on: one list of tokens whose last tenth is held out from training.
//!
//! *Split.* The last tenth of the tokens is held out; nothing trains on it.
//!
//! *A round's windows.* The training part, shifted by an offset drawn from the round's seed, is cut into windows of one
//! sequence; the seed permutes them, and slot `i` takes the `i`-th run of `H * batch` windows (from the start again
//! when the round needs more windows than there are). So slots are disjoint while the data suffices, and nobody chooses
//! its data.
//!
//! *A window* at token `o` holds the inputs `o .. o + sequence` and the targets one token further on.
//!
//! *Packed file.* `"AILODATA"`, version (u8), tokenizer (u8), held-out tokens (u64), tokens (u64), root (32 bytes),
//! then the tokens as u16, all little-endian.

use crate::{
    error::{Result, TrainingError},
    file, tokenizer,
};
use ailo_protocol::{
    Hash, genesis,
    hash::Domain,
    params::{Tokenizer, TrainingParams},
};
use std::path::Path;

/// Fewer tokens than this are no dataset: the held-out part could not hold one short sequence.
pub const MIN_TOKENS: usize = 1_000;
/// A dataset file, in bytes, at most: it is held in memory.
pub const MAX_FILE_BYTES: u64 = 8 << 30;
/// Bytes of a dataset's name, at most (a rule of the genesis).
const MAX_NAME_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"AILODATA";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8 + 1 + 1 + 8 + 8 + 32;

/// Tokens, and how many of them at the end are held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// A name for people: the file's name.
    pub name: String,
    /// What made the tokens.
    pub tokenizer: Tokenizer,
    /// The tokens.
    pub tokens: Vec<u16>,
    /// Tokens at the end that are held out from training.
    pub held_out: usize,
}

impl Dataset {
    /// A dataset from plain text; the last tenth is held out.
    pub fn from_text(name: &str, text: &[u8], tokenizer: Tokenizer) -> Result<Dataset> {
        let tokens = tokenizer::encode(tokenizer, name, text)?;
        if tokens.len() < MIN_TOKENS {
            return Err(TrainingError::DatasetTooSmall { name: name.into(), tokens: tokens.len(), min: MIN_TOKENS });
        }
        let held_out = tokens.len() / 10;
        Ok(Dataset { name: short_name(name), tokenizer, tokens, held_out })
    }

    /// A dataset from a file: a packed one if it starts as one, else plain text.
    pub fn open(path: &Path, tokenizer: Tokenizer) -> Result<Dataset> {
        let bytes = file::read(path, MAX_FILE_BYTES)?;
        let name = path.file_name().map_or_else(|| "dataset".into(), |name| name.to_string_lossy());
        if bytes.starts_with(MAGIC) {
            unpack(path, &name, tokenizer, &bytes)
        } else {
            Dataset::from_text(&name, &bytes, tokenizer)
        }
    }

    /// The corpus that is part of the program: made once from this project's own documentation and sources.
    pub fn embedded() -> Dataset {
        let text = include_bytes!("../data/corpus.txt");
        let tokens: Vec<u16> = text.iter().map(|&b| u16::from(b)).collect();
        let held_out = tokens.len() / 10;
        Dataset { name: "embedded corpus".into(), tokenizer: Tokenizer::Bytes, tokens, held_out }
    }

    /// Writes the packed form, atomically.
    pub fn write_packed(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 2 * self.tokens.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend([VERSION, tokenizer_id(self.tokenizer)]);
        bytes.extend((self.held_out as u64).to_le_bytes());
        bytes.extend((self.tokens.len() as u64).to_le_bytes());
        bytes.extend(self.root().0);
        bytes.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        file::write_atomically(path, [bytes.as_slice()])
    }

    /// The hash of tokenizer, split and tokens: the dataset's identity on the network.
    pub fn root(&self) -> Hash {
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let held_out = (self.held_out as u64).to_le_bytes();
        Hash::of_parts(Domain::Dataset, &[&[tokenizer_id(self.tokenizer)], &held_out, &tokens])
    }

    /// What the genesis says about this dataset.
    pub fn describe(&self) -> genesis::Dataset {
        genesis::Dataset {
            name: self.name.clone(),
            root: self.root(),
            tokens: self.tokens.len() as u64,
            held_out: self.held_out as u64,
        }
    }

    /// Offsets of the `inner_steps * batch` training windows of `slot` out of `slots`, in training order; none if the
    /// training part does not hold one window.
    pub fn windows(&self, params: &TrainingParams, seed: &Hash, slot: u32, slots: u32) -> Vec<usize> {
        let sequence = params.sequence as usize;
        let train = self.tokens.len() - self.held_out;
        // A window needs one token more than its inputs, for the last target.
        let Some(room) = train.checked_sub(sequence + 1) else { return Vec::new() };
        let mut lot = lot("training windows", seed);
        let shift = lot.below(sequence.min(room + 1) as u64) as usize;
        let count = (room - shift) / sequence + 1;
        let mut order: Vec<usize> = (0..count).map(|i| shift + i * sequence).collect();
        lot.shuffle(&mut order);
        let share = params.inner_steps as usize * params.batch as usize;
        let first = (slot % slots.max(1)) as usize * share;
        (first..first + share).map(|i| order[i % count]).collect()
    }

    /// Offsets of at most `count` held-out windows of `sequence` tokens: evenly spread and always the same without a
    /// seed, drawn by the seed with one. As many as there are (`count` = `u32::MAX`) cover the whole held-out part.
    pub fn held_out_windows(&self, sequence: u32, seed: Option<&Hash>, count: u32) -> Vec<usize> {
        let sequence = sequence as usize;
        let start = self.tokens.len() - self.held_out;
        let available = self.held_out.saturating_sub(1) / sequence.max(1);
        let count = available.min(count as usize);
        match seed {
            None => (0..count).map(|i| start + i * available / count * sequence).collect(),
            Some(seed) => {
                let mut order: Vec<usize> = (0..available).map(|i| start + i * sequence).collect();
                lot("held-out windows", seed).shuffle(&mut order);
                order.truncate(count);
                order
            }
        }
    }

    /// Checks that windows of `sequence` tokens lie within the dataset.
    pub(crate) fn check_windows(&self, sequence: usize, windows: &[usize]) -> Result<()> {
        let wrong = |reason| Err(TrainingError::Windows { name: self.name.clone(), reason });
        if windows.is_empty() {
            return wrong("there is none (is the text too short for a sequence?)");
        }
        match self.tokens.len().checked_sub(sequence + 1) {
            Some(last) if windows.iter().all(|&offset| offset <= last) => Ok(()),
            _ => wrong("one reaches beyond the last token"),
        }
    }
}

/// Pseudo-random numbers for one purpose from a seed that serves several.
fn lot(purpose: &str, seed: &Hash) -> ailo_protocol::hash::Stream {
    Hash::of_parts(Domain::Lot, &[&seed.0, purpose.as_bytes()]).stream()
}

fn tokenizer_id(tokenizer: Tokenizer) -> u8 {
    match tokenizer {
        Tokenizer::Bytes => 0,
        Tokenizer::Gpt2 => 1,
    }
}

/// `name`, cut at a character's boundary to what a genesis takes.
fn short_name(name: &str) -> String {
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 { "dataset".into() } else { name[..end].into() }
}

fn unpack(path: &Path, name: &str, tokenizer: Tokenizer, bytes: &[u8]) -> Result<Dataset> {
    let refuse = |reason| Err(TrainingError::Packed { path: path.into(), reason });
    let number = |at: usize| -> u64 { bytes[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)) };
    if bytes.len() < HEADER_BYTES {
        return refuse("it ends inside its header");
    }
    if bytes[8] != VERSION {
        return refuse("its version is unknown");
    }
    if bytes[9] != tokenizer_id(tokenizer) {
        return Err(TrainingError::OtherTokenizer { name: name.into() });
    }
    let (held_out, count) = (number(10), number(18));
    let body = &bytes[HEADER_BYTES..];
    if count.checked_mul(2) != Some(body.len() as u64) || held_out > count || count < MIN_TOKENS as u64 {
        return refuse("its length is not the one its header states");
    }
    let tokens: Vec<u16> = body.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    if tokens.iter().any(|&token| u32::from(token) >= tokenizer.vocabulary()) {
        return refuse("it holds a token outside the vocabulary");
    }
    let dataset = Dataset { name: short_name(name), tokenizer, tokens, held_out: held_out as usize };
    if dataset.root().0 != bytes[26..HEADER_BYTES] {
        refuse("its root is not the one its header states")
    } else {
        Ok(dataset)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn data(tokens: usize) -> Dataset {
        let text: Vec<u8> = (0..tokens).map(|i| i as u8).collect();
        Dataset::from_text("count", &text, Tokenizer::Bytes).unwrap()
    }

    fn params(inner_steps: u32, batch: u32, sequence: u32) -> TrainingParams {
        TrainingParams { inner_steps, batch, sequence, ..ailo_protocol::presets::dev().training }
    }

    #[test]
    fn the_embedded_corpus_is_the_pinned_one() {
        let data = Dataset::embedded();
        assert_eq!(
            data,
            Dataset::from_text("embedded corpus", include_bytes!("../data/corpus.txt"), Tokenizer::Bytes).unwrap()
        );
        assert_eq!(data.root().to_string(), "36d1084a73c57ff11fe445c208a7787657c0e3f8a8b5fe33cdb44d940c9adc7c");
    }

    #[test]
    fn slots_train_on_disjoint_windows_of_the_training_part_while_the_data_suffices() {
        let (data, params) = (data(40_000), params(10, 5, 64));
        let train = data.tokens.len() - data.held_out;
        for seed in 0..20 {
            let mut seen = BTreeSet::new();
            for slot in 0..8 {
                let windows = data.windows(&params, &Hash([seed; 32]), slot, 8);
                assert_eq!(windows.len(), 50);
                for offset in windows {
                    assert!(offset + 64 < train, "seed {seed}: a window reaches into the held-out part");
                    assert!((offset..offset + 64).all(|token| seen.insert(token)), "seed {seed}: two windows overlap");
                }
            }
        }
    }

    #[test]
    fn a_round_that_needs_more_windows_than_there_are_starts_again() {
        let (data, params) = (data(2_000), params(10, 10, 100));
        let windows = data.windows(&params, &Hash::ZERO, 3, 4);
        assert_eq!(windows.len(), 100);
        assert!(windows.iter().collect::<BTreeSet<_>>().len() >= 16);
        assert!(data.windows(&self::params(1, 1, 1_900), &Hash::ZERO, 0, 1).is_empty());
    }

    #[test]
    fn windows_follow_from_the_seed_alone() {
        let (data, params) = (data(40_000), params(10, 5, 64));
        let windows = |seed, slot| data.windows(&params, &Hash([seed; 32]), slot, 4);
        assert_eq!(windows(1, 0), windows(1, 0));
        assert_ne!(windows(1, 0), windows(2, 0));
        assert_eq!(windows(1, 0)[..4], [5492, 31092, 29556, 3508], "pinned: all nodes of a network must draw the same");
    }

    #[test]
    fn held_out_windows_lie_in_the_held_out_part_and_all_of_them_cover_it() {
        let data = data(40_000);
        let (start, end) = (36_000, 40_000);
        let all = data.held_out_windows(64, None, u32::MAX);
        assert_eq!(all, (0..62).map(|i| start + i * 64).collect::<Vec<_>>());
        for seed in [None, Some(&Hash([1; 32])), Some(&Hash([2; 32]))] {
            let some = data.held_out_windows(64, seed, 10);
            assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), 10);
            assert!(some.iter().all(|&o| o >= start && o + 64 < end));
        }
        assert_ne!(
            data.held_out_windows(64, Some(&Hash([1; 32])), 10),
            data.held_out_windows(64, Some(&Hash([2; 32])), 10)
        );
        assert!(data.held_out_windows(5_000, None, 10).is_empty());
    }

    #[test]
    fn a_packed_file_holds_the_same_dataset_and_shows_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("count");
        let data = data(2_000);
        data.write_packed(&path).unwrap();
        assert_eq!(Dataset::open(&path, Tokenizer::Bytes).unwrap(), data);
        assert!(matches!(Dataset::open(&path, Tokenizer::Gpt2), Err(TrainingError::OtherTokenizer { .. })));

        let good = std::fs::read(&path).unwrap();
        for at in [8, 10, 18, 26, HEADER_BYTES, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Dataset::open(&path, Tokenizer::Bytes), Err(TrainingError::Packed { .. })), "byte {at}");
        }
        for len in 8..HEADER_BYTES + 3 {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(matches!(Dataset::open(&path, Tokenizer::Bytes), Err(TrainingError::Packed { .. })), "{len} bytes");
        }
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        let message = |tokenizer| Dataset::open(&path, tokenizer).unwrap_err().to_string();
        assert!(message(Tokenizer::Bytes).contains(path.to_str().unwrap()), "missing: {}", message(Tokenizer::Bytes));
        std::fs::write(&path, "").unwrap();
        assert!(message(Tokenizer::Bytes).contains("notes.txt has 0 tokens"), "empty: {}", message(Tokenizer::Bytes));
        std::fs::write(&path, [0xff; 5000]).unwrap();
        assert!(message(Tokenizer::Gpt2).contains("not UTF-8"), "binary: {}", message(Tokenizer::Gpt2));
    }
}

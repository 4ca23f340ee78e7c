//! Every fuzz target, driven by seeded changes of its valid examples: the same seeds each time, and a fresh one, which is
//! printed. `scripts/fuzz` drives the same targets with libFuzzer.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::{cli::RunOptions, rpc::params};
use ailo_protocol::{
    Hash,
    hash::Stream,
    keys,
    params::{ModelConfig, Style, Tokenizer},
};
use ailo_training::{Dataset, ModelState, codec};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::{
    alloc::System,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

#[path = "../fuzz/src/targets.rs"]
mod targets;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by whoever measures, since the allocator counts for the whole process.
static MEASURING: Mutex<()> = Mutex::new(());

/// Inputs for each target and seed.
const INPUTS: usize = 2000;

/// Targets of this test alone: the training crate links libtorch, which libFuzzer's build does without, and the config
/// file is the operator's own.
const HERE: &[targets::Target] = &[
    targets::Target { name: "dataset", run: dataset, seeds: dataset_seeds },
    targets::Target { name: "model", run: model, seeds: model_seeds },
    targets::Target { name: "config", run: config, seeds: config_seeds },
];

fn dataset(data: &[u8]) {
    let dir = targets::scratch();
    let (path, packed) = (dir.path().join("data"), dir.path().join("packed"));
    std::fs::write(&path, data).unwrap();
    let Ok(dataset) = Dataset::open(&path, Tokenizer::Bytes) else { return };
    dataset.write_packed(&packed).unwrap();
    let bytes = std::fs::read(&packed).unwrap();
    assert_eq!(Dataset::open(&packed, Tokenizer::Bytes).unwrap().root(), dataset.root());
    assert!(bytes == data || !data.starts_with(&bytes[..8]), "another packing of the same dataset was taken");
}

fn dataset_seeds() -> Vec<Vec<u8>> {
    let text = b"To be, or not to be. ".repeat(60);
    let (dir, dataset) = (targets::scratch(), Dataset::from_text("hamlet", &text, Tokenizer::Bytes).unwrap());
    dataset.write_packed(&dir.path().join("packed")).unwrap();
    vec![std::fs::read(dir.path().join("packed")).unwrap(), text]
}

const TINY: ModelConfig = ModelConfig {
    style: Style::Gpt2,
    tokenizer: Tokenizer::Bytes,
    layers: 1,
    width: 8,
    heads: 1,
    kv_heads: 1,
    ffn: 8,
    context: 8,
};

fn model(data: &[u8]) {
    if let Ok(state) = ModelState::from_bytes(&TINY, data) {
        assert!(state.to_bytes() == data, "another encoding of the same state was taken");
    }
}

fn model_seeds() -> Vec<Vec<u8>> {
    vec![ModelState::initial(&TINY, 1).to_bytes()]
}

fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = toml::from_str::<RunOptions>(text); // most are none
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../config/node.toml").to_vec()]
}

/// Says what was tried when a target panics.
struct Trying<'a> {
    target: &'a str,
    seed: Hash,
    data: &'a [u8],
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "target {} failed with seed {} on these bytes: {}",
                self.target,
                self.seed,
                hex::encode(self.data)
            );
        }
    }
}

fn try_on(target: &targets::Target, seed: Hash, data: &[u8]) {
    let trying = Trying { target: target.name, seed, data };
    targets::check(target, data, || ALLOCATOR.stats().bytes_allocated);
    drop(trying);
}

fn below(stream: &mut Stream, bound: usize) -> usize {
    stream.below(bound.max(1) as u64) as usize
}

/// One to four changes: bits, bytes, lengths that lie, pieces cut out, doubled, swapped in from another example.
fn change(mut data: Vec<u8>, other: &[u8], stream: &mut Stream) -> Vec<u8> {
    for _ in 0..=below(stream, 4) {
        let (at, kind) = (below(stream, data.len()), below(stream, 9));
        let end = at + below(stream, data.len().saturating_sub(at).min(64));
        match kind {
            _ if data.is_empty() => data.extend_from_slice(other),
            0 | 1 => data[at] ^= 1 << below(stream, 8),
            2 => data[at] = [0, 1, 0x7f, 0x80, 0xff][below(stream, 5)],
            3 => data.truncate(at),
            4 => drop(data.drain(at..end)),
            5 => drop(data.splice(at..at, (0..below(stream, 40)).map(|_| 0).collect::<Vec<u8>>())),
            6 => {
                let piece = data[at..end].to_vec();
                drop(data.splice(at..at, piece));
            }
            7 => {
                let from = below(stream, other.len());
                let piece = other[from..(from + 64).min(other.len())].to_vec();
                drop(data.splice(at..end, piece));
            }
            _ => {
                let lie = [u64::MAX, 1 << 40, 1 << 26, 1 << 16, 0][below(stream, 5)] >> below(stream, 8);
                let bytes = lie.to_le_bytes();
                let end = (at + 8).min(data.len());
                data[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    }
    data
}

#[test]
fn every_target_takes_whatever_comes() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = Hash(keys::random_bytes());
    println!("the fresh seed is {fresh}");
    for target in targets::ALL.iter().chain(HERE) {
        let (started, seeds) = (Instant::now(), (target.seeds)());
        assert!(!seeds.is_empty());
        for example in &seeds {
            try_on(target, Hash::ZERO, example);
        }
        try_on(target, Hash::ZERO, &[]);
        for seed in [Hash([1; 32]), Hash([2; 32]), fresh] {
            let mut stream = seed.stream();
            for _ in 0..INPUTS {
                let example = seeds[below(&mut stream, seeds.len())].clone();
                let other = &seeds[below(&mut stream, seeds.len())];
                try_on(target, seed, &change(example, other, &mut stream));
            }
        }
        println!("{:<12} {} inputs in {:?}", target.name, 3 * INPUTS + seeds.len() + 1, started.elapsed());
    }
}

#[test]
fn eight_bytes_that_claim_to_be_millions_make_room_for_few() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let claim = [(1u64 << 25).to_le_bytes().as_slice(), &[0; 8]].concat();
    let before = ALLOCATOR.stats().bytes_allocated;
    assert!(ailo_protocol::canonical::decode::<Vec<u8>>(&claim, 1 << 26).is_err());
    let used = ALLOCATOR.stats().bytes_allocated - before;
    assert!(used < 1 << 20, "{used} bytes");
}

#[test]
fn libfuzzer_knows_every_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in targets::ALL {
        let call = format!("ailo_fuzz::check({:?}, data)", target.name);
        let source = std::fs::read_to_string(fuzz.join("fuzz_targets").join(format!("{}.rs", target.name))).unwrap();
        assert!(source.contains(&call) && manifest.contains(&format!("name = {:?}", target.name)), "{}", target.name);
    }
}

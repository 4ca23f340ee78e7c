//! Benchmark of the index, run by `scripts/bench index`: builds it anew from a block log of many signed transfers, in a
//! process of its own, so that its memory is known. Beside it stand the time to read that log, to check the
//! signatures in it on all cores, and to execute its blocks without an index. The log is in the kernel's cache.

#[path = "common/chain.rs"]
#[allow(dead_code)] // each benchmark needs a part of it
mod chain;
#[path = "common/process.rs"]
#[allow(dead_code)] // the same
mod process;

use ailo_ledger::{
    Block, Transaction,
    disk::RealDisk,
    state::State,
    store::{BlockLog, IndexHead, Store},
};
use chain::{Chain, Outcome, Written};
use rayon::prelude::*;
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const WALLETS: usize = 1000;
const TRANSFERS_A_BLOCK: usize = 2000;
const BLOCK_GAP_MS: u64 = 600;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(1_000_000),
        ["--transactions", count] => run(count.parse()?),
        ["--open", dir] => open(Path::new(dir)),
        _ => Err("the only flag is --transactions N".into()),
    }
}

/// Builds the index of the log in `dir` and says what that took; the process does nothing else.
fn open(dir: &Path) -> Outcome<()> {
    let started = Instant::now();
    let (store, state) = Store::open(dir, &chain::genesis())?;
    println!("{} {}", started.elapsed().as_secs_f64(), process::memory(std::process::id())?);
    drop((store, state));
    Ok(())
}

fn run(transactions: usize) -> Outcome<()> {
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("index of {transactions} transfers; load average {}", load().trim());
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("blocks");
    let started = Instant::now();
    let genesis = chain::genesis();
    let blocks = transactions.div_ceil(TRANSFERS_A_BLOCK);
    let written = {
        let mut chain = Chain::new(&genesis, WALLETS, BLOCK_GAP_MS);
        chain::write_log(&log, &genesis, &mut chain, blocks, TRANSFERS_A_BLOCK)?
    };
    let Written { blocks, transfers, offsets } = written;
    let size = mb(size_of(&log)?);
    println!("  log of {blocks} blocks, {transfers} transfers, {size} MB, made in {:.0?}", started.elapsed());

    let output = Command::new(std::env::current_exe()?).arg("--open").arg(dir.path()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((seconds, memory)) = said.trim().split_once(' ').filter(|_| output.status.success()) else {
        return Err(format!("the index was not built: {}", String::from_utf8_lossy(&output.stderr)).into());
    };
    let whole = Duration::from_secs_f64(seconds.parse()?);
    let rate = transfers as f64 / whole.as_secs_f64();
    println!(
        "  index built in {whole:.1?}: {rate:.0} transfers a second; {} MB on disk",
        mb(size_of(&dir.path().join("index"))?)
    );
    println!("  memory: {memory}");

    let beside = |what: &str, time: Duration| {
        println!("  {what}: {time:.1?}, the index takes {:.1} times as long", whole.as_secs_f64() / time.as_secs_f64());
    };
    let started = Instant::now();
    let log = BlockLog::open(RealDisk::shared(), &log, genesis.id(), 1)?;
    beside("reading the log and its checksums", started.elapsed());
    beside("checking the signatures on all cores", check_signatures(&log, &offsets, &State::genesis(&genesis))?);
    let state = State::genesis(&genesis);
    let started = Instant::now();
    let state = log.execute_after(&IndexHead::before(&state), state, |_, _, _| Ok(()))?;
    beside("executing the blocks without an index", started.elapsed());
    println!("load average afterwards {}, height {}", load().trim(), state.height());
    Ok(())
}

/// The time that the signatures alone take.
fn check_signatures(log: &BlockLog, offsets: &[u64], state: &State) -> Outcome<Duration> {
    let mut time = Duration::ZERO;
    for (height, offset) in (1..).zip(offsets) {
        let (block, _) = log.encoded(height, *offset)?.ok_or("a block is missing")?;
        let transactions: Vec<Transaction> = Block::decode(&block)?.transactions;
        let started = Instant::now();
        transactions.par_iter().try_for_each(|transaction| transaction.verify(&state.network()))?;
        time += started.elapsed();
    }
    Ok(time)
}

fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

/// Bytes of the files in a folder.
fn size_of(folder: &Path) -> Outcome<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        size += if entry.file_type()?.is_dir() { size_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}

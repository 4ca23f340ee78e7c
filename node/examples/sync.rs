//! Benchmark of block sync, run by `scripts/bench sync`: a node whose data folder holds a long ledger, and a second one
//! with an empty folder that knows only the first. Timed is the second, from the start of its process until it stands
//! at the same height. Beside it stand the time to execute the same blocks here, and the time that the first node takes
//! from its start, in which it builds its index from the log.
//!
//! Both only follow: they hold no key of the validators that made the ledger, so it stays as long as it is.

#[path = "../../ledger/examples/common/chain.rs"]
#[allow(dead_code)] // each benchmark needs a part of it
mod chain;
#[path = "../../ledger/examples/common/process.rs"]
#[allow(dead_code)] // the same
mod process;

use ailo_ledger::{
    disk::RealDisk,
    state::State,
    store::{BlockLog, IndexHead},
};
use ailo_node::{client::Client, genesis};
use ailo_training::dataset::Dataset;
use chain::{Chain, Outcome};
use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const WALLETS: usize = 1000;
const TRANSFERS_A_BLOCK: usize = 10;
const BLOCK_GAP_MS: u64 = 50;
/// How often a node is asked for its height.
const LOOK: Duration = Duration::from_millis(50);
/// A node that does not get there within this time has failed.
const PATIENCE: Duration = Duration::from_secs(900);

/// A node process that ends with this value.
struct Node {
    process: Child,
    dir: PathBuf,
    started: Instant,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it has ended by itself
        let _ = self.process.wait();
    }
}

impl Node {
    fn start(dir: PathBuf, network: &Path, flags: &[&str]) -> Outcome<Node> {
        fs::create_dir_all(&dir)?;
        let process = Command::new(std::env::current_exe()?.with_file_name("../ailo-node"))
            .arg("run")
            .args(["--cpu", "--inference-only", "--http", "127.0.0.1:0", "--stop-on-eof"])
            .arg("--network")
            .arg(network)
            .arg("--data-dir")
            .arg(&dir)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("log"))?)
            .spawn()?;
        Ok(Node { process, dir, started: Instant::now() })
    }

    /// The time from the node's start until it stands at `height`.
    async fn reaches(&mut self, height: u64) -> Outcome<Duration> {
        loop {
            let at = match Client::in_folder(&self.dir) {
                Ok(client) => client.status().await.map_or(0, |status| status.height),
                Err(_) => 0,
            };
            if at >= height {
                return Ok(self.started.elapsed());
            }
            if self.started.elapsed() > PATIENCE || self.process.try_wait()?.is_some() {
                let log = fs::read_to_string(self.dir.join("log"))?;
                return Err(format!("the node stands at {at}, not at {height}; its log:\n{log}").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let blocks: usize = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 10_000,
        ["--blocks", count] => count.parse()?,
        _ => return Err("the only flag is --blocks N".into()),
    };
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("sync of {blocks} blocks of {TRANSFERS_A_BLOCK} transfers; load average {}", load().trim());
    let dir = tempfile::tempdir()?;
    let network = dir.path().join("network.toml");
    let mut genesis = genesis::found("bench", 1, chain::founders(), &Dataset::embedded(), chain::params())?;
    genesis.time_ms -= BLOCK_GAP_MS * (blocks as u64 + 100); // so that the last block is not of the future
    genesis::write(&network, &genesis)?;

    let first = dir.path().join("first");
    let ledger = first.join("ledger");
    fs::create_dir_all(&ledger)?;
    let started = Instant::now();
    let mut made = Chain::new(&genesis, WALLETS, BLOCK_GAP_MS);
    let written = chain::write_log(&ledger.join("blocks"), &genesis, &mut made, blocks, TRANSFERS_A_BLOCK)?;
    drop(made);
    let size = fs::metadata(ledger.join("blocks").join(format!("{:020}", 1)))?.len() / 1_000_000;
    println!("  log of {} blocks, {size} MB, made in {:.1?}", written.blocks, started.elapsed());

    let log = BlockLog::open(RealDisk::shared(), &ledger.join("blocks"), genesis.id(), 1)?;
    let state = State::genesis(&genesis);
    let started = Instant::now();
    let state = log.execute_after(&IndexHead::before(&state), state, |_, _, _| Ok(()))?;
    let execution = started.elapsed();
    let height = state.height();
    drop((log, state));
    println!("  executing them here: {execution:.1?}");

    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    let mut serving = Node::start(first, &network, &["--listen", &address])?;
    let indexed = serving.reaches(height).await?;
    println!("  the first node starts and builds its index: {indexed:.1?}");

    let flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", &address];
    let mut syncing = Node::start(dir.path().join("second"), &network, &flags)?;
    let synced = syncing.reaches(height).await?;
    println!(
        "  the second node stands at {height} after {synced:.1?}: {:.0} blocks a second, {:.1} times the execution here",
        height as f64 / synced.as_secs_f64(),
        synced.as_secs_f64() / execution.as_secs_f64()
    );
    println!("  memory of the first: {}", process::memory(serving.process.id())?);
    println!("  memory of the second: {}", process::memory(syncing.process.id())?);
    println!("load average afterwards {}", load().trim());
    Ok(())
}

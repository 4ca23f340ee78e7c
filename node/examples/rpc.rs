//! Benchmark of JSON-RPC, run by `scripts/bench rpc`: how long `ailo_status` takes on a real node that only follows, and on
//! one that trains at full load, beside a request to the same server that does nothing.
//!
//!     cargo build -p ailo-node && cargo run -p ailo-node --example rpc

use ailo_node::{client::Client, rpc::types::*};
use std::{
    error::Error,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Requests measured, one after another.
const REQUESTS: usize = 500;

/// A node process that ends with this value.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("rpc, one connection; load average {}", load().trim());
    measure("follows", &["--inference-only"], |s| s.height > 2).await?;
    measure("trains", &[], |s| s.value.round.step > 0).await?;
    println!("load average afterwards {}", load().trim());
    Ok(())
}

async fn measure(what: &str, flags: &[&str], ready: impl Fn(&At<Status>) -> bool) -> Outcome<()> {
    let program = std::env::current_exe()?.with_file_name("../ailo-node");
    let dir = tempfile::tempdir()?;
    let child = Command::new(program)
        .args(["run", "--network", "dev", "--validator", "--cpu", "--http", "127.0.0.1:0"])
        .args(flags)
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let _node = Node(child);
    let client = Client::new(address(&dir.path().join("rpc")).await?.trim())?;
    loop {
        let status: At<Status> = client.call("ailo_status", &[]).await?;
        if ready(&status) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut status = Vec::with_capacity(REQUESTS);
    let mut nothing = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        let _: At<Status> = client.call("ailo_status", &[]).await?;
        status.push(started.elapsed());
        let started = Instant::now();
        let unknown: Result<At<Status>, _> = client.call("ailo_nothing", &[]).await;
        nothing.push(started.elapsed());
        if unknown.is_ok() {
            return Err("an unknown method was answered".into());
        }
    }
    let ours = report(&format!("status while the node {what}"), &mut status);
    let limit = report("a request for nothing, in turn with it", &mut nothing);
    println!("  ratio {:.2}: of the time that a request for nothing takes", ours / limit);
    Ok(())
}

async fn address(file: &Path) -> Outcome<String> {
    let started = Instant::now();
    loop {
        match std::fs::read_to_string(file) {
            Ok(url) if !url.is_empty() => return Ok(url),
            _ if started.elapsed() > Duration::from_secs(60) => return Err("the node does not start".into()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Prints median, 99th percentile and worst time; returns the median in seconds.
fn report(what: &str, times: &mut [Duration]) -> f64 {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("  {what}: median {:.2?}, 99th percentile {:.2?}, worst {:.2?}", at(50), at(99), at(100));
    at(50).as_secs_f64()
}

//! Benchmark of the ledger, run by `scripts/bench ledger`, on a network of validators (`common/load.rs`).
//!
//! - *Idle*: one transfer at a time, from its submission until the node shows it in a final block, and CONFIRMED.
//! - *Load*: signed transfers between 1000 wallets at a fixed rate, handed in at all nodes; one counts when it is
//!   CONFIRMED. Every so many is timed until the node that got it shows it CONFIRMED.

#[path = "common/load.rs"]
mod load;
#[path = "../../ledger/examples/common/process.rs"]
#[allow(dead_code)] // each benchmark needs a part of it
mod process;

use ailo_protocol::{Address, Amount, Keypair};
use load::{Network, Outcome, transfer};
use std::time::{Duration, Instant};

const PROBES: usize = 100;

/// Seconds until a transfer is FINAL and leaves the state: so a load of minutes reaches a steady state.
const FINAL_S: u64 = 10;

struct Args {
    seconds: u64,
    rate: u64,
    nodes: u32,
    confirmations: u32,
    final_s: u64,
}

fn args() -> Outcome<Args> {
    let mut args = Args { seconds: 30, rate: 3500, nodes: 4, confirmations: 2, final_s: FINAL_S };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or("each flag takes a number")?.parse()?;
        match flag.as_str() {
            "--seconds" => args.seconds = value,
            "--rate" => args.rate = value,
            "--nodes" => args.nodes = value as u32,
            "--confirmations" => args.confirmations = value as u32,
            "--final" => args.final_s = value,
            other => return Err(format!("{other} is no flag of this benchmark").into()),
        }
    }
    Ok(args)
}

fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(args()?))
}

async fn run(args: Args) -> Outcome<()> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("ledger, {} validators, {} confirmations; load average {}", args.nodes, args.confirmations, load().trim());
    let mut network = load::found(args.nodes, args.confirmations, args.final_s).await?;
    idle(&network).await?;
    under_load(&args, &network).await?;
    for i in 0..network.net.nodes.len() {
        let pid = network.net.pid(i).ok_or("a validator has stopped")?;
        println!("  memory of validator {i}: {}", process::memory(pid)?);
    }
    println!("load average afterwards {}", load().trim());
    network.net.stop_all().await?;
    Ok(())
}

/// One transfer at a time on an idle network.
async fn idle(network: &Network) -> Outcome<()> {
    let (clients, wallet) = (&network.clients, &network.prober);
    let first = clients[0].account(&Address::from(wallet.public())).await?.value.nonce;
    let (mut in_block, mut confirmed) = (Vec::new(), Vec::new());
    for i in 0..PROBES {
        let to = Address::from(Keypair::generate().public());
        let probe = transfer(&network.id, wallet, first + i as u64, to, Amount(1));
        let client = &clients[i % clients.len()];
        let started = Instant::now();
        let id = client.submit(&probe).await?;
        let mut seen = false;
        loop {
            let view = client.transaction(&id).await?.value;
            if view.block_height.is_some() && !seen {
                in_block.push(started.elapsed());
                seen = true;
            }
            if view.status == "confirmed" {
                confirmed.push(started.elapsed());
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    report("idle, submitted to final block", &mut in_block);
    report("idle, submitted to CONFIRMED", &mut confirmed);
    Ok(())
}

async fn under_load(args: &Args, network: &Network) -> Outcome<()> {
    let mut load = network.load(args.rate, Duration::from_secs(args.seconds)).await?;
    let seconds = load.time.as_secs_f64();
    println!(
        "  load: {} transfers CONFIRMED in {seconds:.1} s: {:.0} a second ({} a second offered, {} refused and sent again)",
        load.confirmed,
        load.confirmed as f64 / seconds,
        args.rate,
        load.refused
    );
    report("load, submitted to CONFIRMED", &mut load.samples);
    Ok(())
}

/// Prints median, 99th percentile and worst time.
fn report(what: &str, times: &mut [Duration]) {
    if times.is_empty() {
        return println!("  {what}: no samples");
    }
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "  {what}: median {:.2?}, 99th percentile {:.2?}, worst {:.2?} of {}",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}

//! Benchmark of what the ledger costs, run by `scripts/bench curve`; draws `docs/images/ledger-cost.svg`.
//!
//! - *Nodes*: processor time a transfer, of all processes together, in networks of 1 to 14 validators at one rate. A
//!   transfer is confirmed by as many nodes as there are others, ten at most.
//! - *Accounts*: processor time a transfer of executing blocks, in one process, on states of 10 to 1 000 000 accounts;
//!   and the same once the signatures are known to be good, as they are when a block's transactions came before it.

#[path = "../../ledger/examples/common/chain.rs"]
#[allow(dead_code)] // each benchmark needs a part of it
mod chain;
#[path = "common/load.rs"]
#[allow(dead_code)] // the same
mod load;
#[path = "../../ledger/examples/common/process.rs"]
#[allow(dead_code)] // the same
mod process;

use ailo_ledger::{Block, state::execute_block};
use ailo_node::chart::{self, Chart, Scale, Series};
use load::Outcome;
use std::time::Duration;

const NODES: [u32; 6] = [1, 2, 4, 7, 10, 14];
/// Transfers a second, unless `--rate` says otherwise: so few that fourteen nodes on two cores have time left. In arrears
/// they would make fewer and larger blocks, and a transfer would cost less.
const RATE: u64 = 25;
const TIME: Duration = Duration::from_secs(20);
const ACCOUNTS: [usize; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];
const BLOCKS: usize = 20;
const TRANSFERS_A_BLOCK: usize = 2000;
const BLOCK_GAP_MS: u64 = 100;
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/ledger-cost.svg");

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rate: u64 = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => RATE,
        ["--rate", rate] => rate.parse()?,
        _ => return Err("the only flag is --rate TRANSFERS_A_SECOND".into()),
    };
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("cost of a transfer; load average {}", load().trim());
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for accounts in ACCOUNTS {
        let [unknown, known] = execution(accounts)?;
        println!("  {accounts} accounts: {unknown:.0} us a transfer, {known:.0} us with known signatures");
        first.push((accounts as f64, unknown));
        again.push((accounts as f64, known));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut together, mut each) = (Vec::new(), Vec::new());
    for nodes in NODES {
        let cost = runtime.block_on(network(nodes, rate))?;
        println!("  {nodes} nodes: {cost:.1} ms a transfer, {:.1} ms each", cost / f64::from(nodes));
        together.push((f64::from(nodes), cost));
        each.push((f64::from(nodes), cost / f64::from(nodes)));
    }
    let line = |name: &str, points| Series { name: name.into(), points };
    let (networks, states) = (
        [line("all nodes together", together), line("each node", each)],
        [line("signatures checked", first), line("signatures known", again)],
    );
    let picture = chart::stack(&[
        Chart {
            title: "A transfer in networks of 1 to 14 nodes",
            x_label: "validators, each a process",
            y_label: "processor time, ms a transfer",
            caption: &format!(
                "scripts/bench curve: {rate} transfers a second for {} s, each confirmed by all other nodes, ten at most",
                TIME.as_secs()
            ),
            scale: Scale::Linear,
            from_zero: true,
            series: &networks,
        },
        Chart {
            title: "A transfer on states of 10 to 1 000 000 accounts",
            x_label: "accounts",
            y_label: "processor time, µs a transfer",
            caption: &format!(
                "scripts/bench curve: executing {BLOCKS} blocks of {TRANSFERS_A_BLOCK} transfers and their attestations in one process"
            ),
            scale: Scale::Logarithmic,
            from_zero: true,
            series: &states,
        },
    ]);
    std::fs::write(PICTURE, picture)?;
    println!("drawn in docs/images/ledger-cost.svg; load average afterwards {}", load().trim());
    Ok(())
}

/// Microseconds of processor time a transfer on a state of so many accounts: signatures unknown, and known.
fn execution(accounts: usize) -> Outcome<[f64; 2]> {
    let genesis = chain::genesis();
    let mut made = chain::Chain::endowed(&genesis, accounts, BLOCK_GAP_MS)?;
    let mut state = made.state.clone();
    let mut blocks: Vec<Block> = Vec::with_capacity(BLOCKS);
    for _ in 0..BLOCKS {
        let transfers = made.transfers(TRANSFERS_A_BLOCK);
        blocks.push(made.block(transfers)?.0);
    }
    drop(made);
    let mut spent = [Duration::ZERO; 2];
    for block in &blocks {
        let mut next = None;
        for time in &mut spent {
            let before = process::processor_time(std::process::id())?;
            next = Some(execute_block(&state, block)?.state);
            *time += process::processor_time(std::process::id())?.saturating_sub(before);
        }
        state = next.ok_or("a block was executed")?;
    }
    Ok(spent.map(|time| time.as_secs_f64() * 1e6 / (BLOCKS * TRANSFERS_A_BLOCK) as f64))
}

/// Milliseconds of processor time a transfer, of all processes of a network together.
async fn network(nodes: u32, rate: u64) -> Outcome<f64> {
    let mut network = load::found(nodes, (nodes - 1).min(10), 60).await?;
    let pids: Vec<u32> = (0..network.net.nodes.len()).filter_map(|i| network.net.pid(i)).collect();
    let spent = || pids.iter().map(|pid| process::processor_time(*pid)).sum::<std::io::Result<Duration>>();
    let before = spent()?;
    let load = network.load(rate, TIME).await?;
    let spent = spent()?.saturating_sub(before);
    network.net.stop_all().await?;
    Ok(spent.as_secs_f64() * 1e3 / load.confirmed as f64)
}

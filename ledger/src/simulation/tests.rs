//! Focused worlds, a fixed set of seeds and fresh ones. A failure prints the command that shows it again.

#![allow(clippy::unwrap_used)]
use super::*;

fn options() -> Options {
    Options { validators: 4, byzantine: None, plant: None }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

#[test]
#[ignore]
fn probe() {
    let byzantine = std::env::var("PROBE_BYZ").ok().map(|n| n.parse().unwrap());
    let plant = std::env::var("PROBE_PLANT").ok().map(|n| n.parse().unwrap());
    let options = Options { validators: env("PROBE_V", 4) as usize, byzantine, plant };
    let summary = sweep(env("PROBE_FROM", 0), env("PROBE_N", 100), 2, &options, |_| {});
    println!("{} seeds in {:?}: {}/s, heights {}, transfers {}, {:?}, sigs {}/{}, reported {}/{}", summary.seeds, summary.took,
       summary.seeds as f64/summary.took.as_secs_f64(), summary.heights, summary.transfers, summary.faults, summary.verified, summary.remembered, summary.reported_seeds, summary.byzantine_seeds);
    if let Some(f) = summary.failure { println!("FAILED {f:?}") }
}

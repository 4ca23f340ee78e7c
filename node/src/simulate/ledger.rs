//! `simulate ledger`: many seeds of the ledger's simulation, and what they showed.

use crate::{cli::SimulateLedgerArgs, error::NodeError};
use ailo_ledger::{
    invariants::Invariant,
    plants::{self, Plant},
    simulation::{self, FAULTS, HEIGHTS, Kind, Options, Outcome, Summary, TRANSFERS},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// Seeds between two lines of progress.
const PROGRESS: u64 = 500;

/// Runs the command; fails when a claim is broken.
pub fn command(args: &SimulateLedgerArgs) -> Result<(), NodeError> {
    if args.plant.is_some() && !plants::BUILT {
        let how = "--plant: this build has no faults to plant; build one with --features plants";
        return Err(NodeError::Usage(how.into()));
    }
    if args.byzantine.is_some_and(|byzantine| byzantine > args.validators) {
        return Err(NodeError::Usage("--byzantine: there are not so many validators".into()));
    }
    let options = Options {
        validators: args.validators as usize,
        byzantine: args.byzantine.map(|byzantine| byzantine as usize),
        plant: args.plant,
    };
    let threads = match args.threads {
        Some(threads) => threads as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    describe(args, &options, threads);
    let done = AtomicU64::new(0);
    let summary = quietly(|| {
        simulation::sweep(args.from, args.seeds, threads, &options, |_| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(PROGRESS) && done < args.seeds {
                eprintln!("{done} of {} seeds", args.seeds);
            }
        })
    });
    report(args, &options, &summary)
}

/// Lists the faults that can be planted.
pub fn plants() {
    Plant::ALL.iter().for_each(|plant| println!("{}", plant.name()));
}

fn describe(args: &SimulateLedgerArgs, options: &Options, threads: usize) {
    let byzantine = match options.byzantine {
        Some(byzantine) => format!("{byzantine} byzantine"),
        None => format!("{} byzantine in a third of the seeds", simulation::tolerated(options.validators)),
    };
    let plant = options.plant.map(|plant| format!(", planted: {} ({})", plant.name(), plant.fault()));
    println!(
        "seeds {}..{} of {} validators, {byzantine}, on {threads} threads{}",
        args.from,
        args.from.saturating_add(args.seeds),
        options.validators,
        plant.unwrap_or_default()
    );
    println!("a seed is at least {HEIGHTS} heights, {TRANSFERS} transfers and {FAULTS} faults; then all must go on");
}

fn report(args: &SimulateLedgerArgs, options: &Options, summary: &Summary) -> Result<(), NodeError> {
    let seconds = summary.took.as_secs_f64();
    println!("seeds        {} in {seconds:.1} s, {:.1} a second", summary.seeds, summary.seeds as f64 / seconds);
    println!("heights      {}", summary.heights);
    println!("transfers    {}", summary.transfers);
    println!("rounds       {} of training closed", summary.rounds);
    println!("faults       {}", count(&summary.faults));
    println!("ends         {} processes killed, {} power losses", summary.ends[0], summary.ends[1]);
    println!("ledger       {}", happened(&summary.happened));
    println!("events       {}", summary.events);
    if summary.byzantine_seeds > 0 {
        println!("equivocation reported in {} of {} byzantine seeds", summary.reported_seeds, summary.byzantine_seeds);
    }
    println!(
        "signatures   all real: {} verified, {} asked again of what was verified in the same seed",
        summary.verified, summary.remembered
    );
    let one = if summary.seeds == 1 { summary.last.as_ref() } else { None };
    if let Some(outcome) = one {
        println!("trace        {} (seed {}, {} ms of virtual time)", outcome.trace, outcome.seed, outcome.virtual_ms);
    } else {
        println!("traces       {}", summary.traces);
    }
    match &summary.failure {
        None => {
            println!("invariants   all of them held:");
            Invariant::ALL.iter().for_each(|invariant| println!("  {invariant}"));
            Ok(())
        }
        Some(failure) => Err(NodeError::Check(broken(args, options, failure))),
    }
}

/// What a failing seed showed, and the command that shows it again.
fn broken(args: &SimulateLedgerArgs, options: &Options, failure: &Outcome) -> String {
    let violation = failure.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    let byzantine = options.byzantine.map(|byzantine| format!(" --byzantine {byzantine}")).unwrap_or_default();
    let plant = options.plant.map(|plant| format!(" --plant {}", plant.name())).unwrap_or_default();
    format!(
        "seed {} (trace {}): {violation}\nagain: ailo-node simulate ledger --from {} --seeds 1 --validators {}{byzantine}{plant}",
        failure.seed, failure.trace, failure.seed, args.validators
    )
}

fn count(faults: &BTreeMap<Kind, u64>) -> String {
    let total: u64 = faults.values().sum();
    let kinds: Vec<String> = faults.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    format!("{total}: {}", kinds.join(", "))
}

fn happened(happened: &BTreeMap<&'static str, u64>) -> String {
    let each: Vec<String> = happened.iter().map(|(name, count)| format!("{count} {name}")).collect();
    each.join(", ")
}

/// Without log lines and messages of panics: what simulated nodes say of the faults they suffer is no news.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = work();
    std::panic::set_hook(hook);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(seeds: u64) -> SimulateLedgerArgs {
        SimulateLedgerArgs { seeds, from: 0, validators: 4, byzantine: None, plant: None, threads: Some(1) }
    }

    #[test]
    fn a_seed_is_run_and_a_network_of_colluding_validators_fails_the_command() {
        command(&args(1)).expect("all claims hold");
        let error = command(&SimulateLedgerArgs { byzantine: Some(2), ..args(3) }).expect_err("a fork");
        assert!(error.to_string().contains("I1"), "{error}");
        assert!(command(&SimulateLedgerArgs { byzantine: Some(5), ..args(1) }).is_err());
    }

    #[test]
    fn a_build_without_the_faults_says_so() {
        let outcome = command(&SimulateLedgerArgs { plant: Some(Plant::DoubleSpend), ..args(1) });
        let error = outcome.expect_err("found, or not built in").to_string();
        assert!(error.contains(if plants::BUILT { "I2" } else { "no faults to plant" }), "{error}");
    }
}

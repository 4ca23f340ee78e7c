//! `simulate ledger`: many seeds of the ledger's simulation, and what they showed.

use crate::{cli::SimulateLedgerArgs, error::NodeError, output, progress::Progress};
use ailo_ledger::{
    invariants::Invariant,
    plants::{self, Plant},
    simulation::{self, FAULTS, HEIGHTS, Kind, Options, Outcome, Summary, TRANSFERS},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

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
    output::piece(&describe(args, &options, threads))?;
    let (done, progress) = (AtomicU64::new(0), Mutex::new(Progress::count("seeds", args.seeds)));
    let summary = quietly(|| {
        simulation::sweep(args.from, args.seeds, threads, &options, |_| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut progress) = progress.lock() {
                progress.set(done);
            }
        })
    });
    drop(progress);
    report(args, &options, &summary)
}

/// Lists the faults that can be planted.
pub fn plants() -> Result<(), NodeError> {
    let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
    output::say(&json!({ "plants": names }), names.join("\n"))
}

fn describe(args: &SimulateLedgerArgs, options: &Options, threads: usize) -> String {
    let byzantine = match options.byzantine {
        Some(byzantine) => format!("{byzantine} byzantine"),
        None => format!("{} byzantine in a third of the seeds", simulation::tolerated(options.validators)),
    };
    let plant = options.plant.map(|plant| format!(", planted: {} ({})", plant.name(), plant.fault()));
    format!(
        "seeds {}..{} of {} validators, {byzantine}, on {threads} threads{}\n\
         a seed is at least {HEIGHTS} heights, {TRANSFERS} transfers and {FAULTS} faults; then all must go on\n",
        args.from,
        args.from.saturating_add(args.seeds),
        options.validators,
        plant.unwrap_or_default()
    )
}

fn report(args: &SimulateLedgerArgs, options: &Options, summary: &Summary) -> Result<(), NodeError> {
    let faults: BTreeMap<&str, u64> = summary.faults.iter().map(|(kind, count)| (kind.name(), *count)).collect();
    let said = json!({
        "seeds": summary.seeds, "seconds": summary.took.as_secs_f64(), "heights": summary.heights,
        "transfers": summary.transfers, "rounds": summary.rounds, "faults": faults, "killed": summary.ends[0],
        "power_losses": summary.ends[1], "ledger": summary.happened, "events": summary.events,
        "byzantine_seeds": summary.byzantine_seeds, "reported_seeds": summary.reported_seeds,
        "verified": summary.verified, "remembered": summary.remembered, "traces": summary.traces.to_string(),
        "broken": summary.failure.as_ref().map(|failure| failure.seed),
    });
    output::show(&said, |out| describe_summary(out, summary))?;
    match &summary.failure {
        None => Ok(()),
        Some(failure) => Err(NodeError::Check(broken(args, options, failure))),
    }
}

fn describe_summary(out: &mut String, summary: &Summary) -> fmt::Result {
    let seconds = summary.took.as_secs_f64();
    writeln!(out, "seeds        {} in {seconds:.1} s, {:.1} a second", summary.seeds, summary.seeds as f64 / seconds)?;
    writeln!(out, "heights      {}", summary.heights)?;
    writeln!(out, "transfers    {}", summary.transfers)?;
    writeln!(out, "rounds       {} of training closed", summary.rounds)?;
    writeln!(out, "faults       {}", count(&summary.faults))?;
    writeln!(out, "ends         {} processes killed, {} power losses", summary.ends[0], summary.ends[1])?;
    writeln!(out, "ledger       {}", happened(&summary.happened))?;
    writeln!(out, "events       {}", summary.events)?;
    if summary.byzantine_seeds > 0 {
        writeln!(
            out,
            "equivocation reported in {} of {} byzantine seeds",
            summary.reported_seeds, summary.byzantine_seeds
        )?;
    }
    writeln!(
        out,
        "signatures   all real: {} verified, {} asked again of what was verified in the same seed",
        summary.verified, summary.remembered
    )?;
    let one = if summary.seeds == 1 { summary.last.as_ref() } else { None };
    if let Some(outcome) = one {
        writeln!(
            out,
            "trace        {} (seed {}, {} ms of virtual time)",
            outcome.trace, outcome.seed, outcome.virtual_ms
        )?;
    } else {
        writeln!(out, "traces       {}", summary.traces)?;
    }
    if summary.failure.is_some() {
        return Ok(());
    }
    writeln!(out, "invariants   all of them held:")?;
    Invariant::ALL.iter().try_for_each(|invariant| writeln!(out, "  {invariant}"))
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

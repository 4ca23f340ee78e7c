//! `simulate training`: training with attackers among the nodes, rule by rule and attack by attack, each beside the honest nodes
//! alone. What has been run lies in a table of JSON lines, so that a long table goes on where it stopped.

use super::roc::{MEMORY, Scores};
use crate::{
    chart::{Chart, Scale, Series},
    cli::{AttackChoice, SimulateTrainingArgs},
    error::NodeError,
    genesis, output,
    progress::Progress,
};
use ailo_protocol::{
    Hash,
    aggregation::{Aggregation, Rule},
    hash::Domain,
    params::Params,
    presets,
};
use ailo_training::{
    Dataset, Device,
    model::parameter_count,
    round::Rules,
    set_threads,
    simulation::{self, Attack, Options, Round, Score},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Write as _},
    fs,
    io::Write as _,
    path::Path,
    time::Instant,
};

/// The development network's parameters are changed so, to have many runs in a short time.
const SMALL: [&str; 9] = [
    "model.width=64",
    "model.heads=4",
    "model.kv_heads=4",
    "model.ffn=256",
    "training.batch=64",
    "training.lr=0.01",
    "training.warmup_steps=150",
    "training.outer_momentum=0.5",
    "training.eval_sequences=256",
];

/// One run and what came of it: a line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    /// Hash of all that decides the run.
    id: Hash,
    nodes: u32,
    byzantine: u32,
    f: usize,
    attack: String,
    rule: String,
    codec: String,
    skew: Option<f64>,
    steps: u32,
    seed: u64,
    /// Held-out loss after each round, in nats a token.
    curve: Vec<f64>,
    /// Over all held-out text at the end; none if the run broke down.
    loss: Option<f64>,
    /// What ended it early.
    ended: Option<String>,
    /// Bytes of a round's updates, on average.
    bytes: u64,
    /// Updates of attackers that were refused or did not come, in all.
    refused: u64,
    /// The least f that the rule withstood in a round, as updates were refused or did not come.
    least_f: usize,
    /// Mean of [`Round::astray`].
    astray: f64,
    /// Losses of single updates by round, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scores: Vec<Vec<Option<Score>>>,
    /// Root of the last state.
    root: Option<Hash>,
    seconds: f64,
}

/// A run that is asked for.
struct Plan {
    aggregation: Aggregation,
    options: Options,
}

/// Runs the command.
pub fn command(args: &SimulateTrainingArgs) -> Result<(), NodeError> {
    let params = parameters(args)?;
    let data = genesis::open_data(&args.data, &params.model)?;
    set_threads(1);
    output::piece(&format!(
        "{} parameters, {}: {} rounds of {} steps of {} x {} tokens, codec {}\n",
        parameter_count(&params.model),
        data.name,
        args.rounds,
        params.training.inner_steps,
        params.training.batch,
        params.training.sequence,
        name(&params.training.codec),
    ))?;
    let mut known = read_table(args.table.as_deref())?;
    // Rows of another build may be of other rules.
    let program = match args.table {
        Some(_) => {
            let bytes =
                std::env::current_exe().and_then(fs::read).map_err(|e| NodeError::io("read this program", e))?;
            Hash::of(Domain::Training, &bytes)
        }
        None => Hash::ZERO,
    };
    let mut rows: Vec<Row> = Vec::new();
    let plans = plans(args, &params)?;
    let mut progress = Progress::count("runs", plans.len() as u64);
    for (done, plan) in (0..).zip(plans) {
        progress.set(done);
        let mut training = params.training;
        training.aggregation = plan.aggregation;
        let id = Hash::of_value(
            Domain::Training,
            &(program, training, params.model, data.root(), format!("{:?}", Options { threads: 0, ..plan.options })),
        );
        let row = match known.iter().position(|row| row.id == id) {
            Some(at) => known.swap_remove(at),
            None if rows.iter().any(|row| row.id == id) => continue,
            None => {
                let rules = Rules { model: &params.model, training: &training, data: &data, device: Device::Cpu };
                let row = run(args, &rules, &plan, id)?;
                append(args.table.as_deref(), &row)?;
                row
            }
        };
        if rows.iter().all(|old| old.id != row.id) {
            progress.beside(|| report(&row, &rows))?;
            rows.push(row);
        }
    }
    if let Some(path) = &args.roc {
        draw_roc(args, path, &rows)?;
    }
    match &args.plot {
        Some(path) => draw(args, path, &params, &data, &rows),
        None => Ok(()),
    }
}

fn parameters(args: &SimulateTrainingArgs) -> Result<Params, NodeError> {
    let usage = |e: &dyn fmt::Display| NodeError::Usage(e.to_string());
    if args.byzantine >= args.nodes {
        return Err(NodeError::Usage("--byzantine: somebody must be honest".into()));
    }
    let own = [
        format!("training.inner_steps={}", args.steps),
        format!("training.lr_rounds={}", args.rounds.max(1)),
        format!("training.codec={}", name(&args.codec)),
    ];
    let settings: Vec<String> = SMALL.iter().map(|s| (*s).into()).chain(own).chain(args.set.iter().cloned()).collect();
    presets::change(&presets::dev(), &settings).map_err(|e| usage(&format!("--set: {e}")))
}

/// First the honest nodes alone with a plain mean, then each rule without an attack, then the attacks.
fn plans(args: &SimulateTrainingArgs, params: &Params) -> Result<Vec<Plan>, NodeError> {
    let f = args.f.map_or_else(|| args.byzantine.max((args.nodes - 1) / 3) as usize, |f| f as usize);
    if args.nodes as usize <= 2 * f {
        return Err(NodeError::Usage(format!("--f {f}: more than {} nodes are needed to withstand so many", 2 * f)));
    }
    let options = Options {
        nodes: args.nodes,
        byzantine: args.byzantine,
        attack: Attack::Withhold,
        f,
        skew: args.skew,
        rounds: args.rounds,
        seed: args.seed,
        scores: args.roc.is_some(),
        threads: args
            .threads
            .map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |n| n as usize),
    };
    let plain = Plan { aggregation: Aggregation::DEFAULT, options: Options { f: 0, ..options } };
    let mut plans = if args.alone { Vec::new() } else { vec![plain] };
    let mut attacks: Vec<Attack> = Vec::new();
    for choice in &args.attack {
        match choice {
            AttackChoice::All => attacks.extend(Attack::ALL.iter().map(|(attack, _)| *attack)),
            AttackChoice::One(attack) => attacks.push(*attack),
        }
    }
    attacks.retain(|attack| *attack != Attack::Withhold || args.alone);
    if args.byzantine == 0 {
        attacks.clear();
    }
    for rule in &args.rule {
        let aggregation = Aggregation {
            rule: *rule,
            pre: args.pre,
            weighted: args.weighted,
            restore_length: args.restore_length,
            ..params.training.aggregation
        };
        let without = (!args.alone || args.byzantine == 0).then_some(Attack::Withhold);
        let attacks = without.into_iter().chain(attacks.iter().copied());
        plans.extend(attacks.map(|attack| Plan { aggregation, options: Options { attack, ..options } }));
    }
    Ok(plans)
}

fn run(args: &SimulateTrainingArgs, rules: &Rules<'_>, plan: &Plan, id: Hash) -> Result<Row, NodeError> {
    let (started, options) = (Instant::now(), &plan.options);
    let mut rounds: Vec<Round> = Vec::new();
    let outcome = simulation::run(rules, options, |round| {
        rounds.push(round.clone());
        if args.verbose {
            eprintln!(
                "  round {:3}: {:.4} nats, {} bytes, {} refused, updates {:.3} long, {:.3} astray",
                round.number, round.loss, round.bytes, round.refused, round.norm, round.astray
            );
        }
    });
    let count = rounds.len().max(1) as u64;
    Ok(Row {
        id,
        nodes: options.nodes,
        byzantine: options.byzantine,
        f: options.f,
        attack: options.attack.name().into(),
        rule: rule_name(&plan.aggregation, options.f),
        codec: name(&rules.training.codec),
        skew: options.skew,
        steps: rules.training.inner_steps,
        seed: options.seed,
        curve: rounds.iter().map(|round| round.loss).collect(),
        loss: outcome.as_ref().ok().map(|outcome| outcome.loss),
        ended: outcome.as_ref().err().map(ToString::to_string),
        bytes: rounds.iter().map(|round| round.bytes).sum::<u64>() / count,
        refused: rounds.iter().map(|round| u64::from(round.refused)).sum(),
        least_f: rounds.iter().map(|round| round.f).min().unwrap_or(options.f),
        astray: rounds.iter().map(|round| round.astray).sum::<f64>() / count as f64,
        scores: rounds.into_iter().map(|round| round.scores).filter(|scores| !scores.is_empty()).collect(),
        root: outcome.ok().map(|outcome| outcome.root),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A line for the row, beside the runs without attack that came before it.
fn report(row: &Row, before: &[Row]) -> Result<(), NodeError> {
    output::show(row, |out| line(out, row, before))
}

fn line(out: &mut String, row: &Row, before: &[Row]) -> fmt::Result {
    if before.is_empty() {
        writeln!(
            out,
            "{:<48} {:<11} {:>7} {:>9} {:>9} {:>11} {:>7} {:>7} {:>5}",
            "rule", "attack", "loss", "to plain", "to quiet", "bytes/round", "refused", "astray", "s"
        )?;
    }
    let quiet = |row: &Row| row.attack == Attack::Withhold.name();
    let plain = before.iter().find(|old| quiet(old) && old.f == 0);
    let alone = before.iter().find(|old| quiet(old) && old.rule == row.rule && old.f == row.f);
    let more = |other: Option<&Row>| match (row.loss, other.and_then(|other| other.loss)) {
        (Some(loss), Some(other)) => format!("{:+.2} %", 100.0 * (loss / other - 1.0)),
        _ => "-".into(),
    };
    let f = if row.least_f < row.f { format!("{}..{}", row.least_f, row.f) } else { row.f.to_string() };
    writeln!(
        out,
        "{:<48} {:<11} {:>7} {:>9} {:>9} {:>11} {:>7} {:>7.2} {:>5.0}{}{}",
        format!("{}, f = {f}", row.rule),
        if quiet(row) { "none" } else { &row.attack },
        row.loss.map_or("broke".into(), |loss| format!("{loss:.4}")),
        more(plain),
        more(alone),
        row.bytes,
        row.refused,
        row.astray,
        row.seconds,
        found(row),
        row.ended.as_ref().map_or(String::new(), |why| format!("  {why}")),
    )
}

/// What validators' measurements alone say of the attackers.
fn found(row: &Row) -> String {
    let line = |what: &str, of: fn(&Score) -> f64| {
        let (one, some) = (scores(row, 1, of), scores(row, MEMORY, of));
        format!(
            "  {what}: area {:.3}, over {MEMORY} rounds {:.3}, where {:.0} % are found at 0.1 % of the honest",
            one.area(),
            some.area(),
            100.0 * some.found_at(0.001)
        )
    };
    if scores(row, 1, BY_LOSS).attackers.is_empty() {
        return String::new();
    }
    let honest = (row.nodes - row.byzantine) as usize;
    let alike = |is_honest: bool| {
        let nodes = row.scores.iter().flat_map(|round| round.iter().enumerate());
        let all: Vec<&Score> =
            nodes.filter(|(i, _)| (*i < honest) == is_honest).filter_map(|(_, score)| score.as_ref()).collect();
        100.0 * all.iter().filter(|score| score.alike).count() as f64 / all.len().max(1) as f64
    };
    format!(
        "{}{}  alike: {:.0} % of the attackers', {:.0} % of the honest",
        line("losses", BY_LOSS),
        line("own data", BY_OWN),
        alike(false),
        alike(true)
    )
}

/// Measures of which more is worse.
const BY_LOSS: fn(&Score) -> f64 = |score| score.loss as f64;
const BY_OWN: fn(&Score) -> f64 = |score| -(score.own as f64);

fn scores(row: &Row, memory: usize, of: fn(&Score) -> f64) -> Scores {
    let round = |round: &Vec<Option<Score>>| round.iter().map(|score| score.as_ref().map(of)).collect();
    Scores::of(&row.scores.iter().map(round).collect::<Vec<_>>(), (row.nodes - row.byzantine) as usize, memory)
}

fn draw_roc(args: &SimulateTrainingArgs, path: &Path, rows: &[Row]) -> Result<(), NodeError> {
    let by_loss = |row: &Row| scores(row, MEMORY, BY_LOSS);
    let with = rows.iter().filter(|row| !by_loss(row).attackers.is_empty());
    let series: Vec<Series> =
        with.map(|row| Series { name: row.attack.clone(), points: by_loss(row).curve() }).collect();
    let caption = format!(
        "{} of {} nodes attack; a score is a loss less the round's median, in median distances, averaged over {MEMORY} rounds",
        args.byzantine, args.nodes
    );
    let chart = Chart {
        title: "What losses tell of attackers",
        x_label: "share of honest contributions above the threshold",
        y_label: "share of attackers' above it",
        caption: &caption,
        scale: Scale::Linear,
        from_zero: true,
        series: &series,
    };
    fs::write(path, chart.svg()).map_err(|e| NodeError::file("write", path, e))
}

fn draw(
    args: &SimulateTrainingArgs,
    path: &Path,
    params: &Params,
    data: &Dataset,
    rows: &[Row],
) -> Result<(), NodeError> {
    let series: Vec<Series> = rows
        .iter()
        .map(|row| Series {
            name: match (row.attack.as_str(), row.f) {
                ("withhold", 0) => format!("honest only, {}", row.rule),
                ("withhold", _) if args.rule.len() == 1 => "no attack".into(),
                ("withhold", _) => format!("{}, no attack", row.rule),
                (attack, _) if args.rule.len() == 1 => attack.into(),
                (attack, _) => format!("{}, {attack}", row.rule),
            },
            points: (1..).map(f64::from).zip(row.curve.iter().copied()).collect(),
        })
        .collect();
    let skew = args.skew.map_or(String::new(), |alpha| format!(", Dirichlet {alpha}"));
    let caption = format!(
        "{}, {} of {} nodes attack{skew}, {} x {} steps, codec {}",
        data.name,
        args.byzantine,
        args.nodes,
        args.rounds,
        params.training.inner_steps,
        name(&args.codec)
    );
    let chart = Chart {
        title: "Held-out loss under attack",
        x_label: "round",
        y_label: "nats a token",
        caption: &caption,
        scale: Scale::Linear,
        from_zero: false,
        series: &series,
    };
    fs::write(path, chart.svg()).map_err(|e| NodeError::file("write", path, e))
}

fn read_table(path: Option<&Path>) -> Result<Vec<Row>, NodeError> {
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(Vec::new()) };
    let text = fs::read_to_string(path).map_err(|e| NodeError::file("read", path, e))?;
    // A last line that was cut off is run again.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn append(path: Option<&Path>, row: &Row) -> Result<(), NodeError> {
    let Some(path) = path else { return Ok(()) };
    let line = serde_json::to_string(row).map_err(|e| NodeError::Usage(e.to_string()))?;
    let file = fs::File::options().create(true).append(true).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{line}"));
    written.map_err(|e| NodeError::file("write", path, e))
}

fn rule_name(aggregation: &Aggregation, f: usize) -> String {
    if *aggregation == Aggregation::DEFAULT && f == 0 {
        return "mean".into();
    }
    let pre = aggregation.pre.map_or(String::new(), |pre| format!("{} + ", name(&pre)));
    let weighted = if aggregation.weighted { "weighted " } else { "" };
    let length = if aggregation.restore_length { " + length" } else { "" };
    format!("{weighted}{pre}{}{length}", name::<Rule>(&aggregation.rule))
}

/// The name in configuration files.
fn name<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(String::from)).unwrap_or_default()
}

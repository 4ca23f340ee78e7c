//! `localnet`: founds a network of real node processes on this machine, trains with it, and checks what a network owes
//! its users. Exit code 0 only if every check holds.

mod checks;
mod faults;
pub mod net;
mod story;
mod table;

use crate::{chart, cli::LocalnetArgs, error::NodeError, genesis, output::say, progress::Progress, rpc::types::*};
use ailo_ledger::{
    state::{Event, Outcome},
    store::{MAX_PAGE, Subject},
};
use ailo_protocol::{Address, params::Params, presets};
use ailo_training::{dataset::Dataset, eval, reference, state::ModelState};
use checks::Observed;
use net::{Net, Spec};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Runs the command until its checks are made, or Ctrl-C.
pub async fn run(args: LocalnetArgs) -> Result<(), NodeError> {
    let temporary = args.dir.is_none().then(temporary_dir).transpose()?;
    let dir = args.dir.clone().or_else(|| temporary.clone()).unwrap_or_default();
    let validators = args.validators.unwrap_or(args.nodes.min(4));
    if validators == 0 || validators > args.nodes {
        return Err(NodeError::Usage(format!("--validators {validators}: choose 1 to {}", args.nodes)));
    }
    let params = genesis::local_params(args.nodes, args.confirmations);
    let mut params = presets::change(&params, &args.set).map_err(|e| NodeError::Usage(format!("--set {e}")))?;
    if args.story {
        story::afford(&mut params, args.nodes);
    }
    // There are steps to kill at as long as there are rounds.
    params.round.rounds = if args.kill_at_steps { 0 } else { args.rounds };
    let mut net = Net::found(Spec {
        program: std::env::current_exe().map_err(|e| NodeError::io("find this program", e))?,
        dir: dir.clone(),
        nodes: args.nodes,
        validators,
        data: args.data.clone(),
        seed: args.seed,
        params,
    })?;
    // The checks ask for every transfer from the first round on.
    net.nodes.iter_mut().for_each(|node| node.env.push(("AILO_ARCHIVE".into(), "true".into())));
    if args.story {
        story::cast(&mut net);
    }
    if args.byzantine > 0 {
        send_attackers(&mut net, &args)?;
    }
    let network = net.genesis.id();
    say(
        &json!({ "network": network, "nodes": args.nodes, "validators": validators, "folder": dir }),
        format_args!(
            "network {} of {} nodes, {validators} validators, in {}",
            network.short(),
            args.nodes,
            dir.display()
        ),
    )?;

    let outcome = tokio::select! {
        biased; // a Ctrl-C that ends --keep is not one that comes before the checks
        outcome = train_and_check(&mut net, &args) => outcome,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|e| NodeError::io("listen for Ctrl-C", e))?;
            Err(NodeError::Check("stopped by Ctrl-C before the checks were made".into()))
        }
    };
    net.stop_all().await?;
    let outcome = match outcome {
        Ok(observed) => conclude(&net, &args, &observed),
        Err(e) => Err(e),
    };
    if let Some(dir) = temporary {
        match &outcome {
            Ok(()) => std::fs::remove_dir_all(&dir).map_err(|e| NodeError::file("remove", &dir, e))?,
            Err(_) => eprintln!("the nodes' folders stay in {} for a look", dir.display()),
        }
    }
    outcome
}

/// Makes attackers of the last nodes.
fn send_attackers(net: &mut Net, args: &LocalnetArgs) -> Result<(), NodeError> {
    if args.byzantine >= args.nodes {
        return Err(NodeError::Usage("--byzantine: somebody must be honest".into()));
    }
    let program = std::env::current_exe().map_err(|e| NodeError::io("find this program", e))?;
    let program = program.with_file_name("attacker");
    if !program.exists() {
        let how = format!("{} is not there: build it with `cargo build -p ailo-node`", program.display());
        return Err(NodeError::Usage(how));
    }
    let honest = (args.nodes - args.byzantine) as usize;
    let wallets: Vec<Address> = net.nodes[honest..].iter().map(|node| Address::from(node.wallet.public())).collect();
    let theirs = net.genesis.founders.iter().filter(|founder| wallets.contains(&founder.wallet));
    let all = theirs.map(|founder| founder.node.to_string()).collect::<Vec<_>>().join(",");
    for node in &mut net.nodes[honest..] {
        node.program = program.clone();
        node.env.push(("AILO_ATTACKERS".into(), all.clone()));
        node.env.push(("AILO_ATTACK".into(), args.attack.clone().unwrap_or_default()));
    }
    Ok(())
}

/// Trains the rounds, with the faults and transfers asked for, then makes the live checks.
async fn train_and_check(net: &mut Net, args: &LocalnetArgs) -> Result<Observed, NodeError> {
    let started = Instant::now();
    let limit = Duration::from_secs(args.timeout);
    net.start_all()?;
    let mut observed = Observed::new(started);
    let mut table = table::Table::new();
    let mut faults = faults::Faults::new(args.kills, args.seed, net.validators, args.kill_at_steps);
    let mut transfers = (args.transfers || args.kills > 0).then(|| faults::Transfers::new(args.seed));
    loop {
        let statuses = net.statuses().await;
        observed.record(&statuses);
        table.show(&statuses, net)?;
        if let Some(fallen) = net.fallen() {
            return Err(NodeError::Check(fallen));
        }
        faults.step(net, &statuses).await?;
        if let Some(transfers) = &mut transfers {
            transfers.step(net, &statuses).await;
        }
        let trained =
            |s: &Option<At<Status>>| s.as_ref().is_some_and(|s| s.value.model.local_rounds >= Some(args.rounds));
        if faults.done() && statuses.iter().all(trained) {
            break;
        }
        if started.elapsed() > limit {
            return Err(NodeError::Check(format!("{} rounds were not done within {} s", args.rounds, args.timeout)));
        }
        tokio::time::sleep(faults.pause()).await;
    }
    table.finish();
    let seconds = started.elapsed().as_secs();
    say(
        &json!({ "rounds": args.rounds, "seconds": seconds }),
        format_args!("\n{} rounds in {seconds} s", args.rounds),
    )?;
    if let Some(transfers) = &transfers {
        transfers.check(net).await?;
    }
    faults.report()?;
    if args.byzantine > 0 {
        report_attackers(net, args).await?;
    }
    if args.story {
        story::tell(net).await?;
    }
    checks::state_roots_are_equal_at_the_same_height(net).await?;
    checks::model_roots_are_equal_at_the_same_round(&observed, args.nodes, args.rounds)?;
    checks::the_supply_law_holds(net).await?;
    observed.record(&net.statuses().await); // where rounds go on meanwhile
    if args.keep {
        let url = std::fs::read_to_string(net.nodes[0].dir.join("rpc")).unwrap_or_default();
        say(&json!({ "rpc": url }), format_args!("the network runs on until Ctrl-C; node 0 answers at {url}"))?;
        tokio::signal::ctrl_c().await.map_err(|e| NodeError::io("listen for Ctrl-C", e))?;
    }
    Ok(observed)
}

/// What everybody has earned.
async fn report_attackers(net: &mut Net, args: &LocalnetArgs) -> Result<(), NodeError> {
    let honest = (args.nodes - args.byzantine) as usize;
    let statuses = net.statuses().await;
    for (i, status) in statuses.iter().enumerate() {
        let (Some(status), Some(client)) = (status, net.client(0)) else { continue };
        let what = if i < honest { "honest" } else { args.attack.as_deref().unwrap_or_default() };
        let history = client.history(&Subject::Node(status.value.node), MAX_PAGE as u32).await;
        let events = history.map_or(Vec::new(), |page| page.value.entries);
        let count = |is: fn(&Event) -> bool| events.iter().filter(|entry| is(&entry.event)).count();
        let committed = count(|event| matches!(event, Event::Contributed { .. }));
        let found =
            count(|event| matches!(event, Event::ReplayDecided { outcome: Outcome::Forged | Outcome::Disowned, .. }));
        let earned = status.value.account.free;
        say(
            &json!({ "node": i, "attack": what, "earned": earned, "contributions": committed, "found": found }),
            format_args!(
                "node {i:2} {what:<10} has earned {earned} ALC; {committed} contributions, {found} found forged or disowned"
            ),
        )?;
    }
    Ok(())
}

/// After the nodes have stopped: the final loss over all held-out text, the baseline, the picture.
fn conclude(net: &Net, args: &LocalnetArgs, observed: &Observed) -> Result<(), NodeError> {
    let params = &net.genesis.params;
    let data = genesis::open_data(&args.data, &params.model)?;
    ailo_training::set_threads(std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)));
    let first = ModelState::initial(&params.model, args.seed);
    let last = observed.final_root().ok_or_else(|| NodeError::Check("no model root was seen".into()))?;
    let path = net.nodes[0].dir.join("model").join(format!("{last}.state"));
    let last = ModelState::load(&params.model, &path, &last)?;
    let sequence = params.training.sequence;
    let all = data.held_out_windows(sequence, None, u32::MAX);
    let loss = |state: &ModelState| {
        eval::held_out_loss(&params.model, &state.weights, &data, sequence, &all, ailo_training::device(false))
    };
    let measuring = Progress::wait("measuring the held-out loss");
    let (before, after) = (loss(&first)?, loss(&last)?);
    drop(measuring);
    let (from, to, tokens) = (nats(before), nats(after), data.held_out);
    say(
        &json!({ "held_out_loss": { "before": from, "after": to, "tokens": tokens } }),
        format_args!("held-out loss {from:.4} -> {to:.4} nats a token over {tokens} tokens"),
    )?;
    if args.rounds > 0 {
        checks::the_held_out_loss_fell(before, after)?;
    }
    let mut curves = vec![chart::Series {
        name: format!("{} nodes, DiLoCo", args.nodes),
        points: observed.loss_curve(nats(before)),
    }];
    draw(args, params, &data, &curves)?;
    if args.baseline {
        let best = baseline(args, params, &data)?;
        let gap = 100.0 * (nats(after) / nats(best.loss) - 1.0);
        let (loss, lr) = (nats(best.loss), best.lr);
        say(
            &json!({ "baseline": { "held_out_loss": loss, "lr": lr, "gap_percent": gap } }),
            format_args!("data-parallel equivalent {loss:.4} (learning rate {lr}), so the network is {gap:+.2} % off"),
        )?;
        let points = std::iter::once((0.0, nats(before))).chain(best.curve).collect();
        curves.push(chart::Series { name: "one process, same tokens".into(), points });
        draw(args, params, &data, &curves)?;
    }
    say(&json!({ "holds": "all checks" }), "all checks hold")
}

/// Writes the picture asked for with --plot.
fn draw(args: &LocalnetArgs, params: &Params, data: &Dataset, curves: &[chart::Series]) -> Result<(), NodeError> {
    let Some(path) = &args.plot else { return Ok(()) };
    let tokens = params.training.tokens_per_round() * args.rounds * u64::from(args.nodes);
    let caption = format!(
        "{}, dataset root {}…, {} nodes x {} rounds x {} inner steps, {:.1} M tokens",
        data.name,
        data.root().short(),
        args.nodes,
        args.rounds,
        params.training.inner_steps,
        tokens as f64 / 1e6
    );
    let chart = chart::Chart {
        title: "Held-out loss of the network's model",
        x_label: "round",
        y_label: "nats a token",
        caption: &caption,
        scale: chart::Scale::Linear,
        from_zero: false,
        series: curves,
    };
    std::fs::write(path, chart.svg()).map_err(|e| NodeError::file("write", path, e))?;
    say(&json!({ "plot": path }), format_args!("loss curve in {}", path.display()))
}

/// The data-parallel equivalent: one process, the nodes' batches together, as many steps, the best of three rates. Each
/// rate trains on a thread of its own.
fn baseline(args: &LocalnetArgs, params: &Params, data: &Dataset) -> Result<reference::Run, NodeError> {
    let setup = reference::Setup {
        model: &params.model,
        training: &params.training,
        data,
        seed: args.seed,
        workers: args.nodes,
        rounds: args.rounds,
    };
    let train = |factor: f64| {
        ailo_training::set_threads(1);
        let run = setup.data_parallel(params.training.lr * factor)?;
        let (lr, loss) = (run.lr, nats(run.loss));
        say(&json!({ "lr": lr, "loss": loss }), format_args!("baseline: learning rate {lr} ends at {loss:.4}"))?;
        Ok::<_, NodeError>(run)
    };
    let runs = std::thread::scope(|scope| {
        let threads = [0.5, 1.0, 2.0].map(|factor| scope.spawn(move || train(factor)));
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err(NodeError::Check("a baseline's thread died".into()))))
    });
    let runs: Vec<reference::Run> = runs.into_iter().collect::<Result<_, _>>()?;
    let best = runs.into_iter().min_by_key(|run| run.loss);
    best.ok_or_else(|| NodeError::Check("no baseline was run".into()))
}

fn nats(micro: u64) -> f64 {
    micro as f64 / 1e6
}

fn temporary_dir() -> Result<PathBuf, NodeError> {
    let base = std::env::temp_dir();
    let unique = ailo_protocol::Keypair::generate();
    let dir = base.join(format!("ailo-localnet-{}", unique.public().short()));
    std::fs::create_dir_all(&dir).map_err(|e| NodeError::file("create the folder", &dir, e))?;
    Ok(dir)
}

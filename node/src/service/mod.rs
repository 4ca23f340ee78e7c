//! `run`: a node from its start to its stop. Opens the folder, joins the network, and runs the services until Ctrl-C
//! (or, as a child of `localnet`, until its parent is gone).

pub mod anchor;
pub mod chain;
pub mod compute;
pub mod duties;
mod fetch;
mod join;
mod line;
pub mod models;
pub mod neighbours;
pub mod payloads;
mod replays;
pub mod rounds;
mod serve;
mod sync;
mod traced;
pub mod work;

use crate::{
    config::Settings,
    datadir::DataDir,
    error::NodeError,
    genesis,
    inference::{
        api::{
            access::{Access, Rules},
            keys,
        },
        court::Court,
        hub::Hub,
        payment::{Ask, Pays},
        run::Inference,
    },
    logs::{self, otlp::Traces},
    metrics,
    operator::{Controls, Operator},
    rpc, sensors,
    series::Series,
    web::Site,
};
use ailo_ledger::transaction::Consent;
use ailo_proto::gossip;
use ailo_protocol::{
    Address, Amount, Genesis, Hash, Keypair,
    genesis::Founder,
    inference::announce::Announce,
    keystore,
    net::{self, NetConfig},
};
use ailo_training::dataset::Dataset;
use chain::Chain;
use compute::{Busy, Worker};
use futures::future::OptionFuture;
use models::Models;
use payloads::Payloads;
use rounds::{Progress, Rounds};
use std::{io::Read, pin::pin, process::Stdio, sync::Arc, time::Duration};
use tokio::sync::watch;
use work::{Contributor, Honest, Setup};

/// The probe of the determinism class is over within this time, on the slowest of machines.
const PROBE_WITHIN: Duration = Duration::from_secs(120);
/// Others' texts go elsewhere, or end, within this time of the signal.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// All services have stopped within this time after it, or are left behind.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// And what still computes within this time more.
const COMPUTE_STOPS_WITHIN: Duration = Duration::from_millis(900);
/// How much lower the training thread's priority is, so that network and RPC answer first.
const TRAINER_NICENESS: i32 = 10;

/// Runs a node until it is told to stop.
pub async fn run(settings: Settings, stop_on_eof: bool) -> Result<(), NodeError> {
    run_with(settings, stop_on_eof, Arc::new(Honest)).await
}

/// The same, with another hand at its contributions.
pub async fn run_with(
    settings: Settings,
    stop_on_eof: bool,
    contributor: Arc<dyn Contributor>,
) -> Result<(), NodeError> {
    let dir = DataDir::open(&settings.data_dir)?;
    logs::keep_in(&dir.path("logs"))?;
    let key = dir.key(keystore::Kind::Node)?;
    let (wallet, wallet_key) = dir.wallet(settings.wallet)?;
    let (genesis, data) = network(&settings, &dir, &key, wallet)?;
    let genesis = Arc::new(genesis);
    let network = genesis.id();

    let of = || [("service.instance.id", key.public().short()), ("ailo.network", genesis.name.clone())];
    let traces = settings.otlp.map(|collector| Traces::start(collector, &of())).transpose()?;

    // Made here, or its threads would inherit the low priority of whoever asks first.
    if let Err(e) = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("pool-{i}")).build_global() {
        tracing::debug!(error = %e, "the thread pool was made before");
    }
    let trainer =
        Worker::spawn("trainer", TRAINER_NICENESS).map_err(|e| NodeError::io("start the training thread", e))?;
    let replayer =
        Worker::spawn("replay", TRAINER_NICENESS).map_err(|e| NodeError::io("start the replaying thread", e))?;
    let worker = Worker::spawn("compute", 0).map_err(|e| NodeError::io("start the compute thread", e))?;
    let workers = [trainer.clone(), replayer.clone(), worker.clone()];
    let device = ailo_training::device(!settings.cpu);
    let class = determinism_class(settings.cpu).await?;

    let listen = addresses(&settings.listen, "--listen")?;
    let bootstrap = addresses(&settings.bootstrap, "--bootstrap")?;
    let announce = addresses(&settings.announce, "--announce")?;
    let net = NetConfig { listen, announce, bootstrap, upnp: settings.upnp, ..NetConfig::new(key.clone(), network) };
    let (net, mut events) = net::start(net).await?;
    let (stop, stopped) = watch::channel(false);
    let mut told_to_stop = pin!(stop_signal(stop_on_eof));
    let ledger = dir.path("ledger");
    if let Some(checkpoint) = settings.checkpoint.filter(|_| join::is_due(&ledger)) {
        let join = join::Join { dir: &ledger, genesis: &genesis, checkpoint };
        tokio::select! {
            joined = join.run(&net, &mut events) => joined?,
            signal = &mut told_to_stop => return signal,
        }
    }
    let role = chain::Role {
        validator: settings.validator,
        archive: settings.archive,
        allow_new_journal: settings.allow_new_journal,
    };
    let (chain, ledger_ended) = Chain::start(&dir, genesis.clone(), key.clone(), role, net.clone())?;
    let (watch, anchor) = anchor::Watch::start(chain.clone(), genesis.clone(), ledger, settings.checkpoint)?;
    for peer in net.peers() {
        chain.peer_connected(peer.node).await; // who came before the ledger was there
    }
    let models = Models::open(dir.path("model"), genesis.params.model);
    let payloads = Payloads::open(dir.path("payloads"));
    let (progress, progress_seen) = watch::channel(Progress::default());
    let controls = Controls { training: !settings.inference_only, power: settings.power };
    let operator = Arc::new(Operator::start(&dir, controls)?);

    let rules =
        Rules { keys: Some(dir.path(keys::FILE)), required: settings.require_api_key, hosts: settings.allow_host };
    let access = Access::open(rules, settings.http)?;
    // Coins of a development network buy nothing.
    let development = genesis.params.ledger.confirmations < 10;
    let ask = settings.ask.unwrap_or(if development { Ask::Free } else { Ask::Market });
    let pays = match (settings.spend, &wallet_key) {
        (Amount::ZERO, _) => None,
        (limit, Some(key)) => Some(Pays::new(chain.clone(), network, key.clone(), (limit, dir.path("spent")))),
        (_, None) => {
            return Err(NodeError::Usage(
                "--spend needs the wallet's key in the data folder: start without it, or without --wallet".into(),
            ));
        }
    };
    let court = Court::new(chain.clone(), (key.clone(), network), wallet_key.clone(), dir.path("charges"));
    let inference = Inference::start(
        (settings.serves, dir.path("hashes"), settings.checks, settings.audits),
        (ask, pays, dir.path("receipts")),
        ((key.clone(), network), court),
        net.clone(),
        (models.clone(), chain.clone()),
        stopped.clone(),
    )
    .await?;
    let series = Series::open(dir.path("series"));
    let context = Arc::new(rpc::Context {
        genesis: genesis.clone(),
        parameters: ailo_training::model::parameter_count(&genesis.params.model) as u64,
        node: *key.public(),
        wallet,
        operator: operator.clone(),
        validator: settings.validator,
        chain: chain.clone(),
        // A network of this node alone has no other history.
        anchor: settings.network.is_some().then_some(anchor),
        net: net.clone(),
        neighbours: neighbours::watch(net.clone(), chain.clone(), stopped.clone()),
        hub: inference.hub.clone(),
        progress: progress_seen,
        sensors: sensors::watch(stopped.clone()),
        series: series.clone(),
        law: rpc::node::Law::default(),
        ranking: rpc::holders::Ranking::default(),
        recent: rpc::recent::Recent::default(),
        turns: rpc::Turns::default(),
    });
    let site = Site::new(context.clone(), stopped.clone());
    let sources = metrics::Sources { context: context.clone(), api: inference.api.clone(), folder: settings.data_dir };
    let pages = site.router(access.clone()).merge(inference.api.router(access.clone(), false));
    let pages = pages.merge(metrics::router(sources, access.clone()));
    let server = rpc::Server::start(settings.http, context.clone(), pages, access).await?;
    let url = format!("http://{}/rpc", server.address);
    crate::datadir::write_atomically(&dir.path("rpc"), url.as_bytes())?;

    let serve = serve::Serve {
        chain: chain.clone(),
        models: models.clone(),
        payloads: payloads.clone(),
        node: *key.public(),
        net: net.clone(),
    };
    let setup = Arc::new(Setup {
        genesis: genesis.clone(),
        key: key.clone(),
        chain: chain.clone(),
        net: net.clone(),
        models,
        payloads,
        data: Arc::new(data),
        operator: operator.clone(),
        contributor,
        device,
        class,
        trainer,
        replayer,
        training: Busy::default(),
        worker,
        progress,
    });
    let consent = match &wallet_key {
        Some(signer) => Some(Consent::sign(&network, key.public(), &wallet, signer)),
        None => settings.consent,
    };
    let bonds = wallet_key.filter(|_| settings.validator);
    let duties = duties::Duties::new(
        genesis.id(),
        key.clone(),
        (wallet, consent),
        bonds,
        (operator.clone(), class),
        chain.clone(),
    );
    let services = [
        tokio::spawn(dispatch(events, (chain.clone(), inference.hub.clone()), serve, stopped.clone())),
        tokio::spawn(Rounds::new(setup.clone()).run(stopped.clone())),
        tokio::spawn(replays::Replays::new(setup).run(stopped.clone())),
        tokio::spawn(duties.run(stopped.clone())),
        tokio::spawn(series.run(context.clone(), stopped.clone())),
        tokio::spawn(chain.earned().clone().run(chain.clone(), genesis.time_ms, stopped.clone())),
        tokio::spawn(rpc::node::Law::watch(context.clone(), stopped.clone())),
        tokio::spawn(line::run(context, url, stopped.clone())),
    ];

    let mut watching = tokio::spawn(watch.run(stopped.clone()));
    let outcome = tokio::select! {
        signal = &mut told_to_stop => signal,
        Ok(Err(other_history)) = &mut watching => Err(other_history),
        () = net.closed() => Err(NodeError::Net(net::NetError::Closed)),
        ended = ledger_ended => Err(ended.unwrap_or_else(|_| NodeError::Check("the ledger's thread ended by itself: the log above says why; start the node again".into()))),
    };
    inference.hub.drain(DRAIN_WITHIN).await;
    let _ = stop.send(true); // every receiver that is left hears it
    let shutdown = async {
        server.stop().await;
        inference.stop().await;
        for service in services {
            let _ = service.await; // a service that failed has said so in the log
        }
        chain.stop().await;
        net.shutdown().await;
    };
    if tokio::time::timeout(STOP_WITHIN, shutdown).await.is_err() {
        tracing::warn!("some services did not stop in time and are left behind");
    }
    let computing = tokio::task::spawn_blocking(move || workers.iter().for_each(Worker::stop));
    let computing = tokio::time::timeout(COMPUTE_STOPS_WITHIN, computing);
    if tokio::join!(computing, OptionFuture::from(traces.map(Traces::stop))).0.is_err() {
        tracing::warn!("a computation did not stop in time and is left behind");
    }
    operator.stop();
    let _ = std::fs::remove_file(dir.path("rpc")); // a stale one only makes a client say that nobody answers
    outcome
}

/// The class of this machine, as a process of its own finds it: what libtorch takes for the probe would stay in this one,
/// and a node that only validates needs none of it. Whatever program runs a node has the command `class`.
pub(crate) async fn determinism_class(cpu: bool) -> Result<Hash, NodeError> {
    let failed = |e| NodeError::io("run the determinism probe", e);
    let mut probe = tokio::process::Command::new(std::env::current_exe().map_err(failed)?);
    probe.arg("class").args(cpu.then_some("--cpu")).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROBE_WITHIN, probe.output()).await;
    let output = output.map_err(|_| failed(std::io::Error::other("it takes too long")))?.map_err(failed)?;
    let class = String::from_utf8_lossy(&output.stdout).trim().parse();
    class.map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        failed(std::io::Error::other(format!("{}: {}", output.status, said.trim())))
    })
}

/// The founding document and the data that belongs to it.
fn network(
    settings: &Settings,
    dir: &DataDir,
    key: &Keypair,
    wallet: Address,
) -> Result<(Genesis, Dataset), NodeError> {
    let kept = dir.path("network.toml");
    let genesis = match &settings.network {
        Some(file) => {
            let genesis = genesis::read(file)?;
            if kept.exists() && genesis::read(&kept)?.id() != genesis.id() {
                return Err(NodeError::Network {
                    path: file.display().to_string(),
                    why: format!(
                        "the folder {} belongs to another network: choose another --data-dir, or the network file it was made with",
                        settings.data_dir.display()
                    ),
                });
            }
            genesis
        }
        None if kept.exists() => {
            let genesis = genesis::read(&kept)?;
            if genesis.founders.iter().any(|founder| founder.node != *key.public()) {
                return Err(NodeError::Usage(format!(
                    "the folder {} belongs to the network {}, not to a development network of its own: name that network's file with --network, or choose another --data-dir",
                    settings.data_dir.display(),
                    genesis.name
                )));
            }
            genesis
        }
        None => {
            let params = genesis::local_params(1, 0);
            let data = genesis::open_data(&settings.data, &params.model)?;
            let founder = Founder { node: *key.public(), wallet, validator: true };
            genesis::found("dev", 1, vec![founder], &data, params)?
        }
    };
    if !kept.exists() {
        genesis::write(&kept, &genesis)?;
    }
    let data = genesis::open_data(&settings.data, &genesis.params.model)?;
    if data.root() != genesis.dataset.root {
        return Err(NodeError::Usage(format!(
            "this data is not the network's: the network trains on {} (dataset root {}), not on one with root {}: pass the right files with --data",
            genesis.dataset.name,
            genesis.dataset.root.short(),
            data.root().short()
        )));
    }
    Ok((genesis, data))
}

fn addresses(texts: &[String], flag: &str) -> Result<Vec<net::Multiaddr>, NodeError> {
    let parse = |text: &String| {
        text.parse().map_err(|e| {
            NodeError::Usage(format!("{flag} '{text}' is not a multiaddr (like /ip4/127.0.0.1/tcp/8646): {e}"))
        })
    };
    texts.iter().map(parse).collect()
}

/// Ctrl-C, SIGTERM, or, if asked for, the end of standard input.
async fn stop_signal(stop_on_eof: bool) -> Result<(), NodeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| NodeError::io("listen for signals", e))?;
    let (gone, mut parent_gone) = tokio::sync::mpsc::channel::<()>(1);
    if stop_on_eof {
        // A thread of its own: it blocks until the parent's pipe closes.
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while std::io::stdin().read(&mut buffer).is_ok_and(|n| n > 0) {}
            drop(gone);
        });
    }
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal.map_err(|e| NodeError::io("listen for Ctrl-C", e)),
        _ = terminate.recv() => Ok(()),
        _ = parent_gone.recv(), if stop_on_eof => Ok(()),
    }
}

/// Hands what peers send to whom it concerns.
async fn dispatch(
    mut events: tokio::sync::mpsc::Receiver<net::Event>,
    (chain, hub): (Chain, Arc<Hub>),
    serve: serve::Serve,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = stop.changed() => None,
        };
        match event {
            None => break,
            Some(net::Event::Gossip { message: gossip::Body::Serving(serving), verdict, .. }) => {
                match Announce::open(hub.network(), &serving.canonical).map(|announce| hub.hear(announce)) {
                    None => verdict.reject(),
                    Some(true) => verdict.accept(),
                    Some(false) => verdict.ignore(),
                }
            }
            Some(net::Event::Gossip { from, message, verdict }) => chain.gossip(from, message, verdict).await,
            Some(net::Event::Request { request, reply, .. }) => {
                let serve = serve.clone();
                tokio::task::spawn_blocking(move || serve.answer(request, reply));
            }
            Some(net::Event::Connected(node)) => {
                tracing::info!(peer = %node.short(), "peer connected");
                chain.peer_connected(node).await;
            }
            Some(net::Event::Disconnected(node)) => {
                tracing::info!(peer = %node.short(), "peer gone");
                hub.disconnected(node);
            }
            Some(net::Event::WrongNetwork { .. }) => {} // the swarm has said so
        }
    }
}

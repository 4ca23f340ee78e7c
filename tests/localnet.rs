//! Networks of real processes: they train one model, keep one ledger, survive kills, take in newcomers, and confirm
//! transfers at ten attestations and not before.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_ledger::Body;
use ailo_node::{
    commands, genesis,
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_protocol::{Address, Amount, Hash, params::Params};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// One network at a time: each of them fills the machine.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PROGRAM: &str = env!("CARGO_BIN_EXE_ailo-node");

/// Rounds of a second or so: what these tests are about is not how well the model learns.
fn quick(nodes: u32, confirmations: u32) -> Params {
    let mut params = genesis::local_params(nodes, confirmations);
    params.training.inner_steps = 4;
    params.training.batch = 2;
    params.training.eval_sequences = 16;
    params.training.score_sequences = 4;
    params
}

fn found(dir: &Path, nodes: u32, validators: u32, params: Params) -> Net {
    Net::found(Spec {
        program: PathBuf::from(PROGRAM),
        dir: dir.to_path_buf(),
        nodes,
        validators,
        data: vec![],
        seed: 1,
        params,
    })
    .unwrap()
}

fn localnet(args: &[&str]) -> (bool, String) {
    let quick = ["training.inner_steps=4", "training.batch=2", "training.eval_sequences=32"];
    let set = quick.iter().flat_map(|s| ["--set", s]);
    let output = Command::new(PROGRAM)
        .args(["localnet", "--timeout", "400"])
        .args(args)
        .args(set)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_string() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn four_nodes_train_one_model_and_keep_one_ledger() {
    let _alone = MACHINE.blocking_lock();
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("loss.svg");
    let (ok, text) = localnet(&["--nodes", "4", "--rounds", "3", "--transfers", "--plot", plot.to_str().unwrap()]);
    assert!(ok, "{text}");
    for claim in [
        "state roots are equal",
        "model roots are equal",
        "supply law holds",
        "held-out loss fell",
        "acknowledged transfers",
    ] {
        assert!(text.contains(claim), "{claim:?} is missing in: {text}");
    }
    assert!(std::fs::read_to_string(plot).unwrap().contains("<polyline"));
}

#[test]
fn validators_killed_at_random_times_come_back_and_nothing_is_lost() {
    let _alone = MACHINE.blocking_lock();
    let (ok, text) = localnet(&["--nodes", "4", "--rounds", "2", "--kills", "3", "--seed", "7"]);
    assert!(ok, "{text}");
    assert!(text.contains("survived 3 kills") && text.contains("acknowledged transfers"), "{text}");
}

#[test]
fn a_network_learns_although_two_of_eight_send_everything_backwards() {
    let _alone = MACHINE.blocking_lock();
    let (ok, text) = localnet(&["--nodes", "8", "--rounds", "3", "--byzantine", "2", "--attack", "sign-flip"]);
    assert!(ok && text.contains("the held-out loss fell"), "{text}");
    assert_eq!((text.matches(" honest ").count(), text.matches(" sign-flip ").count()), (6, 2), "{text}");
    let attackers = text.lines().filter(|line| line.contains(" sign-flip "));
    assert!(attackers.clone().all(|line| !line.contains("; 0 contributions")), "they did nothing: {text}");
    let (ok, text) = localnet(&["--nodes", "4", "--byzantine", "1", "--attack", "nonsense"]);
    assert!(!ok && text.contains("is no attack"), "{text}");
    let (ok, text) = localnet(&["--nodes", "4", "--byzantine", "4", "--attack", "zero"]);
    assert!(!ok && text.contains("somebody must be honest"), "{text}");
}

#[test]
fn a_network_learns_although_one_of_four_trains_all_slots_to_find_what_does_most_harm() {
    let _alone = MACHINE.blocking_lock();
    // It needs the time of four.
    let slow = ["--set", "round.min_train_ms=60000"];
    let args = ["--nodes", "4", "--rounds", "3", "--byzantine", "1", "--attack", "ipm-opt"];
    let (ok, text) = localnet(&[&args[..], &slow[..]].concat());
    assert!(ok && text.contains("the held-out loss fell"), "{text}");
    let attacker = text.lines().find(|line| line.contains(" ipm-opt ")).unwrap();
    assert!(!attacker.contains("; 0 contributions"), "it did nothing: {text}");
}

#[test]
fn a_validator_killed_at_the_steps_of_a_round_stalls_none() {
    let _alone = MACHINE.blocking_lock();
    let kills = ["--nodes", "4", "--rounds", "2", "--kills", "4", "--kill-at-steps", "--seed", "3"];
    let deadlines = ["round.verify_ms=4000", "round.vote_ms=4000", "round.min_train_ms=3000"];
    let args: Vec<&str> = kills.into_iter().chain(deadlines.into_iter().flat_map(|set| ["--set", set])).collect();
    let (ok, text) = localnet(&args);
    assert!(ok && text.contains("beyond its deadline") && text.contains("survived 4 kills"), "{text}");
}

#[test]
fn no_node_outlives_a_localnet_that_is_killed() {
    let _alone = MACHINE.blocking_lock();
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Command::new(PROGRAM)
        .args(["localnet", "--nodes", "2", "--rounds", "1000", "--dir", dir.path().to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = || {
        let found =
            Command::new("pgrep").args(["-f", &format!("run --network {}", dir.path().display())]).output().unwrap();
        found.stdout.iter().filter(|byte| **byte == b'\n').count()
    };
    let wait = |what: &str, count: usize| {
        let started = Instant::now();
        while running() != count {
            assert!(started.elapsed() < Duration::from_secs(30), "{what}: {} processes", running());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("both nodes start", 2);
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait("both nodes end", 0);
}

#[tokio::test]
async fn a_newcomer_fetches_the_model_takes_part_and_is_paid() {
    let _alone = MACHINE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut params = quick(2, 0);
    params.round.max_participants = 8;
    let mut net = found(dir.path(), 2, 2, params);
    net.start_all().unwrap();
    let limit = Duration::from_secs(120);
    let rounds =
        |count: u64| move |all: &[Option<At<Status>>]| all[0].as_ref().is_some_and(|s| s.value.model.rounds >= count);
    let before = net.wait_until("two rounds close", limit, rounds(2)).await.unwrap();

    let newcomer = dir.path().join("newcomer");
    let bootstrap = before[0].as_ref().unwrap().value.listen[0].clone();
    let mut child = Command::new(PROGRAM)
        .args(["run", "--cpu", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--stop-on-eof"])
        .arg("--network")
        .arg(dir.path().join("network.toml"))
        .arg("--data-dir")
        .arg(&newcomer)
        .args(["--bootstrap", &bootstrap])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let paid = loop {
        assert!(started.elapsed() < limit, "the newcomer earned nothing within {limit:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(url) = std::fs::read_to_string(newcomer.join("rpc")) else { continue };
        let Ok(status) = ailo_node::client::Client::new(&url).unwrap().status().await else { continue };
        if status.value.account.free > Amount::ZERO {
            break status;
        }
    };
    assert_eq!(paid.value.model.local_root, Some(paid.value.model.root), "it holds the network's model");
    assert!(paid.value.round.participants <= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    net.stop_all().await.unwrap();
}

#[tokio::test]
async fn a_node_of_another_network_is_refused() {
    let _alone = MACHINE.lock().await;
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut one = found(a.path(), 1, 1, quick(1, 0));
    let mut other = found(b.path(), 1, 1, quick(1, 0));
    assert_ne!(one.genesis.id(), other.genesis.id());
    one.start(0).unwrap();
    let up = |all: &[Option<At<Status>>]| all[0].as_ref().is_some_and(|s| s.height >= 1);
    let status = one.wait_until("the first network is up", Duration::from_secs(60), up).await.unwrap();
    other.start_with(0, &["--bootstrap", &status[0].as_ref().unwrap().value.listen[0]]).unwrap();
    other.wait_until("the other network is up", Duration::from_secs(60), up).await.unwrap();
    let log = other.nodes[0].dir.join("log");
    let started = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("network") {
        assert!(started.elapsed() < Duration::from_secs(30), "the refusal is said in the log");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for net in [&mut one, &mut other] {
        assert_eq!(net.status(0).await.unwrap().value.peers, 0);
        net.stop_all().await.unwrap();
    }
    // A folder that belongs to one network is not used for another.
    let mixed = Command::new(PROGRAM)
        .args(["run", "--network"])
        .arg(b.path().join("network.toml"))
        .arg("--data-dir")
        .arg(&one.nodes[0].dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&mixed.stderr);
    assert!(!mixed.status.success() && said.contains("another network"), "{said}");
}

#[tokio::test]
async fn a_transaction_taken_while_nobody_listened_reaches_the_network_later() {
    let _alone = MACHINE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut params = quick(4, 0);
    params.round.rounds = 1;
    let mut net = found(dir.path(), 4, 3, params);
    net.start_all().unwrap();
    let limit = Duration::from_secs(120);
    let earned = |all: &[Option<At<Status>>]| all[3].as_ref().is_some_and(|s| s.value.account.free > Amount(3_000_000));
    net.wait_until("the fourth node is paid", limit, earned).await.unwrap();

    // The fourth cannot make blocks, and all who can are gone.
    for validator in 0..3 {
        net.kill(validator).await.unwrap();
    }
    let alone = |all: &[Option<At<Status>>]| all[3].as_ref().is_some_and(|s| s.value.peers == 0);
    net.wait_until("the fourth node is alone", limit, alone).await.unwrap();
    let client = net.client(3).unwrap();
    let to = Address::from(net.nodes[0].wallet.public());
    let body = Body::Transfer { to, amount: Amount(1_000_000), memo: String::new() };
    let transfer = commands::sign(&client, &net.nodes[3].wallet, body).await.unwrap();
    let id = client.submit(&transfer).await.unwrap();

    for validator in 0..3 {
        net.start(validator).unwrap();
    }
    until_status(&mut net, 3, &id, "confirmed").await;
    net.stop_all().await.unwrap();
}

async fn seen(net: &mut Net, i: usize, id: &Hash) -> TransactionView {
    net.client(i).unwrap().transaction(id).await.unwrap().value
}

async fn until_status(net: &mut Net, i: usize, id: &Hash, status: &str) -> TransactionView {
    let started = Instant::now();
    loop {
        let view = seen(net, i, id).await;
        if view.status == status {
            return view;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{status:?} not reached: {view:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn send(net: &mut Net, from: usize, to: usize, amount: &str) -> Hash {
    let to = Address::from(net.nodes[to].wallet.public());
    let output = Command::new(PROGRAM)
        .args(["wallet", "send", &to.to_string(), amount, "--json", "--data-dir"])
        .arg(&net.nodes[from].dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<At<TransactionView>>(&output.stdout).unwrap().value.id
}

#[tokio::test]
async fn a_transfer_is_confirmed_by_ten_attestations_and_not_before() {
    let _alone = MACHINE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut params = quick(14, 10);
    params.round.rounds = 2; // enough to earn coins; then the machine is left to the ledger
    params.round.uptime_pay = Amount(0); // nor does an epoch that ends meanwhile pay anybody
    let mut net = found(dir.path(), 14, 4, params);
    net.start_all().unwrap();
    let earned = |all: &[Option<At<Status>>]| {
        all.iter()
            .all(|s| s.as_ref().is_some_and(|s| s.value.model.rounds >= 2 && s.value.account.free > Amount(3_000_000)))
    };
    net.wait_until("two rounds pay everybody", Duration::from_secs(240), earned).await.unwrap();

    // All fourteen up: twelve may attest (not the sender's node, not the recipient's), ten suffice.
    let id = send(&mut net, 12, 13, "0.01").await;
    let done = until_status(&mut net, 0, &id, "confirmed").await;
    assert_eq!(done.attested_by.len(), 10);
    for party in [12, 13] {
        let own = net.status(party).await.unwrap().value.node;
        assert!(!done.attested_by.contains(&own), "sender's and recipient's nodes do not count");
    }

    // Two killed: exactly ten are left, which is enough, and what came in can be spent.
    net.kill(10).await.unwrap();
    net.kill(11).await.unwrap();
    let id = send(&mut net, 12, 13, "0.01").await;
    until_status(&mut net, 0, &id, "confirmed").await;
    let id = send(&mut net, 13, 12, "0.015").await;
    until_status(&mut net, 0, &id, "confirmed").await;

    // Three killed: nine are left. The transfer stays pending, and the recipient cannot spend it.
    net.kill(9).await.unwrap();
    let before = net.status(13).await.unwrap().value.account;
    let id = send(&mut net, 12, 13, "0.005").await;
    let started = Instant::now();
    let nine = loop {
        let view = seen(&mut net, 0, &id).await;
        if view.attested_by.len() == 9 {
            break view;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "nine attest: {view:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(nine.status, "pending");
    let height = net.status(0).await.unwrap().height;
    let later = |all: &[Option<At<Status>>]| all[0].as_ref().is_some_and(|s| s.height >= height + 3);
    net.wait_until("three more blocks", Duration::from_secs(60), later).await.unwrap();
    let after = net.status(13).await.unwrap().value.account;
    assert_eq!(seen(&mut net, 0, &id).await.status, "pending");
    assert_eq!((after.free, after.pending), (before.free, Amount(500_000)));
    let client = net.client(13).unwrap();
    let all_and_more =
        Body::Transfer { to: Address::from(net.nodes[0].wallet.public()), amount: after.free, memo: String::new() };
    let greedy = commands::sign(&client, &net.nodes[13].wallet, all_and_more).await.unwrap();
    assert!(client.submit(&greedy).await.is_err(), "pending coins do not pay even the fee");

    // A tenth comes back.
    net.start(9).unwrap();
    until_status(&mut net, 0, &id, "confirmed").await;
    net.stop_all().await.unwrap();
}

//! What is recorded of a round can be trained again by anybody, offline, to the bit; and a contributor can check its work before it
//! hands it in.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_node::{
    client::Client,
    genesis,
    localnet::net::{Net, Spec},
};
use common::{Node, ailo};
use serde_json::Value;
use std::{
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_recorded_round_is_replayed_offline_and_ones_own_work_is_checked_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = genesis::local_params(4, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    params.ledger.idle_block_ms = 500;
    // A place more than there are nodes, for which each round waits so long before it opens: without it one closes in the time that a
    // slow machine takes to read the model once.
    (params.round.target_participants, params.round.open_wait_ms) = (5, 4_000);
    let mut net = Net::found(Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.path().to_path_buf(),
        nodes: 4,
        validators: 4,
        data: vec![],
        seed: 1,
        params,
    })
    .unwrap();
    net.start_all().unwrap();
    let closed = net.wait_until("three rounds", Duration::from_secs(120), |all| {
        all[0].as_ref().is_some_and(|status| status.value.model.rounds >= 3)
    });
    closed.await.unwrap();
    let folder = net.nodes[0].dir.clone();
    let folder = folder.to_str().unwrap();

    let started = Instant::now();
    let (checked, text) = loop {
        let checked = ailo(&["round", "--dry-run", "--cpu", "--data-dir", folder]);
        let text = said(&checked);
        // One may just gather, or be over before its base is read.
        let passing = text.contains("no round is open") || text.contains("cannot read");
        if !passing || started.elapsed() > Duration::from_secs(30) {
            break (checked, text);
        }
    };
    assert!(checked.status.success() && text.contains("trained twice, to the same bits"), "{text}");
    assert!(["payload", "update", "score", "gain", "class"].iter().all(|what| text.contains(what)), "{text}");

    // Who joins now has the same model within a round, in one copy's bytes and from several peers.
    let bootstrap = std::fs::read_to_string(Path::new(folder).join("rpc")).unwrap();
    let status = Client::new(bootstrap.trim()).unwrap().status().await.unwrap();
    let (here, peer) = (status.height, status.value.listen[0].clone());
    let other = net.status(1).await.unwrap().value.listen[0].clone();
    let network = dir.path().join("network.toml");
    let joined = Node::start(
        network.to_str().unwrap(),
        &dir.path().join("newcomer"),
        &[
            "--inference-only",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--bootstrap",
            &peer,
            "--bootstrap",
            &other,
            "--log",
            "ailo_node=info",
        ],
    );
    let round = joined.wait("the newest block", 60, |status| status.height + 2 >= here).value.round.number;
    let there = joined.wait("the model", 60, |status| status.value.model.local_root == Some(status.value.model.root));
    assert!(there.value.round.number <= round + 1, "{} and {round}", there.value.round.number);
    let log = joined.log(&dir.path().join("newcomer"));
    let line = log.lines().find(|line| line.contains("a model state has come")).expect("a line about it");
    let number = |name: &str| -> u64 {
        let text = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}="))).expect("a number");
        text.parse().unwrap()
    };
    assert!(number("moved") * 10 <= number("bytes") * 11 && number("peers") > 1, "{line}");
    drop(joined);

    // The newest round that has closed.
    let newest = net.status(0).await.unwrap().value.round.number;
    let saved = dir.path().join("saved");
    let record = (1..=newest).rev().find_map(|number| {
        let output = ailo(&["round", &number.to_string(), "--save", saved.to_str()?, "--data-dir", folder]);
        let text = std::fs::read_to_string(saved.join("record.json")).ok().filter(|_| output.status.success())?;
        let view: Value = serde_json::from_str(&text).unwrap();
        view.get("past")?.as_object().is_some().then_some(view)
    });
    let record = record.expect("a closed round");
    let kept = saved.join("base.state");
    net.stop_all().await.unwrap();
    let text = said(&ailo(&["replay", saved.to_str().unwrap()]));
    assert!(text.contains("the one that was voted for"), "{text}");

    let replay = |record: &Value| {
        let file = dir.path().join("record.json");
        std::fs::write(&file, record.to_string()).unwrap();
        let network = dir.path().join("network.toml");
        let [file, network, kept] = [&file, &network, &kept].map(|path| path.to_str().unwrap());
        ailo(&["replay", file, "--network", network, "--model", kept])
    };
    let output = replay(&record);
    let text = said(&output);
    assert!(output.status.success() && text.contains("the one that was voted for"), "{text}");
    assert_eq!(text.matches("the same to the bit").count(), 4, "{text}");

    // No ledger has such powers, and no record makes the program overflow.
    let mut absurd = record.clone();
    absurd["round"]["power"][0]["power"] = Value::from(u64::MAX);
    let text = said(&replay(&absurd));
    assert!(text.contains("powers that no ledger has") && !text.contains("panicked"), "{text}");

    // One who says that it reached a loss that it did not reach.
    let mut forged = record.clone();
    let contributions = forged["round"]["contributions"].as_object_mut().unwrap();
    let first = contributions.values_mut().next().unwrap();
    first["contribution"]["loss_last"] = Value::from(1);
    let output = replay(&forged);
    let text = said(&output);
    assert!(!output.status.success() && text.matches("DIFFERS").count() == 1, "{text}");
    assert!(text.contains("1 results differ from the record"), "{text}");
}

//! Nodes that join a network whose first blocks are kept no more: by a checkpoint and a snapshot, or not at all.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_ledger::light::Checkpoint;
use ailo_node::rpc::types::*;
use ailo_protocol::Hash;
use common::{Node, ailo};
use serde_json::{Value, json};
use std::{
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

/// Short epochs, blocks that are kept for seconds, and a model of no weight.
const PARAMS: &[&str] = &[
    "ledger.epoch_ms=2000",
    "ledger.idle_block_ms=300",
    "ledger.unbonding_ms=20000",
    "ledger.evidence_ms=20000",
    "ledger.trust_ms=20000",
    "ledger.poll_ms=4000",
    "ledger.challenge_ms=4000",
    "round.replay_ms=5000",
    "round.rounds=1",
    "training.inner_steps=1",
    "training.batch=2",
    "training.eval_sequences=2",
    "training.score_sequences=2",
];

impl Node {
    /// One more node of the network, which does not train.
    fn join(network: &str, dir: &Path, peer: &str, more: &[&str]) -> Node {
        let more = [&["--inference-only", "--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", peer], more].concat();
        Node::start(network, dir, &more)
    }

    fn checkpoint(&self) -> Checkpoint {
        let status = self.status();
        Checkpoint { height: status.height, block: status.value.block }
    }

    fn block(&self, height: u64) -> Value {
        self.result("ailo_block", json!({"height": height}))
    }
}

fn notes(status: &At<Status>) -> String {
    status.value.notes.join("\n")
}

/// Waits until both stand at one height, and compares.
fn agree(a: &Node, b: &Node) {
    let height = a.status().height;
    b.wait("the newcomer catches up", 60, |status| status.height >= height);
    let id = |node: &Node| -> Hash { node.block(height)["hash"].as_str().unwrap().parse().unwrap() };
    assert_eq!(id(a), id(b));
    let in_step = b.wait("it knows that it is in step", 30, |status| status.value.sync.behind == Some(0));
    assert_eq!(in_step.value.sync.highest, Some(in_step.height));
}

#[test]
fn who_has_no_ledger_joins_a_network_that_keeps_its_last_blocks_by_a_checkpoint_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let network = path("net.toml").to_str().unwrap().to_string();
    let keys = ailo(&["keys", "--data-dir", path("a").to_str().unwrap()]);
    let said = String::from_utf8(keys.stdout).unwrap();
    let founder = said.lines().find_map(|line| line.split_whitespace().find(|word| word.contains(",validator")));
    let founder = founder.unwrap_or_else(|| panic!("no founder in: {said}")).to_string();
    let set = PARAMS.iter().flat_map(|change| ["--set", change]);
    let genesis = ["genesis", "--out", &network, "--params", "dev", "--founder", &founder];
    let made = ailo(&genesis.into_iter().chain(set).collect::<Vec<_>>());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let a = Node::start(&network, &path("a"), &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let first = a.wait("the first blocks", 30, |status| status.height > 2);
    assert!(!notes(&first).contains("UNANCHORED"), "the genesis is young");
    assert_eq!(first.value.sync.behind, None, "nobody has told it how far others are");
    let started = Instant::now();
    while !a.block(1).is_null() {
        assert!(started.elapsed() < Duration::from_secs(120), "the first block is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    let peer = a.status().value.listen[0].clone();

    // By a checkpoint newer than the snapshot: the way leads back by parents.
    let newest = a.checkpoint();
    let b = Node::join(&network, &path("b"), &peer, &["--checkpoint", &newest.to_string()]);
    agree(&a, &b);
    assert!(b.block(1).is_null(), "the newcomer starts from a snapshot");
    assert!(!notes(&b.status()).contains("UNANCHORED"), "{}", notes(&b.status()));

    // By one older than it: the way leads up by certificates. From a peer that is a newcomer itself, whose ledger has moved on.
    let older = b.checkpoint();
    let epoch = b.status().value.epoch;
    b.wait("a new snapshot", 60, |status| status.value.epoch > epoch + 1);
    let relay = b.status().value.listen[0].clone();
    let c = Node::join(&network, &path("c"), &relay, &["--checkpoint", &older.to_string()]);
    agree(&a, &c);
    assert!(c.block(1).is_null());

    // A node that was anchored a moment ago still is after a restart, and goes on.
    assert!(c.interrupt().1.success());
    let c = Node::join(&network, &path("c"), &peer, &[]);
    assert!(!notes(&c.status()).contains("UNANCHORED"), "{}", notes(&c.status()));
    agree(&a, &c);

    // Without a checkpoint there is no way in, and the node says why.
    let d = Node::join(&network, &path("d"), &peer, &[]);
    let started = Instant::now();
    while !d.log(&path("d")).contains("keep this block no more") {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", d.log(&path("d")));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(d.status().height == 0 && notes(&d.status()).contains("UNANCHORED"));
    assert_ne!(d.status().value.sync.behind, Some(0), "what it can't get it lacks");

    // A checkpoint of another history stops a node that has a ledger.
    let forged = Checkpoint { height: c.checkpoint().height, block: Hash([7; 32]) }.to_string();
    assert!(c.interrupt().1.success());
    let args = ["run", "--network", &network, "--cpu", "--inference-only", "--http", "127.0.0.1:0", "--data-dir"];
    let mut stopped = common::program()
        .args(args)
        .arg(path("c"))
        .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--checkpoint", &forged])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        match stopped.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > Duration::from_secs(60) => {
                stopped.kill().unwrap();
                panic!("the node goes on with another history");
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let mut said = String::new();
    stopped.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert!(!status.success() && said.contains("is not the one of the checkpoint"), "{said}");
}

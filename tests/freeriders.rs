//! Free riders earn nothing: nodes that join a network and hand in what they did not train, in every way that costs less than
//! training, beside one that does. And one machine behind two founders' identities earns no more than one behind one. All are real
//! processes; `attacker.rs` says what each of them does.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::{
    client::{Client, json},
    genesis,
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_protocol::{Address, Amount};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const VALIDATORS: u32 = 7;
/// Beside the validators a founder who only trains, and two who are one machine.
const FOUNDERS: u32 = VALIDATORS + 3;
/// Rounds in which they have time to earn something.
const ROUNDS: u64 = 20;
const ATTACKS: [&str; 5] = ["zero", "random", "scale", "stale", "copy"];

/// A node that nobody founded the network with; stops with this process.
struct Newcomer {
    name: &'static str,
    dir: std::path::PathBuf,
    child: Child,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join(dir: &Path, name: &'static str, bootstrap: &str) -> Newcomer {
    let honest = name == "honest";
    let program = if honest { env!("CARGO_BIN_EXE_ailo-node") } else { env!("CARGO_BIN_EXE_attacker") };
    let folder = dir.join(name);
    let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let child = Command::new(program)
        .env("AILO_ATTACK", name)
        .args(["run", "--cpu", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--stop-on-eof"])
        .arg("--network")
        .arg(dir.join("network.toml"))
        .arg("--data-dir")
        .arg(&folder)
        .args(["--bootstrap", bootstrap])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Newcomer { name, dir: folder, child }
}

#[tokio::test]
async fn who_does_not_train_earns_nothing_within_twenty_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = genesis::local_params(FOUNDERS, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    (params.model.width, params.model.heads, params.model.kv_heads, params.model.ffn) = (32, 2, 2, 64);
    (params.ledger.epoch_ms, params.ledger.seat_delay_epochs, params.ledger.idle_block_ms) = (5_000, 1, 500);
    // One of the two founders that are one machine hands in nothing: the first round waits for it.
    (params.round.max_participants, params.round.max_train_ms) = (16, 20_000);
    (params.round.vest_rounds, params.round.vest_ms, params.round.unverified_ppm) = (2, 60_000, 250_000);
    (params.round.uptime_pay, params.round.replay_ms) = (Amount::ZERO, 10_000);
    // Whoever is fast or lucky in a round earns no more for it: what two identities earn is to be told from that.
    (params.round.speed_min_ppm, params.round.speed_max_ppm, params.round.quality_max_ppm) =
        (1_000_000, 1_000_000, 1_000_000);
    let mut net = Net::found(Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.path().to_path_buf(),
        nodes: FOUNDERS,
        validators: VALIDATORS,
        data: vec![],
        seed: 1,
        params,
    })
    .unwrap();
    let [.., one, split, other] = &mut net.nodes[..] else { unreachable!() };
    let wallets = [&*one, &*split, &*other].map(|node| Address::from(node.wallet.public()));
    let node_of = |wallet| net.genesis.founders.iter().find(|founder| founder.wallet == wallet).unwrap().node;
    let [one, two @ ..] = wallets.map(node_of);
    let theirs = two.map(|node| node.to_string()).join(",");
    for node in [&mut *split, &mut *other] {
        node.program = env!("CARGO_BIN_EXE_attacker").into();
        node.env = vec![("AILO_ATTACK".into(), "split".into()), ("AILO_ATTACKERS".into(), theirs.clone())];
    }
    net.start_all().unwrap();
    let rounds = |count: u64| {
        move |all: &[Option<At<Status>>]| {
            all[0].as_ref().is_some_and(|s| s.value.model.rounds >= count && s.value.epoch >= 2)
        }
    };
    let before = net.wait_until("the first rounds", Duration::from_secs(120), rounds(1)).await.unwrap();
    let first = before[0].as_ref().unwrap().value.model.rounds;
    let bootstrap = before[0].as_ref().unwrap().value.listen[0].clone();
    let newcomers: Vec<Newcomer> =
        ATTACKS.into_iter().chain(["honest"]).map(|name| join(dir.path(), name, &bootstrap)).collect();
    net.wait_until("twenty rounds", Duration::from_secs(400), rounds(first + ROUNDS)).await.unwrap();
    let mut earned = Vec::new();
    for newcomer in &newcomers {
        let url = std::fs::read_to_string(newcomer.dir.join("rpc")).unwrap();
        let status = Client::new(url.trim()).unwrap().status().await.unwrap();
        earned.push((newcomer.name, status.value.account.free));
    }
    println!("earned within {ROUNDS} rounds: {earned:?}");
    let honest = earned.last().unwrap().1;
    assert!(honest > Amount::ZERO, "the honest newcomer earns nothing either: {earned:?}");
    for (attack, free) in &earned[..ATTACKS.len()] {
        assert!(free.0 * 20 <= honest.0, "{attack} earns {free} where the honest earn {honest}");
    }
    // Of each round that pays the founder who is one in full.
    let client = net.client(0).unwrap();
    let (mut alone, mut split) = (0, 0);
    for summary in client.call::<At<RoundsView>>("ailo_rounds", &[]).await.unwrap().value.rounds {
        let view: At<RoundView> = client.call("ailo_round", &[("number", json(&summary.number))]).await.unwrap();
        let shares = view.value.past.and_then(|past| past.shares).unwrap_or_default();
        let Some(full) = shares.iter().find(|share| share.node == one && share.verified) else { continue };
        alone += full.training.0;
        split += shares.iter().filter(|share| two.contains(&share.node)).map(|share| share.training.0).sum::<u64>();
    }
    println!("a founder who trains, and two who are one machine: {alone} and {split}");
    assert!(alone > 0 && split > 0);
    assert!(split * 100 <= alone * 101, "splitting pays");
    drop(newcomers);
    net.stop_all().await.unwrap();
}

//! What is withheld: three of eight who do so cannot kill a round, and pay for it (one hands in nothing, two commit to what they
//! serve to nobody); and an honest payload is, as long as somebody could copy it. All are real processes; `attacker.rs` says what each of them does.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_ledger::{
    state::{Event, Phase},
    store::Subject,
};
use ailo_node::{
    client::Client,
    genesis,
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_proto::{BlobRequest, Request, request, response};
use ailo_protocol::{
    Amount, Hash, Keypair,
    contribution::Payload,
    hash::Domain,
    net::{self, NetConfig},
};
use std::time::{Duration, Instant};

const NODES: u32 = 8;
/// Rounds in which they have time to do harm.
const ROUNDS: u64 = 6;

#[tokio::test]
async fn three_of_eight_who_withhold_kill_no_round_and_pay_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = genesis::local_params(NODES, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    (params.model.width, params.model.heads, params.model.kv_heads, params.model.ffn) = (32, 2, 2, 64);
    (params.round.replay_ppm, params.round.probation, params.round.uptime_pay) = (0, 0, Amount::ZERO);
    (params.round.vest_rounds, params.ledger.idle_block_ms) = (1, 500);
    // A round that opens while nodes start may have fewer than eight.
    (params.round.open_wait_ms, params.round.max_train_ms) = (5_000, 20_000);
    let mut net = Net::found(Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.path().to_path_buf(),
        nodes: NODES,
        validators: NODES,
        data: vec![],
        seed: 1,
        params,
    })
    .unwrap();
    for (i, attack) in [(5, "withhold"), (6, "hide"), (7, "hide")] {
        net.nodes[i].program = env!("CARGO_BIN_EXE_attacker").into();
        net.nodes[i].env = vec![("AILO_ATTACK".into(), attack.into())];
    }
    net.start_all().unwrap();
    let trained = |all: &[Option<At<Status>>]| {
        all.iter().all(Option::is_some) && all[0].as_ref().is_some_and(|s| s.value.model.rounds >= ROUNDS)
    };
    let statuses = net.wait_until("rounds close", Duration::from_secs(240), trained).await.unwrap();
    let log = std::fs::read_to_string(net.nodes[0].dir.join("log")).unwrap();
    let (mut whole, mut opened) = (0, 0);
    for line in log.lines() {
        let participants = line.split_whitespace().find_map(|word| word.strip_prefix("participants="));
        opened = participants.map_or(opened, |count| count.parse().unwrap());
        whole += u32::from(opened == NODES && line.contains("round closed"));
        assert!(opened < NODES || !line.contains("round aborted"), "a round of all eight was killed: {line}");
    }
    assert!(whole > 0, "no round had all eight: {log}");
    let url = std::fs::read_to_string(net.nodes[0].dir.join("rpc")).unwrap();
    let client = Client::new(url.trim()).unwrap();
    let mut commits = Vec::new();
    for (i, status) in statuses.iter().flatten().enumerate() {
        let history = client.history(&Subject::Node(status.value.node), 200).await.unwrap().value;
        let commit = |event: &Event| matches!(event, Event::Contributed { .. });
        commits.push(history.entries.iter().filter(|entry| commit(&entry.event)).count());
        let free = status.value.account.free;
        assert_eq!(free > Amount::ZERO, i < 5, "node {i} has {free}");
    }
    println!("commits in {ROUNDS} rounds: {commits:?}");
    assert!(commits[..5].iter().all(|count| *count as u64 + 2 >= ROUNDS), "{commits:?}");
    assert_eq!(commits[5], 0);
    assert!(commits[6..].iter().all(|count| (1..=4).contains(count)), "they took part, and rested: {commits:?}");
    net.stop_all().await.unwrap();
}

/// A node that no ledger knows.
async fn stranger(net: &Net, peer: &str) -> net::Handle {
    let key = Keypair::from_seed([7; 32]);
    let config = NetConfig { bootstrap: vec![peer.parse().unwrap()], ..NetConfig::new(key, net.genesis.id()) };
    let (handle, mut events) = net::start(config).await.unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

#[tokio::test]
async fn a_payload_stays_sealed_until_nobody_can_commit_to_a_renamed_copy_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = genesis::local_params(2, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    (params.ledger.idle_block_ms, params.round.open_wait_ms, params.round.max_train_ms) = (500, 5_000, 15_000);
    // Time to look while the second one keeps the round open.
    params.round.min_train_ms = 8_000;
    let spec = Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.path().to_path_buf(),
        nodes: 2,
        validators: 2,
        data: vec![],
        seed: 1,
        params,
    };
    let mut net = Net::found(spec).unwrap();
    net.nodes[1].program = env!("CARGO_BIN_EXE_attacker").into();
    net.nodes[1].env = vec![("AILO_ATTACK".into(), "withhold".into())];
    net.start_all().unwrap();
    let up = |all: &[Option<At<Status>>]| all.iter().all(Option::is_some);
    let statuses = net.wait_until("both run", Duration::from_secs(60), up).await.unwrap();
    let first = &statuses[0].as_ref().unwrap().value;
    let (maker, peer) = (first.node, stranger(&net, &first.listen[0]).await);
    let url = std::fs::read_to_string(net.nodes[0].dir.join("rpc")).unwrap();
    let client = Client::new(url.trim()).unwrap();
    let round = async || client.round(None).await.unwrap().unwrap().value.round;
    let ask = async |payload: Hash| {
        let request = BlobRequest { hash: payload.0.to_vec().into(), offset: 0, length: 1 << 20 };
        peer.request(maker, Request::from(request::Body::Blob(request))).await
    };
    let (mut sealed, started) = (None, Instant::now());
    while sealed.is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "no commit was seen while its round waited for others");
        let open = round().await;
        if let Some(commit) = open.contributions.get(&maker).filter(|_| open.phase == Phase::Train) {
            let payload = commit.contribution.payload;
            let answer = ask(payload).await;
            // If training was over meanwhile, it may have been served.
            let after = round().await;
            if (after.number, after.phase) == (open.number, Phase::Train) {
                assert!(answer.is_err(), "it is served while others may still commit");
                sealed = Some((open.number, payload));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (number, payload) = sealed.unwrap();
    while round().await.number == number {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = ask(payload).await.unwrap();
    let response::Body::Blob(blob) = answer else { panic!("no blob") };
    let opened = Payload::open(&blob.data, blob.data.len()).unwrap();
    assert_eq!((Hash::of(Domain::Blob, &blob.data), opened.node, opened.round), (payload, maker, number));
    net.stop_all().await.unwrap();
}

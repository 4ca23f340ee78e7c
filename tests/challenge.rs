//! A forged contribution is convicted: four real nodes, of which one hands in what it did not train. The lot has others train
//! it again, bit for bit; so does whoever challenges it. Whoever challenges honest work loses the bond.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_ledger::{
    state::{Event, Outcome},
    store::Subject,
};
use ailo_node::{
    client::Client,
    genesis,
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_protocol::{Amount, NodeId, params::Params};
use common::person::*;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(120);
/// The round that is challenged: it does not start from the initial state.
const ROUND: u64 = 1;

/// Four founders that validate, the last of them an attacker; they have trained two rounds and hold about 20 ALC each.
async fn found(dir: &Path, attack: &str, edit: impl FnOnce(&mut Params)) -> (Net, Vec<Person>) {
    let mut params = genesis::local_params(4, 2);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    (params.round.rounds, params.round.pot, params.round.uptime_pay) = (ROUND + 1, Amount::alc(80), Amount::ZERO);
    (params.round.speed_min_ppm, params.round.speed_max_ppm, params.round.quality_max_ppm) =
        (1_000_000, 1_000_000, 1_000_000);
    (params.ledger.idle_block_ms, params.ledger.challenge_ms, params.ledger.unbonding_ms) = (500, 60_000, 120_000);
    // All four take part, however slowly they start and train.
    (params.round.open_wait_ms, params.round.min_train_ms) = (60_000, 20_000);
    edit(&mut params);
    let spec = Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.to_path_buf(),
        nodes: 4,
        validators: 4,
        data: vec![],
        seed: 1,
        params,
    };
    let mut net = Net::found(spec).unwrap();
    net.nodes[3].program = env!("CARGO_BIN_EXE_attacker").into();
    net.nodes[3].env = vec![("AILO_ATTACK".into(), attack.into())];
    net.start_all().unwrap();
    let trained =
        |all: &[Option<At<Status>>]| all.iter().all(|s| s.as_ref().is_some_and(|s| s.value.model.rounds > ROUND));
    net.wait_until("two rounds", LIMIT, trained).await.unwrap();
    let people = Person::all(&net, 0);
    (net, people)
}

/// Nobody is replayed unless somebody asks for it.
fn no_replays(params: &mut Params) {
    (params.round.replay_ppm, params.round.probation) = (0, 0);
}

/// How the challenge of `node` ended, once it has.
async fn verdict(client: &Client, node: NodeId) -> bool {
    let started = Instant::now();
    loop {
        let history = client.history(&Subject::Node(node), 50).await.unwrap().value;
        let ended = history.entries.iter().find_map(|entry| match &entry.event {
            Event::ChallengeEnded { round: ROUND, node: of, forged } if *of == node => Some(*forged),
            _ => None,
        });
        if let Some(forged) = ended {
            return forged;
        }
        assert!(started.elapsed() < LIMIT, "the challenge of {node} does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_challenge_has_a_forgery_replayed_and_its_maker_slashed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut net, people) = found(dir.path(), "noise", no_replays).await;
    let client = Client::new(&people[0].rpc).unwrap();
    let (forger, honest) = (node_of(&people[3]), node_of(&people[1]));
    let challenge = |by: &Person, node: NodeId| by.says(&["challenge", &ROUND.to_string(), &node.to_string()]);
    let free = async |person: &Person| client.account(&person.address).await.unwrap().value.free;

    people[3].says(&["stake", "5"]);
    let before = free(&people[0]).await;
    assert_says(&challenge(&people[0], forger), &["challenged", "replay"]);
    // A validator that dies over it judges all the same: it has base and payload on disk.
    net.kill(1).await.unwrap();
    net.start(1).unwrap();
    assert!(verdict(&client, forger).await, "the forgery is found");
    let after = free(&people[0]).await;
    assert!(after.0 >= before.0 + alc(25).0, "the bond is back, with a tenth of half of the stake: {before} {after}");
    assert_says(&people[0].says(&["validators", &forger.to_string()]), &["slashed", "2.5"]);
    people[0].is_refused(&["challenge", &ROUND.to_string(), &forger.to_string()], "", "CHALLENGED_ALREADY");

    let burned = client.status().await.unwrap().value.supply.burned;
    challenge(&people[2], honest);
    assert!(!verdict(&client, honest).await, "honest work stands");
    let status = client.status().await.unwrap().value;
    assert!(status.supply.burned.0 >= burned.0 + Amount::alc(10).0 && status.supply.law_holds);
    assert!(!people[0].says(&["validators", &honest.to_string()]).contains("slashed"));
    net.stop_all().await.unwrap();
}

#[tokio::test]
async fn a_loss_that_was_not_reached_is_a_forgery_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut net, people) = found(dir.path(), "boast", no_replays).await;
    let client = Client::new(&people[0].rpc).unwrap();
    let forger = node_of(&people[3]);
    people[0].says(&["challenge", &ROUND.to_string(), &forger.to_string()]);
    assert!(verdict(&client, forger).await);
    net.stop_all().await.unwrap();
}

/// Replayers may be drawn once keys are an epoch old. Nothing is paid for a while.
fn replays(params: &mut Params) {
    (params.ledger.epoch_ms, params.ledger.seat_delay_epochs) = (5_000, 1);
    (params.round.rounds, params.round.vest_rounds, params.round.vest_ms) = (12, 100, 60_000);
}

async fn is_convicted(client: &Client, node: NodeId) -> bool {
    let history = client.history(&Subject::Node(node), 200).await.unwrap().value;
    history.entries.iter().any(|entry| matches!(entry.event, Event::Slashed { .. }))
}

/// The round for which a node was convicted, as a replay found out.
async fn conviction(client: &Client, node: NodeId) -> String {
    let started = Instant::now();
    while !is_convicted(client, node).await {
        assert!(started.elapsed() < LIMIT, "the forger is not convicted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let history = client.history(&Subject::Node(node), 200).await.unwrap().value;
    let found = history.entries.iter().find_map(|entry| match entry.event {
        Event::ReplayDecided { round, outcome: Outcome::Forged, .. } => Some(round),
        _ => None,
    });
    found.unwrap().to_string()
}

#[tokio::test]
async fn who_hands_in_anothers_work_is_found_by_what_they_have_in_common() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody is drawn by chance.
    let edit = |params: &mut Params| {
        no_replays(params);
        replays(params);
    };
    let (mut net, people) = found(dir.path(), "twin", edit).await;
    let client = Client::new(&people[0].rpc).unwrap();
    let copier = node_of(&people[3]);
    let found = conviction(&client, copier).await;
    let of = |person: &Person| people[0].says(&["round", &found, "--node", &node_of(person).to_string()]);
    assert_says(&of(&people[3]), &["SUSPECTED", "FORGED"]);
    let suspected: Vec<&Person> = people[..3].iter().filter(|person| of(person).contains("SUSPECTED")).collect();
    assert_eq!(suspected.len(), 1, "the one who was copied is replayed, too");
    let started = Instant::now();
    while !of(suspected[0]).contains("clean, found by") {
        assert!(started.elapsed() < LIMIT, "the one who was copied is not cleared: {}", of(suspected[0]));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for honest in &people[..3] {
        assert!(!is_convicted(&client, node_of(honest)).await);
    }
    net.stop_all().await.unwrap();
}

#[tokio::test]
async fn the_lot_has_a_forger_found_slashed_and_unpaid_without_anybody_asking() {
    let dir = tempfile::tempdir().unwrap();
    // What it hides it calls a residual of earlier rounds. Whoever has no three clean replays yet is replayed.
    let (mut net, people) = found(dir.path(), "residual", replays).await;
    let client = Client::new(&people[0].rpc).unwrap();
    let forger = node_of(&people[3]);
    let found = conviction(&client, forger).await;
    let why = people[3].says(&["round", &found, "--node", &forger.to_string()]);
    assert_says(&why, &["accepted: held and valid", "held-out", "FORGED", "accused by", "promised"]);
    let honest = people[0].says(&["round", &found]);
    assert_says(&honest, &[&node_of(&people[0]).to_string(), "accepted: held and valid", " ALC", " to ailo"]);
    assert_says(&people[0].says(&["round"]), &["round ", "participants"]);
    let paid = |all: &[Option<At<Status>>]| {
        all[..3].iter().all(|s| s.as_ref().is_some_and(|s| s.value.account.free >= Amount::alc(20)))
    };
    net.wait_until("the honest are paid", LIMIT, paid).await.unwrap();
    let free = async |person: &Person| client.account(&person.address).await.unwrap().value.free;
    assert_eq!(free(&people[3]).await, Amount::ZERO, "what was promised before it was found is void");
    for honest in &people[..3] {
        assert!(!is_convicted(&client, node_of(honest)).await);
    }
    net.stop_all().await.unwrap();
}

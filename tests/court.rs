//! A stage that signs what it does not compute is convicted on the ledger: by a validator's spot check, and by who was lied to; between real
//! processes. The liar runs the same program as everybody: its weights change on the disk while it serves them.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_ledger::{state::Event, store::Subject};
use ailo_node::{client::Client, genesis};
use ailo_protocol::{Amount, NodeId};
use common::person::*;
use pipeline::{World, llama};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(120);
const MODEL: [usize; 5] = [64, 128, 4, 4, 4];

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Takes the last digits of all weights.
fn spoil(folder: &Path) {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
        let mut bytes = std::fs::read(&path).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[data..].iter_mut().step_by(2).for_each(|byte| *byte = 0);
        // The same file, which is mapped.
        use std::os::unix::fs::FileExt;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
    }
}

/// Node 0 validates and has no layers, node 1 has the first two, node 2 the others; it lies from now on. Node 0 has earned 90 ALC.
async fn network(flags: &[&str]) -> (World, tempfile::TempDir, Vec<Person>) {
    let mut params = genesis::local_params(1, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    (params.round.rounds, params.round.pot, params.round.uptime_pay) = (1, Amount::alc(90), Amount::ZERO);
    params.ledger.idle_block_ms = 500;
    let mut world = World::found(env!("CARGO_BIN_EXE_ailo-node"), &llama(MODEL), &["0..0", "0..2", "2..4"], params);
    let other = tempfile::tempdir().unwrap();
    copy(world.folder.path(), other.path());
    let model = |path: &Path| path.to_str().unwrap().to_string();
    let [good, bad] = [model(world.folder.path()), model(other.path())];
    world.net.start_with(0, &[&["--model", &good, "--layers", "0..0"], flags].concat()).unwrap();
    for (i, folder, layers) in [(1, &good, "0..2"), (2, &bad, "2..4")] {
        world.net.start_with(i, &["--inference-only", "--model", folder, "--layers", layers]).unwrap();
    }
    let earned = |status: &ailo_node::rpc::types::Status| status.account.free > Amount::alc(20);
    let paid = world.net.wait_until("a round pays", LIMIT, |all| all[0].as_ref().is_some_and(|at| earned(&at.value)));
    paid.await.unwrap();
    world.wait_for_stages(2);
    spoil(other.path());
    let people = Person::all(&world.net, 0);
    (world, other, people)
}

/// Whether a node was found guilty, once it is decided.
async fn verdict(client: &Client, node: NodeId) -> bool {
    let started = Instant::now();
    loop {
        let history = client.history(&Subject::Node(node), 50).await.unwrap().value;
        let ended = history.entries.iter().find_map(|entry| match &entry.event {
            Event::AccusationEnded { guilty, .. } => Some(*guilty),
            _ => None,
        });
        if let Some(guilty) = ended {
            return guilty;
        }
        assert!(started.elapsed() < LIMIT, "no accusation of {node} ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn only_the_liar_is_convicted(world: &mut World, people: &[Person]) {
    let client = Client::new(&people[0].rpc).unwrap();
    assert!(verdict(&client, node_of(&people[2])).await);
    let honest = client.history(&Subject::Node(node_of(&people[1])), 50).await.unwrap().value;
    assert!(!honest.entries.iter().any(|entry| matches!(entry.event, Event::Accused { .. })));
    let said = people[0].says(&["validators", &node_of(&people[2]).to_string()]);
    assert_says(&said, &["accused", "slashed", "judged", "wrong"]);
    // Nobody else has its layers, and nobody asks it any more.
    let prompt: Vec<u32> = (0..20).collect();
    let refused = world.write(&prompt, |_| ()).err().unwrap();
    assert!(refused.contains("layers"), "{refused}");
    let status = world.net.status(0).await.unwrap().value;
    assert!(status.supply.law_holds);
    world.net.stop_all().await.unwrap();
}

#[tokio::test]
async fn a_validators_spot_check_convicts_a_stage_that_lies() {
    let (mut world, _folder, people) = network(&["--audits", "3600"]).await;
    only_the_liar_is_convicted(&mut world, &people).await;
}

#[tokio::test]
async fn who_was_lied_to_may_show_the_text_to_the_ledger() {
    let (mut world, _folder, people) = network(&["--audits", "0", "--checks", "1"]).await;
    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();
    world.write(&prompt, |_| ()).unwrap();
    let (folder, started) = (people[0].folder.join("charges"), Instant::now());
    let charge: PathBuf = loop {
        let mut files = std::fs::read_dir(&folder).into_iter().flatten().map(|file| file.unwrap().path());
        if let Some(file) = files.find(|file| serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).is_ok()) {
            break file;
        }
        assert!(started.elapsed() < LIMIT, "nothing is kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Another text than the one that was signed shows nothing, and other files less.
    let mut shown: Value = serde_json::from_slice(&std::fs::read(&charge).unwrap()).unwrap();
    shown["tokens"][0] = json!(7);
    let other = folder.join("other.json");
    std::fs::write(&other, shown.to_string()).unwrap();
    people[0].is_refused(&["accuse", people[0].file.to_str().unwrap()], "", "is no charge");
    let refused = people[0].run(&["accuse", other.to_str().unwrap()], "");
    assert!(!refused.status.success());
    let said = people[0].says(&["accuse", charge.to_str().unwrap()]);
    assert_says(&said, &["is accused"]);
    only_the_liar_is_convicted(&mut world, &people).await;
}

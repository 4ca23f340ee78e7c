//! A model over real processes, none of which holds all of it: what it writes, and what happens when stages are killed and stopped.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_node::{genesis, inference::model::Model, localnet::net::Net, service::models::Models};
use ailo_protocol::params::{ModelConfig, Style};
use ailo_training::{
    engine::Part,
    sample::{Sampling, sample},
    state::ModelState,
    text::Text,
};
use pipeline::{World, alone, events, llama, names};
use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ailo-node");
/// Node 0 asks and serves nothing; each other one has two of eight layers, nodes 2 and 3 the same.
const LAYERS: [&str; 6] = ["0..0", "0..2", "2..4", "2..4", "4..6", "6..8"];
/// Tokens of a text that takes longer than a round.
const TEXT: usize = 6000;
/// A model that takes some milliseconds a token, so that there is time to kill in.
const MODEL: [usize; 5] = [512, 1024, 8, 8, 4];

fn signal(net: &Net, i: usize, name: &str) {
    let pid = net.pid(i).unwrap().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_goes_on_when_stages_die_and_hang() {
    let mut world = World::new(PROGRAM, &llama(MODEL), &LAYERS);
    world.start(&[0, 1, 2, 4, 5]);
    world.wait_for_stages(4);
    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();
    let expected = Text::open(world.folder.path()).unwrap().decode(&alone(world.folder.path(), None, &prompt));

    let usual = world.write(&prompt, |_| ()).unwrap();
    assert_eq!(usual.text, expected, "over four machines it is the text of one");

    // Nobody else had layers 2 and 3 when the text began; now somebody has, and the first one dies.
    world.start(&[3]);
    world.wait_for_stages(5);
    let killed = world.write(&prompt, |world| signal(&world.net, 2, "-KILL")).unwrap();
    assert_eq!(killed.text, expected, "after a stage was killed");
    world.net.kill(2).await.unwrap();
    world.wait_for_stages(4);
    world.start(&[2]);
    world.wait_for_stages(5);
    let hung = world.write(&prompt, |world| signal(&world.net, 3, "-STOP")).unwrap();
    assert_eq!(hung.text, expected, "after a stage was stopped");
    signal(&world.net, 3, "-CONT");

    // Whoever of both the text goes through: when it is told to end, the other one takes over first.
    let mut left = Duration::ZERO;
    for leaves in [2, 3] {
        let written = world.write(&prompt, |world| signal(&world.net, leaves, "-TERM")).unwrap();
        assert_eq!(written.text, expected, "after node {leaves} was told to end");
        left = left.max(written.pause);
        world.net.kill(leaves).await.unwrap();
        world.wait_for_stages(4);
        world.start(&[leaves]);
        world.wait_for_stages(5);
    }
    let [usual, killed, hung] = [usual, killed, hung].map(|written| written.pause);
    println!(
        "longest pause: {usual:?} undisturbed, {killed:?} after a kill, {hung:?} after a stop, {left:?} after it was told to end"
    );
    assert!(left < Duration::from_millis(700), "{left:?}");
    assert!(killed < Duration::from_millis(1500) && hung < Duration::from_millis(3000), "{killed:?} {hung:?}");

    let mut died = Instant::now();
    let failed = world.write(&prompt, |world| {
        signal(&world.net, 4, "-KILL");
        died = Instant::now();
    });
    let why = failed.err().unwrap();
    assert!(
        why.contains("layers 4 to 5") && died.elapsed() < Duration::from_secs(2),
        "{why} after {:?}",
        died.elapsed()
    );

    // What there was of it is kept. As long as nobody takes over it can't go on, and then it goes on where it was.
    let (begin, error) = world.broken.clone();
    assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some("no_replica"), Some("server_error")), "{error}");
    assert!(begin.len() > 10 && expected.starts_with(&begin), "{begin}");
    assert!(world.resume().unwrap_err().contains("layers 4 to 5"));
    world.net.kill(4).await.unwrap();
    world.start(&[4]);
    world.wait_for_stages(5);
    let id = world.broken.1["resume"].clone();
    assert_ne!(id, error["resume"], "it was kept again");
    assert_eq!(begin + &world.resume().unwrap(), expected, "a text in two parts");
    // A text goes on once.
    assert!(world.resume().unwrap_err().contains("unknown_resume"));
}

/// What a model alone chooses after each token of a text, which it reads at once.
fn follows(model: &Model, text: &[u32], sampling: &Sampling) -> Vec<u32> {
    let engine = model.load(0..model.shape.layers, 2, &mut |_, _| ()).unwrap();
    let (mut cache, mut chosen) = (engine.cache(text.len()), Vec::new());
    for piece in text.chunks(128) {
        let x = engine.embed(piece, cache.len()).unwrap();
        let x = engine.forward(x, &mut [Part { cache: &mut cache, positions: piece.len() }]).unwrap();
        for logits in engine.logits(&x).unwrap().chunks_exact(model.shape.vocabulary) {
            chosen.push(sample(logits, sampling, &[], chosen.len() + 1).token);
        }
    }
    chosen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_stays_with_the_state_that_it_began_with_when_the_head_moves_and_then_a_stage_dies() {
    let mut params = genesis::local_params(1, 0);
    // Some milliseconds a token, and a round that takes no time and changes much.
    let shape = ModelConfig { style: Style::Modern, width: 384, heads: 6, kv_heads: 1, ffn: 1536, ..params.model };
    params.model = ModelConfig { context: 8192, ..shape };
    (params.training.inner_steps, params.training.batch, params.training.warmup_steps) = (4, 1, 1);
    (params.training.eval_sequences, params.training.score_sequences) = (2, 2);
    (params.round.rounds, params.ledger.idle_block_ms) = (1, 300);
    let config = params.model;
    let mut world = World::found(PROGRAM, &llama([64, 64, 1, 1, 1]), &["0..0", "0..1", "1..2", "1..2"], params);
    world.start_own(&[0, 1, 2], &["--inference-only"]);
    world.wait_for_stages(2);
    let folder = tempfile::tempdir().unwrap();
    let first = Models::open(folder.path().into(), config).put(ModelState::initial(&config, 1)).unwrap();
    let first = Model::own(config, first).unwrap();
    let id = first.id.to_string();
    assert!(world.stages().unwrap().iter().all(|stage| stage.model == id));

    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();
    let body = json!({ "prompt": prompt, "max_tokens": TEXT, "temperature": 1, "seed": 7, "stream": true, "logprobs": 0,
                       "stream_options": { "include_usage": true } });
    let (mut stream, mut written, mut stages) = (events(world.ask(&body).unwrap()), Vec::new(), Value::Null);
    let (begun, started) = (stream.next().unwrap(), Instant::now());
    // Nobody has trained so far. Who begins to has the last layer, too.
    world.start_own(&[3], &[]);
    world.wait_until("the head has moved", |stages| stages.len() == 3 && stages.iter().all(|stage| stage.model != id));
    let moved = started.elapsed();
    signal(&world.net, 2, "-KILL");
    for event in std::iter::once(begun).chain(stream) {
        assert_eq!(event["error"], Value::Null, "{event} after {} tokens", written.len());
        assert_eq!(event["system_fingerprint"], first.id.short(), "{event}");
        let tokens = event["choices"][0]["logprobs"]["tokens"].as_array();
        written.extend(tokens.into_iter().flatten().map(|name| name.as_str().unwrap().to_string()));
        stages = event["stages"].clone();
    }
    println!("the head moved after {moved:?} of {:?}", started.elapsed());
    let node = |i: usize| stages.as_array().unwrap().iter().any(|stage| stage["node"] == world.keys[i].as_str());
    assert!((1..4).all(node), "it was over when the stage died: {stages}");
    assert_eq!(written.len(), TEXT);

    let called = names(&first.text, &(0..256).collect::<Vec<_>>());
    let token = |name: &String| called.iter().position(|known| known == name).unwrap() as u32;
    let text: Vec<u32> = prompt.iter().copied().chain(written.iter().map(token)).collect();
    let chosen = follows(&first, &text, &Sampling { seed: 7, ..Sampling::default() });
    assert!(chosen[prompt.len() - 1..].starts_with(&text[prompt.len()..]), "it is another text than the first state's");
    // The next one writes something else.
    let begins = |written: &[String]| written[..40].concat();
    let next = world.write_with(&prompt, json!({ "temperature": 1, "seed": 7, "logit_bias": null }), |_| ()).unwrap();
    assert_ne!(begins(&next.tokens), begins(&written));
}

/// Bytes of a process in memory: `RssAnon` are its own, `RssFile` what it has touched of files that are mapped.
fn memory(net: &Net, i: usize, kind: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", net.pid(i).unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_takes_little_more_memory_than_its_layers_weights() {
    // Its weights are kept in another type than the file's, so none of them is mapped.
    let mut world = World::new(PROGRAM, &llama([1024, 2816, 8, 16, 16]), &["0..0", "0..6", "6..8"]);
    let flags = ["--dtype", "bf16", "--memory", "64"];
    world.start_with(&[0, 1, 2], &flags);
    world.wait_for_stages(2);
    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();
    world.write(&prompt, |_| ()).unwrap();
    let layer = 2 * (4 * 1024 * 1024 + 3 * 1024 * 2816);
    let [without, six, two] = [0, 1, 2].map(|i| memory(&world.net, i, "RssAnon"));
    println!(
        "{} MB without layers, {} with six, {} with two of {} MB",
        without >> 20,
        six >> 20,
        two >> 20,
        layer >> 20
    );
    // Beside the weights, what texts may take.
    let texts = (64 << 20) / 4;
    assert!(six - without < 6 * layer * 11 / 10 + texts, "{without} {six}");
    assert!(two - without < 2 * layer * 11 / 10 + texts, "{without} {two}");

    // Once the layers' hashes are known, the others are not read any more: for them, the files were mapped.
    world.net.kill(2).await.unwrap();
    world.wait_for_stages(1);
    world.start_with(&[2], &flags);
    world.wait_until("both are there", |stages| stages.len() == 2 && stages.iter().any(|stage| stage.node == 2));
    let mapped = memory(&world.net, 2, "RssFile");
    world.net.kill(2).await.unwrap();
    world.wait_for_stages(1);
    std::fs::remove_dir_all(world.net.nodes[2].dir.join("hashes")).unwrap();
    world.start_with(&[2], &flags);
    world.wait_for_stages(2);
    let all = memory(&world.net, 2, "RssFile");
    println!("{} MB of mapped files are read, {} MB without hashes", mapped >> 20, all >> 20);
    assert!(all - mapped > 8 * 2 * layer * 95 / 100, "{mapped} {all}");
}

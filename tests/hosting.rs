//! Which layers nodes serve that were only told how much memory they may take: real processes, which come, die, and are needed elsewhere.

#![allow(clippy::unwrap_used)] // A test that can't go on ends.

#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_node::{
    datadir::DataDir,
    genesis,
    inference::{
        draft::Guess,
        host::{Hosting, Pauses, Share, keep},
        hub::Hub,
        model::Model,
    },
};
use ailo_proto::Serving;
use ailo_protocol::{
    Amount, Hash, Keypair,
    inference::{announce::Announce, known::Rank},
    keystore::Kind,
    net::{self, NetConfig},
};
use ailo_training::{checkpoint::random, engine::Dtype, text::Text};
use pipeline::{Stage, World, alone, llama, names};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::Write,
    ops::Range,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ailo-node");
/// Half of the layers fit, with what belongs to an end of the model, and no layer more.
const HALF: &str = "29";
const HALVES: [Range<u64>; 2] = [0..4, 4..8];
const MODEL: [usize; 5] = [512, 2048, 8, 8, 1];

fn number(of: &Stage, what: &str) -> f64 {
    of.said[what].as_f64().unwrap()
}

/// The nodes that serve a half.
fn who(stages: &[Stage], half: &Range<u64>) -> Vec<usize> {
    stages.iter().filter(|stage| stage.layers == *half).map(|stage| stage.node).collect()
}

/// A member of the network that only talks.
struct Voice {
    net: net::Handle,
    key: Keypair,
    network: Hash,
    model: Hash,
}

impl Voice {
    /// Node `i`, without a process of its own.
    async fn start(world: &mut World, i: usize) -> Voice {
        let status = world.net.client(0).unwrap().status().await.unwrap().value;
        let key = DataDir::open(&world.net.nodes[i].dir).unwrap().key(Kind::Node).unwrap();
        let bootstrap = status.listen.iter().map(|address| address.parse().unwrap()).collect();
        let config = NetConfig { bootstrap, ..NetConfig::new(key.clone(), status.network) };
        let (net, mut events) = net::start(config).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Voice { net, key, network: status.network, model: status.serving[0].model }
    }

    /// Says again and again that it serves these layers.
    async fn say(self, layers: Range<u32>) {
        let mut announce = Announce {
            node: *self.key.public(),
            at_ms: 0,
            model: self.model,
            name: "it".into(),
            before: None,
            dtype: "bf16".into(),
            first: layers.start,
            end: layers.end,
            total: 8,
            layer_us: 0,
            embed_us: 0,
            head_us: 0,
            token_us: 0,
            memory: 1 << 40,
            room: 1 << 40,
            price: Amount(1),
            near: Vec::new(),
            addresses: Vec::new(),
        };
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            announce.at_ms = genesis::now_ms();
            let canonical = announce.sign(&self.network, &self.key).into();
            let _ = self.net.publish(Serving { canonical }).await; // Nobody may be there yet.
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_spread_over_the_layers_and_move_to_where_they_are_needed() {
    let mut world = World::new(PROGRAM, &llama(MODEL), &["0..0", "", "", "", ""]);
    let chooses = ["--dtype", "bf16", "--memory", HALF, "--look-around-ms", "3000"];
    world.start_with(&[0], &["--dtype", "bf16"]);
    world.start_choosing(1, &chooses);
    let one = world.wait_until("a half is served", |stages| stages.len() == 1);
    assert_eq!(one[0].layers, HALVES[0], "the first node begins with the first layer");
    world.start_choosing(2, &chooses);
    let two = world.wait_until("two stages", |stages| stages.len() == 2);
    assert_eq!(who(&two, &HALVES[1]), [2], "the second node takes the other half");

    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();
    let folder = world.folder.path();
    let expected = names(&Text::open(folder).unwrap(), &alone(folder, Some(Dtype::Bf16), &prompt));
    assert_eq!(world.write(&prompt, |_| ()).unwrap().tokens, expected);
    for stage in &two {
        assert_eq!((stage.said["dtype"].as_str(), number(stage, "memory")), (Some("bf16"), f64::from(29 << 18)));
        assert!(number(stage, "room") <= number(stage, "memory") && number(stage, "tokens_per_second") > 0.0);
    }

    let status = world.net.client(1).unwrap().status().await.unwrap().value;
    let [own, other] = status.serving.as_slice() else { panic!("{:?}", status.serving) };
    assert_eq!((own.node, own.first, own.end, own.total, own.dtype.as_str()), (status.node, 0, 4, 8, "bf16"));
    assert!(own.room <= own.memory && own.tokens_per_s > 0.0 && (other.first, other.end) == (4, 8));

    // The slower half is the weaker one.
    world.start_choosing(3, &chooses);
    let three = world.wait_until("three stages", |stages| stages.len() == 3);
    let us = |node| number(three.iter().find(|stage| stage.node == node).unwrap(), "microseconds_a_layer");
    let weaker = if us(1) >= us(2) { 0 } else { 1 };
    assert!(who(&three, &HALVES[weaker]).contains(&3), "{three:?}");

    // The only one that has a half dies: one of the two others goes there.
    let alone_there = HALVES.iter().map(|half| who(&three, half)).find(|who| who.len() == 1).unwrap()[0];
    world.net.kill(alone_there).await.unwrap();
    let moved = world.wait_until("both halves are served again", |stages| {
        stages.len() == 2 && HALVES.iter().all(|half| who(stages, half).len() == 1)
    });
    assert_eq!(world.write(&prompt, |_| ()).unwrap().tokens, expected, "after one has moved");

    // Somebody says that it has the first half, a thousand times as fast as anybody, for coins that node 0 does not spend. So whoever has it for
    // nothing serves all texts, and can be spared.
    let mover = who(&moved, &HALVES[0])[0];
    let voice = Voice::start(&mut world, 4).await;
    tokio::spawn(voice.say(0..4));
    let (address, over) = (world.address(), AtomicBool::new(false));
    let (left, texts) = std::thread::scope(|scope| {
        let writer = || {
            let mut texts = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let started = Instant::now();
                match World::write_at(address, &prompt) {
                    Ok(written) => texts.push((started, Instant::now(), written.tokens)),
                    // It has left, and nobody else serves its layers for nothing.
                    Err(why) => {
                        assert!(why.contains("serves layers 0 to 3"), "{why}");
                        break;
                    }
                }
            }
            texts
        };
        let writers = [(); 2].map(|()| scope.spawn(writer));
        world.wait_until("it leaves", |stages| !stages.iter().any(|stage| stage.node == mover));
        let left = Instant::now();
        over.store(true, Ordering::Relaxed);
        (left, writers.map(|writer| writer.join().unwrap()).concat())
    });
    let under_way = texts.iter().filter(|(started, ended, _)| *started < left && left < *ended).count();
    assert!(under_way > 0, "no text was under way when it left");
    assert!(texts.iter().all(|(.., text)| *text == expected), "a text was broken");
    world.wait_until("it serves the other half", |stages| who(stages, &HALVES[1]).contains(&mover));
    println!("{} texts, {under_way} of them under way when it left", texts.len());
}

/// 40 tokens, by node 0.
fn written(world: &World, prompt: &[u32]) -> String {
    let answer = world.whole(prompt, json!({ "max_tokens": 40, "logit_bias": null }));
    assert_eq!(answer["usage"]["completion_tokens"], 40, "{answer}");
    answer["choices"][0]["text"].as_str().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_networks_own_model_is_served_in_parts() {
    // Nobody trains, so the state stays the first one.
    let params = genesis::local_params(1, 0);
    let layers = u64::from(params.model.layers);
    let mut world = World::found(PROGRAM, &llama(MODEL), &["", "", ""], params);
    let start = |world: &mut World, i: usize, layers: String| {
        world.net.start_with(i, &["--inference-only", "--layers", &layers]).unwrap();
    };
    start(&mut world, 0, "0..0".into());
    start(&mut world, 1, "0..1".into());
    start(&mut world, 2, format!("1..{layers}"));
    let parts = world.wait_until("two stages", |stages| stages.len() == 2);
    assert_eq!((&parts[0].layers, &parts[1].layers), (&(0..1), &(1..layers)));
    let prompt: Vec<u32> = (0..20).collect();
    let in_parts = written(&world, &prompt);
    for i in [1, 2] {
        world.net.kill(i).await.unwrap();
    }
    world.wait_for_stages(0);
    start(&mut world, 1, format!("0..{layers}"));
    world.wait_for_stages(1);
    assert_eq!(written(&world, &prompt), in_parts);
}

/// Whether this process is the one that moves: it may have no more memory than it says itself, and so runs no other test.
const MOVES: &str = "AILO_TEST_MOVES";
/// 268 MB of weights in bf16.
const LARGE: [usize; 5] = [1024, 4096, 8, 16, 16];

/// A checkpoint whose weights are all zero, and take no place on the disk.
fn zeros(folder: &Path, config: &Value) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in random::shapes(config) {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    random::write_tokenizer(folder, None).unwrap();
}

/// Bytes that this process may write to and nobody else: what a limit on its data counts.
fn data() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Serves the first half of a model, then may take half of that beside it, and is needed where the second half is.
async fn moves() {
    let folder = tempfile::tempdir().unwrap();
    zeros(folder.path(), &llama(LARGE));
    let model = Arc::new(Model::open(folder.path(), Some(Dtype::Bf16), None, &mut |_, _| ()).unwrap());
    let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
    let [width, inner, layers, ..] = LARGE.map(|n| n as u64);
    let half = layers / 2 * 2 * (4 * width * width + 3 * width * inner);
    let (hosting, brief) =
        (Hosting { threads: 1, memory: 1 << 20, niceness: 0, draft: Guess::default() }, Duration::from_millis(10));
    let pauses = Pauses { listen: Duration::ZERO, look: brief, again: brief, most: brief };
    let (offered, (served, mut serves), models) =
        (watch::channel(None).0, watch::channel(None), watch::channel(Some(model)));
    tokio::spawn(keep(hub.clone(), (Share::Bytes(half + half / 8), hosting, pauses), models.1, (offered, served)));
    let first = serves.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(first.layers(), 0..4);

    let (before, limit) = (data(), data() + half / 2);
    setrlimit(Resource::Data, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    for node in [(); 2].map(|()| *Keypair::generate().public()) {
        hub.known().hear(0, Rank::Connected, Announce { node, at_ms: 1, ..first.clone() });
    }
    let second = serves.wait_for(|served| served.as_ref().is_some_and(|served| served.first > 0)).await.unwrap();
    assert_eq!(second.as_ref().unwrap().layers(), 4..8);
    println!("{} MB before and {} after, with {} of weights each time", before >> 20, data() >> 20, half >> 20);
    drop(models.0);
}

#[test]
fn a_node_that_moves_never_holds_what_it_serves_and_what_it_will_serve() {
    if std::env::var_os(MOVES).is_some() {
        let moved = async { tokio::time::timeout(Duration::from_secs(20), moves()).await.unwrap() };
        return tokio::runtime::Runtime::new().unwrap().block_on(moved);
    }
    let name = "a_node_that_moves_never_holds_what_it_serves_and_what_it_will_serve";
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let moved = itself.args(["--exact", name, "--nocapture"]).env(MOVES, "1").output().unwrap();
    let said = [moved.stdout, moved.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(moved.status.success() && said.contains("MB before"), "{said}");
    println!("{said}");
}

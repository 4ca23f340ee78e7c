//! A model over real processes, none of which holds all of it: what it writes, and what happens when stages are killed and stopped.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_node::localnet::net::Net;
use ailo_training::text::Text;
use pipeline::{World, alone, llama};
use std::{
    process::Command,
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ailo-node");
/// Node 0 asks and serves nothing; each other one has two of eight layers, nodes 2 and 3 the same.
const LAYERS: [&str; 6] = ["0..0", "0..2", "2..4", "2..4", "4..6", "6..8"];
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

//! A model in stages, each a process of its own on this machine: what a token costs, what each stage adds, and how long a text pauses
//! when a stage is killed or stopped. `scripts/bench pipeline` runs it.
//!
//!     cargo run -p ailo-node --example pipeline -- [[--kills N] [--stops N] | --namespaces NAME [--texts] | --large]
//!
//! Each stage computes with one thread. With --kills the middle stage of three is killed in each of N texts, with --stops it is stopped (SIGSTOP).
//! With --namespaces node i runs in the network namespace NAMEi and has the address 10.77.0.(i + 1) there; `scripts/delay-net` makes them and says how long
//! packets take between them. With --texts sixteen texts at once are all that is measured.

#[path = "../../tests/common/pipeline.rs"]
mod pipeline;

use ailo_training::{
    checkpoint::{Checkpoint, random},
    engine::{Engine, Part},
    text::Text,
};
use pipeline::{TOKENS, World, alone};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Flags of every stage.
const ONE: [&str; 2] = ["--threads", "1"];

fn config(layers: u32, width: u32) -> Value {
    json!({ "model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": width / 16, "num_key_value_heads": width / 16, "vocab_size": 262, "max_position_embeddings": 512,
            "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6 })
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("the runtime does not start: {e}"));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let count = |flag: &str| value(flag).and_then(|count| count.parse().ok());
    let (kills, stops, namespaces) = (count("--kills"), count("--stops"), value("--namespaces"));
    let large = arguments.iter().any(|argument| argument == "--large");
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("pipeline; load average {}", load().trim());
    runtime.block_on(async {
        match namespaces {
            Some(name) => {
                if !arguments.iter().any(|argument| argument == "--texts") {
                    apart(&name).await;
                }
                together(&name).await;
            }
            None if large => wide().await,
            None if kills.is_some() || stops.is_some() => {
                for (what, signal, times) in [("killed", "-KILL", kills), ("stopped", "-STOP", stops)] {
                    if let Some(times) = times {
                        pauses(what, signal, times).await;
                    }
                }
            }
            None => run().await,
        }
    });
    println!("load average afterwards {}", load().trim());
}

fn program() -> String {
    let example = std::env::current_exe().unwrap_or_default();
    let program = example.parent().and_then(|folder| folder.parent()).unwrap_or(&example).join("ailo-node");
    program.to_string_lossy().into_owned()
}

async fn run() {
    println!(" 24 layers of width 64, greedy, one thread a stage, {TOKENS} tokens after a prompt of 20:");
    let mut one = Duration::ZERO;
    for layers in [&["0..24"][..], &["0..0", "0..24"], &["0..12", "12..24"], &["0..6", "6..12", "12..18", "18..24"]] {
        let mut world = World::new(&program(), &config(24, 64), layers);
        let serving = layers.iter().filter(|layers| **layers != "0..0").count();
        let all: Vec<usize> = (0..layers.len()).collect();
        world.start_with(&all, &[&ONE[..], &["--draft", "none"]].concat());
        world.wait_for_stages(serving);
        let mut times: Vec<Duration> =
            (0..9).map(|_| world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}")).token).collect();
        times.sort_unstable();
        let (fast, median, slow) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        let what = match (serving, layers.len()) {
            (1, 1) => "one stage, in the node that asks".into(),
            (1, _) => "one stage, in another node".into(),
            _ => format!("{serving} stages"),
        };
        print!("  {what}: {median:.2?} a token (median of {}, {fast:.2?} to {slow:.2?})", times.len());
        if serving == 1 && layers.len() == 1 {
            one = median;
        } else if serving > 1 {
            print!("; {:.1?} added by each stage", median.saturating_sub(one) / serving as u32);
        }
        println!();
        let _ = world.net.stop_all().await; // What is left of them is killed.
    }
}

fn prompt() -> Vec<u32> {
    (0..20).map(|i| i * 37 % 256).collect()
}

/// AILO-1B in one stage and in four, with weights of two bytes and of one.
async fn wide() {
    let ailo = json!({ "model_type": "gpt2", "n_embd": 1600, "n_layer": 24, "n_head": 25, "n_positions": 2048, "vocab_size": 50257 });
    println!(" AILO-1B (24 layers of width 1600), greedy, one thread a stage, {TOKENS} tokens after a prompt of 20:");
    let read = reading();
    for (dtype, bytes) in [("bf16", 2.0), ("int8", 1.0)] {
        // All weights but the table of positions and most of the embedding are read for a token, and the head once.
        let limit = read / (0.821 * bytes);
        for layers in [&["0..24"][..], &["0..6", "6..12", "12..18", "18..24"]] {
            let mut world = World::new(&program(), &ailo, layers);
            let all: Vec<usize> = (0..layers.len()).collect();
            let flags = ["--draft", "none", "--dtype", dtype, "--memory", "4096"];
            world.start_with(&all, &[&ONE[..], &flags].concat());
            world.wait_for_stages(layers.len());
            let token = world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}")).token;
            let speed = 1.0 / token.as_secs_f64();
            let share = 100.0 * speed / limit;
            println!(
                "  {dtype}, {} stage(s): {speed:.1} tokens/s, {share:.0} % of what reading the weights allows",
                layers.len()
            );
            let memory: Vec<String> = all.iter().map(|i| memory(&world, *i)).collect();
            println!("    memory in MB, in all (of it files): {}", memory.join(", "));
            let _ = world.net.stop_all().await; // What is left of them is killed.
        }
    }
}

/// What a node holds.
fn memory(world: &World, node: usize) -> String {
    let id = world.net.pid(node).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or_default() / 1000
    };
    format!("{} ({})", of("VmRSS:"), of("RssFile:"))
}

/// Gigabytes a second that this machine's memory gives to one thread: of one text's stages one computes at a time.
fn reading() -> f64 {
    let values: Vec<u64> = (0..(1u64 << 27)).collect();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        std::hint::black_box(values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)));
        best = best.min(started.elapsed().as_secs_f64());
    }
    let speed = (values.len() * 8) as f64 / 1e9 / best;
    println!("  reading memory on one thread: {speed:.1} GB/s");
    speed
}

/// Four stages in namespaces, so that packets take their time: without drafts, and with those of a small model.
async fn apart(name: &str) {
    let layers = ["0..6", "6..12", "12..18", "18..24"];
    let small = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder can be made: {e}"));
    World::write_model(small.path(), &config(2, 64), &scaled(&config(2, 64), 1.0));
    println!(" 24 layers of width 64 in 4 stages of one thread each, greedy, {TOKENS} tokens:");
    // The draft is met more often by the first, and less often by the second.
    let [above, below] = around(0.8, small.path());
    write_apart(name, &layers, &scaled(&config(24, 64), below), "no drafts", "none").await;
    for scale in [above, below] {
        let target = scaled(&config(24, 64), scale);
        let met = 100.0 * agreement(&target, small.path());
        let what = format!("a draft of 2 layers that is met {met:.0} of 100 times (scale {scale:.3})");
        write_apart(name, &layers, &target, &what, &small.path().to_string_lossy()).await;
    }
}

/// Sixteen texts at once, against what one text's time on the way and what computing them allow.
async fn together(name: &str) {
    for dtype in ["bf16", "int8"] {
        println!(" GPT-2 of 124 M, {dtype}, in 4 stages of one thread each:");
        let (_, near) = sixteen(dtype, None).await;
        let (alone, all) = sixteen(dtype, Some(name)).await;
        let most = near.min(16.0 * alone);
        println!(
            "  16 texts without delays {near:.1} tokens/s together; with them one {alone:.1}, 16 {all:.1}: {:.2} of {most:.1}",
            all / most
        );
    }
}

/// Tokens a second of one text, and of sixteen together.
async fn sixteen(dtype: &str, namespaces: Option<&str>) -> (f64, f64) {
    let gpt2 = json!({ "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257 });
    let mut world = World::new(&program(), &gpt2, &["0..3", "3..6", "6..9", "9..12"]);
    if let Some(name) = namespaces {
        world.spread(name);
    }
    let flags = ["--draft", "none", "--dtype", dtype, "--memory", "4096"];
    world.start_with(&[0, 1, 2, 3], &[&ONE[..], &flags].concat());
    world.wait_for_stages(4);
    let alone = world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}")).token;
    let all = world.write_many(&prompt(), 16, 50_256);
    let _ = world.net.stop_all().await; // What is left of them is killed.
    (1.0 / alone.as_secs_f64(), all)
}

/// Made-up weights whose layers from the third on change the residual stream `scale` times as much.
fn scaled(config: &Value, scale: f32) -> random::Tensors {
    let mut tensors = random::tensors(config);
    for (name, (_, values)) in &mut tensors {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        if layer.is_some_and(|layer| layer >= 2) && (name.contains("o_proj") || name.contains("down_proj")) {
            values.iter_mut().for_each(|x| *x *= scale);
        }
    }
    tensors
}

/// Writes texts over links that delay. With drafts or without, each is what one machine writes alone.
async fn write_apart(name: &str, layers: &[&str], target: &random::Tensors, what: &str, draft: &str) {
    let mut world = World::new(&program(), &config(24, 64), layers);
    World::write_model(world.folder.path(), &config(24, 64), target);
    world.spread(name);
    world.start_with(&[0, 1, 2, 3], &[&ONE[..], &["--draft", draft]].concat());
    world.wait_for_stages(4);
    let text = Text::open(world.folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let expected = text.decode(&alone(world.folder.path(), None, &prompt()));
    let write = |_| {
        let written = world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(written.text, expected, "{what}");
        written.token
    };
    let mut times: Vec<Duration> = (0..3).map(write).collect();
    times.sort_unstable();
    println!("  {what}: {:.1} tokens/s (median of 3; {:.1?} a token)", 1.0 / times[1].as_secs_f64(), times[1]);
    let _ = world.net.stop_all().await; // What is left of them is killed.
}

/// Scales of the later layers by which the small model foresees just more, and just less, than such a share of the text.
fn around(share: f64, small: &Path) -> [f32; 2] {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..10 {
        let middle = (low + high) / 2.0;
        if agreement(&scaled(&config(24, 64), middle), small) > share { low = middle } else { high = middle }
    }
    [low, high]
}

/// How often the small model's likeliest token is the large one's, in a text of the large one.
fn agreement(tensors: &random::Tensors, small: &Path) -> f64 {
    let large = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder can be made: {e}"));
    World::write_model(large.path(), &config(24, 64), tensors);
    let [large, small] = [large.path(), small].map(|folder| {
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|e| panic!("{e}"));
        let layers = 0..checkpoint.shape().layers;
        let weights = checkpoint.load(layers, None, &mut |_, _| ()).unwrap_or_else(|e| panic!("{e}")).weights;
        Engine::new(checkpoint.shape().clone(), weights, 1).unwrap_or_else(|e| panic!("{e}"))
    });
    let mut caches = [large.cache(512), small.cache(512)];
    let (mut next, mut met) = (prompt(), 0);
    for _ in 0..TOKENS {
        let mut likeliest = [&large, &small].into_iter().zip(&mut caches).map(|(engine, cache)| {
            let x = engine.embed(&next, cache.len()).unwrap_or_else(|e| panic!("{e}"));
            let x = engine.forward(x, &mut [Part { cache, positions: next.len() }]).unwrap_or_else(|e| panic!("{e}"));
            let mut logits = engine.logits(&x[x.len() - 64..]).unwrap_or_else(|e| panic!("{e}"));
            logits[260..].fill(f32::MIN);
            (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0) as u32
        });
        let (large, small) = (likeliest.next(), likeliest.next());
        met += usize::from(large == small);
        next = large.into_iter().collect();
    }
    met as f64 / TOKENS as f64
}

/// Sends the stage in the middle a signal amid a text, again and again, while another one has its layers. It is killed in any case before the next text.
async fn pauses(what: &str, signal: &str, times: usize) {
    let mut world = World::new(&program(), &config(8, 512), &["0..0", "0..3", "3..6", "3..6", "6..8"]);
    world.start_with(&[0, 1, 2, 4], &ONE);
    world.wait_for_stages(3);
    let undisturbed = world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}"));
    let (mut pauses, mut same, mut victim) = (Vec::new(), 0, 2);
    let started = Instant::now();
    for _ in 0..times {
        let other = 5 - victim;
        world.start_with(&[other], &ONE);
        world.wait_for_stages(4);
        let written = world.write(&prompt(), |world| {
            let pid = world.net.pid(victim).unwrap_or_default().to_string();
            let _ = Command::new("kill").args([signal, &pid]).status(); // The text tells whether it worked.
        });
        match written {
            Ok(written) => {
                same += usize::from(written.text == undisturbed.text);
                pauses.push(written.pause);
            }
            Err(why) => println!("  a text ended: {why:.300}"),
        }
        let _ = world.net.kill(victim).await;
        world.wait_for_stages(3);
        victim = other;
    }
    pauses.sort_unstable();
    let at = |share: usize| {
        pauses.get((pauses.len() * share / 100).min(pauses.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!(
        " 8 layers of width 512 in 3 stages of one thread each, the middle one {what} at token {} of {TOKENS}:",
        TOKENS / 2
    );
    println!("  {same} of {times} texts are the undisturbed one; {} s in all", started.elapsed().as_secs());
    println!(
        "  longest pause: median {:.1?}, p95 {:.1?}, longest {:.1?}; undisturbed {:.1?}",
        at(50),
        at(95),
        at(100),
        undisturbed.pause
    );
    let _ = world.net.stop_all().await; // What is left of them is killed.
}

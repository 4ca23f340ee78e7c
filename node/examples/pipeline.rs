//! A model in stages, each a process of its own on this machine: what a token costs, what each stage adds, and how long a text pauses
//! when a stage is killed. `scripts/bench pipeline` runs it.
//!
//!     cargo run -p ailo-node --example pipeline -- [--kills N]

#[path = "../../tests/common/pipeline.rs"]
mod pipeline;

use pipeline::{TOKENS, World};
use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};

fn config(layers: u32, width: u32) -> Value {
    json!({ "model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": width / 16, "num_key_value_heads": width / 16, "vocab_size": 262, "max_position_embeddings": 512,
            "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6 })
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("the runtime does not start: {e}"));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kills =
        arguments.iter().position(|argument| argument == "--kills").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("pipeline; load average {}", load().trim());
    runtime.block_on(run(kills));
    println!("load average afterwards {}", load().trim());
}

async fn run(kills: Option<usize>) {
    let example = std::env::current_exe().unwrap_or_default();
    let program = example.parent().and_then(|folder| folder.parent()).unwrap_or(&example).join("ailo-node");
    let program = program.to_string_lossy();
    if let Some(kills) = kills {
        pauses(&program, kills).await;
        return;
    }
    println!(" 24 layers of width 64, greedy, {TOKENS} tokens after a prompt of 20:");
    let mut one = Duration::ZERO;
    for layers in [&["0..24"][..], &["0..0", "0..24"], &["0..12", "12..24"], &["0..6", "6..12", "12..18", "18..24"]] {
        let mut world = World::new(&program, &config(24, 64), layers);
        let serving = layers.iter().filter(|layers| **layers != "0..0").count();
        world.start(&(0..layers.len()).collect::<Vec<_>>());
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

/// Kills the stage in the middle of a text, again and again, while another one has its layers.
async fn pauses(program: &str, kills: usize) {
    let mut world = World::new(program, &config(8, 512), &["0..0", "0..3", "3..6", "3..6", "6..8"]);
    world.start(&[0, 1, 2, 4]);
    world.wait_for_stages(3);
    let undisturbed = world.write(&prompt(), |_| ()).unwrap_or_else(|why| panic!("{why}"));
    let (mut pauses, mut same, mut victim) = (Vec::new(), 0, 2);
    let started = Instant::now();
    for _ in 0..kills {
        let other = 5 - victim;
        world.start(&[other]);
        world.wait_for_stages(4);
        let written = world.write(&prompt(), |world| {
            let pid = world.net.pid(victim).unwrap_or_default().to_string();
            let _ = Command::new("kill").args(["-KILL", &pid]).status(); // The text tells whether it worked.
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
    println!(" 8 layers of width 512 in 3 stages, the middle one killed at token {} of {TOKENS}:", TOKENS / 2);
    println!("  {same} of {kills} texts are the undisturbed one; {} s in all", started.elapsed().as_secs());
    println!(
        "  longest pause: median {:.1?}, p95 {:.1?}, longest {:.1?}; undisturbed {:.1?}",
        at(50),
        at(95),
        at(100),
        undisturbed.pause
    );
}

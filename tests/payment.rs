//! A text that is paid for: a wallet deposits, a node in another hand writes, and its claim stands on the ledger; between real processes.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_node::{client::Client, genesis};
use ailo_protocol::Amount;
use common::person::*;
use pipeline::World;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

fn config() -> Value {
    json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 262, "max_position_embeddings": 512,
            "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6 })
}

#[tokio::test]
async fn who_writes_a_text_is_paid_for_it_by_who_asked() {
    let mut params = genesis::local_params(1, 0);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    // One round pays who trained; then nothing is paid but for inference.
    (params.round.rounds, params.round.pot, params.round.uptime_pay) = (1, Amount::alc(90), Amount::ZERO);
    (params.inference.price_floor, params.inference.subsidy_cap) = (alc(1), Amount::ZERO);
    params.ledger.idle_block_ms = 500;
    let mut world = World::found(env!("CARGO_BIN_EXE_ailo-node"), &config(), &["0..0", "0..4"], params);
    let model = world.folder.path().to_str().unwrap().to_string();
    let spends = ["--model", &model, "--layers", "0..0", "--spend", "0.025", "--checks", "1"];
    world.net.start_with(0, &spends).unwrap();
    world.net.start_with(1, &["--inference-only", "--model", &model, "--layers", "0..4", "--price", "market"]).unwrap();
    world
        .net
        .wait_until("a round pays", LIMIT, |all| {
            all[0].as_ref().is_some_and(|status| status.value.account.free > Amount::alc(1))
        })
        .await
        .unwrap();
    world.wait_for_stages(1);
    let people = Person::all(&world.net, 0);
    let client = Client::new(&people[0].rpc).unwrap();
    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % 256).collect();

    let refused = world.write(&prompt, |_| ()).err().unwrap();
    assert!(refused.contains("wallet deposit"), "{refused}");
    people[0].says(&["wallet", "deposit", "0.3"]);
    // 20 positions and 256 of the text are two units of 256; one stage has all of their price.
    world.write(&prompt, |_| ()).unwrap();
    let started = Instant::now();
    let paid = loop {
        let account = client.account(&people[1].address).await.unwrap().value;
        if account.free > Amount::ZERO {
            break account.free;
        }
        assert!(started.elapsed() < LIMIT, "nothing is claimed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    // 95 % of 0.02, and half of what burned on top.
    assert_eq!(paid, Amount(1_900_000 + 50_000));
    let status = world.net.status(0).await.unwrap().value;
    assert!(status.supply.law_holds);

    // The day has half a unit left, and another text needs a third one.
    let refused = world.write(&prompt, |_| ()).err().unwrap();
    assert!(refused.contains("--spend"), "{refused}");
    world.net.stop_all().await.unwrap();
}

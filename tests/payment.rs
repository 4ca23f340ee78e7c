//! A text that is paid for: a wallet deposits, a node in another hand writes, and its claim stands on the ledger; between real processes.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "common/pipeline.rs"]
mod pipeline;

use ailo_node::{client::Client, genesis};
use ailo_protocol::Amount;
use common::person::*;
use pipeline::{World, llama};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const MODEL: [usize; 5] = [64, 128, 4, 4, 4];

/// The last text failed for want of money, of this kind.
fn money(world: &World, code: &str) {
    let error = &world.broken.1;
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("insufficient_quota"), Some(code)), "{error}");
    assert_eq!(error["resume"], Value::Null);
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
    let mut world = World::found(env!("CARGO_BIN_EXE_ailo-node"), &llama(MODEL), &["0..0", "0..4"], params);
    let model = world.folder.path().to_str().unwrap().to_string();
    let spends = ["--model", &model, "--layers", "0..0", "--spend", "0.045", "--checks", "1"];
    // Somebody has a key, and may spend less than a unit costs.
    let folder = world.net.nodes[0].dir.clone();
    let create = ["api-keys", "create", "--name", "ann", "--alc-per-day", "0.0098", "--data-dir"];
    let key = common::program().args(create).arg(&folder).output().unwrap();
    assert!(key.status.success(), "{key:?}");
    let key = String::from_utf8(key.stdout).unwrap().trim().to_string();
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
    money(&world, "no_deposit");
    people[0].says(&["wallet", "deposit", "0.3"]);
    // A unit costs 0.01, and one stage has all of it: a request that may cost less is not begun.
    let refused = world.write_with(&prompt, json!({ "max_alc": "0.0099" }), |_| ()).err().unwrap();
    assert!(refused.contains("0.0099") && refused.contains("'max_alc'") && world.broken.0.is_empty(), "{refused}");
    money(&world, "max_alc");
    world.key = key;
    let refused = world.write(&prompt, |_| ()).err().unwrap();
    assert!(refused.contains("0.0098") && world.broken.0.is_empty(), "{refused}");
    money(&world, "key_limit");
    world.key.clear();
    // 20 positions and 256 of the text are two units of 256.
    let written = world.write_with(&prompt, json!({ "max_alc": "0.02" }), |_| ()).unwrap();
    assert_eq!(written.usage["alc"], "0.02");
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

    // The second unit still pays for the beginning of another text, and then that may cost no third one.
    let refused = world.write_with(&prompt, json!({ "max_alc": "0.0099" }), |_| ()).err().unwrap();
    assert!(refused.contains("'max_alc'") && !world.broken.0.is_empty(), "{refused}");
    money(&world, "max_alc");
    // Who waits for the whole of a text gets what was paid for, and why it is no more: one unit is not enough for this one.
    let partly = world.whole(&prompt, json!({ "max_tokens": 400, "max_alc": "0.01" }));
    let (choice, error) = (&partly["choices"][0], &partly["error"]);
    assert_eq!(
        (error["code"].as_str(), choice["finish_reason"].as_str()),
        (Some("max_alc"), Some("error")),
        "{partly}"
    );
    // Either may end within a character.
    let whole = |text: &str| text.trim_end_matches('\u{fffd}').to_string();
    let (some, usual) = (whole(choice["text"].as_str().unwrap()), whole(&written.text));
    assert!(!some.is_empty() && (usual.starts_with(&some) || some.starts_with(&usual)), "{partly}");
    let tokens = partly["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((1..400).contains(&tokens) && partly["usage"]["alc"] == "0.01", "{partly}");
    // The day has one and a half left: not every text that comes can be paid.
    let refused = (0..4).find_map(|_| world.write(&prompt, |_| ()).err()).unwrap();
    assert!(refused.contains("--spend"), "{refused}");
    money(&world, "daily_limit");
    world.net.stop_all().await.unwrap();
}

//! JSON-RPC of a real node over real sockets: what the reference says of it, its errors and bounds, what is told over WebSocket, the
//! operator's methods, and the examples that know nothing but the reference.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_ledger::{Body, Header, Transaction, state::Event};
use ailo_node::{
    genesis::now_ms,
    rpc::{openrpc, types::*},
};
use ailo_protocol::{Hash, keystore};
use common::{Node, ailo, get, post_with};
use jsonrpsee::core::{
    client::{ClientT, Subscription, SubscriptionClientT},
    params::ObjectParams,
};
use jsonrpsee_ws_client::{HeaderMap, WsClient, WsClientBuilder};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs,
    io::{Error, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_and_tells_what_its_reference_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start("dev", dir.path(), &["--inference-only"]);
    node.wait("it makes blocks", 60, |s| s.height >= 3);
    every_method_answers_with_height_and_root(&node);
    errors_have_names(&node);
    batches_are_bounded(&node);
    pages_of_blocks_lead_to_the_first(&node);
    only_the_operator_operates(&node, dir.path()).await;
    // The operator lets it train, and its wallet is paid.
    let status = node.wait("it trains", 60, |s| s.value.training && s.value.round.step > 0);
    let told = tokio::join!(rounds_are_told(&node), blocks_are_told(&node), peers_are_told(&node, dir.path()));
    assert_eq!(told, ((), (), ()));
    a_history_is_told_from_any_place_on(&node, &status).await;
    a_transfer_is_shown_as_far_as_it_has_come(&node, dir.path());
    examples_need_the_reference_alone(&node);
    it_rests_when_it_is_told_to(&node, dir.path(), &status);
    let token = dir.path().join("operator.token");
    assert!(token.exists());
    node.interrupt();
    assert!(!token.exists(), "the token goes with the node");
}

/// Who asks a lot over WebSocket and reads none of it is not listened to any more, and cut off in the end; meanwhile others are served and told.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_loses_its_subscription_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start("dev", dir.path(), &["--inference-only"]);
    node.wait("it makes blocks", 60, |s| s.height >= 2);
    let mut silent = TcpStream::connect(node.address()).unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    write!(silent, "GET /rpc HTTP/1.1\r\nHost: {}\r\n{upgrade}\r\n\r\n", node.address()).unwrap();
    let mut head = [0; 12];
    silent.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    silent.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    silent.write_all(&frame(&call("ailo_subscribeBlocks"))).unwrap();
    // Long questions, so that what the system keeps for both is soon full; their answers are longer.
    let question = frame(&format!("{}{}", call("rpc.discover"), " ".repeat(60_000)));
    let asked = (0..10_000).take_while(|_| silent.write_all(&question).is_ok()).count();
    assert!(asked < 10_000, "it is listened to although it reads nothing");

    let begun = Instant::now();
    for _ in 0..50 {
        node.status();
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "others wait: {:?}", begun.elapsed());
    blocks_are_told(&node).await;

    let waits = |e: &Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let is_cut = |silent: &mut TcpStream| silent.write(&question).is_err_and(|e| !waits(&e));
    while !is_cut(&mut silent) {
        assert!(begun.elapsed() < WITHIN, "it is never cut off");
    }
    node.status();
}

fn call(method: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string()
}

/// A text of a WebSocket's client, under a mask that changes nothing.
fn frame(text: &str) -> Vec<u8> {
    let length = match u8::try_from(text.len()) {
        Ok(short) if short < 126 => vec![0x80 | short],
        _ => [&[0x80 | 126][..], &u16::try_from(text.len()).unwrap().to_be_bytes()].concat(),
    };
    [&[0x81][..], &length, &[0; 4], text.as_bytes()].concat()
}

/// What to call a method with, so that it has something to answer.
fn params_for(method: &str, status: &At<Status>) -> Value {
    let (wallet, me) = (status.value.wallet, status.value.node);
    match method {
        "ailo_block" | "ailo_lightBlock" => json!({"height": 1}),
        "ailo_account" | "ailo_history" => json!({"address": wallet}),
        "ailo_node" => json!({"node": me}),
        "ailo_nextNonce" => json!({"key": me}),
        "ailo_search" => json!({"query": "round 0"}),
        "ailo_headers" => json!({"from": 2}),
        "ailo_proof" => json!({"account": wallet}),
        "ailo_submitMany" => json!({"transactions": []}),
        _ => json!({}),
    }
}

/// Methods that are asked for something that is not there yet: their errors are tested below.
const ASK_FOR_MORE: [&str; 5] =
    ["ailo_transaction", "ailo_transactionEvents", "ailo_transactionProof", "ailo_submit", "ailo_owner"];

fn every_method_answers_with_height_and_root(node: &Node) {
    let document = node.result("rpc.discover", json!({}));
    assert_eq!(document, openrpc::document());
    let status = node.status();
    for method in document["methods"].as_array().unwrap() {
        let (name, tag) = (method["name"].as_str().unwrap(), &method["tags"][0]["name"]);
        if ASK_FOR_MORE.contains(&name) || tag == "operator" || tag == "subscriptions" {
            continue;
        }
        let params = params_for(name, &status);
        let required = method["params"].as_array().unwrap().iter().filter(|param| param["required"] == true);
        required.for_each(|param| assert!(params.get(param["name"].as_str().unwrap()).is_some(), "{name}: {param}"));
        let answer = node.call(name, params);
        let result = &answer["result"];
        let root = result["state_root"].as_str();
        assert!(result["height"].is_u64() && root.is_some_and(|root| root.len() == 64), "{name}: {answer}");
    }
}

fn errors_have_names(node: &Node) {
    let document = openrpc::document();
    let errors = &document["components"]["errors"];
    let hash = "5".repeat(64);
    for (method, params, name) in [
        ("ailo_status", json!({"colour": 1}), "INVALID_PARAMS"),
        ("ailo_block", json!({"height": "x"}), "INVALID_PARAMS"),
        ("ailo_block", json!({}), "INVALID_PARAMS"),
        ("ailo_blocks", json!({"cursor": "newest"}), "INVALID_PARAMS"),
        ("ailo_history", json!({"cursor": "7-1"}), "INVALID_PARAMS"),
        ("ailo_recent", json!({"cursor": "newest"}), "INVALID_PARAMS"),
        ("ailo_block", json!({"height": 4_000_000_000u64}), "NOT_FOUND"),
        ("ailo_transaction", json!({"id": hash}), "NOT_FOUND"),
        ("ailo_transactionEvents", json!({"id": hash}), "NOT_FOUND"),
        ("ailo_transactionProof", json!({"id": hash}), "NOT_FOUND"),
        ("ailo_round", json!({"number": 4_000_000_000u64}), "NOT_FOUND"),
        ("ailo_owner", json!({"name": "nobody"}), "NOT_FOUND"),
        ("ailo_node", json!({"node": hash}), "NOT_FOUND"),
        ("ailo_submit", json!({"transaction": "00ff00"}), "MALFORMED"),
        ("ailo_operator", json!({}), "UNAUTHORIZED"),
        ("ailo_setPower", json!({"percent": 50}), "UNAUTHORIZED"),
    ] {
        let error = &node.call(method, params.clone())["error"];
        assert_eq!(error["data"]["code"], name, "{method} {params}: {error}");
        assert_eq!(error["code"], errors[name]["code"], "{method} {params}");
        let all = document["methods"].as_array().unwrap();
        let listed = &all.iter().find(|listed| listed["name"] == method).unwrap()["errors"];
        let reference = json!({"$ref": format!("#/components/errors/{name}")});
        assert!(listed.as_array().unwrap().contains(&reference), "{method} lists {name}");
    }
}

fn batches_are_bounded(node: &Node) {
    let batch = |size: usize| {
        let one = |id| json!({"jsonrpc": "2.0", "id": id, "method": "ailo_supply"});
        let body = Value::from((0..size).map(one).collect::<Vec<_>>()).to_string();
        serde_json::from_str::<Value>(&common::post(node.address(), &body)).unwrap()
    };
    let answers = batch(64);
    assert!(answers.as_array().is_some_and(|all| all.len() == 64 && all.iter().all(|one| one["result"].is_object())));
    assert_eq!(batch(65)["error"]["code"], -32010);
}

fn pages_of_blocks_lead_to_the_first(node: &Node) {
    let (mut heights, mut params) = (Vec::new(), json!({"limit": 2}));
    loop {
        let page: At<BlocksView> = serde_json::from_value(node.result("ailo_blocks", params)).unwrap();
        assert!((1..=2).contains(&page.value.blocks.len()));
        heights.extend(page.value.blocks.iter().map(|block| block.header.height));
        let Some(next) = page.value.next else { break };
        params = json!({"limit": 2, "cursor": next});
    }
    assert!(heights.len() >= 3 && heights.last() == Some(&1), "{heights:?}");
    assert!(heights.windows(2).all(|pair| pair[0] == pair[1] + 1), "{heights:?}");
    let far = node.result("ailo_blocks", json!({"cursor": "1"}));
    assert_eq!((&far["blocks"], &far["next"]), (&json!([]), &Value::Null));
}

fn says(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn only_the_operator_operates(node: &Node, dir: &Path) {
    let path = dir.join("operator.token");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&path).unwrap();
    let set = json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_setPower", "params": {"percent": 30}}).to_string();
    let host = node.address().to_string();
    let with = |header: &str| {
        let answer = post_with(&host, node.address(), &format!("Authorization: {header}\r\n"), &set);
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    for wrong in [format!("Bearer {}", "0".repeat(64)), format!("Basic {token}"), format!("Bearer {token}0")] {
        let refused = with(&wrong);
        assert_eq!(refused["error"]["data"]["code"], "UNAUTHORIZED", "{wrong}");
        assert!(refused["error"]["message"].as_str().unwrap().contains(path.to_str().unwrap()), "{refused}");
    }
    assert_eq!(with(&format!("Bearer {token}"))["result"]["power"], 30);

    // A WebSocket has the header of its upgrade.
    let headers =
        HeaderMap::from_iter([("authorization".parse().unwrap(), format!("Bearer {token}").parse().unwrap())]);
    let socket = WsClientBuilder::default().set_headers(headers).build(ws(node)).await.unwrap();
    let mut beyond = ObjectParams::new();
    beyond.insert("percent", 19).unwrap();
    let refused = socket.request::<Value, _>("ailo_setPower", beyond).await.unwrap_err().to_string();
    assert!(refused.contains("20 to 90"), "{refused}");
    let now: Value = socket.request("ailo_operator", ObjectParams::new()).await.unwrap();
    assert_eq!((&now["power"], &now["training"]), (&json!(30), &json!(false)));

    let folder = dir.to_str().unwrap();
    let set = says(&ailo(&["power", "90", "--json", "--data-dir", folder]));
    assert_eq!((&set["power"], &set["training"]), (&json!(90), &json!(false)));
    assert_eq!(says(&ailo(&["training", "on", "--json", "--data-dir", folder]))["training"], true);
}

fn ws(node: &Node) -> String {
    node.url.replace("http://", "ws://")
}

async fn socket(node: &Node) -> WsClient {
    WsClientBuilder::default().build(ws(node)).await.unwrap()
}

async fn subscribe<T: DeserializeOwned>(client: &WsClient, what: &str, params: Value) -> Subscription<T> {
    let mut object = ObjectParams::new();
    params.as_object().unwrap().iter().for_each(|(name, value)| object.insert(name, value).unwrap());
    let [begin, end] = ["subscribe", "unsubscribe"].map(|verb| format!("ailo_{verb}{what}"));
    client.subscribe(&begin, object, &end).await.unwrap()
}

async fn next<T: DeserializeOwned + Debug>(told: &mut Subscription<T>) -> T {
    tokio::time::timeout(WITHIN, told.next()).await.expect("it is told in time").unwrap().unwrap()
}

/// Each move of the round is news, and none is told twice.
async fn rounds_are_told(node: &Node) {
    let client = socket(node).await;
    let mut told: Subscription<At<RoundChange>> = subscribe(&client, "Rounds", json!({})).await;
    let mut before = next(&mut told).await.value;
    for _ in 0..5 {
        let now = next(&mut told).await.value;
        let place = |round: &RoundChange| (round.number, round.phase, round.participants, round.committed);
        assert!(place(&now) > place(&before), "{before:?}, then {now:?}");
        before = now;
    }
}

/// Every block once and in order.
async fn blocks_are_told(node: &Node) {
    let client = socket(node).await;
    let mut told: Subscription<Header> = subscribe(&client, "Blocks", json!({})).await;
    let mut before = next(&mut told).await;
    for _ in 0..5 {
        let now = next(&mut told).await;
        assert_eq!((now.height, now.parent), (before.height + 1, before.id()));
        before = now;
    }
}

/// Who asks is told at once, and whenever a peer comes or goes; a node of a network of its own has none at first.
async fn peers_are_told(node: &Node, dir: &Path) {
    let client = socket(node).await;
    let mut told: Subscription<At<PeersView>> = subscribe(&client, "Peers", json!({})).await;
    let mut peers = async || next(&mut told).await.value.peers.iter().map(|peer| peer.node).collect::<Vec<_>>();
    assert_eq!(peers().await, []);
    let network = dir.join("network.toml").to_str().unwrap().to_string();
    let bootstrap = node.status().value.listen[0].clone();
    let here = ["--inference-only", "--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", &bootstrap];
    let second = Node::start(&network, &dir.join("second"), &here);
    assert_eq!(peers().await, [second.status().value.node]);
    drop(second);
    assert_eq!(peers().await, []);
}

/// What happens to the wallet is told once and in order; who comes back goes on where it was, and sees what the history has.
async fn a_history_is_told_from_any_place_on(node: &Node, status: &At<Status>) {
    let wallet = status.value.wallet;
    let client = socket(node).await;
    let mut live: Subscription<At<EntryView>> = subscribe(&client, "History", json!({"address": wallet})).await;
    let mut entries = Vec::new();
    while entries.len() < 4 {
        entries.push(next(&mut live).await.value.entry);
    }
    live.unsubscribe().await.unwrap();
    let cursors: Vec<&str> = entries.iter().map(|entry| entry.cursor.as_str()).collect();
    let from = json!({"address": wallet, "cursor": cursors[0]});
    let mut again: Subscription<At<EntryView>> = subscribe(&client, "History", from).await;
    for cursor in &cursors[1..] {
        assert_eq!(next(&mut again).await.value.entry.cursor, *cursor);
    }
    // From before its first entry on it is told all that the history has, whatever came meanwhile.
    let mut all: Subscription<At<EntryView>> =
        subscribe(&client, "History", json!({"address": wallet, "cursor": "0-0"})).await;
    let (mut kept, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = node.result("ailo_history", json!({"address": wallet, "limit": 3, "cursor": cursor}));
        kept.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["cursor"].clone()));
        cursor = page["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert!(kept.len() >= 4);
    for cursor in kept.into_iter().rev() {
        assert_eq!(cursor, next(&mut all).await.value.entry.cursor);
    }
    let mut both = ObjectParams::new();
    both.insert("cursor", "1-1").unwrap();
    let refused = client.subscribe::<Value, _>("ailo_subscribeHistory", both, "ailo_unsubscribeHistory").await;
    assert!(refused.unwrap_err().to_string().contains("give one of them"));
}

/// On a network that needs no confirmations a transfer is confirmed in its block, and final ten minutes later.
fn a_transfer_is_shown_as_far_as_it_has_come(node: &Node, dir: &Path) {
    node.wait("it is paid", 240, |s| s.value.account.free >= ailo_protocol::Amount(50_000_000));
    let to = ailo_protocol::Address::from(ailo_protocol::Keypair::from_seed([9; 32]).public()).to_string();
    let sent = says(&ailo(&["wallet", "send", &to, "0.25", "--json", "--data-dir", dir.to_str().unwrap()]));
    let id = &sent["id"];
    let shown = |least: &str| node.call("ailo_transaction", json!({"id": id, "minStatus": least}));
    assert_eq!(shown("confirmed")["result"]["status"], "confirmed");
    assert_eq!(shown("final")["error"]["data"]["code"], "NOT_YET");
    let entries = |params: Value| -> Vec<HistoryEntry> {
        serde_json::from_value(node.result("ailo_history", params)["entries"].clone()).unwrap()
    };
    let received = entries(json!({"address": to}));
    assert!(received.iter().any(|entry| entry.free == Some(ailo_protocol::Amount(25_000_000))));
    assert_eq!(entries(json!({"address": to, "minStatus": "final"})).len(), 0);
    let events = node.result("ailo_transactionEvents", json!({"id": id}));
    let events: At<TransactionEventsView> = serde_json::from_value(events).unwrap();
    let [first, second] = &events.value.entries[..] else { panic!("{events:?}") };
    assert!(matches!(first.event, Event::TransferPending { .. }), "{first:?}");
    assert!(matches!(second.event, Event::TransferConfirmed { .. }) && events.value.whole, "{second:?}");
    let found = |query: &str| node.result("ailo_search", json!({"query": query}))["found"].clone();
    assert_eq!(found(id.as_str().unwrap()), json!({"kind": "transaction", "id": id}));
    assert_eq!(found(&to), json!({"kind": "wallet", "address": to}));
    assert_eq!(found("there is nothing of this name"), Value::Null);
    pages_of_transactions_lead_to_the_first(node, id);
    what_waits_is_found(node, dir);
    let rich: At<RichView> = serde_json::from_value(node.result("ailo_richList", json!({}))).unwrap();
    assert!(rich.value.wallets.is_sorted_by(|a, b| a.owned >= b.owned) && rich.value.first == 1, "{rich:?}");
}

fn pages_of_transactions_lead_to_the_first(node: &Node, sent: &Value) {
    let page = |cursor: &Value| -> RecentView {
        serde_json::from_value(node.result("ailo_recent", json!({"limit": 2, "cursor": cursor}))).unwrap()
    };
    let (mut all, mut cursor, mut second) = (Vec::new(), Value::Null, None);
    loop {
        let RecentView { transactions, next } = page(&cursor);
        assert!(transactions.len() <= 2);
        if all.len() == 2 {
            second = Some((cursor, transactions[0].id));
        }
        all.extend(transactions);
        let Some(next) = next else { break };
        cursor = json!(next);
    }
    assert!(all.is_sorted_by(|a, b| a.block_height >= b.block_height));
    assert_eq!(all.iter().map(|each| each.id).collect::<BTreeSet<_>>().len(), all.len(), "each once");
    assert!(all.iter().any(|each| json!(each.id) == *sent));
    // The page of an explorer goes on from the same places.
    let (cursor, id) = second.unwrap();
    let (head, body) = get(node.address(), &format!("/transactions?cursor={}", cursor.as_str().unwrap()));
    assert!(head.starts_with("HTTP/1.1 200") && body.contains(&format!("/tx/{id}")), "{head} {body}");
    assert!(!body.contains(&format!("/tx/{}", all[0].id)), "{body}");
}

/// What waits for those with the numbers before its own is found by its id all the same.
fn what_waits_is_found(node: &Node, dir: &Path) {
    let (status, body) = (node.status().value, Body::Dispute { transfer: Hash([3; 32]) });
    let key = keystore::load(&dir.join("wallet.json"), keystore::Kind::Wallet).unwrap();
    let waiting = Transaction::sign(&status.network, &key, status.account.nonce + 3, now_ms(), body);
    let id = waiting.id();
    let taken = node.call("ailo_submit", json!({"transaction": hex::encode(waiting.encode())}));
    assert_eq!(taken["result"]["id"], json!(id), "{taken}");
    let found = node.result("ailo_search", json!({"query": id}));
    assert_eq!(found["found"], json!({"kind": "transaction", "id": id}));
    let (head, _) = get(node.address(), &format!("/search?q={id}"));
    assert!(head.contains(&format!("location: /tx/{id}")), "{head}");
}

/// The examples know no method but those of `rpc.discover`.
fn examples_need_the_reference_alone(node: &Node) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let shows = |output: Output| {
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{failed}");
        for words in ["network dev, height", "newest blocks", " ALC then  ", "new blocks"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let (_, new) = said.split_once("new blocks\n").unwrap();
        assert_eq!(new.lines().count(), 2, "{said}");
    };
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let python = std::env::var("AILO_PYTHON").unwrap_or_else(|_| "python3".into());
    match runs(&python, &["--version"]) {
        true => {
            let mut example = Command::new(&python);
            shows(example.arg(folder.join("explorer.py")).args([&node.url, "--blocks", "2"]).output().unwrap());
        }
        false => println!("SKIPPED: examples/explorer.py needs python3"),
    }
    let script = folder.join("explorer.ts");
    let made = tempfile::tempdir().unwrap();
    let (flag, script) = if runs("node", &["--experimental-strip-types", "--eval", "0"]) {
        ("--experimental-strip-types", script)
    } else if runs("node", &["--experimental-websocket", "--eval", "0"]) && runs("tsc", &["--version"]) {
        let compiled = Command::new("tsc")
            .args(["--strict", "--target", "es2022", "--module", "esnext", "--outDir"])
            .arg(made.path())
            .arg(&script)
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));
        fs::write(made.path().join("package.json"), r#"{"type": "module"}"#).unwrap();
        ("--experimental-websocket", made.path().join("explorer.js"))
    } else {
        return println!("SKIPPED: examples/explorer.ts needs node 22, or node 20 and tsc");
    };
    shows(Command::new("node").arg(flag).arg(script).args([&node.url, "--blocks", "2"]).output().unwrap());
}

/// A node that rests says so on the ledger, and takes part in no round after that.
fn it_rests_when_it_is_told_to(node: &Node, dir: &Path, status: &At<Status>) {
    let rests = says(&ailo(&["training", "off", "--json", "--data-dir", dir.to_str().unwrap()]));
    assert_eq!(rests["training"], false);
    let me = status.value.node;
    let trains = || node.result("ailo_node", json!({"node": me}))["trains"] == true;
    node.wait("the ledger knows that it rests", 60, |s| !s.value.training && !trains());
    node.wait("the rounds wait for others", 120, |s| {
        s.value.round.phase == "gather" && s.value.round.participants == 0
    });
}

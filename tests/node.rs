//! One node as a real process: what it does with bad input, how it starts, answers, stops and goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_node::rpc::types::*;
use common::{Node, ailo, post, post_as, program};
use serde_json::json;
use std::{
    io::Write,
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[test]
fn bad_input_gives_one_sentence_an_exit_code_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("bad.toml"), "power = \"much\"\n").unwrap();
    std::fs::write(path("network.toml"), "name = 1\n").unwrap();
    std::fs::write(path("text"), "too short").unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_http = busy.local_addr().unwrap().to_string();
    let busy_listen = format!("/ip4/127.0.0.1/tcp/{}", busy.local_addr().unwrap().port());
    let data = path("data");
    let dev = ["run", "--network", "dev", "--validator", "--data-dir", &data];
    let with = |more: &[&str]| dev.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>();
    let run = |args: &[&str]| args.iter().map(ToString::to_string).collect::<Vec<_>>();
    let cases = [
        (run(&["run", "--config", &path("bad.toml")]), "bad.toml"),
        (run(&["run", "--network", &path("network.toml"), "--data-dir", &data]), "network.toml"),
        (run(&["run", "--network", &path("missing.toml"), "--data-dir", &data]), "missing.toml"),
        (run(&["run"]), "--network"),
        (with(&["--colour"]), "--colour"),
        (with(&["--power", "95"]), "95"),
        (with(&["--data", &path("nowhere")]), "nowhere does not exist"),
        (with(&["--data", &path("text")]), "give it more text"),
        (with(&["--wallet", "ailo1qqqq"]), "address"),
        (with(&["--listen", "somewhere"]), "--listen"),
        (with(&["--http", &busy_http]), "in use"),
        (with(&["--http", "127.0.0.1:0", "--listen", &busy_listen]), "in use"),
        (run(&["wallet", "send", "ailo1nonsense", "1", "--data-dir", &data]), "ailo1nonsense"),
        (run(&["status", "--data-dir", &path("empty")]), "no node runs"),
        (run(&["status", "--rpc", "http://127.0.0.1:1/rpc"]), "no node answers"),
        (run(&["localnet", "--nodes", "2", "--validators", "3"]), "--validators 3"),
        (run(&["localnet", "--set", "training.colour=1"]), "no parameter colour"),
        (run(&["genesis", "--out", &path("new.toml"), "--params", "dev", "--founder", "abc"]), "--founder"),
        (
            run(&["genesis", "--out", &path("new.toml"), "--params", &path("missing.toml"), "--founder", "a"]),
            "missing.toml",
        ),
        (run(&["genesis", "--out", &path("new.toml"), "--params", &path("bad.toml"), "--founder", "a"]), "power"),
        (run(&["genesis", "--out", &path("new.toml"), "--set", "ledger.fee", "--founder", "a"]), "ledger.fee"),
    ];
    for (args, expected) in cases {
        let output = ailo(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(!output.status.success(), "{args:?} must fail");
        assert!(said.contains(expected), "{args:?} must say {expected:?}, not: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{args:?} says one thing: {said}");
    }
}

#[test]
fn a_full_disk_is_said_and_ends_the_node() {
    let mount = tempfile::tempdir().unwrap();
    let target = mount.path().to_str().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs", target]).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: this needs the right to mount a small tmpfs");
        return;
    }
    let data = mount.path().join("node");
    let output = program()
        .args([
            "run",
            "--network",
            "dev",
            "--validator",
            "--cpu",
            "--http",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| {
            // Fill what is left once the node has its folder, so that the ledger itself meets the full disk.
            let started = Instant::now();
            while !data.join("rpc").exists() && started.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut filler = std::fs::File::create(mount.path().join("filler"))?;
            while filler.write_all(&[0; 4096]).is_ok() {}
            child.wait_with_output()
        });
    let unmounted = Command::new("umount").arg("-l").arg(target).status();
    assert!(unmounted.unwrap().success());
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("error:") && said.contains("space"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_development_node_trains_answers_stops_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start("dev", dir.path(), &[]);

    let first = node.wait("it trains", 60, |s| s.value.round.step > 0);
    assert_eq!(first.value.confirmations, 0);
    assert!(first.value.notes.iter().any(|n| n.contains("0 confirmations")), "{:?}", first.value.notes);

    // RPC answers quickly while training runs at full load.
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let started = Instant::now();
            node.status();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("status while training: median {:?}, 90th percentile {:?}, worst {:?}", times[50], times[90], times[99]);
    assert!(times[50] < Duration::from_millis(50), "median {:?}", times[50]);

    // Garbage gets an answer that says what is wrong, and the node lives on.
    for (body, expected) in [
        ("nonsense".to_string(), "-32700"),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_nothing"}).to_string(), "-32601"),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_block", "params": {"height": "x"}}).to_string(), "-32602"),
        (
            json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_submit", "params": {"transaction": "zz"}}).to_string(),
            "malformed",
        ),
        (
            json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_submit", "params": {"transaction": "00ff00"}})
                .to_string(),
            "malformed",
        ),
        (
            json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_block", "params": {"height": 4_000_000_000u64}})
                .to_string(),
            "-32001",
        ),
    ] {
        let answer = post(node.address(), &body);
        assert!(answer.contains(expected), "{body} must be answered with {expected}, not {answer}");
    }

    // A page that points its own name at this machine reads nothing.
    let status = json!({"jsonrpc": "2.0", "id": 1, "method": "ailo_status"}).to_string();
    assert!(post_as("evil.example", node.address(), &status).contains("--allow-host"));
    assert!(post_as("localhost", node.address(), &status).contains("height"));

    // More than its uptime earns.
    let paid = |s: &At<Status>| s.value.model.rounds >= 1 && s.value.account.free >= ailo_protocol::Amount(50_000_000);
    let closed = node.wait("a round is paid", 240, paid);
    assert!(closed.value.supply.law_holds);

    // A transfer on this network of no confirmations is confirmed in its block.
    let dir_text = dir.path().to_str().unwrap();
    let to = ailo_protocol::Address::from(ailo_protocol::Keypair::from_seed([9; 32]).public()).to_string();
    let sent = ailo(&["wallet", "send", &to, "0.25", "--memo", "thanks", "--json", "--data-dir", dir_text]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let sent: At<TransactionView> = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!(sent.value.status, "confirmed");
    let account = node.call("ailo_account", json!({"address": to}));
    assert_eq!(account["result"]["free"], "0.25");
    let history = ailo(&["wallet", "history", "--data-dir", dir_text]);
    assert!(String::from_utf8_lossy(&history.stdout).contains("0.25"), "{history:?}");
    let too_much = ailo(&["wallet", "send", &to, "1000000", "--data-dir", dir_text]);
    assert!(!too_much.status.success());

    // The same in steps, with the key in another place than the node.
    let draft = dir.path().join("draft.json");
    let draft = draft.to_str().unwrap();
    let wallet = dir.path().join("wallet.json");
    let built =
        ailo(&["tx", "build", "transfer", "--to", &to, "--amount", "0.5", "--data-dir", dir_text, "--out", draft]);
    assert!(built.status.success(), "{built:?}");
    assert!(ailo(&["tx", "sign", draft, "--wallet", wallet.to_str().unwrap()]).status.success());
    let sent = ailo(&["tx", "submit", draft, "--data-dir", dir_text]);
    assert!(String::from_utf8_lossy(&sent.stdout).contains("sends 0.5 ALC"), "{sent:?}");
    assert_eq!(node.call("ailo_account", json!({"address": to}))["result"]["free"], "0.75");
    let again = ailo(&["tx", "submit", draft, "--data-dir", dir_text, "--json"]);
    let refused: serde_json::Value = serde_json::from_slice(&again.stderr).unwrap();
    assert_eq!((again.status.code(), refused["error"]["kind"].as_str()), (Some(5), Some("refused")), "{refused}");

    // It writes text.
    let text = ailo(&["generate", "The ledger", "--max-tokens", "20", "--seed", "1", "--data-dir", dir_text]);
    assert!(text.status.success() && text.stdout.len() > 20, "{text:?}");

    let before = node.status();
    let (took, status) = node.interrupt();
    assert!(took < Duration::from_secs(5), "Ctrl-C took {took:?}");
    assert!(status.success(), "{status}");

    let again = Node::start("dev", dir.path(), &[]);
    let environment = std::fs::read(format!("/proc/{}/environ", again.child.id())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("MALLOC_ARENA_MAX=4"), "a node sets its heap's bounds");
    let after = again.status();
    assert!(after.height >= before.height && after.value.model.rounds >= before.value.model.rounds);
    assert_eq!(after.value.network, before.value.network);
    again.wait("it trains again", 60, |s| s.value.round.step > 0 && s.height > before.height);
}

#[test]
fn a_network_is_founded_with_keys_and_genesis_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let says = |args: &[&str]| {
        let output = ailo(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let keys = says(&["keys", "--data-dir", &path("a")]);
    assert_eq!(keys, says(&["keys", "--data-dir", &path("a")]), "keys are made once");
    let founder = keys.lines().find_map(|line| line.strip_prefix("founder")).unwrap().trim();
    let found = |out: &str, set: &str| {
        let params = ["--params", "dev", "--set", set];
        says(&[&["genesis", "--out", &path(out), "--name", "ours", "--founder", founder], &params[..]].concat())
    };
    let id = |said: &str| said.split_whitespace().last().unwrap().to_string();
    let ours = found("net.toml", "ledger.memo_bytes=64");
    let other = found("other.toml", "ledger.memo_bytes=65");
    assert_ne!(id(&ours), id(&other), "the id covers every parameter");
    let again = ailo(&["genesis", "--out", &path("net.toml"), "--params", "dev", "--founder", founder]);
    assert!(!again.status.success(), "a network file is not written over");

    let node = Node::start(&path("net.toml"), &dir.path().join("a"), &["--inference-only"]);
    let status = node.wait("its founder makes blocks", 60, |s| s.height >= 2);
    assert_eq!(status.value.network.to_string(), id(&ours));

    // It is seen by whoever looks whether it can be reached, and a backup waits for its end.
    let looked = ailo(&["doctor", "--json", "--cpu", "--data-dir", &path("a"), "--bootstrap", &status.value.listen[0]]);
    let looked = String::from_utf8(looked.stdout).unwrap();
    let findings: Vec<serde_json::Value> = looked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for check in ["settings", "libtorch", "keys", "folder", "peers", "clock"] {
        let finding = findings.iter().find(|finding| finding["check"] == check).unwrap();
        assert_eq!(finding["level"], "ok", "{finding}");
    }
    let kept = ["backup", "--data-dir", &path("a"), &path("a.tar")];
    assert!(String::from_utf8_lossy(&ailo(&kept).stderr).contains("another ailo-node runs"));
    node.interrupt();
    says(&kept);
    says(&["restore", &path("a.tar"), "--data-dir", &path("b"), "--network-height", &status.height.to_string()]);
    assert_eq!(keys, says(&["keys", "--data-dir", &path("b")]), "it has the same keys");

    let elsewhere = ailo(&["run", "--network", &path("other.toml"), "--data-dir", &path("a"), "--http", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("belongs to another network"));
}

#[test]
fn every_block_reaches_a_subscriber_once_and_in_order() {
    use jsonrpsee::core::client::{Subscription, SubscriptionClientT};
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start("dev", dir.path(), &["--inference-only"]);
    let url = node.url.replace("http://", "ws://");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let heights: Vec<u64> = runtime.block_on(async {
        let client = jsonrpsee_ws_client::WsClientBuilder::default().build(&url).await.unwrap();
        let no_params = jsonrpsee::core::params::ArrayParams::new();
        let mut blocks: Subscription<ailo_ledger::Header> =
            client.subscribe("ailo_subscribeBlocks", no_params, "ailo_unsubscribeBlocks").await.unwrap();
        let mut heights = Vec::new();
        while heights.len() < 3 {
            let header = tokio::time::timeout(Duration::from_secs(30), blocks.next()).await.unwrap().unwrap().unwrap();
            heights.push(header.height);
        }
        heights
    });
    assert!(heights.windows(2).all(|w| w[1] == w[0] + 1), "{heights:?}");
}

#[test]
fn a_second_process_in_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _node = Node::start("dev", dir.path(), &["--inference-only"]);
    let second =
        ailo(&["run", "--network", "dev", "--data-dir", dir.path().to_str().unwrap(), "--http", "127.0.0.1:0"]);
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another ailo-node runs"));
}

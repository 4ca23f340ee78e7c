//! One node as a real process: what it does with bad input, how it starts, answers, stops and goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_node::rpc::types::*;
use ailo_protocol::keystore::{self, Kind};
use common::{Node, ailo, get, post, post_as, program};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
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
        .and_then(|mut child| {
            // Fill what is left once the node has its folder, and whatever it gives back, so that the ledger itself meets the full disk.
            let started = Instant::now();
            while !data.join("rpc").exists() && started.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut filler = std::fs::File::create(mount.path().join("filler"))?;
            while child.try_wait()?.is_none() && started.elapsed() < Duration::from_secs(120) {
                while filler.write_all(&[0; 512]).is_ok() {}
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill(); // If it goes on, it has failed, and the test says so.
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
    let loud =
        "info,ailo_node=trace,ailo_protocol=trace,ailo_ledger=trace,jsonrpsee=trace,jsonrpsee_server=trace,hyper=trace";
    let node = Node::start("dev", dir.path(), &["--log", loud]);

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
    // Who sends it again is told where it stands, and pays nothing more.
    let again = ailo(&["tx", "submit", draft, "--data-dir", dir_text]);
    assert_eq!(again.stdout, sent.stdout, "{again:?}");
    assert_eq!(node.call("ailo_account", json!({"address": to}))["result"]["free"], "0.75");

    // It writes text.
    let text = ailo(&["generate", "The ledger", "--max-tokens", "20", "--seed", "1", "--data-dir", dir_text]);
    assert!(text.status.success() && text.stdout.len() > 20, "{text:?}");

    metrics_are_served_for_the_dashboard_and_the_alerts(&node, &node.status());
    let (before, paid_before) = (node.status(), earned(&node));
    let (took, status) = node.interrupt();
    assert!(took < Duration::from_secs(5), "Ctrl-C took {took:?}");
    assert!(status.success(), "{status}");
    the_log_tells_what_happened_and_no_secrets(dir.path());

    let again = Node::start("dev", dir.path(), &[]);
    let environment = std::fs::read(format!("/proc/{}/environ", again.child.id())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("MALLOC_ARENA_MAX=4"), "a node sets its heap's bounds");
    let after = again.status();
    assert!(after.height >= before.height && after.value.model.rounds >= before.value.model.rounds);
    assert_eq!(after.value.network, before.value.network);
    again.wait("it trains again", 60, |s| s.value.round.step > 0 && s.height > before.height);
    assert!(paid_before > 0 && earned(&again) >= paid_before, "what was earned before counts");

    // While it trains and writes texts, it ends as soon when a service manager asks.
    let address = again.address();
    let (begun, writing) = std::sync::mpsc::channel();
    let asker = std::thread::spawn(move || ask_for_texts(address, &begun));
    writing.recv_timeout(Duration::from_secs(30)).expect("texts come");
    let (took, status) = again.end("-TERM");
    assert!(took < Duration::from_secs(5), "SIGTERM took {took:?}");
    assert!(status.success(), "{status}");
    asker.join().unwrap();
}

/// Units that a node has counted as its pay since the network's beginning, which is minutes ago.
fn earned(node: &Node) -> u64 {
    let earned: At<EarningsView> = serde_json::from_value(node.result("ailo_earnings", json!({}))).unwrap();
    let EarningsView { kinds, hours, days, whole, .. } = earned.value;
    let all: u64 = kinds.iter().map(|kind| kind.all.0).sum();
    for spans in [&hours, &days] {
        assert_eq!(spans.iter().flat_map(|span| &span.kinds).map(|paid| paid.amount.0).sum::<u64>(), all);
    }
    assert!(whole && kinds.iter().all(|kind| kind.day == kind.all), "{kinds:?}");
    all
}

/// Asks for one text after the other while somebody answers, and says when each has begun.
fn ask_for_texts(address: SocketAddr, begun: &std::sync::mpsc::Sender<()>) {
    let models: Value = serde_json::from_str(&get(address, "/v1/models").1).unwrap();
    let ask = json!({"model": models["data"][0]["id"], "prompt": "The ledger", "stream": true}).to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close";
    while let Ok(mut stream) = TcpStream::connect(address) {
        let _ = write!(stream, "{head}\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{ask}", ask.len());
        let (mut read, mut text) = ([0; 1024], Vec::new());
        while let Ok(bytes @ 1..) = stream.read(&mut read) {
            text.extend_from_slice(&read[..bytes]);
            if String::from_utf8_lossy(&text).contains("data: {") {
                let _ = begun.send(()); // nobody may listen any more
            }
        }
    }
}

/// Every name in an expression that a node could serve.
fn names(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| ["ailo_", "process_", "libp2p_"].iter().any(|prefix| word.starts_with(prefix))).collect()
}

fn metrics_are_served_for_the_dashboard_and_the_alerts(node: &Node, status: &At<Status>) {
    let (head, page) = get(node.address(), "/metrics");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    let page = if head.to_lowercase().contains("chunked") { dechunked(&page) } else { page };
    assert!(page.trim_end().ends_with("# EOF"), "{page}");
    let mut served = std::collections::BTreeSet::new();
    for (name, kind) in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        match kind {
            "counter" => drop(served.insert(format!("{name}_total"))),
            "histogram" => served.extend(["_bucket", "_count", "_sum"].map(|end| format!("{name}{end}"))),
            _ => drop(served.insert(name.to_string())),
        }
    }
    let value = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    };
    assert!((1.0..=status.height as f64 + 100.0).contains(&value("ailo_block_height")));
    assert!(value("ailo_contributions_total{outcome=\"accepted\"}") >= 1.0);
    assert!(value("ailo_earned_alc_total{kind=\"training\"}") > 0.0);
    assert!(value("ailo_texts_total{end=\"finished\"}") >= 1.0 && value("ailo_text_tokens_total") >= 20.0);
    assert!(value("ailo_text_first_token_seconds_count") >= 1.0);
    assert!(value("ailo_reachability{state=\"unknown\"}") == 1.0 && value("ailo_peers{way=\"direct\"}") == 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6 && value("ailo_disk_free_bytes") > 0.0);

    let config = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(path);
        std::fs::read_to_string(path).unwrap()
    };
    let mut expressions = Vec::new();
    fn visit(value: &Value, expressions: &mut Vec<String>) {
        match value {
            Value::Object(all) => {
                expressions.extend(all.get("expr").map(|text| text.as_str().unwrap().to_string()));
                all.values().for_each(|value| visit(value, expressions));
            }
            Value::Array(all) => all.iter().for_each(|value| visit(value, expressions)),
            _ => {}
        }
    }
    visit(&serde_json::from_str(&config("grafana/ailo-node.json")).unwrap(), &mut expressions);
    let panels = expressions.len();
    // A rule is its name, an expression, and what a person reads.
    let alerts = config("prometheus/alerts.yml");
    let rules: Vec<&str> = alerts.split("      - alert: ").skip(1).collect();
    for rule in &rules {
        let field = |name: &str| rule.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        expressions.push(field("expr").unwrap_or_else(|| panic!("{rule}")).to_string());
        assert!(field("labels").is_some_and(|labels| labels.contains("severity: ")), "{rule}");
        assert!(field("summary").is_some_and(|text| text.len() > 20), "{rule}");
    }
    assert!(panels > 30 && rules.len() > 10);
    for expression in &expressions {
        let named = names(expression);
        assert!(!named.is_empty() || expression.starts_with("up{"), "{expression}");
        for name in named {
            // A node that has had no peer has counted no bytes yet.
            let counted_later = name == "libp2p_bandwidth_bytes_total";
            assert!(counted_later || served.contains(name), "{expression}: a node serves no {name}");
        }
    }
}

/// A body in pieces, each after its length.
fn dechunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        whole.push_str(&more[..length]);
        rest = more[length..].trim_start_matches("\r\n");
    }
    whole
}

fn the_log_tells_what_happened_and_no_secrets(dir: &std::path::Path) {
    let dir_text = dir.to_str().unwrap();
    let logs = |more: &[&str]| {
        let output = ailo(&[&["logs", "--data-dir", dir_text], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let closed = logs(&["--json", "--grep", "ROUND closed"]);
    let record: ailo_node::logs::Record = serde_json::from_str(closed.lines().next().expect("a round closed")).unwrap();
    assert!(record.fields.iter().any(|(name, value)| name == "accepted" && value == "1"), "{record:?}");
    assert!(logs(&["--level", "error"]).is_empty() && logs(&["--level", "info"]).contains("listening"));
    let all = logs(&[]);
    assert!(all.lines().count() > closed.lines().count());
    // Nor does what libraries say of requests, at the level that tells most.
    for (file, kind) in [("node.json", Kind::Node), ("wallet.json", Kind::Wallet)] {
        let secret = hex::encode(keystore::load(&dir.join(file), kind).unwrap().seed());
        assert!(!all.contains(&secret) && !all.contains("The ledger"), "{file}, or a text, is in the log");
    }
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
    let findings: Vec<Value> = looked.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finding = |check: &str| findings.iter().find(|finding| finding["check"] == check).unwrap();
    for check in ["settings", "libtorch", "folder", "peers", "clock"] {
        assert_eq!(finding(check)["level"], "ok", "{}", finding(check));
    }
    let advice = finding("keys")["advice"].as_str().unwrap();
    assert!(finding("keys")["level"] == "warn" && advice.contains("wallet passphrase"), "{}", finding("keys"));
    let kept = ["backup", "--data-dir", &path("a"), &path("a.tar")];
    assert!(String::from_utf8_lossy(&ailo(&kept).stderr).contains("another ailo-node runs"));
    node.interrupt();
    says(&kept);
    says(&["restore", &path("a.tar"), "--data-dir", &path("b"), "--network-height", &status.height.to_string()]);
    assert_eq!(keys, says(&["keys", "--data-dir", &path("b")]), "it has the same keys");

    // Its first start made the journal. Keys alone tell nothing of what they have signed, also where there is no block yet.
    assert!(dir.path().join("a/ledger/journal").exists() && !dir.path().join("a/node.unused").exists());
    std::fs::create_dir(path("c")).unwrap();
    for file in ["node.json", "wallet.json"] {
        std::fs::copy(dir.path().join("a").join(file), dir.path().join("c").join(file)).unwrap();
    }
    let quiet = ["--cpu", "--inference-only", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let alone = ailo(&[&["run", "--network", &path("net.toml"), "--data-dir", &path("c")], &quiet[..]].concat());
    let why = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.code() == Some(6) && why.contains("signing journal") && why.contains("restore"), "{why}");

    let elsewhere = ailo(&["run", "--network", &path("other.toml"), "--data-dir", &path("a"), "--http", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("belongs to another network"));
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

//! Traces of a node that runs: what a collector gets by OTLP, what it does not, and what a node does without one.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/collector.rs"]
mod collector;
mod common;
#[path = "common/listener.rs"]
mod listener;

use ailo_node::rpc::types::*;
use collector::Collector;
use common::{Node, ailo, ask};
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

const PROMPT: &str = "The herons of Zanzibar";

/// A text that a node writes for whoever has this key, once it has a model.
fn write(address: SocketAddr, key: &str) -> String {
    let body = json!({ "prompt": PROMPT, "max_tokens": 20, "temperature": 0.5, "seed": 1 }).to_string();
    let head = ["Content-Type: application/json", &format!("Authorization: Bearer {key}")];
    let started = Instant::now();
    loop {
        let answer = ask(address, "POST", "/v1/completions", &head, &body).1;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
        if let Some(text) = answer["choices"][0]["text"].as_str() {
            assert!(text.len() > 10, "{answer}");
            return text.into();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{answer}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// How many sockets a process listens at, and how many of its connections it has begun itself.
fn sockets(process: u32) -> (usize, usize) {
    let files =
        std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().filter_map(|file| file.ok()?.path().read_link().ok());
    let own: Vec<String> = files.map(|file| file.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|row| own.contains(&format!("socket:[{}]", row[9]))).collect();
    let is_heard = |row: &&Vec<&str>| row[3] == "0A";
    let heard: Vec<&str> = rows.iter().filter(is_heard).map(|row| row[1]).collect();
    let begun = rows.iter().filter(|row| !heard.contains(&row[1]));
    (heard.len(), begun.count())
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_collector_gets_what_takes_time_and_nothing_of_what_is_said() {
    let (collector, dir) = (Collector::start(), tempfile::tempdir().unwrap());
    let folder = dir.path().to_str().unwrap();
    let key = ailo(&["api-keys", "create", "--name", "ann", "--data-dir", folder]);
    let key = String::from_utf8(key.stdout).unwrap().trim().to_string();
    assert!(key.starts_with("sk-"), "{key}");
    let url = format!("http://{}", collector.address);
    let node = Node::start("dev", dir.path(), &["--upnp=false", "--log", "info", "--otlp", &url]);
    let text = write(node.address(), &key);
    let status = node.status();

    let request = collector.wait("/v1/completions", &[("outcome", "finished")]);
    let expected = [("texts", "1"), ("stream", "false"), ("tokens_written", "20")];
    assert!(expected.iter().all(|(name, value)| request.says[*name] == *value), "{:?}", request.says);
    assert!(request.says["tokens_read"].parse::<usize>().unwrap() > 1 && !request.says["model"].is_empty());
    let me = status.value.node.short();
    let node_is = [("service.name", "ailo-node"), ("service.instance.id", &me), ("ailo.network", "dev")];
    assert!(node_is.iter().all(|(name, value)| request.node[*name] == *value), "{:?}", request.node);
    assert!(request.node.contains_key("service.version"));
    // A text is a part of its request, and takes no longer.
    let written = collector.wait("text", &[("outcome", "finished"), ("tokens_written", "20")]);
    assert_eq!(written.says["tokens_read"], request.says["tokens_read"]);
    assert!(written.says["stages"].starts_with(&format!("{me} 0..")), "{:?}", written.says);
    assert!(written.says["first_token_ms"].parse::<u64>().is_ok());
    assert_eq!(written.span.parent_span_id, request.span.span_id);
    let (whole, part) = (&request.span, &written.span);
    assert!(
        whole.start_time_unix_nano <= part.start_time_unix_nano && part.start_time_unix_nano < part.end_time_unix_nano
    );
    assert!(part.end_time_unix_nano <= whole.end_time_unix_nano);

    collector.wait("rpc", &[("method", "ailo_status"), ("outcome", "ok")]);
    let round = collector.wait("round", &[("outcome", "closed")]);
    let number = round.says["round"].as_str();
    for (phase, work) in
        [("gather", ""), ("train", "train a slot"), ("verify", "check contributions"), ("vote", "make the next state")]
    {
        let phase = collector.wait(phase, &[("round", number)]);
        assert_eq!(phase.span.parent_span_id, round.span.span_id);
        if !work.is_empty() {
            let work = collector.wait(work, &[("round", number), ("outcome", "done")]);
            assert_eq!(work.span.parent_span_id, phase.span.span_id);
        }
    }

    // What has just happened arrives, and the stop waits for no more than that.
    node.call("ailo_herons", json!({}));
    let (took, ended) = node.interrupt();
    assert!(took < Duration::from_secs(5) && ended.success(), "{took:?}: {ended}");
    collector.wait("rpc", &[("outcome", "-32601")]);
    let bytes = collector.bytes();
    for secret in [PROMPT, "herons", &text, &key, &key[3..], "127.0.0.1"] {
        assert!(!has(&bytes, secret), "{secret:?} is told to the collector");
    }
    assert!(has(&bytes, "ailo_status"));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("traces are sent") && !log.contains("a slot{"), "spans are no matter of the log: {log}");

    // Without one there is no more than the ports for peers and for HTTP.
    let node = Node::start("dev", dir.path(), &["--upnp=false"]);
    write(node.address(), &key);
    node.status();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sockets(node.child.id()), (2, 0));
    assert_eq!(collector.bytes().len(), bytes.len());
}

/// Lines of the log that tell of a collector that does not answer.
fn complaints(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("logs/node.jsonl")).unwrap().matches("do not reach the collector").count()
}

#[test]
fn a_collector_that_is_away_or_hangs_holds_up_nothing() {
    // It takes connections, and never answers.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = (hangs.local_addr().unwrap(), Some(hangs));
    let away = (TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(), None);
    for (address, listener) in [hangs, away] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start("dev", dir.path(), &["--inference-only", "--otlp", &format!("http://{address}")]);
        let started = Instant::now();
        while complaints(dir.path()) == 0 {
            let _: At<Status> = node.status();
            assert!(started.elapsed() < Duration::from_secs(60), "nothing is said of it");
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(3));
        node.status();
        let (took, ended) = node.interrupt();
        assert!(took < Duration::from_secs(5) && ended.success(), "{listener:?}: {took:?}: {ended}");
        assert_eq!(complaints(dir.path()), 1, "it is said once in a while");
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for (address, why) in [("localhost", "like http://127.0.0.1:4318"), ("https://collector", "run one beside it")] {
        for args in
            [["run", "--network", "dev", "--data-dir", folder], ["serve", "--http", "127.0.0.1:0", "--model", folder]]
        {
            let refused = ailo(&[&args[..], &["--otlp", address]].concat());
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains(why) && said.matches("error:").count() == 1, "{said}");
        }
    }
}

//! The program as a real process, and a node that runs, for the tests that ask it by command line and JSON-RPC.

#![allow(clippy::unwrap_used, missing_docs, dead_code)] // Each test uses its part.

pub mod person;

use ailo_node::rpc::types::*;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ailo-node");

/// The program, whatever the environment says.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for variable in ["AILO_DATA_DIR", "AILO_RPC", "AILO_NETWORK", "AILO_CHECKPOINT"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn ailo(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

/// A validating node in its own folder; killed when the test ends, however it ends.
pub struct Node {
    pub child: Child,
    pub url: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts it on `network` (a file, or `dev`) and waits for its JSON-RPC.
    pub fn start(network: &str, dir: &Path, more: &[&str]) -> Node {
        std::fs::create_dir_all(dir).unwrap();
        let _ = std::fs::remove_file(dir.join("rpc"));
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let child = program()
            .args(["run", "--network", network, "--validator", "--cpu", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(more)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut node = Node { child, url: String::new() };
        let started = Instant::now();
        while node.url.is_empty() {
            assert!(node.child.try_wait().unwrap().is_none(), "the node ended: {}", node.log(dir));
            assert!(started.elapsed() < Duration::from_secs(60), "no JSON-RPC after 60 s: {}", node.log(dir));
            node.url = std::fs::read_to_string(dir.join("rpc")).unwrap_or_default();
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    pub fn log(&self, dir: &Path) -> String {
        std::fs::read_to_string(dir.join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").trim_end_matches("/rpc").parse().unwrap()
    }

    /// The whole answer to a call, an error included.
    pub fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let text = post(self.address(), &body);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The result of a call; null when it failed.
    pub fn result(&self, method: &str, params: Value) -> Value {
        self.call(method, params)["result"].clone()
    }

    pub fn status(&self) -> At<Status> {
        serde_json::from_value(self.result("ailo_status", json!({}))).unwrap()
    }

    pub fn wait(&self, what: &str, seconds: u64, condition: impl Fn(&At<Status>) -> bool) -> At<Status> {
        let started = Instant::now();
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s: {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ctrl-C; how long the node took to end, and how it ended.
    pub fn interrupt(self) -> (Duration, ExitStatus) {
        self.end("-INT")
    }

    /// The same with any signal.
    pub fn end(mut self, signal: &str) -> (Duration, ExitStatus) {
        let started = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (started.elapsed(), status)
    }
}

/// A bare HTTP POST, so that no test depends on our own client.
pub fn post(address: SocketAddr, body: &str) -> String {
    post_as(&address.to_string(), address, body)
}

/// The head and the body of what a request brings; `more` are header lines.
pub fn ask(address: SocketAddr, method: &str, path: &str, more: &[&str], body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let more: String = more.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.into(), body.into())
}

/// The head and the body of what a GET brings.
pub fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, "GET", path, &[], "")
}

/// The same under another name of the server.
pub fn post_as(host: &str, address: SocketAddr, body: &str) -> String {
    post_with(host, address, "", body)
}

/// The same with more lines of the head, each with its end.
pub fn post_with(host: &str, address: SocketAddr, more: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /rpc HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_string()
}

//! `ailo-node serve` as a process, with a small model of made-up weights, and a bare HTTP client, so that no test depends on our own.

#![allow(clippy::unwrap_used, missing_docs, dead_code)] // Each test uses its part.

use ailo_training::checkpoint::random;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// The program, whatever the environment says.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ailo-node"));
    for variable in ["AILO_DATA_DIR", "AILO_API_KEY", "AILO_REQUIRE_API_KEY"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// What a command says that succeeds.
pub fn says(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = program().args(args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// A checkpoint's folder.
pub fn checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 4096,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "eos_token_id": 261 });
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    random::write(folder.path(), &config, &random::tensors(&config), 1).unwrap();
    random::write_tokenizer(folder.path(), Some(template)).unwrap();
    folder
}

/// A running server; killed when the test ends, however it ends.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What computes, if it is no processor.
    pub card: Option<String>,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn start(http: &str, more: &[&str]) -> Server {
        Server::start_as(program(), http, more)
    }

    /// The same with a program that has an environment of its own.
    pub fn start_as(mut serve: Command, http: &str, more: &[&str]) -> Server {
        let folder = checkpoint();
        serve.args(["serve", "--http", http, "--threads", "1", "--memory", "64", "--model"]).arg(folder.path());
        let mut child = serve.args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_once("http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        let card = line.split_once(" on ").and_then(|(_, rest)| Some(rest.split_once(" (")?.0.to_string()));
        let mut address: SocketAddr = address.unwrap_or_else(|| panic!("no address in: {line}"));
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        Server { child, address, card, _folder: folder }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Sends a request; the answer's head has been read.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reading {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let usual = [("host", self.address.to_string()), ("content-type", "application/json".to_string())];
        let usual = usual.iter().filter(|(name, _)| headers.iter().all(|(given, _)| given != name));
        for (name, value) in usual.map(|(name, value)| (*name, value.as_str())).chain(headers.iter().copied()) {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let (mut lines, mut line, mut answer) = (BufReader::new(stream), String::new(), Vec::new());
        while lines.read_line(&mut line).unwrap() > 2 {
            answer.push(line.trim_end().to_string());
            line.clear();
        }
        let status = answer[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers = answer[1..].iter().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_string())).collect();
        Reading { status, headers, lines }
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut reading = self.send(method, path, headers, body);
        let mut body = String::new();
        reading.lines.read_to_string(&mut body).unwrap();
        Answer { status: reading.status, headers: reading.headers, body }
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.ask("POST", path, headers, body.to_string().as_bytes())
    }

    /// The stream of events that answers a request; whoever drops it goes away.
    pub fn stream(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Events {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let reading = self.send("POST", path, headers, body.to_string().as_bytes());
        assert_eq!(reading.status, 200);
        assert!(reading.headers.contains(&("content-type".into(), "text/event-stream".into())));
        Events { lines: reading.lines, done: false }
    }
}

struct Reading {
    status: u16,
    headers: Vec<(String, String)>,
    lines: BufReader<TcpStream>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of an error in OpenAI's form.
    pub fn error(&self) -> String {
        let error = self.json()["error"].clone();
        assert!(!error["message"].as_str().unwrap().is_empty() && error["type"].is_string(), "{self:?}");
        assert!(error.as_object().unwrap().contains_key("param"), "{self:?}");
        error["code"].as_str().unwrap().into()
    }
}

/// Events of a stream, as they come.
pub struct Events {
    lines: BufReader<TcpStream>,
    /// Whether `[DONE]` was said.
    pub done: bool,
}

impl Iterator for Events {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            // Between them are the sizes of chunks, and empty lines.
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                if data != "[DONE]" {
                    assert!(!self.done, "an event after the end: {data}");
                    return Some(serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")));
                }
                self.done = true;
            }
            line.clear();
        }
        None
    }
}

//! The API of `ailo-node serve`, as a process: who may ask and how much, what errors look like, streams, and tokens' probabilities; and how
//! `ailo-node chat` takes what an API answers.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/listener.rs"]
mod listener;
#[path = "common/server.rs"]
mod server;

use ailo_training::text::Text;
use serde_json::{Value, json};
use server::{Answer, Server, checkpoint, program, says};
use std::{
    io::Write,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A file of keys in a folder of its own.
struct Keys {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Keys {
    fn new() -> Keys {
        let dir = tempfile::tempdir().unwrap();
        Keys { file: dir.path().join("keys.json"), _dir: dir }
    }

    fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    /// Makes a key, and gives the header that it is sent in.
    fn create(&self, name: &str, limits: &[&str]) -> String {
        let args = ["api-keys", "create", "--file", self.path(), "--name", name];
        format!("Bearer {}", says(&[&args, limits].concat()).trim())
    }
}

fn prompt(max_tokens: u32) -> Value {
    // No end of the text comes by itself.
    json!({ "prompt": "hello", "max_tokens": max_tokens, "temperature": 0, "logit_bias": { "261": -100 } })
}

/// Asks until the answer has this status: a running server sees changes of the file within a second.
fn until(status: u16, ask: impl Fn() -> Answer) -> Answer {
    let started = Instant::now();
    loop {
        let answer = ask();
        if answer.status == status {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not {status}: {answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_can_not_be_answered_is_an_error_in_openais_form() {
    let server = Server::start("127.0.0.1:0", &[]);
    let get = |path| server.ask("GET", path, &[], b"");
    let refused = |answer: Answer| (answer.status, answer.error());
    assert_eq!(refused(get("/")), (404, "not_found".into()));
    assert_eq!(refused(get("/v1/embeddings")), (404, "not_found".into()));
    assert_eq!(refused(get("/v1/models/other")), (404, "model_not_found".into()));
    assert_eq!(refused(get("/v1/models/%ff")), (404, "model_not_found".into()));
    let wrong = get(COMPLETIONS);
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(wrong.error(), "method_not_allowed");
    assert_eq!(refused(server.ask("DELETE", "/v1/models", &[], b"")), (405, "method_not_allowed".into()));
    let form = [("content-type", "text/plain")];
    assert_eq!(refused(server.ask("POST", CHAT, &form, b"{}")), (415, "not_json".into()));
    for body in ["", "{", "[]", "7", "\u{1}", "{\"prompt\": \"x\", }"] {
        assert_eq!(refused(server.ask("POST", COMPLETIONS, &[], body.as_bytes())), (400, "invalid_value".into()));
    }
    assert_eq!(refused(server.ask("POST", COMPLETIONS, &[], b"{\"prompt\": \"\xff\"}")), (400, "invalid_value".into()));
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(refused(server.ask("POST", COMPLETIONS, &[], &large)), (413, "too_large".into()));
    let both = json!({ "prompt": "x", "echo": true, "logprobs": 1 });
    let both = server.post(COMPLETIONS, &[], &both);
    assert_eq!((both.status, both.json()["error"]["param"].as_str()), (400, Some("echo")));
    // After all that it works.
    assert_eq!(server.post(COMPLETIONS, &[], &prompt(4)).json()["usage"]["completion_tokens"], 4);
}

/// A folder with a driver that finds a card in this machine's processor (`training/gpu/tests/driver.cpp`), which the loader finds there.
fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../training/gpu/tests/driver.cpp");
    let mut compile = Command::new("c++");
    compile.args(["-O2", "-march=native", "-std=c++17", "-ffp-contract=off", "-w", "-shared", "-fPIC", source, "-o"]);
    assert!(compile.arg(folder.path().join("libcuda.so.1")).status().unwrap().success());
    folder
}

#[test]
fn a_graphics_card_writes_the_text_of_a_processor() {
    let (folder, failing) = (driver(), tempfile::tempdir().unwrap());
    let start = |driver: &Path, launches: u32, more: &[&str]| {
        let mut serve = program();
        let known = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        serve.env("LD_LIBRARY_PATH", format!("{}:{known}", driver.display()));
        serve.env("CARD_FAILS_AFTER", launches.to_string()).env("CARD_SAYS", driver.join("failed"));
        Server::start_as(serve, "127.0.0.1:0", more)
    };
    let write = |server: &Server| {
        let text =
            json!({ "prompt": "Whoever reads this", "max_tokens": 12, "temperature": 1.0, "seed": 5, "logprobs": 2 });
        let answer = server.post(COMPLETIONS, &[], &text).json();
        answer["choices"][0].clone()
    };
    let (card, processor) = (start(folder.path(), u32::MAX, &[]), start(folder.path(), u32::MAX, &["--cpu"]));
    assert_eq!((card.card.as_deref(), processor.card.as_deref()), (Some("a processor"), None));
    let written = write(&processor);
    assert_eq!(written["logprobs"]["tokens"].as_array().unwrap().len(), 12, "{written}");
    assert_eq!(write(&card), written);
    // Where a card fails in the middle of a text, the processor goes on.
    let failing_card = start(folder.path(), 4000, &[]);
    let failed = || folder.path().join("failed").exists();
    assert!(failing_card.card.is_some() && !failed());
    let long = json!({ "prompt": "hello", "max_tokens": 200, "temperature": 0, "logit_bias": { "261": -100 } });
    // If the processor is not ready within a second, the text is asked again.
    let text = |server: &Server| until(200, || server.post(COMPLETIONS, &[], &long)).json()["choices"][0].clone();
    assert_eq!(text(&failing_card), text(&processor));
    assert!(failed());
    assert_eq!(write(&failing_card), written);
    // A driver that is none is as none at all.
    std::fs::write(failing.path().join("libcuda.so.1"), "no library").unwrap();
    let without = start(failing.path(), u32::MAX, &[]);
    assert_eq!((without.card.clone(), write(&without)), (None, written));
}

#[test]
fn pages_of_other_sites_reach_nothing_on_loopback() {
    let server = Server::start("127.0.0.1:0", &["--allow-host", "chat.example.org"]);
    let port = server.address.port();
    let status = |headers: &[(&str, &str)]| {
        let answer = server.ask("GET", "/v1/models", headers, b"");
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{answer:?}");
        answer.status
    };
    for host in ["localhost", &format!("localhost:{port}"), &format!("[::1]:{port}"), "chat.example.org"] {
        assert_eq!(status(&[("host", host)]), 200, "{host}");
    }
    for host in ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "192.0.2.1"] {
        assert_eq!(status(&[("host", host)]), 403, "{host}");
    }
    assert_eq!(status(&[("origin", "https://evil.example")]), 403);
    assert_eq!(status(&[("origin", "null")]), 403);
    assert_eq!(status(&[("origin", "http://localhost:3000")]), 200);
    // The question that a browser asks first gets no leave.
    let first = [("origin", "http://localhost:3000"), ("access-control-request-method", "POST")];
    let answer = server.ask("OPTIONS", CHAT, &first, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None));
    assert_eq!(server.post(CHAT, &[("host", "evil.example")], &json!({})).error(), "wrong_host");
}

#[test]
fn an_exposed_api_answers_keys_alone() {
    let folder = checkpoint();
    let model = folder.path().to_str().unwrap();
    let refused = program().args(["serve", "--http", "0.0.0.0:0", "--model", model]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("--api-keys FILE"), "{why}");

    let keys = Keys::new();
    let server = Server::start("0.0.0.0:0", &["--api-keys", keys.path()]);
    let ask = |headers: &[(&str, &str)]| server.post(COMPLETIONS, headers, &prompt(4));
    let none = ask(&[]);
    assert_eq!((none.status, none.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(none.error(), "invalid_api_key");
    assert_eq!(server.ask("GET", "/nowhere", &[], b"").status, 401);

    let ann = keys.create("ann", &[]);
    until(200, || ask(&[("authorization", &ann)]));
    for wrong in ["Bearer none", "Bearer ", "Basic YTpi", &ann[..ann.len() - 1], &ann.replace("sk-ailo", "sk-aile")] {
        assert_eq!(ask(&[("authorization", wrong)]).status, 401, "{wrong}");
    }
    // Under any name: whoever has no key learns nothing.
    assert_eq!(ask(&[("authorization", &ann), ("host", "gpu.example.org")]).status, 200);

    // Our own client takes the key from the environment.
    let chat = |key: &str| {
        let mut chat = program();
        chat.args(["chat", "--api", &server.url(), "--max-tokens", "4", "hello"]).env("AILO_API_KEY", key);
        chat.output().unwrap()
    };
    assert!(chat(ann.trim_start_matches("Bearer ")).status.success());
    let refused = chat("other");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("AILO_API_KEY"));

    assert_eq!(std::fs::metadata(&keys.file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&keys.file).unwrap();
    assert!(text.contains("ann") && !text.contains(ann.trim_start_matches("Bearer sk-ailo-")));
    assert!(says(&["api-keys", "list", "--file", keys.path()]).starts_with("ann: made "));

    let bob = keys.create("bob", &[]);
    until(200, || ask(&[("authorization", &bob)]));
    // A file that was damaged locks nobody out, and lets nobody in.
    std::fs::write(&keys.file, "{").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((ask(&[("authorization", &ann)]).status, ask(&[("authorization", "Bearer x")]).status), (200, 401));
    std::fs::write(&keys.file, &text).unwrap();
    until(401, || ask(&[("authorization", &bob)]));
    assert_eq!(ask(&[("authorization", &ann)]).status, 200);
    says(&["api-keys", "revoke", "--file", keys.path(), "ann"]);
    until(401, || ask(&[("authorization", &ann)]));
}

#[test]
fn a_loopback_needs_keys_only_if_told_and_knows_its_own() {
    let keys = Keys::new();
    let ann = keys.create("ann", &[]);
    let open = Server::start("127.0.0.1:0", &["--api-keys", keys.path()]);
    let strict = Server::start("127.0.0.1:0", &["--api-keys", keys.path(), "--require-api-key"]);
    let status = |server: &Server, key: &str| server.ask("GET", "/v1/models", &[("authorization", key)], b"").status;
    assert_eq!(open.ask("GET", "/v1/models", &[], b"").status, 200);
    assert_eq!(strict.ask("GET", "/v1/models", &[], b"").status, 401);
    assert_eq!((status(&open, &ann), status(&strict, &ann)), (200, 200));
    assert_eq!((status(&open, "Bearer none"), status(&strict, "Bearer none")), (200, 401));
    says(&["api-keys", "revoke", "--file", keys.path(), "ann"]);
    until(401, || open.ask("GET", "/v1/models", &[("authorization", &ann)], b""));
}

#[test]
fn a_key_has_its_limits() {
    let keys = Keys::new();
    let few = keys.create("few", &["--requests-per-minute", "3"]);
    let thrifty = keys.create("thrifty", &["--tokens-per-day", "60"]);
    let alone = keys.create("alone", &["--concurrent", "1"]);
    let server = Server::start("127.0.0.1:0", &["--api-keys", keys.path(), "--require-api-key"]);

    let ask = || server.ask("GET", "/v1/models", &[("authorization", &few)], b"");
    let answers: Vec<Answer> = (0..4).map(|_| ask()).collect();
    let left = |answer: &Answer| answer.header("x-ratelimit-remaining-requests").unwrap().to_string();
    assert_eq!(answers[0].header("x-ratelimit-limit-requests"), Some("3"));
    assert_eq!(answers.iter().map(left).collect::<Vec<_>>(), ["2", "1", "0", "0"]);
    let late = &answers[3];
    assert_eq!((late.status, late.error()), (429, "rate_limit_exceeded".into()));
    let wait: u64 = late.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    std::thread::sleep(Duration::from_secs(wait));
    assert_eq!(ask().status, 200, "it works again when it was said to");

    // "hello" is 2 tokens.
    let ask = |tokens| server.post(COMPLETIONS, &[("authorization", &thrifty)], &prompt(tokens));
    let first = ask(28);
    assert_eq!((first.status, first.json()["usage"]["total_tokens"].as_u64()), (200, Some(30)));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("60"));
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), Some("30"));
    let late = until(429, || ask(29));
    assert_eq!((late.error(), late.json()["error"]["type"].as_str()), ("rate_limit_exceeded".into(), Some("tokens")));
    let wait: u64 = late.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    assert_eq!((ask(99).status, ask(99).error()), (400, "above_limit".into()));
    // A stop text ends it early: the rest comes back.
    let text = first.json()["choices"][0]["text"].as_str().unwrap().to_string();
    let mut early = prompt(28);
    early["stop"] = json!(text.chars().next().unwrap().to_string());
    let early = server.post(COMPLETIONS, &[("authorization", &thrifty)], &early).json();
    let used = early["usage"]["total_tokens"].as_u64().unwrap();
    assert!(used < 30, "{early}");
    until(200, || ask(30 - used as u32 - 2));

    let one = [("authorization", alone.as_str())];
    let mut events = server.stream(COMPLETIONS, &one, &prompt(4000));
    events.next().unwrap();
    let late = server.post(COMPLETIONS, &one, &prompt(1));
    assert_eq!((late.status, late.header("retry-after"), late.error()), (429, Some("1"), "rate_limit_exceeded".into()));
    let mut several = prompt(1);
    several["n"] = json!(2);
    assert_eq!(server.post(COMPLETIONS, &one, &several).error(), "above_limit");
    drop(events);
    until(200, || server.post(COMPLETIONS, &one, &prompt(1)));
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let server = Server::start("127.0.0.1:0", &[]);
    let whole = server.post(COMPLETIONS, &[], &prompt(40)).json();
    let mut body = prompt(40);
    body["stream_options"] = json!({ "include_usage": true });
    let mut events = server.stream(COMPLETIONS, &[], &body);
    let pieces: Vec<Value> = events.by_ref().collect();
    assert!(events.done);
    let texts = pieces.iter().filter_map(|piece| piece["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), whole["choices"][0]["text"].as_str().unwrap());
    assert_eq!(pieces[pieces.len() - 1]["usage"], whole["usage"]);
    assert_eq!(pieces[pieces.len() - 2]["choices"][0]["finish_reason"], "length");

    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 20, "temperature": 0 });
    let whole = server.post(CHAT, &[], &body).json();
    let pieces: Vec<Value> = server.stream(CHAT, &[], &body).collect();
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let texts = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.collect::<String>(), whole["choices"][0]["message"]["content"].as_str().unwrap());
}

#[test]
fn probabilities_are_told_with_the_tokens_bytes() {
    let server = Server::start("127.0.0.1:0", &[]);
    let folder = checkpoint();
    let text = Text::open(Path::new(folder.path())).unwrap();
    let half = (0..256).find(|token| text.bytes(*token) == [0xe6]).unwrap();
    let bias = json!({ half.to_string(): 100 });
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 3, "logprobs": true,
                       "top_logprobs": 20, "logit_bias": bias });
    let told = server.post(CHAT, &[], &body).json()["choices"][0]["logprobs"]["content"].clone();
    assert_eq!(told.as_array().unwrap().len(), 3);
    for token in told.as_array().unwrap() {
        assert_eq!((token["token"].as_str(), &token["bytes"]), (Some("\\xe6"), &json!([0xe6])));
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 20);
        for one in top {
            let bytes: Vec<u8> = serde_json::from_value(one["bytes"].clone()).unwrap();
            assert!(!bytes.is_empty() && !one["token"].as_str().unwrap().contains('\u{fffd}'));
            if let Ok(text) = std::str::from_utf8(&bytes) {
                assert_eq!(one["token"], text);
            }
        }
    }

    // Of whole texts the bytes make the text, with a mark for whatever is no character.
    let body =
        json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 60, "seed": 7, "logprobs": true });
    let choice = server.post(CHAT, &[], &body).json()["choices"][0].clone();
    let bytes: Vec<u8> = choice["logprobs"]["content"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|token| serde_json::from_value::<Vec<u8>>(token["bytes"].clone()).unwrap())
        .collect();
    let marked = String::from_utf8_lossy(&bytes).replace("<|im_start|>", "").replace("<|im_end|>", "");
    assert_eq!(marked, choice["message"]["content"].as_str().unwrap());

    let body = json!({ "prompt": "hi", "max_tokens": 3, "temperature": 0, "logprobs": 5, "logit_bias": bias });
    let told = server.post(COMPLETIONS, &[], &body).json()["choices"][0]["logprobs"].clone();
    assert_eq!(told["tokens"], json!(["bytes:\\xe6", "bytes:\\xe6", "bytes:\\xe6"]));
    assert_eq!(told["text_offset"], json!([0, 1, 2]));
    assert!(told["top_logprobs"].as_array().unwrap().iter().all(|top| top.as_object().unwrap().len() == 5), "{told}");
}

/// Answers as many requests with what is given, each on a connection of its own, and tells what was said in each.
fn answers(all: &'static [(&str, &str)]) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let answer = |(head, body): &(&str, &str)| {
            let (asked, mut stream) = listener::take(&listener);
            // The connection ends before what is promised has come.
            let promised = body.len() + usize::from(!body.ends_with("[DONE]\n\n") && body.starts_with("data"));
            write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {promised}\r\n\r\n{body}").unwrap();
            serde_json::from_slice::<Value>(&asked).unwrap()["messages"].clone()
        };
        all.iter().map(answer).collect()
    });
    (url, thread)
}

const BUSY: (&str, &str) =
    ("429 Too Many Requests\r\nretry-after: 7", r#"{"error": {"message": "as many texts are written as can be"}}"#);
const FINE: (&str, &str) = (
    "200 OK",
    "data: {\"choices\": [{\"delta\": {\"content\": \"fine\"}}]}\n\ndata: {\"choices\": [], \"usage\": {\"completion_tokens\": 1}}\n\ndata: [DONE]\n\n",
);
const CUT: (&str, &str) = ("200 OK", "data: {\"choices\": [{\"delta\": {\"content\": \"well\"}}]}\n\n");
const NOBODY: (&str, &str) =
    ("200 OK", "data: {\"error\": {\"message\": \"no node serves layers 4 to 5\"}}\n\ndata: [DONE]\n\n");

fn user(said: &str) -> Value {
    json!({ "role": "user", "content": said })
}

/// What a command says to whom it was told this.
fn told(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()); // Who has ended reads nothing.
    child.wait_with_output().unwrap()
}

#[test]
fn in_a_terminal_a_conversation_survives_what_fails() {
    let (url, server) = answers(&[BUSY, FINE, CUT, NOBODY, FINE]);
    let program = program();
    // `script` gives a command a terminal.
    let mut script = Command::new("script");
    script.args([
        "-qec",
        &format!("{} chat --system short --api {url}", program.get_program().to_str().unwrap()),
        "/dev/null",
    ]);
    script.env_remove("AILO_API_KEY").env("NO_COLOR", "1");
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: there is no program 'script' (of util-linux) that gives a terminal");
        return;
    }
    let said = told(script, "one\ntwo\nthree\nfour\nfive\n");
    let shown = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{shown}");
    for text in [
        "can read what you write",
        "as many texts are written as can be (it may work in 7 s)",
        "1 tokens, the first after",
        "well\r\nerror: the answer broke off",
        "error: no node serves layers 4 to 5",
    ] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    let (rules, answer) =
        (json!({ "role": "system", "content": "short" }), json!({ "role": "assistant", "content": "fine" }));
    let asked = server.join().unwrap();
    assert_eq!(asked[0], json!([rules, user("one")]));
    assert_eq!(asked[1], json!([rules, user("two")]), "what failed was not said");
    assert_eq!(asked[3], json!([rules, user("two"), answer, user("four")]));
    assert_eq!(asked[4], json!([rules, user("two"), answer, user("five")]));
}

#[test]
fn elsewhere_a_conversation_ends_with_what_fails() {
    let (url, server) = answers(&[FINE, NOBODY]);
    let mut chat = program();
    chat.args(["chat", "--api", &url]);
    let said = told(chat, "one\ntwo\nthree\n");
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && why.contains("no node serves layers 4 to 5"), "{why}");
    assert!(!why.contains("can read what you write") && said.stdout == b"fine\n", "{said:?}");
    assert_eq!(server.join().unwrap()[1][2], user("two"));
    for command in ["chat", "generate"] {
        assert!(says(&[command, "--help"]).contains("can read"));
    }
}

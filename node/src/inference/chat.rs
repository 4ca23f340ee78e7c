//! `ailo-node chat` and `generate`: a conversation, or the continuation of a text, in the terminal, with whatever answers at `/v1`.

use crate::{
    cli::{ChatArgs, ClientArgs, GenerateArgs},
    client::Client,
    error::NodeError,
    output::{self, is_json, piece, show},
};
use ailo_protocol::{Hash, keys};
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, Request, StatusCode, header},
};
use futures::{Stream, StreamExt};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, IsTerminal},
    time::{Duration, Instant},
};

/// The variable that an API key is taken from: a flag would show it in the list of processes.
const KEY: &str = "AILO_API_KEY";
/// A line of what comes back, at most.
const MAX_LINE: usize = 1 << 20;

/// What whoever asks should know first.
const READERS: &str = "The machines that answer can read what you write: tell them nothing that is to stay secret.";

/// Talks until the input ends, or says one thing.
pub async fn command(args: ChatArgs) -> Result<(), NodeError> {
    let api = Api::find(args.api.as_deref(), &args.client)?;
    let mut talk = Talk::new(&api, &args);
    if let Some(said) = &args.message {
        return talk.say(said).await;
    }
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("{READERS}\nSay something; Ctrl-D ends.");
    }
    loop {
        if terminal {
            eprint!("> ");
        }
        let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next()).await;
        let line = line.map_err(|e| NodeError::io("read what you say", std::io::Error::other(e)))?;
        let Some(line) = line else { return Ok(()) };
        let line = line.map_err(|e| NodeError::io("read what you say", e))?;
        if line.trim().is_empty() {
            continue;
        }
        match talk.say(&line).await {
            Ok(()) => {}
            // Whoever sits there can say something else, or the same again.
            Err(e) if terminal => output::complain(&e),
            Err(e) => return Err(e),
        }
    }
}

/// A conversation: what was said and answered.
struct Talk<'a> {
    api: &'a Api,
    args: &'a ChatArgs,
    messages: Vec<Value>,
}

impl Talk<'_> {
    fn new<'a>(api: &'a Api, args: &'a ChatArgs) -> Talk<'a> {
        let rules = args.system.iter().map(|system| json!({ "role": "system", "content": system }));
        Talk { api, args, messages: rules.collect() }
    }

    /// Says something, and shows the answer. What was not answered was not said.
    async fn say(&mut self, said: &str) -> Result<(), NodeError> {
        self.messages.push(json!({ "role": "user", "content": said }));
        match self.api.answer("chat/completions", asked(self.args, &self.messages), "").await {
            Ok(answer) => {
                self.messages.push(json!({ "role": "assistant", "content": answer.text }));
                answer.show()
            }
            Err(e) => {
                self.messages.pop();
                Err(e)
            }
        }
    }
}

/// What is asked for.
fn asked(args: &ChatArgs, messages: &[Value]) -> Value {
    let mut body = json!({ "messages": messages, "temperature": args.temperature });
    if let Some(seed) = args.seed {
        body["seed"] = json!(seed);
    }
    if let Some(tokens) = args.max_tokens {
        body["max_tokens"] = json!(tokens);
    }
    if let Some(most) = args.max_alc {
        body["max_alc"] = json!(most);
    }
    body
}

/// Goes on with a text.
pub async fn generate(args: GenerateArgs) -> Result<(), NodeError> {
    let api = Api::find(args.api.as_deref(), &args.client)?;
    let seed = args.seed.unwrap_or_else(|| Hash(keys::random_bytes()).stream().next_u64() >> 1);
    let body = json!({ "prompt": args.prompt, "max_tokens": args.max_tokens, "temperature": args.temperature,
                       "top_k": args.top_k, "seed": seed, "max_alc": args.max_alc });
    let answer = Answer { seed: Some(seed), ..api.answer("completions", body, &args.prompt).await? };
    answer.show()
}

/// What the model of the node whose JSON-RPC is at `rpc` answers to `said`, in so many tokens at most.
pub async fn ask(rpc: &str, said: &str, tokens: u32) -> Result<String, NodeError> {
    let api = Api::of_node(rpc)?;
    let messages = json!([{ "role": "user", "content": said }]);
    let body = json!({ "messages": messages, "max_tokens": tokens, "stream": true });
    let mut text = String::new();
    let read = api.read("chat/completions", &body, |more| {
        text.push_str(more);
        Ok(())
    });
    read.await?;
    Ok(text)
}

/// An answer, and how fast it came.
#[derive(serde::Serialize)]
struct Answer {
    text: String,
    tokens: u64,
    first_token_ms: u64,
    tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl Answer {
    /// For people the text has been shown as it came: what is left is for standard error.
    fn show(&self) -> Result<(), NodeError> {
        if !is_json() {
            let Answer { tokens, first_token_ms: first, tokens_per_s: speed, .. } = self;
            eprintln!("{tokens} tokens, the first after {first} ms, then {speed:.1} a second");
            self.seed.iter().for_each(|seed| eprintln!("seed {seed}"));
        }
        show(self, |_| Ok(()))
    }
}

/// What answers.
struct Api {
    http: Http<HttpConnector, Body>,
    base: String,
    key: Option<HeaderValue>,
}

impl Api {
    /// The API at `url`, or of a node.
    fn find(url: Option<&str>, client: &ClientArgs) -> Result<Api, NodeError> {
        match url {
            Some(url) => Api::at(url.trim_end_matches('/').to_string()),
            None => Api::of_node(Client::find(client)?.url()),
        }
    }

    /// That of the node whose JSON-RPC is at `rpc`.
    fn of_node(rpc: &str) -> Result<Api, NodeError> {
        Api::at(format!("{}/v1", rpc.trim_end_matches("/rpc")))
    }

    fn at(base: String) -> Result<Api, NodeError> {
        let key = std::env::var(KEY).ok().filter(|key| !key.is_empty()).map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| NodeError::Usage(format!("what {KEY} holds is no API key")))?;
            value.set_sensitive(true);
            Ok::<_, NodeError>(value)
        });
        Ok(Api { http: Http::builder(TokioExecutor::new()).build_http(), base, key: key.transpose()? })
    }

    /// Shows people an answer as it comes, with the text that it goes on with, if it does, before it.
    async fn answer(&self, path: &str, mut body: Value, before: &str) -> Result<Answer, NodeError> {
        (body["stream"], body["stream_options"]) = (json!(true), json!({ "include_usage": true }));
        let (started, mut first, mut text) = (Instant::now(), None, String::new());
        let read = self.read(path, &body, |more| {
            if first.is_none() {
                first = Some(started.elapsed());
                piece(before)?;
            }
            text.push_str(more);
            piece(&shown(more))
        });
        let tokens = read.await;
        if tokens.is_ok() && first.is_none() {
            piece(before)?;
        }
        let first = first.unwrap_or_else(|| started.elapsed());
        let after = started.elapsed().saturating_sub(first).max(Duration::from_micros(1));
        if tokens.is_ok() || !text.is_empty() {
            piece("\n")?;
        }
        let tokens = tokens?;
        let speed = tokens.saturating_sub(1) as f64 / after.as_secs_f64();
        Ok(Answer { text, tokens, first_token_ms: first.as_millis() as u64, tokens_per_s: speed, seed: None })
    }

    /// Reads an answer to its end, gives out its pieces, and counts its tokens.
    async fn read(
        &self,
        path: &str,
        body: &Value,
        mut piece: impl FnMut(&str) -> Result<(), NodeError>,
    ) -> Result<u64, NodeError> {
        let mut lines = Lines { bytes: self.post(path, body).await?, held: Vec::new() };
        let mut tokens = 0;
        while let Some(line) = lines.next().await? {
            let Some(event) = line.strip_prefix("data: ") else { continue };
            if event == "[DONE]" {
                return Ok(tokens);
            }
            let event: Value =
                serde_json::from_str(event).map_err(|e| NodeError::Rpc(format!("the answer can't be read: {e}")))?;
            if let Some(why) = event["error"]["message"].as_str() {
                return Err(NodeError::Rpc(why.into()));
            }
            tokens = event["usage"]["completion_tokens"].as_u64().unwrap_or(tokens);
            let choice = &event["choices"][0];
            let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
            if !text.is_empty() {
                piece(text)?;
            }
        }
        Err(NodeError::Rpc("the answer broke off".into()))
    }

    /// The bytes of the answer to a request.
    async fn post(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<Bytes, axum::Error>> + Unpin, NodeError> {
        let url = format!("{}/{path}", self.base);
        let wrong = |e: &dyn std::fmt::Display| {
            NodeError::Usage(format!("'{url}' is no address of an API (like http://127.0.0.1:8650/v1): {e}"))
        };
        let mut request =
            Request::builder().method(Method::POST).uri(&url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        let request = request.body(Body::from(body.to_string())).map_err(|e| wrong(&e))?;
        let silent =
            |e| NodeError::Rpc(format!("nobody answers at {}: {e}; is `ailo-node serve` or `run` running?", self.base));
        let response = self.http.request(request).await.map_err(silent)?;
        let status = response.status();
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()).map(shown);
        let mut bytes = Body::new(response.into_body()).into_data_stream();
        if status.is_success() {
            return Ok(bytes);
        }
        let mut text = Vec::new();
        while let Some(Ok(more)) = bytes.next().await {
            text.extend_from_slice(&more[..more.len().min(MAX_LINE - text.len())]);
        }
        let said: Value = serde_json::from_slice(&text).unwrap_or_default();
        let why = said["error"]["message"].as_str().map_or_else(|| status.to_string(), str::to_string);
        let hint = match wait {
            _ if status == StatusCode::UNAUTHORIZED => format!(" (chat takes it from {KEY})"),
            Some(seconds) => format!(" (it may work in {seconds} s)"),
            None => String::new(),
        };
        Err(NodeError::Rpc(why + &hint))
    }
}

/// A model may write what a terminal takes for commands; they are shown as no characters.
fn shown(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}")
}

/// Lines of a stream.
struct Lines<S> {
    bytes: S,
    held: Vec<u8>,
}

impl<S: Stream<Item = Result<Bytes, axum::Error>> + Unpin> Lines<S> {
    async fn next(&mut self) -> Result<Option<String>, NodeError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_string()));
            }
            match self.bytes.next().await {
                Some(Ok(more)) if self.held.len() + more.len() <= MAX_LINE => self.held.extend_from_slice(&more),
                Some(Ok(_)) => return Err(NodeError::Rpc("the answer has a line without an end".into())),
                Some(Err(e)) => return Err(NodeError::Rpc(format!("the answer broke off: {e}"))),
                None => return Ok(None),
            }
        }
    }
}

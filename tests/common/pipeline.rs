//! A model over real processes, for the test and the benchmark: a network whose nodes serve some layers each.

#![allow(clippy::unwrap_used, missing_docs, dead_code)] // Each user has its part.

use ailo_node::{
    genesis,
    localnet::net::{Net, Spec},
};
use ailo_protocol::{Address, params::Params};
use ailo_training::{
    checkpoint::{Checkpoint, random},
    engine::{Dtype, Engine, Part},
    text::Text,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

/// Tokens of a text.
pub const TOKENS: usize = 256;

/// A Llama of this width, inner width, and so many layers, heads, and heads of keys and values.
pub fn llama([width, inner, layers, heads, kv_heads]: [usize; 5]) -> Value {
    json!({ "model_type": "llama", "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 262, "max_position_embeddings": 512,
            "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6 })
}

/// The tokens of the likeliest text without its ends, by the engine alone on one machine, with weights in this type.
pub fn alone(folder: &Path, dtype: Option<Dtype>, prompt: &[u32]) -> Vec<u32> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let shape = checkpoint.shape().clone();
    let weights = checkpoint.load(0..shape.layers, dtype, &mut |_, _| ()).unwrap().weights;
    let (width, engine) = (shape.width, Engine::new(shape, weights, 1).unwrap());
    let (mut tokens, mut cache) = (prompt.to_vec(), engine.cache(512));
    while tokens.len() < prompt.len() + TOKENS {
        let (at, new) = (cache.len(), tokens[cache.len()..].to_vec());
        let x = engine.embed(&new, at).unwrap();
        let x = engine.forward(x, &mut [Part { cache: &mut cache, positions: new.len() }]).unwrap();
        let logits = engine.logits(&x[x.len() - width..]).unwrap();
        // The marks are left out, here and there.
        tokens.push((0..260).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap());
    }
    tokens.split_off(prompt.len())
}

/// What tokens are called.
pub fn names(text: &Text, tokens: &[u32]) -> Vec<String> {
    let name = |token: &u32| {
        let half = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        String::from_utf8(text.bytes(*token)).unwrap_or_else(|e| format!("bytes:{}", half(e.as_bytes())))
    };
    tokens.iter().map(name).collect()
}

/// The events of a stream, as they come.
pub fn events(stream: impl BufRead) -> impl Iterator<Item = Value> {
    stream.lines().filter_map(|line| {
        let line = line.unwrap();
        let data = line.strip_prefix("data: ").filter(|data| *data != "[DONE]")?;
        Some(serde_json::from_str(data).unwrap())
    })
}

/// A text that was written.
pub struct Written {
    pub text: String,
    /// What its tokens are called.
    pub tokens: Vec<String>,
    /// The longest pause between two tokens.
    pub pause: Duration,
    /// The mean time of a token, without the first.
    pub token: Duration,
    /// What was counted.
    pub usage: Value,
}

/// What a node says that it serves.
#[derive(Clone, Debug)]
pub struct Stage {
    pub node: usize,
    /// The model's id.
    pub model: String,
    pub layers: Range<u64>,
    pub said: Value,
}

/// Node 0 validates the ledger, and asks.
pub struct World {
    pub net: Net,
    pub folder: tempfile::TempDir,
    /// What the last text that failed had come to, and the error.
    pub broken: (String, Value),
    /// The API key that is asked with; empty: none.
    pub key: String,
    layers: Vec<String>,
    /// What the nodes are called.
    pub keys: Vec<String>,
    _dir: tempfile::TempDir,
}

impl World {
    pub fn new(program: &str, config: &Value, layers: &[&str]) -> World {
        let mut params = genesis::local_params(1, 0);
        params.ledger.idle_block_ms = 2000;
        World::found(program, config, layers, params)
    }

    pub fn found(program: &str, config: &Value, layers: &[&str], params: Params) -> World {
        let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        World::write_model(folder.path(), config, &random::tensors(config));
        let nodes = layers.len() as u32;
        let spec = Spec {
            program: program.into(),
            dir: dir.path().into(),
            nodes,
            validators: 1,
            data: vec![],
            seed: 1,
            params,
        };
        let layers = layers.iter().map(|layers| layers.to_string()).collect();
        let net = Net::found(spec).unwrap();
        let founders = &net.genesis.founders;
        let key = |wallet| founders.iter().find(|founder| founder.wallet == wallet).unwrap().node.to_string();
        let keys = net.nodes.iter().map(|node| key(Address::from(node.wallet.public()))).collect();
        World { net, folder, broken: Default::default(), key: String::new(), layers, keys, _dir: dir }
    }

    pub fn write_model(folder: &Path, config: &Value, tensors: &random::Tensors) {
        random::write(folder, config, tensors, 2).unwrap();
        random::write_tokenizer(folder, None).unwrap();
    }

    /// Node i runs in the namespace `{name}{i}` and has the address 10.77.0.{i + 1} there.
    pub fn spread(&mut self, name: &str) {
        for (i, node) in self.net.nodes.iter_mut().enumerate() {
            node.namespace = Some((format!("{name}{i}"), format!("10.77.0.{}", i + 1)));
        }
    }

    pub fn start(&mut self, nodes: &[usize]) {
        self.start_with(nodes, &[]);
    }

    pub fn start_with(&mut self, nodes: &[usize], more: &[&str]) {
        for i in nodes {
            let model = self.folder.path().to_str().unwrap();
            let flags = ["--inference-only", "--model", model, "--layers", &self.layers[*i]];
            self.net.start_with(*i, &[&flags, more].concat()).unwrap();
        }
    }

    /// The same with layers of the network's own model.
    pub fn start_own(&mut self, nodes: &[usize], more: &[&str]) {
        for i in nodes {
            self.net.start_with(*i, &[&["--layers", &self.layers[*i]], more].concat()).unwrap();
        }
    }

    pub fn address(&self) -> SocketAddr {
        let url = std::fs::read_to_string(self.net.nodes[0].dir.join("rpc")).unwrap_or_default();
        url.trim().trim_start_matches("http://").trim_end_matches("/rpc").parse().unwrap()
    }

    /// A stream of tokens.
    pub fn ask(&self, body: &Value) -> std::io::Result<BufReader<TcpStream>> {
        World::ask_at(self.address(), &self.key, body)
    }

    fn ask_at(address: SocketAddr, key: &str, body: &Value) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(address)?;
        let (body, timeout) = (body.to_string(), Duration::from_secs(60));
        stream.set_read_timeout(Some(timeout))?;
        let length = body.len();
        let key = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n{key}connection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        Ok(BufReader::new(stream))
    }

    /// Starts a node without saying which layers.
    pub fn start_choosing(&mut self, i: usize, more: &[&str]) {
        let model = self.folder.path().to_str().unwrap();
        self.net.start_with(i, &[&["--inference-only", "--model", model], more].concat()).unwrap();
    }

    /// Until node 0 knows so many stages.
    pub fn wait_for_stages(&self, count: usize) {
        self.wait_until(&format!("{count} stages"), |stages| stages.len() == count);
    }

    /// Until the stages that node 0 knows are as they should be; these.
    pub fn wait_until(&self, what: &str, fits: impl Fn(&[Stage]) -> bool) -> Vec<Stage> {
        let started = Instant::now();
        loop {
            let stages = self.stages();
            if stages.as_ref().is_some_and(|stages| fits(stages)) {
                return stages.unwrap();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "not {what}: {stages:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The stages that node 0 knows of its model, if it answers and has one.
    pub fn stages(&self) -> Option<Vec<Stage>> {
        let mut answer = String::new();
        if !self.net.nodes[0].dir.join("rpc").exists() {
            return None;
        }
        let mut stream = TcpStream::connect(self.address()).ok()?;
        write!(stream, "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        stream.read_to_string(&mut answer).ok()?;
        let models: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let stage = |model: &str, stage: &Value| Stage {
            node: self.keys.iter().position(|key| stage["node"] == key.as_str()).unwrap(),
            model: model.into(),
            layers: stage["layers"][0].as_u64().unwrap()..stage["layers"][1].as_u64().unwrap(),
            said: stage.clone(),
        };
        // Before node 0 has a model itself, it lists what others serve.
        let own = models["data"].as_array()?.iter().find(|model| model["here"] == true)?;
        let model = own["hash"].as_str()?;
        Some(own["stages"].as_array()?.iter().map(|one| stage(model, one)).collect())
    }

    /// Tokens a second of so many texts that are written at once, from the first token of all to the last; no text ends by `end`.
    pub fn write_many(&self, prompt: &[u32], texts: usize, end: u32) -> f64 {
        let (address, max, bias) = (self.address(), TOKENS, HashMap::from([(end.to_string(), -100)]));
        let threads: Vec<_> = (0..texts as u32)
            .map(|i| {
                let prompt: Vec<u32> = prompt.iter().map(|token| (token + i) % 256).collect();
                let bias = bias.clone();
                std::thread::spawn(move || {
                    let body = json!({ "prompt": prompt, "max_tokens": max, "temperature": 0, "stream": true, "logprobs": 0,
                                       "logit_bias": bias });
                    let (mut first, mut tokens) = (None, 0);
                    for event in events(World::ask_at(address, "", &body).unwrap()) {
                        assert_eq!(event["error"], Value::Null, "{event}");
                        tokens += event["choices"][0]["logprobs"]["token_logprobs"].as_array().map_or(0, Vec::len);
                        first.get_or_insert_with(Instant::now);
                    }
                    assert_eq!(tokens, max, "a text has ended");
                    (first.unwrap(), Instant::now())
                })
            })
            .collect();
        let times: Vec<(Instant, Instant)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let first = times.iter().map(|(first, _)| *first).min().unwrap();
        let last = times.iter().map(|(_, last)| *last).max().unwrap();
        (texts * max) as f64 / (last - first).as_secs_f64()
    }

    /// Reads a text to its end; what `act` does happens at its 128th token.
    pub fn write(&mut self, prompt: &[u32], act: impl FnMut(&mut World)) -> Result<Written, String> {
        self.write_with(prompt, json!({}), act)
    }

    /// The same, with more fields of the request.
    pub fn write_with(
        &mut self,
        prompt: &[u32],
        more: Value,
        mut act: impl FnMut(&mut World),
    ) -> Result<Written, String> {
        let stream = self.ask(&World::request(prompt, &more)).unwrap();
        World::read(stream, || act(self)).map_err(|broken| {
            let why = broken.1["message"].as_str().unwrap_or_default().to_string();
            self.broken = broken;
            why
        })
    }

    /// What is answered to who asks for a text without a stream, with more fields of the request.
    pub fn whole(&self, prompt: &[u32], more: Value) -> Value {
        let mut body = World::request(prompt, &more);
        for field in ["stream", "stream_options", "logprobs"] {
            body[field] = Value::Null;
        }
        let mut answer = String::new();
        self.ask(&body).unwrap().read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    /// Reads a text from the node at an address.
    pub fn write_at(address: SocketAddr, prompt: &[u32]) -> Result<Written, String> {
        let stream = World::ask_at(address, "", &World::request(prompt, &json!({}))).unwrap();
        World::read(stream, || ()).map_err(|(_, error)| error["message"].as_str().unwrap_or_default().into())
    }

    fn request(prompt: &[u32], more: &Value) -> Value {
        let mut body = json!({ "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": true, "logprobs": 0,
                               "stream_options": { "include_usage": true }, "logit_bias": { "260": -100, "261": -100 } });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        body
    }

    /// A text, or what it came to and the error.
    fn read(mut stream: BufReader<TcpStream>, mut act: impl FnMut()) -> Result<Written, (String, Value)> {
        let (mut tokens, mut text, mut first, mut last, mut pause) =
            (0, String::new(), None, Instant::now(), Duration::ZERO);
        let mut usage = Value::Null;
        let (mut line, mut seen, mut names) = (String::new(), String::new(), Vec::new());
        while stream.read_line(&mut line).unwrap() > 0 {
            if let Some(event) = line.strip_prefix("data: {") {
                let event: Value = serde_json::from_str(&format!("{{{event}")).unwrap();
                if event["error"]["message"].is_string() {
                    return Err((text, event["error"].clone()));
                }
                usage = event["usage"].clone();
                let some = event["choices"][0]["logprobs"]["token_logprobs"].as_array().map_or(0, Vec::len);
                let called = event["choices"][0]["logprobs"]["tokens"].as_array();
                names.extend(called.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_string)));
                text.push_str(event["choices"][0]["text"].as_str().unwrap_or_default());
                if some > 0 {
                    if tokens > 0 {
                        pause = pause.max(last.elapsed());
                    }
                    last = Instant::now();
                    first.get_or_insert(last);
                }
                tokens += some;
                if some > 0 && tokens == TOKENS / 2 {
                    act();
                }
            }
            if line.starts_with("{\"error\"") {
                return Err((text, json!({ "message": line })));
            }
            seen.push_str(&line);
            line.clear();
        }
        if tokens < TOKENS {
            return Err((text, json!({ "message": format!("{tokens} of {TOKENS} tokens came; {seen:.2000}") })));
        }
        let token = (last - first.unwrap_or(last)) / tokens.max(2).saturating_sub(1) as u32;
        Ok(Written { text, tokens: names, pause, token, usage })
    }

    /// The rest of the last text that failed, or why there is none.
    pub fn resume(&mut self) -> Result<String, String> {
        let mut stream = self.ask(&json!({ "resume": self.broken.1["resume"], "stream": true })).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let mut text = String::new();
        for event in events(answer.as_bytes()) {
            if let Some(error) = event["error"]["message"].as_str() {
                self.broken.1 = event["error"].clone();
                return Err(error.into());
            }
            text.push_str(event["choices"][0]["text"].as_str().unwrap_or_default());
        }
        if answer.contains("[DONE]") { Ok(text) } else { Err(answer) }
    }
}

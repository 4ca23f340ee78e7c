//! The API on a small checkpoint with made-up weights, asked as clients ask it.

#![allow(clippy::unwrap_used)]

use super::{
    api::Bounds,
    draft::Guess,
    host::{Hosting, start},
    serve::Server,
};
use crate::cli::ServeArgs;
use ailo_protocol::{Amount, Hash, Keypair, inference::announce::Announce};
use ailo_training::{
    checkpoint::{Checkpoint, random},
    engine::{Engine, Part},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

const TEMPLATE: &str = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}\
    {%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";

fn config(layers: usize) -> Value {
    json!({ "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 262, "max_position_embeddings": 256, "tie_word_embeddings": true,
            "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "eos_token_id": 261 })
}

/// A model of one layer.
pub(super) fn one_layer() -> tempfile::TempDir {
    let config = json!({ "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                         "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 512,
                         "tie_word_embeddings": true, "rms_norm_eps": 1e-6 });
    let folder = tempfile::tempdir().unwrap();
    random::write(folder.path(), &config, &random::tensors(&config), 1).unwrap();
    random::write_tokenizer(folder.path(), None).unwrap();
    folder
}

fn checkpoint() -> tempfile::TempDir {
    checkpoint_of(3)
}

fn checkpoint_of(layers: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    random::write(folder.path(), &config(layers), &random::tensors(&config(layers)), 2).unwrap();
    random::write_tokenizer(folder.path(), Some(TEMPLATE)).unwrap();
    folder
}

async fn server(folder: &Path, memory: u64) -> Server {
    server_with(folder, memory, None).await
}

async fn server_with(folder: &Path, memory: u64, draft: Option<&Path>) -> Server {
    server_bounded(folder, memory, draft, Bounds::default()).await
}

async fn server_bounded(folder: &Path, memory: u64, draft: Option<&Path>, bounds: Bounds) -> Server {
    let args = ServeArgs {
        model: folder.into(),
        dtype: None,
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        api_keys: None,
        require_api_key: false,
        otlp: None,
        allow_host: Vec::new(),
        threads: Some(1),
        cpu: true,
        memory,
        draft: draft.map(Path::to_path_buf),
    };
    Server::start(&args, bounds).await.unwrap()
}

/// Until something is so.
async fn until(is: impl Fn() -> bool) {
    let so = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), so).await.unwrap();
}

/// Status, headers and body of an answer.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), unchunked(head, body))
}

fn unchunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.into();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&after[..size]);
        rest = after.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    whole
}

async fn post(address: SocketAddr, path: &str, body: Value) -> (u16, Value) {
    let (status, _, text) = ask(address, "POST", path, &body.to_string()).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

async fn complete(address: SocketAddr, body: Value) -> Value {
    let (status, value) = post(address, "/v1/completions", body).await;
    assert_eq!(status, 200, "{value}");
    value
}

/// Data of each event.
async fn events(address: SocketAddr, path: &str, body: Value) -> Vec<Value> {
    let (status, head, text) = ask(address, "POST", path, &body.to_string()).await;
    assert!(status == 200 && head.contains("text/event-stream"), "{status} {text}");
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

/// The likeliest text by the engine alone.
fn greedy(folder: &Path, prompt: &[u32], count: usize) -> Vec<u32> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let loaded = checkpoint.load(0..3, None, &mut |_, _| ()).unwrap();
    let engine = Engine::new(checkpoint.shape().clone(), loaded.weights, 1).unwrap();
    let (mut tokens, mut cache) = (prompt.to_vec(), engine.cache(256));
    for _ in 0..count {
        let at = cache.len();
        let new = tokens[at..].to_vec();
        let x = engine.embed(&new, at).unwrap();
        let x = engine.forward(x, &mut [Part { cache: &mut cache, positions: new.len() }]).unwrap();
        let logits = engine.logits(&x[x.len() - 64..]).unwrap();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        tokens.push(best as u32);
    }
    tokens
}

#[tokio::test]
async fn completions_are_what_the_model_says() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let address = server.address;
    let prompt = server.model.text.encode("hello world", true).unwrap();
    let expected = greedy(folder.path(), &prompt, 20);
    let text = server.model.text.decode(&expected[prompt.len()..]);
    let ask = json!({ "prompt": "hello world", "max_tokens": 20, "temperature": 0, "model": server.model.name });
    let done = complete(address, ask.clone()).await;
    assert_eq!(done["choices"][0]["text"], text);
    assert_eq!(done["choices"][0]["finish_reason"], "length");
    assert_eq!(
        done["usage"],
        json!({ "prompt_tokens": prompt.len(), "completion_tokens": 20, "total_tokens": prompt.len() + 20 })
    );

    // The same with a draft: of a model that is always right, and of one that hardly ever is.
    let other = checkpoint_of(1);
    for draft in [folder.path(), other.path()] {
        let drafting = server_with(folder.path(), 64, Some(draft)).await;
        assert_eq!(complete(drafting.address, ask.clone()).await["choices"][0]["text"], text);
    }

    // The same in pieces, and as tokens, and beside others.
    let mut streamed = ask.clone();
    (streamed["stream"], streamed["stream_options"]) = (json!(true), json!({ "include_usage": true }));
    let pieces = events(address, "/v1/completions", streamed).await;
    let (last, pieces) = pieces.split_last().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 20);
    let whole: String = pieces.iter().map(|piece| piece["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(whole, text);
    let asks = (0..8)
        .map(|_| complete(address, json!({ "prompt": prompt, "max_tokens": 20, "temperature": 0, "echo": true })));
    for done in futures::future::join_all(asks).await {
        assert_eq!(done["choices"][0]["text"], format!("hello world{text}"));
    }

    // A stop text ends it before itself, also where it lies in several tokens.
    let characters: Vec<char> = text.chars().collect();
    let stop: String = characters[5..9].iter().collect();
    let stopped =
        complete(address, json!({ "prompt": "hello world", "max_tokens": 20, "temperature": 0, "stop": [stop] })).await;
    assert_eq!(stopped["choices"][0]["text"], text[..text.find(&stop).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    server.stop();
}

#[tokio::test]
async fn seeds_make_texts_reproducible_and_n_makes_several() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let ask = |seed: Option<i64>, n: u32| {
        complete(
            server.address,
            json!({ "prompt": "a", "max_tokens": 12, "seed": seed, "n": n, "top_p": 0.9, "min_p": 0.001, "top_k": 100 }),
        )
    };
    let (a, b, c) = (ask(Some(5), 3).await, ask(Some(5), 3).await, ask(None, 1).await);
    assert_eq!(a["choices"], b["choices"]);
    let texts: Vec<&Value> = (0..3).map(|i| &a["choices"][i]["text"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && *texts[0] != c["choices"][0]["text"]);
    assert_eq!(a["choices"][2]["index"], 2);
    assert_eq!(ask(Some(6), 1).await["choices"][0]["text"], *texts[1], "seeds of one request follow each other");
    server.stop();
}

#[tokio::test]
async fn conversations_probabilities_and_biases() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let address = server.address;
    let ask = json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hello" }] }], "max_completion_tokens": 6,
                      "temperature": 0, "logprobs": true, "top_logprobs": 3 });
    let (status, done) = post(address, "/v1/chat/completions", ask.clone()).await;
    assert_eq!(status, 200, "{done}");
    let choice = &done["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (3, &token["token"], &token["logprob"]));
        assert!(token["logprob"].as_f64().unwrap() < 0.0);
    }
    let mut streamed = ask;
    streamed["stream"] = json!(true);
    let pieces = events(address, "/v1/chat/completions", streamed).await;
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(choice["message"]["content"], text);
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");

    let token = server.model.text.encode("Z", true).unwrap()[0];
    let biased = complete(
        address,
        json!({ "prompt": "a", "max_tokens": 5, "logit_bias": { token.to_string(): 100 }, "logprobs": 2 }),
    )
    .await;
    assert_eq!(biased["choices"][0]["text"], "ZZZZZ");
    assert_eq!(biased["choices"][0]["logprobs"]["tokens"], json!(["Z", "Z", "Z", "Z", "Z"]));
    assert_eq!(biased["choices"][0]["logprobs"]["text_offset"], json!([0, 1, 2, 3, 4]));
    let ended = complete(address, json!({ "prompt": "a", "max_tokens": 5, "logit_bias": { "261": 100 } })).await;
    assert_eq!((&ended["choices"][0]["text"], &ended["choices"][0]["finish_reason"]), (&json!(""), &json!("stop")));
    server.stop();
}

#[tokio::test]
async fn wrong_requests_are_refused_in_one_sentence() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let chat = "/v1/chat/completions";
    for (path, body, status, says) in [
        ("/v1/completions", "{", 400, "JSON"),
        ("/v1/completions", "{}", 400, "'prompt' is missing"),
        ("/v1/completions", r#"{"prompt": ""}"#, 400, "empty"),
        ("/v1/completions", r#"{"prompt": "a", "tools": []}"#, 400, "'tools' is not supported"),
        ("/v1/completions", r#"{"prompt": "a", "suffix": "b"}"#, 400, "suffix"),
        ("/v1/completions", r#"{"prompt": "a", "temperature": 3}"#, 400, "from 0 to 2"),
        ("/v1/completions", r#"{"prompt": "a", "temperature": "hot"}"#, 400, "temperature"),
        ("/v1/completions", r#"{"prompt": "a", "max_tokens": 0}"#, 400, "max_tokens"),
        ("/v1/completions", r#"{"prompt": "a", "max_tokens": 1000}"#, 400, "256 tokens in all"),
        ("/v1/completions", r#"{"prompt": [9999]}"#, 400, "vocabulary"),
        ("/v1/completions", r#"{"prompt": "a", "model": "gpt-9"}"#, 404, "gpt-9"),
        ("/v1/completions", r#"{"prompt": "a", "n": 50}"#, 400, "1 to 16"),
        ("/v1/completions", r#"{"prompt": "a", "logit_bias": {"x": 1}}"#, 400, "logit_bias"),
        (chat, r#"{"messages": []}"#, 400, "messages"),
        (chat, r#"{"messages": [{"role": "cat", "content": "miaow"}]}"#, 400, "cat"),
        (chat, r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#, 400, "pictures"),
        (
            chat,
            r#"{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}"#,
            400,
            "response_format",
        ),
        (chat, r#"{"messages": [{"role": "user", "content": "a"}], "top_logprobs": 3}"#, 400, "logprobs"),
        (chat, r#"{"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}"#, 400, "tool_calls"),
        ("/v1/completions", r#"{"prompt": ["a","a","a","a","a"], "n": 16}"#, 400, "at most 64 texts"),
        ("/v1/embeddings", "{}", 404, "no such path"),
    ] {
        let (got, _, text) = ask(server.address, "POST", path, body).await;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        let message = value["error"]["message"].as_str().unwrap();
        assert!(got == status && message.contains(says), "{body}: {got} {message}");
    }
    let (status, _, text) = ask(server.address, "GET", "/v1/models", "").await;
    assert!(status == 200 && text.contains(&server.model.name), "{text}");
    let name = format!("/v1/models/{}", server.model.name);
    assert_eq!(ask(server.address, "GET", &name, "").await.0, 200);
    assert_eq!(ask(server.address, "GET", "/v1/models/other", "").await.0, 404);
    server.stop();
}

/// Values of no use for a field of each type, and how a message says what it must be.
const WRONG: [(&str, &[&str], &str); 8] = [
    ("a text", &["7", "[]", "{}", "true"], "is a text"),
    ("yes or no", &["0", "\"true\"", "[]"], "is true or false"),
    (
        "1 to 16",
        &["0", "17", "1.5", "2.0", "-1", "1e30", "\"3\"", "[]", "99999999999999999999"],
        "an integer from 1 to 16",
    ),
    ("0 to 20", &["21", "0.5", "-1", "\"3\"", "{}"], "an integer from 0 to 20"),
    ("tokens", &["0", "-1", "1.5", "4e9", "\"9\"", "[9]"], "an integer from 1 to 1048576"),
    ("0 to 1", &["1.1", "-0.1", "\"1\"", "[1]", "{}"], "a number from 0 to 1"),
    ("0 to 2", &["2.1", "-1", "\"hot\"", "true"], "a number from 0 to 2"),
    ("-2 to 2", &["2.1", "-3", "\"1\"", "[]"], "a number from -2 to 2"),
];

#[tokio::test]
async fn a_field_of_the_wrong_type_is_named_and_told_what_it_must_be() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let (text, chat) = ("/v1/completions", "/v1/chat/completions");
    let say = r#""messages": [{"role": "user", "content": "a"}]"#;
    let mut asked: Vec<(&str, String, String, &str)> = Vec::new();
    for (fields, is) in [
        (&["model", "user"][..], "a text"),
        (&["stream"], "yes or no"),
        (&["n"], "1 to 16"),
        (&["max_tokens"], "tokens"),
        (&["top_p", "min_p"], "0 to 1"),
        (&["temperature"], "0 to 2"),
        (&["presence_penalty", "frequency_penalty"], "-2 to 2"),
    ] {
        let (_, values, says) = WRONG.iter().find(|(name, ..)| *name == is).unwrap();
        for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |value| (field, value))) {
            asked.push((text, format!(r#"{{"prompt": "a", "{field}": {value}}}"#), (*field).into(), says));
            asked.push((chat, format!(r#"{{{say}, "{field}": {value}}}"#), (*field).into(), says));
        }
    }
    for (path, field, is) in [
        (text, "echo", "yes or no"),
        (text, "suffix", "a text"),
        (text, "logprobs", "0 to 20"),
        (text, "best_of", "1 to 16"),
        (chat, "logprobs", "yes or no"),
        (chat, "top_logprobs", "0 to 20"),
        (chat, "max_completion_tokens", "tokens"),
    ] {
        let (_, values, says) = WRONG.iter().find(|(name, ..)| *name == is).unwrap();
        for value in *values {
            asked.push((path, format!(r#"{{"prompt": "a", "{field}": {value}}}"#), field.into(), says));
        }
    }
    let mut add = |path, body: &str, param: &str, says| asked.push((path, body.into(), param.into(), says));
    for prompt in
        ["7", "true", "{}", "[1, \"a\"]", "[\"a\", [1]]", "[[1], 2]", "[1.5]", "[-1]", "[[1.5]]", "[99999999999]"]
    {
        let says = "a text, a list of texts, a list of tokens' numbers, or a list of such lists";
        add(text, &format!(r#"{{"prompt": {prompt}}}"#), "prompt", says);
    }
    add(text, r#"{"prompt": null}"#, "prompt", "missing");
    add(text, r#"{"prompt": []}"#, "prompt", "1 to 16 prompts");
    add(text, r#"{"prompt": [[1], []]}"#, "prompt", "empty");
    for value in ["7", "[7]", "{}", "[[\"a\"]]", "[null]"] {
        add(text, &format!(r#"{{"prompt": "a", "stop": {value}}}"#), "stop", "'stop' is a text or a list of texts");
    }
    add(text, r#"{"prompt": "a", "stop": ["a", ""]}"#, "stop", "1 to 256 bytes");
    for value in ["7", "[]", "\"1\"", r#"{"x": 1}"#, r#"{"1": "1"}"#, r#"{"1": 101}"#, r#"{"-1": 1}"#, r#"{"1": null}"#]
    {
        let says = "an object that names tokens by their numbers";
        add(text, &format!(r#"{{"prompt": "a", "logit_bias": {value}}}"#), "logit_bias", says);
    }
    add(text, r#"{"prompt": "a", "logit_bias": {"9999": 1}}"#, "logit_bias", "does not have");
    for value in ["7", "[]", "\"all\""] {
        let body = format!(r#"{{"prompt": "a", "stream": true, "stream_options": {value}}}"#);
        add(text, &body, "stream_options", "an object like");
    }
    let usage = r#"{"prompt": "a", "stream": true, "stream_options": {"include_usage": 1}}"#;
    add(text, usage, "stream_options.include_usage", "is true or false");
    add(text, r#"{"prompt": "a", "stream": true, "stream_options": {"x": 1}}"#, "stream_options.x", "not supported");
    add(text, r#"{"prompt": "a", "stream_options": {}}"#, "stream_options", "goes with 'stream'");
    for value in ["0.25", "\"\"", "\"-1\"", "\"1e3\"", "\"0.000000001\"", "[]"] {
        add(text, &format!(r#"{{"prompt": "a", "max_alc": {value}}}"#), "max_alc", "an amount of ALC as a text");
    }
    for body in [r#"{"resume": 7}"#, r#"{"resume": ["a"]}"#] {
        add(text, body, "resume", "is a text");
    }
    add(chat, r#"{"resume": "resume-0", "max_tokens": 7}"#, "resume", "goes alone");
    for value in ["1.5", "\"7\"", "99999999999999999999", "[]"] {
        add(text, &format!(r#"{{"prompt": "a", "seed": {value}}}"#), "seed", "an integer from -9223372036854775808 to");
    }
    for value in ["-2", "0.5", "\"1\"", "4294967296"] {
        add(text, &format!(r#"{{"prompt": "a", "top_k": {value}}}"#), "top_k", "an integer from -1 to 4294967295");
    }
    for value in ["7", "\"hi\"", "{}", "true"] {
        add(chat, &format!(r#"{{"messages": {value}}}"#), "messages", "a list of messages like");
    }
    for value in ["7", "\"hi\"", "[]", "null"] {
        add(chat, &format!(r#"{{"messages": [{value}]}}"#), "messages[0]", "an object like");
    }
    let mut said =
        |message: &str, param: &str, says| add(chat, &format!(r#"{{"messages": [{message}]}}"#), param, says);
    said(r#"{"content": "a"}"#, "messages[0].role", "missing: who says it?");
    said(r#"{"role": 7, "content": "a"}"#, "messages[0].role", "is a text");
    said(r#"{"role": "cat", "content": "a"}"#, "messages[0].role", "nobody here is a 'cat'");
    for content in ["7", "{}", "true", "[]"] {
        let message = format!(r#"{{"role": "user", "content": {content}}}"#);
        said(&message, "messages[0].content", "a text, or a list of parts like");
    }
    // OpenAI's API takes an assistant's null beside calls of tools alone, and nobody else's.
    for message in
        [r#"{"role": "user"}"#, r#"{"role": "user", "content": null}"#, r#"{"role": "assistant", "content": null}"#]
    {
        said(message, "messages[0].content", "missing or null: every message has a text here");
    }
    for (part, place, says) in [
        ("7", "", "an object like"),
        (r#"{"text": "a"}"#, ".type", "no pictures"),
        (r#"{"type": "image_url", "image_url": {"url": "a"}}"#, ".type", "no pictures"),
        (r#"{"type": 7, "text": "a"}"#, ".type", "is a text"),
        (r#"{"type": "text"}"#, ".text", "missing"),
        (r#"{"type": "text", "text": 7}"#, ".text", "is a text"),
        (r#"{"type": "text", "text": "a", "x": 1}"#, ".x", "not supported"),
    ] {
        let message = format!(r#"{{"role": "user", "content": [{{"type": "text", "text": "a"}}, {part}]}}"#);
        said(&message, &format!("messages[0].content[1]{place}"), says);
    }
    for more in [
        "7",
        "[]",
        "\"off\"",
        r#"{"a": null}"#,
        r#"{"a": [1]}"#,
        r#"{"a": {}}"#,
        r#"{"": 1}"#,
        r#"{"a b": 1}"#,
        r#"{"1a": 1}"#,
    ] {
        let body = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], "chat_template_kwargs": {more}}}"#);
        asked.push((chat, body, "chat_template_kwargs".into(), "an object of at most 16 names"));
    }
    for name in ["enable_thinking", "messages"] {
        let body = format!(r#"{{{say}, "chat_template_kwargs": {{"{name}": false}}}}"#);
        asked.push((chat, body, format!("chat_template_kwargs.{name}"), "ask for no"));
    }
    let body = r#"{"prompt": "a", "chat_template_kwargs": {"enable_thinking": false}}"#;
    asked.push((text, body.into(), "chat_template_kwargs".into(), "not supported"));
    let mut add = |path, body: &str, param: &str, says| asked.push((path, body.into(), param.into(), says));
    let mut said =
        |message: &str, param: &str, says| add(chat, &format!(r#"{{"messages": [{message}]}}"#), param, says);
    said(r#"{"role": "user", "content": "a", "name": 7}"#, "messages[0].name", "is a text");
    said(r#"{"role": "user", "content": "a", "name": "ann"}"#, "messages[0].name", "show no names");
    said(r#"{"role": "user", "content": "a", "tool_calls": [1]}"#, "messages[0].tool_calls", "not supported");
    let both = format!(r#"{{{say}, "max_tokens": 4, "max_completion_tokens": 5}}"#);
    add(chat, &both, "max_tokens", "here they differ");
    add(text, r#"{"prompt": "a", "best_of": 2}"#, "best_of", "other than 'n'");
    for format in ["7", "\"text\"", r#"{"type": "json_object"}"#] {
        add(chat, &format!(r#"{{{say}, "response_format": {format}}}"#), "response_format", "is supported");
    }
    for body in ["[]", "7", "null", "\"a\""] {
        add(text, body, "", "the body is a JSON object");
    }
    for body in ["", "{", "{\"prompt\": }", "{\"prompt\": 1e999}", "{\"prompt\": \"a\"} x", "{\"prompt\": \"\u{1}\"}"] {
        add(text, body, "", "no JSON that can be read: look at line 1, column");
    }
    assert!(asked.len() > 200, "{}", asked.len());
    for (path, body, param, says) in asked {
        let (status, _, text) = ask(server.address, "POST", path, &body).await;
        let error = serde_json::from_str::<Value>(&text).unwrap_or_else(|_| panic!("{text}"))["error"].clone();
        let message = error["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(says), "{body}: {status} {message}");
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{body}: {message}");
        for phrase in
            ["did not match", "variant", "untagged", "invalid type", "invalid value", "expected", "missing field"]
        {
            assert!(!message.contains(phrase), "{body}: {message}");
        }
    }
    server.stop();
}

#[tokio::test]
async fn several_prompts_may_be_tokens_and_names_go_to_the_template_that_asks_for_them() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let one = |prompt: Value| complete(server.address, json!({ "prompt": prompt, "max_tokens": 5, "temperature": 0 }));
    let both = one(json!([[1, 2], [3]])).await;
    for (i, alone) in [one(json!([1, 2])).await, one(json!([[3]])).await].iter().enumerate() {
        assert_eq!(both["choices"][i]["text"], alone["choices"][0]["text"]);
    }
    assert_eq!(both["usage"], json!({ "prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13 }));
    let twice = json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 4, "max_completion_tokens": 4,
                        "logit_bias": { "261": -100 } });
    assert_eq!(post(server.address, "/v1/chat/completions", twice).await.1["usage"]["completion_tokens"], 4);
    server.stop();

    // Of users alone.
    let thinks = "assistant\\n' ~ ('' if enable_thinking is defined and not enable_thinking else '<think>') }}";
    let template = TEMPLATE
        .replace("+ message.role +", "+ (message.name if message.role == 'user' and message.name else message.role) +")
        .replace("assistant\\n' }}", thinks);
    random::write_tokenizer(folder.path(), Some(&template)).unwrap();
    let server = server_with(folder.path(), 64, None).await;
    let chat = |messages: Value| {
        post(server.address, "/v1/chat/completions", json!({ "messages": messages, "max_tokens": 2 }))
    };
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let (_, plain) = chat(json!([{ "role": "user", "content": "a" }])).await;
    let (status, named) = chat(json!([{ "role": "user", "content": "a", "name": "a user with a long name" }])).await;
    assert!(status == 200 && tokens(&named) > tokens(&plain), "{named}");
    let thinking = |more: Value| {
        let body =
            json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 2, "chat_template_kwargs": more });
        post(server.address, "/v1/chat/completions", body)
    };
    assert_eq!(tokens(&thinking(json!({ "enable_thinking": true })).await.1), tokens(&plain));
    assert!(tokens(&thinking(json!({ "enable_thinking": false })).await.1) < tokens(&plain));
    let (status, refused) = thinking(json!({ "enable_thinking": false, "other": 1 })).await;
    assert_eq!((status, refused["error"]["param"].as_str()), (400, Some("chat_template_kwargs.other")));
    let all = json!([{ "role": "user", "content": "a", "name": "ann" }, { "role": "assistant", "content": "b", "name": "bot" }]);
    let (status, refused) = chat(all).await;
    assert_eq!((status, refused["error"]["param"].as_str()), (400, Some("messages[1].name")));
    server.stop();
}

#[tokio::test]
async fn what_no_memory_is_left_for_is_refused_in_time_and_the_next_text_is_written() {
    let folder = checkpoint();
    let server = server(folder.path(), 0).await;
    let started = std::time::Instant::now();
    let (status, why) = post(server.address, "/v1/completions", json!({ "prompt": "a" })).await;
    let message = why["error"]["message"].as_str().unwrap();
    assert!(status == 503 && message.contains("no memory is left"), "{status} {message}");
    assert_eq!(why["error"]["code"], "stages_full");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // In a stream it is the same object.
    let body = json!({ "prompt": "a", "stream": true }).to_string();
    let (_, _, text) = ask(server.address, "POST", "/v1/completions", &body).await;
    let mut event: Value = serde_json::from_str(text.trim().strip_prefix("data: ").unwrap()).unwrap();
    assert_ne!(event["error"]["resume"], why["error"]["resume"]);
    event["error"]["resume"] = why["error"]["resume"].clone();
    assert_eq!(event, why);
    server.stop();
}

#[tokio::test]
async fn a_text_that_nobody_wrote_is_written_later_as_it_was_asked_for() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let ask =
        json!({ "prompt": ["a", "hello world"], "max_tokens": 20, "n": 2, "seed": 5, "echo": true, "stop": ["~~"] });
    let whole = complete(server.address, ask.clone()).await;

    // Nobody serves it any more, and then somebody does again.
    server.hub.stop();
    let (status, why) = post(server.address, "/v1/completions", ask).await;
    assert_eq!((status, why["error"]["code"].as_str()), (503, Some("no_replica")), "{why}");
    let id = why["error"]["resume"].as_str().unwrap();
    let hosting = Hosting { threads: 1, memory: 64 << 20, niceness: 0, draft: Guess::default() };
    start(&server.hub, &server.model, 0..server.model.shape.layers as u32, &hosting).await.unwrap();

    let (status, why) = post(server.address, "/v1/chat/completions", json!({ "resume": id })).await;
    assert_eq!((status, why["error"]["param"].as_str()), (400, Some("resume")), "{why}");
    let again = json!({ "resume": id, "stream": true, "stream_options": { "include_usage": true } });
    let mut texts = [const { String::new() }; 4];
    let pieces = events(server.address, "/v1/completions", again.clone()).await;
    let (usage, pieces) = pieces.split_last().unwrap();
    for piece in pieces {
        let choice = &piece["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(whole["choices"][i]["text"], *text);
    }
    assert_eq!(usage["usage"], whole["usage"]);
    let (status, why) = post(server.address, "/v1/completions", again).await;
    assert_eq!((status, why["error"]["code"].as_str()), (404, Some("unknown_resume")), "{why}");
    server.stop();
}

#[tokio::test]
async fn who_pays_nothing_is_told_what_those_ask_who_serve() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    // This node serves nothing any more, and another one asks for payment.
    server.hub.stop();
    let own = server.hub.known().all().next().unwrap().clone();
    server.hub.known().forget(server.hub.node());
    let node = *Keypair::generate().public();
    let at_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    assert!(server.hub.hear(Announce { node, at_ms, price: Amount::alc(3), ..own }));
    let (status, why) = post(server.address, "/v1/completions", json!({ "prompt": "a" })).await;
    assert_eq!(
        (status, &why["error"]["type"], &why["error"]["code"]),
        (402, &json!("insufficient_quota"), &json!("price_too_high"))
    );
    let message = why["error"]["message"].as_str().unwrap();
    assert!(message.contains("layers 0 to 2 of the model asks 3 ALC") && message.contains("--spend"), "{message}");
    server.stop();
}

#[tokio::test]
async fn models_of_others_are_listed_and_who_asks_for_one_is_told_where_it_is() {
    let folder = checkpoint();
    let server = server(folder.path(), 64).await;
    let own = server.hub.known().all().next().unwrap().clone();
    let hears = |name: &str, model: u8, layers: std::ops::Range<u32>| {
        let at_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let (name, node, model) = (name.to_string(), *Keypair::generate().public(), Hash([model; 32]));
        let (first, end) = (layers.start, layers.end);
        assert!(server.hub.hear(Announce { node, at_ms, model, name, first, end, ..own.clone() }));
    };
    hears("theirs", 1, 0..2);
    hears("theirs", 1, 2..3);
    hears("a part", 2, 0..2);
    hears(&own.name, 3, 0..3);
    let (_, _, text) = ask(server.address, "GET", "/v1/models", "").await;
    let all = serde_json::from_str::<Value>(&text).unwrap()["data"].clone();
    let [mine, theirs] = all.as_array().unwrap().as_slice() else { panic!("{all}") };
    assert_eq!(
        (&mine["id"], &mine["here"], mine["stages"].as_array().unwrap().len()),
        (&json!(own.name), &json!(true), 1)
    );
    for (field, is) in [
        ("id", json!("theirs")),
        ("object", json!("model")),
        ("here", json!(false)),
        ("owned_by", json!("network")),
        ("created", json!(0)),
        ("layers", json!(3)),
        ("hash", json!(Hash([1; 32]).to_string())),
    ] {
        assert_eq!(theirs[field], is, "{field}");
    }
    assert_eq!(theirs["stages"].as_array().unwrap().len(), 2);
    assert_eq!(ask(server.address, "GET", "/v1/models/theirs", "").await.0, 200);
    let (status, why) = post(server.address, "/v1/completions", json!({ "prompt": [9999], "model": "theirs" })).await;
    let message = why["error"]["message"].as_str().unwrap();
    assert_eq!((status, why["error"]["code"].as_str()), (404, Some("model_not_found")));
    assert!(
        message.contains("other nodes of this network serve the model 'theirs'") && message.contains(&own.name),
        "{message}"
    );
    let (_, why) = post(server.address, "/v1/completions", json!({ "prompt": "a", "model": "a part" })).await;
    assert!(why["error"]["message"].as_str().unwrap().contains("not served here"), "{why}");
    server.stop();
}

/// A model whose texts are so long that no buffer on the way holds one of them.
fn long_winded() -> tempfile::TempDir {
    let (folder, mut config) = (tempfile::tempdir().unwrap(), config(1));
    config["max_position_embeddings"] = json!(16_384);
    random::write(folder.path(), &config, &random::tensors(&config), 1).unwrap();
    random::write_tokenizer(folder.path(), Some(TEMPLATE)).unwrap();
    folder
}

/// A client that asks for a stream of about 30 MB, and reads its beginning alone.
async fn slow_reader(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let body = json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 16_000, "stream": true, "logprobs": true,
                       "top_logprobs": 20, "logit_bias": { "261": -100 } })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut some = [0; 300];
    stream.read_exact(&mut some).await.unwrap();
    assert!(String::from_utf8_lossy(&some).starts_with("HTTP/1.1 200"));
    stream
}

#[tokio::test]
async fn places_and_the_queue_are_bounded_and_come_back() {
    let usual = Bounds::default();
    assert_eq!((usual.writing, usual.waiting), (64, 256), "what docs/inference.md says");
    let folder = long_winded();
    let server = server_bounded(folder.path(), 256, None, Bounds { writing: 2, waiting: 2, ..usual }).await;
    let address = server.address;
    let few = json!({ "prompt": "a", "max_tokens": 2 }).to_string();
    let asks = |count: usize| {
        let few = few.clone();
        (0..count).map(move |_| {
            let few = few.clone();
            async move { ask(address, "POST", "/v1/completions", &few).await }
        })
    };
    let places = [slow_reader(address).await, slow_reader(address).await];
    // Two wait for a place, so the third one is told to come again, whichever of them that is.
    let mut waiting: JoinSet<_> = asks(3).collect();
    let (status, head, text) = waiting.join_next().await.unwrap().unwrap();
    assert!(status == 429 && head.contains("retry-after: 1") && text.contains("rate_limit_exceeded"), "{head} {text}");
    assert!(waiting.try_join_next().is_none());
    drop(places);
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().0, 200);
    }
    // Both places are there again, and both that wait for one.
    let both = complete(address, json!({ "prompt": "a", "max_tokens": 2, "n": 2 })).await;
    assert_eq!(both["choices"].as_array().unwrap().len(), 2);
    let answers: JoinSet<_> = asks(2).collect();
    assert!(answers.join_all().await.iter().all(|(status, ..)| *status == 200));
    let (status, _, text) = ask(address, "POST", "/v1/completions", r#"{"prompt": "a", "n": 3}"#).await;
    assert!(status == 400 && text.contains("at most 2 texts"), "{text}");
    server.stop();
}

#[tokio::test]
async fn who_asks_for_many_texts_holds_nobody_up_and_is_held_up_by_nobody() {
    let folder = long_winded();
    let bounds = Bounds { writing: 3, unread: Duration::from_secs(600), ..Bounds::default() };
    let server = server_bounded(folder.path(), 256, None, bounds).await;
    let address = server.address;
    let texts = |n: u32, tokens: u32| {
        let body = json!({ "prompt": "a", "max_tokens": tokens, "n": n, "logit_bias": { "261": -100 } });
        tokio::spawn(complete(address, body))
    };
    // One place is left, and each of two needs three; who comes last needs one.
    let places = [slow_reader(address).await, slow_reader(address).await];
    let large = [texts(3, 1000), texts(3, 1000)];
    tokio::time::sleep(Duration::from_millis(50)).await;
    let small = tokio::time::timeout(Duration::from_secs(60), texts(1, 2)).await.unwrap().unwrap();
    assert_eq!(small["choices"].as_array().unwrap().len(), 1);
    assert!(large.iter().all(|large| !large.is_finished()), "it came between their texts");
    for large in large {
        let large = tokio::time::timeout(Duration::from_secs(60), large).await.unwrap().unwrap();
        assert_eq!(large["usage"]["completion_tokens"], 3000);
    }
    drop(places);
    server.stop();
}

#[tokio::test]
async fn who_reads_nothing_holds_nobody_up_and_is_given_up() {
    let folder = long_winded();
    let unread = Duration::from_millis(300);
    let bounds = Bounds { writing: 2, unread, ..Bounds::default() };
    let server = server_bounded(folder.path(), 256, None, bounds).await;
    let ask = json!({ "prompt": "hello world", "max_tokens": 200, "temperature": 0 });
    let alone = complete(server.address, ask.clone()).await;
    let mut slow = slow_reader(server.address).await;
    let beside = complete(server.address, ask).await;
    assert_eq!(beside["choices"], alone["choices"]);
    // The slow one's place comes back, though it still reads nothing.
    until(|| !server.hub.waits()).await;
    let both = complete(server.address, json!({ "prompt": "a", "max_tokens": 2, "n": 2 })).await;
    assert_eq!(both["choices"].as_array().unwrap().len(), 2);
    // If it reads on then, it is told that the text did not end.
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("too_slow") && !rest.contains("[DONE]") && rest.len() < 20 << 20, "{}", rest.len());
    server.stop();
}

/// A completion is asked for, and nothing is read.
async fn asked(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn who_goes_away_frees_what_was_kept_for_the_text() {
    let folder = checkpoint();
    // Room for one text of full length, barely.
    let server = server(folder.path(), 1).await;
    let body = json!({ "prompt": "a", "max_tokens": 250, "stream": true, "logit_bias": { "261": -100 } }).to_string();
    for _ in 0..20 {
        let mut stream = asked(server.address, &body).await;
        let mut some = [0; 300];
        stream.read_exact(&mut some).await.unwrap();
        assert!(String::from_utf8_lossy(&some).starts_with("HTTP/1.1 200"));
    }
    let done = complete(server.address, json!({ "prompt": "a", "max_tokens": 100 })).await;
    assert_eq!(done["choices"].as_array().unwrap().len(), 1);
    server.stop();

    // So it is where the whole text is waited for: all of them to their ends would take minutes.
    let folder = long_winded();
    let server = server_with(folder.path(), 64, None).await;
    let body = json!({ "prompt": "a", "max_tokens": 16_000, "logit_bias": { "261": -100 } }).to_string();
    let room = || server.hub.now().unwrap().0;
    let (all, started) = (room(), std::time::Instant::now());
    for _ in 0..20 {
        let stream = asked(server.address, &body).await;
        until(|| room() < all).await;
        drop(stream);
        until(|| room() == all).await;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!server.hub.waits());
    server.stop();
}

//! OpenAI's own Python client against the server, as a process.

#![allow(clippy::unwrap_used)]

use ailo_training::checkpoint::random;
use serde_json::json;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Which Python to ask: `AILO_PYTHON`, for one of a virtual environment.
fn python() -> String {
    std::env::var("AILO_PYTHON").unwrap_or_else(|_| "python3".into())
}

#[test]
fn openais_own_client_finds_what_it_expects() {
    let known = Command::new(python()).args(["-c", "import openai"]).stderr(Stdio::null()).status();
    if !known.is_ok_and(|status| status.success()) {
        println!(
            "SKIPPED: {} has no package 'openai' (pip install openai, and name that Python in AILO_PYTHON)",
            python()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 512,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "eos_token_id": 261 });
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    random::write(folder.path(), &config, &random::tensors(&config), 1).unwrap();
    random::write_tokenizer(folder.path(), Some(template)).unwrap();

    let mut serve = Command::new(env!("CARGO_BIN_EXE_ailo-node"));
    serve.args(["serve", "--http", "127.0.0.1:0", "--threads", "1", "--memory", "64", "--model"]).arg(folder.path());
    let mut serve = Killed(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(serve.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap_or_else(|| panic!("{line}"))
        .to_string();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/openai_client.py");
    let checked = Command::new(python()).args([script, &url]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    println!("{said}");
}

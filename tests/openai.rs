//! OpenAI's own Python client against the server, as a process.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/server.rs"]
mod server;

use server::{Server, says};
use std::process::{Command, Stdio};

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
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.json");
    let keys = keys.to_str().unwrap();
    let limits = ["--requests-per-minute", "600", "--tokens-per-day", "1000000", "--concurrent", "20"];
    let create = ["api-keys", "create", "--file", keys, "--name"];
    let key = says(&[&create, &["python"][..], &limits].concat());
    let few = says(&[&create, &["few", "--requests-per-minute", "1"][..]].concat());
    let server = Server::start("127.0.0.1:0", &["--api-keys", keys, "--require-api-key"]);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/openai_client.py");
    let mut check = Command::new(python());
    check.args([script, &server.url()]).env("AILO_API_KEY", key.trim()).env("AILO_API_KEY_FEW", few.trim());
    let checked = check.output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    println!("{said}");
}

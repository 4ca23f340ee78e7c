//! The command line as a real process: what it says to people and to programs, how it ends, and what it makes of wrong input.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_ledger::{Body, Transaction, transaction::recovery_commitment};
use ailo_node::rpc::types::{At, TransactionView};
use ailo_protocol::{Address, Amount, Hash, Keypair, keystore};
use common::{ailo, program};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

const ID: &str = "abababababababababababababababababababababababababababababababab";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn object(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one object: {text}");
    serde_json::from_str(&text).unwrap()
}

fn wallet(path: &Path) -> Keypair {
    let key = Keypair::from_seed([7; 32]);
    keystore::create(path, keystore::Kind::Wallet, &key, None).unwrap();
    key
}

#[test]
fn wrong_input_is_answered_in_one_sentence_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let key = Keypair::from_seed([1; 32]).public().to_string();
    let address = Address([7; 20]).to_string();
    let mistyped = format!("{}q", &address[..address.len() - 1]);
    wallet(Path::new(&path("wallet.json")));
    wallet(Path::new(&path("exposed.json")));
    fs::set_permissions(path("exposed.json"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path("broken.json"), "{}").unwrap();
    fs::set_permissions(path("broken.json"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("powr.toml"), "network = \"dev\"\npowr = 50\n").unwrap();
    fs::write(path("text.toml"), "network = \n").unwrap();
    fs::write(path("layers.toml"), "network = \"dev\"\nmodel = \"nowhere\"\n").unwrap();
    fs::create_dir_all(path("newer")).unwrap();
    fs::write(path("newer/version"), "99\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://{taken}/rpc");
    let data = path("data");
    let tx = |more: &[&str]| -> Vec<String> {
        let rest = ["--from", &key, "--nonce", "0", "--network-id", ID];
        ["tx", "build"].iter().chain(more).chain(&rest).map(ToString::to_string).collect()
    };

    // What is given, the exit code, and words that the answer must have.
    let wallet_file = path("wallet.json");
    let with = |file: &str| {
        ["wallet", "send", &address, "1", "--rpc", &dead, "--wallet-file", file].map(ToString::to_string).to_vec()
    };
    let line = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    let cases: Vec<(Vec<String>, i32, &str)> = vec![
        (line(&["stats"]), 2, "status"),
        (line(&["status", "--jsn"]), 2, "--json"),
        (line(&["wallet"]), 2, "Usage"),
        (line(&["wallet", "send"]), 2, "<ADDRESS|@NAME>"),
        (line(&["wallet", "send", &mistyped, "1"]), 2, "typing error"),
        (line(&["wallet", "send", "ailo1", "1"]), 2, "address"),
        (line(&["wallet", "send", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "1"]), 2, "address"),
        (line(&["wallet", "send", "@A!", "1"]), 2, "name"),
        (line(&["wallet", "send", &address, "1,5"]), 2, "1,5"),
        (line(&["wallet", "send", &address, "-1"]), 2, "-1"),
        (line(&["wallet", "send", &address, "0.123456789"]), 2, "0.123456789"),
        (line(&["wallet", "send", &address, "99999999999999999999"]), 2, "99999999999999999999"),
        (line(&["wallet", "send", &address, "much"]), 2, "much"),
        (with(&wallet_file), 3, "no node answers"),
        (
            line(&["wallet", "send", "@ann", "1", "--rpc", "http://192.0.2.7:1/rpc", "--wallet-file", &wallet_file]),
            2,
            "--expect",
        ),
        (with(&path("missing.json")), 7, "there is no key file"),
        (with(&path("exposed.json")), 7, "chmod 600"),
        (with(&path("broken.json")), 7, "not a usable key file"),
        (with(dir.path().to_str().unwrap()), 7, "not a"),
        (line(&["wallet", "dispute", "abc"]), 2, "abc"),
        (line(&["wallet", "consent", "zz"]), 2, "zz"),
        (line(&["wallet", "history", "--limit", "many"]), 2, "many"),
        (line(&["wallet", "new", "--wallet-file", &wallet_file]), 7, "left untouched"),
        (line(&["wallet", "new", "--restore", "--wallet-file", &path("new.json")]), 7, "24 words"),
        (line(&["wallet", "passphrase", "--wallet-file", &wallet_file]), 2, "AILO_NEW_PASSPHRASE_FILE"),
        (line(&["stake", "1", "--node", &address]), 2, "--node"),
        (line(&["stake", "1", "--data-dir", &data]), 7, "there is no key file"),
        (line(&["vote", "1", "perhaps"]), 2, "yes"),
        (line(&["propose"]), 2, "SECTION.KEY=VALUE"),
        (line(&["validators", &key, "--limit", "0"]), 2, "1..=100"),
        (line(&["status", "--rpc", "localhost:1"]), 2, "http://127.0.0.1:8645/rpc"),
        (line(&["status", "--rpc", &dead]), 3, "ailo-node run"),
        (line(&["status", "--data-dir", &data]), 3, "no node runs"),
        (line(&["verify", "model", "--data-dir", &data]), 2, "--network"),
        (line(&["verify", "model", "--checkpoint", "7"]), 2, "HEIGHT:ID"),
        (line(&["run", "--network", "dev", "--log", "a=b=c", "--data-dir", &data]), 2, "--log"),
        (line(&["run", "--network", "dev", "--layers", "4", "--data-dir", &data]), 2, "0..12"),
        (line(&["run", "--network", "dev", "--price", "cheap", "--data-dir", &data]), 2, "cheap"),
        (line(&["run", "--network", "dev", "--spend", "all", "--data-dir", &data]), 2, "--spend"),
        (line(&["run", "--network", "dev", "--checks", "2", "--data-dir", &data]), 2, "0 to 1"),
        (line(&["run", "--network", "dev", "--consent", "00", "--data-dir", &data]), 2, "wallet consent"),
        (line(&["run", "--network", "dev", "--data-dir", &path("newer")]), 2, "newer ailo-node"),
        (line(&["run", "--config", &path("powr.toml")]), 2, "did you mean power?"),
        (line(&["run", "--config", &path("text.toml")]), 2, "line 1"),
        (line(&["config", "check", "--config", &path("layers.toml")]), 2, "config.json"),
        (line(&["config", "check", "--config", &path("none.toml")]), 6, "none.toml"),
        (tx(&["transfer", "--amount", "1"]), 2, "--to"),
        (line(&["tx", "show", &wallet_file]), 2, "tx build"),
        (line(&["tx", "attach", &wallet_file, "--signature", "00"]), 2, "--signature"),
        (line(&["backup", "--data-dir", &data, &path("out.tar")]), 2, "no node's folder"),
        (line(&["restore", &wallet_file, "--data-dir", &path("again")]), 4, "no whole backup"),
        (line(&["restore", &wallet_file, "--data-dir", dir.path().to_str().unwrap()]), 2, "holds something already"),
        (line(&["api-keys", "revoke", "ann", "--data-dir", &data]), 2, "api-keys list"),
        (line(&["serve", "--model", &path("nowhere")]), 1, "nowhere"),
        (line(&["aggregate", "--rule", "best", "--f", "1", "in", "out"]), 2, "trimmed-mean"),
        (line(&["aggregate", "--rule", "median", "--f", "1", &path("in"), &path("out")]), 6, "cannot read"),
        (line(&["replay", &path("record.json"), "--network", "n"]), 6, "record.json"),
        (line(&["completions", "tcsh"]), 2, "bash"),
    ];
    for (i, (words, code, expected)) in cases.into_iter().enumerate() {
        let output = ailo(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let complaint = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {complaint}");
        assert!(complaint.contains(expected), "{words:?} must say {expected:?}, not: {complaint}");
        assert!(!complaint.contains("panicked") && output.stdout.is_empty(), "{words:?}: {complaint}");

        // A program is told the same; some of them show that.
        if i % 4 > 0 {
            continue;
        }
        let output = program().args(&words).arg("--json").output().unwrap();
        let complaint: Value = serde_json::from_str(said(&output).lines().last().unwrap()).unwrap();
        assert_eq!(
            (complaint["error"]["code"].as_i64(), output.status.code()),
            (Some(code.into()), Some(code)),
            "{words:?}"
        );
        let message = complaint["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && complaint["error"]["kind"].is_string(), "{complaint}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = program().args(["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));

    // But words that nobody read are lost.
    let dir = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["wallet", "new", "--wallet-file"]).arg(dir.path().join("wallet.json"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(6));
}

/// A node that answers each method as it is told to; without an answer the connection ends.
fn pretends(answer: impl Fn(&str, &Value) -> Option<Value> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/rpc", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut length, mut line) = (BufReader::new(stream.unwrap()), 0, String::new());
            while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                let field = line.to_ascii_lowercase();
                length = field.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let Some(mut told) = answer(asked["method"].as_str().unwrap(), &asked["params"]) else { continue };
            (told["jsonrpc"], told["id"]) = ("2.0".into(), asked["id"].clone());
            let (text, head) =
                (told.to_string(), "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close");
            write!(stream.get_mut(), "{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).unwrap();
        }
    });
    url
}

fn result<T: Serialize>(value: T) -> Option<Value> {
    Some(json!({ "result": At { height: 9, state_root: Hash([0; 32]), value } }))
}

/// What every command asks that signs.
fn beginnings(method: &str) -> Option<Value> {
    match method {
        "ailo_status" => result(json!({ "network": ID })),
        "ailo_nextNonce" => result(json!({ "nonce": 4 })),
        _ => None,
    }
}

fn included(transaction: Transaction) -> Option<Value> {
    result(TransactionView {
        id: transaction.id(),
        status: "pending".into(),
        block_height: Some(9),
        attested_by: vec![],
        reported_by: vec![],
        needed: None,
        seats: None,
        report_percent: None,
        transaction,
    })
}

#[test]
fn what_may_have_been_sent_is_not_called_unsent_and_goes_on_being_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (file, tx, to) = (path("wallet.json"), path("tx.json"), Address([9; 20]).to_string());
    let key = wallet(Path::new(&file));
    let send = |url: &str, more: &[&str]| {
        ailo(&[&["wallet", "send", &to, "1", "--json", "--rpc", url, "--wallet-file", &file], more].concat())
    };

    // The node goes away while it is handed the transaction.
    let gone = pretends(|method, _| beginnings(method));
    let output = send(&gone, &[]);
    let complaint: Value = serde_json::from_str(said(&output).lines().last().unwrap()).unwrap();
    assert_eq!((output.status.code(), &complaint["error"]["kind"]), (Some(8), &json!("sent")), "{complaint}");
    assert!(complaint["error"]["id"].as_str().is_some_and(|id| id.len() == 64), "{complaint}");
    assert!(complaint["error"]["message"].as_str().unwrap().contains("do not send the same again"), "{complaint}");
    let other = send(&gone, &["--network-id", &"cd".repeat(32)]);
    assert!(other.status.code() == Some(2) && said(&other).contains("is of the network"), "{}", said(&other));

    // It does not answer once, and does not know the transaction once, before it shows it.
    let (polls, taken) = (AtomicUsize::new(0), Mutex::new(None));
    let url = pretends(move |method, params| match method {
        "ailo_submit" => {
            let bytes = hex::decode(params["transaction"].as_str().unwrap()).unwrap();
            let transaction = Transaction::decode(&bytes).unwrap();
            let id = transaction.id();
            *taken.lock().unwrap() = Some(transaction);
            result(json!({ "id": id }))
        }
        "ailo_transaction" => match polls.fetch_add(1, Ordering::Relaxed) {
            0 => None,
            1 => Some(json!({ "error": { "code": -32001, "message": "unknown" } })),
            _ => included(taken.lock().unwrap().clone().unwrap()),
        },
        _ => beginnings(method),
    });
    let sent = object(&send(&url, &[]));
    assert_eq!((&sent["block_height"], &sent["transaction"]["nonce"]), (&json!(9), &json!(4)), "{sent}");

    // A file whose transaction is known is not handed in again.
    let build = ["tx", "build", "transfer", "--to", &to, "--amount", "1", "--wallet-file", &file, "--nonce", "3"];
    let built = object(&ailo(&[&build[..], &["--network-id", ID, "--out", &tx, "--json"]].concat()));
    let signed = object(&ailo(&["tx", "sign", &tx, "--wallet", &file, "--json"]));
    assert_eq!(built["id"], signed["id"]);
    let body = Body::Transfer { to: Address([9; 20]), amount: Amount::alc(1), memo: String::new() };
    let transaction = Transaction::sign(&ID.parse().unwrap(), &key, 3, built["time_ms"].as_u64().unwrap(), body);
    let knows = pretends(move |method, _| match method {
        "ailo_transaction" => included(transaction.clone()),
        _ => beginnings(method),
    });
    assert_eq!(object(&ailo(&["tx", "submit", &tx, "--rpc", &knows, "--json"]))["id"], built["id"]);
}

#[test]
fn what_a_node_says_does_not_steer_the_terminal() {
    let url = pretends(|_, _| Some(json!({ "error": { "code": -32003, "message": "\u{1b}[2J\u{7}gone" } })));
    let output = ailo(&["status", "--rpc", &url]);
    assert!(
        said(&output).contains("gone") && !output.stderr.iter().any(|b| [0x1b, 7].contains(b)),
        "{}",
        said(&output)
    );
}

#[test]
fn help_lists_the_exit_codes_and_completions_and_pages_are_made_for_every_command() {
    let help = String::from_utf8(ailo(&["--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes:") && help.contains("5  refused"), "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(ailo(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("withdraw-report"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let made = object(&ailo(&["man", dir.path().to_str().unwrap(), "--json"]));
    assert_eq!(made["pages"].as_array().unwrap().len(), fs::read_dir(dir.path()).unwrap().count());
    let page = fs::read_to_string(dir.path().join("ailo-node-wallet-send.1")).unwrap();
    assert!(page.contains("ADDRESS") && page.contains("for the tea"), "{page}");
}

#[test]
fn colours_are_for_terminals_alone() {
    for args in [&["--help"][..], &["stats"], &["status", "--rpc", "http://127.0.0.1:1/rpc"]] {
        let output = ailo(args);
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}");
    }
}

#[test]
fn a_transaction_is_made_shown_signed_and_checked_without_any_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let key = wallet(Path::new(&path("wallet.json")));
    let (public, to) = (key.public().to_string(), Address([9; 20]).to_string());
    let file = path("tx.json");
    let build =
        ["tx", "build", "transfer", "--to", &to, "--amount", "1.5", "--memo", "tea", "--from", &public, "--nonce", "3"];
    let built = object(&ailo(&[&build[..], &["--network-id", ID, "--out", &file, "--json"]].concat()));
    assert_eq!((built["nonce"].as_u64(), built["network"].as_str()), (Some(3), Some(ID)));
    assert!(built["words"].as_str().unwrap().contains(&format!("1.5 ALC to {to}")), "{built}");
    assert_eq!(built["signature_holds"], Value::Null);
    let twice = ailo(&[&build[..], &["--network-id", ID, "--out", &file]].concat());
    assert!(said(&twice).contains("exists already"));

    // Signed by a device that is given 32 bytes.
    let bytes = hex::decode(built["sign"].as_str().unwrap()).unwrap();
    let by = |key: &Keypair| hex::encode(key.sign(&bytes).0);
    let wrong = ailo(&["tx", "attach", &file, "--signature", &by(&Keypair::from_seed([8; 32]))]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("does not hold"), "{}", said(&wrong));
    assert!(said(&ailo(&["tx", "submit", &file])).contains("is not signed"));
    let attached = object(&ailo(&["tx", "attach", &file, "--signature", &by(&key), "--json"]));
    assert_eq!(attached["signature_holds"], true);

    // Or by a wallet's file.
    let signed = object(&ailo(&["tx", "sign", &file, "--wallet", &path("wallet.json"), "--json"]));
    assert_eq!(signed["signature"], attached["signature"]);
    // How long it may wait is said, and what is too old.
    let shown = String::from_utf8(ailo(&["tx", "show", &file]).stdout).unwrap();
    assert!(shown.contains("to be sent before") && !shown.contains("TOO LATE"), "{shown}");
    let (old, aside) = (path("old.json"), Keypair::from_seed([9; 32]));
    let rest = ["--from", &public, "--nonce", "3", "--network-id", ID, "--time-ms", "1000", "--out", &old];
    let recovery = aside.public().to_string();
    let build = [&["tx", "build", "protect", "--recovery", &recovery], &rest[..]].concat();
    assert!(String::from_utf8(ailo(&build).stdout).unwrap().contains("TOO LATE"));
    let shown = object(&ailo(&["tx", "show", &old, "--json"]));
    let commitment = recovery_commitment(&ID.parse().unwrap(), aside.public()).to_string();
    assert!(shown["words"].as_str().unwrap().contains(&commitment) && shown["time_ms"] == 1000, "{shown}");

    let other = path("other.json");
    keystore::create(Path::new(&other), keystore::Kind::Wallet, &Keypair::generate(), None).unwrap();
    assert!(said(&ailo(&["tx", "sign", &file, "--wallet", &other])).contains("--wallet"));
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&hex::encode(*key.seed())));
}

#[test]
fn a_wallet_is_locked_and_opened_by_a_passphrase_that_no_flag_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (file, tx) = (path("wallet.json"), path("tx.json"));
    fs::write(path("secret"), "correct horse\n").unwrap();
    fs::write(path("empty"), "\n").unwrap();
    fs::write(path("wrong"), "battery\n").unwrap();
    let made = program()
        .args(["wallet", "new", "--wallet-file", &file, "--json"])
        .env("AILO_PASSPHRASE_FILE", path("secret"))
        .output();
    let made = object(&made.unwrap());
    assert_eq!(made["words"].as_str().unwrap().split(' ').count(), 24);
    assert_eq!(made["locked"], true);
    assert!(fs::read_to_string(&file).unwrap().contains("\"seal\""));

    // What is public takes no passphrase.
    let shown = object(&ailo(&["wallet", "address", "--wallet-file", &file, "--json"]));
    assert_eq!(shown["address"], made["address"]);
    let build =
        ["tx", "build", "deposit", "1", "--wallet-file", &file, "--nonce", "0", "--network-id", ID, "--out", &tx];
    assert!(ailo(&build).status.success());
    let sign = |passphrase: Option<&str>| {
        let mut command = program();
        command.args(["tx", "sign", &tx, "--wallet", &file]);
        if let Some(name) = passphrase {
            command.env("AILO_PASSPHRASE_FILE", path(name));
        }
        command.output().unwrap()
    };
    assert!(sign(None).status.code() == Some(7) && said(&sign(None)).contains("AILO_PASSPHRASE_FILE"));
    assert!(said(&sign(Some("wrong"))).contains("does not open"));
    assert!(sign(Some("secret")).status.success());

    let opened = program()
        .args(["wallet", "passphrase", "--wallet-file", &file, "--json"])
        .env("AILO_PASSPHRASE_FILE", path("secret"))
        .env("AILO_NEW_PASSPHRASE_FILE", path("empty"))
        .output();
    assert_eq!(object(&opened.unwrap())["locked"], false);
    assert!(sign(None).status.success());

    // A passphrase that was meant is used or refused, and never left out.
    let (next, folder) = (path("next.json"), path("folder"));
    let new = |name: &str, value: &OsStr, words: &[&str]| program().args(words).env(name, value).output().unwrap();
    let wallet = ["wallet", "new", "--wallet-file", &next, "--json"];
    let no_text = OsStr::from_bytes(b"\xff\xfe");
    fs::write(path("below"), "\nsecond line\n").unwrap();
    for (name, value, why) in [
        ("AILO_PASSPHRASE_FILE", OsStr::new(&path("empty")), "empty passphrase"),
        ("AILO_PASSPHRASE", OsStr::new(""), "empty passphrase"),
        ("AILO_PASSPHRASE", no_text, "UTF-8"),
        ("AILO_NEW_PASSPHRASE_FILE", OsStr::new(&path("below")), "first line"),
    ] {
        let output = new(name, value, &wallet);
        assert!(output.status.code() == Some(2) && said(&output).contains(why), "{name}: {}", said(&output));
        assert!(!Path::new(&next).exists(), "{name}");
    }
    let secret = path("secret");
    assert_eq!(object(&new("AILO_NEW_PASSPHRASE_FILE", OsStr::new(&secret), &wallet))["locked"], true);
    let keys =
        object(&new("AILO_NEW_PASSPHRASE_FILE", OsStr::new(&secret), &["keys", "--data-dir", &folder, "--json"]));
    assert_eq!(keys["locked"], true);
    for file in [Path::new(&next), &dir.path().join("folder/node.json"), &dir.path().join("folder/wallet.json")] {
        assert!(fs::read_to_string(file).unwrap().contains("\"seal\""), "{}", file.display());
    }
    let plain = path("plain.json");
    let made = new("AILO_NEW_PASSPHRASE_FILE", OsStr::new(&path("empty")), &["wallet", "new", "--wallet-file", &plain]);
    assert!(String::from_utf8(made.stdout).unwrap().contains("locked   no"));
}

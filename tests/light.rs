//! `ailo-node verify` against a real node, and against one that lies: whatever it makes up is refused, whatever is true
//! is verified.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_ledger::{
    Transaction,
    block::{Validator, ValidatorSet},
    consensus::{Ballot, Step},
    light::{Checkpoint, LightBlock},
    state::Entry,
};
use ailo_protocol::{Address, Amount, Hash, Keypair, canonical, keystore};
use common::{Node, ailo, post};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Runs a command that must succeed; what it says.
fn says(args: &[&str]) -> String {
    let output = ailo(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What stands behind `word` in what a command said.
fn after<'a>(said: &'a str, word: &str) -> &'a str {
    let line = said.lines().find(|line| line.starts_with(word));
    line.unwrap_or_else(|| panic!("no {word} in: {said}"))[word.len()..].trim()
}

impl Node {
    fn height(&self) -> u64 {
        self.status().height
    }

    fn checkpoint(&self, height: u64) -> Checkpoint {
        let id = self.result("ailo_block", json!({"height": height}))["hash"].as_str().unwrap().parse().unwrap();
        Checkpoint { height, block: id }
    }
}

/// Changes the result of a method; the method and its parameters come with it.
type Lie = Box<dyn Fn(&str, &Value, &mut Value) + Send>;

/// A server that asks the node and changes what it says.
struct Liar {
    url: String,
    lie: Arc<Mutex<Lie>>,
}

impl Liar {
    fn start(honest: SocketAddr) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/rpc", listener.local_addr().unwrap());
        let lie: Arc<Mutex<Lie>> = Arc::new(Mutex::new(Box::new(|_, _, _| ())));
        let told = lie.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), honest, &told);
            }
        });
        Liar { url, lie }
    }

    fn tell(&self, lie: impl Fn(&str, &Value, &mut Value) + Send + 'static) {
        *self.lie.lock().unwrap() = Box::new(lie);
    }
}

fn serve(stream: TcpStream, honest: SocketAddr, lie: &Mutex<Lie>) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut answer: Value = serde_json::from_str(&post(honest, &request.to_string())).unwrap();
    answer["id"] = request["id"].clone();
    if !answer["result"].is_null() {
        lie.lock().unwrap()(request["method"].as_str().unwrap(), &request["params"], &mut answer["result"]);
    }
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(answer.as_bytes()).unwrap();
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn change_entry(result: &mut Value, change: impl Fn(&mut Entry)) {
    let mut entry: Entry = canonical::decode(&bytes(&result["entry"]), 1 << 20).unwrap();
    change(&mut entry);
    result["entry"] = json!(hex::encode(canonical::encode(&entry)));
}

fn change_block(result: &mut Value, change: impl Fn(&mut LightBlock)) {
    let mut block = LightBlock::decode(&bytes(&result["light_block"])).unwrap();
    change(&mut block);
    result["light_block"] = json!(hex::encode(block.encode()));
}

/// Certifies the block anew by one key.
fn certify(block: &mut LightBlock, key: &Keypair, network: &Hash) {
    let (height, id) = (block.header.height, block.header.id());
    let ballot = Ballot { height, round: 0, step: Step::Precommit, block: Some(id) };
    block.certificate.block = id;
    block.certificate.round = 0;
    block.certificate.signatures = vec![(*key.public(), ballot.sign(network, key).signature)];
}

#[test]
fn what_is_true_is_verified_and_every_lie_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let keys = says(&["keys", "--data-dir", &path("a")]);
    let (founder, wallet, node_key) = (after(&keys, "founder"), after(&keys, "wallet"), after(&keys, "node"));
    let network = path("net.toml");
    let small = ["--set", "training.inner_steps=2", "--set", "training.batch=4", "--set", "round.min_train_ms=1000"];
    says(&[&["genesis", "--out", &network, "--params", "dev", "--founder", founder], &small[..]].concat());
    let node = Node::start(&network, &dir.path().join("a"), &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let url = node.url.clone();
    let trust_ms = ailo_protocol::presets::dev().ledger.trust_ms;

    node.wait("a round is paid", 240, |s| s.value.account.free >= Amount(50_000_000));
    let recipient = Address::from(Keypair::from_seed([9; 32]).public()).to_string();
    let nobody = Address::from(Keypair::from_seed([10; 32]).public()).to_string();
    let send = |amount| says(&["wallet", "send", &recipient, amount, "--json", "--data-dir", &path("a")]);
    let id = |sent: String| serde_json::from_str::<Value>(&sent).unwrap()["id"].as_str().unwrap().to_string();
    let (first, second) = (id(send("0.25")), id(send("0.125")));

    // What is true is verified: first from the genesis alone, then from the checkpoint that this gave.
    let verify = |what: &[&str], more: &[&str]| {
        let source = ["--network", &network, "--rpc", &url];
        says(&[&["verify"], what, &source[..], more].concat())
    };
    // A round may close meanwhile: what is compared is said while the model stays the same.
    let root = || node.result("ailo_model", json!({}))["root"].as_str().unwrap().to_string();
    let (same, said) = loop {
        let (before, said) = (root(), verify(&["model"], &[]));
        if root() == before {
            break (before, said);
        }
    };
    assert!(said.contains("UNANCHORED") && said.contains("VERIFIED") && said.contains(&same), "{said}");
    let checkpoint = after(&said, "checkpoint").split_whitespace().next().unwrap().to_string();
    let shown: Checkpoint = checkpoint.parse().unwrap();
    assert_eq!(node.checkpoint(shown.height), shown, "the checkpoint is a block of the ledger");
    let anchored = |what: &[&str]| {
        let checkpoint = node.checkpoint(node.height()).to_string();
        let said = verify(what, &["--checkpoint", &checkpoint]);
        assert!(said.contains(&format!("ANCHORED     by checkpoint {checkpoint}")), "{said}");
        assert!(!said.contains("UNANCHORED"), "{said}");
        said
    };
    assert_eq!(after(&anchored(&["account", &recipient]), "balance"), "0.375 ALC, pending 0, staked 0, unbonding 0");
    assert!(anchored(&["account", &nobody]).contains("no such account"));
    assert_eq!(after(&anchored(&["node", node_key]), "wallet"), wallet);
    let stranger = Keypair::from_seed([10; 32]).public().to_string();
    assert!(anchored(&["node", &stranger]).contains("no such node"));
    let said = anchored(&["transaction", &first]); // older than the checkpoint: reached by the chain of parents
    assert!(said.contains("0.25 ALC") && said.contains("CONFIRMED"), "{said}");
    assert!(verify(&["transaction", &second], &[]).contains("0.125 ALC"));
    assert!(says(&["verify", "model", "--data-dir", &path("a")]).contains("UNANCHORED"));

    let old = node.checkpoint(1).to_string();
    let made_ms = node.result("ailo_block", json!({"height": 1}))["header"]["time_ms"].as_u64().unwrap();
    let now_ms = ailo_node::genesis::now_ms();
    std::thread::sleep(Duration::from_millis((made_ms + trust_ms + 100).saturating_sub(now_ms)));
    let said = verify(&["model"], &["--checkpoint", &old]);
    assert!(said.contains("UNANCHORED") && said.contains("older than the trust period"), "{said}");

    // The liar passes on what is true.
    let liar = Liar::start(node.address());
    let ask = |what: &[&str], checkpoint: Option<Checkpoint>| {
        let checkpoint = checkpoint.map(|checkpoint| checkpoint.to_string());
        let anchor: Vec<&str> = checkpoint.iter().flat_map(|text| ["--checkpoint", text]).collect();
        ailo(&[&["verify"], what, &["--network", &network, "--rpc", &liar.url], &anchor[..]].concat())
    };
    assert!(ask(&["model"], None).status.success());

    // And is refused whatever else it says.
    let refused = |what: &[&str], checkpoint: Option<Checkpoint>, expected: &str| {
        let output = ask(what, checkpoint);
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(4), "{what:?}, which lies ({expected}): {said}{complaint}");
        assert!(said.is_empty(), "nothing is shown that was not verified: {said}");
        assert!(complaint.contains("NOT VERIFIED") && complaint.contains(expected), "{expected}: {complaint}");
    };
    let honest = node.address();
    let really = move |method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        serde_json::from_str::<Value>(&post(honest, &body)).unwrap()["result"].clone()
    };

    // Entries: another value, the proof of another key, absent for present and present for absent.
    liar.tell(|method, _, result| {
        if method == "ailo_proof" {
            change_entry(result, |entry| {
                if let Entry::Model(model) = entry {
                    Arc::make_mut(model).root = Hash([7; 32]);
                }
                if let Entry::Account(account) = entry {
                    Arc::make_mut(account).free = Amount::alc(1_000_000);
                }
                if let Entry::Node(node) = entry {
                    Arc::make_mut(node).stake = Amount::alc(1_000_000);
                }
            });
        }
    });
    refused(&["model"], None, "does not show this model");
    refused(&["account", &recipient], None, "does not show this account");
    refused(&["node", node_key], None, "does not show this node");
    let other = wallet.to_string();
    liar.tell(move |method, _, result| {
        if method == "ailo_proof" {
            *result = really(method, json!({"account": other}));
        }
    });
    refused(&["account", &recipient], None, "does not show this account");
    refused(&["account", &nobody], None, "does not show this account");
    refused(&["model"], None, "does not show this model");
    let absent = nobody.clone();
    liar.tell(move |method, _, result| {
        if method == "ailo_proof" {
            *result = really(method, json!({"account": absent}));
        }
    });
    refused(&["account", &recipient], None, "does not show this account");
    refused(&["node", node_key], None, "does not show this node");
    refused(&["model"], None, "a model, which every ledger has");
    liar.tell(|method, _, result| {
        if method == "ailo_proof" {
            result["entry"] = Value::Null;
        }
    });
    refused(&["account", &recipient], None, "does not show this account");
    refused(&["transaction", &first], None, "does not show this transfer's standing");
    liar.tell(|method, _, result| {
        if method == "ailo_proof" {
            result["proof"] = json!("00ff");
        }
    });
    refused(&["model"], None, "can't be read");

    // Transactions: another one, another amount, another block.
    let elsewhere = second.clone();
    liar.tell(move |method, _, result| {
        if method == "ailo_transactionProof" {
            *result = really(method, json!({"id": elsewhere}));
        }
    });
    refused(&["transaction", &first], None, "does not show this transaction");
    liar.tell(|method, _, result| {
        if method == "ailo_transactionProof" {
            let mut transaction = Transaction::decode(&bytes(&result["transaction"])).unwrap();
            transaction.signature.0[0] ^= 1;
            result["transaction"] = json!(hex::encode(transaction.encode()));
        }
    });
    refused(&["transaction", &first], None, "does not show this transaction");
    liar.tell(|method, _, result| {
        if method == "ailo_transactionProof" {
            result["block_height"] = json!(result["block_height"].as_u64().unwrap() - 1);
        }
    });
    refused(&["transaction", &first], None, "does not show this transaction");

    // Headers: another state, too few votes, votes for another network, validators of the liar's own.
    let block_lie = |change: fn(&mut LightBlock)| {
        liar.tell(move |method, _, result| {
            if method == "ailo_lightBlock" {
                change_block(result, change);
            }
        });
    };
    block_lie(|block| block.header.state_root = Hash([7; 32]));
    refused(&["model"], None, "is that of another block");
    block_lie(|block| block.certificate.signatures.clear());
    refused(&["model"], None, "which is not enough");
    block_lie(|block| block.header.network = Hash([7; 32]));
    refused(&["model"], None, "belongs to network");
    block_lie(|block| block.header.height += 1);
    refused(&["model"], None, "asked for block");
    block_lie(|block| block.next_validators.0.clear());
    refused(&["model"], None, "are not those that its header names");
    let key = keystore::load(&dir.path().join("a/node.json"), keystore::Kind::Node).unwrap();
    liar.tell(move |method, _, result| {
        if method == "ailo_lightBlock" {
            change_block(result, |block| certify(block, &key, &Hash([7; 32])));
        }
    });
    refused(&["model"], None, "does not verify");
    fn usurp(block: &mut LightBlock) {
        let key = Keypair::from_seed([77; 32]);
        let set = ValidatorSet(vec![Validator { node: *key.public(), power: 1_000_000 }]);
        (block.header.validators, block.header.next_validators) = (set.hash(), set.hash());
        (block.validators, block.next_validators) = (set.clone(), set);
        let network = block.header.network;
        certify(block, &key, &network);
    }
    block_lie(usurp);
    refused(&["model"], None, "are not those that its header names");
    let top = node.height();
    liar.tell(move |method, params, result| {
        // Only what is new is forged; all that leads there is true.
        if method == "ailo_lightBlock" && params["height"].as_u64().is_none_or(|height| height >= top) {
            change_block(result, usurp);
        }
    });
    refused(&["model"], None, "are not those that its header names");

    // From a checkpoint: another block in its place, an older ledger, other parents.
    let recent = node.checkpoint(node.height());
    refused(&["model"], Some(recent), "is not the checkpoint");
    liar.tell(|method, _, result| {
        if method == "ailo_proof" {
            result["height"] = json!(1);
        }
    });
    refused(&["model"], Some(recent), "lags behind");
    refused(&["model"], None, "does not show this model");
    liar.tell(|method, _, result| {
        if method == "ailo_headers" {
            let header = bytes(&result["headers"][0]);
            let mut header: ailo_ledger::Header = canonical::decode(&header, 1 << 10).unwrap();
            header.transactions_root = Hash([7; 32]);
            result["headers"][0] = json!(hex::encode(canonical::encode(&header)));
        }
    });
    refused(&["transaction", &first], Some(recent), "does not follow");
    liar.tell(|method, _, result| {
        if method == "ailo_headers" {
            result["headers"] = json!([]);
        }
    });
    refused(&["transaction", &first], Some(recent), "headers can't be read");
}

#[test]
fn what_verify_is_asked_wrongly_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    for (args, expected) in [
        (vec!["model", "--data-dir", folder], "network.toml"),
        (vec!["model", "--network", "/nowhere/net.toml"], "/nowhere/net.toml"),
        (vec!["model", "--data-dir", folder, "--checkpoint", "7"], "HEIGHT:ID"),
        (vec!["account", "ailo1nonsense", "--data-dir", folder], "ailo1nonsense"),
    ] {
        let output = ailo(&[&["verify"], &args[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(!output.status.success() && said.contains(expected), "{args:?}: {said}");
    }
}

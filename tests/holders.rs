//! What those who hold coins and stake do from the command line, on one network of real processes: what each command
//! says, and what then stands on the ledger.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/browser.rs"]
mod browser;
mod common;

use ailo_ledger::{state::Event, store::Subject};
use ailo_node::{
    client::{Client, json},
    genesis,
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_protocol::{Address, Amount, Hash, Keypair, keystore};
use common::{ask, get, person::*};
use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Four founders, of which three validate and hold 30 ALC each; the fourth is down.
async fn found(dir: &Path) -> (Net, Vec<Person>) {
    let mut params = genesis::local_params(3, 2);
    (params.training.inner_steps, params.training.batch) = (4, 2);
    (params.training.eval_sequences, params.training.score_sequences) = (16, 4);
    // One round pays all alike; then nothing is paid but shares of fees.
    (params.round.rounds, params.round.pot, params.round.uptime_pay) = (1, Amount::alc(90), Amount::ZERO);
    (params.round.speed_min_ppm, params.round.speed_max_ppm, params.round.quality_max_ppm) =
        (1_000_000, 1_000_000, 1_000_000);
    let ledger = &mut params.ledger;
    (ledger.idle_block_ms, ledger.epoch_ms) = (500, 600_000);
    (ledger.report_bond, ledger.poll_deposit) = (alc(5), alc(100));
    (ledger.poll_ms, ledger.poll_delay_blocks) = (15_000, 4);
    let spec = Spec {
        program: env!("CARGO_BIN_EXE_ailo-node").into(),
        dir: dir.to_path_buf(),
        nodes: 4,
        validators: 3,
        data: vec![],
        seed: 1,
        params,
    };
    let mut net = Net::found(spec).unwrap();
    (0..3).for_each(|i| net.start(i).unwrap());
    let earned = |all: &[Option<At<Status>>]| {
        all[..3].iter().all(|s| s.as_ref().is_some_and(|s| s.value.account.free == Amount::alc(30)))
    };
    net.wait_until("a round pays three founders", LIMIT, earned).await.unwrap();
    let people = Person::all(&net, 0);
    (net, people)
}

/// A wallet without a node, made as a person makes it.
fn newcomer(dir: &Path, name: &str, host: &Person) -> Person {
    let mut person = Person {
        address: host.address,
        file: dir.join(format!("{name}.json")),
        folder: host.folder.clone(),
        rpc: host.rpc.clone(),
    };
    let said = person.says(&["wallet", "new"]);
    assert_eq!(words(&said).len(), 1, "{said}");
    person.address = said.lines().find_map(|line| line.strip_prefix("address  ")).unwrap().parse().unwrap();
    person
}

async fn account(client: &Client, person: &Person) -> AccountView {
    client.account(&person.address).await.unwrap().value
}

async fn until(client: &Client, id: &Hash, status: &str) -> TransactionView {
    let started = Instant::now();
    loop {
        let view = client.transaction(id).await.unwrap().value;
        if view.status == status {
            return view;
        }
        assert!(started.elapsed() < LIMIT, "{status:?} not reached: {view:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends, and waits until it is confirmed.
async fn pay(client: &Client, from: &Person, to: &str, amount: &str) -> Hash {
    let id = id(&from.says(&["wallet", "send", to, amount]));
    until(client, &id, "confirmed").await;
    id
}

// Its commands block; what keeps the connections goes on meanwhile, and sees that a node has closed one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn holders_use_their_rights_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let (mut net, people) = found(dir.path()).await;
    let client = Client::new(&people[0].rpc).unwrap();
    a_pending_transfer_is_taken_back(&client, &people).await;
    pages_make_what_is_to_be_signed(&client, &people).await;
    net.start(3).unwrap();
    a_user_name_is_paid(&client, &people).await;
    two_that_wait_at_once_both_come_through(&client, &people).await;
    let (victim, thief) = (newcomer(dir.path(), "victim", &people[0]), newcomer(dir.path(), "thief", &people[0]));
    let fraud = reports_reverse_a_fraud_and_leave_a_debt(&client, &people, &victim, &thief).await;
    the_map_shows_whom_peers_know(&client).await;
    the_pages_tell_of_it(&people[0], &victim, &thief, &fraud);
    let recovered = an_account_gets_another_key_and_the_old_one_is_refused(&client, &victim, &people[1]).await;
    the_keys_of_a_recovery_may_be_off_line(&client, &newcomer(dir.path(), "careful", &people[0]), &people[0]).await;
    a_node_works_for_a_wallet_that_consents(&client, &people, &recovered).await;
    let transfer = a_vote_changes_a_parameter_at_its_height(&client, &people, &recovered).await;
    let confirmed = client.transaction(&transfer).await.unwrap().value;
    validators_are_listed_and_none_is_jailed(&people, &confirmed);

    for node in 0..4 {
        let status = net.status(node).await.unwrap().value;
        assert!(status.supply.law_holds, "node {node}");
    }
    net.stop_all().await.unwrap();
}

async fn a_pending_transfer_is_taken_back(client: &Client, people: &[Person]) {
    // Two have to confirm; of those who may, one is down.
    let before = account(client, &people[0]).await.free;
    let said = people[0].says(&["wallet", "send", &people[1].address.to_string(), "2.5"]);
    assert_says(&said, &["sent 2.5 ALC to", "pending"]);
    let transfer = id(&said).to_string();
    assert_eq!(account(client, &people[1]).await.pending, alc(250));
    let pending: At<PendingView> = client.call("ailo_pending", &[("limit", json(&1))]).await.unwrap();
    let shown = &pending.value.transfers[0];
    assert_eq!((shown.id.to_string(), shown.amount, pending.value.needed), (transfer.clone(), alc(250), 2));
    // What is asked for as confirmed is not shown while it is pending.
    let asked = [("id", json(&transfer)), ("minStatus", json(&"confirmed"))];
    let early = client.call::<At<TransactionView>>("ailo_transaction", &asked).await.unwrap_err().to_string();
    assert!(early.contains("pending so far"), "{early}");
    let entries = async |least: &str| {
        let of = [("address", json(&people[1].address)), ("minStatus", json(&least))];
        let page: At<HistoryView> = client.call("ailo_history", &of).await.unwrap();
        page.value.entries.iter().filter(|entry| matches!(entry.event, Event::TransferPending { .. })).count()
    };
    assert_eq!((entries("pending").await, entries("confirmed").await), (1, 0));
    people[1].is_refused(&["wallet", "dispute", &transfer], "", "NOT_THE_SENDER");
    assert_says(&people[0].says(&["wallet", "dispute", &transfer]), &["taken back", "fee", "in block"]);
    until(client, &id(&said), "refunded").await;
    let (sender, recipient) = (account(client, &people[0]).await, account(client, &people[1]).await);
    assert_eq!(recipient.pending, Amount::ZERO);
    // Its node makes blocks, so a share of the fee may be back too.
    assert!((before.0 - alc(1).0..before.0).contains(&sender.free.0), "{before} before, {sender:?}");
    assert_says(&people[0].says(&["wallet", "history"]), &["refunded   2.5 ALC to", "pending    2.5 ALC to"]);
    people[0].is_refused(&["wallet", "dispute", &transfer], "", "NO_SUCH_TRANSFER");
}

/// Where a person's node has its pages.
fn pages_of(person: &Person) -> SocketAddr {
    person.rpc.trim_start_matches("http://").trim_end_matches("/rpc").parse().unwrap()
}

/// The head and the body of what a form brings.
fn fill(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> (String, String) {
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    ask(address, "POST", path, &["Content-Type: application/x-www-form-urlencoded"], &fields.join("&"))
}

/// The text between two others, the first of which is there.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = page.split_once(before).unwrap_or_else(|| panic!("{before:?} is missing in: {page}"));
    rest.split_once(after).unwrap().0
}

/// What a form gives to be signed.
fn made_by(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> String {
    let (head, page) = fill(address, path, fields);
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head} {page}");
    assert_says(&page, &["download=", "tx show", "tx sign", "tx submit"]);
    between(between(&page, "id=\"draft\"", "/textarea"), ">", "<").replace("&quot;", "\"")
}

/// Signs what a page made with the person's key, and hands it in.
fn sign_and_hand_in(person: &Person, made: &str) -> Hash {
    let file = person.file.with_file_name("made.json");
    std::fs::write(&file, made).unwrap();
    let signed = common::ailo(&["tx", "sign", file.to_str().unwrap(), "--wallet", person.file.to_str().unwrap()]);
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    let signed = std::fs::read_to_string(&file).unwrap();
    let (head, page) = fill(pages_of(person), "/wallet/submit", &[("transaction", &signed)]);
    let leads = head.lines().find_map(|line| line.strip_prefix("location: /tx/"));
    leads.unwrap_or_else(|| panic!("{head} {page}")).parse().unwrap()
}

async fn pages_make_what_is_to_be_signed(client: &Client, people: &[Person]) {
    let (sender, address) = (&people[0], pages_of(&people[0]));
    let key_of = |person: &Person| keystore::public(&person.file, keystore::Kind::Wallet).unwrap().to_string();
    let (key, nobody) = (key_of(sender), Address([7; 20]).to_string());
    let refused = |path: &str, fields: &[(&str, &str)], why: &str| {
        let (head, page) = fill(address, path, fields);
        assert!(head.starts_with("HTTP/1.1 422") && page.contains(why), "{fields:?} must say {why}: {head} {page}");
    };
    let send = [("from", key.as_str()), ("to", &nobody), ("amount", "0.25"), ("memo", "it's for tea")];
    for (field, wrong, why) in [
        (0, nobody.as_str(), "wallet address --json"),
        (1, "ailo1abc", "is not an address"),
        (1, "@nobody", "Nobody has the user name"),
        (1, &sender.address.to_string(), "the same wallet"),
        (2, "much", "is not an amount"),
        (2, "1000", "ALC are free"),
        (3, &"x".repeat(200), "shorten it"),
    ] {
        let mut fields = send;
        fields[field].1 = wrong;
        refused("/wallet/send", &fields, why);
    }

    // Two of three can confirm what goes to a wallet without a node.
    let made = made_by(address, "/wallet/send", &send);
    let with = |field: &str, value: String| {
        let mut file: serde_json::Value = serde_json::from_str(&made).unwrap();
        file[field] = value.into();
        file.to_string()
    };
    for (wrong, why) in [
        (made.clone(), "is not signed"),
        (with("network", "cd".repeat(32)), "this node is of"),
        (with("signature", "00".repeat(64)), "does not hold"),
        (with("unsigned", "00".into()), "copy the whole file"),
        ("tea".into(), "nor hexadecimal"),
    ] {
        refused("/wallet/submit", &[("transaction", &wrong)], why);
    }
    until(client, &sign_and_hand_in(sender, &made), "confirmed").await;

    // What goes to a wallet whose node is one of them stays pending, and its page takes it back.
    let to_one = [send[0], ("to", &people[1].address.to_string()), send[2]];
    let transfer = sign_and_hand_in(sender, &made_by(address, "/wallet/send", &to_one));
    until(client, &transfer, "pending").await;
    let (_, wallet) = get(address, &format!("/wallet?address={}", sender.address));
    assert_says(&wallet, &["Pending", &format!("/tx/{transfer}"), &format!("value=\"{key}\"")]);
    let (_, page) = get(address, &format!("/tx/{transfer}"));
    assert_says(&page, &["Take it back", "Report as fraud", "more at most", "if too few join it"]);
    let hidden = |name: &str| between(&page, &format!("name=\"{name}\" value=\""), "\"");
    let dispute = [("transfer", hidden("transfer")), ("from", hidden("from"))];
    assert_eq!((dispute[0].1, dispute[1].1), (transfer.to_string().as_str(), key.as_str()));
    let report = |person: &Person| [key_of(person), node_of(person).to_string()];
    let [wallet, node] = report(&people[2]);
    made_by(address, "/wallet/report", &[dispute[0], ("from", &wallet), ("node", &node)]);
    let [wallet, node] = report(sender);
    refused("/wallet/report", &[dispute[0], ("from", &wallet), ("node", &node)], "have no say");
    refused("/wallet/dispute", &[dispute[0], ("from", &key_of(&people[1]))], "only the sender");
    sign_and_hand_in(sender, &made_by(address, "/wallet/dispute", &dispute));
    until(client, &transfer, "refunded").await;
    refused("/wallet/dispute", &dispute, "no such transfer");
}

async fn a_user_name_is_paid(client: &Client, people: &[Person]) {
    let said = people[1].says(&["wallet", "username", "bella"]);
    assert_says(&said, &["the wallet's name is bella", "wallet send @bella"]);
    people[2].is_refused(&["wallet", "username", "bella"], "", "USERNAME_TAKEN");
    people[2].is_refused(&["wallet", "username", "Bella"], "", "a-z");
    assert_says(&people[1].says(&["wallet", "show"]), &["name       bella"]);
    let owner = client.owner(&"bella".parse().unwrap()).await.unwrap().value;
    assert_eq!(owner.address, people[1].address);

    // Nobody has to believe that, where there is a folder of the same network.
    let proved = ailo_node::verify::owner(&people[0].rpc, &people[0].folder, &"bella".parse().unwrap()).await;
    assert_eq!(proved.unwrap(), people[1].address);
    let nobody = ailo_node::verify::owner(&people[0].rpc, &people[0].folder, &"nobody".parse().unwrap()).await;
    assert!(nobody.unwrap_err().to_string().contains("nobody has"));
    let other = people[2].address.to_string();
    people[0].is_refused(&["wallet", "send", "@bella", "1", "--expect", &other], "", "nothing is sent");
    people[0].is_refused(&["wallet", "send", "@bella", "1", "--network-id", &"cd".repeat(32)], "", "is of the network");

    let before = account(client, &people[1]).await.free;
    let said = people[0].says(&["wallet", "send", "@bella", "1"]);
    assert_says(&said, &[&format!("sent 1 ALC to @bella, {}", people[1].address)]);
    until(client, &id(&said), "confirmed").await;
    assert!(account(client, &people[1]).await.free.0 >= before.0 + alc(100).0);
    let (head, _) = get(pages_of(&people[0]), "/search?q=@bella");
    assert!(head.contains(&format!("location: /address/{}", people[1].address)), "{head}");

    assert_says(&people[1].says(&["wallet", "username"]), &["given up"]);
    people[0].is_refused(&["wallet", "send", "@bella", "1"], "", "nobody has the user name bella");
    people[0].is_refused(&["wallet", "send", "@B", "1"], "", "no user name");
}

/// The second does not take the place of the first.
async fn two_that_wait_at_once_both_come_through(client: &Client, people: &[Person]) {
    let to = people[1].address.to_string();
    let sent = ["0.01", "0.02"].map(|amount| {
        let said = people[0].says(&["wallet", "send", &to, amount, "--no-wait"]);
        said.trim().strip_prefix("submitted ").unwrap().parse::<Hash>().unwrap()
    });
    for id in &sent {
        until(client, id, "confirmed").await;
    }
}

/// Gives the fraud's id.
async fn reports_reverse_a_fraud_and_leave_a_debt(
    client: &Client,
    people: &[Person],
    victim: &Person,
    thief: &Person,
) -> String {
    pay(client, &people[0], &victim.address.to_string(), "10").await;
    let fraud = pay(client, victim, &thief.address.to_string(), "8").await;
    let spent = pay(client, thief, &people[1].address.to_string(), "5").await;
    assert_ne!(fraud, spent);
    let fraud = fraud.to_string();

    // One of four is not enough, and takes its report back.
    let bound = |before: Amount, after: Amount| before.0.saturating_sub(after.0);
    let before = account(client, &people[0]).await.free;
    assert_says(&people[0].says(&["wallet", "report", &fraud]), &["reported by 1 of 4 seats", "withdraw-report"]);
    let reported = client.transaction(&fraud.parse().unwrap()).await.unwrap().value;
    assert_eq!((reported.status.as_str(), reported.reported_by), ("confirmed", vec![node_of(&people[0])]));
    let signers = reported.attested_by;
    assert_eq!((signers.len(), reported.needed), (2, Some(2)));
    assert_eq!(bound(before, account(client, &people[0]).await.free), alc(5).0);
    people[0].is_refused(&["wallet", "report", &fraud], "", "ALREADY_REPORTED");
    victim.is_refused(&["wallet", "report", &fraud], "", "NOT_YOUR_NODE");
    assert_says(&people[0].says(&["wallet", "withdraw-report", &fraud]), &["report withdrawn"]);
    assert!(bound(before, account(client, &people[0]).await.free) <= alc(1).0, "the fee at most");
    people[0].is_refused(&["wallet", "withdraw-report", &fraud], "", "NO_SUCH_REPORT");

    // Three of four are 51 %.
    assert_says(&people[0].says(&["wallet", "report", &fraud]), &["by 1 of 4 seats"]);
    assert_says(&people[1].says(&["wallet", "report", &fraud]), &["by 2 of 4 seats"]);
    assert_says(&people[2].says(&["wallet", "report", &fraud]), &["by 3 of 4 seats", "REVERSED"]);
    let reversed = until(client, &fraud.parse().unwrap(), "reversed").await;
    assert_eq!(reversed.attested_by, signers, "who confirmed it is known after its end, too");
    people[2].is_refused(&["wallet", "report", &fraud], "", "NO_SUCH_TRANSFER");

    // 8 went out of 10 with a fee; the thief has 8 - 5 and a fee left to be seized.
    let (back, debtor) = (account(client, victim).await, account(client, thief).await);
    assert_eq!((back.free, debtor.free, debtor.owes), (alc(1000 - 801 + 299), Amount::ZERO, alc(501)));
    assert_eq!(debtor.debts[0].creditor, victim.address);
    assert_says(&thief.says(&["wallet", "show"]), &["owes       5.01 ALC"]);
    assert_says(&thief.says(&["wallet", "history"]), &["reversed   2.99 ALC returned, 5.01 owed"]);
    pay(client, &people[0], &thief.address.to_string(), "2").await;
    let (back, debtor) = (account(client, victim).await, account(client, thief).await);
    assert_eq!((back.free, debtor.free, debtor.owes), (alc(698), Amount::ZERO, alc(301)));
    fraud
}

/// What the explorer shows of the fraud, of who is in it, and of all else; and that nothing typed becomes part of a page.
/// Each of the three peers names the two others.
async fn the_map_shows_whom_peers_know(client: &Client) {
    let started = Instant::now();
    loop {
        let peers = client.call::<At<PeersView>>("ailo_peers", &[]).await.unwrap().value.peers;
        let others = |one: &PeerView| peers.iter().filter(|other| one.peers.contains(&other.node)).count();
        if peers.len() == 3 && peers.iter().all(|one| one.peers.len() == 2 && others(one) == 2) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{peers:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn the_pages_tell_of_it(host: &Person, victim: &Person, thief: &Person, fraud: &str) {
    let address = pages_of(host);
    let page = |path: &str| {
        let (head, body) = get(address, path);
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        body
    };
    let told = page(&format!("/tx/{fraud}"));
    assert_says(&told, &["reversed", "2.99 ALC", "5.01 ALC", "disputed by 3 seats", "seats by now", "Decoded", "Raw"]);
    assert_says(&told, &["2 of 2", "confirmations"]);
    let owes = page(&format!("/address/{}", thief.address));
    assert_says(&owes, &["Owes", "3.01 ALC", "As CSV"]);
    // The history says what could be spent after each block that changed it.
    for (person, free) in [(victim, alc(698)), (thief, Amount::ZERO)] {
        let rows = page(&format!("/address/{}/history.csv", person.address));
        let spendable = |row: &str| row.split(',').nth(2).and_then(|text| text.parse::<Amount>().ok());
        assert_eq!(rows.lines().skip(1).find_map(spendable), Some(free), "{rows}");
    }
    let node = node_of(host);
    for path in [
        "/",
        "/explorer",
        "/transactions",
        "/wallet",
        "/chat",
        "/validators",
        "/rounds",
        "/round/0",
        "/supply",
        "/pending",
        "/rich",
        "/block/1",
    ] {
        let (head, body) = get(address, path);
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("script-src 'self'"), "{path}: {head}");
        assert!(body.contains("<main") && body.ends_with("</html>"), "{path}: {body}");
    }
    assert_says(&page(&format!("/node/{node}")), &["Works for", "History"]);
    assert_says(
        &page(&format!("/wallet?address={}&to=@bella&amount=1.5", victim.address)),
        &["6.98 ALC", "value=\"@bella\"", "value=\"1.5\""],
    );

    let leads = |query: &str| {
        let (head, _) = get(address, &format!("/search?q={query}"));
        head.lines()
            .find_map(|line| line.strip_prefix("location: "))
            .unwrap_or_else(|| panic!("{query}: {head}"))
            .to_string()
    };
    assert_eq!(leads(fraud), format!("/tx/{fraud}"));
    assert_eq!(leads(&victim.address.to_string()), format!("/address/{}", victim.address));
    assert_eq!(leads(&node.to_string()), format!("/node/{node}"));
    assert_eq!([leads("1"), leads("round%200")], ["/block/1", "/round/0"]);
    for path in [
        "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/tx/abc",
        "/block/999999999",
        "/address/ailo1abc",
        "/nowhere",
        "/%22%3E%3Cb%3E",
    ] {
        let (head, body) = get(address, path);
        assert!(head.starts_with("HTTP/1.1 404") && body.contains("<h1>"), "{path}: {head}");
        assert!(!body.contains("<script>alert") && !body.contains("<b>\""), "{path}: {body}");
    }
    let token = std::fs::read_to_string(host.folder.join("operator.token")).unwrap();
    the_operator_alone_sees_the_log_and_sets_the_power(address, token.trim());
    let (head, body) = ask(address, "GET", "/tx/abc", &["Accept: application/json"], "");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(head.contains("application/problem+json") && problem["status"] == 404, "{head} {body}");
    assert_says(&page("/round/0"), &["Made the model", "Proof and pay", "Payload", "Trace", "Promised for training"]);
    what_cannot_be_asked_so_is_told_so(address);
    let (of_fraud, of_thief, of_node) =
        (format!("/tx/{fraud}"), format!("/address/{}", thief.address), format!("/node/{node}"));
    let paths =
        ["/", "/explorer", &of_fraud, &of_thief, &of_node, "/block/1", "/validators", "/rounds", "/round/0", "/supply"];
    let more =
        ["/transactions", "/pending", "/rich", "/wallet", "/chat", "/operator", "--operator", token.trim(), "--chat"];
    browser::look_at(&format!("http://{address}"), &[&paths[..], &more].concat());
}

/// With the wrong method, and from the page of another site.
fn what_cannot_be_asked_so_is_told_so(address: SocketAddr) {
    for (method, origin, status) in
        [("POST", format!("http://{address}"), 405), ("GET", "http://evil.example".into(), 403)]
    {
        let origin = format!("Origin: {origin}");
        let (head, body) = ask(address, method, "/explorer", &[&origin], "");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")) && body.contains("<h1>"), "{head} {body}");
        assert_eq!(status == 405, head.contains("allow: GET") && body.contains("Height"), "{head} {body}");
        let (head, body) = ask(address, method, "/explorer", &[&origin, "Accept: application/json"], "");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(head.contains("application/problem+json") && problem["status"] == status, "{head} {body}");
    }
}

fn the_operator_alone_sees_the_log_and_sets_the_power(address: SocketAddr, token: &str) {
    let form = "Content-Type: application/x-www-form-urlencoded";
    let ours = format!("Origin: http://{address}");
    let post = |path: &str, more: &[&str], body: &str| ask(address, "POST", path, &[more, &[form]].concat(), body).0;
    let (_, door) = get(address, "/operator");
    assert!(door.contains("operator.token") && !door.contains("Stop training"), "{door}");
    assert!(post("/operator/power", &[&ours], "percent=50").starts_with("HTTP/1.1 403"));
    assert!(post("/operator/enter", &[], "token=0").starts_with("HTTP/1.1 403"));
    let head = post("/operator/enter", &[], &format!("token={token}"));
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_else(|| panic!("{head}"));
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("Cookie: a=b; {}", cookie.split(';').next().unwrap());
    let inside = || ask(address, "GET", "/operator?level=trace", &[&cookie], "").1;
    assert_says(&inside(), &["Stop training", "90 %", "All", "as a file"]);
    for (from, percent, status) in [("Origin: http://elsewhere", 40, 403), (&ours, 5, 422), (&ours, 40, 303)] {
        let head = post("/operator/power", &[&cookie, from], &format!("percent={percent}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{from} {percent}: {head}");
    }
    assert!(post("/operator/training", &[&cookie, &ours], "on=false").starts_with("HTTP/1.1 303"));
    assert_says(&inside(), &["Start training", "40 %"]);
    assert!(post("/operator/training", &[&cookie, &ours], "on=true").starts_with("HTTP/1.1 303"));
    // The log's lines with a text, whatever its case; a link brings the same ones as a file.
    let log = |query: &str| ask(address, "GET", &format!("/operator/log.txt?{query}"), &[&cookie], "").1;
    let (all, found) = (log("level=info"), log("level=info&q=+Operator+SETS+the+power+"));
    assert!(found.contains("the operator sets the power") && found.lines().count() < all.lines().count(), "{found}");
    assert!(found.lines().all(|line| line.contains("the operator sets the power")), "{found}");
    assert_eq!((log("level=info&q=nobody+logs+this"), log("level=error&q=sets+the+power")), Default::default());
    let page = |query: &str| ask(address, "GET", &format!("/operator?{query}"), &[&cookie], "").1;
    let shown = page("level=info&q=sets+the+power");
    assert_says(
        &shown,
        &["value=\"sets the power\"", "log.txt?level=info&amp;q=sets%20the%20power", "the operator sets the power"],
    );
    assert!(!shown.contains("the operator sets training"), "{shown}");
    assert_says(&page("q=%22%3E%3Cb%3E"), &["No line of the newest", "value=\"&quot;&gt;&lt;b&gt;\""]);
}

/// Gives the account with its new key.
async fn an_account_gets_another_key_and_the_old_one_is_refused(
    client: &Client,
    old: &Person,
    payee: &Person,
) -> Person {
    let account_text = old.address.to_string();
    let new = Person {
        address: old.address,
        file: old.file.with_file_name("recovered.json"),
        folder: old.folder.clone(),
        rpc: old.rpc.clone(),
    };
    let recover = ["wallet", "recover", &account_text];
    new.is_refused(&recover, "abandon", "no recovery key");
    let said = old.says(&["wallet", "protect-with-recovery"]);
    assert_says(&said, &["has a recovery key", "wallet recover"]);
    let phrases = words(&said);
    assert_eq!(phrases.len(), 1, "{said}");
    assert_says(&old.says(&["wallet", "show"]), &["a recovery key is set"]);
    old.is_refused(&["wallet", "protect-with-recovery"], "", "RECOVERY_SET");

    old.is_refused(&recover, &phrases[0], "exists: name another place");
    new.is_refused(&recover, "not 24 words", "24");
    // Words of something else are refused, and leave nothing behind.
    new.is_refused(&recover, &keystore::new_phrase(), "NOT_THE_RECOVERY_KEY");
    // But a node's word for that takes nobody's key away.
    let unused = new.file.with_file_name("recovered.json.unused");
    assert!(!new.file.exists() && keystore::load(&unused, keystore::Kind::Wallet).is_ok());
    let said = new.says_to(&recover, &phrases[0]);
    assert_says(&said, &["has a new key", "its address stays"]);
    assert_eq!(words(&said).len(), 2, "the new key's words and the next recovery's: {said}");
    new.is_refused(&recover, &words(&said)[1], "exists");

    let view = account(client, &new).await;
    assert_eq!(view.key, Some(*keystore::load(&new.file, keystore::Kind::Wallet).unwrap().public()));
    assert_eq!((view.recoveries, view.recoverable), (1, true));
    old.is_refused(&["wallet", "send", &payee.address.to_string(), "1"], "", "KEY_ROTATED");
    let before = view.free;
    pay(client, &new, &payee.address.to_string(), "1").await;
    assert_eq!(account(client, &new).await.free.0, before.0 - alc(101).0);
    assert_says(&new.says(&["wallet", "show"]), &[&format!("address    {}", old.address)]);
    assert_says(&new.says(&["wallet", "history"]), &["confirmed  1 ALC to", "reversed   2.99 ALC returned"]);
    new
}

/// The bytes in hexadecimal that follow these words.
fn hex_after(said: &str, words: &str) -> Vec<u8> {
    let (_, after) = said.split_once(words).unwrap_or_else(|| panic!("{words:?} is missing in: {said}"));
    hex::decode(after.split_whitespace().next().unwrap()).unwrap()
}

/// As a device would sign that knows nothing but bytes.
async fn the_keys_of_a_recovery_may_be_off_line(client: &Client, old: &Person, payer: &Person) {
    pay(client, payer, &old.address.to_string(), "1").await;
    let phrases = words(&old.says(&["wallet", "protect-with-recovery"]));
    let recovery = keystore::key_from_phrase(&phrases[0]).unwrap();
    let (key, next) = (Keypair::generate(), Keypair::generate());
    let file = old.file.with_file_name("recover.json");
    let (account_text, file_text) = (old.address.to_string(), file.display().to_string());
    let keys = [key.public(), next.public(), recovery.public()].map(ToString::to_string);
    let build = ["tx", "build", "recover", &account_text, "--key", &keys[0], "--next", &keys[1], "--from", &keys[2]];
    let asked = old.run(&build, "");
    assert_eq!(asked.status.code(), Some(2));
    let to_be_signed = hex_after(&String::from_utf8(asked.stderr).unwrap(), "what it signed: ");
    let wrong = hex::encode(next.sign(&to_be_signed).0);
    old.is_refused(&[&build[..], &["--agreed", &wrong]].concat(), "", "--agreed does not hold");
    let agreed = hex::encode(key.sign(&to_be_signed).0);
    let said = old.says(&[&build[..], &["--agreed", &agreed, "--out", &file_text]].concat());
    assert_says(&said, &[&format!("gives the account {account_text} the key {}", keys[0])]);
    let to_be_signed = hex_after(&said, "sign ");
    let signature = hex::encode(recovery.sign(&to_be_signed).0);
    let attached = common::ailo(&["tx", "attach", &file_text, "--signature", &signature]);
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let submitted = common::ailo(&["tx", "submit", &file_text, "--rpc", &old.rpc]);
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));

    let view = account(client, old).await;
    assert_eq!((view.key, view.recoveries, view.recoverable), (Some(*key.public()), 1, true));
}

async fn a_node_works_for_a_wallet_that_consents(client: &Client, people: &[Person], wallet: &Person) {
    let owner = &people[3];
    let (node, to) = (node_of(owner).to_string(), wallet.address.to_string());
    let consent = wallet.says(&["wallet", "consent", &node]);
    let stranger = people[1].says(&["wallet", "consent", &node]);
    let good = ["bind", &to, "--consent", consent.trim()];
    owner.is_refused(&["bind", &to, "--consent", stranger.trim()], "", "--consent is for another wallet");
    assert_says(&owner.says(&good), &["works for", &to]);
    let network = owner.folder.parent().unwrap().join("network.toml");
    let verified =
        common::ailo(&["verify", "node", &node, "--rpc", &owner.rpc, "--network", network.to_str().unwrap()]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert_says(&said, &[&format!("wallet       {to}")]);
    owner.is_refused(&good, "", "ALREADY_REGISTERED");
    let back = owner.says(&["wallet", "consent", &node]);
    let own = owner.address.to_string();
    owner.is_refused(&["bind", &own, "--consent", back.trim()], "", "BIND_TOO_SOON");
    // Signed elsewhere, it is the same consent.
    let key = keystore::load(&owner.file, keystore::Kind::Wallet).unwrap();
    let public = key.public().to_string();
    let by = ["wallet", "consent", &node, "--by", &public];
    let to_be_signed = hex_after(&people[1].says(&by), "sign ");
    let signature = hex::encode(key.sign(&to_be_signed).0);
    assert_eq!(people[1].says(&[&by[..], &["--signature", &signature]].concat()), back);
    let wrong = hex::encode(key.sign(b"something else").0);
    people[1].is_refused(&[&by[..], &["--signature", &wrong]].concat(), "", "--signature does not hold");
    assert_eq!(account(client, wallet).await.staked, Amount::ZERO);
}

/// Gives a transfer that was confirmed under the changed fee.
async fn a_vote_changes_a_parameter_at_its_height(client: &Client, people: &[Person], wallet: &Person) -> Hash {
    assert_says(&people[2].says(&["proposals"]), &["nothing is voted on"]);
    assert_says(&people[0].says(&["stake", "4"]), &["staked 4 ALC behind node"]);
    assert_says(&people[1].says(&["stake", "1"]), &["staked 1 ALC behind node"]);
    people[0].is_refused(&["propose", "ledger.confirmations=1"], "", "NOT_CHANGEABLE");
    people[0].is_refused(&["propose", "ledger.fee=1000000"], "", "BAD_CHANGE");
    let said = people[0].says(&["propose", "ledger.fee=0.02", "--why", "blocks are full"]);
    let number: u64 = said.strip_prefix("proposal ").unwrap().split(':').next().unwrap().parse().unwrap();
    let number_text = number.to_string();
    assert_says(&said, &[&format!("ailo-node vote {number} yes")]);
    people[2].is_refused(&["vote", &number_text, "yes"], "", "NO_STAKE");
    people[0].is_refused(&["vote", "7", "yes"], "", "NO_SUCH_POLL");
    assert_says(&people[0].says(&["vote", &number_text, "yes"]), &["voted yes", "with 4 ALC of stake"]);
    assert_says(&people[1].says(&["vote", &number_text, "no"]), &["voted no", "with 1 ALC of stake"]);
    let shown = people[2].says(&["proposals"]);
    assert_says(&shown, &["ledger.fee=0.02", "blocks are full", "4 ALC for, 1 against", "40 % of 5 ALC"]);

    // The change is there from its height on, and not before.
    let (started, mut activates) = (Instant::now(), None);
    loop {
        let reply: At<ProposalsView> = client.call("ailo_proposals", &[]).await.unwrap();
        activates = reply.value.proposals.first().and_then(|p| p.poll.activates).or(activates);
        let changed = reply.value.changed == ["ledger.fee=0.02"];
        assert_eq!(changed, activates.is_some_and(|height| reply.height >= height), "{reply:?} {activates:?}");
        if changed {
            break;
        }
        assert!(started.elapsed() < LIMIT, "nothing changes: {reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_says(&people[2].says(&["proposals"]), &["nothing is voted on", "changed  ledger.fee=0.02"]);
    let sent = pay(client, &people[0], &wallet.address.to_string(), "0.5").await;
    let history = client.history(&Subject::Wallet(people[0].address), 20).await.unwrap().value;
    let fee = history.entries.iter().find_map(|entry| match &entry.event {
        Event::TransferPending { id, fee, .. } if *id == sent => Some(*fee),
        _ => None,
    });
    assert_eq!(fee, Some(alc(2)));
    sent
}

/// Two of four attest a transfer, whoever comes first: only those it names are sure to have done so.
fn validators_are_listed_and_none_is_jailed(people: &[Person], confirmed: &TransactionView) {
    let said = people[3].says(&["validators"]);
    for person in &people[..3] {
        let line = said.lines().find(|line| line.starts_with(&node_of(person).to_string())).unwrap();
        assert_says(line, &["power 1 of 3", &person.address.to_string()]);
        assert!(!line.contains("jailed"), "{line}");
    }
    assert!(!said.contains(&node_of(&people[3]).to_string()), "the fourth does not validate: {said}");
    assert_says(&said, &["stake 4 ALC", "the founders validate until", "one more validator needs 100 ALC"]);
    for node in &confirmed.attested_by {
        let of_one = people[3].says(&["validators", &node.to_string(), "--limit", "100"]);
        assert_says(&of_one, &["attested", "reward"]);
    }
    people[0].is_refused(&["unjail"], "", "NOT_JAILED");
    people[3].is_refused(&["unjail"], "", "NOT_YOUR_NODE");
}

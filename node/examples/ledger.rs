//! Benchmark of the ledger, run by `scripts/bench ledger`: validators as processes of their own, libp2p on loopback, every
//! block fsynced. Wallets earn their coins by a round of training, as there are no others.
//!
//! - *Idle*: one transfer at a time, from its submission until the node shows it in a final block, and CONFIRMED.
//! - *Load*: signed transfers between 1000 wallets at a fixed rate, handed in at all nodes; one counts when it is CONFIRMED.

use ailo_ledger::{Body, Transaction};
use ailo_node::{
    client::{Client, json},
    genesis::{local_params, now_ms},
    localnet::net::{Net, Spec},
    rpc::types::*,
};
use ailo_protocol::{Address, Amount, Hash, Keypair};
use std::{
    error::Error,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const WALLETS: usize = 1000;
const PURSE: Amount = Amount::alc(100);
const BATCH: usize = 128;
const PROBES: usize = 100;

struct Args {
    seconds: u64,
    rate: u64,
    nodes: u32,
    confirmations: u32,
}

fn args() -> Outcome<Args> {
    let mut args = Args { seconds: 30, rate: 3500, nodes: 4, confirmations: 2 };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or("each flag takes a number")?.parse()?;
        match flag.as_str() {
            "--seconds" => args.seconds = value,
            "--rate" => args.rate = value,
            "--nodes" => args.nodes = value as u32,
            "--confirmations" => args.confirmations = value as u32,
            other => return Err(format!("{other} is no flag of this benchmark").into()),
        }
    }
    Ok(args)
}

fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(args()?))
}

async fn run(args: Args) -> Outcome<()> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("ledger, {} validators, {} confirmations; load average {}", args.nodes, args.confirmations, load().trim());
    let dir = tempfile::tempdir()?;
    let mut params = local_params(args.nodes, args.confirmations);
    (params.round.rounds, params.round.pot, params.round.epoch_cap) =
        (1, Amount::alc(1_000_000), Amount::alc(10_000_000));
    (params.training.inner_steps, params.training.batch, params.training.sequence) = (1, 1, 16);
    (params.training.eval_sequences, params.training.score_sequences) = (1, 1);
    (params.ledger.idle_block_ms, params.ledger.epoch_ms) = (5_000, 600_000);
    (params.ledger.heartbeat_ms, params.ledger.alive_ms) = (60_000, 180_000);
    let spec = Spec {
        program: std::env::current_exe()?.with_file_name("../ailo-node"),
        dir: dir.path().into(),
        nodes: args.nodes,
        validators: args.nodes,
        data: vec![],
        seed: 1,
        params,
    };
    let mut net = Net::found(spec)?;
    for i in 0..args.nodes as usize {
        net.start(i)?;
    }
    let trained = |s: &[Option<At<Status>>]| s.iter().all(|s| s.as_ref().is_some_and(|s| s.value.model.rounds > 0));
    net.wait_until("a first round of training", Duration::from_secs(120), trained).await?;
    let clients: Vec<Client> = (0..net.nodes.len()).filter_map(|i| net.client(i)).collect();
    let network = net.genesis.id();

    let wallets: Vec<Keypair> = (0..WALLETS).map(|_| Keypair::generate()).collect();
    for (i, founder) in net.nodes.iter().enumerate() {
        // Each founder's node bonds by itself as soon as it can; the coins are sent after that.
        let address = Address::from(founder.wallet.public());
        let first = loop {
            let account = clients[i].account(&address).await?.value;
            if account.staked > Amount::ZERO {
                break account.nonce;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let mine = wallets.iter().skip(i).step_by(net.nodes.len());
        let transfers: Vec<Transaction> = mine
            .zip(first..)
            .map(|(to, nonce)| transfer(&network, &founder.wallet, nonce, Address::from(to.public()), PURSE))
            .collect();
        for batch in transfers.chunks(60) {
            let last = batch.last().map_or(0, |t| t.unsigned.nonce);
            submit(&clients[i], batch).await?;
            while clients[i].account(&address).await?.value.nonce <= last {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    settled(&clients[0]).await?;

    idle(&clients, &network, &net.nodes[0].wallet).await?;
    under_load(&args, &clients, &network, &wallets).await?;
    for i in 0..net.nodes.len() {
        let status = net.pid(i).map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status"))).transpose()?;
        let peak = status.as_deref().unwrap_or_default().lines().find(|line| line.starts_with("VmHWM")).unwrap_or("?");
        println!("  memory of validator {i}: {}", peak.trim_start_matches("VmHWM:").trim());
    }
    println!("load average afterwards {}", load().trim());
    net.stop_all().await?;
    Ok(())
}

fn transfer(network: &Hash, key: &Keypair, nonce: u64, to: Address, amount: Amount) -> Transaction {
    Transaction::sign(network, key, nonce, now_ms(), Body::Transfer { to, amount, memo: String::new() })
}

async fn submit(client: &Client, transactions: &[Transaction]) -> Outcome<Vec<SubmitOutcome>> {
    let texts: Vec<String> = transactions.iter().map(|t| hex::encode(t.encode())).collect();
    let reply: At<SubmittedMany> = client.call("ailo_submitMany", &[("transactions", json(&texts))]).await?;
    Ok(reply.value.outcomes)
}

/// Waits until no transfer is pending.
async fn settled(client: &Client) -> Outcome<At<Status>> {
    let started = Instant::now();
    loop {
        let status = client.status().await?;
        if status.value.supply.pending == Amount::ZERO {
            return Ok(status);
        }
        if started.elapsed() > Duration::from_secs(120) {
            return Err("transfers stay pending".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One transfer at a time on an idle network.
async fn idle(clients: &[Client], network: &Hash, wallet: &Keypair) -> Outcome<()> {
    let first = clients[0].account(&Address::from(wallet.public())).await?.value.nonce;
    let (mut in_block, mut confirmed) = (Vec::new(), Vec::new());
    for i in 0..PROBES {
        let to = Address::from(Keypair::generate().public());
        let probe = transfer(network, wallet, first + i as u64, to, Amount(1));
        let client = &clients[i % clients.len()];
        let started = Instant::now();
        let id = client.submit(&probe).await?;
        let mut seen = false;
        loop {
            let view = client.transaction(&id).await?.value;
            if view.block_height.is_some() && !seen {
                in_block.push(started.elapsed());
                seen = true;
            }
            if view.status == "confirmed" {
                confirmed.push(started.elapsed());
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    report("idle, submitted to final block", &mut in_block);
    report("idle, submitted to CONFIRMED", &mut confirmed);
    Ok(())
}

/// A wallet that sends.
struct Sender {
    key: Keypair,
    next: u64,
    rests_until: Instant,
}

async fn under_load(args: &Args, clients: &[Client], network: &Hash, wallets: &[Keypair]) -> Outcome<()> {
    let before = settled(&clients[0]).await?;
    let started = Instant::now();
    let until = started + Duration::from_secs(args.seconds);
    let rate = args.rate as f64 / clients.len() as f64;
    let addresses: Vec<Address> = wallets.iter().map(|key| Address::from(key.public())).collect();
    let mut tasks = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        let senders = wallets.iter().skip(i).step_by(clients.len()).cloned();
        let senders: Vec<Sender> = senders.map(|key| Sender { key, next: 0, rests_until: started }).collect();
        tasks.push(tokio::spawn(send(client.clone(), *network, senders, addresses.clone(), rate, until)));
    }
    let mut last = (before.height, Instant::now());
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = clients[0].status().await?;
        let seconds = last.1.elapsed().as_secs_f64();
        let pending = now.value.supply.pending.0; // each transfer moves one unit
        println!(
            "  {:>4.0} s: {:>5.1} blocks/s, {} pending",
            started.elapsed().as_secs_f64(),
            (now.height - last.0) as f64 / seconds,
            pending,
        );
        last = (now.height, Instant::now());
    }
    let mut refused = 0;
    for task in tasks {
        refused += task.await?.map_err(|e| format!("a sender stopped: {e}"))?;
    }
    // The last ones: until nothing is pending and no nonce moves any more.
    let mut total = 0;
    let mut done = Instant::now();
    loop {
        settled(&clients[0]).await?;
        let mut sum = 0;
        for address in &addresses {
            sum += clients[0].account(address).await?.value.nonce;
        }
        if sum == total {
            break;
        }
        (total, done) = (sum, Instant::now());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seconds = done.duration_since(started).as_secs_f64().max(args.seconds as f64);
    println!(
        "  load: {total} transfers CONFIRMED in {seconds:.1} s: {:.0} a second ({} a second offered, {refused} refused and sent again)",
        total as f64 / seconds,
        args.rate
    );
    Ok(())
}

/// Sends transfers of these wallets at a rate; gives how many were refused for lack of room.
async fn send(
    client: Client,
    network: Hash,
    mut senders: Vec<Sender>,
    addresses: Vec<Address>,
    rate: f64,
    until: Instant,
) -> Result<u64, String> {
    let started = Instant::now();
    let (mut sent, mut refused, mut turn) = (0u64, 0, 0usize);
    while Instant::now() < until {
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        let count = (due.saturating_sub(sent) as usize).min(BATCH);
        if count < BATCH / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        sent += count as u64;
        let (mut batch, mut owners) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            turn += 1;
            let at = turn % senders.len();
            let sender = &mut senders[at];
            if sender.rests_until > Instant::now() {
                continue;
            }
            let to = addresses[(turn * 7 + 1) % addresses.len()];
            if to == Address::from(sender.key.public()) {
                continue;
            }
            batch.push(transfer(&network, &sender.key, sender.next, to, Amount(1)));
            owners.push(at);
            sender.next += 1;
        }
        let outcomes = submit(&client, &batch).await.map_err(|e| e.to_string())?;
        for ((outcome, at), transaction) in outcomes.into_iter().zip(owners).zip(&batch) {
            if outcome.id.is_none() {
                refused += 1;
                let sender = &mut senders[at];
                sender.next = sender.next.min(transaction.unsigned.nonce);
                sender.rests_until = Instant::now() + Duration::from_millis(500);
                if !matches!(
                    outcome.code.as_deref(),
                    Some("MEMPOOL_FULL" | "SIGNER_FULL" | "NONCE_GAP" | "NONCE_TAKEN" | "BAD_NONCE")
                ) {
                    return Err(format!("{:?} {:?}", outcome.code, outcome.message));
                }
                if matches!(outcome.code.as_deref(), Some("NONCE_TAKEN" | "BAD_NONCE")) {
                    sender.next = transaction.unsigned.nonce + 1;
                }
            }
        }
    }
    Ok(refused)
}

/// Prints median, 99th percentile and worst time.
fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("  {what}: median {:.2?}, 99th percentile {:.2?}, worst {:.2?}", at(50), at(99), at(100));
}

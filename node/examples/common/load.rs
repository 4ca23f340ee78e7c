//! A network under load, for benchmarks: validators as processes of their own, libp2p on loopback, every block fsynced;
//! wallets that got their coins by a round of training, as there are no others; and transfers between them at a rate.

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
use tokio::task::JoinSet;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const WALLETS: usize = 1000;
const PURSE: Amount = Amount::alc(100);
/// Wallets filled together: a signer may have few more transactions waiting.
const FUNDED_TOGETHER: usize = 60;
/// Transfers handed in together, at most; and the time in which they gather.
const BATCH: usize = 128;
const GATHER: Duration = Duration::from_millis(70);
/// Samples of the time to confirmation: every 20th transfer, but no more than this many a second.
const SAMPLE_EVERY: u64 = 20;
const SAMPLES_A_SECOND: u64 = 3;
/// How long after a look at a sample's recipient the next one is: this, or a twentieth of what it has waited. Under load
/// the looks would else be a load of their own.
const LOOK: Duration = Duration::from_millis(10);
/// What takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A network that runs, with wallets to send from.
pub struct Network {
    /// Its processes.
    pub net: Net,
    /// JSON-RPC of each node.
    pub clients: Vec<Client>,
    /// Its id.
    pub id: Hash,
    /// A wallet beside those of the load. No node works for it: those stake by themselves.
    pub prober: Keypair,
    wallets: Vec<Keypair>,
    _dir: tempfile::TempDir,
}

/// What came of a load.
pub struct Load {
    /// Transfers CONFIRMED.
    pub confirmed: u64,
    /// Until the last of them was.
    pub time: Duration,
    /// Transfers refused for lack of room; they were sent again.
    pub refused: u64,
    /// From the submission of a transfer until its node shows the coins free at the recipient.
    pub samples: Vec<Duration>,
}

/// A wallet that sends.
struct Sender {
    key: Keypair,
    next: u64,
    rests_until: Instant,
}

/// Founds a network of validators, trains a round, and fills the wallets. A transfer is FINAL after `final_s` seconds, and
/// leaves the state.
pub async fn found(nodes: u32, confirmations: u32, final_s: u64) -> Outcome<Network> {
    let dir = tempfile::tempdir()?;
    let mut params = local_params(nodes, confirmations);
    (params.round.rounds, params.round.pot, params.round.epoch_cap) =
        (1, Amount::alc(1_000_000), Amount::alc(10_000_000));
    params.round.open_wait_ms = PATIENCE.as_millis() as u64; // Every founder needs its share of the one round.
    (params.training.inner_steps, params.training.batch, params.training.sequence) = (1, 1, 16);
    (params.training.eval_sequences, params.training.score_sequences) = (1, 1);
    (params.ledger.idle_block_ms, params.ledger.epoch_ms) = (5_000, 600_000);
    (params.ledger.heartbeat_ms, params.ledger.alive_ms) = (60_000, 180_000);
    let ledger = &mut params.ledger;
    (ledger.pending_ms, ledger.dispute_ms, ledger.final_ms) = (final_s * 1000, final_s * 1000, final_s * 1000);
    ledger.sweep_per_block = 10_000;
    let spec = Spec {
        program: std::env::current_exe()?.with_file_name("../ailo-node"),
        dir: dir.path().into(),
        nodes,
        validators: nodes,
        data: vec![],
        seed: 1,
        params,
    };
    let mut net = Net::found(spec)?;
    net.start_all()?;
    let trained = |s: &[Option<At<Status>>]| s.iter().all(|s| s.as_ref().is_some_and(|s| s.value.model.rounds > 0));
    net.wait_until("a first round of training", PATIENCE, trained).await?;
    let clients: Vec<Client> = (0..net.nodes.len()).filter_map(|i| net.client(i)).collect();
    let id = net.genesis.id();

    let mut wallets: Vec<Keypair> = (0..=WALLETS).map(|_| Keypair::generate()).collect();
    for (i, founder) in net.nodes.iter().enumerate() {
        // Each founder's node bonds by itself as soon as it can; the coins are sent after that.
        let address = Address::from(founder.wallet.public());
        let started = Instant::now();
        while clients[i].account(&address).await?.value.staked == Amount::ZERO {
            if started.elapsed() > PATIENCE {
                return Err(format!("node {i} got no coins to bond").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut left: Vec<Address> =
            wallets.iter().skip(i).step_by(net.nodes.len()).map(|key| Address::from(key.public())).collect();
        while !left.is_empty() {
            let first = clients[i].account(&address).await?.value.nonce;
            let batch: Vec<Address> = left.drain(..left.len().min(FUNDED_TOGETHER)).collect();
            let purse = |(to, nonce): (&Address, u64)| transfer(&id, &founder.wallet, nonce, *to, PURSE);
            let transfers: Vec<Transaction> = batch.iter().zip(first..).map(purse).collect();
            let outcomes = submit(&clients[i], &transfers).await?;
            // The node stakes more by itself as the network grows, and then one of these nonces is taken.
            left.extend(batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.id.is_none()).map(|(to, _)| to));
            let taken = transfers.iter().zip(&outcomes).filter(|(_, outcome)| outcome.id.is_some());
            let next = taken.map(|(transfer, _)| transfer.unsigned.nonce + 1).max().unwrap_or(first);
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if clients[i].account(&address).await?.value.nonce >= next {
                    break;
                }
            }
        }
    }
    settled(&clients[0]).await?;
    let prober = wallets.pop().ok_or("there are no wallets")?;
    Ok(Network { net, clients, id, prober, wallets, _dir: dir })
}

impl Network {
    /// The wallets that send.
    pub fn addresses(&self) -> Vec<Address> {
        self.wallets.iter().map(|key| Address::from(key.public())).collect()
    }

    /// Offers transfers at a rate, handed in at all nodes, and waits until all of them are CONFIRMED. The wallets send
    /// here for the first time.
    pub async fn load(&self, rate: u64, time: Duration) -> Outcome<Load> {
        let clients = &self.clients;
        let before = settled(&clients[0]).await?;
        let started = Instant::now();
        let until = started + time;
        let rate_of_one = rate as f64 / clients.len() as f64;
        let every = (rate / SAMPLES_A_SECOND).max(SAMPLE_EVERY);
        let addresses = self.addresses();
        let mut tasks = Vec::new();
        for (i, client) in clients.iter().enumerate() {
            let senders = self.wallets.iter().skip(i).step_by(clients.len()).cloned();
            let senders: Vec<Sender> = senders.map(|key| Sender { key, next: 0, rests_until: started }).collect();
            let task = send(client.clone(), self.id, senders, addresses.clone(), rate_of_one, every, until);
            tasks.push(tokio::spawn(task));
        }
        let mut last = (before.height, Instant::now());
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(5).min(until.saturating_duration_since(Instant::now()))).await;
            let now = clients[0].status().await?;
            println!(
                "  {:>4.0} s: {:>5.1} blocks/s, {} pending",
                started.elapsed().as_secs_f64(),
                (now.height - last.0) as f64 / last.1.elapsed().as_secs_f64(),
                now.value.supply.pending.0, // each transfer moves one unit
            );
            last = (now.height, Instant::now());
        }
        let (mut refused, mut samples) = (0, Vec::new());
        for task in tasks {
            let (again, mut watched) = task.await?.map_err(|e| format!("a sender stopped: {e}"))?;
            refused += again;
            while let Some(sample) = watched.join_next().await {
                samples.push(sample??);
            }
        }
        // The last ones: until nothing is pending and no nonce moves any more.
        let mut confirmed = 0;
        let mut done = Instant::now();
        loop {
            settled(&clients[0]).await?;
            let mut sum = 0;
            for address in &addresses {
                sum += clients[0].account(address).await?.value.nonce;
            }
            if sum == confirmed {
                break;
            }
            (confirmed, done) = (sum, Instant::now());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(Load { confirmed, time: done.duration_since(started).max(time), refused, samples })
    }
}

pub fn transfer(network: &Hash, key: &Keypair, nonce: u64, to: Address, amount: Amount) -> Transaction {
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
        if started.elapsed() > PATIENCE {
            return Err("transfers stay pending".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The time since `started` at which a recipient's coins are free, which is what CONFIRMED means. The account is asked
/// for and not the transaction, because that costs the node nothing but a look at its state.
async fn confirmed(client: Client, to: Address, started: Instant) -> Result<Duration, String> {
    loop {
        let account = client.account(&to).await.map_err(|e| e.to_string())?.value;
        if account.free > Amount::ZERO {
            return Ok(started.elapsed());
        }
        if started.elapsed() > PATIENCE {
            return Err("a transfer was not confirmed".into());
        }
        tokio::time::sleep(LOOK.max(started.elapsed() / 20)).await;
    }
}

/// Transfers refused for lack of room, and the samples that are watched.
type Sent = (u64, JoinSet<Result<Duration, String>>);

/// Sends transfers of these wallets at a rate; every so many goes to a fresh address and is watched.
async fn send(
    client: Client,
    network: Hash,
    mut senders: Vec<Sender>,
    addresses: Vec<Address>,
    rate: f64,
    every: u64,
    until: Instant,
) -> Result<Sent, String> {
    let started = Instant::now();
    let enough = (rate * GATHER.as_secs_f64()).clamp(1.0, BATCH as f64 / 2.0) as usize;
    let (mut sent, mut refused, mut turn, mut watched) = (0u64, 0, 0usize, JoinSet::new());
    while Instant::now() < until {
        let due = (started.elapsed().as_secs_f64() * rate) as u64;
        let count = (due.saturating_sub(sent) as usize).min(BATCH);
        if count < enough {
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
            let sampled = (turn as u64).is_multiple_of(every);
            let to = match sampled {
                true => Address::from(Keypair::generate().public()),
                false => addresses[(turn * 7 + 1) % addresses.len()],
            };
            if to == Address::from(sender.key.public()) {
                continue;
            }
            batch.push(transfer(&network, &sender.key, sender.next, to, Amount(1)));
            owners.push((at, sampled.then_some(to)));
            sender.next += 1;
        }
        let handed_in = Instant::now();
        let outcomes = submit(&client, &batch).await.map_err(|e| e.to_string())?;
        for ((outcome, (at, sample)), transaction) in outcomes.into_iter().zip(owners).zip(&batch) {
            if outcome.id.is_some() {
                if let Some(to) = sample {
                    watched.spawn(confirmed(client.clone(), to, handed_in));
                }
                continue;
            }
            refused += 1;
            let sender = &mut senders[at];
            sender.next = sender.next.min(transaction.unsigned.nonce);
            sender.rests_until = Instant::now() + Duration::from_millis(500);
            match outcome.code.as_deref() {
                Some("MEMPOOL_FULL" | "SIGNER_FULL" | "NONCE_GAP") => {}
                Some("NONCE_TAKEN" | "BAD_NONCE") => sender.next = transaction.unsigned.nonce + 1,
                code => return Err(format!("{code:?} {:?}", outcome.message)),
            }
        }
    }
    Ok((refused, watched))
}

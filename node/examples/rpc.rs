//! Benchmark of JSON-RPC, run by `scripts/bench rpc`.
//!
//! - *One connection*: how long `ailo_status` takes on a real node that only follows, and on one that trains at full load, beside a
//!   request to the same server that does nothing.
//! - *Many connections*: what an explorer asks, from 200 connections at 5000 requests a second together, of a validator of a network
//!   (`common/load.rs`) that commits 500 transfers a second meanwhile. A request's time runs from when it is due.
//! - *A bare server*: the library that serves, with a method that does nothing, in a process of its own, asked from as many
//!   connections as fast as they can: what this machine answers of nothing at all, the asking on the same cores included.
//!
//!     cargo build -p ailo-node && cargo run -p ailo-node --example rpc

#[path = "common/load.rs"]
#[allow(dead_code)] // each benchmark needs a part of it
mod load;

use ailo_node::{client::Client, rpc::types::*};
use jsonrpsee::{
    RpcModule,
    server::{Server, ServerConfig},
};
use load::{Network, Outcome};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::BufRead,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Requests measured, one after another.
const REQUESTS: usize = 500;

/// A node process that ends with this value.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the 99th percentile is held against.
const LIMIT: Duration = Duration::from_millis(10);
/// Bytes of an answer, at most.
const MAX_ANSWER: usize = 16 << 20;
/// Seconds until a transfer is FINAL and leaves the state.
const FINAL_S: u64 = 10;

struct Args {
    connections: u32,
    requests: u32,
    transfers: u64,
    seconds: u64,
    nodes: u32,
    many_alone: bool,
}

/// The word by which this program is started as the bare server.
const BARE: &str = "bare-server";
/// For how long that is asked.
const BARE_TIME: Duration = Duration::from_secs(5);

fn args() -> Outcome<Args> {
    let mut args = Args { connections: 200, requests: 5000, transfers: 500, seconds: 30, nodes: 4, many_alone: false };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        if flag == "--many" {
            args.many_alone = true;
            continue;
        }
        let value: u64 = words.next().ok_or("each flag but --many takes a number")?.parse()?;
        match flag.as_str() {
            "--connections" => args.connections = u32::try_from(value)?.max(1),
            "--requests" => args.requests = u32::try_from(value)?.max(1),
            "--transfers" => args.transfers = value,
            "--seconds" => args.seconds = value,
            "--nodes" => args.nodes = u32::try_from(value)?,
            other => return Err(format!("{other} is no flag of this benchmark").into()),
        }
    }
    Ok(args)
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if std::env::args().nth(1).is_some_and(|word| word == BARE) {
        return runtime.block_on(serve_nothing());
    }
    runtime.block_on(run(args()?))
}

/// jsonrpsee alone, with one method that answers a word.
async fn serve_nothing() -> Outcome<()> {
    let server = Server::builder()
        .set_config(ServerConfig::builder().max_connections(1024).build())
        .build("127.0.0.1:0")
        .await?;
    println!("{}", server.local_addr()?);
    let mut module = RpcModule::new(());
    module.register_method("nothing", |_, _, _| "nothing")?;
    server.start(module).stopped().await;
    Ok(())
}

/// A processor that only looks at the clock sees it move by less than this, unless it stood still.
const PAUSE: Duration = Duration::from_micros(500);
/// For how long they look.
const WATCHED: Duration = Duration::from_secs(5);

/// How long this machine's processors stand still by themselves, as those of shared ones do: nothing that runs on them is sooner.
fn pauses() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let watch = || {
        let (started, mut last, mut pauses) = (Instant::now(), Instant::now(), Vec::new());
        while started.elapsed() < WATCHED {
            let now = Instant::now();
            pauses.extend(Some(now - last).filter(|gap| *gap > PAUSE));
            last = now;
        }
        pauses
    };
    let watchers: Vec<_> = (0..processors).map(|_| std::thread::spawn(watch)).collect();
    let all: Vec<Duration> = watchers.into_iter().flat_map(|watcher| watcher.join().unwrap_or_default()).collect();
    let share = all.iter().sum::<Duration>().as_secs_f64() / (WATCHED.as_secs_f64() * processors as f64);
    let longest = all.iter().max().copied().unwrap_or_default();
    println!(
        "  {processors} processors that only look at the clock stand still {} times, {:.1} % of the time, at most {longest:.1?}",
        all.len(),
        100.0 * share
    );
}

/// What the library answers by itself on this machine.
async fn bare(connections: u32) -> Outcome<()> {
    let mut child = Node(Command::new(std::env::current_exe()?).arg(BARE).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    std::io::BufReader::new(child.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse()?;
    let requests = Arc::new(vec![request(address, ("nothing", json!([])))]);
    let (mut tasks, started) = (JoinSet::new(), Instant::now());
    for _ in 0..connections {
        tasks.spawn(connection(address, requests.clone(), 0, Pace::Closed(started + BARE_TIME)));
    }
    let mut times = Vec::new();
    while let Some(all) = tasks.join_next().await {
        times.extend(all?.map_err(|e| format!("a connection failed: {e}"))?.into_iter().map(|(.., time)| time));
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    report(&format!("the bare server, {connections} connections, {rate:.0} requests a second"), &mut times);
    Ok(())
}

async fn run(args: Args) -> Outcome<()> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("rpc; load average {}", load().trim());
    if !args.many_alone {
        measure("follows", &["--inference-only"], |s| s.height > 2).await?;
        measure("trains", &[], |s| s.value.round.step > 0).await?;
    }
    pauses();
    bare(args.connections).await?;
    many(&args).await?;
    println!("load average afterwards {}", load().trim());
    Ok(())
}

/// Many connections, while transfers commit.
async fn many(args: &Args) -> Outcome<()> {
    let mut network = load::found(args.nodes, args.nodes.min(2).saturating_sub(1), FINAL_S).await?;
    println!(
        "  {} connections and {} requests a second together, {} validators, {} transfers a second",
        args.connections, args.requests, args.nodes, args.transfers
    );
    let asked = questions(&network).await?;
    let time = Duration::from_secs(args.seconds);
    let (transfers, answers) = tokio::join!(network.load(args.transfers, time), ask(args, &network, asked, time));
    let (transfers, (mut answers, seconds_of)) = (transfers?, answers?);
    let seconds = transfers.time.as_secs_f64();
    println!("  {:.0} transfers a second were CONFIRMED", transfers.confirmed as f64 / seconds);
    let mut all: Vec<Duration> = answers.values().flatten().copied().collect();
    let count = all.len() as f64;
    for (method, times) in &mut answers {
        report(method, times);
    }
    report("all", &mut all);
    let worst = |times: &mut Vec<Duration>| format!("{:.1}", percentile_99(times).as_secs_f64() * 1e3);
    let each: Vec<String> = seconds_of.into_values().map(|mut times| worst(&mut times)).collect();
    println!("  99th percentile of each second, in milliseconds: {}", each.join(" "));
    let p99 = percentile_99(&mut all);
    let verdict = if p99 <= LIMIT { "within" } else { "BEYOND" };
    println!("  {:.0} requests a second; 99th percentile {p99:.2?}, {verdict} {LIMIT:?}", count / args.seconds as f64);
    network.net.stop_all().await?;
    Ok(())
}

fn percentile_99(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
}

/// What an explorer and its visitors ask, in turn: most of all accounts.
async fn questions(network: &Network) -> Outcome<Vec<(&'static str, Value)>> {
    let client = &network.clients[0];
    let block = async |height: u64| client.call::<At<BlockView>>("ailo_block", &[("height", json!(height))]).await;
    let head = client.status().await?.height;
    let mut filled = None;
    for height in (1..=head).rev() {
        let view = block(height).await?.value;
        if let Some(transaction) = view.transactions.first() {
            filled = Some((height, transaction.id));
            break;
        }
    }
    let (height, id) = filled.ok_or("no block has a transaction")?;
    let mut all = Vec::new();
    for pair in network.addresses().chunks(2).take(100) {
        all.push(("ailo_account", json!({"address": pair[0]})));
        all.push(("ailo_history", json!({"address": pair[0], "limit": 20})));
        all.push(("ailo_account", json!({"address": pair[pair.len() - 1]})));
        all.push(("ailo_transaction", json!({"id": id})));
        all.push(("ailo_supply", json!({})));
        all.push(("ailo_account", json!({"address": pair[0]})));
        all.push(("ailo_block", json!({"height": height})));
        all.push(("ailo_status", json!({})));
        all.push(("ailo_pending", json!({"limit": 20})));
        all.push(("ailo_round", json!({})));
    }
    Ok(all)
}

/// The times of answers by method, and by the second in which they were due.
type Times = (BTreeMap<&'static str, Vec<Duration>>, BTreeMap<u64, Vec<Duration>>);

/// Asks from many connections at a rate.
async fn ask(args: &Args, network: &Network, questions: Vec<(&'static str, Value)>, time: Duration) -> Outcome<Times> {
    let url = network.clients[0].url();
    let address: SocketAddr = url.trim_start_matches("http://").trim_end_matches("/rpc").parse()?;
    let requests: Arc<Vec<Request>> = Arc::new(questions.into_iter().map(|asked| request(address, asked)).collect());
    let every = Duration::from_secs_f64(f64::from(args.connections) / f64::from(args.requests));
    let (mut tasks, started) = (JoinSet::new(), Instant::now());
    for i in 0..args.connections {
        let offset = every.mul_f64(f64::from(i) / f64::from(args.connections));
        let first = i as usize * 7; // so that not all ask for the same at once
        let pace = Pace::Due { first: started + offset, every, until: started + time };
        tasks.spawn(connection(address, requests.clone(), first, pace));
    }
    let (mut answers, mut seconds) = Times::default();
    while let Some(times) = tasks.join_next().await {
        for (method, due, time) in times?.map_err(|e| format!("a connection failed: {e}"))? {
            answers.entry(method).or_default().push(time);
            seconds.entry(due.saturating_duration_since(started).as_secs()).or_default().push(time);
        }
    }
    Ok((answers, seconds))
}

/// A method, and a request for it as HTTP sends it.
type Request = (&'static str, Vec<u8>);

fn request(address: SocketAddr, (method, params): (&'static str, Value)) -> Request {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let head = format!(
        "POST /rpc HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (method, (head + &body).into_bytes())
}

/// When a connection asks.
enum Pace {
    /// At these times. Who waits for an answer while the next is due has waited for that, too.
    Due { first: Instant, every: Duration, until: Instant },
    /// As soon as the answer before has come, until then.
    Closed(Instant),
}

/// One connection: its requests, when they were due and how long each took.
async fn connection(
    address: SocketAddr,
    requests: Arc<Vec<Request>>,
    first: usize,
    pace: Pace,
) -> Result<Vec<(&'static str, Instant, Duration)>, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut times, mut answer) = (Vec::new(), Vec::new());
    for n in first.. {
        let (due, begun) = match &pace {
            Pace::Closed(until) if Instant::now() >= *until => break,
            Pace::Closed(_) => (Instant::now(), Instant::now()),
            Pace::Due { first: at, every, until } => {
                let due = *at + *every * u32::try_from(n - first).map_err(|e| e.to_string())?;
                if due >= *until {
                    break;
                }
                let late = Instant::now() > due;
                tokio::time::sleep_until(due.into()).await;
                // A timer is late by itself, up to a millisecond: that is not the node's.
                (due, if late { due } else { Instant::now() })
            }
        };
        let (method, bytes) = &requests[n % requests.len()];
        stream.write_all(bytes).await.map_err(|e| e.to_string())?;
        read_answer(&mut stream, &mut answer).await?;
        if answer[..answer.len().min(512)].windows(8).any(|part| part == b"\"error\":") {
            return Err(format!("{method}: {}", String::from_utf8_lossy(&answer)));
        }
        times.push((*method, due, begun.elapsed()));
    }
    Ok(times)
}

/// Reads one answer of HTTP, head and body.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(), String> {
    answer.clear();
    let mut length = None;
    loop {
        if stream.read_buf(answer).await.map_err(|e| e.to_string())? == 0 {
            return Err("the node closed the connection".into());
        }
        if length.is_none()
            && let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
            let body = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            length = Some(end + 4 + body.filter(|body| *body <= MAX_ANSWER).ok_or("an answer has no length")?);
        }
        if length.is_some_and(|length| answer.len() >= length) {
            return Ok(());
        }
    }
}

async fn measure(what: &str, flags: &[&str], ready: impl Fn(&At<Status>) -> bool) -> Outcome<()> {
    let program = std::env::current_exe()?.with_file_name("../ailo-node");
    let dir = tempfile::tempdir()?;
    let child = Command::new(program)
        .args(["run", "--network", "dev", "--validator", "--cpu", "--http", "127.0.0.1:0"])
        .args(flags)
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let _node = Node(child);
    let client = Client::new(address(&dir.path().join("rpc")).await?.trim())?;
    loop {
        let status: At<Status> = client.call("ailo_status", &[]).await?;
        if ready(&status) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut status = Vec::with_capacity(REQUESTS);
    let mut nothing = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        let _: At<Status> = client.call("ailo_status", &[]).await?;
        status.push(started.elapsed());
        let started = Instant::now();
        let unknown: Result<At<Status>, _> = client.call("ailo_nothing", &[]).await;
        nothing.push(started.elapsed());
        if unknown.is_ok() {
            return Err("an unknown method was answered".into());
        }
    }
    let ours = report(&format!("status while the node {what}"), &mut status);
    let limit = report("a request for nothing, in turn with it", &mut nothing);
    println!("  ratio {:.2}: of the time that a request for nothing takes", ours / limit);
    Ok(())
}

async fn address(file: &Path) -> Outcome<String> {
    let started = Instant::now();
    loop {
        match std::fs::read_to_string(file) {
            Ok(url) if !url.is_empty() => return Ok(url),
            _ if started.elapsed() > Duration::from_secs(60) => return Err("the node does not start".into()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Prints median, 99th percentile and worst time; returns the median in seconds.
fn report(what: &str, times: &mut [Duration]) -> f64 {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("  {what}: median {:.2?}, 99th percentile {:.2?}, worst {:.2?}", at(50), at(99), at(100));
    at(50).as_secs_f64()
}

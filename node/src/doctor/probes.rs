//! What `doctor` asks of the machine and of peers: each question is short, bounded in time, and leaves nothing behind.

use crate::{client::Client, config::Settings, genesis, service};
use ailo_ledger::light::LightBlock;
use ailo_proto::{HeadRequest, LightBlockRequest, request, response};
use ailo_protocol::{
    Hash, Keypair, keys,
    keystore::{self, Kind},
    net::{self, Event, Handle, Multiaddr, NetConfig},
};
use ailo_training::engine;
use futures::future::join_all;
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A peer is connected and has answered within this time, or is taken for silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times that a write is measured.
const WRITES: usize = 9;

/// What a node says that runs in the folder.
pub struct Running {
    /// Connected peers.
    pub peers: u64,
    /// Time of its newest block.
    pub block_time_ms: u64,
    /// Whether others reach it, and how or why not, if it says so.
    pub reachability: Option<(bool, String)>,
}

/// The node that runs in this folder, if one does.
pub async fn running(dir: &Path) -> Option<Running> {
    let status: Value = Client::in_folder(dir).ok()?.call("ailo_status", &[]).await.ok()?;
    let status = status.get("value").unwrap_or(&status);
    let known = &status["reachability"];
    let by_any_way = known["state"] == "public" || known["relay"].is_string();
    let reachability = known["note"].as_str().map(|note| (by_any_way, note.to_string()));
    let number = |name: &str| status[name].as_u64();
    Some(Running { peers: number("peers")?, block_time_ms: number("block_time_ms")?, reachability })
}

/// The class that a process of its own finds, and how long that took.
pub async fn computes(cpu: bool) -> Result<(String, Duration), String> {
    let started = Instant::now();
    let class = service::determinism_class(cpu).await.map_err(|e| e.to_string())?;
    Ok((class.short(), started.elapsed()))
}

/// What there is of GPUs.
pub struct Gpu {
    /// libtorch can use one.
    pub usable: bool,
    /// The version of NVIDIA's driver.
    pub driver: Option<String>,
    /// The card that computes what is served, if there is one; else why not, unless there is none.
    pub serves: Result<String, Option<String>>,
}

/// Looks for a GPU.
pub fn gpu() -> Gpu {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let version = |text: String| {
        Some(
            text.lines()
                .next()?
                .split_whitespace()
                .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?
                .to_string(),
        )
    };
    let usable = ailo_training::device(true) != ailo_training::Device::Cpu;
    let serves = engine::Gpu::find().map(|card| card.name().into());
    let serves = serves.map_err(|e| (!matches!(e, engine::NoGpu::None)).then(|| e.to_string()));
    Gpu { usable, driver: driver.and_then(version), serves }
}

/// An address that the node is to listen on.
pub struct Port {
    /// The flag that names it.
    pub flag: &'static str,
    /// The address.
    pub address: String,
    /// Whether it can be.
    pub outcome: Result<(), Busy>,
}

/// Why not.
pub enum Busy {
    /// Another process has it, which is named if it can be found.
    Taken(Option<String>),
    /// The system says no.
    Other(String),
}

/// Tries each address of `--listen` and `--http`.
pub fn ports(settings: &Settings) -> Vec<Port> {
    let listen = settings.listen.iter().map(|text| ("--listen", text.clone(), socket_address(text)));
    let http = ("--http", settings.http.to_string(), Some(settings.http));
    listen
        .chain([http])
        .map(|(flag, address, socket)| {
            let outcome = match socket {
                None => Err(Busy::Other("it is no /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT".into())),
                Some(socket) => TcpListener::bind(socket).map(drop).map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => Busy::Taken(holder(socket.port())),
                    _ => Busy::Other(e.to_string()),
                }),
            };
            Port { flag, address, outcome }
        })
        .collect()
}

/// The address of a multiaddr that nodes listen on.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        ["", "ip4" | "ip6", ip, "tcp", port, ..] => Some((ip.parse::<IpAddr>().ok()?, port.parse().ok()?).into()),
        _ => None,
    }
}

/// The process that listens on a port, as far as this one may see it.
fn holder(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| listening(line, port))?;
    let socket = format!("socket:[{inode}]");
    // Not `self`, which is another name of one.
    let number = |process: &PathBuf| process.file_name()?.to_str()?.parse::<u32>().ok();
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    processes.filter(|process| number(process).is_some()).find_map(|process| {
        let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
        files.find(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))?;
        let name = fs::read_to_string(process.join("comm")).ok()?;
        Some(format!("{} (process {})", name.trim(), process.file_name()?.to_string_lossy()))
    })
}

/// The inode of a line of `/proc/net/tcp`, if somebody listens there on `port`; see proc_net_tcp(5).
fn listening(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    (local == port && *fields.get(3)? == "0A").then(|| fields.get(9).copied()).flatten()
}

/// The nearest folder that exists: a node makes those below it.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."))
}

/// Bytes that are free where the folder lies or will lie.
pub fn space(dir: &Path) -> Result<u64, String> {
    let stat = rustix::fs::statvfs(existing(dir)).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How long a small write takes to be safe, in the middle of some.
pub fn fsync(dir: &Path) -> Result<Duration, String> {
    let path = existing(dir).join(format!(".doctor-{}", hex::encode(&keys::random_bytes()[..8])));
    let measured = write_some(&path);
    let _ = fs::remove_file(&path); // which is empty where that fails
    let mut times = measured.map_err(|e| format!("{} can't be written in: {e}", existing(dir).display()))?;
    times.sort_unstable();
    Ok(times[WRITES / 2])
}

fn write_some(path: &Path) -> io::Result<[Duration; WRITES]> {
    let mut file = File::create_new(path)?;
    let mut times = [Duration::ZERO; WRITES];
    for time in &mut times {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        *time = started.elapsed();
    }
    Ok(times)
}

/// Files that may be open at once.
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Key files of the folder that others may read.
pub fn exposed_keys(dir: &Path) -> Vec<PathBuf> {
    let files = ["node.json", "wallet.json", "api-keys.json"].map(|name| dir.join(name));
    let exposed = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    files.into_iter().filter(exposed).collect()
}

/// Key files of the folder that no passphrase locks.
pub fn open_keys(dir: &Path) -> Vec<PathBuf> {
    let files = [("node.json", Kind::Node), ("wallet.json", Kind::Wallet)].map(|(name, kind)| (dir.join(name), kind));
    // What is not there or can't be read is no open key.
    let open = files.into_iter().filter(|(path, kind)| matches!(keystore::is_sealed(path, *kind), Ok(false)));
    open.map(|(path, _)| path).collect()
}

/// Whether a process holds the folder.
pub fn is_locked(dir: &Path) -> bool {
    let Ok(lock) = File::open(dir.join("lock")) else { return false };
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

/// A peer of `--bootstrap`.
pub struct Peer {
    /// Where it is.
    pub address: String,
    /// The time of its newest block, if it has one; or why it does not answer.
    pub answer: Result<Option<u64>, String>,
}

/// Connects to each as a node does, under a key of its own, and asks it for its newest block.
pub async fn peers(settings: &Settings) -> Vec<Peer> {
    let kept = settings.data_dir.join("network.toml");
    let file = settings.network.clone().unwrap_or(kept);
    let network = genesis::read(&file).map(|genesis| genesis.id());
    let ask = |address: &String| {
        let (address, network) = (address.clone(), network.as_ref().map_err(ToString::to_string).copied());
        async move {
            let answer = match (network, address.parse()) {
                (Err(why), _) => Err(why),
                (_, Err(_)) => Err("it is no multiaddr (like /ip4/203.0.113.7/tcp/8646)".into()),
                (Ok(network), Ok(at)) => dial(at, network).await,
            };
            Peer { address, answer }
        }
    };
    join_all(settings.bootstrap.iter().map(ask)).await
}

async fn dial(address: Multiaddr, network: Hash) -> Result<Option<u64>, String> {
    let config = NetConfig { bootstrap: vec![address], ..NetConfig::new(Keypair::generate(), network) };
    let (net, mut events) = net::start(config).await.map_err(|e| e.to_string())?;
    let asked = async {
        let node = loop {
            match events.recv().await {
                Some(Event::Connected(node)) => break node,
                Some(Event::WrongNetwork { .. }) => return Err("it is of another network".into()),
                Some(Event::Gossip { verdict, .. }) => verdict.ignore(),
                Some(Event::Request { reply, .. }) => {
                    reply.refuse("this is no node, and only looks whether others are there")
                }
                Some(Event::Disconnected(_)) => {}
                None => return Err("the network layer has stopped".into()),
            }
        };
        Ok(newest(&net, node).await)
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    net.shutdown().await;
    answer.unwrap_or_else(|_| Err(format!("nothing came within {} s", PATIENCE.as_secs())))
}

/// Time of a peer's newest block.
async fn newest(net: &Handle, node: ailo_protocol::NodeId) -> Option<u64> {
    let Ok(response::Body::Head(head)) = net.request(node, request::Body::Head(HeadRequest {})).await else {
        return None;
    };
    let asked = request::Body::LightBlock(LightBlockRequest { height: head.height });
    let Ok(response::Body::LightBlock(block)) = net.request(node, asked).await else { return None };
    Some(LightBlock::decode(&block.canonical).ok()?.header.time_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_on_a_port_is_found_in_the_systems_tables() {
        let line = "   0: 0100007F:21C5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
        assert_eq!(listening(line, 8645), Some("4242"));
        assert_eq!(listening(line, 8646), None);
        assert_eq!(listening(&line.replace(" 0A ", " 01 "), 8645), None, "a connection is none");
        assert_eq!(listening("  sl  local_address", 1), None);

        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let who = holder(taken.local_addr().unwrap().port());
        assert!(who.is_some_and(|who| who.contains(&std::process::id().to_string())));
    }

    #[test]
    fn a_multiaddr_of_tcp_is_an_address_to_listen_on() {
        assert_eq!(socket_address("/ip4/0.0.0.0/tcp/8646"), Some("0.0.0.0:8646".parse().unwrap()));
        assert_eq!(socket_address("/ip6/::1/tcp/1"), Some("[::1]:1".parse().unwrap()));
        assert_eq!(socket_address("/dns4/a.org/tcp/1"), None);
        assert_eq!(socket_address("somewhere"), None);
    }

    #[test]
    fn a_look_at_the_disk_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("not/yet");
        assert!(space(&below).unwrap() > 0 && fsync(&below).unwrap() > Duration::ZERO);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

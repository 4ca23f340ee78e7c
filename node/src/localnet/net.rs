//! A network of real node processes on this machine: founding, starting, killing, restarting, asking, stopping.
//!
//! Every child holds the read end of a pipe from this process as its standard input and stops at its end, so no node
//! outlives its parent, even one that was killed.

use crate::{client::Client, datadir, error::NodeError, genesis, rpc::types::*};
use ailo_protocol::{Address, Genesis, Keypair, genesis::Founder, keys, keystore, params::Params};
use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// What a node writes into its log, unless the environment asks for more or less.
const NODE_LOG: &str =
    "ailo_node=info,ailo_ledger=info,ailo_protocol=info,warn,libp2p_gossipsub=error,libp2p_kad=error";

/// Ports that nodes listen on: [`PORTS`] of them, below those of connections that go out (from 32 768 on).
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// What to found.
pub struct Spec {
    /// The `ailo-node` program.
    pub program: PathBuf,
    /// Folder of the nodes' folders.
    pub dir: PathBuf,
    /// Nodes, all of them founders.
    pub nodes: u32,
    /// Founders that validate.
    pub validators: u32,
    /// Dataset files; none for the embedded corpus.
    pub data: Vec<PathBuf>,
    /// Seed of the initial weights.
    pub seed: u64,
    /// All numbers.
    pub params: Params,
}

/// A node of the network, running or not.
pub struct Node {
    /// Its folder.
    pub dir: PathBuf,
    /// Its wallet.
    pub wallet: Keypair,
    /// What it runs.
    pub program: PathBuf,
    /// Variables of its environment, beside this process's.
    pub env: Vec<(String, String)>,
    /// A network namespace that it runs in, and its address there; none is this one, and 127.0.0.1.
    pub namespace: Option<(String, String)>,
    port: u16,
    child: Option<Child>,
    client: Option<Client>,
}

/// The network.
pub struct Net {
    /// What it was founded on.
    pub genesis: Genesis,
    /// Its nodes; the first `validators` of them validate.
    pub nodes: Vec<Node>,
    /// Founders that validate.
    pub validators: u32,
    network_file: PathBuf,
    data: Vec<PathBuf>,
}

impl Net {
    /// Makes keys, folders and the network file; starts nothing yet.
    pub fn found(spec: Spec) -> Result<Net, NodeError> {
        let mut nodes = Vec::new();
        let mut founders = Vec::new();
        // The sockets are held until every port is known, so that no two nodes get the same one.
        let mut sockets = Vec::new();
        for i in 0..spec.nodes {
            let dir = spec.dir.join(format!("node-{i:02}"));
            fs::create_dir_all(&dir).map_err(|e| NodeError::file("create the folder", &dir, e))?;
            let (key, wallet) = (datadir::make_node_key(&dir, None)?, Keypair::generate());
            keystore::create(&dir.join("wallet.json"), keystore::Kind::Wallet, &wallet, None)?;
            founders.push(Founder {
                node: *key.public(),
                wallet: Address::from(wallet.public()),
                validator: i < spec.validators,
            });
            let socket = free_port().map_err(|e| NodeError::io("find a free port", e))?;
            let port = socket.local_addr().map_err(|e| NodeError::io("find a free port", e))?.port();
            sockets.push(socket);
            let (program, env) = (spec.program.clone(), Vec::new());
            nodes.push(Node { dir, wallet, program, env, namespace: None, port, child: None, client: None });
        }
        let data = genesis::open_data(&spec.data, &spec.params.model)?;
        let genesis = genesis::found("localnet", spec.seed, founders, &data, spec.params)?;
        let network_file = spec.dir.join("network.toml");
        genesis::write(&network_file, &genesis)?;
        Ok(Net { genesis, nodes, validators: spec.validators, network_file, data: spec.data })
    }

    fn address(&self, i: usize) -> String {
        let node = &self.nodes[i];
        let host = node.namespace.as_ref().map_or("127.0.0.1", |(_, host)| host);
        format!("/ip4/{host}/tcp/{}", node.port)
    }

    /// Starts (or restarts) a node; it joins through two other nodes and finds the rest itself.
    pub fn start(&mut self, i: usize) -> Result<(), NodeError> {
        self.start_with(i, &[])
    }

    /// The same, with more flags for `run`.
    pub fn start_with(&mut self, i: usize, flags: &[&str]) -> Result<(), NodeError> {
        let bootstrap = self.address(if i == 0 { 1 % self.nodes.len() } else { 0 });
        let second = self.address(if i <= 1 { 2 % self.nodes.len() } else { 1 });
        let dir = self.nodes[i].dir.clone();
        let log_path = dir.join("log");
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(|e| NodeError::file("open", &log_path, e))?;
        let _ = fs::remove_file(dir.join("rpc")); // of the process before
        let program = self.nodes[i].program.clone();
        let mut command = match &self.nodes[i].namespace {
            None => Command::new(&program),
            Some((name, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&program);
                command
            }
        };
        command.envs(self.nodes[i].env.iter().cloned());
        command.arg("--log").arg(std::env::var("AILO_LOG").unwrap_or_else(|_| NODE_LOG.into()));
        command.arg("run").arg("--network").arg(&self.network_file).arg("--data-dir").arg(&dir);
        command.arg("--listen").arg(self.address(i)).arg("--http").arg("127.0.0.1:0").arg("--stop-on-eof").arg("--cpu");
        if self.nodes.len() > 1 {
            command.arg("--bootstrap").arg(bootstrap).arg("--bootstrap").arg(second);
        }
        if i < self.validators as usize {
            command.arg("--validator");
        }
        for path in &self.data {
            command.arg("--data").arg(path);
        }
        command.args(flags).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().map_err(|e| NodeError::io(format!("start {}", program.display()), e))?;
        self.nodes[i].child = Some(child);
        self.nodes[i].client = None;
        Ok(())
    }

    /// Starts every node.
    pub fn start_all(&mut self) -> Result<(), NodeError> {
        (0..self.nodes.len()).try_for_each(|i| self.start(i))
    }

    /// kill -9.
    pub async fn kill(&mut self, i: usize) -> Result<(), NodeError> {
        if let Some(mut child) = self.nodes[i].child.take() {
            child.kill().await.map_err(|e| NodeError::io("kill a node", e))?;
        }
        self.nodes[i].client = None;
        Ok(())
    }

    /// Ends every node: closes its pipe, waits, and kills what is left after five seconds.
    pub async fn stop_all(&mut self) -> Result<(), NodeError> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                drop(child.stdin.take());
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        for (i, node) in self.nodes.iter_mut().enumerate() {
            let Some(mut child) = node.child.take() else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, child.wait()).await.is_err() {
                tracing::warn!(node = i, "a node did not stop within five seconds and is killed");
                child.kill().await.map_err(|e| NodeError::io("kill a node", e))?;
            }
        }
        Ok(())
    }

    /// The process id of a node that runs.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.nodes[i].child.as_ref().and_then(Child::id)
    }

    /// Whether a node's process should be running.
    pub fn is_up(&self, i: usize) -> bool {
        self.nodes[i].child.is_some()
    }

    /// A node that stopped by itself, with the end of its log.
    pub fn fallen(&mut self) -> Option<String> {
        self.nodes.iter_mut().enumerate().find_map(|(i, node)| {
            let exited = node.child.as_mut()?.try_wait().ok()??;
            Some(format!("node {i} stopped by itself ({exited}); its log ends with:\n{}", tail(&node.dir.join("log"))))
        })
    }

    /// JSON-RPC of a node, once it serves it.
    pub fn client(&mut self, i: usize) -> Option<Client> {
        let node = &mut self.nodes[i];
        node.child.as_ref()?;
        if node.client.is_none() {
            let url = fs::read_to_string(node.dir.join("rpc")).ok()?;
            node.client = Client::new(url.trim()).ok();
        }
        node.client.clone()
    }

    /// What a node says of itself, if it answers.
    pub async fn status(&mut self, i: usize) -> Option<At<Status>> {
        self.client(i)?.status().await.ok()
    }

    /// What all nodes say of themselves.
    pub async fn statuses(&mut self) -> Vec<Option<At<Status>>> {
        let clients: Vec<_> = (0..self.nodes.len()).map(|i| self.client(i)).collect();
        futures::future::join_all(clients.into_iter().map(|client| async move { client?.status().await.ok() })).await
    }

    /// Polls until `condition` holds for the nodes' statuses; `what` names it in the error.
    pub async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&[Option<At<Status>>]) -> bool,
    ) -> Result<Vec<Option<At<Status>>>, NodeError> {
        let deadline = Instant::now() + limit;
        loop {
            let statuses = self.statuses().await;
            if condition(&statuses) {
                return Ok(statuses);
            }
            if let Some(fallen) = self.fallen() {
                return Err(NodeError::Check(fallen));
            }
            if Instant::now() > deadline {
                return Err(NodeError::Check(format!("{what}: not so within {} s", limit.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A free port, held by the socket. The kernel gives no such port to connections that go out, so none of those takes it
/// between this socket's end and the start of the node.
fn free_port() -> std::io::Result<TcpListener> {
    let [low, high, ..] = keys::random_bytes();
    let first = u16::from_le_bytes([low, high]) % PORTS;
    let bind = |i: u16| TcpListener::bind(("127.0.0.1", FIRST_PORT + (first + i) % PORTS));
    (1..PORTS).find_map(|i| bind(i).ok()).map_or_else(|| bind(0), Ok)
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

//! Nodes behind routers that translate addresses, in network namespaces: they know it, and still work together.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use ailo_node::rpc::types::*;
use ailo_protocol::NodeId;
use common::{Node, ailo};
use rustix::{
    process::geteuid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::json;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Blocks at a person's pace, and no training.
const PARAMS: [&str; 3] = ["ledger.idle_block_ms=300", "round.rounds=1", "training.inner_steps=1"];

/// The small internet that `scripts/nat-net` makes; it ends with its input.
struct Internet {
    name: String,
    script: Child,
}

impl Internet {
    /// None where the machine can't have one.
    fn start() -> Option<Internet> {
        let there = |tool: &str| Command::new(tool).arg("-V").output().is_ok_and(|output| output.status.success());
        if !geteuid().is_root() || !there("ip") || !there("nft") {
            return None;
        }
        let name = format!("nat{}", std::process::id());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/nat-net");
        let mut command = Command::new(script);
        let mut script = command.arg(&name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "up\n", "scripts/nat-net says why above");
        Some(Internet { name, script })
    }

    /// Does something on one of its machines; what is started there stays there.
    fn at<T: Send>(&self, machine: &str, act: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}-{machine}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

struct Machine<'a> {
    net: &'a Internet,
    name: &'static str,
    node: Option<Node>,
    id: NodeId,
}

impl<'a> Machine<'a> {
    fn start(net: &'a Internet, name: &'static str, network: &str, dir: &Path, more: &[&str]) -> Machine<'a> {
        let listen = ["--listen", "/ip4/0.0.0.0/tcp/8646", "--inference-only", "--upnp=false"];
        let node = net.at(name, || Node::start(network, &dir.join(name), &[&listen[..], more].concat()));
        let id = net.at(name, || node.status().value.node);
        Machine { net, name, node: Some(node), id }
    }

    fn ask<T: Send>(&self, ask: impl FnOnce(&Node) -> T + Send) -> T {
        self.net.at(self.name, || ask(self.node.as_ref().unwrap()))
    }

    fn wait(&self, what: &str, condition: impl Fn(&At<Status>) -> bool + Send) -> At<Status> {
        self.ask(|node| node.wait(&format!("{}: {what}", self.name), 30, condition))
    }

    /// The way that its connection with another one takes.
    fn way(&self, to: &Machine<'_>) -> Option<String> {
        let peers: PeersView = serde_json::from_value(self.ask(|node| node.result("ailo_peers", json!({})))).unwrap();
        peers.peers.into_iter().find(|peer| peer.node == to.id).map(|peer| peer.address)
    }

    fn wait_for_way(&self, what: &str, to: &Machine<'_>, right: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let way = self.way(to);
            if let Some(way) = way.as_ref().filter(|way| right(way)) {
                return way.clone();
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{} to {}: no {what}: {way:?}", self.name, to.name);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn nodes_behind_nats_say_so_and_work_together_directly_or_through_a_relay() {
    let Some(net) = Internet::start() else {
        println!("SKIPPED: this needs root, ip (iproute2) and nft (nftables)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let founder = |name: &str, role: &str| {
        let said = String::from_utf8(ailo(&["keys", "--data-dir", &path(name)]).stdout).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("founder")).unwrap().trim();
        format!("{}{role}", line.trim_end_matches(",validator"))
    };
    // The two that decide blocks, and so need each other, are those behind routers.
    let founders = [founder("a", ",validator"), founder("b", ",validator"), founder("c", ""), founder("public", "")];
    let network = path("net.toml");
    let genesis = ["genesis", "--out", &network, "--params", "dev"].map(str::to_string).into_iter();
    let founders = founders.iter().flat_map(|founder| ["--founder".to_string(), founder.clone()]);
    let set = PARAMS.iter().flat_map(|change| ["--set".to_string(), change.to_string()]);
    let genesis: Vec<String> = genesis.chain(founders).chain(set).collect();
    let made = ailo(&genesis.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let start = |name, more: &[&str]| Machine::start(&net, name, &network, dir.path(), more);
    let bootstrap = ["--bootstrap", "/ip4/5.0.0.10/tcp/8646"];
    let mut public = start("public", &[]);
    let (a, b, c) = (start("a", &bootstrap), start("b", &bootstrap), start("c", &bootstrap));

    let seen = public.wait("it is reached", |s| s.value.reachability.state == "public");
    assert_eq!(seen.value.reachability.address.as_deref(), Some("/ip4/5.0.0.10/tcp/8646"));
    for machine in [&a, &b, &c] {
        let seen = machine.wait("it is behind a NAT, and has a relay", |s| s.value.reachability.relay.is_some());
        let reach = seen.value.reachability;
        assert_eq!((reach.state.as_str(), reach.relay), ("nat", Some(public.id)), "{}", machine.name);
        assert!(reach.note.contains("forward its port"), "{}", reach.note);
        let said = machine.net.at(machine.name, || ailo(&["status", "--data-dir", &path(machine.name)]));
        assert!(String::from_utf8_lossy(&said.stdout).contains("behind a NAT or firewall"), "{said:?}");
        assert!(seen.value.listen[0].contains("/p2p-circuit/"), "others are told the way: {:?}", seen.value.listen);
    }

    // Two routers that keep ports are passed by both sides dialling at once; one that does not leaves the relay.
    let direct = a.wait_for_way("direct connection", &b, |way| !way.contains("p2p-circuit"));
    assert!(direct.contains("/5.0.0.2/"), "{direct}");
    let relayed = c.wait_for_way("connection", &a, |_| true);
    println!("a and b: {direct}; c and a: {relayed}");
    assert!(relayed.contains("/5.0.0.10/") && relayed.contains("p2p-circuit"), "{relayed}");

    // Blocks of the one are decided with the votes of the other, and without the machine that brought them together.
    let height = a.ask(Node::status).height;
    b.wait("blocks of both", |s| s.height > height + 3);
    public.node = None;
    let height = a.ask(Node::status).height;
    a.wait("blocks between the two alone", |s| s.height > height + 3);
    b.wait("blocks between the two alone", |s| s.height > height + 3);
}

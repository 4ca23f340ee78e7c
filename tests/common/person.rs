//! A person with a wallet, who uses it from the command line.

use ailo_node::localnet::net::{Net, Node};
use ailo_protocol::{Address, Amount, Hash, NodeId, keystore};
use std::{
    io::Write,
    path::PathBuf,
    process::{Output, Stdio},
};

/// A wallet and how its owner uses it.
pub struct Person {
    pub address: Address,
    pub file: PathBuf,
    /// The folder of the node that works for it.
    pub folder: PathBuf,
    /// The node that is asked.
    pub rpc: String,
}

impl Person {
    /// The wallets of a network's nodes, all of which ask the node `asked`.
    pub fn all(net: &Net, asked: usize) -> Vec<Person> {
        let rpc = std::fs::read_to_string(net.nodes[asked].dir.join("rpc")).unwrap().trim().to_string();
        let person = |node: &Node| Person {
            address: Address::from(node.wallet.public()),
            file: node.dir.join("wallet.json"),
            folder: node.dir.clone(),
            rpc: rpc.clone(),
        };
        net.nodes.iter().map(person).collect()
    }

    pub fn run(&self, args: &[&str], typed: &str) -> Output {
        let mut command = super::program();
        command.args(args).arg("--rpc").arg(&self.rpc).arg("--data-dir").arg(&self.folder);
        command.arg("--wallet-file").arg(&self.file).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What a command says that succeeds.
    pub fn says(&self, args: &[&str]) -> String {
        self.says_to(args, "")
    }

    /// The same, with something typed.
    pub fn says_to(&self, args: &[&str], typed: &str) -> String {
        let output = self.run(args, typed);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The command is refused with this code, or these words.
    pub fn is_refused(&self, args: &[&str], typed: &str, why: &str) {
        let output = self.run(args, typed);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?} is not refused: {}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains(why) && said.matches("error:").count() == 1, "{args:?} must say {why}, not: {said}");
    }
}

/// Whether a text has all of these in it.
pub fn assert_says(said: &str, all: &[&str]) {
    all.iter().for_each(|words| assert!(said.contains(words), "{words:?} is missing in: {said}"));
}

/// The transaction that a command tells of.
pub fn id(said: &str) -> Hash {
    let line = said.lines().find_map(|line| line.strip_prefix("transaction ")).unwrap_or_else(|| panic!("{said}"));
    line.split(',').next().unwrap().parse().unwrap()
}

/// The lines of 24 words in what a command says.
pub fn words(said: &str) -> Vec<String> {
    said.lines().filter(|line| line.split_whitespace().count() == 24).map(str::to_string).collect()
}

/// ALC with two decimals.
pub fn alc(hundredths: u64) -> Amount {
    Amount(hundredths * 1_000_000)
}

pub fn node_of(person: &Person) -> NodeId {
    *keystore::load(&person.folder.join("node.json"), keystore::Kind::Node).unwrap().public()
}

//! What can go wrong in the node and its commands: each message says in one sentence what to do, and each kind of failure has an
//! exit code.

use ailo_protocol::Hash;
use std::{io, path::Path};

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The operator asked for something that cannot be: flags, config, files named wrongly.
    #[error("{0}")]
    Usage(String),
    /// Reading or writing failed.
    #[error("cannot {what}: {source}{hint}", hint = hint(source))]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The network's founding document is unusable.
    #[error("the network file {path} cannot be used: {why}")]
    Network {
        /// File.
        path: String,
        /// Reason.
        why: String,
    },
    /// The ledger's files.
    #[error("{0}")]
    Store(#[from] ailo_ledger::store::StoreError),
    /// Agreement with the other validators.
    #[error("{0}")]
    Consensus(#[from] ailo_ledger::consensus::HostError),
    /// The node's part in the ledger.
    #[error("{0}")]
    Ledger(#[from] ailo_ledger::participant::ParticipantError),
    /// The swarm.
    #[error("{0}")]
    Net(#[from] ailo_protocol::net::NetError),
    /// Model and data.
    #[error("{0}")]
    Training(#[from] ailo_training::TrainingError),
    /// Key files.
    #[error("{0}")]
    Keystore(#[from] ailo_protocol::keystore::KeystoreError),
    /// A node did not answer, or answered with an error.
    #[error("{0}")]
    Rpc(String),
    /// The ledger, or a node's waiting room, refused a transaction; docs/ledger.md lists the codes.
    #[error("{message} ({code})")]
    Refused {
        /// Stable code.
        code: String,
        /// What to do.
        message: String,
    },
    /// A transaction was handed in, and nobody says that it is in a block.
    #[error(
        "transaction {id} was sent, and {why}: it may still enter a block, so do not send the same again; `ailo-node wallet history` \
         and `ailo-node verify transaction {id}` show it then"
    )]
    Sent {
        /// Its id.
        id: Hash,
        /// What is not known.
        why: String,
    },
    /// A check that a command makes did not hold.
    #[error("{0}")]
    Check(String),
}

impl NodeError {
    /// An I/O error with what was tried.
    pub fn io(what: impl Into<String>, source: io::Error) -> NodeError {
        NodeError::Io { what: what.into(), source }
    }

    /// An I/O error on a file.
    pub fn file(verb: &str, path: &Path, source: io::Error) -> NodeError {
        NodeError::io(format!("{verb} {}", path.display()), source)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Exit {
        match self {
            NodeError::Usage(_) | NodeError::Network { .. } => Exit::Usage,
            NodeError::Rpc(_) | NodeError::Net(_) => Exit::Unreachable,
            NodeError::Check(_) => Exit::Check,
            NodeError::Refused { .. } => Exit::Refused,
            NodeError::Sent { .. } => Exit::Sent,
            NodeError::Io { .. } | NodeError::Store(_) => Exit::Files,
            NodeError::Keystore(_) => Exit::Keys,
            NodeError::Consensus(_) | NodeError::Ledger(_) | NodeError::Training(_) => Exit::Failure,
        }
    }
}

/// Kinds of failure, each with an exit code that scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What no other kind names.
    Failure = 1,
    /// Wrong flags, configuration or input.
    Usage = 2,
    /// A node or a network that can't be reached.
    Unreachable = 3,
    /// A check that did not hold.
    Check = 4,
    /// A transaction that is refused.
    Refused = 5,
    /// Files and disks.
    Files = 6,
    /// Keys, words and passphrases.
    Keys = 7,
    /// A transaction that was sent, and may or may not enter a block.
    Sent = 8,
}

impl Exit {
    /// All of them.
    pub const ALL: [Exit; 8] = [
        Exit::Failure,
        Exit::Usage,
        Exit::Unreachable,
        Exit::Check,
        Exit::Refused,
        Exit::Files,
        Exit::Keys,
        Exit::Sent,
    ];

    /// The code that the program ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it is called in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Exit::Failure => "failure",
            Exit::Usage => "usage",
            Exit::Unreachable => "unreachable",
            Exit::Check => "check",
            Exit::Refused => "refused",
            Exit::Files => "files",
            Exit::Keys => "keys",
            Exit::Sent => "sent",
        }
    }

    /// What it means, for the help.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Failure => "something else failed: training, the ledger",
            Exit::Usage => "a flag, a file of settings or an input is wrong",
            Exit::Unreachable => "a node or the network can't be reached, or answered with an error",
            Exit::Check => "a check that the command makes did not hold",
            Exit::Refused => "the ledger refused a transaction (docs/ledger.md lists the reasons)",
            Exit::Files => "a file or a disk can't be read or written",
            Exit::Keys => "a key file, its passphrase or its words are wrong",
            Exit::Sent => {
                "a transaction was sent, and may still enter a block: look before you send it again (`id` in JSON)"
            }
        }
    }

    /// The part of `--help` that lists them.
    pub fn help() -> String {
        let lines = Exit::ALL.iter().map(|exit| format!("\n  {}  {:<12} {}", exit.code(), exit.name(), exit.meaning()));
        format!("Exit codes:\n  0  done{}", lines.collect::<String>())
    }
}

fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => ": free some space, or choose another folder with --data-dir",
        io::ErrorKind::PermissionDenied => ": check who owns it, or choose another folder with --data-dir",
        io::ErrorKind::ReadOnlyFilesystem => ": choose a writable folder with --data-dir",
        _ => "",
    }
}

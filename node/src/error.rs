//! What can go wrong in the node and its commands: each message says in one sentence what to do.

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

    /// Exit code by kind of failure: 2 usage, 3 a node or network could not be reached, 4 a check failed, 1 the rest
    /// (what the ledger refused among it).
    pub fn exit_code(&self) -> u8 {
        match self {
            NodeError::Usage(_) | NodeError::Network { .. } => 2,
            NodeError::Rpc(_) | NodeError::Net(_) => 3,
            NodeError::Check(_) => 4,
            _ => 1,
        }
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

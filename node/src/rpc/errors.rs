//! The errors of all methods: one list of codes that do not change between versions, from which the server, the OpenRPC document and
//! `docs/rpc.md` are made. Each error carries its name as `data.code`; what the ledger refuses carries the ledger's own
//! (`docs/ledger.md` lists those).

use crate::service::chain::{SubmitError, Unreadable};
use ailo_ledger::mempool::AdmissionError;
use jsonrpsee::types::ErrorObjectOwned;
use serde::{Deserialize, Serialize};

/// Why a method gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The parameters are not what the method takes.
    InvalidParams,
    /// There is no such thing here.
    NotFound,
    /// The ledger, or the node's waiting room, refuses a transaction.
    Refused,
    /// The node can't do this right now.
    Unavailable,
    /// For the operator alone.
    Unauthorized,
    /// A transaction's bytes are none.
    Malformed,
    /// There, but not as far as was asked for.
    NotYet,
}

impl Code {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Code; 7] = [
        Code::InvalidParams,
        Code::NotFound,
        Code::Refused,
        Code::Unavailable,
        Code::Unauthorized,
        Code::Malformed,
        Code::NotYet,
    ];

    /// Its number, its name, and what it means.
    const fn entry(self) -> (i32, &'static str, &'static str) {
        match self {
            Code::InvalidParams => (-32602, "INVALID_PARAMS", "the parameters are not what the method takes"),
            Code::NotFound => (-32001, "NOT_FOUND", "there is no such thing here: it never was, or is kept no more"),
            Code::Refused => (
                -32002,
                "REFUSED",
                "the ledger or the mempool refuses the transaction; `data.code` is the ledger's code",
            ),
            Code::Unavailable => (-32003, "UNAVAILABLE", "the node can't do this right now: try again"),
            Code::Unauthorized => (-32004, "UNAUTHORIZED", "the method is the operator's, and needs the token"),
            Code::Malformed => (-32012, "MALFORMED", "the bytes are not the canonical encoding of a transaction"),
            Code::NotYet => (-32013, "NOT_YET", "the transaction stands below `minStatus`: ask again"),
        }
    }

    /// JSON-RPC's number for it.
    pub const fn number(self) -> i32 {
        self.entry().0
    }

    /// What programs know it by.
    pub const fn name(self) -> &'static str {
        self.entry().1
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        self.entry().2
    }

    /// The error with a sentence for whoever asked.
    pub fn says(self, why: impl Into<String>) -> Failure {
        Failure { number: self.number(), name: self.name(), why: why.into() }
    }
}

/// Errors of the server itself, before any method is found: their numbers and what they mean. They have no `data.code`.
pub const SERVER: [(i32, &str); 10] = [
    (-32700, "the request is no JSON"),
    (-32600, "the request is not JSON-RPC"),
    (-32601, "there is no such method"),
    (-32603, "the server failed"),
    (-32005, "a batch came over WebSocket: send its requests one by one"),
    (-32006, "the connection has too many subscriptions"),
    (-32007, "the request is too long"),
    (-32008, "the answer is too long"),
    (-32010, "the batch has too many requests"),
    (-32011, "the answers to the batch are too long together"),
];

/// An error of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    number: i32,
    name: &'static str,
    /// The sentence.
    pub why: String,
}

impl Failure {
    /// Whether it is this error.
    pub fn is(&self, code: Code) -> bool {
        self.name == code.name()
    }
}

/// What each error carries as its data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorData {
    /// The error's name.
    pub code: String,
}

/// What is wrong with parameters.
pub fn invalid(why: impl Into<String>) -> Failure {
    Code::InvalidParams.says(why)
}

impl From<SubmitError> for Failure {
    fn from(e: SubmitError) -> Failure {
        match &e {
            SubmitError::Refused(reason) => refused(reason),
            SubmitError::Busy | SubmitError::Stopped => Code::Unavailable.says(e.to_string()),
        }
    }
}

impl From<Unreadable> for Failure {
    fn from(e: Unreadable) -> Failure {
        Code::Unavailable.says(e.to_string())
    }
}

/// Why the ledger's waiting room refuses a transaction.
pub(super) fn refused(reason: &AdmissionError) -> Failure {
    Failure { number: Code::Refused.number(), name: reason.code(), why: reason.to_string() }
}

impl From<Failure> for ErrorObjectOwned {
    fn from(Failure { number, name, why }: Failure) -> ErrorObjectOwned {
        ErrorObjectOwned::owned(number, why, Some(ErrorData { code: name.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_one_errors_each() {
        let numbers: BTreeSet<i32> =
            Code::ALL.iter().map(|code| code.number()).chain(SERVER.iter().map(|(number, _)| *number)).collect();
        assert_eq!(numbers.len(), Code::ALL.len() + SERVER.len());
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn what_the_ledger_refuses_keeps_the_ledgers_name() {
        let error = ErrorObjectOwned::from(Failure::from(SubmitError::Refused(AdmissionError::Full)));
        let data: ErrorData = serde_json::from_str(error.data().unwrap().get()).unwrap();
        assert_eq!((error.code(), data.code.as_str()), (Code::Refused.number(), "MEMPOOL_FULL"));
    }
}

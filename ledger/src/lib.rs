//! The replicated ledger: transactions and blocks, the deterministic state machine that executes them, the log that
//! keeps them, the mempool, and the consensus host that orders them. Knows nothing of libtorch and nothing of sockets.
pub mod block;
pub mod consensus;
pub mod disk;
pub mod framelog;
pub mod invariants;
pub mod light;
pub mod lots;
pub mod mempool;
pub mod participant;
pub mod plants;
pub mod simulation;
pub mod state;
pub mod store;
pub mod transaction;
mod verified;
mod witness;

pub use block::{Block, Certificate, Header};
pub use transaction::{Body, Transaction};

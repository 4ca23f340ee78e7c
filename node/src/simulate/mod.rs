//! `simulate`: the ledger's simulation, and training under attack.

pub mod ledger;
mod roc;
pub mod training;

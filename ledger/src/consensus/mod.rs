//! Agreement on the next block: Tendermint, as Malachite's core implements it, behind a host without sockets, clocks
//! or threads.
//!
//! One height: the proposer of round 0 waits for transactions (at most `idle_block_ms`), builds a block and sends it
//! with its proposal. Who has executed the block and found the header's roots prevotes its id; who sees two thirds of
//! the power prevote it, precommits; two thirds of precommits decide. A silent or invalid proposer costs a timeout, then
//! the next round's proposer has its turn at once. What more than a third has seen two thirds prevote stays locked, so
//! two blocks never decide one height.
//!
//! - [`Host`] is the whole participant: inputs in, [`Output`]s out.
//! - [`Message`] is what nodes send each other; [`codec`] has its bytes and what signatures cover.
//! - [`Persist`] is what must survive a crash.
//! - [`verify_certificate`] is all that a follower, a light client or block sync needs.

mod ahead;
mod certificate;
pub mod codec;
mod context;
mod effects;
mod host;
mod persist;
#[cfg(test)]
pub(crate) mod tests;

pub use certificate::{BadCertificate, verify_certificate};
pub use codec::{Ballot, Message, Step};
pub use host::{Decision, Host, HostError, Input, Output, TimeoutId, TimeoutKind, Verdict};
pub use persist::{Persist, Recovered, SignError};

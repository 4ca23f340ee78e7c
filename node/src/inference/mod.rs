//! Inference: models that are served, what computes, sessions, and the API that clients speak. `docs/inference.md` is the
//! specification; the cores of stages and sessions are in `ailo_protocol::inference`, without sockets and tensors.
//!
//! A request's way: [`api`] reads it, [`session`] drives the client's core, frames go through the [`hub`] to a [`worker`], which
//! computes, and tokens come back the same way.

pub mod api;
pub mod audit;
pub mod card;
pub mod chat;
pub mod check;
pub mod court;
pub mod draft;
pub mod host;
pub mod hub;
pub mod links;
pub mod model;
pub mod payment;
pub mod run;
pub mod serve;
pub mod session;
pub mod speed;
#[cfg(test)]
mod tests;
pub mod worker;

//! The node as a library: what `ailo-node` is made of, so that tests and tools can found and watch networks of real
//! processes. The program itself is `main.rs`; its commands are in [`commands`], the running node in [`service`].

pub mod aggregate;
pub mod backup;
pub mod chart;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod connections;
pub mod datadir;
pub mod doctor;
pub mod earned;
pub mod error;
pub mod genesis;
pub mod holders;
pub mod inference;
pub mod localnet;
pub mod logs;
pub mod machine;
pub mod metrics;
pub mod operator;
pub mod output;
pub mod progress;
pub mod replay;
pub mod round;
pub mod rpc;
pub mod secrets;
pub mod sensors;
pub mod series;
pub mod service;
pub mod simulate;
pub mod tx;
pub mod verify;
pub mod web;

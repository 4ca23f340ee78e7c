//! What a network owes its users, as functions whose names are the claims.

use super::net::Net;
use crate::{client::json, error::NodeError, output::say, rpc::types::*};
use ailo_ledger::invariants::{self, Invariant};
use ailo_protocol::Hash;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What was seen of the nodes while they ran.
pub struct Observed {
    started: Instant,
    /// Rounds closed -> node -> root of the state that the node itself held then.
    roots: BTreeMap<u64, BTreeMap<usize, Hash>>,
    /// Rounds closed -> the held-out loss voted for.
    losses: BTreeMap<u64, f64>,
}

impl Observed {
    /// Nothing seen yet.
    pub fn new(started: Instant) -> Observed {
        Observed { started, roots: BTreeMap::new(), losses: BTreeMap::new() }
    }

    /// Takes in one look at every node.
    pub fn record(&mut self, statuses: &[Option<At<Status>>]) {
        for (i, status) in statuses.iter().enumerate() {
            let Some(model) = status.as_ref().map(|s| &s.value.model) else { continue };
            if let (Some(rounds), Some(root)) = (model.local_rounds, model.local_root) {
                self.roots.entry(rounds).or_default().insert(i, root);
            }
            if let (Some(loss), true) = (model.held_out_loss, model.rounds > 0)
                && self.losses.insert(model.rounds, loss).is_none()
            {
                tracing::info!(rounds = model.rounds, loss, seconds = self.started.elapsed().as_secs(), "round closed");
            }
        }
    }

    /// Root of the last state seen.
    pub fn final_root(&self) -> Option<Hash> {
        self.roots.last_key_value().and_then(|(_, nodes)| nodes.values().next().copied())
    }

    /// Held-out loss by rounds closed; `initial` is the loss before the first.
    pub fn loss_curve(&self, initial: f64) -> Vec<(f64, f64)> {
        std::iter::once((0.0, initial)).chain(self.losses.iter().map(|(r, l)| (*r as f64, *l))).collect()
    }
}

fn claim(so: bool, text: &str, otherwise: impl FnOnce() -> String) -> Result<(), NodeError> {
    match so {
        true => holds(text.into()),
        false => Err(NodeError::Check(format!("does NOT hold: {text}: {}", otherwise()))),
    }
}

/// Says that a claim holds.
pub fn holds(text: String) -> Result<(), NodeError> {
    say(&serde_json::json!({ "holds": text }), format_args!("holds: {text}"))
}

/// Every node executed the same blocks to the same state.
pub async fn state_roots_are_equal_at_the_same_height(net: &mut Net) -> Result<(), NodeError> {
    let statuses = net.statuses().await;
    let height = statuses.iter().flatten().map(|s| s.height).min().unwrap_or(0);
    let mut seen = BTreeSet::new();
    for i in 0..net.nodes.len() {
        let client = net.client(i).ok_or_else(|| NodeError::Check(format!("node {i} does not answer")))?;
        let block: At<BlockView> = client.call("ailo_block", &[("height", json(&height))]).await?;
        seen.insert((block.value.hash, block.value.header.state_root));
    }
    let (first, root) = seen.first().copied().unwrap_or_default();
    let agree = seen.iter().try_for_each(|(block, other)| {
        invariants::one_block(height, &first, block).and_then(|()| invariants::same_state(height, &root, other))
    });
    let text = format!("all {} state roots are equal at height {height}", net.nodes.len());
    claim(agree.is_ok(), &text, || agree.err().map(|e| e.to_string()).unwrap_or_default())
}

/// Every node computed the same model, bit for bit, in every round that it took part in.
pub fn model_roots_are_equal_at_the_same_round(observed: &Observed, nodes: u32, rounds: u64) -> Result<(), NodeError> {
    for (round, roots) in &observed.roots {
        let different: BTreeSet<_> = roots.values().collect();
        if different.len() > 1 {
            return claim(false, "model roots are equal at the same round", || {
                format!("{} at round {round}", different.len())
            });
        }
    }
    let at_end = observed.roots.get(&rounds).map_or(0, BTreeMap::len);
    let text = format!("all {nodes} model roots are equal at round {rounds}");
    claim(at_end == nodes as usize, &text, || format!("only {at_end} nodes hold that round's model"))
}

/// minted = free + pending + staked + unbonding + escrow + burned, recomputed by every node from all its entries.
pub async fn the_supply_law_holds(net: &mut Net) -> Result<(), NodeError> {
    let statuses = net.statuses().await;
    let broken: Vec<usize> =
        (0..statuses.len()).filter(|i| statuses[*i].as_ref().is_none_or(|s| !s.value.supply.law_holds)).collect();
    let minted = statuses.iter().flatten().map(|s| s.value.supply.minted).max().unwrap_or_default();
    claim(broken.is_empty(), &format!("the supply law holds ({minted} ALC minted)"), || {
        Invariant::SupplyLaw.broken(format!("at nodes {broken:?}")).to_string()
    })
}

/// The model learned something.
pub fn the_held_out_loss_fell(before: u64, after: u64) -> Result<(), NodeError> {
    claim(after < before, "the held-out loss fell", || format!("{before} -> {after} micro-nats"))
}

//! What a node serves: loads layers, starts the worker, and tells the network.

use super::{
    draft::Guess,
    hub::Hub,
    model::Model,
    worker::{Setup, Worker},
};
use crate::error::NodeError;
use ailo_proto::Serving;
use ailo_protocol::{
    Keypair, NodeId,
    inference::announce::{Announce, MAX_ADDRESSES},
    net,
};
use ailo_training::engine::{Engine, Part};
use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// How often a node says again what it serves.
const ANNOUNCE: Duration = Duration::from_secs(5);
/// How long a node listens to the others before it chooses its layers.
const LISTEN: Duration = Duration::from_secs(7);
/// Passes that measure a node's speed.
const PROBE: usize = 4;
/// Round trips in an announcement, at most.
const NEAR: usize = 32;

/// Which layers a node is to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// These; none serves nothing and only asks.
    Layers(Range<usize>),
    /// As many as fit into so many bytes, where the network has fewest.
    Bytes(u64),
}

/// What to serve.
pub struct Hosting {
    /// The model.
    pub model: Arc<Model>,
    /// Which part of it.
    pub share: Share,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes for sessions.
    pub memory: u64,
    /// How much less of a busy processor it gets, 0 to 19.
    pub niceness: i32,
    /// What follows is guessed by this.
    pub draft: Guess,
}

/// Loads and starts; gives what is to be announced, or none if nothing is served here.
///
/// # Errors
///
/// What loading the model says.
pub async fn host(hub: &Arc<Hub>, hosting: Hosting) -> Result<Option<Announce>, NodeError> {
    let Hosting { model, share, threads, memory, niceness, draft } = hosting;
    let total = model.shape.layers;
    let layers = match share {
        Share::Layers(layers) if layers.is_empty() => return Ok(None),
        Share::Layers(layers) => layers,
        Share::Bytes(bytes) => {
            let fit = ((bytes / model.layer_bytes().max(1)) as usize).min(total);
            if fit == 0 {
                let megabytes = model.layer_bytes() >> 20;
                return Err(NodeError::Usage(format!(
                    "no layer of the model fits into the memory: one takes {megabytes} MiB"
                )));
            }
            if fit == total {
                0..total
            } else {
                // Everybody else has said what it serves by then.
                tokio::time::sleep(LISTEN).await;
                let span = hub.known().weakest(&model.id, total as u32, fit as u32);
                span.start as usize..span.end as usize
            }
        }
    };
    let (serving, served) = (hub.clone(), model.clone());
    let span = layers.clone();
    let load = move || {
        let setup = Setup { model: served, layers: span, threads, memory, niceness, draft };
        let started = Worker::start(&setup, &serving)?;
        let speed = started.layer_us;
        serving.serve(started);
        Ok::<u32, NodeError>(speed)
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    let layer_us = loaded.map_err(|e| NodeError::io("load the model", std::io::Error::other(e)))??;
    let announce = Announce {
        node: *hub.node(),
        at_ms: 0,
        model: model.id,
        name: model.name.chars().take(50).collect(),
        first: layers.start as u32,
        end: layers.end as u32,
        total: total as u32,
        layer_us,
        room: memory,
        price: hub.price(),
        near: Vec::new(),
        addresses: Vec::new(),
    };
    hub.announce(announce.clone());
    Ok(Some(announce))
}

/// Tells the network what is served here, again and again.
pub async fn announce(
    hub: Arc<Hub>,
    net: net::Handle,
    key: Keypair,
    mut served: watch::Receiver<Option<Announce>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(ANNOUNCE);
    let mut peers = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = served.changed() => if changed.is_err() { return },
            // Who has just come should not wait.
            () = tokio::time::sleep(Duration::from_millis(500)), if net.peers().len() != peers => {}
            _ = stop.changed() => return,
        }
        peers = net.peers().len();
        let Some(mut announce) = served.borrow_and_update().clone().filter(|_| hub.computes()) else { continue };
        announce.price = hub.price();
        announce.addresses = net.listeners().iter().take(MAX_ADDRESSES).map(ToString::to_string).collect();
        announce.at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        announce.near = near(&net).into_iter().take(NEAR).collect();
        let canonical = announce.sign(hub.network(), &key).into();
        if let Err(e) = net.publish(Serving { canonical }).await {
            tracing::debug!(error = %e, "what is served here could not be said");
        }
    }
}

/// Round trips to peers, in microseconds.
pub fn near(net: &net::Handle) -> HashMap<NodeId, u32> {
    let known = |peer: net::PeerInfo| Some((peer.node, u32::try_from(peer.rtt?.as_micros()).ok()?));
    net.peers().into_iter().filter_map(known).collect()
}

/// How long a pass over all layers that are here takes for so many positions: the best of a few.
pub(super) fn pass(engine: &Engine, positions: usize) -> Duration {
    let row = vec![0.01; engine.shape().width * positions];
    let mut cache = engine.cache(positions * PROBE);
    let mut best = Duration::MAX;
    for _ in 0..PROBE {
        let started = Instant::now();
        if engine.forward(row.clone(), &mut [Part { cache: &mut cache, positions }]).is_ok() {
            best = best.min(started.elapsed());
        }
    }
    best
}

//! `ailo-node serve`: a checkpoint on this machine behind the API, with no network.

use super::{
    api::{
        Api, Bounds,
        access::{Access, Rules},
    },
    card,
    draft::Guess,
    host::{Hosting, Pauses, start},
    hub::Hub,
    model::Model,
};
use crate::{cli::ServeArgs, connections, error::NodeError, logs::otlp::Traces, output, progress};
use ailo_protocol::{Hash, Keypair};
use futures::future::OptionFuture;
use jsonrpsee::server::{ServerHandle, stop_channel};
use serde_json::json;
use std::{ops::Range, sync::Arc};
use tokio::sync::watch;

/// Serves until it is told to stop.
pub async fn command(args: ServeArgs) -> Result<(), NodeError> {
    let traces = args.otlp.clone().map(|collector| Traces::start(collector, &[])).transpose()?;
    let server = Server::start(&args, Bounds::default()).await?;
    let (model, api) = (&server.model.name, format!("http://{}/v1", server.address));
    let card = server.hub.card();
    let on = card.as_ref().map(|card| format!(" on {card}")).unwrap_or_default();
    output::say(
        &json!({ "model": model, "api": api, "card": card }),
        format_args!("{model} at {api}{on} (Ctrl-C ends)"),
    )?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| NodeError::io("listen for signals", e))?;
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal.map_err(|e| NodeError::io("listen for Ctrl-C", e))?,
        _ = terminate.recv() => {}
    }
    server.stop();
    OptionFuture::from(traces.map(Traces::stop)).await;
    Ok(())
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// What it serves.
    pub model: Arc<Model>,
    /// Who serves it.
    pub hub: Arc<Hub>,
    tasks: [tokio::task::JoinHandle<()>; 2],
    /// It ends without.
    _serves: ServerHandle,
}

impl Server {
    /// Loads the model and listens.
    pub async fn start(args: &ServeArgs, bounds: Bounds) -> Result<Server, NodeError> {
        let rules =
            Rules { keys: args.api_keys.clone(), required: args.require_api_key, hosts: args.allow_host.clone() };
        let access = Access::open(rules, args.http)?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let (folder, dtype, threads) = (args.model.clone(), args.dtype, args.threads.map_or(cores, |n| n as usize));
        let memory = args.memory << 20;
        let hub = Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None);
        let cpu = args.cpu;
        let open = move || {
            let model = Model::open(&folder, dtype, None, &mut progress::bytes("reading the model"))?;
            Ok::<_, NodeError>(model.on_card(if cpu { None } else { card::find() }))
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let model = Arc::new(opened.map_err(|e| NodeError::io("open the model", std::io::Error::other(e)))??);
        let draft = args.draft.clone().map_or_else(Guess::default, Guess::from);
        let layers = 0..model.shape.layers as u32;
        let hosting = Hosting { threads, memory, niceness: 0, draft };
        start(&hub, &model, layers.clone(), &hosting).await?;
        let goes_on = tokio::spawn(go_on(hub.clone(), model.clone(), layers, hosting));
        let busy = |e| NodeError::io(format!("serve on {}", args.http), e);
        let listener = connections::listen(args.http).map_err(busy)?;
        let address = listener.local_addr().map_err(busy)?;
        // It stays the model as long as the server runs: who sends is not needed.
        let api = Api::new(hub.clone(), (None, None), watch::channel(Some(model.clone())).1, bounds);
        let router = api.router(access, true);
        let (stop, serves) = stop_channel();
        let task = tokio::spawn(connections::serve(listener, router, stop));
        Ok(Server { address, model, hub, tasks: [task, goes_on], _serves: serves })
    }

    /// Ends everything that is under way.
    pub fn stop(&self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.hub.stop();
    }
}

/// Loads the layers again when what computes them has failed, at once and then after longer and longer pauses. A card that fails once does not compute
/// again, so the processor goes on.
async fn go_on(hub: Arc<Hub>, model: Arc<Model>, layers: Range<u32>, hosting: Hosting) {
    for failures in 0.. {
        hub.failed().await;
        if failures > 0 {
            tokio::time::sleep(Pauses::default().after(failures)).await;
        }
        if let Err(e) = start(&hub, &model, layers.clone(), &hosting).await {
            tracing::error!(error = %e, "the model is not served: it is tried again in a while");
        }
    }
}

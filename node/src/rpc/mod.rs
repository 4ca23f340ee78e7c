//! JSON-RPC over HTTP and WebSocket at `/rpc`, on axum. Methods take named parameters and answer with height and state root beside their
//! value. One table has them all ([`methods`]): the server, the OpenRPC document and `docs/rpc.md` are made from it. What they
//! answer ([`types`]) the pages show, too. Nothing here can spend: transactions come signed.

pub mod errors;
pub mod history;
pub mod holders;
pub mod ledger;
pub mod light;
pub mod methods;
pub mod node;
pub mod openrpc;
pub mod params;
pub mod rounds;
pub mod subscriptions;
pub mod types;

use crate::{
    error::NodeError,
    inference::{
        api::access::{Access, by_our_names},
        hub::Hub,
    },
    operator::Operator,
    sensors::Sensors,
    series::Series,
    service::{
        anchor::Anchor,
        chain::{Chain, Head},
        neighbours::Neighbours,
        rounds::Progress,
    },
};
use ailo_protocol::{Address, Genesis, NodeId, net};
use errors::{Code, Failure};
use jsonrpsee::server::{BatchRequestConfig, PingConfig, ServerBuilder, ServerConfig, ServerHandle, stop_channel};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use types::At;

/// Bounds of the server.
const MAX_CONNECTIONS: u32 = 512;
const MAX_REQUEST_BYTES: u32 = 1 << 20;
const MAX_RESPONSE_BYTES: u32 = 16 << 20;
const MAX_BATCH: u32 = 64;
const MAX_SUBSCRIPTIONS: u32 = 16;
/// Messages that wait for a reader, for each connection, at most.
const MAX_UNREAD: u32 = 64;

/// What the methods read.
pub struct Context {
    /// The network.
    pub genesis: Arc<Genesis>,
    /// This node.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Address,
    /// What its operator sets, and who that is.
    pub operator: Arc<Operator>,
    /// Whether it was asked to validate.
    pub validator: bool,
    /// The ledger.
    pub chain: Chain,
    /// What the trust in it rests on, where there are others to trust.
    pub anchor: Option<watch::Receiver<Anchor>>,
    /// Peers.
    pub net: net::Handle,
    /// Whom they are connected to.
    pub neighbours: watch::Receiver<Arc<Neighbours>>,
    /// Who serves what.
    pub hub: Arc<Hub>,
    /// What training does.
    pub progress: watch::Receiver<Progress>,
    /// Temperatures and power, where the machine tells.
    pub sensors: watch::Receiver<Arc<Sensors>>,
    /// What was seen over time.
    pub series: Arc<Series>,
    /// Whether the supply law holds.
    pub law: node::Law,
    /// The richest wallets.
    pub ranking: holders::Ranking,
}

/// What a method answers.
pub type Answer<T> = Result<At<T>, Failure>;

impl Context {
    fn at<T>(&self, head: &Head, value: T) -> At<T> {
        At { height: head.state.height(), state_root: head.state.root(), value }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Does what waits for the disk on a thread for such work.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let failed = |_| Code::Unavailable.says("the node could not look it up: try again; its log says more");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    handle: ServerHandle,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Binds and serves, with `more` routes beside its own, under the names that `access` knows.
    pub async fn start(
        address: SocketAddr,
        context: Arc<Context>,
        more: axum::Router,
        access: Arc<Access>,
    ) -> Result<Server, NodeError> {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => NodeError::Usage(format!(
                "the address {address} is in use: stop what serves there, or choose another with --http 127.0.0.1:PORT"
            )),
            _ => NodeError::io(format!("serve on {address}"), e),
        })?;
        let address = listener.local_addr().map_err(|e| NodeError::io(format!("serve on {address}"), e))?;
        let config = ServerConfig::builder()
            .max_connections(MAX_CONNECTIONS)
            .max_request_body_size(MAX_REQUEST_BYTES)
            .max_response_body_size(MAX_RESPONSE_BYTES)
            .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
            .set_message_buffer_capacity(MAX_UNREAD)
            .enable_ws_ping(PingConfig::new()) // who is gone without a word holds no place
            .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
            .build();
        let (stop, handle) = stop_channel();
        let operator = context.operator.clone();
        let module = methods::module(context).map_err(|e| NodeError::Rpc(format!("the table of methods: {e}")))?;
        let rpc = ServerBuilder::with_config(config).to_service_builder().build(module, stop.clone());
        let router = axum::Router::new()
            .route_service(
                "/rpc",
                tower::service_fn(move |mut request: axum::extract::Request| {
                    let mut rpc = rpc.clone();
                    if operator.admits(request.headers()) {
                        request.extensions_mut().insert(node::Admitted);
                    }
                    async move {
                        let response = tower::Service::call(&mut rpc, request).await;
                        // Only a broken connection makes jsonrpsee fail here; the connection is gone then.
                        Ok::<_, std::convert::Infallible>(
                            response.unwrap_or_else(|_| jsonrpsee::server::http::response::internal_error()),
                        )
                    }
                }),
            )
            .route("/health", axum::routing::get(|| async { "ok" }))
            .layer(axum::middleware::from_fn_with_state(access, by_our_names))
            .merge(more);
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.shutdown()).await;
            if let Err(e) = served {
                tracing::error!(error = %e, "the HTTP server ended");
            }
        });
        Ok(Server { address, handle, task })
    }

    /// Stops serving; connections that do not end by themselves are dropped.
    pub async fn stop(self) {
        let _ = self.handle.stop(); // already stopped is stopped
        if tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await.is_err() {
            tracing::debug!("some HTTP connections were cut");
        }
    }
}

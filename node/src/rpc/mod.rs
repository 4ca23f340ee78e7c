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
pub mod recent;
pub mod rounds;
pub mod subscriptions;
mod traced;
pub mod types;

use crate::{
    connections::{self, MAX_CONNECTIONS},
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
use jsonrpsee::server::{
    BatchRequestConfig, Methods, PingConfig, ServerBuilder, ServerConfig, ServerHandle,
    middleware::rpc::RpcServiceBuilder, stop_channel, ws::is_upgrade_request,
};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    runtime::{self, Runtime},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use traced::Traced;
use types::At;

/// Bounds of the server.
const MAX_REQUEST_BYTES: u32 = 1 << 20;
const MAX_RESPONSE_BYTES: u32 = 16 << 20;
const MAX_BATCH: u32 = 64;
const MAX_SUBSCRIPTIONS: u32 = 16;
/// Messages that wait for a reader, for each connection, at most.
const MAX_UNREAD: u32 = 8;
/// Requests that read at a time, and those that wait for a turn at most.
const READING: usize = 4;
const WAITING: usize = 256;
/// Bytes of blocks that are read for one answer, about: a page of long blocks ends there, and the next goes on.
const MAX_READ_BYTES: usize = 4 << 20;

/// What the methods read.
pub struct Context {
    /// The network.
    pub genesis: Arc<Genesis>,
    /// Values in all parameters of its model.
    pub parameters: u64,
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
    /// What these say of themselves.
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
    /// The newest transactions.
    pub recent: recent::Recent,
    /// Whose turn it is to read.
    pub turns: Turns,
}

/// Turns of those who wait for the disk or compute a while, pages as well as JSON-RPC, so that many requests are no more work at a time than a few.
pub struct Turns {
    turns: Arc<Semaphore>,
    /// Those who have a turn, and those who wait for one.
    places: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { turns: Arc::new(Semaphore::new(READING)), places: Arc::new(Semaphore::new(READING + WAITING)) }
    }
}

impl Turns {
    /// Does what was asked for when its turn comes, unless too many wait.
    pub async fn ask<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let busy = |_| Code::Unavailable.says("too many requests wait for the node's store: try again in a moment");
        let place = self.places.clone().try_acquire_owned().map_err(busy)?;
        let work = move || {
            let _place = place;
            work()
        };
        self.take(work).await
    }

    /// As if so many waited as may, until what it gives is dropped.
    #[cfg(test)]
    pub fn fill(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.places.clone().try_acquire_many_owned(count(READING + WAITING)).unwrap()
    }

    /// Does the work when its turn comes, on a thread for such work; who goes away meanwhile keeps its turn until it is done.
    async fn take<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let failed = || Code::Unavailable.says("the node could not look it up: try again; its log says more");
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| failed())?;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| failed())
    }
}

/// What a method answers.
pub type Answer<T> = Result<At<T>, Failure>;

impl Context {
    fn at<T>(&self, head: &Head, value: T) -> At<T> {
        At { height: head.state.height(), state_root: head.state.root(), value }
    }

    /// Answers a request out of the store when its turn comes, unless too many wait.
    async fn read<T: Send + 'static>(
        self: &Arc<Context>,
        work: impl FnOnce(&Context) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let context = self.clone();
        self.turns.ask(move || work(&context)).await
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    handle: ServerHandle,
    task: JoinHandle<()>,
    _threads: Threads,
}

/// Threads that serve, and do nothing else: a question does not wait behind gossip and votes, nor they behind many questions.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> io::Result<(Threads, runtime::Handle)> {
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(2).thread_name("http").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok((Threads(Some(runtime)), handle))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background(); // a task may not wait for threads
        }
    }
}

impl Server {
    /// Binds and serves, with `more` routes beside its own, under the names that `access` knows.
    pub async fn start(
        address: SocketAddr,
        context: Arc<Context>,
        more: axum::Router,
        access: Arc<Access>,
    ) -> Result<Server, NodeError> {
        let (threads, on_them) = Threads::start().map_err(|e| NodeError::io("start the threads that serve", e))?;
        let listener = {
            let _within = on_them.enter();
            connections::listen(address)
        };
        let listener = listener.map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => NodeError::Usage(format!(
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
            .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH));
        let (stop, handle) = stop_channel();
        let operator = context.operator.clone();
        let module = methods::module(context).map_err(|e| NodeError::Rpc(format!("the table of methods: {e}")))?;
        let methods = Methods::from(module);
        let builder = |config: ServerConfig| {
            let calls = RpcServiceBuilder::new().layer_fn(Traced);
            ServerBuilder::with_config(config).to_service_builder().set_rpc_middleware(calls)
        };
        let http = builder(config.clone().http_only().build()).build(methods.clone(), stop.clone());
        // Of a WebSocket's calls each is counted until it is sent, which a batch would hide.
        let alone = config.ws_only().set_batch_request_config(BatchRequestConfig::Disabled).build();
        let sockets = builder(alone).build(methods, stop.clone());
        let router = axum::Router::new()
            .route_service(
                "/rpc",
                tower::service_fn(move |mut request: axum::extract::Request| {
                    let mut rpc = if is_upgrade_request(&request) { sockets.clone() } else { http.clone() };
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
        let task = on_them.spawn(connections::serve(listener, router, stop));
        Ok(Server { address, handle, task, _threads: threads })
    }

    /// Stops serving; connections that do not end by themselves are dropped.
    pub async fn stop(self) {
        let _ = self.handle.stop(); // already stopped is stopped
        if tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await.is_err() {
            tracing::debug!("some HTTP connections were cut");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        time::Duration,
    };

    #[tokio::test]
    async fn few_read_at_a_time_a_bounded_number_waits_and_others_are_told_so() {
        let (turns, go) = (Turns::default(), Arc::new(AtomicBool::new(false)));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (go, now, most) = (go.clone(), now.clone(), most.clone());
            move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                while !go.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let mut all = futures::future::join_all((0..READING + WAITING).map(|_| turns.ask(work())));
        assert!(futures::poll!(&mut all).is_pending());
        let told = turns.ask(work()).await.unwrap_err();
        assert!(told.why.contains("try again"), "{told:?}");
        go.store(true, Ordering::SeqCst);
        assert!(all.await.iter().all(Result::is_ok));
        assert!((1..=READING).contains(&most.load(Ordering::SeqCst)));
        turns.ask(|| ()).await.unwrap();
    }
}

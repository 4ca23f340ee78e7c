//! Pages of a node that runs, asked without sockets: who waits for a turn and who does not, what can't be read, and what is told as it happens.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    datadir::DataDir,
    genesis,
    inference::{
        api::{Api, Bounds, access::Rules},
        hub::Hub,
    },
    metrics,
    operator::{Controls, Operator},
    series::Series,
    service::chain::{Chain, Role},
};
use ailo_protocol::{
    Address, Keypair,
    genesis::Founder,
    net::{self, NetConfig},
};
use ailo_training::dataset::Dataset;
use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use futures::StreamExt;
use std::{fs, path::Path};
use tokio::sync::mpsc;
use tower::Service;

/// A network's only node, which validates: its chain with what is asked of it, and its routes.
struct Node {
    context: Arc<Context>,
    router: Router,
    stop: watch::Sender<bool>,
    folder: tempfile::TempDir,
    _events: mpsc::Receiver<net::Event>,
}

impl Node {
    async fn start() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let key = Keypair::from_seed([1; 32]);
        let (node, wallet) = (*key.public(), Address::from(key.public()));
        let founder = Founder { node, wallet, validator: true };
        let params = genesis::local_params(1, 0);
        let genesis = Arc::new(genesis::found("test", 1, vec![founder], &Dataset::embedded(), params).unwrap());
        let (net, events) = net::start(NetConfig::new(key.clone(), genesis.id())).await.unwrap();
        let role = Role { validator: true, archive: false, allow_new_journal: true };
        let (chain, _ended) = Chain::start(&dir, genesis.clone(), key.clone(), role, net.clone()).unwrap();
        let hub = Hub::new(key, genesis.id(), 0.0, (None, None), None);
        let (stop, stopped) = watch::channel(false);
        let context = Arc::new(Context {
            genesis,
            parameters: 1,
            node,
            wallet,
            operator: Arc::new(Operator::start(&dir, Controls { training: false, power: 50 }).unwrap()),
            validator: true,
            chain,
            anchor: None,
            net,
            neighbours: watch::channel(Arc::default()).1,
            hub: hub.clone(),
            progress: watch::channel(Default::default()).1,
            sensors: watch::channel(Arc::default()).1,
            series: Series::open(dir.path("series")),
            law: Default::default(),
            ranking: Default::default(),
            recent: Default::default(),
            turns: Default::default(),
        });
        let access = Access::open(Rules::default(), ([127, 0, 0, 1], 1).into()).unwrap();
        let api = Api::new(hub, (None, None), watch::channel(None).1, Bounds::default());
        let sources = metrics::Sources { context: context.clone(), api, folder: folder.path().into() };
        let site = Site::new(context.clone(), stopped);
        let router = site.router(access.clone()).merge(metrics::router(sources, access));
        Node { context, router, stop, folder, _events: events }
    }

    /// Until there is a block.
    async fn has_blocks(&self) {
        self.context.chain.heads().wait_for(|head| head.state.height() > 0).await.unwrap();
    }

    async fn answer(&self, path: &str, accept: &str) -> Response {
        let asked = Request::get(path).header(header::HOST, "localhost").header(header::ACCEPT, accept);
        self.router.clone().call(asked.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        self.get_as(path, "text/html").await
    }

    async fn get_as(&self, path: &str, accept: &str) -> (StatusCode, HeaderMap, String) {
        let (head, body) = self.answer(path, accept).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The page says that it can't be shown now, and why; so does what is answered to who asks for no page.
    async fn is_unavailable(&self, path: &str, why: &str) {
        let (status, headers, page) = self.get(path).await;
        assert_eq!(
            (status.as_u16(), headers[header::RETRY_AFTER].as_bytes()),
            (503, AGAIN.as_bytes()),
            "{path}: {page}"
        );
        assert!(page.contains("<h1>") && page.contains(why), "{path}: {page}");
        let (status, headers, problem) = self.get_as(path, "application/json").await;
        assert_eq!(
            (status.as_u16(), headers[header::CONTENT_TYPE].as_bytes()),
            (503, &b"application/problem+json"[..])
        );
        assert!(problem.contains("\"status\":503") && problem.contains(why), "{path}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_read_the_index_share_the_turns_of_json_rpc_and_others_wait_for_nobody() {
    let node = Node::start().await;
    node.has_blocks().await;
    let (wallet, key, hash) = (node.context.wallet, node.context.node, "5".repeat(64));
    let (address, csv) = (format!("/address/{wallet}"), format!("/address/{wallet}/history.csv"));
    let (of_node, transaction) = (format!("/node/{key}"), format!("/tx/{hash}"));
    let reading: [&str; 11] = [
        "/explorer",
        "/transactions",
        "/block/1",
        "/search?q=1",
        "/wallet",
        "/validators",
        "/rich",
        &address,
        &csv,
        &of_node,
        &transaction,
    ];
    let at_once = ["/", "/rounds", "/round/0", "/supply", "/pending", "/chat", "/operator", "/metrics", "/style.css"];
    let all = node.context.turns.fill();
    for path in reading {
        node.is_unavailable(path, "Too many requests wait").await;
    }
    for path in at_once {
        assert_eq!(node.get(path).await.0, StatusCode::OK, "{path}");
    }
    drop(all);
    for path in reading {
        let (status, _, page) = node.get(path).await;
        let expected = match path {
            "/search?q=1" => 303,
            path if path == transaction => 404,
            _ => 200,
        };
        assert_eq!(status.as_u16(), expected, "{path}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_cannot_read_now_is_answered_503_and_not_as_if_it_were_not_there() {
    let node = Node::start().await;
    node.has_blocks().await;
    assert_eq!(node.get("/block/1").await.0, StatusCode::OK);
    node.context.chain.stop().await;
    // Whether a transaction waits is known to the ledger's thread alone.
    node.is_unavailable(&format!("/tx/{}", "5".repeat(64)), "The node is stopping.").await;
    damage(&node.folder.path().join("ledger/blocks"));
    for path in ["/block/1", "/explorer"] {
        node.is_unavailable(path, "its log says why").await;
    }
    assert_eq!(node.get("/block/4000000000").await.0, StatusCode::NOT_FOUND);
}

/// Writes over what stands in a folder's files.
fn damage(folder: &Path) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        fs::write(&path, vec![0x55; fs::metadata(&path).unwrap().len() as usize]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_new_head_is_told_until_the_node_stops() {
    let node = Node::start().await;
    let answer = node.answer("/live", "text/event-stream").await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut told = answer.into_body().into_data_stream();
    let mut before = 0;
    for _ in 0..2 {
        let event = String::from_utf8(told.next().await.unwrap().unwrap().to_vec()).unwrap();
        let height = event.strip_prefix("event: head\ndata: ").and_then(|rest| rest.trim_end().parse().ok());
        let height: u64 = height.unwrap_or_else(|| panic!("{event:?}"));
        assert!((before + 1..=node.context.chain.head().state.height()).contains(&height), "{before}, then {height}");
        before = height;
    }
    node.stop.send(true).unwrap();
    assert!(told.next().await.is_none(), "who stops waits for nobody who listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_drawn_and_nothing_else() {
    let node = Node::start().await;
    let (mut pictures, other) = (Vec::new(), Address([7; 20]));
    for address in [node.context.wallet, other] {
        let (status, headers, picture) = node.get(&format!("/qr/{address}")).await;
        assert_eq!((status.as_u16(), headers[header::CONTENT_TYPE].as_bytes()), (200, &b"image/svg+xml"[..]));
        assert!(picture.contains("<svg") && picture.ends_with("</svg>"), "{picture}");
        pictures.push(picture);
    }
    assert_ne!(pictures[0], pictures[1]);
    for wrong in [&format!("{other}q"), "ailo1", "%3Cb%3E"] {
        let (status, _, page) = node.get(&format!("/qr/{wrong}")).await;
        assert!(status == StatusCode::NOT_FOUND && page.contains("This is no address"), "{wrong}: {page}");
    }
    // The wallet's page shows it.
    let (_, _, page) = node.get("/wallet").await;
    assert!(page.contains(&format!("src=\"/qr/{}\"", node.context.wallet)), "{page}");
}

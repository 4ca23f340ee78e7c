//! Whom this node's peers are connected to, as they say themselves: for the map of the network. Nothing else believes it.

use ailo_proto::{PeersRequest, request, response};
use ailo_protocol::{NodeId, PublicKey, net::Handle};
use futures::{StreamExt, stream};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Nodes that one peer names, and peers that are asked, at most.
pub const MAX_NEIGHBOURS: usize = 64;
/// Peers are asked so often.
const EVERY: Duration = Duration::from_secs(30);
/// And soon after one has come or gone.
const SOON: Duration = Duration::from_secs(5);
/// How long one may take to answer, and how many are asked at a time.
const PATIENCE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

/// Of each peer that answered: the nodes that it is connected to, this one left out.
pub type Neighbours = BTreeMap<NodeId, Vec<NodeId>>;

/// Asks until `stop` changes.
pub fn watch(net: Handle, mut stop: watch::Receiver<bool>) -> watch::Receiver<Arc<Neighbours>> {
    let (told, seen) = watch::channel(Arc::default());
    let mut peers = net.watch_peers();
    tokio::spawn(async move {
        loop {
            peers.mark_unchanged();
            tokio::select! {
                all = ask(&net) => drop(told.send_replace(Arc::new(all))),
                _ = stop.changed() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                changed = peers.changed() => match changed {
                    Ok(()) => tokio::time::sleep(SOON).await, // several come together
                    Err(_) => return,
                },
                _ = stop.changed() => return,
            }
        }
    });
    seen
}

async fn ask(net: &Handle) -> Neighbours {
    let ask = |peer: NodeId| async move {
        let answer = tokio::time::timeout(PATIENCE, net.request(peer, request::Body::Peers(PeersRequest {}))).await;
        let Ok(Ok(response::Body::Peers(said))) = answer else { return None };
        let nodes = said.nodes.as_chunks().0.iter().take(MAX_NEIGHBOURS).map(|key| PublicKey(*key));
        Some((peer, nodes.filter(|node| node != net.node() && *node != peer).collect()))
    };
    let peers: Vec<NodeId> = net.peers().into_iter().take(MAX_NEIGHBOURS).map(|peer| peer.node).collect();
    stream::iter(peers).map(ask).buffer_unordered(AT_ONCE).filter_map(async |each| each).collect().await
}

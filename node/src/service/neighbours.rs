//! What this node's peers say of themselves: how far they are, and whom they are connected to. It is for who looks at this node; block sync hears how
//! far they are, too, and believes the blocks alone.

use super::chain::Chain;
use ailo_ledger::state::median;
use ailo_proto::{HeadRequest, PeersRequest, request, response};
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

/// What a peer says of itself.
#[derive(Clone, Debug, Default)]
pub struct Neighbour {
    /// Height of its newest block.
    pub height: Option<u64>,
    /// The nodes that it is connected to, this one left out.
    pub peers: Vec<NodeId>,
}

/// What each peer said that was asked.
pub type Neighbours = BTreeMap<NodeId, Neighbour>;

/// Asks until `stop` changes.
pub fn watch(net: Handle, chain: Chain, mut stop: watch::Receiver<bool>) -> watch::Receiver<Arc<Neighbours>> {
    let (told, seen) = watch::channel(Arc::default());
    let mut peers = net.watch_peers();
    tokio::spawn(async move {
        loop {
            peers.mark_unchanged();
            tokio::select! {
                all = ask(&net, &chain) => drop(told.send_replace(Arc::new(all))),
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

async fn ask(net: &Handle, chain: &Chain) -> Neighbours {
    let ask = |peer: NodeId| async move {
        let ask = |what: request::Body| async move {
            tokio::time::timeout(PATIENCE, net.request(peer, what)).await.ok()?.ok()
        };
        let (head, peers) =
            tokio::join!(ask(request::Body::Head(HeadRequest {})), ask(request::Body::Peers(PeersRequest {})));
        let height = match head {
            Some(response::Body::Head(head)) => Some(head.height),
            _ => None,
        };
        if let Some(height) = height {
            chain.peer_tells(peer, height).await;
        }
        let nodes: &[[u8; 32]] = match &peers {
            Some(response::Body::Peers(said)) => said.nodes.as_chunks().0,
            _ => &[],
        };
        let nodes = nodes.iter().take(MAX_NEIGHBOURS).map(|key| PublicKey(*key));
        (peer, Neighbour { height, peers: nodes.filter(|node| node != net.node() && *node != peer).collect() })
    };
    let peers: Vec<NodeId> = net.peers().into_iter().take(MAX_NEIGHBOURS).map(|peer| peer.node).collect();
    stream::iter(peers).map(ask).buffer_unordered(AT_ONCE).collect().await
}

/// The newest block that there is, as far as peers can be believed: the median of what they tell, so that no few liars move it, but not less than `own`,
/// the newest one here. Where none could show the block after `unshown`, they are believed for as many more blocks as have come since, and for none
/// until one has.
pub fn highest(neighbours: &Neighbours, own: u64, unshown: Option<u64>) -> Option<u64> {
    let told = median(neighbours.values().filter_map(|each| each.height).collect())?;
    let come = unshown.map_or(u64::MAX, |height| own.saturating_sub(height));
    match told {
        _ if told <= own => Some(own),
        _ if come == 0 => None,
        _ => Some(told.min(own.saturating_add(come))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(heights: &[u64]) -> Neighbours {
        let tells = |height: &u64| Neighbour { height: Some(*height), peers: Vec::new() };
        (1..).map(|i| PublicKey([i; 32])).zip(heights.iter().map(tells)).collect()
    }

    #[test]
    fn one_liar_among_honest_peers_moves_nothing() {
        for lie in [0, 100, u64::MAX] {
            assert_eq!(highest(&told(&[lie, 120, 121]), 100, None), Some(if lie == u64::MAX { 121 } else { 120 }));
            assert_eq!(highest(&told(&[99, lie, 100]), 100, None), Some(100));
            assert_eq!(highest(&told(&[99, lie, 100]), 100, Some(100)), Some(100), "what it can't show worries nobody");
        }
        assert_eq!(highest(&told(&[100, u64::MAX]), 100, None), Some(100), "of two the lower");
    }

    #[test]
    fn a_peer_alone_is_believed_until_it_can_show_nothing_and_then_for_what_has_come() {
        let alone = told(&[u64::MAX]);
        assert_eq!(highest(&alone, 100, None), Some(u64::MAX));
        assert_eq!(highest(&alone, 100, Some(100)), None);
        assert_eq!(highest(&alone, 103, Some(100)), Some(106));
        // Who is honest shows block after block.
        assert_eq!(highest(&told(&[1000]), 100, Some(100)), None);
        assert_eq!(
            [300, 700, 1000].map(|own| highest(&told(&[1000]), own, Some(100))),
            [Some(500), Some(1000), Some(1000)]
        );
    }

    #[test]
    fn nothing_is_known_until_a_peer_tells() {
        assert_eq!(highest(&Neighbours::new(), 7, None), None);
        let silent = Neighbours::from([(PublicKey([1; 32]), Neighbour::default())]);
        assert_eq!(highest(&silent, 7, Some(3)), None);
    }
}

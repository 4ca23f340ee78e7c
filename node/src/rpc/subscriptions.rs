//! What is told over WebSocket as it happens. Nothing here queues: who has to see everything is served from the store at its own pace, and
//! who wants to know where things stand sees the newest. What was written and not read yet waits in the connection's buffer, which
//! is bounded; while it is full its subscriptions wait.

use super::{
    Context,
    errors::{Code, Failure, invalid},
    history::{entry, kept_under},
    node::peers_view,
    params::{FollowParams, NoParams},
    rounds::open_round,
    types::EntryView,
};
use ailo_ledger::store::{Cursor, MAX_PAGE};
use ailo_protocol::NodeId;
use jsonrpsee::{
    server::{PendingSubscriptionSink, SubscriptionMessage, SubscriptionSink},
    types::ErrorObjectOwned,
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};

/// A reader that has asked and is not accepted yet.
pub type Pending = PendingSubscriptionSink;

/// The reader has gone away, or what comes next for it has.
struct Gone;

impl From<Failure> for Gone {
    fn from(_: Failure) -> Gone {
        Gone
    }
}

/// Whether a node whose first block is `first` still has all that comes after a place of a history.
fn is_kept(first: u64, after: Cursor) -> bool {
    first <= 1 || after >= Cursor { height: first - 1, event: u32::MAX }
}

/// Waits for room, and writes.
async fn tell<T: Serialize>(sink: &SubscriptionSink, value: &T) -> Result<(), Gone> {
    let text = serde_json::value::to_raw_value(value).map_err(|_| Gone)?;
    sink.send(SubscriptionMessage::from(text)).await.map_err(|_| Gone)
}

/// Waits for news of what is watched.
async fn news<T>(sink: &SubscriptionSink, watched: &mut tokio::sync::watch::Receiver<T>) -> Result<(), Gone> {
    tokio::select! {
        changed = watched.changed() => changed.map_err(|_| Gone),
        () = sink.closed() => Err(Gone),
    }
}

/// Every block once and in order.
pub async fn blocks(context: Arc<Context>, _: NoParams, pending: Pending) {
    let mut heads = context.chain.heads();
    let mut next = heads.borrow_and_update().state.height() + 1;
    let Ok(sink) = pending.accept().await else { return };
    let follow = async {
        loop {
            let (chain, height) = (context.chain.clone(), next);
            let found = context.turns.take(move || chain.header(height)).await?;
            match found.map_err(Failure::from)? {
                Some(header) => {
                    tell(&sink, &header).await?;
                    next += 1;
                }
                None if next < context.chain.first() => return Err(Gone),
                None => news(&sink, &mut heads).await?,
            }
        }
    };
    let _: Result<(), Gone> = follow.await;
}

/// Every entry of a history once and in order.
pub async fn history(context: Arc<Context>, params: FollowParams, pending: Pending) {
    let mut heads = context.chain.heads();
    let head = heads.borrow_and_update().clone();
    let from_now = Cursor { height: head.state.height(), event: u32::MAX };
    let asked = params.subject().and_then(|subject| Ok((kept_under(&head, subject), params.after()?)));
    let (subject, mut after) = match asked {
        Ok((subject, after)) => (subject, after.unwrap_or(from_now)),
        Err(why) => return pending.reject(ErrorObjectOwned::from(invalid(why))).await,
    };
    if !is_kept(context.chain.first(), after) {
        let gone = "what came next is no longer kept here: ask an archive for it, or follow without a cursor";
        return pending.reject(ErrorObjectOwned::from(Code::NotFound.says(gone))).await;
    }
    let Ok(sink) = pending.accept().await else { return };
    let follow = async {
        loop {
            let head = heads.borrow_and_update().clone();
            let chain = context.chain.clone();
            let page = context.turns.take(move || chain.history_after(&subject, after, MAX_PAGE)).await?;
            let page = page.map_err(Failure::from)?;
            if !is_kept(context.chain.first(), after) {
                return Err(Gone); // some of it may have gone before it was read
            }
            // What the store knows before the head does comes with the next head.
            let shown = page.into_iter().take_while(|item| item.at.height <= head.state.height());
            let before = after;
            for item in shown {
                after = item.at;
                let told = EntryView { entry: entry(item) };
                tell(&sink, &context.at(&head, told)).await?;
            }
            if after == before {
                news(&sink, &mut heads).await?;
            }
        }
    };
    let _: Result<(), Gone> = follow.await;
}

/// Where the open round stands.
pub async fn rounds(context: Arc<Context>, _: NoParams, pending: Pending) {
    let mut heads = context.chain.heads();
    let Ok(sink) = pending.accept().await else { return };
    let follow = async {
        let mut last = None;
        loop {
            let head = heads.borrow_and_update().clone();
            let now = open_round(&head.state);
            // Its age alone is no news.
            let place = (now.number, now.phase, now.participants, now.committed);
            if last.replace(place) != Some(place) {
                tell(&sink, &context.at(&head, now)).await?;
            }
            news(&sink, &mut heads).await?;
        }
    };
    let _: Result<(), Gone> = follow.await;
}

/// Who is connected.
pub async fn peers(context: Arc<Context>, _: NoParams, pending: Pending) {
    let mut peers = context.net.watch_peers();
    let Ok(sink) = pending.accept().await else { return };
    let follow = async {
        let mut last: Option<BTreeSet<NodeId>> = None;
        loop {
            let (now, neighbours) = (peers.borrow_and_update().clone(), context.neighbours.borrow().clone());
            // A round trip alone is no news.
            let nodes: BTreeSet<NodeId> = now.iter().map(|peer| peer.node).collect();
            if last.as_ref() != Some(&nodes) {
                last = Some(nodes);
                tell(&sink, &context.at(&context.chain.head(), peers_view(&now, &neighbours))).await?;
            }
            news(&sink, &mut peers).await?;
        }
    };
    let _: Result<(), Gone> = follow.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_gone_is_passed_over_in_silence() {
        let at = |height, event| Cursor { height, event };
        assert!(is_kept(1, at(0, 0)), "all is there");
        assert!(is_kept(10, at(10, 0)) && is_kept(10, at(9, u32::MAX)) && is_kept(10, at(40, 3)));
        assert!(!is_kept(10, at(9, 4)) && !is_kept(10, at(0, 0)), "what comes next is gone, or may be");
    }
}

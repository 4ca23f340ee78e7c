//! The bounded queue of events towards a consumer that may be slow. Gossip fills at most half of it, requests three
//! quarters; connections and disconnections that do not fit wait in a list of at most one entry a peer.

use super::Event;
use crate::NodeId;
use std::collections::VecDeque;
use tokio::sync::mpsc;

pub(super) struct Outbox {
    events: mpsc::Sender<Event>,
    /// Peers whose state the consumer does not know yet, and whether they are connected now.
    waiting: VecDeque<(NodeId, bool)>,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Outbox {
        Outbox { events, waiting: VecDeque::new() }
    }

    /// Queues gossip; false when there was no room and the event was dropped.
    pub(super) fn gossip(&self, event: Event) -> bool {
        self.with_reserve(event, self.events.max_capacity() / 2)
    }

    /// Queues a request; false when there was no room and the event was dropped.
    pub(super) fn request(&self, event: Event) -> bool {
        self.with_reserve(event, self.events.max_capacity() / 4)
    }

    /// Queues what may be lost when nobody listens.
    pub(super) fn note(&self, event: Event) {
        self.with_reserve(event, 0);
    }

    fn with_reserve(&self, event: Event, reserve: usize) -> bool {
        self.events.capacity() > reserve && self.events.try_send(event).is_ok()
    }

    /// Tells that a peer is connected, or not any more; opposite news that both wait cancel out.
    pub(super) fn connection(&mut self, node: NodeId, connected: bool) {
        if self.waiting.is_empty() && self.events.try_send(connection_event(node, connected)).is_ok() {
            return;
        }
        match self.waiting.iter().position(|(waiting, _)| *waiting == node) {
            Some(i) => drop(self.waiting.remove(i)),
            None => self.waiting.push_back((node, connected)),
        }
    }

    /// Hands on the news that wait, as room comes up; completes only when the consumer has gone for good.
    /// May be dropped and called again at any time.
    pub(super) async fn run(&mut self) {
        while let Some((node, connected)) = self.waiting.front().copied() {
            let Ok(permit) = self.events.reserve().await else { return };
            permit.send(connection_event(node, connected));
            self.waiting.pop_front();
        }
        self.events.closed().await;
    }
}

fn connection_event(node: NodeId, connected: bool) -> Event {
    if connected { Event::Connected(node) } else { Event::Disconnected(node) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::PublicKey;

    #[tokio::test]
    async fn a_full_queue_never_loses_who_is_connected() {
        let (sender, mut receiver) = mpsc::channel(4);
        let mut outbox = Outbox::new(sender);
        for i in 0..10 {
            outbox.connection(PublicKey([i; 32]), true);
        }
        // Gone again before the consumer heard of it: nothing to tell.
        outbox.connection(PublicKey([9; 32]), false);
        // Gone again after the consumer was told.
        outbox.connection(PublicKey([0; 32]), false);
        let mut connected = std::collections::BTreeSet::new();
        let consumer = async {
            while connected.len() < 8 || connected.contains(&PublicKey([0; 32])) {
                match receiver.recv().await.unwrap() {
                    Event::Connected(node) => assert!(connected.insert(node)),
                    Event::Disconnected(node) => assert!(connected.remove(&node)),
                    other => panic!("unexpected {other:?}"),
                }
            }
        };
        tokio::select! {
            () = consumer => {}
            () = outbox.run() => panic!("the consumer is still there"),
        }
        assert_eq!(connected, (1..9).map(|i| PublicKey([i; 32])).collect());
        assert!(outbox.waiting.is_empty());
    }
}

//! Where frames change hands: between the sessions that this node asks in and the worker that serves here.

use super::worker::{Inbound, Worker};
use ailo_proto::{Frame, frame::Body};
use ailo_protocol::{NodeId, inference::SessionId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The hub of a node.
pub struct Hub {
    node: NodeId,
    /// Sessions that this node asks in. What waits for one of them is bounded by its text's length.
    clients: Mutex<HashMap<SessionId, UnboundedSender<(NodeId, Frame)>>>,
    /// Who serves here; those that leave come last.
    workers: Mutex<Vec<Worker>>,
}

impl Hub {
    /// A hub without workers.
    pub fn new(node: NodeId) -> Arc<Hub> {
        Arc::new(Hub { node, clients: Mutex::default(), workers: Mutex::default() })
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Lets a worker serve. The others take no new sessions and end with those that they have.
    pub fn serve(&self, worker: Worker) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|old| !old.ended());
        workers.iter().for_each(|old| old.send(Inbound::Leave));
        workers.insert(0, worker);
    }

    /// Ends all workers.
    pub fn stop(&self) {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        workers.iter().for_each(|worker| worker.send(Inbound::Stop));
    }

    /// What comes for a session that this node asks in, until the receiver is dropped.
    pub fn listen(&self, session: SessionId) -> UnboundedReceiver<(NodeId, Frame)> {
        let (sender, receiver) = unbounded_channel();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, client| !client.is_closed());
        clients.insert(session, sender);
        receiver
    }

    /// Takes a frame from one node to another. What nobody waits for is dropped.
    pub fn send(&self, from: NodeId, to: NodeId, frame: Frame) {
        if to != self.node {
            return;
        }
        let Some(body) = &frame.body else { return };
        // Two kinds go both ways; who they are not for drops them.
        let (client, stage) = match body {
            Body::Opened(_) | Body::Failed(_) | Body::Place(_) => (true, false),
            Body::Tokens(_) | Body::Have(_) => (true, true),
            _ => (false, true),
        };
        if client && let Ok(session) = SessionId::try_from(&*frame.session) {
            let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(client) = clients.get(&session) {
                let _ = client.send((from, frame.clone())); // It has gone, then.
            }
        }
        if stage {
            let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            // A new session goes to who serves now; of all else each worker knows whether it is its own.
            let opens = matches!(body, Body::Open(_));
            for worker in workers.iter().take(if opens { 1 } else { usize::MAX }) {
                worker.send(Inbound::Frame(from, frame.clone()));
            }
        }
    }
}

//! Messages of the next height, which wait until it starts.

use super::codec::{Ballot, Message, Signed};
use ailo_protocol::NodeId;
use std::collections::BTreeMap;

/// Messages of the next height that wait for it, in bytes, at most.
pub const MAX_AHEAD_BYTES: usize = 8 << 20;
/// Messages that one node has waiting there, at most.
const MAX_AHEAD_PER_NODE: usize = 4;
/// By ballot: a node has few waiting, all together have bounded bytes.
#[derive(Default)]
pub(super) struct Ahead {
    messages: BTreeMap<(NodeId, Ballot), (Message, usize)>,
    bytes: usize,
}

impl Ahead {
    /// Keeps a message, if it is new and its node has room.
    pub fn keep(&mut self, signed: Signed, message: Message) -> bool {
        let bytes = message.encode().len();
        let theirs = self.messages.keys().filter(|(node, _)| *node == signed.node).count();
        let key = (signed.node, signed.ballot);
        let kept =
            theirs < MAX_AHEAD_PER_NODE && self.bytes + bytes <= MAX_AHEAD_BYTES && !self.messages.contains_key(&key);
        if kept {
            self.bytes += bytes;
            self.messages.insert(key, (message, bytes));
        }
        kept
    }

    /// Those of `height`, proposals first; all are forgotten.
    pub fn take(&mut self, height: u64) -> Vec<Message> {
        self.bytes = 0;
        let messages = std::mem::take(&mut self.messages).into_values().map(|(message, _)| message);
        let mut messages: Vec<Message> = messages.filter(|message| message.height() == height).collect();
        messages.sort_by_key(|message| !matches!(message, Message::Proposal(..)));
        messages
    }
}

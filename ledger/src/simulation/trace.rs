//! All that happened, in order, as one hash: two runs with the same hash were the same run.

use ailo_protocol::{Hash, hash::Domain};

/// Bytes that are hashed at once.
const CHUNK: usize = 64 << 10;

/// The hash of a run so far.
#[derive(Debug, Default)]
pub struct Trace {
    so_far: Hash,
    waiting: Vec<u8>,
    events: u64,
}

impl Trace {
    /// Takes in an event: when, to whom, of what kind, and numbers that say what it was.
    pub fn event(&mut self, time: u64, member: usize, kind: &str, numbers: &[u64]) {
        self.events += 1;
        for number in [time, member as u64, kind.len() as u64, numbers.len() as u64].iter().chain(numbers) {
            self.waiting.extend(number.to_le_bytes());
        }
        self.waiting.extend(kind.as_bytes());
        if self.waiting.len() >= CHUNK {
            self.so_far = self.hash();
            self.waiting.clear();
        }
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all of them.
    pub fn hash(&self) -> Hash {
        Hash::of_parts(Domain::Trace, &[&self.so_far.0, &self.waiting])
    }
}

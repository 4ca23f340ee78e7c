//! Texts that could not go on, kept for a while for whoever asked for them. It holds so many and so many bytes; the oldest go first.

use ailo_protocol::{Hash, keys};
use std::collections::VecDeque;

/// How long something is kept, in milliseconds.
const KEPT_MS: u64 = 600_000;
/// How much is kept, and how many bytes in all, at most.
const MOST: (usize, usize) = (256, 64 << 20);

/// What is kept.
pub(super) struct Shelf<T> {
    /// Oldest first.
    all: VecDeque<Kept<T>>,
    bytes: usize,
}

struct Kept<T> {
    id: String,
    /// The API key that alone gets it.
    key: Option<Hash>,
    until: u64,
    bytes: usize,
    what: T,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf { all: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Shelf<T> {
    /// Keeps something that takes so many bytes, for who has this key: the name that it is got back by. What is too large is not kept.
    pub fn put(&mut self, now: u64, key: Option<Hash>, bytes: usize, what: T) -> Option<String> {
        if bytes > MOST.1 {
            return None;
        }
        let old = |kept: &Kept<T>| kept.until <= now;
        while self.all.front().is_some_and(old) || self.all.len() >= MOST.0 || self.bytes + bytes > MOST.1 {
            self.bytes -= self.all.pop_front()?.bytes;
        }
        let id = format!("resume-{}", hex::encode(&keys::random_bytes()[..16]));
        self.bytes += bytes;
        self.all.push_back(Kept { id: id.clone(), key, until: now + KEPT_MS, bytes, what });
        Some(id)
    }

    /// What has this name, for who has the key that it was put there with.
    pub fn get(&self, now: u64, key: Option<Hash>, id: &str) -> Option<&T> {
        self.find(now, key, id).map(|place| &self.all[place].what)
    }

    /// The same, which is not there any more then.
    pub fn take(&mut self, now: u64, key: Option<Hash>, id: &str) -> Option<T> {
        let kept = self.all.remove(self.find(now, key, id)?)?;
        self.bytes -= kept.bytes;
        Some(kept.what)
    }

    fn find(&self, now: u64, key: Option<Hash>, id: &str) -> Option<usize> {
        self.all.iter().position(|kept| kept.id == id && kept.key == key && now < kept.until)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_is_its_owners_for_ten_minutes_and_once() {
        let (mut shelf, ann) = (Shelf::default(), Some(Hash([1; 32])));
        let id = shelf.put(1000, ann, 10, "a text").unwrap();
        for key in [None, Some(Hash([2; 32]))] {
            assert!(shelf.get(1001, key, &id).is_none() && shelf.take(1001, key, &id).is_none());
        }
        assert!(shelf.get(1001, ann, "resume-0").is_none());
        assert_eq!(shelf.get(600_999, ann, &id), Some(&"a text"));
        assert_eq!(shelf.get(601_000, ann, &id), None, "ten minutes later it is gone");
        assert_eq!(shelf.take(600_999, ann, &id), Some("a text"));
        assert_eq!((shelf.take(600_999, ann, &id), shelf.bytes), (None, 0));
    }

    #[test]
    fn the_oldest_make_room_and_nothing_is_larger_than_all() {
        let mut shelf = Shelf::default();
        let ids: Vec<String> = (0..MOST.0 + 3).map(|i| shelf.put(i as u64, None, 1, i).unwrap()).collect();
        assert!(ids[..3].iter().all(|id| shelf.get(300, None, id).is_none()));
        assert_eq!((shelf.get(300, None, &ids[3]), shelf.all.len(), shelf.bytes), (Some(&3), MOST.0, MOST.0));
        let large = shelf.put(300, None, MOST.1 - 1, 7).unwrap();
        assert_eq!((shelf.get(300, None, &large), shelf.all.len()), (Some(&7), 2));
        assert_eq!(shelf.put(300, None, MOST.1 + 1, 8), None);
        // What is over makes room without being asked for.
        shelf.put(300 + KEPT_MS, None, 1, 9).unwrap();
        assert_eq!((shelf.all.len(), shelf.bytes), (1, 1));
    }
}

//! Texts that could not go on, kept for a while for whoever asked for them. An API key has so many and so many bytes; the oldest go first. Where all keys together
//! have more than there is room for, whoever has most gives way: so nobody pushes out what those keep who keep less.

use ailo_protocol::{Hash, keys};
use std::collections::{HashMap, VecDeque};

/// How long something is kept, in milliseconds.
const KEPT_MS: u64 = 600_000;
/// How much is kept, and how many bytes in all, at most: for one key, and together.
const OF_KEY: (usize, usize) = (64, 16 << 20);
const MOST: (usize, usize) = (1024, 64 << 20);

/// What is kept.
pub(super) struct Shelf<T> {
    /// Oldest first.
    all: VecDeque<Kept<T>>,
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
        Shelf { all: VecDeque::new() }
    }
}

impl<T> Shelf<T> {
    /// Keeps something that takes so many bytes, for who has this key: the name that it is got back by. What is too large comes back at once.
    pub fn put(&mut self, now: u64, key: Option<Hash>, bytes: usize, what: T) -> Result<String, T> {
        if bytes > OF_KEY.1 {
            return Err(what);
        }
        self.all.retain(|kept| kept.until > now);
        loop {
            let held = self.held();
            let own = held.get(&key).copied().unwrap_or_default();
            let all = held.values().fold((0, 0), |(count, sum), (some, bytes)| (count + some, sum + bytes));
            let full = |(count, sum): (usize, usize), most: (usize, usize)| count >= most.0 || sum + bytes > most.1;
            let gives_way = if full(own, OF_KEY) {
                key
            } else if full(all, MOST) {
                // A name decides between two that have as much.
                let most = held.into_iter().max_by_key(|(key, (count, sum))| (*sum, *count, *key));
                most.map_or(key, |(key, _)| key)
            } else {
                break;
            };
            let oldest = self.all.iter().position(|kept| kept.key == gives_way);
            oldest.and_then(|oldest| self.all.remove(oldest));
        }
        let id = format!("resume-{}", hex::encode(&keys::random_bytes()[..16]));
        self.all.push_back(Kept { id: id.clone(), key, until: now + KEPT_MS, bytes, what });
        Ok(id)
    }

    /// How much each key has here, and how many bytes.
    fn held(&self) -> HashMap<Option<Hash>, (usize, usize)> {
        let mut held: HashMap<_, (usize, usize)> = HashMap::new();
        for kept in &self.all {
            let (count, sum) = held.entry(kept.key).or_default();
            (*count, *sum) = (*count + 1, *sum + kept.bytes);
        }
        held
    }

    /// What has this name, for who has the key that it was put there with.
    pub fn get(&self, now: u64, key: Option<Hash>, id: &str) -> Option<&T> {
        self.find(now, key, id).map(|place| &self.all[place].what)
    }

    /// The same, which is not there any more then.
    pub fn take(&mut self, now: u64, key: Option<Hash>, id: &str) -> Option<T> {
        self.all.remove(self.find(now, key, id)?).map(|kept| kept.what)
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
        assert_eq!((shelf.take(600_999, ann, &id), shelf.all.len()), (None, 0));
    }

    #[test]
    fn a_key_s_oldest_make_room_and_nothing_is_larger_than_what_a_key_may_have() {
        let mut shelf = Shelf::default();
        let ids: Vec<String> = (0..OF_KEY.0 + 3).map(|i| shelf.put(i as u64, None, 1, i).unwrap()).collect();
        assert!(ids[..3].iter().all(|id| shelf.get(300, None, id).is_none()));
        assert_eq!((shelf.get(300, None, &ids[3]), shelf.all.len()), (Some(&3), OF_KEY.0));
        let large = shelf.put(300, None, OF_KEY.1 - 1, 7).unwrap();
        assert_eq!((shelf.get(300, None, &large), shelf.all.len()), (Some(&7), 2));
        assert_eq!(shelf.put(300, None, OF_KEY.1 + 1, 8), Err(8));
        // What is over makes room without being asked for.
        shelf.put(300 + KEPT_MS, None, 1, 9).unwrap();
        assert_eq!(shelf.all.len(), 1);
    }

    #[test]
    fn no_key_pushes_out_what_another_one_keeps_that_keeps_less() {
        let key = |i: u8| Some(Hash([i; 32]));
        let mut shelf = Shelf::default();
        let ann = shelf.put(0, key(1), 1000, 0).unwrap();
        for i in 0..10 * OF_KEY.0 {
            shelf.put(1, key(2), OF_KEY.1 / 8, i).unwrap();
        }
        assert_eq!(shelf.get(2, key(1), &ann), Some(&0), "however much another one asks for");
        assert_eq!(shelf.held()[&key(2)].0, 8);
        // All are full, and then somebody comes who has nothing: of those who have most one gives way.
        let many = u8::try_from(MOST.1 / OF_KEY.1).unwrap();
        for i in 3..3 + many {
            (0..8).for_each(|_| assert!(shelf.put(3, key(i), OF_KEY.1 / 8, 0).is_ok()));
        }
        let bob = shelf.put(4, key(99), 1000, 5).unwrap();
        assert!(shelf.get(5, key(99), &bob).is_some() && shelf.get(5, key(1), &ann).is_some());
        let (count, bytes) = shelf.held().values().fold((0, 0), |(a, b), (count, sum)| (a + count, b + sum));
        assert!(count <= MOST.0 && bytes <= MOST.1, "{count} {bytes}");
    }
}

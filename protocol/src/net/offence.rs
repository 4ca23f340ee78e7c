//! Points against peers that misbehave. They fade by a hundred in the time of a ban; at a hundred the peer is banned.

use libp2p::PeerId;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// Sent what every node can see is invalid (malformed, wrongly signed): 20 points.
    Invalid,
    /// Served bytes that are not those asked for: 50 points.
    WrongData,
    /// A deliberate attack, proven: 100 points.
    Attack,
}

impl Offence {
    fn points(self) -> f64 {
        match self {
            Offence::Invalid => 20.0,
            Offence::WrongData => 50.0,
            Offence::Attack => BAN_POINTS,
        }
    }
}

const BAN_POINTS: f64 = 100.0;
/// Peers with points, and banned peers, at most; the oldest are forgotten first.
const MAX_ENTRIES: usize = 1024;

/// Points and bans.
pub(super) struct Offences {
    ban: Duration,
    points: HashMap<PeerId, (f64, Instant)>,
    bans: HashMap<PeerId, Instant>,
}

/// What follows from an offence.
#[derive(Debug, PartialEq)]
pub(super) enum Consequence {
    /// The peer stands at this many points.
    Points(f64),
    /// Nothing new: the peer is banned already.
    Known,
    /// The peer is banned; another's ban ends early where there are too many.
    Ban { forgiven: Option<PeerId> },
}

impl Offences {
    pub(super) fn new(ban: Duration) -> Offences {
        Offences { ban, points: HashMap::new(), bans: HashMap::new() }
    }

    /// Adds an offence.
    pub(super) fn add(&mut self, peer: PeerId, offence: Offence, now: Instant) -> Consequence {
        if self.bans.contains_key(&peer) {
            return Consequence::Known;
        }
        let points = self.points(&peer, now) + offence.points();
        if points >= BAN_POINTS {
            self.points.remove(&peer);
            let forgiven = (self.bans.len() >= MAX_ENTRIES).then(|| evict(&mut self.bans, |until| *until)).flatten();
            self.bans.insert(peer, now + self.ban);
            return Consequence::Ban { forgiven };
        }
        if self.points.len() >= MAX_ENTRIES && !self.points.contains_key(&peer) {
            evict(&mut self.points, |(_, since)| *since);
        }
        self.points.insert(peer, (points, now));
        Consequence::Points(points)
    }

    /// Points of a peer after fading.
    fn points(&self, peer: &PeerId, now: Instant) -> f64 {
        let Some((points, since)) = self.points.get(peer) else { return 0.0 };
        let faded = BAN_POINTS * now.saturating_duration_since(*since).as_secs_f64() / self.ban.as_secs_f64();
        (points - faded).max(0.0)
    }

    /// All peers with points.
    pub(super) fn all(&self, now: Instant) -> Vec<(PeerId, f64)> {
        self.points.keys().map(|peer| (*peer, self.points(peer, now))).collect()
    }

    /// Removes and returns the peers whose ban has ended, and forgets points that have faded.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<PeerId> {
        let faded: Vec<PeerId> = self.all(now).into_iter().filter(|(_, p)| *p == 0.0).map(|(peer, _)| peer).collect();
        for peer in faded {
            self.points.remove(&peer);
        }
        let over: Vec<PeerId> = self.bans.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in &over {
            self.bans.remove(peer);
        }
        over
    }
}

/// Removes the entry with the earliest time.
fn evict<V>(map: &mut HashMap<PeerId, V>, time: impl Fn(&V) -> Instant) -> Option<PeerId> {
    let oldest = map.iter().min_by_key(|(_, v)| time(v)).map(|(peer, _)| *peer)?;
    map.remove(&oldest);
    Some(oldest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn five_invalid_messages_ban_and_the_ban_ends() {
        let (mut offences, start, peer) = (Offences::new(Duration::from_secs(600)), Instant::now(), PeerId::random());
        for i in 1..5 {
            assert_eq!(offences.add(peer, Offence::Invalid, start), Consequence::Points(20.0 * f64::from(i)));
        }
        assert_eq!(offences.add(peer, Offence::Invalid, start), Consequence::Ban { forgiven: None });
        assert_eq!(offences.add(peer, Offence::Invalid, start), Consequence::Known);
        assert!(offences.expire(start + Duration::from_secs(599)).is_empty());
        assert_eq!(offences.expire(start + Duration::from_secs(600)), [peer]);
    }

    #[test]
    fn rare_mistakes_never_ban() {
        let (mut offences, mut now, peer) = (Offences::new(Duration::from_secs(600)), Instant::now(), PeerId::random());
        for _ in 0..1000 {
            assert!(matches!(offences.add(peer, Offence::Invalid, now), Consequence::Points(p) if p <= 20.0));
            now += Duration::from_secs(120);
        }
    }

    #[test]
    fn many_offenders_take_bounded_memory() {
        let (mut offences, now) = (Offences::new(Duration::from_secs(600)), Instant::now());
        let mut forgiven = 0;
        for _ in 0..MAX_ENTRIES + 10 {
            offences.add(PeerId::random(), Offence::Invalid, now);
            if let Consequence::Ban { forgiven: Some(_) } = offences.add(PeerId::random(), Offence::Attack, now) {
                forgiven += 1;
            }
        }
        assert_eq!((offences.points.len(), offences.bans.len(), forgiven), (MAX_ENTRIES, MAX_ENTRIES, 10));
    }
}

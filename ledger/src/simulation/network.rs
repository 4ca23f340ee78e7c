//! A network that delays, loses, repeats, reorders and cuts off. Everybody hears everybody directly; there is no
//! passing on, so what is lost must be said again.

use ailo_protocol::hash::Stream;

/// What the network does to what is sent.
#[derive(Clone, Debug)]
pub struct Network {
    /// The longest delay of a packet; each is drawn anew, so packets overtake each other.
    pub delay_ms: u64,
    /// Packets lost, of a thousand.
    pub loss_permille: u64,
    /// The same while nothing is wrong.
    pub usual_loss_permille: u64,
    /// Packets that arrive twice, of a thousand.
    pub repeat_permille: u64,
    /// Members in different parts do not hear each other.
    pub parts: Vec<u8>,
    /// Delay on top, of each member's packets in and out.
    pub slow_ms: Vec<u64>,
}

impl Network {
    /// A good network.
    pub fn new(members: usize) -> Network {
        Network {
            delay_ms: 50,
            loss_permille: 0,
            usual_loss_permille: 0,
            repeat_permille: 30,
            parts: vec![0; members],
            slow_ms: vec![0; members],
        }
    }

    /// Whether the two are in the same part.
    pub fn connects(&self, a: usize, b: usize) -> bool {
        self.parts[a] == self.parts[b]
    }

    /// After how long each copy of a packet arrives; nothing for one that is lost.
    pub fn send(&self, from: usize, to: usize, random: &mut Stream) -> impl Iterator<Item = u64> + use<> {
        let mut copies = [None; 2];
        if self.connects(from, to) && random.below(1000) >= self.loss_permille {
            copies[0] = Some(self.delay(from, to, random));
            if random.below(1000) < self.repeat_permille {
                copies[1] = Some(self.delay(from, to, random));
            }
        }
        copies.into_iter().flatten()
    }

    fn delay(&self, from: usize, to: usize, random: &mut Stream) -> u64 {
        1 + random.below(self.delay_ms.max(1)) + self.slow_ms[from] + self.slow_ms[to]
    }
}

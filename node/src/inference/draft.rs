//! Drafts: what the first stage guesses of a text, so that one pass through all stages may bring several tokens. A small model guesses, where
//! there is one; else what followed the text's last tokens where they stood before.
//!
//! How many tokens are guessed follows from what it has brought: of a pass that takes `pause` and `position` for each draft, and whose drafts are
//! met with probability p each, (1 - p^(k + 1)) / (1 - p) tokens come in pause + k position, which is most for some k.

use ailo_protocol::inference::{
    SessionId,
    stage::{Draft, MAX_DRAFTS},
};
use ailo_training::{
    Result,
    checkpoint::Checkpoint,
    engine::{Cache, Engine, Part},
    sample::{Sampling, sample},
};
use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Tokens of the text's end that are looked for in it, at most and at least.
const MATCH: std::ops::RangeInclusive<usize> = 2..=8;
/// Tokens back that are looked at.
const LOOK: usize = 1 << 16;
/// Positions that a model reads at once; while it has more to read, nothing is guessed.
const READ: usize = 128;
/// Sessions that a model keeps what it has read of.
const MAX_READ: usize = 64;
/// What each pass leaves of the memory of earlier ones.
const MEMORY: f64 = 0.95;

/// What a node guesses by, where the first layer is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Guess {
    /// Nothing is guessed.
    Never,
    /// What followed before.
    #[default]
    Repeats,
    /// A small model with the same vocabulary, in this folder.
    Model(PathBuf),
}

impl Guess {
    /// Bytes of the weights that it takes.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`], if there is a model.
    pub fn bytes(&self) -> Result<u64> {
        let Guess::Model(folder) = self else { return Ok(0) };
        let checkpoint = Checkpoint::open(folder)?;
        Ok(checkpoint.size(&(0..checkpoint.shape().layers), None)?.kept)
    }
}

impl From<PathBuf> for Guess {
    /// As `--draft` has it.
    fn from(path: PathBuf) -> Guess {
        if path.as_os_str() == "none" { Guess::Never } else { Guess::Model(path) }
    }
}

/// Guesses for all sessions of a first stage.
pub struct Drafts {
    model: Option<Engine>,
    /// Texts that it keeps what it has read of, at most, and bytes that these take.
    texts: usize,
    bytes: u64,
    /// Seconds that a draft costs, in all stages together and in the model that makes it.
    position: f64,
    sessions: HashMap<SessionId, Guesses>,
}

/// What is known of one session.
#[derive(Default)]
struct Guesses {
    /// What was guessed, where, and when.
    last: Option<(Vec<u32>, usize, Instant)>,
    /// Drafts that were met, and that were not, of late.
    met: f64,
    missed: f64,
    /// Seconds that a pass takes without drafts.
    pause: Option<f64>,
    cache: Option<Cache>,
}

impl Drafts {
    /// Guesses by `model`, if there is one; `position` is what all stages take for one more position of a pass; what it has
    /// read of texts takes up to `memory` bytes.
    pub fn new(model: Option<Engine>, position: Duration, memory: u64) -> Drafts {
        let of_text = |model: &Engine| (model.shape().cache_bytes() * model.layers() * model.shape().context) as u64;
        let of_text = model.as_ref().map_or(u64::MAX, of_text).max(1);
        let texts = (memory / of_text).min(MAX_READ as u64);
        let (texts, bytes) = (texts as usize, texts * of_text);
        let own = model.as_ref().map_or(Duration::ZERO, |model| super::speed::pass(model, 1));
        Drafts { model, texts, bytes, position: (position + own).as_secs_f64(), sessions: HashMap::new() }
    }

    /// Bytes that it keeps of what it has read, at most.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Never guesses.
    pub fn none() -> Drafts {
        Drafts { model: None, texts: 0, bytes: 0, position: f64::INFINITY, sessions: HashMap::new() }
    }
}

impl Draft for Drafts {
    fn draft(&mut self, session: &SessionId, text: &[u32], most: usize) -> Vec<u32> {
        let read = self.sessions.values().filter(|guesses| guesses.cache.is_some()).count();
        let guesses = self.sessions.entry(*session).or_default();
        let now = Instant::now();
        guesses.learn(text, now, self.position);
        let count = guesses.best(self.position).min(most);
        let drafts = match &self.model {
            _ if count == 0 => Vec::new(),
            Some(model) if read < self.texts || guesses.cache.is_some() => {
                let cache = guesses.cache.get_or_insert_with(|| model.cache(model.shape().context));
                written(model, cache, text, count).unwrap_or_default() // A text that it can't go on with is not guessed.
            }
            _ => repeated(text, count),
        };
        guesses.last = Some((drafts.clone(), text.len(), now));
        drafts
    }

    fn end(&mut self, session: &SessionId) {
        self.sessions.remove(session);
    }
}

impl Guesses {
    /// What became of the last guess.
    fn learn(&mut self, text: &[u32], now: Instant, position: f64) {
        let Some((drafts, at, then)) = self.last.take() else { return };
        let came = text.get(at..).unwrap_or_default();
        let met = drafts.iter().zip(came).take_while(|(draft, token)| draft == token).count();
        (self.met, self.missed) = (MEMORY * self.met + met as f64, MEMORY * self.missed);
        self.missed += f64::from(u8::from(met < drafts.len()));
        let pause = (now.duration_since(then).as_secs_f64() - drafts.len() as f64 * position).max(1e-6);
        let known = *self.pause.get_or_insert(pause);
        self.pause = Some(known + 0.2 * (pause - known));
        if let Some(cache) = &mut self.cache {
            cache.truncate(at + met);
        }
    }

    /// How many drafts bring most tokens a second.
    fn best(&self, position: f64) -> usize {
        let probability = (self.met + 1.0) / (self.met + self.missed + 2.0);
        let pause = self.pause.unwrap_or(position);
        let (mut tokens, mut next) = (1.0, 1.0);
        let (mut best, mut count) = (tokens / pause, 0);
        for drafts in 1..=MAX_DRAFTS {
            next *= probability;
            tokens += next;
            let speed = tokens / (pause + drafts as f64 * position);
            if speed > best {
                (best, count) = (speed, drafts);
            }
        }
        count
    }
}

/// What followed the text's last tokens where most of them stood before, the latest such place.
fn repeated(text: &[u32], count: usize) -> Vec<u32> {
    let end = text.len();
    let (mut longest, mut place) = (*MATCH.start() - 1, None);
    for at in (end.saturating_sub(LOOK)..end.saturating_sub(1)).rev() {
        let same =
            text[..=at].iter().rev().zip(text.iter().rev()).take(*MATCH.end()).take_while(|(a, b)| a == b).count();
        if same > longest {
            (longest, place) = (same, Some(at + 1));
            if same == *MATCH.end() {
                break;
            }
        }
    }
    let Some(place) = place else { return Vec::new() };
    // What repeats itself goes on to.
    text[place..].iter().copied().cycle().take(count).collect()
}

/// What the model takes to follow, after it has read all that it has not.
fn written(model: &Engine, cache: &mut Cache, text: &[u32], count: usize) -> Result<Vec<u32>> {
    let mut drafts = Vec::new();
    cache.truncate(text.len().saturating_sub(1));
    let unread = &text[cache.len()..];
    if unread.len() > READ {
        let x = model.embed(&unread[..READ], cache.len())?;
        model.forward(x, &mut [Part { cache, positions: READ }])?;
        return Ok(drafts);
    }
    let (width, likeliest) = (model.shape().width, Sampling { temperature: 0.0, ..Sampling::default() });
    let mut next = unread.to_vec();
    while drafts.len() < count && cache.len() + next.len() <= model.shape().context {
        let x = model.embed(&next, cache.len())?;
        let x = model.forward(x, &mut [Part { cache, positions: next.len() }])?;
        let token = sample(&model.logits(&x[x.len() - width..])?, &likeliest, &[], 0).token;
        drafts.push(token);
        next = vec![token];
    }
    Ok(drafts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_followed_the_longest_latest_match_is_guessed() {
        assert_eq!(repeated(&[1, 2, 3, 4, 9, 2, 3], 2), [4, 9]);
        assert_eq!(repeated(&[1, 2, 7, 2, 3, 5, 1, 2, 3, 8, 1, 2, 3], 1), [8]);
        assert_eq!(repeated(&[1, 2, 3, 4], 4), [] as [u32; 0]);
        assert_eq!(repeated(&[5, 6, 5, 6, 5, 6], 5), [5, 6, 5, 6, 5]);
        assert_eq!(repeated(&[], 3), [] as [u32; 0]);
        assert_eq!(repeated(&[1], 3), [] as [u32; 0]);
    }

    /// Passes through a ring of `pause`, of whose drafts one in `every` is not met: how many are guessed in the end.
    fn settled(pause: f64, position: f64, every: usize) -> usize {
        let (mut guesses, mut now, mut text, mut count, mut drawn) =
            (Guesses::default(), Instant::now(), vec![0], 0, 0);
        for _ in 0..200 {
            guesses.last = Some((vec![1; count], text.len(), now));
            let met = (0..count)
                .take_while(|_| {
                    drawn += 1;
                    drawn % every != 0
                })
                .count();
            text.extend(std::iter::repeat_n(1, met).chain([0]));
            now += Duration::from_secs_f64(pause + count as f64 * position);
            guesses.learn(&text, now, position);
            count = guesses.best(position);
        }
        count
    }

    #[test]
    fn as_many_are_guessed_as_pay() {
        // A ring of 100 ms with four of five met: by the formula 17 or so of a cost of 1 ms each; few where each costs much.
        assert!((10..=24).contains(&settled(0.1, 0.001, 5)), "{}", settled(0.1, 0.001, 5));
        assert!((1..=6).contains(&settled(0.1, 0.03, 5)), "{}", settled(0.1, 0.03, 5));
        assert_eq!(settled(0.01, 0.01, 2), 0);
        assert_eq!(settled(0.1, 1e-6, 1000), MAX_DRAFTS);
    }
}

//! The choice of a token: a function of logits, text, parameters, seed and position alone, with the same result on every machine. So whoever
//! goes on with a text goes on alike, and a draft of it can be checked.

use crate::engine::weigh;
use ailo_protocol::{
    Hash,
    hash::{Domain, Stream},
};

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always; 1 samples from the model's own distribution.
    pub temperature: f64,
    /// Only this many of the likeliest tokens are candidates; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that hold this share of the probability together are candidates.
    pub top_p: f64,
    /// Only tokens are candidates that are at least this many times as likely as the likeliest.
    pub min_p: f64,
    /// Taken from the logit of each token that was written already.
    pub presence: f64,
    /// The same for each time that it was.
    pub frequency: f64,
    /// Added to the logits of some tokens.
    pub biases: Vec<(u32, f32)>,
    /// The same seed gives the same text.
    pub seed: u64,
    /// Whether to say how likely the token was, and so many of the likeliest beside it.
    pub logprobs: Option<u32>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence: 0.0,
            frequency: 0.0,
            biases: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// If asked for: the logarithm of its probability by the model alone, and the likeliest tokens with theirs.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
}

/// Chooses the token at `position` from its logits. `written` is what penalties count.
pub fn sample(logits: &[f32], sampling: &Sampling, written: &[u32], position: usize) -> Sampled {
    let logprobs = sampling.logprobs.map(|top| Logprobs::new(logits, top as usize));
    let mut adjusted;
    let mut scores = logits;
    if sampling.presence != 0.0 || sampling.frequency != 0.0 || !sampling.biases.is_empty() {
        adjusted = logits.to_vec();
        adjust(&mut adjusted, sampling, written);
        scores = &adjusted;
    }
    let token = choose(scores, sampling, position);
    Sampled { token, logprobs: logprobs.map(|known| (known.of(logits[token as usize]), known.top)) }
}

fn adjust(logits: &mut [f32], sampling: &Sampling, written: &[u32]) {
    let mut counts: Vec<u32> = written.to_vec();
    counts.sort_unstable();
    for run in counts.chunk_by(|a, b| a == b) {
        if let Some(logit) = logits.get_mut(run[0] as usize) {
            *logit -= (sampling.presence + sampling.frequency * run.len() as f64) as f32;
        }
    }
    for (token, bias) in &sampling.biases {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
}

/// Descending, ties to the lower token.
fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The largest logit, by which the likeliest token is found: the first that has it.
fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().max_by(f32::total_cmp).unwrap_or_default()
}

fn choose(logits: &[f32], sampling: &Sampling, position: usize) -> u32 {
    let most = largest(logits);
    let likeliest = logits.iter().position(|logit| logit.to_bits() == most.to_bits()).unwrap_or_default() as u32;
    if sampling.temperature <= 0.0 || sampling.top_k == 1 || !most.is_finite() {
        return likeliest;
    }
    let mut weights = logits.to_vec();
    weigh(&mut weights, most, (1.0 / sampling.temperature) as f32);
    let mut all: Vec<(f32, u32)> = weights.into_iter().zip(0..).collect();
    if sampling.min_p > 0.0 {
        all.retain(|(weight, _)| f64::from(*weight) >= sampling.min_p);
    }
    if sampling.top_k > 0 && (sampling.top_k as usize) < all.len() {
        all.select_nth_unstable_by(sampling.top_k as usize - 1, order);
        all.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        all = nucleus(all, sampling.top_p);
    } else {
        all.sort_unstable_by_key(|(_, token)| *token);
    }
    let total: f64 = all.iter().map(|(weight, _)| f64::from(*weight)).sum();
    let mut left = unit(&mut draws(sampling.seed, position)) * total;
    for (weight, token) in &all {
        left -= f64::from(*weight);
        if left < 0.0 {
            return *token;
        }
    }
    likeliest
}

/// The likeliest that hold a share of all weight together, one at least.
fn nucleus(mut all: Vec<(f32, u32)>, share: f64) -> Vec<(f32, u32)> {
    all.sort_unstable_by_key(|(_, token)| *token);
    let wanted = share * all.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
    // Mostly a few tokens hold nearly all.
    let mut count = 64;
    loop {
        let most = count.min(all.len());
        if most < all.len() {
            all.select_nth_unstable_by(most - 1, order);
        }
        all[..most].sort_unstable_by(order);
        let mut held = 0.0;
        for end in 0..most {
            held += f64::from(all[end].0);
            if held >= wanted {
                all.truncate(end + 1);
                return all;
            }
        }
        if most == all.len() {
            return all;
        }
        count *= 8;
    }
}

fn draws(seed: u64, position: usize) -> Stream {
    Hash::of_parts(Domain::Lot, &[b"sampling", &seed.to_le_bytes(), &(position as u64).to_le_bytes()]).stream()
}

/// 0 to below 1.
fn unit(draws: &mut Stream) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The model's own probabilities.
struct Logprobs {
    largest: f32,
    logarithm: f64,
    top: Vec<(u32, f32)>,
}

impl Logprobs {
    fn new(logits: &[f32], top: usize) -> Logprobs {
        let largest = largest(logits);
        let mut weights = logits.to_vec();
        weigh(&mut weights, largest, 1.0);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut known = Logprobs { largest, logarithm: libm::log(total), top: Vec::new() };
        let top = top.min(logits.len());
        if top > 0 {
            let mut all: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            all.select_nth_unstable_by(top - 1, order);
            all.truncate(top);
            all.sort_unstable_by(order);
            known.top = all.iter().map(|(logit, token)| (*token, known.of(*logit))).collect();
        }
        known
    }

    fn of(&self, logit: f32) -> f32 {
        (f64::from(logit - self.largest) - self.logarithm) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.0, f32::NEG_INFINITY, 1.0];

    /// Tokens that come up at some of 300 positions.
    fn drawn(sampling: &Sampling, written: &[u32]) -> Vec<u32> {
        let mut tokens: Vec<u32> = (0..300).map(|i| sample(&LOGITS, sampling, written, i).token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn sampling_keeps_to_its_candidates() {
        let all = Sampling::default();
        assert_eq!(drawn(&all, &[]), [0, 1, 2, 4]);
        assert_eq!(drawn(&Sampling { temperature: 0.0, ..all.clone() }, &[]), [1]);
        assert_eq!(drawn(&Sampling { top_k: 2, ..all.clone() }, &[]), [1, 2]);
        assert_eq!(drawn(&Sampling { top_p: 0.7, ..all.clone() }, &[]), [1, 2]); // Shares: 0.64, 0.24, 0.09, 0.03.
        assert_eq!(drawn(&Sampling { top_p: 0.0, ..all.clone() }, &[]), [1]);
        assert_eq!(drawn(&Sampling { min_p: 0.1, ..all.clone() }, &[]), [1, 2, 4]);
        assert_eq!(drawn(&Sampling { biases: vec![(1, -100.0), (0, 100.0)], ..all.clone() }, &[]), [0]);
        assert_eq!(drawn(&Sampling { presence: 50.0, ..all.clone() }, &[1, 1, 2]), [0, 4]);
        assert_eq!(drawn(&Sampling { frequency: 25.0, ..all }, &[1, 1, 2, 4, 4]), [0]);
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let sampling = Sampling { seed: 5, ..Sampling::default() };
        let count = (0..10_000).filter(|i| sample(&LOGITS, &sampling, &[], *i).token == 1).count();
        assert!((6340..6540).contains(&count), "{count}"); // 0.6439
    }

    #[test]
    fn the_likeliest_is_the_first_in_the_total_order() {
        let cases: [&[f32]; 6] = [
            &[],
            &[-0.0, 0.0, 0.0],
            &[-1.0, -2.0, f32::NEG_INFINITY],
            &[1.0, f32::INFINITY],
            &[f32::NAN, 1.0],
            &[-3.5; 9],
        ];
        for logits in cases {
            let pairs: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            let right = pairs.iter().copied().min_by(order).unwrap_or((0.0, 0));
            assert_eq!(largest(logits).to_bits(), right.0.to_bits(), "{logits:?}");
            let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
            assert_eq!(choose(logits, &greedy, 0), right.1, "{logits:?}");
        }
    }

    #[test]
    fn seed_and_position_decide() {
        let text = |seed| -> Vec<u32> {
            let sampling = Sampling { seed, ..Sampling::default() };
            (0..50).map(|i| sample(&LOGITS, &sampling, &[], i).token).collect()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn a_nucleus_is_found_among_many_tokens_as_by_sorting_them_all() {
        let mut noise = Hash([3; 32]).stream();
        let logits: Vec<f32> = (0..5000).map(|_| noise.below(1000) as f32 * 1e-2).collect();
        for top_p in [0.01, 0.3, 0.9, 0.9999] {
            let mut weights = logits.clone();
            weigh(&mut weights, 9.99, 1.0);
            let weights: Vec<(f32, u32)> = weights.into_iter().zip(0..).collect();
            let mut sorted = weights.clone();
            sorted.sort_by(order);
            let wanted = top_p * weights.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
            let mut held = 0.0;
            let count = sorted
                .iter()
                .take_while(|(w, _)| {
                    let more = held < wanted;
                    held += f64::from(*w);
                    more
                })
                .count();
            assert_eq!(nucleus(weights, top_p), sorted[..count], "{top_p}");
        }
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let sampling = Sampling { temperature: 0.0, logprobs: Some(2), biases: vec![(0, 50.0)], ..Sampling::default() };
        let sampled = sample(&LOGITS, &sampling, &[], 0);
        assert_eq!(sampled.token, 0);
        let (own, top) = sampled.logprobs.unwrap_or_default();
        assert!((own + 3.4401).abs() < 1e-3, "{own}");
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2]);
        assert!((top[0].1 + 0.4402).abs() < 1e-3, "{top:?}");
    }
}

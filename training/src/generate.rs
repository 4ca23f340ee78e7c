//! Text generation from a model's weights, token by token with a cache of keys and values.
//!
//! Sampling is reproducible: the logits' order and the seed decide every token. When the context is full, the last half
//! of it is read again and generation goes on.

use crate::{
    engine::{Cache, Engine, Part},
    error::{Result, TrainingError},
    inner::Control,
    tokenizer::{self, Decoder},
};
use ailo_protocol::{
    Hash,
    hash::{Domain, Stream},
    params::{ModelConfig, Tokenizer},
};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// New tokens, at most.
    pub max_tokens: u32,
    /// 0 takes the likeliest token always; 1 samples from the model's own distribution.
    pub temperature: f64,
    /// Only this many of the likeliest tokens are candidates; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that hold this share of the probability together are candidates.
    pub top_p: f64,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { max_tokens: 128, temperature: 0.8, top_k: 0, top_p: 0.95, seed: 0 }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// `max_tokens` were made.
    Length,
    /// The model ended the text.
    Stop,
    /// The callback asked to stop.
    Cancelled,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new text, without the prompt.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// New tokens.
    pub tokens: u32,
    /// Why it ended.
    pub finish: Finish,
}

/// A model ready to generate.
pub struct Generator {
    engine: Engine,
    tokenizer: Tokenizer,
    context: usize,
}

impl Generator {
    /// A generator with these weights.
    pub fn new(cfg: &ModelConfig, weights: impl AsRef<[f32]> + Send + 'static) -> Result<Generator> {
        let engine = Engine::own(cfg, weights)?;
        Ok(Generator { engine, tokenizer: cfg.tokenizer, context: cfg.context as usize })
    }

    /// Continues `prompt`; `on_text` gets each piece of text as soon as it is whole, and may stop.
    pub fn generate(
        &self,
        prompt: &str,
        sampling: &Sampling,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Generated> {
        let mut tokens = tokenizer::encode(self.tokenizer, "prompt", prompt.as_bytes())?;
        let prompt_tokens = tokens.len() as u32;
        if tokens.is_empty() {
            return Err(TrainingError::Generate("the prompt is empty: give the model something to continue"));
        }
        let mut draws = Hash::of_parts(Domain::Lot, &[b"sampling", &sampling.seed.to_le_bytes()]).stream();
        let mut decoder = Decoder::new(self.tokenizer);
        let mut cache = self.engine.cache(self.context);
        let mut done = Generated { text: String::new(), prompt_tokens, tokens: 0, finish: Finish::Length };
        let mut emit = |piece: &str, text: &mut String| {
            text.push_str(piece);
            if piece.is_empty() { Control::Continue } else { on_text(piece) }
        };
        while done.tokens < sampling.max_tokens {
            let token = sample(&self.next_logits(&tokens, &mut cache)?, sampling, &mut draws);
            if self.tokenizer == Tokenizer::Gpt2 && token == tokenizer::GPT2_END_OF_TEXT {
                done.finish = Finish::Stop;
                break;
            }
            tokens.push(token);
            done.tokens += 1;
            if emit(&decoder.push(token), &mut done.text) == Control::Stop {
                done.finish = Finish::Cancelled;
                return Ok(done);
            }
        }
        if emit(&decoder.finish(), &mut done.text) == Control::Stop {
            done.finish = Finish::Cancelled;
        }
        Ok(done)
    }

    /// Logits of the token that follows `tokens`, of which the cache has seen all but the newest, or nothing yet.
    fn next_logits(&self, tokens: &[u16], cache: &mut Cache) -> Result<Vec<f32>> {
        // Where reading begins follows from the number of tokens alone, so whoever goes on with them goes on alike: from the context's
        // last half on, each time that it is full.
        let (half, len) = (self.context / 2, tokens.len());
        let step = self.context - half + 1;
        let start = len.saturating_sub(self.context).div_ceil(step) * step;
        if len - start == half && start > 0 {
            cache.truncate(0);
        }
        let unseen: Vec<u32> = tokens[start + cache.len()..].iter().map(|token| u32::from(*token)).collect();
        let x = self.engine.embed(&unseen, cache.len())?; // [T, C]
        let x = self.engine.forward(x, &mut [Part { cache, positions: unseen.len() }])?;
        self.engine.logits(&x[x.len() - self.engine.shape().width..])
    }
}

/// Draws a token from `logits`.
fn sample(logits: &[f32], sampling: &Sampling, draws: &mut Stream) -> u16 {
    let mut order: Vec<(f32, u16)> = logits.iter().copied().zip(0..).collect();
    // Ties go to the lower token.
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let likeliest = order[0];
    if sampling.temperature <= 0.0 {
        return likeliest.1;
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let weight = |logit: f32| libm::exp(f64::from(logit - likeliest.0) / sampling.temperature);
    let total: f64 = order.iter().map(|&(logit, _)| weight(logit)).sum();
    // The candidates end with the one that brings their share to top_p; the likeliest always is one.
    let mut share = 0.0;
    let candidates = order.iter().take_while(|&&(logit, _)| {
        let inside = share == 0.0 || share < sampling.top_p * total;
        share += weight(logit);
        inside
    });
    let candidates: Vec<(f64, u16)> = candidates.map(|&(logit, token)| (weight(logit), token)).collect();
    let unit = (draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = unit * candidates.iter().map(|(weight, _)| weight).sum::<f64>();
    for &(weight, token) in &candidates {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    likeliest.1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ModelState;
    use ailo_protocol::params::Style;
    use ailo_protocol::presets;

    fn cfg(style: Style) -> ModelConfig {
        let kv_heads = if style == Style::Gpt2 { 4 } else { 2 };
        ModelConfig { style, layers: 2, width: 64, heads: 4, kv_heads, ffn: 128, context: 32, ..presets::dev().model }
    }

    /// Larger weights than at the start, so that attention matters.
    fn weights(style: Style) -> Vec<f32> {
        ModelState::initial(&cfg(style), 1).weights.iter().map(|x| x * 8.0).collect()
    }

    #[test]
    fn whoever_goes_on_with_a_text_goes_on_alike() {
        for style in [Style::Gpt2, Style::Modern] {
            let weights = weights(style);
            let generator = Generator::new(&cfg(style), weights).unwrap();
            let tokens: Vec<u16> = (0..100).map(|i| i * 7 % 256).collect();
            let mut cache = generator.engine.cache(32);
            for end in 1..=tokens.len() {
                let warm = generator.next_logits(&tokens[..end], &mut cache).unwrap();
                let cold = generator.next_logits(&tokens[..end], &mut generator.engine.cache(32)).unwrap();
                assert_eq!(warm, cold, "{style:?} at {end}");
            }
        }
    }

    #[test]
    fn a_seed_gives_one_text_also_beyond_the_context() {
        let weights = weights(Style::Modern);
        let generator = Generator::new(&cfg(Style::Modern), weights).unwrap();
        let text = |seed| {
            let sampling = Sampling { max_tokens: 100, temperature: 1.0, seed, ..Sampling::default() };
            generator.generate("To be", &sampling, &mut |_| Control::Continue).unwrap()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1).text, text(2).text);
        assert_eq!((text(1).tokens, text(1).prompt_tokens, text(1).finish), (100, 5, Finish::Length));
        let long = "x".repeat(500);
        assert_eq!(generator.generate(&long, &Sampling::default(), &mut |_| Control::Continue).unwrap().tokens, 128);
    }

    #[test]
    fn the_pieces_are_the_text_and_the_callback_can_stop() {
        let weights = weights(Style::Gpt2);
        let generator = Generator::new(&cfg(Style::Gpt2), weights).unwrap();
        let mut pieces = String::new();
        let done = generator.generate("a", &Sampling::default(), &mut |piece| {
            pieces.push_str(piece);
            Control::Continue
        });
        assert_eq!(done.unwrap().text, pieces);
        let done = generator.generate("a", &Sampling::default(), &mut |_| Control::Stop).unwrap();
        assert_eq!(done.finish, Finish::Cancelled);
        assert!(generator.generate("", &Sampling::default(), &mut |_| Control::Continue).is_err());
    }

    #[test]
    fn sampling_keeps_to_its_candidates() {
        let logits = [0.0, 3.0, 2.0, f32::NEG_INFINITY, 1.0];
        let drawn = |sampling: Sampling| -> Vec<u16> {
            let mut draws = Hash::ZERO.stream();
            let mut tokens: Vec<u16> = (0..300).map(|_| sample(&logits, &sampling, &mut draws)).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..Sampling::default() };
        assert_eq!(drawn(all), [0, 1, 2, 4]);
        assert_eq!(drawn(Sampling { temperature: 0.0, ..all }), [1]);
        assert_eq!(drawn(Sampling { top_k: 2, ..all }), [1, 2]);
        assert_eq!(drawn(Sampling { top_p: 0.7, ..all }), [1, 2]); // shares: 0.64, 0.24, 0.09, 0.03
        assert_eq!(drawn(Sampling { top_p: 0.0, ..all }), [1]);
    }
}

//! What a decoder looks like, whichever family it is of.

use crate::model::{EPSILON, ROPE_BASE, head_width};
use ailo_protocol::params::{ModelConfig, Style};

/// The shape of a decoder. Biases are where the weights have them.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Blocks.
    pub layers: usize,
    /// Numbers in a row of the residual stream (C).
    pub width: usize,
    /// Heads of the queries (H).
    pub heads: usize,
    /// Heads of keys and values (K); divides `heads`.
    pub kv_heads: usize,
    /// Numbers in a head (D).
    pub head_width: usize,
    /// Inner width of the feed-forward part (F).
    pub ffn: usize,
    /// Tokens that there are (V).
    pub vocabulary: usize,
    /// Longest sequence.
    pub context: usize,
    /// What stands before each part of a block, and at the end.
    pub norm: Norm,
    /// Added to a variance before its root is taken.
    pub epsilon: f32,
    /// Between the linear maps of the feed-forward part.
    pub activation: Activation,
    /// Angle by which a position turns each pair (i, i + D / 2) of queries and keys; none where positions are learned rows.
    pub frequencies: Option<Vec<f64>>,
    /// Whether queries and keys pass a norm, head by head.
    pub head_norms: bool,
    /// Whether the embedding is the last linear map, too.
    pub tied: bool,
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// With mean and bias (Ba et al. 2016).
    Layer,
    /// Root mean square alone (Zhang and Sennrich 2019).
    Rms,
}

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the hyperbolic tangent.
    Gelu,
    /// SiLU of a gate times a value (Shazeer 2020).
    SwiGlu,
}

impl Shape {
    /// That of the network's own model.
    pub fn of(cfg: &ModelConfig) -> Shape {
        let gpt2 = cfg.style == Style::Gpt2;
        let head_width = head_width(cfg) as usize;
        Shape {
            layers: cfg.layers as usize,
            width: cfg.width as usize,
            heads: cfg.heads as usize,
            kv_heads: cfg.kv_heads as usize,
            head_width,
            ffn: cfg.ffn as usize,
            vocabulary: cfg.tokenizer.vocabulary() as usize,
            context: cfg.context as usize,
            norm: if gpt2 { Norm::Layer } else { Norm::Rms },
            epsilon: EPSILON as f32,
            activation: if gpt2 { Activation::Gelu } else { Activation::SwiGlu },
            frequencies: (!gpt2).then(|| frequencies(head_width, ROPE_BASE)),
            head_norms: false,
            tied: true,
        }
    }

    /// Numbers in a row of queries, keys and values.
    pub fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_width
    }

    /// Bytes that a cache takes for each position and layer.
    pub fn cache_bytes(&self) -> usize {
        2 * self.kv_heads * self.head_width * size_of::<f32>()
    }
}

/// `base ^ (-2 i / width)` (Su et al. 2021, RoFormer).
pub(crate) fn frequencies(width: usize, base: f64) -> Vec<f64> {
    (0..width / 2).map(|i| libm::exp(-2.0 / width as f64 * i as f64 * libm::log(base))).collect()
}

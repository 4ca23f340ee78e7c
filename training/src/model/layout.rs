//! A model's parameters as one flat vector of f32: their names, shapes and order, which are the same on every machine.
//!
//! Order: embedding, learned positions (GPT-2 style), then for every block norm, attention, norm, feed-forward, and the
//! last norm. A weight stands before its bias. Matrices are `[out, in]`, row by row. In modern style `qkv` holds the
//! rows of the queries, then of the keys, then of the values, and `up` those of the gate, then of the value that it
//! gates.

use ailo_protocol::params::{ModelConfig, Style};

/// How a parameter starts out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// All zero: biases.
    Zeros,
    /// All one: norms.
    Ones,
    /// Random with a standard deviation of 0.02.
    Normal,
    /// Random with a standard deviation of 0.02 / sqrt(2 layers): what adds into the residual stream.
    Residual,
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, as in `blocks.0.qkv.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its initial values.
    pub init: Init,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether it holds no value; none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether weight decay applies: to matrices, not to biases and norms.
    pub fn decays(&self) -> bool {
        self.shape.len() == 2
    }
}

/// Width of one attention head.
pub fn head_width(cfg: &ModelConfig) -> i64 {
    i64::from(cfg.width / cfg.heads)
}

/// The parameters in their order.
pub fn layout(cfg: &ModelConfig) -> Vec<Parameter> {
    let (width, ffn) = (i64::from(cfg.width), i64::from(cfg.ffn));
    let gpt2 = cfg.style == Style::Gpt2;
    let qkv = (i64::from(cfg.heads) + 2 * i64::from(cfg.kv_heads)) * head_width(cfg);
    let up = if gpt2 { ffn } else { 2 * ffn };

    let mut out = Vec::new();
    let mut add = |name: String, shape: &[i64], init| out.push(Parameter { name, shape: shape.into(), init });
    add("embedding.weight".into(), &[i64::from(cfg.tokenizer.vocabulary()), width], Init::Normal);
    if gpt2 {
        add("positions.weight".into(), &[i64::from(cfg.context), width], Init::Normal);
    }
    // A linear map or a norm; GPT-2 style has biases, modern style has none.
    let mut part = |name: String, shape: &[i64], init| {
        add(format!("{name}.weight"), shape, init);
        if gpt2 {
            add(format!("{name}.bias"), &shape[..1], Init::Zeros);
        }
    };
    for i in 0..cfg.layers {
        part(format!("blocks.{i}.norm1"), &[width], Init::Ones);
        part(format!("blocks.{i}.qkv"), &[qkv, width], Init::Normal);
        part(format!("blocks.{i}.out"), &[width, width], Init::Residual);
        part(format!("blocks.{i}.norm2"), &[width], Init::Ones);
        part(format!("blocks.{i}.up"), &[up, width], Init::Normal);
        part(format!("blocks.{i}.down"), &[width, ffn], Init::Residual);
    }
    part("norm".into(), &[width], Init::Ones);
    out
}

/// What one place of a model holds: a weight, and in GPT-2 style its bias.
pub(crate) struct Part<T> {
    pub weight: T,
    pub bias: Option<T>,
}

/// A decoder block.
pub(crate) struct Block<T> {
    pub norm1: Part<T>,
    pub qkv: Part<T>,
    pub out: Part<T>,
    pub norm2: Part<T>,
    pub up: Part<T>,
    pub down: Part<T>,
}

/// A model's parameters by their places.
pub(crate) struct Parts<T> {
    pub embedding: T,
    pub positions: Option<T>,
    pub blocks: Vec<Block<T>>,
    pub norm: Part<T>,
}

impl<T> Parts<T> {
    /// `parameters` are those of [`layout`], in its order.
    pub fn new(cfg: &ModelConfig, parameters: impl IntoIterator<Item = T>) -> Parts<T> {
        let mut rest = parameters.into_iter();
        let mut next = || rest.next().unwrap_or_else(|| unreachable!("the layout names every parameter below"));
        let biased = cfg.style == Style::Gpt2;
        let embedding = next();
        let positions = biased.then(&mut next);
        let mut part = || Part { weight: next(), bias: biased.then(&mut next) };
        let mut block = || Block { norm1: part(), qkv: part(), out: part(), norm2: part(), up: part(), down: part() };
        let blocks = (0..cfg.layers).map(|_| block()).collect();
        Parts { embedding, positions, blocks, norm: part() }
    }
}

/// Number of values in all parameters.
pub fn parameter_count(cfg: &ModelConfig) -> usize {
    layout(cfg).iter().map(Parameter::len).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::params::Tokenizer;

    #[test]
    fn gpt2_itself_has_its_published_number_of_parameters() {
        let gpt2 = ModelConfig {
            style: Style::Gpt2,
            tokenizer: Tokenizer::Gpt2,
            layers: 12,
            width: 768,
            heads: 12,
            kv_heads: 12,
            ffn: 3072,
            context: 1024,
        };
        assert_eq!(parameter_count(&gpt2), 124_439_808);
    }

    #[test]
    fn grouped_queries_and_gates_have_their_shapes() {
        let cfg = ModelConfig {
            style: Style::Modern,
            tokenizer: Tokenizer::Bytes,
            layers: 1,
            width: 64,
            heads: 4,
            kv_heads: 2,
            ffn: 160,
            context: 32,
        };
        let shapes: Vec<(String, Vec<i64>)> = layout(&cfg).into_iter().map(|p| (p.name, p.shape)).collect();
        let expect = |name: &str, shape: &[i64]| (name.to_string(), shape.to_vec());
        assert_eq!(
            shapes,
            [
                expect("embedding.weight", &[256, 64]),
                expect("blocks.0.norm1.weight", &[64]),
                expect("blocks.0.qkv.weight", &[128, 64]),
                expect("blocks.0.out.weight", &[64, 64]),
                expect("blocks.0.norm2.weight", &[64]),
                expect("blocks.0.up.weight", &[320, 64]),
                expect("blocks.0.down.weight", &[64, 160]),
                expect("norm.weight", &[64]),
            ]
        );
    }
}

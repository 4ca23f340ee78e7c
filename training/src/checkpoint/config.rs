//! `config.json` of a Hugging Face checkpoint: which family, and which shape. What would change the numbers and is not known here is refused.

use crate::{
    engine::{Activation, Norm, Shape, frequencies},
    error::{Result, TrainingError},
};
use serde_json::Value;
use std::f64::consts::TAU;

/// Numbers in a head, at most.
const MAX_HEAD: usize = 1 << 12;

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2 and DistilGPT-2.
    Gpt2,
    /// Llama 2 and 3.
    Llama,
    /// Qwen 1.5 and 2.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

/// Family, shape and the tokens that end a text.
pub(super) fn read(config: &Value) -> Result<(Family, Shape, Vec<u32>)> {
    let config = Config(config);
    let family = match config.text("model_type")? {
        "gpt2" => Family::Gpt2,
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        other => {
            return Err(refused(format!("models of type '{other}' are not known: gpt2, llama, qwen2 and qwen3 are")));
        }
    };
    let shape = if family == Family::Gpt2 { gpt2(&config)? } else { modern(&config, family)? };
    let inside = |value: usize, most: usize| (1..=most).contains(&value);
    let sane = inside(shape.layers, 512)
        && [shape.width, shape.ffn, shape.vocabulary, shape.context].iter().all(|x| inside(*x, 1 << 24))
        && inside(shape.heads, 1 << 12)
        && inside(shape.head_width, MAX_HEAD)
        && inside(shape.kv_heads, shape.heads)
        && shape.heads.is_multiple_of(shape.kv_heads)
        && (shape.frequencies.is_none() || shape.head_width.is_multiple_of(2));
    if !sane {
        return Err(refused(format!("its numbers make no decoder: {shape:?}")));
    }
    Ok((family, shape, ends(config.0).unwrap_or_default()))
}

/// `eos_token_id`: one or several.
pub(super) fn ends(config: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get("eos_token_id")? {
        Value::Array(all) => Some(all.iter().filter_map(one).collect()),
        value => one(value).map(|id| vec![id]),
    }
}

fn gpt2(config: &Config<'_>) -> Result<Shape> {
    config.must("activation_function", "gelu_new", &["gelu_new", "gelu_pytorch_tanh"])?;
    config.must_be("scale_attn_weights", true)?;
    config.must_be("scale_attn_by_inverse_layer_idx", false)?;
    let (width, heads) = (config.number("n_embd")?, config.number("n_head")?);
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(refused(format!("{width} numbers can't be shared by {heads} heads")));
    }
    Ok(Shape {
        layers: config.number("n_layer")?,
        width,
        heads,
        kv_heads: heads,
        head_width: width / heads,
        ffn: config.number_or("n_inner", width.saturating_mul(4))?,
        vocabulary: config.number("vocab_size")?,
        context: config.number("n_positions")?,
        norm: Norm::Layer,
        epsilon: config.float_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: Activation::Gelu,
        frequencies: None,
        head_norms: false,
        tied: config.flag("tie_word_embeddings", true)?,
    })
}

fn modern(config: &Config<'_>, family: Family) -> Result<Shape> {
    config.must("hidden_act", "silu", &["silu", "swish"])?;
    let (width, heads) = (config.number("hidden_size")?, config.number("num_attention_heads")?);
    let context = config.number("max_position_embeddings")?;
    if config.flag("use_sliding_window", false)? && config.number_or("sliding_window", 0)? < context {
        return Err(refused("attention over a sliding window is not known here".into()));
    }
    let head_width = config.number_or("head_dim", width / heads.max(1))?;
    if head_width > MAX_HEAD {
        return Err(refused(format!("a head of {head_width} numbers is no head")));
    }
    Ok(Shape {
        layers: config.number("num_hidden_layers")?,
        width,
        heads,
        kv_heads: config.number_or("num_key_value_heads", heads)?,
        head_width,
        ffn: config.number("intermediate_size")?,
        vocabulary: config.number("vocab_size")?,
        context,
        norm: Norm::Rms,
        epsilon: config.float_or("rms_norm_eps", 1e-6)? as f32,
        activation: Activation::SwiGlu,
        frequencies: Some(rotary(config, head_width)?),
        head_norms: family == Family::Qwen3,
        tied: config.flag("tie_word_embeddings", false)?,
    })
}

/// Rotary frequencies, which a long context may have slowed down. They are float32 numbers there, and so here.
fn rotary(config: &Config<'_>, head_width: usize) -> Result<Vec<f64>> {
    // Version 5 of transformers writes all of it into one table.
    let table =
        ["rope_parameters", "rope_scaling"].into_iter().filter_map(|name| config.0.get(name)).find(|v| v.is_object());
    let table = Config(table.unwrap_or(&Value::Null));
    let base = match table.0.get("rope_theta") {
        Some(_) => table.float_or("rope_theta", 1e4)?,
        None => config.float_or("rope_theta", 1e4)?,
    };
    let mut all = frequencies(head_width, base);
    let kind = table.0.get("rope_type").or_else(|| table.0.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => {}
        "linear" => {
            let factor = table.float("factor")?;
            all.iter_mut().for_each(|frequency| *frequency /= factor);
        }
        // Long waves are slowed down by the factor, short ones not, those between in proportion (Llama 3.1).
        "llama3" => {
            let (factor, context) = (table.float("factor")?, table.float("original_max_position_embeddings")?);
            let (low, high) = (table.float("low_freq_factor")?, table.float("high_freq_factor")?);
            if factor < 1.0 || high <= low {
                return Err(refused("the factors of its rotary positions make no sense".into()));
            }
            for frequency in &mut all {
                let fast = ((context * *frequency / TAU - low) / (high - low)).clamp(0.0, 1.0);
                *frequency *= (1.0 - fast) / factor + fast;
            }
        }
        other => {
            return Err(refused(format!(
                "rotary positions of type '{other}' are not known: default, linear and llama3 are"
            )));
        }
    }
    Ok(all.into_iter().map(|frequency| f64::from(frequency as f32)).collect())
}

/// A table of the configuration.
struct Config<'a>(&'a Value);

impl<'a> Config<'a> {
    fn given(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn missing(name: &str) -> TrainingError {
        refused(format!("it has no '{name}'"))
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.given(name).and_then(Value::as_str).ok_or_else(|| Config::missing(name))
    }

    fn number(&self, name: &str) -> Result<usize> {
        let number = self.given(name).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| Config::missing(name))
    }

    fn number_or(&self, name: &str, usual: usize) -> Result<usize> {
        if self.given(name).is_some() { self.number(name) } else { Ok(usual) }
    }

    fn float(&self, name: &str) -> Result<f64> {
        let number = self.given(name).and_then(Value::as_f64).filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| Config::missing(name))
    }

    fn float_or(&self, name: &str, usual: f64) -> Result<f64> {
        if self.given(name).is_some() { self.float(name) } else { Ok(usual) }
    }

    fn flag(&self, name: &str, usual: bool) -> Result<bool> {
        self.given(name).map_or(Ok(usual), |value| value.as_bool().ok_or_else(|| Config::missing(name)))
    }

    fn must_be(&self, name: &str, known: bool) -> Result<()> {
        let right = self.flag(name, known)? == known;
        right.then_some(()).ok_or_else(|| refused(format!("'{name}' is not what is known here: {known}")))
    }

    fn must(&self, name: &str, usual: &str, known: &[&str]) -> Result<()> {
        let given = self.given(name).map_or(Ok(usual), |value| value.as_str().ok_or_else(|| Config::missing(name)))?;
        let right = known.contains(&given);
        right.then_some(()).ok_or_else(|| refused(format!("'{name}' is '{given}': {} is known", known.join(" or "))))
    }
}

fn refused(why: String) -> TrainingError {
    TrainingError::Checkpoint(format!("the model's config.json can't be used: {why}"))
}

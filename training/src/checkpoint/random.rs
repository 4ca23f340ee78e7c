//! Checkpoints with made-up weights, for tests and benchmarks: the folder of any known family, of any size.
//!
//! A weight is a function of its tensor's name and its place alone: `scripts/transformers-vectors` makes the same ones.

use crate::error::{Result, TrainingError};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Shapes and values by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Values of a tensor.
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let mixed = |i: usize| {
        let mut x =
            (i as u64).wrapping_mul(2_654_435_761).wrapping_add(u64::from(crc32fast::hash(name.as_bytes()))) as u32;
        for (shift, factor) in [(16, 0x7feb_352d), (15, 0x846c_a68b)] {
            x = (x ^ (x >> shift)).wrapping_mul(factor);
        }
        f64::from(x ^ (x >> 16)) / f64::from(1u32 << 31) - 1.0
    };
    let kind = |x: f64| match (shape.len(), name.ends_with("weight")) {
        (2, _) => x * 0.2,
        (_, true) => 1.0 + 0.25 * x,
        (_, false) => x * 0.1,
    };
    (0..shape.iter().product()).map(|i| kind(mixed(i)) as f32).collect()
}

/// All tensors of a model with this configuration.
pub fn tensors(config: &Value) -> Tensors {
    shapes(config).into_iter().map(|(name, shape)| (name.clone(), (shape.clone(), values(&name, &shape)))).collect()
}

/// The shapes of a model's tensors by name.
pub fn shapes(config: &Value) -> BTreeMap<String, Vec<usize>> {
    let number = |name: &str| config[name].as_u64().unwrap_or(1) as usize;
    let mut all = Vec::new();
    if config["model_type"] == "gpt2" {
        let (width, layers) = (number("n_embd"), number("n_layer"));
        all.push(("transformer.wte.weight".to_string(), vec![number("vocab_size"), width]));
        all.push(("transformer.wpe.weight".into(), vec![number("n_positions"), width]));
        for layer in 0..layers {
            let name = |place: &str| format!("transformer.h.{layer}.{place}");
            for (place, outs, ins) in
                [("attn.c_attn", 3, 1), ("attn.c_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)]
            {
                all.push((name(&format!("{place}.weight")), vec![ins * width, outs * width]));
                all.push((name(&format!("{place}.bias")), vec![outs * width]));
            }
            for place in ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"] {
                all.push((name(place), vec![width]));
            }
        }
        all.extend(["weight", "bias"].map(|place| (format!("transformer.ln_f.{place}"), vec![width])));
    } else {
        let (width, ffn, heads) = (number("hidden_size"), number("intermediate_size"), number("num_attention_heads"));
        let head = config["head_dim"].as_u64().map_or(width / heads, |head| head as usize);
        let (queries, keys) = (heads * head, number("num_key_value_heads") * head);
        all.push(("model.embed_tokens.weight".to_string(), vec![number("vocab_size"), width]));
        for layer in 0..number("num_hidden_layers") {
            let name = |place: &str| format!("model.layers.{layer}.{place}");
            for (place, outs, ins) in [
                ("self_attn.q_proj", queries, width),
                ("self_attn.k_proj", keys, width),
                ("self_attn.v_proj", keys, width),
                ("self_attn.o_proj", width, queries),
                ("mlp.gate_proj", ffn, width),
                ("mlp.up_proj", ffn, width),
                ("mlp.down_proj", width, ffn),
            ] {
                all.push((name(&format!("{place}.weight")), vec![outs, ins]));
                if config["model_type"] == "qwen2" && place.contains("attn") && place != "self_attn.o_proj" {
                    all.push((name(&format!("{place}.bias")), vec![outs]));
                }
            }
            if config["model_type"] == "qwen3" {
                all.extend(["q", "k"].map(|place| (name(&format!("self_attn.{place}_norm.weight")), vec![head])));
            }
            all.extend(
                ["input", "post_attention"].map(|place| (name(&format!("{place}_layernorm.weight")), vec![width])),
            );
        }
        all.push(("model.norm.weight".into(), vec![width]));
        if config["tie_word_embeddings"] != true {
            all.push(("lm_head.weight".into(), vec![number("vocab_size"), width]));
        }
    }
    all.into_iter().collect()
}

/// Writes a folder, with the weights in `files` files.
///
/// # Errors
///
/// [`TrainingError::File`] if the folder can't be written to.
pub fn write(folder: &Path, config: &Value, tensors: &Tensors, files: usize) -> Result<()> {
    put(folder, "config.json", config.to_string().as_bytes())?;
    let all: Vec<_> = tensors.iter().collect();
    let mut map = serde_json::Map::new();
    for (i, part) in all.chunks(all.len().div_ceil(files.max(1)).max(1)).enumerate() {
        let file = if files == 1 { "model.safetensors".into() } else { format!("model-{i}.safetensors") };
        let bytes: Vec<Vec<u8>> =
            part.iter().map(|(_, (_, x))| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = part.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
            map.insert(name.to_string(), json!(file));
            let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            view.map(|view| (name, view))
        });
        let made =
            views.collect::<std::result::Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, None));
        put(folder, &file, &made.map_err(|e| TrainingError::Checkpoint(e.to_string()))?)?;
    }
    if files > 1 {
        put(folder, "model.safetensors.index.json", json!({ "weight_map": map }).to_string().as_bytes())?;
    }
    Ok(())
}

/// Writes a byte-level tokenizer of 262 tokens, with a few merges and the marks `<|im_start|>` and `<|im_end|>`, and a chat template.
///
/// # Errors
///
/// As [`write()`].
pub fn write_tokenizer(folder: &Path, template: Option<&str>) -> Result<()> {
    let mut vocabulary = serde_json::Map::new();
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let words = alphabet.into_iter().map(String::from).chain(["he", "ll", "hell", "Ġw"].map(String::from));
    for (i, word) in words.enumerate() {
        vocabulary.insert(word, json!(i));
    }
    let mark = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let bytes = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [mark(260, "<|im_start|>"), mark(261, "<|im_end|>")],
        "normalizer": null,
        "pre_tokenizer": bytes(false),
        "post_processor": null,
        "decoder": bytes(true),
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                   "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
                   "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "w"]] }
    });
    put(folder, "tokenizer.json", tokenizer.to_string().as_bytes())?;
    let config =
        json!({ "eos_token": "<|im_end|>", "bos_token": { "content": "<|im_start|>" }, "chat_template": template });
    put(folder, "tokenizer_config.json", config.to_string().as_bytes())
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(|source| TrainingError::File { action: "write", path, source })
}

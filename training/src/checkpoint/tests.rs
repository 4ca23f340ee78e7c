//! Checkpoints against what transformers computes from the same ones (`scripts/transformers-vectors`), and folders that are none.

#![allow(clippy::unwrap_used)]

use super::{
    random::{Tensors, tensors, write},
    *,
};
use crate::{
    engine::{Engine, Part},
    model::{Parameter, layout},
};
use ailo_protocol::params::{ModelConfig, Style, Tokenizer};
use serde_json::{Value, json};

fn engine(checkpoint: &Checkpoint, span: Range<usize>, dtype: Option<Dtype>) -> Engine {
    let loaded = checkpoint.load(span, dtype, &mut |_, _| ()).unwrap();
    Engine::new(checkpoint.shape().clone(), loaded.weights, 1).unwrap()
}

/// Logits of all tokens by the stages, which are given so many positions at once.
fn logits(stages: &[Engine], tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut caches: Vec<_> = stages.iter().map(|stage| stage.cache(tokens.len())).collect();
    let mut out = Vec::new();
    for (i, piece_tokens) in tokens.chunks(piece).enumerate() {
        let mut x = stages[0].embed(piece_tokens, i * piece).unwrap();
        for (stage, cache) in stages.iter().zip(&mut caches) {
            x = stage.forward(x, &mut [Part { cache, positions: piece_tokens.len() }]).unwrap();
        }
        out.extend(stages[stages.len() - 1].logits(&x).unwrap());
    }
    out
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |apart, (a, b)| apart.max((a - b).abs()))
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/transformers.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Logits that transformers computed, by position.
fn expected(model: &Value) -> Vec<(usize, Vec<f32>)> {
    let logits = |all: &Value| all.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    model["logits"].as_object().unwrap().iter().map(|(at, all)| (at.parse().unwrap(), logits(all))).collect()
}

#[test]
fn logits_are_those_of_transformers_in_one_piece_one_by_one_and_over_four_stages() {
    let vectors = vectors();
    let count = vectors["tokens"].as_u64().unwrap() as usize;
    for model in vectors["models"].as_array().unwrap() {
        let (name, config) = (&model["name"], &model["config"]);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), config, &tensors(config), if name == "qwen2" { 3 } else { 1 }).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let vocabulary = checkpoint.shape().vocabulary;
        let tokens: Vec<u32> = (0..count).map(|i| ((i * 37 + 11) % vocabulary) as u32).collect();
        let whole = [engine(&checkpoint, 0..4, None)];
        let ours = logits(&whole, &tokens, count);
        for (position, theirs) in expected(model) {
            let apart = apart(&ours[position * vocabulary..][..vocabulary], &theirs);
            println!("{name} at {position}: {apart:e}");
            assert!(apart < 1e-5, "{name} at {position}: {apart}");
        }
        assert_eq!(logits(&whole, &tokens, 1), ours, "{name}: token by token");
        let stages = [0, 1, 2, 3].map(|layer| engine(&checkpoint, layer..layer + 1, None));
        assert_eq!(logits(&stages, &tokens, 64), ours, "{name}: over four stages");
        for (dtype, near) in [(Dtype::F16, 0.02), (Dtype::Bf16, 0.15), (Dtype::Int8, 0.3)] {
            let small = [engine(&checkpoint, 0..2, Some(dtype)), engine(&checkpoint, 2..4, Some(dtype))];
            let apart = apart(&logits(&small, &tokens, 64), &ours);
            assert!(apart > 0.0 && apart < near, "{name} in {dtype}: {apart}");
        }
    }
}

#[test]
fn the_networks_own_models_give_what_transformers_and_checkpoints_of_them_give() {
    let vectors = vectors();
    for (name, style) in [("ailo-gpt2", Style::Gpt2), ("ailo-modern", Style::Modern)] {
        let model = vectors["models"].as_array().unwrap().iter().find(|model| model["name"] == name).unwrap();
        let (config, folder) = (&model["config"], tempfile::tempdir().unwrap());
        write(folder.path(), config, &tensors(config), 1).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let shape = checkpoint.shape();
        let [layers, width, heads, kv_heads, ffn, context] =
            [shape.layers, shape.width, shape.heads, shape.kv_heads, shape.ffn, shape.context].map(|n| n as u32);
        let cfg = ModelConfig { style, layers, width, heads, kv_heads, ffn, context, tokenizer: Tokenizer::Bytes };
        let tokens: Vec<u32> = (0..200).map(|i| (i * 37 + 11) % 256).collect();
        let ours = logits(&[Engine::own(&cfg, imported(&cfg, &tensors(config))).unwrap()], &tokens, 200);
        let checkpoints = logits(&[engine(&checkpoint, 0..4, None)], &tokens, 200);
        // GPT-2's positions are learned, so nothing differs; rotary frequencies are rounded to float32 in checkpoints.
        let off = apart(&ours, &checkpoints);
        assert!(off < if style == Style::Gpt2 { f32::MIN_POSITIVE } else { 1e-5 }, "{name}: {off}");
        for (position, theirs) in expected(model) {
            let off = apart(&ours[position * 256..][..256], &theirs);
            println!("{name} at {position}: {off:e}");
            assert!(off < 1e-5, "{name} at {position}: {off}");
        }
    }
}

/// Weights of the network's own model in its order, from a checkpoint's tensors.
fn imported(cfg: &ModelConfig, tensors: &Tensors) -> Vec<f32> {
    let gpt2 = cfg.style == Style::Gpt2;
    let mut flat = Vec::new();
    for Parameter { name, .. } in layout(cfg) {
        let (path, kind) = name.rsplit_once('.').unwrap();
        let (above, place) = match path.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((layer, place)) => {
                (format!("{}.{layer}.", if gpt2 { "transformer.h" } else { "model.layers" }), place)
            }
            None => (if gpt2 { "transformer." } else { "model." }.to_string(), path),
        };
        // One below the other.
        let parts: &[&str] = match (gpt2, place) {
            (true, "embedding") => &["wte"],
            (true, "positions") => &["wpe"],
            (true, "norm") => &["ln_f"],
            (true, "norm1") => &["ln_1"],
            (true, "qkv") => &["attn.c_attn"],
            (true, "out") => &["attn.c_proj"],
            (true, "norm2") => &["ln_2"],
            (true, "up") => &["mlp.c_fc"],
            (true, "down") => &["mlp.c_proj"],
            (false, "embedding") => &["embed_tokens"],
            (false, "norm") => &["norm"],
            (false, "norm1") => &["input_layernorm"],
            (false, "qkv") => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            (false, "out") => &["self_attn.o_proj"],
            (false, "norm2") => &["post_attention_layernorm"],
            (false, "up") => &["mlp.gate_proj", "mlp.up_proj"],
            (false, "down") => &["mlp.down_proj"],
            _ => panic!("no checkpoint has {name}"),
        };
        for part in parts {
            let (shape, values) = &tensors[&format!("{above}{part}.{kind}")];
            match shape[..] {
                // GPT-2's maps lie the other way round.
                [ins, outs] if gpt2 && name.starts_with("blocks.") => {
                    flat.extend((0..values.len()).map(|i| values[i % ins * outs + i / ins]));
                }
                _ => flat.extend(values),
            }
        }
    }
    flat
}

#[test]
fn only_the_tensors_of_the_span_are_asked_for() {
    let model = &vectors()["models"][1];
    let folder = tempfile::tempdir().unwrap();
    let mut some = tensors(&model["config"]);
    let all: usize = some.values().map(|(_, x)| 4 * x.len()).sum();
    some.retain(|name, _| name.contains("layers.1.") || name.contains("layers.2."));
    let here: usize = some.values().map(|(_, x)| 4 * x.len()).sum();
    write(folder.path(), &model["config"], &some, 1).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut told = Vec::new();
    let loaded = checkpoint.load(1..3, None, &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!((loaded.weights.blocks.len(), loaded.hashes.len()), (2, 2));
    assert_eq!(*told.last().unwrap(), (here as u64, here as u64));
    assert!(told.is_sorted() && here < all);
    let missing = checkpoint.load(0..2, None, &mut |_, _| ()).err().unwrap().to_string();
    assert!(missing.contains("embed_tokens"), "{missing}");
    assert!(checkpoint.load(2..5, None, &mut |_, _| ()).is_err());
}

#[test]
fn what_a_span_takes_is_told_before_it_is_loaded() {
    for model in vectors()["models"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &model["config"], &tensors(&model["config"]), 2).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        for dtype in [None, Some(Dtype::F32), Some(Dtype::Bf16), Some(Dtype::Int8)] {
            for span in [0..4, 0..2, 1..3, 3..4] {
                let mut read = 0;
                let size = checkpoint.size(&span, dtype).unwrap();
                let weights = checkpoint.load(span.clone(), dtype, &mut |done, _| read = done).unwrap().weights;
                let case = format!("{} {dtype:?} {span:?}", model["config"]["model_type"]);
                assert_eq!((size.kept, size.stored), (weights.bytes(), read), "{case}");
                // The files hold float32, and GPT-2's maps lie the other way round there.
                let lies = dtype.is_none_or(|dtype| dtype == Dtype::F32) && model["config"]["model_type"] != "gpt2";
                assert_eq!(size.copied == 0, lies, "{case}");
            }
        }
    }
}

#[test]
fn hashes_tell_weights_apart_however_the_files_are_cut() {
    let model = &vectors()["models"][3];
    let hashes = |tensors: &Tensors, files| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &model["config"], tensors, files).unwrap();
        Checkpoint::open(folder.path()).unwrap().load(0..4, None, &mut |_, _| ()).unwrap().hashes
    };
    let mut tensors = tensors(&model["config"]);
    let one = hashes(&tensors, 1);
    assert_eq!(hashes(&tensors, 4), one);
    tensors.get_mut("model.layers.2.mlp.up_proj.weight").unwrap().1[5] += 0.5;
    let other = hashes(&tensors, 1);
    assert_eq!((0..4).filter(|i| one[*i] != other[*i]).collect::<Vec<_>>(), [2]);
}

#[test]
fn hashes_are_told_without_keeping_weights_and_are_those_of_each_layer_that_is_loaded() {
    for model in vectors()["models"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &model["config"], &tensors(&model["config"]), 2).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let layers = checkpoint.shape().layers;
        let alone = |dtype| (0..layers).map(move |layer| (layer..layer + 1, dtype));
        let loaded = |(layer, dtype)| checkpoint.load(layer, dtype, &mut |_, _| ()).unwrap().hashes;
        let mut told = Vec::new();
        let hashes = checkpoint.hashes(&mut |done, total| told.push((done, total))).unwrap();
        assert_eq!(hashes, alone(None).flat_map(loaded).collect::<Vec<_>>(), "{}", model["config"]["model_type"]);
        assert_eq!(hashes, alone(Some(Dtype::Int8)).flat_map(loaded).collect::<Vec<_>>());
        assert_eq!(hashes, loaded((0..layers, None)), "whatever else is loaded");
        assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    }
}

#[test]
fn folders_that_are_no_known_model_say_why() {
    let model = &vectors()["models"][1];
    let tensors = tensors(&model["config"]);
    let refusal = |change: &dyn Fn(&mut Value, &mut Tensors, &Path)| {
        let folder = tempfile::tempdir().unwrap();
        let (mut config, mut tensors) = (model["config"].clone(), tensors.clone());
        change(&mut config, &mut tensors, folder.path());
        write(folder.path(), &config, &tensors, 1).unwrap();
        let opened = Checkpoint::open(folder.path());
        opened
            .and_then(|opened| {
                let loaded = opened.load(0..4, None, &mut |_, _| ())?;
                Engine::new(opened.shape().clone(), loaded.weights, 1).map(|_| ())
            })
            .unwrap_err()
            .to_string()
    };
    for (name, value, says) in [
        ("model_type", json!("mamba"), "mamba"),
        ("hidden_act", json!("gelu"), "silu"),
        ("rope_scaling", json!({ "rope_type": "yarn" }), "yarn"),
        ("num_attention_heads", json!(0), "no decoder"),
        ("num_key_value_heads", json!(3), "no decoder"),
        ("hidden_size", json!("wide"), "hidden_size"),
        ("hidden_size", json!(128), "width"),
        ("num_hidden_layers", json!(5000), "no decoder"),
    ] {
        let why = refusal(&|config, _, _| config[name] = value.clone());
        assert!(why.contains(says) || says == "width" && why.contains("rows of 128"), "{name}: {why}");
    }
    let why = refusal(&|_, tensors, _| drop(tensors.remove("model.norm.weight")));
    assert!(why.contains("model.norm.weight"), "{why}");
    let why = refusal(&|_, tensors, _| {
        let shape = &mut tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().0;
        shape.reverse();
    });
    assert!(why.contains("layer 1") && why.contains("down"), "{why}");
    let why = refusal(&|config, _, _| config["model_type"] = json!("qwen2"));
    assert!(why.contains("q_proj.bias"), "{why}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), model["config"].to_string()).unwrap();
    assert!(Checkpoint::open(folder.path()).err().unwrap().to_string().contains("safetensors"));
    fs::write(folder.path().join("model.safetensors"), [0xff; 64]).unwrap();
    assert!(Checkpoint::open(folder.path()).err().unwrap().to_string().contains("model.safetensors"));
}

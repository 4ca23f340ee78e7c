//! Checkpoints against what transformers computes from the same ones (`scripts/transformers-vectors`), and folders that are none.

#![allow(clippy::unwrap_used)]

use super::{
    random::{Tensors, tensors, values, write},
    *,
};
use crate::{
    engine::{Engine, Part},
    model::{Parameter, layout},
};
use ailo_protocol::{
    params::{ModelConfig, Style},
    presets,
};
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
        for (position, theirs) in model["logits"].as_object().unwrap() {
            let theirs: Vec<f32> = theirs.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
            let at = position.parse::<usize>().unwrap() * vocabulary;
            let apart = apart(&ours[at..at + vocabulary], &theirs);
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
fn the_networks_own_models_give_the_same_bits_as_checkpoints_of_them() {
    let base =
        ModelConfig { layers: 2, width: 64, heads: 4, kv_heads: 4, ffn: 256, context: 128, ..presets::dev().model };
    for cfg in [ModelConfig { style: Style::Gpt2, ..base }, ModelConfig { style: Style::Modern, kv_heads: 2, ..base }] {
        let flat: Vec<f32> = layout(&cfg)
            .iter()
            .flat_map(|p| values(&p.name, &p.shape.iter().map(|n| *n as usize).collect::<Vec<_>>()))
            .collect();
        let (config, tensors) = exported(&cfg, &flat);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors, 1).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let tokens: Vec<u32> = (0..100).map(|i| i * 37 % 256).collect();
        let theirs = logits(&[engine(&checkpoint, 0..2, None)], &tokens, 100);
        let ours = logits(&[Engine::own(&cfg, flat.clone()).unwrap()], &tokens, 100);
        // GPT-2's positions are learned, so nothing differs; rotary frequencies are rounded to float32 in checkpoints.
        let apart = apart(&ours, &theirs);
        assert!(apart < if cfg.style == Style::Gpt2 { f32::MIN_POSITIVE } else { 1e-5 }, "{:?}: {apart}", cfg.style);
    }
}

/// A model of the network's own as a checkpoint.
fn exported(cfg: &ModelConfig, flat: &[f32]) -> (Value, Tensors) {
    let gpt2 = cfg.style == Style::Gpt2;
    let mut tensors = Tensors::new();
    let mut rest = flat;
    let (width, keys) = (cfg.width as usize, (cfg.kv_heads * cfg.width / cfg.heads) as usize);
    for parameter in layout(cfg) {
        let (values, after) = rest.split_at(Parameter::len(&parameter));
        rest = after;
        let shape: Vec<usize> = parameter.shape.iter().map(|n| *n as usize).collect();
        let place = parameter.name.replace("blocks.", if gpt2 { "transformer.h." } else { "model.layers." });
        let known = if gpt2 {
            [
                ("embedding.", "transformer.wte."),
                ("positions.", "transformer.wpe."),
                (".norm1.", ".ln_1."),
                (".norm2.", ".ln_2."),
                (".qkv.", ".attn.c_attn."),
                (".out.", ".attn.c_proj."),
                (".up.", ".mlp.c_fc."),
                (".down.", ".mlp.c_proj."),
                ("norm.", "transformer.ln_f."),
            ]
        } else {
            [
                ("embedding.", "model.embed_tokens."),
                (".norm1.", ".input_layernorm."),
                (".norm2.", ".post_attention_layernorm."),
                (".out.", ".self_attn.o_proj."),
                (".down.", ".mlp.down_proj."),
                ("norm.", "model.norm."),
                (".qkv.", ".self_attn.qkv."),
                (".up.", ".mlp.up."),
                ("", ""),
            ]
        };
        let (from, to) = known
            .into_iter()
            .find(|(from, _)| if from.starts_with('.') { place.contains(from) } else { place.starts_with(from) })
            .unwrap();
        let name = if from.is_empty() { place.clone() } else { place.replacen(from, to, 1) };
        let mut put = |name: &str, rows: Range<usize>| {
            let shape = [&[rows.len()], &shape[1..]].concat();
            let size: usize = shape[1..].iter().product();
            tensors.insert(name.into(), (shape, values[rows.start * size..rows.end * size].to_vec()));
        };
        if gpt2 && shape.len() == 2 && name.contains(".h.") {
            let transposed = (0..values.len()).map(|i| values[i % shape[0] * shape[1] + i / shape[0]]).collect();
            tensors.insert(name, (vec![shape[1], shape[0]], transposed));
        } else if name.contains(".qkv.") {
            put(&name.replace("qkv", "q_proj"), 0..width);
            put(&name.replace("qkv", "k_proj"), width..width + keys);
            put(&name.replace("qkv", "v_proj"), width + keys..width + 2 * keys);
        } else if name.contains(".mlp.up.") {
            put(&name.replace(".up.", ".gate_proj."), 0..cfg.ffn as usize);
            put(&name.replace(".up.", ".up_proj."), cfg.ffn as usize..2 * cfg.ffn as usize);
        } else {
            put(&name, 0..shape[0]);
        }
    }
    let config = if gpt2 {
        json!({ "model_type": "gpt2", "n_embd": cfg.width, "n_layer": cfg.layers, "n_head": cfg.heads, "n_inner": cfg.ffn,
                "n_positions": cfg.context, "vocab_size": 256 })
    } else {
        json!({ "model_type": "llama", "hidden_size": cfg.width, "intermediate_size": cfg.ffn, "num_hidden_layers": cfg.layers,
                "num_attention_heads": cfg.heads, "num_key_value_heads": cfg.kv_heads, "vocab_size": 256, "rms_norm_eps": 1e-5,
                "max_position_embeddings": cfg.context, "tie_word_embeddings": true })
    };
    (config, tensors)
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

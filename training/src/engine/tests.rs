//! The engine against the model that trains, and against itself: in pieces, with other instructions, by its golden bits.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{ModelState, model::Model};
use ailo_protocol::{Hash, hash::Domain, params::Style, presets};
use tch::{Device, Tensor};

/// Both styles with weights `grown` times as large as at the start, so that attention matters; with and without grouped queries, with
/// widths that are no multiple of the lanes.
fn models(grown: f32) -> Vec<(ModelConfig, Vec<f32>)> {
    let base =
        ModelConfig { layers: 2, width: 64, heads: 4, kv_heads: 4, ffn: 128, context: 256, ..presets::dev().model };
    let kinds = [
        ModelConfig { style: Style::Gpt2, ..base },
        ModelConfig { style: Style::Modern, ..base },
        ModelConfig { style: Style::Modern, kv_heads: 2, ..base },
        ModelConfig { style: Style::Modern, width: 72, heads: 6, kv_heads: 3, ffn: 100, ..base },
    ];
    // No bias is zero then, and no norm is like another.
    let mut noise = Hash([7; 32]).stream();
    let mut other = |x: &f32| (x + noise.below(2001) as f32 * 1e-5 - 1e-2) * grown;
    let mut weights = |cfg: &ModelConfig| ModelState::initial(cfg, 1).weights.iter().map(&mut other).collect();
    kinds.into_iter().map(|cfg| (cfg, weights(&cfg))).collect()
}

/// Every width of instructions that this machine has.
pub(super) fn arches() -> Vec<Arch> {
    let mut all = vec![Arch::new(), Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 37 % 251) as u32).collect()
}

/// The residual stream after all layers.
fn forward(engine: &Engine, tokens: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
    let x = engine.embed(tokens, cache.len())?;
    engine.forward(x, &mut [Part { cache, positions: tokens.len() }])
}

/// Logits of every token, read in pieces of these lengths.
fn logits(engine: &Engine, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut cache = engine.cache(tokens.len());
    let rows = tokens.chunks(piece).flat_map(|piece| forward(engine, piece, &mut cache).unwrap());
    engine.logits(&rows.collect::<Vec<f32>>()).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn it_agrees_with_the_model_that_trains() {
    crate::set_threads(1);
    for (cfg, weights) in models(2.0) {
        let model = Model::new(&cfg, &weights, Device::Cpu, false).unwrap();
        let input: Vec<i64> = tokens(200).into_iter().map(i64::from).collect();
        let theirs = model.forward(&Tensor::from_slice(&input).view([1, -1])).get(0).view([-1]);
        let theirs: Vec<f32> = theirs.try_into().unwrap();
        let ours = logits(&Engine::own(&cfg, weights.clone()).unwrap(), &tokens(200), 200);
        let apart = ours.iter().zip(&theirs).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
        assert!(apart < 1e-5, "{cfg:?}: {apart}");
    }
}

#[test]
fn tokens_read_one_by_one_or_together_give_the_same_bits() {
    for (cfg, weights) in models(8.0) {
        let engine = Engine::own(&cfg, weights.clone()).unwrap();
        let whole = bits(&logits(&engine, &tokens(60), 60));
        for piece in [1, 2, 7, 32] {
            assert!(bits(&logits(&engine, &tokens(60), piece)) == whole, "{cfg:?} by {piece}");
        }
    }
}

#[test]
fn every_machine_computes_the_same_bits() {
    let mut hashes = Vec::new();
    for (cfg, weights) in models(8.0) {
        let got = bits(&logits(&Engine::own(&cfg, weights.clone()).unwrap(), &tokens(40), 40));
        for arch in arches() {
            let other = logits(&Engine::own(&cfg, weights.clone()).unwrap().on(arch), &tokens(40), 40);
            assert!(bits(&other) == got, "{cfg:?} with {arch:?}");
        }
        let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
        hashes.push(Hash::of(Domain::Blob, &bytes).short());
    }
    assert_eq!(hashes, ["1886350e", "9dfe5539", "811d58ef", "d5acf655"]);
}

#[test]
fn no_token_sees_the_future_and_every_token_sees_its_past() {
    for (cfg, weights) in models(8.0) {
        let engine = Engine::own(&cfg, weights.clone()).unwrap();
        let (a, b) = (logits(&engine, &[1, 2, 3, 4, 5], 5), logits(&engine, &[1, 2, 9, 4, 5], 5));
        let vocabulary = a.len() / 5;
        assert_eq!(bits(&a[..2 * vocabulary]), bits(&b[..2 * vocabulary]), "{cfg:?}: the future leaks");
        let differ = a.chunks(vocabulary).zip(b.chunks(vocabulary)).skip(2).all(|(a, b)| a != b);
        assert!(differ, "{cfg:?}: the past is lost");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (cfg, weights) = models(8.0).remove(1);
    let engine = Engine::own(&cfg, weights.clone()).unwrap();
    let mut cache = engine.cache(256);
    assert!(forward(&engine, &tokens(257), &mut cache).unwrap_err().to_string().contains("longer"));
    assert!(forward(&engine, &[256], &mut cache).unwrap_err().to_string().contains("vocabulary"));
    assert!(engine.forward(vec![0.0; 63], &mut [Part { cache: &mut cache, positions: 1 }]).is_err());
    assert!(cache.is_empty());
    forward(&engine, &tokens(256), &mut cache).unwrap();
    assert_eq!(cache.len(), 256);
    assert!(forward(&engine, &[1], &mut cache).is_err());
    cache.truncate(255);
    forward(&engine, &[1], &mut cache).unwrap();
    assert!(forward(&engine, &[1], &mut engine.cache(0)).unwrap_err().to_string().contains("room"));
    assert!(Engine::own(&cfg, weights[1..].to_vec()).is_err());
}

#[test]
fn sequences_read_together_do_not_change_each_other() {
    for (cfg, weights) in models(8.0) {
        let engine = Engine::own(&cfg, weights.clone()).unwrap();
        let texts: Vec<Vec<u32>> = vec![tokens(9), tokens(23)[5..].into(), vec![7]];
        let alone: Vec<Vec<f32>> =
            texts.iter().map(|text| forward(&engine, text, &mut engine.cache(40)).unwrap()).collect();
        let mut caches: Vec<Cache> = texts.iter().map(|_| engine.cache(40)).collect();
        let x = texts.iter().flat_map(|text| engine.embed(text, 0).unwrap()).collect();
        let parts = caches.iter_mut().zip(&texts).map(|(cache, text)| Part { cache, positions: text.len() });
        let together = engine.forward(x, &mut parts.collect::<Vec<_>>()).unwrap();
        assert!(bits(&together) == bits(&alone.concat()), "{cfg:?}");
    }
}

#[test]
fn layers_on_several_machines_give_the_same_bits() {
    for (cfg, weights) in models(8.0) {
        let whole = bits(&logits(&Engine::own(&cfg, weights.clone()).unwrap(), &tokens(30), 30));
        let layers = cfg.layers as usize;
        let parts = [0..1, 1..layers].map(|span| Weights::own(&cfg, weights.clone(), span).unwrap());
        assert_eq!(parts[0].blocks.len() + parts[1].blocks.len(), layers);
        assert!(Weights::own(&cfg, weights.clone(), 1..layers + 1).is_err());
        let [first, second] = parts.map(|weights| Engine::new(Shape::of(&cfg), weights, 2).unwrap());
        let x = forward(&first, &tokens(30), &mut first.cache(30)).unwrap();
        let x = second.forward(x, &mut [Part { cache: &mut second.cache(30), positions: 30 }]).unwrap();
        assert!(bits(&second.logits(&x).unwrap()) == whole, "{cfg:?}");
        assert!(first.logits(&x).is_err() && second.embed(&[1], 0).is_err());
    }
}

#[test]
fn some_layers_of_those_here_and_a_cache_that_grows_change_nothing() {
    for (cfg, weights) in models(8.0) {
        let engine = Engine::own(&cfg, weights.clone()).unwrap();
        let mut caches = [engine.cache_of(0..1, 10), engine.cache_of(1..2, 10)];
        let mut both = |tokens: &[u32], at| {
            let mut x = engine.embed(tokens, at).unwrap();
            for cache in &mut caches {
                cache.grow(at + tokens.len());
                x = engine.forward(x, &mut [Part { cache, positions: tokens.len() }]).unwrap();
            }
            engine.logits(&x).unwrap()
        };
        let pieces = [both(&tokens(30)[..10], 0), both(&tokens(30)[10..30], 10)].concat();
        assert!(bits(&pieces) == bits(&logits(&engine, &tokens(30), 30)), "{cfg:?}");
        let mut mixed = [engine.cache_of(0..1, 10), engine.cache(10)];
        let [a, b] = &mut mixed;
        let parts = &mut [Part { cache: a, positions: 1 }, Part { cache: b, positions: 1 }];
        assert!(
            engine
                .forward(vec![0.0; 2 * engine.shape().width], parts)
                .unwrap_err()
                .to_string()
                .contains("other layers")
        );
    }
}

#[test]
fn smaller_types_of_weights_are_near_and_have_their_golden_bits() {
    let (cfg, weights) = models(2.0).remove(2);
    let logits_of = |dtype: Dtype, arch: Arch| {
        let mut weights = Weights::own(&cfg, weights.clone(), 0..cfg.layers as usize).unwrap();
        weights.convert(dtype);
        logits(&Engine::new(Shape::of(&cfg), weights, 1).unwrap().on(arch), &tokens(40), 7)
    };
    let exact = logits_of(Dtype::F32, Arch::new());
    let spread = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (dtype, near, golden) in
        [(Dtype::F16, 2e-3, "5cf47bc2"), (Dtype::Bf16, 2e-2, "25825271"), (Dtype::Int8, 4e-2, "5dad82e6")]
    {
        let got = logits_of(dtype, Arch::new());
        let apart = got.iter().zip(&exact).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
        assert!(apart > 0.0 && apart < near * spread, "{dtype}: {apart} of {spread}");
        assert!(arches().into_iter().all(|arch| bits(&logits_of(dtype, arch)) == bits(&got)), "{dtype}");
        let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(Hash::of(Domain::Blob, &bytes).short(), golden, "{dtype}");
    }
}

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

/// A card that is a processor: what `training/gpu/tests/driver.cpp` says, whose products and sums are `fused` or not.
fn built(fused: &str) -> Gpu {
    let folder = tempfile::tempdir().unwrap();
    let (library, source) =
        (folder.path().join("driver.so"), concat!(env!("CARGO_MANIFEST_DIR"), "/gpu/tests/driver.cpp"));
    // As the build itself: `c++` is what compiles the bindings of libtorch.
    let flags = ["-O2", "-march=native", "-std=c++17", fused, "-w", "-shared", "-fPIC", source, "-o"];
    assert!(std::process::Command::new("c++").args(flags).arg(&library).status().unwrap().success());
    Gpu::open(&library).unwrap()
}

fn card() -> Gpu {
    static CARD: std::sync::OnceLock<Gpu> = std::sync::OnceLock::new();
    CARD.get_or_init(|| built("-ffp-contract=off")).clone()
}

#[test]
fn a_card_computes_the_bits_of_a_processor() {
    let kinds = [Dtype::F32, Dtype::Int8, Dtype::Bf16, Dtype::F16];
    for (shape, (cfg, weights)) in models(8.0).into_iter().enumerate() {
        // Each shape in two types, each type in two shapes.
        for dtype in [kinds[shape % 4], kinds[(shape + 1) % 4]] {
            let engine = || {
                let mut kept = Weights::own(&cfg, weights.clone(), 0..cfg.layers as usize).unwrap();
                kept.convert(dtype);
                Engine::new(Shape::of(&cfg), kept, 1).unwrap()
            };
            let (here, there) = (engine(), engine().on_card(&card()).map_err(|failed| failed.1).unwrap());
            assert!(there.card().is_some() && there.layers() == here.layers());
            // Prompts, single tokens, and what lies between.
            for piece in [1, 3, 7, 17] {
                let [right, got] = [&here, &there].map(|engine| bits(&logits(engine, &tokens(17), piece)));
                assert!(got == right, "{cfg:?} in {dtype} by {piece}");
            }
        }
    }
}

#[test]
fn a_card_keeps_what_several_sequences_have_seen_apart_and_copies_it() {
    let (cfg, weights) = models(8.0).remove(3);
    let [here, there] = [false, true].map(|moved| {
        let engine = Engine::own(&cfg, weights.clone()).unwrap();
        if moved { engine.on_card(&card()).map_err(|failed| failed.1).unwrap() } else { engine }
    });
    let run = |engine: &Engine| {
        let (mut one, mut two) = (engine.cache(20), engine.cache_of(0..2, 30));
        let mut rows = Vec::new();
        let both = |one: &mut Cache, two: &mut Cache, counts: [usize; 2]| {
            let x = [(&*one, counts[0]), (&*two, counts[1])]
                .map(|(cache, count)| engine.embed(&tokens(count + cache.len())[cache.len()..], cache.len()).unwrap());
            let mut parts = [Part { cache: one, positions: counts[0] }, Part { cache: two, positions: counts[1] }];
            engine.forward(x.concat(), &mut parts).unwrap()
        };
        rows.extend(both(&mut one, &mut two, [5, 12]));
        rows.extend(both(&mut one, &mut two, [1, 1]));
        // One forgets some, the other goes on with a copy that has more room, beside a copy of its beginning.
        one.truncate(3);
        let mut beginning = two.beginning(4, 9);
        two.grow(60);
        rows.extend(both(&mut one, &mut two, [2, 40]));
        rows.extend(both(&mut one, &mut beginning, [1, 3]));
        assert_eq!((one.len(), two.len(), beginning.len()), (6, 53, 7));
        assert!(
            engine.forward(vec![0.0; 72 * 3], &mut [Part { cache: &mut beginning, positions: 3 }]).is_err(),
            "no room"
        );
        bits(&rows)
    };
    assert!(run(&here) == run(&there));
    // Each has caches of its own.
    let mut other = here.cache(4);
    assert!(there.forward(vec![0.0; 72], &mut [Part { cache: &mut other, positions: 1 }]).is_err());
}

#[test]
fn a_card_that_rounds_in_its_own_way_is_found_before_it_computes_anything() {
    if !std::arch::is_x86_feature_detected!("fma") {
        println!("SKIPPED: this processor fuses nothing");
        return;
    }
    let (cfg, weights) = models(8.0).remove(0);
    let engine = Engine::own(&cfg, weights).unwrap();
    let (engine, why) = *engine.on_card(&built("-ffp-contract=fast")).err().unwrap();
    assert_eq!(why.to_string(), "the card a processor computes other bits than a processor");
    assert!(engine.card().is_none());
}

#[test]
fn a_card_without_memory_fails_one_text_and_an_engine_that_does_not_fit_stays_where_it_is() {
    let (cfg, weights) = models(8.0).remove(1);
    let engine = Engine::own(&cfg, weights.clone()).unwrap();
    let before = bits(&logits(&engine, &tokens(9), 9));
    let there = engine.on_card(&card()).map_err(|failed| failed.1).unwrap();
    // A position takes 2 layers of 2 times 64 numbers: the card has not enough for these.
    let long = Shape { context: 1 << 19, ..Shape::of(&cfg) };
    let wide = Engine { shape: long, ..there };
    let mut cache = wide.cache(1 << 19);
    let failed = wide.forward(vec![0.0; 64], &mut [Part { cache: &mut cache, positions: 1 }]).unwrap_err();
    assert_eq!(failed.to_string(), "the card's memory is full");
    assert!(bits(&logits(&wide, &tokens(9), 9)) == before, "others go on");

    let large = ModelConfig { ffn: 180_000, ..cfg };
    let engine =
        Engine::own(&large, vec![0.01; crate::model::layout(&large).iter().map(|part| part.len()).sum::<usize>()]);
    let (engine, why) = *engine.unwrap().on_card(&card()).err().unwrap();
    assert!(matches!(why, TrainingError::Gpu(ailo_gpu::GpuError::Memory)) && engine.card().is_none(), "{why}");
    assert!(logits(&engine, &tokens(1), 1).iter().all(|x| x.is_finite()));
}

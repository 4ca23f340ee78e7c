//! Benchmarks of training, run by `scripts/bench NAME`: each prints the median of several runs, their spread, and the
//! physical limit that the same run measured beside it.
//!
//!     cargo run -p ailo-training --example bench -- training|verification|aggregation|codec|root|inference

use ailo_protocol::{
    Hash,
    aggregation::{Aggregation, Pre, Rule},
    compression::Codec,
    contribution::update_hash,
    hash::Domain,
    inference::proof,
    params::{ModelConfig, Style, TrainingParams},
    presets,
};
use ailo_training::{
    Control, Dataset, Device, ModelState, aggregate, codec,
    engine::{Dtype, Engine, Gpu, Part, Shape, Weights},
    inner,
    model::parameter_count,
    round::{Rules, Slot},
    sample::{Sampling, sample},
    set_threads,
};
use rayon::prelude::*;
use std::{error::Error, hint::black_box, time::Instant};
use tch::{Kind, Tensor};

type Outcome = Result<(), Box<dyn Error>>;
type Bench = (&'static str, fn() -> Outcome);

const BENCHES: [Bench; 6] = [
    ("training", training),
    ("verification", verification),
    ("aggregation", aggregation),
    ("codec", codec),
    ("root", root),
    ("inference", inference),
];

fn main() -> Outcome {
    let name = std::env::args().nth(1).unwrap_or_default();
    let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    let Some((_, bench)) = BENCHES.iter().find(|(known, _)| *known == name) else {
        return Err(format!("'{name}' is no benchmark: choose one of {}", names.join(", ")).into());
    };
    set_threads(1);
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".into());
    println!("{name}, libtorch on one thread; load average {}", load().trim());
    bench()?;
    println!("load average afterwards {}", load().trim());
    Ok(())
}

/// Seconds of `runs` runs after one that warms up, ascending.
fn times<T>(runs: usize, mut work: impl FnMut() -> Result<T, Box<dyn Error>>) -> Result<Vec<f64>, Box<dyn Error>> {
    black_box(work()?);
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        let result = black_box(work()?);
        times.push(started.elapsed().as_secs_f64());
        drop(result);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Prints `amount / time` of the median run with the slowest and the fastest, and returns it.
fn report(what: &str, times: &[f64], amount: f64, unit: &str) -> f64 {
    let rate = |seconds: f64| amount / seconds;
    let (fast, median, slow) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!(
        "  {what}: {:.4} {unit} (median of {}, {:.4} to {:.4}; {:.1} ms a run)",
        rate(median),
        times.len(),
        rate(slow),
        rate(fast),
        median * 1e3
    );
    rate(median)
}

fn ratio(ours: f64, limit: f64, meaning: &str) {
    println!("  ratio {:.2}: {meaning}", ours / limit);
}

/// Pseudo-random values like those of an update.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut stream = Hash::of(Domain::Lot, &seed.to_le_bytes()).stream();
    (0..count).map(|_| (stream.below(2_000_001) as f32 - 1e6) * 1e-9).collect()
}

/// Inner steps of the development model, against matrix products of its largest shape.
fn training() -> Outcome {
    let (cfg, data) = (presets::dev().model, Dataset::embedded());
    let params = TrainingParams { inner_steps: 4, ..presets::dev().training };
    let base = ModelState::initial(&cfg, 1);
    let windows = data.windows(&params, &Hash::ZERO, 0, 1);
    let mut go = |_| Control::Continue;
    let steps =
        times(7, || Ok(inner::train(&cfg, &params, 0, &base, &data, &windows, Device::Cpu, &mut go)?.loss_last))?;
    let tokens = params.tokens_per_round() as f64;
    report("inner training", &steps, tokens / 1e3, "thousand tokens/s");
    // Forward and backward pass take 6 operations a parameter and token.
    let ours = report("the same", &steps, 6.0 * parameter_count(&cfg) as f64 * tokens / 1e9, "GFLOP/s");

    let (rows, width, ffn) = (i64::from(params.batch * params.sequence), i64::from(cfg.width), i64::from(cfg.ffn));
    let a = Tensor::randn([rows, width], (Kind::Float, Device::Cpu));
    let b = Tensor::randn([width, ffn], (Kind::Float, Device::Cpu));
    let products = times(21, || Ok([(); 20].map(|()| a.matmul(&b))))?;
    let limit = report("matrix products", &products, 20.0 * 2.0 * (rows * width * ffn) as f64 / 1e9, "GFLOP/s");
    ratio(ours, limit, "of the matrix products' speed");
    Ok(())
}

/// What all verification of a round takes of what its training does, with the numbers of the development and the main network:
/// replays, the committee's losses, each voter's look at the next model, hashing and unpacking. Twelve participants, all of them
/// validators that came through probation.
fn verification() -> Outcome {
    const NODES: f64 = 12.0;
    let main = presets::main();
    // Bytes in place of the tokenizer that the embedded corpus is not made for; little else changes.
    let main_model = ModelConfig { tokenizer: presets::dev().model.tokenizer, ..main.model };
    for (name, model, params, steps) in
        [("dev", presets::dev().model, presets::dev(), 4), ("main", main_model, main, 1)]
    {
        let data = Dataset::embedded();
        let short = TrainingParams { inner_steps: steps, batch: params.training.batch.min(8), ..params.training };
        let rules = Rules { model: &model, training: &short, data: &data, device: Device::Cpu };
        let base = ModelState::initial(&model, 1);
        let slot = Slot { steps: 0, seed: Hash::ZERO, slot: 0, slots: 1 };
        println!(" {name}: {} parameters", parameter_count(&model));
        let sequences = f64::from(steps * short.batch);
        let train = times(3, || Ok(rules.train(&slot, &base, &mut |_| Control::Continue)?))?;
        let train = 1.0 / report("training", &train, sequences, "sequences/s");
        let windows = data.held_out_windows(short.sequence, None, 4);
        let measure = times(3, || Ok(rules.loss_over(&base.weights, &windows)?))?;
        let measure = 1.0 / report("measuring", &measure, windows.len() as f64, "sequences/s");
        let update = values(base.weights.len(), 1);
        let sent = rules.encode(&update, &slot.seed)?;
        let admit = times(3, || {
            Ok((Hash::of(Domain::Blob, &sent), update_hash(&sent), rules.admit(&sent, &base, &slot.seed)?))
        })?;
        let admit = 1.0 / report("hashing and unpacking", &admit, 1.0, "updates/s");
        let few: Vec<Vec<f32>> = (0..4).map(|seed| values(base.weights.len(), seed)).collect();
        let mixing = times(3, || Ok(rules.next(&few, &base, 1, &slot.seed)?))?;
        let mixing = 1.0 / report("aggregating", &mixing, few.len() as f64, "updates/s");
        let root = 1.0 / report("root of the next state", &times(3, || Ok(base.root()))?, 1.0, "states/s");

        let of_slot = |seconds: f64| {
            let slot = f64::from(params.training.inner_steps * params.training.batch) * train;
            100.0 * seconds / slot
        };
        let replays = f64::from(params.round.replay_ppm as u32) / 1e4;
        // Each member measures all updates on held-out text and on half as much of their own data, where it measures the base, too.
        let sequences = params.training.score_sequences + 2 * params.training.score_sequences.div_ceil(2);
        let losses = of_slot(f64::from(params.round.committee * sequences) * measure);
        let votes = of_slot(f64::from(params.training.eval_sequences) * measure);
        // Who votes unpacks each update for its verdict, and again to make the next model.
        let hashing = of_slot(2.0 * NODES * admit + NODES * mixing + root);
        println!(
            "  of the training: replays {replays:.2} %, losses {losses:.2} %, model votes {votes:.2} %, hashing, unpacking and aggregating {hashing:.2} %: {:.1} %",
            replays + losses + votes + hashing
        );
    }
    Ok(())
}

/// Rules on 16 updates of 8 M values (512 MiB), against reading them on as many threads; and the memory beside them.
fn aggregation() -> Outcome {
    let updates: Vec<Vec<f32>> = (0..16u64).into_par_iter().map(|seed| quick_values(1 << 23, seed)).collect();
    let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
    let bytes = (updates.len() * updates[0].len() * 4) as f64 / 1e9;
    let bits = |part: &[f32]| part.iter().fold(0, |bits, x| bits ^ x.to_bits());
    let parts = || updates.par_iter().flat_map(|update| update.par_chunks(1 << 16));
    let read = times(15, || Ok(parts().map(bits).reduce(|| 0, |a, b| a ^ b)))?;
    let limit = report(&format!("reading them on {} threads", rayon::current_num_threads()), &read, bytes, "GB/s");

    let (nnm, buckets) = (Some(Pre::Nnm), Some(Pre::Bucketing));
    let rules = [
        (Rule::TrimmedMean, None, 3),
        (Rule::TrimmedMean, None, 5),
        (Rule::TrimmedMean, nnm, 3),
        (Rule::TrimmedMean, nnm, 5),
        (Rule::TrimmedMean, buckets, 3),
        (Rule::Median, None, 5),
        (Rule::Krum, None, 5),
        (Rule::MultiKrum, None, 5),
        (Rule::CenteredClipping, None, 5),
        (Rule::GeometricMedian, None, 5),
    ];
    let whole = Aggregation { weighted: true, restore_length: true, ..Aggregation::of(Rule::TrimmedMean, nnm) };
    let rules = rules.map(|(rule, pre, f)| (Aggregation::of(rule, pre), f, "", &updates));
    let copied: Vec<&[f32]> = updates.iter().take(11).chain(vec![&updates[0]; 5]).copied().collect();
    let weighted =
        [(whole, 5, ", weighted, length restored", &updates), (whole, 5, ", the same where five are copies", &copied)];
    for (how, f, more, updates) in rules.into_iter().chain(weighted) {
        let run = || Ok(aggregate::aggregate(updates, &how, f, &Hash::ZERO)?);
        let before = reset_peak()?;
        let ours = times(11, run)?;
        let pre = how.pre.map_or(String::new(), |pre| format!("{pre:?}, "));
        let ours = report(&format!("{pre}{:?}, f = {f}{more}", how.rule), &ours, bytes, "GB/s");
        ratio(ours, limit, &format!("of the reading speed; {:.0} MB beside the updates", peak()? - before));
    }
    Ok(())
}

/// Pseudo-random values like those of an update, with something that all have in common, many in a short time.
fn quick_values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 - (1 << 23) as f32) * 1e-10 + 2e-4
    };
    (0..count).map(|_| next()).collect()
}

/// A size in /proc/self/status, in MB.
fn memory(name: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such size")?;
    Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / 1e6)
}

/// The most memory that this process had since [`reset_peak`].
fn peak() -> Result<f64, Box<dyn Error>> {
    memory("VmHWM")
}

/// Forgets the peak so far; the memory in use now.
fn reset_peak() -> Result<f64, Box<dyn Error>> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    memory("VmRSS")
}

/// The update codec, against copying.
fn codec() -> Outcome {
    let update = values(1 << 22, 1);
    let bytes = (update.len() * 4) as f64 / 1e9;
    let limit = report("copy", &times(9, || Ok(update.clone()))?, bytes, "GB/s");
    for codec in Codec::ALL {
        let encoded = codec::encode(codec, &Hash::ZERO, &update)?;
        println!("  {codec:?}: {:.3} bytes a value", encoded.len() as f64 / update.len() as f64);
        let encode = || Ok(codec::encode(codec, &Hash::ZERO, &update)?);
        let encode = report("encode", &times(9, encode)?, bytes, "GB/s");
        let decode = || Ok(codec::decode(codec, &Hash::ZERO, &encoded, update.len())?);
        let decode = report("decode", &times(9, decode)?, bytes, "GB/s");
        ratio(encode, limit, "encode, of the copying speed");
        ratio(decode, limit, "decode, of the copying speed");
    }
    Ok(())
}

/// Merkle root of a model state, against hashing its bytes once.
fn root() -> Outcome {
    let state = ModelState { weights: values(1 << 21, 1), momentum: values(1 << 21, 2) };
    let all = state.to_bytes();
    let bytes = all.len() as f64 / 1e9;
    let ours = report("root of a state", &times(9, || Ok(state.root()))?, bytes, "GB/s");
    let limit = report("BLAKE3 of its bytes", &times(9, || Ok(Hash::of(Domain::Lot, &all)))?, bytes, "GB/s");
    ratio(ours, limit, "of the hashing speed");
    Ok(())
}

/// Reading a prompt, writing after it, and checking a text, on one thread, against libtorch's matrix products and against reading the weights.
fn inference() -> Outcome {
    const PROMPT: usize = 128;
    const WRITTEN: usize = 32;
    /// Of a text of `PROMPT` tokens that is checked, so many were given, and of the others so many are looked at together.
    const GIVEN: usize = 32;
    const LOOK: usize = 32;
    let deep = ModelConfig {
        style: Style::Modern,
        layers: 24,
        width: 64,
        heads: 4,
        kv_heads: 4,
        ffn: 256,
        context: 256,
        ..presets::dev().model
    };
    let wide = ModelConfig { layers: 4, width: 2048, heads: 32, kv_heads: 8, ffn: 5632, ..deep };
    for (name, cfg) in [("24 layers of width 64", deep), ("4 layers of width 2048", wide)] {
        let values: Vec<f32> = quick_values(parameter_count(&cfg), 1).iter().map(|x| x * 20.0).collect();
        println!(" {name}: {} parameters", values.len());
        let flops = 2.0 * (PROMPT * values.len()) as f64 / 1e9;
        let random = |outs: u32| Tensor::randn([i64::from(outs), i64::from(cfg.width)], (Kind::Float, Device::Cpu));
        let (x, w) = (random(PROMPT as u32), random(cfg.ffn));
        let theirs = times(9, || Ok(x.matmul(&w.tr())))?;
        let limit = 2.0 * (PROMPT as u32 * cfg.width * cfg.ffn) as f64 / 1e9;
        let product = report("libtorch's matrix product", &theirs, limit, "GFLOP/s");
        let read = times(9, || Ok(values.iter().fold(0, |bits, x| bits ^ x.to_bits())))?;
        let reading = report("reading the weights", &read, (values.len() * 4) as f64 / 1e9, "GB/s");
        let here = [(Dtype::F32, 1), (Dtype::Bf16, 1), (Dtype::Int8, 1), (Dtype::Bf16, 2), (Dtype::Int8, 2)];
        let card = Gpu::find().inspect_err(|e| println!("  no card: {e}")).ok();
        let there =
            card.iter().flat_map(|card| [Dtype::F32, Dtype::Bf16, Dtype::Int8].map(|dtype| (dtype, 1, Some(card))));
        for (dtype, threads, card) in here.map(|(dtype, threads)| (dtype, threads, None)).into_iter().chain(there) {
            let mut weights = Weights::own(&cfg, values.clone(), 0..cfg.layers as usize)?;
            weights.convert(dtype);
            let engine = Engine::new(Shape::of(&cfg), weights, threads)?;
            let engine = match card {
                Some(card) => engine.on_card(card).map_err(|refused| refused.1)?,
                None => engine,
            };
            let bytes = (values.len() * dtype.bytes()) as f64 / 1e9;
            let mut cache = engine.cache(256);
            let mut forward = |tokens: &[u32], at: usize| {
                cache.truncate(at);
                let x = engine.embed(tokens, at)?;
                engine.forward(x, &mut [Part { cache: &mut cache, positions: tokens.len() }])
            };
            match card {
                Some(card) => println!("  {dtype} on {}:", card.name()),
                None => println!("  {dtype}, {threads} thread(s):"),
            }
            let prompts = times(5, || Ok(forward(&[7; PROMPT], 0)?))?;
            let prompt = report("  prompt of 128 tokens", &prompts, flops, "GFLOP/s");
            ratio(prompt, product, "of libtorch's product on one thread");
            let mut writing = Vec::new();
            for _ in 0..7 {
                forward(&[7; PROMPT], 0)?;
                let started = Instant::now();
                for token in 0..WRITTEN {
                    black_box(engine.logits(&forward(&[token as u32], PROMPT + token)?)?);
                }
                writing.push(started.elapsed().as_secs_f64());
            }
            writing.sort_by(f64::total_cmp);
            let writing = report("  token after token", &writing, WRITTEN as f64, "tokens/s");
            ratio(writing * bytes, reading, "of one thread's reading speed while writing");
            // What `check.rs` does: the rows and their hashes before and after a stage, and the choice of all tokens that were written.
            let (sampling, text, shape) = (Sampling::default(), [7_u32; PROMPT], engine.shape());
            let checks = times(5, || {
                let rows = forward(&text, 0)?;
                let hashes = [(); 2].map(|()| proof::hashes(&rows, shape.width));
                let mut chosen = Vec::new();
                for some in rows[(GIVEN - 1) * shape.width..].chunks(LOOK * shape.width) {
                    for logits in engine.logits(some)?.chunks_exact(shape.vocabulary) {
                        let at = GIVEN + chosen.len();
                        chosen.push(sample(logits, &sampling, text.get(GIVEN..at).unwrap_or_default(), at).token);
                    }
                }
                Ok((hashes, chosen))
            })?;
            let what = "  check of 128 tokens, 96 of them written: rows, hashes, logits and choices";
            let check = report(what, &checks, PROMPT as f64, "tokens/s");
            println!("  who checks a text does so {:.1} times as fast as it was written", check / writing);
        }
    }
    Ok(())
}

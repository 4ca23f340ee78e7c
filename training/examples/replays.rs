//! Honest work, trained again and again: by this process, and by others that are started for it, while the machine has other
//! things to do. Not one replay may differ; and each forgery that is tried must.
//!
//!     cargo run -p ailo-training --example replays -- 10000
//!
//! With `busy` after the number, something else is the load.
//! Most of the trainings are small; one in fifty is a few steps of the development network's model.

use ailo_protocol::{
    Hash,
    compression::Codec,
    contribution::update_hash,
    hash::Domain,
    params::{ModelConfig, TrainingParams},
    presets,
};
use ailo_training::{Control, Dataset, Device, ModelState, codec, inner, set_threads};
use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// Replays by one process before the next one is started.
const LIFE: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    set_threads(1);
    let data = Dataset::embedded();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [child, from] = arguments.as_slice()
        && child == "from"
    {
        let from: u64 = from.parse()?;
        for case in from..from + LIFE {
            println!("{}", result(&data, case, None)?);
        }
        return Ok(());
    }
    let count: u64 = arguments.first().map_or(Ok(10_000), |count| count.parse())?;
    let busy = arguments.get(1).is_some_and(|word| word == "busy");
    let (started, stop) = (Instant::now(), AtomicBool::new(false));
    let (mut differ, mut replayed, mut forged, mut missed) = (0u64, 0u64, 0u64, 0u64);
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        // Load: memory that is touched all the time, on as many threads as there are processors.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..if busy { 0 } else { processors } {
            scope.spawn(|| {
                let mut memory = vec![0u64; 1 << 20];
                while !stop.load(Ordering::Relaxed) {
                    memory.iter_mut().for_each(|x| *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
                std::hint::black_box(&memory);
            });
        }
        let outcome = (|| -> Result<(), Box<dyn Error>> {
            for from in (0..count).step_by(LIFE as usize) {
                let mut other = Command::new(std::env::current_exe()?)
                    .args(["from", &from.to_string()])
                    .stdout(Stdio::piped())
                    .spawn()?;
                let lines = BufReader::new(other.stdout.take().ok_or("the other process has no output")?).lines();
                for (case, line) in (from..).zip(lines) {
                    let (here, there) = (result(&data, case, None)?, line?);
                    replayed += 1;
                    if here.to_string() != there {
                        differ += 1;
                        println!("case {case}: {here} here, {there} in the other process");
                    }
                    if case % 10 == 0 {
                        forged += 1;
                        missed += u64::from(result(&data, case, Some(case))? == here);
                    }
                }
                if !other.wait()?.success() {
                    return Err("the other process failed".into());
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    println!(
        "{replayed} replays by {} processes in {:.0} s: {differ} differ; {forged} forgeries: {missed} missed",
        replayed.div_ceil(LIFE),
        started.elapsed().as_secs_f64()
    );
    if differ + missed == 0 { Ok(()) } else { Err("replay does not prove the work on this machine".into()) }
}

/// What the training of a case gives; with a forgery, a sequence of its data is shifted by a token, its data is another
/// slot's, or its base is another.
fn result(data: &Dataset, case: u64, forgery: Option<u64>) -> Result<Hash, Box<dyn Error>> {
    let dev = presets::dev();
    let (cfg, params) = match case % 50 {
        0 => (dev.model, TrainingParams { inner_steps: 2, ..dev.training }),
        _ => {
            let cfg = ModelConfig { layers: 1, width: 32, heads: 2, kv_heads: 2, ffn: 64, context: 32, ..dev.model };
            (cfg, TrainingParams { inner_steps: 2, batch: 2, sequence: 16, ..dev.training })
        }
    };
    let seed = Hash::of(Domain::Lot, &case.to_le_bytes());
    let mut base = ModelState::initial(&cfg, case);
    let mut windows = data.windows(&params, &seed, (case % 4) as u32, 4);
    match forgery.map(|forgery| forgery / 10 % 3) {
        Some(0) => windows[0] += 1,
        Some(1) => windows = data.windows(&params, &seed, (case % 4 + 1) as u32, 5),
        Some(_) => base = ModelState::initial(&cfg, case + 1),
        None => {}
    }
    let local = inner::train(&cfg, &params, case, &base, data, &windows, Device::Cpu, &mut |_| Control::Continue)?;
    let update = update_hash(&codec::encode(Codec::Int8, &seed, &local.update)?);
    Ok(Hash::of_parts(Domain::Work, &[&update.0, &local.trace.0]))
}

//! `aggregate`: one rule on the updates of a file, as a round would apply it; for comparisons with other programs.

use crate::{cli::AggregateArgs, error::NodeError, output, progress::Progress};
use ailo_protocol::{
    Hash,
    aggregation::{Aggregation, Pre},
    file::write_atomically,
};
use ailo_training::{
    aggregate::{aggregate, buckets},
    checkpoint::{floats, mapped},
};
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;
use std::{borrow::Cow, fmt::Write, path::Path};

/// Reads `updates` from the one file, and writes `aggregate` to the other.
pub fn command(args: &AggregateArgs) -> Result<(), NodeError> {
    let how = Aggregation {
        rule: args.rule,
        pre: args.pre,
        weighted: args.weighted,
        restore_length: args.restore_length,
        bucket: args.bucket,
        clip_radius: args.clip_radius,
        clip_steps: args.clip_steps,
        smoothing: args.smoothing,
        weiszfeld_steps: args.weiszfeld_steps,
    };
    let bytes = bytes(&args.input)?;
    let updates = read(&args.input, &bytes)?;
    let mut seed = Hash::ZERO;
    seed.0[..8].copy_from_slice(&args.seed.to_le_bytes());
    let rows: Vec<&[f32]> = updates.rows().collect();
    let working = Progress::wait("aggregating");
    let mean = aggregate(&rows, &how, args.f as usize, &seed)?;
    write(&args.output, &mean)?;
    drop(working);
    let (updates, numbers, f, path) = (rows.len(), mean.len(), args.f, args.output.display());
    let buckets = (how.pre == Some(Pre::Bucketing)).then(|| buckets(updates, how.bucket as usize, &seed));
    let done = json!({ "updates": updates, "numbers": numbers, "f": f, "output": args.output, "buckets": buckets });
    output::show(&done, |out| {
        writeln!(out, "{updates} updates of {numbers} numbers, f = {f}: {path}")?;
        let Some(buckets) = &buckets else { return Ok(()) };
        let buckets: Vec<String> = buckets.iter().map(|bucket| format!("{bucket:?}")).collect();
        writeln!(out, "buckets {}", buckets.join(" "))
    })
}

/// n updates, one after another.
struct Updates<'a> {
    count: usize,
    numbers: Cow<'a, [f32]>,
}

impl Updates<'_> {
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let len = self.numbers.len() / self.count.max(1);
        (0..self.count).map(move |i| &self.numbers[i * len..][..len])
    }
}

/// What the file at `path` holds, where it lies.
fn bytes(path: &Path) -> Result<Bytes, NodeError> {
    let meta = std::fs::metadata(path).map_err(|e| NodeError::file("read", path, e))?;
    match (meta.is_file(), meta.len()) {
        (false, _) => Err(NodeError::Usage(format!("{} cannot be aggregated: it is no file", path.display()))),
        (true, 0) => Ok(Bytes::new()),
        (true, _) => Ok(mapped(path)?.1),
    }
}

/// The updates in the file at `path`, which holds `bytes`.
fn read<'a>(path: &Path, bytes: &'a [u8]) -> Result<Updates<'a>, NodeError> {
    let unusable = |why: String| NodeError::Usage(format!("{} cannot be aggregated: {why}", path.display()));
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|e| unusable(format!("it is not a safetensors file ({e}); write it with safetensors")))?;
    let found = || tensors.names().iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let updates = tensors.tensor("updates").map_err(|_| {
        unusable(format!(
            "it has no tensor named 'updates' but {}; name it so",
            if tensors.is_empty() { "none".into() } else { found() }
        ))
    })?;
    if updates.dtype() != Dtype::F32 {
        return Err(unusable(format!("'updates' is {:?}; convert it to float32 (F32)", updates.dtype())));
    }
    let &[count, _] = updates.shape() else {
        let shape = updates.shape();
        return Err(unusable(format!("'updates' has the shape {shape:?}; give it two dimensions, [updates, numbers]")));
    };
    Ok(Updates { count, numbers: floats(updates.data()) })
}

fn write(path: &Path, mean: &[f32]) -> Result<(), NodeError> {
    let bytes: Vec<u8> = mean.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![mean.len()], &bytes);
    let file = view.and_then(|view| safetensors::serialize([("aggregate", view)], None));
    let file = file.map_err(|e| NodeError::Usage(format!("cannot write {}: {e}", path.display())))?;
    write_atomically(path, [file]).map_err(|e| NodeError::file("write", path, e))
}

//! Robust aggregation: n updates, of which up to f come from attackers, become one.
//!
//! [`aggregate`] knows six rules and two pre-aggregators ([`ailo_protocol::aggregation`] names them, `docs/training.md` says
//! what each guarantees). The result has the same bits on every machine, whatever its threads and instructions. Trimmed mean
//! and median do not depend on the updates' order either; the other rules take the updates in the order that they are
//! given, and of equally good ones the first.
//!
//! Updates are read where they are, in a few passes; beside the result a pass needs some kilobytes a thread, and n^2
//! numbers for distances.

mod clipping;
mod common;
mod distances;
mod geometric;
mod krum;
mod mix;
mod network;
mod order;
mod point;
mod rows;
#[cfg(test)]
mod tests;

use crate::error::{Result, TrainingError};
use ailo_protocol::{
    Hash,
    aggregation::{Aggregation, Pre, Rule},
};
use common::{Common, stretched};
use distances::Distances;
use mix::Mix;
use pulp::Arch;
use rows::Rows;

pub use mix::buckets;

/// The aggregate of `updates`, all of one length and finite, by a rule that withstands `f` attackers.
///
/// `seed` draws the buckets of [`Pre::Bucketing`] (see [`buckets`]), and nothing else. A mean that withstands nobody has to
/// be asked for: `f` = 0.
///
/// # Errors
///
/// [`TrainingError::Aggregate`] if there is no update, their lengths differ, a number is not finite, or a number of `how` is out
/// of range; or if the updates, or their buckets, are not more than 2 `f`: no rule can tell honest updates from others then.
pub fn aggregate(updates: &[&[f32]], how: &Aggregation, f: usize, seed: &Hash) -> Result<Vec<f32>> {
    aggregate_on(Arch::new(), updates, how, f, seed)
}

/// The same with the instructions of `arch`.
fn aggregate_on(arch: Arch, updates: &[&[f32]], how: &Aggregation, f: usize, seed: &Hash) -> Result<Vec<f32>> {
    how.validate().map_err(|e| TrainingError::Aggregate(e.to_string()))?;
    let Some(first) = updates.first() else {
        return Err(TrainingError::Aggregate("there is no update".into()));
    };
    if updates.iter().any(|update| update.len() != first.len()) {
        return Err(TrainingError::Aggregate("the updates differ in length".into()));
    }
    enough(updates.len(), f, "updates")?;
    let rows = Rows::new(updates, arch);
    let compared = how.restore_length || how.weighted;
    let distances = if compared || how.pre == Some(Pre::Nnm) { Some(Distances::between(&rows)?) } else { None };
    let common = match distances.as_ref().filter(|_| compared) {
        Some(distances) => Common::of(&rows, distances, f)?,
        None => None,
    };
    let weighing = common.as_ref().filter(|_| how.weighted);
    let weights = weighing.zip(distances.as_ref()).map(|(common, distances)| common.weights(distances));
    let weights = weights.as_deref();
    let rows = match (how.pre, &distances) {
        (Some(Pre::Nnm), Some(distances)) => rows.mixed(Mix::nearest(distances, f, weights)),
        (Some(Pre::Bucketing), _) => rows.mixed(Mix::buckets(updates.len(), how.bucket as usize, seed)),
        _ => rows,
    };
    enough(rows.count(), f, "buckets")?;
    let aggregate = match how.rule {
        Rule::TrimmedMean => order::trimmed_mean(&rows, f),
        Rule::Median => order::median(&rows),
        Rule::Krum => krum::krum(&rows, f),
        Rule::MultiKrum => krum::multi_krum(&rows, f),
        Rule::CenteredClipping => clipping::centered_clipping(&rows, how.clip_radius, how.clip_steps),
        Rule::GeometricMedian => geometric::geometric_median(&rows, how.smoothing, how.weiszfeld_steps),
    }?;
    Ok(match common.filter(|_| how.restore_length) {
        Some(common) => stretched(aggregate, common.length(updates.len() - f)),
        None => aggregate,
    })
}

fn enough(n: usize, f: usize, what: &str) -> Result<()> {
    if n.div_ceil(2) > f {
        return Ok(());
    }
    Err(TrainingError::Aggregate(format!("{n} {what} are too few for f = {f}: more than 2 f are needed")))
}

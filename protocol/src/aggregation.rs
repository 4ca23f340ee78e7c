//! How a round's updates become one: the rule, what is done to the updates before it, and their numbers. They are network
//! parameters (`training.aggregation`); `ailo_training::aggregate` computes them, and `docs/training.md` says what each
//! guarantees.

use crate::{
    canonical::{Decode, Encode},
    params::{ParamError, check},
};
use serde::{Deserialize, Serialize};

/// How n updates, of which at most f come from attackers, become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Of each coordinate the f largest and f smallest values are dropped, the rest is averaged (Yin et al. 2018).
    TrimmedMean,
    /// The middle value of each coordinate, or the mean of the two middle ones (Yin et al. 2018).
    Median,
    /// The update whose squared distances to its n - f - 1 nearest others have the least sum (Blanchard et al. 2017).
    Krum,
    /// The mean of the n - f updates that Krum likes best (Blanchard et al. 2017; El Mhamdi et al. 2018).
    MultiKrum,
    /// Moves from zero along the mean of the differences, each clipped to a radius (Karimireddy et al. 2021).
    CenteredClipping,
    /// The point with the least sum of distances to the updates, by the smoothed Weiszfeld algorithm (Pillutla et al. 2022).
    GeometricMedian,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 6] =
        [Rule::TrimmedMean, Rule::Median, Rule::Krum, Rule::MultiKrum, Rule::CenteredClipping, Rule::GeometricMedian];
}

/// What is done to the updates before the rule sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pre {
    /// Nearest-neighbour mixing: each update becomes the mean of the n - f nearest to it, itself one of them (Allouah et
    /// al. 2023).
    Nnm,
    /// The updates, in an order that a seed draws, become means of `bucket` each (Karimireddy et al. 2022).
    Bucketing,
}

impl Pre {
    /// Every pre-aggregator.
    pub const ALL: [Pre; 2] = [Pre::Nnm, Pre::Bucketing];
}

named_as_in_files!(Rule, Pre);

/// A rule, what is done before it, and their numbers. What is left out is as in [`Aggregation::DEFAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aggregation {
    /// The rule.
    pub rule: Rule,
    /// What is done before it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre: Option<Pre>,
    /// With nearest-neighbour mixing: whether updates count by what they have in common with the others, and copies as one.
    pub weighted: bool,
    /// Whether the aggregate gets the length that the updates have in common, whatever attackers took from it.
    pub restore_length: bool,
    /// Updates of a bucket (s in the paper).
    pub bucket: u32,
    /// Centred clipping: the length that a difference is clipped to (tau in the paper).
    pub clip_radius: f64,
    /// Centred clipping: steps (L in the paper).
    pub clip_steps: u32,
    /// Geometric median: the least distance that is divided by (nu in the paper).
    pub smoothing: f64,
    /// Geometric median: steps of Weiszfeld's algorithm (T in the paper).
    pub weiszfeld_steps: u32,
}

impl Aggregation {
    /// The trimmed mean with nothing before it; the numbers of the other rules are ByzFL's, and two updates make a bucket.
    pub const DEFAULT: Aggregation = Aggregation {
        rule: Rule::TrimmedMean,
        pre: None,
        weighted: false,
        restore_length: false,
        bucket: 2,
        clip_radius: 100.0,
        clip_steps: 1,
        smoothing: 0.1,
        weiszfeld_steps: 3,
    };

    /// This rule with this before it, and the numbers of [`Aggregation::DEFAULT`].
    pub const fn of(rule: Rule, pre: Option<Pre>) -> Aggregation {
        Aggregation { rule, pre, ..Aggregation::DEFAULT }
    }

    /// Checks every range.
    pub fn validate(&self) -> Result<(), ParamError> {
        // Neither a length nor its inverse may overflow.
        let length = |x: f64| (1e-9..=1e9).contains(&x);
        let mixed = self.pre == Some(Pre::Nnm);
        check(mixed || !self.weighted, "aggregation.weighted", "false unless aggregation.pre is nnm")?;
        check((1..=1024).contains(&self.bucket), "aggregation.bucket", "1 to 1024")?;
        check(length(self.clip_radius), "aggregation.clip_radius", "1e-9 to 1e9")?;
        check((1..=64).contains(&self.clip_steps), "aggregation.clip_steps", "1 to 64")?;
        check(length(self.smoothing), "aggregation.smoothing", "1e-9 to 1e9")?;
        check((1..=64).contains(&self.weiszfeld_steps), "aggregation.weiszfeld_steps", "1 to 64")
    }
}

impl Default for Aggregation {
    fn default() -> Aggregation {
        Aggregation::DEFAULT
    }
}

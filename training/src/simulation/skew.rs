//! Data that differ from node to node: the training text is cut into as many parts of equal length as there are nodes, and of each
//! part's windows a node takes a share that it draws once, from a Dirichlet distribution with all parameters alpha (Hsu et al. 2019,
//! arXiv 1909.06335, with parts of a text in place of classes). Small alphas leave a node one or two parts; large ones make all alike.
//! Floats are fine here: nobody has to agree on it.

use super::Options;
use crate::round::Rules;
use ailo_protocol::{
    Hash,
    hash::{Domain, Stream},
};

/// Shares of the parts, by node.
pub struct Skew {
    shares: Vec<Vec<f64>>,
}

impl Skew {
    /// Draws the shares.
    pub fn new(options: &Options, alpha: f64) -> Skew {
        let seed = Hash::of_parts(Domain::Lot, &[b"skew", &options.seed.to_le_bytes()]);
        let mut stream = seed.stream();
        let mut shares = || -> Vec<f64> {
            let logs: Vec<f64> = (0..options.nodes).map(|_| log_gamma_variate(alpha, &mut stream)).collect();
            let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let parts: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
            let sum: f64 = parts.iter().sum();
            parts.iter().map(|part| part / sum).collect()
        };
        Skew { shares: (0..options.nodes).map(|_| shares()).collect() }
    }

    /// A node's windows of a round.
    pub fn windows(&self, rules: &Rules<'_>, node: u32, seed: &Hash) -> Vec<usize> {
        let sequence = rules.training.sequence as usize;
        let count = rules.training.inner_steps as usize * rules.training.batch as usize;
        let shares = &self.shares[node as usize % self.shares.len().max(1)];
        let train = rules.data.tokens.len() - rules.data.held_out;
        let part = train / shares.len();
        let room = part.saturating_sub(sequence).max(1) as u64;
        let mut stream = Hash::of_parts(Domain::Lot, &[b"skewed windows", &seed.0, &node.to_le_bytes()]).stream();
        let mut window = || {
            let mut draw = uniform(&mut stream);
            let at = shares.iter().position(|share| {
                draw -= share;
                draw < 0.0
            });
            at.unwrap_or(shares.len() - 1) * part + stream.below(room) as usize
        };
        (0..count).map(|_| window()).collect()
    }
}

/// Uniform between 0 and 1, both excluded.
fn uniform(stream: &mut Stream) -> f64 {
    (stream.below(1 << 53) as f64 + 0.5) / (1u64 << 53) as f64
}

/// A standard normal variate (Box and Muller 1958).
pub(super) fn normal(stream: &mut Stream) -> f64 {
    (-2.0 * uniform(stream).ln()).sqrt() * (std::f64::consts::TAU * uniform(stream)).cos()
}

/// The logarithm of a Gamma variate of shape `alpha` (Marsaglia and Tsang 2000, with their step up for shapes below 1).
fn log_gamma_variate(alpha: f64, stream: &mut Stream) -> f64 {
    let (d, boost) = ((alpha + 1.0) - 1.0 / 3.0, uniform(stream).ln() / alpha);
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(stream);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(stream).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln() + boost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_variates_have_the_mean_and_variance_of_their_shape() {
        let mut stream = Hash([1; 32]).stream();
        for alpha in [0.1, 1.0, 5.0] {
            let drawn: Vec<f64> = (0..20_000).map(|_| log_gamma_variate(alpha, &mut stream).exp()).collect();
            let mean = drawn.iter().sum::<f64>() / 20_000.0;
            let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!((mean - alpha).abs() < 0.05 * alpha.max(0.3) && (variance - alpha).abs() < 0.1 * alpha.max(0.3));
        }
    }
}

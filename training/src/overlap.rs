//! Copies: which updates of a round have more in common than independent work has.
//!
//! Two honest updates share the direction in which the model improves, and each has noise of its own at right angles to the other's. With c the
//! cosine between two updates and m the upper quartile of all pairs' cosines (of these a third of attackers may shape 5 of 9, but make only 1 of 9
//! alike), `(c - m) / (1 - m)` is about the share of the noise that the two have in
//! common: about 0 for independent work, 1 for a copy, `1 / (1 + s^2)` for one to which noise of s times its own was added. Cosines are
//! taken of [`Sketch`]es (CountSketch: Charikar, Chen, Farach-Colton 2002), so that no two updates have to be in memory at once; their standard error
//! is `sqrt((1 + c^2) / BUCKETS)`, half of a percent.

use ailo_protocol::Hash;

/// Numbers of a sketch.
const BUCKETS: usize = 1 << 16;
/// Share of the noise in common from which on two updates count as alike.
const ALIKE: f64 = 0.5;
/// Where updates have hardly any noise of their own, nothing can be told: a sketch is not that exact.
const LEAST_NOISE: f64 = 0.05;

/// An update in short: each number is added to one of some sums, or subtracted from it, as the seed says.
pub struct Sketch(Vec<f64>);

impl Sketch {
    /// The sketch of an update. Who knows the seed can make two that look alike; so it is drawn after the commits.
    pub fn of(update: &[f32], seed: &Hash) -> Sketch {
        let mut sums = vec![0.0f64; BUCKETS];
        let key = u64::from_le_bytes(seed.0[..8].try_into().unwrap_or_default());
        for (i, x) in update.iter().enumerate() {
            let mixed = mix(key ^ i as u64);
            let sign = if mixed >> 63 == 0 { 1.0 } else { -1.0 };
            sums[mixed as usize % BUCKETS] += sign * f64::from(*x);
        }
        let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        sums.iter_mut().for_each(|x| *x /= length);
        Sketch(sums)
    }

    fn cosine(&self, other: &Sketch) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| a * b).sum()
    }
}

/// The last step of SplitMix64 (Steele, Lea, Flood 2014): all bits of the result depend on all of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// For each of these updates, whether it is suspiciously like another one. Of fewer than four one could
/// make the others look alike.
pub fn alike(sketches: &[Sketch]) -> Vec<bool> {
    let mut alike = vec![false; sketches.len()];
    let pairs = || (0..sketches.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosines: Vec<f64> = pairs().map(|(i, j)| sketches[i].cosine(&sketches[j])).collect();
    let mut sorted = cosines.clone();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted.get(sorted.len().saturating_sub(1) * 3 / 4).filter(|_| sketches.len() > 3);
    let Some(usual) = usual else { return alike };
    for ((i, j), cosine) in pairs().zip(&cosines) {
        if 1.0 - usual >= LEAST_NOISE && cosine - usual >= ALIKE * (1.0 - usual) {
            (alike[i], alike[j]) = (true, true);
        }
    }
    alike
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Hash = Hash([7; 32]);

    fn noise(seed: u8, count: usize) -> Vec<f32> {
        let mut stream = Hash([seed; 32]).stream();
        (0..count).map(|_| stream.below(2_000_001) as f32 * 1e-6 - 1.0).collect()
    }

    /// Updates of a common part and noise of each's own, `length` times as long.
    fn updates(count: u8, length: f32) -> Vec<Vec<f32>> {
        let common = noise(100, 20_000);
        let own = |i: u8| common.iter().zip(noise(i, 20_000)).map(|(c, n)| c + length * n).collect();
        (0..count).map(own).collect()
    }

    fn found(updates: &[Vec<f32>]) -> Vec<bool> {
        alike(&updates.iter().map(|update| Sketch::of(update, &SEED)).collect::<Vec<_>>())
    }

    #[test]
    fn independent_work_is_not_alike_however_long_its_noise_is() {
        for length in [0.0, 0.1, 0.3, 1.0, 3.0, 30.0] {
            assert_eq!(found(&updates(6, length)), [false; 6], "{length}");
        }
    }

    #[test]
    fn one_of_four_cannot_make_the_others_suspects() {
        let honest = updates(3, 1.0);
        let mean: Vec<f32> =
            (0..honest[0].len()).map(|i| honest.iter().map(|update| update[i]).sum::<f32>() / 3.0).collect();
        let back: Vec<f32> = mean.iter().map(|x| -x).collect();
        for attack in [back, vec![0.0; mean.len()], noise(50, mean.len())] {
            let all = [honest.clone(), vec![attack]].concat();
            assert_eq!(found(&all)[..3], [false; 3]);
        }
    }

    #[test]
    fn copies_are_found_scaled_or_under_noise_and_nobody_else() {
        for length in [0.5, 1.0, 3.0] {
            let honest = updates(6, length);
            for (factor, more) in [(1.0, 0.0), (0.3, 0.0), (1.0, 0.7)] {
                let mut all = honest.clone();
                let extra = noise(77, 20_000);
                all[4] = all[1].iter().zip(extra).map(|(x, n)| factor * x + more * length * n).collect();
                assert_eq!(found(&all), [false, true, false, false, true, false], "{length} {factor} {more}");
            }
        }
    }

    #[test]
    fn nothing_is_said_of_nothings_and_of_three() {
        assert_eq!(found(&vec![vec![0.0; 100]; 4]), [false; 4]);
        assert_eq!(found(&vec![vec![1.0; 100]; 3]), [false; 3]);
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn a_sketch_keeps_cosines() {
        let honest = updates(2, 1.0);
        let exact = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine =
            exact(&honest[0], &honest[1]) / (exact(&honest[0], &honest[0]) * exact(&honest[1], &honest[1])).sqrt();
        let sketched = Sketch::of(&honest[0], &SEED).cosine(&Sketch::of(&honest[1], &SEED));
        assert!((cosine - sketched).abs() < 0.02, "{cosine} {sketched}");
    }
}

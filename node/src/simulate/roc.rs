//! How well the committee's losses tell attackers from honest nodes: each node's distance from the round's median, averaged over its
//! last rounds, and for every threshold the honest that it would reject and the attackers that it would find.

/// Rounds that a score is averaged over.
pub const MEMORY: usize = 5;

/// What was measured in a round, of which more is worse: of the honest nodes, then of attackers; none where there was no update.
pub type Measured = Vec<Option<f64>>;

/// Scores of honest nodes and of attackers, one for each node and round.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Of honest nodes.
    pub honest: Vec<f64>,
    /// Of attackers.
    pub attackers: Vec<f64>,
}

impl Scores {
    /// From a run's rounds, of which the first `honest` are honest nodes'; averaged over `memory` rounds.
    pub fn of(rounds: &[Measured], honest: usize, memory: usize) -> Scores {
        let distances: Vec<Vec<Option<f64>>> = rounds.iter().map(distances).collect();
        let mut scores = Scores::default();
        for end in memory..=distances.len() {
            let last = &distances[end - memory..end];
            for node in 0..last.first().map_or(0, Vec::len) {
                let own: Vec<f64> = last.iter().filter_map(|round| round.get(node).copied().flatten()).collect();
                if own.is_empty() {
                    continue;
                }
                let of = if node < honest { &mut scores.honest } else { &mut scores.attackers };
                of.push(own.iter().sum::<f64>() / own.len() as f64);
            }
        }
        scores
    }

    /// Shares of the honest and of attackers above each threshold, from the strictest to none.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let mut all: Vec<(f64, bool)> = self.honest.iter().map(|score| (*score, true)).collect();
        all.extend(self.attackers.iter().map(|score| (*score, false)));
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut rejected, mut found, mut curve) = (0.0, 0.0, vec![(0.0, 0.0)]);
        for (i, (score, honest)) in all.iter().enumerate() {
            *(if *honest { &mut rejected } else { &mut found }) += 1.0;
            // Equal scores fall on the same side of every threshold.
            if all.get(i + 1).is_none_or(|(next, _)| next != score) {
                curve.push((rejected / self.honest.len().max(1) as f64, found / self.attackers.len().max(1) as f64));
            }
        }
        curve
    }

    /// Area under the curve: the chance that an attacker's score is above an honest one's.
    pub fn area(&self) -> f64 {
        self.curve().windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum()
    }

    /// The share of attackers that the strictest threshold finds which rejects at most this share of the honest.
    pub fn found_at(&self, rejected: f64) -> f64 {
        self.curve().into_iter().take_while(|point| point.0 <= rejected).map(|point| point.1).fold(0.0, f64::max)
    }
}

/// How far each is above the round's median, in median distances from it.
fn distances(measured: &Measured) -> Vec<Option<f64>> {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let known: Vec<f64> = measured.iter().flatten().copied().collect();
    let middle = median(known.clone());
    let spread = median(known.iter().map(|one| (one - middle).abs()).collect()).max(1e-9);
    measured.iter().map(|one| one.map(|one| (one - middle) / spread)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_always_worse_is_always_found_and_who_is_alike_by_chance() {
        let of = |i: u32| [100 + i % 3, 101 + i % 2, 102, 150].map(|x| Some(f64::from(x)));
        let rounds: Vec<Measured> = (0..10).map(|i| of(i).into_iter().chain([None]).collect()).collect();
        let scores = Scores::of(&rounds, 3, 5);
        assert_eq!((scores.honest.len(), scores.attackers.len()), (18, 6));
        assert_eq!((scores.area(), scores.found_at(0.0)), (1.0, 1.0));
        let alike = Scores { honest: vec![1.0, 2.0], attackers: vec![1.0, 2.0] };
        assert_eq!((alike.area(), alike.found_at(0.0), alike.found_at(0.5)), (0.5, 0.0, 0.5));
    }
}

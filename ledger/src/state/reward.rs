//! What the work of a round is worth, and how long the next one may take: integers only.
//!
//! ```text
//! weight  = quality * speed * staked                           tokens are the same for all
//! quality = 1 + score                                          1 to quality_max
//! score   = memory * score + (1 - memory) * bonus              over rounds: luck in one pays little
//! bonus   = (quality_max - 1) * min(1, gain / quality_full)    gain: (median loss - loss) / median loss, at least 0
//! speed   = clamp(median time / time)                          time from the round's opening to the commit
//! staked  = 1 + stake_bonus * log2(1 + stake / unit)           stake alone earns nothing
//! share   = pot * weight / sum of weights                      rounded down; the rest is not minted
//! ```
//!
//! A contribution's loss is the lower median of what the committee measured; without any the score stays as it was.
//!
//! Who trained its slot lowers the loss there by more than elsewhere. By how much, as a share of what is usual in the round (a third may gain
//! less, be they attackers), is averaged over rounds as the score is, and moves no pay: below [`DOUBTFUL_PPM`] all of the node's work is replayed, until that is found right.

use ailo_protocol::{Amount, NodeId, amount::PPM, contribution::MicroNats, params::RoundParams};
use std::collections::BTreeMap;

/// The lower median; `None` of nothing.
pub fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The lower median of values that carry weight: the least value with at least half of the weight up to it.
pub(super) fn weighted_median(mut values: Vec<(u64, u64)>) -> Option<u64> {
    values.sort_unstable();
    let total: u128 = values.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut sum = 0;
    values.into_iter().find_map(|(value, weight)| {
        sum += u128::from(weight);
        (2 * sum >= total).then_some(value)
    })
}

/// Time that participants have to commit, from the commit times of the last round:
/// `max(median + k * MAD, 1.5 * median)` within the bounds.
pub(super) fn train_ms(times: Vec<u64>, params: &RoundParams) -> u64 {
    let Some(middle) = median(times.clone()) else { return params.max_train_ms };
    let deviation = median(times.iter().map(|time| time.abs_diff(middle)).collect()).unwrap_or(0);
    let spread = u128::from(deviation) * u128::from(params.train_mad_ppm) / u128::from(PPM);
    let allowed = (u128::from(middle) + spread).max(u128::from(middle) * 3 / 2);
    u64::try_from(allowed).unwrap_or(u64::MAX).clamp(params.min_train_ms, params.max_train_ms)
}

/// An accepted contribution, for weighing.
pub(super) struct Work {
    /// What the committee measured.
    pub losses: Vec<MicroNats>,
    /// Time from opening to commit.
    pub after_ms: u64,
    /// The node's score so far, in ppm.
    pub score_ppm: u64,
    /// Stake behind the node.
    pub stake: Amount,
}

/// Its worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Worth {
    /// Weight in the pot, in ppm of nominal work.
    pub weight: u64,
    /// The node's score from now on, in ppm.
    pub score_ppm: u64,
}

/// Weighs the contributions of a round.
pub(super) fn weigh(works: Vec<Work>, params: &RoundParams) -> Vec<Worth> {
    let median_ms = median(works.iter().map(|work| work.after_ms).collect()).unwrap_or(0);
    let losses: Vec<Option<u64>> = works.iter().map(|work| median(work.losses.clone())).collect();
    let median_loss = median(losses.iter().flatten().copied().collect()).unwrap_or(0);
    let weigh = |(work, loss): (Work, Option<u64>)| {
        let score_ppm = match loss {
            Some(loss) => remember(work.score_ppm, bonus(loss, median_loss, params), params),
            None => work.score_ppm,
        };
        let quality = (PPM + score_ppm).min(params.quality_max_ppm);
        let speed = u128::from(median_ms) * u128::from(PPM) / u128::from(work.after_ms.max(1));
        let speed = u64::try_from(speed).unwrap_or(u64::MAX).clamp(params.speed_min_ppm, params.speed_max_ppm);
        let worth = u128::from(quality * speed / PPM) * u128::from(staked_ppm(work.stake, params)) / u128::from(PPM);
        Worth { weight: u64::try_from(worth).unwrap_or(u64::MAX).max(1), score_ppm }
    };
    works.into_iter().zip(losses).map(weigh).collect()
}

/// What stake multiplies the worth of work by, in ppm.
fn staked_ppm(stake: Amount, params: &RoundParams) -> u64 {
    let unit = u128::from(params.stake_bonus_unit.0.max(1));
    let log_ppm = log2_ppm(unit + u128::from(stake.0), unit);
    PPM + u64::try_from(u128::from(params.stake_bonus_ppm) * u128::from(log_ppm) / u128::from(PPM)).unwrap_or(0)
}

/// `log2(part / whole)` in ppm, rounded down, for `part >= whole > 0`, both below 2^65: whole doublings, then one binary
/// digit for each squaring of what is left (fixed-point, 32 bits).
fn log2_ppm(part: u128, whole: u128) -> u64 {
    let mut ratio = (part << 32) / whole;
    let doublings = (127 - ratio.max(1).leading_zeros()).saturating_sub(32);
    ratio >>= doublings;
    let mut fraction: u64 = 0;
    for _ in 0..24 {
        ratio = (ratio * ratio) >> 32;
        let over = ratio >> 33; // 1 once the square is 2 or more
        ratio >>= over;
        fraction = fraction << 1 | over as u64;
    }
    u64::from(doublings) * PPM + ((fraction * PPM) >> 24)
}

/// The quality bonus of one measurement, in ppm above 1.
fn bonus(loss: MicroNats, median: MicroNats, params: &RoundParams) -> u64 {
    let most = params.quality_max_ppm - PPM;
    let Some(below) = median.checked_sub(loss) else { return 0 };
    let gain_ppm = (u128::from(below) * u128::from(PPM)).checked_div(u128::from(median)).unwrap_or(0);
    let bonus = gain_ppm * u128::from(most) / u128::from(params.quality_full_ppm.max(1));
    u64::try_from(bonus).unwrap_or(u64::MAX).min(most)
}

/// Shares of the usual gain below which a node's work is doubted.
pub(super) const DOUBTFUL_PPM: i64 = 350_000;
/// One round counts no more than this in either direction.
const MOST_OWN_PPM: i64 = 3 * PPM as i64;

/// What each gains more on its own data than elsewhere, in ppm of what is usual; nothing where that is none, or where fewer than four were measured.
pub(super) fn own_shares(owns: BTreeMap<NodeId, i64>) -> BTreeMap<NodeId, i64> {
    let mut sorted: Vec<i64> = owns.values().copied().collect();
    sorted.sort_unstable();
    let usual = sorted.get(2 * sorted.len() / 3).filter(|usual| **usual > 0 && sorted.len() > 3);
    let Some(usual) = usual.copied() else { return BTreeMap::new() };
    let share = |own: i64| {
        let share = i128::from(own) * i128::from(PPM) / i128::from(usual);
        i64::try_from(share.clamp(-i128::from(PPM), MOST_OWN_PPM.into())).unwrap_or(0)
    };
    owns.into_iter().map(|(node, own)| (node, share(own))).collect()
}

/// The running average with a new share in it.
pub(super) fn remember_own(own_ppm: i64, share: i64, params: &RoundParams) -> i64 {
    let (memory, all) = (params.quality_memory_ppm.min(PPM) as i64, PPM as i64);
    (own_ppm * memory + share * (all - memory)) / all
}

/// The lower median.
pub(super) fn middle(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// The running average with a new bonus in it.
fn remember(score_ppm: u64, bonus_ppm: u64, params: &RoundParams) -> u64 {
    let memory = params.quality_memory_ppm.min(PPM);
    (score_ppm * memory + bonus_ppm * (PPM - memory)) / PPM
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn params() -> RoundParams {
        RoundParams { min_train_ms: 10, max_train_ms: 1000, ..ailo_protocol::presets::main().round }
    }

    fn work(loss: u64, after_ms: u64, score_ppm: u64) -> Work {
        Work { losses: vec![loss], after_ms, score_ppm, stake: Amount::ZERO }
    }

    #[test]
    fn stake_raises_the_worth_of_work_by_a_tenth_with_each_doubling() {
        let bonus = |alc| staked_ppm(Amount::alc(alc), &params());
        assert_eq!(
            [0, 1000, 3000, 7000, 1_023_000].map(bonus),
            [1_000_000, 1_100_000, 1_200_000, 1_300_000, 2_000_000]
        );
        assert_eq!([500, 100, 1].map(bonus), [1_058_496, 1_013_750, 1_000_144], "log2 of 1.5, 1.1 and 1.001");
        assert_eq!(staked_ppm(Amount(u64::MAX), &params()), 3_745_879, "1 + 0.1 * log2(1 + 2^64 / 1e11)");
    }

    #[test]
    fn medians_are_lower_ones() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![4, 1, 3, 2]), Some(2));
        assert_eq!(weighted_median(vec![(9, 1), (1, 1), (5, 1), (7, 1)]), Some(5));
        assert_eq!(weighted_median(vec![(1, 1), (2, 1), (8, 5)]), Some(8), "the heavy one decides");
    }

    #[test]
    fn the_time_to_commit_follows_the_spread_within_its_bounds() {
        assert_eq!(train_ms(vec![], &params()), 1000, "nothing is known");
        assert_eq!(train_ms(vec![100; 5], &params()), 150, "at least half as much again");
        assert_eq!(train_ms(vec![80, 90, 100, 110, 120], &params()), 150, "100 + 5 * 10");
        assert_eq!(train_ms(vec![60, 80, 100, 120, 140], &params()), 200, "100 + 5 * 20");
        assert_eq!(train_ms(vec![1], &params()), 10);
        assert_eq!(train_ms(vec![u64::MAX, u64::MAX], &params()), 1000);
    }

    #[test]
    fn the_quality_bonus_is_zero_at_the_median_and_whole_at_a_tenth_below() {
        let bonus = |loss| bonus(loss, 1_000_000, &params());
        assert_eq!([2_000_000, 1_000_000, 990_000, 900_000, 0].map(bonus), [0, 0, 900_000, 9_000_000, 9_000_000]);
    }

    #[test]
    fn a_score_is_kept_over_rounds_and_through_one_without_a_measurement() {
        let mut score = 0;
        for expected in [2_250_000, 3_937_500, 5_203_125] {
            score = weigh(vec![work(1, 1, score), work(100, 1, 0), work(100, 1, 0)], &params())[0].score_ppm;
            assert_eq!(score, expected);
        }
        let unmeasured = Work { losses: vec![], ..work(0, 1, score) };
        assert_eq!(weigh(vec![unmeasured], &params())[0].score_ppm, score);
        assert_eq!(weigh(vec![work(5, 1, score)], &params())[0].score_ppm, 3_902_343, "at the median it fades");
    }

    proptest! {
        #[test]
        fn weights_stay_within_the_multipliers_and_grow_with_speed_and_quality(
            works in vec((any::<u64>(), any::<u64>(), 0u64..=9_000_000), 1..20),
            better in any::<u64>(),
        ) {
            let weights = |works: &[(u64, u64, u64)]| {
                let works = works.iter().map(|(loss, after, score)| work(*loss, *after, *score)).collect();
                weigh(works, &params()).iter().map(|worth| worth.weight).collect::<Vec<_>>()
            };
            let before = weights(&works);
            prop_assert!(before.iter().all(|weight| (500_000..=30_000_000).contains(weight)));
            let mut twin = works[0];
            (twin.0, twin.1) = (twin.0 - twin.0.min(better), twin.1 - twin.1.min(better));
            let pair = weights(&[works.clone(), vec![twin]].concat());
            prop_assert!(pair[works.len()] >= pair[0], "better and faster work with the same score earns no less");
        }
    }

    #[test]
    fn who_gains_no_more_on_its_own_data_is_doubted_within_rounds_and_the_honest_are_not() {
        let params = ailo_protocol::presets::main().round;
        // What was measured of eight honest nodes varies by half of its mean from round to round.
        let mut stream = ailo_protocol::Hash([3; 32]).stream();
        let mut draw = |mean: i64| mean + (0..12).map(|_| stream.below(1_000) as i64 - 500).sum::<i64>() / 2;
        let nodes: Vec<NodeId> = (0..8).map(|i| ailo_protocol::PublicKey([i; 32])).collect();
        let mut averages = [PPM as i64; 8];
        let (mut doubted, mut found) = (0, 0);
        for _ in 0..1000 {
            let owns = nodes.iter().map(|node| (*node, draw(if node.0[0] < 6 { 1_000 } else { 0 })));
            let shares = own_shares(owns.collect());
            for (node, average) in nodes.iter().zip(&mut averages) {
                *average = shares.get(node).map_or(*average, |share| remember_own(*average, *share, &params));
            }
            let below = |averages: &[i64]| averages.iter().filter(|average| **average < DOUBTFUL_PPM).count();
            (doubted, found) = (doubted + below(&averages[..6]), found + below(&averages[6..]));
        }
        assert!(doubted < 60, "one of a hundred honest pieces of work is replayed for it: {doubted} of 6000");
        assert!(found > 1800, "nine of ten of the others': {found} of 2000");
    }

    #[test]
    fn shares_of_gains_are_bounded_and_need_somebody_who_gains() {
        let of = |owns: &[i64]| {
            let owns = owns.iter().enumerate().map(|(i, own)| (ailo_protocol::PublicKey([i as u8; 32]), *own));
            own_shares(owns.collect()).into_values().collect::<Vec<_>>()
        };
        assert_eq!(of(&[10, 20, 40, -5]), [500_000, 1_000_000, 2_000_000, -250_000]);
        assert_eq!(of(&[i64::MIN, 1, 1, i64::MAX]), [-1_000_000, 1_000_000, 1_000_000, 3_000_000]);
        assert!(of(&[-3, -2, 0, 5]).is_empty() && of(&[1, 2, 3]).is_empty() && of(&[]).is_empty());
    }
}

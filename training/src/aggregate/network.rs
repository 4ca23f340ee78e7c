//! Networks that sort what is in the middle: which rows to compare and exchange, in order.
//!
//! A network of comparisons fixed in advance does the same for many columns at once. It starts as one that sorts all
//! rows (Batcher's merge exchange; Knuth, TAOCP 3, 5.2.2 M) and loses what the middle rows do not depend on. Most of its
//! time goes into loading and storing rows, so comparisons among four rows that can follow one another become one step,
//! which loads and stores each row once.

use std::{cmp::Reverse, ops::Range};

/// A comparison: afterwards the first row holds the smaller values, the second the larger ones.
type Pair = (usize, usize);

/// Comparisons that are made at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of two rows.
    Two([usize; 2]),
    /// Of four rows.
    Four([usize; 4], Pattern),
}

/// Which comparisons a step of four rows makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Sort,
    Inner,
    Crossed,
}

/// [`Pattern::Sort`], by places in the step.
pub(super) const SORT: [[usize; 2]; 5] = [[0, 1], [2, 3], [0, 2], [1, 3], [2, 1]];
/// [`Pattern::Inner`].
pub(super) const INNER: [[usize; 2]; 3] = [[0, 1], [2, 3], [1, 2]];
/// [`Pattern::Crossed`].
pub(super) const CROSSED: [[usize; 2]; 3] = [[0, 1], [2, 3], [2, 1]];

impl Pattern {
    const ALL: [Pattern; 3] = [Pattern::Sort, Pattern::Inner, Pattern::Crossed];

    fn pairs(self, rows: [usize; 4]) -> Vec<Pair> {
        let places: &[[usize; 2]] = match self {
            Pattern::Sort => &SORT,
            Pattern::Inner => &INNER,
            Pattern::Crossed => &CROSSED,
        };
        places.iter().map(|[low, high]| (rows[*low], rows[*high])).collect()
    }
}

impl Step {
    /// The rows.
    pub(super) fn rows(&self) -> &[usize] {
        match self {
            Step::Two(rows) => rows,
            Step::Four(rows, _) => rows,
        }
    }
}

/// Steps that put those of `n` rows that belong into the rows `middle` there, ascending; the other rows hold anything.
pub(super) fn sorting(n: usize, middle: Range<usize>) -> Vec<Step> {
    let mut read: Vec<bool> = (0..n).map(|row| middle.contains(&row)).collect();
    let mut pairs = merge_exchange(n);
    pairs.reverse();
    pairs.retain(|&(low, high)| {
        let needed = read[low] || read[high];
        (read[low], read[high]) = (read[low] || needed, read[high] || needed);
        needed
    });
    pairs.reverse();
    joined(n, pairs)
}

/// Pairs (low, high) of rows to compare and exchange that sort n rows.
fn merge_exchange(n: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            pairs.extend((0..n.saturating_sub(d)).filter(|i| i & p == r).map(|i| (i, i + d)));
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    pairs
}

/// The same comparisons, joined to steps.
fn joined(n: usize, mut pairs: Vec<Pair>) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(&first) = pairs.first() {
        let seconds = unhindered(n, &pairs).into_iter();
        let rows = seconds.flat_map(|second| [(first, second), (second, first)]).map(|((a, b), (c, d))| [a, b, c, d]);
        let fours = rows.flat_map(|rows| Pattern::ALL.map(|pattern| (rows, pattern)));
        let fours = fours.filter_map(|(rows, pattern)| Some((rows, pattern, positions(&pairs, rows, pattern)?)));
        let (step, done) = match fours.min_by_key(|(.., positions)| Reverse(positions.len())) {
            Some((rows, pattern, positions)) => (Step::Four(rows, pattern), positions),
            None => (Step::Two([first.0, first.1]), vec![0]),
        };
        steps.push(step);
        let mut position = 0..;
        pairs.retain(|_| position.next().is_none_or(|position| !done.contains(&position)));
    }
    steps
}

/// Comparisons after the first one that could come at once, as nothing before them has to do with their rows.
fn unhindered(n: usize, pairs: &[Pair]) -> Vec<Pair> {
    let (mut met, mut left) = (vec![false; n], n);
    let mut free = Vec::new();
    for &(low, high) in pairs {
        if !met[low] && !met[high] {
            free.push((low, high));
        }
        for row in [low, high] {
            left -= usize::from(!std::mem::replace(&mut met[row], true));
        }
        if left < 2 {
            break;
        }
    }
    free.split_off(1)
}

/// Where the comparisons of a step of four are, if they can all come at once.
fn positions(pairs: &[Pair], rows: [usize; 4], pattern: Pattern) -> Option<Vec<usize>> {
    let wanted = pattern.pairs(rows);
    let (mut found, mut taken) = (Vec::new(), Vec::new());
    for (position, &(low, high)) in pairs.iter().enumerate() {
        if wanted.contains(&(low, high)) {
            if taken.contains(&low) || taken.contains(&high) {
                return None;
            }
            found.push(position);
            if found.len() == wanted.len() {
                return Some(found);
            }
        } else {
            // Another comparison has these rows next.
            taken.extend([low, high].into_iter().filter(|row| rows.contains(row)));
            if taken.len() >= rows.len() {
                return None;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(steps: &[Step]) -> Vec<Pair> {
        let of = |step: &Step| match *step {
            Step::Two([a, b]) => vec![(a, b)],
            Step::Four(rows, pattern) => pattern.pairs(rows),
        };
        steps.iter().flat_map(of).collect()
    }

    /// A network that sorts every input of zeros and ones sorts every input (Knuth, TAOCP 3, 5.3.4 Z).
    #[test]
    fn every_zero_one_input_has_its_middle_sorted() {
        for n in 1..=12usize {
            for cut in 0..n.div_ceil(2) {
                let network = pairs(&sorting(n, cut..n - cut));
                for input in 0..1u32 << n {
                    let mut bits: Vec<bool> = (0..n).map(|i| input >> i & 1 == 1).collect();
                    let zeros = bits.iter().filter(|bit| !**bit).count();
                    for &(low, high) in &network {
                        (bits[low], bits[high]) = (bits[low] & bits[high], bits[low] | bits[high]);
                    }
                    let sorted = (cut..n - cut).all(|row| bits[row] == (row >= zeros));
                    assert!(sorted, "n = {n}, cut {cut}, input {input:b}");
                }
            }
        }
    }

    #[test]
    fn large_networks_sort_too() {
        for n in [16, 31, 64, 256] {
            for cut in [0, n / 3, (n - 1) / 2] {
                let mut values: Vec<usize> = (0..n).map(|i| i * 97 % n).collect();
                let mut sorted = values.clone();
                sorted.sort_unstable();
                for (low, high) in pairs(&sorting(n, cut..n - cut)) {
                    (values[low], values[high]) = (values[low].min(values[high]), values[low].max(values[high]));
                }
                assert_eq!(values[cut..n - cut], sorted[cut..n - cut]);
            }
        }
    }

    /// Comparisons, and rows that are loaded and stored.
    #[test]
    fn what_sixteen_rows_cost() {
        let cost = |middle| {
            let steps = sorting(16, middle);
            (pairs(&steps).len(), steps.iter().map(|step| step.rows().len()).sum::<usize>())
        };
        assert_eq!([cost(0..16), cost(3..13), cost(5..11), cost(7..9)], [(63, 80), (61, 76), (57, 70), (53, 64)]);
    }
}

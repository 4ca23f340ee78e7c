//! Every rule against its definition, its bounds, its golden bits, and all machines alike.

#![allow(clippy::unwrap_used)]

use super::*;
use ailo_protocol::hash::Domain;
use proptest::prelude::*;

/// Every pre-aggregator, and none.
const PRES: [Option<Pre>; 3] = [None, Some(Pre::Nnm), Some(Pre::Bucketing)];

fn all() -> impl Iterator<Item = Aggregation> {
    Rule::ALL.into_iter().flat_map(|rule| PRES.map(|pre| Aggregation::of(rule, pre)))
}

fn views(updates: &[Vec<f32>]) -> Vec<&[f32]> {
    updates.iter().map(Vec::as_slice).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Pseudo-random numbers between -`size` and `size`.
fn random(n: usize, len: usize, size: f32, seed: u8) -> Vec<Vec<f32>> {
    let mut stream = Hash([seed; 32]).stream();
    let mut value = || (stream.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) * size;
    (0..n).map(|_| (0..len).map(|_| value()).collect()).collect()
}

/// The definitions, as slowly and plainly as they are written in the papers.
mod definition {
    use super::*;

    pub fn aggregate(updates: &[Vec<f32>], how: &Aggregation, f: usize, seed: &Hash) -> Vec<f32> {
        let rows = match how.pre {
            None => updates.to_vec(),
            Some(Pre::Nnm) => {
                let set = |i| nearest(updates, i)[..updates.len() - f].iter().map(|(_, j)| *j).collect::<Vec<_>>();
                (0..updates.len()).map(|i| mean(updates, &set(i))).collect()
            }
            Some(Pre::Bucketing) => {
                buckets(updates.len(), how.bucket as usize, seed).iter().map(|bucket| mean(updates, bucket)).collect()
            }
        };
        match how.rule {
            Rule::TrimmedMean => middle(&rows, f),
            Rule::Median => middle(&rows, (rows.len() - 1) / 2),
            Rule::Krum => rows[by_score(&rows, f)[0]].clone(),
            Rule::MultiKrum => mean(&rows, &by_score(&rows, f)[..rows.len() - f]),
            Rule::CenteredClipping => clipping(&rows, how),
            Rule::GeometricMedian => geometric(&rows, how),
        }
    }

    pub fn mean(rows: &[Vec<f32>], set: &[usize]) -> Vec<f32> {
        let column = |c: usize| set.iter().map(|i| f64::from(rows[*i][c])).sum::<f64>() / set.len() as f64;
        (0..rows[0].len()).map(|c| column(c) as f32).collect()
    }

    /// Adds from the smallest up.
    fn middle(rows: &[Vec<f32>], cut: usize) -> Vec<f32> {
        let column = |c: usize| {
            let mut column: Vec<f32> = rows.iter().map(|row| row[c]).collect();
            column.sort_by(f32::total_cmp);
            let kept = &column[cut..rows.len() - cut];
            (kept.iter().fold(0.0, |sum, x| sum + f64::from(*x)) * (1.0 / kept.len() as f64)) as f32
        };
        (0..rows[0].len()).map(column).collect()
    }

    /// Neighbours' means of updates that count as much as `weights` say, and their trimmed mean.
    pub fn weighted(updates: &[Vec<f32>], weights: &[f64], f: usize) -> Vec<f32> {
        let n = updates.len();
        let enough = weights.iter().sum::<f64>() * (n - f) as f64 / n as f64;
        let row = |i: usize| {
            let nearest = nearest(updates, i);
            let (mut set, mut weight) = (Vec::new(), 0.0);
            for (place, (d, j)) in nearest.iter().enumerate() {
                if place >= n - f && (weight >= enough || d * d > 1.5 * nearest[n - f - 1].0.powi(2)) {
                    break;
                }
                set.push(*j);
                weight += weights[*j];
            }
            let column = |c: usize| set.iter().map(|j| weights[*j] * f64::from(updates[*j][c])).sum::<f64>() / weight;
            (0..updates[0].len()).map(|c| column(c) as f32).collect()
        };
        middle(&(0..n).map(row).collect::<Vec<_>>(), f)
    }

    /// How much each update counts by what it has in common with the others.
    pub fn weights(updates: &[Vec<f32>], f: usize) -> Vec<f64> {
        let n = updates.len();
        let square = |i: usize, j: usize| distance(&updates[i], &updates[j]).powi(2);
        let lengths: Vec<f64> = updates.iter().map(|x| distance(x, &vec![0.0; x.len()]).powi(2)).collect();
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[(values.len() - 1) / 2]
        };
        let others = |i: usize| (0..n).filter(move |j| *j != i);
        let product = |i: usize, j: usize| (lengths[i] + lengths[j] - square(i, j)) / 2.0;
        let products: Vec<f64> = (0..n).map(|i| median(others(i).map(|j| product(i, j)).collect())).collect();
        let mut sorted = products.clone();
        sorted.sort_by(f64::total_cmp);
        let apart = median((0..n).map(|i| median(others(i).map(|j| square(i, j)).collect())).collect());
        let copies = |i: usize| others(i).map(|j| ((0.7 - square(i, j) / apart) / 0.7).clamp(0.0, 1.0)).sum::<f64>();
        (0..n).map(|i| (2.0 * products[i] / sorted[f]).clamp(0.0, 1.0) / (1.0 + copies(i))).collect()
    }

    fn length(x: impl Iterator<Item = f64>) -> f64 {
        x.map(|x| x * x).sum::<f64>().sqrt()
    }

    pub fn distance(x: &[f32], y: &[f32]) -> f64 {
        length(x.iter().zip(y).map(|(x, y)| f64::from(*x) - f64::from(*y)))
    }

    /// Distance and number of all rows, nearest to row `i` first, from itself on.
    fn nearest(rows: &[Vec<f32>], i: usize) -> Vec<(f64, usize)> {
        let mut all: Vec<(f64, usize)> = (0..rows.len()).map(|j| (distance(&rows[i], &rows[j]), j)).collect();
        all.sort_by(|(a, j), (b, k)| (*j != i, a).partial_cmp(&(*k != i, b)).unwrap());
        all
    }

    fn by_score(rows: &[Vec<f32>], f: usize) -> Vec<usize> {
        let score = |i: usize| nearest(rows, i)[1..rows.len() - f].iter().map(|(d, _)| d * d).sum::<f64>();
        let mut all: Vec<(f64, usize)> = (0..rows.len()).map(|i| (score(i), i)).collect();
        all.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        all.into_iter().map(|(_, i)| i).collect()
    }

    fn clipping(rows: &[Vec<f32>], how: &Aggregation) -> Vec<f32> {
        let mut v = vec![0.0; rows[0].len()];
        for _ in 0..how.clip_steps {
            let before = v.clone();
            for row in rows {
                let distance = length(row.iter().zip(&before).map(|(x, v)| f64::from(*x) - v));
                let factor = (how.clip_radius / distance).min(1.0) / rows.len() as f64;
                v.iter_mut().zip(row).zip(&before).for_each(|((v, x), b)| *v += (f64::from(*x) - b) * factor);
            }
        }
        v.iter().map(|v| *v as f32).collect()
    }

    fn geometric(rows: &[Vec<f32>], how: &Aggregation) -> Vec<f32> {
        let mut z = vec![0.0; rows[0].len()];
        for _ in 0..how.weiszfeld_steps {
            let distance = |row: &Vec<f32>| length(row.iter().zip(&z).map(|(x, z)| f64::from(*x) - z));
            let weights: Vec<f64> = rows.iter().map(|row| 1.0 / distance(row).max(how.smoothing)).collect();
            let total: f64 = weights.iter().sum();
            let at = |c: usize| rows.iter().zip(&weights).map(|(row, w)| w * f64::from(row[c])).sum::<f64>() / total;
            z = (0..z.len()).map(at).collect();
        }
        z.iter().map(|z| *z as f32).collect()
    }

    /// Whether two rows are so nearly as far from a third that rounding may decide between them.
    pub fn nearly_tied(rows: &[Vec<f32>]) -> bool {
        (0..rows.len()).any(|i| {
            let mut distances: Vec<f64> = rows.iter().map(|row| distance(&rows[i], row)).collect();
            distances.sort_by(f64::total_cmp);
            distances.windows(2).any(|pair| pair[1] > 0.0 && pair[0] > pair[1] * (1.0 - 1e-5))
        })
    }
}

fn agree(got: &[f32], expected: &[f32], size: f32) -> bool {
    got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * (b.abs() + size))
}

proptest! {
    #[test]
    fn rules_are_their_definitions(
        (n, len, seed) in (1usize..24, 1usize..300, any::<u8>()),
        (f, bucket, size) in (0usize..8, 1u32..4, prop::sample::select(vec![1e-30f32, 1e-3, 1.0, 1e4, 1e30])),
    ) {
        let updates = random(n, len, size, seed);
        let drawn = Hash([seed; 32]);
        prop_assume!(!definition::nearly_tied(&updates));
        for how in all() {
            let how = Aggregation { bucket, clip_radius: 2.0, clip_steps: 3, ..how };
            let rows = if how.pre == Some(Pre::Bucketing) { n.div_ceil(bucket as usize) } else { n };
            let got = aggregate(&views(&updates), &how, f, &drawn);
            if rows <= 2 * f {
                prop_assert!(got.is_err());
                continue;
            }
            // Mixed updates may be as near each other as rounding is coarse; then the choice among them is open.
            let chooses = matches!(how.rule, Rule::Krum | Rule::MultiKrum) && how.pre.is_some();
            let (got, expected) = (got.unwrap(), definition::aggregate(&updates, &how, f, &drawn));
            let exact = how.pre.is_none() && matches!(how.rule, Rule::TrimmedMean | Rule::Median | Rule::Krum);
            if exact {
                prop_assert_eq!(bits(&got), bits(&expected), "{:?}", how);
            } else if !chooses {
                prop_assert!(agree(&got, &expected, size), "{:?}: {:?} and {:?}", how, got, expected);
            }
        }
    }

    /// Honest updates lie within a ball of radius 1 about zero; attackers anywhere, all together or not.
    #[test]
    fn attackers_cannot_take_the_aggregate_far_from_the_honest(
        (f, more, len, seed) in (1usize..5, 1usize..6, 1usize..40, any::<u8>()),
        size in prop::sample::select(vec![1e-3f32, 1.0, 3.0, 1e3, 1e12, f32::MAX]),
        together in any::<bool>(),
    ) {
        let honest: Vec<Vec<f32>> = random(2 * f * 2 + more, len, 1.0 / (len as f32).sqrt(), seed);
        let mut lies = random(f, len, size, seed.wrapping_add(1));
        if together {
            lies = vec![lies[0].clone(); f];
        }
        let updates = [honest.clone(), lies].concat();
        let all_of = |rows: &[Vec<f32>]| (0..rows.len()).collect::<Vec<_>>();
        let distances = honest.iter().flat_map(|a| honest.iter().map(|b| definition::distance(a, b)));
        let width = distances.fold(0.0, f64::max);
        for how in all() {
            let how = Aggregation { clip_radius: 1.0, ..how };
            let got = aggregate(&views(&updates), &how, f, &Hash([seed; 32])).unwrap();
            let length = got.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            prop_assert!(length <= 20.0, "{:?}: {}", how, length);
            // The bounds of docs/training.md, with a grain of salt for rounding.
            let gaps = || honest.iter().map(|update| definition::distance(update, &got));
            let n = updates.len() as f64;
            let near = width * ((n - f as f64 - 1.0) / (n - 2.0 * f as f64)).sqrt() + 1e-5;
            match (how.rule, how.pre) {
                (Rule::Krum, None) => prop_assert!(gaps().fold(f64::MAX, f64::min) <= near, "{:?}", how),
                (Rule::MultiKrum, None) => prop_assert!(gaps().fold(0.0, f64::max) <= near + width, "{:?}", how),
                (Rule::CenteredClipping, None) => {
                    let (mean, share) = (definition::mean(&honest, &all_of(&honest)), honest.len() as f64 / n);
                    let mean: Vec<f32> = mean.iter().map(|x| (f64::from(*x) * share) as f32).collect();
                    prop_assert!(definition::distance(&mean, &got) <= f as f64 / n + 1e-5, "{:?}", how);
                }
                _ => {}
            }
            if how.pre.is_none() && matches!(how.rule, Rule::TrimmedMean | Rule::Median) {
                for (c, x) in got.iter().enumerate() {
                    let column = || honest.iter().map(|update| update[c]);
                    let (least, most) = (column().fold(f32::MAX, f32::min), column().fold(f32::MIN, f32::max));
                    prop_assert!((least..=most).contains(x), "{:?}: {} of {}..{}", how, x, least, most);
                }
            }
        }
    }
}

#[test]
fn a_result_has_these_bits() {
    let updates = random(13, 70_000, 1e-2, 3);
    let bits = |how: &Aggregation| {
        let got = aggregate(&views(&updates), how, 3, &Hash([5; 32])).unwrap();
        let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
        Hash::of(Domain::Blob, &bytes).short()
    };
    let how = |how| Aggregation { clip_radius: 0.5, clip_steps: 2, ..how };
    let got: Vec<String> = all().map(|this| bits(&how(this))).collect();
    let expected: Vec<&str> = GOLDEN.split_whitespace().collect();
    assert_eq!(got, expected, "{}", got.join(" "));
}

/// By rule; with nothing before it, with NNM, with bucketing.
const GOLDEN: &str = "
    0d0c7244 c6151d40 33699cb3
    7f192f8b a4ddcee6 33699cb3
    f5d21f5c f67d9ba5 e1288f9c
    ce1cd76c c0ec6d56 ed10efaa
    9eeb17b2 17414d5f 88743dec
    f37a4293 58aef138 e70db6df
";

#[test]
fn a_restored_length_has_these_bits_too() {
    let updates: Vec<Vec<f32>> =
        random(13, 70_000, 1e-2, 3).into_iter().map(|row| row.into_iter().map(|x| x + 2e-3).collect()).collect();
    let how = Aggregation { restore_length: true, ..Aggregation::of(Rule::TrimmedMean, Some(Pre::Nnm)) };
    let got = aggregate(&views(&updates), &how, 3, &Hash::ZERO).unwrap();
    let plain = aggregate(&views(&updates), &Aggregation { restore_length: false, ..how }, 3, &Hash::ZERO).unwrap();
    let factor = f64::from(got[0]) / f64::from(plain[0]);
    assert!(got.iter().zip(&plain).all(|(a, b)| (f64::from(*a) - f64::from(*b) * factor).abs() < 1e-8), "{factor}");
    let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(Hash::of(Domain::Blob, &bytes).short(), "2d166e29");
}

const WEIGHTED: Aggregation = Aggregation { weighted: true, ..Aggregation::of(Rule::TrimmedMean, Some(Pre::Nnm)) };

/// Updates with something in common.
fn honest(n: usize, len: usize, seed: u8) -> Vec<Vec<f32>> {
    random(n, len, 1e-2, seed).into_iter().map(|row| row.into_iter().map(|x| x + 2e-3).collect()).collect()
}

fn mean_of(updates: &[Vec<f32>]) -> Vec<f32> {
    definition::mean(updates, &(0..updates.len()).collect::<Vec<_>>())
}

/// Twelve honest updates, and five that push in one direction.
fn pushed() -> Vec<Vec<f32>> {
    let honest = honest(12, 70_000, 3);
    let push = 4e-3;
    let at = |(i, x): (usize, &f32)| if i % 2 == 0 { x + push } else { x - push };
    let pushed = mean_of(&honest).iter().enumerate().map(at).collect::<Vec<f32>>();
    [honest, vec![pushed; 5]].concat()
}

#[test]
fn a_shared_push_is_outweighed_to_these_bits() {
    let updates = pushed();
    let of = |how: &Aggregation| aggregate(&views(&updates), how, 5, &Hash::ZERO).unwrap();
    let right = mean_of(&updates[..12]);
    let (got, plain) = (of(&WEIGHTED), of(&Aggregation { weighted: false, ..WEIGHTED }));
    let astray = |got: &[f32]| {
        // The part in the direction of the push.
        let along = got.iter().zip(&right).enumerate().map(|(i, (x, y))| if i % 2 == 0 { x - y } else { y - x });
        along.map(f64::from).sum::<f64>() / right.len() as f64
    };
    assert!(astray(&got) < 0.6 * astray(&plain), "{} and {}", astray(&got), astray(&plain));
    let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(Hash::of(Domain::Blob, &bytes).short(), "302d592a");
}

#[test]
fn weighted_rules_are_their_definition() {
    let few = honest(7, 5000, 4);
    let copies = [few.clone(), vec![few[2].clone(); 3]].concat();
    let leaning = {
        let at = |c: usize| few[..3].iter().map(|x| 0.5 * x[c]).sum::<f32>();
        [few.clone(), vec![(0..5000).map(at).collect(); 2]].concat()
    };
    let small = pushed().into_iter().map(|row| row[..5000].to_vec()).collect();
    let less = |share: f32| {
        let part = mean_of(&few).iter().map(|x| x * share).collect::<Vec<f32>>();
        [few.clone(), vec![part; 2]].concat()
    };
    for (updates, f) in
        [(copies, 3), (leaning, 2), (small, 5), (honest(9, 5000, 5), 3), (less(-0.5), 2), (less(0.3), 2)]
    {
        let weights = definition::weights(&updates, f);
        let expected = definition::weighted(&updates, &weights, f);
        let got = aggregate(&views(&updates), &WEIGHTED, f, &Hash::ZERO).unwrap();
        assert!(agree(&got, &expected, 1e-2), "{weights:?}");
    }
}

/// Honest updates of one kind each: alike, of which two share their noise, with more or less noise, with more or less of the common part.
fn kinds_of_honest(n: usize) -> [Vec<Vec<f32>>; 4] {
    let alike = honest(n, 4096, n as u8);
    let noise = |i: usize, c: usize| alike[i][c] - 2e-3;
    let of = |value: &dyn Fn(usize, usize) -> f32| (0..n).map(|i| (0..4096).map(|c| value(i, c)).collect()).collect();
    let size = |i: usize, least: f32, most: f32| least + (most - least) * i as f32 / (n - 1) as f32;
    [
        alike.clone(),
        of(&|i, c| 2e-3 + if i == 0 { 0.6 * noise(0, c) + 0.8 * noise(1, c) } else { noise(i, c) }),
        of(&|i, c| 2e-3 + size(i, 0.5, 2.0) * noise(i, c)),
        of(&|i, c| size(i, 0.9, 1.1) * 2e-2 + noise(i, c)),
    ]
}

/// Some attackers go where they make honest updates count less, so that the others may count more.
#[test]
fn weights_let_nobody_pull_from_afar() {
    for (n, f) in [(8, 2), (8, 3), (16, 5), (16, 6), (31, 10), (31, 14)] {
        for (kind, honest) in kinds_of_honest(n - f).into_iter().enumerate() {
            let middle = mean_of(&honest);
            let reach = honest.iter().map(|x| definition::distance(x, &middle)).fold(0.0, f64::max);
            let backwards = |factor: f32| middle.iter().map(|x| x * -factor).collect::<Vec<f32>>();
            let apart = random(f, 4096, 300.0, 1).iter().map(|own| own.iter().map(|x| x + 1e2).collect()).collect();
            for far in [vec![backwards(3.0); f], vec![backwards(300.0); f], apart] {
                for sacrificed in 0..=f {
                    for decoy in [middle.clone(), honest[0].clone(), mean_of(&honest[..3])] {
                        let lies = [vec![decoy; sacrificed], far[sacrificed..].to_vec()].concat();
                        let updates = [honest.clone(), lies].concat();
                        for weighted in [true, false] {
                            let how = Aggregation { weighted, restore_length: true, ..WEIGHTED };
                            let got = aggregate(&views(&updates), &how, f, &Hash::ZERO).unwrap();
                            let astray = definition::distance(&got, &middle);
                            assert!(astray < reach, "{n} {f} {kind}, {sacrificed} {weighted}: {astray} of {reach}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn copies_of_one_update_hardly_turn_the_aggregate() {
    let honest = honest(5, 20_000, 6);
    let right = mean_of(&honest);
    let updates = [honest.clone(), vec![honest[1].clone(); 3]].concat();
    let astray =
        |how: &Aggregation| definition::distance(&aggregate(&views(&updates), how, 3, &Hash::ZERO).unwrap(), &right);
    let (got, plain) = (astray(&WEIGHTED), astray(&Aggregation { weighted: false, ..WEIGHTED }));
    assert!(got < 0.5 * plain, "{got} and {plain}");
}

#[test]
fn threads_and_instructions_change_no_bit() {
    let (random, pushed) = (random(9, 150_000, 1.0, 7), pushed());
    let restored = Aggregation { restore_length: true, ..WEIGHTED };
    let median = Aggregation { rule: Rule::Median, ..restored };
    let cases = all().map(|how| (&random, how)).chain([(&random, restored), (&pushed, restored), (&pushed, median)]);
    for (updates, how) in cases {
        let updates = views(updates);
        let of = |threads: usize, arch| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| aggregate_on(arch, &updates, &how, 2, &Hash::ZERO)).unwrap())
        };
        let expected = of(1, Arch::new());
        assert!(of(2, Arch::new()) == expected, "{how:?} with two threads");
        assert!(of(5, Arch::new()) == expected, "{how:?} with five threads");
        assert!(of(2, Arch::Scalar) == expected, "{how:?} without wide instructions");
    }
}

#[test]
fn the_order_of_updates_does_not_matter_to_order_statistics() {
    let mut updates = random(11, 500, 1.0, 9);
    updates[3] = updates[4].clone();
    updates[5].iter_mut().for_each(|x| *x = -0.0);
    updates[6].iter_mut().for_each(|x| *x = 0.0);
    let mut order = views(&updates);
    let mut stream = Hash([1; 32]).stream();
    for rule in [Rule::TrimmedMean, Rule::Median] {
        let how = Aggregation::of(rule, None);
        let expected = bits(&aggregate(&order, &how, 4, &Hash::ZERO).unwrap());
        for _ in 0..5 {
            stream.shuffle(&mut order);
            assert_eq!(bits(&aggregate(&order, &how, 4, &Hash::ZERO).unwrap()), expected);
        }
    }
}

#[test]
fn every_length_around_tiles_and_blocks_is_covered() {
    for len in [0, 1, 255, 256, 257, 2047, 2048, 2049, 65_535, 65_536, 65_537] {
        let mut updates = random(3, len, 1.0, 1);
        for how in all() {
            let got = aggregate(&views(&updates), &how, 0, &Hash::ZERO).unwrap();
            assert_eq!(got.len(), len);
            if let (Rule::TrimmedMean, None) = (how.rule, how.pre) {
                assert_eq!(bits(&got), bits(&definition::aggregate(&updates, &how, 0, &Hash::ZERO)), "{len}");
            }
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            if let Some(last) = updates[1].last_mut() {
                *last = bad;
                for how in all() {
                    let refused = aggregate(&views(&updates), &how, 1, &Hash::ZERO).unwrap_err().to_string();
                    assert!(refused.contains("not finite") || refused.contains("buckets"), "{how:?}: {refused}");
                }
            }
        }
    }
}

#[test]
fn known_results() {
    let updates: [&[f32]; 5] =
        [&[1.0, -1.0, 0.1], &[2.0, -2.0, 0.2], &[3.0, -3.0, 0.3], &[4.0, -4.0, 0.4], &[1e9, 1e9, -1e9]];
    let of = |rule, n: usize, f| aggregate(&updates[..n], &Aggregation::of(rule, None), f, &Hash::ZERO).unwrap();
    assert_eq!(of(Rule::TrimmedMean, 5, 1), [3.0, -2.0, 0.2]);
    assert_eq!(of(Rule::TrimmedMean, 5, 2), [3.0, -2.0, 0.2]);
    assert_eq!(of(Rule::TrimmedMean, 4, 0), [2.5, -2.5, 0.25]);
    assert_eq!(of(Rule::Median, 5, 2), [3.0, -2.0, 0.2]);
    assert_eq!(of(Rule::Median, 4, 1), [2.5, -2.5, 0.25]);
    assert_eq!(of(Rule::Krum, 5, 1), [2.0, -2.0, 0.2]); // as good as the third, and before it
    assert_eq!(of(Rule::MultiKrum, 5, 1), [2.5, -2.5, 0.25]);
    let near = f32::MAX;
    assert_eq!(aggregate(&[&[near], &[near], &[near]], &Aggregation::DEFAULT, 0, &Hash::ZERO).unwrap(), [near]);
}

#[test]
fn what_no_rule_covers_is_refused() {
    let (a, b): (&[f32], &[f32]) = (&[1.0, 2.0], &[1.0]);
    for how in all() {
        let refused = |updates: &[&[f32]], f| aggregate(updates, &how, f, &Hash::ZERO).unwrap_err().to_string();
        assert!(refused(&[], 0).contains("no update"));
        assert!(refused(&[a, b], 0).contains("length"));
        assert!(refused(&[a, a], 1).contains("2 updates are too few for f = 1"));
        assert!(refused(&[a; 4], usize::MAX).contains("too few"));
        assert!(aggregate(&[a], &how, 0, &Hash::ZERO).is_ok());
    }
    let of = |how: Aggregation| aggregate(&[a; 5], &how, 2, &Hash::ZERO).unwrap_err().to_string();
    assert!(of(Aggregation::of(Rule::Median, Some(Pre::Bucketing))).contains("3 buckets"));
    assert!(of(Aggregation { weighted: true, ..Aggregation::DEFAULT }).contains("aggregation.weighted"));
    assert!(of(Aggregation { bucket: 0, ..Aggregation::DEFAULT }).contains("aggregation.bucket"));
    assert!(of(Aggregation { smoothing: f64::NAN, ..Aggregation::DEFAULT }).contains("aggregation.smoothing"));
}

#[test]
fn many_updates_aggregate_too() {
    let updates = random(256, 200, 1.0, 2);
    for how in all() {
        let got = aggregate(&views(&updates), &how, 60, &Hash::ZERO).unwrap();
        let expected = definition::aggregate(&updates, &how, 60, &Hash::ZERO);
        assert!(agree(&got, &expected, 1.0), "{how:?}");
    }
}

#[test]
fn buckets_are_drawn_by_the_seed_and_hold_every_update_once() {
    let drawn = buckets(7, 3, &Hash([2; 32]));
    assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let mut all = drawn.concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(drawn, buckets(7, 3, &Hash([2; 32])));
    assert_ne!(drawn, buckets(7, 3, &Hash([3; 32])));
}

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    Dataset, Device,
    overlap::{self, Sketch},
    set_threads,
};
use ailo_protocol::{
    aggregation::{Aggregation, Rule},
    compression::Codec,
    params::{ModelConfig, TrainingParams},
    presets,
};

/// A model that trains in a moment.
fn tiny() -> (ModelConfig, TrainingParams) {
    let dev = presets::dev();
    let model = ModelConfig { layers: 1, width: 32, heads: 2, kv_heads: 2, ffn: 64, context: 32, ..dev.model };
    let training = TrainingParams {
        inner_steps: 6,
        batch: 4,
        sequence: 32,
        warmup_steps: 6,
        lr_rounds: 4,
        eval_sequences: 32,
        ..dev.training
    };
    (model, training)
}

fn options(attack: Attack, f: usize) -> Options {
    Options { nodes: 6, byzantine: 2, attack, f, skew: None, rounds: 4, seed: 3, scores: false, threads: 2 }
}

fn go(training: &TrainingParams, options: &Options) -> Outcome {
    set_threads(1);
    let ((model, _), data) = (tiny(), Dataset::embedded());
    let rules = Rules { model: &model, training, data: &data, device: Device::Cpu };
    run(&rules, options, |_| {}).unwrap()
}

#[test]
fn the_same_options_give_the_same_bits_on_any_number_of_threads() {
    let (_, training) = tiny();
    for attack in [Attack::AlieOpt, Attack::LabelFlip] {
        let options = Options { rounds: 2, skew: Some(0.3), ..options(attack, 2) };
        let once = go(&training, &options);
        assert_eq!(once, go(&training, &Options { threads: 1, ..options }));
        assert_ne!(once.root, go(&training, &Options { seed: 4, ..options }).root);
    }
}

#[test]
fn a_mean_breaks_where_the_trimmed_mean_holds() {
    let (_, training) = tiny();
    let alone = go(&training, &options(Attack::Withhold, 0)).loss;
    let plain = TrainingParams { aggregation: Aggregation::DEFAULT, ..training };
    let mean = go(&plain, &options(Attack::Ipm, 0)).loss;
    let trimmed = go(&training, &options(Attack::Ipm, 2)).loss;
    assert!(mean > 1.1 * alone && trimmed < 1.05 * alone, "alone {alone}, mean {mean}, trimmed {trimmed}");
}

#[test]
fn encodings_of_what_is_no_number_are_refused_by_every_codec() {
    for codec in Codec::ALL {
        let training = TrainingParams { codec, ..tiny().1 };
        for attack in [Attack::Infinity, Attack::Nan] {
            let outcome = go(&training, &Options { rounds: 1, ..options(attack, 2) });
            assert_eq!(outcome.rounds[0].refused, 2, "{codec:?}");
        }
    }
}

#[test]
fn the_line_search_does_no_less_harm_than_the_fixed_factor() {
    let (_, training) = tiny();
    // Only the mean lets a factor show; after one round, which is what the search looks at.
    let loss = |attack| go(&training, &Options { rounds: 1, ..options(attack, 0) }).loss;
    assert!(loss(Attack::IpmOpt) > 0.99 * loss(Attack::Ipm), "{} {}", loss(Attack::IpmOpt), loss(Attack::Ipm));
    assert!(loss(Attack::AlieOpt) > 0.99 * loss(Attack::Alie));
}

#[test]
fn every_attack_runs_against_every_rule() {
    let (_, training) = tiny();
    for rule in Rule::ALL {
        let training =
            TrainingParams { aggregation: Aggregation { clip_radius: 1.0, ..Aggregation::of(rule, None) }, ..training };
        for (attack, name) in Attack::ALL {
            let outcome = go(&training, &Options { rounds: 1, ..options(attack, 2) });
            let refused = matches!(attack, Attack::Withhold | Attack::Infinity | Attack::Nan);
            assert_eq!(outcome.rounds[0].refused, if refused { 2 } else { 0 }, "{name} against {rule:?}");
            assert_eq!(name.parse::<Attack>().unwrap().name(), name);
        }
    }
}

#[test]
fn smaller_alphas_make_the_nodes_data_more_unequal() {
    let ((model, training), data) = (tiny(), Dataset::embedded());
    let rules = Rules { model: &model, training: &training, data: &data, device: Device::Cpu };
    // The largest share of a node's windows that lies in one part of the text, on average.
    let concentration = |alpha: f64| {
        let skew = Skew::new(&options(Attack::Withhold, 0), alpha);
        let part = (data.tokens.len() - data.held_out) / 6;
        let of_node = |node: u32| {
            let windows = skew.windows(&rules, node, &Hash::ZERO);
            let count = |i: usize| windows.iter().filter(|offset| *offset / part == i).count();
            (0..6).map(count).max().unwrap() as f64 / windows.len() as f64
        };
        (0..6).map(of_node).sum::<f64>() / 6.0
    };
    let (unequal, equal) = (concentration(0.1), concentration(100.0));
    assert!(unequal > 0.6 && equal < 0.5, "{unequal} {equal}");
}

#[test]
fn scores_are_of_single_updates_and_of_none_that_is_refused() {
    let (_, training) = tiny();
    let scored = |attack| {
        let options = Options { rounds: 2, scores: true, ..options(attack, 2) };
        let outcome = go(&training, &options);
        assert_eq!(outcome.root, go(&training, &Options { scores: false, ..options }).root);
        outcome.rounds[1].scores.clone()
    };
    let flipped = scored(Attack::SignFlip);
    assert_eq!(flipped.len(), 6);
    let losses = |scores: &[Option<Score>]| scores.iter().flatten().map(|score| score.loss).collect::<Vec<_>>();
    assert!(losses(&flipped[..4]).iter().max() < losses(&flipped[4..]).iter().min(), "{flipped:?}");
    let alike = |scores: &[Option<Score>]| scores.iter().flatten().map(|score| score.alike).collect::<Vec<_>>();
    assert_eq!(alike(&flipped), [false, false, false, false, true, true], "they send the same");
    assert_eq!(scored(Attack::Nan)[4..], [None, None]);
}

#[test]
fn updates_gain_more_on_the_data_they_were_made_of_and_what_is_none_gains_nothing() {
    set_threads(1);
    let ((model, training), data) = (tiny(), Dataset::embedded());
    let training = TrainingParams { inner_steps: 30, score_sequences: 120, ..training };
    let rules = Rules { model: &model, training: &training, data: &data, device: Device::Cpu };
    let seed = Hash([9; 32]);
    let slot = |slot| Slot { steps: 1, seed, slot, slots: 4 };
    let base = ModelState::initial(&model, 5);
    let update = |of: u32| rules.train(&slot(of), &base, &mut |_| Control::Continue).unwrap().update;
    let gain = |update: &[f32], of: u32| rules.gain(&slot(of), &base, update, &seed).unwrap();
    let updates: Vec<Vec<f32>> = (0..4).map(update).collect();
    // Some data are easier than others, so it is the sum over all slots that tells.
    let own: i64 = (0..4).zip(&updates).map(|(slot, update)| gain(update, slot)).sum();
    for by in 1..4 {
        let others: i64 = (0..4).zip(&updates).map(|(slot, update)| gain(update, (slot + by) % 4)).sum();
        assert!(own > others, "{own} on their own, {others} on others' data");
    }
    assert_eq!(gain(&vec![0.0; base.weights.len()], 0), 0);
}

#[test]
fn a_slot_handed_in_twice_is_alike_even_under_noise_and_honest_slots_never_are() {
    set_threads(1);
    let ((model, training), data) = (tiny(), Dataset::embedded());
    let rules = Rules { model: &model, training: &training, data: &data, device: Device::Cpu };
    let mut base = ModelState::initial(&model, 5);
    for round in 0..4 {
        let seed = Hash([round as u8; 32]);
        let slot = |slot| Slot { steps: round, seed, slot, slots: 5 };
        let update = |of: u32| rules.train(&slot(of), &base, &mut |_| Control::Continue).unwrap().update;
        let mut updates: Vec<Vec<f32>> = (0..5).map(update).collect();
        let next = rules.next(&updates, &base, 1, &seed).unwrap();
        let alike = |updates: &[Vec<f32>]| {
            overlap::alike(&updates.iter().map(|update| Sketch::of(update, &seed)).collect::<Vec<_>>())
        };
        assert_eq!(alike(&updates), [false; 5], "round {round}");
        let own = craft::scaled(&craft::plus(&updates[4], &mean(&updates), -1.0), 0.5);
        updates[4] = craft::plus(&updates[1], &own, 1.0);
        assert_eq!(alike(&updates), [false, true, false, false, true], "round {round}");
        base = next;
    }
}

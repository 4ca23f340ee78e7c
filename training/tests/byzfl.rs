//! The rules against ByzFL 0.0.11: `scripts/byzfl-vectors` wrote what it makes of some updates.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_protocol::{
    Hash,
    aggregation::{Aggregation, Pre, Rule},
};
use ailo_training::aggregate::aggregate;
use serde_json::Value;
use std::collections::BTreeSet;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn every_rule_and_pre_aggregator_gives_the_numbers_of_byzfl() {
    let cases: Value = serde_json::from_str(include_str!("vectors/byzfl.json")).unwrap();
    let mut met = BTreeSet::new();
    for case in cases.as_array().unwrap() {
        let updates: Vec<Vec<f32>> = case["updates"].as_array().unwrap().iter().map(numbers).collect();
        let updates: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
        let whole = |name: &str| case[name].as_u64().unwrap();
        let mut seed = Hash::ZERO;
        seed.0[..8].copy_from_slice(&whole("seed").to_le_bytes());
        for (pre, results) in case["results"].as_object().unwrap() {
            for (rule, expected) in results.as_object().unwrap() {
                let how = Aggregation {
                    rule: rule.parse::<Rule>().unwrap(),
                    pre: (!pre.is_empty()).then(|| pre.parse::<Pre>().unwrap()),
                    bucket: whole("bucket") as u32,
                    clip_radius: case["clip_radius"].as_f64().unwrap(),
                    clip_steps: whole("clip_steps") as u32,
                    ..Aggregation::DEFAULT
                };
                let what = format!("{}, {pre} {rule}", case["name"]);
                let got = aggregate(&updates, &how, whole("f") as usize, &seed).unwrap();
                let expected = numbers(expected);
                assert_eq!(got.len(), expected.len(), "{what}");
                for (got, expected) in got.iter().zip(&expected) {
                    assert!((got - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{what}: {got} and {expected}");
                }
                met.insert((pre.clone(), rule.clone()));
            }
        }
    }
    assert_eq!(met.len(), Rule::ALL.len() * (1 + Pre::ALL.len()));
}

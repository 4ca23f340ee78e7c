//! `ailo-node aggregate` as a process: the numbers of ByzFL, and what it says of files that are none.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::ailo;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::path::Path;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn tensor(path: &Path, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
}

#[test]
fn it_gives_the_numbers_of_byzfl() {
    let cases: Value = serde_json::from_str(include_str!("../training/tests/vectors/byzfl.json")).unwrap();
    let case = cases.as_array().unwrap().iter().find(|case| case["name"] == "an incomplete bucket").unwrap();
    let updates: Vec<Vec<f32>> = case["updates"].as_array().unwrap().iter().map(numbers).collect();
    let shape = [updates.len(), updates[0].len()];
    let bytes: Vec<u8> = updates.concat().iter().flat_map(|x| x.to_le_bytes()).collect();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    tensor(&input, "updates", Dtype::F32, &shape, &bytes);
    let text = |name: &str| case[name].to_string();
    let (f, seed, bucket) = (text("f"), text("seed"), text("bucket"));
    for (pre, results) in case["results"].as_object().unwrap() {
        for (rule, expected) in results.as_object().unwrap() {
            let mut args = vec!["aggregate", "--rule", rule, "--f", &f, "--seed", &seed, "--bucket", &bucket];
            if !pre.is_empty() {
                args.extend(["--pre", pre]);
            }
            args.extend([input.to_str().unwrap(), output.to_str().unwrap()]);
            let said = ailo(&args);
            assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
            assert_eq!(String::from_utf8_lossy(&said.stdout).contains("buckets ["), pre == "bucketing");
            let bytes = std::fs::read(&output).unwrap();
            let result = SafeTensors::deserialize(&bytes).unwrap();
            let result = result.tensor("aggregate").unwrap();
            assert_eq!((result.dtype(), result.shape()), (Dtype::F32, &shape[1..]));
            let got = result.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
            for (got, expected) in got.zip(numbers(expected)) {
                assert!((got - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{args:?}: {got} and {expected}");
            }
        }
    }
}

#[test]
fn files_that_hold_no_updates_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let ones: Vec<u8> = [1.0f32; 12].iter().flat_map(|x| x.to_le_bytes()).collect();
    tensor(&path("good"), "updates", Dtype::F32, &[4, 3], &ones);
    tensor(&path("name"), "gradients", Dtype::F32, &[4, 3], &ones);
    tensor(&path("dtype"), "updates", Dtype::F64, &[2, 3], &ones);
    tensor(&path("shape"), "updates", Dtype::F32, &[12], &ones);
    tensor(&path("cube"), "updates", Dtype::F32, &[2, 2, 3], &ones);
    tensor(&path("none"), "updates", Dtype::F32, &[0, 3], &[]);
    tensor(&path("nan"), "updates", Dtype::F32, &[3, 1], &[f32::NAN; 3].map(f32::to_le_bytes).concat());
    let good = std::fs::read(path("good")).unwrap();
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::write(path("text"), b"these are no updates").unwrap();
    std::fs::write(path("short"), &good[..good.len() - 1]).unwrap();
    std::fs::write(path("huge"), [&u64::MAX.to_le_bytes(), &good[8..]].concat()).unwrap();
    let cases: [(&str, &[&str], &str); 15] = [
        ("missing", &[], "missing"),
        ("name", &[], "'gradients'"),
        ("dtype", &[], "float32"),
        ("shape", &[], "[12]"),
        ("cube", &[], "[2, 2, 3]"),
        ("none", &[], "no update"),
        ("nan", &[], "not finite"),
        ("empty", &[], "not a safetensors file"),
        ("text", &[], "not a safetensors file"),
        ("short", &[], "not a safetensors file"),
        ("huge", &[], "not a safetensors file"),
        (".", &[], "no file"),
        ("good", &["--f", "2"], "4 updates are too few for f = 2"),
        ("good", &["--pre", "bucketing", "--bucket", "4"], "1 buckets are too few"),
        ("good", &["--bucket", "0"], "aggregation.bucket"),
    ];
    let out = path("out");
    for (name, more, expected) in cases {
        let file = path(name);
        let f = if more.contains(&"--f") { &[][..] } else { &["--f", "1"] };
        let ends = [file.to_str().unwrap(), out.to_str().unwrap()];
        let args = [&["aggregate", "--rule", "krum"][..], f, more, &ends].concat();
        let output = ailo(&args);
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(!output.status.success(), "{args:?} must fail");
        assert!(said.contains(expected), "{args:?} must say {expected:?}, not: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{args:?} says one thing: {said}");
        assert!(!out.exists(), "{args:?} writes nothing");
    }
    let bad_rule = ailo(&["aggregate", "--rule", "mean", "--f", "0", "a", "b"]);
    assert!(String::from_utf8_lossy(&bad_rule.stderr).contains("trimmed-mean"));
    let help = ailo(&["aggregate", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("ailo-node aggregate --rule trimmed-mean"));
}

/// Whatever bytes a file has, the program ends without a panic.
#[test]
fn no_change_of_a_byte_makes_it_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    let ones: Vec<u8> = [1.0f32; 6].iter().flat_map(|x| x.to_le_bytes()).collect();
    tensor(&input, "updates", Dtype::F32, &[3, 2], &ones);
    let good = std::fs::read(&input).unwrap();
    for i in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[i] ^= 0x55;
        std::fs::write(&input, bytes).unwrap();
        let args = ["aggregate", "--rule", "median", "--f", "1", input.to_str().unwrap(), output.to_str().unwrap()];
        let said = ailo(&args);
        assert!(said.status.code().is_some_and(|code| code < 100), "byte {i}: {said:?}");
    }
}

#[test]
fn the_simulation_prints_rows_draws_curves_and_takes_up_a_table_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (table, plot, roc) = (path("runs.jsonl"), path("curves.svg"), path("roc.svg"));
    let run = |attack: &str| {
        let shape = ["--nodes", "5", "--byzantine", "1", "--rounds", "5", "--steps", "2", "--threads", "1"];
        let small = ["training.batch=2", "training.sequence=32", "model.width=32", "training.eval_sequences=8"];
        let small = small.into_iter().flat_map(|set| ["--set", set]);
        let files = ["--table", &table, "--plot", &plot, "--roc", &roc, "--json", "--attack", attack];
        let args: Vec<&str> = ["simulate", "training"].into_iter().chain(shape).chain(small).chain(files).collect();
        let output = ailo(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = String::from_utf8(output.stdout).unwrap();
        rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect::<Vec<Value>>()
    };
    let rows = run("sign-flip");
    let attacks: Vec<&str> = rows.iter().map(|row| row["attack"].as_str().unwrap()).collect();
    assert_eq!(
        attacks,
        ["withhold", "withhold", "sign-flip"],
        "a plain mean of the honest, the rule alone, the attack"
    );
    assert!(rows.iter().all(|row| row["loss"].as_f64().unwrap() > 1.0 && row["curve"].as_array().unwrap().len() == 5));
    assert_eq!(rows[2]["scores"][4].as_array().unwrap().len(), 5);
    let again = run("sign-flip,mimic");
    assert_eq!(again[..3], rows, "what was run, its time too, is taken from the table");
    assert_eq!(std::fs::read_to_string(&table).unwrap().lines().count(), 4);
    let suspects = |row: &Value| {
        let last = row["scores"][4].as_array().unwrap();
        last.iter().map(|score| score["alike"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(suspects(&rows[2]), [false; 5]);
    assert!(suspects(&again[3])[4] && suspects(&again[3]).iter().filter(|alike| **alike).count() == 2);
    for picture in [&plot, &roc] {
        assert!(std::fs::read_to_string(picture).unwrap().contains("<polyline"));
    }
}

//! `docs/ledger.md` says what the code says: its generated sections, and that no parameter is left out. With
//! `AILO_WRITE_DOCS=1 cargo test -p ailo-ledger --test docs` the sections are written anew.
#![allow(clippy::unwrap_used)]

use ailo_ledger::{
    mempool::AdmissionError,
    state::{CHANGEABLE, Rejection},
};
use ailo_protocol::presets;
use std::{env, fs, path::PathBuf};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/ledger.md")
}

/// The page with what stands between the marks of `section` replaced.
fn with_section(page: &str, section: &str, content: &str) -> String {
    let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {section}: {mark} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    format!("{before}{begin}{content}{end}{after}")
}

fn codes() -> String {
    let rows = Rejection::TABLE.iter().chain(AdmissionError::TABLE);
    let rows: String = rows.map(|(code, message)| format!("| `{code}` | {message} |\n")).collect();
    format!("| code | means |\n| --- | --- |\n{rows}")
}

fn changeable() -> String {
    CHANGEABLE.iter().map(|name| format!("- `{name}`\n")).collect()
}

#[test]
fn the_page_lists_the_codes_and_what_votes_may_change_as_the_program_has_them() {
    let page = fs::read_to_string(path()).unwrap();
    let generated = with_section(&with_section(&page, "codes", &codes()), "changeable", &changeable());
    match env::var_os("AILO_WRITE_DOCS") {
        Some(_) => fs::write(path(), generated).unwrap(),
        None => assert!(page == generated, "docs/ledger.md is behind the code: run this test with AILO_WRITE_DOCS=1"),
    }
}

#[test]
fn the_page_explains_every_parameter_of_ledger_round_and_inference() {
    let page = fs::read_to_string(path()).unwrap();
    let (_, numbers) = page.split_once("\n## Numbers\n").unwrap();
    let params = toml::Table::try_from(presets::main()).unwrap();
    for section in ["ledger", "round", "inference"] {
        for name in params[section].as_table().unwrap().keys() {
            assert!(numbers.contains(&format!("`{name}`")), "{section}.{name}");
        }
    }
}

#[test]
fn every_code_stands_once() {
    let mut codes: Vec<&str> = Rejection::TABLE.iter().chain(AdmissionError::TABLE).map(|(code, _)| *code).collect();
    codes.sort_unstable();
    assert!(codes.is_sorted_by(|a, b| a < b), "a code is used twice");
}

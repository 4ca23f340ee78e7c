//! `docs/openrpc.json` and `docs/rpc.md` say what the program says. With `AILO_WRITE_DOCS=1 cargo test --workspace --test docs` they are
//! written anew.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::rpc::openrpc;
use std::{env, fs, path::PathBuf};

#[test]
fn the_reference_of_json_rpc_is_what_the_program_serves() {
    let document = serde_json::to_string_pretty(&openrpc::document()).unwrap() + "\n";
    for (name, made) in [("openrpc.json", document), ("rpc.md", openrpc::page())] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        match env::var_os("AILO_WRITE_DOCS") {
            Some(_) => fs::write(path, made).unwrap(),
            None => assert!(
                fs::read_to_string(path).unwrap_or_default() == made,
                "docs/{name} is behind the code: run this test with AILO_WRITE_DOCS=1"
            ),
        }
    }
}

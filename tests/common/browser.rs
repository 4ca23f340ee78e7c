//! Looks at a node's pages with a real browser: see `browser.py`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where `scripts/browser` puts what checks the pages.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/browser/package/axe.min.js");

/// Panics with all faults of the pages at `url`; says so and does nothing where there is no browser, or no axe.
pub fn look_at(url: &str, more: &[&str]) {
    let program = std::env::var("AILO_CHROMIUM").unwrap_or_else(|_| "chromium".into());
    let axe = std::env::var("AILO_AXE").map_or_else(|_| PathBuf::from(AXE), PathBuf::from);
    let answers = |program: &str| {
        let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    if !answers(&program) || !answers("python3") || !axe.exists() {
        println!(
            "SKIPPED: {program}, python3 or {} is not there: `scripts/browser` fetches what is missing",
            axe.display()
        );
        return;
    }
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/browser.py");
    let looked = Command::new("python3").arg(script).arg(program).arg(axe).arg(&pictures).arg(url).args(more).output();
    let looked = looked.expect("python3 was there");
    let said = String::from_utf8_lossy(&looked.stdout);
    assert!(looked.status.success(), "{said}{}", String::from_utf8_lossy(&looked.stderr));
    println!("pictures of {} pages are in {}", more.len(), pictures.display());
}

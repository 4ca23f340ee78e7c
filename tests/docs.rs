//! `docs/commands.md`, `docs/configuration.md`, `docs/rpc.md` and `docs/openrpc.json` say what the program says. `AILO_WRITE_DOCS=1 cargo test --workspace --test docs` writes
//! them anew.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::{
    cli::Cli,
    config::show::{Setting, settings},
    error::Exit,
    rpc::openrpc,
};
use std::{env, fmt::Write, fs, path::PathBuf};

/// Compares a page with what the program says, or writes it.
fn page(name: &str, generated: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    match env::var_os("AILO_WRITE_DOCS") {
        Some(_) => fs::write(&path, generated).unwrap(),
        None => assert!(
            fs::read_to_string(&path).unwrap_or_default() == generated,
            "docs/{name} is behind the code: run this test with AILO_WRITE_DOCS=1"
        ),
    }
}

/// A cell of a table, in which a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

fn command(out: &mut String, command: &clap::Command, path: &str) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    write!(out, "\n## {path}\n\n{about}.\n").unwrap();
    let usage = command.clone().render_usage().to_string();
    write!(out, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ")).unwrap();
    let general = ["help", "version", "log", "json"];
    let args: Vec<_> =
        command.get_arguments().filter(|arg| !arg.is_hide_set() && !general.contains(&arg.get_id().as_str())).collect();
    if !args.is_empty() {
        out.push_str("\n| argument | means |\n| --- | --- |\n");
    }
    for arg in args {
        let value = arg.get_value_names().and_then(|names| names.first()).map_or(String::new(), ToString::to_string);
        let takes = arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.min_values() > 0);
        let name = match (arg.get_long(), takes) {
            (Some(long), true) => format!("--{long} {value}"),
            (Some(long), false) => format!("--{long}"),
            (None, _) => value,
        };
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if let Some(default) = arg.get_default_values().first().filter(|value| takes && !value.is_empty()) {
            write!(help, " [default: {}]", default.to_string_lossy()).unwrap();
        }
        if let Some(variable) = arg.get_env() {
            write!(help, " [env: {}]", variable.to_string_lossy()).unwrap();
        }
        writeln!(out, "| `{}` | {} |", name.replace('|', "\\|"), cell(&help)).unwrap();
    }
    if let Some(after) = command.get_after_help().map(ToString::to_string) {
        let (text, examples) = match after.find("Example") {
            Some(at) => after.split_at(at),
            None => (after.as_str(), ""),
        };
        if !text.trim().is_empty() {
            write!(out, "\n{}\n", text.trim()).unwrap();
        }
        if let Some((_, lines)) = examples.split_once('\n') {
            let lines: String = lines.lines().map(|line| format!("{}\n", line.trim_start())).collect();
            write!(out, "\n```sh\n{lines}```\n").unwrap();
        }
    }
}

fn commands(out: &mut String, above: &clap::Command, path: &str) {
    for below in above.get_subcommands().filter(|below| below.get_name() != "help") {
        let path = format!("{path} {}", below.get_name());
        match below.has_subcommands() {
            true => commands(out, below, &path),
            false => command(out, below, &path),
        }
    }
}

#[test]
fn the_reference_lists_every_command_and_flag_as_the_program_has_them() {
    let mut tree = Cli::tree();
    tree.build();
    let mut out = String::from(
        "# Commands\n\n<!-- Written by `AILO_WRITE_DOCS=1 cargo test --workspace --test docs`: change the program instead. -->\n\n\
         Every command takes `--json` (one JSON object a line on standard output, and nothing else there; an error is\n\
         `{\"error\": {\"kind\", \"code\", \"message\"}}` on standard error) and `--log FILTER`. `ailo-node completions` and `ailo-node man`\n\
         give the same to shells and to `man`.\n",
    );
    out.push_str("\n| exit code | kind | means |\n| --- | --- | --- |\n| 0 | | done |\n");
    for exit in Exit::ALL {
        writeln!(out, "| {} | {} | {} |", exit.code(), exit.name(), cell(exit.meaning())).unwrap();
    }
    commands(&mut out, &tree, "ailo-node");
    page("commands.md", &out);
}

#[test]
fn the_reference_lists_every_setting_of_a_node() {
    let mut out = String::from(
        "# Configuration\n\n<!-- Written by `AILO_WRITE_DOCS=1 cargo test --workspace --test docs`: change the program instead. -->\n\n\
         What `ailo-node run` runs with. A flag wins over the environment, the environment over the file of `--config FILE` (TOML), and\n\
         that over the default; `ailo-node config show` shows what came of it, `ailo-node config check` what is wrong.\n\
         `config/node.toml` is a file to begin with. A switch is `true` or `false` in a file and in the environment.\n\n\
         Passphrases of locked keys are no settings: AILO_PASSPHRASE_FILE names a file that holds one, AILO_PASSPHRASE holds it, and a\n\
         terminal is asked.\n\n\
         | key and flag | environment | default | means |\n| --- | --- | --- | --- |\n",
    );
    for Setting { name, variable, value, default, meaning, in_files, .. } in settings() {
        let value = value.map(|value| format!(" {}", value.replace('|', "\\|"))).unwrap_or_default();
        let variable = variable.map(|variable| format!("`{variable}`")).unwrap_or_default();
        let note = if in_files { "" } else { " (never in a file)" };
        writeln!(out, "| `--{name}{value}` | {variable} | {} | {}{note} |", cell(&default), cell(&meaning)).unwrap();
    }
    page("configuration.md", &out);
}

#[test]
fn the_reference_of_json_rpc_is_what_the_program_serves() {
    page("openrpc.json", &(serde_json::to_string_pretty(&openrpc::document()).unwrap() + "\n"));
    page("rpc.md", &openrpc::page());
}

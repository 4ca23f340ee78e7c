//! `config show` and `config check`: what `run` would run with, where each value comes from, and what is wrong with it. What an option
//! is called and means stands in the flags of `run` alone; this reads it there.

use super::{Settings, read_file};
use crate::{
    cli::{Cli, ConfigCommand, RunArgs},
    error::NodeError,
    output::{say, show},
};
use clap::parser::ValueSource;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// Less alike than this, a word is no misspelling of another.
const ALIKE: f64 = 0.8;
/// Of one start, so never in a file.
const NOT_IN_FILES: &str = "allow-new-journal";

/// An option of `run`.
pub struct Setting {
    /// Its flag, without dashes; its key in a config file.
    pub name: String,
    /// Its environment variable.
    pub variable: Option<String>,
    /// What a value looks like; nothing for a switch.
    pub value: Option<String>,
    /// What it holds where nobody says anything.
    pub default: String,
    /// What it does.
    pub meaning: String,
    /// Whether a config file may hold it.
    pub in_files: bool,
    id: String,
}

/// All options of `run` that a person may set, in the order of its help.
pub fn settings() -> Vec<Setting> {
    let tree = Cli::tree();
    let options = tree.find_subcommand("run").map(|run| run.get_arguments().collect::<Vec<_>>()).unwrap_or_default();
    let beside = ["config", "log", "json", "help", "version"];
    let options = options.into_iter().filter(|arg| !arg.is_hide_set() && !beside.contains(&arg.get_id().as_str()));
    options
        .filter_map(|arg| {
            let name = arg.get_long()?.to_string();
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let (meaning, default) = match help.split_once(" [default: ") {
                Some((meaning, default)) => (meaning.to_string(), default.trim_end_matches(['.', ']']).to_string()),
                None => (help.trim_end_matches('.').to_string(), "none".into()),
            };
            let switch = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
            let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
            Some(Setting {
                variable: arg.get_env().map(|variable| variable.to_string_lossy().into_owned()),
                value: value.filter(|_| !switch),
                default: if switch && default == "none" { "false".into() } else { default },
                meaning,
                in_files: name != NOT_IN_FILES,
                id: arg.get_id().to_string(),
                name,
            })
        })
        .collect()
}

/// What is wrong with the first key of a config file that is none, and which one may have been meant.
pub fn misspelt(text: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(text).ok()?; // what is no TOML is somebody else's to say
    let known: Vec<String> = settings().into_iter().filter(|it| it.in_files).map(|it| it.name).collect();
    // Options for tests are known, and not said.
    let hidden = |key: &str| {
        Cli::tree()
            .find_subcommand("run")
            .is_some_and(|run| run.get_arguments().any(|arg| arg.is_hide_set() && arg.get_long() == Some(key)))
    };
    let key = table.keys().find(|key| !known.contains(key) && !hidden(key))?;
    let is_its_line = |line: &&str| line.trim_start().trim_start_matches(['"', '[']).starts_with(key.as_str());
    let line = text.lines().take_while(|line| !is_its_line(line)).count() + 1;
    let near = known.iter().map(|name| (strsim::jaro_winkler(name, key), name));
    let near = near.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    let instead = near.map_or("`ailo-node config show` lists all".into(), |(_, name)| format!("did you mean {name}?"));
    Some(format!("has the key {key} in line {line}, which is none: {instead}"))
}

/// A value, and where it comes from.
#[derive(Serialize)]
struct Shown {
    key: String,
    value: Value,
    from: &'static str,
}

/// Runs a command of `config`.
pub fn command(command: ConfigCommand) -> Result<(), NodeError> {
    match command {
        ConfigCommand::Show(args) => {
            let shown = sources(&args, std::env::args_os())?;
            show(&json!({ "config": args.config, "settings": shown }), |out| {
                shown.iter().try_for_each(|Shown { key, value, from }| {
                    let value = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
                    writeln!(out, "{key:<18} {from:<12} {value}")
                })
            })
        }
        ConfigCommand::Check(args) => {
            let settings = Settings::resolve(&args)?;
            if let Some(network) = &settings.network {
                crate::genesis::read(network)?;
            }
            let dir = &settings.data_dir;
            say(&json!({ "ok": true, "data_dir": dir }), format_args!("a node in {} can run with this", dir.display()))
        }
    }
}

/// Each option with its value: of a flag, of the environment, of the file, or its default.
fn sources(
    args: &RunArgs,
    line: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<Vec<Shown>, NodeError> {
    let as_json = |options| serde_json::to_value(options).unwrap_or_default();
    let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let (given, file) = (as_json(&args.options), as_json(&file));
    let matches = Cli::tree().try_get_matches_from(line).map_err(|e| NodeError::Usage(e.to_string()))?;
    let matches = matches.subcommand().and_then(|(_, config)| config.subcommand()).map(|(_, show)| show);
    let shown = settings().into_iter().map(|Setting { name: key, default, id, .. }| {
        let source = matches.and_then(|matches| matches.value_source(&id));
        let (value, from) = match (&given[&key], &file[&key], source) {
            (Value::Null, Value::Null, _) => (default.into(), "default"),
            (Value::Null, value, _) => (value.clone(), "file"),
            (value, _, Some(ValueSource::EnvVariable)) => (value.clone(), "environment"),
            (value, _, _) => (value.clone(), "flag"),
        };
        Shown { key, value, from }
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    #[test]
    fn each_value_is_shown_with_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, "power = 40\nhttp = \"127.0.0.1:1\"\n").unwrap();
        let line =
            ["ailo-node", "config", "show", "--config", file.to_str().unwrap(), "--http", "127.0.0.1:2", "--validator"];
        let Command::Config(ConfigCommand::Show(args)) = Cli::parse_from(line).command else { unreachable!("given") };
        let shown = sources(&args, line).unwrap();
        let of = |key: &str| {
            let found = shown.iter().find(|shown| shown.key == key).unwrap();
            (found.value.clone(), found.from)
        };
        assert_eq!(of("power"), (json!(40), "file"));
        assert_eq!(of("http"), (json!("127.0.0.1:2"), "flag"));
        assert_eq!(of("validator"), (json!(true), "flag"));
        assert_eq!(of("listen").1, "default");
        assert_eq!(of("cpu"), (json!("false"), "default"));
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_what_was_meant() {
        assert_eq!(misspelt("power = 40\n"), None);
        assert_eq!(misspelt("look-around-ms = 40\n"), None, "for tests");
        let why = misspelt("power = 40\ninference_only = true\n").unwrap();
        assert!(why.contains("line 2") && why.contains("did you mean inference-only?"), "{why}");
        assert!(misspelt("colour = 1").unwrap().contains("config show"));
    }
}

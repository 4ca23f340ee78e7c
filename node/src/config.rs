//! The settings of `run`, from four layers: flags, environment (both through clap), config file, defaults.

pub mod show;

use crate::{
    cli::{RunArgs, RunOptions},
    datadir,
    error::NodeError,
    inference::{
        draft::Guess,
        host::{Pauses, Share},
        payment::Ask,
        run::{Checkpoint, SESSIONS, Serves},
    },
    logs::otlp::{Collector, NotACollector},
    machine, operator,
};
use ailo_ledger::{
    light::{self, NotACheckpoint},
    transaction::Consent,
};
use ailo_protocol::{Address, Amount, canonical};
use std::{
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

/// Share of texts that are read again, unless told otherwise.
const CHECKS: f64 = 0.05;
/// MiB for sessions with the network's own model, unless told otherwise.
const OWN_MEMORY: u64 = 256;
/// Threads that compute what is served.
const THREADS: RangeInclusive<u32> = 1..=256;
/// Spot checks of a validator, an hour; and of anybody, at most.
const AUDITS: f64 = 6.0;
const MAX_AUDITS: f64 = 3600.0;

/// What `run` runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Network file, or none for the development network of this node alone.
    pub network: Option<PathBuf>,
    /// Folder of keys, ledger and model.
    pub data_dir: PathBuf,
    /// Validate if the ledger allows it.
    pub validator: bool,
    /// Do not train.
    pub inference_only: bool,
    /// Dataset files; empty for the embedded corpus.
    pub data: Vec<PathBuf>,
    /// Wallet that rewards go to; none for the one in the data folder.
    pub wallet: Option<Address>,
    /// That wallet's consent, where its key is not in the data folder.
    pub consent: Option<Consent>,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs that others reach it at.
    pub announce: Vec<String>,
    /// Ask the router to forward the port.
    pub upnp: bool,
    /// Multiaddrs to join through.
    pub bootstrap: Vec<String>,
    /// Address of JSON-RPC.
    pub http: SocketAddr,
    /// Answer the API to nobody without a key.
    pub require_api_key: bool,
    /// Names that the API may be called by, beside the machine's own for itself.
    pub allow_host: Vec<String>,
    /// Where traces are sent.
    pub otlp: Option<Collector>,
    /// A block that the operator knows to be the network's.
    pub checkpoint: Option<light::Checkpoint>,
    /// Keep all blocks.
    pub archive: bool,
    /// Start without the journal of what was signed.
    pub allow_new_journal: bool,
    /// Share of the time that training may compute, in percent.
    pub power: u8,
    /// Never use a GPU.
    pub cpu: bool,
    /// What it serves.
    pub serves: Serves,
    /// What a unit of inference costs here; none: the market's price, and nothing on development networks.
    pub ask: Option<Ask>,
    /// What this node may pay for inference in a day.
    pub spend: Amount,
    /// Share of this node's own texts that it reads again.
    pub checks: f64,
    /// Texts an hour that it asks of others for spot checks.
    pub audits: f64,
}

/// Reads a config file: the options of `run` under their flags' names.
fn read_file(path: &Path) -> Result<RunOptions, NodeError> {
    let text = std::fs::read_to_string(path).map_err(|e| NodeError::file("read the config file", path, e))?;
    if let Some(why) = show::misspelt(&text) {
        return Err(NodeError::Usage(format!("the config file {} {why}", path.display())));
    }
    toml::from_str(&text).map_err(|e| {
        NodeError::Usage(format!("the config file {} is not valid: {}", path.display(), e.to_string().trim_end()))
    })
}

/// Reads what `ailo-node wallet consent` prints.
pub fn parse_consent(text: &str) -> Result<Consent, NodeError> {
    let bytes = hex::decode(text).ok().and_then(|bytes| canonical::decode(&bytes, 128).ok());
    bytes.ok_or_else(|| NodeError::Usage("--consent takes what `ailo-node wallet consent NODE` prints, whole".into()))
}

/// What `--model` and the flags beside it ask for.
fn serves(flags: &RunOptions, file: &RunOptions, (cpu, inference_only): (bool, bool)) -> Result<Serves, NodeError> {
    let layers = flags.layers.as_deref().or(file.layers.as_deref());
    let memory = flags.memory.or(file.memory).map(|megabytes| megabytes.saturating_mul(1 << 20));
    let folder = flags.model.as_ref().or(file.model.as_ref());
    if let Some(missing) = folder.filter(|folder| !folder.join("config.json").exists()) {
        return Err(NodeError::Usage(format!(
            "--model {} is no checkpoint's folder: it holds config.json, tokenizer.json and *.safetensors",
            missing.display()
        )));
    }
    let usual = || machine::memory() / 2;
    let share = match (layers, memory) {
        (None, None) if folder.is_none() => Share::WHOLE,
        (None, memory) => Share::Bytes(memory.unwrap_or_else(usual)),
        (Some(text), _) => {
            let ends = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
            let layers = ends.map(|(first, end)| first..end).filter(|layers: &Range<usize>| layers.start <= layers.end);
            Share::Layers(layers.ok_or_else(|| NodeError::Usage(format!("--layers {text}: write layers like 0..12")))?)
        }
    };
    let checkpoint = folder.map(|folder| {
        let dtype = flags.dtype.as_ref().or(file.dtype.as_ref()).map(|dtype| dtype.parse()).transpose()?;
        let draft = flags.draft.clone().or(file.draft.clone()).map_or_else(Guess::default, Guess::from);
        Ok::<_, NodeError>(Checkpoint { folder: folder.clone(), dtype, draft })
    });
    let sessions = match (memory, folder) {
        (None, None) => OWN_MEMORY << 20,
        (memory, _) => memory.unwrap_or_else(usual) / SESSIONS,
    };
    let threads = flags.threads.or(file.threads);
    if let Some(threads) = threads.filter(|threads| !THREADS.contains(threads)) {
        return Err(NodeError::Usage(format!("--threads is {threads}: choose 1 to 256")));
    }
    let threads = threads.map(|threads| threads as usize);
    let look = flags.look_around_ms.or(file.look_around_ms).map(Duration::from_millis);
    let pauses = look.map_or_else(Pauses::default, Pauses::looking);
    let (checkpoint, asked, card, trains) = (checkpoint.transpose()?, memory.is_some(), !cpu, !inference_only);
    Ok(Serves { checkpoint, share, memory: sessions, asked, card, trains, threads, pauses })
}

impl Settings {
    /// Merges the layers and checks what can be checked without touching anything.
    pub fn resolve(args: &RunArgs) -> Result<Settings, NodeError> {
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let flags = args.options.clone();
        let cpu = flags.cpu.or(file.cpu).unwrap_or(false);
        let inference_only = flags.inference_only.or(file.inference_only).unwrap_or(false);
        let serves = serves(&flags, &file, (cpu, inference_only))?;
        let network = flags.network.or(file.network).ok_or_else(|| {
            NodeError::Usage(
                "no network named: pass --network FILE, or --network dev to try it on this machine alone".into(),
            )
        })?;
        let network = (network != "dev").then(|| PathBuf::from(network));
        let data_dir = match flags.data_dir.or(file.data_dir) {
            Some(dir) => dir,
            None => {
                let name = network.as_deref().and_then(Path::file_stem).and_then(|s| s.to_str()).unwrap_or("dev");
                datadir::default_dir(name)?
            }
        };
        let power = flags.power.or(file.power).unwrap_or(90);
        if !operator::POWER.contains(&power) {
            return Err(NodeError::Usage(operator::BeyondPower(power).to_string()));
        }
        let http = flags.http.or(file.http).unwrap_or_else(|| "127.0.0.1:8645".into());
        let http = http.parse().map_err(|_| {
            NodeError::Usage(format!("'{http}' is not an address to serve on: write it like 127.0.0.1:8645"))
        })?;
        let data = flags.data.or(file.data).unwrap_or_default();
        if let Some(missing) = data.iter().find(|path| !path.exists()) {
            return Err(NodeError::Usage(format!("the data path {} does not exist: check --data", missing.display())));
        }
        let checkpoint = flags.checkpoint.or(file.checkpoint).map(|text| text.parse()).transpose();
        let checkpoint = checkpoint.map_err(|e: NotACheckpoint| NodeError::Usage(format!("--checkpoint: {e}")))?;
        let otlp = flags.otlp.or(file.otlp).map(|text| text.parse()).transpose();
        let otlp = otlp.map_err(|e: NotACollector| NodeError::Usage(format!("--otlp: {e}")))?;
        let checks = flags.checks.or(file.checks).unwrap_or(CHECKS);
        if !(0.0..=1.0).contains(&checks) {
            return Err(NodeError::Usage(format!("--checks is {checks}: choose a share from 0 to 1")));
        }
        // Who is alone has nobody else to make blocks.
        let validator = flags.validator.or(file.validator).unwrap_or(network.is_none());
        let audits = flags.audits.or(file.audits).unwrap_or(if validator { AUDITS } else { 0.0 });
        if !(0.0..=MAX_AUDITS).contains(&audits) {
            return Err(NodeError::Usage(format!("--audits is {audits}: choose 0 to {MAX_AUDITS} texts an hour")));
        }
        let ask = flags.price.or(file.price).map(|text| text.parse()).transpose()?;
        let spend = flags.spend.or(file.spend).map(|text| text.parse::<Amount>()).transpose();
        let spend = spend.map_err(|e| NodeError::Usage(format!("--spend: {e}; write ALC a day, like 0.5")))?;
        let default_listen = if network.is_some() { "/ip4/0.0.0.0/tcp/8646" } else { "/ip4/127.0.0.1/tcp/0" };
        Ok(Settings {
            validator,
            inference_only,
            wallet: flags.wallet.or(file.wallet),
            consent: flags.consent.or(file.consent).map(|text| parse_consent(&text)).transpose()?,
            listen: flags.listen.or(file.listen).unwrap_or_else(|| vec![default_listen.into()]),
            announce: flags.announce.or(file.announce).unwrap_or_default(),
            upnp: flags.upnp.or(file.upnp).unwrap_or(true),
            bootstrap: flags.bootstrap.or(file.bootstrap).unwrap_or_default(),
            cpu,
            require_api_key: flags.require_api_key.or(file.require_api_key).unwrap_or(false),
            allow_host: flags.allow_host.or(file.allow_host).unwrap_or_default(),
            otlp,
            checkpoint,
            allow_new_journal: flags.allow_new_journal.unwrap_or(false),
            archive: flags.archive.or(file.archive).unwrap_or(network.is_none()),
            network,
            data_dir,
            data,
            http,
            power,
            serves,
            checks,
            audits,
            ask,
            spend: spend.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn resolve(args: &[&str]) -> Result<Settings, NodeError> {
        let cli = Cli::try_parse_from(["ailo-node", "run"].iter().chain(args)).expect("flags parse");
        let Command::Run(run) = cli.command else { unreachable!("run was given") };
        Settings::resolve(&run)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(
            &file,
            "network = \"dev\"\npower = 40\nhttp = \"127.0.0.1:1\"\nvalidator = true\nallow-host = [\"a.org\"]\nthreads = 3\n",
        )
        .unwrap();
        let settings = resolve(&["--config", file.to_str().unwrap(), "--power", "60", "--require-api-key"]).unwrap();
        assert_eq!((settings.power, settings.http.port(), settings.validator), (60, 1, true));
        assert!(!settings.inference_only && settings.require_api_key);
        assert_eq!((settings.allow_host, settings.serves.threads), (vec!["a.org".to_string()], Some(3)));
        let refused = resolve(&["--config", file.to_str().unwrap(), "--threads", "0"]).unwrap_err().to_string();
        assert!(refused.contains("--threads is 0"), "{refused}");
    }

    #[test]
    fn who_is_alone_validates_unless_told_otherwise() {
        let validates = |args: &[&str]| resolve(args).unwrap().validator;
        assert!(validates(&["--network", "dev"]) && !validates(&["--network", "dev", "--validator=false"]));
        assert!(!validates(&["--network", "net.toml"]));
    }

    #[test]
    fn the_example_file_says_what_the_program_understands() {
        let example = include_str!("../../config/node.toml");
        let options = example.lines().map(|line| match line.strip_prefix("# ") {
            // Of an address it shows the beginning.
            Some(option)
                if !option.contains("...") && option.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) =>
            {
                option
            }
            _ => line,
        });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, options.collect::<Vec<_>>().join("\n")).unwrap();
        let options = read_file(&file).unwrap();
        assert!(options.audits.is_some() && options.spend.is_some() && options.checkpoint.is_some());
    }

    #[test]
    fn a_config_file_with_an_unknown_or_malformed_entry_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["colour = 1\n", "power = \"much\"\n", "power = \n", "powr = 40\n"] {
            let file = dir.path().join("bad.toml");
            std::fs::write(&file, text).unwrap();
            let error = resolve(&["--config", file.to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.contains("bad.toml") && error.contains("line 1"), "{error}");
            assert_eq!(error.contains("did you mean power?"), text.starts_with("powr"), "{error}");
        }
    }

    #[test]
    fn a_data_path_that_does_not_exist_is_named() {
        let error = resolve(&["--network", "dev", "--data", "/nowhere/text"]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/text does not exist"), "{error}");
    }
}

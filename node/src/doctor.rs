//! `doctor`: looks at the machine as a node would use it. `probes` asks the machine and the network; here is what the answers mean, and
//! what to do about them.

mod probes;

use crate::{
    cli::{DoctorArgs, RunArgs, RunOptions},
    config::Settings,
    datadir,
    error::NodeError,
    output::{paint, say},
    progress::Progress,
};
use clap::builder::styling::AnsiColor;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// A ledger and some models fit in this; with less than the first there is hardly room to start.
const LEAST_SPACE: u64 = 1 << 30;
const GOOD_SPACE: u64 = 20 << 30;
/// A validator writes down what it signs before it sends it: a disk this slow costs blocks, and a slower one misses them.
const GOOD_FSYNC: Duration = Duration::from_millis(25);
const SLOWEST_FSYNC: Duration = Duration::from_millis(250);
/// Every run of the index is an open file.
const LEAST_FILES: u64 = 1024;
const GOOD_FILES: u64 = 8192;
const LEAST_MEMORY: u64 = 1 << 30;
const GOOD_MEMORY: u64 = 4 << 30;
/// Blocks made by a clock further from this one than that are refused.
const BIGGEST_SKEW: Duration = Duration::from_secs(5);
/// A newest block this old tells nothing of the clock: the network may have been idle.
const FRESH: Duration = Duration::from_secs(120);

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What a check found, and what to do about it.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { check, level: Level::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, ..Finding::warn(check, found, advice) }
    }

    fn say(&self) -> Result<(), NodeError> {
        let (mark, colour) = match self.level {
            Level::Ok => ("ok  ", AnsiColor::Green),
            Level::Warn => ("warn", AnsiColor::Yellow),
            Level::Fail => ("FAIL", AnsiColor::Red),
        };
        let advice = self.advice.as_ref().map(|advice| format!("\n                    {advice}")).unwrap_or_default();
        say(self, format_args!("{}  {:<12}  {}{advice}", paint(mark, colour), self.check, self.found))
    }
}

/// Makes every check, says what each found as it comes, and fails if one did.
pub async fn command(args: DoctorArgs) -> Result<(), NodeError> {
    let (mut failed, mut checks) = (0, 0);
    let mut tell = |finding: Finding| {
        failed += u32::from(finding.level == Level::Fail);
        checks += 1;
        finding.say()
    };
    let settings = match settings(&args) {
        Ok(settings) => {
            tell(Finding::ok("settings", format!("a node in {} can run with them", settings.data_dir.display())))?;
            settings
        }
        Err(e) => {
            tell(Finding::fail(
                "settings",
                e.to_string(),
                "the checks below are of a node with the other settings' defaults",
            ))?;
            settings(&DoctorArgs {
                config: None,
                network: Some("dev".into()),
                data_dir: args.data_dir.clone(),
                listen: None,
                bootstrap: None,
                http: None,
                cpu: args.cpu,
            })?
        }
    };
    let running = probes::running(&settings.data_dir).await;
    let looking = Progress::wait("computing as training does");
    let computed = probes::computes(settings.cpu).await;
    drop(looking);
    tell(computes(computed))?;
    tell(gpu(probes::gpu(), settings.cpu))?;
    for port in probes::ports(&settings) {
        tell(listens(port, running.is_some()))?;
    }
    tell(space(probes::space(&settings.data_dir)))?;
    tell(fsync(probes::fsync(&settings.data_dir), settings.validator))?;
    tell(open_files(probes::open_files()))?;
    tell(memory(crate::machine::memory()))?;
    tell(keys(&probes::exposed_keys(&settings.data_dir), &probes::open_keys(&settings.data_dir)))?;
    tell(folder(&settings.data_dir, running.is_some(), probes::is_locked(&settings.data_dir)))?;
    let looking = Progress::wait("asking peers");
    let peers = probes::peers(&settings).await;
    drop(looking);
    tell(reachable(&peers, &settings))?;
    let times = peers
        .iter()
        .filter_map(|peer| peer.answer.as_ref().ok().copied().flatten())
        .chain(running.as_ref().map(|it| it.block_time_ms));
    tell(clock(crate::genesis::now_ms(), times.max()))?;
    tell(nat(running.as_ref()))?;
    match failed {
        0 => Ok(()),
        _ => Err(NodeError::Check(format!("{failed} of {checks} checks fail: see what to do above"))),
    }
}

/// The settings of the node that the flags, the config file or the data folder describe.
fn settings(args: &DoctorArgs) -> Result<Settings, NodeError> {
    let DoctorArgs { config, network, data_dir, listen, bootstrap, http, cpu } = args;
    let options = RunOptions {
        network: network.clone(),
        data_dir: data_dir.clone(),
        listen: listen.clone(),
        bootstrap: bootstrap.clone(),
        http: http.clone(),
        cpu: *cpu,
        ..RunOptions::default()
    };
    let resolve = |network: Option<String>| {
        let options = RunOptions { network: network.or(options.network.clone()), ..options.clone() };
        Settings::resolve(&RunArgs { config: config.clone(), options, stop_on_eof: false })
    };
    let kept = data_dir.as_ref().map(|dir| dir.join("network.toml")).filter(|file| file.exists());
    match (network, config) {
        (Some(_), _) | (None, Some(_)) => resolve(None),
        (None, None) => resolve(Some(kept.map_or("dev".into(), |file: PathBuf| file.to_string_lossy().into_owned()))),
    }
}

fn computes(class: Result<(String, Duration), String>) -> Finding {
    match class {
        Ok((class, took)) => {
            Finding::ok("libtorch", format!("loads and computes: class {class}, in {:.1} s", took.as_secs_f64()))
        }
        Err(why) => Finding::fail(
            "libtorch",
            why,
            "run scripts/libtorch again, and start ailo-node with the LD_LIBRARY_PATH that scripts/run sets",
        ),
    }
}

fn gpu(gpu: probes::Gpu, cpu: bool) -> Finding {
    let driver = gpu.driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
    match (gpu.usable, &gpu.serves) {
        (false, Err(None)) if gpu.driver.is_none() => Finding::ok("gpu", "none: the CPU computes"),
        _ if cpu => Finding::ok("gpu", "there is one, and --cpu leaves it alone"),
        (_, Err(Some(why))) => {
            Finding::warn("gpu", format!("it can't serve text: {why}"), "see whether `nvidia-smi` lists the GPU")
        }
        (_, Err(None)) => Finding::warn(
            "gpu",
            format!("a driver is there{driver}, but no card is found"),
            "see whether `nvidia-smi` lists the GPU",
        ),
        (true, Ok(card)) => Finding::ok("gpu", format!("{card} trains and serves text{driver}")),
        (false, Ok(card)) => Finding::warn(
            "gpu",
            format!("{card} serves text{driver}, but libtorch sees no GPU to train on"),
            "to train on it, build with the CUDA libtorch (`scripts/libtorch --cuda`)",
        ),
    }
}

fn listens(port: probes::Port, running: bool) -> Finding {
    let probes::Port { flag, address, outcome } = port;
    match outcome {
        Ok(()) => Finding::ok(flag, format!("{address} is free")),
        Err(probes::Busy::Taken(_)) if running => Finding::ok(flag, format!("{address} is the running node's")),
        Err(probes::Busy::Taken(who)) => Finding::fail(
            flag,
            format!("{address} is taken{}", who.map(|who| format!(" by {who}")).unwrap_or_default()),
            format!("stop what holds it, or choose another address with {flag}"),
        ),
        Err(probes::Busy::Other(why)) => Finding::fail(
            flag,
            format!("{address} can't be listened on: {why}"),
            format!("choose another address with {flag}"),
        ),
    }
}

fn space(space: Result<u64, String>) -> Finding {
    let advice = "free some, or choose another disk with --data-dir";
    match space {
        Err(why) => Finding::fail("disk", why, "check who owns the folder, or choose another one with --data-dir"),
        Ok(free) if free < LEAST_SPACE => Finding::fail("disk", format!("{} are free", size(free)), advice),
        Ok(free) if free < GOOD_SPACE => Finding::warn("disk", format!("{} are free", size(free)), advice),
        Ok(free) => Finding::ok("disk", format!("{} are free", size(free))),
    }
}

fn fsync(took: Result<Duration, String>, validator: bool) -> Finding {
    let advice = "put the data folder on a local SSD: each block and each signature waits for the disk";
    match took {
        Err(why) => {
            Finding::fail("disk speed", why, "check who owns the folder, or choose another one with --data-dir")
        }
        Ok(took) => {
            let found = format!("a write is safe after {:.1} ms", took.as_secs_f64() * 1e3);
            match took {
                took if took > SLOWEST_FSYNC && validator => Finding::fail("disk speed", found, advice),
                took if took > GOOD_FSYNC => Finding::warn("disk speed", found, advice),
                _ => Finding::ok("disk speed", found),
            }
        }
    }
}

fn open_files(limit: u64) -> Finding {
    let found = format!("{limit} files may be open at once");
    let advice = "raise it: LimitNOFILE=65536 in the systemd unit, or `ulimit -n`";
    match limit {
        limit if limit < LEAST_FILES => Finding::fail("open files", found, advice),
        limit if limit < GOOD_FILES => Finding::warn("open files", found, advice),
        _ => Finding::ok("open files", found),
    }
}

fn memory(bytes: u64) -> Finding {
    let found = format!("{} for this process", size(bytes));
    let advice = "give the machine or its control group more, or serve fewer layers (--layers, --memory)";
    match bytes {
        bytes if bytes < LEAST_MEMORY => Finding::fail("memory", found, advice),
        bytes if bytes < GOOD_MEMORY => Finding::warn("memory", found, advice),
        _ => Finding::ok("memory", found),
    }
}

/// `exposed` are files that others may read, `open` those of keys that no passphrase locks.
fn keys(exposed: &[PathBuf], open: &[PathBuf]) -> Finding {
    let names = |files: &[PathBuf]| files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ");
    match (exposed, open) {
        ([], []) => Finding::ok("keys", "nobody else can read them"),
        ([], files) => Finding::warn(
            "keys",
            format!("no passphrase locks {}: whoever has a copy has the keys", names(files)),
            "lock the wallet's with `ailo-node wallet passphrase`, the node's with the same and --node-key; a node that is to start \
             by itself finds the passphrase in the file that AILO_PASSPHRASE_FILE names",
        ),
        (files, _) => Finding::fail(
            "keys",
            format!("others can read {}", names(files)),
            format!("run `chmod 600 {}`", names(files)),
        ),
    }
}

fn folder(dir: &std::path::Path, running: bool, locked: bool) -> Finding {
    match (datadir::layout(dir), locked, running) {
        (Err(e), ..) => Finding::fail("folder", e.to_string(), "see docs/upgrading.md"),
        (Ok(version), true, true) => Finding::ok("folder", format!("layout {version}, and a node runs in it")),
        (Ok(_), true, false) => Finding::warn(
            "folder",
            "a process holds it, and answers no questions",
            "wait if a node is starting there or a backup is made; else find it with `fuser` on the file lock",
        ),
        (Ok(version), ..) => Finding::ok("folder", format!("layout {version}, and nobody uses it")),
    }
}

fn reachable(peers: &[probes::Peer], settings: &Settings) -> Finding {
    if peers.is_empty() {
        return match &settings.network {
            None => Finding::ok("peers", "none are needed: this is a network of one node"),
            Some(_) => Finding::warn(
                "peers",
                "no peer is named",
                "name one with --bootstrap, unless others are to come to this node",
            ),
        };
    }
    let silent: Vec<String> = peers
        .iter()
        .filter_map(|peer| peer.answer.as_ref().err().map(|why| format!("{} ({why})", peer.address)))
        .collect();
    let advice =
        "check the addresses, the network file, and that nothing between here and there drops TCP to that port";
    match silent.len() {
        0 => Finding::ok("peers", format!("all {} answer, and are of this network", peers.len())),
        n if n < peers.len() => Finding::warn("peers", format!("no answer from {}", silent.join(", ")), advice),
        _ => Finding::fail("peers", format!("no answer from {}", silent.join(", ")), advice),
    }
}

/// By the newest block that somebody has shown: it can't come from the future, and on a busy network it is young.
fn clock(now_ms: u64, newest_ms: Option<u64>) -> Finding {
    let advice = "let the system set its clock (`timedatectl set-ntp true`): blocks and transactions of a wrong time are refused";
    let Some(newest) = newest_ms else {
        return Finding::warn(
            "clock",
            "nobody could be asked what time it is",
            "see whether `timedatectl` says synchronized",
        );
    };
    let ahead = Duration::from_millis(newest.saturating_sub(now_ms));
    let old = Duration::from_millis(now_ms.saturating_sub(newest));
    match () {
        () if ahead > BIGGEST_SKEW => {
            Finding::fail("clock", format!("it is {} s behind the network's newest block", ahead.as_secs()), advice)
        }
        () if old > FRESH => Finding::warn(
            "clock",
            format!(
                "the newest block is {} s old: the network is idle, the peer lags, or this clock is ahead",
                old.as_secs()
            ),
            "see whether `timedatectl` says synchronized",
        ),
        () => Finding::ok("clock", format!("it fits the newest block, of {} s ago", old.as_secs())),
    }
}

/// What the running node says of how others reach it.
fn nat(running: Option<&probes::Running>) -> Finding {
    let check = "reachable";
    match running {
        None => Finding::warn(check, "can't tell: no node runs here", "start it, and ask again"),
        Some(node) => match &node.reachability {
            Some((true, text)) => Finding::ok(check, text.clone()),
            Some((false, text)) => {
                Finding::warn(check, text.clone(), "forward the port of --listen to this machine, or let UPnP do it")
            }
            None if node.peers > 0 => Finding::ok(check, format!("{} peers are connected", node.peers)),
            None => Finding::warn(
                check,
                "the running node has no peers",
                "name one with --bootstrap, or forward the port of --listen",
            ),
        },
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes < 10 << 30 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_says_what_to_do() {
        let findings = [
            computes(Err("it takes too long".into())),
            listens(
                probes::Port {
                    flag: "--http",
                    address: "127.0.0.1:8645".into(),
                    outcome: Err(probes::Busy::Taken(Some("nginx (7)".into()))),
                },
                false,
            ),
            listens(
                probes::Port {
                    flag: "--http",
                    address: "192.0.2.1:1".into(),
                    outcome: Err(probes::Busy::Other("no such address".into())),
                },
                true,
            ),
            space(Err("no".into())),
            space(Ok(1 << 20)),
            fsync(Ok(Duration::from_secs(1)), true),
            open_files(256),
            memory(1 << 20),
            keys(&["node.json".into()], &[]),
            clock(0, Some(60_000)),
        ];
        for finding in &findings {
            assert_eq!(finding.level, Level::Fail, "{finding:?}");
            assert!(finding.advice.as_ref().is_some_and(|advice| advice.len() > 20), "{finding:?}");
        }
        assert!(findings[1].found.contains("nginx (7)"));
    }

    #[test]
    fn what_works_is_ok_and_what_nobody_can_tell_is_no_failure() {
        let level = |finding: Finding| finding.level;
        assert_eq!(level(computes(Ok(("ab".into(), Duration::from_secs(1))))), Level::Ok);
        assert_eq!(level(space(Ok(1 << 40))), Level::Ok);
        assert_eq!(level(space(Ok(LEAST_SPACE))), Level::Warn);
        assert_eq!(level(fsync(Ok(Duration::from_secs(1)), false)), Level::Warn, "it only follows");
        assert_eq!(level(open_files(65_536)), Level::Ok);
        assert_eq!(level(keys(&[], &[])), Level::Ok);
        assert_eq!(level(keys(&[], &["wallet.json".into()])), Level::Warn, "a passphrase is not for everybody");
        assert_eq!(level(clock(100_000, Some(99_000))), Level::Ok);
        assert_eq!(level(clock(100_000, Some(102_000))), Level::Ok, "clocks differ a little");
        assert_eq!(level(clock(10_000_000, Some(1))), Level::Warn);
        assert_eq!(level(clock(0, None)), Level::Warn);
        assert_eq!(level(nat(None)), Level::Warn);
        let busy = probes::Port { flag: "--http", address: "a".into(), outcome: Err(probes::Busy::Taken(None)) };
        assert_eq!(level(listens(busy, true)), Level::Ok, "the running node's");
        let seen = |usable, driver: Option<&str>, serves, cpu| {
            let seen = gpu(probes::Gpu { usable, driver: driver.map(Into::into), serves }, cpu);
            (seen.level, seen.found)
        };
        let (card, old) = (|| Ok("H200".to_string()), || Err(Some("it is too old".to_string())));
        let (both, half) = (seen(true, Some("580"), card(), false), seen(false, Some("580"), card(), false));
        assert_eq!(both, (Level::Ok, "H200 trains and serves text, driver 580".into()));
        assert_eq!(half, (Level::Warn, "H200 serves text, driver 580, but libtorch sees no GPU to train on".into()));
        assert_eq!(seen(false, Some("520"), old(), false), (Level::Warn, "it can't serve text: it is too old".into()));
        assert_eq!(seen(false, Some("580"), Err(None), false).0, Level::Warn);
        assert_eq!(
            (seen(false, None, Err(None), false).0, seen(true, Some("580"), card(), true).0),
            (Level::Ok, Level::Ok)
        );
    }
}

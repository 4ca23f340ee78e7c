//! What ships a node: the systemd unit, the container, the Debian package. They are held to what they name, and the package's program is started from
//! where the package puts it.

#![allow(clippy::unwrap_used, missing_docs)]

use ailo_node::{
    cli::{Cli, Command},
    config::Settings,
};
use clap::Parser;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The arguments of a program as the command line takes them.
fn parsed<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Cli {
    Cli::try_parse_from(std::iter::once("ailo-node").chain(arguments)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_unit_starts_what_the_program_understands_and_gives_it_no_more_than_it_needs() {
    let unit = text("config/ailo-node.service");
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        settings.entry(key).or_default().push(value);
    }
    let start = settings["ExecStart"][0].strip_prefix("/usr/bin/ailo-node ").unwrap();
    let Command::Run(run) = parsed(start.split_whitespace()).command else { panic!("{start}") };
    assert_eq!(run.config.as_deref(), Some(Path::new("/etc/ailo/node.toml")));
    assert_eq!(run.options.data_dir.as_deref(), Some(Path::new("/var/lib/ailo")));
    assert!(settings["TimeoutStopSec"][0].parse::<u64>().unwrap() > 5, "a node may take five seconds to stop");
    assert_eq!(settings["StateDirectory"], ["ailo"]);
    for (key, value) in [
        ("User", "ailo"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectControlGroups", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("DevicePolicy", "closed"),
        ("UMask", "0077"),
    ] {
        assert_eq!(settings.get(key).map(Vec::as_slice), Some([value].as_slice()), "{key}");
    }
    let families = settings["RestrictAddressFamilies"][0];
    assert!(families.contains("AF_INET6") && families.contains("AF_NETLINK"), "the swarm asks netlink for addresses");
}

/// An instruction of a Dockerfile and what follows it, lines that go on joined.
fn instructions(file: &str) -> Vec<(String, String)> {
    let joined = file.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_string(), b.trim().to_string())).collect()
}

#[test]
fn the_container_builds_in_one_stage_and_runs_in_another_as_nobody_special() {
    let all = instructions(&text("Dockerfile"));
    let known = [
        "FROM",
        "RUN",
        "WORKDIR",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ];
    assert!(all.iter().all(|(name, _)| known.contains(&name.as_str())), "{all:?}");
    let last = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    let (build, run) = all.split_at(last);
    let of = |name: &str| -> Vec<&str> {
        run.iter().filter(|(known, _)| known == name).map(|(_, rest)| rest.as_str()).collect()
    };
    assert!(build[0].1.ends_with("AS build"), "{build:?}");
    for (_, image) in all.iter().filter(|(name, _)| name == "FROM") {
        let image = image.split(' ').next().unwrap();
        assert!(image.split_once(':').is_some_and(|(_, tag)| tag != "latest"), "{image} has no version");
    }
    let version = text("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ").map(String::from));
    assert!(build[0].1.starts_with(&format!("rust:{}-", version.unwrap().trim_matches('"'))), "{}", build[0].1);
    assert!(build.iter().any(|(name, what)| name == "RUN" && what.contains("cargo build --locked --release")));
    assert!(of("COPY").iter().all(|copy| copy.starts_with("--from=build /")), "the sources stay in the first stage");
    for install in all.iter().filter(|(_, what)| what.contains("apt-get install")) {
        assert!(install.1.contains("--no-install-recommends") && install.1.contains("rm -rf /var/lib/apt/lists/*"));
    }
    let user = of("USER");
    assert!(user.len() == 1 && !user[0].starts_with('0') && !user[0].starts_with("root"), "{user:?}");
    assert_eq!(
        (of("VOLUME"), of("STOPSIGNAL"), of("EXPOSE")),
        (vec!["/var/lib/ailo"], vec!["SIGTERM"], vec!["8646/tcp"])
    );

    let list = |text: &str| -> Vec<String> { serde_json::from_str(text).unwrap() };
    let health = of("HEALTHCHECK")[0].split_once("CMD ").unwrap().1;
    assert!(matches!(parsed(list(health)[1..].iter().map(String::as_str)).command, Command::Status(_)));
    let (entry, command) = (list(of("ENTRYPOINT")[0]), list(of("CMD")[0]));
    assert_eq!(entry.last().map(String::as_str), Some("ailo-node"));
    let Command::Run(run) = parsed(command.iter().map(String::as_str)).command else { panic!("{command:?}") };
    Settings::resolve(&run).unwrap();
}

#[test]
fn the_debian_package_names_files_that_are_there_and_brings_what_the_unit_needs() {
    let manifest: toml::Value = toml::from_str(&text("node/Cargo.toml")).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut places = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let field = |i: usize| asset[i].as_str().unwrap();
        let (from, to, mode) = (field(0), field(1), field(2));
        let executable = from == "target/release/ailo-node";
        assert_eq!(mode, if executable { "755" } else { "644" }, "{from}");
        let made = executable || from.starts_with("../.libtorch/");
        assert!(made || root().join("node").join(from).is_file(), "{from} is not there");
        places.push(to.to_string());
    }
    for place in ["usr/bin/", "usr/lib/ailo/libtorch/", "etc/ailo/"] {
        assert!(places.iter().any(|to| to == place), "{place}");
    }
    let rpath = text("node/build.rs");
    assert!(rpath.contains("$ORIGIN/../lib/ailo/libtorch"), "the program looks for libtorch where the package puts it");
    let scripts = root().join("node").join(deb["maintainer-scripts"].as_str().unwrap());
    let made = fs::read_to_string(scripts.join("postinst")).unwrap();
    assert!(made.contains("adduser --system") && made.contains("#DEBHELPER#"), "{made}");
    let units = root().join("node").join(deb["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join("ailo-node.service").is_file());
}

#[test]
fn the_debian_package_brings_all_that_its_program_loads() {
    if !root().join(".libtorch/lib").exists() {
        println!("SKIPPED: this libtorch is not the one that is packaged");
        return;
    }
    let manifest: toml::Table = text("node/Cargo.toml").parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let place = tempfile::tempdir().unwrap();
    let put = |from: &Path, folder: &Path| {
        fs::create_dir_all(folder).unwrap();
        let to = folder.join(from.file_name().unwrap());
        let _ = fs::hard_link(from, &to).or_else(|_| fs::copy(from, &to).map(drop)); // What fails is missed below.
    };
    for asset in assets {
        let [from, to] = [0, 1].map(|i| asset[i].as_str().unwrap());
        if let Some(folder) = from.strip_suffix("/*.so*") {
            let libraries = fs::read_dir(root().join("node").join(folder)).unwrap().map(|entry| entry.unwrap().path());
            libraries.for_each(|library| put(&library, &place.path().join(to)));
        }
    }
    put(Path::new(env!("CARGO_BIN_EXE_ailo-node")), &place.path().join("usr/bin"));
    let mut program = process::Command::new(place.path().join("usr/bin/ailo-node"));
    program.arg("--version").env_remove("LD_LIBRARY_PATH").env("LD_TRACE_LOADED_OBJECTS", "1");
    let loads = String::from_utf8(program.output().unwrap().stdout).unwrap();
    assert!(!loads.contains("not found"), "{loads}");
    for name in ["libtorch_cpu.so", "libc10.so", "libcudart.so.13"] {
        let line = loads.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.contains("/lib/ailo/libtorch/"), "{name}: {loads}");
    }
    program.env_remove("LD_TRACE_LOADED_OBJECTS");
    let said = String::from_utf8(program.output().unwrap().stdout).unwrap();
    assert!(said.starts_with("ailo-node "), "{said}");
}

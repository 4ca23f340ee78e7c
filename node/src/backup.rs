//! `backup` and `restore`: what cannot be fetched again from the network, in one file.
//!
//! The file is a tar archive whose first entry, `manifest.json`, names every other one with its length and hash. Kept are the keys as
//! they lie there, the network file, the version of the layout, what the node is owed and may spend, and the journal of what it has
//! signed; with `--ledger` the blocks and snapshots too. The index, models and payloads are made or fetched anew.
//!
//! # Why a restored validator is not slashed
//!
//! Whoever signs two ballots of one height, round and step is slashed, so the journal refuses every rival of what it holds. A
//! backup's journal does not hold what was signed after it. But a node that has stopped can have signed nothing above the height that
//! the network was working on then, which is one more than it had decided. So whoever restores names the network's height *now*,
//! after the old node has stopped for good, and the restored journal forbids everything up to `MARGIN` heights above. The node
//! follows the chain until then, and validates after. The write-ahead log is not restored then: it belongs to a height that is
//! forbidden. Only where the node has not run since the backup are journal and log restored as they are, and with them the word that
//! its key has signed nothing yet. All of this is asked of whoever restores a node's key, whether or not the backup has a journal.

use crate::{
    cli::{BackupArgs, RestoreArgs},
    datadir::{self, DataDir, NODE_KEY, UNUSED},
    error::NodeError,
    genesis,
    output::say,
    progress::Progress,
    secrets,
};
use ailo_ledger::store::{ConsensusFiles, StoreError};
use ailo_protocol::{Address, Hash, NodeId, keys, keystore};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

/// What of a folder is kept, as far as it is there.
const KEPT: [&str; 14] = [
    "version",
    "network.toml",
    NODE_KEY,
    UNUSED,
    "wallet.json",
    "api-keys.json",
    "spent",
    "receipts",
    "charges",
    "series",
    "earned",
    "ledger/journal",
    "ledger/wal",
    "ledger/anchor",
];
/// And with `--ledger`.
const LEDGER: [&str; 2] = ["ledger/blocks", "ledger/snapshots"];
/// What belongs to the node's key, and to the height that it was working on.
const JOURNAL: &str = "ledger/journal";
const WAL: &str = "ledger/wal";
/// A restored journal forbids so many heights above the network's: the one that was under way, and some for a height that was read
/// from a node that lags.
const MARGIN: u64 = 16;
const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;
/// A manifest is at most this long, and names so many files.
const MAX_MANIFEST: u64 = 64 << 20;
const MAX_FILES: usize = 200_000;

/// The first entry of a backup.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    /// The layout of the folder.
    layout: u32,
    network: Option<Hash>,
    node: Option<NodeId>,
    wallet: Option<Address>,
    /// When it was made, milliseconds since 1970 (UTC).
    time_ms: u64,
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    bytes: u64,
    /// BLAKE3.
    hash: Hash,
}

/// Reads on, counts and hashes.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn entry(&self, path: &str) -> Entry {
        Entry { path: path.into(), bytes: self.bytes, hash: Hash(*self.hasher.finalize().as_bytes()) }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Writes a backup.
pub fn backup(args: &BackupArgs) -> Result<(), NodeError> {
    let (root, out) = (&args.data_dir, &args.out);
    if !root.join(NODE_KEY).exists() {
        return Err(NodeError::Usage(format!("{} is no node's folder: name one with --data-dir", root.display())));
    }
    let dir = DataDir::open(root)?; // nothing changes while it is held
    let mut names = Vec::new();
    for name in KEPT.iter().chain(LEDGER.iter().filter(|_| args.ledger)) {
        list(root, Path::new(name), &mut names)?;
    }
    let mut progress = Progress::count("files", 2 * names.len() as u64);
    let mut files = Vec::new();
    for name in &names {
        let path = root.join(name);
        let mut reader = Hashing::new(File::open(&path).map_err(|e| NodeError::file("read", &path, e))?);
        io::copy(&mut reader, &mut io::sink()).map_err(|e| NodeError::file("read", &path, e))?;
        files.push(reader.entry(name));
        progress.set(files.len() as u64);
    }
    let network = dir.path("network.toml");
    let public = |name: &str, kind| keystore::public(&dir.path(name), kind).ok();
    let manifest = Manifest {
        version: VERSION,
        layout: datadir::layout(root)?,
        network: network.exists().then(|| genesis::read(&network).map(|genesis| genesis.id())).transpose()?,
        node: public(NODE_KEY, keystore::Kind::Node),
        wallet: public("wallet.json", keystore::Kind::Wallet).map(|key| Address::from(&key)),
        time_ms: genesis::now_ms(),
        files,
    };
    let written = write(root, out, &manifest, &mut progress);
    drop(progress);
    if let Err((begun, e)) = written {
        if begun {
            let _ = fs::remove_file(out); // a part of a backup is none
        }
        return Err(e);
    }
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let (count, shown) = (manifest.files.len(), out.display());
    say(
        &json!({ "file": out, "files": count, "bytes": bytes, "node": manifest.node, "wallet": manifest.wallet }),
        format_args!("{count} files, {bytes} bytes, are in {shown}: it holds keys, so keep it as you keep them"),
    )
}

/// Says of an error whether it came after the file was made.
fn write(root: &Path, out: &Path, manifest: &Manifest, progress: &mut Progress) -> Result<(), (bool, NodeError)> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            (false, NodeError::Usage(format!("{} exists already: name another file", out.display())))
        }
        _ => (false, NodeError::file("create", out, e)),
    })?;
    let failed = |e| (true, NodeError::file("write", out, e));
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    let text = serde_json::to_vec_pretty(manifest).map_err(|e| failed(e.into()))?;
    let head = |bytes: u64| {
        let mut head = tar::Header::new_gnu();
        head.set_size(bytes);
        head.set_mode(0o600);
        head
    };
    archive.append_data(&mut head(text.len() as u64), MANIFEST, text.as_slice()).map_err(failed)?;
    for (done, entry) in (1..).zip(&manifest.files) {
        let path = root.join(&entry.path);
        let file = File::open(&path).map_err(|e| (true, NodeError::file("read", &path, e)))?;
        archive.append_data(&mut head(entry.bytes), &entry.path, file).map_err(failed)?;
        progress.set(manifest.files.len() as u64 + done);
    }
    let file =
        archive.into_inner().and_then(|buffer| buffer.into_inner().map_err(|e| e.into_error())).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    sync_folder(parent(out)).map_err(|e| (true, e))
}

/// The files at `name` in `root`, and below it.
fn list(root: &Path, name: &Path, names: &mut Vec<String>) -> Result<(), NodeError> {
    let path = root.join(name);
    let failed = |e| NodeError::file("read", &path, e);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(meta) if meta.is_dir() => {
            let mut below: Vec<PathBuf> = Vec::new();
            for entry in fs::read_dir(&path).map_err(failed)? {
                below.push(name.join(entry.map_err(failed)?.file_name()));
            }
            below.sort();
            below.iter().try_for_each(|name| list(root, name, names))
        }
        Ok(meta) if meta.is_file() => {
            let text = name.to_str().ok_or_else(|| {
                NodeError::Usage(format!("{} has a name that a backup can't hold: rename it", path.display()))
            })?;
            names.push(text.into());
            Ok(())
        }
        Ok(_) => Err(NodeError::Usage(format!("{} is no file: a backup holds files alone", path.display()))),
    }
}

/// Makes a folder of a backup.
pub fn restore(args: &RestoreArgs) -> Result<(), NodeError> {
    let (input, root) = (&args.input, &args.data_dir);
    // A disk of its own has that folder from the beginning.
    let is_ours = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != "lost+found");
    if fs::read_dir(root).is_ok_and(|mut files| files.any(is_ours)) {
        return Err(NodeError::Usage(format!(
            "{} holds something already: name a new folder with --data-dir",
            root.display()
        )));
    }
    let manifest = check(input)?;
    if manifest.layout > DataDir::layout() {
        return Err(NodeError::Usage(format!(
            "{} is of a newer ailo-node (layout {}): restore it with that",
            input.display(),
            manifest.layout
        )));
    }
    let has = |name: &str| manifest.files.iter().any(|file| file.path == name);
    if has(NODE_KEY) && !args.without_node_key && !args.not_run_since && args.network_height.is_none() {
        return Err(NodeError::Usage(
            "this node may have signed ballots since the backup, and one that signs otherwise again is slashed: name the network's \
             height now with --network-height (the old node must have stopped for good), or see --not-run-since and \
             --without-node-key in --help"
                .into(),
        ));
    }
    let left_out = |name: &str| match name {
        NODE_KEY | JOURNAL => args.without_node_key,
        UNUSED | WAL => !args.not_run_since,
        _ => false,
    };
    let made = !root.exists();
    datadir::make_folder(root)?;
    // Inside of it, which may be a disk of its own, and under another name: a part is never taken for the whole.
    let parts = root.join(format!(".restore-{}", hex::encode(&keys::random_bytes()[..8])));
    let outcome = datadir::make_folder(&parts)
        .and_then(|()| unpack(input, &parts, &manifest, &left_out))
        .and_then(|()| settle(args, &parts, &manifest))
        .and_then(|settled| move_up(&parts, root).map(|()| settled));
    let settled = outcome.inspect_err(|_| {
        let _ = fs::remove_dir_all(&parts); // what is left is in the way of nobody
        if made {
            let _ = fs::remove_dir(root);
        }
    })?;
    if made {
        sync_folder(parent(root))?;
    }
    let (count, shown) = (manifest.files.iter().filter(|file| !left_out(&file.path)).count(), root.display());
    let waits =
        settled.signs_above.map(|height| format!("; it signs nothing up to height {height}")).unwrap_or_default();
    let other = settled.new_node.map(|node| format!("; they have a new node key, {node}")).unwrap_or_default();
    say(
        &json!({ "folder": root, "files": count, "node": settled.new_node.or(manifest.node), "wallet": manifest.wallet,
                 "signs_above": settled.signs_above }),
        format_args!("{count} files are back in {shown}{waits}{other}"),
    )
}

/// What became of the node's key.
#[derive(Default)]
struct Settled {
    signs_above: Option<u64>,
    new_node: Option<NodeId>,
}

/// Sees to it that what was unpacked signs nothing that the old node may have signed.
fn settle(args: &RestoreArgs, parts: &Path, manifest: &Manifest) -> Result<Settled, NodeError> {
    if args.without_node_key {
        let passphrase = secrets::for_new()?;
        let key = datadir::make_node_key(parts, passphrase.as_ref().map(|it| it.as_str()))?;
        return Ok(Settled { new_node: Some(*key.public()), ..Settled::default() });
    }
    let Some(height) = args.network_height else { return Ok(Settled::default()) };
    let network = manifest.network.ok_or_else(|| {
        NodeError::Check(format!(
            "{} has a node's key, but no network that it may have signed for: take another backup, or restore --without-node-key",
            args.input.display()
        ))
    })?;
    let ledger = parts.join("ledger");
    datadir::make_folder(&ledger)?;
    let told = match ConsensusFiles::last_signed(&ledger, network) {
        // The new one forbids what it forbade, if the height is right.
        Err(StoreError::DamagedJournal { .. }) => {
            let path = parts.join(JOURNAL);
            fs::remove_file(&path).map_err(|e| NodeError::file("remove", &path, e))?;
            0
        }
        told => told?,
    };
    let height = told.max(height).saturating_add(MARGIN);
    ConsensusFiles::forbid_to(&ledger, network, height)?; // in a new journal, where the backup has none
    Ok(Settled { signs_above: Some(height), ..Settled::default() })
}

/// Gives what was unpacked its place, once it is safely on disk; the node's key comes last, and a folder without it is no node's.
fn move_up(parts: &Path, root: &Path) -> Result<(), NodeError> {
    sync_below(parts)?;
    let failed = |e| NodeError::file("read", parts, e);
    let entries: io::Result<Vec<_>> = fs::read_dir(parts).and_then(|all| all.map(|one| Ok(one?.file_name())).collect());
    let mut names = entries.map_err(failed)?;
    names.sort_by_key(|name| name == NODE_KEY);
    for (done, name) in names.iter().enumerate() {
        let before = if name == NODE_KEY { sync_folder(root) } else { Ok(()) };
        let moved = before.and_then(|()| {
            let place = root.join(name);
            fs::rename(parts.join(name), &place).map_err(|e| NodeError::file("create", &place, e))
        });
        if moved.is_err() {
            for name in &names[..done] {
                let _ = fs::rename(root.join(name), parts.join(name)); // to be removed with the rest
            }
            return moved;
        }
    }
    fs::remove_dir(parts).map_err(|e| NodeError::file("remove", parts, e))?;
    sync_folder(root)
}

/// Brings the names of files to disk, those of the deepest folders first.
fn sync_below(folder: &Path) -> Result<(), NodeError> {
    for entry in fs::read_dir(folder).map_err(|e| NodeError::file("read", folder, e))? {
        let path = entry.map_err(|e| NodeError::file("read", folder, e))?.path();
        if path.is_dir() {
            sync_below(&path)?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), NodeError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| NodeError::file("write", folder, e))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads all of a backup, and gives its manifest if every hash holds.
fn check(input: &Path) -> Result<Manifest, NodeError> {
    walk(input, &mut |_, _| Ok(()))
}

fn unpack(input: &Path, into: &Path, expected: &Manifest, left_out: &dyn Fn(&str) -> bool) -> Result<(), NodeError> {
    let found = walk(input, &mut |name, bytes| {
        if left_out(name) {
            return Ok(());
        }
        let path = into.join(name);
        let failed = |e| NodeError::file("write", &path, e);
        let folder = path.parent().unwrap_or(into);
        datadir::make_folder(folder)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        io::copy(bytes, &mut file).map_err(failed)?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).and_then(|()| file.sync_all()).map_err(failed)
    })?;
    match found.files == expected.files {
        true => Ok(()),
        false => Err(NodeError::Check(format!("{} has changed while it was read: try again", input.display()))),
    }
}

/// Hands out each file of a backup, and compares what was read with the manifest.
fn walk(
    input: &Path,
    take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), NodeError>,
) -> Result<Manifest, NodeError> {
    let damaged =
        |why: &str| NodeError::Check(format!("{} is no whole backup ({why}): use another one", input.display()));
    let file = File::open(input).map_err(|e| NodeError::file("read", input, e))?;
    let mut archive = tar::Archive::new(io::BufReader::new(file));
    let mut entries = archive.entries().map_err(|e| damaged(&e.to_string()))?;
    let first = entries.next().ok_or_else(|| damaged("it is empty"))?.map_err(|e| damaged(&e.to_string()))?;
    if *first.path_bytes() != *MANIFEST.as_bytes() {
        return Err(damaged("its manifest is missing"));
    }
    let mut text = Vec::new();
    first.take(MAX_MANIFEST).read_to_end(&mut text).map_err(|e| damaged(&e.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| damaged(&format!("its manifest: {e}")))?;
    if manifest.version != VERSION || manifest.files.len() > MAX_FILES {
        return Err(damaged("another version has made it"));
    }
    let mut progress = Progress::count("files", manifest.files.len() as u64);
    for (done, expected) in (1..).zip(&manifest.files) {
        let name = &expected.path;
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() {
            return Err(damaged("it names a file outside the folder"));
        }
        let entry = entries.next().ok_or_else(|| damaged(&format!("{name} is missing")))?;
        let entry = entry.map_err(|e| damaged(&e.to_string()))?;
        if *entry.path_bytes() != *name.as_bytes() || !entry.header().entry_type().is_file() {
            return Err(damaged(&format!("{name} is missing")));
        }
        let mut reader = Hashing::new(entry);
        take(name, &mut reader)?;
        io::copy(&mut reader, &mut io::sink()).map_err(|e| damaged(&e.to_string()))?;
        if reader.entry(name) != *expected {
            return Err(damaged(&format!("{name} is not what was kept")));
        }
        progress.set(done);
    }
    match entries.next() {
        None => Ok(manifest),
        Some(_) => Err(damaged("it holds more than its manifest names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_protocol::keystore::Kind;

    struct Case {
        dir: tempfile::TempDir,
        node: NodeId,
        network: Hash,
    }

    impl Case {
        fn new() -> Case {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("node");
            let node = DataDir::open(&root).unwrap();
            let key = node.key(Kind::Node).unwrap();
            node.key(Kind::Wallet).unwrap();
            let data = ailo_training::dataset::Dataset::embedded();
            let wallet = Address::from(key.public());
            let founder = ailo_protocol::genesis::Founder { node: *key.public(), wallet, validator: true };
            let genesis = genesis::found("test", 1, vec![founder], &data, genesis::local_params(1, 0)).unwrap();
            genesis::write(&root.join("network.toml"), &genesis).unwrap();
            fs::create_dir_all(root.join("receipts/deep")).unwrap();
            fs::write(root.join("receipts/deep/one"), b"owed").unwrap();
            fs::write(root.join("model/big.state"), b"fetched again").unwrap();
            ConsensusFiles::forbid_to(&root.join("ledger"), genesis.id(), 40).unwrap();
            fs::write(root.join("ledger/wal"), b"of height 41").unwrap();
            Case { dir, node: *key.public(), network: genesis.id() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn backup(&self) -> Result<(), NodeError> {
            backup(&BackupArgs { data_dir: self.path("node"), ledger: false, out: self.path("kept.tar") })
        }

        fn restore(&self, to: &str, change: impl FnOnce(&mut RestoreArgs)) -> Result<(), NodeError> {
            let mut args = RestoreArgs {
                input: self.path("kept.tar"),
                data_dir: self.path(to),
                network_height: None,
                not_run_since: false,
                without_node_key: false,
            };
            change(&mut args);
            restore(&args)
        }
    }

    #[test]
    fn a_restored_folder_has_the_same_keys_and_signs_nothing_that_the_old_one_may_have_signed() {
        let case = Case::new();
        case.backup().unwrap();
        let unsaid = case.restore("again", |_| {}).unwrap_err().to_string();
        assert!(unsaid.contains("--network-height") && !case.path("again").exists(), "{unsaid}");

        case.restore("again", |args| args.network_height = Some(100)).unwrap();
        let again = case.path("again");
        assert_eq!(keystore::public(&again.join("node.json"), Kind::Node).unwrap(), case.node);
        assert_eq!(fs::metadata(again.join("node.json")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(again.join("receipts/deep/one")).unwrap(), b"owed");
        assert_eq!(ConsensusFiles::last_signed(&again.join("ledger"), case.network).unwrap(), 100 + MARGIN);
        assert!(!again.join("ledger/wal").exists(), "the log is of a height that is forbidden now");
        assert!(!again.join("model/big.state").exists());
        DataDir::open(&again).unwrap();

        case.restore("lower", |args| args.network_height = Some(7)).unwrap();
        let last = ConsensusFiles::last_signed(&case.path("lower/ledger"), case.network).unwrap();
        assert_eq!(last, 40 + MARGIN, "what the journal knows counts whatever is said");
    }

    #[test]
    fn a_node_that_has_not_run_since_comes_back_as_it_was_and_another_node_without_its_key() {
        let case = Case::new();
        case.backup().unwrap();
        case.restore("moved", |args| args.not_run_since = true).unwrap();
        for name in [JOURNAL, WAL] {
            let of = |folder: &str| fs::read(case.path(folder).join(name)).unwrap();
            assert!(of("moved") == of("node"), "{name}");
        }
        case.restore("other", |args| args.without_node_key = true).unwrap();
        let other = case.path("other");
        assert!(!other.join(JOURNAL).exists() && other.join("wallet.json").exists());
        let node = keystore::public(&other.join(NODE_KEY), Kind::Node).unwrap();
        assert!(node != case.node && DataDir::open(&other).unwrap().is_unused(&node), "it may make a journal");
    }

    #[test]
    fn a_node_key_is_never_restored_unasked_and_without_a_good_journal_as_much_is_forbidden() {
        let case = Case::new();
        let journal = case.path("node").join(JOURNAL);
        fs::write(&journal, b"damaged").unwrap();
        case.backup().unwrap();
        case.restore("mended", |args| args.network_height = Some(100)).unwrap();
        assert_eq!(ConsensusFiles::last_signed(&case.path("mended/ledger"), case.network).unwrap(), 100 + MARGIN);

        fs::remove_file(journal).unwrap();
        fs::remove_file(case.path("kept.tar")).unwrap();
        case.backup().unwrap();
        let unsaid = case.restore("again", |_| {}).unwrap_err().to_string();
        assert!(unsaid.contains("--network-height") && !case.path("again").exists(), "{unsaid}");
        case.restore("again", |args| args.network_height = Some(100)).unwrap();
        let again = case.path("again");
        assert_eq!(ConsensusFiles::last_signed(&again.join("ledger"), case.network).unwrap(), 100 + MARGIN);
        assert!(!DataDir::open(&again).unwrap().is_unused(&case.node), "it may have signed");
        case.restore("moved", |args| args.not_run_since = true).unwrap();
        assert!(DataDir::open(&case.path("moved")).unwrap().is_unused(&case.node), "as it was");
    }

    #[test]
    fn an_empty_disk_or_a_linked_folder_is_restored_into_and_what_lies_beside_is_left_alone() {
        let case = Case::new();
        case.backup().unwrap();
        fs::create_dir_all(case.path("disk/lost+found")).unwrap();
        std::os::unix::fs::symlink(case.path("disk"), case.path("link")).unwrap();
        fs::create_dir(case.path("link.part")).unwrap();
        fs::write(case.path("link.part/mine"), b"kept").unwrap();
        case.restore("link", |args| args.not_run_since = true).unwrap();
        assert!(fs::symlink_metadata(case.path("link")).unwrap().is_symlink());
        assert_eq!(keystore::public(&case.path("disk").join(NODE_KEY), Kind::Node).unwrap(), case.node);
        assert_eq!(fs::read(case.path("link.part/mine")).unwrap(), b"kept");
        let mut names = fs::read_dir(case.path("disk")).unwrap().map(|file| file.unwrap().file_name());
        assert!(names.all(|name| !name.to_string_lossy().starts_with('.')), "no part is left");
        case.restore("new", |args| args.not_run_since = true).unwrap();
        assert_eq!(fs::metadata(case.path("new")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn nothing_is_overwritten_and_a_running_node_is_left_alone() {
        let case = Case::new();
        let held = DataDir::open(&case.path("node")).unwrap();
        assert!(case.backup().unwrap_err().to_string().contains("another ailo-node runs"));
        drop(held);
        case.backup().unwrap();
        let kept = fs::read(case.path("kept.tar")).unwrap();
        assert!(case.backup().unwrap_err().to_string().contains("exists already"));
        assert!(fs::read(case.path("kept.tar")).unwrap() == kept);
        let refused = case.restore("node", |args| args.not_run_since = true).unwrap_err().to_string();
        assert!(refused.contains("holds something already"), "{refused}");
    }

    #[test]
    fn a_backup_with_any_byte_changed_or_cut_restores_nothing() {
        let case = Case::new();
        case.backup().unwrap();
        let good = fs::read(case.path("kept.tar")).unwrap();
        let at = good.windows(4).position(|window| window == b"owed").unwrap();
        let mut changed = good.clone();
        changed[at] ^= 1;
        for bytes in [changed, good[..good.len() / 2].to_vec(), Vec::new(), b"no archive".repeat(100)] {
            fs::write(case.path("kept.tar"), &bytes).unwrap();
            let error = case.restore("again", |args| args.not_run_since = true).unwrap_err().to_string();
            assert!(error.contains("no whole backup") && !case.path("again").exists(), "{error}");
        }
    }

    #[test]
    fn a_backup_that_names_files_outside_the_folder_is_refused() {
        let case = Case::new();
        case.backup().unwrap();
        for name in ["../outside", "/tmp/outside", ""] {
            let manifest = Manifest {
                version: VERSION,
                layout: 1,
                network: None,
                node: None,
                wallet: None,
                time_ms: 0,
                files: vec![Entry { path: name.into(), bytes: 0, hash: Hash(*blake3::hash(b"").as_bytes()) }],
            };
            let text = serde_json::to_vec(&manifest).unwrap();
            let mut archive = tar::Builder::new(Vec::new());
            let mut head = tar::Header::new_gnu();
            head.set_size(text.len() as u64);
            archive.append_data(&mut head, MANIFEST, text.as_slice()).unwrap();
            fs::write(case.path("kept.tar"), archive.into_inner().unwrap()).unwrap();
            let error = case.restore("again", |_| {}).unwrap_err().to_string();
            assert!(error.contains("outside the folder"), "{name}: {error}");
        }
    }
}

//! A node's folder: its layout and the version of that, its lock against a second process, and small files written atomically.
//!
//! ```text
//! lock            held while a node runs
//! version         of this layout: see docs/upgrading.md
//! network.toml    the network's founding document
//! node.json       node key (0600)         wallet.json   wallet key (0600)
//! node.unused     the node key that has signed nothing yet, until there is a signature journal
//! ledger/         block log, snapshots, consensus WAL, signature journal, index, anchor
//! model/          model states by root    payloads/     contributions by hash
//! logs/           what the node has logged (0600), bounded
//! api-keys.json   hashes of API keys (0600)
//! rpc             address of JSON-RPC while a node runs
//! operator.token  what tells its operator from others meanwhile (0600)
//! ```

use crate::{error::NodeError, output, secrets};
use ailo_protocol::{
    Address, Keypair, NodeId,
    keystore::{self, Kind},
};
use std::{
    fmt::Write,
    fs::{self, DirBuilder, File},
    io::IsTerminal,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Makes the next layout of one.
type Migration = fn(&Path) -> Result<(), NodeError>;

/// The first makes layout 2 of layout 1, and so on: docs/upgrading.md says how they are written.
const MIGRATIONS: &[Migration] = &[];

/// The file that names the layout.
const VERSION: &str = "version";
/// What the words of a wallet are for.
pub const WALLET_WORDS: &str =
    "These 24 words restore the wallet. Write them down, keep them off-line, show them to nobody:";
/// The node's key.
pub const NODE_KEY: &str = "node.json";
/// The node key that was made here and has signed nothing yet: for it alone a signature journal is made. A folder that lacks both this
/// and the journal may be one whose keys were restored, and the key may have signed anything.
pub const UNUSED: &str = "node.unused";

/// A node's folder that this process holds the lock of.
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// Where a node's folder lies when none is named: `${XDG_DATA_HOME:-~/.local/share}/ailo/NAME`.
pub fn default_dir(name: &str) -> Result<PathBuf, NodeError> {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .ok_or_else(|| {
            NodeError::Usage("neither HOME nor XDG_DATA_HOME is set: name a folder with --data-dir".into())
        })?;
    Ok(base.join("ailo").join(name))
}

impl DataDir {
    /// Creates the folder where needed and locks it.
    pub fn open(root: &Path) -> Result<DataDir, NodeError> {
        for dir in [root.to_path_buf(), root.join("ledger"), root.join("model"), root.join("payloads")] {
            make_folder(&dir)?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).map_err(|e| NodeError::file("create", &path, e))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            NodeError::Usage(format!(
                "another ailo-node runs in {}: stop it first, or choose another folder with --data-dir",
                root.display()
            ))
        })?;
        bring_up(root, MIGRATIONS)?;
        // What a killed process left half written; nobody else writes here while the lock is held.
        for dir in [root.to_path_buf(), root.join("model"), root.join("payloads")] {
            let parts = fs::read_dir(&dir).into_iter().flatten().flatten().map(|file| file.path());
            for part in parts.filter(|path| path.extension().is_some_and(|e| e == "part")) {
                fs::remove_file(&part).map_err(|e| NodeError::file("remove", &part, e))?;
            }
        }
        Ok(DataDir { root: root.to_path_buf(), _lock: lock })
    }

    /// The layout that this program writes.
    pub fn layout() -> u32 {
        newest(MIGRATIONS)
    }

    /// The node's or the wallet's key, made if there is none yet.
    pub fn key(&self, kind: Kind) -> Result<Keypair, NodeError> {
        let path = self.path(match kind {
            Kind::Node => NODE_KEY,
            Kind::Wallet => "wallet.json",
        });
        if path.exists() {
            return secrets::load(&path, kind);
        }
        let passphrase = secrets::for_new()?;
        let passphrase = passphrase.as_ref().map(|it| it.as_str());
        match kind {
            Kind::Node => make_node_key(&self.root, passphrase),
            Kind::Wallet => {
                let words = keystore::new_phrase();
                let key = keystore::key_from_phrase(&words)?;
                keystore::create(&path, kind, &key, passphrase)?;
                wallet_made(&path, &words)?;
                Ok(key)
            }
        }
    }

    /// Whether this node key was made here and has signed nothing yet.
    pub fn is_unused(&self, key: &NodeId) -> bool {
        fs::read_to_string(self.path(UNUSED)).is_ok_and(|text| text.trim() == key.to_string())
    }

    /// Notes that the node's key may sign from now on, which its journal keeps in mind.
    pub fn note_use(&self) -> Result<(), NodeError> {
        let path = self.path(UNUSED);
        match fs::remove_file(&path).and_then(|()| File::open(&self.root)?.sync_all()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(NodeError::file("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// The wallet that the node works for: the one named, or the folder's, made if there is none; with its key if that
    /// lies here.
    pub fn wallet(&self, named: Option<Address>) -> Result<(Address, Option<Keypair>), NodeError> {
        if let Some(named) = named.filter(|_| !self.path("wallet.json").exists()) {
            return Ok((named, None));
        }
        let key = self.key(Kind::Wallet)?;
        let own = Address::from(key.public());
        Ok(match named {
            Some(other) if other != own => (other, None),
            _ => (own, Some(key)),
        })
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Shows the words of a wallet that was made by the way to a person who sits there; elsewhere they would stand in a log for ever.
fn wallet_made(path: &Path, words: &str) -> Result<(), NodeError> {
    if output::is_json() || !std::io::stdout().is_terminal() {
        tracing::warn!(
            "a new wallet is in {}, and nobody was shown its words: back it up (`ailo-node backup`, or a copy of the file)",
            path.display()
        );
        return Ok(());
    }
    output::show_secret(words, |out| {
        writeln!(out, "a new wallet is in {}\n\n{WALLET_WORDS}\n\n{words}\n", path.display())
    })
}

/// Makes a folder, with those above it, that nobody else looks into; one that is there stays as it is.
pub fn make_folder(path: &Path) -> Result<(), NodeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| NodeError::file("create the folder", path, e))
}

/// Makes a node key in `root`, where there is none, and says before that it is new: a crash between leaves a name that no key has.
pub fn make_node_key(root: &Path, passphrase: Option<&str>) -> Result<Keypair, NodeError> {
    let key = Keypair::generate();
    write_atomically(&root.join(UNUSED), key.public().to_string().as_bytes())?;
    keystore::create(&root.join(NODE_KEY), Kind::Node, &key, passphrase)?;
    Ok(key)
}

fn newest(migrations: &[Migration]) -> u32 {
    1 + migrations.len() as u32
}

/// The layout of a folder; of one without a node in it the newest, and the first where nothing says so.
pub fn layout(root: &Path) -> Result<u32, NodeError> {
    layout_among(root, MIGRATIONS)
}

fn layout_among(root: &Path, migrations: &[Migration]) -> Result<u32, NodeError> {
    let path = root.join(VERSION);
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok().filter(|version| *version > 0).ok_or_else(|| {
            NodeError::Usage(format!(
                "{} does not name a version: restore the folder from a backup, or choose another one with --data-dir",
                path.display()
            ))
        })?,
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(NodeError::file("read", &path, e)),
        Err(_) if root.join(NODE_KEY).exists() => 1, // made before there was such a file
        Err(_) => newest(migrations),
    };
    match found > newest(migrations) {
        true => Err(NodeError::Usage(format!(
            "the folder {} has layout {found}, which a newer ailo-node has made, and this one knows layouts up to {}: install the newer \
             one, or choose another folder with --data-dir",
            root.display(),
            newest(migrations)
        ))),
        false => Ok(found),
    }
}

/// Gives the folder the newest layout, step by step; each is noted as soon as it is made, so a crash repeats one at most.
fn bring_up(root: &Path, migrations: &[Migration]) -> Result<(), NodeError> {
    let found = layout_among(root, migrations)?;
    let note = |version: u32| write_atomically(&root.join(VERSION), format!("{version}\n").as_bytes());
    for (version, migrate) in (2..).zip(migrations).skip(found as usize - 1) {
        tracing::info!(version, folder = %root.display(), "bringing the folder's layout up to date");
        migrate(root)?;
        note(version)?;
    }
    if root.join(VERSION).exists() { Ok(()) } else { note(found) }
}

/// Writes a file so that a crash leaves the old one or the new one, never a part.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    ailo_protocol::file::write_atomically(path, [bytes]).map_err(|e| NodeError::file("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains("another ailo-node runs") && refused.contains("--data-dir"), "{refused}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_node_key_is_new_until_it_may_sign_and_where_it_was_made_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (made, copied) = (dir.path().join("made"), dir.path().join("copied"));
        let open = |root: &Path| DataDir::open(root).unwrap();
        let key = open(&made).key(Kind::Node).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(open(&made).is_unused(key.public()));
        assert!(!open(&made).is_unused(Keypair::generate().public()), "another key in its place is not new");

        // A copy of the keys alone says nothing of what they have signed.
        drop(open(&copied));
        fs::copy(made.join(NODE_KEY), copied.join(NODE_KEY)).unwrap();
        assert_eq!(open(&copied).key(Kind::Node).unwrap().public(), key.public());
        assert!(!open(&copied).is_unused(key.public()));

        open(&made).note_use().unwrap();
        open(&made).note_use().unwrap();
        assert_eq!(open(&made).key(Kind::Node).unwrap().public(), key.public());
        assert!(!open(&made).is_unused(key.public()));
    }

    #[test]
    fn a_folder_has_a_version_from_its_first_use_and_one_of_the_future_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let path = dir.path().join(VERSION);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        for (text, why) in [("2", "newer"), ("x", "does not name a version"), ("0", "does not name a version")] {
            fs::write(&path, text).unwrap();
            let refused = DataDir::open(dir.path()).err().unwrap().to_string();
            assert!(refused.contains(why) && refused.contains("--data-dir"), "{text}: {refused}");
        }
    }

    #[test]
    fn an_old_folder_is_brought_up_step_by_step_once_and_a_new_one_not_at_all() {
        const STEPS: &[Migration] = &[
            |root| write_atomically(&root.join("two"), b"2"),
            |root| {
                let two = fs::read(root.join("two")).map_err(|e| NodeError::io("read two", e))?;
                write_atomically(&root.join("three"), &two)
            },
        ];
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), "").unwrap(); // of before there were versions
        bring_up(dir.path(), STEPS).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(VERSION)).unwrap(), "3\n");
        assert_eq!(fs::read(dir.path().join("three")).unwrap(), b"2");
        fs::remove_file(dir.path().join("three")).unwrap();
        bring_up(dir.path(), STEPS).unwrap();
        assert!(!dir.path().join("three").exists(), "what is done is not done again");
        fs::write(dir.path().join(VERSION), "2").unwrap();
        bring_up(dir.path(), STEPS).unwrap();
        assert!(dir.path().join("three").exists(), "what is left is done");

        let new = tempfile::tempdir().unwrap();
        bring_up(new.path(), STEPS).unwrap();
        assert_eq!(fs::read_to_string(new.path().join(VERSION)).unwrap(), "3\n");
        assert!(!new.path().join("two").exists());
    }
}

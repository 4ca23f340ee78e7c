//! API keys: the file that keeps them, and the commands that make, list and revoke them.
//!
//! A key is 256 random bits and shown once. The file holds its hash, under a domain of its own: nobody guesses that many bits, so a slow hash
//! would protect nothing more. It has mode 0600, is replaced as a whole, and a running node reads it again when it changes.
//!
//! ```json
//! { "version": 1, "keys": [{ "name": "ann", "hash": "<64 hex>", "created": 1790000000, "limits": { "requests_per_minute": 60 } }] }
//! ```

use super::limits::Limits;
use crate::{
    cli::{ApiKeysCommand, KeyFileArgs},
    datadir,
    error::NodeError,
    output::{say, show, show_secret},
};
use ailo_protocol::{Hash, file::write_private, keys};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The file's name in a node's folder.
pub const FILE: &str = "api-keys.json";
/// What each key begins with, so that people and scanners know one when they see it.
pub(super) const PREFIX: &str = "sk-ailo-";

const VERSION: u32 = 1;
const DOMAIN: &str = "ailo v1 API key";
/// Bytes of the file, keys in it, and bytes of a name, at most.
const MAX_FILE: u64 = 1 << 20;
const MAX_KEYS: usize = 1024;
const MAX_NAME: usize = 64;

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// For people.
    pub name: String,
    /// The key's hash.
    pub hash: Hash,
    /// Seconds since 1970.
    pub created: u64,
    /// What may be asked for with it.
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    keys: Vec<Entry>,
}

/// Tells one state of the file from the next, its mode included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64, u64);

/// The hash of a key.
pub(super) fn hash(key: &str) -> Hash {
    Hash(blake3::derive_key(DOMAIN, key.as_bytes()))
}

/// Which state the file is in; none where there is no file.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp(meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len()))
}

/// Reads the keys; a file that is not there holds none.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, NodeError> {
    let bad = |why: &dyn std::fmt::Display| {
        NodeError::Usage(format!("the file of API keys {} can't be used: {why}", path.display()))
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(NodeError::file("read", path, e)),
    };
    let meta = file.metadata().map_err(|e| NodeError::file("read", path, e))?;
    if meta.mode() & 0o077 != 0 {
        return Err(bad(&format!("other users can reach it, so run `chmod 600 {}`", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| NodeError::file("read", path, e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(bad(&"it is longer than 1 MiB"));
    }
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| bad(&e))?;
    if file.version != VERSION || file.keys.len() > MAX_KEYS {
        return Err(bad(&format!("it needs version {VERSION} and {MAX_KEYS} keys at most")));
    }
    Ok(file.keys)
}

/// Reads the file, changes the keys and writes them, alone among the commands that do so.
fn change<T>(path: &Path, act: impl FnOnce(&mut Vec<Entry>) -> Result<T, NodeError>) -> Result<T, NodeError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| NodeError::file("create the folder", folder, e))?;
    let lock = File::open(folder).map_err(|e| NodeError::file("open the folder", folder, e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| NodeError::file("lock the folder", folder, e.into()))?;
    let mut keys = read(path)?;
    let done = act(&mut keys)?;
    let text = serde_json::to_vec_pretty(&KeyFile { version: VERSION, keys });
    let text = text.map_err(|e| NodeError::file("write", path, e.into()))?;
    let written = write_private(path, &text);
    written.map_err(|e| NodeError::file("write", path, e))?;
    Ok(done)
}

/// Makes a key. This is the only time that it is seen.
fn create(path: &Path, name: &str, limits: Limits) -> Result<String, NodeError> {
    if name.trim().is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(NodeError::Usage(format!("--name is a name of 1 to {MAX_NAME} bytes for people, in one line")));
    }
    let key = format!("{PREFIX}{}", hex::encode(keys::random_bytes()));
    let entry = Entry { name: name.into(), hash: hash(&key), created: now(), limits };
    change(path, |keys| {
        if keys.iter().any(|key| key.name == name) {
            return Err(NodeError::Usage(format!(
                "there is a key named '{name}': revoke it first, or choose another name"
            )));
        }
        if keys.len() >= MAX_KEYS {
            return Err(NodeError::Usage(format!("there are {MAX_KEYS} keys: revoke some first")));
        }
        keys.push(entry);
        Ok(())
    })?;
    Ok(key)
}

fn revoke(path: &Path, name: &str) -> Result<(), NodeError> {
    change(path, |keys| {
        let count = keys.len();
        keys.retain(|key| key.name != name);
        if keys.len() == count {
            return Err(NodeError::Usage(format!(
                "no key in {} is named '{name}': `ailo-node api-keys list` shows all",
                path.display()
            )));
        }
        Ok(())
    })
}

/// `ailo-node api-keys ...`
pub fn command(command: ApiKeysCommand) -> Result<(), NodeError> {
    match command {
        ApiKeysCommand::Create { name, requests_per_minute, tokens_per_day, concurrent, alc_per_day, file } => {
            let path = path(&file)?;
            let key = create(&path, &name, Limits { requests_per_minute, tokens_per_day, concurrent, alc_per_day })?;
            // The key alone goes to standard output, for a pipe.
            eprintln!("The key of '{name}', shown this once; {} keeps its hash:", path.display());
            show_secret(&json!({ "name": name, "key": key, "file": path }), |out| writeln!(out, "{key}"))
        }
        ApiKeysCommand::List { file } => {
            let path = path(&file)?;
            let keys = read(&path)?;
            show(&json!({ "keys": keys }), |out| {
                if keys.is_empty() {
                    writeln!(out, "no keys in {}", path.display())?;
                }
                for key in &keys {
                    let limit =
                        |value: Option<u64>, what| value.map(|value| format!(", {value} {what}")).unwrap_or_default();
                    writeln!(
                        out,
                        "{}: made {} ago{}{}{}{}",
                        key.name,
                        age(now().saturating_sub(key.created)),
                        limit(key.limits.requests_per_minute.map(|n| n.get().into()), "requests a minute"),
                        limit(key.limits.tokens_per_day.map(|n| n.get()), "tokens a day"),
                        limit(key.limits.concurrent.map(|n| n.get().into()), "texts at once"),
                        key.limits.alc_per_day.map(|alc| format!(", {alc} ALC a day")).unwrap_or_default(),
                    )?;
                }
                Ok(())
            })
        }
        ApiKeysCommand::Revoke { name, file } => {
            revoke(&path(&file)?, &name)?;
            say(&json!({ "revoked": name }), format_args!("revoked: '{name}' is refused within a second"))
        }
    }
}

fn path(args: &KeyFileArgs) -> Result<PathBuf, NodeError> {
    match (&args.file, &args.data_dir) {
        (Some(file), _) => Ok(file.clone()),
        (None, Some(dir)) => Ok(dir.join(FILE)),
        (None, None) => Ok(datadir::default_dir("dev")?.join(FILE)),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_listed_and_revoked_and_never_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join(FILE);
        assert!(read(&path).unwrap().is_empty() && stamp(&path).is_none());
        let limits = Limits { concurrent: std::num::NonZeroU32::new(2), ..Limits::default() };
        let key = create(&path, "ann", limits).unwrap();
        let before = stamp(&path);
        create(&path, "bob", Limits::default()).unwrap();
        assert_ne!(before, stamp(&path));

        let text = fs::read_to_string(&path).unwrap();
        assert!(key.starts_with(PREFIX) && key.len() == PREFIX.len() + 64 && !text.contains(&key[PREFIX.len()..]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no part is left over");
        let kept = read(&path).unwrap();
        assert_eq!((kept[0].hash, kept[0].limits), (hash(&key), limits));

        let twice = create(&path, "ann", Limits::default()).unwrap_err().to_string();
        assert!(twice.contains("revoke it first"), "{twice}");
        revoke(&path, "ann").unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        assert!(revoke(&path, "ann").unwrap_err().to_string().contains("no key"));
        for name in ["", " ", "a\nb", &"x".repeat(65)] {
            assert!(create(&path, name, Limits::default()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn commands_at_once_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let path = &path;
                scope.spawn(move || create(path, &format!("key {i}"), Limits::default()).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().len(), 8);
    }

    #[test]
    fn a_file_that_is_open_to_others_or_damaged_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(write("{}", 0o644).contains("chmod 600"));
        for text in ["", "{", "[]", r#"{"version":2,"keys":[]}"#, r#"{"version":1,"keys":[],"more":1}"#] {
            assert!(write(text, 0o600).contains(FILE), "{text}");
        }
        let zero = r#"{"version":1,"keys":[{"name":"a","hash":"00","created":0,"limits":{"concurrent":0}}]}"#;
        assert!(!write(zero, 0o600).is_empty());
        assert!(!write(&" ".repeat((1 << 20) + 1), 0o600).is_empty());
        assert_eq!(write(r#"{"version":1,"keys":[]}"#, 0o600), "");
    }
}

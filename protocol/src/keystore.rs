//! Key files of nodes and wallets, and the 24 words that restore a wallet.
//!
//! A key file is JSON with mode 0600:
//!
//! ```json
//! { "version": 1, "kind": "wallet", "address": "ailo1...", "public_key": "<64 hex>", "secret": "<64 hex>" }
//! ```
//!
//! `secret` is the ed25519 seed; `address` (wallets only) and `public_key` are for people and are checked against it.
//! A file appears whole or not at all, and is not read while other users may read it. Nothing replaces a file but
//! [`reseal`], which keeps its key.
//!
//! With a passphrase the file has version 2, and what the passphrase is stretched with:
//!
//! ```json
//! { ..., "secret": "<96 hex>", "seal": { "memory_kib": 65536, "passes": 3, "lanes": 4, "salt": "<32 hex>" } }
//! ```
//!
//! `secret` is then the seed under ChaCha20-Poly1305, with the key that Argon2id makes of passphrase and salt, for the public
//! key and nothing else. Each sealing draws a salt, so each key encrypts once, and the nonce is zero.
//!
//! The words are a BIP-39 phrase in English for 32 bytes of entropy, without a passphrase. The wallet's seed is
//! `BLAKE3-derive-key("ailo v1 wallet seed", entropy)`: 256 random bits need no stretching.

use crate::{Address, Keypair, PublicKey, keys};
use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInPlace};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::{Zeroize, Zeroizing};

const PLAIN: u32 = 1;
const SEALED: u32 = 2;
/// What is asked of whoever tries passphrases: 64 MiB, read and written three times (RFC 9106).
const SEAL: (u32, u32, u32) = (64 << 10, 3, 4);
/// And what a file may ask of whoever opens it: 1 GiB, and so on.
const MAX_SEAL: (u32, u32, u32) = (1 << 20, 16, 16);
/// Seed and tag.
const SEALED_BYTES: usize = 32 + 16;
const SEED_CONTEXT: &str = "ailo v1 wallet seed";
const WORDS: usize = 24;
/// A key file is at most this long.
const MAX_BYTES: u64 = 4096;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Runs a machine.
    Node,
    /// Owns coins.
    Wallet,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Node => "node",
            Kind::Wallet => "wallet",
        })
    }
}

/// Why a key can't be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// A key must never be lost by overwriting it.
    #[error("{0} exists already and is left untouched: move it away first, or choose another file")]
    Exists(PathBuf),
    /// No such file.
    #[error("there is no key file at {0}: create one, or name the right file")]
    Missing(PathBuf),
    /// Others may read the secret.
    #[error("{0} can be read by other users: run `chmod 600 {0}`")]
    Exposed(PathBuf),
    /// Not a key file, or a damaged one.
    #[error("{path} is not a usable key file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key for something else.
    #[error("{path} holds a {found} key, but a {expected} key is needed here")]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Kind,
        /// What was asked for.
        expected: Kind,
    },
    /// The key is there, but not without its passphrase.
    #[error(
        "{0} is locked by a passphrase: type it where it is asked for, or name a file that holds it in AILO_PASSPHRASE_FILE"
    )]
    Locked(PathBuf),
    /// Another passphrase, or a changed file.
    #[error("the passphrase does not open {0}: try again, or restore the wallet from its 24 words")]
    WrongPassphrase(PathBuf),
    /// Two that should be one.
    #[error("the two passphrases differ: try again")]
    Mistyped,
    /// The system says no.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The words are not a phrase. They are secret, so the message repeats none of them.
    #[error("these are not the words of a wallet: {0}")]
    Phrase(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    public_key: PublicKey,
    secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<Seal>,
}

/// How a passphrase becomes a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

impl Seal {
    fn new() -> Seal {
        let (memory_kib, passes, lanes) = SEAL;
        Seal { memory_kib, passes, lanes, salt: hex::encode(&keys::random_bytes()[..16]) }
    }

    /// The cipher that the passphrase opens; nothing where the numbers are none, or ask too much.
    fn cipher(&self, passphrase: &str) -> Option<ChaCha20Poly1305> {
        let (memory, passes, lanes) = MAX_SEAL;
        if self.memory_kib > memory || self.passes > passes || self.lanes > lanes {
            return None;
        }
        let (mut salt, mut key) = ([0; 16], Zeroizing::new([0; 32]));
        hex::decode_to_slice(&self.salt, &mut salt).ok()?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(passphrase.as_bytes(), &salt, key.as_mut()).ok()?;
        Some(ChaCha20Poly1305::new((&*key).into()))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Writes `key` to a new file at `path`, with the folders above it; sealed, if there is a passphrase.
pub fn create(path: &Path, kind: Kind, key: &Keypair, passphrase: Option<&str>) -> Result<(), KeystoreError> {
    let file = key_file(path, kind, key, passphrase)?;
    // A link fails where a file exists.
    store(path, &file, |written| {
        fs::hard_link(written, path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => KeystoreError::Exists(path.into()),
            _ => KeystoreError::Io { action: "create", path: path.into(), source: e },
        })
    })
}

/// Replaces a key file by one of the same key with another passphrase, or with none.
pub fn reseal(path: &Path, kind: Kind, key: &Keypair, passphrase: Option<&str>) -> Result<(), KeystoreError> {
    if public(path, kind)? != *key.public() {
        return Err(KeystoreError::Exists(path.into()));
    }
    let file = key_file(path, kind, key, passphrase)?;
    let io = |source| KeystoreError::Io { action: "replace", path: path.into(), source };
    let path = &fs::canonicalize(path).map_err(io)?; // a link stays, and its file is replaced
    store(path, &file, |written| fs::rename(written, path).map_err(io))
}

fn key_file(path: &Path, kind: Kind, key: &Keypair, passphrase: Option<&str>) -> Result<KeyFile, KeystoreError> {
    let seal = passphrase.map(|_| Seal::new());
    let secret = match (&seal, passphrase) {
        (Some(seal), Some(passphrase)) => {
            let failed = || KeystoreError::Io {
                action: "seal",
                path: path.into(),
                source: io::Error::other("there is too little memory"),
            };
            let cipher = seal.cipher(passphrase).ok_or_else(failed)?;
            let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_BYTES));
            bytes.extend_from_slice(&*key.seed());
            cipher.encrypt_in_place(&[0; 12].into(), &key.public().0, &mut *bytes).map_err(|_| failed())?;
            hex::encode(&*bytes)
        }
        _ => hex::encode(key.seed()),
    };
    Ok(KeyFile {
        version: if seal.is_some() { SEALED } else { PLAIN },
        kind,
        address: (kind == Kind::Wallet).then(|| Address::from(key.public())),
        public_key: *key.public(),
        secret,
        seal,
    })
}

/// Writes under another name, which `place` gives its own once it is on disk.
fn store(
    path: &Path,
    file: &KeyFile,
    place: impl FnOnce(&Path) -> Result<(), KeystoreError>,
) -> Result<(), KeystoreError> {
    let io = |action| move |source| KeystoreError::Io { action, path: path.into(), source };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io("create the folder of"))?;
    let text = Zeroizing::new(serde_json::to_string_pretty(file).map_err(io::Error::from).map_err(io("encode"))?);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", hex::encode(&keys::random_bytes()[..8])));
    let temporary = parent.join(name);
    let placed = write_new(&temporary, text.as_bytes()).map_err(io("write")).and_then(|()| place(&temporary));
    // A leftover is harmless: it has mode 0600, and a name that nobody reads.
    let _ = fs::remove_file(&temporary);
    placed?;
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(io("store the folder of"))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Reads the key of this kind from `path`; it must not be sealed.
pub fn load(path: &Path, kind: Kind) -> Result<Keypair, KeystoreError> {
    parse(&read(path)?, path, kind)
}

/// Reads the key of this kind that the passphrase opens.
pub fn unlock(path: &Path, kind: Kind, passphrase: &str) -> Result<Keypair, KeystoreError> {
    open(decode(&read(path)?, path, kind)?, path, Some(passphrase))
}

/// The public key that `path` is for, which takes no passphrase.
pub fn public(path: &Path, kind: Kind) -> Result<PublicKey, KeystoreError> {
    Ok(decode(&read(path)?, path, kind)?.public_key)
}

/// Whether `path` takes a passphrase.
pub fn is_sealed(path: &Path, kind: Kind) -> Result<bool, KeystoreError> {
    Ok(decode(&read(path)?, path, kind)?.seal.is_some())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeystoreError::Missing(path.into()),
        _ => KeystoreError::Io { action: "read", path: path.into(), source },
    };
    let malformed = |reason: &str| KeystoreError::Malformed { path: path.into(), reason: reason.into() };
    let file = File::open(path).map_err(io)?;
    // Of the open file, so that nobody can swap it in between.
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(malformed("it is not a file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(KeystoreError::Exposed(path.into()));
    }
    // Room for the largest file at once: a buffer that grows would leave copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    Ok(text)
}

/// The key of this kind that the text of a key file holds; `path` is for the error.
pub fn parse(text: &[u8], path: &Path, kind: Kind) -> Result<Keypair, KeystoreError> {
    open(decode(text, path, kind)?, path, None)
}

fn decode(text: &[u8], path: &Path, kind: Kind) -> Result<KeyFile, KeystoreError> {
    let malformed = |reason: &str| KeystoreError::Malformed { path: path.into(), reason: reason.into() };
    if text.len() as u64 > MAX_BYTES {
        return Err(malformed("it is too long"));
    }
    // The parser's own message could quote the secret.
    let file: KeyFile = serde_json::from_slice(text).map_err(|e| {
        malformed(&format!(
            "its JSON does not have the fields of a key file (line {}, column {})",
            e.line(),
            e.column()
        ))
    })?;
    let version = if file.seal.is_some() { SEALED } else { PLAIN };
    if file.version != version {
        let why = format!("its version is {}, this program reads {PLAIN} and, with a seal, {SEALED}", file.version);
        return Err(malformed(&why));
    }
    if file.kind != kind {
        return Err(KeystoreError::WrongKind { path: path.into(), found: file.kind, expected: kind });
    }
    Ok(file)
}

fn open(file: KeyFile, path: &Path, passphrase: Option<&str>) -> Result<Keypair, KeystoreError> {
    let malformed = |reason: &str| KeystoreError::Malformed { path: path.into(), reason: reason.into() };
    let mut seed = Zeroizing::new([0; 32]);
    match (&file.seal, passphrase) {
        (None, _) => hex::decode_to_slice(&file.secret, seed.as_mut())
            .map_err(|_| malformed("its secret is not 64 hexadecimal digits"))?,
        (Some(_), None) => return Err(KeystoreError::Locked(path.into())),
        (Some(seal), Some(passphrase)) => {
            let mut bytes = Zeroizing::new(vec![0; SEALED_BYTES]);
            hex::decode_to_slice(&file.secret, bytes.as_mut())
                .map_err(|_| malformed("its sealed secret is not 96 hexadecimal digits"))?;
            let cipher = seal.cipher(passphrase).ok_or_else(|| malformed("its seal is none that can be opened"))?;
            cipher
                .decrypt_in_place(&[0; 12].into(), &file.public_key.0, &mut *bytes)
                .map_err(|_| KeystoreError::WrongPassphrase(path.into()))?;
            seed.copy_from_slice(&bytes);
        }
    }
    let key = Keypair::from_seed(*seed);
    if *key.public() != file.public_key || file.address.is_some_and(|a| a != Address::from(key.public())) {
        return Err(malformed("its secret does not belong to its public key: restore it from a copy"));
    }
    Ok(key)
}

/// 24 words for a new wallet. Whoever has them has the wallet.
pub fn new_phrase() -> Zeroizing<String> {
    phrase(&Zeroizing::new(keys::random_bytes()))
}

fn phrase(entropy: &[u8; 32]) -> Zeroizing<String> {
    // Any 32 bytes are valid entropy.
    let words = Mnemonic::from_entropy_in(Language::English, entropy).expect("256 bits make 24 words");
    // 24 words of at most eight letters; reserved at once, so that no copy stays behind.
    let mut text = Zeroizing::new(String::with_capacity(9 * WORDS));
    for word in words.words() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// The wallet key that 24 words determine; case and white space do not matter.
pub fn key_from_phrase(phrase: &str) -> Result<Keypair, KeystoreError> {
    let refuse = |reason: String| KeystoreError::Phrase(reason);
    let count = phrase.split_whitespace().count();
    if count != WORDS {
        return Err(refuse(format!("a wallet has {WORDS} words, these are {count}")));
    }
    let phrase = Zeroizing::new(phrase.to_lowercase());
    let words = Mnemonic::parse_in_normalized(Language::English, &phrase).map_err(|e| match e {
        bip39::Error::UnknownWord(i) => {
            refuse(format!("word {} is not in the list of words: check its spelling", i + 1))
        }
        bip39::Error::InvalidChecksum => refuse("the checksum is wrong: check the words and their order".into()),
        other => refuse(other.to_string()),
    })?;
    let (mut entropy, length) = words.to_entropy_array();
    let seed = Zeroizing::new(blake3::derive_key(SEED_CONTEXT, &entropy[..length]));
    entropy.zeroize();
    Ok(Keypair::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_comes_back_from_its_file_which_only_its_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, name) in [(Kind::Node, "node.json"), (Kind::Wallet, "deep/er/wallet.json")] {
            let (key, path) = (Keypair::generate(), dir.path().join(name));
            create(&path, kind, &key, None).unwrap();
            assert_eq!(mode(&path), 0o600);
            assert_eq!(load(&path, kind).unwrap().seed(), key.seed());
            assert_eq!(
                fs::read_dir(path.parent().unwrap())
                    .unwrap()
                    .filter(|f| { f.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp") })
                    .count(),
                0,
                "no temporary file stays"
            );
        }
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, first) = (dir.path().join("node.json"), Keypair::generate());
        create(&path, Kind::Node, &first, None).unwrap();
        let again = create(&path, Kind::Node, &Keypair::generate(), None);
        assert!(matches!(again, Err(KeystoreError::Exists(_))));
        assert_eq!(load(&path, Kind::Node).unwrap().public(), first.public());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        create(&path, Kind::Node, &Keypair::generate(), None).unwrap();
        for exposed in [0o640, 0o604, 0o620, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).unwrap();
            let error = load(&path, Kind::Node).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load(&path, Kind::Node).is_ok());
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused_without_showing_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("wallet.json"), Keypair::from_seed([9; 32]));
        create(&path, Kind::Wallet, &key, None).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        assert!(matches!(load(&path, Kind::Node), Err(KeystoreError::WrongKind { found: Kind::Wallet, .. })));
        assert!(matches!(load(&dir.path().join("none"), Kind::Node), Err(KeystoreError::Missing(_))));
        let secret = hex::encode(key.seed());
        let damaged = [
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace(&secret, &"0".repeat(64)),
            good.replace(&secret, "xyz"),
            good.replace(&format!("\"{secret}\""), "5"),
            good.replace("\"secret\"", "\"sekret\""),
            good.replace(&Address::from(key.public()).to_string(), &Address([1; 20]).to_string()),
            good[..good.len() / 2].to_string(),
            format!("{good}{}", " ".repeat(5000)),
            String::new(),
        ];
        for text in damaged {
            assert_ne!(text, good);
            fs::write(&path, &text).unwrap();
            let error = load(&path, Kind::Wallet).unwrap_err();
            assert!(matches!(error, KeystoreError::Malformed { .. }), "{text}: {error}");
            assert!(!error.to_string().contains(&secret));
        }
        fs::write(&path, good).unwrap();
        assert!(load(&path, Kind::Wallet).is_ok());
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("wallet.json"), Keypair::generate());
        create(&path, Kind::Wallet, &key, Some("correct horse")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(key.seed())) && mode(&path) == 0o600);
        assert!(matches!(load(&path, Kind::Wallet), Err(KeystoreError::Locked(_))));
        assert!(matches!(unlock(&path, Kind::Wallet, "correct  horse"), Err(KeystoreError::WrongPassphrase(_))));
        assert_eq!(unlock(&path, Kind::Wallet, "correct horse").unwrap().seed(), key.seed());
        assert_eq!(public(&path, Kind::Wallet).unwrap(), *key.public());

        let asks = |from: &str, to: &str| {
            assert!(text.contains(from));
            fs::write(&path, text.replace(from, to)).unwrap();
            unlock(&path, Kind::Wallet, "correct horse").unwrap_err()
        };
        let greedy = asks("\"memory_kib\": 65536", "\"memory_kib\": 4294967295");
        assert!(matches!(greedy, KeystoreError::Malformed { .. }), "{greedy}");
        let other = asks(&key.public().to_string(), &Keypair::generate().public().to_string());
        assert!(matches!(other, KeystoreError::WrongPassphrase(_)), "{other}");
        fs::write(&path, &text).unwrap();

        reseal(&path, Kind::Wallet, &key, None).unwrap();
        assert_eq!(load(&path, Kind::Wallet).unwrap().seed(), key.seed());
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        reseal(&link, Kind::Wallet, &key, Some("again")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && is_sealed(&path, Kind::Wallet).unwrap());
        let other = reseal(&path, Kind::Wallet, &Keypair::generate(), None);
        assert!(matches!(other, Err(KeystoreError::Exists(_))), "another key replaces none");
    }

    #[test]
    fn words_restore_the_wallet_and_the_derivation_is_pinned() {
        let words = new_phrase();
        assert_eq!(words.split(' ').count(), 24);
        let key = key_from_phrase(&words).unwrap();
        let shouted = words.to_uppercase().replace(' ', "\n  ");
        assert_eq!(key_from_phrase(&shouted).unwrap().public(), key.public());
        assert_ne!(key_from_phrase(&new_phrase()).unwrap().public(), key.public());

        // The words are BIP-39's own vectors for 256 bits.
        let pinned = [([0x00; 32], "art"), ([0x7f; 32], "title"), ([0xff; 32], "vote")].map(|(entropy, last)| {
            let words = phrase(&entropy);
            assert!(words.ends_with(last), "{}", *words);
            hex::encode(key_from_phrase(&words).unwrap().seed())
        });
        let expected = [
            "2d5dfb1856478c4081f27cc05cf581dd6282bb88870af8b94f17fefa0e6f8f91",
            "f8f01555b891804463237f6985d54f3e1b4cc96eecc8229234835fb578fd06ce",
            "672b43c77fc18f2a6275b0278928698b4243bb350c9c6feec762db88a8997fe0",
        ];
        assert_eq!(pinned, expected);
    }

    #[test]
    fn a_mistake_in_the_words_is_found_and_not_repeated() {
        let good = phrase(&[0; 32]);
        let reason = |words: &str| key_from_phrase(words).unwrap_err().to_string();
        assert!(reason("abandon art").contains("24 words, these are 2"));
        assert!(reason(&good.replacen("abandon", "abandn", 1)).contains("word 1 is not in the list"));
        assert!(reason(&good.replacen("abandon", "zoo", 1)).contains("checksum"));
        assert!(!reason(&good.replacen("abandon", "abandn", 1)).contains("abandn"));
    }
}

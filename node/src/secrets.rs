//! Passphrases and words: from a file, from the environment, or typed; never from a flag, which the list of processes and the
//! shell's history would keep.

use crate::error::NodeError;
use ailo_protocol::{
    Keypair,
    keystore::{self, KeystoreError, Kind},
};
use std::{
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The variable that names a file with the passphrase in its first line.
const FILE: &str = "AILO_PASSPHRASE_FILE";
/// The variable that holds the passphrase.
const VARIABLE: &str = "AILO_PASSPHRASE";
/// The variable that names a file with a new one.
const NEW_FILE: &str = "AILO_NEW_PASSPHRASE_FILE";
/// What a person types is at most this long.
const MAX_BYTES: usize = 4096;

/// The key in a file; asks for the passphrase where it takes one.
pub fn load(path: &Path, kind: Kind) -> Result<Keypair, NodeError> {
    match keystore::load(path, kind) {
        Err(KeystoreError::Locked(_)) => {}
        loaded => return Ok(loaded?),
    }
    let passphrase = match prepared()? {
        Some(passphrase) => passphrase,
        None if std::io::stdin().is_terminal() => typed(&format!("Passphrase of {}: ", path.display()))?,
        None => return Err(KeystoreError::Locked(path.into()).into()),
    };
    Ok(keystore::unlock(path, kind, &passphrase)?)
}

/// A passphrase for a new key file: what is prepared, or what a person types twice; none where nobody sits there.
pub fn choose(path: &Path) -> Result<Option<Zeroizing<String>>, NodeError> {
    if let Some(passphrase) = prepared()? {
        return Ok(Some(passphrase));
    }
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    typed_twice(path)
}

/// The passphrase that a key file is to have from now on; none takes it away.
pub fn renew(path: &Path) -> Result<Option<Zeroizing<String>>, NodeError> {
    let passphrase = match std::env::var_os(NEW_FILE).map(PathBuf::from) {
        Some(file) => Some(first_line(&file)?).filter(|passphrase| !passphrase.is_empty()),
        None if std::io::stdin().is_terminal() => typed_twice(path)?,
        None => {
            return Err(NodeError::Usage(format!(
                "name a file with the new passphrase in {NEW_FILE}, or run this on a terminal"
            )));
        }
    };
    Ok(passphrase)
}

fn typed_twice(path: &Path) -> Result<Option<Zeroizing<String>>, NodeError> {
    let first = typed(&format!("New passphrase for {} (empty for none): ", path.display()))?;
    if first.is_empty() {
        return Ok(None);
    }
    match typed("The same again: ")? == first {
        true => Ok(Some(first)),
        false => Err(KeystoreError::Mistyped.into()),
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, NodeError> {
    let file = std::fs::File::open(path).map_err(|e| NodeError::file("read the passphrase in", path, e))?;
    line(std::io::BufReader::new(file), &format!("read the passphrase in {}", path.display()))
}

/// What the environment names or holds.
pub fn prepared() -> Result<Option<Zeroizing<String>>, NodeError> {
    let passphrase = match (std::env::var_os(FILE).map(PathBuf::from), std::env::var(VARIABLE)) {
        (Some(path), _) => Some(first_line(&path)?),
        (None, Ok(passphrase)) => Some(Zeroizing::new(passphrase)),
        (None, Err(_)) => None,
    };
    Ok(passphrase.filter(|passphrase| !passphrase.is_empty()))
}

/// 24 words from standard input; a person is told what for.
pub fn words(what: &str) -> Result<Zeroizing<String>, NodeError> {
    if std::io::stdin().is_terminal() {
        eprintln!("{what}, in one line:");
    }
    line(std::io::stdin().lock(), "read the 24 words")
}

fn typed(prompt: &str) -> Result<Zeroizing<String>, NodeError> {
    let typed = rpassword::prompt_password(prompt).map_err(|e| NodeError::io("read the passphrase", e))?;
    Ok(Zeroizing::new(typed))
}

/// The first line, without its end.
fn line(from: impl BufRead, what: &str) -> Result<Zeroizing<String>, NodeError> {
    // Room for all of it at once: a buffer that grows would leave copies behind.
    let mut line = Zeroizing::new(String::with_capacity(MAX_BYTES));
    from.take(MAX_BYTES as u64).read_line(&mut line).map_err(|e| NodeError::io(what, e))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

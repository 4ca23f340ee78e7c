//! Passphrases and words: from a file, from the environment, or typed; never from a flag, which the list of processes and the
//! shell's history would keep.

use crate::error::NodeError;
use ailo_protocol::{
    Keypair,
    keystore::{self, KeystoreError, Kind},
};
use std::{
    env::VarError,
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
    match renewed()? {
        Some(chosen) => Ok(chosen),
        None => match prepared()? {
            None if std::io::stdin().is_terminal() => typed_twice(path),
            passphrase => Ok(passphrase),
        },
    }
}

/// The same for one that is made by the way, where nobody is asked.
pub fn for_new() -> Result<Option<Zeroizing<String>>, NodeError> {
    renewed()?.map_or_else(prepared, Ok)
}

/// The passphrase that a key file is to have from now on; none takes it away.
pub fn renew(path: &Path) -> Result<Option<Zeroizing<String>>, NodeError> {
    match renewed()? {
        Some(chosen) => Ok(chosen),
        None if std::io::stdin().is_terminal() => typed_twice(path),
        None => Err(NodeError::Usage(format!(
            "name a file with the new passphrase in {NEW_FILE}, or run this on a terminal"
        ))),
    }
}

/// What the file of a new passphrase says, where one is named; an empty file says that there is to be none.
fn renewed() -> Result<Option<Option<Zeroizing<String>>>, NodeError> {
    let Some(file) = std::env::var_os(NEW_FILE).map(PathBuf::from) else { return Ok(None) };
    Ok(Some(Some(first_line(&file)?).filter(|passphrase| !passphrase.is_empty())))
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
    let failed = |e| NodeError::file("read the passphrase in", path, e);
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let line = line(std::io::BufReader::new(file), &format!("read the passphrase in {}", path.display()))?;
    match line.is_empty() && bytes > "\r\n".len() as u64 {
        true => {
            Err(NodeError::Usage(format!("the first line of {} is empty: put the passphrase there", path.display())))
        }
        false => Ok(line),
    }
}

/// What the environment names or holds; whoever sets a variable wants a passphrase, so none is an error.
pub fn prepared() -> Result<Option<Zeroizing<String>>, NodeError> {
    let (passphrase, variable) = match (std::env::var_os(FILE).map(PathBuf::from), std::env::var(VARIABLE)) {
        (Some(path), _) => (first_line(&path)?, FILE),
        (None, Ok(passphrase)) => (Zeroizing::new(passphrase), VARIABLE),
        (None, Err(VarError::NotPresent)) => return Ok(None),
        (None, Err(VarError::NotUnicode(_))) => {
            return Err(NodeError::Usage(format!("{VARIABLE} is no text (UTF-8): set another passphrase there")));
        }
    };
    match passphrase.is_empty() {
        true => Err(NodeError::Usage(format!(
            "{variable} gives an empty passphrase: put one there, in the first line of a file, or unset the variable"
        ))),
        false => Ok(Some(passphrase)),
    }
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

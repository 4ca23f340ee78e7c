//! Files that are either there as a whole or not at all.

use crate::error::{Result, TrainingError};
use std::{fs::File, io::Read, path::Path};

fn error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> TrainingError {
    move |source| TrainingError::File { action, path: path.into(), source }
}

/// The bytes of the file at `path`, of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(error("read", path))?;
    let mut bytes = Vec::new();
    // One byte beyond the bound tells a file that is too large from one that just fits.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(error("read", path))?;
    if bytes.len() as u64 > max {
        return Err(TrainingError::FileTooLarge { path: path.into(), bytes: bytes.len() as u64, max });
    }
    Ok(bytes)
}

/// Writes `parts` one after the other, atomically.
pub(crate) fn write_atomically<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>) -> Result<()> {
    ailo_protocol::file::write_atomically(path, parts).map_err(error("write", path))
}

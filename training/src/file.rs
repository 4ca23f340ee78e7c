//! Files that are either there as a whole or not at all.

use crate::error::{Result, TrainingError};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
};

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

/// Writes `parts` one after the other to a temporary file beside `path`, syncs it and renames it into place.
pub(crate) fn write_atomically<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&part)?;
        for bytes in parts {
            file.write_all(bytes.as_ref())?;
        }
        file.sync_all()?;
        fs::rename(&part, path)?;
        // The rename itself is durable only once the folder is synced.
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    })();
    written.map_err(|source| {
        // Best effort: what is left over is overwritten by the next write.
        let _ = fs::remove_file(&part);
        error("write", path)(source)
    })
}

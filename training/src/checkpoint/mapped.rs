//! Files as memory. What was mapped once stays mapped until the process ends: it takes addresses, no memory that the system could not take
//! back, and so whoever computes may hold it for as long as it likes, on any thread.

use super::bad;
use crate::error::{Result, TrainingError};
use bytes::Bytes;
use pulp::bytemuck::try_cast_slice;
use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
};
use vmap::Map;

/// What a file is known by: device, number, length, and when it was written.
type Identity = (u64, u64, u64, i64, i64);

static MAPPED: Mutex<Option<HashMap<Identity, &'static [u8]>>> = Mutex::new(None);

/// A file, and what it holds.
///
/// # Errors
///
/// [`TrainingError::File`] and [`TrainingError::Checkpoint`] if it can't be opened or mapped.
pub fn mapped(path: &Path) -> Result<(File, Bytes)> {
    let failed = |source| TrainingError::File { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    let identity = (data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec());
    let mut all = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    if let Some(bytes) = all.get(&identity) {
        return Ok((file, Bytes::from_static(bytes)));
    }
    let map = Map::with_options().map(&file).map_err(|e| bad(path, &e))?;
    let bytes: &'static [u8] = Box::leak(Box::new(map));
    all.insert(identity, bytes);
    Ok((file, Bytes::from_static(bytes)))
}

/// Little-endian numbers, where they lie if they lie as this machine needs them.
pub fn floats(bytes: &[u8]) -> Cow<'_, [f32]> {
    match try_cast_slice(bytes) {
        Ok(numbers) if cfg!(target_endian = "little") => Cow::Borrowed(numbers),
        _ => Cow::Owned(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
    }
}

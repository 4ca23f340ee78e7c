//! Files that are there as a whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Mode of a file that only its owner may read.
const PRIVATE: u32 = 0o600;

/// Writes `parts` one after the other to a temporary file beside `path`, syncs it, and renames it into place: a crash
/// leaves the old file or the new one. Several writers of one path do not disturb each other; the last one wins.
pub fn write_atomically<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>) -> io::Result<()> {
    write(path, parts, 0o666)
}

/// The same for what only the owner may read, at no moment anybody else.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, [bytes], PRIVATE)
}

fn write<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>, mode: u32) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.part", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let part = path.with_file_name(name);
    let written = (|| {
        // What a process with this number left when it was killed; its mode may be anything.
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
        for bytes in parts {
            file.write_all(bytes.as_ref())?;
        }
        file.sync_all()?;
        fs::rename(&part, path)?;
        // The rename itself is durable only once the folder is synced.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&part); // best effort: a leftover is harmless, nobody reads its name
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_writers_of_one_file_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for i in 0..8u8 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| write_atomically(path, [[i; 1000]]).unwrap()));
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 1000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left over");
    }

    #[test]
    fn a_private_file_is_its_owners_alone_whatever_stood_there_before() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomically(&path, [b"for all"]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"for one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"for one");
    }
}

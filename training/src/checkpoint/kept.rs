//! The hashes of a model's layers, kept in a file, so that not all weights are read at each start. They count as long as the files are the ones that
//! were read: device, number, length, and when they were written and changed, which nobody can set back.

use super::Checkpoint;
use crate::error::{Result, TrainingError};
use ailo_protocol::{Hash, canonical, hash::Domain};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Bytes of such a file, at most.
const MAX_BYTES: usize = 1 << 20;

/// What is kept: what the files were known by, the layers' hashes, and a hash of both.
type Kept = (Hash, Vec<Hash>, Hash);

impl Checkpoint {
    /// As [`Checkpoint::hashes`], from `dir` if they were told before; if not, or what is there is damaged or of other files, they are made and
    /// kept there. Where that fails they are made each time.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::hashes`].
    pub fn hashes_kept(&self, dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Hash>> {
        let (file, identity) = (self.kept_in(dir), self.identity()?);
        let known = fs::metadata(&file).ok().filter(|data| data.len() <= MAX_BYTES as u64);
        let known = known.and_then(|_| canonical::decode::<Kept>(&fs::read(&file).ok()?, MAX_BYTES).ok());
        if let Some((of, hashes, check)) = known
            && of == identity
            && hashes.len() == self.shape.layers
            && check == seal(&of, &hashes)
        {
            return Ok(hashes);
        }
        let hashes = self.hashes(progress)?;
        // What was written meanwhile may be in some of them.
        if self.identity()? == identity {
            let check = seal(&identity, &hashes);
            let kept: Kept = (identity, hashes.clone(), check);
            let written = fs::create_dir_all(dir).and_then(|()| fs::write(&file, canonical::encode(&kept)));
            drop(written); // What is half written is damaged, and what is not there is made again.
        }
        Ok(hashes)
    }

    /// The next time, hashes are made anew: what was loaded is not what they say.
    pub fn forget_hashes(&self, dir: &Path) {
        let _ = fs::remove_file(self.kept_in(dir)); // If it is not there, so much the better.
    }

    /// A file for each folder.
    fn kept_in(&self, dir: &Path) -> PathBuf {
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        dir.join(format!("{}.hashes", Hash::of(Domain::Blob, folder.as_os_str().as_encoded_bytes())))
    }

    /// What the files are known by, and what else the hashes depend on.
    fn identity(&self) -> Result<Hash> {
        let mut known = format!("{:?} {:?}", self.family, self.shape).into_bytes();
        for (path, file, _) in &self.files {
            let failed = |source| TrainingError::File { action: "read", path: path.clone(), source };
            let data = file.metadata().map_err(failed)?;
            let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
            known.extend_from_slice(path.as_os_str().as_encoded_bytes());
            known.extend_from_slice(format!(" {} {} {} {times:?}\n", data.dev(), data.ino(), data.len()).as_bytes());
        }
        Ok(Hash::of(Domain::Blob, &known))
    }
}

fn seal(identity: &Hash, hashes: &[Hash]) -> Hash {
    let parts: Vec<&[u8]> = std::iter::once(identity).chain(hashes).map(|hash| &hash.0[..]).collect();
    Hash::of_parts(Domain::Blob, &parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::random, *};
    use serde_json::json;
    use std::{os::unix::fs::FileExt, time::Instant};

    /// Whether the weights were read, and what came out.
    fn told(folder: &Path, dir: &Path) -> (bool, Vec<Hash>) {
        let mut read = false;
        let hashes = Checkpoint::open(folder).unwrap().hashes_kept(dir, &mut |_, _| read = true).unwrap();
        (read, hashes)
    }

    #[test]
    fn hashes_are_kept_and_made_anew_where_they_are_damaged_or_the_files_are_others() {
        let config = json!({ "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 64,
                             "tie_word_embeddings": true, "rms_norm_eps": 1e-6 });
        let [folder, dir] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (folder, dir) = (folder.path(), dir.path().join("hashes"));
        random::write(folder, &config, &random::tensors(&config), 1).unwrap();
        let (read, first) = told(folder, &dir);
        assert!(read);
        assert_eq!(told(folder, &dir), (false, first.clone()), "the second time");

        let kept = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
        let good = fs::read(&kept).unwrap();
        for at in [0, 40, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&kept, bad).unwrap();
            assert_eq!(told(folder, &dir), (true, first.clone()), "byte {at} was damaged");
        }
        fs::write(&kept, &good[..good.len() / 2]).unwrap();
        assert_eq!(told(folder, &dir), (true, first.clone()), "half of it");
        assert_eq!(fs::read(&kept).unwrap(), good, "it was made anew");

        // Another weight in the same file, of the same length, with the times set back. The clock that files have ticks a few hundred times a second.
        let weights = folder.join("model.safetensors");
        let file = fs::OpenOptions::new().read(true).write(true).open(&weights).unwrap();
        let before = file.metadata().unwrap();
        let (mut last, started) = ([0], Instant::now());
        file.read_exact_at(&mut last, before.len() - 1).unwrap();
        while file.metadata().unwrap().ctime_nsec() == before.ctime_nsec() && started.elapsed().as_secs() < 10 {
            file.write_all_at(&[last[0] ^ 0x40], before.len() - 1).unwrap();
        }
        file.set_times(fs::FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before.modified().unwrap());
        let (read, changed) = told(folder, &dir);
        assert!(read && changed != first, "a weight has changed");

        Checkpoint::open(folder).unwrap().forget_hashes(&dir);
        assert_eq!(told(folder, &dir), (true, changed));
        // Where nothing can be kept, they are made each time.
        fs::write(dir.with_extension("file"), "").unwrap();
        assert!(told(folder, &dir.with_extension("file")).0 && told(folder, &dir.with_extension("file")).0);
    }
}

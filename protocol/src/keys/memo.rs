//! Signatures that were verified before, for simulations of many nodes in one thread: each node asks, and each distinct
//! question is answered by arithmetic once, with keys that are decompressed once. A node on its own remembers nothing.

use super::{BadSignature, PublicKey, Signature};
use ed25519_dalek::VerifyingKey;
use std::{cell::RefCell, collections::HashMap};

/// How signatures were verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// By arithmetic.
    pub verified: u64,
    /// Known to be good: the same key, bytes and signature had been verified.
    pub remembered: u64,
}

#[derive(Default)]
struct Memo {
    good: HashMap<(PublicKey, Signature), Vec<u8>>,
    keys: HashMap<PublicKey, VerifyingKey>,
    counts: Verified,
}

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// Runs `work`, in which this thread verifies no good signature twice.
pub fn remembering<T>(work: impl FnOnce() -> T) -> (T, Verified) {
    MEMO.set(Some(Memo::default()));
    let result = work();
    let counts = MEMO.take().map(|memo| memo.counts).unwrap_or_default();
    (result, counts)
}

pub(super) fn verify(key: &PublicKey, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
    MEMO.with_borrow_mut(|memo| {
        let Some(memo) = memo else { return arithmetic(&key.decompress()?, bytes, signature) };
        if memo.good.get(&(*key, *signature)).is_some_and(|known| known == bytes) {
            memo.counts.remembered += 1;
            return Ok(());
        }
        memo.counts.verified += 1;
        let decompressed = match memo.keys.get(key) {
            Some(known) => known,
            None => memo.keys.entry(*key).or_insert(key.decompress()?),
        };
        arithmetic(decompressed, bytes, signature)?;
        memo.good.insert((*key, *signature), bytes.to_vec());
        Ok(())
    })
}

fn arithmetic(key: &VerifyingKey, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
    key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)).map_err(|_| BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Keypair;

    #[test]
    fn a_signature_that_is_remembered_is_good_for_its_own_bytes_and_key_alone() {
        let (a, b) = (Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32]));
        let signature = a.sign(b"bytes");
        let ((), counts) = remembering(|| {
            for _ in 0..3 {
                assert!(a.public().verify(b"bytes", &signature).is_ok());
                assert!(a.public().verify(b"other", &signature).is_err());
                assert!(b.public().verify(b"bytes", &signature).is_err());
            }
        });
        assert_eq!(counts, Verified { verified: 7, remembered: 2 });
        assert!(a.public().verify(b"bytes", &signature).is_ok());
    }
}

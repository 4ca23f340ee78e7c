//! Room for weights, in the largest pages that the system gives: with small ones a processor that reads gigabytes for each token spends a
//! good part of its time finding out where they are.

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// What is smaller than this is not worth pages of its own.
const LARGE: usize = 4 << 20;

/// Bytes to be filled, all zero.
pub(crate) enum Room {
    /// From the heap.
    Small(Vec<u8>),
    /// Pages of their own.
    Large(MmapMut),
}

impl Room {
    /// Room for so many bytes.
    pub fn of(length: usize) -> Room {
        let pages = (length >= LARGE).then(|| MmapMut::map_anon(length).ok()).flatten();
        match pages {
            Some(pages) => {
                // Where there are no large pages, small ones do.
                let _ = pages.advise(Advice::HugePage);
                Room::Large(pages)
            }
            None => Room::Small(vec![0; length]),
        }
    }
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        match self {
            Room::Small(bytes) => bytes,
            Room::Large(pages) => pages,
        }
    }
}

impl AsMut<[u8]> for Room {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Room::Small(bytes) => bytes,
            Room::Large(pages) => pages,
        }
    }
}

impl From<Room> for Bytes {
    fn from(room: Room) -> Bytes {
        match room {
            Room::Small(bytes) => bytes.into(),
            Room::Large(pages) => Bytes::from_owner(pages),
        }
    }
}

//! An append-only file of checksummed frames.

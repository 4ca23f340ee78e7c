//! Block store: the log and its index.

//! The consensus host.

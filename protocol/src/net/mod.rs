//! The peer-to-peer swarm.

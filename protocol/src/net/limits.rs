//! Every bound of the swarm, in one place.

use std::time::Duration;

/// Sizes on the wire, connections, queues and times. The sizes are part of the protocol: all nodes use the same.
#[derive(Clone, Debug)]
pub struct NetLimits {
    /// A gossip message, in bytes, at most.
    pub gossip_bytes: usize,
    /// A request, in bytes, at most.
    pub request_bytes: usize,
    /// A response, in bytes, at most.
    pub response_bytes: usize,

    /// Peers are looked for until there are this many.
    pub target_connections: usize,
    /// Above this many peers, idle ones outside the gossip mesh are let go.
    pub max_peers: usize,
    /// Connections that others opened, at most.
    pub connections_in: u32,
    /// Connections that this node opened, at most.
    pub connections_out: u32,
    /// Connections with one peer, at most; above one, since two peers may dial each other at the same time.
    pub connections_per_peer: u32,
    /// Connections in each direction that are still being set up, at most.
    pub connections_pending: u32,
    /// Peers whose addresses are remembered, at most.
    pub known_peers: usize,
    /// A connection is secured within this time; the peer then identifies itself and subscribes within the same again.
    pub handshake_timeout: Duration,

    /// Requests under way with one peer, in each direction, at most.
    pub requests_per_peer: usize,
    /// Requests of all peers being answered, at most; those above it are refused. No peer has more of these places than are left free, and those
    /// that have not finished their handshake share the part of one.
    pub requests_in: usize,
    /// A response is complete within this time.
    pub request_timeout: Duration,

    /// Events that wait for their consumer, at most; gossip may fill the first half, requests three quarters.
    pub event_queue: usize,
    /// Gossip messages without a verdict, at most.
    pub verdicts: usize,
    /// Bytes of the gossip without a verdict, at most.
    pub verdict_bytes: usize,
    /// Commands from handles that wait for the swarm, at most; then callers wait.
    pub command_queue: usize,

    /// Places that this node gives others as their relay, at most.
    pub relay_reservations: usize,
    /// Connections of others that it carries at once, at most.
    pub relay_circuits: usize,
    /// Of these those of one peer, at most.
    pub relay_circuits_per_peer: usize,
    /// Such a connection ends after so many bytes...
    pub relay_circuit_bytes: u64,
    /// ...or so much time.
    pub relay_circuit_time: Duration,

    /// A peer with too many offences is kept away this long.
    pub ban: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        NetLimits {
            gossip_bytes: 1 << 20,
            request_bytes: 1 << 10,
            response_bytes: 8 << 20,
            target_connections: 32,
            max_peers: 64,
            connections_in: 128,
            connections_out: 96,
            connections_per_peer: 4,
            connections_pending: 64,
            known_peers: 1024,
            handshake_timeout: Duration::from_secs(20),
            requests_per_peer: 16,
            requests_in: 64,
            request_timeout: Duration::from_secs(60),
            event_queue: 4096,
            verdicts: 1024,
            verdict_bytes: 64 << 20,
            command_queue: 1024,
            relay_reservations: 64,
            relay_circuits: 32,
            relay_circuits_per_peer: 4,
            relay_circuit_bytes: 8 << 20,
            relay_circuit_time: Duration::from_secs(600),
            ban: Duration::from_secs(600),
        }
    }
}

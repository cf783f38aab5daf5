//! What a shard is built from: its size, its timeouts and how strict it is about TCP.

use std::time::Duration;

/// Longest timeout that a flow can have: AWS's limit for established TCP connections.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(432_000);

/// How long a flow lives without a packet that counts, by its state. Each is cut to
/// [`TIMEOUT_MAX`] and kept to about two milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP: a SYN without an answer.
    pub tcp_syn_sent: Duration,
    /// TCP: a SYN with an answer that is not yet acknowledged.
    pub tcp_syn_received: Duration,
    /// TCP: after the handshake.
    pub tcp_established: Duration,
    /// TCP: one or both FINs seen, not all acknowledged.
    pub tcp_closing: Duration,
    /// TCP: the tombstone after both FINs are acknowledged.
    pub tcp_time_wait: Duration,
    /// TCP: the tombstone after a reset.
    pub tcp_reset: Duration,
    /// UDP.
    pub udp: Duration,
    /// UDP with more than one request and response.
    pub udp_stream: Duration,
    /// ICMP queries.
    pub icmp: Duration,
    /// Every other protocol.
    pub other: Duration,
    /// How long a fragment waits for, and is matched to, the first of its packet.
    pub fragment: Duration,
}

impl Default for Timeouts {
    /// AWS's published defaults; those that AWS does not publish are ours (Semantics: Connections).
    fn default() -> Self {
        Self {
            tcp_syn_sent: Duration::from_secs(30),
            tcp_syn_received: Duration::from_secs(30),
            tcp_established: Duration::from_secs(350),
            tcp_closing: Duration::from_secs(60),
            tcp_time_wait: Duration::from_secs(30),
            tcp_reset: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(180),
            icmp: Duration::from_secs(30),
            other: Duration::from_secs(600),
            fragment: Duration::from_secs(30),
        }
    }
}

/// What becomes of a TCP packet in mid-stream that belongs to no known connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpPickup {
    /// The rules judge it; if they allow it, the connection is tracked from there on.
    #[default]
    Rules,
    /// Only a SYN opens a connection; anything else is invalid.
    SynOnly,
}

/// The size and the manners of one shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Most flows at a time, tombstones included; at least one.
    pub max_flows: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Mid-stream TCP without an entry.
    pub tcp_pickup: TcpPickup,
    /// Whether TCP segments outside of the window are dropped.
    pub tcp_strict: bool,
    /// Secret of the bucket hash; new at every start, since others choose the keys.
    pub seed: [u64; 2],
}

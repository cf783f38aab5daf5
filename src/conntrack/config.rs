//! What a shard is built from: its size, its timeouts and how strict it is about TCP.

use std::time::Duration;

/// Longest timeout that a flow can have: AWS's limit for established TCP connections.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(432_000);

/// How long a flow lives without a packet that counts, by its state. Each is cut to
/// [`TIMEOUT_MAX`] and kept to about 17 milliseconds.
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

/// What one interface may take of a shard; 0 = no limit.
///
/// If both are 0, flows are not counted by interface at all. A default that counts but never
/// refuses, so that single interfaces can have limits of their own
/// ([`super::Shard::limit_interfaces`]), is [`PerInterface::COUNTED`].
///
/// While flows are counted, a shard knows one interface for 16 flows of its size (1,024 at least,
/// 131,072 at most), for 32 bytes an interface, and 8 for each flow that can give way of an
/// interface that may have only so many. Of interfaces beyond those that have flows, or have opened
/// some within the last second, those with a limit open none, and those without are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerInterface {
    /// Most flows at a time, whatever their state. Beyond, its own flows give way to its new ones
    /// in the order in which they do on a full table, established ones never.
    pub max_flows: u32,
    /// Most new flows a second; as many may come at once.
    pub new_per_second: u32,
}

impl PerInterface {
    /// No limit, but a count.
    pub const COUNTED: Self = Self {
        max_flows: u32::MAX,
        new_per_second: 0,
    };

    /// What each of `shards` shards may give so that an interface has this over all of them: an
    /// even part, rounded up, since its flows spread evenly. All together may exceed the limit by
    /// less than one flow a shard; an interface whose flows happen to fall on few shards gets less
    /// than its limit.
    #[must_use]
    pub fn divided(self, shards: u32) -> Self {
        let shards = shards.max(1);
        Self {
            max_flows: self.max_flows.div_ceil(shards),
            new_per_second: self.new_per_second.div_ceil(shards),
        }
    }
}

/// The size and the manners of one shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Most flows at a time, tombstones included; at least one, at most 2^26.
    pub max_flows: u32,
    /// What one interface may take of it.
    pub per_interface: PerInterface,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Mid-stream TCP without an entry.
    pub tcp_pickup: TcpPickup,
    /// Whether TCP segments outside of the window are dropped.
    pub tcp_strict: bool,
    /// Secret of the bucket hash; new at every start, since others choose the keys.
    pub seed: [u64; 2],
}

impl ShardConfig {
    /// A shard of so many flows, and in all else what the configuration's defaults are.
    #[must_use]
    pub fn new(max_flows: u32, seed: [u64; 2]) -> Self {
        Self {
            max_flows,
            per_interface: PerInterface::default(),
            timeouts: Timeouts::default(),
            tcp_pickup: TcpPickup::default(),
            tcp_strict: false,
            seed,
        }
    }
}

//! The health of a running gateway, as `status` shows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::version_commands::Confirmation;
use crate::telemetry::{CounterView, Gauges};
use crate::types::{DropReason, Generation, PassReason};

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The policy in force.
    pub generation: u64,
    /// Seconds since the gateway started to forward.
    pub uptime_seconds: u64,
    /// One for each pinned thread.
    pub workers: Vec<WorkerStatus>,
    /// One for each wire.
    pub links: Vec<LinkStatus>,
    /// All shards together.
    pub conntrack: ConntrackStatus,
    /// The compiled policy.
    pub snapshot: SnapshotStatus,
    /// A change that waits to be confirmed.
    #[serde(default)]
    pub confirmation: Option<Confirmation>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its core.
    pub core: usize,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Frames judged to pass, by reason.
    pub passed: Map<String, Value>,
    /// Frames dropped, by reason.
    pub dropped: Map<String, Value>,
    /// Frames that other workers gave it and that wait.
    pub in_flight: u64,
    /// Frames that it gave to other workers.
    pub handed_over: u64,
    /// Live flows of its shard.
    pub flows: u64,
    /// The policy that it uses.
    pub generation: u64,
    /// Whether it sleeps now, for want of frames.
    pub asleep: bool,
    /// Share of the time since start that it spent on turns with work, 0 to 1.
    pub busy_ratio: f64,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// Inside, then outside.
    pub ports: Vec<PortStatus>,
    /// `native` or `generic`; of the slower port where they differ.
    pub mode: String,
    /// Whether frames reach the memory without a copy.
    pub zero_copy: bool,
    /// Pages of the packet memory.
    pub pages: String,
    /// What the kernel counted and dropped before us or after us.
    pub queues: Vec<QueueStatus>,
    /// What a driver could not do.
    pub notes: Vec<String>,
}

/// One device of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// `inside` or `outside`.
    pub side: String,
    /// The device's name.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Bytes.
    pub mtu: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// The device's own counters, by name.
    pub kernel: Map<String, Value>,
}

/// The kernel's ring statistics of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// `inside` or `outside`.
    pub side: String,
    /// Number in the device.
    pub queue: u32,
    /// `XDP_STATISTICS`, by name.
    pub kernel: Map<String, Value>,
}

/// The connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackStatus {
    /// Live flows.
    pub flows: u64,
    /// Room for flows.
    pub max_flows: u64,
    /// Flows that gave way to new ones.
    pub evicted: u64,
    /// New flows refused for want of room.
    pub refused: u64,
    /// The same by what they were.
    pub evicted_by: EvictedBy,
    /// New flows that their interface's limit refused.
    pub limited: u64,
    /// TCP connections that a rule let in without their SYN.
    pub picked_up: u64,
    /// As AWS counts it: new flows that were refused, for want of room or by a limit.
    pub conntrack_allowance_exceeded: u64,
    /// As AWS counts it: flows that can still be opened, in place of those too that give way.
    pub conntrack_allowance_available: u64,
}

/// Flows that gave way to new ones, in the order in which they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictedBy {
    /// Untracked flows, which pass without an entry.
    pub untracked: u64,
    /// Closed connections.
    pub closed: u64,
    /// Flows that had no answer.
    pub unanswered: u64,
    /// TCP handshakes that were under way.
    pub half_open: u64,
}

/// The compiled policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Rules of all groups.
    pub rules: u64,
    /// Groups.
    pub groups: u64,
    /// Interfaces.
    pub interfaces: u64,
    /// Memory of the snapshot.
    pub bytes: u64,
    /// How long it took to compile.
    pub compile_microseconds: u64,
}

impl WorkerStatus {
    pub(super) fn new(
        core: usize,
        view: &CounterView,
        uptime: Duration,
        generation: Generation,
        asleep: bool,
    ) -> Self {
        let passed = PassReason::ALL.iter().zip(view.tally.passed);
        let dropped = DropReason::ALL.iter().zip(view.tally.dropped);
        let busy = Duration::from_nanos(view.tally.busy_ns);
        Self {
            core,
            rx_packets: view.tally.rx_packets,
            rx_bytes: view.tally.rx_bytes,
            tx_packets: view.tally.tx_packets,
            tx_bytes: view.tally.tx_bytes,
            passed: passed
                .map(|(reason, count)| (reason.name().to_owned(), count.into()))
                .collect(),
            dropped: dropped
                .map(|(reason, count)| (reason.name().to_owned(), count.into()))
                .collect(),
            in_flight: view.in_flight,
            handed_over: view.tally.handed_over,
            flows: view.gauges.flows,
            generation: generation.0,
            asleep,
            busy_ratio: busy.as_secs_f64() / uptime.as_secs_f64().max(f64::MIN_POSITIVE),
        }
    }
}

impl ConntrackStatus {
    pub(super) fn new(max_flows: u64) -> Self {
        Self {
            flows: 0,
            max_flows,
            evicted: 0,
            refused: 0,
            evicted_by: EvictedBy::default(),
            limited: 0,
            picked_up: 0,
            conntrack_allowance_exceeded: 0,
            conntrack_allowance_available: 0,
        }
    }

    /// Adds one shard's levels.
    pub(super) fn add(&mut self, shard: &Gauges) {
        self.flows += shard.flows;
        self.evicted += shard.evicted;
        self.refused += shard.refused;
        self.picked_up += shard.picked_up;
        self.limited += shard.limited;
        let [untracked, closed, unanswered, half_open] = shard.evicted_by;
        self.evicted_by.untracked += untracked;
        self.evicted_by.closed += closed;
        self.evicted_by.unanswered += unanswered;
        self.evicted_by.half_open += half_open;
        self.conntrack_allowance_exceeded += shard.refused + shard.limited;
        self.conntrack_allowance_available += shard.available;
    }
}

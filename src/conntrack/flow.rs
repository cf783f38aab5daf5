//! The words in which a shard talks with the pipeline.

use std::fmt;
use std::time::Duration;

use crate::packet::{End, FlowKey, Transport};
use crate::types::{Direction, Generation, InterfaceSlot, RuleSlot};

/// Keyed hash of a flow key; of use only with the shard that computed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash(pub(super) u64);

/// Number of a flow in its shard, valid until the shard's next `end`, `expire` or `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowIndex(pub(super) u32);

impl FlowIndex {
    /// The number of no flow.
    pub const NONE: Self = Self(u32::MAX);

    /// The number, for outputs.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// How the policy regards a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowClass {
    /// Admitted by a rule, and lives on its own from then on.
    Tracked,
    /// Rules of both directions allow any address: the entry is only a shortcut to their verdict.
    Untracked,
    /// Only a group in audit mode would have refused it.
    Unenforced,
}

impl FlowClass {
    /// The word in outputs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tracked => "tracked",
            Self::Untracked => "untracked",
            Self::Unenforced => "unenforced",
        }
    }
}

/// What a first fragment says of the packet that it begins; what the others are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentedFlow {
    /// The flow; `None` where its packets are judged one by one (ICMP that is no query).
    pub key: Option<(FlowKey, End)>,
    /// The protocol behind all headers of IP.
    pub protocol: u8,
    /// The transport header: what the rules are asked about.
    pub transport: Transport,
    /// What the first fragment does where the flow has no entry.
    pub admission: Admission,
}

/// What the pipeline knows about a flow that it admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// The interface whose policy admitted it.
    pub interface: InterfaceSlot,
    /// The rule that did, if one did.
    pub rule: Option<RuleSlot>,
    /// The snapshot that it was judged by.
    pub generation: Generation,
    /// How the policy regards it.
    pub class: FlowClass,
    /// The opener's direction, seen from the interface.
    pub direction: Direction,
    /// Which end of the key spoke first.
    pub opener: End,
}

/// What a flow was admitted as; all from the line that [`super::Shard::track`] uses anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHead {
    /// The interface whose policy admitted it.
    pub interface: InterfaceSlot,
    /// The rule that did, if one did. Should live flows name rules of more than 255 blocks of
    /// 65,536 slots, those of further blocks are not kept.
    pub rule: Option<RuleSlot>,
    /// Low 32 bits of the generation that it was last judged by.
    pub generation_low: u32,
    /// How the policy regards it.
    pub class: FlowClass,
    /// The opener's direction, seen from the interface.
    pub direction: Direction,
    /// Which end of the key spoke first.
    pub opener: End,
    /// The code of the ICMP query that opened it; 0 of other protocols.
    pub query_code: u8,
    /// Whether it is closed, and its entry only keeps late packets out.
    pub is_tombstone: bool,
}

impl FlowHead {
    /// Which end of the key is the interface's.
    #[inline]
    #[must_use]
    pub fn inside_end(&self) -> End {
        match self.direction {
            Direction::Egress => self.opener,
            Direction::Ingress => self.opener.opposite(),
        }
    }
}

/// What a packet does to the flow that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// It belongs; it is counted.
    Pass,
    /// It comes after a close, or has no place in the connection.
    Invalid,
    /// It begins another connection with the same key: the rules judge it, and if they allow it
    /// (and [`Admission`] says that it may open), [`super::Shard::reopen`] follows.
    Reopen,
}

/// What a packet without an entry may do, if the rules allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It opens an entry.
    Open,
    /// It passes alone: an ICMP reply, a stray reset, flags that begin nothing.
    PassOnly,
    /// It is invalid whatever the rules say.
    Refuse,
}

/// Why there is no new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// All entries are taken, and none may give way.
    Full,
    /// Its interface has all the flows, or all the new ones of this second, that it may have.
    Limit,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the connection table is full",
            Self::Limit => "the interface is at its limit of connections",
        })
    }
}

impl std::error::Error for OpenError {}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// TCP: a SYN without an answer.
    SynSent,
    /// TCP: both SYNs seen, not both acknowledged.
    SynReceived,
    /// TCP: data may flow.
    Established,
    /// TCP: a FIN of one or both sides.
    Closing,
    /// TCP tombstone: both FINs acknowledged.
    TimeWait,
    /// TCP tombstone: reset.
    Reset,
    /// UDP.
    Udp,
    /// UDP with more than one request and response.
    UdpStream,
    /// An ICMP query.
    Icmp,
    /// Any other protocol.
    Other,
}

impl FlowState {
    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closing,
        Self::TimeWait,
        Self::Reset,
        Self::Udp,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
    ];
    /// How many there are.
    pub const COUNT: usize = 10;

    /// The word in outputs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time-wait",
            Self::Reset => "reset",
            Self::Udp => "udp",
            Self::UdpStream => "udp-stream",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }

    /// Whether the flow is closed and only keeps late packets out.
    #[must_use]
    pub fn is_tombstone(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset)
    }
}

/// Packets that passed, and the bytes of their frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One live flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Its number.
    pub index: FlowIndex,
    /// Its key.
    pub key: FlowKey,
    /// What it was admitted as.
    pub head: FlowHead,
    /// Where it is in its life.
    pub state: FlowState,
    /// Time since it was opened, to two seconds.
    pub age: Duration,
    /// Time since the last packet that moved its deadline; more where a reset that may be none has
    /// brought that nearer.
    pub idle: Duration,
    /// Time until it expires.
    pub expires_in: Duration,
    /// What the opener sent.
    pub sent: Traffic,
    /// What the other end sent.
    pub answered: Traffic,
}

/// Counters of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Entries in use, expired ones that are not yet taken back included.
    pub flows: u32,
    /// Most entries.
    pub max_flows: u32,
    /// Flows opened, reopened ones included.
    pub opened: u64,
    /// Of these, on a tombstone, an unfinished handshake or an ICMP query of the same key.
    pub reopened: u64,
    /// Of these, TCP connections first seen in mid-stream.
    pub picked_up: u64,
    /// Flows that ended by their deadline.
    pub expired: u64,
    /// Flows that were ended from outside.
    pub ended: u64,
    /// Live flows that gave way to new ones.
    pub evicted: u64,
    /// The same by what they were.
    pub evicted_by: Evicted,
    /// New flows that found no room, but for untracked ones: these pass without an entry.
    pub refused: u64,
    /// New flows that their interface's limit refused, again but for untracked ones.
    pub limited: u64,
    /// Entries in use that would give way.
    pub can_give_way: u32,
}

impl ShardStats {
    /// New flows that were refused: AWS's `conntrack_allowance_exceeded`.
    #[must_use]
    pub fn allowance_exceeded(&self) -> u64 {
        self.refused.saturating_add(self.limited)
    }

    /// Flows that could still be opened, by free entries and those that would give way: AWS's
    /// `conntrack_allowance_available`.
    #[must_use]
    pub fn allowance_available(&self) -> u32 {
        let free = self.max_flows.saturating_sub(self.flows);
        free.saturating_add(self.can_give_way)
    }
}

/// Live flows that gave way to new ones, in the order in which they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Untracked flows, which pass by the rules without an entry.
    pub untracked: u64,
    /// Closed connections.
    pub tombstones: u64,
    /// Flows that the other side had not answered.
    pub unanswered: u64,
    /// Unfinished handshakes.
    pub half_open: u64,
}

impl Evicted {
    /// All of them, in that order.
    #[must_use]
    pub fn by_kind(self) -> [u64; 4] {
        [
            self.untracked,
            self.tombstones,
            self.unanswered,
            self.half_open,
        ]
    }
}

/// Memory of a shard in bytes, by when it is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMemory {
    /// What a table full of IPv4 flows uses.
    pub flows: usize,
    /// What the store of fragments takes, whatever the size of the table.
    pub fragments: usize,
    /// What it uses more if all of them are IPv6.
    pub ipv6: usize,
    /// What it uses more if all of them are heavy: 4,096 packets or 1 MiB of one side.
    pub heavy: usize,
    /// What it uses more if there are as many interfaces as it can count, and all flows can give
    /// way to others of theirs: 32 bytes an interface, 8 a flow.
    pub interfaces: usize,
}

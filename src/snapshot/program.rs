//! The rules of one set of groups in one direction, as bitmaps.
//!
//! A bit stands for a *service* (protocol and ports) that the rules name, not for a rule: policies
//! have many rules and few services. Each class of packets by service has a row of the services
//! that contain it; each key of the address side (see [`super::classes`]) has a row of the services
//! allowed with that peer, and the rule for each. Services are numbered from narrow to wide, so the
//! lowest common bit is the narrowest one.

use super::Question;
use super::classes::CLASS_KEYS_MAX;
use super::interval::IntervalMap;
use super::key_map::KeyMap;
use super::rows::{Common, Row, Rows};
use crate::packet::Family;
use crate::types::{RuleSlot, protocol};

/// A point of the service space: the kind of service in the high half, the number in the low one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServicePoint(pub(crate) u32);

impl ServicePoint {
    /// A protocol without ports, by its number.
    pub(crate) const OTHER: u32 = 0;
    /// TCP, by destination port.
    pub(crate) const TCP: u32 = 1;
    /// UDP, by destination port.
    pub(crate) const UDP: u32 = 2;
    /// ICMP over IPv4, by type and code.
    pub(crate) const ICMP: u32 = 3;
    /// ICMP over IPv6, by type and code.
    pub(crate) const ICMPV6: u32 = 4;

    /// A number of a kind.
    pub(crate) const fn new(kind: u32, number: u16) -> Self {
        Self((kind << 16) | number as u32)
    }

    /// Where a question's packet lies. ICMP of the other family is a protocol like any other.
    #[inline]
    fn of(question: &Question) -> Self {
        let number = question.service;
        match (question.protocol, question.remote.family()) {
            (protocol::TCP, _) => Self::new(Self::TCP, number),
            (protocol::UDP, _) => Self::new(Self::UDP, number),
            (protocol::ICMP, Family::V4) => Self::new(Self::ICMP, number),
            (protocol::ICMPV6, Family::V6) => Self::new(Self::ICMPV6, number),
            (other, _) => Self::new(Self::OTHER, u16::from(other)),
        }
    }
}

/// What a program lets through whatever the address: (family, TCP or UDP) pairs as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenTransports(pub(crate) u8);

impl OpenTransports {
    /// The bit of a family and protocol; none for protocols that are always tracked.
    pub(crate) fn bit(family: Family, protocol: u8) -> Self {
        let bit = match (protocol, family) {
            (protocol::TCP, Family::V4) => 1,
            (protocol::TCP, Family::V6) => 2,
            (protocol::UDP, Family::V4) => 4,
            (protocol::UDP, Family::V6) => 8,
            _ => 0,
        };
        Self(bit)
    }

    /// Whether they have a bit in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The compiled rules of a set of groups in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Service point → row of the services that contain it.
    pub(crate) services: IntervalMap<u32>,
    /// Address key → row of the services allowed with it.
    pub(crate) peers: KeyMap,
    /// Rows of what is allowed with any address, by family (IPv4, IPv6).
    pub(crate) any_address: [Row; 2],
    /// The rows of both sides.
    pub(crate) rows: Rows,
    /// Slot of each rule of the program.
    pub(crate) slots: Box<[RuleSlot]>,
    /// Any address on all ports.
    pub(crate) open: OpenTransports,
}

/// What a program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// The first rule that allows the packet.
    pub(crate) rule: RuleSlot,
    /// A rule for any address allows it too, or is that rule.
    pub(crate) by_any_address: bool,
}

impl Program {
    /// The first rule that allows a packet whose remote address has these keys: that of the
    /// narrowest service, then the first in the program's order.
    #[inline]
    pub(crate) fn find(&self, question: &Question, keys: &[u32]) -> Option<Match> {
        let service = Row(self.services.find(ServicePoint::of(question).0)?);
        if service == Row::EMPTY {
            return None;
        }
        let [v4, v6] = self.any_address;
        let any_address = match question.remote.family() {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let by_any_address = self.rows.first_common(any_address, service);
        let mut first = by_any_address;
        for key in keys.iter().take(CLASS_KEYS_MAX) {
            if let Some(row) = self.peers.find(*key) {
                first = earlier(first, self.rows.first_common(Row(row), service));
            }
        }
        Some(Match {
            rule: *self.slots.get(usize::try_from(first?.rule).ok()?)?,
            by_any_address: by_any_address.is_some(),
        })
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.services
            .bytes()
            .saturating_add(self.peers.bytes())
            .saturating_add(self.rows.bytes())
            .saturating_add(size_of_val(&*self.slots))
            .saturating_add(size_of::<Self>())
    }
}

/// The lower bit, then the earlier rule.
#[inline]
fn earlier(left: Option<Common>, right: Option<Common>) -> Option<Common> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (one, None) | (None, one) => one,
    }
}

//! The canonical key of a flow: both directions of a connection give the same one.

use super::headers::{Address, Addresses, Family, IpPacket, Transport, VlanTags};
use crate::types::{LinkId, protocol};

/// Which end of the canonical key sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The end that is stored as `low`.
    Low,
    /// The end that is stored as `high`.
    High,
}

impl End {
    /// The other end.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

/// Distinguishes keys whose numbers alone would be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// Either end may have spoken first (TCP, UDP, other protocols).
    Symmetric = 0,
    /// An ICMP query that the low end asked.
    QueryFromLow = 1,
    /// An ICMP query that the high end asked.
    QueryFromHigh = 2,
}

/// Link, VLAN and five-tuple in canonical order: `low` is the numerically lower (address, port).
///
/// ICMP queries (echo; IPv4 timestamp) use the identifier as the port of the end that asked, and
/// the request's type as the port of the end that answers. Protocols without ports have 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Family of both addresses.
    pub family: Family,
    /// How to read the ports.
    pub kind: KeyKind,
    /// IP protocol.
    pub protocol: u8,
    /// The link that the flow is on.
    pub link: LinkId,
    /// VLAN ids.
    pub vlan: VlanTags,
    /// Lower end's address bits (IPv4 in the low 32).
    pub low: u128,
    /// Higher end's address bits.
    pub high: u128,
    /// Lower end's port.
    pub low_port: u16,
    /// Higher end's port.
    pub high_port: u16,
}

impl FlowKey {
    /// The key of a packet and the end that sent it; `None` for what is not tracked: ICMP messages
    /// that are neither query nor reply, and fragments after the first.
    #[must_use]
    pub fn of(link: LinkId, packet: &IpPacket) -> Option<(Self, End)> {
        let (family, source, destination) = match packet.addresses {
            Addresses::V4 {
                source,
                destination,
            } => (Family::V4, u128::from(source), u128::from(destination)),
            Addresses::V6 {
                source,
                destination,
            } => (Family::V6, source, destination),
        };
        if matches!(packet.fragment, super::Fragment::Later { .. }) {
            return None;
        }
        let mut asks = None;
        let (source_port, destination_port) = match packet.transport {
            Transport::Tcp(ref tcp) => (tcp.source_port, tcp.destination_port),
            Transport::Udp {
                source_port,
                destination_port,
            } => (source_port, destination_port),
            Transport::Icmp { kind, id, .. } => {
                let (is_query, request) = icmp_query(packet.protocol, kind)?;
                asks = Some(is_query);
                if is_query {
                    (id, u16::from(request))
                } else {
                    (u16::from(request), id)
                }
            }
            Transport::Other => (0, 0),
        };
        let source_is_low = (source, source_port) <= (destination, destination_port);
        // An ICMP message between equal addresses has no lower end by address: let the asker be it.
        let source_is_low = match asks {
            Some(is_query) if source == destination => is_query,
            Some(_) => source < destination,
            None => source_is_low,
        };
        let kind = match asks {
            None => KeyKind::Symmetric,
            Some(is_query) if is_query == source_is_low => KeyKind::QueryFromLow,
            Some(_) => KeyKind::QueryFromHigh,
        };
        let (low, high, low_port, high_port) = if source_is_low {
            (source, destination, source_port, destination_port)
        } else {
            (destination, source, destination_port, source_port)
        };
        let end = if source_is_low { End::Low } else { End::High };
        let protocol = packet.protocol;
        let vlan = packet.vlan;
        Some((
            Self {
                family,
                kind,
                protocol,
                link,
                vlan,
                low,
                high,
                low_port,
                high_port,
            },
            end,
        ))
    }

    /// Address and port of one end.
    #[must_use]
    pub fn end(&self, end: End) -> (Address, u16) {
        let (bits, port) = match end {
            End::Low => (self.low, self.low_port),
            End::High => (self.high, self.high_port),
        };
        let address = match self.family {
            #[expect(clippy::cast_possible_truncation, reason = "IPv4 keys hold 32 bits")]
            Family::V4 => Address::V4(bits as u32),
            Family::V6 => Address::V6(bits),
        };
        (address, port)
    }
}

/// Whether an ICMP message is a query (or else a reply) that is tracked by its identifier, and
/// the type of the request. IPv4: echo (RFC 792) and timestamp; IPv6: echo (RFC 4443 §4).
fn icmp_query(protocol: u8, kind: u8) -> Option<(bool, u8)> {
    match (protocol, kind) {
        (protocol::ICMP, 8) => Some((true, 8)),
        (protocol::ICMP, 0) => Some((false, 8)),
        (protocol::ICMP, 13) => Some((true, 13)),
        (protocol::ICMP, 14) => Some((false, 13)),
        (protocol::ICMPV6, 128) => Some((true, 128)),
        (protocol::ICMPV6, 129) => Some((false, 128)),
        _ => None,
    }
}

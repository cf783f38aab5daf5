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

impl KeyKind {
    /// A small number for it.
    #[must_use]
    #[inline]
    pub fn number(self) -> u8 {
        self as u8
    }
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

    /// A key for the fragments of one datagram, to be hashed only. It is no flow's: the directions
    /// stay apart, since each side counts its own ids.
    #[must_use]
    pub fn of_datagram(
        link: LinkId,
        vlan: VlanTags,
        addresses: Addresses,
        protocol: u8,
        id: u32,
    ) -> Self {
        let (family, low, high) = match addresses {
            Addresses::V4 {
                source,
                destination,
            } => (Family::V4, u128::from(source), u128::from(destination)),
            Addresses::V6 {
                source,
                destination,
            } => (Family::V6, source, destination),
        };
        let [a, b, c, d] = id.to_be_bytes();
        Self {
            family,
            kind: KeyKind::Symmetric,
            protocol,
            link,
            vlan,
            low,
            high,
            low_port: u16::from_be_bytes([a, b]),
            high_port: u16::from_be_bytes([c, d]),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::build::{self, FrameBuilder};
    use crate::packet::{Parsed, parse};

    const LINK: LinkId = LinkId(3);

    fn packet(frame: &FrameBuilder) -> IpPacket {
        let bytes = frame.build();
        match parse(&bytes, bytes.len()) {
            Parsed::Ip(packet) => packet,
            other => panic!("{other:?}"),
        }
    }

    fn key(frame: &FrameBuilder) -> (FlowKey, End) {
        FlowKey::of(LINK, &packet(frame)).unwrap()
    }

    fn v4() -> FrameBuilder {
        build::v4("10.0.0.9", "10.0.0.10")
    }

    fn v6() -> FrameBuilder {
        build::v6("2001:db8::9", "2001:db8::10")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn both_directions_have_one_key_and_opposite_ends(
            source in any::<u128>(), destination in any::<u128>(),
            source_port in any::<u16>(), destination_port in any::<u16>(),
            is_v4 in any::<bool>(), is_tcp in any::<bool>(), near in any::<bool>(),
        ) {
            let destination = if near { source ^ (destination & 1) } else { destination };
            prop_assume!((source, source_port) != (destination, destination_port));
            let address = |bits: u128| match is_v4 {
                true => Address::V4(u32::try_from(bits & 0xffff_ffff).unwrap()),
                false => Address::V6(bits),
            };
            let differ = address(source) != address(destination);
            prop_assume!(differ || source_port != destination_port);
            let frame = build::between(address(source), address(destination));
            let frame = if is_tcp {
                frame.tcp(source_port, destination_port)
            } else {
                frame.udp(source_port, destination_port)
            };
            let (there, end) = key(&frame);
            let (back, other_end) = key(&frame.reversed());
            prop_assert_eq!(there, back);
            prop_assert_eq!(end, other_end.opposite());
            prop_assert_eq!(there.end(end), (address(source), source_port));
            prop_assert_eq!(there.end(other_end), (address(destination), destination_port));
            prop_assert!((there.low, there.low_port) < (there.high, there.high_port));
        }

        #[test]
        fn icmp_reply_has_its_querys_key(
            source in any::<u32>(), destination in any::<u32>(), id in any::<u16>(),
        ) {
            let frame = build::between(Address::V4(source), Address::V4(destination));
            let (query, asks) = key(&frame.clone().echo_request(id, 1));
            let (reply, answers) = key(&frame.reversed().echo_reply(id, 1));
            prop_assert_eq!(query, reply);
            prop_assert_eq!(asks, answers.opposite());
            prop_assert_eq!(query.end(asks).1, id);
        }
    }

    #[test]
    fn query_of_the_other_side_with_the_same_id_is_another_flow() {
        for frame in [v4(), v6()] {
            let (ours, _) = key(&frame.clone().echo_request(7, 1));
            let (theirs, _) = key(&frame.clone().reversed().echo_request(7, 1));
            assert_ne!(ours, theirs);
            // Each reply goes with its own query.
            assert_eq!(ours, key(&frame.clone().reversed().echo_reply(7, 1)).0);
            assert_eq!(theirs, key(&frame.echo_reply(7, 1)).0);
        }
    }

    #[test]
    fn query_id_that_looks_like_the_request_type_stays_apart() {
        let (ours, _) = key(&v4().echo_request(8, 1));
        let (theirs, _) = key(&v4().reversed().echo_request(8, 1));
        assert_ne!(ours, theirs);
    }

    #[test]
    fn timestamp_queries_are_tracked_apart_from_echo() {
        let id = [0, 7, 0, 1];
        let (query, _) = key(&v4().icmp(13, 0, id).payload_len(12));
        let (reply, _) = key(&v4().reversed().icmp(14, 0, id).payload_len(12));
        assert_eq!(query, reply);
        assert_ne!(query, key(&v4().echo_request(7, 1)).0);
    }

    #[test]
    fn other_icmp_and_later_fragments_have_no_key() {
        for frame in [
            v4().icmp(3, 1, [0; 4]),
            v4().icmp(17, 0, [0; 4]),
            v4().icmp(128, 0, [0; 4]),
            v6().icmp(1, 0, [0; 4]),
            v6().icmp(8, 0, [0; 4]),
            v6().neighbor(135, "2001:db8::10"),
            v4().udp(1, 2).fragment(1, 8, false).payload_len(8),
            v6().udp(1, 2).fragment(1, 8, false).payload_len(8),
        ] {
            assert_eq!(FlowKey::of(LINK, &packet(&frame)), None, "{frame:?}");
        }
    }

    #[test]
    fn first_fragment_has_the_flows_key() {
        let whole = v4().udp(1, 2).payload_len(16);
        assert_eq!(key(&whole.clone().fragment(1, 0, true)), key(&whole));
    }

    #[test]
    fn link_vlan_family_and_protocol_separate_flows() {
        let frame = v4().udp(1, 2);
        let (base, _) = key(&frame);
        let tagged =
            |tags: &[u16]| key(&tags.iter().fold(frame.clone(), |frame, id| frame.vlan(*id))).0;
        let keys = [
            base,
            FlowKey::of(LinkId(4), &packet(&frame)).unwrap().0,
            tagged(&[0]),
            tagged(&[20]),
            tagged(&[20, 30]),
            tagged(&[30, 20]),
            key(&v4().tcp(1, 2)).0,
            key(&v6().udp(1, 2)).0,
            key(&build::v6("::a00:9", "::a00:a").udp(1, 2)).0,
        ];
        for (index, one) in keys.iter().enumerate() {
            for other in &keys[index + 1..] {
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn vlan_priority_does_not_separate_flows() {
        let high = v4().tag(0x8100, 0xe000 | 20).udp(1, 2);
        assert_eq!(key(&high), key(&v4().vlan(20).udp(1, 2)));
    }

    #[test]
    fn equal_addresses_are_told_apart_by_port() {
        let same = build::v4("10.0.0.9", "10.0.0.9");
        let (there, end) = key(&same.clone().udp(5, 6));
        let (back, other) = key(&same.clone().udp(6, 5));
        assert_eq!((there, end), (back, other.opposite()));
        let (query, asks) = key(&same.clone().echo_request(3, 1));
        let (reply, answers) = key(&same.echo_reply(3, 1));
        assert_eq!((query, asks), (reply, answers.opposite()));
    }

    #[test]
    fn protocols_without_ports_are_one_flow_between_two_hosts() {
        let (there, end) = key(&v4().protocol(47));
        let (back, other) = key(&v4().reversed().protocol(47));
        assert_eq!((there, end), (back, other.opposite()));
        assert_eq!((there.low_port, there.high_port), (0, 0));
    }
}

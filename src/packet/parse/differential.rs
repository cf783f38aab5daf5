//! The parser against the oracle (exact), and against etherparse (up to the differences that are
//! listed where they are let through).

use std::collections::HashSet;
use std::mem::discriminant;

use etherparse::{
    EtherType, Ipv6ExtensionSlice, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::generate::{frames, samples};
use super::{BriefPlace, is_icmp_error, oracle, parse, parse_brief, parse_quoted};
use crate::packet::brief::Brief;
use crate::packet::build::{self, FrameBuilder};
use crate::packet::headers::{
    Address, Family, Fragment, IpPacket, Malformed, Parsed, Transport, VlanTags,
};
use crate::types::{LinkId, protocol};

proptest! {
    #![proptest_config(ProptestConfig {
        // More than the usual, since a case costs microseconds; PROPTEST_CASES scales it.
        cases: ProptestConfig::default().cases.saturating_mul(32),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn parse_agrees_with_the_oracle(sample in samples()) {
        let parsed = parse(&sample.bytes, sample.original_len);
        prop_assert_eq!(parsed, oracle::parse(&sample.bytes, sample.original_len));
    }

    #[test]
    fn brief_form_is_the_packet(sample in samples()) {
        brief_agrees(&sample.bytes, sample.original_len);
    }

    #[test]
    fn parse_agrees_with_etherparse(frame in frames()) {
        let bytes = frame.build();
        agree(&bytes)?;
    }

    #[test]
    fn parse_agrees_with_etherparse_on_changed_frames(sample in samples()) {
        agree(&sample.bytes)?;
    }

    #[test]
    fn quoted_packet_is_the_packet(frame in frames(), code in 0..4_u8, cut in 0..300_usize) {
        let bytes = frame.build();
        if let Parsed::Ip(packet) = parse(&bytes, bytes.len()) {
            quote_agrees(&frame, &packet, code, cut)?;
        }
    }
}

/// The brief form is made of nothing that the parser refuses, and loses nothing of the packet;
/// whether there is one at sight.
pub(super) fn brief_agrees(bytes: &[u8], original_len: usize) -> bool {
    const LINK: LinkId = LinkId(5);
    let other = build::v4("10.9.9.9", "10.8.8.8")
        .vlan(9)
        .tcp(1, 2)
        .syn()
        .ack();
    let other = other.sequence(u32::MAX).window(9).window_scale(9).build();
    let mut left_over = Brief::NONE;
    let mut beside = [u128::MAX; 2];
    let to = BriefPlace {
        brief: &mut left_over,
        beside: &mut beside,
    };
    assert!(parse_brief(&other, 0, LINK, to));
    let parsed = parse(bytes, original_len);
    let of_packet = match parsed {
        Parsed::Ip(packet) => Brief::of(LINK, &packet),
        _ => None,
    };
    if let (Parsed::Ip(packet), Some((brief, beside))) = (parsed, of_packet) {
        assert_eq!(brief.packet(&beside), packet);
        assert_eq!(brief.key.link(), LINK);
    }
    let original_len = u32::try_from(original_len).unwrap_or(u32::MAX);
    let mut brief = left_over;
    let to = BriefPlace {
        brief: &mut brief,
        beside: &mut beside,
    };
    let is_brief = parse_brief(bytes, original_len, LINK, to);
    if is_brief {
        let beside = if brief.key.is_v6() { beside } else { [0; 2] };
        assert_eq!(of_packet, Some((brief, beside)), "{bytes:?} {original_len}");
    }
    // What it is for, it takes: no options or extensions, one 802.1Q tag at most, no DHCP.
    if let Parsed::Ip(packet) = parsed
        && let Some((known, _)) = of_packet
    {
        let at = if packet.vlan.outer.is_some() { 18 } else { 14 };
        let is_tagged_so = at == 14 || bytes[12..14] == [0x81, 0];
        let is_plain = match packet.addresses.family() {
            Family::V4 => bytes[at] == 0x45,
            Family::V6 => bytes[at + 6] == packet.protocol,
        };
        let dhcp = match packet.addresses.family() {
            Family::V4 => [67, 68],
            Family::V6 => [546, 547],
        };
        let is_dhcp = packet.protocol == protocol::UDP
            && (known.key.ports() == dhcp || known.key.ports() == [dhcp[1], dhcp[0]]);
        let is_common = packet.vlan.inner.is_none() && is_tagged_so && is_plain;
        assert_eq!(is_brief, is_common && !is_dhcp, "{bytes:?} {known:?}");
    }
    is_brief
}

#[test]
fn dhcp_and_land_have_no_brief_form_at_sight() {
    let between = |source, target, frame: FrameBuilder| {
        let bytes = frame.udp(source, target).build();
        brief_agrees(&bytes, bytes.len())
    };
    assert!(between(67, 67, build::v4("10.0.0.1", "10.0.0.2")));
    assert!(!between(67, 68, build::v4("10.0.0.1", "10.0.0.2")));
    assert!(!between(68, 67, build::v4("10.0.0.1", "10.0.0.2")));
    assert!(!between(546, 547, build::v6("2001:db8::1", "2001:db8::2")));
    assert!(!between(547, 546, build::v6("2001:db8::1", "2001:db8::2")));
    assert!(!between(5, 5, build::v6("2001:db8::1", "2001:db8::1")));
    assert!(between(6, 5, build::v6("2001:db8::1", "2001:db8::1")));
    assert!(!between(5, 5, build::v4("10.0.0.1", "10.0.0.1")));
    assert!(between(5, 6, build::v4("10.0.0.1", "10.0.0.1").vlan(7)));
}

#[test]
fn generated_frames_are_brief_often_enough() {
    let mut runner = TestRunner::deterministic();
    let count = (0..4000).filter(|_| {
        let sample = samples().new_tree(&mut runner).unwrap().current();
        brief_agrees(&sample.bytes, sample.original_len)
    });
    let count = count.count();
    assert!(count > 100, "{count}");
}

/// A generator that never makes a kind of frame would prove nothing about it.
#[test]
fn generated_frames_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = HashSet::new();
    for _ in 0..4000 {
        let sample = samples().new_tree(&mut runner).unwrap().current();
        let parsed = parse(&sample.bytes, sample.original_len);
        seen.insert(match parsed {
            Parsed::Ip(packet) => (
                discriminant(&parsed),
                Some(discriminant(&packet.transport)),
                Some((discriminant(&packet.fragment), packet.addresses.family())),
                None,
            ),
            Parsed::Malformed(malformed) => (discriminant(&parsed), None, None, Some(malformed)),
            _ => (discriminant(&parsed), None, None, None),
        });
    }
    // IP: whole and first fragments of four transports, later fragments of none, two families.
    let ip = 2 * (2 * 4 + 1);
    // All kinds of malformed frames but ARP, and not IP.
    assert_eq!(seen.len(), ip + 7 + 1, "{seen:?}");
}

/// An error that quotes a packet gives its fields again, or nothing.
fn quote_agrees(
    frame: &FrameBuilder,
    packet: &IpPacket,
    code: u8,
    cut: usize,
) -> Result<(), TestCaseError> {
    let (destination, source) = (packet.addresses.source(), packet.addresses.destination());
    let kind = if destination.family() == Family::V4 {
        11
    } else {
        3
    };
    let error = build::between(source, destination)
        .vlan(4095)
        .icmp_error(kind, code, frame);
    let bytes = error.build();
    // Some errors are cut by a capture as well: never more than a missing quote.
    let captured = &bytes[..bytes.len().saturating_sub(cut.saturating_sub(150))];
    let quoted = parse_quoted(captured, bytes.len());
    let relates = !matches!(packet.fragment, Fragment::Later { .. }) && !is_icmp_error(packet);
    if captured.len() == bytes.len() {
        prop_assert_eq!(quoted.is_some(), relates, "{:?} {:?}", packet, quoted);
    }
    let Some(quoted) = quoted else { return Ok(()) };
    let outer = Some(4095);
    prop_assert!(relates);
    prop_assert_eq!(quoted.vlan, VlanTags { outer, inner: None });
    prop_assert_eq!(quoted.addresses, packet.addresses);
    prop_assert_eq!(quoted.protocol, packet.protocol);
    prop_assert_eq!(quoted.hop_limit, packet.hop_limit);
    let without_len = match packet.fragment {
        Fragment::First { id, .. } => Fragment::First { id, len: 0 },
        other => other,
    };
    prop_assert_eq!(quoted.fragment, without_len);
    match (quoted.transport, packet.transport) {
        (Transport::Tcp(ours), Transport::Tcp(theirs)) => {
            prop_assert_eq!(ours.source_port, theirs.source_port);
            prop_assert_eq!(ours.destination_port, theirs.destination_port);
            prop_assert_eq!(ours.sequence, theirs.sequence);
        }
        (Transport::Icmp { kind, code, id, .. }, theirs) => {
            let target = match theirs {
                Transport::Icmp { target, .. } => target,
                _ => None,
            };
            let ours = Transport::Icmp {
                kind,
                code,
                id,
                target,
            };
            prop_assert_eq!(ours, theirs);
        }
        (ours, theirs) => prop_assert_eq!(ours, theirs),
    }
    Ok(())
}

/// Whether what we say follows from what etherparse says.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let parsed = parse(bytes, bytes.len());
    match (SlicedPacket::from_ethernet(bytes), parsed) {
        (Ok(sliced), Parsed::Ip(packet)) => fields_agree(&sliced, &packet),
        (Ok(sliced), Parsed::Malformed(malformed)) => {
            prop_assert!(
                is_stricter(bytes, &sliced, malformed),
                "{malformed:?} {sliced:?}"
            );
            Ok(())
        }
        (Ok(sliced), Parsed::NotIp { ethertype }) => {
            // MACsec and tagged frames that carry it are walked by etherparse only.
            let payload = sliced.ether_payload().map(|payload| payload.ether_type);
            let is_macsec = ethertype == 0x88e5;
            prop_assert!(
                payload == Some(EtherType(ethertype)) || is_macsec,
                "{sliced:?}"
            );
            Ok(())
        }
        (Ok(sliced), Parsed::Arp(arp)) => {
            let Some(NetSlice::Arp(other)) = sliced.net else {
                return Err(TestCaseError::fail("no ARP"));
            };
            prop_assert_eq!(arp.operation, other.operation().0);
            prop_assert_eq!(&arp.sender.to_be_bytes()[..], other.sender_protocol_addr());
            prop_assert_eq!(&arp.target.to_be_bytes()[..], other.target_protocol_addr());
            Ok(())
        }
        // Broken to etherparse is malformed to us, with these exceptions.
        (Err(_), Parsed::Malformed(_)) => Ok(()),
        (Err(error), Parsed::Ip(packet)) => {
            let is_more_lenient = match packet.transport {
                // AH (51) is a protocol to us, IGMP's contents are not looked at, and ICMP of the
                // other family is no ICMP.
                Transport::Other => is_looked_into(bytes, &packet),
                // etherparse asks for the 20 bytes of a timestamp; we read 8 (RFC 792's common
                // header), which is all that tracking uses.
                Transport::Icmp { kind, .. } => matches!(kind, 13 | 14),
                _ => false,
            };
            prop_assert!(is_more_lenient, "{error:?} {packet:?}");
            Ok(())
        }
        (Err(error), other) => {
            let is_macsec = other == Parsed::NotIp { ethertype: 0x88e5 };
            prop_assert!(is_macsec, "{error:?} {other:?}");
            Ok(())
        }
    }
}

/// Protocols into which etherparse looks and we do not.
fn is_looked_into(bytes: &[u8], packet: &IpPacket) -> bool {
    let in_ipv6_fragment = packet.addresses.family() == Family::V6
        && matches!(packet.fragment, Fragment::Later { .. })
        // A later fragment's "next header" describes the first one's contents; etherparse walks on.
        && matches!(packet.protocol, 0 | 43 | 44 | 51 | 60 | 135);
    // An IPv6 packet that says it has no payload is taken by etherparse to the end of the frame.
    let is_jumbo = packet.addresses.family() == Family::V6 && ipv6_payload_len(bytes) == Some(0);
    matches!(packet.protocol, 1 | 2 | 51 | 58) || in_ipv6_fragment || is_jumbo
}

/// The payload length field of an IPv6 frame.
fn ipv6_payload_len(bytes: &[u8]) -> Option<u16> {
    let mut at = 12;
    while matches!(bytes.get(at..at + 2), Some([0x81 | 0x91, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let field = bytes.get(at + 6..at + 8)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

/// Where both accept a packet, all fields are the same.
fn fields_agree(sliced: &SlicedPacket<'_>, packet: &IpPacket) -> Result<(), TestCaseError> {
    let mut ids = sliced.link_exts.iter().filter_map(|ext| match ext {
        LinkExtSlice::Vlan(tag) => Some(tag.vlan_identifier().value()),
        LinkExtSlice::Macsec(_) => None,
    });
    let (outer, inner) = (ids.next(), ids.next());
    prop_assert_eq!(packet.vlan, VlanTags { outer, inner });
    let mut walks_further = false;
    match sliced.net.as_ref() {
        Some(NetSlice::Ipv4(v4)) => {
            let header = v4.header();
            let source = Address::V4(header.source_addr().to_bits());
            let destination = Address::V4(header.destination_addr().to_bits());
            prop_assert_eq!(packet.addresses.source(), source);
            prop_assert_eq!(packet.addresses.destination(), destination);
            prop_assert_eq!(packet.hop_limit, header.ttl());
            prop_assert_eq!(packet.protocol, header.protocol().0);
            let id = u32::from(header.identification());
            let offset = header.fragments_offset().value() * 8;
            fragments_agree(packet, id, offset, header.more_fragments())?;
            walks_further = !v4.extensions().is_empty();
        }
        Some(NetSlice::Ipv6(v6)) => {
            let header = v6.header();
            let source = Address::V6(header.source_addr().to_bits());
            let destination = Address::V6(header.destination_addr().to_bits());
            prop_assert_eq!(packet.addresses.source(), source);
            prop_assert_eq!(packet.addresses.destination(), destination);
            prop_assert_eq!(packet.hop_limit, header.hop_limit());
            let mut piece = (0, 0, false);
            for extension in v6.extensions().clone() {
                match extension {
                    Ipv6ExtensionSlice::Fragment(header) => {
                        piece = (
                            header.identification(),
                            header.fragment_offset().value() * 8,
                            header.more_fragments(),
                        );
                        // Behind the header of a later fragment is no header to us.
                        if header.fragment_offset().value() > 0 {
                            walks_further = true;
                            break;
                        }
                    }
                    Ipv6ExtensionSlice::Authentication(_) => {
                        walks_further = true;
                        break;
                    }
                    _ => {}
                }
            }
            // Mobility is an extension header to us and a protocol to etherparse.
            walks_further |= v6.payload().ip_number.0 == 135;
            // No payload to us, the rest of the frame to etherparse.
            walks_further |= header.payload_length() == 0;
            if !walks_further {
                prop_assert_eq!(packet.protocol, v6.payload().ip_number.0);
                fragments_agree(packet, piece.0, piece.1, piece.2)?;
            }
        }
        other => return Err(TestCaseError::fail(format!("{other:?}"))),
    }
    if walks_further || packet.fragment != Fragment::Whole {
        return Ok(());
    }
    transports_agree(sliced, packet)
}

fn fragments_agree(
    packet: &IpPacket,
    id: u32,
    offset: u16,
    more: bool,
) -> Result<(), TestCaseError> {
    // The length is the slow oracle's to hold: etherparse has no word for it.
    let len = match packet.fragment {
        Fragment::Whole => 0,
        Fragment::First { len, .. } | Fragment::Later { len, .. } => len,
    };
    let expected = match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First { id, len },
        _ => Fragment::Later {
            id,
            offset,
            len,
            more,
        },
    };
    prop_assert_eq!(packet.fragment, expected);
    Ok(())
}

fn transports_agree(sliced: &SlicedPacket<'_>, packet: &IpPacket) -> Result<(), TestCaseError> {
    match (packet.transport, sliced.transport.as_ref()) {
        (Transport::Tcp(tcp), Some(TransportSlice::Tcp(other))) => {
            prop_assert_eq!(tcp.source_port, other.source_port());
            prop_assert_eq!(tcp.destination_port, other.destination_port());
            prop_assert_eq!(tcp.sequence, other.sequence_number());
            prop_assert_eq!(tcp.acknowledgment, other.acknowledgment_number());
            prop_assert_eq!(tcp.window, other.window_size());
            prop_assert_eq!(tcp.flags.syn(), other.syn());
            prop_assert_eq!(tcp.flags.ack(), other.ack());
            prop_assert_eq!(tcp.flags.fin(), other.fin());
            prop_assert_eq!(tcp.flags.rst(), other.rst());
            prop_assert_eq!(tcp.payload_len as usize, other.payload().len());
            // etherparse ends at any option it finds wrong; its scale is ours where it reads on.
            let mut scale = None;
            for option in other.options_iterator() {
                match option {
                    Ok(etherparse::TcpOptionElement::WindowScale(shift)) => {
                        scale = Some(shift.min(14));
                    }
                    Ok(_) => {}
                    Err(_) => return Ok(()),
                }
            }
            prop_assert_eq!(tcp.window_scale, scale.filter(|_| tcp.flags.syn()));
        }
        (
            Transport::Udp {
                source_port,
                destination_port,
            },
            Some(TransportSlice::Udp(other)),
        ) => {
            prop_assert_eq!(source_port, other.source_port());
            prop_assert_eq!(destination_port, other.destination_port());
        }
        (Transport::Icmp { kind, code, id, .. }, Some(TransportSlice::Icmpv4(other))) => {
            prop_assert_eq!((kind, code), (other.type_u8(), other.code_u8()));
            prop_assert_eq!(&id.to_be_bytes(), &other.bytes5to8()[..2]);
        }
        (Transport::Icmp { kind, code, id, .. }, Some(TransportSlice::Icmpv6(other))) => {
            prop_assert_eq!((kind, code), (other.type_u8(), other.code_u8()));
            prop_assert_eq!(&id.to_be_bytes(), &other.bytes5to8()[..2]);
        }
        // ICMP of the other family, and IGMP.
        (Transport::Other, Some(other)) => {
            let expected = match other {
                TransportSlice::Icmpv4(_) => (Family::V6, 1),
                TransportSlice::Icmpv6(_) => (Family::V4, 58),
                TransportSlice::Igmp(_) => (packet.addresses.family(), 2),
                _ => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(expected, (packet.addresses.family(), packet.protocol));
        }
        (Transport::Other, None) => {}
        (ours, theirs) => return Err(TestCaseError::fail(format!("{ours:?} {theirs:?}"))),
    }
    Ok(())
}

/// Whether a frame that etherparse accepts is one of those that we refuse on purpose.
fn is_stricter(bytes: &[u8], sliced: &SlicedPacket<'_>, malformed: Malformed) -> bool {
    let tags_count = sliced.link_exts.len();
    let v6 = match &sliced.net {
        Some(NetSlice::Ipv6(v6)) => Some(v6),
        _ => None,
    };
    let is_jumbo = v6.is_some_and(|v6| v6.header().payload_length() == 0);
    // etherparse takes mobility headers for a protocol, and an IPv6 packet without payload to the
    // end of the frame: what we say about the rest it did not judge.
    if is_jumbo || v6.is_some_and(|v6| v6.payload().ip_number.0 == 135) {
        return true;
    }
    match malformed {
        // A third tag.
        Malformed::Ethernet => tags_count >= 2,
        // Other ARP than Ethernet/IPv4.
        Malformed::Arp => matches!(sliced.net, Some(NetSlice::Arp(_))),
        // etherparse leaves the checksum to its caller.
        Malformed::Checksum => match &sliced.net {
            Some(NetSlice::Ipv4(v4)) => {
                let header = v4.header().to_header();
                header.calc_header_checksum() != header.header_checksum
            }
            _ => false,
        },
        Malformed::IpLength => false,
        // etherparse knows no limit, no deprecated type and no second fragment header.
        Malformed::ExtensionHeaders => {
            let Some(v6) = v6 else { return false };
            let extensions: Vec<_> = v6.extensions().clone().into_iter().collect();
            let fragments = extensions
                .iter()
                .filter(|extension| matches!(extension, Ipv6ExtensionSlice::Fragment(_)));
            let has_type_0 = extensions.iter().any(|extension| match extension {
                Ipv6ExtensionSlice::Routing(routing) => routing.slice()[2] == 0,
                _ => false,
            });
            extensions.len() > 8 || fragments.count() > 1 || has_type_0
        }
        // etherparse judges no fragment; the oracle does.
        Malformed::Fragment => match &sliced.net {
            Some(NetSlice::Ipv4(v4)) => v4.header().is_fragmenting_payload(),
            Some(NetSlice::Ipv6(v6)) => v6.is_payload_fragmented(),
            _ => false,
        },
        Malformed::Transport => {
            let is_udp_of_no_length = match &sliced.transport {
                Some(TransportSlice::Udp(udp)) => udp.length() == 0,
                _ => false,
            };
            let is_fragment = match &sliced.net {
                Some(NetSlice::Ipv4(v4)) => v4.header().is_fragmenting_payload(),
                Some(NetSlice::Ipv6(v6)) => v6.is_payload_fragmented(),
                _ => false,
            };
            is_udp_of_no_length || is_fragment
        }
        // Same address and port at both ends: the oracle judges which.
        Malformed::Land => matches!(oracle::parse(bytes, bytes.len()), Parsed::Malformed(_)),
    }
}

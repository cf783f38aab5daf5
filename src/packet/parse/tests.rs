//! What each kind of frame is: the table, and what no input may do.

use super::differential::brief_agrees;
use super::{oracle, parse, parse_quoted};
use crate::packet::build::{self, FrameBuilder};
use crate::packet::headers::{
    ArpPacket, Fragment, IpPacket, Malformed, Parsed, Transport, VlanTags,
};

fn v4() -> FrameBuilder {
    build::v4("10.0.0.1", "10.0.0.2")
}

fn v6() -> FrameBuilder {
    build::v6("2001:db8::1", "2001:db8::2")
}

fn parsed(frame: &FrameBuilder) -> Parsed {
    let bytes = frame.build();
    parse(&bytes, bytes.len())
}

fn packet(frame: &FrameBuilder) -> IpPacket {
    match parsed(frame) {
        Parsed::Ip(packet) => packet,
        other => panic!("{other:?} of {frame:?}"),
    }
}

fn window_scale(options: &[u8]) -> Option<u8> {
    match packet(&v4().tcp(1, 2).syn().tcp_options(options)).transport {
        Transport::Tcp(tcp) => tcp.window_scale,
        other => panic!("{other:?}"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn hostile_frames_are_malformed() {
    use Malformed::{
        Arp, Checksum, Ethernet, ExtensionHeaders, Fragment, IpLength, Land, Transport,
    };
    let eight = |frame: FrameBuilder| (0..8).fold(frame, |frame, _| frame.destination_options());
    let long_payload = v4().udp(1, 2).payload_len(24);
    let table: Vec<(&str, FrameBuilder, Malformed)> = vec![
        ("no byte", v4().cut_to(0), Ethernet),
        ("half an Ethernet header", v4().cut_to(13), Ethernet),
        (
            "a third tag",
            v4().vlan(1).vlan(2).vlan(3).udp(1, 2),
            Ethernet,
        ),
        ("a cut tag", v4().vlan(1).cut_to(17), Ethernet),
        (
            "a tag and no ethertype's packet",
            v4().vlan(1).cut_to(18),
            IpLength,
        ),
        (
            "ARP of 27 bytes",
            build::arp(1, "10.0.0.1", "10.0.0.2").cut_to(41),
            Arp,
        ),
        (
            "ARP for Token Ring",
            build::ethernet(0x0806, &[0, 6, 8, 0, 6, 4, 0, 1]),
            Arp,
        ),
        (
            "ARP with addresses of 7 bytes",
            build::ethernet(0x0806, &[0, 1, 8, 0, 7, 4].repeat(8)),
            Arp,
        ),
        ("IPv4 of 19 bytes", v4().cut_to(33), IpLength),
        ("IPv6 in an IPv4 frame", v4().broken_version(6), IpLength),
        ("IPv4 in an IPv6 frame", v6().broken_version(4), IpLength),
        (
            "header length 4 words",
            v4().broken_header_words(4),
            IpLength,
        ),
        (
            "header length beyond the frame",
            v4().broken_header_words(6),
            IpLength,
        ),
        (
            "total length under the header",
            v4().broken_ip_len(19),
            IpLength,
        ),
        ("total length 0", v4().udp(1, 2).broken_ip_len(0), IpLength),
        (
            "total length over the frame",
            v4().udp(1, 2).broken_ip_len(29),
            IpLength,
        ),
        (
            "total length inside of options",
            v4().ip_options(&[1; 8]).broken_ip_len(24),
            IpLength,
        ),
        (
            "wrong checksum",
            v4().udp(1, 2).broken_ip_checksum(0x1234),
            Checksum,
        ),
        (
            "wrong checksum over options",
            v4().ip_options(&[1; 4]).broken_ip_checksum(0),
            Checksum,
        ),
        ("IPv6 of 39 bytes", v6().cut_to(53), IpLength),
        (
            "payload length over the frame",
            v6().udp(1, 2).broken_ip_len(9),
            IpLength,
        ),
        (
            "jumbogram",
            v6().hop_by_hop().udp(1, 2).broken_ip_len(0),
            IpLength,
        ),
        (
            "hop-by-hop not first",
            v6().destination_options().hop_by_hop(),
            ExtensionHeaders,
        ),
        (
            "hop-by-hop twice",
            v6().hop_by_hop().hop_by_hop(),
            ExtensionHeaders,
        ),
        (
            "routing type 0",
            v6().routing(0).udp(1, 2),
            ExtensionHeaders,
        ),
        (
            "nine extension headers",
            eight(v6().hop_by_hop()).udp(1, 2),
            ExtensionHeaders,
        ),
        (
            "no room for an extension header",
            v6().broken_protocol(60),
            ExtensionHeaders,
        ),
        (
            "extension header beyond the packet",
            v6().extension(60, &[0, 1, 1, 4, 0, 0, 0, 0]).pad_to(200),
            ExtensionHeaders,
        ),
        (
            "two fragment headers",
            v6().fragment(1, 0, false).fragment(1, 0, false).udp(1, 2),
            ExtensionHeaders,
        ),
        (
            "first fragment without UDP",
            v4().protocol(17).fragment(1, 0, true),
            Fragment,
        ),
        (
            "first fragment with half a TCP header",
            v4().fragment(1, 0, true).protocol(6).payload_len(16),
            Fragment,
        ),
        (
            "first fragment without all TCP options",
            v4().fragment(1, 0, true)
                .tcp(1, 2)
                .broken_data_offset(7)
                .payload_len(4),
            Fragment,
        ),
        (
            "first IPv6 fragment without its chain",
            v6().fragment(1, 0, true)
                .extension(60, &[0, 1, 1, 4, 0, 0, 0, 0]),
            Fragment,
        ),
        (
            "first IPv6 fragment with half a TCP header",
            v6().fragment(1, 0, true).protocol(6).payload_len(16),
            Fragment,
        ),
        (
            "TCP fragment at 8",
            v4().tcp(1, 2).fragment(1, 8, false).payload_len(8),
            Fragment,
        ),
        (
            "TCP fragment at 16",
            v4().tcp(1, 2).fragment(1, 16, true).payload_len(8),
            Fragment,
        ),
        (
            "IPv6 TCP fragment at 8",
            v6().tcp(1, 2).fragment(1, 8, true).payload_len(8),
            Fragment,
        ),
        (
            "fragment of 9 and more",
            v4().udp(1, 2).fragment(1, 8, true).payload_len(9),
            Fragment,
        ),
        (
            "fragment without a byte",
            v4().udp(1, 2).fragment(1, 8, false),
            Fragment,
        ),
        (
            "IPv4 fragment past 65535",
            v4().udp(1, 2).fragment(1, 65_512, false).payload_len(8),
            Fragment,
        ),
        (
            "IPv6 fragment past 65535",
            v6().udp(1, 2).fragment(1, 65_528, false).payload_len(8),
            Fragment,
        ),
        (
            "19 bytes of TCP",
            v4().protocol(6).payload_len(19),
            Transport,
        ),
        (
            "TCP data offset 4",
            v4().tcp(1, 2).broken_data_offset(4),
            Transport,
        ),
        (
            "TCP data offset past the packet",
            v4().tcp(1, 2).broken_data_offset(6),
            Transport,
        ),
        (
            "TCP header in padding",
            v4().broken_protocol(6).pad_to(60),
            Transport,
        ),
        (
            "7 bytes of UDP",
            v6().protocol(17).payload_len(7),
            Transport,
        ),
        ("UDP length 0", v4().udp(1, 2).broken_udp_len(0), Transport),
        ("UDP length 7", v4().udp(1, 2).broken_udp_len(7), Transport),
        (
            "UDP length over the packet",
            long_payload.broken_udp_len(33),
            Transport,
        ),
        (
            "7 bytes of ICMP",
            v4().protocol(1).payload_len(7),
            Transport,
        ),
        (
            "7 bytes of ICMPv6",
            v6().protocol(58).payload_len(7),
            Transport,
        ),
        (
            "TCP land",
            build::v4("10.0.0.1", "10.0.0.1").tcp(80, 80).syn(),
            Land,
        ),
        ("UDP land", build::v6("::1", "::1").udp(7, 7), Land),
    ];
    for (name, frame, expected) in table {
        assert_eq!(parsed(&frame), Parsed::Malformed(expected), "{name}");
        let bytes = frame.build();
        assert_eq!(
            oracle::parse(&bytes, bytes.len()),
            Parsed::Malformed(expected),
            "{name}"
        );
    }
}

#[test]
fn unusual_frames_are_packets() {
    let eight = (0..7).fold(v6().hop_by_hop(), |frame, _| frame.destination_options());
    for (name, frame) in [
        ("padded to 60", v4().udp(1, 2).pad_to(60)),
        ("two tags", v6().tag(0x88a8, 1).vlan(2).tcp(1, 2)),
        (
            "old double tags",
            v4().tag(0x9100, 1).tag(0x9100, 2).tcp(1, 2),
        ),
        (
            "60 bytes of IPv4 header",
            v4().ip_options(&[1; 40]).tcp(1, 2),
        ),
        (
            "60 bytes of TCP header",
            v4().tcp(1, 2).tcp_options(&[1; 40]),
        ),
        ("eight extension headers", eight.udp(1, 2)),
        ("routing type 2", v6().routing(2).udp(1, 2)),
        (
            "UDP shorter than the packet",
            v4().udp(1, 2).payload_len(9).broken_udp_len(12),
        ),
        ("port 0", v4().udp(0, 0)),
        ("hop limit 0", v4().hop_limit(0).udp(1, 2)),
        ("same ports at two addresses", v4().udp(1, 1)),
        (
            "same address at two ports",
            build::v4("10.0.0.1", "10.0.0.1").udp(1, 2),
        ),
        ("no next header", v6().protocol(59)),
        (
            "first UDP fragment of 8 bytes",
            v4().fragment(1, 0, true).udp(1, 2).broken_udp_len(99),
        ),
        (
            "last byte at 65535",
            v4().protocol(17).fragment(1, 65_504, false).payload_len(11),
        ),
    ] {
        assert!(
            matches!(parsed(&frame), Parsed::Ip(_)),
            "{name}: {:?}",
            parsed(&frame)
        );
    }
}

#[test]
fn fields_are_read() {
    let frame = v4()
        .tag(0x88a8, 0x6000 | 7)
        .vlan(9)
        .hop_limit(61)
        .tcp(1234, 80)
        .sequence(0x0102_0304)
        .acknowledgment(0x0506_0708)
        .syn()
        .window(500)
        .window_scale(9)
        .payload_len(33);
    let packet = packet(&frame.pad_to(200));
    let vlan = VlanTags {
        outer: Some(7),
        inner: Some(9),
    };
    assert_eq!(
        (packet.vlan, packet.hop_limit, packet.protocol),
        (vlan, 61, 6)
    );
    let Transport::Tcp(tcp) = packet.transport else {
        panic!("{packet:?}");
    };
    assert_eq!((tcp.source_port, tcp.destination_port), (1234, 80));
    assert_eq!(
        (tcp.sequence, tcp.acknowledgment),
        (0x0102_0304, 0x0506_0708)
    );
    assert_eq!(
        (tcp.flags.0, tcp.window, tcp.window_scale),
        (0x12, 500, Some(9))
    );
    assert_eq!(tcp.payload_len, 33);
}

#[test]
fn window_scale_is_read_as_receivers_read_it() {
    assert_eq!(window_scale(&[]), None);
    assert_eq!(window_scale(&[2, 4, 5, 0xb4, 1, 3, 3, 7]), Some(7));
    assert_eq!(window_scale(&[3, 3, 15]), Some(14), "clamped");
    assert_eq!(
        window_scale(&[3, 3, 1, 3, 3, 2]),
        Some(2),
        "the last counts"
    );
    assert_eq!(window_scale(&[0, 3, 3, 7]), None, "after the end");
    assert_eq!(
        window_scale(&[3, 2, 3, 3, 7]),
        Some(7),
        "wrong length is skipped"
    );
    assert_eq!(window_scale(&[8, 0, 3, 3, 7]), None, "length 0 ends it");
    assert_eq!(window_scale(&[8, 1, 3, 3, 7]), None, "length 1 ends it");
    assert_eq!(window_scale(&[8, 200, 3, 3, 7]), None, "past the header");
    assert_eq!(window_scale(&[1; 40]), None, "forty steps");
    let mut last = [1; 40];
    last[37..].copy_from_slice(&[3, 3, 5]);
    assert_eq!(window_scale(&last), Some(5), "at the very end");
    let not_syn = packet(&v4().tcp(1, 2).ack().window_scale(7));
    let Transport::Tcp(tcp) = not_syn.transport else {
        panic!("{not_syn:?}");
    };
    assert_eq!(tcp.window_scale, None, "on SYN only");
}

#[test]
fn fragments_are_told_apart() {
    let first = v4().fragment(7, 0, true).udp(1, 2).payload_len(8);
    assert_eq!(packet(&first).fragment, Fragment::First { id: 7, len: 16 });
    assert!(matches!(packet(&first).transport, Transport::Udp { .. }));
    let later = v6()
        .fragment(0x0102_0304, 4000, true)
        .udp(1, 2)
        .payload_len(8);
    let expected = Fragment::Later {
        id: 0x0102_0304,
        offset: 4000,
        len: 8,
        more: true,
    };
    assert_eq!(packet(&later).fragment, expected);
    assert_eq!(
        (packet(&later).protocol, packet(&later).transport),
        (17, Transport::Other)
    );
    let atomic = v6().destination_options().fragment(7, 0, false).udp(1, 2);
    assert_eq!(packet(&atomic).fragment, Fragment::Whole);
    assert!(matches!(packet(&atomic).transport, Transport::Udp { .. }));
    for bytes in v6().tcp(1, 2).payload_len(100).fragments(9, 24) {
        assert!(
            matches!(parse(&bytes, bytes.len()), Parsed::Ip(_)),
            "{bytes:?}"
        );
    }
}

#[test]
fn later_ipv6_fragment_ends_the_walk() {
    // Its next header tells what the first one begins with, not what follows here.
    let frame = v6().fragment(1, 64, false).protocol(60).payload(&[255; 16]);
    assert_eq!(packet(&frame).protocol, 60);
}

#[test]
fn protocols_of_the_other_family_are_just_protocols() {
    for frame in [
        v4().protocol(58),
        v6().protocol(1),
        v4().protocol(60),
        v4().protocol(2),
        v6().protocol(50),
        v6().protocol(51),
        v6().hop_by_hop().protocol(59),
    ] {
        assert_eq!(packet(&frame).transport, Transport::Other, "{frame:?}");
    }
}

#[test]
fn neighbor_target_is_read() {
    let target = |frame: &FrameBuilder| match packet(frame).transport {
        Transport::Icmp { target, .. } => target,
        other => panic!("{other:?}"),
    };
    let address = 0xfe80_u128 << 112 | 5;
    assert_eq!(target(&v6().neighbor(135, "fe80::5")), Some(address));
    assert_eq!(target(&v6().neighbor(136, "fe80::5")), Some(address));
    assert_eq!(
        target(&v6().neighbor(134, "fe80::5")),
        None,
        "other messages have none"
    );
    assert_eq!(
        target(&v6().icmp(135, 0, [0; 4]).payload_len(15)),
        None,
        "too short"
    );
    assert_eq!(
        target(&v4().icmp(135, 0, [0; 4]).payload_len(16)),
        None,
        "IPv4"
    );
}

#[test]
fn other_frames_are_told_by_ethertype() {
    let ethertype = |frame: &FrameBuilder| match parsed(frame) {
        Parsed::NotIp { ethertype } => ethertype,
        other => panic!("{other:?}"),
    };
    assert_eq!(ethertype(&build::ethernet(0x88cc, &[0; 46])), 0x88cc);
    assert_eq!(ethertype(&build::ethernet(0x88cc, &[]).vlan(4)), 0x88cc);
    assert_eq!(
        ethertype(&build::ethernet(38, &[0x42; 46])),
        38,
        "802.3 length"
    );
    let arp = ArpPacket {
        vlan: VlanTags {
            outer: Some(4),
            inner: None,
        },
        operation: 2,
        sender: 0x0a00_0001,
        target: 0x0a00_0002,
    };
    let frame = build::arp(2, "10.0.0.1", "10.0.0.2").vlan(4).pad_to(60);
    assert_eq!(parsed(&frame), Parsed::Arp(arp));
}

#[test]
fn capture_cut_frames_are_judged_by_the_original_length() {
    let whole = v4()
        .tcp(1, 2)
        .syn()
        .window_scale(7)
        .payload_len(900)
        .build();
    let len = whole.len();
    let full = parse(&whole, len);
    assert_eq!(parse(&whole[..58], len), full, "payload cut");
    assert_eq!(
        parse(&whole[..58], 58),
        Parsed::Malformed(Malformed::IpLength),
        "cut on the wire"
    );
    assert_eq!(
        parse(&whole[..53], len),
        Parsed::Malformed(Malformed::Transport),
        "header cut"
    );
    let Parsed::Ip(packet) = parse(&whole[..54], len) else {
        panic!("options cut");
    };
    let Transport::Tcp(tcp) = packet.transport else {
        panic!("{packet:?}");
    };
    assert_eq!(
        (tcp.window_scale, tcp.payload_len),
        (None, 900),
        "options cut"
    );
    let extended = v6().destination_options().udp(1, 2).build();
    let cut = parse(&extended[..58], extended.len());
    assert_eq!(
        cut,
        Parsed::Malformed(Malformed::Transport),
        "extension header cut"
    );
    let first = v4().fragment(1, 0, true).udp(1, 2).payload_len(8).build();
    let cut = parse(&first[..38], first.len());
    assert_eq!(
        cut,
        Parsed::Malformed(Malformed::Transport),
        "first fragment cut"
    );
}

#[test]
fn icmp_error_quotes_its_packet() {
    let sent = v4()
        .hop_limit(3)
        .tcp(1234, 80)
        .sequence(99)
        .payload_len(700);
    for (error, quoted) in [
        (v4().reversed().vlan(5).icmp_error(3, 4, &sent), &sent),
        (
            v4().reversed()
                .vlan(5)
                .icmp_error(11, 0, &sent)
                .payload(&sent.build()[14..42]),
            &sent,
        ),
    ] {
        let bytes = error.build();
        let found = parse_quoted(&bytes, bytes.len()).unwrap();
        let expected = packet(quoted);
        assert_eq!(found.addresses, expected.addresses);
        assert_eq!(found.vlan.outer, Some(5));
        let Transport::Tcp(tcp) = found.transport else {
            panic!("{found:?}");
        };
        assert_eq!(
            (tcp.source_port, tcp.destination_port, tcp.sequence),
            (1234, 80, 99)
        );
    }
    let sent = v6().hop_by_hop().udp(5, 6).payload_len(1300);
    let bytes = v6().reversed().icmp_error(2, 0, &sent).build();
    let found = parse_quoted(&bytes, bytes.len()).unwrap();
    assert_eq!((found.addresses, found.transport), {
        let expected = packet(&sent);
        (expected.addresses, expected.transport)
    });
    let sent = v4().echo_request(7, 1);
    let bytes = v4().reversed().icmp_error(3, 1, &sent).build();
    let found = parse_quoted(&bytes, bytes.len()).unwrap();
    assert_eq!(found.transport, packet(&sent).transport);
}

#[test]
fn quotes_that_relate_to_nothing_are_none() {
    let udp = v4().udp(5, 6).payload_len(8);
    let none = [
        ("no error", v4().echo_request(1, 1)),
        ("redirect", v4().icmp_error(5, 0, &udp)),
        ("source quench", v4().icmp_error(4, 0, &udp)),
        (
            "quoted error",
            v4().icmp_error(3, 1, &v4().icmp_error(3, 1, &udp)),
        ),
        (
            "quoted later fragment",
            v4().icmp_error(3, 1, &udp.clone().fragment(1, 8, false)),
        ),
        ("other family", v4().icmp_error(3, 1, &v6().udp(5, 6))),
        ("quoted IPv4 in ICMPv6", v6().icmp_error(1, 0, &udp)),
        ("nothing quoted", v4().icmp(3, 1, [0; 4])),
        (
            "7 bytes of transport",
            v4().icmp_error(3, 1, &udp).payload(&udp.build()[14..41]),
        ),
        ("fragmented error", {
            let error = v4().icmp_error(3, 1, &udp.clone().payload_len(12));
            assert!(matches!(packet(&error).fragment, Fragment::Whole));
            error.fragment(1, 0, true)
        }),
        ("not IP", build::ethernet(0x88cc, &[])),
        (
            "malformed",
            v4().icmp_error(3, 1, &udp).broken_ip_checksum(1),
        ),
    ];
    for (name, frame) in none {
        let bytes = frame.build();
        assert_eq!(parse_quoted(&bytes, bytes.len()), None, "{name}");
    }
}

/// A small generator (SplitMix64), for many cheap cases.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = Random(1);
    let starts = [
        vec![],
        v4().build(),
        v4().tcp(1, 2).syn().tcp_options(&[1; 40]).build(),
        v6().udp(1, 2).build(),
        v6().hop_by_hop()
            .routing(2)
            .fragment(1, 0, true)
            .tcp(1, 2)
            .build(),
        v4().vlan(1)
            .vlan(2)
            .icmp_error(3, 1, &v4().udp(1, 2))
            .build(),
        v6().icmp_error(1, 0, &v6().hop_by_hop().udp(1, 2)).build(),
        build::arp(1, "10.0.0.1", "10.0.0.2").build(),
    ];
    for round in 0..200_000 {
        let mut bytes = starts[round % starts.len()].clone();
        let len = random.below(130);
        // Mostly noise behind a true beginning, of a length of its own.
        let kept = random.below(bytes.len() + 1);
        bytes.truncate(kept);
        while bytes.len() < len {
            bytes.push(random.byte());
        }
        if let Some(at) = bytes.len().checked_sub(1) {
            bytes[random.below(at + 1)] = random.byte();
        }
        let original_len = match random.below(4) {
            0 => random.below(70_000),
            1 => usize::MAX,
            _ => bytes.len(),
        };
        let parsed = parse(&bytes, original_len);
        assert_eq!(
            parsed,
            oracle::parse(&bytes, original_len),
            "{bytes:?} {original_len}"
        );
        let _is_brief: bool = brief_agrees(&bytes, original_len);
        let _quoted: Option<IpPacket> = parse_quoted(&bytes, original_len);
    }
}

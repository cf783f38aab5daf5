//! Built frames held against another parser.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;

/// Whether etherparse finds the checksums of a frame right.
fn checksums_are_right(frame: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let addresses = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            if header.header_checksum() != header.to_header().calc_header_checksum() {
                return false;
            }
            Ok((header.source(), header.destination()))
        }
        NetSlice::Ipv6(v6) => Err((v6.header().source(), v6.header().destination())),
        NetSlice::Arp(_) => return false,
    };
    match (sliced.transport.unwrap(), addresses) {
        (TransportSlice::Tcp(tcp), Ok((source, destination))) => {
            tcp.calc_checksum_ipv4(source, destination) == Ok(tcp.checksum())
        }
        (TransportSlice::Tcp(tcp), Err((source, destination))) => {
            tcp.calc_checksum_ipv6(source, destination) == Ok(tcp.checksum())
        }
        (TransportSlice::Udp(udp), addresses) => {
            let header = udp.to_header();
            let sum = match addresses {
                Ok((source, destination)) => {
                    header.calc_checksum_ipv4_raw(source, destination, udp.payload())
                }
                Err((source, destination)) => {
                    header.calc_checksum_ipv6_raw(source, destination, udp.payload())
                }
            };
            sum == Ok(udp.checksum())
        }
        (TransportSlice::Icmpv4(icmp), _) => {
            icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
        }
        (TransportSlice::Icmpv6(icmp), Err((source, destination))) => {
            icmp.icmp_type()
                .calc_checksum(source, destination, icmp.payload())
                == Ok(icmp.checksum())
        }
        _ => false,
    }
}

#[test]
fn lengths_and_checksums_are_right() {
    let a = || v4("10.0.0.1", "10.0.0.2");
    let b = || v6("2001:db8::1", "2001:db8::2");
    for frame in [
        a().tcp(1, 2).syn().window_scale(7).payload_len(33),
        a().udp(1, 2).payload_len(7),
        a().ip_options(&[7, 3, 4]).udp(1, 2),
        a().vlan(7).echo_request(1, 2).payload_len(5),
        b().tcp(1, 2).acknowledgment(4).payload_len(9),
        b().hop_by_hop()
            .destination_options()
            .udp(1, 2)
            .payload_len(1),
        b().tag(0x88a8, 1).vlan(2).echo_reply(1, 2),
        dhcp_client(1),
        dhcp_server(2, "10.0.0.3"),
    ] {
        assert!(checksums_are_right(&frame.build()), "{frame:?}");
    }
}

#[test]
fn broken_checksums_are_wrong() {
    let frame = v4("10.0.0.1", "10.0.0.2").tcp(1, 2);
    assert!(!checksums_are_right(
        &frame.clone().broken_transport_checksum(1).build()
    ));
    assert!(!checksums_are_right(&frame.broken_ip_checksum(1).build()));
}

#[test]
fn fragments_join_to_the_whole_packet() {
    let whole = v4("10.0.0.1", "10.0.0.2").udp(1, 2).payload_len(40);
    let pieces = whole.fragments(9, 16);
    assert_eq!(pieces.len(), 3);
    let joined: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece[34..].to_vec())
        .collect();
    assert_eq!(joined, whole.build()[34..]);
}

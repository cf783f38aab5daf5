//! Frames by description: ten bytes say who speaks and what, so that the fuzzer need not find
//! checksums, lengths and matching ports to get past the parser.

use portcullis::packet::build::{self, FrameBuilder};

/// Bytes of a description.
pub(crate) const SPOKEN_LEN: usize = 10;

/// Hosts outside, and those of the example policy, by family.
const PEERS: [[&str; 4]; 2] = [
    ["198.51.100.7", "192.0.2.9", "10.0.0.5", "10.9.9.9"],
    ["2001:db8:1::7", "2001:db9::9", "2001:db8::99", "fe80::9"],
];
const LOCALS: [[&str; 2]; 2] = [["10.0.1.10", "10.0.2.10"], ["2001:db8::10", "2001:db8::10"]];
const PORTS: [u16; 8] = [22, 80, 5432, 443, 53, 67, 8080, 9999];

/// The frame of a description:
///
/// ```text
/// 0  who: bit 0 IPv6; 1-2 peer; 3 local host; 4 from the local host; 5-7 service
/// 1  what: bits 0-2 TCP, UDP, echo, other ICMP, ICMP error, another protocol, neighbor, with
///    extension headers; 3-4 the client's port
/// 2-5  of TCP flags, sequence, acknowledgment, window; of ICMP type and code; of others anything
/// 6  piece: bit 0 is one; 1 more follow; 2-4 id
/// 7  where it begins, in 8 bytes    8  bytes of payload    9  bit 0 VLAN 20; 1 hop limit 255
/// ```
pub(crate) fn frame(spoken: &[u8; SPOKEN_LEN]) -> Vec<u8> {
    let [who, what, a, b, c, d, piece, offset, len, rest] = *spoken;
    let said = say(who, what, [a, b, c, d]);
    let said = match what & 7 {
        // The quoted packet is the payload.
        4 => said,
        _ => said.payload_len(usize::from(len)),
    };
    let said = match rest & 2 {
        0 => said,
        _ => said.hop_limit(255),
    };
    let said = match rest & 1 {
        0 => said,
        _ => said.vlan(20),
    };
    let said = match piece & 1 {
        0 => said,
        _ => {
            let id = u32::from(piece >> 2 & 7);
            said.fragment(id, 8 * u16::from(offset & 31), piece & 2 != 0)
        }
    };
    said.build()
}

fn between(who: u8) -> FrameBuilder {
    let family = usize::from(who & 1);
    let peer = PEERS[family][usize::from(who >> 1 & 3)];
    let local = LOCALS[family][usize::from(who >> 3 & 1)];
    let (source, destination) = match who & 16 {
        0 => (peer, local),
        _ => (local, peer),
    };
    match family {
        0 => build::v4(source, destination),
        _ => build::v6(source, destination),
    }
}

fn say(who: u8, what: u8, [a, b, c, d]: [u8; 4]) -> FrameBuilder {
    let frame = between(who);
    let service = PORTS[usize::from(who >> 5)];
    let client = 40_000 + u16::from(what >> 3 & 3);
    let (from, to) = match who & 16 {
        0 => (client, service),
        _ => (service, client),
    };
    // Near the beginning, or far from it.
    let number = |byte: u8| match byte {
        0..200 => 1000 + u32::from(byte),
        _ => u32::from(byte - 200) << 26,
    };
    match what & 7 {
        0 => {
            let frame = frame.tcp(from, to).flags(a).sequence(number(b));
            let frame = match a & 16 {
                0 => frame,
                _ => frame.acknowledgment(number(c)),
            };
            frame.window(u16::from(d) << 4)
        }
        1 => frame.udp(from, to),
        2 if who & 16 == 0 => frame.echo_request(client, u16::from(a)),
        2 => frame.echo_reply(client, u16::from(a)),
        3 => frame.icmp(a, b, [0, c, 0, d]),
        4 => {
            // About what the one who is told has said.
            let quoted = say(who ^ 16, (b & 0xf8) | (b % 3), [a, b, c, d]);
            frame.icmp_error(a, d & 7, &quoted)
        }
        5 => frame.protocol(a),
        6 if who & 1 != 0 => frame.neighbor(133 + a % 5, PEERS[1][usize::from(b & 3)]),
        7 if who & 1 != 0 => {
            let frame = match a & 3 {
                0 => frame.hop_by_hop(),
                1 => frame.routing(b & 3),
                2 => frame.destination_options(),
                _ => frame.mobility(),
            };
            frame.tcp(from, to).flags(c)
        }
        _ => frame.ip_options(&[1, 1, 1, 0]).tcp(from, to).flags(a),
    }
}

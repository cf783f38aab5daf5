//! Frames byte by byte, right ones and wrong ones.

use std::net::IpAddr;

pub(crate) type Mac = [u8; 6];

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// An Ethernet frame; `tags` are (TPID, VLAN id), outermost first.
pub(crate) fn ethernet(to: Mac, from: Mac, tags: &[(u16, u16)], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (tpid, id) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}

/// The ones' complement sum of RFC 1071.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn len16(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_be_bytes()
}

/// An IP packet of either family.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    if from.is_ipv4() {
        return ipv4(from, to, protocol, [0x12, 0x34, 0x40, 0], body);
    }
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len16(body));
    packet.extend([protocol, 64]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(body);
    packet
}

/// IPv4 with the identification and fragment words given.
pub(crate) fn ipv4(from: IpAddr, to: IpAddr, protocol: u8, words: [u8; 4], body: &[u8]) -> Vec<u8> {
    let total = u16::try_from(body.len() + 20).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, total[0], total[1]];
    header.extend(words);
    header.extend([64, protocol, 0, 0]);
    header.extend(octets(from));
    header.extend(octets(to));
    mend_ipv4(&mut header);
    header.extend(body);
    header
}

/// Where a fragment is in its datagram; `offset` in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) id: u16,
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

/// A fragment of either family.
pub(crate) fn fragment(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    piece: Piece,
    body: &[u8],
) -> Vec<u8> {
    let id = piece.id.to_be_bytes();
    if from.is_ipv4() {
        let more = if piece.more { 0x2000 } else { 0 };
        let word = (piece.offset >> 3 | more).to_be_bytes();
        return ipv4(from, to, protocol, [id[0], id[1], word[0], word[1]], body);
    }
    let word = (piece.offset | u16::from(piece.more)).to_be_bytes();
    let header = [protocol, 0, word[0], word[1], 0, 0, id[0], id[1]];
    ip(from, to, 44, &[&header[..], body].concat())
}

/// A packet in fragments that begin at these bytes of its IP payload, and at its start.
pub(crate) fn fragments(
    from: IpAddr,
    to: IpAddr,
    id: u16,
    packet: &[u8],
    cuts: &[u16],
) -> Vec<Vec<u8>> {
    let (protocol, body) = if from.is_ipv4() {
        (packet[9], &packet[20..])
    } else {
        (packet[6], &packet[40..])
    };
    let starts = [&[0], cuts].concat();
    let ends = cuts.iter().map(|cut| usize::from(*cut)).chain([body.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&offset, end)| {
            let more = end < body.len();
            let piece = Piece { id, offset, more };
            fragment(from, to, protocol, piece, &body[usize::from(offset)..end])
        })
        .collect()
}

/// Puts the right checksum into an IPv4 header of 20 bytes.
pub(crate) fn mend_ipv4(packet: &mut [u8]) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum);
}

fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> [u8; 2] {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    checksum(&[
        &octets(from),
        &octets(to),
        &length,
        &[0, 0, 0, protocol],
        body,
    ])
}

pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend(u16::try_from(data.len() + 8).unwrap().to_be_bytes());
    body.extend([0, 0]);
    body.extend(data);
    let sum = transport_checksum(from.0, to.0, 17, &body);
    body[6..8].copy_from_slice(&sum);
    ip(from.0, to.0, 17, &body)
}

/// A TCP segment's words.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
}

pub(crate) fn tcp(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    segment: Segment,
    data: &[u8],
) -> Vec<u8> {
    let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    body.extend(segment.sequence.to_be_bytes());
    body.extend(segment.acknowledgment.to_be_bytes());
    body.extend([0x50, segment.flags, 0x20, 0, 0, 0, 0, 0]);
    body.extend(data);
    let sum = transport_checksum(from.0, to.0, 6, &body);
    body[16..18].copy_from_slice(&sum);
    ip(from.0, to.0, 6, &body)
}

/// An ICMP or ICMPv6 message, by the family of the addresses; `rest` follows the checksum.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let sum = match from {
        IpAddr::V4(_) => checksum(&[&body]),
        IpAddr::V6(_) => transport_checksum(from, to, 58, &body),
    };
    body[2..4].copy_from_slice(&sum);
    ip(from, to, protocol, &body)
}

/// An echo request or reply by its identifier.
pub(crate) fn echo(from: IpAddr, to: IpAddr, kind: u8, id: u16) -> Vec<u8> {
    let mut rest = id.to_be_bytes().to_vec();
    rest.extend([0, 1]);
    rest.extend(*b"portcullis");
    icmp(from, to, kind, 0, &rest)
}

/// A neighbor solicitation or advertisement for `target`; hop limit 255 unless said otherwise.
pub(crate) fn neighbor(from: IpAddr, to: IpAddr, kind: u8, target: IpAddr, hops: u8) -> Vec<u8> {
    let mut rest = vec![0x60, 0, 0, 0];
    rest.extend(octets(target));
    let mut packet = icmp(from, to, kind, 0, &rest);
    packet[7] = hops;
    packet
}

/// An ARP packet's body.
pub(crate) fn arp(operation: u8, mac: Mac, sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation];
    body.extend(mac);
    body.extend(octets(sender));
    body.extend([0; 6]);
    body.extend(octets(target));
    body
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

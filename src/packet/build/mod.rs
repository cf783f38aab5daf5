//! Frames for tests, benchmarks and the demo: a builder that writes correct lengths and checksums
//! unless it is told to break one.
//!
//! ```
//! use portcullis::packet::build;
//!
//! let frame = build::v4("10.0.0.1", "10.0.0.2").vlan(20).tcp(1234, 80).syn().build();
//! assert_eq!(frame.len(), 14 + 4 + 20 + 20);
//! ```
//!
//! It is the one file of `packet` that allocates and may panic, and no part of the data path: it
//! is always compiled so that unit tests, integration tests and benchmarks share one builder.
#![expect(
    clippy::expect_used,
    reason = "addresses come from the caller's source text"
)]
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "builds test frames, never reads foreign bytes"
    )
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::headers::{Address, TcpFlags};
use crate::types::protocol;

mod ip;
mod transport;

use transport::Layer4;

/// IPv6 extension header numbers (RFC 8200 §4) that the builder names.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// What lies behind the Ethernet header and its tags.
#[derive(Clone, Debug)]
enum Body {
    Ip,
    Raw { ethertype: u16, bytes: Vec<u8> },
}

/// A frame in the making. Each method sets one thing and gives the builder back; `build` may be
/// called on a clone to make variants.
#[derive(Clone, Debug)]
#[must_use = "call build() to get the bytes"]
pub struct FrameBuilder {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    tags: Vec<[u16; 2]>,
    body: Body,
    source: Address,
    destination: Address,
    hop_limit: u8,
    fragment: Option<Piece>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    layer4: Layer4,
    payload: Vec<u8>,
    broken: Broken,
    pad_to: usize,
    cut_to: usize,
}

/// Fragmentation as asked for.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: u32,
    offset: u16,
    more: bool,
}

/// Fields that are written as told instead of correctly.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    version: Option<u8>,
    header_words: Option<u8>,
    ip_len: Option<u16>,
    ip_checksum: Option<u16>,
    protocol: Option<u8>,
    udp_len: Option<u16>,
    data_offset: Option<u8>,
    transport_checksum: Option<u16>,
}

/// An IPv4 packet, addresses as text.
///
/// # Panics
/// Where a text is no IPv4 address.
pub fn v4(source: &str, destination: &str) -> FrameBuilder {
    let parse = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address");
    between(
        Address::V4(parse(source).to_bits()),
        Address::V4(parse(destination).to_bits()),
    )
}

/// An IPv6 packet, addresses as text.
///
/// # Panics
/// Where a text is no IPv6 address.
pub fn v6(source: &str, destination: &str) -> FrameBuilder {
    let parse = |text: &str| text.parse::<Ipv6Addr>().expect("an IPv6 address");
    between(
        Address::V6(parse(source).to_bits()),
        Address::V6(parse(destination).to_bits()),
    )
}

/// An IP packet of the addresses' family, which must be one. Without a transport it has protocol
/// 253 (RFC 3692 experiments).
pub fn between(source: Address, destination: Address) -> FrameBuilder {
    debug_assert_eq!(source.family(), destination.family(), "one family");
    FrameBuilder {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        tags: Vec::new(),
        body: Body::Ip,
        source,
        destination,
        hop_limit: 64,
        fragment: None,
        options: Vec::new(),
        extensions: Vec::new(),
        layer4: Layer4::Raw {
            protocol: 253,
            bytes: Vec::new(),
        },
        payload: Vec::new(),
        broken: Broken::default(),
        pad_to: 0,
        cut_to: usize::MAX,
    }
}

/// Any frame by its ethertype.
pub fn ethernet(ethertype: u16, bytes: &[u8]) -> FrameBuilder {
    let mut frame = between(Address::V4(0), Address::V4(0));
    frame.body = Body::Raw {
        ethertype,
        bytes: bytes.to_vec(),
    };
    frame
}

/// An Ethernet/IPv4 ARP packet: operation 1 asks, 2 replies.
///
/// # Panics
/// Where a text is no IPv4 address.
pub fn arp(operation: u16, sender: &str, target: &str) -> FrameBuilder {
    let parse = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
    let mut frame = ethernet(0x0806, &[]);
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(frame.source_mac);
    bytes.extend(parse(sender));
    bytes.extend(if operation == 1 {
        [0; 6]
    } else {
        frame.destination_mac
    });
    bytes.extend(parse(target));
    if operation == 1 {
        frame.destination_mac = [0xff; 6];
    }
    frame.body = Body::Raw {
        ethertype: 0x0806,
        bytes,
    };
    frame
}

/// A DHCPv4 message from a client without an address (message type 1 DISCOVER, 3 REQUEST).
pub fn dhcp_client(message: u8) -> FrameBuilder {
    v4("0.0.0.0", "255.255.255.255")
        .macs([2, 0, 0, 0, 0, 1], [0xff; 6])
        .udp(68, 67)
        .payload(&dhcp(1, message))
}

/// A DHCPv4 message from a server (message type 2 OFFER, 5 ACK) to the limited broadcast.
///
/// # Panics
/// Where the text is no IPv4 address.
pub fn dhcp_server(message: u8, server: &str) -> FrameBuilder {
    v4(server, "255.255.255.255")
        .macs([2, 0, 0, 0, 0, 2], [0xff; 6])
        .udp(67, 68)
        .payload(&dhcp(2, message))
}

/// A DHCPv4 message (RFC 2131 §2) with a message-type option (RFC 2132 §9.6).
fn dhcp(operation: u8, message: u8) -> Vec<u8> {
    let mut bytes = vec![operation, 1, 6, 0, 0x39, 0x03, 0xf3, 0x26];
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, message, 255]);
    bytes
}

/// Layers 2 and 3.
impl FrameBuilder {
    /// Ethernet addresses.
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Adds an 802.1Q tag inside of those there are.
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// Adds a tag by its ethertype (0x8100, 0x88a8, 0x9100) and its whole control word.
    pub fn tag(mut self, ethertype: u16, control: u16) -> Self {
        self.tags.push([ethertype, control]);
        self
    }

    /// TTL or hop limit; 64 if not given.
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// IPv4 options, filled up to a multiple of 4 with "end of options".
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().div_ceil(4) * 4, 0);
        self
    }

    /// Makes it one fragment: `offset` in bytes (a multiple of 8). At offset 0 the transport header
    /// is written before the payload, behind it only the payload is. In IPv6 the fragment header
    /// comes after the extension headers that were added before.
    pub fn fragment(mut self, id: u32, offset: u16, more: bool) -> Self {
        self.fragment = Some(Piece { id, offset, more });
        if let Address::V6(_) = self.source {
            let mut header = vec![0, 0];
            header.extend(((offset & !7) | u16::from(more)).to_be_bytes());
            header.extend(id.to_be_bytes());
            self.extensions.push((FRAGMENT, header));
        }
        self
    }

    /// Adds an IPv6 extension header by its number; the first byte is set to the next header's
    /// number, the rest is written as given.
    pub fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.extensions.push((number, bytes.to_vec()));
        self
    }

    /// Adds a hop-by-hop header with a router alert (RFC 2711), as MLD has.
    pub fn hop_by_hop(self) -> Self {
        self.extension(HOP_BY_HOP, &[0, 0, 5, 2, 0, 0, 1, 0])
    }

    /// Adds a routing header of that type with no segment left.
    pub fn routing(self, kind: u8) -> Self {
        self.extension(ROUTING, &[0, 0, kind, 0, 0, 0, 0, 0])
    }

    /// Adds a destination options header of one `PadN`.
    pub fn destination_options(self) -> Self {
        self.extension(DESTINATION, &[0, 0, 1, 4, 0, 0, 0, 0])
    }

    /// Adds a mobility header (RFC 6275 §6.1).
    pub fn mobility(self) -> Self {
        self.extension(MOBILITY, &[0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Bytes after the transport header.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// That many bytes (0, 1, 2 … repeated) after the transport header.
    pub fn payload_len(mut self, len: usize) -> Self {
        self.payload = (0..=u8::MAX).cycle().take(len).collect();
        self
    }

    /// Swaps both ends: Ethernet, IP addresses and ports. Sequence numbers and flags stay.
    pub fn reversed(mut self) -> Self {
        std::mem::swap(&mut self.source_mac, &mut self.destination_mac);
        std::mem::swap(&mut self.source, &mut self.destination);
        self.layer4.reverse();
        self
    }
}

/// Layer 4.
impl FrameBuilder {
    /// TCP; no flags, sequence numbers 0, window 65535.
    pub fn tcp(mut self, source_port: u16, destination_port: u16) -> Self {
        self.layer4 = Layer4::tcp(source_port, destination_port);
        self
    }

    /// UDP.
    pub fn udp(mut self, source_port: u16, destination_port: u16) -> Self {
        self.layer4 = Layer4::Udp {
            source_port,
            destination_port,
        };
        self
    }

    /// ICMP of the addresses' family: type, code and the four bytes of the rest of the header.
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        let protocol = match self.source {
            Address::V4(_) => protocol::ICMP,
            Address::V6(_) => protocol::ICMPV6,
        };
        self.layer4 = Layer4::Icmp {
            protocol,
            kind,
            code,
            rest,
        };
        self
    }

    /// Echo request.
    pub fn echo_request(self, id: u16, sequence: u16) -> Self {
        let kind = self.by_family(8, 128);
        self.icmp(kind, 0, id_and(id, sequence))
    }

    /// Echo reply.
    pub fn echo_reply(self, id: u16, sequence: u16) -> Self {
        let kind = self.by_family(0, 129);
        self.icmp(kind, 0, id_and(id, sequence))
    }

    /// An ICMP error that quotes a frame made by this builder (at most 548 bytes of its packet).
    pub fn icmp_error(self, kind: u8, code: u8, quoted: &Self) -> Self {
        let mut bytes = quoted.packet();
        bytes.truncate(548);
        self.icmp(kind, code, [0; 4]).payload(&bytes)
    }

    /// Neighbor solicitation (135) or advertisement (136), router messages (133, 134) or redirect
    /// (137) with hop limit 255 and the target address.
    ///
    /// # Panics
    /// Where the text is no IPv6 address.
    pub fn neighbor(self, kind: u8, target: &str) -> Self {
        let target = target.parse::<Ipv6Addr>().expect("an IPv6 address");
        self.hop_limit(255)
            .icmp(kind, 0, [0; 4])
            .payload(&target.octets())
    }

    /// Any other protocol; the payload follows without a header.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.layer4 = Layer4::Raw {
            protocol,
            bytes: Vec::new(),
        };
        self
    }

    /// Adds TCP flags to those that are set.
    pub fn flags(mut self, flags: u8) -> Self {
        if let Layer4::Tcp { flags: set, .. } = &mut self.layer4 {
            *set |= flags;
        }
        self
    }

    /// Adds SYN.
    pub fn syn(self) -> Self {
        self.flags(TcpFlags::SYN)
    }

    /// Adds ACK.
    pub fn ack(self) -> Self {
        self.flags(TcpFlags::ACK)
    }

    /// Adds FIN.
    pub fn fin(self) -> Self {
        self.flags(TcpFlags::FIN)
    }

    /// Adds RST.
    pub fn rst(self) -> Self {
        self.flags(TcpFlags::RST)
    }

    /// TCP sequence number.
    pub fn sequence(mut self, number: u32) -> Self {
        if let Layer4::Tcp { sequence, .. } = &mut self.layer4 {
            *sequence = number;
        }
        self
    }

    /// TCP acknowledgment number; adds ACK.
    pub fn acknowledgment(mut self, number: u32) -> Self {
        if let Layer4::Tcp { acknowledgment, .. } = &mut self.layer4 {
            *acknowledgment = number;
        }
        self.ack()
    }

    /// TCP window.
    pub fn window(mut self, size: u16) -> Self {
        if let Layer4::Tcp { window, .. } = &mut self.layer4 {
            *window = size;
        }
        self
    }

    /// TCP options, filled up to a multiple of 4 with "end of options".
    pub fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Layer4::Tcp { options, .. } = &mut self.layer4 {
            *options = bytes.to_vec();
            options.resize(bytes.len().div_ceil(4) * 4, 0);
        }
        self
    }

    /// A window-scale option (RFC 7323 §2.2) behind a NOP.
    pub fn window_scale(self, shift: u8) -> Self {
        self.tcp_options(&[1, 3, 3, shift])
    }

    fn by_family(&self, v4: u8, v6: u8) -> u8 {
        match self.source {
            Address::V4(_) => v4,
            Address::V6(_) => v6,
        }
    }
}

/// What breaks a frame.
impl FrameBuilder {
    /// IP version as told.
    pub fn broken_version(mut self, version: u8) -> Self {
        self.broken.version = Some(version);
        self
    }

    /// IPv4 header length in words as told.
    pub fn broken_header_words(mut self, words: u8) -> Self {
        self.broken.header_words = Some(words);
        self
    }

    /// IPv4 total length, or IPv6 payload length, as told.
    pub fn broken_ip_len(mut self, len: u16) -> Self {
        self.broken.ip_len = Some(len);
        self
    }

    /// IPv4 header checksum as told.
    pub fn broken_ip_checksum(mut self, checksum: u16) -> Self {
        self.broken.ip_checksum = Some(checksum);
        self
    }

    /// IPv4 protocol, or last next header in IPv6, as told, whatever follows.
    pub fn broken_protocol(mut self, protocol: u8) -> Self {
        self.broken.protocol = Some(protocol);
        self
    }

    /// UDP length as told.
    pub fn broken_udp_len(mut self, len: u16) -> Self {
        self.broken.udp_len = Some(len);
        self
    }

    /// TCP data offset in words as told.
    pub fn broken_data_offset(mut self, words: u8) -> Self {
        self.broken.data_offset = Some(words);
        self
    }

    /// TCP, UDP or ICMP checksum as told.
    pub fn broken_transport_checksum(mut self, checksum: u16) -> Self {
        self.broken.transport_checksum = Some(checksum);
        self
    }

    /// Zero bytes at the end up to that frame length, as Ethernet pads short frames (60).
    pub fn pad_to(mut self, len: usize) -> Self {
        self.pad_to = len;
        self
    }

    /// Cuts the frame to that length, after padding.
    pub fn cut_to(mut self, len: usize) -> Self {
        self.cut_to = len;
        self
    }
}

/// Bytes.
impl FrameBuilder {
    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for tag in &self.tags {
            frame.extend(tag.iter().flat_map(|word| word.to_be_bytes()));
        }
        match &self.body {
            Body::Raw { ethertype, bytes } => {
                frame.extend(ethertype.to_be_bytes());
                frame.extend(bytes);
            }
            Body::Ip => {
                let ethertype = match self.source {
                    Address::V4(_) => 0x0800_u16,
                    Address::V6(_) => 0x86dd,
                };
                frame.extend(ethertype.to_be_bytes());
                frame.extend(self.packet());
            }
        }
        frame.resize(frame.len().max(self.pad_to), 0);
        frame.truncate(self.cut_to);
        frame
    }

    /// The frames of the packet cut into fragments of `len` bytes (a multiple of 8) behind the IP
    /// header, in order.
    #[must_use]
    pub fn fragments(&self, id: u32, len: usize) -> Vec<Vec<u8>> {
        debug_assert_eq!(len % 8, 0, "offsets count in 8 bytes");
        let whole = self.transport();
        let count = whole.len().div_ceil(len);
        let pieces = whole.chunks(len).enumerate().map(|(index, bytes)| {
            let mut piece = self.clone();
            piece.payload = Vec::new();
            piece.layer4 = Layer4::Raw {
                protocol: self.layer4.protocol(),
                bytes: bytes.to_vec(),
            };
            let offset = u16::try_from(index * len).unwrap_or(u16::MAX);
            piece.fragment(id, offset, index + 1 < count).build()
        });
        pieces.collect()
    }
}

/// The rest of an ICMP query's header.
fn id_and(id: u16, sequence: u16) -> [u8; 4] {
    let [a, b] = id.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    [a, b, c, d]
}

/// The Internet checksum (RFC 1071) of `bytes`, an odd last byte padded with zero.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;

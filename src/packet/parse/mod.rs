//! One pass over a frame's headers: bytes in, plain checked values out.
//!
//! Every read goes through `split_first_chunk::<N>()`: one length check for a whole header, after
//! which its fields are constant offsets into an array and need no further check. Nothing indexes,
//! nothing can overflow (lengths are u16 values widened to `usize`, and subtractions saturate or
//! come from a checked split), and every loop has a named bound.
//!
//! Two lengths are carried side by side: the bytes at hand and the length on the wire. They differ
//! only in captures cut by a snap length; a frame is judged by the latter, read from the former.
//!
//! The common frames, untagged or tagged IPv4 without options and IPv6 without extension headers,
//! whole, over TCP or UDP, run straight through code that is inlined into [`parse`]; options,
//! fragments, extension headers, ARP and malformed frames leave it by a call to a function that is
//! kept out of line.

mod brief;
mod ipv4;
mod ipv6;
mod quoted;
mod transport;

pub use brief::{BriefPlace, parse_brief};
pub use quoted::{is_icmp_error, parse_quoted};

use super::headers::{
    Addresses, ArpPacket, Fragment, IpPacket, Malformed, Parsed, Transport, VlanTags,
};

/// Most VLAN tags of a frame; one more makes it malformed.
pub const VLAN_TAGS_MAX: usize = 2;

/// Most IPv6 extension headers that are walked; one more makes a packet malformed.
pub const IPV6_EXT_HEADERS_MAX: usize = 8;

/// Ethertypes (IEEE 802 Numbers, IANA) that are looked into.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that was used for double tags before 802.1ad.
const ETHERTYPE_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Reads the headers of an Ethernet frame without its frame check sequence.
///
/// `original_len` is the frame's length on the wire. It is over `frame.len()` only where a capture
/// cut the frame; a smaller value is taken for `frame.len()`. A header that the wire had and the
/// capture cut cannot be judged: the frame is malformed.
#[must_use]
#[inline]
pub fn parse(frame: &[u8], original_len: usize) -> Parsed {
    let Some((ethernet, payload)) = frame.split_first_chunk::<14>() else {
        return Parsed::Malformed(Malformed::Ethernet);
    };
    let ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let payload = Bytes {
        captured: payload,
        wire_len: original_len.saturating_sub(14).max(payload.len()),
    };
    match ethertype {
        ETHERTYPE_IPV4 => parse_ip(ipv4::header(payload), VlanTags::default()),
        ETHERTYPE_IPV6 => parse_ip(ipv6::header(payload), VlanTags::default()),
        _ => parse_tagged(ethertype, payload),
    }
}

/// What is left of a frame after the headers before: the bytes at hand and how many there were on
/// the wire, which is never fewer.
#[derive(Clone, Copy, Debug)]
struct Bytes<'a> {
    captured: &'a [u8],
    wire_len: usize,
}

impl<'a> Bytes<'a> {
    /// The first `N` bytes and the rest; `None` where fewer are at hand.
    #[inline]
    fn split<const N: usize>(self) -> Option<(&'a [u8; N], Self)> {
        let (head, captured) = self.captured.split_first_chunk::<N>()?;
        let wire_len = self.wire_len.saturating_sub(N);
        Some((head, Self { captured, wire_len }))
    }

    /// The first `len` bytes and the rest; `None` where fewer are at hand.
    #[inline]
    fn split_at(self, len: usize) -> Option<(&'a [u8], Self)> {
        let (head, captured) = self.captured.split_at_checked(len)?;
        let wire_len = self.wire_len.saturating_sub(len);
        Some((head, Self { captured, wire_len }))
    }

    /// Without what lies beyond `len` bytes on the wire: Ethernet padding.
    #[inline]
    fn truncated(self, len: usize) -> Self {
        Self {
            captured: self.captured.get(..len).unwrap_or(self.captured),
            wire_len: len.min(self.wire_len),
        }
    }
}

/// The IP header, whichever version, and what follows it and its extension headers.
#[derive(Clone, Copy, Debug)]
struct IpHeader<'a> {
    addresses: Addresses,
    protocol: u8,
    hop_limit: u8,
    fragment: Fragment,
    payload: Bytes<'a>,
}

/// Walks VLAN tags, then dispatches like [`parse`]; also everything that is not IP.
#[inline(never)]
fn parse_tagged(mut ethertype: u16, mut payload: Bytes<'_>) -> Parsed {
    let mut vlan = VlanTags::default();
    let mut tags_count = 0;
    while ETHERTYPE_TAGS.contains(&ethertype) {
        if tags_count == VLAN_TAGS_MAX {
            return Parsed::Malformed(Malformed::Ethernet);
        }
        let Some((tag, rest)) = payload.split::<4>() else {
            return Parsed::Malformed(Malformed::Ethernet);
        };
        let id = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        if tags_count == 0 {
            vlan.outer = Some(id);
        } else {
            vlan.inner = Some(id);
        }
        tags_count = tags_count.saturating_add(1);
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        payload = rest;
    }
    match ethertype {
        ETHERTYPE_IPV4 => parse_ip(ipv4::header(payload), vlan),
        ETHERTYPE_IPV6 => parse_ip(ipv6::header(payload), vlan),
        ETHERTYPE_ARP => parse_arp(payload, vlan),
        _ => Parsed::NotIp { ethertype },
    }
}

/// The transport header of a packet, and what only both together can tell.
#[inline]
fn parse_ip(header: Result<IpHeader<'_>, Malformed>, vlan: VlanTags) -> Parsed {
    let header = match header {
        Ok(header) => header,
        Err(malformed) => return Parsed::Malformed(malformed),
    };
    let transport = match transport::header(&header) {
        Ok(transport) => transport,
        Err(malformed) => return Parsed::Malformed(malformed),
    };
    if is_land(&header.addresses, &transport) {
        return Parsed::Malformed(Malformed::Land);
    }
    Parsed::Ip(IpPacket {
        vlan,
        addresses: header.addresses,
        protocol: header.protocol,
        hop_limit: header.hop_limit,
        fragment: header.fragment,
        transport,
    })
}

/// The land attack: a packet that its receiver takes for one of its own.
#[inline]
fn is_land(addresses: &Addresses, transport: &Transport) -> bool {
    let same_port = match transport {
        Transport::Tcp(tcp) => tcp.source_port == tcp.destination_port,
        Transport::Udp {
            source_port,
            destination_port,
        } => source_port == destination_port,
        Transport::Icmp { .. } | Transport::Other => false,
    };
    same_port && addresses.source() == addresses.destination()
}

/// ARP (RFC 826) over Ethernet for IPv4; there is no other between hosts that are filtered here.
fn parse_arp(payload: Bytes<'_>, vlan: VlanTags) -> Parsed {
    let Some((arp, _)) = payload.split::<28>() else {
        return Parsed::Malformed(Malformed::Arp);
    };
    // Hardware type 1, protocol type IPv4, address lengths 6 and 4.
    if arp[..6] != [0, 1, 8, 0, 6, 4] {
        return Parsed::Malformed(Malformed::Arp);
    }
    Parsed::Arp(ArpPacket {
        vlan,
        operation: u16::from_be_bytes([arp[6], arp[7]]),
        sender: u32::from_be_bytes([arp[14], arp[15], arp[16], arp[17]]),
        target: u32::from_be_bytes([arp[24], arp[25], arp[26], arp[27]]),
    })
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

//! The common frame straight to its brief form: untagged or once tagged, IPv4 without options,
//! whole, TCP or UDP. Everything else, and all that is wrong with a frame, is [`super::parse`]'s.
//!
//! The checks are the same as there, made on whole words; the tests hold one to the other.

use super::{ETHERTYPE_IPV4, VlanTags, transport};
use crate::packet::brief::Brief;
use crate::packet::flow_key::{End, KeyKind};
use crate::packet::headers::TcpFlags;
use crate::packet::packed::{PackedKey, pack_vlan, service};
use crate::types::{LinkId, protocol};

const ETHERTYPE_VLAN: u16 = 0x8100;
/// DHCP: its client's and its server's port. Exempt, and so not common.
const DHCP_PORTS: [u32; 2] = [68 << 16 | 67, 67 << 16 | 68];
/// Bytes of an IPv4 header without options.
const IP_LEN: u32 = 20;
const UDP_LEN: u32 = 8;
const TCP_LEN: u32 = 20;

/// The brief form of a common frame that is in order; `None`: ask [`super::parse`].
///
/// A DHCPv4 packet, by its ports, is not common: the pipeline asks about those before anything
/// else. Lengths are those of [`super::parse`].
#[must_use]
#[inline]
pub fn parse_brief(frame: &[u8], original_len: u32, link: LinkId) -> Option<Brief> {
    let (ethernet, packet) = frame.split_first_chunk::<14>()?;
    let wire_len = (original_len as usize).max(frame.len()).wrapping_sub(14);
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => ipv4(packet, wire_len, 0, link),
        ETHERTYPE_VLAN => tagged(packet, wire_len, link),
        _ => None,
    }
}

#[inline(never)]
fn tagged(packet: &[u8], wire_len: usize, link: LinkId) -> Option<Brief> {
    let (tag, packet) = packet.split_first_chunk::<4>()?;
    if u16::from_be_bytes([tag[2], tag[3]]) != ETHERTYPE_IPV4 {
        return None;
    }
    let vlan = VlanTags {
        outer: Some(u16::from_be_bytes([tag[0], tag[1]]) & 0xfff),
        inner: None,
    };
    ipv4(packet, wire_len.wrapping_sub(4), pack_vlan(vlan), link)
}

/// A word of a header.
#[inline(always)]
fn word<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    let found = bytes.get(AT..).and_then(|rest| rest.first_chunk::<4>());
    found.map_or(0, |word| u32::from_be_bytes(*word))
}

/// Reads the IPv4 header and the eight bytes behind it, which UDP and TCP both have. `numbers` are
/// the bits of the VLAN.
#[inline(always)]
fn ipv4(packet: &[u8], wire_len: usize, numbers: u64, link: LinkId) -> Option<Brief> {
    let head = packet.first_chunk::<28>()?;
    let (first, second, third) = (
        word::<0, 28>(head),
        word::<4, 28>(head),
        word::<8, 28>(head),
    );
    let (source, destination) = (word::<12, 28>(head), word::<16, 28>(head));
    let ports = word::<20, 28>(head);
    let total_len = first & 0xffff;
    // Version 4 and five words; no offset and nothing to follow.
    let is_plain = first >> 24 == 0x45 && second & 0x3fff == 0;
    let sum = [first, second, third, source, destination]
        .iter()
        .fold(0_u64, |sum, word| sum.wrapping_add(u64::from(*word)));
    if !is_plain || !is_sum_right(sum) || total_len as usize > wire_len {
        return None;
    }
    let from = u64::from(source) << 16 | u64::from(ports >> 16);
    let to = u64::from(destination) << 16 | u64::from(ports & 0xffff);
    // Land: a packet from its own destination.
    if from == to {
        return None;
    }
    let (low, high) = (from.min(to), from.max(to));
    let [_, protocol, ..] = third.to_be_bytes();
    let [hop_limit, ..] = third.to_be_bytes();
    let brief = Brief {
        key: PackedKey {
            addresses: (low >> 16) << 32 | high >> 16,
            numbers: low << 48 | (high & 0xffff) << 32 | numbers,
            service: service(protocol, link, KeyKind::Symmetric),
        },
        hop_limit,
        window_scale: Brief::SCALE_NONE,
        from: if from == low { End::Low } else { End::High },
        ..Brief::default()
    };
    let payload_len = total_len.checked_sub(IP_LEN)?;
    match protocol {
        protocol::TCP => tcp(packet, payload_len, brief),
        protocol::UDP => {
            let len = word::<24, 28>(head) >> 16;
            let is_right = payload_len >= UDP_LEN && (UDP_LEN..=payload_len).contains(&len);
            (is_right && !DHCP_PORTS.contains(&ports)).then_some(brief)
        }
        _ => None,
    }
}

#[inline(always)]
fn tcp(packet: &[u8], ip_payload_len: u32, brief: Brief) -> Option<Brief> {
    let head = packet.first_chunk::<40>()?;
    let control = word::<32, 40>(head);
    let header_len = (control >> 28).wrapping_mul(4);
    let payload_len = ip_payload_len.checked_sub(header_len)?;
    if header_len < TCP_LEN {
        return None;
    }
    let [_, flags, window @ ..] = control.to_be_bytes();
    let flags = TcpFlags(flags);
    let window_scale = if flags.syn() && header_len > TCP_LEN {
        scale(packet, header_len)
    } else {
        Brief::SCALE_NONE
    };
    Some(Brief {
        sequence: word::<24, 40>(head),
        acknowledgment: word::<28, 40>(head),
        payload_len,
        window: u16::from_be_bytes(window),
        flags,
        window_scale,
        ..brief
    })
}

/// The window scale of a SYN; options that a capture cut are not there.
#[cold]
#[inline(never)]
fn scale(packet: &[u8], header_len: u32) -> u8 {
    let end = (IP_LEN.wrapping_add(header_len) as usize).min(packet.len());
    let options = packet.get(40..end).unwrap_or_default();
    transport::window_scale(options).unwrap_or(Brief::SCALE_NONE)
}

/// Whether the one's complement sum of a header is right (RFC 1071), given the sum of its words:
/// each step adds one half to the other, and the carry back in.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper half is zero")]
fn is_sum_right(sum: u64) -> bool {
    let halves = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    halves.wrapping_add(halves.rotate_left(16)) >> 16 == 0xffff
}

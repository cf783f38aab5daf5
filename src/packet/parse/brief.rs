//! The common frame straight to its brief form: untagged or once tagged, IPv4 without options or
//! IPv6 without extension headers, whole, TCP or UDP. Everything else, and all that is wrong with
//! a frame, is [`super::parse`]'s.
//!
//! The checks are the same as there, made on whole words; the tests hold one to the other.

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, VlanTags, transport};
use crate::packet::brief::Brief;
use crate::packet::flow_key::{End, KeyKind};
use crate::packet::headers::TcpFlags;
use crate::packet::packed::{LongAddresses, PackedKey, pack_vlan, service};
use crate::types::{LinkId, protocol};

const ETHERTYPE_VLAN: u16 = 0x8100;
/// DHCP: its client's and its server's port, of IPv4 and of IPv6. Exempt, and so not common.
const DHCP_PORTS: [u32; 2] = [68 << 16 | 67, 67 << 16 | 68];
const DHCPV6_PORTS: [u32; 2] = [546 << 16 | 547, 547 << 16 | 546];
/// Bytes of an IPv4 header without options.
const IPV4_LEN: u32 = 20;
const UDP_LEN: u32 = 8;
const TCP_LEN: u32 = 20;

/// Where a brief form is to be written: on its way through an `Option` it would be copied field by
/// field.
#[derive(Debug)]
pub struct BriefPlace<'a> {
    /// The headers.
    pub brief: &'a mut Brief,
    /// What lies beside the key of an IPv6 packet.
    pub beside: &'a mut LongAddresses,
}

/// Writes the brief form of a common frame that is in order; `false`: ask [`super::parse`], and
/// what is written then is nothing.
///
/// A DHCP packet, by its ports, is not common: the pipeline asks about those before anything else.
/// Lengths are those of [`super::parse`].
#[must_use]
#[inline]
pub fn parse_brief(frame: &[u8], original_len: u32, link: LinkId, to: BriefPlace<'_>) -> bool {
    let Some((ethernet, packet)) = frame.split_first_chunk::<14>() else {
        return false;
    };
    let wire_len = (original_len as usize).max(frame.len()).wrapping_sub(14);
    let ip = Ip {
        packet,
        wire_len,
        vlan: 0,
        link,
    };
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => ipv4(&ip, to.brief).is_some(),
        ETHERTYPE_IPV6 => ipv6(&ip, to).is_some(),
        ETHERTYPE_VLAN => tagged(ip, to).is_some(),
        _ => false,
    }
}

/// A packet and what is known of it before its own headers are read.
struct Ip<'a> {
    packet: &'a [u8],
    wire_len: usize,
    /// Bits of the key's `numbers`.
    vlan: u64,
    link: LinkId,
}

#[inline(never)]
fn tagged(mut ip: Ip<'_>, to: BriefPlace<'_>) -> Option<()> {
    let (tag, packet) = ip.packet.split_first_chunk::<4>()?;
    let vlan = VlanTags {
        outer: Some(u16::from_be_bytes([tag[0], tag[1]]) & 0xfff),
        inner: None,
    };
    ip.packet = packet;
    ip.vlan = pack_vlan(vlan);
    ip.wire_len = ip.wire_len.wrapping_sub(4);
    match u16::from_be_bytes([tag[2], tag[3]]) {
        ETHERTYPE_IPV4 => ipv4(&ip, to.brief),
        ETHERTYPE_IPV6 => ipv6(&ip, to),
        _ => None,
    }
}

/// A word of a header.
#[inline(always)]
fn word<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    let found = bytes.get(AT..).and_then(|rest| rest.first_chunk::<4>());
    found.map_or(0, |word| u32::from_be_bytes(*word))
}

#[inline(always)]
fn ipv4(ip: &Ip<'_>, brief: &mut Brief) -> Option<()> {
    let (head, payload) = ip.packet.split_first_chunk::<20>()?;
    let (first, second, third) = (
        word::<0, 20>(head),
        word::<4, 20>(head),
        word::<8, 20>(head),
    );
    let (source, destination) = (word::<12, 20>(head), word::<16, 20>(head));
    let total_len = first & 0xffff;
    // Version 4 and five words; no offset and nothing to follow.
    let is_plain = first >> 24 == 0x45 && second & 0x3fff == 0;
    let sum = [first, second, third, source, destination]
        .iter()
        .fold(0_u64, |sum, word| sum.wrapping_add(u64::from(*word)));
    if !is_plain || !is_sum_right(sum) || total_len as usize > ip.wire_len {
        return None;
    }
    let [hop_limit, protocol, ..] = third.to_be_bytes();
    let payload_len = total_len.checked_sub(IPV4_LEN)?;
    let ports = transport_header(protocol, payload, payload_len, DHCP_PORTS, brief)?;
    let from = u64::from(source) << 16 | u64::from(ports >> 16);
    let to = u64::from(destination) << 16 | u64::from(ports & 0xffff);
    // Land: a packet from its own destination.
    if from == to {
        return None;
    }
    let (low, high) = (from.min(to), from.max(to));
    brief.key = PackedKey {
        addresses: (low >> 16) << 32 | high >> 16,
        numbers: low << 48 | (high & 0xffff) << 32 | ip.vlan,
        service: service(protocol, ip.link, KeyKind::Symmetric),
    };
    brief.hop_limit = hop_limit;
    brief.from = if from == low { End::Low } else { End::High };
    Some(())
}

#[inline(always)]
fn ipv6(ip: &Ip<'_>, to: BriefPlace<'_>) -> Option<()> {
    let (head, payload) = ip.packet.split_first_chunk::<40>()?;
    let lengths = word::<4, 40>(head);
    let payload_len = lengths >> 16;
    let is_whole = payload_len as usize <= ip.wire_len.wrapping_sub(40);
    if word::<0, 40>(head) >> 28 != 6 || !is_whole {
        return None;
    }
    let [.., protocol, hop_limit] = lengths.to_be_bytes();
    let brief = to.brief;
    let ports = transport_header(protocol, payload, payload_len, DHCPV6_PORTS, brief)?;
    let long = |words: [u32; 4]| {
        words
            .iter()
            .fold(0, |sum: u128, word| sum << 32 | u128::from(*word))
    };
    let source = long([
        word::<8, 40>(head),
        word::<12, 40>(head),
        word::<16, 40>(head),
        word::<20, 40>(head),
    ]);
    let destination = long([
        word::<24, 40>(head),
        word::<28, 40>(head),
        word::<32, 40>(head),
        word::<36, 40>(head),
    ]);
    let [from, to_port] = [ports >> 16, ports & 0xffff];
    if (source, from) == (destination, to_port) {
        return None;
    }
    let is_low = (source, from) < (destination, to_port);
    let (low, high) = if is_low {
        (source, destination)
    } else {
        (destination, source)
    };
    let ports = if is_low { ports } else { ports.rotate_left(16) };
    *to.beside = [low, high];
    brief.key = PackedKey::of_v6(low, high, ports, ip.vlan);
    brief.key.service = service(protocol, ip.link, KeyKind::Symmetric);
    brief.hop_limit = hop_limit;
    brief.from = if is_low { End::Low } else { End::High };
    Some(())
}

/// Reads the header behind that of IP, whose payload has `len` bytes: both ports.
#[inline(always)]
fn transport_header(
    protocol: u8,
    payload: &[u8],
    len: u32,
    dhcp: [u32; 2],
    brief: &mut Brief,
) -> Option<u32> {
    match protocol {
        protocol::TCP => tcp(payload, len, brief),
        protocol::UDP => {
            let head = payload.first_chunk::<8>()?;
            let ports = word::<0, 8>(head);
            let is_right = (UDP_LEN..=len).contains(&(word::<4, 8>(head) >> 16));
            if !is_right || dhcp.contains(&ports) {
                return None;
            }
            brief.forget_tcp();
            Some(ports)
        }
        _ => None,
    }
}

#[inline(always)]
fn tcp(payload: &[u8], len: u32, brief: &mut Brief) -> Option<u32> {
    let head = payload.first_chunk::<20>()?;
    let control = word::<12, 20>(head);
    let header_len = (control >> 28).wrapping_mul(4);
    brief.payload_len = len.checked_sub(header_len)?;
    if header_len < TCP_LEN {
        return None;
    }
    let [_, flags, window @ ..] = control.to_be_bytes();
    brief.sequence = word::<4, 20>(head);
    brief.acknowledgment = word::<8, 20>(head);
    brief.window = u16::from_be_bytes(window);
    brief.flags = TcpFlags(flags);
    brief.window_scale = if brief.flags.syn() && header_len > TCP_LEN {
        scale(payload, header_len)
    } else {
        Brief::SCALE_NONE
    };
    Some(word::<0, 20>(head))
}

/// The window scale of a SYN; options that a capture cut are not there.
#[cold]
#[inline(never)]
fn scale(payload: &[u8], header_len: u32) -> u8 {
    let end = (header_len as usize).min(payload.len());
    let options = payload.get(20..end).unwrap_or_default();
    transport::window_scale(options).unwrap_or(Brief::SCALE_NONE)
}

/// Whether the one's complement sum of a header is right (RFC 1071), given the sum of its words:
/// each step adds one half to the other, and the carry back in.
#[inline(always)]
fn is_sum_right(sum: u64) -> bool {
    let halves = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    halves.wrapping_add(halves.rotate_left(16)) >> 16 == 0xffff
}

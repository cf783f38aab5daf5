//! The packet that an ICMP error is about, as the error quotes it.

use super::{
    Addresses, Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_TAGS, Fragment, IpHeader, IpPacket,
    Parsed, Transport, VLAN_TAGS_MAX, ipv4, ipv6, parse,
};
use crate::packet::headers::{Family, TcpFlags, TcpHeader};
use crate::types::protocol;

/// Whether a packet is an ICMP error that quotes another packet: destination unreachable, time
/// exceeded, parameter problem (RFC 792), and the four of RFC 4443. Redirects and the source quench
/// that RFC 6633 withdrew tell a host what to do rather than what became of its packet: they are
/// no errors here.
#[must_use]
pub fn is_icmp_error(packet: &IpPacket) -> bool {
    let Transport::Icmp { kind, .. } = packet.transport else {
        return false;
    };
    match packet.addresses.family() {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}

/// The packet that the ICMP error in `frame` quotes, on the error's VLAN; lengths as in [`parse`].
///
/// A quote is cut by whoever sent the error, and its TTL and checksum have changed on the way, so
/// neither its lengths nor its checksum are judged, and TCP fields behind the sequence number are 0
/// where they were not quoted. `None` where `frame` holds no error, and where the quote relates to
/// nothing: not readable up to its ports, a fragment after the first, itself an ICMP error, or of
/// another family than the error.
#[must_use]
#[cold]
pub fn parse_quoted(frame: &[u8], original_len: usize) -> Option<IpPacket> {
    let Parsed::Ip(error) = parse(frame, original_len) else {
        return None;
    };
    // A fragmented error could not be read whole by anybody on the way.
    if !is_icmp_error(&error) || error.fragment != Fragment::Whole {
        return None;
    }
    let (_, quote) = outer_payload(frame, original_len)?.split::<8>()?;
    let header = match error.addresses {
        Addresses::V4 { .. } => quoted_v4(quote),
        Addresses::V6 { .. } => quoted_v6(quote),
    }?;
    let quoted = IpPacket {
        vlan: error.vlan,
        addresses: header.addresses,
        protocol: header.protocol,
        hop_limit: header.hop_limit,
        fragment: without_len(header.fragment),
        transport: quoted_transport(&header)?,
    };
    (!is_icmp_error(&quoted)).then_some(quoted)
}

/// A quote is cut: how long the fragment was does not follow from it.
fn without_len(fragment: Fragment) -> Fragment {
    match fragment {
        Fragment::First { id, .. } => Fragment::First { id, len: 0 },
        other => other,
    }
}

/// The IP payload of a frame that has been parsed.
fn outer_payload(frame: &[u8], original_len: usize) -> Option<Bytes<'_>> {
    let frame = Bytes {
        captured: frame,
        wire_len: original_len.max(frame.len()),
    };
    let (_, mut rest) = frame.split::<12>()?;
    // As many tags as there may be, and the ethertype.
    for _ in 0..=VLAN_TAGS_MAX {
        let (ethertype, payload) = rest.split::<2>()?;
        rest = match u16::from_be_bytes(*ethertype) {
            ETHERTYPE_IPV4 => return Some(ipv4::header(payload).ok()?.payload),
            ETHERTYPE_IPV6 => return Some(ipv6::header(payload).ok()?.payload),
            tag if ETHERTYPE_TAGS.contains(&tag) => payload.split::<2>()?.1,
            _ => return None,
        };
    }
    None
}

/// A quoted IPv4 header: version, header length, and where it says it was in its packet.
fn quoted_v4(quote: Bytes<'_>) -> Option<IpHeader<'_>> {
    let (fixed, rest) = quote.split::<20>()?;
    let (_, payload) = rest.split_at(ipv4::options_len(fixed[0]).ok()?)?;
    let word = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = match (word & 0x1fff, word & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First {
            id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            len: 0,
        },
        _ => return None,
    };
    Some(IpHeader {
        addresses: ipv4::addresses(fixed),
        protocol: fixed[9],
        hop_limit: fixed[8],
        fragment,
        payload,
    })
}

/// A quoted IPv6 header with its extension headers.
fn quoted_v6(quote: Bytes<'_>) -> Option<IpHeader<'_>> {
    let (fixed, payload) = quote.split::<40>()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    // Extension headers are walked as strictly as ever, by the length that the packet had.
    let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let payload = Bytes {
        captured: payload.truncated(payload_len).captured,
        wire_len: payload_len,
    };
    let header = ipv6::after_fixed(fixed, payload).ok()?;
    let is_later = matches!(header.fragment, Fragment::Later { .. });
    (!is_later).then_some(header)
}

/// As much of the transport header as RFC 792 lets an error quote: 8 bytes.
fn quoted_transport(header: &IpHeader<'_>) -> Option<Transport> {
    let family = header.addresses.family();
    let (has_ports, is_icmp) = match (header.protocol, family) {
        (protocol::TCP | protocol::UDP, _) => (true, false),
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => (false, true),
        _ => (false, false),
    };
    if !has_ports && !is_icmp {
        return Some(Transport::Other);
    }
    let (fixed, rest) = header.payload.split::<8>()?;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let (source_port, destination_port) = (word(fixed[0], fixed[1]), word(fixed[2], fixed[3]));
    if is_icmp {
        return Some(Transport::Icmp {
            kind: fixed[0],
            code: fixed[1],
            id: word(fixed[4], fixed[5]),
            target: None,
        });
    }
    if header.protocol == protocol::UDP {
        return Some(Transport::Udp {
            source_port,
            destination_port,
        });
    }
    let second = rest.captured.first_chunk::<8>().unwrap_or(&[0; 8]);
    Some(Transport::Tcp(TcpHeader {
        source_port,
        destination_port,
        sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        acknowledgment: u32::from_be_bytes([second[0], second[1], second[2], second[3]]),
        flags: TcpFlags(second[5]),
        window: word(second[6], second[7]),
        window_scale: None,
        payload_len: 0,
    }))
}

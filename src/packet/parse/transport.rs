//! TCP (RFC 9293 §3.1), UDP (RFC 768), ICMP (RFC 792, RFC 4443). Checksums are not verified: the
//! receiver does that, and a wrong one reaches nobody.

use super::{Bytes, Fragment, IpHeader, Malformed, Transport};
use crate::packet::headers::{Family, TcpFlags, TcpHeader};
use crate::types::protocol;

/// Most TCP options: each takes a byte at least, and the header length leaves 40 for them.
const TCP_OPTIONS_MAX: usize = 40;
/// Largest window scale that counts (RFC 7323 §2.3).
const WINDOW_SCALE_MAX: u8 = 14;
/// Neighbor solicitation and advertisement (RFC 4861 §4.3, §4.4), which name a target.
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Reads and checks the transport header of a packet. Fragments after the first, ICMP of the other
/// family and all other protocols have none.
#[inline]
pub(super) fn header(ip: &IpHeader<'_>) -> Result<Transport, Malformed> {
    // What a header that the packet is too short for means.
    let short = match ip.fragment {
        Fragment::Whole => Malformed::Transport,
        Fragment::First { .. } => Malformed::Fragment,
        Fragment::Later { .. } => return Ok(Transport::Other),
    };
    match ip.protocol {
        protocol::TCP => tcp(ip.payload, short),
        protocol::UDP => udp(ip.payload, ip.fragment, short),
        protocol::ICMP | protocol::ICMPV6 => icmp(ip, short),
        _ => Ok(Transport::Other),
    }
}

/// Which fault it is that a header of `len` bytes is not at hand: the packet's or the capture's.
#[cold]
fn missing(payload: Bytes<'_>, len: usize, short: Malformed) -> Malformed {
    if payload.wire_len < len {
        short
    } else {
        Malformed::Transport
    }
}

#[inline]
fn tcp(payload: Bytes<'_>, short: Malformed) -> Result<Transport, Malformed> {
    let Some((fixed, options)) = payload.split::<20>() else {
        return Err(missing(payload, 20, short));
    };
    // Header length in words; under five contradicts the header itself.
    let Some(options_words) = (fixed[12] >> 4).checked_sub(5) else {
        return Err(Malformed::Transport);
    };
    let options_len = usize::from(options_words).wrapping_mul(4);
    let Some(payload_len) = options.wire_len.checked_sub(options_len) else {
        return Err(short);
    };
    let flags = TcpFlags(fixed[13]);
    let window_scale = if flags.syn() && options_len > 0 {
        window_scale(options.truncated(options_len).captured)
    } else {
        None
    };
    Ok(Transport::Tcp(TcpHeader {
        source_port: u16::from_be_bytes([fixed[0], fixed[1]]),
        destination_port: u16::from_be_bytes([fixed[2], fixed[3]]),
        sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        acknowledgment: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
        flags,
        window: u16::from_be_bytes([fixed[14], fixed[15]]),
        window_scale,
        payload_len: u32::try_from(payload_len).unwrap_or(u32::MAX),
    }))
}

/// The window-scale option of a SYN. Like receivers do, the last one counts, and reading stops at
/// an option that contradicts itself; what a capture cut is not there.
#[cold]
#[inline(never)]
pub(super) fn window_scale(mut options: &[u8]) -> Option<u8> {
    let mut scale = None;
    for _ in 0..TCP_OPTIONS_MAX {
        let len = match *options {
            [] | [0, ..] | [_] => return scale,
            [1, ..] => 1,
            [kind, len, ..] => {
                if let (3, 3, [_, _, shift, ..]) = (kind, len, options) {
                    scale = Some((*shift).min(WINDOW_SCALE_MAX));
                }
                if len < 2 {
                    return scale;
                }
                usize::from(len)
            }
        };
        let Some(rest) = options.get(len..) else {
            return scale;
        };
        options = rest;
    }
    scale
}

#[inline]
fn udp(payload: Bytes<'_>, fragment: Fragment, short: Malformed) -> Result<Transport, Malformed> {
    let Some((fixed, _)) = payload.split::<8>() else {
        return Err(missing(payload, 8, short));
    };
    // Bytes behind the datagram are allowed. A first fragment holds only a part of it.
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if len < 8 || (len > payload.wire_len && fragment == Fragment::Whole) {
        return Err(Malformed::Transport);
    }
    Ok(Transport::Udp {
        source_port: u16::from_be_bytes([fixed[0], fixed[1]]),
        destination_port: u16::from_be_bytes([fixed[2], fixed[3]]),
    })
}

#[inline(never)]
fn icmp(ip: &IpHeader<'_>, short: Malformed) -> Result<Transport, Malformed> {
    let family = ip.addresses.family();
    let own = match family {
        Family::V4 => protocol::ICMP,
        Family::V6 => protocol::ICMPV6,
    };
    if ip.protocol != own {
        return Ok(Transport::Other);
    }
    let payload = ip.payload;
    let Some((fixed, rest)) = payload.split::<8>() else {
        return Err(missing(payload, 8, short));
    };
    let kind = fixed[0];
    let names_target =
        family == Family::V6 && matches!(kind, NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT);
    let target = match rest.split::<16>() {
        Some((target, _)) if names_target => Some(u128::from_be_bytes(*target)),
        // The wire had it, the capture has not.
        None if names_target && rest.wire_len >= 16 => return Err(Malformed::Transport),
        _ => None,
    };
    Ok(Transport::Icmp {
        kind,
        code: fixed[1],
        id: u16::from_be_bytes([fixed[4], fixed[5]]),
        target,
    })
}

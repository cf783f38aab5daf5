//! The IPv6 header and its extension headers (RFC 8200 §3 and §4).

use super::ipv4::{Piece, fragment_of};
use super::{Addresses, Bytes, Fragment, IPV6_EXT_HEADERS_MAX, IpHeader, Malformed};

/// Extension headers that are walked. AH and ESP are not among them: to policies they are
/// protocols, as in AWS.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// One bit for each extension header number under 64, so that one test tells the usual next
/// headers (TCP, UDP, ICMPv6) from those.
const EXTENSIONS_UNDER_64: u64 = 1 << HOP_BY_HOP | 1 << ROUTING | 1 << FRAGMENT | 1 << DESTINATION;

/// Reads and checks the header and walks its extension headers.
#[inline]
pub(super) fn header(packet: Bytes<'_>) -> Result<IpHeader<'_>, Malformed> {
    let Some((fixed, rest)) = packet.split::<40>() else {
        return Err(Malformed::IpLength);
    };
    let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if fixed[0] >> 4 != 6 || payload_len > rest.wire_len {
        return Err(Malformed::IpLength);
    }
    after_fixed(fixed, rest.truncated(payload_len))
}

/// The header's fields, and its extension headers walked.
#[inline]
pub(super) fn after_fixed<'a>(
    fixed: &[u8; 40],
    payload: Bytes<'a>,
) -> Result<IpHeader<'a>, Malformed> {
    let mut header = IpHeader {
        addresses: addresses(fixed),
        protocol: fixed[6],
        hop_limit: fixed[7],
        fragment: Fragment::Whole,
        payload,
    };
    if is_extension(header.protocol) {
        walk(&mut header)?;
    }
    Ok(header)
}

/// Source and destination. The array's length is known, so the lookups cost no checks.
#[inline]
fn addresses(fixed: &[u8; 40]) -> Addresses {
    let (words, _) = fixed.as_chunks::<8>();
    let word = |index: usize| words.get(index).copied().map_or(0, u64::from_be_bytes);
    let address = |index: usize| {
        let low = index.wrapping_add(1);
        u128::from(word(index)) << 64 | u128::from(word(low))
    };
    Addresses::V6 {
        source: address(1),
        destination: address(3),
    }
}

#[inline]
fn is_extension(number: u8) -> bool {
    number == MOBILITY || (number < 64 && EXTENSIONS_UNDER_64 >> number & 1 != 0)
}

/// Walks the extension headers up to the transport header, or up to the fragment header of a
/// fragment after the first, whose further headers are elsewhere.
///
/// A chain that ends too soon is [`Malformed::ExtensionHeaders`]; in a first fragment, which has to
/// hold the whole chain (RFC 7112), it is [`Malformed::Fragment`]; and [`Malformed::Transport`]
/// where only the capture cut it.
#[cold]
#[inline(never)]
fn walk(header: &mut IpHeader<'_>) -> Result<(), Malformed> {
    let payload_len = header.payload.wire_len;
    // A jumbogram (RFC 2675): the real length is in a hop-by-hop option. No Ethernet carries one.
    if payload_len == 0 && header.protocol == HOP_BY_HOP {
        return Err(Malformed::IpLength);
    }
    let mut is_fragmented = false;
    for index in 0..IPV6_EXT_HEADERS_MAX {
        let number = header.protocol;
        // RFC 8200 §4.1: hop-by-hop comes first or not at all.
        if number == HOP_BY_HOP && index > 0 {
            return Err(Malformed::ExtensionHeaders);
        }
        let cut = match header.fragment {
            Fragment::First { .. } => Malformed::Fragment,
            _ => Malformed::ExtensionHeaders,
        };
        let (fixed, rest) = split_extension(header.payload, number, cut)?;
        header.protocol = fixed[0];
        header.payload = rest;
        match number {
            ROUTING if fixed[2] == 0 => return Err(Malformed::ExtensionHeaders),
            // A second fragment header has no meaning (RFC 8200 §4.1: each at most once).
            FRAGMENT if is_fragmented => return Err(Malformed::ExtensionHeaders),
            FRAGMENT => {
                is_fragmented = true;
                header.fragment = fragment(fixed, header, payload_len)?;
            }
            _ => {}
        }
        if matches!(header.fragment, Fragment::Later { .. }) || !is_extension(header.protocol) {
            return Ok(());
        }
    }
    Err(Malformed::ExtensionHeaders)
}

/// The first eight bytes of an extension header, and what follows the header; `cut` where it does
/// not fit into the packet.
fn split_extension<'a>(
    payload: Bytes<'a>,
    number: u8,
    cut: Malformed,
) -> Result<(&'a [u8; 8], Bytes<'a>), Malformed> {
    let missing = |len: usize| {
        if payload.wire_len < len {
            cut
        } else {
            Malformed::Transport
        }
    };
    let Some((fixed, _)) = payload.split::<8>() else {
        return Err(missing(8));
    };
    // In units of 8 bytes, the first not counted; the fragment header has no length field.
    let more = if number == FRAGMENT {
        0
    } else {
        usize::from(fixed[1])
    };
    let len = more.wrapping_add(1).wrapping_mul(8);
    let Some((_, rest)) = payload.split_at(len) else {
        return Err(missing(len));
    };
    Ok((fixed, rest))
}

/// Judges a fragment header; `header` is past it. Offset 0 and no more to come is an atomic
/// fragment (RFC 6946), a whole packet.
fn fragment(
    fixed: &[u8; 8],
    header: &IpHeader<'_>,
    payload_len: usize,
) -> Result<Fragment, Malformed> {
    let word = u16::from_be_bytes([fixed[2], fixed[3]]);
    let (offset, more) = (word & !7, word & 1 != 0);
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    let len = header.payload.wire_len;
    fragment_of(Piece {
        id: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        offset,
        more,
        len,
        // RFC 8200 §4.5: the payload length of the whole packet, without this header, is what
        // must not pass 65,535.
        before: payload_len.saturating_sub(len).saturating_sub(8),
        protocol: header.protocol,
    })
}

//! The IPv4 header (RFC 791 §3.1).

use super::{Addresses, Bytes, Fragment, IpHeader, Malformed};
use crate::types::protocol;

/// Bytes of the header without options.
const HEADER_LEN: usize = 20;
/// First byte of a header without options: version 4, five words.
const VERSION_4_WORDS_5: u8 = 0x45;
/// "More fragments" and the offset; "don't fragment" and the reserved bit do not matter here.
const FRAGMENT_MASK: u16 = 0x3fff;
const MORE_FRAGMENTS: u16 = 0x2000;
/// No IPv4 packet is longer, reassembled or not.
const PACKET_LEN_MAX: usize = 65_535;
/// Fragments of TCP may not begin inside of the header that every first fragment has to hold.
const TCP_HEADER_LEN: usize = 20;

/// Reads and checks the header: version, lengths, checksum, fragmentation.
#[inline]
pub(super) fn header(packet: Bytes<'_>) -> Result<IpHeader<'_>, Malformed> {
    let Some((fixed, rest)) = packet.split::<20>() else {
        return Err(Malformed::IpLength);
    };
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let (options_len, rest) = if fixed[0] == VERSION_4_WORDS_5 {
        if sum_fixed(fixed) != 0xffff {
            return Err(Malformed::Checksum);
        }
        (0, rest)
    } else {
        skip_options(fixed, rest)?
    };
    if total_len > packet.wire_len {
        return Err(Malformed::IpLength);
    }
    let Some(payload_len) = total_len.checked_sub(HEADER_LEN.wrapping_add(options_len)) else {
        return Err(Malformed::IpLength);
    };
    let payload = rest.truncated(payload_len);
    let fragment_word = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = if fragment_word & FRAGMENT_MASK == 0 {
        Fragment::Whole
    } else {
        fragment(fixed, total_len, payload_len)?
    };
    Ok(IpHeader {
        addresses: addresses(fixed),
        protocol: fixed[9],
        hop_limit: fixed[8],
        fragment,
        payload,
    })
}

/// Source and destination.
#[inline]
pub(super) fn addresses(fixed: &[u8; 20]) -> Addresses {
    Addresses::V4 {
        source: u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]),
        destination: u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]),
    }
}

/// Bytes of options by the first byte of a header; an error for another version or a header
/// shorter than its fixed part.
#[inline]
pub(super) fn options_len(first: u8) -> Result<usize, Malformed> {
    match (first >> 4, (first & 0x0f).checked_sub(5)) {
        (4, Some(words)) => Ok(usize::from(words).wrapping_mul(4)),
        _ => Err(Malformed::IpLength),
    }
}

/// Checks a header with options, or refuses one of another version or length; gives the options'
/// length and what follows them. What the options say is the receiver's business.
#[cold]
#[inline(never)]
fn skip_options<'a>(fixed: &[u8; 20], rest: Bytes<'a>) -> Result<(usize, Bytes<'a>), Malformed> {
    let options_len = options_len(fixed[0])?;
    let Some((options, rest)) = rest.split_at(options_len) else {
        return Err(Malformed::IpLength);
    };
    // At most ten words of options: the header length has four bits.
    let (words, _) = options.as_chunks::<4>();
    let sum = words.iter().fold(u64::from(sum_fixed(fixed)), |sum, word| {
        sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)))
    });
    if fold(sum) != 0xffff {
        return Err(Malformed::Checksum);
    }
    Ok((options_len, rest))
}

/// The one's complement sum (RFC 1071) of the fixed header, 0xffff where its checksum is right and
/// there are no options. Five additions of native words: the sum does not depend on the byte order
/// (RFC 1071 §2 B), and 64 bits hold the carries until the end.
#[inline]
fn sum_fixed(fixed: &[u8; 20]) -> u16 {
    let (words, _) = fixed.as_chunks::<4>();
    let sum = words.iter().fold(0_u64, |sum, word| {
        sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)))
    });
    fold(sum)
}

/// Adds the carries of a sum of at most 2¹⁶ words back in, down to 16 bits.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    sum as u16
}

/// Judges a fragment.
#[cold]
#[inline(never)]
fn fragment(fixed: &[u8; 20], total_len: usize, payload_len: usize) -> Result<Fragment, Malformed> {
    let word = u16::from_be_bytes([fixed[6], fixed[7]]);
    fragment_of(Piece {
        id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        // Thirteen bits of 8 bytes each.
        offset: word << 3,
        more: word & MORE_FRAGMENTS != 0,
        len: payload_len,
        before: total_len.saturating_sub(payload_len),
        protocol: fixed[9],
    })
}

/// A fragment of either IP version before it is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) id: u32,
    /// Where it begins, in bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
    /// Bytes of the fragmented part in it.
    pub(super) len: usize,
    /// Bytes before that count toward the length of the packet that is put together.
    pub(super) before: usize,
    pub(super) protocol: u8,
}

/// Judges a fragment by itself: its size (RFC 791 §3.2, RFC 8200 §4.5), and that it cannot
/// overwrite a TCP header (RFC 3128). An empty fragment says nothing and is refused as well.
pub(super) fn fragment_of(piece: Piece) -> Result<Fragment, Malformed> {
    let Piece {
        id, offset, more, ..
    } = piece;
    let start = usize::from(offset);
    let end = start.wrapping_add(piece.len);
    let is_cut_evenly = !more || piece.len & 7 == 0;
    let is_in_header = piece.protocol == protocol::TCP && (1..TCP_HEADER_LEN).contains(&start);
    let fits = piece.before.wrapping_add(end) <= PACKET_LEN_MAX;
    if piece.len == 0 || !is_cut_evenly || is_in_header || !fits {
        return Err(Malformed::Fragment);
    }
    // It fits, so its length does.
    let len = u16::try_from(piece.len).unwrap_or(u16::MAX);
    Ok(if start == 0 {
        Fragment::First { id, len }
    } else {
        Fragment::Later {
            id,
            offset,
            len,
            more,
        }
    })
}

//! The slow, obvious parser that the fast one is held to: one byte at a time, one rule after the
//! other, nothing shared with it but the result types.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers were read as that wide"
)]

use crate::packet::headers::{
    Addresses, ArpPacket, Fragment, IpPacket, Malformed, Parsed, TcpFlags, TcpHeader, Transport,
    VlanTags,
};

/// Why a byte cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// The frame was not that long.
    OnWire,
    /// The capture cut it off.
    InCapture,
}

/// A frame, or the part of it that a header says belongs to it.
#[derive(Clone, Copy)]
struct Wire<'a> {
    frame: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Wire<'a> {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn number(&self, at: usize, bytes: usize) -> Result<u128, Missing> {
        let mut number = 0;
        for index in at..at + bytes {
            if self.start + index >= self.end {
                return Err(Missing::OnWire);
            }
            match self.frame.get(self.start + index) {
                Some(byte) => number = number << 8 | u128::from(*byte),
                None => return Err(Missing::InCapture),
            }
        }
        Ok(number)
    }

    fn u8(&self, at: usize) -> Result<u8, Missing> {
        self.number(at, 1).map(|number| number as u8)
    }

    fn u16(&self, at: usize) -> Result<u16, Missing> {
        self.number(at, 2).map(|number| number as u16)
    }

    fn u32(&self, at: usize) -> Result<u32, Missing> {
        self.number(at, 4).map(|number| number as u32)
    }

    /// Whether all of the first `len` bytes can be read; too short on the wire is the worse fault.
    fn has(&self, len: usize) -> Result<(), Missing> {
        if self.len() < len {
            return Err(Missing::OnWire);
        }
        for at in 0..len {
            self.u8(at)?;
        }
        Ok(())
    }

    fn skip(&self, len: usize) -> Wire<'a> {
        assert!(len <= self.len());
        Wire {
            start: self.start + len,
            ..*self
        }
    }

    fn take(&self, len: usize) -> Wire<'a> {
        assert!(len <= self.len());
        Wire {
            end: self.start + len,
            ..*self
        }
    }
}

/// What [`super::parse`] has to say about a frame.
pub(super) fn parse(frame: &[u8], original_len: usize) -> Parsed {
    let wire = Wire {
        frame,
        start: 0,
        end: original_len.max(frame.len()),
    };
    frame_of(wire).unwrap_or_else(Parsed::Malformed)
}

fn frame_of(wire: Wire<'_>) -> Result<Parsed, Malformed> {
    wire.has(14).map_err(|_missing| Malformed::Ethernet)?;
    let mut ethertype = wire.u16(12).unwrap();
    let mut rest = wire.skip(14);
    let mut ids = Vec::new();
    while [0x8100, 0x88a8, 0x9100].contains(&ethertype) {
        if ids.len() == 2 {
            return Err(Malformed::Ethernet);
        }
        rest.has(4).map_err(|_missing| Malformed::Ethernet)?;
        ids.push(rest.u16(0).unwrap() % 4096);
        ethertype = rest.u16(2).unwrap();
        rest = rest.skip(4);
    }
    let vlan = VlanTags {
        outer: ids.first().copied(),
        inner: ids.get(1).copied(),
    };
    match ethertype {
        0x0800 => ipv4(rest, vlan),
        0x86dd => ipv6(rest, vlan),
        0x0806 => arp(rest, vlan),
        _ => Ok(Parsed::NotIp { ethertype }),
    }
}

fn arp(wire: Wire<'_>, vlan: VlanTags) -> Result<Parsed, Malformed> {
    wire.has(28).map_err(|_missing| Malformed::Arp)?;
    if wire.number(0, 6) != Ok(0x0001_0800_0604) {
        return Err(Malformed::Arp);
    }
    Ok(Parsed::Arp(ArpPacket {
        vlan,
        operation: wire.u16(6).unwrap(),
        sender: wire.u32(14).unwrap(),
        target: wire.u32(24).unwrap(),
    }))
}

fn ipv4(wire: Wire<'_>, vlan: VlanTags) -> Result<Parsed, Malformed> {
    wire.has(20).map_err(|_missing| Malformed::IpLength)?;
    let header_len = usize::from(wire.u8(0).unwrap() % 16) * 4;
    if wire.u8(0).unwrap() / 16 != 4 || header_len < 20 {
        return Err(Malformed::IpLength);
    }
    wire.has(header_len)
        .map_err(|_missing| Malformed::IpLength)?;
    let mut sum = 0_u64;
    for at in (0..header_len).step_by(2) {
        sum += u64::from(wire.u16(at).unwrap());
    }
    while sum > 0xffff {
        sum = sum % 0x1_0000 + sum / 0x1_0000;
    }
    if sum != 0xffff {
        return Err(Malformed::Checksum);
    }
    let total_len = usize::from(wire.u16(2).unwrap());
    if total_len < header_len || total_len > wire.len() {
        return Err(Malformed::IpLength);
    }
    let payload = wire.take(total_len).skip(header_len);
    let protocol = wire.u8(9).unwrap();
    let word = wire.u16(6).unwrap();
    let (offset, more) = (usize::from(word % 0x2000) * 8, word & 0x2000 != 0);
    let id = u32::from(wire.u16(4).unwrap());
    let fragment = fragment(id, offset, more, protocol, payload.len(), header_len)?;
    let addresses = Addresses::V4 {
        source: wire.u32(12).unwrap(),
        destination: wire.u32(16).unwrap(),
    };
    let hop_limit = wire.u8(8).unwrap();
    finish(payload, vlan, addresses, protocol, hop_limit, fragment)
}

fn ipv6(wire: Wire<'_>, vlan: VlanTags) -> Result<Parsed, Malformed> {
    wire.has(40).map_err(|_missing| Malformed::IpLength)?;
    let payload_len = usize::from(wire.u16(4).unwrap());
    if wire.u8(0).unwrap() / 16 != 6 || payload_len > wire.len() - 40 {
        return Err(Malformed::IpLength);
    }
    let mut protocol = wire.u8(6).unwrap();
    if protocol == 0 && payload_len == 0 {
        return Err(Malformed::IpLength);
    }
    let whole = wire.take(40 + payload_len).skip(40);
    let mut rest = whole;
    let mut seen = Vec::new();
    let mut part = Fragment::Whole;
    while [0, 43, 44, 60, 135].contains(&protocol) && !matches!(part, Fragment::Later { .. }) {
        let is_first = matches!(part, Fragment::First { .. });
        let cut = |missing| match missing {
            Missing::InCapture => Malformed::Transport,
            Missing::OnWire if is_first => Malformed::Fragment,
            Missing::OnWire => Malformed::ExtensionHeaders,
        };
        if seen.len() == 8 || (protocol == 0 && !seen.is_empty()) {
            return Err(Malformed::ExtensionHeaders);
        }
        rest.has(8).map_err(cut)?;
        let len = match protocol {
            44 => 8,
            _ => 8 + 8 * usize::from(rest.u8(1).unwrap()),
        };
        if rest.len() < len {
            return Err(cut(Missing::OnWire));
        }
        rest.has(len).map_err(cut)?;
        if protocol == 43 && rest.u8(2) == Ok(0) {
            return Err(Malformed::ExtensionHeaders);
        }
        if protocol == 44 {
            if seen.contains(&44) {
                return Err(Malformed::ExtensionHeaders);
            }
            let (id, word) = (rest.u32(4).unwrap(), rest.u16(2).unwrap());
            let (offset, more) = (usize::from(word / 8) * 8, word % 2 == 1);
            let next = rest.u8(0).unwrap();
            let before = whole.len() - rest.len();
            part = fragment(id, offset, more, next, rest.len() - 8, before)?;
        }
        seen.push(protocol);
        protocol = rest.u8(0).unwrap();
        rest = rest.skip(len);
    }
    let addresses = Addresses::V6 {
        source: wire.number(8, 16).unwrap(),
        destination: wire.number(24, 16).unwrap(),
    };
    let hop_limit = wire.u8(7).unwrap();
    finish(rest, vlan, addresses, protocol, hop_limit, part)
}

/// `before`: bytes before the fragmented part that count toward the length of the whole.
fn fragment(
    id: u32,
    offset: usize,
    more: bool,
    protocol: u8,
    len: usize,
    before: usize,
) -> Result<Fragment, Malformed> {
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    let is_wrong = (more && !len.is_multiple_of(8))
        || len == 0
        || before + offset + len > 65_535
        || (protocol == 6 && [8, 16].contains(&offset));
    if is_wrong {
        return Err(Malformed::Fragment);
    }
    Ok(match u16::try_from(offset).unwrap() {
        0 => Fragment::First {
            id,
            len: u16::try_from(len).unwrap(),
        },
        offset => Fragment::Later {
            id,
            offset,
            len: u16::try_from(len).unwrap(),
            more,
        },
    })
}

fn finish(
    payload: Wire<'_>,
    vlan: VlanTags,
    addresses: Addresses,
    protocol: u8,
    hop_limit: u8,
    fragment: Fragment,
) -> Result<Parsed, Malformed> {
    let is_v4 = matches!(addresses, Addresses::V4 { .. });
    let short = |missing| match (missing, fragment) {
        (Missing::OnWire, Fragment::First { .. }) => Malformed::Fragment,
        _ => Malformed::Transport,
    };
    let transport = match (protocol, is_v4) {
        _ if matches!(fragment, Fragment::Later { .. }) => Transport::Other,
        (6, _) => {
            payload.has(20).map_err(short)?;
            tcp(payload, short(Missing::OnWire))?
        }
        (17, _) => {
            payload.has(8).map_err(short)?;
            let len = usize::from(payload.u16(4).unwrap());
            if len < 8 || (fragment == Fragment::Whole && len > payload.len()) {
                return Err(Malformed::Transport);
            }
            Transport::Udp {
                source_port: payload.u16(0).unwrap(),
                destination_port: payload.u16(2).unwrap(),
            }
        }
        (1, true) | (58, false) => {
            payload.has(8).map_err(short)?;
            let kind = payload.u8(0).unwrap();
            let mut target = None;
            if !is_v4 && [135, 136].contains(&kind) && payload.len() >= 24 {
                target = Some(payload.number(8, 16).map_err(short)?);
            }
            Transport::Icmp {
                kind,
                code: payload.u8(1).unwrap(),
                id: payload.u16(4).unwrap(),
                target,
            }
        }
        _ => Transport::Other,
    };
    let ports = match transport {
        Transport::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
        Transport::Udp {
            source_port,
            destination_port,
        } => Some((source_port, destination_port)),
        _ => None,
    };
    if addresses.source() == addresses.destination() && ports.is_some_and(|(a, b)| a == b) {
        return Err(Malformed::Land);
    }
    Ok(Parsed::Ip(IpPacket {
        vlan,
        addresses,
        protocol,
        hop_limit,
        fragment,
        transport,
    }))
}

fn tcp(payload: Wire<'_>, short: Malformed) -> Result<Transport, Malformed> {
    let header_len = usize::from(payload.u8(12).unwrap() / 16) * 4;
    if header_len < 20 {
        return Err(Malformed::Transport);
    }
    if header_len > payload.len() {
        return Err(short);
    }
    let flags = TcpFlags(payload.u8(13).unwrap());
    let mut window_scale = None;
    let options = payload.take(header_len);
    let mut at = 20;
    while let (Ok(kind), true) = (options.u8(at), flags.syn()) {
        match (kind, options.u8(at + 1)) {
            (0, _) => break,
            (1, _) => at += 1,
            (_, Ok(len)) if len >= 2 => {
                if let (3, 3, Ok(shift)) = (kind, len, options.u8(at + 2)) {
                    window_scale = Some(shift.min(14));
                }
                at += usize::from(len);
            }
            _ => break,
        }
    }
    Ok(Transport::Tcp(TcpHeader {
        source_port: payload.u16(0).unwrap(),
        destination_port: payload.u16(2).unwrap(),
        sequence: payload.u32(4).unwrap(),
        acknowledgment: payload.u32(8).unwrap(),
        flags,
        window: payload.u16(14).unwrap(),
        window_scale,
        payload_len: (payload.len() - header_len) as u32,
    }))
}

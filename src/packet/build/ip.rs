//! IPv4 and IPv6 headers.

use super::{FrameBuilder, checksum};
use crate::packet::headers::Address;

impl FrameBuilder {
    /// The IP packet, without Ethernet.
    pub(super) fn packet(&self) -> Vec<u8> {
        let transport = match self.fragment {
            Some(piece) if piece.offset > 0 => self.raw_bytes(),
            _ => self.transport(),
        };
        match (self.source, self.destination) {
            (Address::V4(source), Address::V4(destination)) => {
                self.packet_v4([source, destination], &transport)
            }
            (Address::V6(source), Address::V6(destination)) => {
                self.packet_v6([source, destination], &transport)
            }
            _ => Vec::new(),
        }
    }

    /// Without a transport header: the bytes of a raw protocol, then the payload.
    fn raw_bytes(&self) -> Vec<u8> {
        let mut bytes = match &self.layer4 {
            super::Layer4::Raw { bytes, .. } => bytes.clone(),
            _ => Vec::new(),
        };
        bytes.extend(&self.payload);
        bytes
    }

    fn packet_v4(&self, addresses: [u32; 2], transport: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = u8::try_from(header_len / 4).unwrap_or(15);
        let version = self.broken.version.unwrap_or(4) << 4;
        let len = self
            .broken
            .ip_len
            .unwrap_or_else(|| u16_of(header_len + transport.len()));
        let (id, offset) = self.fragment.map_or((1, 0), |piece| {
            let more = u16::from(piece.more) << 13;
            (piece.id, (piece.offset / 8) | more)
        });
        let [_, _, id_high, id_low] = id.to_be_bytes();
        let mut packet = vec![
            version | (self.broken.header_words.unwrap_or(words) & 15),
            0,
        ];
        packet.extend(len.to_be_bytes());
        packet.extend([id_high, id_low]);
        packet.extend(offset.to_be_bytes());
        packet.push(self.hop_limit);
        packet.push(self.broken.protocol.unwrap_or(self.layer4.protocol()));
        packet.extend([0, 0]);
        for address in addresses {
            packet.extend(address.to_be_bytes());
        }
        packet.extend(&self.options);
        let sum = self.broken.ip_checksum.unwrap_or_else(|| checksum(&packet));
        for (at, byte) in packet.iter_mut().skip(10).zip(sum.to_be_bytes()) {
            *at = byte;
        }
        packet.extend(transport);
        packet
    }

    fn packet_v6(&self, addresses: [u128; 2], transport: &[u8]) -> Vec<u8> {
        let last = self.broken.protocol.unwrap_or(self.layer4.protocol());
        let numbers: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).collect();
        let mut next = numbers.iter().copied().chain([last]);
        let first = next.next().unwrap_or(last);
        let mut payload = Vec::new();
        for ((_, bytes), number) in self.extensions.iter().zip(next) {
            payload.push(number);
            payload.extend(bytes.iter().skip(1));
        }
        payload.extend(transport);
        let len = self.broken.ip_len.unwrap_or_else(|| u16_of(payload.len()));
        let mut packet = vec![self.broken.version.unwrap_or(6) << 4, 0, 0, 0];
        packet.extend(len.to_be_bytes());
        packet.extend([first, self.hop_limit]);
        for address in addresses {
            packet.extend(address.to_be_bytes());
        }
        packet.extend(payload);
        packet
    }
}

/// A length field; what does not fit is written as 65535.
pub(super) fn u16_of(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

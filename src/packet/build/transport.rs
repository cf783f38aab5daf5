//! TCP, UDP and ICMP headers with their checksums.

use super::ip::u16_of;
use super::{FrameBuilder, checksum};
use crate::packet::headers::Address;
use crate::types::protocol;

/// The fourth layer as asked for.
#[derive(Clone, Debug)]
pub(super) enum Layer4 {
    Tcp {
        source_port: u16,
        destination_port: u16,
        sequence: u32,
        acknowledgment: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    Icmp {
        protocol: u8,
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    Raw {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

impl Layer4 {
    pub(super) fn tcp(source_port: u16, destination_port: u16) -> Self {
        Self::Tcp {
            source_port,
            destination_port,
            sequence: 0,
            acknowledgment: 0,
            flags: 0,
            window: u16::MAX,
            options: Vec::new(),
        }
    }

    pub(super) fn protocol(&self) -> u8 {
        match *self {
            Self::Tcp { .. } => protocol::TCP,
            Self::Udp { .. } => protocol::UDP,
            Self::Icmp { protocol, .. } | Self::Raw { protocol, .. } => protocol,
        }
    }

    pub(super) fn reverse(&mut self) {
        if let Self::Tcp {
            source_port,
            destination_port,
            ..
        }
        | Self::Udp {
            source_port,
            destination_port,
        } = self
        {
            std::mem::swap(source_port, destination_port);
        }
    }
}

impl FrameBuilder {
    /// Transport header and payload, whole.
    pub(super) fn transport(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = self.transport_header();
        bytes.extend(&self.payload);
        let Some(checksum_at) = checksum_at else {
            return bytes;
        };
        let mut summed = match self.layer4 {
            Layer4::Icmp { protocol, .. } if protocol == protocol::ICMP => Vec::new(),
            _ => self.pseudo_header(bytes.len()),
        };
        summed.extend(&bytes);
        let sum = match (checksum(&summed), &self.layer4) {
            (0, Layer4::Udp { .. }) => u16::MAX,
            (sum, _) => sum,
        };
        let sum = self.broken.transport_checksum.unwrap_or(sum);
        for (at, byte) in bytes.iter_mut().skip(checksum_at).zip(sum.to_be_bytes()) {
            *at = byte;
        }
        bytes
    }

    /// The header with a checksum of 0, and where the checksum goes.
    fn transport_header(&self) -> (Vec<u8>, Option<usize>) {
        let mut bytes = Vec::new();
        match &self.layer4 {
            Layer4::Tcp {
                source_port,
                destination_port,
                sequence,
                acknowledgment,
                flags,
                window,
                options,
            } => {
                let words = u8::try_from(5 + options.len() / 4).unwrap_or(15);
                bytes.extend(source_port.to_be_bytes());
                bytes.extend(destination_port.to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.push(self.broken.data_offset.unwrap_or(words) << 4);
                bytes.push(*flags);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                (bytes, Some(16))
            }
            Layer4::Udp {
                source_port,
                destination_port,
            } => {
                let len = u16_of(8 + self.payload.len());
                bytes.extend(source_port.to_be_bytes());
                bytes.extend(destination_port.to_be_bytes());
                bytes.extend(self.broken.udp_len.unwrap_or(len).to_be_bytes());
                bytes.extend([0; 2]);
                (bytes, Some(6))
            }
            Layer4::Icmp {
                kind, code, rest, ..
            } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest);
                (bytes, Some(2))
            }
            Layer4::Raw { bytes, .. } => (bytes.clone(), None),
        }
    }

    /// What TCP, UDP and ICMPv6 checksums begin with (RFC 9293 §3.1, RFC 8200 §8.1).
    fn pseudo_header(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                Address::V4(bits) => bytes.extend(bits.to_be_bytes()),
                Address::V6(bits) => bytes.extend(bits.to_be_bytes()),
            }
        }
        bytes.extend([0, self.layer4.protocol()]);
        bytes.extend(u16_of(len).to_be_bytes());
        bytes
    }
}

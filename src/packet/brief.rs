//! The common packet, a whole one of TCP or UDP, in as few bytes as its flow needs. The wide form
//! ([`IpPacket`]) has room for everything that a packet can be; it is made of the brief one where
//! a rare turn asks for it.

use super::flow_key::{End, FlowKey};
use super::headers::{Addresses, Fragment, IpPacket, TcpFlags, TcpHeader, Transport};
use super::packed::{LongAddresses, PackedKey};
use crate::types::{LinkId, protocol};

/// A whole TCP or UDP packet; an IPv6 one with its addresses beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Brief {
    /// The key of its flow.
    pub key: PackedKey,
    /// TCP: sequence number.
    pub sequence: u32,
    /// TCP: acknowledgment number.
    pub acknowledgment: u32,
    /// TCP: bytes of payload.
    pub payload_len: u32,
    /// TCP: window as on the wire.
    pub window: u16,
    /// TCP: flag bits.
    pub flags: TcpFlags,
    /// TCP: window scale of a SYN; [`Brief::SCALE_NONE`] without one.
    pub(super) window_scale: u8,
    /// TTL or hop limit.
    pub(super) hop_limit: u8,
    /// Who sent it.
    pub from: End,
}

const _: () = assert!(size_of::<Brief>() == 48);

impl Brief {
    /// No packet.
    pub const NONE: Self = Self {
        key: PackedKey {
            addresses: 0,
            numbers: 0,
            service: 0,
        },
        sequence: 0,
        acknowledgment: 0,
        payload_len: 0,
        window: 0,
        flags: TcpFlags(0),
        window_scale: Self::SCALE_NONE,
        hop_limit: 0,
        from: End::Low,
    };

    /// No window scale.
    pub(super) const SCALE_NONE: u8 = u8::MAX;

    /// The brief form of a packet, and what lies beside its key; `None` of all that is not whole,
    /// or not of TCP or UDP.
    #[must_use]
    pub fn of(link: LinkId, packet: &IpPacket) -> Option<(Self, LongAddresses)> {
        if packet.fragment != Fragment::Whole {
            return None;
        }
        let tcp = match packet.transport {
            Transport::Tcp(tcp) => Some(tcp),
            Transport::Udp { .. } => None,
            Transport::Icmp { .. } | Transport::Other => return None,
        };
        let (key, from) = FlowKey::of(link, packet)?;
        let (key, beside) = PackedKey::of(&key);
        let plain = Self {
            key,
            hop_limit: packet.hop_limit,
            from,
            ..Self::NONE
        };
        let brief = tcp.map_or(plain, |tcp| Self {
            sequence: tcp.sequence,
            acknowledgment: tcp.acknowledgment,
            payload_len: tcp.payload_len,
            window: tcp.window,
            flags: tcp.flags,
            window_scale: tcp.window_scale.unwrap_or(Self::SCALE_NONE),
            ..plain
        });
        Some((brief, beside))
    }

    /// Leaves nothing of a TCP header in it.
    #[inline]
    pub(super) fn forget_tcp(&mut self) {
        self.sequence = 0;
        self.acknowledgment = 0;
        self.payload_len = 0;
        self.window = 0;
        self.flags = TcpFlags(0);
        self.window_scale = Self::SCALE_NONE;
    }

    /// The wide form. Inlined, so that it is written where it stays: a copy right after would wait
    /// for the many small writes.
    #[must_use]
    #[inline(always)]
    pub fn packet(&self, beside: &LongAddresses) -> IpPacket {
        let is_from_low = self.from == End::Low;
        let [low_port, high_port] = self.key.ports();
        let (source_port, destination_port) = in_order(is_from_low, low_port, high_port);
        let addresses = if self.key.is_v6() {
            let [low, high] = *beside;
            let (source, destination) = in_order(is_from_low, low, high);
            Addresses::V6 {
                source,
                destination,
            }
        } else {
            let [low, high] = self.key.short_addresses();
            let (source, destination) = in_order(is_from_low, low, high);
            Addresses::V4 {
                source,
                destination,
            }
        };
        let protocol = self.key.protocol();
        let transport = if protocol == protocol::TCP {
            let scale = Some(self.window_scale);
            Transport::Tcp(TcpHeader {
                source_port,
                destination_port,
                sequence: self.sequence,
                acknowledgment: self.acknowledgment,
                flags: self.flags,
                window: self.window,
                window_scale: scale.filter(|scale| *scale != Self::SCALE_NONE),
                payload_len: self.payload_len,
            })
        } else {
            Transport::Udp {
                source_port,
                destination_port,
            }
        };
        IpPacket {
            vlan: self.key.vlan(),
            addresses,
            protocol,
            hop_limit: self.hop_limit,
            fragment: Fragment::Whole,
            transport,
        }
    }
}

fn in_order<T>(is_from_low: bool, low: T, high: T) -> (T, T) {
    if is_from_low {
        (low, high)
    } else {
        (high, low)
    }
}

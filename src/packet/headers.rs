//! What parsing leaves of a packet: plain values, checked for length and consistency.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One IP address in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6(u128),
}

impl Address {
    /// Its family.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// Whether it is a multicast address, or the IPv4 limited broadcast.
    #[must_use]
    pub fn is_multicast_or_broadcast(self) -> bool {
        match self {
            Self::V4(bits) => bits >> 28 == 0xe || bits == u32::MAX,
            Self::V6(bits) => bits >> 120 == 0xff,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6(v6.to_bits()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bits) => Self::V4(Ipv4Addr::from_bits(bits)),
            Address::V6(bits) => Self::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

/// Source and destination of a packet, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source address.
        source: u32,
        /// Destination address.
        destination: u32,
    },
    /// IPv6.
    V6 {
        /// Source address.
        source: u128,
        /// Destination address.
        destination: u128,
    },
}

impl Addresses {
    /// The family of both.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::V4 { .. } => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }

    /// The source address.
    #[must_use]
    pub fn source(&self) -> Address {
        match *self {
            Self::V4 { source, .. } => Address::V4(source),
            Self::V6 { source, .. } => Address::V6(source),
        }
    }

    /// The destination address.
    #[must_use]
    pub fn destination(&self) -> Address {
        match *self {
            Self::V4 { destination, .. } => Address::V4(destination),
            Self::V6 { destination, .. } => Address::V6(destination),
        }
    }
}

/// 802.1Q and 802.1ad tags: the VLAN ids, outermost first. Priority bits are not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTags {
    /// Outer VLAN id (0–4095), if tagged.
    pub outer: Option<u16>,
    /// Inner VLAN id (0–4095), if double-tagged.
    pub inner: Option<u16>,
}

/// TCP flag bits as on the wire (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// FIN is set.
    #[must_use]
    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
    /// SYN is set.
    #[must_use]
    pub fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }
    /// RST is set.
    #[must_use]
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
    /// ACK is set.
    #[must_use]
    pub fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }
    /// A connection request: SYN without ACK, RST or FIN.
    #[must_use]
    pub fn is_open(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// The TCP header's fields that tracking needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number (meaningful with ACK).
    pub acknowledgment: u32,
    /// Flag bits.
    pub flags: TcpFlags,
    /// Window as on the wire, unscaled.
    pub window: u16,
    /// Window-scale option (RFC 7323 §2.2), read on SYN segments only; clamped to 14.
    pub window_scale: Option<u8>,
    /// Bytes of payload (from the IP length, not from what was captured).
    pub payload_len: u32,
}

/// The fourth layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(TcpHeader),
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP over IPv4 (protocol 1) or ICMPv6 over IPv6 (protocol 58).
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Bytes 4–5: the identifier of queries; anything in other messages.
        id: u16,
        /// ND only (types 135 and 136, 24 bytes or more): the target address.
        target: Option<u128>,
    },
    /// Any other protocol, ICMP of the other family included; and every fragment after the first,
    /// whose transport header is elsewhere.
    Other,
}

/// Fragmentation (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// Not fragmented; an IPv6 atomic fragment (RFC 6946) counts as whole.
    Whole,
    /// Offset 0 and more to come: it has the transport header.
    First {
        /// Identification.
        id: u32,
        /// Bytes of the fragmented part in it.
        len: u16,
    },
    /// Offset over 0.
    Later {
        /// Identification.
        id: u32,
        /// Offset in bytes.
        offset: u16,
        /// Bytes of the fragmented part in it.
        len: u16,
        /// More fragments follow.
        more: bool,
    },
}

/// A checked IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// VLAN ids of the frame.
    pub vlan: VlanTags,
    /// Source and destination.
    pub addresses: Addresses,
    /// IP protocol; in IPv6 the next header after the walked extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Fragmentation.
    pub fragment: Fragment,
    /// The fourth layer's header.
    pub transport: Transport,
}

/// An Ethernet/IPv4 ARP packet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// VLAN ids of the frame.
    pub vlan: VlanTags,
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender's protocol address.
    pub sender: u32,
    /// Target's protocol address.
    pub target: u32,
}

/// Why a frame is malformed; all are one [`crate::types::DropReason::Malformed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than its Ethernet header and tags, or more than [`super::VLAN_TAGS_MAX`] tags.
    Ethernet,
    /// ARP over Ethernet for IPv4 that is cut, or that contradicts itself.
    Arp,
    /// IP version, header length or total length is wrong.
    IpLength,
    /// The IPv4 header checksum is wrong.
    Checksum,
    /// An IPv6 extension header chain that is too long, cut, or has a type 0 routing header.
    ExtensionHeaders,
    /// A first fragment too small for its transport header (RFC 1858), a fragment that passes
    /// 65,535 bytes, or one whose length is no multiple of 8 although more follow.
    Fragment,
    /// The transport header is cut or its lengths contradict the IP header's.
    Transport,
    /// Same address and port at both ends.
    Land,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet.
    Ip(IpPacket),
    /// An ARP packet.
    Arp(ArpPacket),
    /// Anything else, by its ethertype (after VLAN tags); values under 1536 are 802.3 lengths.
    NotIp {
        /// The ethertype.
        ethertype: u16,
    },
    /// A frame that contradicts itself.
    Malformed(Malformed),
}

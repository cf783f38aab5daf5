//! What is never filtered: neighbour discovery, ARP, multicast group membership and DHCP by
//! default, and what `[exempt]` lists. Asked before anything else (semantics.md, "Never filtered").

use std::net::IpAddr;

use ipnet::IpNet;

use crate::packet::{
    Address, Addresses, ArpPacket, Brief, Fragment, IpPacket, LongAddresses, Transport,
};
use crate::types::{PortSide, protocol};

/// The `[exempt]` section, ready for the packet path.
#[derive(Clone, Debug, Default)]
pub struct ExemptRules {
    addresses: Vec<IpNet>,
    ports: Vec<ExemptPort>,
    ethertypes: Vec<u16>,
    any_listed: bool,
}

/// A service port of hosts outside that is exempt, requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExemptPort {
    /// TCP or UDP.
    pub protocol: PortProtocol,
    /// The service's port.
    pub port: u16,
}

/// Protocols that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What the exemptions say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exemption {
    /// Passes whatever the policy is.
    Exempt,
    /// Passes if an interface of the link owns the address that it speaks for.
    SpeaksFor(Address),
    /// Not exempt.
    None,
}

/// IPv6 neighbour discovery (RFC 4861 §4), ICMPv6 types.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// RFC 4861 §6.1, §7.1: a message whose hop limit is less has crossed a router.
const ND_HOP_LIMIT: u8 = 255;

impl ExemptRules {
    /// The lists of `[exempt]`; each may be empty. Addresses and ports are those of services
    /// outside: where a packet from inside goes to, where one from outside comes from. At the
    /// other end they would be a cloak that any host can put on.
    #[must_use]
    pub fn new(addresses: Vec<IpNet>, ports: Vec<ExemptPort>, ethertypes: Vec<u16>) -> Self {
        let any_listed = !addresses.is_empty() || !ports.is_empty();
        Self {
            addresses,
            ports,
            ethertypes,
            any_listed,
        }
    }

    /// Whether frames of a non-IP ethertype pass.
    #[must_use]
    pub fn has_ethertype(&self, ethertype: u16) -> bool {
        self.ethertypes.contains(&ethertype)
    }

    /// ARP passes; what speaks for an address from inside has to own it. An announcement (a
    /// request for the sender's own address, RFC 5227 §1.1) changes caches like a reply.
    pub(super) fn arp(arp: &ArpPacket, side: PortSide) -> Exemption {
        const REPLY: u16 = 2;
        let announces = arp.sender != 0 && arp.sender == arp.target;
        if side == PortSide::Inside && (arp.operation == REPLY || announces) {
            let link_local = arp.sender >> 16 == 0xa9fe;
            if !link_local {
                return Exemption::SpeaksFor(Address::V4(arp.sender));
            }
        }
        Exemption::Exempt
    }

    /// Whether an IP packet is exempt. Of fragments only a listed address is asked, which all of
    /// a datagram have; by default they never are. For listed ports see [`Self::exempts_piece`].
    #[inline]
    pub(super) fn ip(&self, packet: &IpPacket, side: PortSide) -> Exemption {
        let by_default = match packet.protocol {
            protocol::UDP if is_dhcp(packet, side) => Exemption::Exempt,
            protocol::ICMPV6 => icmpv6(packet, side),
            protocol::IGMP if is_igmp(packet) => Exemption::Exempt,
            _ => Exemption::None,
        };
        if by_default == Exemption::None && self.any_listed && self.is_listed(packet, side) {
            return Exemption::Exempt;
        }
        by_default
    }

    /// Whether what is listed is about a common packet. Nothing else exempts one: `parse_brief`
    /// leaves DHCP out.
    #[inline]
    pub(super) fn lists(&self, packet: &Brief, beside: &LongAddresses, side: PortSide) -> bool {
        self.any_listed && self.is_listed(&packet.packet(beside), side)
    }

    /// Whether the ports of the datagram that a fragment is a piece of are listed. `packet` has
    /// them from its first one, which the others follow.
    pub(super) fn exempts_piece(&self, packet: &IpPacket, side: PortSide) -> bool {
        self.any_listed && self.lists_port(packet, side)
    }

    #[cold]
    #[inline(never)]
    fn is_listed(&self, packet: &IpPacket, side: PortSide) -> bool {
        let service = IpAddr::from(match side {
            PortSide::Inside => packet.addresses.destination(),
            PortSide::Outside => packet.addresses.source(),
        });
        if self.addresses.iter().any(|net| net.contains(&service)) {
            return true;
        }
        packet.fragment == Fragment::Whole && self.lists_port(packet, side)
    }

    fn lists_port(&self, packet: &IpPacket, side: PortSide) -> bool {
        let (protocol, source_port, destination_port) = match packet.transport {
            Transport::Tcp(ref tcp) => (PortProtocol::Tcp, tcp.source_port, tcp.destination_port),
            Transport::Udp {
                source_port,
                destination_port,
            } => (PortProtocol::Udp, source_port, destination_port),
            Transport::Icmp { .. } | Transport::Other => return false,
        };
        let port = match side {
            PortSide::Inside => destination_port,
            PortSide::Outside => source_port,
        };
        // A service answers. Whoever opens a connection from its port is somebody else.
        if let Transport::Tcp(ref tcp) = packet.transport
            && side == PortSide::Outside
            && !tcp.flags.ack()
            && !tcp.flags.rst()
        {
            return false;
        }
        self.ports.contains(&ExemptPort { protocol, port })
    }
}

/// IGMP (RFC 2236, RFC 3376), of IPv4 only.
fn is_igmp(packet: &IpPacket) -> bool {
    matches!(packet.addresses, Addresses::V4 { .. }) && packet.fragment == Fragment::Whole
}

/// DHCPv4 (RFC 2131: client 68, server 67) and DHCPv6 (RFC 9915 §7.2: client 546, server 547):
/// client messages from inside, server messages from outside.
fn is_dhcp(packet: &IpPacket, side: PortSide) -> bool {
    let Transport::Udp {
        source_port,
        destination_port,
    } = packet.transport
    else {
        return false;
    };
    if packet.fragment != Fragment::Whole {
        return false;
    }
    let (client, server) = match packet.addresses {
        Addresses::V4 { .. } => (68, 67),
        Addresses::V6 { .. } => (546, 547),
    };
    match side {
        PortSide::Inside => source_port == client && destination_port == server,
        // A DHCPv6 server may answer from any port (RFC 9915 §7.2 fixes only where it listens),
        // but one that does could not be told from any other UDP sender.
        PortSide::Outside => source_port == server && destination_port == client,
    }
}

fn icmpv6(packet: &IpPacket, side: PortSide) -> Exemption {
    let Transport::Icmp { kind, target, .. } = packet.transport else {
        return Exemption::None;
    };
    if packet.fragment != Fragment::Whole {
        return Exemption::None;
    }
    let from_outside = side == PortSide::Outside;
    match kind {
        // MLD (RFC 2710, RFC 3810). Its own hop limit (1) is its receivers' business.
        130..=132 | 143 => Exemption::Exempt,
        _ if packet.hop_limit != ND_HOP_LIMIT => Exemption::None,
        ROUTER_SOLICITATION | NEIGHBOR_SOLICITATION => Exemption::Exempt,
        ROUTER_ADVERTISEMENT | REDIRECT if from_outside => Exemption::Exempt,
        NEIGHBOR_ADVERTISEMENT => match target {
            _ if from_outside => Exemption::Exempt,
            Some(target) if target >> 118 == 0xfe80 >> 6 => Exemption::Exempt,
            Some(target) => Exemption::SpeaksFor(Address::V6(target)),
            None => Exemption::None,
        },
        _ => Exemption::None,
    }
}

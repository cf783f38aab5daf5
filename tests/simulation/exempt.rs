//! What is never filtered: semantics.md's list, and that of the configuration.

use portcullis::packet::{Address, Fragment, IpPacket, Transport};
use portcullis::pipeline::{ExemptPort, ExemptRules, PortProtocol};
use portcullis::types::PortSide;

use crate::random::Random;
use crate::talk::address;

/// `[exempt]`.
#[derive(Clone, Debug)]
pub(crate) struct Exempt {
    addresses: Vec<Address>,
    ports: Vec<ExemptPort>,
    pub(crate) ethertypes: Vec<u16>,
}

pub(crate) enum Exemption {
    Yes,
    For(Address),
    No,
}

impl Exempt {
    /// Lists of services that talks ask, each there or not.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut exempt = Self {
            addresses: Vec::new(),
            ports: Vec::new(),
            ethertypes: Vec::new(),
        };
        if random.once_in(3) {
            exempt.addresses = vec![address("192.0.2.6"), address("2001:db8:f::6")];
        }
        for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
            if random.once_in(4) {
                exempt.ports.push(ExemptPort {
                    protocol,
                    port: 9999,
                });
            }
        }
        if random.once_in(2) {
            exempt.ethertypes.push(0x88cc);
        }
        exempt
    }

    pub(crate) fn rules(&self) -> ExemptRules {
        let net = |address: &Address| std::net::IpAddr::from(*address).into();
        ExemptRules::new(
            self.addresses.iter().map(net).collect(),
            self.ports.clone(),
            self.ethertypes.clone(),
        )
    }

    pub(crate) fn exemption(&self, packet: &IpPacket, side: PortSide) -> Exemption {
        match by_default(packet, side) {
            Exemption::No if self.is_listed(packet, side) => Exemption::Yes,
            exemption => exemption,
        }
    }

    /// Services are outside: asked from inside, and their answers.
    fn is_listed(&self, packet: &IpPacket, side: PortSide) -> bool {
        let service = match side {
            PortSide::Inside => packet.addresses.destination(),
            PortSide::Outside => packet.addresses.source(),
        };
        let is_whole = packet.fragment == Fragment::Whole;
        self.addresses.contains(&service) || is_whole && self.has_port(packet, side)
    }

    /// By the ports alone; of a piece, which follows its first one, those of that.
    pub(crate) fn has_port(&self, packet: &IpPacket, side: PortSide) -> bool {
        let (protocol, ports, is_answer) = match packet.transport {
            Transport::Tcp(tcp) => {
                let ports = (tcp.source_port, tcp.destination_port);
                (PortProtocol::Tcp, ports, tcp.flags.ack() || tcp.flags.rst())
            }
            Transport::Udp {
                source_port,
                destination_port,
            } => (PortProtocol::Udp, (source_port, destination_port), true),
            _ => (PortProtocol::Udp, (0, 0), false),
        };
        let has_port = |port| self.ports.contains(&ExemptPort { protocol, port });
        match side {
            PortSide::Inside => has_port(ports.1),
            PortSide::Outside => is_answer && has_port(ports.0),
        }
    }
}

/// semantics.md, "Never filtered", without a list.
fn by_default(packet: &IpPacket, side: PortSide) -> Exemption {
    let is_v4 = matches!(packet.addresses.source(), Address::V4(_));
    let is_outside = side == PortSide::Outside;
    if packet.fragment != Fragment::Whole {
        return Exemption::No;
    }
    if packet.protocol == 2 && is_v4 {
        return Exemption::Yes;
    }
    match packet.transport {
        Transport::Udp {
            source_port,
            destination_port,
        } => {
            let (client, server) = if is_v4 { (68, 67) } else { (546, 547) };
            let expected = match side {
                PortSide::Inside => (client, server),
                PortSide::Outside => (server, client),
            };
            match (source_port, destination_port) == expected {
                true => Exemption::Yes,
                false => Exemption::No,
            }
        }
        Transport::Icmp { kind, target, .. } if !is_v4 && packet.protocol == 58 => {
            match (kind, packet.hop_limit) {
                (130..=132 | 143, _) | (133 | 135, 255) => Exemption::Yes,
                (134 | 137, 255) if is_outside => Exemption::Yes,
                (136, 255) if is_outside => Exemption::Yes,
                (136, 255) => match target {
                    Some(target) if target >> 118 == 0x3fa => Exemption::Yes,
                    Some(target) => Exemption::For(Address::V6(target)),
                    None => Exemption::No,
                },
                _ => Exemption::No,
            }
        }
        _ => Exemption::No,
    }
}

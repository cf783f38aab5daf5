//! The rules that come nearest to a packet that no rule allows.
//!
//! A rule that refuses nothing cannot be blamed for a refusal; what helps is the rule that would
//! have allowed the packet but for a few *fields*: its port (or ICMP type and code), the address,
//! the protocol, the direction. A miss names exactly the fields that have to change; nearest are
//! those with the fewest, then those whose port or prefix is nearest.
//!
//! Linear in the rules of the interface's groups and in what their peers hold: a question that
//! people ask, never the packet path.

mod peers;
mod words;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::peers::Peers;
use super::model::{GroupIndex, IcmpMatch, Policy, PortRange, Rule, SecurityGroup, Service};
use crate::types::{Direction, protocol};

/// Most misses that are told.
pub const MISSES_MAX: usize = 5;

/// A packet at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As seen from the interface.
    pub direction: Direction,
    /// The other end.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// TCP and UDP: the destination port. ICMP and ICMPv6: type in the high byte, code in the low
    /// one. Other protocols have none.
    pub service: u16,
}

/// A rule that would allow the packet but for what differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// Its id.
    pub rule: String,
    /// The group that it is of.
    pub group: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// What it allows: `tcp 80-443 from 10.7.0.0/16`.
    pub text: String,
    /// What would have to be otherwise; the least there is.
    pub differs: Vec<Differing>,
}

/// One field of the packet that a rule does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// Which.
    pub field: Field,
    /// In words: `port 8080 is not in 80-443`.
    pub detail: String,
}

/// What may differ. The order is that of misses which differ in as many fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Field {
    /// Destination port of TCP and UDP.
    Port,
    /// ICMP type.
    Type,
    /// ICMP code.
    Code,
    /// The address of the other end.
    Address,
    /// IP protocol.
    Protocol,
    /// Ingress or egress.
    Direction,
}

impl Field {
    const ALL: [Self; 6] = [
        Self::Port,
        Self::Type,
        Self::Code,
        Self::Address,
        Self::Protocol,
        Self::Direction,
    ];
}

/// A set of fields; the one with the later fields is the higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Fields(u8);

impl Fields {
    fn add(&mut self, field: Field, differs: bool) {
        self.0 |= u8::from(differs) << field as u8;
    }

    fn has(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }

    fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// How far a rule is from a packet. Nearer is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    count: u32,
    fields: Fields,
    /// From the port to the nearest one that the rule names.
    ports: u32,
    /// Bits that the address and the nearest prefix do not have in common.
    bits: u32,
    /// Position of the group in the policy, then of the rule in the group.
    place: (u32, usize),
}

/// The rules of some groups that come nearest to a packet, the nearest first: at most
/// [`MISSES_MAX`], and none that differs in two fields more than the first. Rules that allow the
/// packet are none of them.
///
/// # Panics
/// On groups of another policy.
#[must_use]
pub fn nearest_misses(policy: &Policy, groups: &[GroupIndex], asked: &Asked) -> Vec<Miss> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    let mut peers = Peers::of_groups(policy, &groups, asked.remote);
    let mut nearest: Vec<(Distance, &SecurityGroup, Direction, &Rule)> = Vec::new();
    for index in groups {
        let group = policy.group(index);
        for direction in [Direction::Ingress, Direction::Egress] {
            for (position, rule) in group.rules(direction).iter().enumerate() {
                let place = (index.0, position);
                let distance = distance(asked, direction, rule, place, &mut peers);
                if distance.count == 0 {
                    continue;
                }
                let at = nearest.partition_point(|(known, ..)| *known < distance);
                if at < MISSES_MAX {
                    nearest.truncate(MISSES_MAX - 1);
                    nearest.insert(at, (distance, group, direction, rule));
                }
            }
        }
    }
    let first = nearest.first().map_or(0, |(distance, ..)| distance.count);
    nearest.retain(|(distance, ..)| distance.count <= first + 1);
    let described = nearest.iter().map(|(distance, group, direction, rule)| {
        let differs = Field::ALL.iter().filter(|one| distance.fields.has(**one));
        Miss {
            rule: rule.id.to_string(),
            group: group.name.to_string(),
            direction: direction.name().to_owned(),
            text: words::rule(policy, *direction, rule),
            differs: differs
                .map(|&field| Differing {
                    field,
                    detail: words::differing(policy, asked, field, *direction, rule, &mut peers),
                })
                .collect(),
        }
    });
    described.collect()
}

fn distance(
    asked: &Asked,
    direction: Direction,
    rule: &Rule,
    place: (u32, usize),
    peers: &mut Peers<'_>,
) -> Distance {
    let mut fields = Fields::default();
    let ports = service_fields(asked, rule.service, &mut fields);
    let closeness = peers.closeness(rule.peer);
    let bits = match is_of_family(asked.remote, rule.service) {
        true => closeness.bits,
        false => peers::FAMILY_BITS,
    };
    fields.add(Field::Address, bits > 0);
    fields.add(Field::Direction, direction != asked.direction);
    Distance {
        count: fields.count(),
        fields,
        ports,
        bits,
        place,
    }
}

/// Adds what differs of the service; how far the port is away.
fn service_fields(asked: &Asked, service: Service, fields: &mut Fields) -> u32 {
    let Some(number) = protocol_of(service) else {
        return 0;
    };
    fields.add(Field::Protocol, number != asked.protocol);
    match service {
        Service::Tcp(ports) | Service::Udp(ports) => {
            let away = ports_away(asked, ports);
            fields.add(Field::Port, away > 0);
            away
        }
        Service::Icmp(wanted) | Service::Icmpv6(wanted) => {
            let IcmpMatch { kind, code } = asked_icmp(asked);
            fields.add(Field::Type, wanted.kind.is_some() && wanted.kind != kind);
            fields.add(Field::Code, wanted.code.is_some() && wanted.code != code);
            0
        }
        Service::All | Service::Protocol(_) => 0,
    }
}

/// The protocol that a service names; `None`: every one.
fn protocol_of(service: Service) -> Option<u8> {
    match service {
        Service::All => None,
        Service::Tcp(_) => Some(protocol::TCP),
        Service::Udp(_) => Some(protocol::UDP),
        Service::Icmp(_) => Some(protocol::ICMP),
        Service::Icmpv6(_) => Some(protocol::ICMPV6),
        Service::Protocol(number) => Some(number),
    }
}

/// The port that is asked for, where the protocol has ports.
fn asked_port(asked: &Asked) -> Option<u16> {
    matches!(asked.protocol, protocol::TCP | protocol::UDP).then_some(asked.service)
}

/// The type and code that are asked for; none of other protocols.
fn asked_icmp(asked: &Asked) -> IcmpMatch {
    let [kind, code] = asked.service.to_be_bytes();
    let is_icmp = matches!(asked.protocol, protocol::ICMP | protocol::ICMPV6);
    IcmpMatch {
        kind: is_icmp.then_some(kind),
        code: is_icmp.then_some(code),
    }
}

/// How many ports the nearest one of a range is away; a packet without a port is further from all
/// of them than any other, unless the range has every one.
fn ports_away(asked: &Asked, ports: PortRange) -> u32 {
    match asked_port(asked) {
        Some(port) if port < ports.from => u32::from(ports.from - port),
        Some(port) => u32::from(port.saturating_sub(ports.to)),
        None if ports == PortRange::ALL => 0,
        None => u32::from(u16::MAX) + 1,
    }
}

/// Whether a service is one of the address's family.
fn is_of_family(remote: IpAddr, service: Service) -> bool {
    match service {
        Service::Icmp(_) => remote.is_ipv4(),
        Service::Icmpv6(_) => remote.is_ipv6(),
        _ => true,
    }
}

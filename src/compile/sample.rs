//! Realistic policies of any size from a seed: for benchmarks and tests, which both need the same.
//!
//! The shape is that of grown cloud accounts: environments (production, staging, …) of tiers (web,
//! app, database, …), a group for each tier and service, group references from tier to tier, a few
//! any-address rules at the front, offices and partners as prefix lists and single prefixes,
//! monitoring and bastion groups that reach everything, and a minority of IPv6.

use hashbrown::HashSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::{
    GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, Policy, PortRange, PrefixEntry,
    PrefixList, PrefixListIndex, Rule, SecurityGroup, Service,
};
use crate::sync::Arc;
use crate::types::{GroupId, InterfaceId, PrefixListId, RuleId};

/// Rules of an ordinary group, both directions.
const RULES_PER_GROUP: usize = 10;
/// Groups before the ordinary ones: default, bastion, monitoring.
const SPECIAL_GROUPS: usize = 3;
/// How often a rule that exists already is drawn anew, on average.
const ATTEMPTS_PER_RULE: usize = 50;
/// Ports that services listen on.
const SERVICE_PORTS: [u16; 24] = [
    22, 53, 80, 123, 389, 443, 636, 1433, 2049, 3000, 3306, 4317, 5432, 5672, 6379, 6443, 8080,
    8125, 8443, 9042, 9090, 9092, 9100, 27017,
];
/// First number of a large group's rules.
const LARGE_GROUP_RULES_FIRST: usize = 1 << 32;
/// First ports of the ranges of a hundred that services use.
const RANGE_STARTS: [u16; 8] = [1024, 2000, 3000, 8000, 9000, 20_000, 30_000, 49_152];
const TIERS: [&str; 6] = ["lb", "web", "app", "cache", "queue", "db"];
const ENVIRONMENTS: [&str; 4] = ["prod", "staging", "test", "dev"];

/// A small generator of numbers (SplitMix64), so that a seed gives the same policy everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let product = u128::from(self.bits()) * limit as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    /// One of a list that is not empty.
    ///
    /// # Panics
    /// On an empty list.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Whether something happens that does so in `percent` of all cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.bits() >> 32).unwrap_or(0)
    }
}

/// How large a policy to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rules, nearly.
    pub rules: usize,
    /// Interfaces.
    pub interfaces: usize,
}

/// A policy of about this size; equal arguments give equal policies.
#[must_use]
pub fn policy(size: Size, seed: u64) -> Policy {
    let mut maker = Maker {
        random: Random::new(seed),
        groups: SPECIAL_GROUPS + (size.rules / RULES_PER_GROUP).max(1),
        rules: 0,
    };
    let prefix_lists = maker.prefix_lists(3 + size.rules / 500);
    let groups = (0..maker.groups)
        .map(|index| Arc::new(maker.group(index, prefix_lists.len())))
        .collect();
    let interfaces = (0..size.interfaces)
        .map(|index| Arc::new(maker.interface(index)))
        .collect();
    Policy {
        groups,
        prefix_lists: prefix_lists.into_iter().map(Arc::new).collect(),
        interfaces,
    }
}

/// One group of `rules` rules on the first interface, which has no other: the hardest shape for a
/// single program. The other groups are there to be referred to.
#[must_use]
pub fn one_large_group(rules: usize, seed: u64) -> Policy {
    let size = Size {
        rules: 500,
        interfaces: 500,
    };
    let mut made = policy(size, seed);
    let mut maker = Maker {
        random: Random::new(!seed),
        groups: made.groups.len(),
        // Ids that the other groups do not use.
        rules: LARGE_GROUP_RULES_FIRST,
    };
    let lists = made.prefix_lists.len();
    let large = maker.many(rules, lists);
    if let (Some(group), Some(interface)) = (made.groups.last_mut(), made.interfaces.first_mut()) {
        Arc::make_mut(group).ingress = large;
        Arc::make_mut(interface).groups = vec![GroupIndex(index_u32(maker.groups - 1))];
    }
    made
}

struct Maker {
    random: Random,
    /// How many groups there are, or will be.
    groups: usize,
    /// How many rules were made.
    rules: usize,
}

impl Maker {
    fn prefix_lists(&mut self, count: usize) -> Vec<PrefixList> {
        let mut list = |index: usize| {
            let entries = 4 + self.random.below(40);
            let mut cidrs: Vec<_> = (0..entries).map(|_| self.outside_prefix()).collect();
            cidrs.sort_unstable();
            cidrs.dedup();
            let entry = |cidr| PrefixEntry {
                cidr,
                description: None,
            };
            PrefixList {
                name: format!("list-{index}").into(),
                id: PrefixListId(format!("pl-{index:017x}").into()),
                entries: cidrs.into_iter().map(entry).collect(),
            }
        };
        (0..count).map(&mut list).collect()
    }

    fn group(&mut self, index: usize, lists: usize) -> SecurityGroup {
        let tier = TIERS[index % TIERS.len()];
        let environment = ENVIRONMENTS[index / TIERS.len() % ENVIRONMENTS.len()];
        let everything = [
            self.new_rule(Service::All, any_v4()),
            self.new_rule(Service::All, any_v6()),
        ];
        let (name, ingress, egress) = match index {
            0 => {
                let own = self.new_rule(Service::All, Peer::Group(GroupIndex(0)));
                ("default".to_owned(), vec![own], Vec::from(everything))
            }
            1 => (
                "bastion".to_owned(),
                self.many(3, lists),
                Vec::from(everything),
            ),
            2 => (
                "monitoring".to_owned(),
                self.many(2, lists),
                Vec::from(everything),
            ),
            _ => {
                let name = format!("{environment}-{tier}-{index}");
                let mut ingress = self.many(RULES_PER_GROUP - 3, lists);
                ingress.push(self.new_rule(tcp(22, 22), Peer::Group(GroupIndex(1))));
                if self.random.chance(70) {
                    (name, ingress, Vec::from(everything))
                } else {
                    (name, ingress, self.many(2, lists))
                }
            }
        };
        SecurityGroup {
            id: GroupId(format!("sg-{index:017x}").into()),
            description: Some(format!("the {name} group").into()),
            name: name.into(),
            enforce: true,
            ingress,
            egress,
        }
    }

    /// So many rules without duplicates.
    fn many(&mut self, count: usize, lists: usize) -> Vec<Rule> {
        let mut taken = HashSet::new();
        let mut rules = Vec::with_capacity(count);
        for _ in 0..count.saturating_mul(ATTEMPTS_PER_RULE) {
            if rules.len() == count {
                break;
            }
            let (service, peer) = (self.service(), self.peer(lists));
            if taken.insert((service, peer)) {
                rules.push(self.new_rule(service, peer));
            }
        }
        rules
    }

    fn peer(&mut self, lists: usize) -> Peer {
        match self.random.below(100) {
            0..40 => Peer::Group(GroupIndex(index_u32(self.random.below(self.groups)))),
            40..50 => Peer::PrefixList(PrefixListIndex(index_u32(self.random.below(lists)))),
            50..56 => any_v4(),
            56..59 => any_v6(),
            59..80 => peer_of(self.inside_prefix()),
            _ => peer_of(self.outside_prefix()),
        }
    }

    fn service(&mut self) -> Service {
        let port = *self.random.pick(&SERVICE_PORTS);
        match self.random.below(100) {
            0..70 => tcp(port, port),
            70..78 => {
                let from = *self.random.pick(&RANGE_STARTS);
                tcp(from, from + 99)
            }
            78..82 => tcp(0, u16::MAX),
            82..92 => Service::Udp(PortRange {
                from: port,
                to: port,
            }),
            92..95 => Service::Icmp(IcmpMatch {
                kind: Some(8),
                code: Some(0),
            }),
            95..97 => Service::Icmpv6(IcmpMatch {
                kind: None,
                code: None,
            }),
            97 => Service::Protocol(*self.random.pick(&[47, 50, 132])),
            _ => Service::All,
        }
    }

    fn new_rule(&mut self, service: Service, peer: Peer) -> Rule {
        let index = self.rules;
        self.rules += 1;
        Rule {
            id: RuleId(format!("sgr-{index:017x}").into()),
            service,
            peer,
            description: None,
        }
    }

    fn interface(&mut self, index: usize) -> Interface {
        let number = index_u32(index);
        let v4 = 0x0a00_0000 | (number & 0x00ff_ffff);
        let mut addresses = vec![IpNet::V4(Ipv4Net::from(std::net::Ipv4Addr::from(v4)))];
        if self.random.chance(30) {
            let v6 = INSIDE_V6 | u128::from(number);
            addresses.push(IpNet::V6(Ipv6Net::from(std::net::Ipv6Addr::from(v6))));
        }
        let ordinary = self.groups - SPECIAL_GROUPS;
        let mut group = || GroupIndex(index_u32(SPECIAL_GROUPS + self.random.below(ordinary)));
        let groups = match index % 100 {
            0 => vec![GroupIndex(1)],
            1 => vec![GroupIndex(2)],
            2..10 => vec![GroupIndex(0)],
            // Interfaces of one tier come in hundreds with the same groups.
            _ => {
                let own = SPECIAL_GROUPS + index / 10 % ordinary;
                let first = GroupIndex(index_u32(own));
                match index / 10 % 4 {
                    0 => vec![first, group()],
                    _ => vec![first],
                }
            }
        };
        let mut unique = groups;
        unique.dedup();
        Interface {
            name: format!("host-{index}").into(),
            id: InterfaceId(format!("eni-{index:017x}").into()),
            addresses,
            groups: unique,
            link: InterfaceLink::Only,
            vlan: None,
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: crate::types::FlowLimits::default(),
        }
    }

    /// A prefix of the protected networks.
    fn inside_prefix(&mut self) -> IpNet {
        let len = *self.random.pick(&[16, 20, 24, 24, 28, 32]);
        net_v4(0x0a00_0000 | (self.random.word() & 0x00ff_ffff), len)
    }

    /// A prefix of anywhere else.
    fn outside_prefix(&mut self) -> IpNet {
        if self.random.chance(15) {
            let bits = (0x2000 << 112) | (u128::from(self.random.bits()) << 48);
            let len = *self.random.pick(&[32, 48, 48, 56, 64]);
            return IpNet::V6(v6(bits, len));
        }
        let len = *self.random.pick(&[16, 22, 24, 24, 27, 29, 32, 32, 32]);
        net_v4(self.random.word() | 0x4000_0000, len)
    }
}

/// Where the sample's interfaces have their IPv6 addresses.
const INSIDE_V6: u128 = 0x2001_0db8 << 96;

fn tcp(from: u16, to: u16) -> Service {
    Service::Tcp(PortRange { from, to })
}

fn any_v4() -> Peer {
    Peer::Cidr4(Ipv4Net::default())
}

fn any_v6() -> Peer {
    Peer::Cidr6(Ipv6Net::default())
}

fn peer_of(net: IpNet) -> Peer {
    match net {
        IpNet::V4(net) => Peer::Cidr4(net),
        IpNet::V6(net) => Peer::Cidr6(net),
    }
}

fn net_v4(bits: u32, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(bits.into(), len).trunc())
}

fn v6(bits: u128, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(bits.into(), len).trunc()
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_policy_of_about_the_asked_size() {
        for rules in [10, 1000, 10_000] {
            let size = Size {
                rules,
                interfaces: rules / 5,
            };
            let made = policy(size, 7);
            assert_eq!(made, policy(size, 7));
            assert_ne!(made, policy(size, 8));
            let count = made.count();
            assert!(count.rules >= rules * 7 / 10 && count.rules <= rules * 13 / 10 + 30);
            assert_eq!(count.interfaces, rules / 5);
        }
    }

    #[test]
    fn a_large_group_has_the_asked_rules() {
        let made = one_large_group(5000, 1);
        let interface = &made.interfaces[0];
        assert_eq!(made.group(interface.groups[0]).ingress.len(), 5000);
    }
}

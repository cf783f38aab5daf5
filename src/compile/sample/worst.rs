//! Policies that are as hard as they can be: what classifiers are measured by, what scale asks for,
//! and what somebody would write who wants to hurt.

use ipnet::IpNet;

use super::{Random, any_v4, index_u32, net_v4, peer_of, tcp, v6};
use crate::policy::{
    GroupIndex, Interface, InterfaceLink, Peer, Policy, PortRange, PrefixEntry, PrefixList,
    PrefixListIndex, Rule, SecurityGroup, Service,
};
use crate::sync::Arc;
use crate::types::{GroupId, InterfaceId, PrefixListId, RuleId};

/// Lengths of prefixes as filter sets of routers have them.
const CLASS_BENCH_LENGTHS: [u8; 13] = [8, 12, 16, 20, 22, 24, 24, 24, 26, 28, 30, 32, 32];

/// One interface, 10.0.0.0/8, with one group of so many rules in the manner of ClassBench: nested
/// prefixes of 10.0.0.0/8, one port or a range of ports of TCP or UDP.
#[must_use]
pub fn class_bench(rules: usize, seed: u64) -> Policy {
    let mut random = Random::new(seed);
    let made = (0..rules).map(|_| {
        let len = *random.pick(&CLASS_BENCH_LENGTHS);
        let peer = peer_of(net_v4(0x0a00_0000 | (random.word() & 0x00ff_ffff), len));
        let ports = if random.chance(60) {
            let port = port(&mut random, 65_535);
            PortRange {
                from: port,
                to: port,
            }
        } else {
            let from = port(&mut random, 60_000);
            let width = 1_u16 << *random.pick(&[1, 3, 4, 6, 10]);
            PortRange {
                from,
                to: from + width - 1,
            }
        };
        let service = match random.chance(50) {
            true => Service::Tcp(ports),
            false => Service::Udp(ports),
        };
        (service, peer)
    });
    let made = made.collect();
    let mut policy = one_group(made);
    policy.interfaces = vec![interface(0, "10.0.0.0/8", &[0])];
    policy
}

/// A rule for each port of TCP, from anywhere.
#[must_use]
pub fn every_port() -> Policy {
    one_group(
        (0..=u16::MAX)
            .map(|port| (tcp(port, port), any_v4()))
            .collect(),
    )
}

/// So many ranges of ports that all overlap, later ones lower, each of another peer than the one
/// before.
#[must_use]
pub fn overlapping(rules: u16) -> Policy {
    let peers = [any_v4(), peer_of(net_v4(0x0a00_0000, 8))];
    let rule = |i: u16| (tcp(rules - i, 65_535 - i), peers[usize::from(i % 2)]);
    one_group((0..rules.min(32_000)).map(rule).collect())
}

/// So many rules, no two with a service or a peer in common.
#[must_use]
pub fn all_distinct(rules: u16) -> Policy {
    let rule = |i: u16| {
        let net = net_v4(0x4000_0000 | (u32::from(i) << 9), 32);
        (tcp(i, i), peer_of(net))
    };
    one_group((0..rules).map(rule).collect())
}

/// Prefixes of every length around so many addresses, of both families, each with a few ports.
#[must_use]
pub fn deepest(addresses: usize, ports: u16) -> Policy {
    let mut random = Random::new(1);
    let mut rules = Vec::new();
    for _ in 0..addresses {
        let [high, low] = [random.bits(), random.bits()];
        let bits = (u128::from(high) << 64) | u128::from(low);
        for port in 0..ports {
            let v4 = (1..=32).map(|len| net_v4(index_high(bits), len));
            rules.extend(v4.map(|net| (tcp(port, port), peer_of(net))));
            let v6 = (1..=128).map(|len| IpNet::V6(v6(bits, len)));
            rules.extend(v6.map(|net| (tcp(port, port), peer_of(net))));
        }
    }
    one_group(rules)
}

/// A prefix list of so many entries of both families, which a rule names.
#[must_use]
pub fn long_list(entries: usize, seed: u64) -> Policy {
    let mut random = Random::new(seed);
    let mut cidrs: Vec<IpNet> = (0..entries)
        .map(|_| match random.chance(80) {
            true => net_v4(random.word(), *random.pick(&[16, 22, 24, 24, 28, 32])),
            false => {
                let bits = (0x2000 << 112) | (u128::from(random.bits()) << 48);
                IpNet::V6(v6(bits, *random.pick(&[32, 48, 56, 64])))
            }
        })
        .collect();
    cidrs.sort_unstable();
    cidrs.dedup();
    let entry = |cidr| PrefixEntry {
        cidr,
        description: None,
    };
    let mut policy = one_group(vec![(tcp(443, 443), Peer::PrefixList(PrefixListIndex(0)))]);
    policy.prefix_lists = vec![Arc::new(PrefixList {
        name: "long".into(),
        id: PrefixListId("pl-0".into()),
        entries: cidrs.into_iter().map(entry).collect(),
    })];
    policy
}

/// A group of so many members that so many other groups, each on an interface of its own, name.
#[must_use]
pub fn popular_group(members: usize, groups: usize) -> Policy {
    let popular = Peer::Group(GroupIndex(0));
    let mut policy = one_group(Vec::new());
    policy.interfaces.clear();
    for group in 1..=groups {
        let rules = vec![(tcp(5432, 5432), popular), (tcp(22, 22), popular)];
        policy.groups.push(Arc::new(make_group(group, rules)));
    }
    for member in 0..members + groups {
        let group = member.checked_sub(members).map_or(0, |own| own + 1);
        let address = net_v4(0x0a00_0000 | index_u32(member), 32).to_string();
        let made = interface(member, &address, &[group]);
        policy.interfaces.push(made);
    }
    policy
}

/// One group of these rules on one interface.
fn one_group(rules: Vec<(Service, Peer)>) -> Policy {
    Policy {
        groups: vec![Arc::new(make_group(0, rules))],
        prefix_lists: Vec::new(),
        interfaces: vec![interface(0, "10.0.0.9/32", &[0])],
    }
}

fn make_group(index: usize, rules: Vec<(Service, Peer)>) -> SecurityGroup {
    let numbered = rules.into_iter().enumerate();
    let rule = |(number, (service, peer)): (usize, (Service, Peer))| Rule {
        id: RuleId(format!("sgr-{index:x}-{number:x}").into()),
        service,
        peer,
        description: None,
    };
    SecurityGroup {
        name: format!("group-{index}").into(),
        id: GroupId(format!("sg-{index:017x}").into()),
        description: None,
        enforce: true,
        ingress: numbered.map(rule).collect(),
        egress: Vec::new(),
    }
}

fn interface(index: usize, address: &str, groups: &[usize]) -> Arc<Interface> {
    Arc::new(Interface {
        name: format!("host-{index}").into(),
        id: InterfaceId(format!("eni-{index:017x}").into()),
        addresses: address.parse().into_iter().collect(),
        groups: groups
            .iter()
            .map(|group| GroupIndex(index_u32(*group)))
            .collect(),
        link: InterfaceLink::Only,
        vlan: None,
        vpc_id: None,
        subnet_id: None,
        instance_id: None,
        limits: crate::types::FlowLimits::default(),
    })
}

fn port(random: &mut Random, limit: usize) -> u16 {
    u16::try_from(1 + random.below(limit - 1)).unwrap_or(u16::MAX)
}

/// The first 32 bits of an address.
fn index_high(bits: u128) -> u32 {
    u32::try_from(bits >> 96).unwrap_or(0)
}

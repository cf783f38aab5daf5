//! Policies of a tiny universe that change at random, a little at a time.

use ipnet::IpNet;

use crate::policy::{
    GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, Policy, PortRange, Rule, SecurityGroup,
    Service,
};
use crate::sync::Arc;
use crate::types::{GroupId, InterfaceId, RuleId};

/// Splitmix64: small, seeded, good enough to choose test steps.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()].clone()
    }
}

/// Hosts that are mostly registered.
pub(super) const INSIDE: [[&str; 2]; 2] =
    [["10.0.0.1", "10.0.0.2"], ["2001:db8::1", "2001:db8::2"]];
/// Hosts that are mostly not, by family.
pub(super) const OUTSIDE: [[&str; 5]; 2] = [
    [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "239.0.0.1",
        "169.254.169.254",
    ],
    [
        "2001:db8:f::1",
        "2001:db8:f::2",
        "2001:db8:f::3",
        "ff02::1",
        "fe80::1",
    ],
];
const OWNED: [&str; 9] = [
    "10.0.0.1/32",
    "10.0.0.0/24",
    "10.0.0.2/32",
    "10.0.0.0/30",
    "192.0.2.1/32",
    "2001:db8::1/128",
    "2001:db8::2/128",
    "2001:db8:f::1/128",
    "224.0.0.0/3",
];
const PEERS: [&str; 11] = [
    "0.0.0.0/0",
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0/0",
    "::/0",
    "192.0.2.0/24",
    "192.0.2.1/32",
    "10.0.0.0/24",
    "2001:db8:f::/48",
    "2001:db8::1/128",
    "239.0.0.0/8",
];

fn services() -> Vec<Service> {
    let ports = |from, to| PortRange { from, to };
    let icmp = |kind, code| IcmpMatch { kind, code };
    vec![
        Service::All,
        Service::All,
        Service::All,
        Service::Tcp(PortRange::ALL),
        Service::Tcp(ports(80, 80)),
        Service::Tcp(ports(80, 443)),
        Service::Udp(PortRange::ALL),
        Service::Udp(ports(53, 53)),
        Service::Icmp(icmp(None, None)),
        Service::Icmp(icmp(Some(8), Some(0))),
        Service::Icmp(icmp(Some(8), None)),
        Service::Icmpv6(icmp(Some(128), Some(0))),
        Service::Protocol(47),
        Service::Protocol(2),
    ]
}

type RuleOf = (Service, Peer);

/// A policy in the making.
#[derive(Clone)]
pub(super) struct Draft {
    groups: Vec<(bool, [Vec<RuleOf>; 2])>,
    interfaces: Vec<Option<Interface>>,
}

impl Draft {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut draft = Self {
            groups: vec![Default::default(); 3],
            interfaces: vec![None; 4],
        };
        for group in 0..3 {
            draft.change_group(random, group);
        }
        for interface in 0..4 {
            draft.change_interface(random, interface);
        }
        draft
    }

    pub(super) fn change(&mut self, random: &mut Random) {
        match random.below(3) {
            0 => {
                let at = random.pick(&[0, 1, 2, 3]);
                self.change_interface(random, at);
            }
            1 => {
                let at = random.pick(&[0, 1, 2]);
                self.groups[at].0 = !random.one_in(3);
            }
            _ => {
                let at = random.pick(&[0, 1, 2]);
                self.change_group(random, at);
            }
        }
    }

    fn change_group(&mut self, random: &mut Random, at: usize) {
        let rules = |random: &mut Random| {
            (0..random.below(5))
                .map(|_| {
                    let peer = match random.pick(&PEERS).parse().unwrap() {
                        _ if random.one_in(5) => Peer::Group(GroupIndex(random.pick(&[0, 1, 2]))),
                        IpNet::V4(net) => Peer::Cidr4(net),
                        IpNet::V6(net) => Peer::Cidr6(net),
                    };
                    (random.pick(&services()), peer)
                })
                .collect()
        };
        self.groups[at] = (!random.one_in(4), [rules(random), rules(random)]);
    }

    pub(super) fn change_interface(&mut self, random: &mut Random, at: usize) {
        let addresses = (0..=random.below(4)).map(|_| random.pick(&OWNED).parse().unwrap());
        let mut addresses: Vec<IpNet> = addresses.collect();
        // One that mostly is there, so that packets get past the question whose they are.
        if at == 0 && !random.one_in(4) {
            let all = ["10.0.0.0/24", "2001:db8::1/128", "2001:db8::2/128"];
            addresses.extend(all.map(|net| net.parse::<IpNet>().unwrap()));
        }
        addresses.sort();
        addresses.dedup();
        let mut groups = vec![GroupIndex(random.pick(&[0, 1, 2]))];
        if random.one_in(3) {
            groups.push(GroupIndex(random.pick(&[0, 1, 2])));
            groups.sort();
            groups.dedup();
        }
        self.interfaces[at] = (!random.one_in(6)).then(|| Interface {
            name: format!("i{at}").into(),
            id: InterfaceId(format!("eni-{at}").into()),
            addresses,
            groups,
            link: match random.below(6) {
                0 if at > 0 => InterfaceLink::Elsewhere,
                1 => InterfaceLink::Named("b".into()),
                _ => InterfaceLink::Named("a".into()),
            },
            vlan: random.one_in(4).then_some(20),
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: crate::types::FlowLimits::default(),
        });
    }

    pub(super) fn policy(&self) -> Policy {
        let group = |(at, (enforce, rules)): (usize, &(bool, [Vec<RuleOf>; 2]))| {
            let [ingress, egress] = [0, 1].map(|direction| {
                let mut kept: Vec<Rule> = Vec::new();
                for &(service, peer) in &rules[direction] {
                    let id = RuleId(format!("sgr-{at} {direction} {service} {peer:?}").into());
                    if kept.iter().all(|rule| rule.id != id) {
                        kept.push(Rule {
                            id,
                            service,
                            peer,
                            description: None,
                        });
                    }
                }
                kept
            });
            Arc::new(SecurityGroup {
                name: format!("g{at}").into(),
                id: GroupId(format!("sg-{at}").into()),
                description: None,
                enforce: *enforce,
                ingress,
                egress,
            })
        };
        Policy {
            groups: self.groups.iter().enumerate().map(group).collect(),
            prefix_lists: Vec::new(),
            interfaces: self
                .interfaces
                .iter()
                .flatten()
                .cloned()
                .map(Arc::new)
                .collect(),
        }
    }
}

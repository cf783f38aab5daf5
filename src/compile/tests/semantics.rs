//! The table "Rules" of the semantics, a test or more for each row, by hand.

use std::net::IpAddr;

use super::*;
use crate::policy::{PrefixEntry, PrefixList, PrefixListIndex, SecurityGroup};
use crate::sync::Arc;
use crate::types::{GroupId, PrefixListId};

/// A policy being written.
pub(super) struct World {
    pub(super) policy: Policy,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            policy: Policy::default(),
        }
    }

    /// A group by name, made empty if it is new.
    pub(super) fn group(&mut self, name: &str) -> &mut SecurityGroup {
        let index = self.group_index(name).0 as usize;
        self.group_mut(index)
    }

    pub(super) fn group_mut(&mut self, index: usize) -> &mut SecurityGroup {
        Arc::make_mut(&mut self.policy.groups[index])
    }

    pub(super) fn interface_mut(&mut self, index: usize) -> &mut Interface {
        Arc::make_mut(&mut self.policy.interfaces[index])
    }

    pub(super) fn group_index(&mut self, name: &str) -> GroupIndex {
        let groups = &mut self.policy.groups;
        let position = groups.iter().position(|group| &*group.name == name);
        GroupIndex(position.unwrap_or_else(|| {
            groups.push(Arc::new(SecurityGroup {
                name: name.into(),
                id: GroupId(format!("sg-{name}").into()),
                description: None,
                enforce: true,
                ingress: Vec::new(),
                egress: Vec::new(),
            }));
            groups.len() - 1
        }) as u32)
    }

    pub(super) fn list(&mut self, name: &str, entries: &[IpNet]) -> Peer {
        let entry = |&cidr| PrefixEntry {
            cidr,
            description: None,
        };
        self.policy.prefix_lists.push(Arc::new(PrefixList {
            name: name.into(),
            id: PrefixListId(format!("pl-{name}").into()),
            entries: entries.iter().map(entry).collect(),
        }));
        Peer::PrefixList(PrefixListIndex(self.policy.prefix_lists.len() as u32 - 1))
    }

    pub(super) fn interface(&mut self, name: &str, addresses: &[&str], groups: &[&str]) {
        let groups = groups.iter().map(|name| self.group_index(name)).collect();
        let id = format!("eni-{}", self.policy.interfaces.len());
        self.policy.interfaces.push(Arc::new(Interface {
            name: name.into(),
            id: InterfaceId(id.into()),
            addresses: addresses.iter().map(|text| net(text)).collect(),
            groups,
            link: InterfaceLink::Only,
            vlan: None,
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: crate::types::FlowLimits::default(),
        }));
    }

    pub(super) fn compile(&self) -> Snapshot {
        Compiler::new()
            .compile(&self.policy, &["link"], Generation(1))
            .unwrap()
    }

    /// The first interface's answer.
    fn ask(&self, direction: Direction, remote: &str, protocol: u8, service: u16) -> Decision {
        let question = Question {
            remote: address(remote),
            protocol,
            service,
        };
        let snapshot = self.compile();
        agree(&self.policy, &snapshot, 0, direction, &question).unwrap();
        snapshot.decide(InterfaceRef(0), direction, &question)
    }

    fn enters(&self, remote: &str, protocol: u8, service: u16) -> bool {
        let decision = self.ask(Direction::Ingress, remote, protocol, service);
        matches!(decision, Decision::Allow { .. })
    }

    fn leaves(&self, remote: &str, protocol: u8, service: u16) -> bool {
        let decision = self.ask(Direction::Egress, remote, protocol, service);
        matches!(decision, Decision::Allow { .. })
    }

    /// The id of the rule that lets a packet in, and whether it is untracked.
    fn entry(&self, remote: &str, protocol: u8, service: u16) -> (String, bool) {
        let decision = self.ask(Direction::Ingress, remote, protocol, service);
        let Decision::Allow { rule, untracked } = decision else {
            panic!("{decision:?}");
        };
        let id = self.compile().rule(rule).unwrap().id.to_string();
        (id, untracked)
    }
}

pub(super) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A prefix, or a single address.
fn net(text: &str) -> IpNet {
    text.parse()
        .unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap()))
}

pub(super) fn cidr(text: &str) -> Peer {
    match net(text) {
        IpNet::V4(net) => Peer::Cidr4(net),
        IpNet::V6(net) => Peer::Cidr6(net),
    }
}

pub(super) fn v4_host(bits: u32) -> IpNet {
    IpNet::from(IpAddr::from(bits.to_be_bytes()))
}

fn tcp(from: u16, to: u16) -> Service {
    Service::Tcp(PortRange { from, to })
}

fn udp(from: u16, to: u16) -> Service {
    Service::Udp(PortRange { from, to })
}

/// One interface `i` at 10.0.0.9 in a group `g` with these ingress rules, numbered from 1.
fn world(ingress: &[(Service, Peer)]) -> World {
    let mut world = World::new();
    let rules = ingress.iter().zip(1..);
    world.group("g").ingress = rules.map(|((s, p), number)| rule(number, *s, *p)).collect();
    world.interface("i", &["10.0.0.9", "2001:db8::9"], &["g"]);
    world
}

const ANY4: &str = "0.0.0.0/0";
const ANY6: &str = "::/0";

#[test]
fn kind_what_no_rule_allows_is_denied() {
    let world = world(&[]);
    assert_eq!(
        world.ask(Direction::Ingress, "1.1.1.1", 6, 80),
        Decision::Deny
    );
    assert_eq!(
        world.ask(Direction::Egress, "1.1.1.1", 6, 80),
        Decision::Deny
    );
}

#[test]
fn kind_all_groups_of_an_interface_are_one_union() {
    let mut world = world(&[(tcp(80, 80), cidr(ANY4))]);
    world.group("h").ingress = vec![rule(2, tcp(443, 443), cidr(ANY4))];
    world.group("other").ingress = vec![rule(3, tcp(22, 22), cidr(ANY4))];
    world.interface_mut(0).groups = vec![world.group_index("h"), world.group_index("g")];
    assert!(world.enters("1.1.1.1", 6, 80));
    assert!(world.enters("1.1.1.1", 6, 443));
    assert!(!world.enters("1.1.1.1", 6, 22));
}

#[test]
fn matches_remote_address_and_destination_port_in_either_direction() {
    let mut world = world(&[(tcp(80, 80), cidr("192.0.2.0/24"))]);
    world.group("g").egress = vec![rule(2, udp(53, 53), cidr("198.51.100.1"))];
    assert!(world.enters("192.0.2.255", 6, 80));
    assert!(!world.enters("192.0.3.0", 6, 80));
    assert!(
        !world.leaves("192.0.2.1", 6, 80),
        "ingress rules do not speak for egress"
    );
    assert!(world.leaves("198.51.100.1", 17, 53));
    assert!(!world.enters("198.51.100.1", 17, 53));
    assert!(!world.leaves("198.51.100.2", 17, 53));
}

#[test]
fn protocol_port_ranges_include_both_ends() {
    let world = world(&[
        (tcp(0, 0), cidr(ANY4)),
        (tcp(100, 200), cidr(ANY4)),
        (udp(65535, 65535), cidr(ANY4)),
    ]);
    let open: Vec<_> = [0, 1, 99, 100, 200, 201, 65535]
        .into_iter()
        .filter(|port| world.enters("1.1.1.1", 6, *port))
        .collect();
    assert_eq!(open, [0, 100, 200]);
    assert!(world.enters("1.1.1.1", 17, 65535));
    assert!(!world.enters("1.1.1.1", 17, 65534));
    assert!(!world.enters("1.1.1.1", 17, 0));
}

#[test]
fn protocol_icmp_matches_type_and_code_or_all() {
    let icmp = |kind, code| Service::Icmp(IcmpMatch { kind, code });
    let echo = world(&[
        (icmp(Some(8), Some(0)), cidr(ANY4)),
        (icmp(Some(3), None), cidr(ANY4)),
    ]);
    assert!(echo.enters("1.1.1.1", 1, 0x0800));
    assert!(!echo.enters("1.1.1.1", 1, 0x0801));
    assert!(!echo.enters("1.1.1.1", 1, 0x0000));
    assert!(echo.enters("1.1.1.1", 1, 0x0300));
    assert!(echo.enters("1.1.1.1", 1, 0x03ff));
    assert!(!echo.enters("1.1.1.1", 1, 0x0400));
    let all = world(&[(icmp(None, None), cidr(ANY4))]);
    assert!(all.enters("1.1.1.1", 1, 0) && all.enters("1.1.1.1", 1, 0xffff));
    assert!(!all.enters("1.1.1.1", 6, 0));
}

#[test]
fn protocol_all_is_every_protocol_and_port() {
    let world = world(&[(Service::All, cidr(ANY4))]);
    for protocol in 0..=255 {
        assert!(world.enters("1.1.1.1", protocol, 0xffff), "{protocol}");
        assert!(!world.enters("2001:db8::1", protocol, 0), "{protocol}");
    }
}

#[test]
fn protocol_by_number_ignores_ports() {
    let world = world(&[
        (Service::Protocol(47), cidr(ANY4)),
        (Service::Protocol(47), cidr(ANY6)),
    ]);
    assert!(world.enters("1.1.1.1", 47, 0) && world.enters("1.1.1.1", 47, 0xffff));
    assert!(world.enters("2001:db8::1", 47, 0));
    assert!(!world.enters("1.1.1.1", 46, 0) && !world.enters("1.1.1.1", 48, 0));
}

#[test]
fn families_never_mix() {
    let v4 = world(&[(Service::All, cidr(ANY4))]);
    assert!(!v4.enters("2001:db8::1", 6, 80));
    // An IPv4 address in an IPv6 one is IPv6.
    assert!(!v4.enters("::ffff:1.1.1.1", 6, 80));
    let v6 = world(&[(Service::All, cidr(ANY6))]);
    assert!(!v6.enters("1.1.1.1", 6, 80));
}

#[test]
fn families_icmp_is_of_ipv4_and_icmpv6_of_ipv6() {
    let all = IcmpMatch {
        kind: None,
        code: None,
    };
    let mut world = World::new();
    let list = world.list("both", &[net(ANY4), net(ANY6)]);
    world.group("g").ingress = vec![
        rule(1, Service::Icmp(all), list),
        rule(2, Service::Icmpv6(all), list),
    ];
    world.interface("i", &["10.0.0.9"], &["g"]);
    assert!(world.enters("1.1.1.1", 1, 0x0800));
    assert!(!world.enters("2001:db8::1", 1, 0x0800));
    assert!(world.enters("2001:db8::1", 58, 0x8000));
    assert!(!world.enters("1.1.1.1", 58, 0x8000));
}

#[test]
fn peer_a_prefix_list_is_all_of_its_entries() {
    let mut world = World::new();
    let list = world.list(
        "l",
        &[
            net("192.0.2.0/25"),
            net("192.0.2.64/26"),
            net("2001:db8:1::/48"),
        ],
    );
    world.group("g").ingress = vec![rule(1, tcp(22, 22), list)];
    world.interface("i", &["10.0.0.9"], &["g"]);
    assert!(world.enters("192.0.2.127", 6, 22));
    assert!(!world.enters("192.0.2.128", 6, 22));
    assert!(world.enters("2001:db8:1:ffff::1", 6, 22));
    assert!(!world.enters("2001:db8:2::1", 6, 22));
}

#[test]
fn peer_a_group_is_the_addresses_of_its_members_wherever_they_are() {
    let mut world = World::new();
    let peer = Peer::Group(world.group_index("lb"));
    world.group("web").ingress = vec![rule(1, tcp(80, 80), peer)];
    world.interface("web-1", &["10.0.0.9"], &["web"]);
    world.interface(
        "lb-1",
        &["10.0.1.1", "2001:db8::1", "10.0.2.0/24"],
        &["lb", "web"],
    );
    world.interface("lb-2", &["10.0.1.2"], &["lb"]);
    world.interface_mut(2).link = InterfaceLink::Elsewhere;
    for member in ["10.0.1.1", "2001:db8::1", "10.0.2.77", "10.0.1.2"] {
        assert!(world.enters(member, 6, 80), "{member}");
        assert!(!world.enters(member, 6, 81), "{member}");
    }
    assert!(!world.enters("10.0.1.3", 6, 80));
    // It copies no rules: what lb may be sent is not what web may be sent.
    world.group("lb").ingress = vec![rule(2, tcp(443, 443), cidr(ANY4))];
    assert!(!world.enters("10.0.1.1", 6, 443));
    // Live: who leaves the group is no peer.
    world.interface_mut(1).groups.remove(0);
    assert!(!world.enters("10.0.1.1", 6, 80));
}

#[test]
fn peer_members_of_one_group_need_a_self_rule_to_talk() {
    let mut world = World::new();
    world.interface("a", &["10.0.0.1"], &["g"]);
    world.interface("b", &["10.0.0.2"], &["g"]);
    assert!(!world.enters("10.0.0.2", 6, 80));
    let own = Peer::Group(world.group_index("g"));
    world.group("g").ingress = vec![rule(1, Service::All, own)];
    assert!(world.enters("10.0.0.2", 6, 80));
    assert!(!world.enters("10.0.0.3", 6, 80));
}

#[test]
fn peer_an_interface_elsewhere_owns_no_address() {
    let mut world = World::new();
    world.interface("far", &["10.0.0.1"], &["g"]);
    world.interface_mut(0).link = InterfaceLink::Elsewhere;
    let snapshot = world.compile();
    let owner = snapshot.interface_of(LinkId(0), VlanTags::default(), address("10.0.0.1"));
    assert!(owner.is_none());
    assert_eq!(snapshot.interface(InterfaceRef(0)).unwrap().link, None);
}

#[test]
fn peer_a_group_without_members_is_nobody() {
    let mut world = World::new();
    let peer = Peer::Group(world.group_index("empty"));
    world.group("g").ingress = vec![rule(1, Service::All, peer)];
    world.interface("i", &["10.0.0.9"], &["g"]);
    assert!(!world.enters("0.0.0.0", 6, 0) && !world.enters("::", 6, 0));
}

#[test]
fn addresses_the_longest_match_owns_and_a_vlan_interface_only_in_its_vlan() {
    let mut world = World::new();
    world.interface("net", &["10.0.0.0/24"], &["g"]);
    world.interface("host", &["10.0.0.9"], &["g"]);
    world.interface("vlan-net", &["10.0.0.0/24"], &["g"]);
    world.interface_mut(2).vlan = Some(20);
    let snapshot = world.compile();
    let owner = |outer, remote| {
        let vlan = VlanTags { outer, inner: None };
        snapshot
            .interface_of(LinkId(0), vlan, address(remote))
            .map(|found| found.0)
    };
    assert_eq!(owner(None, "10.0.0.8"), Some(0));
    assert_eq!(owner(None, "10.0.0.9"), Some(1));
    assert_eq!(
        owner(Some(20), "10.0.0.8"),
        Some(2),
        "equal length: the VLAN's own"
    );
    assert_eq!(
        owner(Some(20), "10.0.0.9"),
        Some(1),
        "longer before the VLAN's own"
    );
    assert_eq!(owner(Some(21), "10.0.0.8"), Some(0));
    assert_eq!(owner(None, "10.0.1.0"), None);
}

#[test]
fn enforce_false_lets_pass_what_no_rule_allows() {
    let mut world = world(&[(tcp(80, 80), cidr(ANY4))]);
    world.group("audit").enforce = false;
    assert_eq!(
        world.ask(Direction::Ingress, "1.1.1.1", 6, 81),
        Decision::Deny
    );
    world.interface_mut(0).groups.push(GroupIndex(1));
    assert_eq!(
        world.ask(Direction::Ingress, "1.1.1.1", 6, 81),
        Decision::Unenforced
    );
    assert_eq!(
        world.ask(Direction::Egress, "::1", 6, 81),
        Decision::Unenforced
    );
    assert!(world.enters("1.1.1.1", 6, 80));
}

#[test]
fn the_reported_rule_is_of_the_narrowest_service_then_the_first() {
    let world = world(&[
        (Service::All, cidr(ANY4)),
        (tcp(0, 65535), cidr(ANY4)),
        (tcp(80, 81), cidr("192.0.2.0/24")),
        (tcp(80, 80), cidr(ANY4)),
        (tcp(80, 80), cidr("192.0.2.0/24")),
    ]);
    assert_eq!(world.entry("192.0.2.1", 6, 80).0, "sgr-4");
    assert_eq!(world.entry("192.0.2.1", 6, 81).0, "sgr-3");
    assert_eq!(world.entry("192.0.3.1", 6, 81).0, "sgr-2");
    assert_eq!(world.entry("192.0.3.1", 17, 81).0, "sgr-1");
}

#[test]
fn untracked_needs_an_any_address_rule_and_an_open_other_direction() {
    let mut world = world(&[
        (tcp(80, 80), cidr(ANY4)),
        (tcp(22, 22), cidr("192.0.2.0/24")),
    ]);
    let untracked = |world: &World, port| world.entry("192.0.2.1", 6, port).1;
    assert!(!untracked(&world, 80), "egress allows nothing");
    for (egress, expected) in [
        ((tcp(0, 65535), cidr(ANY4)), true),
        ((Service::All, cidr(ANY4)), true),
        ((tcp(0, 65534), cidr(ANY4)), false),
        ((tcp(0, 65535), cidr(ANY6)), false),
        ((tcp(0, 65535), cidr("0.0.0.0/1")), false),
        ((udp(0, 65535), cidr(ANY4)), false),
    ] {
        world.group("g").egress = vec![rule(9, egress.0, egress.1)];
        assert_eq!(untracked(&world, 80), expected, "{egress:?}");
        assert!(!untracked(&world, 22), "not by an any-address rule");
    }
}

#[test]
fn untracked_is_tcp_and_udp_only() {
    let mut world = world(&[(Service::All, cidr(ANY4))]);
    world.group("g").egress = vec![rule(9, Service::All, cidr(ANY4))];
    let tracked: Vec<_> = (0..=255)
        .filter(|p| !world.entry("1.1.1.1", *p, 0).1)
        .collect();
    assert_eq!(tracked.len(), 254);
    assert!(!tracked.contains(&6) && !tracked.contains(&17));
}

#[test]
fn untracked_holds_though_a_narrower_rule_is_reported() {
    let mut world = world(&[
        (tcp(80, 80), cidr("192.0.2.0/24")),
        (Service::All, cidr(ANY4)),
    ]);
    world.group("g").egress = vec![rule(9, Service::All, cidr(ANY4))];
    assert_eq!(world.entry("192.0.2.1", 6, 80), ("sgr-1".to_owned(), true));
}

#[test]
fn untracked_by_a_prefix_list_entry_of_length_zero_but_not_by_a_group() {
    let mut world = world(&[]);
    let list = world.list("l", &[net("10.0.0.0/8"), net(ANY4)]);
    world.group("g").egress = vec![rule(9, Service::All, list)];
    world.group("g").ingress = vec![rule(1, tcp(80, 80), list)];
    assert!(world.entry("192.0.2.1", 6, 80).1);
    let everyone = Peer::Group(world.group_index("everyone"));
    world.interface("gate", &[ANY4], &["everyone"]);
    world.group("g").ingress = vec![rule(1, tcp(80, 80), everyone)];
    assert_eq!(world.entry("192.0.2.1", 6, 80), ("sgr-1".to_owned(), false));
}

#[test]
fn untracked_egress_asks_the_ingress_rules() {
    let mut world = world(&[(Service::All, cidr(ANY6))]);
    world.group("g").egress = vec![
        rule(9, udp(53, 53), cidr(ANY6)),
        rule(8, udp(53, 53), cidr(ANY4)),
    ];
    let ask = |remote| world.ask(Direction::Egress, remote, 17, 53);
    assert!(matches!(
        ask("2001:db8::1"),
        Decision::Allow {
            untracked: true,
            ..
        }
    ));
    assert!(matches!(
        ask("1.1.1.1"),
        Decision::Allow {
            untracked: false,
            ..
        }
    ));
}

#[test]
fn texts_of_a_rule_are_as_a_policy_file_writes_them() {
    let mut world = World::new();
    let list = world.list("admins", &[]);
    let own = Peer::Group(world.group_index("g"));
    let icmp = |kind, code| Service::Icmpv6(IcmpMatch { kind, code });
    world.group("g").egress = vec![
        rule(1, Service::All, cidr("10.0.0.0/8")),
        rule(2, tcp(0, 65535), cidr(ANY6)),
        rule(3, udp(53, 53), list),
        rule(4, tcp(80, 81), own),
        rule(5, icmp(Some(128), None), own),
        rule(6, icmp(Some(1), Some(4)), own),
        rule(7, Service::Protocol(47), own),
    ];
    world.interface("i", &["10.0.0.9"], &["g"]);
    let snapshot = world.compile();
    let texts: Vec<_> = snapshot
        .rules()
        .map(|r| format!("{} {}", r.service, r.peer))
        .collect();
    assert_eq!(
        texts,
        [
            "all 10.0.0.0/8",
            "tcp ::/0",
            "udp 53 prefix-list:admins",
            "tcp 80-81 group:g",
            "icmpv6 type 128 group:g",
            "icmpv6 type 1 code 4 group:g",
            "protocol 47 group:g",
        ]
    );
    let first = snapshot.rules().next().unwrap();
    assert_eq!(
        (&*first.group.name, first.direction),
        ("g", Direction::Egress)
    );
}

//! Small random policies: few addresses, few ports, so that everything meets everything.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::packet::Address;
use crate::policy::{PrefixEntry, PrefixList, PrefixListIndex, SecurityGroup};
use crate::snapshot::Question;
use crate::sync::Arc;
use crate::types::{GroupId, PrefixListId};

pub(super) const LINKS: [&str; 2] = ["a", "b"];
const BASE_V4: u32 = 0x0a00_0000;
const BASE_V6: u128 = 0x2001_0db8 << 96;

/// Single addresses that matter: eight neighbors and both ends, in each family.
pub(super) fn addresses() -> Vec<Address> {
    let v4 = (0..8)
        .map(|low| BASE_V4 + low)
        .chain([0, 1, BASE_V4 - 1, BASE_V4 + 8, u32::MAX]);
    let v6 = (0..8)
        .map(|low| BASE_V6 + low)
        .chain([0, 1, BASE_V6 - 1, BASE_V6 + 8, u128::MAX]);
    v4.map(Address::V4).chain(v6.map(Address::V6)).collect()
}

pub(super) fn net() -> impl Strategy<Value = IpNet> {
    let v4_len = select(vec![0, 0, 8, 28, 29, 30, 31, 32, 32]);
    let v6_len = select(vec![0, 0, 32, 124, 125, 126, 127, 128, 128]);
    (select(addresses()), v4_len, v6_len).prop_map(|(address, v4_len, v6_len)| match address {
        Address::V4(bits) => IpNet::V4(Ipv4Net::new_assert(bits.into(), v4_len).trunc()),
        Address::V6(bits) => IpNet::V6(Ipv6Net::new_assert(bits.into(), v6_len).trunc()),
    })
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![0, 1, 2, 79, 80, 81, 82, 443, 65534, 65535])
}

fn ports() -> impl Strategy<Value = PortRange> {
    let range = (port(), port()).prop_map(|(a, b)| PortRange {
        from: a.min(b),
        to: a.max(b),
    });
    prop_oneof![3 => range, 1 => Just(PortRange::ALL)]
}

fn icmp() -> impl Strategy<Value = IcmpMatch> {
    let byte = || select(vec![0_u8, 8, 128, 255]);
    (proptest::option::of(byte()), proptest::option::of(byte())).prop_map(|(kind, code)| {
        IcmpMatch {
            kind,
            code: kind.and(code),
        }
    })
}

pub(super) fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        1 => Just(Service::All),
        5 => ports().prop_map(Service::Tcp),
        3 => ports().prop_map(Service::Udp),
        2 => icmp().prop_map(Service::Icmp),
        2 => icmp().prop_map(Service::Icmpv6),
        1 => select(vec![0, 2, 47, 255]).prop_map(Service::Protocol),
    ]
}

pub(super) fn question() -> impl Strategy<Value = Question> {
    let protocol = select(vec![6, 6, 6, 17, 17, 1, 1, 58, 58, 0, 2, 47, 255]);
    let byte = || select(vec![0_u8, 1, 8, 128, 255]);
    let code = (byte(), byte()).prop_map(|(kind, code)| u16::from_be_bytes([kind, code]));
    let service = prop_oneof![3 => port(), 2 => code, 1 => any::<u16>()];
    (select(addresses()), protocol, service).prop_map(|(remote, protocol, service)| Question {
        remote,
        protocol,
        service,
    })
}

fn peer(groups: u32, lists: u32) -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => net().prop_map(|net| match net {
            IpNet::V4(net) => Peer::Cidr4(net),
            IpNet::V6(net) => Peer::Cidr6(net),
        }),
        2 => (0..groups).prop_map(|index| Peer::Group(GroupIndex(index))),
        2 => (0..lists).prop_map(|index| Peer::PrefixList(PrefixListIndex(index))),
    ]
}

fn rules(groups: u32, lists: u32) -> impl Strategy<Value = Vec<(Service, Peer)>> {
    proptest::collection::vec((service(), peer(groups, lists)), 0..6)
}

fn interface(groups: u32) -> impl Strategy<Value = Interface> {
    let link = select(vec![
        InterfaceLink::Named("a".into()),
        InterfaceLink::Named("a".into()),
        InterfaceLink::Named("b".into()),
        InterfaceLink::Elsewhere,
    ]);
    let groups =
        proptest::sample::subsequence((0..groups).collect::<Vec<_>>(), 1..=groups as usize);
    let vlan = select(vec![None, None, Some(0), Some(7), Some(4095)]);
    (
        proptest::collection::vec(net(), 1..4),
        groups.prop_shuffle(),
        link,
        vlan,
    )
        .prop_map(|(addresses, groups, link, vlan)| Interface {
            name: "".into(),
            id: InterfaceId("".into()),
            addresses,
            groups: groups.into_iter().map(GroupIndex).collect(),
            link,
            vlan,
            vpc_id: None,
            subnet_id: None,
            instance_id: None,
            limits: crate::types::FlowLimits::default(),
        })
}

/// A policy of up to four groups, two lists and five interfaces.
pub(super) fn policy() -> impl Strategy<Value = Policy> {
    let lists = proptest::collection::vec(proptest::collection::vec(net(), 0..4), 1..=2);
    (1..=4_u32, lists).prop_flat_map(|(groups, lists)| {
        let count = lists.len() as u32;
        let group = (
            rules(groups, count),
            rules(groups, count),
            prop::bool::weighted(0.9),
        );
        let groups_made = proptest::collection::vec(group, groups as usize);
        let interfaces = proptest::collection::vec(interface(groups), 1..=5);
        (groups_made, Just(lists), interfaces)
            .prop_map(|(groups, lists, interfaces)| assemble(groups, lists, interfaces))
    })
}

type RawGroup = (Vec<(Service, Peer)>, Vec<(Service, Peer)>, bool);

fn assemble(
    groups: Vec<RawGroup>,
    lists: Vec<Vec<IpNet>>,
    mut interfaces: Vec<Interface>,
) -> Policy {
    let mut made = Policy::default();
    let mut next = 0;
    let mut numbered = |rules: Vec<(Service, Peer)>| {
        let rule = |(service, peer)| {
            next += 1;
            super::rule(next, service, peer)
        };
        rules.into_iter().map(rule).collect::<Vec<_>>()
    };
    for (index, (ingress, egress, enforce)) in groups.into_iter().enumerate() {
        made.groups.push(Arc::new(SecurityGroup {
            name: format!("g{index}").into(),
            id: GroupId(format!("sg-{index}").into()),
            description: None,
            enforce,
            ingress: numbered(ingress),
            egress: numbered(egress),
        }));
    }
    for (index, entries) in lists.into_iter().enumerate() {
        let entry = |cidr| PrefixEntry {
            cidr,
            description: None,
        };
        made.prefix_lists.push(Arc::new(PrefixList {
            name: format!("l{index}").into(),
            id: PrefixListId(format!("pl-{index}").into()),
            entries: entries.into_iter().map(entry).collect(),
        }));
    }
    // What validation refuses: two owners of one prefix in one place.
    let mut taken = std::collections::HashSet::new();
    for (index, interface) in interfaces.iter_mut().enumerate() {
        interface.name = format!("i{index}").into();
        interface.id = InterfaceId(format!("eni-{index}").into());
        let place = (interface.link.clone(), interface.vlan);
        interface
            .addresses
            .retain(|net| taken.insert((place.clone(), *net)));
    }
    made.interfaces = interfaces.into_iter().map(Arc::new).collect();
    made
}

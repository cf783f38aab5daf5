//! Differences of policies against the oracle: a packet is gained where the new policy alone allows
//! it to an interface, lost where the old one alone does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::worlds::{self, LINKS};
use crate::compile::oracle::{self, Answer};
use crate::packet::{Address, VlanTags};
use crate::policy::{
    Diff, Enforcement, GroupIndex, Interface, InterfaceChange, Peer, Place, Policy, Presence, Rule,
    ServiceText, Subject, Traffic, diff,
};
use crate::snapshot::Question;
use crate::sync::Arc;
use crate::types::{Direction, protocol};

/// Where a packet is at the interface's end.
#[derive(Clone, Copy, Debug)]
struct Spot {
    link: &'static str,
    vlan: Option<u16>,
    local: Address,
}

fn spots() -> Vec<Spot> {
    let mut list = Vec::new();
    for link in LINKS {
        for vlan in [None, Some(0), Some(7), Some(8), Some(4095)] {
            let local = worlds::addresses();
            list.extend(local.into_iter().map(|local| Spot { link, vlan, local }));
        }
    }
    list
}

/// Every address with every service at a border of what `worlds` makes: between two of them all
/// points are alike.
fn questions() -> Vec<Question> {
    let ports = [
        0, 1, 2, 3, 78, 79, 80, 81, 82, 83, 442, 443, 444, 65533, 65534, 65535,
    ];
    let bytes = [0_u8, 1, 8, 9, 127, 128, 255];
    let codes = bytes
        .iter()
        .flat_map(|kind| bytes.map(|code| u16::from_be_bytes([*kind, code])));
    let codes: Vec<u16> = codes.collect();
    let services = |number: u8| match number {
        protocol::TCP | protocol::UDP => ports.to_vec(),
        protocol::ICMP | protocol::ICMPV6 => codes.clone(),
        _ => vec![0],
    };
    let mut list = Vec::new();
    for remote in worlds::addresses() {
        for number in [0, 1, 2, 3, 6, 17, 46, 47, 48, 58, 254, 255] {
            list.extend(services(number).into_iter().map(|service| Question {
                remote,
                protocol: number,
                service,
            }));
        }
    }
    list
}

/// Whether a number is of a list of numbers and ranges.
fn listed(list: &[String], number: u16) -> bool {
    list.is_empty()
        || list.iter().any(|text| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            (from.parse().unwrap()..=to.parse().unwrap()).contains(&number)
        })
}

fn speaks_of(text: &ServiceText, question: &Question) -> bool {
    let [kind, code] = question.service.to_be_bytes();
    let named = [
        ("tcp", protocol::TCP),
        ("udp", protocol::UDP),
        ("icmp", protocol::ICMP),
        ("icmpv6", protocol::ICMPV6),
    ];
    let of_protocol = match &*text.protocol {
        "all" => true,
        "other" => named.iter().all(|(_, number)| *number != question.protocol),
        name => match named.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => *number == question.protocol,
            None => listed(&[name.to_owned()], question.protocol.into()),
        },
    };
    of_protocol
        && listed(&text.ports, question.service)
        && listed(&text.types, kind.into())
        && listed(&text.codes, code.into())
}

fn holds(prefixes: &[IpNet], address: Address) -> bool {
    prefixes
        .iter()
        .any(|net| net.contains(&IpAddr::from(address)))
}

fn has(lines: &[Traffic], direction: Direction, question: &Question) -> bool {
    lines.iter().any(|line| {
        line.direction == direction.name()
            && holds(&line.addresses, question.remote)
            && line
                .services
                .iter()
                .any(|service| speaks_of(service, question))
    })
}

fn is_at(place: &Place, spot: &Spot) -> bool {
    let vlan = match place.vlan {
        Some(vlan) => spot.vlan == Some(vlan),
        None => spot
            .vlan
            .is_none_or(|vlan| !place.vlans_except.contains(&vlan)),
    };
    let link = place.link.as_ref().is_none_or(|link| link == spot.link);
    vlan && link && holds(&place.addresses, spot.local)
}

/// The change that speaks of an interface at a spot, if one does: there may be one for what it has
/// there on each side.
fn change_at<'d>(
    diff: &'d Diff,
    name: &str,
    spot: &Spot,
    presence: Presence,
) -> Option<&'d InterfaceChange> {
    let is_meant = |subject: &Subject| {
        let places = subject.places.as_ref();
        subject.name == name
            && places.is_none_or(|places| places.iter().any(|place| is_at(place, spot)))
    };
    let mut found = diff
        .changes
        .iter()
        .filter(|change| change.presence == presence && change.interfaces.iter().any(is_meant));
    let first = found.next();
    assert!(found.next().is_none(), "said twice: {name} {spot:?}");
    first
}

fn owner<'p>(policy: &'p Policy, spot: &Spot) -> Option<&'p Interface> {
    let vlan = VlanTags {
        outer: spot.vlan,
        ..VlanTags::default()
    };
    oracle::owner(policy, spot.link, vlan, spot.local)
}

fn allows(
    policy: &Policy,
    interface: Option<&Interface>,
    direction: Direction,
    question: &Question,
) -> bool {
    interface.is_some_and(|interface| {
        let answer = oracle::decide(policy, interface, direction, question);
        matches!(answer, Answer::Allow { .. })
    })
}

fn is_tried(policy: &Policy, interface: Option<&Interface>) -> bool {
    interface.is_some_and(|one| one.groups.iter().any(|group| !policy.group(*group).enforce))
}

/// One interface at one spot, asked every question.
fn agrees_at(
    policies: [&Policy; 2],
    diff: &Diff,
    owners: [Option<&Interface>; 2],
    spot: &Spot,
    questions: &[Question],
) -> Result<(), TestCaseError> {
    let Some(one) = owners[0].or(owners[1]) else {
        return Ok(());
    };
    let presence = match owners {
        [Some(_), Some(_)] => Presence::Both,
        [None, _] => Presence::New,
        [_, None] => Presence::Old,
    };
    let change = change_at(diff, &one.name, spot, presence);
    let tried = [0, 1].map(|side| is_tried(policies[side], owners[side]));
    let expected = match (presence, tried) {
        (_, [false, false]) => Enforcement::On,
        (Presence::Both, [true, true]) => Enforcement::Off,
        (_, [_, true]) => Enforcement::Ends,
        (_, [true, false]) => Enforcement::Starts,
    };
    match change {
        Some(change) => prop_assert_eq!(change.enforcement, expected),
        None => prop_assert!(matches!(expected, Enforcement::On | Enforcement::Off)),
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        for question in questions {
            let [old, new] =
                [0, 1].map(|side| allows(policies[side], owners[side], direction, question));
            let said = |list: fn(&InterfaceChange) -> &[Traffic]| {
                change.is_some_and(|change| has(list(change), direction, question))
            };
            let expected = (new && !old, old && !new);
            let said = (said(|change| &change.gained), said(|change| &change.lost));
            let asked = (&one.name, spot, direction, question);
            prop_assert_eq!(said, expected, "{:?}", asked);
        }
    }
    Ok(())
}

/// Holds what is said of two policies to the oracle: at every spot a few questions, and all of them
/// once for every pair of owners.
fn agrees(old: &Policy, new: &Policy, questions: &[Question]) -> Result<(), TestCaseError> {
    let diff = diff(old, new).unwrap();
    let mut asked: BTreeMap<[Option<&str>; 2], usize> = BTreeMap::new();
    for spot in &spots() {
        let owners = [owner(old, spot), owner(new, spot)];
        let names = owners.map(|owner| owner.map(|one| &*one.name));
        let times = asked.entry(names).or_default();
        let few = questions.iter().skip(*times * 7).step_by(997).copied();
        let few: Vec<Question> = few.collect();
        let questions = if *times == 0 { questions } else { &few };
        *times += 1;
        match owners {
            // Another interface: what the one loses the other may gain.
            [Some(before), Some(after)] if before.name != after.name => {
                agrees_at([old, new], &diff, [Some(before), None], spot, questions)?;
                agrees_at([old, new], &diff, [None, Some(after)], spot, questions)?;
            }
            owners => agrees_at([old, new], &diff, owners, spot, questions)?,
        }
    }
    let is_empty = diff.changes.is_empty();
    prop_assert_eq!(diff.same, is_empty);
    Ok(())
}

/// A policy with some parts of another.
fn mixed(old: &Policy, other: &Policy, choice: u16) -> Policy {
    let mut made = old.clone();
    let (groups, lists) = (old.groups.len() as u32, old.prefix_lists.len() as u32);
    let is_known = |rule: &Rule| match rule.peer {
        Peer::Group(GroupIndex(index)) => index < groups,
        Peer::PrefixList(list) => list.0 < lists,
        _ => true,
    };
    let takes = |bit: usize| choice >> (bit % 16) & 1 == 1;
    for (at, (group, from)) in made.groups.iter_mut().zip(&other.groups).enumerate() {
        if takes(at) {
            let group = Arc::make_mut(group);
            group.ingress = from
                .ingress
                .iter()
                .filter(|one| is_known(one))
                .cloned()
                .collect();
            group.enforce = from.enforce;
        }
    }
    for (at, (list, from)) in made
        .prefix_lists
        .iter_mut()
        .zip(&other.prefix_lists)
        .enumerate()
    {
        if takes(at + 4) {
            *list = Arc::clone(from);
        }
    }
    for (at, (interface, from)) in made
        .interfaces
        .iter_mut()
        .zip(&other.interfaces)
        .enumerate()
    {
        let known = |group: &GroupIndex| group.0 < groups;
        let groups: Vec<_> = from.groups.iter().copied().filter(known).collect();
        if takes(at + 6) && !groups.is_empty() {
            Arc::make_mut(interface).groups = groups;
        }
    }
    let mut at = 10;
    made.interfaces.retain(|_| {
        at += 1;
        !takes(at) || !takes(at + 2)
    });
    made
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_differs_is_what_one_policy_alone_allows(
        old in worlds::policy(),
        new in worlds::policy(),
    ) {
        agrees(&old, &new, &questions())?;
    }

    #[test]
    fn what_a_part_changes_is_what_one_policy_alone_allows(
        old in worlds::policy(),
        other in worlds::policy(),
        choice in any::<u16>(),
    ) {
        agrees(&old, &mixed(&old, &other, choice), &questions())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_policy_does_not_differ_from_itself(one in worlds::policy()) {
        prop_assert!(diff(&one, &one).unwrap().same);
        prop_assert!(diff(&one, &one.clone()).unwrap().same);
    }

    #[test]
    fn the_reverse_says_the_same_with_both_sides_exchanged(
        old in worlds::policy(),
        other in worlds::policy(),
        choice in any::<u16>(),
    ) {
        let new = mixed(&old, &other, choice);
        let there = diff(&old, &new).unwrap();
        let back = diff(&new, &old).unwrap();
        let said = |diff: &Diff, gained: bool| {
            let mut list: Vec<String> = Vec::new();
            for change in &diff.changes {
                let lines = if gained { &change.gained } else { &change.lost };
                let of = change.interfaces.iter().map(|one| format!("{one:?} {lines:?}"));
                list.extend(of.filter(|_| !lines.is_empty()));
            }
            list.sort();
            list
        };
        prop_assert_eq!(said(&there, true), said(&back, false));
        prop_assert_eq!(said(&there, false), said(&back, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1))]

    /// Every packet there is from three addresses: all ports, all types and codes, all protocols.
    #[test]
    fn every_service_is_told_right(mut old in worlds::policy(), mut new in worlds::policy()) {
        old.interfaces.truncate(1);
        new.interfaces.truncate(1);
        let remotes = worlds::addresses();
        let remotes = [remotes[1], remotes[14], remotes[9]];
        let mut every = Vec::new();
        for (at, protocol) in [6, 17, 1, 58].into_iter().enumerate() {
            let remote = remotes[if protocol == 1 { 0 } else { at % 3 }];
            every.extend((0..=u16::MAX).map(|service| Question { remote, protocol, service }));
        }
        for remote in remotes {
            every.extend((0..=255).map(|protocol| Question { remote, protocol, service: 0 }));
        }
        agrees(&old, &new, &every)?;
    }
}

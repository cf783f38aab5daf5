//! Nearest misses against the oracle: what a miss names has to change, all of it and nothing else,
//! for the rule to allow the packet; and no rule that needs less is left out.

use std::net::IpAddr;

use proptest::prelude::*;

use super::worlds;
use crate::compile::oracle;
use crate::packet::Address;
use crate::policy::{
    Asked, Field, GroupIndex, IcmpMatch, MISSES_MAX, Miss, Policy, Rule, Service, nearest_misses,
};
use crate::snapshot::Question;
use crate::types::{Direction, protocol};

const FIELDS: [Field; 6] = [
    Field::Port,
    Field::Type,
    Field::Code,
    Field::Address,
    Field::Protocol,
    Field::Direction,
];

/// A packet whose fields can be changed one by one. What its protocol has not is `None`.
#[derive(Clone, Copy, Debug)]
struct Packet {
    direction: Direction,
    protocol: u8,
    port: Option<u16>,
    icmp: IcmpMatch,
    remote: Address,
}

impl Packet {
    fn of(direction: Direction, question: &Question) -> Self {
        let [kind, code] = question.service.to_be_bytes();
        let has_port = matches!(question.protocol, protocol::TCP | protocol::UDP);
        let is_icmp = matches!(question.protocol, protocol::ICMP | protocol::ICMPV6);
        Self {
            direction,
            protocol: question.protocol,
            port: has_port.then_some(question.service),
            icmp: IcmpMatch {
                kind: is_icmp.then_some(kind),
                code: is_icmp.then_some(code),
            },
            remote: question.remote,
        }
    }

    /// One field as a rule wants it.
    fn set(&mut self, field: Field, direction: Direction, rule: &Rule, remote: Address) {
        let (number, port, icmp) = match rule.service {
            Service::All => (self.protocol, self.port, self.icmp),
            Service::Tcp(ports) => (protocol::TCP, Some(ports.to), self.icmp),
            Service::Udp(ports) => (protocol::UDP, Some(ports.to), self.icmp),
            Service::Icmp(icmp) => (protocol::ICMP, self.port, icmp),
            Service::Icmpv6(icmp) => (protocol::ICMPV6, self.port, icmp),
            Service::Protocol(number) => (number, self.port, self.icmp),
        };
        match field {
            Field::Direction => self.direction = direction,
            Field::Protocol => self.protocol = number,
            Field::Port => self.port = port,
            Field::Type => self.icmp.kind = icmp.kind,
            Field::Code => self.icmp.code = icmp.code,
            Field::Address => self.remote = remote,
        }
    }

    /// Whether a rule allows it. What the packet does not say, the rule has to leave open.
    fn is_allowed(&self, policy: &Policy, direction: Direction, rule: &Rule) -> bool {
        let ends = |value: Option<u8>| value.map_or([0, u8::MAX], |value| [value; 2]);
        let services: Vec<u16> = match self.protocol {
            protocol::TCP | protocol::UDP => self.port.map_or(vec![0, u16::MAX], |port| vec![port]),
            _ => ends(self.icmp.kind)
                .into_iter()
                .flat_map(|kind| ends(self.icmp.code).map(|code| u16::from_be_bytes([kind, code])))
                .collect(),
        };
        self.direction == direction
            && services.into_iter().all(|service| {
                let question = Question {
                    remote: self.remote,
                    protocol: self.protocol,
                    service,
                };
                oracle::allows(policy, rule, &question)
            })
    }
}

/// The fewest fields that have to change, by trying all sets; every set as small that does.
fn fewest(policy: &Policy, packet: Packet, direction: Direction, rule: &Rule) -> Vec<Vec<Field>> {
    let held = oracle::prefixes(policy, rule.peer);
    let mut remotes: Vec<Address> = held
        .iter()
        .map(|net| Address::from(net.network()))
        .collect();
    let of_family = |remote: &Address| match rule.service {
        Service::Icmp(_) => matches!(remote, Address::V4(_)),
        Service::Icmpv6(_) => matches!(remote, Address::V6(_)),
        _ => true,
    };
    remotes.retain(of_family);
    // Where the peer has no address there is none to be tried: it is as if it had one.
    let mut open = rule.clone();
    let is_hopeless = remotes.is_empty();
    if is_hopeless {
        let v6 = matches!(rule.service, Service::Icmpv6(_));
        open.peer = match v6 {
            true => crate::policy::Peer::Cidr6("::1/128".parse().unwrap()),
            false => crate::policy::Peer::Cidr4("0.0.0.1/32".parse().unwrap()),
        };
        remotes = vec![if v6 { Address::V6(1) } else { Address::V4(1) }];
    }
    let mut sets: Vec<Vec<Field>> = Vec::new();
    for mask in 0_u32..1 << FIELDS.len() {
        let set: Vec<Field> = (0..FIELDS.len())
            .filter(|bit| mask & 1 << bit != 0)
            .map(|bit| FIELDS[bit])
            .collect();
        if is_hopeless && !set.contains(&Field::Address) {
            continue;
        }
        let works = remotes.iter().any(|remote| {
            let mut changed = packet;
            set.iter()
                .for_each(|field| changed.set(*field, direction, &open, *remote));
            changed.is_allowed(policy, direction, &open)
        });
        if works {
            sets.push(set);
        }
    }
    let least = sets.iter().map(Vec::len).min().expect("all fields changed");
    sets.retain(|set| set.len() == least);
    sets
}

fn named(miss: &Miss) -> Vec<Field> {
    miss.differs.iter().map(|one| one.field).collect()
}

fn agree(policy: &Policy, groups: &[GroupIndex], packet: Packet, question: &Question) {
    let asked = Asked {
        direction: packet.direction,
        remote: IpAddr::from(question.remote),
        protocol: question.protocol,
        service: question.service,
    };
    let misses = nearest_misses(policy, groups, &asked);
    let mut counts = Vec::new();
    for group in groups {
        for direction in super::both() {
            for rule in policy.group(*group).rules(direction) {
                let sets = fewest(policy, packet, direction, rule);
                let count = sets[0].len();
                if let Some(miss) = misses.iter().find(|miss| miss.rule == rule.id.as_str()) {
                    assert_eq!(sets, [named(miss)], "{packet:?} {miss:?}");
                    assert!(miss.differs.iter().all(|one| !one.detail.is_empty()));
                    assert_eq!(miss.direction, direction.name());
                }
                if count > 0 {
                    counts.push(count);
                }
            }
        }
    }
    counts.sort_unstable();
    let told: Vec<usize> = misses.iter().map(|miss| miss.differs.len()).collect();
    let near = counts.iter().filter(|count| **count <= counts[0] + 1);
    let expected: Vec<usize> = near.copied().take(MISSES_MAX).collect();
    assert_eq!(told, expected, "{packet:?}: {misses:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn nearest_misses_name_the_fewest_fields_that_have_to_change(
        policy in worlds::policy(),
        questions in proptest::collection::vec(worlds::question(), 8),
    ) {
        for question in &questions {
            for interface in &policy.interfaces {
                let mut groups = interface.groups.clone();
                groups.sort();
                groups.dedup();
                for direction in super::both() {
                    agree(&policy, &groups, Packet::of(direction, question), question);
                }
            }
        }
    }
}

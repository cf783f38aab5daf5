//! The compiled form against the oracle; numbers; limits. `semantics` has the table of rules.

use ipnet::IpNet;
use proptest::prelude::*;

use super::oracle::{self, Answer};
use super::*;
use crate::packet::{Address, VlanTags};
use crate::policy::{
    GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, PortRange, Rule, Service,
};
use crate::snapshot::classes::CLASS_KEYS_MAX;
use crate::snapshot::{Decision, InterfaceRef, Question};
use crate::sync::Arc;
use crate::types::{Direction, InterfaceId, RuleId};

mod chains;
mod diff;
mod history;
mod hostile;
mod nearest;
mod semantics;
mod worlds;

fn rule(number: u32, service: Service, peer: Peer) -> Rule {
    Rule {
        id: RuleId(format!("sgr-{number}").into()),
        service,
        peer,
        description: None,
    }
}

/// What the snapshot answers, with the rule as its id.
fn compiled(
    snapshot: &Snapshot,
    interface: usize,
    direction: Direction,
    question: &Question,
) -> (Decision, Option<RuleId>) {
    let decision = snapshot.decide(InterfaceRef(interface as u32), direction, question);
    let id = match decision {
        Decision::Allow { rule, .. } => Some(snapshot.rule(rule).expect("named").id.clone()),
        _ => None,
    };
    (decision, id)
}

/// Holds one answer to the oracle's.
fn agree(
    policy: &Policy,
    snapshot: &Snapshot,
    interface: usize,
    direction: Direction,
    question: &Question,
) -> Result<(), TestCaseError> {
    // In a compiler's first policy, slots are positions.
    agree_at(
        policy,
        snapshot,
        (interface, interface),
        direction,
        question,
    )
}

/// The same for an interface at a position of the policy and a slot of the snapshot.
fn agree_at(
    policy: &Policy,
    snapshot: &Snapshot,
    (interface, slot): (usize, usize),
    direction: Direction,
    question: &Question,
) -> Result<(), TestCaseError> {
    let answer = oracle::decide(policy, &policy.interfaces[interface], direction, question);
    let (decision, id) = compiled(snapshot, slot, direction, question);
    let same = match (answer, decision) {
        (
            Answer::Allow {
                rule,
                untracked: expected,
            },
            Decision::Allow { untracked, .. },
        ) => id.as_ref() == Some(&rule.id) && untracked == expected,
        (Answer::Unenforced, Decision::Unenforced) | (Answer::Deny, Decision::Deny) => true,
        _ => false,
    };
    prop_assert!(
        same,
        "{interface} {direction:?} {question:?}: oracle {answer:?}, compiled {decision:?} {id:?}"
    );
    Ok(())
}

fn both() -> [Direction; 2] {
    [Direction::Ingress, Direction::Egress]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decisions_agree_with_the_oracle(
        policy in worlds::policy(),
        questions in proptest::collection::vec(worlds::question(), 40),
        keys_max in proptest::sample::select(vec![0, 1, 2, CLASS_KEYS_MAX]),
    ) {
        let mut compiler = Compiler::with_class_keys(keys_max);
        let snapshot = compiler.compile(&policy, &worlds::LINKS, Generation(1)).unwrap();
        for question in &questions {
            for interface in 0..policy.interfaces.len() {
                for direction in both() {
                    agree(&policy, &snapshot, interface, direction, question)?;
                }
            }
        }
    }

    #[test]
    fn owners_agree_with_the_oracle(policy in worlds::policy()) {
        let snapshot = Compiler::new().compile(&policy, &worlds::LINKS, Generation(1)).unwrap();
        let vlans = [None, Some(0), Some(1), Some(7), Some(4095)];
        for (link, name) in worlds::LINKS.iter().enumerate() {
            for outer in vlans {
                // The inner tag is nobody's business.
                let vlan = VlanTags { outer, inner: outer.map(|_| 7) };
                for address in worlds::addresses() {
                    let owner = snapshot
                        .interface_of(LinkId(link as u8), vlan, address)
                        .map(|found| &*snapshot.interface(found).unwrap().name);
                    let expected = oracle::owner(&policy, name, vlan, address);
                    prop_assert_eq!(owner, expected.map(|i| &*i.name), "{:?} {:?}", vlan, address);
                }
            }
        }
        prop_assert!(snapshot
            .interface_of(LinkId(2), VlanTags::default(), Address::V4(0x0a00_0000))
            .is_none());
    }
}

/// Every service, peer and packet of a tiny world, one rule at a time and two at a time.
#[test]
fn every_pair_of_rules_in_a_tiny_world_agrees_with_the_oracle() {
    let icmp = |kind, code| IcmpMatch { kind, code };
    let range = |from, to| PortRange { from, to };
    let services = [
        Service::All,
        Service::Tcp(PortRange::ALL),
        Service::Tcp(range(0, 0)),
        Service::Tcp(range(65535, 65535)),
        Service::Udp(range(1, 65535)),
        Service::Icmp(icmp(Some(8), Some(0))),
        Service::Icmp(icmp(None, None)),
        Service::Icmpv6(icmp(Some(128), None)),
        Service::Protocol(47),
    ];
    let cidrs = [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/31",
        "10.0.0.1/32",
        "2001:db8::1/128",
    ];
    let peers: Vec<_> = cidrs.iter().map(|cidr| semantics::cidr(cidr)).collect();
    let rules: Vec<_> = services
        .iter()
        .flat_map(|service| peers.iter().map(move |peer| (*service, *peer)))
        .collect();
    let remotes = [
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
        "2001:db8::1",
        "2001:db8::2",
    ];
    let packets = [
        (6, 0),
        (6, 65535),
        (17, 0),
        (17, 1),
        (1, 0x0800),
        (58, 0x8001),
        (47, 9),
        (0, 0),
    ];
    let questions: Vec<_> = remotes
        .iter()
        .flat_map(|remote| {
            packets.map(|(protocol, service)| Question {
                remote: semantics::address(remote),
                protocol,
                service,
            })
        })
        .collect();
    for (number, first) in rules.iter().enumerate() {
        for second in &rules[number..] {
            let mut world = semantics::World::new();
            world.group("g").ingress = vec![rule(1, first.0, first.1), rule(2, second.0, second.1)];
            world.group("g").egress = vec![rule(3, second.0, second.1)];
            world.interface("i", &["10.0.0.9"], &["g"]);
            let snapshot = world.compile();
            for question in &questions {
                for direction in both() {
                    agree(&world.policy, &snapshot, 0, direction, question).unwrap();
                }
            }
        }
    }
}

#[test]
fn realistic_policies_agree_with_the_oracle() {
    for (rules, interfaces, packets) in [(30, 40, 300), (1000, 300, 60)] {
        let size = sample::Size { rules, interfaces };
        let policies = [sample::policy(size, 11), sample::one_large_group(rules, 12)];
        for policy in &policies {
            let snapshot = Compiler::new()
                .compile(policy, &["link"], Generation(1))
                .unwrap();
            let mut random = sample::Random::new(13);
            for round in 0..packets {
                let interface = if round % 3 == 0 {
                    0
                } else {
                    random.below(policy.interfaces.len())
                };
                let question = random_question(policy, &mut random);
                for direction in both() {
                    agree(policy, &snapshot, interface, direction, &question).unwrap();
                }
            }
        }
    }
}

/// A remote that some interface or rule names, or any.
fn random_question(policy: &Policy, random: &mut sample::Random) -> Question {
    let other = &random.pick(&policy.interfaces).addresses;
    let mut remote = Address::from(random.pick(other).addr());
    let rules = &random.pick(&policy.groups).ingress;
    if random.chance(60)
        && let Some(Peer::Cidr4(net)) = rules.last().map(|rule| rule.peer)
    {
        remote = Address::V4(net.broadcast().to_bits());
    }
    Question {
        remote,
        protocol: *random.pick(&[6, 6, 6, 17, 1, 58, 47]),
        service: *random.pick(&[22, 80, 443, 5432, 0x0800, 1024, 50_000]),
    }
}

#[test]
fn a_prefix_list_of_100_000_addresses_is_searched_like_a_short_one() {
    let mut world = semantics::World::new();
    let entries: Vec<_> = (0..100_000_u32)
        .map(|i| semantics::v4_host(i * 7919))
        .collect();
    let list = world.list("many", &entries);
    world.group("g").ingress = vec![rule(1, Service::All, list)];
    world.interface("i", &["10.0.0.9"], &["g"]);
    let snapshot = world.compile();
    for i in (0..100_000_u32).step_by(97) {
        for (remote, allowed) in [(i * 7919, true), (i * 7919 + 1, false)] {
            let question = Question {
                remote: Address::V4(remote),
                protocol: 6,
                service: 1,
            };
            let (_, id) = compiled(&snapshot, 0, Direction::Ingress, &question);
            assert_eq!(id.is_some(), allowed, "{remote}");
        }
    }
    assert!(
        snapshot.stats().bytes < 4_000_000,
        "{}",
        snapshot.stats().bytes
    );
}

#[test]
fn slots_stay_while_things_stay_and_are_new_when_they_return() {
    let mut world = semantics::World::new();
    world.group("g").ingress = vec![
        rule(1, Service::All, semantics::cidr("10.0.0.0/8")),
        rule(2, Service::All, semantics::cidr("11.0.0.0/8")),
    ];
    world.interface("i", &["10.0.0.9"], &["g"]);
    world.interface("j", &["10.0.0.10"], &["g"]);
    let mut compiler = Compiler::new();
    let mut compile = |policy: &Policy| {
        let snapshot = compiler.compile(policy, &[], Generation(1)).unwrap();
        let rules: Vec<_> = snapshot
            .rules()
            .map(|r| (r.id.to_string(), r.slot.0))
            .collect();
        let interfaces: Vec<_> = snapshot
            .interfaces()
            .map(|(_, i)| (i.name.to_string(), i.slot.0))
            .collect();
        for (found, info) in snapshot.interfaces() {
            assert_eq!(snapshot.interface_by_slot(info.slot), Some(found));
            assert_eq!(found.slot(), info.slot);
        }
        (rules, interfaces, snapshot)
    };
    let numbered = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
        pairs
            .iter()
            .map(|(name, slot)| ((*name).to_owned(), *slot))
            .collect()
    };
    let (rules, interfaces, _) = compile(&world.policy);
    assert_eq!(rules, numbered(&[("sgr-1", 0), ("sgr-2", 1)]));
    assert_eq!(interfaces, numbered(&[("i", 0), ("j", 1)]));
    let full = world.policy.clone();
    world.group_mut(0).ingress.remove(0);
    world.policy.interfaces.remove(0);
    let (rules, interfaces, snapshot) = compile(&world.policy);
    assert_eq!(rules, numbered(&[("sgr-2", 1)]));
    assert_eq!(interfaces, numbered(&[("j", 1)]));
    assert!(snapshot.rule(RuleSlot(0)).is_none());
    assert!(snapshot.interface_by_slot(InterfaceSlot(0)).is_none());
    let (rules, interfaces, _) = compile(&full);
    assert_eq!(rules, numbered(&[("sgr-2", 1), ("sgr-1", 2)]));
    assert_eq!(interfaces, numbered(&[("j", 1), ("i", 2)]));
}

#[test]
fn a_failed_compilation_uses_up_no_number() {
    let mut world = semantics::World::new();
    world.group("g").ingress = vec![rule(1, Service::All, semantics::cidr("10.0.0.0/8"))];
    world.interface("i", &["10.0.0.9"], &["g"]);
    let mut compiler = Compiler::new();
    let good = world.policy.clone();
    world.group_mut(0).ingress = vec![
        rule(7, Service::All, semantics::cidr("10.0.0.0/8")),
        rule(7, Service::All, semantics::cidr("10.0.0.0/9")),
    ];
    assert_eq!(
        compiler
            .compile(&world.policy, &[], Generation(1))
            .unwrap_err(),
        CompileError::DuplicateRule(RuleId("sgr-7".into()))
    );
    let snapshot = compiler.compile(&good, &[], Generation(1)).unwrap();
    assert_eq!(snapshot.rules().next().unwrap().slot, RuleSlot(0));
}

#[test]
fn what_does_not_fit_the_gateway_is_refused() {
    let compile = |policy: &Policy, links: &[&str]| {
        Compiler::new()
            .compile(policy, links, Generation(1))
            .unwrap_err()
            .to_string()
    };
    let mut world = semantics::World::new();
    world.interface("i", &["10.0.0.9"], &["g"]);
    assert_eq!(
        compile(&world.policy, &["a", "b"]),
        "interface i names no link, and this gateway has 2"
    );
    assert_eq!(
        compile(&world.policy, &["x"; 65]),
        "65 links; at most 64 are possible"
    );
    world.interface_mut(0).link = InterfaceLink::Named("c".into());
    assert_eq!(
        compile(&world.policy, &["a", "b"]),
        "interface i is behind link c, which this gateway does not have"
    );
    world.interface_mut(0).link = InterfaceLink::Only;
    world.interface_mut(0).vlan = Some(4096);
    assert_eq!(
        compile(&world.policy, &[]),
        "interface i has VLAN 4096; VLAN ids end at 4095"
    );
    world.interface_mut(0).vlan = None;
    world.interface("j", &["10.0.0.8", "10.0.0.9"], &["g"]);
    assert_eq!(
        compile(&world.policy, &[]),
        "interfaces i and j both own 10.0.0.9/32"
    );
    world.interface_mut(1).addresses.pop();
    world.interface_mut(1).id = world.policy.interfaces[0].id.clone();
    assert_eq!(
        compile(&world.policy, &[]),
        "interface id eni-0 is used twice"
    );
}

#[test]
fn programs_of_equal_group_sets_are_shared() {
    let mut world = semantics::World::new();
    world.group("g").ingress = vec![rule(1, Service::All, semantics::cidr("10.0.0.0/8"))];
    world.group("h").ingress = vec![rule(2, Service::All, semantics::cidr("10.0.0.0/8"))];
    for (index, groups) in [["g", "h"], ["h", "g"]].iter().enumerate() {
        world.interface(&format!("i{index}"), &[&format!("10.0.0.{index}")], groups);
    }
    world.interface("alone", &["10.0.0.7"], &["g"]);
    let snapshot = world.compile();
    assert_eq!(snapshot.stats().programs, 4);
}

#[test]
fn an_empty_snapshot_owns_and_allows_nothing() {
    let snapshot = Snapshot::empty(Generation(3));
    let address = Address::V4(0x0a00_0001);
    assert_eq!(snapshot.generation(), Generation(3));
    assert!(
        snapshot
            .interface_of(LinkId(0), VlanTags::default(), address)
            .is_none()
    );
    assert!(snapshot.owners_anywhere(address).is_empty());
    assert!(snapshot.interface_by_slot(InterfaceSlot(0)).is_none());
    assert!(snapshot.rule(RuleSlot(0)).is_none());
    assert_eq!(snapshot.interfaces().count(), 0);
}

#[test]
fn owners_anywhere_finds_every_link_and_vlan_and_the_longest_match_first() {
    let mut world = semantics::World::new();
    world.interface("i", &["10.0.0.0/24"], &["g"]);
    world.interface("v", &["10.0.0.9"], &["g"]);
    world.interface_mut(1).vlan = Some(5);
    let snapshot = world.compile();
    let found = |address| snapshot.owners_anywhere(semantics::address(address));
    assert_eq!(found("10.0.0.9"), [InterfaceRef(1), InterfaceRef(0)]);
    assert_eq!(found("10.0.0.8"), [InterfaceRef(0)]);
    assert_eq!(found("10.0.1.8"), []);
}

/// Memory stays linear although every other interface is in a group that is every group's peer: a
/// fifth of the size that has to fit 200 MB.
#[test]
fn a_group_that_all_others_name_is_stored_once() {
    let size = sample::Size {
        rules: 20_000,
        interfaces: 20_000,
    };
    let mut policy = sample::policy(size, 5);
    for (group, number) in policy.groups.iter_mut().zip(0..) {
        Arc::make_mut(group)
            .ingress
            .push(rule(number, Service::All, Peer::Group(GroupIndex(0))));
    }
    for interface in policy.interfaces.iter_mut().step_by(2) {
        if !interface.groups.contains(&GroupIndex(0)) {
            Arc::make_mut(interface).groups.push(GroupIndex(0));
        }
    }
    let snapshot = Compiler::new()
        .compile(&policy, &["link"], Generation(1))
        .unwrap();
    let stats = snapshot.stats();
    assert!(stats.bytes < 40_000_000, "{stats:?}");
    let mut random = sample::Random::new(6);
    for _ in 0..40 {
        let interface = random.below(policy.interfaces.len());
        let question = random_question(&policy, &mut random);
        agree(&policy, &snapshot, interface, Direction::Ingress, &question).unwrap();
    }
}

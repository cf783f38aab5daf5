//! Since when addresses are whose they are, against a list of all points and their owners.

use std::collections::HashMap;

use super::*;
use crate::packet::{End, Family, FlowKey, KeyKind};
use crate::snapshot::FlowSeat;
use crate::types::protocol;

/// VLANs that policies of `worlds` name, and two that none does.
const VLANS: [Option<u16>; 5] = [None, Some(0), Some(1), Some(7), Some(4095)];

type Spot = (u8, Option<u16>, Address);

fn spots() -> Vec<Spot> {
    let mut spots = Vec::new();
    for link in 0..2 {
        for vlan in VLANS {
            let addresses = worlds::addresses().into_iter();
            spots.extend(addresses.map(|address| (link, vlan, address)));
        }
    }
    spots
}

fn tags(outer: Option<u16>) -> VlanTags {
    VlanTags { outer, inner: None }
}

fn slot_at(snapshot: &Snapshot, (link, vlan, address): Spot) -> Option<InterfaceSlot> {
    let owner = snapshot.interface_of(LinkId(link), tags(vlan), address);
    owner.map(InterfaceRef::slot)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_address_knows_since_when_it_has_its_owner(
        policies in proptest::collection::vec((worlds::policy(), any::<u8>()), 1..8),
        first in proptest::sample::select(vec![1, (1 << 24) - 3, (1 << 32) - 3, 5 << 32]),
    ) {
        let mut compiler = Compiler::new();
        let mut truth: HashMap<Spot, (Option<InterfaceSlot>, u64)> = HashMap::new();
        let (mut swept, mut last) = (0, 0);
        for (index, (policy, behind)) in policies.iter().enumerate() {
            let generation = first + index as u64;
            // Workers are up to date, or some generations behind, or have not begun.
            if behind % 2 == 0 {
                swept = swept.max(generation.saturating_sub(1 + u64::from(behind / 2 % 4)));
                compiler.forget_changes(Generation(swept));
            }
            if behind % 3 == 0 {
                let spoiled = spoiled(policy);
                let refused = compiler.compile(&spoiled, &worlds::LINKS, Generation(generation));
                prop_assert!(refused.is_err());
            }
            let snapshot = compiler
                .compile(policy, &worlds::LINKS, Generation(generation))
                .unwrap();
            for spot in spots() {
                let slot = slot_at(&snapshot, spot);
                let known = truth.entry(spot).or_insert((slot, 0));
                if known.0 != slot {
                    *known = (slot, generation);
                    last = generation;
                }
                let expected = if known.1 > swept { known.1 } else { 0 };
                let (link, vlan, address) = spot;
                let since = snapshot.changes.since(LinkId(link), tags(vlan), address);
                prop_assert_eq!(since.0, expected, "{:?} at {}", spot, generation);
            }
            if last > swept {
                // Points between those that are looked at may have changed later.
                prop_assert!(snapshot.owners_changed().0 >= last);
            }
        }
        // Once all is swept, nothing is remembered.
        let generation = Generation(first + policies.len() as u64);
        compiler.forget_changes(generation);
        let (policy, _) = policies.last().unwrap();
        let snapshot = compiler.compile(policy, &worlds::LINKS, generation).unwrap();
        prop_assert!(snapshot.changes.generations.len() <= 1);
        prop_assert!(snapshot.changes.links.iter().all(|link| link.vlans.is_empty()));
    }
}

/// A policy without most of what another one has, that is refused late: for an address of two.
fn spoiled(policy: &Policy) -> Policy {
    let twice = [
        ("one", "203.0.113.1/32", None),
        ("two", "203.0.113.1/32", None),
    ];
    let mut spoiled = placed(&twice);
    spoiled
        .interfaces
        .extend(policy.interfaces.first().cloned());
    for interface in &mut spoiled.interfaces {
        Arc::make_mut(interface).groups = vec![GroupIndex(0)];
    }
    spoiled
}

/// A policy of interfaces at addresses, each in a VLAN or none, all on link a.
fn placed(interfaces: &[(&str, &str, Option<u16>)]) -> Policy {
    let interface = |(name, address, vlan): &(&str, &str, Option<u16>)| Interface {
        name: (*name).into(),
        id: InterfaceId(format!("eni-{name}").into()),
        addresses: vec![address.parse().unwrap()],
        groups: vec![GroupIndex(0)],
        link: InterfaceLink::Named("a".into()),
        vlan: *vlan,
        vpc_id: None,
        subnet_id: None,
        instance_id: None,
        limits: crate::types::FlowLimits::default(),
    };
    Policy {
        groups: vec![Arc::new(crate::policy::SecurityGroup {
            name: "g".into(),
            id: crate::types::GroupId("sg-0".into()),
            description: None,
            enforce: true,
            ingress: Vec::new(),
            egress: Vec::new(),
        })],
        prefix_lists: Vec::new(),
        interfaces: interfaces.iter().map(interface).map(Arc::new).collect(),
    }
}

/// A connection between 10.0.0.1 inside and 192.0.2.1.
fn key(vlan: Option<u16>) -> FlowKey {
    FlowKey {
        family: Family::V4,
        kind: KeyKind::Symmetric,
        protocol: protocol::TCP,
        link: LinkId(0),
        vlan: tags(vlan),
        low: 0x0a00_0001,
        high: 0xc000_0201,
        low_port: 80,
        high_port: 80,
    }
}

/// Whether it stands in a snapshot, if judged by a generation before it.
fn stands(snapshot: &Snapshot, slot: InterfaceSlot, vlan: Option<u16>, judged: u64) -> bool {
    let flow = FlowSeat {
        key: &key(vlan),
        inside: End::Low,
        interface: slot,
        judged_low: judged as u32,
    };
    snapshot.seat(&flow).is_some()
}

/// Compiles policies one after the other, and says of each whether a connection of the first one's
/// first interface, opened then, stands.
fn story(vlan: Option<u16>, policies: &[Policy]) -> Vec<bool> {
    let first = u64::from(u32::MAX);
    let mut compiler = Compiler::new();
    let mut slot = None;
    let mut stood = Vec::new();
    for (index, policy) in policies.iter().enumerate() {
        let generation = Generation(first + index as u64);
        let snapshot = compiler
            .compile(policy, &worlds::LINKS, generation)
            .unwrap();
        let slot = *slot.get_or_insert_with(|| snapshot.interfaces().next().unwrap().1.slot);
        stood.push(stands(&snapshot, slot, vlan, first));
        assert!(
            index == 0 || stands(&snapshot, slot, vlan, generation.0) >= stood[index],
            "what is judged later has lost less"
        );
    }
    stood
}

#[test]
fn an_address_that_is_back_is_not_what_it_was() {
    let here = placed(&[("web", "10.0.0.1/32", None)]);
    let gone = placed(&[("web", "10.0.0.2/32", None)]);
    assert_eq!(
        story(None, &[here.clone(), gone, here.clone(), here]),
        [true, false, false, false]
    );
}

#[test]
fn what_happens_to_other_addresses_ends_nothing() {
    let here = ("web", "10.0.0.1/32", None);
    let alone = placed(&[here]);
    let more = placed(&[("db", "10.0.0.9/32", None), here]);
    let wide = placed(&[("net", "10.0.0.0/8", None), here]);
    assert_eq!(story(None, &[alone.clone(), more, wide, alone]), [true; 4]);
}

#[test]
fn the_same_owner_by_another_prefix_is_the_same() {
    let narrow = placed(&[("web", "10.0.0.1/32", None)]);
    let wide = placed(&[("web", "10.0.0.0/24", None)]);
    assert_eq!(story(None, &[narrow.clone(), wide, narrow]), [true; 3]);
}

#[test]
fn an_address_that_another_prefix_took_for_a_while_is_lost() {
    let wide = ("net", "10.0.0.0/24", None);
    let alone = placed(&[wide]);
    let taken = placed(&[wide, ("web", "10.0.0.1/32", None)]);
    let beside = placed(&[wide, ("web", "10.0.0.2/32", None)]);
    assert_eq!(
        story(None, &[alone.clone(), beside, taken, alone]),
        [true, true, false, false]
    );
}

#[test]
fn a_far_end_that_was_registered_for_a_while_ends_it() {
    let near = ("web", "10.0.0.1/32", None);
    let alone = placed(&[near]);
    let far = placed(&[near, ("far", "192.0.2.1/32", None)]);
    let elsewhere = placed(&[near, ("far", "192.0.2.1/32", Some(7))]);
    assert_eq!(
        story(None, &[alone.clone(), elsewhere, far, alone]),
        [true, true, false, false]
    );
}

#[test]
fn vlans_that_come_and_go_concern_their_own_frames_only() {
    let any = placed(&[("web", "10.0.0.1/32", None)]);
    let only = placed(&[("web", "10.0.0.1/32", Some(20))]);
    let steps = [any.clone(), only, any];
    assert_eq!(story(Some(20), &steps), [true; 3]);
    assert_eq!(story(None, &steps), [true, false, false]);
    assert_eq!(story(Some(21), &steps), [true, false, false]);
    let other = ("other", "10.0.0.1/32", Some(20));
    let both = placed(&[("web", "10.0.0.1/32", None), other]);
    let web = placed(&[("web", "10.0.0.1/32", None)]);
    let steps = [web.clone(), both, web];
    assert_eq!(story(Some(20), &steps), [true, false, false]);
    assert_eq!(story(Some(21), &steps), [true; 3]);
    assert_eq!(story(None, &steps), [true; 3]);
}

#[test]
fn an_interface_that_is_back_is_another() {
    let here = placed(&[("web", "10.0.0.1/32", None)]);
    let gone = placed(&[]);
    assert_eq!(
        story(None, &[here.clone(), gone, here]),
        [true, false, false]
    );
}

/// A policy of 4,000 interfaces on link a, each at one address of 10.0.0.0/16 or in a VLAN's.
fn crowd(addresses: &[u32]) -> Policy {
    let mut policy = placed(&[]);
    let some = &placed(&[("some", "10.0.0.0/32", None)]).interfaces[0];
    policy.interfaces = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| {
            let mut interface = (**some).clone();
            interface.id = InterfaceId(format!("eni-{index}").into());
            interface.addresses = vec![semantics::v4_host(0x0a00_0000 + address)];
            Arc::new(interface)
        })
        .collect();
    policy
}

#[test]
fn few_changes_among_many_addresses_are_all_known() {
    let mut random = sample::Random::new(5);
    // Even addresses at first; those that move take odd ones.
    let mut addresses: Vec<u32> = (0..4000).map(|index| index * 2).collect();
    let mut compiler = Compiler::new();
    let mut truth: HashMap<u32, (Option<InterfaceSlot>, u64)> = HashMap::new();
    for generation in 1..8_u64 {
        let policy = crowd(&addresses);
        let at = Generation(generation);
        let snapshot = compiler.compile(&policy, &worlds::LINKS, at).unwrap();
        for address in 0..8010 {
            let spot = (0, None, Address::V4(0x0a00_0000 + address));
            let slot = slot_at(&snapshot, spot);
            let first = if generation == 1 { 0 } else { generation };
            let known = truth.entry(address).or_insert((slot, 0));
            if known.0 != slot {
                *known = (slot, first);
            }
            let since = snapshot.changes.since(LinkId(0), tags(None), spot.2);
            assert_eq!(since.0, known.1, "{address} in generation {generation}");
        }
        for _ in 0..generation {
            let moved = random.below(addresses.len());
            if addresses[moved].is_multiple_of(2) {
                addresses[moved] += 1;
            }
        }
    }
}

#[test]
fn a_change_of_rules_compares_no_owners() {
    let mut policy = placed(&[("web", "10.0.0.1/32", None)]);
    let mut compiler = Compiler::new();
    let mut last = None;
    for generation in 1..6 {
        let group = Arc::make_mut(&mut policy.groups[0]);
        group.ingress.push(rule(
            generation,
            Service::All,
            semantics::cidr("10.0.0.3/32"),
        ));
        if generation == 3 {
            policy = placed(&[("web", "10.0.0.2/32", None)]);
        }
        compiler.forget_changes(Generation(u64::from(generation).saturating_sub(2)));
        let at = Generation(generation.into());
        let next = compiler.compile(&policy, &worlds::LINKS, at).unwrap();
        if let Some(last) = last.replace(next.clone()) {
            let last: Snapshot = last;
            let is_shared = Arc::ptr_eq(&last.changes, &next.changes);
            // The third moves an address, and the fifth forgets that.
            assert_eq!(is_shared, generation == 2 || generation == 4);
        }
    }
    assert_eq!(last.unwrap().owners_changed(), Generation(0));
}

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
    let owner = snapshot.interface_of(LinkId(link), tags(vlan), address)?;
    snapshot.slot(owner)
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
        prop_assert_eq!(snapshot.changes.generations.len(), 1);
        prop_assert!(snapshot.changes.links.iter().all(|link| link.vlans.is_empty()));
    }
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
        let slot = *slot.get_or_insert_with(|| snapshot.interfaces[0].slot);
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

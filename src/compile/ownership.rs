//! Which interface owns which address, link by link and VLAN by VLAN.

use std::collections::BTreeMap;

use super::error::CompileError;
use super::sweep::{Span, Spans, sweep};
use crate::policy::{Interface, InterfaceLink, Policy};
use crate::snapshot::InterfaceRef;
use crate::snapshot::interval::{INTERVALS_MAX, IntervalMap, Point};
use crate::snapshot::owners::{LinkOwners, Owner, OwnerTable, Owners, VLAN_IDS};
use crate::types::LinkId;

/// The link that an interface is behind; `None` for one that is elsewhere.
pub(super) fn link_of(
    interface: &Interface,
    link_names: &[&str],
) -> Result<Option<LinkId>, CompileError> {
    let position = match &interface.link {
        InterfaceLink::Elsewhere => return Ok(None),
        InterfaceLink::Only if link_names.len() <= 1 => Some(0),
        InterfaceLink::Only => {
            return Err(CompileError::LinkNotNamed {
                interface: interface.name.clone(),
                count: link_names.len(),
            });
        }
        InterfaceLink::Named(name) => link_names.iter().position(|link| **link == **name),
    };
    let id = position.and_then(|position| u8::try_from(position).ok());
    match (id, &interface.link) {
        (Some(id), _) => Ok(Some(LinkId(id))),
        (None, InterfaceLink::Named(link)) => Err(CompileError::UnknownLink {
            interface: interface.name.clone(),
            link: link.clone(),
        }),
        (None, _) => Err(CompileError::TooManyLinks {
            count: link_names.len(),
        }),
    }
}

/// A prefix that an interface owns; spans are labeled with the position of one.
#[derive(Clone, Copy, Debug)]
struct Claim {
    interface: u32,
    prefix: ipnet::IpNet,
}

/// The claims of one place: a link's frames, or those of one VLAN.
#[derive(Debug, Default)]
struct Place {
    claims: Vec<Claim>,
    spans: Spans,
}

/// The tables of all links; `links` says where each interface is, in the policy's order.
pub(super) fn owners(
    policy: &Policy,
    links: &[Option<LinkId>],
    count: usize,
) -> Result<Owners, CompileError> {
    let mut places: Vec<BTreeMap<Option<u16>, Place>> = Vec::new();
    places.resize_with(count, || BTreeMap::from([(None, Place::default())]));
    for ((index, interface), link) in (0..).zip(&policy.interfaces).zip(links) {
        let Some(of_link) = link.and_then(|link| places.get_mut(link.index())) else {
            continue;
        };
        if let Some(vlan) = interface.vlan.filter(|vlan| usize::from(*vlan) >= VLAN_IDS) {
            return Err(CompileError::VlanOutOfRange {
                interface: interface.name.clone(),
                vlan,
            });
        }
        let place = of_link.entry(interface.vlan).or_default();
        for &prefix in &interface.addresses {
            // Far fewer than 2³²: each takes dozens of bytes.
            let label = u32::try_from(place.claims.len()).unwrap_or(u32::MAX);
            place.spans.push(prefix, label);
            place.claims.push(Claim {
                interface: index,
                prefix,
            });
        }
    }
    let links = places.into_iter().map(|place| link_owners(place, policy));
    Ok(Owners {
        links: links.collect::<Result<Vec<_>, _>>()?.into(),
    })
}

fn link_owners(
    places: BTreeMap<Option<u16>, Place>,
    policy: &Policy,
) -> Result<LinkOwners, CompileError> {
    let mut any_vlan = None;
    let mut vlans = Vec::new();
    let mut vlan_positions = None;
    for (vlan, place) in places {
        let table = table(place, policy)?;
        let Some(vlan) = vlan else {
            any_vlan = Some(table);
            continue;
        };
        let positions: &mut Box<[u16]> =
            vlan_positions.get_or_insert_with(|| vec![u16::MAX; VLAN_IDS].into());
        // At most as many tables as VLAN ids.
        positions[usize::from(vlan)] = u16::try_from(vlans.len()).unwrap_or(u16::MAX);
        vlans.push(table);
    }
    Ok(LinkOwners {
        any_vlan: any_vlan.unwrap_or_else(OwnerTable::nobody),
        vlan_positions,
        vlans: vlans.into(),
    })
}

fn table(mut place: Place, policy: &Policy) -> Result<OwnerTable, CompileError> {
    Ok(OwnerTable {
        v4: map(&mut place.spans.v4, &place.claims, policy)?,
        v6: map(&mut place.spans.v6, &place.claims, policy)?,
    })
}

/// The longest prefix is the innermost one, so what is around a span does not matter.
fn map<K: Point>(
    spans: &mut [Span<K>],
    claims: &[Claim],
    policy: &Policy,
) -> Result<IntervalMap<K>, CompileError> {
    let name = |claim: Claim| policy.interfaces[claim.interface as usize].name.clone();
    let enter = |_around, same: &[Span<K>]| {
        let first = claims[same[0].label as usize];
        let others = same.iter().map(|span| claims[span.label as usize]);
        match others
            .into_iter()
            .find(|other| other.interface != first.interface)
        {
            Some(second) => Err(CompileError::DuplicateAddress {
                prefix: first.prefix,
                first: name(first),
                second: name(second),
            }),
            None => Ok(Owner::new(InterfaceRef(first.interface), first.prefix.prefix_len()).0),
        }
    };
    sweep(spans, Owner::NONE.0, enter)?
        .finish()
        .ok_or(CompileError::TooManyIntervals {
            limit: INTERVALS_MAX,
        })
}

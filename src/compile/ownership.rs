//! Which interface owns which address, link by link and VLAN by VLAN.

use std::collections::BTreeMap;

use super::error::CompileError;
use super::prefixes::{Bits, BothPrefixes, Prefixes, Values};
use crate::policy::{Interface, InterfaceLink};
use crate::snapshot::InterfaceRef;
use crate::snapshot::interval::{INTERVALS_MAX, IntervalMap, Uncounted};
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
        (Some(_), _)
            if interface
                .vlan
                .is_some_and(|vlan| usize::from(vlan) >= VLAN_IDS) =>
        {
            Err(CompileError::VlanOutOfRange {
                interface: interface.name.clone(),
                vlan: interface.vlan.unwrap_or_default(),
            })
        }
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

/// The owners in one place: a link's frames, or those of one VLAN.
#[derive(Clone, Debug)]
struct Place {
    /// Labeled by interface.
    prefixes: BothPrefixes,
    table: OwnerTable,
    /// How many prefixes interfaces own here.
    count: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            prefixes: BothPrefixes::default(),
            table: OwnerTable::nobody(),
            count: 0,
        }
    }
}

/// The owners of all links, and what they are made of.
#[derive(Clone, Debug)]
pub(super) struct Ownership {
    links: Vec<BTreeMap<Option<u16>, Place>>,
    owners: Owners,
    is_changed: bool,
}

impl Ownership {
    /// Of so many links, nothing owned.
    pub(super) fn new(links: usize) -> Self {
        Self {
            links: vec![BTreeMap::new(); links],
            owners: Owners::nobody(),
            is_changed: true,
        }
    }

    /// An interface, by its slot, comes to a link.
    pub(super) fn add(&mut self, link: LinkId, interface: &Interface, slot: u32) {
        self.is_changed = true;
        if let Some(of_link) = self.links.get_mut(link.index()) {
            let place = of_link.entry(interface.vlan).or_default();
            place.count += interface.addresses.len();
            for address in &interface.addresses {
                place.prefixes.add(*address, slot);
            }
        }
    }

    /// An interface that was added leaves.
    pub(super) fn remove(&mut self, link: LinkId, interface: &Interface, slot: u32) {
        self.is_changed = true;
        if let Some(of_link) = self.links.get_mut(link.index()) {
            let place = of_link.entry(interface.vlan).or_default();
            place.count -= interface.addresses.len();
            for address in &interface.addresses {
                place.prefixes.remove(*address, slot);
            }
        }
    }

    /// The owners by now; the names of interfaces are for errors.
    pub(super) fn flush(&mut self, name: &dyn Fn(u32) -> Box<str>) -> Result<Owners, CompileError> {
        if !self.is_changed {
            return Ok(self.owners.clone());
        }
        for place in self.links.iter_mut().flat_map(BTreeMap::values_mut) {
            if place.prefixes.is_changed() {
                patch(&mut place.prefixes.v4, &mut place.table.v4, name)?;
                patch(&mut place.prefixes.v6, &mut place.table.v6, name)?;
            }
        }
        for of_link in &mut self.links {
            of_link.retain(|_, place| place.count != 0);
        }
        self.owners = Owners {
            links: self.links.iter().map(link_owners).collect(),
        };
        self.is_changed = false;
        Ok(self.owners.clone())
    }
}

fn patch<K: Bits>(
    prefixes: &mut Prefixes<K>,
    map: &mut IntervalMap<K>,
    name: &dyn Fn(u32) -> Box<str>,
) -> Result<(), CompileError> {
    let patches = prefixes.flush(Owner::NONE.0, &mut OwnerValues { name })?;
    *map = map
        .patched(patches, &mut Uncounted)
        .ok_or(CompileError::TooManyIntervals {
            limit: INTERVALS_MAX,
        })?;
    Ok(())
}

/// The longest prefix is the innermost one, so what is around a prefix does not matter.
struct OwnerValues<'n> {
    name: &'n dyn Fn(u32) -> Box<str>,
}

impl<K: Bits> Values<K, CompileError> for OwnerValues<'_> {
    fn enter(
        &mut self,
        _around: u32,
        (first, len): (K, u8),
        labels: &[u32],
    ) -> Result<u32, CompileError> {
        match *labels {
            [only] => Ok(Owner::new(InterfaceRef(only), len).0),
            [one, other, ..] => Err(CompileError::DuplicateAddress {
                prefix: first.net(len),
                first: (self.name)(one),
                second: (self.name)(other),
            }),
            [] => Ok(Owner::NONE.0),
        }
    }
}

fn link_owners(places: &BTreeMap<Option<u16>, Place>) -> LinkOwners {
    let mut any_vlan = OwnerTable::nobody();
    let mut vlans = Vec::new();
    let mut vlan_positions = None;
    for (vlan, place) in places {
        let table = place.table.clone();
        let Some(vlan) = *vlan else {
            any_vlan = table;
            continue;
        };
        let positions: &mut Box<[u16]> =
            vlan_positions.get_or_insert_with(|| vec![u16::MAX; VLAN_IDS].into());
        // At most as many tables as VLAN ids.
        positions[usize::from(vlan)] = u16::try_from(vlans.len()).unwrap_or(u16::MAX);
        vlans.push(table);
    }
    LinkOwners {
        any_vlan,
        vlan_positions,
        vlans: vlans.into(),
    }
}

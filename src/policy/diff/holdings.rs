//! What each interface owns: which of its addresses, behind which link, in frames of which VLAN.
//!
//! The longest prefix owns an address, and of two equal ones that of the interface in the frame's
//! VLAN. So an interface's prefixes are not all its own: an interface inside of one of them takes
//! its addresses out, and when it goes, they are the other's again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::budget::{Budget, DiffError};
use super::ranges::AddressSet;
use crate::policy::{Interface, InterfaceLink, Policy};

/// Addresses of an interface in one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The link; null: the only one.
    pub link: Option<String>,
    /// In frames with this outer VLAN id alone; null: in those with any and with none.
    pub vlan: Option<u16>,
    /// But not in frames with these.
    pub vlans_except: Vec<u16>,
    /// The addresses, as the fewest prefixes.
    pub addresses: Vec<IpNet>,
    /// Addresses that were left out to be brief; 0 in a whole answer.
    pub more_addresses: usize,
}

/// All that one interface owns.
#[derive(Debug, PartialEq, Eq)]
struct Holding {
    link: Option<Box<str>>,
    vlan: Option<u16>,
    /// In frames of its VLAN, or of all that are not below.
    base: AddressSet,
    /// In frames of these VLANs, where that is something else.
    in_vlan: BTreeMap<u16, AddressSet>,
}

impl Holding {
    /// What it owns in frames of a VLAN; `None`: of none that either holding speaks of.
    fn within(&self, vlan: Option<u16>) -> Option<&AddressSet> {
        match (self.vlan, vlan) {
            (None, Some(asked)) => Some(self.in_vlan.get(&asked).unwrap_or(&self.base)),
            (None, None) => Some(&self.base),
            (own, asked) => (own == asked).then_some(&self.base),
        }
    }

    fn vlans(&self) -> impl Iterator<Item = u16> {
        self.vlan.into_iter().chain(self.in_vlan.keys().copied())
    }
}

/// What of an interface's places only one side has, and what both have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// The same on both sides; whether it is anything.
    Same {
        /// It owns no address behind this gateway.
        is_nothing: bool,
    },
    /// Some of it is another's, or nobody's, on one side.
    Moved {
        /// On both sides.
        kept: Vec<Place>,
        /// On the old side alone.
        left: Vec<Place>,
        /// On the new side alone.
        arrived: Vec<Place>,
    },
}

/// Prefixes that another interface has inside of, or instead of, one of an interface's own.
type Losses = Vec<(Option<u16>, IpNet)>;

/// What the interfaces of a policy own.
#[derive(Debug)]
pub(super) struct Holdings<'p> {
    policy: &'p Policy,
    /// Whether all links are the same one.
    one_link: bool,
    /// Of those interfaces from which others take something.
    losses: HashMap<u32, BTreeMap<IpNet, Losses>>,
}

/// A prefix of an interface.
#[derive(Clone, Copy)]
struct Claim {
    net: IpNet,
    vlan: Option<u16>,
    interface: u32,
}

impl<'p> Holdings<'p> {
    pub(super) fn new(
        policy: &'p Policy,
        one_link: bool,
        budget: &mut Budget,
    ) -> Result<Self, DiffError> {
        let mut holdings = Self {
            policy,
            one_link,
            losses: HashMap::new(),
        };
        let mut by_link: HashMap<Option<&str>, Vec<Claim>> = HashMap::new();
        for (index, interface) in (0..).zip(&policy.interfaces) {
            if interface.link == InterfaceLink::Elsewhere {
                continue;
            }
            let claims = by_link.entry(holdings.link(interface)).or_default();
            claims.extend(interface.addresses.iter().map(|net| Claim {
                net: *net,
                vlan: interface.vlan,
                interface: index,
            }));
        }
        for mut claims in by_link.into_values() {
            budget.work(claims.len())?;
            claims.sort_unstable_by_key(|claim| {
                (claim.net.network(), claim.net.prefix_len(), claim.vlan)
            });
            holdings.find_losses(&claims, budget)?;
        }
        Ok(holdings)
    }

    fn link<'i>(&self, interface: &'i Interface) -> Option<&'i str> {
        match &interface.link {
            InterfaceLink::Named(name) if !self.one_link => Some(name),
            _ => None,
        }
    }

    /// Walks through claims that begin before what lies in them, keeping those around.
    fn find_losses(&mut self, claims: &[Claim], budget: &mut Budget) -> Result<(), DiffError> {
        let mut around: Vec<Claim> = Vec::new();
        for claim in claims {
            while around
                .pop_if(|outer| !outer.net.contains(&claim.net))
                .is_some()
            {}
            budget.work(around.len())?;
            for outer in &around {
                // In which frames the inner one, which is stronger, takes it.
                let frames = match (outer.vlan, claim.vlan) {
                    (Some(a), Some(b)) if a != b => continue,
                    (None, Some(vlan)) => Some(vlan),
                    _ => None,
                };
                if outer.interface == claim.interface {
                    continue;
                }
                budget.keep(1)?;
                let of_interface = self.losses.entry(outer.interface).or_default();
                let of_prefix = of_interface.entry(outer.net).or_default();
                of_prefix.push((frames, claim.net));
            }
            around.push(*claim);
        }
        Ok(())
    }

    fn of(&self, index: u32, budget: &mut Budget) -> Result<Holding, DiffError> {
        let interface = &self.policy.interfaces[index as usize];
        let losses = self.losses.get(&index);
        let owned = |vlan: Option<u16>, budget: &mut Budget| {
            let mut owned = AddressSet::default();
            for net in &interface.addresses {
                let mut part = AddressSet::new(std::iter::once(*net), budget)?;
                if let Some(lost) = losses.and_then(|losses| losses.get(net)) {
                    budget.work(lost.len())?;
                    let here = lost
                        .iter()
                        .filter(|(frames, _)| frames.is_none() || *frames == vlan);
                    let lost = AddressSet::new(here.map(|(_, net)| *net), budget)?;
                    part = part.minus(&lost, budget)?;
                }
                owned = owned.join(&part, budget)?;
            }
            Ok(owned)
        };
        let lost = losses.iter().flat_map(|losses| losses.values().flatten());
        let vlans: BTreeSet<u16> = lost.filter_map(|(frames, _)| *frames).collect();
        let base = owned(None, budget)?;
        let mut in_vlan = BTreeMap::new();
        for vlan in vlans {
            in_vlan.insert(vlan, owned(Some(vlan), budget)?);
        }
        Ok(Holding {
            link: self.link(interface).map(Into::into),
            vlan: interface.vlan,
            base,
            in_vlan,
        })
    }
}

/// Compares what two interfaces of one name own; an index for each side that has it.
pub(super) fn split(
    old: Option<(&Holdings<'_>, u32)>,
    new: Option<(&Holdings<'_>, u32)>,
    budget: &mut Budget,
) -> Result<Split, DiffError> {
    if let (Some((old, old_index)), Some((new, new_index))) = (old, new) {
        let a = &old.policy.interfaces[old_index as usize];
        let b = &new.policy.interfaces[new_index as usize];
        let is_whole = !old.losses.contains_key(&old_index) && !new.losses.contains_key(&new_index);
        if is_whole && a.addresses == b.addresses && a.vlan == b.vlan && same_link(old, a, new, b) {
            let is_nothing = a.link == InterfaceLink::Elsewhere;
            return Ok(Split::Same { is_nothing });
        }
    }
    let mut of = |side: Option<(&Holdings<'_>, u32)>| match side {
        Some((holdings, index))
            if holdings.policy.interfaces[index as usize].link != InterfaceLink::Elsewhere =>
        {
            holdings.of(index, budget).map(Some)
        }
        _ => Ok(None),
    };
    let (old, new) = (of(old)?, of(new)?);
    match (&old, &new) {
        (None, None) => Ok(Split::Same { is_nothing: true }),
        (Some(old), Some(new)) if old == new => Ok(Split::Same { is_nothing: false }),
        (Some(old), Some(new)) if old.link == new.link => moved(Some(old), Some(new), budget),
        // Nothing is in common.
        (old, new) => {
            let left = moved(old.as_ref(), None, budget)?;
            let arrived = moved(None, new.as_ref(), budget)?;
            match (left, arrived) {
                (Split::Moved { left, .. }, Split::Moved { arrived, .. }) => Ok(Split::Moved {
                    kept: Vec::new(),
                    left,
                    arrived,
                }),
                (same, _) => Ok(same),
            }
        }
    }
}

fn same_link(old: &Holdings<'_>, a: &Interface, new: &Holdings<'_>, b: &Interface) -> bool {
    let elsewhere = |interface: &Interface| interface.link == InterfaceLink::Elsewhere;
    elsewhere(a) == elsewhere(b) && old.link(a) == new.link(b)
}

/// Compares holdings behind one link, VLAN by VLAN.
fn moved(
    old: Option<&Holding>,
    new: Option<&Holding>,
    budget: &mut Budget,
) -> Result<Split, DiffError> {
    let link = old.or(new).and_then(|holding| holding.link.as_deref());
    let both = old.iter().chain(&new);
    let vlans: BTreeSet<u16> = both.flat_map(|holding| holding.vlans()).collect();
    let mut parts = [const { Vec::new() }; 3];
    for vlan in std::iter::once(None).chain(vlans.into_iter().map(Some)) {
        let nothing = AddressSet::default();
        let within = |holding: Option<&'_ Holding>| -> AddressSet {
            let found = holding.and_then(|holding| holding.within(vlan));
            found.unwrap_or(&nothing).clone()
        };
        let (before, after) = (within(old), within(new));
        parts[0].push((vlan, before.meet(&after, budget)?));
        parts[1].push((vlan, before.minus(&after, budget)?));
        parts[2].push((vlan, after.minus(&before, budget)?));
    }
    let mut places = parts.into_iter().map(|part| places(link, part, budget));
    let mut next = || places.next().unwrap_or_else(|| Ok(Vec::new()));
    Ok(Split::Moved {
        kept: next()?,
        left: next()?,
        arrived: next()?,
    })
}

/// One place for all frames, without the VLANs that differ, and one for each of those.
fn places(
    link: Option<&str>,
    parts: Vec<(Option<u16>, AddressSet)>,
    budget: &mut Budget,
) -> Result<Vec<Place>, DiffError> {
    let mut parts = parts.into_iter();
    let Some((_, elsewhere)) = parts.next() else {
        return Ok(Vec::new());
    };
    let apart: Vec<_> = parts.filter(|(_, part)| *part != elsewhere).collect();
    let vlans_except = apart.iter().filter_map(|(vlan, _)| *vlan).collect();
    let mut list = Vec::new();
    let mut push = |vlan, vlans_except, part: &AddressSet| -> Result<(), DiffError> {
        if !part.is_empty() {
            list.push(Place {
                link: link.map(ToOwned::to_owned),
                vlan,
                vlans_except,
                addresses: part.prefixes(budget)?,
                more_addresses: 0,
            });
        }
        Ok(())
    };
    push(None, vlans_except, &elsewhere)?;
    for (vlan, part) in &apart {
        push(*vlan, Vec::new(), part)?;
    }
    Ok(list)
}

//! The peers of both policies as numbered sets of addresses. Peers with the same addresses on both
//! sides share a number, so that rules that say the same are equal; the addresses themselves are
//! put together when they are first needed.

use std::collections::HashMap;

use ipnet::IpNet;

use super::budget::{Budget, DiffError};
use super::ranges::AddressSet;
use super::{Side, lower};
use crate::policy::{GroupIndex, Peer, Policy, PrefixEntry, PrefixList, PrefixListIndex};
use crate::sync::Arc;

/// Number of a set of addresses within one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetId(u32);

/// Where the addresses of a set come from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Prefix(IpNet),
    List(Side, PrefixListIndex),
    Group(Side, GroupIndex),
    /// What the first has and the second has not.
    Minus(SetId, SetId),
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    /// What the other policy's peer of the same name comes to, where that is something else.
    before: Option<SetId>,
    addresses: Option<Arc<AddressSet>>,
}

/// All sets of one comparison.
#[derive(Debug)]
pub(super) struct Peers<'p> {
    policies: [&'p Policy; 2],
    members: [Vec<Vec<u32>>; 2],
    /// The index of the same name in the other policy.
    same_list: [Vec<Option<PrefixListIndex>>; 2],
    same_group: [Vec<Option<GroupIndex>>; 2],
    lists: [Vec<Option<SetId>>; 2],
    groups: [Vec<Option<SetId>>; 2],
    prefixes: HashMap<IpNet, SetId>,
    differences: HashMap<(SetId, SetId), SetId>,
    entries: Vec<Entry>,
}

impl<'p> Peers<'p> {
    pub(super) fn new(policies: [&'p Policy; 2]) -> Self {
        let none = |count: usize| vec![None; count];
        let lists = policies.map(|policy| policy.prefix_lists.iter().map(|list| &*list.name));
        let groups = policies.map(|policy| policy.groups.iter().map(|group| &*group.name));
        Self {
            policies,
            members: policies.map(members),
            same_list: same(lists).map(|list| {
                let indexes = list.into_iter();
                indexes.map(|at| at.map(PrefixListIndex)).collect()
            }),
            same_group: same(groups).map(|list| {
                let indexes = list.into_iter();
                indexes.map(|at| at.map(GroupIndex)).collect()
            }),
            lists: policies.map(|policy| none(policy.prefix_lists.len())),
            groups: policies.map(|policy| none(policy.groups.len())),
            prefixes: HashMap::new(),
            differences: HashMap::new(),
            entries: Vec::new(),
        }
    }

    /// The set of a peer.
    pub(super) fn id(
        &mut self,
        side: Side,
        peer: Peer,
        budget: &mut Budget,
    ) -> Result<SetId, DiffError> {
        match peer {
            Peer::Cidr4(net) => Ok(self.prefix(net.into())),
            Peer::Cidr6(net) => Ok(self.prefix(net.into())),
            Peer::PrefixList(index) => self.list(side, index, budget),
            Peer::Group(index) => self.group(side, index, budget),
        }
    }

    fn prefix(&mut self, net: IpNet) -> SetId {
        if let Some(id) = self.prefixes.get(&net) {
            return *id;
        }
        let id = self.add(Origin::Prefix(net));
        self.prefixes.insert(net, id);
        id
    }

    fn list(
        &mut self,
        side: Side,
        index: PrefixListIndex,
        budget: &mut Budget,
    ) -> Result<SetId, DiffError> {
        let (at, here) = (index.0 as usize, side as usize);
        if let Some(id) = self.lists[here][at] {
            return Ok(id);
        }
        let id = self.add(Origin::List(side, index));
        self.lists[here][at] = Some(id);
        let Some(other) = self.same_list[here][at] else {
            return Ok(id);
        };
        let there = side.other() as usize;
        let list = &self.policies[here].prefix_lists[at];
        let other_list = &self.policies[there].prefix_lists[other.0 as usize];
        budget.work(list.entries.len())?;
        let is_same = Arc::ptr_eq(list, other_list) || has_same_entries(list, other_list);
        let other_id = self.counterpart(id, is_same, Origin::List(side.other(), other), budget)?;
        self.lists[there][other.0 as usize] = Some(other_id);
        Ok(id)
    }

    fn group(
        &mut self,
        side: Side,
        index: GroupIndex,
        budget: &mut Budget,
    ) -> Result<SetId, DiffError> {
        let (at, here) = (index.0 as usize, side as usize);
        if let Some(id) = self.groups[here][at] {
            return Ok(id);
        }
        let id = self.add(Origin::Group(side, index));
        self.groups[here][at] = Some(id);
        let Some(other) = self.same_group[here][at] else {
            return Ok(id);
        };
        let there = side.other() as usize;
        budget.work(self.members[here][at].len())?;
        let is_same = self
            .member_addresses(side, index)
            .eq(self.member_addresses(side.other(), other));
        let other_id = self.counterpart(id, is_same, Origin::Group(side.other(), other), budget)?;
        self.groups[there][other.0 as usize] = Some(other_id);
        Ok(id)
    }

    /// The set of the other policy's peer of the same name: the same one where they have the same
    /// addresses.
    fn counterpart(
        &mut self,
        id: SetId,
        is_same: bool,
        other: Origin,
        budget: &mut Budget,
    ) -> Result<SetId, DiffError> {
        if is_same {
            return Ok(id);
        }
        let other_id = self.add(other);
        // The same in another order, or cut in another way.
        if self.addresses(id, budget)? == self.addresses(other_id, budget)? {
            return Ok(id);
        }
        self.entries[id.0 as usize].before = Some(other_id);
        self.entries[other_id.0 as usize].before = Some(id);
        Ok(other_id)
    }

    fn add(&mut self, origin: Origin) -> SetId {
        // Far fewer than 2³²: each is of a rule, a list or a group, which take far more room.
        let id = SetId(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.entries.push(Entry {
            origin,
            before: None,
            addresses: None,
        });
        id
    }

    /// What the other policy's peer of the same name comes to, if that is something else.
    pub(super) fn before(&self, id: SetId) -> Option<SetId> {
        self.entries[id.0 as usize].before
    }

    /// The set of what the first has and the second has not.
    pub(super) fn difference(&mut self, first: SetId, second: SetId) -> SetId {
        if let Some(id) = self.differences.get(&(first, second)) {
            return *id;
        }
        let id = self.add(Origin::Minus(first, second));
        self.differences.insert((first, second), id);
        id
    }

    /// The addresses of a set.
    pub(super) fn addresses(
        &mut self,
        id: SetId,
        budget: &mut Budget,
    ) -> Result<Arc<AddressSet>, DiffError> {
        let entry = &self.entries[id.0 as usize];
        if let Some(addresses) = &entry.addresses {
            return Ok(Arc::clone(addresses));
        }
        let addresses = match entry.origin {
            Origin::Prefix(net) => AddressSet::new(std::iter::once(net), budget)?,
            Origin::List(side, index) => {
                let list = self.policies[side as usize].prefix_list(index);
                AddressSet::new(list.entries.iter().map(|entry| entry.cidr), budget)?
            }
            Origin::Group(side, index) => {
                AddressSet::new(self.member_addresses(side, index), budget)?
            }
            Origin::Minus(first, second) => {
                let second = self.addresses(second, budget)?;
                self.addresses(first, budget)?.minus(&second, budget)?
            }
        };
        let addresses = Arc::new(addresses);
        self.entries[id.0 as usize].addresses = Some(Arc::clone(&addresses));
        Ok(addresses)
    }

    /// Registered addresses of a group's members, wherever they are.
    fn member_addresses(&self, side: Side, group: GroupIndex) -> impl Iterator<Item = IpNet> {
        let policy = self.policies[side as usize];
        self.members[side as usize][group.0 as usize]
            .iter()
            .flat_map(|index| policy.interfaces[*index as usize].addresses.iter().copied())
    }

    /// A group or prefix list by its name, as rules write it; `None` for what has no name.
    pub(super) fn name(&self, id: SetId) -> Option<String> {
        match self.entries[id.0 as usize].origin {
            Origin::List(side, index) => {
                Some(self.policies[side as usize].peer_text(Peer::PrefixList(index)))
            }
            Origin::Group(side, index) => {
                Some(self.policies[side as usize].peer_text(Peer::Group(index)))
            }
            Origin::Prefix(_) | Origin::Minus(..) => None,
        }
    }

    /// Whether a set is a group or prefix list.
    pub(super) fn is_named(&self, id: SetId) -> bool {
        let origin = self.entries[id.0 as usize].origin;
        matches!(origin, Origin::List(..) | Origin::Group(..))
    }
}

fn has_same_entries(list: &PrefixList, other: &PrefixList) -> bool {
    let cidrs = |list: &'_ PrefixList| -> Vec<IpNet> {
        list.entries
            .iter()
            .map(|entry: &PrefixEntry| entry.cidr)
            .collect()
    };
    list.entries.len() == other.entries.len() && cidrs(list) == cidrs(other)
}

/// Positions of the interfaces of each group.
fn members(policy: &Policy) -> Vec<Vec<u32>> {
    let mut members = vec![Vec::new(); policy.groups.len()];
    for (index, interface) in (0..).zip(&policy.interfaces) {
        for group in &interface.groups {
            members[group.0 as usize].push(index);
        }
    }
    members
}

/// Of each name on each side, where the other has it.
fn same<'n>(names: [impl Iterator<Item = &'n str>; 2]) -> [Vec<Option<u32>>; 2] {
    let [old, new] = names.map(|names| names.map(lower).collect::<Vec<_>>());
    let find = |names: &[String], others: &[String]| {
        let at: HashMap<&str, u32> = others.iter().map(String::as_str).zip(0..).collect();
        names.iter().map(|name| at.get(&**name).copied()).collect()
    };
    [find(&old, &new), find(&new, &old)]
}

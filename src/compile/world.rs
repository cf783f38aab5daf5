//! All that the compiler keeps from one policy to the next, and how a policy that differs changes
//! it. What a change costs depends on what differs, not on the policy.

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::error::{Bounds, CompileError, Part};
use super::group_sets::{GroupSets, SetNo};
use super::groups::{Difference, GroupState, InterfaceState, info};
use super::limits::OwnLimits;
use super::names::{Names, interface_info, rule_info};
use super::numbering::{Numbers, Renumbered};
use super::ownership::{Ownership, link_of};
use super::peers::{GroupNo, ListNo, PeerKey, Peers};
use super::plan::{Before, Plan};
use super::programs::NumberedRule;
use super::slab::Slab;
use crate::policy::{GroupIndex, Interface, Peer, Policy, PrefixList, Rule};
use crate::snapshot::changes::Changes;
use crate::snapshot::owners::Owners;
use crate::snapshot::paged::Paged;
use crate::snapshot::{NO_SET, Snapshot, SnapshotStats};
use crate::sync::Arc;
use crate::types::{Direction, Generation, GroupId, LinkId, PrefixListId, RuleSlot};

const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What the policy compiled last came to.
#[derive(Clone, Debug)]
pub(super) struct World {
    before: Before,
    groups: Slab<GroupState>,
    group_nos: HashMap<GroupId, GroupNo>,
    lists: Slab<Arc<PrefixList>>,
    list_nos: HashMap<PrefixListId, ListNo>,
    /// By slot.
    interfaces: HashMap<u32, InterfaceState>,
    bounds: Bounds,
    peers: Peers,
    ownership: Ownership,
    sets: GroupSets,
    /// By slot of interface.
    set_of: Paged<SetNo>,
    names: Names,
    limits: OwnLimits,
    /// Nothing was compiled yet.
    is_fresh: bool,
}

/// A policy on its way into the world.
pub(super) struct Change<'p> {
    pub(super) policy: &'p Policy,
    pub(super) links: &'p [&'p str],
    pub(super) plan: Plan,
    pub(super) numbered: Renumbered,
    /// Numbers of the policy's groups and lists, by position.
    group_nos: Vec<GroupNo>,
    list_nos: Vec<ListNo>,
    /// Groups that gained or lost members.
    regrouped: HashSet<GroupNo>,
    /// Groups that are named otherwise, or enforced otherwise.
    renamed: HashSet<GroupNo>,
    /// Slots of interfaces to be named anew.
    named: HashSet<u32>,
}

impl World {
    /// Nothing compiled yet.
    pub(super) fn new(bounds: Bounds, links: &[&str]) -> Self {
        Self {
            before: Before {
                links: links.iter().map(|name| (*name).into()).collect(),
                ..Before::default()
            },
            groups: Slab::default(),
            group_nos: HashMap::new(),
            lists: Slab::default(),
            list_nos: HashMap::new(),
            interfaces: HashMap::new(),
            bounds,
            peers: Peers::new(bounds),
            // A policy that names no link has one all the same.
            ownership: Ownership::new(links.len().max(1)),
            sets: GroupSets::default(),
            set_of: Paged::default(),
            names: Names::default(),
            limits: OwnLimits::new(),
            is_fresh: true,
        }
    }

    /// What was compiled last.
    pub(super) fn before(&self) -> &Before {
        &self.before
    }

    /// Finds out what differs and gives it numbers. The world is as it was.
    pub(super) fn plan<'p>(
        &self,
        policy: &'p Policy,
        links: &'p [&'p str],
        numbers: &mut Numbers,
    ) -> Result<Change<'p>, CompileError> {
        let plan = Plan::new(&self.before, policy, self.is_fresh);
        for position in &plan.interfaces.given {
            link_of(&policy.interfaces[*position], links)?;
        }
        let numbered = numbers.assign(&self.before, policy, &plan)?;
        Ok(Change {
            policy,
            links,
            plan,
            numbered,
            group_nos: Vec::new(),
            list_nos: Vec::new(),
            regrouped: HashSet::new(),
            renamed: HashSet::new(),
            named: HashSet::new(),
        })
    }

    /// Puts a change in force and returns the snapshot; `changes` says since when its owners
    /// own. After an error the world is spoiled.
    pub(super) fn apply(
        &mut self,
        mut change: Change<'_>,
        numbers: &Numbers,
        generation: Generation,
        changes: impl FnOnce(&Owners) -> Result<Arc<Changes>, CompileError>,
    ) -> Result<Snapshot, CompileError> {
        self.is_fresh = false;
        self.number_groups(&mut change);
        self.number_lists(&mut change);
        self.change_interfaces(&mut change, numbers)?;
        self.change_rules(&mut change, numbers);
        self.drop_idle_peers();
        for group in self.peers.flush()? {
            self.sets.rules_changed(group, [true; 2]);
        }
        let named = |slot: u32| match self.interfaces.get(&slot) {
            Some(interface) => interface.source.name.clone(),
            None => Box::default(),
        };
        let owners = self.ownership.flush(&named)?;
        let changes = changes(&owners)?;
        self.sets.flush(&self.groups, &self.peers, self.bounds)?;
        self.change_names(&change, numbers);
        self.forget_groups_and_lists(&change);
        let snapshot = self.snapshot(owners, changes, numbers, generation)?;
        self.remember(&change, numbers);
        Ok(snapshot)
    }

    /// Finds the numbers of the policy's groups; new ones have no member and no rule in use yet.
    fn number_groups(&mut self, change: &mut Change<'_>) {
        let known = if change.plan.all {
            0
        } else {
            self.before.groups.len()
        };
        let before = self.before.groups.iter().take(known);
        change.group_nos = before.map(|(_, number)| *number).collect();
        for group in &change.policy.groups[known..] {
            let number = match self.group_nos.get(&group.id) {
                Some(number) => *number,
                None => {
                    let number = self.groups.insert(GroupState::new(group));
                    self.group_nos.insert(group.id.clone(), number);
                    number
                }
            };
            change.group_nos.push(number);
        }
        for position in &change.plan.groups {
            let number = change.group_nos[*position];
            let state = self.groups.at_mut(number);
            state.position = *position;
            let info = info(&change.policy.groups[*position]);
            if *state.info != info {
                state.info = Arc::new(info);
                change.renamed.insert(number);
                self.sets.info_changed(number);
            }
        }
    }

    /// Finds the numbers of the policy's prefix lists, and changes those that are peers.
    fn number_lists(&mut self, change: &mut Change<'_>) {
        let known = if change.plan.all {
            0
        } else {
            self.before.lists.len()
        };
        let before = self.before.lists.iter().take(known);
        change.list_nos = before.map(|(_, number)| *number).collect();
        for list in &change.policy.prefix_lists[known..] {
            let number = match self.list_nos.get(&list.id) {
                Some(number) => *number,
                None => {
                    let number = self.lists.insert(Arc::clone(list));
                    self.list_nos.insert(list.id.clone(), number);
                    number
                }
            };
            change.list_nos.push(number);
        }
        for position in &change.plan.lists {
            let number = change.list_nos[*position];
            let list = &change.policy.prefix_lists[*position];
            let before = std::mem::replace(self.lists.at_mut(number), Arc::clone(list));
            if Arc::ptr_eq(&before, list) {
                continue;
            }
            if let Some(peer) = self.peers.find(PeerKey::List(number)) {
                let differing = Difference::of(&before.entries, &list.entries);
                for entry in differing.inner(&list.entries) {
                    self.peers.add(peer, entry.cidr);
                }
                for entry in differing.inner(&before.entries) {
                    self.peers.remove(peer, entry.cidr);
                }
            }
        }
    }

    /// Interfaces leave and come.
    fn change_interfaces(
        &mut self,
        change: &mut Change<'_>,
        numbers: &Numbers,
    ) -> Result<(), CompileError> {
        let policy = change.policy;
        for (_, position) in &change.plan.interfaces.same {
            let source = &policy.interfaces[*position];
            if let Some(state) = numbers
                .interface(source)
                .and_then(|slot| self.interfaces.get_mut(&slot))
            {
                state.source = Arc::clone(source);
            }
        }
        let mut released = Vec::new();
        let mut coming = Vec::with_capacity(change.plan.interfaces.given.len());
        for position in std::mem::take(&mut change.plan.interfaces.given) {
            let source = &policy.interfaces[position];
            let Some(slot) = numbers.interface(source) else {
                continue;
            };
            let link = link_of(source, change.links)?;
            let groups = group_set(source, &change.group_nos);
            if let Some(state) = self.interfaces.get_mut(&slot) {
                let is_same = state.link == link && *self.sets.groups(state.set) == *groups;
                if is_same && *state.source == **source {
                    state.source = Arc::clone(source);
                    continue;
                }
                released.push(self.leave(slot, change));
            }
            coming.push((slot, source, link, groups));
        }
        for slot in change.numbered.interfaces_leaving.clone() {
            released.push(self.leave(slot, change));
            self.set_of.set(slot as usize, NO_SET, &NO_SET);
            self.names.clear_interface(slot);
        }
        for (slot, source, link, groups) in coming {
            self.come(slot, source, link, groups, change);
        }
        for set in released.into_iter().flatten() {
            self.sets.release(set);
        }
        Ok(())
    }

    /// An interface leaves; its set of groups is to be released.
    fn leave(&mut self, slot: u32, change: &mut Change<'_>) -> Option<SetNo> {
        let state = self.interfaces.remove(&slot)?;
        for group in self.sets.groups(state.set) {
            self.groups.at_mut(*group).members.remove(&slot);
            change.regrouped.insert(*group);
            if let Some(peer) = self.peers.find(PeerKey::Group(*group)) {
                for address in &state.source.addresses {
                    self.peers.remove(peer, *address);
                }
            }
        }
        if let Some(link) = state.link {
            self.ownership.remove(link, &state.source, slot);
        }
        self.limits.leave(slot);
        Some(state.set)
    }

    fn come(
        &mut self,
        slot: u32,
        source: &Arc<Interface>,
        link: Option<LinkId>,
        groups: Box<[GroupNo]>,
        change: &mut Change<'_>,
    ) {
        for group in &groups {
            self.groups.at_mut(*group).members.insert(slot);
            change.regrouped.insert(*group);
            if let Some(peer) = self.peers.find(PeerKey::Group(*group)) {
                for address in &source.addresses {
                    self.peers.add(peer, *address);
                }
            }
        }
        if let Some(link) = link {
            self.ownership.add(link, source, slot);
        }
        self.limits.come(slot, source);
        let set = self.sets.acquire(groups);
        self.set_of.set(slot as usize, set, &NO_SET);
        change.named.insert(slot);
        let state = InterfaceState {
            source: Arc::clone(source),
            link,
            set,
        };
        self.interfaces.insert(slot, state);
    }

    /// Rules come and go, as they change or as their groups come into use or out of it.
    fn change_rules(&mut self, change: &mut Change<'_>, numbers: &Numbers) {
        let listed: Vec<_> = change.plan.groups.clone();
        for (position, differing) in listed.iter().zip(&change.numbered.rules) {
            let number = change.group_nos[*position];
            change.regrouped.remove(&number);
            let differing = if change.plan.all {
                [Difference::default(); 2]
            } else {
                *differing
            };
            self.change_group(change, number, differing, numbers);
        }
        for number in std::mem::take(&mut change.regrouped) {
            let state = self.groups.at(number);
            if state.in_use == state.members.is_empty() {
                self.change_group(change, number, [Difference::default(); 2], numbers);
            }
        }
    }

    /// The rules of a group are those of the policy by now, if it has members; they differ from
    /// those of before where `differing` says, if it had.
    fn change_group(
        &mut self,
        change: &Change<'_>,
        number: GroupNo,
        differing: [Difference; 2],
        numbers: &Numbers,
    ) {
        let state = self.groups.at_mut(number);
        let in_use = !state.members.is_empty();
        let was_in_use = std::mem::replace(&mut state.in_use, in_use);
        let group = change.policy.groups.get(state.position).filter(|_| in_use);
        let mut changed = [in_use != was_in_use; 2];
        for direction in BOTH {
            let rules = group.map_or(&[][..], |group| group.rules(direction));
            let before = std::mem::take(&mut self.groups.at_mut(number).rules[direction as usize]);
            let stays = if in_use && was_in_use {
                differing[direction as usize]
            } else {
                Difference::default()
            };
            let fresh: Vec<NumberedRule> = stays
                .inner(rules)
                .iter()
                .filter_map(|rule| self.numbered_rule(change, number, rule, numbers))
                .collect();
            let gone = stays.front..before.len() - stays.back;
            for rule in &before[gone.clone()] {
                self.peers.release(rule.peer, number);
            }
            let mut after = before;
            if after[gone.clone()] != *fresh {
                changed[direction as usize] = true;
                after.splice(gone, fresh);
            }
            self.groups.at_mut(number).rules[direction as usize] = after;
        }
        if changed != [false; 2] {
            self.sets.rules_changed(number, changed);
        }
    }

    fn numbered_rule(
        &mut self,
        change: &Change<'_>,
        group: GroupNo,
        rule: &Rule,
        numbers: &Numbers,
    ) -> Option<NumberedRule> {
        let key = match rule.peer {
            Peer::Cidr4(net) => PeerKey::Cidr4(net),
            Peer::Cidr6(net) => PeerKey::Cidr6(net),
            Peer::Group(index) => PeerKey::Group(change.group_nos[index.0 as usize]),
            Peer::PrefixList(index) => PeerKey::List(change.list_nos[index.0 as usize]),
        };
        let parts = (&self.groups, &self.interfaces, &self.lists);
        let peer = self
            .peers
            .acquire(key, group, |add| prefixes(key, parts, add));
        Some(NumberedRule {
            service: rule.service,
            peer,
            slot: RuleSlot(numbers.rules.number(&rule.id)?),
        })
    }

    /// Peers that no rule names any more lose their prefixes.
    fn drop_idle_peers(&mut self) {
        let parts = (&self.groups, &self.interfaces, &self.lists);
        for (peer, key) in self.peers.take_idle() {
            let peers: &mut Peers = &mut self.peers;
            let mut remove = |net| peers.remove(peer, net);
            prefixes(key, parts, &mut remove);
        }
    }

    /// Names of what came, or is named otherwise.
    fn change_names(&mut self, change: &Change<'_>, numbers: &Numbers) {
        for slot in &change.numbered.rules_leaving {
            self.names.clear_rule(*slot);
        }
        for (position, differing) in change.plan.groups.iter().zip(&change.numbered.rules) {
            let number = change.group_nos[*position];
            let group = &change.policy.groups[*position];
            let info = &self.groups.at(number).info;
            let everything = change.plan.all || change.renamed.contains(&number);
            for direction in BOTH {
                let differing = if everything {
                    Difference::default()
                } else {
                    differing[direction as usize]
                };
                for rule in differing.inner(group.rules(direction)) {
                    if let Some(slot) = numbers.rules.number(&rule.id) {
                        let named = rule_info(change.policy, info, direction, rule, slot);
                        self.names.set_rule(named);
                    }
                }
            }
        }
        let members = |number: &GroupNo| self.groups.at(*number).members.iter().copied();
        let of_renamed = change.renamed.iter().flat_map(members);
        let slots: HashSet<u32> = change.named.iter().copied().chain(of_renamed).collect();
        for slot in slots {
            if let Some(state) = self.interfaces.get(&slot) {
                let groups = self.sets.infos(state.set);
                let named = interface_info(&state.source, slot, groups, state.link);
                self.names.set_interface(named);
            }
        }
    }

    /// Groups and lists that the policy does not have: no rule names them, and no interface.
    fn forget_groups_and_lists(&mut self, change: &Change<'_>) {
        if !change.plan.all {
            return;
        }
        let kept: HashSet<GroupNo> = change.group_nos.iter().copied().collect();
        let groups = &mut self.groups;
        self.group_nos.retain(|_, number| {
            let stays = kept.contains(number);
            if !stays {
                groups.remove(*number);
            }
            stays
        });
        let kept: HashSet<ListNo> = change.list_nos.iter().copied().collect();
        let lists = &mut self.lists;
        self.list_nos.retain(|_, number| {
            let stays = kept.contains(number);
            if !stays {
                lists.remove(*number);
            }
            stays
        });
    }

    fn snapshot(
        &mut self,
        owners: Owners,
        changes: Arc<Changes>,
        numbers: &Numbers,
        generation: Generation,
    ) -> Result<Snapshot, CompileError> {
        let mut snapshot = Snapshot {
            generation,
            owners,
            changes,
            classes: self.peers.classes().clone(),
            set_of: self.set_of.clone(),
            sets: self.sets.table().clone(),
            interfaces: self.names.interfaces.clone(),
            rules: self.names.rules.clone(),
            limits: self.limits.flush(),
            stats: SnapshotStats::default(),
        };
        let bytes = self.bounds.check([
            (Part::Rules, self.sets.program_bytes()),
            (Part::Addresses, snapshot.table_bytes()),
            (Part::Names, self.names.bytes()),
        ])?;
        snapshot.stats = SnapshotStats {
            rules: numbers.rules.len(),
            groups: self.groups.len(),
            interfaces: numbers.interfaces.len(),
            programs: self.sets.program_count(),
            bytes,
        };
        Ok(snapshot)
    }

    /// The policy is the one of before, from now on.
    fn remember(&mut self, change: &Change<'_>, numbers: &Numbers) {
        let policy = change.policy;
        self.before.remember(policy, change, numbers);
    }
}

impl Change<'_> {
    /// Number of the group at a position.
    pub(super) fn group_no(&self, position: usize) -> GroupNo {
        self.group_nos[position]
    }

    /// Number of the list at a position.
    pub(super) fn list_no(&self, position: usize) -> ListNo {
        self.list_nos[position]
    }
}

/// An interface's groups in the policy's order, each once, so that equal sets are equal.
fn group_set(interface: &Interface, group_nos: &[GroupNo]) -> Box<[GroupNo]> {
    let mut set: Vec<GroupIndex> = interface.groups.clone();
    set.sort_unstable();
    set.dedup();
    set.iter()
        .map(|group| group_nos[group.0 as usize])
        .collect()
}

type Parts<'w> = (
    &'w Slab<GroupState>,
    &'w HashMap<u32, InterfaceState>,
    &'w Slab<Arc<PrefixList>>,
);

/// Visits the prefixes of a peer.
fn prefixes(key: PeerKey, (groups, interfaces, lists): Parts<'_>, visit: &mut dyn FnMut(IpNet)) {
    match key {
        PeerKey::Cidr4(net) => visit(net.into()),
        PeerKey::Cidr6(net) => visit(net.into()),
        PeerKey::Group(group) => {
            let members = groups.at(group).members.iter();
            for interface in members.filter_map(|slot| interfaces.get(slot)) {
                interface
                    .source
                    .addresses
                    .iter()
                    .copied()
                    .for_each(&mut *visit);
            }
        }
        PeerKey::List(list) => {
            let entries = lists.at(list).entries.iter();
            entries.for_each(|entry| visit(entry.cidr));
        }
    }
}

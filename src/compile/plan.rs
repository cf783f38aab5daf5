//! What differs between the policy compiled last and the next one, part by part.
//!
//! Parts that both share by pointer are the same; others are compared. A policy names groups and
//! prefix lists by position: where the positions, or the names that texts show, are not those of
//! before, every rule and interface is looked at again.

use hashbrown::{HashMap, HashSet};

use super::groups::Difference;
use super::numbering::Numbers;
use super::world::Change;
use crate::policy::{Interface, Policy, PrefixList, SecurityGroup};
use crate::sync::Arc;
use crate::types::InterfaceId;

/// A part of a policy and its number in the compiler.
pub(super) type Numbered<T> = (Arc<T>, u32);

/// The policy compiled last, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    pub(super) groups: Vec<Numbered<SecurityGroup>>,
    pub(super) lists: Vec<Numbered<PrefixList>>,
    /// With their slots.
    pub(super) interfaces: Vec<Numbered<Interface>>,
    pub(super) links: Vec<Box<str>>,
}

impl Before {
    /// The policy itself.
    pub(super) fn policy(&self) -> Policy {
        fn parts<T>(numbered: &[Numbered<T>]) -> Vec<Arc<T>> {
            numbered.iter().map(|(part, _)| Arc::clone(part)).collect()
        }
        Policy {
            groups: parts(&self.groups),
            prefix_lists: parts(&self.lists),
            interfaces: parts(&self.interfaces),
        }
    }

    /// The policy of a change that is in force is the one of before from now on.
    pub(super) fn remember(&mut self, policy: &Policy, change: &Change<'_>, numbers: &Numbers) {
        let plan = &change.plan;
        if plan.all {
            self.groups.clear();
            self.lists.clear();
        }
        for (position, group) in policy.groups.iter().enumerate() {
            remember(&mut self.groups, position, group, || {
                change.group_no(position)
            });
        }
        for (position, list) in policy.prefix_lists.iter().enumerate() {
            remember(&mut self.lists, position, list, || change.list_no(position));
        }
        let stretch = plan.interfaces.stretch;
        let fresh = stretch.inner(&policy.interfaces).iter().map(|interface| {
            let slot = numbers.interface(interface).unwrap_or(u32::MAX);
            (Arc::clone(interface), slot)
        });
        let range = stretch.front..self.interfaces.len() - stretch.back;
        self.interfaces.splice(range, fresh);
    }
}

/// Puts a part in its place; one that is there already costs nothing.
fn remember<T>(
    parts: &mut Vec<Numbered<T>>,
    position: usize,
    part: &Arc<T>,
    number: impl FnOnce() -> u32,
) {
    match parts.get_mut(position) {
        Some((same, _)) if Arc::ptr_eq(same, part) => {}
        Some((old, _)) => *old = Arc::clone(part),
        None => parts.push((Arc::clone(part), number())),
    }
}

/// What differs.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Positions or names moved: everything is to be looked at.
    pub(super) all: bool,
    /// Positions of groups that are new or differ.
    pub(super) groups: Vec<usize>,
    /// Positions of lists that are new or differ.
    pub(super) lists: Vec<usize>,
    /// Interfaces that are new or differ.
    pub(super) interfaces: Interfaces,
}

/// Interfaces that leave, come or differ.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// The stretch of positions that differ, before and after.
    pub(super) stretch: Difference,
    /// Positions of before that leave, or come again otherwise.
    pub(super) taken: Vec<usize>,
    /// Positions of after that are new or differ.
    pub(super) given: Vec<usize>,
    /// Positions of before and after with equal content.
    pub(super) same: Vec<(usize, usize)>,
}

impl Plan {
    /// Compares; `fresh`: nothing was compiled before.
    pub(super) fn new(before: &Before, after: &Policy, fresh: bool) -> Self {
        let groups_stand = stand(&before.groups, &after.groups, |a, b| {
            a.id == b.id && a.name == b.name
        });
        let lists_stand = stand(&before.lists, &after.prefix_lists, |a, b| {
            a.id == b.id && a.name == b.name
        });
        if fresh || !groups_stand || !lists_stand {
            return Self {
                all: true,
                groups: (0..after.groups.len()).collect(),
                lists: (0..after.prefix_lists.len()).collect(),
                interfaces: Interfaces::all(before.interfaces.len(), after.interfaces.len()),
            };
        }
        Self {
            all: false,
            groups: differing(&before.groups, &after.groups),
            lists: differing(&before.lists, &after.prefix_lists),
            interfaces: Interfaces::differing(&before.interfaces, &after.interfaces),
        }
    }
}

/// Whether all parts of before are at the same positions, by identity; more may follow.
fn stand<T>(before: &[Numbered<T>], after: &[Arc<T>], same: impl Fn(&T, &T) -> bool) -> bool {
    before.len() <= after.len()
        && before
            .iter()
            .zip(after)
            .all(|((old, _), new)| Arc::ptr_eq(old, new) || same(old, new))
}

fn differing<T: Eq>(before: &[Numbered<T>], after: &[Arc<T>]) -> Vec<usize> {
    let changed = |position: &usize| match before.get(*position) {
        // Pointers first; then content.
        Some((old, _)) => !Arc::ptr_eq(old, &after[*position]) && **old != *after[*position],
        None => true,
    };
    (0..after.len()).filter(changed).collect()
}

impl Interfaces {
    fn all(before: usize, after: usize) -> Self {
        Self {
            stretch: Difference::default(),
            taken: (0..before).collect(),
            given: (0..after).collect(),
            same: Vec::new(),
        }
    }

    fn differing(before: &[Numbered<Interface>], after: &[Arc<Interface>]) -> Self {
        let is_one = |(old, new): &(&Numbered<_>, &Arc<_>)| Arc::ptr_eq(&old.0, new);
        let front = before.iter().zip(after).take_while(is_one).count();
        let rest = before[front..]
            .iter()
            .rev()
            .zip(after[front..].iter().rev());
        let back = rest.take_while(is_one).count();
        let mut found = Self {
            stretch: Difference { front, back },
            ..Self::default()
        };
        let olds = front..before.len() - back;
        let news = front..after.len() - back;
        if olds.len() == news.len() {
            for position in olds {
                found.compare(before, after, Some(position), position);
            }
            return found;
        }
        let ids: HashMap<&InterfaceId, usize> = olds
            .clone()
            .map(|position| (&before[position].0.id, position))
            .collect();
        let mut seen = HashSet::new();
        for position in news {
            let old = ids.get(&after[position].id).copied();
            // One that is named twice is found out when it is given a number.
            let old = old.filter(|old| seen.insert(*old));
            found.compare(before, after, old, position);
        }
        found.taken.extend(olds.filter(|old| !seen.contains(old)));
        found
    }

    fn compare(
        &mut self,
        before: &[Numbered<Interface>],
        after: &[Arc<Interface>],
        old: Option<usize>,
        new: usize,
    ) {
        let is_same = |old: usize| {
            let (old, new) = (&before[old].0, &after[new]);
            Arc::ptr_eq(old, new) || **old == **new
        };
        match old {
            Some(old) if is_same(old) => self.same.push((old, new)),
            old => {
                self.taken.extend(old);
                self.given.push(new);
            }
        }
    }
}

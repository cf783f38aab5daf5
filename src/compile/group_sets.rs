//! Sets of groups that interfaces have, and the programs that they are made of.
//!
//! A set is cut into *parts*, each a few neighboring groups in the order of the policy, with one
//! program for each direction. Small groups are merged, so that most sets have one part; a group of
//! many rules is a part of its own, which all sets with it share. So a change to a group makes
//! anew what is small, and no set costs another copy of what is large.

use hashbrown::{HashMap, HashSet};

use super::error::{self, Bounds, CompileError};
use super::groups::GroupState;
use super::peers::{GroupNo, Peers};
use super::programs;
use super::slab::Slab;
use crate::snapshot::GroupInfo;
use crate::snapshot::paged::Paged;
use crate::snapshot::program::{OpenTransports, Program};
use crate::snapshot::sets::{GroupSet, PARTS_MAX, Part};
use crate::sync::Arc;
use crate::types::Direction;

/// Rules of the groups that are merged into one part, both directions, while that makes no more
/// than [`PARTS_MAX`] parts.
const PART_RULES: usize = 128;

/// Number of a set while some interface has it.
pub(super) type SetNo = u32;
type PartNo = u32;
/// Groups in the order of the policy.
type Groups = Box<[GroupNo]>;

#[derive(Clone, Debug)]
struct SetState {
    groups: Groups,
    /// How many interfaces have it.
    users: usize,
    parts: Vec<PartNo>,
    infos: Arc<[Arc<GroupInfo>]>,
}

#[derive(Clone, Debug)]
struct PartState {
    groups: Groups,
    sets: HashSet<SetNo>,
    programs: Part,
    open: [OpenTransports; 2],
}

/// Where a group is in.
#[derive(Clone, Debug, Default)]
struct Uses {
    sets: HashSet<SetNo>,
    parts: HashSet<PartNo>,
}

/// All sets and parts.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupSets {
    sets: Slab<SetState>,
    set_nos: HashMap<Groups, SetNo>,
    parts: Slab<PartState>,
    part_nos: HashMap<Groups, PartNo>,
    uses: HashMap<GroupNo, Uses>,
    /// As lookups read them.
    table: Paged<GroupSet>,
    program_bytes: usize,
    /// Sets that may be cut otherwise than before, or have no user.
    unsettled: HashSet<SetNo>,
    /// Parts whose programs are to be made anew, by direction.
    stale: HashMap<PartNo, [bool; 2]>,
    /// Sets that are to be written to the table.
    unwritten: HashSet<SetNo>,
}

impl GroupSets {
    /// An interface has a set of groups, which are in the order of the policy.
    pub(super) fn acquire(&mut self, groups: Groups) -> SetNo {
        if let Some(number) = self.set_nos.get(&groups) {
            self.sets.at_mut(*number).users += 1;
            return *number;
        }
        let number = self.sets.insert(SetState {
            groups: groups.clone(),
            users: 1,
            parts: Vec::new(),
            infos: Arc::from([]),
        });
        for group in &groups {
            self.uses.entry(*group).or_default().sets.insert(number);
        }
        self.set_nos.insert(groups, number);
        self.unsettled.insert(number);
        number
    }

    /// An interface has it no more.
    pub(super) fn release(&mut self, number: SetNo) {
        let set = self.sets.at_mut(number);
        set.users -= 1;
        if set.users == 0 {
            self.unsettled.insert(number);
        }
    }

    /// The groups of a set.
    pub(super) fn groups(&self, number: SetNo) -> &[GroupNo] {
        &self.sets.at(number).groups
    }

    /// Names of the groups of a set; once [`GroupSets::flush`] has settled it.
    pub(super) fn infos(&self, number: SetNo) -> Arc<[Arc<GroupInfo>]> {
        Arc::clone(&self.sets.at(number).infos)
    }

    /// The rules of a group changed in some directions.
    pub(super) fn rules_changed(&mut self, group: GroupNo, directions: [bool; 2]) {
        let Some(uses) = self.uses.get(&group) else {
            return;
        };
        self.unsettled.extend(&uses.sets);
        for part in &uses.parts {
            let stale = self.stale.entry(*part).or_default();
            for (stale, changed) in stale.iter_mut().zip(directions) {
                *stale |= changed;
            }
        }
    }

    /// The name of a group changed, or whether it is enforced.
    pub(super) fn info_changed(&mut self, group: GroupNo) {
        if let Some(uses) = self.uses.get(&group) {
            self.unsettled.extend(&uses.sets);
            self.unwritten.extend(&uses.sets);
        }
    }

    /// Makes anew what changed.
    pub(super) fn flush(
        &mut self,
        groups: &Slab<GroupState>,
        peers: &Peers,
        bounds: Bounds,
    ) -> Result<(), CompileError> {
        let mut loose = Vec::new();
        for number in std::mem::take(&mut self.unsettled) {
            if self.sets.at(number).users == 0 {
                self.forget(number, &mut loose);
            } else {
                self.settle(number, groups, &mut loose);
            }
        }
        for part in loose {
            self.drop_if_unused(part);
        }
        for (number, directions) in std::mem::take(&mut self.stale) {
            if self.parts.find(number).is_some() {
                self.remake(number, directions, groups, peers, bounds)?;
            }
        }
        for number in std::mem::take(&mut self.unwritten) {
            if self.sets.find(number).is_some() {
                self.write(number);
            }
        }
        Ok(())
    }

    /// Cuts a set into parts.
    fn settle(&mut self, number: SetNo, groups: &Slab<GroupState>, loose: &mut Vec<PartNo>) {
        let set = self.sets.at(number);
        let is_new = set.parts.is_empty();
        let infos = set.groups.iter().map(|group| &groups.at(*group).info);
        let infos_are_same = infos.clone().eq(set.infos.iter());
        let infos: Option<Arc<[_]>> = (!infos_are_same).then(|| infos.cloned().collect());
        let wanted = cut(&set.groups, |group| groups.at(group).rule_count());
        let is_same = set.parts.len() == wanted.len()
            && set
                .parts
                .iter()
                .zip(&wanted)
                .all(|(part, wanted)| self.parts.at(*part).groups == *wanted);
        if let Some(infos) = infos {
            self.sets.at_mut(number).infos = infos;
        }
        if is_same {
            return;
        }
        let parts: Vec<_> = wanted
            .into_iter()
            .map(|wanted| self.part(wanted, number))
            .collect();
        let before = std::mem::replace(&mut self.sets.at_mut(number).parts, parts.clone());
        for part in before.into_iter().filter(|part| !parts.contains(part)) {
            self.parts.at_mut(part).sets.remove(&number);
            loose.push(part);
        }
        debug_assert!(is_new || !parts.is_empty(), "a set has a part");
        self.unwritten.insert(number);
    }

    /// The part of these groups, which a set needs.
    fn part(&mut self, groups: Groups, set: SetNo) -> PartNo {
        let number = match self.part_nos.get(&groups) {
            Some(number) => *number,
            None => {
                let nothing = || Program::new(Vec::new());
                let number = self.parts.insert(PartState {
                    groups: groups.clone(),
                    sets: HashSet::new(),
                    programs: [nothing(), nothing()],
                    open: [OpenTransports::default(); 2],
                });
                for group in &groups {
                    self.uses.entry(*group).or_default().parts.insert(number);
                }
                self.part_nos.insert(groups, number);
                self.stale.insert(number, [true; 2]);
                number
            }
        };
        self.parts.at_mut(number).sets.insert(set);
        number
    }

    fn forget(&mut self, number: SetNo, loose: &mut Vec<PartNo>) {
        let Some(set) = self.sets.remove(number) else {
            return;
        };
        self.set_nos.remove(&set.groups);
        for group in &set.groups {
            if let Some(uses) = self.uses.get_mut(group) {
                uses.sets.remove(&number);
            }
        }
        for part in set.parts {
            self.parts.at_mut(part).sets.remove(&number);
            loose.push(part);
        }
        self.table.set(number as usize, nothing(), &nothing());
    }

    fn drop_if_unused(&mut self, number: PartNo) {
        let is_unused = |part: &PartState| part.sets.is_empty();
        if !self.parts.find(number).is_some_and(is_unused) {
            return;
        }
        let Some(part) = self.parts.remove(number) else {
            return;
        };
        self.part_nos.remove(&part.groups);
        self.program_bytes -= bytes(&part.programs);
        // Its number may be another part's by the next change.
        self.stale.remove(&number);
        for group in &part.groups {
            if let Some(uses) = self.uses.get_mut(group) {
                uses.parts.remove(&number);
                if uses.parts.is_empty() && uses.sets.is_empty() {
                    self.uses.remove(group);
                }
            }
        }
    }

    /// Compiles the programs of a part.
    fn remake(
        &mut self,
        number: PartNo,
        directions: [bool; 2],
        groups: &Slab<GroupState>,
        peers: &Peers,
        bounds: Bounds,
    ) -> Result<(), CompileError> {
        let part = self.parts.at_mut(number);
        self.program_bytes -= bytes(&part.programs);
        for direction in [Direction::Ingress, Direction::Egress] {
            if !directions[direction as usize] {
                continue;
            }
            let of_group = |group: &GroupNo| &*groups.at(*group).rules[direction as usize];
            let merged;
            let rules = match &*part.groups {
                [only] => of_group(only),
                several => {
                    merged = several
                        .iter()
                        .flat_map(of_group)
                        .copied()
                        .collect::<Vec<_>>();
                    &merged
                }
            };
            let room = bounds.bytes.saturating_sub(self.program_bytes);
            let built = programs::build(rules, peers, room);
            let (program, open) = built.ok_or(bounds.exceeded(error::Part::Rules))?;
            part.programs[direction as usize] = program;
            part.open[direction as usize] = open;
        }
        self.program_bytes += bytes(&part.programs);
        self.unwritten.extend(&part.sets);
        Ok(())
    }

    fn write(&mut self, number: SetNo) {
        let set = self.sets.at(number);
        let parts = set.parts.iter().map(|part| self.parts.at(*part));
        let mut written = nothing();
        let mut more = Vec::new();
        for (position, part) in parts.enumerate() {
            for (open, of_part) in written.open.iter_mut().zip(part.open) {
                open.0 |= of_part.0;
            }
            match position {
                0 => written.first = part.programs.clone(),
                _ => more.push(part.programs.clone()),
            }
        }
        written.more = (!more.is_empty()).then(|| more.into());
        written.audit = set.infos.iter().any(|group| !group.enforce);
        self.table.set(number as usize, written, &nothing());
    }

    /// Sets as lookups read them.
    pub(super) fn table(&self) -> &Paged<GroupSet> {
        &self.table
    }

    /// How many programs there are.
    pub(super) fn program_count(&self) -> usize {
        self.parts.len() * 2
    }

    /// Bytes of all programs.
    pub(super) fn program_bytes(&self) -> usize {
        self.program_bytes
    }
}

/// A set that allows nothing.
fn nothing() -> GroupSet {
    let program = Program::new(Vec::new());
    GroupSet {
        first: [program.clone(), program],
        more: None,
        open: [OpenTransports::default(); 2],
        audit: false,
    }
}

fn bytes(programs: &Part) -> usize {
    programs.iter().map(Program::bytes).sum()
}

/// Neighboring groups together while they have few rules; with more than [`PARTS_MAX`] parts, more
/// rules are few.
fn cut(groups: &[GroupNo], rules: impl Fn(GroupNo) -> usize) -> Vec<Groups> {
    let mut few = PART_RULES;
    loop {
        let mut parts: Vec<Vec<GroupNo>> = Vec::new();
        let mut in_last = 0;
        for group in groups {
            let count = rules(*group);
            match parts.last_mut() {
                Some(last) if in_last + count <= few => {
                    last.push(*group);
                    in_last += count;
                }
                _ => {
                    parts.push(vec![*group]);
                    in_last = count;
                }
            }
        }
        if parts.len() <= PARTS_MAX {
            return parts.into_iter().map(Vec::into_boxed_slice).collect();
        }
        few *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(rules: &[usize]) -> Vec<usize> {
        let groups: Vec<GroupNo> = (0..).take(rules.len()).collect();
        let parts = cut(&groups, |group| rules[group as usize]);
        assert_eq!(parts.concat(), groups);
        parts.iter().map(|part| part.len()).collect()
    }

    #[test]
    fn small_neighbors_are_merged_and_large_groups_stand_alone() {
        assert_eq!(lengths(&[5]), [1]);
        assert_eq!(lengths(&[5, 60, 63]), [3]);
        assert_eq!(lengths(&[5, 60, 64]), [2, 1]);
        assert_eq!(lengths(&[5, 100_000, 5, 5]), [1, 1, 2]);
    }

    #[test]
    fn no_set_has_more_parts_than_a_lookup_asks() {
        for count in [8, 9, 100, 5000] {
            assert!(lengths(&vec![1000; count]).len() <= PARTS_MAX);
        }
    }
}

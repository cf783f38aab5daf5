//! What changed since the policy before: which addresses have another owner, or none, and since
//! when the others have had theirs.
//!
//! A VLAN has a table of its own only where its addresses changed hands at other times than those
//! of other frames, so that thousands of VLANs cost nothing.

use std::collections::BTreeSet;

use super::CompileError;
use crate::snapshot::changes::{AS_ANYWHERE, ChangeTable, Changes, FORGOTTEN, LinkChanges};
use crate::snapshot::interval::{INTERVALS_MAX, IntervalBuilder, IntervalMap, Point};
use crate::snapshot::owners::{LinkOwners, Owner, OwnerTable, Owners};
use crate::sync::Arc;
use crate::types::{Generation, InterfaceSlot};

/// The policy that was compiled last.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) owners: Owners,
    /// Slots of the interfaces that `owners` names.
    pub(super) slots: Arc<[InterfaceSlot]>,
    pub(super) changes: Arc<Changes>,
}

impl History {
    /// The changes up to a policy with these owners, which becomes `generation`. Those up to
    /// `swept` are forgotten: no connection is left that was judged before them and lost by them.
    pub(super) fn next(
        &self,
        owners: &Owners,
        slots: &[InterfaceSlot],
        generation: Generation,
        swept: Generation,
    ) -> Result<Changes, CompileError> {
        let nobody = LinkOwners::nobody();
        let unchanged = LinkChanges {
            any_vlan: ChangeTable::uniform(FORGOTTEN),
            vlans: Box::default(),
        };
        let known = self.changes.generations.iter().skip(1);
        let kept: Vec<Generation> = known.filter(|known| **known > swept).copied().collect();
        let forgotten = self.changes.generations.len().saturating_sub(1) - kept.len();
        let mut step = Step {
            old_slots: &self.slots,
            new_slots: slots,
            // Fewer than generations that no worker has caught up with.
            forgotten: u32::try_from(forgotten).unwrap_or(u32::MAX),
            now: u32::try_from(kept.len() + 1).unwrap_or(AS_ANYWHERE - 1),
            is_changed: false,
        };
        let links = (0..owners.links.len()).map(|link| {
            let old = self.owners.links.get(link).unwrap_or(&nobody);
            let history = self.changes.links.get(link).unwrap_or(&unchanged);
            step.link(old, &owners.links[link], history)
        });
        let links = links.collect::<Result<_, _>>()?;
        let last = step.is_changed.then_some(generation);
        let generations = [Generation::default()].into_iter().chain(kept).chain(last);
        Ok(Changes {
            generations: generations.collect(),
            links,
        })
    }
}

/// One compilation's comparison with the one before.
struct Step<'a> {
    old_slots: &'a [InterfaceSlot],
    new_slots: &'a [InterfaceSlot],
    /// How many generations after the first position are forgotten.
    forgotten: u32,
    /// Position of this generation.
    now: u32,
    /// Whether this generation changed anything.
    is_changed: bool,
}

/// A table before and after.
struct Pair<'a, K> {
    old: &'a IntervalMap<K>,
    new: &'a IntervalMap<K>,
}

/// Addresses from the first to the last, and what they get.
type Piece<K> = (K, K, u32);

impl Step<'_> {
    fn link(
        &mut self,
        old: &LinkOwners,
        new: &LinkOwners,
        history: &LinkChanges,
    ) -> Result<LinkChanges, CompileError> {
        let nobody = OwnerTable::nobody();
        let any = &history.any_vlan;
        let v4 = Pair::new(&old.any_vlan.v4, &new.any_vlan.v4);
        let v6 = Pair::new(&old.any_vlan.v6, &new.any_vlan.v6);
        let any_vlan = ChangeTable {
            v4: self.any(&v4, &any.v4)?,
            v6: self.any(&v6, &any.v6)?,
        };
        let remembered = history.vlans.iter().map(|(vlan, _)| *vlan);
        let named = old.named_vlans().chain(new.named_vlans());
        let ids: BTreeSet<u16> = remembered.chain(named).collect();
        let mut vlans = Vec::new();
        let as_anywhere = ChangeTable::uniform(AS_ANYWHERE);
        for vlan in ids {
            let old_own = old.table_of(vlan).unwrap_or(&nobody);
            let new_own = new.table_of(vlan).unwrap_or(&nobody);
            let own = history.vlan(Some(vlan)).unwrap_or(&as_anywhere);
            let own_v4 = Pair::new(&old_own.v4, &new_own.v4);
            let own_v6 = Pair::new(&old_own.v6, &new_own.v6);
            let table = ChangeTable {
                v4: self.vlan(&v4, &own_v4, [&any.v4, &own.v4, &any_vlan.v4])?,
                v6: self.vlan(&v6, &own_v6, [&any.v6, &own.v6, &any_vlan.v6])?,
            };
            let is_own = !is_uniform(&table.v4, AS_ANYWHERE) || !is_uniform(&table.v6, AS_ANYWHERE);
            if is_own {
                vlans.push((vlan, table));
            }
        }
        Ok(LinkChanges {
            any_vlan,
            vlans: vlans.into(),
        })
    }

    /// Changes in frames that no VLAN's interface owns.
    fn any<K: Point>(
        &mut self,
        owners: &Pair<'_, K>,
        history: &IntervalMap<K>,
    ) -> Result<IntervalMap<K>, CompileError> {
        let mut pieces = Vec::new();
        owners.walk(K::FIRST, K::LAST, |first, last, old, new| {
            if self.is_other(Owner(old), Owner(new)) {
                pieces.push((first, last, self.now));
            }
        });
        self.is_changed |= !pieces.is_empty();
        let keep = |value| self.carried(value);
        overlay(history, &pieces, keep, |_, _, value| value)
    }

    /// Changes in frames of a VLAN. `histories`: of any frames before, of this VLAN's before, of
    /// any frames by now.
    fn vlan<K: Point>(
        &mut self,
        any: &Pair<'_, K>,
        own: &Pair<'_, K>,
        histories: [&IntervalMap<K>; 3],
    ) -> Result<IntervalMap<K>, CompileError> {
        let [before, own_before, by_now] = histories;
        let mut pieces = Vec::new();
        let mut is_changed = false;
        for (from, to) in self.touched(any, own) {
            let mut first = Some(from);
            // Bound: the intervals of all tables.
            while let Some(at) = first.filter(|at| *at <= to) {
                let maps = [any.old, any.new, own.old, own.new, before, own_before];
                let (last, values) = at_all(maps, at);
                let last = last.min(to);
                let [any_old, any_new, own_old, own_new, since, own_since] = values;
                let is_any_other = self.is_other(Owner(any_old), Owner(any_new));
                let old = Owner::in_vlan(Owner(any_old), Owner(own_old));
                let new = Owner::in_vlan(Owner(any_new), Owner(own_new));
                let is_other = self.is_other(old, new);
                is_changed |= is_other;
                if own_since != AS_ANYWHERE || is_other != is_any_other {
                    let known = [own_since, since];
                    let known = known.into_iter().find(|value| *value != AS_ANYWHERE);
                    let value = match is_other {
                        true => self.now,
                        false => self.carried(known.unwrap_or(FORGOTTEN)),
                    };
                    pieces.push((at, last, value));
                }
                first = last.after();
            }
        }
        self.is_changed |= is_changed;
        overlay(
            own_before,
            &pieces,
            |value| self.carried(value),
            |first, last, value| match by_now.interval(first) {
                Some((end, same)) if same == value && end >= last => AS_ANYWHERE,
                _ => value,
            },
        )
    }

    /// Where a VLAN's owners may have changed, ascending and apart.
    fn touched<K: Point>(&self, any: &Pair<'_, K>, own: &Pair<'_, K>) -> Vec<(K, K)> {
        let mut ranges = Vec::new();
        for owners in [any, own] {
            owners.walk(K::FIRST, K::LAST, |first, last, old, new| {
                let (old, new) = (Owner(old), Owner(new));
                if old.rank() != new.rank() || self.is_other(old, new) {
                    ranges.push((first, last));
                }
            });
        }
        ranges.sort_unstable();
        let mut apart: Vec<(K, K)> = Vec::new();
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => apart.push((first, last)),
            }
        }
        apart
    }

    fn is_other(&self, old: Owner, new: Owner) -> bool {
        let slot = |owner: Owner, slots: &[InterfaceSlot]| {
            let interface = owner.interface()?;
            slots.get(interface.0 as usize).copied()
        };
        slot(old, self.old_slots) != slot(new, self.new_slots)
    }

    /// Where a position of the generations before is by now.
    fn carried(&self, value: u32) -> u32 {
        match value {
            AS_ANYWHERE => AS_ANYWHERE,
            known => known.saturating_sub(self.forgotten),
        }
    }
}

impl<'a, K: Point> Pair<'a, K> {
    fn new(old: &'a IntervalMap<K>, new: &'a IntervalMap<K>) -> Self {
        Self { old, new }
    }

    /// Visits the intervals of both: from, to, value before, value after.
    fn walk(&self, from: K, to: K, mut visit: impl FnMut(K, K, u32, u32)) {
        let mut first = Some(from);
        // Bound: the intervals of both tables.
        while let Some(at) = first.filter(|at| *at <= to) {
            let (last, [old, new]) = at_all([self.old, self.new], at);
            let last = last.min(to);
            visit(at, last, old, new);
            first = last.after();
        }
    }
}

/// The values of several tables at a point, and the last point up to which they stay.
fn at_all<K: Point, const N: usize>(maps: [&IntervalMap<K>; N], point: K) -> (K, [u32; N]) {
    let found = maps.map(|map| map.interval(point).unwrap_or((K::LAST, 0)));
    let ends = found.iter().map(|(last, _)| *last);
    let last = ends.fold(K::LAST, Ord::min);
    (last, found.map(|(_, value)| value))
}

fn is_uniform<K: Point>(map: &IntervalMap<K>, value: u32) -> bool {
    map.interval(K::FIRST) == Some((K::LAST, value))
}

/// A table with the `pieces`, which are ascending and apart, laid over it; `keep` says what
/// becomes of the rest, `finish` has the last word on each interval.
fn overlay<K: Point>(
    map: &IntervalMap<K>,
    pieces: &[Piece<K>],
    keep: impl Fn(u32) -> u32,
    finish: impl Fn(K, K, u32) -> u32,
) -> Result<IntervalMap<K>, CompileError> {
    let mut builder = IntervalBuilder::new();
    let mut pieces = pieces.iter().peekable();
    let mut first = Some(K::FIRST);
    // Bound: the intervals of the table, and the pieces.
    while let Some(at) = first {
        let (last, value) = match pieces.peek() {
            Some((from, to, value)) if *from <= at => {
                let piece = (*to, *value);
                pieces.next();
                piece
            }
            next => {
                let (last, value) = map.interval(at).unwrap_or((K::LAST, FORGOTTEN));
                let until = next.and_then(|(from, ..)| from.before());
                (until.map_or(last, |until| until.min(last)), keep(value))
            }
        };
        builder.extend_to(last, finish(at, last, value));
        first = last.after();
    }
    builder.finish().ok_or(CompileError::TooManyIntervals {
        limit: INTERVALS_MAX,
    })
}

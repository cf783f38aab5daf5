//! What each interface has of the table: its flows, and how fast it may open new ones.
//!
//! At its limit its own flows give way to its new ones, in the order of give_way.rs: else whoever
//! can have it send or receive SYNs could shut it out with as many as its share. They are found as
//! fast as those of the table: each interface has a list for each class, the oldest first.
//!
//! The table of interfaces has a fixed size. When it is full of interfaces that have flows or have
//! opened some within the last second, one more interface gets no new flow: without a count its
//! limit could not be kept.

use super::config::PerInterface;
use super::give_way::{Room, Yields};
use super::rings::{self, Rings};
use crate::clock::Tick;
use crate::types::InterfaceSlot;

/// Flows for each interface that can be counted.
const FLOWS_PER_INTERFACE: u32 = 16;
/// Interfaces that can be counted, at least and at most.
const INTERFACES_MIN: u32 = 1 << 10;
const INTERFACES_MAX: u32 = 1 << 17;

/// Most cells that one look reads; half full, more than a handful is unheard of.
const PROBES_MAX: usize = 256;

/// Cells that a new interface looks through for one that can be forgotten.
const FORGET_MAX: usize = 32;

/// Interfaces with a limit of their own.
const OWN_LIMITS_MAX: usize = 1 << 10;

/// Marks a free cell.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Share {
    interface: u32,
    flows: u32,
    /// Up to when the new flows so far use up the rate, in nanoseconds.
    spent_until: u64,
    /// Its flows that give way, in the order of [`Yields`]: the first of each class, and how many.
    firsts: [u32; Yields::ALL.len()],
    counts: [u32; Yields::ALL.len()],
}

const _: () = assert!(size_of::<Share>() == 48);

impl Share {
    const FREE: Self = Self {
        interface: NOBODY,
        flows: 0,
        spent_until: 0,
        firsts: [rings::NOBODY; Yields::ALL.len()],
        counts: [0; Yields::ALL.len()],
    };

    /// Whether nothing is left to remember.
    fn is_idle(&self, now: Tick) -> bool {
        self.flows == 0 && self.spent_until <= now.0 && self.counts == Self::FREE.counts
    }
}

/// The interface has all that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverLimit {
    /// All the new flows of this second, or it cannot be counted.
    Rate,
    /// All the flows.
    Flows,
}

/// The interfaces of a shard and their limits.
#[derive(Debug)]
pub(super) struct Shares {
    limit: PerInterface,
    /// Limits of single interfaces, sorted.
    own: Vec<(u32, PerInterface)>,
    /// A power of two of them, or none if nothing is limited.
    cells: Vec<Share>,
    /// Lists through the slots of flows that give way.
    rings: Rings,
    /// Interfaces in `cells`, and how many there may be.
    len: usize,
    len_max: usize,
    /// Where the next interface to forget is looked for.
    hand: usize,
}

impl Shares {
    pub(super) fn new(limit: PerInterface, max_flows: u32) -> Self {
        let is_counting = limit != PerInterface::default();
        let interfaces = (max_flows / FLOWS_PER_INTERFACE).clamp(INTERFACES_MIN, INTERFACES_MAX);
        let cells = if is_counting {
            interfaces.next_power_of_two().saturating_mul(2) as usize
        } else {
            0
        };
        Self {
            limit,
            own: Vec::with_capacity(if is_counting { OWN_LIMITS_MAX } else { 0 }),
            cells: vec![Share::FREE; cells],
            rings: Rings::new(if is_counting { max_flows as usize } else { 0 }),
            len: 0,
            len_max: cells / 2,
            hand: 0,
        }
    }

    /// Gives one interface a limit of its own, or takes it away; `false` if there are too many, or
    /// if nothing is counted.
    pub(super) fn set_own(&mut self, interface: u32, limit: Option<PerInterface>) -> bool {
        let found = self.own.binary_search_by_key(&interface, |(slot, _)| *slot);
        match (found, limit) {
            (Ok(at), None) => drop(self.own.remove(at)),
            (Err(_), None) => {}
            (Ok(at), Some(limit)) => {
                if let Some((_, own)) = self.own.get_mut(at) {
                    *own = limit;
                }
            }
            (Err(at), Some(limit)) => {
                if self.cells.is_empty() || self.own.len() >= OWN_LIMITS_MAX {
                    return false;
                }
                self.own.insert(at, (interface, limit));
            }
        }
        true
    }

    /// Counts a new flow of an interface, if it may have one more.
    #[inline]
    pub(super) fn admit(&mut self, interface: InterfaceSlot, now: Tick) -> Result<(), OverLimit> {
        if self.cells.is_empty() {
            return Ok(());
        }
        self.admit_counted(interface.0, now)
    }

    /// Whether flows are counted by interface.
    #[inline]
    pub(super) fn is_counting(&self) -> bool {
        !self.cells.is_empty()
    }

    /// Takes a flow of an interface back.
    #[inline]
    pub(super) fn release(&mut self, interface: InterfaceSlot) {
        if let Some(share) = self.share(interface.0) {
            share.flows = share.flows.saturating_sub(1);
        }
    }

    /// Takes back what `admit` gave for a flow that was not opened after all.
    pub(super) fn refund(&mut self, interface: InterfaceSlot) {
        let step = step(self.limit_of(interface.0));
        if let Some(share) = self.share(interface.0) {
            share.flows = share.flows.saturating_sub(1);
            share.spent_until = share.spent_until.saturating_sub(step);
        }
    }

    /// Counts a flow that is there in any case: over the limit too, if need be.
    pub(super) fn force(&mut self, interface: InterfaceSlot) {
        if let Some(share) = self.share(interface.0) {
            share.flows = share.flows.saturating_add(1);
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let own = size_of::<(u32, PerInterface)>().saturating_mul(self.own.capacity());
        let cells = size_of::<Share>().saturating_mul(self.cells.len());
        own.saturating_add(cells).saturating_add(self.rings.bytes())
    }

    /// Moves a flow of an interface from one class to another; `None` is none.
    pub(super) fn move_to(
        &mut self,
        interface: u32,
        slot: u32,
        from: Option<Yields>,
        to: Option<Yields>,
    ) {
        let Some(at) = self.find(interface) else {
            return;
        };
        let Self { cells, rings, .. } = self;
        let share = cells.get_mut(at).filter(|s| s.interface == interface);
        let Some(share) = share.filter(|_| interface != NOBODY) else {
            debug_assert!(false, "an interface with flows is counted");
            return;
        };
        if let Some(class) = from
            && let Some(first) = share.firsts.get_mut(class as usize)
            && let Some(count) = share.counts.get_mut(class as usize)
        {
            rings.remove(first, slot);
            *count = count.saturating_sub(1);
        }
        if let Some(class) = to
            && let Some(first) = share.firsts.get_mut(class as usize)
            && let Some(count) = share.counts.get_mut(class as usize)
        {
            rings.push(first, slot);
            *count = count.saturating_add(1);
        }
    }

    /// The next flow of an interface to give way to another one of it, by the rules of the table.
    pub(super) fn next(
        &mut self,
        interface: InterfaceSlot,
        room: Room,
        is_young: impl Fn(u32) -> bool,
    ) -> Option<(u32, Yields)> {
        let share = self.share(interface.0)?;
        let [untracked, tombstone, unanswered, half_open] = share.firsts;
        let [.., unanswered_count, half_open_count] = share.counts;
        let is_there = |slot: u32| slot != rings::NOBODY;
        if is_there(untracked) {
            Some((untracked, Yields::Untracked))
        } else if room == Room::Spare {
            None
        } else if is_there(tombstone) {
            Some((tombstone, Yields::Tombstone))
        } else if is_there(unanswered)
            && (unanswered_count >= half_open_count || !is_young(unanswered))
        {
            Some((unanswered, Yields::Unanswered))
        } else {
            is_there(half_open).then_some((half_open, Yields::HalfOpen))
        }
    }

    #[inline(never)]
    fn admit_counted(&mut self, interface: u32, now: Tick) -> Result<(), OverLimit> {
        let limit = self.limit_of(interface);
        if self.share(interface).is_none() {
            self.add(interface, now).ok_or(OverLimit::Rate)?;
        }
        let share = self.share(interface).ok_or(OverLimit::Rate)?;
        let is_full = limit.max_flows != 0 && share.flows >= limit.max_flows;
        if limit.new_per_second != 0 {
            // A bucket of one second's worth, kept as the time at which it is full again.
            let step = step(limit);
            let spent_until = share.spent_until.max(now.0).saturating_add(step);
            let burst = step.saturating_mul(u64::from(limit.new_per_second));
            if spent_until.saturating_sub(now.0) > burst {
                return Err(OverLimit::Rate);
            }
            share.spent_until = if is_full {
                share.spent_until
            } else {
                spent_until
            };
        }
        if is_full {
            return Err(OverLimit::Flows);
        }
        share.flows = share.flows.saturating_add(1);
        Ok(())
    }

    fn limit_of(&self, interface: u32) -> PerInterface {
        let found = self.own.binary_search_by_key(&interface, |(slot, _)| *slot);
        let own = found.ok().and_then(|at| self.own.get(at));
        own.map_or(self.limit, |(_, limit)| *limit)
    }

    fn share(&mut self, interface: u32) -> Option<&mut Share> {
        let at = self.find(interface)?;
        let share = self.cells.get_mut(at)?;
        (share.interface == interface && interface != NOBODY).then_some(share)
    }

    /// The cell of an interface, or the free one in which it would be.
    fn find(&self, interface: u32) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let home = self.home(interface);
        (0..PROBES_MAX)
            .map(|step| home.wrapping_add(step) & mask)
            .find(|at| {
                let share = self.cells.get(*at);
                share.is_some_and(|s| s.interface == interface || s.interface == NOBODY)
            })
    }

    /// Fibonacci hashing: interface numbers run on, and are nobody's choice.
    fn home(&self, interface: u32) -> usize {
        let hash = interface.wrapping_mul(0x9e37_79b9);
        let shift = self.cells.len().trailing_zeros();
        (u64::from(hash).wrapping_shl(shift) >> 32) as usize
    }

    fn add(&mut self, interface: u32, now: Tick) -> Option<()> {
        if interface == NOBODY || self.len >= self.len_max && !self.forget(now) {
            return None;
        }
        let at = self.find(interface)?;
        *self.cells.get_mut(at)? = Share {
            interface,
            ..Share::FREE
        };
        self.len = self.len.saturating_add(1);
        Some(())
    }

    /// Forgets an interface of which nothing is left to remember.
    #[cold]
    #[inline(never)]
    fn forget(&mut self, now: Tick) -> bool {
        let mask = self.cells.len().wrapping_sub(1);
        for _ in 0..FORGET_MAX {
            let at = self.hand & mask;
            self.hand = at.wrapping_add(1);
            let share = self.cells.get(at).copied().unwrap_or(Share::FREE);
            if share.interface != NOBODY && share.is_idle(now) {
                self.remove(at);
                return true;
            }
        }
        false
    }

    /// Frees a cell and closes the gap behind it, so that every probe still ends at a free cell.
    fn remove(&mut self, at: usize) {
        let mask = self.cells.len().wrapping_sub(1);
        let mut gap = at;
        for step in 1..PROBES_MAX {
            let from = at.wrapping_add(step) & mask;
            let share = self.cells.get(from).copied().unwrap_or(Share::FREE);
            if share.interface == NOBODY {
                break;
            }
            let distance = from.wrapping_sub(self.home(share.interface)) & mask;
            if distance >= (from.wrapping_sub(gap) & mask) {
                if let Some(cell) = self.cells.get_mut(gap) {
                    *cell = share;
                }
                gap = from;
            }
        }
        if let Some(cell) = self.cells.get_mut(gap) {
            *cell = Share::FREE;
        }
        self.len = self.len.saturating_sub(1);
    }
}

/// Nanoseconds that one new flow uses up.
fn step(limit: PerInterface) -> u64 {
    match u64::from(limit.new_per_second) {
        0 => 0,
        rate => Tick::PER_SECOND.div_ceil(rate),
    }
}

#[cfg(test)]
impl Shares {
    /// Slots of an interface's flows that give way, by class.
    pub(super) fn yielding(&mut self, interface: InterfaceSlot) -> [Vec<u32>; 4] {
        let share = self.share(interface.0).copied().unwrap_or(Share::FREE);
        let found = share.firsts.map(|first| self.rings.all(first));
        assert_eq!(
            found.each_ref().map(Vec::len),
            share.counts.map(|n| n as usize)
        );
        found
    }

    /// Flows that are counted for an interface.
    pub(super) fn flows(&mut self, interface: InterfaceSlot) -> u32 {
        self.share(interface.0).map_or(0, |share| share.flows)
    }
}

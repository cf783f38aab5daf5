//! What each interface has of the table: its flows, and how fast it may open new ones.
//!
//! At its limit its own flows give way to its new ones, in the order of give_way.rs: else whoever
//! can have it send or receive SYNs could shut it out with as many as its share. They are found as
//! fast as those of the table: each interface has a list for each class, the oldest first.
//!
//! The table of interfaces has a fixed size. When it is full of interfaces that have flows or have
//! opened some within the last second, one more interface that has a limit gets no new flow:
//! without a count its limit could not be kept.

use super::config::PerInterface;
use super::give_way::{Room, Yields};
use super::rings::{Ring, Rings};
use crate::clock::Tick;
use crate::cpu::{prefetch, untouched};
use crate::types::{FlowLimits, InterfaceSlot};

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
const OWN_LIMITS_MAX: usize = FlowLimits::INTERFACES_MAX;

/// Marks a free cell.
const NOBODY: u32 = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// Its slot plus one.
    name: u32,
    flows: u32,
    /// Up to when the new flows so far use up the rate, in nanoseconds.
    spent_until: u64,
}

const _: () = assert!(size_of::<Share>() == 16);

/// Flows of an interface that give way, in the order of [`Yields`]: lists of the rings, and how
/// many are in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queues {
    rings: [Ring; Yields::ALL.len()],
    counts: [u32; Yields::ALL.len()],
}

impl Share {
    const FREE: Self = Self {
        name: NOBODY,
        flows: 0,
        spent_until: 0,
    };

    /// Whether nothing is left to remember.
    fn is_idle(&self, now: Tick) -> bool {
        self.flows == 0 && self.spent_until <= now.0
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
    /// Flows of the shard: a limit as high refuses nothing.
    flows_max: u32,
    /// Limits of single interfaces, sorted.
    own: Vec<(u32, PerInterface)>,
    /// A power of two of them, or none if nothing is limited.
    cells: Vec<Share>,
    /// By the position in `cells`, of interfaces that may have only so many flows.
    queues: Vec<Queues>,
    /// Lists through the slots of their flows that give way.
    rings: Rings,
    /// Whether an interface has ever had a greatest number of flows: else no queue holds any.
    is_ringing: bool,
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
            flows_max: max_flows,
            own: Vec::with_capacity(if is_counting { OWN_LIMITS_MAX } else { 0 }),
            cells: untouched(cells),
            queues: untouched(cells),
            rings: Rings::new(if is_counting { max_flows as usize } else { 0 }),
            is_ringing: is_number(limit, max_flows),
            len: 0,
            len_max: cells / 2,
            hand: 0,
        }
    }

    /// Gives these interfaces, which are in order, limits of their own, and takes them from all
    /// others. Without room for as many, or where nothing is counted, the rest have the default.
    pub(super) fn set_own(&mut self, own: impl Iterator<Item = (InterfaceSlot, PerInterface)>) {
        self.own.clear();
        let room = self.own.capacity().min(OWN_LIMITS_MAX);
        self.own
            .extend(own.take(room).map(|(slot, limit)| (slot.0, limit)));
        let flows_max = self.flows_max;
        let has_number = |(_, limit): &(u32, PerInterface)| is_number(*limit, flows_max);
        self.is_ringing |= self.own.iter().any(has_number);
        debug_assert!(
            self.own.is_sorted_by_key(|(slot, _)| *slot),
            "in order of their slots"
        );
    }

    /// What an interface without a limit of its own may have.
    pub(super) fn default_limit(&self) -> PerInterface {
        self.limit
    }

    /// Counts a new flow of an interface, if it may have one more.
    #[inline]
    pub(super) fn admit(&mut self, interface: InterfaceSlot, now: Tick) -> Result<(), OverLimit> {
        if self.cells.is_empty() {
            return Ok(());
        }
        self.admit_counted(interface.0, now)
    }

    /// Asks for what is counted of an interface.
    #[inline]
    pub(super) fn prefetch(&self, interface: InterfaceSlot) {
        if let Some(share) = self.cells.get(self.home(interface.0)) {
            prefetch(share);
        }
    }

    /// Whether the flows of some interface that give way are listed.
    #[inline]
    pub(super) fn is_ringing(&self) -> bool {
        self.is_ringing && !self.cells.is_empty()
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
        size_of::<(u32, PerInterface)>().saturating_mul(self.own.capacity())
    }

    /// Bytes of the counts of as many interfaces as there can be, and of their queues, were every
    /// flow in one.
    pub(super) fn interface_bytes(&self) -> usize {
        let cells = size_of::<Share>().saturating_mul(self.cells.len());
        let queues = size_of::<Queues>().saturating_mul(self.queues.len());
        cells
            .saturating_add(queues)
            .saturating_add(self.rings.bytes())
    }

    /// Moves a flow of an interface from one class to another; `None` is none.
    pub(super) fn move_to(
        &mut self,
        interface: u32,
        slot: u32,
        from: Option<Yields>,
        to: Option<Yields>,
    ) {
        if !self.is_ringing {
            return;
        }
        let is_listed = is_number(self.limit_of(interface), self.flows_max);
        let Some(at) = self.position(interface) else {
            return;
        };
        let Self { queues, rings, .. } = self;
        let Some(Queues {
            rings: lists,
            counts,
        }) = queues.get_mut(at)
        else {
            return;
        };
        if let Some(class) = from.map(|class| class as usize)
            && let (Some(list), Some(count)) = (lists.get_mut(class), counts.get_mut(class))
            // What began before the interface had a number is in no list.
            && rings.remove(list, slot)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(class) = to.filter(|_| is_listed).map(|class| class as usize)
            && let (Some(list), Some(count)) = (lists.get_mut(class), counts.get_mut(class))
        {
            rings.push(list, slot);
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
        let queues = self.queues.get(self.position(interface.0)?)?;
        let [untracked, tombstone, unanswered, half_open] = queues.rings.map(Ring::first);
        let [.., unanswered_count, half_open_count] = queues.counts;
        let of_class = |class: Yields| move |slot: u32| (slot, class);
        match room {
            Room::Spare => untracked.map(of_class(Yields::Untracked)),
            Room::Closed => untracked
                .map(of_class(Yields::Untracked))
                .or(tombstone.map(of_class(Yields::Tombstone))),
            Room::Any => untracked
                .map(of_class(Yields::Untracked))
                .or(tombstone.map(of_class(Yields::Tombstone)))
                .or(unanswered
                    .filter(|slot| unanswered_count >= half_open_count || !is_young(*slot))
                    .map(of_class(Yields::Unanswered)))
                .or(half_open.map(of_class(Yields::HalfOpen))),
        }
    }

    #[inline(never)]
    fn admit_counted(&mut self, interface: u32, now: Tick) -> Result<(), OverLimit> {
        let limit = self.limit_of(interface);
        let position = self.position(interface);
        let Some(at) = position.or_else(|| self.add(interface, now)) else {
            // Without a count a limit could not be kept; where there is none, none is needed.
            let is_unlimited = limit.max_flows == 0 || limit.max_flows >= self.flows_max;
            return match is_unlimited && limit.new_per_second == 0 {
                true => Ok(()),
                false => Err(OverLimit::Rate),
            };
        };
        let share = self.cells.get_mut(at).ok_or(OverLimit::Rate)?;
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
        if self.own.is_empty() {
            return self.limit;
        }
        let found = self.own.binary_search_by_key(&interface, |(slot, _)| *slot);
        let own = found.ok().and_then(|at| self.own.get(at));
        own.map_or(self.limit, |(_, limit)| *limit)
    }

    fn share(&mut self, interface: u32) -> Option<&mut Share> {
        let at = self.position(interface)?;
        self.cells.get_mut(at)
    }

    /// The cell of an interface that is counted.
    #[inline]
    fn position(&self, interface: u32) -> Option<usize> {
        let at = self.find(interface)?;
        let share = self.cells.get(at)?;
        (share.name == name(interface) && share.name != NOBODY).then_some(at)
    }

    /// The cell of an interface, or the free one in which it would be.
    #[inline]
    fn find(&self, interface: u32) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let home = self.home(interface);
        (0..PROBES_MAX)
            .map(|step| home.wrapping_add(step) & mask)
            .find(|at| {
                let share = self.cells.get(*at);
                share.is_some_and(|s| s.name == name(interface) || s.name == NOBODY)
            })
    }

    /// Fibonacci hashing: interface numbers run on, and are nobody's choice.
    #[inline]
    fn home(&self, interface: u32) -> usize {
        let hash = interface.wrapping_mul(0x9e37_79b9);
        let shift = self.cells.len().trailing_zeros();
        (u64::from(hash).wrapping_shl(shift) >> 32) as usize
    }

    /// Where an interface is counted from now on, if there is room.
    #[cold]
    fn add(&mut self, interface: u32, now: Tick) -> Option<usize> {
        if name(interface) == NOBODY || self.len >= self.len_max && !self.forget(now) {
            return None;
        }
        let at = self.find(interface)?;
        *self.cells.get_mut(at)? = Share {
            name: name(interface),
            ..Share::FREE
        };
        if self.is_ringing {
            *self.queues.get_mut(at)? = Queues::default();
        }
        self.len = self.len.saturating_add(1);
        Some(at)
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
            if share.name != NOBODY && share.is_idle(now) {
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
            if share.name == NOBODY {
                break;
            }
            let distance = from.wrapping_sub(self.home(share.name.wrapping_sub(1))) & mask;
            if distance >= (from.wrapping_sub(gap) & mask) {
                if let Some(cell) = self.cells.get_mut(gap) {
                    *cell = share;
                }
                if self.is_ringing && from < self.queues.len() {
                    self.queues.swap(gap, from);
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

/// How a cell names an interface.
#[inline]
fn name(interface: u32) -> u32 {
    interface.wrapping_add(1)
}

/// Whether a limit is a greatest number of flows that a shard of `flows_max` could exceed.
fn is_number(limit: PerInterface, flows_max: u32) -> bool {
    limit.max_flows != 0 && limit.max_flows < flows_max
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
    /// Whether flows are counted by interface.
    pub(super) fn is_counting(&self) -> bool {
        !self.cells.is_empty()
    }

    /// Slots of an interface's flows that give way, by class.
    pub(super) fn yielding(&mut self, interface: InterfaceSlot) -> [Vec<u32>; 4] {
        let at = self.position(interface.0);
        let queues = at.map_or(Queues::default(), |at| self.queues[at]);
        let found = queues.rings.map(|ring| self.rings.all(ring));
        assert_eq!(
            found.each_ref().map(Vec::len),
            queues.counts.map(|n| n as usize)
        );
        found
    }

    /// Whether every interface has a number, and has always had one.
    pub(super) fn lists_all(&self) -> bool {
        let is_number = |limit| is_number(limit, self.flows_max);
        is_number(self.limit) && self.own.iter().all(|(_, limit)| is_number(*limit))
    }

    /// Flows that are counted for an interface.
    pub(super) fn flows(&mut self, interface: InterfaceSlot) -> u32 {
        self.share(interface.0).map_or(0, |share| share.flows)
    }
}

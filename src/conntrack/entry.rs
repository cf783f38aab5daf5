//! The layout of one flow: a line that every packet uses, and a cold part of five bytes.
//!
//! ```text
//!   0  addresses          word of the key (`PackedKey`)
//!   8  numbers            word of the key, and 27–28 class, 29 ingress, 30 opener is high,
//!                         31 heavy (traffic.rs)
//!  16  deadline           low 32 bits of the beat
//!  20  end[2]             next sequence number of each side        (TCP)
//!  28  ack[2]             highest acknowledgment that each sent    (TCP)
//!  36  traffic[2]         packets and bytes of each side (traffic.rs)
//!  44  window[2]          largest window of each side, unscaled    (TCP)
//!  48  marks              one bit a side and mark
//!  50  service            half a word of the key
//!  52  state, scales
//!  54  generation         low 24 bits
//!  57  interface, rule    slot numbers in 24 bits each (numbers.rs)
//!  63  started            high 8 of 24 bits
//! cold isn                low 24 bits of the opener's first sequence number
//!      started            low 16 bits
//! ```
//!
//! What is cut is cut where it can be told what is meant. A deadline is at most five days ahead, so
//! 32 bits of 17 ms leave two years in which a dead flow is not taken for a live one; the sweep
//! takes it back long before. Generations: the shard knows the newest, and 16 million changes
//! within one flow's idle time do not happen. The first sequence number: while the handshake
//! lasts, `end` is at most one segment ahead of it and tells the rest; after it, it only serves to
//! recognize repetitions, where one in 16 million is mistaken.

use super::flow::{FlowClass, FlowState, NewFlow};
use super::give_way::Yields;
use super::hit::Moment;
use super::numbers::Narrow;
use super::sides::{MARK_LENIENT, Mark, Side, Sides, mark_bit};
use super::timer::Beat;
use super::traffic::{Weight, Words};
use crate::clock::Tick;
use crate::packet::{Brief, End, PackedKey};
use crate::types::{Direction, Generation, PortSide};

/// The part of a flow that packets use.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Entry {
    addresses: u64,
    numbers: u64,
    deadline: u32,
    pub(super) end: Sides<u32>,
    pub(super) ack: Sides<u32>,
    pub(super) traffic: Words,
    pub(super) window: Sides<u16>,
    pub(super) marks: u16,
    service: u16,
    /// `None`: free.
    pub(super) state: Option<FlowState>,
    /// TCP: window scales, the opener's in the low half; until the handshake is complete those
    /// that were offered, or [`SCALE_NONE`]. ICMP: the opener's code.
    scales: u8,
    generation: [u8; 3],
    pub(super) interface: Narrow,
    pub(super) rule: Narrow,
    started_high: u8,
}

const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() == 64);
const _: () = assert!(std::mem::offset_of!(Entry, marks) == 48);
const _: () = assert!(std::mem::offset_of!(Entry, started_high) == 63);

/// A SYN without a window-scale option, or no SYN yet.
pub(super) const SCALE_NONE: u8 = 15;

/// The part that only opening, looking and rare segments use.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Cold {
    isn: [u8; 3],
    started_low: [u8; 2],
}

const _: () = assert!(size_of::<Cold>() == 5);

const CLASS_SHIFT: u32 = 27;
const CLASS: u64 = 3 << CLASS_SHIFT;
const INGRESS_SHIFT: u32 = 29;
const INGRESS: u64 = 1 << INGRESS_SHIFT;
const OPENER_SHIFT: u32 = 30;
const OPENER_HIGH: u64 = 1 << OPENER_SHIFT;
const HEAVY: u64 = 1 << 31;

/// The bits of `numbers` that belong to the key.
const KEY: u64 = !PackedKey::NUMBERS_FREE;

const _: () = assert!(KEY & (CLASS | INGRESS | OPENER_HIGH | HEAVY) == 0);

fn class_bits(class: FlowClass) -> u64 {
    let number = match class {
        FlowClass::Tracked => 0,
        FlowClass::Untracked => 1,
        FlowClass::Unenforced => 2,
    };
    number << CLASS_SHIFT
}

impl Entry {
    /// A slot that no flow uses.
    pub(super) const FREE: Self = Self {
        addresses: 0,
        numbers: 0,
        deadline: 0,
        end: Sides::both(0),
        ack: Sides::both(0),
        traffic: Sides::both(0),
        window: Sides::both(0),
        marks: 0,
        service: 0,
        state: None,
        scales: 0,
        generation: [0; 3],
        interface: Narrow::NONE,
        rule: Narrow::NONE,
        started_high: 0,
    };

    /// What stands in for a flow that does not exist: closed.
    pub(super) const NOBODY: Self = Self {
        state: Some(FlowState::Reset),
        ..Self::FREE
    };

    /// A flow of this key, without a state yet, and without its interface and rule.
    pub(super) fn new(key: &PackedKey, new: &NewFlow, now: Tick) -> Self {
        let mut numbers = key.numbers | class_bits(new.class);
        if new.direction == Direction::Ingress {
            numbers |= INGRESS;
        }
        if new.opener == End::High {
            numbers |= OPENER_HIGH;
        }
        let [_, started_high, ..] = started_units(now).to_be_bytes();
        let mut entry = Self {
            addresses: key.addresses,
            numbers,
            service: key.service,
            started_high,
            ..Self::FREE
        };
        entry.stamp(new.generation);
        entry
    }

    /// A free slot that leads to the next one.
    pub(super) fn free_before(next: u32) -> Self {
        Self {
            addresses: u64::from(next),
            ..Self::FREE
        }
    }

    /// Of a free slot: the next one.
    #[expect(clippy::cast_possible_truncation, reason = "a slot is stored there")]
    pub(super) fn next_free(&self) -> u32 {
        self.addresses as u32
    }

    /// Whether it has this key; of IPv6 only the low halves are compared here.
    #[inline]
    pub(super) fn has_key(&self, key: &PackedKey) -> bool {
        let differs = (self.addresses ^ key.addresses)
            | ((self.numbers ^ key.numbers) & KEY)
            | u64::from(self.service ^ key.service);
        differs == 0 && self.state.is_some()
    }

    /// Whether it is the flow of a common packet (of IPv6 as far as it can tell), alive, judged by
    /// the generation in force, and on the port that the packet came in by. Few branches: which
    /// end sends is as good as random.
    #[inline]
    pub(super) fn is_hit(&self, packet: &Brief, side: PortSide, moment: &Moment) -> bool {
        let key = &packet.key;
        let differs = (self.addresses ^ key.addresses)
            | ((self.numbers ^ key.numbers) & KEY)
            | u64::from(self.service ^ key.service);
        // From inside come the opener's packets of egress flows, and the other end's of ingress.
        let inside_is_high = self.numbers >> OPENER_SHIFT ^ self.numbers >> INGRESS_SHIFT;
        let is_elsewhere = (inside_is_high ^ packet.from as u64 ^ side as u64) & 1;
        differs | is_elsewhere == 0
            && self.generation == moment.generation
            && self.is_live(moment.beat)
    }

    /// Its key; that of an IPv6 flow is whole with both addresses.
    #[inline]
    pub(super) fn key(&self) -> PackedKey {
        PackedKey {
            addresses: self.addresses,
            numbers: self.numbers & KEY,
            service: self.service,
        }
    }

    #[inline]
    pub(super) fn is_v6(&self) -> bool {
        self.key().is_v6()
    }

    pub(super) fn class(&self) -> FlowClass {
        match (self.numbers & CLASS) >> CLASS_SHIFT {
            0 => FlowClass::Tracked,
            1 => FlowClass::Untracked,
            _ => FlowClass::Unenforced,
        }
    }

    pub(super) fn set_class(&mut self, class: FlowClass) {
        self.numbers = self.numbers & !CLASS | class_bits(class);
    }

    #[inline]
    pub(super) fn direction(&self) -> Direction {
        if self.numbers & INGRESS != 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    #[inline]
    pub(super) fn is_untracked(&self) -> bool {
        self.numbers & CLASS == 1 << CLASS_SHIFT
    }

    #[inline]
    pub(super) fn is_tombstone(&self) -> bool {
        self.state.is_some_and(FlowState::is_tombstone)
    }

    #[inline]
    pub(super) fn opener(&self) -> End {
        if self.numbers & OPENER_HIGH != 0 {
            End::High
        } else {
            End::Low
        }
    }

    #[inline]
    pub(super) fn side_of(&self, from: End) -> Side {
        if from == self.opener() {
            Side::Original
        } else {
            Side::Reply
        }
    }

    /// Its deadline, given a time that is within a year of it.
    #[inline]
    pub(super) fn deadline(&self, near: Beat) -> Beat {
        near.nearest(self.deadline)
    }

    #[inline]
    pub(super) fn set_deadline(&mut self, deadline: Beat) {
        self.deadline = deadline.low();
    }

    /// Whether its deadline would stay or come later if it lasted `span` beats from now on, given
    /// that it is alive.
    #[inline]
    pub(super) fn would_live_on(&self, now: Beat, span: u32) -> bool {
        now.after(span)
            .low()
            .wrapping_sub(self.deadline)
            .cast_signed()
            >= 0
    }

    /// Whether it is in use and not past its deadline.
    #[inline]
    pub(super) fn is_live(&self, now: Beat) -> bool {
        self.state.is_some() && now.is_before(self.deadline)
    }

    /// Beats since the packet that moved its deadline last, given how long each state lasts; the
    /// most that there are once it has expired.
    pub(super) fn idle(&self, spans: &[u32; FlowState::COUNT], now: Beat) -> u32 {
        if !self.is_live(now) {
            return u32::MAX;
        }
        let span = self.state.and_then(|state| spans.get(state as usize));
        let left = self.deadline.wrapping_sub(now.low());
        span.map_or(0, |span| span.saturating_sub(left))
    }

    /// Why it may give way to a new flow, if it may.
    #[inline]
    pub(super) fn yields(&self) -> Option<Yields> {
        if self.is_untracked() {
            return self.state.map(|_| Yields::Untracked);
        }
        let is_lenient = self.marks & MARK_LENIENT != 0;
        let is_answered = self.has(Mark::Seen, Side::Reply)
            || is_lenient && self.has(Mark::Answered, Side::Original);
        match self.state? {
            FlowState::TimeWait | FlowState::Reset => Some(Yields::Tombstone),
            FlowState::SynSent => Some(Yields::Unanswered),
            _ if !is_answered => Some(Yields::Unanswered),
            FlowState::SynReceived => Some(Yields::HalfOpen),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn has(&self, mark: Mark, side: Side) -> bool {
        self.marks & mark_bit(mark, side) != 0
    }

    #[inline]
    pub(super) fn set(&mut self, mark: Mark, side: Side) {
        self.marks |= mark_bit(mark, side);
    }

    #[inline]
    pub(super) fn clear(&mut self, mark: Mark, side: Side) {
        self.marks &= !mark_bit(mark, side);
    }

    #[inline]
    pub(super) fn has_both(&self, mark: Mark) -> bool {
        self.has(mark, Side::Original) && self.has(mark, Side::Reply)
    }

    #[inline]
    pub(super) fn scale(&self, side: Side) -> u8 {
        match side {
            Side::Original => self.scales & 15,
            Side::Reply => self.scales >> 4,
        }
    }

    pub(super) fn set_scale(&mut self, side: Side, scale: u8) {
        self.scales = match side {
            Side::Original => self.scales & 0xf0 | scale & 15,
            Side::Reply => self.scales & 0x0f | scale << 4,
        };
    }

    /// Of an ICMP query: the code of the packet that opened the flow.
    #[inline]
    pub(super) fn query_code(&self) -> u8 {
        if self.state == Some(FlowState::Icmp) {
            self.scales
        } else {
            0
        }
    }

    pub(super) fn set_query_code(&mut self, code: u8) {
        self.scales = code;
    }

    #[inline]
    pub(super) fn weight(&self) -> Weight {
        if self.numbers & HEAVY == 0 {
            Weight::Light
        } else {
            Weight::Heavy
        }
    }

    #[inline]
    pub(super) fn set_weight(&mut self, weight: Weight) {
        if weight == Weight::Heavy {
            self.numbers |= HEAVY;
        }
    }

    /// Notes the generation that it was judged by.
    pub(super) fn stamp(&mut self, generation: Generation) {
        self.generation = Self::cut(generation);
    }

    /// What entries keep of a generation.
    #[inline]
    pub(super) fn cut(generation: Generation) -> [u8; 3] {
        let [.., a, b, c] = generation.0.to_be_bytes();
        [a, b, c]
    }

    /// Low 32 bits of its generation, given the shard's newest.
    #[inline]
    pub(super) fn generation_low(&self, newest: u32) -> u32 {
        let [a, b, c] = self.generation;
        let cut = u32::from_be_bytes([0, a, b, c]);
        newest.wrapping_sub(newest.wrapping_sub(cut) & 0xff_ffff)
    }

    /// When it was opened, to two seconds.
    pub(super) fn started(&self, cold: &Cold, now: Tick) -> Tick {
        let [middle, low] = cold.started_low;
        let started = u32::from_be_bytes([0, self.started_high, middle, low]);
        let units = started_units(now).wrapping_sub(started) & 0xff_ffff;
        let back = u64::from(units);
        Tick((now.0 >> STARTED_SHIFT).saturating_sub(back) << STARTED_SHIFT)
    }

    /// TCP: the opener's first sequence number; exact while the handshake lasts.
    pub(super) fn isn(&self, cold: &Cold) -> u32 {
        let [a, b, c] = cold.isn;
        let cut = u32::from_be_bytes([0, a, b, c]);
        let end = self.end.original;
        end.wrapping_sub(end.wrapping_sub(cut) & 0xff_ffff)
    }
}

/// Time in units of 2.1 s, which wrap in 24 bits after 417 days.
#[expect(clippy::cast_possible_truncation, reason = "it wraps")]
fn started_units(now: Tick) -> u32 {
    (now.0 >> STARTED_SHIFT) as u32
}

const STARTED_SHIFT: u32 = 31;

impl Cold {
    /// The cold part of a free slot.
    pub(super) const FREE: Self = Self {
        isn: [0; 3],
        started_low: [0; 2],
    };

    /// The cold part of a flow that opens now.
    pub(super) fn new(now: Tick) -> Self {
        let [.., middle, low] = started_units(now).to_be_bytes();
        Self {
            started_low: [middle, low],
            ..Self::FREE
        }
    }

    pub(super) fn set_isn(&mut self, sequence: u32) {
        let [_, a, b, c] = sequence.to_be_bytes();
        self.isn = [a, b, c];
    }

    /// Whether a sequence number is the opener's first, as far as that is kept.
    pub(super) fn is_isn(&self, sequence: u32) -> bool {
        let [_, a, b, c] = sequence.to_be_bytes();
        self.isn == [a, b, c]
    }
}

#[cfg(test)]
impl Entry {
    pub(super) fn deadline_low(&self) -> u32 {
        self.deadline
    }
}

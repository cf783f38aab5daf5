//! The layout of one flow: a line that every packet uses, and a cold part.
//!
//! ```text
//!   0  low, high          addresses (of IPv6 the low 32 bits: a filter before the full compare)
//!   8  low_port, high_port
//!  12  wire               bits 0–12 outer VLAN, 13–25 inner VLAN, 26 IPv6, 27–28 class,
//!                         29 ingress, 30 opener is high, 31 has a rule
//!  16  deadline           low 32 of 40 bits
//!  20  generation         low 32 bits
//!  24  end[2]             next sequence number of each side        (TCP)
//!  32  ack[2]             highest acknowledgment that each sent    (TCP)
//!  40  bytes[2]           low 32 bits; carries in the cold part
//!  48  packets[2]         low 16 bits; likewise
//!  52  window[2]          largest window of each side, unscaled    (TCP)
//!  56  marks              one bit a side and mark
//!  58  protocol, link_kind, state, scales, deadline_high, (spare)
//! ```

use super::flow::{FlowClass, FlowHead, FlowState, NewFlow, Traffic};
use super::timer::Beat;
use crate::packet::{End, Family, FlowKey, KeyKind, VlanTags};
use crate::types::{Direction, Generation, InterfaceSlot, LinkId, RuleSlot};

/// Who spoke first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// The opener.
    Original,
    /// The other end.
    Reply,
}

impl Side {
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// One value for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Sides<T> {
    pub(super) original: T,
    pub(super) reply: T,
}

impl<T: Copy> Sides<T> {
    const fn both(value: T) -> Self {
        Self {
            original: value,
            reply: value,
        }
    }

    #[inline]
    pub(super) fn of(&self, side: Side) -> T {
        match side {
            Side::Original => self.original,
            Side::Reply => self.reply,
        }
    }

    #[inline]
    pub(super) fn at(&mut self, side: Side) -> &mut T {
        match side {
            Side::Original => &mut self.original,
            Side::Reply => &mut self.reply,
        }
    }
}

/// What is remembered of a flow in single bits. The first seven are one bit for each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    /// TCP: a segment of this side was seen, so its `end` is known. UDP: it sent a packet.
    Seen = 0,
    /// TCP: its `ack` is known. UDP: it sent more than one packet.
    Acked = 2,
    /// Its SYN is acknowledged.
    Answered = 4,
    /// It sent a FIN; its `end` is final.
    Fin = 6,
    /// Its FIN is acknowledged.
    FinAcked = 8,
    /// After the close: it may answer one repeated FIN.
    Owes = 10,
    /// It sent a SYN in the middle of the connection (cold part: `challenge`).
    Challenged = 12,
}

/// Marks that are about the flow.
pub(super) const MARK_ISN_KNOWN: u16 = 1 << 14;
/// First seen in mid-stream: the window scale is unknown, so windows are taken as the largest.
pub(super) const MARK_LENIENT: u16 = 1 << 15;

/// The part of a flow that packets use.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Entry {
    low: u32,
    high: u32,
    low_port: u16,
    high_port: u16,
    wire: u32,
    deadline_low: u32,
    pub(super) generation: u32,
    pub(super) end: Sides<u32>,
    pub(super) ack: Sides<u32>,
    bytes: Sides<u32>,
    packets: Sides<u16>,
    pub(super) window: Sides<u16>,
    pub(super) marks: u16,
    protocol: u8,
    link_kind: u8,
    /// `None`: free.
    pub(super) state: Option<FlowState>,
    /// Window scales, the opener's in the low half; [`SCALE_NONE`] while unknown.
    scales: u8,
    deadline_high: u8,
}

const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() == 64);
const _: () = assert!(std::mem::offset_of!(Entry, marks) == 56);
const _: () = assert!(std::mem::offset_of!(Entry, deadline_high) == 62);
const _: () = assert!(LinkId::COUNT_MAX <= 64, "six bits of `link_kind`");

/// A SYN without a window-scale option, or no SYN yet.
pub(super) const SCALE_NONE: u8 = 15;

/// The part that only opening, looking and rare segments use.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Cold {
    interface: u32,
    rule: u32,
    /// Sequence number of the opener's SYN; of an ICMP query its code.
    pub(super) isn: u32,
    /// Sequence number of the last SYN in mid-connection.
    pub(super) challenge: u32,
    /// In units of 2^28 ns.
    started: u32,
    packets_carry: Sides<u32>,
    bytes_carry: Sides<u32>,
}

const _: () = assert!(size_of::<Cold>() == 36);

const WIRE_VLAN_BITS: u32 = 13;
const WIRE_VLAN_TAGGED: u32 = 1 << 12;
const WIRE_V6: u32 = 1 << 26;
const WIRE_KEY: u32 = (1 << 27) - 1;
const WIRE_CLASS_SHIFT: u32 = 27;
const WIRE_CLASS: u32 = 3 << WIRE_CLASS_SHIFT;
const WIRE_INGRESS: u32 = 1 << 29;
const WIRE_OPENER_HIGH: u32 = 1 << 30;
const WIRE_HAS_RULE: u32 = 1 << 31;

/// A key as entries hold it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedKey {
    low: u32,
    high: u32,
    ports: (u16, u16),
    wire: u32,
    protocol: u8,
    link_kind: u8,
}

impl PackedKey {
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "low 32 bits of both families are meant"
    )]
    pub(super) fn of(key: &FlowKey) -> Self {
        let v6 = if key.family == Family::V6 { WIRE_V6 } else { 0 };
        let VlanTags { outer, inner } = key.vlan;
        debug_assert!(key.link.index() < LinkId::COUNT_MAX);
        Self {
            low: key.low as u32,
            high: key.high as u32,
            ports: (key.low_port, key.high_port),
            wire: pack_vlan(outer) | pack_vlan(inner) << WIRE_VLAN_BITS | v6,
            protocol: key.protocol,
            link_kind: key.link.0 << 2 | key.kind as u8,
        }
    }
}

fn class_bits(class: FlowClass) -> u32 {
    let number = match class {
        FlowClass::Tracked => 0,
        FlowClass::Untracked => 1,
        FlowClass::Unenforced => 2,
    };
    number << WIRE_CLASS_SHIFT
}

fn pack_vlan(id: Option<u16>) -> u32 {
    id.map_or(0, |id| u32::from(id & 0xfff) | WIRE_VLAN_TAGGED)
}

fn unpack_vlan(bits: u32) -> Option<u16> {
    (bits & WIRE_VLAN_TAGGED != 0).then_some((bits & 0xfff) as u16)
}

impl Entry {
    /// A slot that no flow uses.
    pub(super) const FREE: Self = Self {
        low: 0,
        high: 0,
        low_port: 0,
        high_port: 0,
        wire: 0,
        deadline_low: 0,
        generation: 0,
        end: Sides::both(0),
        ack: Sides::both(0),
        bytes: Sides::both(0),
        packets: Sides::both(0),
        window: Sides::both(0),
        marks: 0,
        protocol: 0,
        link_kind: 0,
        state: None,
        scales: 0,
        deadline_high: 0,
    };

    /// What stands in for a flow that does not exist: closed.
    pub(super) const NOBODY: Self = Self {
        state: Some(FlowState::Reset),
        ..Self::FREE
    };

    /// A flow of this key, without a state yet.
    pub(super) fn new(key: &PackedKey, new: &NewFlow) -> Self {
        let mut wire = key.wire | class_bits(new.class);
        if new.direction == Direction::Ingress {
            wire |= WIRE_INGRESS;
        }
        if new.opener == End::High {
            wire |= WIRE_OPENER_HIGH;
        }
        if new.rule.is_some() {
            wire |= WIRE_HAS_RULE;
        }
        Self {
            low: key.low,
            high: key.high,
            low_port: key.ports.0,
            high_port: key.ports.1,
            wire,
            generation: generation_low(new.generation),
            protocol: key.protocol,
            link_kind: key.link_kind,
            scales: SCALE_NONE << 4 | SCALE_NONE,
            ..Self::FREE
        }
    }

    /// A free slot that leads to the next one.
    pub(super) fn free_before(next: u32) -> Self {
        Self {
            low: next,
            ..Self::FREE
        }
    }

    /// Of a free slot: the next one.
    pub(super) fn next_free(&self) -> u32 {
        self.low
    }

    /// Whether it has this key; of IPv6 only the low halves are compared here.
    #[inline]
    pub(super) fn has_key(&self, key: &PackedKey) -> bool {
        self.low == key.low
            && self.high == key.high
            && (self.low_port, self.high_port) == key.ports
            && self.wire & WIRE_KEY == key.wire
            && self.protocol == key.protocol
            && self.link_kind == key.link_kind
            && self.state.is_some()
    }

    /// Its key; `addresses` are those of an IPv6 flow.
    pub(super) fn key(&self, addresses: [u128; 2]) -> FlowKey {
        let [low, high] = addresses;
        let (family, low, high) = if self.is_v6() {
            (Family::V6, low, high)
        } else {
            (Family::V4, u128::from(self.low), u128::from(self.high))
        };
        FlowKey {
            family,
            kind: match self.link_kind & 3 {
                0 => KeyKind::Symmetric,
                1 => KeyKind::QueryFromLow,
                _ => KeyKind::QueryFromHigh,
            },
            protocol: self.protocol,
            link: LinkId(self.link_kind >> 2),
            vlan: VlanTags {
                outer: unpack_vlan(self.wire),
                inner: unpack_vlan(self.wire >> WIRE_VLAN_BITS),
            },
            low,
            high,
            low_port: self.low_port,
            high_port: self.high_port,
        }
    }

    #[inline]
    pub(super) fn is_v6(&self) -> bool {
        self.wire & WIRE_V6 != 0
    }

    #[inline]
    pub(super) fn is_untracked(&self) -> bool {
        self.wire & WIRE_CLASS == 1 << WIRE_CLASS_SHIFT
    }

    #[inline]
    pub(super) fn is_tombstone(&self) -> bool {
        self.state.is_some_and(FlowState::is_tombstone)
    }

    #[inline]
    pub(super) fn opener(&self) -> End {
        if self.wire & WIRE_OPENER_HIGH != 0 {
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

    #[inline]
    pub(super) fn deadline(&self) -> Beat {
        Beat(u64::from(self.deadline_high) << 32 | u64::from(self.deadline_low))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "40 bits are split in two")]
    pub(super) fn set_deadline(&mut self, deadline: Beat) {
        self.deadline_low = deadline.0 as u32;
        self.deadline_high = (deadline.0 >> 32) as u8;
    }

    /// Whether it is in use and not past its deadline.
    #[inline]
    pub(super) fn is_live(&self, now: Beat) -> bool {
        self.state.is_some() && now < self.deadline()
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

    /// Counts a packet of one side.
    #[inline]
    pub(super) fn count(&mut self, cold: &mut Cold, side: Side, frame_len: u32) {
        let packets = self.packets.at(side);
        *packets = packets.wrapping_add(1);
        if *packets == 0 {
            let carry = cold.packets_carry.at(side);
            *carry = carry.wrapping_add(1);
        }
        let bytes = self.bytes.at(side);
        let (sum, is_over) = bytes.overflowing_add(frame_len);
        *bytes = sum;
        if is_over {
            let carry = cold.bytes_carry.at(side);
            *carry = carry.wrapping_add(1);
        }
    }

    /// What one side sent.
    pub(super) fn traffic(&self, cold: &Cold, side: Side) -> Traffic {
        let packets_high = u64::from(cold.packets_carry.of(side)) << 16;
        let bytes_high = u64::from(cold.bytes_carry.of(side)) << 32;
        Traffic {
            packets: packets_high | u64::from(self.packets.of(side)),
            bytes: bytes_high | u64::from(self.bytes.of(side)),
        }
    }

    /// Notes that the flow was judged again.
    pub(super) fn restamp(
        &mut self,
        cold: &mut Cold,
        generation: Generation,
        class: FlowClass,
        rule: Option<RuleSlot>,
    ) {
        self.generation = generation_low(generation);
        self.wire &= !(WIRE_HAS_RULE | WIRE_CLASS);
        self.wire |= class_bits(class);
        if let Some(RuleSlot(slot)) = rule {
            self.wire |= WIRE_HAS_RULE;
            cold.rule = slot;
        }
    }

    /// What it was admitted as.
    #[inline]
    pub(super) fn head(&self, cold: &Cold) -> FlowHead {
        FlowHead {
            interface: InterfaceSlot(cold.interface),
            rule: (self.wire & WIRE_HAS_RULE != 0).then_some(RuleSlot(cold.rule)),
            generation_low: self.generation,
            class: match (self.wire & WIRE_CLASS) >> WIRE_CLASS_SHIFT {
                0 => FlowClass::Tracked,
                1 => FlowClass::Untracked,
                _ => FlowClass::Unenforced,
            },
            direction: if self.wire & WIRE_INGRESS != 0 {
                Direction::Ingress
            } else {
                Direction::Egress
            },
            opener: self.opener(),
            query_code: match self.state {
                Some(FlowState::Icmp) => u8::try_from(cold.isn).unwrap_or(0),
                _ => 0,
            },
            is_tombstone: self.is_tombstone(),
        }
    }
}

impl Cold {
    const STARTED_SHIFT: u32 = 28;

    /// The cold part of a free slot.
    pub(super) const FREE: Self = Self {
        interface: 0,
        rule: 0,
        isn: 0,
        challenge: 0,
        started: 0,
        packets_carry: Sides::both(0),
        bytes_carry: Sides::both(0),
    };

    /// The cold part of a flow that opens now.
    pub(super) fn new(new: &NewFlow, now: crate::clock::Tick) -> Self {
        Self {
            interface: new.interface.0,
            rule: new.rule.map_or(0, |rule| rule.0),
            started: u32::try_from(now.0 >> Self::STARTED_SHIFT).unwrap_or(u32::MAX),
            ..Self::FREE
        }
    }

    /// When the flow was opened, to 0.27 s.
    pub(super) fn started(&self) -> crate::clock::Tick {
        crate::clock::Tick(u64::from(self.started) << Self::STARTED_SHIFT)
    }
}

#[inline]
fn mark_bit(mark: Mark, side: Side) -> u16 {
    let bit = 1u16.wrapping_shl(mark as u32);
    match side {
        Side::Original => bit,
        Side::Reply => bit << 1,
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what entries hold"
)]
pub(super) fn generation_low(generation: Generation) -> u32 {
    generation.0 as u32
}

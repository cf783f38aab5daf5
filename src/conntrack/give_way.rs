//! Which flows give way to new ones when the table is full: a bit for each entry and class.
//!
//! Expired entries go first (timer.rs finds those), then the classes of [`Yields`] in order;
//! established flows are in none. Each class is a bit set with summaries: a bit of a higher level
//! says that a word of the level below has bits. So a flow enters and leaves its class, and the
//! next victim after the last one is found, in at most [`LEVELS_MAX`] steps whatever the table
//! holds. Victims are taken in a rotation over all slots: a flow that entered the freed slot is the
//! last to be taken again, which leaves a new connection the longest time to become established.
//!
//! A flow that has had no time to be answered is not yet an unanswered one: else, with the room
//! full of half-open flows (a SYN flood that the server answers), each new SYN would take the place
//! of the one before it, and none would ever be answered. So within [`ANSWER_BEATS`] of its packet
//! such a flow gives way before the half-open ones only while it is of the larger class, and the
//! two share the room.
//!
//! Lists through the entries would find victims as fast, but need eight bytes of an entry that
//! has none to spare, and touch the lines of two neighbors for every change; four bit sets need
//! 0.51 bytes a flow, and a change touches one word in a summary that is mostly near.

use super::flow::Evicted;
use crate::cpu::present;

/// Words of 64 bits over words of 64 bits: six levels number all of 32 bits.
const LEVELS_MAX: usize = 6;

/// Time for an answer, in beats of 17 ms: TCP's first retransmission comes after a second.
pub(super) const ANSWER_BEATS: u32 = 60;

/// Why a flow may be taken back before its time; in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Yields {
    /// It needs no entry: the rules pass its packets without one.
    Untracked,
    /// It is closed.
    Tombstone,
    /// The other side has never answered; a reset is no answer.
    Unanswered,
    /// TCP: both sides have spoken, but the handshake is not complete.
    HalfOpen,
}

impl Yields {
    pub(super) const ALL: [Self; 4] = [
        Self::Untracked,
        Self::Tombstone,
        Self::Unanswered,
        Self::HalfOpen,
    ];
}

/// Whose place a new flow may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// That of a flow which needs no entry.
    Spare,
    /// That, or a closed one's.
    Closed,
    /// That of any flow which gives way.
    Any,
}

/// The flows that give way.
#[derive(Debug)]
pub(super) struct GiveWay {
    /// In the order of [`Yields`].
    classes: [BitSet; Yields::ALL.len()],
    /// Where the next victim is looked for.
    hand: u32,
}

impl GiveWay {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            classes: std::array::from_fn(|_| BitSet::new(slots)),
            hand: 0,
        }
    }

    /// Moves a flow from one class to another; `None` is none.
    #[inline]
    pub(super) fn move_to(&mut self, slot: u32, from: Option<Yields>, to: Option<Yields>) {
        if from != to {
            self.change(slot, from, to);
        }
    }

    /// The next flow to give way. `is_young` says whether one has had no time to be answered.
    pub(super) fn next(
        &mut self,
        room: Room,
        is_young: impl Fn(u32) -> bool,
    ) -> Option<(u32, Yields)> {
        let [untracked, tombstone, unanswered, half_open] = &self.classes;
        let next = |set: &BitSet| set.next(self.hand);
        let found = if let Some(slot) = next(untracked) {
            (slot, Yields::Untracked)
        } else if room == Room::Spare {
            return None;
        } else if let Some(slot) = next(tombstone) {
            (slot, Yields::Tombstone)
        } else if room == Room::Closed {
            return None;
        } else if let Some(slot) = next(unanswered)
            && (unanswered.count >= half_open.count || !is_young(slot))
        {
            (slot, Yields::Unanswered)
        } else {
            (next(half_open)?, Yields::HalfOpen)
        };
        self.hand = found.0.wrapping_add(1);
        Some(found)
    }

    /// How many flows would give way.
    pub(super) fn count(&self) -> u32 {
        let counts = self.classes.iter().map(|set| set.count);
        counts.fold(0, u32::saturating_add)
    }

    /// Bytes that the sets take.
    pub(super) fn bytes(&self) -> usize {
        let sets = self.classes.iter().map(BitSet::bytes);
        sets.fold(0, usize::saturating_add)
    }

    fn change(&mut self, slot: u32, from: Option<Yields>, to: Option<Yields>) {
        if let Some(set) = from.and_then(|class| self.classes.get_mut(class as usize)) {
            set.remove(slot);
        }
        if let Some(set) = to.and_then(|class| self.classes.get_mut(class as usize)) {
            set.insert(slot);
        }
    }
}

impl Evicted {
    pub(super) fn count(&mut self, class: Yields) {
        let count = match class {
            Yields::Untracked => &mut self.untracked,
            Yields::Tombstone => &mut self.tombstones,
            Yields::Unanswered => &mut self.unanswered,
            Yields::HalfOpen => &mut self.half_open,
        };
        *count = count.saturating_add(1);
    }
}

#[derive(Debug)]
struct BitSet {
    /// The bits, then a bit for each of their words, and so on up to one word.
    levels: Vec<Vec<u64>>,
    /// Bits that are set.
    count: u32,
}

impl BitSet {
    fn new(bits: u32) -> Self {
        let mut levels = Vec::with_capacity(LEVELS_MAX);
        let mut count = bits.max(1) as usize;
        while levels.len() < LEVELS_MAX {
            count = count.div_ceil(64);
            levels.push(present(0, count));
            if count == 1 {
                break;
            }
        }
        Self { levels, count: 0 }
    }

    fn insert(&mut self, bit: u32) {
        let mut at = bit;
        for (level, words) in self.levels.iter_mut().enumerate() {
            let Some(word) = words.get_mut((at / 64) as usize) else {
                return;
            };
            let before = *word;
            *word |= 1u64.wrapping_shl(at % 64);
            if level == 0 && *word != before {
                self.count = self.count.saturating_add(1);
            }
            if before != 0 {
                return;
            }
            at /= 64;
        }
    }

    fn remove(&mut self, bit: u32) {
        let mut at = bit;
        for (level, words) in self.levels.iter_mut().enumerate() {
            let Some(word) = words.get_mut((at / 64) as usize) else {
                return;
            };
            let before = *word;
            *word &= !1u64.wrapping_shl(at % 64);
            if level == 0 && *word != before {
                self.count = self.count.saturating_sub(1);
            }
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The first bit at or after `from`, else the first of all.
    fn next(&self, from: u32) -> Option<u32> {
        self.first_from(from).or_else(|| self.first_from(0))
    }

    /// The first bit at or after `from`: up to the level where there is one, and down again.
    fn first_from(&self, from: u32) -> Option<u32> {
        let mut at = from;
        for (level, words) in self.levels.iter().enumerate() {
            let word = words.get((at / 64) as usize)?;
            let rest = word & u64::MAX.wrapping_shl(at % 64);
            if rest != 0 {
                let found = (at & !63) | rest.trailing_zeros();
                return self.first_below(level, found);
            }
            at = (at / 64).saturating_add(1);
        }
        None
    }

    fn first_below(&self, level: usize, at: u32) -> Option<u32> {
        let mut at = at;
        for words in self.levels.get(..level)?.iter().rev() {
            let word = words.get(at as usize)?;
            at = at.wrapping_mul(64) | word.trailing_zeros();
        }
        Some(at)
    }

    fn bytes(&self) -> usize {
        let words = self.levels.iter().map(Vec::len);
        let words = words.fold(0, usize::saturating_add);
        let levels = size_of::<Vec<u64>>().saturating_mul(self.levels.capacity());
        words
            .saturating_mul(size_of::<u64>())
            .saturating_add(levels)
    }
}

#[cfg(test)]
impl GiveWay {
    /// The class that a flow is in.
    pub(super) fn class(&self, slot: u32) -> Option<Yields> {
        let has = |class: &&Yields| {
            let words = &self.classes[**class as usize].levels[0];
            words[slot as usize / 64] >> (slot % 64) & 1 == 1
        };
        let found: Vec<_> = Yields::ALL.iter().filter(has).collect();
        assert!(found.len() <= 1, "{slot} is in {found:?}");
        found.first().map(|class| **class)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn bit_set_is_a_set_and_takes_turns() {
        for bits in [1, 63, 64, 65, 4_096, 4_097, 300_000] {
            let mut set = BitSet::new(bits);
            let mut plain = BTreeSet::new();
            let mut state = u64::from(bits);
            for _ in 0..3_000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let bit = u32::try_from((state >> 33) % u64::from(bits)).unwrap();
                match state >> 20 & 3 {
                    0 | 1 => {
                        set.insert(bit);
                        plain.insert(bit);
                    }
                    2 => {
                        set.remove(bit);
                        plain.remove(&bit);
                    }
                    _ => {
                        let after = plain.range(bit..).next();
                        assert_eq!(set.next(bit), after.or(plain.first()).copied());
                    }
                }
                assert_eq!(set.count as usize, plain.len());
            }
            while let Some(bit) = set.next(bits / 2) {
                assert!(plain.remove(&bit));
                set.remove(bit);
            }
            assert!(plain.is_empty());
            assert!(set.levels.iter().flatten().all(|word| *word == 0));
        }
    }

    /// Every loop of the set is one over its levels, so they are its bound.
    #[test]
    fn largest_table_has_five_levels() {
        let set = BitSet::new(super::super::traffic::FLOWS_MAX);
        assert_eq!(set.levels.len(), 5);
        assert!(set.levels.len() <= LEVELS_MAX);
    }

    #[test]
    fn classes_go_in_order_and_no_further_than_asked() {
        let mut sets = GiveWay::new(100);
        for (slot, class) in (0..).zip(Yields::ALL.iter().rev()) {
            sets.move_to(slot, None, Some(*class));
        }
        assert_eq!(sets.count(), 4);
        for class in Yields::ALL {
            let (slot, found) = sets.next(Room::Any, |_| true).unwrap();
            assert_eq!(found, class);
            if class > Yields::Untracked {
                assert_eq!(sets.next(Room::Spare, |_| true), None);
            }
            if class > Yields::Tombstone {
                assert_eq!(sets.next(Room::Closed, |_| true), None);
            }
            sets.move_to(slot, Some(class), None);
        }
        assert_eq!(sets.next(Room::Any, |_| true), None);
    }

    #[test]
    fn young_flows_and_half_open_ones_share_the_room() {
        let mut sets = GiveWay::new(100);
        sets.move_to(50, None, Some(Yields::Unanswered));
        sets.move_to(1, None, Some(Yields::HalfOpen));
        assert_eq!(
            sets.next(Room::Any, |_| true),
            Some((50, Yields::Unanswered))
        );
        sets.move_to(2, None, Some(Yields::HalfOpen));
        assert_eq!(sets.next(Room::Any, |_| true), Some((1, Yields::HalfOpen)));
        assert_eq!(sets.next(Room::Any, |_| true), Some((2, Yields::HalfOpen)));
        assert_eq!(
            sets.next(Room::Any, |_| false),
            Some((50, Yields::Unanswered))
        );
    }
}

//! Packets and bytes of each side, exact, in eight bytes of the entry.
//!
//! ```text
//!  light  each side: 12 bits of packets, 20 bits of bytes: everything
//!  heavy  each side: 13 bits of a record's number, 5 bits of packets, 14 bits of bytes:
//!         what is not yet in the record
//! ```
//!
//! A flow that counts past its light width moves to a record of 64-bit numbers, which it then
//! visits once in 16 KiB or 32 packets of a side. There is a record for every flow, so that none is
//! ever refused one; they are given out densely and lie in zeroed pages that stay untouched until
//! then, so that only heavy flows cost memory (32 bytes each).

use super::flow::Traffic;
use super::sides::{Side, Sides};
use crate::cpu::untouched;

/// Most flows of a shard: the record's number has 26 bits.
pub(super) const FLOWS_MAX: u32 = 1 << 26;

const LIGHT: Width = Width {
    bytes_bits: 20,
    packets_bits: 12,
};
const HEAVY: Width = Width {
    bytes_bits: 14,
    packets_bits: 5,
};
const NUMBER_BITS: u32 = 13;
const NUMBER_SHIFT: u32 = 32 - NUMBER_BITS;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;

const _: () = assert!(LIGHT.bytes_bits + LIGHT.packets_bits == 32);
const _: () = assert!(HEAVY.bytes_bits + HEAVY.packets_bits == NUMBER_SHIFT);
const _: () = assert!(FLOWS_MAX == 1 << (2 * NUMBER_BITS));

/// How a word is divided: bytes in its low bits, packets above them.
#[derive(Clone, Copy)]
struct Width {
    bytes_bits: u32,
    packets_bits: u32,
}

impl Width {
    #[inline]
    fn read(self, word: u32) -> Traffic {
        let packets = word.wrapping_shr(self.bytes_bits) & mask(self.packets_bits);
        Traffic {
            packets: u64::from(packets),
            bytes: u64::from(word & mask(self.bytes_bits)),
        }
    }

    /// The word of these numbers, if they fit.
    #[inline]
    fn pack(self, traffic: Traffic) -> Option<u32> {
        let packets = u32::try_from(traffic.packets).ok()?;
        let bytes = u32::try_from(traffic.bytes).ok()?;
        if packets > mask(self.packets_bits) || bytes > mask(self.bytes_bits) {
            return None;
        }
        Some(packets.wrapping_shl(self.bytes_bits) | bytes)
    }
}

#[inline]
const fn mask(bits: u32) -> u32 {
    1u32.wrapping_shl(bits).wrapping_sub(1)
}

impl Traffic {
    #[inline]
    fn with(self, packets: u64, bytes: u64) -> Self {
        Self {
            packets: self.packets.wrapping_add(packets),
            bytes: self.bytes.wrapping_add(bytes),
        }
    }
}

/// Counts of a flow as its entry holds them; whether they are heavy, a bit of the entry says.
pub(super) type Words = Sides<u32>;

/// Whether a flow has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Light,
    Heavy,
}

/// A word with one more packet counted; `None` if that does not fit.
#[inline]
pub(super) fn count_one(word: u32, weight: Weight, frame_len: u32) -> Option<u32> {
    let (bytes_bits, fixed) = match weight {
        Weight::Light => (LIGHT.bytes_bits, 0),
        Weight::Heavy => (HEAVY.bytes_bits, NUMBER_MASK.wrapping_shl(NUMBER_SHIFT)),
    };
    let bytes = (word & mask(bytes_bits)).checked_add(frame_len)?;
    let packets = (word & !fixed & !mask(bytes_bits)).checked_add(1u32.wrapping_shl(bytes_bits))?;
    if bytes > mask(bytes_bits) || packets & fixed != 0 {
        return None;
    }
    Some(word & fixed | packets | bytes)
}

/// The records of a shard's heavy flows.
#[derive(Debug)]
pub(super) struct Records {
    /// Packets and bytes of the opener, packets and bytes of the other end. Of a freed record the
    /// first number leads to the next one, plus one.
    records: Vec<[u64; 4]>,
    /// First of the freed records, plus one; 0: none.
    free_head: u64,
    /// Records that have ever been in use.
    used: usize,
}

impl Records {
    /// A record for each of `count` flows.
    pub(super) fn new(count: u32) -> Self {
        Self {
            records: untouched(count as usize),
            free_head: 0,
            used: 0,
        }
    }

    /// Counts a packet of one side; whether the flow is heavy from now on.
    #[inline]
    pub(super) fn count(
        &mut self,
        words: &mut Words,
        weight: Weight,
        side: Side,
        frame_len: u32,
    ) -> Weight {
        let word = words.at(side);
        if weight == Weight::Light {
            let sum = LIGHT.read(*word).with(1, u64::from(frame_len));
            if let Some(packed) = LIGHT.pack(sum) {
                *word = packed;
                return weight;
            }
            return self.grow(words, side, sum);
        }
        let sum = HEAVY.read(*word).with(1, u64::from(frame_len));
        let number = *word & NUMBER_MASK.wrapping_shl(NUMBER_SHIFT);
        if let Some(packed) = HEAVY.pack(sum) {
            *word = number | packed;
        } else {
            *word = number;
            self.add(*words, side, sum);
        }
        weight
    }

    /// All that one side has sent.
    pub(super) fn total(&self, words: Words, weight: Weight, side: Side) -> Traffic {
        let word = words.of(side);
        if weight == Weight::Light {
            return LIGHT.read(word);
        }
        let record = self.records.get(number(words)).copied();
        let [packets, bytes, its_packets, its_bytes] = record.unwrap_or_default();
        let rest = HEAVY.read(word);
        match side {
            Side::Original => rest.with(packets, bytes),
            Side::Reply => rest.with(its_packets, its_bytes),
        }
    }

    /// Takes the record of a flow that ends.
    #[inline]
    pub(super) fn release(&mut self, words: Words, weight: Weight) {
        if weight == Weight::Light {
            return;
        }
        let number = number(words);
        if let Some(record) = self.records.get_mut(number) {
            *record = [self.free_head, 0, 0, 0];
            self.free_head = (number as u64).saturating_add(1);
        }
    }

    /// Bytes of all records, were every flow heavy.
    pub(super) fn bytes(&self) -> usize {
        size_of::<[u64; 4]>().saturating_mul(self.records.len())
    }

    #[cold]
    #[inline(never)]
    fn add(&mut self, words: Words, side: Side, traffic: Traffic) {
        if let Some([packets, bytes, its_packets, its_bytes]) = self.records.get_mut(number(words))
        {
            let (packets, bytes) = match side {
                Side::Original => (packets, bytes),
                Side::Reply => (its_packets, its_bytes),
            };
            *packets = packets.wrapping_add(traffic.packets);
            *bytes = bytes.wrapping_add(traffic.bytes);
        }
    }

    /// Gives a light flow a record; `sum` is what `side` has sent.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, words: &mut Words, side: Side, sum: Traffic) -> Weight {
        let other = LIGHT.read(words.of(side.opposite()));
        let Some(number) = self.allocate() else {
            debug_assert!(false, "there is a record for every flow");
            return Weight::Light;
        };
        *words = Words {
            original: (number & NUMBER_MASK).wrapping_shl(NUMBER_SHIFT),
            reply: number.wrapping_shr(NUMBER_BITS).wrapping_shl(NUMBER_SHIFT),
        };
        self.add(*words, side, sum);
        self.add(*words, side.opposite(), other);
        Weight::Heavy
    }

    fn allocate(&mut self) -> Option<u32> {
        let number = if self.free_head == 0 {
            let number = self.used;
            self.used = number.saturating_add(1);
            number
        } else {
            usize::try_from(self.free_head.wrapping_sub(1)).ok()?
        };
        let record = self.records.get_mut(number)?;
        let [next, ..] = std::mem::take(record);
        self.free_head = next;
        u32::try_from(number).ok()
    }
}

fn number(words: Words) -> usize {
    let low = words.original.wrapping_shr(NUMBER_SHIFT);
    let high = words.reply.wrapping_shr(NUMBER_SHIFT);
    (low | high.wrapping_shl(NUMBER_BITS)) as usize
}

#[cfg(test)]
impl Records {
    /// Records in use.
    pub(super) fn held(&self) -> usize {
        let (mut free, mut next) = (0, self.free_head);
        while next != 0 {
            free += 1;
            next = self.records[usize::try_from(next).unwrap() - 1][0];
        }
        self.used - free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_counts_exactly() {
        let lens = [60, 1_514, 9_000, 65_535, 1 << 20, u32::MAX];
        for packets in [1, 31, 32, 33, 4_095, 4_096, 10_000] {
            for len in lens {
                let mut records = Records::new(3);
                records.allocate().unwrap();
                let (mut words, mut weight) = (Words::both(0), Weight::Light);
                for _ in 0..packets {
                    weight = records.count(&mut words, weight, Side::Reply, len);
                    weight = records.count(&mut words, weight, Side::Original, 1);
                }
                let total = |side| records.total(words, weight, side);
                let bytes = packets * u64::from(len);
                assert_eq!(total(Side::Reply), Traffic { packets, bytes });
                let bytes = packets;
                assert_eq!(total(Side::Original), Traffic { packets, bytes });
            }
        }
    }

    #[test]
    fn records_are_used_again_and_begin_empty() {
        let mut records = Records::new(4);
        let grown = |records: &mut Records| {
            let mut words = Words::both(0);
            let weight = records.count(&mut words, Weight::Light, Side::Original, 1 << 21);
            assert_eq!(weight, Weight::Heavy);
            words
        };
        let flows: Vec<Words> = (0..4).map(|_| grown(&mut records)).collect();
        assert_eq!(records.held(), 4);
        for round in 0..10 {
            records.release(flows[round % 4], Weight::Heavy);
            assert_eq!(records.held(), 3);
            let words = grown(&mut records);
            assert_eq!(words, flows[round % 4]);
            let total = records.total(words, Weight::Heavy, Side::Original);
            assert_eq!((total.packets, total.bytes), (1, 1 << 21));
            assert_eq!(
                records.total(words, Weight::Heavy, Side::Reply),
                Traffic::default()
            );
        }
    }

    #[test]
    fn short_count_is_the_long_one_where_it_fits() {
        let numbers = [
            0,
            1,
            31,
            32,
            62,
            4_094,
            4_095,
            16_383,
            16_384,
            0xf_ffff,
            1 << 20,
        ];
        for weight in [Weight::Light, Weight::Heavy] {
            let width = if weight == Weight::Light {
                LIGHT
            } else {
                HEAVY
            };
            for (packets, bytes) in numbers.iter().flat_map(|n| numbers.map(|m| (*n, m))) {
                let before = Traffic {
                    packets: packets & u64::from(mask(width.packets_bits)),
                    bytes: bytes & u64::from(mask(width.bytes_bits)),
                };
                let number = if weight == Weight::Light {
                    0
                } else {
                    0x155 << NUMBER_SHIFT
                };
                let word = width.pack(before).unwrap() | number;
                for len in [0, 1, 60, 1_514, 16_383, 16_384, 0xf_ffff, 1 << 20, u32::MAX] {
                    let after = width.pack(before.with(1, u64::from(len)));
                    let expected = after.map(|after| after | number);
                    assert_eq!(count_one(word, weight, len), expected, "{before:?} {len}");
                }
            }
        }
    }

    #[test]
    fn number_of_the_last_record_fits() {
        let number_of = |number: u32| {
            let words = Words {
                original: (number & NUMBER_MASK) << NUMBER_SHIFT | 0x7ffff,
                reply: number >> NUMBER_BITS << NUMBER_SHIFT | 0x7ffff,
            };
            super::number(words)
        };
        for number in [0, 1, 8_191, 8_192, FLOWS_MAX - 1] {
            assert_eq!(number_of(number), number as usize);
        }
    }
}

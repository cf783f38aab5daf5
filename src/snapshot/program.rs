//! The rules of some groups in one direction, as steps.
//!
//! For each key of the address side (see [`super::classes`]) that concerns the rules, the service
//! space is cut into *steps*: intervals of protocols and ports, each with the lowest rule that
//! allows it, or none. A question finds the steps of each key of its address, and of "any address",
//! takes the step that its service lies in, and of these the lowest rule. Nothing is left to
//! search: what a rule with a wide service hides, or shows, was settled when the steps were made. A
//! key with `n` rules has at most `2n` steps, so a program takes memory in proportion to its rules,
//! whatever they are.
//!
//! Rejected: bitmaps over services, with the AND of an address's row and a service's. They find *a*
//! rule as fast, but the lowest one by a walk whose length the rules choose, and overlapping ranges
//! of ports take a bit for each pair of them.
//!
//! All of it is one array of words, so that a small program is one or two cache lines:
//!
//! ```text
//! header    [ buckets − 1 | any IPv4 | any IPv6 | slots | 0 … ]         8 words
//! buckets   [ 8 keys | the runs of their steps ]                        16 words each
//! runs      [ steps | lowest rule | upper levels … | ends … | rules … ]  0 as a run: no step
//! slots     [ slot of each rule, in the order of the rules ]
//! ```
//!
//! A run of up to 16 steps is counted through; of a longer one every sixteenth end is repeated in a
//! level above, and so on, as in [`super::interval`]. A run whose lowest rule of all is above one
//! that was found already is not looked into.

use super::Question;
use super::classes::{CLASS_KEYS_MAX, ClassKeys, NO_KEY};
use crate::cpu::prefetch;
use crate::packet::Family;
use crate::sync::Arc;
use crate::types::{RuleSlot, protocol};

/// Words before the buckets.
pub(crate) const HEADER_WORDS: usize = 8;
/// Header: count of buckets, less one.
pub(crate) const BUCKET_MASK: usize = 0;
/// Header: the steps of any address, IPv4 and IPv6.
pub(crate) const ANY_ADDRESS: [usize; 2] = [1, 2];
/// Header: where the slots of the rules begin.
pub(crate) const SLOTS: usize = 3;
/// Address keys of one bucket: half a cache line, their steps the other half.
pub(crate) const BUCKET_KEYS: usize = 8;
/// Words of a bucket.
pub(crate) const BUCKET_WORDS: usize = 2 * BUCKET_KEYS;
/// Most buckets that one lookup reads: the compiler takes more buckets rather than pass it.
pub(crate) const PROBES_MAX: usize = 4;
/// Words of a program from which on it does not stay in the nearest caches, and what a question
/// needs of it is asked for ahead: with a million rules, each key waits for memory otherwise.
const LARGE_WORDS: usize = 1 << 16;
/// Marks a free place of a bucket.
pub(crate) const FREE: u32 = NO_KEY;
/// Ends of steps in one node of a run.
pub(crate) const NODE_ENDS: usize = 16;
/// Most levels of a run: 16⁵ steps, and there are fewer service points that one can end at.
pub(crate) const RUN_LEVELS_MAX: usize = 5;
/// A step that no rule allows; greater than every rule.
pub(crate) const NO_RULE: u32 = u32::MAX;

/// A point of the service space: the kind of service in the high half, the number in the low one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServicePoint(pub(crate) u32);

impl ServicePoint {
    /// A protocol without ports, by its number.
    pub(crate) const OTHER: u32 = 0;
    /// TCP, by destination port.
    pub(crate) const TCP: u32 = 1;
    /// UDP, by destination port.
    pub(crate) const UDP: u32 = 2;
    /// ICMP over IPv4, by type and code.
    pub(crate) const ICMP: u32 = 3;
    /// ICMP over IPv6, by type and code.
    pub(crate) const ICMPV6: u32 = 4;

    /// A number of a kind.
    pub(crate) const fn new(kind: u32, number: u16) -> Self {
        Self((kind << 16) | number as u32)
    }

    /// Where a question's packet lies. ICMP of the other family is a protocol like any other.
    #[inline]
    fn of(question: &Question) -> Self {
        let number = question.service;
        match (question.protocol, question.remote.family()) {
            (protocol::TCP, _) => Self::new(Self::TCP, number),
            (protocol::UDP, _) => Self::new(Self::UDP, number),
            (protocol::ICMP, Family::V4) => Self::new(Self::ICMP, number),
            (protocol::ICMPV6, Family::V6) => Self::new(Self::ICMPV6, number),
            (other, _) => Self::new(Self::OTHER, u16::from(other)),
        }
    }
}

/// What a program lets through whatever the address: (family, TCP or UDP) pairs as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenTransports(pub(crate) u8);

impl OpenTransports {
    /// The bit of a family and protocol; none for protocols that are always tracked.
    pub(crate) fn bit(family: Family, protocol: u8) -> Self {
        let bit = match (protocol, family) {
            (protocol::TCP, Family::V4) => 1,
            (protocol::TCP, Family::V6) => 2,
            (protocol::UDP, Family::V4) => 4,
            (protocol::UDP, Family::V6) => 8,
            _ => 0,
        };
        Self(bit)
    }

    /// Whether they have a bit in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The compiled rules of some groups in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    words: Arc<[u32]>,
}

impl Program {
    /// Takes the words over; `compile` is the one who knows how to lay them out.
    pub(crate) fn new(words: Vec<u32>) -> Self {
        Self {
            words: words.into(),
        }
    }

    /// The lowest rule that allows a packet whose remote address has these keys.
    #[inline]
    pub(crate) fn find(&self, question: &Question, keys: &ClassKeys) -> Option<RuleSlot> {
        let point = ServicePoint::of(question);
        let is_large = self.words.len() >= LARGE_WORDS;
        if is_large {
            self.prefetch_buckets(keys);
        }
        let mut runs = [0_u32; CLASS_KEYS_MAX];
        for (run, key) in runs.iter_mut().zip(keys) {
            if *key == NO_KEY {
                break;
            }
            *run = self.run_of(*key).unwrap_or(0);
            if is_large {
                self.prefetch(*run as usize);
            }
        }
        let mut lowest = self.step_of_any(question.remote.family(), point);
        for run in runs.into_iter().filter(|run| *run != 0) {
            lowest = lowest.min(self.step(run, point, lowest));
        }
        if lowest == NO_RULE {
            return None;
        }
        self.word(self.word(SLOTS)?.wrapping_add(lowest) as usize)
            .map(RuleSlot)
    }

    /// Whether a rule for any address allows the packet.
    #[inline]
    pub(crate) fn allows_any_address(&self, question: &Question) -> bool {
        self.step_of_any(question.remote.family(), ServicePoint::of(question)) != NO_RULE
    }

    #[inline]
    fn step_of_any(&self, family: Family, point: ServicePoint) -> u32 {
        let [v4, v6] = ANY_ADDRESS;
        let run = self.word(match family {
            Family::V4 => v4,
            Family::V6 => v6,
        });
        match run {
            None | Some(0) => NO_RULE,
            Some(run) => self.step(run, point, NO_RULE),
        }
    }

    /// Asks for the first buckets of some keys.
    fn prefetch_buckets(&self, keys: &ClassKeys) {
        let mask = self.word(BUCKET_MASK).unwrap_or(0);
        for key in keys.iter().take_while(|key| **key != NO_KEY) {
            let bucket = home(*key, mask).wrapping_mul(BUCKET_WORDS);
            self.prefetch(bucket.wrapping_add(HEADER_WORDS));
        }
    }

    fn prefetch(&self, index: usize) {
        if let Some(word) = self.words.get(index) {
            prefetch(word);
        }
    }

    /// The run of an address key.
    #[inline]
    fn run_of(&self, key: u32) -> Option<u32> {
        let mask = self.word(BUCKET_MASK)?;
        let home = home(key, mask);
        for probe in 0..PROBES_MAX {
            let bucket = home.wrapping_add(probe) & mask as usize;
            let start = bucket.wrapping_mul(BUCKET_WORDS).wrapping_add(HEADER_WORDS);
            let bucket = self.words.get(start..)?.first_chunk::<BUCKET_WORDS>()?;
            let (keys, runs) = bucket.split_first_chunk::<BUCKET_KEYS>()?;
            // One bit for each place, so that all are compared at once.
            let found = matches(keys, key);
            if found != 0 {
                return runs.get(found.trailing_zeros() as usize).copied();
            }
            if matches(keys, FREE) != 0 {
                return None;
            }
        }
        None
    }

    /// The lowest rule that a run has for a point, if it is below one that was found already.
    #[inline]
    fn step(&self, run: u32, point: ServicePoint, found: u32) -> u32 {
        self.step_in(run as usize, point, found).unwrap_or(NO_RULE)
    }

    #[inline]
    fn step_in(&self, run: usize, point: ServicePoint, found: u32) -> Option<u32> {
        let ([count, lowest], run) = self.words.get(run..)?.split_first_chunk()?;
        if *lowest >= found {
            return None;
        }
        let count = *count as usize;
        if count <= NODE_ENDS {
            let position = count_before(run.get(..count)?, point);
            if position == count {
                return None;
            }
            return run.get(count.wrapping_add(position)).copied();
        }
        Self::step_in_levels(count, run, point)
    }

    /// The step of a run that has levels; walks at most [`RUN_LEVELS_MAX`] of them down.
    fn step_in_levels(count: usize, mut run: &[u32], point: ServicePoint) -> Option<u32> {
        let sizes = level_sizes(count);
        let mut position = 0_usize;
        for size in sizes.into_iter().filter(|size| *size != 0) {
            let (level, below) = run.split_at_checked(size)?;
            let start = position.wrapping_mul(NODE_ENDS);
            let node = level.get(start..)?;
            let inside = match node.first_chunk::<NODE_ENDS>() {
                Some(node) => count_before(node, point),
                None => count_before(node, point),
            };
            position = start.wrapping_add(inside);
            run = below;
        }
        if position >= count {
            return None;
        }
        run.get(position).copied()
    }

    #[inline]
    fn word(&self, index: usize) -> Option<u32> {
        self.words.get(index).copied()
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

/// The bucket that a key is looked for first. Fibonacci hashing: keys are numbers that the compiler
/// hands out, never taken from packets, and consecutive ones spread evenly.
#[inline]
pub(crate) fn home(key: u32, mask: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b9).rotate_left(15) & mask) as usize
}

/// Sizes of the levels of a run of so many steps, the uppermost one first; zeros before it.
#[inline]
pub(crate) fn level_sizes(count: usize) -> [usize; RUN_LEVELS_MAX] {
    let mut sizes = [0; RUN_LEVELS_MAX];
    let mut size = count;
    for level in sizes.iter_mut().rev() {
        *level = size;
        if size <= NODE_ENDS {
            break;
        }
        size = size.div_ceil(NODE_ENDS);
    }
    sizes
}

/// How many ends lie before a point; wrapping, so that overflow checks cannot keep the compiler
/// from comparing all at once.
#[inline]
fn count_before(ends: &[u32], point: ServicePoint) -> usize {
    let count = ends.iter().take(NODE_ENDS).fold(0_u32, |count, end| {
        count.wrapping_add(u32::from(*end < point.0))
    });
    count as usize
}

/// A bit for each key that is this one.
#[inline]
fn matches(keys: &[u32; BUCKET_KEYS], key: u32) -> u32 {
    keys.iter().zip(0_u32..).fold(0, |bits, (k, place)| {
        bits | u32::from(*k == key).wrapping_shl(place)
    })
}

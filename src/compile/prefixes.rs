//! Labeled prefixes that come and go, and the intervals that they cut the address space into.
//!
//! Prefixes nest or lie apart, but never overlap halfway. The value of an address is computed from
//! the outside in: from the value around a prefix and its labels. Where prefixes came or went, the
//! values inside of them are computed anew, and those only.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::snapshot::interval::{Patch, Point};

/// More changed prefixes than one in so many of all: it is cheaper to walk all of them once.
const WALK_ALL_SHARE: usize = 16;
/// Lengths of prefixes: 0 to 128.
const LENGTHS: usize = 129;

/// An address as a number, of which prefixes are the upper bits.
pub(super) trait Bits: Point {
    /// The lowest address with the same first `len` bits.
    fn first_of(self, len: u8) -> Self;
    /// The highest address with the same first `len` bits.
    fn last_of(self, len: u8) -> Self;
    /// The prefix of its first `len` bits.
    fn net(self, len: u8) -> IpNet;
}

macro_rules! bits {
    ($($int:ty, $net:ty);+) => {$(
        impl Bits for $int {
            fn first_of(self, len: u8) -> Self {
                let host = <$int>::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                self & !host
            }

            fn last_of(self, len: u8) -> Self {
                self | <$int>::MAX.checked_shr(u32::from(len)).unwrap_or(0)
            }

            fn net(self, len: u8) -> IpNet {
                IpNet::from(<$net>::new_assert(self.into(), len))
            }
        }
    )+};
}

bits!(u32, Ipv4Net; u128, Ipv6Net);

/// A prefix and a label; outer prefixes before the inner ones that begin with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labeled<K> {
    pub(super) first: K,
    pub(super) len: u8,
    pub(super) label: u32,
}

/// Computes values from the outside in.
pub(super) trait Values<K, E> {
    /// The value inside of a prefix from the value around it and its labels, in ascending order; at
    /// least one.
    fn enter(&mut self, around: u32, prefix: (K, u8), labels: &[u32]) -> Result<u32, E>;
}

/// Prefixes of one family.
#[derive(Clone, Debug)]
pub(super) struct Prefixes<K> {
    /// How often each was added: one address may be named by several interfaces of a group.
    counts: BTreeMap<Labeled<K>, u32>,
    /// How many there are of each length.
    lengths: Box<[u32]>,
    /// Changes that are not yet in `counts`.
    pending: Vec<(Labeled<K>, i32)>,
}

impl<K> Default for Prefixes<K> {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            lengths: vec![0; LENGTHS].into(),
            pending: Vec::new(),
        }
    }
}

impl<K: Bits> Prefixes<K> {
    /// Adds a prefix, or another use of it.
    pub(super) fn add(&mut self, first: K, len: u8, label: u32) {
        self.pending.push((Labeled { first, len, label }, 1));
    }

    /// Takes back what was added.
    pub(super) fn remove(&mut self, first: K, len: u8, label: u32) {
        self.pending.push((Labeled { first, len, label }, -1));
    }

    /// Puts the changes in force and returns the new intervals of the ranges that they concern;
    /// outside of all prefixes the value is `root`.
    pub(super) fn flush<E>(
        &mut self,
        root: u32,
        values: &mut impl Values<K, E>,
    ) -> Result<Vec<Patch<K>>, E> {
        let changed = self.take_pending();
        if changed.len() > self.counts.len() / WALK_ALL_SHARE + WALK_ALL_SHARE {
            return Ok(vec![self.walk(K::FIRST, 0, root, values)?]);
        }
        let mut patches: Vec<Patch<K>> = Vec::new();
        // In order: outer prefixes first, then those inside, which they cover.
        for prefix in changed {
            if patches.last().is_none_or(|patch| patch.last < prefix.first) {
                let around = self.around(prefix, root, values)?;
                patches.push(self.walk(prefix.first, prefix.len, around, values)?);
            }
        }
        Ok(patches)
    }

    /// Counts the changes and returns the prefixes with labels that came or went, in order.
    fn take_pending(&mut self) -> Vec<Labeled<K>> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_unstable_by_key(|(prefix, _)| *prefix);
        let mut changed = Vec::new();
        let all_new = self.counts.is_empty();
        let mut fresh = Vec::new();
        for same in pending.chunk_by(|a, b| a.0 == b.0) {
            let prefix = same[0].0;
            let more: i32 = same.iter().map(|(_, more)| more).sum();
            let before = self.counts.get(&prefix).copied().unwrap_or(0);
            let after = before.saturating_add_signed(more);
            let length = &mut self.lengths[usize::from(prefix.len)];
            match (before, after) {
                (0, 0) => continue,
                (0, _) => *length += 1,
                (_, 0) => *length -= 1,
                _ => {}
            }
            if (before == 0) != (after == 0) {
                changed.push(prefix);
            }
            match (after, all_new) {
                (0, _) => {
                    self.counts.remove(&prefix);
                }
                (_, true) => fresh.push((prefix, after)),
                (_, false) => {
                    self.counts.insert(prefix, after);
                }
            }
        }
        if all_new {
            // In order, so that the tree is built at once.
            self.counts = fresh.into_iter().collect();
        }
        changed
    }

    /// The value around a prefix: of those that enclose it, from the outside in.
    fn around<E>(
        &self,
        prefix: Labeled<K>,
        root: u32,
        values: &mut impl Values<K, E>,
    ) -> Result<u32, E> {
        let mut around = root;
        for len in (0..prefix.len).filter(|len| self.lengths[usize::from(*len)] != 0) {
            let first = prefix.first.first_of(len);
            let with_label = |label| Labeled { first, len, label };
            let same = self.counts.range(with_label(0)..=with_label(u32::MAX));
            let labels: Vec<u32> = same.map(|(found, _)| found.label).collect();
            if !labels.is_empty() {
                around = values.enter(around, (first, len), &labels)?;
            }
        }
        Ok(around)
    }

    /// The intervals of a prefix's addresses.
    fn walk<E>(
        &self,
        first: K,
        len: u8,
        root: u32,
        values: &mut impl Values<K, E>,
    ) -> Result<Patch<K>, E> {
        let last = first.last_of(len);
        let from = Labeled {
            first,
            len,
            label: 0,
        };
        let to = Labeled {
            first: last,
            len: u8::MAX,
            label: u32::MAX,
        };
        let mut intervals = Intervals::new(first);
        // End, value inside, value around of each prefix that holds the point reached.
        let mut open: Vec<(K, u32, u32)> = Vec::new();
        let mut around = root;
        let mut prefixes = self.counts.range(from..=to).map(|(prefix, _)| *prefix);
        let mut next = prefixes.next();
        let mut labels = Vec::new();
        while let Some(prefix) = next {
            labels.clear();
            labels.push(prefix.label);
            next = prefixes.next();
            while let Some(same) = next
                && (same.first, same.len) == (prefix.first, prefix.len)
            {
                labels.push(same.label);
                next = prefixes.next();
            }
            while let Some((end, value, outside)) = open.pop_if(|(end, ..)| *end < prefix.first) {
                intervals.extend_to(end, value);
                around = outside;
            }
            if let Some(before) = prefix.first.before() {
                intervals.extend_to(before, around);
            }
            let inside = values.enter(around, (prefix.first, prefix.len), &labels)?;
            open.push((prefix.first.last_of(prefix.len), inside, around));
            around = inside;
        }
        while let Some((end, value, _)) = open.pop() {
            intervals.extend_to(end, value);
        }
        intervals.extend_to(last, root);
        Ok(Patch {
            first,
            last,
            intervals: intervals.made,
        })
    }
}

/// Intervals from the lowest address up; neighbors of equal value are joined.
struct Intervals<K> {
    made: Vec<(K, u32)>,
    /// First address that no interval covers yet; `None` at the end of the space.
    next: Option<K>,
}

impl<K: Bits> Intervals<K> {
    fn new(first: K) -> Self {
        Self {
            made: Vec::new(),
            next: Some(first),
        }
    }

    fn extend_to(&mut self, last: K, value: u32) {
        if self.next.is_none_or(|next| last < next) {
            return;
        }
        self.next = last.after();
        match self.made.last_mut() {
            Some((end, same)) if *same == value => *end = last,
            _ => self.made.push((last, value)),
        }
    }
}

/// Prefixes of both families.
#[derive(Clone, Debug, Default)]
pub(super) struct BothPrefixes {
    pub(super) v4: Prefixes<u32>,
    pub(super) v6: Prefixes<u128>,
}

impl BothPrefixes {
    /// Adds a prefix, or another use of it.
    pub(super) fn add(&mut self, net: IpNet, label: u32) {
        match net {
            IpNet::V4(net) => self.v4.add(v4(net), net.prefix_len(), label),
            IpNet::V6(net) => self.v6.add(v6(net), net.prefix_len(), label),
        }
    }

    /// Takes back what was added.
    pub(super) fn remove(&mut self, net: IpNet, label: u32) {
        match net {
            IpNet::V4(net) => self.v4.remove(v4(net), net.prefix_len(), label),
            IpNet::V6(net) => self.v6.remove(v6(net), net.prefix_len(), label),
        }
    }

    /// Whether there is anything to flush.
    pub(super) fn is_changed(&self) -> bool {
        !self.v4.pending.is_empty() || !self.v6.pending.is_empty()
    }
}

fn v4(net: Ipv4Net) -> u32 {
    net.network().to_bits()
}

fn v6(net: Ipv6Net) -> u128 {
    net.network().to_bits()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::interval::{CountValues, IntervalMap};

    /// Value: the number of labels that hold the address.
    struct Depth;

    impl Values<u32, Infallible> for Depth {
        fn enter(
            &mut self,
            around: u32,
            _prefix: (u32, u8),
            labels: &[u32],
        ) -> Result<u32, Infallible> {
            Ok(around + labels.len() as u32)
        }
    }

    struct Uncounted;

    impl CountValues for Uncounted {
        fn come(&mut self, _value: u32) {}
        fn go(&mut self, _value: u32) {}
    }

    #[test]
    fn prefixes_that_come_and_go_leave_the_depth_of_each_address() {
        // Eight-bit universe at both ends of the space: prefixes as (bits, length).
        let prefix = (any::<u8>(), 0_u8..=32, any::<bool>(), 0..3_u32);
        let step = proptest::collection::vec((prefix, any::<prop::sample::Index>()), 0..12);
        proptest!(|(steps in proptest::collection::vec(step, 1..12))| {
            let mut prefixes = Prefixes::<u32>::default();
            let mut map = IntervalMap::uniform(0);
            let mut given: Vec<Labeled<u32>> = Vec::new();
            for step in steps {
                for ((bits, len, high, label), gone) in step {
                    let base = if high { u32::MAX << 8 } else { 0 };
                    let first = (base | u32::from(bits)).first_of(len);
                    prefixes.add(first, len, label);
                    given.push(Labeled { first, len, label });
                    if label == 0 {
                        let gone = given.swap_remove(gone.index(given.len()));
                        prefixes.remove(gone.first, gone.len, gone.label);
                    }
                }
                let patches = prefixes.flush(0, &mut Depth).unwrap();
                map = map.patched(patches, &mut Uncounted).unwrap();
                let mut distinct = given.clone();
                distinct.sort_unstable();
                distinct.dedup();
                for low in 0..=255_u32 {
                    for address in [low, low | (u32::MAX << 8)] {
                        let holds = |p: &&Labeled<u32>| {
                            p.first <= address && address <= p.first.last_of(p.len)
                        };
                        let expected = distinct.iter().filter(holds).count();
                        prop_assert_eq!(map.find(address), Some(expected as u32));
                    }
                }
            }
        });
    }
}

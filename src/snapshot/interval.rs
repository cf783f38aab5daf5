//! A partition of a key space into intervals, each with a value: a static B+ tree in one array.
//!
//! All of the snapshot's range lookups are this one: addresses to classes, services to rows,
//! addresses to their owners. Keys are the *last* point of each interval, so that padding with the
//! greatest key is never counted and no search needs a correction at the end:
//!
//! ```text
//! level 0   [ max of node 0 | max of node 1 | … | MAX MAX ]      one node of 16 keys
//! level 1   [ node 0: 16 interval ends ][ node 1: … ][ … MAX ]   values lie beside this level
//! ```
//!
//! A lookup counts, in one node a level, the keys that lie before the point: 16 comparisons without
//! a branch, one cache line for IPv4. 100,000 intervals are five levels, of which the upper three
//! stay in the nearest cache. A binary search would take 17 dependent steps. The line of the values
//! is asked for before the last node is searched, so that both are waited for together.

use crate::cpu::prefetch;

/// Keys in one node: a cache line of IPv4 addresses.
const NODE_KEYS: usize = 16;
/// Most levels of a tree: 16⁶ intervals.
const LEVELS_MAX: usize = 6;
/// Most intervals of one map.
pub(crate) const INTERVALS_MAX: usize = NODE_KEYS.pow(6);

/// A point of a key space.
pub(crate) trait Point: Copy + Ord {
    /// The lowest point.
    const FIRST: Self;
    /// The highest point.
    const LAST: Self;
    /// The point before this one.
    fn before(self) -> Option<Self>;
    /// The point after this one.
    fn after(self) -> Option<Self>;
}

macro_rules! point {
    ($($int:ty),+) => {$(
        impl Point for $int {
            const FIRST: Self = <$int>::MIN;
            const LAST: Self = <$int>::MAX;

            fn before(self) -> Option<Self> {
                self.checked_sub(1)
            }

            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )+};
}

point!(u32, u128);

/// Keys or values, on a line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Node<T>([T; NODE_KEYS]);

/// Intervals that cover the whole key space, and the value of each.
#[derive(Clone, Debug)]
pub(crate) struct IntervalMap<K> {
    /// All levels, the root first, each padded to whole nodes with `K::LAST`.
    nodes: Box<[Node<K>]>,
    /// Values of the last level, in its order.
    values: Box<[Node<u32>]>,
    /// Where each level begins in `nodes`.
    offsets: [u32; LEVELS_MAX],
    levels: u8,
}

impl<K: Point> IntervalMap<K> {
    /// One interval with one value.
    pub(crate) fn uniform(value: u32) -> Self {
        let mut builder = IntervalBuilder::new();
        builder.extend_to(K::LAST, value);
        builder.finish().unwrap_or_else(|| Self {
            nodes: Box::default(),
            values: Box::default(),
            offsets: [0; LEVELS_MAX],
            levels: 0,
        })
    }

    /// The value at a point.
    #[inline]
    pub(crate) fn find(&self, point: K) -> Option<u32> {
        let (leaf, first) = self.leaf(point)?;
        let Node(values) = self.values.get(leaf)?;
        prefetch(values);
        let node = self.nodes.get(first.wrapping_add(leaf))?;
        values.get(count_before(&node.0, point)).copied()
    }

    /// The interval that a point is in: its last point and its value.
    pub(crate) fn interval(&self, point: K) -> Option<(K, u32)> {
        let (leaf, first) = self.leaf(point)?;
        let node = self.nodes.get(first.wrapping_add(leaf))?;
        let position = count_before(&node.0, point);
        Some((
            *node.0.get(position)?,
            *self.values.get(leaf)?.0.get(position)?,
        ))
    }

    /// The node of the last level that a point's interval is in, and where that level begins.
    #[inline]
    fn leaf(&self, point: K) -> Option<(usize, usize)> {
        let (last, inner) = self.offsets.get(..usize::from(self.levels))?.split_last()?;
        // The position inside a level is the node of the next one.
        let mut position = 0_usize;
        for offset in inner {
            let node = self.nodes.get((*offset as usize).wrapping_add(position))?;
            position = position
                .wrapping_mul(NODE_KEYS)
                .wrapping_add(count_before(&node.0, point));
        }
        Some((position, *last as usize))
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes).saturating_add(size_of_val(&*self.values))
    }
}

/// How many keys of a node lie before a point; wrapping, so that overflow checks cannot keep the
/// compiler from comparing all at once.
#[inline]
fn count_before<K: Point>(node: &[K; NODE_KEYS], point: K) -> usize {
    let count = node.iter().fold(0_u32, |count, key| {
        count.wrapping_add(u32::from(*key < point))
    });
    count as usize
}

/// Takes intervals from the lowest to the highest and joins neighbors of equal value.
#[derive(Debug)]
pub(crate) struct IntervalBuilder<K> {
    ends: Vec<K>,
    values: Vec<u32>,
    /// First point that no interval covers yet; `None` at the end of the space.
    next: Option<K>,
}

impl<K: Point> IntervalBuilder<K> {
    pub(crate) fn new() -> Self {
        Self {
            ends: Vec::new(),
            values: Vec::new(),
            next: Some(K::FIRST),
        }
    }

    /// Gives `value` to all points up to and with `last` that have none yet.
    pub(crate) fn extend_to(&mut self, last: K, value: u32) {
        if self.next.is_none_or(|next| last < next) {
            return;
        }
        self.next = last.after();
        if self.values.last() == Some(&value)
            && let Some(end) = self.ends.last_mut()
        {
            *end = last;
        } else {
            self.ends.push(last);
            self.values.push(value);
        }
    }

    /// Lays the tree out; `None` if the space is not covered or has over [`INTERVALS_MAX`] parts.
    pub(crate) fn finish(self) -> Option<IntervalMap<K>> {
        if self.next.is_some() || self.ends.len() > INTERVALS_MAX {
            return None;
        }
        let mut levels = vec![self.ends];
        while let Some(below) = levels.last_mut()
            && below.len() > NODE_KEYS
        {
            // The last node's last real key is `LAST`, like its padding.
            let above = below
                .chunks(NODE_KEYS)
                .filter_map(|node| node.last().copied())
                .collect();
            pad(below);
            levels.push(above);
        }
        levels.last_mut().map(pad)?;
        let mut nodes =
            Vec::with_capacity(levels.iter().map(|level| level.len() / NODE_KEYS).sum());
        let mut offsets = [0; LEVELS_MAX];
        for (level, offset) in levels.iter().rev().zip(&mut offsets) {
            *offset = u32::try_from(nodes.len()).ok()?;
            nodes.extend(nodes_of(level));
        }
        let mut values = self.values;
        values.resize(values.len().next_multiple_of(NODE_KEYS), 0);
        Some(IntervalMap {
            nodes: nodes.into(),
            values: nodes_of(&values).collect(),
            offsets,
            levels: u8::try_from(levels.len()).ok()?,
        })
    }
}

/// A level's nodes; it is filled up.
fn nodes_of<T: Copy>(level: &[T]) -> impl Iterator<Item = Node<T>> + '_ {
    level.as_chunks::<NODE_KEYS>().0.iter().copied().map(Node)
}

/// Fills the last node up.
fn pad<K: Point>(level: &mut Vec<K>) {
    level.resize(level.len().next_multiple_of(NODE_KEYS), K::LAST);
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map_of(ends: &[u32]) -> IntervalMap<u32> {
        let mut builder = IntervalBuilder::new();
        for (index, end) in ends.iter().enumerate() {
            builder.extend_to(*end, index as u32);
        }
        builder.extend_to(u32::MAX, u32::MAX);
        builder.finish().unwrap()
    }

    #[test]
    fn every_size_around_a_full_node_is_found() {
        for count in (0..70).chain([255, 256, 257, 4095, 4096, 4097]) {
            let ends: Vec<u32> = (0..count).map(|i| i * 10 + 5).collect();
            let map = map_of(&ends);
            for (index, end) in ends.iter().enumerate() {
                assert_eq!(map.find(*end), Some(index as u32), "{count}");
                let above = map.find(*end + 1).unwrap();
                let expected = if index + 1 == ends.len() {
                    u32::MAX
                } else {
                    index as u32 + 1
                };
                assert_eq!(above, expected, "{count}");
            }
            assert_eq!(map.find(u32::MAX), Some(u32::MAX));
            assert_eq!(map.find(0), Some(if count == 0 { u32::MAX } else { 0 }));
        }
    }

    #[test]
    fn neighbors_of_equal_value_are_one_interval() {
        let mut builder = IntervalBuilder::<u128>::new();
        for last in 0..1000 {
            builder.extend_to(last, 7);
        }
        builder.extend_to(u128::MAX, 7);
        assert_eq!(builder.values.len(), 1);
        let map = builder.finish().unwrap();
        assert_eq!(map.find(u128::MAX), Some(7));
    }

    #[test]
    fn a_space_with_a_hole_at_its_end_is_refused() {
        let mut builder = IntervalBuilder::<u32>::new();
        builder.extend_to(u32::MAX - 1, 1);
        assert!(builder.finish().is_none());
    }

    proptest! {
        #[test]
        fn find_agrees_with_a_linear_search(
            mut ends in proptest::collection::vec(any::<u128>(), 0..400),
            points in proptest::collection::vec(any::<u128>(), 50),
        ) {
            ends.push(u128::MAX);
            ends.sort_unstable();
            ends.dedup();
            let mut builder = IntervalBuilder::new();
            for (index, end) in ends.iter().enumerate() {
                builder.extend_to(*end, index as u32);
            }
            let map = builder.finish().unwrap();
            for point in points.iter().chain(&ends) {
                let expected = ends.iter().position(|end| end >= point).unwrap();
                prop_assert_eq!(map.find(*point), Some(expected as u32));
                let interval = Some((ends[expected], expected as u32));
                prop_assert_eq!(map.interval(*point), interval);
            }
        }
    }
}

//! A partition of a key space into intervals, each with a value: a B+ tree whose leaves are shared.
//!
//! The snapshot's range lookups of addresses are this one: addresses to classes, addresses to
//! their owners. Keys are the *last* point of each interval, so that padding with the greatest key
//! is never counted and no search needs a correction at the end:
//!
//! ```text
//! upper levels   [ last of page 0 | last of page 1 | … | MAX ]      one array, the root first
//! page           [ last of node 0 | … ][ node 0: 16 interval ends ][ node 1: … ]    and its values
//! ```
//!
//! A lookup counts, in one node a level, the keys that lie before the point: 16 comparisons without
//! a branch, one cache line for IPv4. 100,000 intervals are five levels, of which the upper three
//! stay in the nearest cache. A binary search would take 17 dependent steps. The line of the values
//! is asked for before the last node is searched, so that both are waited for together.
//!
//! A change copies the pages that it lies in and the upper levels; the other pages are shared with
//! the map before, so that what differs between two maps is found by the pages that they do not
//! share.

use crate::cpu::prefetch;
use crate::sync::Arc;

/// Keys in one node: a cache line of IPv4 addresses.
const NODE_KEYS: usize = 16;
/// Most intervals of one page: a node of nodes.
const PAGE_MAX: usize = NODE_KEYS * NODE_KEYS;
/// Intervals of a page that is made anew, so that there is room to grow.
const PAGE_FILL: usize = 200;
/// Intervals that a page has at least, if it is made anew beside others.
const PAGE_MIN: usize = 64;
/// Most upper levels of a tree.
const LEVELS_MAX: usize = 5;
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

/// Intervals that cover the whole key space, and the value of each. A clone shares everything.
#[derive(Clone, Debug)]
pub(crate) struct IntervalMap<K> {
    body: Arc<Body<K>>,
}

#[derive(Debug)]
struct Body<K> {
    /// The upper levels, the root first, each padded to whole nodes with `K::LAST`; the lowest has
    /// the last point of each page.
    keys: Box<[K]>,
    /// Where each level begins in `keys`.
    offsets: [u32; LEVELS_MAX],
    levels: u8,
    pages: Box<[Page<K>]>,
}

/// Neighboring intervals.
#[derive(Clone, Debug)]
struct Page<K> {
    /// A node of the last keys of the other nodes, if there are several; then the ends of the
    /// intervals. All padded with `K::LAST`.
    keys: Arc<[K]>,
    values: Arc<[u32]>,
}

/// A range of a map that gets other intervals: those of a whole range, in order, the last of which
/// ends with it.
#[derive(Clone, Debug)]
pub(crate) struct Patch<K> {
    pub(crate) first: K,
    pub(crate) last: K,
    /// End and value of each interval.
    pub(crate) intervals: Vec<(K, u32)>,
}

/// How often values are used by the pages that a change replaced and made.
pub(crate) trait CountValues {
    /// An interval with this value came.
    fn come(&mut self, value: u32);
    /// An interval with this value went.
    fn go(&mut self, value: u32);
}

/// For maps whose values nobody counts.
pub(crate) struct Uncounted;

impl CountValues for Uncounted {
    fn come(&mut self, _value: u32) {}
    fn go(&mut self, _value: u32) {}
}

impl<K: Point> IntervalMap<K> {
    /// One interval with one value.
    pub(crate) fn uniform(value: u32) -> Self {
        let page = Page::new(&[(K::LAST, value)]);
        Self {
            body: Arc::new(Body::new(vec![page], vec![K::LAST])),
        }
    }

    /// The value at a point.
    #[inline]
    pub(crate) fn find(&self, point: K) -> Option<u32> {
        let (page, position) = self.place(point)?;
        page.values.get(position).copied()
    }

    /// The last point of the interval that a point lies in, and its value.
    pub(crate) fn interval(&self, point: K) -> Option<(K, u32)> {
        let (page, position) = self.place(point)?;
        let end = page.ends().get(position)?;
        Some((*end, *page.values.get(position)?))
    }

    #[inline]
    fn place(&self, point: K) -> Option<(&Page<K>, usize)> {
        let page = self.body.pages.get(self.body.page_of(point)?)?;
        Some((page, page.position(point)?))
    }

    /// Where this map and another one may differ, ascending and apart: elsewhere they share pages.
    pub(crate) fn unshared(&self, other: &Self) -> Vec<(K, K)> {
        let mut ranges: Vec<(K, K)> = Vec::new();
        if Arc::ptr_eq(&self.body, &other.body) {
            return ranges;
        }
        let (mut mine, mut theirs) = (0_usize, 0_usize);
        let mut first = Some(K::FIRST);
        // Bound: the pages of both.
        while let Some(from) = first {
            let (Some(a), Some(b)) = (self.body.page(mine), other.body.page(theirs)) else {
                ranges.push((from, K::LAST));
                break;
            };
            let to = a.1.min(b.1);
            mine = mine.saturating_add(usize::from(a.1 == to));
            theirs = theirs.saturating_add(usize::from(b.1 == to));
            if !a.0.is_same(b.0) {
                match ranges.last_mut() {
                    Some((_, end)) if end.after() == Some(from) => *end = to,
                    _ => ranges.push((from, to)),
                }
            }
            first = to.after();
        }
        ranges
    }

    /// The map with these ranges, which are ascending and apart, replaced; `None` if it would have
    /// over [`INTERVALS_MAX`] intervals.
    pub(crate) fn patched(
        &self,
        patches: Vec<Patch<K>>,
        count: &mut impl CountValues,
    ) -> Option<Self> {
        if patches.is_empty() {
            return Some(self.clone());
        }
        let old = &*self.body;
        let mut pages: Vec<Page<K>> = Vec::with_capacity(old.pages.len());
        let mut ends: Vec<K> = Vec::with_capacity(old.pages.len());
        let mut done = 0_usize;
        let mut patches = patches.into_iter().peekable();
        while let Some(patch) = patches.peek() {
            let from = old.page_of(patch.first)?;
            for page in done..from {
                pages.push(old.pages.get(page)?.clone());
                ends.push(old.last_of(page)?);
            }
            let mut region = Region::begin(ends.last().copied());
            let mut to = from;
            let mut page = from;
            while page <= to {
                let of_page = old.pages.get(page)?;
                of_page.values.iter().for_each(|value| count.go(*value));
                for (end, value) in of_page.intervals() {
                    while let Some(patch) = patches.next_if(|patch| patch.first <= end) {
                        to = to.max(old.page_of(patch.last)?);
                        region.patch(patch, value);
                    }
                    region.extend_to(end, value);
                }
                if page == to && region.len() < PAGE_MIN && to.saturating_add(1) < old.pages.len() {
                    to = to.saturating_add(1);
                }
                page = page.saturating_add(1);
            }
            done = page;
            region.finish(|intervals| {
                intervals.iter().for_each(|(_, value)| count.come(*value));
                ends.extend(intervals.last().map(|(end, _)| *end));
                pages.push(Page::new(intervals));
            });
        }
        for page in done..old.pages.len() {
            pages.push(old.pages.get(page)?.clone());
            ends.push(old.last_of(page)?);
        }
        if pages.len() > INTERVALS_MAX / PAGE_FILL {
            return None;
        }
        Some(Self {
            body: Arc::new(Body::new(pages, ends)),
        })
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let of_page = |page: &Page<K>| {
            size_of_val(&*page.keys)
                .saturating_add(size_of_val(&*page.values))
                .saturating_add(size_of::<Page<K>>())
        };
        let pages = self.body.pages.iter().map(of_page);
        pages.fold(size_of_val(&*self.body.keys), usize::saturating_add)
    }
}

impl<K: Point> Body<K> {
    /// Lays the upper levels out over pages and their last points.
    fn new(pages: Vec<Page<K>>, ends: Vec<K>) -> Self {
        let mut levels = vec![ends];
        while let Some(below) = levels.last_mut()
            && below.len() > NODE_KEYS
            && levels.len() < LEVELS_MAX
        {
            let Some(below) = levels.last_mut() else {
                break;
            };
            // The last node's last real key is `LAST`, like its padding.
            let above = below
                .chunks(NODE_KEYS)
                .filter_map(|node| node.last().copied())
                .collect();
            pad(below);
            levels.push(above);
        }
        levels.last_mut().map(pad);
        let mut keys = Vec::with_capacity(levels.iter().map(Vec::len).sum());
        let mut offsets = [0; LEVELS_MAX];
        for (level, offset) in levels.iter().rev().zip(&mut offsets) {
            *offset = u32::try_from(keys.len()).unwrap_or(u32::MAX);
            keys.extend_from_slice(level);
        }
        Self {
            keys: keys.into(),
            offsets,
            levels: u8::try_from(levels.len()).unwrap_or(0),
            pages: pages.into(),
        }
    }

    /// The page that a point lies in.
    #[inline]
    fn page_of(&self, point: K) -> Option<usize> {
        let mut position = 0_usize;
        for offset in self.offsets.iter().take(usize::from(self.levels)) {
            let start = (*offset as usize).wrapping_add(position.wrapping_mul(NODE_KEYS));
            let node = self.keys.get(start..)?.first_chunk::<NODE_KEYS>()?;
            // The position inside this level, which is the node of the next one.
            position = position
                .wrapping_mul(NODE_KEYS)
                .wrapping_add(count_before(node, point));
        }
        Some(position)
    }

    /// A page and its last point.
    fn page(&self, page: usize) -> Option<(&Page<K>, K)> {
        Some((self.pages.get(page)?, self.last_of(page)?))
    }

    /// The last point of a page.
    fn last_of(&self, page: usize) -> Option<K> {
        let lowest = usize::from(self.levels).checked_sub(1)?;
        let start = *self.offsets.get(lowest)? as usize;
        self.keys.get(start.checked_add(page)?).copied()
    }
}

impl<K: Point> Page<K> {
    /// At most [`PAGE_MAX`] intervals.
    fn new(intervals: &[(K, u32)]) -> Self {
        let mut ends: Vec<K> = intervals.iter().map(|(end, _)| *end).collect();
        let mut keys = Vec::new();
        if ends.len() > NODE_KEYS {
            keys.extend(ends.chunks(NODE_KEYS).filter_map(|node| node.last()));
            pad(&mut keys);
        }
        pad(&mut ends);
        keys.extend(ends);
        Self {
            keys: keys.into(),
            values: intervals.iter().map(|(_, value)| *value).collect(),
        }
    }

    /// The place of the interval that a point of the page lies in.
    #[inline]
    fn position(&self, point: K) -> Option<usize> {
        let first = self.keys.first_chunk::<NODE_KEYS>()?;
        let position = count_before(first, point);
        if self.keys.len() == NODE_KEYS {
            return Some(position);
        }
        if let Some(value) = self.values.get(position.wrapping_mul(NODE_KEYS)) {
            prefetch(value);
        }
        let start = position.wrapping_add(1).wrapping_mul(NODE_KEYS);
        let node = self.keys.get(start..)?.first_chunk::<NODE_KEYS>()?;
        Some(
            position
                .wrapping_mul(NODE_KEYS)
                .wrapping_add(count_before(node, point)),
        )
    }

    /// Whether they are one, by pointer.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys, &other.keys) && Arc::ptr_eq(&self.values, &other.values)
    }

    /// Ends of the intervals, padded.
    fn ends(&self) -> &[K] {
        match self.keys.len() {
            NODE_KEYS => &self.keys,
            _ => self.keys.get(NODE_KEYS..).unwrap_or_default(),
        }
    }

    fn intervals(&self) -> impl Iterator<Item = (K, u32)> {
        self.ends().iter().copied().zip(self.values.iter().copied())
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

/// Intervals of neighboring pages that are made anew; neighbors of equal value are joined.
#[derive(Debug)]
struct Region<K> {
    intervals: Vec<(K, u32)>,
    /// First point that no interval covers yet; `None` at the end of the space.
    next: Option<K>,
}

impl<K: Point> Region<K> {
    /// Begins after the last point of the page before.
    fn begin(before: Option<K>) -> Self {
        Self {
            intervals: Vec::new(),
            next: match before {
                Some(before) => before.after(),
                None => Some(K::FIRST),
            },
        }
    }

    fn len(&self) -> usize {
        self.intervals.len()
    }

    /// Gives `value` to all points up to and with `last` that have none yet.
    fn extend_to(&mut self, last: K, value: u32) {
        if self.next.is_none_or(|next| last < next) {
            return;
        }
        self.next = last.after();
        match self.intervals.last_mut() {
            Some((end, same)) if *same == value => *end = last,
            _ => self.intervals.push((last, value)),
        }
    }

    /// Takes a patch that begins in an interval of the value `around`.
    fn patch(&mut self, patch: Patch<K>, around: u32) {
        if let Some(before) = patch.first.before() {
            self.extend_to(before, around);
        }
        for (end, value) in patch.intervals {
            self.extend_to(end, value);
        }
    }

    /// Hands the intervals out in pages of nearly equal size.
    fn finish(self, mut page: impl FnMut(&[(K, u32)])) {
        let count = self.intervals.len();
        let pages = count.div_ceil(PAGE_FILL).max(1);
        let size = count.div_ceil(pages).clamp(1, PAGE_MAX);
        self.intervals.chunks(size).for_each(&mut page);
    }
}

/// Fills the last node up.
fn pad<K: Point>(level: &mut Vec<K>) {
    level.resize(level.len().next_multiple_of(NODE_KEYS), K::LAST);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default)]
    struct Counts(HashMap<u32, i64>);

    impl CountValues for Counts {
        fn come(&mut self, value: u32) {
            *self.0.entry(value).or_default() += 1;
        }

        fn go(&mut self, value: u32) {
            *self.0.entry(value).or_default() -= 1;
        }
    }

    fn whole<K: Point>(intervals: Vec<(K, u32)>) -> Patch<K> {
        Patch {
            first: K::FIRST,
            last: K::LAST,
            intervals,
        }
    }

    fn map_of<K: Point>(intervals: Vec<(K, u32)>) -> IntervalMap<K> {
        let patches = vec![whole(intervals)];
        let map = IntervalMap::uniform(0).patched(patches, &mut Counts::default());
        map.unwrap()
    }

    #[test]
    fn every_size_around_a_full_node_is_found() {
        for count in (0..70).chain([255, 256, 257, 4095, 4096, 4097, 60_000]) {
            let mut intervals: Vec<_> = (0..count).map(|i| (i * 10 + 5, i)).collect();
            intervals.push((u32::MAX, u32::MAX));
            let map = map_of(intervals);
            for i in 0..count {
                assert_eq!(map.find(i * 10 + 5), Some(i), "{count}");
                let expected = if i + 1 == count { u32::MAX } else { i + 1 };
                assert_eq!(map.find(i * 10 + 6), Some(expected), "{count}");
            }
            assert_eq!(map.find(u32::MAX), Some(u32::MAX));
            assert_eq!(map.find(0), Some(if count == 0 { u32::MAX } else { 0 }));
        }
    }

    #[test]
    fn neighbors_of_equal_value_are_one_interval() {
        let map = map_of(
            (0..1000)
                .map(|last| (last, 7))
                .chain([(u128::MAX, 7)])
                .collect(),
        );
        assert_eq!(map.interval(3), Some((u128::MAX, 7)));
    }

    #[test]
    fn a_patch_shares_the_pages_that_it_does_not_touch() {
        let intervals = (0..100_000).map(|i| (i * 10, i)).chain([(u32::MAX, 1)]);
        let map = map_of(intervals.collect());
        let patch = Patch {
            first: 500_003,
            last: 500_004,
            intervals: vec![(500_004, 9)],
        };
        let next = map.patched(vec![patch], &mut Counts::default()).unwrap();
        let is_shared = |page: &&Page<u32>| {
            let same = |other: &Page<u32>| Arc::ptr_eq(&page.keys, &other.keys);
            map.body.pages.iter().any(same)
        };
        let shared = next.body.pages.iter().filter(is_shared).count();
        assert!(shared + 2 >= next.body.pages.len());
        let [(first, last)] = map.unshared(&next)[..] else {
            panic!("one place was patched");
        };
        assert!(first <= 500_003 && last >= 500_004 && last - first < 10_000);
        assert_eq!(next.unshared(&map), [(first, last)]);
        assert!(map.unshared(&map.clone()).is_empty());
        assert_eq!(next.find(500_003), Some(9));
        assert_eq!(
            (next.find(500_002), next.find(500_005)),
            (Some(50_001), Some(50_001))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn patches_agree_with_an_array(
            steps in proptest::collection::vec(
                proptest::collection::vec((any::<u16>(), 0..3000_u16, 0..4_u32, 1..60_u16), 0..6),
                1..12,
            ),
        ) {
            let mut array = vec![0_u32; 1 << 16];
            let mut map = IntervalMap::<u32>::uniform(0);
            let mut counts = Counts::default();
            counts.come(0);
            for step in steps {
                let mut patches = Vec::new();
                let mut next = 0_u32;
                let mut sorted = step;
                sorted.sort_unstable();
                for (first, len, value, width) in sorted {
                    let first = u32::from(first);
                    let last = (first + u32::from(len)).min(0xffff);
                    if first < next {
                        continue;
                    }
                    next = last + 1;
                    let mut intervals = Vec::new();
                    let mut at = first;
                    let mut piece = value;
                    while at <= last {
                        let end = (at + u32::from(width)).min(last);
                        let range = at as usize..=end as usize;
                        array[range].fill(piece);
                        intervals.push((end, piece));
                        at = end + 1;
                        piece = (piece + 1) % 5;
                    }
                    patches.push(Patch { first, last, intervals });
                }
                let before = map.clone();
                map = map.patched(patches, &mut counts).unwrap();
                let unshared = before.unshared(&map);
                prop_assert!(unshared.is_sorted_by(|a, b| a.1 < b.0));
                for (point, value) in (0..).zip(&array).step_by(7) {
                    prop_assert_eq!(map.find(point), Some(*value));
                    let is_shared = !unshared.iter().any(|(a, b)| (*a..=*b).contains(&point));
                    prop_assert!(!is_shared || before.find(point) == Some(*value));
                }
                prop_assert_eq!(map.find(u32::MAX), Some(0));
                let mut found = HashMap::new();
                let pages = map.body.pages.iter();
                for value in pages.flat_map(|page| page.values.iter()) {
                    *found.entry(*value).or_insert(0) += 1;
                }
                counts.0.retain(|_, count| *count != 0);
                prop_assert_eq!(&counts.0, &found);
            }
        }

        #[test]
        fn find_agrees_with_a_linear_search(
            mut ends in proptest::collection::vec(any::<u128>(), 0..400),
            points in proptest::collection::vec(any::<u128>(), 50),
        ) {
            ends.push(u128::MAX);
            ends.sort_unstable();
            ends.dedup();
            let map = map_of(ends.iter().copied().zip(0..).collect());
            for point in points.iter().chain(&ends) {
                let expected = ends.iter().copied().zip(0..).find(|(end, _)| end >= point);
                prop_assert_eq!(map.find(*point), expected.map(|(_, value)| value));
                prop_assert_eq!(map.interval(*point), expected);
            }
        }
    }
}

//! Sets of addresses as sorted ranges: union, difference, intersection, and back to prefixes.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::budget::{Budget, DiffError};

/// How much longer the other list has to be before it is searched instead of walked through.
const SEARCH_RATIO: usize = 16;
/// What sorting a range costs, against looking at it.
pub(super) const SORT_COST: usize = 4;
/// Covers that are taken away one by one, however large they are.
const COVERS_ONE_BY_ONE: usize = 4;

/// An address as a number.
pub(super) trait Point: Copy + Ord + Debug + Hash {
    /// The lowest.
    const FIRST: Self;
    /// The highest.
    const LAST: Self;
    /// The one after it.
    fn after(self) -> Option<Self>;
    /// The one before it.
    fn before(self) -> Option<Self>;
}

macro_rules! point {
    ($($int:ty),+) => {$(
        impl Point for $int {
            const FIRST: Self = <$int>::MIN;
            const LAST: Self = <$int>::MAX;

            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn before(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )+};
}

point!(u32, u128);

/// Addresses of one family: inclusive ranges, sorted, with gaps between them, so that equal sets
/// are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ranges<K>(Vec<(K, K)>);

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Point> Ranges<K> {
    /// The set of ranges in any order, overlapping or not.
    pub(super) fn new(mut ranges: Vec<(K, K)>, budget: &mut Budget) -> Result<Self, DiffError> {
        budget.work(ranges.len().saturating_mul(SORT_COST))?;
        ranges.sort_unstable();
        let mut merged: Vec<(K, K)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match merged.last_mut() {
                Some((_, end)) if end.after().is_none_or(|next| from <= next) => {
                    *end = (*end).max(to);
                }
                _ => merged.push((from, to)),
            }
        }
        Ok(Self(merged))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn is_full(&self) -> bool {
        self.0 == [(K::FIRST, K::LAST)]
    }

    /// The union of several sets.
    pub(super) fn union(sets: &[&Self], budget: &mut Budget) -> Result<Self, DiffError> {
        match sets {
            [] => Ok(Self::default()),
            [one] => Ok((*one).clone()),
            _ => {
                let ranges = sets.iter().flat_map(|set| set.0.iter().copied()).collect();
                Self::new(ranges, budget)
            }
        }
    }

    /// What of it none of the covers has.
    pub(super) fn minus_all(
        &self,
        covers: &[&Self],
        budget: &mut Budget,
    ) -> Result<Self, DiffError> {
        budget.work(covers.len())?;
        if self.is_empty() || covers.iter().any(|cover| cover.is_full()) {
            return Ok(Self::default());
        }
        let total: usize = covers.iter().map(|cover| cover.len()).sum();
        let one_by_one = covers.len().saturating_mul(self.len());
        if covers.len() > COVERS_ONE_BY_ONE && total < one_by_one {
            return self.minus(&Self::union(covers, budget)?, budget);
        }
        let mut left = self.clone();
        for cover in covers {
            if left.is_empty() {
                break;
            }
            left = left.minus(cover, budget)?;
        }
        Ok(left)
    }

    /// What of it the other has not.
    pub(super) fn minus(&self, other: &Self, budget: &mut Budget) -> Result<Self, DiffError> {
        let mut left = Vec::new();
        self.for_each_overlap(other, budget, |(from, to), overlaps| {
            let mut start = Some(from);
            for (taken_from, taken_to) in overlaps {
                if let (Some(begin), Some(end)) = (start, taken_from.before())
                    && begin <= end
                {
                    left.push((begin, end));
                }
                start = taken_to.after();
            }
            if let Some(begin) = start.filter(|begin| *begin <= to) {
                left.push((begin, to));
            }
        })?;
        budget.work(left.len())?;
        Ok(Self(left))
    }

    /// What both have.
    pub(super) fn meet(&self, other: &Self, budget: &mut Budget) -> Result<Self, DiffError> {
        let mut both = Vec::new();
        self.for_each_overlap(other, budget, |(from, to), overlaps| {
            both.extend(overlaps.iter().map(|(a, b)| ((*a).max(from), (*b).min(to))));
        })?;
        budget.work(both.len())?;
        Ok(Self(both))
    }

    /// Whether the other has all of it.
    pub(super) fn is_in(&self, other: &Self, budget: &mut Budget) -> Result<bool, DiffError> {
        let mut all = true;
        self.for_each_overlap(other, budget, |(from, to), overlaps| {
            // Ranges have gaps between them, so one of the other's has to hold all of this one.
            all &= matches!(overlaps, [(a, b)] if *a <= from && to <= *b);
        })?;
        Ok(all)
    }

    /// Whether they share an address.
    pub(super) fn meets(&self, other: &Self, budget: &mut Budget) -> Result<bool, DiffError> {
        let (few, many) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        let mut any = false;
        few.for_each_overlap(many, budget, |_, overlaps| any |= !overlaps.is_empty())?;
        Ok(any)
    }

    /// Calls `visit` with each range and those of the other that share an address with it.
    fn for_each_overlap(
        &self,
        other: &Self,
        budget: &mut Budget,
        mut visit: impl FnMut((K, K), &[(K, K)]),
    ) -> Result<(), DiffError> {
        let searches = self.len().saturating_mul(SEARCH_RATIO) < other.len();
        budget.work(self.len() + if searches { 0 } else { other.len() })?;
        let mut rest = &other.0[..];
        for &(from, to) in &self.0 {
            let skipped = if searches {
                rest.partition_point(|(_, end)| *end < from)
            } else {
                rest.iter().take_while(|(_, end)| *end < from).count()
            };
            rest = &rest[skipped..];
            let shared = if searches {
                rest.partition_point(|(begin, _)| *begin <= to)
            } else {
                rest.iter().take_while(|(begin, _)| *begin <= to).count()
            };
            visit((from, to), &rest[..shared]);
        }
        Ok(())
    }
}

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct AddressSet {
    /// IPv4.
    pub(super) v4: Ranges<u32>,
    /// IPv6.
    pub(super) v6: Ranges<u128>,
}

impl AddressSet {
    /// The addresses of prefixes.
    pub(super) fn new(
        prefixes: impl Iterator<Item = IpNet>,
        budget: &mut Budget,
    ) -> Result<Self, DiffError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        Ok(Self {
            v4: Ranges::new(v4, budget)?,
            v6: Ranges::new(v6, budget)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many ranges it has.
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// What of it the other has not.
    pub(super) fn minus(&self, other: &Self, budget: &mut Budget) -> Result<Self, DiffError> {
        Ok(Self {
            v4: self.v4.minus(&other.v4, budget)?,
            v6: self.v6.minus(&other.v6, budget)?,
        })
    }

    /// What both have.
    pub(super) fn meet(&self, other: &Self, budget: &mut Budget) -> Result<Self, DiffError> {
        Ok(Self {
            v4: self.v4.meet(&other.v4, budget)?,
            v6: self.v6.meet(&other.v6, budget)?,
        })
    }

    /// What either has.
    pub(super) fn join(&self, other: &Self, budget: &mut Budget) -> Result<Self, DiffError> {
        Ok(Self {
            v4: Ranges::union(&[&self.v4, &other.v4], budget)?,
            v6: Ranges::union(&[&self.v6, &other.v6], budget)?,
        })
    }

    /// Whether the other has all of it.
    pub(super) fn is_in(&self, other: &Self, budget: &mut Budget) -> Result<bool, DiffError> {
        Ok(self.v4.is_in(&other.v4, budget)? && self.v6.is_in(&other.v6, budget)?)
    }

    /// Whether they share an address.
    pub(super) fn meets(&self, other: &Self, budget: &mut Budget) -> Result<bool, DiffError> {
        Ok(self.v4.meets(&other.v4, budget)? || self.v6.meets(&other.v6, budget)?)
    }

    /// The fewest prefixes that it is, IPv4 first, which the answer keeps.
    pub(super) fn prefixes(&self, budget: &mut Budget) -> Result<Vec<IpNet>, DiffError> {
        let mut list = Vec::new();
        // A range is at most 2 × 128 prefixes.
        for &(from, to) in &self.v4.0 {
            let (from, to) = (Ipv4Addr::from(from), Ipv4Addr::from(to));
            let before = list.len();
            list.extend(Ipv4Subnets::new(from, to, 0).map(IpNet::V4));
            budget.keep(list.len() - before)?;
        }
        for &(from, to) in &self.v6.0 {
            let (from, to) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
            let before = list.len();
            list.extend(Ipv6Subnets::new(from, to, 0).map(IpNet::V6));
            budget.keep(list.len() - before)?;
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let end = || prop_oneof![4 => 0_u32..24, 1 => u32::MAX - 3..=u32::MAX];
        let range = (end(), end()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop_oneof![
            proptest::collection::vec(range.clone(), 0..6),
            // Long enough to be searched.
            proptest::collection::vec((0_u32..400).prop_map(|a| (a * 3, a * 3)), 100..200),
            Just(vec![(0, u32::MAX)]),
        ]
    }

    fn has(ranges: &[(u32, u32)], point: u32) -> bool {
        ranges
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&point))
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in ranges(), b in ranges(), c in ranges()) {
            let mut budget = Budget::new();
            let budget = &mut budget;
            let [x, y, z] = [&a, &b, &c].map(|list| Ranges::new(list.clone(), budget).unwrap());
            let minus = x.minus(&y, budget).unwrap();
            let meet = x.meet(&y, budget).unwrap();
            let union = Ranges::union(&[&x, &y], budget).unwrap();
            let all = [&y, &z, &y, &z, &z, &y];
            let minus_all = x.minus_all(&all, budget).unwrap();
            let points = (0..1300).chain(u32::MAX - 5..=u32::MAX);
            for point in points {
                let (in_a, in_b, in_c) = (has(&a, point), has(&b, point), has(&c, point));
                prop_assert_eq!(has(&x.0, point), in_a);
                prop_assert_eq!(has(&minus.0, point), in_a && !in_b);
                prop_assert_eq!(has(&meet.0, point), in_a && in_b);
                prop_assert_eq!(has(&union.0, point), in_a || in_b);
                prop_assert_eq!(has(&minus_all.0, point), in_a && !in_b && !in_c);
            }
            prop_assert_eq!(x.is_in(&y, budget).unwrap(), minus.is_empty());
            prop_assert_eq!(x.meets(&y, budget).unwrap(), !meet.is_empty());
            for list in [x, minus, meet, union, minus_all] {
                let gaps = list.0.windows(2).all(|pair| {
                    pair[0].1.after().is_some_and(|next| next < pair[1].0)
                });
                prop_assert!(gaps, "canonical: {list:?}");
            }
        }
    }

    #[test]
    fn what_is_left_is_written_as_the_fewest_prefixes() {
        let mut budget = Budget::new();
        let set = |text: &[&str], budget: &mut Budget| {
            AddressSet::new(text.iter().map(|one| one.parse().unwrap()), budget).unwrap()
        };
        let any = set(&["0.0.0.0/0", "::/0"], &mut budget);
        let some = set(&["128.0.0.0/2", "::/1", "8000::/1"], &mut budget);
        let left = any.minus(&some, &mut budget).unwrap();
        let prefixes = left.prefixes(&mut budget).unwrap();
        let text: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["0.0.0.0/1", "192.0.0.0/2"]);
    }

    #[test]
    fn a_spent_budget_is_said() {
        let mut budget = Budget::with(3, 1);
        let long = vec![(1_u32, 1), (3, 3), (5, 5), (7, 7)];
        let error = Ranges::new(long, &mut budget).unwrap_err();
        assert_eq!(error, DiffError::TooMuchWork { limit: 3 });
        let set = AddressSet {
            v4: Ranges(vec![(1, 2)]),
            v6: Ranges::default(),
        };
        let error = set.prefixes(&mut budget).unwrap_err();
        assert_eq!(error, DiffError::TooManyRanges { limit: 1 });
    }
}

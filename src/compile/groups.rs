//! What the compiler keeps of a group and of an interface.

use hashbrown::HashSet;

use super::group_sets::SetNo;
use super::programs::NumberedRule;
use crate::policy::{Interface, SecurityGroup};
use crate::snapshot::GroupInfo;
use crate::sync::Arc;
use crate::types::LinkId;

/// A group.
#[derive(Clone, Debug)]
pub(super) struct GroupState {
    pub(super) info: Arc<GroupInfo>,
    /// Where it stands in the policy.
    pub(super) position: usize,
    /// Slots of the interfaces that are in it.
    pub(super) members: HashSet<u32>,
    /// Its rules by direction, once they are in use: some interface is in the group.
    pub(super) rules: [Vec<NumberedRule>; 2],
    pub(super) in_use: bool,
}

impl GroupState {
    /// A group that is new: no member, and no rule in use.
    pub(super) fn new(group: &SecurityGroup) -> Self {
        Self {
            info: Arc::new(info(group)),
            position: 0,
            members: HashSet::new(),
            rules: [Vec::new(), Vec::new()],
            in_use: false,
        }
    }

    /// Rules of both directions that are in use.
    pub(super) fn rule_count(&self) -> usize {
        self.rules.iter().map(Vec::len).sum()
    }
}

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct InterfaceState {
    pub(super) source: Arc<Interface>,
    pub(super) link: Option<LinkId>,
    pub(super) set: SetNo,
}

/// Names of a group.
pub(super) fn info(group: &SecurityGroup) -> GroupInfo {
    GroupInfo {
        name: group.name.clone(),
        id: group.id.clone(),
        enforce: group.enforce,
    }
}

/// Where two lists differ: all but what they have in common at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// How much is in common at the front.
    pub(super) front: usize,
    /// How much is in common at the back.
    pub(super) back: usize,
}

impl Difference {
    /// Of a list before and after.
    pub(super) fn of<T: PartialEq>(before: &[T], after: &[T]) -> Self {
        let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let rest = before[front..]
            .iter()
            .rev()
            .zip(after[front..].iter().rev());
        Self {
            front,
            back: rest.take_while(|(a, b)| a == b).count(),
        }
    }

    /// What is not in common of one of the lists.
    pub(super) fn inner<'r, T>(&self, list: &'r [T]) -> &'r [T] {
        &list[self.front..list.len() - self.back]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_is_not_in_common_at_both_ends() {
        let of = |before: &[u8], after: &[u8]| {
            let difference = Difference::of(before, after);
            (difference.front, difference.back)
        };
        assert_eq!(of(b"", b""), (0, 0));
        assert_eq!(of(b"abc", b"abc"), (3, 0));
        assert_eq!(of(b"abc", b"axc"), (1, 1));
        assert_eq!(of(b"aa", b"aaa"), (2, 0));
        assert_eq!(of(b"abc", b"c"), (0, 1));
        assert_eq!(of(b"ab", b"xy"), (0, 0));
    }
}

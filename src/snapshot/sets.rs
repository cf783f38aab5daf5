//! What a verdict needs of an interface's groups.

use super::classes::ClassKeys;
use super::program::{OpenTransports, Program};
use super::{Decision, Question};
use crate::sync::Arc;
use crate::types::Direction;

/// Most parts of a set: what bounds the programs that one question asks.
pub(crate) const PARTS_MAX: usize = 8;

/// The programs of one part, by direction.
pub(crate) type Part = [Program; 2];

/// A set of groups that some interfaces have, as programs: one for both of them all where they are
/// small, and several *parts* in the order of the groups where they are not, so that sets share the
/// programs of large groups.
#[derive(Clone, Debug)]
pub(crate) struct GroupSet {
    pub(crate) first: Part,
    /// The other parts, less than [`PARTS_MAX`].
    pub(crate) more: Option<Arc<[Part]>>,
    /// What each direction lets through everywhere.
    pub(crate) open: [OpenTransports; 2],
    /// What no rule allows passes.
    pub(crate) audit: bool,
}

impl GroupSet {
    /// Whether the groups allow a packet whose remote address has these keys.
    #[inline]
    pub(crate) fn decide(
        &self,
        direction: Direction,
        question: &Question,
        keys: &ClassKeys,
    ) -> Decision {
        // Groups come in the order of their parts: the first part that allows has the lowest rule.
        let mut programs = self.programs(direction);
        match programs.find_map(|program| program.find(question, keys)) {
            Some(rule) => Decision::Allow {
                rule,
                untracked: self.is_open(direction.reversed(), question)
                    && self
                        .programs(direction)
                        .any(|program| program.allows_any_address(question)),
            },
            None if self.audit => Decision::Unenforced,
            None => Decision::Deny,
        }
    }

    #[inline]
    fn programs(&self, direction: Direction) -> impl Iterator<Item = &Program> {
        let more = self.more.as_deref().unwrap_or_default();
        std::iter::once(&self.first)
            .chain(more)
            .take(PARTS_MAX)
            .map(move |part| of_direction(part, direction))
    }

    /// Whether a direction lets everything like a packet through, whatever its address and port.
    #[inline]
    pub(crate) fn is_open(&self, direction: Direction, question: &Question) -> bool {
        let wanted = OpenTransports::bit(question.remote.family(), question.protocol);
        of_direction(&self.open, direction).meets(wanted)
    }
}

#[inline]
fn of_direction<T>(of_both: &[T; 2], direction: Direction) -> &T {
    let [ingress, egress] = of_both;
    match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    }
}

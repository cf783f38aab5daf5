//! How many related ICMP errors a worker lets pass: a token bucket, so that whoever knows of a
//! live flow cannot have the gateway carry a flood of errors about it.

use crate::clock::Tick;

/// Errors a second and worker; as many may come at once.
pub const RELATED_PER_SECOND: u64 = 1000;

/// Nanoseconds that one error costs.
const COST: u64 = Tick::PER_SECOND / RELATED_PER_SECOND;

/// The budget of one worker, in nanoseconds of saved-up time.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelatedBudget {
    saved: u64,
    updated: Tick,
}

impl RelatedBudget {
    /// A full budget.
    pub(super) fn new(now: Tick) -> Self {
        Self {
            saved: Tick::PER_SECOND,
            updated: now,
        }
    }

    /// Takes one error from the budget; `false` where it is spent.
    pub(super) fn spend(&mut self, now: Tick) -> bool {
        let passed = now.0.saturating_sub(self.updated.0);
        self.updated = self.updated.max(now);
        self.saved = self.saved.saturating_add(passed).min(Tick::PER_SECOND);
        match self.saved.checked_sub(COST) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_pass_at_once_and_then_one_each_millisecond() {
        let start = Tick::from_seconds(100);
        let mut budget = RelatedBudget::new(start);
        assert_eq!((0..2000).filter(|_| budget.spend(start)).count(), 1000);
        let later = Tick(start.0 + 10 * COST);
        assert_eq!((0..2000).filter(|_| budget.spend(later)).count(), 10);
        assert!(!budget.spend(start), "a clock that goes back gives nothing");
        let much_later = Tick::from_seconds(10_000);
        assert_eq!((0..2000).filter(|_| budget.spend(much_later)).count(), 1000);
    }
}

//! What a worker does when there is nothing to do.

use std::time::Duration;

use crate::clock::Tick;

/// `[workers] idle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Polls without a pause: the lowest latency, a core at 100 %.
    Spin,
    /// Polls for 100 µs after the last frame, then sleeps until there is work.
    #[default]
    Adaptive,
    /// Sleeps after each turn without work.
    Sleep,
}

/// How long `adaptive` polls on: longer than the gaps of a busy link (100 kpps: 10 µs), short
/// against a scheduler's tick.
pub(super) const SPIN_BEFORE_SLEEP: Duration = Duration::from_micros(100);
/// A sleeper wakes this often for its timers and counters even if nobody calls.
pub(super) const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Decides when to sleep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    last_work: Tick,
}

impl Idle {
    pub(super) fn new(policy: IdlePolicy, now: Tick) -> Self {
        Self {
            policy,
            last_work: now,
        }
    }

    /// Whether to sleep after a turn.
    pub(super) fn should_sleep(&mut self, worked: bool, now: Tick) -> bool {
        if worked {
            self.last_work = now;
            return false;
        }
        match self.policy {
            IdlePolicy::Spin => false,
            IdlePolicy::Adaptive => now.since(self.last_work) >= SPIN_BEFORE_SLEEP,
            IdlePolicy::Sleep => true,
        }
    }
}

//! Changes that are confirmed or go back, versions, and single rules: what the controller does
//! about them.
//!
//! `apply --confirm-within` publishes at once and notes a deadline by the monotonic clock; a thread
//! of its own waits for it and publishes the policy before, unless `confirm` came. Nothing of it is
//! kept on disk: after a restart the policy file, which only `confirm` replaces, is in force.
//! While a change waits no other may come (`apply`, `rule`), since it would be confirmed or taken
//! back with it; who decides ends the wait: `confirm`, `rollback`, and the policy file when it
//! changes or SIGHUP asks for it.

use std::io;
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::answer::{Answer, LIVE_TIMEOUT, answer, full, texts};
use super::command::Refusal;
use super::controller::Controller;
use super::publish::ConfirmError;
use super::rule_changes::{Edited, Outcome, RuleChange};
use super::version_commands::{
    Confirmation, Confirmed, History, RollbackRequest, RolledBack, RuleChanged, VersionRow,
};
use super::versions::{Origin, Pending, Tally, Version};
use crate::clock::unix_time;
use crate::policy;
use crate::sync::Arc;
use crate::types::Generation;

/// Pause before a rollback that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Controller {
    /// Starts the thread that takes back what is not confirmed in time.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn watch_deadlines(self: &Arc<Self>) -> io::Result<()> {
        let controller = Arc::clone(self);
        let body = move || {
            loop {
                controller.wait_for_deadline();
            }
        };
        thread::Builder::new()
            .name("confirm".to_owned())
            .spawn(body)?;
        Ok(())
    }

    /// Waits for the next deadline, or that there is another one; goes back where it has passed.
    fn wait_for_deadline(&self) {
        let changed = &self.deadlines.changed;
        let now = self.setup.clock.now();
        match self.setup.state.deadline() {
            // The sender lives as long as the controller. Either way the state is looked at again.
            None => drop(changed.recv()),
            Some(deadline) if now < deadline => drop(changed.recv_timeout(deadline.since(now))),
            Some(_) => self.take_back(),
        }
    }

    fn take_back(&self) {
        let super::ControllerSetup {
            state,
            exchange,
            clock,
            ..
        } = &self.setup;
        let (published, pending) = match state.expire(exchange.swept(), clock) {
            Ok(Some(done)) => done,
            // Settled in the meantime.
            Ok(None) => return,
            Err(error) => {
                error!(
                    error = full(&error),
                    "the version before cannot be published"
                );
                return thread::sleep(RETRY_PAUSE);
            }
        };
        self.look_after();
        let (staged, generation) = (pending.generation, published.generation);
        warn!(%staged, %generation, "not confirmed in time: the version before is in force again");
        let changes = policy::changes(&published.before, &pending.before);
        state.note(generation, Tally::of(&changes));
        if let Err(late) = state.wait_live(generation, LIVE_TIMEOUT, clock) {
            warn!("policy not yet in force everywhere: {late}");
        }
    }

    pub(super) fn confirm(&self) -> Result<Confirmed, Refusal> {
        let confirmed = self.setup.state.confirm(&self.setup.clock);
        let pending = confirmed.map_err(|error: ConfirmError| Refusal::new(error.to_string()))?;
        self.deadlines.wake();
        let generation = pending.generation;
        info!(%generation, "policy confirmed");
        if let Some(document) = &pending.document {
            self.save(generation, document.as_bytes())?;
        }
        Ok(Confirmed {
            generation: generation.0,
            saved: pending.document.is_some(),
        })
    }

    pub(super) fn roll_back(&self, request: RollbackRequest) -> Result<RolledBack, Refusal> {
        let super::ControllerSetup {
            state,
            exchange,
            clock,
            ..
        } = &self.setup;
        let started = clock.now();
        let to = request.generation.map(Generation);
        let (published, content_of) =
            state
                .roll_back(to, exchange.swept(), clock)
                .map_err(|error| {
                    Refusal::new(format!(
                        "refused, the policy in force stays: {}",
                        full(&error)
                    ))
                })?;
        self.look_after();
        self.deadlines.wake();
        let generation = published.generation;
        let timeout = Duration::from_millis(request.timeout_ms);
        if let Err(late) = state.wait_live(generation, timeout, clock) {
            warn!("policy not yet in force everywhere: {late}");
            return Err(Refusal::new(late.to_string()));
        }
        let elapsed = clock.now().since(started);
        info!(%generation, %content_of, "rolled back");
        let changes = policy::changes(&published.before, &published.policy);
        if !published.unchanged {
            state.note(generation, Tally::of(&changes));
        }
        Ok(RolledBack {
            generation: generation.0,
            content_of: content_of.0,
            unchanged: published.unchanged,
            microseconds: micros(elapsed),
            changes: texts(&changes),
        })
    }

    pub(super) fn history(&self) -> History {
        let versions = self.setup.state.versions();
        let rows = versions.iter().zip(0..);
        History {
            versions: rows.map(|(version, age)| row(version, age == 0)).collect(),
            confirmation: self.confirmation(self.setup.state.view().pending.as_ref()),
        }
    }

    /// What to say of a change that waits.
    pub(super) fn confirmation(&self, pending: Option<&Pending>) -> Option<Confirmation> {
        let pending = pending?;
        let left = pending.deadline.since(self.setup.clock.now());
        Some(Confirmation {
            generation: pending.generation.0,
            rollback_to: pending.before_generation.0,
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            deadline: rfc3339(unix_time().saturating_add(left)),
            saves: pending.document.is_some(),
        })
    }

    /// Changes rules, and waits until the changes are live; an answer for each, in their order.
    pub(super) fn change_rules(&self, changes: Vec<RuleChange>) -> Vec<Answer> {
        if changes.is_empty() {
            return Vec::new();
        }
        let super::ControllerSetup {
            state,
            exchange,
            clock,
            ..
        } = &self.setup;
        let started = clock.now();
        let timeouts = changes.iter().map(RuleChange::timeout_ms);
        let timeout = Duration::from_millis(timeouts.max().unwrap_or(0));
        let outcomes = self.rules.make(changes, state, exchange.swept(), clock);
        self.return_slots();
        let published = |outcome: &Outcome| outcome.as_ref().ok().map(|edited| edited.generation);
        // The workers take the generations up in their order.
        let late = outcomes.iter().filter_map(published).max().map(|last| {
            let waited = state.wait_live(last, timeout, clock);
            waited.inspect_err(|late| warn!("policy not yet in force everywhere: {late}"))
        });
        let microseconds = micros(clock.now().since(started));
        let describe = |edited: Edited| {
            if let Some(Err(late)) = &late {
                return Err(Refusal::new(late.to_string()));
            }
            answer(&RuleChanged {
                generation: edited.generation.0,
                rules: edited.rules,
                microseconds,
                warnings: edited.warnings,
            })
        };
        let answers = outcomes.into_iter();
        answers.map(|outcome| outcome.and_then(describe)).collect()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn row(version: &Version, in_force: bool) -> VersionRow {
    let (source, detail) = match &version.origin {
        Origin::File => ("file", None),
        Origin::Apply(name) => ("apply", Some(name.clone())),
        Origin::Rules { removed: 0, .. } => ("rule-add", None),
        Origin::Rules { added: 0, .. } => ("rule-remove", None),
        Origin::Rules { .. } => ("rule-changes", None),
        Origin::Rollback(to) => ("rollback", Some(to.to_string())),
        Origin::AutoRollback(to) => ("auto-rollback", Some(to.to_string())),
    };
    VersionRow {
        generation: version.generation.0,
        first_generation: version.first_generation.0,
        time: rfc3339(version.time),
        source: source.to_owned(),
        detail,
        added: version.tally.map(|tally| tally.added),
        removed: version.tally.map(|tally| tally.removed),
        changed: version.tally.map(|tally| tally.changed),
        rules: version.count.rules,
        groups: version.count.groups,
        interfaces: version.count.interfaces,
        in_force,
    }
}

/// A time since the Unix epoch, to the millisecond.
fn rfc3339(time: Duration) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_zone() {
        assert_eq!(
            rfc3339(Duration::from_millis(1_700_000_000_040)),
            "2023-11-14T22:13:20.040Z"
        );
        assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00.000Z");
    }
}

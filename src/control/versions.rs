//! The versions of the policy that were in force, and a change that waits to be confirmed.
//!
//! The newest version is the one in force. Single rules change thousands of times a second, so a
//! run of such changes is one version: each comes within [`RUN_PAUSE_MAX`] of the one before it,
//! and all within [`RUN_MAX`] of the first. What a version before had is shared, so a version
//! costs what it changed. Where there is no more room the oldest version goes; once runs of rule
//! changes take half of the room, the oldest of those: they never push out every whole policy.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::policy::{Change, ChangeKind, Count, Policy};
use crate::sync::Arc;
use crate::types::Generation;

/// A pause between rule changes after which a new version begins.
pub(super) const RUN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long one run of rule changes may be.
pub(super) const RUN_MAX: Duration = Duration::from_secs(60);

/// Where a version came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configured policy file: at start, when it changed, or at SIGHUP.
    File,
    /// `apply`, and what the document was called.
    Apply(String),
    /// `rule add` and `rule remove`: how many rules came and went.
    Rules {
        /// Rules that came.
        added: usize,
        /// Rules that went.
        removed: usize,
    },
    /// `rollback`, to the content of a generation.
    Rollback(Generation),
    /// No confirmation came in time: back to the content of a generation.
    AutoRollback(Generation),
}

/// How many things changed from one version to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Only the later has them.
    pub added: usize,
    /// Only the earlier had them.
    pub removed: usize,
    /// Both have them, and not the same.
    pub changed: usize,
}

impl Tally {
    /// Counts changes.
    #[must_use]
    pub fn of(changes: &[Change]) -> Self {
        let mut tally = Self::default();
        for change in changes {
            match change.kind {
                ChangeKind::Added => tally.added += 1,
                ChangeKind::Removed => tally.removed += 1,
                ChangeKind::Changed => tally.changed += 1,
            }
        }
        tally
    }
}

/// One version.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its generation; the last one of a run.
    pub generation: Generation,
    /// The first generation of a run; else the same.
    pub first_generation: Generation,
    /// When it came into force (a run: the last of it), since the Unix epoch.
    pub time: Duration,
    /// Where it came from.
    pub origin: Origin,
    /// What it changed; `None` while that is not yet counted.
    pub tally: Option<Tally>,
    /// How large it is.
    pub count: Count,
    /// The policy.
    pub policy: Arc<Policy>,
    /// When its run began, and when the last change of it was.
    run: Option<(Tick, Tick)>,
}

/// A published change that goes back by itself unless it is confirmed.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its generation.
    pub generation: Generation,
    /// Until when it may be confirmed.
    pub deadline: Tick,
    /// The policy before, which comes back.
    pub before: Arc<Policy>,
    /// And its generation.
    pub before_generation: Generation,
    /// What the policy file is replaced by once it is confirmed.
    pub document: Option<Arc<str>>,
}

/// The versions, oldest first, and a change that waits.
#[derive(Debug)]
pub(super) struct Versions {
    list: VecDeque<Version>,
    room: usize,
    pub(super) pending: Option<Pending>,
}

impl Versions {
    /// Most versions that are kept by default.
    pub(super) const ROOM_DEFAULT: usize = 32;

    /// The first version, with room for so many; for one at the least.
    pub(super) fn new(generation: Generation, policy: Arc<Policy>, time: Duration) -> Self {
        let first = Version {
            generation,
            first_generation: generation,
            time,
            origin: Origin::File,
            tally: None,
            count: policy.count(),
            policy,
            run: None,
        };
        Self {
            list: VecDeque::from([first]),
            room: Self::ROOM_DEFAULT,
            pending: None,
        }
    }

    /// Changes for how many versions there is room; for one at the least.
    pub(super) fn set_room(&mut self, room: usize) {
        self.room = room.max(1);
        self.make_room();
    }

    /// Notes a version that has come into force.
    pub(super) fn record(
        &mut self,
        generation: Generation,
        policy: Arc<Policy>,
        origin: Origin,
        (now, time): (Tick, Duration),
    ) {
        let Origin::Rules { added, removed } = origin else {
            self.push(Version {
                generation,
                first_generation: generation,
                time,
                origin,
                tally: None,
                count: policy.count(),
                policy,
                run: None,
            });
            return;
        };
        let before = self.list.back();
        // A count of the whole would cost more than the change.
        let mut count = before.map_or_else(|| policy.count(), |before| before.count);
        if before.is_some() {
            count.rules = (count.rules + added).saturating_sub(removed);
        }
        if let Some(version) = self.list.back_mut().filter(|version| version.goes_on(now))
            && let Origin::Rules {
                added: all_added,
                removed: all_removed,
            } = &mut version.origin
        {
            *all_added += added;
            *all_removed += removed;
            version.tally = Some(rules_tally(*all_added, *all_removed));
            version.run = version.run.map(|(began, _)| (began, now));
            version.generation = generation;
            version.time = time;
            version.count = count;
            version.policy = policy;
            return;
        }
        self.push(Version {
            generation,
            first_generation: generation,
            time,
            origin: Origin::Rules { added, removed },
            tally: Some(rules_tally(added, removed)),
            count,
            policy,
            run: Some((now, now)),
        });
    }

    /// Says what a version changed, if it is still there.
    pub(super) fn note(&mut self, generation: Generation, tally: Tally) {
        let found = self
            .list
            .iter_mut()
            .find(|one| one.generation == generation);
        if let Some(version) = found {
            version.tally = Some(tally);
        }
    }

    /// All versions, newest first.
    pub(super) fn newest_first(&self) -> Vec<Version> {
        self.list.iter().rev().cloned().collect()
    }

    /// The version of a generation, as `history` lists it.
    pub(super) fn find(&self, generation: Generation) -> Option<&Version> {
        self.list.iter().find(|one| one.generation == generation)
    }

    /// The version before the one in force.
    pub(super) fn before(&self) -> Option<&Version> {
        self.list.iter().rev().nth(1)
    }

    fn push(&mut self, version: Version) {
        self.list.push_back(version);
        self.make_room();
    }

    fn make_room(&mut self) {
        // Bound: one more than there is room for, but where the room shrinks.
        while self.list.len() > self.room {
            let runs = self.list.iter().filter(|version| version.run.is_some());
            let oldest_run = self.list.iter().position(|version| version.run.is_some());
            let goes = match oldest_run {
                // The newest is in force, and stays.
                Some(index) if runs.count() > self.room / 2 && index + 1 < self.list.len() => index,
                _ => 0,
            };
            self.list.remove(goes);
        }
    }
}

impl Version {
    /// Whether a rule change now belongs to it.
    fn goes_on(&self, now: Tick) -> bool {
        self.run.is_some_and(|(began, last)| {
            now.since(last) <= RUN_PAUSE_MAX && now.since(began) <= RUN_MAX
        })
    }
}

fn rules_tally(added: usize, removed: usize) -> Tally {
    Tally {
        added,
        removed,
        changed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Versions {
        Versions::new(Generation(1), Arc::default(), Duration::ZERO)
    }

    fn apply(versions: &mut Versions, generation: u64) {
        let origin = Origin::Apply("p".to_owned());
        let at = (Tick::from_seconds(generation), Duration::ZERO);
        versions.record(Generation(generation), Arc::default(), origin, at);
    }

    fn add(versions: &mut Versions, generation: u64, at_ms: u64) {
        let origin = Origin::Rules {
            added: 1,
            removed: 0,
        };
        let at = (Tick(at_ms * 1_000_000), Duration::from_millis(at_ms));
        versions.record(Generation(generation), Arc::default(), origin, at);
    }

    fn generations(versions: &Versions) -> Vec<(u64, u64)> {
        let list = versions.list.iter();
        list.map(|one| (one.first_generation.0, one.generation.0))
            .collect()
    }

    #[test]
    fn a_run_of_rule_changes_is_one_version() {
        let mut versions = versions();
        for (generation, at_ms) in [(2, 0), (3, 900), (4, 1900), (5, 2901)] {
            add(&mut versions, generation, at_ms);
        }
        assert_eq!(generations(&versions), [(1, 1), (2, 4), (5, 5)]);
        let run = versions.find(Generation(4)).unwrap();
        assert_eq!(run.tally, Some(rules_tally(3, 0)));
        assert_eq!((run.count.rules, run.time.as_millis()), (3, 1900));
        assert!(versions.find(Generation(3)).is_none(), "inside of a run");
        assert_eq!(versions.before().unwrap().generation, Generation(4));
        apply(&mut versions, 6);
        add(&mut versions, 7, 2902);
        assert_eq!(generations(&versions)[3..], [(6, 6), (7, 7)]);
    }

    #[test]
    fn a_run_has_an_end() {
        let mut versions = versions();
        for step in 0..200 {
            add(&mut versions, 2 + step, step * 1000);
        }
        // 61 changes in the first minute, its end included.
        assert_eq!(
            generations(&versions),
            [(1, 1), (2, 62), (63, 123), (124, 184), (185, 201)]
        );
    }

    #[test]
    fn the_oldest_goes_first_and_rule_changes_take_half_of_the_room() {
        let mut versions = versions();
        versions.set_room(6);
        for generation in 2..5 {
            apply(&mut versions, generation);
        }
        for generation in 5..20 {
            add(&mut versions, generation, generation * 2000);
        }
        let list: Vec<u64> = generations(&versions).iter().map(|one| one.1).collect();
        assert_eq!(list, [2, 3, 4, 17, 18, 19]);
        for generation in 20..25 {
            apply(&mut versions, generation);
        }
        let list: Vec<u64> = generations(&versions).iter().map(|one| one.1).collect();
        assert_eq!(list, [19, 20, 21, 22, 23, 24]);
        versions.set_room(0);
        assert_eq!(versions.list.len(), 1);
        assert!(versions.before().is_none());
        add(&mut versions, 25, 60_000);
        assert_eq!(generations(&versions), [(25, 25)]);
    }
}

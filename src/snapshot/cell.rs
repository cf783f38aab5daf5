//! Publication of snapshots to workers: read-copy-update with quiescent states.
//!
//! The control thread owns every snapshot, in an [`Arc`]; workers only borrow. Each worker has one
//! word, alone on its cache line, in which it reports the generation that it reads:
//!
//! | word | the worker reads | it counts as up to date |
//! | --- | --- | --- |
//! | `g + 1` | generation `g`, or a later one that it has just loaded | if `g` is the current one |
//! | `WAKING` (0) | any generation that it may find | no |
//! | `ASLEEP` | nothing | yes |
//! | `GONE` | nothing, never again | yes |
//!
//! A worker loads the pointer, then reports what it found, once a burst. What it reads is thus
//! never older than what it reports, and the control thread frees only what is older than every
//! report. No fence is needed on that path: a report that comes late only delays the freeing.
//!
//! A worker that wakes must be seen before it loads, else the control thread could free what it is
//! about to find. Both sides store, fence, then load (the worker its word and the pointer, the
//! control thread the pointer and the word), so at least one sees the other: either the control
//! thread finds `WAKING` and keeps everything, or the worker finds the new pointer.
//!
//! tests/loom.rs runs this file, as it is, through every order of the threads' steps. (Its ordinary
//! tests stand in tests.rs beside it, since that build has no use for them.)
//!
//! Rejected: reference counts (a contended write a burst, and a worker may run the last drop) and
//! epochs of a library (the generation has to be reported anyway; it *is* the epoch).
#![expect(
    unsafe_code,
    reason = "workers borrow what the control thread owns and frees"
)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::thread;
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::Snapshot;
use crate::clock::MonotonicClock;
use crate::sync::{Arc, AtomicPtr, AtomicU64, Ordering, fence};
use crate::types::{Generation, WorkerId};

/// Awake without having reported since; below every generation, so that nothing is freed.
const WAKING: u64 = 0;
/// Reads nothing until it wakes.
const ASLEEP: u64 = u64::MAX - 1;
/// Its reader was dropped.
const GONE: u64 = u64::MAX;
/// Pause between two looks at the workers' reports: first and longest.
const POLL_PAUSE_MIN: Duration = Duration::from_micros(10);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(1);

/// What can be published: it knows its version. Shared by threads, hence the bounds; the reader's
/// soundness rests on them.
pub trait Generational: Send + Sync {
    /// The version.
    fn generation(&self) -> Generation;
}

/// Workers that still use an older snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {generation} is not yet used by worker(s) {}", list(.workers))]
pub struct NotLive {
    /// The published generation.
    pub generation: Generation,
    /// Who does not use it.
    pub workers: Vec<WorkerId>,
}

/// What publisher and readers share.
struct Shared<T> {
    current: CachePadded<AtomicPtr<T>>,
    /// The report of each worker; written by it alone.
    reports: Box<[CachePadded<AtomicU64>]>,
}

/// The control thread's side: it makes snapshots current, and frees them.
pub struct Publisher<T: Generational = Snapshot> {
    shared: Arc<Shared<T>>,
    current: Arc<T>,
    /// Former ones that a worker may still use, oldest first.
    former: VecDeque<Arc<T>>,
}

/// One worker's side.
///
/// It may move to another thread, but not be used by two.
pub struct SnapshotReader<T: Generational = Snapshot> {
    shared: Arc<Shared<T>>,
    worker: WorkerId,
    /// What its word holds, so that an unchanged report costs no write.
    reported: u64,
    /// `Send`, not `Sync`.
    not_sync: PhantomData<Cell<()>>,
}

impl<T: Generational> Publisher<T> {
    /// A publisher of `first` and a reader for each of so many workers, in the order of their ids.
    ///
    /// # Panics
    /// If the generation is one of the last two of its type.
    #[must_use]
    pub fn new(first: Arc<T>, workers: u16) -> (Self, Vec<SnapshotReader<T>>) {
        assert!(
            report_of(first.generation()) < ASLEEP,
            "generation out of range"
        );
        let shared = Arc::new(Shared {
            current: CachePadded::new(AtomicPtr::new(Arc::as_ptr(&first).cast_mut())),
            reports: (0..workers)
                .map(|_| CachePadded::new(AtomicU64::new(WAKING)))
                .collect(),
        });
        let readers = (0..workers)
            .map(|worker| SnapshotReader {
                shared: Arc::clone(&shared),
                worker: WorkerId(worker),
                reported: WAKING,
                not_sync: PhantomData,
            })
            .collect();
        let publisher = Self {
            shared,
            current: first,
            former: VecDeque::new(),
        };
        (publisher, readers)
    }

    /// Makes a snapshot current. Workers find it at their next burst; [`Self::wait_live`] says
    /// when all have. The former one is kept until [`Self::retire`].
    ///
    /// # Panics
    /// If its generation is not after the current one.
    pub fn publish(&mut self, next: Arc<T>) -> Generation {
        let generation = next.generation();
        assert!(
            generation > self.current.generation() && report_of(generation) < ASLEEP,
            "generations only grow"
        );
        // Release pairs with the Acquire in `load`: who finds the pointer finds its content.
        self.shared
            .current
            .store(Arc::as_ptr(&next).cast_mut(), Ordering::Release);
        // Pairs with the fence in `end_sleep`: a worker found asleep from here on will find `next`.
        fence(Ordering::SeqCst);
        self.former
            .push_back(std::mem::replace(&mut self.current, next));
        generation
    }

    /// Waits until every worker uses the current snapshot or sleeps.
    ///
    /// # Errors
    /// Names those that do not after `timeout`.
    pub fn wait_live(&self, timeout: Duration) -> Result<(), NotLive> {
        let clock = MonotonicClock::start();
        let started = clock.now();
        let mut pause = POLL_PAUSE_MIN;
        loop {
            let workers = self.stragglers();
            if workers.is_empty() {
                return Ok(());
            }
            if clock.now().since(started) >= timeout {
                return Err(NotLive {
                    generation: self.current.generation(),
                    workers,
                });
            }
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(POLL_PAUSE_MAX);
        }
    }

    /// Frees the former snapshots that no worker can use any more; returns how many. One that some
    /// other owner still holds an [`Arc`] of is left to that owner.
    pub fn retire(&mut self) -> usize {
        // A worker that waits to wake, or has, holds back everything.
        let oldest_used = self.reports().min().unwrap_or(u64::MAX);
        let before = self.former.len();
        while self
            .former
            .front()
            .is_some_and(|former| report_of(former.generation()) < oldest_used)
        {
            self.former.pop_front();
        }
        before.saturating_sub(self.former.len())
    }

    /// The current snapshot; a clone of it may be kept by any thread but a worker.
    #[must_use]
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// How many former snapshots are kept for workers that may use them.
    #[must_use]
    pub fn former_count(&self) -> usize {
        self.former.len()
    }

    /// The workers that neither use the current snapshot nor sleep.
    #[must_use]
    pub fn stragglers(&self) -> Vec<WorkerId> {
        // `WAKING` is below every report.
        let current = report_of(self.current.generation());
        worker_ids()
            .zip(self.reports())
            .filter_map(|(worker, report)| (report < current).then_some(worker))
            .collect()
    }

    /// Each worker, the generation that it uses, and whether it sleeps; one that sleeps, or whose
    /// reader is gone, counts as using the current generation, for it will load it first.
    #[must_use]
    pub fn generations(&self) -> Vec<(WorkerId, Generation, bool)> {
        let current = self.current.generation();
        worker_ids()
            .zip(self.reports())
            .map(|(worker, report)| match report {
                ASLEEP | GONE => (worker, current, true),
                report => (worker, Generation(report.saturating_sub(1)), false),
            })
            .collect()
    }

    /// Acquire pairs with the Release of every report: what a worker read of a former snapshot
    /// comes before its report of a later one, and so before the freeing.
    fn reports(&self) -> impl Iterator<Item = u64> {
        self.shared
            .reports
            .iter()
            .map(|report| report.load(Ordering::Acquire))
    }
}

impl<T: Generational> Drop for Publisher<T> {
    /// Readers that outlive the publisher keep what they may use: it is leaked, since no control
    /// thread is left that could free it later.
    fn drop(&mut self) {
        self.retire();
        if self.reports().all(|report| report == GONE) {
            return;
        }
        let kept = self.former.drain(..).chain([Arc::clone(&self.current)]);
        for snapshot in kept {
            let _leaked = Arc::into_raw(snapshot);
        }
    }
}

impl<T: Generational + fmt::Debug> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("current", &self.current)
            .field("former", &self.former.len())
            .field("reports", &self.reports().collect::<Vec<_>>())
            .finish()
    }
}

impl<T: Generational> SnapshotReader<T> {
    /// The current snapshot, for one burst; reports that this worker uses it and no older one.
    #[inline]
    pub fn load(&mut self) -> &T {
        if self.reported == ASLEEP {
            self.end_sleep();
        }
        // Acquire pairs with the Release in `publish`.
        let pointer = self.shared.current.load(Ordering::Acquire);
        // SAFETY: the publisher holds an `Arc` of what it stored in `current` and drops it only
        // after this worker reported a later generation, `ASLEEP` or `GONE` (or leaks it, when it
        // is dropped first). Until this call stores a report, the word holds a generation that is
        // not after this one, or `WAKING`. The borrow of `self` ends before the next `load`,
        // `begin_sleep` or drop, so no reference outlives the report that gives it up.
        let snapshot = unsafe { &*pointer };
        let report = report_of(snapshot.generation());
        if report != self.reported {
            self.reported = report;
            // Pairs with the Acquire in `reports`.
            self.report(Ordering::Release);
        }
        snapshot
    }

    /// Gives up the snapshot and counts as up to date until [`Self::end_sleep`].
    pub fn begin_sleep(&mut self) {
        self.reported = ASLEEP;
        // Pairs with the Acquire in `reports`: all reads of the snapshot come before.
        self.report(Ordering::Release);
    }

    /// Ends the sleep; the next [`Self::load`] finds what is current then. (A `load` without it
    /// does it first.)
    pub fn end_sleep(&mut self) {
        self.reported = WAKING;
        self.report(Ordering::Release);
        // Pairs with the fence in `publish`: see the module's documentation.
        fence(Ordering::SeqCst);
    }

    /// Whose reader this is.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    #[inline]
    fn report(&self, ordering: Ordering) {
        if let Some(word) = self.shared.reports.get(self.worker.index()) {
            word.store(self.reported, ordering);
        }
    }
}

impl<T: Generational> Drop for SnapshotReader<T> {
    fn drop(&mut self) {
        self.reported = GONE;
        // Pairs with the Acquire in `reports`.
        self.report(Ordering::Release);
    }
}

impl<T: Generational> fmt::Debug for SnapshotReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("worker", &self.worker)
            .field("reported", &self.reported)
            .finish_non_exhaustive()
    }
}

/// What a worker reports that uses a generation; never [`WAKING`].
#[inline]
fn report_of(generation: Generation) -> u64 {
    generation.0.saturating_add(1)
}

fn worker_ids() -> impl Iterator<Item = WorkerId> {
    (0..=u16::MAX).map(WorkerId)
}

fn list(workers: &[WorkerId]) -> String {
    let numbers: Vec<_> = workers.iter().map(|worker| worker.0.to_string()).collect();
    numbers.join(", ")
}

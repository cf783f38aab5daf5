//! Every order of the steps of code that threads share, by loom: the snapshot's publication cell,
//! and the hand-over between workers around the doorbell.
//!
//! The two files are compiled here as they are, with loom's atomics for `crate::sync`. Each model
//! says by which change to the code it was seen to fail. `LOOM_MAX_PREEMPTIONS` sets another bound
//! on preemptions than [`PREEMPTIONS_MAX`]; `LOOM_LOG=trace` and `LOOM_LOCATION=1` explain a
//! failure.
#![cfg(test)]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::atomic::AtomicUsize;
use loom::thread;
use portcullis::{clock, types};

use crate::cell::{Generational, Publisher, SnapshotReader};
use crate::doorbell::Doorbell;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::Generation;

#[path = "../src/snapshot/cell.rs"]
#[expect(dead_code, unreachable_pub, reason = "the library's, whole")]
mod cell;
#[path = "../src/worker/doorbell.rs"]
mod doorbell;

/// `crate::sync` of the two files.
mod sync {
    pub(crate) use std::sync::Arc;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
}

/// Switches of threads at other places than blocking ones, in one run of a model.
const PREEMPTIONS_MAX: usize = 3;
/// Snapshots of one run of a model.
const SNAPSHOTS_MAX: usize = 3;

/// Runs a model through all orders.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(PREEMPTIONS_MAX);
    }
    builder.check(model);
}

/// Whether each snapshot of a run lives. Loom's cells fail a model where a read and the beginning
/// or the end of the snapshot are not ordered, even if they came in order.
struct Lives([UnsafeCell<bool>; SNAPSHOTS_MAX]);

// SAFETY: loom checks at run time what this promises: no two threads in one cell unordered.
#[expect(unsafe_code, reason = "what is modelled is who may touch what")]
unsafe impl Sync for Lives {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "what is modelled is who may touch what")]
unsafe impl Send for Lives {}

/// Stands for the compiled policy.
struct Snapshot {
    generation: Generation,
    lives: Arc<Lives>,
}

impl Lives {
    fn new() -> Arc<Self> {
        Arc::new(Self(std::array::from_fn(|_| UnsafeCell::new(false))))
    }

    /// Generations count from 1.
    fn cell(&self, generation: Generation) -> &UnsafeCell<bool> {
        let index = usize::try_from(generation.0).unwrap().checked_sub(1);
        &self.0[index.unwrap()]
    }

    /// What a worker does with a snapshot during a burst. Reads the generation first: of freed
    /// memory it is likely none.
    fn touch(&self, snapshot: &Snapshot) -> Generation {
        let generation = snapshot.generation;
        self.cell(generation).with(|lives| {
            // SAFETY: loom fails the model before an access that is not ordered.
            #[expect(unsafe_code, reason = "a cell of loom's")]
            let lives = unsafe { *lives };
            assert!(lives, "read before it was made or after it was freed");
        });
        generation
    }
}

impl Snapshot {
    fn new(generation: u64, lives: &Arc<Lives>) -> Arc<Self> {
        let generation = Generation(generation);
        lives.cell(generation).with_mut(|lives| {
            // SAFETY: as in `touch`.
            #[expect(unsafe_code, reason = "a cell of loom's")]
            let lives = unsafe { &mut *lives };
            *lives = true;
        });
        Arc::new(Self {
            generation,
            lives: Arc::clone(lives),
        })
    }
}

impl Generational for Snapshot {
    fn generation(&self) -> Generation {
        self.generation
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.lives.cell(self.generation).with_mut(|lives| {
            // SAFETY: as in `touch`.
            #[expect(unsafe_code, reason = "a cell of loom's")]
            let lives = unsafe { &mut *lives };
            assert!(*lives, "freed twice");
            *lives = false;
        });
    }
}

fn cell(lives: &Arc<Lives>) -> (Publisher<Snapshot>, SnapshotReader<Snapshot>) {
    let (publisher, mut readers) = Publisher::new(Snapshot::new(1, lives), 1);
    (publisher, readers.pop().unwrap())
}

/// Fails with `Relaxed` for the `Release` of `publish` or the `Acquire` of `load`, for the
/// `Release` of `load`'s report or the `Acquire` of `reports`, and with `<=` for `<` in `retire`.
#[test]
fn what_a_worker_reads_is_not_freed() {
    check(|| {
        let lives = Lives::new();
        let (mut publisher, mut reader) = cell(&lives);
        let worker = thread::spawn({
            let lives = Arc::clone(&lives);
            move || {
                let first = lives.touch(reader.load());
                let second = lives.touch(reader.load());
                assert!(second >= first, "went back");
                reader
            }
        });
        for generation in 2..=3 {
            publisher.publish(Snapshot::new(generation, &lives));
            publisher.retire();
        }
        let mut reader = worker.join().unwrap();
        assert_eq!(lives.touch(reader.load()), Generation(3));
        publisher.retire();
        assert_eq!(publisher.former_count(), 0, "kept for nobody");
    });
}

/// Fails without the fence of `publish`, without that of `end_sleep`, and with `Relaxed` for the
/// `Release` of `begin_sleep` or of the reader's end.
#[test]
fn a_worker_that_wakes_finds_a_snapshot_that_lives() {
    check(|| {
        let lives = Lives::new();
        let (mut publisher, mut reader) = cell(&lives);
        let worker = thread::spawn({
            let lives = Arc::clone(&lives);
            move || {
                lives.touch(reader.load());
                reader.begin_sleep();
                reader.end_sleep();
                lives.touch(reader.load());
            }
        });
        for generation in 2..=3 {
            publisher.publish(Snapshot::new(generation, &lives));
            publisher.retire();
        }
        worker.join().unwrap();
        // The reader is gone.
        publisher.retire();
        assert_eq!(publisher.former_count(), 0);
    });
}

/// What `wait_live` promises, asleep or awake: once nobody is behind, no burst begins with an
/// older snapshot. Fails without either fence, and if `stragglers` takes `WAKING` for `ASLEEP`.
#[test]
fn once_live_no_burst_begins_with_an_older_snapshot() {
    check(|| {
        let lives = Lives::new();
        let live = Arc::new(AtomicBool::new(false));
        let (mut publisher, mut reader) = cell(&lives);
        let worker = thread::spawn({
            let (lives, live) = (Arc::clone(&lives), Arc::clone(&live));
            move || {
                lives.touch(reader.load());
                reader.begin_sleep();
                reader.end_sleep();
                for _ in 0..2 {
                    let was_live = live.load(Ordering::Acquire);
                    let generation = lives.touch(reader.load());
                    assert!(!was_live || generation == Generation(2), "an older policy");
                }
                reader
            }
        });
        publisher.publish(Snapshot::new(2, &lives));
        if publisher.stragglers().is_empty() {
            live.store(true, Ordering::Release);
            publisher.retire();
        }
        drop(worker.join().unwrap());
    });
}

/// Fails if `load` reports only what it finds at its first call.
#[test]
fn a_report_is_not_missed() {
    check(|| {
        let lives = Lives::new();
        let (mut publisher, mut reader) = cell(&lives);
        let worker = thread::spawn({
            let lives = Arc::clone(&lives);
            move || {
                while lives.touch(reader.load()) != Generation(2) {
                    thread::yield_now();
                }
                reader
            }
        });
        publisher.publish(Snapshot::new(2, &lives));
        while !publisher.stragglers().is_empty() {
            thread::yield_now();
        }
        assert_eq!(publisher.retire(), 1);
        drop(worker.join().unwrap());
    });
}

/// The ring between workers as far as the doorbell is concerned: a count of what waits. Its
/// orderings are weaker than those of the real ring, so that only the doorbell's fences hold.
#[derive(Default)]
struct Ring(AtomicUsize);

impl Ring {
    fn push(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// What waited.
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Whether a sleeper in `poll` would wake.
fn is_rung(doorbell: &Doorbell) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let at_once = Timespec::default();
    poll(&mut [PollFd::new(doorbell, PollFlags::IN)], Some(&at_once)).unwrap() > 0
}

/// Givers push and ring; a worker goes to sleep as `sleep_until_work` does. Where it sleeps and
/// nobody is about to ring, the ring is empty: no work waits for a sleeper.
fn sleeps_over_no_work(givers: usize) {
    check(move || {
        let ring = Arc::new(Ring::default());
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let threads: Vec<_> = (0..givers)
            .map(|_| {
                let (ring, doorbell) = (Arc::clone(&ring), Arc::clone(&doorbell));
                thread::spawn(move || {
                    ring.push();
                    doorbell.ring();
                })
            })
            .collect();
        let mut taken = ring.take();
        doorbell.raise();
        let sleeps = ring.is_empty();
        if !sleeps {
            doorbell.lower();
            taken += ring.take();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        if sleeps {
            assert!(doorbell.is_sleeping());
            assert!(is_rung(&doorbell) || ring.is_empty(), "sleeps over work");
            doorbell.lower();
            assert!(!doorbell.is_sleeping());
            assert!(!is_rung(&doorbell), "the next sleep would end at once");
        }
        assert_eq!(taken + ring.take(), givers);
    });
}

/// Fails without the fence of `ring`, without that of `raise`, and if a worker looks for work
/// before it raises the flag.
#[test]
fn no_work_waits_for_a_sleeper() {
    sleeps_over_no_work(1);
}

/// Fails as the one before does.
#[test]
fn two_givers_wake_a_sleeper_as_well() {
    sleeps_over_no_work(2);
}

//! The publication cell under real threads; tests/loom.rs has the orders that these never meet.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use super::*;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::types::WorkerId;

const CANARY: u64 = 0x5afe_c0de_5afe_c0de;

/// A snapshot whose life is watched: its words agree while it lives and are spoiled when it ends.
struct Probe {
    generation: Generation,
    words: [AtomicU64; 8],
    freed: Arc<AtomicUsize>,
    freed_by: thread::ThreadId,
}

impl Probe {
    fn new(generation: u64, freed: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            generation: Generation(generation),
            words: std::array::from_fn(|_| AtomicU64::new(CANARY ^ generation)),
            freed: Arc::clone(freed),
            freed_by: thread::current().id(),
        })
    }

    fn check(&self) {
        for word in &self.words {
            let word = word.load(Ordering::Relaxed);
            assert_eq!(word, CANARY ^ self.generation.0, "torn or freed");
        }
    }
}

impl Generational for Probe {
    fn generation(&self) -> Generation {
        self.generation
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.check();
        for word in &self.words {
            word.store(0xdead, Ordering::Relaxed);
        }
        self.freed.fetch_add(1, Ordering::Relaxed);
        if !thread::panicking() {
            assert_eq!(thread::current().id(), self.freed_by, "freed by a worker");
        }
    }
}

fn freed() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(0))
}

#[test]
fn generation_zero_becomes_live_too() {
    let (publisher, mut readers) = Publisher::new(Arc::new(Snapshot::empty(Generation(0))), 1);
    assert_eq!(publisher.stragglers(), [WorkerId(0)]);
    assert_eq!(readers[0].load().generation(), Generation(0));
    assert!(publisher.wait_live(Duration::ZERO).is_ok());
}

#[test]
fn a_worker_that_has_not_loaded_is_named() {
    let freed = freed();
    let (mut publisher, mut readers) = Publisher::new(Probe::new(1, &freed), 3);
    for reader in &mut readers {
        reader.load();
    }
    publisher.publish(Probe::new(2, &freed));
    readers[0].load();
    readers[2].begin_sleep();
    let error = publisher.wait_live(Duration::from_millis(2)).unwrap_err();
    assert_eq!(error.workers, [WorkerId(1)]);
    assert_eq!(error.generation, Generation(2));
    assert!(error.to_string().contains("worker(s) 1"));
    assert_eq!(
        publisher.generations(),
        [
            (WorkerId(0), Generation(2), false),
            (WorkerId(1), Generation(1), false),
            (WorkerId(2), Generation(2), true),
        ]
    );
    readers[1].load();
    publisher.wait_live(Duration::ZERO).unwrap();
}

#[test]
fn a_former_snapshot_is_freed_once_the_last_worker_moved_on() {
    let freed = freed();
    let count = || freed.load(Ordering::Relaxed);
    let (mut publisher, mut readers) = Publisher::new(Probe::new(1, &freed), 2);
    for reader in &mut readers {
        reader.load();
    }
    publisher.publish(Probe::new(2, &freed));
    readers[0].load();
    publisher.publish(Probe::new(3, &freed));
    assert_eq!(publisher.retire(), 0);
    assert_eq!(publisher.former_count(), 2);
    // Skips generation 2, which the other worker still uses.
    readers[1].load();
    assert_eq!((publisher.retire(), count()), (1, 1));
    readers[0].load();
    assert_eq!((publisher.retire(), count()), (1, 2));
    drop(readers);
    drop(publisher);
    assert_eq!(count(), 3);
}

#[test]
fn a_sleeper_holds_nothing_back_until_it_wakes() {
    let freed = freed();
    let (mut publisher, mut readers) = Publisher::new(Probe::new(1, &freed), 1);
    let reader = &mut readers[0];
    reader.load();
    reader.begin_sleep();
    publisher.publish(Probe::new(2, &freed));
    publisher.wait_live(Duration::ZERO).unwrap();
    assert_eq!(publisher.retire(), 1);
    reader.end_sleep();
    publisher.publish(Probe::new(3, &freed));
    assert_eq!(
        publisher.retire(),
        0,
        "it may be about to load generation 2"
    );
    assert_eq!(publisher.stragglers(), [WorkerId(0)]);
    assert_eq!(reader.load().generation(), Generation(3));
    assert_eq!(publisher.retire(), 1);
    publisher.wait_live(Duration::ZERO).unwrap();
}

#[test]
fn a_load_out_of_sleep_ends_the_sleep() {
    let freed = freed();
    let (mut publisher, mut readers) = Publisher::new(Probe::new(1, &freed), 1);
    readers[0].begin_sleep();
    readers[0].load().check();
    publisher.publish(Probe::new(2, &freed));
    assert_eq!(publisher.retire(), 0);
    assert_eq!(publisher.stragglers(), [WorkerId(0)]);
}

#[test]
fn readers_that_outlive_the_publisher_keep_what_they_read() {
    let freed = freed();
    let (mut publisher, mut readers) = Publisher::new(Probe::new(1, &freed), 1);
    readers[0].load();
    publisher.publish(Probe::new(2, &freed));
    drop(publisher);
    readers[0].load().check();
    drop(readers);
    assert_eq!(freed.load(Ordering::Relaxed), 0);
}

#[test]
#[should_panic(expected = "generations only grow")]
fn a_generation_that_does_not_grow_is_refused() {
    let (mut publisher, _readers) = Publisher::new(Arc::new(Snapshot::empty(Generation(5))), 0);
    publisher.publish(Arc::new(Snapshot::empty(Generation(5))));
}

#[test]
fn readers_under_churn_see_whole_snapshots_and_each_is_freed_once_by_control() {
    const GENERATIONS: u64 = 3000;
    let freed = freed();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut publisher, readers) = Publisher::new(Probe::new(1, &freed), 3);
    let workers: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut last = Generation(0);
                let mut bursts = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let snapshot = reader.load();
                    assert!(snapshot.generation >= last, "went back");
                    last = snapshot.generation;
                    for _ in 0..20 {
                        snapshot.check();
                    }
                    bursts += 1;
                    // Each worker sleeps at times of its own, mostly without its snapshot changing.
                    if bursts.is_multiple_of(3 + u64::from(reader.worker().0)) {
                        reader.begin_sleep();
                        thread::yield_now();
                        reader.end_sleep();
                    }
                }
                bursts
            })
        })
        .collect();
    let mut retired = 0;
    for generation in 2..=GENERATIONS {
        publisher.publish(Probe::new(generation, &freed));
        if generation % 7 != 0 {
            publisher.wait_live(Duration::from_secs(20)).unwrap();
        }
        retired += publisher.retire();
        assert_eq!(freed.load(Ordering::Relaxed), retired);
        assert!(publisher.former_count() < 20);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.join().unwrap() > 0);
    }
    drop(publisher);
    assert_eq!(freed.load(Ordering::Relaxed), GENERATIONS as usize);
}

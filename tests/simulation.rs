//! The whole packet path in a made-up world: workers over wires in memory, hosts that talk and
//! hosts that attack, policies that change, rings that are full, a worker that is slow, workers
//! that sleep, a clock that leaps. After every step: no frame lost or doubled, none passed that
//! the policy in force forbids, every counter adds up, no turn allocates.
//!
//! One seed gives one run. A failure prints it, and `SEED=n cargo test --test simulation` runs it
//! again; `SEEDS=n` runs so many from `SEED` on (scripts/simulate.sh).
#![cfg(test)]
#![expect(clippy::print_stderr, reason = "a failure names its seed")]

#[path = "simulation/exempt.rs"]
mod exempt;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/pieces.rs"]
mod pieces;
#[path = "simulation/policies.rs"]
mod policies;
#[path = "simulation/quota.rs"]
mod quota;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/rig.rs"]
mod rig;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/shape.rs"]
mod shape;
#[path = "simulation/talk.rs"]
mod talk;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::env;
use std::panic;

use portcullis::types::{DropReason, PassReason};

use crate::world::{Summary, World};

/// Seeds of a run in which nobody names one.
const SEEDS: u64 = 8;
/// Frames of one seed and link.
const FRAMES: u32 = 10_000;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread at its end has no count any more, and is none that a test counts.
        let _gone = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `alloc` had the pointer from the same allocator with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many allocations `work` makes in this thread.
fn count_allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// One seed's run; a failure names it.
fn run(seed: u64) -> Summary {
    let world = panic::catch_unwind(|| World::new(seed, FRAMES).run());
    world.unwrap_or_else(|failure| {
        eprintln!("replay: SEED={seed} SEEDS=1 cargo test --test simulation");
        panic::resume_unwind(failure)
    })
}

#[test]
fn the_world_holds_together_under_every_seed() {
    let first = number("SEED").unwrap_or(1);
    let is_chosen = env::var_os("SEED").is_some();
    let count = number("SEEDS").unwrap_or(if is_chosen { 1 } else { SEEDS });
    let mut total = Summary::default();
    for seed in first..first + count {
        let summary = run(seed);
        if is_chosen {
            eprintln!("seed {seed}: {summary:?}");
        }
        total.add(&summary);
    }
    if !is_chosen {
        total.check_that_it_was_worth_it();
    }
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.handed_over += other.handed_over;
        self.finished += other.finished;
        self.given_up += other.given_up;
        self.generations += other.generations;
        self.sleeps += other.sleeps;
        self.waited += other.waited;
        self.pieces_passed += other.pieces_passed;
        for (sum, count) in self.limited.iter_mut().zip(other.limited) {
            *sum += count;
        }
        self.ended += other.ended;
        for (sum, count) in self.passed.iter_mut().zip(other.passed) {
            *sum += count;
        }
        for (sum, count) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += count;
        }
    }

    /// A world in which nothing happens holds together too.
    fn check_that_it_was_worth_it(&self) {
        eprintln!("{self:?}");
        let passed = |reason: PassReason| self.passed[reason.index()];
        let dropped = |reason: DropReason| self.dropped[reason.index()];
        assert!(self.finished > 500 && self.given_up > 500, "talks");
        assert!(self.generations > 200 && self.sleeps > 200);
        assert!(self.handed_over > 10_000);
        assert!(self.waited > 500 && self.pieces_passed > 500, "pieces");
        assert!(
            self.limited.iter().all(|count| *count > 5),
            "{:?}: limits",
            self.limited
        );
        assert!(self.ended > 100, "addresses that leave");
        assert!(passed(PassReason::Tracked) > 5000);
        for &reason in PassReason::ALL {
            assert!(passed(reason) > 50, "{reason:?} did not happen");
        }
        for &reason in DropReason::ALL {
            let is_met = match reason {
                // No kernel here.
                DropReason::BadDescriptor => true,
                _ => dropped(reason) > 20,
            };
            assert!(is_met, "{reason:?} did not happen");
        }
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = || World::new(7, 1500).run();
    assert_eq!(format!("{:?}", run()), format!("{:?}", run()));
}

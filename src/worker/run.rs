//! A worker's thread: pinned, until told to stop.

use std::io;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::idle::{Idle, IdlePolicy, SLEEP_MAX};
use super::turn::Worker;
use crate::clock::{MonotonicClock, Tick};
use crate::port::{FrameMemory, Port};
use crate::sync::{Arc, AtomicBool, Ordering};

/// Idle turns between two publications of the counters.
const TURNS_PER_STORE: u64 = 64;

/// A worker's thread could not be made or pinned.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system refused a thread.
    #[error("cannot start a worker's thread")]
    Thread(#[source] io::Error),
    /// The thread may not run on its core.
    #[error("worker {worker} cannot be pinned to core {core}")]
    Pin {
        /// Position in `[workers] cores`.
        worker: u16,
        /// The core.
        core: usize,
    },
}

/// A worker that runs.
#[derive(Debug)]
pub struct RunningWorker {
    /// Its thread.
    pub thread: JoinHandle<()>,
    /// The kernel's id of that thread.
    pub thread_id: i32,
    /// The core that it is pinned to.
    pub core: usize,
}

/// Starts a worker on a core of its own. `stop` ends it after its turn.
///
/// # Errors
/// Where there is no thread to be had, or it cannot be pinned.
pub fn spawn<P, M>(
    worker: Worker<P, M>,
    core: usize,
    idle: IdlePolicy,
    clock: MonotonicClock,
    stop: Arc<AtomicBool>,
) -> Result<RunningWorker, SpawnError>
where
    P: Port + AsFd + Send + 'static,
    M: FrameMemory + Send + Sync + 'static,
{
    let id = worker.lanes.id();
    let (ready, started) = crossbeam::channel::bounded(1);
    let body = move || {
        let pinned = core_affinity::set_for_current(CoreId { id: core });
        let thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        if ready.send(pinned.then_some(thread_id)).is_err() || !pinned {
            return;
        }
        // A worker that panics leaves frames and flows in no known state: fail closed, at once.
        let abort = AbortOnPanic;
        run(worker, idle, clock, &stop);
        drop(abort);
    };
    let name = format!("worker-{}", id.0);
    let thread = thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(SpawnError::Thread)?;
    match started.recv() {
        Ok(Some(thread_id)) => Ok(RunningWorker {
            thread,
            thread_id,
            core,
        }),
        _ => Err(SpawnError::Pin { worker: id.0, core }),
    }
}

/// Aborts the process where a panic unwinds through it (release builds abort anyway).
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn run<P, M>(mut worker: Worker<P, M>, idle: IdlePolicy, clock: MonotonicClock, stop: &AtomicBool)
where
    P: Port + AsFd,
    M: FrameMemory,
{
    let mut now = clock.now();
    let mut idle = Idle::new(idle, now);
    // Pairs with the control thread's store; a turn late is soon enough.
    while !stop.load(Ordering::Relaxed) {
        let handled = worker.turn(now);
        let answered = worker.answer_commands(now);
        let swept = worker.end_departed(now);
        let counted = worker.take_census(now);
        let worked = handled > 0 || answered > 0 || swept || counted;
        let before = now;
        now = clock.now();
        let tally = &mut worker.lanes.tally;
        tally.turns = tally.turns.wrapping_add(1);
        if worked {
            let nanoseconds = now.0.saturating_sub(before.0);
            tally.busy_ns = tally.busy_ns.wrapping_add(nanoseconds);
        }
        let sleep = idle.should_sleep(worked, now);
        if worked || sleep || worker.lanes.tally.turns.is_multiple_of(TURNS_PER_STORE) {
            worker.store_counters();
        }
        if sleep {
            now = sleep_until_work(&mut worker, &clock, stop);
        }
    }
    drain(&mut worker, &clock);
    worker.store_counters();
}

/// Turns of a worker that was told to stop, at most: enough for full rings and a full inbox, and
/// no time for people even where frames keep coming.
const DRAIN_TURNS_MAX: u32 = 256;

/// Ends what was received and handed over before the stop.
#[cold]
fn drain<P: Port, M: FrameMemory>(worker: &mut Worker<P, M>, clock: &MonotonicClock) {
    for _ in 0..DRAIN_TURNS_MAX {
        if worker.turn(clock.now()) == 0 && !worker.lanes.has_work() {
            return;
        }
    }
}

/// Sleeps until a frame, a hand-over, a request or a timer; returns the time after it.
#[cold]
fn sleep_until_work<P, M>(
    worker: &mut Worker<P, M>,
    clock: &MonotonicClock,
    stop: &AtomicBool,
) -> Tick
where
    P: Port + AsFd,
    M: FrameMemory,
{
    if worker.begin_sleep() {
        // Looked at after the flag is up: whoever sets `stop` rings after it.
        if !stop.load(Ordering::Relaxed) {
            wait(worker);
        }
        worker.end_sleep();
    }
    clock.now()
}

/// File descriptors that one poll waits for at most: a worker's queues and its doorbell. Queues
/// past that are looked at when the sleep ends by itself.
const POLL_FDS_MAX: usize = 129;

fn wait<P: Port + AsFd, M>(worker: &Worker<P, M>) {
    let Some(doorbell) = worker.lanes.exchange().doorbell(worker.lanes.id()) else {
        return;
    };
    let mut fds: [PollFd<'_>; POLL_FDS_MAX] =
        std::array::from_fn(|_| PollFd::from_borrowed_fd(doorbell, PollFlags::IN));
    let mut count = 1_usize;
    let receiving = worker.lanes.queues.iter().filter(|queue| queue.receives);
    for (fd, queue) in fds.iter_mut().skip(1).zip(receiving) {
        *fd = PollFd::from_borrowed_fd(queue.port.as_fd(), PollFlags::IN);
        count = count.saturating_add(1);
    }
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(SLEEP_MAX.subsec_nanos()),
    };
    let fds = fds.get_mut(..count).unwrap_or(&mut []);
    // An interrupted or refused poll is a short sleep: the next turn looks at everything.
    let ready = poll(fds, Some(&timeout));
    if ready.is_ok_and(|ready| ready > 0) && forget_broken(fds, doorbell) {
        let _ignored = poll(fds, Some(&timeout));
    }
}

/// Takes descriptors that only say that they are broken (their device is gone) out of a poll that
/// has returned for nothing else; whether it has. They would end every sleep at once.
fn forget_broken<'a>(fds: &mut [PollFd<'a>], doorbell: std::os::fd::BorrowedFd<'a>) -> bool {
    if fds.iter().any(|fd| fd.revents().contains(PollFlags::IN)) {
        return false;
    }
    for fd in fds.iter_mut().filter(|fd| !fd.revents().is_empty()) {
        *fd = PollFd::from_borrowed_fd(doorbell, PollFlags::IN);
    }
    true
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_broken_descriptor_ends_a_sleep_once_and_a_ready_one_always() {
        let doorbell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let (broken, gone) = std::io::pipe().map(|(read, write)| (write, read)).unwrap();
        drop(gone);
        let now = Timespec::default();
        let mut fds = [
            PollFd::new(&doorbell, PollFlags::IN),
            PollFd::new(&broken, PollFlags::IN),
        ];
        assert_eq!(
            poll(&mut fds, Some(&now)),
            Ok(1),
            "POLLERR is not asked for"
        );
        assert!(forget_broken(&mut fds, doorbell.as_fd()));
        assert_eq!(poll(&mut fds, Some(&now)), Ok(0));
        rustix::io::write(&doorbell, &1_u64.to_ne_bytes()).unwrap();
        fds[1] = PollFd::new(&broken, PollFlags::IN);
        assert_eq!(poll(&mut fds, Some(&now)), Ok(2));
        assert!(!forget_broken(&mut fds, doorbell.as_fd()), "it was called");
    }
}

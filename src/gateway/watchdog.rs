//! Ends the process when a worker is stuck. A worker is stuck if its thread used processor time
//! without a turn; one that was stopped, starved or asleep is not.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use tracing::error;

use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::WorkerId;
use crate::worker::Exchange;

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Processor time without a turn that counts as stuck: a turn takes some hundred microseconds.
const STUCK_NS: u64 = 2_000_000_000;

/// Watches workers, given the kernel's thread ids, until `stop`.
///
/// # Errors
/// Where the system gives no thread.
pub(super) fn watch(
    exchange: Arc<Exchange>,
    threads: Vec<i32>,
    stop: Arc<AtomicBool>,
) -> io::Result<()> {
    let body = move || {
        let mut seen: Vec<Option<Seen>> = vec![None; threads.len()];
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(PERIOD);
            for (index, (&thread, seen)) in threads.iter().zip(&mut seen).enumerate() {
                let worker = WorkerId(u16::try_from(index).unwrap_or(u16::MAX));
                let Some(counters) = exchange.counters(worker) else {
                    continue;
                };
                let Some(cpu_ns) = thread_cpu_ns(thread) else {
                    continue;
                };
                if is_stuck(seen, counters.turns(), cpu_ns) && !exchange.is_sleeping(worker) {
                    error!(
                        worker = index,
                        "stuck within a turn: the gateway ends, links close"
                    );
                    std::process::abort();
                }
            }
        }
    };
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(body)
        .map(drop)
}

#[derive(Clone, Copy)]
struct Seen {
    turns: u64,
    cpu_ns: u64,
}

fn is_stuck(seen: &mut Option<Seen>, turns: u64, cpu_ns: u64) -> bool {
    match seen {
        Some(last) if last.turns == turns => cpu_ns.saturating_sub(last.cpu_ns) > STUCK_NS,
        _ => {
            *seen = Some(Seen { turns, cpu_ns });
            false
        }
    }
}

/// Time that a thread of this process spent on a processor (kernel:
/// Documentation/scheduler/sched-stats.rst, `/proc/<pid>/schedstat`, first field).
fn thread_cpu_ns(thread: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processor_time_without_a_turn_is_stuck() {
        let mut seen = None;
        assert!(!is_stuck(&mut seen, 7, 0));
        assert!(!is_stuck(&mut seen, 7, STUCK_NS), "no more than it may");
        assert!(is_stuck(&mut seen, 7, STUCK_NS + 1));
        assert!(!is_stuck(&mut seen, 8, 10 * STUCK_NS), "it made a turn");
        assert!(
            !is_stuck(&mut seen, 8, 10 * STUCK_NS),
            "starved: no time passed for it"
        );
    }

    #[test]
    fn a_threads_time_can_be_read() {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(thread_cpu_ns(id).is_some());
    }
}

//! Times by the processor's counter, and what disturbed them.
#![expect(unsafe_code, reason = "rdtsc and getrusage have no safe form in std")]
#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads clocks, rounds and prints"
)]

use std::time::{Duration, Instant};

/// The counter, after all that comes before it.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_lfence, _rdtsc};
        // SAFETY: SSE2 is part of every x86_64.
        unsafe { _mm_lfence() };
        // SAFETY: every x86_64 has the counter.
        unsafe { _rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Ticks of a nanosecond.
pub(crate) fn ticks_per_ns() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed() < Duration::from_millis(100) {}
    (ticks() - first) as f64 / start.elapsed().as_nanos() as f64
}

/// What the kernel has done to this thread so far: how often it was put off its core, and how
/// often it waited for a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    switches: i64,
    faults: i64,
}

impl Disturbance {
    /// Until now.
    pub(crate) fn now() -> Self {
        // SAFETY: all of its fields are numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one `rusage` to where this one is.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        Self {
            switches: usage.ru_nvcsw + usage.ru_nivcsw,
            faults: usage.ru_minflt + usage.ru_majflt,
        }
    }

    /// Page faults since an earlier time.
    pub(crate) fn faults_since(self, before: Self) -> i64 {
        self.faults - before.faults
    }

    /// Times off the core since an earlier time.
    pub(crate) fn switches_since(self, before: Self) -> i64 {
        self.switches - before.switches
    }
}

/// Times of one kind: a bucket for each eighth of a power of two.
#[derive(Clone)]
pub(crate) struct Times {
    counts: Vec<u64>,
    longest: u64,
}

impl Times {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; 512],
            longest: 0,
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, ticks: u64) {
        let ticks = ticks.max(8);
        let power = ticks.ilog2();
        let eighth = ticks >> (power - 3) & 7;
        self.counts[(power * 8) as usize + eighth as usize] += 1;
        self.longest = self.longest.max(ticks);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The ticks that all but one in `one_in` stay within.
    fn within(&self, one_in: u64) -> u64 {
        let mut rest = self.count() / one_in;
        for (place, count) in self.counts.iter().enumerate().rev() {
            if *count > rest {
                let (power, eighth) = (place / 8, place % 8);
                return ((8 + eighth as u64 + 1) << power >> 3).min(self.longest);
            }
            rest -= count;
        }
        0
    }

    /// The longest, in microseconds.
    pub(crate) fn longest_us(&self, ticks_per_ns: f64) -> f64 {
        self.longest as f64 / ticks_per_ns / 1000.0
    }

    /// A line in microseconds.
    pub(crate) fn print(&self, name: &str, ticks_per_ns: f64) {
        let us = |ticks: u64| ticks as f64 / ticks_per_ns / 1000.0;
        println!(
            "  {name:<34} {:>11} times  p50 {:>7.2}  p99.99 {:>8.2}  longest {:>9.2} µs",
            self.count(),
            us(self.within(2)),
            us(self.within(10_000)),
            us(self.longest)
        );
    }
}

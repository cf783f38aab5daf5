//! One worker's counters.

use std::array;

use crossbeam::utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};
use crate::types::{DropReason, Generation, PassReason};

/// What one worker counted since it started; plain numbers, the worker's own.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Frames received from its queues.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Frames given to a transmit ring.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Frames judged to pass, by [`PassReason`].
    pub passed: [u64; PassReason::COUNT],
    /// Frames dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    /// Frames given to another worker.
    pub handed_over: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Nanoseconds of turns that found work.
    pub busy_ns: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            passed: [0; PassReason::COUNT],
            dropped: [0; DropReason::COUNT],
            handed_over: 0,
            turns: 0,
            busy_ns: 0,
        }
    }
}

impl Tally {
    /// Counts a dropped frame.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    /// Counts several frames dropped for one reason.
    #[inline]
    pub fn drop_many(&mut self, reason: DropReason, count: u64) {
        if let Some(cell) = self.dropped.get_mut(reason.index()) {
            *cell = cell.wrapping_add(count);
        }
    }

    /// Counts a frame that was judged to pass.
    #[inline]
    pub fn pass(&mut self, reason: PassReason) {
        if let Some(cell) = self.passed.get_mut(reason.index()) {
            *cell = cell.wrapping_add(1);
        }
    }
}

/// Kinds of entries that give way.
pub const EVICTED_KINDS: usize = 4;

/// Levels that a worker reports beside its counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Live entries of its shard.
    pub flows: u64,
    /// New flows refused for want of room.
    pub refused: u64,
    /// Entries that gave way to new ones.
    pub evicted: u64,
    /// Mid-stream TCP connections that a rule let in.
    pub picked_up: u64,
    /// New flows that their interface's limit refused.
    pub limited: u64,
    /// New flows that it has room for, with those that would give way.
    pub available: u64,
    /// Entries that gave way, by kind: untracked, closed, unanswered, half open.
    pub evicted_by: [u64; EVICTED_KINDS],
    /// The generation up to which every flow that lost its address has ended.
    pub swept: u64,
}

/// The published form of a worker's counts: one writer, any number of readers.
#[derive(Debug)]
pub struct WorkerCounters {
    cells: CachePadded<Cells>,
    /// Hand-over frames that wait for this worker: written by those who push and by it.
    waiting: CachePadded<AtomicU64>,
}

#[derive(Debug)]
struct Cells {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    passed: [AtomicU64; PassReason::COUNT],
    dropped: [AtomicU64; DropReason::COUNT],
    handed_over: AtomicU64,
    turns: AtomicU64,
    busy_ns: AtomicU64,
    flows: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    picked_up: AtomicU64,
    limited: AtomicU64,
    available: AtomicU64,
    evicted_by: [AtomicU64; EVICTED_KINDS],
    swept: AtomicU64,
}

/// What a reader sees of a worker's counters.
#[derive(Clone, Debug, Default)]
pub struct CounterView {
    /// The counts.
    pub tally: Tally,
    /// The levels.
    pub gauges: Gauges,
    /// Frames that were handed to the worker and that it has not taken up.
    pub in_flight: u64,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            cells: CachePadded::new(Cells {
                rx_packets: zero(),
                rx_bytes: zero(),
                tx_packets: zero(),
                tx_bytes: zero(),
                passed: array::from_fn(|_| zero()),
                dropped: array::from_fn(|_| zero()),
                handed_over: zero(),
                turns: zero(),
                busy_ns: zero(),
                flows: zero(),
                refused: zero(),
                evicted: zero(),
                picked_up: zero(),
                limited: zero(),
                available: zero(),
                evicted_by: array::from_fn(|_| zero()),
                swept: zero(),
            }),
            waiting: CachePadded::new(zero()),
        }
    }
}

impl WorkerCounters {
    /// Publishes the worker's counts; called by that worker only, once a turn.
    pub fn store(&self, tally: &Tally, gauges: &Gauges) {
        // Relaxed: each cell is a number of its own, and readers tolerate a turn's skew.
        let put = |cell: &AtomicU64, value: u64| cell.store(value, Ordering::Relaxed);
        let cells = &self.cells;
        put(&cells.rx_packets, tally.rx_packets);
        put(&cells.rx_bytes, tally.rx_bytes);
        put(&cells.tx_packets, tally.tx_packets);
        put(&cells.tx_bytes, tally.tx_bytes);
        for (cell, value) in cells.passed.iter().zip(tally.passed) {
            put(cell, value);
        }
        for (cell, value) in cells.dropped.iter().zip(tally.dropped) {
            put(cell, value);
        }
        put(&cells.handed_over, tally.handed_over);
        put(&cells.turns, tally.turns);
        put(&cells.busy_ns, tally.busy_ns);
        put(&cells.flows, gauges.flows);
        put(&cells.refused, gauges.refused);
        put(&cells.evicted, gauges.evicted);
        put(&cells.picked_up, gauges.picked_up);
        put(&cells.limited, gauges.limited);
        put(&cells.available, gauges.available);
        for (cell, value) in cells.evicted_by.iter().zip(gauges.evicted_by) {
            put(cell, value);
        }
        put(&cells.swept, gauges.swept);
    }

    /// A frame was pushed toward this worker.
    pub fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// The worker took up `count` frames that were pushed toward it.
    pub fn take_waiting(&self, count: u64) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// Turns of the loop so far, for the watchdog.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.cells.turns.load(Ordering::Relaxed)
    }

    /// The generation up to which the worker has ended every flow that lost its address.
    #[must_use]
    pub fn swept(&self) -> Generation {
        Generation(self.cells.swept.load(Ordering::Relaxed))
    }

    /// All of them, as they are now.
    #[must_use]
    pub fn view(&self) -> CounterView {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let cells = &self.cells;
        CounterView {
            tally: Tally {
                rx_packets: get(&cells.rx_packets),
                rx_bytes: get(&cells.rx_bytes),
                tx_packets: get(&cells.tx_packets),
                tx_bytes: get(&cells.tx_bytes),
                passed: array::from_fn(|index| cells.passed.get(index).map_or(0, get)),
                dropped: array::from_fn(|index| cells.dropped.get(index).map_or(0, get)),
                handed_over: get(&cells.handed_over),
                turns: get(&cells.turns),
                busy_ns: get(&cells.busy_ns),
            },
            gauges: Gauges {
                flows: get(&cells.flows),
                refused: get(&cells.refused),
                evicted: get(&cells.evicted),
                picked_up: get(&cells.picked_up),
                limited: get(&cells.limited),
                available: get(&cells.available),
                evicted_by: array::from_fn(|kind| cells.evicted_by.get(kind).map_or(0, get)),
                swept: get(&cells.swept),
            },
            in_flight: self.waiting.load(Ordering::Relaxed),
        }
    }
}

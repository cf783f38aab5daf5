//! When to look at an entry: 16 bits each, swept in order.
//!
//! The deadline in the entry is the truth; a timer only says from when on it is worth reading. A
//! packet that moves a deadline later leaves the timer alone: when the sweep comes to it, it reads
//! the entry and files it anew. One that moves it earlier (a close) files it at once. So a timer is
//! never later than its deadline, and an expired entry is found within one lap.
//!
//! A lap reads the timers of all entries once, at most [`SCAN_PER_TURN_MAX`] in a turn and begun
//! at most every 0.27 s: 32 of them in a cache line, so a million cost 31,250 lines, in order.
//!
//! 16 bits wrap. What keeps that from losing a timer: it is filed at most [`AHEAD_MAX`] units after
//! the lap's start, and when the clock has moved more than that between the starts of two laps
//! (a leap, a long sleep), the next lap looks at every entry whatever its timer says.

use crate::clock::Tick;
use crate::cpu::{prefetch, present};

/// Most entries that one turn looks at; each costs two cache misses at worst.
pub const EXPIRE_PER_TURN_MAX: u32 = 128;

/// Entries whose cache misses the sweep takes at the same time.
pub(super) const SWEEP_BATCH: usize = 32;

/// Such batches in a turn.
pub(super) const SWEEPS_PER_TURN: usize = 4;

const _: () = assert!(SWEEP_BATCH * SWEEPS_PER_TURN == EXPIRE_PER_TURN_MAX as usize);

/// Most timers that one turn reads: 128 cache lines in order.
pub const SCAN_PER_TURN_MAX: u32 = 4096;

/// Furthest a timer is filed ahead, in units: 37 minutes.
const AHEAD_MAX: u64 = 1 << 13;

/// Timers in a cache line.
const TIMERS_PER_LINE: usize = 32;

/// No entry, nothing to look at.
const IDLE: u16 = 0;

/// Time in units of 2^24 ns (17 ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Beat(pub(super) u64);

impl Beat {
    pub(super) const SHIFT: u32 = 24;
    /// From beats to the units of timers, 2^28 ns.
    const UNIT_SHIFT: u32 = 4;
    /// Longest that a deadline is ahead: [`super::TIMEOUT_MAX`], in beats, and more.
    const AHEAD_MAX: u32 = 1 << 26;

    /// The beat of a tick.
    #[inline]
    pub(super) fn of(now: Tick) -> Self {
        Self(now.0 >> Self::SHIFT)
    }

    /// `span` beats later.
    #[inline]
    pub(super) fn after(self, span: u32) -> Self {
        Self(self.0.saturating_add(u64::from(span)))
    }

    /// The start of the beat.
    pub(super) fn tick(self) -> Tick {
        Tick(self.0.saturating_mul(1 << Self::SHIFT))
    }

    /// Beats that last at least as long as `span`.
    pub(super) fn span(span: std::time::Duration) -> u32 {
        let beats = span.as_nanos().div_ceil(1 << Self::SHIFT);
        u32::try_from(beats).unwrap_or(u32::MAX)
    }

    /// What entries keep of it.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is what is kept"
    )]
    pub(super) fn low(self) -> u32 {
        self.0 as u32
    }

    /// Whether it is before a deadline of which the low half was kept.
    #[inline]
    pub(super) fn is_before(self, deadline: u32) -> bool {
        deadline.wrapping_sub(self.low()).wrapping_sub(1) < Self::AHEAD_MAX
    }

    /// The beat with this low half that is ahead by no more than a deadline can be, else behind.
    #[inline]
    pub(super) fn nearest(self, low: u32) -> Self {
        let ahead = low.wrapping_sub(self.low());
        if ahead <= Self::AHEAD_MAX {
            return Self(self.0.saturating_add(u64::from(ahead)));
        }
        Self(self.0.saturating_sub(u64::from(ahead.wrapping_neg())))
    }

    /// The timer unit that it is in.
    fn unit(self) -> u64 {
        self.0 >> Self::UNIT_SHIFT
    }

    /// The first timer unit that begins at or after it.
    fn unit_after(self) -> u64 {
        self.0.div_ceil(1 << Self::UNIT_SHIFT)
    }
}

const _: () = assert!(
    super::TIMEOUT_MAX.as_nanos() >> Beat::SHIFT < Beat::AHEAD_MAX as u128,
    "a deadline is told from one that has passed"
);

/// One turn of the sweep.
#[derive(Debug)]
pub(super) struct Turn {
    due_at: u16,
    /// Where it stops, and where the lap does.
    end: usize,
    lap_end: usize,
}

/// The timers and the sweep's place among them.
#[derive(Debug)]
pub(super) struct Timers {
    timers: Vec<u16>,
    /// Next timer to read; all below have been read in this lap.
    hand: usize,
    /// Unit in which this lap began.
    lap_unit: u64,
    /// Whether this lap looks at every entry.
    is_full_lap: bool,
}

impl Timers {
    /// Timers for `count` entries, all idle.
    pub(super) fn new(count: u32, now: Beat) -> Self {
        Self {
            timers: present(IDLE, count as usize),
            hand: 0,
            lap_unit: now.unit(),
            is_full_lap: false,
        }
    }

    /// Files an entry: it is looked at soon after its deadline, or before.
    #[inline]
    pub(super) fn file(&mut self, entry: u32, deadline: Beat) {
        let value = self.value(deadline);
        if let Some(timer) = self.timers.get_mut(entry as usize) {
            *timer = value;
        }
    }

    /// Asks for the timer of an entry.
    #[inline]
    pub(super) fn prefetch(&self, entry: u32) {
        if let Some(timer) = self.timers.get(entry as usize) {
            prefetch(timer);
        }
    }

    /// Takes an entry out.
    pub(super) fn clear(&mut self, entry: u32) {
        if let Some(timer) = self.timers.get_mut(entry as usize) {
            *timer = IDLE;
        }
    }

    /// Whether a lap is under way or would begin now.
    #[inline]
    pub(super) fn is_due(&self, now: Beat) -> bool {
        self.hand != 0 || now.unit() > self.lap_unit
    }

    /// Begins a turn of the sweep where the last one stopped; `used` is how many entries have
    /// ever been used.
    pub(super) fn turn(&mut self, now: Beat, used: u32) -> Turn {
        if self.hand == 0 {
            self.begin_lap(now);
        }
        let due_unit = now.unit().min(self.lap_unit.saturating_add(AHEAD_MAX));
        let lap_end = self.timers.len().min(used as usize);
        let end = self.hand.saturating_add(SCAN_PER_TURN_MAX as usize);
        Turn {
            due_at: truncate(due_unit),
            end: end.min(lap_end),
            lap_end,
        }
    }

    /// The next entries that are due, as many as `due` holds; fewer at the end of the turn. Each
    /// is then filed or cleared.
    pub(super) fn collect<'a>(&mut self, turn: &mut Turn, due: &'a mut [u32]) -> &'a [u32] {
        let mut count = 0usize;
        for place in &mut *due {
            let rest = self.timers.get(self.hand..turn.end).unwrap_or_default();
            let Some(ahead) = first_due(rest, turn.due_at, self.is_full_lap) else {
                self.hand = self.hand.max(turn.end);
                break;
            };
            let at = self.hand.saturating_add(ahead);
            *place = u32::try_from(at).unwrap_or(u32::MAX);
            self.hand = at.saturating_add(1);
            count = count.saturating_add(1);
        }
        if self.hand >= turn.lap_end {
            // The next lap is the next turn's.
            self.hand = 0;
            turn.end = 0;
        }
        due.get(..count).unwrap_or_default()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        size_of::<u16>().saturating_mul(self.timers.len())
    }

    fn begin_lap(&mut self, now: Beat) {
        let unit = now.unit().max(self.lap_unit);
        let ahead = unit.saturating_sub(self.lap_unit);
        self.is_full_lap = ahead > AHEAD_MAX;
        self.lap_unit = unit;
    }

    #[inline]
    fn value(&self, deadline: Beat) -> u16 {
        let ahead = deadline.unit_after().saturating_sub(self.lap_unit);
        let unit = self.lap_unit.saturating_add(ahead.min(AHEAD_MAX));
        // One value means idle; the unit after it stands for it, 0.27 s late once in five hours.
        truncate(unit).max(IDLE.wrapping_add(1))
    }
}

/// Position of the first due timer. Whole lines are passed over without a branch in them, which
/// the compiler turns into vector instructions.
fn first_due(timers: &[u16], due_at: u16, is_full_lap: bool) -> Option<usize> {
    let is_due = |timer: &u16| is_due(*timer, due_at, is_full_lap);
    let lines = timers.chunks(TIMERS_PER_LINE);
    let quiet = lines
        .take_while(|line| !line.iter().fold(false, |any, timer| any | is_due(timer)))
        .count();
    let from = quiet.saturating_mul(TIMERS_PER_LINE);
    let ahead = timers.get(from..)?.iter().position(is_due)?;
    Some(from.saturating_add(ahead))
}

#[inline]
fn is_due(timer: u16, due_at: u16, is_full_lap: bool) -> bool {
    timer != IDLE && (is_full_lap || due_at.wrapping_sub(timer) < 1 << 15)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
fn truncate(unit: u64) -> u16 {
    unit as u16
}

#[cfg(test)]
impl Timers {
    /// The deadline with this low half that is nearest to the lap's start.
    pub(super) fn near_lap(&self, low: u32) -> Beat {
        let lap = Beat(self.lap_unit << Beat::UNIT_SHIFT);
        let ahead = low.wrapping_sub(lap.low()).cast_signed();
        Beat(lap.0.saturating_add_signed(i64::from(ahead)))
    }

    /// Next timer to read.
    pub(super) fn hand(&self) -> usize {
        self.hand
    }

    /// Entries with a timer.
    pub(super) fn filed(&self) -> usize {
        self.timers.iter().filter(|timer| **timer != IDLE).count()
    }

    /// Panics unless the entry will be looked at no later than it should.
    pub(super) fn check(&self, entry: u32, deadline: Beat) {
        let timer = self.timers[entry as usize];
        assert_ne!(timer, IDLE, "a live entry without a timer");
        let ahead = timer.wrapping_sub(truncate(self.lap_unit)).cast_signed();
        let late =
            i64::from(ahead) - (deadline.unit_after().cast_signed() - self.lap_unit.cast_signed());
        let is_pending_full = self.is_full_lap && entry as usize >= self.hand;
        assert!(
            late <= 1 || ahead <= 1 || is_pending_full,
            "filed {late} units after its deadline"
        );
        assert!(is_pending_full || i64::from(ahead).unsigned_abs() <= AHEAD_MAX + 1);
    }
}

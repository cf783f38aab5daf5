//! A port that misbehaves as networks and rings do, reproducibly: frames are lost, come late, or
//! find no room in the transmit ring.
//!
//! Duplication is not among the faults: a frame owns its chunk, and there is no second chunk. What
//! is lost gives its chunk back at the next [`Port::flush`], as if it had been transmitted, so the
//! sum of chunks stays the same. Everything that is held back is bounded.

use std::collections::VecDeque;

use super::{ChunkAddr, Frame, Port};
use crate::types::DropReason;

/// Most frames held back at a time.
const HELD_MAX: usize = 64;
/// Most chunks of lost frames that wait for a flush; while they do, nothing more is lost.
const LOST_MAX: usize = 1024;

/// How often what goes wrong, in chances out of [`FaultRates::PER`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Received frames that are lost before anyone sees them.
    pub receive_loss: u16,
    /// Received frames that come after those of the next call.
    pub receive_delay: u16,
    /// Transmitted frames that are accepted and never sent.
    pub transmit_loss: u16,
    /// Transmitted frames that are refused with [`DropReason::TxFull`].
    pub transmit_refusal: u16,
}

impl FaultRates {
    /// A rate of this always happens.
    pub const PER: u16 = 1024;
}

/// How often what went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// See [`FaultRates::receive_loss`].
    pub receive_lost: u64,
    /// See [`FaultRates::receive_delay`].
    pub receive_delayed: u64,
    /// See [`FaultRates::transmit_loss`].
    pub transmit_lost: u64,
    /// See [`FaultRates::transmit_refusal`].
    pub transmit_refused: u64,
}

/// A port with faults before it.
#[derive(Debug)]
pub struct FaultPort<P: Port> {
    inner: P,
    rates: FaultRates,
    chunk_size: u64,
    random: Random,
    held: VecDeque<Frame>,
    lost: VecDeque<ChunkAddr>,
    counts: FaultCounts,
}

impl<P: Port> FaultPort<P> {
    /// The same seed and the same calls give the same faults. `chunk_size` finds a lost frame's
    /// chunk.
    ///
    /// # Panics
    /// Where the chunk size is 0.
    #[must_use]
    pub fn new(inner: P, rates: FaultRates, chunk_size: u64, seed: u64) -> Self {
        assert!(chunk_size > 0, "chunks have a size");
        Self {
            inner,
            rates,
            chunk_size,
            random: Random(seed),
            held: VecDeque::with_capacity(HELD_MAX),
            lost: VecDeque::with_capacity(LOST_MAX),
            counts: FaultCounts::default(),
        }
    }

    /// The port behind.
    #[must_use]
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The port behind, to queue frames at it.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }

    /// What went wrong so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Chunks that this port itself has in hand: of delayed and of lost frames.
    #[must_use]
    pub fn chunks_held(&self) -> usize {
        self.held.len() + self.lost.len()
    }
}

impl<P: Port> Port for FaultPort<P> {
    fn has_work(&mut self) -> bool {
        !self.held.is_empty() || self.inner.has_work()
    }

    /// Frames held back in the call before come after the fresh ones of this call, the last first.
    fn receive(&mut self, limit: usize, mut sink: impl FnMut(Frame)) -> usize {
        let late_end = self.held.len();
        let late_count = late_end.min(limit);
        let Self {
            inner,
            rates,
            chunk_size,
            random,
            held,
            lost,
            counts,
        } = self;
        let bad = inner.receive(limit - late_count, |frame| {
            if random.happens(rates.receive_loss) && lost.len() < LOST_MAX {
                lost.push_back(chunk_of(&frame, *chunk_size));
                counts.receive_lost += 1;
            } else if random.happens(rates.receive_delay) && held.len() < HELD_MAX {
                held.push_back(frame);
                counts.receive_delayed += 1;
            } else {
                sink(frame);
            }
        });
        // In place, since a turn allocates nothing; what was held back just now stays.
        for index in (late_end - late_count..late_end).rev() {
            if let Some(frame) = held.remove(index) {
                sink(frame);
            }
        }
        bad
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.random.happens(self.rates.transmit_refusal) {
            self.counts.transmit_refused += 1;
            return Err((frame, DropReason::TxFull));
        }
        if self.random.happens(self.rates.transmit_loss) && self.lost.len() < LOST_MAX {
            self.lost.push_back(chunk_of(&frame, self.chunk_size));
            self.counts.transmit_lost += 1;
            return Ok(());
        }
        self.inner.transmit(frame)
    }

    fn flush(&mut self, limit: usize, mut sink: impl FnMut(ChunkAddr)) {
        let lost_count = self.lost.len().min(limit);
        for chunk in self.lost.drain(..lost_count) {
            sink(chunk);
        }
        self.inner.flush(limit - lost_count, sink);
    }

    fn refill(&mut self, source: impl FnMut() -> Option<ChunkAddr>, limit: usize) -> usize {
        self.inner.refill(source, limit)
    }
}

/// The chunk that a frame lies in.
fn chunk_of(frame: &Frame, chunk_size: u64) -> ChunkAddr {
    ChunkAddr(frame.addr() / chunk_size * chunk_size)
}

/// SplitMix64: the next of a reproducible sequence.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn happens(&mut self, rate: u16) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % u64::from(FaultRates::PER) < u64::from(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryFrames, MemoryPort};
    use super::*;

    const CHUNK_SIZE: u32 = 256;

    fn port(rates: FaultRates, frames_count: u32) -> FaultPort<MemoryPort> {
        let mut memory = MemoryFrames::new(frames_count, CHUNK_SIZE);
        let chunks: Vec<ChunkAddr> = memory.chunks().collect();
        let incoming = chunks
            .iter()
            .map(|chunk| memory.write(*chunk, &[1; 60]))
            .collect();
        let inner = MemoryPort {
            incoming,
            transmit_max: usize::MAX,
            chunk_size: CHUNK_SIZE.into(),
            ..MemoryPort::default()
        };
        FaultPort::new(inner, rates, CHUNK_SIZE.into(), 7)
    }

    /// Receives until nothing comes any more; addresses in order of arrival.
    fn receive_all(port: &mut FaultPort<MemoryPort>, limit: usize) -> Vec<u64> {
        let mut arrived = Vec::new();
        while !port.inner().incoming.is_empty() || !port.held.is_empty() {
            let mut count = 0;
            port.receive(limit, |frame| {
                count += 1;
                arrived.push(frame.addr());
            });
            assert!(count <= limit);
            port.flush(usize::MAX, |_| {});
        }
        arrived
    }

    #[test]
    fn without_rates_nothing_changes() {
        let mut port = port(FaultRates::default(), 100);
        let expected: Vec<u64> = (0..100)
            .map(|index| index * u64::from(CHUNK_SIZE))
            .collect();
        assert_eq!(receive_all(&mut port, 8), expected);
        assert_eq!(port.counts(), FaultCounts::default());
    }

    #[test]
    fn delayed_frames_come_out_of_order_and_none_is_missing() {
        let rates = FaultRates {
            receive_delay: 300,
            ..FaultRates::default()
        };
        let mut port = port(rates, 1000);
        let mut arrived = receive_all(&mut port, 8);
        assert!(port.counts().receive_delayed > 200);
        assert!(!arrived.is_sorted());
        arrived.sort_unstable();
        let expected: Vec<u64> = (0..1000)
            .map(|index| index * u64::from(CHUNK_SIZE))
            .collect();
        assert_eq!(arrived, expected);
        assert_eq!(port.chunks_held(), 0);
    }

    #[test]
    fn always_delayed_frames_arrive_all_the_same() {
        let rates = FaultRates {
            receive_delay: FaultRates::PER,
            ..FaultRates::default()
        };
        assert_eq!(receive_all(&mut port(rates, 500), 16).len(), 500);
    }

    #[test]
    fn lost_frames_give_their_chunks_back() {
        let rates = FaultRates {
            receive_loss: 200,
            transmit_loss: 200,
            transmit_refusal: 200,
            ..FaultRates::default()
        };
        let mut port = port(rates, 1000);
        let mut home = Vec::new();
        for _ in 0..2000 {
            let mut frames = Vec::new();
            port.receive(1, |frame| frames.push(frame));
            for frame in frames {
                if let Err((frame, reason)) = port.transmit(frame) {
                    assert_eq!(reason, DropReason::TxFull);
                    home.push(frame.addr());
                }
            }
            port.flush(usize::MAX, |chunk| home.push(chunk.0));
        }
        let counts = port.counts();
        assert!(
            counts.receive_lost > 100 && counts.transmit_lost > 100,
            "{counts:?}"
        );
        assert!(counts.transmit_refused > 100, "{counts:?}");
        home.sort_unstable();
        let expected: Vec<u64> = (0..1000)
            .map(|index| index * u64::from(CHUNK_SIZE))
            .collect();
        assert_eq!(home, expected, "each chunk exactly once");
    }

    #[test]
    fn loss_is_bounded_while_nobody_flushes() {
        let rates = FaultRates {
            receive_loss: FaultRates::PER,
            ..FaultRates::default()
        };
        let mut port = port(rates, 3000);
        let mut arrived = 0;
        port.receive(3000, |_frame| arrived += 1);
        assert_eq!((port.chunks_held(), arrived), (LOST_MAX, 3000 - LOST_MAX));
    }

    #[test]
    fn delay_is_bounded_within_a_call() {
        let rates = FaultRates {
            receive_delay: FaultRates::PER,
            ..FaultRates::default()
        };
        let mut port = port(rates, 3000);
        let mut arrived = 0;
        port.receive(3000, |_frame| arrived += 1);
        assert_eq!((port.chunks_held(), arrived), (HELD_MAX, 3000 - HELD_MAX));
    }

    #[test]
    fn one_seed_gives_one_run() {
        let rates = FaultRates {
            receive_loss: 100,
            receive_delay: 100,
            ..FaultRates::default()
        };
        let run = || receive_all(&mut port(rates, 500), 8);
        assert_eq!(run(), run());
    }
}

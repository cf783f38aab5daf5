//! A port whose wires are two queues in memory: for tests, benchmarks and simulation.

use std::collections::VecDeque;
use std::sync::OnceLock;

use super::{ChunkAddr, Frame, FrameMemory, Port};
use crate::sync::{AtomicU32, Ordering};
use crate::types::DropReason;

/// Chunks in plain memory.
#[derive(Debug)]
pub struct MemoryFrames {
    bytes: Box<[u8]>,
    chunk_size: u32,
}

impl MemoryFrames {
    /// `count` chunks of `chunk_size` bytes, all zero.
    #[must_use]
    pub fn new(count: u32, chunk_size: u32) -> Self {
        let len = count as usize * chunk_size as usize;
        Self {
            bytes: vec![0; len].into_boxed_slice(),
            chunk_size,
        }
    }

    /// Addresses of all chunks.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkAddr> + use<> {
        let size = u64::from(self.chunk_size);
        let count = self.bytes.len() as u64 / size;
        (0..count).map(move |index| ChunkAddr(index * size))
    }

    /// Writes a packet into a free chunk and makes it a frame; longer packets are cut.
    pub fn write(&mut self, chunk: ChunkAddr, packet: &[u8]) -> Frame {
        let len = packet.len().min(self.chunk_size as usize);
        let start = usize::try_from(chunk.0).unwrap_or(usize::MAX);
        self.bytes[start..start + len].copy_from_slice(&packet[..len]);
        Frame::new(chunk.0, u32::try_from(len).unwrap_or(u32::MAX))
    }
}

impl FrameMemory for MemoryFrames {
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let start = usize::try_from(frame.addr()).unwrap_or(usize::MAX);
        self.bytes
            .get(start..start.saturating_add(frame.len() as usize))
            .unwrap_or(&[])
    }
}

/// Chunks that packets are written into while workers run, for simulations: a tape of packets that
/// only grows, and for each chunk the place on it of what it holds. So a chunk can be written again
/// though others hold the memory, and whoever still reads the packet before keeps it whole.
#[derive(Debug)]
pub struct FrameTape {
    packets: Box<[OnceLock<Box<[u8]>>]>,
    written: AtomicU32,
    /// Position of each chunk's packet.
    held: Box<[AtomicU32]>,
    chunk_size: u32,
}

impl FrameTape {
    /// Bytes before a packet in its chunk, as the kernel leaves some.
    pub const HEADROOM: u32 = 64;

    /// `count` chunks of `chunk_size` bytes, and room for so many packets in all.
    #[must_use]
    pub fn new(count: u32, chunk_size: u32, packets_max: u32) -> Self {
        Self {
            packets: (0..packets_max).map(|_| OnceLock::new()).collect(),
            written: AtomicU32::new(0),
            held: (0..count).map(|_| AtomicU32::new(u32::MAX)).collect(),
            chunk_size,
        }
    }

    /// Addresses of all chunks.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkAddr> + use<> {
        let size = u64::from(self.chunk_size);
        (0..self.held.len() as u64).map(move |index| ChunkAddr(index * size))
    }

    /// Puts a packet into a free chunk and makes it a frame, longer packets are cut; `None` where
    /// the tape is at its end.
    pub fn write(&self, chunk: ChunkAddr, packet: &[u8]) -> Option<Frame> {
        let room = (self.chunk_size - Self::HEADROOM) as usize;
        let packet = packet.get(..room).unwrap_or(packet);
        let position = self.written.load(Ordering::Relaxed);
        self.packets
            .get(position as usize)?
            .set(packet.into())
            .ok()?;
        self.written.store(position + 1, Ordering::Relaxed);
        // Pairs with the Acquire in `bytes`, as far as the frame itself is not passed on in order.
        self.held_by(chunk.0)?.store(position, Ordering::Release);
        let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        Some(Frame::new(chunk.0 + u64::from(Self::HEADROOM), len))
    }

    /// How many packets were written.
    #[must_use]
    pub fn packets_count(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    fn held_by(&self, addr: u64) -> Option<&AtomicU32> {
        let index = usize::try_from(addr / u64::from(self.chunk_size)).ok()?;
        self.held.get(index)
    }
}

impl FrameMemory for FrameTape {
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let position = self.held_by(frame.addr());
        // Pairs with the Release in `write`.
        let position = position.map_or(u32::MAX, |held| held.load(Ordering::Acquire));
        let packet = self.packets.get(position as usize).and_then(OnceLock::get);
        packet
            .and_then(|packet| packet.get(..frame.len() as usize))
            .unwrap_or(&[])
    }
}

/// One queue of a port whose wires are queues in memory.
#[derive(Debug, Default)]
pub struct MemoryPort {
    /// Frames that wait to be received.
    pub incoming: VecDeque<Frame>,
    /// Frames that were transmitted, for a test to look at before they complete.
    pub outgoing: VecDeque<Frame>,
    /// Chunks given to the receive side.
    pub fill: VecDeque<ChunkAddr>,
    /// Most frames that `outgoing` holds; 0 refuses all.
    pub transmit_max: usize,
    /// Most chunks that `fill` holds.
    pub fill_max: usize,
    /// Chunk size, to find a frame's chunk again.
    pub chunk_size: u64,
}

impl Port for MemoryPort {
    fn receive(&mut self, limit: usize, mut sink: impl FnMut(Frame)) -> usize {
        for _ in 0..limit {
            let Some(frame) = self.incoming.pop_front() else {
                break;
            };
            sink(frame);
        }
        0
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.outgoing.len() >= self.transmit_max {
            return Err((frame, DropReason::TxFull));
        }
        self.outgoing.push_back(frame);
        Ok(())
    }

    fn flush(&mut self, limit: usize, mut sink: impl FnMut(ChunkAddr)) {
        for _ in 0..limit {
            let Some(frame) = self.outgoing.pop_front() else {
                break;
            };
            sink(ChunkAddr(frame.addr() / self.chunk_size * self.chunk_size));
        }
    }

    fn refill(&mut self, mut source: impl FnMut() -> Option<ChunkAddr>, limit: usize) -> usize {
        let mut taken = 0;
        while taken < limit && self.fill.len() < self.fill_max {
            let Some(chunk) = source() else { break };
            self.fill.push_back(chunk);
            taken += 1;
        }
        taken
    }

    fn has_work(&mut self) -> bool {
        !self.incoming.is_empty()
    }
}

//! A port whose wires are two queues in memory: for tests, benchmarks and simulation.

use std::collections::VecDeque;

use super::{ChunkAddr, Frame, FrameMemory, Port};
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

//! The `Port` trait: where frames come from and go to. Its bodies are AF_XDP sockets
//! (`crate::af_xdp`), plain memory and capture files. Nothing here decides anything.
//!
//! A frame lies in a chunk of a [`FrameMemory`] that the two ports of a link share. [`Frame`] is
//! the ownership of that chunk: it can be neither copied nor cloned, so a chunk ends in exactly
//! one place (transmitted, or recycled), and bytes can be read only by whoever owns it.

mod capture;
mod fault;
mod memory;

pub use capture::{Capture, CaptureError, CaptureWriter, CapturedFrame};
pub use fault::{FaultCounts, FaultPort, FaultRates};
pub use memory::{FrameTape, MemoryFrames, MemoryPort};

use crate::types::DropReason;

/// Byte offset of a chunk in its memory area (kernel: `addr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkAddr(pub u64);

/// A received packet: the ownership of one chunk, where in it the packet begins, and its length.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is not transmitted or recycled leaks its chunk"]
pub struct Frame {
    addr: u64,
    len: u32,
}

impl Frame {
    /// Takes ownership of the chunk that `addr` lies in. Only memory owners call this, once for
    /// each chunk that comes into their hands, after checking that `addr + len` lies inside.
    pub(crate) fn new(addr: u64, len: u32) -> Self {
        Self { addr, len }
    }

    /// Byte offset of the packet's first byte in the memory area.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes of the packet, Ethernet header included, without the frame check sequence.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the frame has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The memory area that frames of one link lie in.
pub trait FrameMemory {
    /// The bytes of a frame.
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8];
}

/// One queue of one port as a worker sees it. All methods return at once.
pub trait Port {
    /// Moves up to `limit` received frames into `sink`; returns how many the kernel gave that were
    /// no valid frame ([`DropReason::BadDescriptor`]; their chunks are lost on purpose).
    fn receive(&mut self, limit: usize, sink: impl FnMut(Frame)) -> usize;

    /// Queues a frame for transmission.
    ///
    /// # Errors
    /// Gives the frame back with [`DropReason::TxFull`] where the ring has no room.
    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)>;

    /// Ends a turn: submits what was queued, wakes the kernel if it asked for that, and moves up
    /// to `limit` transmitted chunks into `sink`.
    fn flush(&mut self, limit: usize, sink: impl FnMut(ChunkAddr));

    /// Gives free chunks to the receive side until it is full or `source` is empty; returns how
    /// many it took.
    fn refill(&mut self, source: impl FnMut() -> Option<ChunkAddr>, limit: usize) -> usize;

    /// Whether a frame waits to be received, or one to be taken by the kernel; asked once more
    /// before a worker sleeps.
    fn has_work(&mut self) -> bool;
}

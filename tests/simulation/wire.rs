//! One queue of one port: a wire that the simulation feeds and empties, with faults before it, and
//! a note of what its worker received.

use std::collections::VecDeque;

use portcullis::port::{ChunkAddr, FaultPort, Frame, Port};
use portcullis::types::DropReason;

/// A wire: all four rings of a socket, as large as the chunks of a link at most.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Frames that the worker has not received.
    pub(crate) incoming: VecDeque<Frame>,
    /// Frames that the wire has not taken.
    pub(crate) sent: VecDeque<Frame>,
    /// Chunks of frames that it has.
    pub(crate) completed: VecDeque<ChunkAddr>,
    /// Chunks for frames to come.
    pub(crate) fill: VecDeque<ChunkAddr>,
    /// Frames in `sent` at most.
    pub(crate) sent_max: usize,
    /// Chunks in `fill` at most.
    pub(crate) fill_max: usize,
}

impl Wire {
    pub(crate) fn new(chunks: usize, sent_max: usize, fill_max: usize) -> Self {
        Self {
            incoming: VecDeque::with_capacity(chunks),
            sent: VecDeque::with_capacity(chunks),
            completed: VecDeque::with_capacity(chunks),
            fill: VecDeque::with_capacity(chunks),
            sent_max,
            fill_max,
        }
    }
}

impl Port for Wire {
    fn receive(&mut self, limit: usize, sink: impl FnMut(Frame)) -> usize {
        let count = limit.min(self.incoming.len());
        self.incoming.drain(..count).for_each(sink);
        0
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if self.sent.len() >= self.sent_max {
            return Err((frame, DropReason::TxFull));
        }
        self.sent.push_back(frame);
        Ok(())
    }

    fn flush(&mut self, limit: usize, sink: impl FnMut(ChunkAddr)) {
        let count = limit.min(self.completed.len());
        self.completed.drain(..count).for_each(sink);
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

/// What the worker has in hand.
#[derive(Debug)]
pub(crate) struct SimPort {
    pub(crate) behind: FaultPort<Wire>,
    /// Addresses of the frames that the worker received in its turn.
    pub(crate) received: Vec<u64>,
}

impl Port for SimPort {
    fn receive(&mut self, limit: usize, mut sink: impl FnMut(Frame)) -> usize {
        let received = &mut self.received;
        self.behind.receive(limit, |frame| {
            received.push(frame.addr());
            sink(frame);
        })
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        self.behind.transmit(frame)
    }

    fn flush(&mut self, limit: usize, sink: impl FnMut(ChunkAddr)) {
        self.behind.flush(limit, sink);
    }

    fn refill(&mut self, source: impl FnMut() -> Option<ChunkAddr>, limit: usize) -> usize {
        self.behind.refill(source, limit)
    }

    fn has_work(&mut self) -> bool {
        self.behind.has_work()
    }
}

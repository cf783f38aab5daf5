//! One queue of a real port as a worker sees it.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::abi::Descriptor;
use super::socket::{Rings, Socket};
use super::sys;
use super::umem::Umem;
use crate::port::{ChunkAddr, Frame, Port};
use crate::sync::Arc;
use crate::types::DropReason;

/// Most wakeups that one flush makes. In copy mode the kernel sends 32 packets a call, so this
/// empties a ring of 2048; a longer one goes on in the next turn.
const KICKS_PER_FLUSH_MAX: u32 = 64;

/// Flushes in a row without progress after which a worker need not stay awake for the TX ring: the
/// device has stopped (no carrier, say), and when it goes on it needs no help, or gets it at the
/// next turn.
const FLUSHES_STALLED: u32 = 1024;

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor. Sockets here do not bind with
/// XDP_USE_SG, so the kernel has no business setting it.
const OPTION_CONTINUED: u32 = 1 << 0;

/// One (device, queue): its socket, its four rings and the link's memory.
///
/// Field order is drop order: rings (their mappings), socket, then the memory.
#[derive(Debug)]
pub struct XdpQueue {
    rings: Rings,
    socket: Arc<Socket>,
    umem: Arc<Umem>,
    transmits: bool,
    /// The device would not send when last asked: it is down, or gone.
    refused: bool,
    /// Frames left in the TX ring by the last flush, and flushes in a row that left as many.
    left: u32,
    flushes_idle: u32,
    bad_completions: u64,
    kick_errors: u64,
}

impl XdpQueue {
    pub(super) fn new(rings: Rings, socket: Arc<Socket>, umem: Arc<Umem>, transmits: bool) -> Self {
        Self {
            rings,
            socket,
            umem,
            transmits,
            refused: false,
            left: 0,
            flushes_idle: 0,
            bad_completions: 0,
            kick_errors: 0,
        }
    }

    /// Whether frames wait to be received; takes none. For a last look before sleeping on the
    /// descriptor.
    #[inline]
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.rings.rx.has_items()
    }

    /// Frames that wait in the TX ring for the kernel to take them. While there are any, call
    /// `flush` again before sleeping.
    #[inline]
    pub fn transmit_pending(&mut self) -> u32 {
        self.rings.tx.pending()
    }

    /// Completions outside of the memory area that the kernel returned; their chunks are lost on
    /// purpose. Always 0 unless the kernel or a driver is broken.
    #[must_use]
    pub fn bad_completions(&self) -> u64 {
        self.bad_completions
    }

    /// Wakeups that the kernel answered with an unexpected error.
    #[must_use]
    pub fn kick_errors(&self) -> u64 {
        self.kick_errors
    }

    /// Wakes the transmit side until the ring is empty or the kernel makes no progress.
    fn kick_transmit(&mut self) {
        self.refused = false;
        let mut pending = self.rings.tx.pending();
        for _ in 0..KICKS_PER_FLUSH_MAX {
            if pending == 0 || !self.rings.tx.needs_wakeup() {
                return;
            }
            let answer = Kick::from(sys::kick_transmit(self.socket.as_fd()));
            if answer == Kick::Failed {
                self.kick_errors = self.kick_errors.saturating_add(1);
            }
            self.refused = matches!(answer, Kick::Down | Kick::Failed);
            let left = self.rings.tx.pending();
            // What does not move now (the completion ring is full, the device's queue is, or it
            // is down) is tried again next turn, when completions have been taken.
            if left == pending || self.refused {
                return;
            }
            pending = left;
        }
    }

    /// Whether the device does not take what waits in the TX ring.
    fn is_stalled(&self) -> bool {
        self.refused || self.flushes_idle >= FLUSHES_STALLED
    }

    #[inline]
    fn take_completions(&mut self, limit: u32, mut sink: impl FnMut(ChunkAddr)) {
        for _ in 0..self.rings.completion.peek(limit) {
            let Some(addr) = self.rings.completion.pop() else {
                break;
            };
            if self.umem.holds(addr, 0) {
                sink(self.umem.chunk_of(addr));
            } else {
                self.bad_completions = self.bad_completions.saturating_add(1);
            }
        }
        self.rings.completion.release();
    }

    /// Wakes the receive side if the driver has run out of chunks and asks for it.
    #[inline]
    fn kick_receive(&mut self) {
        if !self.rings.fill.needs_wakeup() {
            return;
        }
        if Kick::from(sys::kick_receive(self.socket.as_fd())) == Kick::Failed {
            self.kick_errors = self.kick_errors.saturating_add(1);
        }
    }
}

impl Port for XdpQueue {
    fn has_work(&mut self) -> bool {
        // What a device that is down or gone does not send is no reason to stay awake: it is tried
        // again at each turn, and a sleeper makes some a second.
        self.has_received() || (!self.is_stalled() && self.transmit_pending() > 0)
    }

    #[inline]
    fn receive(&mut self, limit: usize, mut sink: impl FnMut(Frame)) -> usize {
        let mut bad: usize = 0;
        for _ in 0..self.rings.rx.peek(saturate(limit)) {
            let Some(descriptor) = self.rings.rx.pop() else {
                break;
            };
            let whole = descriptor.options & OPTION_CONTINUED == 0;
            if whole && self.umem.holds(descriptor.addr, descriptor.len) {
                sink(Frame::new(descriptor.addr, descriptor.len));
            } else {
                bad = bad.saturating_add(1);
            }
        }
        self.rings.rx.release();
        bad
    }

    #[inline]
    fn transmit(&mut self, frame: Frame) -> Result<(), (Frame, DropReason)> {
        if !self.transmits || self.rings.tx.reserve(1) == 0 {
            return Err((frame, DropReason::TxFull));
        }
        let descriptor = Descriptor {
            addr: frame.addr(),
            len: frame.len(),
            options: 0,
        };
        match self.rings.tx.push(descriptor) {
            Ok(()) => Ok(()),
            Err(_descriptor) => Err((frame, DropReason::TxFull)),
        }
    }

    #[inline]
    fn flush(&mut self, limit: usize, sink: impl FnMut(ChunkAddr)) {
        self.rings.tx.submit();
        self.kick_transmit();
        let left = self.rings.tx.pending();
        self.flushes_idle = if left > 0 && left == self.left {
            self.flushes_idle.saturating_add(1)
        } else {
            0
        };
        self.left = left;
        self.take_completions(saturate(limit), sink);
        self.kick_receive();
    }

    #[inline]
    fn refill(&mut self, mut source: impl FnMut() -> Option<ChunkAddr>, limit: usize) -> usize {
        let mut taken: usize = 0;
        for _ in 0..self.rings.fill.reserve(saturate(limit)) {
            let Some(chunk) = source() else { break };
            debug_assert!(
                self.umem.holds(chunk.0, 0),
                "chunks of this link's memory only"
            );
            if self.rings.fill.push(chunk.0).is_err() {
                debug_assert!(false, "reserved slots are free");
                break;
            }
            taken = taken.saturating_add(1);
        }
        self.rings.fill.submit();
        taken
    }
}

impl AsFd for XdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for XdpQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// How the kernel answered a wakeup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kick {
    /// It did something, or will: EAGAIN says that its budget for one call is used up, EBUSY and
    /// ENOBUFS that the device's queue is full for now.
    Working,
    /// The device is down.
    Down,
    /// Anything else.
    Failed,
}

impl From<io::Result<()>> for Kick {
    #[inline]
    fn from(result: io::Result<()>) -> Self {
        match result.map_err(|e| e.raw_os_error()) {
            Ok(()) | Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)) => {
                Self::Working
            }
            Err(Some(libc::ENETDOWN)) => Self::Down,
            Err(_) => Self::Failed,
        }
    }
}

#[inline]
fn saturate(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

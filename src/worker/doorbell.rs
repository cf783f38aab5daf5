//! How others wake a worker that sleeps, at no cost while it is awake.
//!
//! Whoever gives work writes it first and then looks at the flag; the worker raises the flag first
//! and then looks for work once more. With a full fence on both sides one of the two sees the
//! other, so that no work waits for a sleeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::sync::{AtomicBool, Ordering, fence};

/// One worker's doorbell.
#[derive(Debug)]
pub(super) struct Doorbell {
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Doorbell {
    /// A doorbell of a worker that is awake.
    ///
    /// # Errors
    /// Where the process has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            sleeping: AtomicBool::new(false),
            event,
        })
    }

    /// Wakes the worker if it sleeps; called after the work was made visible.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst); // pairs with raise()
        if self.sleeping.load(Ordering::Relaxed) {
            // A full counter (EAGAIN) wakes as well as this would have.
            let _ignored = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// The worker is about to sleep: from here on it is rung. It looks for work once more.
    pub(super) fn raise(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst); // pairs with ring()
    }

    /// The worker is awake again.
    pub(super) fn lower(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        let mut counter = [0; 8];
        // Nothing to read (EAGAIN) is the usual case: something else woke it.
        let _ignored = rustix::io::read(&self.event, &mut counter);
    }

    /// Whether the worker sleeps now.
    #[must_use]
    pub(super) fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

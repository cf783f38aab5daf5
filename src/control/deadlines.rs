//! The bell of the thread that waits until a change may no longer be confirmed.

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

/// Wakes the thread that waits for deadlines.
#[derive(Debug)]
pub(super) struct Deadlines {
    sender: Sender<()>,
    /// Something is new.
    pub(super) changed: Receiver<()>,
}

impl Default for Deadlines {
    fn default() -> Self {
        // One that waits to be seen says it all.
        let (sender, changed) = bounded(1);
        Self { sender, changed }
    }
}

impl Deadlines {
    /// Says that there is a new one.
    pub(super) fn wake(&self) {
        match self.sender.try_send(()) {
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

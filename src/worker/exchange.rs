//! What workers give each other: frames to judge or to send, and chunks on their way home. All
//! rings are bounded and taken at start.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crossbeam::queue::ArrayQueue;

use super::commands::WorkerCommand;
use super::doorbell::Doorbell;
use super::lanes::Held;
use crate::conntrack::FragmentedFlow;
use crate::port::{ChunkAddr, Frame};
use crate::sync::Arc;
use crate::telemetry::WorkerCounters;
use crate::types::{Generation, LinkId, PortSide, WorkerId};

/// Frames that wait for one worker at most; more are dropped as `handover-full`. Two of the
/// receive rings that may hand over in one turn, and as much as a few hundred microseconds of
/// one core's work.
pub const INBOX_FRAMES: usize = 4096;
/// Fragments that wait for one worker at most; more are dropped as `handover-full`.
const INBOX_PIECES: usize = 512;
/// Requests of the control side that wait for one worker at most.
const COMMANDS_MAX: usize = 8;

/// What is asked of the worker that a frame is handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Its flow is yours: judge it, then send or drop it.
    Judge,
    /// It was judged; you have a queue of the port that it leaves by.
    Send,
}

/// A frame under way from one worker to another.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) frame: Frame,
    pub(super) link: LinkId,
    /// The port that it came in by.
    pub(super) side: PortSide,
    pub(super) errand: Errand,
}

/// A fragment under way from its home worker to the owner of its flow.
#[derive(Debug)]
pub(super) struct PieceHandover {
    pub(super) held: Held,
    pub(super) flow: FragmentedFlow,
}

/// Everything that others may give to one worker.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) frames: ArrayQueue<Handover>,
    /// Apart from the others, which would else carry their size.
    pub(super) pieces: ArrayQueue<PieceHandover>,
    pub(super) returns: ArrayQueue<(LinkId, ChunkAddr)>,
    pub(super) commands: ArrayQueue<WorkerCommand>,
    pub(super) doorbell: Doorbell,
    pub(super) counters: Arc<WorkerCounters>,
}

/// The inboxes of all workers.
#[derive(Debug)]
pub struct Exchange {
    inboxes: Vec<Inbox>,
}

impl Exchange {
    /// Inboxes for as many workers as `chunks_at_home` has entries: how many chunks of all links
    /// have each worker for their home, so that its return ring can never be full.
    ///
    /// # Errors
    /// Where the process has no file descriptor left.
    pub fn new(chunks_at_home: &[usize], inbox_frames: usize) -> io::Result<Self> {
        let inbox = |&chunks: &usize| {
            Ok(Inbox {
                frames: ArrayQueue::new(inbox_frames),
                pieces: ArrayQueue::new(INBOX_PIECES),
                returns: ArrayQueue::new(chunks.max(1)),
                commands: ArrayQueue::new(COMMANDS_MAX),
                doorbell: Doorbell::new()?,
                counters: Arc::default(),
            })
        };
        Ok(Self {
            inboxes: chunks_at_home
                .iter()
                .map(inbox)
                .collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn inbox(&self, worker: WorkerId) -> Option<&Inbox> {
        self.inboxes.get(worker.index())
    }

    /// Puts a frame into a worker's inbox; gives it back where that is full or missing.
    pub(super) fn give(&self, worker: WorkerId, handover: Handover) -> Result<(), Handover> {
        let Some(inbox) = self.inbox(worker) else {
            return Err(handover);
        };
        // Counted before it can be taken, or the count could pass below zero for a moment.
        inbox.counters.add_waiting();
        inbox
            .frames
            .push(handover)
            .inspect_err(|_| inbox.counters.take_waiting(1))
    }

    /// One worker's counters.
    #[must_use]
    pub fn counters(&self, worker: WorkerId) -> Option<&Arc<WorkerCounters>> {
        self.inbox(worker).map(|inbox| &inbox.counters)
    }

    /// Gives a request of the control side to a worker, and wakes it.
    ///
    /// # Errors
    /// Gives the request back where too many wait, or there is no such worker.
    pub fn command(&self, worker: WorkerId, command: WorkerCommand) -> Result<(), WorkerCommand> {
        let Some(inbox) = self.inbox(worker) else {
            return Err(command);
        };
        inbox.commands.push(command)?;
        inbox.doorbell.ring();
        Ok(())
    }

    /// Whether most of a worker's chunks wait in its return ring. One that sleeps is woken by
    /// frames, and frames need chunks: it has to be rung before it runs out, though not for each.
    pub(super) fn lacks_chunks(&self, worker: WorkerId) -> bool {
        self.inbox(worker).is_some_and(|inbox| {
            let half = inbox.returns.capacity().div_ceil(2);
            inbox.returns.len() >= half
        })
    }

    /// Wakes a worker if it sleeps.
    pub fn wake(&self, worker: WorkerId) {
        if let Some(inbox) = self.inbox(worker) {
            inbox.doorbell.ring();
        }
    }

    /// The generation up to which no worker has a flow left that lost its address, as far as they
    /// have told.
    #[must_use]
    pub fn swept(&self) -> Generation {
        let told = self.inboxes.iter().map(|inbox| inbox.counters.swept());
        told.min().unwrap_or_default()
    }

    /// Wakes all workers that sleep, so that they look at what is in force now.
    pub fn wake_all(&self) {
        for inbox in &self.inboxes {
            inbox.doorbell.ring();
        }
    }

    /// Whether a worker sleeps now.
    #[must_use]
    pub fn is_sleeping(&self, worker: WorkerId) -> bool {
        self.inbox(worker)
            .is_some_and(|inbox| inbox.doorbell.is_sleeping())
    }

    /// What becomes readable when a worker that sleeps is woken; for what drives workers by hand.
    #[must_use]
    pub fn doorbell(&self, worker: WorkerId) -> Option<BorrowedFd<'_>> {
        self.inbox(worker).map(|inbox| inbox.doorbell.as_fd())
    }

    /// Chunks on their way home to a worker, for tests that count them all.
    #[must_use]
    pub fn returning(&self, worker: WorkerId) -> usize {
        self.inbox(worker).map_or(0, |inbox| inbox.returns.len())
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }
}

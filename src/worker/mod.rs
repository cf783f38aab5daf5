//! The pinned loop that joins ports and pipeline: receive, judge, send, hand over. Run to
//! completion over bursts; no lock, no allocation, no system call but the kernel's wake-up.
//!
//! ```text
//!  own queues ─► receive ─┐                        ┌─► own transmit queue ─► completion ─► free
//!  inbox (handed over) ───┴─► batch ─► verdicts ───┼─► another worker's inbox
//!  returned chunks ─► free list ─► fill ring       └─► dropped ─► free
//! ```
//!
//! Every chunk has a home: the worker whose fill rings it was dealt to. Wherever a frame ends, its
//! chunk goes back to its home's free list, over the home's return ring if another worker ends it.
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

mod census;
mod chunks;
mod commands;
mod departures;
mod doorbell;
mod exchange;
mod idle;
mod lanes;
mod run;
#[cfg(test)]
mod tests;
mod turn;

pub use census::Census;
pub use chunks::ChunkHomes;
pub use commands::{FLOW_ENDS_MAX, FLOW_PAGE_ROWS, FlowPage, WorkerCommand};
pub use exchange::{Exchange, INBOX_FRAMES};
pub use idle::IdlePolicy;
pub use lanes::{Lanes, OwnQueue, Routes};
pub use run::{RunningWorker, SpawnError, spawn};
pub use turn::{Worker, WorkerSetup};

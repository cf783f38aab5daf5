//! One batch from bytes to verdicts: parse → steer → track → judge. The whole decision, and a
//! pure one: frames, a shard, a snapshot and a time go in, verdicts and new state come out.
//!
//! ```text
//!  push: bytes ─► parse ─► exempt? ─► flow key ─► steer (another worker's: handed over)
//!                                               └► hash, ask memory for the bucket
//!  run:  ask for the entry, some packets ahead ─► hit that changes numbers only: done
//!                                               └► find ─► hit:  state machine
//!                                                       └► miss: interface, rules, new entry
//!                                                                (likely ones: some at a time)
//! ```
//!
//! The stages run over the batch, so that memory works for the packets ahead while the processor
//! works on those before. Common packets (whole, TCP or UDP) lie in the batch as 48 bytes and go
//! the short way; what else there is (rare.rs), and whatever the short way leaves, is judged in
//! full and alone.
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

mod batch;
mod exempt;
mod follow;
mod fresh;
mod judge;
mod outcome;
mod rare;
mod steer;
#[cfg(test)]
mod tests;

pub use batch::{BATCH_MAX, Batch, DISPLACEMENTS_MAX, Origin, Place};
pub use exempt::{ExemptPort, ExemptRules, PortProtocol};
pub use judge::{IcmpErrors, LinkRules, OnRuleRemoved, PipelineConfig, Unregistered, question_of};
pub use outcome::{Arrival, Fate, Outcome, PieceIndex, Resolved};
pub use steer::Steering;

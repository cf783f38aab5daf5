//! Counters: written by one worker each, read by anyone, without making a worker wait.
//!
//! A worker counts into plain numbers ([`Tally`]) and stores them once a turn into its
//! [`WorkerCounters`], whose cells have this one writer; readers sum and difference them.
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

mod counters;

pub use counters::{CounterView, EVICTED_KINDS, Gauges, Tally, WorkerCounters};

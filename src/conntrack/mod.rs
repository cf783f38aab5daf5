//! One worker's connection table: [`Shard`].
//!
//! # Memory
//! Everything is taken in [`Shard::new`]; nothing grows, moves in bulk or is rehashed later, so the
//! longest pause is that of one bounded operation.
//!
//! ```text
//!   hash ──► index: 64-byte buckets of 10 × (16-bit tag, entry number)     9.1 bytes a flow
//!               │    two candidate buckets; the second is read only if the first has lost keys
//!               ▼
//!            entries: one 64-byte line each, all that a hit reads and writes    64
//!            colds:   rule, interface, first sequence number, counter carries   36
//!            timers:  16-bit "look at it from then on"                           2
//!            v6:      both addresses, memory untouched until an IPv6 flow uses it (32)
//! ```
//!
//! `entries`, `colds`, `timers` and `v6` are parallel arrays, numbered by [`FlowIndex`].
//!
//! A hit reads one bucket and one entry. The cold part is written when a flow opens and when a hot
//! counter overflows; it is where bytes can still be saved: the carries are of use to one flow in
//! many (a small shared table would do), the two sequence numbers need 16 bits each, and rule and
//! interface could share one number.
//!
//! # Time
//! A flow is dead for every lookup from its deadline on, whether or not its memory has been taken
//! back. Taking back is the sweep of `timers` (timer.rs): it replaces the timing wheel that other
//! tables use, because it needs 2 bytes a flow instead of 8, touches no neighbors when a flow is
//! filed or ends early, and has no cascade that a leap of the clock could set off.
//!
//! # Protocols
//! The TCP states and what each accepts are the table in tcp.rs. UDP, ICMP queries and other
//! protocols only have idle timeouts (Semantics: Connections).
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

mod config;
mod entry;
mod flow;
mod fragments;
mod index;
#[cfg(test)]
pub(crate) mod oracle;
mod related;
mod shard;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod timer;

pub use config::{ShardConfig, TIMEOUT_MAX, TcpPickup, Timeouts};
pub use flow::{
    Admission, FlowClass, FlowHash, FlowHead, FlowIndex, FlowState, FlowView, FragmentedFlow,
    NewFlow, ShardStats, TableFull, Track, Traffic,
};
pub use fragments::{FRAGMENT_SWEEP_TURNS, FragmentFate, Fragments, Release, Ticket, WAITING_MAX};
pub use related::RELATED_PER_SECOND;
pub use shard::Shard;
pub use timer::{EXPIRE_PER_TURN_MAX, SCAN_PER_TURN_MAX};

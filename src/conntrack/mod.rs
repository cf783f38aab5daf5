//! One worker's connection table: [`Shard`].
//!
//! # Memory
//! Everything is taken in [`Shard::new`]; nothing grows, moves in bulk or is rehashed later, so the
//! longest pause is that of one bounded operation.
//!
//! ```text
//!   hash ──► index: 64-byte buckets of 10 × (16-bit tag, entry number)     8.0 bytes a flow
//!               │    two candidate buckets; the second is read only if the first has lost keys
//!               ▼
//!            entries: one 64-byte line each, all that a hit reads and writes    64
//!            colds:   first sequence number, time of opening                     5
//!            timers:  16-bit "look at it from then on"                           2
//!            classes: who gives way to a new flow when the table is full       0.5
//!            challenges                                                        0.1
//!            shares:  if interfaces have limits                                (14)
//!            v6:      both addresses, memory untouched until an IPv6 flow uses it (32)
//!            records: 64-bit counts, untouched until a flow is heavy             (32)
//! ```
//!
//! `entries`, `colds`, `timers` and `v6` are parallel arrays, numbered by [`FlowIndex`]. A hit
//! reads one bucket and one entry; a heavy flow's hit reads its record once in many (traffic.rs).
//! The arrays of a hit lie in large pages, where the kernel has them. A packet that moves no state
//! takes the short way (hit.rs), any other the long one (shard.rs); both do the same to an entry.
//!
//! # Full
//! Expired entries, then untracked flows, tombstones, unanswered flows and unfinished handshakes
//! give way to new flows, each found in constant time (give_way.rs); established ones never do. A
//! SYN flood thus only turns over what the established flows leave, oldest first: a new connection
//! gets in if it is established before the flood has gone round that once. Of one batch only so
//! many new flows displace such that wait ([`Shard::limit_displacements`]); the rest is shed. At
//! the limit of an interface it is the same among its own flows (share.rs).
//!
//! Expired entries are those that the sweep can know of: it is run when the table is full, once in
//! 17 ms, and sees a deadline up to 0.27 s after it has passed.
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

mod census;
mod challenge;
mod config;
mod entry;
mod flow;
mod fragments;
mod give_way;
mod hit;
mod index;
mod life;
mod numbers;
#[cfg(test)]
pub(crate) mod oracle;
mod related;
mod rings;
mod shard;
mod share;
mod sides;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod timer;
mod traffic;
mod weed;
mod window;

pub use census::HeldSlots;
pub use config::{PerInterface, ShardConfig, TIMEOUT_MAX, TcpPickup, Timeouts};
pub use flow::{
    Admission, Evicted, FlowClass, FlowHash, FlowHead, FlowIndex, FlowState, FlowView,
    FragmentedFlow, NewFlow, OpenError, ShardMemory, ShardStats, Track, Traffic,
};
pub use fragments::{FRAGMENT_SWEEP_TURNS, FragmentFate, Fragments, Release, Ticket, WAITING_MAX};
pub use hit::{Candidate, Common, Moment};
pub use life::Opening;
pub use related::RELATED_PER_SECOND;
pub use shard::Shard;
pub use timer::{EXPIRE_PER_TURN_MAX, SCAN_PER_TURN_MAX};

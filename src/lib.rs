//! Portcullis: AWS-style security groups as a poll-mode AF_XDP packet processor.
//!
//! In reading order:

// Words and leaves.
pub mod types;
pub mod clock;
pub mod cpu;
pub mod sync;
// From bytes to a verdict: the pure core.
pub mod packet;
pub mod snapshot;
pub mod conntrack;
pub mod pipeline;
// From a document to a snapshot.
pub mod document;
pub mod policy;
pub mod compile;
pub mod config;
// Frames in and out, and the pinned loop between them.
pub mod port;
pub mod worker;
pub mod telemetry;
pub mod af_xdp;
// The gateway as a whole, and what talks to it.
pub mod control;
pub mod gateway;
pub mod replay;
pub mod cli;

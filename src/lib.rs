//! Portcullis: AWS-style security groups as a poll-mode AF_XDP packet processor.
//!
//! In reading order: words and leaves (`types`, `clock`, `cpu`, `sync`); the pure core from bytes
//! to a verdict (`packet`, `snapshot`, `conntrack`, `pipeline`); from a document to a snapshot
//! (`document`, `policy`, `compile`, `config`); frames in and out and the pinned loop between them
//! (`port`, `af_xdp`, `worker`, `telemetry`); the gateway as a whole and what talks to it
//! (`control`, `gateway`, `replay`, `cli`).

pub mod af_xdp;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod cpu;
pub mod document;
pub mod gateway;
pub mod packet;
pub mod pipeline;
pub mod policy;
pub mod port;
pub mod replay;
pub mod snapshot;
pub mod sync;
pub mod telemetry;
pub mod types;
pub mod worker;

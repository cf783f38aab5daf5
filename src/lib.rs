//! Portcullis: AWS-style security groups as a poll-mode AF_XDP packet processor.
//!
//! In reading order:

pub mod clock;
pub mod compile;
pub mod cpu;
pub mod packet;
pub mod policy;
pub mod port;
pub mod snapshot;
pub mod sync;
pub mod types;

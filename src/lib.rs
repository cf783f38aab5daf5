//! Portcullis: AWS-style security groups as a poll-mode AF_XDP packet processor.
//!
//! In reading order:

pub mod cli;
pub mod clock;
pub mod config;
pub mod cpu;
pub mod document;
pub mod packet;
pub mod policy;
pub mod port;
pub mod sync;
pub mod types;

//! A gateway as a whole: from a checked configuration to workers that forward, and to its end.
#![deny(unsafe_code)]

mod assemble;
mod convert;
mod devices;
mod ports;
mod start;
mod watchdog;

pub use convert::{pipeline_config, shard_config};
pub use start::{GatewayError, StartOptions, run};

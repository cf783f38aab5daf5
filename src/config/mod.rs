//! `gateway.toml`: the host and its tuning, read once and checked whole.
//!
//! The file is raw text until [`parse`] has looked at every key of it; what comes out is a
//! [`Config`] in which each field is in its range, each name is unique and each default is filled
//! in, so whoever has one asks no further. Three things are left to the caller, because they are
//! facts of the host and not of the file: whether the cores may be used, whether the devices
//! exist, and whether the memory is there.
//!
//! Every tunable has its default and its range here, as a constant beside the reason for the
//! number; `configs/gateway.toml` shows them all.

mod exempt;
mod link;
mod model;
mod observe;
mod parse;
mod section;

pub use model::{
    Config, Conntrack, Control, CopyMode, Exempt, ExemptPort, FlowLog, HugePages, IcmpErrors, Idle,
    Limits, Link, Metrics, OnExit, OnRuleRemoved, PerInterface, PortProtocol, Quotas, TcpPickup,
    Timeouts, Umem, Unregistered, Workers, XdpMode,
};
pub use parse::{KEYS, load, parse};

#[cfg(test)]
mod tests;

//! Bytes → checked headers → flow key. Pure, without state, without allocation.
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

mod flow_key;
mod headers;

pub use flow_key::{End, FlowKey, KeyKind};
pub use headers::{
    Address, Addresses, ArpPacket, Family, Fragment, IpPacket, Malformed, Parsed, TcpFlags,
    TcpHeader, Transport, VlanTags,
};

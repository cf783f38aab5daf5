//! Bytes → checked headers → flow key → hash. Pure, without state, without allocation.
//!
//! [`parse`] makes plain values ([`Parsed`]) of a frame's headers or says why it is [`Malformed`],
//! [`FlowKey::of`] makes the canonical key of a packet's flow, [`FlowHasher`] the number that
//! steers it to a worker and to a bucket. [`build`] is the way back, for tests, benchmarks and the
//! demo.
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

mod brief;
pub mod build;
mod flow_key;
mod hash;
mod headers;
mod packed;
mod parse;

pub use brief::Brief;
pub use flow_key::{End, FlowKey, KeyKind};
pub use hash::FlowHasher;
pub use headers::{
    Address, Addresses, ArpPacket, Family, Fragment, IpPacket, Malformed, Parsed, TcpFlags,
    TcpHeader, Transport, VlanTags,
};
pub use packed::{LongAddresses, PackedKey};
pub use parse::{
    BriefPlace, IPV6_EXT_HEADERS_MAX, VLAN_TAGS_MAX, is_icmp_error, parse, parse_brief,
    parse_quoted,
};

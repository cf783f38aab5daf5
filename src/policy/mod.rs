//! The policy document: model, reading with located errors, validation, ids, differences.

mod model;

pub use model::{
    Count, GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, Policy, PortRange, PrefixEntry,
    PrefixList, PrefixListIndex, Rule, SecurityGroup, Service,
};

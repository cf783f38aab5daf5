//! The words that every module shares: ids, indexes, directions and verdicts. No logic of its own.

mod id;
mod limits;
#[cfg(test)]
pub(crate) mod regressions;
mod verdict;

pub use id::{
    Generation, GroupId, InterfaceId, InterfaceSlot, LinkId, PrefixListId, RuleId, RuleSlot,
    WorkerId,
};
pub use limits::FlowLimits;
pub use verdict::{Direction, DropReason, PassReason, PortSide, Verdict};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the code names.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;

    /// What a policy calls a protocol that rules have a word for.
    #[must_use]
    pub const fn name(number: u8) -> Option<&'static str> {
        match number {
            ICMP => Some("icmp"),
            TCP => Some("tcp"),
            UDP => Some("udp"),
            ICMPV6 => Some("icmpv6"),
            _ => None,
        }
    }

    /// The same, and the number of any other.
    #[must_use]
    pub fn name_or_number(number: u8) -> String {
        name(number).map_or_else(|| number.to_string(), str::to_owned)
    }
}

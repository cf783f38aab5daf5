//! Why a policy cannot be compiled, and how large one may be.

use crate::types::{InterfaceId, LinkId, RuleId};

/// Most rules of one policy.
pub const RULES_MAX: usize = 1 << 22;
/// Most bytes that the tables of one snapshot take, names not counted.
pub const TABLE_BYTES_MAX: usize = 2 << 30;

/// Why a policy cannot be compiled for this gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More links than a flow key can name.
    #[error("{count} links; at most {} are possible", LinkId::COUNT_MAX)]
    TooManyLinks {
        /// Links that were given.
        count: usize,
    },
    /// An interface is behind a link that the gateway does not have.
    #[error("interface {interface} is behind link {link}, which this gateway does not have")]
    UnknownLink {
        /// Name of the interface.
        interface: Box<str>,
        /// The link that it names.
        link: Box<str>,
    },
    /// An interface names no link, and there are several.
    #[error("interface {interface} names no link, and this gateway has {count}")]
    LinkNotNamed {
        /// Name of the interface.
        interface: Box<str>,
        /// Links of the gateway.
        count: usize,
    },
    /// A VLAN id that no frame can carry.
    #[error("interface {interface} has VLAN {vlan}; VLAN ids end at 4095")]
    VlanOutOfRange {
        /// Name of the interface.
        interface: Box<str>,
        /// The id that it names.
        vlan: u16,
    },
    /// Two interfaces own the same prefix in the same place.
    #[error("interfaces {first} and {second} both own {prefix}")]
    DuplicateAddress {
        /// The prefix.
        prefix: ipnet::IpNet,
        /// Name of one interface.
        first: Box<str>,
        /// Name of the other.
        second: Box<str>,
    },
    /// Two interfaces have one id.
    #[error("interface id {0} is used twice")]
    DuplicateInterface(InterfaceId),
    /// Two rules have one id.
    #[error("rule id {0} is used twice")]
    DuplicateRule(RuleId),
    /// More interfaces than a snapshot can number.
    #[error("{count} interfaces; at most {limit} are possible")]
    TooManyInterfaces {
        /// Interfaces of the policy.
        count: usize,
        /// Most that are possible.
        limit: usize,
    },
    /// More rules than one policy may have.
    #[error("{count} rules; at most {RULES_MAX} are possible")]
    TooManyRules {
        /// Rules of the policy.
        count: usize,
    },
    /// One table would have more intervals than its tree can hold.
    #[error("an address or service table has over {limit} intervals")]
    TooManyIntervals {
        /// Most that are possible.
        limit: usize,
    },
    /// The tables together would take more memory than a snapshot may.
    #[error("the tables take over {limit} bytes")]
    TooLarge {
        /// Most that are possible.
        limit: usize,
    },
    /// So many rules and interfaces came and went, and are still held by connections, that their
    /// numbers are used up.
    #[error("numbers for rules or interfaces are used up until connections of old ones end")]
    SlotsExhausted,
}

impl CompileError {
    /// Refuses tables that take more than [`TABLE_BYTES_MAX`].
    pub(super) fn check_bytes(bytes: usize) -> Result<(), Self> {
        match bytes {
            0..=TABLE_BYTES_MAX => Ok(()),
            _ => Err(Self::TooLarge {
                limit: TABLE_BYTES_MAX,
            }),
        }
    }
}

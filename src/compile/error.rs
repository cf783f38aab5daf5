//! Why a policy cannot be compiled, and how large one may be.

use std::fmt;

use crate::snapshot::classes::CLASS_KEYS_MAX;
use crate::types::{InterfaceId, LinkId, RuleId};

/// Most rules of one policy.
pub const RULES_MAX: usize = 1 << 22;
/// Most bytes that one snapshot takes, and most that the compiler keeps of its address classes.
pub const TABLE_BYTES_MAX: usize = 2 << 30;

/// How large the compiled form may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Keys of one address class.
    pub(super) class_keys: usize,
    /// Bytes of all tables and names.
    pub(super) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            class_keys: CLASS_KEYS_MAX,
            bytes: TABLE_BYTES_MAX,
        }
    }
}

/// What takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The programs of groups.
    Rules,
    /// The classes of addresses, and their owners.
    Addresses,
    /// Names of rules and interfaces.
    Names,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules => "rules",
            Self::Addresses => "prefixes, which take memory by how many enclose each",
            Self::Names => "names of rules and interfaces",
        })
    }
}

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
    #[error("the compiled policy would take over {limit} bytes, most of them for its {most}")]
    TooLarge {
        /// Most that are possible.
        limit: usize,
        /// What takes most of them.
        most: Part,
    },
    /// So many rules and interfaces came and went, and are still held by connections, that their
    /// numbers are used up.
    #[error("numbers for rules or interfaces are used up until connections of old ones end")]
    SlotsExhausted,
}

impl Bounds {
    /// Refuses a snapshot whose parts take too much together; returns what they take.
    pub(super) fn check(self, parts: [(Part, usize); 3]) -> Result<usize, CompileError> {
        let sizes = parts.iter().map(|(_, bytes)| *bytes);
        let bytes = sizes.fold(0, usize::saturating_add);
        let largest = parts.into_iter().max_by_key(|(_, bytes)| *bytes);
        match largest.filter(|_| bytes > self.bytes) {
            Some((most, _)) => Err(self.exceeded(most)),
            None => Ok(bytes),
        }
    }

    /// That a part alone takes too much.
    pub(super) fn exceeded(self, most: Part) -> CompileError {
        CompileError::TooLarge {
            limit: self.bytes,
            most,
        }
    }
}

//! Ids as users see them (strings) and the small numbers that stand for them inside.

use std::fmt;

/// Version number of a snapshot; grows by one with each published policy that differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a link in `gateway.toml`, 0-based; at most [`LinkId::COUNT_MAX`] links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

impl LinkId {
    /// Most links one gateway has: the id fits a byte of the flow key.
    pub const COUNT_MAX: usize = 64;

    /// For indexing arrays of links.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Position of a worker in `[workers] cores`, 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// For indexing arrays of workers.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Number of an interface while it stays in the policy. An interface that leaves and comes back has
/// another one, so that a flow of the old one cannot be taken for the new one's; a number is used
/// again only once no flow, no worker and no snapshot has it any more (`crate::control`'s slots.rs
/// says how that is known, and where a number changes hands).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceSlot(pub u32);

/// Number of a rule while it stays in the policy; used again as with [`InterfaceSlot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSlot(pub u32);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Box<str>);

        impl $name {
            /// What ids of this kind begin with.
            pub const PREFIX: &'static str = $prefix;

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Id of a security group: `sg-` and 17 hexadecimal digits, or as given in the policy.
    GroupId,
    "sg-"
);
text_id!(
    /// Id of a security-group rule: `sgr-…`.
    RuleId,
    "sgr-"
);
text_id!(
    /// Id of a prefix list: `pl-…`.
    PrefixListId,
    "pl-"
);
text_id!(
    /// Id of a protected interface: `eni-…`.
    InterfaceId,
    "eni-"
);

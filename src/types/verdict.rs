//! What becomes of a packet, and why. The reasons are the counters' indexes.

use serde::{Deserialize, Serialize};

/// As seen from the protected interface, never from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Toward the interface.
    Ingress,
    /// Away from the interface.
    Egress,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// `ingress` or `egress`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// One of the two ports of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PortSide {
    /// Toward the protected hosts.
    Inside = 0,
    /// Toward the rest of the network.
    Outside = 1,
}

impl PortSide {
    /// Both sides, in index order.
    pub const ALL: [Self; 2] = [Self::Inside, Self::Outside];

    /// The port that a frame from this one leaves by.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }

    /// For indexing a link's pair of ports.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// `inside` or `outside`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All of them, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The counter's index.
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }

            /// The word in outputs (contract: `reason`).
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons!(
    /// Why a packet passes.
    PassReason {
        /// A rule allowed it and it opened, or needs no, connection.
        Rule = "rule",
        /// It belongs to a tracked connection.
        Tracked = "tracked",
        /// It is an ICMP error about a tracked connection.
        Related = "related",
        /// It is of a flow that rules of both directions allow for any address (AWS: untracked).
        Untracked = "untracked",
        /// The configuration exempts it from all rules.
        Exempt = "exempt",
        /// No interface owns it, and the link lets such frames pass.
        Unregistered = "unregistered",
        /// A group in audit mode would have refused it.
        Unenforced = "unenforced",
    }
);

reasons!(
    /// Why a packet is dropped.
    DropReason {
        /// No rule allows it.
        NoRule = "no-rule",
        /// No interface of the link owns its address.
        Unregistered = "unregistered",
        /// It claims an address that cannot be on that side.
        Spoofed = "spoofed",
        /// After a close, or out of state.
        Invalid = "invalid",
        /// Its headers contradict themselves or end too soon.
        Malformed = "malformed",
        /// Neither IP nor exempt.
        NotIp = "not-ip",
        /// The connection table has no room for a new flow.
        TableFull = "table-full",
        /// A limit of its interface.
        Limit = "limit",
        /// A fragment that cannot be placed.
        Fragment = "fragment",
        /// The transmit ring had no room.
        TxFull = "tx-full",
        /// The hand-over ring to another worker had no room.
        HandoverFull = "handover-full",
        /// The kernel returned a descriptor outside of the memory area.
        BadDescriptor = "bad-descriptor",
    }
);

/// Final fate of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It leaves by the other port.
    Pass(PassReason),
    /// It ends here.
    Drop(DropReason),
}

impl Verdict {
    /// The word in outputs (contract: `reason`).
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Pass(reason) => reason.name(),
            Self::Drop(reason) => reason.name(),
        }
    }

    /// `allow` or `deny` (contract: `verdict`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass(_) => "allow",
            Self::Drop(_) => "deny",
        }
    }
}

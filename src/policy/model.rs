//! The checked policy: every name resolved, every prefix canonical, every rule single.
//!
//! A `Policy` can only be made by reading and validating a document (or by tests), so whoever has
//! one need not ask again whether a group exists.

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::sync::Arc;
use crate::types::{Direction, FlowLimits, GroupId, InterfaceId, PrefixListId, RuleId};

/// Position in [`Policy::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub u32);

/// Position in [`Policy::prefix_lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixListIndex(pub u32);

/// The whole desired state, as given. Its parts are shared, so that a policy that differs from
/// another in one part costs no copy of the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Security groups in document order; `default` is always among them.
    pub groups: Vec<Arc<SecurityGroup>>,
    /// Prefix lists in document order.
    pub prefix_lists: Vec<Arc<PrefixList>>,
    /// Interfaces in document order.
    pub interfaces: Vec<Arc<Interface>>,
}

/// A named set of allow rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Name, unique ignoring case.
    pub name: Box<str>,
    /// Given or derived id.
    pub id: GroupId,
    /// Free text.
    pub description: Option<Box<str>>,
    /// `false`: what the group would refuse passes and is counted (audit mode).
    pub enforce: bool,
    /// Rules toward the interface, in document order, expanded and without duplicates.
    pub ingress: Vec<Rule>,
    /// Rules away from the interface, likewise.
    pub egress: Vec<Rule>,
}

impl SecurityGroup {
    /// The rules of one direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// One allow rule: one service, one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Given or derived id.
    pub id: RuleId,
    /// What is allowed.
    pub service: Service,
    /// With whom.
    pub peer: Peer,
    /// Free text; not part of the rule's identity.
    pub description: Option<Box<str>>,
}

/// Protocol and ports (or ICMP type and code) of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Every protocol and port, of both families.
    All,
    /// TCP to these destination ports.
    Tcp(PortRange),
    /// UDP to these destination ports.
    Udp(PortRange),
    /// ICMP, over IPv4 only.
    Icmp(IcmpMatch),
    /// ICMPv6, over IPv6 only.
    Icmpv6(IcmpMatch),
    /// Any other protocol number; never 1, 6, 17 or 58.
    Protocol(u8),
}

/// As people write it: `all`, `tcp 80`, `udp 0-65535`, `icmp type 8 code 0`, `protocol 47`.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Tcp(ports) => write!(f, "tcp {ports}"),
            Self::Udp(ports) => write!(f, "udp {ports}"),
            Self::Icmp(icmp) => write!(f, "icmp{icmp}"),
            Self::Icmpv6(icmp) => write!(f, "icmpv6{icmp}"),
            Self::Protocol(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Inclusive range of ports; `from <= to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// Lowest port.
    pub from: u16,
    /// Highest port.
    pub to: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        from: 0,
        to: u16::MAX,
    };

    /// Whether it has the port.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.from <= port && port <= self.to
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}-{}", self.from, self.to)
        }
    }
}

/// ICMP type and code; `None` = all. A type of `None` has a code of `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// Message type.
    pub kind: Option<u8>,
    /// Message code.
    pub code: Option<u8>,
}

/// What follows the protocol's name: nothing, ` type 8` or ` type 8 code 0`.
impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, " type {kind}")?;
        }
        if let Some(code) = self.code {
            write!(f, " code {code}")?;
        }
        Ok(())
    }
}

/// The other end that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// IPv4 addresses; host bits are zero.
    Cidr4(Ipv4Net),
    /// IPv6 addresses; host bits are zero.
    Cidr6(Ipv6Net),
    /// The addresses of all interfaces in a group (`self` is resolved to the group itself).
    Group(GroupIndex),
    /// The entries of a prefix list.
    PrefixList(PrefixListIndex),
}

/// A named list of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// Name, unique ignoring case.
    pub name: Box<str>,
    /// Given or derived id.
    pub id: PrefixListId,
    /// Entries in document order, without duplicates.
    pub entries: Vec<PrefixEntry>,
}

/// One entry of a prefix list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixEntry {
    /// The prefix; host bits are zero.
    pub cidr: IpNet,
    /// Free text.
    pub description: Option<Box<str>>,
}

/// A protected endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, unique ignoring case.
    pub name: Box<str>,
    /// Given or derived id.
    pub id: InterfaceId,
    /// Addresses as prefixes (a single address is a /32 or /128); not empty; host bits are zero.
    pub addresses: Vec<IpNet>,
    /// Its groups, in document order, without duplicates, never empty.
    pub groups: Vec<GroupIndex>,
    /// The link that it is behind.
    pub link: InterfaceLink,
    /// It owns its addresses in frames with this outer VLAN id only.
    pub vlan: Option<u16>,
    /// Shown in flow logs.
    pub vpc_id: Option<Box<str>>,
    /// Shown in flow logs.
    pub subnet_id: Option<Box<str>>,
    /// Shown in flow logs.
    pub instance_id: Option<Box<str>>,
    /// Its own limits on flows.
    pub limits: FlowLimits,
}

/// Where an interface is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InterfaceLink {
    /// Behind the link of this name.
    Named(Box<str>),
    /// Behind the only link that there is.
    Only,
    /// Not behind this gateway; a member of its groups only (`"none"`).
    Elsewhere,
}

/// How large a policy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Rules of all groups.
    pub rules: usize,
    /// Security groups.
    pub groups: usize,
    /// Interfaces.
    pub interfaces: usize,
}

impl Policy {
    /// The group at an index.
    ///
    /// # Panics
    /// On an index of another policy.
    #[must_use]
    pub fn group(&self, index: GroupIndex) -> &SecurityGroup {
        &self.groups[index.0 as usize]
    }

    /// The prefix list at an index.
    ///
    /// # Panics
    /// On an index of another policy.
    #[must_use]
    pub fn prefix_list(&self, index: PrefixListIndex) -> &PrefixList {
        &self.prefix_lists[index.0 as usize]
    }

    /// A peer as the document writes it: a prefix, `group:NAME` or `prefix-list:NAME`.
    ///
    /// # Panics
    /// On a peer of another policy.
    #[must_use]
    pub fn peer_text(&self, peer: Peer) -> String {
        match peer {
            Peer::Cidr4(prefix) => prefix.to_string(),
            Peer::Cidr6(prefix) => prefix.to_string(),
            Peer::Group(index) => format!("group:{}", self.group(index).name),
            Peer::PrefixList(index) => format!("prefix-list:{}", self.prefix_list(index).name),
        }
    }

    /// Whether it has any interface; one that has none is likely half of a file.
    #[must_use]
    pub fn has_interfaces(&self) -> bool {
        !self.interfaces.is_empty()
    }

    /// How large it is.
    #[must_use]
    pub fn count(&self) -> Count {
        Count {
            rules: self
                .groups
                .iter()
                .map(|group| group.ingress.len() + group.egress.len())
                .sum(),
            groups: self.groups.len(),
            interfaces: self.interfaces.len(),
        }
    }
}

//! What a snapshot knows about its groups, rules and interfaces beside verdicts: names for people,
//! logs and `explain`. Never read on the packet path.

use crate::sync::Arc;
use crate::types::{Direction, GroupId, InterfaceId, InterfaceSlot, LinkId, RuleId, RuleSlot};

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: Box<str>,
    /// Its id.
    pub id: GroupId,
    /// `false`: what it would refuse passes.
    pub enforce: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its number while it stays in the policy.
    pub slot: RuleSlot,
    /// Its id.
    pub id: RuleId,
    /// The group that it is of.
    pub group: Arc<GroupInfo>,
    /// Its direction.
    pub direction: Direction,
    /// Protocol and ports as text: `tcp 443`, `icmp type 8 code 0`, `all`.
    pub service: Box<str>,
    /// The peer as a policy file writes it: `10.0.0.0/8`, `group:web`, `prefix-list:admins`.
    pub peer: Box<str>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its number while it stays in the policy.
    pub slot: InterfaceSlot,
    /// Its name.
    pub name: Box<str>,
    /// Its id.
    pub id: InterfaceId,
    /// Its groups, in the policy's order of groups.
    pub groups: Arc<[Arc<GroupInfo>]>,
    /// The link that it is behind; `None`: a member of groups only.
    pub link: Option<LinkId>,
    /// It owns its addresses in frames with this outer VLAN id only.
    pub vlan: Option<u16>,
    /// Shown in flow logs.
    pub vpc_id: Option<Box<str>>,
    /// Shown in flow logs.
    pub subnet_id: Option<Box<str>>,
    /// Shown in flow logs.
    pub instance_id: Option<Box<str>>,
}

/// How large a snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Rules of all groups.
    pub rules: usize,
    /// Security groups.
    pub groups: usize,
    /// Interfaces, those behind no link too.
    pub interfaces: usize,
    /// Programs: distinct parts of the sets of groups on interfaces, times two directions.
    pub programs: usize,
    /// Bytes of all tables and names.
    pub bytes: usize,
}

impl RuleInfo {
    /// Bytes of the rule and its texts.
    pub(crate) fn bytes(&self) -> usize {
        [self.id.as_str().len(), self.service.len(), self.peer.len()]
            .iter()
            .fold(size_of::<Self>(), |sum, len| sum.saturating_add(*len))
    }
}

impl InterfaceInfo {
    /// Bytes of the interface and its texts.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.vpc_id, &self.subnet_id, &self.instance_id];
        let texts = texts
            .iter()
            .map(|text| text.as_ref().map_or(0, |t| t.len()));
        [self.name.len(), self.id.as_str().len()]
            .into_iter()
            .chain(texts)
            .fold(size_of::<Self>(), usize::saturating_add)
    }
}

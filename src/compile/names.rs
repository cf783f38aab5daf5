//! Names of rules and interfaces by slot, for people, logs and `explain`.

use crate::policy::{Interface, Policy, PortRange, Rule, Service};
use crate::snapshot::paged::Paged;
use crate::snapshot::{GroupInfo, InterfaceInfo, RuleInfo};
use crate::sync::Arc;
use crate::types::{Direction, InterfaceSlot, LinkId, RuleSlot};

/// All names, and how many bytes they take.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) rules: Paged<Option<Arc<RuleInfo>>>,
    pub(super) interfaces: Paged<Option<Arc<InterfaceInfo>>>,
    bytes: usize,
}

impl Names {
    /// A rule comes, or is named otherwise.
    pub(super) fn set_rule(&mut self, info: RuleInfo) {
        let place = info.slot.0 as usize;
        let before = self.rules.get(place).and_then(Option::as_ref);
        if before.is_some_and(|before| **before == info) {
            return;
        }
        self.bytes -= before.map_or(0, |before| before.bytes());
        self.bytes += info.bytes();
        self.rules.set(place, Some(Arc::new(info)), &None);
    }

    /// A rule leaves.
    pub(super) fn clear_rule(&mut self, slot: u32) {
        let before = self.rules.get(slot as usize).and_then(Option::as_ref);
        self.bytes -= before.map_or(0, |before| before.bytes());
        self.rules.set(slot as usize, None, &None);
    }

    /// An interface comes, or is named otherwise.
    pub(super) fn set_interface(&mut self, info: InterfaceInfo) {
        let place = info.slot.0 as usize;
        let before = self.interfaces.get(place).and_then(Option::as_ref);
        self.bytes -= before.map_or(0, |before| before.bytes());
        self.bytes += info.bytes();
        self.interfaces.set(place, Some(Arc::new(info)), &None);
    }

    /// An interface leaves.
    pub(super) fn clear_interface(&mut self, slot: u32) {
        let before = self.interfaces.get(slot as usize).and_then(Option::as_ref);
        self.bytes -= before.map_or(0, |before| before.bytes());
        self.interfaces.set(slot as usize, None, &None);
    }

    /// Bytes of all names.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Names of a rule.
pub(super) fn rule_info(
    policy: &Policy,
    group: &Arc<GroupInfo>,
    direction: Direction,
    rule: &Rule,
    slot: u32,
) -> RuleInfo {
    RuleInfo {
        slot: RuleSlot(slot),
        id: rule.id.clone(),
        group: Arc::clone(group),
        direction,
        service: service_text(rule.service),
        peer: policy.peer_text(rule.peer).into(),
    }
}

/// A service for people: every port of a protocol is not worth a range.
fn service_text(service: Service) -> Box<str> {
    match service {
        Service::Tcp(PortRange::ALL) => "tcp".into(),
        Service::Udp(PortRange::ALL) => "udp".into(),
        other => other.to_string().into(),
    }
}

/// Names of an interface.
pub(super) fn interface_info(
    interface: &Interface,
    slot: u32,
    groups: Arc<[Arc<GroupInfo>]>,
    link: Option<LinkId>,
) -> InterfaceInfo {
    InterfaceInfo {
        slot: InterfaceSlot(slot),
        name: interface.name.clone(),
        id: interface.id.clone(),
        groups,
        link,
        vlan: interface.vlan,
        vpc_id: interface.vpc_id.clone(),
        subnet_id: interface.subnet_id.clone(),
        instance_id: interface.instance_id.clone(),
    }
}

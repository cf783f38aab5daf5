//! What a policy says, by asking each rule of the document in turn.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::packet::{Address, Family, VlanTags};
use portcullis::policy::{
    GroupIndex, Interface, InterfaceLink, Peer, Policy, PortRange, Rule, Service,
};
use portcullis::snapshot::Question;
use portcullis::types::{Direction, Generation};

use crate::policies::LINKS;

/// The rules' answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Tracked,
    Untracked,
    Unenforced,
    No,
}

/// A policy that is or was in force.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) generation: Generation,
    policy: Policy,
    /// Each interface's own number, another one after it was away.
    serials: BTreeMap<String, u64>,
}

/// An interface, and its number.
pub(crate) type Owner<'v> = (&'v Interface, u64);

impl Version {
    /// The policy after `before`.
    pub(crate) fn new(generation: Generation, policy: Policy, before: Option<&Self>) -> Self {
        let serial = |(index, interface): (usize, &Interface)| {
            let id = interface.id.to_string();
            let kept = before.and_then(|before| before.serials.get(&id)).copied();
            let fresh = generation.0 << 16 | index as u64;
            (id, kept.unwrap_or(fresh))
        };
        let serials = policy
            .interfaces
            .iter()
            .map(|interface| &**interface)
            .enumerate()
            .map(serial)
            .collect();
        Self {
            generation,
            policy,
            serials,
        }
    }

    /// Who owns an address on a link: the longest match, then the one with the VLAN.
    pub(crate) fn owner(&self, link: usize, vlan: VlanTags, address: Address) -> Option<Owner<'_>> {
        if address.is_multicast_or_broadcast() {
            return None;
        }
        let mut best: Option<((u8, bool), &Interface)> = None;
        for interface in &self.policy.interfaces {
            let is_here = match &interface.link {
                InterfaceLink::Named(name) => **name == *LINKS[link],
                InterfaceLink::Only => true,
                InterfaceLink::Elsewhere => false,
            };
            let is_in_vlan = interface.vlan.is_none() || interface.vlan == vlan.outer;
            if !is_here || !is_in_vlan {
                continue;
            }
            for net in &interface.addresses {
                let rank = (net.prefix_len(), interface.vlan.is_some());
                if holds(net, address) && best.is_none_or(|(other, _)| rank > other) {
                    best = Some((rank, interface));
                }
            }
        }
        best.map(|(_, interface)| (interface, self.serials[interface.id.as_str()]))
    }

    /// Whether the groups of an interface allow a packet.
    pub(crate) fn ask(
        &self,
        interface: &Interface,
        direction: Direction,
        question: &Question,
    ) -> Answer {
        let family = question.remote.family();
        let (mut is_allowed, mut is_by_any, mut is_open_back) = (false, false, false);
        for &group in &interface.groups {
            for rule in self.policy.group(group).rules(direction) {
                if self.allows(rule, question) {
                    is_allowed = true;
                    is_by_any |= self.is_any(rule.peer, family);
                }
            }
            for rule in self.policy.group(group).rules(direction.reversed()) {
                is_open_back |= self.is_any(rule.peer, family) && opens(rule, question.protocol);
            }
        }
        let enforces = |group: &GroupIndex| self.policy.group(*group).enforce;
        match (is_allowed, is_by_any && is_open_back) {
            (true, true) => Answer::Untracked,
            (true, false) => Answer::Tracked,
            (false, _) if interface.groups.iter().all(enforces) => Answer::No,
            (false, _) => Answer::Unenforced,
        }
    }

    fn allows(&self, rule: &Rule, question: &Question) -> bool {
        let family = question.remote.family();
        let [kind, code] = question.service.to_be_bytes();
        let is_service = match (rule.service, question.protocol) {
            (Service::All, _) => true,
            (Service::Tcp(ports), 6) | (Service::Udp(ports), 17) => {
                ports.from <= question.service && question.service <= ports.to
            }
            (Service::Icmp(icmp), 1) if family == Family::V4 => {
                icmp.kind.is_none_or(|k| k == kind) && icmp.code.is_none_or(|c| c == code)
            }
            (Service::Icmpv6(icmp), 58) if family == Family::V6 => {
                icmp.kind.is_none_or(|k| k == kind) && icmp.code.is_none_or(|c| c == code)
            }
            (Service::Protocol(number), asked) => number == asked,
            _ => false,
        };
        is_service
            && self
                .nets(rule.peer)
                .iter()
                .any(|net| holds(net, question.remote))
    }

    fn is_any(&self, peer: Peer, family: Family) -> bool {
        let is_wide = |net: &IpNet| match net {
            IpNet::V4(net) => family == Family::V4 && net.prefix_len() == 0,
            IpNet::V6(net) => family == Family::V6 && net.prefix_len() == 0,
        };
        !matches!(peer, Peer::Group(_)) && self.nets(peer).iter().any(is_wide)
    }

    fn nets(&self, peer: Peer) -> Vec<IpNet> {
        match peer {
            Peer::Cidr4(net) => vec![net.into()],
            Peer::Cidr6(net) => vec![net.into()],
            Peer::PrefixList(list) => {
                let entries = &self.policy.prefix_list(list).entries;
                entries.iter().map(|entry| entry.cidr).collect()
            }
            Peer::Group(group) => {
                let interfaces = self.policy.interfaces.iter();
                let members = interfaces.filter(|interface| interface.groups.contains(&group));
                members
                    .flat_map(|member| member.addresses.clone())
                    .collect()
            }
        }
    }
}

/// Whether a rule lets through every port of TCP or UDP.
fn opens(rule: &Rule, protocol: u8) -> bool {
    match (rule.service, protocol) {
        (Service::All, 6 | 17) => true,
        (Service::Tcp(ports), 6) | (Service::Udp(ports), 17) => ports == PortRange::ALL,
        _ => false,
    }
}

fn holds(net: &IpNet, address: Address) -> bool {
    net.contains(&IpAddr::from(address))
}

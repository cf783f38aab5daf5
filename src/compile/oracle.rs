//! What a policy means, said slowly: every rule asked in turn, straight from the document. The
//! compiled form is held to this.

use ipnet::IpNet;

use crate::packet::{Address, Family, VlanTags};
use crate::policy::{GroupIndex, Interface, InterfaceLink, Peer, Policy, PortRange, Rule, Service};
use crate::snapshot::Question;
use crate::sync::Arc;
use crate::types::{Direction, protocol};

/// The rules' answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'p> {
    Allow { rule: &'p Rule, untracked: bool },
    Unenforced,
    Deny,
}

/// Who owns an address in frames with this outer VLAN id on a link.
pub(crate) fn owner<'p>(
    policy: &'p Policy,
    link: &str,
    vlan: VlanTags,
    address: Address,
) -> Option<&'p Interface> {
    let here = |i: &&Arc<Interface>| match &i.link {
        InterfaceLink::Named(name) => **name == *link,
        InterfaceLink::Only => true,
        InterfaceLink::Elsewhere => false,
    };
    let in_vlan = |i: &&Arc<Interface>| i.vlan.is_none() || i.vlan == vlan.outer;
    let interfaces = policy.interfaces.iter().filter(here).filter(in_vlan);
    let claims = interfaces.flat_map(|i| i.addresses.iter().map(move |net| (net, i)));
    claims
        .filter(|(net, _)| holds(**net, address))
        .max_by_key(|(net, i)| (net.prefix_len(), i.vlan.is_some()))
        .map(|(_, i)| &**i)
}

/// Whether the groups of an interface allow a packet, and by which rule: the lowest.
pub(crate) fn decide<'p>(
    policy: &'p Policy,
    interface: &Interface,
    direction: Direction,
    question: &Question,
) -> Answer<'p> {
    let mut groups: Vec<GroupIndex> = interface.groups.clone();
    groups.sort();
    let rules = |direction| {
        groups
            .iter()
            .flat_map(move |g| policy.group(*g).rules(direction))
    };
    let asked = |rule: &&Rule| allows(policy, rule, question);
    if let Some(rule) = rules(direction).find(asked) {
        let any = |rule: &&Rule| is_any(policy, rule.peer, question.remote.family());
        let open = |rule: &Rule| match (rule.service, question.protocol) {
            (Service::All, protocol::TCP | protocol::UDP) => true,
            (Service::Tcp(ports), protocol::TCP) => ports == PortRange::ALL,
            (Service::Udp(ports), protocol::UDP) => ports == PortRange::ALL,
            _ => false,
        };
        let untracked = rules(direction).filter(asked).any(|r| any(&r))
            && rules(direction.reversed()).filter(any).any(open);
        return Answer::Allow { rule, untracked };
    }
    match groups.iter().all(|group| policy.group(*group).enforce) {
        true => Answer::Deny,
        false => Answer::Unenforced,
    }
}

/// Whether a rule allows a packet, whatever its direction.
pub(super) fn allows(policy: &Policy, rule: &Rule, question: &Question) -> bool {
    let [kind, code] = question.service.to_be_bytes();
    let service = match (rule.service, question.protocol, question.remote.family()) {
        (Service::All, ..) => true,
        (Service::Tcp(ports), protocol::TCP, _) => ports.contains(question.service),
        (Service::Udp(ports), protocol::UDP, _) => ports.contains(question.service),
        (Service::Icmp(icmp), protocol::ICMP, Family::V4)
        | (Service::Icmpv6(icmp), protocol::ICMPV6, Family::V6) => icmp
            .kind
            .is_none_or(|k| k == kind && icmp.code.is_none_or(|c| c == code)),
        (Service::Protocol(number), asked, _) => number == asked,
        _ => false,
    };
    service
        && prefixes(policy, rule.peer)
            .iter()
            .any(|net| holds(*net, question.remote))
}

fn is_any(policy: &Policy, peer: Peer, family: Family) -> bool {
    let zero = |net: &IpNet| match net {
        IpNet::V4(net) => family == Family::V4 && net.prefix_len() == 0,
        IpNet::V6(net) => family == Family::V6 && net.prefix_len() == 0,
    };
    !matches!(peer, Peer::Group(_)) && prefixes(policy, peer).iter().any(zero)
}

/// What a peer holds.
pub(super) fn prefixes(policy: &Policy, peer: Peer) -> Vec<IpNet> {
    match peer {
        Peer::Cidr4(net) => vec![net.into()],
        Peer::Cidr6(net) => vec![net.into()],
        Peer::PrefixList(list) => policy
            .prefix_list(list)
            .entries
            .iter()
            .map(|e| e.cidr)
            .collect(),
        Peer::Group(group) => {
            let members = policy
                .interfaces
                .iter()
                .filter(|i| i.groups.contains(&group));
            members.flat_map(|i| i.addresses.clone()).collect()
        }
    }
}

fn holds(net: IpNet, address: Address) -> bool {
    net.contains(&std::net::IpAddr::from(address))
}

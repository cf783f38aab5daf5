//! What differs, for people.

use std::net::IpAddr;

use ipnet::IpNet;

use super::peers::Peers;
use super::{Asked, Field, asked_icmp, asked_port, is_of_family, protocol_of};
use crate::policy::model::{Interface, Peer, Policy, PortRange, Rule, Service};
use crate::types::{Direction, protocol};

/// What a rule allows: `tcp 80-443 from 10.7.0.0/16`.
pub(super) fn rule(policy: &Policy, direction: Direction, rule: &Rule) -> String {
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    format!("{} {way} {}", rule.service, policy.peer_text(rule.peer))
}

/// One field that differs: what is asked, and what the rule wants.
pub(super) fn differing(
    policy: &Policy,
    asked: &Asked,
    field: Field,
    direction: Direction,
    rule: &Rule,
    peers: &mut Peers<'_>,
) -> String {
    match field {
        Field::Direction => match direction {
            Direction::Ingress => "it is an ingress rule".to_owned(),
            Direction::Egress => "it is an egress rule".to_owned(),
        },
        Field::Protocol => {
            let wanted =
                protocol_of(rule.service).map_or_else(String::new, protocol::name_or_number);
            format!(
                "protocol is {}, not {wanted}",
                protocol::name_or_number(asked.protocol)
            )
        }
        Field::Port => match rule.service {
            Service::Tcp(ports) | Service::Udp(ports) => port(asked, ports),
            _ => String::new(),
        },
        Field::Type | Field::Code => match rule.service {
            Service::Icmp(wanted) | Service::Icmpv6(wanted) => {
                let has = asked_icmp(asked);
                match field {
                    Field::Type => byte("type", has.kind, wanted.kind),
                    _ => byte("code", has.code, wanted.code),
                }
            }
            _ => String::new(),
        },
        Field::Address => address(policy, asked.remote, rule, peers),
    }
}

fn port(asked: &Asked, ports: PortRange) -> String {
    match asked_port(asked) {
        Some(port) if ports.from == ports.to => format!("port {port} is not {ports}"),
        Some(port) => format!("port {port} is not in {ports}"),
        None => format!("it wants port {ports}"),
    }
}

fn byte(what: &str, has: Option<u8>, wanted: Option<u8>) -> String {
    let wanted = wanted.map_or_else(String::new, |wanted| wanted.to_string());
    match has {
        Some(has) => format!("{what} {has} is not {wanted}"),
        None => format!("it wants {what} {wanted}"),
    }
}

fn address(policy: &Policy, remote: IpAddr, rule: &Rule, peers: &mut Peers<'_>) -> String {
    if !is_of_family(remote, rule.service) {
        let family = if remote.is_ipv4() { "IPv6" } else { "IPv4" };
        return format!("{remote} is not of {family}, as {} is", rule.service);
    }
    let nearest = peers.closeness(rule.peer).nearest;
    match rule.peer {
        Peer::Cidr4(net) => outside(remote, net.into()),
        Peer::Cidr6(net) => outside(remote, net.into()),
        Peer::PrefixList(index) => {
            let list = &policy.prefix_list(index).name;
            match nearest {
                Some((net, _)) => {
                    let net = short(net);
                    format!("{remote} is in no entry of `{list}`; the nearest is {net}")
                }
                None => format!("`{list}` has no entries"),
            }
        }
        Peer::Group(index) => {
            let group = &policy.group(index).name;
            match nearest {
                Some((net, of)) => {
                    let of = of.map_or("", |of: &Interface| &of.name);
                    let net = short(net);
                    format!(
                        "members of group `{group}`: {remote} is not one of them; the nearest is \
                         {of} ({net})"
                    )
                }
                None => format!("no interface is in group `{group}`"),
            }
        }
    }
}

fn outside(remote: IpAddr, net: IpNet) -> String {
    let inside = if is_single(net) {
        "is not"
    } else {
        "is not in"
    };
    format!("{remote} {inside} {}", short(net))
}

fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// One address without its length.
fn short(net: IpNet) -> String {
    match is_single(net) {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

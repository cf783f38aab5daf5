//! What would become of a packet, asked of a snapshot by the code that judges packets.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::command::ExplainRequest;
use super::endpoint::Endpoint;
use crate::packet::Address;
use crate::policy::{Asked, GroupIndex, InterfaceLink, Miss, Policy, nearest_misses};
use crate::snapshot::{Decision, InterfaceInfo, InterfaceRef, Question, Snapshot};
use crate::types::{Direction, DropReason, PassReason, Verdict, protocol};

/// The verdict for one interface and direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The interface's name; null where none owns an address.
    pub interface: Option<String>,
    /// `ingress` or `egress` of that interface.
    pub direction: Option<String>,
    /// Id of the rule that allows it.
    pub rule: Option<String>,
    /// Name of that rule's group.
    pub group: Option<String>,
    /// Contract: `reason`.
    pub reason: String,
    /// The same for people: the rule's content, or what is missing.
    pub detail: String,
    /// Why it would be refused if all groups were enforced; null where that makes no difference.
    #[serde(default)]
    pub would_be: Option<String>,
    /// The interface's groups that are not enforced, where it passes for that alone.
    #[serde(default)]
    pub unenforced_groups: Vec<String>,
    /// Where no rule allows it: the rules that come nearest, the nearest first.
    #[serde(default)]
    pub nearest_misses: Vec<Miss>,
}

/// The whole answer: the step that decides, and all steps where both ends are registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The step that decides.
    #[serde(flatten)]
    pub decisive: Step,
    /// Egress of the sender, ingress of the receiver; empty unless both are registered.
    pub steps: Vec<Step>,
    /// What else people should know of these two ends.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Names of the links that a policy's interfaces are behind, for a policy without a gateway: in
/// document order, or one unnamed link.
#[must_use]
pub fn links_of(policy: &Policy) -> Vec<String> {
    let mut links: Vec<String> = Vec::new();
    for interface in &policy.interfaces {
        if let InterfaceLink::Named(name) = &interface.link
            && !links.iter().any(|known| known.as_str() == &**name)
        {
            links.push(name.to_string());
        }
    }
    if links.is_empty() {
        links.push("link".to_owned());
    }
    links
}

/// Asks a policy, and its compiled form, what the first packet of a flow would meet.
///
/// # Errors
/// One line where the question is none: mixed families, or no port where the protocol has ports.
pub fn explain(
    policy: &Policy,
    snapshot: &Snapshot,
    request: &ExplainRequest,
) -> Result<Explanation, String> {
    let (from, to) = (request.from.address, request.to.address);
    let service = request.check()?;
    let [sender, receiver] = [from, to].map(|address| owner(snapshot, address));
    let step = |own: Option<InterfaceRef>, remote: IpAddr, direction: Direction| {
        let interface = own?;
        let asked = Asked {
            direction,
            remote,
            protocol: request.protocol,
            service,
        };
        let question = Question {
            remote: Address::from(remote),
            protocol: request.protocol,
            service,
        };
        let info = snapshot.interface(interface)?;
        let decision = snapshot.decide(interface, direction, &question);
        let wanted = wanted(request, remote, direction);
        let step = describe(snapshot, info, direction, decision, &wanted);
        Some(with_misses(step, policy, info, &asked))
    };
    let egress = step(sender, to, Direction::Egress);
    let ingress = step(receiver, from, Direction::Ingress);
    let (decisive, steps) = match (egress, ingress) {
        (Some(egress), Some(ingress)) => {
            let decisive = if egress.verdict == "deny" {
                &egress
            } else {
                &ingress
            };
            (decisive.clone(), vec![egress, ingress])
        }
        (Some(only), None) | (None, Some(only)) => (only, Vec::new()),
        (None, None) => (unregistered(policy, from, to), Vec::new()),
    };
    let infos = [sender, receiver].map(|end| end.and_then(|end| snapshot.interface(end)));
    Ok(Explanation {
        decisive,
        steps,
        notes: same_link(infos, from).into_iter().collect(),
    })
}

/// The interface that owns an address behind a link: the longest match of any link and VLAN.
/// Nobody owns a group or the broadcast.
fn owner(snapshot: &Snapshot, address: IpAddr) -> Option<InterfaceRef> {
    let address = Address::from(address);
    if address.is_multicast_or_broadcast() {
        return None;
    }
    snapshot.owners_anywhere(address).into_iter().next()
}

/// Between two hosts behind one link: what the gateway sees of them, and what it cannot be.
fn same_link(ends: [Option<&InterfaceInfo>; 2], from: IpAddr) -> Option<String> {
    let [Some(sender), Some(receiver)] = ends else {
        return None;
    };
    (sender.link.is_some() && sender.link == receiver.link).then(|| {
        format!(
            "{} and {} are behind the same link: from inside, the sender's egress is judged alone; \
             a packet that comes in from outside with the source {from} is dropped as spoofed",
            sender.name, receiver.name
        )
    })
}

/// Neither end is anybody's: says who has one of them all the same, or what is missing.
fn unregistered(policy: &Policy, from: IpAddr, to: IpAddr) -> Step {
    let verdict = Verdict::Drop(DropReason::Unregistered);
    let elsewhere = policy.interfaces.iter().find(|interface| {
        let has = |address| interface.addresses.iter().any(|net| net.contains(&address));
        interface.link == InterfaceLink::Elsewhere && (has(from) || has(to))
    });
    let missing = match elsewhere {
        Some(interface) => format!(
            "{} has one of them, but its link is \"none\": it is a member of groups only",
            interface.name
        ),
        None => "an interface of the policy would have to name one of them in its addresses".into(),
    };
    Step {
        verdict: verdict.name().to_owned(),
        interface: None,
        direction: None,
        rule: None,
        group: None,
        reason: verdict.reason().to_owned(),
        detail: format!("no interface behind a link owns {from} or {to}; {missing}"),
        would_be: None,
        unenforced_groups: Vec::new(),
        nearest_misses: Vec::new(),
    }
}

/// Adds, where no rule allows the packet, the rules that come nearest.
fn with_misses(mut step: Step, policy: &Policy, info: &InterfaceInfo, asked: &Asked) -> Step {
    let mut interfaces = policy.interfaces.iter();
    if step.rule.is_none()
        && let Some(interface) = interfaces.find(|interface| interface.id == info.id)
    {
        step.nearest_misses = nearest_misses(policy, &interface.groups, asked);
        let rules = |group: &GroupIndex| policy.group(*group).rules(asked.direction).len();
        if interface.groups.iter().map(rules).all(|count| count == 0) {
            let direction = asked.direction.name();
            step.detail
                .push_str(&format!(" (there is no {direction} rule at all)"));
        }
    }
    step
}

impl ExplainRequest {
    /// Whether it is a question; its service side (a port, or an ICMP type and code).
    ///
    /// # Errors
    /// One line: mixed families, no port where the protocol has ports, an ICMP type where it has
    /// none.
    pub fn check(&self) -> Result<u16, String> {
        let (from, to) = (self.from.address, self.to.address);
        if from.is_ipv4() != to.is_ipv4() {
            return Err(format!("{from} and {to} are of different families"));
        }
        let name = name(self.protocol);
        let is_icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        if !is_icmp && (self.kind.is_some() || self.code.is_some()) {
            return Err(format!(
                "{name} has no type and code: leave out --type and --code"
            ));
        }
        match self.protocol {
            protocol::TCP | protocol::UDP => {
                let example = Endpoint {
                    port: Some(443),
                    ..self.to
                };
                let missing = || format!("{name} has ports: give --to one, as in {example}");
                self.to.port.ok_or_else(missing)
            }
            _ if self.to.port.is_some() || self.from.port.is_some() => Err(format!(
                "{name} has no ports: give --from and --to addresses alone"
            )),
            protocol::ICMP | protocol::ICMPV6 => {
                if (self.protocol == protocol::ICMP) != to.is_ipv4() {
                    let other = if to.is_ipv4() { "icmp" } else { "icmpv6" };
                    return Err(format!("{name} is not the family of {to}: say {other}"));
                }
                // What people mean by `icmp` alone is ping.
                let echo = if self.protocol == protocol::ICMP {
                    8
                } else {
                    128
                };
                let kind = self.kind.unwrap_or(echo);
                Ok(u16::from_be_bytes([kind, self.code.unwrap_or(0)]))
            }
            _ => Ok(0),
        }
    }
}

fn name(number: u8) -> String {
    protocol::name(number).map_or_else(|| format!("protocol {number}"), str::to_owned)
}

/// What a rule would have to allow, in words.
fn wanted(request: &ExplainRequest, remote: IpAddr, direction: Direction) -> String {
    let what = match (request.protocol, request.to.port) {
        (protocol::ICMP, _) => {
            format!(
                "icmp type {} code {}",
                request.kind.unwrap_or(8),
                request.code.unwrap_or(0)
            )
        }
        (protocol::ICMPV6, _) => {
            let kind = request.kind.unwrap_or(128);
            format!("icmpv6 type {kind} code {}", request.code.unwrap_or(0))
        }
        (protocol::TCP | protocol::UDP, Some(port)) => {
            format!("{} port {port}", name(request.protocol))
        }
        (number, _) => name(number),
    };
    match direction {
        Direction::Ingress => format!("{what} from {remote}"),
        Direction::Egress => format!("{what} to {remote}"),
    }
}

fn describe(
    snapshot: &Snapshot,
    interface: &InterfaceInfo,
    direction: Direction,
    decision: Decision,
    wanted: &str,
) -> Step {
    let groups: Vec<&str> = interface.groups.iter().map(|group| &*group.name).collect();
    let missing = format!(
        "no {} rule of {} allows {wanted}",
        direction.name(),
        groups.join(", ")
    );
    let unenforced = match decision {
        Decision::Unenforced => unenforced_groups(interface),
        Decision::Allow { .. } | Decision::Deny => Vec::new(),
    };
    let (verdict, rule, detail) = match decision {
        Decision::Allow { rule, untracked } => {
            let reason = if untracked {
                PassReason::Untracked
            } else {
                PassReason::Rule
            };
            let rule = snapshot.rule(rule);
            let detail = rule.map_or_else(String::new, |rule| {
                let way = if direction == Direction::Ingress {
                    "from"
                } else {
                    "to"
                };
                let group = &rule.group.name;
                format!(
                    "{} of {group}: {} {way} {}",
                    direction.name(),
                    rule.service,
                    rule.peer
                )
            });
            (Verdict::Pass(reason), rule, detail)
        }
        Decision::Unenforced => {
            let detail = format!(
                "{missing}; it passes only because {} not enforced",
                these(&unenforced)
            );
            (Verdict::Pass(PassReason::Unenforced), None, detail)
        }
        Decision::Deny => (Verdict::Drop(DropReason::NoRule), None, missing),
    };
    Step {
        verdict: verdict.name().to_owned(),
        interface: Some(interface.name.to_string()),
        direction: Some(direction.name().to_owned()),
        rule: rule.map(|rule| rule.id.to_string()),
        group: rule.map(|rule| rule.group.name.to_string()),
        reason: verdict.reason().to_owned(),
        detail,
        would_be: (!unenforced.is_empty()).then(|| DropReason::NoRule.name().to_owned()),
        unenforced_groups: unenforced,
        nearest_misses: Vec::new(),
    }
}

/// Names of an interface's groups in audit mode.
fn unenforced_groups(interface: &InterfaceInfo) -> Vec<String> {
    let groups = interface.groups.iter().filter(|group| !group.enforce);
    groups.map(|group| group.name.to_string()).collect()
}

fn these(groups: &[String]) -> String {
    let (word, verb) = match groups.len() {
        1 => ("group", "is"),
        _ => ("groups", "are"),
    };
    format!("{word} `{}` {verb}", groups.join("`, `"))
}

#[cfg(test)]
mod tests;

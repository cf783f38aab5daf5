//! What would become of a packet, asked of a snapshot by the code that judges packets.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::command::ExplainRequest;
use super::endpoint::Endpoint;
use crate::packet::Address;
use crate::policy::{InterfaceLink, Policy};
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
}

/// The whole answer: the step that decides, and all steps where both ends are registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The step that decides.
    #[serde(flatten)]
    pub decisive: Step,
    /// Egress of the sender, ingress of the receiver; empty unless both are registered.
    pub steps: Vec<Step>,
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

/// Asks a snapshot what the first packet of a flow would meet.
///
/// # Errors
/// One line where the question is none: mixed families, or no port where the protocol has ports.
pub fn explain(snapshot: &Snapshot, request: &ExplainRequest) -> Result<Explanation, String> {
    let (from, to) = (request.from.address, request.to.address);
    let service = request.check()?;
    let step = |own: IpAddr, remote: IpAddr, direction: Direction| {
        let interface = owner(snapshot, own)?;
        let question = Question {
            remote: Address::from(remote),
            protocol: request.protocol,
            service,
        };
        let info = snapshot.interface(interface)?;
        let decision = snapshot.decide(interface, direction, &question);
        Some(describe(
            snapshot,
            info,
            direction,
            decision,
            &wanted(request, remote, direction),
        ))
    };
    let egress = step(from, to, Direction::Egress);
    let ingress = step(to, from, Direction::Ingress);
    Ok(match (egress, ingress) {
        (Some(egress), Some(ingress)) => {
            let decisive = if egress.verdict == "deny" {
                &egress
            } else {
                &ingress
            };
            Explanation {
                decisive: decisive.clone(),
                steps: vec![egress, ingress],
            }
        }
        (Some(only), None) | (None, Some(only)) => Explanation {
            decisive: only,
            steps: Vec::new(),
        },
        (None, None) => Explanation {
            decisive: unregistered(from, to),
            steps: Vec::new(),
        },
    })
}

/// The interface that owns an address behind a link: the longest match of any link and VLAN.
fn owner(snapshot: &Snapshot, address: IpAddr) -> Option<InterfaceRef> {
    snapshot
        .owners_anywhere(Address::from(address))
        .into_iter()
        .next()
}

fn unregistered(from: IpAddr, to: IpAddr) -> Step {
    let verdict = Verdict::Drop(DropReason::Unregistered);
    Step {
        verdict: verdict.name().to_owned(),
        interface: None,
        direction: None,
        rule: None,
        group: None,
        reason: verdict.reason().to_owned(),
        detail: format!("no interface behind a link owns {from} or {to}"),
    }
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
    match number {
        protocol::ICMP => "icmp".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
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
            let detail = format!("{missing}, but a group of it is not enforced");
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_are_answered() {
        let check = |from: &str, to: &str, protocol: u8, kind: Option<u8>| {
            let request = ExplainRequest {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                protocol,
                kind,
                code: None,
            };
            request.check()
        };
        assert_eq!(check("10.0.0.1", "10.0.0.2:80", 6, None), Ok(80));
        assert_eq!(check("10.0.0.1", "10.0.0.2", 1, None), Ok(0x0800));
        assert_eq!(check("::1", "::2", 58, Some(129)), Ok(0x8100));
        assert_eq!(check("::1", "::2", 47, None), Ok(0));
        for (from, to, protocol, kind, word) in [
            ("10.0.0.1", "10.0.0.2", 6, None, "10.0.0.2:443"),
            ("::1", "::2", 17, None, "[::2]:443"),
            ("::1", "10.0.0.2:80", 6, None, "different families"),
            ("10.0.0.1", "10.0.0.2:80", 6, Some(8), "--type"),
            ("10.0.0.1", "10.0.0.2:80", 1, None, "no ports"),
            ("10.0.0.1", "10.0.0.2", 58, None, "say icmp"),
        ] {
            let error = check(from, to, protocol, kind).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}

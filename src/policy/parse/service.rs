//! What a rule allows: protocol and ports, or ICMP type and code.
//!
//! "If the protocol is TCP or UDP, this is the start of the port range. If the protocol is ICMP or
//! ICMPv6, this is the ICMP type or -1 (all ICMP types)" and "if you specify all ICMP types, you
//! must specify all ICMP codes": EC2 API reference, `IpPermission`.

use super::context::Context;
use crate::document::{Diagnostic, Diagnostics, Span, Table, Value, alternatives, quoted};
use crate::policy::{IcmpMatch, PortRange, Service};
use crate::types::protocol;

/// What the word for every protocol is in AWS's API.
const AWS_ALL: i64 = -1;

/// Words for protocols.
const WORDS: [(&str, Protocol); 5] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("icmp", Protocol::Icmp),
    ("icmpv6", Protocol::Icmpv6),
    ("all", Protocol::All),
];

/// A protocol, sorted by what else a rule may say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    All,
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
    Number(u8),
}

impl Protocol {
    fn from_number(number: u8) -> Self {
        match number {
            protocol::TCP => Self::Tcp,
            protocol::UDP => Self::Udp,
            protocol::ICMP => Self::Icmp,
            protocol::ICMPV6 => Self::Icmpv6,
            other => Self::Number(other),
        }
    }

    fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    fn has_types(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }
}

/// All services of an entry: one for each of its ports, and where each stands. None if the entry
/// does not say.
pub(super) fn read_services<'d>(
    entry: &Table<'d>,
    context: &mut Context<'d, '_>,
) -> Vec<(Service, Span)> {
    let diagnostics = &mut *context.diagnostics;
    let help = "write protocol = \"tcp\", \"udp\", \"icmp\", \"icmpv6\", \"all\" or a number";
    let Some(value) = entry.required("protocol", "the rule", help, diagnostics) else {
        return Vec::new();
    };
    let Some(protocol) = read_protocol(&value, diagnostics) else {
        return Vec::new();
    };
    refuse_what_does_not_belong(entry, protocol, diagnostics);
    match protocol {
        Protocol::All => vec![(Service::All, value.span())],
        Protocol::Number(number) => vec![(Service::Protocol(number), value.span())],
        Protocol::Tcp | Protocol::Udp => read_ports(entry, &value.span(), diagnostics)
            .into_iter()
            .map(|(ports, span)| match protocol {
                Protocol::Tcp => (Service::Tcp(ports), span),
                _ => (Service::Udp(ports), span),
            })
            .collect(),
        Protocol::Icmp | Protocol::Icmpv6 => {
            let matched = read_icmp(entry, diagnostics);
            let service = match protocol {
                Protocol::Icmp => matched.map(Service::Icmp),
                _ => matched.map(Service::Icmpv6),
            };
            service
                .into_iter()
                .map(|service| (service, value.span()))
                .collect()
        }
    }
}

fn read_protocol(value: &Value<'_>, diagnostics: &mut Diagnostics) -> Option<Protocol> {
    if let Some(number) = value.as_integer() {
        if let Ok(number) = u8::try_from(number) {
            return Some(Protocol::from_number(number));
        }
        let problem = Diagnostic::error(format!("a protocol is from 0 to 255, not {number}"));
        let help = match number {
            AWS_ALL => "write \"all\" for every protocol",
            _ => "see the numbers in /etc/protocols",
        };
        diagnostics.push(problem.at(value.span()).help(help));
        return None;
    }
    let Some(text) = value.as_string() else {
        value.wrong(
            "a word such as \"tcp\" or a number from 0 to 255",
            diagnostics,
        );
        return None;
    };
    if let Some((_, protocol)) = WORDS.iter().find(|(word, _)| *word == text.text) {
        return Some(*protocol);
    }
    let help = match text.text.parse::<i64>() {
        Ok(AWS_ALL) => "write \"all\" for every protocol".to_owned(),
        Ok(number) => format!("write the number without quotes: protocol = {number}"),
        Err(_) => alternatives(text.text, WORDS.iter().map(|(word, _)| *word), diagnostics),
    };
    let problem = Diagnostic::error(format!("{} is no protocol", quoted(text.text)));
    diagnostics.push(problem.at(text.span).help(help));
    None
}

/// Ports belong to TCP and UDP, types and codes to ICMP. Ignored, they would let one believe that
/// the rule is narrower than it is.
fn refuse_what_does_not_belong(
    entry: &Table<'_>,
    protocol: Protocol,
    diagnostics: &mut Diagnostics,
) {
    let mut refuse = |key: &str, message: &str, help: &str| {
        if let Some(value) = entry.value(key) {
            let problem = Diagnostic::error(message).at(value.span()).help(help);
            diagnostics.push(problem);
        }
    };
    if !protocol.has_ports() {
        let help = if protocol.has_types() {
            "remove `ports`; ICMP is narrowed by `type` and `code`"
        } else {
            "remove `ports`, or write protocol = \"tcp\" or \"udp\""
        };
        refuse("ports", "this protocol has no ports", help);
    }
    if !protocol.has_types() {
        let help = "remove it, or write protocol = \"icmp\" or \"icmpv6\"";
        refuse("type", "only ICMP and ICMPv6 have a type", help);
        refuse("code", "only ICMP and ICMPv6 have a code", help);
    }
}

/// The ranges of an entry, each where it stands; every port where it says nothing.
fn read_ports(
    entry: &Table<'_>,
    otherwise: &Span,
    diagnostics: &mut Diagnostics,
) -> Vec<(PortRange, Span)> {
    let Some(value) = entry.value("ports") else {
        return vec![(PortRange::ALL, otherwise.clone())];
    };
    let items = value.one_or_many();
    if items.is_empty() {
        let problem = Diagnostic::error("`ports` is empty, so the rule would allow nothing")
            .at(value.span())
            .help("name a port, or remove `ports` to allow every port");
        diagnostics.push(problem);
    }
    items
        .iter()
        .filter_map(|item| Some((read_port_range(item, diagnostics)?, item.span())))
        .collect()
}

fn read_port_range(item: &Value<'_>, diagnostics: &mut Diagnostics) -> Option<PortRange> {
    if let Some(number) = item.as_integer() {
        let port = u16::try_from(number).ok();
        if port.is_none() {
            let help = match number {
                AWS_ALL => "remove `ports` to allow every port",
                _ => "write a port, or a range such as \"8000-8080\"",
            };
            diagnostics.push(no_port(&number.to_string()).at(item.span()).help(help));
        }
        return port.map(|port| PortRange {
            from: port,
            to: port,
        });
    }
    let Some(text) = item.as_string() else {
        item.wrong(
            "a port, a range such as \"8000-8080\", or a list of them",
            diagnostics,
        );
        return None;
    };
    let (from, to) = text.text.split_once('-').unwrap_or((text.text, text.text));
    let (Some(from), Some(to)) = (port(from), port(to)) else {
        let help = "write a port, or a range such as \"8000-8080\"";
        diagnostics.push(no_port(&quoted(text.text)).at(text.span).help(help));
        return None;
    };
    if from > to {
        let problem = Diagnostic::error(format!("the range {from}-{to} ends before it begins"))
            .at(text.span)
            .help(format!("write \"{to}-{from}\""));
        diagnostics.push(problem);
        return None;
    }
    Some(PortRange { from, to })
}

/// Digits only: the standard parser would take a sign too.
fn port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn no_port(found: &str) -> Diagnostic {
    Diagnostic::error(format!("a port is from 0 to 65535, not {found}"))
}

/// Type and code; none if one of them is wrong.
fn read_icmp(entry: &Table<'_>, diagnostics: &mut Diagnostics) -> Option<IcmpMatch> {
    let kind = read_octet(entry, "type", diagnostics)?;
    let code = read_octet(entry, "code", diagnostics)?;
    match (kind, code) {
        (Some(kind), code) => Some(IcmpMatch {
            kind: Some(kind),
            code,
        }),
        (None, None) => Some(IcmpMatch {
            kind: None,
            code: None,
        }),
        (None, Some(code)) => {
            let span = entry.value("code").map(|value| value.span());
            let span = span.unwrap_or_else(|| entry.span());
            // Written out, -1 says all types and so forces all codes, as in AWS; left out, a code
            // without its type is a slip.
            if entry.value("type").is_some() {
                let warning = Diagnostic::warning(format!(
                    "type -1 is every type with every code, so code {code} is ignored"
                ));
                diagnostics.push(warning.at(span).help("remove `code`, or name a type"));
                return Some(IcmpMatch {
                    kind: None,
                    code: None,
                });
            }
            let problem = Diagnostic::error("a code means nothing without its type")
                .at(span)
                .help("add `type`, or remove `code` to allow every type and code");
            diagnostics.push(problem);
            None
        }
    }
}

/// A number from 0 to 255, or -1 for all; the outer option is none if it is something else.
fn read_octet(entry: &Table<'_>, key: &str, diagnostics: &mut Diagnostics) -> Option<Option<u8>> {
    let Some(value) = entry.value(key) else {
        return Some(None);
    };
    let number = value.integer(diagnostics)?;
    if number == AWS_ALL {
        return Some(None);
    }
    if let Ok(octet) = u8::try_from(number) {
        return Some(Some(octet));
    }
    let problem = Diagnostic::error(format!("`{key}` is from 0 to 255, not {number}"));
    let help = format!("remove `{key}` to allow all");
    diagnostics.push(problem.at(value.span()).help(help));
    None
}

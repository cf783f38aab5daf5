//! Services as spans of one axis, and spans as people write services.
//!
//! ```text
//! | tcp: 65,536 ports | udp: 65,536 ports | icmp: type, code | icmpv6: type, code | 252 others |
//! ```
//!
//! Every service of a rule is one span: `all` is the whole axis. ICMP rules reach one family only,
//! so a span of a rule comes with the families that it reaches; that `all` also has ICMP over IPv6
//! and ICMPv6 over IPv4 needs no special case.

use serde::{Deserialize, Serialize};

use crate::policy::{IcmpMatch, PortRange, Service};
use crate::types::protocol;

/// Points of a protocol that has ports, or types and codes.
const SEGMENT: u32 = 1 << 16;
const TCP: u32 = 0;
const UDP: u32 = SEGMENT;
const ICMP: u32 = 2 * SEGMENT;
const ICMPV6: u32 = 3 * SEGMENT;
const OTHER: u32 = 4 * SEGMENT;
/// Protocols with a segment of their own, ascending.
const OWN_SEGMENT: [u8; 4] = [
    protocol::ICMP,
    protocol::TCP,
    protocol::UDP,
    protocol::ICMPV6,
];
/// The last point.
const LAST: u32 = OTHER + 255 - 4;

/// Points of the axis, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    /// The first.
    pub(super) from: u32,
    /// The last.
    pub(super) to: u32,
}

impl Span {
    const ALL: Self = Self { from: 0, to: LAST };

    /// Whether it has all of the other.
    pub(super) fn holds(self, other: Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    fn meet(self, from: u32, to: u32) -> Option<Self> {
        let (from, to) = (self.from.max(from), self.to.min(to));
        (from <= to).then_some(Self { from, to })
    }
}

/// Which addresses a rule can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Families {
    /// All.
    Both,
    /// IPv4 alone: the rule is about ICMP.
    V4,
    /// IPv6 alone: the rule is about ICMPv6.
    V6,
}

/// Where a service lies, and which families it reaches.
pub(super) fn span_of(service: Service) -> (Span, Families) {
    let ports = |segment: u32, ports: PortRange| Span {
        from: segment + u32::from(ports.from),
        to: segment + u32::from(ports.to),
    };
    match service {
        Service::All => (Span::ALL, Families::Both),
        Service::Tcp(range) => (ports(TCP, range), Families::Both),
        Service::Udp(range) => (ports(UDP, range), Families::Both),
        Service::Icmp(matched) => (icmp_span(ICMP, matched), Families::V4),
        Service::Icmpv6(matched) => (icmp_span(ICMPV6, matched), Families::V6),
        Service::Protocol(number) => {
            let point = other_point(number);
            let span = Span {
                from: point,
                to: point,
            };
            (span, Families::Both)
        }
    }
}

fn icmp_span(segment: u32, matched: IcmpMatch) -> Span {
    let (low, high) = match (matched.kind, matched.code) {
        (None, _) => ([0, 0], [255, 255]),
        (Some(kind), None) => ([kind, 0], [kind, 255]),
        (Some(kind), Some(code)) => ([kind, code], [kind, code]),
    };
    Span {
        from: segment + u32::from(u16::from_be_bytes(low)),
        to: segment + u32::from(u16::from_be_bytes(high)),
    }
}

/// The point of a protocol without a segment of its own.
fn other_point(number: u8) -> u32 {
    let skipped = OWN_SEGMENT.iter().filter(|own| **own < number).count();
    OTHER + u32::from(number) - u32::try_from(skipped).unwrap_or(0)
}

/// The protocol of a point past the segments.
fn other_number(point: u32) -> u32 {
    let mut number = point - OTHER;
    for own in OWN_SEGMENT {
        if u32::from(own) <= number {
            number += 1;
        }
    }
    number
}

/// Services of one protocol, as policies write them: numbers and ranges `from-to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceText {
    /// `all`, `tcp`, `udp`, `icmp`, `icmpv6`, a number or a range of them, or `other`: every
    /// protocol but the four that have a name.
    pub protocol: String,
    /// TCP and UDP: destination ports; none = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// ICMP: types; none = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// ICMP: codes of the type; none = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<String>,
}

/// `tcp 80, 443`, `icmp type 8 code 0`, `protocol 47`, `other protocols`, `all`.
impl std::fmt::Display for ServiceText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.protocol {
            "other" => f.write_str("other protocols")?,
            range if range.contains('-') => write!(f, "protocols {range}")?,
            number if number.starts_with(|c: char| c.is_ascii_digit()) => {
                write!(f, "protocol {number}")?;
            }
            name => f.write_str(name)?,
        }
        let lists = [
            ("", &self.ports),
            (" type", &self.types),
            (" code", &self.codes),
        ];
        for (word, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "{word} {}", list.join(", "))?;
        }
        Ok(())
    }
}

/// The services of spans that are sorted and apart from each other.
pub(super) fn service_texts(spans: &[Span]) -> Vec<ServiceText> {
    if *spans == [Span::ALL] {
        return vec![ServiceText {
            protocol: "all".to_owned(),
            ..ServiceText::default()
        }];
    }
    let mut texts = Vec::new();
    for (name, segment) in [("tcp", TCP), ("udp", UDP)] {
        let ranges: Vec<_> = within(spans, segment, segment + SEGMENT - 1).collect();
        if !ranges.is_empty() {
            let is_all = *ranges == [(0, SEGMENT - 1)];
            let ports = if is_all { Vec::new() } else { written(&ranges) };
            texts.push(ServiceText {
                protocol: name.to_owned(),
                ports,
                ..ServiceText::default()
            });
        }
    }
    icmp_texts("icmp", ICMP, spans, &mut texts);
    icmp_texts("icmpv6", ICMPV6, spans, &mut texts);
    other_texts(spans, &mut texts);
    texts
}

/// The parts of spans inside of a segment, from its start.
fn within(spans: &[Span], first: u32, last: u32) -> impl Iterator<Item = (u32, u32)> {
    let parts = spans.iter().filter_map(move |span| span.meet(first, last));
    parts.map(move |part| (part.from - first, part.to - first))
}

fn written(ranges: &[(u32, u32)]) -> Vec<String> {
    let text = |(from, to): &(u32, u32)| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    };
    ranges.iter().map(text).collect()
}

/// Whole types together; a type of which some codes are meant by itself.
fn icmp_texts(name: &str, segment: u32, spans: &[Span], texts: &mut Vec<ServiceText>) {
    let mut whole: Vec<(u32, u32)> = Vec::new();
    let mut parts: Vec<(u32, Vec<(u32, u32)>)> = Vec::new();
    for (from, to) in within(spans, segment, segment + SEGMENT - 1) {
        // Bound: 256 types.
        for kind in from >> 8..=to >> 8 {
            let codes = (from.max(kind << 8) & 255, to.min(kind << 8 | 255) & 255);
            match (codes, whole.last_mut(), parts.last_mut()) {
                ((0, 255), Some((_, last)), _) if *last + 1 == kind => *last = kind,
                ((0, 255), _, _) => whole.push((kind, kind)),
                (codes, _, Some((last, list))) if *last == kind => list.push(codes),
                (codes, ..) => parts.push((kind, vec![codes])),
            }
        }
    }
    if !whole.is_empty() {
        let is_all = *whole == [(0, 255)];
        let types = if is_all { Vec::new() } else { written(&whole) };
        texts.push(ServiceText {
            protocol: name.to_owned(),
            types,
            ..ServiceText::default()
        });
    }
    texts.extend(parts.into_iter().map(|(kind, codes)| ServiceText {
        protocol: name.to_owned(),
        types: vec![kind.to_string()],
        codes: written(&codes),
        ..ServiceText::default()
    }));
}

fn other_texts(spans: &[Span], texts: &mut Vec<ServiceText>) {
    let push = |protocol: String, texts: &mut Vec<ServiceText>| {
        texts.push(ServiceText {
            protocol,
            ..ServiceText::default()
        });
    };
    for (from, to) in within(spans, OTHER, LAST) {
        if from == 0 && to == LAST - OTHER {
            return push("other".to_owned(), texts);
        }
        // A protocol with a segment of its own lies between two of these: the range ends there.
        let mut start = other_number(OTHER + from);
        let mut end = start;
        for point in OTHER + from + 1..=OTHER + to {
            let number = other_number(point);
            if number != end + 1 {
                push(written(&[(start, end)]).concat(), texts);
                start = number;
            }
            end = number;
        }
        push(written(&[(start, end)]).concat(), texts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(spans: &[Span]) -> Vec<String> {
        let texts = service_texts(spans);
        texts.iter().map(ToString::to_string).collect()
    }

    fn icmp(kind: Option<u8>, code: Option<u8>) -> IcmpMatch {
        IcmpMatch { kind, code }
    }

    #[test]
    fn a_service_is_said_as_rules_say_it() {
        for (service, text) in [
            (Service::All, "all"),
            (Service::Tcp(PortRange::ALL), "tcp"),
            (Service::Tcp(PortRange { from: 0, to: 0 }), "tcp 0"),
            (
                Service::Udp(PortRange {
                    from: 1,
                    to: u16::MAX,
                }),
                "udp 1-65535",
            ),
            (Service::Icmp(icmp(None, None)), "icmp"),
            (Service::Icmp(icmp(Some(8), None)), "icmp type 8"),
            (
                Service::Icmpv6(icmp(Some(255), Some(255))),
                "icmpv6 type 255 code 255",
            ),
            (Service::Protocol(0), "protocol 0"),
            (Service::Protocol(47), "protocol 47"),
            (Service::Protocol(255), "protocol 255"),
        ] {
            assert_eq!(said(&[span_of(service).0]), [text]);
        }
    }

    #[test]
    fn every_protocol_number_has_its_point() {
        let mut next = OTHER;
        for number in (0..=255).filter(|number| !OWN_SEGMENT.contains(number)) {
            assert_eq!(
                (other_point(number), other_number(next)),
                (next, number.into())
            );
            next += 1;
        }
        assert_eq!(next, LAST + 1);
    }

    #[test]
    fn parts_of_the_axis_are_said_exactly() {
        let but = |from: u32, to: u32| {
            let before = Span {
                from: 0,
                to: from - 1,
            };
            let after = Span {
                from: to + 1,
                to: LAST,
            };
            said(&[before, after])
        };
        assert_eq!(
            but(80, 80),
            [
                "tcp 0-79, 81-65535",
                "udp",
                "icmp",
                "icmpv6",
                "other protocols"
            ]
        );
        assert_eq!(
            but(ICMP + 0x0800, ICMP + 0x0a03),
            [
                "tcp",
                "udp",
                "icmp type 0-7, 11-255",
                "icmp type 10 code 4-255",
                "icmpv6",
                "other protocols"
            ]
        );
        let gre = other_point(47);
        assert_eq!(
            but(gre, gre)[4..],
            [
                "protocol 0",
                "protocols 2-5",
                "protocols 7-16",
                "protocols 18-46",
                "protocols 48-57",
                "protocols 59-255"
            ]
        );
        let codes = [ICMP + 0x0300, ICMP + 0x0304].map(|point| Span {
            from: point,
            to: point,
        });
        assert_eq!(said(&codes), ["icmp type 3 code 0, 4"]);
    }
}

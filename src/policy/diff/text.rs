//! Differences as lines, whole or brief.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{Diff, Enforcement, InterfaceChange, Place, Presence, Subject, Traffic};
use crate::types::Direction;

/// How much of a list is said; the rest is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Changes.
    pub changes: usize,
    /// Interfaces of each change.
    pub interfaces: usize,
    /// Lines of each change, gained and lost by themselves.
    pub lines: usize,
    /// Services, addresses and places of each line.
    pub items: usize,
}

impl Brief {
    /// Every change and line, and as much of each as a person reads.
    pub const READABLE: Self = Self {
        changes: usize::MAX,
        interfaces: 8,
        lines: usize::MAX,
        items: 16,
    };
    /// What a dry run says.
    pub const SHORT: Self = Self {
        changes: 50,
        interfaces: 8,
        lines: 20,
        items: 16,
    };
}

/// One line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub kind: LineKind,
    /// The line.
    pub text: String,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Whom the next lines are about.
    Interfaces,
    /// Traffic that the new policy allows.
    Gained,
    /// Traffic that the old policy allows.
    Lost,
    /// Whether what no rule allows is refused.
    Enforcement,
    /// How much more there is.
    More,
}

impl Diff {
    /// Cuts its lists down and counts what goes.
    pub fn shorten(&mut self, brief: Brief) {
        self.more_changes += cut(&mut self.changes, brief.changes);
        for change in &mut self.changes {
            change.more_interfaces += cut(&mut change.interfaces, brief.interfaces);
            change.more_gained += cut(&mut change.gained, brief.lines);
            change.more_lost += cut(&mut change.lost, brief.lines);
            for subject in &mut change.interfaces {
                if let Some(places) = &mut subject.places {
                    subject.more_places += cut(places, brief.items);
                    for place in places {
                        place.more_addresses += cut(&mut place.addresses, brief.items);
                    }
                }
            }
            for line in change.gained.iter_mut().chain(&mut change.lost) {
                line.shorten(brief.items);
            }
        }
    }

    /// It as lines of text.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for change in &self.changes {
            change.write(&mut lines);
        }
        more(&mut lines, "", self.more_changes, "change", "changes");
        lines
    }

    /// It in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.same {
            return "the same traffic is allowed".to_owned();
        }
        let interfaces = |count: usize, one: &str, many: &str| match count {
            1 => format!("1 interface {one}"),
            _ => format!("{count} interfaces {many}"),
        };
        let mut text = format!(
            "{}, {}",
            interfaces(self.gaining, "gains traffic", "gain traffic"),
            interfaces(self.losing, "loses some", "lose some"),
        );
        if self.enforcement > 0 {
            let changes = interfaces(self.enforcement, "changes", "change");
            // Writing to a string cannot fail.
            let _infallible = write!(text, ", {changes} enforcement");
        }
        text
    }
}

impl Traffic {
    fn shorten(&mut self, items: usize) {
        let mut left = items;
        // Ports, types and codes are items too.
        for service in &mut self.services {
            for list in [&mut service.ports, &mut service.types, &mut service.codes] {
                self.more_services += cut(list, left.max(1));
                left = left.saturating_sub(list.len());
            }
        }
        self.more_services += cut(&mut self.services, items);
        self.more_addresses += cut(&mut self.addresses, items);
        self.more_other_addresses += cut(&mut self.other_addresses, items);
    }
}

/// `ingress tcp 80, 443; udp 53 from group:web, 10.0.0.0/8`.
impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let services: Vec<_> = self.services.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", self.direction, services.join("; "))?;
        if self.more_services > 0 {
            write!(f, " and {} more", self.more_services)?;
        }
        let from = match self.direction == Direction::Ingress.name() {
            true => "from",
            false => "to",
        };
        let (rest, more) = match &*self.peers {
            [] => (&self.addresses, self.more_addresses),
            _ => (&self.other_addresses, self.more_other_addresses),
        };
        let mut ends = self.peers.clone();
        ends.extend(addresses(rest));
        write!(f, " {from} {}", ends.join(", "))?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

impl InterfaceChange {
    fn write(&self, lines: &mut Vec<Line>) {
        lines.push(Line {
            kind: LineKind::Interfaces,
            text: self.heading(),
        });
        if let Some(text) = self.enforcement_text() {
            lines.push(Line {
                kind: LineKind::Enforcement,
                text: format!("  ! {text}"),
            });
        }
        for (kind, sign, list, left_out) in [
            (LineKind::Gained, '+', &self.gained, self.more_gained),
            (LineKind::Lost, '-', &self.lost, self.more_lost),
        ] {
            lines.extend(list.iter().map(|traffic| Line {
                kind,
                text: format!("  {sign} {traffic}"),
            }));
            more(lines, &format!("  {sign} "), left_out, "line", "lines");
        }
    }

    /// Whom it is about: `web-1, web-2 and 40 more`.
    fn heading(&self) -> String {
        let names: Vec<_> = self.interfaces.iter().map(Subject::text).collect();
        let mut text = names.join(", ");
        if self.more_interfaces > 0 {
            // Writing to a string cannot fail.
            let _infallible = write!(text, " and {} more", self.more_interfaces);
        }
        text.push_str(match self.presence {
            Presence::Both => "",
            Presence::New => ", new",
            Presence::Old => ", gone",
        });
        text
    }

    fn enforcement_text(&self) -> Option<String> {
        let groups = self.unenforced.join("`, `");
        let (verb, whose) = match self.unenforced.len() {
            1 => ("is", "group"),
            _ => ("are", "groups"),
        };
        let text = match (self.enforcement, self.presence) {
            (Enforcement::On, _) => return None,
            (Enforcement::Off, _) => format!(
                "everything passes before and after: {whose} `{groups}` {verb} not enforced; the \
                 rules would differ by"
            ),
            (Enforcement::Ends, _) => {
                format!("everything passes from now on: {whose} `{groups}` {verb} not enforced")
            }
            (Enforcement::Starts, Presence::Old) => {
                format!("everything passed: {whose} `{groups}` {verb} not enforced")
            }
            (Enforcement::Starts, _) => {
                let was = if verb == "is" { "was" } else { "were" };
                format!(
                    "what no rule allows is refused from now on: {whose} `{groups}` {was} not \
                     enforced"
                )
            }
        };
        Some(text)
    }
}

impl Subject {
    /// The name, and which addresses are meant, if not all.
    fn text(&self) -> String {
        let Some(places) = &self.places else {
            return self.name.clone();
        };
        let mut texts: Vec<_> = places.iter().map(Place::to_string).collect();
        if self.more_places > 0 {
            texts.push(format!("and {} more", self.more_places));
        }
        format!("{} ({})", self.name, texts.join("; "))
    }
}

/// `10.0.0.5, 2001:db8::5 in VLAN 20 of link uplink`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", addresses(&self.addresses).join(", "))?;
        if self.more_addresses > 0 {
            write!(f, " and {} more", self.more_addresses)?;
        }
        if let Some(vlan) = self.vlan {
            write!(f, " in VLAN {vlan}")?;
        }
        if !self.vlans_except.is_empty() {
            let vlans: Vec<_> = self.vlans_except.iter().map(ToString::to_string).collect();
            write!(f, " but in VLAN {}", vlans.join(", "))?;
        }
        match &self.link {
            Some(link) => write!(f, " of link {link}"),
            None => Ok(()),
        }
    }
}

/// Prefixes as people write them: single addresses without a length, and `any` for all there are.
fn addresses(prefixes: &[IpNet]) -> Vec<String> {
    let is_any = |net: &IpNet| net.prefix_len() == 0;
    if let [v4, v6] = prefixes
        && is_any(v4)
        && is_any(v6)
    {
        return vec!["any".to_owned()];
    }
    let text = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    prefixes.iter().map(text).collect()
}

/// Cuts a list; how many go.
fn cut<T>(list: &mut Vec<T>, len_max: usize) -> usize {
    let more = list.len().saturating_sub(len_max);
    list.truncate(len_max);
    more
}

fn more(lines: &mut Vec<Line>, indent: &str, count: usize, one: &str, many: &str) {
    if count > 0 {
        let noun = if count == 1 { one } else { many };
        lines.push(Line {
            kind: LineKind::More,
            text: format!("{indent}and {count} more {noun}"),
        });
    }
}

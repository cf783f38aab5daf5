//! What happens in a random world, as text: what the random test leaves of a failure in
//! tests/regressions/pipeline, and what it runs again from there.
//!
//! ```text
//! # why it is here
//! world 3
//! apply
//! group 0 enforced
//! group 1 audited
//! ingress 0 tcp 80-443 cidr 0.0.0.0/0
//! egress 0 all group 1
//! interface 1 link a vlan 20 groups 0 2 owns 10.0.0.1/32 2001:db8::1/128
//! wait 40
//! received by 0
//! frame 0 inside 02000000000102…
//! ```
//!
//! A world's number is the seed of its settings; what happens in it is told here alone.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::str::{FromStr, SplitWhitespace};

use ipnet::IpNet;

use super::random::{RandomWorld, STEPS};
use super::*;
use crate::policy::{
    GroupIndex, IcmpMatch, Interface, InterfaceLink, Peer, Policy, PortRange, Rule, SecurityGroup,
    Service,
};
use crate::sync::Arc;
use crate::types::regressions::Regression;
use crate::types::{GroupId, InterfaceId, RuleId};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Apply(Policy),
    /// In units of the shard's timers.
    Wait(u64),
    /// A batch, and the worker that receives it.
    Frames(usize, Vec<(LinkId, PortSide, Vec<u8>)>),
}

#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) seed: u64,
    pub(super) events: Vec<Event>,
}

impl Regression for Story {
    const FOLDER: &str = "pipeline";
    type Step = Event;

    fn steps(&self) -> &[Event] {
        &self.events
    }

    fn with(&self, events: &[Event]) -> Self {
        Self {
            seed: self.seed,
            events: events.to_vec(),
        }
    }

    fn replay(&self) {
        let mut world = RandomWorld::new(self.seed);
        for event in &self.events {
            if !world.happen(event.clone()) {
                return;
            }
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "world {}", self.seed)?;
        for event in &self.events {
            match event {
                Event::Apply(policy) => write_policy(f, policy)?,
                Event::Wait(units) => writeln!(f, "wait {units}")?,
                Event::Frames(receiver, frames) => {
                    writeln!(f, "received by {receiver}")?;
                    for (link, side, bytes) in frames {
                        let side = if *side == Inside { "inside" } else { "outside" };
                        let mut hex = String::new();
                        for byte in bytes {
                            write!(hex, "{byte:02x}")?;
                        }
                        writeln!(f, "frame {} {side} {hex}", link.0)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_policy(f: &mut fmt::Formatter<'_>, policy: &Policy) -> fmt::Result {
    writeln!(f, "apply")?;
    for (number, group) in policy.groups.iter().enumerate() {
        let word = if group.enforce { "enforced" } else { "audited" };
        writeln!(f, "group {number} {word}")?;
        for (direction, rules) in [("ingress", &group.ingress), ("egress", &group.egress)] {
            for rule in rules.iter() {
                write!(f, "{direction} {number} ")?;
                write_rule(f, rule)?;
            }
        }
    }
    for interface in &policy.interfaces {
        let name = interface.name.trim_start_matches('i');
        let link = match &interface.link {
            InterfaceLink::Named(name) => name,
            InterfaceLink::Only => "only",
            InterfaceLink::Elsewhere => "elsewhere",
        };
        write!(f, "interface {name} link {link}")?;
        if let Some(vlan) = interface.vlan {
            write!(f, " vlan {vlan}")?;
        }
        write!(f, " groups")?;
        for group in &interface.groups {
            write!(f, " {}", group.0)?;
        }
        write!(f, " owns")?;
        for net in &interface.addresses {
            write!(f, " {net}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule) -> fmt::Result {
    let any = |value: Option<u8>| value.map_or("any".to_owned(), |value| value.to_string());
    let icmp = |icmp: IcmpMatch| format!("{} {}", any(icmp.kind), any(icmp.code));
    match rule.service {
        Service::All => write!(f, "all")?,
        Service::Tcp(ports) => write!(f, "tcp {} {}", ports.from, ports.to)?,
        Service::Udp(ports) => write!(f, "udp {} {}", ports.from, ports.to)?,
        Service::Icmp(matched) => write!(f, "icmp {}", icmp(matched))?,
        Service::Icmpv6(matched) => write!(f, "icmpv6 {}", icmp(matched))?,
        Service::Protocol(number) => write!(f, "protocol {number}")?,
    }
    match rule.peer {
        Peer::Cidr4(net) => writeln!(f, " cidr {net}"),
        Peer::Cidr6(net) => writeln!(f, " cidr {net}"),
        Peer::Group(group) => writeln!(f, " group {}", group.0),
        Peer::PrefixList(_) => unreachable!("random policies have none"),
    }
}

fn number<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

fn any(words: &mut SplitWhitespace<'_>) -> Option<Option<u8>> {
    match words.next()? {
        "any" => Some(None),
        word => word.parse().ok().map(Some),
    }
}

impl FromStr for Story {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut story = Self {
            seed: 0,
            events: Vec::new(),
        };
        let is_said = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        for line in text.lines().filter(is_said) {
            let read = story.read(line);
            read.ok_or_else(|| format!("cannot read {line:?}"))?;
        }
        Ok(story)
    }
}

impl Story {
    fn read(&mut self, line: &str) -> Option<()> {
        let words = &mut line.split_whitespace();
        match (words.next()?, self.events.last_mut()) {
            ("world", _) => self.seed = number(words)?,
            ("apply", _) => self.events.push(Event::Apply(Policy::default())),
            ("wait", _) => self.events.push(Event::Wait(number(words)?)),
            ("received", _) => {
                words.next()?;
                self.events.push(Event::Frames(number(words)?, Vec::new()));
            }
            ("frame", Some(Event::Frames(_, frames))) => {
                let link = LinkId(number(words)?);
                let side = match words.next()? {
                    "inside" => Inside,
                    "outside" => Outside,
                    _ => return None,
                };
                // Of a frame that was cut to nothing there is no hex.
                let hex = words.next().unwrap_or_default();
                let byte = |at: usize| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok();
                let bytes: Option<Vec<u8>> = (0..hex.len() / 2).map(byte).collect();
                frames.push((link, side, bytes?));
            }
            (word, Some(Event::Apply(policy))) => read_policy(policy, word, words)?,
            _ => return None,
        }
        words.next().is_none().then_some(())
    }
}

fn read_policy(policy: &mut Policy, word: &str, words: &mut SplitWhitespace<'_>) -> Option<()> {
    let at: usize = number(words)?;
    match word {
        "group" => policy.groups.push(Arc::new(SecurityGroup {
            name: format!("g{at}").into(),
            id: GroupId(format!("sg-{at}").into()),
            description: None,
            enforce: words.next()? == "enforced",
            ingress: Vec::new(),
            egress: Vec::new(),
        })),
        "ingress" | "egress" => {
            let (service, peer) = (read_service(words)?, read_peer(words)?);
            let direction = u8::from(word == "egress");
            let id = RuleId(format!("sgr-{at} {direction} {service} {peer:?}").into());
            let group = Arc::make_mut(policy.groups.get_mut(at)?);
            let rules = match word {
                "ingress" => &mut group.ingress,
                _ => &mut group.egress,
            };
            rules.push(Rule {
                id,
                service,
                peer,
                description: None,
            });
        }
        "interface" => policy.interfaces.push(Arc::new(read_interface(at, words)?)),
        _ => return None,
    }
    Some(())
}

fn read_service(words: &mut SplitWhitespace<'_>) -> Option<Service> {
    let kind = words.next()?;
    Some(match kind {
        "all" => Service::All,
        "protocol" => Service::Protocol(number(words)?),
        "icmp" | "icmpv6" => {
            let matched = IcmpMatch {
                kind: any(words)?,
                code: any(words)?,
            };
            match kind {
                "icmp" => Service::Icmp(matched),
                _ => Service::Icmpv6(matched),
            }
        }
        "tcp" | "udp" => {
            let ports = PortRange {
                from: number(words)?,
                to: number(words)?,
            };
            match kind {
                "tcp" => Service::Tcp(ports),
                _ => Service::Udp(ports),
            }
        }
        _ => return None,
    })
}

fn read_peer(words: &mut SplitWhitespace<'_>) -> Option<Peer> {
    match words.next()? {
        "group" => number(words).map(|group| Peer::Group(GroupIndex(group))),
        "cidr" => Some(match number(words)? {
            IpNet::V4(net) => Peer::Cidr4(net),
            IpNet::V6(net) => Peer::Cidr6(net),
        }),
        _ => None,
    }
}

fn read_interface(at: usize, words: &mut SplitWhitespace<'_>) -> Option<Interface> {
    let mut interface = Interface {
        name: format!("i{at}").into(),
        id: InterfaceId(format!("eni-{at}").into()),
        addresses: Vec::new(),
        groups: Vec::new(),
        link: InterfaceLink::Only,
        vlan: None,
        vpc_id: None,
        subnet_id: None,
        instance_id: None,
        limits: crate::types::FlowLimits::default(),
    };
    let mut key = "";
    for word in words {
        match (key, word) {
            (_, "link" | "vlan" | "groups" | "owns") => key = word,
            ("link", "elsewhere") => interface.link = InterfaceLink::Elsewhere,
            ("link", "only") => {}
            ("link", name) => interface.link = InterfaceLink::Named(name.into()),
            ("vlan", number) => interface.vlan = Some(number.parse().ok()?),
            ("groups", number) => interface.groups.push(GroupIndex(number.parse().ok()?)),
            ("owns", net) => interface.addresses.push(net.parse().ok()?),
            _ => return None,
        }
    }
    Some(interface)
}

/// One world, and how often each verdict was given in it.
pub(super) fn run(seed: u64) -> HashMap<Verdict, u32> {
    let mut world = RandomWorld::new(seed);
    let steps = panic::catch_unwind(AssertUnwindSafe(|| {
        world.apply();
        for _ in 0..STEPS {
            world.step();
        }
    }));
    if let Err(failure) = steps {
        world.story.keep(seed, failure);
    }
    world.seen
}

#[test]
fn what_once_went_wrong_does_not_again() {
    Story::replay_kept(3);
}

#[test]
fn a_story_is_read_as_it_was_written() {
    let mut world = RandomWorld::new(5);
    world.apply();
    for _ in 0..STEPS {
        world.step();
    }
    let text = world.story.to_string();
    let read: Story = text.parse().unwrap();
    assert_eq!(read.to_string(), text);
    assert_eq!(format!("{read:?}"), format!("{:?}", world.story));
}

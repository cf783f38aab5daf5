//! The whole decision said slowly: the policy's document asked rule by rule, connections in a
//! `HashMap`, and where a packet may be at all asked for every packet, before its connection.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::compile::oracle::{Answer, decide, owner};
use crate::conntrack::oracle::{Oracle as Flows, OracleFlow, rounded};
use crate::conntrack::{Admission, FlowClass, NewFlow, Track};
use crate::packet::{
    Address, ArpPacket, End, FlowKey, Fragment, IpPacket, Parsed, Transport, VlanTags,
};
use crate::policy::{Interface, Policy};
use crate::snapshot::Question;
use crate::types::{InterfaceId, InterfaceSlot, RuleId, RuleSlot, protocol};

/// What is expected of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) verdict: Verdict,
    pub(super) interface: Option<InterfaceId>,
    pub(super) direction: Option<Direction>,
    pub(super) rule: Option<RuleId>,
}

fn bare(verdict: Verdict) -> Expected {
    Expected {
        verdict,
        interface: None,
        direction: None,
        rule: None,
    }
}

fn dropped(reason: DropReason) -> Expected {
    bare(Verdict::Drop(reason))
}

/// Beside what the connection oracle holds of a flow.
#[derive(Clone, Debug)]
struct Admitted {
    /// The interface, and how often it had come into the policy by then.
    interface: (InterfaceId, u64),
    rule: Option<RuleId>,
    /// What the opener's packet asked.
    question: Question,
    generation: Generation,
}

pub(super) struct Oracle {
    pub(super) policy: Policy,
    pub(super) generation: Generation,
    pub(super) links: [&'static str; 2],
    pub(super) unregistered: [Unregistered; 2],
    pub(super) exempt_address: Address,
    pub(super) exempt_port: ExemptPort,
    pub(super) capacity: usize,
    flows: Flows,
    admitted: HashMap<FlowKey, Admitted>,
    /// How often each interface of the policy has come into it.
    arrivals: BTreeMap<InterfaceId, u64>,
    arrivals_count: u64,
    /// Flows that the shards have.
    there: HashSet<FlowKey>,
}

/// The interface that judges a packet.
struct Seat {
    interface: Interface,
    direction: Direction,
    /// Both ends are registered on the link.
    is_local: bool,
}

/// What the rules say of a packet, and of which flow.
struct Ruling {
    class: FlowClass,
    rule: Option<RuleId>,
    is_opener: bool,
}

impl Oracle {
    pub(super) fn new(
        shard: &ShardConfig,
        exempt_address: Address,
        exempt_port: ExemptPort,
    ) -> Self {
        Self {
            policy: Policy::default(),
            generation: Generation(0),
            links: ["a", "b"],
            unregistered: [Unregistered::Drop, Unregistered::Pass],
            exempt_address,
            exempt_port,
            capacity: shard.max_flows as usize,
            there: HashSet::new(),
            flows: Flows::new(shard),
            admitted: HashMap::new(),
            arrivals: BTreeMap::new(),
            arrivals_count: 0,
        }
    }

    pub(super) fn apply(&mut self, policy: Policy, generation: Generation) {
        let ids: HashSet<_> = policy.interfaces.iter().map(|i| i.id.clone()).collect();
        self.arrivals.retain(|id, _| ids.contains(id));
        for id in ids {
            self.arrivals_count += 1;
            self.arrivals.entry(id).or_insert(self.arrivals_count);
        }
        (self.policy, self.generation) = (policy, generation);
        let keys = self.admitted.keys().copied();
        let lost: Vec<FlowKey> = keys.filter(|key| self.is_lost(key)).collect();
        for key in lost {
            self.flows.flows.remove(&key);
            self.admitted.remove(&key);
        }
    }

    /// Semantics: "An interface or address that leaves the policy ends its flows at once", and so
    /// does one at the far end that comes into it.
    fn is_lost(&self, key: &FlowKey) -> bool {
        let near = self.inside(key);
        let owner = |end| self.owner(key.link, key.vlan, key.end(end).0);
        let is_same = owner(near).is_some_and(|interface| {
            let arrived = self.arrivals[&interface.id];
            (interface.id.clone(), arrived) == self.admitted[key].interface
        });
        !is_same || owner(near.opposite()).is_some()
    }

    /// Which end of a flow is the interface's.
    fn inside(&self, key: &FlowKey) -> End {
        let flow = self.flows.flows[key].new;
        match flow.direction {
            Direction::Egress => flow.opener,
            Direction::Ingress => flow.opener.opposite(),
        }
    }

    /// Forgets what has died.
    pub(super) fn expire(&mut self, now: Tick) {
        self.flows
            .flows
            .retain(|_, flow| rounded(now) < flow.deadline);
        let live = &self.flows.flows;
        self.admitted.retain(|key, _| live.contains_key(key));
    }

    /// Tells which flows the shards have now: where several may give way, any one may have.
    pub(super) fn see(&mut self, there: HashSet<FlowKey>) {
        self.there = there;
    }

    /// Whether a new flow finds room, after one gave way to it if need be.
    fn has_room(&mut self, class: FlowClass) -> bool {
        if self.flows_count() < self.capacity {
            return true;
        }
        let flows = &self.flows.flows;
        let first = flows.values().filter_map(OracleFlow::rank).min();
        // An untracked flow needs no entry: only another one gives way to it.
        let Some(first) = first.filter(|rank| *rank == 0 || class != FlowClass::Untracked) else {
            return false;
        };
        let mut gone = flows.iter().filter(|(key, _)| !self.there.contains(key));
        let (victim, flow) = gone.next().expect("one gives way");
        assert_eq!((flow.rank(), gone.next().is_none()), (Some(first), true));
        let victim = *victim;
        self.flows.flows.remove(&victim);
        self.admitted.remove(&victim);
        true
    }

    pub(super) fn flows_count(&self) -> usize {
        self.flows.flows.len()
    }

    pub(super) fn judge(&mut self, parsed: &Parsed, arrival: Arrival, now: Tick) -> Expected {
        match parsed {
            Parsed::Malformed(_) => dropped(DropReason::Malformed),
            Parsed::NotIp { .. } => dropped(DropReason::NotIp),
            Parsed::Arp(arp) => self.arp(arp, arrival),
            Parsed::Ip(packet) => self.ip(packet, arrival, now),
        }
    }

    fn owner(&self, link: LinkId, vlan: VlanTags, address: Address) -> Option<&Interface> {
        // Groups are nobody's, whatever prefix they lie in.
        let is_group = match address {
            Address::V4(bits) => (224..240).contains(&bits.to_be_bytes()[0]) || bits == u32::MAX,
            Address::V6(bits) => bits.to_be_bytes()[0] == 0xff,
        };
        let owner = owner(&self.policy, self.links[link.index()], vlan, address);
        owner.filter(|_| !is_group)
    }

    fn arp(&self, arp: &ArpPacket, arrival: Arrival) -> Expected {
        let claims = arp.operation == 2 || arp.sender != 0 && arp.sender == arp.target;
        let is_link_local = arp.sender.to_be_bytes()[..2] == [169, 254];
        if arrival.side == Inside && claims && !is_link_local {
            return self.speaks_for(Address::V4(arp.sender), arp.vlan, arrival);
        }
        bare(Verdict::Pass(PassReason::Exempt))
    }

    fn speaks_for(&self, address: Address, vlan: VlanTags, arrival: Arrival) -> Expected {
        let is_owned = self.owner(arrival.link, vlan, address).is_some();
        let is_free = self.unregistered[arrival.link.index()] == Unregistered::Pass;
        if is_owned || is_free {
            bare(Verdict::Pass(PassReason::Exempt))
        } else {
            dropped(DropReason::Spoofed)
        }
    }

    /// Semantics: "Never filtered".
    fn exempt(&self, packet: &IpPacket, arrival: Arrival) -> Option<Expected> {
        let exempt = Some(bare(Verdict::Pass(PassReason::Exempt)));
        let (inside, whole) = (arrival.side == Inside, packet.fragment == Fragment::Whole);
        let is_v4 = matches!(packet.addresses.source(), Address::V4(_));
        let service = match inside {
            true => packet.addresses.destination(),
            false => packet.addresses.source(),
        };
        match packet.transport {
            Transport::Udp {
                source_port,
                destination_port,
            } => {
                let (client, server) = if is_v4 { (68, 67) } else { (546, 547) };
                let dhcp = match inside {
                    true => (client, server),
                    false => (server, client),
                };
                if whole && (source_port, destination_port) == dhcp {
                    return exempt;
                }
                let port = if inside {
                    destination_port
                } else {
                    source_port
                };
                if self.exempt_port.protocol == PortProtocol::Udp && port == self.exempt_port.port {
                    return exempt;
                }
            }
            Transport::Tcp(ref tcp) => {
                let port = if inside {
                    tcp.destination_port
                } else {
                    tcp.source_port
                };
                let answers = tcp.flags.ack() || tcp.flags.rst();
                if self.exempt_port.protocol == PortProtocol::Tcp
                    && port == self.exempt_port.port
                    && (inside || answers)
                {
                    return exempt;
                }
            }
            Transport::Icmp { kind, target, .. } if !is_v4 && whole => {
                let near = packet.hop_limit == 255;
                match kind {
                    130 | 131 | 132 | 143 => return exempt,
                    133 | 135 if near => return exempt,
                    134 | 137 if near && !inside => return exempt,
                    136 if near && !inside => return exempt,
                    136 if near => match target {
                        Some(target) if target >> 112 & 0xffc0 == 0xfe80 => return exempt,
                        Some(target) => {
                            let address = Address::V6(target);
                            return Some(self.speaks_for(address, packet.vlan, arrival));
                        }
                        None => {}
                    },
                    _ => {}
                }
            }
            _ => {}
        }
        let is_igmp = is_v4 && packet.protocol == 2 && whole;
        if is_igmp || service == self.exempt_address {
            return exempt;
        }
        None
    }

    fn ip(&mut self, packet: &IpPacket, arrival: Arrival, now: Tick) -> Expected {
        if let Some(expected) = self.exempt(packet, arrival) {
            return expected;
        }
        if let Fragment::Later { .. } = packet.fragment {
            return dropped(DropReason::Fragment);
        }
        let flow = FlowKey::of(arrival.link, packet);
        if let Some((key, _)) = flow {
            self.refresh(&key);
        }
        let seat = match self.seat(packet, arrival) {
            Ok(seat) => seat,
            Err(expected) => return expected,
        };
        let Some((key, from)) = flow else {
            return match self.ruling(&seat, packet) {
                Some(ruling) => seat.passed(ruling),
                None => seat.refused(DropReason::NoRule),
            };
        };
        let Some(flow) = self.flows.live(&key, now) else {
            return self.anew(&seat, packet, arrival, (key, from), false, now);
        };
        let reason = match flow.new.class {
            FlowClass::Tracked => PassReason::Tracked,
            FlowClass::Untracked => PassReason::Untracked,
            FlowClass::Unenforced => PassReason::Unenforced,
        };
        let len = arrival.original_len;
        match self.flows.track(&key, packet, from, len, now) {
            Track::Pass => seat.at(Verdict::Pass(reason), self.admitted[&key].rule.clone()),
            Track::Invalid => seat.refused(DropReason::Invalid),
            Track::Reopen => self.anew(&seat, packet, arrival, (key, from), true, now),
        }
    }

    /// Contract: "Direction".
    fn seat(&self, packet: &IpPacket, arrival: Arrival) -> Result<Seat, Expected> {
        let owner = |address| self.owner(arrival.link, packet.vlan, address).cloned();
        let source = owner(packet.addresses.source());
        let target = owner(packet.addresses.destination());
        let is_local = source.is_some() && target.is_some();
        let seat = |interface, direction| Seat {
            interface,
            direction,
            is_local,
        };
        match (arrival.side, source, target) {
            (Inside, Some(interface), _) => Ok(seat(interface, Direction::Egress)),
            (Outside, Some(interface), _) => {
                Err(seat(interface, Direction::Ingress).refused(DropReason::Spoofed))
            }
            (Outside, None, Some(interface)) => Ok(seat(interface, Direction::Ingress)),
            _ => Err(bare(match self.unregistered[arrival.link.index()] {
                Unregistered::Drop => Verdict::Drop(DropReason::Unregistered),
                Unregistered::Pass => Verdict::Pass(PassReason::Unregistered),
            })),
        }
    }

    /// A packet that no entry vouches for: there is none, or one that is over (`is_known`).
    fn anew(
        &mut self,
        seat: &Seat,
        packet: &IpPacket,
        arrival: Arrival,
        (key, from): (FlowKey, End),
        is_known: bool,
        now: Tick,
    ) -> Expected {
        let Some(ruling) = self.ruling(seat, packet) else {
            return seat.refused(DropReason::NoRule);
        };
        let is_tracked = ruling.class == FlowClass::Tracked;
        match self.flows.admission(packet) {
            Admission::Refuse if is_tracked => return seat.refused(DropReason::Invalid),
            Admission::PassOnly if is_tracked && is_known => {
                return seat.refused(DropReason::Invalid);
            }
            Admission::Open if ruling.is_opener && !seat.is_local => {
                if is_known || self.has_room(ruling.class) {
                    let new = NewFlow {
                        interface: InterfaceSlot(0),
                        rule: ruling.rule.as_ref().map(|_| RuleSlot(0)),
                        generation: self.generation,
                        class: ruling.class,
                        direction: seat.direction,
                        opener: from,
                    };
                    let id = seat.interface.id.clone();
                    let admitted = Admitted {
                        interface: (id.clone(), self.arrivals[&id]),
                        rule: ruling.rule.clone(),
                        question: question(packet, seat.direction, false),
                        generation: self.generation,
                    };
                    self.flows.open(key, new, packet, arrival.original_len, now);
                    self.admitted.insert(key, admitted);
                } else if is_tracked {
                    return seat.refused(DropReason::TableFull);
                }
            }
            _ => {}
        }
        seat.passed(ruling)
    }

    /// Semantics: "a rule is removed, …" under `keep`.
    fn refresh(&mut self, key: &FlowKey) {
        let Some(admitted) = self.admitted.get(key).cloned() else {
            return;
        };
        if admitted.generation == self.generation {
            return;
        }
        let flow = self.flows.flows[key].new;
        let (near, _) = key.end(self.inside(key));
        let interface = self.owner(key.link, key.vlan, near);
        let went_on = interface.and_then(|interface| {
            if flow.class == FlowClass::Tracked {
                return Some((FlowClass::Tracked, admitted.rule.clone()));
            }
            let answer = decide(&self.policy, interface, flow.direction, &admitted.question);
            let audited = flow.class == FlowClass::Unenforced;
            match answer {
                Answer::Allow {
                    rule,
                    untracked: true,
                } => Some((FlowClass::Untracked, Some(rule.id.clone()))),
                Answer::Allow { rule, .. } if audited => {
                    Some((FlowClass::Tracked, Some(rule.id.clone())))
                }
                Answer::Unenforced if audited => Some((FlowClass::Unenforced, None)),
                _ => None,
            }
        });
        let Some((class, rule)) = went_on else {
            self.flows.flows.remove(key);
            self.admitted.remove(key);
            return;
        };
        self.flows.flows.get_mut(key).unwrap().new.class = class;
        let admitted = self.admitted.get_mut(key).unwrap();
        (admitted.generation, admitted.rule) = (self.generation, rule);
    }

    fn ruling(&self, seat: &Seat, packet: &IpPacket) -> Option<Ruling> {
        let direction = seat.direction;
        let ask = |direction, is_reply| {
            let question = question(packet, direction, is_reply);
            decide(&self.policy, &seat.interface, direction, &question)
        };
        let ruling = |class, rule: Option<RuleId>| {
            Some(Ruling {
                class,
                rule,
                is_opener: true,
            })
        };
        let answer = ask(direction, false);
        if let Answer::Allow {
            rule,
            untracked: true,
        } = answer
        {
            return ruling(FlowClass::Untracked, Some(rule.id.clone()));
        }
        let may_reply = match packet.transport {
            Transport::Tcp(ref tcp) => !tcp.flags.is_open(),
            Transport::Udp { .. } => true,
            _ => false,
        };
        if may_reply
            && let Answer::Allow {
                rule,
                untracked: true,
            } = ask(direction.reversed(), true)
        {
            assert!(
                matches!(answer, Answer::Allow { .. }),
                "the other way is open"
            );
            return Some(Ruling {
                class: FlowClass::Untracked,
                rule: Some(rule.id.clone()),
                is_opener: false,
            });
        }
        match answer {
            Answer::Allow { rule, .. } => ruling(FlowClass::Tracked, Some(rule.id.clone())),
            Answer::Unenforced => ruling(FlowClass::Unenforced, None),
            Answer::Deny => None,
        }
    }
}

impl Seat {
    fn at(&self, verdict: Verdict, rule: Option<RuleId>) -> Expected {
        Expected {
            verdict,
            interface: Some(self.interface.id.clone()),
            direction: Some(self.direction),
            rule,
        }
    }

    fn refused(&self, reason: DropReason) -> Expected {
        self.at(Verdict::Drop(reason), None)
    }

    fn passed(&self, ruling: Ruling) -> Expected {
        let reason = match ruling.class {
            FlowClass::Tracked => PassReason::Rule,
            FlowClass::Untracked => PassReason::Untracked,
            FlowClass::Unenforced => PassReason::Unenforced,
        };
        self.at(Verdict::Pass(reason), ruling.rule)
    }
}

/// What a packet asks, or as a reply the packet that it answers. `direction` is the asker's.
fn question(packet: &IpPacket, direction: Direction, is_reply: bool) -> Question {
    let (source, destination) = (packet.addresses.source(), packet.addresses.destination());
    let remote = match (direction, is_reply) {
        (Direction::Ingress, false) | (Direction::Egress, true) => source,
        (Direction::Egress, false) | (Direction::Ingress, true) => destination,
    };
    let service = match packet.transport {
        Transport::Tcp(ref tcp) if is_reply => tcp.source_port,
        Transport::Tcp(ref tcp) => tcp.destination_port,
        Transport::Udp { source_port, .. } if is_reply => source_port,
        Transport::Udp {
            destination_port, ..
        } => destination_port,
        Transport::Icmp { kind, code, .. } => u16::from(kind) * 256 + u16::from(code),
        Transport::Other => 0,
    };
    debug_assert!(
        packet.protocol != protocol::TCP || matches!(packet.transport, Transport::Tcp(_))
    );
    Question {
        remote,
        protocol: packet.protocol,
        service,
    }
}

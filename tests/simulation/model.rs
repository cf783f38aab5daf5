//! What may become of a frame: the exemptions, the rules in force, and a plain map of connections
//! that rules admitted. It knows more connections than the gateway (none is evicted or closed
//! here), so where one is known there are several right answers; where none is, there is one.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::packet::{
    Address, ArpPacket, End, FlowKey, Fragment, IpPacket, Parsed, Transport, parse, parse_quoted,
};
use portcullis::pipeline::{IcmpErrors, OnRuleRemoved, Unregistered};
use portcullis::snapshot::Question;
use portcullis::types::{Direction, DropReason, Generation, LinkId, PassReason, PortSide, Verdict};

use crate::exempt::{Exempt, Exemption};
use crate::pieces::First;
use crate::quota::Quota;
use crate::rules::{Answer, Owner, Version};

/// Now and the deadline are kept to 2^24 ns each.
const SLACK: Duration = Duration::from_nanos(2 << 24);

/// What rules and flags say of a packet in mid-stream where only a SYN opens.
const REFUSED: Verdict = Verdict::Drop(DropReason::Invalid);

/// What becomes of a later piece whose first one has no connection and needs one.
const NO_FIRST: Verdict = Verdict::Drop(DropReason::Fragment);

/// A set of verdicts.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdicts(u64);

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passes = PassReason::ALL.iter().map(|&reason| Verdict::Pass(reason));
        let drops = DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason));
        let all = passes.chain(drops).filter(|&verdict| self.has(verdict));
        f.debug_set().entries(all).finish()
    }
}

impl Verdicts {
    fn bit(verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Pass(reason) => 1 << reason.index(),
            Verdict::Drop(reason) => 1 << (32 + reason.index()),
        }
    }

    pub(crate) fn pass(reason: PassReason) -> Self {
        Self(Self::bit(Verdict::Pass(reason)))
    }

    pub(crate) fn drop(reason: DropReason) -> Self {
        Self(Self::bit(Verdict::Drop(reason)))
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn has(self, verdict: Verdict) -> bool {
        self.0 & Self::bit(verdict) != 0
    }

    pub(crate) fn is_only(self, verdict: Verdict) -> bool {
        self.0 == Self::bit(verdict)
    }

    pub(crate) fn may_pass(self) -> bool {
        self.0 & 0xffff_ffff != 0
    }
}

/// What one frame is, and how it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) link: usize,
    pub(crate) side: PortSide,
    pub(crate) bytes: &'a [u8],
}

impl Seen<'_> {
    pub(crate) fn parsed(&self) -> Parsed {
        parse(self.bytes, self.bytes.len())
    }

    pub(crate) fn link_id(&self) -> LinkId {
        LinkId(u8::try_from(self.link).unwrap())
    }

    /// The packet that an ICMP error is about, its key, and who sent it.
    pub(crate) fn quoted(&self, errors: IcmpErrors) -> Option<(IpPacket, FlowKey, End)> {
        if errors == IcmpErrors::Rules {
            return None;
        }
        let packet = parse_quoted(self.bytes, self.bytes.len())?;
        let (key, from) = FlowKey::of(self.link_id(), &packet)?;
        Some((packet, key, from))
    }
}

/// What the configuration says, as far as the model has to know.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// By link.
    pub(crate) unregistered: Vec<Unregistered>,
    pub(crate) exempt: Exempt,
    pub(crate) is_syn_only: bool,
    pub(crate) icmp_errors: IcmpErrors,
    pub(crate) on_rule_removed: OnRuleRemoved,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    /// Which end is inside.
    inside: End,
    /// Why it was admitted, or went on.
    answer: Answer,
    /// The interface's number.
    serial: u64,
    /// What the packet that opened it asked.
    asked: (Direction, Question),
    /// The policy that it was last held against.
    generation: Generation,
    last: Tick,
    /// Packets of each end.
    packets: [u64; 2],
    /// TCP: begun by anything but a SYN.
    is_midstream: bool,
}

impl Connection {
    /// Whether two are one to the table, but for when.
    fn is_like(&self, other: &Self) -> bool {
        self.inside == other.inside
            && self.answer == other.answer
            && self.serial == other.serial
            && self.asked == other.asked
    }

    /// Why its packets pass.
    fn reason(&self) -> PassReason {
        match self.answer {
            Answer::Untracked => PassReason::Untracked,
            Answer::Unenforced => PassReason::Unenforced,
            Answer::Tracked | Answer::No => PassReason::Tracked,
        }
    }

    /// The longest that it may live without a packet.
    fn timeout(&self) -> Duration {
        let is_answered = self.packets.iter().all(|&count| count >= 1);
        let seconds = match self.asked.1.protocol {
            6 if is_answered || self.is_midstream => 350,
            6 => 30,
            17 if self.packets.iter().all(|&count| count >= 2) => 180,
            17 | 1 | 58 => 30,
            _ => 600,
        };
        Duration::from_secs(seconds)
    }
}

#[derive(Debug)]
pub(crate) struct Model {
    manners: Manners,
    quota: Quota,
    /// Of the connections that a key may have had the table has one; the model need not know
    /// which.
    connections: HashMap<FlowKey, Vec<Connection>>,
}

/// What the rules say of a packet, and the connection that they admit by it, with the interface's
/// name.
type Ruling = (Verdicts, Option<(String, Connection)>);

impl Model {
    pub(crate) fn new(manners: Manners, quota: Quota) -> Self {
        Self {
            manners,
            quota,
            connections: HashMap::new(),
        }
    }

    /// The verdicts that are right for a whole frame that `worker` judges now; learns from it.
    pub(crate) fn judge(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        worker: usize,
        now: Tick,
    ) -> Verdicts {
        let exempt = &self.manners.exempt;
        match seen.parsed() {
            Parsed::Malformed(_) => Verdicts::drop(DropReason::Malformed),
            Parsed::NotIp { ethertype } if exempt.ethertypes.contains(&ethertype) => {
                Verdicts::pass(PassReason::Exempt)
            }
            Parsed::NotIp { .. } => Verdicts::drop(DropReason::NotIp),
            Parsed::Arp(arp) => self.arp(version, seen, &arp),
            Parsed::Ip(packet) => match exempt.exemption(&packet, seen.side) {
                Exemption::Yes => Verdicts::pass(PassReason::Exempt),
                Exemption::For(address) => self.speaks_for(version, seen, &packet, address),
                Exemption::No => {
                    let flow = FlowKey::of(seen.link_id(), &packet);
                    self.packet(version, seen, &packet, flow, (worker, now))
                }
            },
        }
    }

    /// The same for a piece of a datagram whose first piece is known.
    pub(crate) fn judge_piece(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        first: &First,
        worker: usize,
        now: Tick,
    ) -> Verdicts {
        let Parsed::Ip(piece) = seen.parsed() else {
            panic!("no piece of anything");
        };
        let packet = first.complete(&piece);
        if self.manners.exempt.has_port(&packet, seen.side) {
            return Verdicts::pass(PassReason::Exempt);
        }
        self.packet(version, seen, &packet, first.flow, (worker, now))
    }

    /// The piece of a datagram that a frame is, unless it is exempt.
    pub(crate) fn piece(&self, seen: Seen<'_>) -> Option<IpPacket> {
        let Parsed::Ip(packet) = seen.parsed() else {
            return None;
        };
        let is_piece = packet.fragment != Fragment::Whole && !self.is_exempt(&packet, seen.side);
        is_piece.then_some(packet)
    }

    /// Whether a packet passes whatever the policy is.
    pub(crate) fn is_exempt(&self, packet: &IpPacket, side: PortSide) -> bool {
        matches!(self.manners.exempt.exemption(packet, side), Exemption::Yes)
    }

    fn packet(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        packet: &IpPacket,
        flow: Option<(FlowKey, End)>,
        (worker, now): (usize, Tick),
    ) -> Verdicts {
        let (mut by_rules, mut opens) = self.rules(version, seen, packet, now);
        let Some((key, from)) = flow else {
            return match packet.fragment {
                Fragment::Whole => by_rules.or(self.related(version, seen, packet, by_rules, now)),
                _ => by_rules,
            };
        };
        if let Fragment::Later { .. } = packet.fragment
            && let Some((_, opened)) = opens.take()
            && opened.answer == Answer::Tracked
        {
            // The first one would have opened the connection, and had no room or was refused.
            by_rules = Verdicts::drop(DropReason::Fragment);
        }
        let inside = match seen.side {
            PortSide::Inside => from,
            PortSide::Outside => from.opposite(),
        };
        let mut verdicts = by_rules;
        for known in self.known(version, seen, &key, now) {
            if known.inside == inside {
                known.last = now;
                known.packets[usize::from(from == End::High)] += 1;
                let hit = Verdicts::pass(known.reason()).or(Verdicts::drop(DropReason::Invalid));
                verdicts = verdicts.or(hit);
            } else if by_rules.is_only(REFUSED) || by_rules.is_only(NO_FIRST) {
                // On the wrong side of a flow it is judged by the rules alone, not by its flags.
                verdicts = verdicts.or(Verdicts::pass(PassReason::Rule));
            }
        }
        if let Some((interface, mut opened)) = opens {
            let refusals = self.quota.open(worker, &interface, key, now);
            if opened.answer == Answer::Tracked {
                verdicts = verdicts.or(refusals);
            }
            opened.inside = inside;
            opened.packets[usize::from(from == End::High)] = 1;
            let known = self.connections.entry(key).or_default();
            // What is known already may live longer than what begins anew.
            match known.iter_mut().find(|known| known.is_like(&opened)) {
                Some(known) => known.is_midstream |= opened.is_midstream,
                None => known.push(opened),
            }
        }
        verdicts
    }

    /// The connections of a key that may still be in the gateway's table, held against the rules
    /// in force as the table holds them: when a packet asks for them.
    fn known(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        key: &FlowKey,
        now: Tick,
    ) -> &mut [Connection] {
        let keeps = self.manners.on_rule_removed == OnRuleRemoved::Keep;
        let Some(connections) = self.connections.get_mut(key) else {
            return &mut [];
        };
        connections.retain_mut(|known| {
            if now.since(known.last) > known.timeout() + SLACK {
                return false;
            }
            if known.generation == version.generation {
                return true;
            }
            let (inside, _) = key.end(known.inside);
            let Some((interface, _)) = version.owner(seen.link, key.vlan, inside) else {
                return false;
            };
            known.generation = version.generation;
            if known.answer == Answer::Tracked && keeps {
                return true;
            }
            let (direction, question) = known.asked;
            let answer = version.ask(interface, direction, &question);
            let was = std::mem::replace(&mut known.answer, answer);
            answer == Answer::Untracked || answer != Answer::No && was != Answer::Untracked
        });
        connections
    }

    /// The rules alone.
    fn rules(&self, version: &Version, seen: Seen<'_>, packet: &IpPacket, now: Tick) -> Ruling {
        let source = packet.addresses.source();
        let destination = packet.addresses.destination();
        let owner_of = |address| version.owner(seen.link, packet.vlan, address);
        if seen.side == PortSide::Outside && owner_of(source).is_some() {
            return (Verdicts::drop(DropReason::Spoofed), None);
        }
        let (owner, direction) = match seen.side {
            PortSide::Inside => (owner_of(source), Direction::Egress),
            PortSide::Outside => (owner_of(destination), Direction::Ingress),
        };
        let Some(owner) = owner else {
            let verdicts = match self.manners.unregistered[seen.link] {
                Unregistered::Pass => Verdicts::pass(PassReason::Unregistered),
                Unregistered::Drop => Verdicts::drop(DropReason::Unregistered),
            };
            return (verdicts, None);
        };
        let (verdicts, opens) = self.rules_of(version, owner, direction, packet, now);
        // Both ends registered here: nothing that comes back is a reply.
        let is_local = seen.side == PortSide::Inside && owner_of(destination).is_some();
        (verdicts, opens.filter(|_| !is_local))
    }

    /// The rules of an interface.
    fn rules_of(
        &self,
        version: &Version,
        (interface, serial): Owner<'_>,
        direction: Direction,
        packet: &IpPacket,
        now: Tick,
    ) -> Ruling {
        let remote = match direction {
            Direction::Egress => packet.addresses.destination(),
            Direction::Ingress => packet.addresses.source(),
        };
        let (from, to) = services(packet);
        let question = Question {
            remote,
            protocol: packet.protocol,
            service: to,
        };
        let asked = (direction, question);
        let mut is_reply = false;
        let mut answer = version.ask(interface, direction, &question);
        let is_syn = matches!(packet.transport, Transport::Tcp(tcp) if tcp.flags.is_open());
        if answer == Answer::Tracked && matches!(packet.protocol, 6 | 17) && !is_syn {
            // The reply of a flow that is not tracked: judged as what it replies to.
            let opener = Question {
                service: from,
                ..question
            };
            if version.ask(interface, direction.reversed(), &opener) == Answer::Untracked {
                answer = Answer::Untracked;
                is_reply = true;
            }
        }
        let reason = match answer {
            Answer::Tracked => PassReason::Rule,
            Answer::Untracked => PassReason::Untracked,
            Answer::Unenforced => PassReason::Unenforced,
            Answer::No => return (Verdicts::drop(DropReason::NoRule), None),
        };
        let connection = Connection {
            inside: End::Low,
            answer,
            serial,
            asked,
            generation: version.generation,
            last: now,
            packets: [0; 2],
            is_midstream: !is_syn,
        };
        match (admission(packet, self.manners.is_syn_only), answer) {
            (Admission::Opens, _) => (
                Verdicts::pass(reason),
                (!is_reply).then(|| (interface.id.to_string(), connection)),
            ),
            (Admission::Refused, Answer::Tracked) => (Verdicts::drop(DropReason::Invalid), None),
            (Admission::Passes | Admission::Refused, _) => (Verdicts::pass(reason), None),
        }
    }

    /// Whether an ICMP error may pass for the packet that it quotes.
    fn related(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        packet: &IpPacket,
        by_rules: Verdicts,
        now: Tick,
    ) -> Verdicts {
        let (nothing, related) = (Verdicts::default(), Verdicts::pass(PassReason::Related));
        let Some((quoted, key, from)) = seen.quoted(self.manners.icmp_errors) else {
            return nothing;
        };
        let has_interface = ![
            Verdict::Drop(DropReason::Spoofed),
            Verdict::Drop(DropReason::Unregistered),
            Verdict::Pass(PassReason::Unregistered),
        ]
        .iter()
        .any(|&verdict| by_rules.has(verdict));
        if !has_interface || packet.addresses.destination() != quoted.addresses.source() {
            return nothing;
        }
        let (inside, address, direction) = match seen.side {
            PortSide::Outside => (from, quoted.addresses.source(), Direction::Egress),
            PortSide::Inside => {
                let address = quoted.addresses.destination();
                (from.opposite(), address, Direction::Ingress)
            }
        };
        let mut known = self.known(version, seen, &key, now).iter();
        if known.any(|known| known.inside == inside) {
            return related;
        }
        let owner = version.owner(seen.link, quoted.vlan, address);
        let verdicts = owner.map(|owner| self.rules_of(version, owner, direction, &quoted, now).0);
        match verdicts.is_some_and(|verdicts| verdicts.has(Verdict::Pass(PassReason::Untracked))) {
            true => related,
            false => nothing,
        }
    }

    fn arp(&self, version: &Version, seen: Seen<'_>, arp: &ArpPacket) -> Verdicts {
        let announces = arp.operation == 2 || arp.sender != 0 && arp.sender == arp.target;
        let is_link_local = arp.sender >> 16 == 0xa9fe;
        let is_owned = |address| version.owner(seen.link, arp.vlan, address).is_some();
        let is_foreign = self.manners.unregistered[seen.link] == Unregistered::Drop
            && !is_owned(Address::V4(arp.sender));
        if seen.side == PortSide::Inside && announces && !is_link_local && is_foreign {
            return Verdicts::drop(DropReason::Spoofed);
        }
        Verdicts::pass(PassReason::Exempt)
    }

    fn speaks_for(
        &self,
        version: &Version,
        seen: Seen<'_>,
        packet: &IpPacket,
        address: Address,
    ) -> Verdicts {
        let owner: Option<Owner<'_>> = version.owner(seen.link, packet.vlan, address);
        if owner.is_some() || self.manners.unregistered[seen.link] == Unregistered::Pass {
            return Verdicts::pass(PassReason::Exempt);
        }
        Verdicts::drop(DropReason::Spoofed)
    }

    /// A policy comes into force: connections end with the interface or the address that they were
    /// of, and with a far end that is registered from now on, whether a packet asks or not.
    pub(crate) fn publish(&mut self, version: &Version) {
        self.connections.retain(|key, known| {
            let owner = |end| version.owner(key.link.index(), key.vlan, key.end(end).0);
            known.retain(|known| {
                let is_same = owner(known.inside).is_some_and(|(_, serial)| serial == known.serial);
                is_same && owner(known.inside.opposite()).is_none()
            });
            !known.is_empty()
        });
    }

    /// Whether the table may have a connection of this key.
    pub(crate) fn may_have(&self, key: &FlowKey) -> bool {
        self.connections.contains_key(key)
    }

    /// Forgets those that cannot be alive any more.
    pub(crate) fn forget(&mut self, now: Tick) {
        let lives = |known: &Connection| now.since(known.last) <= known.timeout() + SLACK;
        self.connections.retain(|_, known| {
            known.retain(lives);
            !known.is_empty()
        });
    }
}

/// What the rules are asked about: the source's and the destination's.
fn services(packet: &IpPacket) -> (u16, u16) {
    match packet.transport {
        Transport::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
        Transport::Udp {
            source_port,
            destination_port,
        } => (source_port, destination_port),
        Transport::Icmp { kind, code, .. } => (0, u16::from_be_bytes([kind, code])),
        Transport::Other => (0, 0),
    }
}

enum Admission {
    Opens,
    Passes,
    Refused,
}

fn admission(packet: &IpPacket, is_syn_only: bool) -> Admission {
    match packet.transport {
        Transport::Tcp(tcp) if tcp.flags.is_open() => Admission::Opens,
        Transport::Tcp(_) if is_syn_only => Admission::Refused,
        Transport::Tcp(tcp) => {
            let flags = tcp.flags;
            match flags.ack() && !flags.rst() && !(flags.syn() && flags.fin()) {
                true => Admission::Opens,
                false => Admission::Passes,
            }
        }
        Transport::Icmp { kind, .. } => match (packet.protocol, kind) {
            (1, 8 | 13) | (58, 128) => Admission::Opens,
            _ => Admission::Passes,
        },
        Transport::Udp { .. } | Transport::Other => Admission::Opens,
    }
}

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
use portcullis::pipeline::Unregistered;
use portcullis::snapshot::Question;
use portcullis::types::{Direction, DropReason, LinkId, PassReason, PortSide, Verdict};

use crate::rules::{Answer, Owner, Version};

/// Deadlines are kept to about two milliseconds.
const SLACK: Duration = Duration::from_millis(5);

/// Why a connection may be admitted, and why its packets then pass.
const ADMITTED: [(Answer, PassReason); 3] = [
    (Answer::Tracked, PassReason::Tracked),
    (Answer::Untracked, PassReason::Untracked),
    (Answer::Unenforced, PassReason::Unenforced),
];
/// What rules and flags say of a packet in mid-stream where only a SYN opens.
const REFUSED: Verdict = Verdict::Drop(DropReason::Invalid);

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

    fn pass(reason: PassReason) -> Self {
        Self(Self::bit(Verdict::Pass(reason)))
    }

    fn drop(reason: DropReason) -> Self {
        Self(Self::bit(Verdict::Drop(reason)))
    }

    fn or(self, other: Self) -> Self {
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
}

/// What the configuration says, as far as the model has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) unregistered: Unregistered,
    pub(crate) is_syn_only: bool,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    answer: Answer,
    /// The interface's number.
    serial: u64,
    /// What the packet that opened it asked, to be asked again of a flow that is not tracked.
    asked: (Direction, Question),
    last: Tick,
    /// Packets of each end.
    packets: [u64; 2],
    /// TCP: begun by anything but a SYN.
    is_midstream: bool,
}

impl Connection {
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

/// A connection is known by its key, by which end is inside, and by why it was admitted: of the
/// connections that one key may have had, the table has one, and the model need not know which.
type Name = (FlowKey, End, Answer);

#[derive(Debug)]
pub(crate) struct Model {
    manners: Manners,
    connections: HashMap<Name, Connection>,
}

/// What the rules say of a packet, and the connection that they admit by it.
type Ruling = (Verdicts, Option<Connection>);

impl Model {
    pub(crate) fn new(manners: Manners) -> Self {
        Self {
            manners,
            connections: HashMap::new(),
        }
    }

    /// The verdicts that are right for a frame that is judged now; learns from it.
    pub(crate) fn judge(&mut self, version: &Version, seen: Seen<'_>, now: Tick) -> Verdicts {
        match seen.parsed() {
            Parsed::Malformed(_) => Verdicts::drop(DropReason::Malformed),
            Parsed::NotIp { .. } => Verdicts::drop(DropReason::NotIp),
            Parsed::Arp(arp) => self.arp(version, seen, &arp),
            Parsed::Ip(packet) => match exemption(&packet, seen.side) {
                Exemption::Yes => Verdicts::pass(PassReason::Exempt),
                Exemption::For(address) => self.speaks_for(version, seen, &packet, address),
                Exemption::No => self.packet(version, seen, &packet, now),
            },
        }
    }

    fn packet(
        &mut self,
        version: &Version,
        seen: Seen<'_>,
        packet: &IpPacket,
        now: Tick,
    ) -> Verdicts {
        let (by_rules, opens) = self.rules(version, seen, packet, now);
        let Some((key, from)) = FlowKey::of(seen.link_id(), packet) else {
            let related = self.related(version, seen, now);
            return by_rules.or(related);
        };
        let inside = match seen.side {
            PortSide::Inside => from,
            PortSide::Outside => from.opposite(),
        };
        let mut verdicts = by_rules;
        for (answer, reason) in ADMITTED {
            let name = (key, inside, answer);
            if self.is_alive(version, seen, &name, now) {
                let known = self.connections.get_mut(&name).unwrap();
                known.last = now;
                known.packets[usize::from(from == End::High)] += 1;
                let hit = Verdicts::pass(reason).or(Verdicts::drop(DropReason::Invalid));
                verdicts = verdicts.or(hit);
            } else {
                // Ended by its time, or by this packet: the table asks who owns the address at a
                // flow's next packet, not before.
                self.connections.remove(&name);
            }
            // On the wrong side of a flow it is judged by the rules alone, not by its flags.
            let reversed = (key, inside.opposite(), answer);
            if by_rules.is_only(REFUSED) && self.is_alive(version, seen, &reversed, now) {
                verdicts = verdicts.or(Verdicts::pass(PassReason::Rule));
            }
        }
        if let Some(mut opened) = opens {
            if opened.answer == Answer::Tracked {
                verdicts = verdicts.or(Verdicts::drop(DropReason::TableFull));
            }
            opened.packets[usize::from(from == End::High)] = 1;
            // What is known already may live longer than what begins anew.
            self.connections
                .entry((key, inside, opened.answer))
                .or_insert(opened);
        }
        verdicts
    }

    /// Whether a connection may still be in the gateway's table, and be found there.
    fn is_alive(&self, version: &Version, seen: Seen<'_>, name: &Name, now: Tick) -> bool {
        let Some(known) = self.connections.get(name) else {
            return false;
        };
        let (address, _) = name.0.end(name.1);
        let owner = version.owner(seen.link, name.0.vlan, address);
        now.since(known.last) <= known.timeout() + SLACK
            && owner.is_some_and(|(_, serial)| serial == known.serial)
            && owner.is_some_and(|(interface, _)| {
                let (direction, question) = known.asked;
                known.answer == Answer::Tracked
                    || version.ask(interface, direction, &question) == known.answer
            })
    }

    /// The rules alone.
    fn rules(&self, version: &Version, seen: Seen<'_>, packet: &IpPacket, now: Tick) -> Ruling {
        let source = packet.addresses.source();
        let destination = packet.addresses.destination();
        let owner_of = |address| version.owner(seen.link, packet.vlan, address);
        let (owner, direction, remote) = match seen.side {
            PortSide::Inside => (owner_of(source), Direction::Egress, destination),
            PortSide::Outside => {
                if owner_of(source).is_some() {
                    return (Verdicts::drop(DropReason::Spoofed), None);
                }
                (owner_of(destination), Direction::Ingress, source)
            }
        };
        let Some((interface, serial)) = owner else {
            let verdicts = match self.manners.unregistered {
                Unregistered::Pass => Verdicts::pass(PassReason::Unregistered),
                Unregistered::Drop => Verdicts::drop(DropReason::Unregistered),
            };
            return (verdicts, None);
        };
        let (from, to) = services(packet);
        let question = Question {
            remote,
            protocol: packet.protocol,
            service: to,
        };
        let mut asked = (direction, question);
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
                asked = (direction.reversed(), opener);
            }
        }
        let reason = match answer {
            Answer::Tracked => PassReason::Rule,
            Answer::Untracked => PassReason::Untracked,
            Answer::Unenforced => PassReason::Unenforced,
            Answer::No => return (Verdicts::drop(DropReason::NoRule), None),
        };
        let connection = Connection {
            answer,
            serial,
            asked,
            last: now,
            packets: [0; 2],
            is_midstream: !is_syn,
        };
        match (admission(packet, self.manners.is_syn_only), answer) {
            (Admission::Opens, _) => (Verdicts::pass(reason), Some(connection)),
            (Admission::Refused, Answer::Tracked) => (Verdicts::drop(DropReason::Invalid), None),
            (Admission::Passes | Admission::Refused, _) => (Verdicts::pass(reason), None),
        }
    }

    /// Whether an ICMP error may pass for the packet that it quotes.
    fn related(&self, version: &Version, seen: Seen<'_>, now: Tick) -> Verdicts {
        let quoted = parse_quoted(seen.bytes, seen.bytes.len());
        let key = quoted.and_then(|quoted| FlowKey::of(seen.link_id(), &quoted));
        let is_known = key.is_some_and(|(key, _)| {
            [End::Low, End::High].iter().any(|&inside| {
                ADMITTED
                    .iter()
                    .any(|&(answer, _)| self.is_alive(version, seen, &(key, inside, answer), now))
            })
        });
        match is_known {
            true => Verdicts::pass(PassReason::Related),
            false => Verdicts::default(),
        }
    }

    fn arp(&self, version: &Version, seen: Seen<'_>, arp: &ArpPacket) -> Verdicts {
        let announces = arp.operation == 2 || arp.sender != 0 && arp.sender == arp.target;
        let is_link_local = arp.sender >> 16 == 0xa9fe;
        let is_owned = |address| version.owner(seen.link, arp.vlan, address).is_some();
        let is_foreign =
            self.manners.unregistered == Unregistered::Drop && !is_owned(Address::V4(arp.sender));
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
        if owner.is_some() || self.manners.unregistered == Unregistered::Pass {
            return Verdicts::pass(PassReason::Exempt);
        }
        Verdicts::drop(DropReason::Spoofed)
    }

    /// Forgets those that cannot be alive any more.
    pub(crate) fn forget(&mut self, now: Tick) {
        self.connections
            .retain(|_, known| now.since(known.last) <= known.timeout() + SLACK);
    }
}

/// Whether a packet passes whatever the policy is.
pub(crate) fn is_exempt(packet: &IpPacket, side: PortSide) -> bool {
    matches!(exemption(packet, side), Exemption::Yes)
}

enum Exemption {
    Yes,
    For(Address),
    No,
}

/// semantics.md, "Never filtered", without a list.
fn exemption(packet: &IpPacket, side: PortSide) -> Exemption {
    let is_v4 = matches!(packet.addresses.source(), Address::V4(_));
    let is_outside = side == PortSide::Outside;
    if packet.protocol == 2 && is_v4 {
        return Exemption::Yes;
    }
    if packet.fragment != Fragment::Whole {
        return Exemption::No;
    }
    match packet.transport {
        Transport::Udp {
            source_port,
            destination_port,
        } => {
            let (client, server) = if is_v4 { (68, 67) } else { (546, 547) };
            let expected = match side {
                PortSide::Inside => (client, server),
                PortSide::Outside => (server, client),
            };
            match (source_port, destination_port) == expected {
                true => Exemption::Yes,
                false => Exemption::No,
            }
        }
        Transport::Icmp { kind, target, .. } if !is_v4 && packet.protocol == 58 => {
            match (kind, packet.hop_limit) {
                (130..=132 | 143, _) | (133 | 135, 255) => Exemption::Yes,
                (134 | 137, 255) if is_outside => Exemption::Yes,
                (136, 255) if is_outside => Exemption::Yes,
                (136, 255) => match target {
                    Some(target) if target >> 118 == 0x3fa => Exemption::Yes,
                    Some(target) => Exemption::For(Address::V6(target)),
                    None => Exemption::No,
                },
                _ => Exemption::No,
            }
        }
        _ => Exemption::No,
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

//! Random packets of a tiny universe under changing policies, through the pipeline and through the
//! oracle. A failure tells the last steps and becomes a file of tests/regressions/pipeline, as
//! short as it can be made, which is run again from then on (story.rs). `SEED=n` runs another
//! world, `SEEDS=n` so many from it on.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::draft::{Draft, INSIDE, OUTSIDE, Random};
use super::oracle::{Expected, Oracle};
use super::story::{Event, Story, run};
use super::*;
use crate::conntrack::TcpPickup;
use crate::packet::{FlowKey, Parsed, TcpFlags, parse};
use crate::policy::Policy;
use crate::snapshot::FlowSeat;
use crate::types::{InterfaceId, InterfaceSlot, RuleId, RuleSlot};

const WORLDS: u64 = 250;
pub(super) const STEPS: u32 = 300;
const LINKS: [&str; 2] = ["a", "b"];
/// Time goes in the units of the shard's timers, so that what is dead is also gone.
const UNIT: u64 = 1 << 28;

/// A flow of packets: one of the opener, without flags and numbers, and where it comes in.
#[derive(Clone)]
struct Talk {
    frame: FrameBuilder,
    is_tcp: bool,
    link: LinkId,
    side: PortSide,
}

/// What happened, told when something goes wrong.
enum Step {
    Apply(Policy),
    Wait(u64),
    Packet(Arrival, Parsed),
}

pub(super) struct RandomWorld {
    random: Random,
    draft: Draft,
    compiler: Compiler,
    snapshot: Snapshot,
    config: PipelineConfig,
    steering: Steering,
    shards: Vec<Shard>,
    /// Whether the shards have no flow that has lost its address.
    is_weeded: bool,
    /// Whether frames may be fragments now.
    fragments: bool,
    /// Ids of fragmented datagrams given out.
    datagrams: u32,
    batch: Batch,
    oracle: Oracle,
    now: Tick,
    rules: HashMap<RuleSlot, RuleId>,
    interfaces: HashMap<InterfaceSlot, InterfaceId>,
    /// Flows that most packets are of.
    talks: Vec<Talk>,
    /// What happened.
    pub(super) story: Story,
    trace: Vec<Step>,
    /// How often each verdict was given.
    pub(super) seen: HashMap<Verdict, u32>,
}

/// Whether a packet is of the flow of another.
fn same_flow((bytes, arrival): &(Vec<u8>, Arrival), parsed: &Parsed, other: Arrival) -> bool {
    let key = |parsed: &Parsed, arrival: Arrival| match parsed {
        Parsed::Ip(packet) => crate::packet::FlowKey::of(arrival.link, packet).map(|(key, _)| key),
        _ => None,
    };
    let this = key(&parse(bytes, bytes.len()), *arrival);
    this.is_some() && this == key(parsed, other)
}

/// A worker, and how a packet comes to it.
type Way = (WorkerId, Origin);

impl RandomWorld {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let workers = if seed.is_multiple_of(3) { 2 } else { 1 };
        let is_small = workers == 1 && seed.is_multiple_of(4);
        let shard = ShardConfig {
            tcp_pickup: random.pick(&[TcpPickup::Rules, TcpPickup::Rules, TcpPickup::SynOnly]),
            tcp_strict: random.one_in(3),
            ..ShardConfig::new(if is_small { 1 } else { 100 }, [seed, 2])
        };
        let now = Tick(UNIT * 8);
        let exempt_port = ExemptPort {
            protocol: random.pick(&[PortProtocol::Tcp, PortProtocol::Udp]),
            port: 123,
        };
        let service = IpNet::from("169.254.169.254".parse::<std::net::IpAddr>().unwrap());
        let oracle = Oracle::new(&shard, service.addr().into(), exempt_port);
        let draft = Draft::new(&mut random);
        // Entries hold the low half of a generation.
        let generation = Generation((7 << 32) - 1 - seed % 3);
        let mut world = Self {
            random,
            draft,
            compiler: Compiler::new(),
            snapshot: Snapshot::empty(generation),
            config: PipelineConfig {
                icmp_errors: IcmpErrors::Rules,
                on_rule_removed: OnRuleRemoved::Keep,
                links: oracle
                    .unregistered
                    .map(|unregistered| LinkRules { unregistered })
                    .into(),
                exempt: ExemptRules::new(vec![service], vec![exempt_port], vec![]),
            },
            steering: Steering::new([seed, 3], workers),
            shards: (0..workers).map(|_| Shard::new(&shard, now)).collect(),
            is_weeded: true,
            fragments: true,
            datagrams: 0,
            batch: Batch::default(),
            oracle,
            now,
            rules: HashMap::new(),
            interfaces: HashMap::new(),
            talks: Vec::new(),
            story: Story {
                seed,
                events: Vec::new(),
            },
            trace: Vec::new(),
            seen: HashMap::new(),
        };
        for _ in 0..5 {
            let talk = world.talk();
            world.talks.push(talk);
        }
        world
    }

    /// Puts the draft in force; changes it until it is a policy.
    pub(super) fn apply(&mut self) {
        let generation = self.snapshot.generation().next();
        let policy = loop {
            let policy = self.draft.policy();
            match Compiler::new().compile(&policy, &LINKS, generation) {
                Ok(_) => break policy,
                // Two interfaces may not own one prefix.
                Err(_) => {
                    let at = self.random.pick(&[0, 1, 2, 3]);
                    self.draft.change_interface(&mut self.random, at);
                }
            }
        };
        self.happen(Event::Apply(policy));
    }

    /// What happens, on both; `false` where what there is to compare cannot be told.
    pub(super) fn happen(&mut self, event: Event) -> bool {
        self.story.events.push(event.clone());
        match event {
            Event::Apply(policy) => self.put_in_force(policy),
            Event::Wait(units) => {
                self.now = Tick(self.now.0 + UNIT * units);
                self.trace.push(Step::Wait(units));
            }
            Event::Frames(receiver, frames) => {
                let count = frames.len();
                // Who gave way to whom can be told for one packet at a time.
                if count > 1 && self.oracle.flows_count() + count > self.oracle.capacity {
                    return false;
                }
                self.compare(receiver, frames);
            }
        }
        true
    }

    fn put_in_force(&mut self, policy: Policy) {
        let generation = self.snapshot.generation().next();
        let snapshot = self.compiler.compile(&policy, &LINKS, generation);
        let snapshot = snapshot.expect("only policies are applied");
        self.trace.push(Step::Apply(policy.clone()));
        self.rules
            .extend(snapshot.rules().map(|rule| (rule.slot, rule.id.clone())));
        self.interfaces.extend(
            snapshot
                .interfaces()
                .map(|(_, info)| (info.slot, info.id.clone())),
        );
        self.snapshot = snapshot;
        self.oracle.apply(policy, generation);
        self.is_weeded = false;
        // Not the world's draws: stories tell those.
        if Random(generation.0).one_in(2) {
            self.return_slots();
        }
        if self.random.one_in(2) {
            self.weed();
        }
    }

    /// Lets others have the slots that no flow names: who is named must not be taken for them.
    fn return_slots(&mut self) {
        let (rules, interfaces) = self.compiler.slot_limits();
        let mut held = HeldSlots::new(rules, interfaces);
        for shard in &self.shards {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                cursor = shard.mark_held(from, 3, &mut held);
            }
        }
        let mut left = self.compiler.left_slots(self.snapshot.generation());
        left.rules.retain(|slot| !held.has_rule(*slot));
        left.interfaces.retain(|slot| !held.has_interface(*slot));
        self.compiler.release(&left);
    }

    /// One interface is another for no longer than it takes to publish two policies.
    fn blink(&mut self) {
        let before = self.draft.clone();
        let at = self.random.pick(&[0, 0, 1, 2, 3]);
        self.draft.change_interface(&mut self.random, at);
        self.apply();
        self.draft = before;
        self.apply();
    }

    /// Ends what has lost its address without waiting for its packets.
    fn weed(&mut self) {
        let slots = self.random.pick(&[1, 7, 1000]);
        for shard in &mut self.shards {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                cursor = shard.weed(from, slots, self.now, &mut |key, head| {
                    let seat = FlowSeat {
                        key,
                        inside: head.inside_end(),
                        interface: head.interface,
                        judged_low: head.generation_low,
                    };
                    self.snapshot.seat(&seat).is_some()
                });
            }
        }
        self.compiler.forget_changes(self.snapshot.generation());
        self.is_weeded = true;
    }

    fn shard_flows(&self) -> usize {
        self.shards.iter().map(|shard| shard.len() as usize).sum()
    }

    pub(super) fn step(&mut self) {
        match self.random.below(40) {
            0 => {
                let at = self.random.pick(&[0, 1, 2, 3, 4]);
                self.talks[at] = self.talk();
            }
            1 => match self.random.one_in(3) {
                true => self.blink(),
                false => {
                    self.draft.change(&mut self.random);
                    self.apply();
                }
            },
            2..=3 => {
                let units = self.random.pick(&[1, 1, 1, 40, 40, 120, 1400]);
                self.happen(Event::Wait(units));
            }
            _ => self.packets(),
        }
    }

    /// A batch of packets, mostly of one.
    fn packets(&mut self) {
        let mut count = self.random.pick(&[1, 1, 1, 2, 5]);
        // Who gave way to whom can be told for one packet at a time.
        if self.shard_flows() + count > self.oracle.capacity {
            count = 1;
            // Where the shard has more than the oracle, the one that gives way may be no loss.
            self.weed();
        }
        // A fragment takes a way of its own and may be overtaken by others of its flow.
        self.fragments = count == 1;
        let packet = |(bytes, arrival): (Vec<u8>, Arrival)| (arrival.link, arrival.side, bytes);
        let frames = (0..count).map(|_| packet(self.packet())).collect();
        let receiver = self.random.below(self.shards.len() as u64);
        self.happen(Event::Frames(usize::try_from(receiver).unwrap(), frames));
    }

    /// A batch, through the pipeline and through the oracle.
    fn compare(&mut self, receiver: usize, frames: Vec<(LinkId, PortSide, Vec<u8>)>) {
        let packet = |(link, side, bytes): (LinkId, PortSide, Vec<u8>)| {
            let original_len = u32::try_from(bytes.len()).unwrap();
            let arrival = Arrival {
                link,
                side,
                original_len,
            };
            (bytes, arrival)
        };
        let packets: Vec<_> = frames.into_iter().map(packet).collect();
        for shard in &mut self.shards {
            shard.expire(self.now);
        }
        self.oracle.expire(self.now);
        let outcomes = self.run(receiver, &packets);
        assert_eq!(outcomes.len(), packets.len(), "a packet is lost");
        for (index, ((bytes, arrival), outcome)) in packets.iter().zip(outcomes).enumerate() {
            let mut given = Expected {
                verdict: outcome.verdict,
                interface: outcome.interface.map(|slot| self.interfaces[&slot].clone()),
                direction: outcome.direction,
                rule: outcome.rule.map(|slot| self.rules[&slot].clone()),
            };
            let parsed = parse(bytes, bytes.len());
            self.trace.push(Step::Packet(*arrival, parsed));
            self.oracle.see(self.flows_there());
            let mut expected = self.oracle.judge(&parsed, *arrival, self.now);
            if packets[index + 1..]
                .iter()
                .any(|later| same_flow(later, &parsed, *arrival))
            {
                // The names come from the entry, which a later packet may have opened anew.
                (given.rule, expected.rule) = (None, None);
            }
            *self.seen.entry(given.verdict).or_default() += 1;
            assert_eq!(given, expected, "{}", self.story());
        }
        let (flows, expected) = (self.shard_flows(), self.oracle.flows_count());
        let is_right = flows == expected || flows > expected && !self.is_weeded;
        assert!(is_right, "{flows} flows, not {expected}: {}", self.story());
    }

    fn packet(&mut self) -> (Vec<u8>, Arrival) {
        let talk = match self.random.below(8) {
            0 => self.talk(),
            _ => self.random.pick(&self.talks),
        };
        let (frame, side) = self.frame(&talk);
        let mut bytes = frame.build();
        if self.random.one_in(10) {
            // The parser decides what that is; it may be anything.
            let len = bytes.len() as u64;
            let at = usize::try_from(self.random.below(len)).unwrap();
            bytes[at] ^= 1 << self.random.below(8);
            if self.random.one_in(4) {
                bytes.truncate(usize::try_from(self.random.below(len)).unwrap());
            }
        }
        let arrival = Arrival {
            link: talk.link,
            side,
            original_len: u32::try_from(bytes.len()).unwrap(),
        };
        (bytes, arrival)
    }

    fn flows_there(&self) -> HashSet<FlowKey> {
        let mut keys = HashSet::new();
        for shard in &self.shards {
            shard.scan(0, u32::MAX, self.now, &mut |flow| {
                keys.insert(flow.key);
            });
        }
        keys
    }

    /// Received by any worker, judged by their owners. What is handed over comes later, but packets
    /// of one flow have one owner and keep their order.
    fn run(&mut self, receiver: usize, packets: &[(Vec<u8>, Arrival)]) -> Vec<Resolved> {
        let receiver = WorkerId(u16::try_from(receiver).unwrap());
        let place = Place {
            config: &self.config,
            steering: Some((&self.steering, receiver)),
        };
        self.batch.clear();
        for (bytes, arrival) in packets {
            self.batch.push(
                bytes,
                *arrival,
                &place,
                &self.shards[receiver.index()],
                Origin::Queue,
            );
        }
        let shard = &mut self.shards[receiver.index()];
        self.batch.run(&place, shard, &self.snapshot, self.now);
        let fates: Vec<Fate> = self.batch.fates().collect();
        let ways: Vec<Option<Way>> = fates.iter().map(|fate| self.way(fate)).collect();
        let judged = fates.iter().map(|fate| match fate {
            Fate::Judged(outcome) => Some(outcome.resolve(&self.shards[receiver.index()])),
            // Every datagram here is one of its own: its first fragment never comes.
            Fate::Hold(_) => Some(Resolved::FRAGMENT),
            Fate::HandOver(_) | Fate::HandOverPiece(..) => None,
        });
        let judged: Vec<Option<Resolved>> = judged.collect();
        let mut outcomes = Vec::new();
        for ((judged, way), (bytes, arrival)) in judged.into_iter().zip(ways).zip(packets) {
            outcomes.push(match (judged, way) {
                (Some(resolved), _) => resolved,
                (None, Some(way)) => self.judge_at(bytes, *arrival, way),
                (None, None) => panic!("a packet is lost"),
            });
        }
        outcomes
    }

    /// Where a packet goes from a worker that does not judge it.
    fn way(&self, fate: &Fate) -> Option<Way> {
        match *fate {
            Fate::HandOver(owner) => Some((owner, Origin::Steered)),
            Fate::HandOverPiece(owner, piece) => {
                Some((owner, Origin::Piece(*self.batch.piece(piece)?)))
            }
            Fate::Judged(_) | Fate::Hold(_) => None,
        }
    }

    /// Judged by the worker that it was handed to; a fragment may go on once more.
    fn judge_at(&mut self, bytes: &[u8], arrival: Arrival, mut way: Way) -> Resolved {
        for _ in 0..2 {
            let (owner, origin) = way;
            let place = Place {
                config: &self.config,
                steering: Some((&self.steering, owner)),
            };
            self.batch.clear();
            let shard = &mut self.shards[owner.index()];
            self.batch.push(bytes, arrival, &place, shard, origin);
            self.batch.run(&place, shard, &self.snapshot, self.now);
            let fate = self.batch.fates().next().unwrap();
            match (fate, self.way(&fate)) {
                (Fate::Judged(outcome), _) => return outcome.resolve(&self.shards[owner.index()]),
                (Fate::Hold(_), _) => return Resolved::FRAGMENT,
                (_, Some(next)) => {
                    assert!(matches!(next.1, Origin::Piece(_)), "handed over twice");
                    way = next;
                }
                (_, None) => panic!("a packet is lost"),
            }
        }
        panic!("handed over without end");
    }

    fn talk(&mut self) -> Talk {
        let random = &mut self.random;
        let side = random.pick(&[Inside, Outside]);
        let link = LinkId(u8::from(random.one_in(6)));
        let talk = |frame, is_tcp| Talk {
            frame,
            is_tcp,
            link,
            side,
        };
        if random.one_in(20) {
            let operation = random.pick(&[1, 2]);
            let senders = [
                "10.0.0.1",
                "10.0.0.2",
                "192.0.2.1",
                "169.254.0.1",
                "0.0.0.0",
            ];
            let (sender, target) = (random.pick(&senders), random.pick(&senders));
            return talk(build::arp(operation, sender, target), false);
        }
        let is_v4 = !random.one_in(3);
        let family = usize::from(!is_v4);
        let host = |random: &mut Random, is_inside: bool| match is_inside {
            true => random.pick(&INSIDE[family]),
            false => random.pick(&OUTSIDE[family]),
        };
        // Mostly between an inside and an outside host, each on its side.
        let source = (side == Inside) != random.one_in(10);
        let target = (side == Outside) != random.one_in(10);
        let (source, target) = (host(random, source), host(random, target));
        let frame = match is_v4 {
            true => build::v4(source, target),
            false => build::v6(source, target),
        };
        let frame = match random.below(8) {
            0 => frame.vlan(20),
            1 => frame.vlan(21),
            2 => frame.vlan(20).vlan(30),
            _ => frame,
        };
        match random.below(10) {
            0..=4 => {
                let ports = [80, 80, 80, 80, 443, 443, 5000, 5000, 5000, 123];
                talk(frame.tcp(random.pick(&ports), random.pick(&ports)), true)
            }
            5..=6 => {
                let ports = [53, 53, 53, 5000, 5000, 123, 67, 68, 546, 547];
                talk(frame.udp(random.pick(&ports), random.pick(&ports)), false)
            }
            7..=8 => talk(icmp(random, frame, is_v4), false),
            _ => {
                let protocol = random.pick(&[47, 47, 47, 2, 1, 58]);
                talk(frame.protocol(protocol).payload_len(8), false)
            }
        }
    }

    /// A packet of either end of a flow, mostly at the port where it belongs.
    fn frame(&mut self, talk: &Talk) -> (FrameBuilder, PortSide) {
        let random = &mut self.random;
        let (mut frame, mut side) = (talk.frame.clone(), talk.side);
        if random.one_in(2) {
            (frame, side) = (frame.reversed(), side.opposite());
        }
        if random.one_in(12) {
            side = side.opposite();
        }
        if talk.is_tcp {
            frame = segment(random, frame);
        }
        self.datagrams += 1;
        let id = self.datagrams;
        let frame = match random.below(40) + if self.fragments { 0 } else { 40 } {
            0 => frame.payload_len(24).fragment(id, 0, true),
            1 => frame.payload_len(24).fragment(id, 64, false),
            _ => frame,
        };
        (frame, side)
    }

    fn story(&self) -> String {
        let is_policy = |step: &Step| matches!(step, Step::Apply(_));
        let last = self.trace.len().saturating_sub(20);
        let policy = self.trace[..last].iter().rposition(is_policy);
        let told = policy.map(|at| &self.trace[at]).into_iter();
        let mut story = String::new();
        for step in told.chain(&self.trace[last..]) {
            story += &match step {
                Step::Apply(policy) => format!("apply {policy:#?}\n"),
                Step::Wait(units) => format!("wait {units} units\n"),
                Step::Packet(arrival, parsed) => format!("{arrival:?} {parsed:?}\n"),
            };
        }
        story
    }
}

/// A query, a reply or something else; `reversed` turns a query into its reply.
fn icmp(random: &mut Random, frame: FrameBuilder, is_v4: bool) -> FrameBuilder {
    let kinds: &[u8] = match is_v4 {
        true => &[8, 8, 8, 8, 13, 0, 3, 17],
        false => &[
            128, 128, 128, 128, 128, 128, 129, 1, 133, 134, 135, 136, 136, 143,
        ],
    };
    let kind = random.pick(kinds);
    let code = random.pick(&[0, 0, 0, 8]);
    let targets = ["2001:db8::1", "2001:db8::2", "2001:db8:f::1", "fe80::1"];
    let target: std::net::Ipv6Addr = random.pick(&targets).parse().unwrap();
    frame
        .icmp(kind, code, [0, random.pick(&[8, 8, 9]), 0, 1])
        .payload(&target.octets())
        .hop_limit(random.pick(&[64, 255, 255]))
}

/// Few numbers, so that connections open, close and meet their own past.
fn segment(random: &mut Random, frame: FrameBuilder) -> FrameBuilder {
    let flags = [
        TcpFlags::SYN,
        TcpFlags::SYN,
        TcpFlags::SYN | TcpFlags::ACK,
        TcpFlags::SYN | TcpFlags::ACK,
        TcpFlags::ACK,
        TcpFlags::ACK,
        TcpFlags::ACK,
        TcpFlags::FIN | TcpFlags::ACK,
        TcpFlags::RST | TcpFlags::ACK,
        TcpFlags::RST,
        TcpFlags::SYN | TcpFlags::FIN,
        0,
    ];
    frame
        .flags(random.pick(&flags))
        .sequence(random.pick(&[0, 1, 1, 2]))
        .acknowledgment(random.pick(&[0, 1, 1, 2]))
}

#[test]
fn the_pipeline_does_what_the_oracle_does() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect(name))
    };
    let first = number("SEED");
    let count = number("SEEDS").unwrap_or(first.map_or(WORLDS, |_| 1));
    let is_all = first.is_none();
    let mut seen: HashMap<Verdict, u32> = HashMap::new();
    for seed in (first.unwrap_or(1)..).take(usize::try_from(count).unwrap()) {
        for (verdict, count) in run(seed) {
            *seen.entry(verdict).or_default() += count;
        }
    }
    // What no policy or packet of here can bring about.
    let never = [
        Verdict::Pass(PassReason::Related),
        Verdict::Drop(DropReason::NotIp),
        Verdict::Drop(DropReason::Limit),
        Verdict::Drop(DropReason::TxFull),
        Verdict::Drop(DropReason::HandoverFull),
        Verdict::Drop(DropReason::BadDescriptor),
    ];
    let passes = PassReason::ALL.iter().map(|reason| Verdict::Pass(*reason));
    let drops = DropReason::ALL.iter().map(|reason| Verdict::Drop(*reason));
    for verdict in passes.chain(drops).filter(|one| !never.contains(one)) {
        let count = seen.get(&verdict).copied().unwrap_or(0);
        assert!(!is_all || count > 20, "{verdict:?} {count} times: too tame");
    }
}

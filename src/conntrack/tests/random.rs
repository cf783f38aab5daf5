//! Random operations on a small shard and on the oracle, compared after every step. A failure
//! becomes a file of tests/regressions/conntrack, as short as it can be made, which is run again
//! from then on. `SEED=n` runs another seed, `SEEDS=n` so many from it on.

use std::panic::{self, AssertUnwindSafe};

use super::super::give_way::Yields;
use super::super::oracle::{Oracle, OracleFlow, rounded};
use super::super::sides::{Mark, Side};
use super::sequence::{Said, Sequence, Step};
use super::*;
use crate::types::regressions::Regression;

const STEPS: u32 = 30_000;
/// Seeds of a run in which nobody names one.
const SEEDS: u64 = 8;

struct World {
    random: Random,
    shard: Shard,
    oracle: Oracle,
    limits: PerInterface,
    capacity: u32,
    buckets: [Bucket; 3],
    /// By class, as the oracle saw them go.
    evicted: [u64; 4],
    now: Tick,
}

/// New flows that an interface may open, in nanoseconds that they take.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    spent: u64,
    at: u64,
}

#[test]
fn shard_does_what_the_oracle_does() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect(name))
    };
    let first = number("SEED");
    let count = number("SEEDS").unwrap_or(first.map_or(SEEDS, |_| 1));
    let mut totals = [0; 6];
    for seed in (first.unwrap_or(1)..).take(usize::try_from(count).unwrap()) {
        for (total, count) in totals.iter_mut().zip(run(seed)) {
            *total += count;
        }
    }
    assert!(
        first.is_some() || totals.iter().all(|count| *count > 0),
        "{totals:?}: too tame"
    );
}

#[test]
fn what_once_went_wrong_does_not_again() {
    Sequence::replay_kept(6);
}

#[test]
fn a_sequence_is_read_as_it_was_written() {
    let mut world = World::new(&settings(3), 3);
    let mut sequence = settings(3);
    for number in 0..1000 {
        let step = world.choose();
        world.apply(step, number);
        sequence.steps.push(step);
    }
    let text = sequence.to_string();
    let read: Sequence = text.parse().unwrap();
    assert_eq!(read.to_string(), text);
    assert_eq!(format!("{read:?}"), format!("{sequence:?}"));
}

/// The shard of a seed.
fn settings(seed: u64) -> Sequence {
    // Some tables are so small that flows give way all the time.
    let capacity = [24, 24, 5].get((seed % 3) as usize).copied();
    let mut config = config(capacity.unwrap_or(24));
    config.tcp_strict = seed.is_multiple_of(2);
    config.tcp_pickup = if seed % 4 < 3 {
        TcpPickup::Rules
    } else {
        TcpPickup::SynOnly
    };
    config.timeouts.tcp_established = Duration::from_secs(432_000 >> (seed % 11));
    // One kind of limit at a time, so that the oracle can tell which one refused.
    match seed % 3 {
        0 => config.per_interface.max_flows = 9,
        1 => config.per_interface.new_per_second = 2,
        _ => {}
    }
    Sequence {
        config,
        start: Tick(seed.wrapping_mul(1_234_567_891)),
        steps: Vec::new(),
    }
}

/// How many gave way, by class, were refused and were limited.
fn run(seed: u64) -> [u64; 6] {
    let mut sequence = settings(seed);
    let mut world = World::new(&sequence, seed);
    let mut tracks = [0u32; 4];
    let steps = panic::catch_unwind(AssertUnwindSafe(|| {
        for number in 0..STEPS {
            let step = world.choose();
            sequence.steps.push(step);
            if let Some(track) = world.apply(step, number) {
                tracks[track as usize] += 1;
            }
            world.shard.check();
        }
    }));
    if let Err(failure) = steps {
        sequence.keep(seed, failure);
    }
    assert!(
        tracks.iter().take(3).all(|count| *count > 50),
        "{tracks:?}: too tame"
    );
    let stats = world.shard.stats();
    let [untracked, tombstones, unanswered, half_open] = world.evicted;
    let (refused, limited) = (stats.refused, stats.limited);
    [
        untracked, tombstones, unanswered, half_open, refused, limited,
    ]
}

pub(super) fn replay(sequence: &Sequence) {
    let mut world = World::new(sequence, 0);
    for (number, step) in (0..).zip(&sequence.steps) {
        world.apply(*step, number);
        world.shard.check();
    }
    world.compare_all();
}

impl World {
    fn new(sequence: &Sequence, seed: u64) -> Self {
        let config = &sequence.config;
        Self {
            random: Random(seed),
            shard: Shard::new(config, sequence.start),
            oracle: Oracle::new(config),
            limits: config.per_interface,
            capacity: config.max_flows,
            buckets: [Bucket::default(); 3],
            evicted: [0; 4],
            now: sequence.start,
        }
    }

    fn choose(&mut self) -> Step {
        // A few flows are hot, so that connections come to their ends.
        let flow = if self.random.below(4) == 0 {
            self.random.below(60)
        } else {
            self.random.below(6)
        };
        match self.random.below(100) {
            0..=84 => {
                let is_reply = self.random.below(2) == 0;
                Step::Packet {
                    flow,
                    is_reply,
                    is_allowed: self.random.below(4) != 0,
                    said: self.say(flow, is_reply),
                }
            }
            85..=91 => Step::Wait(self.leap()),
            92 => Step::End { flow },
            93 => Step::Restamp {
                flow,
                class: self
                    .random
                    .pick(&[FlowClass::Tracked, FlowClass::Untracked]),
                rule: (self.random.below(3) != 0).then(|| self.random.below(1 << 20) as u32),
            },
            94..=98 => Step::Expire,
            _ => Step::Scan,
        }
    }

    fn leap(&mut self) -> Duration {
        let longest_ms = self.random.pick(&[
            3,
            3,
            1_000,
            1_000,
            5_000,
            5_000,
            15_000,
            31_000,
            200_000,
            600_000,
            3_600_000,
            86_400_000,
            864_000_000,
        ]);
        let years = self.random.below(400) == 0;
        Duration::from_millis(self.random.below(longest_ms))
            + Duration::from_secs(if years { 31_536_000 / 4 } else { 0 })
    }

    fn apply(&mut self, step: Step, number: u32) -> Option<Track> {
        match step {
            Step::Packet {
                flow,
                is_reply,
                is_allowed,
                said,
            } => {
                let (key, packet) = packet_of(flow, is_reply, said);
                return self.send(flow, (key, &packet), is_allowed, number);
            }
            Step::Wait(by) => self.now = self.now + by,
            Step::End { flow } => {
                let (key, _) = key_of_flow(flow, false);
                let found = self.shard.find(&key, self.shard.hash(&key), self.now);
                if let Some(index) = found {
                    self.shard.end(index);
                    assert!(self.oracle.live(&key, self.now).is_some());
                    self.oracle.flows.remove(&key);
                }
            }
            Step::Restamp { flow, class, rule } => {
                let (key, _) = key_of_flow(flow, false);
                let found = self.shard.find(&key, self.shard.hash(&key), self.now);
                if let Some(index) = found {
                    let (rule, generation) = (rule.map(RuleSlot), Generation(number.into()));
                    self.shard.restamp(index, generation, class, rule);
                    let flow = self.oracle.flows.get_mut(&key).unwrap();
                    flow.new.class = class;
                    flow.new.generation = generation;
                    flow.new.rule = rule;
                }
            }
            Step::Expire => {
                assert!(self.shard.expire(self.now) <= EXPIRE_PER_TURN_MAX);
            }
            Step::Scan => self.compare_all(),
        }
        None
    }

    /// What the pipeline does with a packet, on both.
    fn send(
        &mut self,
        flow: u64,
        ((key, from), packet): ((FlowKey, End), &IpPacket),
        is_allowed: bool,
        step: u32,
    ) -> Option<Track> {
        let hash = self.shard.hash(&key);
        let admission = self.shard.admission(packet);
        assert_eq!(admission, self.oracle.admission(packet));
        let found = self.shard.find(&key, hash, self.now);
        let known = self.oracle.live(&key, self.now);
        assert_eq!(found.is_some(), known.is_some(), "{key:?}");
        let new = NewFlow {
            class: if flow % 5 == 4 {
                FlowClass::Untracked
            } else {
                FlowClass::Tracked
            },
            generation: Generation(u64::from(step)),
            interface: interface_of(flow),
            ..new_flow(from)
        };
        let len = 60 + step % 1_400;
        let Some(index) = found else {
            if is_allowed && admission == Admission::Open && !is_piece(packet) {
                self.open(&key, hash, new, packet, len);
            }
            return None;
        };
        let before = self.oracle.flows.get(&key).cloned();
        let track = self.shard.track(index, packet, from, len, self.now);
        let expected = self.oracle.track(&key, packet, from, len, self.now);
        assert_eq!(track, expected, "{packet:?} on {before:#?}");
        let opens = admission == Admission::Open && !is_piece(packet);
        if track == Track::Reopen && is_allowed && opens {
            self.spend(new.interface);
            self.shard.reopen(index, &new, packet, len, self.now);
            self.oracle.open(key, new, packet, len, self.now);
        }
        self.compare_numbers(&key, packet, before.as_ref());
        if let Some(view) = view_of(&self.shard, &key, self.now) {
            let state = self.oracle.live(&key, self.now).map(|flow| flow.state);
            assert_eq!(Some(view.state), state, "{packet:?} on {before:#?}");
        }
        self.compare(&key);
        Some(track)
    }

    #[expect(clippy::too_many_lines, reason = "one open is checked from all sides")]
    fn open(&mut self, key: &FlowKey, hash: FlowHash, new: NewFlow, packet: &IpPacket, len: u32) {
        // Those that a full sweep could not have taken back yet: a timer unit and a beat.
        let slack = (1 << 28) + (1 << 24);
        let now = rounded(self.now);
        let flows = || self.oracle.flows.iter().filter(|(other, _)| *other != key);
        let held = flows().filter(|(_, flow)| flow.deadline + slack > now);
        let held_count = held.clone().count();
        let is_its = |flow: &OracleFlow| flow.new.interface == new.interface;
        let held_its = held.filter(|(_, flow)| is_its(flow)).count();
        let live = || flows().filter(|(_, flow)| flow.deadline > now);
        let live_its = live().filter(|(_, flow)| is_its(flow)).count();
        let yields: Vec<Yields> = live().filter_map(|(_, flow)| flow.yields()).collect();
        let own = live().filter(|(_, flow)| is_its(flow));
        let own: Vec<Yields> = own.filter_map(|(_, flow)| flow.yields()).collect();
        let last = match new.class {
            FlowClass::Untracked => Yields::Untracked,
            _ => Yields::HalfOpen,
        };
        // One that has had no time for an answer ranks with the half-open ones.
        let second = 1_020_000_000;
        let is_any_young = live().any(|(_, flow)| {
            let timeout = self.oracle.timeout(flow.state);
            flow.yields() == Some(Yields::Unanswered) && now + timeout < flow.deadline + second
        });
        let limit = self.limits.max_flows as usize;
        let result = self.shard.open(key, hash, &new, packet, len, self.now);
        let gone: Vec<FlowKey> = live()
            .filter(|(key, _)| {
                self.shard
                    .find(key, self.shard.hash(key), self.now)
                    .is_none()
            })
            .map(|(key, _)| *key)
            .collect();
        match result {
            Ok(_) => {
                // At its limit an interface's own flows give way, as on a full table.
                let is_own = limit != 0 && held_its >= limit;
                let victim = gone.first().map(|key| &self.oracle.flows[key]);
                let is_own = is_own && victim.is_some_and(is_its);
                assert!(limit == 0 || live_its < limit || is_own);
                assert!(self.spend(new.interface), "opened beyond its rate");
                assert!(gone.len() <= 1, "{gone:?} went for one");
                if let Some(victim) = gone.first() {
                    let yields = if is_own { own } else { yields };
                    let flow = self.oracle.flows.remove(victim).unwrap();
                    let class = flow.yields().expect("it is established");
                    let first = yields.iter().min().unwrap();
                    assert!(class == *first || class == Yields::HalfOpen && is_any_young);
                    assert!(class == *first || *first == Yields::Unanswered);
                    assert!(class <= last);
                    let is_full = held_count >= self.capacity as usize;
                    assert!(is_own || is_full, "evicted with room");
                    assert!(is_own || self.shard.len() == self.capacity);
                    let its = is_own.then_some(new.interface);
                    let is_first = is_any_young || self.is_first(class, key, its);
                    assert!(is_first, "an expired one goes first");
                    self.evicted[class as usize] += 1;
                }
                self.oracle.open(*key, new, packet, len, self.now);
                self.compare(key);
            }
            Err(OpenError::Full) => {
                assert!(held_count >= self.capacity as usize, "{held_count} flows");
                assert!(yields.iter().all(|class| *class > last) && gone.is_empty());
            }
            Err(OpenError::Limit) => {
                assert!(gone.is_empty());
                assert!(own.iter().all(|class| limit == 0 || *class > last));
                assert!(limit != 0 && held_its >= limit || !self.spend(new.interface));
            }
        }
        let by = self.shard.stats().evicted_by;
        let by = [by.untracked, by.tombstones, by.unanswered, by.half_open];
        assert_eq!(by, self.evicted);
        let live = self
            .oracle
            .flows
            .values()
            .filter(|flow| flow.deadline > now);
        assert!(live.count() <= self.capacity as usize);
    }

    /// Whether none is left that has expired and goes before this class, of one interface if given.
    fn is_first(&self, class: Yields, opened: &FlowKey, of: Option<InterfaceSlot>) -> bool {
        let now = rounded(self.now);
        let expired = self.oracle.flows.iter().filter(|(key, flow)| {
            let found = self.shard.table.find(key, self.shard.hash(key).0);
            let is_its = of.is_none_or(|interface| flow.new.interface == interface);
            flow.deadline <= now && is_its && *key != opened && found.is_some()
        });
        let mut expired = expired.filter_map(|(_, flow)| flow.yields());
        expired.all(|expired| expired >= class)
    }

    /// Spends the time of one new flow, if the interface has it.
    fn spend(&mut self, interface: InterfaceSlot) -> bool {
        let rate = u64::from(self.limits.new_per_second);
        if rate == 0 {
            return true;
        }
        let step = 1_000_000_000 / rate;
        let bucket = &mut self.buckets[usize::try_from(interface.0 / 70_000).unwrap()];
        bucket.spent = bucket.spent.saturating_sub(self.now.0 - bucket.at);
        bucket.at = self.now.0;
        if bucket.spent + step > step * rate {
            return false;
        }
        bucket.spent += step;
        true
    }

    fn compare(&self, key: &FlowKey) {
        let index = self.shard.find(key, self.shard.hash(key), self.now);
        let flow = self.oracle.live(key, self.now);
        let mut view = None;
        if let Some(index) = index {
            self.shard
                .scan(index.number(), 1, self.now, &mut |seen| view = Some(seen));
        }
        match (view, flow) {
            (None, None) => {}
            (Some(view), Some(flow)) => compare_flow(&view, key, flow, self.now),
            _ => panic!("{view:?} is not {flow:?}"),
        }
    }

    /// What both remember of a TCP connection's numbers, so that a difference shows at once.
    fn compare_numbers(&self, key: &FlowKey, packet: &IpPacket, before: Option<&OracleFlow>) {
        let (Some(index), Some(flow)) = (
            self.shard.find(key, self.shard.hash(key), self.now),
            self.oracle.live(key, self.now),
        ) else {
            return;
        };
        let entry = self.shard.table.entry(index.number()).unwrap();
        for (side, half) in [Side::Original, Side::Reply].into_iter().zip(&flow.halves) {
            if key.protocol != protocol::TCP {
                return;
            }
            let end = entry.end.of(side);
            let seen = (entry.has(Mark::Seen, side).then_some(end), half.end);
            assert_eq!(seen.0, seen.1, "end, {side:?}: {packet:?} on {before:#?}");
            let ack = entry.has(Mark::Acked, side).then_some(entry.ack.of(side));
            assert_eq!(ack, half.ack, "ack, {side:?}: {packet:?} on {before:#?}");
        }
    }

    fn compare_all(&self) {
        let mut seen = 0;
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            cursor = self.shard.scan(from, 5, self.now, &mut |view| {
                seen += 1;
                let flow = self.oracle.live(&view.key, self.now);
                compare_flow(&view, &view.key, flow.expect("a flow of nobody"), self.now);
            });
        }
        let now = rounded(self.now);
        let live = self
            .oracle
            .flows
            .values()
            .filter(|flow| flow.deadline > now);
        assert_eq!(live.count(), seen);
    }

    /// What a packet of a flow may be.
    fn say(&mut self, flow: u64, is_reply: bool) -> Said {
        match flow % 10 {
            6 | 7 => Said::Udp,
            8 => Said::Icmp(self.random.pick(&[0, 0, 0, 9])),
            9 => Said::Other,
            _ if self.random.below(20) == 0 => Said::Piece,
            _ => Said::Segment(self.segment(key_of_flow(flow, is_reply))),
        }
    }

    /// A segment whose numbers lie on or near the edges of what the flow has said so far.
    fn segment(&mut self, (key, from): (FlowKey, End)) -> TcpHeader {
        let flow = self.oracle.live(&key, self.now).cloned();
        let random = &mut self.random;
        const F: u8 = TcpFlags::FIN;
        const S: u8 = TcpFlags::SYN;
        const R: u8 = TcpFlags::RST;
        const A: u8 = TcpFlags::ACK;
        let flags = random.pick(&[
            S,
            S,
            S,
            S | A,
            S | A,
            S | A,
            A,
            A,
            A,
            A,
            A,
            A,
            F | A,
            F | A,
            F | A,
            R,
            R | A,
            F,
            0,
            S | F,
            S | F | A,
            S | R,
            A | 0xc8,
        ]);
        let (sequences, acks) = flow.map_or((vec![], vec![]), |flow| edges(&flow, from));
        let mut near = |edges: &[u32]| {
            let delta = random.pick(&[0, 0, 0, 0, 0, 0, 0, 1, u32::MAX, 70_000, 1 << 31]);
            if edges.is_empty() || random.below(30) == 0 {
                return random
                    .pick(&[7, 7, 1_000, u32::MAX, 0x7fff_ffff])
                    .wrapping_add(delta);
            }
            random.pick(edges).wrapping_add(delta)
        };
        let (sequence, acknowledgment) = (near(&sequences), near(&acks));
        TcpHeader {
            sequence,
            acknowledgment,
            flags: TcpFlags(flags),
            window: random.pick(&[0, 1, 1_000, 65_535]),
            window_scale: random
                .pick(&[None, Some(0), Some(7), Some(14)])
                .filter(|_| flags & S != 0),
            payload_len: random.pick(&[0, 0, 0, 0, 1, 1_460]),
            ..super::segment(0, 0, 0)
        }
    }
}

/// A packet of one of sixty flows (two thirds TCP, the rest UDP, ICMP and others), and its key.
fn packet_of(flow: u64, is_reply: bool, said: Said) -> ((FlowKey, End), IpPacket) {
    let client = 0x0a00_0000 + u32::try_from(flow).unwrap();
    let server = 0xc000_0201;
    let (source, destination) = if is_reply {
        (server, client)
    } else {
        (client, server)
    };
    let addresses = if flow % 3 == 1 {
        Addresses::V6 {
            source: u128::from(source) << 90 | 1,
            destination: u128::from(destination) << 90 | 1,
        }
    } else {
        v4(source, destination)
    };
    let (source_port, destination_port) = if is_reply {
        (443, 40_000)
    } else {
        (40_000, 443)
    };
    let is_v6 = flow % 3 == 1;
    let tcp = |header| {
        Transport::Tcp(TcpHeader {
            source_port,
            destination_port,
            ..header
        })
    };
    let (number, transport) = match said {
        Said::Segment(header) => (protocol::TCP, tcp(header)),
        Said::Piece => (protocol::TCP, tcp(segment(0, 0, 0))),
        Said::Udp => {
            let transport = Transport::Udp {
                source_port,
                destination_port,
            };
            (protocol::UDP, transport)
        }
        Said::Icmp(code) => {
            let (number, kind) = match (is_v6, is_reply) {
                (false, false) => (protocol::ICMP, 8),
                (false, true) => (protocol::ICMP, 0),
                (true, false) => (protocol::ICMPV6, 128),
                (true, true) => (protocol::ICMPV6, 129),
            };
            let transport = Transport::Icmp {
                kind,
                code,
                id: 9,
                target: None,
            };
            (number, transport)
        }
        Said::Other => (47, Transport::Other),
    };
    let mut packet = packet(addresses, number, transport);
    let key = key_of(&packet);
    if let Said::Piece = said {
        packet.fragment = Fragment::Later {
            id: 1,
            offset: 8,
            len: 8,
            more: false,
        };
    }
    (key, packet)
}

/// The key of a flow, and which end sends.
fn key_of_flow(flow: u64, is_reply: bool) -> (FlowKey, End) {
    let said = match flow % 10 {
        6 | 7 => Said::Udp,
        8 => Said::Icmp(0),
        9 => Said::Other,
        _ => Said::Piece,
    };
    packet_of(flow, is_reply, said).0
}

/// A later piece of a segment, judged by the header that went before it: it opens nothing.
fn is_piece(packet: &IpPacket) -> bool {
    packet.fragment != Fragment::Whole
}

fn view_of(shard: &Shard, key: &FlowKey, now: Tick) -> Option<FlowView> {
    let index = shard.find(key, shard.hash(key), now)?;
    let mut found = None;
    shard.scan(index.number(), 1, now, &mut |view| found = Some(view));
    found
}

/// Numbers at which something changes, the likely ones several times.
fn edges(flow: &OracleFlow, from: End) -> (Vec<u32>, Vec<u32>) {
    let me = usize::from(from != flow.new.opener);
    let (mine, its) = (&flow.halves[me], &flow.halves[1 - me]);
    let known = mine.end.or(mine.end_guess);
    let window = |side| flow.window_bytes(side);
    let mut sequences: Vec<u32> = Vec::new();
    for _ in 0..6 {
        sequences.extend(known);
    }
    sequences.extend(known.map(|end| end.wrapping_sub(1)));
    sequences.extend(known.map(|end| end.wrapping_sub(window(1 - me))));
    sequences.extend(its.ack);
    sequences.extend(its.ack.map(|ack| ack.wrapping_add(window(1 - me))));
    sequences.extend(mine.isn);
    let end = its.end.or(its.end_guess);
    let mut acks: Vec<u32> = Vec::new();
    for _ in 0..6 {
        acks.extend(end);
    }
    acks.extend(its.isn.map(|isn| isn.wrapping_add(1)));
    acks.extend(its.challenge.map(|syn| syn.wrapping_add(1)));
    acks.extend(end.map(|end| end.wrapping_sub(window(me).max(66_000))));
    (sequences, acks)
}

/// Three interfaces, far apart.
fn interface_of(flow: u64) -> InterfaceSlot {
    InterfaceSlot(u32::try_from(flow % 3).unwrap() * 70_000)
}

fn compare_flow(view: &FlowView, key: &FlowKey, flow: &OracleFlow, now: Tick) {
    assert_eq!(view.key, *key);
    assert_eq!(view.state, flow.state);
    assert_eq!([view.sent, view.answered], flow.traffic);
    assert_eq!(view.expires_in, Tick(flow.deadline).since(now));
    let head = FlowHead {
        interface: flow.new.interface,
        rule: flow.new.rule,
        generation_low: flow.new.generation.0 as u32,
        class: flow.new.class,
        direction: flow.new.direction,
        opener: flow.new.opener,
        query_code: flow.code.unwrap_or(0),
        is_tombstone: flow.state.is_tombstone(),
    };
    assert_eq!(view.head, head);
}

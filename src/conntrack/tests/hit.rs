//! The short way held to the long one: two shards see the same packets, one of them by the short
//! way where that takes them, and stay alike to the bit.

use super::super::sides::MARK_LENIENT;
use super::*;
use crate::packet::{Brief, LongAddresses};
use crate::types::PortSide;

const LINK: LinkId = LinkId(1);
const STEPS: u32 = 60_000;

/// One packet, as both ways see it.
struct Step {
    packet: IpPacket,
    side: PortSide,
    frame_len: u32,
    generation: Generation,
    now: Tick,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Pass(FlowClass),
    Not,
}

/// As the pipeline does it.
fn long(shard: &mut Shard, step: &Step) -> Answer {
    let Step { packet, now, .. } = step;
    let (key, from) = FlowKey::of(LINK, packet).unwrap();
    let hash = shard.hash(&key);
    let new = NewFlow {
        generation: step.generation,
        // Egress flows of the low end, ingress ones of the high end.
        direction: if (from == End::Low) == (step.side == PortSide::Inside) {
            Direction::Egress
        } else {
            Direction::Ingress
        },
        class: match key.low_port % 3 {
            0 => FlowClass::Tracked,
            1 => FlowClass::Untracked,
            _ => FlowClass::Unenforced,
        },
        ..new_flow(from)
    };
    let Some(index) = shard.find(&key, hash, *now) else {
        if shard.admission(packet) == Admission::Open {
            let _opened = shard.open(&key, hash, &new, packet, step.frame_len, *now);
        }
        return Answer::Not;
    };
    let head = shard.head(index);
    #[expect(clippy::cast_possible_truncation, reason = "the low half is kept")]
    if head.generation_low != step.generation.0 as u32 {
        shard.restamp(index, step.generation, head.class, head.rule);
    }
    let is_inside = match head.direction {
        Direction::Egress => from == head.opener,
        Direction::Ingress => from != head.opener,
    };
    if is_inside != (step.side == PortSide::Inside) {
        return Answer::Not;
    }
    match shard.track(index, packet, from, step.frame_len, *now) {
        Track::Pass => Answer::Pass(head.class),
        Track::Invalid => Answer::Not,
        Track::Reopen => {
            if shard.admission(packet) == Admission::Open {
                shard.reopen(index, &new, packet, step.frame_len, *now);
            }
            Answer::Not
        }
    }
}

/// The short way, if it takes the packet.
fn short(shard: &mut Shard, step: &Step, brief: &Brief, beside: &LongAddresses) -> Option<Answer> {
    let moment = shard.begin_batch(step.generation, step.now);
    let hash = shard.hash_packed(&brief.key, beside);
    let index = match shard.candidate(hash, &brief.key) {
        Candidate::Entry(index) => index,
        Candidate::Second => shard.second_candidate(hash, &brief.key)?,
        Candidate::None => FlowIndex::NONE,
    };
    let common = Common {
        brief,
        beside,
        side: step.side,
        frame_len: step.frame_len,
    };
    shard.hit(index, &common, &moment).map(Answer::Pass)
}

struct Universe {
    random: Random,
    /// Next sequence numbers of the two ends of each connection.
    next: [[u32; 2]; 6],
    generation: Generation,
    now: Tick,
}

impl Universe {
    fn step(&mut self) -> Step {
        let random = &mut self.random;
        match random.below(400) {
            0 => self.generation = self.generation.next(),
            1..=4 => self.now = Tick(self.now.0 + random.next() % (40 << 30)),
            _ => self.now = Tick(self.now.0 + random.below(1 << 25)),
        }
        let flow = random.below(12) as usize;
        let is_back = random.below(2) == 1;
        let is_v6 = flow % 4 == 3;
        let is_wrong_side = random.below(20) == 0;
        let side = if is_back == is_wrong_side {
            PortSide::Inside
        } else {
            PortSide::Outside
        };
        let transport = if flow.is_multiple_of(2) {
            Transport::Tcp(self.segment(flow / 2, is_back))
        } else {
            Transport::Udp {
                source_port: 1000 + flow as u16,
                destination_port: 53,
            }
        };
        let transport = if is_back {
            turned(transport)
        } else {
            transport
        };
        let (near, far) = (10 + flow as u32, 9);
        let (source, destination) = if is_back { (far, near) } else { (near, far) };
        // The low 32 bits, which entries hold, do not tell IPv6 flows apart.
        let long = |address: u32| 0x2001_0db8 << 96 | u128::from(address) << 64 | 1;
        let addresses = if is_v6 {
            Addresses::V6 {
                source: long(source),
                destination: long(destination),
            }
        } else {
            v4(source, destination)
        };
        let protocol = if flow.is_multiple_of(2) {
            protocol::TCP
        } else {
            protocol::UDP
        };
        let frame_len = match self.random.below(30) {
            0 => 1 << self.random.below(32),
            _ => 60 + self.random.below(1454) as u32,
        };
        Step {
            packet: packet(addresses, protocol, transport),
            side,
            frame_len,
            generation: self.generation,
            now: self.now,
        }
    }

    /// Mostly a connection as it should be, now and then anything.
    fn segment(&mut self, connection: usize, is_back: bool) -> TcpHeader {
        let random = &mut self.random;
        let ends = &mut self.next[connection];
        let (mine, other) = (ends[usize::from(is_back)], ends[usize::from(!is_back)]);
        let flags = match random.below(100) {
            0..=5 => random.pick(&[0x02, 0x12, 0x11, 0x04, 0x14, 0x00, 0x18]),
            _ => random.pick(&[0x10, 0x10, 0x18, 0x30, 0x90]),
        };
        let mut segment = segment(flags, mine, other);
        segment.source_port = 1000 + connection as u16;
        segment.window = random.pick(&[65_535, 0, 500, 29_200]);
        segment.window_scale = (flags & 2 != 0).then(|| random.pick(&[0, 7, 14]));
        segment.payload_len = random.pick(&[0, 0, 1, 1448]);
        match random.below(30) {
            0 => segment.sequence = random.next() as u32,
            1 => segment.acknowledgment = random.next() as u32,
            2 => segment.sequence = mine.wrapping_sub(random.below(70_000) as u32),
            3 => segment.acknowledgment = other.wrapping_sub(random.below(140_000) as u32),
            4 => segment.acknowledgment = other.wrapping_add(random.below(3) as u32),
            5 => segment.sequence = mine.wrapping_add(random.below(70_000) as u32),
            _ => {
                let extra = u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0);
                ends[usize::from(is_back)] = mine.wrapping_add(segment.payload_len + extra);
            }
        }
        segment
    }
}

fn turned(transport: Transport) -> Transport {
    match transport {
        Transport::Tcp(segment) => Transport::Tcp(TcpHeader {
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            ..segment
        }),
        Transport::Udp {
            source_port,
            destination_port,
        } => Transport::Udp {
            source_port: destination_port,
            destination_port: source_port,
        },
        other => other,
    }
}

#[test]
fn short_way_does_what_the_long_one_does() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..=6).collect(),
    };
    let (mut udp, mut tcp, mut lenient, mut v6) = (0, 0, 0, 0);
    for seed in seeds {
        eprintln!("SEED={seed}");
        let mut config = config(12);
        config.tcp_strict = seed.is_multiple_of(2);
        let start = seconds(1000);
        let mut ways = [Shard::new(&config, start), Shard::new(&config, start)];
        let mut universe = Universe {
            random: Random(seed),
            next: [[7, u32::MAX - 5000]; 6],
            generation: Generation(0xfff_fff0 + seed),
            now: start,
        };
        for number in 0..STEPS {
            let step = universe.step();
            let [one, other] = &mut ways;
            let _moment = one.begin_batch(step.generation, step.now);
            let expected = long(one, &step);
            let (brief, beside) = Brief::of(LINK, &step.packet).unwrap();
            let answer = match short(other, &step, &brief, &beside) {
                Some(answer) => {
                    let is_tcp = step.packet.protocol == protocol::TCP;
                    *if is_tcp { &mut tcp } else { &mut udp } += 1;
                    v6 += u32::from(brief.key.is_v6());
                    let index = find(other, &step.packet, step.now).unwrap();
                    let marks = other.table.entry(index.0).unwrap().marks;
                    lenient += u32::from(is_tcp && marks & MARK_LENIENT != 0);
                    answer
                }
                None => long(other, &step),
            };
            assert_eq!(answer, expected, "{number}: {:?}", step.packet);
            for slot in 0..12 {
                let [one, other] = [&ways[0], &ways[1]].map(|shard| shard.table.pair(slot));
                assert_eq!(format!("{one:?}"), format!("{other:?}"), "{number}");
            }
            assert_eq!(ways[0].stats(), ways[1].stats());
            if number % 64 == 0 {
                for shard in &mut ways {
                    shard.expire(step.now);
                    shard.check();
                }
            }
        }
    }
    // A short way that nobody takes would prove nothing.
    assert!(
        udp > 10_000 && tcp > 5_000 && lenient > 500 && v6 > 2_000,
        "{udp} {tcp} {lenient} {v6}"
    );
}

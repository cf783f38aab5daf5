//! The connection table alone, one core: hits in uniform random order, new flows and their expiry,
//! memory, and the longest pause of one operation.
//!
//! `PORTCULLIS_BENCH_FLOWS=8000000` adds a row of that many flows to the hits and sets how many the
//! others hold (default a million); `PORTCULLIS_BENCH_SECONDS=60` how long the pauses are watched
//! (default two). Times between two readings of the clock are gathered for each operation, and
//! beside them those of an empty loop on the same core: what the scheduler and the host add.
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark may end, reads the clock and prints"
)]

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::clock::Tick;
use portcullis::compile::sample::Random;
use portcullis::conntrack::{
    FlowClass, FlowHash, NewFlow, PerInterface, Shard, ShardConfig, TcpPickup, Timeouts, Track,
};
use portcullis::packet::{
    Addresses, End, FlowKey, Fragment, IpPacket, TcpFlags, TcpHeader, Transport, VlanTags,
};
use portcullis::types::{Direction, Generation, InterfaceSlot, LinkId, RuleSlot, protocol};
use support::count_allocations;

/// Packets whose cache misses are taken together, as in the pipeline.
const BATCH: usize = 64;
/// Keys that are drawn in advance: enough that no cache holds what they lead to.
const DRAWS: usize = 1 << 20;
const FRAME_LEN: u32 = 64;

fn shard(max_flows: u32, udp_seconds: u64) -> Shard {
    let config = ShardConfig {
        max_flows,
        per_interface: PerInterface::default(),
        timeouts: Timeouts {
            udp: Duration::from_secs(udp_seconds),
            tcp_established: Duration::from_secs(432_000),
            ..Timeouts::default()
        },
        tcp_pickup: TcpPickup::Rules,
        tcp_strict: false,
        seed: [11, 12],
    };
    Shard::new(&config, Tick(0))
}

fn packet(protocol: u8, transport: Transport, source: u32) -> IpPacket {
    IpPacket {
        vlan: VlanTags::default(),
        addresses: Addresses::V4 {
            source,
            destination: 0xc000_0201,
        },
        protocol,
        hop_limit: 64,
        fragment: Fragment::Whole,
        transport,
    }
}

fn udp(number: u32) -> IpPacket {
    let transport = Transport::Udp {
        source_port: 1024 + (number & 7) as u16,
        destination_port: 53,
    };
    packet(protocol::UDP, transport, 0x0a00_0000 + (number >> 3))
}

fn tcp(number: u32, flags: u8) -> IpPacket {
    let transport = Transport::Tcp(TcpHeader {
        source_port: 1024 + (number & 7) as u16,
        destination_port: 443,
        sequence: 0,
        acknowledgment: 0,
        flags: TcpFlags(flags),
        window: 1_000,
        window_scale: None,
        payload_len: 0,
    });
    packet(protocol::TCP, transport, 0x8000_0000 ^ (number >> 3))
}

fn key(packet: &IpPacket) -> (FlowKey, End) {
    FlowKey::of(LinkId(0), packet).expect("tracked")
}

fn new_flow(opener: End) -> NewFlow {
    NewFlow {
        interface: InterfaceSlot(1),
        rule: Some(RuleSlot(1)),
        generation: Generation(1),
        class: FlowClass::Tracked,
        direction: Direction::Ingress,
        opener,
    }
}

fn open(shard: &mut Shard, packet: &IpPacket, now: Tick) -> bool {
    let (key, from) = key(packet);
    let hash = shard.hash(&key);
    let opened = shard.open(&key, hash, &new_flow(from), packet, FRAME_LEN, now);
    opened.is_ok()
}

fn flows_wanted() -> Option<u32> {
    let text = std::env::var("PORTCULLIS_BENCH_FLOWS").ok()?;
    text.parse().ok()
}

/// Finds and tracks a batch, in the pipeline's three stages.
fn hit(shard: &mut Shard, numbers: &[u32], now: Tick) -> usize {
    let mut batch = [const { None::<(IpPacket, FlowKey, End, FlowHash)> }; BATCH];
    for (place, number) in batch.iter_mut().zip(numbers) {
        let packet = udp(*number);
        let (key, from) = key(&packet);
        let hash = shard.hash(&key);
        shard.prefetch_bucket(hash);
        *place = Some((packet, key, from, hash));
    }
    for (_, _, _, hash) in batch.iter().flatten() {
        shard.prefetch_entry(*hash);
    }
    let mut hits = 0;
    for (packet, key, from, hash) in batch.iter().flatten() {
        let Some(index) = shard.find(key, *hash, now) else {
            continue;
        };
        let track = shard.track(index, packet, *from, FRAME_LEN, now);
        hits += usize::from(track == Track::Pass);
    }
    hits
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conntrack/hit");
    group.throughput(Throughput::Elements(BATCH as u64));
    for flows in [10_000, 1_000_000].into_iter().chain(flows_wanted()) {
        let mut shard = shard(flows + flows / 8, 3_600);
        for number in 0..flows {
            assert!(open(&mut shard, &udp(number), Tick(0)));
        }
        let mut random = Random::new(7);
        let draws: Vec<u32> = (0..DRAWS)
            .map(|_| random.below(flows as usize) as u32)
            .collect();
        let mut bursts = draws.chunks_exact(BATCH).cycle();
        let now = Tick::from_seconds(1);
        group.bench_function(BenchmarkId::new("find+track", flows), |bencher| {
            bencher.iter(|| {
                let hits = hit(&mut shard, bursts.next().expect("cycles"), now);
                assert_eq!(hits, BATCH);
            });
        });
        let mut bursts = draws.chunks_exact(BATCH).cycle();
        group.bench_function(BenchmarkId::new("keys alone", flows), |bencher| {
            bencher.iter(|| {
                for number in bursts.next().expect("cycles") {
                    let (key, _) = key(&udp(*number));
                    black_box(shard.hash(&key));
                }
            });
        });
        let allocations = count_allocations(|| {
            hit(&mut shard, &draws[..BATCH], now);
        });
        assert_eq!(allocations, 0, "a hit allocates nothing");
    }
    group.finish();
}

/// Every flow opens once and expires once; time runs so that the table stays nine tenths full.
fn churn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conntrack/new and expire");
    group.throughput(Throughput::Elements(BATCH as u64));
    let flows = flows_wanted().unwrap_or(1_000_000);
    let mut shard = shard(flows, 30);
    let memory = shard.memory_bytes();
    println!(
        "{} bytes a flow of IPv4 in {flows} entries, {} of IPv6; {} more where heavy; \
         {} for fragments",
        memory.flows as f64 / f64::from(flows),
        (memory.flows + memory.ipv6) as f64 / f64::from(flows),
        memory.heavy as f64 / f64::from(flows),
        memory.fragments,
    );
    let step = 30_000_000_000 * BATCH as u64 * 10 / (u64::from(flows) * 9);
    let (mut now, mut number, mut refused) = (0, 0u32, 0u64);
    let mut turn = |shard: &mut Shard| {
        now += step;
        shard.expire(Tick(now));
        for _ in 0..BATCH {
            number = number.wrapping_add(1);
            refused += u64::from(!open(shard, &udp(number), Tick(now)));
        }
    };
    for _ in 0..2 * flows as usize / BATCH {
        turn(&mut shard);
    }
    group.bench_function(BenchmarkId::new("burst", flows), |bencher| {
        bencher.iter(|| turn(&mut shard));
    });
    assert_eq!(count_allocations(|| turn(&mut shard)), 0);
    let stats = shard.stats();
    println!(
        "{} flows, {} evicted, {refused} refused",
        stats.flows, stats.evicted
    );
    group.finish();
}

/// Times of single operations: a bucket for each eighth of a power of two.
#[derive(Clone)]
struct Times {
    counts: [u64; 512],
    longest: Duration,
}

impl Times {
    fn new() -> Self {
        Self {
            counts: [0; 512],
            longest: Duration::ZERO,
        }
    }

    fn add(&mut self, time: Duration) {
        let ns = (time.as_nanos() as u64).max(8);
        let power = ns.ilog2();
        let eighth = ns >> (power - 3) & 7;
        self.counts[(power * 8) as usize + eighth as usize] += 1;
        self.longest = self.longest.max(time);
    }

    /// The time that all but one in `one_in` operations stay within.
    fn within(&self, one_in: u64) -> Duration {
        let total: u64 = self.counts.iter().sum();
        let mut rest = total / one_in;
        for (place, count) in self.counts.iter().enumerate().rev() {
            if *count > rest {
                let (power, eighth) = (place / 8, place % 8);
                return Duration::from_nanos((8 + eighth as u64 + 1) << power >> 3);
            }
            rest -= count;
        }
        Duration::ZERO
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<10} p99 {:>9.2?}  p99.99 {:>9.2?}  longest {:>9.2?}",
            self.within(100),
            self.within(10_000),
            self.longest
        );
    }
}

/// The longest pause: a table with 95 % established, the rest turned over by a SYN flood and by
/// flows that expire, for some seconds of real time.
fn pauses(criterion: &mut Criterion) {
    // Nothing to compare by the harness, which also runs this once where it only tests.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let seconds = std::env::var("PORTCULLIS_BENCH_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or(2);
    let (flows, lasting) = if is_test {
        (10_000, Duration::from_millis(50))
    } else {
        let flows = flows_wanted().unwrap_or(1_000_000);
        (flows, Duration::from_secs(seconds))
    };
    let mut shard = shard(flows, 1);
    for number in 0..flows / 100 * 95 {
        assert!(open(&mut shard, &udp(number), Tick(0)));
        let (key, from) = key(&udp(number));
        let index = shard.find(&key, shard.hash(&key), Tick(0));
        let index = index.expect("was opened");
        for from in [from.opposite(), from, from.opposite()] {
            shard.track(index, &udp(number), from, FRAME_LEN, Tick(0));
        }
    }
    let mut operations = [Times::new(), Times::new(), Times::new()];
    let (start, mut number) = (Instant::now(), 0u32);
    while start.elapsed() < lasting {
        let now = Tick(start.elapsed().as_nanos() as u64);
        let [expire, opening, idle] = &mut operations;
        let before = Instant::now();
        shard.expire(now);
        expire.add(before.elapsed());
        for _ in 0..BATCH {
            number = number.wrapping_add(1);
            let before = Instant::now();
            black_box(open(&mut shard, &tcp(number, TcpFlags::SYN), now));
            opening.add(before.elapsed());
            let before = Instant::now();
            black_box(number);
            idle.add(before.elapsed());
        }
    }
    let stats = shard.stats();
    println!(
        "{} flows of {}, {} opened, {} evicted, {} expired",
        stats.flows, stats.max_flows, stats.opened, stats.evicted, stats.expired
    );
    for (times, name) in operations.iter().zip(["expire", "open", "nothing"]) {
        times.print(name);
    }
    let _unused = criterion;
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = hits, churn, pauses
}
criterion_main!(benches);

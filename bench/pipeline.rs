//! The whole pipeline in memory, one core: ns per packet for hits and misses, and allocations.
//!
//! Every burst's headers are rewritten from a pre-drawn uniform random sequence over all live
//! flows, since cycling over a few thousand prepared frames would measure the cache. `write` is
//! that rewriting alone: subtract it. `floor` is the least that any gateway does: one header
//! line read, one hash, one 64-byte line of a table of that size touched and updated, with
//! prefetch over the batch; it is measured by the same harness, rewriting included.
//!
//! `PORTCULLIS_BENCH_FLOWS=8000000` adds a row of that many flows.
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a benchmark may end"
)]

#[path = "support/floor.rs"]
mod floor;
mod support;

use std::hint::black_box;
use std::sync::OnceLock;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floor::{FRAME_BYTES, Floor};
use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::compile::sample::Random;
use portcullis::conntrack::{PerInterface, Shard, ShardConfig, TcpPickup, Timeouts};
use portcullis::document::Source;
use portcullis::packet::build;
use portcullis::pipeline::{
    Arrival, BATCH_MAX, Batch, ExemptRules, Fate, IcmpErrors, LinkRules, OnRuleRemoved, Origin,
    PipelineConfig, Place,
};
use portcullis::policy::{self, KnownLinks};
use portcullis::snapshot::Snapshot;
use portcullis::types::{DropReason, Generation, LinkId, PassReason, PortSide, Verdict};
use support::count_allocations;

/// Offsets in an untagged IPv4 frame.
const IP_CHECKSUM: usize = 24;
const IP_SOURCE: usize = 26;
const SOURCE_PORT: usize = 34;

/// A thousand rules on one interface; the traffic's is among them.
fn policy() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "[security_groups.web]\ndescription = \"bench\"\negress = []\ningress = [\n\
         { protocol = \"udp\", ports = 53, from = [\"10.0.0.0/8\"] },\n",
    );
    for index in 0..999 {
        let (a, b) = (index / 250, index % 250);
        writeln!(
            text,
            "{{ protocol = \"tcp\", ports = {}, from = [\"198.{a}.{b}.0/24\"] }},",
            1000 + index
        )
        .expect("text grows");
    }
    text.push_str("]\n[interfaces.server]\naddresses = [\"192.0.2.1\"]\ngroups = [\"web\"]\n");
    text
}

struct World {
    snapshot: Snapshot,
    config: PipelineConfig,
    shard: Shard,
    batch: Batch,
    frames: Vec<[u8; FRAME_BYTES]>,
    now: Tick,
}

impl World {
    fn new(max_flows: u32) -> Self {
        let source = Source::new("bench", policy());
        let links = ["link".to_owned()];
        let policy = policy::parse(&source, KnownLinks::Names(&links)).expect("a good policy");
        let snapshot = Compiler::new()
            .compile(&policy.value, &["link"], Generation(1))
            .expect("compiles");
        let shard = ShardConfig {
            max_flows,
            per_interface: PerInterface::default(),
            timeouts: Timeouts {
                udp: std::time::Duration::from_secs(3600),
                ..Timeouts::default()
            },
            tcp_pickup: TcpPickup::Rules,
            tcp_strict: false,
            seed: [11, 12],
        };
        let frame: [u8; FRAME_BYTES] = template().try_into().expect("a minimal frame");
        Self {
            snapshot,
            config: PipelineConfig {
                icmp_errors: IcmpErrors::Related,
                on_rule_removed: OnRuleRemoved::Keep,
                links: vec![LinkRules::default()],
                exempt: ExemptRules::default(),
            },
            shard: Shard::new(&shard, Tick(0)),
            batch: Batch::default(),
            frames: vec![frame; BATCH_MAX],
            now: Tick::from_seconds(1),
        }
    }

    /// Makes the burst's frames those of the given flows.
    fn write(&mut self, flows: &[Flow]) {
        for (frame, flow) in self.frames.iter_mut().zip(flows) {
            frame[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&flow.checksum);
            frame[IP_SOURCE..IP_SOURCE + 4].copy_from_slice(&flow.source);
            frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&flow.port);
        }
    }

    /// Judges the burst; returns how many passed as expected.
    fn run(&mut self, expected: Verdict) -> usize {
        self.shard.expire(self.now);
        self.batch.clear();
        let original_len = u32::try_from(FRAME_BYTES).expect("small");
        let arrival = Arrival {
            link: LinkId(0),
            side: PortSide::Outside,
            original_len,
        };
        let place = Place {
            config: &self.config,
            steering: None,
        };
        for frame in &self.frames {
            self.batch.push(frame, arrival, &place, Origin::Queue);
        }
        self.batch
            .run(&place, &mut self.shard, &self.snapshot, self.now);
        let is_expected =
            |fate: &Fate| matches!(fate, Fate::Judged(outcome) if outcome.verdict == expected);
        self.batch.fates().filter(is_expected).count()
    }
}

/// What differs between flows' frames, big-endian, the IPv4 header checksum with it.
#[derive(Clone, Copy)]
struct Flow {
    source: [u8; 4],
    port: [u8; 2],
    checksum: [u8; 2],
}

impl Flow {
    /// Flow number `index` of the network `first`.0.0.0/8.
    fn new(first: u8, index: u32) -> Self {
        let [_, b, c, d] = (index >> 3).to_be_bytes();
        let source = [first, b, c, d];
        Self {
            source,
            port: (1024 + (index & 7) as u16).to_be_bytes(),
            checksum: header_checksum(source),
        }
    }
}

/// The header checksum (RFC 1071) of the benchmark's packets from a source: all else is the same.
fn header_checksum(source: [u8; 4]) -> [u8; 2] {
    static HEADER: OnceLock<Vec<u8>> = OnceLock::new();
    let header = HEADER.get_or_init(|| template()[14..34].to_vec());
    let mut header: [u8; 20] = header.as_slice().try_into().expect("twenty bytes");
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&source);
    let words = header.chunks_exact(2);
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

fn template() -> Vec<u8> {
    let frame = build::v4("10.0.0.0", "192.0.2.1").udp(0, 53);
    frame.payload(&[0; 18]).build()
}

/// Draws of one benchmark: enough that no cache holds what they lead to.
const DRAWS: usize = 1 << 20;

fn draws(first: u8, flows: u32) -> Vec<Flow> {
    let mut random = Random::new(7);
    let all: Vec<Flow> = (0..flows.min(1 << 21))
        .map(|index| Flow::new(first, index))
        .collect();
    (0..DRAWS)
        .map(|_| {
            let index = random.below(flows as usize);
            all.get(index)
                .copied()
                .unwrap_or_else(|| Flow::new(first, index as u32))
        })
        .collect()
}

fn opened(flows: u32) -> World {
    let mut world = World::new(flows + flows / 8 + 64);
    let mut refused = 0;
    for start in (0..flows).step_by(BATCH_MAX) {
        let burst: Vec<Flow> = (start..start + 64)
            .map(|index| Flow::new(10, index))
            .collect();
        world.write(&burst);
        refused += BATCH_MAX - world.run(Verdict::Pass(PassReason::Rule));
    }
    assert_eq!(refused, 0, "every flow has an entry");
    world
}

fn flow_counts() -> Vec<u32> {
    let more = std::env::var("PORTCULLIS_BENCH_FLOWS")
        .ok()
        .and_then(|text| text.parse().ok());
    [10_000, 1_000_000].into_iter().chain(more).collect()
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/hit");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    for flows in flow_counts() {
        let mut world = opened(flows);
        let draws = draws(10, flows);
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        let tracked = Verdict::Pass(PassReason::Tracked);
        group.bench_function(BenchmarkId::new("burst", flows), |bencher| {
            bencher.iter(|| {
                world.write(bursts.next().expect("cycles"));
                assert_eq!(world.run(tracked), BATCH_MAX);
            });
        });
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        group.bench_function(BenchmarkId::new("write", flows), |bencher| {
            bencher.iter(|| {
                world.write(bursts.next().expect("cycles"));
                black_box(&mut world.frames);
            });
        });
        let mut floor = Floor::new(flows);
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        group.bench_function(BenchmarkId::new("floor", flows), |bencher| {
            bencher.iter(|| {
                world.write(bursts.next().expect("cycles"));
                floor.run(&world.frames);
            });
        });
        let burst = &draws[..BATCH_MAX];
        let count = count_allocations(|| {
            world.write(burst);
            assert_eq!(world.run(tracked), BATCH_MAX);
        });
        assert_eq!(count, 0, "a hit allocates nothing");
    }
    group.finish();
}

fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/miss");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    let mut world = opened(10_000);
    // 11.0.0.0/8 is in no rule.
    let draws = draws(11, 1_000_000);
    let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
    let denied = Verdict::Drop(DropReason::NoRule);
    group.bench_function(BenchmarkId::new("burst", "1k rules"), |bencher| {
        bencher.iter(|| {
            world.write(bursts.next().expect("cycles"));
            assert_eq!(world.run(denied), BATCH_MAX);
        });
    });
    let count = count_allocations(|| {
        world.write(&draws[..BATCH_MAX]);
        assert_eq!(world.run(denied), BATCH_MAX);
    });
    assert_eq!(count, 0, "a miss allocates nothing");
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = hits, misses
}
criterion_main!(benches);

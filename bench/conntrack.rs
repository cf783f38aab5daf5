//! The connection table alone, one core: hits in uniform random order, new flows and their expiry,
//! and memory. The longest pause is pauses.rs.
//!
//! `PORTCULLIS_BENCH_FLOWS=8000000` adds a row of that many flows to the hits and sets how many the
//! others hold (default a million).
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a benchmark may end, and prints"
)]

#[path = "support/flows.rs"]
mod flows;
mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flows::{FRAME_LEN, key, open, shard, udp};
use portcullis::clock::Tick;
use portcullis::compile::sample::Random;
use portcullis::conntrack::{FlowHash, Shard, Track};
use portcullis::packet::{End, FlowKey, IpPacket};
use support::count_allocations;

/// Packets whose cache misses are taken together, as in the pipeline.
const BATCH: usize = 64;
/// Keys that are drawn in advance: enough that no cache holds what they lead to.
const DRAWS: usize = 1 << 20;

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

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = hits, churn
}
criterion_main!(benches);

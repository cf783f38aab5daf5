//! The whole pipeline in memory, one core: ns per packet for hits and misses, and allocations.
//!
//! Every burst's headers are rewritten from a pre-drawn uniform random sequence over all live
//! flows, since cycling over a few thousand prepared frames would measure the cache. `write` is
//! that rewriting alone: subtract it. `floor` is the least that any gateway does: one header
//! line read, one hash, one 64-byte line of a table of that size touched and updated, with
//! prefetch over the batch, in the same kind of memory; it is measured by the same harness,
//! rewriting included.
//!
//! `-- --bars` prints the hit path stage by stage beside its floor, for UDP, TCP and IPv6, from
//! rounds that alternate. `-- --profile hit|parse|lookup|floor|write` runs one of them for a
//! profiler. `PORTCULLIS_BENCH_FLOWS=8000000` adds that many flows.
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark may end, print, and read the clock"
)]

#[path = "pipeline/bars.rs"]
mod bars;
#[path = "support/flags.rs"]
mod flags;
#[path = "support/floor.rs"]
mod floor;
mod support;
#[path = "pipeline/world.rs"]
mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use flags::after;
use floor::Floor;
use portcullis::pipeline::BATCH_MAX;
use portcullis::types::{DropReason, PassReason, Verdict};
use support::count_allocations;
use world::{Flows, Kind, World};

const DRAWS: usize = 1 << 20;

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
        let kind = Kind::Udp;
        let mut world = World::opened(kind, flows);
        let draws = Flows::new(kind, 10).draws(flows, DRAWS);
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        let tracked = Verdict::Pass(PassReason::Tracked);
        group.bench_function(BenchmarkId::new("burst", flows), |bencher| {
            bencher.iter(|| {
                let burst = bursts.next().expect("cycles");
                world.write(burst);
                assert_eq!(world.run(burst, tracked), BATCH_MAX);
            });
        });
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        group.bench_function(BenchmarkId::new("write", flows), |bencher| {
            bencher.iter(|| {
                world.write(bursts.next().expect("cycles"));
                black_box(&mut world);
            });
        });
        let mut floor = Floor::new(flows);
        let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
        group.bench_function(BenchmarkId::new("floor", flows), |bencher| {
            bencher.iter(|| {
                let burst = bursts.next().expect("cycles");
                world.write(burst);
                floor.run(kind.floor_words(), world.frames(burst));
            });
        });
    }
    group.finish();
    for kind in Kind::ALL {
        let mut world = World::opened(kind, 10_000);
        let draws = Flows::new(kind, 10).draws(10_000, BATCH_MAX);
        let count = count_allocations(|| {
            world.write(&draws);
            let tracked = Verdict::Pass(PassReason::Tracked);
            assert_eq!(world.run(&draws, tracked), BATCH_MAX);
        });
        assert_eq!(count, 0, "a hit allocates nothing: {kind:?}");
    }
}

fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/miss");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    // 11.0.0.0/8 is in no rule.
    let mut world = World::new(Kind::Udp, 11, 10_000);
    let draws = Flows::new(Kind::Udp, 11).draws(1_000_000, DRAWS);
    let mut bursts = draws.chunks_exact(BATCH_MAX).cycle();
    let denied = Verdict::Drop(DropReason::NoRule);
    group.bench_function(BenchmarkId::new("burst", "1k rules"), |bencher| {
        bencher.iter(|| {
            let burst = bursts.next().expect("cycles");
            world.write(burst);
            assert_eq!(world.run(burst, denied), BATCH_MAX);
        });
    });
    let burst = &draws[..BATCH_MAX];
    let count = count_allocations(|| {
        world.write(burst);
        assert_eq!(world.run(burst, denied), BATCH_MAX);
    });
    assert_eq!(count, 0, "a miss allocates nothing");
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = hits, misses
}

fn main() {
    if after("--bars").is_some() {
        return bars::run(&flow_counts());
    }
    if let Some(row) = after("--profile") {
        let kind = match after("--kind").as_deref() {
            Some("tcp4") => Kind::Tcp,
            Some("udp6") => Kind::Udp6,
            _ => Kind::Udp,
        };
        let number = |flag, absent| after(flag).and_then(|t| t.parse().ok()).unwrap_or(absent);
        let bursts = number("--bursts", 10_000) as usize;
        return bars::profile(&row, kind, number("--flows", 10_000_u32), bursts);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}

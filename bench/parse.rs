//! Nanoseconds and allocations for one frame: our parser, and etherparse over the same frames.
//!
//! `SlicedPacket` is etherparse's checking parser and the nearer peer (it verifies no IPv4 checksum
//! and builds no value, only slices); `LaxSlicedPacket` is the one that forgives lengths. The
//! frames of a burst differ in their addresses and ports, so that branches and not values are
//! predicted. `cargo bench --bench parse`; before it measures it asserts that parsing and hashing
//! allocate nothing.

mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{LaxSlicedPacket, SlicedPacket};
use portcullis::packet::build::{self, FrameBuilder};
use portcullis::packet::{Address, FlowHasher, FlowKey, Parsed, parse};
use portcullis::types::LinkId;

/// Frames of a burst: the worker's batch.
const BURST: u32 = 64;

/// A burst of one kind of frame.
struct Case {
    name: &'static str,
    frames: Vec<Vec<u8>>,
}

fn cases() -> Vec<Case> {
    let v4 = |index: u32| {
        build::between(
            Address::V4(0x0a00_0000 + index),
            Address::V4(0x0a01_0000 + index),
        )
    };
    let v6 = |index: u32| {
        let prefix = 0x2001_0db8_u128 << 96;
        build::between(
            Address::V6(prefix | u128::from(index)),
            Address::V6(prefix | 1 << 64 | u128::from(index)),
        )
    };
    let port = |index: u32| 1024 + u16::try_from(index).unwrap_or(0);
    let burst = |name, make: &dyn Fn(u32) -> FrameBuilder| Case {
        name,
        frames: (0..BURST).map(|index| make(index).build()).collect(),
    };
    vec![
        // 60 bytes and the frame check sequence: 64 on the wire.
        burst("ipv4_tcp_64", &|n| v4(n).tcp(port(n), 443).ack().pad_to(60)),
        burst("ipv6_udp", &|n| v6(n).udp(port(n), 53).payload_len(18)),
        burst("qinq_ipv4_udp", &|n| {
            v4(n).tag(0x88a8, 7).vlan(20).udp(port(n), 53)
        }),
        burst("ipv4_syn_options", &|n| {
            let options = [
                2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
            ];
            v4(n).tcp(port(n), 443).syn().tcp_options(&options)
        }),
        burst("ipv6_four_headers", &|n| {
            v6(n)
                .hop_by_hop()
                .destination_options()
                .routing(2)
                .mobility()
                .udp(port(n), 53)
        }),
    ]
}

/// What a worker does with a frame before it looks anything up.
fn parse_and_hash(hasher: &FlowHasher, frame: &[u8]) -> u64 {
    match parse(frame, frame.len()) {
        Parsed::Ip(packet) => {
            FlowKey::of(LinkId(0), &packet).map_or(0, |(key, _)| hasher.hash(&key))
        }
        _ => 0,
    }
}

fn assert_no_allocation(case: &Case, hasher: &FlowHasher) {
    let allocations = support::count_allocations(|| {
        for frame in &case.frames {
            black_box(parse_and_hash(hasher, black_box(frame)));
        }
    });
    assert_eq!(allocations, 0, "{}", case.name);
}

fn parsers(criterion: &mut Criterion) {
    let hasher = FlowHasher::random();
    for case in cases() {
        assert_no_allocation(&case, &hasher);
        let mut group = criterion.benchmark_group(case.name);
        group.throughput(Throughput::Elements(case.frames.len() as u64));
        group.bench_function("parse", |bencher| {
            bencher.iter(|| {
                for frame in &case.frames {
                    black_box(parse(black_box(frame), frame.len()));
                }
            });
        });
        group.bench_function("parse_and_hash", |bencher| {
            bencher.iter(|| {
                for frame in &case.frames {
                    black_box(parse_and_hash(&hasher, black_box(frame)));
                }
            });
        });
        group.bench_function("etherparse", |bencher| {
            bencher.iter(|| {
                for frame in &case.frames {
                    black_box(SlicedPacket::from_ethernet(black_box(frame)).ok());
                }
            });
        });
        group.bench_function("etherparse_lax", |bencher| {
            bencher.iter(|| {
                for frame in &case.frames {
                    black_box(LaxSlicedPacket::from_ethernet(black_box(frame)).ok());
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, parsers);
criterion_main!(benches);

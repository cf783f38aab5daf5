//! Verdicts on a miss, and compilation: nanoseconds a question for policies of 10 to 10,000 rules
//! with remote addresses in random order, and the time that a policy takes to compile.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::compile::Compiler;
use portcullis::compile::sample::{self, Random, Size};
use portcullis::packet::{Address, VlanTags};
use portcullis::policy::{Peer, Policy};
use portcullis::snapshot::{InterfaceRef, Question, Snapshot};
use portcullis::types::{Direction, Generation, LinkId};

/// Questions that are asked in turn: enough that neither they nor the answers stay in a cache.
const QUESTIONS: usize = 1 << 16;
const SEED: u64 = 20_261_124;

/// A policy of many groups, as an account has it, and one of a single large group.
fn policies(rules: usize) -> [(&'static str, Policy); 2] {
    let size = Size {
        rules,
        interfaces: (rules / 5).max(8),
    };
    [
        ("many_groups", sample::policy(size, SEED)),
        ("one_group", sample::one_large_group(rules, SEED)),
    ]
}

fn compile(policy: &Policy) -> Snapshot {
    Compiler::new()
        .compile(policy, &["link"], Generation(1))
        .expect("samples compile")
}

/// An interface, and a question that it may be asked: half of the remotes are of some rule.
fn question(policy: &Policy, snapshot: &Snapshot, random: &mut Random) -> (InterfaceRef, Question) {
    let owned = random.pick(&policy.interfaces).addresses[0].addr().into();
    let interface = snapshot
        .interface_of(LinkId(0), VlanTags::default(), owned)
        .expect("it is behind the link");
    let anywhere = Address::V4(u32::try_from(random.bits() >> 32).unwrap_or_default());
    let rules = &random.pick(&policy.groups).ingress;
    let remote = match random.below(4) {
        0 => Address::from(random.pick(&policy.interfaces).addresses[0].addr()),
        1 if !rules.is_empty() => match random.pick(rules).peer {
            Peer::Cidr4(net) => Address::V4(net.broadcast().to_bits()),
            Peer::Cidr6(net) => Address::V6(net.broadcast().to_bits()),
            Peer::Group(_) | Peer::PrefixList(_) => anywhere,
        },
        _ => anywhere,
    };
    let question = Question {
        remote,
        protocol: *random.pick(&[6, 6, 6, 17]),
        service: *random.pick(&[22, 53, 80, 443, 5432, 8080, 9100, 40_000]),
    };
    (interface, question)
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    group.throughput(Throughput::Elements(QUESTIONS as u64));
    for rules in [10, 1_000, 10_000] {
        for (shape, policy) in policies(rules) {
            let snapshot = compile(&policy);
            let mut random = Random::new(SEED);
            let questions: Vec<_> = (0..QUESTIONS)
                .map(|_| question(&policy, &snapshot, &mut random))
                .collect();
            group.bench_with_input(
                BenchmarkId::new(shape, rules),
                &questions,
                |b, questions| {
                    b.iter(|| {
                        for (interface, question) in questions {
                            black_box(snapshot.decide(*interface, Direction::Ingress, question));
                        }
                    });
                },
            );
        }
    }
    group.finish();
}

fn compilation(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(3));
    for rules in [1_000, 10_000] {
        for (shape, policy) in policies(rules) {
            group.bench_with_input(BenchmarkId::new(shape, rules), &policy, |b, policy| {
                b.iter(|| black_box(compile(policy)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decide, compilation);
criterion_main!(benches);

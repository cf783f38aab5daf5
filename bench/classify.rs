//! The classifier: a verdict on a miss, compilation, a small change, memory.
//!
//! `cargo bench --bench classify [-- PART…]`; parts are `verdict`, `cold`, `compile`, `change` and
//! `memory`. Prints medians of several rounds with the least and the most, since machines are
//! shared.
//!
//! The peer of `verdict class-bench` is DPDK's `rte_acl`, with rules from the same distributions: a
//! filter of `RULES` prefixes of 10.0.0.0/8 and ports, built by `rte_acl_build`, classified in
//! bursts of 32 by `rte_acl_classify` in its best vector width, half of the packets inside a random
//! rule, half random in 10.0.0.0/8, on the same core in the same hour. (`rte_acl` looks at both
//! addresses; here an interface stands for the other one, and is looked up too.)

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up has to stop, and has its figures to print"
)]

#[path = "support/memory.rs"]
mod memory_in_use;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portcullis::clock::MonotonicClock;
use portcullis::compile::Compiler;
use portcullis::compile::sample::{self, Random, Size, worst};
use portcullis::control::{Intent, Origin, PolicyState};
use portcullis::packet::{Address, VlanTags};
use portcullis::policy::{Peer, Policy, PortRange, Rule, Service};
use portcullis::snapshot::{InterfaceRef, Publisher, Question, Snapshot};
use portcullis::types::{Direction, Generation, LinkId, RuleId};

/// Questions that are asked in turn: enough that neither they nor the answers stay in a cache.
const QUESTIONS: usize = 1 << 16;
/// Rounds of one figure.
const ROUNDS: usize = 9;
/// The rule that comes and goes.
const CHANGED: &str = "sgr-changed";
/// Small changes of one figure.
const CHANGES: usize = 200;
const WORKERS: u16 = 2;
const SEED: u64 = 20_261_124;
/// How many rules.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// 100,000 rules in 10,000 groups on 100,000 interfaces.
const SCALE: Size = Size {
    rules: 100_000,
    interfaces: 100_000,
};

type Asked = (InterfaceRef, Question);

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let parts: [(&str, fn()); 5] = [
        ("verdict", verdict),
        ("cold", cold),
        ("compile", compilation),
        ("change", change),
        ("memory", memory),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|asked| asked == name) {
            part();
        }
    }
}

fn compile(policy: &Policy) -> Snapshot {
    Compiler::new()
        .compile(policy, &["link"], Generation(1))
        .expect("samples compile")
}

/// A snapshot and the compiler that made it.
fn kept(policy: &Policy) -> (Compiler, Snapshot) {
    let mut compiler = Compiler::new();
    let snapshot = compiler.compile(policy, &["link"], Generation(1));
    (compiler, snapshot.expect("samples compile"))
}

/// Median, least and most of some durations, in a unit of so many nanoseconds.
fn figure(mut times: Vec<Duration>, unit: f64) -> String {
    times.sort_unstable();
    let shown = |time: &Duration| time.as_secs_f64() * 1e9 / unit;
    let [least, most] = [times.first(), times.last()].map(|time| time.map_or(0.0, shown));
    let median = times.get(times.len() / 2).map_or(0.0, shown);
    format!("{median:8.2}  [{least:.2}-{most:.2}]")
}

fn timed(work: impl FnOnce()) -> Duration {
    let clock = MonotonicClock::start();
    let started = clock.now();
    work();
    Duration::from_nanos(
        clock
            .now()
            .since(started)
            .as_nanos()
            .try_into()
            .unwrap_or(u64::MAX),
    )
}

/// Nanoseconds a question.
fn ask(name: &str, snapshot: &Snapshot, questions: &[Asked]) {
    let round = || {
        for (interface, question) in questions {
            black_box(snapshot.decide(*interface, Direction::Ingress, question));
        }
    };
    round();
    let times = (0..ROUNDS).map(|_| timed(round)).collect();
    #[expect(clippy::cast_precision_loss, reason = "a count of questions")]
    let unit = questions.len() as f64;
    println!("{name:32} {} ns", figure(times, unit));
}

fn owner(snapshot: &Snapshot, address: Address) -> InterfaceRef {
    snapshot
        .interface_of(LinkId(0), VlanTags::default(), address)
        .expect("it is behind the link")
}

fn anywhere(random: &mut Random) -> Address {
    Address::V4(u32::try_from(random.bits() >> 32).unwrap_or_default())
}

/// An interface, and a question that it may be asked: half of the remotes are of some rule.
fn question(policy: &Policy, snapshot: &Snapshot, random: &mut Random) -> Asked {
    let owned = random.pick(&policy.interfaces).addresses[0].addr().into();
    let rules = &random.pick(&policy.groups).ingress;
    let remote = match random.below(4) {
        0 => Address::from(random.pick(&policy.interfaces).addresses[0].addr()),
        1 if !rules.is_empty() => match random.pick(rules).peer {
            Peer::Cidr4(net) => Address::V4(net.broadcast().to_bits()),
            Peer::Cidr6(net) => Address::V6(net.broadcast().to_bits()),
            Peer::Group(_) | Peer::PrefixList(_) => anywhere(random),
        },
        _ => anywhere(random),
    };
    let question = Question {
        remote,
        protocol: *random.pick(&[6, 6, 6, 17]),
        service: *random.pick(&[22, 53, 80, 443, 5432, 8080, 9100, 40_000]),
    };
    (owner(snapshot, owned), question)
}

/// Half inside a random rule, half anywhere in 10.0.0.0/8.
fn class_bench_question(policy: &Policy, snapshot: &Snapshot, random: &mut Random) -> Asked {
    let interface = owner(snapshot, Address::V4(0x0a00_0001));
    let inside = Address::V4(0x0a00_0000 | u32::try_from(random.bits() >> 40).unwrap_or(0));
    let rule = random.pick(&policy.groups[0].ingress);
    let port = u16::try_from(random.bits() >> 48).unwrap_or(0);
    let (protocol, ports) = match rule.service {
        Service::Tcp(ports) => (6, ports),
        Service::Udp(ports) => (17, ports),
        _ => (6, PortRange::ALL),
    };
    let (remote, service) = match (random.chance(50), rule.peer) {
        (true, Peer::Cidr4(net)) => (Address::V4(net.network().to_bits()), ports.from),
        _ => (inside, port),
    };
    let question = Question {
        remote,
        protocol,
        service,
    };
    (interface, question)
}

/// R1: the same cost for any number of rules.
fn verdict() {
    for rules in SIZES {
        let size = Size {
            rules,
            interfaces: (rules / 5).max(8),
        };
        let made = [
            ("groups", sample::policy(size, SEED)),
            ("one-group", sample::one_large_group(rules, SEED)),
            ("class-bench", worst::class_bench(rules, SEED)),
        ];
        for (shape, policy) in made {
            let snapshot = compile(&policy);
            let mut random = Random::new(SEED);
            let questions: Vec<_> = (0..QUESTIONS)
                .map(|_| match shape {
                    "class-bench" => class_bench_question(&policy, &snapshot, &mut random),
                    "one-group" => {
                        let (_, question) = question(&policy, &snapshot, &mut random);
                        let first = policy.interfaces[0].addresses[0].addr();
                        (owner(&snapshot, first.into()), question)
                    }
                    _ => question(&policy, &snapshot, &mut random),
                })
                .collect();
            ask(&format!("verdict {shape} {rules}"), &snapshot, &questions);
        }
    }
}

/// R2: realistic rules, remotes from anywhere, another interface each time.
fn cold() {
    let size = Size {
        rules: 10_000,
        interfaces: 2_000,
    };
    let policy = sample::policy(size, SEED);
    let snapshot = compile(&policy);
    let mut random = Random::new(SEED);
    let questions: Vec<_> = (0..QUESTIONS * 16)
        .map(|_| {
            let (interface, asked) = question(&policy, &snapshot, &mut random);
            let remote = anywhere(&mut random);
            (interface, Question { remote, ..asked })
        })
        .collect();
    ask("cold groups 10000", &snapshot, &questions);
}

/// R3: from nothing.
fn compilation() {
    let made = [
        (
            "10000 rules",
            sample::policy(
                Size {
                    rules: 10_000,
                    interfaces: 2_000,
                },
                SEED,
            ),
            9,
        ),
        (
            "100000 rules, 100000 interfaces",
            sample::policy(SCALE, SEED),
            5,
        ),
        (
            "100000 rules of one interface",
            sample::one_large_group(100_000, SEED),
            5,
        ),
        (
            "100000 rules, class-bench",
            worst::class_bench(100_000, SEED),
            5,
        ),
        ("a list of 1000000", worst::long_list(1_000_000, SEED), 5),
        (
            "50000 members, 1000 groups",
            worst::popular_group(50_000, 1_000),
            5,
        ),
        ("32000 overlapping ranges", worst::overlapping(32_000), 5),
    ];
    for (name, policy, rounds) in made {
        let times = (0..rounds).map(|_| {
            // What is made is kept until the clock has stopped, as a gateway keeps it.
            let mut made = None;
            let time = timed(|| made = Some(kept(&policy)));
            drop(black_box(made));
            time
        });
        let times = times.collect();
        println!("compile {name:32} {} ms", figure(times, 1e6));
    }
}

/// R4: from a parsed policy with one rule more, or less, to all workers using it.
fn change() {
    let large = sample::one_large_group(100_000, SEED);
    let at_large = large.groups.len() - 1;
    let made = [
        (
            "scale, a group's rule",
            sample::policy(SCALE, SEED),
            5_000,
            "64.1.2.0/24",
        ),
        (
            "scale, the default group's",
            sample::policy(SCALE, SEED),
            0,
            "64.1.2.3/32",
        ),
        (
            "scale, a new peer 10.0.0.0/8",
            sample::policy(SCALE, SEED),
            5_000,
            "10.0.0.0/8",
        ),
        ("one group of 100000 rules", large, at_large, "64.1.2.0/24"),
    ];
    for (name, policy, group, peer) in made {
        let clock = MonotonicClock::start();
        let links = vec!["link".to_owned()];
        let first = PolicyState::compile_first(&policy, &links, &clock);
        let (compiler, snapshot, time) = first.expect("samples compile");
        let (publisher, readers) = Publisher::new(Arc::new(snapshot), WORKERS);
        let state = PolicyState::new(policy.clone(), compiler, publisher, links, time);
        let stop = AtomicBool::new(false);
        let times = thread::scope(|scope| {
            for mut reader in readers {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        black_box(reader.load().generation());
                        thread::yield_now();
                    }
                });
            }
            let times = (0..CHANGES).map(|number| {
                let next = changed(&state.policy(), number, group, peer);
                timed(|| {
                    let published = state
                        .publish(
                            next,
                            Origin::File,
                            Intent::Change,
                            Generation::default(),
                            &clock,
                        )
                        .expect("it compiles");
                    state
                        .wait_live(published.generation, Duration::from_secs(10), &clock)
                        .expect("workers load");
                })
            });
            let times = times.collect();
            stop.store(true, Ordering::Relaxed);
            times
        });
        println!("change {name:32} {} ms", figure(times, 1e6));
    }
}

/// The policy with a rule in the middle of a group, in every other round.
fn changed(policy: &Policy, round: usize, group: usize, peer: &str) -> Policy {
    let mut next = policy.clone();
    let rules = &mut Arc::make_mut(&mut next.groups[group]).ingress;
    let middle = rules.len() / 2;
    if round % 2 == 1 {
        rules.retain(|rule| rule.id.as_str() != CHANGED);
        return next;
    }
    let ports = PortRange {
        from: 7_000,
        to: 7_000,
    };
    rules.insert(
        middle,
        Rule {
            id: RuleId(CHANGED.into()),
            service: Service::Tcp(ports),
            peer: Peer::Cidr4(peer.parse().expect("a prefix")),
            description: None,
        },
    );
    next
}

/// R5 and R6: bytes in use with a snapshot, and at most while it changes.
fn memory() {
    let policy = sample::policy(SCALE, SEED);
    let without = memory_in_use::live_bytes();
    let mut compiler = Compiler::new();
    let mut snapshot = Arc::new(
        compiler
            .compile(&policy, &["link"], Generation(1))
            .expect("ok"),
    );
    let steady = memory_in_use::live_bytes() - without;
    println!(
        "memory scale: {} MB by its own count, {} MB with the compiler",
        snapshot.stats().bytes / 1_000_000,
        steady / 1_000_000
    );
    let mut last = policy.clone();
    let peak = memory_in_use::peak_bytes(|| {
        for (round, generation) in (0..20).zip(2..) {
            let next = changed(&last, round, 5_000, "64.1.2.0/24");
            let after = compiler
                .compile(&next, &["link"], Generation(generation))
                .expect("ok");
            // The one before lives until the next is in force.
            snapshot = Arc::new(after);
            last = next;
        }
    }) - without;
    println!(
        "memory scale, peak of small changes: {} MB",
        peak / 1_000_000
    );
    black_box(snapshot);
}

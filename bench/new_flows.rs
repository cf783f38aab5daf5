//! New flows through the whole pipeline in memory, one core: a miss, its verdict by 10,000 rules of
//! a realistic policy, its entry, and later its expiry; ns per flow and allocations.
//!
//! Every packet begins a flow: half leave (a SYN or a datagram of an interface to anywhere), half
//! come in (from a peer of some rule); all are allowed and tracked. What is drawn in advance is an
//! interface, a remote end and a service in random order; each round over the draws takes another
//! port of the opener, so that no flow comes twice in hours. The clock runs so that the table stays
//! nine tenths full and expires as many as it opens. Flows are counted by interface, as in the
//! gateway. `write` is making the frames alone: subtract
//! it. `floor` is the harness's floor (support/floor.rs), `write` included.
//!
//! `-- --bars` prints a new flow beside the floor and stage by stage, from rounds that alternate;
//! `-- --profile BURSTS` runs so many bursts on the full table for a profiler.
//! `PORTCULLIS_BENCH_FLOWS=8000000` sets the table's size (default a million).
#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark may end, print, and read the clock"
)]

#[path = "support/flags.rs"]
mod flags;
#[path = "support/floor.rs"]
mod floor;
mod support;

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use flags::after;
use floor::{Floor, WORDS_V4};
use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::compile::sample::{self, Random, Size};
use portcullis::conntrack::{PerInterface, Shard, ShardConfig};
use portcullis::packet::{Address, VlanTags, build};
use portcullis::pipeline::{Arrival, BATCH_MAX, Batch, Fate, Origin, PipelineConfig, Place};
use portcullis::policy::{Peer, Policy};
use portcullis::snapshot::{Decision, Question, Snapshot};
use portcullis::types::{Direction, Generation, LinkId, PassReason, PortSide, Verdict, protocol};
use support::count_allocations;

const RULES: usize = 10_000;
const INTERFACES: usize = 2_000;
const SEED: u64 = 20_261_124;
/// Draws of interface, remote end and service: enough that no cache holds what they lead to.
const DRAWS: usize = 1 << 17;
/// Offset of the opener's port in an untagged IPv4 frame.
const SOURCE_PORT: usize = 34;
/// How long a flow lives that nobody answers: SYN and UDP alike.
const TIMEOUT_NS: u64 = 30_000_000_000;

/// What a burst goes through.
const STAGES: [&str; 4] = ["parse, hash", "judge, insert", "fates", "expire"];
/// Rounds of `--bars`.
const ROUNDS: usize = 1000;
/// Bursts of each row in a round: so few that they are mostly done before the core is lent to
/// somebody else.
const SLICE: usize = 32;

/// Bytes of the benchmark's frames.
const FRAME_BYTES: usize = 60;

type Drawn = ([u8; FRAME_BYTES], PortSide);

/// A packet that a rule allows and that begins a tracked flow, if this draw is one.
fn draw(
    policy: &Policy,
    snapshot: &Snapshot,
    direction: Direction,
    random: &mut Random,
) -> Option<Drawn> {
    let owned = random.pick(&policy.interfaces).addresses[0].addr().into();
    let owner = |address| snapshot.interface_of(LinkId(0), VlanTags::default(), address);
    let interface = owner(owned)?;
    let anywhere = Address::V4((random.bits() >> 32) as u32);
    let rules = &random.pick(&policy.groups).ingress;
    let remote = match random.pick(rules).peer {
        Peer::Cidr4(net) if direction == Direction::Ingress && net.prefix_len() > 0 => {
            Address::V4(net.broadcast().to_bits())
        }
        _ => anywhere,
    };
    if owner(remote).is_some() || remote.is_multicast_or_broadcast() {
        return None;
    }
    let question = Question {
        remote,
        protocol: *random.pick(&[6, 6, 6, 17]),
        service: *random.pick(&[22, 53, 80, 443, 5432, 8080, 9100, 40_000]),
    };
    match snapshot.decide(interface, direction, &question) {
        Decision::Allow {
            untracked: false, ..
        } => {}
        _ => return None,
    }
    let (source, destination, side) = match direction {
        Direction::Egress => (owned, remote, PortSide::Inside),
        Direction::Ingress => (remote, owned, PortSide::Outside),
    };
    let frame = build::between(source, destination);
    let frame = if question.protocol == protocol::TCP {
        frame.tcp(1, question.service).syn().payload(&[0; 6])
    } else {
        frame.udp(1, question.service).payload(&[0; 18])
    };
    Some((frame.build().try_into().ok()?, side))
}

struct World {
    snapshot: Snapshot,
    config: PipelineConfig,
    shard: Shard,
    batch: Batch,
    draws: Vec<Drawn>,
    /// Where the next burst begins in `draws`, and the opener's port of this round.
    next: usize,
    port: u16,
    frames: [[u8; FRAME_BYTES]; BATCH_MAX],
    sides: [PortSide; BATCH_MAX],
    now: Tick,
    step_ns: u64,
}

impl World {
    fn new(max_flows: u32) -> Self {
        let size = Size {
            rules: RULES,
            interfaces: INTERFACES,
        };
        let policy = sample::policy(size, SEED);
        let snapshot = Compiler::new()
            .compile(&policy, &["link"], Generation(1))
            .expect("samples compile");
        let mut random = Random::new(SEED);
        let mut drawn = |place: usize| {
            let direction = match place % 2 {
                0 => Direction::Egress,
                _ => Direction::Ingress,
            };
            let draw = || draw(&policy, &snapshot, direction, &mut random);
            std::iter::repeat_with(draw).flatten().next()
        };
        let draws: Vec<Drawn> = (0..DRAWS).filter_map(&mut drawn).collect();
        let count = policy.count();
        println!("{} rules, {} interfaces", count.rules, count.interfaces);
        let shard = ShardConfig {
            per_interface: PerInterface::COUNTED,
            ..ShardConfig::new(max_flows, [11, 12])
        };
        Self {
            snapshot,
            config: PipelineConfig::default(),
            shard: Shard::new(&shard, Tick(0)),
            batch: Batch::default(),
            draws,
            next: 0,
            port: 1,
            frames: [[0; FRAME_BYTES]; BATCH_MAX],
            sides: [PortSide::Inside; BATCH_MAX],
            now: Tick(0),
            step_ns: TIMEOUT_NS * BATCH_MAX as u64 * 10 / (u64::from(max_flows) * 9),
        }
    }

    /// Makes the next burst's frames.
    fn write(&mut self) {
        if self.next == DRAWS {
            self.next = 0;
            self.port = self.port.wrapping_add(1);
        }
        let drawn = &self.draws[self.next..self.next + BATCH_MAX];
        self.next += BATCH_MAX;
        let port = self.port.to_be_bytes();
        for ((frame, side), (made, its_side)) in
            self.frames.iter_mut().zip(&mut self.sides).zip(drawn)
        {
            *frame = *made;
            frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port);
            *side = *its_side;
        }
    }

    /// Judges the burst; returns how many a rule let in.
    fn run(&mut self) -> usize {
        self.run_in_stages(|_| ())
    }

    /// The same; `is_done` is told of the end of each stage of [`STAGES`].
    fn run_in_stages(&mut self, mut is_done: impl FnMut(usize)) -> usize {
        self.now = Tick(self.now.0 + self.step_ns);
        self.batch.clear();
        let place = Place {
            config: &self.config,
            steering: None,
        };
        for (frame, side) in self.frames.iter().zip(self.sides) {
            let arrival = Arrival {
                link: LinkId(0),
                side,
                original_len: FRAME_BYTES as u32,
            };
            self.batch
                .push(frame, arrival, &place, &self.shard, Origin::Queue);
        }
        is_done(0);
        self.batch
            .run(&place, &mut self.shard, &self.snapshot, self.now);
        is_done(1);
        let by_rule = Verdict::Pass(PassReason::Rule);
        let is_new =
            |fate: &Fate| matches!(fate, Fate::Judged(outcome) if outcome.verdict == by_rule);
        let passed = self.batch.fates().filter(is_new).count();
        is_done(2);
        self.shard.expire(self.now);
        is_done(3);
        passed
    }
}

/// Makes a burst's frames and judges them. A function of its own for profilers.
#[inline(never)]
fn turn(world: &mut World) -> usize {
    world.write();
    world.run()
}

/// A world whose table is as full as it stays.
fn full_world(flows: u32) -> World {
    let mut world = World::new(flows);
    for _ in 0..2 * world.shard.capacity() as usize / BATCH_MAX {
        turn(&mut world);
    }
    world
}

fn flow_count() -> u32 {
    let flows = std::env::var("PORTCULLIS_BENCH_FLOWS").ok();
    flows
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000)
}

/// Prints ns a flow, median and middle half of the rounds, what writing the frames costs
/// subtracted; the stages are those of [`World::run_in_stages`], with the clock read after each.
fn bars() {
    let mut world = full_world(flow_count());
    let mut floor = Floor::new(flow_count());
    let mut rows: [Vec<f64>; STAGES.len() + 2] = Default::default();
    let [floors, wholes, stages @ ..] = &mut rows;
    for _ in 0..ROUNDS {
        let per_flow = |ns: u128| ns as f64 / (SLICE * BATCH_MAX) as f64;
        let timed = |world: &mut World, body: &mut dyn FnMut(&mut World)| {
            let start = Instant::now();
            for _ in 0..SLICE {
                world.write();
                body(world);
            }
            per_flow(start.elapsed().as_nanos())
        };
        let write = timed(&mut world, &mut |world| _ = black_box(&mut world.frames));
        let mut floor = |world: &mut World| {
            floor.run(WORDS_V4, world.frames.iter().map(|frame| &frame[..]));
        };
        floors.push(timed(&mut world, &mut floor) - write);
        let run = &mut |world: &mut World| _ = black_box(world.run());
        wholes.push(timed(&mut world, run) - write);
        let mut sums = [0; STAGES.len()];
        for _ in 0..SLICE {
            world.write();
            let mut last = Instant::now();
            let passed = world.run_in_stages(|stage| {
                let now = Instant::now();
                sums[stage] += (now - last).as_nanos();
                last = now;
            });
            black_box(passed);
        }
        for (sum, stage) in sums.iter().zip(&mut *stages) {
            stage.push(per_flow(*sum));
        }
    }
    let names = ["floor", "new flow, whole"].into_iter().chain(STAGES);
    let medians = names.zip(&mut rows).map(|(name, row)| {
        row.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3].map(|quarter| row[row.len() * quarter / 4]);
        println!("{name:16} {median:6.1} ({low:.1}–{high:.1}) ns");
        median
    });
    let medians: Vec<f64> = medians.collect();
    println!("new flow/floor   {:6.2}", medians[1] / medians[0]);
}

fn new_flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/new");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    let is_test = std::env::args().any(|argument| argument == "--test");
    let flows = if is_test { 10_000 } else { flow_count() };
    let mut world = full_world(flows);
    let before = world.shard.stats();
    let mut passed = 0;
    group.bench_function(BenchmarkId::new("burst", flows), |bencher| {
        bencher.iter(|| passed += turn(&mut world));
    });
    let stats = world.shard.stats();
    let opened = stats.opened - before.opened;
    assert_eq!((opened, stats.reopened), (passed as u64, 0), "all are new");
    assert_eq!((stats.evicted, stats.refused), (0, 0));
    println!(
        "{} flows live, {opened} opened, {} expired",
        stats.flows,
        stats.expired - before.expired
    );
    assert_eq!(count_allocations(|| _ = turn(&mut world)), 0);
    group.bench_function(BenchmarkId::new("write", flows), |bencher| {
        bencher.iter(|| {
            world.write();
            black_box(&mut world.frames);
        });
    });
    let mut floor = Floor::new(flows);
    group.bench_function(BenchmarkId::new("floor", flows), |bencher| {
        bencher.iter(|| {
            world.write();
            floor.run(WORDS_V4, world.frames.iter().map(|frame| &frame[..]));
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = new_flows
}

fn main() {
    if after("--bars").is_some() {
        return bars();
    }
    if let Some(bursts) = after("--profile") {
        let mut world = full_world(flow_count());
        let bursts: usize = bursts.parse().expect("a number of bursts");
        return (0..bursts).for_each(|_| _ = black_box(turn(&mut world)));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}

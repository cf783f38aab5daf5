//! The longest pause of a shard's work: what one turn (64 new flows and the sweep) and each single
//! operation take at worst, on a table that is 95 % full under full churn.
//!
//! `PORTCULLIS_BENCH_SECONDS=60` sets how long each row runs (default two),
//! `PORTCULLIS_BENCH_FLOWS` the table's size (default a million).
//!
//! # What is work and what is noise
//! On a shared machine the longest time that a clock shows is that of the scheduler and the host.
//! So each turn is done three times, on three tables with equal contents and equal inputs, which
//! take the same steps; what is long in one of them alone was a disturbance. `work` is the
//! shortest of the three, turn by turn and operation by operation. `clock` is all of them as they
//! were measured; `undisturbed` leaves out those in which the kernel says that the thread left its
//! core or waited for a page (interrupts and the host's own scheduling it does not say). `nothing`
//! is a loop that only reads the clock, for as long as the turn before it took and as often: what
//! it takes longer than that is noise.
#![expect(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, rounds and prints"
)]

#[path = "support/flows.rs"]
mod flows;
#[path = "support/watch.rs"]
mod watch;

use std::hint::black_box;
use std::time::{Duration, Instant};

use flows::{FRAME_LEN, key, open, packet, shard, udp};
use hashbrown::HashMap;
use portcullis::clock::Tick;
use portcullis::conntrack::Shard;
use portcullis::packet::{Addresses, FlowKey, IpPacket, TcpFlags, TcpHeader, Transport};
use portcullis::types::protocol;
use watch::{Disturbance, Times, ticks, ticks_per_ns};

const BATCH: usize = 64;
/// Tables that take the same steps.
const COPIES: usize = 3;
/// A pause that is too long.
const LIMIT_US: f64 = 50.0;

/// How each row is measured.
#[derive(Clone, Copy)]
struct Run {
    flows: u32,
    lasting: Duration,
    ticks_per_ns: f64,
}

/// What is opened, and how the clock moves.
struct Churn {
    name: &'static str,
    packet: fn(u32) -> IpPacket,
    /// Nanoseconds from one turn to the next.
    step_ns: u64,
    /// Leaps past every deadline once in so many turns; 0: never.
    leap_turns: u64,
}

/// The SYN of a connection.
fn syn(number: u32) -> IpPacket {
    let transport = Transport::Tcp(TcpHeader {
        source_port: 1024 + (number & 7) as u16,
        destination_port: 443,
        sequence: 0,
        acknowledgment: 0,
        flags: TcpFlags(TcpFlags::SYN),
        window: 1_000,
        window_scale: None,
        payload_len: 0,
    });
    packet(protocol::TCP, transport, 0x8000_0000 ^ (number >> 3))
}

/// The datagram of a flow of IPv6.
fn udp_v6(number: u32) -> IpPacket {
    IpPacket {
        addresses: Addresses::V6 {
            source: 0x2001_0db8 << 96 | u128::from(number >> 3),
            destination: 0x2001_0db8 << 96 | 1 << 80,
        },
        ..udp(number)
    }
}

struct Measured {
    clock: Times,
    undisturbed: Times,
    work: Times,
    sweep: Times,
    opening: Times,
    nothing: Times,
    switches: i64,
    faults: i64,
}

/// One turn of one table: ticks of all, of the sweep and of each flow's opening.
#[derive(Clone, Copy)]
struct Turn {
    all: u64,
    sweep: u64,
    openings: [u64; BATCH],
}

fn turn(shard: &mut Shard, churn: &Churn, first: u32, now: Tick) -> Turn {
    let mut openings = [0; BATCH];
    let start = ticks();
    let mut before = start;
    for (number, opening) in (first..).zip(&mut openings) {
        black_box(open(shard, &(churn.packet)(number), now));
        let after = ticks();
        *opening = after - before;
        before = after;
    }
    black_box(shard.expire(now));
    let end = ticks();
    Turn {
        all: end - start,
        sweep: end - before,
        openings,
    }
}

/// The clock alone, as often and as long: ticks beyond that.
fn nothing(lasting: u64) -> u64 {
    let start = ticks();
    let mut last = start;
    while last - start < lasting {
        last = black_box(ticks());
    }
    last - start - lasting
}

fn watch(shards: &mut [Shard], churn: &Churn, run: Run) -> Measured {
    let mut measured = Measured {
        clock: Times::new(),
        undisturbed: Times::new(),
        work: Times::new(),
        sweep: Times::new(),
        opening: Times::new(),
        nothing: Times::new(),
        switches: 0,
        faults: 0,
    };
    let (start, mut first, mut now, mut turns) = (Instant::now(), 1u32 << 31, Tick(0), 0u64);
    while start.elapsed() < run.lasting {
        turns += 1;
        let is_leap = churn.leap_turns != 0 && turns % churn.leap_turns == 0;
        now = Tick(now.0 + churn.step_ns + if is_leap { 40 * Tick::PER_SECOND } else { 0 });
        let mut least: Option<Turn> = None;
        for shard in &mut *shards {
            let before = Disturbance::now();
            let turn = turn(shard, churn, first, now);
            let after = Disturbance::now();
            measured.clock.add(turn.all);
            if before == after {
                measured.undisturbed.add(turn.all);
            }
            measured.switches += after.switches_since(before);
            measured.faults += after.faults_since(before);
            let least = least.get_or_insert(turn);
            least.all = least.all.min(turn.all);
            least.sweep = least.sweep.min(turn.sweep);
            for (one, other) in least.openings.iter_mut().zip(turn.openings) {
                *one = (*one).min(other);
            }
        }
        first = first.wrapping_add(BATCH as u32);
        if let Some(least) = least {
            measured.work.add(least.all);
            measured.sweep.add(least.sweep);
            least
                .openings
                .iter()
                .for_each(|time| measured.opening.add(*time));
            measured.nothing.add(nothing(least.all));
        }
    }
    measured
}

/// Tables 95 % full of flows that stay.
fn established(run: Run, udp_seconds: u64) -> Vec<Shard> {
    let fill = |_| {
        let mut shard = shard(run.flows, udp_seconds);
        for number in 0..run.flows / 100 * 95 {
            let packet = udp(number);
            open(&mut shard, &packet, Tick(0));
            let (key, from) = key(&packet);
            let hash = shard.hash(&key);
            if let Some(index) = shard.find(&key, hash, Tick(0)) {
                for from in [from.opposite(), from, from.opposite()] {
                    shard.track(index, &packet, from, FRAME_LEN, Tick(0));
                }
            }
        }
        shard
    };
    (0..COPIES).map(fill).collect()
}

fn print(shards: &[Shard], churn: &Churn, measured: &Measured, run: Run) {
    let Some(stats) = shards.first().map(Shard::stats) else {
        return;
    };
    println!(
        "{}: {} flows of {}, {} opened, {} evicted, {} expired, {} refused; \
         off the core {} times, {} page faults",
        churn.name,
        stats.flows,
        stats.max_flows,
        stats.opened,
        stats.evicted,
        stats.expired,
        stats.refused,
        measured.switches,
        measured.faults,
    );
    let rows = [
        ("turn, work", &measured.work),
        ("turn, undisturbed", &measured.undisturbed),
        ("turn, clock", &measured.clock),
        ("one sweep, work", &measured.sweep),
        ("one opening, work", &measured.opening),
        ("nothing for as long: excess", &measured.nothing),
    ];
    for (name, times) in rows {
        times.print(name, run.ticks_per_ns);
    }
    let longest = measured.work.longest_us(run.ticks_per_ns);
    let verdict = if longest <= LIMIT_US {
        "within"
    } else {
        "OVER"
    };
    println!("  longest pause of the work {longest:.1} µs: {verdict} {LIMIT_US} µs");
}

/// hashbrown's map under the same churn: first in, first out at an occupancy, which leaves
/// tombstones until it moves everything at once.
fn hashbrown(run: Run, percent: usize) {
    let mut map: HashMap<FlowKey, [u64; 8]> = HashMap::with_capacity(run.flows as usize);
    let capacity = map.capacity();
    let held = (capacity / 100 * percent) as u32;
    for number in 0..held {
        map.insert(key(&udp(number)).0, [0; 8]);
    }
    let mut times = Times::new();
    let (start, mut number) = (Instant::now(), held);
    while start.elapsed() < run.lasting {
        for _ in 0..BATCH {
            map.remove(&key(&udp(number - held)).0);
            let key = key(&udp(number)).0;
            let before = ticks();
            map.insert(key, [0; 8]);
            times.add(ticks() - before);
            number += 1;
        }
    }
    println!(
        "hashbrown::HashMap, {held} flows held of {capacity} (then {} of {}), {} replaced",
        map.len(),
        map.capacity(),
        number - held
    );
    times.print("one insert, clock", run.ticks_per_ns);
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let seconds = number("PORTCULLIS_BENCH_SECONDS").unwrap_or(2);
    let flows = number("PORTCULLIS_BENCH_FLOWS").unwrap_or(1_000_000);
    let run = Run {
        flows: if is_test { 10_000 } else { flows },
        lasting: if is_test {
            Duration::from_millis(50)
        } else {
            Duration::from_secs(u64::from(seconds))
        },
        ticks_per_ns: ticks_per_ns(),
    };
    println!("{:.3} ticks a nanosecond", run.ticks_per_ns);
    let turns_per_second = 5_000_000 / BATCH as u64;
    let steady_ns = 30 * Tick::PER_SECOND * BATCH as u64 * 100 / (u64::from(run.flows) * 95);
    let churns = [
        Churn {
            name: "SYN flood, 95 % established, all evict",
            packet: syn,
            step_ns: Tick::PER_SECOND / turns_per_second,
            leap_turns: 0,
        },
        Churn {
            name: "95 % full, each expires",
            packet: udp,
            step_ns: steady_ns,
            leap_turns: 0,
        },
        Churn {
            name: "all expire at once, again and again",
            packet: udp,
            step_ns: steady_ns,
            leap_turns: u64::from(run.flows) / BATCH as u64,
        },
        Churn {
            name: "the same of IPv6, from untouched memory",
            packet: udp_v6,
            step_ns: steady_ns,
            leap_turns: u64::from(run.flows) / BATCH as u64,
        },
    ];
    for (place, churn) in churns.iter().enumerate() {
        let mut shards = if place == 0 {
            established(run, 30)
        } else {
            (0..COPIES).map(|_| shard(run.flows, 30)).collect()
        };
        let measured = watch(&mut shards, churn, run);
        print(&shards, churn, &measured, run);
    }
    for percent in [45, 95] {
        hashbrown(run, percent);
    }
}

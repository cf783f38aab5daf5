//! The hit path against its floor, stage by stage: rounds that alternate, so that what else the
//! machine does meets all of them alike. Prints ns a packet, median (least–most of the middle
//! half), what writing the headers costs subtracted.

use std::hint::black_box;
use std::time::Instant;

use portcullis::packet::{LongAddresses, PackedKey};
use portcullis::pipeline::BATCH_MAX;
use portcullis::types::{PassReason, Verdict};

use super::floor::Floor;
use super::world::{Flow, Flows, Kind, World, look_up};

const ROUNDS: usize = 200;
const DRAWS: usize = 1 << 20;
/// Packets of one row in a round: so few that they are mostly done before the core is lent to
/// somebody else.
const SLICE: usize = 1 << 14;
const ROWS: [&str; 5] = ["write", "floor", "parse", "lookup", "hit"];

pub(crate) fn run(flow_counts: &[u32]) {
    println!("ns a packet, median (middle half); writing the headers subtracted");
    println!(
        "kind      flows floor             parse+key         lookup alone      hit, whole        \
         hit/floor lookup/floor"
    );
    for flows in flow_counts {
        for kind in Kind::ALL {
            let rows = measure(kind, *flows);
            let cell = |row: usize| {
                let [low, median, high] = rows[row];
                format!("{median:5.1} ({low:.1}–{high:.1})")
            };
            println!(
                "{:6} {flows:8} {:17} {:17} {:17} {:17} {:9.2}  {:9.2}",
                kind.name(),
                cell(1),
                cell(2),
                cell(3),
                cell(4),
                rows[4][1] / rows[1][1],
                rows[3][1] / rows[1][1],
            );
        }
    }
}

/// Quartiles of each row's rounds.
fn measure(kind: Kind, flows: u32) -> [[f64; 3]; ROWS.len()] {
    let mut world = World::opened(kind, flows);
    let mut floor = Floor::new(flows);
    let draws = Flows::new(kind, 10).draws(flows, DRAWS);
    let keys = world.keys(&draws);
    let mut times: [Vec<f64>; ROWS.len()] = Default::default();
    for round in 0..ROUNDS {
        let mut write = 0.0;
        for (number, (row, times)) in ROWS.iter().zip(&mut times).enumerate() {
            // Another slice before the timed one: what is small enough to stay near is near then.
            // No row has another's slice, or it would find what that one has fetched.
            let first = 2 * (round * ROWS.len() + number);
            let slices = [first, first + 1].map(|at| at % (DRAWS / SLICE) * SLICE);
            let mut elapsed = 0.0;
            for from in slices {
                let start = Instant::now();
                for at in (from..from + SLICE).step_by(BATCH_MAX) {
                    let burst = at..at + BATCH_MAX;
                    one(
                        row,
                        kind,
                        &mut world,
                        &mut floor,
                        &draws[burst.clone()],
                        &keys[burst],
                    );
                }
                elapsed = start.elapsed().as_nanos() as f64 / SLICE as f64;
            }
            if *row == "write" {
                write = elapsed;
            }
            // Looking up writes no headers.
            let is_written = !matches!(*row, "write" | "lookup");
            times.push(if is_written { elapsed - write } else { elapsed });
        }
    }
    times.map(|mut row| {
        row.sort_by(f64::total_cmp);
        [
            row[row.len() / 4],
            row[row.len() / 2],
            row[row.len() * 3 / 4],
        ]
    })
}

/// One burst of a row.
#[inline(always)]
fn one(
    row: &str,
    kind: Kind,
    world: &mut World,
    floor: &mut Floor,
    burst: &[Flow],
    keys: &[(PackedKey, LongAddresses)],
) {
    if row == "lookup" {
        assert_eq!(look_up(&world.shard, keys), BATCH_MAX);
        return;
    }
    world.write(burst);
    match row {
        "floor" => floor.run(kind.floor_words(), world.frames(burst)),
        "parse" => world.parse(burst),
        "hit" => {
            let tracked = Verdict::Pass(PassReason::Tracked);
            assert_eq!(world.run(burst, tracked), BATCH_MAX);
        }
        _ => {
            black_box(world);
        }
    }
}

/// One stage alone, for a profiler: `ROW` as in the table.
pub(crate) fn profile(row: &str, kind: Kind, flows: u32, bursts_count: usize) {
    let mut world = World::opened(kind, flows);
    let mut floor = Floor::new(flows);
    let draws = Flows::new(kind, 10).draws(flows, bursts_count * BATCH_MAX);
    let keys = world.keys(&draws);
    for (burst, keys) in draws
        .chunks_exact(BATCH_MAX)
        .zip(keys.chunks_exact(BATCH_MAX))
    {
        one(row, kind, &mut world, &mut floor, burst, keys);
    }
}

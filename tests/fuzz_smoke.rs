//! The fuzz targets on the stable toolchain: every input of tests/fuzz/corpus and every crash of
//! tests/regressions, then mutations of them for a moment. Not guided by coverage: that is
//! scripts/fuzz.sh, which needs nightly.
//!
//! An input that makes a target panic becomes a file of tests/regressions/TARGET, where this test
//! runs it again from then on. `SEED` chooses other mutations, `FUZZ_SECONDS` how long each target
//! has.
#![cfg(test)]
#![expect(clippy::print_stderr, reason = "a failure names its input")]

#[path = "fuzz/bodies.rs"]
mod bodies;
#[path = "simulation/random.rs"]
#[expect(dead_code, reason = "the simulation uses the rest")]
mod random;

use std::env;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::clock::MonotonicClock;

use crate::bodies::{TARGETS, Target};
use crate::random::Random;

/// How long each target is fed with mutations.
const SECONDS: u64 = 2;
/// Bytes of an input at most.
const INPUT_LEN_MAX: usize = 1 << 14;

/// Words that documents are made of; frames take them for bytes like others.
const WORDS: [&str; 20] = [
    "[security_groups.a]\n",
    "[interfaces.a]\n",
    "[[link]]\n",
    "ingress = [",
    "egress = []",
    "\"group:a\"",
    "\"self\"",
    "\"prefix-list:admins\"",
    "0.0.0.0/0",
    "::/0",
    "\"0-65535\"",
    "65536",
    "-1",
    "1e308",
    "\"\"\"",
    "{",
    "]",
    "\u{1F525}",
    "\r\n",
    "1979-05-27",
];

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a folder, by name; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs one input; where it makes the target panic, it is kept and the test fails.
fn run(target: Target, input: &[u8]) {
    let (name, body) = target;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| body(input)));
    if let Err(failure) = outcome {
        let folder = tests().join("regressions").join(name);
        // The same input has the same name.
        let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let path = folder.join(format!("{hash:016x}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, input).unwrap();
        eprintln!("{name}: kept as {}", path.display());
        panic::resume_unwind(failure);
    }
}

/// Another input, near one or two that there are.
fn mutated(random: &mut Random, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.pick(inputs).clone();
    for _ in 0..=random.below(4) {
        let place = random.below(input.len() + 1);
        match random.below(8) {
            0 if place < input.len() => input[place] ^= 1 << random.below(8),
            1 if place < input.len() => input[place] = random.byte(),
            2 if place < input.len() => input[place] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => input.insert(place, random.byte()),
            4 => input.truncate(place),
            5 => {
                let end = place + random.below(input.len() - place + 1).min(64);
                input.drain(place..end);
            }
            6 => {
                let word = random.pick(&WORDS).as_bytes();
                input.splice(place..place, word.iter().copied());
            }
            _ => {
                let other = random.pick(inputs);
                let from = random.below(other.len() + 1);
                let end = from + random.below(other.len() - from + 1);
                input.splice(place..place, other[from..end].iter().copied());
            }
        }
    }
    input.truncate(INPUT_LEN_MAX);
    input
}

fn smoke(name: &str) {
    let target = *TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    for path in files(&tests().join("regressions").join(name)) {
        eprintln!("{}", path.display());
        run(target, &fs::read(&path).unwrap());
    }
    let corpus = files(&tests().join("fuzz/corpus").join(name));
    let mut inputs: Vec<Vec<u8>> = corpus.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!inputs.is_empty(), "{name} has a corpus");
    let example = format!("configs/{name}.toml");
    inputs.extend(fs::read(tests().with_file_name(example)));
    for input in &inputs {
        run(target, input);
    }
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let mut random = Random::new(number("SEED").unwrap_or(1));
    let limit = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    let clock = MonotonicClock::start();
    let started = clock.now();
    let mut count = 0_u64;
    while clock.now().since(started) < limit {
        run(target, &mutated(&mut random, &inputs));
        count += 1;
    }
    eprintln!("{name}: {} inputs, {count} mutations", inputs.len());
}

#[test]
fn no_frame_makes_the_parser_panic() {
    smoke("frame");
}

#[test]
fn no_text_makes_the_policy_reader_panic() {
    smoke("policy");
}

#[test]
fn no_text_makes_the_gateway_reader_panic() {
    smoke("gateway");
}

#[test]
fn no_frames_make_the_batch_panic() {
    smoke("batch");
}

//! What tests on the real kernel share: skipping, commands, and network namespaces that vanish.

pub(crate) mod netns;

use std::process::{Command, Output};

/// Capabilities that a real-kernel test needs, as bits of `CapEff`: NET_ADMIN, NET_RAW,
/// IPC_LOCK, SYS_ADMIN, BPF.
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 21 | 1 << 39;

/// Says why a test is not run. Where `CI=true` is set, that is a failure.
pub(crate) fn skip(reason: &str) {
    println!("SKIP: {reason}");
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "SKIP is a failure here: {reason}");
}

/// Whether a real-kernel test can run; says SKIP and why if not.
pub(crate) fn can_run(programs: &[&str]) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    if effective & CAPABILITIES != CAPABILITIES {
        skip("needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_SYS_ADMIN and CAP_BPF");
        return false;
    }
    for program in programs {
        if Command::new(program).arg("--version").output().is_err() {
            skip(&format!("needs the program `{program}`"));
            return false;
        }
    }
    true
}

/// Runs a command line split at spaces; panics with its output if it fails.
pub(crate) fn run(line: &str) -> String {
    let output = attempt(line);
    assert!(
        output.status.success(),
        "`{line}` failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command line split at spaces, whatever comes of it.
pub(crate) fn attempt(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command line has a program");
    let output = Command::new(program).args(words).output();
    output.unwrap_or_else(|error| panic!("`{line}`: {error}"))
}

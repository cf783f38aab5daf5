#!/usr/bin/env bash
# Fuzzing guided by coverage (tests/fuzz), where nightly and cargo-fuzz are installed.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]     60 seconds for each of the targets, if not told
#
# What is found becomes a file of tests/regressions/TARGET, which tests/fuzz_smoke.rs runs again
# on every toolchain. Without nightly or cargo-fuzz it says so and runs that test for as long.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:$HOME/.cargo/bin
seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]})) || targets=(frame policy gateway batch)

missing=""
cargo +nightly --version >/dev/null 2>&1 || missing="the nightly toolchain (rustup toolchain install nightly)"
cargo fuzz --version >/dev/null 2>&1 || missing+="${missing:+ and }cargo-fuzz (cargo install cargo-fuzz)"
if [[ -n $missing ]]; then
  echo "SKIP: not guided by coverage, for want of $missing; mutations on stable instead" >&2
  FUZZ_SECONDS=$seconds SEED=$(date +%s) exec cargo test --locked --test fuzz_smoke -- --nocapture
fi

failed=0
for target in "${targets[@]}"; do
  echo "$target: $seconds s" >&2
  mkdir -p "tests/regressions/$target" "target/fuzz-corpus/$target"
  # What it learns goes to the first folder; those after it are only read.
  if ! cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" \
    "target/fuzz-corpus/$target" "tests/fuzz/corpus/$target" "tests/regressions/$target" -- \
    -max_total_time="$seconds" -max_len=16384 -timeout=20 \
    -artifact_prefix="tests/regressions/$target/"; then
    failed=1
  fi
  rmdir --ignore-fail-on-non-empty "tests/regressions/$target" tests/regressions
done
exit "$failed"

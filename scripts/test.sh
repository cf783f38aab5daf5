#!/usr/bin/env bash
# Everything that has to hold, in one command; CI runs it too. About seventeen minutes on two cores.
#
#   scripts/test.sh
#
# What needs root (the tests on the wire, the demo) is skipped without it; with CI set in the
# environment a skip is a failure. Progress on stderr, a summary on stdout.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
export CARGO_TERM_PROGRESS_WHEN=never
LOG=target/test-logs
started=$SECONDS
results=() failed=() skipped=()

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

stage() { # NAME COMMAND...
  local name=$1 log=$LOG/${1// /-}.log begun=$SECONDS word=passed
  shift
  printf '[%s] %s ...\n' "$(clock $((SECONDS - started)))" "$name" >&2
  if ! "$@" </dev/null >"$log" 2>&1; then
    word=FAILED
    failed+=("$name")
    tail -n 60 "$log" >&2
    grep -a -A 4 'panicked at' "$log" | cut -c 1-400 | head -n 60 >&2
    printf '[%s] %s FAILED; all of it: %s\n' "$(clock $((SECONDS - started)))" "$name" "$log" >&2
  elif grep -q '^SKIP' "$log"; then
    word=skipped
    skipped+=("$name")
    grep '^SKIP' "$log" | sort | uniq -c | sed 's/^/  /' >&2
  fi
  results+=("$(printf '%-22s %-8s %6s' "$name" "$word" "$(clock $((SECONDS - begun)))")")
}

shell_scripts() {
  if ! command -v shellcheck >/dev/null; then
    echo "SKIP: no shellcheck"
    return
  fi
  shellcheck --external-sources scripts/*.sh .ci/run
}

documentation() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet; }

unit_tests() { cargo test --locked --lib --bins && cargo test --locked --doc; }

# Each file of tests/ but the one on the wire. One at a time: some use real devices, and a busy
# machine makes them lose frames.
integration_tests() {
  local file names=()
  for file in tests/*.rs; do
    [[ $file == tests/wire.rs ]] || names+=(--test "$(basename "$file" .rs)")
  done
  cargo test --locked "${names[@]}" -- --test-threads 1
}

# The models of tests/loom.rs again, with more preemptions than among the other tests: 7 s.
loom() { LOOM_MAX_PREEMPTIONS=5 cargo test --locked --test loom; }

benches() {
  local file names=()
  for file in bench/*.rs; do
    [[ -e $file ]] || { echo "no bench"; return; }
    grep -q "path = \"$file\"" Cargo.toml && names+=(--bench "$(basename "$file" .rs)")
  done
  cargo bench --locked "${names[@]}" -- --test
}

# With the test of the wire, so that both have one build.
release_build() { cargo test --locked --release --test wire --no-run; }

# On the built release binary, which the demo uses too. One at a time: cores are shared.
wire_tests() {
  cargo test --locked --release --test wire -- --test-threads 1 --nocapture
}

demo() {
  if [[ $(id -u) != 0 ]]; then
    echo "SKIP: the demo needs root"
    return
  fi
  NO_COLOR=1 scripts/demo.sh --no-build
}

mkdir -p "$LOG"
stage "set up" scripts/setup.sh test
((${#failed[@]})) && exit 1
stage "shell scripts" shell_scripts
stage "format" cargo fmt --check
stage "lints" cargo clippy --locked --all-targets --quiet -- -D warnings
stage "documentation" documentation
stage "unit tests" unit_tests
stage "integration tests" integration_tests
stage "loom" loom
stage "release build" release_build
stage "benches start" benches
stage "on the wire" wire_tests
stage "demo" demo

printf '\n'
printf '%s\n' "${results[@]}"
printf '%-22s %-8s %6s\n' "all" "" "$(clock $((SECONDS - started)))"
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "$(IFS=,; echo "${failed[*]}")"
  exit 1
fi
if ((${#skipped[@]})) && [[ -n ${CI:-} ]]; then
  printf 'FAILED, since skipped with CI set: %s\n' "$(IFS=,; echo "${skipped[*]}")"
  exit 1
fi
echo "everything passed${skipped[*]:+, but some was skipped}"

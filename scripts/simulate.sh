#!/usr/bin/env bash
# Random runs on the release build, under many seeds: the simulation of the packet path
# (tests/simulation.rs), and the connection table and the pipeline against their oracles.
#
#   scripts/simulate.sh [SECONDS] [FIRST-SEED]     600 seconds from a seed of the clock, if not told
#
# Progress on stderr. Stops at the first seed that fails, and says how to run that one again; what
# an oracle disagrees with becomes a file of tests/regressions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:$HOME/.cargo/bin
seconds=${1:-600}
seed=${2:-$(date +%s)}
step=8
first=$seed

# Assertions of our own bugs stay on: they are half of what it looks for.
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_PANIC=unwind
export CARGO_PROFILE_RELEASE_LTO=off
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Built once, so that all seeds run the same code, whatever is edited meanwhile.
build() {
  local name=$1 binary
  shift
  binary=$(cargo test --locked --release --target-dir target/simulation "$@" --no-run --quiet \
    --message-format=json | grep -o "\"executable\":\"[^\"]*/$name-[^\"]*\"" | cut -d '"' -f 4)
  install -m 700 "$binary" "$work/$name"
}

# SEED and SEEDS choose what it runs.
run() {
  local name=$1 test=$2
  if ! SEED=$seed SEEDS=$step "$work/$name" --exact "$test" --nocapture >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
  fi
}

echo "building ..." >&2
build simulation --test simulation
build portcullis --lib
begun=$SECONDS
while ((SECONDS - begun < seconds)); do
  run simulation the_world_holds_together_under_every_seed
  run portcullis conntrack::tests::random::shard_does_what_the_oracle_does
  run portcullis pipeline::tests::random::the_pipeline_does_what_the_oracle_does
  seed=$((seed + step))
  printf '\r%d of %d s, seeds %d to %d: all well' $((SECONDS - begun)) "$seconds" \
    "$first" $((seed - 1)) >&2
done
printf '\n' >&2
echo "$((seed - first)) seeds from $first: nothing found"

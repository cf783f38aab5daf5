#!/usr/bin/env bash
# The simulation of the packet path (tests/simulation.rs) under many seeds, on the release build.
#
#   scripts/simulate.sh [SECONDS] [FIRST-SEED]     600 seconds from a seed of the clock, if not told
#
# Progress on stderr. Stops at the first seed that fails, and says how to run that one again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:$HOME/.cargo/bin
seconds=${1:-600}
seed=${2:-$(date +%s)}
step=8
first=$seed
log=$(mktemp)

# Assertions of our own bugs stay on: they are half of what it looks for.
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_PANIC=unwind
export CARGO_PROFILE_RELEASE_LTO=off
echo "building ..." >&2
# Built once, so that all seeds run the same code, whatever is edited meanwhile.
binary=$(cargo test --locked --release --target-dir target/simulation --test simulation --no-run \
  --quiet --message-format=json \
  | grep -o '"executable":"[^"]*/simulation-[^"]*"' | cut -d '"' -f 4)
copy=$(mktemp)
install -m 700 "$binary" "$copy"
trap 'rm -f "$log" "$copy"' EXIT
begun=$SECONDS

while ((SECONDS - begun < seconds)); do
  if ! SEED=$seed SEEDS=$step "$copy" --exact the_world_holds_together_under_every_seed \
    --nocapture >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
  seed=$((seed + step))
  printf '\r%d of %d s, seeds %d to %d: all well' $((SECONDS - begun)) "$seconds" \
    "$first" $((seed - 1)) >&2
done
printf '\n' >&2
echo "$((seed - first)) seeds from $first: nothing found"

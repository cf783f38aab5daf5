#!/usr/bin/env bash
# Installs what the other scripts need and the machine has not, by apt-get. Quiet; says on stderr
# what it does.
#
#   scripts/setup.sh demo     to run the demo: namespaces, devices, clients
#   scripts/setup.sh test     that, and what the tests use: port scans, captures, the XDP compiler
#
# A Rust toolchain is looked for, never installed.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

# A program and the Debian package that has it.
demo=(
  ip:iproute2 ethtool:ethtool curl:curl ping:iputils-ping nc:netcat-openbsd iperf3:iperf3
  python3:python3 jq:jq cc:gcc
)
tests=(nmap:nmap tcpdump:tcpdump shellcheck:shellcheck clang:clang llvm-strip:llvm)

# Programs of the superuser are not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

missing_packages() { # PROGRAM:PACKAGE...
  local pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
  done
}

install_packages() { # PACKAGE...
  local sudo=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { say "needs root to install: $*"; return 1; }
    sudo=(sudo)
  fi
  command -v apt-get >/dev/null || { say "no apt-get here; please install: $*"; return 1; }
  say "installing: $*"
  local log
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  local options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
  if ! { "${sudo[@]}" apt-get "${options[@]}" update &&
    "${sudo[@]}" apt-get "${options[@]}" install -y --no-install-recommends "$@"; } \
    </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    say "apt-get could not install: $*"
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

check_rust() {
  local wanted have
  if ! command -v cargo >/dev/null; then
    # Where rustup puts it, if a login shell has not been opened since.
    PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
  fi
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
  if ! command -v cargo >/dev/null; then
    say "no Rust toolchain: install Rust $wanted or later with rustup, then open a new shell"
    return 1
  fi
  have=$(rustc --version | cut -d' ' -f2)
  if [[ $(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -n1) != "$wanted" ]]; then
    say "Rust $have is too old: $wanted or later is needed (rustup update stable)"
    return 1
  fi
}

main() {
  local wanted=("${demo[@]}") packages=()
  case ${1:-} in
    demo) ;;
    test) wanted+=("${tests[@]}") ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 2 ;;
  esac
  mapfile -t packages < <(missing_packages "${wanted[@]}")
  if [[ $1 == test && ! -e /usr/include/bpf/bpf_helpers.h ]]; then
    packages+=(libbpf-dev)
  fi
  if ((${#packages[@]})); then
    install_packages "${packages[@]}"
  fi
  check_rust
}

main "$@"

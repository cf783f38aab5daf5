# What the scripts share that run the gateway in network namespaces of their own. Sourced from the
# repository's root. SCRIPT is the name that they speak under; `await` shows the end of GATEWAY_LOG.
# shellcheck shell=bash

BIN=${PORTCULLIS_BIN:-$PWD/target/release/portcullis}
build=yes

die() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; exit 1; }
progress() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

usage_error() { # OPTION
  printf '%s: unknown option %s; see --help\n' "$SCRIPT" "$1" >&2
  exit 2
}

await() { # WHAT COMMAND...: until it succeeds, 15 s at most
  local what=$1
  shift
  for _ in {1..150}; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  [[ -e $GATEWAY_LOG ]] && tail -n 20 "$GATEWAY_LOG" >&2
  die "$what: not within 15 s"
}

# The gateway's binary, built unless `build` says no, and the right to use it.
prepare_gateway() {
  PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
  if [[ $build == yes ]]; then
    scripts/setup.sh demo
    progress "building (a few minutes the first time)"
    cargo build --release --locked --quiet
  fi
  [[ $(id -u) == 0 ]] || die "needs root, for network namespaces and AF_XDP"
  [[ -x $BIN ]] || die "no $BIN; run without --no-build"
}

# Has a function run at the end, whatever ends the script.
at_exit() { # FUNCTION
  # shellcheck disable=SC2064 # the name that it has now
  trap "$1" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

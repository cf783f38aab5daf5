#!/usr/bin/env bash
# Full and under attack: a SYN flood of random sources against a full table, and what becomes of the
# connections that are there and of those that are new. The bare forwarder (DPDK's testpmd on
# AF_XDP, where it is installed) suffers the same. As root, on two cores, in namespaces of its own.
#
#   scripts/flood.sh [--quick] [--no-build] [--rate N] [--stream N] [--answered] [--only NAME]
#
#   --quick      the small table only, and shorter: for tests
#   --no-build   use target/release/portcullis as it is, and install nothing
#   --rate N     SYNs of the flood a second (2000000)
#   --stream N   segments of established connections a second (100000)
#   --answered   the server answers the flood, with SYN cookies
#   --only NAME  one row only, as it is called in the table
#
#   client c0 ══ out [gateway] in ══ s0 server
#   core 0: generator, receive softirq of `out`, client; core 1: the gateway's worker, the server
#
# Frames that the devices drop before the gateway are lost to the bare forwarder alike: compare with
# its row. The exit code is 1 if an established connection was lost.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SCRIPT=flood
source scripts/lab.sh

FLOOD=$PWD/tests/common/flood.py
ID=pcflood-$$
CLIENT=10.99.0.1 SERVER=10.99.0.2 PORT=80
CLIENT_MAC=02:00:00:00:00:c0 SERVER_MAC=02:00:00:00:00:50
PRIME_RATE=300000 HELD=20
rate=2000000 stream=100000 answered='' only='' quick=no failed=0 pids=()

enter() { local name=$1; shift; ip netns exec "$ID-$name" "$@"; }
# Before other work of a busy machine: a session of its own has a weight of its own.
first() { setsid -w bash -c 'echo -20 >/proc/self/autogroup; exec "$@"' _ "$@"; }
python() { local name=$1 core=$2; shift 2; first ip netns exec "$ID-$name" taskset -c "$core" python3 -I "$FLOOD" "$@"; }

# --- the lab ---------------------------------------------------------------------------------
make_lab() {
  local name pair
  for name in client gw server; do
    ip netns add "$ID-$name"
    enter "$name" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip -n "$ID-$name" link set lo up
  done
  ip link add c0 netns "$ID-client" address $CLIENT_MAC type veth peer name out netns "$ID-gw"
  ip link add s0 netns "$ID-server" address $SERVER_MAC type veth peer name in netns "$ID-gw"
  for name in "client c0" "server s0" "gw out" "gw in"; do
    read -r -a pair <<<"$name"
    ip -n "$ID-${pair[0]}" link set "${pair[1]}" up
    enter "${pair[0]}" ethtool -K "${pair[1]}" tx off gro on >/dev/null
  done
  ip -n "$ID-client" addr add $CLIENT/24 dev c0
  ip -n "$ID-server" addr add $SERVER/24 dev s0
  ip -n "$ID-client" neigh add $SERVER lladdr $SERVER_MAC dev c0
  ip -n "$ID-server" neigh add $CLIENT lladdr $CLIENT_MAC dev s0
  if [[ -n $answered ]]; then
    ip -n "$ID-server" route add default via $CLIENT dev s0
  fi
}

stop() { # PID...
  local pid
  for pid in "$@"; do kill "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    for _ in {1..40}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

clean() {
  local code=$?
  trap - EXIT INT TERM
  remove_lab
  rm -rf "$WORK"
  exit "$code"
}

remove_lab() {
  local name
  stop "${pids[@]}"
  pids=()
  for name in client gw server; do
    # What is still in them was started here: the namespaces are this run's own.
    ip netns pids "$ID-$name" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$ID-$name" 2>/dev/null || true
  done
}

# --- the gateways ----------------------------------------------------------------------------
start_testpmd() {
  first ip netns exec "$ID-gw" dpdk-testpmd -l 0,1 --main-lcore 0 --no-huge -m 256 --no-pci --no-telemetry \
    --file-prefix="$ID" --vdev=net_af_xdp0,iface=out --vdev=net_af_xdp1,iface=in -- \
    --forward-mode=io --nb-cores=1 --total-num-mbufs=32768 --no-mlockall --stats-period=3600 \
    </dev/null >"$GATEWAY_LOG" 2>&1 &
  gateway=$!
  pids+=("$gateway")
  await "testpmd" grep -q 'io packet forwarding - ports' "$GATEWAY_LOG"
  sleep 0.5
}

start_portcullis() { # MAX_FLOWS
  cat >"$WORK/gateway.toml" <<TOML
policy = "policy.toml"
control_socket = "$WORK/control.sock"
state_dir = "$WORK/state"
[workers]
cores = [1]
idle = "spin"
[[link]]
name = "wire"
inside = "in"
outside = "out"
[conntrack]
max_flows = $1
# So that whoever is established has shaken hands.
tcp_pickup = "syn-only"
TOML
  # Nothing may open outward: so the flood's flows are tracked, and an answer that has lost its flow
  # is lost itself.
  cat >"$WORK/policy.toml" <<TOML
[security_groups.web]
description = "Web servers"
ingress = [{ protocol = "tcp", ports = $PORT, from = ["0.0.0.0/0"], description = "anyone" }]
egress = []
[interfaces.web-1]
addresses = ["$SERVER"]
groups = ["web"]
TOML
  first ip netns exec "$ID-gw" "$BIN" run --config "$WORK/gateway.toml" </dev/null >"$GATEWAY_LOG" 2>&1 &
  gateway=$!
  pids+=("$gateway")
  await "the gateway" portcullis status
}

portcullis() { "$BIN" "$@" --socket "$WORK/control.sock"; }
conntrack() { portcullis status --json | jq -r ".conntrack$1"; }
established() {
  first "$BIN" flows --state established --socket "$WORK/control.sock" 2>/dev/null |
    grep -c ^tcp || true
}

# --- measuring -------------------------------------------------------------------------------
prime() { # FLOWS: connections whose handshake is frames
  local to_server=(c0 "$SERVER_MAC" "$SERVER" "$PORT" --walk "$PRIME_RATE" --flows "$1" --count "$1")
  local to_client=(s0 "$CLIENT_MAC" "$SERVER" "$PORT" --walk "$PRIME_RATE" --flows "$1" --count "$1")
  python client 0 send "${to_server[@]}" --flags syn
  python server 0 send "${to_client[@]}" --flags syn-ack --reply
  python client 0 send "${to_server[@]}" --flags ack
} >>"$WORK/prime.log"

middle() { jq -s 'map(select(.rate).rate) | sort | .[length / 2 | floor]' "$1"; }
spread() { jq -rs 'map(select(.rate).rate) | sort | "\(first)-\(last)"' "$1"; }

# Sends for some seconds while the server's end counts in periods of a second.
streaming() { # LOG SECONDS SEND-OPTIONS...
  local log=$1 seconds=$2 periods=() counter
  shift 2
  for ((i = 1; i < seconds; i++)); do periods+=(1); done
  python client 0 send c0 $SERVER_MAC $SERVER $PORT --flows "$flows" --walk "$stream" \
    --seconds $((seconds + 1)) "$@" >"$log.sent" &
  sender=$!
  pids+=("$sender")
  sleep 0.7
  python server 1 count s0 "${periods[@]}" >"$log" &
  counter=$!
  pids+=("$counter")
}

row() { # NAME KIND MAX_FLOWS ESTABLISHED
  local name=$1 kind=$2 max_flows=$3 before=- after=- evicted=- refused=- calm kept
  flows=$4
  [[ -z $only || $only == "$name" ]] || return 0
  progress "$name"
  rm -f "$WORK"/{serve,hold,line}
  make_lab
  if [[ $kind == testpmd ]]; then start_testpmd; else start_portcullis "$max_flows"; fi
  python server 1 serve $SERVER $PORT >"$WORK/serve" &
  pids+=($!)
  await "the server" grep -q ready "$WORK/serve"
  mkfifo "$WORK/line"
  python client 0 hold $SERVER $PORT $HELD >"$WORK/hold" <"$WORK/line" &
  local holder=$!
  pids+=("$holder")
  exec 7>"$WORK/line"
  await "connections" grep -q ready "$WORK/hold"
  if [[ $kind == portcullis ]]; then
    flows=$((flows - HELD))
    # Again if frames were lost on a busy machine.
    for _ in 1 2 3; do
      prime $flows
      before=$(established)
      ((before < flows + HELD)) || break
    done
  fi
  streaming "$WORK/calm" $calm_seconds
  wait $sender
  calm=$(middle "$WORK/calm")
  streaming "$WORK/flood" $flood_seconds --random "$rate" $answered
  python client 0 knock $SERVER $PORT "$tries" 50 >"$WORK/knock"
  [[ $kind == portcullis ]] && portcullis status --json >"$WORK/status.json"
  wait $sender
  kept=$(middle "$WORK/flood")
  sleep 0.2
  echo >&7
  await "their echoes" grep -q alive "$WORK/hold"
  if [[ $kind == portcullis ]]; then
    after=$(established)
    evicted=$(conntrack ' | .evicted_by // .evicted' | tr -d '\n {}"')
    refused=$(conntrack .refused)
    ((after >= before)) || failed=1
  fi
  exec 7>&-
  remove_lab
  printf '%-22s %9s %9s %15s %5s %9s %7s %5s %6s %3d/%-3d %8s %8s %10s %9s\n' "$name" \
    "$(jq -s 'map(.rate) | add' "$WORK/flood.sent")" "$calm" \
    "$kept [$(spread "$WORK/flood")]" "$(jq -n "$kept / $calm * 100 | round / 100")" \
    "$(jq .first_syn "$WORK/knock")/$tries" "$(jq .in_time "$WORK/knock")" \
    "$(jq .up "$WORK/knock")" "$(jq .median_ms "$WORK/knock")" "$(jq -s 'last.alive // 0' "$WORK/hold")" $HELD \
    "$before" "$after" "$evicted" "$refused"
}

# --- from here -------------------------------------------------------------------------------
while (($#)); do
  case $1 in
    --quick) quick=yes ;;
    --no-build) build=no ;;
    --rate) rate=$2; shift ;;
    --stream) stream=$2; shift ;;
    --only) only=$2; shift ;;
    --answered) answered=--answered ;;
    -h | --help) sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) usage_error "$1" ;;
  esac
  shift
done
prepare_gateway
(($(nproc) >= 2)) || die "needs two cores"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/$ID.XXXXXX")
GATEWAY_LOG=$WORK/gateway.log
at_exit clean
calm_seconds=4 flood_seconds=7 tries=200
[[ $quick == yes ]] && calm_seconds=3 flood_seconds=4 tries=50

printf '%-22s %9s %9s %15s %5s %9s %7s %5s %6s %7s %8s %8s %10s %9s\n' gateway sent/s calm/s \
  flooded/s kept first-SYN in-3-s up ms held before after evicted refused
if command -v dpdk-testpmd >/dev/null; then
  row testpmd testpmd 0 95000
else
  printf '%-22s no dpdk-testpmd here\n' testpmd
fi
row portcullis-100k-95% portcullis 100000 95000
if [[ $quick == no ]]; then
  row portcullis-1M-95% portcullis 1000000 950000
  row portcullis-100k-100% portcullis 100000 100000
fi
((failed == 0))

#!/usr/bin/env bash
# Runs the gateway between two ports by a list of rules in CSV, as a harness asks for it that
# compares gateways on one topology.
#
# In the environment:
#   PORT_A PORT_B  the ports: clients are behind PORT_A, servers behind PORT_B
#   RULES_FILE     lines proto,src,dst,port_low,port_high: allowed; everything else is not
#   READY_FILE     made when the gateway forwards
#   SRV_NET        the servers' network (198.19.0.0/16)
#   GW_CPU         the core that the worker has
#   PORTCULLIS_BIN the gateway (target/release/portcullis)
#   PEER_FLAT=1    every line is a rule of the servers' interface whatever its dst, so that the
#                  servers' own rules are as many as the lines
#   PEER_IDLE      spin, adaptive or sleep (spin)
#
# Ends on SIGTERM.
set -euo pipefail
: "${PORT_A:?}" "${PORT_B:?}" "${RULES_FILE:?}" "${READY_FILE:?}" "${GW_CPU:?}"
BIN=${PORTCULLIS_BIN:-$(dirname "${BASH_SOURCE[0]}")/../target/release/portcullis}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-peer.XXXXXX")

cat >"$WORK/gateway.toml" <<TOML
policy = "policy.toml"
control_socket = "$WORK/control.sock"
state_dir = "$WORK/state"

[workers]
cores = [$GW_CPU]
idle = "${PEER_IDLE:-spin}"

[[link]]
name = "wire"
inside = "$PORT_B"
outside = "$PORT_A"

[conntrack]
max_flows = 4_000_000

# The harness opens the same connections with the same sequence numbers again some seconds later,
# and cannot tell this gateway to forget them: a tombstone would take them for retransmissions.
[conntrack.timeouts]
tcp_time_wait = 1
tcp_reset = 1
TOML

# A rule of a security group names no destination: its interface is that. So every dst becomes a
# group with the rules of that dst, and an interface that owns it; the longest match owns an
# address, so an interface has the groups of all dst around its own too.
python3 -I - "$RULES_FILE" "${SRV_NET:-198.19.0.0/16}" "${PEER_FLAT:-}" >"$WORK/policy.toml" <<'PYTHON'
import ipaddress
import sys

path, servers, flat = sys.argv[1:]
servers = ipaddress.ip_network(servers)
rules = {}
for line in open(path):
    if not line.strip():
        continue
    protocol, source, target, low, high = line.strip().split(",")
    target = servers if flat else ipaddress.ip_network(target)
    ports = low if low == high else f'"{low}-{high}"'
    entry = f'  {{ protocol = "{protocol}", ports = {ports}, from = ["{source}"] }},'
    rules.setdefault(target, []).append(entry)
rules.setdefault(servers, [])


def name(network):
    return f"to-{network}".replace("/", "-")


for target, entries in rules.items():
    print(f'[security_groups."{name(target)}"]\ndescription = "to {target}"\ningress = [')
    print("\n".join(dict.fromkeys(entries)))
    print("]\negress = []\n")
for target in rules:
    around = [target.supernet(new_prefix=length) for length in range(target.prefixlen + 1)]
    groups = ", ".join(f'"{name(network)}"' for network in around if network in rules)
    print(f'[interfaces."{name(target)}"]\naddresses = ["{target}"]\ngroups = [{groups}]\n')
PYTHON

# Waits until the gateway answers, then until it has ended, and clears up. It holds the reading end
# of a pipe whose writing end is the gateway's: so it costs nothing while the gateway runs.
mkfifo "$WORK/alive"
(
  trap '' TERM INT
  exec 3<"$WORK/alive"
  for _ in {1..190}; do
    if "$BIN" status --socket "$WORK/control.sock" >/dev/null 2>&1; then
      : >"$READY_FILE"
      break
    fi
    # This shell's own number, which becomes the gateway's.
    kill -0 $$ 2>/dev/null || break
    sleep 0.1
  done
  read -r -u 3 _ || true
  rm -rf "$WORK"
) &
exec 9>"$WORK/alive"
exec "$BIN" run --config "$WORK/gateway.toml"

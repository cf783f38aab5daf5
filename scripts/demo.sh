#!/usr/bin/env bash
# Shows the gateway at work, in a lab of network namespaces that it makes and removes. As root.
#
#   scripts/demo.sh [--no-build] [--keep]
#   scripts/demo.sh --clean
#
#   --no-build   use target/release/portcullis as it is, and install nothing
#   --keep       leave the lab up at the end, and say how to enter it
#   --clean      remove a lab that was kept
#
# Every step checks that it went as promised; the exit code is 1 if one did not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SCRIPT=demo
source scripts/lab.sh

LAB=portcullis-demo              # what the lab's namespaces begin with
RUN=/run/portcullis-demo         # what the lab keeps while it is up; configs/demo names it too
CONFIG=configs/demo/gateway.toml
GATEWAY_LOG=$RUN/gateway.log
HOSTS=(client admin web db)
WEB=10.20.0.10 WEB6=fd20::10 DB=10.20.0.20 CLIENT=10.20.0.100 ADMIN=10.20.0.200
export PORTCULLIS_SOCKET=$RUN/control.sock
keep=no failed=0

# --- words -----------------------------------------------------------------------------------
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' GREEN='' RED='' PLAIN=''
fi
heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '  %s\n' "$*"; }
good() { printf '  %s✓%s %s\n' "$GREEN" "$PLAIN" "$*"; }
bad() { printf '  %s✗ %s%s\n' "$RED" "$*" "$PLAIN"; failed=$((failed + 1)); }
shown() { sed 's/^/    /'; }

# --- the lab ---------------------------------------------------------------------------------
inside() { # HOST COMMAND...
  local host=$1
  shift
  ip netns exec "$LAB-$host" "$@"
}

background() { # HOST LOG COMMAND... ; the process id is in $!
  local host=$1 log=$2
  shift 2
  ip netns exec "$LAB-$host" "$@" </dev/null >"$RUN/$log.log" 2>&1 &
  echo $! >>"$RUN/pids"
}

clean() {
  local pid name
  if [[ -e $RUN/pids ]]; then
    while read -r pid; do
      # The number may be another's by now: only what lives in the lab is ended.
      [[ $(ip netns identify "$pid" 2>/dev/null) == "$LAB"-* ]] || continue
      kill "$pid" 2>/dev/null || true
      for _ in {1..30}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
      done
      kill -9 "$pid" 2>/dev/null || true
    done <"$RUN/pids"
  fi
  for name in "${HOSTS[@]}" gw lan; do
    ip netns del "$LAB-$name" 2>/dev/null || true
  done
  rm -rf "$RUN"
}

leave() {
  local code=$?
  trap - EXIT INT TERM
  if [[ $keep == yes && $code -le 1 ]]; then
    say_kept
  else
    clean
  fi
  exit "$code"
}

say_kept() {
  heading "The lab stays up"
  note "enter a host:    ip netns exec $LAB-client bash     (also admin, web, db, gw)"
  note "ask the gateway: PORTCULLIS_SOCKET=$PORTCULLIS_SOCKET $BIN status"
  note "its log:         $GATEWAY_LOG"
  note "remove the lab:  scripts/demo.sh --clean"
}

wire() { # HOST DEVICE PEER-NAMESPACE PEER-DEVICE
  ip link add "$2" netns "$LAB-$1" type veth peer name "$4" netns "$LAB-$3"
  ip -n "$LAB-$1" link set "$2" up
  ip -n "$LAB-$3" link set "$4" up
  # Without this a host leaves checksums to a card that is not there.
  inside "$1" ethtool -K "$2" tx off >/dev/null
}

plug() { # HOST DEVICE SWITCH PORT: a host's device into a switch
  wire "$1" "$2" lan "$4"
  ip -n "$LAB-lan" link set "$4" master "$3"
}

address() { # HOST DEVICE NUMBER: both families
  ip -n "$LAB-$1" addr add "10.20.0.$3/24" dev "$2"
  ip -n "$LAB-$1" addr add "fd20::$3/64" dev "$2" nodad
}

make_lab() {
  local name
  for name in "${HOSTS[@]}" gw lan; do
    ip netns add "$LAB-$name"
    ip -n "$LAB-$name" link set lo up
    inside "$name" sh -c 'cd /proc/sys/net/ipv6/conf/default 2>/dev/null || exit 0
      echo 0 >accept_dad; echo 0 >accept_ra; echo 0 >router_solicitations'
  done
  for name in sw-out sw-data; do
    ip -n "$LAB-lan" link add "$name" type bridge mcast_snooping 0
    ip -n "$LAB-lan" link set "$name" addrgenmode none up
  done
  plug client eth0 sw-out to-client
  plug admin eth0 sw-out to-admin
  plug gw gw-out sw-out to-gw-out
  wire web eth0 gw gw-in
  plug client eth1 sw-data to-client-2
  plug web eth1 sw-data to-web
  plug gw gw-db-out sw-data to-gw-db-out
  wire db eth0 gw gw-db-in
  address client eth0 100
  address admin eth0 200
  address web eth0 10
  address db eth0 20
  # The way to the database is the second wire.
  ip -n "$LAB-web" route add $DB/32 dev eth1 src $WEB
  ip -n "$LAB-client" route add $DB/32 dev eth1 src $CLIENT
}

serve_files() { # HOST PORT TEXT
  local folder=$RUN/$1-$2
  mkdir -p "$folder"
  echo "$3" >"$folder/index.html"
  background "$1" "$1-$2" python3 -m http.server --bind :: "$2" --directory "$folder"
}

listens() { inside "$1" ss -Hltn "sport = :$2" | grep -q .; } # HOST PORT

start_gateway() {
  background gw gateway env NO_COLOR=1 "$BIN" run --config "$CONFIG"
  gateway=$!
  await "the gateway" "$BIN" status
}

# --- promises --------------------------------------------------------------------------------
passes() { # WHAT HOST COMMAND...
  local what=$1 host=$2 out
  shift 2
  printf '  %s%s$ %s%s\n' "$DIM" "$host" "$*" "$PLAIN"
  if out=$(inside "$host" "$@" 2>&1); then
    good "$what"
  else
    [[ -n $out ]] && shown <<<"$out"
    bad "$what: it does not"
  fi
}

dropped() { # number of packets that no rule allowed, so far
  "$BIN" status --json | jq '[.workers[].dropped["no-rule"]] | add'
}

is_refused() { # WHAT HOST COMMAND...: it fails, and the gateway has dropped something for it
  local what=$1 host=$2 before
  shift 2
  printf '  %s%s$ %s%s\n' "$DIM" "$host" "$*" "$PLAIN"
  before=$(dropped)
  if inside "$host" "$@" >/dev/null 2>&1; then
    bad "$what: it is let through"
  elif (($(dropped) > before)); then
    good "$what"
  else
    bad "$what: it failed, but not at the gateway"
  fi
}

says() { # WHAT PATTERN COMMAND...: runs portcullis, shows and checks what it says
  local what=$1 pattern=$2 out
  shift 2
  printf '  %sportcullis %s%s\n' "$DIM" "$*" "$PLAIN"
  if ! out=$("$BIN" "$@" 2>&1); then
    shown <<<"$out"
    bad "$what: the command failed"
    return
  fi
  shown <<<"$out"
  if grep -Eq -- "$pattern" <<<"$out"; then good "$what"; else bad "$what: no '$pattern'"; fi
}

# --- the steps -------------------------------------------------------------------------------
step_web() {
  heading "1. A web server: pages for everyone, ssh for administrators, nothing else"
  passes "the page comes" client curl -sf -m 5 http://$WEB/
  passes "over IPv6 too" client curl -sf -m 5 "http://[$WEB6]/"
  passes "ping is answered" client ping -n -q -c 1 -W 3 $WEB
  passes "over IPv6 too" client ping -n -q -c 1 -W 3 $WEB6
  is_refused "port 22 is refused to the client" client nc -z -w 1 $WEB 22
  is_refused "over IPv6 too" client nc -z -w 1 $WEB6 22
  passes "and open to the administrator" admin nc -z -w 5 $WEB 22
}

step_explain() {
  heading "2. Why was port 22 refused?"
  says "the answer is the packet path's own" '^deny \(no-rule\)' \
    explain --from $CLIENT --to $WEB:22 --protocol tcp
  says "and the administrator's rule is named" '^allow' \
    explain --from $ADMIN --to $WEB:22 --protocol tcp
}

step_groups() {
  heading "3. A database that only members of the group web may ask"
  passes "the web server's query is answered" web curl -sf -m 5 http://$DB:5432/
  is_refused "the client's is refused" client nc -z -w 1 $DB 5432
  note "The database's group lets nothing out: that answer passed because it was asked for."
  is_refused "the database itself opens nothing" db nc -z -w 1 $WEB 80
}

# A changed policy, from the demo's own: SED-SCRIPT NAME.
changed_policy() {
  sed -E "$1" configs/demo/policy.toml >"$RUN/$2.toml"
  if cmp -s configs/demo/policy.toml "$RUN/$2.toml"; then die "no change in $2.toml"; fi
}

step_change() {
  heading "4. The rules change in the middle of a transfer"
  local transfer report bytes again
  changed_policy 's/^(  \{ protocol = "tcp", ports = )80(,.*)/\1[80, 8080]\2/' opened
  changed_policy '/ports = 5432/d' shut
  inside db kill "$database"
  await "the database's end" bash -c "! kill -0 $database"
  background db iperf3 iperf3 -s -1 -p 5432
  await "the transfer's server" listens db 5432
  ip netns exec $LAB-web iperf3 -J -c $DB -p 5432 -t 6 -b 100M >"$RUN/transfer.json" 2>&1 &
  transfer=$!
  echo $transfer >>"$RUN/pids"
  note "web sends to the database at 100 Mbit/s; meanwhile:"
  sleep 1.5
  is_refused "port 8080 is closed" client nc -z -w 1 $WEB 8080
  says "a rule opens it" 'generation [0-9]+ in force on every worker' apply "$RUN/opened.toml"
  passes "at once" client curl -sf -m 5 http://$WEB:8080/
  says "another change takes the database's rule away" 'in force' apply "$RUN/shut.toml"
  is_refused "new connections to it are refused" web nc -z -w 1 $DB 5432
  if kill -0 $transfer 2>/dev/null; then
    good "and the transfer is still running"
  else
    bad "the transfer ended before the changes did"
  fi
  if wait $transfer; then
    report=$(jq -r '.end.sum_sent | "\(.bytes) \(.retransmits)"' "$RUN/transfer.json")
    read -r bytes again <<<"$report"
    note "$((bytes / 1000000)) MB sent, $again segments of some $((bytes / 1448)) sent again"
    # On a busy machine a sender repeats a segment or two by itself.
    if ((bytes > 70000000 && again * 1000 <= bytes / 1448)); then
      good "it was not disturbed: connections live on, as in AWS"
    else
      bad "it was disturbed"
    fi
  else
    shown <"$RUN/transfer.json"
    bad "the transfer broke off"
  fi
  says "the old policy comes back" 'in force' apply configs/demo/policy.toml
}

step_mistake() {
  heading "5. A mistake changes nothing"
  changed_policy 's/"group:web"/"group:wbe"/' mistake
  printf '  %sportcullis apply mistake.toml%s\n' "$DIM" "$PLAIN"
  if "$BIN" apply "$RUN/mistake.toml" >"$RUN/mistake.log" 2>&1; then
    bad "the mistake was accepted"
  else
    shown <"$RUN/mistake.log"
    if grep -q 'mistake.toml:[0-9]' "$RUN/mistake.log"; then
      good "refused, with the place and the remedy"
    else
      bad "refused, but not located"
    fi
  fi
  passes "the running policy stays" client curl -sf -m 5 http://$WEB/
}

step_death() {
  heading "6. The gateway is killed"
  kill -9 "$gateway"
  wait "$gateway" 2>/dev/null || true
  printf '  %sclient$ curl http://%s/%s\n' "$DIM" $WEB "$PLAIN"
  if inside client curl -sf -m 1 http://$WEB/ >/dev/null; then
    bad "the wire is open"
  else
    good "the wire is closed: on_exit = \"closed\""
  fi
  start_gateway
  passes "a new one takes over" client curl -sf -m 5 http://$WEB/
}

step_status() {
  heading "7. What the gateway knows"
  inside client curl -sf -m 5 http://$WEB/ >/dev/null || true
  inside client nc -z -w 1 $WEB 22 >/dev/null 2>&1 || true
  says "live flows" '^tcp ' flows
  says "health and counters" '^generation ' status
  local books
  books=$("$BIN" status --json | jq -r '
    [.workers[] | [.rx_packets, .tx_packets, (.dropped | add), .in_flight]] | transpose
    | map(add) | "\(.[0]) \(.[1]) \(.[2]) \(.[3])"')
  local rx tx drops flight
  read -r rx tx drops flight <<<"$books"
  if ((rx > 0 && rx == tx + drops + flight)); then
    good "$rx received = $tx sent + $drops dropped + $flight under way"
  else
    bad "$rx received, $tx sent, $drops dropped, $flight under way: it does not add up"
  fi
}

# --- from here -------------------------------------------------------------------------------
for argument in "$@"; do
  case $argument in
    --no-build) build=no ;;
    --keep) keep=yes ;;
    --clean) clean; exit 0 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) usage_error "$argument" ;;
  esac
done
prepare_gateway
[[ ! -e $RUN ]] || die "a lab is there already; remove it with: scripts/demo.sh --clean"
at_exit leave
mkdir -p "$RUN"
progress "making the lab"
make_lab
serve_files web 80 "a page of the web server"
serve_files web 8080 "another page of the web server"
serve_files db 5432 "rows of the database"
database=$!
background web ssh nc -lk 22
for port in 80 8080 22; do await "port $port of web" listens web $port; done
await "port 5432 of db" listens db 5432
progress "starting the gateway"
start_gateway

heading "Portcullis: a wire with security groups"
cat <<PICTURE
    client $CLIENT, admin $ADMIN ── gw-out ═ gateway ═ gw-in ── web $WEB
    client, web ── gw-db-out ═ gateway ═ gw-db-in ── db $DB
PICTURE
step_web
step_explain
step_groups
step_change
step_mistake
step_death
step_status
if ((failed)); then
  heading "${RED}$failed promises were not kept${PLAIN}"
  exit 1
fi
heading "${GREEN}Every promise was kept${PLAIN}"

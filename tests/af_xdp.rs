//! Links on the real kernel: veth pairs in network namespaces, and a gateway process that is
//! started, killed and started again. As root; a missing privilege prints SKIP and why.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, and SKIP is told on stdout"
)]

mod common;
#[path = "common/gateway.rs"]
mod gateway;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::netns::{Namespace, Wire};
use common::{attempt, can_run, run, skip};
use gateway::{Entry, Gateway, Order};
use serde_json::Value;

const PROGRAMS: [&str; 5] = ["ip", "ethtool", "nsenter", "ping", "python3"];

/// A directory that goes when the test ends.
struct StateDir(PathBuf);

impl StateDir {
    fn new(wire: &Wire) -> Self {
        Self(std::env::temp_dir().join(format!("{}.state", wire.gateway.name)))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Not there where the gateway changed nothing.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Sends numbered frames through the wire; what came of them: whole, changed, twice.
fn exchange(from: &Namespace, to: &Namespace, count: u32, length: u32, kind: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/frames.py");
    let mut receiver = Command::new("ip")
        .args([
            "netns", "exec", &to.name, "python3", script, "receive", "eth0",
        ])
        .args([
            count.to_string(),
            length.to_string(),
            kind.to_owned(),
            "3".to_owned(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    from.run(&format!(
        "python3 {script} send eth0 {count} {length} {kind}"
    ));
    let result = lines.next().unwrap().unwrap();
    receiver.wait().unwrap();
    result
}

fn all(count: u32) -> String {
    format!("whole={count} changed=0 twice=0")
}

/// The part of a device's state that a gateway changes.
fn settings(wire: &Wire, device: &str) -> String {
    let features = wire.gateway.run(&format!("ethtool -k {device}"));
    let ipv6 = wire.gateway.run(&format!(
        "cat /proc/sys/net/ipv6/conf/{device}/disable_ipv6"
    ));
    let link = wire.gateway.run(&format!("ip -j link show {device}"));
    let link: Value = serde_json::from_str(&link).unwrap();
    format!(
        "{features}ipv6 off: {ipv6}flags: {} xdp: {}",
        link[0]["flags"], link[0]["xdp"]
    )
}

#[test]
#[ignore = "not a test: the gateway process that the tests start"]
fn gateway_process() {
    gateway::main();
}

#[test]
fn frames_of_all_kinds_and_lengths_pass_unchanged_both_ways() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let mut gateway = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap();
    assert_eq!(
        gateway.description["modes"],
        serde_json::json!(["native", "native"])
    );
    assert_eq!(gateway.description["zero_copy"], false);
    for (length, kind) in [(60, "plain"), (1514, "plain"), (60, "vlan"), (1518, "vlan")] {
        assert_eq!(
            exchange(&wire.inside, &wire.outside, 300, length, kind),
            all(300),
            "{kind}"
        );
        assert_eq!(
            exchange(&wire.outside, &wire.inside, 300, length, kind),
            all(300),
            "{kind}"
        );
    }
    assert_eq!(
        exchange(&wire.inside, &wire.outside, 100, 1514, "qinq"),
        all(100)
    );
    assert!(wire.pings());
    assert!(gateway.counters()["received"].as_u64().unwrap() >= 2500);
    let last = gateway.stop();
    assert_eq!(last["accounted"], last["frames"], "{last}");
    assert_eq!(
        (&last["in_flight"], &last["bad"]),
        (&0.into(), &0.into()),
        "{last}"
    );
}

#[test]
fn no_chunk_is_lost_over_many_more_frames_than_chunks() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0)
        .with("frames", 256)
        .with("ring_size", 64);
    let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
    // Rings this short may lose some where the machine is busy; chunks are what counts here.
    for (from, to) in [(&wire.inside, &wire.outside), (&wire.outside, &wire.inside)] {
        let came = exchange(from, to, 5000, 100, "plain");
        assert!(came.ends_with("changed=0 twice=0"), "{came}");
    }
    let last = gateway.stop();
    assert!(last["received"].as_u64().unwrap() > 5000, "{last}");
    assert_eq!(last["accounted"], 256, "{last}");
    assert_eq!(last["in_flight"], 0, "{last}");
}

#[test]
fn every_queue_of_both_ports_forwards() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(3);
    let state = StateDir::new(&wire);
    let gateway = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap();
    assert_eq!(gateway.description["rx_queues"], serde_json::json!([3, 3]));
    assert_eq!(
        exchange(&wire.inside, &wire.outside, 600, 200, "udp"),
        all(600)
    );
    assert_eq!(
        exchange(&wire.outside, &wire.inside, 600, 200, "udp"),
        all(600)
    );
    let last = gateway.stop();
    let queues = last["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 6);
    for queue in queues {
        assert!(queue["received"].as_u64().unwrap() > 20, "{last}");
    }
    assert_eq!(last["accounted"], last["frames"]);
}

#[test]
fn generic_mode_forwards_and_switches_gro_off() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    wire.gateway.run("ethtool -K inside gro on");
    let before = settings(&wire, "inside");
    let order = Order::forward(&state.0).with("xdp_mode", "generic");
    let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
    assert_eq!(
        gateway.description["modes"],
        serde_json::json!(["generic", "generic"])
    );
    let features = wire.gateway.run("ethtool -k inside");
    assert!(
        features.contains("generic-receive-offload: off"),
        "{features}"
    );
    assert_eq!(
        exchange(&wire.inside, &wire.outside, 300, 1514, "plain"),
        all(300)
    );
    assert_eq!(
        exchange(&wire.outside, &wire.inside, 300, 60, "vlan"),
        all(300)
    );
    assert!(wire.pings());
    let last = gateway.stop();
    assert_eq!(last["accounted"], last["frames"]);
    Gateway::start(&wire.gateway.name, &Order::detach(&state.0, "inside")).unwrap();
    assert_eq!(settings(&wire, "inside"), before);
}

#[test]
fn auto_mode_falls_back_to_generic_and_says_so() {
    if !can_run(&PROGRAMS) {
        return;
    }
    // A veth takes no native program while its peer has more TX queues than it has RX queues.
    let wire = Wire::new(2);
    wire.gateway.run("ethtool -L inside rx 1 tx 1");
    let state = StateDir::new(&wire);
    let native = Order::forward(&state.0).with("xdp_mode", "native");
    let error = Gateway::start(&wire.gateway.name, &native).unwrap_err();
    assert!(error.contains("`inside`: no native XDP"), "{error}");
    let gateway = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap();
    assert_eq!(
        gateway.description["modes"],
        serde_json::json!(["generic", "native"])
    );
    let notes = gateway.description["notes"].to_string();
    assert!(notes.contains("`inside`: no native XDP"), "{notes}");
    assert!(wire.pings());
    let last = gateway.stop();
    let only_sends = |q: &&Value| q["receives"] == false && q["transmits"] == true;
    assert_eq!(
        last["queues"]
            .as_array()
            .unwrap()
            .iter()
            .filter(only_sends)
            .count(),
        0,
        "{last}"
    );
}

#[test]
fn zero_copy_that_a_driver_lacks_is_found_at_start() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let before = settings(&wire, "inside");
    let order = Order::forward(&state.0).with("zero_copy", "require");
    let error = Gateway::start(&wire.gateway.name, &order).unwrap_err();
    assert!(error.contains("`inside` queue 0: no zero copy"), "{error}");
    assert_eq!(
        settings(&wire, "inside"),
        before,
        "a failed start leaves nothing behind"
    );
    let gateway = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap();
    let notes = gateway.description["notes"].to_string();
    assert!(notes.contains("no zero copy"), "{notes}");
}

#[test]
fn a_second_gateway_on_the_same_port_is_refused() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0);
    let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
    let error = Gateway::start(&wire.gateway.name, &order.by(Entry::Nsenter)).unwrap_err();
    assert!(
        error.contains("a gateway runs on `inside` already (process "),
        "{error}"
    );
    let detach = Order::detach(&state.0, "outside");
    let error = Gateway::start(&wire.gateway.name, &detach).unwrap_err();
    assert!(
        error.contains("a gateway runs on `outside` already"),
        "{error}"
    );
    assert!(wire.pings(), "the first one forwards on");
    gateway.stop();
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    if !can_run(&PROGRAMS) {
        return;
    }
    if Command::new("clang").arg("--version").output().is_err() {
        return skip("needs clang for a foreign program");
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    std::fs::create_dir_all(&state.0).unwrap();
    let (source, object) = (state.0.join("foreign.c"), state.0.join("foreign.o"));
    std::fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int stranger(void *c) { return 2; }\n\
         char license[] __attribute__((section(\"license\"), used)) = \"GPL\";\n"
            .replace("char license", "char license_text"),
    )
    .unwrap();
    run(&format!(
        "clang -O2 -g -target bpf -c {} -o {}",
        source.display(),
        object.display()
    ));
    wire.gateway.run(&format!(
        "ip link set dev outside xdpgeneric obj {} sec xdp",
        object.display()
    ));
    let before = (settings(&wire, "inside"), settings(&wire, "outside"));
    let error = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap_err();
    assert!(
        error.contains("`outside` has an XDP program that is not ours: id "),
        "{error}"
    );
    assert!(error.contains("name `stranger`, generic mode"), "{error}");
    let detach = Order::detach(&state.0, "outside");
    let error = Gateway::start(&wire.gateway.name, &detach).unwrap_err();
    assert!(error.contains("name `stranger`"), "{error}");
    assert_eq!(
        (settings(&wire, "inside"), settings(&wire, "outside")),
        before
    );
}

/// A gateway that is killed, its wire, and its successor.
fn kill_and_restart(on_exit: &str, entry: Entry, mode: &str, wrapper: &str) {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0)
        .with("on_exit", on_exit)
        .with("xdp_mode", mode)
        .by(entry)
        .under(wrapper);
    for round in 0..2 {
        let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
        assert!(wire.pings(), "round {round}: forwards");
        assert!(exchange(&wire.outside, &wire.inside, 50, 200, "plain") == all(50));
        gateway.kill();
        let link = wire.gateway.run("ip -d link show inside");
        assert!(
            link.contains("portcullis"),
            "the program is still there: {link}"
        );
        assert_eq!(
            wire.pings(),
            on_exit == "open",
            "round {round}: {on_exit} without a gateway"
        );
        let passed = exchange(&wire.outside, &wire.inside, 50, 200, "vlan");
        assert_eq!(
            passed,
            all(if on_exit == "open" { 50 } else { 0 }),
            "round {round}"
        );
    }
    let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
    gateway.stop();
    assert_eq!(
        wire.pings(),
        on_exit == "open",
        "{on_exit} after an orderly end as well"
    );
}

#[test]
fn killed_closed_link_drops_and_restarts_under_ip_netns_exec() {
    kill_and_restart("closed", Entry::NetnsExec, "auto", "");
}

#[test]
fn killed_closed_link_drops_and_restarts_under_nsenter() {
    kill_and_restart("closed", Entry::Nsenter, "auto", "");
}

#[test]
fn killed_open_link_passes_and_restarts_under_ip_netns_exec() {
    kill_and_restart("open", Entry::NetnsExec, "auto", "");
}

#[test]
fn killed_open_link_passes_and_restarts_under_nsenter() {
    kill_and_restart("open", Entry::Nsenter, "auto", "");
}

#[test]
fn killed_closed_link_drops_in_generic_mode() {
    kill_and_restart("closed", Entry::NetnsExec, "generic", "");
}

#[test]
fn killed_open_link_passes_in_generic_mode() {
    kill_and_restart("open", Entry::NetnsExec, "generic", "");
}

#[test]
fn restart_without_cap_sys_admin_knows_its_program_by_the_record() {
    kill_and_restart(
        "closed",
        Entry::NetnsExec,
        "auto",
        "setpriv --bounding-set=-sys_admin",
    );
}

#[test]
fn a_program_attached_without_cap_perfmon_is_known_to_a_later_run_with_all_privileges() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0);
    // Without CAP_PERFMON the program has no name.
    let least = order
        .clone()
        .under("setpriv --bounding-set=-sys_admin,-perfmon");
    Gateway::start(&wire.gateway.name, &least).unwrap().kill();
    Gateway::start(&wire.gateway.name, &order).unwrap().stop();
}

#[test]
fn mode_can_change_at_a_restart() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0);
    for mode in ["generic", "native", "generic"] {
        let order = order.clone().with("xdp_mode", mode);
        let gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
        assert_eq!(
            gateway.description["modes"],
            serde_json::json!([mode, mode])
        );
        assert!(wire.pings(), "{mode}");
        gateway.kill();
        assert!(!wire.pings(), "{mode}");
    }
}

/// What the program on `inside` answers to a frame on a queue: 1 is XDP_DROP, 4 XDP_REDIRECT.
fn answer_on_queue(wire: &Wire, state: &StateDir, queue: u32) -> i64 {
    let link = wire.gateway.run("ip -j link show inside");
    let link: Value = serde_json::from_str(&link).unwrap();
    let (ifindex, program) = (
        link[0]["ifindex"].as_u64().unwrap(),
        &link[0]["xdp"]["prog"]["id"],
    );
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, 64, 0, u32::try_from(ifindex).unwrap(), queue, 0];
    let (frame, md) = (state.0.join("frame"), state.0.join("context"));
    std::fs::write(&frame, [2; 64]).unwrap();
    std::fs::write(&md, context.map(u32::to_ne_bytes).concat()).unwrap();
    let (frame, md) = (frame.display(), md.display());
    let line = format!("bpftool -j prog run id {program} data_in {frame} ctx_in {md}");
    let answer: Value = serde_json::from_str(&wire.gateway.run(&line)).unwrap();
    answer["retval"].as_i64().unwrap()
}

// The program itself is asked, because a veth does not run it on queues that it gains later.
#[test]
fn a_queue_added_under_an_open_link_is_no_way_round_the_gateway() {
    if !can_run(&PROGRAMS) || !can_run(&["bpftool"]) {
        return;
    }
    let wire = Wire::new(2);
    wire.inside.run("ethtool -L eth0 rx 2 tx 1");
    wire.gateway.run("ethtool -L inside rx 1 tx 2");
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0).with("on_exit", "open");
    let mut gateway = Gateway::start(&wire.gateway.name, &order).unwrap();
    let queues = gateway.counters()["queues"].to_string();
    assert!(
        queues.contains(r#""queue":1,"receives":false,"transmits":true"#),
        "{queues}"
    );
    wire.gateway.run("ethtool -L inside rx 2 tx 2");
    assert_eq!(answer_on_queue(&wire, &state, 0), 4, "to the socket");
    assert_eq!(
        answer_on_queue(&wire, &state, 1),
        1,
        "no socket there: dropped"
    );
    gateway.kill();
    assert_eq!(answer_on_queue(&wire, &state, 0), 4, "to the other port");
    assert_eq!(answer_on_queue(&wire, &state, 1), 4, "to the other port");
}

#[test]
fn detach_puts_everything_back() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    wire.gateway.run("ip link set outside down");
    let before = (settings(&wire, "inside"), settings(&wire, "outside"));
    let gateway = Gateway::start(&wire.gateway.name, &Order::forward(&state.0)).unwrap();
    let during = (settings(&wire, "inside"), settings(&wire, "outside"));
    assert!(
        during.0.contains("PROMISC") && during.1.contains("PROMISC"),
        "{during:?}"
    );
    assert!(during.0.contains("ipv6 off: 1"), "{}", during.0);
    assert!(during.0.contains("rx-vlan-offload: off"), "{}", during.0);
    assert!(
        wire.gateway.run("ip -6 addr show dev inside").is_empty(),
        "no link-local address"
    );
    gateway.kill();
    for device in ["inside", "outside"] {
        let detach = Order::detach(&state.0, device);
        let done = Gateway::start(&wire.gateway.name, &detach).unwrap();
        assert_eq!(done.description["program"], true);
        let again = Gateway::start(&wire.gateway.name, &detach).unwrap();
        assert_eq!(
            again.description["program"], false,
            "detaching twice is harmless"
        );
        assert_eq!(again.description["restored"], serde_json::json!([]));
    }
    assert_eq!(
        (settings(&wire, "inside"), settings(&wire, "outside")),
        before
    );
    assert_eq!(
        std::fs::read_dir(&state.0).unwrap().count(),
        0,
        "no record is left"
    );
}

/// A start that has to fail with these words, and to leave both devices as they were.
fn refused(wire: &Wire, order: &Order, words: &[&str]) {
    let before = (settings(wire, "inside"), settings(wire, "outside"));
    let error = Gateway::start(&wire.gateway.name, order).unwrap_err();
    for word in words {
        assert!(error.contains(word), "`{word}` in: {error}");
    }
    let after = (settings(wire, "inside"), settings(wire, "outside"));
    assert_eq!(after, before, "after: {error}");
}

#[test]
fn unfit_devices_are_refused() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0);
    let with = |key: &str, value: &str| order.clone().with(key, value);
    refused(
        &wire,
        &with("outside", "lo"),
        &["`lo` cannot be a port", "loopback"],
    );
    refused(
        &wire,
        &with("outside", "nothing"),
        &["no network device `nothing`"],
    );
    refused(
        &wire,
        &with("outside", "inside"),
        &["cannot be both its inside and its outside"],
    );

    wire.gateway.run("ip addr add 192.0.2.7/24 dev outside");
    refused(&wire, &order, &["`outside`", "192.0.2.7"]);
    wire.gateway.run("ip addr flush dev outside");
    wire.gateway
        .run("ip addr add 2001:db8::7/64 dev outside nodad");
    refused(&wire, &order, &["`outside`", "2001:db8::7"]);
    wire.gateway.run("ip addr del 2001:db8::7/64 dev outside");

    if attempt(&format!(
        "ip -n {} link add br0 type bridge",
        wire.gateway.name
    ))
    .status
    .success()
    {
        wire.gateway.run("ip link set inside master br0");
        refused(&wire, &order, &["`inside`", "member of `br0`"]);
        refused(&wire, &with("inside", "br0"), &["`br0`", "itself a bridge"]);
        wire.gateway.run("ip link set inside nomaster");
    } else {
        skip("this kernel has no bridges");
    }

    wire.gateway.run("ip link set outside mtu 1400");
    refused(
        &wire,
        &order,
        &["same MTU: `inside` has 1500, `outside` has 1400"],
    );
    wire.gateway.run("ip link set outside mtu 1900");
    wire.gateway.run("ip link set inside mtu 1900");
    let words = [
        "MTU 1900",
        "1922 bytes",
        "frame_size 2048 holds 1792",
        "lower the MTU to 1770",
    ];
    refused(&wire, &order, &words);
    let gateway = Gateway::start(&wire.gateway.name, &order.with("frame_size", 4096)).unwrap();
    gateway.stop();
}

#[test]
fn missing_privileges_and_memory_are_named() {
    if !can_run(&PROGRAMS) || !can_run(&["setpriv", "prlimit"]) {
        return;
    }
    let wire = Wire::new(1);
    let state = StateDir::new(&wire);
    let order = Order::forward(&state.0);
    let without = |what: &str| {
        order
            .clone()
            .under(&format!("setpriv --bounding-set={what}"))
    };
    refused(&wire, &without("-net_raw"), &["CAP_NET_RAW"]);
    refused(&wire, &without("-bpf,-sys_admin"), &["CAP_BPF"]);
    refused(&wire, &without("-net_admin,-sys_admin"), &["CAP_NET_ADMIN"]);
    let small = "prlimit --memlock=65536:65536 setpriv --bounding-set=-ipc_lock";
    refused(
        &wire,
        &order.clone().under(small),
        &["CAP_IPC_LOCK", "RLIMIT_MEMLOCK is 65536"],
    );
    let huge = order
        .clone()
        .with("huge_pages", "require")
        .with("frames", 1 << 20);
    refused(&wire, &huge, &["1024 free huge pages", "vm.nr_hugepages"]);
    refused(
        &wire,
        &order.clone().with("frames", 100),
        &["frames = 100", "need 256"],
    );
    refused(
        &wire,
        &order.clone().with("ring_size", 100),
        &["ring_size = 100"],
    );
    refused(
        &wire,
        &order.with("frame_size", 1000),
        &["frame_size = 1000"],
    );
}

#[test]
fn the_checked_in_object_is_what_its_source_compiles_to() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/af_xdp");
    let available = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !["clang", "llvm-strip", "llvm-objdump"]
        .into_iter()
        .all(available)
    {
        return skip("needs clang, llvm-strip and llvm-objdump");
    }
    let built = std::env::temp_dir().join(format!("portcullis-{}.bpf.o", std::process::id()));
    let flags = "-O2 -g -target bpf -mcpu=v3 -fdebug-compilation-dir=.";
    let status = Command::new("clang")
        .current_dir(dir)
        .args(flags.split(' '))
        .args(["-c", "xdp_prog.bpf.c", "-o"])
        .arg(&built)
        .status();
    assert!(status.unwrap().success());
    run(&format!("llvm-strip -g {}", built.display()));
    let checked_in = format!("{dir}/xdp_prog.bpf.o");
    let same = std::fs::read(&built).unwrap() == std::fs::read(&checked_in).unwrap();
    let instructions = |path: &str| {
        let text = run(&format!("llvm-objdump -d -r {path}"));
        text.lines().skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let (new, old) = (
        instructions(&built.to_string_lossy()),
        instructions(&checked_in),
    );
    std::fs::remove_file(&built).unwrap();
    assert_eq!(new, old, "the instructions differ: rebuild the object");
    if !same {
        println!("note: same instructions, but other debug data (another clang version)");
    }
}

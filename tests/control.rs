//! The gateway's control side on the real kernel: hostile clients, a log that nobody reads, ports
//! that vanish, files that are saved, and commands that are asked nonsense. As root where devices
//! are needed; a missing privilege prints SKIP and why.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do, and SKIP is told on stdout"
)]

mod common;
#[path = "control/staged.rs"]
mod staged;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::netns::Wire;
use common::{can_run, run};
use serde_json::Value;

const PROGRAMS: [&str; 4] = ["ip", "ethtool", "ping", "python3"];
const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// How long the gateway has for what it does at once: a debug build on a busy machine.
const TRIES_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("portcullis-control-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A policy whose interface may be reached at one TCP port, and may send anything.
fn policy(port: u16) -> String {
    format!(
        "[security_groups.web]\ndescription = \"web\"\n\
         ingress = [{{ protocol = \"tcp\", ports = {port}, from = [\"0.0.0.0/0\"] }}]\n\
         [interfaces.web-1]\naddresses = [\"10.9.0.1\"]\ngroups = [\"web\"]\n"
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn portcullis(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .env("PORTCULLIS_SOCKET", folder.join("control.sock"))
        .output()
        .unwrap()
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..TRIES_MAX {
        if condition() {
            return;
        }
        thread::sleep(PAUSE);
    }
    panic!("{what}");
}

/// Runs the gateway of a file at the wire.
fn spawn(wire: &Wire, file: &Path, log: Stdio) -> Child {
    Command::new("ip")
        .args(["netns", "exec", &wire.gateway.name, BINARY, "run"])
        .arg("--config")
        .arg(file)
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A gateway on a wire, ended with the test.
struct Gateway {
    child: Child,
    folder: Folder,
    wire: Wire,
}

impl Gateway {
    /// Starts one whose log goes to `log`; `more` is added to its file.
    fn start(name: &str, more: &str, log: impl FnOnce(&Folder) -> Stdio) -> Option<Self> {
        if !can_run(&PROGRAMS) {
            return None;
        }
        let (wire, folder) = (Wire::new(1), Folder::new(name));
        let path = folder.0.display();
        folder.write("policy.toml", &policy(80));
        let file = folder.write(
            "gateway.toml",
            &format!(
                "policy = \"policy.toml\"\ncontrol_socket = \"{path}/control.sock\"\n\
                 state_dir = \"{path}/state\"\n[workers]\ncores = [0]\n[umem]\nframes = 4096\n\
                 [[link]]\nname = \"uplink\"\ninside = \"inside\"\noutside = \"outside\"\n{more}"
            ),
        );
        let child = spawn(&wire, &file, log(&folder));
        let gateway = Self {
            child,
            folder,
            wire,
        };
        wait_for("it starts", || gateway.ask(&["status"]).status.success());
        Some(gateway)
    }

    /// Starts it again after [`Gateway::stop`], with nobody who reads its log.
    fn start_again(&mut self) {
        let file = self.folder.0.join("gateway.toml");
        self.child = spawn(&self.wire, &file, Stdio::null());
        wait_for("it starts", || self.ask(&["status"]).status.success());
    }

    fn logging(name: &str) -> Option<Self> {
        Self::start(name, "", |folder| {
            File::create(folder.0.join("log")).unwrap().into()
        })
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        portcullis(&self.folder.0, arguments)
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.0.join("control.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Processor time of the process so far, in hundredths of a second.
    fn cpu(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let mut fields = fields
            .split(' ')
            .skip(11)
            .map(|n| n.parse::<u64>().unwrap());
        fields.next().unwrap() + fields.next().unwrap()
    }

    /// Ends it by SIGTERM; its exit code.
    fn stop(&mut self) -> Option<i32> {
        run(&format!("kill -TERM {}", self.child.id()));
        self.child.wait().unwrap().code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Gone already where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_log_that_nobody_reads_ends_no_gateway() {
    let closed = |_: &Folder| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer.into()
    };
    // A note at start, and a line for each policy.
    let limits = "[limits]\nquotas = \"aws\"\n";
    let Some(mut gateway) = Gateway::start("unread", limits, closed) else {
        return;
    };
    gateway.folder.write("next.toml", &policy(81));
    for generation in 2..6 {
        let port = 79 + generation;
        let next = gateway.folder.write("next.toml", &policy(port));
        assert!(
            gateway
                .ask(&["apply", next.to_str().unwrap()])
                .status
                .success()
        );
        assert_eq!(gateway.status()["generation"], generation);
    }
    assert!(gateway.wire.pings());
    assert_eq!(gateway.stop(), Some(0));
}

#[test]
fn hostile_clients_are_answered_or_closed_and_others_served() {
    let Some(gateway) = Gateway::logging("hostile") else {
        return;
    };
    let mut garbage = gateway.connect();
    garbage
        .write_all(b"\xff\0\n{}\n{\"command\":\"status\"}\n")
        .unwrap();
    let mut lines = BufReader::new(&garbage).lines().map(Result::unwrap);
    for expected in ["{\"error\"", "{\"error\"", "{\"ok\""] {
        assert!(lines.next().unwrap().starts_with(expected));
    }
    let mut half = gateway.connect();
    half.write_all(b"{\"command\":\"status\"}").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("{\"ok\""), "no line end, but an end");
    let mut endless = gateway.connect();
    let block = vec![b'a'; 1 << 20];
    let sent = (0..100).find_map(|_| endless.write_all(&block).err());
    assert_eq!(sent.map(|error| error.kind()), Some(ErrorKind::BrokenPipe));
    let crowd: Vec<UnixStream> = (0..40).map(|_| gateway.connect()).collect();
    wait_for("too many are told so", || {
        let told = gateway.ask(&["status"]);
        !told.status.success() && text(&told.stderr).contains("clients are served already")
    });
    drop(crowd);
    wait_for("and then served", || {
        gateway.ask(&["status"]).status.success()
    });
    let threads = format!("/proc/{}/task", gateway.child.id());
    wait_for("no thread is left behind", || {
        fs::read_dir(&threads).unwrap().count() < 16
    });
}

#[test]
fn a_port_that_goes_is_told_and_costs_no_processor() {
    let Some(gateway) = Gateway::logging("vanish") else {
        return;
    };
    let name = gateway.wire.gateway.name.clone();
    assert!(gateway.wire.pings());
    run(&format!("ip -n {name} link set outside down"));
    assert!(!gateway.wire.pings(), "these wait in the transmit ring");
    wait_for("down is told", || gateway.log().contains("set down"));
    let quiet = |gateway: &Gateway| {
        let before = gateway.cpu();
        thread::sleep(Duration::from_secs(2));
        gateway.cpu() - before
    };
    assert!(quiet(&gateway) < 60, "a worker spins");
    run(&format!("ip -n {name} link set outside up"));
    wait_for("up is told", || gateway.log().contains("up again"));
    wait_for("it forwards again", || gateway.wire.pings());
    run(&format!("ip -n {name} link del outside"));
    wait_for("the end is told", || {
        gateway.log().contains("the device is gone")
    });
    assert!(quiet(&gateway) < 60, "a worker spins");
    let notes = gateway.status()["links"][0]["notes"].to_string();
    assert!(notes.contains("`outside`: the device is gone"), "{notes}");
}

#[test]
fn a_saved_policy_is_not_read_back_over_one_applied_since() {
    let Some(gateway) = Gateway::logging("saved") else {
        return;
    };
    let saved = gateway.folder.write("saved.toml", &policy(81));
    let next = gateway.folder.write("next.toml", &policy(82));
    let saved = saved.to_str().unwrap();
    assert!(gateway.ask(&["apply", saved, "--save"]).status.success());
    assert!(
        gateway
            .ask(&["apply", next.to_str().unwrap()])
            .status
            .success()
    );
    assert_eq!(gateway.status()["generation"], 3);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(
        gateway.status()["generation"],
        3,
        "the watch has seen the file"
    );
    assert_eq!(
        fs::read_to_string(gateway.folder.0.join("policy.toml")).unwrap(),
        policy(81)
    );
    gateway.folder.write("policy.toml", &policy(81));
    wait_for("what a person writes counts", || {
        gateway.status()["generation"] == 4
    });
}

#[test]
fn flows_end_when_asked_and_are_judged_anew() {
    let Some(gateway) = Gateway::logging("end") else {
        return;
    };
    let flows = |more: &[&str]| -> Vec<Value> {
        let done = gateway.ask(&[&["flows", "--json"], more].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    };
    assert!(gateway.wire.pings());
    assert_eq!(flows(&[]).len(), 1);
    assert_eq!(flows(&["--address", "10.9.0.9", "--end"]).len(), 0);
    assert_eq!(flows(&["--interface", "web-1", "--limit", "1"]).len(), 1);
    assert_eq!(flows(&["--interface", "web-1", "--end"]).len(), 1);
    assert_eq!(flows(&[]).len(), 0);
    assert!(gateway.wire.pings(), "the rules still let it");
    // More flows than one answer has rows.
    let script = "import socket
for port in range(2000, 5000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('10.9.0.1', port))
    s.sendto(b'x', ('10.9.0.2', 9))
    s.close()";
    let sent = Command::new("ip")
        .args([
            "netns",
            "exec",
            &gateway.wire.inside.name,
            "python3",
            "-c",
            script,
        ])
        .status();
    assert!(sent.unwrap().success());
    let counted = || gateway.status()["conntrack"]["flows"].as_u64().unwrap();
    wait_for("they and the ping are in the table", || counted() == 3001);
    let ports: HashSet<u64> = flows(&["--protocol", "udp"])
        .iter()
        .map(|flow| flow["source_port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports.len(), 3000, "each once");
    assert_eq!(flows(&["--all", "--limit", "1500", "--end"]).len(), 1500);
    wait_for("the gauge follows", || counted() == 1501);
}

#[test]
fn nonsense_is_a_usage_error_and_harms_no_file() {
    let folder = Folder::new("usage");
    folder.write("p.toml", &policy(80));
    let capture = [
        0xa1b2_c3d4_u32.to_le_bytes(),
        [2, 0, 4, 0],
        [0; 4],
        [0; 4],
        65535_u32.to_le_bytes(),
        [1, 0, 0, 0],
    ]
    .concat();
    fs::write(folder.0.join("in.pcap"), &capture).unwrap();
    let replay = ["replay", "--policy", "p.toml", "--pcap", "in.pcap"];
    let explain = [
        "explain",
        "--policy",
        "p.toml",
        "--from",
        "10.0.0.1",
        "--protocol",
    ];
    for more in [
        ["--allowed", "./in.pcap"].as_slice(),
        &["--verdicts", "in.pcap"],
        &["--allowed", "p.toml"],
        &["--allowed", "x", "--verdicts", "x"],
    ] {
        let done = portcullis(&folder.0, &[&replay, more].concat());
        assert_eq!(done.status.code(), Some(2), "{more:?}");
    }
    for more in [
        ["tcp", "--to", "10.0.0.2"].as_slice(),
        &["tcp", "--to", "::1"],
        &["tcp", "--to", "10.0.0.2:80", "--type", "8"],
        &["icmpv6", "--to", "10.0.0.2"],
        &["icmp", "--to", "10.0.0.2:80"],
    ] {
        let done = portcullis(&folder.0, &[&explain, more].concat());
        assert_eq!(done.status.code(), Some(2), "{more:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty());
    }
    assert_eq!(fs::read(folder.0.join("in.pcap")).unwrap(), capture);
    assert_eq!(
        fs::read_to_string(folder.0.join("p.toml")).unwrap(),
        policy(80)
    );
    let missing = [
        "replay",
        "--policy",
        "p.toml",
        "--pcap",
        "none",
        "--allowed",
        "out.pcap",
    ];
    assert_eq!(portcullis(&folder.0, &missing).status.code(), Some(1));
    assert!(
        !folder.0.join("out.pcap").exists(),
        "nothing is made for nothing"
    );
    assert_eq!(portcullis(&folder.0, &replay).status.code(), Some(0));
    let silent = portcullis(&folder.0, &["status"]);
    assert_eq!(silent.status.code(), Some(1));
    assert_eq!(text(&silent.stderr).lines().count(), 1);
}

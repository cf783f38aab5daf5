//! The laboratory: hosts on both sides of a gateway that runs for real, over virtual devices.
//!
//! ```text
//!   outside(i)  e0 ══ outI [gateway] inI ══ e0  inside(i)
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frames::{Mac, arp, ethernet};
use crate::host::{Host, SILENCE};

/// What the one device of every host is called.
pub(crate) const HOST_DEVICE: &str = "e0";
/// What all namespaces of these tests begin with; the process id follows.
const PREFIX: &str = "pcwire-";
/// How long a gateway may take to start on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// One laboratory at a time: the machine is small, and cores are shared.
static TURN: Mutex<()> = Mutex::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What a laboratory is made of.
pub(crate) struct Plan<'a> {
    /// The policy file.
    pub(crate) policy: &'a str,
    /// Sections of the gateway file beside those that the laboratory writes.
    pub(crate) gateway: &'a str,
    /// Keys of every `[[link]]`.
    pub(crate) link: &'a str,
    pub(crate) links: usize,
    /// Queues of every device.
    pub(crate) queues: u32,
    /// What a worker does when nothing comes.
    pub(crate) idle: &'a str,
    /// Chunks of packet memory.
    pub(crate) frames: u32,
    pub(crate) frame_size: u32,
    /// MTU of every device.
    pub(crate) mtu: usize,
    /// Cores of the workers.
    pub(crate) cores: &'a [usize],
    /// GRO on at the hosts: what a device needs to receive frames that a driver redirects.
    pub(crate) gro: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        let (policy, gateway, link) = ("", "", "");
        Self {
            policy,
            gateway,
            link,
            links: 1,
            queues: 1,
            idle: "adaptive",
            frames: 8192,
            frame_size: 2048,
            mtu: 1500,
            cores: &[1],
            gro: false,
        }
    }
}

/// Which side of a link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Outside,
    Inside,
}

/// A running laboratory.
pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    id: String,
    outside: Vec<Host>,
    inside: Vec<Host>,
    gateway: Option<Child>,
    baseline: Books,
    marks: AtomicU32,
    _turn: MutexGuard<'static, ()>,
}

/// What went in and came out, by the devices and by the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Books {
    devices_rx: u64,
    devices_tx: u64,
    kernel_dropped: u64,
    workers_rx: u64,
    workers_tx: u64,
    workers_dropped: u64,
    in_flight: u64,
}

/// Runs a test in a laboratory, and closes its books afterwards. Without the privileges or
/// programs that it needs the test is skipped; where `CI` is set it fails.
pub(crate) fn wire_test(plan: &Plan<'_>, test: impl FnOnce(&mut Lab)) {
    if let Some(missing) = missing() {
        assert!(
            std::env::var_os("CI").is_none(),
            "cannot run here: {missing}"
        );
        eprintln!("SKIP: {missing}");
        return;
    }
    let mut lab = Lab::build(plan);
    lab.start_gateway();
    test(&mut lab);
    if lab.gateway.is_some() {
        lab.close_books();
    }
}

fn missing() -> Option<String> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        return Some("needs root, for network namespaces and AF_XDP".to_owned());
    }
    let programs = [
        "ip", "ethtool", "ping", "python3", "iperf3", "nmap", "tcpdump",
    ];
    let absent = programs.iter().find(|program| {
        let which = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output();
        !which.is_ok_and(|which| which.status.success())
    });
    if let Some(absent) = absent {
        return Some(format!("needs the program {absent}"));
    }
    let probe = format!("{PREFIX}probe-{}", std::process::id());
    let made = ip(&["netns", "add", &probe]);
    if !made.status.success() {
        return Some(format!("no network namespaces: {}", text(&made.stderr)));
    }
    ip(&["netns", "del", &probe]);
    None
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().unwrap()
}

fn must(arguments: &[&str]) {
    let done = ip(arguments);
    assert!(
        done.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        text(&done.stderr)
    );
}

/// What a program wrote.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Namespaces of earlier runs that were killed, with what runs in them.
fn sweep() {
    for line in text(&ip(&["netns", "list"]).stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let Some(owner) = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if owner
            .parse::<u32>()
            .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        {
            remove_namespace(name);
        }
    }
}

fn remove_namespace(name: &str) {
    for pid in text(&ip(&["netns", "pids", name]).stdout).split_whitespace() {
        // What has ended meanwhile needs no signal.
        let _ended = Command::new("kill").args(["-9", pid]).output();
    }
    ip(&["netns", "del", name]);
}

impl Lab {
    fn build(plan: &Plan<'_>) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{PREFIX}{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(&folder).unwrap();
        let mut lab = Self {
            folder,
            id,
            outside: Vec::new(),
            inside: Vec::new(),
            gateway: None,
            baseline: Books::default(),
            marks: AtomicU32::new(0),
            _turn: turn,
        };
        must(&["netns", "add", &lab.gateway_namespace()]);
        for link in 0..plan.links {
            let outside = lab.host(Side::Outside, link, plan);
            lab.outside.push(outside);
            let inside = lab.host(Side::Inside, link, plan);
            lab.inside.push(inside);
        }
        lab.write_files(plan);
        lab
    }

    pub(crate) fn gateway_namespace(&self) -> String {
        format!("{}-gw", self.id)
    }

    /// A host with its device, whose other end is the gateway's port.
    fn host(&self, side: Side, link: usize, plan: &Plan<'_>) -> Host {
        let (word, port, hosts) = match side {
            Side::Outside => ("out", format!("out{link}"), [1, 2, 3]),
            Side::Inside => ("in", format!("in{link}"), [10, 11, 12]),
        };
        let (namespace, gateway) = (
            format!("{}-{word}{link}", self.id),
            self.gateway_namespace(),
        );
        let mac: Mac = [2, 0, 0, 7, u8::try_from(link).unwrap(), hosts[0]];
        must(&["netns", "add", &namespace]);
        let host = Host::new(&namespace, mac);
        host.sysctl(&json!({
            "net.ipv6.conf.default.accept_dad": 0,
            "net.ipv6.conf.default.accept_ra": 0,
            "net.ipv6.conf.default.router_solicitations": 0,
        }));
        let [.., last] = mac;
        let mac = format!("02:00:00:07:{link:02x}:{last:02x}");
        let (queues, mtu) = (plan.queues.to_string(), plan.mtu.to_string());
        let mut add = vec![
            "link",
            "add",
            HOST_DEVICE,
            "netns",
            &namespace,
            "address",
            &mac,
        ];
        add.extend([
            "numrxqueues",
            &queues,
            "numtxqueues",
            &queues,
            "type",
            "veth",
        ]);
        add.extend(["peer", "name", &port, "netns", &gateway]);
        add.extend(["numrxqueues", &queues, "numtxqueues", &queues]);
        add.extend(["mtu", &mtu]);
        must(&add);
        let mut script = "ip link set lo up".to_owned();
        for number in hosts {
            // The first address is the one that a host speaks from by itself.
            let later = if number == hosts[0] {
                ""
            } else {
                " preferred_lft 0"
            };
            let (v4, v6) = (subnet4(link, number), subnet6(link, number));
            script += &format!(" && ip addr add {v4} dev {HOST_DEVICE}");
            script += &format!(" && ip addr add {v6} dev {HOST_DEVICE} nodad{later}");
        }
        script += &format!(" && ip link set {HOST_DEVICE} mtu {mtu} up");
        // A partial checksum would go out as it is.
        script += &format!(" && ethtool -K {HOST_DEVICE} tx off");
        if plan.gro {
            script += &format!(" && ethtool -K {HOST_DEVICE} gro on");
        }
        let done = host.run(&["sh", "-c", &script]);
        assert_eq!(done.code, 0, "{script}: {}", done.err);
        must(&["-n", &gateway, "link", "set", &port, "up"]);
        host
    }

    fn write_files(&self, plan: &Plan<'_>) {
        let folder = self.folder.display();
        let mut file = format!(
            "policy = \"policy.toml\"\ncontrol_socket = \"{folder}/control.sock\"\n\
             state_dir = \"{folder}/state\"\n[workers]\ncores = {:?}\nidle = \"{}\"\n\
             [umem]\nframes = {}\nframe_size = {}\n",
            plan.cores, plan.idle, plan.frames, plan.frame_size
        );
        for link in 0..plan.links {
            file += &format!("[[link]]\nname = \"link{link}\"\ninside = \"in{link}\"\n");
            file += &format!("outside = \"out{link}\"\n{}\n", plan.link);
        }
        file += plan.gateway;
        fs::write(self.folder.join("gateway.toml"), file).unwrap();
        self.write_policy(plan.policy);
    }

    /// Writes the configured policy file, in place.
    pub(crate) fn write_policy(&self, policy: &str) {
        fs::write(self.folder.join("policy.toml"), policy).unwrap();
    }

    pub(crate) fn outside(&self) -> &Host {
        &self.outside[0]
    }

    pub(crate) fn inside(&self) -> &Host {
        &self.inside[0]
    }

    pub(crate) fn host_of(&self, side: Side, link: usize) -> &Host {
        match side {
            Side::Outside => &self.outside[link],
            Side::Inside => &self.inside[link],
        }
    }

    fn dress(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("PORTCULLIS_SOCKET", self.folder.join("control.sock"))
            .env("NO_COLOR", "1");
        command
    }

    /// A command of the product in the gateway's namespace.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        let binary = env!("CARGO_BIN_EXE_portcullis");
        command.args(["netns", "exec", &self.gateway_namespace(), binary]);
        self.dress(command, arguments)
    }

    /// Runs a command of the product to its end; it needs no device, only the control socket.
    pub(crate) fn portcullis(&self, arguments: &[&str]) -> Output {
        let command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        self.dress(command, arguments).output().unwrap()
    }

    /// Runs a command that shall succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let done = self.portcullis(arguments);
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            text(&done.stderr)
        );
        serde_json::from_slice(&done.stdout).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        self.json(&["status", "--json"])
    }

    /// Starts the gateway and waits until it answers.
    pub(crate) fn start_gateway(&mut self) {
        let child = self.spawn_gateway("gateway.toml");
        self.gateway = Some(child);
        let started = now();
        loop {
            if self.portcullis(&["status", "--json"]).status.success() {
                break;
            }
            let ended = self
                .gateway
                .as_mut()
                .and_then(|child| child.try_wait().unwrap());
            assert!(
                ended.is_none(),
                "the gateway ended: {ended:?}: {}",
                self.log()
            );
            assert!(
                started.elapsed() < START_PATIENCE,
                "it does not start: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.open_books();
    }

    /// Starts a gateway by a file of the laboratory's folder.
    pub(crate) fn spawn_gateway(&self, config: &str) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("gateway.log"))
            .unwrap();
        self.command(&["run", "--config", config])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// What the gateway has logged.
    pub(crate) fn log(&self) -> String {
        text(&fs::read(self.folder.join("gateway.log")).unwrap_or_default())
    }

    /// Sends the gateway a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.gateway.as_ref().unwrap().id().to_string();
        let done = Command::new("kill").args([signal, &pid]).output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
    }

    /// Memory of the gateway that is in use, kilobytes.
    pub(crate) fn memory_kb(&self) -> u64 {
        let pid = self.gateway.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.unwrap().trim().trim_end_matches(" kB");
        size.parse().unwrap()
    }

    /// Ends the gateway by a signal.
    pub(crate) fn end_gateway(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.gateway.take().unwrap().wait().unwrap()
    }

    /// Puts a policy in force; panics if it is refused.
    pub(crate) fn apply(&self, policy: &str) -> Value {
        let done = self.try_apply(policy);
        assert!(
            done.status.success(),
            "{}{}",
            text(&done.stdout),
            text(&done.stderr)
        );
        serde_json::from_slice(&done.stdout).unwrap()
    }

    pub(crate) fn try_apply(&self, policy: &str) -> Output {
        fs::write(self.folder.join("next.toml"), policy).unwrap();
        self.portcullis(&["apply", "--json", "next.toml"])
    }

    /// Packets by reason, summed over workers: first those that passed, then those dropped.
    pub(crate) fn reasons(&self) -> [BTreeMap<String, u64>; 2] {
        let status = self.status();
        ["passed", "dropped"].map(|kind| {
            let mut sums = BTreeMap::new();
            for worker in status["workers"].as_array().unwrap() {
                for (reason, count) in worker[kind].as_object().unwrap() {
                    *sums.entry(reason.clone()).or_default() += count.as_u64().unwrap();
                }
            }
            sums
        })
    }

    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        *self.reasons()[1]
            .get(reason)
            .unwrap_or_else(|| panic!("no reason `{reason}`"))
    }

    pub(crate) fn passed(&self, reason: &str) -> u64 {
        *self.reasons()[0]
            .get(reason)
            .unwrap_or_else(|| panic!("no reason `{reason}`"))
    }

    /// Asserts that what is done in between is dropped for this reason, at least once.
    pub(crate) fn expect_dropped<T>(&self, reason: &str, action: impl FnOnce() -> T) -> T {
        let before = self.dropped(reason);
        let result = action();
        wait_for(
            || self.dropped(reason) > before,
            || format!("nothing was dropped as {reason}: {:?}", self.reasons()),
        );
        result
    }

    /// Asserts that what is done in between is dropped for this reason so many times, and that
    /// nothing else is dropped.
    pub(crate) fn expect_drops<T>(
        &self,
        reason: &str,
        count: u64,
        action: impl FnOnce() -> T,
    ) -> T {
        let sum = || self.reasons()[1].values().sum::<u64>();
        let before = (self.dropped(reason) + count, sum() + count);
        let result = action();
        wait_for(
            || (self.dropped(reason), sum()) == before,
            || format!("not {count} times {reason}: {:?}", self.reasons()),
        );
        result
    }

    /// Sends frames from one side of link 0; which of them come out on the other, in the order in
    /// which they do. Waits until all have or silence falls: workers hand over to one another.
    pub(crate) fn through(&self, from: Side, frames: &[Vec<u8>]) -> Vec<usize> {
        let (source, target) = self.ends(from, 0);
        target.listen();
        source.send(frames);
        let mut came = Vec::new();
        let mut silence = 0;
        while silence < 4 && came.len() < frames.len() {
            let before = came.len();
            for heard in target.heard(SILENCE / 4.0, None) {
                let mut which = frames.iter().enumerate();
                let is_new = |at: &usize| !came.contains(at);
                let found = which.find(|(at, frame)| **frame == heard && is_new(at));
                came.extend(found.map(|(at, _)| at));
            }
            silence = if came.len() > before { 0 } else { silence + 1 };
        }
        came
    }

    /// Whether one packet comes through, whichever workers it meets.
    pub(crate) fn passes(&self, from: Side, packet: &[u8]) -> bool {
        !self
            .through(from, &[self.frame(from, 0, packet)])
            .is_empty()
    }

    /// An Ethernet frame from the host of one side of a link to that of the other.
    pub(crate) fn frame(&self, from: Side, link: usize, packet: &[u8]) -> Vec<u8> {
        self.tagged(from, link, &[], packet)
    }

    /// The same with VLAN tags, (TPID, id), outermost first.
    pub(crate) fn tagged(
        &self,
        from: Side,
        link: usize,
        tags: &[(u16, u16)],
        packet: &[u8],
    ) -> Vec<u8> {
        let (source, target) = self.ends(from, link);
        let kind = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
            0x86dd
        } else {
            0x0800
        };
        ethernet(target.mac, source.mac, tags, kind, packet)
    }

    fn ends(&self, from: Side, link: usize) -> (&Host, &Host) {
        match from {
            Side::Outside => (&self.outside[link], &self.inside[link]),
            Side::Inside => (&self.inside[link], &self.outside[link]),
        }
    }

    /// Sends frames from one side of link 0; whether each came out on the other, unchanged.
    pub(crate) fn cross(&self, from: Side, frames: &[Vec<u8>]) -> Vec<bool> {
        self.cross_on(0, from, frames)
    }

    pub(crate) fn cross_on(&self, link: usize, from: Side, frames: &[Vec<u8>]) -> Vec<bool> {
        let (source, target) = self.ends(from, link);
        target.listen();
        source.send(frames);
        // An ARP probe (RFC 5227 §1.1) passes whatever the policy is, and comes last.
        let mark = self.marks.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mac = [2, 0xfe, mark[0], mark[1], mark[2], mark[3]];
        let nobody = IpAddr::from([0, 0, 0, 0]);
        let body = arp(1, mac, nobody, IpAddr::from([10, 7, 0, 250]));
        source.send(&[ethernet([0xff; 6], source.mac, &[], 0x0806, &body)]);
        let mut heard = target.heard(crate::host::PATIENCE, Some(&body));
        heard.extend(target.heard(0.03, None));
        frames.iter().map(|frame| heard.contains(frame)).collect()
    }

    /// Whether one packet crosses link 0.
    pub(crate) fn crosses(&self, from: Side, packet: &[u8]) -> bool {
        self.cross(from, &[self.frame(from, 0, packet)])[0]
    }

    /// Asserts that a connection is let through.
    pub(crate) fn reaches(&self, from: Side, kind: &str, to: &str, port: u16) {
        let said = self.attempt(from, kind, to, port, crate::host::PATIENCE);
        assert_eq!(
            said,
            "ok",
            "{kind} to {to} port {port}: {:?}",
            self.reasons()
        );
    }

    /// Asserts that a connection is dropped, in silence but counted.
    pub(crate) fn is_refused(&self, from: Side, kind: &str, to: &str, port: u16) {
        let before = self.dropped("no-rule");
        let said = self.attempt(from, kind, to, port, SILENCE);
        assert_eq!(
            said,
            "timeout",
            "{kind} to {to} port {port}: {:?}",
            self.reasons()
        );
        assert!(
            self.dropped("no-rule") > before,
            "{kind} to {to} port {port} was not judged"
        );
    }

    fn attempt(&self, from: Side, kind: &str, to: &str, port: u16, timeout: f64) -> String {
        let host = self.host_of(from, 0);
        match kind {
            "tcp" => host.tcp(to, port, timeout),
            "udp" => host.udp(to, port, timeout),
            _ => if host.ping(to, timeout) {
                "ok"
            } else {
                "timeout"
            }
            .to_owned(),
        }
    }

    /// What the devices and the workers have counted since they began.
    fn books(&self) -> Books {
        let status = self.status();
        let listed = ip(&["-n", &self.gateway_namespace(), "-j", "-s", "link"]);
        let devices: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let mut books = Books::default();
        for device in devices.as_array().unwrap() {
            if device["ifname"] != "lo" {
                books.devices_rx += device["stats64"]["rx"]["packets"].as_u64().unwrap();
                books.devices_tx += device["stats64"]["tx"]["packets"].as_u64().unwrap();
            }
        }
        for worker in status["workers"].as_array().unwrap() {
            books.workers_rx += worker["rx_packets"].as_u64().unwrap();
            books.workers_tx += worker["tx_packets"].as_u64().unwrap();
            books.in_flight += worker["in_flight"].as_u64().unwrap();
            let dropped = worker["dropped"].as_object().unwrap().values();
            books.workers_dropped += dropped.map(|count| count.as_u64().unwrap()).sum::<u64>();
        }
        for link in status["links"].as_array().unwrap() {
            for queue in link["queues"].as_array().unwrap() {
                // What finds the fill ring empty is in `rx_dropped` (kernel: `__xsk_rcv`).
                for counter in ["rx_dropped", "rx_ring_full"] {
                    books.kernel_dropped += queue["kernel"][counter].as_u64().unwrap();
                }
            }
        }
        books
    }

    /// Frames that were dropped for other reasons than that no rule allows them, by the workers or
    /// by the kernel before them.
    pub(crate) fn lost(&self) -> u64 {
        let [_, dropped] = self.reasons();
        let others = dropped.iter().filter(|(reason, _)| *reason != "no-rule");
        others.map(|(_, count)| count).sum::<u64>() + self.books().kernel_dropped
    }

    /// Reads the books at a moment at which nothing moves.
    fn settled_books(&self) -> Books {
        let mut last = self.books();
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(30));
            let books = self.books();
            if books == last && books.in_flight == 0 {
                return books;
            }
            last = books;
        }
        panic!("the counters do not come to rest: {last:?}");
    }

    fn open_books(&mut self) {
        self.baseline = self.settled_books();
    }

    /// Contract, guarantee 4: what came in went out, was dropped and counted, or is under way; and
    /// the kernel's devices say the same.
    pub(crate) fn close_books(&self) {
        let (now, then) = (self.settled_books(), &self.baseline);
        let sum = now.workers_tx + now.workers_dropped + now.in_flight;
        assert_eq!(now.workers_rx, sum, "frames are lost: {now:?}");
        let [rx, tx] = [
            now.devices_rx - then.devices_rx,
            now.devices_tx - then.devices_tx,
        ];
        let kernel = now.kernel_dropped - then.kernel_dropped;
        assert_eq!(
            rx,
            now.workers_rx - then.workers_rx + kernel,
            "in: {now:?} after {then:?}"
        );
        assert_eq!(
            tx,
            now.workers_tx - then.workers_tx,
            "out: {now:?} after {then:?}"
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}---", self.log());
        }
        if let Some(mut gateway) = self.gateway.take() {
            // A gateway that has ended by itself is what the test was told already.
            let _ended = gateway.kill();
            let _reaped = gateway.wait();
        }
        for host in self.outside.iter().chain(&self.inside) {
            remove_namespace(&host.namespace);
        }
        remove_namespace(&self.gateway_namespace());
        if std::env::var_os("PORTCULLIS_WIRE_KEEP").is_none() {
            // Left in the temporary folder at worst.
            let _left = fs::remove_dir_all(&self.folder);
        }
    }
}

fn subnet4(link: usize, number: u8) -> String {
    format!("10.7.{link}.{number}/24")
}

fn subnet6(link: usize, number: u8) -> String {
    format!("2001:db8:7:{link}::{number}/64")
}

/// The time, for deadlines of tests.
#[expect(clippy::disallowed_methods, reason = "the tests' own deadlines")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until something holds; panics with what is said otherwise.
pub(crate) fn wait_for(mut holds: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    let started = now();
    while !holds() {
        if started.elapsed() > Duration::from_secs(8) {
            panic!("{}", otherwise());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

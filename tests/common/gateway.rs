//! A gateway without a policy: forwards every frame of a link, in a process of its own that a
//! test starts in a namespace, talks to, and kills.
//!
//! The process is the test binary itself, told by an environment variable to be a gateway. It
//! answers with lines that begin with `@`, among the test harness's own.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis::af_xdp::{
    HugePages, Link, LinkOptions, LinkQueue, OnExit, Umem, XdpMode, ZeroCopy, detach,
};
use portcullis::port::{ChunkAddr, Frame, Port};
use portcullis::types::PortSide;
use serde_json::{Value, json};

/// The variable that makes the test binary a gateway.
const ORDER: &str = "PORTCULLIS_TEST_ORDER";
const BURST: usize = 64;

/// How a gateway's process gets into its namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// `ip netns exec`: with a mount namespace and a /sys of its own.
    NetnsExec,
    /// `nsenter --net`: the host's mounts.
    Nsenter,
}

/// What a test process is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) json: Value,
    pub(crate) entry: Entry,
    /// A command that starts the process, to take privileges away for instance.
    pub(crate) wrapper: Vec<String>,
}

impl Order {
    /// To forward between `inside` and `outside`.
    pub(crate) fn forward(state_dir: &Path) -> Self {
        Self {
            json: json!({
                "do": "forward", "state_dir": state_dir, "xdp_mode": "auto", "zero_copy": "auto",
                "on_exit": "closed", "frames": 4096, "frame_size": 2048, "ring_size": 512,
            }),
            entry: Entry::NetnsExec,
            wrapper: Vec::new(),
        }
    }

    /// To detach a device.
    pub(crate) fn detach(state_dir: &Path, device: &str) -> Self {
        let mut order = Self::forward(state_dir);
        order.json["do"] = "detach".into();
        order.json["device"] = device.into();
        order
    }

    /// The same with another value.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.json[key] = value.into();
        self
    }

    /// The same through another entry.
    pub(crate) fn by(mut self, entry: Entry) -> Self {
        self.entry = entry;
        self
    }

    /// The same started by a command.
    pub(crate) fn under(mut self, wrapper: &str) -> Self {
        self.wrapper = wrapper.split_whitespace().map(str::to_owned).collect();
        self
    }
}

/// A running gateway process; killed when the test ends.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// How the link turned out.
    pub(crate) description: Value,
}

impl Gateway {
    /// Starts one in a namespace and waits until it forwards; its error if it does not.
    pub(crate) fn start(namespace: &str, order: &Order) -> Result<Self, String> {
        let mut words: Vec<String> = match order.entry {
            Entry::NetnsExec => ["ip", "netns", "exec", namespace].map(str::to_owned).into(),
            Entry::Nsenter => {
                vec![
                    "nsenter".to_owned(),
                    format!("--net=/run/netns/{namespace}"),
                ]
            }
        };
        words.extend(order.wrapper.iter().cloned());
        words.push(
            std::env::current_exe()
                .unwrap()
                .to_string_lossy()
                .into_owned(),
        );
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["gateway_process", "--exact", "--ignored", "--nocapture"])
            .env(ORDER, order.json.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut gateway = Self {
            child,
            input,
            output,
            description: Value::Null,
        };
        let answer = gateway.answer();
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        gateway.description = answer;
        Ok(gateway)
    }

    /// Asks for the counters so far.
    pub(crate) fn counters(&mut self) -> Value {
        writeln!(self.input, "counters").unwrap();
        self.answer()
    }

    /// Ends it in good order; its last counters.
    pub(crate) fn stop(mut self) -> Value {
        writeln!(self.input, "stop").unwrap();
        let answer = self.answer();
        assert!(
            self.child.wait().unwrap().success(),
            "the gateway's own assertions hold"
        );
        answer
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            let len = self.output.read_line(&mut line).unwrap();
            assert!(len > 0, "the gateway ended without an answer");
            // The harness may have begun the line ("test gateway_process ... ").
            if let Some(at) = line.find('@') {
                return serde_json::from_str(&line[at + 1..]).unwrap();
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone where the test ended it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn say(value: &Value) {
    println!("@{value}");
}

/// The gateway process itself; returns at once where none is ordered.
pub(crate) fn main() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let order: Value = serde_json::from_str(&order).unwrap();
    let state_dir = Path::new(order["state_dir"].as_str().unwrap());
    if order["do"] == "detach" {
        say(
            &match detach(order["device"].as_str().unwrap(), state_dir) {
                Ok(done) => json!({ "program": done.program, "restored": done.restored }),
                Err(error) => json!({ "error": error.to_string() }),
            },
        );
        return;
    }
    match Link::open(&options(&order), state_dir) {
        Ok(link) => forward(link),
        Err(error) => say(&json!({ "error": error.to_string() })),
    }
}

fn options(order: &Value) -> LinkOptions {
    let number = |key: &str| u32::try_from(order[key].as_u64().unwrap()).unwrap();
    LinkOptions {
        name: "uplink".to_owned(),
        inside: order["inside"].as_str().unwrap_or("inside").to_owned(),
        outside: order["outside"].as_str().unwrap_or("outside").to_owned(),
        xdp_mode: match order["xdp_mode"].as_str().unwrap() {
            "native" => XdpMode::Native,
            "generic" => XdpMode::Generic,
            _auto => XdpMode::Auto,
        },
        zero_copy: match order["zero_copy"].as_str().unwrap() {
            "require" => ZeroCopy::Require,
            "off" => ZeroCopy::Off,
            _auto => ZeroCopy::Auto,
        },
        on_exit: if order["on_exit"] == "open" {
            OnExit::Open
        } else {
            OnExit::Closed
        },
        frames: number("frames"),
        frame_size: number("frame_size"),
        huge_pages: match order["huge_pages"].as_str() {
            Some("require") => HugePages::Require,
            _auto => HugePages::Auto,
        },
        ring_size: number("ring_size"),
    }
}

/// Where every chunk is, checked at each step.
struct Forwarder {
    umem: Arc<Umem>,
    queues: Vec<LinkQueue>,
    free: Vec<ChunkAddr>,
    filled: HashSet<ChunkAddr>,
    sent: HashSet<ChunkAddr>,
    received_count: Vec<u64>,
    dropped_count: u64,
    bad_count: usize,
}

impl Forwarder {
    /// One turn over all queues; how many frames came.
    fn turn(&mut self) -> usize {
        let mut received = 0;
        for index in 0..self.queues.len() {
            let mut burst: Vec<Frame> = Vec::with_capacity(BURST);
            let queue = &mut self.queues[index];
            self.bad_count += queue.port.receive(BURST, |frame| burst.push(frame));
            let (side, number) = (queue.side, queue.queue);
            received += burst.len();
            self.received_count[index] += burst.len() as u64;
            for frame in burst {
                let chunk = self.umem.chunk_of(frame.addr());
                assert!(
                    self.filled.remove(&chunk),
                    "received chunks were given to receive"
                );
                self.send(side.opposite(), number, chunk, frame);
            }
        }
        for queue in &mut self.queues {
            queue.port.flush(BURST, |chunk| {
                assert!(self.sent.remove(&chunk), "completed chunks were sent");
                self.free.push(chunk);
            });
        }
        self.refill();
        received
    }

    fn send(&mut self, side: PortSide, number: u32, chunk: ChunkAddr, frame: Frame) {
        let candidates = || {
            self.queues
                .iter()
                .enumerate()
                .filter(|(_, q)| q.side == side)
        };
        let same = candidates().find(|(_, q)| q.queue == number && q.transmits);
        let index = same
            .or_else(|| candidates().find(|(_, q)| q.transmits))
            .unwrap()
            .0;
        match self.queues[index].port.transmit(frame) {
            Ok(()) => assert!(self.sent.insert(chunk), "a chunk is sent once"),
            Err((frame, _full)) => {
                self.dropped_count += 1;
                self.free.push(self.umem.chunk_of(frame.addr()));
            }
        }
    }

    fn refill(&mut self) {
        for queue in &mut self.queues {
            let free = &mut self.free;
            let filled = &mut self.filled;
            queue.port.refill(
                || {
                    let chunk = free.pop()?;
                    assert!(filled.insert(chunk), "a chunk is filled once");
                    Some(chunk)
                },
                BURST,
            );
        }
    }

    fn counters(&self, link: &Link) -> Value {
        let queues = self.queues.iter().zip(&self.received_count);
        let queues: Vec<Value> = queues
            .map(|(q, received)| {
                json!({ "side": q.side.name(), "queue": q.queue, "receives": q.receives,
                        "transmits": q.transmits, "received": received })
            })
            .collect();
        let statistics = link.statistics().unwrap();
        let ring_empty: u64 = statistics.queues.iter().map(|q| q.rx_fill_ring_empty).sum();
        json!({
            "queues": queues,
            "received": self.received_count.iter().sum::<u64>(),
            "dropped": self.dropped_count,
            "bad": self.bad_count,
            "frames": self.umem.frames(),
            "accounted": self.free.len() + self.filled.len() + self.sent.len(),
            "in_flight": self.sent.len(),
            "fill_ring_empty": ring_empty,
            "xdp_drops": statistics.ports[0].xdp_drops,
            "rx_packets": statistics.ports[0].rx_packets,
        })
    }
}

fn forward(mut link: Link) {
    let queues = link.take_queues();
    assert!(link.take_queues().is_empty(), "queues are taken once");
    let umem = link.umem();
    let mut forwarder = Forwarder {
        free: umem.chunks().collect(),
        umem,
        received_count: vec![0; queues.len()],
        queues,
        filled: HashSet::new(),
        sent: HashSet::new(),
        dropped_count: 0,
        bad_count: 0,
    };
    // More than once around, so that the largest ring is full whatever the burst.
    for _ in 0..64 {
        forwarder.refill();
    }
    link.activate().unwrap();
    let description = link.describe();
    say(&json!({
        "modes": description.ports.each_ref().map(|port| port.mode.name()),
        "zero_copy": description.zero_copy,
        "pages": description.pages.name(),
        "notes": description.notes,
        "rx_queues": description.ports.each_ref().map(|port| port.rx_queues),
    }));
    let (stop, counters) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    listen(Arc::clone(&stop), Arc::clone(&counters));
    while !stop.load(Ordering::Acquire) {
        if counters.swap(false, Ordering::AcqRel) {
            say(&forwarder.counters(&link));
        }
        if forwarder.turn() == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    drain(&mut forwarder);
    say(&forwarder.counters(&link));
}

/// Waits until the kernel has given back what was sent.
fn drain(forwarder: &mut Forwarder) {
    for _ in 0..1000 {
        forwarder.turn();
        if forwarder.sent.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes commands from the test.
fn listen(stop: Arc<AtomicBool>, counters: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            match line.as_deref() {
                Ok("counters") => counters.store(true, Ordering::Release),
                _stop => break,
            }
        }
        stop.store(true, Ordering::Release);
    });
}

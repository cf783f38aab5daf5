//! A host of the laboratory: a namespace with an agent inside.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::frames::{Mac, hex, unhex};

/// How long something that shall succeed may take on a busy machine, seconds.
pub(crate) const PATIENCE: f64 = 8.0;
/// How long silence has to last to count as a drop, seconds. What is dropped is counted too.
pub(crate) const SILENCE: f64 = 0.35;

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/agent.py");

/// One namespace, and what goes on in it.
pub(crate) struct Host {
    pub(crate) namespace: String,
    pub(crate) mac: Mac,
    agent: RefCell<Agent>,
}

struct Agent {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i64,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Host {
    /// Starts the agent of a namespace that exists.
    pub(crate) fn new(namespace: &str, mac: Mac) -> Self {
        let own = "/usr/bin/python3";
        let python = if Path::new(own).exists() {
            own
        } else {
            "python3"
        };
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, python, "-I", AGENT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let agent = RefCell::new(Agent {
            child,
            requests,
            answers,
        });
        Self {
            namespace: namespace.to_owned(),
            mac,
            agent,
        }
    }

    /// Asks the agent; panics with what went wrong inside.
    pub(crate) fn ask(&self, request: &Value) -> Value {
        let mut agent = self.agent.borrow_mut();
        writeln!(agent.requests, "{request}").unwrap();
        let mut line = String::new();
        agent.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{}: {request}: `{line}`: {error}", self.namespace);
        });
        match answer.get("ok") {
            Some(value) => value.clone(),
            None => panic!("{}: {request}: {answer}", self.namespace),
        }
    }

    fn word(&self, request: &Value) -> String {
        self.ask(request).as_str().unwrap().to_owned()
    }

    pub(crate) fn serve_tcp(&self, address: &str, port: u16) {
        self.ask(&json!({ "do": "serve_tcp", "address": address, "port": port }));
    }

    pub(crate) fn serve_udp(&self, address: &str, port: u16) {
        self.ask(&json!({ "do": "serve_udp", "address": address, "port": port }));
    }

    /// Connects and exchanges some bytes; how that went.
    pub(crate) fn tcp(&self, to: &str, port: u16, timeout: f64) -> String {
        self.word(&json!({ "do": "tcp", "to": to, "port": port, "timeout": timeout }))
    }

    /// Sends a datagram and waits for the same one.
    pub(crate) fn udp(&self, to: &str, port: u16, timeout: f64) -> String {
        self.word(&json!({ "do": "udp", "to": to, "port": port, "timeout": timeout }))
    }

    /// As [`Host::tcp`] or [`Host::udp`], by more of the agent's arguments.
    pub(crate) fn talk(&self, request: &Value) -> String {
        self.word(request)
    }

    /// Opens a connection that stays under a name.
    pub(crate) fn open(&self, name: &str, kind: &str, to: &str, port: u16) {
        let request =
            json!({ "do": kind, "to": to, "port": port, "timeout": PATIENCE, "keep": name });
        assert_eq!(self.word(&request), "ok", "{request}");
    }

    /// Exchanges bytes on a connection that stays.
    pub(crate) fn say(&self, name: &str, size: usize, timeout: f64) -> String {
        self.word(&json!({ "do": "say", "name": name, "size": size, "timeout": timeout }))
    }

    /// Whether one ping is answered.
    pub(crate) fn ping(&self, to: &str, timeout: f64) -> bool {
        let timeout = timeout.to_string();
        self.run(&["ping", "-n", "-q", "-c", "1", "-W", &timeout, to])
            .code
            == 0
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, argv: &[&str]) -> Said {
        said(&self.ask(&json!({ "do": "run", "argv": argv })))
    }

    /// Starts a program that runs beside.
    pub(crate) fn start(&self, name: &str, argv: &[&str]) {
        self.ask(&json!({ "do": "start", "name": name, "argv": argv }));
    }

    /// Waits for a program that runs beside.
    pub(crate) fn finish(&self, name: &str) -> Said {
        said(&self.ask(&json!({ "do": "finish", "name": name })))
    }

    /// Interrupts a program that runs beside, and waits for it.
    pub(crate) fn stop(&self, name: &str) -> Said {
        said(&self.ask(&json!({ "do": "finish", "name": name, "stop": true })))
    }

    /// Sends frames as they are.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) {
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
        self.ask(&json!({ "do": "send", "device": super::lab::HOST_DEVICE, "frames": frames }));
    }

    /// Begins to record what comes in.
    pub(crate) fn listen(&self) {
        self.ask(&json!({ "do": "listen", "device": super::lab::HOST_DEVICE }));
    }

    /// What came in since, until `wait` seconds have passed or a frame with `until` in it came.
    pub(crate) fn heard(&self, wait: f64, until: Option<&[u8]>) -> Vec<Vec<u8>> {
        let device = super::lab::HOST_DEVICE;
        let until = until.map(hex);
        let request = json!({ "do": "heard", "device": device, "wait": wait, "until": until });
        let frames = self.ask(&request);
        let frames = frames.as_array().unwrap().iter();
        frames.map(|frame| unhex(frame.as_str().unwrap())).collect()
    }

    /// Sets kernel variables of the namespace.
    pub(crate) fn sysctl(&self, values: &Value) {
        self.ask(&json!({ "do": "sysctl", "values": values }));
    }
}

fn said(answer: &Value) -> Said {
    Said {
        code: answer["code"].as_i64().unwrap(),
        out: answer["out"].as_str().unwrap().to_owned(),
        err: answer["err"].as_str().unwrap().to_owned(),
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let agent = self.agent.get_mut();
        // It may have ended by itself; there is nothing left to do then.
        let _ended = agent.child.kill();
        let _reaped = agent.child.wait();
    }
}

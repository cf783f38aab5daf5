//! Changes of single rules a second, over one connection to the control socket of a control side
//! without workers: what a change costs beside the wait for the packet path.
//!
//! `ahead`: sent without a wait for the answers, as many as the gateway takes together; `one by
//! one`: each waits for the answer of the one before it, and is a publication of its own.
//! `cargo bench --bench rule_changes`; medians are for whoever runs it several times.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark says what it found, and ends where it cannot"
)]

use std::sync::Arc;

use portcullis::clock::{MonotonicClock, Tick};
use portcullis::compile::sample::{self, Size};
use portcullis::control::{
    Client, Command, Controller, ControllerSetup, PolicyState, RuleAddRequest, RuleChanged, Server,
    SocketOwner, Status,
};
use portcullis::policy::Policy;
use portcullis::snapshot::Publisher;
use portcullis::types::Direction;
use portcullis::worker::Exchange;

/// Changes that are sent ahead, and one by one.
const AHEAD: usize = 4096;
const ONE_BY_ONE: usize = 200;

fn main() {
    for rules in [1_000, 10_000, 100_000] {
        let policy = sample::policy(
            Size {
                rules,
                interfaces: rules / 10,
            },
            1,
        );
        measure(policy);
    }
}

fn measure(policy: Policy) {
    let rules = policy.count().rules;
    let groups: Vec<String> = policy
        .groups
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    let path = std::env::temp_dir().join(format!("rule-changes-{}.sock", std::process::id()));
    let server = serve(policy, &path);
    let mut client = Client::connect(&path).unwrap();
    // The first pays for the editor's look at the whole policy.
    let first = seconds(|| drop(client.request::<RuleChanged>(&add(0, &groups)).unwrap()));
    let commands: Vec<Command> = (1..=AHEAD).map(|number| add(number, &groups)).collect();
    let mut generations = 0;
    let ahead = seconds(|| {
        let answers = client.request_all::<RuleChanged>(&commands).unwrap();
        let all: Vec<u64> = answers
            .into_iter()
            .map(|one| one.unwrap().generation)
            .collect();
        generations = all[all.len() - 1] - all[0] + 1;
    });
    let singly = seconds(|| {
        for number in 0..ONE_BY_ONE {
            let command = add(AHEAD + 1 + number, &groups);
            drop(client.request::<RuleChanged>(&command).unwrap());
        }
    });
    let status: Status = client.request(&Command::Status).unwrap();
    let compile = status.snapshot.compile_microseconds;
    println!(
        "{rules:>7} rules: ahead {:>7.0}/s ({generations} publications), one by one {:>6.0}/s, \
         first {:.1} ms; the last compilation {compile} µs",
        rate(AHEAD, ahead),
        rate(ONE_BY_ONE, singly),
        first * 1e3
    );
    drop(server);
}

fn serve(policy: Policy, path: &std::path::Path) -> Server {
    let clock = MonotonicClock::start();
    let links = vec!["uplink".to_owned()];
    let (compiler, snapshot, time) = PolicyState::compile_first(&policy, &links, &clock).unwrap();
    let (publisher, _) = Publisher::new(Arc::new(snapshot), 0);
    let controller = Controller::new(ControllerSetup {
        state: PolicyState::new(policy, compiler, publisher, links, time),
        exchange: Arc::new(Exchange::new(&[], 1).unwrap()),
        cores: Vec::new(),
        policy_path: "policy.toml".into(),
        allow_empty: false,
        history: 32,
        max_flows: 0,
        links: Box::new(Vec::new),
        clock,
    });
    let owner = SocketOwner {
        mode: 0o600,
        ..SocketOwner::default()
    };
    let server = Server::bind(path, owner).unwrap();
    server.serve(Arc::new(controller)).unwrap();
    server
}

/// A rule that no group has, for one of them in turn.
fn add(number: usize, groups: &[String]) -> Command {
    Command::RuleAdd(RuleAddRequest {
        group: groups[number * 7 % groups.len()].clone(),
        direction: Direction::Ingress,
        entry: format!(
            "{{ protocol = \"tcp\", ports = {}, from = [\"172.16.{}.{}/32\"] }}",
            1024 + number % 1000,
            number >> 8 & 255,
            number & 255
        ),
        timeout_ms: 5000,
    })
}

fn seconds(work: impl FnOnce()) -> f64 {
    let clock = MonotonicClock::start();
    work();
    clock.now().since(Tick::default()).as_secs_f64()
}

fn rate(count: usize, seconds: f64) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from) / seconds
}

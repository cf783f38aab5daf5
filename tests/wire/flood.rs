//! A SYN flood against a full table: who is connected stays so, and who is new gets in.

use serde_json::Value;

use crate::host::{Host, PATIENCE, Said};
use crate::lab::{HOST_DEVICE, Lab, Plan, Side, wait_for, wire_test};

const GENERATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/flood.py");
const WEB: [&str; 2] = ["10.7.0.10", "10.7.0.11"];
const OUTSIDE_MAC: &str = "02:00:00:07:00:01";
const INSIDE_MAC: &str = "02:00:00:07:00:0a";

/// An interface for each of the first two inside addresses.
const POLICY: &str = r#"
[security_groups.web]
description = "Web servers"
ingress = [{ protocol = "tcp", ports = 80, from = ["0.0.0.0/0"] }]
egress = []
[interfaces.web-1]
addresses = ["10.7.0.10"]
groups = ["web"]
[interfaces.web-2]
addresses = ["10.7.0.11"]
groups = ["web"]
"#;

/// Connections that are frames only, and those that sockets hold.
const CLIENTS: u64 = 1_880;
const HELD: u64 = 20;

fn plan(gateway: &str) -> Plan<'_> {
    Plan {
        policy: POLICY,
        gateway,
        gro: true,
        ..Plan::default()
    }
}

/// The generator's arguments for frames to a server, or to the clients from it.
fn sending(to: Side, server: &str, rest: &[&str]) -> Vec<String> {
    let mac = match to {
        Side::Inside => INSIDE_MAC,
        Side::Outside => OUTSIDE_MAC,
    };
    let fixed = [
        "python3",
        "-I",
        GENERATOR,
        "send",
        HOST_DEVICE,
        mac,
        server,
        "80",
    ];
    let all = fixed.iter().chain(rest);
    all.map(|word| (*word).to_owned()).collect()
}

fn run(host: &Host, argv: &[String]) -> Value {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    sent(&host.run(&argv))
}

fn sent(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

/// Sends one segment of every client, or one of the server to each.
fn walk(lab: &Lab, flags: &str) {
    let count = CLIENTS.to_string();
    let mut rest = vec!["--walk", "20000", "--flows", &count, "--count", &count];
    rest.extend(["--flags", flags]);
    let done = if flags == "syn-ack" {
        rest.push("--reply");
        run(lab.inside(), &sending(Side::Outside, WEB[0], &rest))
    } else {
        run(lab.outside(), &sending(Side::Inside, WEB[0], &rest))
    };
    assert_eq!(done["sent"], CLIENTS);
}

/// Begins a flood of one server; `Host::finish` waits for its end.
fn start_flood(lab: &Lab, server: &str, rate: &str, count: &str) {
    let argv = sending(Side::Inside, server, &["--random", rate, "--count", count]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    lab.outside().start("flood", &argv);
}

fn flows(lab: &Lab, filters: &[&str]) -> u64 {
    let flows = lab.json(&[&["flows", "--json"], filters].concat());
    flows.as_array().unwrap().len() as u64
}

fn established(lab: &Lab) -> u64 {
    flows(lab, &["--state", "established"])
}

#[test]
fn a_syn_flood_of_a_full_table_ends_no_connection_and_keeps_nobody_out() {
    wire_test(&plan("[conntrack]\nmax_flows = 2_000\n"), |lab| {
        lab.inside().serve_tcp(WEB[0], 80);
        for number in 0..HELD {
            let name = format!("held {number}");
            lab.outside().open(&name, "tcp", WEB[0], 80);
        }
        for flags in ["syn", "syn-ack", "ack"] {
            walk(lab, flags);
        }
        wait_for(
            || established(lab) == CLIENTS + HELD,
            || format!("{:?}", lab.reasons()),
        );
        start_flood(lab, WEB[0], "100_000", "200_000");
        // It finds the table full before it is a hundredth through.
        wait_for(
            || lab.status()["conntrack"]["evicted"] != 0,
            || lab.status()["conntrack"].to_string(),
        );
        for _ in 0..5 {
            lab.reaches(Side::Outside, "tcp", WEB[0], 80);
        }
        assert_eq!(sent(&lab.outside().finish("flood"))["sent"], 200_000);
        let table = lab.status()["conntrack"].clone();
        assert!(table["evicted"].as_u64().unwrap() > 1_000, "{table}");
        assert_eq!(table["flows"], 2_000, "{table}");
        for number in 0..HELD {
            let name = format!("held {number}");
            let said = lab.outside().say(&name, 32, PATIENCE);
            assert_eq!(said, "ok", "{name}: {:?}", lab.reasons());
        }
        assert_eq!(established(lab), CLIENTS + HELD, "{table}");
        // Each is there by its own name, not only as many.
        let before = lab.passed("tracked");
        walk(lab, "ack");
        wait_for(
            || lab.passed("tracked") == before + CLIENTS,
            || format!("{before}: {:?}", lab.reasons()),
        );
    });
}

#[test]
fn a_table_of_established_connections_refuses_a_flood_and_counts_it() {
    wire_test(&plan("[conntrack]\nmax_flows = 1_880\n"), |lab| {
        for flags in ["syn", "syn-ack", "ack"] {
            walk(lab, flags);
        }
        wait_for(
            || established(lab) == CLIENTS,
            || format!("{:?}", lab.reasons()),
        );
        start_flood(lab, WEB[0], "20_000", "20_000");
        assert_eq!(sent(&lab.outside().finish("flood"))["sent"], 20_000);
        wait_for(
            || lab.dropped("table-full") >= 1_000,
            || format!("{:?}", lab.reasons()),
        );
        assert_eq!(lab.status()["conntrack"]["evicted"], 0);
        assert_eq!(established(lab), CLIENTS);
    });
}

/// What floods one interface takes its own share at most, and no other's place.
#[test]
fn an_interface_under_flood_has_its_share_and_leaves_the_others_theirs() {
    for (limit, share) in [
        ("{ max_flows = 500, new_per_second = 0 }", 500),
        ("{ max_flows = 0, new_per_second = 100 }", 1_500),
    ] {
        let gateway = format!("[conntrack]\nmax_flows = 2_000\nper_interface = {limit}\n");
        wire_test(&plan(&gateway), |lab| {
            lab.inside().serve_tcp(WEB[1], 80);
            start_flood(lab, WEB[0], "50_000", "100_000");
            wait_for(
                || lab.dropped("limit") > 0,
                || format!("{:?}", lab.reasons()),
            );
            for _ in 0..20 {
                lab.reaches(Side::Outside, "tcp", WEB[1], 80);
            }
            assert_eq!(sent(&lab.outside().finish("flood"))["sent"], 100_000);
            let taken = flows(lab, &["--interface", "web-1"]);
            assert!((100..=share).contains(&taken), "{taken} flows");
            assert_eq!(lab.dropped("table-full"), 0, "{:?}", lab.reasons());
            // Its own unanswered flows give way to its new ones, nobody else's do.
            let conntrack = lab.status()["conntrack"].clone();
            assert_eq!(conntrack["evicted"], conntrack["evicted_by"]["unanswered"]);
            assert_eq!(conntrack["evicted"] != 0, share == 500, "{conntrack}");
        });
    }
}

//! Several workers, several queues, and flows handed over between them.

use serde_json::Value;

use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, wire_test};
use crate::policy;

const CLIENT: &str = "10.7.0.1";
const WEB: &str = "10.7.0.10";
const RULES: &str = r#"ingress = [
        { protocol = "tcp", ports = [80, 5201], from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "udp", ports = [80, 5201], from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "icmp", from = ["10.7.0.0/24"] },
    ]
    egress = []"#;

fn sum(status: &Value, counter: &str) -> u64 {
    let workers = status["workers"].as_array().unwrap().iter();
    workers
        .map(|worker| worker[counter].as_u64().unwrap())
        .sum()
}

/// Many short connections and datagrams of both families, and a bulk transfer.
fn exercise(lab: &Lab) {
    for web in [WEB, "2001:db8:7::10"] {
        lab.inside().serve_tcp(web, 80);
        lab.inside().serve_udp(web, 80);
        for _ in 0..30 {
            lab.reaches(Side::Outside, "tcp", web, 80);
            lab.reaches(Side::Outside, "udp", web, 80);
        }
        for port in 90..94 {
            lab.expect_dropped("no-rule", || {
                assert_eq!(lab.outside().udp(web, port, SILENCE), "timeout");
            });
        }
    }
    lab.reaches(Side::Outside, "ping", WEB, 0);
    let sent = iperf(lab, &["-P", "4", "-t", "2"]);
    assert!(sent > 1_000_000, "{sent} bytes in 2 s");
}

/// Runs iperf3 from outside to inside; bytes that arrived.
fn iperf(lab: &Lab, options: &[&str]) -> u64 {
    lab.inside()
        .start("server", &["iperf3", "-s", "-1", "-B", WEB]);
    crate::lab::wait_for(
        || {
            lab.inside()
                .run(&["sh", "-c", "ss -Hltn | grep -q :5201"])
                .code
                == 0
        },
        || "iperf3 does not listen".to_owned(),
    );
    let argv = [&["iperf3", "-J", "-c", WEB, "-B", CLIENT][..], options].concat();
    let done = lab.outside().run(&argv);
    let report: Value = serde_json::from_str(&done.out).unwrap_or_default();
    assert_eq!(
        done.code,
        0,
        "{}{}: {:?}",
        done.out,
        done.err,
        lab.reasons()
    );
    let server = lab.inside().finish("server");
    assert_eq!(server.code, 0, "{}", server.out);
    report["end"]["sum_received"]["bytes"].as_u64().unwrap()
}

#[test]
fn two_workers_share_four_queues() {
    let plan = Plan {
        policy: &policy(RULES),
        queues: 4,
        frames: 32768,
        cores: &[0, 1],
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        exercise(lab);
        let status = lab.status();
        assert!(sum(&status, "handed_over") > 0, "{status}");
        for worker in status["workers"].as_array().unwrap() {
            assert!(worker["rx_packets"].as_u64().unwrap() > 0, "idle: {worker}");
            assert!(worker["flows"].as_u64().unwrap() > 0, "no flows: {worker}");
        }
        let flows = lab.json(&["flows", "--json"]);
        assert_eq!(
            flows.as_array().unwrap().len() as u64,
            sum(&lab.status(), "flows")
        );
    });
}

#[test]
fn more_workers_than_queues_share_the_flows() {
    let plan = Plan {
        policy: &policy(RULES),
        queues: 1,
        cores: &[0, 1],
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        exercise(lab);
        let status = lab.status();
        assert!(
            status["workers"][0]["handed_over"].as_u64().unwrap() > 0,
            "{status}"
        );
        assert_eq!(
            status["workers"][1]["rx_packets"], 0,
            "it has no queue: {status}"
        );
        assert!(
            status["workers"][1]["flows"].as_u64().unwrap() > 0,
            "{status}"
        );
    });
}

#[test]
fn one_worker_serves_several_queues() {
    let plan = Plan {
        policy: &policy(RULES),
        queues: 4,
        frames: 32768,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        exercise(lab);
        assert_eq!(lab.status()["links"][0]["ports"][0]["rx_queues"], 4);
    });
}

#[test]
fn a_flood_of_datagrams_is_carried_or_counted() {
    let plan = Plan {
        policy: &policy(RULES),
        queues: 2,
        frames: 16384,
        cores: &[0, 1],
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        lab.reaches(Side::Outside, "ping", WEB, 0);
        iperf(lab, &["-u", "-b", "0", "-l", "64", "-t", "2", "-P", "2"]);
        lab.reaches(Side::Outside, "ping", WEB, 0);
    });
}

#[test]
fn a_sleeping_worker_wakes_for_the_first_frame() {
    wire_test(
        &Plan {
            policy: &policy(RULES),
            ..Plan::default()
        },
        |lab| {
            lab.reaches(Side::Outside, "ping", WEB, 0);
            for _ in 0..5 {
                crate::lab::wait_for(
                    || lab.status()["workers"][0]["asleep"] == true,
                    || "it does not sleep".to_owned(),
                );
                assert!(lab.outside().ping(WEB, PATIENCE));
            }
            let busy = lab.status()["workers"][0]["busy_ratio"].as_f64().unwrap();
            assert!(busy < 0.5, "{busy}");
        },
    );
}

#[test]
fn few_frames_are_shared_by_all_queues() {
    let plan = Plan {
        policy: &policy(RULES),
        queues: 4,
        frames: 2048,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        lab.inside().serve_tcp(WEB, 80);
        for _ in 0..30 {
            lab.reaches(Side::Outside, "tcp", WEB, 80);
        }
    });
}

#[test]
fn every_way_to_idle_forwards() {
    for idle in ["spin", "sleep"] {
        let plan = Plan {
            policy: &policy(RULES),
            idle,
            queues: 2,
            frames: 16384,
            cores: &[0, 1],
            ..Plan::default()
        };
        wire_test(&plan, |lab| {
            lab.inside().serve_tcp(WEB, 80);
            for _ in 0..20 {
                lab.reaches(Side::Outside, "tcp", WEB, 80);
            }
            lab.is_refused(Side::Outside, "tcp", WEB, 81);
            lab.apply(&policy("ingress = []"));
            lab.is_refused(Side::Outside, "tcp", WEB, 80);
        });
    }
}

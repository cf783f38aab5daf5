//! Changes of the policy while traffic runs.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, text, wait_for, wire_test};
use crate::policy;

const CLIENT: &str = "10.7.0.1";
const WEB: &str = "10.7.0.10";

/// A policy that lets these TCP ports in.
fn ports(list: &str) -> String {
    policy(&format!(
        "ingress = [{{ protocol = \"tcp\", ports = [{list}], from = [\"10.7.0.0/24\"] }}]\n\
         egress = []"
    ))
}

fn generation(lab: &Lab) -> u64 {
    lab.status()["generation"].as_u64().unwrap()
}

#[test]
fn a_running_transfer_does_not_notice_changes() {
    let plan = Plan {
        policy: &ports("5201"),
        queues: 2,
        frames: 16384,
        cores: &[0, 1],
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        lab.inside()
            .start("server", &["iperf3", "-s", "-1", "-B", WEB]);
        lab.inside().serve_tcp(WEB, 80);
        thread::sleep(Duration::from_millis(300));
        let rate = ["-t", "4", "-b", "20M"];
        let argv = [&["iperf3", "-J", "-c", WEB, "-B", CLIENT][..], &rate].concat();
        lab.outside().start("client", &argv);
        wait_for(|| lab.passed("tracked") > 100, || "no transfer".to_owned());
        let (before, lost) = (generation(lab), lab.lost());
        for turn in 0..10 {
            let next = if turn % 2 == 0 { "80" } else { "81" };
            let applied = lab.apply(&ports(next));
            assert_eq!(applied["unchanged"], false, "{applied}");
            let workers = lab.status()["workers"].clone();
            for worker in workers.as_array().unwrap() {
                assert_eq!(
                    worker["generation"], applied["generation"],
                    "live when it returns"
                );
            }
            if turn % 2 == 0 {
                lab.reaches(Side::Outside, "tcp", WEB, 80);
            } else {
                lab.is_refused(Side::Outside, "tcp", WEB, 80);
            }
        }
        assert_eq!(generation(lab), before + 10);
        let client = lab.outside().finish("client");
        assert_eq!(client.code, 0, "{}", client.out);
        let report: Value = serde_json::from_str(&client.out).unwrap();
        let sent = &report["end"]["sum_sent"];
        assert!(sent["bytes"].as_u64().unwrap() > 8_000_000, "{sent}");
        assert_eq!(lab.lost(), lost, "{:?}", lab.reasons());
        // Of 7,000 segments; a sender that has to wait for its core probes by itself.
        assert!(sent["retransmits"].as_u64().unwrap() < 35, "{sent}");
        assert_eq!(lab.inside().finish("server").code, 0);
        lab.is_refused(Side::Outside, "tcp", WEB, 5201);
    });
}

#[test]
fn a_bad_policy_is_refused_whole_and_the_old_one_stays() {
    wire_test(
        &Plan {
            policy: &ports("80"),
            ..Plan::default()
        },
        |lab| {
            lab.inside().serve_tcp(WEB, 80);
            let before = generation(lab);
            let bad = ports("81, \"x-y\"").replace("egress", "egres")
                + "[interfaces.twice]\naddresses = [\"10.7.0.10\"]\ngroups = [\"wbe\"]\n";
            let refused = lab.try_apply(&bad);
            assert_eq!(refused.status.code(), Some(1));
            let said = text(&refused.stderr);
            for part in [
                "next.toml:",
                "x-y",
                "egres",
                "`egress`",
                "wbe",
                "`web`",
                "10.7.0.10",
            ] {
                assert!(
                    said.contains(part),
                    "`{part}` of all errors at once: {said}"
                );
            }
            assert_eq!(generation(lab), before);
            let empty = lab.try_apply("[security_groups.web]\n");
            assert_eq!(
                empty.status.code(),
                Some(1),
                "no interface: {}",
                text(&empty.stdout)
            );
            lab.write_policy("[security_groups.web\n");
            lab.signal("-HUP");
            thread::sleep(Duration::from_millis(500));
            assert_eq!(generation(lab), before);
            lab.reaches(Side::Outside, "tcp", WEB, 80);
            lab.is_refused(Side::Outside, "tcp", WEB, 81);
        },
    );
}

#[test]
fn the_same_content_is_the_same_generation() {
    wire_test(
        &Plan {
            policy: &ports("80"),
            ..Plan::default()
        },
        |lab| {
            let before = generation(lab);
            let again = lab.apply(&ports("80"));
            assert_eq!(
                (&again["unchanged"], &again["generation"]),
                (&true.into(), &before.into())
            );
            lab.apply(&format!("# A comment changes nothing.\n{}", ports("80")));
            lab.signal("-HUP");
            thread::sleep(Duration::from_millis(300));
            assert_eq!(generation(lab), before);
            assert_eq!(lab.apply(&ports("81"))["generation"], before + 1);
        },
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    wire_test(
        &Plan {
            policy: &ports("80"),
            ..Plan::default()
        },
        |lab| {
            lab.inside().serve_tcp(WEB, 80);
            lab.outside().open("a", "tcp", WEB, 80);
            let next = ports("81").replace("\"10.7.0.10\", ", "");
            fs::write(lab.folder.join("next.toml"), next).unwrap();
            let said = lab.json(&["apply", "--json", "--dry-run", "next.toml"]);
            assert_eq!(said["ended_flows"], 1, "{said}");
            assert!(!said["changes"].as_array().unwrap().is_empty(), "{said}");
            assert_eq!(said["refused_flows"], 0, "it ends anyway: {said}");
            let change = &said["traffic"]["changes"][0];
            assert_eq!(change["lost"][0]["services"][0]["ports"][0], "80", "{said}");
            fs::write(lab.folder.join("next.toml"), ports("81")).unwrap();
            let said = lab.json(&["apply", "--json", "--dry-run", "next.toml"]);
            assert_eq!(said["ended_flows"], 0, "{said}");
            assert_eq!(said["refused_flows"], 1, "{said}");
            assert_eq!(said["traffic"]["losing"], 1, "{said}");
            assert_eq!(generation(lab), said["generation"].as_u64().unwrap());
            assert_eq!(lab.outside().say("a", 32, PATIENCE), "ok");
        },
    );
}

#[test]
fn the_file_is_watched_and_hup_reads_it_again() {
    wire_test(
        &Plan {
            policy: &ports("80"),
            ..Plan::default()
        },
        |lab| {
            let file = lab.folder.join("policy.toml");
            let is = |port: &str, what: &str| {
                let to = format!("{WEB}:{port}");
                wait_for(
                    || {
                        let arguments = [
                            "explain",
                            "--json",
                            "--from",
                            CLIENT,
                            "--to",
                            &to,
                            "--protocol",
                            "tcp",
                        ];
                        lab.json(&arguments)["verdict"] == "allow"
                    },
                    || format!("{what} is not seen: {}", lab.log()),
                );
            };
            lab.write_policy(&ports("81"));
            is("81", "a write");
            let beside = lab.folder.join("beside.toml");
            fs::write(&beside, ports("82")).unwrap();
            fs::rename(&beside, &file).unwrap();
            is("82", "a rename");
            lab.apply(&ports("83"));
            is("83", "apply");
            lab.signal("-HUP");
            is("82", "SIGHUP: the file's content");
            let before = generation(lab);
            lab.write_policy("");
            thread::sleep(Duration::from_millis(500));
            assert_eq!(generation(lab), before, "an emptied file is refused");
            fs::write(lab.folder.join("next.toml"), ports("84")).unwrap();
            let saved = lab.portcullis(&["apply", "--save", "next.toml"]);
            assert!(saved.status.success(), "{}", text(&saved.stderr));
            assert_eq!(fs::read_to_string(&file).unwrap(), ports("84"));
            is("84", "apply --save");
        },
    );
}

#[test]
fn what_others_refer_to_cannot_go_and_duplicates_are_one() {
    let referring = ports("80")
        + "[security_groups.db]\ningress = [{ protocol = \"all\", from = [\"group:web\"] }]\n";
    let plan = Plan {
        policy: &referring,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let without = referring
            .replace("[security_groups.web]", "[security_groups.other]")
            .replace("groups = [\"web\"]", "groups = [\"other\"]");
        let refused = lab.try_apply(&without);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stderr);
        assert!(
            said.contains("next.toml:") && said.contains("web"),
            "{said}"
        );
        let twice = ports("80, 80, 81");
        let applied = lab.apply(&twice);
        assert!(
            applied["warnings"].to_string().contains("one is kept"),
            "{applied}"
        );
        assert_eq!(lab.status()["snapshot"]["interfaces"], 1);
        lab.inside().serve_tcp(WEB, 81);
        lab.reaches(Side::Outside, "tcp", WEB, 81);
    });
}

#[test]
fn limits_of_one_interface_hold_at_once_and_are_counted() {
    let plan = Plan {
        policy: &ports("80"),
        queues: 2,
        cores: &[0, 1],
        ..Plan::default()
    };
    let limited = |limits: &str| ports("80") + "limits = { " + limits + " }\n";
    let table = |lab: &Lab| lab.status()["conntrack"].clone();
    wire_test(&plan, |lab| {
        lab.inside().serve_tcp(WEB, 80);
        lab.reaches(Side::Outside, "tcp", WEB, 80);
        let before = table(lab);
        assert_eq!(before["limited"], 0);
        assert_eq!(before["conntrack_allowance_exceeded"], 0);
        let room = before["conntrack_allowance_available"].as_u64().unwrap();
        assert!(room <= before["max_flows"].as_u64().unwrap(), "{before}");
        assert!(room > before["max_flows"].as_u64().unwrap() / 2, "{before}");
        // The flow that is there counts: each of two workers gives one.
        let applied = lab.apply(&limited("max_flows = 1"));
        let changes = applied["changes"].to_string();
        assert!(changes.contains("max_flows"), "{changes}");
        for _ in 0..4 {
            let request = json!({ "do": "tcp", "to": WEB, "port": 80, "timeout": SILENCE });
            lab.outside().talk(&request);
        }
        wait_for(
            || table(lab)["limited"].as_u64().unwrap() > 0,
            || format!("nothing was refused: {}", table(lab)),
        );
        let after = table(lab);
        assert_eq!(after["conntrack_allowance_exceeded"], after["limited"]);
        assert!(lab.dropped("limit") > 0);
        let said = text(&lab.portcullis(&["status"]).stdout);
        assert!(said.contains("(by a limit "), "{said}");
        lab.apply(&limited("max_flows = 0, new_per_second = 0"));
        lab.reaches(Side::Outside, "tcp", WEB, 80);
    });
}

#[test]
fn a_connection_ends_with_its_address_though_that_is_back_before_its_next_packet() {
    let plan = Plan {
        policy: &ports("80"),
        gateway: "[conntrack]\ntcp_pickup = \"syn-only\"\n",
        ..Plan::default()
    };
    let flows = |lab: &Lab| lab.json(&["flows", "--json"]).as_array().unwrap().len();
    let away = ports("80").replace("\"10.7.0.10\"", "\"10.7.0.99\"");
    wire_test(&plan, |lab| {
        lab.inside().serve_tcp(WEB, 80);
        lab.outside().open("kept", "tcp", WEB, 80);
        assert_eq!(lab.outside().say("kept", 32, PATIENCE), "ok");
        lab.apply(&ports("80, 81"));
        assert_eq!(lab.outside().say("kept", 32, PATIENCE), "ok");
        assert_eq!(flows(lab), 1);
        // Nobody sends anything: the gateway finds it by itself, or has not yet when it is back.
        lab.apply(&away);
        wait_for(|| flows(lab) == 0, || "a flow of nobody".to_owned());
        assert_eq!(lab.status()["conntrack"]["flows"], 0);
        lab.apply(&ports("80"));
        lab.expect_dropped("invalid", || {
            assert_ne!(lab.outside().say("kept", 32, SILENCE), "ok");
        });
        lab.outside().open("anew", "tcp", WEB, 80);
        assert_eq!(lab.outside().say("anew", 32, PATIENCE), "ok");
        lab.apply(&away);
        lab.apply(&ports("80"));
        lab.expect_dropped("invalid", || {
            assert_ne!(lab.outside().say("anew", 32, SILENCE), "ok");
        });
        wait_for(|| flows(lab) == 0, || "a flow of nobody".to_owned());
        lab.reaches(Side::Outside, "tcp", WEB, 80);
    });
}

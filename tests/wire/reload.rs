//! Changes of the policy while traffic runs.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::host::PATIENCE;
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

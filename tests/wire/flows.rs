//! Flows that end before their time: by a changed policy (`on_rule_removed = "revalidate"`), and
//! by hand (`flows --end`).

use serde_json::Value;

use crate::connections::{Conversation, TCP_80, ghostly};
use crate::frames::{ACK, SYN, echo, udp};
use crate::host::{Host, PATIENCE, SILENCE};
use crate::lab::{Lab, Side, text, wait_for, wire_test};
use crate::{GHOSTS, SHAPES, address};

const REVALIDATE: &str = "[conntrack]\non_rule_removed = \"revalidate\"\n";
const FAMILIES: [[&str; 2]; 2] = [
    ["10.7.0.1", "10.7.0.10"],
    ["2001:db8:7:0::1", "2001:db8:7:0::10"],
];
const RULES: &str = r#"ingress = [
        { protocol = "tcp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "udp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "icmp", type = 8, from = ["10.7.0.0/24"] },
        { protocol = "icmpv6", type = 128, from = ["2001:db8:7:0::/64"] },
    ]
    egress = []"#;
const NOTHING: &str = "ingress = []\negress = []";

/// Runs a test in a laboratory of each shape.
fn in_labs(policy: &str, gateway: &str, test: impl Fn(&mut Lab)) {
    for shape in &SHAPES {
        let mut plan = shape.plan(policy);
        plan.gateway = gateway;
        wire_test(&plan, &test);
    }
}

/// Opens a TCP and a UDP connection of each family from outside, named by kind and server.
fn open_all(lab: &Lab) -> Vec<String> {
    let mut names = Vec::new();
    for [_, web] in FAMILIES {
        lab.inside().serve_tcp(web, 80);
        lab.inside().serve_udp(web, 80);
        for kind in ["tcp", "udp"] {
            let name = format!("{kind} {web}");
            lab.outside().open(&name, kind, web, 80);
            names.push(name);
        }
    }
    names
}

fn is_alive(host: &Host, name: &str) -> bool {
    host.say(name, 32, PATIENCE) == "ok"
}

#[test]
fn connections_end_with_their_rule_where_that_is_asked() {
    in_labs(&ghostly(RULES), REVALIDATE, |lab| {
        let names = open_all(lab);
        let pings: Vec<_> = GHOSTS
            .into_iter()
            .zip([[8, 0], [128, 129]])
            .map(|(hosts, [ask, answer])| {
                let [far, own] = hosts.map(address);
                (echo(far, own, ask, 7), echo(own, far, answer, 7))
            })
            .collect();
        for (ask, answer) in &pings {
            assert!(lab.passes(Side::Outside, ask));
            assert!(lab.passes(Side::Inside, answer));
        }
        // Another rule that still allows them: nobody notices.
        lab.apply(&ghostly(&RULES.replace("ports = 80", "ports = \"79-81\"")));
        for name in &names {
            assert!(is_alive(lab.outside(), name), "{name}: {:?}", lab.reasons());
        }
        for (ask, answer) in &pings {
            assert!(lab.passes(Side::Outside, ask));
            assert!(lab.passes(Side::Inside, answer));
        }
        lab.apply(&ghostly(NOTHING));
        for name in &names {
            lab.expect_dropped("no-rule", || {
                assert_eq!(lab.outside().say(name, 32, SILENCE), "timeout", "{name}");
            });
        }
        for (ask, answer) in &pings {
            lab.expect_dropped("no-rule", || assert!(!lab.passes(Side::Inside, answer)));
            lab.expect_dropped("no-rule", || assert!(!lab.passes(Side::Outside, ask)));
        }
        assert_eq!(
            lab.json(&["flows", "--json", "--state", "udp-stream"]),
            Value::Array(vec![])
        );
    });
}

#[test]
fn without_that_they_live_on() {
    in_labs(&ghostly(RULES), "", |lab| {
        let names = open_all(lab);
        lab.apply(&ghostly(NOTHING));
        for name in &names {
            assert!(is_alive(lab.outside(), name), "{name}: {:?}", lab.reasons());
        }
    });
}

#[test]
fn a_connection_ends_when_its_peer_leaves_the_group() {
    let with = r#"
        [security_groups.web]
        # Else a late acknowledgment of the server's would be picked up as its own connection.
        egress = []
        ingress = [{ protocol = "tcp", ports = 80, from = ["group:lb"] }]
        [security_groups.lb]
        [interfaces.web-1]
        addresses = ["10.7.0.10", "2001:db8:7:0::10"]
        groups = ["web"]
        [interfaces.lb-1]
        addresses = ["10.7.0.1", "2001:db8:7:0::/125"]
        link = "none"
        groups = ["lb"]"#;
    let without = with.replace("groups = [\"lb\"]", "groups = [\"web\"]");
    in_labs(with, REVALIDATE, |lab| {
        for [_, web] in FAMILIES {
            lab.inside().serve_tcp(web, 80);
            lab.outside().open(web, "tcp", web, 80);
        }
        lab.apply(&without);
        for [_, web] in FAMILIES {
            lab.expect_dropped("no-rule", || {
                assert_eq!(lab.outside().say(web, 32, SILENCE), "timeout");
            });
        }
    });
}

#[test]
fn untracked_flows_are_cut_at_once_either_way() {
    let any = r#"ingress = [{ protocol = "udp", ports = 80, from = ["0.0.0.0/0", "::/0"] }]"#;
    for gateway in ["", REVALIDATE] {
        in_labs(&ghostly(any), gateway, |lab| {
            for [_, web] in FAMILIES {
                lab.inside().serve_udp(web, 80);
                lab.outside().open(web, "udp", web, 80);
            }
            assert_eq!(lab.passed("tracked"), 0, "{:?}", lab.reasons());
            lab.apply(&ghostly("ingress = []"));
            for [_, web] in FAMILIES {
                lab.expect_dropped("no-rule", || {
                    assert_eq!(lab.outside().say(web, 32, SILENCE), "timeout");
                });
            }
        });
    }
}

/// How many flows a command lists, or ends.
fn count(lab: &Lab, filters: &[&str]) -> usize {
    let flows = lab.json(&[&["flows", "--json"], filters].concat());
    flows.as_array().unwrap().len()
}

#[test]
fn flows_are_picked_by_what_they_are() {
    in_labs(&ghostly(RULES), "", |lab| {
        open_all(lab);
        assert!(lab.outside().ping(FAMILIES[0][1], PATIENCE));
        for (filters, wanted) in [
            (&[][..], 5),
            (&["--interface", "web-1"], 5),
            (&["--group", "web"], 5),
            (&["--peer", "10.7.0.1"], 3),
            (&["--peer", "10.7.0.10"], 0),
            (&["--address", "10.7.0.10"], 3),
            (&["--peer", "2001:db8:7::/64"], 2),
            (&["--peer", "0.0.0.0/0", "--protocol", "udp"], 1),
            (&["--port", "80"], 4),
            (&["--port", "81"], 0),
            (&["--protocol", "icmp"], 1),
            (&["--protocol", "6"], 2),
            (&["--state", "established"], 2),
            (&["--state", "icmp"], 1),
            (&["--state", "established", "--protocol", "udp"], 0),
            (&["--older-than", "1h"], 0),
            (&["--younger-than", "1h"], 5),
            (&["--older-than", "0"], 5),
            (&["--port", "80", "--limit", "3"], 3),
        ] {
            assert_eq!(count(lab, filters), wanted, "{filters:?}");
        }
        wait_for(
            || count(lab, &["--older-than", "1s"]) == 5,
            || "they grow no older".to_owned(),
        );
        for (filters, word) in [
            (["--interface", "web-2"], "`web-2`"),
            (["--group", "wbe"], "`wbe`"),
        ] {
            let refused = lab.portcullis(&[&["flows"][..], &filters].concat());
            assert_eq!(refused.status.code(), Some(1));
            assert!(
                text(&refused.stderr).contains(word),
                "{}",
                text(&refused.stderr)
            );
        }
    });
}

#[test]
fn each_filter_ends_what_it_picks_and_nothing_else() {
    in_labs(&ghostly(RULES), "", |lab| {
        let [far, own] = GHOSTS[0].map(address);
        let wanted = udp((far, 4000), (own, 80), b"?");
        let [far6, own6] = GHOSTS[1].map(address);
        assert!(lab.passes(Side::Outside, &echo(far6, own6, 128, 7)));
        for filters in [
            &["--interface", "web-1", "--protocol", "udp"][..],
            &["--group", "web", "--protocol", "udp"],
            &["--peer", GHOSTS[0][0]],
            &["--address", GHOSTS[0][1]],
            &["--port", "4000"],
            &["--protocol", "udp"],
            &["--state", "udp"],
            &["--younger-than", "1h", "--protocol", "udp"],
            &["--older-than", "0", "--protocol", "udp"],
        ] {
            assert!(lab.passes(Side::Outside, &wanted));
            assert_eq!(count(lab, &[]), 2);
            assert_eq!(
                count(lab, &[filters, &["--end"]].concat()),
                1,
                "{filters:?}"
            );
            assert_eq!(count(lab, filters), 0, "{filters:?}");
            assert_eq!(count(lab, &["--protocol", "icmpv6"]), 1);
        }
        assert_eq!(count(lab, &["--older-than", "1h", "--end"]), 0);
        assert_eq!(count(lab, &["--younger-than", "1h", "--end"]), 1);
    });
}

#[test]
fn a_flow_that_is_ended_is_judged_anew() {
    let gateway = "[conntrack]\ntcp_pickup = \"syn-only\"\n";
    in_labs(&ghostly(TCP_80), gateway, |lab| {
        let [ended, kept] = [4200, 4201].map(|port| {
            let talk = Conversation::new(lab, port);
            talk.establish();
            talk
        });
        let done = lab.portcullis(&["flows", "--end", "--port", "4200"]);
        assert!(done.status.success());
        assert!(
            text(&done.stderr).contains("1 flows ended"),
            "{}",
            text(&done.stderr)
        );
        assert!(
            text(&done.stdout).contains(":4200"),
            "{}",
            text(&done.stdout)
        );
        lab.expect_drops("invalid", 1, || {
            assert!(
                !ended.client(ACK, 1001, 5001, b"mid-stream"),
                "{}",
                ended.state()
            );
        });
        lab.expect_drops("no-rule", 1, || {
            assert!(!ended.server(ACK, 5001, 1001, b"a reply to nothing"));
        });
        assert!(kept.client(ACK, 1001, 5001, b"alive"), "{}", kept.state());
        assert!(kept.server(ACK, 5001, 1006, b"alive"), "{}", kept.state());
        assert!(ended.client(SYN, 70_000, 0, b""), "{:?}", lab.reasons());
    });
}

#[test]
fn a_flow_that_outlived_its_rule_ends_by_hand() {
    in_labs(&ghostly(RULES), "", |lab| {
        let names = open_all(lab);
        let web = &["--interface", "web-1"];
        lab.apply(&ghostly(NOTHING));
        for name in &names {
            assert!(is_alive(lab.outside(), name), "{name}");
        }
        assert_eq!(count(lab, &[&web[..], &["--end"]].concat()), 4);
        assert_eq!(count(lab, web), 0);
        for name in &names {
            lab.expect_dropped("no-rule", || {
                assert_eq!(lab.outside().say(name, 32, SILENCE), "timeout", "{name}");
            });
        }
    });
}

#[test]
fn all_flows_of_all_workers_end_when_all_is_said() {
    in_labs(&ghostly(RULES), "", |lab| {
        let [far, own] = GHOSTS[0].map(address);
        let frames: Vec<_> = (1000..1600)
            .map(|port| lab.frame(Side::Outside, 0, &udp((far, port), (own, 80), b"?")))
            .collect();
        assert_eq!(lab.through(Side::Outside, &frames).len(), 600);
        for arguments in [&["flows", "--end"][..], &["flows", "--end", "--limit", "9"]] {
            let refused = lab.portcullis(arguments);
            assert_eq!(refused.status.code(), Some(2), "which ones?");
            assert!(
                text(&refused.stderr).contains("--all"),
                "{}",
                text(&refused.stderr)
            );
        }
        let both = lab.portcullis(&["flows", "--end", "--all", "--port", "80"]);
        assert_eq!(both.status.code(), Some(2), "all, or some?");
        assert_eq!(count(lab, &["--limit", "700"]), 600, "none has ended");
        assert_eq!(count(lab, &["--end", "--all", "--limit", "100"]), 100);
        assert_eq!(count(lab, &["--end", "--all"]), 500);
        assert_eq!(count(lab, &[]), 0);
        wait_for(
            || lab.status()["conntrack"]["flows"] == 0,
            || lab.status()["conntrack"].to_string(),
        );
    });
}

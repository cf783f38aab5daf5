//! Several links, and what `explain` says of them.

use serde_json::Value;

use crate::frames::udp;
use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, text, wire_test};
use crate::{address, policy};

const TWO: &str = r#"
    [security_groups.web]
    ingress = [{ protocol = "udp", ports = 80, from = ["10.7.0.0/16"] }]
    egress = []
    [interfaces.first]
    addresses = ["10.7.0.10"]
    link = "link0"
    groups = ["web"]
    [interfaces.second]
    addresses = ["10.7.1.10", "10.7.0.20"]
    link = "link1"
    groups = ["web"]"#;

#[test]
fn each_link_judges_and_tracks_for_itself() {
    wire_test(
        &Plan {
            policy: TWO,
            links: 2,
            ..Plan::default()
        },
        |lab| {
            for link in [0, 1] {
                let (client, web) = (format!("10.7.{link}.1"), format!("10.7.{link}.10"));
                let inside = lab.host_of(Side::Inside, link);
                inside.serve_udp(&web, 80);
                inside.serve_udp(&web, 81);
                let outside = lab.host_of(Side::Outside, link);
                assert_eq!(outside.udp(&web, 80, PATIENCE), "ok", "link {link}");
                assert_eq!(outside.udp(&web, 81, SILENCE), "timeout", "link {link}");
                assert_eq!(inside.udp(&client, 81, SILENCE), "timeout", "link {link}");
            }
            let [client, web] = ["10.7.0.1", "10.7.0.10"].map(address);
            let ask = udp((client, 5), (web, 80), b"?");
            let answer = udp((web, 80), (client, 5), b"!");
            let on = |link, from, packet: &[u8]| {
                lab.cross_on(link, from, &[lab.frame(from, link, packet)])[0]
            };
            assert!(on(0, Side::Outside, &ask));
            lab.expect_dropped("unregistered", || {
                assert!(!on(1, Side::Outside, &ask), "the other link's interface");
            });
            assert!(!on(1, Side::Inside, &answer), "the flow is another link's");
            assert!(on(0, Side::Inside, &answer));
            let moved = udp((client, 5), (address("10.7.0.20"), 80), b"?");
            assert!(
                on(1, Side::Outside, &moved),
                "an address is where the policy says"
            );
            assert!(!on(0, Side::Outside, &moved));
            let flows = lab.json(&["flows", "--json", "--interface", "second"]);
            assert!(
                flows
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|flow| flow["link"] == "link1"),
                "{flows}"
            );
        },
    );
}

#[test]
fn a_policy_that_names_no_link_is_refused_where_there_are_two() {
    wire_test(
        &Plan {
            policy: TWO,
            links: 2,
            ..Plan::default()
        },
        |lab| {
            let refused = lab.try_apply(&policy("ingress = []"));
            assert_eq!(refused.status.code(), Some(1));
            let said = text(&refused.stderr);
            assert!(
                said.contains("link0") && said.contains("link1"),
                "names those there are: {said}"
            );
            let refused = lab.try_apply(&TWO.replace("\"link1\"", "\"link9\""));
            assert_eq!(refused.status.code(), Some(1));
            assert!(
                text(&refused.stderr).contains("link9"),
                "{}",
                text(&refused.stderr)
            );
        },
    );
}

fn explain(lab: &Lab, from: &str, to: &str, protocol: &str) -> Value {
    let arguments = [
        "explain",
        "--json",
        "--from",
        from,
        "--to",
        to,
        "--protocol",
        protocol,
    ];
    lab.json(&arguments)
}

fn explain_answers_in_full(lab: &Lab) {
    let web = "10.7.0.10";
    let said = explain(lab, "10.7.0.1", web, "icmp");
    assert_eq!(said["verdict"], "allow", "{said}");
    assert_eq!(said["group"], "web", "{said}");
    assert!(said["rule"].as_str().unwrap().starts_with("sgr-"), "{said}");
    let said = explain(lab, "10.7.0.1:9", "10.7.0.10:82", "tcp");
    let differs = &said["nearest_misses"][0]["differs"][0];
    assert_eq!(
        [&differs["field"], &differs["detail"]],
        ["port", "port 82 is not in 80-81"],
        "{said}"
    );
    let said = explain(lab, "10.9.0.1", "10.9.0.2", "icmp");
    assert_eq!(
        [&said["verdict"], &said["reason"]],
        ["deny", "unregistered"],
        "{said}"
    );
    let bad = lab.portcullis(&[
        "explain",
        "--from",
        web,
        "--to",
        "nowhere",
        "--protocol",
        "tcp",
    ]);
    assert_eq!(
        bad.status.code(),
        Some(2),
        "a usage error: {}",
        text(&bad.stderr)
    );
}

#[test]
fn explain_says_what_the_wire_does() {
    let rules = r#"ingress = [
            { protocol = "tcp", ports = "80-81", from = ["10.7.0.0/31", "2001:db8:7:0::/64"] },
            { protocol = "udp", ports = 53, from = ["10.7.0.2/32"] },
            { protocol = "icmp", from = ["10.7.0.0/24"] },
        ]
        egress = [{ protocol = "udp", ports = [1, 3], to = ["0.0.0.0/0"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            let web = "10.7.0.10";
            let mut seen = [0, 0];
            for port in [53, 79, 80, 81, 82] {
                for client in ["10.7.0.1", "10.7.0.2"] {
                    let (from, to) = (format!("{client}:9"), format!("{web}:{port}"));
                    let said = explain(lab, &from, &to, "udp");
                    let packet = udp((address(client), 9), (address(web), port), b"x");
                    let crossed = lab.crosses(Side::Outside, &packet);
                    assert_eq!(
                        said["verdict"] == "allow",
                        crossed,
                        "udp {from} {to}: {said}"
                    );
                    seen[usize::from(crossed)] += 1;
                }
            }
            for port in [1, 2, 3, 4] {
                let (from, to) = (format!("{web}:9"), format!("10.7.0.3:{port}"));
                let said = explain(lab, &from, &to, "udp");
                let packet = udp((address(web), 9), (address("10.7.0.3"), port), b"x");
                let crossed = lab.crosses(Side::Inside, &packet);
                assert_eq!(
                    said["verdict"] == "allow",
                    crossed,
                    "udp {from} {to}: {said}"
                );
                assert_eq!(said["direction"], "egress");
                seen[usize::from(crossed)] += 1;
            }
            assert!(seen[0] > 3 && seen[1] > 2, "both verdicts: {seen:?}");
            for port in [80, 82] {
                lab.inside().serve_tcp("2001:db8:7::10", port);
                let to = format!("[2001:db8:7::10]:{port}");
                let said = explain(lab, "2001:db8:7::1", &to, "tcp");
                let patience = if port == 80 { PATIENCE } else { SILENCE };
                let crossed = lab.outside().tcp("2001:db8:7::10", port, patience) == "ok";
                assert_eq!(said["verdict"] == "allow", crossed, "{to}: {said}");
            }
            explain_answers_in_full(lab);
        },
    );
}

#[test]
fn both_ends_are_explained_where_both_are_registered() {
    let policy = format!(
        "{}\n[security_groups.office]\negress = [{{ protocol = \"udp\", ports = 80, \
         to = [\"group:web\"] }}]\n[interfaces.desk]\naddresses = [\"10.7.1.1\"]\n\
         link = \"link1\"\ngroups = [\"office\"]\n",
        TWO
    );
    let plan = Plan {
        policy: &policy,
        links: 2,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let said = explain(lab, "10.7.1.1:9", "10.7.0.10:80", "udp");
        assert_eq!(said["verdict"], "allow", "{said}");
        let steps = said["steps"].as_array().unwrap();
        let directions: Vec<_> = steps.iter().map(|step| &step["direction"]).collect();
        assert_eq!(directions, ["egress", "ingress"], "{said}");
        let said = explain(lab, "10.7.1.1:9", "10.7.0.10:81", "udp");
        assert_eq!(
            [&said["verdict"], &said["interface"], &said["direction"]],
            ["deny", "desk", "egress"],
            "{said}"
        );
    });
}

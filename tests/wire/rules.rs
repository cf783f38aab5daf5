//! What rules match: semantics.md, "Rules".

use std::net::IpAddr;

use crate::frames::{echo, ip, udp};
use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, text, wire_test};
use crate::{address, policy};
use serde_json::json;

const V4: [&str; 2] = ["10.7.0.1", "10.7.0.10"];
const V6: [&str; 2] = ["2001:db8:7:0::1", "2001:db8:7:0::10"];

fn serve(lab: &Lab, side: Side, addresses: &[&str], ports: &[u16]) {
    for address in addresses {
        for &port in ports {
            lab.host_of(side, 0).serve_tcp(address, port);
            lab.host_of(side, 0).serve_udp(address, port);
        }
    }
}

#[test]
fn only_what_a_rule_allows_comes_in() {
    let rules = r#"ingress = [
        { protocol = "tcp", ports = [80, "8000-8002"], from = ["0.0.0.0/0", "::/0"] },
        { protocol = "udp", ports = 53, from = ["10.7.0.0/24"] },
    ]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            serve(
                lab,
                Side::Inside,
                &[V4[1], V6[1]],
                &[22, 53, 80, 7999, 8000, 8002, 8003],
            );
            for to in [V4[1], V6[1]] {
                for port in [80, 8000, 8002] {
                    lab.reaches(Side::Outside, "tcp", to, port);
                }
                for port in [22, 7999, 8003] {
                    lab.is_refused(Side::Outside, "tcp", to, port);
                }
                lab.is_refused(Side::Outside, "udp", to, 80);
                lab.is_refused(Side::Outside, "ping", to, 0);
            }
            lab.reaches(Side::Outside, "udp", V4[1], 53);
            // An IPv4 source says nothing of IPv6.
            lab.is_refused(Side::Outside, "udp", V6[1], 53);
        },
    );
}

#[test]
fn the_groups_of_an_interface_are_one_union() {
    let policy = r#"
        [security_groups.a]
        ingress = [{ protocol = "tcp", ports = 80, from = ["10.7.0.0/24"] }]
        [security_groups.b]
        ingress = [{ protocol = "tcp", ports = 81, from = ["10.7.0.0/24"] }]
        [interfaces.both]
        addresses = ["10.7.0.10"]
        groups = ["a", "b"]
        [interfaces.one]
        addresses = ["10.7.0.11"]
        groups = ["b"]"#;
    wire_test(
        &Plan {
            policy,
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &["10.7.0.10", "10.7.0.11"], &[80, 81]);
            lab.reaches(Side::Outside, "tcp", "10.7.0.10", 80);
            lab.reaches(Side::Outside, "tcp", "10.7.0.10", 81);
            lab.is_refused(Side::Outside, "tcp", "10.7.0.11", 80);
            lab.reaches(Side::Outside, "tcp", "10.7.0.11", 81);
        },
    );
}

#[test]
fn the_source_port_never_matters() {
    let rules = r#"ingress = [{ protocol = "udp", ports = 53, from = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            let [client, web] = V4.map(address);
            assert!(lab.crosses(Side::Outside, &udp((client, 53), (web, 53), b"a")));
            assert!(lab.crosses(Side::Outside, &udp((client, 0), (web, 53), b"b")));
            assert!(lab.crosses(Side::Outside, &udp((client, 65535), (web, 53), b"c")));
            lab.expect_dropped("no-rule", || {
                assert!(!lab.crosses(Side::Outside, &udp((client, 53), (web, 54), b"d")));
            });
        },
    );
}

#[test]
fn egress_rules_match_the_remote_address_and_port() {
    let rules = r#"ingress = []
        egress = [
            { protocol = "tcp", ports = 443, to = ["10.7.0.1/32"] },
            { protocol = "udp", to = ["2001:db8:7:0::/64"] },
        ]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            serve(
                lab,
                Side::Outside,
                &["10.7.0.1", "10.7.0.2", V6[0]],
                &[80, 443],
            );
            lab.reaches(Side::Inside, "tcp", "10.7.0.1", 443);
            lab.is_refused(Side::Inside, "tcp", "10.7.0.1", 80);
            lab.is_refused(Side::Inside, "tcp", "10.7.0.2", 443);
            lab.reaches(Side::Inside, "udp", V6[0], 80);
            lab.is_refused(Side::Inside, "tcp", V6[0], 443);
            lab.is_refused(Side::Inside, "ping", "10.7.0.1", 0);
        },
    );
}

#[test]
fn a_new_group_lets_nothing_in_and_everything_out() {
    wire_test(
        &Plan {
            policy: &policy(""),
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1], V6[1]], &[80]);
            serve(lab, Side::Outside, &[V4[0], V6[0]], &[80]);
            for [client, web] in [V4, V6] {
                lab.is_refused(Side::Outside, "tcp", web, 80);
                lab.is_refused(Side::Outside, "udp", web, 80);
                lab.is_refused(Side::Outside, "ping", web, 0);
                lab.reaches(Side::Inside, "tcp", client, 80);
                lab.reaches(Side::Inside, "udp", client, 80);
                lab.reaches(Side::Inside, "ping", client, 0);
            }
        },
    );
}

#[test]
fn icmp_is_matched_by_type_and_code() {
    let rules = r#"ingress = [
            { protocol = "icmp", type = 8, code = 0, from = ["10.7.0.1/32"] },
            { protocol = "icmp", type = 3, from = ["10.7.0.1/32"] },
            { protocol = "icmpv6", type = 128, from = ["2001:db8:7:0::2/128"] },
        ]
        egress = []"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            lab.reaches(Side::Outside, "ping", V4[1], 0);
            let from_two = ["-I", "2001:db8:7:0::2"];
            let ping = |rest: &[&str], to| {
                let argv = [&["ping", "-n", "-c1", "-W1"], rest, &[to]].concat();
                lab.outside().run(&argv).code == 0
            };
            assert!(ping(&from_two, V6[1]));
            lab.expect_dropped("no-rule", || assert!(!ping(&["-I", V6[0]], V6[1])));
            let [client, web] = V4.map(address);
            let icmp = |kind, code| crate::frames::icmp(client, web, kind, code, &[0; 32]);
            assert!(!lab.crosses(Side::Outside, &icmp(8, 1)), "another code");
            assert!(!lab.crosses(Side::Outside, &icmp(13, 0)), "timestamp");
            assert!(
                lab.crosses(Side::Outside, &icmp(3, 200)),
                "a type without a code: all codes"
            );
        },
    );
}

#[test]
fn other_protocols_are_matched_by_number_and_all_by_all() {
    const GRE: u8 = 47;
    const SCTP: u8 = 132;
    let rules = r#"ingress = [
            { protocol = 47, from = ["10.7.0.1/32"] },
            { protocol = "all", from = ["10.7.0.2/32", "2001:db8:7:0::2/128"] },
        ]
        egress = []"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            let [one, two, web] = ["10.7.0.1", "10.7.0.2", V4[1]].map(address);
            let crosses = |from: IpAddr, to, protocol| {
                lab.crosses(Side::Outside, &ip(from, to, protocol, &[9; 40]))
            };
            assert!(crosses(one, web, GRE));
            assert!(!crosses(one, web, SCTP));
            for protocol in [GRE, SCTP, 0, 50, 255] {
                assert!(crosses(two, web, protocol), "protocol {protocol}");
            }
            assert!(lab.crosses(Side::Outside, &udp((two, 7), (web, 7), b"x")));
            assert!(lab.crosses(Side::Outside, &echo(two, web, 8, 77)));
            let [one, two, web] = [V6[0], "2001:db8:7:0::2", V6[1]].map(address);
            assert!(crosses(two, web, SCTP), "IPv6");
            assert!(
                !crosses(one, web, GRE),
                "the IPv4 rule says nothing of IPv6"
            );
            // A reply is tracked by addresses and protocol alone.
            let [one, web] = [V4[0], V4[1]].map(address);
            assert!(lab.crosses(Side::Inside, &ip(web, one, GRE, &[8; 99])));
            assert!(!lab.crosses(Side::Inside, &ip(web, one, 115, &[8; 99])));
        },
    );
}

#[test]
fn families_never_match_each_other() {
    let rules = r#"ingress = [
            { protocol = "all", from = ["0.0.0.0/0"] },
        ]
        egress = [{ protocol = "all", to = ["::/0"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1], V6[1]], &[80]);
            serve(lab, Side::Outside, &[V4[0], V6[0]], &[80]);
            lab.reaches(Side::Outside, "tcp", V4[1], 80);
            lab.is_refused(Side::Outside, "tcp", V6[1], 80);
            lab.reaches(Side::Inside, "tcp", V6[0], 80);
            lab.is_refused(Side::Inside, "tcp", V4[0], 80);
        },
    );
}

#[test]
fn prefix_lists_and_host_bits() {
    let policy = format!(
        r#"{}
        [prefix_lists.admins]
        entries = ["10.7.0.1/32", {{ cidr = "2001:db8:7:0::1/128", description = "first" }}]"#,
        policy(
            r#"ingress = [
                { protocol = "tcp", ports = 22, from = ["prefix-list:admins"] },
                { protocol = "tcp", ports = 80, from = ["10.7.0.77/30"] },
                { protocol = "tcp", ports = 81, from = ["10.7.0.3/30"] },
            ]"#
        )
    );
    wire_test(
        &Plan {
            policy: &policy,
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1], V6[1]], &[22, 80, 81]);
            let from = |source: &str, to: &str, port: u16, timeout| {
                lab.outside().talk(&json!({
                    "do": "tcp", "to": to, "port": port, "source": source, "timeout": timeout
                }))
            };
            assert_eq!(from("10.7.0.1", V4[1], 22, PATIENCE), "ok");
            assert_eq!(from(V6[0], V6[1], 22, PATIENCE), "ok");
            lab.expect_dropped("no-rule", || {
                assert_eq!(from("10.7.0.2", V4[1], 22, SILENCE), "timeout");
            });
            assert_eq!(from("2001:db8:7:0::2", V6[1], 22, SILENCE), "timeout");
            assert_eq!(
                from("10.7.0.1", V4[1], 80, SILENCE),
                "timeout",
                "10.7.0.76/30"
            );
            assert_eq!(from("10.7.0.1", V4[1], 81, PATIENCE), "ok", "10.7.0.0/30");
            let checked = lab.portcullis(&["check", "policy.toml"]);
            assert!(checked.status.success());
            let said = text(&checked.stdout) + &text(&checked.stderr);
            assert!(said.contains("10.7.0.76/30"), "the canonical form: {said}");
        },
    );
}

#[test]
fn a_group_as_source_means_its_members_as_they_are_now() {
    let web = r#"
        [security_groups.web]
        ingress = [{ protocol = "tcp", ports = 80, from = ["group:lb"] }]
        [security_groups.lb]
        egress = []
        [interfaces.web-1]
        addresses = ["10.7.0.10", "2001:db8:7:0::10"]
        groups = ["web"]
        [interfaces.lb-1]
        addresses = ["10.7.0.1", "2001:db8:7:0::/125"]
        link = "none"
        groups = ["lb"]"#;
    let both = format!(
        "{web}\n[interfaces.lb-2]\naddresses = [\"10.7.0.2\"]\nlink = \"none\"\ngroups = [\"lb\"]"
    );
    let none = web.replace("groups = [\"lb\"]", "groups = [\"web\"]");
    wire_test(
        &Plan {
            policy: web,
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1], V6[1]], &[80]);
            let from = |source: &str, to: &str, timeout| {
                lab.outside().talk(&json!({
                    "do": "tcp", "to": to, "port": 80, "source": source, "timeout": timeout
                }))
            };
            assert_eq!(from("10.7.0.1", V4[1], PATIENCE), "ok");
            assert_eq!(from("2001:db8:7:0::2", V6[1], PATIENCE), "ok");
            lab.expect_dropped("no-rule", || {
                assert_eq!(from("10.7.0.2", V4[1], SILENCE), "timeout");
            });
            lab.apply(&both);
            assert_eq!(from("10.7.0.2", V4[1], PATIENCE), "ok", "a new member");
            lab.apply(&none);
            lab.expect_dropped("no-rule", || {
                assert_eq!(
                    from("10.7.0.1", V4[1], SILENCE),
                    "timeout",
                    "no member any more"
                );
            });
        },
    );
}

#[test]
fn an_interface_without_groups_is_in_default_whose_members_reach_each_other() {
    let policy = r#"
        [interfaces.web-1]
        addresses = ["10.7.0.10"]
        [interfaces.friend]
        addresses = ["10.7.0.1"]
        link = "none"
        groups = []"#;
    wire_test(
        &Plan {
            policy,
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1]], &[80]);
            serve(lab, Side::Outside, &["10.7.0.1", "10.7.0.2"], &[80]);
            lab.reaches(Side::Outside, "tcp", V4[1], 80);
            lab.reaches(Side::Inside, "tcp", "10.7.0.2", 80);
            lab.expect_dropped("no-rule", || {
                let stranger = json!({ "do": "tcp", "to": V4[1], "port": 80, "source": "10.7.0.2",
                "timeout": SILENCE });
                assert_eq!(lab.outside().talk(&stranger), "timeout");
            });
        },
    );
}

#[test]
fn members_of_a_group_need_a_self_rule() {
    let group = |rules: &str| {
        format!(
            r#"
            [security_groups.cluster]
            {rules}
            [interfaces.one]
            addresses = ["10.7.0.10"]
            groups = ["cluster"]
            [interfaces.two]
            addresses = ["10.7.0.1"]
            link = "none"
            groups = ["cluster"]"#
        )
    };
    wire_test(
        &Plan {
            policy: &group("ingress = []"),
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1]], &[80]);
            lab.is_refused(Side::Outside, "tcp", V4[1], 80);
            lab.apply(&group(
                r#"ingress = [{ protocol = "tcp", ports = 80, from = ["self"] }]"#,
            ));
            lab.reaches(Side::Outside, "tcp", V4[1], 80);
        },
    );
}

#[test]
fn the_longest_match_owns_an_address() {
    let policy = r#"
        [security_groups.open]
        ingress = [{ protocol = "tcp", ports = 80, from = ["10.7.0.0/24"] }]
        [security_groups.shut]
        [interfaces.subnet]
        addresses = ["10.7.0.8/29"]
        groups = ["open"]
        [interfaces.one]
        addresses = ["10.7.0.11"]
        groups = ["shut"]"#;
    wire_test(
        &Plan {
            policy,
            ..Plan::default()
        },
        |lab| {
            serve(
                lab,
                Side::Inside,
                &["10.7.0.10", "10.7.0.11", "10.7.0.12"],
                &[80],
            );
            lab.reaches(Side::Outside, "tcp", "10.7.0.10", 80);
            lab.reaches(Side::Outside, "tcp", "10.7.0.12", 80);
            lab.is_refused(Side::Outside, "tcp", "10.7.0.11", 80);
        },
    );
}

#[test]
fn a_group_that_is_not_enforced_lets_pass_and_counts() {
    let rules = "enforce = false\ningress = []";
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1]], &[80]);
            lab.reaches(Side::Outside, "tcp", V4[1], 80);
            assert!(lab.passed("unenforced") > 0, "{:?}", lab.reasons());
        },
    );
}

#[test]
fn a_port_scan_sees_open_ports_only() {
    let rules = r#"ingress = [{ protocol = "tcp", ports = [80, 443], from = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            serve(lab, Side::Inside, &[V4[1]], &[22, 80, 81]);
            let argv = [
                "nmap",
                "-n",
                "-Pn",
                "-sS",
                "-T5",
                "--max-retries",
                "2",
                "-oG",
                "-",
                "-p",
            ];
            let scan = lab
                .outside()
                .run(&[&argv[..], &["20-25,79-82,443", V4[1]]].concat());
            assert!(scan.out.contains("80/open/tcp"), "{}", scan.out);
            assert!(
                scan.out.contains("443/closed/tcp"),
                "allowed, nobody listens: {}",
                scan.out
            );
            let open = scan.out.matches("/open/").count();
            assert_eq!(open, 1, "{}", scan.out);
            assert!(
                scan.out.contains("22/filtered") || !scan.out.contains("22/"),
                "{}",
                scan.out
            );
            assert!(lab.dropped("no-rule") >= 9, "{:?}", lab.reasons());
        },
    );
}

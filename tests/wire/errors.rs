//! ICMP errors about connections: semantics.md, "Connections".

use std::net::IpAddr;

use serde_json::json;

use crate::connections::ghostly;
use crate::frames::{Piece, echo, fragment, icmp, udp};
use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Side, wait_for, wire_test};
use crate::{GHOSTS, SHAPES, address};

/// A router outside, in hand-made packets only, of each family.
const ROUTERS: [&str; 2] = ["10.7.0.41", "2001:db8:7:0::41"];
const RULES: &str = r#"
    ingress = [{ protocol = "udp", ports = 70, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] }]
    egress = [{ protocol = "udp", ports = 90, to = ["10.7.0.0/24", "2001:db8:7:0::/64"] }]"#;
/// Type and code of time exceeded, port unreachable, and that a packet is too big, by family.
const ERRORS: [[[u8; 2]; 3]; 2] = [[[11, 0], [3, 3], [3, 4]], [[3, 0], [1, 4], [2, 0]]];
/// An MTU of 1,280 bytes in the error's second word.
const MTU: [u8; 4] = [0, 0, 5, 0];

/// An error about a packet.
fn error(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2], quoted: &[u8]) -> Vec<u8> {
    // RFC 792: the header and 8 bytes at the least.
    let header = if from.is_ipv4() { 20 } else { 40 };
    let quoted = &quoted[..quoted.len().min(header + 8)];
    icmp(from, to, kind, code, &[&MTU[..], quoted].concat())
}

/// Runs a test in a laboratory of each shape.
fn in_labs(rules: &str, gateway: &str, test: impl Fn(&mut Lab)) {
    for shape in &SHAPES {
        let policy = ghostly(rules);
        let mut plan = shape.plan(&policy);
        plan.gateway = gateway;
        wire_test(&plan, &test);
    }
}

#[test]
fn a_client_hears_that_nobody_listens() {
    let rules = r#"ingress = [{ protocol = "udp", from = ["10.7.0.0/24", "2001:db8:7:0::/64"] }]
        egress = []"#;
    in_labs(rules, "", |lab| {
        lab.inside().sysctl(&json!({
            "net.ipv4.icmp_ratelimit": 0,
            "net.ipv6.icmp.ratelimit": 0,
        }));
        for (count, web) in (1_u64..).zip(["10.7.0.10", "2001:db8:7:0::10"]) {
            for port in 1000..1008 {
                let said = lab.outside().udp(web, port, PATIENCE);
                assert_eq!(said, "refused", "{web}: {:?}", lab.reasons());
            }
            wait_for(
                || lab.passed("related") == 8 * count,
                || format!("{:?}", lab.reasons()),
            );
        }
    });
}

#[test]
fn errors_about_a_live_flow_come_in_and_others_do_not() {
    in_labs(RULES, "", |lab| {
        for ((hosts, router), kinds) in GHOSTS.into_iter().zip(ROUTERS).zip(ERRORS) {
            let [far, own] = hosts.map(address);
            let router = address(router);
            for (port, kind) in (1000..).zip(kinds) {
                let [ask, answer] = [((own, port), (far, 90)), ((far, 90), (own, port))]
                    .map(|(from, to)| udp(from, to, b"?"));
                let to_own = |quoted: &[u8]| error(router, own, kind, quoted);
                let stays_out = |from, packet: &[u8], what: &str| {
                    lab.expect_drops("no-rule", 1, || {
                        assert!(!lab.passes(from, packet), "{what}, type {kind:?}");
                    });
                };
                stays_out(Side::Outside, &to_own(&ask), "of no flow");
                assert!(lab.passes(Side::Inside, &ask));
                let related = lab.passed("related");
                assert!(
                    lab.passes(Side::Outside, &to_own(&ask)),
                    "{kind:?}: {:?}",
                    lab.reasons()
                );
                wait_for(
                    || lab.passed("related") == related + 1,
                    || format!("{:?}", lab.reasons()),
                );
                let other = udp((own, port + 100), (far, 90), b"?");
                stays_out(Side::Outside, &to_own(&other), "another port");
                stays_out(
                    Side::Outside,
                    &to_own(&answer),
                    "not what its receiver sent",
                );
                stays_out(
                    Side::Inside,
                    &error(own, far, kind, &ask),
                    "not what its receiver sent",
                );
                let later = fragment(
                    own,
                    far,
                    17,
                    Piece {
                        id: 1,
                        offset: 64,
                        more: false,
                    },
                    &[7; 8],
                );
                stays_out(Side::Outside, &to_own(&later), "a later fragment");
                let nested = error(own, router, kind, &ask);
                stays_out(Side::Outside, &to_own(&nested), "an error");
                // An error of this side's about what the other end sent needs no egress rule.
                assert!(lab.passes(Side::Outside, &answer));
                assert!(lab.passes(Side::Inside, &error(own, far, kind, &answer)));
            }
        }
    });
}

#[test]
fn an_error_about_a_ping_comes_back() {
    let rules = r#"ingress = []
        egress = [
            { protocol = "icmp", type = 8, to = ["10.7.0.0/24"] },
            { protocol = "icmpv6", type = 128, to = ["2001:db8:7:0::/64"] },
        ]"#;
    in_labs(rules, "", |lab| {
        for ((hosts, router), kind) in GHOSTS.into_iter().zip(ROUTERS).zip([8, 128]) {
            let [far, own] = hosts.map(address);
            let [expired, _, _] = ERRORS[usize::from(kind == 128)];
            let ping = echo(own, far, kind, 7);
            let about = |ping: &[u8]| error(address(router), own, expired, ping);
            assert!(!lab.passes(Side::Outside, &about(&ping)), "of no ping");
            assert!(lab.passes(Side::Inside, &ping));
            assert!(lab.passes(Side::Outside, &about(&ping)));
            let other = echo(own, far, kind, 8);
            assert!(!lab.passes(Side::Outside, &about(&other)), "another id");
        }
    });
}

#[test]
fn errors_open_and_refresh_nothing() {
    in_labs(RULES, "[conntrack.timeouts]\nudp = \"30s\"\n", |lab| {
        let [far, own] = GHOSTS[0].map(address);
        let ask = udp((own, 1000), (far, 90), b"?");
        assert!(lab.passes(Side::Inside, &ask));
        let flow = || {
            let flows = lab.json(&["flows", "--json"]);
            assert_eq!(flows.as_array().unwrap().len(), 1, "{flows}");
            flows[0].clone()
        };
        let before = flow();
        for _ in 0..5 {
            let about = error(address(ROUTERS[0]), own, [3, 1], &ask);
            assert!(lab.passes(Side::Outside, &about));
        }
        let after = flow();
        for key in ["packets", "reply_packets", "state"] {
            assert_eq!(before[key], after[key], "{key}");
        }
        let seconds = |flow: &serde_json::Value, key: &str| flow[key].as_f64().unwrap();
        let lived = seconds(&after, "age_seconds") - seconds(&before, "age_seconds");
        let idled = seconds(&after, "idle_seconds") - seconds(&before, "idle_seconds");
        assert!(idled > lived - 0.3, "{before} {after}");
    });
}

#[test]
fn a_sender_learns_the_path_mtu() {
    in_labs(RULES, "", |lab| {
        let hosts = [
            ["10.7.0.1", "10.7.0.10"],
            ["2001:db8:7:0::1", "2001:db8:7:0::10"],
        ];
        for (([client, web], router), kinds) in hosts.into_iter().zip(ROUTERS).zip(ERRORS) {
            lab.outside().serve_udp(client, 90);
            lab.inside().open(client, "udp", client, 90);
            let flows = lab.json(&["flows", "--json", "--peer", client]);
            let port = u16::try_from(flows[0]["source_port"].as_u64().unwrap()).unwrap();
            let [client_address, web] = [client, web].map(address);
            let sent = udp((web, port), (client_address, 90), &[7; 1400]);
            let [_, _, too_big] = kinds;
            let about = error(address(router), web, too_big, &sent);
            assert!(lab.passes(Side::Outside, &about), "{:?}", lab.reasons());
            wait_for(
                || {
                    let said = lab.inside().run(&["ip", "route", "get", client]);
                    said.out.contains("mtu 1280")
                },
                || lab.inside().run(&["ip", "route", "get", client]).out,
            );
            // The socket is told once; then it sends in pieces, and they pass.
            let told = lab.inside().say(client, 1400, PATIENCE);
            assert!(told.contains("too long"), "{told}");
            let said = lab.inside().say(client, 1400, PATIENCE);
            assert_eq!(said, "ok", "{:?}", lab.reasons());
        }
    });
}

#[test]
fn errors_need_a_rule_where_the_configuration_says_so() {
    let with = RULES.replacen(
        "ingress = [",
        "ingress = [{ protocol = \"icmp\", type = 11, from = [\"10.7.0.0/24\"] }, \
         { protocol = \"icmpv6\", type = 3, from = [\"2001:db8:7:0::/64\"] }, ",
        1,
    );
    in_labs(RULES, "[conntrack]\nicmp_errors = \"rules\"\n", |lab| {
        let crossing = |may_pass: bool| {
            for ((hosts, router), [expired, ..]) in GHOSTS.into_iter().zip(ROUTERS).zip(ERRORS) {
                let [far, own] = hosts.map(address);
                let ask = udp((own, 1000), (far, 90), b"?");
                assert!(lab.passes(Side::Inside, &ask));
                let about = error(address(router), own, expired, &ask);
                if may_pass {
                    assert!(lab.passes(Side::Outside, &about), "{:?}", lab.reasons());
                } else {
                    lab.expect_drops("no-rule", 1, || {
                        assert!(!lab.passes(Side::Outside, &about));
                    });
                }
            }
        };
        crossing(false);
        lab.apply(&ghostly(&with));
        crossing(true);
        assert_eq!(lab.passed("related"), 0, "{:?}", lab.reasons());
        // The error of a closed port needs its own direction's rule.
        let refused = lab.outside().udp("10.7.0.10", 70, SILENCE);
        assert_eq!(refused, "timeout");
    });
}

//! Connections: semantics.md, "Connections". What needs exact packets is spoken by hosts that no
//! kernel answers for.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::frames::{ACK, FIN, RST, SYN, Segment, echo, icmp, ip, ipv4, tcp, udp};
use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, wire_test};
use crate::{address, policy};

const FAMILIES: [[&str; 2]; 2] = [
    ["10.7.0.1", "10.7.0.10"],
    ["2001:db8:7:0::1", "2001:db8:7:0::10"],
];
/// Hosts that exist in hand-made packets only.
const GHOSTS: [&str; 2] = crate::GHOSTS[0];

/// Policy of the inside ghosts, and of the first real hosts.
pub(crate) fn ghostly(rules: &str) -> String {
    let ghosts = "\"10.7.0.10\", \"10.7.0.20\", \"2001:db8:7:0::20\"";
    policy(rules).replace("\"10.7.0.10\"", ghosts)
}

pub(crate) const TCP_80: &str = r#"
    ingress = [{ protocol = "tcp", ports = 80, from = ["10.7.0.0/24"] }]
    egress = []"#;

/// A TCP connection between two ghosts, packet by packet.
pub(crate) struct Conversation<'a> {
    lab: &'a Lab,
    pub(crate) client: (IpAddr, u16),
    pub(crate) server: (IpAddr, u16),
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(lab: &'a Lab, port: u16) -> Self {
        let [client, server] = GHOSTS.map(address);
        Self {
            lab,
            client: (client, port),
            server: (server, 80),
        }
    }

    /// A segment of the client; whether it came through.
    pub(crate) fn client(
        &self,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        data: &[u8],
    ) -> bool {
        let segment = Segment {
            flags,
            sequence,
            acknowledgment,
        };
        self.lab
            .passes(Side::Outside, &tcp(self.client, self.server, segment, data))
    }

    pub(crate) fn server(
        &self,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        data: &[u8],
    ) -> bool {
        let segment = Segment {
            flags,
            sequence,
            acknowledgment,
        };
        self.lab
            .passes(Side::Inside, &tcp(self.server, self.client, segment, data))
    }

    /// Three segments; the client's next is 1001, the server's 5001.
    pub(crate) fn establish(&self) {
        assert!(
            self.client(SYN, 1000, 0, b""),
            "SYN: {:?}",
            self.lab.reasons()
        );
        assert!(
            self.server(SYN | ACK, 5000, 1001, b""),
            "SYN-ACK: {:?}",
            self.lab.reasons()
        );
        assert!(
            self.client(ACK, 1001, 5001, b""),
            "ACK: {:?}",
            self.lab.reasons()
        );
    }

    pub(crate) fn state(&self) -> String {
        let flows = self.lab.json(&["flows", "--json"]);
        let port = Value::from(self.client.1);
        let mut flows = flows.as_array().unwrap().iter();
        let own = flows.find(|flow| flow["source_port"] == port);
        own.map_or("none".to_owned(), |flow| {
            flow["state"].as_str().unwrap().to_owned()
        })
    }
}

#[test]
fn replies_pass_whatever_the_other_direction_says() {
    let rules = r#"ingress = [
            { protocol = "tcp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
            { protocol = "udp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
            { protocol = "icmp", type = 8, from = ["10.7.0.0/24"] },
            { protocol = "icmpv6", type = 128, from = ["2001:db8:7:0::/64"] },
        ]
        egress = [
            { protocol = "tcp", ports = 90, to = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
            { protocol = "udp", ports = 90, to = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        ]"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            for [client, web] in FAMILIES {
                for kind in ["tcp", "udp"] {
                    let serve = |host: &crate::host::Host, address, port| {
                        if kind == "tcp" {
                            host.serve_tcp(address, port);
                        } else {
                            host.serve_udp(address, port);
                        }
                    };
                    serve(lab.inside(), web, 80);
                    serve(lab.outside(), client, 90);
                    lab.reaches(Side::Outside, kind, web, 80);
                    lab.reaches(Side::Inside, kind, client, 90);
                }
                lab.reaches(Side::Outside, "ping", web, 0);
                lab.is_refused(Side::Inside, "ping", client, 0);
            }
            assert!(lab.passed("tracked") > 0);
            // Without a request there is no reply.
            let [client, web] = FAMILIES[0].map(address);
            lab.expect_dropped("no-rule", || {
                assert!(!lab.crosses(Side::Inside, &udp((web, 80), (client, 4444), b"?")));
                let segment = Segment {
                    flags: SYN | ACK,
                    sequence: 1,
                    acknowledgment: 1,
                };
                assert!(!lab.crosses(Side::Inside, &tcp((web, 80), (client, 4444), segment, b"")));
            });
        },
    );
}

#[test]
fn only_the_matching_echo_reply_is_a_reply() {
    let rules = r#"ingress = []
        egress = [{ protocol = "icmp", type = 8, to = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &ghostly(rules),
            ..Plan::default()
        },
        |lab| {
            let [far, own] = GHOSTS.map(address);
            assert!(
                !lab.crosses(Side::Outside, &echo(far, own, 0, 7)),
                "a reply to nothing"
            );
            assert!(lab.crosses(Side::Inside, &echo(own, far, 8, 7)));
            assert!(
                !lab.crosses(Side::Outside, &echo(far, own, 0, 8)),
                "another id"
            );
            assert!(
                !lab.crosses(Side::Outside, &echo(far, own, 8, 7)),
                "a request of the other side"
            );
            assert!(lab.crosses(Side::Outside, &echo(far, own, 0, 7)));
            assert!(
                !lab.crosses(Side::Outside, &icmp(far, own, 14, 0, &[0, 7, 0, 1])),
                "timestamp"
            );
        },
    );
}

#[test]
fn a_timestamp_request_has_its_reply() {
    let rules = r#"ingress = []
        egress = [{ protocol = "icmp", type = 13, to = ["10.7.0.0/24"] }]"#;
    let plan = Plan {
        policy: &ghostly(rules),
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let [far, own] = GHOSTS.map(address);
        let message = |from, to, kind, id: u8| {
            icmp(from, to, kind, 0, &[&[0, id, 0, 1][..], &[0; 12]].concat())
        };
        assert!(!lab.crosses(Side::Outside, &message(far, own, 14, 9)));
        assert!(lab.crosses(Side::Inside, &message(own, far, 13, 9)));
        assert!(
            !lab.crosses(Side::Outside, &message(far, own, 14, 10)),
            "another id"
        );
        assert!(lab.crosses(Side::Outside, &message(far, own, 14, 9)));
    });
}

#[test]
fn untracked_flows_need_no_entry_and_heed_no_tombstone() {
    let any = r#"ingress = [
        { protocol = "udp", from = ["0.0.0.0/0"] },
        { protocol = "tcp", ports = 80, from = ["0.0.0.0/0"] },
    ]"#;
    let gateway = "[conntrack]\nmax_flows = 64\n";
    let plan = Plan {
        policy: &ghostly(any),
        gateway,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let talk = Conversation::new(lab, 4006);
        talk.establish();
        assert!(talk.client(RST, 1001, 0, b""));
        assert!(talk.client(ACK, 1001, 5001, b"late"), "{}", talk.state());
        assert!(talk.server(ACK, 5001, 1001, b"late"), "{}", talk.state());
        let [far, own] = GHOSTS.map(address);
        let datagrams = |from: (IpAddr, u16), to: (IpAddr, u16)| udp(from, to, b"?");
        let asked: Vec<_> = (1000..1200)
            .map(|port| lab.frame(Side::Outside, 0, &datagrams((far, port), (own, 9))))
            .collect();
        assert_eq!(lab.cross(Side::Outside, &asked), vec![true; 200]);
        let answers: Vec<_> = (1000..1200)
            .map(|port| lab.frame(Side::Inside, 0, &datagrams((own, 9), (far, port))))
            .collect();
        assert_eq!(lab.cross(Side::Inside, &answers), vec![true; 200]);
        assert_eq!(lab.dropped("table-full"), 0);
        assert_eq!(lab.passed("rule"), 0, "{:?}", lab.reasons());
        assert!(lab.passed("untracked") >= 400, "{:?}", lab.reasons());
    });
}

#[test]
fn an_idle_flow_ends_at_its_time() {
    let rules = r#"ingress = []
        egress = [{ protocol = "icmp", type = 8, to = ["10.7.0.0/24"] }]"#;
    let gateway = "[conntrack.timeouts]\nicmp = 1\ntcp_syn_sent = \"1s\"\n";
    wire_test(
        &Plan {
            policy: &ghostly(rules),
            gateway,
            ..Plan::default()
        },
        |lab| {
            let [far, own] = GHOSTS.map(address);
            assert!(lab.crosses(Side::Inside, &echo(own, far, 8, 7)));
            assert!(lab.crosses(Side::Outside, &echo(far, own, 0, 7)));
            thread::sleep(Duration::from_millis(2300));
            lab.expect_dropped("no-rule", || {
                assert!(!lab.crosses(Side::Outside, &echo(far, own, 0, 7)));
            });
        },
    );
}

#[test]
fn an_any_address_rule_leaves_flows_untracked_and_ends_them_when_it_goes() {
    let any = r#"ingress = [{ protocol = "udp", ports = 80, from = ["0.0.0.0/0"] }]"#;
    let narrow = r#"ingress = [{ protocol = "udp", ports = 80, from = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(any),
            ..Plan::default()
        },
        |lab| {
            let web = FAMILIES[0][1];
            lab.inside().serve_udp(web, 80);
            lab.outside().open("a", "udp", web, 80);
            assert!(
                lab.passed("untracked") >= 2,
                "both ways: {:?}",
                lab.reasons()
            );
            assert_eq!(lab.passed("tracked"), 0, "{:?}", lab.reasons());
            lab.apply(&policy("ingress = []"));
            lab.expect_dropped("no-rule", || {
                assert_eq!(
                    lab.outside().say("a", 32, SILENCE),
                    "timeout",
                    "cut at once"
                );
            });
            lab.apply(&policy(narrow));
            lab.outside().open("b", "udp", web, 80);
            assert!(lab.passed("tracked") > 0, "{:?}", lab.reasons());
            lab.apply(&policy("ingress = []"));
            assert_eq!(
                lab.outside().say("b", 32, PATIENCE),
                "ok",
                "tracked: it lives on"
            );
        },
    );
}

#[test]
fn a_tracked_flow_outlives_its_rule_but_not_its_interface() {
    let rule = r#"ingress = [{ protocol = "tcp", ports = 80, from = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &policy(rule),
            ..Plan::default()
        },
        |lab| {
            let web = FAMILIES[0][1];
            lab.inside().serve_tcp(web, 80);
            lab.outside().open("a", "tcp", web, 80);
            lab.apply(&policy("ingress = []\negress = []"));
            assert_eq!(lab.outside().say("a", 5000, PATIENCE), "ok");
            lab.is_refused(Side::Outside, "tcp", web, 80);
            let without = policy(rule).replace("\"10.7.0.10\", ", "");
            lab.apply(&without);
            lab.expect_dropped("unregistered", || {
                assert_eq!(lab.outside().say("a", 32, SILENCE), "timeout");
            });
            // Back under the same name, it is a new interface: the old flow is not its own.
            lab.apply(&policy("ingress = []\negress = []"));
            lab.expect_dropped("no-rule", || {
                assert_eq!(lab.outside().say("a", 32, SILENCE), "timeout");
            });
        },
    );
}

#[test]
fn after_a_close_nothing_passes_until_a_new_syn() {
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4000);
            talk.establish();
            assert!(talk.client(ACK, 1001, 5001, b"question"));
            assert!(talk.server(ACK, 5001, 1009, b"answer"));
            assert!(talk.client(FIN | ACK, 1009, 5007, b""));
            assert!(talk.server(ACK, 5007, 1010, b"more"));
            assert!(talk.server(FIN | ACK, 5011, 1010, b""));
            assert!(
                talk.client(ACK, 1010, 5012, b""),
                "the last ACK: {}",
                talk.state()
            );
            lab.expect_dropped("invalid", || {
                assert!(!talk.client(ACK, 1010, 5012, b"late"), "{}", talk.state());
            });
            assert!(!talk.server(ACK, 5012, 1010, b"late"));
            assert!(
                talk.client(SYN, 900_000, 0, b""),
                "a new connection: {}",
                talk.state()
            );
            assert!(talk.server(SYN | ACK, 7000, 900_001, b""));
            assert!(talk.client(ACK, 900_001, 7001, b"data"));
        },
    );
}

#[test]
fn a_reset_closes_and_a_blind_one_does_not() {
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4001);
            talk.establish();
            talk.client(RST, 0x7000_0000, 0, b"");
            talk.server(RST, 0x9000_0000, 0, b"");
            talk.client(FIN | ACK, 0x7000_0000, 5001, b"");
            assert!(talk.client(ACK, 1001, 5001, b"alive"), "{}", talk.state());
            assert!(talk.server(ACK, 5001, 1006, b"alive"), "{}", talk.state());
            assert!(talk.client(RST, 1006, 0, b""));
            lab.expect_dropped("invalid", || {
                assert!(!talk.client(ACK, 1006, 5006, b"late"), "{}", talk.state());
            });
            assert!(!talk.server(ACK, 5006, 1006, b"late"), "{}", talk.state());
            assert!(talk.client(SYN, 50_000, 0, b""));
        },
    );
}

#[test]
fn the_middle_of_a_connection_is_picked_up_where_a_rule_allows() {
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4002);
            assert!(!talk.server(ACK, 5001, 1001, b"no egress rule"));
            assert!(talk.client(ACK, 1001, 5001, b"hello"));
            assert!(talk.server(ACK, 5001, 1006, b"hello"));
            assert_eq!(lab.status()["conntrack"]["picked_up"], 1);
        },
    );
    let gateway = "[conntrack]\ntcp_pickup = \"syn-only\"\n";
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            gateway,
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4003);
            lab.expect_dropped("invalid", || {
                assert!(!talk.client(ACK, 1001, 5001, b"hello"));
            });
            talk.establish();
        },
    );
}

#[test]
fn data_outside_the_window_passes_unless_strict() {
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4004);
            talk.establish();
            assert!(talk.client(ACK, 0x5000_0000, 5001, b"far away"));
        },
    );
    let gateway = "[conntrack]\ntcp_strict = true\n";
    wire_test(
        &Plan {
            policy: &ghostly(TCP_80),
            gateway,
            ..Plan::default()
        },
        |lab| {
            let talk = Conversation::new(lab, 4005);
            talk.establish();
            assert!(talk.client(ACK, 1001, 5001, b"in order"));
            lab.expect_dropped("invalid", || {
                assert!(!talk.client(ACK, 0x5000_0000, 5001, b"far away"));
            });
            assert!(talk.server(ACK, 5001, 1009, b"fine"));
        },
    );
}

#[test]
fn a_table_full_of_answered_flows_refuses_new_ones_and_keeps_the_old() {
    let rules = r#"ingress = [{ protocol = "udp", from = ["10.7.0.0/24"] }]"#;
    let gateway = "[conntrack]\nmax_flows = 64\n";
    wire_test(
        &Plan {
            policy: &ghostly(rules),
            gateway,
            ..Plan::default()
        },
        |lab| {
            let [far, own] = GHOSTS.map(address);
            let ask = |port: u16| udp((far, port), (own, 9), b"?");
            let answer = |port: u16| udp((own, 9), (far, port), b"!");
            let mut kept = Vec::new();
            for first in (1000..1200).step_by(8) {
                let ports = first..first + 8;
                let asks = ports
                    .clone()
                    .map(|port| lab.frame(Side::Outside, 0, &ask(port)));
                let asks: Vec<_> = asks.collect();
                lab.cross(Side::Outside, &asks);
                let answers = ports
                    .clone()
                    .map(|port| lab.frame(Side::Inside, 0, &answer(port)));
                let answers: Vec<_> = answers.collect();
                let passed = lab.cross(Side::Inside, &answers);
                kept.extend(ports.zip(passed).filter(|(_, p)| *p).map(|(port, _)| port));
            }
            assert!(
                (64..200).contains(&kept.len()),
                "{} answered flows of max_flows = 64",
                kept.len()
            );
            let before = lab.dropped("table-full");
            let asks = (2000..2040).map(|port| lab.frame(Side::Outside, 0, &ask(port)));
            let asks: Vec<_> = asks.collect();
            assert!(lab.cross(Side::Outside, &asks).iter().all(|passed| !passed));
            let refused = lab.dropped("table-full");
            assert_eq!(refused - before, 40, "{:?}", lab.reasons());
            for port in [kept[0], kept[20], *kept.last().unwrap()] {
                assert!(lab.crosses(Side::Inside, &answer(port)), "reply of {port}");
                assert!(lab.crosses(Side::Outside, &ask(port)), "more of {port}");
            }
            let table = &lab.status()["conntrack"];
            assert_eq!(table["max_flows"], 64);
            assert!(table["flows"].as_u64().unwrap() >= 64, "{table}");
            assert!(table["refused"].as_u64().unwrap() >= refused, "{table}");
        },
    );
}

#[test]
fn fragments_that_cannot_be_placed_are_dropped_and_counted() {
    let rules = r#"ingress = [{ protocol = "udp", from = ["10.7.0.0/24"] }]"#;
    wire_test(
        &Plan {
            policy: &ghostly(rules),
            gateway: crate::ONE_SECOND,
            ..Plan::default()
        },
        |lab| {
            let [far, own] = GHOSTS.map(address);
            // Their first fragments never come: they wait for a second.
            let later = ipv4(far, own, 17, [0, 9, 0, 10], &[7; 64]);
            lab.expect_dropped("fragment", || assert!(!lab.crosses(Side::Outside, &later)));
            let [far6, own6] = FAMILIES[1].map(address);
            let later6 = ip(
                far6,
                own6,
                44,
                &[&[17, 0, 0, 81, 0, 0, 0, 5][..], &[7; 64]].concat(),
            );
            lab.expect_dropped("fragment", || assert!(!lab.crosses(Side::Outside, &later6)));
            let tiny = ipv4(far, own, 17, [0, 10, 0x20, 0], &[7; 4]);
            assert!(
                !lab.crosses(Side::Outside, &tiny),
                "no port in it: {:?}",
                lab.reasons()
            );
            let allowed = ipv4(
                far,
                own,
                17,
                [0, 11, 0x40, 0],
                &udp((far, 5), (own, 6), b"x")[20..],
            );
            assert!(lab.crosses(Side::Outside, &allowed), "the whole packet");
        },
    );
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let rules = r#"ingress = [{ protocol = "udp", ports = 80, from = ["2001:db8:7:0::/64"] }]
        egress = []"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            let [client, web] = FAMILIES[1].map(address);
            let body = |port: u16| udp((client, 5), (web, port), b"x")[40..].to_vec();
            let chain = |headers: &[(u8, u8)], last: u8, port: u16| {
                let mut bytes = Vec::new();
                for (at, (_, kind_of_routing)) in headers.iter().enumerate() {
                    let next = headers.get(at + 1).map_or(last, |next| next.0);
                    bytes.extend([next, 0, *kind_of_routing, 0, 0, 0, 0, 0]);
                }
                bytes.extend(body(port));
                ip(
                    client,
                    web,
                    headers.first().map_or(last, |first| first.0),
                    &bytes,
                )
            };
            const PAD: u8 = 1;
            let crosses = |packet: &[u8]| lab.crosses(Side::Outside, packet);
            assert!(crosses(&chain(&[], 17, 80)));
            assert!(crosses(&chain(&[(0, PAD)], 17, 80)), "hop by hop");
            assert!(crosses(&chain(
                &[(0, PAD), (60, PAD), (43, 4), (60, PAD)],
                17,
                80
            )));
            assert!(
                !crosses(&chain(&[(0, PAD), (60, PAD)], 17, 81)),
                "another port behind them"
            );
            lab.expect_dropped("malformed", || {
                assert!(
                    !crosses(&chain(&[(43, 0)], 17, 80)),
                    "type 0 routing (RFC 5095)"
                );
            });
            lab.expect_dropped("malformed", || {
                assert!(!crosses(&chain(&[(60, PAD); 9], 17, 80)), "nine headers");
            });
        },
    );
}

#[test]
fn flows_shows_the_flow() {
    wire_test(
        &Plan {
            policy: &policy(TCP_80),
            ..Plan::default()
        },
        |lab| {
            let [client, web] = FAMILIES[0];
            lab.inside().serve_tcp(web, 80);
            lab.outside().open("a", "tcp", web, 80);
            let flows = lab.json(&["flows", "--json"]);
            let flows = flows.as_array().unwrap();
            assert_eq!(flows.len(), 1, "{flows:?}");
            let flow = &flows[0];
            for (key, value) in [
                ("link", "link0"),
                ("interface", "web-1"),
                ("direction", "ingress"),
                ("protocol", "tcp"),
                ("source", client),
                ("destination", web),
                ("class", "tracked"),
                ("group", "web"),
            ] {
                assert_eq!(flow[key], value, "{key} of {flow}");
            }
            assert_eq!(flow["destination_port"], 80);
            assert!(flow["rule"].as_str().unwrap().starts_with("sgr-"), "{flow}");
            assert!(flow["packets"].as_u64().unwrap() >= 3, "{flow}");
            assert!(flow["reply_packets"].as_u64().unwrap() >= 2, "{flow}");
            let none = lab.json(&["flows", "--json", "--address", "10.7.0.2"]);
            assert_eq!(none.as_array().unwrap().len(), 0);
        },
    );
}

//! Datagrams in pieces: semantics.md, "Connections". Between hosts that no kernel answers for,
//! unless a kernel is what cuts.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::connections::{Conversation, TCP_80, ghostly};
use crate::frames::{ACK, Piece, Segment, fragment, fragments, tcp, udp};
use crate::host::{Host, PATIENCE, SILENCE};
use crate::lab::{Lab, Side, wait_for, wire_test};
use crate::{GHOSTS, ONE_SECOND, SHAPES, address, policy};

const FAMILIES: [[&str; 2]; 2] = [
    ["10.7.0.1", "10.7.0.10"],
    ["2001:db8:7:0::1", "2001:db8:7:0::10"],
];
const RULES: &str = r#"ingress = [
        { protocol = "udp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "tcp", ports = 5201, from = ["10.7.0.0/24"] },
        { protocol = "icmp", type = 8, from = ["10.7.0.0/24"] },
        { protocol = "icmpv6", type = 128, from = ["2001:db8:7:0::/64"] },
    ]
    egress = [{ protocol = "udp", ports = 90, to = ["10.7.0.0/24", "2001:db8:7:0::/64"] }]"#;

/// Runs a test in a laboratory of each shape.
fn in_labs(test: impl Fn(&mut Lab)) {
    for shape in &SHAPES {
        let policy = ghostly(RULES);
        let mut plan = shape.plan(&policy);
        plan.gateway = ONE_SECOND;
        wire_test(&plan, &test);
    }
}

fn large_ping(host: &Host, to: &str, timeout: f64) -> bool {
    let timeout = timeout.to_string();
    let options = ["-n", "-q", "-c", "1", "-s", "4000", "-W", &timeout];
    host.run(&[&["ping"][..], &options, &[to]].concat()).code == 0
}

fn large_udp(host: &Host, to: &str, port: u16, timeout: f64) -> String {
    host.talk(&json!({ "do": "udp", "to": to, "port": port, "size": 6000, "timeout": timeout }))
}

#[test]
fn what_a_kernel_cuts_passes_both_ways_where_rules_allow() {
    in_labs(|lab| {
        let (outside, inside) = (lab.outside(), lab.inside());
        for [client, web] in FAMILIES {
            inside.serve_udp(web, 80);
            outside.serve_udp(client, 90);
            for _ in 0..8 {
                assert!(large_ping(outside, web, PATIENCE), "{:?}", lab.reasons());
                let said = large_udp(outside, web, 80, PATIENCE);
                assert_eq!(said, "ok", "{web}: {:?}", lab.reasons());
                let said = large_udp(inside, client, 90, PATIENCE);
                assert_eq!(said, "ok", "{client}: {:?}", lab.reasons());
            }
            // 4,008 bytes are three fragments, 6,008 are five.
            lab.expect_drops("no-rule", 3, || {
                assert!(!large_ping(inside, client, SILENCE), "no rule for it");
            });
            lab.expect_drops("no-rule", 5, || {
                assert_eq!(large_udp(outside, web, 81, SILENCE), "timeout");
            });
            lab.expect_drops("no-rule", 5, || {
                assert_eq!(large_udp(inside, client, 91, SILENCE), "timeout");
            });
        }
    });
}

/// Fragments of a datagram of 64 bytes of data from the outside ghost to the inside one.
fn datagram(lab: &Lab, hosts: [&str; 2], id: u16, port: u16, cuts: &[u16]) -> Vec<Vec<u8>> {
    let [far, own] = hosts.map(address);
    let whole = udp((far, 5), (own, port), &[7; 64]);
    let pieces = fragments(far, own, id, &whole, cuts);
    pieces
        .iter()
        .map(|piece| lab.frame(Side::Outside, 0, piece))
        .collect()
}

#[test]
fn early_fragments_wait_and_follow_the_first() {
    in_labs(|lab| {
        let waiting = || -> u64 {
            let status = lab.status();
            let workers = status["workers"].as_array().unwrap().iter();
            workers.map(|w| w["in_flight"].as_u64().unwrap()).sum()
        };
        for hosts in GHOSTS {
            // Several, so that home and owner differ where there are two workers.
            for id in 1..5 {
                let mut pieces = datagram(lab, hosts, id, 80, &[24, 48]);
                pieces.reverse();
                let (early, first) = pieces.split_at(2);
                assert!(
                    lab.through(Side::Outside, early).is_empty(),
                    "their first is not there"
                );
                wait_for(|| waiting() == 2, || lab.status().to_string());
                lab.inside().listen();
                lab.outside().send(first);
                let mut came = Vec::new();
                wait_for(
                    || {
                        came.extend(lab.inside().heard(0.1, None));
                        came.iter().filter(|frame| pieces.contains(frame)).count() == 3
                    },
                    || format!("they are kept: {:?}", lab.reasons()),
                );
                let before = came.iter().position(|frame| *frame == first[0]);
                let early = came.iter().position(|frame| early.contains(frame));
                assert!(before < early, "the first comes first");
            }
            // With a port that no rule allows they wait for nothing.
            lab.expect_drops("no-rule", 3, || {
                let mut pieces = datagram(lab, hosts, 9, 81, &[24, 48]);
                pieces.reverse();
                assert!(lab.through(Side::Outside, &pieces).is_empty());
            });
            // Without their first they go when their time is over.
            lab.expect_drops("fragment", 2, || {
                let pieces = datagram(lab, hosts, 10, 80, &[24, 48]);
                assert!(lab.through(Side::Outside, &pieces[1..]).is_empty());
                wait_for(|| waiting() == 0, || lab.status().to_string());
            });
        }
    });
}

/// A fragment with nothing but bytes, from the outside ghost to the inside one.
fn stray(lab: &Lab, hosts: [&str; 2], protocol: u8, piece: Piece, size: usize) -> Vec<u8> {
    let [far, own] = hosts.map(address);
    let packet = fragment(far, own, protocol, piece, &vec![9; size]);
    lab.frame(Side::Outside, 0, &packet)
}

#[test]
fn fragments_that_overlap_are_dropped_with_their_datagram() {
    in_labs(|lab| {
        let through = |frames: &[Vec<u8>]| lab.through(Side::Outside, frames);
        for hosts in GHOSTS {
            let piece =
                |id, offset, more, size| stray(lab, hosts, 17, Piece { id, offset, more }, size);
            // RFC 5722: 16 to 40 lies over 0 to 24; what would fit comes too late.
            let pieces = datagram(lab, hosts, 20, 80, &[24]);
            lab.expect_drops("fragment", 2, || {
                let sent = [
                    pieces[0].clone(),
                    piece(20, 16, true, 24),
                    pieces[1].clone(),
                ];
                assert_eq!(through(&sent), [0]);
            });
            let pieces = datagram(lab, hosts, 21, 80, &[24]);
            lab.expect_drops("fragment", 2, || {
                let sent = [pieces[0].clone(), pieces[0].clone(), pieces[1].clone()];
                assert_eq!(through(&sent), [0], "a second first one");
            });
            // Another first one, with another port, after the datagram has begun.
            let pieces = datagram(lab, hosts, 22, 80, &[24]);
            let others = datagram(lab, hosts, 22, 81, &[24]);
            lab.expect_drops("fragment", 2, || {
                let sent = [pieces[0].clone(), others[0].clone(), pieces[1].clone()];
                assert_eq!(through(&sent), [0], "another first one");
            });
            // The end is known: nothing lies past it, and it does not move.
            for late in [piece(23, 72, true, 8), piece(23, 80, false, 8)] {
                let pieces = datagram(lab, hosts, 23, 80, &[24, 48]);
                let last = pieces[2].clone();
                lab.expect_drops("fragment", 2, || {
                    let sent = [pieces[0].clone(), last, late, pieces[1].clone()];
                    assert_eq!(through(&sent), [0, 1]);
                });
                // The poisoned datagram has to be forgotten first.
                thread::sleep(Duration::from_millis(1700));
            }
            assert_eq!(through(&datagram(lab, hosts, 24, 80, &[24])), [0, 1]);
        }
    });
}

#[test]
fn nobody_outside_ends_a_datagram_of_an_inside_host() {
    in_labs(|lab| {
        for hosts in GHOSTS {
            let [far, own] = hosts.map(address);
            for id in 50..54 {
                let whole = udp((own, 5), (far, 90), &[7; 64]);
                let pieces = fragments(own, far, id, &whole, &[24, 48]);
                let [spoofed, sent] = [Side::Outside, Side::Inside].map(|from| -> Vec<_> {
                    let frames = pieces.iter();
                    frames.map(|piece| lab.frame(from, 0, piece)).collect()
                });
                // What outside says in an inside host's name comes before, and is one too many.
                lab.expect_drops("spoofed", 2, || {
                    assert!(lab.through(Side::Outside, &spoofed[..2]).is_empty());
                });
                let came = lab.through(Side::Inside, &sent).len();
                assert_eq!(came, 3, "{far}: {:?}", lab.reasons());
            }
        }
    });
}

#[test]
fn tiny_first_fragments_are_dropped() {
    in_labs(|lab| {
        for hosts in GHOSTS {
            let [far, own] = hosts.map(address);
            let drops = |reason: &str, frames: &[Vec<u8>], what: &str| {
                lab.expect_drops(reason, frames.len() as u64, || {
                    assert!(lab.through(Side::Outside, frames).is_empty(), "{what}");
                });
            };
            let segment = Segment {
                flags: ACK,
                sequence: 1,
                acknowledgment: 1,
            };
            let whole = tcp((far, 5), (own, 5201), segment, &[0; 32]);
            let cut = |id, cuts: &[u16]| -> Vec<Vec<u8>> {
                let pieces = fragments(far, own, id, &whole, cuts);
                let frames = pieces.iter();
                frames
                    .map(|piece| lab.frame(Side::Outside, 0, piece))
                    .collect()
            };
            drops(
                "malformed",
                &cut(30, &[8])[..1],
                "RFC 1858: ports, but no flags",
            );
            drops(
                "malformed",
                &cut(31, &[16])[..1],
                "RFC 1858: no whole header",
            );
            drops(
                "malformed",
                &cut(32, &[8])[1..],
                "RFC 3128: the flags behind the ports",
            );
            drops(
                "malformed",
                &cut(33, &[16])[1..],
                "RFC 3128: the rest of the header",
            );
            let piece = |id, offset, more| Piece { id, offset, more };
            let udp = |piece, size| stray(lab, hosts, 17, piece, size);
            drops("malformed", &[udp(piece(34, 0, true), 4)], "no whole port");
            drops(
                "malformed",
                &[udp(piece(35, 64, true), 12)],
                "not cut at 8 bytes",
            );
            drops(
                "malformed",
                &[udp(piece(36, 65528, false), 64)],
                "past 65,535 bytes",
            );
        }
    });
}

#[test]
fn segments_in_pieces_follow_their_connection() {
    for shape in &SHAPES {
        let policy = ghostly(TCP_80);
        wire_test(&shape.plan(&policy), |lab| {
            let talk = Conversation::new(lab, 4100);
            talk.establish();
            let ((far, _), (own, _)) = (talk.client, talk.server);
            let segment = |sequence, acknowledgment| Segment {
                flags: ACK,
                sequence,
                acknowledgment,
            };
            let cut = |from: Side, id, packet: &[u8]| -> Vec<Vec<u8>> {
                let ends: [IpAddr; 2] = match from {
                    Side::Outside => [far, own],
                    Side::Inside => [own, far],
                };
                let pieces = fragments(ends[0], ends[1], id, packet, &[32, 64]);
                let frames = pieces.iter();
                frames.map(|piece| lab.frame(from, 0, piece)).collect()
            };
            let asked = tcp(talk.client, talk.server, segment(1001, 5001), &[1; 80]);
            assert_eq!(
                lab.through(Side::Outside, &cut(Side::Outside, 1, &asked))
                    .len(),
                3
            );
            // The other direction has no rule, only the connection.
            let answered = tcp(talk.server, talk.client, segment(5001, 1081), &[2; 80]);
            assert_eq!(
                lab.through(Side::Inside, &cut(Side::Inside, 1, &answered))
                    .len(),
                3
            );
            let foreign = tcp(talk.server, (far, 4101), segment(5001, 1081), &[2; 80]);
            lab.expect_drops("no-rule", 3, || {
                let pieces = cut(Side::Inside, 2, &foreign);
                assert!(
                    lab.through(Side::Inside, &pieces).is_empty(),
                    "no connection"
                );
            });
            assert!(talk.client(ACK, 1081, 5081, b"more"), "{}", talk.state());
        });
    }
}

/// Fragments without a first one, each of a datagram of its own.
fn flood(lab: &Lab, from: u16, count: u16) {
    let hosts = GHOSTS.iter().cycle();
    let frames: Vec<Vec<u8>> = (from..from + count)
        .zip(hosts)
        .map(|(id, hosts)| {
            let piece = Piece {
                id,
                offset: 1024,
                more: true,
            };
            stray(lab, *hosts, 17, piece, 64)
        })
        .collect();
    for part in frames.chunks(500) {
        lab.outside().send(part);
    }
}

#[test]
fn a_flood_of_early_fragments_stops_nobody_and_takes_no_memory() {
    in_labs(|lab| {
        let web = FAMILIES[0][1];
        lab.inside()
            .start("server", &["iperf3", "-s", "-1", "-B", web]);
        thread::sleep(Duration::from_millis(300));
        let options = ["-J", "-t", "4", "-b", "20M"];
        let argv = [&["iperf3", "-c", web, "-B", FAMILIES[0][0]][..], &options].concat();
        lab.outside().start("client", &argv);
        wait_for(|| lab.passed("tracked") > 100, || "no transfer".to_owned());
        flood(lab, 0, 4000);
        let before = lab.memory_kb();
        flood(lab, 4000, 20_000);
        let status = lab.status();
        let workers = status["workers"].as_array().unwrap();
        for worker in workers {
            // As many as may wait, and what is on its way just then.
            assert!(worker["in_flight"].as_u64().unwrap() < 1500, "{worker}");
        }
        assert!(lab.dropped("fragment") > 10_000, "{:?}", lab.reasons());
        let client = lab.outside().finish("client");
        let grown = lab.memory_kb().saturating_sub(before);
        assert!(grown < 1024, "{grown} KB more");
        let report: Value = serde_json::from_str(&client.out).unwrap_or_default();
        let sent = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(
            sent.unwrap_or(0) > 7_000_000,
            "{}{:?}",
            client.out,
            lab.reasons()
        );
        assert_eq!(lab.inside().finish("server").code, 0);
        // And other datagrams in pieces find their place.
        for [_, web] in FAMILIES {
            assert!(
                large_ping(lab.outside(), web, PATIENCE),
                "{:?}",
                lab.reasons()
            );
        }
    });
}

#[test]
fn fragments_are_judged_by_the_policy_in_force() {
    in_labs(|lab| {
        let [_, web] = FAMILIES[0];
        assert!(large_ping(lab.outside(), web, PATIENCE));
        lab.apply(&policy("ingress = []\negress = []"));
        lab.expect_drops("no-rule", 3, || {
            assert!(!large_ping(lab.outside(), web, SILENCE), "a new ping");
        });
        lab.apply(&ghostly(RULES));
        assert!(large_ping(lab.outside(), web, PATIENCE));
    });
}

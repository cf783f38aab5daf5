//! Frames that no decent host sends, and those that are never filtered.

use std::net::IpAddr;

use crate::frames::{
    ACK, SYN, Segment, arp, echo, ethernet, ip, ipv4, mend_ipv4, neighbor, tcp, udp,
};
use crate::lab::{Lab, Plan, Side, wire_test};
use crate::{ONE_SECOND, address, policy};

const ALL: &str = r#"ingress = [{ protocol = "all", from = ["0.0.0.0/0", "::/0"] }]"#;
const CLIENT: &str = "10.7.0.1";
const WEB: &str = "10.7.0.10";

fn good() -> Vec<u8> {
    udp((address(CLIENT), 7), (address(WEB), 7), b"twelve bytes")
}

/// What is wrong, and the packet.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let [client, web] = [CLIENT, WEB].map(address);
    let changed = |at: usize, value: u8, mend: bool| {
        let mut packet = good();
        packet[at] = value;
        if mend {
            mend_ipv4(&mut packet);
        }
        packet
    };
    let syn = Segment {
        flags: SYN,
        sequence: 1,
        acknowledgment: 0,
    };
    let mut short_tcp = tcp((client, 9), (web, 9), syn, b"");
    short_tcp[32] = 0x40;
    let mut long_tcp = tcp((client, 9), (web, 9), syn, b"");
    long_tcp[32] = 0xf0;
    let v6 = ["2001:db8:7::1", "2001:db8:7::10"].map(address);
    let mut long_v6 = udp((v6[0], 7), (v6[1], 7), b"x");
    long_v6[5] = 200;
    vec![
        ("IPv4 header length 4", changed(0, 0x44, true)),
        ("IPv4 header longer than the packet", changed(0, 0x4f, true)),
        ("version 5", changed(0, 0x55, true)),
        ("total length over the frame's", changed(3, 200, true)),
        ("total length under the header's", changed(3, 19, true)),
        ("header checksum", changed(10, !good()[10], false)),
        ("no whole IPv4 header", good()[..12].to_vec()),
        ("no whole UDP header", ip(client, web, 17, &[0; 7])),
        ("no whole TCP header", ip(client, web, 6, &[0; 19])),
        ("no whole ICMP header", ip(client, web, 1, &[8, 0, 0])),
        ("TCP header length 4", short_tcp),
        ("TCP header longer than the packet", long_tcp),
        ("land", udp((web, 7), (web, 7), b"land")),
        ("IPv6 payload over the frame's", long_v6),
        (
            "no whole IPv6 header",
            udp((v6[0], 7), (v6[1], 7), b"x")[..30].to_vec(),
        ),
        ("a UDP length over the packet's", {
            let mut packet = good();
            packet[24..26].copy_from_slice(&[0, 200]);
            packet
        }),
    ]
}

#[test]
fn broken_packets_are_malformed_whatever_the_rules_say() {
    wire_test(
        &Plan {
            policy: &policy(ALL),
            ..Plan::default()
        },
        |lab| {
            assert!(lab.crosses(Side::Outside, &good()));
            for (what, packet) in broken() {
                let before = lab.dropped("malformed");
                assert!(!lab.crosses(Side::Outside, &packet), "{what} passes");
                assert_eq!(
                    lab.dropped("malformed"),
                    before + 1,
                    "{what}: {:?}",
                    lab.reasons()
                );
            }
        },
    );
}

#[test]
fn what_follows_the_packet_in_its_frame_is_left_alone() {
    wire_test(
        &Plan {
            policy: &policy(ALL),
            ..Plan::default()
        },
        |lab| {
            let padded = [good(), vec![0; 20]].concat();
            assert!(lab.crosses(Side::Outside, &padded), "padding");
            let mut zero_checksum = good();
            zero_checksum[26..28].copy_from_slice(&[0, 0]);
            assert!(
                lab.crosses(Side::Outside, &zero_checksum),
                "layer 4 is the hosts' business"
            );
            let port_0 = udp((address(CLIENT), 0), (address(WEB), 0), b"x");
            assert!(lab.crosses(Side::Outside, &port_0), "port 0 is a port");
        },
    );
}

#[test]
fn an_inside_address_from_outside_is_spoofed() {
    wire_test(
        &Plan {
            policy: &policy(ALL),
            ..Plan::default()
        },
        |lab| {
            for [own, own_too] in [[WEB, CLIENT], ["2001:db8:7::10", "2001:db8:7::1"]] {
                let [own, far] = [own, own_too].map(address);
                lab.expect_dropped("spoofed", || {
                    assert!(!lab.crosses(Side::Outside, &udp((own, 7), (far, 7), b"x")));
                });
            }
            // A live flow does not vouch for its addresses on the wrong side.
            let [own, far] = [WEB, CLIENT].map(address);
            assert!(lab.crosses(Side::Inside, &udp((own, 7), (far, 8), b"x")));
            lab.expect_dropped("spoofed", || {
                assert!(!lab.crosses(Side::Outside, &udp((own, 7), (far, 8), b"x")));
            });
        },
    );
}

fn unregistered_packets() -> Vec<(Side, Vec<u8>)> {
    let [client, stranger, group] = [CLIENT, "10.7.0.99", "224.0.0.251"].map(address);
    let [client6, stranger6] = ["2001:db8:7::1", "2001:db8:7::99"].map(address);
    vec![
        (Side::Outside, udp((client, 7), (stranger, 7), b"in")),
        (Side::Inside, udp((stranger, 7), (client, 7), b"out")),
        (Side::Outside, udp((client6, 7), (stranger6, 7), b"in")),
        (Side::Inside, udp((stranger6, 7), (client6, 7), b"out")),
        (
            Side::Outside,
            udp((client, 5353), (group, 5353), b"multicast in"),
        ),
        (
            Side::Outside,
            udp(
                (client, 7),
                (address("255.255.255.255"), 7),
                b"broadcast in",
            ),
        ),
    ]
}

#[test]
fn unregistered_hosts_are_dropped() {
    wire_test(
        &Plan {
            policy: &policy(ALL),
            ..Plan::default()
        },
        |lab| {
            for (from, packet) in unregistered_packets() {
                lab.expect_dropped("unregistered", || assert!(!lab.crosses(from, &packet)));
            }
            // From inside, multicast is a destination like any other.
            let [own, group] = [WEB, "224.0.0.251"].map(address);
            assert!(lab.crosses(
                Side::Inside,
                &udp((own, 5353), (group, 5353), b"multicast out")
            ));
        },
    );
}

#[test]
fn unregistered_hosts_pass_where_the_link_says_so() {
    let link = "unregistered = \"pass\"";
    wire_test(
        &Plan {
            policy: &policy("ingress = []\negress = []"),
            link,
            ..Plan::default()
        },
        |lab| {
            for (from, packet) in unregistered_packets() {
                assert!(lab.crosses(from, &packet), "{:?}", lab.reasons());
            }
            assert!(lab.passed("unregistered") >= 6);
            let [own, far] = [WEB, CLIENT].map(address);
            assert!(
                !lab.crosses(Side::Outside, &udp((far, 7), (own, 7), b"x")),
                "a registered one"
            );
            assert!(
                !lab.crosses(Side::Inside, &udp((own, 7), (far, 7), b"x")),
                "a registered one"
            );
            assert!(
                !lab.crosses(Side::Outside, &udp((own, 7), (far, 7), b"x")),
                "spoofed"
            );
        },
    );
}

/// Sends an ARP packet from a side; whether it crosses.
fn arp_crosses(lab: &Lab, from: Side, operation: u8, sender: IpAddr, target: IpAddr) -> bool {
    let mac = lab.host_of(from, 0).mac;
    let body = arp(operation, mac, sender, target);
    lab.cross(from, &[ethernet([0xff; 6], mac, &[], 0x0806, &body)])[0]
}

#[test]
fn arp_passes_but_nobody_inside_speaks_for_a_foreign_address() {
    wire_test(
        &Plan {
            policy: &policy("ingress = []\negress = []"),
            ..Plan::default()
        },
        |lab| {
            let [own, far, foreign] = [WEB, CLIENT, "10.7.0.254"].map(address);
            assert!(arp_crosses(lab, Side::Outside, 1, far, own));
            assert!(arp_crosses(lab, Side::Outside, 2, far, own));
            assert!(arp_crosses(lab, Side::Inside, 1, own, far));
            assert!(arp_crosses(lab, Side::Inside, 2, own, far));
            assert!(
                arp_crosses(lab, Side::Inside, 2, address("169.254.7.7"), far),
                "link-local"
            );
            lab.expect_dropped("spoofed", || {
                assert!(!arp_crosses(lab, Side::Inside, 2, foreign, far));
            });
            lab.expect_dropped("spoofed", || {
                assert!(
                    !arp_crosses(lab, Side::Inside, 1, foreign, foreign),
                    "an announcement"
                );
            });
        },
    );
}

#[test]
fn neighbor_discovery_passes_but_nobody_inside_speaks_for_a_foreign_address() {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    wire_test(
        &Plan {
            policy: &policy("ingress = []\negress = []"),
            ..Plan::default()
        },
        |lab| {
            let [own, far, foreign] =
                ["2001:db8:7::10", "2001:db8:7::1", "2001:db8:7::fe"].map(address);
            let out = |kind, target, hops| {
                lab.crosses(Side::Inside, &neighbor(own, far, kind, target, hops))
            };
            assert!(out(SOLICITATION, far, 255));
            assert!(out(ADVERTISEMENT, own, 255));
            assert!(out(ADVERTISEMENT, address("fe80::7"), 255), "link-local");
            lab.expect_dropped("spoofed", || assert!(!out(ADVERTISEMENT, foreign, 255)));
            lab.expect_dropped("no-rule", || {
                assert!(!out(SOLICITATION, far, 254), "it has crossed a router");
            });
            let come = |kind, target, hops| {
                lab.crosses(Side::Outside, &neighbor(far, own, kind, target, hops))
            };
            assert!(come(SOLICITATION, own, 255));
            assert!(come(ADVERTISEMENT, far, 255));
            assert!(!come(ADVERTISEMENT, far, 64));
            assert!(come(134, far, 255), "router advertisement from outside");
            assert!(!out(134, own, 255), "router advertisement from inside");
            assert!(!out(137, own, 255), "redirect from inside");
        },
    );
}

#[test]
fn dhcp_multicast_membership_and_listed_things_are_exempt() {
    let gateway = "[exempt]\naddresses = [\"169.254.169.254\"]\nports = [\"udp:123\"]\n\
                   ethertypes = [0x88cc]\n";
    let policy = policy("ingress = []\negress = []");
    wire_test(
        &Plan {
            policy: &policy,
            gateway,
            ..Plan::default()
        },
        |lab| {
            let [own, far, none, all] = [WEB, CLIENT, "0.0.0.0", "255.255.255.255"].map(address);
            let discover = udp((none, 68), (all, 67), b"discover");
            assert!(lab.crosses(Side::Inside, &discover));
            assert!(!lab.crosses(Side::Outside, &discover), "a client outside");
            assert!(lab.crosses(Side::Outside, &udp((far, 67), (all, 68), b"offer")));
            assert!(!lab.crosses(Side::Inside, &udp((own, 67), (all, 68), b"rogue offer")));
            let [own6, far6, servers] = ["fe80::10", "fe80::1", "ff02::1:2"].map(address);
            assert!(lab.crosses(Side::Inside, &udp((own6, 546), (servers, 547), b"solicit")));
            assert!(lab.crosses(Side::Outside, &udp((far6, 547), (own6, 546), b"advertise")));
            assert!(
                lab.crosses(
                    Side::Inside,
                    &ip(own, address("224.0.0.22"), 2, &[0x22; 16])
                ),
                "IGMP"
            );
            assert!(lab.crosses(
                Side::Inside,
                &udp((own, 9), (address("169.254.169.254"), 80), b"x")
            ));
            assert!(lab.crosses(Side::Inside, &udp((own, 9), (far, 123), b"time?")));
            assert!(lab.crosses(Side::Outside, &udp((far, 123), (own, 9), b"time!")));
            assert!(!lab.crosses(
                Side::Outside,
                &udp((far, 9), (own, 123), b"not a service of ours")
            ));
            let mac = lab.inside().mac;
            let frame = |kind| ethernet([1, 0x80, 0xc2, 0, 0, 14], mac, &[], kind, &[5; 46]);
            assert!(
                lab.cross(Side::Inside, &[frame(0x88cc)])[0],
                "LLDP is listed"
            );
            lab.expect_dropped("not-ip", || {
                assert!(!lab.cross(Side::Inside, &[frame(0x88f7)])[0])
            });
        },
    );
}

#[test]
fn what_is_inside_vlan_tags_is_judged_and_the_tags_stay() {
    const C_TAG: u16 = 0x8100;
    const S_TAG: u16 = 0x88a8;
    let rules = r#"ingress = [{ protocol = "udp", ports = 80, from = ["10.7.0.0/24"] }]
        egress = []"#;
    wire_test(
        &Plan {
            policy: &policy(rules),
            ..Plan::default()
        },
        |lab| {
            let [own, far] = [WEB, CLIENT].map(address);
            let ask = |port| udp((far, 5), (own, port), b"?");
            let answer = udp((own, 80), (far, 5), b"!");
            let tagged = |from, tags: &[(u16, u16)], packet: &[u8]| {
                lab.cross(from, &[lab.tagged(from, 0, tags, packet)])[0]
            };
            for tags in [
                &[(C_TAG, 20)][..],
                &[(S_TAG, 30)],
                &[(S_TAG, 40), (C_TAG, 41)],
            ] {
                assert!(
                    !tagged(Side::Inside, tags, &answer),
                    "no reply before {tags:?}"
                );
                assert!(
                    tagged(Side::Outside, tags, &ask(80)),
                    "{tags:?}: {:?}",
                    lab.reasons()
                );
                assert!(
                    !tagged(Side::Outside, tags, &ask(81)),
                    "{tags:?}: {:?}",
                    lab.reasons()
                );
                assert!(
                    tagged(Side::Inside, tags, &answer),
                    "{tags:?}: {:?}",
                    lab.reasons()
                );
            }
            assert!(
                !tagged(Side::Inside, &[(C_TAG, 21)], &answer),
                "another VLAN is another flow"
            );
            assert!(!tagged(Side::Inside, &[], &answer), "and so is none");
            let three = [(S_TAG, 1), (C_TAG, 2), (C_TAG, 3)];
            let before: u64 = lab.reasons()[1].values().sum();
            assert!(!tagged(Side::Outside, &three, &ask(80)), "three tags");
            assert!(lab.reasons()[1].values().sum::<u64>() > before);
        },
    );
}

#[test]
fn an_interface_of_a_vlan_owns_its_address_there_only() {
    let policy = policy(r#"ingress = [{ protocol = "udp", ports = 80, from = ["10.7.0.0/24"] }]"#)
        + "vlan = 20\n";
    wire_test(
        &Plan {
            policy: &policy,
            ..Plan::default()
        },
        |lab| {
            let [own, far] = [WEB, CLIENT].map(address);
            let ask = udp((far, 5), (own, 80), b"?");
            let frame = |tags: &[(u16, u16)]| lab.tagged(Side::Outside, 0, tags, &ask);
            assert!(
                lab.cross(Side::Outside, &[frame(&[(0x8100, 20)])])[0],
                "{:?}",
                lab.reasons()
            );
            lab.expect_dropped("unregistered", || {
                assert!(!lab.cross(Side::Outside, &[frame(&[(0x8100, 21)])])[0]);
            });
            assert!(!lab.cross(Side::Outside, &[frame(&[])])[0]);
        },
    );
}

#[test]
fn noise_never_stops_the_gateway() {
    wire_test(
        &Plan {
            policy: &policy(ALL),
            gateway: ONE_SECOND,
            ..Plan::default()
        },
        |lab| {
            // A small generator of its own (Knuth's MMIX), so that every run sends the same.
            let mut state: u64 = 0x1234_5678_9abc_def1;
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()
            };
            let [client, web] = [CLIENT, WEB].map(address);
            let mut frames = Vec::new();
            for turn in 0..3000_usize {
                let mut body: Vec<u8> = (0..=turn % 12).flat_map(|_| next()).collect();
                body.truncate(turn % 97);
                let kinds = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8];
                let mut packet = match turn % 4 {
                    0 => body,
                    1 => ipv4(client, web, next()[0], [0, 1, next()[1], next()[2]], &body),
                    2 => ip(
                        address("2001:db8:7::1"),
                        address("2001:db8:7::10"),
                        next()[3],
                        &body,
                    ),
                    _ => echo(client, web, 8, 5),
                };
                let at = usize::from(next()[5]) % (packet.len() + 1);
                if let Some(byte) = packet.get_mut(at) {
                    *byte ^= next()[6];
                }
                let kind = kinds[usize::from(next()[4]) % kinds.len()];
                frames.push(ethernet(
                    lab.inside().mac,
                    lab.outside().mac,
                    &[],
                    kind,
                    &packet,
                ));
            }
            for part in frames.chunks(100) {
                lab.cross(Side::Outside, part);
                lab.cross(Side::Inside, part);
            }
            let segment = Segment {
                flags: ACK,
                sequence: 1,
                acknowledgment: 1,
            };
            assert!(lab.crosses(Side::Outside, &tcp((client, 1), (web, 1), segment, b"x")));
        },
    );
}

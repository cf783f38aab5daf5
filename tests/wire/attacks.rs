//! Connections that begin and end otherwise than usual, and what somebody who sees none of their
//! packets can do to them (RFC 5961). Ghosts speak: kernels would answer for themselves.

use crate::connections::{Conversation, TCP_80, ghostly};
use crate::frames::{ACK, FIN, RST, SYN, echo, udp};
use crate::lab::{Lab, Plan, Side, wire_test};
use crate::{GHOSTS, address};

fn with(gateway: &str, test: impl FnOnce(&mut Lab)) {
    let plan = Plan {
        policy: &ghostly(TCP_80),
        gateway,
        ..Plan::default()
    };
    wire_test(&plan, test);
}

/// RFC 9293 §3.5, figure 7: SYN meets SYN, each is answered by SYN-ACK.
#[test]
fn both_ends_may_open_at_once() {
    with("", |lab| {
        let talk = Conversation::new(lab, 4100);
        assert!(!talk.server(SYN, 5000, 0, b""), "no egress rule by itself");
        assert!(talk.client(SYN, 1000, 0, b""));
        assert!(talk.server(SYN, 5000, 0, b""), "{:?}", lab.reasons());
        assert_eq!(talk.state(), "syn-received");
        assert!(talk.client(SYN | ACK, 1000, 5001, b""));
        assert!(talk.server(SYN | ACK, 5000, 1001, b""));
        assert_eq!(talk.state(), "established");
        assert!(talk.client(ACK, 1001, 5001, b"hello"));
        assert!(talk.server(ACK, 5001, 1006, b"hello"));
    });
}

#[test]
fn half_a_connection_lives_on_after_the_other_half_is_closed() {
    with("", |lab| {
        let talk = Conversation::new(lab, 4101);
        talk.establish();
        assert!(talk.client(FIN | ACK, 1001, 5001, b""));
        assert_eq!(talk.state(), "closing");
        for part in 0..20 {
            let sequence = 5001 + part * 4;
            assert!(
                talk.server(ACK, sequence, 1002, b"data"),
                "{}",
                talk.state()
            );
            assert!(
                talk.client(ACK, 1002, sequence + 4, b""),
                "{}",
                talk.state()
            );
        }
        assert!(talk.server(FIN | ACK, 5081, 1002, b""));
        assert!(talk.client(ACK, 1002, 5082, b""));
        assert_eq!(talk.state(), "time-wait");
        // A repeated last FIN is answered once more, and data is not.
        assert!(talk.server(FIN | ACK, 5081, 1002, b""));
        assert!(talk.client(ACK, 1002, 5082, b""));
        lab.expect_dropped("invalid", || {
            assert!(!talk.server(ACK, 5082, 1002, b"late"));
        });
    });
}

/// RFC 5961 §4: a SYN inside of a connection is answered by a challenge ACK, and ends nothing.
#[test]
fn a_blind_syn_ends_nothing() {
    for gateway in ["", "[conntrack]\ntcp_strict = true\n"] {
        with(gateway, |lab| {
            let talk = Conversation::new(lab, 4102);
            talk.establish();
            for guess in [1001, 0x4000_0000, 0xc000_0000] {
                talk.client(SYN, guess, 0, b"");
                assert_eq!(talk.state(), "established");
                // The server's challenge, of its real numbers.
                assert!(talk.server(ACK, 5001, 1001, b""), "{:?}", lab.reasons());
            }
            assert!(talk.client(ACK, 1001, 5001, b"alive"));
            assert!(talk.server(ACK, 5001, 1006, b"alive"));
            // A client that really began anew resets by the challenge's number, and opens.
            assert!(talk.client(SYN, 70_000, 0, b""));
            assert!(talk.server(ACK, 5006, 1006, b""));
            assert!(talk.client(RST, 1006, 0, b""), "{:?}", lab.reasons());
            assert_eq!(talk.state(), "reset");
            assert!(talk.client(SYN, 70_000, 0, b""));
            assert_eq!(talk.state(), "syn-sent");
        });
    }
}

/// RFC 5961 §3: a number inside of the window is not enough, it has to be the next one.
#[test]
fn a_blind_reset_inside_of_the_window_ends_nothing() {
    for gateway in ["", "[conntrack]\ntcp_strict = true\n"] {
        with(gateway, |lab| {
            let talk = Conversation::new(lab, 4103);
            talk.establish();
            for guess in [1002, 1500, 60_000, 1000, 0x8000_0000] {
                talk.client(RST, guess, 0, b"");
                talk.client(RST | ACK, guess, 5001, b"");
                assert_eq!(talk.state(), "established", "{guess}");
            }
            for guess in [5002, 6000] {
                talk.server(RST, guess, 0, b"");
                assert_eq!(talk.state(), "established", "{guess}");
            }
            assert!(talk.client(ACK, 1001, 5001, b"alive"));
            assert!(talk.server(RST, 5001, 0, b""));
            assert_eq!(talk.state(), "reset");
        });
    }
}

/// RFC 5961 §5: data with any acknowledgment moves nothing, and goes nowhere under `tcp_strict`.
#[test]
fn blind_data_and_blind_fins_move_nothing() {
    let strict = "[conntrack]\ntcp_strict = true\n";
    for (gateway, passes) in [("", true), (strict, false)] {
        with(gateway, |lab| {
            let talk = Conversation::new(lab, 4104);
            talk.establish();
            assert_eq!(talk.client(ACK, 0x4000_0000, 5001, b"evil"), passes);
            assert_eq!(talk.client(ACK, 1001, 0x9000_0000, b"evil"), passes);
            assert_eq!(talk.server(ACK, 0x9000_0000, 1001, b"evil"), passes);
            assert_eq!(talk.client(FIN | ACK, 0x4000_0000, 5001, b""), passes);
            assert_eq!(talk.server(FIN | ACK, 0x9000_0000, 1001, b""), passes);
            assert_eq!(talk.state(), "established");
            // What the ends really say fits what they said before.
            assert!(talk.client(ACK, 1001, 5001, b"alive"));
            assert!(talk.server(ACK, 5001, 1006, b"alive"));
            assert!(talk.client(FIN | ACK, 1006, 5006, b""));
            assert_eq!(talk.state(), "closing");
        });
    }
}

/// A tombstone takes its time: the same SYN again is no new connection, another is.
#[test]
fn a_tombstone_lasts_as_long_as_configured() {
    let gateway = "[conntrack.timeouts]\ntcp_reset = 2\n";
    with(gateway, |lab| {
        let talk = Conversation::new(lab, 4105);
        talk.establish();
        assert!(talk.server(RST, 5001, 0, b""));
        lab.expect_dropped("invalid", || {
            assert!(!talk.client(ACK, 1001, 5001, b"late"));
        });
        assert_eq!(talk.state(), "reset");
        std::thread::sleep(std::time::Duration::from_millis(3300));
        assert_eq!(talk.state(), "none");
        // Nothing is known of it any more: by `tcp_pickup` the rules decide.
        assert!(talk.client(ACK, 1001, 5001, b"late"));
    });
}

#[test]
fn two_questions_and_two_answers_make_a_stream() {
    let rules = r#"ingress = [{ protocol = "udp", ports = 53, from = ["10.7.0.0/24"] }]
        egress = []"#;
    let gateway = "[conntrack.timeouts]\nudp = 31\nudp_stream = 170\n";
    let plan = Plan {
        policy: &ghostly(rules),
        gateway,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let [far, own] = GHOSTS[0].map(address);
        let ask = || assert!(lab.crosses(Side::Outside, &udp((far, 5), (own, 53), b"?")));
        let answer = || assert!(lab.crosses(Side::Inside, &udp((own, 53), (far, 5), b"!")));
        let is = |state: &str, seconds: u64| {
            let flow = &lab.json(&["flows", "--json"])[0];
            assert_eq!(flow["state"], state, "{flow}");
            let left = flow["expires_in_seconds"].as_f64().expect("a number");
            assert!(
                left > seconds as f64 - 10.0 && left <= seconds as f64 + 0.1,
                "{flow}"
            );
        };
        ask();
        ask();
        is("udp", 31);
        answer();
        is("udp", 31);
        answer();
        is("udp-stream", 170);
    });
}

#[test]
fn an_echo_of_ipv6_is_known_by_its_id_too() {
    let rules = r#"ingress = []
        egress = [{ protocol = "icmpv6", type = 128, to = ["2001:db8:7:0::/64"] }]"#;
    let plan = Plan {
        policy: &ghostly(rules),
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let [far, own] = GHOSTS[1].map(address);
        let comes_in = |kind, id| lab.crosses(Side::Outside, &echo(far, own, kind, id));
        assert!(!comes_in(129, 7), "a reply to nothing");
        assert!(lab.crosses(Side::Inside, &echo(own, far, 128, 7)));
        assert!(!comes_in(129, 8), "another id");
        assert!(!comes_in(128, 7), "a request of the other side");
        assert!(comes_in(129, 7));
    });
}

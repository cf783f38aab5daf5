//! TCP connections as scripts: one segment a line, with what is expected of it.
//!
//! `> SA seq=0 ack=1 win=100 ws=7 len=10 : pass established`: the side (`>` opener), flags,
//! numbers relative to the sides' first ones, what happens, and the state after it (`-`: no
//! entry). `+30`: seconds pass. Every script runs at several first sequence numbers, those about
//! to wrap among them.

use super::*;

const FIRST_NUMBERS: [(u32, u32); 4] = [
    (1_000, 2_000_000_000),
    (0xffff_fffe, 0x7fff_fff0),
    (u32::MAX, 0),
    (0x8000_0000, 0xffff_ff00),
];

fn run(script: &str) {
    run_with(config(16), script);
}

fn run_strict(script: &str) {
    let config = ShardConfig {
        tcp_strict: true,
        ..config(16)
    };
    run_with(config, script);
}

fn run_with(config: ShardConfig, script: &str) {
    for first in FIRST_NUMBERS {
        let mut shard = Shard::new(&config, seconds(1));
        let mut now = seconds(1);
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            if let Some(by) = line.strip_prefix('+') {
                now = now + Duration::from_millis((by.parse::<f64>().unwrap() * 1e3) as u64);
                continue;
            }
            let (segment, expected) = line.split_once(" : ").expect(line);
            let packet = parse(segment, first);
            let outcome = step(&mut shard, &packet, now);
            let state = view(&shard, &packet, now).map_or("-", |view| view.state.name());
            let found = format!("{outcome} {state}");
            assert_eq!(found, expected.trim(), "{line:?} with {first:?}");
            shard.check();
        }
    }
}

fn parse(text: &str, (opener, other): (u32, u32)) -> IpPacket {
    let mut words = text.split_whitespace();
    let is_opener = words.next() == Some(">");
    let flags = words.next().unwrap().chars().map(|flag| match flag {
        'S' => TcpFlags::SYN,
        'A' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        '.' => 0,
        _ => panic!("{text:?}"),
    });
    let mut s = segment(flags.sum(), 0, 0);
    let (mine, its) = if is_opener {
        (opener, other)
    } else {
        (other, opener)
    };
    for word in words {
        let (name, value) = word.split_once('=').expect(text);
        let value = value.parse::<i64>().unwrap();
        match name {
            "seq" => s.sequence = mine.wrapping_add(value as u32),
            "ack" => s.acknowledgment = its.wrapping_add(value as u32),
            "win" => s.window = value as u16,
            "ws" => s.window_scale = Some(value as u8),
            "len" => s.payload_len = value as u32,
            _ => panic!("{text:?}"),
        }
    }
    if !is_opener {
        std::mem::swap(&mut s.source_port, &mut s.destination_port);
    }
    let addresses = if is_opener {
        v4(0x0a00_0001, 0xc000_0201)
    } else {
        v4(0xc000_0201, 0x0a00_0001)
    };
    packet(addresses, protocol::TCP, Transport::Tcp(s))
}

fn step(shard: &mut Shard, packet: &IpPacket, now: Tick) -> &'static str {
    let Some(index) = find(shard, packet, now) else {
        return match shard.admission(packet) {
            Admission::Open => {
                open(shard, packet, now).unwrap();
                "open"
            }
            Admission::PassOnly => "judge",
            Admission::Refuse => "refuse",
        };
    };
    match track(shard, packet, now).unwrap() {
        Track::Pass => "pass",
        Track::Invalid => "invalid",
        Track::Reopen => {
            let (_, from) = key_of(packet);
            shard.reopen(index, &new_flow(from), packet, 60, now);
            "reopen"
        }
    }
}

/// A handshake without window scale, windows of 65,535.
const HANDSHAKE: &str = "
    > S  seq=0       : open syn-sent
    < SA seq=0 ack=1 : pass syn-received
    > A  seq=1 ack=1 : pass established
";

fn after_handshake(script: &str) -> String {
    format!("{HANDSHAKE}{script}")
}

#[test]
fn connection_opens_carries_data_and_closes() {
    run(&after_handshake(
        "> A  seq=1 ack=1 len=100     : pass established
         < A  seq=1 ack=101 len=1000  : pass established
         > FA seq=101 ack=1001        : pass closing
         < A  seq=1001 ack=102        : pass closing
         < FA seq=1001 ack=102        : pass closing
         > A  seq=102 ack=1002        : pass time-wait",
    ));
}

#[test]
fn half_closed_connection_carries_data_the_other_way() {
    run(&after_handshake(
        "> FA seq=1 ack=1            : pass closing
         +59
         < A  seq=1 ack=2 len=1000   : pass closing
         +59
         > A  seq=2 ack=1001         : pass closing
         < A  seq=1001 ack=2 len=500 : pass closing
         < FA seq=1501 ack=2         : pass closing
         > A  seq=2 ack=1502         : pass time-wait",
    ));
}

#[test]
fn both_sides_close_at_once() {
    run(&after_handshake(
        "> FA seq=1 ack=1 : pass closing
         < FA seq=1 ack=1 : pass closing
         > A  seq=2 ack=2 : pass closing
         < A  seq=2 ack=2 : pass time-wait",
    ));
}

#[test]
fn fin_with_the_last_handshake_ack_closes() {
    run("> S  seq=0       : open syn-sent
         < SA seq=0 ack=1 : pass syn-received
         > FA seq=1 ack=1 : pass closing
         < FA seq=1 ack=2 : pass closing
         > A  seq=2 ack=2 : pass time-wait");
}

#[test]
fn simultaneous_open_is_established_when_both_syns_are_acked() {
    run("> S  seq=0       : open syn-sent
         < S  seq=0       : pass syn-received
         > SA seq=0 ack=1 : pass syn-received
         < SA seq=0 ack=1 : pass established
         > A  seq=1 ack=1 len=5 : pass established");
}

#[test]
fn repeated_syn_restarts_the_timer() {
    run("> S  seq=0 : open syn-sent
         +20
         > S  seq=0 : pass syn-sent
         +29
         < SA seq=0 ack=1 : pass syn-received");
}

#[test]
fn syn_with_another_number_on_a_half_open_flow_is_judged() {
    run("> S  seq=0 : open syn-sent
         > S  seq=77777 : reopen syn-sent
         < SA seq=0 ack=77778 : pass syn-received
         > S  seq=5 : pass syn-received
         < SA seq=9 ack=6 : invalid reset
         > S  seq=5 : reopen syn-sent");
}

#[test]
fn unanswered_syn_is_gone_after_its_timeout() {
    run("> S seq=0 : open syn-sent
         +30.04
         < SA seq=0 ack=1 : open syn-received");
}

#[test]
fn syn_ack_of_the_wrong_side_or_number_is_no_answer() {
    run("> S  seq=0 : open syn-sent
         > SA seq=0 ack=1 : invalid syn-sent
         < SA seq=0 ack=2 : invalid syn-sent
         < SA seq=0 ack=0 : invalid syn-sent
         < FSA seq=0 ack=1 : invalid syn-sent");
}

#[test]
fn challenge_ack_to_a_syn_passes_and_answers_nothing() {
    run("> S seq=0 : open syn-sent
         < A seq=900 ack=5555 : pass syn-sent
         > R seq=5555 : pass syn-sent
         +30.04
         < A seq=900 ack=5555 : open established");
}

#[test]
fn data_after_a_syn_in_data_fast_open_is_acked() {
    run("> S  seq=0 len=100 : open syn-sent
         < SA seq=0 ack=101 : pass syn-received
         > A  seq=101 ack=1 : pass established");
    run("> S  seq=0 len=100 : open syn-sent
         < SA seq=0 ack=1 : pass syn-received
         > A  seq=1 ack=1 len=100 : pass established");
}

#[test]
fn refused_connection_is_a_tombstone() {
    run("> S  seq=0       : open syn-sent
         < RA seq=0 ack=1 : pass reset
         > S  seq=0       : invalid reset
         < SA seq=0 ack=1 : invalid reset
         > S  seq=4242    : reopen syn-sent");
}

#[test]
fn reset_that_does_not_ack_the_syn_closes_nothing() {
    run("> S  seq=0        : open syn-sent
         < R  seq=0        : pass syn-sent
         < RA seq=0 ack=2  : pass syn-sent
         < RA seq=0 ack=0  : pass syn-sent
         > R  seq=2        : pass syn-sent
         > R  seq=1        : pass reset");
}

#[test]
fn exact_reset_closes_and_nothing_passes_after_it() {
    run(&after_handshake(
        "> A  seq=1 ack=1 len=10 : pass established
         < R  seq=1              : pass reset
         > A  seq=11 ack=1       : invalid reset
         < A  seq=1 ack=11       : invalid reset
         < R  seq=1              : invalid reset
         > FA seq=11 ack=1       : invalid reset
         +9.9
         > A  seq=11 ack=1       : invalid reset
         +0.2
         > A  seq=11 ack=1       : open established",
    ));
}

#[test]
fn reset_between_last_ack_and_last_byte_leaves_a_tombstones_time() {
    for seq in [2, 1001] {
        run(&after_handshake(&format!(
            "> A seq=1 ack=1 len=1000 : pass established
             > R seq={seq}            : pass established
             +9.9
             < A seq=1 ack=1          : pass established
             +349
             > R seq={seq}            : pass established
             +10.02
             < A seq=1 ack=1          : open established",
        )));
    }
    run(&after_handshake(
        "> A seq=1 ack=1 len=1000 : pass established
         > R seq=0 : pass established
         > R seq=1002 : pass established
         > R seq=30000 : pass established
         > R seq=-70000 : pass established
         +349
         < A seq=1 ack=501 : pass established
         > R seq=500 : pass established
         > R seq=501 : pass reset",
    ));
}

#[test]
fn blind_reset_and_fin_do_not_close() {
    run(&after_handshake(
        "< R  seq=60000           : pass established
         < R  seq=1000000000      : pass established
         < FA seq=1000000000 ack=1 : pass established
         < FA seq=1 ack=900000    : pass established
         > F  seq=1               : pass established
         > A  seq=1 ack=1 len=1   : pass established",
    ));
}

#[test]
fn strict_drops_what_is_outside_of_the_window() {
    run_strict(&after_handshake(
        "> A  seq=1 ack=1 len=1000    : pass established
         > A  seq=65537 ack=1 len=1   : invalid established
         > A  seq=65536 ack=1 len=1   : pass established
         > A  seq=-65535 ack=1 len=1  : invalid established
         < A  seq=1 ack=70000         : invalid established
         < A  seq=1 ack=-66000        : invalid established
         < R  seq=2                   : invalid established
         < FA seq=1000000 ack=1       : invalid established
         < .  seq=1                   : invalid established
         > S  seq=500000              : pass established
         < A  seq=1 ack=1001          : pass established
         < R  seq=1                   : pass reset",
    ));
}

#[test]
fn window_scale_counts_only_if_both_sides_offer_it() {
    run_strict(
        "> S  seq=0 win=64240 ws=7       : open syn-sent
         < SA seq=0 ack=1 win=65160 ws=7 : pass syn-received
         > A  seq=1 ack=1 win=502        : pass established
         < A  seq=1 ack=1 win=510        : pass established
         > A  seq=65281 ack=1 win=502    : pass established
         > A  seq=65282 ack=1 win=502    : invalid established
         < A  seq=64257 ack=1 win=510    : pass established
         < A  seq=64258 ack=1            : invalid established",
    );
    run_strict(
        "> S  seq=0 win=1000 ws=7    : open syn-sent
         < SA seq=0 ack=1 win=2000   : pass syn-received
         > A  seq=1 ack=1 win=1000   : pass established
         > A  seq=2002 ack=1 win=1000 : invalid established
         < A  seq=1002 ack=1 win=2000 : invalid established",
    );
}

#[test]
fn nothing_follows_a_fin() {
    run_strict(&after_handshake(
        "> FA seq=1 ack=1       : pass closing
         > A  seq=2 ack=1 len=1 : invalid closing
         > FA seq=1 ack=1       : pass closing
         > FA seq=2 ack=1       : invalid closing",
    ));
}

#[test]
fn data_outside_of_the_window_passes_and_keeps_the_flow() {
    run(&after_handshake(
        "+349
         > A seq=1000000000 ack=1 len=10 : pass established
         +349
         < A seq=1 ack=1 len=10 : pass established",
    ));
}

#[test]
fn time_wait_passes_one_answer_to_each_exact_repeated_fin() {
    run(&after_handshake(
        "> FA seq=1 ack=1 : pass closing
         < FA seq=1 ack=2 : pass closing
         > A  seq=2 ack=2 : pass time-wait
         > A  seq=2 ack=2 : invalid time-wait
         < FA seq=1 ack=2 : pass time-wait
         > A  seq=2 ack=2 : pass time-wait
         > A  seq=2 ack=2 : invalid time-wait
         < FA seq=1 ack=2 : pass time-wait
         > A  seq=2 ack=2 len=1 : invalid time-wait
         > A  seq=2 ack=1 : invalid time-wait
         > R  seq=3       : invalid time-wait
         > R  seq=2       : pass time-wait
         > R  seq=2       : invalid time-wait
         < FA seq=0 ack=2 : invalid time-wait
         < A  seq=2 ack=2 len=5 : invalid time-wait",
    ));
}

#[test]
fn time_wait_passes_data_that_is_repeated_before_the_fin() {
    run(&after_handshake(
        "> FA seq=1 ack=1            : pass closing
         < A  seq=1 ack=2 len=100    : pass closing
         < FA seq=101 ack=2          : pass closing
         > A  seq=2 ack=102          : pass time-wait
         < A  seq=1 ack=2 len=100    : pass time-wait
         > A  seq=2 ack=102          : pass time-wait
         > A  seq=2 ack=102          : invalid time-wait
         < A  seq=1 ack=1 len=100    : invalid time-wait
         < A  seq=100 ack=2 len=3    : invalid time-wait
         < A  seq=-70000 ack=2 len=1 : invalid time-wait",
    ));
}

#[test]
fn tombstone_timer_never_restarts() {
    run(&after_handshake(
        "> FA seq=1 ack=1 : pass closing
         < FA seq=1 ack=2 : pass closing
         > A  seq=2 ack=2 : pass time-wait
         +20
         < FA seq=1 ack=2 : pass time-wait
         > A  seq=2 ack=2 : pass time-wait
         +9.9
         < A  seq=2 ack=2 : invalid time-wait
         +0.2
         < A  seq=2 ack=2 : open established",
    ));
}

#[test]
fn new_syn_reopens_a_tombstone_from_either_side_and_the_old_one_does_not() {
    let closed = after_handshake(
        "> FA seq=1 ack=1 : pass closing
         < FA seq=1 ack=2 : pass closing
         > A  seq=2 ack=2 : pass time-wait
         > S  seq=0       : invalid time-wait
        ",
    );
    run(&format!("{closed} > S seq=1 : reopen syn-sent"));
    run(&format!("{closed} > S seq=-5 : reopen syn-sent"));
    run(&format!(
        "{closed}
         < S  seq=80000 : reopen syn-sent
         > SA seq=90000 ack=80001 : pass syn-received
         < A  seq=80001 ack=90001 : pass established"
    ));
}

#[test]
fn syn_in_a_connection_changes_nothing_and_its_challenge_passes() {
    run(&after_handshake(
        "+340
         > S seq=500000   : pass established
         < A seq=1 ack=1  : pass established
         > R seq=1        : pass reset
         > S seq=500000   : reopen syn-sent",
    ));
    run(&after_handshake(
        "+340
         > S seq=500000 : pass established
         +11
         < A seq=1 ack=1 : open established",
    ));
}

#[test]
fn another_connection_cannot_ride_on_an_entry() {
    run(&after_handshake(
        "> S  seq=500000           : pass established
         < SA seq=9000 ack=500001  : invalid reset
         > A  seq=500001 ack=9001  : invalid reset
         > S  seq=500000           : reopen syn-sent
         < SA seq=9000 ack=500001  : pass syn-received",
    ));
}

#[test]
fn connection_cannot_be_reset_by_syn_acks_of_one_side() {
    run(&after_handshake(
        "< S  seq=500000           : pass established
         < SA seq=9000 ack=500001  : invalid established
         < SA seq=9000 ack=77      : invalid established
         < SA seq=0 ack=1          : pass established
         > SA seq=0 ack=1          : pass established
         > SA seq=3 ack=500001     : invalid reset",
    ));
}

#[test]
fn mid_stream_pickup_learns_and_closes() {
    run("> A  seq=100 ack=900 len=50 : open established
         < A  seq=900 ack=150 len=10 : pass established
         > FA seq=150 ack=910        : pass closing
         < FA seq=910 ack=151        : pass closing
         > A  seq=151 ack=911        : pass time-wait");
    run("> A seq=100 ack=900 len=50 : open established
         < R seq=901 : pass established
         < R seq=900 : pass reset
         > S seq=0 : reopen syn-sent");
    run("> FA seq=100 ack=900 : open closing
         < FA seq=900 ack=101 : pass closing
         > A  seq=101 ack=901 : pass time-wait");
}

#[test]
fn pickup_without_scale_takes_windows_as_the_largest() {
    run_strict(
        "> A seq=100 ack=900 win=10 : open established
         < A seq=900 ack=100 win=10 : pass established
         > A seq=1000100 ack=900 win=10 : pass established
         < A seq=5000900 ack=100 win=10 : pass established
         > A seq=1500000000 ack=900 : invalid established
         > R seq=1500000000 : invalid established",
    );
}

#[test]
fn strict_binds_a_picked_up_connection_once_both_sides_agree() {
    // The first segment was somebody else's: no side's numbers fit what it said.
    run_strict(
        "> A seq=1500000000 ack=-1500000000 len=5 : open established
         > A seq=100 ack=900 len=50               : pass established
         < A seq=900 ack=150 len=50               : pass established
         < R seq=5                                : pass established
         > A seq=150 ack=950                      : pass established",
    );
}

#[test]
fn picked_up_window_grows_with_what_is_in_flight() {
    // The opener is four megabytes ahead of what the other side has acknowledged.
    run("> A  seq=4000000 ack=900 len=1000 : open established
         < A  seq=900 ack=1000             : pass established
         > A  seq=4001000 ack=900 len=1000 : pass established
         < A  seq=900 ack=20000            : pass established
         > A  seq=4002000 ack=900 len=1000 : pass established
         < A  seq=900 ack=4003000          : pass established
         > R  seq=4003000                  : pass reset");
}

#[test]
fn what_begins_no_connection_opens_nothing() {
    run("> R  seq=0 : judge -
         > RA seq=0 ack=1 : judge -
         > F  seq=0 : judge -
         > .  seq=0 : judge -
         > SF seq=0 : judge -
         > SFA seq=0 ack=1 : judge -");
}

#[test]
fn syn_only_refuses_all_but_a_syn() {
    let config = ShardConfig {
        tcp_pickup: TcpPickup::SynOnly,
        ..config(4)
    };
    run_with(
        config,
        "> A  seq=0 ack=1 : refuse -
         > SA seq=0 ack=1 : refuse -
         > R  seq=0       : refuse -
         > F  seq=0       : refuse -
         > S  seq=0       : open syn-sent",
    );
}

#[test]
fn blind_syn_in_the_handshake_does_not_make_the_gateway_forget_it() {
    // Somebody who knows addresses and ports sends a SYN as the opener. The server answers with a
    // challenge ACK (RFC 5961 §4) and goes on with the handshake.
    run("
        > S  seq=0                : open syn-sent
        < SA seq=0 ack=1          : pass syn-received
        > S  seq=77777777         : pass syn-received
        < A  seq=1 ack=1          : pass syn-received
        > A  seq=1 ack=1          : pass established
        > A  seq=1 ack=1 len=100  : pass established
        < A  seq=1 ack=101        : pass established
        +31
        < A  seq=1 ack=101 len=10 : pass established
    ");
}

#[test]
fn blind_syn_of_the_other_side_does_not_shrink_the_windows() {
    // A simultaneous open that is none: somebody speaks as the server before it answers.
    run_strict(
        "
        > S  seq=0 ws=7 win=65000              : open syn-sent
        < S  seq=5000000 win=1                 : pass syn-received
        < SA seq=0 ack=1 ws=7 win=65000        : pass syn-received
        > A  seq=1 ack=1 len=1000 win=500      : pass established
        > A  seq=1001 ack=1 len=1000 win=500   : pass established
    ",
    );
}

#[test]
fn blind_fin_does_not_move_a_connection_that_was_picked_up() {
    run("
        > A seq=1000 ack=1000 len=100           : open established
        < A seq=1000 ack=1100 len=100           : pass established
        > FA seq=900000000 ack=-900000000       : pass established
    ");
}

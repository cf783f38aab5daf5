//! Timers, deadlines and what happens at the edges of a flow's life.

use super::*;
use crate::packet::{Family, KeyKind};

const CLIENT: (u32, u16) = (0x0a00_0001, 5_000);
const SERVER: (u32, u16) = (0x0a00_0002, 53);

fn shard(max_flows: u32) -> Shard {
    Shard::new(&config(max_flows), seconds(0))
}

#[test]
fn udp_becomes_a_stream_with_the_second_request_and_response() {
    let mut shard = shard(4);
    let (request, response) = (udp(CLIENT, SERVER), udp(SERVER, CLIENT));
    open(&mut shard, &request, seconds(0)).unwrap();
    let state = |shard: &Shard| view(shard, &request, seconds(0)).unwrap().state;
    for (packet, expected) in [
        (&request, FlowState::Udp),
        (&request, FlowState::Udp),
        (&response, FlowState::Udp),
        (&response, FlowState::UdpStream),
    ] {
        assert_eq!(track(&mut shard, packet, seconds(0)), Some(Track::Pass));
        assert_eq!(state(&shard), expected);
    }
    assert!(find(&shard, &request, seconds(179)).is_some());
    assert!(find(&shard, &request, seconds(181)).is_none());
}

#[test]
fn expired_flow_is_absent_before_the_sweep_comes_to_it() {
    let mut shard = shard(4);
    let request = udp(CLIENT, SERVER);
    open(&mut shard, &request, seconds(0)).unwrap();
    assert!(find(&shard, &request, seconds(29)).is_some());
    assert!(find(&shard, &request, seconds(31)).is_none());
    assert!(view(&shard, &request, seconds(31)).is_none());
    assert_eq!(shard.len(), 1);
    assert_eq!(shard.expire(seconds(31)), 1);
    assert_eq!((shard.len(), shard.stats().expired), (0, 1));
    shard.check();
}

#[test]
fn hit_moves_the_deadline_without_touching_the_timer() {
    let mut shard = shard(4);
    let request = udp(CLIENT, SERVER);
    open(&mut shard, &request, seconds(0)).unwrap();
    for now in (20..200).step_by(20) {
        assert_eq!(track(&mut shard, &request, seconds(now)), Some(Track::Pass));
        assert_eq!(shard.expire(seconds(now)), 0);
        shard.check();
    }
    assert_eq!(shard.expire(seconds(215)), 1);
}

#[test]
fn key_of_an_expired_flow_opens_again_in_its_entry() {
    let mut shard = shard(4);
    let request = udp(CLIENT, SERVER);
    let first = open(&mut shard, &request, seconds(0)).unwrap();
    let second = open(&mut shard, &udp(SERVER, CLIENT), seconds(100)).unwrap();
    assert_eq!((first, shard.len()), (second, 1));
    let view = view(&shard, &request, seconds(100)).unwrap();
    assert_eq!((view.sent.packets, view.answered.packets), (1, 0));
    assert_eq!(view.head.opener, key_of(&udp(SERVER, CLIENT)).1);
    assert_eq!((shard.stats().opened, shard.stats().expired), (2, 1));
    shard.check();
}

#[test]
fn full_table_refuses_and_keeps_what_it_has() {
    let mut shard = shard(3);
    for port in 0..3 {
        open(&mut shard, &udp((1, port), SERVER), seconds(0)).unwrap();
        track(&mut shard, &udp(SERVER, (1, port)), seconds(0)).unwrap();
    }
    assert_eq!(
        open(&mut shard, &udp((1, 9), SERVER), seconds(1)),
        Err(OpenError::Full)
    );
    assert_eq!(shard.stats().refused, 1);
    for port in 0..3 {
        let reply = udp(SERVER, (1, port));
        assert_eq!(track(&mut shard, &reply, seconds(1)), Some(Track::Pass));
    }
    shard.check();
}

#[test]
fn full_table_takes_back_expired_entries_at_once() {
    let mut shard = shard(3);
    for port in 0..3 {
        open(&mut shard, &udp((1, port), SERVER), seconds(0)).unwrap();
    }
    assert!(open(&mut shard, &udp((1, 9), SERVER), seconds(40)).is_ok());
    assert_eq!((shard.len(), shard.stats().refused), (1, 0));
    shard.check();
}

#[test]
fn end_frees_the_entry_and_a_stale_number_does_no_harm() {
    let mut shard = shard(2);
    let request = udp(CLIENT, SERVER);
    let index = open(&mut shard, &request, seconds(0)).unwrap();
    shard.end(index);
    shard.check();
    assert!(shard.is_empty() && find(&shard, &request, seconds(0)).is_none());
    let (_, from) = key_of(&request);
    let stale = [index, FlowIndex(1), FlowIndex(2), FlowIndex(u32::MAX)];
    for index in stale {
        let tracked = shard.track(index, &request, from, 60, seconds(0));
        assert_eq!(tracked, Track::Invalid);
        assert!(shard.head(index).is_tombstone);
        shard.reopen(index, &new_flow(from), &request, 60, seconds(0));
        shard.restamp(index, Generation(9), FlowClass::Tracked, None);
        shard.end(index);
        shard.check();
    }
    assert_eq!((shard.len(), shard.stats().ended), (0, 1));
}

#[test]
fn leap_of_days_costs_a_bounded_turn_and_loses_no_flow() {
    let count = EXPIRE_PER_TURN_MAX * 10;
    let mut shard = shard(count);
    for number in 0..count {
        open(&mut shard, &udp((number, 1), SERVER), seconds(0)).unwrap();
    }
    let now = seconds(20 * 86_400);
    let mut turns = 0;
    while !shard.is_empty() {
        assert!(shard.expire(now) <= EXPIRE_PER_TURN_MAX);
        turns += 1;
        assert!(turns <= 11, "entries that the sweep does not find");
    }
    shard.check();
}

#[test]
fn flow_of_five_days_outlives_many_laps_and_then_ends() {
    let mut config = config(8);
    config.timeouts.udp = Duration::from_secs(9_999_999);
    let mut shard = Shard::new(&config, seconds(0));
    open(&mut shard, &udp(CLIENT, SERVER), seconds(0)).unwrap();
    let mut now = 0;
    while now < 432_000 {
        assert_eq!(shard.expire(seconds(now)), 0);
        shard.check();
        now += 977;
    }
    assert!(find(&shard, &udp(CLIENT, SERVER), seconds(431_999)).is_some());
    assert_eq!(
        shard.expire(seconds(432_001)),
        1,
        "cut to the longest timeout"
    );
}

#[test]
fn flows_opened_between_leaps_expire_on_time() {
    // Leaps of half an hour to a year, so that 16-bit timers wrap in every way.
    for leap in [
        1_800, 2_199, 2_200, 4_400, 8_796, 17_592, 86_400, 31_536_000,
    ] {
        let mut shard = shard(64);
        let mut now = 0;
        for turn in 0..200u32 {
            now += leap;
            open(&mut shard, &udp((turn, 1), SERVER), seconds(now)).unwrap();
            shard.expire(seconds(now));
            shard.check();
            assert!(
                shard.len() <= 2,
                "leap {leap}: {} flows are left",
                shard.len()
            );
        }
    }
}

#[test]
fn clock_at_its_end_still_works() {
    let mut shard = shard(4);
    let now = Tick(u64::MAX);
    open(&mut shard, &udp(CLIENT, SERVER), now).unwrap();
    assert!(find(&shard, &udp(CLIENT, SERVER), now).is_some());
    shard.expire(now);
    shard.check();
}

#[test]
fn dead_flow_is_dead_for_two_years_without_a_sweep() {
    let mut config = config(4);
    config.timeouts.udp = TIMEOUT_MAX;
    for start in [0, 36_028_790, 72_057_590, 144_115_180] {
        let mut shard = Shard::new(&config, seconds(start));
        open(&mut shard, &udp(CLIENT, SERVER), seconds(start)).unwrap();
        for later in [0, 1, 431_999] {
            assert!(find(&shard, &udp(CLIENT, SERVER), seconds(start + later)).is_some());
        }
        for later in [432_001, 1_125_000, 36_028_797, 63_072_000] {
            assert!(find(&shard, &udp(CLIENT, SERVER), seconds(start + later)).is_none());
        }
    }
}

#[test]
fn only_a_live_flow_relates_to_errors() {
    let mut shard = shard(4);
    let tcp = |flags, sequence| {
        let transport = Transport::Tcp(segment(flags, sequence, 0));
        packet(v4(1, 2), protocol::TCP, transport)
    };
    let syn = tcp(TcpFlags::SYN, 0);
    let (_, from) = key_of(&syn);
    let index = open(&mut shard, &syn, seconds(0)).unwrap();
    assert!(shard.can_relate(index, &syn, from, seconds(29)));
    assert!(!shard.can_relate(index, &syn, from, seconds(31)));
    for (sequence, relates) in [(1, true), (2, false), (70_000, false), (1 << 31, false)] {
        let quoted = tcp(TcpFlags::ACK, sequence);
        let found = shard.can_relate(index, &quoted, from, seconds(1));
        assert_eq!(found, relates, "{sequence}");
    }
    track(&mut shard, &tcp(TcpFlags::RST, 1), seconds(0)).unwrap();
    assert!(!shard.can_relate(index, &syn, from, seconds(1)));
    assert!(!shard.can_relate(FlowIndex(3), &syn, from, seconds(1)));
}

#[test]
fn untracked_flow_is_stopped_by_nothing() {
    let mut config = config(4);
    config.tcp_strict = true;
    let mut shard = Shard::new(&config, seconds(0));
    let tcp = |flags, sequence, ack| {
        let transport = Transport::Tcp(segment(flags, sequence, ack));
        packet(v4(1, 2), protocol::TCP, transport)
    };
    let syn = tcp(TcpFlags::SYN, 0, 0);
    let (key, from) = key_of(&syn);
    let mut new = new_flow(from);
    new.class = FlowClass::Untracked;
    let hash = shard.hash(&key);
    let index = shard.open(&key, hash, &new, &syn, 60, seconds(0)).unwrap();
    assert_eq!(shard.head(index).class, FlowClass::Untracked);
    // Outside of the window, and a SYN-ACK that answers nothing.
    assert_eq!(
        track(&mut shard, &tcp(TcpFlags::ACK, 1 << 30, 5), seconds(0)),
        Some(Track::Pass)
    );
    let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
    assert_eq!(
        track(&mut shard, &tcp(syn_ack, 9, 9), seconds(0)),
        Some(Track::Pass)
    );
    // After the close, every packet is judged again.
    assert_eq!(
        track(&mut shard, &tcp(TcpFlags::RST, 1, 0), seconds(0)),
        Some(Track::Pass)
    );
    assert!(shard.head(index).is_tombstone);
    let late = tcp(TcpFlags::ACK, 1, 1);
    assert_eq!(track(&mut shard, &late, seconds(0)), Some(Track::Reopen));
    shard.reopen(index, &new, &late, 60, seconds(0));
    assert_eq!(
        view(&shard, &late, seconds(0)).unwrap().state,
        FlowState::Established
    );
    shard.check();
}

#[test]
fn later_fragment_passes_with_its_flow_and_moves_nothing() {
    let mut shard = shard(4);
    let syn = packet(
        v4(1, 2),
        protocol::TCP,
        Transport::Tcp(segment(TcpFlags::SYN, 0, 0)),
    );
    let index = open(&mut shard, &syn, seconds(0)).unwrap();
    let (_, from) = key_of(&syn);
    let mut later = packet(v4(1, 2), protocol::TCP, Transport::Other);
    later.fragment = Fragment::Later {
        id: 1,
        offset: 8,
        len: 8,
        more: false,
    };
    assert_eq!(shard.admission(&later), Admission::PassOnly);
    assert_eq!(
        shard.track(index, &later, from, 60, seconds(20)),
        Track::Pass
    );
    assert_eq!(view(&shard, &syn, seconds(20)).unwrap().sent.packets, 2);
    assert!(
        find(&shard, &syn, seconds(31)).is_none(),
        "it has moved the deadline"
    );
    let rst = packet(
        v4(1, 2),
        protocol::TCP,
        Transport::Tcp(segment(TcpFlags::RST, 1, 0)),
    );
    assert_eq!(track(&mut shard, &rst, seconds(20)), Some(Track::Pass));
    assert_eq!(
        shard.track(index, &later, from, 60, seconds(20)),
        Track::Invalid
    );
}

#[test]
fn icmp_queries_of_both_sides_are_two_flows_and_replies_open_none() {
    let mut shard = shard(4);
    let icmp = |source, destination, kind| {
        let transport = Transport::Icmp {
            kind,
            code: 0,
            id: 77,
            target: None,
        };
        packet(v4(source, destination), protocol::ICMP, transport)
    };
    let (query, reply) = (icmp(1, 2, 8), icmp(2, 1, 0));
    assert_eq!(shard.admission(&query), Admission::Open);
    assert_eq!(shard.admission(&reply), Admission::PassOnly);
    assert_eq!(shard.admission(&icmp(1, 2, 3)), Admission::PassOnly);
    open(&mut shard, &query, seconds(0)).unwrap();
    for _ in 0..3 {
        assert_eq!(track(&mut shard, &reply, seconds(1)), Some(Track::Pass));
    }
    assert_eq!(track(&mut shard, &icmp(2, 1, 8), seconds(1)), None);
    assert_eq!(track(&mut shard, &icmp(1, 2, 0), seconds(1)), None);
    open(&mut shard, &icmp(2, 1, 8), seconds(1)).unwrap();
    assert_eq!(shard.len(), 2);
}

#[test]
fn icmp_query_of_another_code_begins_anew_and_replies_of_any_code_belong() {
    let mut shard = shard(4);
    let icmp = |source, destination, kind, code| {
        let transport = Transport::Icmp {
            kind,
            code,
            id: 77,
            target: None,
        };
        packet(v4(source, destination), protocol::ICMP, transport)
    };
    let index = open(&mut shard, &icmp(1, 2, 8, 9), seconds(0)).unwrap();
    assert_eq!(shard.head(index).query_code, 9);
    let mut step = |packet: &IpPacket| track(&mut shard, packet, seconds(1));
    assert_eq!(step(&icmp(1, 2, 8, 9)), Some(Track::Pass));
    assert_eq!(step(&icmp(1, 2, 8, 0)), Some(Track::Reopen));
    assert_eq!(step(&icmp(2, 1, 0, 9)), Some(Track::Pass));
    assert_eq!(step(&icmp(2, 1, 0, 0)), Some(Track::Pass));
    let other = icmp(1, 2, 8, 0);
    shard.reopen(index, &new_flow(key_of(&other).1), &other, 60, seconds(1));
    assert_eq!(shard.head(index).query_code, 0);
}

#[test]
fn ipv6_flows_that_share_their_low_halves_are_apart() {
    let mut shard = shard(8);
    let flow = |source, destination| {
        let addresses = Addresses::V6 {
            source,
            destination,
        };
        packet(addresses, 50, Transport::Other)
    };
    let flows = [
        flow(5, 9),
        flow(5 | 1 << 127, 9),
        flow(5, 9 | 1 << 64),
        flow(5 | 1 << 32, 9),
    ];
    for packet in &flows {
        assert_eq!(find(&shard, packet, seconds(0)), None);
        open(&mut shard, packet, seconds(0)).unwrap();
    }
    assert_eq!(
        find(&shard, &packet(v4(5, 9), 50, Transport::Other), seconds(0)),
        None
    );
    for packet in &flows {
        assert_eq!(
            view(&shard, packet, seconds(0)).unwrap().key,
            key_of(packet).0
        );
    }
    shard.check();
}

#[test]
fn find_compares_the_whole_key_even_under_the_same_hash() {
    let mut shard = shard(8);
    let addresses = Addresses::V6 {
        source: 5 << 64 | 1,
        destination: 9 << 64 | 2,
    };
    let ports = Transport::Udp {
        source_port: 3,
        destination_port: 4,
    };
    for addresses in [addresses, v4(1, 2)] {
        let packet = packet(addresses, protocol::UDP, ports);
        open(&mut shard, &packet, seconds(0)).unwrap();
        let (key, _) = key_of(&packet);
        let hash = shard.hash(&key);
        assert!(shard.find(&key, hash, seconds(0)).is_some());
        let others: [fn(&mut FlowKey); 12] = [
            |key| key.low ^= 1,
            |key| key.low ^= 1 << 64,
            |key| key.high ^= 1 << 127,
            |key| key.high ^= 2,
            |key| key.low_port ^= 1 << 15,
            |key| key.high_port ^= 1,
            |key| key.protocol = 6,
            |key| key.link = LinkId(0),
            |key| key.kind = KeyKind::QueryFromLow,
            |key| key.vlan.outer = Some(0),
            |key| key.vlan.inner = Some(0),
            |key| {
                key.family = match key.family {
                    Family::V4 => Family::V6,
                    Family::V6 => Family::V4,
                }
            },
        ];
        for (number, change) in others.iter().enumerate() {
            let mut other = key;
            change(&mut other);
            let is_v4 = other.family == Family::V4;
            if is_v4 && key.family == Family::V4 && (other.low | other.high) >> 32 != 0 {
                continue; // No IPv4 key has these bits.
            }
            assert_eq!(shard.find(&other, hash, seconds(0)), None, "{number}");
        }
    }
}

#[test]
fn key_and_head_come_back_as_they_went_in() {
    let mut shard = shard(64);
    let tags = [None, Some(0), Some(4_095)];
    for outer in tags {
        for inner in tags {
            let mut packet = udp((u32::MAX, 1), (0, u16::MAX));
            packet.vlan = VlanTags { outer, inner };
            let (key, from) = FlowKey::of(LinkId(63), &packet).unwrap();
            let new = NewFlow {
                rule: None,
                class: FlowClass::Unenforced,
                direction: Direction::Ingress,
                ..new_flow(from)
            };
            let hash = shard.hash(&key);
            let index = shard
                .open(&key, hash, &new, &packet, 9, seconds(0))
                .unwrap();
            let rule = Some(RuleSlot(u32::MAX));
            shard.restamp(index, Generation(u64::MAX), FlowClass::Unenforced, rule);
            let mut views = Vec::new();
            shard.scan(index.number(), 1, seconds(1), &mut |view| views.push(view));
            let [view] = views[..] else { panic!() };
            assert_eq!((view.key, view.sent.bytes, view.index), (key, 9, index));
            assert_eq!(
                view.head,
                FlowHead {
                    interface: InterfaceSlot(7),
                    rule: Some(RuleSlot(u32::MAX)),
                    generation_low: u32::MAX,
                    class: FlowClass::Unenforced,
                    direction: Direction::Ingress,
                    opener: from,
                    query_code: 0,
                    is_tombstone: false,
                }
            );
            shard.restamp(index, Generation(1), FlowClass::Untracked, None);
            let head = shard.head(index);
            assert_eq!((head.rule, head.class), (None, FlowClass::Untracked));
        }
    }
    assert_eq!(shard.len(), 9);
}

#[test]
fn counters_carry_past_their_hot_width() {
    let mut shard = shard(1);
    let request = udp(CLIENT, SERVER);
    let (_, from) = key_of(&request);
    let index = open(&mut shard, &request, seconds(0)).unwrap();
    for _ in 0..200_000u32 {
        shard.track(index, &request, from, 1 << 20, seconds(0));
    }
    let sent = view(&shard, &request, seconds(0)).unwrap().sent;
    assert_eq!(
        (sent.packets, sent.bytes),
        (200_001, 60 + (200_000u64 << 20))
    );
}

#[test]
fn view_tells_age_idle_and_what_is_left() {
    let mut shard = shard(1);
    let request = udp(CLIENT, SERVER);
    open(&mut shard, &request, seconds(100)).unwrap();
    track(&mut shard, &request, seconds(110)).unwrap();
    let view = view(&shard, &request, seconds(117)).unwrap();
    let near = |found: Duration, expected: u64, slack_ms: u64| {
        found.abs_diff(Duration::from_secs(expected)) <= Duration::from_millis(slack_ms)
    };
    assert!(near(view.age, 17, 2_200), "{:?}", view.age);
    assert!(near(view.idle, 7, 20), "{:?}", view.idle);
    assert!(near(view.expires_in, 23, 20), "{:?}", view.expires_in);
}

#[test]
fn scan_shows_each_live_flow_once_in_bounded_pages() {
    let mut shard = shard(100);
    for port in 0..50 {
        open(
            &mut shard,
            &udp((1, port), SERVER),
            seconds(u64::from(port)),
        )
        .unwrap();
    }
    let (mut cursor, mut ports) = (Some(0), Vec::new());
    while let Some(from) = cursor {
        let before = ports.len();
        let now = seconds(60) + Duration::from_millis(500);
        cursor = shard.scan(from, 7, now, &mut |view| {
            ports.push(view.key.low_port);
        });
        assert!(ports.len() - before <= 7);
    }
    assert_eq!(ports, (31..50).collect::<Vec<_>>());
}

//! A full table: who gives way, who never does, and what an interface may have of it.

use super::*;
use crate::types::FlowLimits;

const SERVER: (u32, u16) = (0xc000_0201, 443);

/// Client number `port`, and where its handshake is: how many of SYN, SYN-ACK and ACK it has seen.
fn connect(shard: &mut Shard, port: u16, segments: u32, now: Tick) {
    let [syn, syn_ack, ack] = handshake(port);
    open(shard, &syn, now).unwrap();
    for packet in [syn_ack, ack].iter().take(segments as usize - 1) {
        assert_eq!(track(shard, packet, now), Some(Track::Pass));
    }
}

fn handshake(port: u16) -> [IpPacket; 3] {
    [
        tcp(port, true, segment(TcpFlags::SYN, 0, 0)),
        tcp(port, false, segment(TcpFlags::SYN | TcpFlags::ACK, 0, 1)),
        tcp(port, true, segment(TcpFlags::ACK, 1, 1)),
    ]
}

/// A segment of client number `port` or of the server.
fn tcp(port: u16, is_client: bool, mut segment: TcpHeader) -> IpPacket {
    (segment.source_port, segment.destination_port) = (port, SERVER.1);
    let mut addresses = v4(0x0a00_0001, SERVER.0);
    if !is_client {
        std::mem::swap(&mut segment.source_port, &mut segment.destination_port);
        addresses = v4(SERVER.0, 0x0a00_0001);
    }
    packet(addresses, protocol::TCP, Transport::Tcp(segment))
}

fn open_as(shard: &mut Shard, packet: &IpPacket, class: FlowClass) -> Result<FlowIndex, OpenError> {
    let (key, from) = key_of(packet);
    let new = NewFlow {
        class,
        ..new_flow(from)
    };
    shard.open(&key, shard.hash(&key), &new, packet, 60, seconds(1))
}

fn is_there(shard: &Shard, port: u16) -> bool {
    find(shard, &handshake(port)[0], seconds(1)).is_some()
}

#[test]
fn flows_give_way_in_order_and_established_ones_never() {
    let mut shard = Shard::new(&config(6), seconds(1));
    open_as(&mut shard, &handshake(1)[0], FlowClass::Untracked).unwrap();
    connect(&mut shard, 2, 3, seconds(1));
    let reset = tcp(2, true, segment(TcpFlags::RST, 1, 0));
    track(&mut shard, &reset, seconds(1));
    connect(&mut shard, 3, 1, seconds(1));
    connect(&mut shard, 4, 2, seconds(1));
    connect(&mut shard, 5, 3, seconds(1));
    connect(&mut shard, 6, 3, seconds(1));
    let mut evicted = Evicted::default();
    for (round, port) in (1..=4).enumerate() {
        shard.check();
        assert!(is_there(&shard, port));
        assert_eq!(shard.stats().can_give_way, 4 - round as u32);
        assert_eq!(shard.stats().allowance_available(), 4 - round as u32);
        connect(&mut shard, 100 + port, 3, seconds(1));
        assert!(!is_there(&shard, port), "{port} is next");
        match port {
            1 => evicted.untracked += 1,
            2 => evicted.tombstones += 1,
            3 => evicted.unanswered += 1,
            _ => evicted.half_open += 1,
        }
        assert_eq!(shard.stats().evicted_by, evicted);
    }
    let refused = open(&mut shard, &handshake(200)[0], seconds(1));
    assert_eq!(refused, Err(OpenError::Full));
    for port in [5, 6, 101, 102, 103, 104] {
        assert!(is_there(&shard, port));
    }
    let stats = shard.stats();
    assert_eq!(
        (stats.evicted, stats.refused, stats.allowance_exceeded()),
        (4, 1, 1)
    );
    shard.check();
}

#[test]
fn expired_flows_go_before_any_that_live() {
    let mut shard = Shard::new(&config(3), seconds(0));
    connect(&mut shard, 1, 1, seconds(0));
    connect(&mut shard, 2, 1, seconds(20));
    connect(&mut shard, 3, 1, seconds(20));
    connect(&mut shard, 4, 1, seconds(31));
    let stats = shard.stats();
    assert_eq!((stats.expired, stats.evicted), (1, 0));
    shard.check();
}

#[test]
fn reset_alone_is_no_answer_and_any_other_answer_is() {
    let mut shard = Shard::new(&config(1), seconds(1));
    let middle = tcp(9, true, segment(TcpFlags::ACK, 100, 900));
    open(&mut shard, &middle, seconds(1)).unwrap();
    // It does not close the connection, being outside of the window.
    let reset = tcp(9, false, segment(TcpFlags::RST, 5, 0));
    assert_eq!(track(&mut shard, &reset, seconds(1)), Some(Track::Pass));
    assert_eq!(shard.stats().can_give_way, 1);
    let answer = tcp(9, false, segment(TcpFlags::ACK, 900, 100));
    assert_eq!(track(&mut shard, &answer, seconds(1)), Some(Track::Pass));
    assert_eq!(shard.stats().can_give_way, 0);
    shard.check();
    let query = |kind, (source, destination)| {
        let transport = Transport::Icmp {
            kind,
            code: 0,
            id: 5,
            target: None,
        };
        packet(v4(source, destination), protocol::ICMP, transport)
    };
    let asked = [
        (udp((1, 2), SERVER), udp(SERVER, (1, 2))),
        (query(8, (1, 2)), query(0, (2, 1))),
        (
            packet(v4(1, 2), 47, Transport::Other),
            packet(v4(2, 1), 47, Transport::Other),
        ),
    ];
    for (request, response) in asked {
        let mut shard = Shard::new(&config(1), seconds(1));
        open(&mut shard, &request, seconds(1)).unwrap();
        track(&mut shard, &request, seconds(1)).unwrap();
        assert_eq!(shard.stats().can_give_way, 1);
        track(&mut shard, &response, seconds(1)).unwrap();
        assert_eq!(shard.stats().can_give_way, 0);
        shard.check();
    }
}

#[test]
fn untracked_flow_takes_no_tracked_ones_place() {
    let mut shard = Shard::new(&config(2), seconds(1));
    connect(&mut shard, 1, 1, seconds(1));
    connect(&mut shard, 2, 2, seconds(1));
    let refused = open_as(&mut shard, &handshake(3)[0], FlowClass::Untracked);
    assert_eq!(refused, Err(OpenError::Full));
    assert_eq!(
        shard.stats().allowance_exceeded(),
        0,
        "it passes without an entry"
    );
    assert!(is_there(&shard, 1) && is_there(&shard, 2));
    connect(&mut shard, 4, 1, seconds(1));
    assert!(!is_there(&shard, 1));
}

#[test]
fn flows_of_one_class_take_turns() {
    let mut shard = Shard::new(&config(100), seconds(1));
    for port in 0..1_000 {
        connect(&mut shard, port, 1, seconds(1));
    }
    for port in 0..1_000 {
        assert_eq!(is_there(&shard, port), port >= 900, "{port}");
    }
}

#[test]
fn untracked_flow_without_an_entry_exceeds_no_allowance() {
    let mut full = Shard::new(&config(1), seconds(1));
    connect(&mut full, 1, 3, seconds(1));
    let mut shared = limited(1, 0);
    connect(&mut shared, 1, 3, seconds(1));
    let classes = [
        (FlowClass::Untracked, 0),
        (FlowClass::Unenforced, 1),
        (FlowClass::Tracked, 2),
    ];
    for (class, exceeded) in classes {
        for (shard, error) in [
            (&mut full, OpenError::Full),
            (&mut shared, OpenError::Limit),
        ] {
            assert_eq!(open_as(shard, &handshake(2)[0], class), Err(error));
            assert_eq!(shard.stats().allowance_exceeded(), exceeded, "{class:?}");
        }
    }
}

fn limited(max_flows: u32, new_per_second: u32) -> Shard {
    let config = ShardConfig {
        per_interface: PerInterface {
            max_flows,
            new_per_second,
        },
        ..config(10_000)
    };
    Shard::new(&config, seconds(1))
}

fn open_of(shard: &mut Shard, interface: u32, number: u32, now: Tick) -> Result<(), OpenError> {
    let request = udp((interface, number as u16), (number >> 16, 53));
    let (key, from) = key_of(&request);
    let new = NewFlow {
        interface: InterfaceSlot(interface),
        ..new_flow(from)
    };
    let hash = shard.hash(&key);
    let index = shard.open(&key, hash, &new, &request, 60, now)?;
    // Answered, it gives way to nobody.
    let answer = udp((number >> 16, 53), (interface, number as u16));
    shard.track(index, &answer, from.opposite(), 60, now);
    Ok(())
}

#[test]
fn interface_has_no_more_than_its_share() {
    let mut shard = limited(5, 0);
    for interface in [0, 1, 1 << 20, u32::MAX - 1] {
        for number in 0..5 {
            open_of(&mut shard, interface, number, seconds(1)).unwrap();
        }
        let one_more = open_of(&mut shard, interface, 5, seconds(1));
        assert_eq!(one_more, Err(OpenError::Limit));
        shard.check();
    }
    assert_eq!(shard.stats().limited, 4);
    assert_eq!(shard.stats().allowance_exceeded(), 4);
    // Its own flow again, a flow less, and all of them expired.
    assert_eq!(
        open_of(&mut shard, 1, 3, seconds(1)),
        Err(OpenError::Limit).or(Ok(()))
    );
    let ended = find(&shard, &udp((1, 0), (0, 53)), seconds(1)).unwrap();
    shard.end(ended);
    open_of(&mut shard, 1, 5, seconds(1)).unwrap();
    assert_eq!(open_of(&mut shard, 1, 6, seconds(1)), Err(OpenError::Limit));
    for number in 10..15 {
        open_of(&mut shard, 1, number, seconds(40)).unwrap();
    }
    shard.check();
}

#[test]
fn interface_opens_no_more_than_its_rate() {
    let mut shard = limited(0, 10);
    let mut opened = 0;
    for number in 0..1_000 {
        let now = seconds(1) + Duration::from_millis(u64::from(number) * 10);
        if open_of(&mut shard, 7, number, now).is_ok() {
            opened += 1;
        }
    }
    // A burst of one second's worth, and ten seconds.
    assert_eq!(opened, 10 + 99);
    assert!(open_of(&mut shard, 8, 0, seconds(11)).is_ok());
    shard.check();
}

/// Opens flows of an interface until one is refused; how many there were.
fn fill(shard: &mut Shard, interface: u32, at: u64) -> usize {
    let open = |number: &u32| open_of(shard, interface, *number, seconds(at)).is_ok();
    (0..100).take_while(open).count()
}

#[test]
fn interfaces_can_have_limits_of_their_own_and_lose_them() {
    let slot = InterfaceSlot;
    let own = |max_flows, new_per_second| FlowLimits {
        max_flows,
        new_per_second,
    };
    let mut shard = limited(6, 50);
    let limits = [
        (slot(7), own(Some(2), None)),
        (slot(8), own(Some(0), None)),
        (slot(9), own(None, Some(3))),
        (slot(70_000), own(Some(9), Some(0))),
    ];
    shard.limit_interfaces(&limits, 1);
    let filled = [6, 7, 8, 9, 70_000].map(|interface| fill(&mut shard, interface, 1));
    assert_eq!(filled, [6, 2, 50, 3, 9], "what is not set is as for all");
    assert_eq!(shard.stats().limited, 5);
    // What it has beyond a new limit stays.
    shard.limit_interfaces(&[(slot(8), own(Some(1), None))], 1);
    assert_eq!(
        open_of(&mut shard, 8, 99, seconds(3)),
        Err(OpenError::Limit)
    );
    assert!(open_of(&mut shard, 7, 99, seconds(3)).is_ok());
    // Each of four shards gives a quarter, rounded up.
    let mut shard = limited(6, 0);
    shard.limit_interfaces(&[(slot(7), own(Some(10), None))], 4);
    assert_eq!(
        [6, 7].map(|interface| fill(&mut shard, interface, 1)),
        [6, 3]
    );
    shard.check();
}

#[test]
fn a_limit_that_comes_later_counts_what_was_there_before() {
    let config = ShardConfig {
        per_interface: PerInterface::COUNTED,
        ..config(10_000)
    };
    let mut shard = Shard::new(&config, seconds(1));
    for number in 0..20 {
        open_of(&mut shard, 7, number, seconds(1)).unwrap();
    }
    let own = FlowLimits {
        max_flows: Some(21),
        new_per_second: None,
    };
    shard.limit_interfaces(&[(InterfaceSlot(7), own)], 1);
    open_of(&mut shard, 7, 20, seconds(1)).unwrap();
    assert_eq!(
        open_of(&mut shard, 7, 21, seconds(1)),
        Err(OpenError::Limit)
    );
    shard.check();
}

#[test]
fn interfaces_without_a_limit_are_not_refused_for_want_of_a_count() {
    let config = ShardConfig {
        per_interface: PerInterface::COUNTED,
        ..config(10_000)
    };
    let mut shard = Shard::new(&config, seconds(1));
    for interface in 0..2_000 {
        open_of(&mut shard, interface, 0, seconds(1)).unwrap();
    }
    for interface in 0..2_000 {
        let flow = find(&shard, &udp((interface, 0), (0, 53)), seconds(1)).unwrap();
        shard.end(flow);
    }
    assert!(shard.is_empty());
}

#[test]
fn interfaces_beyond_those_that_can_be_counted_open_nothing_until_one_is_idle() {
    let mut shard = limited(100, 100);
    let (mut opened, mut refused) = (0, 0);
    for interface in 0..2_000 {
        match open_of(&mut shard, interface, 0, seconds(1)) {
            Ok(()) => opened += 1,
            Err(error) => {
                assert_eq!(error, OpenError::Limit);
                refused += 1;
            }
        }
    }
    assert_eq!((opened, refused), (1_024, 976));
    shard.check();
    for _ in 0..10 {
        shard.expire(seconds(40));
    }
    assert!(shard.is_empty());
    for interface in 2_000..3_024 {
        // An idle one may be further than one look goes.
        let is_open = |_: &u32| open_of(&mut shard, interface, 0, seconds(40)).is_ok();
        assert!((0..100).find(is_open).is_some());
    }
    shard.check();
}

#[test]
fn limits_are_divided_between_shards_upwards() {
    let limit = PerInterface {
        max_flows: 10,
        new_per_second: 1,
    };
    let part = limit.divided(4);
    assert_eq!((part.max_flows, part.new_per_second), (3, 1));
    assert_eq!(PerInterface::default().divided(4), PerInterface::default());
}

/// Past its deadline, but not yet where the sweep finds it (it looks in units of 0.27 s).
#[test]
fn expired_unanswered_flow_goes_before_half_open_ones_that_live() {
    let start = Tick((5 << 28) + (1 << 24));
    let mut shard = Shard::new(&config(3), start);
    connect(&mut shard, 1, 1, start);
    let later = start + Duration::from_secs(20);
    connect(&mut shard, 2, 2, later);
    connect(&mut shard, 3, 2, later);
    let expired = start + Duration::from_millis(30_040);
    assert!(
        find(&shard, &handshake(1)[0], expired).is_none(),
        "it has expired"
    );
    open(&mut shard, &handshake(4)[0], expired).unwrap();
    let stats = shard.stats();
    assert_eq!(
        (stats.expired, stats.evicted_by.half_open),
        (1, 0),
        "an expired one goes first"
    );
}

/// A share that a flood of unanswered SYNs fills must not shut its owner out: the order of giving
/// way holds within the share as it does within the table.
#[test]
fn flood_within_a_share_gives_way_to_a_new_connection_of_it() {
    let mut shard = limited(100, 0);
    for port in 0..100 {
        connect(&mut shard, port, 1, seconds(1));
    }
    let opened = open(&mut shard, &handshake(200)[0], seconds(3));
    assert!(opened.is_ok(), "{opened:?}, with 9,900 free entries");
    assert!(
        !is_there(&shard, 0) && is_there(&shard, 1),
        "the oldest goes"
    );
    shard.check();
}

#[test]
fn flows_of_a_share_give_way_in_order_and_to_nobody_elses() {
    let mut shard = limited(4, 0);
    connect(&mut shard, 1, 3, seconds(1));
    let reset = tcp(1, true, segment(TcpFlags::RST, 1, 0));
    track(&mut shard, &reset, seconds(1));
    connect(&mut shard, 2, 1, seconds(1));
    connect(&mut shard, 3, 2, seconds(1));
    connect(&mut shard, 4, 3, seconds(1));
    open_of(&mut shard, 9, 1, seconds(1)).unwrap();
    for gone in 1..=3 {
        assert!(is_there(&shard, gone));
        connect(&mut shard, 100 + gone, 3, seconds(1));
        assert!(!is_there(&shard, gone), "{gone} is next");
        shard.check();
    }
    let refused = open(&mut shard, &handshake(200)[0], seconds(1));
    assert_eq!(refused, Err(OpenError::Limit), "established ones stay");
    open_of(&mut shard, 9, 2, seconds(1)).unwrap();
    assert_eq!(shard.stats().evicted, 3);
}

//! Fragments in every order, against a list of what each may become.

use super::*;
use crate::conntrack::Admission;
use crate::packet::{Parsed, Transport, build, parse};

const LINK: LinkId = LinkId(0);

fn table() -> Fragments {
    Fragments::new(Duration::from_secs(30), [1, 2])
}

fn packet(bytes: &[u8]) -> IpPacket {
    match parse(bytes, bytes.len()) {
        Parsed::Ip(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn flow_of(packet: &IpPacket) -> Option<FragmentedFlow> {
    matches!(packet.transport, Transport::Udp { .. }).then(|| FragmentedFlow {
        key: FlowKey::of(LINK, packet),
        protocol: packet.protocol,
        transport: packet.transport,
        admission: Admission::Open,
    })
}

fn admit(table: &mut Fragments, packet: &IpPacket) -> FragmentFate {
    admit_at(table, packet, Tick(0))
}

fn admit_at(table: &mut Fragments, packet: &IpPacket, now: Tick) -> FragmentFate {
    table.admit(LINK, PortSide::Outside, packet, flow_of(packet), now)
}

/// A UDP datagram of 8 + 100 bytes in pieces of 24: five, of both families.
fn datagrams(id: u32) -> [Vec<IpPacket>; 2] {
    let v4 = build::v4("10.0.0.1", "10.0.0.2")
        .udp(1000, 53)
        .payload_len(100);
    let v6 = build::v6("fd00::1", "fd00::2")
        .udp(1000, 53)
        .payload_len(100);
    [v4, v6].map(|datagram| {
        datagram
            .fragments(id, 24)
            .iter()
            .map(|f| packet(f))
            .collect()
    })
}

fn is_known(fate: FragmentFate) -> bool {
    matches!(fate, FragmentFate::Known(flow) if flow.key.is_some())
}

fn ticket(fate: FragmentFate) -> Ticket {
    match fate {
        FragmentFate::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn later_fragments_follow_the_first_and_the_whole_is_forgotten() {
    for pieces in datagrams(7) {
        let mut table = table();
        assert_eq!(pieces.len(), 5);
        for piece in &pieces {
            assert!(is_known(admit(&mut table, piece)), "{piece:?}");
        }
        assert!(table.is_empty(), "all bytes have passed");
        assert!(
            is_known(admit(&mut table, &pieces[0])),
            "the id begins anew"
        );
    }
}

#[test]
fn early_fragments_wait_for_the_first_whatever_the_order() {
    for pieces in datagrams(7) {
        let mut table = table();
        for order in [[4, 3, 2, 1], [2, 4, 1, 3], [1, 2, 3, 4]] {
            let waiting: Vec<(Ticket, usize)> = order
                .iter()
                .map(|&at| (ticket(admit(&mut table, &pieces[at])), at))
                .collect();
            assert_eq!(table.waiting(), 4);
            assert!(is_known(admit(&mut table, &pieces[0])));
            let mut retried = 0;
            while let Some((ticket, release)) = table.pop_released() {
                assert_eq!(release, Release::Retry);
                let (_, at) = waiting.iter().find(|(held, _)| *held == ticket).unwrap();
                assert!(is_known(admit(&mut table, &pieces[*at])));
                retried += 1;
            }
            assert_eq!((retried, table.waiting()), (4, 0));
            assert!(table.is_empty());
        }
    }
}

#[test]
fn what_waits_too_long_is_dropped() {
    let mut table = table();
    let [pieces, _] = datagrams(7);
    ticket(admit(&mut table, &pieces[1]));
    let late = Tick(0) + Duration::from_secs(30);
    for _ in 0..BUCKETS / EXPIRE_PER_TURN_MAX {
        table.expire(late);
    }
    assert_eq!(
        table.pop_released().map(|(_, release)| release),
        Some(Release::Drop)
    );
    assert_eq!((table.waiting(), table.len()), (0, 0));
    assert!(matches!(
        admit_at(&mut table, &pieces[2], late),
        FragmentFate::Wait(_)
    ));
}

#[test]
fn turn_looks_at_few_places_however_long_nobody_looked() {
    let mut table = table();
    for id in 0..2000 {
        let [pieces, _] = datagrams(id);
        admit(&mut table, &pieces[1]);
        while table.pop_released().is_some() {}
    }
    let late = Tick(0) + Duration::from_secs(3600);
    let (mut turns, mut before) = (0, table.len());
    while !table.is_empty() {
        table.expire(late);
        assert!(before - table.len() <= WAYS * EXPIRE_PER_TURN_MAX);
        (before, turns) = (table.len(), turns + 1);
    }
    assert_eq!(turns, FRAGMENT_SWEEP_TURNS);
}

#[test]
fn a_first_fragment_past_its_time_says_nothing() {
    let mut table = table();
    let [pieces, _] = datagrams(7);
    assert!(is_known(admit(&mut table, &pieces[0])));
    let late = Tick(0) + Duration::from_secs(30);
    assert!(matches!(
        admit_at(&mut table, &pieces[1], late),
        FragmentFate::Wait(_)
    ));
}

#[test]
fn datagrams_of_other_ids_links_vlans_and_directions_are_others() {
    let mut table = table();
    let [pieces, _] = datagrams(7);
    assert!(is_known(admit(&mut table, &pieces[0])));
    let [other_id, _] = datagrams(8);
    assert!(matches!(
        admit(&mut table, &other_id[1]),
        FragmentFate::Wait(_)
    ));
    let vlan = IpPacket {
        vlan: VlanTags {
            outer: Some(3),
            inner: None,
        },
        ..pieces[1]
    };
    assert!(matches!(admit(&mut table, &vlan), FragmentFate::Wait(_)));
    let Addresses::V4 {
        source,
        destination,
    } = pieces[1].addresses
    else {
        panic!("IPv4")
    };
    let back = Addresses::V4 {
        source: destination,
        destination: source,
    };
    let back = IpPacket {
        addresses: back,
        ..pieces[1]
    };
    assert!(matches!(admit(&mut table, &back), FragmentFate::Wait(_)));
    for (link, side) in [(LinkId(1), PortSide::Outside), (LINK, PortSide::Inside)] {
        let elsewhere = table.admit(link, side, &pieces[1], None, Tick(0));
        assert!(
            matches!(elsewhere, FragmentFate::Wait(_)),
            "{link:?} {side:?}"
        );
    }
}

#[test]
fn an_overlap_ends_the_datagram_rfc5722() {
    let at = |offset, len, more| {
        let datagram = build::v4("10.0.0.1", "10.0.0.2")
            .protocol(17)
            .fragment(7, offset, more);
        packet(&datagram.payload_len(len).build())
    };
    // The first fragment covers 0..24.
    for hostile in [at(16, 16, true), at(8, 8, true), at(16, 7, false)] {
        let mut table = table();
        let [pieces, _] = datagrams(7);
        assert!(is_known(admit(&mut table, &pieces[0])));
        assert_eq!(admit(&mut table, &hostile), FragmentFate::Drop);
        assert_eq!(
            admit(&mut table, &pieces[1]),
            FragmentFate::Drop,
            "it has ended"
        );
        assert_eq!(admit(&mut table, &pieces[0]), FragmentFate::Drop);
    }
}

#[test]
fn a_second_first_fragment_ends_the_datagram() {
    let mut table = table();
    let [pieces, _] = datagrams(7);
    assert!(is_known(admit(&mut table, &pieces[0])));
    assert_eq!(admit(&mut table, &pieces[0]), FragmentFate::Drop);
    assert_eq!(admit(&mut table, &pieces[1]), FragmentFate::Drop);
}

#[test]
fn nothing_comes_after_the_end_and_there_is_one_end() {
    let at = |offset, len, more| {
        let datagram = build::v4("10.0.0.1", "10.0.0.2")
            .protocol(17)
            .fragment(7, offset, more);
        packet(&datagram.payload_len(len).build())
    };
    for (before, hostile) in [
        (at(48, 8, false), at(56, 8, true)),
        (at(48, 8, false), at(64, 8, false)),
        (at(64, 8, true), at(48, 8, false)),
    ] {
        let mut table = table();
        let [pieces, _] = datagrams(7);
        assert!(is_known(admit(&mut table, &pieces[0])));
        assert!(is_known(admit(&mut table, &before)));
        assert_eq!(admit(&mut table, &hostile), FragmentFate::Drop);
    }
}

#[test]
fn those_who_wait_are_bounded_for_each_datagram_and_in_all() {
    let mut table = table();
    let big = build::v4("10.0.0.1", "10.0.0.2")
        .udp(1, 53)
        .payload_len(400);
    let pieces: Vec<IpPacket> = big.fragments(1, 24).iter().map(|f| packet(f)).collect();
    for piece in &pieces[1..=WAITING_PER_DATAGRAM_MAX] {
        ticket(admit(&mut table, piece));
    }
    assert_eq!(admit(&mut table, &pieces[9]), FragmentFate::Drop);
    for id in 2..1000 {
        let [pieces, _] = datagrams(id);
        admit(&mut table, &pieces[1]);
    }
    assert_eq!(table.waiting(), WAITING_MAX);
    let capacities = |table: &Fragments| {
        let Waiting { free, released, .. } = &table.waiting;
        (free.capacity(), released.capacity())
    };
    let capacity = capacities(&table);
    // A flood takes places from others, and what waited there is let go; memory stays.
    for id in 1000..40_000 {
        let [pieces, _] = datagrams(id);
        admit(&mut table, &pieces[1]);
        while table.pop_released().is_some() {}
        assert!(table.waiting() <= WAITING_MAX && table.len() <= WAYS * BUCKETS);
    }
    assert_eq!(capacities(&table), capacity);
}

#[test]
fn every_ticket_is_somewhere_once_under_random_traffic() {
    let mut table = table();
    // Fewer than datagrams, so that those who wait longest give way.
    table.limit_waiting(40);
    let mut state = 9_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut held = std::collections::HashSet::new();
    let mut displaced = 0;
    let mut now = Tick(0);
    for _ in 0..60_000 {
        let [pieces, _] = datagrams(u32::try_from(random(60)).unwrap());
        let piece = &pieces[usize::try_from(random(5)).unwrap()];
        let is_full = held.len() == 40;
        if let FragmentFate::Wait(ticket) = admit_at(&mut table, piece, now) {
            assert!(held.insert(ticket) || is_full, "given twice");
            displaced += u32::from(is_full);
        }
        while let Some((ticket, _)) = table.pop_released() {
            assert!(held.remove(&ticket), "released twice");
        }
        assert_eq!(held.len(), table.waiting());
        if random(100) == 0 {
            now = now + Duration::from_secs(random(20));
            table.expire(now);
        }
    }
    assert!(!held.is_empty() && displaced > 0);
}

#[test]
fn those_who_wait_longest_make_room_for_who_comes_now() {
    let mut table = table();
    // A flood of last fragments whose firsts never come: nine a second are enough.
    for id in 0..u32::try_from(WAITING_MAX).unwrap() {
        let [pieces, _] = datagrams(id);
        ticket(admit(&mut table, &pieces[4]));
    }
    // One second later two fragments of an honest datagram change places on the way.
    let [pieces, _] = datagrams(50_000);
    let later = Tick::from_seconds(1);
    let fate = admit_at(&mut table, &pieces[1], later);
    assert!(matches!(fate, FragmentFate::Wait(_)), "{fate:?}");
}

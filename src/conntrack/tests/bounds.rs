//! How long the longest operation can be: steps, not time, so that no machine's mood decides.

use super::*;

/// Flows that all end at the same time, answered so that none gives way before.
fn filled(count: u32) -> Shard {
    let mut shard = Shard::new(&config(count), seconds(0));
    for number in 0..count {
        let request = udp((number, 1), (7, 53));
        open(&mut shard, &request, seconds(0)).unwrap();
        track(&mut shard, &udp((7, 53), (number, 1)), seconds(0)).unwrap();
    }
    shard
}

#[test]
fn turn_takes_back_and_reads_no_more_than_it_may() {
    let count = 10_000;
    let mut shard = filled(count);
    let (mut turns, mut freed) = (0, 0);
    while !shard.is_empty() {
        let (hand, now) = (shard.timers.hand(), seconds(100));
        let taken = shard.expire(now);
        assert!(taken <= EXPIRE_PER_TURN_MAX, "{taken} in a turn");
        let read = shard.timers.hand().saturating_sub(hand);
        assert!(read <= SCAN_PER_TURN_MAX as usize, "{read} timers read");
        freed += taken;
        turns += 1;
    }
    assert_eq!(freed, count);
    // Nor is it so little that the sweep falls behind.
    assert!(turns <= count / EXPIRE_PER_TURN_MAX + 4, "{turns} turns");
    // Nothing is due: a turn ends after the timers that it may read.
    let mut quiet = filled(count);
    let mut hands = vec![0];
    for _ in 0..3 {
        assert_eq!(quiet.expire(seconds(1)), 0);
        hands.push(quiet.timers.hand());
    }
    let scan = SCAN_PER_TURN_MAX as usize;
    assert_eq!(hands, [0, scan, 2 * scan, 0]);
}

#[test]
fn lap_that_looks_at_all_entries_looks_at_no_more_in_a_turn() {
    // The clock has leapt further than timers tell apart, and all flows live on.
    let mut config = config(2_000);
    config.timeouts.tcp_established = TIMEOUT_MAX;
    let mut shard = Shard::new(&config, seconds(0));
    for port in 0..2_000 {
        for (is_client, segment) in [
            (true, segment(TcpFlags::SYN, 0, 0)),
            (false, segment(TcpFlags::SYN | TcpFlags::ACK, 0, 1)),
            (true, segment(TcpFlags::ACK, 1, 1)),
        ] {
            let mut addresses = v4(port, 7);
            let mut segment = segment;
            if !is_client {
                addresses = v4(7, port);
                std::mem::swap(&mut segment.source_port, &mut segment.destination_port);
            }
            let packet = packet(addresses, protocol::TCP, Transport::Tcp(segment));
            if track(&mut shard, &packet, seconds(0)).is_none() {
                open(&mut shard, &packet, seconds(0)).unwrap();
            }
        }
    }
    let now = seconds(4_000);
    for _ in 0..2_000 / EXPIRE_PER_TURN_MAX {
        let hand = shard.timers.hand();
        assert_eq!(shard.expire(now), 0);
        let looked = shard.timers.hand() - hand;
        assert_eq!(looked, EXPIRE_PER_TURN_MAX as usize);
    }
    shard.check();
}

#[test]
fn open_on_a_full_table_sweeps_once_in_a_beat() {
    // Established flows, none due: refusing must not search for room again and again.
    let mut shard = filled(10_000);
    for number in 0..1_000 {
        let hand = shard.timers.hand();
        let refused = open(&mut shard, &udp((number, 9), (8, 53)), seconds(1));
        assert_eq!(refused, Err(OpenError::Full));
        let read = shard.timers.hand() - hand;
        let may = if number == 0 { SCAN_PER_TURN_MAX } else { 0 };
        assert!(read <= may as usize, "{read} timers read by {number}");
    }
}

#[test]
fn index_touches_a_fixed_number_of_buckets() {
    use crate::conntrack::index::Index;
    let mut index = Index::new(400);
    let mut random = Random(5);
    let hash_of = |entry: u32| Random(u64::from(entry)).next();
    let (mut longest, mut refused, mut held) = (0, 0, Vec::new());
    for entry in 0..20_000u32 {
        if held.len() == index.buckets_count() * 10 - 3 {
            let at = random.below(held.len() as u64) as usize;
            let gone: u32 = held.swap_remove(at);
            index.count_steps();
            assert!(index.remove(hash_of(gone), gone));
            assert!(index.count_steps() <= 3);
        }
        index.count_steps();
        match index.insert(hash_of(entry), entry) {
            Ok(()) => held.push(entry),
            Err(_) => refused += 1,
        }
        longest = longest.max(index.count_steps());
        index.find(hash_of(entry), |found| found == entry);
        assert!(index.count_steps() <= 2);
    }
    // Two buckets; for each of their twenty residents a look at its own and its other one; moving
    // one of them and putting the new one.
    assert!(refused > 0 && longest > 40, "{refused} {longest}: too tame");
    assert!(longest <= 2 + 2 * 20 + 8, "{longest} buckets touched");
}

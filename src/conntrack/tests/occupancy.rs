//! How full the table gets before it refuses.

use super::*;

/// Keys that differ in the order that attackers and scanners choose.
fn fill(shard: &mut Shard, count: u32, flow: impl Fn(u32) -> IpPacket) -> u64 {
    let mut refused = 0;
    for number in 0..count {
        if open(shard, &flow(number), seconds(0)).is_err() {
            refused += 1;
        }
    }
    assert_eq!(refused, shard.stats().refused);
    refused
}

#[test]
fn million_tuples_fill_nine_tenths_without_a_refusal() {
    let count = 1_000_000;
    let sequential = |number: u32| udp((0x0a00_0000 | number >> 10, number as u16 & 1023), (1, 53));
    let same_low_bits = |number: u32| udp((number << 12, 0), (number >> 8 << 12 | 1 << 31, 0));
    for flow in [&sequential as &dyn Fn(u32) -> IpPacket, &same_low_bits] {
        let mut shard = Shard::new(&config(count), seconds(0));
        assert_eq!(fill(&mut shard, count / 10 * 9, flow), 0);
        assert_eq!(shard.len(), 900_000);
        for number in (0..900_000).step_by(997) {
            assert!(find(&shard, &flow(number), seconds(0)).is_some());
        }
    }
}

#[test]
fn full_table_refuses_for_want_of_a_bucket_hardly_ever() {
    let count = 200_000;
    let mut refused = 0;
    for seed in 0..3 {
        let mut config = config(count);
        config.seed[0] ^= seed;
        let mut shard = Shard::new(&config, seconds(0));
        refused += fill(&mut shard, count, |number| udp((number, 1), (7, 7)));
        let buckets = shard.table.index().buckets_count();
        let (guests, open) = shard.table.index().spill();
        // What lookups pay for the second bucket: 7 % of the hits, 25 % of the misses.
        assert!(guests < count * 8 / 100, "{guests} guests");
        assert!(
            open < buckets * 28 / 100,
            "{open} of {buckets} buckets have lost keys"
        );
    }
    assert_eq!(refused, 0);
}

#[test]
fn small_tables_hold_all_that_they_promise() {
    for max_flows in 1..300 {
        let mut shard = Shard::new(&config(max_flows), seconds(0));
        assert_eq!(
            fill(&mut shard, max_flows, |number| udp((number, 1), (7, 7))),
            0
        );
        assert_eq!(shard.len(), max_flows);
        shard.check();
    }
}

#[test]
fn index_keeps_its_books_through_churn_when_overfull() {
    // Far beyond its share, so that moving and refusing happen all the time.
    let mut index = crate::conntrack::index::Index::new(200);
    let slots = u32::try_from(index.buckets_count() * 10).unwrap();
    let mut random = Random(1);
    let hash_of = |entry: u32| Random(u64::from(entry)).next();
    let (mut held, mut next, mut refusals) = (Vec::new(), 0u32, 0);
    for _ in 0..20_000 {
        let is_growing = held.len() < slots as usize - 5 || random.below(3) == 0;
        if is_growing && random.below(4) != 0 {
            next += 1;
            match index.insert(hash_of(next), next) {
                Ok(()) => held.push(next),
                Err(_) => refusals += 1,
            }
        } else if !held.is_empty() {
            let at = usize::try_from(random.below(held.len() as u64)).unwrap();
            let entry = held.swap_remove(at);
            assert!(index.remove(hash_of(entry), entry));
            assert!(!index.remove(hash_of(entry), entry));
        }
        assert_eq!(index.check(hash_of) as usize, held.len());
    }
    for entry in &held {
        assert_eq!(
            index.find(hash_of(*entry), |found| found == *entry),
            Some(*entry)
        );
    }
    assert!(refusals > 0, "the test must reach the refusal");
}

#[test]
fn flow_takes_80_bytes_of_ipv4_and_112_of_ipv6() {
    let memory = |limit| {
        let mut config = config(1_000_000);
        config.per_interface.max_flows = limit;
        Shard::new(&config, seconds(0)).memory_bytes()
    };
    let plain = memory(0);
    assert!(plain.flows <= 80 * 1_000_000, "{plain:?}");
    assert!(plain.flows + plain.ipv6 <= 112 * 1_000_000);
    assert_eq!(plain.heavy, 32 * 1_000_000);
    let limited = memory(100);
    assert!(limited.flows - plain.flows <= 5 * 500_000, "{limited:?}");
}

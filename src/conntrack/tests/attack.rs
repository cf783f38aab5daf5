//! Floods and chosen tuples.

use super::*;

/// The longest way of a lookup is two buckets, whatever the keys; what chosen keys could do is fill
/// buckets unevenly, so that many lookups go both ways and inserts are refused.
#[test]
fn million_tuples_chosen_without_the_key_spread_as_if_drawn() {
    let count = 1_000_000u32;
    // The attacker runs this code with a key of its own and keeps what meets in few buckets there.
    let (mine, theirs) = (
        Shard::new(&config(1_000), seconds(0)),
        ShardConfig {
            seed: [77, 78],
            ..config(count)
        },
    );
    let candidates = (0..u32::MAX).map(|number| udp((number, (number >> 7) as u16), (5, 53)));
    let chosen = candidates.filter(|packet| mine.hash(&key_of(packet).0).0 >> 60 == 3);
    let multiples = (0..).map(|number: u32| udp((number << 20, 0), (number >> 12, 53)));
    let ports = (0..).map(|number: u32| udp((number >> 16, number as u16), (1, 1)));
    let kinds: [Box<dyn Iterator<Item = IpPacket>>; 3] =
        [Box::new(chosen), Box::new(multiples), Box::new(ports)];
    for kind in kinds {
        let mut shard = Shard::new(&theirs, seconds(0));
        for packet in kind.take(count as usize) {
            open(&mut shard, &packet, seconds(0)).unwrap();
        }
        assert_eq!((shard.len(), shard.stats().evicted), (count, 0));
        assert!(is_spread(&shard), "{:?}", shard.table.index().spill());
    }
}

/// Whether lookups and inserts cost what they cost with keys that are drawn.
fn is_spread(shard: &Shard) -> bool {
    let index = shard.table.index();
    let (guests, open) = index.spill();
    // Flows in second buckets, and buckets with a second one.
    guests < shard.len() * 8 / 100 && open < index.buckets_count() * 28 / 100
}

/// What the test above would see if the hash hid nothing: it can fail.
#[test]
fn tuples_chosen_with_the_key_meet_in_few_buckets() {
    let count = 50_000u32;
    let mut shard = Shard::new(&config(count), seconds(0));
    let candidates = (0..u32::MAX).map(|number| udp((number, (number >> 7) as u16), (5, 53)));
    let own = Shard::new(&config(1), seconds(0));
    let mut chosen = candidates.filter(|packet| own.hash(&key_of(packet).0).0 >> 60 == 3);
    // One primary bucket in sixteen: 3,125 flows fill them, the next ones need a second one.
    for packet in chosen.by_ref().take(20_000) {
        // Some are refused for want of a bucket.
        open(&mut shard, &packet, seconds(0)).ok();
    }
    assert!(!is_spread(&shard));
}

/// A table of established flows with some room, and a clock.
struct Flood {
    shard: Shard,
    established: u32,
    now: Tick,
    random: Random,
    sent: u64,
}

impl Flood {
    fn new(max_flows: u32, established: u32) -> Self {
        let mut shard = Shard::new(&config(max_flows), seconds(1));
        for number in 0..established {
            for packet in handshake(0x0a00_0000 | number) {
                deliver(&mut shard, &packet, seconds(1)).unwrap();
            }
        }
        Self {
            shard,
            established,
            now: seconds(1),
            random: Random(42),
            sent: 0,
        }
    }

    /// SYNs of random sources, evenly over a time; a part of them the server answers.
    fn run(&mut self, syns: u32, over: Duration, answered: u64) {
        for _ in 0..syns {
            self.now = self.now + over / syns;
            self.shard.expire(self.now);
            let source = 0x8000_0000 | self.random.next() as u32;
            let [syn, syn_ack, _] = handshake(source);
            self.sent += 1;
            deliver(&mut self.shard, &syn, self.now).unwrap();
            if self.random.below(100) < answered {
                deliver(&mut self.shard, &syn_ack, self.now).unwrap();
            }
        }
    }

    fn assert_established_are_there(&self) {
        for number in 0..self.established {
            let [_, _, ack] = handshake(0x0a00_0000 | number);
            let state = view(&self.shard, &ack, self.now).map(|view| view.state);
            assert_eq!(state, Some(FlowState::Established), "{number}");
        }
    }
}

fn handshake(client: u32) -> [IpPacket; 3] {
    let of = |addresses, mut segment: TcpHeader, is_client: bool| {
        if !is_client {
            std::mem::swap(&mut segment.source_port, &mut segment.destination_port);
        }
        packet(addresses, protocol::TCP, Transport::Tcp(segment))
    };
    let (to, from) = (v4(client, 0xc000_0201), v4(0xc000_0201, client));
    let syn_ack = segment(TcpFlags::SYN | TcpFlags::ACK, 0, 1);
    [
        of(to, segment(TcpFlags::SYN, 0, 0), true),
        of(from, syn_ack, false),
        of(to, segment(TcpFlags::ACK, 1, 1), true),
    ]
}

/// What the pipeline does with a packet where only clients are allowed to open, and by a SYN.
fn deliver(shard: &mut Shard, packet: &IpPacket, now: Tick) -> Option<()> {
    if find(shard, packet, now).is_some() {
        return (track(shard, packet, now)? == Track::Pass).then_some(());
    }
    let Transport::Tcp(ref segment) = packet.transport else {
        return None;
    };
    let is_syn = segment.flags.is_open();
    (is_syn && open(shard, packet, now).is_ok()).then_some(())
}

/// Connections that come up during a flood of 40,000 SYNs a second against a table of 20,000 with
/// 19,000 established: a twenty-fifth of two millions against a million, turned over alike.
fn legitimate(round_trip: Duration, answered: u64) -> (u32, u32) {
    let mut flood = Flood::new(20_000, 19_000);
    flood.run(4_000, Duration::from_millis(100), answered);
    let (tries, step) = (100u32, Duration::from_micros(500));
    let mut came_up = 0;
    for number in 0..tries {
        let [syn, syn_ack, ack] = handshake(0x0b00_0000 | number);
        let half = round_trip / 2;
        let mut is_up = deliver(&mut flood.shard, &syn, flood.now).is_some();
        let syns = u32::try_from(half.as_micros() / 25).unwrap();
        for packet in [syn_ack, ack] {
            flood.run(syns, half, answered);
            is_up = is_up && deliver(&mut flood.shard, &packet, flood.now).is_some();
        }
        came_up += u32::from(is_up);
        // The next one has the same room: this one closes.
        let rst = match ack_of(number).transport {
            Transport::Tcp(ref s) => tcp_reset(s, number),
            _ => unreachable!(),
        };
        deliver(&mut flood.shard, &rst, flood.now);
        flood.run(20, step, answered);
    }
    flood.assert_established_are_there();
    flood.shard.check();
    let stats = flood.shard.stats();
    assert_eq!((stats.evicted_by.untracked, stats.refused), (0, 0));
    // All that ever opened is there, has expired, or has given way.
    let opened = flood.sent + 19_000 + u64::from(tries);
    assert_eq!(stats.opened, opened);
    assert_eq!(
        opened - u64::from(stats.flows),
        stats.evicted + stats.expired
    );
    (came_up, tries)
}

fn ack_of(number: u32) -> IpPacket {
    let [_, _, ack] = handshake(0x0b00_0000 | number);
    ack
}

fn tcp_reset(ack: &TcpHeader, number: u32) -> IpPacket {
    let mut reset = *ack;
    reset.flags = TcpFlags(TcpFlags::RST);
    let addresses = v4(0x0b00_0000 | number, 0xc000_0201);
    packet(addresses, protocol::TCP, Transport::Tcp(reset))
}

#[test]
fn syn_flood_evicts_nobody_established_and_lets_new_connections_in() {
    // The room turns over in 25 ms, or twice as fast where the flood is of both kinds. Whoever is
    // up before that always gets in.
    for (answered, round_trips) in [(0, [1, 10, 20]), (100, [1, 10, 20]), (50, [1, 5, 10])] {
        for round_trip in round_trips {
            let (up, tries) = legitimate(Duration::from_millis(round_trip), answered);
            assert_eq!(
                up, tries,
                "round trip {round_trip} ms, {answered} % answered"
            );
        }
    }
    let (up, tries) = legitimate(Duration::from_millis(20), 50);
    assert!(up > tries / 3, "{up} of {tries}");
    // What the server does not answer makes room for what it does: then a slow one gets in if
    // its SYN-ACK comes in time.
    let (up, tries) = legitimate(Duration::from_millis(40), 0);
    assert_eq!(up, tries);
    let (up, _) = legitimate(Duration::from_millis(80), 0);
    assert_eq!(up, 0, "the bound is where it is said to be");
}

#[test]
fn flood_of_a_full_table_is_refused_and_counted() {
    let mut flood = Flood::new(1_000, 1_000);
    for number in 0..5_000 {
        let [syn, ..] = handshake(0x8000_0000 | number);
        assert!(deliver(&mut flood.shard, &syn, flood.now).is_none());
    }
    flood.assert_established_are_there();
    let stats = flood.shard.stats();
    assert_eq!((stats.refused, stats.evicted), (5_000, 0));
    assert_eq!(
        (stats.allowance_exceeded(), stats.allowance_available()),
        (5_000, 0)
    );
    flood.shard.check();
}

#[test]
fn flood_of_stray_segments_evicts_nobody_established() {
    // `tcp_pickup = "rules"` makes an entry of any ACK: unanswered until the other side speaks.
    let mut flood = Flood::new(1_000, 950);
    for number in 0..5_000u32 {
        let ack = packet(
            v4(0x8000_0000 | number, 0xc000_0201),
            protocol::TCP,
            Transport::Tcp(segment(TcpFlags::ACK, number, 5)),
        );
        open(&mut flood.shard, &ack, flood.now).unwrap();
    }
    flood.assert_established_are_there();
    assert_eq!(flood.shard.stats().evicted_by.unanswered, 5_000 - 50);
}

/// Somebody who knows addresses and ports of a connection, and no number of it, tries the four
/// corners of the sequence space. After a restart every connection is one that was picked up.
#[test]
fn blind_segments_do_not_close_a_connection_that_was_picked_up() {
    let mut shard = Shard::new(&config(16), seconds(1));
    let (client, server) = (0x0a00_0001, 0xc000_0201);
    let (mine, its) = (1_000_000u32, 3_000_000_000u32);
    let from_client = |flags, sequence, acknowledgment, payload_len| {
        let segment = TcpHeader {
            payload_len,
            ..segment(flags, sequence, acknowledgment)
        };
        packet(v4(client, server), protocol::TCP, Transport::Tcp(segment))
    };
    let mut answer = segment(TcpFlags::ACK, its, mine + 100);
    std::mem::swap(&mut answer.source_port, &mut answer.destination_port);
    let answer = packet(v4(server, client), protocol::TCP, Transport::Tcp(answer));
    let data = from_client(TcpFlags::ACK, mine, its, 100);
    open(&mut shard, &data, seconds(1)).unwrap();
    assert_eq!(track(&mut shard, &answer, seconds(1)), Some(Track::Pass));
    let mut sent = 0;
    for sequence in 0..4u32 {
        for acknowledgment in 0..4u32 {
            let blind = from_client(TcpFlags::ACK, sequence << 30, acknowledgment << 30, 1);
            track(&mut shard, &blind, seconds(1));
            sent += 1;
        }
    }
    for sequence in 0..4u32 {
        let blind = from_client(TcpFlags::RST, sequence << 30, 0, 0);
        track(&mut shard, &blind, seconds(1));
        sent += 1;
    }
    let state = view(&shard, &answer, seconds(1)).map(|view| view.state);
    assert_eq!(
        state,
        Some(FlowState::Established),
        "closed by {sent} segments of somebody who knows no number"
    );
}

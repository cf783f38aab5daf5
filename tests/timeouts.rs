//! Every timeout of `gateway.toml`, at both ends of its range, from the file to the table: refused
//! beyond, and kept to the second within.
#![cfg(test)]

use portcullis::clock::Tick;
use portcullis::config::{self, Config};
use portcullis::conntrack::{FlowClass, FragmentFate, NewFlow, Release, Shard};
use portcullis::document::{Report, Source};
use portcullis::gateway::shard_config;
use portcullis::packet::build::{self, FrameBuilder};
use portcullis::packet::{FlowKey, IpPacket, Parsed, parse};
use portcullis::types::{Direction, Generation, InterfaceSlot, LinkId, PortSide};

const LINK: LinkId = LinkId(0);
const START: u64 = 100;

/// A key, its range in seconds, and the frames after which it holds.
type Case = (&'static str, u64, u64, Vec<FrameBuilder>);

fn cases() -> Vec<Case> {
    let client = build::v4("192.0.2.9", "10.0.0.1").tcp(40_000, 80);
    let server = client.clone().reversed();
    let syn = client.clone().syn().sequence(100);
    let syn_ack = server.clone().syn().ack().sequence(500).acknowledgment(101);
    let ack = client.ack().sequence(101).acknowledgment(501);
    let fin = ack.clone().fin();
    let fin_back = server.clone().ack().sequence(501).acknowledgment(102).fin();
    let last = ack.clone().sequence(102).acknowledgment(502);
    let reset = server.rst().ack().sequence(501).acknowledgment(101);
    let opened = [syn, syn_ack, ack];
    let after = |more: &[FrameBuilder]| [&opened[..], more].concat();
    let ask = build::v4("192.0.2.9", "10.0.0.1").udp(4000, 53);
    let answer = ask.clone().reversed();
    let stream = [&ask, &answer, &ask, &answer].map(Clone::clone);
    let ping = build::v4("192.0.2.9", "10.0.0.1").echo_request(7, 1);
    let tunnel = build::v4("192.0.2.9", "10.0.0.1").protocol(47);
    vec![
        ("tcp_syn_sent", 1, 300, opened[..1].to_vec()),
        ("tcp_syn_received", 1, 300, opened[..2].to_vec()),
        ("tcp_established", 60, 432_000, opened.to_vec()),
        ("tcp_closing", 1, 600, after(std::slice::from_ref(&fin))),
        ("tcp_time_wait", 1, 600, after(&[fin, fin_back, last])),
        ("tcp_reset", 1, 600, after(&[reset])),
        ("udp", 30, 60, vec![ask]),
        ("udp_stream", 60, 180, stream.to_vec()),
        ("icmp", 1, 600, vec![ping]),
        ("other", 10, 3600, vec![tunnel]),
    ]
}

fn read(key: &str, seconds: u64) -> Result<Config, Report> {
    let text = format!(
        "policy = \"p.toml\"\n[[link]]\nname = \"l\"\ninside = \"i\"\noutside = \"o\"\n\
         [conntrack.timeouts]\n{key} = {seconds}\n"
    );
    config::parse(&Source::new("gateway.toml", text)).map(|checked| checked.value)
}

fn shard(key: &str, seconds: u64) -> Shard {
    let mut config = read(key, seconds).unwrap_or_else(|report| panic!("{report}"));
    config.conntrack.max_flows = 64;
    Shard::new(
        &shard_config(&config.conntrack, 1, [1, 2]),
        Tick::from_seconds(START),
    )
}

fn packet(frame: &FrameBuilder) -> IpPacket {
    let bytes = frame.build();
    match parse(&bytes, bytes.len()) {
        Parsed::Ip(packet) => packet,
        other => panic!("{other:?}"),
    }
}

/// Shows a frame to the table; the key of its flow.
fn show(shard: &mut Shard, frame: &FrameBuilder, now: Tick) -> FlowKey {
    let packet = packet(frame);
    let (key, from) = FlowKey::of(LINK, &packet).unwrap();
    let hash = shard.hash(&key);
    if let Some(index) = shard.find(&key, hash, now) {
        shard.track(index, &packet, from, 60, now);
        return key;
    }
    let new = NewFlow {
        interface: InterfaceSlot(0),
        rule: None,
        generation: Generation(1),
        class: FlowClass::Tracked,
        direction: Direction::Ingress,
        opener: from,
    };
    shard.open(&key, hash, &new, &packet, 60, now).unwrap();
    key
}

#[test]
fn a_time_out_of_range_is_refused_where_it_stands() {
    let fragment = ("fragment", 1, 60, Vec::new());
    for (key, low, high, _) in cases().into_iter().chain([fragment]) {
        for wrong in [low - 1, high + 1] {
            let report = read(key, wrong).unwrap_err().to_string();
            let says = format!("`{key}` is from {low} to {high} seconds, not {wrong}");
            assert!(report.contains(&says), "{report}");
            assert!(report.contains("gateway.toml:7:"), "{report}");
        }
        assert!(read(key, low).is_ok() && read(key, high).is_ok());
    }
}

#[test]
fn a_flow_of_each_state_lives_as_long_as_its_key_says() {
    for (key, low, high, frames) in cases() {
        for seconds in [low, high] {
            let mut shard = shard(key, seconds);
            let now = Tick::from_seconds(START);
            let show = |frame| show(&mut shard, frame, now);
            let flow = frames.iter().map(show).collect::<Vec<_>>()[0];
            let hash = shard.hash(&flow);
            let is_there = |after: u64| {
                let now = Tick::from_seconds(START + after);
                shard.find(&flow, hash, now).is_some()
            };
            assert!(is_there(seconds - 1), "{key} = {seconds}");
            assert!(!is_there(seconds + 1), "{key} = {seconds}");
        }
    }
}

#[test]
fn an_early_fragment_waits_as_long_as_its_key_says() {
    let datagram = build::v4("192.0.2.9", "10.0.0.1").udp(4000, 53);
    let later = packet(&datagram.payload_len(100).fragment(7, 48, false));
    for seconds in [1, 60] {
        let mut shard = shard("fragment", seconds);
        let now = Tick::from_seconds(START);
        let fate = shard.admit_fragment(LINK, PortSide::Outside, &later, now);
        let FragmentFate::Wait(ticket) = fate else {
            panic!("{fate:?}");
        };
        // Each turn looks at some of them.
        let mut turns = |after: u64| {
            let now = Tick::from_seconds(START + after);
            (0..8).for_each(|_| {
                shard.expire(now);
            });
            shard.pop_released()
        };
        assert_eq!(turns(seconds - 1), None, "{seconds} s");
        assert_eq!(turns(seconds + 1), Some((ticket, Release::Drop)));
    }
}

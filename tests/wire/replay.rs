//! `replay` of what was captured on the wire, held against what the wire did.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use serde_json::Value;

use crate::frames::{ACK, FIN, SYN, Segment, echo, ip, ipv4, tcp, udp};
use crate::host::{PATIENCE, SILENCE};
use crate::lab::{Lab, Plan, Side, text, wait_for, wire_test};
use crate::{ONE_SECOND, address, policy};

const RULES: &str = r#"ingress = [
        { protocol = "tcp", ports = 80, from = ["10.7.0.0/24", "2001:db8:7:0::/64"] },
        { protocol = "udp", ports = 53, from = ["0.0.0.0/0"] },
        { protocol = "icmp", type = 8, from = ["10.7.0.1/32"] },
    ]
    egress = [
        { protocol = "udp", ports = 53, to = ["10.7.0.0/24"] },
        { protocol = "icmpv6", to = ["2001:db8:7:0::/64"] },
    ]"#;

/// In the first datagrams that count of a capture: its files do not begin at the same moment, and
/// both kernels send by themselves (neighbour discovery).
const THE_START: &[u8] = b"the start of the capture";

/// In the last ones.
const THE_END: &[u8] = b"the end of the capture";

type Captured = (Duration, Vec<u8>);

fn start_captures(lab: &Lab) {
    for (side, name) in [(Side::Outside, "outside"), (Side::Inside, "inside")] {
        for way in ["in", "out"] {
            let file = lab.folder.join(format!("{name}-{way}.pcap"));
            let file = file.to_str().unwrap();
            let options = ["-i", "e0", "-Q", way, "-U", "-Z", "root", "-B", "32768"];
            let nano = "--time-stamp-precision=nano";
            let argv = [&["tcpdump", "-n", "-w", file, nano], &options[..]].concat();
            lab.host_of(side, 0).start(way, &argv);
        }
    }
    for name in ["outside-in", "outside-out", "inside-in", "inside-out"] {
        let file = lab.folder.join(format!("{name}.pcap"));
        wait_for(
            || fs::metadata(&file).is_ok_and(|file| file.len() >= 24),
            || format!("tcpdump does not begin: {}", file.display()),
        );
    }
    mark(lab, THE_START);
}

/// Sends a datagram each way, and so into every file.
fn mark(lab: &Lab, payload: &[u8]) {
    let [far, web] = ["10.7.0.40", "10.7.0.20"].map(address);
    assert!(lab.crosses(Side::Outside, &udp((far, 3), (web, 53), payload)));
    assert!(lab.crosses(Side::Inside, &udp((web, 53), (far, 3), payload)));
}

fn stop_captures(lab: &Lab) {
    // What was sent last has to be in every file: tcpdump gets its packets in blocks, up to a
    // second late, and forgets those that it has not got when it is stopped.
    mark(lab, THE_END);
    for name in ["outside-in", "outside-out", "inside-in", "inside-out"] {
        let file = lab.folder.join(format!("{name}.pcap"));
        let has_end = |bytes: Vec<u8>| has(&bytes, THE_END);
        wait_for(
            || fs::read(&file).is_ok_and(has_end),
            || format!("the end is not in {name}"),
        );
    }
    for side in [Side::Outside, Side::Inside] {
        for way in ["in", "out"] {
            let said = lab.host_of(side, 0).stop(way);
            assert!(
                said.out.contains("0 packets dropped by kernel"),
                "{}",
                said.out
            );
        }
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn read(path: &Path) -> Vec<Captured> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        packets.push((packet.timestamp, packet.data.into_owned()));
    }
    packets
}

fn write(path: &Path, packets: &[Captured]) {
    let header = pcap_file::pcap::PcapHeader {
        ts_resolution: pcap_file::TsResolution::NanoSecond,
        ..Default::default()
    };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for (time, data) in packets {
        let length = u32::try_from(data.len()).unwrap();
        writer
            .write_packet(&PcapPacket::new(*time, length, data))
            .unwrap();
    }
}

/// A bit of everything that the plain capture's rule of direction can tell. Nobody ends a
/// connection while the other end still sends: which of both the gateway saw first, two captures
/// cannot tell.
fn traffic(lab: &Lab) {
    let [client, web] = ["10.7.0.1", "10.7.0.10"];
    for web in [web, "2001:db8:7::10"] {
        lab.inside().serve_tcp(web, 80);
        lab.inside().serve_udp(web, 53);
        assert_eq!(lab.outside().tcp(web, 80, PATIENCE), "ok");
        assert_eq!(lab.outside().tcp(web, 81, SILENCE), "timeout");
    }
    assert_eq!(lab.outside().udp(web, 53, PATIENCE), "ok");
    assert_eq!(lab.outside().udp(web, 54, SILENCE), "timeout");
    assert_ne!(
        lab.inside().udp(client, 53, SILENCE),
        "ok",
        "nobody listens"
    );
    assert!(lab.outside().ping(web, PATIENCE));
    assert!(!lab.inside().ping(client, SILENCE));
    assert!(lab.inside().ping("2001:db8:7::1", PATIENCE));
    lab.outside().open("bulk", "tcp", web, 80);
    for _ in 0..40 {
        assert_eq!(lab.outside().say("bulk", 50_000, PATIENCE), "ok");
    }
    raw_traffic(lab);
}

fn raw_traffic(lab: &Lab) {
    let [far, web] = ["10.7.0.40", "10.7.0.20"].map(address);
    let [ask, answer] = [((far, 9), (web, 80)), ((web, 80), (far, 9))];
    let at = |flags, sequence, acknowledgment| Segment {
        flags,
        sequence,
        acknowledgment,
    };
    for (from, (source, target), segment) in [
        (Side::Inside, answer, at(SYN | ACK, 7, 7)),
        (Side::Outside, ask, at(SYN, 100, 0)),
        (Side::Inside, answer, at(SYN | ACK, 500, 101)),
        (Side::Outside, ask, at(ACK, 101, 501)),
        (Side::Outside, ask, at(FIN | ACK, 101, 501)),
        (Side::Inside, answer, at(FIN | ACK, 501, 102)),
        (Side::Outside, ask, at(ACK, 102, 502)),
        (Side::Outside, ask, at(ACK, 102, 502)),
        (Side::Inside, answer, at(ACK, 502, 102)),
        (Side::Outside, ask, at(SYN, 90_000, 0)),
    ] {
        lab.crosses(from, &tcp(source, target, segment, b""));
    }
    for packet in [
        udp((far, 1), (web, 53), b"untracked"),
        udp((far, 1), (address("10.7.0.99"), 53), b"unregistered"),
        ip(far, web, 6, &[0; 4]),
        ipv4(far, web, 17, [0, 1, 0, 9], &[0; 32]),
        echo(far, web, 8, 3),
        echo(far, web, 0, 3),
        [&udp((far, 2), (web, 53), b"a trailer follows")[..], &[0; 9]].concat(),
    ] {
        lab.crosses(Side::Outside, &packet);
    }
}

/// One of the four files, from the start's datagram to that of the end.
fn captured(lab: &Lab, name: &str) -> Vec<Captured> {
    let packets = read(&lab.folder.join(format!("{name}.pcap")));
    let at = |part| {
        packets
            .iter()
            .position(|(_, data)| has(data, part))
            .unwrap()
    };
    packets[at(THE_START)..=at(THE_END)].to_vec()
}

/// Everything that both hosts sent, in the order of its times.
fn sent(lab: &Lab) -> Vec<(Side, Captured)> {
    let mut sent = Vec::new();
    for (side, name) in [(Side::Outside, "outside-out"), (Side::Inside, "inside-out")] {
        let packets = captured(lab, name);
        sent.extend(packets.into_iter().map(|packet| (side, packet)));
    }
    sent.sort_by_key(|(_, (time, _))| *time);
    sent
}

/// Runs `replay`; its verdicts, and the frames that it allows.
fn replay(lab: &Lab, packets: &[Captured]) -> (Vec<Value>, Vec<Vec<u8>>) {
    write(&lab.folder.join("input.pcap"), packets);
    let files = ["--allowed", "allowed.pcap", "--verdicts", "verdicts.jsonl"];
    let input = ["replay", "--policy", "policy.toml", "--pcap", "input.pcap"];
    let done = lab.portcullis(&[&input[..], &files[..]].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(!done.stdout.is_empty(), "a summary");
    let lines = fs::read_to_string(lab.folder.join("verdicts.jsonl")).unwrap();
    let allowed = read(&lab.folder.join("allowed.pcap"));
    (
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        allowed.into_iter().map(|(_, data)| data).collect(),
    )
}

#[test]
fn replay_judges_a_capture_as_the_wire_did() {
    let policy = policy(RULES).replace("\"10.7.0.10\"", "\"10.7.0.10\", \"10.7.0.20\"");
    let plan = Plan {
        policy: &policy,
        gateway: ONE_SECOND,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        start_captures(lab);
        traffic(lab);
        stop_captures(lab);
        let sent = sent(lab);
        assert!(sent.len() > 1000, "{} packets", sent.len());
        let packets: Vec<Captured> = sent.iter().map(|(_, packet)| packet.clone()).collect();
        let (verdicts, out) = replay(lab, &packets);
        assert_eq!(verdicts.len(), packets.len(), "a line for each packet");
        let allowed: Vec<(Side, &Vec<u8>)> = sent
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict["verdict"] == "allow")
            .map(|((side, (_, data)), _)| (*side, data))
            .collect();
        assert!(
            out.iter().eq(allowed.iter().map(|(_, data)| *data)),
            "--allowed"
        );
        for (from, at) in [(Side::Outside, "inside-in"), (Side::Inside, "outside-in")] {
            let judged: Vec<&Vec<u8>> = allowed
                .iter()
                .filter(|(side, _)| *side == from)
                .map(|(_, data)| *data)
                .collect();
            compare(&judged, &captured(lab, at), at);
        }
        check_lines(&verdicts);
    });
}

fn check_lines(verdicts: &[Value]) {
    let denied = verdicts
        .iter()
        .filter(|verdict| verdict["verdict"] == "deny");
    let reasons: std::collections::BTreeSet<_> = denied
        .map(|verdict| verdict["reason"].as_str().unwrap())
        .collect();
    for reason in [
        "no-rule",
        "unregistered",
        "malformed",
        "invalid",
        "fragment",
    ] {
        assert!(reasons.contains(reason), "{reason} of {reasons:?}");
    }
    let all = [
        "index",
        "time",
        "interface",
        "direction",
        "verdict",
        "reason",
        "rule",
        "group",
    ];
    for (index, verdict) in verdicts.iter().enumerate() {
        assert_eq!(verdict["index"], index);
        let keys: Vec<_> = verdict.as_object().unwrap().keys().collect();
        assert_eq!(keys, all);
    }
}

/// Addresses and ports of a frame without tags, options and extension headers.
fn conversation(frame: &[u8]) -> &[u8] {
    let ipv4 = frame[12..14] == [8, 0];
    let (addresses, payload) = if ipv4 { (26, 34) } else { (22, 54) };
    &frame[addresses..frame.len().min(payload + 4)]
}

/// Each conversation by itself: what two cores send through a veth at the same time may overtake
/// between the capture and the wire, what one socket sends may not.
fn compare(judged: &[&Vec<u8>], arrived: &[Captured], at: &str) {
    let mut judged = judged.to_vec();
    let mut arrived: Vec<&Vec<u8>> = arrived.iter().map(|(_, data)| data).collect();
    for frames in [&mut judged, &mut arrived] {
        frames.sort_by_key(|frame| conversation(frame));
    }
    for (index, (judged, arrived)) in judged.iter().zip(&arrived).enumerate() {
        assert!(
            judged == arrived,
            "{at} {index}: replay allows {}, the wire brought {}",
            crate::frames::hex(judged),
            crate::frames::hex(arrived)
        );
    }
    assert_eq!(judged.len(), arrived.len(), "{at}");
}

/// Writes pcapng whose packets say which port they came in on.
fn write_pcapng(path: &Path, packets: &[(Side, Vec<u8>)]) {
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };
    let mut writer = PcapNgWriter::new(File::create(path).unwrap()).unwrap();
    for name in ["in0", "out0"] {
        let block = InterfaceDescriptionBlock {
            linktype: pcap_file::DataLink::ETHERNET,
            snaplen: 0,
            options: vec![InterfaceDescriptionOption::IfName(name.into())],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    for (index, (from, data)) in (0_u64..).zip(packets) {
        let block = EnhancedPacketBlock {
            interface_id: u32::from(*from == Side::Outside),
            timestamp: Duration::from_micros(1_700_000_000_000_000 + index),
            original_len: u32::try_from(data.len()).unwrap(),
            data: data.into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).unwrap();
    }
}

#[test]
fn a_capture_that_names_its_ports_is_judged_by_them() {
    let policy = policy(RULES);
    let plan = Plan {
        policy: &policy,
        ..Plan::default()
    };
    wire_test(&plan, |lab| {
        let [far, web, stranger] = ["10.7.0.40", "10.7.0.10", "10.7.0.99"].map(address);
        let packets = [
            (Side::Outside, udp((web, 53), (far, 53), b"spoofed")),
            (Side::Inside, udp((web, 53), (far, 53), b"not spoofed")),
            (
                Side::Inside,
                udp((stranger, 53), (far, 53), b"unregistered"),
            ),
            (
                Side::Inside,
                udp((far, 53), (web, 53), b"an outside address inside"),
            ),
            (Side::Outside, udp((far, 7), (web, 53), b"good")),
            (Side::Outside, ip(far, web, 132, &[0; 40])),
        ];
        let frames: Vec<(Side, Vec<u8>)> = packets
            .iter()
            .flat_map(|(from, packet)| {
                let tags: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 7)], &[(0x88a8, 8), (0x8100, 9)]];
                tags.map(|tags| (*from, lab.tagged(*from, 0, tags, packet)))
            })
            .collect();
        let wire: Vec<bool> = frames
            .iter()
            .map(|(from, frame)| lab.cross(*from, std::slice::from_ref(frame))[0])
            .collect();
        write_pcapng(&lab.folder.join("named.pcapng"), &frames);
        let done = lab.portcullis(&[
            "replay",
            "--policy",
            "policy.toml",
            "--config",
            "gateway.toml",
            "--pcap",
            "named.pcapng",
            "--verdicts",
            "named.jsonl",
        ]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        let lines = fs::read_to_string(lab.folder.join("named.jsonl")).unwrap();
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), frames.len());
        for (line, passed) in lines.iter().zip(&wire) {
            assert_eq!(line["verdict"] == "allow", *passed, "{line}");
        }
        assert_eq!(
            [&lines[0]["reason"], &lines[0]["direction"]],
            ["spoofed", "ingress"]
        );
        assert!(wire.iter().any(|passed| *passed) && wire.iter().any(|passed| !passed));
    });
}

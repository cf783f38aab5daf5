//! Random frames: valid stacks of headers, some fields broken, then bytes changed and cut.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::packet::Address;
use crate::packet::build::{self, FrameBuilder};

/// A frame and its length on the wire.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    pub(super) original_len: usize,
}

/// Frames as the builder makes them: correct but for one field at most.
pub(super) fn frames() -> impl Strategy<Value = FrameBuilder> {
    (
        network(),
        vec(
            (
                prop::sample::select(vec![0x8100_u16, 0x88a8, 0x9100]),
                any::<u16>(),
            ),
            0..=3,
        ),
        layer4(),
        prop_oneof![
            0..70_usize,
            prop::sample::select(vec![0_usize, 4, 8, 12, 16, 20, 24, 32])
        ],
        option::weighted(0.3, broken()),
        0..110_usize,
    )
        .prop_map(|(network, tags, layer4, payload_len, broken, pad_to)| {
            let frame = tags
                .into_iter()
                .fold(network, |frame, (ethertype, control)| {
                    frame.tag(ethertype, control)
                });
            let frame = layer4.0(frame).payload_len(payload_len).pad_to(pad_to);
            match broken {
                Some(broken) => broken.0(frame),
                None => frame,
            }
        })
}

/// Frames with up to three bytes changed, cut or lengthened, some as a capture would cut them.
pub(super) fn samples() -> impl Strategy<Value = Sample> {
    (
        frames(),
        vec((0..90_usize, any::<u8>()), 0..=3),
        any::<bool>(),
        option::weighted(0.3, 0..120_usize),
        option::weighted(0.3, 0..200_usize),
    )
        .prop_map(|(frame, changes, mend, cut_to, original_len)| {
            let mut bytes = frame.build();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if mend {
                mend_checksum(&mut bytes);
            }
            let wire_len = bytes.len();
            bytes.truncate(cut_to.unwrap_or(usize::MAX));
            // Cut on the wire, by the capture, or said to be any length at all.
            let original_len = match (cut_to, original_len) {
                (_, Some(len)) => len,
                (Some(cut_to), None) if cut_to % 2 == 0 => wire_len,
                _ => bytes.len(),
            };
            Sample {
                bytes,
                original_len,
            }
        })
}

/// Makes the IPv4 header checksum right again, so that changes behind it are reached.
fn mend_checksum(frame: &mut [u8]) {
    let mut at = 12;
    while let Some([0x81 | 0x88 | 0x91, 0 | 0xa8]) = frame.get(at..at + 2) {
        at += 4;
    }
    let (Some([8, 0]), Some(first)) = (frame.get(at..at + 2), frame.get(at + 2)) else {
        return;
    };
    let len = usize::from(first % 16).max(5) * 4;
    if let Some(header) = frame.get_mut(at + 2..at + 2 + len) {
        header[10..12].fill(0);
        let sum = build::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn network() -> impl Strategy<Value = FrameBuilder> {
    let address = |bits: [u8; 16], is_v4: bool| match is_v4 {
        true => Address::V4(u32::from_be_bytes([bits[0], bits[1], bits[2], bits[3]])),
        false => Address::V6(u128::from_be_bytes(bits)),
    };
    let addresses = (any::<bool>(), any::<[u8; 16]>(), any::<[u8; 16]>(), 0..8_u8).prop_map(
        move |(is_v4, source, destination, same)| {
            let source = address(source, is_v4);
            let destination = address(destination, is_v4);
            build::between(source, if same == 0 { source } else { destination })
        },
    );
    let piece = (any::<u32>(), 0..8192_u16, 0..4_u8, any::<bool>());
    let piece = piece.prop_map(|(id, units, near, more)| {
        let offset = if near < 3 { u16::from(near) } else { units };
        (id, offset * 8, more)
    });
    (
        addresses,
        any::<u8>(),
        option::weighted(0.2, vec(any::<u8>(), 0..=40)),
        option::weighted(0.4, vec(extension(), 0..=9)),
        option::weighted(0.25, (piece, any::<bool>())),
    )
        .prop_map(|(frame, hops, options, extensions, piece)| {
            let mut frame = frame
                .hop_limit(hops)
                .ip_options(&options.unwrap_or_default());
            if let Some(((id, offset, more), true)) = piece {
                frame = frame.fragment(id, offset, more);
            }
            for (number, bytes) in extensions.unwrap_or_default() {
                frame = frame.extension(number, &bytes);
            }
            if let Some(((id, offset, more), false)) = piece {
                frame = frame.fragment(id, offset, more);
            }
            frame
        })
}

/// An extension header of 8, 16 or 24 bytes, or one that says that it is longer.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let number = prop_oneof![
        1 => Just(0), 4 => Just(43), 1 => Just(44), 6 => Just(60), 4 => Just(135), 1 => Just(51)
    ];
    (
        number,
        0..3_u8,
        option::weighted(0.05, any::<u8>()),
        0..8_u8,
        any::<[u8; 24]>(),
    )
        .prop_map(|(number, more, wrong, kind, mut bytes)| {
            bytes[1] = wrong.unwrap_or(more);
            bytes[2] = kind;
            if number == 44 {
                bytes[3] = 0;
            }
            let len = if number == 44 {
                8
            } else {
                8 + usize::from(more) * 8
            };
            (number, bytes[..len].to_vec())
        })
}

/// One thing done to a builder.
struct Step(Box<dyn Fn(FrameBuilder) -> FrameBuilder>);

impl Step {
    fn new(step: impl Fn(FrameBuilder) -> FrameBuilder + 'static) -> Self {
        Self(Box::new(step))
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

fn layer4() -> impl Strategy<Value = Step> {
    let ports = || (any::<u16>(), any::<u16>(), 0..6_u8);
    let same = |(a, b, same): (u16, u16, u8)| if same == 0 { (a, a) } else { (a, b) };
    let options = prop_oneof![
        vec(any::<u8>(), 0..=40),
        vec(prop::sample::select(vec![0_u8, 1, 2, 3, 4, 8, 15]), 0..=40),
    ];
    prop_oneof![
        (
            ports(),
            any::<[u32; 2]>(),
            any::<u8>(),
            any::<u16>(),
            options
        )
            .prop_map(
                move |(ports, [sequence, acknowledgment], flags, window, options)| {
                    let (source, destination) = same(ports);
                    let step = move |frame: FrameBuilder| {
                        frame
                            .tcp(source, destination)
                            .acknowledgment(acknowledgment)
                            .sequence(sequence)
                            .flags(flags)
                            .window(window)
                            .tcp_options(&options)
                    };
                    Step::new(step)
                }
            ),
        ports().prop_map(move |ports| {
            let (source, destination) = same(ports);
            Step::new(move |frame: FrameBuilder| frame.udp(source, destination))
        }),
        (
            prop_oneof![any::<u8>(), 128..140_u8],
            any::<u8>(),
            any::<[u8; 4]>()
        )
            .prop_map(|(kind, code, rest)| {
                Step::new(move |frame: FrameBuilder| frame.icmp(kind, code, rest))
            }),
        any::<u8>()
            .prop_map(|number| { Step::new(move |frame: FrameBuilder| frame.protocol(number)) }),
    ]
}

fn broken() -> impl Strategy<Value = Step> {
    (0..8_u8, prop_oneof![0..120_u16, any::<u16>()]).prop_map(|(field, value)| {
        let byte = value.to_be_bytes()[1];
        Step::new(move |frame: FrameBuilder| match field {
            0 => frame.broken_version(byte % 16),
            1 => frame.broken_header_words(byte % 16),
            2 => frame.broken_ip_len(value),
            3 => frame.broken_ip_checksum(value),
            4 => frame.broken_protocol(byte),
            5 => frame.broken_udp_len(value),
            6 => frame.broken_data_offset(byte % 16),
            _ => frame.cut_to(usize::from(value)),
        })
    })
}

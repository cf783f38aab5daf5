//! A gateway of one worker in memory, and the frames of its flows.

use std::time::Duration;

use super::floor::WORDS_V4;
use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::compile::sample::Random;
use portcullis::conntrack::{Candidate, FlowIndex, Shard, ShardConfig, Timeouts};
use portcullis::document::Source;
use portcullis::packet::build::{self, FrameBuilder};
use portcullis::packet::{FlowKey, LongAddresses, PackedKey, Parsed, parse};
use portcullis::pipeline::{Arrival, BATCH_MAX, Batch, Fate, Origin, PipelineConfig, Place};
use portcullis::policy::{self, KnownLinks};
use portcullis::snapshot::Snapshot;
use portcullis::types::{Generation, LinkId, PassReason, PortSide, Verdict};

const FRAME_MAX: usize = 80;
const LINK: LinkId = LinkId(0);

/// What the traffic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP over IPv4, from clients only.
    Udp,
    /// Established TCP over IPv4, data from both ends at random.
    Tcp,
    /// UDP over IPv6, from clients only.
    Udp6,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Udp6];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp4",
            Self::Tcp => "tcp4",
            Self::Udp6 => "udp6",
        }
    }

    /// Where the words are that tell flows apart: the address and the port of IPv4, or the end of
    /// an IPv6 address and the port.
    pub(crate) fn floor_words(self) -> [usize; 2] {
        match self {
            Self::Udp | Self::Tcp => WORDS_V4,
            Self::Udp6 => [30, 54],
        }
    }

    /// A frame of flow 0 of network `first`, without the numbers that `Flow` fills in.
    fn template(self, first: u8) -> FrameBuilder {
        let payload = [0; 18];
        match self {
            Self::Udp => build::v4(&format!("{first}.0.0.0"), "192.0.2.1")
                .udp(0, 53)
                .payload(&payload),
            Self::Tcp => build::v4(&format!("{first}.0.0.0"), "192.0.2.1").tcp(0, 53),
            Self::Udp6 => build::v6(&format!("2001:db8:{first:x}::"), "2001:db8::1")
                .udp(0, 53)
                .payload(&payload),
        }
    }

    /// Where the client's number goes: its address's last four bytes, as source and as target.
    fn address_at(self, is_reply: bool) -> usize {
        let source = if self == Self::Udp6 { 34 } else { 26 };
        let next = if self == Self::Udp6 { 16 } else { 4 };
        if is_reply { source + next } else { source }
    }

    fn port_at(self, is_reply: bool) -> usize {
        let source = if self == Self::Udp6 { 54 } else { 34 };
        if is_reply { source + 2 } else { source }
    }
}

/// A thousand rules on one interface; the traffic's are among them.
fn policy() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "[security_groups.web]\ndescription = \"bench\"\negress = []\ningress = [\n\
         { protocol = \"udp\", ports = 53, from = [\"10.0.0.0/8\", \"2001:db8:a::/48\"] },\n\
         { protocol = \"tcp\", ports = 53, from = [\"10.0.0.0/8\"] },\n",
    );
    for index in 0..998 {
        let (a, b) = (index / 250, index % 250);
        writeln!(
            text,
            "{{ protocol = \"tcp\", ports = {}, from = [\"198.{a}.{b}.0/24\"] }},",
            1000 + index
        )
        .expect("text grows");
    }
    text.push_str("]\n[interfaces.server]\naddresses = [\"192.0.2.1\", \"2001:db8::1\"]\n");
    text.push_str("groups = [\"web\"]\n");
    text
}

/// One packet of a flow: what differs between flows' frames, big-endian.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    address: [u8; 4],
    port: [u8; 2],
    checksum: [u8; 2],
    pub(crate) is_reply: bool,
}

/// The flows of one kind from one network.
pub(crate) struct Flows {
    kind: Kind,
    first: u8,
    /// The header checksum's sum without the client's address.
    sum: u32,
}

impl Flows {
    pub(crate) fn new(kind: Kind, first: u8) -> Self {
        let mut frame = kind.template(first).build();
        frame[24..26].fill(0);
        frame[26..30].fill(0);
        let words = frame[14..34].chunks_exact(2);
        let sum = words
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        Self { kind, first, sum }
    }

    pub(crate) fn flow(&self, index: u32, is_reply: bool) -> Flow {
        let [_, b, c, d] = (index >> 3).to_be_bytes();
        // The last bytes of an IPv6 address are the host's alone.
        let first = if self.kind == Kind::Udp6 {
            1
        } else {
            self.first
        };
        let address = [first, b, c, d];
        let bits = u32::from_be_bytes(address);
        let sum = self.sum + (bits >> 16) + (bits & 0xffff);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        Flow {
            address,
            port: (1024 + (index & 7) as u16).to_be_bytes(),
            checksum: (!(folded as u16)).to_be_bytes(),
            is_reply,
        }
    }

    /// Packets of uniformly drawn flows: enough that no cache holds what they lead to.
    pub(crate) fn draws(&self, flows: u32, count: usize) -> Vec<Flow> {
        let mut random = Random::new(7);
        (0..count)
            .map(|_| {
                let is_reply = self.kind == Kind::Tcp && random.chance(50);
                self.flow(random.below(flows as usize) as u32, is_reply)
            })
            .collect()
    }
}

/// The frames of a burst, in both directions.
#[derive(Clone)]
struct Frames {
    there: Vec<[u8; FRAME_MAX]>,
    back: Vec<[u8; FRAME_MAX]>,
    len: usize,
}

impl Frames {
    fn new(template: &FrameBuilder) -> Self {
        let padded = |frame: FrameBuilder| {
            let mut bytes = frame.pad_to(60).build();
            let len = bytes.len();
            bytes.resize(FRAME_MAX, 0);
            let frame: [u8; FRAME_MAX] = bytes.try_into().expect("a small frame");
            (vec![frame; BATCH_MAX], len)
        };
        let (there, len) = padded(template.clone());
        let (back, _) = padded(template.clone().reversed());
        Self { there, back, len }
    }
}

pub(crate) struct World {
    snapshot: Snapshot,
    config: PipelineConfig,
    pub(crate) shard: Shard,
    batch: Batch,
    frames: Frames,
    kind: Kind,
    now: Tick,
}

impl World {
    pub(crate) fn new(kind: Kind, first: u8, max_flows: u32) -> Self {
        let source = Source::new("bench", policy());
        let links = ["link".to_owned()];
        let policy = policy::parse(&source, KnownLinks::Names(&links)).expect("a good policy");
        let snapshot = Compiler::new()
            .compile(&policy.value, &["link"], Generation(1))
            .expect("compiles");
        let shard = ShardConfig {
            timeouts: Timeouts {
                udp: Duration::from_secs(3600),
                ..Timeouts::default()
            },
            ..ShardConfig::new(max_flows, [11, 12])
        };
        Self {
            snapshot,
            config: PipelineConfig::default(),
            shard: Shard::new(&shard, Tick(0)),
            batch: Batch::default(),
            frames: Frames::new(&kind.template(first)),
            kind,
            now: Tick::from_seconds(1),
        }
    }

    /// A world with this many live flows, the table eight ninths full.
    pub(crate) fn opened(kind: Kind, flows: u32) -> Self {
        let mut world = Self::new(kind, 10, flows + flows / 8 + 64);
        let template = kind.template(10);
        let numbers = Flows::new(kind, 10);
        let reply = template.clone().reversed();
        // A client's packets and the server's answers until the flow is in the middle of its life.
        let steps: Vec<(FrameBuilder, bool)> = match kind {
            Kind::Udp | Kind::Udp6 => vec![(template.clone(), false); 2],
            Kind::Tcp => vec![
                (template.clone().syn().sequence(99), false),
                (reply.syn().ack().sequence(199).acknowledgment(100), true),
                (
                    template.clone().ack().sequence(100).acknowledgment(200),
                    false,
                ),
            ],
        };
        for (step, (frame, is_reply)) in steps.iter().enumerate() {
            let there = if *is_reply {
                frame.clone().reversed()
            } else {
                frame.clone()
            };
            world.frames = Frames::new(&there);
            for start in (0..flows).step_by(BATCH_MAX) {
                let burst: Vec<Flow> = (start..start + 64)
                    .map(|index| numbers.flow(index, *is_reply))
                    .collect();
                world.write(&burst);
                let reason = if step == 0 {
                    PassReason::Rule
                } else {
                    PassReason::Tracked
                };
                let passed = world.run(&burst, Verdict::Pass(reason));
                assert_eq!(passed, BATCH_MAX, "{kind:?} {step}");
            }
        }
        if kind == Kind::Tcp {
            let data = template.ack().sequence(100).acknowledgment(200);
            world.frames.there = Frames::new(&data).there;
            let data = data.reversed().sequence(200).acknowledgment(100);
            world.frames.back = Frames::new(&data).there;
        }
        world
    }

    /// Makes the burst's frames those of the given packets.
    pub(crate) fn write(&mut self, flows: &[Flow]) {
        let Frames { there, back, .. } = &mut self.frames;
        for ((there, back), flow) in there.iter_mut().zip(back).zip(flows) {
            let frame = if flow.is_reply { back } else { there };
            let address = self.kind.address_at(flow.is_reply);
            let port = self.kind.port_at(flow.is_reply);
            frame[address..address + 4].copy_from_slice(&flow.address);
            frame[port..port + 2].copy_from_slice(&flow.port);
            if self.kind != Kind::Udp6 {
                frame[24..26].copy_from_slice(&flow.checksum);
            }
        }
    }

    /// The burst's frames as they are now.
    pub(crate) fn frames<'a>(&'a self, flows: &'a [Flow]) -> impl Iterator<Item = &'a [u8]> {
        let Frames { there, back, len } = &self.frames;
        let both = there.iter().zip(back).zip(flows);
        both.map(|((there, back), flow)| &if flow.is_reply { back } else { there }[..*len])
    }

    /// Parses the burst.
    pub(crate) fn parse(&mut self, flows: &[Flow]) {
        self.batch.clear();
        let place = Place {
            config: &self.config,
            steering: None,
        };
        let Frames { there, back, len } = &self.frames;
        for ((there, back), flow) in there.iter().zip(back).zip(flows) {
            let (frame, side) = if flow.is_reply {
                (back, PortSide::Inside)
            } else {
                (there, PortSide::Outside)
            };
            let arrival = Arrival {
                link: LINK,
                side,
                original_len: *len as u32,
            };
            self.batch
                .push(&frame[..*len], arrival, &place, &self.shard, Origin::Queue);
        }
    }

    /// Judges the burst; returns how many passed as expected.
    pub(crate) fn run(&mut self, flows: &[Flow], expected: Verdict) -> usize {
        self.shard.expire(self.now);
        self.parse(flows);
        let place = Place {
            config: &self.config,
            steering: None,
        };
        self.batch
            .run(&place, &mut self.shard, &self.snapshot, self.now);
        let is_expected =
            |fate: &Fate| matches!(fate, Fate::Judged(outcome) if outcome.verdict == expected);
        self.batch.fates().filter(is_expected).count()
    }

    /// The keys of these packets.
    pub(crate) fn keys(&mut self, flows: &[Flow]) -> Vec<(PackedKey, LongAddresses)> {
        let mut keys = Vec::new();
        for burst in flows.chunks_exact(BATCH_MAX) {
            self.write(burst);
            keys.extend(self.frames(burst).map(|frame| {
                let Parsed::Ip(packet) = parse(frame, frame.len()) else {
                    panic!("a good frame");
                };
                PackedKey::of(&FlowKey::of(LINK, &packet).expect("a flow").0)
            }));
        }
        keys
    }
}

/// A batch of keys looked up: hash, bucket, the entry's key compared. How many are there; where
/// two keys share a bucket and a tag, one of them is looked up again, alone.
pub(crate) fn look_up(shard: &Shard, keys: &[(PackedKey, LongAddresses)]) -> usize {
    let mut hashes = [Default::default(); BATCH_MAX];
    let mut flows = [FlowIndex::NONE; BATCH_MAX];
    for ((key, beside), hash) in keys.iter().zip(&mut hashes) {
        *hash = shard.hash_packed(key, beside);
        shard.prefetch_bucket(*hash);
    }
    for (((key, _), hash), flow) in keys.iter().zip(&hashes).zip(&mut flows) {
        *flow = match shard.candidate(*hash, key) {
            Candidate::Entry(flow) => flow,
            Candidate::Second => shard
                .second_candidate(*hash, key)
                .unwrap_or(FlowIndex::NONE),
            Candidate::None => FlowIndex::NONE,
        };
    }
    let found = keys.iter().zip(&flows);
    found
        .zip(&hashes)
        .filter(|(((key, beside), flow), hash)| {
            shard.has_key(**flow, key, beside) || shard.find_key(key, beside, **hash).is_some()
        })
        .count()
}

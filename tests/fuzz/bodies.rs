//! What each fuzz target does with its input. Shared by the targets of `cargo fuzz` and by the
//! smoke test on stable (tests/fuzz_smoke.rs): no input may make one panic.

#[path = "spoken.rs"]
mod spoken;

use std::sync::LazyLock;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::config;
use portcullis::conntrack::{PerInterface, Release, Shard, ShardConfig, TcpPickup, WAITING_MAX};
use portcullis::document::Source;
use portcullis::packet::{FlowKey, Fragment, Parsed, parse, parse_quoted};
use portcullis::pipeline::{
    Arrival, BATCH_MAX, Batch, Fate, IcmpErrors, LinkRules, OnRuleRemoved, Origin, PipelineConfig,
    Place, Steering,
};
use portcullis::policy::{self, KnownLinks, Policy};
use portcullis::snapshot::Snapshot;
use portcullis::types::{DropReason, Generation, LinkId, PortSide, Verdict, WorkerId};

use self::spoken::SPOKEN_LEN;

/// The policy that the batch is judged by: rules of every kind.
const POLICY: &str = include_str!("../../configs/policy.toml");
/// Bytes of a document at most; its size is no concern of these targets.
const DOCUMENT_LEN_MAX: usize = 1 << 14;
/// Flows of the shard, so few that it is soon full.
const FLOWS_MAX: u32 = 16;

/// The frame parser: what it accepts agrees with itself and with what it was told.
pub(crate) fn frame(data: &[u8]) {
    // A capture may have cut the frame: the first byte says by how much it was longer.
    let Some((&longer, bytes)) = data.split_first() else {
        return;
    };
    let lengths = [bytes.len(), bytes.len() + usize::from(longer)];
    for original_len in lengths {
        let parsed = parse(bytes, original_len);
        assert_eq!(parsed, parse(bytes, original_len), "a pure function");
        let quoted = parse_quoted(bytes, original_len);
        let Parsed::Ip(packet) = parsed else {
            assert!(quoted.is_none(), "an error that is no packet");
            continue;
        };
        if let Some(quoted) = quoted {
            assert_eq!(quoted.addresses.family(), packet.addresses.family());
            assert!(!matches!(quoted.fragment, Fragment::Later { .. }));
        }
        let Some((key, from)) = FlowKey::of(LinkId(0), &packet) else {
            continue;
        };
        assert_eq!(key.end(from).0, packet.addresses.source());
        assert_eq!(key.end(from.opposite()).0, packet.addresses.destination());
        assert!(key.low <= key.high, "canonical");
    }
}

/// The policy document: a report or a policy that compiles or says why not.
pub(crate) fn policy(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    let links = ["uplink".to_owned(), "second".to_owned()];
    for known in [KnownLinks::Names(&links), KnownLinks::Unknown] {
        match policy::parse(&Source::new("policy.toml", text), known) {
            Err(report) => assert!(!report.to_string().is_empty(), "refused in silence"),
            Ok(checked) => {
                let _warnings = checked.warnings.to_string();
                compiles(&checked.value);
            }
        }
    }
}

fn compiles(policy: &Policy) {
    let mut compiler = Compiler::new();
    if let Ok(snapshot) = compiler.compile(policy, &["uplink", "second"], Generation(1)) {
        assert_eq!(snapshot.rules().count(), policy.count().rules);
        let again = compiler.compile(policy, &["uplink", "second"], Generation(2));
        let again = again.expect("what compiled once compiles again");
        assert!(
            again
                .rules()
                .map(|r| r.slot)
                .eq(snapshot.rules().map(|r| r.slot))
        );
    }
}

/// The gateway document: a report or a configuration.
pub(crate) fn gateway(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    match config::parse(&Source::new("gateway.toml", text)) {
        Err(report) => assert!(!report.to_string().is_empty(), "refused in silence"),
        Ok(checked) => {
            let _notes = (checked.warnings.to_string(), checked.notes.to_string());
        }
    }
}

fn text(data: &[u8]) -> Option<&str> {
    let data = data.get(..DOCUMENT_LEN_MAX).unwrap_or(data);
    std::str::from_utf8(data).ok()
}

/// The policy that batches are judged by, and one that forbids everything.
static SNAPSHOTS: LazyLock<[Snapshot; 2]> = LazyLock::new(|| {
    let links = ["uplink".to_owned()];
    let source = Source::new("policy.toml", POLICY);
    let policy = policy::parse(&source, KnownLinks::Names(&links));
    let policy = policy.expect("the example is right").value;
    let snapshot = Compiler::new().compile(&policy, &["uplink"], Generation(1));
    let snapshot = snapshot.expect("the example compiles");
    [snapshot, Snapshot::empty(Generation(2))]
});

/// A frame, and the port that it came in by.
type Incoming = (PortSide, Vec<u8>);

/// What the batch is judged with.
struct World {
    config: PipelineConfig,
    shard: Shard,
    steering: Steering,
    batch: Batch,
    /// Fragments that wait, by ticket.
    waiting: Vec<Option<Incoming>>,
    /// Those whose first fragment has come.
    again: Vec<Incoming>,
    now: Tick,
}

impl World {
    fn new(settings: u8) -> Self {
        let limit = u32::from(settings >> 4 & 3);
        let shard = ShardConfig {
            per_interface: PerInterface {
                max_flows: limit * 3,
                new_per_second: if settings & 64 != 0 { limit } else { 0 },
            },
            tcp_pickup: match settings & 1 {
                0 => TcpPickup::Rules,
                _ => TcpPickup::SynOnly,
            },
            tcp_strict: settings & 2 != 0,
            ..ShardConfig::new(FLOWS_MAX, [1, 2])
        };
        Self {
            config: PipelineConfig {
                links: vec![LinkRules::default()],
                icmp_errors: match settings & 4 {
                    0 => IcmpErrors::Related,
                    _ => IcmpErrors::Rules,
                },
                on_rule_removed: match settings & 8 {
                    0 => OnRuleRemoved::Keep,
                    _ => OnRuleRemoved::Revalidate,
                },
                ..PipelineConfig::default()
            },
            shard: Shard::new(&shard, Tick(0)),
            steering: Steering::new([3, 4], 2),
            batch: Batch::default(),
            waiting: vec![None; WAITING_MAX],
            again: Vec::new(),
            now: Tick(0),
        }
    }

    /// One batch, and what waited for it: each frame has one fate.
    fn run(&mut self, frames: Vec<Incoming>, generation: usize, is_steered: bool) {
        self.judge(frames, generation, is_steered, Origin::Queue);
        // Each fragment waits at most once more for every other.
        for _ in 0..=WAITING_MAX {
            while let Some((ticket, release)) = self.shard.pop_released() {
                let frame = self.waiting[ticket.index()].take();
                let frame = frame.expect("released, and never held");
                if release == Release::Retry {
                    self.again.push(frame);
                }
            }
            if self.again.is_empty() {
                break;
            }
            let rest = self.again.split_off(self.again.len().min(BATCH_MAX));
            let frames = std::mem::replace(&mut self.again, rest);
            self.judge(frames, generation, is_steered, Origin::Steered);
        }
        assert!(self.again.is_empty(), "asked about again without end");
        self.shard.expire(self.now);
    }

    fn judge(
        &mut self,
        frames: Vec<Incoming>,
        generation: usize,
        is_steered: bool,
        origin: Origin,
    ) {
        self.batch.clear();
        let place = Place {
            config: &self.config,
            steering: is_steered.then_some((&self.steering, WorkerId(0))),
        };
        for (side, bytes) in &frames {
            let arrival = Arrival {
                link: LinkId(0),
                side: *side,
                original_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            };
            self.batch.push(bytes, arrival, &place, &self.shard, origin);
        }
        let before = self.shard.stats();
        let snapshot = &SNAPSHOTS[generation];
        self.batch.run(&place, &mut self.shard, snapshot, self.now);
        let (count, mut fates) = (frames.len(), 0);
        for (fate, frame) in self.batch.fates().zip(frames) {
            fates += 1;
            match fate {
                Fate::HandOver(owner) | Fate::HandOverPiece(owner, _) => {
                    assert!(is_steered && owner == WorkerId(1));
                }
                Fate::Hold(ticket) => {
                    let is_early = matches!(piece_of(&frame.1), Some(Fragment::Later { .. }));
                    assert!(is_early, "nothing else waits");
                    let former = self.waiting[ticket.index()].replace(frame);
                    assert!(former.is_none(), "a ticket is given once");
                }
                Fate::Judged(outcome) => {
                    let is_pass = matches!(outcome.verdict, Verdict::Pass(_));
                    let is_fragment = outcome.verdict == Verdict::Drop(DropReason::Fragment);
                    assert!(!is_fragment || piece_of(&frame.1).is_some(), "a whole one");
                    let bytes = &frame.1;
                    let is_malformed = matches!(parse(bytes, bytes.len()), Parsed::Malformed(_));
                    assert!(!is_pass || !is_malformed, "{frame:?}");
                }
            }
        }
        assert_eq!(fates, count, "one fate each");
        let after = self.shard.stats();
        assert!(after.flows <= FLOWS_MAX && after.opened >= before.opened);
        assert!(after.opened - before.opened <= count as u64);
    }
}

/// Which piece of a datagram a frame is.
fn piece_of(bytes: &[u8]) -> Option<Fragment> {
    let Parsed::Ip(packet) = parse(bytes, bytes.len()) else {
        return None;
    };
    Some(packet.fragment).filter(|fragment| *fragment != Fragment::Whole)
}

/// The whole decision: bytes are settings, then batches of frames with times between them.
///
/// A frame is a byte of flags (1 which port; 2 end of the batch; 4 a leap of time; 8 and 16 the
/// other snapshot; 32 steered; 64 described), two bytes of length, and its bytes or, where it is
/// described, those of [`spoken::frame`].
pub(crate) fn batch(data: &[u8]) {
    let Some((&settings, mut rest)) = data.split_first() else {
        return;
    };
    let mut world = World::new(settings);
    let mut frames: Vec<Incoming> = Vec::new();
    while let [flags, low, high, tail @ ..] = rest {
        let len = match flags & 64 {
            0 => usize::from(u16::from_le_bytes([*low, *high])),
            _ => SPOKEN_LEN,
        };
        let (bytes, tail) = tail.split_at(len.min(tail.len()));
        rest = tail;
        let bytes = match bytes.first_chunk() {
            Some(spoken) if flags & 64 != 0 => spoken::frame(spoken),
            _ => bytes.to_vec(),
        };
        frames.push((PortSide::ALL[usize::from(flags & 1)], bytes));
        if flags & 2 != 0 || frames.len() == BATCH_MAX || rest.len() < 3 {
            let leap = match flags & 4 {
                0 => Duration::from_micros(u64::from(*low)),
                _ => Duration::from_secs(u64::from(*low) * 4),
            };
            world.now = world.now + leap;
            let frames = std::mem::take(&mut frames);
            world.run(frames, usize::from(flags & 24 == 24), flags & 32 != 0);
        }
    }
}

/// A target's name and body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them; the names are those of the folders of corpus and regressions.
pub(crate) const TARGETS: [Target; 4] = [
    ("frame", frame),
    ("policy", policy),
    ("gateway", gateway),
    ("batch", batch),
];

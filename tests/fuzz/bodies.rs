//! What each fuzz target does with its input. Shared by the targets of `cargo fuzz` and by the
//! smoke test on stable (tests/fuzz_smoke.rs): no input may make one panic.

use std::sync::LazyLock;
use std::time::Duration;

use portcullis::clock::Tick;
use portcullis::compile::Compiler;
use portcullis::config;
use portcullis::conntrack::{Shard, ShardConfig, TcpPickup, Timeouts, WAITING_MAX};
use portcullis::document::Source;
use portcullis::packet::{FlowKey, Fragment, Parsed, parse, parse_quoted};
use portcullis::pipeline::{
    Arrival, BATCH_MAX, Batch, Fate, LinkRules, Origin, PipelineConfig, Place, Steering,
};
use portcullis::policy::{self, KnownLinks, Policy};
use portcullis::snapshot::Snapshot;
use portcullis::types::{Generation, LinkId, PortSide, Verdict, WorkerId};

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

/// What the batch is judged with.
struct World {
    config: PipelineConfig,
    shard: Shard,
    steering: Steering,
    batch: Batch,
    /// Which tickets of fragments are out.
    waiting: [bool; WAITING_MAX],
    now: Tick,
}

impl World {
    fn new(settings: u8) -> Self {
        let shard = ShardConfig {
            per_interface: portcullis::conntrack::PerInterface::default(),
            max_flows: FLOWS_MAX,
            timeouts: Timeouts::default(),
            tcp_pickup: match settings & 1 {
                0 => TcpPickup::Rules,
                _ => TcpPickup::SynOnly,
            },
            tcp_strict: settings & 2 != 0,
            seed: [1, 2],
        };
        Self {
            config: PipelineConfig {
                links: vec![LinkRules::default()],
                ..PipelineConfig::default()
            },
            shard: Shard::new(&shard, Tick(0)),
            steering: Steering::new([3, 4], 2),
            batch: Batch::default(),
            waiting: [false; WAITING_MAX],
            now: Tick(0),
        }
    }

    /// One batch: each frame has one fate.
    fn run(&mut self, frames: &[(PortSide, &[u8])], generation: usize, is_steered: bool) {
        self.batch.clear();
        let place = Place {
            config: &self.config,
            steering: is_steered.then_some((&self.steering, WorkerId(0))),
        };
        for &(side, bytes) in frames {
            let arrival = Arrival {
                link: LinkId(0),
                side,
                original_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            };
            self.batch
                .push(bytes, arrival, &place, &self.shard, Origin::Queue);
        }
        let before = self.shard.stats();
        let snapshot = &SNAPSHOTS[generation];
        self.batch.run(&place, &mut self.shard, snapshot, self.now);
        let mut fates = 0;
        for (fate, &(side, bytes)) in self.batch.fates().zip(frames) {
            fates += 1;
            match fate {
                Fate::HandOver(owner) | Fate::HandOverPiece(owner, _) => {
                    assert!(is_steered && owner == WorkerId(1));
                }
                // Given again only after it was released, which nobody does before the next batch.
                Fate::Hold(ticket) => {
                    let is_taken = std::mem::replace(&mut self.waiting[ticket.index()], true);
                    assert!(!is_taken, "a ticket is given once");
                }
                Fate::Judged(outcome) => {
                    let is_pass = matches!(outcome.verdict, Verdict::Pass(_));
                    let is_malformed = matches!(parse(bytes, bytes.len()), Parsed::Malformed(_));
                    assert!(!is_pass || !is_malformed, "{side:?} {bytes:?}");
                }
            }
        }
        assert_eq!(fates, frames.len(), "one fate each");
        while let Some((ticket, _)) = self.shard.pop_released() {
            let is_taken = std::mem::take(&mut self.waiting[ticket.index()]);
            assert!(is_taken, "released, and never held");
        }
        let after = self.shard.stats();
        assert!(after.flows <= FLOWS_MAX && after.opened >= before.opened);
        assert!(after.opened - before.opened <= frames.len() as u64);
        self.shard.expire(self.now);
    }
}

/// The whole decision: bytes are settings, then batches of frames with times between them.
///
/// A frame is a byte of flags (which port; end of the batch; a leap of time; the other snapshot;
/// steered), its length in two bytes, and its bytes.
pub(crate) fn batch(data: &[u8]) {
    let Some((&settings, mut rest)) = data.split_first() else {
        return;
    };
    let mut world = World::new(settings);
    let mut frames: Vec<(PortSide, &[u8])> = Vec::new();
    while let [flags, low, high, tail @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (bytes, tail) = tail.split_at(len);
        rest = tail;
        frames.push((PortSide::ALL[usize::from(flags & 1)], bytes));
        if flags & 2 != 0 || frames.len() == BATCH_MAX || rest.len() < 3 {
            let leap = match flags & 4 {
                0 => Duration::from_micros(u64::from(*low)),
                _ => Duration::from_secs(u64::from(*low) * 4),
            };
            world.now = world.now + leap;
            world.run(&frames, usize::from(flags & 24 == 24), flags & 32 != 0);
            frames.clear();
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

//! A batch of packets and its stages.

use super::judge::{Judge, PipelineConfig, reason_of};
use super::outcome::{Arrival, Fate, Outcome, PieceIndex};
use super::rare::Rare;
use super::steer::Steering;
use crate::clock::Tick;
use crate::conntrack::{Candidate, Common, FlowHash, FlowIndex, FragmentedFlow, Moment, Shard};
use crate::packet::{Brief, FlowKey, LongAddresses, PackedKey, parse_brief};
use crate::snapshot::Snapshot;
use crate::types::{DropReason, PortSide, Verdict, WorkerId};

/// Most packets of one batch.
pub const BATCH_MAX: usize = 64;

/// Where packets are judged.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What the configuration says to the pipeline.
    pub config: &'a PipelineConfig,
    /// Which flows are whose, and who judges here; `None` where one worker has them all.
    pub steering: Option<(&'a Steering, WorkerId)>,
}

impl Place<'_> {
    /// Whose a key is, where it is another worker's.
    pub(super) fn elsewhere(&self, key: &FlowKey) -> Option<WorkerId> {
        let (key, beside) = PackedKey::of(key);
        self.elsewhere_packed(&key, &beside)
    }

    /// The same of a packed key.
    #[inline]
    pub(super) fn elsewhere_packed(
        &self,
        key: &PackedKey,
        beside: &LongAddresses,
    ) -> Option<WorkerId> {
        let (steering, here) = self.steering?;
        let owner = steering.owner_packed(key, beside);
        owner.filter(|&owner| owner != here)
    }
}

/// How a packet came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From one of its queues.
    Queue,
    /// Another worker found that it is this one's to judge.
    Steered,
    /// It is a fragment, and its home worker knows the flow.
    Piece(FragmentedFlow),
}

/// Where a packet is in the pipeline.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A common packet of a flow of this worker.
    Common,
    /// Judged by the entry of its flow.
    Hit(Verdict),
    /// Not common: at this position of the rare ones.
    Rare(u8),
    /// Done: its fate is at this position.
    Done(u8),
}

/// One packet, in a cache line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Item {
    /// Its headers, of a common packet.
    brief: Brief,
    frame_len: u32,
    /// The likely flow, then the flow.
    flow: FlowIndex,
    side: PortSide,
    stage: Stage,
}

const _: () = assert!(size_of::<Item>() == 64);

/// Up to [`BATCH_MAX`] packets, by value: nothing of their bytes is kept after [`Batch::push`].
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
    /// What lies beside the keys of common packets, by position; of IPv4 ones anything.
    beside: Box<[LongAddresses; BATCH_MAX]>,
    /// What is no common packet; few, so that the others do not carry their size.
    pub(super) rare: Rare,
    /// Fates that are not a hit.
    fates: Vec<Fate>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            items: Vec::with_capacity(BATCH_MAX),
            beside: Box::new([[0; 2]; BATCH_MAX]),
            rare: Rare::default(),
            fates: Vec::with_capacity(BATCH_MAX),
        }
    }
}

impl Batch {
    /// Empties it for the next turn.
    pub fn clear(&mut self) {
        self.items.clear();
        self.rare.clear();
        self.fates.clear();
    }

    /// How many packets it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Parses a packet into the batch; does nothing when it is full.
    #[inline]
    pub fn push(&mut self, bytes: &[u8], arrival: Arrival, place: &Place<'_>, origin: Origin) {
        if self.items.len() >= BATCH_MAX {
            debug_assert!(false, "a batch is pushed only as far as it holds");
            return;
        }
        let brief = parse_brief(bytes, arrival.original_len, arrival.link);
        match brief.filter(|brief| !place.config.exempt.lists(brief, arrival.side)) {
            Some(brief) => self.push_common(&brief, &[0; 2], arrival, place, origin),
            None => self.push_wide(bytes, arrival, place, origin),
        }
    }

    /// A common packet that no exemption is about.
    #[inline(always)]
    fn push_common(
        &mut self,
        brief: &Brief,
        beside: &LongAddresses,
        arrival: Arrival,
        place: &Place<'_>,
        origin: Origin,
    ) {
        let stage = match place.elsewhere_packed(&brief.key, beside) {
            Some(owner) if origin == Origin::Queue => self.done(Fate::HandOver(owner)),
            _ => Stage::Common,
        };
        self.items.push(Item {
            brief: *brief,
            frame_len: arrival.original_len,
            flow: FlowIndex::NONE,
            side: arrival.side,
            stage,
        });
    }

    /// Any other frame: parsed in full. What turns out to be common after all goes the short way.
    #[inline(never)]
    fn push_wide(&mut self, bytes: &[u8], arrival: Arrival, place: &Place<'_>, origin: Origin) {
        let parsed = match self.rare.push(bytes, arrival, place, origin) {
            Pushed::Common(brief, beside) => {
                if let Some(to) = self.beside.get_mut(self.items.len()) {
                    *to = beside;
                }
                return self.push_common(&brief, &beside, arrival, place, origin);
            }
            Pushed::Rare(at) => Stage::Rare(at),
            Pushed::Done(fate) => self.done(fate),
        };
        self.items.push(Item {
            brief: Brief::default(),
            frame_len: arrival.original_len,
            flow: FlowIndex::NONE,
            side: arrival.side,
            stage: parsed,
        });
    }

    fn done(&mut self, fate: Fate) -> Stage {
        done(&mut self.fates, fate)
    }

    /// Judges all packets of the batch, in order.
    pub fn run(&mut self, place: &Place<'_>, shard: &mut Shard, snapshot: &Snapshot, now: Tick) {
        let mut hashes = [FlowHash::default(); BATCH_MAX];
        let moment = shard.begin_batch(snapshot.generation(), now);
        self.hash(shard, &mut hashes);
        self.rare.prepare(place, shard, now);
        self.find_candidates(shard, &hashes);
        let mut judge = Judge {
            config: place.config,
            shard,
            snapshot,
            now,
        };
        let beside = self.beside.iter().zip(&hashes);
        for (item, (beside, hash)) in self.items.iter_mut().zip(beside) {
            match item.stage {
                Stage::Common => {
                    if let Some(verdict) = item.hit(&mut judge, beside, &moment) {
                        item.stage = Stage::Hit(verdict);
                        continue;
                    }
                    let outcome = item.judge_at_length(&mut judge, beside, *hash);
                    item.stage = done(&mut self.fates, Fate::Judged(outcome));
                }
                Stage::Rare(at) => {
                    let fate = self.rare.judge(at, &mut judge);
                    item.stage = done(&mut self.fates, fate);
                }
                Stage::Hit(_) | Stage::Done(_) => {}
            }
        }
    }

    /// Hashes the common packets' keys and asks for their buckets.
    #[inline]
    fn hash(&self, shard: &Shard, hashes: &mut [FlowHash; BATCH_MAX]) {
        let items = self.items.iter().zip(self.beside.iter());
        for ((item, beside), hash) in items.zip(hashes) {
            // Of others it is of no use, and does no harm.
            *hash = shard.hash_packed(&item.brief.key, beside);
            shard.prefetch_bucket(*hash);
        }
    }

    /// Asks for the entries of the common packets' likely flows.
    #[inline]
    fn find_candidates(&mut self, shard: &Shard, hashes: &[FlowHash; BATCH_MAX]) {
        let mut are_second = 0_u64;
        let mut bit = 1_u64;
        for (item, hash) in self.items.iter_mut().zip(hashes) {
            match shard.candidate(*hash, &item.brief.key) {
                Candidate::Entry(flow) => item.flow = flow,
                Candidate::Second => are_second |= bit,
                Candidate::None => {}
            }
            bit = bit.wrapping_shl(1);
        }
        // At most a bit for each packet.
        while are_second != 0 {
            let at = are_second.trailing_zeros() as usize;
            are_second &= are_second.wrapping_sub(1);
            if let (Some(item), Some(hash)) = (self.items.get_mut(at), hashes.get(at))
                && let Some(flow) = shard.second_candidate(*hash, &item.brief.key)
            {
                item.flow = flow;
            }
        }
    }

    /// What is to be done with each packet, in the order of [`Batch::push`], after [`Batch::run`].
    pub fn fates(&self) -> impl Iterator<Item = Fate> + '_ {
        self.items.iter().map(|item| match item.stage {
            Stage::Hit(verdict) => Fate::Judged(Outcome::of_flow(verdict, item.side, item.flow)),
            Stage::Done(at) => self.fates.get(usize::from(at)).copied().unwrap_or(UNJUDGED),
            // Before `run` nothing is judged; a caller that forgot it must not forward.
            Stage::Common | Stage::Rare(_) => UNJUDGED,
        })
    }

    /// The flow of a fragment that is to be handed over.
    #[must_use]
    pub fn piece(&self, index: PieceIndex) -> Option<&FragmentedFlow> {
        self.rare.piece(index)
    }
}

const UNJUDGED: Fate = Fate::Judged(Outcome::drop(DropReason::Invalid));

/// What a frame that is not common at sight turns out to be.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made")]
pub(super) enum Pushed {
    /// Common after all, with what lies beside its key.
    Common(Brief, LongAddresses),
    /// Among the rare ones, at this position.
    Rare(u8),
    /// Nothing more to do with it.
    Done(Fate),
}

impl Item {
    /// The verdict, where the entry of the packet's flow gives it.
    #[inline(always)]
    fn hit(
        &self,
        judge: &mut Judge<'_>,
        beside: &LongAddresses,
        moment: &Moment,
    ) -> Option<Verdict> {
        let packet = Common {
            brief: &self.brief,
            beside,
            side: self.side,
            frame_len: self.frame_len,
        };
        let class = judge.shard.hit(self.flow, &packet, moment)?;
        Some(Verdict::Pass(reason_of(class)))
    }

    /// The long way: everything is asked again, of the packet's wide form.
    #[cold]
    #[inline(never)]
    fn judge_at_length(
        &self,
        judge: &mut Judge<'_>,
        beside: &LongAddresses,
        hash: FlowHash,
    ) -> Outcome {
        let Brief { key, from, .. } = self.brief;
        let arrival = Arrival {
            link: key.link(),
            side: self.side,
            original_len: self.frame_len,
        };
        let packet = self.brief.packet(beside);
        judge.flow(&packet, arrival, &key.unpack(*beside), from, hash)
    }
}

#[cold]
fn done(fates: &mut Vec<Fate>, fate: Fate) -> Stage {
    let at = position(fates.len());
    fates.push(fate);
    Stage::Done(at)
}

/// Position of the next of `len` things, of which there are at most [`BATCH_MAX`].
pub(super) fn position(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

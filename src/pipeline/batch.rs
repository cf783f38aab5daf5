//! A batch of packets and its stages.

use super::fresh::Fresh;
use super::judge::{Judge, PipelineConfig, reason_of};
use super::outcome::{Arrival, Fate, Outcome, PieceIndex};
use super::rare::Rare;
use super::steer::Steering;
use crate::clock::Tick;
use crate::conntrack::{Candidate, Common, FlowHash, FlowIndex, FragmentedFlow, Moment, Shard};
use crate::packet::{Brief, BriefPlace, FlowKey, LongAddresses, PackedKey, parse_brief};
use crate::snapshot::Snapshot;
use crate::types::{DropReason, PortSide, Verdict, WorkerId};

/// Most packets of one batch.
pub const BATCH_MAX: usize = 64;

/// Most flows that wait for an answer and give way to new ones in one batch. A batch with more new
/// flows than this on a full table is a flood that comes faster than it can be served. To refuse
/// costs a fraction of what it costs to displace and forward, and that time goes to the rest: on
/// veth at 2 million SYNs a second established flows keep 1.1 times what they do behind a bare
/// forwarder, which was 0.87 without a limit (1.5 with 32). The price: four of five new connections
/// are in by their first SYN, nearly all were without.
pub const DISPLACEMENTS_MAX: u32 = 40;

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
#[derive(Clone, Copy, Debug)]
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
    /// All of them, of which `len` are in use: a packet is parsed into its place.
    items: Box<[Item; BATCH_MAX]>,
    len: usize,
    /// What lies beside the keys of common packets, by position; of IPv4 ones anything.
    beside: Box<[LongAddresses; BATCH_MAX]>,
    /// Hashes of the common packets' keys, by position.
    hashes: Box<[FlowHash; BATCH_MAX]>,
    /// What is known of packets that likely begin a flow.
    fresh: Fresh,
    /// What is no common packet; few, so that the others do not carry their size.
    pub(super) rare: Rare,
    /// Fates that are not a hit.
    fates: Vec<Fate>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            items: Box::new([Item::NONE; BATCH_MAX]),
            len: 0,
            beside: Box::new([[0; 2]; BATCH_MAX]),
            hashes: Box::new([FlowHash::default(); BATCH_MAX]),
            fresh: Fresh::default(),
            rare: Rare::default(),
            fates: Vec::with_capacity(BATCH_MAX),
        }
    }
}

impl Batch {
    /// Empties it for the next turn.
    pub fn clear(&mut self) {
        self.len = 0;
        self.rare.clear();
        self.fates.clear();
    }

    /// How many packets it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Parses a packet into the batch and asks `shard`, which will judge it, for its bucket: memory
    /// is at work while the next ones are parsed. Does nothing when the batch is full.
    #[inline]
    pub fn push(
        &mut self,
        bytes: &[u8],
        arrival: Arrival,
        place: &Place<'_>,
        shard: &Shard,
        origin: Origin,
    ) {
        let at = self.len;
        let (Some(item), Some(beside)) = (self.items.get_mut(at), self.beside.get_mut(at)) else {
            debug_assert!(false, "a batch is pushed only as far as it holds");
            return;
        };
        let to = BriefPlace {
            brief: &mut item.brief,
            beside,
        };
        if !parse_brief(bytes, arrival.original_len, arrival.link, to)
            || place.config.exempt.lists(&item.brief, beside, arrival.side)
        {
            return self.push_wide(bytes, arrival, place, shard, origin);
        }
        if let Some(hash) = self.hashes.get_mut(at) {
            *hash = item.ask(beside, shard);
        }
        let elsewhere = place.elsewhere_packed(&item.brief.key, beside);
        item.arrive(arrival);
        self.len = self.len.wrapping_add(1);
        if let Some(owner) = elsewhere.filter(|_| origin == Origin::Queue) {
            item.stage = done(&mut self.fates, Fate::HandOver(owner));
        }
    }

    /// Any other frame: parsed in full. What turns out to be common after all goes the short way.
    #[inline(never)]
    fn push_wide(
        &mut self,
        bytes: &[u8],
        arrival: Arrival,
        place: &Place<'_>,
        shard: &Shard,
        origin: Origin,
    ) {
        let at = self.len;
        let (Some(item), Some(beside)) = (self.items.get_mut(at), self.beside.get_mut(at)) else {
            return;
        };
        item.arrive(arrival);
        self.len = self.len.wrapping_add(1);
        let fate = match self.rare.push(bytes, arrival, place, origin) {
            Pushed::Rare(at) => {
                item.stage = Stage::Rare(at);
                return;
            }
            Pushed::Common(brief, its_beside) => {
                (item.brief, *beside) = (brief, its_beside);
                if let Some(hash) = self.hashes.get_mut(at) {
                    *hash = item.ask(beside, shard);
                }
                let elsewhere = place.elsewhere_packed(&brief.key, beside);
                match elsewhere.filter(|_| origin == Origin::Queue) {
                    Some(owner) => Fate::HandOver(owner),
                    None => return,
                }
            }
            Pushed::Done(fate) => fate,
        };
        item.stage = done(&mut self.fates, fate);
    }

    /// Judges all packets of the batch, in order.
    pub fn run(&mut self, place: &Place<'_>, shard: &mut Shard, snapshot: &Snapshot, now: Tick) {
        let moment = shard.begin_batch(snapshot.generation(), now);
        self.rare.prepare(place, shard, now);
        shard.limit_displacements(DISPLACEMENTS_MAX);
        self.fresh.clear();
        let mut ahead = Ahead::default();
        for at in 0..ENTRIES_AHEAD {
            self.look_ahead(at, shard, &mut ahead);
        }
        let mut judge = Judge {
            config: place.config,
            shard,
            snapshot,
            now,
        };
        for at in 0..self.len {
            self.look_ahead(at.wrapping_add(ENTRIES_AHEAD), judge.shard, &mut ahead);
            let (Some(item), Some(beside)) = (self.items.get_mut(at), self.beside.get(at)) else {
                return;
            };
            // The common case by itself: a jump through a table costs more than a compare.
            if matches!(item.stage, Stage::Common)
                && let Some(verdict) = item.hit(&mut judge, beside, &moment)
            {
                item.stage = Stage::Hit(verdict);
                continue;
            }
            let fate = match item.stage {
                Stage::Common => Fate::Judged(self.judge_other(at, &mut judge)),
                Stage::Rare(at) => self.rare.judge(at, &mut judge),
                Stage::Hit(_) | Stage::Done(_) => continue,
            };
            let stage = done(&mut self.fates, fate);
            if let Some(item) = self.items.get_mut(at) {
                item.stage = stage;
            }
        }
    }

    /// A common packet that is no plain hit.
    #[cold]
    #[inline(never)]
    fn judge_other(&mut self, at: usize, judge: &mut Judge<'_>) -> Outcome {
        let places = self.items.get(at).zip(self.beside.get(at));
        let Some(((item, beside), hash)) = places.zip(self.hashes.get(at)) else {
            return Outcome::drop(DropReason::Invalid);
        };
        let shard = &judge.shard;
        if self.fresh.is_likely(at) && shard.find_key(&item.brief.key, beside, *hash).is_none() {
            let common = |at: usize| Some(self.items.get(at)?.common(self.beside.get(at)?));
            return self.fresh.judge(at, *hash, common, judge);
        }
        item.judge_at_length(judge, beside, *hash)
    }

    /// Asks for the entry of one packet's likely flow; where its first bucket does not know it, the
    /// second is asked when the packet is half as far ahead.
    #[inline(always)]
    fn look_ahead(&mut self, at: usize, shard: &Shard, ahead: &mut Ahead) {
        if let (Some(item), Some(hash)) = (self.items.get_mut(at), self.hashes.get(at))
            && at < self.len
            && matches!(item.stage, Stage::Common)
        {
            match shard.candidate(*hash, &item.brief.key) {
                Candidate::Entry(flow) => item.flow = flow,
                Candidate::Second => ahead.are_second |= bit(at),
                Candidate::None => self.fresh.note(at),
            }
        }
        let near = at.wrapping_sub(ENTRIES_AHEAD / 2);
        if ahead.are_second != 0
            && near < BATCH_MAX
            && ahead.are_second & bit(near) != 0
            && let (Some(item), Some(hash)) = (self.items.get_mut(near), self.hashes.get(near))
        {
            match shard.second_candidate(*hash, &item.brief.key) {
                Some(flow) => item.flow = flow,
                None => self.fresh.note(near),
            }
        }
    }

    /// What is to be done with each packet, in the order of [`Batch::push`], after [`Batch::run`].
    pub fn fates(&self) -> impl Iterator<Item = Fate> + '_ {
        self.items
            .iter()
            .take(self.len)
            .map(|item| match item.stage {
                Stage::Hit(verdict) => {
                    Fate::Judged(Outcome::of_flow(verdict, item.side, item.flow))
                }
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

/// How many packets ahead entries are asked for: far enough that they are near when it is their
/// turn, and spread over the judging of those before, so that neither the processor nor its memory
/// waits while the other works.
const ENTRIES_AHEAD: usize = 16;

/// Packets whose flow the second bucket may know, by position.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    are_second: u64,
}

const UNJUDGED: Fate = Fate::Judged(Outcome::drop(DropReason::Invalid));

/// What a frame that is not common at sight turns out to be.
#[derive(Debug)]
pub(super) enum Pushed {
    /// Common after all, with what lies beside its key.
    Common(Brief, LongAddresses),
    /// Among the rare ones, at this position.
    Rare(u8),
    /// Nothing more to do with it.
    Done(Fate),
}

impl Item {
    /// The place of no packet.
    const NONE: Self = Self {
        brief: Brief::NONE,
        frame_len: 0,
        flow: FlowIndex::NONE,
        side: PortSide::Inside,
        stage: Stage::Common,
    };

    /// Makes it the place of a packet that is common, as far as is known.
    #[inline(always)]
    fn arrive(&mut self, arrival: Arrival) {
        self.frame_len = arrival.original_len;
        self.flow = FlowIndex::NONE;
        self.side = arrival.side;
        self.stage = Stage::Common;
    }

    /// The hash of its key, whose bucket is asked for.
    #[inline(always)]
    fn ask(&self, beside: &LongAddresses, shard: &Shard) -> FlowHash {
        let hash = shard.hash_packed(&self.brief.key, beside);
        shard.prefetch_bucket(hash);
        hash
    }

    #[inline(always)]
    fn common<'a>(&'a self, beside: &'a LongAddresses) -> Common<'a> {
        Common {
            brief: &self.brief,
            beside,
            side: self.side,
            frame_len: self.frame_len,
        }
    }

    /// The verdict, where the entry of the packet's flow gives it.
    #[inline(always)]
    fn hit(
        &self,
        judge: &mut Judge<'_>,
        beside: &LongAddresses,
        moment: &Moment,
    ) -> Option<Verdict> {
        let packet = self.common(beside);
        let class = judge.shard.hit(self.flow, &packet, moment)?;
        Some(Verdict::Pass(reason_of(class)))
    }

    /// The long way: everything is asked again, of the packet's wide form.
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

/// The bit of a position in a batch.
#[inline]
pub(super) fn bit(at: usize) -> u64 {
    1_u64.wrapping_shl(u32::from(position(at)))
}

/// Position of the next of `len` things, of which there are at most [`BATCH_MAX`].
pub(super) fn position(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

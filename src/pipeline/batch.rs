//! A batch of packets and its stages.

use super::judge::{Judge, PipelineConfig};
use super::steer::Steering;
use crate::clock::Tick;
use crate::conntrack::{FlowHash, Shard};
use crate::packet::{End, FlowKey, Fragment, IpPacket, Parsed, parse};
use crate::snapshot::Snapshot;
use crate::types::{
    Direction, DropReason, InterfaceSlot, LinkId, PassReason, PortSide, RuleSlot, Verdict, WorkerId,
};

/// Most packets of one batch.
pub const BATCH_MAX: usize = 64;

const ETHERTYPE_ARP: u16 = 0x0806;

/// How a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The link.
    pub link: LinkId,
    /// The port of the link.
    pub side: PortSide,
    /// Bytes on the wire; more than there are in a capture that cut it.
    pub original_len: u32,
}

/// The answer for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Pass or drop, and why.
    pub verdict: Verdict,
    /// The interface that was judged.
    pub interface: Option<InterfaceSlot>,
    /// As seen from that interface.
    pub direction: Option<Direction>,
    /// The rule that allows it, or that admitted its connection.
    pub rule: Option<RuleSlot>,
}

impl Outcome {
    pub(super) fn bare(verdict: Verdict) -> Self {
        Self {
            verdict,
            interface: None,
            direction: None,
            rule: None,
        }
    }

    pub(super) fn drop(reason: DropReason) -> Self {
        Self::bare(Verdict::Drop(reason))
    }
}

/// What is to be done with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has been judged.
    Judged(Outcome),
    /// Another worker owns its flow and judges it.
    HandOver(WorkerId),
}

/// Where a packet is in the pipeline.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Its verdict needs the snapshot, but no connection.
    Stateless,
    /// It belongs to a flow of this worker.
    Flow(FlowKey, End, FlowHash),
    /// Done.
    Done(Fate),
}

#[derive(Debug)]
struct Item {
    arrival: Arrival,
    parsed: Parsed,
    stage: Stage,
}

/// Up to [`BATCH_MAX`] packets, by value: nothing of their bytes is kept after [`Batch::push`].
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            items: Vec::with_capacity(BATCH_MAX),
        }
    }
}

impl Batch {
    /// Empties it for the next turn.
    pub fn clear(&mut self) {
        self.items.clear();
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

    /// Parses a packet into the batch; does nothing when it is full. `steering` decides whether
    /// its flow is another worker's; `None` judges it here in any case (it was handed over).
    pub fn push(
        &mut self,
        bytes: &[u8],
        arrival: Arrival,
        config: &PipelineConfig,
        steering: Option<(&Steering, WorkerId)>,
    ) {
        if self.items.len() >= BATCH_MAX {
            debug_assert!(false, "a batch is pushed only as far as it holds");
            return;
        }
        let parsed = parse(bytes, arrival.original_len as usize);
        let stage = match &parsed {
            Parsed::Malformed(_) => done(DropReason::Malformed),
            Parsed::NotIp { ethertype } if config.exempt.has_ethertype(*ethertype) => exempt(),
            Parsed::NotIp { .. } => done(DropReason::NotIp),
            // Listed, it passes whatever it claims.
            Parsed::Arp(_) if config.exempt.has_ethertype(ETHERTYPE_ARP) => exempt(),
            Parsed::Arp(_) => Stage::Stateless,
            Parsed::Ip(packet) => first_stage(packet, arrival, config, steering),
        };
        self.items.push(Item {
            arrival,
            parsed,
            stage,
        });
    }

    /// Judges all packets of the batch, in order.
    pub fn run(
        &mut self,
        config: &PipelineConfig,
        shard: &mut Shard,
        snapshot: &Snapshot,
        now: Tick,
    ) {
        for item in &mut self.items {
            if let Stage::Flow(key, _, hash) = &mut item.stage {
                *hash = shard.hash(key);
                shard.prefetch_bucket(*hash);
            }
        }
        for item in &self.items {
            if let Stage::Flow(_, _, hash) = item.stage {
                shard.prefetch_entry(hash);
            }
        }
        let mut judge = Judge {
            config,
            shard,
            snapshot,
            now,
        };
        for item in &mut self.items {
            let outcome = match (&item.parsed, item.stage) {
                (_, Stage::Done(_)) => continue,
                (Parsed::Ip(packet), Stage::Flow(key, from, hash)) => {
                    judge.flow(packet, item.arrival, &key, from, hash)
                }
                (Parsed::Ip(packet), Stage::Stateless) => judge.stateless(packet, item.arrival),
                (Parsed::Arp(arp), _) => judge.arp(arp, item.arrival),
                (Parsed::NotIp { .. }, _) => Outcome::drop(DropReason::NotIp),
                (Parsed::Malformed(_), _) => Outcome::drop(DropReason::Malformed),
            };
            item.stage = Stage::Done(Fate::Judged(outcome));
        }
    }

    /// What is to be done with each packet, in the order of [`Batch::push`], after [`Batch::run`].
    pub fn fates(&self) -> impl Iterator<Item = Fate> + '_ {
        self.items.iter().map(|item| match item.stage {
            Stage::Done(fate) => fate,
            // Before `run` nothing is judged; a caller that forgot it must not forward.
            Stage::Stateless | Stage::Flow(..) => Fate::Judged(Outcome::drop(DropReason::Invalid)),
        })
    }
}

fn exempt() -> Stage {
    let verdict = Verdict::Pass(PassReason::Exempt);
    Stage::Done(Fate::Judged(Outcome::bare(verdict)))
}

fn done(reason: DropReason) -> Stage {
    Stage::Done(Fate::Judged(Outcome::drop(reason)))
}

fn first_stage(
    packet: &IpPacket,
    arrival: Arrival,
    config: &PipelineConfig,
    steering: Option<(&Steering, WorkerId)>,
) -> Stage {
    if config.is_exempt(packet, arrival.side) {
        return exempt();
    }
    if matches!(packet.fragment, Fragment::Later { .. }) {
        return done(DropReason::Fragment);
    }
    let Some((key, from)) = FlowKey::of(arrival.link, packet) else {
        return Stage::Stateless;
    };
    if let Some((steering, this_worker)) = steering
        && let Some(owner) = steering.owner(&key)
        && owner != this_worker
    {
        return Stage::Done(Fate::HandOver(owner));
    }
    Stage::Flow(key, from, FlowHash::default())
}

//! Packets that likely begin a flow: what the policy says of them, asked of several at a time.
//!
//! The snapshot does not change while a batch is judged, and what it says of a packet is the same
//! whatever came before. So it may be asked ahead of the packet's turn: of all packets within sight
//! whose flow the table does not seem to know, stage by stage. A question alone is a chain of loads
//! of which each waits for the one before; the processor follows those of several packets side by
//! side. What changes the table waits for the packet's turn.

use super::batch::{BATCH_MAX, bit};
use super::judge::{Judge, Owners, Ruled};
use super::outcome::{Arrival, Outcome};
use crate::conntrack::{Common, FlowHash, Opening};
use crate::packet::{Brief, IpPacket};
use crate::types::DropReason;

/// What is known of one packet ahead of its turn.
#[derive(Clone, Copy, Debug)]
struct Asked {
    packet: IpPacket,
    owners: Owners,
    answer: Result<Ruled, Outcome>,
}

/// The packets of a batch that likely begin a flow.
#[derive(Debug)]
pub(super) struct Fresh {
    /// By position.
    asked: Box<[Asked; BATCH_MAX]>,
    /// A bit for each that is in sight, by position.
    are_likely: u64,
    /// A bit for each of them whose answer is there.
    are_asked: u64,
}

impl Default for Fresh {
    fn default() -> Self {
        let none = Asked {
            packet: Brief::NONE.packet(&[0; 2]),
            owners: Owners::default(),
            answer: Err(Outcome::drop(DropReason::Invalid)),
        };
        Self {
            asked: Box::new([none; BATCH_MAX]),
            are_likely: 0,
            are_asked: 0,
        }
    }
}

impl Fresh {
    /// Forgets all packets.
    pub(super) fn clear(&mut self) {
        (self.are_likely, self.are_asked) = (0, 0);
    }

    /// A packet comes in sight that the table does not seem to know.
    #[inline]
    pub(super) fn note(&mut self, at: usize) {
        self.are_likely |= bit(at);
    }

    /// Whether a packet has been noted.
    #[inline]
    pub(super) fn is_likely(&self, at: usize) -> bool {
        self.are_likely & bit(at) != 0
    }

    /// The verdict on a packet whose flow the table has just turned out not to know. `common` has
    /// the batch's packets.
    pub(super) fn judge<'a>(
        &mut self,
        at: usize,
        hash: FlowHash,
        common: impl Fn(usize) -> Option<Common<'a>>,
        judge: &mut Judge<'_>,
    ) -> Outcome {
        if self.are_asked & bit(at) == 0 {
            self.ask(&common, judge);
        }
        let (Some(asked), Some(common)) = (self.asked.get(at), common(at)) else {
            return Outcome::drop(DropReason::Invalid);
        };
        let ruled = match &asked.answer {
            Ok(ruled) => ruled,
            Err(outcome) => return *outcome,
        };
        let packet = &asked.packet;
        let opening = Opening {
            key: &common.brief.key,
            beside: common.beside,
            hash,
            packet,
            frame_len: common.frame_len,
        };
        judge.begin(ruled, packet, common.brief.from, |shard, flow, now| {
            shard.open_absent(&opening, flow, now)
        })
    }

    /// Asks about all that are in sight.
    fn ask<'a>(&mut self, common: &impl Fn(usize) -> Option<Common<'a>>, judge: &Judge<'_>) {
        let are_new = self.are_likely & !self.are_asked;
        for at in positions(are_new) {
            if let (Some(asked), Some(common)) = (self.asked.get_mut(at), common(at)) {
                asked.packet = common.brief.packet(common.beside);
                asked.owners = judge.owners(&asked.packet, common.brief.key.link());
            }
        }
        for at in positions(are_new) {
            if let (Some(asked), Some(common)) = (self.asked.get_mut(at), common(at)) {
                let arrival = Arrival {
                    link: common.brief.key.link(),
                    side: common.side,
                    original_len: common.frame_len,
                };
                let from = common.brief.from;
                asked.answer = judge.ruled(asked.owners, &asked.packet, arrival, from);
                if let Ok(ruled) = &asked.answer {
                    judge.prefetch(ruled);
                }
            }
        }
        self.are_asked |= are_new;
    }
}

/// The positions of a batch whose bits are set; at most [`BATCH_MAX`].
fn positions(bits: u64) -> impl Iterator<Item = usize> {
    let mut rest = bits;
    std::iter::from_fn(move || {
        let at = (rest != 0).then_some(rest.trailing_zeros() as usize);
        rest &= rest.wrapping_sub(1);
        at
    })
}

//! The short way of a common packet through the table: one bucket, one entry, and no more than
//! what a packet in the middle of a flow changes. Whatever else a packet may mean, the short way
//! does not touch it and says so; [`Shard::find`] and [`Shard::track`] then take the long one.

use super::entry::Entry;
use super::flow::{FlowClass, FlowHash, FlowIndex, FlowState};
use super::shard::Shard;
use super::sides::{Mark, Side};
use super::tcp;
use super::timer::Beat;
use super::traffic;
use crate::clock::Tick;
use crate::packet::{Brief, LongAddresses, PackedKey};
use crate::types::{Generation, PortSide};

/// What all packets of a batch have in common.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub(super) beat: Beat,
    /// As entries keep it.
    pub(super) generation: [u8; 3],
}

/// A packet that may be a hit.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// Its headers.
    pub brief: &'a Brief,
    /// What lies beside its key.
    pub beside: &'a LongAddresses,
    /// The port that it came in by.
    pub side: PortSide,
    /// Length of its frame.
    pub frame_len: u32,
}

/// Where the likely flow of a hash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// In this entry, which has been asked for.
    Entry(FlowIndex),
    /// Not in its first bucket; the second has been asked for.
    Second,
    /// Nowhere.
    None,
}

impl Shard {
    /// Begins a batch that is judged by this generation, the newest.
    #[must_use]
    #[inline]
    pub fn begin_batch(&mut self, generation: Generation, now: Tick) -> Moment {
        self.note_generation(generation);
        Moment {
            beat: Beat::of(now),
            generation: Entry::cut(generation),
        }
    }

    /// The hash of a packed key in this shard.
    #[inline]
    #[must_use]
    pub fn hash_packed(&self, key: &PackedKey, beside: &LongAddresses) -> FlowHash {
        FlowHash(self.table.hash_packed(key, beside))
    }

    /// Asks for the line of the likely flow; to be called when the first bucket is near.
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: FlowHash, key: &PackedKey) -> Candidate {
        self.table.candidate(hash.0, key.is_v6())
    }

    /// The same where the first bucket did not have it, when the second is near.
    #[inline]
    #[must_use]
    pub fn second_candidate(&self, hash: FlowHash, key: &PackedKey) -> Option<FlowIndex> {
        self.table.second_candidate(hash.0, key.is_v6())
    }

    /// Whether a candidate has this key, alive or not: what a lookup alone comes to.
    #[inline]
    #[must_use]
    pub fn has_key(&self, index: FlowIndex, key: &PackedKey, beside: &LongAddresses) -> bool {
        let entry = self.table.entry(index.0);
        entry.is_some_and(|entry| entry.has_key(key) && self.table.is_beside(index.0, key, beside))
    }

    /// The flow of a key, alive or not.
    #[must_use]
    pub fn find_key(
        &self,
        key: &PackedKey,
        beside: &LongAddresses,
        hash: FlowHash,
    ) -> Option<FlowIndex> {
        self.table.find_packed(key, beside, hash.0).map(FlowIndex)
    }

    /// Takes a packet of a flow into account, if that is all that there is to it: its flow is the
    /// candidate, alive, judged by the batch's generation, and on the right side; and the packet
    /// moves no state, only deadline, counts and TCP's numbers. Then it passes, as one of the
    /// class that is returned. `None`: nothing has happened yet.
    #[inline]
    pub fn hit(
        &mut self,
        index: FlowIndex,
        packet: &Common<'_>,
        moment: &Moment,
    ) -> Option<FlowClass> {
        let brief = packet.brief;
        if !self.table.is_beside(index.0, &brief.key, packet.beside) {
            return None;
        }
        let entry = self.table.entry_mut(index.0)?;
        if !entry.is_hit(brief, packet.side, moment) {
            return None;
        }
        let side = entry.side_of(brief.from);
        let state = entry.state?;
        let span = self.spans.get(state as usize).copied()?;
        if !entry.would_live_on(moment.beat, span) {
            return None;
        }
        match state {
            // It has sent two packets: no mark is new, and no state either.
            FlowState::Udp | FlowState::UdpStream if entry.has(Mark::Acked, side) => {}
            FlowState::Established if tcp::advance_plain(entry, side, brief) => {}
            _ => return None,
        }
        entry.set_deadline(moment.beat.after(span));
        let class = entry.class();
        let weight = entry.weight();
        let word = entry.traffic.at(side);
        match traffic::count_one(*word, weight, packet.frame_len) {
            Some(sum) => *word = sum,
            None => self.count_much(index, side, packet.frame_len),
        }
        Some(class)
    }

    /// Counts a packet that does not fit into its word.
    #[cold]
    #[inline(never)]
    fn count_much(&mut self, index: FlowIndex, side: Side, frame_len: u32) {
        if let Some(entry) = self.table.entry_mut(index.0) {
            let weight = entry.weight();
            let weight = self
                .records
                .count(&mut entry.traffic, weight, side, frame_len);
            entry.set_weight(weight);
        }
    }
}

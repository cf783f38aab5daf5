//! How flows come and go: opening, making room, expiring, ending.

use super::entry::{Cold, Entry};
use super::flow::{FlowClass, FlowHash, FlowIndex, FlowState, NewFlow, OpenError};
use super::give_way::{ANSWER_BEATS, Room, Yields};
use super::numbers::Narrow;
use super::shard::Shard;
use super::share::OverLimit;
use super::sides::{Mark, Side};
use super::tcp;
use super::timer::{Beat, SWEEP_BATCH, SWEEPS_PER_TURN};
use super::traffic::Weight;
use crate::clock::Tick;
use crate::packet::{FlowKey, IpPacket, LongAddresses, PackedKey, Transport};
use crate::types::InterfaceSlot;

/// A packet that opens a flow.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// Its flow's key.
    pub key: &'a PackedKey,
    /// What lies beside the key.
    pub beside: &'a LongAddresses,
    /// The key's hash in this shard.
    pub hash: FlowHash,
    /// Its headers.
    pub packet: &'a IpPacket,
    /// Length of its frame.
    pub frame_len: u32,
}

impl Shard {
    /// Opens a flow with its first packet, which is counted. A flow of the same key, alive or not,
    /// gives way to it; on a full table one of another key may (give_way.rs). An untracked flow
    /// needs no entry, so that only an untracked or expired one gives way to it.
    ///
    /// # Errors
    /// [`OpenError`]; counted, but for an untracked flow, which passes all the same. Rarely, on a
    /// table that is nearly full, it is both buckets of the key that are.
    pub fn open(
        &mut self,
        key: &FlowKey,
        hash: FlowHash,
        new: &NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) -> Result<FlowIndex, OpenError> {
        let (key, beside) = &PackedKey::of(key);
        let opening = Opening {
            key,
            beside,
            hash,
            packet,
            frame_len,
        };
        if let Some(slot) = self.table.find_packed(key, beside, hash.0) {
            let entry = self.table.entry(slot);
            if entry.is_some_and(|entry| entry.is_live(Beat::of(now))) {
                return self.open_again(slot, &opening, new, now);
            }
            self.forget(slot, hash.0);
            self.counts.expired = self.counts.expired.saturating_add(1);
        }
        self.open_absent(&opening, new, now)
    }

    /// The same for a key that [`Self::find_key`] has just not found.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_absent(
        &mut self,
        opening: &Opening<'_>,
        new: &NewFlow,
        now: Tick,
    ) -> Result<FlowIndex, OpenError> {
        let beat = Beat::of(now);
        let mut admitted = self.shares.admit(new.interface, now);
        if admitted.is_err() && self.reclaim(beat) {
            admitted = self.shares.admit(new.interface, now);
        }
        if admitted == Err(OverLimit::Flows) && self.make_own_room(new, beat) {
            admitted = self.shares.admit(new.interface, now);
        }
        if admitted.is_err() {
            return Err(self.count_refusal(OpenError::Limit, new.class));
        }
        let opened = if self.make_room(new.class, beat) {
            self.insert(opening, new, now)
        } else {
            None
        };
        opened.ok_or_else(|| {
            self.shares.refund(new.interface);
            self.count_refusal(OpenError::Full, new.class)
        })
    }

    /// Asks for what opening a flow of an interface reads of the interface.
    #[inline]
    pub fn prefetch_interface(&self, interface: InterfaceSlot) {
        self.shares.prefetch(interface);
    }

    /// Counts a flow that gets no entry. One that needs none is refused nothing.
    #[cold]
    fn count_refusal(&mut self, error: OpenError, class: FlowClass) -> OpenError {
        if class != FlowClass::Untracked {
            let count = match error {
                OpenError::Full => &mut self.counts.refused,
                OpenError::Limit => &mut self.counts.limited,
            };
            *count = count.saturating_add(1);
        }
        error
    }

    /// Begins another connection in the entry of a flow that [`super::Track::Reopen`] was said of.
    /// It counts as a new flow of its interface, but is not refused for that: it takes no room.
    pub fn reopen(
        &mut self,
        index: FlowIndex,
        new: &NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) {
        let Some((key, beside)) = self.table.packed_key(index.0) else {
            return;
        };
        self.counts.reopened = self.counts.reopened.saturating_add(1);
        self.shares.release(self.interface_of(index.0));
        if self.shares.admit(new.interface, now).is_err() {
            self.shares.force(new.interface);
        }
        let opening = Opening {
            key: &key,
            beside: &beside,
            hash: FlowHash(self.table.hash_packed(&key, &beside)),
            packet,
            frame_len,
        };
        self.restart(index.0, &opening, new, now);
    }

    /// Says how many flows that wait for an answer may give way to new ones from here on, until it
    /// is said again. At first there is no limit. One more is refused as where nothing gives way.
    pub fn limit_displacements(&mut self, count: u32) {
        self.displacements_left = count;
    }

    /// Ends a flow at once, without a tombstone.
    pub fn end(&mut self, index: FlowIndex) {
        let hash = self.table.hash_of(index.0);
        if hash.is_some_and(|hash| self.forget(index.0, hash)) {
            self.counts.ended = self.counts.ended.saturating_add(1);
        }
    }

    /// Takes back entries past their deadline; called once a turn. Looks at no more than
    /// [`super::EXPIRE_PER_TURN_MAX`] entries; how many it took back.
    #[inline]
    pub fn expire(&mut self, now: Tick) -> u32 {
        let beat = Beat::of(now);
        self.datagrams.expire(now);
        if self.timers.is_due(beat) {
            self.sweep(beat)
        } else {
            0
        }
    }

    /// A flow of the same key is alive: the new one takes its entry.
    fn open_again(
        &mut self,
        slot: u32,
        opening: &Opening<'_>,
        new: &NewFlow,
        now: Tick,
    ) -> Result<FlowIndex, OpenError> {
        let old = self.interface_of(slot);
        self.shares.release(old);
        if self.shares.admit(new.interface, now).is_err() {
            self.shares.force(old);
            return Err(self.count_refusal(OpenError::Limit, new.class));
        }
        self.counts.reopened = self.counts.reopened.saturating_add(1);
        self.restart(slot, opening, new, now);
        let Opening {
            key, beside, hash, ..
        } = *opening;
        let is_there = self.table.find_packed(key, beside, hash.0) == Some(slot);
        is_there.then_some(FlowIndex(slot)).ok_or(OpenError::Full)
    }

    /// Makes sure that there is a free entry.
    fn make_room(&mut self, class: FlowClass, now: Beat) -> bool {
        if self.table.len() < self.table.capacity() {
            return true;
        }
        if self.reclaim(now) {
            return true;
        }
        let room = self.room_of(class);
        let (table, spans) = (&self.table, &self.spans);
        let is_young = |slot| {
            let entry = table.entry(slot);
            entry.is_some_and(|entry| entry.idle(spans, now) < ANSWER_BEATS)
        };
        let next = self.give_way.next(room, is_young);
        next.is_some_and(|(slot, yields)| self.displace(slot, yields, now))
    }

    /// Makes sure that an interface at its limit may have one flow more.
    #[cold]
    #[inline(never)]
    fn make_own_room(&mut self, new: &NewFlow, now: Beat) -> bool {
        let (table, spans) = (&self.table, &self.spans);
        let is_young = |slot| {
            let entry = table.entry(slot);
            entry.is_some_and(|entry| entry.idle(spans, now) < ANSWER_BEATS)
        };
        let room = self.room_of(new.class);
        let next = self.shares.next(new.interface, room, is_young);
        next.is_some_and(|(slot, yields)| self.displace(slot, yields, now))
    }

    /// Whose place a new flow may take.
    fn room_of(&self, class: FlowClass) -> Room {
        match class {
            FlowClass::Untracked => Room::Spare,
            _ if self.displacements_left == 0 => Room::Closed,
            FlowClass::Tracked | FlowClass::Unenforced => Room::Any,
        }
    }

    /// Takes the entry of a flow that gives way.
    fn displace(&mut self, slot: u32, yields: Yields, now: Beat) -> bool {
        let is_live = self.table.entry(slot).is_some_and(|e| e.is_live(now));
        let hash = self.table.hash_of(slot);
        if !hash.is_some_and(|hash| self.forget(slot, hash)) {
            debug_assert!(false, "a flow that is not there gives way");
            return false;
        }
        if is_live {
            self.counts.evicted = self.counts.evicted.saturating_add(1);
            self.counts.evicted_by.count(yields);
            let waits = matches!(yields, Yields::Unanswered | Yields::HalfOpen);
            self.displacements_left = self.displacements_left.saturating_sub(u32::from(waits));
        } else {
            self.counts.expired = self.counts.expired.saturating_add(1);
        }
        true
    }

    /// Sweeps because something is full, once a beat at most; whether that freed any entry.
    fn reclaim(&mut self, now: Beat) -> bool {
        if self.reclaimed == Some(now) {
            return false;
        }
        self.reclaimed = Some(now);
        self.sweep(now) > 0
    }

    /// Puts a new flow into a free entry.
    fn insert(&mut self, opening: &Opening<'_>, new: &NewFlow, now: Tick) -> Option<FlowIndex> {
        let (entry, cold, deadline) = self.begin(opening, new, now)?;
        let (hash, beside) = (opening.hash.0, opening.beside);
        let Some(slot) = self.table.insert(hash, &entry, cold, beside) else {
            self.release_parts(&entry);
            return None;
        };
        self.started(slot, &entry, deadline, opening.packet);
        // The next flow's lines come near while that flow is judged.
        if let Some(next) = self.table.first_free() {
            self.table.prefetch_slot(next);
            self.table.prefetch_cold(next);
            self.timers.prefetch(next);
        }
        Some(FlowIndex(slot))
    }

    /// Begins a flow in an entry that has this key already; its interface is counted.
    fn restart(&mut self, slot: u32, opening: &Opening<'_>, new: &NewFlow, now: Tick) {
        let Some((entry, cold, deadline)) = self.begin(opening, new, now) else {
            // Its interface cannot be named: no flow rather than one of nobody. The old one's
            // share is released already.
            self.shares.release(new.interface);
            self.shares.force(self.interface_of(slot));
            if let Some(hash) = self.table.hash_of(slot) {
                self.forget(slot, hash);
            }
            return;
        };
        let Some((to, to_cold)) = self.table.pair_mut(slot) else {
            return;
        };
        let old = *to;
        (*to, *to_cold) = (entry, cold);
        self.refile(slot, &old, old.yields(), None);
        self.release_parts(&old);
        self.started(slot, &entry, deadline, opening.packet);
    }

    /// The entry of a flow that a packet opens, and its deadline; `None` if its interface has no
    /// number that entries could hold.
    #[inline]
    fn begin(
        &mut self,
        opening: &Opening<'_>,
        new: &NewFlow,
        now: Tick,
    ) -> Option<(Entry, Cold, Beat)> {
        let interface = self.interfaces.take(new.interface.0)?;
        let mut entry = Entry::new(opening.key, new, now);
        let mut cold = Cold::new(now);
        entry.interface = interface;
        entry.rule = self.narrow_rule(new.rule);
        self.note_generation(new.generation);
        entry.set(Mark::Seen, Side::Original);
        match opening.packet.transport {
            Transport::Tcp(ref segment) => tcp::open(&mut entry, &mut cold, segment),
            Transport::Udp { .. } => entry.state = Some(FlowState::Udp),
            Transport::Icmp { code, .. } => {
                entry.state = Some(FlowState::Icmp);
                entry.set_query_code(code);
            }
            Transport::Other => entry.state = Some(FlowState::Other),
        }
        let state = entry.state.unwrap_or(FlowState::Other);
        let deadline = Beat::of(now).after(self.span(state));
        entry.set_deadline(deadline);
        let side = Side::Original;
        let weight = self
            .records
            .count(&mut entry.traffic, Weight::Light, side, opening.frame_len);
        entry.set_weight(weight);
        Some((entry, cold, deadline))
    }

    /// Files a flow that has begun.
    #[inline]
    fn started(&mut self, slot: u32, entry: &Entry, deadline: Beat, packet: &IpPacket) {
        self.timers.file(slot, deadline);
        self.refile(slot, entry, None, entry.yields());
        self.counts.opened = self.counts.opened.saturating_add(1);
        let is_middle = match packet.transport {
            Transport::Tcp(ref segment) => !segment.flags.is_open(),
            _ => false,
        };
        if is_middle {
            self.counts.picked_up = self.counts.picked_up.saturating_add(1);
        }
    }

    /// Removes a flow from everything that knows it; whether it was there.
    fn forget(&mut self, slot: u32, hash: u64) -> bool {
        let Some(entry) = self.table.remove(slot, hash) else {
            return false;
        };
        self.timers.clear(slot);
        self.refile(slot, &entry, entry.yields(), None);
        if let Some(interface) = self.interfaces.slot(entry.interface) {
            self.shares.release(InterfaceSlot(interface));
        }
        self.release_parts(&entry);
        true
    }

    /// Moves a flow from one class of those that give way to another.
    #[inline]
    pub(super) fn refile(
        &mut self,
        slot: u32,
        entry: &Entry,
        from: Option<Yields>,
        to: Option<Yields>,
    ) {
        self.give_way.move_to(slot, from, to);
        if from != to && self.shares.is_ringing() {
            let interface = self.interfaces.slot(entry.interface);
            self.shares
                .move_to(interface.unwrap_or(u32::MAX), slot, from, to);
        }
    }

    /// Gives back what an entry holds besides its line.
    fn release_parts(&mut self, entry: &Entry) {
        self.records.release(entry.traffic, entry.weight());
        self.interfaces.release(entry.interface);
        self.rules.release(entry.rule);
    }

    fn interface_of(&self, slot: u32) -> InterfaceSlot {
        let entry = self.table.entry(slot);
        let narrow = entry.map_or(Narrow::NONE, |entry| entry.interface);
        InterfaceSlot(self.interfaces.slot(narrow).unwrap_or(u32::MAX))
    }

    fn sweep(&mut self, now: Beat) -> u32 {
        let mut turn = self.timers.turn(now, self.table.used());
        let mut batches = [[0; SWEEP_BATCH]; 2];
        let [near, next] = &mut batches;
        let (mut near, mut next) = (near, next);
        let mut near_len = 0;
        let mut freed = 0u32;
        for _ in 0..SWEEPS_PER_TURN {
            // The entries of one batch come near while those of the batch before are judged.
            let due = self.timers.collect(&mut turn, next);
            for slot in due {
                self.table.prefetch_slot(*slot);
            }
            let len = due.len();
            freed = freed.saturating_add(self.sweep_batch(near.get(..near_len), now));
            std::mem::swap(&mut near, &mut next);
            near_len = len;
            if len < SWEEP_BATCH {
                break;
            }
        }
        freed = freed.saturating_add(self.sweep_batch(near.get(..near_len), now));
        self.counts.expired = self.counts.expired.saturating_add(u64::from(freed));
        freed
    }

    /// Each stage asks for what the next one reads, so that the batch waits for memory only once;
    /// its entries should be near.
    fn sweep_batch(&mut self, due: Option<&[u32]>, now: Beat) -> u32 {
        let due = due.unwrap_or_default();
        let mut are_dead = [false; SWEEP_BATCH];
        for (slot, is_dead) in due.iter().zip(&mut are_dead) {
            match self.table.entry(*slot).filter(|entry| entry.is_live(now)) {
                Some(entry) => self.timers.file(*slot, entry.deadline(now)),
                None => {
                    self.table.prefetch_addresses(*slot);
                    *is_dead = true;
                }
            }
        }
        let mut hashes = [None; SWEEP_BATCH];
        for ((slot, is_dead), hash) in due.iter().zip(are_dead).zip(&mut hashes) {
            if !is_dead {
                continue;
            }
            *hash = self.table.hash_of(*slot);
            match *hash {
                Some(hash) => self.table.prefetch_bucket(hash),
                None => self.timers.clear(*slot),
            }
            self.shares.prefetch(self.interface_of(*slot));
        }
        for hash in hashes.iter().flatten() {
            self.table.prefetch_second_bucket(*hash);
        }
        let dead = due.iter().zip(&hashes);
        let dead = dead.filter_map(|(slot, hash)| Some((*slot, (*hash)?)));
        let mut freed = 0u32;
        for (slot, hash) in dead {
            freed = freed.saturating_add(u32::from(self.forget(slot, hash)));
        }
        freed
    }
}

//! The table of one worker: what the pipeline asks, and when flows end.

use super::config::{ShardConfig, TIMEOUT_MAX, TcpPickup};
use super::entry::{Cold, Entry, Mark, PackedKey, Side};
use super::flow::{
    Admission, FlowClass, FlowHash, FlowHead, FlowIndex, FlowState, FlowView, FragmentedFlow,
    NewFlow, ShardStats, TableFull, Track,
};
use super::fragments::{FragmentFate, Fragments, Release, Ticket};
use super::related::RelatedBudget;
use super::table::Table;
use super::tcp::{self, Step};
use super::timer::{Beat, EXPIRE_PER_TURN_MAX, Fired, Timers};
use crate::clock::Tick;
use crate::packet::{End, FlowKey, Fragment, IpPacket, Transport};
use crate::types::{Generation, LinkId, RuleSlot, protocol};

/// A fixed-memory connection table that one worker owns. See the module for the layout.
#[derive(Debug)]
pub struct Shard {
    pub(super) table: Table,
    pub(super) timers: Timers,
    /// Timeouts in beats, by state.
    spans: [u32; FlowState::COUNT],
    tcp_pickup: TcpPickup,
    is_tcp_strict: bool,
    /// When `open` last made room by force.
    reclaimed: Option<Beat>,
    counts: ShardStats,
    /// Datagrams in pieces that have their home here.
    datagrams: Fragments,
    related: RelatedBudget,
}

impl Shard {
    /// Takes all the memory that the shard will ever use.
    #[must_use]
    pub fn new(config: &ShardConfig, now: Tick) -> Self {
        let capacity = config.max_flows.clamp(1, u32::MAX.wrapping_sub(1));
        Self {
            table: Table::new(capacity, config.seed),
            timers: Timers::new(capacity, Beat::of(now)),
            spans: spans(config),
            tcp_pickup: config.tcp_pickup,
            is_tcp_strict: config.tcp_strict,
            reclaimed: None,
            counts: ShardStats::default(),
            datagrams: Fragments::new(config.timeouts.fragment, config.seed),
            related: RelatedBudget::new(now),
        }
    }

    /// The hash of a key in this shard.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        FlowHash(self.table.hash(key))
    }

    /// Asks for the cache line that `find` reads first.
    #[inline]
    pub fn prefetch_bucket(&self, hash: FlowHash) {
        self.table.prefetch_bucket(hash.0);
    }

    /// Asks for the line of the likely flow; to be called when the bucket is near.
    #[inline]
    pub fn prefetch_entry(&self, hash: FlowHash) {
        self.table.prefetch_entry(hash.0);
    }

    /// The flow of a key, live or tombstone; one past its deadline is not there.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: FlowHash, now: Tick) -> Option<FlowIndex> {
        let slot = self.table.find(key, hash.0)?;
        let is_live = self.table.entry(slot)?.is_live(Beat::of(now));
        is_live.then_some(FlowIndex(slot))
    }

    /// What the flow was admitted as. Of a number that is no flow: a tombstone of nobody.
    #[inline]
    #[must_use]
    pub fn head(&self, index: FlowIndex) -> FlowHead {
        static NOBODY: (Entry, Cold) = (Entry::NOBODY, Cold::FREE);
        let pair = self.table.pair(index.0);
        let pair = pair.filter(|(entry, _)| entry.state.is_some());
        let (entry, cold) = pair.unwrap_or((&NOBODY.0, &NOBODY.1));
        entry.head(cold)
    }

    /// Takes a packet of a flow into account: moves its state and deadline, and counts the packet
    /// if it passes. `from` is the end that sent it, `frame_len` the length of its frame.
    ///
    /// A fragment after the first passes with its flow and leaves its state and deadline alone.
    #[inline]
    pub fn track(
        &mut self,
        index: FlowIndex,
        packet: &IpPacket,
        from: End,
        frame_len: u32,
        now: Tick,
    ) -> Track {
        let Some((entry, cold)) = self.table.pair_mut(index.0) else {
            return Track::Invalid;
        };
        if entry.is_tombstone() && entry.is_untracked() {
            return Track::Reopen;
        }
        let side = entry.side_of(from);
        let before = entry.state;
        let mut step = advance(entry, cold, side, packet, self.is_tcp_strict);
        let Some(state) = entry.state else {
            return Track::Invalid;
        };
        if step == Step::Refresh || entry.state != before {
            let deadline = Beat::of(now).after(span_of(&self.spans, state));
            if deadline < entry.deadline() {
                self.timers.file(index.0, deadline);
            }
            entry.set_deadline(deadline);
        }
        if step == Step::Invalid && entry.is_untracked() {
            // The rules alone decide about these.
            step = if state.is_tombstone() {
                Step::Reopen
            } else {
                Step::Keep
            };
        }
        match step {
            Step::Refresh | Step::Keep => {
                entry.count(cold, side, frame_len);
                Track::Pass
            }
            Step::Invalid => Track::Invalid,
            Step::Reopen => Track::Reopen,
        }
    }

    /// What a packet that belongs to no flow may do if the rules allow it.
    #[must_use]
    pub fn admission(&self, packet: &IpPacket) -> Admission {
        if matches!(packet.fragment, Fragment::Later { .. }) {
            return Admission::PassOnly;
        }
        match packet.transport {
            Transport::Tcp(ref segment) => {
                let flags = segment.flags;
                let is_middle = flags.ack() && !flags.rst() && !(flags.syn() && flags.fin());
                if flags.is_open() {
                    Admission::Open
                } else if self.tcp_pickup == TcpPickup::SynOnly {
                    Admission::Refuse
                } else if is_middle {
                    Admission::Open
                } else {
                    Admission::PassOnly
                }
            }
            Transport::Icmp { kind, .. } => match (packet.protocol, kind) {
                (protocol::ICMP, 8 | 13) | (protocol::ICMPV6, 128) => Admission::Open,
                _ => Admission::PassOnly,
            },
            Transport::Udp { .. } | Transport::Other => Admission::Open,
        }
    }

    /// Opens a flow with its first packet, which is counted. A flow of the same key, alive or not,
    /// gives way to it.
    ///
    /// # Errors
    /// [`TableFull`] if all entries are taken, or (rarely, on a table that is nearly full) both
    /// buckets of the key; the refusal is counted.
    pub fn open(
        &mut self,
        key: &FlowKey,
        hash: FlowHash,
        new: &NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) -> Result<FlowIndex, TableFull> {
        let beat = Beat::of(now);
        if let Some(slot) = self.table.find(key, hash.0) {
            let is_live = self
                .table
                .entry(slot)
                .is_some_and(|entry| entry.is_live(beat));
            if is_live {
                self.counts.reopened = self.counts.reopened.saturating_add(1);
            } else {
                self.counts.expired = self.counts.expired.saturating_add(1);
            }
            self.start(FlowIndex(slot), key, new, packet, frame_len, now);
            return Ok(FlowIndex(slot));
        }
        if self.table.len() == self.table.capacity() && self.reclaimed != Some(beat) {
            self.reclaimed = Some(beat);
            self.sweep(beat);
        }
        let (mut entry, mut cold) = begin(key, new, packet, now);
        let state = entry.state.unwrap_or(FlowState::Other);
        let deadline = beat.after(span_of(&self.spans, state));
        entry.set_deadline(deadline);
        entry.count(&mut cold, Side::Original, frame_len);
        let Some(slot) = self.table.insert(key, hash.0, entry, cold) else {
            self.counts.refused = self.counts.refused.saturating_add(1);
            return Err(TableFull);
        };
        self.timers.file(slot, deadline);
        self.count_opened(packet);
        Ok(FlowIndex(slot))
    }

    /// Begins another connection in the entry of a flow that [`Track::Reopen`] was said of.
    pub fn reopen(
        &mut self,
        index: FlowIndex,
        new: &NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) {
        if let Some(key) = self.table.key(index.0) {
            self.counts.reopened = self.counts.reopened.saturating_add(1);
            self.start(index, &key, new, packet, frame_len, now);
        }
    }

    /// Notes that a flow was judged again, and as what and by which rule it goes on.
    pub fn restamp(
        &mut self,
        index: FlowIndex,
        generation: Generation,
        class: FlowClass,
        rule: Option<RuleSlot>,
    ) {
        if let Some((entry, cold)) = self.table.pair_mut(index.0) {
            entry.restamp(cold, generation, class, rule);
        }
    }

    /// Ends a flow at once, without a tombstone.
    pub fn end(&mut self, index: FlowIndex) {
        if self.table.remove(index.0) {
            self.timers.clear(index.0);
            self.counts.ended = self.counts.ended.saturating_add(1);
        }
    }

    /// Takes back entries past their deadline; called once a turn. Looks at no more than
    /// [`EXPIRE_PER_TURN_MAX`] entries; how many it took back.
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

    /// Places a fragment whose home is here.
    #[cold]
    #[inline(never)]
    pub fn admit_fragment(&mut self, link: LinkId, packet: &IpPacket, now: Tick) -> FragmentFate {
        let is_first = matches!(packet.fragment, Fragment::First { .. });
        let flow = is_first.then(|| FragmentedFlow {
            key: FlowKey::of(link, packet),
            protocol: packet.protocol,
            transport: packet.transport,
            admission: self.admission(packet),
        });
        self.datagrams.admit(link, packet, flow, now)
    }

    /// The next fragment that need not wait any longer; its ticket is free again.
    #[inline]
    pub fn pop_released(&mut self) -> Option<(Ticket, Release)> {
        self.datagrams.pop_released()
    }

    /// Takes one related ICMP error from the worker's budget; `false` where it is spent.
    pub fn spend_related(&mut self, now: Tick) -> bool {
        self.related.spend(now)
    }

    /// Shows live flows, tombstones included, in at most `slots_max` slots from `cursor` on (0 to
    /// begin with); where to go on, until there is nothing left.
    pub fn scan(
        &self,
        cursor: u32,
        slots_max: u32,
        now: Tick,
        visit: &mut dyn FnMut(FlowView),
    ) -> Option<u32> {
        let end = cursor.saturating_add(slots_max).min(self.table.used());
        for slot in cursor..end {
            if let Some(view) = self.view(slot, now) {
                visit(view);
            }
        }
        (end < self.table.used()).then_some(end)
    }

    /// Entries in use, expired ones that are not yet taken back included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether no entry is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most entries.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.table.capacity()
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            flows: self.len(),
            max_flows: self.capacity(),
            ..self.counts
        }
    }

    /// Bytes of memory taken for a table full of IPv4 flows, and how many more IPv6 could touch.
    #[must_use]
    pub fn memory_bytes(&self) -> (usize, usize) {
        let (bytes, bytes_v6) = self.table.bytes();
        let timers = (self.capacity() as usize).saturating_mul(size_of::<u16>());
        (bytes.saturating_add(timers), bytes_v6)
    }

    /// Begins a flow in an entry that has this key already.
    fn start(
        &mut self,
        index: FlowIndex,
        key: &FlowKey,
        new: &NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) {
        let (mut entry, mut cold) = begin(key, new, packet, now);
        let state = entry.state.unwrap_or(FlowState::Other);
        let deadline = Beat::of(now).after(span_of(&self.spans, state));
        entry.set_deadline(deadline);
        entry.count(&mut cold, Side::Original, frame_len);
        if let Some((to, to_cold)) = self.table.pair_mut(index.0) {
            (*to, *to_cold) = (entry, cold);
            self.timers.file(index.0, deadline);
            self.count_opened(packet);
        }
    }

    fn count_opened(&mut self, packet: &IpPacket) {
        self.counts.opened = self.counts.opened.saturating_add(1);
        let is_middle = match packet.transport {
            Transport::Tcp(ref segment) => !segment.flags.is_open(),
            _ => false,
        };
        if is_middle {
            self.counts.picked_up = self.counts.picked_up.saturating_add(1);
        }
    }

    fn sweep(&mut self, now: Beat) -> u32 {
        let mut freed = 0u32;
        let (timers, table) = (&mut self.timers, &mut self.table);
        timers.sweep(now, table.used(), EXPIRE_PER_TURN_MAX, |slot| {
            let live = table.entry(slot).filter(|entry| entry.is_live(now));
            if let Some(entry) = live {
                return Fired::Lives(entry.deadline());
            }
            freed = freed.saturating_add(u32::from(table.remove(slot)));
            Fired::Freed
        });
        self.counts.expired = self.counts.expired.saturating_add(u64::from(freed));
        freed
    }

    fn view(&self, slot: u32, now: Tick) -> Option<FlowView> {
        let (entry, cold) = self.table.pair(slot)?;
        let state = entry.state?;
        if !entry.is_live(Beat::of(now)) {
            return None;
        }
        let expires_in = entry.deadline().tick().since(now);
        let span = Beat(u64::from(span_of(&self.spans, state))).tick();
        Some(FlowView {
            index: FlowIndex(slot),
            key: self.table.key(slot)?,
            head: entry.head(cold),
            state,
            age: now.since(cold.started()),
            idle: span.since(Tick::default()).saturating_sub(expires_in),
            expires_in,
            sent: entry.traffic(cold, Side::Original),
            answered: entry.traffic(cold, Side::Reply),
        })
    }
}

/// Moves the state of a flow by one packet of `side`.
#[inline]
fn advance(
    entry: &mut Entry,
    cold: &mut Cold,
    side: Side,
    packet: &IpPacket,
    is_strict: bool,
) -> Step {
    match entry.state {
        Some(FlowState::Udp) => {
            advance_udp(entry, side);
            Step::Refresh
        }
        Some(FlowState::UdpStream | FlowState::Other) => Step::Refresh,
        Some(FlowState::Icmp) => advance_icmp(cold, side, packet),
        Some(state) => match packet.transport {
            Transport::Tcp(ref segment) => tcp::advance(entry, cold, side, segment, is_strict),
            // A later fragment of a segment: its header went before it.
            _ if state.is_tombstone() => Step::Invalid,
            _ => Step::Keep,
        },
        None => Step::Invalid,
    }
}

/// Two packets each way make a stream (Semantics: more than one request and response).
#[inline]
fn advance_udp(entry: &mut Entry, side: Side) {
    if entry.has(Mark::Seen, side) {
        entry.set(Mark::Acked, side);
    }
    entry.set(Mark::Seen, side);
    if entry.has_both(Mark::Acked) {
        entry.state = Some(FlowState::UdpStream);
    }
}

/// A query of another code is another question to the rules. The reply may have any: hosts answer
/// with the query's or with 0.
fn advance_icmp(cold: &Cold, side: Side, packet: &IpPacket) -> Step {
    match packet.transport {
        Transport::Icmp { code, .. } if side == Side::Original && u32::from(code) != cold.isn => {
            Step::Reopen
        }
        _ => Step::Refresh,
    }
}

/// The entry of a flow that `packet` opens; its deadline is still to be set.
fn begin(key: &FlowKey, new: &NewFlow, packet: &IpPacket, now: Tick) -> (Entry, Cold) {
    let mut entry = Entry::new(&PackedKey::of(key), new);
    let mut cold = Cold::new(new, now);
    match packet.transport {
        Transport::Tcp(ref segment) => tcp::open(&mut entry, &mut cold, segment),
        Transport::Udp { .. } => {
            entry.state = Some(FlowState::Udp);
            entry.set(Mark::Seen, Side::Original);
        }
        Transport::Icmp { code, .. } => {
            entry.state = Some(FlowState::Icmp);
            cold.isn = u32::from(code);
        }
        Transport::Other => entry.state = Some(FlowState::Other),
    }
    (entry, cold)
}

/// Timeouts in beats, by state.
fn spans(config: &ShardConfig) -> [u32; FlowState::COUNT] {
    let timeouts = &config.timeouts;
    // In the order of `FlowState`.
    [
        timeouts.tcp_syn_sent,
        timeouts.tcp_syn_received,
        timeouts.tcp_established,
        timeouts.tcp_closing,
        timeouts.tcp_time_wait,
        timeouts.tcp_reset,
        timeouts.udp,
        timeouts.udp_stream,
        timeouts.icmp,
        timeouts.other,
    ]
    .map(|timeout| Beat::span(timeout.min(TIMEOUT_MAX)))
}

#[inline]
fn span_of(spans: &[u32; FlowState::COUNT], state: FlowState) -> u32 {
    spans.get(state as usize).copied().unwrap_or(0)
}

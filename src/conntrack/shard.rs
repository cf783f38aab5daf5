//! The table of one worker: what the pipeline asks of it. How flows come and go is in life.rs.

use super::challenge::Challenges;
use super::config::{PerInterface, ShardConfig, TIMEOUT_MAX, TcpPickup};
use super::entry::Entry;
use super::flow::{
    Admission, FlowClass, FlowHash, FlowHead, FlowIndex, FlowState, FlowView, FragmentedFlow,
    ShardMemory, ShardStats, Track,
};
use super::fragments::{FragmentFate, Fragments, Release, Ticket};
use super::give_way::GiveWay;
use super::numbers::{Narrow, Numbers};
use super::related::RelatedBudget;
use super::share::Shares;
use super::sides::{Mark, Side};
use super::table::Table;
use super::tcp::{self, Aside, Step};
use super::timer::{Beat, Timers};
use super::traffic::{FLOWS_MAX, Records};
use super::window::is_sent;
use crate::clock::Tick;
use crate::packet::{End, FlowKey, Fragment, IpPacket, Transport};
use crate::types::{FlowLimits, Generation, InterfaceSlot, LinkId, PortSide, RuleSlot, protocol};

/// A fixed-memory connection table that one worker owns. See the module for the layout.
#[derive(Debug)]
pub struct Shard {
    pub(super) table: Table,
    pub(super) timers: Timers,
    pub(super) give_way: GiveWay,
    pub(super) shares: Shares,
    pub(super) records: Records,
    pub(super) challenges: Challenges,
    pub(super) interfaces: Numbers,
    pub(super) rules: Numbers,
    /// Low half of the generation that a flow was judged by last, which is the newest.
    newest: u32,
    /// Timeouts in beats, by state.
    pub(super) spans: [u32; FlowState::COUNT],
    tcp_pickup: TcpPickup,
    is_tcp_strict: bool,
    /// When `open` last swept because the table was full.
    pub(super) reclaimed: Option<Beat>,
    /// How many more flows that wait for an answer may give way in this batch.
    pub(super) displacements_left: u32,
    pub(super) counts: ShardStats,
    /// Datagrams in pieces that have their home here.
    pub(super) datagrams: Fragments,
    related: RelatedBudget,
}

impl Shard {
    /// Takes all the memory that the shard will ever use.
    #[must_use]
    pub fn new(config: &ShardConfig, now: Tick) -> Self {
        let capacity = config.max_flows.clamp(1, FLOWS_MAX);
        Self {
            table: Table::new(capacity, config.seed),
            timers: Timers::new(capacity, Beat::of(now)),
            give_way: GiveWay::new(capacity),
            shares: Shares::new(config.per_interface, capacity),
            records: Records::new(capacity),
            challenges: Challenges::new(capacity),
            interfaces: Numbers::new(),
            rules: Numbers::new(),
            newest: 0,
            spans: spans(config),
            tcp_pickup: config.tcp_pickup,
            is_tcp_strict: config.tcp_strict,
            reclaimed: None,
            displacements_left: u32::MAX,
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

    /// Asks for the cache line that `find` reads first. A batch is looked up by calling this for
    /// all of its packets, then [`Self::prefetch_entry`] for all, then [`Self::find`] for each, so
    /// that the cache misses of a batch are taken together.
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

    /// Whether an ICMP error that quotes this packet of a flow, sent by `from`, may be related to
    /// it: it is alive and no tombstone, and of TCP the quoted number may be one that was sent of
    /// late, which who only knows of the flow cannot tell. Asking refreshes nothing.
    #[must_use]
    pub fn can_relate(&self, index: FlowIndex, quoted: &IpPacket, from: End, now: Tick) -> bool {
        let entry = self.table.entry(index.0);
        let live = |entry: &&Entry| entry.is_live(Beat::of(now)) && !entry.is_tombstone();
        entry
            .filter(live)
            .is_some_and(|entry| match quoted.transport {
                Transport::Tcp(ref segment) => {
                    is_sent(entry, entry.side_of(from), segment.sequence)
                }
                _ => true,
            })
    }

    /// What the flow was admitted as. Of a number that is no flow: a tombstone of nobody.
    #[inline]
    #[must_use]
    pub fn head(&self, index: FlowIndex) -> FlowHead {
        let entry = self.table.entry(index.0);
        let entry = entry.filter(|entry| entry.state.is_some());
        self.head_of(entry.unwrap_or(&Entry::NOBODY))
    }

    /// Takes a packet of a flow into account: moves its state and deadline, and counts the packet
    /// if it passes. `from` is the end that sent it, `frame_len` the length of its frame.
    ///
    /// A fragment after the first passes with its flow and leaves its state and deadline alone; so
    /// does any fragment of TCP, which is asked about with the header of the first: what has no
    /// place in the connection does not pass in pieces either.
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
        let (before, yielded) = (entry.state, entry.yields());
        let mut aside = Aside {
            slot: index.0,
            cold,
            challenges: &mut self.challenges,
        };
        let mut step = advance(entry, &mut aside, side, packet, self.is_tcp_strict);
        let Some(state) = entry.state else {
            return Track::Invalid;
        };
        let moved = (yielded != entry.yields()).then_some(*entry);
        if step == Step::Refresh || entry.state != before {
            let beat = Beat::of(now);
            let deadline = beat.after(span_of(&self.spans, state));
            if deadline < entry.deadline(beat) {
                self.timers.file(index.0, deadline);
            }
            entry.set_deadline(deadline);
        } else if step == Step::Doubt {
            let deadline = Beat::of(now).after(span_of(&self.spans, FlowState::Reset));
            hasten(&mut self.timers, index.0, entry, deadline, now);
        }
        if step == Step::Invalid && entry.is_untracked() {
            // The rules alone decide about these.
            step = if state.is_tombstone() {
                Step::Reopen
            } else {
                Step::Keep
            };
        }
        let track = match step {
            Step::Refresh | Step::Keep | Step::Doubt => {
                let weight = entry.weight();
                let weight = self
                    .records
                    .count(&mut entry.traffic, weight, side, frame_len);
                entry.set_weight(weight);
                Track::Pass
            }
            Step::Invalid => Track::Invalid,
            Step::Reopen => Track::Reopen,
        };
        if let Some(moved) = moved {
            self.refile(index.0, &moved, yielded, moved.yields());
        }
        track
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

    /// Notes that a flow was judged again, and as what and by which rule it goes on.
    pub fn restamp(
        &mut self,
        index: FlowIndex,
        generation: Generation,
        class: FlowClass,
        rule: Option<RuleSlot>,
    ) {
        self.note_generation(generation);
        let narrow = self.narrow_rule(rule);
        let pair = self.table.pair_mut(index.0);
        let Some((entry, _)) = pair.filter(|(entry, _)| entry.state.is_some()) else {
            return self.rules.release(narrow);
        };
        self.rules.release(entry.rule);
        entry.rule = narrow;
        entry.stamp(generation);
        let yielded = entry.yields();
        entry.set_class(class);
        let moved = *entry;
        self.refile(index.0, &moved, yielded, moved.yields());
    }

    /// Gives these interfaces, which are in order of their slots, limits of their own, and takes
    /// them from all others; `shards` share what an interface may have. Without effect where this
    /// shard does not count by interface ([`PerInterface`]). What an interface has beyond a new
    /// limit stays. Not for the path of packets.
    pub fn limit_interfaces(&mut self, own: &[(InterfaceSlot, FlowLimits)], shards: u32) {
        let default = self.shares.default_limit();
        let limits = own.iter().map(|(slot, own)| {
            let all = PerInterface {
                max_flows: own.max_flows.unwrap_or(0),
                new_per_second: own.new_per_second.unwrap_or(0),
            };
            let part = all.divided(shards);
            let limit = PerInterface {
                max_flows: own.max_flows.map_or(default.max_flows, |_| part.max_flows),
                new_per_second: own
                    .new_per_second
                    .map_or(default.new_per_second, |_| part.new_per_second),
            };
            (*slot, limit)
        });
        self.shares.set_own(limits);
    }

    /// Places a fragment whose home is here.
    #[cold]
    #[inline(never)]
    pub fn admit_fragment(
        &mut self,
        link: LinkId,
        side: PortSide,
        packet: &IpPacket,
        now: Tick,
    ) -> FragmentFate {
        let is_first = matches!(packet.fragment, Fragment::First { .. });
        let flow = is_first.then(|| FragmentedFlow {
            key: FlowKey::of(link, packet),
            protocol: packet.protocol,
            transport: packet.transport,
            admission: self.admission(packet),
        });
        self.datagrams.admit(link, side, packet, flow, now)
    }

    /// Says how many fragments may wait here at a time, at most [`super::WAITING_MAX`]; before any
    /// does.
    pub fn limit_waiting(&mut self, count: usize) {
        self.datagrams.limit_waiting(count);
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
            can_give_way: self.give_way.count(),
            ..self.counts
        }
    }

    /// Bytes of memory that the shard takes.
    #[must_use]
    pub fn memory_bytes(&self) -> ShardMemory {
        let (table, ipv6) = self.table.bytes();
        let parts = [
            table,
            self.timers.bytes(),
            self.give_way.bytes(),
            self.shares.bytes(),
            self.challenges.bytes(),
            size_of::<Self>(),
        ];
        ShardMemory {
            flows: parts.into_iter().fold(0, usize::saturating_add),
            fragments: self.datagrams.bytes(),
            ipv6,
            heavy: self.records.bytes(),
            interfaces: self.shares.interface_bytes(),
        }
    }

    /// How long a state lasts without a packet, in beats.
    #[inline]
    pub(super) fn span(&self, state: FlowState) -> u32 {
        span_of(&self.spans, state)
    }

    /// The number that entries hold for a rule; a rule too many is forgotten.
    #[inline]
    pub(super) fn narrow_rule(&mut self, rule: Option<RuleSlot>) -> Narrow {
        let narrow = rule.and_then(|rule| self.rules.take(rule.0));
        narrow.unwrap_or(Narrow::NONE)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is kept")]
    pub(super) fn note_generation(&mut self, generation: Generation) {
        self.newest = generation.0 as u32;
    }

    #[inline]
    fn head_of(&self, entry: &Entry) -> FlowHead {
        let interface = self.interfaces.slot(entry.interface);
        FlowHead {
            interface: InterfaceSlot(interface.unwrap_or(u32::MAX)),
            rule: self.rules.slot(entry.rule).map(RuleSlot),
            generation_low: entry.generation_low(self.newest),
            class: entry.class(),
            direction: entry.direction(),
            opener: entry.opener(),
            query_code: entry.query_code(),
            is_tombstone: entry.is_tombstone(),
        }
    }

    fn view(&self, slot: u32, now: Tick) -> Option<FlowView> {
        let (entry, cold) = self.table.pair(slot)?;
        let (state, beat) = (entry.state?, Beat::of(now));
        if !entry.is_live(beat) {
            return None;
        }
        let expires_in = entry.deadline(beat).tick().since(now);
        let span = Beat(u64::from(self.span(state))).tick();
        let sent_by = |side| self.records.total(entry.traffic, entry.weight(), side);
        Some(FlowView {
            index: FlowIndex(slot),
            key: self.table.key(slot)?,
            head: self.head_of(entry),
            state,
            age: now.since(entry.started(cold, now)),
            idle: span.since(Tick::default()).saturating_sub(expires_in),
            expires_in,
            sent: sent_by(Side::Original),
            answered: sent_by(Side::Reply),
        })
    }
}

/// Brings a deadline nearer, if it comes later than this.
#[cold]
#[inline(never)]
fn hasten(timers: &mut Timers, slot: u32, entry: &mut Entry, deadline: Beat, now: Tick) {
    if deadline < entry.deadline(Beat::of(now)) {
        timers.file(slot, deadline);
        entry.set_deadline(deadline);
    }
}

/// Moves the state of a flow by one packet of `side`.
#[inline]
fn advance(
    entry: &mut Entry,
    aside: &mut Aside<'_>,
    side: Side,
    packet: &IpPacket,
    is_strict: bool,
) -> Step {
    if packet.fragment != Fragment::Whole
        && let Some(step) = advance_by_piece(entry, aside, side, packet, is_strict)
    {
        return step;
    }
    match entry.state {
        Some(FlowState::Udp) => {
            advance_udp(entry, side);
            Step::Refresh
        }
        Some(FlowState::UdpStream | FlowState::Other) => {
            entry.set(Mark::Seen, side);
            Step::Refresh
        }
        Some(FlowState::Icmp) => advance_icmp(entry, side, packet),
        Some(_) => match packet.transport {
            Transport::Tcp(ref segment) => tcp::advance(entry, aside, side, segment, is_strict),
            _ => Step::Invalid,
        },
        None => Step::Invalid,
    }
}

/// What a fragment does; `None` where it does what its whole packet would.
#[cold]
#[inline(never)]
fn advance_by_piece(
    entry: &Entry,
    aside: &mut Aside<'_>,
    side: Side,
    packet: &IpPacket,
    is_strict: bool,
) -> Option<Step> {
    if entry.is_tombstone() {
        return Some(Step::Invalid);
    }
    if let Transport::Tcp(ref segment) = packet.transport {
        return Some(tcp::verdict(entry, aside, side, segment, is_strict));
    }
    matches!(packet.fragment, Fragment::Later { .. }).then_some(Step::Keep)
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
fn advance_icmp(entry: &mut Entry, side: Side, packet: &IpPacket) -> Step {
    match packet.transport {
        Transport::Icmp { code, .. } if side == Side::Original && code != entry.query_code() => {
            Step::Reopen
        }
        _ => {
            entry.set(Mark::Seen, side);
            Step::Refresh
        }
    }
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

//! The specification as slow, plain code: a `HashMap` of flows, numbers in full width, no packing,
//! no timers. The shard is held to it by the random test.

use std::collections::HashMap;

use super::config::{ShardConfig, TcpPickup};
use super::flow::{Admission, FlowClass, FlowState, NewFlow, Track, Traffic};
use super::give_way::Yields;
use crate::clock::Tick;
use crate::packet::{End, FlowKey, IpPacket, TcpHeader, Transport};

/// What one side of a TCP connection has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Half {
    /// Sequence number of its SYN; of the opener only.
    pub(crate) isn: Option<u32>,
    /// Next sequence number, from its own segments.
    pub(crate) end: Option<u32>,
    /// Lower bound of `end` from the other's acknowledgments, where `end` is unknown.
    pub(crate) end_guess: Option<u32>,
    /// Highest acknowledgment it sent.
    pub(crate) ack: Option<u32>,
    /// Largest window, as on the wire but for SYNs, which are brought to the scale.
    pub(crate) window: u64,
    pub(crate) scale: Option<u32>,
    pub(crate) is_syn_acked: bool,
    pub(crate) is_fin_sent: bool,
    pub(crate) is_fin_acked: bool,
    pub(crate) may_answer: bool,
    pub(crate) challenge: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct OracleFlow {
    pub(crate) new: NewFlow,
    pub(crate) state: FlowState,
    /// Nanoseconds, rounded as the shard does: a multiple of 2^24.
    pub(crate) deadline: u64,
    pub(crate) halves: [Half; 2],
    pub(crate) is_midstream: bool,
    pub(crate) traffic: [Traffic; 2],
    /// Of an ICMP query.
    pub(crate) code: Option<u8>,
    /// Whether the other side has sent anything but resets.
    pub(crate) is_answered: bool,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    config: ShardConfig,
    pub(crate) flows: HashMap<FlowKey, OracleFlow>,
}

enum Kind {
    Rst,
    Syn,
    SynAck,
    Ack,
    Junk,
}

fn kind(segment: &TcpHeader) -> Kind {
    let f = segment.flags;
    match (f.rst(), f.syn(), f.ack(), f.fin()) {
        (true, ..) => Kind::Rst,
        (_, true, false, false) => Kind::Syn,
        (_, true, true, false) => Kind::SynAck,
        (_, false, true, _) => Kind::Ack,
        _ => Kind::Junk,
    }
}

/// Signed distance from `b` to `a`.
fn gap(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b).cast_signed())
}

fn end_of(s: &TcpHeader) -> u32 {
    let mut len = s.payload_len;
    if s.flags.syn() {
        len += 1;
    }
    if s.flags.fin() {
        len += 1;
    }
    s.sequence.wrapping_add(len)
}

/// Of the opener's first sequence number, 24 bits are kept.
fn is_same_start(a: u32, b: u32) -> bool {
    (a ^ b) & 0xff_ffff == 0
}

impl Oracle {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        Self {
            config: *config,
            flows: HashMap::new(),
        }
    }

    pub(crate) fn live(&self, key: &FlowKey, now: Tick) -> Option<&OracleFlow> {
        self.flows
            .get(key)
            .filter(|flow| rounded(now) < flow.deadline)
    }

    pub(super) fn timeout(&self, state: FlowState) -> u64 {
        let t = &self.config.timeouts;
        let timeout = match state {
            FlowState::SynSent => t.tcp_syn_sent,
            FlowState::SynReceived => t.tcp_syn_received,
            FlowState::Established => t.tcp_established,
            FlowState::Closing => t.tcp_closing,
            FlowState::TimeWait => t.tcp_time_wait,
            FlowState::Reset => t.tcp_reset,
            FlowState::Udp => t.udp,
            FlowState::UdpStream => t.udp_stream,
            FlowState::Icmp => t.icmp,
            FlowState::Other => t.other,
        };
        u64::try_from(timeout.as_nanos()).unwrap().div_ceil(1 << 24) << 24
    }

    pub(crate) fn admission(&self, packet: &IpPacket) -> Admission {
        match packet.transport {
            Transport::Tcp(ref s) => match (kind(s), self.config.tcp_pickup) {
                (Kind::Syn, _) => Admission::Open,
                (_, TcpPickup::SynOnly) => Admission::Refuse,
                (Kind::SynAck | Kind::Ack, TcpPickup::Rules) => Admission::Open,
                (Kind::Rst | Kind::Junk, TcpPickup::Rules) => Admission::PassOnly,
            },
            Transport::Icmp {
                kind: 8 | 13 | 128, ..
            } => Admission::Open,
            Transport::Icmp { .. } => Admission::PassOnly,
            _ => Admission::Open,
        }
    }

    /// `open` and `reopen` alike.
    pub(crate) fn open(
        &mut self,
        key: FlowKey,
        new: NewFlow,
        packet: &IpPacket,
        frame_len: u32,
        now: Tick,
    ) {
        let mut flow = OracleFlow {
            new,
            state: FlowState::Other,
            deadline: 0,
            halves: Default::default(),
            is_midstream: false,
            traffic: Default::default(),
            code: None,
            is_answered: false,
        };
        match packet.transport {
            Transport::Tcp(ref s) => flow.open_tcp(s),
            Transport::Udp { .. } => flow.state = FlowState::Udp,
            Transport::Icmp { code, .. } => {
                flow.state = FlowState::Icmp;
                flow.code = Some(code);
            }
            Transport::Other => flow.state = FlowState::Other,
        }
        flow.traffic[0].packets = 1;
        flow.traffic[0].bytes = u64::from(frame_len);
        flow.deadline = rounded(now) + self.timeout(flow.state);
        self.flows.insert(key, flow);
    }

    pub(crate) fn track(
        &mut self,
        key: &FlowKey,
        packet: &IpPacket,
        from: End,
        frame_len: u32,
        now: Tick,
    ) -> Track {
        let is_strict = self.config.tcp_strict;
        let flow = self.flows.get_mut(key).unwrap();
        let is_untracked = flow.new.class == FlowClass::Untracked;
        if flow.state.is_tombstone() && is_untracked {
            return Track::Reopen;
        }
        let me = usize::from(from != flow.new.opener);
        let before = flow.state;
        let (mut track, refreshes) = match packet.transport {
            Transport::Tcp(ref s) => flow.track_tcp(me, s, is_strict),
            Transport::Icmp { code, .. } if me == 0 && flow.code != Some(code) => {
                (Track::Reopen, false)
            }
            // A piece of a segment: the header went before it.
            _ if key.protocol == 6 && before.is_tombstone() => (Track::Invalid, false),
            _ if key.protocol == 6 => (Track::Pass, false),
            _ => (Track::Pass, true),
        };
        flow.is_answered |= match packet.transport {
            _ if key.protocol == 6 => flow.halves[1].end.is_some(),
            _ => me == 1,
        };
        let is_closed_now = flow.state.is_tombstone();
        if track == Track::Invalid && is_untracked {
            track = if is_closed_now {
                Track::Reopen
            } else {
                Track::Pass
            };
        }
        if track == Track::Pass {
            flow.traffic[me].packets += 1;
            flow.traffic[me].bytes += u64::from(frame_len);
        }
        if flow.state == FlowState::Udp && flow.traffic.iter().all(|t| t.packets >= 2) {
            flow.state = FlowState::UdpStream;
        }
        let (state, is_moved) = (flow.state, flow.state != before);
        if refreshes || is_moved {
            let deadline = rounded(now) + self.timeout(state);
            self.flows.get_mut(key).unwrap().deadline = deadline;
        }
        track
    }
}

/// Time as the shard keeps it.
pub(crate) fn rounded(now: Tick) -> u64 {
    now.0 >> 24 << 24
}

impl OracleFlow {
    /// Who gives way before whom on a full table; `None`: never.
    pub(super) fn yields(&self) -> Option<Yields> {
        if self.new.class == FlowClass::Untracked {
            Some(Yields::Untracked)
        } else if self.state.is_tombstone() {
            Some(Yields::Tombstone)
        } else if !self.is_answered || self.state == FlowState::SynSent {
            Some(Yields::Unanswered)
        } else if self.state == FlowState::SynReceived {
            Some(Yields::HalfOpen)
        } else {
            None
        }
    }

    /// The same as a number, the first to go lowest.
    pub(crate) fn rank(&self) -> Option<u8> {
        self.yields().map(|class| class as u8)
    }

    /// The opener's first sequence number, where only the newest with its 24 bits is known.
    fn isn(&self) -> u32 {
        let [opener, _] = &self.halves;
        let end = opener.end.unwrap();
        end.wrapping_sub(end.wrapping_sub(opener.isn.unwrap()) & 0xff_ffff)
    }

    fn open_tcp(&mut self, s: &TcpHeader) {
        let [opener, other] = &mut self.halves;
        opener.end = Some(end_of(s));
        if s.flags.syn() {
            opener.isn = Some(s.sequence);
        }
        if let Kind::Syn = kind(s) {
            self.state = FlowState::SynSent;
            opener.window = u64::from(s.window);
            opener.scale = s.window_scale.map(u32::from);
            return;
        }
        self.is_midstream = true;
        for half in [&mut *opener, &mut *other] {
            half.window = 65_535;
            half.scale = Some(14);
        }
        if s.flags.ack() {
            opener.ack = Some(s.acknowledgment);
            other.end_guess = Some(s.acknowledgment);
        }
        self.state = match kind(s) {
            Kind::SynAck => {
                other.is_syn_acked = true;
                FlowState::SynReceived
            }
            Kind::Rst => FlowState::Reset,
            _ if s.flags.fin() => {
                opener.is_fin_sent = true;
                FlowState::Closing
            }
            _ => FlowState::Established,
        };
    }

    /// Verdict, and whether the timer restarts even if the state stays.
    fn track_tcp(&mut self, me: usize, s: &TcpHeader, is_strict: bool) -> (Track, bool) {
        let stray = if is_strict {
            (Track::Invalid, false)
        } else {
            (Track::Pass, false)
        };
        match self.state {
            FlowState::SynSent => self.in_syn_sent(me, s, stray),
            FlowState::SynReceived => self.in_syn_received(me, s, stray),
            FlowState::Established | FlowState::Closing => {
                self.in_connection(me, s, stray, is_strict)
            }
            FlowState::TimeWait => self.in_time_wait(me, s),
            _ => self.after_close(me, s),
        }
    }

    fn in_syn_sent(&mut self, me: usize, s: &TcpHeader, stray: (Track, bool)) -> (Track, bool) {
        let first = self.isn().wrapping_add(1);
        let last = self.halves[0].end.unwrap();
        let acks_syn =
            s.flags.ack() && gap(s.acknowledgment, first) >= 0 && gap(last, s.acknowledgment) >= 0;
        match (me, kind(s)) {
            (0, Kind::Syn) if Some(s.sequence) == self.halves[0].isn => (Track::Pass, true),
            (0, Kind::Syn) => (Track::Reopen, false),
            (1, Kind::Syn) => {
                self.learn_answering_syn(s);
                self.state = FlowState::SynReceived;
                (Track::Pass, true)
            }
            (1, Kind::SynAck) if acks_syn => {
                self.learn_answering_syn(s);
                self.halves[1].ack = Some(s.acknowledgment);
                self.halves[0].is_syn_acked = true;
                self.state = FlowState::SynReceived;
                (Track::Pass, true)
            }
            (_, Kind::SynAck) => (Track::Invalid, false),
            (0, Kind::Rst) if gap(s.sequence, first) >= 0 && gap(last, s.sequence) >= 0 => {
                self.state = FlowState::Reset;
                (Track::Pass, true)
            }
            (1, Kind::Rst) if acks_syn => {
                self.state = FlowState::Reset;
                (Track::Pass, true)
            }
            (1, Kind::Ack) if s.payload_len == 0 && !s.flags.fin() => (Track::Pass, false),
            (_, Kind::Junk) if s.flags.syn() => (Track::Invalid, false),
            _ => stray,
        }
    }

    /// RFC 7323: scales count only if both SYNs have one; the SYN's own window is unscaled.
    fn learn_answering_syn(&mut self, s: &TcpHeader) {
        let [opener, other] = &mut self.halves;
        other.end = Some(end_of(s));
        other.window = u64::from(s.window);
        other.scale = s.window_scale.map(u32::from);
        if opener.scale.is_none() || other.scale.is_none() {
            opener.scale = Some(0);
            other.scale = Some(0);
        }
        for half in [opener, other] {
            half.window = half.window.div_ceil(1 << half.scale.unwrap());
        }
    }

    fn in_syn_received(&mut self, me: usize, s: &TcpHeader, stray: (Track, bool)) -> (Track, bool) {
        let it = 1 - me;
        match kind(s) {
            Kind::Rst if self.reset_is_obeyed(me, s) => {
                self.state = FlowState::Reset;
                return (Track::Pass, true);
            }
            Kind::Rst => return stray,
            Kind::Syn => {
                let end = self.halves[1].end.or(self.halves[1].end_guess);
                let is_repeated = match me {
                    0 => is_same_start(self.isn(), s.sequence),
                    _ => end == Some(end_of(s)),
                };
                let track = if is_repeated {
                    Track::Pass
                } else {
                    Track::Reopen
                };
                return (track, is_repeated);
            }
            Kind::SynAck => {
                let ack = s.acknowledgment;
                let isn = self.isn();
                let end = self.halves[1].end.or(self.halves[1].end_guess);
                let is_answer = match me {
                    0 => is_same_start(s.sequence, isn) && end == Some(ack),
                    _ => gap(ack, isn) >= 1 && gap(self.halves[0].end.unwrap(), ack) >= 0,
                };
                if !is_answer {
                    return (Track::Invalid, false);
                }
                if me == 1 && !self.halves[1].is_syn_acked {
                    match self.halves[1].end {
                        Some(_) => self.halves[1].end = Some(end_of(s)),
                        None => self.halves[1].end_guess = Some(end_of(s)),
                    }
                }
                self.learn_ack(me, ack);
            }
            Kind::Ack if self.is_in_window(me, s) => self.learn(me, s),
            Kind::Junk if s.flags.syn() => return (Track::Invalid, false),
            Kind::Ack | Kind::Junk => return stray,
        }
        self.halves[it].is_syn_acked = true;
        if self.halves.iter().all(|half| half.is_syn_acked) {
            self.state = FlowState::Established;
            self.settle();
        }
        (Track::Pass, true)
    }

    fn in_connection(
        &mut self,
        me: usize,
        s: &TcpHeader,
        stray: (Track, bool),
        is_strict: bool,
    ) -> (Track, bool) {
        let it = 1 - me;
        match kind(s) {
            Kind::Rst if self.reset_is_obeyed(me, s) => {
                self.state = FlowState::Reset;
                (Track::Pass, true)
            }
            Kind::Rst => stray,
            Kind::Syn => {
                self.halves[me].challenge = Some(s.sequence);
                self.halves[it].challenge = None;
                (Track::Pass, false)
            }
            Kind::SynAck => {
                let isn = self.halves[0].isn;
                let is_repeated = match me {
                    0 => isn.is_some_and(|isn| is_same_start(isn, s.sequence)),
                    _ => {
                        isn.is_some_and(|isn| is_same_start(isn, s.acknowledgment.wrapping_sub(1)))
                    }
                };
                if is_repeated {
                    return (Track::Pass, false);
                }
                let challenge = self.halves[it].challenge;
                if challenge.is_some_and(|syn| gap(s.acknowledgment, syn) == 1) {
                    self.state = FlowState::Reset;
                }
                (Track::Invalid, false)
            }
            Kind::Ack if self.is_in_window(me, s) => {
                self.learn(me, s);
                self.settle();
                (Track::Pass, true)
            }
            Kind::Ack if is_strict => (Track::Invalid, false),
            Kind::Ack => (Track::Pass, true),
            Kind::Junk if s.flags.syn() => (Track::Invalid, false),
            Kind::Junk => stray,
        }
    }

    fn settle(&mut self) {
        if self.halves.iter().any(|half| half.is_fin_sent) {
            self.state = FlowState::Closing;
        }
        if self.halves.iter().all(|half| half.is_fin_acked) {
            self.state = FlowState::TimeWait;
        }
    }

    fn in_time_wait(&mut self, me: usize, s: &TcpHeader) -> (Track, bool) {
        let it = 1 - me;
        let is_last = self.halves[me].end == Some(end_of(s));
        let acks_all = s.flags.ack() && self.halves[it].end == Some(s.acknowledgment);
        match kind(s) {
            Kind::Ack if s.flags.fin() && is_last && acks_all => {
                self.halves[it].may_answer = true;
                (Track::Pass, false)
            }
            Kind::Ack | Kind::Rst if self.halves[me].may_answer => {
                let is_empty = s.payload_len == 0 && !s.flags.fin() && !s.flags.syn();
                if is_empty && is_last && (acks_all || s.flags.rst()) {
                    self.halves[me].may_answer = false;
                    return (Track::Pass, false);
                }
                (Track::Invalid, false)
            }
            _ => self.after_close(me, s),
        }
    }

    fn after_close(&self, me: usize, s: &TcpHeader) -> (Track, bool) {
        let isn = self.halves[0].isn;
        let is_old = me == 0 && isn.is_some_and(|isn| is_same_start(isn, s.sequence));
        match kind(s) {
            Kind::Syn if !is_old => (Track::Reopen, false),
            _ => (Track::Invalid, false),
        }
    }

    fn reset_is_obeyed(&self, me: usize, s: &TcpHeader) -> bool {
        match (self.halves[1 - me].ack, self.halves[me].end) {
            (Some(ack), Some(end)) => {
                s.sequence == ack || gap(s.sequence, ack) >= 0 && gap(end, s.sequence) >= 0
            }
            (Some(ack), None) => s.sequence == ack,
            (None, Some(end)) => s.sequence == end,
            (None, None) => false,
        }
    }

    pub(crate) fn window_bytes(&self, side: usize) -> u32 {
        let half = &self.halves[side];
        u32::try_from(half.window << half.scale.unwrap_or(14)).unwrap()
    }

    /// Every edge is compared with the number itself, never with a distance that another one has
    /// been added to: distances wrap too.
    fn is_in_window(&self, me: usize, s: &TcpHeader) -> bool {
        let (mine, its) = (&self.halves[me], &self.halves[1 - me]);
        let its_window = self.window_bytes(1 - me);
        let end = end_of(s);
        let mut is_in = true;
        if let Some(known) = its.ack.or(mine.end).or(mine.end_guess) {
            is_in &= gap(known.wrapping_add(its_window), s.sequence) >= 0;
        }
        if let Some(sent) = mine.end.or(mine.end_guess) {
            is_in &= gap(end, sent.wrapping_sub(its_window)) >= 0;
            is_in &= !s.flags.fin() || gap(end, sent) >= 0;
        }
        if let Some(sent) = mine.end {
            is_in &= !mine.is_fin_sent || gap(sent, end) >= 0;
        }
        if let Some(sent) = its.end {
            let lag = self.window_bytes(me).max(66_000);
            is_in &= gap(sent, s.acknowledgment) >= 0;
            is_in &= gap(s.acknowledgment, sent.wrapping_sub(lag)) >= 0;
        }
        is_in
    }

    fn learn_ack(&mut self, me: usize, ack: u32) {
        let mine = &mut self.halves[me].ack;
        if mine.is_none_or(|old| gap(ack, old) > 0) {
            *mine = Some(ack);
        }
    }

    fn learn(&mut self, me: usize, s: &TcpHeader) {
        let end = end_of(s);
        let mine = &mut self.halves[me];
        let known = mine.end.or(mine.end_guess);
        mine.end = Some(match known {
            Some(known) if gap(end, known) <= 0 => known,
            _ => end,
        });
        mine.window = mine.window.max(u64::from(s.window));
        if s.flags.fin() && mine.end == Some(end) {
            mine.is_fin_sent = true;
        }
        self.learn_ack(me, s.acknowledgment);
        let its = &mut self.halves[1 - me];
        if its.end.is_none()
            && its
                .end_guess
                .is_none_or(|old| gap(s.acknowledgment, old) > 0)
        {
            its.end_guess = Some(s.acknowledgment);
        }
        if its.is_fin_sent && its.end == Some(s.acknowledgment) {
            its.is_fin_acked = true;
        }
    }
}

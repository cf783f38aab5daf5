//! The specification as slow, plain code: a `HashMap` of flows, numbers in full width, no packing,
//! no timers. The shard is held to it by the random test.

use std::collections::HashMap;

use super::config::{ShardConfig, TcpPickup};
use super::flow::{Admission, FlowClass, FlowState, NewFlow, Track, Traffic};
use super::give_way::Yields;
use crate::clock::Tick;
use crate::packet::{End, FlowKey, Fragment, IpPacket, TcpHeader, Transport};

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
    /// A reset has come that may or may not have been obeyed.
    is_doubtful: bool,
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
        if matches!(packet.fragment, Fragment::Later { .. }) {
            return Admission::PassOnly;
        }
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
            is_doubtful: false,
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
        let is_later = matches!(packet.fragment, Fragment::Later { .. });
        let is_piece = packet.fragment != Fragment::Whole;
        let (mut track, refreshes) = match packet.transport {
            // Pieces of TCP pass or not, and move nothing; later ones of others pass.
            _ if is_piece && flow.state.is_tombstone() => (Track::Invalid, false),
            Transport::Tcp(ref s) if is_piece => (flow.verdict(me, s, is_strict), false),
            _ if is_later => (Track::Pass, false),
            Transport::Tcp(ref s) => flow.track_tcp(me, s, is_strict),
            Transport::Icmp { code, .. } if me == 0 && flow.code != Some(code) => {
                (Track::Reopen, false)
            }
            _ => (Track::Pass, true),
        };
        flow.is_answered |= match packet.transport {
            Transport::Tcp(_) => {
                let [opener, other] = &flow.halves;
                other.end.is_some() || flow.is_midstream && opener.is_syn_acked
            }
            _ => me == 1 && !is_later,
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
        let soon = rounded(now) + self.timeout(FlowState::Reset);
        let flow = self.flows.get_mut(key).unwrap();
        if std::mem::take(&mut flow.is_doubtful) {
            flow.deadline = flow.deadline.min(soon);
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
            half.scale = Some(0);
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

    /// What a segment that came in pieces comes to.
    fn verdict(&self, me: usize, s: &TcpHeader, is_strict: bool) -> Track {
        match kind(s) {
            Kind::Syn => Track::Pass,
            _ => self.clone().track_tcp(me, s, is_strict).0,
        }
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

    /// What it says of its window counts when the handshake is complete.
    fn learn_answering_syn(&mut self, s: &TcpHeader) {
        let other = &mut self.halves[1];
        other.end = Some(end_of(s));
        if !self.is_midstream {
            other.window = u64::from(s.window);
            other.scale = s.window_scale.map(u32::from);
        }
    }

    /// RFC 7323: scales count only if both SYNs have one; the SYN's own window is unscaled.
    fn settle_scales(&mut self) {
        let [opener, other] = &mut self.halves;
        if opener.scale.is_none() || other.scale.is_none() {
            opener.scale = Some(0);
            other.scale = Some(0);
        }
        for half in [opener, other] {
            half.window = half.window.div_ceil(1 << half.scale.unwrap());
        }
    }

    fn acks_opening_syn(&self, s: &TcpHeader) -> bool {
        let first = self.isn().wrapping_add(1);
        let last = self.halves[0].end.unwrap();
        s.flags.ack() && gap(s.acknowledgment, first) >= 0 && gap(last, s.acknowledgment) >= 0
    }

    fn in_syn_received(&mut self, me: usize, s: &TcpHeader, stray: (Track, bool)) -> (Track, bool) {
        let it = 1 - me;
        match kind(s) {
            Kind::Rst if me == 1 && !self.halves[0].is_syn_acked && self.acks_opening_syn(s) => {
                self.state = FlowState::Reset;
                return (Track::Pass, true);
            }
            Kind::Rst => return self.in_reset(me, s, stray),
            Kind::Syn => {
                let end = self.halves[1].end.or(self.halves[1].end_guess);
                let is_repeated = match me {
                    0 => is_same_start(self.isn(), s.sequence),
                    _ => end == Some(end_of(s)),
                };
                if !is_repeated {
                    self.challenge(me, s);
                }
                return (Track::Pass, is_repeated);
            }
            Kind::SynAck => {
                let ack = s.acknowledgment;
                let end = self.halves[1].end.or(self.halves[1].end_guess);
                let is_answer = match me {
                    0 => is_same_start(s.sequence, self.isn()) && end == Some(ack),
                    _ => self.acks_opening_syn(s),
                };
                if !is_answer {
                    return self.answer_challenge(me, s);
                }
                if me == 1 && !self.halves[1].is_syn_acked {
                    self.learn_answering_syn(s);
                }
                self.learn_ack(me, ack);
                self.complete(it);
                return (Track::Pass, true);
            }
            Kind::Ack
                if self.is_in_window(me, s, [0, 1].map(|side| self.window_bytes(side)), 0) => {}
            Kind::Junk if s.flags.syn() => return (Track::Invalid, false),
            Kind::Ack | Kind::Junk if self.is_midstream => return (Track::Pass, false),
            Kind::Ack | Kind::Junk => return stray,
        }
        self.complete(it);
        self.learn(me, s);
        if self.state == FlowState::Established {
            self.settle();
        }
        (Track::Pass, true)
    }

    fn complete(&mut self, it: usize) {
        self.halves[it].is_syn_acked = true;
        if self.halves.iter().all(|half| half.is_syn_acked) {
            self.state = FlowState::Established;
            self.settle_scales();
            self.settle();
        }
    }

    fn challenge(&mut self, me: usize, s: &TcpHeader) {
        self.halves[me].challenge = Some(s.sequence);
        self.halves[1 - me].challenge = None;
    }

    /// A SYN-ACK that answers no SYN of the connection.
    fn answer_challenge(&mut self, me: usize, s: &TcpHeader) -> (Track, bool) {
        let challenge = self.halves[1 - me].challenge;
        if challenge.is_some_and(|syn| gap(s.acknowledgment, syn) == 1) {
            self.state = FlowState::Reset;
        }
        (Track::Invalid, false)
    }

    fn in_connection(
        &mut self,
        me: usize,
        s: &TcpHeader,
        stray: (Track, bool),
        is_strict: bool,
    ) -> (Track, bool) {
        match kind(s) {
            Kind::Rst => self.in_reset(me, s, stray),
            Kind::Syn => {
                self.challenge(me, s);
                (Track::Pass, false)
            }
            Kind::SynAck => {
                let isn = self.halves[0].isn;
                let syn = match me {
                    0 => s.sequence,
                    _ => s.acknowledgment.wrapping_sub(1),
                };
                if isn.is_some_and(|isn| is_same_start(isn, syn)) {
                    return (Track::Pass, false);
                }
                self.answer_challenge(me, s)
            }
            Kind::Ack => match self.is_believed(me, s) {
                Some(true) => {
                    self.learn(me, s);
                    self.settle();
                    (Track::Pass, true)
                }
                None if is_strict => (Track::Invalid, false),
                _ => (Track::Pass, true),
            },
            Kind::Junk if s.flags.syn() => (Track::Invalid, false),
            Kind::Junk => stray,
        }
    }

    /// Whether numbers are believed; `None`: they cannot belong.
    fn is_believed(&mut self, me: usize, s: &TcpHeader) -> Option<bool> {
        let own = [0, 1].map(|side| self.window_bytes(side));
        let is_near = self.is_in_window(me, s, own, 0);
        if !self.is_midstream {
            return is_near.then_some(true);
        }
        let is_possible = self.is_in_window(me, s, [65_535 << 14; 2], 65_535 << 14);
        if me == 1 && is_possible {
            self.is_answered = true;
        }
        let (mine, its) = (&self.halves[me], &self.halves[1 - me]);
        let is_next = mine.end.or(mine.end_guess) == Some(s.sequence);
        let is_next = is_next && its.end.is_none_or(|end| gap(end, s.acknowledgment) >= 0);
        let other = its.end.or(its.end_guess).unwrap();
        let room = i64::from(own[me].max(66_000));
        let is_near = is_near && gap(s.acknowledgment, other).abs() <= room;
        if is_possible && (is_next || is_near) {
            return Some(true);
        }
        let both = self.halves.iter().all(|half| half.end.is_some());
        (is_possible || !both).then_some(false)
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
        let before = self.halves[me].end.unwrap().wrapping_sub(end_of(s));
        let is_old = before <= self.window_bytes(it).max(66_000);
        let acks_all = s.flags.ack() && self.halves[it].end == Some(s.acknowledgment);
        match kind(s) {
            Kind::Ack if s.flags.fin() && is_last && acks_all => {
                self.halves[it].may_answer = true;
                (Track::Pass, false)
            }
            Kind::Ack if !s.flags.fin() && s.payload_len > 0 && acks_all && is_old => {
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

    fn in_reset(&mut self, me: usize, s: &TcpHeader, stray: (Track, bool)) -> (Track, bool) {
        let (acked, sent) = (self.halves[1 - me].ack, self.halves[me].end);
        if acked.or(sent) == Some(s.sequence) {
            self.state = FlowState::Reset;
            return (Track::Pass, true);
        }
        let is_between =
            |acked: u32, sent: u32| gap(s.sequence, acked) >= 0 && gap(sent, s.sequence) >= 0;
        if acked
            .zip(sent)
            .is_some_and(|(acked, sent)| is_between(acked, sent))
        {
            self.is_doubtful = true;
            return (Track::Pass, false);
        }
        if self.is_midstream && self.halves.iter().any(|half| half.end.is_none()) {
            return (Track::Pass, false);
        }
        stray
    }

    pub(crate) fn window_bytes(&self, side: usize) -> u32 {
        let half = &self.halves[side];
        let is_scaled = !matches!(self.state, FlowState::SynSent | FlowState::SynReceived);
        let scale = half.scale.filter(|_| is_scaled).unwrap_or(0);
        u32::try_from(half.window << scale).unwrap()
    }

    /// Every edge is compared with the number itself, never with a distance that another one has
    /// been added to: distances wrap too.
    fn is_in_window(&self, me: usize, s: &TcpHeader, windows: [u32; 2], unseen: u32) -> bool {
        let (mine, its) = (&self.halves[me], &self.halves[1 - me]);
        let its_window = windows[1 - me];
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
            let lag = windows[me].max(66_000);
            is_in &= gap(sent.wrapping_add(unseen), s.acknowledgment) >= 0;
            is_in &= gap(s.acknowledgment, sent.wrapping_sub(lag)) >= 0;
        }
        is_in
    }

    /// A picked-up connection's windows grow with what is seen in flight.
    fn make_room(&mut self, side: usize, room: u32) {
        if room > 65_535 << 14 {
            return;
        }
        while self.window_bytes(side) < room {
            *self.halves[side].scale.as_mut().unwrap() += 1;
        }
    }

    fn learn_ack(&mut self, me: usize, ack: u32) {
        let mine = &mut self.halves[me].ack;
        if mine.is_none_or(|old| gap(ack, old) > 0) {
            *mine = Some(ack);
        }
    }

    fn learn(&mut self, me: usize, s: &TcpHeader) {
        let mut end = end_of(s);
        let known = self.halves[me].end.or(self.halves[me].end_guess);
        if self.is_midstream && known == Some(s.sequence) {
            if let Some(acked) = self.halves[1 - me].ack {
                self.make_room(1 - me, end.wrapping_sub(acked));
            }
            if let Some(sent) = self.halves[1 - me].end {
                self.make_room(me, sent.wrapping_sub(s.acknowledgment));
            }
        }
        let right = self.halves[1 - me].ack;
        let right = right.map(|ack| ack.wrapping_add(self.window_bytes(1 - me)));
        let has_room = right.is_none_or(|right| gap(end, right) <= 0);
        let acked = self.halves[1 - me].ack;
        if !has_room && acked.is_some_and(|acked| gap(acked, s.sequence) > 0) {
            return;
        }
        if let Some(right) = right.filter(|_| !has_room) {
            end = right;
        }
        let is_scaled = self.state != FlowState::SynReceived;
        let mine = &mut self.halves[me];
        mine.end = Some(match known {
            Some(known) if gap(end, known) <= 0 => known,
            _ => end,
        });
        if acked.is_some_and(|acked| gap(acked, end) > 0) {
            return;
        }
        if is_scaled {
            mine.window = mine.window.max(u64::from(s.window));
        }
        if s.flags.fin() && has_room && mine.end == Some(end) {
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

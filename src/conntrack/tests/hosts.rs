//! Two hosts that keep to RFC 9293 and RFC 5961, a network between them that loses, repeats and
//! reorders, the shard in the middle, and somebody who knows addresses and ports and no number.
//!
//! The oracle is told what the shard does; this one knows what connections are. It holds that
//! - what the hosts send passes, unless it would be nothing to its receiver, or one of them is
//!   gone, or both FINs are acknowledged;
//! - a state of the shard is true: closing only after a host's FIN, time-wait after both, reset
//!   only where a host has reset;
//! - whatever is injected, as long as no host obeys it, the transfer comes to its end.
//!
//! A failure prints its seed; `SEED=…` replays it.

use super::*;

const SEEDS: u64 = 1_200;
const STEPS_MAX: u32 = 20_000;
const SEGMENT_MAX: u32 = 1_460;

const F: u8 = TcpFlags::FIN;
const S: u8 = TcpFlags::SYN;
const R: u8 = TcpFlags::RST;
const A: u8 = TcpFlags::ACK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// One end of the connection (RFC 9293 §3.3.1 names the variables).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    state: State,
    iss: u32,
    snd_una: u32,
    snd_nxt: u32,
    snd_wnd: u32,
    snd_scale: u8,
    irs: u32,
    rcv_nxt: u32,
    /// Room for data, and the scale that it offers.
    buffer: u32,
    offer: Option<u8>,
    rcv_scale: u8,
    /// Data (and whether a FIN is behind it) that came before its time.
    early: Vec<(u32, u32, bool)>,
    /// Bytes that it has to send in all.
    load: u32,
    has_sent_fin: bool,
    has_reset: bool,
}

fn is_in(value: u32, from: u32, len: u32) -> bool {
    value.wrapping_sub(from) < len
}

fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

impl Host {
    fn new(random: &mut Random, state: State) -> Self {
        let offer = random.pick(&[None, Some(0), Some(2), Some(7)]);
        let iss = random.pick(&[7, u32::MAX - 3_000, 1 << 31, random.clone().next() as u32]);
        Self {
            state,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_scale: 0,
            irs: 0,
            rcv_nxt: 0,
            buffer: random.pick(&[3_000, 60_000, 65_535 << offer.unwrap_or(0)]),
            offer,
            rcv_scale: 0,
            early: Vec::new(),
            load: random.pick(&[0, 500, 5_000, 20_000]),
            has_sent_fin: false,
            has_reset: false,
        }
    }

    fn segment(&self, flags: u8, sequence: u32, payload_len: u32) -> TcpHeader {
        let is_syn = flags & S != 0;
        let scale = if is_syn { 0 } else { self.rcv_scale };
        TcpHeader {
            window: u16::try_from(self.buffer >> scale).unwrap_or(u16::MAX),
            window_scale: self.offer.filter(|_| is_syn),
            payload_len,
            ..segment(
                flags,
                sequence,
                if flags & A != 0 { self.rcv_nxt } else { 0 },
            )
        }
    }

    fn room(&self) -> u32 {
        let on_wire = u32::from(self.segment(A, 0, 0).window);
        on_wire << self.rcv_scale
    }

    fn ack(&self) -> Vec<TcpHeader> {
        vec![self.segment(A, self.snd_nxt, 0)]
    }

    fn syn(&self) -> TcpHeader {
        let flags = if self.state == State::SynSent {
            S
        } else {
            S | A
        };
        self.segment(flags, self.iss, 0)
    }

    /// First number behind its data, which is that of its FIN.
    fn data_end(&self) -> u32 {
        self.iss.wrapping_add(1).wrapping_add(self.load)
    }

    fn may_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait)
    }

    /// Sends what is next, if there is room for it.
    fn send(&mut self, random: &mut Random) -> Option<TcpHeader> {
        if self.state == State::SynSent && self.snd_nxt == self.iss {
            self.snd_nxt = self.iss.wrapping_add(1);
            return Some(self.syn());
        }
        let room = self
            .snd_wnd
            .saturating_sub(self.snd_nxt.wrapping_sub(self.snd_una));
        if !self.may_send() || room == 0 {
            return None;
        }
        let left = self.data_end().wrapping_sub(self.snd_nxt);
        if left > 0 {
            let longest = left.min(room).min(SEGMENT_MAX);
            let len = 1 + random.below(u64::from(longest)) as u32;
            let sent = self.segment(A, self.snd_nxt, len);
            self.snd_nxt = self.snd_nxt.wrapping_add(len);
            return Some(sent);
        }
        let fin = self.segment(F | A, self.snd_nxt, 0);
        self.snd_nxt = self.snd_nxt.wrapping_add(1);
        self.has_sent_fin = true;
        self.state = match self.state {
            State::CloseWait => State::LastAck,
            _ => State::FinWait,
        };
        Some(fin)
    }

    /// Sends the oldest that is not acknowledged once more.
    fn send_again(&self) -> Option<TcpHeader> {
        if self.snd_una == self.snd_nxt || matches!(self.state, State::Closed | State::Listen) {
            return None;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return Some(self.syn());
        }
        let data = self.data_end().wrapping_sub(self.snd_una);
        let flying = self.snd_nxt.wrapping_sub(self.snd_una);
        let len = data.min(flying).min(SEGMENT_MAX);
        let is_last = self.has_sent_fin && len == data;
        Some(self.segment(if is_last { F | A } else { A }, self.snd_una, len))
    }

    fn abort(&mut self) -> TcpHeader {
        let reset = self.segment(R | A, self.snd_nxt, 0);
        self.state = State::Closed;
        self.has_reset = true;
        reset
    }

    fn refuse(s: &TcpHeader) -> Vec<TcpHeader> {
        match (s.flags.rst(), s.flags.ack()) {
            (true, _) => vec![],
            (_, true) => vec![segment(R, s.acknowledgment, 0)],
            _ => vec![segment(R | A, 0, end_of(s))],
        }
    }

    /// RFC 9293 §3.10.7, with RFC 5961.
    fn receive(&mut self, s: &TcpHeader) -> Vec<TcpHeader> {
        match self.state {
            State::Closed => Self::refuse(s),
            State::Listen => {
                if s.flags.rst() || !s.flags.is_open() {
                    return Self::refuse(s);
                }
                self.accept_syn(s);
                self.state = State::SynReceived;
                self.snd_nxt = self.iss.wrapping_add(1);
                vec![self.syn()]
            }
            State::SynSent => self.receive_in_syn_sent(s),
            _ => self.receive_synchronized(s),
        }
    }

    fn accept_syn(&mut self, s: &TcpHeader) {
        self.irs = s.sequence;
        self.rcv_nxt = s.sequence.wrapping_add(1);
        self.snd_wnd = u32::from(s.window);
        if let (Some(its), Some(mine)) = (s.window_scale, self.offer) {
            (self.snd_scale, self.rcv_scale) = (its, mine);
        }
    }

    fn receive_in_syn_sent(&mut self, s: &TcpHeader) -> Vec<TcpHeader> {
        let acks = s.flags.ack() && s.acknowledgment == self.snd_nxt;
        if s.flags.ack() && !acks {
            return Self::refuse(s);
        }
        if s.flags.rst() {
            if acks {
                self.state = State::Closed;
            }
            return vec![];
        }
        if !s.flags.syn() || !acks {
            return vec![];
        }
        self.accept_syn(s);
        self.snd_una = s.acknowledgment;
        self.state = State::Established;
        self.ack()
    }

    fn receive_synchronized(&mut self, s: &TcpHeader) -> Vec<TcpHeader> {
        let (len, room) = (end_of(s).wrapping_sub(s.sequence), self.room());
        let last = end_of(s).wrapping_sub(1);
        let is_acceptable = match len {
            0 => is_in(s.sequence, self.rcv_nxt, room),
            _ => is_in(s.sequence, self.rcv_nxt, room) || is_in(last, self.rcv_nxt, room),
        };
        if s.flags.rst() {
            if s.sequence == self.rcv_nxt {
                self.state = State::Closed;
                return vec![];
            }
            let is_near = is_in(s.sequence, self.rcv_nxt, room);
            return if is_near { self.ack() } else { vec![] };
        }
        if s.flags.syn() {
            let is_repeated = self.state == State::SynReceived && s.sequence == self.irs;
            return if is_repeated {
                vec![self.syn()]
            } else {
                self.ack()
            };
        }
        if !is_acceptable {
            return self.ack();
        }
        if !s.flags.ack() {
            return vec![];
        }
        let ack = s.acknowledgment;
        if self.state == State::SynReceived {
            if ack != self.snd_nxt {
                return Self::refuse(s);
            }
            self.state = State::Established;
        }
        let oldest = self.snd_una.wrapping_sub(self.snd_wnd.max(1));
        if is_after(ack, self.snd_nxt) || is_after(oldest, ack) {
            return self.ack();
        }
        if is_after(ack, self.snd_una) {
            self.snd_una = ack;
        }
        self.snd_wnd = u32::from(s.window) << self.snd_scale;
        if self.has_sent_fin && self.snd_una == self.snd_nxt {
            self.state = match self.state {
                State::LastAck => State::Closed,
                State::Closing => State::TimeWait,
                other => other,
            };
        }
        if len == 0 {
            return vec![];
        }
        self.take_data(s);
        self.ack()
    }

    fn take_data(&mut self, s: &TcpHeader) {
        self.early.push((s.sequence, s.payload_len, s.flags.fin()));
        while let Some(at) = self.early.iter().position(|(from, len, fin)| {
            let end = from.wrapping_add(*len).wrapping_add(u32::from(*fin));
            !is_after(*from, self.rcv_nxt) && is_after(end, self.rcv_nxt)
        }) {
            let (from, len, fin) = self.early.swap_remove(at);
            self.rcv_nxt = from.wrapping_add(len).wrapping_add(u32::from(fin));
            if fin {
                self.state = match self.state {
                    State::Established => State::CloseWait,
                    State::FinWait if self.snd_una == self.snd_nxt => State::TimeWait,
                    State::FinWait => State::Closing,
                    other => other,
                };
            }
        }
        let next = self.rcv_nxt;
        self.early.retain(|(from, ..)| is_after(*from, next));
        self.early.sort_unstable();
        self.early.dedup();
    }
}

fn end_of(s: &TcpHeader) -> u32 {
    let extra = u32::from(s.flags.syn()) + u32::from(s.flags.fin());
    s.sequence.wrapping_add(s.payload_len + extra)
}

/// A segment under way.
#[derive(Clone, Copy, Debug)]
struct Flying {
    /// Who it is from, or claims to be from.
    from: usize,
    segment: TcpHeader,
    is_injected: bool,
    /// Whether the gateway let it pass.
    passes: bool,
}

struct World {
    random: Random,
    config: ShardConfig,
    shard: Shard,
    hosts: [Host; 2],
    before: Vec<Flying>,
    behind: Vec<Flying>,
    now: Tick,
    /// Of 256: how many are lost on each way, and how many repeated.
    loss: u64,
    attacks: u64,
    /// Hosts that are gone by a reset.
    is_over: bool,
    injected: u32,
    is_restarted: bool,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Both hosts have sent and received everything.
    Done,
    /// A host has reset the connection, on its own.
    Over,
    /// A host has obeyed what was injected; what comes then is its own doing.
    Obeyed,
}

#[test]
fn hosts_keep_their_connection_whatever_somebody_injects() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..=SEEDS).collect(),
    };
    let is_all = seeds.len() > 1;
    let (mut ends, mut injected) = ([0; 3], 0);
    for seed in seeds {
        let _guard = PrintSeed(seed);
        let mut world = World::new(seed);
        ends[world.run(seed) as usize] += 1;
        injected += world.injected;
    }
    let [done, over, obeyed] = ends;
    let is_wild = done > obeyed && over > 0 && injected > 10_000;
    assert!(
        !is_all || is_wild,
        "{ends:?}, {injected} injected: too tame"
    );
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let hosts = [State::SynSent, State::Listen].map(|state| Host::new(&mut random, state));
        let config = ShardConfig {
            tcp_strict: seed.is_multiple_of(2),
            ..config(16)
        };
        Self {
            shard: Shard::new(&config, seconds(1)),
            config,
            hosts,
            before: Vec::new(),
            behind: Vec::new(),
            now: seconds(1),
            loss: random.pick(&[0, 4, 40]),
            // Fewer than the network has time for.
            attacks: random.pick(&[4, 12, 24]),
            random,
            is_over: false,
            injected: 0,
            is_restarted: false,
        }
    }

    fn run(&mut self, seed: u64) -> Ending {
        // The gateway is started anew in the middle of some connections.
        let restart = seed
            .is_multiple_of(3)
            .then(|| self.random.below(200) as u32);
        let aborts = seed.is_multiple_of(5);
        for step in 0..STEPS_MAX {
            if restart == Some(step) {
                self.is_restarted = true;
                self.shard = Shard::new(&self.config, self.now);
            }
            if aborts && step > 100 && self.random.below(300) == 0 {
                let who = self.random.below(2) as usize;
                if self.hosts[who].may_send() {
                    let reset = self.hosts[who].abort();
                    self.is_over = true;
                    self.fly(who, reset);
                }
            }
            if self.random.below(256) < self.attacks {
                self.attack();
            }
            if let Some(end) = self.step() {
                return end;
            }
            self.check_state();
            if self.is_done() {
                return if self.is_over {
                    Ending::Over
                } else {
                    Ending::Done
                };
            }
        }
        let stuck = &self.hosts;
        panic!("not at its end: {stuck:#?}, gateway {:?}", self.state());
    }

    fn is_done(&self) -> bool {
        let is_idle = self.before.is_empty() && self.behind.is_empty();
        let is_closed = |host: &Host| matches!(host.state, State::Closed | State::TimeWait);
        is_idle && self.hosts.iter().all(is_closed)
    }

    /// One thing happens; time passes where there is nothing else to happen.
    fn step(&mut self) -> Option<Ending> {
        self.now = self.now + Duration::from_millis(1);
        let who = self.random.below(2) as usize;
        match self.random.below(3) {
            0 => {
                if let Some(segment) = self.hosts[who].send(&mut self.random) {
                    self.fly(who, segment);
                    return None;
                }
            }
            1 if !self.before.is_empty() => {
                let flying = take(&mut self.random, &mut self.before);
                self.pass(flying);
                return None;
            }
            2 if !self.behind.is_empty() => {
                let flying = take(&mut self.random, &mut self.behind);
                return self.arrive(flying);
            }
            _ => {}
        }
        let is_idle = self.before.is_empty() && self.behind.is_empty();
        if is_idle || self.random.below(200) == 0 {
            self.now = self.now + Duration::from_secs(1);
            for who in 0..2 {
                if let Some(segment) = self.hosts[who].send_again() {
                    self.fly(who, segment);
                }
            }
        }
        // A peer that is gone answers nothing: the other gives up.
        if self.is_over && self.random.below(50) == 0 {
            for host in &mut self.hosts {
                host.state = State::Closed;
            }
        }
        None
    }

    fn fly(&mut self, from: usize, segment: TcpHeader) {
        let flying = Flying {
            from,
            segment,
            is_injected: false,
            passes: true,
        };
        let times = match self.random.below(256) {
            dice if dice < self.loss => 0,
            dice if dice < self.loss * 2 => 2,
            _ => 1,
        };
        for _ in 0..times {
            self.before.push(flying);
        }
    }

    /// The gateway judges a segment.
    fn pass(&mut self, mut flying: Flying) {
        let packet = packet_of(flying.from, flying.segment);
        let (_, end) = key_of(&packet);
        flying.passes = match find(&self.shard, &packet, self.now) {
            None => {
                let admission = self.shard.admission(&packet);
                // What is injected begins nothing: that would be another connection.
                if admission == Admission::Open && !flying.is_injected {
                    open(&mut self.shard, &packet, self.now).unwrap();
                }
                admission != Admission::Refuse
            }
            Some(index) => match self.shard.track(index, &packet, end, 60, self.now) {
                Track::Pass => true,
                Track::Invalid => false,
                Track::Reopen => {
                    assert!(!flying.is_injected, "an injected segment reopens");
                    self.shard
                        .reopen(index, &new_flow(end), &packet, 60, self.now);
                    true
                }
            },
        };
        self.shard.check();
        let is_lost = self.random.below(256) < self.loss;
        if flying.passes && !is_lost || !flying.passes && !flying.is_injected {
            self.behind.push(flying);
        }
    }

    /// A segment comes to its host; of one that was dropped, what it would have done is looked at.
    fn arrive(&mut self, flying: Flying) -> Option<Ending> {
        let to = 1 - flying.from;
        let was = self.hosts[to].clone();
        let mut host = was.clone();
        let replies = host.receive(&flying.segment);
        // Old news changes nothing, though the host says again what it has.
        let is_old = is_after(was.rcv_nxt, end_of(&flying.segment));
        let is_nothing = host == was && (replies.is_empty() || is_old);
        if !flying.passes {
            // An RST behind data that the gateway has not seen: its sender repeats it, exactly,
            // when it is asked.
            let is_reset = flying.segment.flags.rst();
            let (state, is_fine) = (self.state(), is_nothing || is_reset || self.is_over);
            let is_gone = was.state == State::Closed;
            // Late, it is lost like others: its sender's repeated FIN gets an answer through.
            let is_late = state == Some(FlowState::TimeWait);
            let is_fine = is_fine || is_gone || is_late;
            assert!(
                is_fine,
                "{flying:#?} is dropped, {state:?}, {was:#?}, {host:#?}"
            );
            return None;
        }
        if flying.is_injected && host != was {
            return Some(Ending::Obeyed);
        }
        self.hosts[to] = host;
        if was.state != State::Closed && self.hosts[to].state == State::Closed {
            self.is_over |= flying.segment.flags.rst();
        }
        for reply in replies {
            self.hosts[to].has_reset |= reply.flags.rst();
            self.fly(to, reply);
        }
        None
    }

    /// A segment of somebody who knows no number, or by chance one, or where a window is.
    fn attack(&mut self) {
        let from = self.random.below(2) as usize;
        let victim = &self.hosts[1 - from];
        let flags = self
            .random
            .pick(&[A, A, F | A, F | A, R, R, R | A, S, S | A, F, 0]);
        let is_young = matches!(victim.state, State::SynSent | State::Listen);
        let state = self.state();
        let is_closed = state.is_some_and(FlowState::is_tombstone);
        if (is_young || is_closed) && flags & S != 0 || state == Some(FlowState::SynSent) {
            // Whoever has said nothing yet obeys, and after a close a SYN is another connection.
            return;
        }
        let random = &mut self.random;
        let mut guess = || match random.below(3) {
            0 => (random.below(64) as u32) << 26 | 1 << 25,
            _ => random.next() as u32,
        };
        let (mut sequence, mut acknowledgment) = (guess(), guess());
        let near = victim
            .rcv_nxt
            .wrapping_add(1 + self.random.below(3_000) as u32);
        match self.random.below(4) {
            0 if flags & R != 0 => sequence = near,
            // Of a connection that was picked up, one number is all that there is to know.
            0 if self.is_restarted => {}
            0 => sequence = victim.rcv_nxt,
            // Who knows the number of a SYN answers it: that is no guess.
            1 if flags & (R | S) == 0 => acknowledgment = victim.snd_nxt,
            _ => {}
        }
        let segment = TcpHeader {
            window: self.random.pick(&[0, 1, 65_535]),
            window_scale: Some(14).filter(|_| flags & S != 0),
            payload_len: self.random.pick(&[0, 0, 1, 1_460, 60_000]),
            ..segment(flags, sequence, acknowledgment)
        };
        self.injected += 1;
        self.pass(Flying {
            from,
            segment,
            is_injected: true,
            passes: true,
        });
    }

    fn state(&self) -> Option<FlowState> {
        let packet = packet_of(0, segment(A, 0, 0));
        view(&self.shard, &packet, self.now).map(|view| view.state)
    }

    /// What the shard believes is true.
    fn check_state(&self) {
        let [client, server] = &self.hosts;
        let is_true = match self.state() {
            Some(FlowState::Closing) => client.has_sent_fin || server.has_sent_fin,
            Some(FlowState::TimeWait) => client.has_sent_fin && server.has_sent_fin,
            Some(FlowState::Reset) => self.is_over || client.has_reset || server.has_reset,
            _ => true,
        };
        assert!(is_true, "{:?} of {:#?}", self.state(), self.hosts);
    }
}

/// The first that is under way, or now and then a later one.
fn take(random: &mut Random, flying: &mut Vec<Flying>) -> Flying {
    let at = if random.below(8) == 0 {
        random.below(flying.len() as u64) as usize
    } else {
        0
    };
    flying.remove(at)
}

fn packet_of(from: usize, mut segment: TcpHeader) -> IpPacket {
    let (client, server) = (0x0a00_0001, 0xc000_0201);
    if from == 0 {
        return packet(v4(client, server), protocol::TCP, Transport::Tcp(segment));
    }
    std::mem::swap(&mut segment.source_port, &mut segment.destination_port);
    packet(v4(server, client), protocol::TCP, Transport::Tcp(segment))
}

/// Prints the seed if the test fails.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SEED={}", self.0);
        }
    }
}

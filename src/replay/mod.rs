//! A capture through the real pipeline: one worker, one shard, the capture's own clock.
#![deny(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Tick;
use crate::conntrack::{FRAGMENT_SWEEP_TURNS, Release, Shard, WAITING_MAX};
use crate::packet::{Parsed, parse};
use crate::pipeline::{Arrival, Batch, Fate, Origin, PipelineConfig, Place, Resolved};
use crate::port::CapturedFrame;
use crate::snapshot::Snapshot;
use crate::types::{LinkId, PortSide};

/// Names of a link's two devices; a pcapng file's interfaces may be called so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkDevices {
    /// By [`PortSide::index`].
    pub names: [String; 2],
}

/// A gateway whose wires are a capture.
#[derive(Debug)]
pub struct Replay<'a> {
    place: Place<'a>,
    snapshot: &'a Snapshot,
    shard: Shard,
    devices: &'a [LinkDevices],
    links: usize,
    batch: Batch,
    /// Time of the first frame.
    origin: Option<Duration>,
    now: Tick,
    /// Frames whose answer is out or whose turn to answer has not come, in capture order.
    line: VecDeque<Entry>,
    /// How many frames have left the line.
    answered: u64,
    /// Which frame waits under each ticket, counted from the capture's first.
    waiting: Vec<Option<u64>>,
}

/// A frame in the line.
#[derive(Debug)]
struct Entry {
    frame: CapturedFrame,
    arrival: Arrival,
    answer: Option<Resolved>,
}

impl<'a> Replay<'a> {
    /// A gateway with an empty connection table. `devices` may be empty: directions are then found
    /// by addresses alone.
    #[must_use]
    pub fn new(
        config: &'a PipelineConfig,
        snapshot: &'a Snapshot,
        shard: Shard,
        devices: &'a [LinkDevices],
    ) -> Self {
        let links = config.links.len().max(1);
        Self {
            place: Place {
                config,
                steering: None,
            },
            snapshot,
            shard,
            devices,
            links,
            batch: Batch::default(),
            origin: None,
            now: Tick(0),
            line: VecDeque::new(),
            answered: 0,
            waiting: vec![None; WAITING_MAX],
        }
    }

    /// Judges the next frame of the capture, and gives `answer` those whose verdict is out, in
    /// capture order: a fragment that waits for its first one holds those behind it back.
    pub fn judge(
        &mut self,
        frame: CapturedFrame,
        answer: &mut impl FnMut(&CapturedFrame, &Resolved),
    ) {
        // From the first frame on, since ticks are too short for every date. A clock that goes back
        // stands still (contract, `replay`).
        let since = frame
            .time
            .saturating_sub(*self.origin.get_or_insert(frame.time));
        let time = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.now = self.now.max(Tick(time));
        let original_len = u32::try_from(frame.original_len).unwrap_or(u32::MAX);
        let (link, side) = self.arrival(&frame);
        let arrival = Arrival {
            link,
            side,
            original_len,
        };
        // What waited too long by now ends before this frame is looked at.
        self.expire();
        let index = self.answered + self.line.len() as u64;
        self.line.push_back(Entry {
            frame,
            arrival,
            answer: None,
        });
        self.ask(index);
        self.release();
        self.answer_ready(answer);
    }

    /// The capture is at its end: what waits for a first fragment waits in vain.
    pub fn finish(&mut self, answer: &mut impl FnMut(&CapturedFrame, &Resolved)) {
        for entry in &mut self.line {
            entry.answer.get_or_insert(Resolved::FRAGMENT);
        }
        self.answer_ready(answer);
    }

    /// Lets the shard's timers catch up with the capture's clock, which leaps from frame to frame.
    fn expire(&mut self) {
        // Bound: as many turns as the sweep of fragments needs to come round.
        for _ in 0..FRAGMENT_SWEEP_TURNS {
            self.shard.expire(self.now);
        }
        self.release();
    }

    fn ask(&mut self, index: u64) {
        let Some(entry) = entry_of(&mut self.line, self.answered, index) else {
            return;
        };
        self.batch.clear();
        let (bytes, arrival) = (&entry.frame.bytes, entry.arrival);
        self.batch
            .push(bytes, arrival, &self.place, &self.shard, Origin::Queue);
        self.batch
            .run(&self.place, &mut self.shard, self.snapshot, self.now);
        match self.batch.fates().next() {
            Some(Fate::Judged(outcome)) => entry.answer = Some(outcome.resolve(&self.shard)),
            Some(Fate::Hold(ticket)) => {
                // Of many that wait, the one that has waited longest gives way.
                if let Some(former) = self.waiting[ticket.index()].replace(index)
                    && let Some(entry) = entry_of(&mut self.line, self.answered, former)
                {
                    entry.answer = Some(Resolved::FRAGMENT);
                }
            }
            // One worker owns everything.
            Some(Fate::HandOver(_) | Fate::HandOverPiece(..)) | None => {
                entry.answer = Some(Resolved::FRAGMENT);
            }
        }
    }

    /// Asks again about those whose first fragment has come, and ends those whose time is over.
    fn release(&mut self) {
        while let Some((ticket, release)) = self.shard.pop_released() {
            let Some(index) = self.waiting[ticket.index()].take() else {
                continue;
            };
            match release {
                Release::Retry => self.ask(index),
                Release::Drop => {
                    if let Some(entry) = entry_of(&mut self.line, self.answered, index) {
                        entry.answer = Some(Resolved::FRAGMENT);
                    }
                }
            }
        }
    }

    fn answer_ready(&mut self, answer: &mut impl FnMut(&CapturedFrame, &Resolved)) {
        while let Some(Entry {
            frame,
            answer: Some(resolved),
            ..
        }) = self.line.front()
        {
            answer(frame, resolved);
            self.line.pop_front();
            self.answered += 1;
        }
    }

    /// Where a frame came in: by the name of its interface where that is a port's, else inside of
    /// the link that owns its source, else outside of the link that owns its destination.
    fn arrival(&self, frame: &CapturedFrame) -> (LinkId, PortSide) {
        if let Some(name) = &frame.interface_name {
            for (link, devices) in (0_u8..).zip(self.devices) {
                for side in PortSide::ALL {
                    if devices.names[side.index()] == **name {
                        return (LinkId(link), side);
                    }
                }
            }
        }
        let ends = match parse(&frame.bytes, frame.original_len) {
            Parsed::Ip(packet) => Some((
                packet.vlan,
                packet.addresses.source(),
                packet.addresses.destination(),
            )),
            Parsed::Arp(arp) => {
                let address = crate::packet::Address::V4;
                Some((arp.vlan, address(arp.sender), address(arp.target)))
            }
            Parsed::NotIp { .. } | Parsed::Malformed(_) => None,
        };
        let Some((vlan, source, destination)) = ends else {
            return (LinkId(0), PortSide::Outside);
        };
        let owning = |address| {
            let count = u8::try_from(self.links).unwrap_or(u8::MAX);
            let mut links = (0..count).map(LinkId);
            links.find(|&link| self.snapshot.interface_of(link, vlan, address).is_some())
        };
        if let Some(link) = owning(source) {
            return (link, PortSide::Inside);
        }
        (owning(destination).unwrap_or_default(), PortSide::Outside)
    }

    /// The time of the last frame, from the first on.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The connection table.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

fn entry_of(line: &mut VecDeque<Entry>, answered: u64, index: u64) -> Option<&mut Entry> {
    line.get_mut(usize::try_from(index.checked_sub(answered)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Compiler;
    use crate::conntrack::ShardConfig;
    use crate::packet::build::{self, FrameBuilder};
    use crate::types::{DropReason, Generation, PassReason, Verdict};

    const POLICY: &str = r#"
[security_groups.web]
description = "web servers"
ingress = [{ protocol = "udp", ports = 53, from = ["192.0.2.0/24"] }]
egress = []
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
"#;

    fn verdicts(frames: &[(u64, FrameBuilder)]) -> Vec<Verdict> {
        let snapshot = Compiler::new().compile_text(POLICY, Generation(1));
        let config = PipelineConfig::default();
        let shard = ShardConfig::new(16, [1, 2]);
        let mut replay = Replay::new(&config, &snapshot, Shard::new(&shard, Tick(0)), &[]);
        let mut verdicts = Vec::new();
        for (index, (seconds, frame)) in (0..).zip(frames) {
            let bytes = frame.build();
            let frame = CapturedFrame {
                index,
                time: Duration::from_secs(*seconds),
                original_len: bytes.len(),
                bytes,
                interface_name: None,
            };
            replay.judge(frame, &mut |_, resolved| verdicts.push(resolved.verdict));
        }
        replay.finish(&mut |_, resolved| verdicts.push(resolved.verdict));
        verdicts
    }

    #[test]
    fn replies_pass_in_captures_of_any_year() {
        let query = build::v4("192.0.2.9", "10.0.0.1").udp(5000, 53);
        let reply = query.clone().reversed();
        let tracked = Verdict::Pass(PassReason::Tracked);
        // 1970, today, and the last second that a pcap file can tell.
        for start in [0, 1_763_900_000, u64::from(u32::MAX)] {
            let frames = [
                (start, query.clone()),
                (start + 1, reply.clone()),
                // A clock that goes back stands still.
                (start.saturating_sub(1000), reply.clone()),
                (start + 40, reply.clone()),
            ];
            let [opened, replied, earlier, late] = verdicts(&frames)[..] else {
                panic!("four verdicts");
            };
            assert_eq!(opened, Verdict::Pass(PassReason::Rule), "{start}");
            assert_eq!((replied, earlier), (tracked, tracked), "{start}");
            assert_eq!(late, Verdict::Drop(DropReason::NoRule), "{start}");
        }
    }
}

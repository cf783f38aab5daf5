//! What arrives: talks, what the network makes of them, and what nobody asked for.

use std::collections::VecDeque;

use portcullis::packet::Address;
use portcullis::packet::build::{self, FrameBuilder};
use portcullis::types::PortSide;

use crate::policies::{HOSTS, host};
use crate::random::Random;
use crate::talk::{Talk, address, stranger};

/// Talks at a time.
const TALKS: usize = 48;
/// A message that was not answered is sent again after this.
const AGAIN_NS: u64 = 200_000_000;
const TRIES_MAX: u32 = 6;
/// Frames under way at most.
const UNDER_WAY_MAX: usize = 512;
/// Old frames that may come again.
const OLD_MAX: usize = 64;
/// Messages in pieces that somebody may add pieces to.
const CUT_MAX: usize = 16;

/// Whose frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A message of a talk, which is the so-many-th in its place.
    Talk {
        place: usize,
        number: u64,
        message: u32,
    },
    Noise,
}

/// A frame that has not arrived.
#[derive(Clone, Debug)]
pub(crate) struct Coming {
    pub(crate) link: usize,
    pub(crate) side: PortSide,
    pub(crate) bytes: Vec<u8>,
    pub(crate) origin: Origin,
}

/// A message in pieces.
#[derive(Clone, Debug)]
struct Cut {
    id: u32,
    link: usize,
    side: PortSide,
    /// Without its payload.
    frame: FrameBuilder,
}

#[derive(Debug)]
pub(crate) struct Traffic {
    links: usize,
    talks: Vec<(u64, Talk)>,
    under_way: Vec<Coming>,
    old: Vec<Coming>,
    /// Messages that went in pieces lately: id, where, and from whom to whom.
    cut: VecDeque<Cut>,
    datagrams: u32,
    started: u64,
    pub(crate) finished: u64,
    pub(crate) given_up: u64,
}

impl Traffic {
    pub(crate) fn new(random: &mut Random, links: usize) -> Self {
        Self {
            links,
            talks: (0..TALKS as u64)
                .map(|number| (number, Talk::new(random, links)))
                .collect(),
            under_way: Vec::new(),
            old: Vec::new(),
            cut: VecDeque::new(),
            datagrams: random.number(u32::MAX),
            started: TALKS as u64,
            finished: 0,
            given_up: 0,
        }
    }

    /// Time passes: late messages are sent again, hopeless talks end, noise is made.
    pub(crate) fn pass(&mut self, random: &mut Random, now_ns: u64) {
        for place in 0..TALKS {
            let (_, talk) = &mut self.talks[place];
            if talk.again_ns > now_ns || !random.once_in(3) {
                continue;
            }
            talk.tries += 1;
            talk.again_ns = now_ns + AGAIN_NS;
            if talk.tries > TRIES_MAX {
                self.given_up += 1;
                self.renew(random, place);
            }
            self.send(place);
        }
        for _ in 0..random.below(3) {
            self.noise(random);
        }
        if random.once_in(300) {
            self.flood(random);
        }
        if random.once_in(600) {
            self.flood_pieces(random);
        }
    }

    /// A frame came out of a port: its talk goes on.
    pub(crate) fn deliver(&mut self, random: &mut Random, origin: Origin, now_ns: u64) {
        let Origin::Talk {
            place,
            number,
            message,
        } = origin
        else {
            return;
        };
        let (current, talk) = &mut self.talks[place];
        if *current != number {
            return;
        }
        let is_next = message == talk.step;
        if is_next {
            talk.step += 1;
            talk.tries = 0;
            talk.again_ns = now_ns + AGAIN_NS;
            if talk.step == talk.len() {
                self.finished += 1;
                self.renew(random, place);
            }
        }
        // An old message is answered again, since the answer may be lost.
        if is_next || random.once_in(2) {
            self.send(place);
        }
    }

    /// A frame that arrives now, in no order; some are lost, some come twice, some much later.
    pub(crate) fn arrive(&mut self, random: &mut Random) -> Option<Coming> {
        if self.under_way.is_empty() {
            return None;
        }
        let index = random.below(self.under_way.len());
        // Mostly, not always, the one that waits longest.
        let index = if random.once_in(4) { index } else { 0 };
        let coming = match random.once_in(20) {
            true => self.under_way[index].clone(),
            false => self.under_way.remove(index),
        };
        if self.old.len() < OLD_MAX {
            self.old.push(coming.clone());
        } else if random.once_in(16) {
            let place = random.below(OLD_MAX);
            self.old[place] = coming.clone();
        }
        (!random.once_in(30)).then_some(coming)
    }

    fn renew(&mut self, random: &mut Random, place: usize) {
        self.talks[place] = (self.started, Talk::new(random, self.links));
        self.started += 1;
    }

    fn send(&mut self, place: usize) {
        let (number, talk) = &self.talks[place];
        let message = talk.step;
        let (link, side) = (talk.link, talk.side_of(message));
        let frame = talk.message(message);
        let origin = Origin::Talk {
            place,
            number: *number,
            message,
        };
        let Some(piece_len) = talk.piece_len else {
            return self.push(Coming {
                link,
                side,
                bytes: frame.build(),
                origin,
            });
        };
        let id = self.next_datagram();
        let mut pieces = frame.fragments(id, piece_len);
        self.cut.truncate(CUT_MAX - 1);
        let frame = frame.payload(&[]);
        self.cut.push_front(Cut {
            id,
            link,
            side,
            frame,
        });
        let last = pieces.pop();
        for bytes in pieces {
            self.push_noise(link, side, bytes);
        }
        // The talk goes on when the last piece arrives.
        if let Some(bytes) = last {
            self.push(Coming {
                link,
                side,
                bytes,
                origin,
            });
        }
    }

    fn next_datagram(&mut self) -> u32 {
        self.datagrams = self.datagrams.wrapping_add(1);
        self.datagrams
    }

    fn push(&mut self, coming: Coming) {
        if self.under_way.len() < UNDER_WAY_MAX {
            self.under_way.push(coming);
        }
    }

    fn push_noise(&mut self, link: usize, side: PortSide, bytes: Vec<u8>) {
        self.push(Coming {
            link,
            side,
            bytes,
            origin: Origin::Noise,
        });
    }

    /// One frame that is no part of a talk.
    fn noise(&mut self, random: &mut Random) {
        let talk = random.pick(&self.talks).1.clone();
        let (link, side) = (talk.link, *random.pick(&PortSide::ALL));
        let message = random.number(talk.len());
        let sent = talk.message(message);
        match random.below(12) {
            // The same frame at the other port.
            0 => self.push_noise(link, talk.side_of(message).opposite(), sent.build()),
            1 => {
                let mut bytes = sent.build();
                for _ in 0..=random.below(2) {
                    let place = random.below(bytes.len());
                    bytes[place] = random.byte();
                }
                self.push_noise(link, side, bytes);
            }
            2 => {
                let len = sent.build().len();
                self.push_noise(link, side, sent.cut_to(random.below(len)).build());
            }
            3 | 4 => {
                let (side, frame) = talk.forged(random);
                self.push_noise(link, side, frame.build());
            }
            5 => {
                // About a message, from the other end or from anybody on the way; mostly to
                // who sent it.
                let is_client = message.is_multiple_of(2);
                let (sender, other) = match is_client {
                    true => (talk.client, talk.server),
                    false => (talk.server, talk.client),
                };
                let is_v6 = matches!(talk.client, Address::V6(_));
                let from = match random.once_in(2) {
                    true => other,
                    false => stranger(random, is_v6),
                };
                let to = match random.once_in(3) {
                    true => address(&host(link, random.below(HOSTS))[usize::from(is_v6)]),
                    false => sender,
                };
                let kind = match is_v6 {
                    true => 1 + random.byte() % 4,
                    false => *random.pick(&[3, 3, 11, 12]),
                };
                let error = build::between(from, to);
                let error = error.icmp_error(kind, random.byte() % 5, &sent);
                let side = talk.side_of(message).opposite();
                self.push_noise(link, side, error.build());
            }
            6 if !self.old.is_empty() => {
                let mut again = random.pick(&self.old).clone();
                again.origin = Origin::Noise;
                self.push(again);
            }
            7 if random.once_in(2) => {
                // Between two hosts of the link, in pieces.
                let [from, to] = [0; 2].map(|_| address(&host(link, random.below(HOSTS))[0]));
                let frame = build::between(from, to).udp(random.port(1, 9000), 53);
                let id = self.next_datagram();
                for bytes in frame.payload_len(40).fragments(id, 24) {
                    self.push_noise(link, PortSide::Inside, bytes);
                }
            }
            7 => self.push_noise(link, side, unregistered(random, link).build()),
            8 => self.push_noise(link, side, exempt(random, link).build()),
            9 | 10 => self.piece(random),
            _ => {
                let from = address(&host(link, random.below(HOSTS))[0]);
                let spoofed = build::between(from, stranger(random, false));
                let frame = spoofed.udp(random.port(1, 9000), random.port(1, 9000));
                self.push_noise(link, PortSide::Outside, frame.build());
            }
        }
    }

    /// A piece that nobody cut: of a message under way, over other pieces, past its end, or first
    /// again; from its own side or from the other.
    fn piece(&mut self, random: &mut Random) {
        if self.cut.is_empty() {
            return;
        }
        let cut = &self.cut[random.below(self.cut.len())];
        let (link, frame) = (cut.link, cut.frame.clone());
        let side = match random.once_in(5) {
            true => cut.side.opposite(),
            false => cut.side,
        };
        let id = match random.once_in(5) {
            true => self.next_datagram(),
            false => cut.id,
        };
        let offset = 8 * random.port(0, 14);
        // Small ones cut the header of what they are a piece of.
        let frame = match offset {
            0 if random.once_in(3) => frame.protocol(6).payload_len(8 * random.below(3)),
            0 => frame.payload_len(8 * random.below(4)),
            _ => frame.payload_len(1 + random.below(40)),
        };
        let piece = frame.fragment(id, offset, random.once_in(2));
        self.push_noise(link, side, piece.build());
    }

    /// Many pieces of datagrams of which nothing else comes.
    fn flood_pieces(&mut self, random: &mut Random) {
        let link = random.below(self.links);
        let is_v6 = random.once_in(3);
        let target = address(&host(link, random.below(HOSTS))[usize::from(is_v6)]);
        let offset = *random.pick(&[0, 64]);
        for _ in 0..random.below(400) {
            let frame = build::between(stranger(random, is_v6), target).udp(40_000, 53);
            let frame = frame.payload_len(24);
            let id = match random.once_in(8) {
                true => self.datagrams,
                false => self.next_datagram(),
            };
            let piece = frame.fragment(id, offset, true);
            self.push_noise(link, PortSide::Outside, piece.build());
        }
    }

    /// Many openings of one kind.
    fn flood(&mut self, random: &mut Random) {
        let link = random.below(self.links);
        let target = address(&host(link, random.below(HOSTS))[0]);
        let is_tcp = random.once_in(2);
        for _ in 0..random.below(200) {
            let frame = build::between(stranger(random, false), target);
            let port = random.port(1024, 60_000);
            let frame = match is_tcp {
                true => frame.tcp(port, 80).syn().sequence(random.number(u32::MAX)),
                false => frame.udp(port, 53),
            };
            self.push_noise(link, PortSide::Outside, frame.build());
        }
    }
}

fn unregistered(random: &mut Random, link: usize) -> FrameBuilder {
    let nobody = address(&format!("10.0.{link}.{}", 100 + random.below(100)));
    let other = address(&host(link, random.below(HOSTS))[0]);
    let frame = match random.below(4) {
        0 => build::between(nobody, stranger(random, false)),
        1 => build::between(stranger(random, false), nobody),
        2 => build::between(other, address("224.0.0.251")),
        _ => build::between(nobody, other),
    };
    frame.udp(random.port(5000, 500), 53)
}

/// Frames that are never filtered, or look like it.
fn exempt(random: &mut Random, link: usize) -> FrameBuilder {
    let [v4, v6] = host(link, random.below(HOSTS));
    match random.below(8) {
        0 => build::arp(1, &v4, "10.0.0.99"),
        1 => build::arp(2, &v4, "10.0.0.99"),
        2 => build::arp(2, "10.0.9.9", &v4),
        3 => build::dhcp_client(1),
        4 => build::dhcp_server(2, "10.0.0.254"),
        5 => build::v6(&v6, "ff02::1").neighbor(136, &v6),
        6 => build::v6("fe80::1", "ff02::1").neighbor(133 + random.byte() % 5, "2001:db8::77"),
        _ => build::ethernet(0x88cc, &[0; 46]),
    }
}
